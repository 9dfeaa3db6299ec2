//! The stored records: what is in them and the checksum over them.
//!
//! Every value is a CRC-32 and a body. The checksum covers the table and the key too, so that a
//! record which turns up in another place is as wrong as one with a flipped bit. Numbers are
//! little-endian, but in keys, where order counts.

use bytes::Bytes;

use super::tables::{Place, Table};
use super::{BlockRecord, StoreError};
use crate::chain::key::KeyType;
use crate::chain::{ChainState, ConsensusParams, PublicKey, Time, Validator, ValidatorSet};
use crate::ids::{BlockId, Hash, Height, PartSetHeader};

/// Bytes of the checksum before every body.
pub(super) const SEAL: usize = 4;

/// The checksum of a body given in pieces.
pub(super) fn checksum(table: Table, key: &[u8], pieces: &[&[u8]]) -> [u8; SEAL] {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&[table as u8]);
    crc.update(key);
    for piece in pieces {
        crc.update(piece);
    }
    crc.finalize().to_le_bytes()
}

/// The body of a value whose checksum is right.
pub(super) fn unseal<'a>(
    table: Table,
    key: &[u8],
    value: &'a [u8],
) -> Result<&'a [u8], StoreError> {
    let (found, body) = value
        .split_first_chunk::<SEAL>()
        .ok_or_else(|| malformed(table, key))?;
    let computed = checksum(table, key, &[body]);
    if *found != computed {
        return Err(StoreError::Corrupt(format!(
            "{}: its checksum says {:08x}, its {} bytes give {:08x}",
            table.describe(key),
            u32::from_le_bytes(*found),
            body.len(),
            u32::from_le_bytes(computed)
        )));
    }
    Ok(body)
}

/// A record whose checksum is right, or that has none, but which cannot be read.
pub(super) fn malformed(table: Table, key: &[u8]) -> StoreError {
    StoreError::Corrupt(format!("{}: it does not decode", table.describe(key)))
}

/// A height as a key.
pub(super) fn height_key(height: Height) -> [u8; 8] {
    height.get().to_be_bytes()
}

/// The height in the first 8 bytes of a key.
pub(super) fn key_height(key: &[u8]) -> Option<Height> {
    let bytes = key.first_chunk::<8>()?;
    Some(Height::new(u64::from_be_bytes(*bytes)))
}

/// Reads fields one after another.
pub(super) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn of(body: &'a [u8]) -> Self {
        Fields(body)
    }

    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(head)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*head)
    }

    pub(super) fn byte(&mut self) -> Option<u8> {
        self.array().map(|[b]| b)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_le_bytes)
    }

    pub(super) fn height(&mut self) -> Option<Height> {
        self.u64().map(Height::new)
    }

    pub(super) fn place(&mut self) -> Option<Place> {
        Some(Place {
            segment: self.u32()?,
            offset: self.u64()?,
        })
    }

    /// A byte string with its length before it.
    pub(super) fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = self.u32()?;
        self.take(len as usize)
    }

    /// A number of items that follow, each of `size` bytes at least: no more than there is room
    /// for.
    fn count(&mut self, size: usize) -> Option<usize> {
        let n = self.u32()? as usize;
        (n.checked_mul(size)? <= self.0.len()).then_some(n)
    }

    /// Whether nothing is left.
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes left.
    pub(super) fn rest(self) -> &'a [u8] {
        self.0
    }

    /// `value`, when nothing is left.
    pub(super) fn end<T>(self, value: T) -> Option<T> {
        self.is_empty().then_some(value)
    }
}

/// Appends a byte string with its length before it.
pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    let len = u32::try_from(bytes.len()).expect("a state's byte strings are far below 4 GiB");
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(bytes);
}

/// Appends a height.
pub(super) fn put_height(out: &mut Vec<u8>, height: Height) {
    out.extend_from_slice(&height.get().to_le_bytes());
}

/// Appends a place.
pub(super) fn put_place(out: &mut Vec<u8>, place: Place) {
    out.extend_from_slice(&place.segment.to_le_bytes());
    out.extend_from_slice(&place.offset.to_le_bytes());
}

/// Bytes of an id.
const ID: usize = 1 + 4 + 32 + 32;
/// The id's hash is there.
const HAS_HASH: u8 = 1;
/// The part set's hash is there.
const HAS_PARTS: u8 = 2;

fn encode_id(id: &BlockId) -> [u8; ID] {
    let mut out = [0; ID];
    out[1..5].copy_from_slice(&id.parts.total.to_le_bytes());
    if let Some(hash) = id.hash {
        out[0] |= HAS_HASH;
        out[5..37].copy_from_slice(&hash.0);
    }
    if let Some(hash) = id.parts.hash {
        out[0] |= HAS_PARTS;
        out[37..].copy_from_slice(&hash.0);
    }
    out
}

fn read_id(f: &mut Fields<'_>) -> Option<BlockId> {
    let flags = f.byte()?;
    let total = f.u32()?;
    let hash = Hash(f.array()?);
    let parts = Hash(f.array()?);
    // An unknown flag is damage: a newer layout would have another schema.
    (flags & !(HAS_HASH | HAS_PARTS) == 0).then(|| BlockId {
        hash: (flags & HAS_HASH != 0).then_some(hash),
        parts: PartSetHeader {
            total,
            hash: (flags & HAS_PARTS != 0).then_some(parts),
        },
    })
}

/// The database's record of a block: its id, where its body lies, how long the two parts of the
/// body are, and the body's checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BlockEntry {
    pub(super) id: BlockId,
    pub(super) place: Place,
    raw: u32,
    ext: Option<u32>,
    seal: [u8; SEAL],
}

impl BlockEntry {
    /// The entry of a block, whose place is not known yet. `None` when the block is too long to be
    /// stored.
    pub(super) fn of(block: &BlockRecord) -> Option<Self> {
        let len = |bytes: &Bytes| u32::try_from(bytes.len()).ok();
        let ext = block.ext_raw.as_ref();
        Some(BlockEntry {
            id: block.id,
            place: Place::default(),
            raw: len(&block.raw)?,
            ext: match ext {
                Some(ext) => Some(len(ext)?),
                None => None,
            },
            seal: body_seal(
                block.height,
                &[&block.raw, ext.map_or(&[][..], |ext| &ext[..])],
            ),
        })
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = encode_id(&self.id).to_vec();
        put_place(&mut out, self.place);
        out.extend_from_slice(&self.raw.to_le_bytes());
        out.push(u8::from(self.ext.is_some()));
        out.extend_from_slice(&self.ext.unwrap_or_default().to_le_bytes());
        out.extend_from_slice(&self.seal);
        out
    }

    pub(super) fn read(body: &[u8]) -> Option<Self> {
        let mut f = Fields::of(body);
        let entry = BlockEntry {
            id: read_id(&mut f)?,
            place: f.place()?,
            raw: f.u32()?,
            ext: match (f.byte()?, f.u32()?) {
                (0, 0) => None,
                (1, len) => Some(len),
                _ => return None,
            },
            seal: f.array()?,
        };
        f.end(entry)
    }

    /// Bytes of the block in the body, and of the extended commit behind it.
    #[cfg(feature = "lmdb")]
    pub(super) fn part_lens(&self) -> (usize, Option<usize>) {
        (self.raw as usize, self.ext.map(|ext| ext as usize))
    }

    /// Whether these parts have the right checksum together.
    #[cfg(feature = "lmdb")]
    pub(super) fn is_sealed(&self, height: Height, parts: &[&[u8]]) -> bool {
        body_seal(height, parts) == self.seal
    }

    /// Bytes of the body.
    pub(super) fn len(&self) -> usize {
        self.raw as usize + self.ext.unwrap_or_default() as usize
    }

    /// Where the body ends.
    pub(super) fn end(&self) -> Place {
        self.place.after(self.len())
    }

    /// The block, when its body has the right checksum.
    pub(super) fn record(&self, height: Height, body: &Bytes) -> Result<BlockRecord, StoreError> {
        // Over block and extended commit together, so neither can be exchanged alone.
        let computed = body_seal(height, &[body]);
        if computed != self.seal {
            return Err(StoreError::Corrupt(format!(
                "{}: its checksum says {:08x}, its {} bytes give {:08x}",
                Table::Blocks.describe(&height_key(height)),
                u32::from_le_bytes(self.seal),
                body.len(),
                u32::from_le_bytes(computed)
            )));
        }
        let raw = self.raw as usize;
        Ok(BlockRecord {
            height,
            id: self.id,
            // `entry.len()` bytes were read, so the slices are within the body.
            raw: body.slice(..raw),
            ext_raw: self.ext.map(|_| body.slice(raw..)),
        })
    }
}

/// The checksum over a block's body, and its height.
fn body_seal(height: Height, pieces: &[&[u8]]) -> [u8; SEAL] {
    checksum(Table::Blocks, &height_key(height), pieces)
}

/// Remains of a pruned block: id, encoded header, and the commit that it carries for the block
/// before.
pub(super) struct LightBody<'a> {
    pub(super) id: BlockId,
    pub(super) header: &'a [u8],
    pub(super) last_commit: &'a [u8],
}

impl<'a> LightBody<'a> {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = encode_id(&self.id).to_vec();
        put_bytes(&mut out, self.header);
        put_bytes(&mut out, self.last_commit);
        out
    }

    pub(super) fn read(body: &'a [u8]) -> Option<Self> {
        let mut f = Fields::of(body);
        let light = LightBody {
            id: read_id(&mut f)?,
            header: f.bytes()?,
            last_commit: f.bytes()?,
        };
        f.end(light)
    }
}

/// A set's members and the priorities that it had when it was recorded.
pub(super) fn encode_set(set: &ValidatorSet) -> Vec<u8> {
    let mut out = Vec::with_capacity(40 + set.len() * 50);
    // The hash is first, so that a change of the set shows without decoding members.
    out.extend_from_slice(&set.hash().0);
    put_priorities(&mut out, set);
    for v in set.iter() {
        out.push(v.key.key_type() as u8);
        out.extend_from_slice(v.key.as_bytes());
        out.extend_from_slice(&v.power.to_le_bytes());
    }
    out
}

/// The hash that a set's body begins with.
pub(super) fn set_hash(body: &[u8]) -> Option<Hash> {
    Some(Hash(*body.first_chunk()?))
}

/// A set, whose members must give the hash that it was stored under.
pub(super) fn read_set(body: &[u8]) -> Option<ValidatorSet> {
    let mut f = Fields::of(body);
    let hash = Hash(f.array()?);
    let priorities = read_priorities(&mut f)?;
    // `count` has made sure that this many members fit into the record.
    let mut members = Vec::with_capacity(priorities.each.len());
    for _ in 0..priorities.each.len() {
        let kind = KeyType::from_field(f.byte()?)?;
        let key = PublicKey::new(kind, f.take(kind.key_len())?).ok()?;
        members.push(Validator::new(key, f.i64()?));
    }
    let set = priorities.on(f.end(members)?)?;
    (set.hash() == hash).then_some(set)
}

/// Fields of a set besides its members.
struct Priorities {
    each: Vec<i64>,
    proposer: usize,
}

impl Priorities {
    fn on(self, members: Vec<Validator>) -> Option<ValidatorSet> {
        let set = ValidatorSet::from_stored(members, self.each).ok()?;
        Some(set.with_proposer(self.proposer))
    }
}

fn put_priorities(out: &mut Vec<u8>, set: &ValidatorSet) {
    let count = u32::try_from(set.len()).expect("a validator set has fewer than 2^32 members");
    let proposer = set.proposer().and_then(|p| set.by_address(&p.address));
    // An empty set has no proposer; its index is never used.
    let proposer = proposer.map_or(0, |(index, _)| index as u64);
    out.extend_from_slice(&proposer.to_le_bytes());
    out.extend_from_slice(&count.to_le_bytes());
    for priority in set.priorities() {
        out.extend_from_slice(&priority.to_le_bytes());
    }
}

fn read_priorities(f: &mut Fields<'_>) -> Option<Priorities> {
    let proposer = usize::try_from(f.u64()?).ok()?;
    let count = f.count(8)?;
    let each = (0..count).map(|_| f.i64()).collect::<Option<_>>()?;
    Some(Priorities { each, proposer })
}

/// Consensus params.
pub(super) fn encode_params(params: &ConsensusParams) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    // New fields go to the end: older records are read by where they stop.
    for number in [
        params.block_max_bytes,
        params.block_max_gas,
        params.evidence_max_age_num_blocks,
        params.evidence_max_age_duration,
        params.evidence_max_bytes,
        params.vote_extensions_enable_height,
    ] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.extend_from_slice(&params.version_app.to_le_bytes());
    let count = u32::try_from(params.pub_key_types.len()).expect("a handful of key types");
    out.extend_from_slice(&count.to_le_bytes());
    for name in &params.pub_key_types {
        put_bytes(&mut out, name.as_bytes());
    }
    put_bytes(&mut out, &params.authority);
    for number in [
        params.pbts_enable_height,
        params.synchrony_precision,
        params.synchrony_message_delay,
    ] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out
}

/// The reverse of `encode_params`. A record of before 0.39's params ends after the key types, one
/// of before 1.0's after the authority.
pub(super) fn read_params(body: &[u8]) -> Option<ConsensusParams> {
    let mut f = Fields::of(body);
    let mut params = ConsensusParams {
        block_max_bytes: f.i64()?,
        block_max_gas: f.i64()?,
        evidence_max_age_num_blocks: f.i64()?,
        evidence_max_age_duration: f.i64()?,
        evidence_max_bytes: f.i64()?,
        vote_extensions_enable_height: f.i64()?,
        version_app: f.u64()?,
        pub_key_types: Vec::new(),
        ..ConsensusParams::default()
    };
    for _ in 0..f.count(4)? {
        let name = std::str::from_utf8(f.bytes()?).ok()?;
        params.pub_key_types.push(name.to_owned());
    }
    // Older records simply end here.
    if !f.is_empty() {
        params.authority = Bytes::copy_from_slice(f.bytes()?);
    }
    if !f.is_empty() {
        params.pbts_enable_height = f.i64()?;
        params.synchrony_precision = f.i64()?;
        params.synchrony_message_delay = f.i64()?;
    }
    f.end(params)
}

/// The chain state. Of its sets it holds the priorities and the hashes; the members are in the
/// records of their heights.
pub(super) fn encode_state(state: &ChainState) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024 + state.validators.len() * 24);
    put_height(&mut out, state.last_height);
    put_height(&mut out, state.initial_height);
    put_bytes(&mut out, &state.chain_id);
    out.extend_from_slice(&encode_id(&state.last_block_id));
    out.extend_from_slice(&state.last_block_time.seconds.to_le_bytes());
    out.extend_from_slice(&i64::from(state.last_block_time.nanos).to_le_bytes());
    out.push(u8::from(state.last_validators.is_some()));
    for set in [
        state.last_validators.as_ref(),
        Some(&state.validators),
        Some(&state.next_validators),
    ]
    .into_iter()
    .flatten()
    {
        out.extend_from_slice(&set.hash().0);
        put_priorities(&mut out, set);
    }
    put_height(&mut out, state.last_height_validators_changed);
    put_bytes(&mut out, &encode_params(&state.params));
    put_height(&mut out, state.last_height_params_changed);
    out.extend_from_slice(&state.version_app.to_le_bytes());
    out.extend_from_slice(&state.last_results_hash.0);
    put_bytes(&mut out, &state.app_hash);
    out
}

/// A set as the state's record has it.
pub(super) struct StateSet {
    hash: Hash,
    priorities: Priorities,
}

impl StateSet {
    /// The set, of the members of `recorded`; `None` when that is another set.
    pub(super) fn on(self, recorded: &ValidatorSet) -> Option<ValidatorSet> {
        // The record below may be of another set when its own is missing:
        // then the state is damaged.
        if recorded.hash() != self.hash {
            return None;
        }
        self.priorities.on(recorded.iter().cloned().collect())
    }
}

/// The chain state's record, whose sets lack their members.
pub(super) struct StateBody<'a> {
    pub(super) last_height: Height,
    pub(super) initial_height: Height,
    pub(super) chain_id: &'a [u8],
    pub(super) last_block_id: BlockId,
    pub(super) last_block_time: Time,
    pub(super) last_validators: Option<StateSet>,
    pub(super) validators: StateSet,
    pub(super) next_validators: StateSet,
    pub(super) last_height_validators_changed: Height,
    pub(super) params: ConsensusParams,
    pub(super) last_height_params_changed: Height,
    pub(super) version_app: u64,
    pub(super) last_results_hash: Hash,
    pub(super) app_hash: &'a [u8],
}

impl<'a> StateBody<'a> {
    pub(super) fn read(body: &'a [u8]) -> Option<Self> {
        let mut f = Fields::of(body);
        let set = |f: &mut Fields<'a>| {
            Some(StateSet {
                hash: Hash(f.array()?),
                priorities: read_priorities(f)?,
            })
        };
        let state = StateBody {
            last_height: f.height()?,
            initial_height: f.height()?,
            chain_id: f.bytes()?,
            last_block_id: read_id(&mut f)?,
            last_block_time: Time::new(f.i64()?, i32::try_from(f.i64()?).ok()?)?,
            last_validators: match f.byte()? {
                0 => None,
                // Any other byte is damage, not a newer version: those are told apart by the
                // schema.
                1 => Some(set(&mut f)?),
                _ => return None,
            },
            validators: set(&mut f)?,
            next_validators: set(&mut f)?,
            last_height_validators_changed: f.height()?,
            params: read_params(f.bytes()?)?,
            last_height_params_changed: f.height()?,
            version_app: f.u64()?,
            last_results_hash: Hash(f.array()?),
            app_hash: f.bytes()?,
        };
        f.end(state)
    }
}

/// The height of the block that a state waits for: the one above its last, or the chain's first.
pub(super) fn next_height(last: Height, initial: Height) -> Height {
    if last == Height::ZERO {
        initial
    } else {
        last.next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn params_come_back_and_those_of_before_later_versions_are_read() {
        let without = ConsensusParams::default();
        let with = ConsensusParams {
            authority: Bytes::from_static(b"cosmos1authority"),
            ..ConsensusParams::default()
        };
        let of_one = ConsensusParams {
            pbts_enable_height: 65,
            synchrony_precision: 505_000_000,
            synchrony_message_delay: 15_000_000_000,
            ..ConsensusParams::default()
        };
        for params in [&without, &with, &of_one] {
            assert_eq!(read_params(&encode_params(params)).as_ref(), Some(params));
        }
        let whole = encode_params(&with);
        let before_one = whole.strip_suffix(&[0; 24]).unwrap();
        assert_eq!(read_params(before_one), Some(with.clone()));
        let old = encode_params(&without);
        let old = old.strip_suffix(&[0; 28]).unwrap();
        assert_eq!(read_params(old), Some(without));
        let cut = encode_params(&with);
        assert_eq!(read_params(&cut[..cut.len() - 1]), None);
    }
}
