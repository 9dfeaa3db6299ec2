//! Looks at a message before it is decoded: which one it is, how large, which height's block it
//! carries, how many signatures. Allocates nothing, and takes time only in proportion to the
//! signatures that it counts, up to the limit.

use super::Limits;
use super::error::{Problem, WireError};
use super::message::{Kind, Parts, open, walk};
use super::reader::{Field, Reader};
use crate::ids::Height;

/// Kind and outline of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peeked {
    /// Which message it is.
    pub kind: Kind,
    /// The height of the block that it carries; `None` for other kinds, and for a block that
    /// decoding will refuse.
    pub height: Option<Height>,
}

/// Longest message that may begin with this byte. CometBFT and we write a message's only field
/// first, so the first byte tells a block from all else: nobody has to buffer 100 MB to find a
/// status.
#[must_use]
pub fn limit_of(first: u8, limits: &Limits) -> usize {
    if is_block(first) {
        limits.block_message
    } else if first == (Kind::Status as u8) << 3 | 2 {
        limits.status_message
    } else {
        limits.small_message
    }
}

/// Whether a message that begins with this byte carries a block.
#[must_use]
pub fn is_block(first: u8) -> bool {
    first == (Kind::Block as u8) << 3 | 2
}

/// Reads a message's outline. Decoding may still refuse it.
///
/// # Errors
/// When it is none, or two.
pub fn peek(message: &[u8]) -> Result<Peeked, WireError> {
    let (kind, body) = open(message)?;
    let height = match kind {
        // Signatures are not counted: this is for files of blocks, and decoding counts them.
        Kind::Block => walk_block(Parts::of(body)?.block, |_| Ok(()))?,
        _ => None,
    };
    Ok(Peeked { kind, height })
}

/// Reads a message's outline if its size and its signatures keep within the limits. Whether its
/// height was asked for is the caller's to judge, before it decodes.
///
/// # Errors
/// When it is none, or two, or too large.
pub fn admit(message: &[u8], limits: &Limits) -> Result<Peeked, WireError> {
    // An empty message has no first byte and no limit to break; `open` refuses it.
    let limit = message
        .first()
        .map_or(usize::MAX, |&first| limit_of(first, limits));
    if message.len() > limit {
        return Err(over("bytes", message.len(), limit));
    }
    let (kind, body) = open(message)?;
    if kind != Kind::Block {
        return Ok(Peeked { kind, height: None });
    }
    let parts = Parts::of(body)?;
    // Several last commits are merged when decoded, so their signatures add up.
    let mut left = limits.signatures;
    let height = walk_block(parts.block, |commit| {
        count_signatures(commit, &mut left, limits.signatures)
    })?;
    // Each of these is decoded alone, so each may have as many as a commit can.
    for commit in [parts.ext_commit, parts.seen_commit].into_iter().flatten() {
        let mut left = limits.signatures;
        count_signatures(commit, &mut left, limits.signatures)?;
    }
    Ok(Peeked { kind, height })
}

fn over(what: &'static str, found: usize, limit: usize) -> WireError {
    WireError::new("Message", Problem::Limit { what, found, limit })
}

/// Takes a commit's signatures off what may still come.
fn count_signatures(commit: &[u8], left: &mut usize, limit: usize) -> Result<(), WireError> {
    // The count stops one above what is left, which bounds the time that a hostile list takes.
    let found = Reader::new("Commit", commit).count(4, *left);
    match left.checked_sub(found) {
        Some(rest) => *left = rest,
        None => return Err(over("signatures", limit - *left + found, limit)),
    }
    Ok(())
}

/// The height in a block's header: the last one written, as a decoder has it. Shows each last
/// commit on the way.
fn walk_block<'a>(
    block: Option<&'a [u8]>,
    mut last_commit: impl FnMut(&'a [u8]) -> Result<(), WireError>,
) -> Result<Option<Height>, WireError> {
    let mut found = 0;
    let mut in_header = |field: Field, reader: &mut Reader<'_>| {
        if field.number == 3 {
            found = reader.varint(field)? as i64;
        } else {
            reader.skip_value(field)?;
        }
        Ok(())
    };
    walk(
        "Block",
        block.unwrap_or_default(),
        |field, reader| match field.number {
            // Several headers are merged when decoded, so the last height written
            // among all of them counts.
            1 => walk("Header", reader.bytes(field)?, &mut in_header),
            4 => last_commit(reader.bytes(field)?),
            _ => Ok(reader.skip_value(field)?),
        },
    )?;
    // Nobody asks for height 0 or a negative one: `None` refuses the block as not asked for.
    Ok(Height::from_wire(found).filter(|&height| height > Height::ZERO))
}
