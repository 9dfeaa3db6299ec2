//! MConnection's packets, its channels' reassembly and the order in which channels send
//! (`protocol.md` 3). Pure.

use std::collections::VecDeque;

use bytes::Bytes;
use prost::Message;

use super::secret::SecretError;
use super::stream::{LengthError, StreamWriter, read_length, stack_varint};
use crate::wire::proto::p2p::{Packet as WirePacket, packet::Sum};

/// Data bytes in one packet, at most.
pub const PAYLOAD: usize = 1024;
/// An encoded packet without its length, at most: a full payload on a channel below 0x80 with the
/// end mark.
pub const MAX_PACKET: usize = 1034;
/// A buffer this large goes with its message, so that nobody holds one who waits for the next; out
/// of smaller ones messages are copied.
const LARGE_MESSAGE: usize = 256 * 1024;

/// Why a peer's packets cannot be accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PacketError {
    /// Longer than a packet may be, or a length that is none.
    #[error("packet: {0}")]
    Length(#[from] LengthError),
    /// Bytes that do not decode.
    #[error("undecodable packet: {0}")]
    Malformed(String),
    /// Neither ping, pong nor message.
    #[error("packet of no kind")]
    NoKind,
    /// A channel that we did not list.
    #[error("unknown channel {0:#x}")]
    UnknownChannel(i32),
    /// A message that outgrows its channel.
    #[error(
        "message on channel {channel:#04x} of {length} bytes or more, where {capacity} is the limit"
    )]
    TooLong {
        /// The channel.
        channel: u8,
        /// Bytes with this packet.
        length: usize,
        /// Bytes that may come.
        capacity: usize,
    },
}

/// One packet, its data still in the read buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet<'a> {
    /// Wants a pong.
    Ping,
    /// Answers a ping.
    Pong,
    /// A piece of a message.
    Piece {
        /// Of which channel; any number a peer can write.
        channel: i32,
        /// The last of its message.
        last: bool,
        /// The bytes.
        data: std::borrow::Cow<'a, [u8]>,
    },
}

/// The packet at the start of `window`, if it is all there, and the bytes that it takes up.
///
/// # Errors
/// Why the peer is to be dropped.
pub fn parse(window: &[u8]) -> Result<Option<(usize, Packet<'_>)>, PacketError> {
    let Some((head, length)) = read_length(window, MAX_PACKET)? else {
        return Ok(None);
    };
    let Some(body) = window.get(head..head + length) else {
        return Ok(None);
    };
    // Nearly all packets are pieces in the one form that Go writes: these are read without a copy.
    // Other encodings are legal, and decoded in full.
    let packet = match canonical_piece(body) {
        Some(piece) => piece,
        None => any_packet(body)?,
    };
    Ok(Some((head + length, packet)))
}

/// A piece as everybody writes it: fields in order, none twice. `None` for everything else.
fn canonical_piece(body: &[u8]) -> Option<Packet<'_>> {
    let rest = body.strip_prefix(&[0x1a])?;
    // Even a bad length is no error yet: `any_packet` finds it, too, and names it.
    let (head, length) = read_length(rest, MAX_PACKET).ok()??;
    let mut rest = rest.get(head..)?;
    if rest.len() != length {
        return None;
    }
    let mut channel = 0;
    // A zero is not written in proto3, so channel 0 has no field at all.
    if let [0x08, id @ 1..=0x7f, after @ ..] = rest {
        channel = i32::from(*id);
        rest = after;
    }
    let last = rest.starts_with(&[0x10, 0x01]);
    if last {
        rest = &rest[2..];
    }
    let mut data = rest;
    if let Some(after) = rest.strip_prefix(&[0x1a]) {
        let (head, length) = read_length(after, MAX_PACKET).ok()??;
        data = after.get(head..)?;
        if data.len() != length {
            return None;
        }
    } else if !rest.is_empty() {
        return None;
    }
    Some(Packet::Piece {
        channel,
        last,
        data: data.into(),
    })
}

/// Parses every encoding that protobuf allows.
fn any_packet(body: &[u8]) -> Result<Packet<'static>, PacketError> {
    let packet = WirePacket::decode(body).map_err(|e| PacketError::Malformed(e.to_string()))?;
    match packet.sum {
        Some(Sum::PacketPing(_)) => Ok(Packet::Ping),
        Some(Sum::PacketPong(_)) => Ok(Packet::Pong),
        Some(Sum::PacketMsg(m)) => Ok(Packet::Piece {
            channel: m.channel_id,
            last: m.eof,
            data: m.data.to_vec().into(),
        }),
        None => Err(PacketError::NoKind),
    }
}

/// A ping, with its length.
pub const PING: [u8; 3] = [0x02, 0x0a, 0x00];
/// A pong, with its length.
pub const PONG: [u8; 3] = [0x02, 0x12, 0x00];

/// One channel as we know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Channel {
    /// Its number.
    pub id: u8,
    /// Its share of what we send, when others want to send too.
    pub priority: u32,
    /// The longest message that may come.
    pub capacity: usize,
    /// Whether messages are handed on; otherwise their bytes are counted and forgotten.
    pub keep: bool,
}

/// Puts pieces together to messages.
#[derive(Debug)]
pub struct Reassembly(Vec<Gathering>);

#[derive(Debug)]
struct Gathering {
    channel: Channel,
    length: usize,
    bytes: Vec<u8>,
}

impl Reassembly {
    /// For these channels; every other one is unknown.
    #[must_use]
    pub fn new(channels: &[Channel]) -> Self {
        let gather = |channel: &Channel| Gathering {
            channel: *channel,
            length: 0,
            bytes: Vec::new(),
        };
        Reassembly(channels.iter().map(gather).collect())
    }

    /// Adds a piece; gives the channel and the message when this was its last and the channel is
    /// kept.
    ///
    /// # Errors
    /// An unknown channel, and a message that outgrows it: checked before the piece is stored.
    pub fn add(
        &mut self,
        channel: i32,
        last: bool,
        data: &[u8],
    ) -> Result<Option<(u8, Bytes)>, PacketError> {
        let Some(slot) = self
            .0
            .iter_mut()
            .find(|s| i32::from(s.channel.id) == channel)
        else {
            return Err(PacketError::UnknownChannel(channel));
        };
        let length = slot.length + data.len();
        let Channel {
            id, capacity, keep, ..
        } = slot.channel;
        if length > capacity {
            return Err(PacketError::TooLong {
                channel: id,
                length,
                capacity,
            });
        }
        slot.length = length;
        if keep {
            if slot.bytes.capacity() < length {
                // doubled, but never beyond what the channel takes: what a message may hold is what
                // it may be long
                let step = slot.bytes.len().max(data.len());
                slot.bytes
                    .reserve_exact(step.min(capacity - slot.bytes.len()));
            }
            slot.bytes.extend_from_slice(data);
        }
        if !last {
            return Ok(None);
        }
        slot.length = 0;
        Ok(keep.then(|| (id, take_message(&mut slot.bytes))))
    }

    /// Memory that unfinished messages hold: what has come of them. The rest of a buffer is
    /// untouched.
    #[must_use]
    pub fn held(&self) -> usize {
        self.0.iter().map(|s| s.bytes.len()).sum()
    }

    /// Bytes of the unfinished message of a channel.
    #[must_use]
    pub fn partial(&self, channel: u8) -> usize {
        let slot = self.0.iter().find(|s| s.channel.id == channel);
        slot.map_or(0, |s| s.length)
    }
}

/// The message in an allocation of its own size; the buffer stays for the next one unless it is
/// large.
fn take_message(bytes: &mut Vec<u8>) -> Bytes {
    if bytes.capacity() < LARGE_MESSAGE {
        let message = Bytes::copy_from_slice(bytes);
        bytes.clear();
        return message;
    }
    let mut message = std::mem::take(bytes);
    message.shrink_to_fit();
    Bytes::from(message)
}

/// Messages that wait to be sent, and the turn: among the channels with something to send, the one
/// that has recently sent the least for its priority.
#[derive(Debug)]
pub struct Outgoing(Vec<OutChannel>);

#[derive(Debug)]
struct OutChannel {
    channel: Channel,
    queue: VecDeque<Bytes>,
    /// Bytes of the first message that are sent.
    offset: usize,
    recently_sent: u64,
}

impl Outgoing {
    /// For these channels.
    #[must_use]
    pub fn new(channels: &[Channel]) -> Self {
        let out = |channel: &Channel| OutChannel {
            channel: *channel,
            queue: VecDeque::new(),
            offset: 0,
            recently_sent: 0,
        };
        Outgoing(channels.iter().map(out).collect())
    }

    /// Queues a message; one for a channel that is not there is dropped. The caller bounds how
    /// many.
    pub fn push(&mut self, channel: u8, message: Bytes) {
        if let Some(out) = self.0.iter_mut().find(|c| c.channel.id == channel) {
            out.queue.push_back(message);
        }
    }

    /// Messages that wait on a channel, the one that is being sent included.
    #[must_use]
    pub fn waiting(&self, channel: u8) -> usize {
        let out = self.0.iter().find(|c| c.channel.id == channel);
        out.map_or(0, |c| c.queue.len())
    }

    /// Nothing waits anywhere.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|c| c.queue.is_empty())
    }

    /// Forgets a fifth of what was sent; Go does so every two seconds.
    pub fn decay(&mut self) {
        for c in &mut self.0 {
            c.recently_sent = c.recently_sent * 4 / 5;
        }
    }

    /// The next piece, at most `payload` bytes, of the channel whose turn it is: channel, piece,
    /// whether it ends its message, whether it begins it, and the message's length.
    pub fn next(&mut self, payload: usize) -> Option<Piece> {
        let turn = |c: &&mut OutChannel| {
            // compared as fractions: recently sent ÷ priority
            c.recently_sent.saturating_mul(1000) / u64::from(c.channel.priority.max(1))
        };
        let out = self
            .0
            .iter_mut()
            .filter(|c| !c.queue.is_empty())
            .min_by_key(turn)?;
        let message = out.queue.front()?;
        let total = message.len();
        let end = total.min(out.offset + payload);
        let piece = Piece {
            channel: out.channel.id,
            data: message.slice(out.offset..end),
            first: out.offset == 0,
            last: end == total,
            total,
        };
        out.offset = end;
        if piece.last {
            out.queue.pop_front();
            out.offset = 0;
        }
        // And what a packet adds to its data at most, `MAX_PACKET` less `PAYLOAD`.
        out.recently_sent += piece.data.len() as u64 + 10;
        Some(piece)
    }
}

/// A piece of an outgoing message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Its channel.
    pub channel: u8,
    /// Its bytes.
    pub data: Bytes,
    /// The first of its message.
    pub first: bool,
    /// The last of its message.
    pub last: bool,
    /// The message's length.
    pub total: usize,
}

/// Puts a piece as a packet.
///
/// # Errors
/// When the stream is out of nonces.
pub fn put_packet<W>(piece: &Piece, to: &mut StreamWriter<W>) -> Result<(), SecretError>
where
    W: tokio::io::AsyncWrite + Unpin,
{
    // The message's fields in order, those that are zero left out.
    let mut inner = [0; 16];
    let mut at = 0;
    let mut add = |bytes: &[u8]| {
        inner[at..at + bytes.len()].copy_from_slice(bytes);
        at += bytes.len();
    };
    if piece.channel != 0 {
        let (id, n) = stack_varint(u64::from(piece.channel));
        add(&[0x08]);
        add(&id[..n]);
    }
    if piece.last {
        add(&[0x10, 0x01]);
    }
    if !piece.data.is_empty() {
        let (length, n) = stack_varint(piece.data.len() as u64);
        add(&[0x1a]);
        add(&length[..n]);
    }
    let length = at + piece.data.len();
    let (inner_length, n) = stack_varint(length as u64);
    let (outer_length, m) = stack_varint((1 + n + length) as u64);
    to.put(&outer_length[..m])?;
    to.put(&[0x1a])?;
    to.put(&inner_length[..n])?;
    to.put(&inner[..at])?;
    to.put(&piece.data)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::p2p::vectors;

    fn channel(id: u8) -> Channel {
        Channel {
            id,
            priority: 1,
            capacity: 3000,
            keep: true,
        }
    }

    type Messages = Vec<(u8, Vec<u8>)>;

    /// As a connection would: parse, reassemble, stop at the first error. Messages, the bytes sent
    /// back, and the error.
    fn receive(wire: &[u8]) -> (Messages, Vec<u8>, Option<PacketError>) {
        let mut reassembly = Reassembly::new(&[channel(0x40), channel(0), channel(0x81)]);
        let (mut messages, mut reply, mut at) = (Vec::new(), Vec::new(), 0);
        loop {
            match parse(&wire[at..]) {
                Ok(None) => return (messages, reply, None),
                Err(e) => return (messages, reply, Some(e)),
                Ok(Some((n, packet))) => {
                    at += n;
                    match packet {
                        Packet::Ping => reply.extend_from_slice(&PONG),
                        Packet::Pong => {}
                        Packet::Piece {
                            channel,
                            last,
                            data,
                        } => match reassembly.add(channel, last, &data) {
                            Ok(None) => {}
                            Ok(Some((channel, message))) => {
                                messages.push((channel, message.to_vec()))
                            }
                            Err(e) => return (messages, reply, Some(e)),
                        },
                    }
                }
            }
        }
    }

    fn messages(case: &serde_json::Value) -> Messages {
        let list = case["messages"].as_array().unwrap().iter();
        list.map(|m| {
            let channel = u8::try_from(m["channel"].as_u64().unwrap()).unwrap();
            (channel, vectors::segments(&m["segments"]))
        })
        .collect()
    }

    async fn send(messages: &[(u8, Vec<u8>)]) -> Vec<u8> {
        let mut wire = Vec::new();
        let mut writer = StreamWriter::new(&mut wire);
        let mut out = Outgoing::new(
            &messages
                .iter()
                .map(|(c, _)| channel(*c))
                .take(1)
                .collect::<Vec<_>>(),
        );
        for (channel, message) in messages {
            out.push(*channel, message.clone().into());
        }
        while let Some(piece) = out.next(PAYLOAD) {
            put_packet(&piece, &mut writer).unwrap();
        }
        writer.flush().await.unwrap();
        wire
    }

    #[tokio::test]
    async fn packets_are_those_of_comet() {
        for case in vectors::group("packets") {
            let wire = vectors::segments(&case["wire"]);
            let name = case["name"].as_str().unwrap();
            if case["direction"] == "send" {
                assert!(send(&messages(&case)).await == wire, "{name}");
                continue;
            }
            let (got, reply, error) = receive(&wire);
            assert_eq!(got, messages(&case), "{name}");
            assert_eq!(
                hex::encode(reply),
                case["reply"].as_str().unwrap(),
                "{name}"
            );
            assert_eq!(
                error.is_none(),
                case["ok"].as_bool().unwrap(),
                "{name}: {error:?}"
            );
        }
    }

    #[test]
    fn odd_encodings_are_read_as_protobuf() {
        // data before the channel, and the end mark twice
        let wire = hex::decode("0d1a0b1a03616263084010011001").unwrap();
        let (got, _, error) = receive(&wire);
        assert_eq!((got, error), (vec![(0x40, b"abc".to_vec())], None));
    }

    #[test]
    fn unkept_channels_are_counted_and_forgotten() {
        let quiet = Channel {
            keep: false,
            ..channel(0x30)
        };
        let mut reassembly = Reassembly::new(&[quiet]);
        for _ in 0..3 {
            assert_eq!(reassembly.add(0x30, false, &[1; 1000]), Ok(None));
        }
        assert_eq!(reassembly.0[0].bytes.capacity(), 0);
        assert!(matches!(
            reassembly.add(0x30, false, &[1]),
            Err(PacketError::TooLong { length: 3001, .. })
        ));
    }

    #[test]
    fn a_busy_channel_does_not_starve_another() {
        let blocks = Channel {
            priority: 5,
            ..channel(0x40)
        };
        let mut out = Outgoing::new(&[blocks, channel(0)]);
        out.push(0x40, vec![1; 1_000_000].into());
        for _ in 0..100 {
            out.next(PAYLOAD);
        }
        out.push(0, vec![2; 5000].into());
        let first: Vec<u8> = (0..10)
            .map(|_| out.next(PAYLOAD).unwrap().channel)
            .collect();
        assert!(first[..5].iter().all(|c| *c == 0), "{first:?}");
        out.decay();
        assert!(!out.is_empty() && out.waiting(0) == 0);
    }

    #[test]
    fn a_small_message_holds_no_large_buffer() {
        let wide = Channel {
            capacity: 1 << 20,
            ..channel(0x40)
        };
        let mut reassembly = Reassembly::new(&[wide]);
        for n in [300_000, 150_000, 200_000, 10] {
            for _ in 1..n / 1100 {
                reassembly.add(0x40, false, &[1; 1100]).unwrap();
            }
            assert!(reassembly.add(0x40, true, &[1]).unwrap().is_some());
            assert_eq!(reassembly.partial(0x40), 0);
            assert!(reassembly.0[0].bytes.capacity() < LARGE_MESSAGE);
        }
    }
}
