//! Configuration of the service. The library never reads a file: the program gathers these from
//! flags and `config.toml`.

use std::num::NonZeroU64;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::offload::{Offload, OffloadError};
#[cfg(feature = "record")]
use super::recorder::Recording;
use crate::chain::proof::Policy;
use crate::chain::{Fetched, RuleSchedule, Time};
use crate::ids::{Address, Hash, Height};
use crate::pool::PoolConfig;
use crate::wire::{Limits, Signer};

/// Behaviour of the service once it has caught up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AfterCaughtUp {
    /// Go on applying new blocks as they appear: archive and indexer nodes.
    Follow,
    /// Give the store's only writer to consensus (`Handle::handed_over`).
    HandOver,
}

/// Responses of the application to keep, for `Store::results_at`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum RetainResults {
    /// Only the last response, which recovery needs.
    #[default]
    None,
    /// The responses for this many of the latest blocks.
    Last(NonZeroU64),
    /// The responses for all blocks that were executed here and are not pruned.
    All,
}

impl std::str::FromStr for RetainResults {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse::<u64>() {
            _ if text == "all" => Ok(RetainResults::All),
            Ok(blocks) => Ok(NonZeroU64::new(blocks).map_or(RetainResults::None, Self::Last)),
            Err(_) => Err(format!("{text:?}: a number of blocks, 0, or all is needed")),
        }
    }
}

/// A block that is applied and durable, with what the application answered.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct AppliedBlock {
    /// The block.
    pub block: Arc<Fetched>,
    /// `FinalizeBlock`'s response as it came, encoded.
    pub response: Bytes,
}

/// How many blocks one store transaction takes.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct GroupCommit {
    /// Blocks at most.
    pub blocks: usize,
    /// Bytes at which no further block is taken in.
    pub bytes: usize,
}

impl GroupCommit {
    /// At most this many blocks, and none more once there are this many bytes.
    #[must_use]
    pub const fn new(blocks: usize, bytes: usize) -> Self {
        GroupCommit { blocks, bytes }
    }
}

impl Default for GroupCommit {
    fn default() -> Self {
        GroupCommit {
            blocks: 4096,
            bytes: 8 << 20,
        }
    }
}

/// Limits on the requests of peers.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct ServeConfig {
    /// Requests of one peer that wait to be served; the heights of further ones are answered "no
    /// block" at once.
    pub queue: usize,
    /// Heights in one range request; asked for more, this many are answered.
    pub max_range: u32,
    /// Bytes of blocks on their way to all peers together, from before they are read until the
    /// transport has let go of them; one peer holds two reads (of 512 KiB at most) and two blocks,
    /// or a quarter if that is less. A peer that has nothing on its way never waits for others: for
    /// each connection one read and one block may come on top, which is what peers that do not read
    /// can cost.
    pub bytes_in_flight: usize,
    /// Bytes of blocks that one range request is answered with, at most, and one block; what is
    /// left of it is answered "no block".
    pub max_range_bytes: usize,
    /// Bytes of the newest blocks that are kept in memory for others that sync beside us.
    pub recent_bytes: usize,
    /// Part of the disk's time, in percent, that is kept for our own sync while we are behind.
    pub own_share: u32,
    /// Whether nodes of CometBFT are told our height while we are behind ourselves. Such a node
    /// goes over to consensus at the height that the peers it knows state, and stays there if no
    /// other one has the blocks above.
    pub while_behind: bool,
    /// Shortest time between two statuses that all peers get unasked because what is served has
    /// changed. The last change is always told, this late at most. Less than
    /// [`SHORTEST_ADVERTISE_TIME`] counts as that, since others take more for a flood.
    pub advertise_time: Duration,
}

/// Shortest [`advertise_time`](ServeConfig::advertise_time) there is.
pub const SHORTEST_ADVERTISE_TIME: Duration = Duration::from_millis(250);

impl Default for ServeConfig {
    fn default() -> Self {
        ServeConfig {
            queue: 2048,
            max_range: 64,
            bytes_in_flight: 64 << 20,
            max_range_bytes: 32 << 20,
            recent_bytes: 16 << 20,
            own_share: 50,
            while_behind: false,
            advertise_time: Duration::from_secs(1),
        }
    }
}

impl ServeConfig {
    /// [`Self::advertise_time`], or the shortest there is.
    pub(super) fn every(&self) -> Duration {
        self.advertise_time.max(SHORTEST_ADVERTISE_TIME)
    }
}

/// The service's configuration. `Default` is what `blocksync sync` uses; change its fields.
///
/// ```
/// use blocksync::service::{AfterCaughtUp, Config};
///
/// let mut config = Config::default().memory(512 << 20);
/// config.after = AfterCaughtUp::HandOver;
/// config.serve.queue = 256;
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// Which protocol version's rules hold from which height.
    pub rules: RuleSchedule,
    /// How blocks are proven.
    pub policy: Policy,
    /// Scheduling.
    pub pool: PoolConfig,
    /// Serving.
    pub serve: ServeConfig,
    /// Sizes of messages.
    pub limits: Limits,
    /// Store transactions.
    pub group_commit: GroupCommit,
    /// A block further ahead of our clock than this waits. CometBFT's default is 60 s
    /// (`protocol.md` 5.10).
    pub clock_tolerance: Duration,
    /// The wall clock; replaced in tests.
    pub clock: fn() -> Time,
    /// Where the application's state of the genesis is read from; `None` takes
    /// `Genesis::app_state`, which is kept in memory for as long as the service runs.
    pub app_state: Option<AppStateSource>,
    /// How long an external application that is gone is waited for, each time; zero gives up at
    /// once.
    pub app_retry: Duration,
    /// The phase that follows catching up.
    pub after: AfterCaughtUp,
    /// Consensus that has been handed over to is behind when peers claim this many heights more,
    /// and it commits nothing for `trigger_timeout`: then `Event::Behind` says so.
    pub trigger_heights: u64,
    /// See `trigger_heights`.
    pub trigger_timeout: Duration,
    /// Blocks to keep; 0 keeps all. The application's own wish is heeded too: the lower retain
    /// height wins.
    pub retain_blocks: u64,
    /// Responses of the application to keep.
    pub retain_results: RetainResults,
    /// Is handed every block that this service applies, once and in order, when it is
    /// durable. While it takes none, none is applied. Blocks that were durable but not taken
    /// before a stop or a kill are not handed over again, nor are those that start-up
    /// executes: an observer that must miss none has results kept, and begins with the
    /// heights in the store above its own last one.
    pub observer: Option<mpsc::Sender<AppliedBlock>>,
    /// A block that must be on the chain: against an attacker who has bought old keys.
    pub trust: Option<(Height, Hash)>,
    /// Where work goes; `None` starts a pool of one thread a core.
    pub offload: Option<Offload>,
    /// Our own validator. With a third of the power or more of the set that signs the next block
    /// nobody produces blocks without it: then we have caught up at once (`design.md` 7).
    pub local_validator: Option<Address>,
    /// Where the evidence is written should the chain fork: two certificates of one height. `None`
    /// writes none.
    pub evidence_dir: Option<PathBuf>,
    /// The node's key. With it statuses are signed for peers that want them so, and theirs are
    /// asked for, with proofs of heights above ours. Peers need the same key as the transport has.
    pub node_key: Option<Signer>,
    /// The seed of batch verification's randomness; `None` draws one from the operating system.
    pub seed: Option<u64>,
    /// The flight recorder: where everything that the scheduler is given is written, without
    /// blocks, for a replay elsewhere. It never holds the service back.
    #[cfg(feature = "record")]
    pub record: Option<Recording>,
}

/// Memory for blocks on their way in, unless set: `Config::memory`.
const DEFAULT_MEMORY: u64 = 256 << 20;

/// Reads the application's state of a genesis whenever `InitChain` needs it: at the first start,
/// and when an application has lost all that it had.
#[derive(Clone)]
pub struct AppStateSource(Arc<dyn Fn() -> io::Result<Bytes> + Send + Sync>);

impl AppStateSource {
    /// A source that reads with this function, on a thread where it may block.
    pub fn new(read: impl Fn() -> io::Result<Bytes> + Send + Sync + 'static) -> Self {
        AppStateSource(Arc::new(read))
    }

    /// The state.
    ///
    /// # Errors
    /// The function's error; a panic in it is an error, too.
    pub async fn read(&self) -> io::Result<Bytes> {
        let read = self.0.clone();
        let state = tokio::task::spawn_blocking(move || read()).await;
        state.unwrap_or_else(|e| Err(io::Error::other(e)))
    }
}

impl fmt::Debug for AppStateSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AppStateSource")
    }
}

impl Config {
    /// The threads that are set, or one for each core.
    pub(super) fn offload(&self) -> Result<Offload, OffloadError> {
        match &self.offload {
            Some(offload) => Ok(offload.clone()),
            None => Offload::threads(0),
        }
    }

    /// Splits this much memory, in bytes, among blocks on their way in.
    ///
    /// Three eighths are the pool's budget. The rest is for the batch that is being written, which
    /// the database copies first, and for memory that the allocator keeps. Two blocks, and the
    /// bytes in flight to peers that we serve ([`ServeConfig::bytes_in_flight`]), come on top.
    #[must_use]
    pub fn memory(mut self, bytes: u64) -> Self {
        self.pool.budget_bytes = bytes / 8 * 3;
        self
    }
}

impl Default for Config {
    fn default() -> Self {
        Config {
            rules: RuleSchedule::default(),
            policy: Policy::Anchored,
            pool: PoolConfig::default(),
            serve: ServeConfig::default(),
            limits: Limits::default(),
            group_commit: GroupCommit::default(),
            clock_tolerance: Duration::from_secs(60),
            clock: system_clock,
            app_state: None,
            app_retry: Duration::from_secs(60),
            after: AfterCaughtUp::Follow,
            trigger_heights: 2,
            trigger_timeout: Duration::from_secs(30),
            retain_blocks: 0,
            retain_results: RetainResults::None,
            observer: None,
            trust: None,
            offload: None,
            local_validator: None,
            evidence_dir: None,
            node_key: None,
            seed: None,
            #[cfg(feature = "record")]
            record: None,
        }
        .memory(DEFAULT_MEMORY)
    }
}

/// The operating system's clock.
#[must_use]
pub fn system_clock() -> Time {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        // Before 1970 the clock is wrong anyway; every block is then ahead of it and waits.
        .unwrap_or_default();
    i64::try_from(since.as_secs())
        .ok()
        .and_then(|seconds| Time::new(seconds, i32::try_from(since.subsec_nanos()).ok()?))
        .unwrap_or(Time::ZERO)
}
