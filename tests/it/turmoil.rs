//! Connections that break as TCP connections do, under the whole service and the real codec:
//! half-open ones, partitions, stalls in the middle of a frame, drips, a peer that does not read.
//! Each node is a host of a simulated network with its own clock; runs follow from a seed. `cargo
//! test --test it turmoil:: -- --nocapture` prints what was measured.

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use blocksync::app::KvStore;
use blocksync::fault::Penalty;
use blocksync::ids::Height;
use blocksync::link::Link;
use blocksync::p2p::drive::{BLOCKSYNC, Carrier, ConnError, Framing, Timers, drive};
use blocksync::p2p::node_info::NodeInfo;
use blocksync::p2p::upgrade::{Deadlines, Terms, UpgradeError, upgrade};
use blocksync::p2p::{NodeKey, plain};
use blocksync::service::{BlockSync, Handle, Peers, Status};
use blocksync::store::MemStore;
use blocksync::wire::Message;
use blocksync_testkit::chain::TestChain;
use blocksync_testkit::made::filled;
use blocksync_testkit::recorded::{Recorded, config, id};
use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use turmoil::net::{TcpListener, TcpStream};
use turmoil::{Builder, Sim};

const PORT: u16 = 26656;
const BLOCKS: usize = 200;
/// `PoolConfig::request_timeout`.
const T_REQ: Duration = Duration::from_secs(5);
/// `PoolConfig::status_interval`.
const T_STATUS: Duration = Duration::from_secs(10);
/// `PoolConfig::status_interval_at_tip`.
const T_STATUS_AT_TIP: Duration = Duration::from_secs(1);
/// `PoolConfig::hedge_ceiling`.
const HEDGE: Duration = Duration::from_secs(2);
/// `PoolConfig::back_off_max`.
const BACK_OFF: Duration = Duration::from_secs(30);
/// Before a connection that has ended is made again.
const REDIAL: Duration = Duration::from_secs(1);
const GUARD: Duration = Duration::from_secs(300);
/// Our own number; hosts have theirs from 1.
const US: u8 = 100;
const KINDS: [Kind; 2] = [Kind::Plain, Kind::Comet];
const SEEDS: std::ops::Range<u64> = 1..4;

fn simulation(seed: u64) -> Sim<'static> {
    Builder::new()
        .simulation_duration(Duration::from_secs(900))
        .tick_duration(Duration::from_millis(5))
        .min_message_latency(Duration::from_millis(100))
        .max_message_latency(Duration::from_millis(200))
        .tcp_capacity(64)
        .rng_seed(seed)
        .build()
}

fn chain() -> TestChain {
    TestChain::builder(1).heights(BLOCKS).txs(2, 400).build()
}

/// Framing between the stream and the messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Length-prefixed frames, as between our own nodes on a trusted link.
    Plain,
    /// CometBFT's: SecretConnection, NodeInfo, MConnection.
    Comet,
}

/// A link over a stream, and how it ends; an error when the handshakes fail.
async fn link(
    stream: TcpStream,
    kind: Kind,
    (ours, theirs): (u8, u8),
    dialled: bool,
) -> Result<(Link, JoinHandle<ConnError>), UpgradeError> {
    let address = stream.peer_addr().unwrap().to_string();
    if kind == Kind::Plain {
        return Ok(plain::link(stream, id(theirs), address));
    }
    let key = |n| NodeKey::from_seed([n; 32]);
    let info = NodeInfo::new(
        key(ours).id(),
        "test-chain",
        "node",
        "tcp://0.0.0.0:0",
        &[BLOCKSYNC],
    );
    let terms = Terms {
        key: &key(ours),
        ours: &info,
        dialled: dialled.then(|| key(theirs).id()),
        allow_v1: false,
        deadlines: Deadlines::default(),
    };
    let (reader, writer) = tokio::io::split(stream);
    let up = upgrade(reader, writer, &terms, |_| Ok(())).await?;
    assert_eq!(up.framing, Framing::Packets);
    let carrier = Carrier {
        framing: up.framing,
        ..plain::carrier()
    };
    let (link, end) = Link::pair(id(theirs), address);
    let driving = drive(up.reader, up.writer, carrier, end, None);
    Ok((link, tokio::spawn(driving)))
}

/// A node of ours that has the whole chain and serves it.
async fn serves(made: TestChain, kind: Kind, ours: u8) -> turmoil::Result {
    let sync = BlockSync::builder(Arc::new(filled(&made)), KvStore::new(), made.genesis);
    let handle = sync.config(config(1)).spawn().await?;
    let listener = TcpListener::bind(("0.0.0.0", PORT)).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let peers = handle.peers();
        tokio::spawn(async move {
            if let Ok((link, _)) = link(stream, kind, (ours, US), false).await {
                let _ = peers.add(link).await;
            }
        });
    }
}

/// Frames of the peer that this connection leads to, and what a hostile host does with each
/// request.
struct Wire {
    stream: TcpStream,
    chain: Arc<Recorded>,
}

impl Wire {
    async fn send(&mut self, message: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(&framed(message)).await
    }

    fn status(&self) -> Bytes {
        let status = Message::Status {
            height: self.chain.tip(),
            base: self.chain.initial,
            max_range: 1,
        };
        status.encode()
    }

    async fn says_that_it_has_all(&mut self) -> std::io::Result<()> {
        let status = self.status();
        self.send(&status).await
    }

    async fn gives(&mut self, height: Height) -> std::io::Result<()> {
        let none = Message::NoBlock { height }.encode();
        let block = self.chain.message(height, false).unwrap_or(none);
        self.send(&block).await
    }

    /// The next message, if it is a small one.
    async fn next(&mut self) -> std::io::Result<Option<Message>> {
        let mut length = 0usize;
        let mut shift = 0;
        loop {
            let byte = self.stream.read_u8().await?;
            length |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                break;
            }
        }
        let mut message = vec![0; length];
        self.stream.read_exact(&mut message).await?;
        Ok(Message::decode_small(&Bytes::from(message)).ok())
    }

    /// The next height that it is asked for.
    async fn asked(&mut self) -> std::io::Result<Height> {
        loop {
            match self.next().await? {
                Some(Message::BlockRequest { height, .. }) => return Ok(height),
                Some(Message::StatusRequest) => self.says_that_it_has_all().await?,
                _ => {}
            }
        }
    }
}

fn framed(message: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    blocksync::varint::put(message.len() as u64, &mut out);
    out.extend_from_slice(message);
    out
}

/// A host that treats every connection in the same way.
async fn listens<F>(chain: Arc<Recorded>, treats: impl Fn(Wire) -> F) -> turmoil::Result
where
    F: Future<Output = std::io::Result<()>> + Send + 'static,
{
    let listener = TcpListener::bind(("0.0.0.0", PORT)).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let chain = chain.clone();
        tokio::spawn(treats(Wire { stream, chain }));
    }
}

/// Connections that have ended: whose, when, and why.
type Ended = Arc<Mutex<Vec<(u8, Instant, String)>>>;

/// Connects to a host, again whenever the connection has ended.
fn dial(peers: Peers, host: &'static str, n: u8, kind: Kind, ended: &Ended) {
    let ended = ended.clone();
    let tell = move |why: String| ended.lock().unwrap().push((n, Instant::now(), why));
    tokio::spawn(async move {
        loop {
            if let Ok(stream) = TcpStream::connect((host, PORT)).await {
                let (link, driving) = match link(stream, kind, (US, n), true).await {
                    Ok(linked) => linked,
                    Err(why) => {
                        tell(why.to_string());
                        sleep(REDIAL).await;
                        continue;
                    }
                };
                if peers.add(link).await.is_err() {
                    return;
                }
                let why = driving
                    .await
                    .map_or_else(|e| e.to_string(), |e| e.to_string());
                tell(why);
            }
            sleep(REDIAL).await;
        }
    });
}

/// The node under test, with its connections to `hosts`, numbered from 1.
struct Node {
    handle: Handle<KvStore>,
    ended: Ended,
    begun: Instant,
}

impl Node {
    async fn start(made: &TestChain, hosts: &[&'static str], kind: Kind) -> Node {
        let sync = BlockSync::builder(
            Arc::new(MemStore::new()),
            KvStore::new(),
            made.genesis.clone(),
        );
        // Few asks at a time, so that the sync lasts long enough for something to happen in its
        // middle.
        let mut config = config(1);
        config.pool.asks_per_peer = 2;
        config.pool.asks_per_ranged_peer = 2;
        let handle = sync.config(config).spawn().await.unwrap();
        let ended = Ended::default();
        for (n, host) in hosts.iter().enumerate() {
            dial(handle.peers(), host, n as u8 + 1, kind, &ended);
        }
        Node {
            handle,
            ended,
            begun: Instant::now(),
        }
    }

    async fn reaches(&self, height: u64) -> Status {
        let mut watch = self.handle.status();
        let reached = watch.wait_for(|s| s.applied.get() >= height);
        let status = match timeout(GUARD, reached).await {
            Ok(status) => status.unwrap().clone(),
            Err(_) => panic!("stands still: {:#?}", self.handle.status().borrow()),
        };
        let bans = status.dropped.iter();
        let bans: Vec<_> = bans
            .filter(|d| d.reason.penalty() == Penalty::Ban)
            .collect();
        assert!(bans.is_empty(), "what a network does is no proof: {bans:?}");
        status
    }

    async fn has_peers(&self, count: usize) {
        let mut watch = self.handle.status();
        let there = timeout(GUARD, watch.wait_for(|s| s.peers == count));
        there.await.expect("they come back").unwrap();
    }

    /// When the first connection to this peer ended after `since`.
    fn freed(&self, n: u8, since: Instant) -> Option<(Duration, String)> {
        let ended = self.ended.lock().unwrap();
        let mut of_peer = ended
            .iter()
            .filter(|(who, at, _)| *who == n && *at >= since);
        of_peer
            .next()
            .map(|(_, at, why)| (*at - since, why.clone()))
    }
}

fn report(row: &str, measured: Duration, allowed: Duration) {
    println!("{row}: measured {measured:?} allowed {allowed:?}");
    assert!(measured <= allowed, "{row}");
}

const HOSTS: [&str; 3] = ["one", "two", "three"];

/// Runs a test of the node among three honest hosts.
fn among_honest<F>(seed: u64, kind: Kind, test: impl FnOnce(TestChain) -> F)
where
    F: Future<Output = turmoil::Result> + 'static,
{
    let (mut sim, made) = (simulation(seed), chain());
    for (n, host) in HOSTS.into_iter().enumerate() {
        let made = made.clone();
        sim.host(host, move || serves(made.clone(), kind, n as u8 + 1));
    }
    sim.client("us", test(made));
    sim.run().unwrap();
}

/// Runs a test of the node against one hostile host and two honest ones.
fn against<F, G>(seed: u64, treats: fn(Wire) -> G, test: impl FnOnce(TestChain) -> F)
where
    F: Future<Output = turmoil::Result> + 'static,
    G: Future<Output = std::io::Result<()>> + Send + 'static,
{
    let (mut sim, made) = (simulation(seed), chain());
    let recorded = Recorded::of(&made);
    sim.host("one", move || listens(recorded.clone(), treats));
    for (n, host) in [(2, "two"), (3, "three")] {
        let made = made.clone();
        sim.host(host, move || serves(made.clone(), Kind::Plain, n));
    }
    sim.client("us", test(made));
    sim.run().unwrap();
}

/// The time that the whole takes without faults.
fn fault_free(seed: u64) -> Duration {
    fault_free_of(seed, Kind::Plain, &HOSTS)
}

fn fault_free_of(seed: u64, kind: Kind, hosts: &'static [&'static str]) -> Duration {
    let took = Arc::new(Mutex::new(Duration::ZERO));
    let tell = took.clone();
    among_honest(seed, kind, |made| async move {
        let node = Node::start(&made, hosts, kind).await;
        let status = node.reaches(BLOCKS as u64).await;
        assert_eq!(status.dropped, []);
        *tell.lock().unwrap() = node.begun.elapsed();
        node.handle.stop().await;
        Ok(())
    });
    *took.lock().unwrap()
}

#[test]
fn without_faults_the_whole_chain_comes() {
    for seed in SEEDS {
        for kind in KINDS {
            let t0 = fault_free_of(seed, kind, &HOSTS);
            println!("T0, seed {seed}, {kind:?}: {t0:?}");
        }
    }
}

fn half_open(seed: u64, kind: Kind) {
    let t0 = fault_free_of(seed, kind, &HOSTS);
    among_honest(seed, kind, move |made| async move {
        let node = Node::start(&made, &HOSTS, kind).await;
        node.reaches(BLOCKS as u64 / 3).await;
        // No FIN, no RST: the host is just not there any more.
        turmoil::partition("us", "one");
        let cut = Instant::now();
        node.reaches(BLOCKS as u64).await;
        let row = format!("P28, half-open, {kind:?}");
        report(&row, node.begun.elapsed(), t0 * 3 / 2 + HEDGE);
        sleep(T_REQ + REDIAL).await;
        let (freed, why) = node.freed(1, cut).expect("the task is freed");
        report(&format!("{row}, freed ({why})"), freed, T_REQ + REDIAL);
        node.handle.stop().await;
        Ok(())
    });
}

#[test]
fn p28_half_open() {
    for seed in SEEDS {
        KINDS.into_iter().for_each(|kind| half_open(seed, kind));
    }
}

#[test]
fn p28_half_open_while_it_owes_nothing() {
    // Nobody waits for anything, but a status that we ask for does not come, while others' do.
    for (seed, kind) in SEEDS.flat_map(|seed| KINDS.map(|kind| (seed, kind))) {
        among_honest(seed, kind, move |made| async move {
            let node = Node::start(&made, &HOSTS, kind).await;
            node.reaches(BLOCKS as u64).await;
            sleep(T_STATUS).await;
            turmoil::partition("us", "one");
            let cut = Instant::now();
            sleep(T_STATUS).await;
            let (freed, why) = node.freed(1, cut).expect("the task is freed");
            let row = format!("P28, idle, {kind:?}");
            let allowed = T_STATUS_AT_TIP + T_REQ;
            report(&format!("{row}, freed ({why})"), freed, allowed);
            assert_eq!(node.handle.status().borrow().peers, 2);
            // No proof of anything: it is one of us again once the network is whole.
            turmoil::repair("us", "one");
            let healed = Instant::now();
            node.has_peers(3).await;
            let allowed = BACK_OFF + REDIAL * 2;
            report(&format!("{row}, back"), healed.elapsed(), allowed);
            node.reaches(BLOCKS as u64).await;
            node.handle.stop().await;
            Ok(())
        });
    }
}

#[test]
fn p28_the_only_peer_is_half_open() {
    // Nobody else is heard either: it may be our own network, and is given more time.
    let mut sim = simulation(1);
    let made = chain();
    let served = made.clone();
    sim.host("one", move || serves(served.clone(), Kind::Plain, 1));
    sim.client("us", async move {
        let node = Node::start(&made, &["one"], Kind::Plain).await;
        node.reaches(BLOCKS as u64).await;
        sleep(T_STATUS).await;
        turmoil::partition("us", "one");
        let cut = Instant::now();
        sleep(T_REQ * 4).await;
        let (freed, why) = node.freed(1, cut).expect("the task is freed");
        let row = format!("P28, the only peer, freed ({why})");
        report(&row, freed, T_STATUS_AT_TIP + T_REQ * 3);
        node.handle.stop().await;
        Ok(())
    });
    sim.run().unwrap();
}

/// Nobody may have been dropped, for a reason that its network or its slowness gave.
fn nobody_dropped(row: &str, node: &Node) {
    let dropped = node.handle.status().borrow().dropped.clone();
    println!("{row}: measured {} dropped allowed 0", dropped.len());
    assert_eq!(dropped, [], "{row}");
}

#[test]
fn p28_nobody_is_half_open_when_nothing_comes_for_a_while() {
    for kind in KINDS {
        among_honest(1, kind, move |made| async move {
            let node = Node::start(&made, &HOSTS, kind).await;
            node.reaches(BLOCKS as u64).await;
            // One after the other for less than T_req, then all of them for twice as long: that is
            // our network, not theirs.
            let cuts = [(&HOSTS[..1], 4), (&HOSTS[1..2], 4), (&HOSTS[..], 10)];
            for (hosts, seconds) in cuts {
                hosts.iter().for_each(|host| turmoil::hold("us", *host));
                sleep(Duration::from_secs(seconds)).await;
                hosts.iter().for_each(|host| turmoil::release("us", *host));
                sleep(T_STATUS).await;
            }
            nobody_dropped(&format!("P28, held up, {kind:?}"), &node);
            assert_eq!(node.handle.status().borrow().peers, 3);
            node.handle.stop().await;
            Ok(())
        });
    }
}

/// Serves, but takes its time for every status, one after the other.
async fn says_its_status_late(mut wire: Wire) -> std::io::Result<()> {
    wire.says_that_it_has_all().await?;
    loop {
        match wire.next().await? {
            Some(Message::BlockRequest { height, .. }) => {
                wire.gives(height).await?;
            }
            Some(Message::StatusRequest) => {
                sleep(T_REQ - Duration::from_secs(1)).await;
                wire.says_that_it_has_all().await?;
            }
            _ => {}
        }
    }
}

/// Serves, but once the chain is with us its statuses come at a byte in a second and a half.
async fn drips_its_status(mut wire: Wire) -> std::io::Result<()> {
    wire.says_that_it_has_all().await?;
    let mut asked = 0;
    loop {
        match wire.next().await? {
            Some(Message::BlockRequest { height, .. }) => wire.gives(height).await?,
            Some(Message::StatusRequest) if asked < 3 => {
                asked += 1;
                wire.says_that_it_has_all().await?;
            }
            Some(Message::StatusRequest) => {
                for byte in framed(&wire.status()) {
                    wire.stream.write_all(&[byte]).await?;
                    sleep(Duration::from_millis(1500)).await;
                }
            }
            _ => {}
        }
    }
}

#[test]
fn p28_an_honest_peer_that_is_slow_is_not_half_open() {
    // The host is none of ours: the commit for the last block does not come with its copy.
    for seed in SEEDS {
        against(seed, says_its_status_late, |made| async move {
            let node = Node::start(&made, &HOSTS, Kind::Plain).await;
            node.reaches(BLOCKS as u64 - 1).await;
            sleep(T_STATUS * 6).await;
            nobody_dropped("P28, status late", &node);
            node.handle.stop().await;
            Ok(())
        });
        against(seed, drips_its_status, |made| async move {
            let node = Node::start(&made, &HOSTS, Kind::Plain).await;
            node.reaches(BLOCKS as u64 - 1).await;
            sleep(T_STATUS * 6).await;
            nobody_dropped("P28, status in drips", &node);
            node.handle.stop().await;
            Ok(())
        });
    }
}

/// Begins the frame of the block that it is asked for, and sends no more.
async fn stalls(mut wire: Wire) -> std::io::Result<()> {
    wire.says_that_it_has_all().await?;
    let height = wire.asked().await?;
    let frame = framed(&wire.chain.message(height, false).unwrap());
    wire.stream.write_all(&frame[..frame.len() / 2]).await?;
    std::future::pending().await
}

#[test]
fn p28_stalled_in_the_middle_of_a_frame() {
    for seed in SEEDS {
        let t0 = fault_free(seed);
        against(seed, stalls, |made| async move {
            let node = Node::start(&made, &HOSTS, Kind::Plain).await;
            node.reaches(BLOCKS as u64).await;
            report("P28, stalled", node.begun.elapsed(), t0 * 3 / 2 + HEDGE);
            sleep(T_REQ + REDIAL).await;
            let (freed, why) = node.freed(1, node.begun).expect("the task is freed");
            report(&format!("P28, freed ({why})"), freed, T_REQ + REDIAL);
            node.handle.stop().await;
            Ok(())
        });
    }
}

/// Asks for everything, again and again, and reads nothing.
async fn does_not_read(mut wire: Wire) -> std::io::Result<()> {
    wire.says_that_it_has_all().await?;
    loop {
        for height in 1..=BLOCKS as u64 {
            let height = Height::new(height);
            let request = Message::BlockRequest { height, count: 0 };
            wire.send(&request.encode()).await?;
        }
        sleep(Duration::from_millis(500)).await;
    }
}

#[test]
fn p28_a_window_of_zero() {
    let stall = Timers::default().stall;
    for seed in SEEDS {
        let t0 = fault_free(seed);
        against(seed, does_not_read, move |made| async move {
            let node = Node::start(&made, &HOSTS, Kind::Plain).await;
            node.reaches(BLOCKS as u64).await;
            report("P28, zero window", node.begun.elapsed(), t0 * 3 / 2 + HEDGE);
            // It owes us blocks, too, so it need not come to the transport's own patience.
            sleep(stall + REDIAL).await;
            let (freed, why) = node.freed(1, node.begun).expect("the task is freed");
            report(&format!("P28, freed ({why})"), freed, T_REQ + REDIAL);
            node.handle.stop().await;
            Ok(())
        });
    }
}

/// Accepts, and says nothing: no handshake ever ends.
async fn says_nothing(wire: Wire) -> std::io::Result<()> {
    let _keeps_the_connection = wire;
    std::future::pending().await
}

#[test]
fn p28_a_handshake_that_does_not_go_on() {
    let (mut sim, made) = (simulation(1), chain());
    let recorded = Recorded::of(&made);
    sim.host("one", move || listens(recorded.clone(), says_nothing));
    sim.client("us", async move {
        let node = Node::start(&made, &["one"], Kind::Comet).await;
        let deadline = Deadlines::default().secret;
        sleep(deadline + REDIAL).await;
        let (freed, why) = node.freed(1, node.begun).expect("given up");
        assert!(why.contains("secret connection"), "{why}");
        report("P28, handshake", freed, deadline + REDIAL);
        assert_eq!(node.handle.status().borrow().peers, 0);
        node.handle.stop().await;
        Ok(())
    });
    sim.run().unwrap();
}

/// A byte a second of the right block.
async fn drips(mut wire: Wire) -> std::io::Result<()> {
    wire.says_that_it_has_all().await?;
    let height = wire.asked().await?;
    for byte in framed(&wire.chain.message(height, false).unwrap()) {
        wire.stream.write_all(&[byte]).await?;
        sleep(Duration::from_secs(1)).await;
    }
    Ok(())
}

#[test]
fn p03_slow_drip() {
    for seed in SEEDS {
        // Of the two that are honest: the third brings nothing.
        let t0 = fault_free_of(seed, Kind::Plain, &HOSTS[1..]);
        against(seed, drips, |made| async move {
            let node = Node::start(&made, &HOSTS, Kind::Plain).await;
            node.reaches(BLOCKS as u64).await;
            report("P03", node.begun.elapsed(), t0 * 115 / 100 + HEDGE);
            node.handle.stop().await;
            Ok(())
        });
    }
}

fn partition(seed: u64, kind: Kind, seconds: u64) {
    let t0 = fault_free_of(seed, kind, &HOSTS);
    among_honest(seed, kind, move |made| async move {
        let node = Node::start(&made, &HOSTS, kind).await;
        node.reaches(BLOCKS as u64 / 3).await;
        HOSTS
            .iter()
            .for_each(|host| turmoil::partition("us", *host));
        sleep(Duration::from_secs(seconds)).await;
        let before = node.handle.status().borrow().applied.get();
        assert!(before < BLOCKS as u64);
        HOSTS.iter().for_each(|host| turmoil::repair("us", *host));
        let healed = Instant::now();
        node.reaches(before + 1).await;
        let row = format!("N01, {seconds} s, {kind:?}");
        let allowed = T_STATUS + BACK_OFF + REDIAL;
        report(&row, healed.elapsed(), allowed);
        node.reaches(BLOCKS as u64).await;
        report(&format!("{row}, all"), healed.elapsed(), allowed + t0 * 2);
        node.handle.stop().await;
        Ok(())
    });
}

#[test]
fn n01_partition() {
    for (seed, seconds) in [(1, 1), (2, 10), (3, 60), (4, 600)] {
        KINDS
            .into_iter()
            .for_each(|kind| partition(seed, kind, seconds));
    }
}

#[test]
fn n02_one_way_partition() {
    for seed in SEEDS {
        for answers_are_lost in [true, false] {
            let t0 = fault_free(seed);
            among_honest(seed, Kind::Plain, move |made| async move {
                let node = Node::start(&made, &HOSTS, Kind::Plain).await;
                node.reaches(BLOCKS as u64 / 3).await;
                if answers_are_lost {
                    turmoil::partition_oneway("one", "us");
                } else {
                    turmoil::partition_oneway("us", "one");
                }
                let cut = Instant::now();
                node.reaches(BLOCKS as u64).await;
                report("N02", node.begun.elapsed(), t0 * 3 / 2 + HEDGE);
                sleep(T_REQ + REDIAL).await;
                let (freed, why) = node.freed(1, cut).expect("rotated");
                report(&format!("N02, rotated ({why})"), freed, T_REQ + REDIAL);
                node.handle.stop().await;
                Ok(())
            });
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in SEEDS {
        assert_eq!(fault_free(seed), fault_free(seed));
    }
}
