//! Configuration of the pool. Times are microseconds.

use blocksync_types::ids::Height;

const SECOND: u64 = 1_000_000;

/// The pool's limits and times. `Default` is what the binary uses; change its fields.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct PoolConfig {
    /// Heights that a CometBFT peer may owe us at first; what its own pool asks of others.
    pub asks_per_peer: u32,
    /// Heights that a CometBFT peer may owe us once it has shown that more bring more. Its queue
    /// holds 1000 answers, and loses those that do not fit.
    pub asks_per_peer_max: u32,
    /// Heights that a node of ours, which answers ranges, may owe us.
    pub asks_per_ranged_peer: u32,
    /// Heights in the window at most, from the lowest unapplied one up.
    pub window: u32,
    /// Bytes of blocks held, partly received or expected. The two lowest unapplied heights are
    /// admitted beyond it, so the bound is this and two maximal blocks.
    pub budget_bytes: u64,
    /// Assumed bytes of a block before any has been seen.
    pub first_estimate_bytes: u32,
    /// Blocks in one run of the verifier.
    pub run: u32,
    /// Blocks handed to the executor and not applied yet.
    pub applying: u32,
    /// Bytes at which a job for the executor ends: it may write only there.
    pub job_bytes: u64,
    /// An answer is late after this time without progress.
    pub request_timeout: u64,
    /// Bytes a second below which partial messages are no progress.
    pub floor_rate: u64,
    /// The lowest missing height is asked of a second peer after three times the usual latency, but
    /// not before this.
    pub hedge_floor: u64,
    /// And not after this.
    pub hedge_ceiling: u64,
    /// Peers are asked for their status this often while we are behind.
    pub status_interval: u64,
    /// And this often once we have caught up.
    pub status_interval_at_tip: u64,
    /// Rounds of asking for a first status before a peer is dropped.
    pub status_rounds: u32,
    /// Statuses that suffice to say that we have caught up.
    pub statuses: u32,
    /// Time after the first peer came when fewer statuses suffice, if no more peers are there.
    pub settle: u64,
    /// How long a higher claim may postpone "caught up", from the moment at which everything else
    /// says so.
    pub claim_patience: u64,
    /// The same for a claim of a peer from which bytes come at the floor rate.
    pub delivery_patience: u64,
    /// A claim more than this above the lowest unapplied height is asked to be proven, at once and
    /// beside all other requests. Nearer ones are proven soon by the blocks themselves, and are
    /// open for as long as any other; with 0 new blocks of a live chain would be fetched twice.
    pub prove_claims_above: u32,
    /// Time without any usable peer before that is said.
    pub no_peers: u64,
    /// Time without any progress before that is said.
    pub no_progress: u64,
    /// The first ban; each further one is twice as long.
    pub ban: u64,
    /// The longest ban.
    pub ban_max: u64,
    /// How long a peer that was dropped for a timeout is refused; twice as long each time until it
    /// delivers.
    pub back_off: u64,
    /// The longest back-off.
    pub back_off_max: u64,
    /// Peers remembered for bans; the one whose ban ends first is forgotten first.
    pub max_records: u32,
    /// Connections at a time.
    pub max_peers: u32,
    /// Apply nothing above this height.
    pub until: Option<Height>,
}

impl Default for PoolConfig {
    fn default() -> Self {
        PoolConfig {
            asks_per_peer: 20,
            asks_per_peer_max: 512,
            asks_per_ranged_peer: 1024,
            window: 2048,
            budget_bytes: 256 << 20,
            first_estimate_bytes: 64 << 10,
            run: 1024,
            applying: 2048,
            job_bytes: 32 << 20,
            request_timeout: 5 * SECOND,
            floor_rate: 8 << 10,
            hedge_floor: SECOND / 4,
            hedge_ceiling: 2 * SECOND,
            status_interval: 10 * SECOND,
            status_interval_at_tip: SECOND,
            status_rounds: 3,
            statuses: 3,
            settle: 2 * SECOND,
            claim_patience: 10 * SECOND,
            delivery_patience: 60 * SECOND,
            prove_claims_above: 64,
            no_peers: 10 * SECOND,
            no_progress: 30 * SECOND,
            ban: 60 * SECOND,
            ban_max: 3600 * SECOND,
            back_off: 5 * SECOND,
            back_off_max: 30 * SECOND,
            max_records: 10_000,
            max_peers: 10_000,
            until: None,
        }
    }
}
