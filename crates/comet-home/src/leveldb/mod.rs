//! LevelDB's files, as goleveldb reads and writes them: sorted tables, a manifest that names them,
//! and logs.
//!
//! [`Builder`] writes a database whose keys come in order, straight into tables: no log, no
//! compaction, everything synced. [`Database`] reads one that nobody has open, and changes nothing:
//! a log that was not yet made a table is held in memory, which goleveldb bounds by its write
//! buffer.

mod build;
mod log;
mod manifest;
mod read;
mod table;

use std::path::{Path, PathBuf};

use blocksync::varint;

pub(crate) use build::sync_dir;
pub use build::{Builder, Run};
pub use read::Database;

/// Why a database cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// The disk failed.
    #[error("{path}: {why}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The system's words.
        why: std::io::Error,
    },
    /// A file does not hold what it should.
    #[error("{path} is damaged: {why}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The flaw, and where it is.
        why: String,
    },
    /// Another process has the database open.
    #[error("{0} is in use: stop the process that has it open first")]
    InUse(PathBuf),
}

impl DbError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        |why| DbError::Io {
            path: path.to_owned(),
            why,
        }
    }

    fn damaged(path: &Path, why: impl Into<String>) -> Self {
        DbError::Damaged {
            path: path.to_owned(),
            why: why.into(),
        }
    }
}

/// The comparator's name, in every manifest.
const COMPARATOR: &[u8] = b"leveldb.BytewiseComparator";
/// The end of every table.
const MAGIC: u64 = 0xdb47_7524_8b80_fb57;
/// Bytes of a table's end: two handles, padded, and `MAGIC`.
const FOOTER: usize = 48;
/// Bytes behind a table's block: its compression and checksum.
const TRAILER: usize = 5;
/// Bytes behind a user's key: a sequence number and the kind of the entry.
const SUFFIX: usize = 8;
/// Levels that LevelDB has; goleveldb takes more, and we read them.
const BOTTOM_LEVEL: u32 = 6;

/// A checksum as it is stored: LevelDB masks it, since a file with checksums may be checksummed
/// itself.
fn masked_crc(pieces: &[&[u8]]) -> u32 {
    let crc = (pieces.iter()).fold(0, |crc, piece| crc32c::crc32c_append(crc, piece));
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

fn put_slice(out: &mut Vec<u8>, slice: &[u8]) {
    varint::put(slice.len() as u64, out);
    out.extend_from_slice(slice);
}

/// A key with the suffix that tables store.
fn internal_key(key: &[u8], sequence: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(key.len() + SUFFIX);
    out.extend_from_slice(key);
    out.extend_from_slice(&(sequence << 8 | Kind::Value as u64).to_le_bytes());
    out
}

/// The kinds of entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Deletion = 0,
    Value = 1,
}

/// A user's key out of one with a suffix, with its sequence number and kind.
fn split_internal(key: &[u8]) -> Option<(&[u8], u64, Kind)> {
    let (user, suffix) = key.split_last_chunk::<SUFFIX>()?;
    let packed = u64::from_le_bytes(*suffix);
    let kind = match packed & 0xff {
        0 => Kind::Deletion,
        1 => Kind::Value,
        _ => return None,
    };
    Some((user, packed >> 8, kind))
}

/// Reads numbers and byte strings one after another.
#[derive(Clone, Copy)]
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn varint(&mut self) -> Option<u64> {
        match varint::read(self.0) {
            varint::Read::Value(value, size) => {
                self.0 = &self.0[size..];
                Some(value)
            }
            varint::Read::Short | varint::Read::TooLong => None,
        }
    }

    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(head)
    }

    fn slice(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(self.varint()?).ok()?;
        self.take(len)
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests;
