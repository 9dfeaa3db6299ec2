//! Headers, block ids and commits from bytes, by the rules of CometBFT's decoder (`protocol.md`
//! 0.2, 5.1): a scalar's last occurrence wins, a message's occurrences are merged, but a
//! timestamp's last one replaces the others.
//!
//! A message is first merged, occurrence by occurrence, into a struct of borrowed fields; `convert`
//! then makes `chain`'s type of it and refuses what that cannot hold, which CometBFT refuses too
//! when it decodes. Its other stateless checks (`protocol.md` 5.9) are `check_basic` and
//! `check_structure` of `chain`.

use bytes::Bytes;

use super::canonical;
use super::error::{Bad, Malformed, Problem, WireError};
use super::reader::Reader;
use crate::chain::{
    BlockIdFlag, Commit, CommitSig, ExtendedCommit, ExtendedCommitSig, Header, Signature, Time,
};
use crate::ids::{Address, BlockId, Hash, Height, PartSetHeader};

/// Budget left for decoding one message.
pub(crate) struct Budget {
    bytes: usize,
    /// Most signatures in one commit.
    pub signatures: usize,
}

impl Budget {
    /// For a message of `length` bytes.
    pub(super) fn new(length: usize, limits: &super::Limits) -> Self {
        Budget {
            // An element of two bytes can become a struct of dozens. Four times bounds that for
            // large messages; the floor lets honest small ones through.
            bytes: length.saturating_mul(4).max(limits.decoded_floor),
            signatures: limits.signatures,
        }
    }

    /// Makes room in a list for more items, if the budget allows them.
    pub(super) fn reserve<T>(
        &mut self,
        what: &'static str,
        list: &mut Vec<T>,
        more: usize,
    ) -> Result<(), WireError> {
        self.spend::<T>(what, more)?;
        list.reserve(more); // exact for the first occurrence of a list, and there rarely is another
        Ok(())
    }

    /// Takes the memory of items off the rest.
    pub(super) fn spend<T>(&mut self, what: &'static str, count: usize) -> Result<(), WireError> {
        let cost = count.saturating_mul(size_of::<T>());
        match self.bytes.checked_sub(cost) {
            Some(left) => self.bytes = left,
            None => return Err(too_many(what, count, self.bytes / size_of::<T>().max(1))),
        }
        Ok(())
    }
}

fn too_many(what: &'static str, found: usize, limit: usize) -> WireError {
    WireError::new(what, Problem::Limit { what, found, limit })
}

/// A timestamp's body, alone or one of several occurrences (`protocol.md` 0.2).
pub(crate) fn time(bytes: &[u8]) -> Result<Time, Bad> {
    let (mut seconds, mut nanos) = (0i64, 0i32);
    let at = "Timestamp";
    let mut reader = Reader::new(at, bytes);
    while let Some(field) = reader.field()? {
        match field.number {
            1 => seconds = reader.varint(field)? as i64,
            2 => nanos = reader.varint(field)? as i32,
            _ => reader.skip(field)?,
        }
    }
    Time::new(seconds, nanos).ok_or(Bad {
        at,
        what: if (0..1_000_000_000).contains(&nanos) {
            Malformed::Seconds(seconds)
        } else {
            Malformed::Nanos(nanos)
        },
    })
}

/// A hash that may be absent.
fn hash(at: &'static str, field: &'static str, bytes: &[u8]) -> Result<Option<Hash>, WireError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    match Hash::from_slice(bytes) {
        Some(hash) => Ok(Some(hash)),
        None => Err(WireError::length(at, field, "0 or 32", bytes.len())),
    }
}

/// An address that must be there.
pub(crate) fn address(
    at: &'static str,
    field: &'static str,
    bytes: &[u8],
) -> Result<Address, WireError> {
    Address::from_slice(bytes).ok_or(WireError::length(at, field, "20", bytes.len()))
}

/// A height or other number that may not be negative.
pub(crate) fn height(at: &'static str, found: i64) -> Result<Height, WireError> {
    Height::from_wire(found).ok_or(WireError::range(at, "height", "0 or more", found))
}

/// A `BlockID` before it is judged.
#[derive(Default)]
pub(crate) struct RawBlockId<'a> {
    hash: &'a [u8],
    total: u32,
    parts_hash: &'a [u8],
}

impl<'a> RawBlockId<'a> {
    pub(super) fn merge(&mut self, bytes: &'a [u8]) -> Result<(), Bad> {
        let mut reader = Reader::new("BlockID", bytes);
        while let Some(field) = reader.field()? {
            match field.number {
                1 => self.hash = reader.bytes(field)?,
                2 => self.merge_parts(reader.bytes(field)?)?,
                _ => reader.skip(field)?,
            }
        }
        Ok(())
    }

    fn merge_parts(&mut self, bytes: &'a [u8]) -> Result<(), Bad> {
        let mut reader = Reader::new("PartSetHeader", bytes);
        while let Some(field) = reader.field()? {
            match field.number {
                1 => self.total = reader.varint(field)? as u32,
                2 => self.parts_hash = reader.bytes(field)?,
                _ => reader.skip(field)?,
            }
        }
        Ok(())
    }

    pub(super) fn convert(&self) -> Result<BlockId, WireError> {
        Ok(BlockId {
            hash: hash("BlockID", "hash", self.hash)?,
            parts: PartSetHeader {
                total: self.total,
                hash: hash("PartSetHeader", "hash", self.parts_hash)?,
            },
        })
    }
}

/// A `Header` before it is judged.
#[derive(Default)]
pub(crate) struct RawHeader<'a> {
    version_block: u64,
    version_app: u64,
    chain_id: &'a [u8],
    height: i64,
    time: Time,
    last_block_id: RawBlockId<'a>,
    /// Fields 6 to 14.
    hashes: [&'a [u8]; 9],
}

impl<'a> RawHeader<'a> {
    pub(super) fn merge(&mut self, bytes: &'a [u8]) -> Result<(), Bad> {
        let mut reader = Reader::new("Header", bytes);
        while let Some(field) = reader.field()? {
            match field.number {
                1 => self.merge_version(reader.bytes(field)?)?,
                2 => self.chain_id = reader.bytes(field)?,
                3 => self.height = reader.varint(field)? as i64,
                4 => self.time = time(reader.bytes(field)?)?,
                5 => self.last_block_id.merge(reader.bytes(field)?)?,
                // The match bounds the number, so neither the cast nor the index can fail.
                6..=14 => self.hashes[field.number as usize - 6] = reader.bytes(field)?,
                _ => reader.skip(field)?,
            }
        }
        Ok(())
    }

    fn merge_version(&mut self, bytes: &[u8]) -> Result<(), Bad> {
        let mut reader = Reader::new("Consensus", bytes);
        while let Some(field) = reader.field()? {
            match field.number {
                1 => self.version_block = reader.varint(field)?,
                2 => self.version_app = reader.varint(field)?,
                _ => reader.skip(field)?,
            }
        }
        Ok(())
    }

    pub(super) fn convert(&self) -> Result<Header, WireError> {
        let at = "Header";
        let [
            last_commit,
            data,
            validators,
            next,
            consensus,
            app,
            results,
            evidence,
            proposer,
        ] = self.hashes;
        Ok(Header {
            version_block: self.version_block,
            version_app: self.version_app,
            // Copies: a header outlives its block's bytes.
            chain_id: Bytes::copy_from_slice(self.chain_id),
            height: height(at, self.height)?,
            time: self.time,
            last_block_id: self.last_block_id.convert()?,
            last_commit_hash: hash(at, "last_commit_hash", last_commit)?,
            data_hash: hash(at, "data_hash", data)?,
            validators_hash: hash(at, "validators_hash", validators)?,
            next_validators_hash: hash(at, "next_validators_hash", next)?,
            consensus_hash: hash(at, "consensus_hash", consensus)?,
            app_hash: Bytes::copy_from_slice(app),
            last_results_hash: hash(at, "last_results_hash", results)?,
            evidence_hash: hash(at, "evidence_hash", evidence)?,
            proposer_address: address(at, "proposer_address", proposer)?,
        })
    }
}

/// An entry of a commit in the form that nearly all have: a vote of 20-byte address and 64-byte
/// signature, canonical. A commit is mostly these, and this takes a fifth of the time of reading
/// them field by field. `None` for whatever else.
#[inline]
fn usual_sig(bytes: &[u8]) -> Option<CommitSig> {
    let (&[0x08, flag, 0x12, 20], rest) = bytes.split_first_chunk()? else {
        return None;
    };
    let flag = match flag {
        // An absent entry has no address and no signature, and the flags of
        // aggregated commits are rare.
        2 => BlockIdFlag::Commit,
        3 => BlockIdFlag::Nil,
        _ => return None,
    };
    let (&address, rest) = rest.split_first_chunk()?;
    let (&[0x1a, length], rest) = rest.split_first_chunk()? else {
        return None;
    };
    let (time, rest) = rest.split_at_checked(length.into())?; // from 128 on no time is that long
    let (&[0x22, 64], signature) = rest.split_first_chunk()? else {
        return None;
    };
    Some(CommitSig {
        flag,
        address: Address(address),
        // Only a canonical time keeps the promise that the whole entry is canonical.
        timestamp: canonical::time(time)?,
        signature: Signature::new(signature).filter(|_| signature.len() == 64)?,
    })
}

/// A `CommitSig` or `ExtendedCommitSig` before it is judged.
#[derive(Default)]
struct RawCommitSig<'a> {
    flag: i32,
    address: &'a [u8],
    time: Time,
    signature: &'a [u8],
    extension: &'a [u8],
    extension_signature: &'a [u8],
}

impl<'a> RawCommitSig<'a> {
    #[inline]
    fn read(bytes: &'a [u8], extended: bool) -> Result<Self, Bad> {
        let mut sig = RawCommitSig::default();
        let mut reader = Reader::new("CommitSig", bytes);
        while let Some(field) = reader.field()? {
            match field.number {
                1 => sig.flag = reader.varint(field)? as i32,
                2 => sig.address = reader.bytes(field)?,
                3 => sig.time = time(reader.bytes(field)?)?,
                4 => sig.signature = reader.bytes(field)?,
                // In a plain `CommitSig` these numbers are unknown and skipped.
                5 if extended => sig.extension = reader.bytes(field)?,
                6 if extended => sig.extension_signature = reader.bytes(field)?,
                _ => reader.skip(field)?,
            }
        }
        Ok(sig)
    }

    /// Converts to `chain`'s type; the rest of an entry's rules are `Commit::check_basic`'s.
    /// CometBFT keeps the low byte of the flag and so takes 258 for 2; no honest node writes that
    /// (`protocol.md` 8).
    fn convert(&self) -> Result<CommitSig, WireError> {
        let at = "CommitSig";
        let Some(flag) = BlockIdFlag::from_wire(self.flag) else {
            let (field, found) = ("block_id_flag", self.flag.into());
            return Err(WireError::range(at, field, "1 to 7", found));
        };
        let address = match flag {
            // An absent entry must have no address (`protocol.md` 5.9); zeros stand
            // for it in the fixed array.
            BlockIdFlag::Absent if self.address.is_empty() => Address([0; 20]),
            BlockIdFlag::Absent => {
                let (field, found) = ("validator_address", self.address.len());
                return Err(WireError::length(at, field, "0 when absent", found));
            }
            _ => address(at, "validator_address", self.address)?,
        };
        let Some(signature) = Signature::new(self.signature) else {
            let (field, found) = ("signature", self.signature.len());
            return Err(WireError::length(at, field, "at most 3309", found));
        };
        Ok(CommitSig {
            flag,
            address,
            timestamp: self.time,
            signature,
        })
    }

    /// Converts with the extension, which is a slice of `source`.
    fn convert_extended(&self, source: &Bytes) -> Result<ExtendedCommitSig, WireError> {
        Ok(ExtendedCommitSig {
            sig: self.convert()?,
            extension: slice(source, self.extension),
            extension_signature: slice(source, self.extension_signature),
        })
    }
}

/// `part` of `source`, without copying it, but for an empty one, which would keep the source alive.
pub(crate) fn slice(source: &Bytes, part: &[u8]) -> Bytes {
    if part.is_empty() {
        Bytes::new()
    } else {
        source.slice_ref(part)
    }
}

/// A `Commit` before it is judged.
#[derive(Default)]
pub(crate) struct RawCommit<'a> {
    height: i64,
    round: i32,
    block_id: RawBlockId<'a>,
    signatures: Vec<CommitSig>,
    /// Some signature is not in the form of `usual_sig`, which is canonical.
    unusual: bool,
    /// The first signature that `chain` cannot hold. Kept, not raised: evidence in which it stands
    /// may yet be replaced.
    bad: Option<WireError>,
}

impl<'a> RawCommit<'a> {
    pub(super) fn merge(&mut self, bytes: &'a [u8], budget: &mut Budget) -> Result<(), WireError> {
        let mut reader = Reader::new("Commit", bytes);
        while let Some(field) = reader.field()? {
            match field.number {
                1 => self.height = reader.varint(field)? as i64,
                2 => self.round = reader.varint(field)? as i32,
                3 => self.block_id.merge(reader.bytes(field)?)?,
                4 => {
                    self.merge_sig(reader.bytes(field)?, &reader, budget)?;
                }
                _ => reader.skip(field)?,
            }
        }
        Ok(())
    }

    #[inline]
    fn merge_sig(
        &mut self,
        body: &[u8],
        reader: &Reader<'_>,
        budget: &mut Budget,
    ) -> Result<(), WireError> {
        if self.bad.is_some() {
            // Bytes that do not decode are an error all the same, as in CometBFT.
            RawCommitSig::read(body, false)?;
            return Ok(());
        }
        // Before it is read: one allocation for the whole commit, refused when it has too many.
        reserve(&mut self.signatures, reader, budget)?;
        if let Some(sig) = usual_sig(body) {
            self.signatures.push(sig);
            return Ok(());
        }
        self.unusual = true;
        match RawCommitSig::read(body, false)?.convert() {
            Ok(sig) => self.signatures.push(sig),
            Err(error) => self.bad = Some(error),
        }
        Ok(())
    }

    /// Whether every signature is known to be canonical.
    pub(super) fn is_usual(&self) -> bool {
        !self.unusual
    }

    pub(super) fn convert(self) -> Result<Commit, WireError> {
        if let Some(error) = self.bad {
            return Err(error);
        }
        Ok(Commit {
            height: height("Commit", self.height)?,
            round: self.round,
            block_id: self.block_id.convert()?,
            signatures: self.signatures,
        })
    }
}

/// Room for the signature that was just read and for those still before `reader`.
#[inline]
fn reserve<T>(
    list: &mut Vec<T>,
    reader: &Reader<'_>,
    budget: &mut Budget,
) -> Result<(), WireError> {
    let most = budget.signatures;
    make_room("signatures", list, (reader, 4), most, budget)
}

/// Room in a list for the item that was just read and for those still before the reader, which are
/// this field of its message. They are counted first, so that a list is one allocation; there may
/// be `most` in all.
#[inline]
pub(crate) fn make_room<T>(
    what: &'static str,
    list: &mut Vec<T>,
    (reader, field): (&Reader<'_>, i32),
    most: usize,
    budget: &mut Budget,
) -> Result<(), WireError> {
    if list.len() < list.capacity() {
        return Ok(());
    }
    // Only when the list is full, so an honest commit is counted once and appended to thereafter.
    let more = 1 + reader.count(field, most);
    let found = list.len() + more;
    if found > most {
        return Err(too_many(what, found, most));
    }
    budget.reserve(what, list, more)
}

/// An `ExtendedCommit`. Extensions are slices of `source`, of which `bytes` is a part.
pub(crate) fn extended_commit(
    source: &Bytes,
    bytes: &[u8],
    budget: &mut Budget,
) -> Result<ExtendedCommit, WireError> {
    let at = "ExtendedCommit";
    let (mut found, mut round) = (0i64, 0i32);
    let mut block_id = RawBlockId::default();
    let mut signatures = Vec::new();
    let mut reader = Reader::new(at, bytes);
    while let Some(field) = reader.field()? {
        match field.number {
            1 => found = reader.varint(field)? as i64,
            2 => round = reader.varint(field)? as i32,
            3 => block_id.merge(reader.bytes(field)?)?,
            // Errors are raised at once, unlike in a commit: `Parts::of` refuses a second
            // one that could replace it.
            4 => {
                let sig = RawCommitSig::read(reader.bytes(field)?, true)?;
                reserve(&mut signatures, &reader, budget)?;
                signatures.push(sig.convert_extended(source)?);
            }
            _ => reader.skip(field)?,
        }
    }
    Ok(ExtendedCommit {
        height: height(at, found)?,
        round,
        block_id: block_id.convert()?,
        signatures,
    })
}
