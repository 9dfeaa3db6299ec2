//! Length-prefixed framing: one varint and the message, against MConnection's packets of a kilobyte (`design.md` 8).
//!
//! Two forms. On `plain://` and on streams that a runtime hands us a frame is a varint length and a `tendermint.blocksync.Message`.
//! Between two of our own nodes inside a SecretConnection, where two channels share the stream, the first byte of every frame is
//! the channel. In both an empty frame says nothing but "I am alive".

use bytes::Bytes;

use super::packet::{Channel, Piece};
use super::secret::SecretError;
use super::stream::{LengthError, StreamWriter, read_length, varint};

/// Bytes reserved at once for an announced message. More only as bytes come: an announcement costs nobody memory.
const RESERVE: usize = 64 * 1024;

/// Once so many bytes of a message have come, the rest of what was announced is reserved at once.
const RESERVE_ALL: usize = 1 << 20;

/// Why a peer's frames cannot be accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A length that is none, or above every channel's limit.
    #[error("frame: {0}")]
    Length(#[from] LengthError),
    /// A channel that was not agreed on.
    #[error("unknown channel {0:#x}")]
    UnknownChannel(u8),
}

/// What a frame was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A sign of life.
    Alive,
    /// A message and its channel.
    Message(u8, Bytes),
}

/// Takes frames apart. The message is gathered in an allocation that ends up as long as the message is.
#[derive(Debug)]
pub struct FrameReader {
    channels: Vec<Channel>,
    /// The first byte of a frame names the channel; otherwise everything is for the first channel.
    marked: bool,
    body: Option<Body>,
}

#[derive(Debug)]
struct Body {
    channel: Channel,
    total: usize,
    bytes: Vec<u8>,
}

impl FrameReader {
    /// For these channels; with more than one, frames are marked.
    ///
    /// # Panics
    /// Without a channel.
    #[must_use]
    pub fn new(channels: &[Channel], marked: bool) -> Self {
        assert!(!channels.is_empty(), "no channel to read");
        FrameReader {
            channels: channels.to_vec(),
            marked,
            body: None,
        }
    }

    /// Takes what it can use off the start of `window`: gives the number of bytes taken and, when one is complete, a frame. Call it
    /// again until it takes nothing.
    ///
    /// # Errors
    /// Why the peer is to be dropped.
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
        let now = &window[taken..window.len().min(taken + missing)];
        if body.bytes.capacity() - body.bytes.len() < now.len() {
            let step = match body.bytes.len() {
                // Untouched, it is address space and not memory; growing by doubling would hold half of it twice.
                len if len >= RESERVE_ALL => missing,
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
        Ok((
            taken,
            body.map(|b| Frame::Message(b.channel.id, Bytes::from(b.bytes))),
        ))
    }

    fn begin(&self, window: &[u8]) -> Result<Begin, FrameError> {
        let mark = usize::from(self.marked);
        let most = self.channels.iter().map(|c| c.capacity).max().unwrap_or(0);
        let Some((head, length)) = read_length(window, most.saturating_add(mark))? else {
            return Ok(Begin::More);
        };
        if length == 0 {
            return Ok(Begin::Alive(head));
        }
        let mut channel = self.channels[0];
        if self.marked {
            let Some(id) = window.get(head) else {
                return Ok(Begin::More);
            };
            let known = self.channels.iter().find(|c| c.id == *id);
            channel = *known.ok_or(FrameError::UnknownChannel(*id))?;
        }
        let total = length - mark;
        if total > channel.capacity {
            return Err(FrameError::Length(LengthError::TooLong {
                length: total as u64,
                limit: channel.capacity,
            }));
        }
        let body = Body {
            channel,
            total,
            bytes: Vec::with_capacity(total.min(RESERVE)),
        };
        Ok(Begin::Body(head + mark, body))
    }

    /// Memory that the unfinished message holds.
    #[must_use]
    pub fn held(&self) -> usize {
        self.body.as_ref().map_or(0, |b| b.bytes.capacity())
    }

    /// Bytes of the unfinished message of a channel.
    #[must_use]
    pub fn partial(&self, channel: u8) -> usize {
        let body = self.body.as_ref().filter(|b| b.channel.id == channel);
        body.map_or(0, |b| b.bytes.len())
    }
}

enum Begin {
    More,
    Alive(usize),
    Body(usize, Body),
}

/// Puts a piece of a message; the first one with the frame's head before it. Pieces of one message may not be interrupted.
///
/// # Errors
/// When the stream is out of nonces.
pub fn put_frame<W>(
    piece: &Piece,
    marked: bool,
    to: &mut StreamWriter<W>,
) -> Result<(), SecretError>
where
    W: tokio::io::AsyncWrite + Unpin,
{
    if piece.first {
        let (length, n) = varint((piece.total + usize::from(marked)) as u64);
        to.put(&length[..n])?;
        if marked {
            to.put(&[piece.channel])?;
        }
    }
    to.put(&piece.data)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCKS: Channel = Channel {
        id: 0x40,
        priority: 5,
        capacity: 200_000,
        keep: true,
    };
    const PEX: Channel = Channel {
        id: 0,
        priority: 1,
        capacity: 100,
        keep: true,
    };

    fn frames(
        reader: &mut FrameReader,
        wire: &[u8],
        step: usize,
    ) -> Result<Vec<Frame>, FrameError> {
        let (mut out, mut from, mut to) = (Vec::new(), 0, 0);
        while to < wire.len() {
            to = wire.len().min(to + step);
            loop {
                let (taken, frame) = reader.take(&wire[from..to])?;
                from += taken;
                out.extend(frame);
                if taken == 0 {
                    break;
                }
            }
        }
        Ok(out)
    }

    async fn wire(messages: &[(u8, usize)], marked: bool) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = StreamWriter::new(&mut bytes);
        for (channel, n) in messages {
            let piece = Piece {
                channel: *channel,
                data: vec![*channel; *n].into(),
                first: true,
                last: true,
                total: *n,
            };
            put_frame(&piece, marked, &mut writer).unwrap();
        }
        writer.flush().await.unwrap();
        bytes
    }

    #[tokio::test]
    async fn frames_are_found_however_the_bytes_come() {
        for marked in [false, true] {
            let other = if marked { 0 } else { 0x40 };
            let messages = [
                (0x40, 1),
                (0x40, 200_000),
                (other, 100),
                (0x40, 127),
                (0x40, 70_000),
            ];
            let mut bytes = wire(&messages, marked).await;
            bytes.push(0);
            for step in [1, 2, 1000, 1 << 20] {
                let mut reader = FrameReader::new(&[BLOCKS, PEX], marked);
                let got = frames(&mut reader, &bytes, step).unwrap();
                let mut expected: Vec<Frame> = messages
                    .iter()
                    .map(|(c, n)| Frame::Message(*c, vec![*c; *n].into()))
                    .collect();
                expected.push(Frame::Alive);
                assert!(got == expected, "{marked} {step}");
            }
        }
    }

    #[tokio::test]
    async fn limits_hold_before_allocation() {
        let mut reader = FrameReader::new(&[BLOCKS, PEX], true);
        let bytes = wire(&[(0x40, 200_001)], true).await;
        assert!(matches!(
            frames(&mut reader, &bytes[..4], 1),
            Err(FrameError::Length(_))
        ));
        let mut reader = FrameReader::new(&[BLOCKS, PEX], true);
        let bytes = wire(&[(0, 101)], true).await;
        assert!(matches!(
            frames(&mut reader, &bytes[..2], 1),
            Err(FrameError::Length(_))
        ));
        let mut reader = FrameReader::new(&[BLOCKS, PEX], true);
        assert_eq!(
            frames(&mut reader, &[2, 9, 9], 3),
            Err(FrameError::UnknownChannel(9))
        );
        let mut reader = FrameReader::new(&[BLOCKS], false);
        let bytes = wire(&[(0x40, 200_000)], false).await;
        frames(&mut reader, &bytes[..10], 10).unwrap();
        assert_eq!(reader.partial(0x40), 7);
        assert!(reader.body.as_ref().unwrap().bytes.capacity() <= RESERVE);
    }
}
