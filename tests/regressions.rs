//! The bugs of earlier systems (`faults.md` (e)), one test for each that concerns the scheduler, named by its number there.
//!
//! Not here: 10, 23, 26 (locks, channels: there are none in the pool), 12, 27, 41, 42, 44, 46, 52–54, 56 (server, wire guard, proof:
//! tested beside their code), 14, 15 (execution: `service_sim`, `chain::proof`), 30, 32 (shapes of code that ours does not
//! have), 37 (the model's S6), 49, 51.

mod world;

use blocksync::fault::{Fault, Proof};
use blocksync::ids::{ConnId, Height, PeerId};
use blocksync::pool::{
    AskId, Effect, Input, LocalFault, Meta, Outcome, Pool, PoolConfig, RunId, Tick, Verdict,
};
use world::{Body, Lie, MS, PeerSpec, Role, SECOND, Scenario, World, block_id, peer_id};

type Effects = Vec<Effect<Body>>;

/// The pool alone, driven by hand.
struct Direct {
    pool: Pool<Body>,
    now: u64,
}

impl Direct {
    fn new() -> Self {
        Self::with(PoolConfig::default())
    }

    fn with(config: PoolConfig) -> Self {
        Direct {
            pool: Pool::new(config, Height::ZERO, Height::new(1), Tick(0)),
            now: 0,
        }
    }

    fn feed(&mut self, input: Input<Body>) -> Effects {
        let mut out = Vec::new();
        self.pool.handle(input, Tick(self.now), &mut out);
        self.pool.check();
        out
    }

    fn tick(&mut self, to: u64) -> Effects {
        let mut all = Vec::new();
        while let Some(Tick(at)) = self.pool.next_deadline().filter(|t| t.0 <= to) {
            self.now = self.now.max(at);
            all.extend(self.feed(Input::Tick));
        }
        self.now = to;
        all.extend(self.feed(Input::Tick));
        all
    }

    fn up(&mut self, conn: u64, height: u64) -> Effects {
        let mut out = self.feed(Input::Up {
            conn: ConnId(conn),
            peer: peer_id(conn as usize),
        });
        out.extend(self.status(conn, u64::from(height > 0), height));
        out
    }

    fn status(&mut self, conn: u64, base: u64, height: u64) -> Effects {
        let (base, height) = (Height::new(base), Height::new(height));
        self.feed(Input::Status {
            conn: ConnId(conn),
            base,
            height,
            max_range: 1,
        })
    }

    fn block(&mut self, conn: u64, height: u64) -> Effects {
        let meta = Meta {
            height: Height::new(height),
            id: block_id(height, 0),
            parent: block_id(height - 1, 0),
            bytes: 500,
            has_own_commit: false,
        };
        let block = Body {
            commit_good: true,
            ext_good: true,
            body_bad: false,
        };
        self.feed(Input::Block {
            conn: ConnId(conn),
            meta,
            block,
        })
    }

    fn no_block(&mut self, conn: u64, height: u64) -> Effects {
        self.feed(Input::NoBlock {
            conn: ConnId(conn),
            height: Height::new(height),
        })
    }
}

fn asked(out: &Effects, conn: u64) -> Vec<u64> {
    let of = |e: &Effect<Body>| match e {
        Effect::Ask { conn: c, from, .. } if *c == ConnId(conn) => Some(from.get()),
        _ => None,
    };
    out.iter().filter_map(of).collect()
}

fn drops(out: &Effects) -> usize {
    out.iter()
        .filter(|e| matches!(e, Effect::Drop { .. }))
        .count()
}

fn caught_up(out: &Effects) -> bool {
    out.iter()
        .any(|e| matches!(e, Effect::Outcome(Outcome::CaughtUp { .. })))
}

fn finishes(tip: u64, roles: &[Role]) -> World {
    let peers = roles.iter().map(|r| PeerSpec::new(r.clone())).collect();
    let mut world = World::new(Scenario::new(3, tip, peers));
    assert!(
        world.run_until(|w| w.applied() + 1 >= tip && w.caught_up()),
        "stuck at {}",
        world.applied()
    );
    assert!(world.honest_bans().is_empty());
    world
}

#[test]
fn r01_both_copies_of_a_failed_pair_are_asked_again() {
    finishes(
        60,
        &[
            Role::Honest,
            Role::Liar(Lie::Header),
            Role::Liar(Lie::Parent),
        ],
    );
}

#[test]
fn r02_the_target_follows_its_claimant() {
    let mut d = Direct::new();
    d.up(0, 10);
    d.up(1, 1 << 40);
    assert_eq!(d.pool.target(), Height::new(1 << 40));
    d.feed(Input::Down { conn: ConnId(1) });
    assert_eq!(d.pool.target(), Height::new(10));
}

#[test]
fn r03_a_claim_that_was_higher_before() {
    let mut d = Direct::new();
    d.up(0, 10);
    d.up(1, 1 << 62);
    d.status(1, 1, 5);
    assert_eq!(d.pool.target(), Height::new(10));
    d.feed(Input::Down { conn: ConnId(1) });
    assert_eq!(d.pool.target(), Height::new(10));
}

#[test]
fn r04_an_inflated_base_counts_when_it_is_reached() {
    let mut d = Direct::new();
    d.up(0, 3);
    d.feed(Input::Up {
        conn: ConnId(1),
        peer: peer_id(1),
    });
    d.status(1, 3, 50);
    assert_eq!(d.pool.target(), Height::new(3));
    d.feed(Input::Applied {
        through: Height::new(2),
    });
    assert_eq!(d.pool.target(), Height::new(50));
}

#[test]
fn r05_alternating_liars_hold_nobody() {
    finishes(
        60,
        &[Role::Honest, Role::Claims(1 << 62), Role::Claims(1 << 61)],
    );
}

#[test]
fn r06_the_timer_of_a_removed_peer() {
    let mut d = Direct::new();
    d.up(0, 10);
    d.up(1, 10);
    d.tick(4 * SECOND);
    d.feed(Input::Down { conn: ConnId(0) });
    d.feed(Input::Up {
        conn: ConnId(7),
        peer: peer_id(0),
    });
    d.status(7, 1, 10);
    d.feed(Input::Down { conn: ConnId(1) });
    let out = d.tick(6 * SECOND);
    assert_eq!(drops(&out), 0, "its successor owes only since 4 s: {out:?}");
}

#[test]
fn r07_a_stall_of_ours_is_not_the_peers_fault() {
    let mut d = Direct::new();
    d.up(0, 10);
    d.up(1, 10);
    d.feed(Input::Backpressure { on: true });
    assert_eq!(drops(&d.tick(30 * SECOND)), 0);
}

#[test]
fn r08_a_request_that_was_refused_is_made_again() {
    let mut d = Direct::new();
    d.up(0, 2);
    d.up(1, 2);
    let out = d.feed(Input::SendFailed { ask: AskId(0) });
    assert_eq!(asked(&out, 1), [1]);
}

#[test]
fn r09_both_failures_of_a_hedged_height_count() {
    let mut d = Direct::new();
    d.up(0, 1);
    d.up(1, 1);
    let hedge = d.tick(SECOND);
    assert_eq!(asked(&hedge, 1), [1]);
    d.up(2, 1);
    d.no_block(0, 1);
    let out = d.no_block(1, 1);
    assert_eq!(
        asked(&out, 2),
        [1],
        "neither is lost, neither cancels the other"
    );
}

#[test]
fn r11_late_answers_after_the_end() {
    let mut d = Direct::new();
    d.up(0, 2);
    d.up(1, 2);
    d.tick(SECOND);
    d.block(1, 1);
    assert_eq!(drops(&d.block(0, 1)), 0);
}

#[test]
fn r13_small_blocks_are_not_slowness() {
    let mut slow = PeerSpec::new(Role::Honest);
    (slow.latency, slow.bandwidth) = (900 * MS, 3_000);
    let mut scenario = Scenario::new(5, 200, vec![slow.clone(), slow]);
    scenario.block_bytes = 200;
    let mut world = World::new(scenario);
    assert!(world.run_until(|w| w.applied() >= 199));
    assert!(
        world.report.dropped.is_empty(),
        "{:?}",
        world.report.dropped
    );
}

#[test]
fn r16_a_banned_peer_comes_back_at_once() {
    let mut d = Direct::new();
    d.up(0, 5);
    let fault = Fault::Malformed("garbage".into());
    d.feed(Input::Malformed {
        conn: ConnId(0),
        fault,
    });
    let out = d.feed(Input::Up {
        conn: ConnId(9),
        peer: peer_id(0),
    });
    assert!(
        matches!(
            out[..],
            [
                Effect::Drop {
                    ban_until: Some(_),
                    ..
                },
                ..
            ]
        ),
        "{out:?}"
    );
}

#[test]
fn r17_stopping_twice() {
    let mut d = Direct::new();
    d.up(0, 5);
    assert_eq!(drops(&d.feed(Input::Stop)), 1);
    assert!(d.feed(Input::Stop).is_empty());
    assert!(d.up(1, 5).is_empty(), "nothing is asked any more");
}

#[test]
fn r18_an_initial_height_above_one() {
    let peers = vec![PeerSpec::new(Role::Honest); 2];
    let mut world = World::new(Scenario {
        initial: 1000,
        ..Scenario::new(1, 1020, peers)
    });
    assert!(world.run_until(|w| w.applied() >= 1019 && w.caught_up()));
}

#[test]
fn r19_what_a_leaving_peer_owed_is_released() {
    let mut d = Direct::new();
    d.up(0, 50);
    d.block(0, 1);
    assert_eq!(d.pool.owed(), 20);
    d.feed(Input::Down { conn: ConnId(0) });
    assert_eq!(d.pool.owed(), 0);
}

#[test]
fn r20_the_same_block_twice() {
    let mut d = Direct::new();
    d.up(0, 5);
    d.block(0, 1);
    let out = d.block(0, 1);
    assert!(
        matches!(
            &out[0],
            Effect::Drop {
                fault: Fault::Unasked,
                ..
            }
        ),
        "one answer for one ask: {out:?}"
    );
}

#[test]
fn r21_applied_further_than_expected() {
    let mut d = Direct::new();
    d.up(0, 9);
    d.feed(Input::Applied {
        through: Height::new(4),
    });
    assert_eq!(d.pool.applied(), Height::new(4));
    d.feed(Input::Applied {
        through: Height::new(2),
    });
    assert_eq!(d.pool.applied(), Height::new(4));
}

#[test]
fn r22_removed_twice() {
    let mut d = Direct::new();
    d.up(0, 9);
    d.feed(Input::Down { conn: ConnId(0) });
    assert_eq!(drops(&d.feed(Input::Down { conn: ConnId(0) })), 0);
}

#[test]
fn r24_a_base_of_zero() {
    let mut d = Direct::new();
    assert_eq!(drops(&d.up(0, 0)), 0);
    assert_eq!(drops(&d.status(0, 0, 7)), 0);
}

#[test]
fn r25_r55_a_status_on_connecting() {
    let mut d = Direct::new();
    let out = d.feed(Input::Up {
        conn: ConnId(0),
        peer: peer_id(0),
    });
    assert_eq!(out[0], Effect::AskStatus { conn: ConnId(0) });
}

#[test]
fn r28_who_said_no_is_not_asked_again_before_its_next_status() {
    let mut d = Direct::new();
    d.up(0, 1);
    assert!(asked(&d.no_block(0, 1), 0).is_empty());
    assert!(asked(&d.tick(5 * SECOND), 0).is_empty());
    assert_eq!(asked(&d.status(0, 1, 1), 0), [1]);
}

#[test]
fn r29_a_fresh_peer_is_not_pruned() {
    let mut d = Direct::new();
    d.up(0, 9);
    d.up(1, 9);
    assert_eq!(drops(&d.tick(3 * SECOND)), 0);
}

#[test]
fn r31_the_last_peer_leaves() {
    let mut d = Direct::new();
    d.up(0, 9);
    d.feed(Input::Down { conn: ConnId(0) });
    assert!(!caught_up(&d.tick(60 * SECOND)));
}

#[test]
fn r33_time_never_runs_backwards() {
    let mut d = Direct::new();
    d.up(0, 9);
    d.now = 10 * SECOND;
    d.feed(Input::Tick);
    d.now = 0;
    d.feed(Input::Tick);
    assert!(d.pool.next_deadline().unwrap() > Tick(10 * SECOND));
}

#[test]
fn r34_r43_a_ban_holds_until_it_ends_and_no_longer() {
    let mut d = Direct::new();
    d.up(0, 5);
    let out = d.feed(Input::Malformed {
        conn: ConnId(0),
        fault: Fault::Malformed(String::new()),
    });
    let Effect::Drop {
        ban_until: Some(Tick(until)),
        ..
    } = out[0]
    else {
        panic!("{out:?}")
    };
    d.now = until - 1;
    assert_eq!(
        drops(&d.feed(Input::Up {
            conn: ConnId(8),
            peer: peer_id(0)
        })),
        1
    );
    d.now = until;
    assert_eq!(
        drops(&d.feed(Input::Up {
            conn: ConnId(9),
            peer: peer_id(0)
        })),
        0
    );
}

#[test]
fn r35_no_blocks_do_not_leak() {
    let mut d = Direct::new();
    d.up(0, 100);
    d.block(0, 1);
    for height in 2..=40 {
        d.no_block(0, height);
    }
    assert_eq!(d.pool.owed(), 20, "there is still room for twenty");
}

#[test]
fn r36_the_only_peer_is_asked_anew() {
    let mut d = Direct::new();
    d.up(0, 3);
    let out = d.tick(6 * SECOND);
    assert_eq!(drops(&out), 0, "patience");
    assert_eq!(asked(&out, 0), [1, 2], "as many as before it was late");
    assert_eq!(d.pool.owed(), 2);
}

#[test]
fn r38_our_own_divergence_bans_nobody() {
    let mut d = Direct::new();
    d.up(0, 9);
    let out = d.feed(Input::LocalFault(LocalFault::Diverged("app hash".into())));
    assert_eq!(drops(&out), 0);
    assert!(matches!(out[..], [Effect::Outcome(Outcome::LocalFault(_))]));
}

#[test]
fn r39_a_peer_at_height_zero_does_not_end_it_at_the_first_tick() {
    let mut d = Direct::new();
    assert!(!caught_up(&d.up(0, 0)));
    assert!(!caught_up(&d.tick(SECOND)));
    d.up(1, 50);
    assert!(!caught_up(&d.tick(4 * SECOND)));
}

#[test]
fn r40_a_long_execution_is_not_the_tip() {
    let mut scenario = Scenario::new(2, 20, vec![PeerSpec::new(Role::Honest); 3]);
    (scenario.apply_time, scenario.limit) = (120 * SECOND, 100_000 * SECOND);
    let mut world = World::new(scenario);
    assert!(world.run_until(World::caught_up));
    assert!(world.applied() >= 19 && world.report.dropped.is_empty());
}

#[test]
fn r45_partial_messages_are_released() {
    let mut d = Direct::new();
    d.up(0, 9);
    d.feed(Input::Receiving {
        conn: ConnId(0),
        bytes: 4000,
    });
    assert_eq!(d.pool.buffered_bytes(), 4000);
    d.feed(Input::Down { conn: ConnId(0) });
    assert_eq!(d.pool.buffered_bytes(), 0);
}

#[test]
fn r47_no_cursor_passes_a_height_that_failed() {
    let mut d = Direct::new();
    d.up(0, 5);
    d.no_block(0, 2);
    for height in [1, 3, 4, 5] {
        d.block(0, height);
    }
    assert_eq!(asked(&d.up(1, 5), 1), [2]);
}

#[test]
fn r48_two_that_fail_do_not_alternate_for_ever() {
    finishes(
        40,
        &[Role::Liar(Lie::Body), Role::Liar(Lie::Header), Role::Honest],
    );
}

#[test]
fn r50_an_undecodable_answer_frees_its_request() {
    let mut d = Direct::new();
    d.up(0, 2);
    d.up(1, 2);
    let out = d.feed(Input::Malformed {
        conn: ConnId(0),
        fault: Fault::Malformed(String::new()),
    });
    assert_eq!(asked(&out, 1), [1, 2], "in the same step");
}

#[test]
fn r57_a_verdict_on_a_run_that_is_over_convicts_only_its_supplier() {
    let mut d = Direct::new();
    d.up(0, 9);
    d.up(1, 9);
    let none = Verdict {
        shorten: Some(Height::new(1)),
        ..Verdict::default()
    };
    assert_eq!(
        drops(&d.feed(Input::Verdict {
            run: RunId(77),
            verdict: none
        })),
        0
    );
    let from = blocksync::ids::Source {
        peer: PeerId([99; 20]),
        conn: ConnId(55),
    };
    let fault = Fault::BadBlock(Proof(String::new()));
    let gone = Verdict {
        guilty: vec![(from, Height::new(1), fault)],
        ..Verdict::default()
    };
    assert_eq!(
        drops(&d.feed(Input::Verdict {
            run: RunId(78),
            verdict: gone
        })),
        0
    );
}

#[test]
fn r58_a_stall_that_ends_gives_everybody_another_round() {
    let mut d = Direct::new();
    d.up(0, 9);
    d.up(1, 9);
    d.feed(Input::Backpressure { on: true });
    d.tick(60 * SECOND);
    d.feed(Input::Backpressure { on: false });
    assert_eq!(drops(&d.tick(64 * SECOND)), 0);
}

#[test]
fn r59_r60_no_more_than_twenty_and_one_at_a_time() {
    let mut d = Direct::new();
    let mut out = d.up(0, 1 << 40);
    assert_eq!(asked(&out, 0), [1, 2], "until its rate is known");
    out.extend(d.block(0, 1));
    assert_eq!(d.pool.owed(), 20);
    assert_eq!(asked(&out, 0).len(), 21);
    assert!(
        out.iter()
            .all(|e| !matches!(e, Effect::Ask { count, .. } if *count != 1))
    );
}

#[test]
fn a_peer_that_we_leave_unread_is_not_late() {
    let late = |unread: bool| {
        let mut d = Direct::new();
        d.up(0, 9);
        d.up(1, 9);
        (1..=10).any(|second| {
            if unread {
                d.feed(Input::Unread { conn: ConnId(0) });
                d.feed(Input::Unread { conn: ConnId(1) });
            }
            let effects = d.tick(second * SECOND);
            let dropped = |e: &Effect<Body>| matches!(e, Effect::Drop { .. });
            effects.iter().any(dropped)
        })
    };
    assert!(late(false));
    assert!(!late(true));
}
