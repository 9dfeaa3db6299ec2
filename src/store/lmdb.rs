//! The store on disk: LMDB through heed, with LMDB's default sync, in which a commit that has
//! returned is durable and one that has not leaves the previous state. Never NO_SYNC, NO_META_SYNC
//! or WRITE_MAP: each of them gives that up. The blocks' own bytes lie in files beside it
//! (`segments`), and so do an application's longer values; both are synced before the transaction
//! that names them.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use heed::types::Bytes as Raw;
use heed::{CommitOrAbort, Database, Env, EnvFlags, EnvOpenOptions, MdbError, WithoutTls};

use super::lmdb_pages;
use super::logic::{self, name};
use super::records::{Fields, put_bytes};
use super::segments::{Appender, Segments};
use super::tables::{Log, Pair, Place, ReadTables, Table};
use super::values::Extent;
use super::{Batch, BlockRecord, Gaps, Spaced, Span, Store, StoreError, WriterLock};
use super::{hashes, records, results, write};
use crate::chain::{ChainState, ConsensusParams, Header, ValidatorSet};
use crate::ids::{BlockId, Hash, Height};

/// The version of the records; a store of another version is refused.
const SCHEMA: u32 = 3;
/// LMDB's data file.
const DATA_FILE: &str = "data.mdb";
/// The directories of the files beside it.
const LOG_DIRS: [(Log, &str); Log::COUNT] = [
    (Log::Blocks, "blocks"),
    (Log::Values, "values"),
    (Log::Results, "results"),
];
/// Longer values of an application lie in files.
const MAX_INLINE: usize = 256;
/// Concurrent readers. A slot is held for the time of one read only.
const MAX_READERS: u32 = 1024;
/// Looks at a file that another process may be writing, before it is called damaged.
const LOOKS: u32 = 5;
/// Between two of them.
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);
/// Unit of a map's size: the largest page size in use.
const MAP_UNIT: usize = 64 << 10;

mod lately;
mod maintain;
mod transactions;

use lately::Lately;
pub(super) use transactions::Reader;
use transactions::Writer;

type Databases = [Database<'static, Raw, Raw>; Table::ALL.len()];

/// How to open a store.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct LmdbOptions {
    /// The largest size of the database in bytes. It is address space, not memory or disk, and
    /// fixed while the store is open; a store that has reached it is `Full`. A larger number at the
    /// next opening is all that it takes to go on.
    pub map_size: usize,
}

impl LmdbOptions {
    /// Options with a map of this many bytes.
    #[must_use]
    pub const fn with_map_size(map_size: usize) -> Self {
        LmdbOptions { map_size }
    }
}

impl Default for LmdbOptions {
    /// 1 TiB, or 1 GiB where addresses have 32 bits.
    fn default() -> Self {
        let map_size = 1u64 << 40;
        LmdbOptions {
            map_size: usize::try_from(map_size).unwrap_or(1 << 30),
        }
    }
}

/// The chain that a store belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainMark {
    /// The chain.
    pub chain_id: Bytes,
    /// SHA-256 of the genesis file.
    pub genesis: Hash,
}

/// A durable store in a directory.
#[derive(Debug)]
pub struct LmdbStore {
    dir: PathBuf,
    env: Env<WithoutTls>,
    databases: Databases,
    logs: Logs,
    /// Held by the one writer; a read-only store has none.
    writer: Option<SoleWriter>,
    /// Error of the first failed write. After a failed sync the kernel may report the next one as
    /// done although pages are lost, so nothing is written any more.
    failed: OnceLock<String>,
    lately: Lately,
}

/// The files for reading, by `Log`.
type Logs = [Arc<Segments>; LOG_DIRS.len()];
/// Their ends, by `Log`.
type Appenders = [Appender; LOG_DIRS.len()];

fn logs(dir: &Path) -> Logs {
    LOG_DIRS.map(|(_, name)| Arc::new(Segments::new(dir.join(name))))
}

/// State of the one process that writes.
#[derive(Debug)]
struct SoleWriter {
    appenders: Mutex<Appenders>,
    _lock: WriterLock,
}

/// Says what was being done when the database failed.
fn failed(doing: impl Into<String>) -> impl FnOnce(heed::Error) -> StoreError {
    move |why| {
        let doing = doing.into();
        match &why {
            heed::Error::Mdb(MdbError::MapFull) => StoreError::Full {
                doing,
                why: "the database has reached its map size; open it with a larger one".to_owned(),
            },
            heed::Error::Io(io) if is_full(io) => StoreError::Full {
                doing,
                why: why.to_string(),
            },
            heed::Error::Mdb(MdbError::PageNotFound | MdbError::Corrupted) => {
                StoreError::Corrupt(format!("{doing}: {why}"))
            }
            _ => StoreError::Failed {
                doing,
                why: why.to_string(),
            },
        }
    }
}

fn is_full(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    matches!(
        error.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge
    )
}

/// Whether the disk has no room for a megabyte: LMDB calls a write that was cut short a plain I/O
/// error.
fn has_no_room(dir: &Path) -> bool {
    let path = dir.join("room.tmp");
    let wrote = std::fs::write(&path, vec![1; 1 << 20]);
    // If it cannot be removed, the next probe overwrites it.
    let _ = std::fs::remove_file(&path);
    wrote.is_err_and(|why| is_full(&why))
}

/// LMDB maps its file and takes it on trust.
fn check_pages(dir: &Path) -> Result<(), StoreError> {
    let file = dir.join(DATA_FILE);
    let doing = || format!("reading {}", file.display());
    let damage = lmdb_pages::damage(&file).map_err(|e| failed(doing())(e.into()))?;
    damage.map_or(Ok(()), |why| {
        Err(StoreError::Corrupt(format!("{}: {why}", file.display())))
    })
}

/// The same where another process may be writing: pages that are being replaced look damaged for a
/// moment.
fn check_pages_beside_a_writer(dir: &Path) -> Result<(), StoreError> {
    for _ in 0..LOOKS {
        if check_pages(dir).is_ok() {
            return Ok(());
        }
        std::thread::sleep(BETWEEN_LOOKS);
    }
    check_pages(dir)
}

/// Opens the environment.
///
/// The one unsafe call of the crate: LMDB maps its file, and the file must not be changed by
/// anything but LMDB while it is open, nor its lock file be removed. `WriterLock` keeps a second
/// writer of ours away, heed refuses a second environment on one path in one process, and no flag
/// is set that loosens LMDB's own locking.
#[allow(unsafe_code)]
fn open_env(dir: &Path, map_size: Option<usize>) -> Result<Env<WithoutTls>, heed::Error> {
    let mut options = EnvOpenOptions::new().read_txn_without_tls();
    options
        .max_dbs(u32::try_from(Table::ALL.len()).expect("a handful of tables"))
        .max_readers(MAX_READERS);
    if let Some(size) = map_size {
        options.map_size(size.next_multiple_of(MAP_UNIT));
    }
    // SAFETY: see above. READ_ONLY is a safe flag; it is set through the same unsafe function as
    // the unsafe ones.
    unsafe {
        if map_size.is_none() {
            options.flags(EnvFlags::READ_ONLY);
        }
        options.open(dir)
    }
}

impl LmdbStore {
    /// Opens the store in a directory for writing, and creates both if they are not there.
    ///
    /// # Errors
    /// `Locked` when another process writes to it, `Foreign` when it was written by another version
    /// of this program, `Corrupt` when its blocks have a gap, `Failed` or `Full` when the disk or
    /// the address space does not allow it.
    pub fn open(dir: &Path, options: &LmdbOptions) -> Result<Self, StoreError> {
        let doing = || format!("opening the store in {}", dir.display());
        let io = |why: std::io::Error| failed(doing())(why.into());
        for (_, name) in LOG_DIRS {
            std::fs::create_dir_all(dir.join(name)).map_err(io)?;
        }
        let lock = WriterLock::take(dir)?;
        // Under the lock: beside another writer, pages that are being replaced would look damaged.
        check_pages(dir)?;
        let env = open_env(dir, Some(options.map_size)).map_err(failed(doing()))?;
        // A reader that was killed must not hold back pages for ever.
        env.clear_stale_readers().map_err(failed(doing()))?;
        let transaction = env.write_txn().map_err(failed(doing()))?;
        let databases = env
            .create_databases_and_commit(transaction, |opener, transaction| {
                let mut open = Vec::with_capacity(Table::ALL.len());
                for (_, name) in Table::ALL {
                    open.push(opener.create_database::<Raw, Raw>(transaction, Some(name))?);
                }
                let open = array(open).expect("as many as there are tables");
                Ok(CommitOrAbort::<_, ()>::Commit(open))
            })
            .map_err(failed(doing()))?
            .commit()
            .expect("the closure never aborts");
        // The files' names must survive a power loss as their content does.
        for place in [Some(dir), dir.parent()].into_iter().flatten() {
            if place != Path::new("") {
                File::open(place).and_then(|d| d.sync_all()).map_err(io)?;
            }
        }
        let mut store = LmdbStore {
            dir: dir.to_owned(),
            env,
            databases,
            logs: logs(dir),
            writer: None,
            failed: OnceLock::new(),
            lately: Lately::default(),
        };
        // A store of another version is left as it is.
        let version = logic::read(&store.reader()?, Table::Meta, name::SCHEMA)?
            .map(|found| write::compare_schema(Some(found), SCHEMA));
        version.transpose()?;
        let values = Extent::read(&store.reader()?)?;
        let results = results::extent(&store.reader()?)?;
        let open = |log: Log, (first, end)| {
            Appender::open(store.logs[log as usize].clone(), first, end).map_err(io)
        };
        let appenders = [
            open(Log::Blocks, store.check_span()?)?,
            open(Log::Values, (values.tail, values.head))?,
            open(Log::Results, results)?,
        ];
        store.writer = Some(SoleWriter {
            appenders: Mutex::new(appenders),
            _lock: lock,
        });
        store.write(|t| write::check_schema(t, SCHEMA))?;
        Ok(store)
    }

    /// Opens the store in a directory for reading, beside a process that writes to it or without
    /// one. `commit` fails.
    ///
    /// # Errors
    /// As for `open`, and `Failed` when there is no store.
    pub fn open_read_only(dir: &Path) -> Result<Self, StoreError> {
        let doing = || format!("opening the store in {} for reading", dir.display());
        let none = |why: &str| StoreError::Failed {
            doing: doing(),
            why: why.to_owned(),
        };
        if !dir.join(DATA_FILE).exists() {
            return Err(none("there is no store"));
        }
        // Before the file is mapped: LMDB trusts its pages, and a short file would be a SIGBUS.
        check_pages_beside_a_writer(dir)?;
        let env = open_env(dir, None).map_err(failed(doing()))?;
        let transaction = env.read_txn().map_err(failed(doing()))?;
        let databases = env
            .open_databases_and_commit(transaction, |opener, transaction| {
                let mut open = Vec::with_capacity(Table::ALL.len());
                for (_, name) in Table::ALL {
                    let Some(database) =
                        opener.open_database::<Raw, Raw>(transaction, Some(name))?
                    else {
                        return Ok(CommitOrAbort::Abort(name));
                    };
                    open.push(database);
                }
                let open = array(open).expect("as many as there are tables");
                Ok(CommitOrAbort::Commit(open))
            })
            .map_err(failed(doing()))?
            .commit()
            .ok_or_else(|| {
                none("it lacks tables: it is not a store of this program, or has just been created")
            })?;
        let store = LmdbStore {
            dir: dir.to_owned(),
            env,
            databases,
            logs: logs(dir),
            writer: None,
            failed: OnceLock::new(),
            lately: Lately::default(),
        };
        {
            let t = store.reader()?;
            write::compare_schema(logic::read(&t, Table::Meta, name::SCHEMA)?, SCHEMA)?;
        }
        store.check_span()?;
        Ok(store)
    }

    /// Where it is.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The chain that the store belongs to; `None` before `claim`.
    ///
    /// # Errors
    /// When the database fails.
    pub fn chain(&self) -> Result<Option<ChainMark>, StoreError> {
        let t = self.reader()?;
        let Some(body) = logic::read(&t, Table::Meta, name::CHAIN)? else {
            return Ok(None);
        };
        let mut f = Fields::of(body);
        let mark = (|| {
            Some(ChainMark {
                chain_id: Bytes::copy_from_slice(f.bytes()?),
                genesis: Hash::from_slice(f.bytes()?)?,
            })
        })();
        mark.and_then(|mark| f.end(mark))
            .map(Some)
            .ok_or_else(|| records::malformed(Table::Meta, name::CHAIN))
    }

    /// Marks a store that has no mark as this chain's.
    ///
    /// # Errors
    /// `Foreign` when it is another chain's, or the same chain's from another genesis file.
    pub fn claim(&self, mark: &ChainMark) -> Result<(), StoreError> {
        match self.chain()? {
            Some(found) if found == *mark => Ok(()),
            Some(found) => Err(StoreError::Foreign(format!(
                "the store in {} is of chain {} with genesis {}, not of chain {} with genesis {}",
                self.dir.display(),
                String::from_utf8_lossy(&found.chain_id),
                found.genesis,
                String::from_utf8_lossy(&mark.chain_id),
                mark.genesis
            ))),
            None => {
                let mut body = Vec::with_capacity(96);
                put_bytes(&mut body, &mark.chain_id);
                put_bytes(&mut body, &mark.genesis.0);
                self.write(|t| write::put_one(t, Table::Meta, name::CHAIN, &body))
            }
        }
    }

    /// The blocks that are there must be those that the span names. Returns where the first begins
    /// and the last ends.
    fn check_span(&self) -> Result<(Place, Place), StoreError> {
        let t = self.reader()?;
        let span = logic::span(&t)?;
        let blocks = &self.databases[Table::Blocks as usize];
        // Count and both ends together rule out gaps without a walk over all keys.
        let count = blocks
            .len(&t.transaction)
            .map_err(failed("counting blocks"))?;
        let expected = match span.base {
            Height::ZERO => 0,
            base => span.stored.above(base) + 1,
        };
        let end = |pair: Option<Pair<'_>>| pair.and_then(|(key, _)| records::key_height(key));
        let first = end(blocks
            .first(&t.transaction)
            .map_err(failed("finding the first block"))?);
        let last = end(blocks
            .last(&t.transaction)
            .map_err(failed("finding the last block"))?);
        let ends_fit = count == 0 || (first, last) == (Some(span.base), Some(span.stored));
        if count == expected && ends_fit {
            return self.check_bodies(&t, span);
        }
        Err(StoreError::Corrupt(format!(
            "the store in {} should hold blocks {} to {}, but has {count} of them, from {} to {}",
            self.dir.display(),
            span.base,
            span.stored,
            first.unwrap_or_default(),
            last.unwrap_or_default()
        )))
    }

    /// The last block's body must be there: the files are written in order. Returns where the first
    /// begins and the last ends.
    fn check_bodies(&self, t: &Reader<'_>, span: Span) -> Result<(Place, Place), StoreError> {
        let entries = (logic::entry(t, span.base)?, logic::entry(t, span.stored)?);
        let (Some(first), Some(last)) = entries else {
            return Ok(Default::default()); // an empty store
        };
        logic::named(span.stored, t.body(Log::Blocks, last.place, last.len()))?;
        Ok((first.place, last.end()))
    }

    pub(super) fn reader(&self) -> Result<Reader<'_>, StoreError> {
        let transaction = self.env.read_txn().map_err(failed("beginning to read"))?;
        Ok(Reader {
            transaction,
            databases: &self.databases,
            logs: &self.logs,
        })
    }

    /// Reads what is known of a height. A block that is pruned between the look at the database and
    /// the look at the files is looked for again, not called damaged.
    fn of_height<T>(
        &self,
        height: Height,
        read: impl Fn(&Reader<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        match read(&self.reader()?) {
            Err(StoreError::Corrupt(_)) if logic::span(&self.reader()?)?.base > height => {
                read(&self.reader()?)
            }
            result => result,
        }
    }

    /// Reads what pruning may take away between the look at the database and the look at the files:
    /// then it is looked for again.
    fn again_if_pruned<T>(
        &self,
        read: impl Fn(&Reader<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        match read(&self.reader()?) {
            Err(StoreError::Corrupt(_)) => read(&self.reader()?),
            result => result,
        }
    }

    /// Whether this may write, and with what.
    fn writer(&self) -> Result<MutexGuard<'_, Appenders>, StoreError> {
        let doing = || format!("writing to {}", self.dir.display());
        let Some(writer) = &self.writer else {
            return Err(StoreError::Failed {
                doing: doing(),
                why: "the store was opened for reading".to_owned(),
            });
        };
        if let Some(first) = self.failed.get() {
            return Err(StoreError::Failed {
                doing: doing(),
                why: format!(
                    "an earlier write failed ({first}); only a restart can tell what is there"
                ),
            });
        }
        // A batch that panicked has left nothing that `begin` does not put right.
        Ok(writer
            .appenders
            .lock()
            .unwrap_or_else(PoisonError::into_inner))
    }

    /// The first failure to write stays: nothing is tried again.
    fn fail(&self, error: StoreError) -> StoreError {
        let error = match error {
            StoreError::Failed { doing, why } if has_no_room(&self.dir) => {
                StoreError::Full { doing, why }
            }
            error => error,
        };
        let _ = self.failed.set(error.to_string());
        error
    }

    /// One durable transaction.
    fn write(
        &self,
        what: impl FnOnce(&mut Writer<'_>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut appenders = self.writer()?;
        let bodies = |why: std::io::Error| self.fail(failed("writing a batch")(why.into()));
        appenders
            .iter_mut()
            .try_for_each(Appender::begin)
            .map_err(bodies)?;
        let transaction = self.env.write_txn().map_err(failed("beginning to write"))?;
        let mut writer = Writer {
            transaction,
            databases: &self.databases,
            logs: &self.logs,
            appenders: &mut appenders,
            appended: Vec::new(),
            keep_from: [None; LOG_DIRS.len()],
            bodies_failed: false,
        };
        // Dropped without commit, it leaves nothing in the database.
        // A batch that is refused may be followed by another one; a file that could not be written
        // may not.
        if let Err(error) = what(&mut writer) {
            return Err(if writer.bodies_failed {
                self.fail(error)
            } else {
                error
            });
        }
        let Writer {
            transaction,
            keep_from,
            appenders,
            ..
        } = writer;
        // The bytes are durable before the transaction that names them is.
        appenders
            .iter_mut()
            .try_for_each(Appender::sync)
            .map_err(bodies)?;
        transaction
            .commit()
            .map_err(|why| self.fail(failed("committing a batch")(why)))?;
        // Files go only now: had the transaction failed, they would still be named.
        for (appender, keep_from) in appenders.iter_mut().zip(keep_from) {
            appender.committed(keep_from);
        }
        Ok(())
    }
}

/// Exactly as many as there are tables.
fn array<T, const N: usize>(items: Vec<T>) -> Option<[T; N]> {
    items.try_into().ok()
}

impl Store for LmdbStore {
    fn span(&self) -> Result<Span, StoreError> {
        logic::span(&self.reader()?)
    }

    fn block(&self, height: Height) -> Result<Option<BlockRecord>, StoreError> {
        self.of_height(height, |t| logic::block(t, height))
    }

    fn blocks(
        &self,
        from: Height,
        count: u32,
        max_bytes: usize,
    ) -> Result<Vec<BlockRecord>, StoreError> {
        let read = self.of_height(from, |t| logic::blocks(t, from, count, max_bytes));
        if read.is_ok() && self.lately.is_wanted() {
            let t = self.reader()?;
            self.lately.note(&t, t.transaction.id(), from, count);
        }
        read
    }

    fn blocks_in_memory(
        &self,
        from: Height,
        count: u32,
        max_bytes: usize,
        gaps: Gaps,
    ) -> Option<Spaced> {
        // The number lies in the map's first pages, which every transaction touches.
        let transaction = self.env.info().last_txn_id;
        let files = &self.logs[Log::Blocks as usize];
        self.lately
            .blocks(files, transaction, (from, count, max_bytes), gaps)
    }

    fn header(&self, height: Height) -> Result<Option<(Header, BlockId)>, StoreError> {
        self.of_height(height, |t| logic::header(t, height))
    }

    fn commit_for(&self, height: Height) -> Result<Option<Bytes>, StoreError> {
        self.of_height(height, |t| logic::commit_for(t, height))
    }

    fn seen_commit(&self, height: Height) -> Result<Option<Bytes>, StoreError> {
        logic::seen_commit(&self.reader()?, height)
    }

    fn state(&self) -> Result<Option<ChainState>, StoreError> {
        logic::state(&self.reader()?)
    }

    fn validators(&self, height: Height) -> Result<Option<Arc<ValidatorSet>>, StoreError> {
        logic::validators(&self.reader()?, height)
    }

    fn recorded_validators(
        &self,
        height: Height,
    ) -> Result<Option<(Height, Arc<ValidatorSet>)>, StoreError> {
        logic::recorded_validators(&self.reader()?, height)
    }

    fn params(&self, height: Height) -> Result<Option<ConsensusParams>, StoreError> {
        logic::params(&self.reader()?, height)
    }

    fn results(&self) -> Result<Option<(Height, Bytes)>, StoreError> {
        logic::results(&self.reader()?)
    }

    fn results_at(&self, height: Height) -> Result<Option<Bytes>, StoreError> {
        self.again_if_pruned(|t| results::get(t, height))
    }

    fn height_of(&self, hash: &Hash) -> Result<Option<Height>, StoreError> {
        hashes::height_of(&self.reader()?, hash)
    }

    fn has_evidence(&self, identity: &Hash) -> Result<bool, StoreError> {
        logic::has_evidence(&self.reader()?, identity)
    }

    fn app_get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        logic::app_get(&self.reader()?, key)
    }

    fn app_scan(&self, prefix: &[u8]) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        logic::app_scan(&self.reader()?, prefix)
    }

    fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        self.write(|t| write::apply(t, &batch))
    }
}

#[cfg(test)]
#[path = "lmdb_tests.rs"]
mod tests;
