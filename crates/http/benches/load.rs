//! The cost of clients to a sync: blocks a second with nobody at the listener, and with a crowd of
//! clients of the RPC, of the metrics and of the status page.
//!
//! `cargo bench -p blocksync-http --bench load [-- BLOCKS [CLIENTS]]`. The clients are a process of
//! their own. One crowd asks as clients in the field do, each a few times a second. The other asks
//! again as soon as it has its answer, with the lowest priority: in the field it is on other
//! machines. A run without clients and one with them make a pair, in changing order; the ratio is
//! the median of the pairs' own.

mod shared;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use blocksync::app::KvStore;
use blocksync::chain::proof::Policy;
use blocksync::chain::{Genesis, RuleSchedule};
use blocksync::ids::{Height, PeerId};
use blocksync::service::{BlockSync, Config, RetainResults, View};
use blocksync::store::{LmdbOptions, LmdbStore, Store};
use blocksync_http::{Http, Identity, Node, Options, Transport};
use blocksync_testkit::chain::TestChain;
use blocksync_testkit::peers::{Behaviour, scripted};
use blocksync_testkit::recorded::{Recorded, clock};
use shared::median;

const PAIRS: usize = 7;
const VALIDATORS: usize = 100;
/// Number of clients for each one that keeps a status page open; the others ask.
const PAGES: u64 = 10;
/// Time between two questions of a client in the field.
const FIELD: Duration = Duration::from_millis(200);
/// First argument of the process that is the clients.
const CLIENTS: &str = "--clients";

/// Paths that a client asks for, in turn. `{}` is a height.
const PATHS: [&str; 9] = [
    "/status",
    "/block?height={}",
    "/commit?height={}",
    "/validators?height={}&per_page=100",
    "/block_results?height={}",
    "/blockchain?minHeight=1&maxHeight={}",
    "/status.json",
    "/metrics",
    "/",
];

fn main() {
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    let first = args.next();
    if first.as_deref() == Some(CLIENTS) {
        let address = args.next().and_then(|at| at.parse().ok());
        let mut number = || args.next().and_then(|n| n.parse().ok()).expect("a number");
        let (count, pause) = (number(), Duration::from_millis(number()));
        return crowd(address.expect("an address"), count, pause);
    }
    let blocks = first.map_or(4000, |n| n.parse().expect("a number of blocks"));
    let clients = args.next().map_or(100, |n| n.parse().expect("a number"));
    let made = TestChain::builder(1)
        .validators(VALIDATORS)
        .heights(blocks)
        .txs(4, 200)
        .build();
    let chain = Recorded::of(&made);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    println!("{cores} cores, {blocks} blocks of {VALIDATORS} validators, every commit");
    for pause in [FIELD, Duration::ZERO] {
        let crowd = Some((clients, pause));
        let mut pairs = Vec::new();
        for n in 0..PAIRS {
            let run = |crowd| sync(&made, &chain, crowd);
            let pair = if n % 2 == 0 {
                let alone = run(None);
                (alone, run(crowd))
            } else {
                let crowded = run(crowd);
                (run(None), crowded)
            };
            println!("  alone {}; crowded {}", pair.0, pair.1);
            pairs.push(pair);
        }
        let of = |value: fn(&(Run, Run)) -> f64| median(pairs.iter().map(value).collect());
        println!(
            "{clients} clients, each every {pause:?}: {:.3} of the speed, {:.0} answers/s, {:.3} cores, {:+.0} MiB",
            of(|(alone, crowded)| crowded.rate / alone.rate),
            of(|(_, crowded)| crowded.answers),
            of(|(_, crowded)| crowded.cores),
            of(|(alone, crowded)| crowded.memory - alone.memory),
        );
    }
}

/// One sync.
struct Run {
    /// Blocks a second.
    rate: f64,
    /// Answers a second that the clients got.
    answers: f64,
    /// CPU seconds a second of the listener's threads.
    cores: f64,
    /// Peak of resident memory in MiB, with the chain that the peers serve.
    memory: f64,
}

impl std::fmt::Display for Run {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Run { rate, answers, .. } = self;
        let (cores, memory) = (self.cores, self.memory);
        write!(
            to,
            "{rate:.0} blocks/s, {answers:.0} answers/s, {cores:.3} cores, {memory:.0} MiB"
        )
    }
}

/// Syncs the chain while this many clients ask this often.
fn sync(made: &TestChain, chain: &Arc<Recorded>, crowd: Option<(u64, Duration)>) -> Run {
    // The kernel begins to look for the peak anew.
    std::fs::write("/proc/self/clear_refs", "5").expect("Linux");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let dir = tempfile::tempdir().expect("a directory");
        let store = LmdbStore::open(dir.path(), &LmdbOptions::default()).expect("a store");
        let store: Arc<dyn Store> = Arc::new(store);
        let last = made.height().prev();
        let mut config = Config::default();
        config.clock = clock;
        config.retain_results = RetainResults::All;
        config.policy = Policy::EveryCommit;
        config.pool.until = Some(last);
        let app = KvStore::new().with_events();
        let sync = BlockSync::builder(store.clone(), app, made.genesis.clone()).config(config);
        let handle = sync.spawn().await.expect("a service");
        let http = listener(made, store, handle.view());
        let crowd = crowd.map(|(count, pause)| Crowd::start(http.address(), count, pause));
        for n in 1..=4 {
            let peer = scripted(chain, n, Behaviour::Honest, Duration::ZERO);
            handle.add_peer(peer).await.expect("a service");
        }
        let mut status = handle.status();
        let started = status.wait_for(|s| s.applied > Height::ZERO).await;
        let from = started.expect("a service").applied;
        let (begun, used) = (Instant::now(), listener_cpu());
        let done = status.wait_for(|s| s.applied == last).await;
        done.expect("a service");
        let seconds = begun.elapsed().as_secs_f64();
        let used = listener_cpu() - used;
        let answers = crowd.map_or(0.0, Crowd::stop);
        let memory = peak_memory();
        drop(http);
        handle.stop().await;
        Run {
            rate: last.above(from) as f64 / seconds,
            answers: answers / seconds,
            cores: used / seconds,
            memory,
        }
    })
}

/// CPU seconds of the listener's threads, by their name.
fn listener_cpu() -> f64 {
    let tasks = std::fs::read_dir("/proc/self/task").expect("Linux");
    let stats =
        tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("stat")).ok());
    let ticks: u64 = stats
        .filter_map(|stat| {
            let (name, fields) = stat.split_once(") ")?;
            name.ends_with("(http").then(|| {
                let used = fields.split(' ').skip(11).take(2);
                used.filter_map(|ticks| ticks.parse::<u64>().ok())
                    .sum::<u64>()
            })
        })
        .sum();
    ticks as f64 / rustix::param::clock_ticks_per_second() as f64
}

fn peak_memory() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = peak.and_then(|peak| peak.trim().strip_suffix(" kB")?.parse::<f64>().ok());
    kib.expect("a peak") / 1024.0
}

fn listener(made: &TestChain, store: Arc<dyn Store>, view: View) -> Http {
    let file = made.genesis_json().into_bytes();
    let node = Node {
        store,
        genesis: Genesis::parse(&file).expect("a genesis"),
        genesis_file: file.into(),
        rules: RuleSchedule::default(),
        identity: Identity {
            id: PeerId([7; 20]),
            public_key: [7; 32],
            moniker: "loaded".to_owned(),
            listen_addr: String::new(),
            listening: Vec::new(),
            rpc_address: String::new(),
        },
        keeps_results: true,
        serving: view.serving().clone(),
        view: Some(view),
        network: Box::new(Vec::new),
        transport: Box::new(Transport::default),
        store_dir: None,
    };
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    Http::start(any, node, Options::default()).expect("a listener")
}

/// The process of the clients.
struct Crowd {
    process: Child,
    /// They go on until it is closed.
    input: ChildStdin,
}

impl Crowd {
    /// Starts clients, and waits until they ask.
    fn start(address: SocketAddr, count: u64, pause: Duration) -> Self {
        let program = std::env::current_exe().expect("our own program");
        let mut process = Command::new(program)
            .args([CLIENTS, &address.to_string()])
            .args([count.to_string(), pause.as_millis().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a process");
        let input = process.stdin.take().expect("a pipe");
        let crowd = Crowd { process, input };
        std::thread::sleep(Duration::from_millis(300));
        crowd
    }

    /// Ends them, and returns the number of answers that they got.
    fn stop(self) -> f64 {
        let Crowd { mut process, input } = self;
        drop(input);
        let mut told = String::new();
        let mut output = process.stdout.take().expect("a pipe");
        output.read_to_string(&mut told).expect("a pipe");
        process.wait().expect("an end");
        told.trim().parse().expect("a number of answers")
    }
}

/// The clients: each on a thread and a connection of its own, until standard input ends.
fn crowd(address: SocketAddr, count: u64, pause: Duration) {
    if pause.is_zero() {
        rustix::process::setpriority_process(None, 19).expect("less priority");
    }
    let (stop, answers) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    for n in 0..count {
        let (stop, answers) = (stop.clone(), answers.clone());
        std::thread::spawn(move || {
            while !stop.load(Relaxed) {
                // A connection that fails is made anew: the clients outlive the listener.
                let _ = if n % PAGES == 0 {
                    look(address, &answers)
                } else {
                    ask(address, n, pause, &answers)
                };
            }
        });
    }
    let _ = std::io::stdin().read(&mut [0]);
    stop.store(true, Relaxed);
    println!("{}", answers.load(Relaxed));
}

/// Asks one thing after the other on one connection.
fn ask(address: SocketAddr, n: u64, pause: Duration, answers: &AtomicU64) -> std::io::Result<()> {
    let mut stream = BufReader::new(TcpStream::connect(address)?);
    let mut body = Vec::new();
    for turn in n.. {
        let path = PATHS[usize::try_from(turn).unwrap_or_default() % PATHS.len()];
        let path = path.replace("{}", &(1 + turn % 500).to_string());
        let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n");
        stream.get_mut().write_all(request.as_bytes())?;
        let mut length = 0;
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line)? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            let line = line.trim().to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length: ") {
                length = value.parse().map_err(std::io::Error::other)?;
            }
            if line.is_empty() {
                break;
            }
        }
        body.resize(length, 0);
        stream.read_exact(&mut body)?;
        answers.fetch_add(1, Relaxed);
        std::thread::sleep(pause);
    }
    Ok(())
}

/// Keeps a status page open.
fn look(address: SocketAddr, answers: &AtomicU64) -> std::io::Result<()> {
    let mut stream = BufReader::new(TcpStream::connect(address)?);
    let request = format!("GET /status.events HTTP/1.1\r\nHost: {address}\r\n\r\n");
    stream.get_mut().write_all(request.as_bytes())?;
    let mut line = String::new();
    while stream.read_line(&mut line)? > 0 {
        answers.fetch_add(u64::from(line.starts_with("data:")), Relaxed);
        line.clear();
    }
    Ok(())
}
