//! Cost of a durable batch: 19 KB blocks, with and without the writes of a kvstore, in the same
//! transaction.
//!
//! `cargo bench --bench store`. The figures are blocks per second, the sync at the end of each
//! batch included; the directory is under `target/`, on the disk that the build is on. The line
//! before them has the processor time of a block, which the disk and other programs disturb less.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use blocksync::store::{Batch, BlockRecord, LmdbOptions, LmdbStore, Store};
use blocksync_testkit::store::conformance::sample;
use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

/// Bytes of a block.
const BLOCK: usize = 19_000;
/// Bytes of a kvstore's value.
const VALUE: usize = 800;
/// Blocks after which a store is thrown away, so that a run stays within a few GB of disk.
const ROOM: u64 = 60_000;

/// Nanoseconds that this thread has been on a processor.
fn on_processor() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let first = text.split_whitespace().next();
    first.and_then(|ns| ns.parse().ok()).unwrap_or(0)
}

/// A store that is filled batch after batch.
struct Filling {
    dir: tempfile::TempDir,
    store: LmdbStore,
    next: u64,
    /// Of all commits so far, in any store.
    blocks: u64,
    processor: u64,
}

impl Filling {
    fn new() -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
        let store = LmdbStore::open(dir.path(), &LmdbOptions::default()).expect("a new store");
        Filling {
            dir,
            store,
            next: 1,
            blocks: 0,
            processor: 0,
        }
    }

    /// The time of one commit.
    fn append(&mut self, block: &BlockRecord, count: u64, writes: u64) -> Duration {
        if self.next > ROOM {
            *self = Filling {
                blocks: self.blocks,
                processor: self.processor,
                ..Self::new()
            };
        }
        let heights = self.next..self.next + count;
        self.next = heights.end;
        let last = heights.end - 1;
        let value = Bytes::from(vec![b'v'; VALUE]);
        let app = heights.clone().flat_map(|height| {
            let first = height * writes;
            let pair = |n| (Bytes::from(format!("k{n}")), Some(value.clone()));
            (first..first + writes).map(pair)
        });
        let batch = Batch {
            app: app.collect(),
            blocks: heights
                .map(|height| BlockRecord {
                    height: sample::h(height),
                    ..block.clone()
                })
                .collect(),
            state: Some(Arc::new(sample::state(last, 1))),
            ..Batch::default()
        };
        let (start, before) = (Instant::now(), on_processor());
        self.store.commit(batch).expect("room on the disk");
        self.processor += on_processor() - before;
        self.blocks += count;
        start.elapsed()
    }
}

fn append(c: &mut Criterion) {
    let block = sample::block(1, 1, BLOCK);
    let mut group = c.benchmark_group("append");
    group
        .sample_size(10)
        .measurement_time(Duration::from_secs(5));
    for writes in [0, 10, 20] {
        for batch in [64, 512, 2048] {
            let id = BenchmarkId::new(format!("{writes}_writes_a_block"), batch);
            group.throughput(Throughput::Elements(batch));
            group.bench_function(id, |b| {
                let mut filling = Filling::new();
                b.iter_custom(|iterations| {
                    (0..iterations)
                        .map(|_| filling.append(&block, batch, writes))
                        .sum()
                });
                let micros = filling.processor / 1000 / filling.blocks.max(1);
                println!("{micros} µs of processor time a block");
            });
        }
    }
    group.finish();
}

fn read(c: &mut Criterion) {
    let mut filling = Filling::new();
    let block = sample::block(1, 1, BLOCK);
    for _ in 0..16 {
        filling.append(&block, 512, 0);
    }
    let mut group = c.benchmark_group("read");
    group.throughput(Throughput::Elements(1));
    group.bench_function("one_block", |b| {
        let mut height = 0;
        b.iter(|| {
            height = (height + 7919) % (filling.next - 1);
            black_box(filling.store.block(sample::h(height + 1)).expect("sound"))
        });
    });
    group.throughput(Throughput::Elements(64));
    group.bench_function("a_range_of_64", |b| {
        let mut height = 0;
        b.iter(|| {
            height = (height + 7919) % (filling.next - 65);
            black_box(filling.store.blocks(sample::h(height + 1), 64, usize::MAX)).expect("sound")
        });
    });
    group.finish();
    drop(filling.dir);
}

criterion_group!(benches, append, read);
criterion_main!(benches);
