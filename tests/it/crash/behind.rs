//! An external application that has lost some of what it had, or all of it: start-up executes the
//! stored blocks on it again.

use std::sync::Arc;

use blocksync::app::{App, KvStore};
use blocksync::service::{BlockSync, StartError};
use blocksync::store::{Batch, MemStore, Store};

use crate::crash::{Case, Height};
use blocksync_testkit::made::{Disk, Outside, execute, record};
use blocksync_testkit::recorded::config;

/// A node that has applied everything, and the application's disk as it was at a height.
async fn restored(case: &Case, at: Height) -> (Arc<MemStore>, Arc<Disk>) {
    let (store, disk) = (Arc::new(MemStore::new()), Arc::new(Disk::default()));
    let status = case.run(1, false, store.clone(), Outside::new(&disk)).await;
    assert_eq!(status.unwrap().applied, case.last());
    let (old, snapshot) = (Arc::new(Disk::default()), Arc::new(Disk::default()));
    if at >= case.made.genesis.initial_height {
        execute(&mut Outside::new(&snapshot), &case.made, at);
        old.become_a_copy_of(&snapshot);
    }
    (store, old)
}

#[tokio::test(start_paused = true)]
async fn l01_an_application_restored_from_an_older_copy() {
    let plain = Case::new(7, 30);
    let late = Case::starting_at(8, 500, 30);
    for case in [plain, late] {
        let first = case.made.genesis.initial_height;
        let mut at = first.prev();
        while at <= case.last() {
            let what = format!("application at {at}");
            let (store, disk) = restored(&case, at).await;
            case.completes(&what, 2, store, Outside::new(&disk)).await;
            let expected: Vec<Height> = (at.next().get()..=case.last().get())
                .map(Height::new)
                .collect();
            assert_eq!(disk.finalized(), expected, "{what}");
            at = at.next();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn l01_an_application_older_than_the_last_block_that_is_kept() {
    let case = Case::pruning(9, 30, 10);
    let first = case.made.genesis.initial_height;
    let (store, disk) = restored(&case, first.plus(5)).await;
    let base = store.span().unwrap().base;
    assert!(base > first.plus(6), "something is pruned: {base}");
    let refused = case.run(2, false, store.clone(), Outside::new(&disk)).await;
    let said = match &refused {
        Err(StartError::Inconsistent(why)) => why,
        other => panic!("{other:?}"),
    };
    assert!(said.contains(&base.to_string()), "{said}");
    assert_eq!(disk.finalized(), [], "nothing is executed out of order");
    // A later copy will do.
    let (_, later) = restored(&case, base.prev()).await;
    case.completes("a later copy", 3, store, Outside::new(&later))
        .await;
}

#[tokio::test(start_paused = true)]
async fn l09_an_application_with_another_hash_is_named_at_start() {
    let case = Case::new(10, 20);
    let (store, _) = restored(&case, Height::new(20)).await;
    // Another chain's application, at the same height.
    let other = Case::new(11, 20);
    let (disk, snapshot) = (Arc::new(Disk::default()), Arc::new(Disk::default()));
    let mut made = other.made.up_to(Height::new(19));
    made.push(&blocksync_testkit::chain::BlockSpec::default());
    execute(&mut Outside::new(&snapshot), &made, Height::new(20));
    disk.become_a_copy_of(&snapshot);
    let refused = case.run(2, false, store, Outside::new(&disk)).await;
    let said = match &refused {
        Err(StartError::Diverged(why)) => why,
        other => panic!("{other:?}"),
    };
    let theirs = hex::encode(&made.state().app_hash);
    let ours = case.chain.app_hash_after(Height::new(20));
    for part in ["20", &theirs, &ours] {
        assert!(said.contains(part), "{said} does not name {part}");
    }
}

/// Durable heights right after start-up.
async fn started<A: App>(case: &Case, store: &Arc<MemStore>, app: A) -> Arc<MemStore> {
    let sync = BlockSync::builder(store.clone(), app, case.chain.genesis.clone());
    let handle = sync.config(config(1)).spawn().await.unwrap();
    let left = store.fork();
    handle.stop().await;
    Arc::new(left)
}

#[tokio::test(start_paused = true)]
async fn l01_a_block_that_was_stored_and_not_executed() {
    // As consensus leaves it when it is killed between storing a block and executing it; and killed
    // again right after start-up.
    for external in [false, true] {
        let case = Case::new(13, 30);
        let what = format!("external {external}");
        let (store, disk) = (Arc::new(MemStore::new()), Arc::new(Disk::default()));
        let short = case.stopping_at(20);
        if external {
            short
                .completes(&what, 1, store.clone(), Outside::new(&disk))
                .await;
        } else {
            short
                .completes(&what, 1, store.clone(), KvStore::new())
                .await;
        }
        let at = Height::new(21);
        let blocks = vec![
            record(&case.made.at(at).fetched),
            record(&case.made.at(at.next()).fetched),
        ];
        store
            .commit(Batch {
                blocks,
                ..Batch::default()
            })
            .unwrap();
        let left = if external {
            started(&case, &store, Outside::new(&disk)).await
        } else {
            started(&case, &store, KvStore::new()).await
        };
        assert_eq!(left.span().unwrap().applied, at.next(), "{what}");
        if external {
            case.completes(&what, 2, left, Outside::new(&disk)).await;
        } else {
            case.completes(&what, 2, left, KvStore::new()).await;
        }
    }
}
