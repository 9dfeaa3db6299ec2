//! The command line: commands, flags, help.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use blocksync::app::Connections;
use blocksync::chain::RuleSchedule;
use blocksync::chain::abci::{AbciVersion, UnknownAbci};
use blocksync::chain::proof::Policy;
use blocksync::chain::rules::RulesError;
use blocksync::ids::{Hash, Height};
use blocksync::p2p::{ListenAddr, PeerAddr};
use blocksync::service::RetainResults;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

use crate::auto::Asked;
use crate::values::{self, List, NodeId};

/// Downloads, proves, executes, stores and serves the blocks of CometBFT chains.
#[derive(Debug, Parser)]
#[command(name = "blocksync", version, propagate_version = true, after_help = EXAMPLES)]
pub(crate) struct Cli {
    /// The command.
    #[command(subcommand)]
    pub command: Command,
    /// Format of the lines on standard error: text, or json with one object per line
    #[arg(
        long,
        global = true,
        value_enum,
        default_value = "text",
        value_name = "FORMAT",
        display_order = 900
    )]
    pub log_format: LogFormat,
    /// Log filter: error, warn, info (the default of most commands), debug, trace, or a list such
    /// as info,blocksync::p2p=debug. On SIGHUP it is read again from config.toml
    #[arg(long, global = true, value_name = "FILTER", display_order = 901)]
    pub log: Option<String>,
}

const EXAMPLES: &str = "\
Try it, nothing else needed:
  blocksync demo

Follow a chain from two nodes, and serve it to others meanwhile:
  blocksync sync --home ~/chain --genesis genesis.json \\
      --peer 7b9c39309622bda1f8cd2bade5725e8f09948a1a@10.0.0.7:26656,plain://10.0.0.8:9000 --listen comet://0.0.0.0:26656

Every flag has an environment variable: BLOCKSYNC_SEND_RATE is --send-rate. The command line counts before the environment, and
the environment before DIR/config.toml; `blocksync config show` names the source of each value.

Exit status: 0 reached what was asked, 1 failed, 2 wrong usage, 3 no usable peers or stalled,
4 the chain contradicts our own state, 5 the application does not execute the next height (upgrade, halt height).";

/// Prefix of the environment variables.
const VARIABLES: &str = "BLOCKSYNC_";
/// Flags that no variable can set.
const NOT_FROM_ENVIRONMENT: [&str; 2] = ["help", "version"];

/// The description of the command line, with an environment variable for each flag.
pub(crate) fn command() -> clap::Command {
    with_variables(Cli::command())
}

fn with_variables(command: clap::Command) -> clap::Command {
    let command = command.mut_args(|arg| {
        let name = arg.get_long().and_then(variable);
        match name {
            Some(name) => arg.env(name).hide_env(true),
            None => arg,
        }
    });
    command.mut_subcommands(with_variables)
}

/// The environment variable of a flag.
pub(crate) fn variable(flag: &str) -> Option<String> {
    let settable = !NOT_FROM_ENVIRONMENT.contains(&flag);
    settable.then(|| format!("{VARIABLES}{}", flag.to_ascii_uppercase().replace('-', "_")))
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Demonstrate everything on a built-in chain: serve, sync, prove, report
    Demo,
    /// Create a home: genesis, node key, and a config.toml that names every flag
    #[command(after_help = "Example:\n  blocksync init --home ~/chain --genesis genesis.json")]
    Init(Init),
    /// Download a chain from peers, prove it, execute it, store it, and follow it
    #[command(after_help = SYNC_EXAMPLES)]
    Sync(Box<Sync>),
    /// Answer other nodes from the store
    #[command(after_help = SERVE_EXAMPLES)]
    Serve(Box<Serve>),
    /// Import a file of blocks, proven and executed exactly like a peer's, or a
    /// stopped CometBFT node's home
    #[command(after_help = IMPORT_EXAMPLES)]
    Import(Import),
    /// Write stored blocks to a file that `import` reads, or blocks and state
    /// into a CometBFT node's home
    #[command(after_help = EXPORT_EXAMPLES)]
    Export(Export),
    /// Show what the store holds; works beside a running process
    #[command(after_help = "Example:\n  blocksync status --home ~/chain --json")]
    Status(Status),
    /// Show one stored block, with its results where they are kept; works beside a running process
    #[command(after_help = "Example:\n  blocksync block --home ~/chain 1000 --json")]
    Block(Block),
    /// Prove the whole store again, from the first block to the last, and replace damaged blocks
    #[command(after_help = VERIFY_EXAMPLES)]
    Verify(Verify),
    /// Roll the chain state back by some blocks; the blocks stay and are executed again
    #[command(
        after_help = "Example, after the application was rolled back by one block, too:\n  blocksync rollback --home ~/chain"
    )]
    Rollback(Rollback),
    /// Return disk space that the database does not use; nothing else may use
    /// the home, readers included
    Compact(OfHome),
    /// Remove all blocks and the state from a home; settings, genesis, key and address book stay
    Reset(Reset),
    /// Print the node id of a home, for the peer lists of other nodes
    ShowNodeId(OfHome),
    /// Show or check the settings of a home
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Run a recording of `sync --record` through the same scheduler, and show what it decides
    #[command(after_help = "Example:\n  blocksync replay ~/chain/flight --effects")]
    Replay(super::replay::ReplayArgs),
    /// Measure a sync on this machine: how much of the machine's limit it is, and how many times as
    /// fast as CometBFT
    #[command(after_help = BENCH_EXAMPLES)]
    Bench(Box<super::bench::Bench>),
    /// Print a script that completes commands and flags in a shell
    #[command(
        after_help = "Example:\n  blocksync completions bash > /usr/share/bash-completion/completions/blocksync"
    )]
    Completions(Completions),
    /// Write the manual pages
    #[command(after_help = "Example:\n  blocksync man /usr/share/man/man1")]
    Man(Man),
}

/// `blocksync config`.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Read config.toml, genesis.json and node_key.json, and report mistakes in them
    Check(OfHome),
    /// Print each flag of a command with its value and the source of the value
    Show(ShowConfig),
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
Examples:
  blocksync import --home ~/chain --genesis genesis.json --tip-commit tip_commit.bin blocks.bin
  A stopped stock node's home, or an unpacked snapshot of one; then sync goes on with that home's application:
    blocksync import --home ~/chain --comet-home ~/.gaia

The file holds BlockResponse messages, each behind its length (`blocksync export` writes one). A block is proven by the commit in
the next one; the last block needs --tip-commit, or an export's last message, which holds it.";

const VERIFY_EXAMPLES: &str = "\
Examples:
  blocksync verify --home ~/chain
  Damaged blocks are fetched by their hash and put back:
    blocksync verify --home ~/chain --repair --peer ID@HOST:26656";

const BENCH_EXAMPLES: &str = "\
Examples:
  100 validators, 20000 blocks of 19 KB, against the machine's limit and a CometBFT node:
    blocksync bench --heights 20000 --cometbft /usr/local/bin/cometbft
  A chain that is made once and measured often:
    blocksync bench --make /tmp/chain --heights 100000
    blocksync bench --chain /tmp/chain --proof every-commit --servers 4 --rtt 50ms";

const EXPORT_EXAMPLES: &str = "\
Examples:
  blocksync export --home ~/chain --from 1000 --to 2000 part.bin
  Into the home of a stock node that has not run yet, which goes on from there; no other process may use either home:
    blocksync export --home ~/chain --comet-home ~/.gaia";

/// The home.
#[derive(Debug, Args)]
pub(crate) struct Home {
    /// Directory of config.toml, genesis.json, node_key.json and data/; created if missing
    #[arg(long, value_name = "DIR")]
    pub home: PathBuf,
}

/// A command that takes nothing but a home.
#[derive(Debug, Args)]
pub(crate) struct OfHome {
    /// The home.
    #[command(flatten)]
    pub home: Home,
}

/// The chain to sync, and how it is proven and kept.
#[derive(Debug, Args)]
pub(crate) struct Chain {
    /// Genesis file of the chain; needed once, then the home keeps it
    #[arg(long, value_name = "FILE")]
    pub genesis: Option<PathBuf>,
    /// Application that executes the blocks: kvstore (CometBFT's example), noop (no state, an empty
    /// app hash), an ABCI socket, tcp://HOST:PORT or unix://PATH, or ABCI 0.38 over gRPC,
    /// grpc://HOST:PORT
    #[arg(long, value_name = "APP", default_value = "kvstore", value_parser = values::app)]
    pub app: String,
    /// ABCI version of an application behind a socket: 0.34, 0.37, 0.38 (also for 0.39 and 0.40) or
    /// 1.0 at every height; auto follows the rules, and exits with status 5 where the application
    /// is made for another part of the chain
    #[arg(long, value_name = "VERSION", default_value = "auto")]
    pub abci: ChosenAbci,
    /// Connections to an application behind a socket: 1, or 4 as CometBFT opens them (query,
    /// snapshot, mempool, consensus), for an application that waits for all four
    #[arg(long, value_name = "NUMBER", default_value = "1", value_parser = values::connections)]
    pub app_connections: Connections,
    /// Time to wait for an application behind a socket to listen: 30s, 5m
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = values::time)]
    pub app_wait: Duration,
    /// Time to wait whenever the connection to the application is lost: 60s,
    /// 5m; 0s gives up at once
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = values::time)]
    pub app_retry: Duration,
    /// Proof policy. anchored: one fully verified commit proves a run of blocks. every-commit:
    /// every block's commit is fully verified
    #[arg(long, value_name = "POLICY", value_enum, default_value = "anchored")]
    pub proof: Proof,
    /// Protocol rules: comet-0.34, -0.37, -0.38, -0.39, -0.40 or -1.0, or a list of HEIGHT:RULES
    /// for a chain that was upgraded; auto finds them by the genesis and by the ABCI version of an
    /// application that has executed nothing, keeps them in the home, and asks where several fit
    #[arg(long, value_name = "RULES", default_value = "comet-0.38", value_parser = ChosenRules::parse)]
    pub rules: ChosenRules,
    /// Height and hash of a block that must be on the chain, against an
    /// attacker with old validator keys
    #[arg(long, value_name = "HEIGHT:HASH", value_parser = values::trust)]
    pub trust: Option<(Height, Hash)>,
    /// Number of recent blocks to keep; 0 keeps all
    #[arg(long, value_name = "BLOCKS", default_value_t = 0)]
    pub retain_blocks: u64,
    /// Number of recent blocks whose results to keep, for block_results and export --json; all
    /// keeps every one, 0 none
    #[arg(long, value_name = "BLOCKS", default_value = "0", value_parser = str::parse::<RetainResults>)]
    pub retain_results: RetainResults,
    /// Memory for blocks being downloaded; up to two blocks may exceed it: 256MiB, 1.5GB, 5000000
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = values::size)]
    pub memory: u64,
    /// The machine.
    #[command(flatten)]
    pub machine: Machine,
}

/// Use of the machine.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Machine {
    /// Number of compute threads, and of network threads; 0 is one for each core
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    pub threads: u16,
}

/// The network.
#[derive(Debug, Args)]
pub(crate) struct Network {
    /// Address to listen on: comet://IP:PORT, or plain://IP:PORT without
    /// authentication; repeatable, or a list
    #[arg(long, value_name = "ADDR")]
    pub listen: Vec<List<ListenAddr>>,
    /// Address to announce to other nodes, HOST:PORT, if it is not the one of --listen
    #[arg(long, value_name = "ADDR")]
    pub external: Option<String>,
    /// Name that other operators see: printable ASCII
    #[arg(long, value_name = "NAME", default_value = "blocksync")]
    pub moniker: String,
    /// Addresses of nodes to ask for more peers, ID@HOST:PORT; repeatable, or a list
    #[arg(long, value_name = "ADDR")]
    pub seed: Vec<List<PeerAddr>>,
    /// Whether to take part in peer exchange. Without this flag: with --seed, and when no peer is
    /// given and the address book has entries
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub pex: Option<bool>,
    /// Address book to merge into ours at the start, of this program or CometBFT's addrbook.json;
    /// it is only read; repeatable
    #[arg(long, value_name = "FILE")]
    pub address_book: Vec<PathBuf>,
    /// Accept private and loopback addresses from peer exchange, too: for private networks
    #[arg(long)]
    pub allow_private: bool,
    /// Node ids that peer exchange does not pass on; repeatable, or a list
    #[arg(long, value_name = "ID")]
    pub private_peer: Vec<List<NodeId>>,
    /// Node ids that may connect beyond --max-peers; repeatable, or a list
    #[arg(long, value_name = "ID")]
    pub unconditional_peer: Vec<List<NodeId>>,
    /// Number of peers that may connect to us
    #[arg(long, value_name = "COUNT", default_value_t = 40)]
    pub max_peers: usize,
    /// Node ids that may connect, and no others; without this flag any may; repeatable, or a list
    #[arg(long, value_name = "ID")]
    pub allow: Vec<List<NodeId>>,
    /// Bytes a second to each peer: 5MB; 0 is no limit
    #[arg(long, value_name = "SIZE", default_value = "0", value_parser = values::size)]
    pub send_rate: u64,
    /// Bytes a second from each peer: 5MB; 0 is no limit
    #[arg(long, value_name = "SIZE", default_value = "0", value_parser = values::size)]
    pub recv_rate: u64,
    /// Memory for the unfinished messages of all peers together: 64MiB
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = values::size)]
    pub partial_memory: u64,
    /// Memory for blocks being sent, beside up to 512 KiB and one block for each peer: 64MiB
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = values::size)]
    pub serve_memory: u64,
    /// Number of heights that one peer may be waiting for; requests beyond it
    /// are answered "no block"
    #[arg(long, value_name = "COUNT", default_value_t = 2048)]
    pub serve_queue: usize,
    /// Shortest time between two unsolicited statuses while our height rises; the last rise is told
    /// this late at most. CometBFT nodes also ask, every 10 seconds
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = values::advertise_time)]
    pub advertise_time: Duration,
    /// Use only CometBFT's own framing, even between two nodes of this program
    #[arg(long)]
    pub classic: bool,
}

/// `blocksync init`.
#[derive(Debug, Args)]
pub(crate) struct Init {
    /// The home.
    #[command(flatten)]
    pub home: Home,
    /// Genesis file of the chain
    #[arg(long, value_name = "FILE")]
    pub genesis: Option<PathBuf>,
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
    /// Addresses of peers to sync from: ID@HOST:PORT, or plain://HOST:PORT without authentication;
    /// repeatable, or a list with commas or white space between
    #[arg(long, value_name = "ADDR")]
    pub peer: Vec<List<PeerAddr>>,
    /// Files of blocks, as `export` writes them, to sync from beside the peers; repeatable
    #[arg(long, value_name = "FILE")]
    pub blocks: Vec<PathBuf>,
    /// The network.
    #[command(flatten)]
    pub network: Network,
    /// The listener.
    #[command(flatten)]
    pub http: Http,
    /// Target height: stop when it is applied
    #[arg(long, value_name = "HEIGHT", value_parser = values::height)]
    pub until: Option<Height>,
    /// Height above which nothing is executed, for an upgrade or an inspection;
    /// reaching it is a success
    #[arg(long, value_name = "HEIGHT", value_parser = values::height)]
    pub halt_height: Option<Height>,
    /// Stop when we have all blocks and no connected peer claims more. A peer that claims
    /// more and delivers nothing is waited for; after the time of --patience it is named
    /// and the exit status is 3
    #[arg(long)]
    pub exit_when_caught_up: bool,
    /// Time without a new block after which a target is given up (exit status 3): 30s, 5m, 1h
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = values::time)]
    pub patience: Duration,
    /// Tell CometBFT nodes our height even while we are behind: such a node switches to consensus
    /// at the height that its peers report
    #[arg(long)]
    pub serve_while_behind: bool,
    /// Flight recorder: write all inputs of the scheduler, without blocks, to this file and
    /// FILE.old, for `blocksync replay`
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// Size limit of the recording, both files together; the older half is dropped first
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = values::size)]
    pub record_size: u64,
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
    /// The chain's rules as for `sync`, which --http and CometBFT 1.0 nodes need; by default those
    /// that can read the genesis
    #[arg(long, value_name = "RULES", value_parser = ChosenRules::parse)]
    pub rules: Option<ChosenRules>,
    /// Addresses of peers to stay connected to, ID@HOST:PORT; repeatable, or a list
    #[arg(long, value_name = "ADDR")]
    pub peer: Vec<List<PeerAddr>>,
    /// The network.
    #[command(flatten)]
    pub network: Network,
    /// The listener.
    #[command(flatten)]
    pub http: Http,
    /// The machine.
    #[command(flatten)]
    pub machine: Machine,
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
    /// Commit for the file's last block, an encoded tendermint.types.Commit
    #[arg(long, value_name = "FILE")]
    pub tip_commit: Option<PathBuf>,
    /// Print one line of JSON on standard output at the end
    #[arg(long)]
    pub json: bool,
    /// A stopped CometBFT node's home instead of a file: its state and blocks, proven;
    /// --retain-blocks 1 takes only the last block
    #[arg(long, value_name = "DIR", conflicts_with_all = ["file", "tip_commit"])]
    pub comet_home: Option<PathBuf>,
    /// File of blocks
    #[arg(value_name = "FILE", required_unless_present = "comet_home")]
    pub file: Option<PathBuf>,
}

/// `blocksync export`.
#[derive(Debug, Args)]
pub(crate) struct Export {
    /// The home.
    #[command(flatten)]
    pub home: Home,
    /// First height; the lowest stored one if not given
    #[arg(long, value_name = "HEIGHT", value_parser = values::height)]
    pub from: Option<Height>,
    /// Last height; the highest executed one if not given
    #[arg(long, value_name = "HEIGHT", value_parser = values::height)]
    pub to: Option<Height>,
    /// Write into this CometBFT node's home instead of a file, so that the node goes on from there
    #[arg(long, value_name = "DIR", conflicts_with_all = ["file", "to"])]
    pub comet_home: Option<PathBuf>,
    /// With --comet-home, the chain's rules as for `sync`: they select the
    /// CometBFT version of the records
    #[arg(long, value_name = "RULES", default_value = "comet-0.38", value_parser = RuleSchedule::parse)]
    pub rules: RuleSchedule,
    /// Write one JSON object per line, with results where they are kept,
    /// instead of what `import` reads
    #[arg(long)]
    pub json: bool,
    /// File to write; replaced if it exists
    #[arg(value_name = "FILE", required_unless_present = "comet_home")]
    pub file: Option<PathBuf>,
}

/// `blocksync block`.
#[derive(Debug, Args)]
pub(crate) struct Block {
    /// The home.
    #[command(flatten)]
    pub home: Home,
    /// Print one JSON object, in the form of CometBFT's RPC
    #[arg(long)]
    pub json: bool,
    /// Height of the block
    #[arg(value_name = "HEIGHT", value_parser = values::height)]
    pub height: Height,
}

/// The listener for people, monitors and clients of the RPC.
#[derive(Debug, Args)]
pub(crate) struct Http {
    /// Address for HTTP, IP:PORT or a port of loopback: metrics, health checks, a status page and
    /// CometBFT's read-only RPC, without authentication
    #[arg(long, value_name = "ADDR", value_parser = crate::http::parse_address)]
    pub http: Option<SocketAddr>,
    /// Namespace of CometBFT's metrics; tendermint for older boards
    #[arg(long, value_name = "NAME", default_value = "cometbft")]
    pub http_namespace: String,
    /// Host name under which the status page is served, besides addresses and localhost; repeatable
    #[arg(long, value_name = "NAME")]
    pub http_host: Vec<String>,
    /// Age of the last block from which /readyz fails; 0 ignores the age
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = values::time)]
    pub ready_lag: Duration,
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

/// The setting `--rules`.
#[derive(Clone, Debug)]
pub(crate) enum ChosenRules {
    /// By the genesis and, when it has been asked, the application.
    Auto(Option<Asked>),
    /// Given.
    Given(RuleSchedule),
}

impl ChosenRules {
    fn parse(text: &str) -> Result<Self, RulesError> {
        match text.trim() {
            "auto" => Ok(ChosenRules::Auto(None)),
            text => RuleSchedule::parse(text).map(ChosenRules::Given),
        }
    }
}

/// The setting `--abci`: a version at every height, or by the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChosenAbci(pub(crate) Option<AbciVersion>);

impl FromStr for ChosenAbci {
    type Err = UnknownAbci;

    fn from_str(text: &str) -> Result<Self, UnknownAbci> {
        match text {
            "auto" => Ok(ChosenAbci(None)),
            version => version.parse().map(Some).map(ChosenAbci),
        }
    }
}

/// `blocksync verify`.
#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// The home.
    #[command(flatten)]
    pub home: Home,
    /// Fetch damaged blocks from --peer again; no other process may use the home
    #[arg(long)]
    pub repair: bool,
    /// The chain's rules as for `sync`
    #[arg(long, value_name = "RULES", default_value = "comet-0.38", value_parser = RuleSchedule::parse)]
    pub rules: RuleSchedule,
    /// Addresses of peers to repair from, ID@HOST:PORT or plain://HOST:PORT; repeatable, or a list
    #[arg(long, value_name = "ADDR")]
    pub peer: Vec<List<PeerAddr>>,
}

/// `blocksync rollback`.
#[derive(Debug, Args)]
pub(crate) struct Rollback {
    /// The home.
    #[command(flatten)]
    pub home: Home,
    /// Number of blocks to roll back
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub blocks: u64,
}

/// `blocksync reset`.
#[derive(Debug, Args)]
pub(crate) struct Reset {
    /// The home.
    #[command(flatten)]
    pub home: Home,
    /// Remove it without asking
    #[arg(long)]
    pub yes: bool,
}

/// `blocksync config show`.
#[derive(Debug, Args)]
pub(crate) struct ShowConfig {
    /// The home.
    #[command(flatten)]
    pub home: Home,
    /// Command whose flags are shown
    #[arg(long = "for", value_name = "COMMAND", default_value = "sync")]
    pub of: String,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `blocksync completions`.
#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// Shell to complete in
    #[arg(value_name = "SHELL", value_enum)]
    pub shell: clap_complete::Shell,
}

/// `blocksync man`.
#[derive(Debug, Args)]
pub(crate) struct Man {
    /// Directory to write a page for each command to; without it the first page is printed
    #[arg(value_name = "DIR")]
    pub dir: Option<PathBuf>,
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
    /// The home whose config.toml adds to the command line.
    pub(crate) fn home(&self) -> Option<&PathBuf> {
        match self {
            Command::Demo
            | Command::Init(_)
            | Command::Config(_)
            | Command::Rollback(_)
            | Command::Compact(_)
            | Command::Reset(_)
            | Command::ShowNodeId(_)
            | Command::Completions(_)
            | Command::Man(_)
            | Command::Replay(_)
            | Command::Bench(_) => None,
            Command::Sync(a) => Some(&a.home.home),
            Command::Serve(a) => Some(&a.home.home),
            Command::Import(a) => Some(&a.home.home),
            Command::Export(a) => Some(&a.home.home),
            Command::Block(a) => Some(&a.home.home),
            Command::Status(a) => Some(&a.home.home),
            Command::Verify(a) => Some(&a.home.home),
        }
    }

    /// Threads that the runtime gets; 0 is one for each core.
    pub(crate) fn threads(&self) -> u16 {
        match self {
            Command::Sync(a) => a.chain.machine.threads,
            Command::Serve(a) => a.machine.threads,
            Command::Import(a) => a.chain.machine.threads,
            _ => 0,
        }
    }

    /// Whether it runs for long, so that its log may be changed meanwhile.
    pub(crate) fn is_long(&self) -> bool {
        matches!(
            self,
            Command::Sync(_) | Command::Serve(_) | Command::Import(_)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_description_is_consistent() {
        command().debug_assert();
        assert_eq!(variable("help"), None);
    }

    #[test]
    fn commands_name_their_home_and_threads() {
        let of = |line: &str| {
            let line = format!("blocksync {line}");
            let command = Cli::try_parse_from(line.split(' ')).unwrap().command;
            let home = command.home().map(|home| home.display().to_string());
            (
                home.unwrap_or_default(),
                command.threads(),
                command.is_long(),
            )
        };
        let here = |threads, is_long| ("x".to_owned(), threads, is_long);
        assert_eq!(of("sync --home x --threads 3"), here(3, true));
        assert_eq!(of("serve --home x --threads 4"), here(4, true));
        assert_eq!(of("import --home x --threads 5 f"), here(5, true));
        for line in [
            "export --home x f",
            "block --home x 9",
            "status --home x",
            "verify --home x",
        ] {
            assert_eq!(of(line), here(0, false), "{line}");
        }
        for line in [
            "demo",
            "reset --home x",
            "init --home x",
            "config check --home x",
        ] {
            assert_eq!(of(line), (String::new(), 0, false), "{line}");
        }
    }

    #[test]
    fn lists_may_be_repeated_or_have_commas() {
        let id = "7b9c39309622bda1f8cd2bade5725e8f09948a1a";
        let two = format!("{id}@h:1,plain://localhost:2,");
        let line = ["blocksync", "sync", "--home", "x", "--peer", &two];
        let parsed = Cli::try_parse_from(line.iter().chain(&["--peer", "plain://h:3"])).unwrap();
        let Command::Sync(sync) = parsed.command else {
            panic!("another command");
        };
        assert_eq!(values::all(&sync.peer).len(), 3);
        assert_eq!(sync.chain.app, "kvstore");
    }

    #[test]
    fn what_is_unknown_is_named() {
        for (flag, value) in [
            ("--app", "kvstor"),
            ("--rules", "comet-0.99"),
            ("--abci", "0.36"),
            ("--proof", "none"),
            ("--trust", "7"),
            ("--until", "0"),
            ("--memory", "lots"),
            ("--patience", "soon"),
            ("--peer", "http://h:1"),
            ("--allow", "7b9c"),
        ] {
            let line = ["blocksync", "sync", "--home", "x", flag, value];
            let error = Cli::try_parse_from(line).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{flag}");
            assert!(error.to_string().contains(value), "{flag}: {error}");
        }
    }

    /// Every flag has help, which begins with a noun or a verb in capitals and has no full stop at
    /// its end.
    #[test]
    fn every_flag_is_described() {
        fn look(command: &clap::Command) {
            for arg in command.get_arguments() {
                let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
                let of = format!("{} {}: {help:?}", command.get_name(), arg.get_id());
                assert!(
                    arg.is_hide_set()
                        || help.starts_with(|c: char| c.is_ascii_uppercase() || c == '-'),
                    "{of}"
                );
                assert!(!help.ends_with('.'), "{of}");
            }
            command.get_subcommands().for_each(look);
        }
        look(&command());
    }
}
