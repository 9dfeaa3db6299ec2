//! An external application that has lost some of what it had, or all of it: start-up executes the stored blocks on it again.

use std::sync::Arc;

use blocksync::service::StartError;
use blocksync::store::{MemStore, Store};

use crate::common::made::{Disk, Outside, execute};
use crate::{Case, Height};

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
    made.push(&blocksync::chain::testkit::BlockSpec::default());
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
