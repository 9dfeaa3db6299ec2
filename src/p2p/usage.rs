//! Use of a connection: a peer that moves no blocks is the first to make room.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::Instant;

/// How useful a connection is: blocks that came and went over it. The connection writes, the
/// registry reads.
#[derive(Debug)]
pub struct Usage {
    begun: Instant,
    /// Milliseconds from `begun` to the last block in either direction, and one.
    last: AtomicU64,
    /// The peer has given us a block.
    gave: AtomicBool,
    /// Bytes of block-sync messages that came, and that went.
    bytes: [AtomicU64; 2],
}

impl Default for Usage {
    fn default() -> Self {
        Usage {
            begun: Instant::now(),
            last: AtomicU64::new(0),
            gave: AtomicBool::new(false),
            bytes: Default::default(),
        }
    }
}

impl Usage {
    /// Notes a block-sync message that came or went.
    pub fn message(&self, came: bool, bytes: usize) {
        self.bytes[usize::from(!came)].fetch_add(bytes as u64, Relaxed);
    }

    /// Bytes of block-sync messages that came, and that went.
    pub(super) fn bytes(&self) -> (u64, u64) {
        let [came, went] = &self.bytes;
        (came.load(Relaxed), went.load(Relaxed))
    }

    /// Notes a block that came (`gave`) or went.
    pub fn block(&self, gave: bool) {
        // One less than what there is, so that adding one below cannot overflow.
        let millis = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        self.last.store(millis + 1, Relaxed);
        if gave {
            self.gave.store(true, Relaxed);
        }
    }

    /// Time since the last block, or since the connection began.
    pub(super) fn idle(&self) -> Duration {
        let last = self.last.load(Relaxed).saturating_sub(1);
        self.begun
            .elapsed()
            .saturating_sub(Duration::from_millis(last))
    }

    pub(super) fn has_moved(&self) -> bool {
        // This is what the added one is for: a block in the first millisecond counts.
        self.last.load(Relaxed) > 0
    }

    /// Whether the peer has given us a block.
    pub(super) fn gave(&self) -> bool {
        self.gave.load(Relaxed)
    }
}
