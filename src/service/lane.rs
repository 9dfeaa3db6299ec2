//! The way of answers to one peer: the bytes on it, and the requests that were taken back.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;
use tokio::time::{Duration, Instant};

use crate::ids::{Height, PeerId};
use crate::wire::Cancel;

/// Requests that one peer has taken back, remembered at most; the oldest is forgotten first.
const CANCELLED: usize = 64;

/// Bytes that the transport has sent may lie in buffers on both sides for as long as a peer takes
/// at this many bytes a second, …
const SLOW: u64 = 8 << 10;
/// … but not for longer: then the transport itself sees whether anything is taken.
const LONGEST: Duration = Duration::from_secs(60);

/// Bytes in flight to one peer.
pub struct Lane {
    pub(super) peer: PeerId,
    /// The peer's share of the bytes in flight.
    pub(super) share: usize,
    pub(super) free: Arc<Semaphore>,
    /// Requests that were put into the queue.
    pub(super) asked: AtomicU64,
    /// Heights that were taken back, each with `asked` as it was then: it concerns the requests
    /// before. At most `CANCELLED`.
    cancelled: Mutex<VecDeque<(u64, Height, Height)>>,
    /// When a slow peer would have taken all that was sent.
    taken: Mutex<Instant>,
}

impl Lane {
    /// Nothing is on it; `share` bytes may be.
    pub(super) fn new(peer: PeerId, share: usize) -> Self {
        Lane {
            peer,
            share,
            free: Arc::new(Semaphore::new(share)),
            asked: AtomicU64::new(0),
            cancelled: Mutex::default(),
            taken: Mutex::new(Instant::now()),
        }
    }

    /// Nothing is on its way.
    fn is_empty(&self) -> bool {
        self.free.available_permits() == self.share
    }

    /// When the peer has certainly seen all that was sent to it, if it reads at all; `None` while
    /// the transport has not let go of it.
    #[must_use]
    pub fn taken(&self) -> Option<Instant> {
        let taken = *self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        self.is_empty().then_some(taken)
    }

    /// Notes a request that was put into the queue.
    pub fn asked(&self) {
        self.asked.fetch_add(1, Relaxed);
    }

    /// Takes back what was asked for so far of these heights.
    pub fn cancel(&self, cancel: Cancel) {
        let before = self.asked.load(Relaxed);
        let end = cancel.from.plus(cancel.count.into());
        let mut cancelled = self
            .cancelled
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if cancelled.len() >= CANCELLED {
            cancelled.pop_front();
        }
        cancelled.push_back((before, cancel.from, end));
    }

    /// Whether no heights are remembered as taken back.
    pub(super) fn nothing_taken_back(&self) -> bool {
        let cancelled = self.cancelled.lock();
        cancelled.unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Up to where the heights of request number `taken` are still wanted, from `next` on; `next`
    /// itself when that was taken back. Entries about older requests alone are forgotten.
    pub(super) fn wanted_until(&self, taken: u64, next: Height, end: Height) -> Height {
        let mut cancelled = self
            .cancelled
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // Requests are answered in order, so no older one comes any more.
        cancelled.retain(|(before, ..)| taken <= *before);
        let above = cancelled.iter().filter(|(_, _, until)| *until > next);
        above.fold(end, |stop, (_, from, _)| stop.min((*from).max(next)))
    }

    pub(super) fn sent(&self, bytes: usize) {
        let now = Instant::now();
        let more = Duration::from_micros(bytes as u64 * 1_000_000 / SLOW);
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        *taken = ((*taken).max(now) + more).min(now + LONGEST);
    }
}
