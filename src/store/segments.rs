//! Files beside the database, appended to and never changed: the blocks' bytes, one after another,
//! and an application's longer values (`values`). The database holds where each lies and a
//! checksum.
//!
//! Why beside it: such bytes pass through once and are seldom read again soon. Here they are copied
//! into one aligned buffer and go from there to the disk past the page cache (`O_DIRECT`); in the
//! database each of them would be copied into pages twice and push out others. Where the file
//! system knows no `O_DIRECT`, the same writes go through the cache.
//!
//! # Order, and what a crash leaves behind
//! A batch's bytes are written and synced first; then the transaction that names them is committed.
//! Bytes behind the last of them that the database names are what a crash has left of a batch: they
//! are cut off at the next opening, as are files that hold nothing named. A file is removed only
//! after the transaction with which the last name in it went.
//!
//! Each batch begins at a multiple of `ALIGN`, so that no byte which has been named is ever
//! written again.
//!
//! # Bodies ahead of their time
//! A caller that commits one block at a time, and has the next ones in hand, may give them along
//! (`append_ahead`). Their bytes are written and synced with the batch that is due, so one sync of
//! this file, which grows and is the slowest to sync, covers them all. They are named when their
//! own batch comes with the same bytes. If it comes with others, they are written over, as is
//! what a crash left.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use rustix::buffer::spare_capacity;
#[cfg(target_os = "linux")]
use rustix::fs::OFlags;
#[cfg(target_os = "linux")]
use rustix::io::ReadWriteFlags;

use super::spaced::Buffer;
use super::tables::{ALIGN, Place};

/// Bytes that are written at a time.
const CHUNK: usize = 4 << 20;
/// A batch begins a new file when the last one has reached this size: what pruning frees at a time.
pub(super) const SEGMENT: u64 = if cfg!(test) { 1 << 20 } else { 128 << 20 };
/// Files that are kept open for reading.
const MAX_OPEN: usize = 32;
/// Suffix of a file's name.
const SUFFIX: &str = ".log";
/// Reads of this size and more go into buffers that are used again.
const LARGE_READ: usize = 128 << 10;
/// Buffers of at most this size are kept,
const MAX_SPARE_BYTES: usize = 2 << 20;
/// up to this number.
const MAX_SPARE: usize = 8;

/// A file's path.
fn path(dir: &Path, segment: u32) -> PathBuf {
    dir.join(format!("{segment:010}{SUFFIX}"))
}

/// The number in a file's name.
fn number(name: &Path) -> Option<u32> {
    let name = name.file_name()?.to_str()?;
    name.strip_suffix(SUFFIX)?.parse().ok()
}

/// Says which file failed.
fn at(path: &Path) -> impl FnOnce(io::Error) -> io::Error {
    move |why| io::Error::new(why.kind(), format!("{}: {why}", path.display()))
}

/// Reads a number of bytes, or up to the end of the file.
fn read_at(file: &File, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        let from = offset + bytes.len() as u64;
        if rustix::io::pread(file, spare_capacity(&mut bytes), from)? == 0 {
            break;
        }
    }
    bytes.truncate(len); // there may have been more room than was asked for
    Ok(bytes)
}

/// Reads what the kernel has in memory, up to the length of the buffer; gives the number of bytes.
#[cfg(target_os = "linux")]
fn read_at_once(file: &File, offset: u64, parts: &mut [&mut [u8]]) -> Option<usize> {
    let parts = parts.iter_mut().map(|part| io::IoSliceMut::new(part));
    let mut buffers: Vec<_> = parts.collect();
    rustix::io::preadv2(file, &mut buffers, offset, ReadWriteFlags::NOWAIT).ok()
}

/// Only Linux can say what it has in memory.
#[cfg(not(target_os = "linux"))]
fn read_at_once(_: &File, _: u64, _: &mut [&mut [u8]]) -> Option<usize> {
    None
}

/// Whether files here can be read from memory: not on each file system, and on Linux alone.
#[cfg(test)]
pub(crate) fn reads_from_memory(dir: &Path) -> bool {
    let path = dir.join("probe");
    fs::write(&path, [1]).expect("a file");
    let file = File::open(&path).expect("the same");
    let can = read_at_once(&file, 0, &mut [&mut [0]]) == Some(1);
    fs::remove_file(&path).expect("the same");
    if !can {
        println!("{}: nothing is read from memory here", dir.display());
    }
    can
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(at(dir))
}

/// The files, for reading. Shared by all readers.
#[derive(Debug)]
pub(super) struct Segments {
    dir: PathBuf,
    /// At most `MAX_OPEN` of them.
    open: Mutex<BTreeMap<u32, Arc<File>>>,
    spare: Arc<Spare>,
}

/// Buffers that wait to be used again: a server reads a megabyte at a time on one thread and lets
/// go of it on another, and memory that the allocator takes fresh each time costs more than the
/// reading. At most `MAX_SPARE` of `MAX_SPARE_BYTES`.
#[derive(Debug, Default)]
struct Spare(Mutex<Vec<Vec<u8>>>);

/// A buffer that goes back when it is dropped.
struct Reused {
    bytes: Vec<u8>,
    len: usize,
    spare: Arc<Spare>,
}

impl Spare {
    fn take(&self, len: usize) -> Vec<u8> {
        let mut spare = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = spare.iter().position(|buffer| buffer.len() >= len);
        fits.map_or_else(
            || vec![0; len.next_power_of_two()],
            |n| spare.swap_remove(n),
        )
    }

    fn give_back(&self, buffer: Vec<u8>) {
        let mut spare = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < MAX_SPARE && buffer.len() <= MAX_SPARE_BYTES {
            spare.push(buffer);
        }
    }
}

impl AsRef<[u8]> for Reused {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl AsMut<[u8]> for Reused {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }
}

impl Drop for Reused {
    fn drop(&mut self) {
        self.spare.give_back(std::mem::take(&mut self.bytes));
    }
}

impl Segments {
    pub(super) fn new(dir: PathBuf) -> Self {
        Segments {
            dir,
            open: Mutex::default(),
            spare: Arc::default(),
        }
    }

    /// The bytes at a place. An error of the kind `NotFound` or `UnexpectedEof` means that they are
    /// not there.
    pub(super) fn read(&self, place: Place, len: usize) -> io::Result<Bytes> {
        self.read_unnamed(place, len)
            .map_err(at(&path(&self.dir, place.segment)))
    }

    fn read_unnamed(&self, place: Place, len: usize) -> io::Result<Bytes> {
        let file = self.file(place.segment)?;
        // A damaged length must not cost memory that no file can fill. A short one costs little;
        // to ask for the file's size costs as much as to read.
        if len > MAX_SPARE_BYTES && place.offset.saturating_add(len as u64) > file.metadata()?.len()
        {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if !(LARGE_READ..=MAX_SPARE_BYTES).contains(&len) {
            let bytes = read_at(&file, place.offset, len)?;
            let whole = bytes.len() == len;
            return match whole {
                true => Ok(bytes.into()),
                false => Err(io::ErrorKind::UnexpectedEof.into()),
            };
        }
        let mut read = self.reused(len);
        file.read_exact_at(read.as_mut(), place.offset)?;
        Ok(Bytes::from_owner(read))
    }

    /// A buffer for this number of bytes.
    pub(super) fn buffer(&self, len: usize) -> Box<dyn Buffer> {
        Box::new(self.reused(len))
    }

    fn reused(&self, len: usize) -> Reused {
        Reused {
            bytes: self.spare.take(len),
            len,
            spare: self.spare.clone(),
        }
    }

    /// Fills these with the bytes at a place, if the kernel has them all in memory and the file has
    /// been read before: this waits for no disk.
    pub(super) fn read_from_memory(&self, place: Place, parts: &mut [&mut [u8]]) -> Option<()> {
        // Another thread may be opening a file under the lock.
        let file = self.open.try_lock().ok()?.get(&place.segment)?.clone();
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let there = read_at_once(&file, place.offset, parts)?;
        (there == len).then_some(())
    }

    /// Bytes at a place, at most the number given; fewer where the file ends, none behind it.
    pub(super) fn read_up_to(&self, place: Place, most: usize) -> io::Result<Bytes> {
        let file = self.file(place.segment);
        file.and_then(|file| read_at(&file, place.offset, most))
            .map(Bytes::from)
            .map_err(at(&path(&self.dir, place.segment)))
    }

    fn file(&self, segment: u32) -> io::Result<Arc<File>> {
        // Nothing that panics is done under the lock.
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = open.get(&segment) {
            return Ok(file.clone());
        }
        let file = Arc::new(File::open(path(&self.dir, segment))?);
        if open.len() >= MAX_OPEN {
            open.pop_first();
        }
        open.insert(segment, file.clone());
        Ok(file)
    }

    /// Writes bytes over those that lie at a place, and makes them durable. For repairs only: what
    /// is there is damaged.
    pub(super) fn overwrite(&self, place: Place, bytes: &[u8]) -> io::Result<()> {
        let path = path(&self.dir, place.segment);
        let file = OpenOptions::new()
            .write(true)
            .open(&path)
            .map_err(at(&path))?;
        file.write_all_at(bytes, place.offset)
            .and_then(|()| file.sync_all())
            .map_err(at(&path))
    }

    /// Files below this one have been removed.
    fn forget_below(&self, segment: u32) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        *open = open.split_off(&segment);
    }
}

/// A buffer that begins at a multiple of `ALIGN`.
#[derive(Debug)]
struct Aligned {
    space: Vec<u8>,
    start: usize,
    filled: usize,
}

impl Aligned {
    fn new() -> Self {
        let space = vec![0; CHUNK + ALIGN];
        let start = space.as_ptr().align_offset(ALIGN);
        Aligned {
            space,
            start,
            filled: 0,
        }
    }

    /// Takes what there is room for; returns the rest.
    fn take<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let (now, later) = bytes.split_at(bytes.len().min(CHUNK - self.filled));
        let from = self.start + self.filled;
        self.space[from..from + now.len()].copy_from_slice(now);
        self.filled += now.len();
        later
    }

    fn is_full(&self) -> bool {
        self.filled == CHUNK
    }

    /// The buffered bytes, with zeros up to a multiple of `ALIGN`.
    fn padded(&mut self) -> &[u8] {
        let end = self.filled.next_multiple_of(ALIGN);
        self.space[self.start + self.filled..self.start + end].fill(0);
        &self.space[self.start..self.start + end]
    }
}

/// The end of the last file. Held by the store's one writer.
#[derive(Debug)]
pub(super) struct Appender {
    segments: Arc<Segments>,
    lowest: u32,
    segment: u32,
    file: Option<File>,
    direct: bool,
    /// End of the bytes that the database names, padded.
    durable: u64,
    /// End of the bytes that have been synced, named or ahead of it, padded.
    synced: u64,
    /// End of the bytes given to the kernel.
    written: u64,
    buffer: Aligned,
    /// Bodies behind `durable` that are not named yet. Bounded by what the caller gives along with
    /// one batch: no more are taken before these are named.
    ahead: VecDeque<Body>,
    /// Number of them that the batch under way names.
    named: usize,
    /// End of the last body that is named, by the batch under way or before.
    named_end: u64,
}

/// A body, and where it lies.
#[derive(Debug)]
struct Body {
    place: Place,
    pieces: [Bytes; 2],
}

impl Body {
    fn end(&self) -> Place {
        let [first, second] = &self.pieces;
        self.place.after(first.len()).after(second.len())
    }

    /// Whether these are its bytes. Mostly they are the very same memory.
    fn is(&self, pieces: [&[u8]; 2]) -> bool {
        let same = |(a, b): (&Bytes, &[u8])| std::ptr::eq(&**a, b) || **a == *b;
        self.pieces.iter().zip(pieces).all(same)
    }
}

impl Appender {
    /// Goes on behind `end`, where the last block that the database names ends; `first` is where
    /// its first block begins. Everything else there is removed.
    pub(super) fn open(segments: Arc<Segments>, first: Place, end: Place) -> io::Result<Self> {
        let dir = segments.dir.clone();
        for entry in fs::read_dir(&dir).map_err(at(&dir))? {
            let path = entry?.path();
            if number(&path).is_some_and(|n| !(first.segment..=end.segment).contains(&n)) {
                fs::remove_file(&path).map_err(at(&path))?;
            }
        }
        let durable = end.offset.next_multiple_of(ALIGN as u64);
        let mut appender = Appender {
            lowest: first.segment,
            segment: end.segment,
            file: None,
            direct: cfg!(target_os = "linux"),
            durable,
            synced: durable,
            written: durable,
            buffer: Aligned::new(),
            ahead: VecDeque::new(),
            named: 0,
            named_end: durable,
            segments,
        };
        let path = path(&dir, end.segment);
        let is_new = end.offset == 0;
        let file = appender.open_file(is_new)?;
        // Cuts off the bytes that a crash has left behind the end. Not synced: they are named
        // nowhere.
        file.set_len(durable).map_err(at(&path))?;
        appender.file = Some(file);
        // The file's name must survive a power loss as its content does.
        if is_new {
            sync_dir(&dir)?;
        }
        Ok(appender)
    }

    /// Opens the last file, past the page cache where that is possible.
    fn open_file(&mut self, create: bool) -> io::Result<File> {
        let path = path(&self.segments.dir, self.segment);
        let mut options = OpenOptions::new();
        options.write(true).create(create);
        #[cfg(target_os = "linux")]
        if self.direct {
            let flags = i32::try_from(OFlags::DIRECT.bits()).expect("a flag of the system's open");
            match options.clone().custom_flags(flags).open(&path) {
                // The file system has no `O_DIRECT`: the cache does as well.
                Err(why) if why.kind() == io::ErrorKind::InvalidInput => self.direct = false,
                other => return other.map_err(at(&path)),
            }
        }
        options.open(&path).map_err(at(&path))
    }

    /// A batch begins: what a batch that was given up has left is forgotten.
    pub(super) fn begin(&mut self) -> io::Result<()> {
        self.buffer.filled = 0;
        self.named = 0;
        self.named_end = self.durable;
        if self
            .ahead
            .back()
            .is_some_and(|last| last.end().offset > self.synced)
        {
            // They came with a batch that was given up before it was synced.
            self.ahead.clear();
        }
        if self.ahead.is_empty() {
            self.synced = self.durable;
        }
        self.written = self.synced;
        // Bodies ahead have their places in this file.
        if self.durable < SEGMENT || !self.ahead.is_empty() {
            return Ok(());
        }
        // A walk over the file finds nothing behind its end.
        let full = self.file.as_ref().expect("opened with the appender");
        full.set_len(self.durable)?;
        self.segment += 1;
        self.durable = 0;
        self.named_end = 0;
        self.synced = 0;
        self.written = 0;
        self.file = Some(self.open_file(true)?);
        sync_dir(&self.segments.dir)
    }

    /// Appends a body; returns where it will lie.
    pub(super) fn append(&mut self, pieces: [&[u8]; 2]) -> io::Result<Place> {
        if let Some(body) = self.ahead.get(self.named) {
            if body.is(pieces) {
                self.named += 1;
                self.named_end = body.end().offset;
                return Ok(body.place);
            }
            self.forget_ahead();
        }
        let place = self.append_behind(pieces)?;
        self.named_end = self.written + self.buffer.filled as u64;
        Ok(place)
    }

    /// Appends a body that a later batch will name, if none is left of those before. To be called
    /// after all bodies of the batch under way.
    pub(super) fn append_ahead(&mut self, bodies: &[[&Bytes; 2]]) -> io::Result<()> {
        if self.named < self.ahead.len() {
            return Ok(());
        }
        for pieces in bodies {
            let place = self.append_behind([pieces[0], pieces[1]])?;
            let pieces = pieces.map(Bytes::clone);
            self.ahead.push_back(Body { place, pieces });
        }
        Ok(())
    }

    /// Another body came than was expected: the next ones are written over what is ahead.
    fn forget_ahead(&mut self) {
        self.ahead.truncate(self.named);
        self.synced = self.named_end.next_multiple_of(ALIGN as u64);
        self.written = self.synced;
    }

    fn append_behind(&mut self, pieces: [&[u8]; 2]) -> io::Result<Place> {
        let place = Place {
            segment: self.segment,
            offset: self.written + self.buffer.filled as u64,
        };
        for mut rest in pieces {
            while !rest.is_empty() {
                rest = self.buffer.take(rest);
                if self.buffer.is_full() {
                    self.write_out()?;
                }
            }
        }
        Ok(place)
    }

    /// Gives the buffer to the kernel.
    fn write_out(&mut self) -> io::Result<()> {
        let path = path(&self.segments.dir, self.segment);
        let file = self.file.as_ref().expect("opened with the appender");
        let bytes = self.buffer.padded();
        let mut result = file.write_all_at(bytes, self.written);
        if self.direct && matches!(&result, Err(why) if why.kind() == io::ErrorKind::InvalidInput) {
            // Some file systems take the flag and then refuse the write.
            self.direct = false;
            let file = self.open_file(false)?;
            result = file.write_all_at(self.buffer.padded(), self.written);
            self.file = Some(file);
        }
        result.map_err(at(&path))?;
        // With its padding, so that the next write begins where `O_DIRECT` lets it.
        self.written += self.buffer.padded().len() as u64;
        self.buffer.filled = 0;
        Ok(())
    }

    /// Makes everything that was appended durable.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        if self.buffer.filled > 0 {
            self.write_out()?;
        }
        if self.written == self.synced {
            return Ok(());
        }
        let path = path(&self.segments.dir, self.segment);
        let file = self.file.as_ref().expect("opened with the appender");
        // The system's `fdatasync` covers the file's new length, without which the bytes could not
        // be read.
        file.sync_data().map_err(at(&path))?;
        self.synced = self.written;
        Ok(())
    }

    /// The transaction that names what was appended is durable; nothing before `keep_from` is named
    /// any more.
    pub(super) fn committed(&mut self, keep_from: Option<Place>) {
        self.ahead.drain(..self.named);
        self.named = 0;
        self.durable = if self.ahead.is_empty() {
            self.written
        } else {
            self.named_end.next_multiple_of(ALIGN as u64)
        };
        let keep = keep_from.map_or(self.lowest, |place| place.segment);
        if keep <= self.lowest {
            return;
        }
        self.segments.forget_below(keep);
        for segment in self.lowest..keep {
            // One that cannot be removed now goes at the next opening.
            let _ = fs::remove_file(path(&self.segments.dir, segment));
        }
        self.lowest = keep;
    }
}

#[cfg(test)]
#[path = "segments_tests.rs"]
mod tests;
