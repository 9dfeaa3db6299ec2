//! The bugs of earlier systems (`faults.md` (e)), one test for each, named by its number there.
//! Here are those that concern the scheduler; those that need the whole service are in
//! `regressions/service.rs`; some are the same as a row of the fault matrix, or belong beside their
//! code, and have the number in their name there. `crates/tidy` holds the numbers against this
//! list of those that have none:
//!
//! * 26: a lock that is not released. The pool has no locks; elsewhere a guard goes with its scope,
//!   and `Cargo.toml` denies one held across an await.

#[path = "regressions/direct.rs"]
mod direct;
// The scripted peers of the fault matrix. This binary needs some of them; `it` uses them all, and
// would warn of one that nobody needs.
#[allow(dead_code, reason = "`tests/it` uses the rest")]
#[path = "it/service_faults/peers.rs"]
mod peers;
#[path = "regressions/service.rs"]
mod service;
#[path = "../crates/pool/tests/world/mod.rs"]
mod world;

use blocksync::fault::{CloseReason, Fault, Proof};
use blocksync::ids::{ConnId, Height, PeerId};
use blocksync::pool::{
    AskId, Effect, Input, LocalFault, Outcome, PoolConfig, RunId, Tick, Verdict,
};
use direct::{Direct, asked, caught_up, drops};
use world::{Body, Lie, MS, PeerSpec, Role, SECOND, Scenario, World, peer_id};

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
    d.up(1, 1 << 40);
    assert_eq!(d.pool.target(), Height::new(1 << 40));
    d.up(0, 10);
    assert_eq!(d.pool.target(), Height::new(10), "one of two moves nothing");
    d.feed(Input::Down { conn: ConnId(1) });
    assert_eq!(d.pool.target(), Height::new(10));
}

#[test]
fn r03_a_claim_that_was_higher_before() {
    let mut d = Direct::new();
    d.up(0, 10);
    d.up(1, 1 << 62);
    d.status(1, 1, 5);
    assert_eq!(d.pool.target(), Height::new(5));
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
    d.feed(Input::Down { conn: ConnId(0) });
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
                reason: CloseReason::Fault(Fault::Unasked),
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
fn r30_what_one_gave_who_was_dropped_for_a_late_head_is_not_asked_again() {
    let mut d = Direct::new();
    let mut out = d.up(0, 4);
    out.extend(d.up(1, 4));
    assert_eq!((asked(&out, 0), asked(&out, 1)), (vec![1, 2], vec![3, 4]));
    d.block(0, 2);
    d.block(1, 3);
    d.block(1, 4);
    // The head is late, from conn 0 and then from conn 1, which was asked for it in its place.
    let mut out = d.tick(5 * SECOND);
    assert_eq!(drops(&out), 1);
    out.extend(d.up(2, 4));
    out.extend(d.tick(6 * SECOND));
    assert_eq!(drops(&out), 2);
    let all = [asked(&out, 1), asked(&out, 2)].concat();
    assert!(all.iter().all(|height| *height == 1), "{all:?}");
    let out = d.block(2, 1);
    let handed = |e: &Effect<Body>| match e {
        Effect::Verify { blocks, .. } => Some(blocks.iter().map(|b| b.meta.height.get()).collect()),
        _ => None,
    };
    let runs: Vec<Vec<u64>> = out.iter().filter_map(handed).collect();
    assert_eq!(runs, [[1, 2, 3]], "each once");
}

#[test]
fn r31_the_last_peer_leaves() {
    let mut d = Direct::new();
    d.up(0, 9);
    d.feed(Input::Down { conn: ConnId(0) });
    assert!(!caught_up(&d.tick(60 * SECOND)));
}

#[test]
fn r32_the_rate_of_a_slow_peer_is_not_rounded_to_nothing() {
    let mut d = Direct::new();
    d.up(0, 1000);
    d.up(1, 1000);
    d.now = SECOND / 10;
    d.block(1, 3);
    d.now = SECOND;
    d.block(0, 1);
    let peers: Vec<_> = d.pool.peers().collect();
    let rates = [peers[0].rate, peers[1].rate];
    assert_eq!(rates, [Some(500), Some(5000)], "bytes a second");
    assert!(peers[0].owed < peers[1].owed, "{peers:?}");
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
fn r37_blame_goes_to_the_supplier_and_not_to_who_stands_there_after_verification() {
    let mut d = Direct::new();
    d.up(0, 2);
    let out = d.block(0, 1);
    assert!(out.iter().all(|e| !matches!(e, Effect::Verify { .. })));
    d.up(1, 2);
    let out = d.block(0, 2);
    let of = |e: &Effect<Body>| match e {
        Effect::Verify { run, blocks, .. } => Some((*run, blocks[0].from)),
        _ => None,
    };
    let (run, from) = out.iter().find_map(of).unwrap();
    // While it is being verified the supplier leaves, and others are there in its place.
    d.feed(Input::Down { conn: ConnId(0) });
    d.up(2, 2);
    let wrong = Fault::BadBlock(Proof(String::new()));
    let verdict = Verdict {
        guilty: vec![(from, Height::new(1), wrong)],
        ..Verdict::default()
    };
    let out = d.feed(Input::Verdict { run, verdict });
    let dropped = |e: &Effect<Body>| match e {
        Effect::Drop { conn, .. } => Some(*conn),
        _ => None,
    };
    let dropped: Vec<ConnId> = out.iter().filter_map(dropped).collect();
    assert_eq!(
        dropped,
        [ConnId(0)],
        "named, though it has hung up: {out:?}"
    );
    assert_eq!([asked(&out, 1), asked(&out, 2)].concat(), [1]);
    assert_eq!(drops(&d.up(0, 2)), 1, "it is refused when it comes back");
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
fn r46_only_what_is_not_known_yet_is_asked_for() {
    let mut d = Direct::applied(10);
    let out = d.up(0, 12);
    assert_eq!(asked(&out, 0), [11, 12]);
    let none = d.no_block(0, 11);
    assert!(
        asked(&none, 0).is_empty(),
        "it has said no: no endless loop"
    );
    let known = d.block(0, 10);
    assert_eq!(drops(&known), 1, "nobody asked for it");
    // Consensus had the store, and made three blocks.
    let mut d = Direct::applied(10);
    d.up(0, 20);
    d.feed(Input::Resume {
        applied: Height::new(13),
    });
    let first = d.pool.window().next().unwrap();
    assert_eq!(first, (Height::new(14), '?'));
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
fn r49_a_range_that_is_answered_in_part_counts_for_that_part() {
    let mut d = Direct::new();
    d.up(0, 0);
    d.status_of_range(0, 1, 100, 64);
    d.now += SECOND / 10;
    let out = d.block(0, 1);
    let range = asked(&out, 0);
    assert!(range.len() >= 8, "asked as a range: {range:?}");
    // A gap, and the end too early.
    for height in [range[0], range[2]] {
        d.now += SECOND / 100;
        d.block(0, height);
    }
    assert_eq!(drops(&d.block(0, range[2])), 1, "no height twice");
    let missing: Vec<u64> = (2..=100)
        .filter(|h| !range[..3].contains(h) || *h == range[1])
        .collect();
    let mut again = asked(&d.up(1, 100), 1);
    while d.pool.owed() > 0 {
        d.now += SECOND / 100;
        let next = again
            .iter()
            .find(|h| d.pool.window().any(|(at, c)| at.get() == **h && c == '?'));
        let out = d.block(1, *next.unwrap());
        again.extend(asked(&out, 1));
    }
    assert_eq!(again, missing);
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
fn r51_what_is_held_is_not_driven_out() {
    let mut config = PoolConfig::default();
    config.budget_bytes = 10_000;
    config.first_estimate_bytes = 500;
    let mut d = Direct::with(config);
    d.up(0, 100);
    d.block(0, 2);
    for _ in 0..100 {
        let next = d
            .pool
            .window()
            .filter(|(h, c)| h.get() > 2 && *c == '?')
            .last();
        let Some((height, _)) = next else { break };
        d.block(0, height.get());
    }
    let (held, bytes) = (d.window(), d.pool.buffered_bytes());
    assert!(bytes > 9_000 && bytes <= 10_000, "{bytes}");
    // More than fits: from another peer, and the head in the end.
    d.up(1, 100);
    d.tick(20 * SECOND);
    assert_eq!(d.window().matches('h').count(), held.matches('h').count());
    assert_eq!(d.pool.buffered_bytes(), bytes);
    let out = d.block(1, 1);
    let verified = |e: &Effect<Body>| matches!(e, Effect::Verify { .. });
    assert!(out.iter().any(verified), "{out:?}");
}

#[test]
fn r54_nothing_below_its_base_is_asked_of_a_peer() {
    let mut d = Direct::new();
    d.feed(Input::Up {
        conn: ConnId(0),
        peer: peer_id(0),
    });
    assert_eq!(asked(&d.status(0, 5, 50), 0), [5, 6]);
    let mut out = d.block(0, 5);
    out.extend(d.tick(20 * SECOND));
    assert!(asked(&out, 0).iter().all(|h| *h >= 5), "{out:?}");
    assert_eq!(asked(&d.up(1, 50), 1), [1, 2]);
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
        1,
        "its supplier alone"
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
    // The highest first, as the proof of its claim.
    assert_eq!(asked(&out, 0)[1..], [1, 2], "until its rate is known");
    out.extend(d.block(0, 1));
    assert_eq!(d.pool.owed(), 20);
    assert_eq!(asked(&out, 0).len(), 22);
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
