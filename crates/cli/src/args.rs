//! The command line: commands, flags, help.

use std::path::PathBuf;
use std::time::Duration;

use blocksync::app::{AnyApp, UnknownApp};
use blocksync::chain::RuleSchedule;
use blocksync::chain::proof::Policy;
use blocksync::ids::{Hash, Height, PeerId};
use blocksync::p2p::{ListenAddr, PeerAddr};
use clap::{Args, Parser, Subcommand, ValueEnum};

/// Downloads, proves, executes, stores and serves the blocks of CometBFT chains.
#[derive(Debug, Parser)]
#[command(name = "blocksync", version, propagate_version = true, after_help = EXAMPLES)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// How the log is written to standard error
    #[arg(
        long,
        global = true,
        value_enum,
        default_value = "text",
        value_name = "FORMAT",
        display_order = 900
    )]
    pub log_format: LogFormat,
    /// What is logged: error, warn, info (what most commands log), debug, trace, or a list: info,blocksync::p2p=debug
    #[arg(long, global = true, value_name = "FILTER", display_order = 901)]
    pub log: Option<String>,
}

const EXAMPLES: &str = "\
Try it, nothing else needed:
  blocksync demo

Follow a chain from two nodes, and serve it to others meanwhile:
  blocksync sync --home ~/chain --genesis genesis.json \\
      --peer 7b9c39309622bda1f8cd2bade5725e8f09948a1a@10.0.0.7:26656,plain://10.0.0.8:9000 --listen comet://0.0.0.0:26656

Exit status: 0 reached what was asked, 1 failed, 2 wrong usage, 3 no usable peers or stalled,
4 the chain contradicts our own state.";

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show the whole of it on a chain that comes with the program: serve, sync, prove, report
    Demo,
    /// Download a chain from peers, prove it, execute it, store it, and follow it
    #[command(after_help = SYNC_EXAMPLES)]
    Sync(Sync),
    /// Answer other nodes from the store
    #[command(after_help = SERVE_EXAMPLES)]
    Serve(Serve),
    /// Take a file of blocks, proven and executed exactly like a peer's
    #[command(after_help = IMPORT_EXAMPLES)]
    Import(Import),
    /// Write stored blocks to a file that `import` takes; works beside a running process
    #[command(after_help = EXPORT_EXAMPLES)]
    Export(Export),
    /// Show what the store holds; works beside a running process
    #[command(after_help = "Example:\n  blocksync status --home ~/chain --json")]
    Status(Status),
    /// Prove the whole store again, first to last block
    #[command(after_help = "Example:\n  blocksync verify --home ~/chain")]
    Verify(Verify),
    /// Measure a sync on this machine: how much of the machine's limit it is, and how many times as fast as CometBFT
    #[command(after_help = BENCH_EXAMPLES)]
    Bench(Box<crate::bench::Bench>),
}

const SYNC_EXAMPLES: &str = "\
Examples:
  Up to a height, then stop; exit status 3 when no peer has it:
    blocksync sync --home ~/chain --genesis genesis.json --peer plain://10.0.0.8:9000 --until 5000
  Until nothing is left to fetch, with a line of JSON for a script:
    blocksync sync --home ~/chain --peer ID@HOST:26656 --exit-when-caught-up --json
  A chain that went from CometBFT 0.38 to 0.40 at height 4 000 000:
    blocksync sync --home ~/chain --peer ID@HOST:26656 --rules 1:comet-0.38,4000000:comet-0.40

Every flag may stand in DIR/config.toml under its name: until = 5000, peer = [\"plain://10.0.0.8:9000\"].";

const SERVE_EXAMPLES: &str = "\
Examples:
  For CometBFT nodes; their persistent_peers names the node id that `blocksync status` shows:
    blocksync serve --home ~/chain --listen comet://0.0.0.0:26656
  For trusted links and tests; port 0 lets the system choose, the address is printed:
    blocksync serve --home ~/chain --listen plain://127.0.0.1:0";

const IMPORT_EXAMPLES: &str = "\
Example:
  blocksync import --home ~/chain --genesis genesis.json --tip-commit tip_commit.bin blocks.bin

The file holds BlockResponse messages, each behind its length (`blocksync export` writes one). A block is proven by the commit in
the next one; the last block needs --tip-commit, or an export's last message, which holds it.";

const BENCH_EXAMPLES: &str = "\
Examples:
  100 validators, 20000 blocks of 19 KB, against the machine's limit and a CometBFT node:
    blocksync bench --heights 20000 --cometbft /usr/local/bin/cometbft
  A chain that is made once and measured often:
    blocksync bench --make /tmp/chain --heights 100000
    blocksync bench --chain /tmp/chain --proof every-commit --servers 4 --rtt 50ms";

const EXPORT_EXAMPLES: &str = "\
Example:
  blocksync export --home ~/chain --from 1000 --to 2000 part.bin";

/// The home.
#[derive(Debug, Args)]
pub(crate) struct Home {
    /// Directory of config.toml, genesis.json, node_key.json and data/; created when it is not there
    #[arg(long, value_name = "DIR")]
    pub home: PathBuf,
}

/// What is synced, and how it is proven and kept.
#[derive(Debug, Args)]
pub(crate) struct Chain {
    /// The chain's genesis file: needed once, then it is kept in the home
    #[arg(long, value_name = "FILE")]
    pub genesis: Option<PathBuf>,
    /// The application that executes the blocks: kvstore (CometBFT's example), noop (no state, an empty app hash), or an ABCI socket, tcp://HOST:PORT or unix://PATH
    #[arg(long, value_name = "APP", default_value = "kvstore", value_parser = parse_app)]
    pub app: String,
    /// anchored: one fully verified commit proves a run of blocks. every-commit: every block's commit is fully verified
    #[arg(long, value_name = "POLICY", value_enum, default_value = "anchored")]
    pub proof: Proof,
    /// The protocol's rules: comet-0.38, comet-0.39, comet-0.40, or a list of HEIGHT:RULES
    #[arg(long, value_name = "RULES", default_value = "comet-0.38", value_parser = RuleSchedule::parse)]
    pub rules: RuleSchedule,
    /// Stop if the block of this height has another hash: against an attacker who has bought old keys
    #[arg(long, value_name = "HEIGHT:HASH", value_parser = parse_trust)]
    pub trust: Option<(Height, Hash)>,
    /// Keep only so many blocks; 0 keeps all
    #[arg(long, value_name = "BLOCKS", default_value_t = 0)]
    pub retain_blocks: u64,
    /// Blocks on their way in take at most so much memory, and two blocks: 256MiB, 1GB, 5000000. What others are served takes 64MiB beside it, and
    /// up to 1MiB and a block more for each peer
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = parse_size)]
    pub memory: u64,
}

/// The network.
#[derive(Debug, Args)]
pub(crate) struct Network {
    /// Where to answer others: comet://IP:PORT, or plain://IP:PORT without authentication; repeatable, or a list with commas
    #[arg(long, value_name = "ADDR", value_delimiter = ',')]
    pub listen: Vec<ListenAddr>,
    /// Nodes to ask for more peers, ID@HOST:PORT; repeatable, or a list with commas
    #[arg(long, value_name = "ADDR", value_delimiter = ',')]
    pub seed: Vec<PeerAddr>,
    /// Take also private and loopback addresses from peer exchange: for networks of one's own
    #[arg(long)]
    pub allow_private: bool,
    /// Most peers that may connect to us
    #[arg(long, value_name = "COUNT", default_value_t = 40)]
    pub max_peers: usize,
    /// If given, the only node ids that may connect; repeatable, or a list with commas
    #[arg(long, value_name = "ID", value_delimiter = ',', value_parser = parse_id)]
    pub allow: Vec<PeerId>,
    /// Bytes a second to each peer: 5MB; 0 is no limit
    #[arg(long, value_name = "SIZE", default_value = "0", value_parser = parse_size)]
    pub send_rate: u64,
    /// Bytes a second from each peer: 5MB; 0 is no limit
    #[arg(long, value_name = "SIZE", default_value = "0", value_parser = parse_size)]
    pub recv_rate: u64,
    /// Only CometBFT's own framing, also between two nodes of this program
    #[arg(long)]
    pub classic: bool,
}

/// `blocksync sync`.
#[derive(Debug, Args)]
pub(crate) struct Sync {
    /// The home.
    #[command(flatten)]
    pub home: Home,
    /// The chain.
    #[command(flatten)]
    pub chain: Chain,
    /// Whom to sync from: ID@HOST:PORT, or plain://HOST:PORT without authentication; repeatable, or a list with commas
    #[arg(long, value_name = "ADDR", value_delimiter = ',')]
    pub peer: Vec<PeerAddr>,
    /// The network.
    #[command(flatten)]
    pub network: Network,
    /// Stop after this height
    #[arg(long, value_name = "HEIGHT", value_parser = parse_height)]
    pub until: Option<Height>,
    /// Stop when no credible peer has more blocks
    #[arg(long)]
    pub exit_when_caught_up: bool,
    /// With a goal, give up (exit status 3) after so long without progress: 30s, 5m
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_duration)]
    pub patience: Duration,
    /// Print one line of JSON on standard output at the end
    #[arg(long)]
    pub json: bool,
}

/// `blocksync serve`.
#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// The home.
    #[command(flatten)]
    pub home: Home,
    /// The network.
    #[command(flatten)]
    pub network: Network,
}

/// `blocksync import`.
#[derive(Debug, Args)]
pub(crate) struct Import {
    /// The home.
    #[command(flatten)]
    pub home: Home,
    /// The chain.
    #[command(flatten)]
    pub chain: Chain,
    /// The commit for the file's last block, an encoded tendermint.types.Commit
    #[arg(long, value_name = "FILE")]
    pub tip_commit: Option<PathBuf>,
    /// Print one line of JSON on standard output at the end
    #[arg(long)]
    pub json: bool,
    /// The blocks.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

/// `blocksync export`.
#[derive(Debug, Args)]
pub(crate) struct Export {
    /// The home.
    #[command(flatten)]
    pub home: Home,
    /// First height; the lowest stored one if not given
    #[arg(long, value_name = "HEIGHT", value_parser = parse_height)]
    pub from: Option<Height>,
    /// Last height; the highest executed one if not given
    #[arg(long, value_name = "HEIGHT", value_parser = parse_height)]
    pub to: Option<Height>,
    /// Where to write; replaced when it is there.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

/// `blocksync status`.
#[derive(Debug, Args)]
pub(crate) struct Status {
    /// The home.
    #[command(flatten)]
    pub home: Home,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `blocksync verify`.
#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// The home.
    #[command(flatten)]
    pub home: Home,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// How blocks are proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Proof {
    /// One fully verified commit a run of blocks.
    Anchored,
    /// One a block.
    EveryCommit,
}

impl From<Proof> for Policy {
    fn from(proof: Proof) -> Self {
        match proof {
            Proof::Anchored => Policy::Anchored,
            Proof::EveryCommit => Policy::EveryCommit,
        }
    }
}

impl Command {
    /// The home that the command is about.
    pub(crate) fn home(&self) -> Option<&PathBuf> {
        match self {
            Command::Demo | Command::Bench(_) => None,
            Command::Sync(a) => Some(&a.home.home),
            Command::Serve(a) => Some(&a.home.home),
            Command::Import(a) => Some(&a.home.home),
            Command::Export(a) => Some(&a.home.home),
            Command::Status(a) => Some(&a.home.home),
            Command::Verify(a) => Some(&a.home.home),
        }
    }
}

/// The name of an application that is there; it is made when it is needed.
fn parse_app(text: &str) -> Result<String, UnknownApp> {
    text.parse::<AnyApp>().map(|_| text.to_owned())
}

fn parse_height(text: &str) -> Result<Height, String> {
    match text.parse::<u64>() {
        Ok(h) if h >= 1 && h <= Height::MAX.get() => Ok(Height::new(h)),
        _ => Err(format!(
            "{text:?} is no height: a whole number from 1 to {} is needed",
            Height::MAX
        )),
    }
}

fn parse_trust(text: &str) -> Result<(Height, Hash), String> {
    let (height, hash) = text
        .split_once(':')
        .ok_or_else(|| format!("{text:?}: HEIGHT:HASH is needed"))?;
    let hash = Hash::from_hex(hash)
        .ok_or_else(|| format!("{hash:?} is no block hash: 64 hex digits are needed"))?;
    Ok((parse_height(height)?, hash))
}

fn parse_id(text: &str) -> Result<PeerId, String> {
    PeerId::from_hex(text.trim())
        .ok_or_else(|| format!("{text:?} is no node id: 40 hex digits are needed"))
}

/// A number of bytes, with a unit or without.
fn parse_size(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 9] = [
        ("kib", 1 << 10),
        ("mib", 1 << 20),
        ("gib", 1 << 30),
        ("kb", 1000),
        ("mb", 1_000_000),
        ("gb", 1_000_000_000),
        ("k", 1 << 10),
        ("m", 1 << 20),
        ("g", 1 << 30),
    ];
    let lower = text.trim().to_ascii_lowercase();
    let unit = UNITS
        .iter()
        .find_map(|(name, factor)| Some((lower.strip_suffix(name)?, *factor)));
    let (digits, factor) = unit.unwrap_or((&lower, 1));
    let number: Option<u64> = digits.trim().parse().ok();
    number
        .and_then(|n| n.checked_mul(factor))
        .ok_or_else(|| format!("{text:?} is no size; use for example 256MiB, 1GB or 5000000"))
}

/// A time in milliseconds or seconds.
pub(crate) fn parse_time(text: &str) -> Result<Duration, String> {
    let lower = text.trim().to_ascii_lowercase();
    match lower.strip_suffix("ms") {
        Some(digits) => (digits.trim().parse())
            .map(Duration::from_millis)
            .map_err(|_| format!("{text:?} is no time; use for example 50ms or 1s")),
        None => parse_duration(&lower),
    }
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let lower = text.trim().to_ascii_lowercase();
    let (digits, factor) = match lower.strip_suffix('m') {
        Some(minutes) => (minutes, 60),
        None => (lower.strip_suffix('s').unwrap_or(&lower), 1),
    };
    let number: Option<u64> = digits.trim().parse().ok();
    let seconds = number.and_then(|n| n.checked_mul(factor));
    seconds
        .filter(|s| *s <= 1 << 32)
        .map(Duration::from_secs)
        .ok_or_else(|| format!("{text:?} is no time; use for example 30s or 5m"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_description_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn lists_may_be_repeated_or_have_commas() {
        let id = "7b9c39309622bda1f8cd2bade5725e8f09948a1a";
        let two = format!("{id}@h:1,plain://localhost:2");
        let line = ["blocksync", "sync", "--home", "x", "--peer", &two];
        let parsed = Cli::try_parse_from(line.iter().chain(&["--peer", "plain://h:3"])).unwrap();
        let Command::Sync(sync) = parsed.command else {
            panic!("another command");
        };
        assert_eq!(sync.peer.len(), 3);
        assert_eq!(sync.chain.app, "kvstore");
    }

    #[test]
    fn what_is_unknown_is_named() {
        for (flag, value) in [
            ("--app", "kvstor"),
            ("--rules", "comet-0.99"),
            ("--proof", "none"),
            ("--trust", "7"),
            ("--until", "0"),
            ("--memory", "lots"),
            ("--patience", "soon"),
            ("--peer", "http://h:1"),
        ] {
            let line = ["blocksync", "sync", "--home", "x", flag, value];
            let error = Cli::try_parse_from(line).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{flag}");
            assert!(error.to_string().contains(value), "{flag}: {error}");
        }
    }

    #[test]
    fn sizes_and_times_have_units() {
        assert_eq!(parse_size("256MiB"), Ok(256 << 20));
        assert_eq!(parse_size("1 gb"), Ok(1_000_000_000));
        assert_eq!(parse_size("12"), Ok(12));
        assert!(parse_size("99999999999GiB").is_err() && parse_size("").is_err());
        assert_eq!(parse_duration("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(parse_duration("30s"), Ok(Duration::from_secs(30)));
    }
}
