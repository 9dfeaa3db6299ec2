//! When it is over: claims that hold nobody up (P05, P06) unless they are proven (P05), the only
//! source flaps (P30), nobody serves (P31).

use std::time::Duration;

use blocksync::pool::{Outcome, PoolConfig};
use blocksync::service::Status;
use tokio::time::Instant;

use crate::service_faults::peers::{Answer, Log, Script};
use crate::service_faults::{GUARD, KvStore, made, peers, policies, report, start};
use blocksync::ids::Height;
use blocksync_testkit::peers::alter;
use blocksync_testkit::recorded::{Recorded, config, id, wrap};

/// `PoolConfig::request_timeout`.
const T_REQ: Duration = Duration::from_secs(5);
/// `PoolConfig::status_interval`.
const T_STATUS: Duration = Duration::from_secs(10);

/// Runs until it says that it has caught up with all but the tip.
async fn caught_up(chain: &std::sync::Arc<Recorded>, scripts: &[Script]) -> (Duration, Status) {
    let (handle, _store) = start(chain, config(5), KvStore::new()).await;
    let (log, begun) = (Log::new(), Instant::now());
    for (n, script) in scripts.iter().enumerate() {
        peers::keep(&handle, n as u8 + 1, script.clone(), &log);
    }
    let wanted = chain.tip().prev();
    let over = |o: &Outcome| matches!(o, Outcome::CaughtUp { height } if *height >= wanted);
    let over = tokio::time::timeout(GUARD, handle.outcome(over)).await;
    let Ok(status) = over else {
        panic!("never caught up: {:#?}", handle.status().borrow());
    };
    handle.stop().await;
    (begun.elapsed(), status.unwrap())
}

#[tokio::test(start_paused = true)]
async fn p05_claims_too_high() {
    let chain = Recorded::of(&made(1, 120));
    let honest = Script::honest(&chain);
    let three = [honest.clone(), honest.clone(), honest];
    let (t0, _) = caught_up(&chain, &three).await;
    for claim in [121, 200, 1 << 62, i64::MAX as u64] {
        for liar in [
            Script::claims(&chain, claim),
            Script::claims_and_serves(&chain, claim),
        ] {
            let row = format!("P05, {}, {claim}", liar.name);
            let scripts = [&[liar], &three[..]].concat();
            let (took, status) = caught_up(&chain, &scripts).await;
            // Looked at each second, from when everything else says that we have caught up.
            report(&row, took, t0 + 2 * T_REQ + Duration::from_secs(1));
            assert!(status.dropped.iter().all(|d| d.peer == id(1)), "{row}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn p06_alternating_liars() {
    let chain = Recorded::of(&made(1, 120));
    let honest = Script::honest(&chain);
    let three = [honest.clone(), honest.clone(), honest];
    let (t0, _) = caught_up(&chain, &three).await;
    let liar = Script::claims(&chain, 1 << 62).hanging_up(Duration::from_millis(100));
    let scripts = [&three[..], &[liar.clone(), liar]].concat();
    let (took, status) = caught_up(&chain, &scripts).await;
    report("P06", took, t0 + 4 * T_REQ);
    assert!(status.dropped.iter().all(|d| d.peer.0[0] > 3));
}

/// Gives its highest block, or a forged one in its place, and nothing else.
fn only_its_highest(chain: &std::sync::Arc<Recorded>, forged: bool) -> Script {
    let served = chain.clone();
    Script::new("gives its highest block alone", chain, move |height| {
        let body = served.response(height).filter(|_| height == served.tip());
        body.map_or(Answer::Nothing, |body| {
            let changed = if forged {
                alter::signature(body)
            } else {
                body.to_vec()
            };
            Answer::Message(wrap(&changed))
        })
    })
}

/// While a proof stands, one that is where we are does not make us caught up, however long the
/// block above is not to be had; a forged one holds up nobody for longer than any claim.
#[tokio::test(start_paused = true)]
async fn p05_a_claim_that_is_proven() {
    let chain = Recorded::of(&made(1, 200));
    let stands = Script::says("stands at 100", &chain, 1, 100);
    for (n, config) in policies(3).into_iter().enumerate() {
        let (handle, _store) = start(&chain, config, KvStore::new()).await;
        let log = Log::new();
        peers::keep(&handle, 1, only_its_highest(&chain, false), &log);
        peers::keep(&handle, 2, stands.clone(), &log);
        let ended = |o: &Outcome| matches!(o, Outcome::CaughtUp { .. });
        let early = tokio::time::timeout(Duration::from_secs(90), handle.outcome(ended)).await;
        let status = handle.status().borrow().clone();
        assert!(early.is_err(), "caught up at {}", status.applied);
        assert!(status.applied >= Height::new(98), "{}", status.applied);
        // Of the block above the commit that was judged one is decided by it.
        assert_eq!(status.target, Height::new(198), "policy {n}");
        let bans = status.dropped.iter().filter(|d| d.reason.fault().is_some());
        assert_eq!(bans.count(), 0, "{:?}", status.dropped);
        peers::keep(&handle, 3, Script::honest(&chain), &log);
        let over = tokio::time::timeout(GUARD, handle.outcome(ended)).await;
        assert_eq!(over.unwrap().unwrap().applied, chain.tip().prev());
        handle.stop().await;
    }
    let (handle, _store) = start(&chain, config(3), KvStore::new()).await;
    let (log, begun) = (Log::new(), Instant::now());
    peers::keep(&handle, 1, only_its_highest(&chain, true), &log);
    peers::keep(&handle, 2, stands, &log);
    let ended = |o: &Outcome| matches!(o, Outcome::CaughtUp { .. });
    let over = tokio::time::timeout(GUARD, handle.outcome(ended)).await;
    report("P05, forged proof", begun.elapsed(), 4 * T_REQ);
    let doubted = over.unwrap().unwrap().doubted;
    assert!(
        doubted.iter().all(|(_, height)| *height == chain.tip()),
        "{doubted:?}"
    );
    handle.stop().await;
}

#[tokio::test(start_paused = true)]
async fn p30_the_only_source_flaps() {
    let chain = Recorded::of(&made(1, 120));
    let (t0, _) = caught_up(&chain, &[Script::honest(&chain)]).await;
    let up = Duration::from_millis(200);
    let (took, _) = caught_up(&chain, &[Script::flaps(&chain, up)]).await;
    // Up half of the time; two seconds until one status is enough.
    report("P30", took, t0 * 2 + Duration::from_secs(4));
}

#[tokio::test(start_paused = true)]
async fn p31_eclipse() {
    let chain = Recorded::of(&made(1, 60));
    let limits = PoolConfig::default();
    let patience = Duration::from_micros(limits.no_progress + limits.no_peers);
    for config in policies(8) {
        let (handle, _store) = start(&chain, config, KvStore::new()).await;
        let (log, begun) = (Log::new(), Instant::now());
        for n in 1..=4 {
            peers::keep(&handle, n, Script::silent(&chain), &log);
        }
        let said = |o: &Outcome| matches!(o, Outcome::Stalled { .. } | Outcome::NoUsablePeers);
        let said = tokio::time::timeout(GUARD, handle.outcome(said)).await;
        assert!(said.is_ok(), "says that nothing moves");
        report("P31, said", begun.elapsed(), patience + T_REQ);
        tokio::time::sleep(Duration::from_secs(100)).await;
        let healed = Instant::now();
        peers::keep(&handle, 5, Script::honest(&chain), &log);
        let mut watch = handle.status();
        let moves = watch.wait_for(|s| s.applied.get() > 0);
        let moves = tokio::time::timeout(GUARD, moves).await.is_ok();
        assert!(moves, "{:?}", handle.status().borrow());
        report(
            "P31, recovery",
            healed.elapsed(),
            T_STATUS + Duration::from_secs(1),
        );
        let all = watch.wait_for(|s| s.applied == chain.tip().prev());
        assert!(tokio::time::timeout(GUARD, all).await.is_ok());
        let dropped = handle.status().borrow().dropped.clone();
        assert!(dropped.iter().all(|d| d.peer != id(5)), "{dropped:?}");
        handle.stop().await;
    }
}
