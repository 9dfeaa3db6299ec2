//! How fast a program is handed blocks with their results while they are synced, and writes them as
//! lines of JSON into a file: blocks and megabytes a second, beside a sync without an observer.
//!
//! `cargo bench -p blocksync-http --bench observer [-- BLOCKS]`. Runs alternate; the medians count.

mod shared;

use std::io::{BufWriter, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use blocksync::app::KvStore;
use blocksync::ids::Height;
use blocksync::service::{AppliedBlock, BlockSync, Config, RetainResults};
use blocksync::store::{LmdbOptions, LmdbStore};
use blocksync_http::json::{self, Json};
use blocksync_testkit::chain::TestChain;
use blocksync_testkit::peers::{Behaviour, scripted};
use blocksync_testkit::recorded::{Recorded, clock};
use shared::median;
use tokio::sync::mpsc;

const ROUNDS: usize = 5;
const VALIDATORS: usize = 100;
/// Blocks that wait for the observer; then the service does.
const WAITING: usize = 64;

fn main() {
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    let blocks = args
        .next()
        .map_or(4000, |n| n.parse().expect("a number of blocks"));
    let made = TestChain::builder(1)
        .validators(VALIDATORS)
        .heights(blocks)
        .txs(16, 400)
        .build();
    let chain = Recorded::of(&made);
    let (mut alone, mut observed) = (Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        let (without, _) = sync(&made, &chain, false);
        let (with, megabytes) = sync(&made, &chain, true);
        println!(
            "round {round}: {without:.0} blocks/s alone, {with:.0} written, {megabytes:.0} MB/s"
        );
        alone.push(without);
        observed.push(with);
    }
    let (alone, observed) = (median(alone), median(observed));
    println!(
        "{blocks} blocks of {VALIDATORS} validators, 16 transactions of 400 bytes: {alone:.0} blocks/s alone, {observed:.0} written"
    );
}

/// Blocks a second, and megabytes a second that were written.
fn sync(made: &TestChain, chain: &Arc<Recorded>, observed: bool) -> (f64, f64) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let dir = tempfile::tempdir().expect("a directory");
        let store = LmdbStore::open(dir.path(), &LmdbOptions::default()).expect("a store");
        let last = made.height().prev();
        let mut config = Config::default();
        config.clock = clock;
        config.retain_results = RetainResults::All;
        config.pool.until = Some(last);
        let writing = observed.then(|| {
            let (observer, blocks) = mpsc::channel(WAITING);
            config.observer = Some(observer);
            let file = std::fs::File::create(dir.path().join("lines")).expect("a file");
            tokio::task::spawn_blocking(move || write(blocks, file, last))
        });
        let app = KvStore::new().with_events();
        let sync = BlockSync::builder(Arc::new(store), app, made.genesis.clone()).config(config);
        let handle = sync.spawn().await.expect("a service");
        let begun = Instant::now();
        for n in 1..=4 {
            let peer = scripted(chain, n, Behaviour::Honest, Duration::ZERO);
            handle.add_peer(peer).await.expect("a service");
        }
        let mut status = handle.status();
        let done = status.wait_for(|s| s.applied == last).await;
        done.expect("a service");
        // A service that is stopped hands nothing over any more: the writer comes first.
        let bytes = match writing {
            Some(bytes) => bytes.await.expect("a writer"),
            None => 0,
        };
        let seconds = begun.elapsed().as_secs_f64();
        handle.stop().await;
        (
            last.above(Height::ZERO) as f64 / seconds,
            bytes as f64 / seconds / 1e6,
        )
    })
}

/// Writes a line for each block up to the last one, and returns their bytes.
fn write(mut blocks: mpsc::Receiver<AppliedBlock>, file: std::fs::File, last: Height) -> u64 {
    let (mut file, mut bytes, mut height) = (BufWriter::new(file), 0, Height::ZERO);
    while height < last {
        let next = blocks.blocking_recv().expect("all blocks");
        assert_eq!(next.block.block.header.height, height.next(), "no gap");
        height = height.next();
        let mut line = Json::new();
        line.raw("{\"block\":");
        json::block(&mut line, &next.block.block);
        line.raw(",\"results\":");
        json::block_results(&mut line, height, next.response).expect("a response");
        line.raw("}\n");
        let line = line.into_bytes();
        file.write_all(&line).expect("a disk with room");
        bytes += line.len() as u64;
    }
    file.flush().expect("a disk with room");
    bytes
}
