//! The window: one slot for each height from the lowest unapplied one up, and the frontier within
//! it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::io::{AskId, Candidate, Meta, RunId};
use super::prover::Run;
use super::slot::{Slot, Stage};
use blocksync_types::ids::{BlockId, ConnId, Height};

/// Heights from the lowest unapplied one up. Bounded by `PoolConfig::window`.
///
/// A slot changes only through [`Window::update`], which keeps the sums and sets that follow from
/// the slots.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(
    feature = "record",
    serde(bound(serialize = "", deserialize = "B: Default"))
)]
pub(crate) struct Window<B> {
    initial: Height,
    /// Applied and durable.
    applied: Height,
    /// Applied, or proven and linked to it.
    proven: Height,
    /// The id at `proven`; unknown right after start.
    proven_id: Option<BlockId>,
    /// From `next()` up.
    slots: VecDeque<Slot<B>>,
    /// Missing heights that nobody is asked for, and that somebody with room may have.
    wanted: BTreeSet<Height>,
    /// Missing heights that nobody with room has.
    unservable: BTreeSet<Height>,
    /// Heights without a copy, asked or not.
    missing: BTreeSet<Height>,
    /// Bytes of all copies in the slots.
    held_bytes: u64,
    /// Heights with the executor.
    applying: u32,
}

/// The part that one slot adds to the sums and sets of the window.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Share {
    bytes: u64,
    applying: bool,
    missing: bool,
    idle: bool,
}

impl Share {
    /// The share of a height outside the window.
    const NONE: Share = Share {
        bytes: 0,
        applying: false,
        missing: false,
        idle: false,
    };

    fn of<B>(slot: &Slot<B>) -> Self {
        Share {
            bytes: slot.bytes(),
            applying: slot.is_applying(),
            missing: slot.is_missing(),
            idle: slot.is_idle(),
        }
    }
}

impl<B> Window<B> {
    /// An empty window above this applied height of a chain whose first block has height
    /// `initial`.
    pub(crate) fn new(applied: Height, initial: Height) -> Self {
        // Before its first block a chain that begins above 1 has applied height 0. The window must
        // not open at heights that the chain does not have.
        let applied = applied.max(initial.prev());
        Window {
            initial,
            applied,
            proven: applied,
            proven_id: None,
            slots: VecDeque::new(),
            wanted: BTreeSet::new(),
            unservable: BTreeSet::new(),
            missing: BTreeSet::new(),
            held_bytes: 0,
            applying: 0,
        }
    }

    /// Height of the chain's first block.
    pub(crate) fn initial(&self) -> Height {
        self.initial
    }

    /// The highest applied height; the one below the chain's first before that.
    pub(crate) fn applied(&self) -> Height {
        self.applied
    }

    /// The highest height that is proven and linked to the applied ones.
    pub(crate) fn proven(&self) -> Height {
        self.proven
    }

    /// The id at the highest proven height, where it is known.
    pub(crate) fn proven_id(&self) -> Option<BlockId> {
        self.proven_id
    }

    /// Bytes of all copies held.
    pub(crate) fn held_bytes(&self) -> u64 {
        self.held_bytes
    }

    /// Heights with the executor.
    pub(crate) fn applying(&self) -> u32 {
        self.applying
    }

    /// The lowest height that is not applied.
    pub(crate) fn next(&self) -> Height {
        self.applied.next().max(self.initial)
    }

    /// The lowest height that is not proven.
    pub(crate) fn frontier(&self) -> Height {
        self.proven.next().max(self.initial)
    }

    /// The height right above the window.
    pub(crate) fn end(&self) -> Height {
        self.next().plus(self.slots.len() as u64)
    }

    /// The two lowest unapplied heights, on which everything waits: the lowest cannot be proven
    /// without its successor.
    pub(crate) fn lowest_two(&self) -> [Height; 2] {
        [self.next(), self.next().next()]
    }

    /// Whether a height is one of the two lowest.
    pub(crate) fn is_lowest_two(&self, height: Height) -> bool {
        height <= self.next().next()
    }

    fn index(&self, height: Height) -> Option<usize> {
        let next = self.next();
        if height < next {
            return None;
        }
        // A distance that does not fit lies beyond the window all the same.
        usize::try_from(height.above(next)).ok()
    }

    /// The slot of a height within the window.
    pub(crate) fn slot(&self, height: Height) -> Option<&Slot<B>> {
        self.slots.get(self.index(height)?)
    }

    /// All copies held of a height.
    pub(crate) fn copies(&self, height: Height) -> &[Candidate<B>] {
        self.slot(height).map_or(&[], Slot::copies)
    }

    /// Open requests for a height.
    pub(crate) fn asks(&self, height: Height) -> &[AskId] {
        self.slot(height).map_or(&[], Slot::asks)
    }

    /// Whether a height is within the window and has no copy.
    pub(crate) fn is_missing(&self, height: Height) -> bool {
        self.slot(height).is_some_and(Slot::is_missing)
    }

    /// Whether a connection gave a copy of this height that cannot be used.
    pub(crate) fn refuses(&self, height: Height, conn: ConnId) -> bool {
        self.slot(height).is_some_and(|s| s.refuses(conn))
    }

    /// The slots with their heights, ascending.
    pub(crate) fn heights(&self) -> impl Iterator<Item = (Height, &Slot<B>)> {
        let first = self.next();
        self.slots
            .iter()
            .enumerate()
            .map(move |(n, slot)| (first.plus(n as u64), slot))
    }

    /// Changes a slot, and everything that follows from it. `None` outside the window.
    pub(crate) fn update<R>(
        &mut self,
        height: Height,
        change: impl FnOnce(&mut Slot<B>) -> R,
    ) -> Option<R> {
        let index = self.index(height)?;
        let slot = self.slots.get_mut(index)?;
        let before = Share::of(slot);
        let result = change(slot);
        let after = Share::of(slot);
        self.account(height, before, after);
        Some(result)
    }

    /// Takes into account that the share of a height was `before` and is `after`. The only writer
    /// of the sums and sets.
    fn account(&mut self, height: Height, before: Share, after: Share) {
        if before == after {
            return;
        }
        // The earlier share is part of these sums since the last change, so they cannot wrap.
        self.held_bytes = self.held_bytes - before.bytes + after.bytes;
        self.applying = self.applying - u32::from(before.applying) + u32::from(after.applying);
        if before.missing != after.missing {
            if after.missing {
                self.missing.insert(height);
            } else {
                self.missing.remove(&height);
            }
        }
        if before.idle != after.idle {
            if after.idle {
                // Whether anybody with room has it turns out in `assign`.
                self.wanted.insert(height);
            } else {
                // It is in one of the two.
                let _ = self.wanted.remove(&height) || self.unservable.remove(&height);
            }
        }
    }

    /// Opens the next height above the window.
    pub(crate) fn open(&mut self) {
        let (height, slot) = (self.end(), Slot::new());
        let share = Share::of(&slot);
        self.slots.push_back(slot);
        self.account(height, Share::NONE, share);
    }

    /// Opens heights until the window ends above `top`, or has `most` heights.
    pub(crate) fn grow(&mut self, top: Height, most: u32) {
        let end = self.next().plus(u64::from(most));
        while self.end() <= top && self.end() < end {
            self.open();
        }
    }

    /// Closes the heights above `top`, from the end down, until one that is proven, whose id is, or
    /// that is with the verifier. Their copies go. Returns the requests that were open for them.
    pub(crate) fn shrink(&mut self, top: Height) -> Vec<(Height, AskId)> {
        let mut asks = Vec::new();
        while self.end() > top.next() && self.slots.back().is_some_and(Slot::may_close) {
            let Some(slot) = self.slots.pop_back() else {
                break;
            };
            // It was the last one: the window ends there now.
            let height = self.end();
            self.account(height, Share::of(&slot), Share::NONE);
            asks.extend(slot.asks().iter().map(|ask| (height, *ask)));
        }
        asks
    }

    /// The lowest height is applied and leaves the window. Returns the requests that are still
    /// open for it.
    pub(crate) fn pop_applied(&mut self) -> Vec<AskId> {
        let height = self.next();
        self.applied = height;
        let mut asks = Vec::new();
        if let Some(slot) = self.slots.pop_front() {
            self.account(height, Share::of(&slot), Share::NONE);
            if height >= self.proven {
                self.proven = height;
                self.proven_id = slot.copies().first().map(|c| c.meta.id);
            }
            asks.extend_from_slice(slot.asks());
        }
        self.proven = self.proven.max(self.applied);
        asks
    }

    /// Moves the frontier up by one height if the certified copy of that is held. Returns the
    /// copy's description and its supplier.
    pub(crate) fn advance(&mut self) -> Option<(Meta, ConnId)> {
        let (height, parent) = (self.frontier(), self.proven_id);
        let prove = |slot: &mut Slot<B>| slot.prove(parent).map(|copy| (copy.meta, copy.from.conn));
        let (meta, from) = self.update(height, prove)??;
        (self.proven, self.proven_id) = (height, Some(meta.id));
        Some((meta, from))
    }

    /// The held copies of these heights are with the verifier. No sum or set follows from that.
    pub(crate) fn begin_verifying(&mut self, run: &Run) {
        for slot in self.slots_of(run) {
            slot.begin_verifying(run.id());
        }
    }

    /// The copies of these heights are with the verifier no more.
    pub(crate) fn end_verifying(&mut self, run: &Run) {
        for slot in self.slots_of(run) {
            slot.end_verifying();
        }
    }

    fn slots_of(&mut self, run: &Run) -> impl Iterator<Item = &mut Slot<B>> {
        // Some of its heights may have been applied meanwhile.
        let from = self.index(run.from()).unwrap_or(0);
        let end = self.index(run.to()).map_or(0, |last| last + 1);
        let end = end.min(self.slots.len());
        self.slots.range_mut(from.min(end)..end)
    }

    /// Takes the proof back from everything above the applied height: the copies are held again.
    pub(crate) fn unprove(&mut self) {
        let mut height = self.next();
        while self.slot(height).is_some_and(Slot::is_proven) {
            self.update(height, Slot::unprove);
            height = height.next();
        }
        // The id of the applied block is not kept here. The executor's check against the state is
        // what holds the next block to it.
        (self.proven, self.proven_id) = (self.applied, None);
    }

    /// Hands the proven copies up to `last` to the executor: those that it does not have yet.
    pub(crate) fn begin_applying(&mut self, last: Height) -> Vec<Candidate<B>>
    where
        B: Clone,
    {
        // Those with the executor are always the lowest, without a gap.
        let mut height = self.next().plus(u64::from(self.applying));
        let mut copies = Vec::new();
        while height <= last {
            let slot = self.update(height, |slot| slot.begin_applying(&mut copies));
            if slot.is_none() {
                break;
            }
            height = height.next();
        }
        copies
    }

    /// Empties the window. Returns the requests that were open, with their heights, ascending.
    pub(crate) fn clear(&mut self) -> Vec<(Height, AskId)> {
        let mut asks = Vec::new();
        let mut height = self.next();
        for slot in std::mem::take(&mut self.slots) {
            self.account(height, Share::of(&slot), Share::NONE);
            asks.extend(slot.asks().iter().map(|ask| (height, *ask)));
            height = height.next();
        }
        asks
    }

    /// Begins anew above this applied height. The window must be empty.
    pub(crate) fn restart(&mut self, applied: Height) {
        // As in `new`: before the first block the applied height may be 0.
        self.applied = applied.max(self.initial.prev());
        (self.proven, self.proven_id) = (self.applied, None);
    }

    /// The lowest height without a copy; without any, the one right above those applied.
    pub(crate) fn needed(&self) -> Height {
        self.first_missing().unwrap_or(self.next())
    }

    /// The lowest height without a copy.
    pub(crate) fn first_missing(&self) -> Option<Height> {
        self.missing.first().copied()
    }

    /// The lowest height that somebody should be asked for.
    pub(crate) fn first_wanted(&self) -> Option<Height> {
        self.wanted.first().copied()
    }

    /// The lowest height that nobody with room has.
    pub(crate) fn first_unservable(&self) -> Option<Height> {
        self.unservable.first().copied()
    }

    /// Heights from `from` to `to` that nobody with room had, ascending.
    pub(crate) fn unservable(&self, from: Height, to: Height) -> impl Iterator<Item = Height> {
        self.unservable.range(from..=to).copied()
    }

    /// Nobody with room has this wanted height.
    pub(crate) fn set_unservable(&mut self, height: Height) {
        if self.wanted.remove(&height) {
            self.unservable.insert(height);
        }
    }

    /// Somebody may have this height after all.
    pub(crate) fn set_wanted(&mut self, height: Height) {
        if self.unservable.remove(&height) {
            self.wanted.insert(height);
        }
    }

    /// Gives requests and runs their new names.
    pub(crate) fn rename(&mut self, asks: &BTreeMap<AskId, AskId>, runs: &BTreeMap<RunId, RunId>) {
        for slot in &mut self.slots {
            slot.rename(asks, runs);
        }
    }

    /// Panics when an invariant of the window is broken. `most` is its bound.
    pub(crate) fn check(&self, most: u32) {
        let (mut held, mut applying, mut last) = (0u64, 0u32, 0);
        for (height, slot) in self.heights() {
            slot.check(height);
            held += slot.bytes();
            applying += u32::from(slot.is_applying());
            self.check_sets(height, slot);
            // Applying, then proven, then the rest.
            let rank = match slot.stage() {
                Stage::Applying(_) => 0,
                Stage::Verified(_) => 1,
                _ => 2,
            };
            assert!(rank >= last, "{height}: stages out of order");
            last = rank;
            assert_eq!(
                slot.is_proven(),
                height <= self.proven,
                "{height}: the frontier is at {}",
                self.proven
            );
        }
        assert_eq!(held, self.held_bytes, "bytes held");
        assert_eq!(applying, self.applying, "heights with the executor");
        assert!(self.proven >= self.applied);
        assert!(self.slots.len() <= most as usize, "the window's bound");
        let inside = |h: &Height| self.slot(*h).is_some();
        let sets = [&self.missing, &self.wanted, &self.unservable];
        assert!(sets.into_iter().flatten().all(inside), "outside the window");
    }

    fn check_sets(&self, height: Height, slot: &Slot<B>) {
        assert_eq!(
            self.missing.contains(&height),
            slot.is_missing(),
            "{height}: among the missing"
        );
        let wanted = self.wanted.contains(&height);
        let unservable = self.unservable.contains(&height);
        assert!(!(wanted && unservable), "{height}: in both sets");
        assert_eq!(
            wanted || unservable,
            slot.is_idle(),
            "{height}: wanted or unservable exactly while nobody is asked"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "wanted or unservable exactly while nobody is asked")]
    fn a_height_that_is_in_no_set_is_seen() {
        let mut window = Window::<()>::new(Height::ZERO, Height::new(1));
        window.open();
        window.check(2);
        window.wanted.clear();
        window.check(2);
    }
}
