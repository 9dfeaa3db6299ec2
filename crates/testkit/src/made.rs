//! Chains made with real keys, in the form in which scripted peers serve them, and an application
//! that lives outside of the node's database.

use std::sync::{Arc, Mutex};

use crate::chain::TestChain;
use blocksync::app::{App, AppError, AppInfo, InitChain, InitChainResponse, KvStore};
use blocksync::chain::{Commit, Evidence, Fetched, FinalizeBlock, FinalizeResponse, Rules};
use blocksync::ids::Height;
use blocksync::store::{Batch, BlockRecord, MemStore, Store};
use blocksync::varint;
use bytes::Bytes;
use futures::executor::block_on;

use crate::recorded::Recorded;

impl Recorded {
    /// A chain that was made in the test.
    pub fn of(chain: &TestChain) -> Arc<Recorded> {
        let app_hash = |hash: &[u8]| serde_json::json!({ "app_hash_after": hex::encode(hash) });
        Arc::new(Recorded {
            name: "made",
            genesis: chain.genesis.clone(),
            responses: chain.blocks.iter().map(|b| body(&b.fetched)).collect(),
            initial: chain.genesis.initial_height,
            expected: chain
                .blocks
                .iter()
                .map(|b| app_hash(&b.state.app_hash))
                .collect(),
            tip_commit: commit(&chain.blocks[chain.blocks.len() - 1].commit),
        })
    }
}

/// The body of a `BlockResponse` with this block.
pub fn body(block: &Fetched) -> Bytes {
    let mut out = Vec::with_capacity(block.raw.len() + 16);
    for (number, part) in [(1u8, Some(&block.raw)), (2, block.ext_raw.as_ref())] {
        if let Some(part) = part {
            // The tag of a field of bytes, one byte for numbers below 16.
            out.push(number << 3 | 2);
            varint::put(part.len() as u64, &mut out);
            out.extend_from_slice(part);
        }
    }
    out.into()
}

/// An encoded commit.
pub fn commit(commit: &Commit) -> Bytes {
    let mut out = Vec::new();
    commit.encode(&mut out);
    out.into()
}

/// A block as it is stored.
pub fn record(block: &Fetched) -> BlockRecord {
    BlockRecord {
        height: block.height(),
        id: block.id,
        raw: block.raw.clone(),
        ext_raw: block.ext_raw.clone(),
    }
}

/// Evidence that the validator at index 1 precommitted two blocks at a height.
pub fn duplicate_vote(chain: &TestChain, height: Height) -> Evidence {
    chain.duplicate_vote(height, "twice")
}

/// Brings a fresh application to a height, as a snapshot would.
pub fn execute<A: App>(app: &mut A, made: &TestChain, through: Height) {
    let initial = &made.initial;
    let request = InitChain::of(initial, Bytes::new(), &Rules::COMET_038);
    block_on(app.init_chain(request)).unwrap();
    let blocks = made.blocks.iter().map(|b| &b.fetched);
    for block in blocks.take_while(|b| b.height() <= through) {
        let before = made.state_after(block.height().prev());
        let last = before.last_validators.as_deref();
        let request =
            FinalizeBlock::from_block(&block.block, block.id, last, before.initial_height);
        block_on(app.finalize_block(request.unwrap())).unwrap();
        block_on(app.commit()).unwrap();
    }
}

/// A node's store with the whole chain in it, applied to the built-in kvstore. For a chain whose
/// validators do not change.
pub fn filled(made: &TestChain) -> MemStore {
    let (store, mut app) = (MemStore::new(), KvStore::new());
    execute(&mut app, made, made.height());
    let last = &made.blocks[made.blocks.len() - 1];
    let batch = Batch {
        blocks: made.blocks.iter().map(|b| record(&b.fetched)).collect(),
        state: Some(Arc::new(made.state().clone())),
        seen_commit: Some((last.fetched.height(), commit(&last.commit))),
        app: app.take_writes(),
        ..Batch::default()
    };
    store.commit(batch).unwrap();
    store
}

/// Durable state of an application outside of the node, and the calls that it was given.
#[derive(Debug, Default)]
pub struct Disk {
    state: Mutex<Arc<MemStore>>,
    finalized: Mutex<Vec<Height>>,
    committed: Mutex<Vec<Height>>,
}

impl Disk {
    /// State that a kill at this moment would leave behind.
    pub fn fork(&self) -> Arc<Disk> {
        Arc::new(Disk {
            state: Mutex::new(Arc::new(self.state.lock().unwrap().fork())),
            finalized: Mutex::new(self.finalized()),
            committed: Mutex::new(self.committed()),
        })
    }

    /// Takes over the other's state, not its past.
    pub fn become_a_copy_of(&self, other: &Disk) {
        *self.state.lock().unwrap() = Arc::new(other.state.lock().unwrap().fork());
    }

    /// Heights that were executed, over all lives.
    pub fn finalized(&self) -> Vec<Height> {
        self.finalized.lock().unwrap().clone()
    }

    /// Heights whose effects were made durable.
    pub fn committed(&self) -> Vec<Height> {
        self.committed.lock().unwrap().clone()
    }
}

/// CometBFT's kvstore as an external application: durable is what it has committed, whatever
/// becomes of the node.
pub struct Outside {
    app: KvStore,
    disk: Arc<Disk>,
    /// Called before and after each commit of its own.
    hook: Option<Box<dyn Fn() + Send>>,
}

impl Outside {
    /// As it starts from its disk.
    pub fn new(disk: &Arc<Disk>) -> Self {
        let mut app = KvStore::new();
        let state = disk.state.lock().unwrap().clone();
        app.load(&*state).unwrap();
        Outside {
            app,
            disk: disk.clone(),
            hook: None,
        }
    }

    /// One that tells when it commits.
    pub fn with_hook(disk: &Arc<Disk>, hook: impl Fn() + Send + 'static) -> Self {
        Outside {
            hook: Some(Box::new(hook)),
            ..Self::new(disk)
        }
    }

    fn tell(&self) {
        if let Some(hook) = &self.hook {
            hook();
        }
    }
}

impl App for Outside {
    async fn info(&mut self) -> Result<AppInfo, AppError> {
        self.app.info().await
    }

    async fn init_chain(&mut self, request: InitChain) -> Result<InitChainResponse, AppError> {
        self.app.init_chain(request).await
    }

    async fn finalize_block(&mut self, block: FinalizeBlock) -> Result<FinalizeResponse, AppError> {
        self.disk.finalized.lock().unwrap().push(block.height);
        self.app.finalize_block(block).await
    }

    async fn commit(&mut self) -> Result<Height, AppError> {
        let retain = self.app.commit().await?;
        self.tell();
        let height = self.app.info().await?.last_height;
        let writes = Batch {
            app: self.app.take_writes(),
            ..Batch::default()
        };
        self.disk.state.lock().unwrap().commit(writes)?;
        self.disk.committed.lock().unwrap().push(height);
        self.tell();
        Ok(retain)
    }
}
