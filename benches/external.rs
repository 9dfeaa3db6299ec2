//! The cost of a sync beside an external application that takes its time: blocks a second of the
//! application alone, driven over loopback by nothing but the calls, and of a whole sync into it,
//! with the store on the disk that the build is on, and with one in memory: that is the most that
//! fewer fsyncs of ours could bring.
//!
//! `cargo bench --bench external [-- BLOCKS [MICROSECONDS]]`. The application computes for 2000 µs
//! in `FinalizeBlock`, and in `Commit` writes 16 KiB and makes them durable, as one of the Cosmos
//! SDK does. Runs alternate; the best of three of each counts.

use std::io::{Seek, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use blocksync::app::{AbciClient, App};
use blocksync::chain::FinalizeBlock;
use blocksync::ids::Height;
use blocksync::service::{BlockSync, Config};
use blocksync::store::{LmdbOptions, LmdbStore, MemStore, Store};
use blocksync::wire::proto::abci::{self, request, response};
use blocksync_testkit::chain::TestChain;
use blocksync_testkit::peers::{Behaviour, scripted};
use blocksync_testkit::recorded::{Recorded, clock};
use bytes::{Buf, BytesMut};
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const RUNS: usize = 3;
/// Bytes that the application makes durable with each block.
const STATE: usize = 16 << 10;

/// The application: it counts transactions, as kvstore does.
struct Slow {
    work: Duration,
    disk: std::fs::File,
    size: i64,
    height: i64,
}

impl Slow {
    fn answer(&mut self, value: request::Value) -> response::Value {
        match value {
            request::Value::Echo(echo) => response::Value::Echo(abci::ResponseEcho {
                message: echo.message,
            }),
            request::Value::Info(_) => response::Value::Info(abci::ResponseInfo {
                app_version: 1,
                last_block_height: self.height,
                last_block_app_hash: app_hash(if self.height > 0 { self.size } else { 0 }),
                ..Default::default()
            }),
            request::Value::InitChain(_) => response::Value::InitChain(abci::ResponseInitChain {
                app_hash: app_hash(0),
                ..Default::default()
            }),
            request::Value::FinalizeBlock(block) => {
                let begun = Instant::now();
                while begun.elapsed() < self.work {
                    std::hint::spin_loop();
                }
                self.size += i64::try_from(block.txs.len()).expect("few");
                self.height = block.height;
                response::Value::FinalizeBlock(abci::ResponseFinalizeBlock {
                    tx_results: vec![Default::default(); block.txs.len()],
                    app_hash: app_hash(self.size),
                    ..Default::default()
                })
            }
            request::Value::Commit(_) => {
                self.disk.rewind().expect("a file");
                self.disk.write_all(&[7; STATE]).expect("room");
                self.disk.sync_data().expect("a disk");
                response::Value::Commit(abci::ResponseCommit::default())
            }
            other => panic!("not sent: {other:?}"),
        }
    }

    async fn serve(mut self, listener: TcpListener) {
        let (mut socket, _) = listener.accept().await.expect("a client");
        socket.set_nodelay(true).expect("a socket");
        let mut buffer = BytesMut::new();
        let mut out = Vec::new();
        while let Some(request) = read(&mut socket, &mut buffer).await {
            let flush = matches!(request, request::Value::Flush(_));
            let value = if flush {
                response::Value::Flush(abci::ResponseFlush {})
            } else {
                self.answer(request)
            };
            let response = abci::Response { value: Some(value) };
            response.encode_length_delimited(&mut out).expect("memory");
            if flush {
                socket.write_all(&out).await.expect("a client");
                out.clear();
            }
        }
    }
}

/// The kvstore's: a zig-zag varint in eight bytes.
fn app_hash(size: i64) -> bytes::Bytes {
    let mut hash = Vec::with_capacity(8);
    blocksync::varint::put((size << 1) as u64, &mut hash);
    hash.resize(8, 0);
    hash.into()
}

async fn read(socket: &mut TcpStream, buffer: &mut BytesMut) -> Option<request::Value> {
    loop {
        let mut head = &buffer[..];
        if let Ok(length) = prost::encoding::decode_varint(&mut head)
            && head.remaining() as u64 >= length
        {
            let skip = buffer.len() - head.len();
            buffer.advance(skip);
            let message = buffer
                .split_to(usize::try_from(length).expect("short"))
                .freeze();
            return abci::Request::decode(message).expect("a request").value;
        }
        if socket.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
}

/// Starts an application on a thread of its own; its address.
fn start(work: Duration, dir: &Path) -> String {
    let disk = std::fs::File::create(dir.join("application")).expect("a directory");
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.expect("a runtime").block_on(async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            tell.send(listener.local_addr().expect("bound"))
                .expect("somebody waits");
            let (size, height) = (0, 0);
            Slow {
                work,
                disk,
                size,
                height,
            }
            .serve(listener)
            .await;
        });
    });
    format!("tcp://{}", told.recv().expect("an address"))
}

fn requests(made: &TestChain) -> Vec<FinalizeBlock> {
    let blocks = made.blocks.iter().map(|b| &b.fetched);
    let request = |block: &blocksync::chain::Fetched| {
        let before = made.state_after(block.height().prev());
        let last = before.last_validators.as_deref();
        FinalizeBlock::from_block(&block.block, block.id, last, before.initial_height)
    };
    blocks
        .map(|b| request(b).expect("a block of the chain"))
        .collect()
}

/// Blocks a second of the application alone.
async fn alone(made: &TestChain, work: Duration, dir: &Path) -> f64 {
    let mut app = AbciClient::new(&start(work, dir)).expect("an address");
    app.info().await.expect("an application");
    let requests = requests(made);
    let begun = Instant::now();
    for request in requests.into_iter().take(made.blocks.len() - 1) {
        app.finalize_block(request).await.expect("a block");
        app.commit().await.expect("a commit");
    }
    (made.blocks.len() - 1) as f64 / begun.elapsed().as_secs_f64()
}

/// Blocks a second of a sync into it, from the first block applied to the last.
async fn synced(
    made: &TestChain,
    chain: &Arc<Recorded>,
    work: Duration,
    dir: &Path,
    store: Arc<dyn Store>,
) -> f64 {
    let app = AbciClient::new(&start(work, dir)).expect("an address");
    let last = made.height().prev();
    let mut config = Config::default();
    config.clock = clock;
    config.pool.until = Some(last);
    let sync = BlockSync::builder(store, app, made.genesis.clone()).config(config);
    let handle = sync.spawn().await.expect("a service");
    let peer = scripted(chain, 1, Behaviour::Honest, Duration::ZERO);
    handle.add_peer(peer).await.expect("a service");
    let mut status = handle.status();
    let first = Height::new(1);
    status
        .wait_for(|s| s.applied >= first)
        .await
        .expect("a service");
    let (begun, from) = (Instant::now(), status.borrow().applied);
    status
        .wait_for(|s| s.applied == last)
        .await
        .expect("a service");
    let rate = last.above(from) as f64 / begun.elapsed().as_secs_f64();
    handle.stop().await;
    rate
}

fn main() {
    let numbers: Vec<u64> = std::env::args().filter_map(|a| a.parse().ok()).collect();
    let heights = numbers.first().copied().unwrap_or(1500);
    let work = Duration::from_micros(numbers.get(1).copied().unwrap_or(2000));
    let made = TestChain::builder(1).txs(4, 200);
    let made = made
        .heights(usize::try_from(heights).expect("few") + 1)
        .build();
    let chain = Recorded::of(&made);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let (mut best_alone, mut best_synced, mut best_free) = (0.0f64, 0.0f64, 0.0f64);
    for _ in 0..RUNS {
        let place = || tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
        let (one, two, three) = (place(), place(), place());
        best_alone = best_alone.max(runtime.block_on(alone(&made, work, one.path())));
        let path = two.path().join("store");
        let disk = LmdbStore::open(&path, &LmdbOptions::default()).expect("a store");
        let run = synced(&made, &chain, work, two.path(), Arc::new(disk));
        best_synced = best_synced.max(runtime.block_on(run));
        let memory = Arc::new(MemStore::new());
        let run = synced(&made, &chain, work, three.path(), memory);
        best_free = best_free.max(runtime.block_on(run));
    }
    let (share, free) = (best_synced / best_alone, best_free / best_alone);
    println!(
        "{heights} blocks, {work:?} of execution each: {best_alone:.0} blocks/s alone, {best_synced:.0} synced, {share:.3} of it; \
         {best_free:.0} with a store in memory, {free:.3}"
    );
}
