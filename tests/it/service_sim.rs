//! The whole service on tokio's paused clock, with scripted peers over in-memory links.

use std::time::Duration;

use blocksync::fault::Fault;
use blocksync::ids::{Height, PeerId};
use blocksync::pool::Outcome;
use blocksync::service::Status;
use blocksync_testkit::peers::{Behaviour, scripted};
use blocksync_testkit::recorded::{Recorded, config, fresh, id};

const DELAY: Duration = Duration::from_millis(20);
/// Virtual time within which every scenario must end: a guard against standing still, not a
/// measurement.
const GUARD: Duration = Duration::from_secs(600);

/// Syncs a fresh node from these peers until it has caught up, and gives its status.
async fn run(
    chain: &'static str,
    seed: u64,
    peers: &[Behaviour],
) -> (std::sync::Arc<Recorded>, Status) {
    let chain = Recorded::load(chain);
    let (handle, _store) = fresh(&chain, config(seed)).await;
    for (n, behaviour) in peers.iter().enumerate() {
        handle
            .add_peer(scripted(&chain, n as u8 + 1, behaviour.clone(), DELAY))
            .await
            .unwrap();
    }
    let wanted = chain.tip().prev();
    let done = handle
        .outcome(|o| matches!(o, Outcome::CaughtUp { height } if height.get() >= wanted.get()));
    let status = match tokio::time::timeout(GUARD, done).await {
        Ok(status) => status.unwrap(),
        Err(_) => panic!(
            "seed {seed}: not caught up: {:#?}",
            handle.status().borrow()
        ),
    };
    handle.stop().await;
    (chain, status)
}

fn assert_synced(chain: &Recorded, status: &Status) {
    assert_eq!(
        status.applied,
        chain.tip().prev(),
        "a peer without the tip's commit leaves us one block below"
    );
    assert_eq!(
        hex::encode(&status.app_hash),
        chain.app_hash_after(status.applied)
    );
}

fn dropped(status: &Status) -> Vec<(PeerId, &'static str)> {
    status
        .dropped
        .iter()
        .map(|d| (d.peer, d.reason.name()))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn honest_peers_only() {
    for (seed, name) in [(1, "one"), (2, "four"), (3, "full-038"), (4, "churn")] {
        let (chain, status) = run(
            name,
            seed,
            &[Behaviour::Honest, Behaviour::Honest, Behaviour::Honest],
        )
        .await;
        assert_synced(&chain, &status);
        assert_eq!(dropped(&status), []);
    }
}

#[tokio::test(start_paused = true)]
async fn one_honest_peer_is_enough() {
    let (chain, status) = run("four", 5, &[Behaviour::Honest]).await;
    assert_synced(&chain, &status);
    assert_eq!(dropped(&status), []);
}

#[tokio::test(start_paused = true)]
async fn a_peer_dies_in_mid_answer() {
    let (chain, status) = run(
        "four",
        6,
        &[
            Behaviour::DiesAfter(17),
            Behaviour::Honest,
            Behaviour::Honest,
        ],
    )
    .await;
    assert_synced(&chain, &status);
    assert!(dropped(&status).iter().all(|(peer, _)| *peer == id(1)));
}

/// The liar is named with its proof, and nobody else is dropped.
async fn convicted(name: &'static str, seed: u64, liar: Behaviour, fault: &str) {
    let (chain, status) = run(
        name,
        seed,
        &[Behaviour::Honest, liar.clone(), Behaviour::Honest],
    )
    .await;
    assert_synced(&chain, &status);
    assert_eq!(
        dropped(&status),
        [(id(2), fault)],
        "{liar:?}: {:#?}",
        status.dropped
    );
    match status.dropped[0].reason.fault().unwrap() {
        Fault::BadBlock(p) | Fault::BadCommit(p) | Fault::BadExtendedCommit(p) => {
            assert!(!p.0.is_empty())
        }
        Fault::Malformed(why) => assert!(!why.is_empty()),
        other => assert_eq!(other.name(), fault),
    }
}

#[tokio::test(start_paused = true)]
async fn a_lie_in_a_transaction() {
    // Every height, so that the liar is asked for one of them in whatever order the pool asks.
    let (chain, status) = lying_everywhere("four", 7, Behaviour::LiesInTransaction).await;
    assert_synced(&chain, &status);
}

#[tokio::test(start_paused = true)]
async fn a_lie_in_a_signature() {
    let (chain, status) = lying_everywhere("four", 8, Behaviour::LiesInSignature).await;
    assert_synced(&chain, &status);
}

#[tokio::test(start_paused = true)]
async fn a_lie_in_a_commit() {
    let (chain, status) = lying_everywhere("four", 9, Behaviour::LiesInCommit).await;
    assert_synced(&chain, &status);
}

/// One liar among two honest peers, for a range of heights at which it may lie. In each run nobody
/// but the liar is dropped.
async fn lying_everywhere(
    name: &'static str,
    seed: u64,
    lie: impl Fn(u64) -> Behaviour,
) -> (std::sync::Arc<Recorded>, Status) {
    let mut caught = 0;
    let mut last = None;
    for height in [2, 3, 10, 57, 58, 59, 150, 298, 299] {
        let peers = [Behaviour::Honest, lie(height), Behaviour::Honest];
        let (chain, status) = run(name, seed * 1000 + height, &peers).await;
        assert_synced(&chain, &status);
        for (peer, fault) in dropped(&status) {
            assert_eq!(
                peer,
                id(2),
                "height {height}: {fault}: {:#?}",
                status.dropped
            );
            caught += 1;
        }
        last = Some((chain, status));
    }
    assert!(
        caught > 0,
        "the liar was never asked for the height at which it lies, or never convicted"
    );
    last.unwrap()
}

#[tokio::test(start_paused = true)]
async fn another_height_than_asked_for() {
    convicted("four", 10, Behaviour::LiesInHeight(5), "unasked").await;
}

#[tokio::test(start_paused = true)]
async fn garbage() {
    convicted("four", 11, Behaviour::Garbage, "malformed").await;
}

#[tokio::test(start_paused = true)]
async fn a_block_that_nobody_asked_for() {
    convicted("four", 12, Behaviour::Unasked, "unasked").await;
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer() {
    let (chain, status) = run(
        "four",
        13,
        &[Behaviour::Honest, Behaviour::Silent, Behaviour::Honest],
    )
    .await;
    assert_synced(&chain, &status);
    assert!(dropped(&status).iter().all(|(peer, _)| *peer == id(2)));
}

#[tokio::test(start_paused = true)]
async fn three_silent_peers_against_one_honest() {
    use Behaviour::{Honest, Silent};
    let (chain, status) = run("four", 14, &[Silent, Silent, Honest, Silent]).await;
    assert_synced(&chain, &status);
    assert!(dropped(&status).iter().all(|(peer, _)| *peer != id(3)));
}

#[tokio::test(start_paused = true)]
async fn a_claim_of_two_to_the_62() {
    let claims = Behaviour::Claims(1 << 62);
    let (chain, status) = run("four", 15, &[Behaviour::Honest, claims, Behaviour::Honest]).await;
    assert_synced(&chain, &status);
    assert!(dropped(&status).iter().all(|(peer, _)| *peer == id(2)));
}

#[tokio::test(start_paused = true)]
async fn a_claim_of_two_to_the_62_by_a_peer_that_never_serves() {
    let claims = Behaviour::ClaimsOnly(1 << 62);
    let (chain, status) = run("four", 16, &[Behaviour::Honest, claims, Behaviour::Honest]).await;
    assert_synced(&chain, &status);
}

#[tokio::test(start_paused = true)]
async fn slow_is_not_guilty() {
    let slow = Behaviour::Slow(Duration::from_millis(900));
    let (chain, status) = run("one", 17, &[slow.clone(), slow]).await;
    assert_synced(&chain, &status);
    assert_eq!(dropped(&status), []);
}

#[tokio::test(start_paused = true)]
async fn no_block_never_bans() {
    let (chain, status) = run("four", 18, &[Behaviour::NoBlocks, Behaviour::Honest]).await;
    assert_synced(&chain, &status);
    assert_eq!(dropped(&status), []);
}

#[tokio::test(start_paused = true)]
async fn extended_commits_left_out_or_altered() {
    for (seed, liar) in [
        (19, Behaviour::NoExtensions),
        (20, Behaviour::BadExtensions),
    ] {
        let (chain, status) = run(
            "full-038",
            seed,
            &[Behaviour::Honest, liar, Behaviour::Honest],
        )
        .await;
        assert_synced(&chain, &status);
        assert_eq!(dropped(&status), [(id(2), "bad_extended_commit")]);
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_to_sync_from() {
    let chain = Recorded::load("one");
    let (handle, _) = fresh(&chain, config(21)).await;
    let outcome = handle.outcome(|o| matches!(o, Outcome::NoUsablePeers));
    tokio::time::timeout(GUARD, outcome)
        .await
        .expect("an outcome")
        .unwrap();
    assert_eq!(handle.status().borrow().applied, Height::ZERO);
    handle.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_gives_the_same_run() {
    let peers = [
        Behaviour::Honest,
        Behaviour::LiesInTransaction(30),
        Behaviour::DiesAfter(9),
    ];
    let (_, first) = run("four", 22, &peers).await;
    let (_, second) = run("four", 22, &peers).await;
    assert_eq!(format!("{first:?}"), format!("{second:?}"));
}
