//! Events of the server: what peers ask for and what they are given.
//!
//! They come by the thousand, so that they have a stream of their own: nobody who waits for the
//! service's own events misses one for them.

use std::time::Duration;

use tracing::trace;

use super::told::Told;
use crate::ids::{Height, PeerId};
use crate::wire::Claim;

/// Something that happened between a peer and our server. The stream is bounded: a receiver that is
/// slow misses the oldest and is told how many.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ServeEvent {
    /// A peer has asked for blocks.
    RequestReceived {
        /// The peer.
        peer: PeerId,
        /// First height.
        from: Height,
        /// Heights that it is answered for.
        count: u64,
    },
    /// A request was answered: each of its heights with a block or with "no block". Requests for
    /// one block each that wait in a row are answered together.
    ResponseSent {
        /// The peer.
        peer: PeerId,
        /// First height.
        from: Height,
        /// Heights that were asked for.
        count: u64,
        /// Blocks among the answers.
        blocks: u64,
        /// Bytes of these.
        bytes: u64,
        /// Heights answered "no block".
        no_blocks: u64,
        /// Time since the request's turn came. The transport may have sent less.
        took: Duration,
    },
    /// A signed status was sent.
    AdvertisementSent {
        /// The receiver.
        peer: PeerId,
        /// The height that it states.
        height: Height,
        /// Whether a proof of it went along.
        proven: bool,
    },
    /// A signed status has come, and is the sender's. One that is not ends the connection.
    AdvertisementReceived {
        /// The sender.
        peer: PeerId,
        /// Lowest height that it serves.
        base: Height,
        /// Highest height that it serves.
        height: Height,
        /// The result of its verification.
        shown: Shown,
    },
    /// A peer does not give a height that it has signed to have: it has answered "no block" a few
    /// times over seconds. It may have been pruned since; nothing is held against the peer.
    PromiseBroken {
        /// The peer.
        peer: PeerId,
        /// The claim that it has signed.
        signed: Claim,
        /// The height that it does not give.
        missing: Height,
    },
    /// A request is not answered like others.
    RequestThrottled {
        /// The peer.
        peer: PeerId,
        /// First height.
        from: Height,
        /// Heights that were asked for.
        count: u64,
        /// The reason.
        why: Throttle,
    },
}

/// A signed status is judged so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Shown {
    /// Its proof shows that the chain has been decided up to this height.
    Proven(Height),
    /// Its proof has more than a third of a validator set that we know for this height: enough to
    /// look, and not to rely on it.
    Attested(Height),
    /// It is signed and no more, or its proof shows nothing to us.
    Unproven,
    /// The header in its proof is ahead of our clock.
    AheadOfClock,
    /// It came unasked, and too soon after another or too late to be looked at.
    Ignored,
}

/// Reason for which a request is not answered like others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Throttle {
    /// The peer's queue is full: every height is answered "no block" at once.
    QueueFull,
    /// The peer has been given the first of these blocks a few times: it gets what others leave.
    AskedAgain,
}

impl Told<ServeEvent> {
    /// Tells of an event; it is made only where somebody listens.
    pub(super) fn tell(&self, event: impl FnOnce() -> ServeEvent) {
        if self.is_heard() || tracing::enabled!(tracing::Level::TRACE) {
            let event = event();
            trace!(?event, "serving");
            self.send(event);
        }
    }
}
