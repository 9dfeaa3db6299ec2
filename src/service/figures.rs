//! Figures of what was applied, for exporters: written where it happens and read without a lock, so
//! that they tell the truth also when everything else hangs.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::config::system_clock;
use crate::chain::{BlockIdFlag, ChainState, Evidence, Fetched, Time};
use crate::fault::{CloseReason, Fault};
use crate::ids::Height;

/// Upper bounds of a call into the application, in seconds: CometBFT's.
const APP_CALL: [f64; 10] = [
    0.0001, 0.0004, 0.002, 0.009, 0.02, 0.1, 0.65, 2.0, 6.0, 25.0,
];
/// Upper bounds of a block's time in `FinalizeBlock`, in seconds: CometBFT's, which has them in
/// milliseconds.
const PROCESSING: [f64; 10] = [
    0.001, 0.011, 0.021, 0.031, 0.041, 0.051, 0.061, 0.071, 0.081, 0.091,
];
/// Upper bounds of the time between two blocks, in seconds: the usual ones of Prometheus, as
/// CometBFT has them.
const INTERVAL: [f64; 11] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];
/// Upper bounds of our own work, in seconds.
const WORK: [f64; 14] = [
    0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096,
    8.192,
];
/// Upper bounds of the blocks in a run.
const RUN: [f64; 6] = [1.0, 4.0, 16.0, 64.0, 256.0, 1024.0];

/// Values, counted below bounds, and their sum.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [f64],
    /// One for each bound, and one above the last.
    counts: Box<[AtomicU64]>,
    /// Sum of the values, in billionths.
    billionths: AtomicU64,
}

impl Histogram {
    /// An empty histogram over bounds that rise.
    #[must_use]
    pub fn new(bounds: &'static [f64]) -> Self {
        Histogram {
            bounds,
            counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            billionths: AtomicU64::new(0),
        }
    }

    /// Notes a value that is not negative.
    pub fn note(&self, value: f64) {
        let at = self.bounds.iter().position(|bound| value <= *bound);
        self.counts[at.unwrap_or(self.bounds.len())].fetch_add(1, Relaxed);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // it saturates
        self.billionths.fetch_add((value * 1e9) as u64, Relaxed);
    }

    /// Notes a time, in seconds.
    pub fn note_time(&self, took: Duration) {
        self.note(took.as_secs_f64());
    }

    /// Upper bounds, without the last one, which is infinite.
    #[must_use]
    pub fn bounds(&self) -> &'static [f64] {
        self.bounds
    }

    /// Count below each bound and above the one before, then the count above the last.
    #[must_use]
    pub fn counts(&self) -> Vec<u64> {
        self.counts.iter().map(|n| n.load(Relaxed)).collect()
    }

    /// Sum of the values.
    #[must_use]
    pub fn sum(&self) -> f64 {
        self.billionths.load(Relaxed) as f64 / 1e9
    }
}

/// Distributions of times and sizes.
#[derive(Debug)]
#[non_exhaustive]
pub struct Histograms {
    /// Calls of `FinalizeBlock`, in seconds.
    pub finalize_block: Histogram,
    /// Calls of `Commit`, in seconds.
    pub commit: Histogram,
    /// The calls of `FinalizeBlock` once more, within CometBFT's bounds of a block's processing.
    pub block_processing: Histogram,
    /// Time in a header since that of the block before, in seconds, of blocks applied while the
    /// service follows the chain.
    pub block_interval: Histogram,
    /// Proofs of a run, in seconds.
    pub prove: Histogram,
    /// Blocks in a run that was proven.
    pub run_blocks: Histogram,
    /// Commits of a batch to the store, in seconds.
    pub store_commit: Histogram,
}

impl Default for Histograms {
    fn default() -> Self {
        Histograms {
            finalize_block: Histogram::new(&APP_CALL),
            commit: Histogram::new(&APP_CALL),
            block_processing: Histogram::new(&PROCESSING),
            block_interval: Histogram::new(&INTERVAL),
            prove: Histogram::new(&WORK),
            run_blocks: Histogram::new(&RUN),
            store_commit: Histogram::new(&WORK),
        }
    }
}

/// A member count and the power that goes with it.
#[derive(Debug, Default)]
pub struct Share {
    /// Number of members.
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
    /// Distributions of times and sizes.
    pub histograms: Histograms,
    /// Peers dropped, by `Fault::NAMES`.
    faults: [AtomicU64; Fault::NAMES.len()],
    /// The service is caught up and applies what the chain makes.
    following: AtomicBool,
}

fn nanos(time: Time) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}

impl Figures {
    /// A call into the application of this name has ended.
    pub(super) fn called(&self, name: &str, took: Duration) {
        let histograms = &self.histograms;
        match name {
            "FinalizeBlock" => {
                histograms.finalize_block.note_time(took);
                histograms.block_processing.note_time(took);
            }
            "Commit" => histograms.commit.note_time(took),
            _ => {}
        }
    }

    /// A run of blocks was proven, or refused.
    pub(super) fn proven(&self, blocks: usize, took: Duration) {
        self.histograms.prove.note_time(took);
        self.histograms.run_blocks.note(blocks as f64);
    }

    /// Whether what is applied from now on is what the chain makes, and no history.
    pub(super) fn set_following(&self, following: bool) {
        self.following.store(following, Relaxed);
    }

    /// A peer was dropped for something that it did.
    pub(super) fn dropped(&self, reason: &CloseReason) {
        // Reasons that are no fault, such as a hang-up, have no counter.
        let at = Fault::NAMES.iter().position(|name| *name == reason.name());
        if let Some(count) = at.and_then(|at| self.faults.get(at)) {
            count.fetch_add(1, Relaxed);
        }
    }

    /// How many peers were dropped for each kind of fault.
    pub fn faults(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.faults.iter().map(|n| n.load(Relaxed));
        Fault::NAMES.into_iter().zip(counts)
    }

    /// A block took the state from `before` to `after`.
    pub(super) fn applied(&self, block: &Fetched, before: &ChainState, after: &ChainState) {
        let (bytes, txs) = (block.raw.len() as u64, block.block.txs.len() as u64);
        self.blocks.fetch_add(1, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
        self.txs.fetch_add(txs, Relaxed);
        self.last_bytes.store(bytes, Relaxed);
        self.last_txs.store(txs, Relaxed);
        let apart = nanos(block.block.header.time).saturating_sub(nanos(before.last_block_time));
        // While catching up, header times say nothing about how fast the chain moves now.
        if self.following.load(Relaxed) && before.last_height > Height::ZERO && apart >= 0 {
            self.histograms.block_interval.note(apart as f64 / 1e9);
        }
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
        // The last commit was signed by the set of the block below.
        let last = before.last_validators.as_deref();
        let (mut members, mut power) = (0, 0);
        for (index, _) in absent {
            members += 1;
            // A commit has as many entries as its set has members; 0 is for
            // a set that is not known.
            power += last.and_then(|set| set.get(index)).map_or(0, |v| v.power);
        }
        self.missing.set(members, power);
        let offences = block.block.evidence.iter().flat_map(Evidence::misbehavior);
        let (mut members, mut power) = (0, 0);
        // Kind 1 is a duplicate vote: CometBFT's gauge counts no other.
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
    use crate::fault::Overdue;

    #[test]
    fn values_are_counted_below_their_bound() {
        let figures = Figures::default();
        for millis in [0, 1, 9, 50, 60_000] {
            figures.called("FinalizeBlock", Duration::from_millis(millis));
        }
        let calls = &figures.histograms.finalize_block;
        assert_eq!(calls.counts(), [1, 0, 1, 1, 0, 1, 0, 0, 0, 0, 1]);
        assert!((calls.sum() - 60.06).abs() < 1e-6, "{}", calls.sum());
        let processing = figures.histograms.block_processing.counts();
        assert_eq!(processing, [2, 1, 0, 0, 0, 1, 0, 0, 0, 0, 1]);
        figures.proven(64, Duration::from_millis(3));
        assert_eq!(figures.histograms.run_blocks.counts()[3], 1);
    }

    #[test]
    fn a_peer_is_counted_under_its_fault() {
        let figures = Figures::default();
        figures.dropped(&CloseReason::Overdue(Overdue::Answer));
        figures.dropped(&CloseReason::Fault(Fault::Unasked));
        figures.dropped(&CloseReason::Fault(Fault::Unasked));
        let counted: Vec<_> = figures.faults().filter(|(_, n)| *n > 0).collect();
        assert_eq!(counted, [("timeout", 1), ("unasked", 2)]);
    }
}
