//! The hard cases of judgement, one test each, on the pool. Decisions of a validator set are tested
//! with real keys beside the judge (`chain::proof`), with recorded chains in `service_sim`, and
//! with made ones in `service_faults`.

mod world;

use blocksync_pool::{
    Effect, Fork, Input, Meta, Outcome, Pool, PoolConfig, Reading, RunId, Tick, Unfit, Verdict,
};
use blocksync_types::fault::{CloseReason, Fault, Overdue, Proof};
use blocksync_types::ids::{ConnId, Height};
use world::{Body, PeerSpec, Role, SECOND, Scenario, World, block_id, peer_id};

const BODY: Body = Body {
    commit_good: true,
    ext_good: true,
    body_bad: false,
};

struct Direct {
    pool: Pool<Body>,
    now: u64,
}

impl Direct {
    fn new(config: PoolConfig) -> Self {
        Direct {
            pool: Pool::new(config, Height::ZERO, Height::new(1), Tick(0)),
            now: 0,
        }
    }

    fn feed(&mut self, input: Input<Body>) -> Vec<Effect<Body>> {
        let mut out = Vec::new();
        self.pool.handle(input, Tick(self.now), &mut out);
        self.pool.check();
        out
    }

    fn up(&mut self, conn: u64, height: u64) -> Vec<Effect<Body>> {
        self.up_as(conn, conn, height)
    }

    fn up_as(&mut self, conn: u64, peer: u64, height: u64) -> Vec<Effect<Body>> {
        self.feed(Input::Up {
            conn: ConnId(conn),
            peer: peer_id(peer as usize),
        });
        let (base, height) = (Height::new(1), Height::new(height));
        self.feed(Input::Status {
            conn: ConnId(conn),
            base,
            height,
            max_range: 1,
        })
    }

    fn block(&mut self, conn: u64, height: u64, tag: u64, bytes: u32) -> Vec<Effect<Body>> {
        let (id, parent) = (block_id(height, tag), block_id(height - 1, 0));
        let meta = Meta {
            height: Height::new(height),
            id,
            parent,
            bytes,
            has_own_commit: false,
        };
        self.feed(Input::Block {
            conn: ConnId(conn),
            meta,
            block: BODY,
        })
    }

    /// Waits until the head is hedged.
    fn hedge(&mut self) -> Vec<Effect<Body>> {
        self.now += SECOND;
        self.feed(Input::Tick)
    }
}

fn dropped(out: &[Effect<Body>]) -> Vec<ConnId> {
    let of = |e: &Effect<Body>| {
        if let Effect::Drop { conn, .. } = e {
            Some(*conn)
        } else {
            None
        }
    };
    out.iter().filter_map(of).collect()
}

fn run_of(out: &[Effect<Body>]) -> Option<RunId> {
    out.iter().find_map(|e| {
        if let Effect::Verify { run, .. } = e {
            Some(*run)
        } else {
            None
        }
    })
}

#[test]
fn a_header_that_names_another_set_lets_an_honest_carrier_fail() {
    // The judge cannot decide: it asks for less, and nobody is convicted.
    let mut d = Direct::new(PoolConfig::default());
    d.up(0, 3);
    d.block(0, 1, 0, 500);
    d.block(0, 2, 0, 500);
    let out = d.block(0, 3, 0, 500);
    let run = run_of(&out).unwrap_or(RunId(0));
    let verdict = Verdict {
        shorten: Some(Height::new(1)),
        ..Verdict::default()
    };
    assert!(dropped(&d.feed(Input::Verdict { run, verdict })).is_empty());
}

#[test]
fn a_wrong_genesis_with_only_honest_peers() {
    let outcomes = a_wrong_genesis(|_| {});
    let said = |o: &Outcome| matches!(o, Outcome::Contradiction { fork: None, what } if what.contains("genesis"));
    assert!(outcomes.iter().any(said), "{outcomes:?}");
}

/// Peers 0 and 1 give a first block that does not fit our genesis; then two seconds pass.
fn a_wrong_genesis(prepare: impl FnOnce(&mut Direct)) -> Vec<Outcome> {
    let mut d = Direct::new(PoolConfig::default());
    prepare(&mut d);
    d.up(0, 3);
    d.up(1, 3);
    let mut outcomes = Vec::new();
    d.hedge();
    d.block(0, 2, 0, 500);
    for conn in [0, 1] {
        let out = d.block(conn, 1, 0, 500);
        if let Some(run) = run_of(&out) {
            let unfit = Some(Unfit {
                id: block_id(1, 0),
                what: "validators".into(),
            });
            let out = d.feed(Input::Verdict {
                run,
                verdict: Verdict {
                    unfit,
                    ..Verdict::default()
                },
            });
            assert!(dropped(&out).is_empty());
            outcomes.extend(out);
        }
        outcomes.extend(out);
    }
    outcomes.extend(d.hedge());
    let outcomes = outcomes.into_iter().filter_map(|e| match e {
        Effect::Outcome(outcome) => Some(outcome),
        _ => None,
    });
    outcomes.collect()
}

#[test]
fn a_wrong_genesis_is_no_end_before_each_configured_peer_has_come_or_failed_to() {
    let ends = |configured: &[usize], coming: &[usize]| {
        let ids = |of: &[usize]| of.iter().copied().map(peer_id).collect();
        let (peers, coming) = (ids(configured), ids(coming));
        let outcomes = a_wrong_genesis(|d| drop(d.feed(Input::Expected { peers, coming })));
        let is_final = |o: &Outcome| matches!(o, Outcome::Contradiction { .. });
        outcomes.iter().any(is_final)
    };
    assert!(ends(&[0], &[0]), "it has given its word");
    assert!(!ends(&[0, 7], &[0, 7]), "one is on its way");
    assert!(ends(&[0, 7], &[0]), "one has failed to come");
    assert!(!ends(&[7], &[]), "only strangers say so");
}

#[test]
fn two_candidates_of_one_height_until_one_is_convicted() {
    let mut d = Direct::new(PoolConfig::default());
    d.up(0, 2);
    d.up(1, 2);
    d.hedge();
    d.block(0, 1, 1, 500);
    d.block(1, 1, 0, 500);
    let out = d.block(0, 2, 0, 500);
    let run = run_of(&out).expect("both heights are held");
    let certified = Some((Height::new(1), block_id(1, 0)));
    let out = d.feed(Input::Verdict {
        run,
        verdict: Verdict {
            certified,
            ..Verdict::default()
        },
    });
    assert_eq!(
        dropped(&out),
        [ConnId(0)],
        "the false one's supplier and nobody else"
    );
    assert_eq!(
        d.pool.proven(),
        Height::new(1),
        "the other copy was at hand"
    );
}

#[test]
fn two_full_certificates_of_one_height() {
    let mut d = Direct::new(PoolConfig::default());
    d.up(0, 3);
    d.block(0, 1, 0, 500);
    let out = d.block(0, 2, 0, 500);
    let run = run_of(&out).unwrap();
    let fork = Some(Fork {
        height: Height::new(1),
        ids: [block_id(1, 0), block_id(1, 1)],
    });
    let out = d.feed(Input::Verdict {
        run,
        verdict: Verdict {
            fork,
            ..Verdict::default()
        },
    });
    assert!(dropped(&out).is_empty());
    assert!(
        matches!(
            &out[..],
            [Effect::Outcome(Outcome::Contradiction {
                fork: Some(_),
                ..
            })]
        ),
        "{out:?}"
    );
}

#[test]
fn a_block_of_the_budgets_size_whose_successor_is_needed() {
    let mut config = PoolConfig::default();
    config.budget_bytes = 1000;
    config.first_estimate_bytes = 1000;
    let mut d = Direct::new(config);
    let out = d.up(0, 9);
    let asks = out
        .iter()
        .filter(|e| matches!(e, Effect::Ask { .. }))
        .count();
    assert_eq!(asks, 2, "the two lowest heights are always admitted");
    d.block(0, 1, 0, 1000);
    let out = d.block(0, 2, 0, 1000);
    assert!(run_of(&out).is_some());
    assert!(d.pool.buffered_bytes() <= 3000);
}

#[test]
fn a_committed_encoding_that_is_not_canonical() {
    let mut d = Direct::new(PoolConfig::default());
    d.up(0, 2);
    d.block(0, 1, 0, 500);
    let out = d.block(0, 2, 0, 500);
    let run = run_of(&out).unwrap();
    let mut certified = block_id(1, 0);
    certified.parts.hash = Some(blocksync_types::ids::Hash([7; 32]));
    let out = d.feed(Input::Verdict {
        run,
        verdict: Verdict {
            certified: Some((Height::new(1), certified)),
            ..Verdict::default()
        },
    });
    let exam = out.iter().find_map(|e| {
        if let Effect::Examine { run, .. } = e {
            Some(*run)
        } else {
            None
        }
    });
    let out = d.feed(Input::Examined {
        run: exam.expect("same header, other bytes"),
        guilty: None,
    });
    assert!(dropped(&out).is_empty(), "nobody is banned");
}

#[test]
fn a_peer_that_answers_after_two_minutes() {
    let peers = vec![
        PeerSpec::new(Role::Late(120 * SECOND)),
        PeerSpec::new(Role::Honest),
        PeerSpec::new(Role::Honest),
    ];
    let mut world = World::new(Scenario::new(1, 50, peers));
    world.run_until(|w| w.now > 400 * SECOND);
    assert!(world.applied() >= 49);
    assert!(world.honest_bans().is_empty(), "{:?}", world.honest_bans());
}

/// One peer is asked first and answers nothing; the other one gives everything, what the first was
/// asked for included. Then `late` says how the first answers after all.
fn drops_of_the_first(late: impl FnOnce(&mut Direct)) -> Vec<(ConnId, CloseReason)> {
    let mut d = Direct::new(PoolConfig::default());
    d.up(0, 4);
    let mut asks = d.up(1, 4);
    for _ in 0..3 {
        for effect in std::mem::take(&mut asks) {
            if let Effect::Ask { conn, from, .. } = effect
                && conn == ConnId(1)
            {
                asks.extend(d.block(1, from.get(), 0, 100));
            }
        }
        asks.extend(d.hedge());
    }
    late(&mut d);
    let mut out = Vec::new();
    for _ in 0..4 {
        d.now += SECOND;
        out.extend(d.feed(Input::Tick));
    }
    let drops = out.into_iter().filter_map(|effect| match effect {
        Effect::Drop { conn, reason, .. } => Some((conn, reason)),
        _ => None,
    });
    drops.collect()
}

#[test]
fn who_answers_nothing_is_given_up_though_others_answered_for_it() {
    let drops = drops_of_the_first(|_| {});
    assert_eq!(drops, [(ConnId(0), CloseReason::Overdue(Overdue::Answer))]);
}

#[test]
fn who_answers_late_is_kept_whatever_the_answer() {
    let drops = drops_of_the_first(|d| {
        d.block(0, 1, 0, 100);
    });
    assert_eq!(drops, []);
    let drops = drops_of_the_first(|d| {
        let (conn, height) = (ConnId(0), Height::new(1));
        d.feed(Input::NoBlock { conn, height });
    });
    assert_eq!(drops, []);
}

#[test]
fn twenty_no_blocks_in_a_row_from_an_honest_pruner() {
    let mut d = Direct::new(PoolConfig::default());
    d.up(0, 30);
    for height in 1..=20 {
        let out = d.feed(Input::NoBlock {
            conn: ConnId(0),
            height: Height::new(height),
        });
        assert!(dropped(&out).is_empty(), "{height}");
    }
}

#[test]
fn statuses_eleven_and_ten() {
    let mut d = Direct::new(PoolConfig::default());
    d.up(0, 11);
    let (base, height) = (Height::new(1), Height::new(10));
    let out = d.feed(Input::Status {
        conn: ConnId(0),
        base,
        height,
        max_range: 1,
    });
    assert!(dropped(&out).is_empty());
    assert_eq!(d.pool.target(), Height::new(10));
}

#[test]
fn a_network_that_restarts_at_one_height() {
    let mut d = Direct::new(PoolConfig::default());
    d.feed(Input::Resume {
        applied: Height::new(50),
    });
    let outs: Vec<_> = (0..3).flat_map(|n| d.up(n, 50)).collect();
    let done = outs
        .iter()
        .any(|e| matches!(e, Effect::Outcome(Outcome::CaughtUp { height }) if height.get() == 50));
    assert!(done, "at once: {outs:?}");
}

#[test]
fn a_bad_commit_convicts_its_carrier_and_keeps_the_block_below() {
    let mut d = Direct::new(PoolConfig::default());
    d.up(0, 2);
    d.up(1, 2);
    d.block(0, 1, 0, 500);
    d.block(0, 2, 0, 500);
    let from = blocksync_types::ids::Source {
        peer: peer_id(0),
        conn: ConnId(0),
    };
    let guilty = vec![(
        from,
        Height::new(2),
        Fault::BadCommit(Proof("commit".into())),
    )];
    let out = d.feed(Input::Verdict {
        run: RunId(0),
        verdict: Verdict {
            guilty,
            ..Verdict::default()
        },
    });
    assert_eq!(dropped(&out), [ConnId(0)]);
    let again: Vec<u64> = out
        .iter()
        .filter_map(|e| {
            if let Effect::Ask { from, .. } = e {
                Some(from.get())
            } else {
                None
            }
        })
        .collect();
    assert_eq!(again, [2], "height 1 is not downloaded again");
}

#[test]
fn a_liar_that_hangs_up_before_its_verdict_is_named_and_refused() {
    let mut d = Direct::new(PoolConfig::default());
    d.up(0, 2);
    d.up(1, 2);
    d.block(0, 1, 0, 500);
    d.block(0, 2, 0, 500);
    d.feed(Input::Down { conn: ConnId(0) });
    let (peer, conn) = (peer_id(0), ConnId(0));
    let from = blocksync_types::ids::Source { peer, conn };
    let fault = || Fault::BadCommit(Proof("commit of height 1".into()));
    let verdict = |height| Input::Verdict {
        run: RunId(0),
        verdict: Verdict {
            guilty: vec![(from, Height::new(height), fault())],
            ..Verdict::default()
        },
    };
    let out = d.feed(verdict(2));
    let named = out.iter().find_map(|e| match e {
        Effect::Drop {
            conn: c,
            peer: p,
            reason: r,
            ban_until,
        } if (*c, *p) == (conn, peer) => Some((r.clone(), *ban_until)),
        _ => None,
    });
    let (why, until) = named.expect("the liar is named though it has left");
    assert_eq!(why, fault().into());
    assert!(until.is_some(), "it is refused, too");
    let out = d.feed(verdict(1));
    assert_eq!(
        dropped(&out),
        [],
        "whatever it gave over that connection is paid for"
    );
    let conn = ConnId(7);
    let out = d.feed(Input::Up { conn, peer });
    assert_eq!(dropped(&out), [conn], "the door is closed when it is back");
}

/// Two peers that have said their status and owe nothing.
fn two_idle() -> Direct {
    let mut d = Direct::new(PoolConfig::default());
    for conn in 0..2 {
        let (id, peer) = (ConnId(conn), peer_id(conn as usize));
        assert!(dropped(&d.feed(Input::Up { conn: id, peer })).is_empty());
        d.says_that_it_is_empty(conn);
    }
    d
}

impl Direct {
    /// Tells the pool that connection 0 is silent; returns whether it was dropped.
    fn silent(&mut self, seconds: u64) -> bool {
        let (conn, micros) = (ConnId(0), seconds * SECOND);
        let out = self.feed(Input::Silent { conn, micros });
        for effect in &out {
            if let Effect::Drop { conn, reason, .. } = effect {
                let overdue = CloseReason::Overdue(Overdue::Answer);
                assert_eq!((*conn, reason), (ConnId(0), &overdue));
            }
        }
        !dropped(&out).is_empty()
    }

    fn says_that_it_is_empty(&mut self, conn: u64) {
        let out = self.feed(Input::Status {
            conn: ConnId(conn),
            base: Height::ZERO,
            height: Height::ZERO,
            max_range: 1,
        });
        assert!(dropped(&out).is_empty());
    }

    /// Connection 1 says its status this number of seconds from now.
    fn other_says(&mut self, seconds: u64) {
        self.now += seconds * SECOND;
        self.says_that_it_is_empty(1);
    }
}

#[test]
fn a_connection_that_is_silent_while_others_are_heard_is_dropped_and_may_come_back() {
    let mut d = two_idle();
    d.other_says(4);
    assert!(!d.silent(4), "less than T_req");
    d.other_says(1);
    assert!(d.silent(5));
    let up = |d: &mut Direct, conn| {
        let peer = peer_id(0);
        dropped(&d.feed(Input::Up { conn, peer })).is_empty()
    };
    assert!(!up(&mut d, ConnId(2)), "it is backed off from");
    d.now += PoolConfig::default().back_off;
    assert!(up(&mut d, ConnId(3)), "and not banned");
}

#[test]
fn when_nobody_is_heard_silence_is_borne_longer() {
    let mut d = two_idle();
    for seconds in [5, 10, 15] {
        d.now += 5 * SECOND;
        assert_eq!(d.silent(seconds), seconds == 15, "{seconds} s");
    }
}

#[test]
fn silence_is_not_held_against_who_is_judged_otherwise() {
    // A peer that owes a block: by its debts, which leave more time to the only peer that has it.
    let mut d = Direct::new(PoolConfig::default());
    d.up(0, 3);
    d.up(1, 3);
    d.now += 4 * SECOND;
    d.block(1, 3, 0, 500);
    assert!(d.pool.peers().all(|p| p.conn != ConnId(0) || p.owed > 0));
    assert!(!d.silent(5));
    // A peer that never said its status: by the rounds in which it was asked.
    let mut d = Direct::new(PoolConfig::default());
    let (conn, peer) = (ConnId(0), peer_id(0));
    d.feed(Input::Up { conn, peer });
    let (conn, peer) = (ConnId(1), peer_id(1));
    d.feed(Input::Up { conn, peer });
    d.other_says(5);
    assert!(!d.silent(5));
    // Anybody while it is we who are slow, and right after.
    let mut d = two_idle();
    d.feed(Input::Backpressure { on: true });
    d.other_says(5);
    assert!(!d.silent(5));
    d.feed(Input::Backpressure { on: false });
    assert!(!d.silent(5));
    d.other_says(5);
    assert!(d.silent(5));
}

/// For how long the first one that is dropped is refused.
fn refused_for(out: &[Effect<Body>], now: u64) -> Option<u64> {
    out.iter().find_map(|e| match e {
        Effect::Drop { ban_until, .. } => Some((*ban_until)?.0 - now),
        _ => None,
    })
}

#[test]
fn bans_double_up_to_the_longest_and_are_forgotten_after_good_conduct() {
    let config = PoolConfig::default();
    let mut d = Direct::new(config.clone());
    let offend = |d: &mut Direct, conn: u64| {
        d.up_as(conn, 0, 9);
        let fault = Fault::Malformed(String::new());
        let conn = ConnId(conn);
        let out = d.feed(Input::Malformed { conn, fault });
        let time = refused_for(&out, d.now).unwrap();
        d.now += time;
        time
    };
    for n in 0..10 {
        let expected = (config.ban << n).min(config.ban_max);
        assert_eq!(offend(&mut d, n), expected, "ban {n}");
    }
    // It comes back, is quiet for not quite long enough, and offends once more; then for long
    // enough.
    d.now += config.ban_max - 1;
    assert_eq!(offend(&mut d, 10), config.ban_max);
    d.now += config.ban_max;
    assert_eq!(offend(&mut d, 11), config.ban);
}

#[test]
fn a_back_off_doubles_until_something_is_delivered() {
    let config = PoolConfig::default();
    let mut d = Direct::new(config.clone());
    d.up(1000, 9);
    let fail = |d: &mut Direct, conn: u64, gives: bool| {
        d.up_as(conn, 0, 9);
        if gives {
            let asked = d.pool.peers().find(|p| p.conn == ConnId(conn)).unwrap();
            assert!(asked.owed > 0);
            let next = d.pool.window().filter(|(_, c)| *c == '?').last().unwrap();
            d.block(conn, next.0.get(), 0, 500);
        }
        let (conn, fault) = (ConnId(conn), Fault::Transport("garbled".into()));
        let out = d.feed(Input::Malformed { conn, fault });
        let time = refused_for(&out, d.now).unwrap();
        d.now += time;
        time
    };
    let first = config.back_off;
    let times = [false, false, false, false, true, false].map(|gives| {
        let conn = d.now + 1; // never used before
        fail(&mut d, conn, gives)
    });
    let most = config.back_off_max;
    assert_eq!(times, [first, 2 * first, 4 * first, most, first, 2 * first]);
}

#[test]
fn no_more_bans_are_remembered_than_there_is_room_for() {
    let mut config = PoolConfig::default();
    config.max_records = 3;
    let mut d = Direct::new(config);
    for n in 0..5 {
        d.now += 1;
        d.up(n, 9);
        let (conn, fault) = (ConnId(n), Fault::Malformed(String::new()));
        d.feed(Input::Malformed { conn, fault });
    }
    let refused = |n: u64| {
        d.up_as(10 + n, n, 9);
        !d.pool.peers().any(|p| p.conn == ConnId(10 + n))
    };
    let refused: Vec<bool> = (0..5).map(refused).collect();
    // The ban that ends first is forgotten first.
    assert_eq!(refused, [false, false, true, true, true]);
}

#[test]
fn after_a_stall_or_a_suspend_everybody_has_another_round() {
    let timeout = PoolConfig::default().request_timeout;
    for suspended in [false, true] {
        let mut d = Direct::new(PoolConfig::default());
        d.up(0, 9);
        d.up(1, 9);
        if suspended {
            d.now = 3600 * SECOND;
        } else {
            d.now = SECOND;
            d.feed(Input::Backpressure { on: true });
            d.now = timeout - 1;
            d.feed(Input::Backpressure { on: false });
        }
        let end = d.now + timeout;
        let mut at_end = |now: u64| {
            d.now = now;
            dropped(&d.feed(Input::Tick)).len()
        };
        assert_eq!(at_end(end - timeout + 1), 0);
        assert_eq!(at_end(end - 1), 0, "suspended: {suspended}");
        assert_eq!(at_end(end + timeout), 1, "and then one of the two is late");
    }
}

#[test]
fn a_tip_that_may_come_with_its_own_commit_is_waited_for() {
    // Nodes of ours answer ranges, and send the commit for their highest block beside it.
    for (max_range, waits) in [(64, true), (1, false)] {
        let mut d = Direct::new(PoolConfig::default());
        d.feed(Input::Applied {
            through: Height::new(2),
        });
        let mut out = Vec::new();
        for n in 0..3 {
            let (conn, peer) = (ConnId(n), peer_id(n as usize));
            d.feed(Input::Up { conn, peer });
            let (base, height) = (Height::new(1), Height::new(3));
            out.extend(d.feed(Input::Status {
                conn,
                base,
                height,
                max_range,
            }));
        }
        d.now += 3 * SECOND;
        out.extend(d.feed(Input::Tick));
        let says = |e: &Effect<Body>| matches!(e, Effect::Outcome(Outcome::CaughtUp { .. }));
        assert_eq!(out.iter().any(says), !waits, "{max_range}");
    }
}

#[test]
fn whom_we_leave_unread_over_the_budget_is_not_late() {
    let mut config = PoolConfig::default();
    config.budget_bytes = 1 << 20;
    let timeout = config.request_timeout;
    let mut d = Direct::new(config);
    for conn in 0..3 {
        d.up(conn, 9); // two heights are asked of each, the lowest of the first
    }
    let out = d.feed(Input::Receiving {
        conn: ConnId(2),
        bytes: 2 << 20,
    });
    let only_the_first = Effect::Read(Reading::Only(vec![ConnId(0)]));
    assert!(out.contains(&only_the_first), "{out:?}");
    d.now += timeout;
    assert_eq!(dropped(&d.feed(Input::Tick)), [ConnId(0)]);
}

fn asked(out: &[Effect<Body>]) -> Vec<Height> {
    let of = |e: &Effect<Body>| match e {
        Effect::Ask { from, .. } => Some(*from),
        _ => None,
    };
    out.iter().filter_map(of).collect()
}

/// A copy that nothing links says what its supplier gives, and nothing of the chain. The blocks
/// that this connection owes are expected to be as large, and hold back half of the budget at most.
#[test]
fn a_size_that_nobody_has_proven_does_not_shrink_the_window_of_all() {
    let budget = 256 << 20;
    let mut config = PoolConfig::default();
    config.budget_bytes = budget;
    config.prove_claims_above = u32::MAX;
    let mut d = Direct::new(config);
    let owed = asked(&d.up(0, 5000));
    assert_eq!(owed, [Height::new(1), Height::new(2)]);
    d.up(1, 5000);
    let out = d.block(0, 2, 9, 60 << 20);
    assert!(!asked(&out).is_empty(), "it is asked for more: {out:?}");
    for conn in 2..20 {
        let out = d.up(conn, 5000);
        assert_eq!(asked(&out).len(), 2, "connection {conn}: {out:?}");
    }
    // The same size, proven, is expected of everybody.
    let out = d.block(0, 1, 0, 60 << 20);
    let run = run_of(&out).expect("a block and its successor");
    d.feed(Input::Verdict {
        run,
        verdict: Verdict {
            certified: Some((Height::new(1), block_id(1, 0))),
            ..Verdict::default()
        },
    });
    assert_eq!(asked(&d.up(20, 5000)), []);
    assert!(d.pool.buffered_bytes() <= budget);
}
