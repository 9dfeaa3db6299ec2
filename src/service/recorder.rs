//! The flight recorder: everything that the pool is given goes to a file, so that what a node did
//! can be done again elsewhere.
//!
//! The reactor encodes, and hands chunks to a thread that writes them. It never waits: a chunk that
//! finds no room grows until it is full, and is lost then, which the recording says; a whole pool
//! follows from which a replay can go on. The file is a ring of two: when it has grown to half of
//! what it may have it becomes `FILE.old`, and a new one begins, with a whole pool again.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use serde::{Deserialize, Serialize};
use tracing::warn;

use super::config::system_clock;
use crate::pool::record::Encoder;
use crate::pool::{Effect, Input, Pool, Tick};

/// First bytes of a recording, with the version of its form.
const MAGIC: &[u8; 24] = b"blocksync recording v3\r\n";
/// Bytes at which a chunk goes to the writer.
const CHUNK: usize = 64 << 10;
/// Microseconds after which it goes there anyhow.
const FLUSH: u64 = 1_000_000;
/// Chunks that wait for the writer.
const CHUNKS: usize = 32;
/// Bytes of a part that is read for a replay: more than any setting should make of it.
const MOST: u64 = 4 << 30;

/// Where the flight recorder writes, and how much.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recording {
    /// The newer part; the older one is beside it, with `.old` after its name.
    pub file: PathBuf,
    /// Bytes of both parts together. A chunk and the whole pool at its beginning may come on top of
    /// each.
    pub bytes: u64,
}

impl Recording {
    /// A recording in this file, of 64 MiB.
    pub fn new(file: impl Into<PathBuf>) -> Self {
        Recording {
            file: file.into(),
            bytes: 64 << 20,
        }
    }
}

/// The older part of a recording.
fn older(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".old");
    name.into()
}

/// Words at the beginning of each part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RecordingHead {
    /// The version of the program, which alone is sure to read it.
    pub version: String,
    /// The chain.
    pub chain_id: String,
    /// When the service started, in nanoseconds of the Unix clock: the parts of one run have the
    /// same.
    pub started: i64,
    /// Number of the part in its run, from 0.
    pub part: u64,
}

impl RecordingHead {
    fn encode(&self) -> io::Result<Vec<u8>> {
        let words = serde_json::to_vec(self)?;
        Ok([&MAGIC[..], &words, b"\n"].concat())
    }
}

/// Bytes for the writer.
struct Chunk {
    /// The number of the part that they begin.
    begins: Option<u64>,
    bytes: Vec<u8>,
}

/// The reactor's end of the recorder.
pub(super) struct Recorder {
    encoder: Encoder,
    chunk: Vec<u8>,
    /// Bytes at which the chunk is full.
    full: usize,
    /// When the chunk's first input came or it last found no room, and how many inputs it has.
    since: Tick,
    inputs: u64,
    /// Inputs lost since the last whole pool.
    lost: u64,
    /// A whole pool has to come before the next input.
    anew: bool,
    /// The part under way, the bytes given to the writer for it, and how many it may have.
    part: u64,
    begins: bool,
    given: u64,
    half: u64,
    /// `None` when the writer has failed.
    writer: Option<SyncSender<Chunk>>,
    thread: JoinHandle<()>,
}

impl Recorder {
    /// Begins a recording; one that is there becomes the older part.
    pub(super) fn start(recording: &Recording, chain_id: &str) -> io::Result<Self> {
        let head = RecordingHead {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            chain_id: chain_id.to_owned(),
            started: i64::try_from(system_clock().as_nanos()).unwrap_or(i64::MAX),
            part: 0,
        };
        let file = begin(&recording.file, &head)?;
        let (writer, chunks) = sync_channel(CHUNKS);
        let path = recording.file.clone();
        let writing = move || {
            if let Err(error) = write(&path, head, file, &chunks) {
                warn!(file = %path.display(), %error, "the recording ends here");
            }
        };
        let named = std::thread::Builder::new().name("recorder".to_owned());
        Ok(Self::before(writer, named.spawn(writing)?, recording.bytes))
    }

    /// Before this writer, for a ring of this number of bytes.
    fn before(writer: SyncSender<Chunk>, thread: JoinHandle<()>, bytes: u64) -> Self {
        Recorder {
            encoder: Encoder::default(),
            chunk: Vec::with_capacity(CHUNK),
            full: CHUNK,
            since: Tick(0),
            inputs: 0,
            lost: 0,
            anew: true,
            part: 0,
            begins: false,
            given: 0,
            half: bytes / 2,
            writer: Some(writer),
            thread,
        }
    }

    /// Notes an input that the pool is about to be given.
    pub(super) fn input<B: Clone>(&mut self, pool: &Pool<B>, input: &Input<B>, now: Tick) {
        if self.writer.is_none() {
            return;
        }
        if self.inputs == 0 {
            self.since = now;
        }
        if std::mem::take(&mut self.anew) {
            if self.lost > 0 {
                self.encoder.lost(self.lost, &mut self.chunk);
            }
            self.encoder.pool(pool, now, &mut self.chunk);
        }
        self.encoder.input(input, now, &mut self.chunk);
        self.inputs += 1;
    }

    /// Notes all effects of that input.
    pub(super) fn effects<B>(&mut self, effects: &[Effect<B>], now: Tick) {
        if self.writer.is_none() {
            return;
        }
        self.encoder.effects(effects);
        if self.chunk.len() >= self.full || now.0.saturating_sub(self.since.0) >= FLUSH {
            self.flush();
            self.since = now;
        }
    }

    /// All that is noted and not given to the writer yet.
    fn take(&mut self) -> Chunk {
        self.encoder.digest(&mut self.chunk);
        Chunk {
            begins: self.begins.then_some(self.part),
            bytes: std::mem::replace(&mut self.chunk, Vec::with_capacity(CHUNK)),
        }
    }

    /// Gives the writer what there is. A chunk that finds no room stays until it is full, and is
    /// lost then.
    fn flush(&mut self) {
        let writer = self.writer.as_ref().filter(|_| self.inputs > 0);
        let Some(writer) = writer.cloned() else {
            return;
        };
        let chunk = self.take();
        let length = chunk.bytes.len();
        match writer.try_send(chunk) {
            Ok(()) => {
                (self.lost, self.begins) = (0, false);
                self.given += length as u64;
                if self.given >= self.half {
                    self.part += 1;
                    self.given = 0;
                    (self.begins, self.anew) = (true, true);
                }
            }
            Err(TrySendError::Full(kept)) if length < self.full => {
                self.chunk = kept.bytes;
                return;
            }
            Err(TrySendError::Full(_)) => {
                self.lost += self.inputs;
                self.anew = true;
            }
            Err(TrySendError::Disconnected(_)) => self.writer = None,
        }
        self.inputs = 0;
    }

    /// Writes what is left, and waits for it.
    pub(super) async fn end(mut self) {
        let last = (self.inputs > 0).then(|| self.take());
        let (writer, thread) = (self.writer, self.thread);
        let finish = move || {
            if let Some((writer, last)) = writer.zip(last) {
                let _ = writer.send(last);
            }
            thread.join()
        };
        let _ = tokio::task::spawn_blocking(finish).await;
    }
}

/// Makes a new file, which begins a part; a file of that name becomes the older part.
fn begin(path: &Path, head: &RecordingHead) -> io::Result<File> {
    match std::fs::rename(path, older(path)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = File::create(path)?;
    file.write_all(&head.encode()?)?;
    Ok(file)
}

fn write(
    path: &Path,
    mut head: RecordingHead,
    mut file: File,
    chunks: &Receiver<Chunk>,
) -> io::Result<()> {
    while let Ok(chunk) = chunks.recv() {
        if let Some(part) = chunk.begins {
            head.part = part;
            file = begin(path, &head)?;
        }
        file.write_all(frame_head(&chunk.bytes).as_flattened())?;
        file.write_all(&chunk.bytes)?;
    }
    Ok(())
}

/// The head of a chunk in the file: its length and its CRC-32, little-endian.
fn frame_head(chunk: &[u8]) -> [[u8; 4]; 2] {
    let length = u32::try_from(chunk.len()).expect("a chunk is a whole pool and little more");
    [length, crc32fast::hash(chunk)].map(u32::to_le_bytes)
}

/// Takes the frames of a part apart. `true` when the last one is not whole: the program was killed.
fn unframed(mut rest: &[u8]) -> Result<(Vec<u8>, bool), String> {
    let (mut chunks, whole) = (Vec::with_capacity(rest.len()), rest.len());
    while let Some((head, after)) = rest.split_first_chunk::<8>() {
        let [length, crc] = [0, 4].map(|at| {
            let word = [head[at], head[at + 1], head[at + 2], head[at + 3]];
            u32::from_le_bytes(word)
        });
        let Some((chunk, after)) = after.split_at_checked(length as usize) else {
            break;
        };
        if crc32fast::hash(chunk) != crc {
            let at = whole - rest.len();
            return Err(format!("it is damaged {at} bytes after its head"));
        }
        chunks.extend_from_slice(chunk);
        rest = after;
    }
    Ok((chunks, !rest.is_empty()))
}

/// A part of a recording in memory.
#[derive(Clone, Debug)]
struct Part {
    head: RecordingHead,
    entries: Vec<u8>,
    cut_off: bool,
}

/// The flaw of a file that is no recording.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NoRecording {
    /// The file cannot be read.
    #[error("{0}: {1}")]
    Unreadable(PathBuf, io::Error),
    /// The file is none, one of another form, or damaged.
    #[error("{0} is no recording that can be read: {1}")]
    Other(PathBuf, String),
}

/// A recording that was read back: one part, or two that follow each other.
#[derive(Clone, Debug)]
pub struct RecordingFile {
    parts: Vec<Part>,
}

impl RecordingFile {
    /// Reads a recording, and its older part where that is of the same run.
    ///
    /// # Errors
    /// When the file cannot be read, or is no recording.
    pub fn read(file: &Path) -> Result<Self, NoRecording> {
        let newer = read_part(file)?;
        let before = newer.head.part.checked_sub(1);
        let mut parts = Vec::new();
        if let (Some(before), Ok(part)) = (before, read_part(&older(file)))
            && (part.head.started, part.head.part) == (newer.head.started, before)
        {
            parts.push(part);
        }
        parts.push(newer);
        Ok(RecordingFile { parts })
    }

    /// The heads of the parts, the older one first.
    pub fn heads(&self) -> impl Iterator<Item = &RecordingHead> {
        self.parts.iter().map(|part| &part.head)
    }

    /// The entries of each part, the older one's first: for a
    /// [`Replay`](crate::pool::record::Replay) and its `go_on`.
    pub fn entries(&self) -> impl Iterator<Item = &[u8]> {
        self.parts.iter().map(|part| &part.entries[..])
    }

    /// Whether it ends within a chunk, which is left out: the program was killed.
    #[must_use]
    pub fn is_cut_off(&self) -> bool {
        self.parts.iter().any(|part| part.cut_off)
    }
}

fn read_part(path: &Path) -> Result<Part, NoRecording> {
    let unreadable = |error| NoRecording::Unreadable(path.to_owned(), error);
    let other = |why: &str| NoRecording::Other(path.to_owned(), why.to_owned());
    let length = std::fs::metadata(path).map_err(unreadable)?.len();
    if length > MOST {
        return Err(other("it has more than 4 GiB"));
    }
    let bytes = std::fs::read(path).map_err(unreadable)?;
    let rest = bytes
        .strip_prefix(MAGIC)
        .ok_or_else(|| other("it does not begin as one"))?;
    let line = rest.iter().position(|byte| *byte == b'\n');
    let line = line.ok_or_else(|| other("its head has no end"))?;
    let head: RecordingHead =
        serde_json::from_slice(&rest[..line]).map_err(|error| other(&error.to_string()))?;
    let (entries, cut_off) = unframed(&rest[line + 1..]).map_err(|why| other(&why))?;
    Ok(Part {
        head,
        entries,
        cut_off,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{ConnId, Height, PeerId};
    use crate::pool::PoolConfig;
    use crate::pool::record::{Replay, Step};

    /// Numbers of inputs that were recorded and lost when the writer was stuck for the first ten of
    /// fourteen, with room for two chunks.
    fn after_a_stuck_writer(full: usize) -> (u64, u64) {
        let (writer, chunks) = sync_channel(2);
        let thread = std::thread::spawn(|| ());
        let mut recorder = Recorder::before(writer, thread, 1 << 30);
        recorder.full = full;
        let mut pool =
            Pool::<()>::new(PoolConfig::default(), Height::ZERO, Height::new(1), Tick(0));
        let mut second = 0;
        let mut feed = |recorder: &mut Recorder| {
            second += 1;
            let (conn, peer) = (ConnId(second), PeerId([1; 20]));
            let (now, mut effects) = (Tick(second * FLUSH), Vec::new());
            for input in [Input::Up { conn, peer }, Input::Tick] {
                recorder.input(&pool, &input, now);
                pool.handle(input, now, &mut effects);
                recorder.effects(&effects, now);
                effects.clear();
            }
            recorder.flush();
        };
        (0..5).for_each(|_| feed(&mut recorder));
        let mut bytes: Vec<u8> = chunks.try_iter().flat_map(|chunk| chunk.bytes).collect();
        for _ in 0..2 {
            feed(&mut recorder);
            bytes.extend(chunks.try_iter().flat_map(|chunk| chunk.bytes));
        }
        let mut replay = Replay::new(&bytes);
        let (mut inputs, mut lost) = (0, 0);
        while let Some(step) = replay.step().unwrap() {
            match step {
                Step::Input { .. } => inputs += 1,
                Step::Lost(n) => lost += n,
                Step::Digest { recorded, replayed } => assert_eq!(recorded, replayed),
                _ => {}
            }
        }
        assert_eq!(replay.pool(), Some(&pool));
        (inputs, lost)
    }

    /// A writer that is stuck holds nobody up: what fills a chunk and finds no room is lost, the
    /// recording says how much, and goes on with a whole pool.
    #[test]
    fn a_stuck_writer_loses_inputs_and_says_so() {
        assert_eq!(after_a_stuck_writer(1), (6, 8));
    }

    #[test]
    fn a_stuck_writer_loses_nothing_while_a_chunk_has_room() {
        assert_eq!(after_a_stuck_writer(CHUNK), (14, 0));
    }
}
