//! Logic of the store over the tables of any database. Reading is here, writing in `write`.

use std::sync::Arc;

use bytes::Bytes;

use super::records::{
    self, BlockEntry, Fields, LightBody, StateBody, height_key, malformed, next_height,
};
use super::tables::{Log, Pair, ReadTables, Table};
use super::{BlockRecord, Span, StoreError};
use super::{scan, values};
use crate::chain::{ChainState, ConsensusParams, Header, ValidatorSet};
use crate::ids::{BlockId, Hash, Height};
use crate::wire::{WireError, decode};

/// Names in the table `Meta`.
pub(super) mod name {
    pub(in crate::store) const SPAN: &[u8] = b"span";
    pub(in crate::store) const STATE: &[u8] = b"state";
    pub(in crate::store) const RESULTS: &[u8] = b"results";
    pub(in crate::store) const SEEN: &[u8] = b"seen_commit";
    #[cfg(feature = "lmdb")]
    pub(in crate::store) const SCHEMA: &[u8] = b"schema";
    #[cfg(feature = "lmdb")]
    pub(in crate::store) const CHAIN: &[u8] = b"chain";
    pub(in crate::store) const VALUES: &[u8] = b"values";
}

/// Fields of `tendermint.types.Block`.
const BLOCK_HEADER: u64 = 1;
const BLOCK_LAST_COMMIT: u64 = 4;

/// The longest application key that goes into the table as it is; LMDB takes up to 511 bytes.
pub(super) const MAX_PLAIN_KEY: usize = 500;
/// Bytes of a longer key that stand before its hash.
pub(super) const LONG_KEY_HEAD: usize = 400;
/// The longest key in the database.
pub(super) const MAX_STORED_KEY: usize = 500;

/// Bytes of blocks that are read in one piece; a longer block is read alone.
const READ_AT_ONCE: usize = 1 << 20;

/// A record's body, its checksum verified.
pub(super) fn read<'a>(
    t: &'a impl ReadTables,
    table: Table,
    key: &[u8],
) -> Result<Option<&'a [u8]>, StoreError> {
    t.get(table, key)?
        .map(|value| records::unseal(table, key, value))
        .transpose()
}

/// A record's body out of a pair that was found.
pub(super) fn unseal_pair<'a>(
    table: Table,
    (key, value): Pair<'a>,
) -> Result<(&'a [u8], &'a [u8]), StoreError> {
    Ok((key, records::unseal(table, key, value)?))
}

/// A record that is there decoded, or the word that it cannot be.
fn decoded<T>(table: Table, key: &[u8], value: Option<T>) -> Result<T, StoreError> {
    value.ok_or_else(|| malformed(table, key))
}

pub(super) fn span(t: &impl ReadTables) -> Result<Span, StoreError> {
    let Some(body) = read(t, Table::Meta, name::SPAN)? else {
        return Ok(Span::default());
    };
    let mut f = Fields::of(body);
    let mut fields = || {
        Some(Span {
            base: f.height()?,
            stored: f.height()?,
            applied: f.height()?,
        })
    };
    let span = fields();
    decoded(Table::Meta, name::SPAN, span.and_then(|span| f.end(span)))
}

/// Where a block lies. One that is not there although it lies between base and top is corruption,
/// not absence.
pub(super) fn entry(t: &impl ReadTables, height: Height) -> Result<Option<BlockEntry>, StoreError> {
    let key = height_key(height);
    if let Some(body) = read(t, Table::Blocks, &key)? {
        return decoded(Table::Blocks, &key, BlockEntry::read(body)).map(Some);
    }
    let span = span(t)?;
    // A hole inside the span is damage and not "never had it": served as the latter, nobody would
    // notice.
    if span.base != Height::ZERO && (span.base..=span.stored).contains(&height) {
        return Err(StoreError::Corrupt(format!(
            "block {height}: it is missing, but the store holds {} to {}",
            span.base, span.stored
        )));
    }
    Ok(None)
}

pub(super) fn block(
    t: &impl ReadTables,
    height: Height,
) -> Result<Option<BlockRecord>, StoreError> {
    let Some(entry) = entry(t, height)? else {
        return Ok(None);
    };
    let body = t.body(Log::Blocks, entry.place, entry.len());
    entry.record(height, &named(height, body)?).map(Some)
}

/// Says which block it is whose body is not there.
pub(super) fn named<T>(height: Height, result: Result<T, StoreError>) -> Result<T, StoreError> {
    result.map_err(|why| match why {
        StoreError::Corrupt(why) => StoreError::Corrupt(format!("block {height}: {why}")),
        why => why,
    })
}

pub(super) fn blocks(
    t: &impl ReadTables,
    from: Height,
    count: u32,
    max_bytes: usize,
) -> Result<Vec<BlockRecord>, StoreError> {
    let mut out: Vec<BlockRecord> = Vec::new();
    let mut total = 0;
    let mut height = from;
    // Neighbours lie one after another in the file, so a run of them is one read.
    let mut at_once = READ_AT_ONCE;
    // One block at least, however large: a caller that gets none takes the height for missing.
    while out.len() < count as usize && (out.is_empty() || total < max_bytes) {
        let most = count as usize - out.len();
        let left = max_bytes.saturating_sub(total).min(at_once);
        let run = match run(|height| entry(t, height), height, most, left) {
            // The sound blocks before the damage are returned; the caller comes back for the rest
            // and then gets the error.
            Err(StoreError::Corrupt(_)) if !out.is_empty() => break,
            other => other?,
        };
        let Some((first, last)) = run.first().zip(run.last()) else {
            break;
        };
        let len = last.end().offset - first.place.offset;
        let len = usize::try_from(len).unwrap_or(0);
        let body = match named(height, t.body(Log::Blocks, first.place, len)) {
            // The file ends within the run: what lies before may be read one by one.
            Err(StoreError::Corrupt(_)) if run.len() > 1 => {
                at_once = 0;
                continue;
            }
            Err(StoreError::Corrupt(_)) if !out.is_empty() => break,
            other => other?,
        };
        let mut rest = body;
        for entry in &run {
            let body = rest.split_to(entry.len());
            match entry.record(height, &body) {
                Err(StoreError::Corrupt(_)) if !out.is_empty() => return Ok(out),
                record => out.push(record?),
            }
            total += body.len();
            if height == Height::MAX {
                return Ok(out);
            }
            height = height.next();
        }
    }
    Ok(out)
}

/// Blocks from `height` up whose bodies adjoin: at most `most`, and no further one once `bytes` are
/// reached.
pub(super) fn run(
    entry: impl Fn(Height) -> Result<Option<BlockEntry>, StoreError>,
    height: Height,
    most: usize,
    bytes: usize,
) -> Result<Vec<BlockEntry>, StoreError> {
    let mut run: Vec<BlockEntry> = Vec::new();
    let (mut total, mut height) = (0, height);
    while run.len() < most && (run.is_empty() || total < bytes) {
        let entry = match entry(height) {
            Ok(Some(entry)) => entry,
            Ok(None) => break,
            Err(StoreError::Corrupt(_)) if !run.is_empty() => break,
            Err(why) => return Err(why),
        };
        // A file has ended here, or a rollback has left a gap: the next run begins with this one.
        if run.last().is_some_and(|last| last.end() != entry.place) {
            break;
        }
        total += entry.len();
        run.push(entry);
        // `next` would stay at the largest height, and the loop with it.
        if height == Height::MAX {
            break;
        }
        height = height.next();
    }
    Ok(run)
}

/// The light record of a pruned block within evidence age.
fn light(t: &impl ReadTables, height: Height) -> Result<Option<LightBody<'_>>, StoreError> {
    let key = height_key(height);
    let Some(body) = read(t, Table::Light, &key)? else {
        return Ok(None);
    };
    decoded(Table::Light, &key, LightBody::read(body)).map(Some)
}

/// The parts of a block that pruning keeps: its header and the commit that it carries.
pub(super) fn light_of(raw: &[u8], height: Height) -> Result<(Vec<u8>, Vec<u8>), StoreError> {
    let parts = || {
        let header = scan::sub_message(raw, BLOCK_HEADER)?;
        Some((header, scan::sub_message(raw, BLOCK_LAST_COMMIT)?))
    };
    decoded(Table::Blocks, &height_key(height), parts())
}

pub(super) fn header(
    t: &impl ReadTables,
    height: Height,
) -> Result<Option<(Header, BlockId)>, StoreError> {
    let unreadable = |why: WireError| StoreError::Corrupt(format!("header {height}: {why}"));
    // The block comes first: a light record beside it is older and only a part of it.
    if let Some(block) = block(t, height)? {
        let header = decode::header_of_block(&block.raw).map_err(unreadable)?;
        return Ok(Some((header, block.id)));
    }
    let Some(light) = light(t, height)? else {
        return Ok(None);
    };
    let header = decode::header_from_bytes(light.header).map_err(unreadable)?;
    Ok(Some((header, light.id)))
}

pub(super) fn commit_for(t: &impl ReadTables, height: Height) -> Result<Option<Bytes>, StoreError> {
    if height == Height::MAX {
        return Ok(None);
    }
    let above = height.next();
    let commit = if let Some(block) = block(t, above)? {
        let commit = scan::sub_message(&block.raw, BLOCK_LAST_COMMIT);
        decoded(Table::Blocks, &height_key(above), commit)?
    } else if let Some(light) = light(t, above)? {
        light.last_commit.to_vec()
    } else {
        // Of the highest block nothing above carries a commit yet.
        return seen_commit(t, height);
    };
    // A chain's first block carries an empty commit, for no height.
    match scan::commit_height(&commit) {
        Some(found) if found == height.get() => Ok(Some(commit.into())),
        Some(0) => Ok(None),
        found => Err(StoreError::Corrupt(format!(
            "block {above} carries a commit for height {}, not {height}",
            found.map_or_else(|| "that cannot be read".to_owned(), |h| h.to_string())
        ))),
    }
}

/// A record of `Meta` that is a height and bytes.
fn height_and_bytes(
    t: &impl ReadTables,
    name: &'static [u8],
) -> Result<Option<(Height, Bytes)>, StoreError> {
    let Some(body) = read(t, Table::Meta, name)? else {
        return Ok(None);
    };
    let mut f = Fields::of(body);
    let found = (|| Some((f.height()?, Bytes::copy_from_slice(f.bytes()?))))();
    decoded(Table::Meta, name, found.and_then(|found| f.end(found))).map(Some)
}

pub(super) fn seen_commit(
    t: &impl ReadTables,
    height: Height,
) -> Result<Option<Bytes>, StoreError> {
    let seen = height_and_bytes(t, name::SEEN)?;
    // Only one is kept, that of the last block that had one.
    Ok(seen.filter(|(of, _)| *of == height).map(|(_, bytes)| bytes))
}

pub(super) fn results(t: &impl ReadTables) -> Result<Option<(Height, Bytes)>, StoreError> {
    height_and_bytes(t, name::RESULTS)
}

/// The set recorded for a height or, when it was in force before, for an earlier one; with the
/// height of its record.
pub(super) fn recorded_set(
    t: &impl ReadTables,
    height: Height,
) -> Result<Option<(Height, ValidatorSet)>, StoreError> {
    let Some(pair) = t.at_or_below(Table::Sets, &height_key(height))? else {
        return Ok(None);
    };
    let (key, body) = unseal_pair(Table::Sets, pair)?;
    let set = records::read_set(body).zip(records::key_height(key));
    let (set, from) = decoded(Table::Sets, key, set)?;
    Ok(Some((from, set)))
}

pub(super) fn recorded_validators(
    t: &impl ReadTables,
    height: Height,
) -> Result<Option<(Height, Arc<ValidatorSet>)>, StoreError> {
    // Sets are recorded where they change, so the search below finds one for any height above, and
    // would promise it for heights that nobody knows yet.
    if height > last_known_set(t)? {
        return Ok(None);
    }
    Ok(recorded_set(t, height)?.map(|(from, set)| (from, Arc::new(set))))
}

/// The highest height whose set is known: the one after the next block's.
fn last_known_set(t: &impl ReadTables) -> Result<Height, StoreError> {
    Ok(state_body(t)?.map_or(Height::ZERO, |state| {
        next_height(state.last_height, state.initial_height).next()
    }))
}

pub(super) fn validators(
    t: &impl ReadTables,
    height: Height,
) -> Result<Option<Arc<ValidatorSet>>, StoreError> {
    Ok(recorded_validators(t, height)?.map(|(_, set)| set))
}

pub(super) fn params(
    t: &impl ReadTables,
    height: Height,
) -> Result<Option<ConsensusParams>, StoreError> {
    let known = state_body(t)?.map(|s| next_height(s.last_height, s.initial_height));
    // As for sets, the search below would promise them for any height above.
    if known.is_none_or(|known| height > known) {
        return Ok(None);
    }
    let Some(pair) = t.at_or_below(Table::Params, &height_key(height))? else {
        return Ok(None);
    };
    let (key, body) = unseal_pair(Table::Params, pair)?;
    decoded(Table::Params, key, records::read_params(body)).map(Some)
}

pub(super) fn state_body(t: &impl ReadTables) -> Result<Option<StateBody<'_>>, StoreError> {
    let Some(body) = read(t, Table::Meta, name::STATE)? else {
        return Ok(None);
    };
    decoded(Table::Meta, name::STATE, StateBody::read(body)).map(Some)
}

pub(super) fn state(t: &impl ReadTables) -> Result<Option<ChainState>, StoreError> {
    let Some(body) = state_body(t)? else {
        return Ok(None);
    };
    // The state keeps only the priorities of its sets. Members and powers are those of the record
    // for the height, which a hundred thousand heights may share.
    let set = |stored: records::StateSet, height: Height| {
        let recorded = recorded_set(t, height)?.map(|(_, set)| set);
        let set = recorded.and_then(|recorded| stored.on(&recorded));
        set.map(Arc::new).ok_or_else(|| {
            StoreError::Corrupt(format!(
                "the chain state of height {}: the set that it names for height {height} is not there",
                body.last_height
            ))
        })
    };
    let next = next_height(body.last_height, body.initial_height);
    let last_validators = match body.last_validators {
        Some(stored) => Some(set(stored, body.last_height)?),
        None => None,
    };
    Ok(Some(ChainState {
        chain_id: Bytes::copy_from_slice(body.chain_id),
        initial_height: body.initial_height,
        last_height: body.last_height,
        last_block_id: body.last_block_id,
        last_block_time: body.last_block_time,
        last_validators,
        validators: set(body.validators, next)?,
        next_validators: set(body.next_validators, next.next())?,
        last_height_validators_changed: body.last_height_validators_changed,
        params: body.params,
        last_height_params_changed: body.last_height_params_changed,
        version_app: body.version_app,
        last_results_hash: body.last_results_hash,
        app_hash: Bytes::copy_from_slice(body.app_hash),
    }))
}

pub(super) fn has_evidence(t: &impl ReadTables, identity: &Hash) -> Result<bool, StoreError> {
    Ok(read(t, Table::Evidence, &identity.0)?.is_some())
}

/// Bytes before the value in a record of `AppLong`.
pub(super) fn long_prefix<'a>(key: &[u8], body: &'a [u8]) -> Result<&'a [u8], StoreError> {
    let stored = long_pair(key, body)?.1;
    Ok(&body[..body.len() - stored.len()])
}

/// The key of an application's pair that the table cannot hold as it is.
pub(super) fn long_key(key: &[u8]) -> Vec<u8> {
    use sha2::Digest;
    let head = &key[..key.len().min(LONG_KEY_HEAD)];
    // The head keeps scans by prefix possible; the hash keeps keys of one head apart.
    [head, &sha2::Sha256::digest(key)].concat()
}

/// Whether an application's key goes into the table as it is.
pub(super) fn is_plain(key: &[u8]) -> bool {
    (1..=MAX_PLAIN_KEY).contains(&key.len())
}

/// The application's key in a record of `AppLong`, and its value as it is stored.
fn long_pair<'a>(key: &[u8], body: &'a [u8]) -> Result<Pair<'a>, StoreError> {
    let mut f = Fields::of(body);
    let long = f.bytes();
    decoded(Table::AppLong, key, long.map(|long| (long, f.rest())))
}

pub(super) fn app_get(t: &impl ReadTables, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
    if is_plain(key) {
        let stored = read(t, Table::App, key)?;
        return stored
            .map(|stored| values::load(t, Table::App, key, stored))
            .transpose();
    }
    let long = long_key(key);
    let Some(body) = read(t, Table::AppLong, &long)? else {
        return Ok(None);
    };
    let stored = long_pair(&long, body)?.1;
    values::load(t, Table::AppLong, &long, stored).map(Some)
}

pub(super) fn app_scan(
    t: &impl ReadTables,
    prefix: &[u8],
) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
    let mut out = Vec::new();
    for pair in t.scan(Table::App, prefix)? {
        let (key, stored) = unseal_pair(Table::App, pair)?;
        let value = values::load(t, Table::App, key, stored)?;
        out.push((Bytes::copy_from_slice(key), value));
    }
    let plain = out.len();
    // A longer prefix is not in the stored keys as a whole: these end with a hash.
    // A scan for a longer prefix reads what has its head, and compares the whole key below.
    let head = &prefix[..prefix.len().min(LONG_KEY_HEAD)];
    for pair in t.scan(Table::AppLong, head)? {
        let (long, body) = unseal_pair(Table::AppLong, pair)?;
        let (key, stored) = long_pair(long, body)?;
        if key.starts_with(prefix) {
            let value = values::load(t, Table::AppLong, long, stored)?;
            out.push((Bytes::copy_from_slice(key), value));
        }
    }
    // Long keys come apart from the others, and beyond their heads in the order of hashes.
    if out.len() > plain {
        out.sort();
    }
    Ok(out)
}
