//! The clock as the pool sees it, and what is due when.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use super::io::Tick;
use blocksync_types::ids::{ConnId, Height};

/// A leap of the clock by more than this is a suspend, not silence.
const LEAP: u64 = 60_000_000;

/// Time between two looks at the whole.
const PROGRESS: u64 = 1_000_000;

/// Something that is due at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
pub(crate) enum Timer {
    /// A connection's oldest answer.
    Debt(ConnId),
    /// Asking a connection for its status.
    Status(ConnId),
    /// The peers that are there do not wait any more for the statuses of the others.
    Settled,
    /// Looking at the whole again: stalls, patience with claims.
    Progress,
}

/// When a connection's debt is overdue, and when its timer stands: then or earlier.
///
/// Each answer moves the deadline, and few are ever reached: the timer is moved only when it comes
/// first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
struct Debt {
    due: Tick,
    armed: Tick,
}

impl Debt {
    /// Sets the time at which it is overdue. Only an earlier one moves the timer.
    fn put_off(&mut self, id: ConnId, due: Tick, timers: &mut BTreeSet<(Tick, Timer)>) {
        self.due = due;
        if due < self.armed {
            timers.remove(&(self.armed, Timer::Debt(id)));
            timers.insert((due, Timer::Debt(id)));
            self.armed = due;
        }
    }
}

/// Timers, the hedge, and whether peers are judged. Bounded by two entries for each connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Deadlines {
    timers: BTreeSet<(Tick, Timer)>,
    /// When each connection's debt is overdue; set exactly while it is in debt.
    debts: BTreeMap<ConnId, Debt>,
    /// When each connection is asked for its status, were we behind.
    status_polls: BTreeSet<(Tick, ConnId)>,
    poll_of: BTreeMap<ConnId, Tick>,
    /// When the lowest missing height is hedged, and which that is.
    hedge: Option<(Tick, Height)>,
    /// When somebody was last looked for in vain to hedge a height with.
    hedge_tried: Option<(Tick, Height)>,
    last_now: Tick,
    /// When anything last came from anybody.
    heard: Tick,
    /// No peer is judged before this.
    grace: Tick,
    backpressure: bool,
}

impl Deadlines {
    /// Nothing is due but a look at the whole.
    pub(crate) fn new(now: Tick) -> Self {
        let mut deadlines = Deadlines {
            timers: BTreeSet::new(),
            debts: BTreeMap::new(),
            status_polls: BTreeSet::new(),
            poll_of: BTreeMap::new(),
            hedge: None,
            hedge_tried: None,
            last_now: now,
            heard: now,
            grace: now,
            backpressure: false,
        };
        deadlines.arm_progress(now);
        deadlines
    }

    /// The time of the last input.
    pub(crate) fn now(&self) -> Tick {
        self.last_now
    }

    /// Takes the time of an input; it never runs backwards here. The flag says whether it has
    /// leapt.
    pub(crate) fn observe(&mut self, now: Tick) -> (Tick, bool) {
        // Raised first, so that the difference below cannot wrap.
        let now = now.max(self.last_now);
        let leapt = now.0 - self.last_now.0 > LEAP;
        self.last_now = now;
        (now, leapt)
    }

    /// When anything last came from anybody.
    pub(crate) fn heard(&self) -> Tick {
        self.heard
    }

    /// Something came from a peer.
    pub(crate) fn hear(&mut self, now: Tick) {
        self.heard = now;
    }

    /// No peer is judged before this.
    pub(crate) fn grace(&self) -> Tick {
        self.grace
    }

    /// No peer is judged for this long.
    pub(crate) fn grant_grace(&mut self, now: Tick, micros: u64) {
        self.grace = Tick(now.0.saturating_add(micros));
    }

    /// Whether we are the bottleneck.
    pub(crate) fn has_backpressure(&self) -> bool {
        self.backpressure
    }

    /// We are the bottleneck, or no longer.
    pub(crate) fn set_backpressure(&mut self, on: bool) {
        self.backpressure = on;
    }

    /// Whether peers are judged now: not while we are the bottleneck, nor right after.
    pub(crate) fn judges(&self, now: Tick) -> bool {
        !self.backpressure && now >= self.grace
    }

    /// Sets or clears the time at which a connection's debt is overdue.
    pub(crate) fn set_overdue(&mut self, id: ConnId, overdue: Option<Tick>) {
        let Some(due) = overdue else {
            if let Some(debt) = self.debts.remove(&id) {
                self.timers.remove(&(debt.armed, Timer::Debt(id)));
            }
            return;
        };
        match self.debts.entry(id) {
            Entry::Vacant(entry) => {
                entry.insert(Debt { due, armed: due });
                self.timers.insert((due, Timer::Debt(id)));
            }
            Entry::Occupied(mut entry) => entry.get_mut().put_off(id, due, &mut self.timers),
        }
    }

    /// Moves the time at which a connection's debt is overdue, if it owes something.
    pub(crate) fn postpone(&mut self, id: ConnId, later: impl FnOnce(Tick) -> Tick) {
        if let Some(debt) = self.debts.get_mut(&id) {
            let due = later(debt.due);
            debt.put_off(id, due, &mut self.timers);
        }
    }

    /// Moves the timers of debts that stand first, and earlier than they are due, to where they
    /// belong. Each was put off by an input since it was last moved.
    pub(crate) fn settle_first(&mut self) {
        while let Some((at, Timer::Debt(id))) = self.timers.first().copied()
            && let Some(debt) = self.debts.get_mut(&id)
            && debt.due > at
        {
            debt.armed = debt.due;
            self.timers.pop_first();
            self.timers.insert((debt.due, Timer::Debt(id)));
        }
    }

    /// When a connection is next asked for its status, were we behind.
    pub(crate) fn poll_of(&self, id: ConnId) -> Option<Tick> {
        self.poll_of.get(&id).copied()
    }

    /// Sets the time at which a connection is next asked for its status, were we behind.
    pub(crate) fn set_poll(&mut self, id: ConnId, at: Tick) {
        // The set is ordered by time: an entry of another time would stay beside the new one.
        if let Some(old) = self.poll_of.insert(id, at) {
            self.status_polls.remove(&(old, id));
        }
        self.status_polls.insert((at, id));
    }

    /// Forgets a connection.
    pub(crate) fn forget(&mut self, id: ConnId) {
        self.set_overdue(id, None);
        if let Some(old) = self.poll_of.remove(&id) {
            self.status_polls.remove(&(old, id));
        }
    }

    /// At this time the peers that are there do not wait for others any more.
    pub(crate) fn arm_settled(&mut self, at: Tick) {
        self.timers.insert((at, Timer::Settled));
    }

    /// The whole is looked at again in a while.
    pub(crate) fn arm_progress(&mut self, now: Tick) {
        let at = Tick(now.0.saturating_add(PROGRESS));
        self.timers.insert((at, Timer::Progress));
    }

    /// The first timer, with status polls earlier by `haste`; exact after `settle_first`.
    pub(crate) fn first(&self, haste: u64) -> Option<(Tick, Timer)> {
        let poll = self.status_polls.first().map(|(at, id)| {
            let at = Tick(at.0.saturating_sub(haste));
            (at, Timer::Status(*id))
        });
        self.timers.first().copied().into_iter().chain(poll).min()
    }

    /// Takes the first timer if it is due. The deadline of a debt has to be set anew while it
    /// lasts; that of a status poll stays until then.
    pub(crate) fn take_due(&mut self, now: Tick, haste: u64) -> Option<Timer> {
        loop {
            let (at, timer) = self.first(haste).filter(|(at, _)| *at <= now)?;
            self.timers.remove(&(at, timer));
            // An answer may have put the debt off since its timer was set: then nothing is overdue.
            if let Timer::Debt(id) = timer
                && let Some(debt) = self.debts.remove(&id)
                && debt.due > at
            {
                self.set_overdue(id, Some(debt.due));
                continue;
            }
            return Some(timer);
        }
    }

    /// When the lowest missing height is hedged, and which that is.
    pub(crate) fn hedge(&self) -> Option<(Tick, Height)> {
        self.hedge
    }

    /// Sets or clears the hedge.
    pub(crate) fn set_hedge(&mut self, hedge: Option<(Tick, Height)>) {
        self.hedge = hedge;
    }

    /// Takes the hedge, whether it is due or not.
    pub(crate) fn take_hedge(&mut self) -> Option<Height> {
        self.hedge.take().map(|(_, height)| height)
    }

    /// When somebody was last looked for in vain to hedge this height with.
    pub(crate) fn hedge_tried(&self, height: Height) -> Option<Tick> {
        // For another height others may be there, so the search says nothing about that.
        let tried = self.hedge_tried.filter(|(_, tried)| *tried == height);
        tried.map(|(at, _)| at)
    }

    /// Nobody was found to hedge this height with.
    pub(crate) fn set_hedge_tried(&mut self, now: Tick, height: Height) {
        self.hedge_tried = Some((now, height));
    }

    /// Nothing is due any more.
    pub(crate) fn clear(&mut self) {
        self.timers.clear();
        self.debts.clear();
        self.status_polls.clear();
        self.poll_of.clear();
        self.hedge = None;
    }

    /// Panics when an invariant is broken. `owing` are the connections, each with whether it is in
    /// debt.
    pub(crate) fn check(&self, owing: impl Iterator<Item = (ConnId, bool)>) {
        let mut conns = 0;
        for (id, in_debt) in owing {
            conns += 1;
            assert_eq!(
                self.debts.contains_key(&id),
                in_debt,
                "a deadline exactly while an answer is waited for"
            );
            assert!(self.poll_of.contains_key(&id), "{id}: never polled");
        }
        assert_eq!(
            self.poll_of.len(),
            conns,
            "polls of connections that are gone"
        );
        assert!(
            self.debts.len() <= conns,
            "debts of connections that are gone"
        );
        let polls: BTreeSet<_> = self.poll_of.iter().map(|(id, at)| (*at, *id)).collect();
        assert_eq!(polls, self.status_polls, "status polls");
        for (id, debt) in &self.debts {
            assert!(debt.armed <= debt.due, "{id}: its timer comes too late");
            assert!(self.timers.contains(&(debt.armed, Timer::Debt(*id))));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ConnId = ConnId(1);
    const B: ConnId = ConnId(2);

    fn deadlines() -> Deadlines {
        Deadlines::new(Tick(0))
    }

    #[test]
    fn time_never_runs_backwards_and_a_leap_is_told() {
        let mut deadlines = deadlines();
        assert_eq!(deadlines.observe(Tick(LEAP)), (Tick(LEAP), false));
        assert_eq!(deadlines.observe(Tick(5)), (Tick(LEAP), false));
        assert_eq!(
            deadlines.observe(Tick(2 * LEAP + 1)),
            (Tick(2 * LEAP + 1), true)
        );
        assert_eq!(deadlines.now(), Tick(2 * LEAP + 1));
    }

    #[test]
    fn nobody_is_judged_in_a_time_of_grace_or_while_we_are_the_bottleneck() {
        let mut deadlines = deadlines();
        deadlines.grant_grace(Tick(5), 10);
        assert!(!deadlines.judges(Tick(14)) && deadlines.judges(Tick(15)));
        deadlines.set_backpressure(true);
        assert!(!deadlines.judges(Tick(15)) && deadlines.has_backpressure());
        deadlines.set_backpressure(false);
        assert!(deadlines.judges(Tick(15)));
        deadlines.hear(Tick(7));
        assert_eq!((deadlines.heard(), deadlines.grace()), (Tick(7), Tick(15)));
    }

    #[test]
    fn a_debt_is_due_when_it_was_last_put_off_to() {
        let mut deadlines = deadlines();
        deadlines.set_overdue(A, Some(Tick(10)));
        deadlines.set_overdue(B, Some(Tick(20)));
        deadlines.set_overdue(A, Some(Tick(30)));
        deadlines.postpone(B, |due| Tick(due.0 - 5));
        deadlines.postpone(ConnId(9), |_| Tick(1));
        deadlines.settle_first();
        assert_eq!(deadlines.first(0), Some((Tick(15), Timer::Debt(B))));
        assert_eq!(deadlines.take_due(Tick(14), 0), None);
        assert_eq!(deadlines.take_due(Tick(15), 0), Some(Timer::Debt(B)));
        assert_eq!(deadlines.take_due(Tick(29), 0), None);
        assert_eq!(deadlines.take_due(Tick(30), 0), Some(Timer::Debt(A)));
        deadlines.set_overdue(A, Some(Tick(40)));
        deadlines.set_overdue(A, None);
        assert_eq!(deadlines.take_due(Tick(40), 0), None);
    }

    #[test]
    fn a_timer_that_comes_before_its_debt_is_moved() {
        // Without `settle_first` in between, as when several are due at once.
        let mut deadlines = deadlines();
        deadlines.set_overdue(A, Some(Tick(10)));
        deadlines.postpone(A, |_| Tick(50));
        assert_eq!(deadlines.first(0), Some((Tick(10), Timer::Debt(A))));
        assert_eq!(deadlines.take_due(Tick(20), 0), None);
        assert_eq!(deadlines.first(0), Some((Tick(50), Timer::Debt(A))));
        assert_eq!(deadlines.take_due(Tick(50), 0), Some(Timer::Debt(A)));
    }

    #[test]
    fn polls_stand_until_they_are_moved_and_come_earlier_in_haste() {
        let mut deadlines = deadlines();
        deadlines.set_poll(A, Tick(100));
        deadlines.set_poll(A, Tick(200));
        deadlines.set_poll(B, Tick(300));
        assert_eq!(deadlines.poll_of(A), Some(Tick(200)));
        assert_eq!(deadlines.first(150), Some((Tick(50), Timer::Status(A))));
        assert_eq!(deadlines.take_due(Tick(199), 0), None);
        for _ in 0..2 {
            assert_eq!(deadlines.take_due(Tick(200), 0), Some(Timer::Status(A)));
        }
        deadlines.forget(A);
        assert_eq!(deadlines.poll_of(A), None);
        assert_eq!(deadlines.first(0), Some((Tick(300), Timer::Status(B))));
        deadlines.arm_settled(Tick(250));
        assert_eq!(deadlines.take_due(Tick(250), 0), Some(Timer::Settled));
        assert_eq!(deadlines.take_due(Tick(299), 0), None, "once");
    }

    #[test]
    fn the_whole_is_looked_at_each_second() {
        let mut deadlines = deadlines();
        assert_eq!(deadlines.take_due(Tick(PROGRESS - 1), 0), None);
        assert_eq!(deadlines.take_due(Tick(PROGRESS), 0), Some(Timer::Progress));
        deadlines.arm_progress(Tick(PROGRESS));
        assert_eq!(
            deadlines.first(0),
            Some((Tick(2 * PROGRESS), Timer::Progress))
        );
        deadlines.clear();
        assert_eq!(deadlines.first(0), None);
    }

    #[test]
    fn a_hedge_is_taken_once_and_a_trial_in_vain_is_of_one_height() {
        let (mut deadlines, height) = (deadlines(), Height::new(7));
        deadlines.set_hedge(Some((Tick(5), height)));
        assert_eq!(deadlines.hedge(), Some((Tick(5), height)));
        assert_eq!(deadlines.take_hedge(), Some(height));
        assert_eq!(deadlines.take_hedge(), None);
        deadlines.set_hedge_tried(Tick(6), height);
        assert_eq!(deadlines.hedge_tried(height), Some(Tick(6)));
        assert_eq!(deadlines.hedge_tried(height.next()), None);
    }
}
