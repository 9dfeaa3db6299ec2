//! An application without state: for chains made with it, whose app hash is empty and whose results
//! are all default.

use bytes::Bytes;

use super::{App, AppError, AppInfo, InitChain, InitChainResponse};
use crate::chain::TxResult;
use crate::chain::execution::{FinalizeBlock, FinalizeResponse};
use crate::ids::Height;
use crate::store::{AppWrite, Store, StoreError};

/// The one thing it must remember: the last height, 8 bytes, big-endian.
const HEIGHT_KEY: &[u8] = b"=noop/height";

/// Accepts every transaction and does nothing. Its only record is the height, so that `info` agrees
/// with the chain state.
#[derive(Debug, Default)]
pub struct Noop {
    finalized: Height,
    committed: Height,
    dirty: bool,
}

impl Noop {
    /// An application that has executed no block.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl Noop {
    /// The writes that a store needs when its chain state is taken back to a height; none when
    /// another application's state is in it.
    ///
    /// # Errors
    /// When the store fails.
    pub fn taken_back(store: &dyn Store, to: Height) -> Result<Vec<AppWrite>, StoreError> {
        // Without the record another application owns the store, and its
        // keys must stay as they are.
        let is_there = store.app_get(HEIGHT_KEY)?.is_some();
        let value = Bytes::copy_from_slice(&to.get().to_be_bytes());
        Ok(is_there
            .then(|| (Bytes::from_static(HEIGHT_KEY), Some(value)))
            .into_iter()
            .collect())
    }
}

impl App for Noop {
    fn embedded(&self) -> bool {
        true
    }

    fn load(&mut self, store: &dyn Store) -> Result<(), AppError> {
        let Some(value) = store.app_get(HEIGHT_KEY)? else {
            return Ok(());
        };
        let height = value.as_ref().try_into().map(u64::from_be_bytes);
        self.committed = height.map(Height::new).map_err(|_| {
            StoreError::Corrupt(format!(
                "the height of the noop application has {} bytes, not 8",
                value.len()
            ))
        })?;
        // A `commit` before any block of this run then changes nothing.
        self.finalized = self.committed;
        Ok(())
    }

    fn take_writes(&mut self) -> Vec<(Bytes, Option<Bytes>)> {
        // One record for a whole batch of blocks; none when no block was committed since.
        if !std::mem::take(&mut self.dirty) {
            return Vec::new();
        }
        let value = Bytes::copy_from_slice(&self.committed.get().to_be_bytes());
        vec![(Bytes::from_static(HEIGHT_KEY), Some(value))]
    }

    async fn info(&mut self) -> Result<AppInfo, AppError> {
        Ok(AppInfo {
            data: Bytes::from_static(b"noop"),
            last_height: self.committed,
            ..AppInfo::default()
        })
    }

    async fn init_chain(&mut self, _: InitChain) -> Result<InitChainResponse, AppError> {
        Ok(InitChainResponse::default())
    }

    async fn finalize_block(&mut self, block: FinalizeBlock) -> Result<FinalizeResponse, AppError> {
        self.finalized = block.height;
        Ok(FinalizeResponse {
            tx_results: vec![TxResult::default(); block.txs.len()],
            ..FinalizeResponse::default()
        })
    }

    async fn commit(&mut self) -> Result<Height, AppError> {
        self.committed = self.finalized;
        self.dirty = true;
        Ok(Height::ZERO)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::conformance;
    use futures::executor::block_on;

    #[test]
    fn passes_the_contract() {
        let txs = |height| vec![Bytes::from_static(b"anything"); usize::from(height % 2 == 0)];
        block_on(conformance::run(Noop::new, txs));
    }
}
