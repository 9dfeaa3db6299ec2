//! Effects of time: overdue answers, statuses, the hedge of the lowest missing height, progress.

use super::Pool;
use super::deadlines::Timer;
use super::io::{Effect, Input, Tick};
use blocksync_types::fault::{CloseReason, Overdue};
use blocksync_types::ids::ConnId;

/// Timers worked off in one turn. Further timers that are due stay due at once:
/// `next_deadline` has passed.
const TURN: usize = 64;

/// From a peer's "no block" to the question what it has.
const SOON: u64 = 2_000_000;

impl<B: Clone> Pool<B> {
    /// When `handle` wants to be called with `Input::Tick` at the latest.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Tick> {
        let timer = self.deadlines.first(self.haste()).map(|(at, _)| at);
        let hedge = self.deadlines.hedge().map(|(at, _)| at);
        timer.into_iter().chain(hedge).min()
    }

    /// By how much status polls come earlier at the tip. They are kept as they come while we are
    /// behind, so that the tip may be reached and left without a look at any of them.
    fn haste(&self) -> u64 {
        let (behind, at_tip) = (
            self.config.status_interval,
            self.config.status_interval_at_tip,
        );
        if self.tip.said_caught_up() {
            behind.saturating_sub(at_tip)
        } else {
            0
        }
    }

    /// The connection's next status poll is so far from now.
    pub(super) fn poll_after(&mut self, id: ConnId, now: Tick, after: u64) {
        let at = now.0.saturating_add(after).saturating_add(self.haste());
        self.deadlines.set_poll(id, Tick(at));
    }

    /// Time never runs backwards here; after a leap everybody gets one more round.
    pub(super) fn observe(&mut self, now: Tick) -> Tick {
        let (now, leapt) = self.deadlines.observe(now);
        if leapt && self.tip.first_up().is_some() {
            self.deadlines.grant_grace(now, self.config.request_timeout);
            // The time for which this machine slept is no stall.
            self.tip.progress(now);
        }
        now
    }

    pub(super) fn set_backpressure(&mut self, on: bool, now: Tick) {
        self.deadlines.set_backpressure(on);
        if !on {
            self.deadlines.grant_grace(now, self.config.request_timeout);
        }
        // The time in which we were the bottleneck is no stall.
        self.tip.progress(now);
    }

    /// Bytes of a message that is not complete have come.
    pub(super) fn receiving(&mut self, id: ConnId, bytes: u32, now: Tick) {
        // A configured 0 would be divided by.
        let floor = self.config.floor_rate.max(1);
        let timeout = self.config.request_timeout;
        let more = self.peers.receive(id, bytes, now, |claim, more| {
            claim.earn(more, floor, timeout, now);
        });
        // A drip earns no more time than its bytes would take at the lowest rate that we bear.
        let earned = u64::from(more).saturating_mul(1_000_000) / floor;
        let most = now.0.saturating_add(timeout);
        self.deadlines
            .postpone(id, |at| at.max(Tick(at.0.saturating_add(earned).min(most))));
    }

    /// Answers of the connection cannot come while nobody reads it.
    pub(super) fn unread(&mut self, id: ConnId, now: Tick) {
        let later = Tick(now.0.saturating_add(self.config.request_timeout));
        self.deadlines.postpone(id, |at| at.max(later));
    }

    /// Works off what is due, up to a turn of it.
    pub(super) fn expire(&mut self, now: Tick, out: &mut Vec<Effect<B>>) {
        let haste = self.haste();
        // Timers beyond a turn stay due and come with the next input, so that no burst of them
        // holds the reactor.
        for _ in 0..TURN {
            let Some(timer) = self.deadlines.take_due(now, haste) else {
                break;
            };
            match timer {
                Timer::Debt(id) => match self.unread_until(id, now) {
                    Some(later) => self.deadlines.set_overdue(id, Some(later)),
                    None => self.debt_due(id, now, out),
                },
                Timer::Status(id) => self.status_due(id, now, out),
                Timer::Settled => {} // the whole is looked at after every input
                Timer::Progress => {
                    self.deadlines.arm_progress(now);
                    self.end_doubted(now);
                    self.ask_claimants(now, out);
                }
            }
        }
        // After the debts: the heights of a peer that was just dropped are asked for anew, and need
        // no hedge.
        if let Some((at, height)) = self.deadlines.hedge()
            && at <= now
        {
            self.deadlines.set_hedge(None);
            self.asking().hedge(height, now, out);
        }
    }

    fn status_due(&mut self, id: ConnId, now: Tick, out: &mut Vec<Effect<B>>) {
        // A poll is not missed where we were late ourselves, or do not read the connection.
        let judges = self.deadlines.judges(now) && self.budget.reads(id);
        let interval = if self.tip.said_caught_up() {
            self.config.status_interval_at_tip
        } else {
            self.config.status_interval
        };
        // With 0 it would be due again in this very turn.
        self.poll_after(id, now, interval.max(1));
        let missed = self.peers.update(id, self.budget.estimate(), |peer| {
            peer.forgive_half();
            if !peer.has_status() && judges {
                peer.miss_poll()
            } else {
                0
            }
        });
        match missed {
            Some(missed) if missed > self.config.status_rounds => {
                self.drop_conn(id, CloseReason::Overdue(Overdue::Status), now, out);
            }
            Some(_) => out.push(Effect::AskStatus { conn: id }),
            None => {}
        }
    }

    /// A peer that lacks what it claimed may have pruned: its status is asked for soon, but not at
    /// once, since until then the height is not asked of it again.
    pub(super) fn hasten_status(&mut self, id: ConnId, now: Tick) {
        let soon = now.0.saturating_add(SOON).saturating_add(self.haste());
        let poll = self.deadlines.poll_of(id);
        if poll.is_some_and(|at| at > Tick(soon)) {
            self.poll_after(id, now, SOON);
        }
    }

    /// Until when an answer that is overdue may take because we have not read the connection
    /// lately: it is read again since a moment, and this is looked at only when it would be judged.
    fn unread_until(&self, id: ConnId, now: Tick) -> Option<Tick> {
        let again = self.budget.read_again(id)?;
        let until = Tick(again.0.saturating_add(self.config.request_timeout));
        (until > now).then_some(until)
    }

    /// It is read from now on, and was not.
    pub(super) fn give_time(&mut self, id: ConnId, now: Tick) {
        let later = Tick(now.0.saturating_add(self.config.request_timeout));
        self.deadlines.postpone(id, |_| later);
    }

    /// An answer is overdue. Its heights are asked elsewhere; the peer is dropped, unless we are to
    /// blame or there is no other.
    pub(super) fn debt_due(&mut self, id: ConnId, now: Tick, out: &mut Vec<Effect<B>>) {
        let timeout = self.config.request_timeout;
        if self.peers.get(id).is_none_or(|peer| !peer.is_in_debt()) {
            return;
        }
        let later = now.0.saturating_add(timeout);
        if !self.deadlines.judges(now) {
            let until = self.deadlines.grace().0.max(later);
            self.deadlines.set_overdue(id, Some(Tick(until)));
        } else if !self.budget.reads(id) {
            // It is we who do not read.
            self.deadlines.set_overdue(id, Some(Tick(later)));
        } else if self.others_usable(id) {
            self.drop_conn(id, CloseReason::Overdue(Overdue::Answer), now, out);
        } else {
            self.be_patient(id, out);
        }
    }

    /// Notes when something came from a peer.
    pub(super) fn listen(&mut self, input: &Input<B>, now: Tick) {
        if let Input::Status { .. }
        | Input::Receiving { .. }
        | Input::Block { .. }
        | Input::NoBlock { .. } = input
        {
            self.deadlines.hear(now);
        }
    }

    /// Nothing comes from a connection, not even its status. One that owes blocks is judged by
    /// these, one without a first status by the polls in which it was asked. When nobody else was
    /// heard meanwhile either, it is rather we who are cut off, or it is the only peer: it gets as
    /// much time as polls for a first status.
    pub(super) fn silent(&mut self, id: ConnId, micros: u64, now: Tick, out: &mut Vec<Effect<B>>) {
        let others = self.deadlines.heard().0 > now.0.saturating_sub(micros);
        let polls = if others {
            1
        } else {
            self.config.status_rounds.max(1)
        };
        let patience = self.config.request_timeout.saturating_mul(u64::from(polls));
        let Some(peer) = self.peers.get(id) else {
            return;
        };
        let idle = peer.has_status() && !peer.is_in_debt() && self.budget.reads(id);
        if idle && micros >= patience && self.deadlines.judges(now) {
            self.drop_conn(id, CloseReason::Overdue(Overdue::Answer), now, out);
        }
    }

    /// Whether another connection has the next height, too.
    fn others_usable(&self, not: ConnId) -> bool {
        let next = self.window.needed();
        self.peers
            .claiming(next)
            .any(|(id, peer)| id != not && peer.has(next) && !peer.is_discredited())
    }

    /// The only peer that has what we need: its requests are made anew, with more time each round.
    fn be_patient(&mut self, id: ConnId, out: &mut Vec<Effect<B>>) {
        let owed = self.peers.update(id, self.budget.estimate(), |peer| {
            peer.be_patient();
            peer.owed().clone()
        });
        for (height, ask) in owed.into_iter().flatten() {
            self.asking().let_go(ask, height, out);
        }
        // Where nothing was open any more, nothing is waited for until it is asked again.
        self.deadlines.set_overdue(id, None);
    }
}
