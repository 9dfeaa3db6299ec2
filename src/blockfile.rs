//! A file of blocks, as a peer to sync from.
//!
//! The file is `BlockResponse` messages of consecutive heights, each behind its length as a varint,
//! as `blocksync export` writes them. One pass over the lengths finds where the records are and
//! that the file is whole; a record is read when its height is asked for. The service proves its
//! blocks as those of any peer.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::task::JoinHandle;

use crate::chain::Fetched;
use crate::ids::{Height, PeerId};
use crate::link::gate::{Gate, Gone};
use crate::link::{Inbound, Link, LinkEnd};
use crate::varint;
use crate::wire::codec::{LengthError, read_length};
use crate::wire::message::{BlockResponse, Kind};
use crate::wire::{Limits, Message, decode, guard};

/// Interval of records whose place is kept; between two of them lengths are followed. A chain of
/// any length stays small.
const STRIDE: u64 = 64;
/// The first byte of a record: the tag of its block.
const BLOCK_TAG: u8 = 0x0a;
/// The first byte of a `Message` that is a block.
const MESSAGE_TAG: u8 = 0x1a;
/// The longest length prefix.
const MAX_PREFIX: usize = 5;
/// Heights that a request may ask for at once.
const MAX_RANGE: u32 = 64;
/// Bytes that are read before they are handed on.
const READ_BYTES: usize = 1 << 20;

/// An error in a file, and its place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[error("{file}: {}at byte offset {offset}: {why}", .height.map(|h| format!("block {h} ")).unwrap_or_default())]
pub struct Flaw {
    /// The file.
    pub file: String,
    /// The height that belongs there, when it is known.
    pub height: Option<Height>,
    /// Where the record begins, its length prefix included.
    pub offset: u64,
    /// Expected and found, in words.
    pub why: String,
}

/// An indexed file.
#[derive(Debug)]
pub struct BlockFile {
    path: PathBuf,
    file: BufReader<File>,
    /// Places of the records number 0, `STRIDE`, 2 × `STRIDE`, …
    places: Vec<u64>,
    records: u64,
    size: u64,
    first: Height,
    /// Number of the record at which `file` stands, and its place.
    cursor: (u64, u64),
    /// A commit for the last block that the file does not hold.
    tip_commit: Option<Bytes>,
    /// Whether the last block can be proven.
    proven_tip: bool,
    limits: Limits,
}

impl BlockFile {
    /// Finds the records of a file. `tip_commit`, an encoded `Commit`, is sent with the last block
    /// unless its record has one.
    ///
    /// # Errors
    /// A flaw that shows without looking into the blocks: a file that ends within a record, a
    /// length that is none.
    pub fn open(path: &Path, tip_commit: Option<Bytes>) -> Result<Self, Flaw> {
        let nowhere = |why: String| Flaw {
            file: path.display().to_string(),
            height: None,
            offset: 0,
            why,
        };
        let file = File::open(path).map_err(|e| nowhere(e.to_string()))?;
        let size = file.metadata().map_err(|e| nowhere(e.to_string()))?.len();
        let mut found = BlockFile {
            path: path.to_owned(),
            file: BufReader::with_capacity(256 << 10, file),
            places: Vec::new(),
            records: 0,
            size,
            first: Height::ZERO,
            cursor: (0, 0),
            tip_commit,
            proven_tip: false,
            limits: Limits::default(),
        };
        found.index()?;
        let record = found.record(0)?;
        found.first = found.height_of(&record, 0)?;
        // Looked at now, because it decides how far the file can prove itself.
        let last = found.record(found.records - 1)?;
        let decoded = Message::decode(&last).ok();
        let has_own = matches!(decoded, Some(Message::Block(b)) if b.seen_commit.is_some());
        if has_own {
            found.tip_commit = None;
        }
        found.proven_tip = has_own || found.tip_commit.is_some();
        Ok(found)
    }

    /// A peer for [`Handle::add_peer`](crate::service::Handle::add_peer) that answers from the
    /// file, and the task that does so until the link ends. It gives the flaw that ended the link,
    /// if one did. The peer's id is made of the file's name.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    #[must_use = "the task knows the flaw that ended the link"]
    pub fn connect(self) -> (Link, JoinHandle<Option<Flaw>>) {
        let address = format!("file {}", self.name());
        let digest = Sha256::digest(&address);
        let id = PeerId::from_slice(&digest[..20]).expect("20 bytes");
        let (link, end) = Link::pair(id, address);
        (link, tokio::spawn(answer(self, end)))
    }

    /// The height of the first block.
    #[must_use]
    pub fn first(&self) -> Height {
        self.first
    }

    /// The height of the last block.
    #[must_use]
    pub fn last(&self) -> Height {
        self.first.plus(self.records - 1)
    }

    /// The last height that can be proven: without a commit for the last block, the one before it.
    #[must_use]
    pub fn provable(&self) -> Height {
        if self.proven_tip {
            self.last()
        } else {
            self.last().prev()
        }
    }

    fn status(&self) -> Bytes {
        Message::Status {
            base: self.first(),
            height: self.last(),
            max_range: MAX_RANGE,
        }
        .encode()
    }

    /// The file's path.
    #[must_use]
    pub fn name(&self) -> String {
        self.path.display().to_string()
    }

    /// The pass over the lengths.
    fn index(&mut self) -> Result<(), Flaw> {
        let mut at = 0;
        while at < self.size {
            if self.records.is_multiple_of(STRIDE) {
                self.places.push(at);
            }
            let (prefix, length) = self.prefix(at)?;
            // The file may have grown since it was measured.
            let rest = self.size.saturating_sub(at + prefix);
            if length > rest {
                return Err(self.flaw(
                    at,
                    format!("the file is cut off: {length} bytes were to follow, {rest} do"),
                ));
            }
            let tag = self.byte().map_err(|e| self.flaw(at, e.to_string()))?;
            if tag != BLOCK_TAG {
                return Err(self.flaw(
                    at,
                    format!("no BlockResponse: it begins with byte {tag:#04x}, not {BLOCK_TAG:#04x}; is this a file of blocks?"),
                ));
            }
            // Only lengths and first bytes are read here: a chain of hundreds of GB is
            // indexed in a pass of seeks.
            self.skip(length - 1)
                .map_err(|e| self.flaw(at, e.to_string()))?;
            at += prefix + length;
            self.records += 1;
        }
        if self.records == 0 {
            return Err(self.flaw(0, "the file is empty".into()));
        }
        self.seek_to(0, 0)
    }

    /// The length that stands where the file stands, which is at `at`: of the prefix, and of the
    /// record.
    fn prefix(&mut self, at: u64) -> Result<(u64, u64), Flaw> {
        let limit = self.limits.block_message;
        let mut bytes = Vec::with_capacity(MAX_PREFIX);
        loop {
            match self.byte() {
                Ok(byte) => bytes.push(byte),
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                    return Err(self.flaw(at, "the file is cut off within a length".into()));
                }
                Err(e) => return Err(self.flaw(at, e.to_string())),
            }
            let length = match read_length(&bytes, limit) {
                Ok(Some((size, length))) if length > 0 => return Ok((size as u64, length as u64)),
                Ok(None) if bytes.len() < MAX_PREFIX => continue,
                Ok(Some(_)) => 0,
                Err(LengthError::TooLong { length, .. }) => length,
                Ok(None) | Err(LengthError::NotVarint) => {
                    return Err(self.flaw(at, "no length where the next block was to begin".into()));
                }
            };
            return Err(self.flaw(
                at,
                format!("a block of {length} bytes; from 1 to {limit} are possible"),
            ));
        }
    }

    fn byte(&mut self) -> io::Result<u8> {
        let mut byte = [0];
        self.file.read_exact(&mut byte)?;
        Ok(byte[0])
    }

    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        self.file
            .seek_relative(i64::try_from(bytes).map_err(io::Error::other)?)
    }

    fn seek_to(&mut self, number: u64, at: u64) -> Result<(), Flaw> {
        self.file
            .seek(SeekFrom::Start(at))
            .map_err(|e| self.flaw(at, e.to_string()))?;
        self.cursor = (number, at);
        Ok(())
    }

    fn flaw(&self, offset: u64, why: String) -> Flaw {
        // The cursor tells the record's number, and thereby its height, only
        // where it stands at the flaw.
        let known = self.first > Height::ZERO && self.cursor.1 == offset;
        Flaw {
            file: self.name(),
            height: known.then(|| self.first.plus(self.cursor.0)),
            offset,
            why,
        }
    }

    /// Moves to a record. Blocks are asked for in about ascending order, so that this is seldom
    /// far.
    fn go_to(&mut self, number: u64) -> Result<(), Flaw> {
        let (at, _) = self.cursor;
        // Otherwise following the lengths from here reads less than going back to a kept place.
        if number < at || number - at > STRIDE {
            let stride = number / STRIDE;
            let place = usize::try_from(stride)
                .ok()
                .and_then(|n| self.places.get(n).copied());
            let place = place.ok_or_else(|| self.flaw(self.size, "no such record".into()))?;
            self.seek_to(stride * STRIDE, place)?;
        }
        while self.cursor.0 < number {
            let (n, place) = self.cursor;
            let (prefix, length) = self.prefix(place)?;
            self.skip(length)
                .map_err(|e| self.flaw(place, e.to_string()))?;
            self.cursor = (n + 1, place + prefix + length);
        }
        Ok(())
    }

    /// A record as a `Message`: it is that message's field of `MESSAGE_TAG`.
    fn record(&mut self, number: u64) -> Result<Bytes, Flaw> {
        self.go_to(number)?;
        let (n, place) = self.cursor;
        let (prefix, length) = self.prefix(place)?;
        let size = usize::try_from(length).map_err(|e| self.flaw(place, e.to_string()))?;
        let mut message = Vec::with_capacity(1 + MAX_PREFIX + size);
        message.push(MESSAGE_TAG);
        varint::put(length, &mut message);
        let head = message.len();
        message.resize(head + size, 0);
        self.file
            .read_exact(&mut message[head..])
            .map_err(|e| self.flaw(place, e.to_string()))?;
        // The file stands behind the record now, so the next one in order needs no seek.
        self.cursor = (n + 1, place + prefix + length);
        Ok(message.into())
    }

    /// The height that a record's header names.
    fn height_of(&self, message: &[u8], offset: u64) -> Result<Height, Flaw> {
        let peeked = guard::peek(message).map_err(|e| self.flaw(offset, e.to_string()))?;
        peeked
            .height
            .ok_or_else(|| self.flaw(offset, "a block without a height".into()))
    }

    /// Where a height's record begins.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn offset(&mut self, height: Height) -> Result<u64, Flaw> {
        // A height beyond the file's end gives the last record, the place where the end is.
        self.go_to(height.above(self.first).min(self.records - 1))?;
        Ok(self.cursor.1)
    }

    /// The `Message` for a height that the file has.
    ///
    /// # Errors
    /// When the record does not hold that height.
    fn message(&mut self, height: Height) -> Result<Bytes, Flaw> {
        let number = height.above(self.first);
        self.go_to(number)?;
        let place = self.cursor.1;
        let message = self.record(number)?;
        let found = self.height_of(&message, place)?;
        if found != height {
            let mut flaw = self.flaw(
                place,
                format!("it holds block {found}; heights must follow each other"),
            );
            flaw.height = Some(height);
            return Err(flaw);
        }
        match (&self.tip_commit, height == self.last()) {
            (Some(commit), true) => Ok(with_commit(&message, commit)),
            _ => Ok(message),
        }
    }

    /// The consecutive messages from `from` up to `through`, as many as fit into one read.
    fn messages(&mut self, from: Height, through: Height) -> Result<Vec<Bytes>, Flaw> {
        let (mut found, mut bytes, mut height) = (Vec::new(), 0, from);
        while height <= through && bytes < READ_BYTES {
            let message = match self.message(height) {
                Ok(message) => message,
                // Those before it are good, and go first; the next read meets the flaw again.
                Err(_) if !found.is_empty() => break,
                Err(flaw) => return Err(flaw),
            };
            bytes += message.len();
            found.push(message);
            height = height.next();
        }
        Ok(found)
    }

    /// The block of a height, decoded and hashed; the flaw tells where it does not decode.
    fn fetched(&mut self, height: Height) -> Result<(Fetched, u64), Flaw> {
        let offset = self.offset(height)?;
        let message = self.message(height)?;
        let decoded = decode::fetched(&message, &self.limits);
        decoded.map(|block| (block, offset)).map_err(|e| Flaw {
            height: Some(height),
            ..self.flaw(offset, e.to_string())
        })
    }

    /// Looks for the first block, from a height up, that does not decode or does not fit its
    /// neighbours. For a file that was refused: it finds the place of what was altered, unless only
    /// the last block was.
    pub fn examine(&mut self, from: Height) -> Option<Flaw> {
        let from = from.max(self.first);
        let mut before: Option<(Fetched, u64)> = None;
        let mut height = from;
        while height <= self.last() {
            let (block, offset) = match self.fetched(height) {
                Ok(found) => found,
                Err(flaw) => return Some(flaw),
            };
            // A header binds its parent's id, and with it every byte of the block below.
            if let Some((parent, at)) = &before
                && block.block.header.last_block_id != parent.id
            {
                return Some(self.broken_link(parent, *at, &block, offset));
            }
            before = Some((block, offset));
            height = height.next();
        }
        None
    }

    /// Which of two neighbours was altered: the upper one, if the block above does not name it
    /// either.
    fn broken_link(&mut self, lower: &Fetched, at: u64, upper: &Fetched, above: u64) -> Flaw {
        let next = self.fetched(upper.height().next()).ok();
        // At the end of the file nothing names the upper one; the lower is blamed then.
        let upper_is_good = next.is_none_or(|(n, _)| n.block.header.last_block_id == upper.id);
        let (height, offset) = if upper_is_good {
            (lower.height(), at)
        } else {
            (upper.height(), above)
        };
        Flaw {
            file: self.name(),
            height: Some(height),
            offset,
            why: format!(
                "the file was altered here: block {} has id {}, the block above it names {} as its predecessor",
                lower.height(),
                lower.id,
                upper.block.header.last_block_id
            ),
        }
    }
}

/// The message with a commit for its block. One that does not open is left as it is: the service
/// will say so.
fn with_commit(message: &Bytes, commit: &Bytes) -> Bytes {
    match Message::decode(message) {
        Ok(Message::Block(response)) => BlockResponse {
            seen_commit: Some(commit.clone()),
            ..response
        }
        .encode(),
        _ => message.clone(),
    }
}

/// A `BlockResponse` as it stands in a file: behind its length.
#[must_use]
pub fn to_record(response: &BlockResponse) -> Bytes {
    // In a message the response is the only field: its tag, its length, its bytes.
    response.encode().slice(1..)
}

/// Answers a node from the file until it hangs up, or a flaw shows, which ends the link.
async fn answer(file: BlockFile, end: LinkEnd) -> Option<Flaw> {
    let LinkEnd {
        inbox,
        mut outbox,
        hangup,
    } = end;
    let mut gate = Gate::new(inbox);
    let work = async {
        let mut file = file;
        // A peer says what it has as soon as it is there.
        gate.send(file.status()).await.ok()?;
        while let Some(request) = outbox.recv().await {
            match answer_one(file, &request, &mut gate).await {
                Ok(back) => file = back,
                Err(Ended::Gone) => return None,
                Err(Ended::Flaw(found)) => return Some(found),
            }
        }
        None
    };
    let found = tokio::select! {
        // A hang-up goes before one more answer, which nobody would read.
        biased;
        () = hangup.cancelled() => None,
        found = work => found,
    }?;
    gate.close(Inbound::Closed(found.to_string())).await;
    Some(found)
}

/// Why answering ended.
enum Ended {
    Gone,
    Flaw(Flaw),
}

impl From<Gone> for Ended {
    fn from(_: Gone) -> Self {
        Ended::Gone
    }
}

async fn answer_one(
    mut file: BlockFile,
    request: &Bytes,
    gate: &mut Gate,
) -> Result<BlockFile, Ended> {
    if guard::peek(request).is_ok_and(|p| p.kind == Kind::Block) {
        return Ok(file); // nobody asked for it
    }
    match Message::decode_small(request) {
        Ok(Message::StatusRequest) => {
            gate.send(file.status()).await?;
        }
        Ok(Message::BlockRequest { height, count }) => {
            // A count of 0 is CometBFT's request for one height.
            let end = height.plus(u64::from(count.clamp(1, MAX_RANGE)));
            let mut next = height;
            while next < end {
                if next < file.first() || next > file.last() {
                    gate.send(Message::NoBlock { height: next }.encode())
                        .await?;
                    next = next.next();
                    continue;
                }
                let through = end.prev().min(file.last());
                let (back, messages) = read(file, next, through).await?;
                file = back;
                for message in messages {
                    gate.send(message).await?;
                    next = next.next();
                }
            }
        }
        // The node's heights are of no interest to a file, and it is our own service that sends
        // them.
        _ => {}
    }
    Ok(file)
}

async fn read(
    mut file: BlockFile,
    from: Height,
    through: Height,
) -> Result<(BlockFile, Vec<Bytes>), Ended> {
    // The file moves to the blocking thread and back, so that no disk read holds up the runtime.
    let read = tokio::task::spawn_blocking(move || {
        let messages = file.messages(from, through);
        (file, messages)
    });
    // It ends early only with the runtime.
    let (file, messages) = read.await.map_err(|_| Ended::Gone)?;
    Ok((file, messages.map_err(Ended::Flaw)?))
}
