//! Tests of the pool through its interface: bounds that no single fault shows.

use super::*;
use blocksync_types::ids::{BlockId, ConnId, Hash, PartSetHeader, PeerId};

pub(crate) type TestPool = Pool<()>;

pub(crate) fn id(height: u64) -> BlockId {
    let hash = |n: u64| {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&n.to_be_bytes());
        Some(Hash(bytes))
    };
    BlockId {
        hash: hash(height),
        parts: PartSetHeader {
            total: 1,
            hash: hash(height),
        },
    }
}

/// One peer at `height`, from whom the first heights are asked.
fn with_peer(config: PoolConfig, height: u64) -> TestPool {
    let mut pool = TestPool::new(config, Height::ZERO, Height::new(1), Tick(0));
    let conn = ConnId(0);
    let peer = PeerId([1; 20]);
    feed(&mut pool, Input::Up { conn, peer });
    let (base, height) = (Height::new(1), Height::new(height));
    let max_range = 1;
    feed(
        &mut pool,
        Input::Status {
            conn,
            base,
            height,
            max_range,
        },
    );
    pool
}

fn feed(pool: &mut TestPool, input: Input<()>) -> Vec<Effect<()>> {
    feed_at(pool, 1000, input)
}

pub(crate) fn feed_at(pool: &mut TestPool, now: u64, input: Input<()>) -> Vec<Effect<()>> {
    let mut out = Vec::new();
    pool.handle(input, Tick(now), &mut out);
    pool.check();
    out
}

fn block(pool: &mut TestPool, height: u64, bytes: u32) -> Vec<Effect<()>> {
    feed(pool, block_of(ConnId(0), height, bytes))
}

/// The true block of a height.
pub(crate) fn block_of(conn: ConnId, height: u64, bytes: u32) -> Input<()> {
    let meta = Meta {
        height: Height::new(height),
        id: id(height),
        parent: if height == 1 {
            BlockId::ZERO
        } else {
            id(height - 1)
        },
        bytes,
        has_own_commit: false,
    };
    let block = ();
    Input::Block { conn, meta, block }
}

/// A verdict that proves everything up to a height.
fn certified(height: u64) -> Verdict {
    Verdict {
        certified: Some((Height::new(height), id(height))),
        ..Verdict::default()
    }
}

#[test]
fn a_job_ends_once_it_has_its_bytes() {
    let config = PoolConfig {
        job_bytes: 2500,
        ..PoolConfig::default()
    };
    let mut pool = with_peer(config, 9);
    let run = (1..=9).flat_map(|height| block(&mut pool, height, 1000));
    let run = run.collect::<Vec<_>>().into_iter().find_map(|e| match e {
        Effect::Verify { run, .. } => Some(run),
        _ => None,
    });
    let verdict = certified(8);
    let run = run.expect("two linked blocks are proven");
    let jobs = feed(&mut pool, Input::Verdict { run, verdict });
    let jobs: Vec<Vec<u64>> = jobs
        .into_iter()
        .filter_map(|e| match e {
            Effect::Apply { blocks, .. } => {
                Some(blocks.iter().map(|b| b.meta.height.get()).collect())
            }
            _ => None,
        })
        .collect();
    assert_eq!(jobs, [vec![1, 2, 3], vec![4, 5, 6], vec![7, 8]]);
}

#[test]
fn after_one_large_block_its_supplier_owes_half_of_the_budget() {
    let config = PoolConfig {
        budget_bytes: 4_000_000,
        first_estimate_bytes: 1000,
        ..PoolConfig::default()
    };
    let mut pool = with_peer(config, 100);
    block(&mut pool, 1, 1_000_000);
    // Each of those that are owed is expected to be as large.
    assert_eq!(pool.owed(), 2);
}

#[test]
fn an_ask_says_whether_its_peer_answers_ranges() {
    for max_range in [1, 8] {
        let mut pool = TestPool::new(PoolConfig::default(), Height::ZERO, Height::new(1), Tick(0));
        let (conn, peer) = (ConnId(0), PeerId([1; 20]));
        feed(&mut pool, Input::Up { conn, peer });
        let (base, height) = (Height::new(1), Height::new(9));
        let status = Input::Status {
            conn,
            base,
            height,
            max_range,
        };
        let asks = feed(&mut pool, status).into_iter().filter_map(|e| match e {
            Effect::Ask { ranged, .. } => Some(ranged),
            _ => None,
        });
        let asks: Vec<bool> = asks.collect();
        assert!(!asks.is_empty());
        assert!(asks.iter().all(|ranged| *ranged == (max_range > 1)));
    }
}

/// The heights of the run that is handed to the verifier.
fn run_of(out: &[Effect<()>]) -> Option<(RunId, u64, u64)> {
    out.iter().find_map(|effect| match effect {
        Effect::Verify { run, blocks, .. } => {
            let (first, last) = (blocks.first()?, blocks.last()?);
            Some((*run, first.meta.height.get(), last.meta.height.get()))
        }
        _ => None,
    })
}

/// The peers have done their part: for minutes no stall is said, and then whose it is.
#[test]
fn a_long_proof_is_no_stall_of_the_network() {
    const SECOND: u64 = 1_000_000;
    let mut pool = with_peer(PoolConfig::default(), 3);
    for height in 1..=2 {
        block(&mut pool, height, 100);
    }
    let mut said = Vec::new();
    for at in 1..=310 {
        for effect in feed_at(&mut pool, at * SECOND, Input::Tick) {
            if let Effect::Outcome(outcome) = effect {
                said.push((at, outcome));
            }
        }
    }
    let first = Height::new(1);
    let why = Stall::Proving(first, first);
    assert_eq!(said, [(301, Outcome::Stalled { why })]);
}

/// A run is what can be proven in ten seconds, by the last one: what is proven is applied, and a
/// proof that takes a minute would look like a stall.
#[test]
fn a_slow_proof_makes_the_next_run_shorter() {
    for (micros, longest) in [(5_000_000, 2), (1_000_000, 10), (1_000, 38)] {
        let mut pool = with_peer(PoolConfig::default(), 40);
        let (mut now, mut run, mut height) = (1000, None, 1);
        while pool
            .window()
            .any(|(_, letter)| letter == '?' || letter == '.')
        {
            let out = feed_at(&mut pool, now, block_of(ConnId(0), height, 100));
            (run, height) = (run.or(run_of(&out)), height + 1);
        }
        let (run, first, last) = run.expect("a run");
        assert_eq!((first, last), (1, 1));
        now += micros;
        let verdict = certified(1);
        let out = feed_at(&mut pool, now, Input::Verdict { run, verdict });
        let (_, first, last) = run_of(&out).expect("the next run");
        assert_eq!((first, last), (2, 1 + longest), "{micros} for a block");
    }
}

/// Does what the pool wants as an honest world would, but that the second connection has only what
/// `second` names.
fn perform(pool: &mut TestPool, at: u64, input: Input<()>, second: impl Fn(u64) -> bool) {
    let mut todo = vec![input];
    while let Some(input) = todo.pop() {
        for effect in feed_at(pool, at, input) {
            match effect {
                Effect::Ask {
                    conn, from, count, ..
                } => {
                    let heights = from.get()..from.get() + u64::from(count);
                    let has = |h| if conn.0 == 1 { second(h) } else { h <= 3 };
                    todo.extend(heights.map(|height| match has(height) {
                        true => block_of(conn, height, 100),
                        false => Input::NoBlock {
                            conn,
                            height: Height::new(height),
                        },
                    }));
                }
                Effect::Verify { run, blocks, .. } => {
                    let last = blocks.last().map(|copy| (copy.meta.height, copy.meta.id));
                    let verdict = Verdict {
                        certified: last,
                        ..Verdict::default()
                    };
                    todo.push(Input::Verdict { run, verdict });
                }
                Effect::Apply { blocks, .. } => {
                    let through = blocks.last().expect("a block").meta.height;
                    todo.push(Input::Applied { through });
                }
                _ => {}
            }
        }
    }
}

/// Two connections, of which one claims blocks that nobody else has.
fn one_claims_more(config: PoolConfig, second: impl Fn(u64) -> bool) -> TestPool {
    let mut pool = TestPool::new(config, Height::ZERO, Height::new(1), Tick(0));
    for (n, height) in [(0, 3), (1, 40)] {
        let (conn, peer) = (ConnId(n), PeerId([n as u8; 20]));
        perform(&mut pool, 1, Input::Up { conn, peer }, &second);
        let status = Input::Status {
            conn,
            base: Height::new(1),
            height: Height::new(height),
            max_range: 1,
        };
        perform(&mut pool, 1, status, &second);
    }
    pool
}

/// A copy that nothing links to what is proven goes when nobody claims its height any more.
#[test]
fn copies_that_nobody_claims_any_more_are_let_go() {
    let mut pool = one_claims_more(PoolConfig::default(), |height| height > 10);
    assert_eq!(pool.applied(), Height::new(2));
    assert!(pool.buffered_bytes() > 1000, "{}", pool.buffered_bytes());
    let conn = ConnId(1);
    perform(&mut pool, 2, Input::Down { conn }, |_| false);
    for second in 1..20 {
        perform(&mut pool, second * 1_000_000, Input::Tick, |_| false);
    }
    assert!(pool.tip.said_caught_up());
    assert_eq!(
        pool.buffered_bytes(),
        100,
        "the last block, which waits for its commit"
    );
}

/// One that claims blocks which nobody else has cannot fill the budget that all share with them.
#[test]
fn made_up_blocks_fill_no_more_than_a_part_of_the_budget() {
    let mut config = PoolConfig::default();
    (config.budget_bytes, config.first_estimate_bytes) = (2000, 256);
    let pool = one_claims_more(config, |height| height > 5);
    assert_eq!(pool.applied(), Height::new(2));
    let bytes = pool.buffered_bytes();
    assert!(bytes > 100 && bytes <= 2000 / 4, "{bytes}");
}

#[test]
fn a_fair_share_is_the_least_of_its_bounds() {
    let config = PoolConfig {
        window: 1000,
        budget_bytes: 4_000_000,
        asks_per_peer: 5,
        asks_per_peer_max: 100,
        ..PoolConfig::default()
    };
    let mut pool = with_peer(config, 9);
    assert_eq!(pool.fair_share(100), 100, "the most for anybody");
    for n in 1..10 {
        let (conn, peer) = (ConnId(n), PeerId([10 + n as u8; 20]));
        feed(&mut pool, Input::Up { conn, peer });
    }
    assert_eq!(pool.fair_share(0), 50, "half the window, among ten");
    assert_eq!(pool.fair_share(50_000), 20, "a quarter of the budget");
    assert_eq!(
        pool.fair_share(4_000_000),
        5,
        "what its own pool asks of others"
    );
}

#[test]
fn each_outcome_and_each_stall_has_words_of_its_own() {
    let height = Height::new(7);
    let stalls = [
        Stall::NoBlock(height),
        Stall::Unproven(height),
        Stall::Proving(height, Height::new(9)),
        Stall::NotCanonical(height, id(7)),
        Stall::StrangersDiffer("7".into()),
    ];
    let halted = LocalFault::Halted {
        height,
        why: "upgrade".into(),
    };
    let faults = ["a 7", "b 7", "c 7"].map(str::to_owned);
    let [a, b, c] = faults;
    let faults = [
        LocalFault::Diverged(a),
        LocalFault::Store(b),
        LocalFault::App(c),
        halted,
    ];
    let words = stalls.iter().map(Stall::to_string);
    let words: std::collections::BTreeSet<String> = words
        .chain(faults.iter().map(LocalFault::to_string))
        .collect();
    assert_eq!(words.len(), 9, "{words:?}");
    assert!(words.iter().all(|words| words.contains('7')), "{words:?}");
    assert!(faults[3].to_string().contains("block 6 is its last"));
    let outcomes = [
        (Outcome::Syncing, "syncing"),
        (Outcome::CaughtUp { height }, "caught_up"),
        (Outcome::ReachedTarget { height }, "reached_target"),
        (Outcome::NoUsablePeers, "no_usable_peers"),
        (Outcome::Stopped, "stopped"),
    ];
    assert!(
        outcomes
            .iter()
            .all(|(outcome, name)| outcome.name() == *name)
    );
}

#[test]
fn the_view_shows_each_height_and_each_connection() {
    let mut pool = with_peer(PoolConfig::default(), 4);
    let letters = |pool: &TestPool| pool.window().map(|(_, letter)| letter).collect::<String>();
    assert_eq!(letters(&pool), "??..");
    let heights: Vec<u64> = pool.window().map(|(height, _)| height.get()).collect();
    assert_eq!(heights, [1, 2, 3, 4]);
    block(&mut pool, 1, 100);
    block(&mut pool, 2, 100);
    block(&mut pool, 4, 100);
    assert_eq!(
        (letters(&pool).as_str(), pool.is_verifying()),
        ("vh?h", true)
    );
    assert_eq!((pool.buffered_bytes(), pool.owed()), (300, 1));
    let views: Vec<PeerView> = pool.peers().collect();
    let [view] = &views[..] else {
        panic!("{views:?}")
    };
    let range = (view.base.get(), view.height.get(), view.owed);
    assert_eq!(
        (view.conn, view.peer, range),
        (ConnId(0), PeerId([1; 20]), (1, 4, 1))
    );
    assert!(view.rate.is_some() && view.latency.is_some());
    let run = RunId(0);
    let verdict = certified(1);
    feed(&mut pool, Input::Verdict { run, verdict });
    assert_eq!(
        (letters(&pool).as_str(), pool.is_verifying()),
        ("ah?h", false)
    );
    assert_eq!((pool.proven(), pool.applying()), (Height::new(1), 1));
    let through = Height::new(1);
    feed(&mut pool, Input::Applied { through });
    assert_eq!((pool.applied(), pool.applying()), (through, 0));
    feed(
        &mut pool,
        Input::Receiving {
            conn: ConnId(0),
            bytes: 50,
        },
    );
    assert_eq!(pool.buffered_bytes(), 250);
}

#[test]
fn after_stop_everybody_is_gone_and_nothing_is_due() {
    let mut pool = with_peer(PoolConfig::default(), 4);
    block(&mut pool, 2, 100);
    let out = feed(&mut pool, Input::Stop);
    let stopping = |effect: &&Effect<()>| {
        matches!(
            effect,
            Effect::Drop {
                reason: CloseReason::Stopping,
                ban_until: None,
                ..
            }
        )
    };
    assert_eq!(out.iter().filter(stopping).count(), 1);
    assert!(out.contains(&Effect::Outcome(Outcome::Stopped)));
    assert!(
        out.iter()
            .any(|effect| matches!(effect, Effect::Cancel { .. }))
    );
    assert_eq!((pool.next_deadline(), pool.buffered_bytes()), (None, 0));
    assert_eq!((pool.owed(), pool.peers().count()), (0, 0));
    assert!(feed(&mut pool, Input::Tick).is_empty(), "it is over");
}

#[test]
fn the_executor_has_no_more_blocks_than_it_may() {
    let config = PoolConfig {
        applying: 2,
        ..PoolConfig::default()
    };
    let mut pool = with_peer(config, 6);
    for height in 1..=6 {
        block(&mut pool, height, 100);
    }
    for (run, height) in [(0, 1), (1, 5)] {
        let verdict = certified(height);
        let run = RunId(run);
        feed(&mut pool, Input::Verdict { run, verdict });
    }
    assert_eq!((pool.proven(), pool.applying()), (Height::new(5), 2));
    let through = Height::new(1);
    feed(&mut pool, Input::Applied { through });
    assert_eq!(pool.applying(), 2);
}

#[test]
fn the_lowest_bases_count_once_we_are_there() {
    let mut pool = TestPool::new(PoolConfig::default(), Height::ZERO, Height::new(1), Tick(0));
    let (conn, peer) = (ConnId(0), PeerId([1; 20]));
    feed(&mut pool, Input::Up { conn, peer });
    let status = Input::Status {
        conn,
        base: Height::new(5),
        height: Height::new(9),
        max_range: 1,
    };
    feed(&mut pool, status);
    assert_eq!(pool.peers.best_claim(), None);
    feed(&mut pool, Input::Pause);
    for (applied, counts) in [(3, false), (4, true)] {
        let applied = Height::new(applied);
        feed(&mut pool, Input::Resume { applied });
        assert_eq!(pool.peers.best_claim().is_some(), counts);
    }
}

/// The runs that are handed in: the first and last height, and the height of the carrier.
fn runs(out: &[Effect<()>]) -> Vec<(u64, u64, Option<u64>)> {
    let height = |copy: &Candidate<()>| copy.meta.height.get();
    let runs = out.iter().filter_map(|effect| match effect {
        Effect::Verify {
            blocks, carrier, ..
        } => Some((
            height(blocks.first()?),
            height(blocks.last()?),
            carrier.as_ref().map(height),
        )),
        _ => None,
    });
    runs.collect()
}

#[test]
fn a_block_with_its_own_commit_is_proven_and_applied_by_that_where_none_is_above_it() {
    let own = |height| {
        let mut input = block_of(ConnId(0), height, 100);
        if let Input::Block { meta, .. } = &mut input {
            meta.has_own_commit = true;
        }
        input
    };
    let mut pool = with_peer(PoolConfig::default(), 2);
    let out = feed(&mut pool, own(1));
    assert_eq!(runs(&out), [(1, 1, None)]);
    let verdict = certified(1);
    let run = RunId(0);
    let out = feed(&mut pool, Input::Verdict { run, verdict });
    let applied = out.iter().find_map(|effect| match effect {
        Effect::Apply { blocks, carrier } => Some((blocks.len(), carrier.is_none())),
        _ => None,
    });
    assert_eq!(applied, Some((1, true)));
    // With a block above it the commit of that one counts.
    let mut pool = with_peer(PoolConfig::default(), 2);
    block(&mut pool, 2, 100);
    assert_eq!(runs(&feed(&mut pool, own(1))), [(1, 1, Some(2))]);
    // That one tells which of the two is wrong, where they do not link.
    let mut pool = with_peer(PoolConfig::default(), 2);
    let mut other = block_of(ConnId(0), 2, 100);
    if let Input::Block { meta, .. } = &mut other {
        meta.parent = id(77);
    }
    feed(&mut pool, other);
    assert_eq!(runs(&feed(&mut pool, own(1))), [(1, 1, Some(2))]);
    // One without waits for the block above it.
    let mut pool = with_peer(PoolConfig::default(), 2);
    assert_eq!(runs(&block(&mut pool, 1, 100)), []);
}

#[test]
fn a_run_that_nobody_can_judge_yet_waits_for_the_executor() {
    let mut pool = with_peer(PoolConfig::default(), 4);
    for height in 1..=4 {
        block(&mut pool, height, 100);
    }
    let verdict = certified(1);
    let run = RunId(0);
    let out = feed(&mut pool, Input::Verdict { run, verdict });
    assert_eq!(runs(&out), [(2, 3, Some(4))]);
    let verdict = Verdict {
        shorten: Some(Height::new(1)),
        ..Verdict::default()
    };
    let run = RunId(1);
    assert_eq!(runs(&feed(&mut pool, Input::Verdict { run, verdict })), []);
    let through = Height::new(1);
    let out = feed(&mut pool, Input::Applied { through });
    assert_eq!(runs(&out), [(2, 3, Some(4))]);
    let verdict = Verdict {
        shorten: Some(Height::new(2)),
        ..Verdict::default()
    };
    let run = RunId(2);
    let out = feed(&mut pool, Input::Verdict { run, verdict });
    assert_eq!(runs(&out), [(2, 2, Some(3))], "as long as it may be");
}

/// The verifier was asked before a block was applied and answers after it: the sets that it lacked
/// are known now. The copies must not be refused, since there may be no other peer.
#[test]
fn a_run_that_nobody_could_judge_before_more_was_applied_is_handed_in_again() {
    let config = PoolConfig {
        run: 1,
        ..PoolConfig::default()
    };
    let mut pool = with_peer(config, 4);
    for height in 1..=4 {
        block(&mut pool, height, 100);
    }
    for (run, height) in [(0, 1), (1, 2)] {
        let verdict = certified(height);
        let run = RunId(run);
        let out = feed(&mut pool, Input::Verdict { run, verdict });
        assert_eq!(runs(&out), [(height + 1, height + 1, Some(height + 2))]);
    }
    for through in [1, 2].map(Height::new) {
        assert_eq!(runs(&feed(&mut pool, Input::Applied { through })), []);
    }
    let verdict = Verdict {
        shorten: Some(Height::new(2)),
        ..Verdict::default()
    };
    let (run, again) = (RunId(2), verdict.clone());
    let out = feed(&mut pool, Input::Verdict { run, verdict });
    assert_eq!(runs(&out), [(3, 3, Some(4))]);
    assert!(!pool.window.refuses(Height::new(4), ConnId(0)));
    // With nothing applied since, it is no use.
    let (run, verdict) = (RunId(3), again);
    assert_eq!(runs(&feed(&mut pool, Input::Verdict { run, verdict })), []);
    assert!(pool.window.refuses(Height::new(4), ConnId(0)));
}

#[test]
fn a_recording_may_be_replayed_in_parts() {
    let mut pool = TestPool::new(PoolConfig::default(), Height::ZERO, Height::new(1), Tick(0));
    let mut encoder = record::Encoder::default();
    let (mut parts, mut at) = ([Vec::new(), Vec::new()], 5);
    for part in &mut parts {
        encoder.pool(&pool, Tick(at), part);
        for n in 0..3 {
            at += 7;
            let (conn, peer) = (ConnId(at), PeerId([at as u8; 20]));
            let input = Input::Up { conn, peer };
            encoder.input(&input, Tick(at), part);
            let mut out = Vec::new();
            pool.handle(input, Tick(at), &mut out);
            assert!(!out.is_empty(), "{n}");
            encoder.effects(&out);
        }
        encoder.digest(part);
    }
    let mut replay = record::Replay::new(&parts[0]);
    let mut digests = Vec::new();
    for part in 0..2 {
        while let Some(step) = replay.step().expect("a whole part") {
            match step {
                record::Step::Digest { recorded, replayed } => {
                    assert_eq!(recorded, replayed);
                    digests.push((recorded.inputs, recorded.effects));
                }
                record::Step::Pool { same, .. } => assert_eq!(same, (part == 1).then_some(true)),
                _ => {}
            }
        }
        assert_eq!(replay.outcome(), Some(&Outcome::Syncing));
        if part == 0 {
            replay.go_on(&parts[1]);
        }
    }
    assert_eq!(digests.len(), 2);
    assert_eq!(
        (digests[0].0, digests[1].0),
        (3, 3),
        "since the last whole pool"
    );
    assert!(digests[0].1 >= 3 && digests[1].1 >= 3, "{digests:?}");
    let same = replay.pool().expect("a pool").peers().eq(pool.peers());
    assert!(same);
    let broken = [
        (record::Broken::CutOff, "ends within"),
        (record::Broken::NoPool, "before any pool"),
    ];
    assert!(
        broken
            .iter()
            .all(|(broken, words)| broken.to_string().contains(words))
    );
}

#[test]
fn a_proven_block_waits_for_a_commit_that_can_be_stored_with_it() {
    let mut pool = with_peer(PoolConfig::default(), 3);
    for height in 1..=3 {
        block(&mut pool, height, 100);
    }
    let source = blocksync_types::ids::Source {
        peer: PeerId([1; 20]),
        conn: ConnId(0),
    };
    let bad = blocksync_types::fault::Fault::Unasked;
    for (run, height, guilty) in [(0, 1, vec![]), (1, 2, vec![(source, Height::new(3), bad)])] {
        let certified = Some((Height::new(height), id(height)));
        let verdict = Verdict {
            certified,
            guilty,
            ..Verdict::default()
        };
        let run = RunId(run);
        feed(&mut pool, Input::Verdict { run, verdict });
    }
    assert_eq!((pool.proven(), pool.applying()), (Height::new(2), 1));
}

#[test]
fn the_settle_time_begins_anew_when_nobody_was_there_for_long() {
    let settle = PoolConfig::default().settle;
    let mut pool = TestPool::new(PoolConfig::default(), Height::ZERO, Height::new(1), Tick(0));
    let peer = PeerId([1; 20]);
    for (n, at) in [(0, 0), (1, settle + 1)] {
        let conn = ConnId(n);
        feed_at(&mut pool, at, Input::Up { conn, peer });
        assert_eq!(pool.tip.first_up(), Some(Tick(at)));
        feed_at(&mut pool, at + 1, Input::Down { conn });
    }
}

/// Either it is wrong, or the network has forked: the verifier tells.
#[test]
fn a_copy_that_names_another_predecessor_is_judged_alone() {
    let with = |height, own, parent| {
        let mut input = block_of(ConnId(0), height, 100);
        if let Input::Block { meta, .. } = &mut input {
            (meta.has_own_commit, meta.parent) = (own, parent);
        }
        input
    };
    let mut pool = with_peer(PoolConfig::default(), 3);
    feed(&mut pool, with(1, true, BlockId::ZERO));
    let verdict = certified(1);
    let run = RunId(0);
    feed(&mut pool, Input::Verdict { run, verdict });
    let out = feed(&mut pool, with(2, false, id(77)));
    assert_eq!(runs(&out), [(2, 2, None)]);
}

/// With nothing before the executor nothing is waited for: the first block is tried alone, and then
/// without the copy that held its commit.
#[test]
fn a_run_that_nobody_can_judge_at_all_is_tried_with_other_copies() {
    let mut pool = with_peer(PoolConfig::default(), 3);
    for height in [2, 3, 1] {
        block(&mut pool, height, 100);
    }
    let shorten = Some(Height::ZERO);
    let verdict = Verdict {
        shorten,
        ..Verdict::default()
    };
    let (run, again) = (RunId(0), verdict.clone());
    let out = feed(&mut pool, Input::Verdict { run, verdict });
    assert_eq!(runs(&out), [(1, 1, Some(2))]);
    let (run, verdict) = (RunId(1), again);
    let out = feed(&mut pool, Input::Verdict { run, verdict });
    assert_eq!(runs(&out), []);
    let two = Height::new(2);
    assert!(pool.window.refuses(two, ConnId(0)) && pool.window.is_missing(two));
}
