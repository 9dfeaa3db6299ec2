//! Serving under load, by real processes over loopback TCP.
//!
//! `cargo bench --bench serving [-- BLOCKS [SECONDS [CLIENTS]]]`: 64 clients, each a process, of a
//! node with blocks of 100 validators in LMDB.
//!
//! * **limit**: one thread a core that does nothing but read the same store and send, to 64
//!   processes that read.
//! * **served**: 61 clients with a few ranges open at all times, one with many times as many, one
//!   that asks for the same blocks again and again, and one that asks and does not read. Blocks a
//!   second in all, Jain's index over the greedy ones, and memory.
//! * **own sync**: a node that has half of the chain syncs the rest, every commit, alone and while
//!   64 clients ask for what it has. The clients have the lowest priority: in the field they are
//!   elsewhere.
//! * **flood**: CPU time of a node beside consensus whose 64 peers push signed statuses: none, 8 a
//!   second (which is allowed for ever), 20 a second (which is allowed for 10 s), 1000 a second
//!   (which is not: they are dropped).

mod client;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use blocksync::app::KvStore;
use blocksync::chain::height_proof::HeightProof;
use blocksync::chain::proof::Policy;
use blocksync::ids::{Height, PeerId};
use blocksync::p2p::plain;
use blocksync::service::{BlockSync, Config, Handle, Peers};
use blocksync::store::{LmdbOptions, LmdbStore, Store};
use blocksync::varint;
use blocksync::wire::{Audience, BlockResponse, ChainIdentity, Claim, Message, Signer};
use blocksync_testkit::chain::TestChain;
use blocksync_testkit::peers::{Behaviour, scripted};
use blocksync_testkit::recorded::{Recorded, clock};
use client::{Counted, Kind};
use rustix::time::{ClockId, clock_gettime};
use tokio::net::TcpListener;

/// The program's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const VALIDATORS: usize = 100;
/// Heights in one request.
pub(crate) const RANGE: u64 = 64;
/// Bytes that the limit's threads read for a client in its turn: as a server with 64 clients does.
const TURN: usize = 64 << 10;
/// Peers in memory that a node syncs from.
const SOURCES: usize = 4;
/// Measurements of serving.
const ROUNDS: usize = 5;
/// Pairs of syncs.
const PAIRS: usize = 3;
/// First argument of a process that is a client.
const CLIENT: &str = "--client";

fn main() {
    let args: Vec<_> = std::env::args()
        .skip(1)
        .filter(|a| a != "--bench")
        .collect();
    if args.first().is_some_and(|first| first == CLIENT) {
        return client::run(&args[1..]);
    }
    let number = |n: usize, otherwise| {
        args.get(n)
            .map_or(otherwise, |a| a.parse().expect("a number"))
    };
    let (blocks, seconds, clients) = (number(0, 6000), number(1, 5), number(2, 64));
    let made = chain(blocks);
    let world = World {
        chain: Recorded::of(&made),
        dir: tempfile::tempdir().expect("a directory"),
        made,
        seconds: seconds as u64,
        clients,
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    println!(
        "{cores} cores, {blocks} blocks of {VALIDATORS} validators, {clients} clients, {seconds} s"
    );
    world.serves();
    world.syncs_beside();
    world.is_flooded();
}

/// The same genesis for every process.
pub(crate) fn chain(blocks: usize) -> TestChain {
    TestChain::builder(1)
        .validators(VALIDATORS)
        .heights(blocks)
        .txs(4, 200)
        .build()
}

/// The chain and the settings of all measurements.
struct World {
    made: TestChain,
    chain: Arc<Recorded>,
    dir: tempfile::TempDir,
    seconds: u64,
    clients: usize,
}

/// A node that listens.
struct Node {
    handle: Handle<KvStore>,
    store: Arc<dyn Store>,
    address: SocketAddr,
}

impl World {
    /// Height of the last block that can be synced.
    fn top(&self) -> Height {
        self.made.height().prev()
    }

    /// Half of it.
    fn half(&self) -> Height {
        Height::new(self.top().get() / 2)
    }

    /// A node whose store is in this directory, and which syncs up to this height.
    async fn node(&self, name: &str, until: Height, policy: Policy) -> Node {
        let dir = self.dir.path().join(name);
        std::fs::create_dir_all(&dir).expect("a directory");
        let store = LmdbStore::open(&dir, &LmdbOptions::default()).expect("a store");
        let store: Arc<dyn Store> = Arc::new(store);
        let mut config = Config::default();
        config.clock = clock;
        config.pool.until = Some(until);
        config.policy = policy;
        config.node_key = Some(Signer::from_seed([9; 32]));
        let genesis = self.made.genesis.clone();
        let sync = BlockSync::builder(store.clone(), KvStore::new(), genesis).config(config);
        let handle = sync.spawn().await.expect("a service");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(accept(listener, handle.peers()));
        Node {
            handle,
            store,
            address,
        }
    }

    /// Gives a node peers in memory, and waits for a height.
    async fn sync(&self, node: &Node, until: Height) {
        for n in 1..=SOURCES as u8 {
            let peer = scripted(&self.chain, n, Behaviour::Honest, Duration::ZERO);
            node.handle.add_peer(peer).await.expect("a service");
        }
        let mut status = node.handle.status();
        let done = status.wait_for(|s| s.applied >= until).await;
        done.expect("a service");
    }

    fn crowd(&self, address: SocketAddr, kinds: &[Kind], top: Height) -> Crowd {
        self.crowd_of("0", address, kinds, top)
    }

    /// Clients that are as nice as this.
    fn crowd_of(&self, nice: &str, address: SocketAddr, kinds: &[Kind], top: Height) -> Crowd {
        let proof = self.dir.path().join("proof");
        let seconds = self.seconds.to_string();
        let clients = kinds.iter().enumerate().map(|(n, kind)| {
            Command::new("nice")
                .args(["-n", nice])
                .arg(std::env::current_exe().expect("our own program"))
                .args([CLIENT, &kind.name(), &n.to_string(), &address.to_string()])
                .args([&seconds, &top.to_string()])
                .arg(&proof)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .expect("a process")
        });
        let clients = clients.collect();
        let mut crowd = Crowd { clients };
        crowd.are_ready();
        crowd
    }

    /// Blocks a second that a thread a core reads and sends, and microseconds of CPU for each.
    fn limit(&self, store: &Arc<dyn Store>) -> (f64, f64) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let kinds = vec![Kind::Sink; self.clients];
        let (crowd, used) = std::thread::scope(|scope| {
            let crowd = scope.spawn(|| self.crowd(address, &kinds, self.top()));
            let accepted = (0..self.clients).map(|_| listener.accept().expect("a client").0);
            let sockets: Vec<_> = accepted.collect();
            let mut crowd = crowd.join().expect("clients");
            let (stop, began) = (AtomicBool::new(false), cpu());
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            std::thread::scope(|scope| {
                let each = self.clients.div_ceil(cores);
                for (n, sockets) in (0..).step_by(each).zip(sockets.chunks(each)) {
                    let (stop, top) = (&stop, self.top().get());
                    scope.spawn(move || pump(&**store, sockets, (n, top), stop));
                }
                crowd.go();
                std::thread::sleep(Duration::from_secs(self.seconds));
                stop.store(true, Relaxed);
            });
            drop(sockets);
            (crowd, cpu() - began)
        });
        let counted = crowd.end();
        let blocks: u64 = counted.iter().map(|c| c.blocks).sum();
        (blocks as f64 / self.seconds as f64, used / blocks as f64)
    }

    /// Serves a mixed crowd a few times, each between two measurements of the limit.
    fn serves(&self) {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let node = runtime.block_on(async {
            let node = self.node("served", self.top(), Policy::Anchored).await;
            self.sync(&node, self.top()).await;
            node
        });
        let mut parts = Vec::new();
        let (mut before, mut cpu_before) = self.limit(&node.store);
        for _ in 0..ROUNDS {
            let (rate, used) = self.serves_once(&node);
            let (after, cpu_after) = self.limit(&node.store);
            let part = rate / ((before + after) / 2.0);
            println!(
                "served: {rate:.0} blocks/s, {part:.2} of the limit ({before:.0} before, {after:.0} after); {used:.1} µs of CPU a block ({cpu_before:.1}, {cpu_after:.1})"
            );
            parts.push(part);
            (before, cpu_before) = (after, cpu_after);
        }
        parts.sort_by(f64::total_cmp);
        println!("served: {:.2} of the limit", parts[ROUNDS / 2]);
        runtime.block_on(node.handle.stop());
    }

    /// Blocks a second to a mixed crowd, and microseconds of CPU for each.
    fn serves_once(&self, node: &Node) -> (f64, f64) {
        let mut kinds = vec![Kind::Greedy; self.clients];
        kinds[..3].copy_from_slice(&[Kind::Greediest, Kind::Repeats, Kind::Deaf]);
        let mut crowd = self.crowd(node.address, &kinds, self.top());
        let repeats = || node.handle.view().serving().repeats.load(Relaxed);
        // The kernel begins to look for the peak anew.
        std::fs::write("/proc/self/clear_refs", "5").expect("Linux");
        let (resident, began, repeated) = (memory("VmRSS:"), cpu(), repeats());
        crowd.go();
        std::thread::sleep(Duration::from_secs(self.seconds));
        let (peak, used) = (memory("VmHWM:") - resident, cpu() - began);
        let counted = crowd.end();
        let served: u64 = counted.iter().map(|c| c.blocks).sum();
        let greedy = counted[..1].iter().chain(&counted[3..]);
        let greedy: Vec<_> = greedy.map(|c| c.blocks).collect();
        println!(
            "  Jain's index of {} greedy ones: {:.4}; the greediest {:.2}, the one that repeats {:.2}, the one that does not read {:.2} of their mean",
            greedy.len(),
            jain(&greedy),
            of_mean(counted[0].blocks, &greedy),
            of_mean(counted[1].blocks, &greedy),
            of_mean(counted[2].blocks, &greedy),
        );
        println!(
            "  answered \"no block\": {}; given to the same peer a fourth time or more: {:.1} % of the blocks; peak of resident memory: {peak:+.0} MiB over what it was before",
            counted.iter().map(|c| c.no_blocks).sum::<u64>(),
            (repeats() - repeated) as f64 * 100.0 / served as f64
        );
        (served as f64 / self.seconds as f64, used / served as f64)
    }

    /// Our own sync, alone and with a crowd.
    fn syncs_beside(&self) {
        let mut pairs = Vec::new();
        for n in 0..PAIRS {
            let alone = self.syncs(&format!("alone {n}"), false);
            let crowded = self.syncs(&format!("crowded {n}"), true);
            println!(
                "  own sync: {:.0} blocks/s alone; {:.0} while {:.0} are served",
                alone.0, crowded.0, crowded.1
            );
            pairs.push(crowded.0 / alone.0);
        }
        pairs.sort_by(f64::total_cmp);
        println!("own sync: {:.2} of its speed alone", pairs[PAIRS / 2]);
    }

    /// Blocks a second that are synced, and served meanwhile.
    fn syncs(&self, name: &str, crowded: bool) -> (f64, f64) {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(async {
            let node = self.node(name, self.half(), Policy::Anchored).await;
            self.sync(&node, self.half()).await;
            node.handle.stop().await;
        });
        let node = runtime.block_on(self.node(name, self.top(), Policy::EveryCommit));
        // Alone they are there, too, and ask for nothing.
        let kind = if crowded { Kind::Greedy } else { Kind::Sink };
        let kinds = vec![kind; self.clients];
        let mut crowd = self.crowd_of("19", node.address, &kinds, self.half());
        crowd.go();
        std::thread::sleep(Duration::from_millis(500));
        let begun = Instant::now();
        runtime.block_on(self.sync(&node, self.top()));
        let seconds = begun.elapsed().as_secs_f64();
        let served: u64 = crowd.end().iter().map(|c| c.blocks).sum();
        runtime.block_on(node.handle.stop());
        let synced = self.top().above(self.half()) as f64;
        (synced / seconds, served as f64 / self.seconds as f64)
    }

    /// CPU time of a node whose peers push signed statuses.
    fn is_flooded(&self) {
        self.write_proof();
        for rate in [0, 8, 20, 1000] {
            let runtime = tokio::runtime::Runtime::new().expect("a runtime");
            let name = format!("flooded {rate}");
            let mut node = runtime.block_on(async {
                let node = self.node(&name, self.half(), Policy::Anchored).await;
                self.sync(&node, self.half()).await;
                node
            });
            // Beside consensus proofs are asked for most often.
            let _own = runtime
                .block_on(node.handle.hand_over())
                .expect("the writer");
            let kind = if rate == 0 {
                Kind::Sink
            } else {
                Kind::Floods(rate)
            };
            let mut crowd = self.crowd(node.address, &vec![kind; self.clients], self.half());
            let (begun, used) = (Instant::now(), cpu());
            crowd.go();
            std::thread::sleep(Duration::from_secs(self.seconds));
            let (seconds, used) = (begun.elapsed().as_secs_f64(), (cpu() - used) / 1e6);
            let left = node.handle.status().borrow().peers - SOURCES;
            println!(
                "flood of {rate} signed statuses a second from each of {}: {used:.3} s of CPU in {seconds:.0} s, {:.2} % of a core; {left} are left",
                self.clients,
                used / seconds * 100.0
            );
            crowd.end();
            runtime.block_on(node.handle.stop());
        }
    }

    /// A signed status with a proof of the last height, for those who flood.
    fn write_proof(&self) {
        let height = self.top();
        let block = self.made.at(height);
        let set = &self.made.state_after(height.prev()).validators;
        let header = block.fetched.header().clone();
        let proof = HeightProof::new(header, block.commit.clone(), set).expect("a proof");
        let base = Height::new(1);
        let claim = Claim {
            base,
            height,
            sequence: 1,
            time: 0,
            nonce: None,
        };
        let audience = Audience {
            chain: &ChainIdentity::of(&self.made.genesis),
            receiver: PeerId([0; 20]),
        };
        let signed = Signer::from_seed([7; 32]).sign(claim, Some(proof), audience);
        let status = Message::Status {
            height,
            base,
            max_range: 1,
        };
        std::fs::write(self.dir.path().join("proof"), signed.beside(&status)).expect("a file");
    }
}

async fn accept(listener: TcpListener, peers: Peers) {
    while let Ok((stream, address)) = listener.accept().await {
        let (link, _task) = plain::link(stream, plain::accepted_id(), address.to_string());
        if peers.add(link).await.is_err() {
            return;
        }
    }
}

/// Reads and sends to these in turn, the first of which is client `n`, until it is stopped. Each is
/// sent the chain from a place of its own.
fn pump(
    store: &dyn Store,
    sockets: &[std::net::TcpStream],
    (n, top): (u64, u64),
    stop: &AtomicBool,
) {
    let begin = |n| client::heights(n, top).next().expect("without an end");
    let mut next: Vec<_> = (n..).map(begin).zip(sockets).collect();
    let mut frames = Vec::with_capacity(TURN * 2);
    for n in (0..next.len()).cycle() {
        if stop.load(Relaxed) {
            return;
        }
        let (from, socket) = &mut next[n];
        frames.clear();
        let blocks = store.blocks(Height::new(*from), RANGE as u32, TURN);
        for record in blocks.expect("blocks") {
            *from = if record.height.get() < top {
                record.height.get() + 1
            } else {
                1
            };
            let message = BlockResponse {
                block: record.raw,
                ext_commit: record.ext_raw,
                seen_commit: None,
            };
            let message = message.encode();
            varint::put(message.len() as u64, &mut frames);
            frames.extend_from_slice(&message);
        }
        if socket.write_all(&frames).is_err() {
            return;
        }
    }
}

/// The processes of the clients.
pub(crate) struct Crowd {
    clients: Vec<Child>,
}

impl Crowd {
    /// In a client: says that it is there, and waits to be told to begin.
    pub(crate) fn ready_and_wait() {
        println!("ready");
        let _ = std::io::stdin().read(&mut [0]);
    }

    fn are_ready(&mut self) {
        for client in &mut self.clients {
            let output = client.stdout.as_mut().expect("a pipe");
            let mut line = [0; 6];
            output
                .read_exact(&mut line)
                .expect("a client that is ready");
        }
    }

    /// Lets all begin.
    fn go(&mut self) {
        for client in &mut self.clients {
            client.stdin.take(); // closed: that is the word
        }
    }

    /// Waits for their end; gives what each has counted.
    fn end(self) -> Vec<Counted> {
        let ended = self.clients.into_iter().map(|mut client| {
            let mut line = String::new();
            let output = client.stdout.take().expect("a pipe");
            BufReader::new(output).read_line(&mut line).expect("a pipe");
            client.wait().expect("an end");
            let mut numbers = line
                .split_whitespace()
                .map(|n| n.parse().expect("a number"));
            let mut next = || numbers.next().expect("three numbers");
            let (blocks, no_blocks, bytes) = (next(), next(), next());
            Counted {
                blocks,
                no_blocks,
                bytes,
            }
        });
        ended.collect()
    }
}

/// Jain's fairness index: 1 when all have had the same.
fn jain(of: &[u64]) -> f64 {
    let sum: f64 = of.iter().map(|n| *n as f64).sum();
    let squares: f64 = of.iter().map(|n| (*n as f64).powi(2)).sum();
    sum * sum / (of.len() as f64 * squares)
}

fn of_mean(blocks: u64, greedy: &[u64]) -> f64 {
    let mean = greedy.iter().sum::<u64>() as f64 / greedy.len() as f64;
    blocks as f64 / mean
}

/// A line of the process's own status, in MiB.
fn memory(name: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let found = status.lines().find_map(|line| line.strip_prefix(name));
    let kib = found.and_then(|found| found.trim().strip_suffix(" kB")?.parse::<f64>().ok());
    kib.expect("a line") / 1024.0
}

/// CPU time of this process, in microseconds.
fn cpu() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 * 1e6 + time.tv_nsec as f64 / 1e3
}
