//! The store's only writer.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::store::{Batch, Store, StoreError};

/// The store's only writer: its owner alone may write chain state. There is one for each store
/// of this process at a time.
pub struct Writer {
    store: Arc<dyn Store>,
    /// Tells the service of what consensus commits.
    committed: watch::Sender<()>,
}

/// Stores of this process whose writer is out there, by address. A store cannot be moved or freed
/// while its writer holds it.
static CLAIMED: Mutex<BTreeSet<usize>> = Mutex::new(BTreeSet::new());

fn address(store: &Arc<dyn Store>) -> usize {
    Arc::as_ptr(store).cast::<()>() as usize
}

impl Writer {
    /// The writer of this store; `None` while there is another.
    pub(super) fn claim(store: &Arc<dyn Store>, committed: watch::Sender<()>) -> Option<Self> {
        let mut claimed = CLAIMED.lock().unwrap_or_else(PoisonError::into_inner);
        // By address, so that two services over clones of one `Arc` are seen as one store.
        claimed.insert(address(store)).then(|| Writer {
            store: store.clone(),
            committed,
        })
    }

    /// The store, for reading.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Whether it tells this service of what is written.
    pub(super) fn tells(&self, service: &watch::Sender<()>) -> bool {
        self.committed.same_channel(service)
    }

    /// Writes a batch and makes it durable. Its blocks are served from then on. This blocks
    /// the thread.
    ///
    /// # Errors
    /// As `Store::commit`.
    pub fn commit(&mut self, batch: Batch) -> Result<(), StoreError> {
        self.store.commit(batch)?;
        // Only after the commit: peers may be served what it wrote from now on.
        self.committed.send_replace(());
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let mut claimed = CLAIMED.lock().unwrap_or_else(PoisonError::into_inner);
        claimed.remove(&address(&self.store));
    }
}
