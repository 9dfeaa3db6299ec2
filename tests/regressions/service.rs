//! Those that need the whole service, on paused time.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use blocksync::app::{App, KvStore};
use blocksync::fault::Fault;
use blocksync::ids::Height;
use blocksync::link::{Configured, Inbound, Link, LinkEnd};
use blocksync::pool::{LocalFault, Outcome, Stall};
use blocksync::service::{AfterCaughtUp, BlockSync, Dropped, Handle, Status};
use blocksync::store::{MemStore, Span, Store};
use blocksync::wire::Message;
use blocksync_testkit::chain::TestChain;
use blocksync_testkit::peers::{Behaviour, scripted};
use blocksync_testkit::store::faulty::{Accident, FaultyStore};
use bytes::Bytes;
use tokio::sync::watch;

use crate::peers::{self, Log, Script};
use blocksync_testkit::made::{Disk, Outside};
use blocksync_testkit::recorded::{Recorded, config, fresh, id, wrap};

/// Virtual time within which everything must end: a guard against standing still.
const GUARD: Duration = Duration::from_secs(600);

fn made(blocks: usize) -> TestChain {
    TestChain::builder(1).heights(blocks).txs(1, 40).build()
}

async fn applies(handle: &Handle<KvStore>, last: Height) {
    let mut watch = handle.status();
    let done = watch.wait_for(|s| s.applied == last);
    let done = tokio::time::timeout(GUARD, done).await;
    assert!(done.is_ok(), "{:#?}", handle.status().borrow());
}

/// A peer by hand that has said that it has everything up to a height.
async fn by_hand<A: App>(handle: &Handle<A>, n: u8, height: Height) -> LinkEnd {
    let (link, end) = Link::pair(id(n), "by hand");
    handle.add_peer(link).await.unwrap();
    let status = Message::Status {
        height,
        base: Height::new(1),
        max_range: 1,
    };
    say(&end, status.encode()).await;
    end
}

async fn say(end: &LinkEnd, message: Bytes) {
    end.inbox.send(Inbound::Message(message)).await.unwrap();
}

/// The next message of the service that is neither a status nor a request for one.
async fn heard(end: &mut LinkEnd) -> Message {
    loop {
        match Message::decode(&end.outbox.recv().await.unwrap()).unwrap() {
            Message::Status { .. } | Message::StatusRequest => {}
            other => return other,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn r10_faults_of_all_at_once_and_who_takes_nothing_hold_nobody_up() {
    let chain = Recorded::of(&made(60));
    let (handle, _store) = fresh(&chain, config(10)).await;
    for n in 10..200 {
        peers::keep(&handle, n, Script::garbage(&chain), &Log::new());
    }
    // One that asks without end and never reads: nothing can be sent to it any more.
    let deaf = by_hand(&handle, 201, chain.tip()).await;
    let inbox = deaf.inbox.clone();
    tokio::spawn(async move {
        let ask = || Inbound::Message(asks(Height::new(1)));
        while inbox.send(ask()).await.is_ok() {
            tokio::time::sleep(Duration::from_micros(100)).await;
        }
    });
    peers::keep(&handle, 1, Script::honest(&chain), &Log::new());
    applies(&handle, chain.tip().prev()).await;
    let status = handle.status().borrow().clone();
    assert!(status.dropped.iter().all(|d| d.peer != id(1)));
    let garbage = |d: &&Dropped| matches!(d.reason.fault(), Some(Fault::Malformed(_)));
    assert!(status.dropped.iter().filter(garbage).count() > 60);
    let begun = tokio::time::Instant::now();
    handle.stop().await;
    assert!(begun.elapsed() <= Duration::from_secs(2));
    drop(deaf);
}

/// `Message{block_response}` with a block of a height whose transactions no decoder reads.
fn undecodable(height: u64) -> Bytes {
    let mut header = vec![0x18];
    blocksync::varint::put(height, &mut header);
    let mut block = vec![0x0a, header.len() as u8];
    block.extend(&header);
    block.extend([0x12, 0x02, 0x0a, 0x7f]); // a transaction longer than all of them
    let mut body = vec![0x0a, block.len() as u8];
    body.extend(block);
    wrap(&body)
}

#[tokio::test(start_paused = true)]
async fn r12_what_was_not_asked_for_is_refused_before_it_is_decoded() {
    let chain = Recorded::of(&made(60));
    for (height, expected) in [(1, "malformed"), (50, "unasked")] {
        let (handle, _store) = fresh(&chain, config(12)).await;
        let mut end = by_hand(&handle, 1, chain.tip()).await;
        // The lowest heights are asked for first, two of a peer that is new.
        let Message::BlockRequest { height: first, .. } = heard(&mut end).await else {
            panic!("a request");
        };
        assert_eq!(first, Height::new(1));
        say(&end, undecodable(height)).await;
        end.hangup.cancelled().await;
        let mut watch = handle.status();
        let status = watch
            .wait_for(|s| !s.dropped.is_empty())
            .await
            .unwrap()
            .clone();
        assert_eq!(status.dropped[0].reason.name(), expected);
        handle.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn r23_channels_that_are_closed_are_not_asked_again_and_again() {
    // Were anything to spin, the clock of this runtime would stand still, and the test would never
    // end.
    let chain = Recorded::of(&made(20));
    let (handle, _store) = fresh(&chain, config(23)).await;
    drop(handle.events());
    let mut hangups = Vec::new();
    for n in 1..=3 {
        let (link, end) = Link::pair(id(n), "half closed");
        let LinkEnd {
            inbox,
            outbox,
            hangup,
        } = end;
        handle.add_peer(link).await.unwrap();
        hangups.push(hangup);
        match n {
            1 => drop(inbox),
            2 => drop(outbox),
            _ => drop((inbox, outbox)),
        }
    }
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert!(hangups.iter().all(|hangup| hangup.is_cancelled()));
    let outcome = handle.status().borrow().outcome.clone();
    assert!(matches!(outcome, Outcome::NoUsablePeers), "{outcome:?}");
    // It goes on all the same.
    peers::keep(&handle, 1, Script::honest(&chain), &Log::new());
    applies(&handle, chain.tip().prev()).await;
    handle.stop().await;
}

#[tokio::test(start_paused = true)]
async fn r27_a_new_network_begins() {
    let chain = Recorded::of(&made(1));
    let mut config = config(27);
    config.after = AfterCaughtUp::HandOver;
    let (mut handle, _store) = fresh(&chain, config).await;
    for n in 1..=3 {
        peers::keep(&handle, n, Script::says("new", &chain, 0, 0), &Log::new());
    }
    let begun = tokio::time::Instant::now();
    let caught_up = handle.outcome(|o| matches!(o, Outcome::CaughtUp { .. }));
    tokio::time::timeout(GUARD, caught_up)
        .await
        .unwrap()
        .unwrap();
    assert!(begun.elapsed() <= Duration::from_secs(3));
    let out = handle.hand_over().await.unwrap();
    assert_eq!(out.state.next_height(), Height::new(1));
    handle.stop().await;
}

/// The highest height that others were told of before the `nth` write failed, and what was durable
/// then. The next one is not served.
async fn told_of(app: impl App, nth: u64) -> (Height, Span) {
    let chain = Recorded::of(&made(60));
    let plan = FaultyStore::with_plan(Arc::new(MemStore::new()), nth, Accident::Io);
    let store = Arc::new(plan);
    let sync = BlockSync::builder(store.clone(), app, chain.genesis.clone());
    let handle = sync.config(config(52)).spawn().await.unwrap();
    let mut end = by_hand(&handle, 9, Height::new(1)).await;
    peers::keep(&handle, 1, Script::honest(&chain), &Log::new());
    let fault = handle.outcome(|o| matches!(o, Outcome::LocalFault(LocalFault::Store(_))));
    tokio::time::timeout(GUARD, fault).await.unwrap().unwrap();
    say(&end, Message::StatusRequest.encode()).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut told = Height::ZERO;
    while let Ok(message) = end.outbox.try_recv() {
        if let Message::Status { height, .. } = Message::decode(&message).unwrap() {
            told = told.max(height);
        }
    }
    say(&end, asks(told.next())).await;
    let answer = heard(&mut end).await;
    assert!(matches!(answer, Message::NoBlock { .. }), "{answer:?}");
    handle.stop().await;
    (told, store.inner().span().unwrap())
}

#[tokio::test(start_paused = true)]
async fn r52_nothing_is_told_of_or_served_before_it_is_applied_and_durable() {
    // The first write is the genesis state, the second has the first blocks.
    let (told, span) = told_of(KvStore::new(), 2).await;
    assert_eq!((told, span.applied), (Height::ZERO, Height::ZERO));
    // With an external application each block is stored before it is applied; and the state after
    // it follows from what is stored.
    let mut ahead = 0;
    for nth in [5, 18, 31, 44] {
        let disk = Arc::new(Disk::default());
        let (told, span) = told_of(Outside::new(&disk), nth).await;
        let committed = disk.committed().last().copied().unwrap_or_default();
        assert!(told <= span.stored, "write {nth}: {told}, {span:?}");
        assert!(told <= committed, "write {nth}: {told}, {committed}");
        ahead += u64::from(span.stored > span.applied);
    }
    assert!(ahead > 0, "no block was stored that was not applied yet");
}

fn asks(height: Height) -> Bytes {
    Message::BlockRequest { height, count: 0 }.encode()
}

#[tokio::test(start_paused = true)]
async fn r53_connections_that_end_leave_nothing_behind() {
    let made = made(20);
    let chain = Recorded::of(&made);
    let (handle, _store) = fresh(&chain, config(53)).await;
    peers::keep(&handle, 1, Script::honest(&chain), &Log::new());
    applies(&handle, chain.tip().prev()).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let tasks = || {
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks()
    };
    let before = tasks();
    for n in 0..300u32 {
        let end = by_hand(&handle, 2 + (n % 3) as u8, chain.tip()).await;
        for height in 1..10 {
            say(&end, asks(Height::new(height))).await;
        }
        if n % 2 == 0 {
            let gone = Inbound::Closed("gone".into());
            end.inbox.send(gone).await.unwrap();
        } else {
            end.hangup.cancel();
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(end.inbox.is_closed() && end.outbox.is_closed(), "{n}");
    }
    assert_eq!(tasks(), before);
    handle.stop().await;
}

/// A stranger whose chain has another genesis is there first; one configured peer comes later, and
/// another one fails to come at all.
#[tokio::test(start_paused = true)]
async fn a_stranger_with_another_genesis_ends_nothing() {
    let [made, other] = [1, 2].map(|seed| TestChain::builder(seed).heights(20).build());
    let [ours, twin] = [&made, &other].map(Recorded::of);
    let (handle, _store) = fresh(&ours, config(21)).await;
    let peers = || BTreeSet::from([id(2), id(3)]);
    let (tell, told) = watch::channel(Configured::new(peers(), peers()));
    let link = |n, chain| {
        let mut link = scripted(chain, n, Behaviour::Honest, Duration::ZERO);
        link.configured = Some(told.clone());
        link
    };
    handle.add_peer(link(1, &twin)).await.unwrap();
    let mut watch = handle.status();
    let said = |status: &Status| !matches!(status.outcome, Outcome::Syncing);
    let ended = watch.wait_for(said);
    let waited = tokio::time::timeout(Duration::from_secs(8), ended).await;
    assert!(waited.is_err(), "{:?}", handle.status().borrow().outcome);
    // Nobody comes for now: it is a stall that names both blocks, and no end.
    tell.send_replace(Configured::new(peers(), BTreeSet::new()));
    let stalled = |o: &Outcome| {
        matches!(
            o,
            Outcome::Stalled {
                why: Stall::StrangersDiffer(_)
            }
        )
    };
    let status = tokio::time::timeout(GUARD, handle.outcome(stalled)).await;
    let outcome = status.expect("a stall").unwrap().outcome;
    let theirs = other.blocks[0].fetched.id.to_string();
    assert!(format!("{outcome:?}").contains(&theirs), "{outcome:?}");
    handle.add_peer(link(2, &ours)).await.unwrap();
    applies(&handle, ours.tip().prev()).await;
    handle.stop().await;
}
