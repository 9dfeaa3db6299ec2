//! The block-sync messages (`protocol.md` 4.1, 4.2) with our optional fields, which CometBFT skips
//! as unknown.

use bytes::{BufMut, Bytes, BytesMut};

use super::error::{Problem, WireError};
use super::parse::slice;
use super::reader::{Field, Reader};
use crate::chain::encode;
use crate::ids::Height;
use crate::varint;

/// A message of block sync.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Message {
    /// Asks for blocks.
    BlockRequest {
        /// The first height.
        height: Height,
        /// How many heights from there up, each answered by its own response. 0 is CometBFT's
        /// request: one height, answered by what CometBFT knows. 1 and more are sent only to a peer
        /// whose status had a `max_range` of at least that; its answers may carry what is ours (a
        /// seen commit).
        count: u32,
    },
    /// The height asked for is not there.
    NoBlock {
        /// The height that was asked for.
        height: Height,
    },
    /// A block, undecoded.
    Block(BlockResponse),
    /// Asks for a status.
    StatusRequest,
    /// Heights that the sender has; 0 and 0 when it has none.
    Status {
        /// The sender's highest height.
        height: Height,
        /// The sender's lowest height, at most `height`.
        base: Height,
        /// The largest `count` that it answers, 1 or more; 1 is CometBFT.
        max_range: u32,
    },
}

/// A block as it is sent: the stored bytes, never decoded or encoded again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockResponse {
    /// The encoded `tendermint.types.Block`.
    pub block: Bytes,
    /// The encoded `tendermint.types.ExtendedCommit`: there exactly when extensions are enabled at
    /// the block's height.
    pub ext_commit: Option<Bytes>,
    /// The encoded `tendermint.types.Commit` for this very block, which our own servers add to
    /// their highest one.
    pub seen_commit: Option<Bytes>,
}

/// Which message it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Kind {
    /// Asks for blocks.
    BlockRequest = 1,
    /// The height asked for is not there.
    NoBlock = 2,
    /// A block.
    Block = 3,
    /// Asks for a status.
    StatusRequest = 4,
    /// Heights that the sender has.
    Status = 5,
}

/// Most fields in a message, a response, a block's first level or a header. A canonical one has 14
/// at most; this is room for what later versions add, and bounds the time that looking at a
/// message's outline takes.
pub(crate) const MAX_FIELDS: usize = 64;

/// Walks the fields of an envelope, at most `MAX_FIELDS` of them.
pub(crate) fn walk<'a>(
    at: &'static str,
    bytes: &'a [u8],
    mut visit: impl FnMut(Field, &mut Reader<'a>) -> Result<(), WireError>,
) -> Result<(), WireError> {
    let mut reader = Reader::new(at, bytes);
    let mut fields = 0;
    while let Some(field) = reader.field()? {
        fields += 1;
        // Two bytes make a field, so a message of 100 MB could hold fifty million of them.
        if fields > MAX_FIELDS {
            let (what, found, limit) = ("fields", fields, MAX_FIELDS);
            return Err(WireError::new(at, Problem::Limit { what, found, limit }));
        }
        visit(field, &mut reader)?;
    }
    Ok(())
}

/// Which message it is, and its body. CometBFT takes the last of several; two are refused here,
/// since no honest peer sends them and what is judged must be what is decoded.
pub(crate) fn open(message: &[u8]) -> Result<(Kind, &[u8]), WireError> {
    let mut found = None;
    walk("Message", message, |field, reader| {
        let kind = match field.number {
            1 => Kind::BlockRequest,
            2 => Kind::NoBlock,
            3 => Kind::Block,
            4 => Kind::StatusRequest,
            5 => Kind::Status,
            _ => return Ok(reader.skip(field)?),
        };
        let body = reader.bytes(field)?;
        once("Message", "the kind", &mut found, (kind, body))
    })?;
    found.ok_or(WireError::new("Message", Problem::Missing("kind")))
}

fn once<T>(
    at: &'static str,
    what: &'static str,
    slot: &mut Option<T>,
    value: T,
) -> Result<(), WireError> {
    if slot.replace(value).is_some() {
        return Err(WireError::new(at, Problem::Twice(what)));
    }
    Ok(())
}

/// The parts of a `BlockResponse`, undecoded.
#[derive(Clone, Copy, Default)]
pub(crate) struct Parts<'a> {
    pub block: Option<&'a [u8]>,
    pub ext_commit: Option<&'a [u8]>,
    pub seen_commit: Option<&'a [u8]>,
}

impl<'a> Parts<'a> {
    /// CometBFT would merge several blocks of one response; they are refused here.
    pub(crate) fn of(body: &'a [u8]) -> Result<Self, WireError> {
        let mut parts = Parts::default();
        let at = "BlockResponse";
        walk(at, body, |field, reader| match field.number {
            1 => once(at, "block", &mut parts.block, reader.bytes(field)?),
            2 => once(
                at,
                "ext_commit",
                &mut parts.ext_commit,
                reader.bytes(field)?,
            ),
            15 => once(
                at,
                "seen_commit",
                &mut parts.seen_commit,
                reader.bytes(field)?,
            ),
            _ => Ok(reader.skip(field)?),
        })?;
        Ok(parts)
    }
}

impl Message {
    /// The message in some bytes. A block is only cut out, without a copy: `decode::fetched`
    /// decodes it.
    ///
    /// # Errors
    /// Bytes that are no message, that hold two, or that break the stateless rules (`protocol.md`
    /// 4.2).
    pub fn decode(message: &Bytes) -> Result<Message, WireError> {
        let (kind, body) = open(message)?;
        if kind != Kind::Block {
            return small(kind, body);
        }
        let parts = Parts::of(body)?;
        let block = parts
            .block
            .ok_or(WireError::new("BlockResponse", Problem::Missing("block")))?;
        Ok(Message::Block(BlockResponse {
            block: slice(message, block),
            ext_commit: parts.ext_commit.map(|ext| slice(message, ext)),
            seen_commit: parts.seen_commit.map(|commit| slice(message, commit)),
        }))
    }

    /// A message of any kind but a block; allocates nothing.
    ///
    /// # Errors
    /// As `decode`; a block is refused.
    pub fn decode_small(message: &[u8]) -> Result<Message, WireError> {
        let (kind, body) = open(message)?;
        small(kind, body)
    }

    /// Which message it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Message::BlockRequest { .. } => Kind::BlockRequest,
            Message::NoBlock { .. } => Kind::NoBlock,
            Message::Block(_) => Kind::Block,
            Message::StatusRequest => Kind::StatusRequest,
            Message::Status { .. } => Kind::Status,
        }
    }

    /// Its encoding. For a block this is one copy of its bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        if let Message::Block(response) = self {
            return response.encode();
        }
        let mut body = BytesMut::with_capacity(32);
        match *self {
            Message::BlockRequest { height, count } => {
                put_height(&mut body, 1, height);
                // Without our field it is CometBFT's own request.
                if count > 0 {
                    body.put_u8(OURS << 3);
                    varint::put(count.into(), &mut body);
                }
            }
            Message::NoBlock { height } => put_height(&mut body, 1, height),
            Message::Status {
                height,
                base,
                max_range,
            } => {
                put_height(&mut body, 1, height);
                put_height(&mut body, 2, base);
                put_more_than_one(&mut body, max_range);
            }
            // An empty body, but not no body: the oneof must name its kind (`22 00`).
            Message::StatusRequest | Message::Block(_) => {}
        }
        let mut message = BytesMut::with_capacity(body.len() + 2);
        put_head(&mut message, self.kind() as u8, body.len());
        message.put(body);
        message.freeze()
    }
}

/// A status or a request for one, encoded, with more fields of ours beside what CometBFT knows:
/// their numbers, ascending, and their bodies.
pub(crate) fn with_fields(message: &Message, fields: &[(u8, &[u8])]) -> Bytes {
    let plain = message.encode();
    // Our own encoding, which `open` always reads.
    let known = open(&plain).map_or(&[][..], |(_, body)| body);
    let mut field = Vec::new();
    // Behind CometBFT's fields: our numbers are higher, and the order stays canonical.
    for (number, body) in fields {
        encode::element((*number).into(), body, &mut field);
    }
    let length = known.len() + field.len();
    let mut out = BytesMut::with_capacity(1 + varint::MAX + length);
    put_head(&mut out, message.kind() as u8, length);
    out.put_slice(known);
    out.put_slice(&field);
    out.freeze()
}

/// That field of a message of one of these kinds; `None` when it is of another, or has none.
pub(crate) fn field_of<'a>(
    message: &'a [u8],
    kinds: &[Kind],
    number: u8,
) -> Result<Option<&'a [u8]>, WireError> {
    let (kind, body) = open(message)?;
    if !kinds.contains(&kind) {
        return Ok(None);
    }
    let mut found = None;
    walk("Message", body, |field, reader| {
        if field.number != i32::from(number) {
            return Ok(reader.skip(field)?);
        }
        found = Some(reader.bytes(field)?);
        Ok(())
    })?;
    Ok(found)
}

/// The number of our optional fields: a request's count, a status' largest range, a response's seen
/// commit.
const OURS: u8 = 15;

fn put_height(out: &mut BytesMut, number: u8, height: Height) {
    if height > Height::ZERO {
        out.put_u8(number << 3);
        varint::put(height.get(), out);
    }
}

/// Absent means one, which is what CometBFT means.
fn put_more_than_one(out: &mut BytesMut, count: u32) {
    if count > 1 {
        out.put_u8(OURS << 3);
        varint::put(count.into(), out);
    }
}

/// The tag and length of a message field.
/// Bytes before the content of a field.
fn head_len(length: usize) -> usize {
    1 + varint::len(length as u64)
}

fn put_head(out: &mut impl BufMut, number: u8, length: usize) {
    out.put_u8(number << 3 | 2);
    varint::put(length as u64, out);
}

fn small(kind: Kind, body: &[u8]) -> Result<Message, WireError> {
    let at = match kind {
        Kind::BlockRequest => "BlockRequest",
        Kind::NoBlock => "NoBlockResponse",
        Kind::StatusRequest => "StatusRequest",
        Kind::Status => "StatusResponse",
        Kind::Block => {
            return Err(WireError::new("BlockResponse", Problem::Block));
        }
    };
    let (mut first, mut second, mut ours) = (0i64, 0i64, 0u32);
    // Fields beyond these are unknown ones for CometBFT, which passes over them.
    let fields = match kind {
        Kind::StatusRequest => 0,
        Kind::Status => 2,
        _ => 1,
    };
    walk(at, body, |field, reader| {
        match field.number {
            1 if fields >= 1 => first = reader.varint(field)? as i64,
            2 if fields >= 2 => second = reader.varint(field)? as i64,
            // A count above 32 bits keeps its low ones; the server caps it by its own limit.
            15 if kind != Kind::NoBlock && fields > 0 => ours = reader.varint(field)? as u32,
            _ => reader.skip(field)?,
        }
        Ok(())
    })?;
    let heights = |field, expected, found| {
        let status = Problem::Heights {
            field,
            expected,
            found,
        };
        match kind {
            Kind::Status => WireError::new(at, status),
            _ => WireError::range(at, field, expected, found),
        }
    };
    let number = |field, value| Height::from_wire(value).ok_or(heights(field, "0 or more", value));
    let height = number("height", first)?;
    Ok(match kind {
        Kind::BlockRequest => Message::BlockRequest {
            height,
            count: ours,
        },
        Kind::NoBlock => Message::NoBlock { height },
        Kind::StatusRequest | Kind::Block => Message::StatusRequest,
        Kind::Status => {
            let base = number("base", second)?;
            // CometBFT stops the peer for it (`protocol.md` 4.2); 0 and 0 is an empty store.
            if base > height {
                return Err(heights("base", "at most the height", second));
            }
            Message::Status {
                height,
                base,
                // CometBFT's status has no such field: it answers one height at a time.
                max_range: ours.max(1),
            }
        }
    })
}

impl BlockResponse {
    /// The length of the whole message.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        let body = self.body_len();
        head_len(body) + body
    }

    /// Bytes in a message before a block of this length, and before its extended commit.
    #[must_use]
    pub fn gaps(block: usize, ext_commit: Option<usize>) -> [usize; 2] {
        let (heads, body) = Self::heads(block, ext_commit);
        [head_len(body) + heads[0], heads[1]]
    }

    /// Lengths of the heads of both fields, and of the body that they are in.
    fn heads(block: usize, ext_commit: Option<usize>) -> ([usize; 2], usize) {
        let heads = [head_len(block), ext_commit.map_or(0, head_len)];
        let parts = block + ext_commit.unwrap_or_default();
        (heads, heads[0] + heads[1] + parts)
    }

    /// Writes what stands in the [`gaps`](Self::gaps) of a message: a block and an extended commit
    /// that lie there become what [`encode`](Self::encode) makes of them.
    ///
    /// # Panics
    /// When `message` is shorter than its parts and their gaps.
    pub fn fill_gaps(message: &mut [u8], block: usize, ext_commit: Option<usize>) {
        let ([first, _], body) = Self::heads(block, ext_commit);
        let mut start = &mut message[..];
        put_head(&mut start, Kind::Block as u8, body);
        put_head(&mut start, 1, block);
        if let Some(ext_commit) = ext_commit {
            let behind = head_len(body) + first + block;
            put_head(&mut &mut message[behind..], 2, ext_commit);
        }
    }

    fn body_len(&self) -> usize {
        let lengths = self.fields().map(|(_, part)| part.len());
        lengths.map(|n| head_len(n) + n).sum()
    }

    /// The fields that are there, with their numbers. An extended commit that is there is written
    /// even when empty: absence means "not enabled".
    fn fields(&self) -> impl Iterator<Item = (u8, &Bytes)> {
        let block = std::iter::once((1, &self.block));
        let rest = [(2, &self.ext_commit), (OURS, &self.seen_commit)];
        let rest = rest
            .into_iter()
            .filter_map(|(n, part)| Some((n, part.as_ref()?)));
        block.chain(rest)
    }

    /// The whole `Message`, in one piece: one allocation and one copy.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(self.encoded_len());
        self.encode_to(&mut out);
        out.freeze()
    }

    /// Appends the whole `Message`, [`encoded_len`](Self::encoded_len) bytes.
    pub fn encode_to(&self, out: &mut impl BufMut) {
        put_head(out, Kind::Block as u8, self.body_len());
        for (number, part) in self.fields() {
            put_head(out, number, part.len());
            out.put_slice(part);
        }
    }
}
