//! The embedder's application: CometBFT's kvstore, with a count of its transactions.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use blocksync::app::{App, AppError, AppInfo, InitChain, InitChainResponse, KvStore};
use blocksync::chain::{FinalizeBlock, FinalizeResponse};
use blocksync::ids::Height;
use blocksync::store::Store;
use bytes::Bytes;

#[derive(Debug, Default)]
pub struct Counted {
    inner: KvStore,
    transactions: Arc<AtomicUsize>,
}

impl Counted {
    /// A new one, and its count of executed transactions.
    pub fn new() -> (Self, Arc<AtomicUsize>) {
        let app = Counted::default();
        let count = app.transactions.clone();
        (app, count)
    }
}

impl App for Counted {
    fn embedded(&self) -> bool {
        self.inner.embedded()
    }

    fn load(&mut self, store: &dyn Store) -> Result<(), AppError> {
        self.inner.load(store)
    }

    fn take_writes(&mut self) -> Vec<(Bytes, Option<Bytes>)> {
        self.inner.take_writes()
    }

    async fn info(&mut self) -> Result<AppInfo, AppError> {
        self.inner.info().await
    }

    async fn init_chain(&mut self, request: InitChain) -> Result<InitChainResponse, AppError> {
        self.inner.init_chain(request).await
    }

    async fn finalize_block(&mut self, block: FinalizeBlock) -> Result<FinalizeResponse, AppError> {
        self.transactions.fetch_add(block.txs.len(), Relaxed);
        self.inner.finalize_block(block).await
    }

    async fn commit(&mut self) -> Result<Height, AppError> {
        self.inner.commit().await
    }
}
