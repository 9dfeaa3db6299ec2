//! Starting, stopping and cancelling, at every moment.

use std::sync::Arc;
use std::time::Duration;

use blocksync::app::App;
use blocksync::service::{AfterCaughtUp, BlockSync};
use blocksync::store::{LmdbOptions, LmdbStore, MemStore, Store, StoreError};
use blocksync_testkit::store::faulty::FaultyStore;
use tokio::time::Instant;

use crate::service_faults::peers::{Log, Script};
use crate::service_faults::{Height, KvStore, TestChain, made, peers, report, start};
use blocksync_testkit::made::{Disk, Outside, commit, record};
use blocksync_testkit::recorded::{Recorded, config};

/// Demands that the store holds a piece of the chain, and the state that belongs to it.
fn sound(made: &TestChain, store: &dyn Store, what: &str) {
    let span = store.span().unwrap();
    assert!(span.applied <= span.stored, "{what}: {span:?}");
    for height in [span.base, span.applied, span.stored] {
        if height > Height::ZERO {
            let stored = store.block(height).unwrap();
            assert!(stored == Some(record(&made.at(height).fetched)), "{what}");
        }
    }
    if span.applied > Height::ZERO {
        let kept = store.commit_for(span.applied).unwrap();
        let expected = commit(&made.at(span.applied).commit);
        assert!(kept == Some(expected), "{what}: what consensus starts from");
    }
    let state = store
        .state()
        .unwrap()
        .expect("written before anything runs");
    assert_eq!(state.last_height, span.applied, "{what}");
    let expected = made.state_after(state.last_height);
    assert_eq!(state.app_hash, expected.app_hash, "{what}");
}

/// Runs a sync of 200 blocks and stops it after `step` turns of the runtime. Gives whether it had
/// ended before.
async fn stopped_after(made: &TestChain, chain: &Arc<Recorded>, step: u32, drops: bool) -> bool {
    let what = format!("L14, step {step}");
    let store = Arc::new(FaultyStore::new(Arc::new(MemStore::new())));
    let app = Arc::new(Disk::default());
    let sync = BlockSync::builder(store.clone(), Outside::new(&app), chain.genesis.clone());
    let handle = sync.config(config(14)).spawn().await.unwrap();
    for n in 1..=3 {
        peers::keep(&handle, n, Script::honest(chain), &Log::new());
    }
    for _ in 0..step {
        // A turn of the runtime; when all are waiting, time leaps to the next timer.
        tokio::time::sleep(Duration::from_nanos(1)).await;
    }
    let over = handle.status().borrow().applied == chain.tip().prev();
    let begun = Instant::now();
    if drops {
        drop(handle); // stops without being waited for
        tokio::time::sleep(Duration::from_secs(2)).await;
    } else {
        handle.stop().await;
    }
    assert!(begun.elapsed() <= Duration::from_secs(2), "{what}");
    let written = (store.commits(), app.finalized().len());
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(
        written,
        (store.commits(), app.finalized().len()),
        "{what}: nothing is written after the end"
    );
    sound(made, &**store.inner(), &what);
    over
}

#[tokio::test(start_paused = true)]
async fn l14_cancel_at_every_step() {
    let made = TestChain::builder(1).heights(200).txs(1, 40).build();
    let chain = Recorded::of(&made);
    let mut step = 0;
    while !stopped_after(&made, &chain, step, step % 7 == 3).await {
        step += 1;
        assert!(step < 100_000, "the sync never ends");
    }
    println!(
        "L14: stopped after each of {step} steps of a sync of 200 blocks; nothing written afterwards"
    );
    assert!(step > 200);
}

#[tokio::test(start_paused = true)]
async fn l14_stopping_takes_no_longer_than_two_seconds_when_peers_hang() {
    let made = made(1, 40);
    let chain = Recorded::of(&made);
    let (handle, _store) = start(&chain, config(15), KvStore::new()).await;
    for (n, script) in [
        Script::silent(&chain),
        Script::drips(&chain),
        Script::honest(&chain),
    ]
    .into_iter()
    .enumerate()
    {
        peers::keep(&handle, n as u8 + 1, script, &Log::new());
    }
    tokio::time::sleep(Duration::from_millis(40)).await;
    let begun = Instant::now();
    handle.stop().await;
    report("L14", begun.elapsed(), Duration::from_secs(2));
}

#[tokio::test(start_paused = true)]
async fn l15_two_of_one_home() {
    let chain = Recorded::of(&made(1, 10));
    let dir = tempfile::tempdir().unwrap();
    let options = LmdbOptions::with_map_size(16 << 20);
    let store = Arc::new(LmdbStore::open(dir.path(), &options).unwrap());
    let sync = BlockSync::builder(store, KvStore::new(), chain.genesis.clone());
    let handle = sync.config(config(16)).spawn().await.unwrap();
    let second = LmdbStore::open(dir.path(), &options);
    assert!(
        matches!(second, Err(StoreError::Locked(_))),
        "a typed error: {second:?}"
    );
    handle.stop().await;
}

#[tokio::test(start_paused = true)]
async fn l15_stopped_before_anything_has_begun() {
    let chain = Recorded::of(&made(1, 10));
    let (handle, store) = start(&chain, config(17), KvStore::new()).await;
    let peers = handle.peers();
    handle.stop().await;
    let (link, _end) = blocksync::link::Link::pair(crate::service_faults::id(1), "late");
    assert!(peers.add(link).await.is_err(), "a typed error");
    assert_eq!(store.span().unwrap().applied, Height::ZERO);
    // Never started at all.
    let sync = BlockSync::builder(store, KvStore::new(), chain.genesis.clone());
    drop(sync.config(config(17)).spawn());
}

#[tokio::test(start_paused = true)]
async fn l15_handed_over_twice_and_taken_back_while_it_runs() {
    let made = made(1, 20);
    let chain = Recorded::of(&made);
    let mut config = config(18);
    config.after = AfterCaughtUp::HandOver;
    let (mut handle, store) = start(&chain, config, KvStore::new()).await;
    peers::keep(&handle, 1, Script::honest(&chain), &Log::new());
    let mut watch = handle.status();
    let last = chain.tip().prev();
    watch.wait_for(|s| s.applied == last).await.unwrap();
    let out = handle.hand_over().await.unwrap();
    assert!(out.blocks_synced && out.state.last_height == last);
    assert!(
        handle.hand_over().await.is_err(),
        "the writer is out: a typed error"
    );
    handle.resume(out).await.unwrap();
    let out = handle.hand_over().await.unwrap();
    handle.resume(out).await.unwrap();
    sound(&made, &*store, "L15");
    handle.stop().await;
}

/// The writer is taken out after `step` turns of a sync and given back at once. Gives whether the
/// sync had ended before.
async fn handed_over_after<A: App>(
    made: &TestChain,
    chain: &Arc<Recorded>,
    step: u32,
    app: A,
) -> bool {
    let what = format!("L14, hand-over at step {step}");
    let store = Arc::new(MemStore::new());
    let sync = BlockSync::builder(store.clone(), app, chain.genesis.clone());
    let mut handle = sync.config(config(19)).spawn().await.unwrap();
    for n in 1..=3 {
        peers::keep(&handle, n, Script::honest(chain), &Log::new());
    }
    for _ in 0..step {
        tokio::time::sleep(Duration::from_nanos(1)).await;
    }
    let last = chain.tip().prev();
    let over = handle.status().borrow().applied == last;
    let out = handle.hand_over().await.unwrap();
    let written = store.span().unwrap();
    assert_eq!(out.state.last_height, written.applied, "{what}: exact");
    sound(made, &*store, &what);
    tokio::time::sleep(Duration::from_secs(60)).await;
    let now = store.span().unwrap();
    assert_eq!(
        written, now,
        "{what}: nothing is written without the writer"
    );
    handle.resume(out).await.unwrap();
    let mut watch = handle.status();
    let done = watch.wait_for(|s| s.applied == last);
    let done = tokio::time::timeout(crate::service_faults::GUARD, done)
        .await
        .is_ok();
    assert!(done, "{what}: {:?}", handle.status().borrow());
    assert_eq!(handle.status().borrow().dropped, [], "{what}");
    handle.stop().await;
    sound(made, &*store, &what);
    over
}

#[tokio::test(start_paused = true)]
async fn l14_hand_over_at_every_step() {
    let made = TestChain::builder(1).heights(60).txs(1, 40).build();
    let chain = Recorded::of(&made);
    let mut step = 0;
    loop {
        let app = Arc::new(Disk::default());
        let outside = Outside::new(&app);
        let over = handed_over_after(&made, &chain, step, outside).await;
        let all: Vec<Height> = (1..=chain.tip().prev().get()).map(Height::new).collect();
        assert_eq!(
            app.finalized(),
            all,
            "step {step}: each block once, in order"
        );
        if handed_over_after(&made, &chain, step, KvStore::new()).await && over {
            break;
        }
        step += 1;
        assert!(step < 10_000, "the sync never ends");
    }
    println!("L14: handed over and taken back after each of {step} steps");
    assert!(step > 20);
}
