//! Tests of what is asked: ranges, the byte budget, and answers that come late.

use super::tests::{TestPool, block_of, feed_at};
use super::*;
use blocksync_types::ids::PeerId;
use std::collections::BTreeSet;

const SECOND: u64 = 1_000_000;
const CONN: ConnId = ConnId(0);

/// This many connections with blocks 1 to `height`, and what they were asked for.
fn pool(
    config: PoolConfig,
    peers: u64,
    height: u64,
    max_range: u32,
) -> (TestPool, Vec<Effect<()>>) {
    let mut pool = TestPool::new(config, Height::ZERO, Height::new(1), Tick(0));
    let mut done = Vec::new();
    for n in 0..peers {
        let (conn, peer) = (ConnId(n), PeerId([1 + n as u8; 20]));
        done.extend(feed_at(&mut pool, 0, Input::Up { conn, peer }));
        let status = Input::Status {
            conn,
            base: Height::new(1),
            height: Height::new(height),
            max_range,
        };
        done.extend(feed_at(&mut pool, 0, status));
    }
    (pool, done)
}

/// The heights and the length of each request.
fn asks(out: &[Effect<()>]) -> Vec<(u64, u32)> {
    let asks = out.iter().filter_map(|effect| match effect {
        Effect::Ask { from, count, .. } => Some((from.get(), *count)),
        _ => None,
    });
    asks.collect()
}

fn dropped(out: &[Effect<()>]) -> usize {
    let drops = out.iter().filter(|e| matches!(e, Effect::Drop { .. }));
    drops.count()
}

fn small() -> PoolConfig {
    PoolConfig {
        budget_bytes: 20_000,
        first_estimate_bytes: 1000,
        prove_claims_above: 1 << 20,
        ..PoolConfig::default()
    }
}

#[test]
fn ranges_are_whole_and_within_the_budget() {
    let (mut pool, mut done) = pool(small(), 1, 1000, 8);
    done.extend(feed_at(&mut pool, 10, block_of(CONN, 1, 100)));
    let asked = asks(&done);
    let heights: Vec<u64> = asked
        .iter()
        .flat_map(|(from, count)| *from..from + u64::from(*count))
        .collect();
    let distinct: BTreeSet<u64> = heights.iter().copied().collect();
    assert_eq!(distinct.len(), heights.len(), "each once: {asked:?}");
    assert!(asked.iter().any(|(_, count)| *count == 8), "{asked:?}");
    assert!(asked.iter().all(|(_, count)| *count <= 8), "{asked:?}");
    // 100 bytes are here: 19 blocks of the expected size fit beside them.
    assert_eq!(pool.owed(), 19);
    assert_eq!(
        distinct.into_iter().collect::<Vec<_>>(),
        (1..=20).collect::<Vec<_>>()
    );
}

#[test]
fn what_half_of_the_peers_have_may_fill_the_whole_budget() {
    let config = PoolConfig {
        budget_bytes: 4000,
        ..small()
    };
    let (pool, _) = pool(config.clone(), 4, 4, 1);
    assert_eq!(pool.owed(), 4);
    let config = PoolConfig {
        budget_bytes: 3999,
        ..config
    };
    let (pool, _) = self::pool(config, 4, 4, 1);
    assert_eq!(pool.owed(), 3);
}

#[test]
fn the_two_lowest_are_asked_for_whatever_the_budget_says() {
    let config = PoolConfig {
        budget_bytes: 1,
        ..small()
    };
    let (mut pool, done) = pool(config, 3, 9, 1);
    assert_eq!(asks(&done), [(1, 1), (2, 1)]);
    // They are held, too, and one copy of each.
    feed_at(&mut pool, 1, block_of(CONN, 1, 5000));
    feed_at(&mut pool, 1, block_of(CONN, 2, 5000));
    assert_eq!(pool.buffered_bytes(), 10_000);
    assert_eq!(pool.owed(), 0, "and nothing above them");
}

#[test]
fn a_copy_that_came_is_no_answer_to_the_next_request() {
    let (mut pool, _) = pool(small(), 1, 9, 1);
    assert_eq!(dropped(&feed_at(&mut pool, 1, block_of(CONN, 1, 1000))), 0);
    assert_eq!(
        dropped(&feed_at(&mut pool, 1, block_of(CONN, 1, 1000))),
        1,
        "unasked"
    );
}

#[test]
fn a_late_answer_gives_its_sender_time_for_the_others() {
    let config = small();
    let timeout = config.request_timeout;
    let (mut pool, done) = pool(config, 2, 2, 1);
    assert_eq!(asks(&done).len(), 2);
    // The slow one is helped out by the other.
    let owed = |pool: &TestPool, conn| {
        let mut views = pool.peers();
        views.find(|view| view.conn == conn).map(|view| view.owed)
    };
    let mut hedged = Vec::new();
    for now in (0..timeout - SECOND).step_by(SECOND as usize / 10) {
        hedged.extend(asks(&feed_at(&mut pool, now, Input::Tick)));
    }
    assert!(!hedged.is_empty());
    let before = [CONN, ConnId(1)].map(|conn| owed(&pool, conn));
    assert!(before.iter().all(|owed| *owed > Some(0)), "{before:?}");
    // One answers for both; the other one's answers are late.
    let late = timeout - SECOND / 2;
    for height in 1..=2 {
        feed_at(&mut pool, late, block_of(CONN, height, 1000));
    }
    let mut gone = dropped(&feed_at(&mut pool, late, block_of(ConnId(1), 1, 1000)));
    gone += dropped(&feed_at(&mut pool, timeout + SECOND, Input::Tick));
    assert_eq!(gone, 0, "it is at work");
    let out = feed_at(&mut pool, timeout + SECOND, block_of(ConnId(1), 2, 1000));
    assert_eq!(dropped(&out), 0, "and may send what it was asked for");
}

#[test]
fn a_send_that_failed_is_made_again_elsewhere_and_held_against_nobody() {
    let (mut pool, done) = pool(small(), 1, 2, 1);
    let ask = done.iter().find_map(|effect| match effect {
        Effect::Ask { ask, .. } => Some(*ask),
        _ => None,
    });
    let ask = ask.expect("it is asked");
    let (before, poll) = (pool.owed(), pool.next_deadline());
    feed_at(&mut pool, 1, Input::SendFailed { ask });
    assert_eq!(pool.owed(), before - 1);
    assert!(poll.is_some());
    // It is asked for its status soon, and for the block after that.
    let mut statuses = 0;
    for now in (1..=3 * SECOND).step_by(SECOND as usize / 10) {
        let out = feed_at(&mut pool, now, Input::Tick);
        statuses += out
            .iter()
            .filter(|e| matches!(e, Effect::AskStatus { .. }))
            .count();
        assert_eq!(dropped(&out), 0);
    }
    assert_eq!(statuses, 1);
}

/// The copies prove nothing, and convict nobody: the one that held the commit is asked of another.
#[test]
fn a_run_that_says_nothing_costs_its_carrier() {
    let (mut pool, _) = pool(small(), 2, 2, 1);
    let mut out = Vec::new();
    for height in 1..=2 {
        let owes = |view: &PeerView| pool.peers.get(view.conn).is_some_and(|p| p.owes());
        let owing: Vec<ConnId> = pool.peers().filter(owes).map(|view| view.conn).collect();
        let has = |conn: &ConnId| {
            let peer = pool.peers.get(*conn);
            peer.is_some_and(|p| p.ask_for(Height::new(height)).is_some())
        };
        let conn = owing.into_iter().find(has).expect("it is asked");
        out.extend(feed_at(&mut pool, 1, block_of(conn, height, 100)));
    }
    let run = out.iter().find_map(|effect| match effect {
        Effect::Verify { run, .. } => Some(*run),
        _ => None,
    });
    let verdict = Verdict::default();
    let run = run.expect("the first block is proven by the second");
    let out = feed_at(&mut pool, 2, Input::Verdict { run, verdict });
    assert_eq!((dropped(&out), asks(&out)), (0, vec![(2, 1)]));
    assert_eq!(pool.buffered_bytes(), 100);
}

#[test]
fn a_peer_that_never_tells_its_status_is_dropped_after_its_rounds() {
    let config = PoolConfig::default();
    let (interval, rounds) = (config.status_interval, u64::from(config.status_rounds));
    let mut pool = TestPool::new(config, Height::ZERO, Height::new(1), Tick(0));
    let (conn, peer) = (CONN, PeerId([1; 20]));
    feed_at(&mut pool, 0, Input::Up { conn, peer });
    let (mut polls, mut gone) = (Vec::new(), None);
    for now in (0..=2 * rounds * interval).step_by(SECOND as usize) {
        let out = feed_at(&mut pool, now, Input::Tick);
        if out.contains(&Effect::AskStatus { conn }) {
            polls.push(now / interval);
        }
        if dropped(&out) > 0 {
            gone.get_or_insert(now);
        }
    }
    assert_eq!(polls, (1..=rounds).collect::<Vec<_>>());
    assert_eq!(gone, Some((rounds + 1) * interval));
}

#[test]
fn a_drip_earns_the_time_that_its_bytes_would_take_at_the_floor_rate() {
    let config = PoolConfig {
        floor_rate: 1000,
        ..small()
    };
    let timeout = config.request_timeout;
    for (bytes, more) in [(0, 0), (1000, SECOND), (100_000, timeout - SECOND)] {
        let (mut pool, _) = pool(config.clone(), 2, 9, 1);
        let at = timeout - SECOND;
        feed_at(&mut pool, at, Input::Unread { conn: ConnId(1) });
        feed_at(&mut pool, at, Input::Receiving { conn: CONN, bytes });
        let mut gone = None;
        for now in (at..=2 * timeout).step_by(SECOND as usize / 10) {
            if dropped(&feed_at(&mut pool, now, Input::Unread { conn: ConnId(1) })) > 0 {
                gone.get_or_insert(now);
            }
        }
        assert_eq!(gone, Some(timeout + more), "{bytes} bytes");
    }
}

#[test]
fn a_poll_is_not_missed_while_we_are_the_bottleneck() {
    let config = PoolConfig::default();
    let end = 10 * config.status_interval;
    let mut pool = TestPool::new(config, Height::ZERO, Height::new(1), Tick(0));
    let (conn, peer) = (CONN, PeerId([1; 20]));
    feed_at(&mut pool, 0, Input::Up { conn, peer });
    feed_at(&mut pool, 0, Input::Backpressure { on: true });
    let gone = (0..=end).step_by(SECOND as usize);
    let gone: usize = gone
        .map(|now| dropped(&feed_at(&mut pool, now, Input::Tick)))
        .sum();
    assert_eq!(gone, 0);
}

/// Seventy connections lack height 5. The only one that has it lacks another one, and comes after
/// them in each order; when it has room again it is asked all the same.
#[test]
fn a_height_goes_to_the_one_that_brought_it_back_beyond_all_others_that_are_tried() {
    let config = PoolConfig {
        asks_per_peer: 1,
        ..small()
    };
    let mut pool = TestPool::new(config, Height::ZERO, Height::new(1), Tick(0));
    feed_at(&mut pool, 0, Input::Pause);
    for n in 0..=70 {
        let (conn, peer) = (ConnId(n), PeerId([1 + n as u8; 20]));
        feed_at(&mut pool, 0, Input::Up { conn, peer });
        let status = Input::Status {
            conn,
            base: Height::new(1),
            height: Height::new(5),
            max_range: 1,
        };
        feed_at(&mut pool, 0, status);
        let lacks = Height::new(if conn == CONN { 4 } else { 5 });
        let lack = |peer: &mut peer::Peer| peer.lack(lacks, Height::new(5), Tick(0));
        pool.peers.update(conn, 1000, lack);
    }
    let applied = Height::ZERO;
    let out = feed_at(&mut pool, 0, Input::Resume { applied });
    assert_eq!(asks(&out), [(1, 1), (2, 1), (3, 1), (4, 1)]);
    let out = feed_at(&mut pool, SECOND, block_of(CONN, 1, 1000));
    let asked = out.iter().find_map(|effect| match effect {
        Effect::Ask { conn, from, .. } => Some((*conn, *from)),
        _ => None,
    });
    assert_eq!(asked, Some((CONN, Height::new(5))));
}

/// Over budget one owes the lowest heights and is silent. A second one is asked for the lowest,
/// and has its time from then on, whatever it owed before.
#[test]
fn a_second_connection_that_is_read_over_the_budget_has_its_time_from_then_on() {
    let config = PoolConfig {
        budget_bytes: 1_000_000,
        ..small()
    };
    let (mut pool, _) = pool(config, 3, 100, 1);
    let owes = |pool: &TestPool, n: u64| -> Vec<u64> {
        let peer = pool.peers.get(ConnId(n)).expect("it is there");
        peer.owed().keys().map(|height| height.get()).collect()
    };
    assert_eq!([owes(&pool, 0), owes(&pool, 1)], [[1, 2], [3, 4]]);
    let much = Input::Receiving {
        conn: CONN,
        bytes: 2_000_000,
    };
    let out = feed_at(&mut pool, 0, much);
    assert!(out.contains(&Effect::Read(Reading::Only(vec![CONN]))));
    let out = feed_at(&mut pool, 4 * SECOND, Input::Tick);
    let both = Reading::Only(vec![CONN, ConnId(1)]);
    assert!(out.contains(&Effect::Read(both)), "{out:?}");
    let gone = |out: &[Effect<()>]| -> Vec<ConnId> {
        let gone = out.iter().filter_map(|effect| match effect {
            Effect::Drop { conn, .. } => Some(*conn),
            _ => None,
        });
        gone.collect()
    };
    let out = feed_at(&mut pool, 6 * SECOND, Input::Tick);
    assert_eq!(gone(&out), [CONN], "silent for 5 s");
    let out = feed_at(&mut pool, 9 * SECOND, Input::Tick);
    assert_eq!(gone(&out), [ConnId(1)], "silent for 5 s since it is read");
}
