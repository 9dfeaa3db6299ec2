//! Tests of claims that are asked to be proven: what is open at a time, what is kept, and what it
//! costs.

use super::tests::{TestPool, block_of, feed_at};
use super::*;
use blocksync_types::ids::PeerId;

const SECOND: u64 = 1_000_000;
const TIMEOUT: u64 = 60 * SECOND;

/// Connections with these claims, and the requests for proofs that follow at once.
fn claimants(heights: &[u64]) -> (TestPool, Vec<(ConnId, AskId)>) {
    // Their blocks are not waited for here, and what proves a claim lies beyond the window.
    let config = PoolConfig {
        request_timeout: TIMEOUT,
        window: 16,
        ..PoolConfig::default()
    };
    let mut pool = TestPool::new(config, Height::ZERO, Height::new(1), Tick(0));
    let mut asks = Vec::new();
    for (n, height) in (0..).zip(heights) {
        let (conn, peer) = (ConnId(n), PeerId([1 + n as u8; 20]));
        feed_at(&mut pool, 0, Input::Up { conn, peer });
        let status = Input::Status {
            conn,
            base: Height::new(1),
            height: Height::new(*height),
            max_range: 1,
        };
        asks.extend(proof_asks(&feed_at(&mut pool, 0, status)));
    }
    (pool, asks)
}

/// Requests for heights far above the others.
fn proof_asks(out: &[Effect<()>]) -> Vec<(ConnId, AskId)> {
    let asks = out.iter().filter_map(|effect| match effect {
        Effect::Ask {
            ask, conn, from, ..
        } if from.get() > 500 => Some((*conn, *ask)),
        _ => None,
    });
    asks.collect()
}

fn judged(pool: &mut TestPool, conn: u64, proven: Option<u64>, applied: u64) -> Vec<Effect<()>> {
    let (conn, proven, applied) = (ConnId(conn), proven.map(Height::new), Height::new(applied));
    let input = Input::ClaimJudged {
        conn,
        proven,
        applied,
    };
    feed_at(pool, 10, input)
}

#[test]
fn one_is_asked_each_second_and_eight_at_a_time() {
    let heights: Vec<u64> = (0..20).map(|n| 1000 + 100 * n).collect();
    let (mut pool, mut asks) = claimants(&heights);
    assert_eq!(asks.len(), 1);
    for second in 1..=15 {
        asks.extend(proof_asks(&feed_at(
            &mut pool,
            second * SECOND,
            Input::Tick,
        )));
        assert_eq!(asks.len(), 8.min(1 + second as usize), "after {second} s");
    }
    let conns: std::collections::BTreeSet<ConnId> = asks.iter().map(|(conn, _)| *conn).collect();
    assert_eq!(conns.len(), 8, "each once");
}

#[test]
fn a_proof_is_waited_for_four_times_as_long_as_a_block() {
    let (mut pool, asks) = claimants(&[1000]);
    let ask = asks[0].1;
    let patience = 4 * TIMEOUT;
    let mut cancelled = None;
    for now in (0..=2 * patience).step_by(SECOND as usize) {
        let out = feed_at(&mut pool, now, Input::Tick);
        if out.contains(&Effect::Cancel { ask }) {
            cancelled.get_or_insert(now);
        }
    }
    assert_eq!(cancelled, Some(patience));
}

#[test]
fn a_proof_that_was_not_asked_for_after_all_is_not_waited_for() {
    let (mut pool, asks) = claimants(&[3, 1000]);
    let [(first, ask)] = asks[..] else {
        panic!("{asks:?}")
    };
    assert_eq!(first, ConnId(1));
    // With one of the requests before it answered it gets another name.
    feed_at(&mut pool, 1, block_of(ConnId(0), 1, 100));
    let renamed = pool.renumber().asks[&ask];
    assert_ne!(renamed, ask);
    let other = AskId(renamed.0 + 1000);
    feed_at(&mut pool, 1, Input::SendFailed { ask: other });
    assert_eq!(pool.claim_proofs.asks().collect::<Vec<_>>(), [renamed]);
    feed_at(&mut pool, 1, Input::SendFailed { ask: renamed });
    assert_eq!(pool.claim_proofs.asks().count(), 0);
}

#[test]
fn the_copy_that_proves_most_is_kept_and_charged() {
    let (mut pool, _) = claimants(&[1000, 1100, 1200]);
    let aside = |pool: &TestPool| pool.buffered_bytes();
    let (a, b) = (ConnId(0), ConnId(1));
    feed_at(&mut pool, 10, block_of(a, 1000, 500));
    assert_eq!(aside(&pool), 500, "with the verifier");
    judged(&mut pool, 0, Some(999), 0);
    assert_eq!((aside(&pool), pool.target()), (500, Height::new(999)));
    // Another word of its giver takes nothing away, and the next one need not wait for its turn.
    let asks = proof_asks(&judged(&mut pool, 0, None, 0));
    assert_eq!(pool.target(), Height::new(999));
    assert_eq!(asks.first().map(|ask| ask.0), Some(b));
    feed_at(&mut pool, SECOND, block_of(b, 1100, 700));
    assert_eq!(aside(&pool), 1200);
    // One that shows nothing takes nothing away from what another one has shown.
    judged(&mut pool, 1, None, 0);
    assert_eq!((aside(&pool), pool.target()), (500, Height::new(999)));
    judged(&mut pool, 2, Some(998), 0);
    assert_eq!(pool.target(), Height::new(999), "less is nothing new");
    judged(&mut pool, 2, Some(998), 1);
    assert_eq!(
        pool.target(),
        Height::new(998),
        "what a newer state says is"
    );
    assert_eq!(aside(&pool), 0, "it came by another road");
    feed_at(&mut pool, SECOND, Input::Pause);
    assert_eq!(pool.claim_proofs.height(), Height::ZERO);
    feed_at(
        &mut pool,
        SECOND,
        Input::Resume {
            applied: Height::ZERO,
        },
    );
    for (height, kept) in [(1, 0), (2, 2)] {
        judged(&mut pool, 0, Some(height), 0);
        assert_eq!(
            pool.claim_proofs.height(),
            Height::new(kept),
            "the next is not more"
        );
    }
}

#[test]
fn no_copy_is_taken_that_does_not_fit_into_the_budget() {
    for (bytes, fits) in [(256 << 20, true), ((256 << 20) + 1, false)] {
        let (mut pool, _) = claimants(&[1000]);
        let out = feed_at(&mut pool, 10, block_of(ConnId(0), 1000, bytes));
        let proves = out.iter().any(|e| matches!(e, Effect::ProveClaim { .. }));
        assert_eq!(proves, fits, "{bytes}");
    }
}

#[test]
fn a_claim_that_is_near_is_asked_for_no_proof() {
    let above = u64::from(PoolConfig::default().prove_claims_above);
    for (height, asks) in [(1 + above, 0), (2 + above, 1)] {
        let (pool, _) = claimants(&[height]);
        assert_eq!(pool.claim_proofs.asks().count(), asks, "claims {height}");
    }
}

#[test]
fn doubted_claims_are_those_above_us_and_not_all_of_them_are_named() {
    let heights: Vec<u64> = (0..20).map(|n| 3 + n).chain([0, 0, 0]).collect();
    let config = PoolConfig {
        asks_per_peer: 1,
        ..PoolConfig::default()
    };
    let patience = config.claim_patience + config.settle;
    let mut pool = TestPool::new(config, Height::ZERO, Height::new(1), Tick(0));
    for (n, height) in (0..).zip(&heights) {
        let (conn, peer) = (ConnId(n), PeerId([1 + n as u8; 20]));
        feed_at(&mut pool, 0, Input::Up { conn, peer });
        let status = Input::Status {
            conn,
            base: Height::new((*height).min(1)),
            height: Height::new(*height),
            max_range: 1,
        };
        feed_at(&mut pool, 0, status);
    }
    assert_eq!(pool.doubted_claims(), []);
    // Nobody delivers anything, and nobody is judged for it meanwhile.
    for now in (0..=2 * patience).step_by(SECOND as usize / 4) {
        feed_at(&mut pool, now, Input::Tick);
        for conn in (0..20).map(ConnId) {
            feed_at(&mut pool, now, Input::Unread { conn });
        }
    }
    let doubted = pool.doubted_claims();
    assert_eq!(doubted.len(), 16, "{doubted:?}");
    assert_eq!(
        doubted[0],
        (PeerId([20; 20]), Height::new(22)),
        "the highest first"
    );
    // At a height near their claims they are named no more.
    feed_at(&mut pool, 3 * patience, Input::Pause);
    let applied = Height::new(21);
    feed_at(&mut pool, 3 * patience, Input::Resume { applied });
    assert_eq!(pool.doubted_claims(), []);
}

#[test]
fn a_proof_says_nothing_of_how_well_its_peer_delivers() {
    let (mut pool, _) = claimants(&[1000]);
    let conn = ConnId(0);
    pool.peers.update(conn, 1, |peer| peer.strike());
    feed_at(&mut pool, 10, block_of(conn, 1000, 500_000));
    let peer = pool.peers.get(conn).expect("it is there");
    assert_eq!(
        (peer.class(), peer.rate()),
        (super::peer::Class::Struck, None)
    );
    assert!(peer.owes());
    assert_eq!(
        peer.surplus(1),
        0,
        "the blocks that it owes are far from that one"
    );
}

/// A pool that stands at block 1, while a proof of more is judged again by what is known there.
fn judged_again() -> TestPool {
    let (mut pool, _) = claimants(&[1000, 1]);
    feed_at(&mut pool, 10, block_of(ConnId(0), 1000, 500));
    judged(&mut pool, 0, Some(999), 0);
    let mut out = Vec::new();
    for height in 1..=2 {
        out.extend(feed_at(&mut pool, 10, block_of(ConnId(0), height, 100)));
    }
    let run = out.iter().find_map(|effect| match effect {
        Effect::Verify { run, .. } => Some(*run),
        _ => None,
    });
    let verdict = Verdict {
        certified: Some((Height::new(1), super::tests::id(1))),
        ..Verdict::default()
    };
    let run = run.expect("the first block is proven by the second");
    feed_at(&mut pool, 10, Input::Verdict { run, verdict });
    let through = Height::new(1);
    feed_at(&mut pool, 10, Input::Applied { through });
    let out = feed_at(&mut pool, 3 * SECOND, Input::Tick);
    let again = out.iter().any(|e| matches!(e, Effect::ProveClaim { .. }));
    assert!(again, "{out:?}");
    pool
}

#[test]
fn a_proof_that_is_judged_again_holds_until_that_is_said() {
    let mut pool = judged_again();
    let out = feed_at(&mut pool, 3 * SECOND, Input::Tick);
    assert!(!out.iter().any(|e| matches!(e, Effect::ProveClaim { .. })));
    assert_eq!(pool.target(), Height::new(999));
    judged(&mut pool, 1, None, 1);
    assert_eq!(pool.target(), Height::new(999), "others have no say in it");
    judged(&mut pool, 0, None, 1);
    assert!(pool.target() < Height::new(999), "its keys have gone");
    let mut pool = judged_again();
    let bytes = pool.buffered_bytes();
    judged(&mut pool, 0, Some(999), 1);
    assert_eq!(
        (pool.target(), pool.buffered_bytes()),
        (Height::new(999), bytes)
    );
}

#[test]
fn one_proof_of_a_connection_is_open_at_a_time() {
    let (mut pool, asks) = claimants(&[1000]);
    assert_eq!(asks.len(), 1);
    let conn = ConnId(0);
    let status = |height| Input::Status {
        conn,
        base: Height::new(1),
        height: Height::new(height),
        max_range: 1,
    };
    // It may be asked for another one after a minute, but still owes this one.
    let minute = 60 * SECOND;
    let out = feed_at(&mut pool, minute, status(1100));
    assert_eq!(proof_asks(&out), []);
    feed_at(&mut pool, minute, block_of(conn, 1000, 500));
    let out = feed_at(&mut pool, minute, status(1200));
    assert_eq!(proof_asks(&out).len(), 1);
    // The first one is with the verifier.
    let out = feed_at(&mut pool, minute, block_of(conn, 1200, 500));
    assert!(!out.iter().any(|e| matches!(e, Effect::ProveClaim { .. })));
    assert_eq!(pool.buffered_bytes(), 500);
}

#[test]
fn nobody_is_asked_for_a_proof_while_somebody_else_has_the_store() {
    let (mut pool, asks) = claimants(&[1, 1]);
    assert_eq!(asks, []);
    feed_at(&mut pool, 1, Input::Pause);
    for n in 0..2 {
        let status = Input::Status {
            conn: ConnId(n),
            base: Height::new(1),
            height: Height::new(1000),
            max_range: 1,
        };
        assert_eq!(proof_asks(&feed_at(&mut pool, 1, status)), []);
        feed_at(&mut pool, 2, Input::Stop);
    }
}

#[test]
fn the_verifier_has_eight_proofs_at_most() {
    let heights: Vec<u64> = (0..20).map(|n| 1000 + 100 * n).collect();
    let (mut pool, mut asks) = claimants(&heights);
    let mut proofs = 0;
    for second in 1..=15 {
        let now = second * SECOND;
        for (conn, _) in std::mem::take(&mut asks) {
            let height = heights[conn.0 as usize];
            let out = feed_at(&mut pool, now, block_of(conn, height, 100));
            let handed_in = |e: &&Effect<()>| matches!(e, Effect::ProveClaim { .. });
            proofs += out.iter().filter(handed_in).count();
            asks.extend(proof_asks(&out));
        }
        asks.extend(proof_asks(&feed_at(&mut pool, now, Input::Tick)));
    }
    assert_eq!(proofs, 8);
}
