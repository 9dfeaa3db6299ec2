//! The Cosmos SDK's `baseapp` in what matters to a node that is killed: it lives on, it keeps the
//! effects of a `FinalizeBlock` that was never committed, and executes the next `FinalizeBlock` on
//! top of them. Neither `ProcessProposal` nor `InitChain` takes them back: `workingHash` has
//! written them into the stores that `Commit` saves, and `InitChain` panics on what it finds there.
//! (SDK 0.50 to 0.55, `baseapp/abci.go`: `FinalizeBlock`, `workingHash`, `Commit`; seen by
//! `interop/sdk/kills.sh`.) Other applications begin each announced block anew.

use std::sync::{Arc, Mutex, MutexGuard};

use blocksync::app::{App, AppError, AppInfo, InitChain, InitChainResponse, KvStore};
use blocksync::chain::{FinalizeBlock, FinalizeResponse};
use blocksync::ids::Height;
use blocksync::store::{Batch, MemStore, Store};
use bytes::Bytes;
use futures::executor::block_on;

#[derive(Clone)]
enum Step {
    Init(InitChain),
    Block(FinalizeBlock),
}

/// The application's process.
pub struct BaseApp {
    initial: Height,
    /// Durable.
    committed: MemStore,
    /// Steps since the last commit: `finalizeBlockState`.
    working: Vec<Step>,
    /// Heights that were committed.
    commits: Vec<Height>,
    /// Whether `ProcessProposal` and `InitChain` take an unfinished block back.
    resets: bool,
    /// Whether only `Commit` gives the hash, as before ABCI 2.0.
    late: bool,
    /// The hash that the last `Commit` gave.
    committed_hash: Option<Bytes>,
}

/// A connection to it. All are to the same process.
#[derive(Clone)]
pub struct Living(Arc<Mutex<BaseApp>>);

impl Living {
    /// A fresh process. `resets`: whether `ProcessProposal` and `InitChain` take an unfinished
    /// block back; the SDK's do not.
    #[must_use]
    pub fn new(resets: bool) -> Self {
        Living(Arc::new(Mutex::new(BaseApp {
            initial: Height::new(1),
            committed: MemStore::new(),
            working: Vec::new(),
            commits: Vec::new(),
            resets,
            late: false,
            committed_hash: None,
        })))
    }

    /// A fresh process of an application before ABCI 2.0: its hash comes with `Commit`, and no call
    /// takes an unfinished block back.
    #[must_use]
    pub fn with_late_hash() -> Self {
        let app = Living::new(false);
        app.lock().late = true;
        app
    }

    fn lock(&self) -> MutexGuard<'_, BaseApp> {
        self.0.lock().expect("no panic inside")
    }

    /// The process as it is now, as another process.
    #[must_use]
    pub fn fork(&self) -> Self {
        let app = self.lock();
        Living(Arc::new(Mutex::new(BaseApp {
            initial: app.initial,
            committed: app.committed.fork(),
            working: app.working.clone(),
            commits: app.commits.clone(),
            resets: app.resets,
            late: app.late,
            committed_hash: None,
        })))
    }

    /// Ends the process and starts it again.
    pub fn restart(&self) {
        // `finalizeBlockState` is in memory only.
        self.lock().working.clear();
    }

    /// Takes another's durable state over, as a restored copy does.
    pub fn restore(&self, older: &Living) {
        let (committed, commits) = {
            let older = older.lock();
            (older.committed.fork(), older.commits.clone())
        };
        let mut app = self.lock();
        (app.committed, app.commits) = (committed, commits);
        app.working.clear();
    }

    /// Heights that were committed, over all processes.
    #[must_use]
    pub fn commits(&self) -> Vec<Height> {
        self.lock().commits.clone()
    }

    /// Whether it holds a block that is not committed.
    #[must_use]
    pub fn is_unfinished(&self) -> bool {
        self.lock().is_unfinished()
    }
}

impl BaseApp {
    fn is_unfinished(&self) -> bool {
        self.working.iter().any(|s| matches!(s, Step::Block(_)))
    }

    /// The application with everything that was executed since the last commit, and the last
    /// answer.
    fn executed(&self) -> (KvStore, Option<Result<FinalizeResponse, AppError>>) {
        let mut app = KvStore::new();
        app.load(&self.committed).unwrap();
        let mut answer = None;
        // Done again from the committed state each time, so that nothing unfinished gets into that.
        for step in self.working.clone() {
            match step {
                Step::Init(request) => {
                    block_on(app.init_chain(request)).unwrap();
                }
                Step::Block(request) => {
                    answer = Some(block_on(app.finalize_block(request)));
                    block_on(app.commit()).unwrap();
                }
            }
        }
        (app, answer)
    }
}

impl App for Living {
    async fn info(&mut self) -> Result<AppInfo, AppError> {
        let mut app = KvStore::new();
        app.load(&self.lock().committed)?;
        app.info().await
    }

    async fn init_chain(&mut self, request: InitChain) -> Result<InitChainResponse, AppError> {
        let answer = block_on(KvStore::new().init_chain(request.clone()));
        let mut app = self.lock();
        // Before ABCI 2.0 nothing is written before `Commit`.
        if app.is_unfinished() && !app.resets && !app.late {
            let why = "InitChain: it closed the connection".to_owned();
            return Err(AppError::Connection("here".to_owned(), why));
        }
        app.initial = request.initial_height;
        app.working = vec![Step::Init(request)];
        answer
    }

    async fn announce_block(&mut self, block: &FinalizeBlock) -> Result<(), AppError> {
        let mut app = self.lock();
        // At the initial height the unfinished state is InitChain's, and has to stay.
        if app.resets && block.height > app.initial {
            app.working.clear();
        }
        Ok(())
    }

    fn reconnect(&mut self) -> bool {
        true
    }

    async fn finalize_block(&mut self, block: FinalizeBlock) -> Result<FinalizeResponse, AppError> {
        let mut app = self.lock();
        app.working.push(Step::Block(block));
        let mut response = app.executed().1.unwrap()?;
        if app.late {
            response.app_hash = Bytes::new();
            response.app_hash_is_late = true;
        }
        Ok(response)
    }

    async fn commit(&mut self) -> Result<Height, AppError> {
        let mut app = self.lock();
        let (mut executed, _) = app.executed();
        let info = block_on(executed.info())?;
        let height = info.last_height;
        app.committed_hash = app.late.then_some(info.last_app_hash);
        let writes = Batch {
            app: executed.take_writes(),
            ..Batch::default()
        };
        app.committed.commit(writes)?;
        app.working.clear();
        app.commits.push(height);
        Ok(Height::ZERO)
    }

    fn committed_hash(&mut self) -> Option<Bytes> {
        self.lock().committed_hash.take()
    }
}
