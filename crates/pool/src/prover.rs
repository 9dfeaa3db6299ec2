//! Work under way with the verifier: one run, and examinations of single copies.

use std::collections::BTreeMap;

use super::io::{RunId, Tick};
use blocksync_types::ids::{Height, Source};

/// Time in which a run should be proven: what is proven at once is applied at once, and a longer
/// run would look like a stall.
const RUN_TIME: u64 = 10_000_000;

/// A pace that no run can use up is none.
const LONGEST_RUN: u64 = 1 << 16;

/// Time after which a run under way is no progress any more.
const PATIENCE: u64 = 300_000_000;

/// A run with the verifier.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Run {
    id: RunId,
    from: Height,
    to: Height,
    /// The height of the copy that holds the commit, and its supplier.
    carrier: (Height, Source),
    /// The highest applied height when it began: the verifier knows the sets of this state.
    applied: Height,
    began: Tick,
}

impl Run {
    /// Its name.
    pub(crate) fn id(&self) -> RunId {
        self.id
    }

    /// Its lowest height.
    pub(crate) fn from(&self) -> Height {
        self.from
    }

    /// Its highest height.
    pub(crate) fn to(&self) -> Height {
        self.to
    }

    /// Whether it is one block alone.
    pub(crate) fn is_single(&self) -> bool {
        self.from == self.to
    }

    /// The height of the copy that holds the commit, and its supplier.
    pub(crate) fn carrier(&self) -> (Height, Source) {
        self.carrier
    }

    /// The highest applied height when it began.
    pub(crate) fn applied(&self) -> Height {
        self.applied
    }
}

/// Work under way with the verifier. One run at a time; examinations are bounded by the copies
/// that came.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Prover {
    next: u64,
    run: Option<Run>,
    /// Examinations under way, with the copy's height and supplier.
    examining: BTreeMap<RunId, (Height, Source)>,
    /// The verifier wants runs to end here or below, until something is certified.
    limit: Option<Height>,
    /// The verifier cannot judge before more is applied.
    awaits_applied: bool,
    /// Blocks that are proven in the time for a run, by the last one.
    pace: Option<u64>,
}

impl Prover {
    fn name(&mut self) -> RunId {
        let id = RunId(self.next);
        self.next += 1;
        id
    }

    /// Whether a run is with the verifier.
    pub(crate) fn is_busy(&self) -> bool {
        self.run.is_some()
    }

    /// Whether a run may be handed in.
    pub(crate) fn is_ready(&self) -> bool {
        self.run.is_none() && !self.awaits_applied
    }

    /// Begins a run and names it.
    pub(crate) fn begin(
        &mut self,
        (from, to): (Height, Height),
        carrier: (Height, Source),
        applied: Height,
        began: Tick,
    ) -> &Run {
        let id = self.name();
        self.run.insert(Run {
            id,
            from,
            to,
            carrier,
            applied,
            began,
        })
    }

    /// Ends the run of this name, if it is the one under way, and learns from it how long the next
    /// one may be.
    pub(crate) fn end(&mut self, id: RunId, now: Tick) -> Option<Run> {
        // A run that was let go of (`clear`) may still get its verdict, which must not end another.
        let run = self.run.take_if(|run| run.id == id)?;
        // Time may stand still between two inputs, as it does for model checkers.
        let took = now.0.saturating_sub(run.began.0).max(1);
        let blocks = run.to.above(run.from) + 1;
        let pace = (blocks.saturating_mul(RUN_TIME) / took).max(1);
        self.pace = (pace < LONGEST_RUN).then_some(pace);
        Some(run)
    }

    /// Blocks that the next run may have.
    pub(crate) fn pace(&self) -> u64 {
        self.pace.unwrap_or(u64::MAX)
    }

    /// The run under way, and whether it has taken longer than counts as progress.
    pub(crate) fn under_way(&self, now: Tick) -> Option<(Height, Height, bool)> {
        let run = self.run.as_ref()?;
        let hangs = now.0 >= run.began.0.saturating_add(PATIENCE);
        Some((run.from, run.to, hangs))
    }

    /// Begins an examination and names it.
    pub(crate) fn examine(&mut self, height: Height, from: Source) -> RunId {
        let id = self.name();
        self.examining.insert(id, (height, from));
        id
    }

    /// Ends an examination. Returns the copy's height and supplier.
    pub(crate) fn examined(&mut self, id: RunId) -> Option<(Height, Source)> {
        self.examining.remove(&id)
    }

    /// Where runs end at the latest.
    pub(crate) fn limit(&self) -> Option<Height> {
        self.limit
    }

    /// Runs end at this height or below from now on.
    pub(crate) fn set_limit(&mut self, limit: Height) {
        self.limit = Some(limit);
    }

    /// Runs may be of any length again.
    pub(crate) fn lift_limit(&mut self) {
        self.limit = None;
    }

    /// Nothing is handed in before more is applied.
    pub(crate) fn await_applied(&mut self) {
        (self.limit, self.awaits_applied) = (None, true);
    }

    /// Runs may be handed in again.
    pub(crate) fn wake(&mut self) {
        self.awaits_applied = false;
    }

    /// Forgets everything under way.
    pub(crate) fn clear(&mut self) {
        // `next` stays, since a late verdict must fit no newer run; so does `pace`,
        // which is this machine's.
        self.run = None;
        self.limit = None;
        self.awaits_applied = false;
        self.examining.clear();
    }

    /// Renames the run and the examinations in their order, from 0 up. Returns the new names.
    pub(crate) fn renumber(&mut self) -> BTreeMap<RunId, RunId> {
        let runs = self.run.iter().map(|r| r.id);
        let mut runs: Vec<RunId> = runs.chain(self.examining.keys().copied()).collect();
        runs.sort_unstable();
        let names: BTreeMap<RunId, RunId> = runs
            .into_iter()
            .zip(0..)
            .map(|(old, n)| (old, RunId(n)))
            .collect();
        self.next = names.len() as u64;
        self.examining = std::mem::take(&mut self.examining)
            .into_iter()
            .map(|(old, copy)| (names[&old], copy))
            .collect();
        if let Some(run) = &mut self.run {
            run.id = names[&run.id];
        }
        names
    }

    /// Panics unless every height with the verifier belongs to the run under way.
    pub(crate) fn check(&self, verifying: impl Iterator<Item = (Height, RunId)>) {
        for (height, run) in verifying {
            let current = self.run.as_ref().map(|r| r.id);
            assert_eq!(Some(run), current, "{height}: with a run that is over");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use blocksync_types::ids::{ConnId, PeerId};

    const SOURCE: Source = Source {
        peer: PeerId([1; 20]),
        conn: ConnId(1),
    };

    fn begin(prover: &mut Prover, (from, to): (u64, u64), now: u64) -> RunId {
        let (from, to) = (Height::new(from), Height::new(to));
        let run = prover.begin((from, to), (to.next(), SOURCE), Height::ZERO, Tick(now));
        assert_eq!(run.is_single(), from == to);
        run.id()
    }

    /// The pace after ten blocks were proven in this time.
    fn pace(micros: u64) -> u64 {
        let mut prover = Prover::default();
        let run = begin(&mut prover, (1, 10), 7);
        assert!(prover.end(run, Tick(7 + micros)).is_some());
        prover.pace()
    }

    #[test]
    fn the_pace_is_what_fits_into_the_time_for_a_run() {
        assert_eq!(pace(1_000_000), 100);
        assert_eq!(pace(RUN_TIME), 10);
        assert_eq!(pace(u64::MAX - 7), 1, "one at least");
        // 10 blocks in 1525 us are 65 573 in the time for a run, and in 1526 us 65 530.
        assert_eq!(pace(1526), 65_530);
        assert_eq!(pace(1525), u64::MAX, "no run can use it up");
        assert_eq!(pace(0), u64::MAX);
        assert_eq!(Prover::default().pace(), u64::MAX);
        let mut longest = Prover::default();
        let run = begin(&mut longest, (1, LONGEST_RUN), 0);
        assert!(longest.end(run, Tick(RUN_TIME)).is_some());
        assert_eq!(longest.pace(), u64::MAX);
    }

    #[test]
    fn only_the_run_under_way_ends() {
        let mut prover = Prover::default();
        let run = begin(&mut prover, (1, 1), 0);
        assert!(!prover.is_ready() && prover.is_busy());
        assert!(prover.end(RunId(run.0 + 1), Tick(0)).is_none());
        let one = Height::new(1);
        assert_eq!(
            prover.under_way(Tick(PATIENCE - 1)),
            Some((one, one, false))
        );
        assert_eq!(prover.under_way(Tick(PATIENCE)), Some((one, one, true)));
        assert!(prover.end(run, Tick(1)).is_some());
        assert!(prover.is_ready() && !prover.is_busy());
        prover.set_limit(one);
        prover.await_applied();
        assert!(!prover.is_ready());
        assert_eq!(prover.limit(), None, "runs may be of any length then");
        prover.wake();
        assert!(prover.is_ready());
        prover.set_limit(one);
        prover.lift_limit();
        assert_eq!(prover.limit(), None);
    }

    #[test]
    fn names_are_new_until_all_are_renamed_from_0_up() {
        let mut prover = Prover::default();
        let first = begin(&mut prover, (1, 1), 0);
        prover.end(first, Tick(1));
        let look = prover.examine(Height::new(3), SOURCE);
        let run = begin(&mut prover, (1, 1), 0);
        assert_eq!((first, look, run), (RunId(0), RunId(1), RunId(2)));
        let names = prover.renumber();
        assert_eq!(names, BTreeMap::from([(look, RunId(0)), (run, RunId(1))]));
        assert_eq!(prover.examine(Height::new(4), SOURCE), RunId(2));
        assert_eq!(prover.examined(RunId(0)), Some((Height::new(3), SOURCE)));
        assert_eq!(prover.examined(RunId(0)), None, "it has ended");
        assert!(prover.end(RunId(1), Tick(2)).is_some());
        prover.clear();
        assert_eq!(prover.examined(RunId(2)), None, "forgotten");
    }
}
