//! Inputs a second of the pool alone, across numbers of peers and sizes of the window: `cargo bench --bench pool`. One input is a
//! status, a block, a verdict or "applied"; peers answer in the order in which they were asked. A line before the figures has the bytes of a
//! connection and of a height.

use std::collections::VecDeque;
use std::hint::black_box;
use std::time::{Duration, Instant};

use blocksync::ids::{BlockId, ConnId, Hash, Height, PeerId};
use blocksync::pool::{Effect, Input, Meta, Pool, PoolConfig, Tick, Verdict};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

fn id(height: u64) -> BlockId {
    let mut hash = [1; 32];
    hash[..8].copy_from_slice(&height.to_be_bytes());
    BlockId::new(Hash(hash), 1, Hash(hash))
}

struct Drive {
    pool: Pool<()>,
    todo: VecDeque<Input<()>>,
    owed: VecDeque<(ConnId, Height)>,
    now: u64,
}

impl Drive {
    fn new(peers: u64, window: u32) -> Self {
        let config = PoolConfig {
            window,
            budget_bytes: u64::MAX / 4,
            first_estimate_bytes: 1000,
            ..PoolConfig::default()
        };
        let pool = Pool::new(config, Height::ZERO, Height::new(1), Tick(0));
        let mut drive = Drive {
            pool,
            todo: VecDeque::new(),
            owed: VecDeque::new(),
            now: 0,
        };
        for n in 0..peers {
            let mut peer = [0; 20];
            peer[..8].copy_from_slice(&n.to_be_bytes());
            let conn = ConnId(n);
            drive.feed(Input::Up {
                conn,
                peer: PeerId(peer),
            });
            let (base, height) = (Height::new(1), Height::new(1 << 40));
            drive.feed(Input::Status {
                conn,
                base,
                height,
                max_range: 1,
            });
        }
        drive
    }

    fn feed(&mut self, input: Input<()>) {
        let mut out = Vec::new();
        self.now += 1;
        self.pool.handle(input, Tick(self.now), &mut out);
        for effect in out {
            match effect {
                Effect::Ask {
                    conn, from, count, ..
                } => {
                    self.owed
                        .extend((0..u64::from(count)).map(|n| (conn, from.plus(n))));
                }
                Effect::Verify { run, blocks, .. } => {
                    let last = &blocks[blocks.len() - 1].meta;
                    let certified = Some((last.height, last.id));
                    self.todo.push_back(Input::Verdict {
                        run,
                        verdict: Verdict {
                            certified,
                            ..Verdict::default()
                        },
                    });
                }
                Effect::Apply { blocks, .. } => {
                    let through = blocks[blocks.len() - 1].meta.height;
                    self.todo.push_back(Input::Applied { through });
                }
                _ => {}
            }
        }
    }

    /// One input: what the verifier or executor said, or the next block.
    fn step(&mut self) {
        let input = self.todo.pop_front().unwrap_or_else(|| {
            let (conn, height) = self.owed.pop_front().expect("something is always owed");
            let (h, parent) = (height.get(), height.get() - 1);
            let meta = Meta {
                height,
                id: id(h),
                parent: id(parent),
                bytes: 1000,
                has_own_commit: false,
            };
            Input::Block {
                conn,
                meta,
                block: (),
            }
        });
        self.feed(input);
    }
}

/// Resident bytes of this process.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = text
        .split_whitespace()
        .nth(1)
        .and_then(|n| n.parse::<u64>().ok());
    pages.unwrap_or(0) * 4096
}

fn memory() {
    let before = resident();
    let idle = Drive::new(10_000, 2);
    let peers = resident().saturating_sub(before);
    black_box(&idle);
    let before = resident();
    let wide = Drive::new(500, 10_000);
    let heights = resident().saturating_sub(before);
    black_box(&wide);
    println!(
        "bytes per peer: {}, bytes per height asked for: {}",
        peers / 10_000,
        heights / 10_000
    );
}

fn inputs(c: &mut Criterion) {
    memory();
    let mut group = c.benchmark_group("pool");
    group
        .throughput(Throughput::Elements(1))
        .sample_size(10)
        .measurement_time(Duration::from_secs(2));
    for (peers, window) in [
        (5, 100),
        (50, 1_000),
        (50, 10_000),
        (500, 10_000),
        (10_000, 10_000),
        (10_000, 100_000),
    ] {
        let mut drive = Drive::new(peers, window);
        group.bench_function(BenchmarkId::new(format!("{peers} peers"), window), |b| {
            b.iter_custom(|n| {
                let begin = Instant::now();
                for _ in 0..n {
                    drive.step();
                }
                begin.elapsed()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, inputs);
criterion_main!(benches);
