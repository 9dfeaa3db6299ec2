//! `blocksync bench`: how fast a chain is synced on this machine, how much of the machine's limit
//! that is, and how many times as fast as CometBFT. Servers and client are processes of their own;
//! kinds of runs alternate, and of each the best counts, so that what else the machine does weighs
//! on all alike.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use blocksync_testkit::chaingen::{self, AppKind, Options};
use clap::Args;
use serde_json::{Value, json};

use crate::args::Proof;
use crate::bench_comet::Comet;
use crate::bench_link;
use crate::bench_probe::{self, Limit};
use crate::bench_process::{Child, Cpu};
use crate::console::say;
use crate::failure::{Exit, Failure};
use crate::values;

/// `blocksync bench`.
#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// Make the chain in this directory, and do nothing else
    #[arg(long, value_name = "DIR")]
    pub make: Option<PathBuf>,
    /// Sync the chain in this directory, which --make made; without it, one is made for this bench
    /// alone
    #[arg(long, value_name = "DIR", conflicts_with = "make")]
    pub chain: Option<PathBuf>,
    /// How blocks are proven
    #[arg(long, value_name = "POLICY", value_enum, default_value = "anchored")]
    pub proof: Proof,
    /// Processes that serve the chain
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub servers: u16,
    /// Over CometBFT's authenticated and encrypted connection, instead of a plain one
    #[arg(long)]
    pub encrypted: bool,
    /// Round-trip time of the links, of unlimited bandwidth: 50ms
    #[arg(long, value_name = "TIME", value_parser = values::time)]
    pub rtt: Option<Duration>,
    /// Runs of each kind, of which the best counts
    #[arg(long, value_name = "COUNT", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    pub runs: u16,
    /// A CometBFT binary, which syncs the same chain from itself
    #[arg(long, value_name = "PATH")]
    pub cometbft: Option<PathBuf>,
    /// Where homes and the probe's file are put, on the disk that is to be measured; a directory of
    /// its own in it is removed at the end
    #[arg(long, value_name = "DIR")]
    pub work: Option<PathBuf>,
    /// Print one line of JSON on standard output at the end
    #[arg(long)]
    pub json: bool,
    /// The chain to make; of a chain that is there, only --app and --rules count
    #[command(flatten, next_help_heading = "The chain")]
    pub options: Options,
    #[arg(long, hide = true, value_name = "FILE")]
    pub probe_send: Option<PathBuf>,
}

/// One sync.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    /// Blocks that were synced.
    pub blocks: u64,
    /// In which time.
    pub seconds: f64,
    /// CPU time of the client.
    pub client: Cpu,
    /// CPU time of all servers.
    pub servers: Cpu,
    /// The client's peak of anonymous and shared memory.
    pub memory: u64,
    /// Stages in the client's report; null of a client that is not ours.
    pub stages: Value,
    /// The stage that its others waited for.
    pub bottleneck: String,
}

impl Run {
    fn rate(&self) -> f64 {
        self.blocks as f64 / self.seconds.max(1e-9)
    }

    /// CPU time of each stage for a block, in microseconds: of execution, which is not measured so,
    /// its time at work. The rest is receiving, scheduling and what the runtime takes.
    fn by_stage(&self) -> Vec<(&'static str, f64)> {
        let micros = |stage: &str, what: &str| {
            self.micros(self.stages[stage][what].as_f64().unwrap_or_default())
        };
        let mut by_stage = vec![
            ("decode and hash", micros("decode", "cpu_seconds")),
            ("prove", micros("prove", "cpu_seconds")),
            ("execute", micros("execute", "busy_seconds")),
            ("store", micros("store", "cpu_seconds")),
        ];
        let known: f64 = by_stage.iter().map(|(_, micros)| micros).sum();
        // Sampled at different moments, the stages may sum up to a little more than the whole.
        let rest = (self.micros(self.client.total()) - known).max(0.0);
        by_stage.push(("receive and the rest", rest));
        by_stage
    }

    /// CPU time a block, in microseconds.
    fn micros(&self, cpu: f64) -> f64 {
        cpu / self.blocks.max(1) as f64 * 1e6
    }
}

/// A chain in files.
pub(crate) struct ChainFiles {
    dir: PathBuf,
    /// Blocks in it.
    pub blocks: u64,
    /// The last height.
    pub last: u64,
    /// Bytes of `blocks.bin`.
    bytes: u64,
}

impl ChainFiles {
    fn at(dir: &Path) -> Result<Self, Failure> {
        let failed = |e| Failure::failed(format!("{}: no chain: {e}", dir.display()));
        let bytes = fs::metadata(dir.join("blocks.bin")).map_err(failed)?.len();
        let expected = fs::read_to_string(dir.join("expected.jsonl")).map_err(failed)?;
        // One line a block, in order: the last one names the last height.
        let last = expected.lines().next_back().unwrap_or_default();
        let last: Value = serde_json::from_str(last).unwrap_or_default();
        let last = last["height"].as_u64().ok_or_else(|| {
            Failure::failed(format!(
                "{}: expected.jsonl ends in no height",
                dir.display()
            ))
        })?;
        Ok(ChainFiles {
            dir: dir.to_owned(),
            blocks: expected.lines().count() as u64,
            last,
            bytes,
        })
    }

    /// One of its files.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Of one block.
    fn block_bytes(&self) -> f64 {
        self.bytes as f64 / self.blocks.max(1) as f64
    }
}

/// Makes a chain, or measures one.
///
/// # Errors
/// When a process fails or the chain cannot be made.
pub(crate) fn run(args: &Bench) -> Result<Exit, Failure> {
    // Hidden: this is the bench's own second process, and sends until it is killed.
    if let Some(file) = &args.probe_send {
        bench_probe::send(file)?;
        return Ok(Exit::Reached);
    }
    if let Some(dir) = &args.make {
        make(&args.options, dir)?;
        return Ok(Exit::Reached);
    }
    if args.options.app == AppKind::Kvstore034 {
        return Err(Failure::usage(
            "--app kvstore-0.34 is for --make: it runs behind a socket, and is not measured",
        ));
    }
    let parent = args.work.clone().unwrap_or_else(std::env::temp_dir);
    let work = Work::new(&parent)?;
    let dir = match &args.chain {
        Some(dir) => dir.clone(),
        None => {
            let dir = work.0.join("chain");
            make(&args.options, &dir)?;
            dir
        }
    };
    let chain = ChainFiles::at(&dir)?;
    let found = measure(args, &chain, &work.0)?;
    found.show(args, &chain);
    if args.json {
        outln!("{}", found.json(args, &chain));
    }
    Ok(Exit::Reached)
}

fn make(options: &Options, dir: &Path) -> Result<(), Failure> {
    let start = std::time::Instant::now();
    let mut shown = 0;
    let made = chaingen::write(options, dir, |done| {
        let seconds = start.elapsed().as_secs();
        if seconds >= shown + 5 {
            shown = seconds;
            say(&format!(
                "making the chain: {done} of {} blocks",
                options.heights
            ));
        }
    });
    let made = made.map_err(|e| Failure::failed(e.to_string()))?;
    say(&format!(
        "made {}: heights {} to {}, {:.1} MB of blocks, in {:.1} s",
        dir.display(),
        made.first,
        made.last,
        made.block_bytes as f64 / 1e6,
        start.elapsed().as_secs_f64()
    ));
    Ok(())
}

/// A directory that is removed at the end.
struct Work(PathBuf);

impl Work {
    fn new(parent: &Path) -> Result<Self, Failure> {
        let dir = parent.join(format!("blocksync-bench-{}", std::process::id()));
        fs::create_dir_all(&dir).map_err(|e| Failure::failed(format!("{}: {e}", dir.display())))?;
        Ok(Work(dir))
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // Remains are in the directory for temporary files.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Results: the best of each kind.
struct Found {
    limit: Limit,
    /// Our part of the limit in each run.
    parts: Vec<f64>,
    ours: Run,
    comet: Option<(Run, Run)>,
}

fn better(best: Option<Run>, run: Run) -> Option<Run> {
    Some(best.filter(|b| b.rate() >= run.rate()).unwrap_or(run))
}

fn measure(args: &Bench, chain: &ChainFiles, work: &Path) -> Result<Found, Failure> {
    let home = work.join("server");
    import(args, chain, &home)?;
    let servers = Servers::start(args, &home)?;
    let comet = match &args.cometbft {
        Some(program) => Some(Comet::prepare(program, args, chain, &home, work)?),
        None => None,
    };
    let (mut limit, mut ours, mut theirs) = (Limit::default(), None, None);
    let mut parts = Vec::new();
    // The kinds alternate within each round, so that a slow minute of the
    // machine slows all of them.
    for n in 1..=args.runs {
        // Right before ours: a disk or a clock that changes its pace changes
        // both sides of the quotient.
        let probe = bench_probe::measure(&chain.file("blocks.bin"), work)?;
        let run = servers.sync(args, chain, work)?;
        let (limit_rate, rate) = (probe.append / chain.block_bytes(), run.rate());
        parts.push(rate / limit_rate);
        limit = limit.best(probe);
        ours = better(ours, run);
        let mut line = format!("run {n}: limit {limit_rate:.0}, ours {rate:.0}");
        if let Some(comet) = &comet {
            let run = comet.sync(chain, work)?;
            line.push_str(&format!(", CometBFT {:.0}", run.rate()));
            theirs = better(theirs, run);
        }
        say(&format!("{line} blocks/s"));
    }
    let none = || Failure::failed("no run was made");
    parts.sort_by(f64::total_cmp);
    Ok(Found {
        limit,
        parts,
        ours: ours.ok_or_else(none)?,
        comet: theirs.zip(comet.map(|c| c.from_ours)),
    })
}

/// The name of the policy, for `--proof`.
fn proof(args: &Bench) -> &'static str {
    match args.proof {
        Proof::Anchored => "anchored",
        Proof::EveryCommit => "every-commit",
    }
}

/// The name of the application, for `--app`.
pub(crate) fn app(args: &Bench) -> &'static str {
    match args.options.app {
        AppKind::Kvstore => "kvstore",
        AppKind::Noop => "noop",
        AppKind::Kvstore034 => "kvstore-0.34",
    }
}

/// Puts the chain into a home that can serve it.
fn import(args: &Bench, chain: &ChainFiles, home: &Path) -> Result<(), Failure> {
    let (genesis, tip) = (chain.file("genesis.json"), chain.file("tip_commit.bin"));
    let (home, genesis) = (show(home), show(&genesis));
    let rules = args.options.rules.to_string();
    let start = std::time::Instant::now();
    let line = [
        "import",
        "--log",
        "warn",
        "--home",
        &home,
        "--genesis",
        &genesis,
        "--app",
        app(args),
        "--rules",
        &rules,
        "--tip-commit",
        &show(&tip),
    ];
    Child::ours(&line, &[&chain.file("blocks.bin")])?.finish()?;
    let seconds = start.elapsed().as_secs_f64();
    say(&format!(
        "imported {} blocks of {:.1} KB in {seconds:.1} s",
        chain.blocks,
        chain.block_bytes() / 1e3
    ));
    Ok(())
}

pub(crate) fn show(path: &Path) -> String {
    path.display().to_string()
}

/// Our serving processes.
struct Servers {
    processes: Vec<Child>,
    peers: String,
}

impl Servers {
    fn start(args: &Bench, home: &Path) -> Result<Self, Failure> {
        let listen = if args.encrypted { "comet" } else { "plain" };
        // Port 0: the system chooses, and the line that the server prints says which.
        let listen = format!("{listen}://127.0.0.1:0");
        let mut servers = Servers {
            processes: Vec::new(),
            peers: String::new(),
        };
        for n in 0..args.servers {
            // A home each where identities matter; they share the store.
            let home = if args.encrypted && n > 0 {
                twin(home, n)?
            } else {
                home.to_owned()
            };
            let line = ["serve", "--log", "warn", "--listen", &listen, "--home"];
            let mut process = Child::ours(&line, &[&home])?;
            let announced = process.line_after("listening at ")?;
            let peer = through_link(args, &announced)?;
            servers.peers.push_str(if n == 0 { "" } else { "," });
            servers.peers.push_str(&peer);
            servers.processes.push(process);
        }
        Ok(servers)
    }

    fn cpu(&self) -> Cpu {
        let cpus = self.processes.iter().map(Child::cpu);
        cpus.fold(Cpu::default(), |sum, cpu| Cpu {
            user: sum.user + cpu.user,
            system: sum.system + cpu.system,
        })
    }

    /// Syncs the chain once, into a fresh home.
    fn sync(&self, args: &Bench, chain: &ChainFiles, work: &Path) -> Result<Run, Failure> {
        let home = work.join("client");
        let (genesis, rules) = (
            show(&chain.file("genesis.json")),
            args.options.rules.to_string(),
        );
        let last = chain.last.to_string();
        let line = [
            "sync",
            "--log",
            "error",
            "--json",
            "--genesis",
            &genesis,
            "--app",
            app(args),
            "--rules",
            &rules,
            "--proof",
            proof(args),
            "--until",
            &last,
            "--peer",
            &self.peers,
            "--home",
        ];
        let (servers, ended) = (self.cpu(), Cpu::of_ended_children());
        let lines = Child::ours(&line, &[&home])?.finish()?;
        // The client is gone by now; the kernel has added its CPU time to
        // that of our ended children.
        let client = Cpu::of_ended_children().since(ended);
        let report = lines.iter().rev().find(|line| line.starts_with('{'));
        let report: Value = report
            .and_then(|line| serde_json::from_str(line).ok())
            .ok_or_else(|| Failure::failed("the client printed no report"))?;
        // Only said: such a run is slower than it could be, and the best of all runs counts.
        if let Some(dropped) = report["peers_dropped"].as_array().filter(|d| !d.is_empty()) {
            say(&format!(
                "warning: the client has dropped peers: {dropped:?}"
            ));
        }
        fs::remove_dir_all(&home).map_err(|e| Failure::failed(format!("{}: {e}", show(&home))))?;
        Ok(Run {
            blocks: report["blocks"].as_u64().unwrap_or(0),
            seconds: report["seconds"].as_f64().unwrap_or(0.0),
            client,
            servers: self.cpu().since(servers),
            memory: report["peak_memory_bytes"].as_u64().unwrap_or(0),
            stages: report["stages"].clone(),
            bottleneck: report["bottleneck"].as_str().unwrap_or_default().to_owned(),
        })
    }
}

/// Another home with the same store, for a node id of its own.
fn twin(home: &Path, n: u16) -> Result<PathBuf, Failure> {
    let twin = home.with_extension(n.to_string());
    let make = || {
        fs::create_dir_all(&twin)?;
        fs::copy(home.join("genesis.json"), twin.join("genesis.json"))?;
        // `serve` opens a store for reading only, so several processes may share one.
        std::os::unix::fs::symlink(home.join("data"), twin.join("data"))
    };
    make().map_err(|e| Failure::failed(format!("{}: {e}", show(&twin))))?;
    Ok(twin)
}

/// The address to dial for what a server has announced: `plain://HOST:PORT, node id ID`. With a
/// round-trip time, it is that of a link in between.
fn through_link(args: &Bench, announced: &str) -> Result<String, Failure> {
    let odd = || Failure::failed(format!("the server listens at {announced:?}"));
    let (at, id) = announced.split_once(", node id ").ok_or_else(odd)?;
    // The scheme is known from `--encrypted`, and an authenticated address has none.
    let (_, host) = at.split_once("://").ok_or_else(odd)?;
    let host = match args.rtt {
        None => host.to_owned(),
        Some(rtt) => {
            let port = bench_link::delayed(host, rtt)
                .map_err(|e| Failure::failed(format!("no link: {e}")))?;
            format!("127.0.0.1:{port}")
        }
    };
    Ok(if args.encrypted {
        format!("{id}@{host}")
    } else {
        format!("plain://{host}")
    })
}

impl Found {
    /// The limit in blocks a second.
    fn limit_rate(&self, chain: &ChainFiles) -> f64 {
        self.limit.append / chain.block_bytes()
    }

    /// Our part of the limit in the middle run. The machine's pace changes from one run to the
    /// next, and the limit's most of all: the best of the one need not have met the best of the
    /// other.
    fn middle_part(&self) -> f64 {
        self.parts.get(self.parts.len() / 2).copied().unwrap_or(0.0)
    }

    fn show(&self, args: &Bench, chain: &ChainFiles) {
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let size = chain.block_bytes();
        let rate = |bytes: f64| format!("{:.0} blocks/s ({:.0} MB/s)", bytes / size, bytes / 1e6);
        let way = if args.encrypted { "encrypted" } else { "plain" };
        let rtt = args.rtt.map_or_else(String::new, |t| {
            format!(", {} ms of round trip", t.as_millis())
        });
        outln!(
            "{} blocks of {:.1} KB, {}, {}, {} server(s), {way}{rtt}; {cores} cores; best of {} runs",
            chain.blocks,
            size / 1e3,
            app(args),
            proof(args),
            args.servers,
            args.runs
        );
        outln!("  limit      receive {}", rate(self.limit.receive));
        outln!("             and hash {}", rate(self.limit.hash));
        outln!("             and append {}", rate(self.limit.append));
        let show = |name: &str, run: &Run| {
            outln!(
                "  {name:10} {}, client {:.0} µs of CPU a block ({:.0} user, {:.0} system), servers {:.0} µs, peak memory {:.0} MB",
                rate(run.rate() * size),
                run.micros(run.client.total()),
                run.micros(run.client.user),
                run.micros(run.client.system),
                run.micros(run.servers.total()),
                run.memory as f64 / 1e6
            );
        };
        show("ours", &self.ours);
        let by_stage = self.ours.by_stage().into_iter();
        let by_stage = by_stage.map(|(stage, micros)| format!("{stage} {micros:.0}"));
        outln!(
            "             of which {} µs; bottleneck: {}",
            by_stage.collect::<Vec<_>>().join(", "),
            self.ours.bottleneck
        );
        outln!(
            "             {:.2} of the limit, best against best; {:.2} in the middle one of the runs ({:.2} to {:.2})",
            self.ours.rate() / self.limit_rate(chain),
            self.middle_part(),
            self.parts.first().copied().unwrap_or(0.0),
            self.parts.last().copied().unwrap_or(0.0)
        );
        if let Some((comet, from_ours)) = &self.comet {
            show("CometBFT", comet);
            outln!(
                "             ours is {:.1} times as fast",
                self.ours.rate() / comet.rate()
            );
            show("from ours", from_ours);
        }
    }

    fn json(&self, args: &Bench, chain: &ChainFiles) -> Value {
        let run = |run: &Run| {
            json!({
                "blocks": run.blocks, "seconds": run.seconds, "blocks_per_second": run.rate(),
                "client_cpu_us_per_block": run.micros(run.client.total()),
                "server_cpu_us_per_block": run.micros(run.servers.total()), "peak_memory_bytes": run.memory,
                "stages": run.stages, "bottleneck": run.bottleneck,
            })
        };
        let size = chain.block_bytes();
        json!({
            "blocks": chain.blocks, "block_bytes": size, "app": app(args), "proof": proof(args),
            "servers": args.servers, "encrypted": args.encrypted, "rtt_ms": args.rtt.map(|t| t.as_millis() as u64),
            "runs": args.runs,
            "limit": {"receive": self.limit.receive / size, "hash": self.limit.hash / size, "append": self.limit.append / size},
            "ours": run(&self.ours), "of_the_limit": self.ours.rate() / self.limit_rate(chain),
            "of_the_limit_middle_run": self.middle_part(), "of_the_limit_by_run": self.parts,
            "cometbft": self.comet.as_ref().map(|(comet, _)| run(comet)),
            "cometbft_from_ours": self.comet.as_ref().map(|(_, ours)| run(ours)),
            "times_cometbft": self.comet.as_ref().map(|(comet, _)| self.ours.rate() / comet.rate()),
        })
    }
}
