//! Inputs and effects of the pool.
//!
//! Effects cannot fail. A send that was refused, a peer that left, a copy that proved wrong come
//! back as inputs.

use std::collections::BTreeSet;
use std::fmt;

use blocksync_types::fault::{CloseReason, Fault, Proof};
use blocksync_types::ids::{BlockId, ConnId, Height, PeerId, Source};

/// Microseconds since the service started. The pool reads no clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
pub struct Tick(pub u64);

/// A request to one peer; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
pub struct AskId(pub u64);

/// A run handed to the verifier; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
pub struct RunId(pub u64);

impl RunId {
    /// No run: for a verdict on what came without one, as a fork that two proofs of a height show.
    pub const NONE: RunId = RunId(u64::MAX);
}

/// Facts about a block for scheduling and judging, computed from its bytes on arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
pub struct Meta {
    /// The height in its header.
    pub height: Height,
    /// Its id: header hash and part set of the bytes that came.
    pub id: BlockId,
    /// The id that it names as its predecessor, in its header and in its last commit alike.
    pub parent: BlockId,
    /// Bytes that it holds in memory.
    pub bytes: u32,
    /// The copy came with the commit for the block itself (our own servers and exports send it with
    /// the last block).
    pub has_own_commit: bool,
}

/// One copy of a block, and who supplied it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(
    feature = "record",
    serde(bound(serialize = "", deserialize = "B: Default"))
)]
pub struct Candidate<B> {
    /// Facts about it that the pool may know.
    pub meta: Meta,
    /// Its supplier.
    pub from: Source,
    /// The block itself, opaque here.
    #[cfg_attr(feature = "record", serde(skip))]
    pub block: B,
}

/// The verifier's findings about one run.
///
/// The verifier judges the commit of the run's carrier as a certificate for the `BlockId` that it
/// states itself. Whether the copies held are the ones certified is the pool's to compare.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
pub struct Verdict {
    /// The highest height proven and the id proven for it. When a copy of the run has that id,
    /// everything in the run below it that is linked to it by parent ids is proven too.
    pub certified: Option<(Height, BlockId)>,
    /// Nobody can be judged yet: hand in a run that ends at this height or below.
    pub shorten: Option<Height>,
    /// Suppliers of copies proven wrong, with the height of the copy.
    pub guilty: Vec<(Source, Height, Fault)>,
    /// The first block of the chain does not fit our genesis state: expected and found. Nobody is
    /// convicted by it.
    pub unfit: Option<Unfit>,
    /// Two full certificates for different blocks of one height.
    pub fork: Option<Fork>,
}

/// The block of the initial height does not fit the state that genesis and application gave.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
pub struct Unfit {
    /// The id of the block that does not fit.
    pub id: BlockId,
    /// Which field, what we expect, what it has.
    pub what: String,
}

/// Two certificates of one height under one validator set: more than a third of the power has
/// signed twice.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
pub struct Fork {
    /// The height.
    pub height: Height,
    /// The two ids.
    pub ids: [BlockId; 2],
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(
    feature = "record",
    serde(bound(serialize = "", deserialize = "B: Default"))
)]
#[non_exhaustive]
#[allow(clippy::large_enum_variant)] // blocks are most of all inputs: boxing would cost each of them
pub enum Input<B> {
    /// A connection is up. One connection per peer: a second one replaces the first.
    Up {
        /// The new connection.
        conn: ConnId,
        /// The peer at its other end.
        peer: PeerId,
    },
    /// A connection is gone, for whatever reason. The blocks that it gave stay.
    Down {
        /// Which.
        conn: ConnId,
    },
    /// The configured peers, and those of them that may come or have come: nothing final is said
    /// before these have told their status. All other peers are strangers.
    Expected {
        /// All.
        peers: BTreeSet<PeerId>,
        /// Those that have not failed to come since they were last tried.
        coming: BTreeSet<PeerId>,
    },
    /// The peer says which heights it has. `base` and `height` 0 is an empty store.
    Status {
        /// Which connection.
        conn: ConnId,
        /// Its lowest height.
        base: Height,
        /// Its highest height.
        height: Height,
        /// How many heights it answers in one request; 1 for CometBFT.
        max_range: u32,
    },
    /// The number of bytes that have come of a message that is not complete yet; 0 when there is
    /// none any more.
    Receiving {
        /// Which connection.
        conn: ConnId,
        /// Bytes so far.
        bytes: u32,
    },
    /// The connection is left unread for now, and that is our own doing.
    Unread {
        /// Which connection.
        conn: ConnId,
    },
    /// Nothing at all has come from the connection for some time, though its status was asked for.
    /// The time in which the request could not leave, or we did not read, is not counted.
    Silent {
        /// Which connection.
        conn: ConnId,
        /// How long, in microseconds.
        micros: u64,
    },
    /// A block came.
    Block {
        /// On which connection.
        conn: ConnId,
        /// The value found.
        meta: Meta,
        /// The block.
        #[cfg_attr(feature = "record", serde(skip))]
        block: B,
    },
    /// The peer does not have the block that it was asked for.
    NoBlock {
        /// Which connection.
        conn: ConnId,
        /// Which height.
        height: Height,
    },
    /// The peer broke the protocol.
    Malformed {
        /// Which connection.
        conn: ConnId,
        /// How.
        fault: Fault,
    },
    /// The connection has ended, or ends now, and that is held against nobody: the peer hung up,
    /// its transport failed, or it is of no use.
    HungUp {
        /// Which connection.
        conn: ConnId,
        /// The reason; no fault.
        reason: CloseReason,
    },
    /// A request could not be handed to its connection.
    SendFailed {
        /// Which.
        ask: AskId,
    },
    /// The verifier's answer to `Effect::Verify`.
    Verdict {
        /// Which run.
        run: RunId,
        /// The findings.
        verdict: Verdict,
    },
    /// The verifier's answer to `Effect::Examine`: the proof against the copy, or none (then the
    /// network has committed an encoding that is not canonical, and its bytes are what we need).
    Examined {
        /// Which examination.
        run: RunId,
        /// Proof that the copy is wrong.
        guilty: Option<Proof>,
    },
    /// The proof of a claim of this connection was judged: the verifier's answer to
    /// `Effect::ProveClaim`, or to a proof that came by another road.
    ClaimJudged {
        /// The connection that gave the proof. It may be over.
        conn: ConnId,
        /// The chain has been decided up to this height. `None` says nothing, and is no fault.
        proven: Option<Height>,
        /// The applied height by whose validator sets it was judged.
        applied: Height,
    },
    /// The executor has applied and stored everything up to and with this height.
    Applied {
        /// Up to where.
        through: Height,
    },
    /// The executor refuses one copy of those that it was given, after a last `Applied` for what it
    /// did apply; the rest of that `Effect::Apply` goes back to where it was. The copy is the
    /// supplier's fault alone (extended commit, own commit).
    Rejected {
        /// The copy's height.
        height: Height,
        /// Its supplier.
        from: Source,
        /// The fault.
        fault: Fault,
    },
    /// We cannot go on, and no peer is to blame.
    LocalFault(LocalFault),
    /// We are the bottleneck (or no longer): no peer is judged meanwhile.
    Backpressure {
        /// Whether we are.
        on: bool,
    },
    /// Somebody else writes from now on: everything held is let go of and nothing is asked for
    /// until `Resume`; claims are heard.
    Pause,
    /// Block sync begins again at this applied height, after consensus had the store.
    Resume {
        /// Consensus' last height.
        applied: Height,
    },
    /// The debt of this connection is overdue, whatever the clock says: for model checkers, in
    /// whose worlds time stands still.
    Overdue {
        /// Which connection.
        conn: ConnId,
    },
    /// The delay before the lowest missing height is hedged is over, whatever the clock says: for
    /// the same.
    Hedge,
    /// Time has passed; `next_deadline` has come.
    Tick,
    /// Stop: everything is released and nothing is asked any more.
    Stop,
}

/// Why the service cannot go on by its own fault, or by the chain's.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum LocalFault {
    /// A certified block contradicts our own state: expected and found.
    Diverged(String),
    /// The store failed.
    Store(String),
    /// The application failed.
    App(String),
    /// The application does not execute this height: an upgrade is due, or it was told to halt.
    Halted {
        /// The height that it refuses.
        height: Height,
        /// The application's words.
        why: String,
    },
}

impl fmt::Display for LocalFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LocalFault::Diverged(why) => {
                write!(f, "the certified chain contradicts our own state: {why}")
            }
            LocalFault::Store(why) => write!(f, "the store failed: {why}"),
            LocalFault::App(why) => write!(f, "the application failed: {why}"),
            LocalFault::Halted { height, why } => write!(
                f,
                "the application does not execute block {height}: {why}; block {} is its last, and nothing of {height} has been \
                 committed. Start the application for height {height} and run again",
                height.prev()
            ),
        }
    }
}

/// Something to do. A runtime has to perform each: one that is new is meant to break its build.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(
    feature = "record",
    serde(bound(serialize = "", deserialize = "B: Default"))
)]
pub enum Effect<B> {
    /// Ask for `count` heights from `from` up.
    Ask {
        /// The request.
        ask: AskId,
        /// On which connection.
        conn: ConnId,
        /// First height.
        from: Height,
        /// How many; above 1 only when the peer's `max_range` allows it.
        count: u32,
        /// The peer answers ranges: one request for all heights, and not one for each.
        ranged: bool,
    },
    /// The answer is not needed any more; if it comes all the same it is no fault.
    Cancel {
        /// The request.
        ask: AskId,
    },
    /// Ask for the peer's status.
    AskStatus {
        /// On which connection.
        conn: ConnId,
    },
    /// These are read from now on, and no others.
    Read(Reading),
    /// Prove this run of consecutive blocks by the commit in `carrier`, the copy one height above
    /// its last; without a carrier, by the commit that came with the last block itself. Inside the
    /// run each block is the parent of the next; the carrier may state another id than the last
    /// block's.
    Verify {
        /// The run.
        run: RunId,
        /// Its blocks, ascending.
        blocks: Vec<Candidate<B>>,
        /// The copy that holds the commit.
        carrier: Option<Candidate<B>>,
    },
    /// Find out whether a copy with the certified header hash, but another part set, is wrong in
    /// its body.
    Examine {
        /// The examination.
        run: RunId,
        /// The copy.
        copy: Candidate<B>,
        /// The certified id.
        certified: BlockId,
    },
    /// Execute and store these proven blocks. The carrier holds the commit for the last of them, or
    /// it came with its own.
    Apply {
        /// The blocks, ascending.
        blocks: Vec<Candidate<B>>,
        /// The copy that holds the last one's commit.
        carrier: Option<Candidate<B>>,
    },
    /// Close the connection. It may be over already: a peer that hung up before one of its copies
    /// was proven wrong is named and refused all the same.
    Drop {
        /// Which.
        conn: ConnId,
        /// The peer whose connection it is.
        peer: PeerId,
        /// The reason.
        reason: CloseReason,
        /// Refuse the peer until then.
        ban_until: Option<Tick>,
    },
    /// The state of the whole has changed.
    Outcome(Outcome),
    /// Find out how far this block shows the chain to be decided. It is far above us: only the sets
    /// that we know may judge its commits. Comes back as `Input::ClaimJudged`.
    ProveClaim {
        /// The block.
        copy: Candidate<B>,
    },
}

/// Which connections' sockets are read. One word for all of them, so that crossing the byte budget
/// costs the same however many there are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
pub enum Reading {
    /// All.
    #[default]
    All,
    /// The byte budget is full: only those that owe one of the two lowest heights. At most four,
    /// ascending.
    Only(Vec<ConnId>),
}

impl Reading {
    /// Whether this connection is read.
    #[must_use]
    pub fn reads(&self, conn: ConnId) -> bool {
        match self {
            Reading::All => true,
            Reading::Only(these) => these.contains(&conn),
        }
    }
}

/// Where block sync stands; reported when it changes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Outcome {
    /// Blocks are missing, and somebody may give them.
    Syncing,
    /// Nobody credible is more than one block above us.
    CaughtUp {
        /// Our applied height.
        height: Height,
    },
    /// The height that was asked for is applied.
    ReachedTarget {
        /// That height.
        height: Height,
    },
    /// There is no peer, or none that has what we need.
    NoUsablePeers,
    /// Peers are there but nothing moves.
    Stalled {
        /// The reason.
        why: Stall,
    },
    /// The chain contradicts our genesis or itself; nobody is banned for it.
    Contradiction {
        /// The contradiction: expected and found.
        what: String,
        /// Set when two certificates of one height exist.
        fork: Option<Fork>,
    },
    /// We failed.
    LocalFault(LocalFault),
    /// Stopped on request.
    Stopped,
}

impl Outcome {
    /// Its name in reports and metrics.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Outcome::Syncing => "syncing",
            Outcome::CaughtUp { .. } => "caught_up",
            Outcome::ReachedTarget { .. } => "reached_target",
            Outcome::NoUsablePeers => "no_usable_peers",
            Outcome::Stalled { .. } => "stalled",
            Outcome::Contradiction { .. } => "contradiction",
            Outcome::LocalFault(_) => "local_fault",
            Outcome::Stopped => "stopped",
        }
    }
}

/// Why nothing moves.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Stall {
    /// No peer gave the block of this height in time.
    NoBlock(Height),
    /// Copies of this height come, but none can be proven.
    Unproven(Height),
    /// Our own verifier has been at these blocks for minutes, from the first to the last.
    Proving(Height, Height),
    /// The network has committed an encoding that is not canonical, and no peer serves its bytes.
    NotCanonical(Height, BlockId),
    /// Strangers give a first block that does not fit our genesis, and no configured peer has said
    /// the same.
    StrangersDiffer(String),
}

impl fmt::Display for Stall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stall::NoBlock(h) => write!(f, "no peer gives block {h}"),
            Stall::StrangersDiffer(what) => write!(
                f,
                "peers that are not configured have another chain, or our genesis is not theirs: {what}"
            ),
            Stall::Proving(from, to) => write!(
                f,
                "the proof of blocks {from} to {to} takes long; this machine is waited for, and no peer"
            ),
            Stall::Unproven(h) => write!(f, "no copy of block {h} can be proven"),
            Stall::NotCanonical(h, id) => {
                write!(
                    f,
                    "block {h} was committed as {id} in an encoding that is not canonical, and no peer serves those bytes"
                )
            }
        }
    }
}
