//! PF6 of `faults.md` (a): what one greedy client gets of the disk and of the upload, and what that
//! costs the others. Both have a rate in simulated time: a disk that reads one thing after the
//! other, and a link that carries a piece of each connection in turn, as TCP does.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use blocksync::ids::Height;
use blocksync::service::{Offload, Request, ServeConfig, Server};
use blocksync_testkit::chain::TestChain;
use bytes::Bytes;
use futures::FutureExt;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::service_faults::report;
use crate::service_faults::serving::{Client, Watched, client, server_with};
use blocksync_testkit::made::filled;

/// Clients, the greedy one included.
const K: u64 = 8;
/// Heights of each, of which the greedy one has some more: so it is known for whom a block was
/// read.
const EACH: u64 = 60;
/// Blocks that each honest client takes.
const BLOCKS: u64 = 240;
/// Requests that an honest client has open.
const OPEN: u64 = 4;
/// Bytes of a connection that the link carries in its turn.
const PIECE: usize = 16 << 10;
const GREEDY: u64 = K - 1;

/// A disk: when it is free again, what the call that was just made takes, and how long it has read
/// for each client.
#[derive(Default)]
struct Disk {
    free: Mutex<Option<Instant>>,
    cost: Mutex<Duration>,
    read_for: Mutex<[Duration; K as usize]>,
}

impl Disk {
    fn reads(&self, from: Height, bytes: usize, rate: u64) {
        let seek = Duration::from_millis(2);
        let cost = seek + Duration::from_micros(bytes as u64 * 1_000_000 / rate);
        *self.cost.lock().unwrap() += cost;
        let who = ((from.get() - 1) / EACH).min(GREEDY);
        self.read_for.lock().unwrap()[who as usize] += cost;
    }

    /// When it will have done what it was just told.
    fn done(&self) -> Instant {
        let cost = std::mem::take(&mut *self.cost.lock().unwrap());
        let mut free = self.free.lock().unwrap();
        let done = free.map_or(Instant::now(), |at| at.max(Instant::now())) + cost;
        *free = Some(done);
        done
    }
}

/// Bytes a second of either.
struct Rates {
    disk: u64,
    upload: u64,
}

/// Result of a run.
struct Measured {
    /// The longest delay but for one in a hundred, of the honest clients' requests.
    p99: Duration,
    /// The greedy one's part of what the disk and the link can do, in thousandths.
    disk: u128,
    upload: u128,
}

/// State that all connections share.
struct Upload {
    link: Semaphore,
    rate: u64,
    sent: Mutex<[u64; K as usize]>,
}

impl Upload {
    /// Carries one client's answers, piece by piece in turn with the others'. Pieces that have been
    /// carried are let go of.
    async fn carry(
        self: Arc<Self>,
        who: u64,
        mut from: mpsc::Receiver<Bytes>,
        to: mpsc::Sender<usize>,
    ) {
        while let Some(answer) = from.recv().await {
            let mut left = answer.len();
            while left > 0 {
                let piece = left.min(PIECE);
                let turn = self.link.acquire().await.unwrap();
                sleep(Duration::from_micros(piece as u64 * 1_000_000 / self.rate)).await;
                drop(turn);
                self.sent.lock().unwrap()[who as usize] += piece as u64;
                left -= piece;
            }
            if to.send(answer.len()).await.is_err() {
                return;
            }
        }
    }
}

/// One client's requests, and its answers as they arrive.
fn connect(
    server: &Server,
    upload: &Arc<Upload>,
    who: u64,
) -> (mpsc::Sender<Request>, mpsc::Receiver<usize>) {
    let Client {
        requests, answers, ..
    } = client(server, blocksync::link::LINK_CAPACITY);
    let (to, arrived) = mpsc::channel(1);
    tokio::spawn(upload.clone().carry(who, answers, to));
    (requests, arrived)
}

/// Takes its blocks with a few single requests open, as CometBFT does; gives how long each took.
async fn honest(server: Server, upload: Arc<Upload>, who: u64) -> Vec<Duration> {
    let (requests, mut arrived) = connect(&server, &upload, who);
    let (mut asked, mut delays) = (Vec::new(), Vec::new());
    for n in 0..BLOCKS + OPEN {
        if n >= OPEN {
            assert!(arrived.recv().await.unwrap() > 10_000, "a block");
            let since: &Instant = &asked[delays.len()];
            delays.push(since.elapsed());
        }
        if n < BLOCKS {
            let from = Height::new(who * EACH + 1 + n % EACH);
            asked.push(Instant::now());
            requests.send(Request { from, count: 0 }).await.unwrap();
        }
    }
    delays
}

/// Asks for as much as it can, in ranges, for as long as it is let, and takes what comes.
async fn greedy(server: Server, upload: Arc<Upload>) {
    let (requests, mut arrived) = connect(&server, &upload, GREEDY);
    let from = Height::new(GREEDY * EACH + 1);
    loop {
        while requests.try_send(Request { from, count: 64 }).is_ok() {}
        arrived.recv().await.unwrap();
    }
}

async fn measure(made: &TestChain, rates: &Rates, flood: bool) -> Measured {
    let disk = Arc::new(Disk::default());
    let (watching, rate) = (disk.clone(), rates.disk);
    let seen = move |from, bytes| watching.reads(from, bytes, rate);
    let store = Arc::new(Watched(filled(made), Box::new(seen)));
    let reading = disk.clone();
    let offload = Offload::simulated(move || sleep_until(reading.done()).boxed());
    let mut config = ServeConfig::default();
    config.bytes_in_flight = 4 << 20;
    let server = server_with(store, 1, K * EACH + 64, config, offload);
    let upload = Arc::new(Upload {
        link: Semaphore::new(1),
        rate: rates.upload,
        sent: Mutex::default(),
    });
    let flooding = flood.then(|| tokio::spawn(greedy(server.clone(), upload.clone())));
    // It has begun, and has had what there is, before the others come.
    sleep(Duration::from_secs(2)).await;
    *disk.read_for.lock().unwrap() = Default::default();
    *upload.sent.lock().unwrap() = Default::default();
    let begun = Instant::now();
    let mut clients = JoinSet::new();
    for who in 0..GREEDY {
        clients.spawn(honest(server.clone(), upload.clone(), who));
    }
    let mut delays: Vec<Duration> = clients.join_all().await.into_iter().flatten().collect();
    delays.sort();
    let micros = begun.elapsed().as_micros();
    let read = disk.read_for.lock().unwrap()[GREEDY as usize];
    let sent = upload.sent.lock().unwrap()[GREEDY as usize];
    if let Some(flooding) = flooding {
        flooding.abort();
    }
    Measured {
        p99: delays[delays.len() * 99 / 100],
        disk: read.as_micros() * 1000 / micros,
        upload: u128::from(sent) * 1_000_000_000 / (u128::from(rates.upload) * micros),
    }
}

fn share(row: &str, measured: u128) {
    // The last of the honest ones to end is alone with the greedy one for a moment.
    let allowed = 1000 * 11 / 10 / u128::from(K);
    println!("{row}: measured {measured} of 1000 allowed {allowed}");
    assert!(measured <= allowed, "{row}");
}

#[tokio::test(start_paused = true)]
async fn pf6_a_greedy_client() {
    let blocks = (K * EACH + 64) as usize;
    let made = TestChain::builder(1).heights(blocks).txs(2, 9_000).build();
    let rows = [
        ("the disk is the bottleneck", 4_000_000, 16_000_000),
        ("the upload is the bottleneck", 100_000_000, 2_000_000),
    ];
    for (row, disk, upload) in rows {
        let rates = Rates { disk, upload };
        let alone = measure(&made, &rates, false).await;
        let flooded = measure(&made, &rates, true).await;
        share(&format!("PF6, {row}, part of the disk"), flooded.disk);
        share(&format!("PF6, {row}, part of the upload"), flooded.upload);
        report(
            &format!("PF6, {row}, p99 of the others"),
            flooded.p99,
            alone.p99 * 2,
        );
    }
}
