//! Blocks and commits from bytes to `chain`'s types, without a copy of the transactions.
//!
//! Decoding follows CometBFT's decoder for any bytes, canonical or not; `canonical` judges the
//! encoding apart from it. So a block that a network has committed in a strange encoding can be
//! decoded, and is told from the others.

use bytes::Bytes;

use super::error::{Problem, WireError};
use super::message::{Kind, Parts, open};
use super::parse::{self, Budget, RawCommit, RawHeader};
use super::reader::Reader;
use super::{Limits, canonical, evidence};
use crate::chain::block::CommitChecks;
use crate::chain::{Block, Commit, Evidence, ExtendedCommit, Fetched, Header, Txs, block, encode};
use crate::ids::BlockId;

/// The block in a whole `Message`, with its id computed from the bytes and its stateless checks
/// made, but for those hashes in the header that a certificate makes needless: `Block::check_body`
/// (`design.md` 5).
///
/// The result keeps at most a quarter more memory alive than its own bytes need: what would pin a
/// larger message is copied out of it.
///
/// # Errors
/// When it is no block, breaks a limit or a stateless rule, or carries a commit for another height.
pub fn fetched(message: &Bytes, limits: &Limits) -> Result<Fetched, WireError> {
    let (kind, body) = open(message)?;
    if kind != Kind::Block {
        return Err(WireError::new("Message", Problem::Missing("block")));
    }
    fetched_parts(message, Parts::of(body)?, limits)
}

/// The same from a bare `BlockResponse`, as files of blocks have it.
///
/// # Errors
/// As `fetched`.
pub fn fetched_response(response: &Bytes, limits: &Limits) -> Result<Fetched, WireError> {
    fetched_parts(response, Parts::of(response)?, limits)
}

fn fetched_parts(message: &Bytes, parts: Parts<'_>, limits: &Limits) -> Result<Fetched, WireError> {
    let at = "BlockResponse";
    let found = parts
        .block
        .ok_or(WireError::new(at, Problem::Missing("block")))?;
    let raw = own(message, found);
    // One budget for all three parts: a message cannot get four times its length for each of them.
    let mut budget = Budget::new(message.len(), limits);
    let (block, usual) = parse_block(&raw, &mut budget)?;
    let height = block.header.height;
    let (ext_raw, ext_commit) =
        ext_commit(message, parts, &mut budget).map_err(|e| e.of(height))?;
    let seen_commit = seen_commit(parts, &mut budget).map_err(|e| e.of(height))?;
    let refuse = |at, problem| WireError::new(at, problem).of(height);
    let wrong = |error| refuse("Block", Problem::Basic(Box::new(error)));
    // The cheap rules first; hashing a block of megabytes comes last.
    block.check_structure().map_err(wrong)?;
    block.check_links().map_err(wrong)?;
    // A commit of another height proves nothing here, and no honest server sends it along.
    let for_height = |what, found| match found {
        Some(found) if found != height => Err(refuse(at, Problem::Height { what, found })),
        _ => Ok(()),
    };
    for_height("ext_commit", ext_commit.as_ref().map(|c| c.height))?;
    for_height("seen_commit", seen_commit.as_ref().map(|c| c.height))?;
    // Without a validators hash a header has no hash at all (`protocol.md` 5.2).
    let nameless = || refuse("Header", Problem::Missing("validators_hash"));
    let hash = block.header.hash().ok_or_else(nameless)?;
    let id = BlockId {
        hash: Some(hash),
        parts: block::part_set(&raw),
    };
    Ok(Fetched {
        canonical: is_canonical(&raw, usual),
        block,
        id,
        raw,
        ext_commit,
        ext_raw,
        seen_commit,
        checked: CommitChecks::default(),
    })
}

/// The extended commit of a response, with its stateless check, and the bytes to keep of it.
fn ext_commit(
    message: &Bytes,
    parts: Parts<'_>,
    budget: &mut Budget,
) -> Result<(Option<Bytes>, Option<ExtendedCommit>), WireError> {
    let Some(ext) = parts.ext_commit else {
        return Ok((None, None));
    };
    // Owned first, so that the extensions are slices of what is kept and not of the whole message.
    let raw = own(message, ext);
    let commit = parse::extended_commit(&raw, &raw, budget)?;
    let wrong = |error| WireError::new("ExtendedCommit", Problem::Basic(Box::new(error)));
    commit.check_basic().map_err(wrong)?;
    Ok((Some(raw), Some(commit)))
}

/// The seen commit of a response, with its stateless check.
fn seen_commit(parts: Parts<'_>, budget: &mut Budget) -> Result<Option<Commit>, WireError> {
    let Some(raw) = parts.seen_commit else {
        return Ok(None);
    };
    let commit = parse_commit(raw, budget)?;
    let wrong = |error| WireError::new("Commit", Problem::Basic(Box::new(error)));
    commit.check_basic().map_err(wrong)?;
    Ok(Some(commit))
}

/// A block from our own store, which holds it under this id since it was proven; nothing is hashed
/// again.
///
/// # Errors
/// When it does not decode.
pub fn stored_block(raw: Bytes, ext_raw: Option<Bytes>, id: BlockId) -> Result<Fetched, WireError> {
    let (block, usual) = parse_block(&raw, &mut stored(raw.len()))?;
    let ext_commit = ext_raw
        .as_ref()
        .map(extended_commit_from_bytes)
        .transpose()?;
    let (seen_commit, checked, canonical) =
        (None, CommitChecks::default(), is_canonical(&raw, usual));
    Ok(Fetched {
        block,
        id,
        raw,
        ext_commit,
        ext_raw,
        seen_commit,
        checked,
        canonical,
    })
}

/// A part of a message, to be kept: a slice of it where that keeps little else alive, else a copy.
fn own(message: &Bytes, part: &[u8]) -> Bytes {
    let beside = message.len() - part.len();
    // A slice keeps the whole message alive, while the pool charges for the block's bytes alone.
    if beside <= part.len() / 4 {
        parse::slice(message, part)
    } else {
        Bytes::copy_from_slice(part)
    }
}

/// A stored block. Its transactions are slices of `raw`.
///
/// # Errors
/// When it does not decode. No stateless check is made that the types do not make.
pub fn block_from_bytes(raw: &Bytes) -> Result<Block, WireError> {
    parse_block(raw, &mut stored(raw.len())).map(|(block, _)| block)
}

/// The header of a stored block; the rest is not looked at.
///
/// # Errors
/// As `block_from_bytes`.
pub fn header_of_block(raw: &[u8]) -> Result<Header, WireError> {
    let mut header = RawHeader::default();
    let mut reader = Reader::new("Block", raw);
    while let Some(field) = reader.field()? {
        if field.number == 1 {
            // Merged like the decoder does, and read to the end: a later occurrence
            // would change the header.
            header.merge(reader.bytes(field)?)?;
        } else {
            reader.skip(field)?;
        }
    }
    header.convert()
}

/// The bytes of a stored block's last commit, as they stand in it.
///
/// # Errors
/// When there is none, or, as no canonical block has it, more than one.
pub fn last_commit_of_block(raw: &Bytes) -> Result<Bytes, WireError> {
    let mut found = None;
    let mut reader = Reader::new("Block", raw);
    while let Some(field) = reader.field()? {
        if field.number != 4 {
            reader.skip(field)?;
        } else if found.replace(reader.bytes(field)?).is_some() {
            return Err(WireError::new("Block", Problem::Twice("last_commit")));
        }
    }
    let commit = found.ok_or(WireError::new("Block", Problem::Missing("last_commit")))?;
    Ok(parse::slice(raw, commit))
}

/// An encoded `Header`.
///
/// # Errors
/// When it does not decode, or holds what no header can.
pub fn header_from_bytes(raw: &[u8]) -> Result<Header, WireError> {
    let mut header = RawHeader::default();
    header.merge(raw)?;
    header.convert()
}

/// An encoded `Commit`.
///
/// # Errors
/// As `header_from_bytes`.
pub fn commit_from_bytes(raw: &[u8]) -> Result<Commit, WireError> {
    parse_commit(raw, &mut stored(raw.len()))
}

/// An encoded `ExtendedCommit`. The extensions are slices of `raw`.
///
/// # Errors
/// As `header_from_bytes`.
pub fn extended_commit_from_bytes(raw: &Bytes) -> Result<ExtendedCommit, WireError> {
    parse::extended_commit(raw, raw, &mut stored(raw.len()))
}

/// An encoded `Evidence`, the oneof.
///
/// # Errors
/// As `header_from_bytes`.
pub fn evidence_from_bytes(raw: &[u8]) -> Result<Evidence, WireError> {
    evidence::item(raw, &mut stored(raw.len()))
}

/// Budget for bytes that we have stored ourselves: the default limits suffice.
fn stored(length: usize) -> Budget {
    Budget::new(length, &Limits::default())
}

fn parse_commit(raw: &[u8], budget: &mut Budget) -> Result<Commit, WireError> {
    let mut commit = RawCommit::default();
    commit.merge(raw, budget)?;
    commit.convert()
}

/// Whether a block is in canonical encoding; `usual` is what `parse_block` said of its signatures.
fn is_canonical(raw: &[u8], usual: bool) -> bool {
    if usual {
        canonical::block_of_usual(raw)
    } else {
        canonical::block(raw)
    }
}

/// The block, and whether the signatures of its last commit are known to be canonical.
fn parse_block(raw: &Bytes, budget: &mut Budget) -> Result<(Block, bool), WireError> {
    let mut header = RawHeader::default();
    let (mut data, mut list) = (Data::default(), Vec::new());
    let mut last_commit: Option<RawCommit<'_>> = None;
    let mut reader = Reader::new("Block", raw);
    while let Some(field) = reader.field()? {
        match field.number {
            1 => header.merge(reader.bytes(field)?)?,
            2 => data.merge(raw, reader.bytes(field)?)?,
            3 => merge_evidence(&mut list, reader.bytes(field)?, budget)?,
            4 => {
                let body = reader.bytes(field)?;
                last_commit.get_or_insert_default().merge(body, budget)?;
            }
            _ => reader.skip(field)?,
        }
    }
    // Converted before the commit, so that the commit's error can name the height.
    let header = header.convert()?;
    let height = header.height;
    let usual = last_commit.as_ref().is_some_and(RawCommit::is_usual);
    let last_commit = match last_commit {
        Some(commit) => commit.convert(),
        None => Err(WireError::new("Block", Problem::Missing("last_commit"))),
    };
    let block = Block {
        header,
        txs: data.txs(),
        evidence: list,
        last_commit: last_commit.map_err(|e| e.of(height))?,
    };
    Ok((block, usual))
}

/// The transactions of a block while it is read. Nothing is allocated for canonical `Data`, of
/// which every block has one.
#[derive(Default)]
struct Data {
    whole: Txs,
    /// Canonical again, when it came in another encoding or in parts: never longer than what came.
    written: Option<Vec<u8>>,
}

impl Data {
    fn merge(&mut self, raw: &Bytes, data: &[u8]) -> Result<(), WireError> {
        // Almost every block takes this way: its transactions stay slices of the message.
        if self.whole.is_empty()
            && self.written.is_none()
            && let Some(whole) = Txs::from_encoded(parse::slice(raw, data))
        {
            self.whole = whole;
            return Ok(());
        }
        // Occurrences are merged: these transactions stand behind those of the ones before.
        let before = || self.whole.encoded().to_vec();
        let written = self.written.get_or_insert_with(before);
        let mut reader = Reader::new("Data", data);
        while let Some(field) = reader.field()? {
            if field.number == 1 {
                encode::element(1, reader.bytes(field)?, written);
            } else {
                reader.skip(field)?;
            }
        }
        Ok(())
    }

    fn txs(self) -> Txs {
        match self.written {
            // `merge` writes canonical elements only, so the default cannot hide transactions.
            Some(written) => Txs::from_encoded(written.into()).unwrap_or_default(),
            None => self.whole,
        }
    }
}

fn merge_evidence(
    list: &mut Vec<Evidence>,
    bytes: &[u8],
    budget: &mut Budget,
) -> Result<(), WireError> {
    let mut reader = Reader::new("EvidenceList", bytes);
    while let Some(field) = reader.field()? {
        if field.number == 1 {
            let item = evidence::item(reader.bytes(field)?, budget)?;
            // One at a time: there is rarely any, and each item has already been
            // charged for what it holds.
            budget.reserve("evidence", list, 1)?;
            list.push(item);
        } else {
            reader.skip(field)?;
        }
    }
    Ok(())
}
