//! The embedder's store: the library's one in memory, with a count of its transactions.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use blocksync::chain::{ChainState, ConsensusParams, Header, ValidatorSet};
use blocksync::ids::{BlockId, Hash, Height};
use blocksync::store::{Batch, BlockRecord, MemStore, Span, Store, StoreError};
use bytes::Bytes;

#[derive(Debug, Default)]
pub struct Counted {
    inner: MemStore,
    commits: AtomicUsize,
}

impl Counted {
    pub fn commits(&self) -> usize {
        self.commits.load(Relaxed)
    }
}

impl Store for Counted {
    fn span(&self) -> Result<Span, StoreError> {
        self.inner.span()
    }

    fn block(&self, height: Height) -> Result<Option<BlockRecord>, StoreError> {
        self.inner.block(height)
    }

    fn blocks(
        &self,
        from: Height,
        count: u32,
        max_bytes: usize,
    ) -> Result<Vec<BlockRecord>, StoreError> {
        self.inner.blocks(from, count, max_bytes)
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
        self.commits.fetch_add(1, Relaxed);
        self.inner.commit(batch)
    }
}
