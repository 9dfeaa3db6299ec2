//! The byte budget, and which sockets are read.

use std::collections::BTreeSet;

use super::config::PoolConfig;
use super::io::{Reading, Tick};
use blocksync_types::ids::ConnId;

/// Blocks of which few say that they exist may fill the budget divided by this.
const DOUBTFUL_PART: u64 = 4;

/// Sizes that connections have shown and nobody has proven may take the budget divided by this.
const UNPROVEN_PART: u64 = 2;

/// The least expected size of a block.
const LEAST_ESTIMATE: u64 = 256;

/// A size of blocks after one more: up at once and down slowly, since what is asked for at too low
/// a size comes on top of the budget.
pub(crate) fn smoothed_size(before: u64, bytes: u32) -> u64 {
    let bytes = u64::from(bytes);
    let smooth = (before * 7 + bytes.max(before / 2)) / 8;
    smooth.max(bytes)
}

/// Expected size of a block, and what follows from a full budget.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Budget {
    /// Bytes of blocks held, partly received or expected.
    total: u64,
    /// Smoothed size of the proven blocks, leaning to the larger.
    estimate: u64,
    /// More is held than the budget, or was and has not fallen well below it.
    over: bool,
    /// Which connections are read.
    reading: Reading,
    /// When all were read again after a time over the budget.
    read_again: Option<Tick>,
    /// Connections that were read all through that time. Bounded by those that `Reading::Only`
    /// names.
    read_through: BTreeSet<ConnId>,
    /// Bytes of copies that prove claims, outside of the window.
    aside: u64,
    /// A wanted height waits for room in the budget, and those above it wait behind it.
    blocked: bool,
}

impl Budget {
    /// An empty budget; all connections are read.
    pub(crate) fn new(config: &PoolConfig) -> Self {
        Budget {
            total: config.budget_bytes,
            estimate: u64::from(config.first_estimate_bytes),
            over: false,
            reading: Reading::All,
            read_again: None,
            read_through: BTreeSet::new(),
            aside: 0,
            blocked: false,
        }
    }

    /// Bytes of copies that prove claims.
    pub(crate) fn aside(&self) -> u64 {
        self.aside
    }

    /// Sets the bytes of copies that prove claims.
    pub(crate) fn set_aside(&mut self, bytes: u64) {
        self.aside = bytes;
    }

    /// Expected bytes of one block.
    pub(crate) fn estimate(&self) -> u64 {
        self.estimate
    }

    /// Bytes that sizes which nobody has proven may take.
    pub(crate) fn unproven(&self) -> u64 {
        self.total / UNPROVEN_PART
    }

    /// Learns from the size of a proven block.
    pub(crate) fn learn(&mut self, bytes: u32) {
        self.estimate = smoothed_size(self.estimate, bytes).max(LEAST_ESTIMATE);
    }

    /// Whether one more block fits beside `bytes` that are here and `expected` blocks, which may be
    /// larger by `surplus` bytes than the estimate says. A doubtful one has only a part of the
    /// budget.
    pub(crate) fn has_room(&self, bytes: u64, expected: u64, surplus: u64, doubtful: bool) -> bool {
        let total = self.total / if doubtful { DOUBTFUL_PART } else { 1 };
        let expected = expected.saturating_mul(self.estimate);
        // Nobody has proven these sizes: they may hold back a part of what all share, and no more.
        let surplus = surplus.min(total / UNPROVEN_PART);
        let committed = bytes.saturating_add(self.aside);
        let committed = committed.saturating_add(expected).saturating_add(surplus);
        committed.saturating_add(self.estimate) <= total
    }

    /// Whether a copy of this size may be held beside `held` bytes.
    pub(crate) fn may_hold(&self, held: u64, bytes: u64) -> bool {
        held.saturating_add(self.aside).saturating_add(bytes) <= self.total
    }

    /// Whether a wanted height waits for room.
    pub(crate) fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// Notes whether a wanted height waits for room.
    pub(crate) fn set_blocked(&mut self, blocked: bool) {
        self.blocked = blocked;
    }

    /// Whether more is held than the budget.
    pub(crate) fn is_over(&self) -> bool {
        self.over
    }

    /// Notes the bytes that are here. Says whether reading has to be looked at: not while the
    /// budget was kept and is.
    pub(crate) fn weigh(&mut self, bytes: u64) -> bool {
        let before = self.over;
        // Between two crossings an eighth of the budget has come or gone.
        self.over = bytes > self.total || (before && bytes > self.total / 8 * 7);
        before || self.over
    }

    /// Which connections are read.
    pub(crate) fn reading(&self) -> &Reading {
        &self.reading
    }

    /// Whether this connection is read.
    pub(crate) fn reads(&self, id: ConnId) -> bool {
        self.reading.reads(id)
    }

    /// Sets which connections are read. Returns which were before, or `None` when nothing changes.
    pub(crate) fn set_reading(&mut self, reading: Reading, now: Tick) -> Option<Reading> {
        if reading == self.reading {
            return None;
        }
        let before = std::mem::replace(&mut self.reading, reading);
        if self.reading == Reading::All && self.read_again != Some(now) {
            self.read_again = Some(now);
            self.read_through.clear();
        }
        Some(before)
    }

    /// This connection was read all through the time over the budget that has just ended.
    pub(crate) fn note_read_through(&mut self, id: ConnId) {
        self.read_through.insert(id);
    }

    /// When this connection was read again after a time in which it was not.
    pub(crate) fn read_again(&self, id: ConnId) -> Option<Tick> {
        self.read_again.filter(|_| !self.read_through.contains(&id))
    }

    /// Forgets a connection that is gone.
    pub(crate) fn forget(&mut self, id: ConnId) {
        self.read_through.remove(&id);
    }

    /// Panics when an invariant is broken.
    pub(crate) fn check(&self) {
        if let Reading::Only(these) = &self.reading {
            assert!(self.over, "all are read while the budget is kept");
            assert!(these.len() <= 4, "two requests for each of two heights");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(total: u64) -> Budget {
        Budget::new(&PoolConfig {
            budget_bytes: total,
            first_estimate_bytes: 1000,
            ..PoolConfig::default()
        })
    }

    #[test]
    fn sizes_go_up_at_once_and_down_slowly() {
        assert_eq!(smoothed_size(1000, 5000), 5000);
        assert_eq!(smoothed_size(5000, 5000), 5000);
        assert_eq!(smoothed_size(1600, 0), 1500);
        let mut budget = budget(0);
        (0..1000).for_each(|_| budget.learn(0));
        assert_eq!(budget.estimate(), LEAST_ESTIMATE);
    }

    #[test]
    fn an_unproven_surplus_takes_half_of_the_budget_at_most() {
        let budget = budget(10_000);
        // Six are expected beside 2000 bytes, and one more.
        assert!(budget.has_room(2000, 6, 1000, false));
        assert!(!budget.has_room(2000, 6, 1001, false));
        assert!(budget.has_room(1000, 3, u64::MAX, false));
        assert!(!budget.has_room(1000, 4, u64::MAX, false));
        // A quarter of the budget, and half of it.
        assert!(budget.has_room(250, 0, u64::MAX, true));
        assert!(!budget.has_room(251, 0, u64::MAX, true));
    }

    #[test]
    fn a_copy_is_held_while_all_of_them_fit() {
        let mut budget = budget(10_000);
        budget.set_aside(1000);
        assert_eq!(budget.aside(), 1000);
        assert!(budget.may_hold(4000, 5000) && !budget.may_hold(4001, 5000));
        assert!(budget.has_room(1000, 7, 0, false));
        assert!(!budget.has_room(1001, 7, 0, false));
        assert_eq!(budget.unproven(), 5000);
    }

    #[test]
    fn reading_is_looked_at_from_over_the_budget_until_well_below_it() {
        let mut budget = budget(8000);
        let weighed = [7500, 8000, 8001, 7001, 7000, 7500].map(|bytes| {
            let looks = budget.weigh(bytes);
            (looks, budget.is_over())
        });
        let (not, over, again) = ((false, false), (true, true), (true, false));
        assert_eq!(weighed, [not, not, over, over, again, not]);
    }

    #[test]
    fn a_connection_that_was_not_read_knows_since_when_it_is_again() {
        let [a, b] = [1, 2].map(ConnId);
        let mut budget = budget(8000);
        budget.weigh(9000);
        let only = || Reading::Only(vec![a]);
        assert_eq!(budget.set_reading(Reading::All, Tick(1)), None, "no change");
        assert_eq!(budget.set_reading(only(), Tick(2)), Some(Reading::All));
        assert!(budget.reads(a) && !budget.reads(b));
        assert_eq!(budget.read_again(b), None);
        assert_eq!(budget.set_reading(Reading::All, Tick(3)), Some(only()));
        budget.note_read_through(a);
        assert_eq!(
            (budget.read_again(a), budget.read_again(b)),
            (None, Some(Tick(3)))
        );
        // Over again and back within one moment: those that were read stay so.
        budget.set_reading(only(), Tick(3));
        budget.set_reading(Reading::All, Tick(3));
        assert_eq!(budget.read_again(a), None);
        budget.forget(a);
        assert_eq!(
            budget.read_again(a),
            Some(Tick(3)),
            "another connection by now"
        );
        budget.note_read_through(a);
        budget.set_reading(only(), Tick(4));
        budget.set_reading(Reading::All, Tick(5));
        assert_eq!(
            budget.read_again(a),
            Some(Tick(5)),
            "of this time nothing is known"
        );
    }
}
