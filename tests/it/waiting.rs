//! A service that only serves until a state has arrived, as state sync brings one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use blocksync::app::{App, AppError, AppInfo, InitChain, InitChainResponse, KvStore};
use blocksync::chain::{FinalizeBlock, FinalizeResponse};
use blocksync::ids::Height;
use blocksync::link::{Inbound, Link, LinkEnd};
use blocksync::pool::Outcome;
use blocksync::service::{
    BeginError, BlockSync, Config, Event, HandOverError, Handle, LastCommit, NotBegun, Phase,
    StartError, SyncStart, Waiting,
};
use blocksync::store::{Batch, MemStore};
use blocksync::wire::{AdvertisementRequest, Message};
use blocksync_testkit::chain::TestChain;
use blocksync_testkit::made::{commit, execute, filled, record};
use blocksync_testkit::peers::{Behaviour, scripted};
use blocksync_testkit::recorded::{Recorded, config, id};
use tokio::time::sleep;

use crate::advertised::keyed;
use crate::life::{all, answer, applies, told};

/// An application outside of the node that counts what it is asked.
#[derive(Default)]
struct Asked {
    app: KvStore,
    calls: Arc<AtomicUsize>,
}

impl App for Asked {
    async fn info(&mut self) -> Result<AppInfo, AppError> {
        self.calls.fetch_add(1, Relaxed);
        self.app.info().await
    }

    async fn init_chain(&mut self, request: InitChain) -> Result<InitChainResponse, AppError> {
        self.calls.fetch_add(1, Relaxed);
        self.app.init_chain(request).await
    }

    async fn finalize_block(&mut self, block: FinalizeBlock) -> Result<FinalizeResponse, AppError> {
        self.calls.fetch_add(1, Relaxed);
        self.app.finalize_block(block).await
    }

    async fn commit(&mut self) -> Result<Height, AppError> {
        self.calls.fetch_add(1, Relaxed);
        self.app.commit().await
    }
}

fn h(height: u64) -> Height {
    Height::new(height)
}

fn serving(
    store: Arc<MemStore>,
    chain: &Recorded,
    config: Config,
) -> (Handle<Asked>, Waiting<Asked>) {
    let sync = BlockSync::builder(store, Asked::default(), chain.genesis.clone());
    sync.config(config).spawn_serving().unwrap()
}

/// State sync's one batch.
fn state_at(made: &TestChain, height: u64) -> Batch {
    let last = made.at(h(height));
    Batch {
        state: Some(Arc::new(made.state_after(h(height)).clone())),
        seen_commit: Some((h(height), commit(&last.commit))),
        ..Batch::default()
    }
}

/// A peer of our own making that claims to have heights 1 to `claim`, and hears statuses if it is
/// a node of ours.
async fn listener(handle: &Handle<Asked>, ours: bool, claim: u64) -> LinkEnd {
    let (mut link, end) = Link::pair(id(if ours { 9 } else { 10 }), "listener");
    (link.extended, link.comet) = (ours, !ours);
    handle.add_peer(link).await.unwrap();
    let status = Message::Status {
        height: h(claim),
        base: h(1),
        max_range: 1,
    };
    let status = Inbound::Message(status.encode());
    end.inbox.send(status).await.unwrap();
    end
}

/// The reason for which block sync does not begin, and everything that comes back.
async fn refused(
    handle: &mut Handle<Asked>,
    own: Waiting<Asked>,
) -> (NotBegun, Box<Waiting<Asked>>) {
    let BeginError { why, back, .. } = handle.begin(own).await.unwrap_err();
    assert_eq!(handle.status().borrow().phase, Phase::Serving);
    (why, back)
}

#[tokio::test(start_paused = true)]
async fn nothing_is_synced_before_a_state_has_arrived() {
    let made = TestChain::builder(71).heights(61).txs(1, 60).build();
    let chain = Recorded::of(&made);
    let (mut handle, mut own) = serving(Arc::default(), &chain, config(1));
    let calls = own.app.calls.clone();
    let mut events = handle.events();
    let peer = scripted(&chain, 1, Behaviour::Honest, Duration::ZERO);
    handle.add_peer(peer).await.unwrap();
    let mut end = listener(&handle, true, 60).await;
    sleep(Duration::from_secs(20)).await;
    let status = handle.status().borrow().clone();
    assert_eq!(
        (status.phase, status.outcome),
        (Phase::Serving, Outcome::Syncing)
    );
    assert_eq!((status.applied, status.buffered_bytes), (h(0), 0));
    assert!(status.target >= h(60), "claims are heard");
    let mut heard = Vec::new();
    while let Ok(message) = end.outbox.try_recv() {
        match Message::decode_small(&message).unwrap() {
            Message::Status { height, base, .. } => heard.push((base.get(), height.get())),
            other => assert!(matches!(other, Message::StatusRequest), "{other:?}"),
        }
    }
    assert!(heard.iter().all(|told| *told == (0, 0)), "{heard:?}");
    assert!(!heard.is_empty());
    assert!(matches!(answer(&mut end, 1).await, Message::NoBlock { .. }));

    // The state is there, and nothing begins of itself.
    own.writer.commit(state_at(&made, 30)).unwrap();
    sleep(Duration::from_secs(10)).await;
    let status = handle.status().borrow().clone();
    assert_eq!((status.phase, status.applied), (Phase::Serving, h(30)));
    assert!(told(&mut end).iter().all(|told| *told == (0, 0)));
    let only_peers = |event: &Event| matches!(event, Event::PeerUp { .. });
    let seen = all(&mut events);
    assert!(seen.iter().all(only_peers), "{seen:?}");
    assert_eq!(calls.load(Relaxed), 0, "the application is asked nothing");
    assert!(matches!(
        handle.hand_over().await,
        Err(HandOverError::AlreadyOut)
    ));

    execute(&mut own.app.app, &made, h(30));
    handle.begin(own).await.unwrap();
    assert!(calls.load(Relaxed) > 0);
    applies(&handle, 60).await;
    let began = |event: &Event| matches!(event, Event::SyncStarted { from, why: SyncStart::Start } if *from == h(30));
    assert_eq!(
        all(&mut events).iter().filter(|event| began(event)).count(),
        1
    );
    assert_eq!(handle.status().borrow().blocks(), 30);
    drop(end);
    sleep(Duration::from_secs(1)).await;
    let mut end = listener(&handle, true, 30).await;
    sleep(Duration::from_secs(5)).await;
    assert_eq!(told(&mut end).last(), Some(&(31, 60)));
    assert!(matches!(answer(&mut end, 31).await, Message::Block(_)));
    assert!(matches!(
        answer(&mut end, 30).await,
        Message::NoBlock { .. }
    ));
    let taken = handle.hand_over().await.unwrap();
    assert!(taken.blocks_synced && matches!(taken.last_commit, LastCommit::Commit(_)));
    handle.stop().await;
}

/// A node without a state knows no validator set: what a claimant could prove would show it
/// nothing, and is asked for only when the state has come.
#[tokio::test(start_paused = true)]
async fn nobody_is_asked_for_a_proof_that_no_state_could_judge() {
    let made = TestChain::builder(74).heights(61).txs(1, 60).build();
    let chain = Recorded::of(&made);
    let (handle, mut own) = serving(Arc::default(), &chain, keyed(7));
    let mut end = listener(&handle, true, 60).await;
    // Requests for signed statuses, and those among them that want a proof.
    let mut asked = || {
        let messages = std::iter::from_fn(|| end.outbox.try_recv().ok());
        let requests = messages.filter_map(|m| AdvertisementRequest::read(&m).unwrap());
        let (with, without): (Vec<_>, Vec<_>) =
            requests.partition(|request| request.prove_above.is_some());
        (with.len() + without.len(), with.len())
    };
    sleep(Duration::from_secs(60)).await;
    let (requests, proofs) = asked();
    assert!(requests >= 3 && proofs == 0, "{proofs} of {requests}");
    own.writer.commit(state_at(&made, 30)).unwrap();
    sleep(Duration::from_secs(60)).await;
    let (requests, proofs) = asked();
    assert!(proofs >= 3, "{proofs} of {requests}");
    handle.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_state_that_does_not_fit_comes_back_with_everything() {
    let made = TestChain::builder(72).heights(41).txs(1, 60).build();
    let chain = Recorded::of(&made);
    let other = TestChain::builder(73).heights(41).txs(1, 60).build();
    assert_eq!(made.genesis.chain_id, other.genesis.chain_id);
    let (mut handle, mut own) = serving(Arc::default(), &chain, config(2));
    let peer = scripted(&chain, 1, Behaviour::Honest, Duration::ZERO);
    handle.add_peer(peer).await.unwrap();

    // An application that is elsewhere: nowhere, one behind, ahead, or with another hash.
    own.writer.commit(state_at(&made, 20)).unwrap();
    for at in [0, 19, 22] {
        own.app.app = KvStore::new();
        if at > 0 {
            execute(&mut own.app.app, &made, h(at));
        }
        let (why, back) = refused(&mut handle, own).await;
        let NotBegun::Start(StartError::Inconsistent(why)) = &why else {
            panic!("{at}: {why}");
        };
        assert!(why.contains(&format!("height {at}")), "{at}: {why}");
        own = *back;
    }
    own.app.app = KvStore::new();
    let fuller = TestChain::builder(72).heights(20).txs(3, 60).build();
    execute(&mut own.app.app, &fuller, h(20));
    let (why, back) = refused(&mut handle, own).await;
    assert!(
        matches!(why, NotBegun::Start(StartError::Diverged(_))),
        "{why}"
    );
    own = *back;

    // Another service's writer.
    let (second, theirs) = serving(Arc::default(), &chain, config(3));
    let (why, _theirs) = refused(&mut handle, theirs).await;
    assert!(matches!(why, NotBegun::NotWaiting), "{why}");
    second.stop().await;

    own.app.app = KvStore::new();
    execute(&mut own.app.app, &made, h(20));
    handle.begin(own).await.unwrap();
    applies(&handle, 40).await;
    handle.stop().await;

    // A state of another block than the one that is stored, and of another chain.
    let (mut handle, mut own) = serving(Arc::new(filled(&made)), &chain, config(4));
    own.writer.commit(state_at(&other, 41)).unwrap();
    let (why, back) = refused(&mut handle, own).await;
    assert!(why.to_string().contains("the block stored there"), "{why}");
    own = *back;
    // A state above what is stored does not get there.
    let further = TestChain::builder(72).heights(50).build();
    assert!(own.writer.commit(state_at(&further, 50)).is_err());
    drop(own);
    handle.stop().await;
    let store = Arc::new(filled(&made));
    let mut genesis = made.genesis.clone();
    genesis.chain_id = "elsewhere".into();
    let sync = BlockSync::builder(store, Asked::default(), genesis);
    let why = sync.config(config(5)).spawn_serving().err().unwrap();
    assert!(matches!(why, StartError::OtherChain { .. }), "{why}");
}

/// Blocks in the store are served, those that come there, too; without a state the sync begins at
/// genesis.
#[tokio::test(start_paused = true)]
async fn what_is_stored_is_served_without_a_sync() {
    let made = TestChain::builder(74).heights(41).txs(1, 60).build();
    let chain = Recorded::of(&made);
    let half = made.up_to(h(20));
    let (mut handle, mut own) = serving(Arc::new(filled(&half)), &chain, config(6));
    let mut end = listener(&handle, true, 20).await;
    let mut stock = listener(&handle, false, 20).await;
    sleep(Duration::from_secs(5)).await;
    assert_eq!(told(&mut end).last(), Some(&(1, half.height().get())));
    assert_eq!(
        told(&mut stock),
        [],
        "a node of CometBFT would stop syncing"
    );
    for end in [&mut end, &mut stock] {
        assert!(matches!(answer(end, 7).await, Message::Block(_)));
    }
    let next = half.height().next();
    let mut batch = state_at(&made, next.get());
    batch.blocks = vec![record(&made.at(next).fetched)];
    own.writer.commit(batch).unwrap();
    sleep(Duration::from_secs(3)).await;
    assert_eq!(told(&mut end).last(), Some(&(1, next.get())));
    assert!(matches!(
        answer(&mut end, next.get()).await,
        Message::Block(_)
    ));
    assert_eq!(handle.status().borrow().blocks(), 0, "nothing was synced");
    // The application lacks the last: it is executed before the sync begins.
    execute(&mut own.app.app, &made, half.height());
    handle.begin(own).await.unwrap();
    let mut status = handle.status();
    let begun = status.wait_for(|s| s.phase != Phase::Serving).await;
    assert_eq!(begun.unwrap().blocks(), 0, "the stored one is executed");
    drop(status);
    let peer = scripted(&chain, 1, Behaviour::Honest, Duration::ZERO);
    handle.add_peer(peer).await.unwrap();
    applies(&handle, 40).await;
    handle.stop().await;

    let (mut handle, own) = serving(Arc::default(), &chain, config(7));
    let peer = scripted(&chain, 1, Behaviour::Honest, Duration::ZERO);
    handle.add_peer(peer).await.unwrap();
    handle.begin(own).await.unwrap();
    applies(&handle, 40).await;
    handle.stop().await;
}
