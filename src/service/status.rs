//! The service as its user sees it: the status watch and the event stream.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::chain::ChainState;
use crate::fault::CloseReason;
use crate::ids::{Hash, Height, PeerId};
use crate::pool::Outcome;

/// Number of dropped peers that the status keeps: the newest, convictions before the others. All
/// are in the event stream and the log.
pub const MAX_DROPPED: usize = 256;

/// Where in its life the service is (`design.md` 7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Phase {
    /// Not begun: peers are served, and a state is waited for (`BlockSync::spawn_serving`).
    /// The outcome says nothing yet.
    Serving,
    /// Behind.
    Syncing,
    /// Caught up, and applying new blocks as they appear.
    Following,
    /// Caught up; consensus has, or may have, the store's writer.
    HandedOver,
    /// Cannot go on; `Status::outcome` says why.
    Failed,
    /// Stopped on request.
    Stopped,
}

/// A peer that was dropped, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Dropped {
    /// The peer.
    pub peer: PeerId,
    /// Where it was; empty for a peer that had hung up long before it was convicted.
    pub address: String,
    /// The reason.
    pub reason: CloseReason,
    /// For how long it is refused.
    pub ban: Option<Duration>,
}

/// The state of the whole; the latest is always there to read, intermediate ones may be skipped.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Status {
    /// Where in its life the service is.
    pub phase: Phase,
    /// The pool's latest word.
    pub outcome: Outcome,
    /// The last applied and durable height.
    pub applied: Height,
    /// The first block applied in this session was above this height.
    pub started_at: Height,
    /// The best credible claim of a peer.
    pub target: Height,
    /// Peers that claim more than we have and deliver nothing of it, the first of them, with the
    /// heights that they claim. "Caught up" is said all the same: a stricter reader waits until
    /// there is none.
    pub doubted: Vec<(PeerId, Height)>,
    /// The application's hash after `applied`.
    pub app_hash: Bytes,
    /// The hash of the block at `applied`.
    pub block_hash: Option<Hash>,
    /// Connected peers.
    pub peers: usize,
    /// Bytes of blocks held in memory.
    pub buffered_bytes: u64,
    /// Why nothing is executed just now.
    pub waiting: Option<String>,
    /// Peers dropped since the start, the oldest first, but for those that hung up themselves or
    /// found no room.
    pub dropped: Vec<Dropped>,
}

impl Status {
    pub(super) fn new(state: &ChainState, phase: Phase) -> Self {
        let mut status = Status {
            phase,
            outcome: Outcome::Syncing,
            applied: state.last_height,
            started_at: state.next_height().prev(),
            target: state.last_height,
            doubted: Vec::new(),
            app_hash: Bytes::new(),
            block_hash: None,
            peers: 0,
            buffered_bytes: 0,
            waiting: None,
            dropped: Vec::new(),
        };
        status.set_state(state);
        status
    }

    /// Takes a state that others have brought about: block sync has applied nothing of it.
    pub(super) fn begin_at(&mut self, state: &ChainState) {
        self.started_at = state.next_height().prev();
        self.set_state(state);
    }

    pub(super) fn set_state(&mut self, state: &ChainState) {
        self.applied = state.last_height;
        self.app_hash = state.app_hash.clone();
        self.block_hash = state.last_block_id.hash;
        self.waiting = None;
    }

    /// Keeps the newest of those dropped; convictions by proof stay longer than the others. A peer
    /// that hung up, or was turned away at the door, is not among them.
    pub(super) fn note_dropped(&mut self, dropped: &Dropped) {
        if !dropped.reason.is_peers_doing() {
            return;
        }
        if self.dropped.len() >= MAX_DROPPED {
            let lightest = |d: &(usize, &Dropped)| d.1.reason.penalty();
            let listed = self.dropped.iter().enumerate();
            let (oldest, _) = listed.min_by_key(lightest).unwrap_or((0, dropped));
            self.dropped.remove(oldest);
        }
        self.dropped.push(dropped.clone());
    }

    /// Blocks applied in this session.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.applied.above(self.started_at)
    }
}

/// Something that happened. The stream is bounded: a receiver that is slow misses the oldest and is
/// told how many.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A peer connected.
    PeerUp {
        /// The peer.
        peer: PeerId,
        /// Its address.
        address: String,
    },
    /// A peer is gone.
    PeerDown {
        /// The peer.
        peer: PeerId,
    },
    /// A connection was closed, and not by the peer alone: the reason says whether that was the
    /// peer's fault.
    PeerDropped(Dropped),
    /// Blocks up to this state's height are applied and durable.
    Applied {
        /// The state after them.
        state: Arc<ChainState>,
    },
    /// Block sync begins.
    SyncStarted {
        /// The applied height above which it begins.
        from: Height,
        /// The reason.
        why: SyncStart,
    },
    /// Block sync has ended: the outcome is told next.
    SyncEnded {
        /// The applied height above which it had begun.
        from: Height,
        /// The last applied height.
        to: Height,
        /// Time since it began.
        took: Duration,
        /// The outcome.
        outcome: Outcome,
    },
    /// These heights are proven; they are not applied yet.
    BlocksProven {
        /// The first of them.
        from: Height,
        /// The last of them.
        to: Height,
    },
    /// Blocks below this height are not stored any more.
    Pruned {
        /// The lowest height that is still stored.
        below: Height,
    },
    /// Two certificates of one height exist. The service stops.
    ForkFound {
        /// The height with two certificates.
        height: Height,
    },
    /// Consensus, which has the writer, is behind: it may be time to give the writer back. A peer
    /// has proven that the chain is `trigger_heights` further or more; or consensus commits nothing
    /// while peers claim to be that far. Each is said once for each `trigger_timeout`. Claims are
    /// not proof: the runtime decides.
    Behind {
        /// The height that a peer has proven, or the highest claim of a connected peer.
        height: Height,
        /// Consensus' last height.
        applied: Height,
        /// Whether the height is proven.
        proven: bool,
    },
    /// The pool's word has changed.
    Outcome(Outcome),
}

/// Reason for which block sync begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SyncStart {
    /// The service has started.
    Start,
    /// It had caught up, and peers have more.
    Behind,
    /// Consensus has given the writer back.
    Resumed,
}

/// One stretch of block sync, from its beginning to the word that it has ended.
#[derive(Clone, Debug)]
pub(super) struct SyncSpan {
    from: Height,
    began: Instant,
    under_way: bool,
}

impl SyncSpan {
    /// Begins now, above this height.
    pub(super) fn new(from: Height) -> Self {
        SyncSpan {
            from,
            began: Instant::now(),
            under_way: true,
        }
    }

    /// The event of its beginning.
    pub(super) fn started(&self, why: SyncStart) -> Event {
        Event::SyncStarted {
            from: self.from,
            why,
        }
    }

    /// Events that follow from the pool's word.
    pub(super) fn follow(&mut self, outcome: &Outcome, applied: Height) -> Vec<Event> {
        let mut events = Vec::new();
        if let Outcome::Contradiction {
            fork: Some(fork), ..
        } = outcome
        {
            let height = fork.height;
            events.push(Event::ForkFound { height });
        }
        let goes_on = matches!(
            outcome,
            Outcome::Syncing | Outcome::NoUsablePeers | Outcome::Stalled { .. }
        );
        if self.under_way && !goes_on {
            self.under_way = false;
            events.push(Event::SyncEnded {
                from: self.from,
                to: applied,
                took: self.began.elapsed(),
                outcome: outcome.clone(),
            });
        } else if !self.under_way && *outcome == Outcome::Syncing {
            // Only where there is something to fetch: to lose all peers begins no stretch.
            *self = Self::new(applied);
            events.push(self.started(SyncStart::Behind));
        }
        events
    }
}
