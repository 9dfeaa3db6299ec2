//! The length-prefixed framing, everywhere that there is one: between our own nodes inside a
//! SecretConnection, on `plain://` and on streams that a runtime hands us, and in files of blocks
//! (`design.md` 8).
//!
//! A frame is a varint length and a message. Where several channels share a stream, the first byte
//! of every frame is the channel (it is *marked*). On a stream an empty frame is a keep-alive.
//!
//! A message's length is judged before memory is spent on it, and memory is touched only as its
//! bytes arrive.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio_util::codec::{Decoder, Encoder};

use super::{Limits, guard};
use crate::varint::{self, Read};

/// Bytes reserved at once for an announced message. More is reserved only as bytes arrive, so an
/// announcement alone costs no memory.
pub const RESERVE: usize = 64 << 10;
/// Bytes of a message that must have come before the rest of its announced length is reserved.
const RESERVE_ALL: usize = 1 << 20;

/// A length that cannot be accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LengthError {
    /// Not a varint of at most ten bytes.
    #[error("length is no varint")]
    NotVarint,
    /// More than may come.
    #[error("message of {length} bytes, where {limit} is the limit")]
    TooLong {
        /// The announced length.
        length: u64,
        /// The longest length that may come.
        limit: usize,
    },
}

/// Why frames cannot be accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// A length that is none, or above every channel's limit.
    #[error("frame: {0}")]
    Length(#[from] LengthError),
    /// A channel that was not agreed on.
    #[error("unknown channel {0:#x}")]
    UnknownChannel(u8),
}

/// Why a stream ends.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// It failed, or ended within a message.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The bytes are no frame that we take.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// The varint length at the start of `window`, if it is all there: its own size and its value,
/// which is at most `limit`.
///
/// # Errors
/// A length that is none, or too large: nothing is allocated for it.
pub fn read_length(window: &[u8], limit: usize) -> Result<Option<(usize, usize)>, LengthError> {
    match varint::read(window) {
        Read::Short => Ok(None),
        Read::TooLong => Err(LengthError::NotVarint),
        Read::Value(length, size) => match usize::try_from(length) {
            Ok(n) if n <= limit => Ok(Some((size, n))),
            _ => Err(LengthError::TooLong { length, limit }),
        },
    }
}

/// A frame that has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A sign of life.
    Alive,
    /// A message, in an allocation of its own, and its channel.
    Message(u8, Bytes),
}

/// The messages that may come on one channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepts {
    /// The channel.
    pub channel: u8,
    /// Length of the longest message.
    pub longest: usize,
    /// Length of the longest message whose first byte is not that of a block.
    pub small: usize,
}

/// Cuts a stream into messages, and joins messages into one: a [`Decoder`] and [`Encoder`] for
/// callers with a buffer, and [`take`](Self::take) for callers with a window of bytes.
#[derive(Debug)]
pub struct Codec {
    accepts: Vec<Accepts>,
    /// The first byte of a frame names the channel; otherwise everything is for the first one.
    marked: bool,
    body: Option<Body>,
}

/// A message of which a part has come.
#[derive(Debug)]
struct Body {
    channel: u8,
    total: usize,
    bytes: Vec<u8>,
}

enum Begin {
    More,
    Alive(usize),
    Body(usize, Body),
}

impl Codec {
    /// A codec for streams of block-sync messages alone. Nothing but a block may be longer than a
    /// small message.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        let accepts = Accepts {
            channel: 0,
            longest: limits.block_message,
            small: limits.status_message.max(limits.small_message),
        };
        Codec::with(vec![accepts], false)
    }

    /// A codec for files of bare `BlockResponse`s, as `export` writes them: they have no first byte
    /// that tells their kind.
    #[must_use]
    pub fn for_file(limits: Limits) -> Self {
        Codec::new(Limits {
            status_message: limits.block_message,
            ..limits
        })
    }

    /// A codec for these channels.
    ///
    /// # Panics
    /// Without a channel.
    #[must_use]
    pub fn with(accepts: Vec<Accepts>, marked: bool) -> Self {
        assert!(!accepts.is_empty(), "no channel to read");
        Codec {
            accepts,
            marked,
            body: None,
        }
    }

    /// Takes what it can use off the start of `window`: gives the number of bytes taken and, when
    /// one is complete, a frame. Call it again until it takes nothing.
    ///
    /// # Errors
    /// Why the stream is to be closed.
    pub fn take(&mut self, window: &[u8]) -> Result<(usize, Option<Frame>), FrameError> {
        let mut taken = 0;
        if self.body.is_none() {
            match self.begin(window)? {
                Begin::More => return Ok((0, None)),
                Begin::Alive(head) => return Ok((head, Some(Frame::Alive))),
                Begin::Body(head, body) => {
                    taken = head;
                    self.body = Some(body);
                }
            }
        }
        let Some(body) = &mut self.body else {
            return Ok((0, None));
        };
        let missing = body.total - body.bytes.len();
        // Never beyond this message: what follows belongs to the next frame.
        let now = &window[taken..window.len().min(taken + missing)];
        if body.bytes.capacity() - body.bytes.len() < now.len() {
            let step = match body.bytes.len() {
                // Untouched, it is address space and not memory; growing by doubling would hold
                // half of it twice.
                len if len >= RESERVE_ALL => missing,
                // Below that, as much again as has come: a peer must send half of
                // what it makes us reserve.
                len => len.max(RESERVE).max(now.len()),
            };
            body.bytes.reserve_exact(step.min(missing));
        }
        body.bytes.extend_from_slice(now);
        taken += now.len();
        if body.bytes.len() < body.total {
            return Ok((taken, None));
        }
        let body = self.body.take();
        let message = body.map(|b| Frame::Message(b.channel, Bytes::from(b.bytes)));
        Ok((taken, message))
    }

    fn begin(&self, window: &[u8]) -> Result<Begin, FrameError> {
        let mark = usize::from(self.marked);
        // First by the longest of all channels: which one it is may not have come yet.
        let most = self.accepts.iter().map(|a| a.longest).max().unwrap_or(0);
        let Some((head, length)) = read_length(window, most.saturating_add(mark))? else {
            return Ok(Begin::More);
        };
        // Not even a channel byte: a sign of life belongs to the connection and not to a channel.
        if length == 0 {
            return Ok(Begin::Alive(head));
        }
        let mut accepts = self.accepts[0];
        if self.marked {
            let Some(id) = window.get(head) else {
                return Ok(Begin::More);
            };
            // The channels were agreed on in the handshake; bytes for another
            // one have no reader here.
            let known = self.accepts.iter().find(|a| a.channel == *id);
            accepts = *known.ok_or(FrameError::UnknownChannel(*id))?;
        }
        let total = length - mark;
        let mut limit = accepts.longest;
        // Only a block may be long. The byte that tells it from other messages is waited for before
        // memory is promised.
        if total > accepts.small && total <= limit {
            let Some(first) = window.get(head + mark) else {
                return Ok(Begin::More);
            };
            if !guard::is_block(*first) {
                limit = accepts.small;
            }
        }
        if total > limit {
            let length = total as u64;
            return Err(LengthError::TooLong { length, limit }.into());
        }
        let body = Body {
            channel: accepts.channel,
            total,
            bytes: Vec::with_capacity(total.min(RESERVE)),
        };
        Ok(Begin::Body(head + mark, body))
    }

    /// Bytes of the unfinished message that have arrived, which is the memory it holds. An
    /// announced length reserves address space, not memory.
    #[must_use]
    pub fn held(&self) -> usize {
        self.body.as_ref().map_or(0, |b| b.bytes.len())
    }

    /// Bytes that are reserved for the unfinished message.
    #[must_use]
    pub fn reserved(&self) -> usize {
        self.body.as_ref().map_or(0, |b| b.bytes.capacity())
    }

    /// Bytes of the unfinished message of a channel.
    #[must_use]
    pub fn partial(&self, channel: u8) -> usize {
        let body = self.body.as_ref().filter(|b| b.channel == channel);
        body.map_or(0, |b| b.bytes.len())
    }
}

/// Encodes the head of a message of this length: the whole frame's length, and the channel where
/// frames are marked.
#[must_use]
pub fn head(length: usize, mark: Option<u8>) -> Bytes {
    let mut out = BytesMut::with_capacity(varint::MAX + 1);
    varint::put((length + usize::from(mark.is_some())) as u64, &mut out);
    if let Some(channel) = mark {
        out.put_u8(channel);
    }
    out.freeze()
}

impl Decoder for Codec {
    type Item = Frame;
    type Error = CodecError;

    fn decode(&mut self, stream: &mut BytesMut) -> Result<Option<Frame>, CodecError> {
        loop {
            // `take` stops at a frame's end or when it needs more bytes, so this ends
            // after two turns at most.
            let (taken, frame) = self.take(stream)?;
            stream.advance(taken);
            if frame.is_some() || taken == 0 {
                return Ok(frame);
            }
        }
    }

    fn decode_eof(&mut self, stream: &mut BytesMut) -> Result<Option<Frame>, CodecError> {
        match self.decode(stream)? {
            Some(frame) => Ok(Some(frame)),
            // Between two messages an end is a clean end; a file of blocks ends like this.
            None if stream.is_empty() && self.body.is_none() => Ok(None),
            None => {
                let what = "the stream ends within a message";
                Err(io::Error::new(io::ErrorKind::UnexpectedEof, what).into())
            }
        }
    }
}

impl Encoder<(u8, Bytes)> for Codec {
    type Error = CodecError;

    /// Appends one message to the output buffer; the writer sends many at once.
    fn encode(
        &mut self,
        (channel, message): (u8, Bytes),
        out: &mut BytesMut,
    ) -> Result<(), CodecError> {
        let head = head(message.len(), self.marked.then_some(channel));
        out.reserve(head.len() + message.len());
        out.extend_from_slice(&head);
        out.extend_from_slice(&message);
        Ok(())
    }
}
