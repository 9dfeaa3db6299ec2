//! Figures of what was applied, for exporters: written where it happens and read without a lock, so
//! that they tell the truth also when everything else hangs.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::config::system_clock;
use crate::chain::{BlockIdFlag, ChainState, Evidence, Fetched, Time};

/// Upper bounds of a call into the application, in seconds: CometBFT's.
pub const APP_CALL_BOUNDS: [f64; 10] = [
    0.0001, 0.0004, 0.002, 0.009, 0.02, 0.1, 0.65, 2.0, 6.0, 25.0,
];

/// How often something took how long.
#[derive(Debug, Default)]
pub struct Timings {
    /// One for each bound, and one above the last.
    counts: [AtomicU64; APP_CALL_BOUNDS.len() + 1],
    nanos: AtomicU64,
}

impl Timings {
    pub(super) fn note(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let at = APP_CALL_BOUNDS.iter().position(|bound| seconds <= *bound);
        self.counts[at.unwrap_or(APP_CALL_BOUNDS.len())].fetch_add(1, Relaxed);
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.nanos.fetch_add(nanos, Relaxed);
    }

    /// Counts at or below each bound of `APP_CALL_BOUNDS`, then the count of all.
    #[must_use]
    pub fn cumulative(&self) -> [u64; APP_CALL_BOUNDS.len() + 1] {
        let mut sum = 0;
        std::array::from_fn(|n| {
            sum += self.counts[n].load(Relaxed);
            sum
        })
    }

    /// The time of all.
    #[must_use]
    pub fn total(&self) -> Duration {
        Duration::from_nanos(self.nanos.load(Relaxed))
    }
}

/// A member count and the power that goes with it.
#[derive(Debug, Default)]
pub struct Share {
    /// How many.
    pub members: AtomicU64,
    /// Their voting power.
    pub power: AtomicI64,
}

impl Share {
    fn set(&self, members: usize, power: i64) {
        self.members.store(members as u64, Relaxed);
        self.power.store(power, Relaxed);
    }
}

/// Counts of applied blocks since the start of the service, and figures of the last block.
#[derive(Debug, Default)]
pub struct Figures {
    /// Blocks.
    pub blocks: AtomicU64,
    /// Bytes of encoded blocks.
    pub bytes: AtomicU64,
    /// Transactions.
    pub txs: AtomicU64,
    /// Bytes of the last block.
    pub last_bytes: AtomicU64,
    /// Transactions of the last block.
    pub last_txs: AtomicU64,
    /// Time in the last block's header, in nanoseconds of the Unix clock; 0 before the first.
    pub last_block_time: AtomicI64,
    /// When the last block was applied, in nanoseconds of the Unix clock; 0 before the first.
    pub last_progress: AtomicI64,
    /// Blocks that changed the validator set.
    pub set_updates: AtomicU64,
    /// Blocks that changed the consensus params.
    pub param_updates: AtomicU64,
    /// Validators in force.
    pub validators: Share,
    /// Validators that are absent in the last block's commit.
    pub missing: Share,
    /// Validators that the last block has evidence of double votes for.
    pub byzantine: Share,
    /// Calls of `FinalizeBlock`.
    pub finalize_block: Timings,
    /// Calls of `Commit`.
    pub commit: Timings,
}

fn nanos(time: Time) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}

impl Figures {
    /// A call into the application of this name has ended.
    pub(super) fn called(&self, name: &str, took: Duration) {
        match name {
            "FinalizeBlock" => self.finalize_block.note(took),
            "Commit" => self.commit.note(took),
            _ => {}
        }
    }

    /// A block took the state from `before` to `after`.
    pub(super) fn applied(&self, block: &Fetched, before: &ChainState, after: &ChainState) {
        let (bytes, txs) = (block.raw.len() as u64, block.block.txs.len() as u64);
        self.blocks.fetch_add(1, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
        self.txs.fetch_add(txs, Relaxed);
        self.last_bytes.store(bytes, Relaxed);
        self.last_txs.store(txs, Relaxed);
        self.last_block_time
            .store(nanos(block.block.header.time), Relaxed);
        self.last_progress.store(nanos(system_clock()), Relaxed);
        if after.last_height_validators_changed != before.last_height_validators_changed {
            self.set_updates.fetch_add(1, Relaxed);
        }
        if after.last_height_params_changed != before.last_height_params_changed {
            self.param_updates.fetch_add(1, Relaxed);
        }
        let set = &after.validators;
        self.validators.set(set.len(), set.total_power());
        let signatures = block.block.last_commit.signatures.iter();
        let absent = signatures
            .enumerate()
            .filter(|(_, sig)| sig.flag == BlockIdFlag::Absent);
        let last = before.last_validators.as_deref();
        let (mut members, mut power) = (0, 0);
        for (index, _) in absent {
            members += 1;
            power += last.and_then(|set| set.get(index)).map_or(0, |v| v.power);
        }
        self.missing.set(members, power);
        let offences = block.block.evidence.iter().flat_map(Evidence::misbehavior);
        let (mut members, mut power) = (0, 0);
        for offence in offences.filter(|offence| offence.kind == 1) {
            members += 1;
            power += offence.power;
        }
        self.byzantine.set(members, power);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timings_are_counted_below_their_bound() {
        let timings = Timings::default();
        for millis in [0, 1, 9, 50, 60_000] {
            timings.note(Duration::from_millis(millis));
        }
        assert_eq!(timings.cumulative(), [1, 1, 2, 3, 3, 4, 4, 4, 4, 4, 5]);
        assert_eq!(timings.total(), Duration::from_millis(60_060));
    }
}
