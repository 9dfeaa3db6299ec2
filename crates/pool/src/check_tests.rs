//! Each invariant can fail: the owners' own doors, used one without the other, break it.

use super::io::Reading;
use super::tests::{TestPool, block_of, feed_at};
use super::*;
use blocksync_types::fault::Penalty;
use blocksync_types::ids::{PeerId, Source};
use std::panic::{AssertUnwindSafe, catch_unwind};

const CONN: ConnId = ConnId(0);
const PEER: PeerId = PeerId([1; 20]);

/// A pool with one peer, whose blocks 1 and 2 are with the verifier and whose block 3 is owed.
fn pool() -> TestPool {
    let mut pool = TestPool::new(PoolConfig::default(), Height::ZERO, Height::new(1), Tick(0));
    let (conn, peer) = (CONN, PEER);
    feed_at(&mut pool, 1, Input::Up { conn, peer });
    let status = Input::Status {
        conn,
        base: Height::new(1),
        height: Height::new(3),
        max_range: 1,
    };
    feed_at(&mut pool, 1, status);
    for height in 1..=2 {
        feed_at(&mut pool, 1, block_of(conn, height, 100));
    }
    assert!(pool.is_verifying());
    pool
}

/// The words with which `check` ends, or "sound".
fn verdict(pool: &TestPool) -> String {
    let Err(why) = catch_unwind(AssertUnwindSafe(|| pool.check())) else {
        return "sound".into();
    };
    let text = why.downcast_ref::<String>().cloned();
    text.unwrap_or_else(|| why.downcast_ref::<&str>().copied().unwrap_or("").into())
}

/// A way to break an invariant.
type Break = fn(&mut TestPool);

fn each_says(breaks: &[(&str, Break)]) {
    for (words, break_it) in breaks {
        let mut pool = pool();
        assert_eq!(verdict(&pool), "sound");
        break_it(&mut pool);
        let said = verdict(&pool);
        assert!(said.contains(words), "{words}: {said}");
    }
}

#[test]
fn what_the_owners_check_can_fail() {
    let breaks: &[(&str, Break)] = &[
        ("the bound on bans", |pool| {
            let config = &pool.config;
            pool.bans.punish(PEER, CONN, Penalty::Ban, Tick(1), config);
            pool.config.max_records = 0;
        }),
        ("all are read while the budget is kept", |pool| {
            pool.budget.set_reading(Reading::Only(vec![]), Tick(1));
        }),
        ("from a connection that is gone", |pool| {
            let mut out = Vec::new();
            pool.peers.update(CONN, 1, |peer| {
                let range = (Height::new(1), Height::new(1 << 20));
                peer.restate(range, 1, Height::new(1), Tick(1));
            });
            assert!(pool.ask_for_proof(CONN, Tick(2_000_000), &mut out));
            pool.peers.remove(CONN);
        }),
        ("nobody came or all have left", |pool| {
            pool.tip.all_left(Tick(1))
        }),
        ("a deadline exactly while", |pool| {
            pool.deadlines.set_overdue(CONN, None);
        }),
        ("with a run that is over", |pool| pool.prover.clear()),
        ("the window's bound", |pool| pool.config.window = 2),
        ("gone, but said to have gained", |pool| {
            pool.peers.note_gained(ConnId(9));
        }),
    ];
    each_says(breaks);
}

#[test]
fn what_the_slots_check_can_fail() {
    let breaks: &[(&str, Break)] = &[
        ("more than a first request and a hedge", |pool| {
            let ask = pool.requests.name();
            let more = |slot: &mut slot::Slot<()>| (0..2).for_each(|_| slot.open_ask(ask));
            pool.window.update(Height::new(3), more);
        }),
        ("asked for, though a copy is held", |pool| {
            let ask = pool.requests.name();
            let height = Height::new(1);
            pool.window.update(height, |slot| slot.open_ask(ask));
        }),
        ("stages out of order", |pool| {
            let (height, id) = (Height::new(2), super::tests::id(2));
            pool.window.update(height, |slot| {
                slot.certify(id);
                slot.prove(None);
            });
        }),
        ("the frontier is at", |pool| {
            let (height, id) = (Height::new(1), super::tests::id(1));
            pool.window.update(height, |slot| {
                slot.end_verifying();
                slot.certify(id);
                slot.prove(None);
            });
        }),
        ("stages out of order", |pool| {
            for height in 1..=2 {
                let (height, id) = (Height::new(height), super::tests::id(height));
                pool.window.update(height, |slot| {
                    slot.end_verifying();
                    slot.certify(id);
                });
                pool.window.advance();
            }
            let with_executor = |slot: &mut slot::Slot<()>| slot.begin_applying(&mut Vec::new());
            pool.window.update(Height::new(2), with_executor);
        }),
    ];
    each_says(breaks);
}

#[test]
fn what_concerns_several_owners_can_fail() {
    let breaks: &[(&str, Break)] = &[
        ("owed by another connection", |pool| {
            let ask = pool.requests.open(ConnId(9), Tick(1), Height::new(3), 1);
            pool.peers
                .update(CONN, 1, |peer| peer.owe(Height::new(3), ask));
        }),
        ("owed, but not in its slot", |pool| {
            let ask = pool.requests.open(CONN, Tick(1), Height::new(9), 1);
            pool.peers
                .update(CONN, 1, |peer| peer.owe(Height::new(9), ask));
        }),
        ("open heights of the requests", |pool| {
            pool.requests.open(CONN, Tick(1), Height::new(3), 1);
        }),
        ("asked, but not owed", |pool| {
            let ask = pool.requests.name();
            let height = Height::new(3);
            pool.window.update(height, |slot| slot.open_ask(ask));
        }),
        ("could be asked of", |pool| {
            let source = Source {
                peer: PEER,
                conn: CONN,
            };
            pool.prover.clear();
            pool.window.update(Height::new(2), |slot| {
                slot.end_verifying();
                slot.remove_copies(|copy| copy.from == source);
            });
            pool.window
                .update(Height::new(1), slot::Slot::end_verifying);
        }),
        ("open above 2 for claims that have ended", |pool| {
            pool.peers.update_claim(CONN, claims::Claim::end);
        }),
        ("nobody is read who may have", |pool| {
            pool.budget.weigh(u64::MAX);
            pool.budget.set_reading(Reading::Only(vec![]), Tick(1));
            pool.prover.clear();
            pool.window.update(Height::new(1), |slot| {
                slot.end_verifying();
                slot.remove_copies(|_| true);
                slot.refuse(CONN);
            });
            pool.window
                .update(Height::new(2), slot::Slot::end_verifying);
        }),
    ];
    each_says(breaks);
}
