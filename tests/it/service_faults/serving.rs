//! Serving others: P33, P34 and L17.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use blocksync::chain::{ChainState, ConsensusParams, Header, ValidatorSet};
use blocksync::ids::{BlockId, Hash, Height, PeerId};
use blocksync::service::{Offload, Request, ServeConfig, Served, Server};
use blocksync::store::{
    Batch, BlockRecord, LmdbOptions, LmdbStore, MemStore, Span, Store, StoreError,
};
use blocksync::wire::Message;
use blocksync_testkit::chain::TestChain;
use blocksync_testkit::store::faulty::{Accident, FaultyStore};
use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use crate::service_faults::report;
use blocksync_testkit::made::{filled, record};

/// A store that tells of each read of blocks: from which height, and how many bytes were found.
pub(crate) struct Watched(pub MemStore, pub Box<dyn Fn(Height, usize) + Send + Sync>);

impl Store for Watched {
    fn span(&self) -> Result<Span, StoreError> {
        self.0.span()
    }

    fn block(&self, height: Height) -> Result<Option<BlockRecord>, StoreError> {
        let found = self.0.block(height)?;
        (self.1)(height, found.as_ref().map_or(0, |r| r.raw.len()));
        Ok(found)
    }

    fn blocks(&self, from: Height, n: u32, bytes: usize) -> Result<Vec<BlockRecord>, StoreError> {
        let found = self.0.blocks(from, n, bytes)?;
        (self.1)(from, found.iter().map(|r| r.raw.len()).sum());
        Ok(found)
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

    fn recorded_validators(
        &self,
        height: Height,
    ) -> Result<Option<(Height, Arc<ValidatorSet>)>, StoreError> {
        self.0.recorded_validators(height)
    }

    fn params(&self, height: Height) -> Result<Option<ConsensusParams>, StoreError> {
        self.0.params(height)
    }

    fn results(&self) -> Result<Option<(Height, Bytes)>, StoreError> {
        self.0.results()
    }

    fn results_at(&self, height: Height) -> Result<Option<Bytes>, StoreError> {
        self.0.results_at(height)
    }

    fn height_of(&self, hash: &Hash) -> Result<Option<Height>, StoreError> {
        self.0.height_of(hash)
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

pub(crate) struct Client {
    pub requests: mpsc::Sender<Request>,
    pub answers: mpsc::Receiver<Bytes>,
    pub hangup: CancellationToken,
}

pub(crate) fn client(server: &Server, outbox: usize) -> Client {
    let (requests, waiting) = mpsc::channel(server.queue_len());
    let (out, answers) = mpsc::channel(outbox);
    let hangup = CancellationToken::new();
    tokio::spawn(
        server
            .clone()
            .serve(server.lane(PeerId([9; 20])), waiting, out, hangup.clone()),
    );
    Client {
        requests,
        answers,
        hangup,
    }
}

fn server(store: Arc<dyn Store>, base: u64, height: u64, config: ServeConfig) -> Server {
    server_with(store, base, height, config, Offload::inline())
}

pub(crate) fn server_with(
    store: Arc<dyn Store>,
    base: u64,
    height: u64,
    config: ServeConfig,
    offload: Offload,
) -> Server {
    let served = Served {
        base: Height::new(base),
        height: Height::new(height),
        behind: false,
    };
    let (keep, served) = watch::channel(served);
    std::mem::forget(keep); // as long as the process: the range does not change here
    Server::new(store, served, config, offload)
}

#[tokio::test(start_paused = true)]
async fn p34_requests_out_of_range() {
    let made = TestChain::builder(1).heights(20).build();
    let counted = Arc::new(AtomicU64::new(0));
    let count = counted.clone();
    let seen = move |_, _| {
        count.fetch_add(1, Ordering::Relaxed);
    };
    let store = Arc::new(Watched(filled(&made), Box::new(seen)));
    // Blocks below 5 are taken to be pruned.
    let config = ServeConfig::default();
    let server = server(store, 5, 20, config);
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
        let reads = counted.load(Ordering::Relaxed);
        println!(
            "P34, {count} from {from}: measured {reads} reads and {answers} small answers, allowed 0 and {most}"
        );
        assert_eq!(reads, 0);
    }
    // All that is there, as far as both limits allow.
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

#[tokio::test(start_paused = true)]
async fn r41_r42_as_many_as_both_limits_allow() {
    let made = TestChain::builder(1).heights(20).build();
    let mut config = ServeConfig::default();
    config.max_range = 6;
    let server = server(Arc::new(filled(&made)), 1, 20, config);
    let mut client = client(&server, 1024);
    // None at all is CometBFT's request for one.
    for (count, expected) in [(0, 1), (1, 1), (5, 5), (6, 6), (7, 6), (u32::MAX, 6)] {
        let from = Height::new(3);
        client.requests.send(Request { from, count }).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        let mut heights = Vec::new();
        while let Ok(answer) = client.answers.try_recv() {
            let Ok(Message::Block(block)) = Message::decode(&answer) else {
                panic!("{count}: no block");
            };
            let at = made.blocks.iter().find(|b| b.fetched.raw == block.block);
            heights.push(at.unwrap().fetched.height().get());
        }
        let wanted: Vec<u64> = (3..3 + expected).collect();
        assert_eq!(heights, wanted, "{count} from 3");
    }
    client.hangup.cancel();
}

#[tokio::test(start_paused = true)]
async fn what_is_stored_above_the_applied_height_is_not_served() {
    let made = TestChain::builder(1).heights(20).build();
    // An external application has 18 behind it; 19 and 20 are stored.
    let server = server(Arc::new(filled(&made)), 1, 18, ServeConfig::default());
    let mut client = client(&server, 64);
    let (from, count) = (Height::new(17), 4);
    client.requests.send(Request { from, count }).await.unwrap();
    for height in 17..=20 {
        let answer = client.answers.recv().await.unwrap();
        let block = matches!(Message::decode(&answer), Ok(Message::Block(_)));
        assert_eq!(block, height <= 18, "{height}");
    }
    client.hangup.cancel();
}

/// The flood: number of peers that ask for everything, each time for `count` heights, and read
/// nothing; and the size of the blocks.
struct Flood {
    flooders: usize,
    count: u32,
    block_bytes: usize,
    bytes_in_flight: usize,
}

const FLOOD: Flood = Flood {
    flooders: 1,
    count: 0,
    block_bytes: 80_000,
    bytes_in_flight: 4 << 20,
};

/// Bytes read for all peers in one turn of each, beside one block, and the least of one.
const READ_BYTES: usize = 512 << 10;
const LEAST_READ: usize = 64 << 10;
const HEIGHTS: u64 = 24;

impl Flood {
    fn begin(&self, server: &Server) -> Vec<Client> {
        let flooder = |_| {
            let client = client(server, blocksync::link::LINK_CAPACITY);
            let mut refused = 0;
            for n in 0..20_000u64 {
                let (from, count) = (Height::new(1 + n % HEIGHTS), self.count);
                refused += u32::from(client.requests.try_send(Request { from, count }).is_err());
            }
            assert!(refused > 0, "no more than the queue holds");
            client
        };
        (0..self.flooders).map(flooder).collect()
    }

    /// One that reads is answered as if nobody else were there, one request after the other and all
    /// at once.
    async fn run(self, row: &str) {
        let made = TestChain::builder(1).heights(HEIGHTS as usize);
        let made = made.txs(1, self.block_bytes).build();
        let block = made.at(Height::new(9)).fetched.raw.len();
        let mut config = ServeConfig::default();
        config.bytes_in_flight = self.bytes_in_flight;
        let server = server(Arc::new(filled(&made)), 1, HEIGHTS, config);
        let idle = self.begin(&server);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let held: Vec<usize> = idle.iter().map(|c| c.answers.len() * block).collect();
        let (most, held) = (*held.iter().max().unwrap(), held.iter().sum::<usize>());
        let read = (READ_BYTES / self.flooders).max(LEAST_READ);
        // One of them has no more than what was read in two turns; the first came alone.
        let two = READ_BYTES + read + 2 * (block + 1024);
        println!("P33, one of {row}: measured {most} bytes held allowed {two}");
        assert!(most <= two && most > 0);
        let allowed = self.bytes_in_flight + (self.flooders + 1) * (read + block + 1024);
        println!("P33, {row}: measured {held} bytes held allowed {allowed}");
        assert!(held <= allowed);
        let begun = tokio::time::Instant::now();
        let mut reader = client(&server, 64);
        for at_once in [1, HEIGHTS] {
            for first in (1..=HEIGHTS).step_by(at_once as usize) {
                for n in first..first + at_once {
                    let (from, count) = (Height::new(n), 0);
                    let asked = reader.requests.send(Request { from, count });
                    asked.await.unwrap();
                }
                for n in first..first + at_once {
                    let patience = Duration::from_secs(10);
                    let answer = tokio::time::timeout(patience, reader.answers.recv()).await;
                    let Ok(Some(answer)) = answer else {
                        panic!("P33, {row}: block {n} is not served while others do not read");
                    };
                    assert!(matches!(Message::decode(&answer), Ok(Message::Block(_))));
                }
            }
        }
        // Without others it takes no virtual time at all.
        let allowed = Duration::from_millis(1);
        report(
            &format!("P33, {row}, all blocks twice"),
            begun.elapsed(),
            allowed,
        );
        idle.iter().for_each(|c| c.hangup.cancel());
    }
}

#[tokio::test(start_paused = true)]
async fn p33_one_floods_with_requests() {
    FLOOD.run("1 flooder").await;
    let ranges = Flood { count: 64, ..FLOOD };
    ranges.run("1 flooder with ranges").await;
}

#[tokio::test(start_paused = true)]
async fn p33_a_hundred_flood_with_requests() {
    let flooders = 100;
    Flood { flooders, ..FLOOD }.run("100 flooders").await;
    let ranges = Flood {
        flooders,
        count: 64,
        ..FLOOD
    };
    ranges.run("100 flooders with ranges").await;
}

#[tokio::test(start_paused = true)]
async fn p33_peers_that_read_nothing_of_large_blocks() {
    // Eight of them hold all that is shared; so there is none left for the others.
    for flooders in [4, 8, 12] {
        let large = Flood {
            flooders,
            count: 0,
            block_bytes: 1_500_000,
            bytes_in_flight: 16 << 20,
        };
        large
            .run(&format!("{flooders} flooders, blocks of 1.5 MB"))
            .await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_on_its_way_to_a_peer_may_take_its_time() {
    let made = TestChain::builder(1).heights(4).txs(1, 80_000).build();
    let server = server(Arc::new(filled(&made)), 1, 4, ServeConfig::default());
    let (lane, (out, mut answers)) = (server.lane(PeerId([9; 20])), mpsc::channel(64));
    let (requests, waiting) = mpsc::channel(server.queue_len());
    let hangup = CancellationToken::new();
    tokio::spawn(server.serve(lane.clone(), waiting, out, hangup.clone()));
    let now = tokio::time::Instant::now();
    assert_eq!(lane.taken(), Some(now), "nothing was sent");
    let (from, count) = (Height::new(1), 0);
    requests.send(Request { from, count }).await.unwrap();
    let answer = answers.recv().await.unwrap();
    assert_eq!(lane.taken(), None, "the transport has it");
    let bytes = answer.len() as u64;
    drop(answer);
    // 8 KiB a second is the slowest that is borne.
    let slow = Duration::from_micros(bytes * 1_000_000 / 8192);
    assert_eq!(lane.taken(), Some(now + slow));
    for _ in 0..10 {
        requests.send(Request { from, count }).await.unwrap();
        drop(answers.recv().await.unwrap());
    }
    tokio::task::yield_now().await;
    assert_eq!(
        lane.taken(),
        Some(now + Duration::from_secs(60)),
        "not for ever"
    );
    hangup.cancel();
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
        range.send_replace(Served {
            base,
            height,
            behind: false,
        });
        tokio::task::yield_now().await;
    }
}

/// Asks for all heights in turn until the writer has ended; gives how many blocks and how often "no
/// block" came.
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
    let options = LmdbOptions::with_map_size(256 << 20);
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
