//! Tests of what is said of the whole: stalls, their reasons, and who is waited for.

use super::tests::{TestPool, block_of, feed_at, id};
use super::*;
use blocksync_types::ids::PeerId;

const SECOND: u64 = 1_000_000;
const CONN: ConnId = ConnId(0);

fn up(pool: &mut TestPool, n: u64, now: u64) -> Vec<Effect<()>> {
    let (conn, peer) = (ConnId(n), PeerId([1 + n as u8; 20]));
    feed_at(pool, now, Input::Up { conn, peer })
}

fn status(pool: &mut TestPool, n: u64, range: (u64, u64), now: u64) -> Vec<Effect<()>> {
    let (base, height) = (Height::new(range.0), Height::new(range.1));
    let (conn, max_range) = (ConnId(n), 1);
    feed_at(
        pool,
        now,
        Input::Status {
            conn,
            base,
            height,
            max_range,
        },
    )
}

/// A pool with one peer that claims this height, from whom the first heights are asked.
fn with_peer(config: PoolConfig, height: u64) -> TestPool {
    let mut pool = TestPool::new(config, Height::ZERO, Height::new(1), Tick(0));
    up(&mut pool, 0, 0);
    status(&mut pool, 0, (1, height), 0);
    pool
}

/// All outcomes until then, with a tick each tenth of a second.
fn until(pool: &mut TestPool, from: u64, to: u64) -> Vec<(u64, Outcome)> {
    let mut said = Vec::new();
    for now in (from..=to).step_by(SECOND as usize / 10) {
        for effect in feed_at(pool, now, Input::Tick) {
            if let Effect::Outcome(outcome) = effect {
                said.push((now, outcome));
            }
        }
    }
    said
}

fn certify(pool: &mut TestPool, run: u64, height: u64, now: u64) -> Vec<Effect<()>> {
    let certified = Some((Height::new(height), id(height)));
    let verdict = Verdict {
        certified,
        ..Verdict::default()
    };
    let run = RunId(run);
    feed_at(pool, now, Input::Verdict { run, verdict })
}

#[test]
fn without_anybody_that_is_said_after_its_time_and_not_before() {
    let config = PoolConfig::default();
    let (from, at) = (config.settle, config.no_peers);
    let mut pool = TestPool::new(config, Height::ZERO, Height::new(1), Tick(0));
    let said = until(&mut pool, 0, at + 5 * SECOND);
    assert_eq!(said, [(0, Outcome::Syncing), (at, Outcome::NoUsablePeers)]);
    assert!(from < at);
}

#[test]
fn our_own_work_is_waited_for_when_everybody_has_left() {
    let config = PoolConfig::default();
    let (no_peers, stalled) = (config.no_peers, config.no_progress);
    let mut pool = with_peer(config, 3);
    for height in 1..=2 {
        feed_at(&mut pool, 0, block_of(CONN, height, 100));
    }
    feed_at(&mut pool, 0, Input::Down { conn: CONN });
    let later = 2 * (no_peers + stalled);
    assert_eq!(until(&mut pool, 0, later), [], "with the verifier");
    certify(&mut pool, 0, 1, later);
    assert_eq!(pool.applying(), 1);
    let end = 2 * later;
    assert_eq!(until(&mut pool, later, end), [], "with the executor");
    let through = Height::new(1);
    feed_at(&mut pool, end, Input::Applied { through });
    let said = until(&mut pool, end, 2 * end);
    assert_eq!(said, [(end + no_peers, Outcome::NoUsablePeers)]);
}

#[test]
fn what_is_owed_may_come_though_its_peer_claims_it_no_more() {
    let config = PoolConfig {
        no_peers: SECOND,
        ..PoolConfig::default()
    };
    let timeout = config.request_timeout;
    let mut pool = TestPool::new(config, Height::new(5), Height::new(1), Tick(0));
    up(&mut pool, 0, 0);
    status(&mut pool, 0, (1, 8), 0);
    status(&mut pool, 0, (1, 4), 0);
    assert!(pool.owed() > 0);
    // The only one: it has twice the time, and then its requests are given up.
    let said = until(&mut pool, 0, 4 * timeout);
    let (at, outcome) = said.first().expect("nobody has it in the end");
    assert_eq!(*outcome, Outcome::NoUsablePeers, "{said:?}");
    assert!(*at >= timeout, "owed until {timeout}: {said:?}");
}

#[test]
fn a_stall_names_the_height_that_is_missing() {
    let config = PoolConfig {
        request_timeout: 1000 * SECOND,
        ..PoolConfig::default()
    };
    let at = config.no_progress;
    for (held, missing) in [(None, 1), (Some(2), 1), (Some(1), 2)] {
        let mut pool = with_peer(config.clone(), 3);
        if let Some(height) = held {
            feed_at(&mut pool, 0, block_of(CONN, height, 100));
        }
        let why = Stall::NoBlock(Height::new(missing));
        let said = until(&mut pool, 0, at + SECOND);
        assert_eq!(said, [(at, Outcome::Stalled { why })], "with {held:?}");
    }
}

#[test]
fn copies_that_cannot_be_proven_are_a_stall_of_their_own() {
    let mut pool = with_peer(PoolConfig::default(), 2);
    for height in 1..=2 {
        feed_at(&mut pool, 0, block_of(CONN, height, 100));
    }
    // The run is over, and a second one waits for what never comes.
    pool.prover.end(RunId(0), Tick(0));
    pool.prover.await_applied();
    pool.window
        .update(Height::new(1), slot::Slot::end_verifying);
    let at = PoolConfig::default().no_progress;
    let said = until(&mut pool, 0, at + SECOND);
    let why = Stall::Unproven(Height::new(1));
    assert_eq!(said, [(at, Outcome::Stalled { why })]);
}

#[test]
fn while_we_are_the_bottleneck_nothing_is_a_stall() {
    let config = PoolConfig::default();
    let at = config.no_progress;
    let mut pool = with_peer(config, 3);
    feed_at(&mut pool, 0, Input::Backpressure { on: true });
    assert_eq!(until(&mut pool, 0, 3 * at), []);
    feed_at(&mut pool, 3 * at, Input::Backpressure { on: false });
    assert_eq!(
        until(&mut pool, 3 * at, 4 * at - SECOND),
        [],
        "nor right after"
    );
}

#[test]
fn until_ends_at_its_height() {
    let config = PoolConfig {
        until: Some(Height::new(1)),
        ..PoolConfig::default()
    };
    let mut pool = with_peer(config, 9);
    assert_eq!(pool.owed(), 2, "its block, and the one that proves it");
    for height in 1..=2 {
        feed_at(&mut pool, 0, block_of(CONN, height, 100));
    }
    certify(&mut pool, 0, 1, 0);
    let height = Height::new(1);
    let out = feed_at(&mut pool, 0, Input::Applied { through: height });
    assert!(out.contains(&Effect::Outcome(Outcome::ReachedTarget { height })));
}

#[test]
fn caught_up_needs_one_that_is_where_we_are_and_enough_that_say_so() {
    let config = PoolConfig::default();
    let (settle, statuses) = (config.settle, u64::from(config.statuses));
    // Enough statuses, and blocks somewhere: at once. The initial height is ours to have.
    let mut pool = TestPool::new(config.clone(), Height::ZERO, Height::new(1), Tick(0));
    let height = Height::ZERO;
    let mut out = Vec::new();
    for n in 0..statuses {
        assert_eq!(
            out.iter()
                .find(|e| matches!(e, Effect::Outcome(Outcome::CaughtUp { .. }))),
            None
        );
        up(&mut pool, n, 0);
        out = status(&mut pool, n, (1, 1), 0);
    }
    assert!(out.contains(&Effect::Outcome(Outcome::CaughtUp { height })));
    // One alone says it after the settle time.
    let mut pool = with_peer(config.clone(), 1);
    assert_eq!(
        until(&mut pool, 0, 2 * settle),
        [(settle, Outcome::CaughtUp { height })]
    );
    // Somebody without a status may have more, until the settle time is over.
    let mut pool = TestPool::new(config.clone(), Height::ZERO, Height::new(1), Tick(0));
    (0..=statuses).for_each(|n| drop(up(&mut pool, n, 0)));
    (0..statuses).for_each(|n| drop(status(&mut pool, n, (1, 1), 0)));
    assert_eq!(
        until(&mut pool, 0, 2 * settle),
        [(settle, Outcome::CaughtUp { height })]
    );
    // An empty network is not believed at once.
    let mut pool = TestPool::new(config.clone(), Height::ZERO, Height::new(1), Tick(0));
    for n in 0..statuses {
        up(&mut pool, n, 0);
        status(&mut pool, n, (0, 0), 0);
    }
    let said = until(&mut pool, 0, 2 * settle);
    assert_eq!(said, [(settle, Outcome::CaughtUp { height })]);
    // One below us confirms nothing.
    let mut pool = TestPool::new(config, Height::new(5), Height::new(1), Tick(0));
    up(&mut pool, 0, 0);
    status(&mut pool, 0, (1, 4), 0);
    let said = until(&mut pool, 0, 9 * SECOND);
    assert_eq!(said, [], "{said:?}");
    status(&mut pool, 0, (1, 5), 9 * SECOND);
    assert!(pool.tip.said_caught_up());
}

#[test]
fn a_configured_peer_on_its_way_is_waited_for_as_long_as_a_claim() {
    let config = PoolConfig::default();
    let at = config.claim_patience;
    let mut pool = with_peer(config, 1);
    let absent = std::collections::BTreeSet::from([PeerId([9; 20])]);
    let peers = absent.clone();
    feed_at(
        &mut pool,
        0,
        Input::Expected {
            peers,
            coming: absent,
        },
    );
    let height = Height::ZERO;
    assert_eq!(
        until(&mut pool, 0, at + SECOND),
        [(at, Outcome::CaughtUp { height })]
    );
}

#[test]
fn the_target_is_what_half_of_those_with_blocks_say_until_more_is_proven() {
    let mut pool = TestPool::new(PoolConfig::default(), Height::ZERO, Height::new(1), Tick(0));
    assert_eq!(pool.target(), Height::ZERO);
    for (n, height) in [(0, 0), (1, 10), (2, 20), (3, 1000)] {
        up(&mut pool, n, 0);
        status(&mut pool, n, (height.min(1), height), 0);
    }
    assert_eq!(pool.target(), Height::new(20), "a liar moves it nowhere");
    feed_at(&mut pool, 0, Input::Down { conn: ConnId(3) });
    assert_eq!(pool.target(), Height::new(10));
    let proven = Some(Height::new(15));
    let (conn, applied) = (ConnId(2), Height::ZERO);
    let judged = Input::ClaimJudged {
        conn,
        proven,
        applied,
    };
    feed_at(&mut pool, 0, judged);
    assert_eq!(pool.target(), Height::new(15));
}

/// The verifier says that this block, the first of the chain, does not fit our genesis.
fn unfit(pool: &mut TestPool, out: &[Effect<()>], now: u64) -> Vec<Effect<()>> {
    let run = out.iter().find_map(|effect| match effect {
        Effect::Verify { run, .. } => Some(*run),
        _ => None,
    });
    let (id, what) = (id(1), "app hash".into());
    let unfit = Some(Unfit { id, what });
    let verdict = Verdict {
        unfit,
        ..Verdict::default()
    };
    let run = run.expect("two blocks are there");
    feed_at(pool, now, Input::Verdict { run, verdict })
}

/// A pool whose only peer that has blocks, a second one among them, gave a first block that does
/// not fit our genesis.
fn that_differs(before: impl Fn(&mut TestPool), now: u64) -> TestPool {
    let mut pool = TestPool::new(PoolConfig::default(), Height::ZERO, Height::new(1), Tick(0));
    before(&mut pool);
    up(&mut pool, 0, 0);
    status(&mut pool, 0, (1, 2), 0);
    feed_at(&mut pool, now, block_of(CONN, 1, 100));
    let out = feed_at(&mut pool, now, block_of(CONN, 2, 100));
    unfit(&mut pool, &out, now);
    pool
}

fn contradicts(pool: &TestPool) -> bool {
    matches!(pool.tip.fatal(), Some(Outcome::Contradiction { .. }))
}

/// The configured peers with these numbers, and those of them that may still come.
fn expected(peers: &[u64], coming: &[u64]) -> Input<()> {
    let ids = |of: &[u64]| of.iter().map(|n| PeerId([1 + *n as u8; 20])).collect();
    let (peers, coming) = (ids(peers), ids(coming));
    Input::Expected { peers, coming }
}

#[test]
fn a_contradiction_of_genesis_is_said_after_the_settle_time_and_not_before() {
    let settle = PoolConfig::default().settle;
    let mut pool = that_differs(|_| (), SECOND);
    assert!(!contradicts(&pool), "within the settle time");
    feed_at(&mut pool, settle - 1, Input::Tick);
    assert!(!contradicts(&pool), "within the settle time");
    feed_at(&mut pool, settle, Input::Tick);
    assert!(contradicts(&pool));
    // One that is found out later has nothing to wait for.
    assert!(contradicts(&that_differs(|_| (), settle)));
}

#[test]
fn a_contradiction_of_genesis_waits_for_each_configured_peer() {
    let settle = PoolConfig::default().settle;
    let expects = |pool: &mut TestPool| drop(feed_at(pool, 0, expected(&[0, 1], &[0, 1])));
    let mut pool = that_differs(expects, settle);
    assert!(!contradicts(&pool), "the other one is on its way");
    up(&mut pool, 1, settle);
    assert!(!contradicts(&pool), "and has not told its status");
    feed_at(&mut pool, settle, Input::Down { conn: ConnId(1) });
    assert!(!contradicts(&pool), "it may come again");
    feed_at(&mut pool, settle, expected(&[0, 1], &[0]));
    assert!(contradicts(&pool), "it has failed to come");
}

#[test]
fn a_contradiction_of_genesis_waits_for_the_status_of_each_stranger() {
    let settle = PoolConfig::default().settle;
    let mut pool = that_differs(|pool| drop(up(pool, 1, 0)), settle);
    assert!(!contradicts(&pool), "one has not told its status");
    status(&mut pool, 1, (1, 2), settle);
    assert!(!contradicts(&pool), "and has the block");
    // It claims the block no more, but may still give it.
    status(&mut pool, 1, (0, 0), settle);
    assert!(!contradicts(&pool) && pool.owed() > 0);
    let conn = ConnId(1);
    for height in 1..=2 {
        let height = Height::new(height);
        feed_at(&mut pool, settle, Input::NoBlock { conn, height });
    }
    assert!(contradicts(&pool), "all have said what they have");
}

#[test]
fn a_first_block_that_differs_is_no_stall_of_strangers_where_a_configured_peer_gave_it() {
    let at = PoolConfig::default().no_peers;
    let expects = |pool: &mut TestPool| drop(feed_at(pool, 0, expected(&[0, 9], &[0, 9])));
    let mut pool = that_differs(expects, 0);
    let said = until(&mut pool, 0, 2 * at);
    assert_eq!(said, [(at, Outcome::NoUsablePeers)]);
}

#[test]
fn strangers_that_differ_end_nothing_while_no_configured_peer_has_said_the_same() {
    let at = PoolConfig::default().no_peers;
    // It is there and has told its status, but has pruned the block, and all that is wanted soon.
    let mut pool = that_differs(
        |pool| {
            feed_at(pool, 0, expected(&[1], &[1]));
            up(pool, 1, 0);
            status(pool, 1, (5000, 6000), 0);
        },
        0,
    );
    let said = until(&mut pool, 0, 2 * at);
    let [(when, Outcome::Stalled { why })] = &said[..] else {
        panic!("{said:?}");
    };
    assert!(
        *when == at && matches!(why, Stall::StrangersDiffer(_)),
        "{why:?}"
    );
}

#[test]
fn one_whose_copy_was_refused_is_no_usable_peer() {
    let at = PoolConfig::default().no_peers;
    let mut pool = with_peer(PoolConfig::default(), 2);
    for height in 1..=2 {
        feed_at(&mut pool, 0, block_of(CONN, height, 100));
    }
    // The verifier can say nothing: another copy of what holds the commit is needed.
    let (run, verdict) = (RunId(0), Verdict::default());
    feed_at(&mut pool, 0, Input::Verdict { run, verdict });
    assert_eq!(pool.owed(), 0, "it is not asked again");
    let said = until(&mut pool, 0, 4 * at);
    assert_eq!(said, [(at, Outcome::NoUsablePeers)]);
}

/// When it is said that we have caught up at 0 beside one server that answers ranges and claims the
/// next height, which may come with its own commit.
fn caught_up_below_the_tip(server: impl Fn(&mut TestPool)) -> u64 {
    let mut pool = TestPool::new(PoolConfig::default(), Height::ZERO, Height::new(1), Tick(0));
    up(&mut pool, 0, 0);
    server(&mut pool);
    let said = until(&mut pool, 0, 60 * SECOND);
    let height = Height::ZERO;
    assert_eq!(said.len(), 1, "{said:?}");
    assert_eq!(said[0].1, Outcome::CaughtUp { height });
    said[0].0
}

#[test]
fn a_tip_that_may_prove_itself_is_waited_for_while_its_server_may_give_it() {
    let config = PoolConfig::default();
    let (settle, patience) = (config.settle, config.claim_patience);
    let conn = CONN;
    let claims = |pool: &mut TestPool, height: u64| {
        let (base, height) = (Height::new(1), Height::new(height));
        let max_range = 8;
        let status = Input::Status {
            conn,
            base,
            height,
            max_range,
        };
        drop(feed_at(pool, 0, status));
    };
    let no_block = |pool: &mut TestPool, height: u64| {
        let height = Height::new(height);
        drop(feed_at(pool, 0, Input::NoBlock { conn, height }));
    };
    let silent = caught_up_below_the_tip(|pool| claims(pool, 1));
    assert_eq!(silent, settle + patience, "until its claim is doubted");
    let lacks = caught_up_below_the_tip(|pool| {
        claims(pool, 1);
        no_block(pool, 1);
    });
    assert_eq!(lacks, settle, "it says that it does not have it");
    let discredited = caught_up_below_the_tip(|pool| {
        claims(pool, 3);
        (1..=3).for_each(|height| no_block(pool, height));
        claims(pool, 1);
    });
    assert_eq!(discredited, settle, "it has claimed what it does not have");
    let refused = caught_up_below_the_tip(|pool| {
        claims(pool, 1);
        let Input::Block { mut meta, .. } = block_of(conn, 1, 100) else {
            unreachable!("it is a block");
        };
        meta.has_own_commit = true;
        let block = ();
        feed_at(pool, 0, Input::Block { conn, meta, block });
        let (run, verdict) = (RunId(0), Verdict::default());
        feed_at(pool, 0, Input::Verdict { run, verdict });
    });
    assert_eq!(refused, settle, "its copy could not be used");
}
