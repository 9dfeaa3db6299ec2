//! Events of the server: what peers ask for and what they are given.
//!
//! They come by the thousand, so that they have a stream of their own: nobody who waits for the
//! service's own events misses one for them.

use std::time::Duration;

use tokio::sync::broadcast;
use tracing::trace;

use crate::ids::{Height, PeerId};

/// Events that a slow receiver may be behind.
const EVENTS: usize = 4096;

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

/// Reason for which a request is not answered like others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Throttle {
    /// The peer's queue is full: every height is answered "no block" at once.
    QueueFull,
    /// The peer has been given the first of these blocks a few times: it gets what others leave.
    AskedAgain,
}

/// Sends events where somebody listens.
#[derive(Clone, Debug)]
pub(super) struct Told(broadcast::Sender<ServeEvent>);

impl Default for Told {
    fn default() -> Self {
        Told(broadcast::Sender::new(EVENTS))
    }
}

impl Told {
    /// Events from now on.
    pub(super) fn subscribe(&self) -> broadcast::Receiver<ServeEvent> {
        self.0.subscribe()
    }

    /// Tells of an event; it is made only where somebody listens.
    pub(super) fn tell(&self, event: impl FnOnce() -> ServeEvent) {
        let listens = self.0.receiver_count() > 0;
        if listens || tracing::enabled!(tracing::Level::TRACE) {
            let event = event();
            trace!(?event, "serving");
            let _ = self.0.send(event);
        }
    }
}
