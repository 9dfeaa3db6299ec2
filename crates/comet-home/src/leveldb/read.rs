//! Reading a database that nobody has open.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::ops::Bound;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rustix::fs::{FlockOperation, flock};

use super::manifest::{Manifest, TableMeta};
use super::table::{Entries, Table};
use super::{Cursor, DbError, Kind, log, split_internal};

/// Tables that are open at once, each with its index: some hundreds of entries.
const OPEN_TABLES: usize = 256;
/// Blocks that were read last: runs of keys are read side by side.
const RECENT_BLOCKS: usize = 64;
/// Bytes of logs that are held in memory. goleveldb begins a new table after 4 MiB.
const MAX_LOGS: u64 = 256 << 20;
/// Bytes of a manifest: goleveldb rewrites it at every start.
const MAX_MANIFEST: u64 = 256 << 20;

/// The newest value of a key; `None` for a deletion.
type Newest = Option<Bytes>;

/// A database, open to be read.
pub struct Database {
    dir: PathBuf,
    /// By level; those above level 0 in order of their keys, those of level 0 the newest first.
    levels: Vec<Vec<TableMeta>>,
    /// Entries of logs that are not in tables yet.
    memory: BTreeMap<Vec<u8>, (u64, Newest)>,
    open: Recent<u64, Table>,
    blocks: Recent<(u64, usize), Entries>,
    _lock: Option<File>,
}

impl Database {
    /// Opens a database and holds its lock. Nothing of it is changed.
    ///
    /// # Errors
    /// `InUse` when another process has it open, `Damaged` when its files do not fit together.
    pub fn open(dir: &Path) -> Result<Self, DbError> {
        // Before anything is read: a node that starts meanwhile would move files under us.
        let lock = lock(dir)?;
        let current_file = dir.join("CURRENT");
        let current = read_bounded(&current_file, 1 << 10)?;
        let name = String::from_utf8_lossy(&current);
        let name = name
            .strip_suffix('\n')
            .filter(|name| name.starts_with("MANIFEST-") && !name.contains('/'))
            .ok_or_else(|| DbError::damaged(&current_file, "it names no manifest"))?;
        let file = dir.join(name);
        let mut manifest = Manifest::default();
        let damaged = |why| DbError::damaged(&file, why);
        let changes = log::read(&read_bounded(&file, MAX_MANIFEST)?).map_err(damaged)?;
        for change in &changes.whole {
            manifest.apply(change).map_err(damaged)?;
        }
        if changes.cut || manifest.next_file == 0 {
            // Tables that it would have named may be missing.
            let why = "its last change is cut off; the node itself repairs that when it starts";
            return Err(damaged(why.to_owned()));
        }
        let mut levels: Vec<Vec<TableMeta>> = Vec::new();
        for table in manifest.tables.values() {
            let level = table.level as usize;
            // A bound on what a damaged manifest can make us allocate; LevelDB has seven levels.
            if level > 64
                || user_key(&table.smallest).is_none()
                || user_key(&table.largest).is_none()
            {
                return Err(damaged(format!("table {} cannot be", table.number)));
            }
            if levels.len() <= level {
                levels.resize(level + 1, Vec::new());
            }
            levels[level].push(table.clone());
        }
        for (level, tables) in levels.iter_mut().enumerate() {
            if level == 0 {
                tables.sort_by_key(|t| std::cmp::Reverse(t.number));
            } else {
                tables.sort_by(|a, b| user_key(&a.smallest).cmp(&user_key(&b.smallest)));
            }
        }
        let mut database = Database {
            dir: dir.to_owned(),
            levels,
            memory: BTreeMap::new(),
            open: Recent::new(OPEN_TABLES),
            blocks: Recent::new(RECENT_BLOCKS),
            _lock: lock,
        };
        database.read_logs(&manifest)?;
        Ok(database)
    }

    /// Replays the logs that are newer than the tables.
    fn read_logs(&mut self, manifest: &Manifest) -> Result<(), DbError> {
        let mut logs = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(DbError::io(&self.dir))? {
            let path = entry.map_err(DbError::io(&self.dir))?.path();
            let number = path
                .extension()
                .filter(|e| *e == "log")
                .and(path.file_stem());
            let number = number.and_then(|stem| stem.to_str()?.parse::<u64>().ok());
            let wanted =
                |n: u64| n >= manifest.log_number || (n == manifest.previous_log && n != 0);
            if let Some(number) = number.filter(|n| wanted(*n)) {
                logs.push((number, path));
            }
        }
        // In the order of their numbers: a later batch replaces an earlier one's keys.
        logs.sort();
        let mut total = 0;
        for (_, path) in logs {
            let bytes = read_bounded(&path, MAX_LOGS - total)?;
            total += bytes.len() as u64;
            let damaged = |why| DbError::damaged(&path, why);
            for batch in log::read(&bytes).map_err(damaged)?.whole {
                self.replay(&batch)
                    .ok_or_else(|| damaged("a batch cannot be read".into()))?;
            }
        }
        Ok(())
    }

    /// Takes a batch of writes.
    fn replay(&mut self, batch: &[u8]) -> Option<()> {
        let mut c = Cursor(batch);
        let sequence = u64::from_le_bytes(c.take(8)?.try_into().ok()?);
        let count = u32::from_le_bytes(c.take(4)?.try_into().ok()?);
        for n in 0..u64::from(count) {
            let kind = c.take(1)?[0];
            let key = c.slice()?.to_vec();
            let value = match kind {
                0 => None,
                1 => Some(Bytes::copy_from_slice(c.slice()?)),
                _ => return None,
            };
            let sequence = sequence + n;
            // Of two writes of a key the later one counts, within a batch and between logs.
            if (self.memory.get(&key)).is_none_or(|(newest, _)| *newest <= sequence) {
                self.memory.insert(key, (sequence, value));
            }
        }
        c.is_empty().then_some(())
    }

    /// The value of a key.
    ///
    /// # Errors
    /// When a file that may hold it is damaged.
    pub fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, DbError> {
        // Logs are newer than every table.
        if let Some((_, newest)) = self.memory.get(key) {
            return Ok(newest.clone());
        }
        for level in 0..self.levels.len() {
            // Tables of level 0 overlap: all that may hold the key are asked, and the newest entry
            // counts.
            let mut newest: Option<(u64, Newest)> = None;
            for table in self.holding(level, key) {
                if let Some((sequence, value)) = self.in_table(&table, key)?
                    && newest.as_ref().is_none_or(|(found, _)| *found < sequence)
                {
                    newest = Some((sequence, value));
                }
            }
            // A deletion ends the search too: lower levels hold only older entries.
            if let Some((_, value)) = newest {
                return Ok(value);
            }
        }
        Ok(None)
    }

    /// The tables of a level whose range holds a key.
    fn holding(&self, level: usize, key: &[u8]) -> Vec<TableMeta> {
        let tables = &self.levels[level];
        let holds = |t: &&TableMeta| {
            user_key(&t.smallest).is_some_and(|smallest| smallest <= key)
                && user_key(&t.largest).is_some_and(|largest| key <= largest)
        };
        if level == 0 {
            return tables.iter().filter(holds).cloned().collect();
        }
        let at = tables.partition_point(|t| user_key(&t.largest).is_some_and(|l| l < key));
        // A key's entries may go on in the table after.
        tables[at..].iter().take_while(holds).cloned().collect()
    }

    /// The newest entry of a key in a table.
    fn in_table(&mut self, meta: &TableMeta, key: &[u8]) -> Result<Option<(u64, Newest)>, DbError> {
        let first = self.table(meta)?.find(key);
        for number in first..self.table(meta)?.blocks() {
            let entries = self.block(meta, number)?;
            let at = entries.partition_point(|(k, _)| user_key(k).is_some_and(|u| u < key));
            // The index may name a key between two blocks: then the next block begins with the key,
            // if it is there. Of a key's entries the newest comes first.
            let Some((found, value)) = entries.get(at) else {
                continue;
            };
            let (user, sequence, kind) = split_internal(found).ok_or_else(|| self.bad_key(meta))?;
            if user != key {
                return Ok(None);
            }
            let value = (kind == Kind::Value).then(|| Bytes::copy_from_slice(value));
            return Ok(Some((sequence, value)));
        }
        Ok(None)
    }

    fn bad_key(&self, meta: &TableMeta) -> DbError {
        DbError::damaged(&self.path_of(meta.number), "a key has no sequence number")
    }

    fn path_of(&self, number: u64) -> PathBuf {
        let ldb = self.dir.join(format!("{number:06}.ldb"));
        let sst = ldb.with_extension("sst");
        // LevelDB's older name for tables, which goleveldb still opens.
        if !ldb.exists() && sst.exists() {
            return sst;
        }
        ldb
    }

    fn table(&mut self, meta: &TableMeta) -> Result<&Table, DbError> {
        if !self.open.contains(&meta.number) {
            let table = Table::open(&self.path_of(meta.number), meta.size)?;
            self.open.insert(meta.number, table);
        }
        Ok(self.open.get(&meta.number).expect("just put there"))
    }

    fn block(&mut self, meta: &TableMeta, number: usize) -> Result<Entries, DbError> {
        let at = (meta.number, number);
        if let Some(entries) = self.blocks.get(&at) {
            return Ok(entries.clone());
        }
        let entries = self.table(meta)?.block(number)?;
        self.blocks.insert(at, entries.clone());
        Ok(entries)
    }

    /// The keys that begin with `prefix`, with their values, in order. They are all held in memory:
    /// not for what is long.
    ///
    /// # Errors
    /// When a file that may hold one is damaged.
    pub fn scan(&mut self, prefix: &[u8]) -> Result<BTreeMap<Vec<u8>, Bytes>, DbError> {
        let mut newest: BTreeMap<Vec<u8>, (u64, Newest)> = BTreeMap::new();
        let mut take = |key: &[u8], sequence: u64, value: Newest| {
            if newest.get(key).is_none_or(|(found, _)| *found < sequence) {
                newest.insert(key.to_vec(), (sequence, value));
            }
        };
        let tables: Vec<TableMeta> = self.levels.concat();
        // Levels are not searched from new to old: the sequence number decides which value is the
        // newest.
        for meta in tables {
            let first = self.table(&meta)?.find(prefix);
            'table: for number in first..self.table(&meta)?.blocks() {
                for (key, value) in self.block(&meta, number)?.iter() {
                    let (user, sequence, kind) =
                        split_internal(key).ok_or_else(|| self.bad_key(&meta))?;
                    if user.starts_with(prefix) {
                        let value = (kind == Kind::Value).then(|| Bytes::copy_from_slice(value));
                        take(user, sequence, value);
                    } else if user > prefix {
                        break 'table;
                    }
                }
            }
        }
        let from = (Bound::Included(prefix), Bound::Unbounded);
        for (key, (sequence, value)) in self.memory.range::<[u8], _>(from) {
            if !key.starts_with(prefix) {
                break;
            }
            take(key, *sequence, value.clone());
        }
        let there = newest.into_iter();
        Ok(there
            .filter_map(|(key, (_, value))| Some((key, value?)))
            .collect())
    }
}

fn user_key(key: &[u8]) -> Option<&[u8]> {
    split_internal(key).map(|(user, ..)| user)
}

/// Takes the lock that goleveldb holds while a database is open. A copy without the file is
/// nobody's.
fn lock(dir: &Path) -> Result<Option<File>, DbError> {
    let path = dir.join("LOCK");
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && dir.is_dir() => return Ok(None),
        Err(why) => return Err(DbError::Io { path, why }),
    };
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(DbError::InUse(dir.to_owned())),
        Err(why) => Err(DbError::io(&path)(why.into())),
    }
}

fn read_bounded(path: &Path, most: u64) -> Result<Vec<u8>, DbError> {
    let len = fs::metadata(path).map_err(DbError::io(path))?.len();
    if len > most {
        let why = format!("it has {len} bytes, at most {most} were expected");
        return Err(DbError::damaged(path, why));
    }
    fs::read(path).map_err(DbError::io(path))
}

/// A few things that were used last.
struct Recent<K, V> {
    most: usize,
    clock: u64,
    items: BTreeMap<K, (u64, V)>,
}

impl<K: Ord + Copy, V> Recent<K, V> {
    fn new(most: usize) -> Self {
        Recent {
            most,
            clock: 0,
            items: BTreeMap::new(),
        }
    }

    fn contains(&self, key: &K) -> bool {
        self.items.contains_key(key)
    }

    fn get(&mut self, key: &K) -> Option<&V> {
        self.clock += 1;
        let (used, value) = self.items.get_mut(key)?;
        *used = self.clock;
        Some(value)
    }

    fn insert(&mut self, key: K, value: V) {
        if self.items.len() >= self.most {
            let oldest = self.items.iter().min_by_key(|(_, (used, _))| *used);
            if let Some(oldest) = oldest.map(|(key, _)| *key) {
                self.items.remove(&oldest);
            }
        }
        self.clock += 1;
        self.items.insert(key, (self.clock, value));
    }
}
