//! Signed statuses between nodes of ours, and the proofs of heights in them (`docs/serving.md` 11).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use blocksync::app::KvStore;
use blocksync::chain::height_proof::{Clock, HeightProof, Standing};
use blocksync::chain::proof::KnownSets;
use blocksync::chain::signatures::{Inline, SignatureBatch};
use blocksync::chain::{BlockIdFlag, Commit, RuleSchedule, Signature, Time, ValidatorSet};
use blocksync::ids::{Height, PeerId};
use blocksync::link::{Inbound, Link, LinkEnd};
use blocksync::p2p::plain;
use blocksync::pool::Outcome;
use blocksync::service::{
    Config, Event, Handle, SHORTEST_ADVERTISE_TIME, ServeEvent, Shown, UNASKED_SIGNED,
    UNASKED_SIGNED_RATE,
};
use blocksync::store::Store;
use blocksync::wire::{
    Advertisement, AdvertisementRequest, Audience, ChainIdentity, Claim, Message, Signer, decode,
};
use blocksync_testkit::chain::TestChain;
use blocksync_testkit::peers::{Behaviour, scripted};
use blocksync_testkit::recorded::{Recorded, clock, config, fresh, id};
use tokio::io::duplex;
use tokio::time::{Instant, sleep, timeout};

use crate::life::all;

const GUARD: Duration = Duration::from_secs(600);

/// A store with the whole chain.
async fn synced(chain: &Arc<Recorded>) -> Arc<dyn Store> {
    let (handle, store) = fresh(chain, config(1)).await;
    let peer = scripted(chain, 1, Behaviour::Honest, Duration::ZERO);
    handle.add_peer(peer).await.unwrap();
    let there = handle.outcome(|o| matches!(o, Outcome::CaughtUp { .. }));
    timeout(GUARD, there).await.unwrap().unwrap();
    handle.stop().await;
    store
}

/// The sets that a node knows which has applied this height.
fn known(store: &dyn Store, chain: &Recorded, applied: Height) -> Option<KnownSets> {
    let set = |height| store.validators(height).unwrap();
    Some(KnownSets {
        chain_id: chain.genesis.chain_id.clone().into(),
        applied,
        last: set(applied),
        next: set(applied.next())?,
        after: set(applied.plus(2))?,
        first: None,
        rules: RuleSchedule::default(),
    })
}

fn proof_of(store: &dyn Store, height: Height) -> Option<HeightProof> {
    let (header, _) = store.header(height).unwrap()?;
    let commit = decode::commit_from_bytes(&store.commit_for(height).unwrap()?).unwrap();
    let set = store.validators(height).unwrap()?;
    HeightProof::new(header, commit, &set)
}

/// A clock an hour after this time.
fn an_hour_after(time: Time) -> Clock {
    Clock {
        now: Time::new(time.seconds + 3600, 0).unwrap(),
        tolerance: 60,
    }
}

fn judged(proof: &HeightProof, known: &KnownSets) -> Result<Standing, String> {
    let judged = proof.judge(
        known,
        an_hour_after(proof.header.time),
        &Inline::new([7; 32]),
    );
    judged.map_err(|error| error.to_string())
}

/// Power of the set's members that have signed, each signature verified alone.
fn power_of(set: &ValidatorSet, commit: &Commit, chain_id: &[u8]) -> i128 {
    let mut seen = BTreeSet::new();
    let mut power = 0;
    for (index, sig) in commit.signatures.iter().enumerate() {
        let member = set.iter().find(|member| member.address == sig.address);
        let Some(member) = member.filter(|m| seen.insert(m.address.0)) else {
            continue;
        };
        let mut batch = SignatureBatch::new();
        batch.push(member.key.clone(), sig.signature.clone(), 0, |out| {
            out.extend(commit.sign_bytes(chain_id, index));
        });
        if batch.verify(&mut rand::rng()).is_ok() {
            power += i128::from(member.power);
        }
    }
    power
}

/// The table of `docs/serving.md` 7, written down without a look at the code.
fn by_the_table(proof: &HeightProof, known: &KnownSets) -> Standing {
    let (height, chain_id) = (proof.header.height, &known.chain_id);
    let (mut decided, mut attested) = (Vec::new(), Vec::new());
    for set in [&known.next, &known.after] {
        let power = power_of(set, &proof.commit, chain_id);
        let total: i128 = set.iter().map(|member| i128::from(member.power)).sum();
        let is_own = proof.header.validators_hash == Some(set.hash());
        if 3 * power > 2 * total && is_own {
            decided.push(height);
        } else if 3 * power > 2 * total {
            decided.push(height.prev());
        } else if 3 * power > total {
            attested.push(height.prev());
        }
    }
    match (decided.into_iter().max(), attested.into_iter().max()) {
        _ if height <= known.applied => Standing::Nothing,
        (Some(height), _) => Standing::Proven(height),
        (None, Some(height)) => Standing::Attested(height),
        (None, None) => Standing::Nothing,
    }
}

/// All pairs of a receiver's height and a proof's, in steps where a chain is long.
#[tokio::test(start_paused = true)]
async fn every_pair_is_judged_as_the_table_says() {
    let mut shown = [0; 3];
    for (name, step) in [("full-038", 41), ("churn", 7), ("four", 5)] {
        let chain = Recorded::load(name);
        let store = synced(&chain).await;
        let tip = chain.tip().get();
        for applied in (1..tip).step_by(step) {
            let Some(known) = known(&*store, &chain, Height::new(applied)) else {
                continue;
            };
            for height in (1..tip)
                .step_by(step)
                .chain([applied + 1, applied + 2, tip - 1])
            {
                let Some(proof) = proof_of(&*store, Height::new(height)) else {
                    continue;
                };
                let expected = by_the_table(&proof, &known);
                assert_eq!(
                    judged(&proof, &known),
                    Ok(expected),
                    "{name} {applied} {height}"
                );
                shown[match expected {
                    Standing::Proven(_) => 0,
                    Standing::Attested(_) => 1,
                    _ => 2,
                }] += 1;
            }
        }
    }
    assert!(
        shown.iter().all(|n| *n > 20),
        "each has been met: {shown:?}"
    );
}

/// Exactly a third and exactly two thirds are too little, and one more is enough.
#[tokio::test(start_paused = true)]
async fn shares_are_exceeded_and_not_reached() {
    let made = TestChain::builder(6).heights(12).build();
    let chain = Recorded::of(&made);
    let store = synced(&chain).await;
    let known = known(&*store, &chain, Height::new(2)).unwrap();
    let whole = proof_of(&*store, Height::new(9)).unwrap();
    let (height, members) = (Height::new(9), whole.commit.signatures.len());
    let total: i128 = known.next.iter().map(|m| i128::from(m.power)).sum();
    let mut met = BTreeSet::new();
    for signers in 0..=members {
        let mut proof = whole.clone();
        proof.commit.signatures.truncate(signers);
        let power = power_of(&known.next, &proof.commit, &known.chain_id);
        let expected = if 3 * power > 2 * total {
            Standing::Proven(height)
        } else if 3 * power > total {
            Standing::Attested(height.prev())
        } else {
            Standing::Nothing
        };
        met.insert(format!("{expected:?}"));
        assert_eq!(
            judged(&proof, &known),
            Ok(expected),
            "{signers} of {members}"
        );
    }
    assert_eq!(met.len(), 3, "{met:?}");
    // A third of an old set says nothing a week later, two thirds do.
    let later = Clock {
        now: Time::new(whole.header.time.seconds + 8 * 24 * 3600, 0).unwrap(),
        tolerance: 60,
    };
    let mut third = whole.clone();
    third.commit.signatures.truncate(members.div_ceil(2));
    let cpu = Inline::new([7; 32]);
    assert!(matches!(judged(&third, &known), Ok(Standing::Attested(_))));
    assert_eq!(third.judge(&known, later, &cpu).unwrap(), Standing::Nothing);
    assert_eq!(
        whole.judge(&known, later, &cpu).unwrap(),
        Standing::Proven(height)
    );
    // A clock that is behind the header.
    let early = Clock {
        now: Time::new(whole.header.time.seconds - 61, 0).unwrap(),
        tolerance: 60,
    };
    let ahead = whole.judge(&known, early, &cpu).unwrap();
    assert_eq!(ahead, Standing::AheadOfClock);
    // Just as far ahead as it may be.
    let early = Clock {
        tolerance: 61,
        ..early
    };
    let near = whole.judge(&known, early, &cpu).unwrap();
    assert_eq!(near, Standing::Proven(height));
}

/// One forgery, and how it is taken: an error's words, or what it shows.
type Forgery = (
    &'static str,
    fn(&mut HeightProof),
    Result<Standing, &'static str>,
);

/// Forgeries of a proof that is whole.
fn forgeries() -> [Forgery; 10] {
    let twice: fn(&mut HeightProof) = |p| {
        let first = p.commit.signatures[0].clone();
        p.commit.signatures.push(first);
    };
    [
        (
            "twice one validator",
            twice,
            Err("a validator is there twice"),
        ),
        (
            "a vote for nil",
            |p| p.commit.signatures[0].flag = BlockIdFlag::Nil,
            Err("a vote is not for the block"),
        ),
        (
            "another chain",
            |p| p.header.chain_id = "other".into(),
            Err("the header is of another chain"),
        ),
        (
            "another height",
            |p| p.commit.height = p.commit.height.next(),
            Err("of two heights"),
        ),
        (
            "another header",
            |p| p.header.version_app += 1,
            Err("another block than the header's"),
        ),
        (
            "another round",
            |p| p.commit.round += 1,
            Err("wrong signature of"),
        ),
        (
            "a negative round",
            |p| p.commit.round = -1,
            Err("the round is negative"),
        ),
        (
            "a signature of nobody",
            |p| p.commit.signatures[0].signature = Signature::new(&[9; 64]).unwrap(),
            Err("wrong signature of"),
        ),
        (
            "strangers alone",
            |p| {
                p.commit
                    .signatures
                    .iter_mut()
                    .for_each(|s| s.address.0[0] ^= 1)
            },
            Ok(Standing::Nothing),
        ),
        (
            "nobody",
            |p| p.commit.signatures.clear(),
            Ok(Standing::Nothing),
        ),
    ]
}

#[tokio::test(start_paused = true)]
async fn forgeries_are_faults_and_strangers_count_for_nothing() {
    let made = TestChain::builder(6).heights(12).build();
    let chain = Recorded::of(&made);
    let store = synced(&chain).await;
    let known = known(&*store, &chain, Height::new(2)).unwrap();
    let whole = proof_of(&*store, Height::new(9)).unwrap();
    for (name, forge, expected) in forgeries() {
        let mut forged = whole.clone();
        forge(&mut forged);
        match (judged(&forged, &known), expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{name}"),
            (Err(found), Err(words)) => assert!(found.contains(words), "{name}: {found}"),
            (found, _) => panic!("{name}: {found:?}"),
        }
    }
}

/// A configuration with a node key.
pub(crate) fn keyed(seed: u64) -> Config {
    let mut config = config(seed);
    config.node_key = Some(Signer::from_seed([seed as u8; 32]));
    config
}

/// Links two services by a stream in memory.
async fn linked(first: &Handle<KvStore>, second: &Handle<KvStore>) {
    let (here, there) = duplex(1 << 16);
    let (to_second, _task) = plain::link(here, id(12), "the second");
    let (to_first, _task) = plain::link(there, id(11), "the first");
    first.add_peer(to_second).await.unwrap();
    second.add_peer(to_first).await.unwrap();
}

pub(crate) async fn caught_up(handle: &Handle<KvStore>) {
    let there = handle.outcome(|o| matches!(o, Outcome::CaughtUp { .. }));
    timeout(GUARD, there).await.unwrap().unwrap();
}

/// Consensus that has the writer is told by proof that it is behind, before it was silent for long.
#[tokio::test(start_paused = true)]
async fn a_node_beside_consensus_learns_by_proof_that_it_is_behind() {
    let made = TestChain::builder(63).heights(40).txs(1, 100).build();
    let (short, whole) = (
        Recorded::of(&made.up_to(Height::new(11))),
        Recorded::of(&made),
    );
    let (ahead, _store) = fresh(&whole, keyed(1)).await;
    let peer = scripted(&whole, 1, Behaviour::Honest, Duration::ZERO);
    ahead.add_peer(peer).await.unwrap();
    caught_up(&ahead).await;
    let mut settings = keyed(2);
    settings.trigger_timeout = Duration::from_secs(300);
    let (mut behind, _store) = fresh(&short, settings).await;
    let peer = scripted(&short, 2, Behaviour::Honest, Duration::ZERO);
    behind.add_peer(peer).await.unwrap();
    caught_up(&behind).await;
    let _own = behind.hand_over().await.unwrap();
    let (mut events, mut served) = (behind.events(), ahead.serve_events());
    let mut received = behind.serve_events();
    let begun = Instant::now();
    linked(&ahead, &behind).await;
    let told = async {
        loop {
            if let Event::Behind { height, proven, .. } = events.recv().await.unwrap().event {
                return (height, proven, begun.elapsed());
            }
        }
    };
    let (height, proven, after) = timeout(GUARD, told).await.unwrap();
    let tip = ahead.status().borrow().applied;
    assert_eq!((height, proven), (tip, true));
    assert!(after <= Duration::from_secs(21), "{after:?}");
    let sent = ServeEvent::AdvertisementSent {
        peer: id(12),
        height: tip,
        proven: true,
    };
    assert!(all(&mut served).contains(&sent));
    let shown = ServeEvent::AdvertisementReceived {
        peer: id(11),
        base: Height::new(1),
        height: tip,
        shown: Shown::Proven(tip),
    };
    assert!(all(&mut received).contains(&shown));
    // It is said once in a while, not with each proof.
    sleep(Duration::from_secs(120)).await;
    for event in all(&mut events) {
        assert!(!matches!(event, Event::Behind { .. }), "{event:?}");
    }
    ahead.stop().await;
    behind.stop().await;
}

/// A peer of our own making: what it is sent, and a way to answer.
async fn stranger(handle: &Handle<KvStore>, extended: bool) -> LinkEnd {
    let (mut link, end) = Link::pair(id(9), "stranger");
    link.extended = extended;
    handle.add_peer(link).await.unwrap();
    end
}

/// The next request for a signed status.
pub(crate) async fn wish(end: &mut LinkEnd) -> AdvertisementRequest {
    loop {
        let message = timeout(GUARD, end.outbox.recv()).await.unwrap().unwrap();
        if let Some(request) = AdvertisementRequest::read(&message).unwrap() {
            return request;
        }
    }
}

/// A node of CometBFT is sent nothing that it does not know, whatever it says.
#[tokio::test(start_paused = true)]
async fn nothing_of_this_reaches_a_stock_node() {
    let chain = Recorded::load("full-038");
    let (handle, _store) = fresh(&chain, keyed(1)).await;
    let peer = scripted(&chain, 1, Behaviour::Honest, Duration::ZERO);
    handle.add_peer(peer).await.unwrap();
    caught_up(&handle).await;
    let mut end = stranger(&handle, false).await;
    let wish = AdvertisementRequest {
        takes: 65_536,
        nonce: [5; 16],
        prove_above: Some(Height::ZERO),
    };
    let status = Message::Status {
        height: Height::new(3),
        base: Height::new(1),
        max_range: 1,
    };
    for _ in 0..3 {
        let status = Inbound::Message(status.encode());
        end.inbox.send(status).await.unwrap();
        end.inbox
            .send(Inbound::Message(wish.encode()))
            .await
            .unwrap();
        sleep(Duration::from_secs(3)).await;
    }
    let mut messages = 0;
    while let Ok(message) = end.outbox.try_recv() {
        let plain = Message::decode_small(&message).unwrap().encode();
        assert_eq!(message, plain, "as CometBFT writes it");
        messages += 1;
    }
    assert!(messages >= 3, "{messages}");
    handle.stop().await;
}

/// A claim, changed after it was signed or signed wrongly, and the words of the verdict.
type Lie = (&'static str, fn(&mut Advertisement), &'static str);

#[tokio::test(start_paused = true)]
async fn a_signed_status_that_lies_is_named_and_banned() {
    let lies: [Lie; 5] = [
        (
            "the signature",
            |a| a.signature[5] ^= 1,
            "its signature is wrong",
        ),
        ("the time", |a| a.claim.time += 1, "its signature is wrong"),
        (
            "the sequence",
            |a| a.claim.sequence += 1,
            "its signature is wrong",
        ),
        (
            "the height",
            |a| a.claim.height = a.claim.height.next(),
            "it has signed heights",
        ),
        (
            "the nonce",
            |a| a.claim.nonce = Some([3; 16]),
            "a nonce that was never sent",
        ),
    ];
    for (name, lie, words) in lies {
        let dropped = after(lie).await;
        assert!(dropped.contains(words), "{name}: {dropped}");
        assert!(dropped.contains("wrong advertisement"), "{name}: {dropped}");
    }
    let honest = after(|_| ()).await;
    assert_eq!(honest, "nothing");
}

/// A peer's end, the claim with which it has answered a request, and the chain.
pub(crate) async fn answered(
    handle: &Handle<KvStore>,
    chain: &Recorded,
) -> (LinkEnd, Claim, ChainIdentity) {
    let mut end = stranger(handle, true).await;
    let claim = Claim {
        base: Height::new(1),
        height: Height::new(20),
        sequence: 7,
        time: clock().seconds,
        nonce: Some(wish(&mut end).await.nonce),
    };
    (end, claim, ChainIdentity::of(&chain.genesis))
}

/// Signs a claim as the peer with this key does over a plain link.
pub(crate) fn signed(claim: Claim, chain: &ChainIdentity, key: u8) -> Advertisement {
    let receiver = PeerId([0; 20]);
    Signer::from_seed([key; 32]).sign(claim, None, Audience { chain, receiver })
}

pub(crate) async fn say(end: &LinkEnd, advertisement: &Advertisement) {
    let status = Message::Status {
        height: Height::new(20),
        base: Height::new(1),
        max_range: 1,
    };
    let message = advertisement.beside(&status);
    end.inbox.send(Inbound::Message(message)).await.unwrap();
    sleep(Duration::from_secs(2)).await;
}

/// The reason for which the peer was dropped.
pub(crate) fn reason(handle: &Handle<KvStore>) -> String {
    let status = handle.status().borrow().clone();
    let reason = status
        .dropped
        .first()
        .map(|dropped| dropped.reason.to_string());
    reason.unwrap_or_else(|| "nothing".into())
}

/// The reason for which a peer is dropped that answers with a signed status, changed in this way.
async fn after(lie: fn(&mut Advertisement)) -> String {
    let chain = Recorded::load("full-038");
    let (handle, _store) = fresh(&chain, keyed(1)).await;
    let (end, claim, identity) = answered(&handle, &chain).await;
    let mut answer = signed(claim, &identity, 5);
    lie(&mut answer);
    say(&end, &answer).await;
    let reason = reason(&handle);
    handle.stop().await;
    reason
}

/// A second status over the same connection: how its claim differs, by which key it is signed, and
/// the words of the verdict.
type Second = (&'static str, fn(&mut Claim), u8, &'static str);

#[tokio::test(start_paused = true)]
async fn replays_are_refused() {
    let seconds: [Second; 5] = [
        ("again", |_| (), 5, "a nonce that was never sent"),
        (
            "older",
            |c| (c.nonce, c.sequence) = (None, 6),
            5,
            "its sequence is 6, and was 7",
        ),
        (
            "same",
            |c| c.nonce = None,
            5,
            "its sequence is 7, and was 7",
        ),
        (
            "by another",
            |c| (c.nonce, c.sequence) = (None, 8),
            6,
            "another key",
        ),
        ("newer", |c| (c.nonce, c.sequence) = (None, 8), 5, "nothing"),
    ];
    for (name, change, key, words) in seconds {
        let chain = Recorded::load("full-038");
        let (handle, _store) = fresh(&chain, keyed(1)).await;
        let (end, mut claim, identity) = answered(&handle, &chain).await;
        say(&end, &signed(claim, &identity, 5)).await;
        change(&mut claim);
        say(&end, &signed(claim, &identity, key)).await;
        let reason = reason(&handle);
        assert!(reason.contains(words), "{name}: {reason}");
        handle.stop().await;
    }
}

/// Signed statuses that nobody asked for, this far apart, until the connection ends or three
/// minutes are over: their number, and the reason for which the peer was dropped.
async fn pushed(every: Duration) -> (u32, String) {
    let chain = Recorded::load("full-038");
    let (handle, _store) = fresh(&chain, keyed(1)).await;
    let (mut end, mut claim, identity) = answered(&handle, &chain).await;
    say(&end, &signed(claim, &identity, 5)).await;
    let status = Message::Status {
        height: Height::new(20),
        base: Height::new(1),
        max_range: 1,
    };
    claim.nonce = None;
    let (begun, mut pushed) = (Instant::now(), 0);
    while begun.elapsed() < Duration::from_secs(180) && !end.hangup.is_cancelled() {
        claim.sequence += 1;
        let message = signed(claim, &identity, 5).beside(&status);
        if end.inbox.send(Inbound::Message(message)).await.is_err() {
            break;
        }
        pushed += 1;
        sleep(every).await;
        while end.outbox.try_recv().is_ok() {}
    }
    let reason = reason(&handle);
    handle.stop().await;
    (pushed, reason)
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_signed_statuses_ends_the_connection() {
    // As often as one of ours can be told to push them.
    let (told, reason) = pushed(SHORTEST_ADVERTISE_TIME).await;
    assert_eq!((told, reason.as_str()), (720, "nothing"));
    let faster = Duration::from_secs(1) / (UNASKED_SIGNED_RATE * 2);
    let (told, reason) = pushed(faster).await;
    assert!(
        reason.contains("signed statuses that nobody asked for"),
        "{reason}"
    );
    // More are allowed while the first are used up, and while the connection began.
    let bound = UNASKED_SIGNED * 2 + UNASKED_SIGNED_RATE * 8;
    assert!(
        (UNASKED_SIGNED..=bound).contains(&told),
        "{told}, and {bound} at most"
    );
}

/// A peer that signs to have blocks and gives none is named with its words, and not dropped for it.
#[tokio::test(start_paused = true)]
async fn a_broken_promise_is_named() {
    let chain = Recorded::load("full-038");
    let (handle, _store) = fresh(&chain, keyed(1)).await;
    let mut events = handle.serve_events();
    let (mut end, claim, identity) = answered(&handle, &chain).await;
    say(&end, &signed(claim, &identity, 5)).await;
    let refuses = async {
        while let Some(message) = end.outbox.recv().await {
            let reply = match Message::decode_small(&message).unwrap() {
                Message::BlockRequest { height, .. } => Message::NoBlock { height },
                Message::StatusRequest => Message::Status {
                    height: Height::new(20),
                    base: Height::new(1),
                    max_range: 1,
                },
                _ => continue,
            };
            let _ = end.inbox.send(Inbound::Message(reply.encode())).await;
        }
    };
    let broken = async {
        loop {
            if let ServeEvent::PromiseBroken {
                signed, missing, ..
            } = events.recv().await.unwrap().event
            {
                return (signed, missing);
            }
        }
    };
    let begun = Instant::now();
    let (words, missing) = tokio::select! {
        told = timeout(GUARD, broken) => told.unwrap(),
        () = refuses => panic!("it was dropped: {}", reason(&handle)),
    };
    assert_eq!(words, claim);
    assert!(
        missing >= claim.base && missing <= claim.height,
        "{missing}"
    );
    assert!(
        begun.elapsed() >= Duration::from_secs(5),
        "once says nothing"
    );
    assert_eq!(reason(&handle), "nothing");
    handle.stop().await;
}
