//! The store's files after a kill or a power loss. First the blocks' own files grow and are synced.
//! Then LMDB writes the pages of a transaction, syncs, and writes one of the two meta pages: until
//! then any part of the other pages may have reached the disk, or none.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use blocksync::chain::{ChainState, ConsensusParams, Header, ValidatorSet};
use blocksync::ids::{BlockId, Hash, Height};
use blocksync::store::{Batch, BlockRecord, LmdbOptions, LmdbStore, Span, Store, StoreError};
use bytes::Bytes;
use tempfile::TempDir;

use blocksync_testkit::made::Disk;

const PAGE: usize = 4096;
/// Unit that a disk writes whole or not at all.
const SECTOR: usize = 512;
const SMALL: LmdbOptions = LmdbOptions::with_map_size(64 << 20);

/// A directory in memory where there is one: what is tested is order, not the disk's speed.
pub(crate) fn directory() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        TempDir::new_in(memory).unwrap()
    } else {
        TempDir::new().unwrap()
    }
}

pub(crate) fn open(dir: &Path) -> Result<LmdbStore, StoreError> {
    LmdbStore::open(dir, &SMALL)
}

/// The store's files by their path in its directory.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// LMDB's.
const DATABASE: &str = "data.mdb";

/// All that is durable at an instant.
#[derive(Clone)]
pub(crate) struct Instant {
    pub files: Arc<Files>,
    pub app: Arc<Disk>,
}

/// Something that becomes durable: what there was before, and after.
pub(crate) struct Boundary {
    pub before: Instant,
    pub after: Instant,
}

/// How much of what was being written is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    /// Nothing.
    Lost,
    /// Some sectors of it, chosen by the seed.
    Torn(u64),
    /// Everything, but nobody was told.
    Kept,
}

impl Boundary {
    /// The files that are found after a kill here.
    pub(crate) fn files(&self, left: Left) -> Files {
        let (before, after) = (&self.before.files, &self.after.files);
        let seed = match left {
            Left::Lost => return Files::clone(before),
            Left::Kept => return Files::clone(after),
            Left::Torn(seed) => seed,
        };
        let mut random = seed | 1;
        let mut chance = || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random
        };
        // The database is touched only when the blocks are there; files are removed only when it is
        // done.
        let blocks_only = chance() % 2 == 0;
        let mut files = Files::clone(before);
        for (name, after) in after.iter() {
            let file = files.entry(name.clone()).or_default();
            match (name == DATABASE, blocks_only) {
                (true, true) => {}
                (true, false) => tear(file, after, 2 * PAGE, &mut chance),
                (false, true) => {
                    let from = file.len();
                    tear(file, after, from, &mut chance);
                }
                (false, false) => file.clone_from(after),
            }
        }
        files
    }
}

/// Some sectors of what a file is to become, from a place on.
fn tear(file: &mut Vec<u8>, after: &[u8], from: usize, chance: &mut impl FnMut() -> u64) {
    // Grown by whole sectors up to anywhere.
    if after.len() > file.len() {
        let sectors = (after.len() - file.len()) / SECTOR;
        let grown = chance() as usize % (sectors + 1);
        file.resize(file.len() + grown * SECTOR, 0);
    }
    let per_mille = chance() % 1001;
    for at in (from..file.len()).step_by(SECTOR) {
        let end = (at + SECTOR).min(file.len());
        if chance() % 1000 < per_mille {
            file[at..end].copy_from_slice(&after[at..end]);
        }
    }
}

/// A store on disk that takes down what lies there before and after each commit.
pub(crate) struct Journal {
    inner: LmdbStore,
    app: Arc<Disk>,
    log: Mutex<(Instant, Vec<Boundary>)>,
}

impl Journal {
    pub(crate) fn new(dir: &Path, app: &Arc<Disk>) -> Arc<Self> {
        let inner = open(dir).unwrap();
        let now = Instant {
            files: read(inner.dir()),
            app: app.fork(),
        };
        Arc::new(Journal {
            inner,
            app: app.clone(),
            log: Mutex::new((now, Vec::new())),
        })
    }

    /// Takes down what is durable now, when that has changed.
    pub(crate) fn note(&self) {
        let mut log = self.log.lock().unwrap();
        let files = read(self.inner.dir());
        let app = self.app.fork();
        if files == log.0.files && app.committed() == log.0.app.committed() {
            // Executed, perhaps, and nothing of it durable.
            log.0.app = app;
            return;
        }
        let after = Instant { files, app };
        let before = std::mem::replace(&mut log.0, after.clone());
        log.1.push(Boundary { before, after });
    }

    pub(crate) fn boundaries(&self) -> Vec<Boundary> {
        std::mem::take(&mut self.log.lock().unwrap().1)
    }
}

fn read(dir: &Path) -> Arc<Files> {
    let mut files = Files::new();
    files.insert(
        DATABASE.to_owned(),
        std::fs::read(dir.join(DATABASE)).unwrap(),
    );
    for place in ["blocks", "values"] {
        for file in std::fs::read_dir(dir.join(place)).unwrap() {
            let path = file.unwrap().path();
            let name = path.strip_prefix(dir).unwrap().to_str().unwrap();
            files.insert(name.to_owned(), std::fs::read(&path).unwrap());
        }
    }
    Arc::new(files)
}

/// A home as it is found after a kill.
pub(crate) fn found(files: &Files) -> TempDir {
    let dir = directory();
    for (name, bytes) in files {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    dir
}

impl Store for Journal {
    fn span(&self) -> Result<Span, StoreError> {
        self.inner.span()
    }

    fn block(&self, height: Height) -> Result<Option<BlockRecord>, StoreError> {
        self.inner.block(height)
    }

    fn blocks(&self, from: Height, n: u32, bytes: usize) -> Result<Vec<BlockRecord>, StoreError> {
        self.inner.blocks(from, n, bytes)
    }

    fn header(&self, height: Height) -> Result<Option<(Header, BlockId)>, StoreError> {
        self.inner.header(height)
    }

    fn commit_for(&self, height: Height) -> Result<Option<Bytes>, StoreError> {
        self.inner.commit_for(height)
    }

    fn seen_commit(&self, height: Height) -> Result<Option<Bytes>, StoreError> {
        self.inner.seen_commit(height)
    }

    fn state(&self) -> Result<Option<ChainState>, StoreError> {
        self.inner.state()
    }

    fn validators(&self, height: Height) -> Result<Option<Arc<ValidatorSet>>, StoreError> {
        self.inner.validators(height)
    }

    fn recorded_validators(
        &self,
        height: Height,
    ) -> Result<Option<(Height, Arc<ValidatorSet>)>, StoreError> {
        self.inner.recorded_validators(height)
    }

    fn params(&self, height: Height) -> Result<Option<ConsensusParams>, StoreError> {
        self.inner.params(height)
    }

    fn results(&self) -> Result<Option<(Height, Bytes)>, StoreError> {
        self.inner.results()
    }

    fn results_at(&self, height: Height) -> Result<Option<Bytes>, StoreError> {
        self.inner.results_at(height)
    }

    fn height_of(&self, hash: &Hash) -> Result<Option<Height>, StoreError> {
        self.inner.height_of(hash)
    }

    fn has_evidence(&self, identity: &Hash) -> Result<bool, StoreError> {
        self.inner.has_evidence(identity)
    }

    fn app_get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.inner.app_get(key)
    }

    fn app_scan(&self, prefix: &[u8]) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        self.inner.app_scan(prefix)
    }

    fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        self.note();
        self.inner.commit(batch)?;
        self.note();
        Ok(())
    }
}
