//! What others may ask of us: P33, P34 and L17.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use blocksync::chain::testkit::TestChain;
use blocksync::chain::{ChainState, ConsensusParams, Header, ValidatorSet};
use blocksync::ids::{BlockId, Hash, Height};
use blocksync::service::{Offload, Request, ServeConfig, Served, Server};
use blocksync::store::faulty::{Accident, FaultyStore};
use blocksync::store::{
    Batch, BlockRecord, LmdbOptions, LmdbStore, MemStore, Span, Store, StoreError,
};
use blocksync::wire::Message;
use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use crate::common::made::{filled, record};
use crate::report;

/// A store that counts how often blocks are read.
struct Counted(MemStore, AtomicU64);

impl Store for Counted {
    fn span(&self) -> Result<Span, StoreError> {
        self.0.span()
    }

    fn block(&self, height: Height) -> Result<Option<BlockRecord>, StoreError> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.block(height)
    }

    fn blocks(&self, from: Height, n: u32, bytes: usize) -> Result<Vec<BlockRecord>, StoreError> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.blocks(from, n, bytes)
    }

    fn header(&self, height: Height) -> Result<Option<(Header, BlockId)>, StoreError> {
        self.0.header(height)
    }

    fn commit_for(&self, height: Height) -> Result<Option<Bytes>, StoreError> {
        self.0.commit_for(height)
    }

    fn seen_commit(&self, height: Height) -> Result<Option<Bytes>, StoreError> {
        self.0.seen_commit(height)
    }

    fn state(&self) -> Result<Option<ChainState>, StoreError> {
        self.0.state()
    }

    fn validators(&self, height: Height) -> Result<Option<Arc<ValidatorSet>>, StoreError> {
        self.0.validators(height)
    }

    fn params(&self, height: Height) -> Result<Option<ConsensusParams>, StoreError> {
        self.0.params(height)
    }

    fn results(&self) -> Result<Option<(Height, Bytes)>, StoreError> {
        self.0.results()
    }

    fn has_evidence(&self, identity: &Hash) -> Result<bool, StoreError> {
        self.0.has_evidence(identity)
    }

    fn app_get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.0.app_get(key)
    }

    fn app_scan(&self, prefix: &[u8]) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        self.0.app_scan(prefix)
    }

    fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        self.0.commit(batch)
    }
}

struct Client {
    requests: mpsc::Sender<Request>,
    answers: mpsc::Receiver<Bytes>,
    hangup: CancellationToken,
}

fn client(server: &Server, outbox: usize) -> Client {
    let (requests, waiting) = mpsc::channel(server.queue_len());
    let (out, answers) = mpsc::channel(outbox);
    let hangup = CancellationToken::new();
    tokio::spawn(server.clone().serve(waiting, out, hangup.clone()));
    Client {
        requests,
        answers,
        hangup,
    }
}

fn server(store: Arc<dyn Store>, base: u64, height: u64, config: ServeConfig) -> Server {
    let served = Served {
        base: Height::new(base),
        height: Height::new(height),
    };
    let (keep, served) = watch::channel(served);
    std::mem::forget(keep); // as long as the process: the range does not change here
    Server::new(store, served, config, Offload::inline())
}

#[tokio::test(start_paused = true)]
async fn p34_requests_out_of_range() {
    let made = TestChain::builder(1).heights(20).build();
    let store = Arc::new(Counted(filled(&made), AtomicU64::new(0)));
    // Blocks below 5 are taken to be pruned.
    let config = ServeConfig::default();
    let server = server(store.clone(), 5, 20, config);
    let mut client = client(&server, 1024);
    let cases = [
        (0, 0, 1),                       // no height
        (21, 0, 1),                      // the future
        (i64::MAX as u64, 0, 1),         // the far future
        (4, 0, 1),                       // pruned
        (1, u32::MAX, config.max_range), // pruned, as many as can be asked
        (21, u32::MAX, config.max_range),
        (u64::MAX, u32::MAX, config.max_range),
    ];
    for (from, count, most) in cases {
        let request = Request {
            from: Height::new(from),
            count,
        };
        client.requests.send(request).await.unwrap();
        tokio::task::yield_now().await;
        tokio::time::sleep(Duration::from_millis(1)).await;
        let mut answers = 0;
        while let Ok(answer) = client.answers.try_recv() {
            let none = matches!(Message::decode_small(&answer), Ok(Message::NoBlock { .. }));
            assert!(none, "{from}, {count}");
            answers += 1;
        }
        assert!(answers <= most, "{from}, {count}: {answers} answers");
        assert!(
            answers >= 1 || from == u64::MAX,
            "{from}, {count}: no answer"
        );
        let reads = store.1.load(Ordering::Relaxed);
        println!(
            "P34, {count} from {from}: measured {reads} reads and {answers} small answers, allowed 0 and {most}"
        );
        assert_eq!(reads, 0);
    }
    // What is there, as much as both limits allow and no more.
    let from = Height::new(18);
    client
        .requests
        .send(Request { from, count: 9 })
        .await
        .unwrap();
    let mut heights = 0;
    while heights < 9 {
        let answer = client.answers.recv().await.unwrap();
        heights += 1;
        let block = matches!(Message::decode(&answer), Ok(Message::Block(_)));
        assert_eq!(block, heights <= 3);
    }
    client.hangup.cancel();
}

/// Many that ask for everything and read nothing, and one that reads.
async fn flood(flooders: usize) {
    let made = TestChain::builder(1).heights(60).txs(4, 20_000).build();
    let store = Arc::new(filled(&made));
    let block = made.at(Height::new(30)).fetched.raw.len();
    let config = ServeConfig {
        bytes_in_flight: 4 << 20,
        ..ServeConfig::default()
    };
    let server = server(store, 1, 60, config);
    let mut idle = Vec::new();
    for _ in 0..flooders {
        let client = client(&server, blocksync::link::LINK_CAPACITY);
        let mut refused = 0;
        for n in 0..20_000u64 {
            let from = Height::new(1 + n % 60);
            refused += u32::from(
                client
                    .requests
                    .try_send(Request { from, count: 0 })
                    .is_err(),
            );
        }
        assert!(refused > 0, "no more than the queue holds");
        idle.push(client);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let held: usize = idle.iter_mut().map(|c| c.answers.len() * block).sum();
    let allowed = config.bytes_in_flight + (flooders + 1) * (block + 1024);
    println!("P33, {flooders} flooders: measured {held} bytes held allowed {allowed}");
    assert!(held <= allowed);
    let begun = tokio::time::Instant::now();
    let mut reader = client(&server, 64);
    for n in 1..=60u64 {
        let from = Height::new(n);
        reader
            .requests
            .send(Request { from, count: 0 })
            .await
            .unwrap();
        let answer = tokio::time::timeout(Duration::from_secs(10), reader.answers.recv()).await;
        let Ok(Some(answer)) = answer else {
            panic!("P33: block {n} is not served while {flooders} others do not read");
        };
        assert!(matches!(Message::decode(&answer), Ok(Message::Block(_))));
    }
    // Without others it takes no virtual time at all.
    report("P33, 60 blocks", begun.elapsed(), Duration::from_millis(1));
    idle.iter().for_each(|c| c.hangup.cancel());
}

#[tokio::test(start_paused = true)]
async fn p33_one_floods_with_requests() {
    flood(1).await;
}

#[tokio::test(start_paused = true)]
async fn p33_a_hundred_flood_with_requests() {
    flood(100).await;
}

/// Writes the chain, four blocks at a time, and prunes all but the last forty.
async fn writes(made: TestChain, store: Arc<LmdbStore>, range: watch::Sender<Served>) {
    for blocks in made.blocks.chunks(4) {
        let height = blocks[blocks.len() - 1].fetched.height();
        let keep = Height::new((height.get() + 1).saturating_sub(40));
        let batch = Batch {
            blocks: blocks.iter().map(|b| record(&b.fetched)).collect(),
            state: Some(Arc::new(made.state_after(height).clone())),
            prune: (keep > Height::ZERO).then_some((keep, Height::ZERO)),
            ..Batch::default()
        };
        store.commit(batch).unwrap();
        let base = keep.max(Height::new(1));
        range.send_replace(Served { base, height });
        tokio::task::yield_now().await;
    }
}

/// Asks for all heights in turn until the writer has ended; gives how many blocks and how often "no block" came.
async fn reads(made: TestChain, mut client: Client, first: u64, writer: AbortHandle) -> (u64, u64) {
    let (mut blocks, mut none, mut at) = (0, 0, first);
    while !writer.is_finished() || at % 400 != first {
        at += 1;
        let from = Height::new(1 + at % 400);
        let request = Request { from, count: 0 };
        client.requests.send(request).await.unwrap();
        match Message::decode(&client.answers.recv().await.unwrap()).unwrap() {
            Message::Block(b) => {
                let whole = b.block == made.at(from).fetched.raw;
                assert!(whole, "a torn read of {from}");
                blocks += 1;
            }
            Message::NoBlock { .. } => none += 1,
            other => panic!("{other:?}"),
        }
    }
    client.hangup.cancel();
    (blocks, none)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l17_the_pruner_runs_while_others_are_served() {
    // Real threads and a real disk: readers and the pruner meet where they like.
    let made = TestChain::builder(1).heights(400).txs(2, 3_000).build();
    let dir = tempfile::tempdir().unwrap();
    let options = LmdbOptions {
        map_size: 256 << 20,
    };
    let store = Arc::new(LmdbStore::open(dir.path(), &options).unwrap());
    let (range, served) = watch::channel(Served::default());
    let offload = Offload::threads(2).unwrap();
    let server = Server::new(store.clone(), served, ServeConfig::default(), offload);
    let writing = tokio::spawn(writes(made.clone(), store.clone(), range));
    let readers: Vec<_> = (0..4)
        .map(|n| reads(made.clone(), client(&server, 64), n, writing.abort_handle()))
        .map(tokio::spawn)
        .collect();
    writing.await.unwrap();
    let (mut blocks, mut none) = (0, 0);
    for reader in readers {
        let (b, n) = reader.await.unwrap();
        (blocks, none) = (blocks + b, none + n);
    }
    let base = store.span().unwrap().base;
    println!(
        "L17: {blocks} blocks and {none} \"no block\" served beside the pruner; measured 0 errors allowed 0; base {base}"
    );
    assert!(blocks > 0 && base > Height::new(1));
}

#[tokio::test(start_paused = true)]
async fn l06_what_cannot_be_read_is_answered_no_block() {
    let made = TestChain::builder(1).heights(20).build();
    let broken = FaultyStore::with_plan(Arc::new(filled(&made)), 1, Accident::KilledBefore);
    broken.commit(Batch::default()).unwrap_err();
    let server = server(Arc::new(broken), 1, 20, ServeConfig::default());
    let mut client = client(&server, 64);
    for (count, answers) in [(0, 1), (9, 9)] {
        let from = Height::new(5);
        client.requests.send(Request { from, count }).await.unwrap();
        for _ in 0..answers {
            let answer = client.answers.recv().await.unwrap();
            let none = matches!(Message::decode_small(&answer), Ok(Message::NoBlock { .. }));
            assert!(none);
        }
    }
    client.hangup.cancel();
}
