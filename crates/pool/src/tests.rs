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
fn after_one_large_block_no_more_are_asked_for_than_the_budget_holds() {
    let config = PoolConfig {
        budget_bytes: 4_000_000,
        first_estimate_bytes: 1000,
        ..PoolConfig::default()
    };
    let mut pool = with_peer(config, 100);
    block(&mut pool, 1, 1_000_000);
    // One is held; with those that are owed, each expected to be as large, the budget is full.
    assert_eq!(pool.owed(), 3);
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
