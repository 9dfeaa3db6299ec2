//! Writes that begin before their turn: what the store holds when the application commits, and what
//! a start makes of it.

use std::sync::Mutex;
use std::time::Duration;

use futures::FutureExt as _;

use super::*;
use crate::app::{AppError, KvStore};
use crate::chain::Time;
use crate::chain::testkit::TestChain;
use crate::service::external::tests::{
    Scripted, copy, executor_over, h, job, lost, settings, with_bad_evidence, work,
};
use crate::service::offload::Offload;
use crate::service::startup::OnReplay;
use crate::store::conformance::assert_same_state;
use crate::store::{MemStore, Store};

const MINUTE: Duration = Duration::from_secs(60);

/// A store's heights when a block is about to be committed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    height: u64,
    state: u64,
    stored: u64,
    results: Option<u64>,
}

impl Seen {
    fn of(store: &dyn Store, height: u64) -> Self {
        let state = store.state().unwrap();
        Seen {
            height,
            state: state.map_or(0, |state| state.last_height.get()),
            stored: store.span().unwrap().stored.get(),
            results: store.results().unwrap().map(|(of, _)| of.get()),
        }
    }

    /// Whether the state after the block can be found when the application has committed it, and
    /// the block given to it again when it has not.
    fn is_recoverable(&self) -> bool {
        let follows = self.state + 1 == self.height && self.results == Some(self.height);
        self.stored >= self.height && (self.state == self.height || follows)
    }
}

/// An application that notes what the store has at each commit, and does before it what is said for
/// the n-th of them.
fn watched(
    store: &Arc<dyn Store>,
    mut at_commit: impl FnMut(usize, &mut KvStore) -> Result<(), AppError> + Send + 'static,
) -> (Scripted, Arc<Mutex<Vec<Seen>>>) {
    let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
    let (store, noted) = (store.clone(), seen.clone());
    let (mut executing, mut commits) = (0, 0);
    let app = Scripted::new(move |app, call| {
        if let Some(height) = call.strip_prefix("execute ") {
            executing = height.parse().unwrap();
        }
        if call == "commit" {
            commits += 1;
            noted.lock().unwrap().push(Seen::of(&*store, executing));
            return at_commit(commits, app);
        }
        Ok(())
    });
    (app, seen)
}

/// A chain whose validators stay, and one in which they change with each second block.
fn chains() -> [TestChain; 2] {
    let changing = TestChain::builder(31).validators(4).heights(9);
    let changing = [2, 4, 6, 8]
        .into_iter()
        .fold(changing, |chain, at| chain.change(at, 0, 10 + at as i64));
    let still = TestChain::builder(30).txs(1, 9).heights(9);
    [still.build(), changing.build()]
}

#[tokio::test(start_paused = true)]
async fn the_block_above_is_written_before_one_is_committed() {
    let store: Arc<dyn Store> = Arc::new(MemStore::new());
    let chain = &chains()[0];
    let (app, seen) = watched(&store, |_, _| Ok(()));
    let executor = executor_over(app, store, chain, settings(), Offload::inline()).await;
    let (executor, told) = work(executor, vec![job(chain, 1, 4), job(chain, 5, 8)], MINUTE).await;
    assert_eq!(
        told,
        (1..=8).map(|n| format!("applied {n}")).collect::<Vec<_>>()
    );
    let seen = seen.lock().unwrap().clone();
    let early = |seen: &Seen| seen.stored > seen.height && seen.state == seen.height;
    let ahead: Vec<u64> = seen.iter().filter(|s| early(s)).map(|s| s.height).collect();
    // The last of a job comes with a commit that has to be verified first.
    assert_eq!(ahead, [1, 2, 5, 6]);
    assert!(seen.iter().all(Seen::is_recoverable), "{seen:?}");
    assert_eq!(executor.state.last_height, h(8));
    let stored = executor.writer.store().state().unwrap().unwrap();
    assert_same_state(&stored, &executor.state);
}

/// The time of the second block of the first chain, which is not past then.
fn second_block() -> Time {
    chains()[0].at(h(2)).fetched.block.header.time
}

#[tokio::test(start_paused = true)]
async fn a_block_that_something_is_waited_for_does_not_begin_early() {
    let mut ahead_of_clock = settings();
    ahead_of_clock.clock = second_block;
    ahead_of_clock.clock_tolerance = Duration::ZERO;
    let mut bad_evidence = with_bad_evidence();
    bad_evidence.grow(3);
    let extended = TestChain::builder(5).extensions_from(2).heights(9).build();
    let mut unextended = job(&extended, 1, 8);
    let mut without = extended.at(h(3)).fetched.clone();
    (without.ext_commit, without.ext_raw) = (None, None);
    unextended.blocks[2] = copy(&without);
    let evident = job(&bad_evidence, 1, 7);
    let late = job(&chains()[0], 1, 8);
    for (chain, config, job, last, told_last) in [
        (&bad_evidence, settings(), evident, 4, "fault"),
        (&extended, settings(), unextended, 2, "rejected 3"),
        (&chains()[0], ahead_of_clock, late, 1, "applied 1"),
    ] {
        let store: Arc<dyn Store> = Arc::new(MemStore::new());
        let (app, _) = watched(&store, |_, _| Ok(()));
        let executor = executor_over(app, store.clone(), chain, config, Offload::inline()).await;
        let (_, told) = work(executor, vec![job], MINUTE).await;
        assert!(told.last().unwrap().starts_with(told_last), "{told:?}");
        assert_eq!(store.span().unwrap().stored, h(last), "{told_last}");
        assert_eq!(
            store.state().unwrap().unwrap().last_height,
            h(last),
            "{told_last}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_is_lost_leaves_what_a_start_needs() {
    for (chain, lost_at, committed) in chains()
        .iter()
        .flat_map(|chain| (1..=6).flat_map(move |at| [(chain, at, false), (chain, at, true)]))
    {
        let store: Arc<dyn Store> = Arc::new(MemStore::new());
        let (app, seen) = watched(&store, move |n, app| {
            if n != lost_at {
                return Ok(());
            }
            if committed {
                app.commit().now_or_never().unwrap()?;
            }
            Err(lost())
        });
        let executor =
            executor_over(app, store.clone(), chain, settings(), Offload::inline()).await;
        let (executor, told) = work(executor, vec![job(chain, 1, 8)], MINUTE).await;
        let what = format!("lost at {lost_at}, committed: {committed}");
        assert_eq!(told.last().map(String::as_str), Some("applied 8"), "{what}");
        let seen = seen.lock().unwrap().clone();
        assert!(seen.iter().all(Seen::is_recoverable), "{what}: {seen:?}");
        let stored = store.state().unwrap().unwrap();
        assert_same_state(&stored, &executor.state);
        assert_eq!(stored.app_hash, chain.state_after(h(8)).app_hash, "{what}");
    }
}

/// The process is killed at a commit, before the application has heard of it or after.
#[tokio::test(start_paused = true)]
async fn a_kill_at_any_commit_is_recovered_from() {
    for (chain, killed_at, committed) in chains()
        .iter()
        .flat_map(|chain| (1..=7).flat_map(move |at| [(chain, at, false), (chain, at, true)]))
    {
        let what = format!("killed at {killed_at}, committed: {committed}");
        let store: Arc<dyn Store> = Arc::new(MemStore::new());
        let (app, _) = watched(&store, move |n, _| match n == killed_at {
            true => Err(AppError::Refused("the call", "not today".into())),
            false => Ok(()),
        });
        let executor =
            executor_over(app, store.clone(), chain, settings(), Offload::inline()).await;
        let (executor, told) = work(executor, vec![job(chain, 1, 8)], MINUTE).await;
        assert!(
            told.last().unwrap().starts_with("fault"),
            "{what}: {told:?}"
        );
        // The one that takes over finds one state.
        let stored = store.state().unwrap().unwrap();
        assert_same_state(&stored, &executor.state);
        drop(executor);
        let height = killed_at as u64 - u64::from(!committed);
        let app = Scripted::at(chain, height).await;
        let started = executor_over(app, store.clone(), chain, settings(), Offload::inline());
        let (mut executor, _events) = started.await;
        let told: OnReplay = Arc::new(|_, _| ());
        executor.replay(&told).await.unwrap();
        let state = store.state().unwrap().unwrap();
        assert_same_state(&state, chain.state_after(state.last_height));
        assert_eq!(state.last_height, store.span().unwrap().stored, "{what}");
        assert!(state.last_height >= h(killed_at as u64), "{what}");
        let info = executor.app.info().await.unwrap();
        assert_eq!(info.last_height, state.last_height, "{what}");
        assert_eq!(info.last_app_hash, state.app_hash, "{what}");
    }
}
