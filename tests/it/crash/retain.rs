//! Blocks that are pruned, kept and told of; and an application that is ahead of its home.

use std::sync::Arc;
use std::time::Duration;

use blocksync::app::{App, KvStore};
use blocksync::link::Link;
use blocksync::service::{BlockSync, StartError};
use blocksync::store::{MemStore, Store};
use blocksync::wire::Message;
use blocksync_testkit::baseapp::Living;
use blocksync_testkit::peers::{Behaviour, scripted};
use blocksync_testkit::recorded::{config, id};

use super::{Case, DELAY, GUARD, Height};

/// A run in which we keep `ours` blocks and the application asks for all but `its` to be pruned.
/// Gives the base that is there and the one that a peer is told.
async fn bases(case: &Case, ours: u64, its: u64) -> (Height, Height, Arc<MemStore>) {
    bases_with(case, ours, KvStore::with_retain_blocks(its)).await
}

/// The same with this application.
async fn bases_with<A: App>(case: &Case, ours: u64, app: A) -> (Height, Height, Arc<MemStore>) {
    let store = Arc::new(MemStore::new());
    let mut settings = config(1);
    settings.retain_blocks = ours;
    // Small batches: pruning goes with them.
    settings.pool.run = 4;
    settings.group_commit.blocks = 4;
    let sync = BlockSync::builder(store.clone(), app, case.chain.genesis.clone());
    let handle = sync.config(settings).spawn().await.unwrap();
    let peer = scripted(&case.chain, 1, Behaviour::Honest, DELAY);
    handle.add_peer(peer).await.unwrap();
    let mut status = handle.status();
    let done = status.wait_for(|s| s.applied == case.last());
    tokio::time::timeout(GUARD, done).await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    // It is told when it connects.
    let (link, mut end) = Link::pair(id(9), "listener");
    handle.add_peer(link).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut told = Height::ZERO;
    while let Ok(message) = end.outbox.try_recv() {
        if let Ok(Message::Status { base, .. }) = Message::decode(&message) {
            assert!(base >= told, "a base that falls: {told}, then {base}");
            told = base;
        }
    }
    handle.stop().await;
    (store.span().unwrap().base, told, store)
}

#[tokio::test(start_paused = true)]
async fn the_lower_retain_height_wins_and_the_base_is_told() {
    let case = Case::new(81, 60);
    let keeping = |blocks: u64| Height::new(case.last().get() + 1 - blocks);
    for (ours, its, kept) in [(10, 25, 25), (25, 10, 25), (0, 12, 12), (12, 0, 12)] {
        let (base, told, store) = bases(&case, ours, its).await;
        assert_eq!(base, keeping(kept), "we keep {ours}, the application {its}");
        assert_eq!(told, base, "we keep {ours}, the application {its}");
        // Evidence may still come for any of them: its age is not over.
        for height in 1..base.get() {
            let height = Height::new(height);
            assert!(store.block(height).unwrap().is_none(), "{height}");
            assert!(store.header(height).unwrap().is_some(), "{height}");
            assert!(store.commit_for(height).unwrap().is_some(), "{height}");
        }
    }
    let (base, told, _) = bases(&case, 0, 0).await;
    assert_eq!((base, told), (Height::new(1), Height::new(1)));
}

/// An external application's blocks are pruned in writes of their own.
#[tokio::test(start_paused = true)]
async fn the_base_is_told_beside_an_external_application() {
    let case = Case::new(83, 60);
    let (base, told, _) = bases_with(&case, 10, Living::new(true)).await;
    let kept = Height::new(case.last().get() - 9);
    assert_eq!((base, told), (kept, kept));
}

#[tokio::test(start_paused = true)]
async fn l09_an_application_ahead_of_its_home_is_refused() {
    let case = Case::new(82, 20);
    // An empty home, and one that is two behind.
    for (home, app_at) in [(0, 1), (0, 9), (10, 12), (10, 20)] {
        let store = Arc::new(MemStore::new());
        if home > 0 {
            let short = case.stopping_at(home);
            let app = Living::new(true);
            let status = short.run(1, false, store.clone(), app).await.unwrap();
            assert_eq!(status.applied, Height::new(home));
        }
        let mut app = Living::new(true);
        let elsewhere = Arc::new(MemStore::new());
        let further = case.stopping_at(app_at);
        further.run(1, false, elsewhere, app.clone()).await.unwrap();
        let before = app.commits();
        let refused = case.run(2, false, store.clone(), app.clone()).await;
        let said = match &refused {
            Err(StartError::Inconsistent(why)) => why,
            other => panic!("home at {home}, application at {app_at}: {other:?}"),
        };
        let names = |part: &str| assert!(said.contains(part), "{said} does not name {part}");
        names(&format!("application is at height {app_at}"));
        names("reset the application");
        names(if home == 0 {
            "home is empty"
        } else {
            "only at 10"
        });
        assert_eq!(app.commits(), before, "nothing is executed on it");
        assert_eq!(app.info().await.unwrap().last_height, Height::new(app_at));
    }
}
