//! Reading one table.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Cursor, DbError, FOOTER, MAGIC, TRAILER, masked_crc, split_internal};

/// A key and its value.
type Entry = (Vec<u8>, Vec<u8>);

/// The largest block that is read: a value is at most a part of a block or a commit, far below.
const MAX_BLOCK: u64 = 256 << 20;

/// Where a block lies in a table's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Handle {
    offset: u64,
    size: u64,
}

impl Handle {
    fn read(c: &mut Cursor<'_>) -> Option<Self> {
        Some(Handle {
            offset: c.varint()?,
            size: c.varint()?,
        })
    }
}

/// A table that is open, with its index.
pub(super) struct Table {
    path: PathBuf,
    file: File,
    size: u64,
    index: Vec<(Vec<u8>, Handle)>,
}

/// The entries of one block, whose keys have their suffixes.
pub(super) type Entries = Arc<Vec<(Vec<u8>, Vec<u8>)>>;

impl Table {
    pub(super) fn open(path: &Path, size: u64) -> Result<Self, DbError> {
        let file = File::open(path).map_err(DbError::io(path))?;
        let found = file.metadata().map_err(DbError::io(path))?.len();
        // A copy that was cut short shows here, and not as a key that is missing.
        if found != size || size < FOOTER as u64 {
            return Err(DbError::damaged(
                path,
                format!("it has {found} bytes, its manifest says {size}"),
            ));
        }
        let mut footer = [0; FOOTER];
        (file.read_exact_at(&mut footer, size - FOOTER as u64)).map_err(DbError::io(path))?;
        let (handles, magic) = footer.split_at(FOOTER - 8);
        if magic != MAGIC.to_le_bytes() {
            return Err(DbError::damaged(path, "it does not end as a table does"));
        }
        let mut c = Cursor(handles);
        // The first handle is that of the filters, which only spare reads.
        let index = Handle::read(&mut c).and_then(|_| Handle::read(&mut c));
        let index = index.ok_or_else(|| DbError::damaged(path, "its end cannot be read"))?;
        let mut table = Table {
            path: path.to_owned(),
            file,
            size,
            index: Vec::new(),
        };
        for (key, handle) in table.entries(index)? {
            let handle = Handle::read(&mut Cursor(&handle))
                .ok_or_else(|| DbError::damaged(path, "its index cannot be read"))?;
            table.index.push((key, handle));
        }
        Ok(table)
    }

    /// Number of blocks.
    pub(super) fn blocks(&self) -> usize {
        self.index.len()
    }

    /// The first block that can hold a key that is not below `key`.
    pub(super) fn find(&self, key: &[u8]) -> usize {
        self.index
            .partition_point(|(last, _)| split_internal(last).is_some_and(|(user, ..)| user < key))
    }

    /// A block's entries.
    pub(super) fn block(&self, number: usize) -> Result<Entries, DbError> {
        Ok(Arc::new(self.entries(self.index[number].1)?))
    }

    fn entries(&self, handle: Handle) -> Result<Vec<Entry>, DbError> {
        let at = handle.offset;
        let damaged =
            |why: &str| DbError::damaged(&self.path, format!("block at byte {at}: {why}"));
        let end = at.checked_add(handle.size);
        if handle.size > MAX_BLOCK || end.is_none_or(|end| end + TRAILER as u64 > self.size) {
            return Err(damaged("it lies outside of the file"));
        }
        let mut bytes = vec![0; handle.size as usize + TRAILER]; // below MAX_BLOCK
        (self.file.read_exact_at(&mut bytes, at)).map_err(DbError::io(&self.path))?;
        let crc = bytes.split_off(bytes.len() - 4);
        // The checksum covers the byte of the compression as well, so it is
        // checked before that is read.
        if masked_crc(&[&bytes]).to_le_bytes() != crc[..] {
            return Err(damaged("it fails its checksum"));
        }
        let content = match bytes.pop() {
            Some(0) => bytes,
            Some(1) => {
                let len = snap::raw::decompress_len(&bytes).map_err(|e| damaged(&e.to_string()))?;
                // The length is a claim until it is decompressed, and is allocated first.
                if len as u64 > MAX_BLOCK {
                    return Err(damaged("it is too large"));
                }
                let mut decoder = snap::raw::Decoder::new();
                (decoder.decompress_vec(&bytes)).map_err(|e| damaged(&e.to_string()))?
            }
            kind => return Err(damaged(&format!("its compression is {kind:?}"))),
        };
        parse(&content).ok_or_else(|| damaged("its entries cannot be read"))
    }
}

/// The entries of a block; each key leaves out what it shares with the one before.
fn parse(content: &[u8]) -> Option<Vec<(Vec<u8>, Vec<u8>)>> {
    let (rest, restarts) = content.split_last_chunk::<4>()?;
    let restarts = (u32::from_le_bytes(*restarts) as usize).checked_mul(4)?;
    let mut c = Cursor(rest.get(..rest.len().checked_sub(restarts)?)?);
    let mut entries: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    while !c.is_empty() {
        let shared = usize::try_from(c.varint()?).ok()?;
        let own = usize::try_from(c.varint()?).ok()?;
        let value = usize::try_from(c.varint()?).ok()?;
        let before = entries.last().map_or(&[][..], |(key, _)| key);
        let mut key = before.get(..shared)?.to_vec();
        key.extend_from_slice(c.take(own)?);
        entries.push((key, c.take(value)?.to_vec()));
    }
    Some(entries)
}
