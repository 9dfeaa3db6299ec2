//! The life of a node beside consensus: what is served while consensus writes, what is not
//! downloaded, when it is said to be behind, the way back, and blocks that consensus takes one by
//! one.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::time::Duration;

use blocksync::app::{App, KvStore};
use blocksync::chain::{ChainState, FinalizeBlock, Rules, Time};
use blocksync::ids::Height;
use blocksync::link::{Inbound, Link, LinkEnd};
use blocksync::pool::Outcome;
use blocksync::service::{
    BlockSync, Config, Event, HandOver, HandOverError, Handle, LastCommit, Phase, ServeEvent,
    StartError, SyncStart, Throttle, Timed, Unfit,
};
use blocksync::store::{Batch, MemStore, Store};
use blocksync::wire::Message;
use blocksync_testkit::chain::TestChain;
use blocksync_testkit::made::record;
use blocksync_testkit::peers::{Behaviour, scripted};
use blocksync_testkit::recorded::{Recorded, clock, config, id};
use bytes::Bytes;
use tokio::sync::broadcast::Receiver;
use tokio::time::{Instant, sleep, timeout};

const GUARD: Duration = Duration::from_secs(600);

async fn start(chain: &Recorded, config: Config) -> (Handle<KvStore>, Arc<MemStore>) {
    let store = Arc::new(MemStore::new());
    let sync = BlockSync::builder(store.clone(), KvStore::new(), chain.genesis.clone());
    (sync.config(config).spawn().await.unwrap(), store)
}

pub(crate) async fn applies<A: App>(handle: &Handle<A>, height: u64) {
    let mut watch = handle.status();
    let done = watch.wait_for(|s| s.applied >= Height::new(height));
    timeout(GUARD, done).await.unwrap().unwrap();
}

/// Events so far.
pub(crate) fn all<E: Clone>(events: &mut Receiver<Timed<E>>) -> Vec<E> {
    std::iter::from_fn(|| events.try_recv().ok().map(|timed| timed.event)).collect()
}

/// The state after a block, which the application has executed and not committed.
async fn execute(app: &mut KvStore, state: &ChainState, made: &TestChain) -> ChainState {
    let fetched = &made.at(state.next_height()).fetched;
    let last = state.last_validators.as_deref();
    let request = FinalizeBlock::from_block(&fetched.block, fetched.id, last, state.initial_height);
    let response = app.finalize_block(request.unwrap()).await.unwrap();
    state
        .advance(&fetched.block, fetched.id, &response, &Rules::COMET_038)
        .unwrap()
}

/// Toy consensus: decides the next block of a prepared chain.
pub(crate) async fn decide(own: &mut HandOver<KvStore>, made: &TestChain) {
    let state = Arc::new(execute(&mut own.app, &own.state, made).await);
    own.app.commit().await.unwrap();
    let block = made.at(state.last_height);
    let mut commit = Vec::new();
    block.commit.encode(&mut commit);
    let batch = Batch {
        blocks: vec![record(&block.fetched)],
        seen_commit: Some((state.last_height, commit.into())),
        state: Some(state.clone()),
        app: own.app.take_writes(),
        ..Batch::default()
    };
    own.writer.commit(batch).unwrap();
    own.state = state;
}

/// A peer that only listens. Gives what it was told, in order, up to now.
pub(crate) fn told(end: &mut LinkEnd) -> Vec<(u64, u64)> {
    let mut out = Vec::new();
    while let Ok(message) = end.outbox.try_recv() {
        if let Ok(Message::Status { height, base, .. }) = Message::decode(&message) {
            out.push((base.get(), height.get()));
        }
    }
    out
}

fn asks(height: u64) -> Bytes {
    let (height, count) = (Height::new(height), 0);
    Message::BlockRequest { height, count }.encode()
}

/// Answer to a request for a block.
pub(crate) async fn answer(end: &mut LinkEnd, height: u64) -> Message {
    end.inbox
        .send(Inbound::Message(asks(height)))
        .await
        .unwrap();
    loop {
        let message = timeout(GUARD, end.outbox.recv()).await.unwrap().unwrap();
        if let found @ (Message::Block(_) | Message::NoBlock { .. }) =
            Message::decode(&message).unwrap()
        {
            return found;
        }
    }
}

/// A longer `advertise_time` makes fewer statuses of the same blocks, and the last one is told all
/// the same.
#[tokio::test(start_paused = true)]
async fn statuses_come_no_oftener_than_is_set() {
    let made = TestChain::builder(61).heights(61).txs(1, 40).build();
    let chain = Recorded::of(&made.up_to(Height::new(21)));
    let mut config = config(1);
    config.serve.advertise_time = Duration::from_secs(6);
    let (mut handle, _store) = start(&chain, config).await;
    let peer = scripted(&chain, 1, Behaviour::Honest, Duration::ZERO);
    handle.add_peer(peer).await.unwrap();
    applies(&handle, 20).await;
    let mut own = handle.hand_over().await.unwrap();
    let (link, mut end) = Link::pair(id(9), "listener");
    handle.add_peer(link).await.unwrap();
    sleep(Duration::from_secs(10)).await;
    told(&mut end);
    for _ in 0..40 {
        decide(&mut own, &made).await;
        sleep(Duration::from_millis(500)).await;
    }
    let heard = told(&mut end);
    assert!(heard.len() >= 3 && heard.len() <= 4, "in 20 s: {heard:?}");
    sleep(Duration::from_secs(7)).await;
    assert_eq!(told(&mut end).last(), Some(&(1, 60)));
    handle.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_consensus_commits_is_told_and_served_at_once() {
    let made = TestChain::builder(61).heights(61).txs(1, 40).build();
    let chain = Recorded::of(&made.up_to(Height::new(21)));
    let (mut handle, _store) = start(&chain, config(1)).await;
    let peer = scripted(&chain, 1, Behaviour::Honest, Duration::ZERO);
    handle.add_peer(peer).await.unwrap();
    applies(&handle, 20).await;
    let mut own = handle.hand_over().await.unwrap();
    assert_eq!(handle.status().borrow().phase, Phase::HandedOver);
    let (link, mut end) = Link::pair(id(9), "listener");
    handle.add_peer(link).await.unwrap();
    sleep(Duration::from_secs(5)).await;
    told(&mut end);
    for _ in 0..40 {
        decide(&mut own, &made).await;
        // A block time of half a second: peers are told at most once a second, and of the newest.
        sleep(Duration::from_millis(500)).await;
    }
    sleep(Duration::from_secs(2)).await;
    let heard = told(&mut end);
    assert!(heard.len() >= 15 && heard.len() <= 24, "{heard:?}");
    assert!(heard.is_sorted(), "neither number ever falls: {heard:?}");
    assert_eq!(heard.last(), Some(&(1, 60)));
    for height in [1, 20, 21, 60] {
        let found = answer(&mut end, height).await;
        assert!(matches!(found, Message::Block(_)), "{height}: {found:?}");
    }
    assert!(matches!(
        answer(&mut end, 61).await,
        Message::NoBlock { .. }
    ));
    assert_eq!(handle.status().borrow().applied, Height::new(60));
    // Consensus prunes: the base rises.
    let prune = Some((Height::new(30), Height::new(30)));
    own.writer
        .commit(Batch {
            prune,
            ..Batch::default()
        })
        .unwrap();
    sleep(Duration::from_secs(2)).await;
    assert_eq!(told(&mut end).last(), Some(&(30, 60)));
    assert!(matches!(
        answer(&mut end, 29).await,
        Message::NoBlock { .. }
    ));
    handle.stop().await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_downloaded_while_consensus_has_the_writer() {
    let made = TestChain::builder(62).heights(200).txs(1, 400).build();
    let short = Recorded::of(&made.up_to(Height::new(21)));
    let whole = Recorded::of(&made);
    let mut settings = config(2);
    settings.trigger_timeout = Duration::from_secs(30);
    let (mut handle, _store) = start(&short, settings).await;
    let peer = scripted(&short, 1, Behaviour::Honest, Duration::ZERO);
    handle.add_peer(peer).await.unwrap();
    applies(&handle, 20).await;
    let mut events = handle.events();
    let mut own = handle.hand_over().await.unwrap();
    // One comes that has far more.
    let (link, mut end) = Link::pair(id(7), "far ahead");
    handle.add_peer(link).await.unwrap();
    let status = Message::Status {
        height: whole.tip(),
        base: Height::new(1),
        max_range: 1,
    };
    end.inbox
        .send(Inbound::Message(status.encode()))
        .await
        .unwrap();
    let begun = Instant::now();
    let behind = async {
        loop {
            if let Event::Behind {
                height,
                applied,
                proven: false,
            } = events.recv().await.unwrap().event
            {
                return (height, applied, begun.elapsed());
            }
        }
    };
    let (height, applied, after) = timeout(GUARD, behind).await.unwrap();
    assert_eq!((height, applied), (whole.tip(), Height::new(20)));
    assert!((29..=31).contains(&after.as_secs()), "{after:?}");
    let mut asked = 0;
    while let Ok(message) = end.outbox.try_recv() {
        asked += usize::from(matches!(
            Message::decode_small(&message),
            Ok(Message::BlockRequest { .. })
        ));
    }
    let status = handle.status().borrow().clone();
    assert_eq!((asked, status.buffered_bytes), (0, 0));
    assert_eq!(status.phase, Phase::HandedOver);
    // Consensus that moves is not behind.
    for _ in 0..4 {
        sleep(Duration::from_secs(20)).await;
        decide(&mut own, &made).await;
    }
    for event in all(&mut events) {
        assert!(!matches!(event, Event::Behind { .. }), "{event:?}");
    }
    // The writer comes back, and the sync goes on from what consensus reached.
    let peer = scripted(&whole, 3, Behaviour::Honest, Duration::ZERO);
    handle.add_peer(peer).await.unwrap();
    handle.resume(own).await.unwrap();
    applies(&handle, 199).await;
    handle.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_store_has_one_writer_whatever_is_done() {
    let made = TestChain::builder(63).heights(12).build();
    let chain = Recorded::of(&made);
    let (mut handle, store) = start(&chain, config(3)).await;
    let second = || {
        let store: Arc<MemStore> = store.clone();
        BlockSync::builder(store, KvStore::new(), chain.genesis.clone()).config(config(4))
    };
    assert!(matches!(second().spawn().await, Err(StartError::Claimed)));
    let own = handle.hand_over().await.unwrap();
    assert!(matches!(second().spawn().await, Err(StartError::Claimed)));
    assert!(matches!(
        handle.hand_over().await,
        Err(HandOverError::AlreadyOut)
    ));
    handle.stop().await;
    assert!(matches!(second().spawn().await, Err(StartError::Claimed)));
    drop(own);
    second().spawn().await.unwrap().stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_does_not_fit_comes_back_whole() {
    let made = TestChain::builder(64).heights(30).build();
    let chain = Recorded::of(&made.up_to(Height::new(21)));
    let (mut handle, _store) = start(&chain, config(5)).await;
    let peer = scripted(&chain, 1, Behaviour::Honest, Duration::ZERO);
    handle.add_peer(peer).await.unwrap();
    applies(&handle, 20).await;
    let mut own = handle.hand_over().await.unwrap();
    let stale = own.state.clone();
    decide(&mut own, &made).await;
    let right = std::mem::replace(&mut own.state, stale);
    let refused = handle.resume(own).await.unwrap_err();
    assert!(
        matches!(refused.why, Unfit::Stale { given, stored } if given.get() == 20 && stored.get() == 21),
        "{refused:?}"
    );
    // An application that has executed more than the state says.
    let mut own = *refused.back;
    own.state = right;
    let ahead = execute(&mut own.app, &own.state, &made).await;
    own.app.commit().await.unwrap();
    let refused = handle.resume(own).await.unwrap_err();
    assert!(
        matches!(refused.why, Unfit::App { app, state } if app.get() == 22 && state.get() == 21),
        "{refused:?}"
    );
    let mut own = *refused.back;
    let block = made.at(ahead.last_height);
    let batch = Batch {
        blocks: vec![record(&block.fetched)],
        state: Some(Arc::new(ahead.clone())),
        app: own.app.take_writes(),
        ..Batch::default()
    };
    own.writer.commit(batch).unwrap();
    own.state = Arc::new(ahead);
    handle.resume(own).await.unwrap();
    handle.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_hand_over_that_is_given_up_is_taken_up_again() {
    let made = TestChain::builder(65).heights(60).build();
    let chain = Recorded::of(&made);
    let mut given_up = 0;
    for patience in 0..12 {
        let (mut handle, store) = start(&chain, config(6)).await;
        let peer = scripted(&chain, 1, Behaviour::Honest, Duration::ZERO);
        handle.add_peer(peer).await.unwrap();
        applies(&handle, 5).await;
        let mut polls = 0;
        // Polled a few times, then dropped.
        let first = {
            let mut taking = Box::pin(handle.hand_over());
            std::future::poll_fn(|cx| {
                if polls == patience {
                    return std::task::Poll::Ready(None);
                }
                polls += 1;
                cx.waker().wake_by_ref();
                taking.as_mut().poll(cx).map(Some)
            })
            .await
        };
        let own = match first {
            Some(own) => own.unwrap(),
            None => {
                given_up += 1;
                sleep(Duration::from_secs(1)).await;
                handle.hand_over().await.unwrap()
            }
        };
        assert_eq!(own.state.last_height, store.span().unwrap().applied);
        assert!(matches!(own.last_commit, LastCommit::Commit(_)));
        handle.resume(own).await.unwrap();
        applies(&handle, 59).await;
        handle.stop().await;
    }
    assert!(given_up >= 2, "{given_up}");
}

#[tokio::test(start_paused = true)]
async fn the_hand_over_has_the_extended_commit_where_extensions_are_on() {
    let made = TestChain::builder(66)
        .heights(30)
        .extensions_from(10)
        .build();
    let chain = Recorded::of(&made);
    let (mut handle, _store) = start(&chain, config(7)).await;
    let peer = scripted(&chain, 1, Behaviour::Honest, Duration::ZERO);
    handle.add_peer(peer).await.unwrap();
    applies(&handle, 29).await;
    let mut own = handle.hand_over().await.unwrap();
    let ext = made.at(Height::new(29)).fetched.ext_raw.clone().unwrap();
    assert_eq!(own.last_commit, LastCommit::Extended(ext));
    // Consensus that gives back a state whose block has none cannot have it again.
    let state = Arc::new(execute(&mut own.app, &own.state, &made).await);
    own.app.commit().await.unwrap();
    let mut block = record(&made.at(Height::new(30)).fetched);
    block.ext_raw = None;
    let batch = Batch {
        blocks: vec![block],
        state: Some(state.clone()),
        app: own.app.take_writes(),
        ..Batch::default()
    };
    own.writer.commit(batch).unwrap();
    own.state = state;
    handle.resume(own).await.unwrap();
    let refused = handle.hand_over().await.err().unwrap();
    assert!(
        matches!(refused, HandOverError::NoCommit(h) if h.get() == 30),
        "{refused}"
    );
    handle.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_running_consensus_takes_proven_blocks_one_by_one() {
    let made = TestChain::builder(67).heights(60).txs(1, 40).build();
    let chain = Recorded::of(&made);
    let (mut handle, store) = start(&chain, config(8)).await;
    let own = handle.hand_over().await.unwrap();
    let mut ingest = handle.ingest(own).await.unwrap();
    // One lies about a block, another is honest.
    let liar = scripted(&chain, 1, Behaviour::LiesInTransaction(30), Duration::ZERO);
    handle.add_peer(liar).await.unwrap();
    let peer = scripted(&chain, 2, Behaviour::Honest, Duration::from_millis(1));
    handle.add_peer(peer).await.unwrap();
    while ingest.state().last_height < Height::new(59) {
        let proven = timeout(GUARD, ingest.next()).await.unwrap().unwrap();
        let again = ingest.next().await.unwrap();
        assert_eq!(proven.block.id, again.block.id, "until it is applied");
        let height = proven.block.height();
        assert_eq!(proven.block.raw, made.at(height).fetched.raw);
        let mut commit = Vec::new();
        made.at(height).commit.encode(&mut commit);
        assert_eq!(proven.commit, commit, "{height}");
        let before = ingest.state().clone();
        let state = Arc::new(execute(ingest.app(), &before, &made).await);
        ingest.app().commit().await.unwrap();
        // Not before it is stored.
        assert!(ingest.applied(state.clone()).await.is_err());
        let app = ingest.app().take_writes();
        let batch = Batch {
            blocks: vec![record(&proven.block)],
            seen_commit: Some((height, proven.commit)),
            state: Some(state.clone()),
            app,
            ..Batch::default()
        };
        ingest.writer().commit(batch).unwrap();
        ingest.applied(state).await.unwrap();
    }
    applies(&handle, 59).await;
    let own = ingest.finish().await.unwrap();
    assert_eq!(own.state.last_height, Height::new(59));
    assert_eq!(
        own.state.app_hash,
        made.state_after(Height::new(59)).app_hash
    );
    assert_eq!(store.span().unwrap().applied, Height::new(59));
    assert!(own.blocks_synced);
    handle.stop().await;
}

#[tokio::test(start_paused = true)]
async fn consensus_that_cannot_execute_a_proven_block_ends_the_service() {
    let made = TestChain::builder(68).heights(20).build();
    let chain = Recorded::of(&made);
    let (mut handle, _store) = start(&chain, config(9)).await;
    let own = handle.hand_over().await.unwrap();
    let mut ingest = handle.ingest(own).await.unwrap();
    let peer = scripted(&chain, 1, Behaviour::Honest, Duration::ZERO);
    handle.add_peer(peer).await.unwrap();
    timeout(GUARD, ingest.next()).await.unwrap().unwrap();
    ingest.refused("the disk is full".into()).await;
    let ended = handle.outcome(|o| matches!(o, Outcome::LocalFault(_)));
    let status = timeout(GUARD, ended).await.unwrap().unwrap();
    assert_eq!(status.dropped, []);
    handle.stop().await;
}

/// A peer's requests and answers are told on a stream of their own, one event for each request.
#[tokio::test(start_paused = true)]
async fn what_peers_ask_for_is_told() {
    let made = TestChain::builder(61).heights(21).txs(1, 40).build();
    let chain = Recorded::of(&made.up_to(Height::new(21)));
    let mut config = config(1);
    config.serve.queue = 4;
    let (handle, _store) = start(&chain, config).await;
    let peer = scripted(&chain, 1, Behaviour::Honest, Duration::ZERO);
    handle.add_peer(peer).await.unwrap();
    applies(&handle, 20).await;
    let (link, mut end) = Link::pair(id(9), "listener");
    handle.add_peer(link).await.unwrap();
    let mut events = handle.serve_events();
    let (peer, from) = (id(9), Height::new(5));
    for _ in 0..4 {
        answer(&mut end, 5).await;
    }
    answer(&mut end, 1000).await;
    sleep(Duration::from_secs(1)).await;
    let mut told = all(&mut events);
    told.retain(|event| !matches!(event, ServeEvent::RequestReceived { .. }));
    let sent = |event: &ServeEvent| match event {
        ServeEvent::ResponseSent {
            peer: to,
            count,
            blocks,
            bytes,
            no_blocks,
            ..
        } => {
            assert_eq!((*to, *count), (peer, 1));
            assert_eq!(*bytes > 100, *blocks > 0);
            Some((*blocks, *no_blocks))
        }
        _ => None,
    };
    let answers: Vec<_> = told.iter().filter_map(sent).collect();
    assert_eq!(answers, [(1, 0), (1, 0), (1, 0), (1, 0), (0, 1)]);
    let (count, why) = (1, Throttle::AskedAgain);
    let again = ServeEvent::RequestThrottled {
        peer,
        from,
        count,
        why,
    };
    assert_eq!(told[3], again, "the fourth time is one too many");

    // More than the queue holds, all at once.
    for height in 1..=20 {
        end.inbox
            .send(Inbound::Message(asks(height)))
            .await
            .unwrap();
    }
    sleep(Duration::from_secs(1)).await;
    let told = all(&mut events);
    let is_full = |event: &&ServeEvent| {
        matches!(
            event,
            ServeEvent::RequestThrottled {
                why: Throttle::QueueFull,
                ..
            }
        )
    };
    let is_received = |event: &&ServeEvent| matches!(event, ServeEvent::RequestReceived { .. });
    assert_eq!(told.iter().filter(is_received).count(), 20);
    assert!(told.iter().filter(is_full).count() > 0, "{told:?}");
    handle.stop().await;
}

/// Each event of both streams has its time by the clock that is configured: here one that every
/// look at it moves.
#[tokio::test(start_paused = true)]
async fn every_event_has_its_time() {
    static LOOKS: AtomicI64 = AtomicI64::new(1);
    fn moving() -> Time {
        Time::new(clock().seconds + LOOKS.fetch_add(1, Relaxed), 0).unwrap()
    }
    fn times<E: Clone>(events: &mut Receiver<Timed<E>>) -> Vec<i64> {
        let told = std::iter::from_fn(|| events.try_recv().ok());
        told.map(|timed| timed.time.seconds - clock().seconds)
            .collect()
    }
    let made = TestChain::builder(61).heights(21).txs(1, 40).build();
    let chain = Recorded::of(&made);
    let mut config = config(1);
    config.clock = moving;
    let (handle, _store) = start(&chain, config).await;
    let (mut events, mut served) = (handle.events(), handle.serve_events());
    let peer = scripted(&chain, 1, Behaviour::Honest, Duration::ZERO);
    handle.add_peer(peer).await.unwrap();
    applies(&handle, 20).await;
    let (link, mut end) = Link::pair(id(9), "listener");
    handle.add_peer(link).await.unwrap();
    for height in 1..5 {
        answer(&mut end, height).await;
    }
    for times in [times(&mut events), times(&mut served)] {
        let most = LOOKS.load(Relaxed);
        assert!(times.iter().all(|t| (1..most).contains(t)), "{times:?}");
        assert!(times.is_sorted_by(|a, b| a < b), "{times:?}");
        assert!(times.len() >= 8, "{times:?}");
    }
    handle.stop().await;
}

/// The beginning and the end of a sync, and what was proven in between, are told in order.
#[tokio::test(start_paused = true)]
async fn a_sync_is_told_from_its_beginning_to_its_end() {
    let made = TestChain::builder(61).heights(61).txs(1, 40).build();
    let chain = Recorded::of(&made.up_to(Height::new(21)));
    let mut config = config(1);
    config.retain_blocks = 5;
    let (mut handle, _store) = start(&chain, config).await;
    let mut events = handle.events();
    let peer = scripted(&chain, 1, Behaviour::Honest, Duration::from_millis(10));
    handle.add_peer(peer).await.unwrap();
    applies(&handle, 20).await;
    let caught_up = handle.outcome(|o| matches!(o, Outcome::CaughtUp { .. }));
    timeout(GUARD, caught_up).await.unwrap().unwrap();
    let own = handle.hand_over().await.unwrap();
    handle.resume(own).await.unwrap();
    sleep(Duration::from_millis(100)).await;
    let mut told = all(&mut events);
    let (mut proven, mut applied) = (Height::ZERO, Height::ZERO);
    told.retain(|event| match event {
        Event::BlocksProven { from, to } => {
            assert_eq!(*from, proven.next());
            proven = *to;
            false
        }
        Event::Applied { state } => {
            applied = state.last_height;
            assert!(applied <= proven, "{applied} is applied, {proven} proven");
            false
        }
        Event::Pruned { below } => {
            assert!(*below <= applied.next());
            false
        }
        event => matches!(event, Event::SyncStarted { .. } | Event::SyncEnded { .. }),
    });
    assert_eq!((proven, applied), (Height::new(20), Height::new(20)));
    let [start, end, resumed, ..] = &told[..] else {
        panic!("{told:?}");
    };
    let (first, last) = (Height::ZERO, Height::new(20));
    assert!(
        matches!(start, Event::SyncStarted { from, why: SyncStart::Start } if *from == first),
        "{start:?}"
    );
    assert!(
        matches!(end, Event::SyncEnded { from, to, took, outcome: Outcome::CaughtUp { .. } }
            if (*from, *to) == (first, last) && !took.is_zero()),
        "{end:?}"
    );
    assert!(
        matches!(resumed, Event::SyncStarted { from, why: SyncStart::Resumed } if *from == last),
        "{resumed:?}"
    );
    handle.stop().await;
}
