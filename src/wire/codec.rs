//! The length-prefixed framing: each message behind its length as a varint. Between our own nodes, over plain streams, and in
//! files of blocks.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use tokio_util::codec::{Decoder, Encoder};

use super::error::{Problem, WireError};
use super::message::put_varint;
use super::{Limits, guard};

/// What came off a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A whole message, in an allocation of its own: to keep it keeps nothing else.
    Message(Bytes),
    /// So many bytes of the next message have come so far.
    Progress(u32),
}

/// Why a stream ends.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// It failed, or ended within a message.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// What came is no frame that we take.
    #[error(transparent)]
    Wire(#[from] WireError),
}

/// Cuts a stream into messages and joins messages into one.
///
/// A message's length is judged before memory is spent on it, and no more is ever allocated for one than twice the bytes of it that
/// have come, or `FIRST_STEP`. Nothing but a block may be longer than a small message (`guard::limit_of`).
#[derive(Debug)]
pub struct Codec {
    limits: Limits,
    /// Whether streams of bare `BlockResponse`s are read, as in files, which have no first byte that tells their kind.
    bare: bool,
    partial: Option<Partial>,
}

/// A message of which a part has come.
#[derive(Debug)]
struct Partial {
    length: usize,
    bytes: Vec<u8>,
    reported: usize,
}

/// The longest length prefix: five bytes carry 35 bits.
const MAX_PREFIX: usize = 5;
/// What is allocated at first for a message that is longer than what has come.
const FIRST_STEP: usize = 64 << 10;
/// How many more bytes are worth a report of progress.
const PROGRESS_STEP: usize = 4 << 10;

impl Codec {
    /// A codec for streams of messages.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Codec {
            limits,
            bare: false,
            partial: None,
        }
    }

    /// A codec for files of bare `BlockResponse`s, as `export` writes them.
    #[must_use]
    pub fn for_file(limits: Limits) -> Self {
        Codec {
            bare: true,
            ..Codec::new(limits)
        }
    }

    /// How many bytes of the next message have been taken off the stream.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.partial.as_ref().map_or(0, |p| p.bytes.len())
    }

    /// The length of the next message, once enough has come to judge it. Takes the prefix off the stream.
    fn length(&self, stream: &mut BytesMut) -> Result<Option<usize>, WireError> {
        let Some((prefix, length)) = read_prefix(stream)? else {
            return Ok(None);
        };
        let limit = if self.bare || length <= self.limits.small_message {
            self.limits.block_message
        } else if let Some(&first) = stream.get(prefix) {
            guard::limit_of(first, &self.limits)
        } else {
            return Ok(None);
        };
        if length > limit {
            let (what, found) = ("bytes", length);
            return Err(WireError::new(
                "frame",
                Problem::Limit { what, found, limit },
            ));
        }
        stream.advance(prefix);
        Ok(Some(length))
    }
}

/// A length prefix at the beginning of `bytes`: how long it is and what it says. `None` while it is not whole.
fn read_prefix(bytes: &[u8]) -> Result<Option<(usize, usize)>, WireError> {
    let mut length = 0u64;
    for (i, &byte) in bytes.iter().take(MAX_PREFIX).enumerate() {
        length |= u64::from(byte & 0x7f) << (7 * i);
        if byte < 0x80 {
            let length = usize::try_from(length).unwrap_or(usize::MAX); // refused by any limit
            return Ok(Some((i + 1, length)));
        }
    }
    if bytes.len() < MAX_PREFIX {
        return Ok(None);
    }
    Err(WireError::new("frame", Problem::Varint))
}

/// The prefix of a message of this length, for writers that send prefix and message one after the other.
#[must_use]
pub fn prefix(length: usize) -> Bytes {
    let mut out = BytesMut::with_capacity(MAX_PREFIX);
    put_varint(&mut out, length as u64);
    out.freeze()
}

impl Partial {
    /// Takes what has come, and grows only by it.
    fn take(&mut self, stream: &mut BytesMut) {
        let take = stream.len().min(self.length - self.bytes.len());
        let need = self.bytes.len() + take;
        if need > self.bytes.capacity() {
            let capacity = (need * 2).max(FIRST_STEP).min(self.length);
            self.bytes.reserve_exact(capacity - self.bytes.len());
        }
        self.bytes.extend_from_slice(&stream[..take]);
        stream.advance(take);
    }
}

impl Decoder for Codec {
    type Item = Frame;
    type Error = CodecError;

    fn decode(&mut self, stream: &mut BytesMut) -> Result<Option<Frame>, CodecError> {
        let mut partial = match self.partial.take() {
            Some(partial) => partial,
            None => {
                let Some(length) = self.length(stream)? else {
                    return Ok(None);
                };
                if stream.len() >= length {
                    let message = Bytes::copy_from_slice(&stream[..length]);
                    stream.advance(length);
                    return Ok(Some(Frame::Message(message)));
                }
                Partial {
                    length,
                    bytes: Vec::new(),
                    reported: 0,
                }
            }
        };
        partial.take(stream);
        if partial.bytes.len() == partial.length {
            return Ok(Some(Frame::Message(partial.bytes.into())));
        }
        let come = partial.bytes.len();
        let report = come >= partial.reported + PROGRESS_STEP;
        if report {
            partial.reported = come;
        }
        self.partial = Some(partial);
        // A length is judged to fit u32 by the limits; should they be larger, the report saturates.
        Ok(report.then(|| Frame::Progress(u32::try_from(come).unwrap_or(u32::MAX))))
    }

    fn decode_eof(&mut self, stream: &mut BytesMut) -> Result<Option<Frame>, CodecError> {
        match self.decode(stream)? {
            Some(frame) => Ok(Some(frame)),
            None if stream.is_empty() && self.partial.is_none() => Ok(None),
            None => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the stream ends within a message",
            )
            .into()),
        }
    }
}

impl Encoder<Bytes> for Codec {
    type Error = CodecError;

    /// Adds one message to what is to be written; the writer sends many at once.
    fn encode(&mut self, message: Bytes, out: &mut BytesMut) -> Result<(), CodecError> {
        out.reserve(MAX_PREFIX + message.len());
        put_varint(out, message.len() as u64);
        out.extend_from_slice(&message);
        Ok(())
    }
}
