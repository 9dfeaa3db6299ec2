//! Inputs a second of the pool alone, across numbers of peers and sizes of the window: `cargo bench
//! --bench pool`. One input is a status, a block, a verdict or "applied"; peers answer in the order
//! in which they were asked. A line before the figures has the bytes of a connection and of a
//! height.
//!
//! After the steady sync (`pool/PEERS/WINDOW`), the inputs that concern every connection, or look
//! for one among all: the byte budget is crossed and crossed back (`budget`), the tip is reached
//! and left (`tip`), a peer leaves and comes back (`leave`), and nearly all peers claim too little,
//! so that most heights find nobody with room (`short`). Each may grow by the depth of a tree from
//! 50 peers to 10 000.
//!
//! `recorded` is the steady sync before the eyes of a recorder: what it takes longer than the same
//! without is the recorder's cost, but for the disk.

use std::collections::VecDeque;
use std::fmt::Display;
use std::hint::black_box;
use std::time::{Duration, Instant};

use blocksync_pool::record::Encoder;
use blocksync_pool::{Effect, Input, Meta, Pool, PoolConfig, Tick, Verdict};
use blocksync_types::ids::{BlockId, ConnId, Hash, Height, PeerId};
use criterion::measurement::WallTime;
use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main,
};

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
    /// A recorder, and what it has written since it was last emptied.
    recorder: Option<(Encoder, Vec<u8>)>,
}

impl Drive {
    fn new(peers: u64, window: u32) -> Self {
        Self::with(peers, window, u64::MAX / 4, |_| 1 << 40)
    }

    /// With this budget, and what each peer claims.
    fn with(peers: u64, window: u32, budget_bytes: u64, claim: impl Fn(u64) -> u64) -> Self {
        let mut config = PoolConfig::default();
        config.window = window;
        config.budget_bytes = budget_bytes;
        config.first_estimate_bytes = 1000;
        let pool = Pool::new(config, Height::ZERO, Height::new(1), Tick(0));
        let mut drive = Drive {
            pool,
            todo: VecDeque::new(),
            owed: VecDeque::new(),
            now: 0,
            recorder: None,
        };
        for n in 0..peers {
            drive.up(n);
            drive.status(n, claim(n));
        }
        drive
    }

    fn up(&mut self, n: u64) {
        let mut peer = [0; 20];
        peer[..8].copy_from_slice(&n.to_be_bytes());
        self.feed(Input::Up {
            conn: ConnId(n),
            peer: PeerId(peer),
        });
    }

    fn status(&mut self, n: u64, height: u64) {
        self.feed(Input::Status {
            conn: ConnId(n),
            base: Height::new(1),
            height: Height::new(height),
            max_range: 1,
        });
    }

    /// Over the budget by what one connection has sent of a message, and back.
    fn cross_the_budget(&mut self, turn: u64) {
        let bytes = if turn.is_multiple_of(2) { 2_000_000 } else { 0 };
        let conn = ConnId(0);
        self.feed(Input::Receiving { conn, bytes });
    }

    /// Somebody says that there is more, and takes it back.
    fn leave_the_tip(&mut self, turn: u64) {
        self.status(0, if turn.is_multiple_of(2) { 5 } else { 1 });
        self.now -= 1; // no time passes in which anybody would lose patience
    }

    /// One leaves, and comes back over the same number.
    fn lose_a_peer(&mut self, turn: u64, peers: u64) {
        let n = turn / 3 % peers;
        match turn % 3 {
            0 => self.feed(Input::Down { conn: ConnId(n) }),
            1 => self.up(n),
            _ => self.status(n, 1 << 40),
        }
    }

    fn feed(&mut self, input: Input<()>) {
        let mut out = Vec::new();
        self.now += 1;
        if let Some((encoder, bytes)) = &mut self.recorder {
            encoder.input(&input, Tick(self.now), bytes);
        }
        self.pool.handle(input, Tick(self.now), &mut out);
        if let Some((encoder, bytes)) = &mut self.recorder {
            encoder.effects(&out);
            if bytes.len() > 64 << 10 {
                black_box(&bytes);
                bytes.clear();
            }
        }
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

type Group<'a> = BenchmarkGroup<'a, WallTime>;

/// Measures one kind of input; `turn` counts them.
fn measure(
    group: &mut Group<'_>,
    name: &str,
    size: impl Display,
    mut drive: Drive,
    input: impl Fn(&mut Drive, u64),
) {
    let mut turn = 0;
    group.bench_function(BenchmarkId::new(name, size), |b| {
        b.iter_custom(|n| {
            let begin = Instant::now();
            for _ in 0..n {
                input(&mut drive, turn);
                turn += 1;
            }
            begin.elapsed()
        });
    });
}

fn inputs(c: &mut Criterion) {
    memory();
    let mut group = c.benchmark_group("pool");
    group
        .throughput(Throughput::Elements(1))
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(1));
    for peers in [50, 1_000, 10_000] {
        for window in [100, 10_000, 100_000] {
            let name = format!("{peers} peers");
            let drive = Drive::new(peers, window);
            measure(&mut group, &name, window, drive, |d, _| d.step());
        }
    }
    let mut drive = Drive::new(50, 10_000);
    drive.recorder = Some((Encoder::default(), Vec::new()));
    measure(&mut group, "recorded", 10_000, drive, |d, _| d.step());
    let window = 10_000;
    for peers in [50, 1_000, 10_000] {
        let drive = Drive::with(peers, window, 1_000_000, |_| 1 << 40);
        measure(&mut group, "budget", peers, drive, Drive::cross_the_budget);
        let drive = Drive::with(peers, window, 1_000_000, |_| 1);
        measure(&mut group, "tip", peers, drive, Drive::leave_the_tip);
        let drive = Drive::new(peers, window);
        measure(&mut group, "leave", peers, drive, move |d, turn| {
            d.lose_a_peer(turn, peers)
        });
        let claim = |n| if n < 10 { 1 << 40 } else { 1 };
        let drive = Drive::with(peers, window, u64::MAX / 4, claim);
        measure(&mut group, "short", peers, drive, |d, _| d.step());
    }
    group.finish();
}

criterion_group!(benches, inputs);
criterion_main!(benches);
