//! Applies a batch to the tables. Everything that the store promises of its content is checked
//! here, before the transaction is committed: a batch that breaks it is refused whole.

use bytes::Bytes;

use super::logic::{self, name, unseal_pair};
use super::records::{
    self, BlockEntry, height_key, key_height, next_height, put_bytes, put_height,
};
use super::tables::{Log, Table, WriteTables};
use super::values::ValueLog;
use super::{AppWrite, Batch, BlockRecord, Span, StoreError, hashes, results};
use crate::chain::{ChainState, ConsensusParams, ValidatorSet};
use crate::ids::{Hash, Height};

/// Heights that one commit prunes at least, however few blocks it brings, when that number is due.
pub const PRUNE_STEP: u64 = 256;

/// Writes a record with its checksum.
pub(super) fn put(
    t: &mut impl WriteTables,
    table: Table,
    key: &[u8],
    pieces: [&[u8]; 3],
) -> Result<(), StoreError> {
    let seal = records::checksum(table, key, &pieces);
    t.put(table, key, &[&seal, pieces[0], pieces[1], pieces[2]])
}

/// Writes a record whose body is one piece.
pub(super) fn put_one(
    t: &mut impl WriteTables,
    table: Table,
    key: &[u8],
    body: &[u8],
) -> Result<(), StoreError> {
    put(t, table, key, [body, &[], &[]])
}

/// A batch that breaks the store's contract: the caller's mistake, not the disk's.
fn refuse(why: String) -> StoreError {
    StoreError::Failed {
        doing: "checking what is to be stored".to_owned(),
        why,
    }
}

/// Does all that a batch asks for.
pub(super) fn apply(t: &mut impl WriteTables, batch: &Batch) -> Result<(), StoreError> {
    let before = logic::span(t)?;
    let mut span = before;
    // Blocks come first: the state may be the one after the last of them.
    for block in &batch.blocks {
        append(t, &mut span, block)?;
    }
    if let Some((height, commit)) = &batch.seen_commit {
        put_with_height(t, name::SEEN, *height, commit)?;
    }
    for (height, set) in &batch.validators {
        put_set(t, *height, set)?;
    }
    for (height, params) in &batch.params {
        record_params(t, *height, params)?;
    }
    if let Some(state) = &batch.state {
        write_state(t, &mut span, state)?;
    }
    if let Some((height, results)) = &batch.results {
        put_with_height(t, name::RESULTS, *height, results)?;
    }
    for (height, response) in &batch.kept_results {
        results::keep(t, *height, response)?;
    }
    for (identity, height) in &batch.evidence {
        write_evidence(t, identity, *height)?;
    }
    write_app_batch(t, &batch.app)?;
    // Twice as many as come, so that pruning catches up with a sync however fast it is.
    let step = PRUNE_STEP.max(2 * batch.blocks.len() as u64);
    if let Some((retain, keep)) = batch.prune {
        prune(t, &mut span, retain, keep, step)?;
    }
    if batch.prune.is_some() || batch.prune_results.is_some() {
        let floor = span.base.max(batch.prune_results.unwrap_or_default());
        drop_below(t, Table::Results, floor, step)?;
        results::release(t)?;
    }
    // Once and last: blocks, state and pruning each move a part of it.
    if span != before {
        let mut body = Vec::with_capacity(24);
        for height in [span.base, span.stored, span.applied] {
            put_height(&mut body, height);
        }
        put_one(t, Table::Meta, name::SPAN, &body)?;
    }
    let none = Bytes::new();
    let ahead = batch.ahead.iter().map(|block| bodies_of(block, &none));
    t.append_ahead(Log::Blocks, &ahead.collect::<Vec<_>>())
}

/// A block's bytes as they are appended.
fn bodies_of<'a>(block: &'a BlockRecord, none: &'a Bytes) -> [&'a Bytes; 2] {
    [&block.raw, block.ext_raw.as_ref().unwrap_or(none)]
}

/// A block goes right above the last one, or first into an empty store.
fn append(
    t: &mut impl WriteTables,
    span: &mut Span,
    block: &BlockRecord,
) -> Result<(), StoreError> {
    let height = block.height;
    let expected = match (span.stored, span.applied) {
        (Height::ZERO, Height::ZERO) => height,
        // A state without blocks: what an import or a state sync leaves behind.
        (Height::ZERO, applied) => applied.next(),
        (stored, _) => stored.next(),
    };
    if height != expected || height == Height::ZERO {
        return Err(refuse(format!(
            "block {height} where {expected} is due: the store holds {} to {}, the state is that of {}",
            span.base, span.stored, span.applied
        )));
    }
    let mut entry = BlockEntry::of(block)
        .ok_or_else(|| refuse(format!("block {height} has {} bytes", block.raw.len())))?;
    let none = Bytes::new();
    entry.place = t.append_body(Log::Blocks, bodies_of(block, &none))?;
    put_one(t, Table::Blocks, &height_key(height), &entry.encode())?;
    if let Some(hash) = &block.id.hash {
        hashes::note(t, height, hash)?;
    }
    if span.base == Height::ZERO {
        span.base = height;
    }
    span.stored = height;
    Ok(())
}

fn put_with_height(
    t: &mut impl WriteTables,
    name: &'static [u8],
    height: Height,
    bytes: &[u8],
) -> Result<(), StoreError> {
    let mut body = Vec::with_capacity(12 + bytes.len());
    put_height(&mut body, height);
    put_bytes(&mut body, bytes);
    put_one(t, Table::Meta, name, &body)
}

/// Records a set for its height, unless it has been in force since an earlier one.
fn record_set(
    t: &mut impl WriteTables,
    height: Height,
    set: &ValidatorSet,
) -> Result<(), StoreError> {
    let key = height_key(height);
    if let Some(pair) = t.at_or_below(Table::Sets, &key)? {
        let (at, body) = unseal_pair(Table::Sets, pair)?;
        let hash = records::set_hash(body).ok_or_else(|| records::malformed(Table::Sets, at))?;
        // A set is written where it changes; heights between find it from below.
        if hash == set.hash() {
            return Ok(());
        }
    }
    put_set(t, height, set)
}

/// Records a set for its height, with its priorities of that height, also when its members are
/// those of the record before.
fn put_set(t: &mut impl WriteTables, height: Height, set: &ValidatorSet) -> Result<(), StoreError> {
    put_one(
        t,
        Table::Sets,
        &height_key(height),
        &records::encode_set(set),
    )
}

/// Records params for their height, unless they have been in force since an earlier one.
fn record_params(
    t: &mut impl WriteTables,
    height: Height,
    params: &ConsensusParams,
) -> Result<(), StoreError> {
    let key = height_key(height);
    let body = records::encode_params(params);
    if let Some(pair) = t.at_or_below(Table::Params, &key)?
        && unseal_pair(Table::Params, pair)?.1 == body
    {
        return Ok(());
    }
    put_one(t, Table::Params, &key, &body)
}

/// Writes the state with the sets and params that it names.
fn write_state(
    t: &mut impl WriteTables,
    span: &mut Span,
    state: &ChainState,
) -> Result<(), StoreError> {
    let last = state.last_height;
    if span.stored != Height::ZERO && last > span.stored {
        return Err(refuse(format!(
            "the state of height {last} while the last block stored is {}",
            span.stored
        )));
    }
    let next = next_height(last, state.initial_height);
    if let Some(previous) = logic::state_body(t)? {
        if previous.chain_id != state.chain_id {
            return Err(StoreError::Foreign(format!(
                "the store holds chain {}, the state is of chain {}",
                String::from_utf8_lossy(previous.chain_id),
                String::from_utf8_lossy(&state.chain_id)
            )));
        }
        if last < previous.last_height {
            // Records of the heights that are taken back are gone.
            delete_above(t, Table::Sets, next.next())?;
            delete_above(t, Table::Params, next)?;
        }
    }
    if let Some(set) = &state.last_validators {
        record_set(t, last, set)?;
    }
    record_set(t, next, &state.validators)?;
    record_set(t, next.next(), &state.next_validators)?;
    // Params in force since a height below what is stored here (after a state sync) are known from
    // that height all the same.
    record_params(t, state.last_height_params_changed.min(next), &state.params)?;
    put_one(t, Table::Meta, name::STATE, &records::encode_state(state))?;
    span.applied = last;
    Ok(())
}

fn delete_above(t: &mut impl WriteTables, table: Table, height: Height) -> Result<(), StoreError> {
    let from = height_key(height.next());
    while let Some((key, _)) = t.at_or_above(table, &from)? {
        let key = key.to_vec();
        t.delete(table, &key)?;
    }
    Ok(())
}

fn write_evidence(
    t: &mut impl WriteTables,
    identity: &Hash,
    height: Height,
) -> Result<(), StoreError> {
    let by_height = evidence_key(height, identity);
    put_one(t, Table::Evidence, &identity.0, &height_key(height))?;
    put_one(t, Table::EvidenceByHeight, &by_height, &[])
}

fn evidence_key(height: Height, identity: &Hash) -> [u8; 40] {
    let mut key = [0; 40];
    key[..8].copy_from_slice(&height_key(height));
    key[8..].copy_from_slice(&identity.0);
    key
}

/// In the order of their keys, so that neighbours go into pages that are at hand; of several writes
/// to a key only the last counts.
fn write_app_batch(t: &mut impl WriteTables, writes: &[AppWrite]) -> Result<(), StoreError> {
    if writes.is_empty() {
        return Ok(());
    }
    let mut sorted: Vec<&AppWrite> = writes.iter().collect();
    sorted.sort_by(|a, b| a.0.cmp(&b.0)); // stable: writes to one key stay in their order
    let mut log = ValueLog::begin(t)?;
    for same_key in sorted.chunk_by(|a, b| a.0 == b.0) {
        if let Some((key, value)) = same_key.last() {
            if logic::is_plain(key) {
                log.write(t, Table::App, key, &[], value.as_ref())?;
            } else {
                let mut whole = Vec::with_capacity(4 + key.len());
                put_bytes(&mut whole, key);
                log.write(
                    t,
                    Table::AppLong,
                    &logic::long_key(key),
                    &whole,
                    value.as_ref(),
                )?;
            }
        }
    }
    log.end(t)
}

/// Drops blocks below `retain`, at most `step` heights of them, and what nobody needs below `keep`.
/// The last applied block always stays.
fn prune(
    t: &mut impl WriteTables,
    span: &mut Span,
    retain: Height,
    keep: Height,
    step: u64,
) -> Result<(), StoreError> {
    if span.base == Height::ZERO || span.applied == Height::ZERO {
        return Ok(());
    }
    let to = retain.min(span.applied).min(span.base.plus(step));
    while span.base < to {
        prune_block(t, span.base, span.base >= keep)?;
        span.base = span.base.next();
    }
    // The damaged entry of a block does not stop pruning; then its file waits for the next one's.
    if let Ok(Some(entry)) = logic::entry(t, span.base) {
        t.keep_bodies_from(Log::Blocks, entry.place);
    }
    drop_below(t, Table::Light, keep, step)?;
    drop_evidence_below(t, keep, step)?;
    // Of these, the last one below is still in force at the floor.
    let floor = keep.min(span.base);
    drop_superseded(t, Table::Sets, floor, step)?;
    drop_superseded(t, Table::Params, floor, step)
}

fn prune_block(
    t: &mut impl WriteTables,
    height: Height,
    keep_light: bool,
) -> Result<(), StoreError> {
    let key = height_key(height);
    if let Ok(Some(entry)) = logic::entry(t, height)
        && let Some(hash) = &entry.id.hash
    {
        hashes::forget(t, height, hash)?;
    }
    if keep_light {
        match logic::block(t, height) {
            // A corrupt block is no reason to stop pruning: it goes, and leaves nothing behind.
            Err(StoreError::Corrupt(_)) | Ok(None) => {}
            Err(why) => return Err(why),
            Ok(Some(block)) => {
                if let Ok((header, last_commit)) = logic::light_of(&block.raw, height) {
                    let light = records::LightBody {
                        id: block.id,
                        header: &header,
                        last_commit: &last_commit,
                    };
                    put_one(t, Table::Light, &key, &light.encode())?;
                }
            }
        }
    }
    t.delete(Table::Blocks, &key)
}

/// Deletes the records of heights below `height`, at most `step` of them.
fn drop_below(
    t: &mut impl WriteTables,
    table: Table,
    height: Height,
    step: u64,
) -> Result<(), StoreError> {
    for _ in 0..step {
        // From the least key: LMDB takes no empty one.
        let Some((key, _)) = t.at_or_above(table, &[0])? else {
            break;
        };
        if key >= &height_key(height)[..] {
            break;
        }
        let key = key.to_vec();
        t.delete(table, &key)?;
    }
    Ok(())
}

fn drop_evidence_below(
    t: &mut impl WriteTables,
    height: Height,
    step: u64,
) -> Result<(), StoreError> {
    for _ in 0..step {
        let Some((key, _)) = t.at_or_above(Table::EvidenceByHeight, &[0])? else {
            break;
        };
        if key_height(key).is_none_or(|of| of >= height) {
            break;
        }
        let key = key.to_vec();
        t.delete(Table::Evidence, key.get(8..).unwrap_or_default())?;
        t.delete(Table::EvidenceByHeight, &key)?;
    }
    Ok(())
}

/// Deletes records that another one, at or below `floor`, has replaced; at most `step` of them.
fn drop_superseded(
    t: &mut impl WriteTables,
    table: Table,
    floor: Height,
    step: u64,
) -> Result<(), StoreError> {
    let Some((last, _)) = t.at_or_below(table, &height_key(floor))? else {
        return Ok(());
    };
    let Some(last) = key_height(last) else {
        return Ok(());
    };
    drop_below(t, table, last, step)
}

/// Notes the version of the records, or compares it with the one noted.
#[cfg(feature = "lmdb")]
pub(super) fn check_schema(t: &mut impl WriteTables, version: u32) -> Result<(), StoreError> {
    match logic::read(t, Table::Meta, name::SCHEMA)? {
        None => put_one(t, Table::Meta, name::SCHEMA, &version.to_le_bytes()),
        Some(found) => compare_schema(Some(found), version),
    }
}

/// Refuses a store written by another version of this program.
#[cfg(feature = "lmdb")]
pub(super) fn compare_schema(found: Option<&[u8]>, version: u32) -> Result<(), StoreError> {
    let found = found
        .and_then(|v| v.try_into().ok())
        .map(u32::from_le_bytes);
    if found == Some(version) {
        return Ok(());
    }
    let found = found.map_or_else(|| "no version".to_owned(), |v| format!("version {v}"));
    Err(StoreError::Foreign(format!(
        "the store has {found} of its records, this program writes version {version}: use the program that wrote it, or sync anew"
    )))
}
