//! Writing a database whose keys come in order.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use blocksync::varint;

use super::manifest::{Manifest, TableMeta};
use super::{BOTTOM_LEVEL, DbError, FOOTER, MAGIC, SUFFIX, internal_key, log, masked_crc};

/// Bytes of entries in a block, roughly.
const BLOCK: usize = 4 << 10;
/// Entries between two whole keys.
const RESTART: usize = 16;
/// Bytes of a table, roughly. goleveldb's own have 2 MiB, and it takes any; fewer files are better
/// for large homes.
const TABLE: u64 = 16 << 20;
/// The manifest's number.
const MANIFEST: u64 = 1;

/// A database that is being written into an empty directory.
///
/// Its keys come in several runs. Each run is in order, and runs do not overlap; they may be
/// written side by side.
pub struct Builder {
    dir: PathBuf,
    manifest: Manifest,
    bytes: u64,
}

/// Keys in order, of one database.
pub struct Run {
    table: Option<TableWriter>,
    last: Vec<u8>,
}

impl Builder {
    /// Begins a database.
    ///
    /// # Errors
    /// When the directory is there already or cannot be made.
    pub fn create(dir: &Path) -> Result<Self, DbError> {
        fs::create_dir(dir).map_err(DbError::io(dir))?;
        let manifest = Manifest {
            next_file: MANIFEST + 1,
            ..Manifest::default()
        };
        Ok(Builder {
            dir: dir.to_owned(),
            manifest,
            bytes: 0,
        })
    }

    /// A new run.
    #[must_use]
    pub fn run(&self) -> Run {
        Run {
            table: None,
            last: Vec::new(),
        }
    }

    /// Bytes of the tables that are written.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Writes the next pair of a run.
    ///
    /// # Errors
    /// When the disk fails.
    ///
    /// # Panics
    /// When the key is not above the run's last one.
    pub fn put(&mut self, run: &mut Run, key: &[u8], value: &[u8]) -> Result<(), DbError> {
        assert!(
            run.last.is_empty() || key > &run.last[..],
            "keys of a run come in order"
        );
        run.last.clear();
        run.last.extend_from_slice(key);
        let table = match &mut run.table {
            Some(table) => table,
            none => {
                let number = self.manifest.next_file;
                self.manifest.next_file += 1;
                none.insert(TableWriter::create(&self.dir, number)?)
            }
        };
        // Each entry has a number of its own, as if it had been written alone;
        // readers want the newest.
        self.manifest.last_sequence += 1;
        table.put(&internal_key(key, self.manifest.last_sequence), value)?;
        if table.size() >= TABLE {
            self.end(run)?;
        }
        Ok(())
    }

    /// Ends a run, or its table.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn end(&mut self, run: &mut Run) -> Result<(), DbError> {
        if let Some(table) = run.table.take() {
            let table = table.finish()?;
            self.bytes += table.size;
            // Only whole, synced tables are named, so the manifest never points at half a file.
            self.manifest.tables.insert(table.number, table);
        }
        Ok(())
    }

    /// Ends the database: from here on the directory is one.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn finish(mut self) -> Result<(), DbError> {
        // Logs of this number and above would be read; there is none.
        self.manifest.log_number = self.manifest.next_file;
        self.manifest.next_file += 1;
        let name = format!("MANIFEST-{MANIFEST:06}");
        let content = log::write([&self.manifest.encode()[..]]);
        // Before `CURRENT`, which names it.
        write_synced(&self.dir.join(&name), &content)?;
        // Last: without this file the directory is no database.
        write_synced(&self.dir.join("CURRENT"), format!("{name}\n").as_bytes())?;
        sync_dir(&self.dir)
    }
}

fn write_synced(path: &Path, content: &[u8]) -> Result<(), DbError> {
    let write = || {
        let mut file = File::create_new(path)?;
        file.write_all(content)?;
        file.sync_all()
    };
    write().map_err(DbError::io(path))
}

/// Makes names in a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), DbError> {
    (File::open(dir).and_then(|d| d.sync_all())).map_err(DbError::io(dir))
}

/// One table.
struct TableWriter {
    path: PathBuf,
    number: u64,
    file: BufWriter<File>,
    offset: u64,
    block: BlockWriter,
    index: BlockWriter,
    smallest: Vec<u8>,
    largest: Vec<u8>,
    encoder: snap::raw::Encoder,
}

impl TableWriter {
    fn create(dir: &Path, number: u64) -> Result<Self, DbError> {
        let path = dir.join(format!("{number:06}.ldb"));
        let file = File::create_new(&path).map_err(DbError::io(&path))?;
        Ok(TableWriter {
            path,
            number,
            file: BufWriter::with_capacity(256 << 10, file),
            offset: 0,
            block: BlockWriter::new(RESTART),
            index: BlockWriter::new(1),
            smallest: Vec::new(),
            largest: Vec::new(),
            encoder: snap::raw::Encoder::new(),
        })
    }

    fn size(&self) -> u64 {
        // Uncompressed, since the last block is compressed only when it ends;
        // the size is a rough one.
        self.offset + self.block.content.len() as u64
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), DbError> {
        if self.smallest.is_empty() {
            self.smallest = key.to_vec();
        }
        self.block.put(key, value);
        self.largest.clear();
        self.largest.extend_from_slice(key);
        if self.block.content.len() >= BLOCK {
            self.end_block()?;
        }
        Ok(())
    }

    /// Writes the block, and its last key into the index.
    fn end_block(&mut self) -> Result<(), DbError> {
        if self.block.content.is_empty() {
            return Ok(());
        }
        let content = self.block.take();
        let handle = self.write_block(&content)?;
        self.index.put(&self.largest, &handle);
        Ok(())
    }

    /// Writes a block, compressed where that saves an eighth; gives its handle.
    fn write_block(&mut self, content: &[u8]) -> Result<Vec<u8>, DbError> {
        let compressed = self.encoder.compress_vec(content).ok();
        let saves = |c: &Vec<u8>| c.len() < content.len() - content.len() / 8;
        let compressed = compressed.filter(saves);
        let (kind, bytes) = match &compressed {
            Some(compressed) => (1u8, &compressed[..]),
            None => (0, content),
        };
        let crc = masked_crc(&[bytes, &[kind]]);
        let mut write = || {
            self.file.write_all(bytes)?;
            self.file.write_all(&[kind])?;
            self.file.write_all(&crc.to_le_bytes())
        };
        write().map_err(DbError::io(&self.path))?;
        let mut handle = Vec::with_capacity(10);
        varint::put(self.offset, &mut handle);
        varint::put(bytes.len() as u64, &mut handle);
        self.offset += (bytes.len() + super::TRAILER) as u64;
        Ok(handle)
    }

    fn finish(mut self) -> Result<TableMeta, DbError> {
        self.end_block()?;
        // No filters: they only spare reads.
        // The footer has room for its handle, and readers expect a block there, if an empty one.
        let meta = self.write_block(&BlockWriter::new(RESTART).take())?;
        let index = self.index.take();
        let index = self.write_block(&index)?;
        let mut footer = [meta, index].concat();
        footer.resize(FOOTER - 8, 0);
        footer.extend_from_slice(&MAGIC.to_le_bytes());
        let mut end = || {
            self.file.write_all(&footer)?;
            self.file.flush()?;
            // goleveldb trusts what a manifest names; a table that a power cut has
            // emptied would stop the node.
            self.file.get_ref().sync_all()
        };
        end().map_err(DbError::io(&self.path))?;
        debug_assert!(self.smallest.len() >= SUFFIX);
        Ok(TableMeta {
            level: BOTTOM_LEVEL,
            number: self.number,
            size: self.offset + FOOTER as u64,
            smallest: self.smallest,
            largest: self.largest,
        })
    }
}

/// One block.
struct BlockWriter {
    content: Vec<u8>,
    restarts: Vec<u32>,
    last: Vec<u8>,
    interval: usize,
    count: usize,
}

impl BlockWriter {
    fn new(interval: usize) -> Self {
        BlockWriter {
            content: Vec::new(),
            restarts: Vec::new(),
            last: Vec::new(),
            interval,
            count: 0,
        }
    }

    fn put(&mut self, key: &[u8], value: &[u8]) {
        // A whole key at each restart, from which a reader can begin without those before.
        let shared = if self.count.is_multiple_of(self.interval) {
            self.restarts.push(self.content.len() as u32); // blocks are far below 4 GiB
            0
        } else {
            let same = self.last.iter().zip(key).take_while(|(a, b)| a == b);
            same.count()
        };
        varint::put(shared as u64, &mut self.content);
        varint::put((key.len() - shared) as u64, &mut self.content);
        varint::put(value.len() as u64, &mut self.content);
        self.content.extend_from_slice(&key[shared..]);
        self.content.extend_from_slice(value);
        self.last.clear();
        self.last.extend_from_slice(key);
        self.count += 1;
    }

    /// The whole block; the next one begins empty.
    fn take(&mut self) -> Vec<u8> {
        let mut out = std::mem::take(&mut self.content);
        // The format wants one in an empty block, too.
        if self.restarts.is_empty() {
            self.restarts.push(0);
        }
        for restart in &self.restarts {
            out.extend_from_slice(&restart.to_le_bytes());
        }
        out.extend_from_slice(&(self.restarts.len() as u32).to_le_bytes());
        *self = BlockWriter::new(self.interval);
        out
    }
}
