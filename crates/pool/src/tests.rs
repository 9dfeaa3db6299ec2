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
    let verdict = Verdict {
        certified: Some((Height::new(8), id(8))),
        ..Verdict::default()
    };
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
        let certified = Some((Height::new(1), id(1)));
        let verdict = Verdict {
            certified,
            ..Verdict::default()
        };
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
