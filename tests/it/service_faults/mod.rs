//! Rows of the fault matrix (`faults.md` (b) and (f)) that need the whole service: real keys,
//! in-memory links, tokio's paused clock. Each prints what it measured, in virtual time, and what
//! is allowed: `cargo test --test it service_faults:: -- --nocapture`.

mod cost;
mod ends;
mod fair;
mod finish;
mod judged;
mod local;
mod matrix;
mod memory;
mod peers;
mod proof;
mod same;
mod serving;
mod shared;

use std::sync::Arc;
use std::time::Duration;

use blocksync::app::{App, KvStore};
use blocksync::chain::proof::Policy;
use blocksync::ids::{Height, PeerId};
use blocksync::pool::Outcome;
use blocksync::service::{BlockSync, Config, Event, Handle, Stages, Status};
use blocksync::store::{MemStore, Store};
use blocksync_testkit::chain::TestChain;
use blocksync_testkit::recorded::{Recorded, config, id};
use peers::{Log, Script};
use tokio::sync::broadcast::error::TryRecvError;

/// One hedge delay (`PoolConfig::hedge_ceiling`).
const HEDGE: Duration = Duration::from_secs(2);
/// Virtual time within which every run must end: a guard against standing still, not a measurement.
const GUARD: Duration = Duration::from_secs(600);

/// A chain with everything that a chain may have: extensions, changes of the set, late rounds,
/// absent and nil votes.
fn made(seed: u64, blocks: usize) -> TestChain {
    use blocksync::chain::BlockIdFlag::{Absent, Nil};
    TestChain::builder(seed)
        .heights(blocks)
        .powers(&[10, 10, 10, 10, 10])
        .txs(2, 100)
        .extensions_from(4)
        .change(9, 1, 12)
        .change(20, 7, 10)
        .change(31, 0, 0)
        .vote(6, 1, Absent)
        .vote(8, 2, Nil)
        .round(10, 2)
        .build()
}

/// Result of a run.
struct Run {
    status: Status,
    /// Until all that can be applied was.
    took: Duration,
    store: Arc<MemStore>,
    /// Work of the stages of its pipeline.
    stages: Stages,
    /// Where it said that it had caught up although more was to be had.
    early: Option<Height>,
}

impl Run {
    /// Peers dropped or banned for a fault, with the fault.
    fn faults(&self) -> Vec<(PeerId, &'static str)> {
        let faults = self.status.dropped.iter();
        faults.map(|d| (d.peer, d.reason.name())).collect()
    }

    /// The store holds exactly this chain's blocks up to `last`, and nothing of anybody else's.
    fn holds(&self, made: &TestChain, last: Height) {
        let span = self.store.span().unwrap();
        assert_eq!((span.stored, span.applied), (last, last));
        let mut height = made.genesis.initial_height;
        while height <= last {
            let stored = self.store.block(height).unwrap();
            let expected = blocksync_testkit::made::record(&made.at(height).fetched);
            assert!(stored == Some(expected), "block {height}");
            height = height.next();
        }
        let state = self.store.state().unwrap().unwrap();
        assert_eq!(state.app_hash, made.state_after(last).app_hash);
    }
}

/// A service over an empty store, with these peers, until it has applied all but the tip, whose
/// commit nobody has.
async fn run(chain: &Arc<Recorded>, config: Config, scripts: &[Script]) -> Run {
    run_with(chain, config, scripts, KvStore::new()).await
}

async fn run_with<A: App>(
    chain: &Arc<Recorded>,
    config: Config,
    scripts: &[Script],
    app: A,
) -> Run {
    let (handle, store) = start(chain, config, app).await;
    let mut events = handle.events();
    let log = Log::new();
    for (n, script) in scripts.iter().enumerate() {
        peers::keep(&handle, n as u8 + 1, script.clone(), &log);
    }
    let begun = tokio::time::Instant::now();
    let wanted = chain.tip().prev();
    let mut watch = handle.status();
    let done = watch.wait_for(|s| s.applied >= wanted);
    if tokio::time::timeout(GUARD, done).await.is_err() {
        panic!("stands still: {:#?}", handle.status().borrow());
    }
    let took = begun.elapsed();
    let status = handle.status().borrow().clone();
    let meters = handle.meters();
    handle.stop().await;
    let mut early = None;
    loop {
        match events.try_recv() {
            Ok(timed) => match timed.event {
                Event::Outcome(Outcome::CaughtUp { height }) if height < wanted => {
                    early = Some(height);
                }
                _ => {}
            },
            Err(TryRecvError::Lagged(_)) => {}
            Err(_) => break,
        }
    }
    Run {
        status,
        took,
        store,
        stages: meters.read(),
        early,
    }
}

async fn start<A: App>(
    chain: &Arc<Recorded>,
    config: Config,
    app: A,
) -> (Handle<A>, Arc<MemStore>) {
    let store = Arc::new(MemStore::new());
    let sync = BlockSync::builder(store.clone(), app, chain.genesis.clone()).config(config);
    (sync.spawn().await.unwrap(), store)
}

/// Waits for an outcome that cannot be left any more, and gives the status then.
async fn fails<A: App>(handle: &Handle<A>) -> Status {
    let fatal = |o: &Outcome| matches!(o, Outcome::LocalFault(_) | Outcome::Contradiction { .. });
    match tokio::time::timeout(GUARD, handle.outcome(fatal)).await {
        Ok(status) => status.unwrap(),
        Err(_) => panic!("goes on: {:#?}", handle.status().borrow()),
    }
}

fn policies(seed: u64) -> [Config; 2] {
    [Policy::Anchored, Policy::EveryCommit].map(|policy| {
        let mut config = config(seed);
        config.policy = policy;
        config
    })
}

/// Every commit is looked at, also under the anchored policy.
fn run_of_one(mut config: Config) -> Config {
    config.pool.run = 1;
    config
}

fn report(row: &str, measured: Duration, allowed: Duration) {
    println!("{row}: measured {measured:?} allowed {allowed:?}");
    assert!(measured <= allowed, "{row}");
}
