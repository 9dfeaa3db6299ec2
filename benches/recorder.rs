//! The recorder's share of a sync's CPU.
//!
//! `cargo bench --bench recorder [-- BLOCKS [PAIRS]]`: blocks of 100 validators from four peers in
//! memory, anchored, LMDB. A sync with the recorder and one without make a pair, in changing order;
//! of each the CPU time of the whole process counts, so that other work on the machine hardly does.
//! The ratio is the median of the pairs' own. Two parts of it are measured alone, since they are
//! smaller than what two runs of a sync differ by: the encoding, by doing it once more for all that
//! a sync was recorded to have given its scheduler, and the time of the thread that writes.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use blocksync::app::KvStore;
use blocksync::ids::Height;
use blocksync::pool::record::{Encoder, Replay, Step};
use blocksync::service::{BlockSync, Config, Recording, RecordingFile};
use blocksync::store::{LmdbOptions, LmdbStore};
use blocksync_testkit::chain::TestChain;
use blocksync_testkit::peers::{Behaviour, scripted};
use blocksync_testkit::recorded::{Recorded, clock};
use rustix::time::{ClockId, clock_gettime};

const VALIDATORS: usize = 100;
/// Bytes after which a recorder gives away what it has encoded.
const CHUNK: usize = 64 << 10;
/// Name of the thread that writes.
const WRITER: &str = "recorder";

fn main() {
    let args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    let mut numbers = args.map(|n| n.parse().expect("a number"));
    let blocks = numbers.next().unwrap_or(4000);
    let pairs = numbers.next().unwrap_or(15);
    let made = TestChain::builder(1)
        .validators(VALIDATORS)
        .heights(blocks)
        .txs(4, 200)
        .build();
    let chain = Recorded::of(&made);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    println!("{cores} cores, {blocks} blocks of {VALIDATORS} validators, anchored");
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("flight");
    let (mut ratios, mut plain, mut writer) = (Vec::new(), Vec::new(), Vec::new());
    for n in 0..pairs {
        let run = |record| sync(&made, &chain, record);
        let (without, with) = if n % 2 == 0 {
            let without = run(None);
            (without, run(Some(&*file)))
        } else {
            let with = run(Some(&*file));
            (run(None), with)
        };
        let (a, b) = (without.process, with.process);
        println!("  {a:.1} µs of CPU a block without, {b:.1} with");
        ratios.push(b / a);
        plain.push(a);
        writer.push(with.writer);
    }
    let (encoding, inputs) = encoding(&file);
    let blocks = blocks as f64;
    let (encoding, inputs) = (encoding / blocks, inputs as f64 / blocks);
    let (plain, writer) = (median(plain), median(writer));
    println!(
        "with the recorder: {:.4} of the CPU without",
        median(ratios)
    );
    println!(
        "alone: encoding {encoding:.3} µs a block ({inputs:.2} inputs), writing {writer:.3} µs: {:.2} % of {plain:.1} µs",
        (encoding + writer) / plain * 100.0
    );
}

/// CPU time of one sync, in microseconds a block: of the process, and of the thread that writes.
struct Run {
    process: f64,
    writer: f64,
}

fn sync(made: &TestChain, chain: &Arc<Recorded>, record: Option<&Path>) -> Run {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let dir = tempfile::tempdir().expect("a directory");
        let store = LmdbStore::open(dir.path(), &LmdbOptions::default()).expect("a store");
        let last = made.height().prev();
        let mut config = Config::default();
        config.clock = clock;
        config.pool.until = Some(last);
        config.record = record.map(|file| {
            let mut recording = Recording::new(file);
            recording.bytes = 1 << 30; // one part
            recording
        });
        let begun = cpu();
        let sync = BlockSync::builder(Arc::new(store), KvStore::new(), made.genesis.clone());
        let handle = sync.config(config).spawn().await.expect("a service");
        for n in 1..=4 {
            let peer = scripted(chain, n, Behaviour::Honest, Duration::ZERO);
            handle.add_peer(peer).await.expect("a service");
        }
        let mut status = handle.status();
        let done = status.wait_for(|s| s.applied == last).await;
        done.expect("a service");
        let blocks = last.above(Height::ZERO) as f64;
        let process = (cpu() - begun) / blocks;
        let writer = thread_cpu(WRITER) / blocks;
        handle.stop().await;
        Run { process, writer }
    })
}

/// Microseconds that the encoding of a whole recording takes, the best of five, and its inputs.
fn encoding(file: &Path) -> (f64, usize) {
    let read = RecordingFile::read(file).expect("a recording");
    let mut replay = Replay::new(&[]);
    let mut steps = Vec::new();
    for entries in read.entries() {
        replay.go_on(entries);
        while let Some(step) = replay.step().expect("whole") {
            if let Step::Input {
                now,
                input,
                effects,
            } = step
            {
                steps.push((now, input, effects));
            }
        }
    }
    let once = || {
        let (mut encoder, mut out) = (Encoder::default(), Vec::with_capacity(CHUNK));
        let begun = cpu();
        for (now, input, effects) in &steps {
            encoder.input(input, *now, &mut out);
            encoder.effects(effects);
            if out.len() >= CHUNK {
                encoder.digest(&mut out);
                black_box(&out);
                out.clear();
            }
        }
        cpu() - begun
    };
    let best = (0..5).map(|_| once()).min_by(f64::total_cmp);
    (best.expect("five"), steps.len())
}

/// CPU time of this process, in microseconds.
fn cpu() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 * 1e6 + time.tv_nsec as f64 / 1e3
}

/// CPU time of the threads with this name, in microseconds.
fn thread_cpu(name: &str) -> f64 {
    let tasks = std::fs::read_dir("/proc/self/task").expect("Linux");
    let tasks = tasks.filter_map(|task| Some(task.ok()?.path()));
    let named = tasks.filter(|task| {
        std::fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.trim() == name)
    });
    let nanos = named.filter_map(|task| {
        let stat = std::fs::read_to_string(task.join("schedstat")).ok()?;
        stat.split(' ').next()?.parse::<f64>().ok()
    });
    nanos.sum::<f64>() / 1e3
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
