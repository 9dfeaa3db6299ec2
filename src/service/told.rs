//! Streams of events, each with its time.

use tokio::sync::broadcast;

use super::config::system_clock;
use crate::chain::Time;

/// Events that a slow receiver may be behind.
const EVENTS: usize = 4096;

/// An event, and when it was told.
///
/// The time is that of `Config::clock`, the wall clock, as in a log, to be held against logs of
/// other nodes and block times. It may step when that clock is set; the order of a stream is the
/// order of its events all the same, and durations within events are measured by a clock that does
/// not step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timed<E> {
    /// When it was told.
    pub time: Time,
    /// The event.
    pub event: E,
}

/// Tells events to all who listen, and puts the time on them. Nothing waits for a listener.
#[derive(Clone, Debug)]
pub(super) struct Told<E> {
    listeners: broadcast::Sender<Timed<E>>,
    clock: fn() -> Time,
}

impl<E: Clone> Told<E> {
    /// A stream that nobody listens to yet.
    pub(super) fn new(clock: fn() -> Time) -> Self {
        let listeners = broadcast::Sender::new(EVENTS);
        Told { listeners, clock }
    }

    /// Events from now on.
    pub(super) fn subscribe(&self) -> broadcast::Receiver<Timed<E>> {
        self.listeners.subscribe()
    }

    /// Whether somebody listens.
    pub(super) fn is_heard(&self) -> bool {
        self.listeners.receiver_count() > 0
    }

    /// Tells of an event that happens now.
    pub(super) fn send(&self, event: E) {
        let time = (self.clock)();
        // An error says that nobody listens.
        let _ = self.listeners.send(Timed { time, event });
    }
}

impl<E: Clone> Default for Told<E> {
    fn default() -> Self {
        Told::new(system_clock)
    }
}
