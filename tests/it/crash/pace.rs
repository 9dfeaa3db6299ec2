//! Progress with a slow external application: each height is told as it commits, a long call is
//! named, and nothing is waited for twice.

use std::sync::Arc;
use std::time::Duration;

use blocksync::app::{App, AppError, AppInfo, InitChain, InitChainResponse};
use blocksync::chain::{FinalizeBlock, FinalizeResponse};
use blocksync::service::{BlockSync, Config, Event, Handle, Offload, Stage};
use blocksync::store::{MemStore, Store};
use blocksync_testkit::chain::TestChain;
use tokio::time::{Instant, sleep};

use super::{Case, DELAY, GUARD, Height};
use blocksync_testkit::baseapp::Living;
use blocksync_testkit::peers::{Behaviour, scripted};
use blocksync_testkit::recorded::{Recorded, config};
use blocksync_testkit::store::faulty::FaultyStore;

/// Takes its time over each block, and longer over one.
struct Slow {
    app: Living,
    execution: Duration,
    long: (Height, Duration),
}

impl App for Slow {
    async fn info(&mut self) -> Result<AppInfo, AppError> {
        self.app.info().await
    }

    async fn init_chain(&mut self, request: InitChain) -> Result<InitChainResponse, AppError> {
        self.app.init_chain(request).await
    }

    async fn finalize_block(&mut self, block: FinalizeBlock) -> Result<FinalizeResponse, AppError> {
        let (height, long) = self.long;
        sleep(if block.height == height {
            long
        } else {
            self.execution
        })
        .await;
        self.app.finalize_block(block).await
    }

    async fn commit(&mut self) -> Result<Height, AppError> {
        self.app.commit().await
    }
}

async fn start(case: &Case, app: Slow, config: Config) -> Handle<Slow> {
    start_over(Arc::new(MemStore::new()), case, app, config).await
}

async fn start_over(store: Arc<dyn Store>, case: &Case, app: Slow, config: Config) -> Handle<Slow> {
    let service = BlockSync::builder(store, app, case.chain.genesis.clone());
    let handle = service.config(config).spawn().await.unwrap();
    let peer = scripted(&case.chain, 1, Behaviour::Honest, DELAY);
    handle.add_peer(peer).await.unwrap();
    handle
}

/// A chain, and an application that takes as long over each of its blocks.
fn steady(seed: u64, heights: usize, execution: Duration) -> (Case, Slow) {
    let made = TestChain::builder(seed).heights(heights).txs(2, 60).build();
    let chain = Recorded::of(&made);
    let app = Slow {
        app: Living::new(true),
        execution,
        long: (Height::ZERO, execution),
    };
    let keep = 0;
    (Case { made, chain, keep }, app)
}

async fn reaches(handle: &Handle<Slow>, height: Height) {
    let mut status = handle.status();
    let there = status.wait_for(|s| s.applied >= height);
    tokio::time::timeout(GUARD, there).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn each_height_is_told_as_the_application_commits_it() {
    let case = Case::new(51, 60);
    let app = Slow {
        app: Living::new(true),
        execution: Duration::from_secs(1),
        long: (Height::new(30), Duration::from_secs(45)),
    };
    let commits = app.app.clone();
    let handle = start(&case, app, config(1)).await;
    let (mut events, mut status) = (handle.events(), handle.status());
    let meters = handle.meters();
    let mut told = Vec::new();
    let run = async {
        while told.last() != Some(&case.last()) {
            if let Event::Applied { state } = events.recv().await.unwrap().event {
                let height = state.last_height;
                assert_eq!(
                    commits.commits().last(),
                    Some(&height),
                    "told as it is committed"
                );
                told.push(height);
            }
        }
    };
    let looks = async {
        let named = |s: &blocksync::service::Status| {
            let words = "waiting for the application: FinalizeBlock 30, for 40 s";
            s.waiting.as_deref() == Some(words)
        };
        let before = meters.read();
        let applied = status.wait_for(named).await.unwrap().applied;
        assert_eq!(applied, Height::new(29));
        // The stage was at work all the time, though nothing has come of it yet.
        let busy = meters.read().since(&before).of(Stage::Execute).busy;
        assert!(busy >= Duration::from_secs(38), "{busy:?}");
    };
    tokio::time::timeout(GUARD, async { tokio::join!(run, looks) })
        .await
        .unwrap();
    let all: Vec<Height> = (1..=case.last().get()).map(Height::new).collect();
    assert_eq!(told, all);
    assert_eq!(handle.status().borrow().waiting, None);
    handle.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_written_is_written_while_the_application_executes() {
    let (execution, disk) = (Duration::from_millis(40), Duration::from_millis(30));
    let (case, app) = steady(52, 151, execution);
    let mut config = config(1);
    config.offload = Some(Offload::simulated(move || Box::pin(sleep(disk))));
    let handle = start(&case, app, config).await;
    reaches(&handle, Height::new(1)).await;
    let begun = Instant::now();
    reaches(&handle, case.last()).await;
    let took = begun.elapsed();
    let alone = execution * u32::try_from(case.last().get() - 1).unwrap();
    let share = alone.as_secs_f64() / took.as_secs_f64();
    println!(
        "a disk of {disk:?} beside an execution of {execution:?}: measured {share:.3} of the application alone, allowed 0.95"
    );
    assert!(share >= 0.95, "{share}");
    handle.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_bytes_of_several_blocks_become_durable_at_once() {
    let (case, app) = steady(53, 301, Duration::from_millis(40));
    let store = Arc::new(FaultyStore::new(Arc::new(MemStore::new())));
    let handle = start_over(store.clone(), &case, app, config(1)).await;
    reaches(&handle, case.last()).await;
    let (ahead, all) = (store.given_ahead(), case.last().get());
    println!("of {all} blocks {ahead} were given ahead of their own write");
    assert!(ahead * 10 >= all * 9, "of {all} only {ahead}");
    handle.stop().await;
}
