//! Kills, power loss, full and broken disks: rows L01, L02, L03, L05 and L06 of `faults.md` (b),
//! with the whole service on paused time. A kill is not played by ending a process but by its
//! result: what lies on the disk at that instant, under a service that starts anew.

mod behind;
mod disk;
mod fail;
mod kill;
mod living;
mod lost;
mod pace;
mod retain;
mod wrong;

use std::sync::Arc;
use std::time::Duration;

use blocksync::app::App;
use blocksync::ids::Height;
use blocksync::pool::Outcome;
use blocksync::service::{BlockSync, Config, GroupCommit, StartError, Status};
use blocksync::store::Store;
use blocksync_testkit::chain::{BlockSpec, TestChain};
use blocksync_testkit::made::{commit, duplicate_vote, record};
use blocksync_testkit::peers::{Behaviour, scripted};
use blocksync_testkit::recorded::{Recorded, config};

const DELAY: Duration = Duration::from_millis(1);
/// Virtual time within which every run must end: a guard against standing still, not a measurement.
const GUARD: Duration = Duration::from_secs(300);

/// A chain of which `blocks` are applied; one more carries the commit for the last. With
/// extensions, changes of the set, and evidence.
struct Case {
    made: TestChain,
    chain: Arc<Recorded>,
    /// Blocks that are kept; 0 keeps all.
    keep: u64,
}

impl Case {
    fn new(seed: u64, blocks: usize) -> Self {
        Self::starting_at(seed, 1, blocks)
    }

    fn starting_at(seed: u64, initial: u64, blocks: usize) -> Self {
        let builder = TestChain::builder(seed).initial_height(initial);
        let builder = builder.heights(8).txs(2, 60);
        let builder = builder.extensions_from(initial + 4);
        let mut made = builder.change(initial + 6, 1, 15).build();
        while made.blocks.len() <= blocks {
            let at = made.height().next();
            let mut spec = BlockSpec {
                txs: vec![format!("k{at}=v").into(), format!("l{at}=v").into()],
                ..BlockSpec::default()
            };
            if at.get() % 5 < 2 {
                spec.evidence = vec![duplicate_vote(&made, at.prev().prev())];
            }
            if at.get() % 7 == 4 {
                spec.changes = vec![(5, i64::try_from(at.get()).unwrap())];
            }
            made.push(&spec);
        }
        let chain = Recorded::of(&made);
        let keep = 0;
        Case { made, chain, keep }
    }

    /// The same from height 500 up, with all but the last blocks pruned on the way.
    fn pruning(seed: u64, blocks: usize, keep: u64) -> Self {
        Case {
            keep,
            ..Self::starting_at(seed, 500, blocks)
        }
    }

    /// The same, but that nothing above this height is there to be had.
    fn stopping_at(&self, height: u64) -> Self {
        let made = self.made.up_to(Height::new(height).next());
        let chain = Recorded::of(&made);
        let keep = self.keep;
        Case { made, chain, keep }
    }

    fn last(&self) -> Height {
        self.chain.tip().prev()
    }

    fn config(&self, seed: u64, small: bool) -> Config {
        let mut config = config(seed);
        config.pool.until = Some(self.last());
        config.retain_blocks = self.keep;
        if small {
            // As many boundaries as there can be.
            config.pool.run = 1;
            config.pool.applying = 1;
            config.group_commit = GroupCommit::new(1, 1);
        }
        config
    }

    /// Runs a service over this store and application to the last block, or until it cannot go on.
    async fn run<A: App>(
        &self,
        seed: u64,
        small: bool,
        store: Arc<dyn Store>,
        app: A,
    ) -> Result<Status, StartError> {
        let handle = BlockSync::builder(store, app, self.chain.genesis.clone())
            .config(self.config(seed, small))
            .spawn()
            .await?;
        let peer = scripted(&self.chain, 1, Behaviour::Honest, DELAY);
        handle.add_peer(peer).await.unwrap();
        let over = |o: &Outcome| {
            matches!(
                o,
                Outcome::ReachedTarget { .. }
                    | Outcome::LocalFault(_)
                    | Outcome::Contradiction { .. }
            )
        };
        let ended = tokio::time::timeout(GUARD, handle.outcome(over)).await;
        let status = match ended {
            Ok(status) => status.unwrap(),
            Err(_) => panic!("seed {seed}: stands still: {:?}", handle.status().borrow()),
        };
        handle.stop().await;
        Ok(status)
    }

    /// Runs to the end and demands the whole chain, byte by byte, and its last app hash.
    async fn completes<A: App>(&self, what: &str, seed: u64, store: Arc<dyn Store>, app: A) {
        let status = self
            .run(seed, false, store.clone(), app)
            .await
            .unwrap_or_else(|e| panic!("{what}: does not start: {e}"));
        assert!(
            matches!(status.outcome, Outcome::ReachedTarget { .. }),
            "{what}: {:?}",
            status.outcome
        );
        assert_eq!(
            status.dropped,
            [],
            "{what}: no peer is to blame for our crash"
        );
        let expected = self.chain.app_hash_after(self.last());
        assert_eq!(hex::encode(&status.app_hash), expected, "{what}");
        self.holds(what, &*store);
        assert_eq!(store.span().unwrap().applied, self.last(), "{what}");
        // Consensus starts from this.
        let kept = store.commit_for(self.last()).unwrap();
        let expected = commit(&self.made.at(self.last()).commit);
        assert!(kept == Some(expected), "{what}: the last commit: {kept:?}");
    }

    /// Demands that the store holds a piece of the chain without a gap, and the state that belongs
    /// to it.
    fn holds(&self, what: &str, store: &dyn Store) {
        let span = store.span().unwrap();
        assert!(span.applied <= span.stored, "{what}: {span:?}");
        if span.base > Height::ZERO {
            let mut height = span.base;
            while height <= span.stored {
                let block = store.block(height).unwrap();
                let expected = record(&self.made.at(height).fetched);
                assert!(block == Some(expected), "{what}: block {height}");
                height = height.next();
            }
        }
        if let Some(state) = store.state().unwrap() {
            assert_eq!(
                state.app_hash,
                self.made.state_after(state.last_height).app_hash,
                "{what}"
            );
        }
    }
}
