//! We are killed, and the application lives on: with an unfinished block, which it executes the
//! next one on top of.

use std::sync::{Arc, Mutex};

use blocksync::app::{App, AppError, AppInfo, InitChain, InitChainResponse};
use blocksync::chain::{FinalizeBlock, FinalizeResponse};
use blocksync::pool::{LocalFault, Outcome};
use blocksync::service::StartError;
use blocksync::store::{MemStore, Store};
use bytes::Bytes;

use super::wrong::with_a_forged_tip;
use super::{Case, Height};
use blocksync_testkit::baseapp::Living;

/// One step: our disk, and the application's process.
struct Step {
    what: String,
    store: Arc<MemStore>,
    app: Living,
}

/// An application that takes down what there is before and after each call.
struct Noted {
    app: Living,
    store: Arc<MemStore>,
    /// Our disk after the last commit: what there is when the write of the next block was not
    /// durable yet.
    earlier: Arc<MemStore>,
    steps: Arc<Mutex<Vec<Step>>>,
    at: Height,
}

impl Noted {
    fn new(app: &Living, store: &Arc<MemStore>) -> (Self, Arc<Mutex<Vec<Step>>>) {
        let steps = Arc::default();
        let noted = Noted {
            app: app.clone(),
            store: store.clone(),
            earlier: Arc::new(store.fork()),
            steps: Arc::clone(&steps),
            at: Height::ZERO,
        };
        (noted, steps)
    }

    fn note(&self, call: &str) {
        let store = Arc::new(self.store.fork());
        self.push(call, store);
    }

    fn push(&self, call: &str, store: Arc<MemStore>) {
        let step = Step {
            what: format!("{call} {}", self.at),
            store,
            app: self.app.fork(),
        };
        self.steps.lock().unwrap().push(step);
    }
}

impl App for Noted {
    async fn info(&mut self) -> Result<AppInfo, AppError> {
        self.app.info().await
    }

    async fn init_chain(&mut self, request: InitChain) -> Result<InitChainResponse, AppError> {
        self.note("before InitChain");
        let done = self.app.init_chain(request).await;
        self.note("after InitChain");
        done
    }

    async fn announce_block(&mut self, block: &FinalizeBlock) -> Result<(), AppError> {
        self.app.announce_block(block).await
    }

    async fn finalize_block(&mut self, block: FinalizeBlock) -> Result<FinalizeResponse, AppError> {
        self.at = block.height;
        self.note("before FinalizeBlock");
        let done = self.app.finalize_block(block).await;
        self.push("after FinalizeBlock, not stored", self.earlier.clone());
        self.note("after FinalizeBlock");
        done
    }

    async fn commit(&mut self) -> Result<Height, AppError> {
        self.note("before Commit");
        let done = self.app.commit().await;
        self.note("after Commit");
        self.earlier = Arc::new(self.store.fork());
        done
    }

    fn committed_hash(&mut self) -> Option<Bytes> {
        self.app.committed_hash()
    }
}

/// Every step of a run that nobody kills, with one block a job or with many.
async fn steps(case: &Case, small: bool, app: Living) -> Vec<Step> {
    let store = Arc::new(MemStore::new());
    let (noted, steps) = Noted::new(&app, &store);
    let status = case.run(1, small, store, noted).await.unwrap();
    assert_eq!(status.applied, case.last());
    std::mem::take(&mut *steps.lock().unwrap())
}

fn up_to(last: Height) -> Vec<Height> {
    (1..=last.get()).map(Height::new).collect()
}

#[tokio::test(start_paused = true)]
async fn l01_killed_at_every_step_while_the_application_lives_on() {
    for small in [true, false] {
        let case = Case::new(21, 51);
        let steps = steps(&case, small, Living::new(true)).await;
        let mut unfinished = 0;
        for (n, step) in steps.iter().enumerate() {
            let what = format!("small {small}, step {n}, {}", step.what);
            unfinished += usize::from(step.app.is_unfinished());
            let (store, app) = (step.store.clone(), step.app.clone());
            case.completes(&what, 2, store, app).await;
            assert_eq!(
                step.app.commits(),
                up_to(case.last()),
                "{what}: each block takes effect once"
            );
        }
        println!(
            "L01, living, small {small}: {} kills, {unfinished} with an unfinished block, all recovered",
            steps.len()
        );
        assert!(steps.len() >= 5 * 50 && unfinished >= 3 * 50);
    }
}

#[tokio::test(start_paused = true)]
async fn l01_an_application_that_keeps_its_unfinished_block_is_to_be_restarted() {
    let case = Case::new(22, 12);
    for small in [true, false] {
        let steps = steps(&case, small, Living::new(false)).await;
        let mut named = 0;
        for (n, step) in steps.iter().enumerate() {
            // The last has nothing above it to be told from.
            let at = step.app.commits().len() as u64 + 1;
            if !step.app.is_unfinished() || at == case.last().get() {
                continue;
            }
            let what = format!("small {small}, step {n}, {}", step.what);
            let ended = case
                .run(2, false, step.store.clone(), step.app.clone())
                .await;
            let said = match ended {
                Ok(status) => match status.outcome {
                    Outcome::LocalFault(LocalFault::App(why)) => why,
                    other => panic!("{what}: {other:?}"),
                },
                Err(StartError::Inconsistent(why)) => why,
                Err(other) => panic!("{what}: {other}"),
            };
            // InitChain, before block 1, meets what that block has written.
            let sign = if at == 1 { "InitChain" } else { "app_hash" };
            for part in ["unfinished block", "Restart the application", sign] {
                assert!(said.contains(part), "{what}: {said} lacks {part}");
            }
            assert_eq!(step.app.commits(), up_to(Height::new(at - 1)), "{what}");
            assert!(
                step.store.span().unwrap().applied < Height::new(at),
                "{what}"
            );
            step.app.restart();
            let (store, app) = (step.store.clone(), step.app.clone());
            case.completes(&what, 3, store, app).await;
            named += 1;
        }
        assert!(named >= 3 * 11, "{named}");
    }
}

/// Before ABCI 2.0 the hash comes with `Commit`, and nothing but a restart of the application takes
/// an unfinished block back.
#[tokio::test(start_paused = true)]
async fn l01_killed_at_every_step_with_an_application_whose_hash_comes_late() {
    for (small, forged) in [(true, false), (false, false), (true, true)] {
        let mut case = Case::new(23, 31);
        if forged {
            case.chain = with_a_forged_tip(&case);
        }
        let steps = steps(&case, small, Living::with_late_hash()).await;
        let mut unfinished = 0;
        for (n, step) in steps.iter().enumerate() {
            let what = format!("small {small}, forged {forged}, step {n}, {}", step.what);
            unfinished += usize::from(step.app.is_unfinished());
            step.app.restart();
            let (store, app) = (step.store.clone(), step.app.clone());
            case.completes(&what, 2, store, app).await;
            assert_eq!(
                step.app.commits(),
                up_to(case.last()),
                "{what}: each block takes effect once"
            );
        }
        assert!(steps.len() >= 5 * 30 && unfinished >= 3 * 30);
    }
}
