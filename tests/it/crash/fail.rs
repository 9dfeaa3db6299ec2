//! Disks that are full or broken: the service says so and stops, and nothing that was not written
//! whole is there.

use std::sync::Arc;

use blocksync::app::KvStore;
use blocksync::pool::{LocalFault, Outcome};
use blocksync::service::StartError;
use blocksync::store::{LmdbOptions, LmdbStore, MemStore, Store, StoreError};
use blocksync_testkit::store::faulty::{Accident, FaultyStore};
use tokio::time::Instant;

use crate::crash::Case;
use crate::crash::disk::directory;
use blocksync_testkit::made::{Disk, Outside};

/// Lets each commit of a sync fail in its turn, for both kinds of application.
async fn at_every_write(row: &str, accident: Accident, says: &str) {
    let case = Case::new(5, 20);
    let mut slowest = std::time::Duration::ZERO;
    for external in [false, true] {
        let mut nth = 1;
        loop {
            let what = format!("{row}, write {nth}, external {external}");
            let store = Arc::new(FaultyStore::with_plan(
                Arc::new(MemStore::new()),
                nth,
                accident,
            ));
            let app = Arc::new(Disk::default());
            let begun = Instant::now();
            let ended = if external {
                case.run(nth, true, store.clone(), Outside::new(&app)).await
            } else {
                case.run(nth, true, store.clone(), KvStore::new()).await
            };
            if store.commits() < nth {
                assert!(nth > 20, "{what}: {ended:?}");
                break; // the sync has fewer writes than that
            }
            let said = match ended {
                Ok(status) => {
                    assert_eq!(status.dropped, [], "{what}");
                    match status.outcome {
                        Outcome::LocalFault(LocalFault::Store(why)) => why,
                        other => panic!("{what}: {other:?}"),
                    }
                }
                Err(StartError::Store(why)) => why.to_string(),
                Err(other) => panic!("{what}: {other}"),
            };
            assert!(said.contains(says), "{what}: {said}");
            assert_eq!(store.commits(), nth, "{what}: nothing is tried again");
            case.holds(&what, &**store.inner());
            slowest = slowest.max(begun.elapsed());
            let mended = Arc::new(store.restart());
            if external {
                case.completes(&what, nth, mended, Outside::new(&app)).await;
            } else {
                case.completes(&what, nth, mended, KvStore::new()).await;
            }
            nth += 1;
        }
    }
    let allowed = std::time::Duration::from_secs(1);
    println!("{row}: measured {slowest:?} from the start to the stop, allowed {allowed:?}");
    assert!(slowest <= allowed);
}

#[tokio::test(start_paused = true)]
async fn l05_no_space() {
    at_every_write("L05", Accident::NoSpace, "No space left").await;
}

#[tokio::test(start_paused = true)]
async fn l06_a_broken_disk() {
    at_every_write("L06", Accident::Io, "Input/output error").await;
}

#[tokio::test(start_paused = true)]
async fn l06_a_store_that_cannot_be_read_does_not_start() {
    let case = Case::new(6, 5);
    let store = Arc::new(FaultyStore::with_plan(
        Arc::new(MemStore::new()),
        3,
        Accident::KilledAfter,
    ));
    let _ = case.run(1, true, store.clone(), KvStore::new()).await;
    let refused = case
        .run(2, true, store as Arc<dyn Store>, KvStore::new())
        .await;
    let broken = |e: &StartError| {
        matches!(
            e,
            StartError::Store(StoreError::Failed { .. })
                | StartError::App(blocksync::app::AppError::Store(_))
        )
    };
    assert!(refused.as_ref().is_err_and(broken), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn l05_a_map_that_is_full() {
    // The real thing: a database that has reached its size in the middle of a sync, at several
    // sizes.
    let case = Case::new(12, 60);
    let (mut stopped, mut size) = (0, 64 << 10);
    loop {
        let dir = directory();
        let open = |map_size| {
            let store = LmdbStore::open(dir.path(), &LmdbOptions::with_map_size(map_size));
            store.map(Arc::new)
        };
        let what = format!("L05, a map of {size} bytes");
        let mut full = false;
        if let Ok(store) = open(size) {
            let ended = case.run(1, true, store.clone(), KvStore::new()).await;
            let said = match ended {
                Ok(status) => {
                    assert_eq!(status.dropped, [], "{what}");
                    match status.outcome {
                        Outcome::LocalFault(LocalFault::Store(why)) => why,
                        Outcome::ReachedTarget { .. } => break,
                        other => panic!("{what}: {other:?}"),
                    }
                }
                Err(StartError::Store(why)) => why.to_string(),
                Err(other) => panic!("{what}: {other}"),
            };
            assert!(said.contains("no space left"), "{what}: {said}");
            case.holds(&what, &*store);
            full = true;
        }
        if full {
            stopped += 1;
            let larger = open(64 << 20).unwrap();
            case.completes(&what, 2, larger, KvStore::new()).await;
        }
        size += 64 << 10;
    }
    println!("L05: {stopped} sizes of the map were too small; measured 0 torn heights allowed 0");
    assert!(stopped > 0);
}
