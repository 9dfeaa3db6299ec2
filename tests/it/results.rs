//! Responses of the application: kept beside the blocks as they came, pruned as configured, and
//! handed to an observer that holds the service back.

use std::sync::Arc;
use std::time::Duration;

use blocksync::app::KvStore;
use blocksync::ids::Height;
use blocksync::pool::Outcome;
use blocksync::service::{AppliedBlock, BlockSync, GroupCommit, Handle, RetainResults};
use blocksync::store::{MemStore, Store};
use blocksync::wire::proto::abci::ResponseFinalizeBlock;
use blocksync_testkit::made::{Disk, Outside};
use blocksync_testkit::peers::{Behaviour, scripted};
use blocksync_testkit::recorded::{Recorded, config};
use prost::Message as _;
use tokio::sync::mpsc;

const NO_DELAY: Duration = Duration::ZERO;

async fn caught_up<A: blocksync::app::App>(handle: &Handle<A>, chain: &Arc<Recorded>) {
    let peer = scripted(chain, 1, Behaviour::Honest, NO_DELAY);
    handle.add_peer(peer).await.unwrap();
    let done = handle.outcome(|o| matches!(o, Outcome::CaughtUp { .. }));
    let status = tokio::time::timeout(Duration::from_secs(600), done)
        .await
        .expect("in time");
    assert!(status.unwrap().applied >= chain.tip().prev());
}

async fn synced(chain: &Arc<Recorded>, retain: RetainResults) -> Arc<MemStore> {
    let store = Arc::new(MemStore::new());
    let mut config = config(3);
    config.retain_results = retain;
    let app = KvStore::new().with_events();
    let sync = BlockSync::builder(store.clone(), app, chain.genesis.clone()).config(config);
    let handle = sync.spawn().await.unwrap();
    caught_up(&handle, chain).await;
    handle.stop().await;
    store
}

fn heights(chain: &Recorded, store: &MemStore) -> Vec<u64> {
    let all = chain.initial.get()..=chain.tip().get();
    all.filter(|h| store.results_at(Height::new(*h)).unwrap().is_some())
        .collect()
}

#[tokio::test(start_paused = true)]
async fn responses_are_kept_with_their_events() {
    let chain = Recorded::load("full-038");
    let store = synced(&chain, RetainResults::All).await;
    let applied = store.span().unwrap().applied.get();
    assert_eq!(heights(&chain, &store), (7..=applied).collect::<Vec<_>>());
    let response = store.results_at(Height::new(11)).unwrap().unwrap();
    let response = ResponseFinalizeBlock::decode(response).unwrap();
    assert_eq!(response.tx_results.len(), 3);
    assert_eq!(
        &response.tx_results[1].events[0].attributes[1].value[..],
        b"k2"
    );
    assert_eq!(
        &response.tx_results[1].events[1].attributes[1].value[..],
        b"246344fe35610eb7881fff4bdc8fb8e26a82beb4"
    );
    assert_eq!(response.validator_updates.len(), 1);
    assert_eq!(&response.app_hash[..], [8, 0, 0, 0, 0, 0, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn as_many_are_kept_as_are_wanted() {
    let chain = Recorded::load("four");
    let store = synced(&chain, RetainResults::None).await;
    assert_eq!(heights(&chain, &store), Vec::<u64>::new());
    let store = synced(&chain, "10".parse().unwrap()).await;
    let applied = store.span().unwrap().applied.get();
    assert_eq!(
        heights(&chain, &store),
        (applied - 9..=applied).collect::<Vec<_>>()
    );
}

/// Takes everything that the observer is handed, and how far the service is when it takes the
/// first.
async fn observed<A: blocksync::app::App>(
    handle: &Handle<A>,
    mut observer: mpsc::Receiver<AppliedBlock>,
    chain: &Arc<Recorded>,
) -> (Height, Vec<AppliedBlock>) {
    let peer = scripted(chain, 1, Behaviour::Honest, NO_DELAY);
    handle.add_peer(peer).await.unwrap();
    tokio::time::sleep(Duration::from_secs(100)).await;
    let held_at = handle.status().borrow().applied;
    let mut taken = Vec::new();
    while taken.len() < chain.responses.len() - 1 {
        let next = tokio::time::timeout(Duration::from_secs(600), observer.recv());
        taken.push(next.await.expect("in time").expect("the service lives"));
    }
    (held_at, taken)
}

fn assert_whole(taken: &[AppliedBlock], store: &MemStore, first: Height) {
    for (n, applied) in taken.iter().enumerate() {
        let height = first.plus(n as u64);
        assert_eq!(applied.block.height(), height);
        assert_eq!(store.block(height).unwrap().unwrap().raw, applied.block.raw);
        assert_eq!(
            store.results_at(height).unwrap().as_ref(),
            Some(&applied.response)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_observer_holds_the_service_back_and_misses_nothing() {
    let chain = Recorded::load("four");
    let (sender, observer) = mpsc::channel(2);
    let mut config = config(4);
    config.retain_results = RetainResults::All;
    config.observer = Some(sender);
    config.group_commit = GroupCommit::new(16, 8 << 20);
    let store = Arc::new(MemStore::new());
    let app = KvStore::new().with_events();
    let sync = BlockSync::builder(store.clone(), app, chain.genesis.clone()).config(config);
    let handle = sync.spawn().await.unwrap();
    let (held_at, taken) = observed(&handle, observer, &chain).await;
    // A job may be larger than a batch: then it is one batch.
    assert!(
        held_at < chain.tip().prev(),
        "nothing was held back: at {held_at}"
    );
    assert_whole(&taken, &store, chain.initial);
    // The observer is gone now: the service goes on.
    handle.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_external_applications_blocks_are_observed_too() {
    let chain = Recorded::load("one");
    let (sender, observer) = mpsc::channel(2);
    let mut config = config(5);
    config.retain_results = RetainResults::All;
    config.observer = Some(sender);
    let store = Arc::new(MemStore::new());
    let app = Outside::new(&Arc::new(Disk::default()));
    let sync = BlockSync::builder(store.clone(), app, chain.genesis.clone()).config(config);
    let handle = sync.spawn().await.unwrap();
    let (_, taken) = observed(&handle, observer, &chain).await;
    assert_whole(&taken, &store, chain.initial);
    handle.stop().await;
}

/// A stop ends the wait for an observer that takes nothing, and what is executed is durable.
#[tokio::test(start_paused = true)]
async fn an_observer_that_takes_nothing_does_not_keep_a_service_from_stopping() {
    let chain = Recorded::load("one");
    let (sender, observer) = mpsc::channel(1);
    let mut config = config(6);
    config.observer = Some(sender);
    let store = Arc::new(MemStore::new());
    let sync =
        BlockSync::builder(store.clone(), KvStore::new(), chain.genesis.clone()).config(config);
    let handle = sync.spawn().await.unwrap();
    handle
        .add_peer(scripted(&chain, 1, Behaviour::Honest, NO_DELAY))
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    let stopped = tokio::time::timeout(Duration::from_secs(2), handle.stop());
    stopped.await.expect("within two seconds");
    assert!(store.span().unwrap().applied > Height::ZERO);
    assert_eq!(observer.len(), 1);
}
