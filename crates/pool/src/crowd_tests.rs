//! Tests with crowds of connections: one word for all of them, and searches that end.

use super::tests::{TestPool, block_of, feed_at, id};
use super::*;
use blocksync_types::ids::{ConnId, PeerId};
use std::collections::{BTreeMap, VecDeque};

const MANY: u64 = 300;

fn coming(n: u64) -> Input<()> {
    let mut peer = [0; 20];
    peer[..8].copy_from_slice(&n.to_be_bytes());
    let (conn, peer) = (ConnId(n), PeerId(peer));
    Input::Up { conn, peer }
}

fn claim_of(n: u64, height: u64) -> Input<()> {
    Input::Status {
        conn: ConnId(n),
        base: Height::new(height.min(1)),
        height: Height::new(height),
        max_range: 1,
    }
}

fn up(pool: &mut TestPool, n: u64, now: u64) -> Vec<Effect<()>> {
    feed_at(pool, now, coming(n))
}

fn claims(pool: &mut TestPool, n: u64, height: u64, now: u64) -> Vec<Effect<()>> {
    feed_at(pool, now, claim_of(n, height))
}

/// A pool with a crowd of connections, each with its claim, and the effects of their coming.
fn crowd(config: PoolConfig, claim: impl Fn(u64) -> u64) -> (TestPool, Vec<Effect<()>>) {
    let mut pool = TestPool::new(config, Height::ZERO, Height::new(1), Tick(0));
    let mut done = Vec::new();
    for n in 0..MANY {
        for input in [coming(n), claim_of(n, claim(n))] {
            pool.handle(input, Tick(0), &mut done);
        }
    }
    // Once: a look at the whole crowd for each of its members takes most of a test's time.
    pool.check();
    (pool, done)
}

/// Requests: which connection was asked for which heights.
fn asked(effects: &[Effect<()>]) -> Vec<(ConnId, Height)> {
    let asks = effects.iter().filter_map(|e| match e {
        Effect::Ask { conn, from, .. } => Some((*conn, *from)),
        _ => None,
    });
    asks.collect()
}

fn readings(effects: &[Effect<()>]) -> Vec<&Reading> {
    let readings = effects.iter().filter_map(|e| match e {
        Effect::Read(reading) => Some(reading),
        _ => None,
    });
    readings.collect()
}

fn dropped(effects: &[Effect<()>]) -> Vec<ConnId> {
    let drops = effects.iter().filter_map(|e| match e {
        Effect::Drop { conn, .. } => Some(*conn),
        _ => None,
    });
    drops.collect()
}

fn small_budget() -> PoolConfig {
    PoolConfig {
        budget_bytes: 1_000_000,
        first_estimate_bytes: 1000,
        window: 600,
        ..PoolConfig::default()
    }
}

#[test]
fn one_word_pauses_all_but_those_that_owe_the_two_lowest() {
    let (mut pool, done) = crowd(small_budget(), |_| 1 << 20);
    let lowest = asked(&done).into_iter().filter(|(_, h)| h.get() <= 2);
    let mut lowest: Vec<ConnId> = lowest.map(|(conn, _)| conn).collect();
    lowest.sort_unstable();
    lowest.dedup();
    let conn = ConnId(MANY - 1);
    let much = Input::Receiving {
        conn,
        bytes: 2_000_000,
    };
    let out = feed_at(&mut pool, 1, much);
    assert_eq!(readings(&out), [&Reading::Only(lowest)]);
    assert_eq!(out.len(), 1, "nothing for each connection: {out:?}");
    let out = feed_at(&mut pool, 2, Input::Receiving { conn, bytes: 0 });
    assert_eq!(readings(&out), [&Reading::All]);
    assert_eq!(out.len(), 1, "nothing for each connection: {out:?}");
}

#[test]
fn who_was_not_read_has_its_time_again_and_who_was_has_not() {
    let (mut pool, done) = crowd(small_budget(), |_| 1 << 20);
    let head = asked(&done).iter().find(|(_, h)| h.get() == 1).map(|a| a.0);
    let head = head.expect("the lowest height is asked for");
    let conn = ConnId(MANY - 1);
    let second = 1_000_000;
    let over = Input::Receiving {
        conn,
        bytes: 2_000_000,
    };
    feed_at(&mut pool, second, over);
    feed_at(&mut pool, 4 * second, Input::Receiving { conn, bytes: 0 });
    // Everything was asked at 0, and is overdue after 5 s.
    let mut gone = Vec::new();
    let mut tick = |pool: &mut TestPool, now| {
        while pool.next_deadline().is_some_and(|at| at <= Tick(now)) {
            gone.extend(dropped(&feed_at(pool, now, Input::Tick)));
        }
        gone.clone()
    };
    let first = tick(&mut pool, 6 * second);
    assert!(first.contains(&head), "read all through, and silent");
    assert!(first.len() <= 4, "not read for 3 s of the 5: {first:?}");
    let then = tick(&mut pool, 10 * second);
    assert!(then.len() > 200, "silent for 5 s: {}", then.len());
}

#[test]
fn over_budget_all_are_read_while_nobody_owes_what_is_waited_for() {
    // The only one that has what is wanted owes all it may: were it unread, it would never have
    // room again.
    let config = PoolConfig {
        asks_per_peer: 1,
        ..small_budget()
    };
    let (mut pool, done) = crowd(config, |n| if n == 0 { 9 } else { 0 });
    assert_eq!(asked(&done), [(ConnId(0), Height::new(1))]);
    let conn = ConnId(1);
    let much = Input::Receiving {
        conn,
        bytes: 2_000_000,
    };
    let out = feed_at(&mut pool, 1, much);
    assert_eq!(readings(&out), Vec::<&Reading>::new(), "all are read");
}

#[test]
fn timers_of_a_crowd_are_worked_off_in_turns() {
    let (mut pool, _) = crowd(PoolConfig::default(), |_| 0);
    let now = PoolConfig::default().status_interval;
    let (mut turns, mut asks) = (0, 0);
    while pool.next_deadline().is_some_and(|at| at <= Tick(now)) {
        let out = feed_at(&mut pool, now, Input::Tick);
        let statuses = out.iter().filter(|e| matches!(e, Effect::AskStatus { .. }));
        let count = statuses.count() as u64;
        assert!(count <= 64, "{count} in one turn");
        (turns, asks) = (turns + 1, asks + count);
    }
    assert_eq!(asks, MANY, "each is asked once, in {turns} turns");
}

#[test]
fn at_the_tip_statuses_are_asked_for_a_second_after_the_last() {
    let config = PoolConfig {
        status_interval_at_tip: 200_000,
        settle: 0,
        ..PoolConfig::default()
    };
    let at_tip = Some(Tick(config.status_interval_at_tip));
    let (mut pool, done) = crowd(config, |_| 1);
    let caught_up = Effect::Outcome(Outcome::CaughtUp {
        height: Height::ZERO,
    });
    assert!(done.contains(&caught_up));
    assert_eq!(pool.next_deadline(), at_tip);
    // A claim alone does not make us leave the tip, but what proves it does: nobody is asked sooner
    // for it, and nobody later.
    claims(&mut pool, 0, 3, 10);
    assert_eq!(pool.next_deadline(), at_tip);
    let out = [1, 2].map(|height| feed_at(&mut pool, 20, block_of(ConnId(0), height, 1000)));
    let run = out.iter().flatten().find_map(|e| match e {
        Effect::Verify { run, .. } => Some(*run),
        _ => None,
    });
    let verdict = Verdict {
        certified: Some((Height::new(1), id(1))),
        ..Verdict::default()
    };
    let run = run.expect("two linked blocks are proven");
    assert!(out[1].contains(&Effect::Outcome(Outcome::Syncing)));
    feed_at(&mut pool, 30, Input::Verdict { run, verdict });
    assert!(pool.next_deadline() > at_tip);
    let through = Height::new(1);
    feed_at(&mut pool, 40, Input::Applied { through });
    let out = claims(&mut pool, 0, 2, 50);
    let caught_up = Effect::Outcome(Outcome::CaughtUp { height: through });
    assert!(out.contains(&caught_up), "{out:?}");
    assert_eq!(pool.next_deadline(), at_tip);
}

#[test]
fn a_height_finds_the_one_that_has_it_among_many_that_claim_less() {
    let (mut pool, _) = crowd(PoolConfig::default(), |_| 5);
    // All have room; the one that has more comes last by every order but its claim.
    up(&mut pool, MANY, 0);
    let out = claims(&mut pool, MANY, 7, 0);
    let asked: Vec<_> = asked(&out).into_iter().map(|(conn, _)| conn).collect();
    assert_eq!(asked, [ConnId(MANY); 2], "6 and 7");
}

#[test]
fn a_height_finds_the_one_that_has_it_among_many_that_lack_it() {
    let config = PoolConfig {
        asks_per_peer: 1,
        ..PoolConfig::default()
    };
    let (mut pool, mut done) = crowd(config, |_| 1);
    let conn = ConnId(MANY - 1);
    let mut refusals = 0;
    while let Some((asked_of, height)) = asked(&done).pop() {
        if asked_of == conn {
            return;
        }
        refusals += 1;
        let no = Input::NoBlock {
            conn: asked_of,
            height,
        };
        done = feed_at(&mut pool, refusals, no);
    }
    panic!("after {refusals} refusals nobody is asked any more");
}

#[test]
fn a_first_block_that_does_not_fit_is_asked_of_each_once_and_then_said() {
    let (mut pool, mut done) = crowd(PoolConfig::default(), |_| 2);
    let mut asks = BTreeMap::<ConnId, u32>::new();
    let mut todo = VecDeque::new();
    let mut steps = 0;
    loop {
        for effect in std::mem::take(&mut done) {
            match effect {
                Effect::Ask { conn, from, .. } => {
                    *asks.entry(conn).or_default() += u32::from(from.get() == 1);
                    todo.push_back(block_of(conn, from.get(), 1000));
                }
                Effect::Verify { run, .. } => {
                    let unfit = Some(Unfit {
                        id: id(1),
                        what: "app hash".into(),
                    });
                    let verdict = Verdict {
                        unfit,
                        ..Verdict::default()
                    };
                    todo.push_back(Input::Verdict { run, verdict });
                }
                Effect::Outcome(Outcome::Contradiction { what, .. }) => {
                    assert!(what.contains("genesis or application differs"), "{what}");
                    assert_eq!(asks.len() as u64, MANY, "everybody was asked");
                    assert!(asks.values().all(|n| *n == 1), "and once: {asks:?}");
                    return;
                }
                _ => {}
            }
        }
        steps += 1;
        assert!(steps < 10 * MANY, "it goes on for ever");
        // When all have said the same, those who may still come have their time.
        let settled = PoolConfig::default().settle;
        let (now, input) = todo
            .pop_front()
            .map_or((settled, Input::Tick), |input| (steps, input));
        done = feed_at(&mut pool, now, input);
    }
}
