//! Signed statuses in rough company: nodes of ours that know none, replays, floods, and forks that
//! proofs show (`docs/serving.md` 7, 9 and 11).

use std::sync::Arc;
use std::time::Duration;

use blocksync::app::KvStore;
use blocksync::chain::height_proof::HeightProof;
use blocksync::ids::{Height, PeerId};
use blocksync::link::{Inbound, Link, LinkEnd};
use blocksync::pool::Outcome;
use blocksync::service::{Dropped, Event, Handle, ServeEvent, Shown, Timed};
use blocksync::wire::message::Kind;
use blocksync::wire::{
    AdvertisementRequest, Audience, ChainIdentity, Claim, Message, Signer, guard,
};
use blocksync_testkit::chain::{Builder, TestChain};
use blocksync_testkit::peers::{Behaviour, scripted};
use blocksync_testkit::recorded::{Recorded, clock, fresh, id};
use bytes::Bytes;
use tokio::sync::broadcast::Receiver;
use tokio::time::{sleep, timeout};

use crate::advertised::{answered, caught_up, keyed, reason, say, signed, wish};
use crate::life::{all, decide};

const GUARD: Duration = Duration::from_secs(600);

fn h(height: u64) -> Height {
    Height::new(height)
}

fn status(height: Height) -> Message {
    Message::Status {
        height,
        base: h(1),
        max_range: 1,
    }
}

async fn send(end: &LinkEnd, message: Bytes) {
    let _ = end.inbox.send(Inbound::Message(message)).await;
}

/// A proof of this block of a prepared chain.
fn proof_in(made: &TestChain, height: u64) -> HeightProof {
    let block = made.at(h(height));
    let set = &made.state_after(h(height).prev()).validators;
    HeightProof::new(block.fetched.header().clone(), block.commit.clone(), set).unwrap()
}

/// Joins as a node of ours, and shows this proof when it is asked for one.
async fn shows(handle: &Handle<KvStore>, n: u8, made: &TestChain, height: u64) -> LinkEnd {
    let (mut link, mut end) = Link::pair(id(n), format!("peer {n}"));
    link.extended = true;
    handle.add_peer(link).await.unwrap();
    let claimed = status(h(height));
    let request = loop {
        send(&end, claimed.encode()).await;
        let request = wish(&mut end).await;
        if request.prove_above.is_some() {
            break request;
        }
    };
    let claim = Claim {
        base: h(1),
        height: h(height),
        sequence: 7,
        time: clock().seconds,
        nonce: Some(request.nonce),
    };
    let chain = ChainIdentity::of(&made.genesis);
    let audience = Audience {
        chain: &chain,
        receiver: PeerId([0; 20]),
    };
    let proof = proof_in(made, height);
    let answer = Signer::from_seed([n; 32]).sign(claim, Some(proof), audience);
    send(&end, answer.beside(&claimed)).await;
    sleep(Duration::from_millis(100)).await;
    end
}

/// Two chains of one genesis and one validator set that differ from the first block on, 20 heights
/// of the first in full, and a node that has applied these and handed over.
struct Forked {
    one: TestChain,
    other: TestChain,
    handle: Handle<KvStore>,
    own: blocksync::service::HandOver<KvStore>,
    events: Receiver<Timed<Event>>,
    evidence: tempfile::TempDir,
}

async fn forked(change: impl Fn(Builder) -> Builder) -> Forked {
    let [one, other] = [1, 2].map(|txs| {
        let chain = TestChain::builder(63).heights(40).txs(txs, 100);
        change(chain).build()
    });
    assert_eq!(
        one.initial.validators.hash(),
        other.initial.validators.hash()
    );
    assert_ne!(one.at(h(30)).fetched.id, other.at(h(30)).fetched.id);
    let short = Recorded::of(&one.up_to(h(21)));
    let evidence = tempfile::tempdir().unwrap();
    let mut settings = keyed(2);
    settings.evidence_dir = Some(evidence.path().to_owned());
    let (mut handle, _store) = fresh(&short, settings).await;
    let peer = scripted(&short, 1, Behaviour::Honest, Duration::ZERO);
    handle.add_peer(peer).await.unwrap();
    caught_up(&handle).await;
    let own = handle.hand_over().await.unwrap();
    let events = handle.events();
    Forked {
        one,
        other,
        handle,
        own,
        events,
        evidence,
    }
}

impl Forked {
    /// A fork at this height is told once, with its evidence, and nobody is punished for it.
    async fn found_at(mut self, height: u64) {
        let fork = |o: &Outcome| matches!(o, Outcome::Contradiction { fork: Some(f), .. } if f.height == h(height));
        let stopped = timeout(GUARD, self.handle.outcome(fork)).await;
        let stopped = stopped.unwrap().unwrap();
        assert_eq!(stopped.dropped, []);
        let told = all(&mut self.events).into_iter();
        let found = told.filter_map(|event| match event {
            Event::ForkFound { height, .. } => Some(height),
            _ => None,
        });
        assert_eq!(found.collect::<Vec<_>>(), [h(height)]);
        let file = self.evidence.path().join(format!("fork-{height}.json"));
        let text = std::fs::read_to_string(file).unwrap();
        let evidence: serde_json::Value = serde_json::from_str(&text).unwrap();
        for made in [&self.one, &self.other] {
            let id = made.at(h(height)).fetched.id.to_string();
            let ids = evidence["block_ids"].as_array().unwrap();
            assert!(ids.iter().any(|found| *found == id), "{text}");
        }
        let commits = evidence["commits"].as_array().unwrap();
        assert!(commits.iter().all(|c| c.is_string()), "{text}");
        self.handle.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn two_proofs_of_one_height_for_two_blocks_are_a_fork() {
    let world = forked(|chain| chain).await;
    let _first = shows(&world.handle, 5, &world.one, 30).await;
    // The same proof again, and one of another height, are none.
    let _again = shows(&world.handle, 6, &world.one, 30).await;
    let _higher = shows(&world.handle, 7, &world.other, 31).await;
    sleep(Duration::from_secs(2)).await;
    let phase = world.handle.status().borrow().phase;
    assert_eq!(phase, blocksync::service::Phase::HandedOver);
    let _second = shows(&world.handle, 8, &world.other, 30).await;
    world.found_at(30).await;
}

#[tokio::test(start_paused = true)]
async fn a_proof_of_another_block_than_the_one_we_come_to_have_is_a_fork() {
    let mut world = forked(|chain| chain).await;
    let _first = shows(&world.handle, 5, &world.other, 22).await;
    for _ in 0..3 {
        decide(&mut world.own, &world.one).await;
    }
    world.found_at(22).await;
}

/// Two thirds of a set that is not the height's own prove the height below. For which block they
/// have signed says nothing: their keys may have been bought since they left.
#[tokio::test(start_paused = true)]
async fn an_old_sets_word_on_two_blocks_is_no_fork() {
    let mut world = forked(|chain| chain.change(25, 7, 1)).await;
    let mut received = world.handle.serve_events();
    let _first = shows(&world.handle, 5, &world.one, 30).await;
    let _second = shows(&world.handle, 6, &world.other, 30).await;
    sleep(Duration::from_secs(2)).await;
    let shown = all(&mut received)
        .into_iter()
        .filter_map(|event| match event {
            ServeEvent::AdvertisementReceived { shown, .. } => Some(shown),
            _ => None,
        });
    let proven: Vec<_> = shown.filter(|s| matches!(s, Shown::Proven(_))).collect();
    assert_eq!(proven, [Shown::Proven(h(29)), Shown::Proven(h(29))]);
    let forks = all(&mut world.events);
    let is_fork = |event: &Event| matches!(event, Event::ForkFound { .. });
    assert!(!forks.iter().any(is_fork), "{forks:?}");
    let phase = world.handle.status().borrow().phase;
    assert_eq!(phase, blocksync::service::Phase::HandedOver);
    world.handle.stop().await;
}

/// A node of ours from before there were signed statuses: it skips fields that it does not know,
/// takes no message but a block above 1024 bytes, and asks and answers in plain. Gives the blocks
/// that it was given, and for how long it was served.
async fn old_node(chain: Arc<Recorded>, mut end: LinkEnd) -> (usize, usize) {
    let (mut given, mut statuses) = (0, 0);
    send(&end, status(chain.tip()).encode()).await;
    for height in [1, 2, 5] {
        let (height, count) = (h(height), 0);
        send(&end, Message::BlockRequest { height, count }.encode()).await;
    }
    send(&end, Message::StatusRequest.encode()).await;
    while let Some(message) = end.outbox.recv().await {
        if guard::peek(&message).unwrap().kind == Kind::Block {
            given += 1;
            continue;
        }
        assert!(message.len() <= 1024, "it would ban for {}", message.len());
        match Message::decode_small(&message).unwrap() {
            Message::StatusRequest => send(&end, status(chain.tip()).encode()).await,
            Message::Status { .. } => statuses += 1,
            Message::BlockRequest { height, count } => {
                for height in (0..u64::from(count.max(1))).map(|n| height.plus(n)) {
                    let block = chain.message(height, false);
                    let none = || Message::NoBlock { height }.encode();
                    send(&end, block.unwrap_or_else(none)).await;
                }
            }
            _ => {}
        }
    }
    (given, statuses)
}

/// One that has not heard of signed statuses is asked, answered and synced from as ever, and is
/// sent nothing that it would ban for.
#[tokio::test(start_paused = true)]
async fn an_old_node_of_ours_is_not_disturbed() {
    let made = TestChain::builder(63).heights(60).txs(1, 100).build();
    let (short, whole) = (Recorded::of(&made.up_to(h(11))), Recorded::of(&made));
    let (handle, _store) = fresh(&whole, keyed(1)).await;
    let peer = scripted(&short, 1, Behaviour::Honest, Duration::ZERO);
    handle.add_peer(peer).await.unwrap();
    caught_up(&handle).await;
    let (mut link, end) = Link::pair(id(9), "old");
    link.extended = true;
    handle.add_peer(link).await.unwrap();
    let old = tokio::spawn(old_node(whole.clone(), end));
    let done = handle.outcome(|o| matches!(o, Outcome::CaughtUp { height } if *height == h(59)));
    timeout(GUARD, done).await.unwrap().unwrap();
    sleep(Duration::from_secs(120)).await;
    let dropped = handle.status().borrow().dropped.clone();
    assert_eq!(dropped, []);
    handle.stop().await;
    let (given, statuses) = old.await.unwrap();
    assert_eq!(given, 3);
    assert!(statuses >= 2, "{statuses}");
}

/// A status that was signed once is sent again: over another connection, late, to another receiver,
/// by another peer. How its claim differs, whether the connection is authenticated, whose key has
/// signed it, for whom, and the verdict.
type Replay = (&'static str, fn(&mut Claim), bool, u8, u8, &'static str);

#[tokio::test(start_paused = true)]
async fn replays_over_other_connections_are_refused_or_weigh_nothing() {
    let replays: [Replay; 6] = [
        ("an old answer", |_| (), false, 5, 0, "never sent"),
        ("pushed, soon", |c| c.nonce = None, false, 5, 0, "Unproven"),
        (
            "pushed, late",
            |c| (c.nonce, c.time) = (None, c.time - 61),
            false,
            5,
            0,
            "Ignored",
        ),
        (
            "late, by the connection's own key",
            |c| (c.nonce, c.time) = (None, c.time - 61),
            true,
            5,
            1,
            "Unproven",
        ),
        (
            "to another receiver",
            |c| c.nonce = None,
            true,
            5,
            3,
            "its signature is wrong",
        ),
        (
            "by another peer",
            |c| c.nonce = None,
            true,
            6,
            1,
            "another node's key",
        ),
    ];
    for (name, change, authenticated, key, receiver, words) in replays {
        let chain = Recorded::load("full-038");
        let (handle, _store) = fresh(&chain, keyed(1)).await;
        let (first, mut claim, identity) = answered(&handle, &chain).await;
        say(&first, &signed(claim, &identity, 5)).await;
        first.hangup.cancel();
        sleep(Duration::from_secs(1)).await;
        let mut events = handle.serve_events();
        let (mut link, end) = Link::pair(Signer::from_seed([5; 32]).id(), "again");
        (link.extended, link.authenticated) = (true, authenticated);
        handle.add_peer(link).await.unwrap();
        change(&mut claim);
        let receiver = match receiver {
            0 => PeerId([0; 20]),
            n => Signer::from_seed([n; 32]).id(),
        };
        let chain = &identity;
        let audience = Audience { chain, receiver };
        let again = Signer::from_seed([key; 32]).sign(claim, None, audience);
        say(&end, &again).await;
        let shown = all(&mut events).into_iter().find_map(|event| match event {
            ServeEvent::AdvertisementReceived { shown, .. } => Some(format!("{shown:?}")),
            _ => None,
        });
        let verdict = shown.unwrap_or_else(|| reason(&handle));
        assert!(verdict.contains(words), "{name}: {verdict}");
        handle.stop().await;
    }
}

/// Signed statuses that a node has had, by what it did with them.
#[derive(Default)]
struct Work {
    verified: u64,
    ignored: u64,
    judged: u64,
}

async fn work_of(mut events: Receiver<Timed<ServeEvent>>) -> Work {
    let mut work = Work::default();
    while let Ok(timed) = events.recv().await {
        if let ServeEvent::AdvertisementReceived { shown, .. } = timed.event {
            match shown {
                Shown::Ignored => work.ignored += 1,
                Shown::Proven(_) => work.judged += 1,
                _ => work.verified += 1,
            }
        }
    }
    work
}

/// Pushes signed statuses at this rate, each second's the same, and answers what it is asked.
async fn flood(mut end: LinkEnd, n: u8, a_second: u64, proof: HeightProof, made: ChainIdentity) {
    let signer = Signer::from_seed([n; 32]);
    let mut sequence = 0;
    let mut sign = |nonce, proof| {
        sequence += 1;
        let claim = Claim {
            base: h(1),
            height: h(50),
            sequence,
            time: clock().seconds,
            nonce,
        };
        let audience = Audience {
            chain: &made,
            receiver: PeerId([0; 20]),
        };
        signer.sign(claim, proof, audience).beside(&status(h(50)))
    };
    while !end.hangup.is_cancelled() {
        let pushed = sign(None, None);
        for _ in 0..a_second {
            send(&end, pushed.clone()).await;
            sleep(Duration::from_millis(1000 / a_second)).await;
        }
        while let Ok(message) = end.outbox.try_recv() {
            if let Ok(Some(asked)) = AdvertisementRequest::read(&message) {
                let proof = asked.prove_above.map(|_| proof.clone());
                send(&end, sign(Some(asked.nonce), proof)).await;
            }
        }
    }
}

/// Work that 64 peers can make by signed statuses, counted: verified signatures, and proofs that
/// were judged. At 14 us for a signature (`README.md`) it is far below 5 % of a core.
#[tokio::test(start_paused = true)]
async fn a_flood_of_signed_statuses_costs_a_bounded_number_of_signatures() {
    const SECONDS: u64 = 12;
    const PEERS: u8 = 64;
    let made = TestChain::builder(63).heights(60).txs(1, 100).build();
    let short = Recorded::of(&made.up_to(h(21)));
    let (mut handle, _store) = fresh(&short, keyed(1)).await;
    let peer = scripted(&short, 1, Behaviour::Honest, Duration::ZERO);
    handle.add_peer(peer).await.unwrap();
    caught_up(&handle).await;
    // Beside consensus proofs are asked for most often.
    let _own = handle.hand_over().await.unwrap();
    let work = tokio::spawn(work_of(handle.serve_events()));
    for n in 0..PEERS {
        let (mut link, end) = Link::pair(id(100 + n), format!("flood {n}"));
        link.extended = true;
        handle.add_peer(link).await.unwrap();
        // Every fourth sends far more than it may; the others as much as may come in that time.
        let a_second = if n % 4 == 0 { 1000 } else { 16 };
        let (proof, chain) = (proof_in(&made, 50), ChainIdentity::of(&made.genesis));
        tokio::spawn(flood(end, n, a_second, proof, chain));
    }
    sleep(Duration::from_secs(SECONDS)).await;
    let dropped = handle.status().borrow().dropped.clone();
    handle.stop().await;
    let work = work.await.unwrap();
    let peers = u64::from(PEERS);
    let too_many = |d: &&Dropped| {
        d.reason
            .to_string()
            .contains("more than 128 signed statuses")
    };
    let dropped = dropped.iter().filter(too_many).count() as u64;
    assert_eq!(dropped, peers / 4, "those above the rate");
    // One pushed a second, and the answers to our own requests.
    let (verified, ignored) = (work.verified, work.ignored);
    assert!(
        verified <= peers * 2 * (SECONDS + 1),
        "{verified} signatures verified"
    );
    assert!(verified >= peers, "{verified}");
    assert!(ignored > 10 * verified, "{ignored} and {verified}");
    // A proof a peer in five seconds.
    let judged = work.judged;
    assert!((1..=peers * 3).contains(&judged), "{judged} proofs judged");
}

/// A proof that nobody asked for is not looked at, however good it is.
#[tokio::test(start_paused = true)]
async fn a_proof_that_was_not_asked_for_weighs_nothing() {
    let made = TestChain::builder(63).heights(40).txs(1, 100).build();
    let short = Recorded::of(&made.up_to(h(21)));
    let (handle, _store) = fresh(&short, keyed(1)).await;
    let peer = scripted(&short, 1, Behaviour::Honest, Duration::ZERO);
    handle.add_peer(peer).await.unwrap();
    caught_up(&handle).await;
    let mut events = handle.serve_events();
    let (mut link, end) = Link::pair(id(9), "eager");
    link.extended = true;
    handle.add_peer(link).await.unwrap();
    let claim = Claim {
        base: h(1),
        height: h(30),
        sequence: 7,
        time: clock().seconds,
        nonce: None,
    };
    let chain = ChainIdentity::of(&made.genesis);
    let audience = Audience {
        chain: &chain,
        receiver: PeerId([0; 20]),
    };
    let pushed = Signer::from_seed([9; 32]).sign(claim, Some(proof_in(&made, 30)), audience);
    send(&end, pushed.beside(&status(h(30)))).await;
    sleep(Duration::from_secs(1)).await;
    let shown = all(&mut events).into_iter().find_map(|event| match event {
        ServeEvent::AdvertisementReceived { shown, .. } => Some(shown),
        _ => None,
    });
    assert_eq!(shown, Some(Shown::Unproven));
    handle.stop().await;
}

/// While we are behind, blocks prove heights: a claimant is asked for a proof once a minute.
#[tokio::test(start_paused = true)]
async fn proofs_are_asked_for_seldom_while_we_are_behind() {
    let chain = Recorded::load("full-038");
    let (handle, _store) = fresh(&chain, keyed(1)).await;
    let (mut link, mut end) = Link::pair(id(9), "claimant");
    link.extended = true;
    handle.add_peer(link).await.unwrap();
    let (mut polls, mut proofs) = (0, 0);
    let answers = async {
        while let Some(message) = end.outbox.recv().await {
            let reply = match Message::decode_small(&message).unwrap() {
                Message::BlockRequest { height, .. } => Message::NoBlock { height },
                Message::StatusRequest => status(chain.tip()),
                _ => continue,
            };
            if let Some(asked) = AdvertisementRequest::read(&message).unwrap() {
                polls += 1;
                proofs += u32::from(asked.prove_above.is_some());
            }
            send(&end, reply.encode()).await;
        }
    };
    tokio::select! {
        () = answers => panic!("it was dropped: {}", reason(&handle)),
        () = sleep(Duration::from_secs(110)) => {}
    }
    assert!(polls >= 8, "{polls}");
    assert!((1..=2).contains(&proofs), "{proofs} of {polls}");
    handle.stop().await;
}

/// Consensus is told that it is behind from `trigger_heights` on, and not before.
#[tokio::test(start_paused = true)]
async fn a_height_proven_just_above_consensus_is_no_event() {
    let made = TestChain::builder(63).heights(40).txs(1, 100).build();
    let short = Recorded::of(&made.up_to(h(21)));
    let mut settings = keyed(2);
    settings.trigger_heights = 10;
    let (mut handle, _store) = fresh(&short, settings).await;
    let peer = scripted(&short, 1, Behaviour::Honest, Duration::ZERO);
    handle.add_peer(peer).await.unwrap();
    caught_up(&handle).await;
    let _own = handle.hand_over().await.unwrap();
    let mut events = handle.events();
    let mut proven = || {
        let told = all(&mut events).into_iter();
        let proven = told.filter_map(|event| match event {
            Event::Behind { height, proven, .. } => proven.then_some(height),
            _ => None,
        });
        proven.collect::<Vec<_>>()
    };
    let _near = shows(&handle, 5, &made, 29).await;
    assert_eq!(proven(), []);
    let _far = shows(&handle, 6, &made, 30).await;
    assert_eq!(proven(), [h(30)]);
    handle.stop().await;
}
