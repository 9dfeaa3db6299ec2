//! Effects of time: overdue answers, statuses, the hedge of the lowest missing height, progress.

use super::Pool;
use super::io::{AskId, Effect, Input, Tick};
use blocksync_types::fault::Fault;
use blocksync_types::ids::{ConnId, Height};

/// A leap of the clock by more than this is a suspend, not silence.
const LEAP: u64 = 60_000_000;

/// Timers worked off in one turn. What is due beyond these is due at once: `next_deadline` has
/// passed.
const TURN: usize = 64;

/// From a peer's "no block" to the question what it has.
const SOON: u64 = 2_000_000;

/// Something that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Timer {
    /// A connection's oldest answer.
    Debt(ConnId),
    /// Asking a connection for its status.
    Status(ConnId),
    /// Those who are there do not wait any more for the statuses of the others.
    Settled,
    /// Looking at the whole again: stalls, patience with claims.
    Progress,
}

impl<B: Clone> Pool<B> {
    /// When `handle` wants to be called with `Input::Tick` at the latest.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Tick> {
        let timer = self.first_timer().map(|(at, _)| at);
        let hedge = self.hedge.map(|(at, _)| at);
        timer.into_iter().chain(hedge).min()
    }

    fn first_timer(&self) -> Option<(Tick, Timer)> {
        let round = self.rounds.first().map(|(at, id)| {
            let at = Tick(at.0.saturating_sub(self.haste()));
            (at, Timer::Status(*id))
        });
        self.timers.first().copied().into_iter().chain(round).min()
    }

    /// By how much status rounds come earlier at the tip. They are kept as they come while we are
    /// behind, so that the tip may be reached and left without a look at any of them.
    fn haste(&self) -> u64 {
        let (behind, at_tip) = (
            self.config.status_interval,
            self.config.status_interval_at_tip,
        );
        if self.said_caught_up() {
            behind.saturating_sub(at_tip)
        } else {
            0
        }
    }

    /// The connection's next status round is so far from now.
    pub(super) fn set_round(&mut self, id: ConnId, now: Tick, after: u64) {
        let at = now.0.saturating_add(after).saturating_add(self.haste());
        if let Some(conn) = self.conns.get_mut(&id) {
            self.rounds.remove(&(conn.round, id));
            conn.round = Tick(at);
            self.rounds.insert((conn.round, id));
        }
    }

    /// Time never runs backwards here; after a leap everybody gets one more round.
    pub(super) fn observe(&mut self, now: Tick) -> Tick {
        let now = now.max(self.last_now);
        if now.0 - self.last_now.0 > LEAP && self.first_up.is_some() {
            self.grace = Tick(now.0.saturating_add(self.config.request_timeout));
            self.last_progress = now;
        }
        self.last_now = now;
        now
    }

    pub(super) fn set_backpressure(&mut self, on: bool, now: Tick) {
        self.backpressure = on;
        if !on {
            self.grace = Tick(now.0.saturating_add(self.config.request_timeout));
        }
        self.last_progress = now;
    }

    /// Whether peers are judged now: not while we are the bottleneck, nor right after.
    fn judges(&self, now: Tick) -> bool {
        !self.backpressure && now >= self.grace
    }

    pub(super) fn set_overdue(&mut self, id: ConnId, overdue: Option<Tick>) {
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        if let Some(old) = std::mem::replace(&mut conn.overdue, overdue) {
            self.timers.remove(&(old, Timer::Debt(id)));
        }
        if let Some(at) = overdue {
            self.timers.insert((at, Timer::Debt(id)));
        }
    }

    pub(super) fn arm_progress(&mut self, now: Tick) {
        self.timers
            .insert((Tick(now.0.saturating_add(1_000_000)), Timer::Progress));
    }

    /// Bytes of a message that is not complete have come.
    pub(super) fn receiving(&mut self, id: ConnId, bytes: u32, now: Tick) {
        let floor = self.config.floor_rate.max(1);
        let timeout = self.config.request_timeout;
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        let more = bytes.saturating_sub(conn.partial);
        self.partial_bytes = self.partial_bytes - u64::from(conn.partial) + u64::from(bytes);
        conn.partial = bytes;
        conn.claim.earn(more, floor, timeout, now);
        if let Some(overdue) = conn.overdue {
            // A drip earns no more time than its bytes would take at the lowest rate that we bear.
            let earned = overdue
                .0
                .saturating_add(u64::from(more).saturating_mul(1_000_000) / floor);
            let until = Tick(overdue.0.max(earned.min(now.0.saturating_add(timeout))));
            self.set_overdue(id, Some(until));
        }
    }

    /// Answers of the connection cannot come while nobody reads it.
    pub(super) fn unread(&mut self, id: ConnId, now: Tick) {
        if let Some(overdue) = self.conns.get(&id).and_then(|c| c.overdue) {
            let later = now.0.saturating_add(self.config.request_timeout);
            self.set_overdue(id, Some(Tick(overdue.0.max(later))));
        }
    }

    /// Works off what is due, up to a turn of it.
    pub(super) fn expire(&mut self, now: Tick, out: &mut Vec<Effect<B>>) {
        for _ in 0..TURN {
            let Some((at, timer)) = self.first_timer().filter(|(at, _)| *at <= now) else {
                break;
            };
            self.timers.remove(&(at, timer));
            match timer {
                Timer::Debt(id) => match self.unread_until(id, now) {
                    Some(later) => self.set_overdue(id, Some(later)),
                    None => self.debt_due(id, now, out),
                },
                Timer::Status(id) => self.status_due(id, now, out),
                Timer::Settled => {} // the whole is looked at after every input
                Timer::Progress => self.arm_progress(now),
            }
        }
        if let Some((at, height)) = self.hedge
            && at <= now
        {
            self.hedge = None;
            self.hedge_now(height, now, out);
        }
    }

    fn status_due(&mut self, id: ConnId, now: Tick, out: &mut Vec<Effect<B>>) {
        let judges = self.judges(now) && self.reading.reads(id);
        let interval = if self.said_caught_up() {
            self.config.status_interval_at_tip
        } else {
            self.config.status_interval
        };
        let rounds = self.config.status_rounds;
        self.set_round(id, now, interval.max(1));
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        conn.debt /= 2;
        if !conn.has_status && judges {
            conn.mute_rounds += 1;
            if conn.mute_rounds > rounds {
                self.drop_conn(id, Fault::NoStatus, now, out);
                return;
            }
        }
        out.push(Effect::AskStatus { conn: id });
        self.refresh(id);
    }

    /// A peer that lacks what it claimed may have pruned: its status is asked for soon, but not at
    /// once, since until then the height is not asked of it again.
    pub(super) fn hasten_status(&mut self, id: ConnId, now: Tick) {
        let soon = now.0.saturating_add(SOON).saturating_add(self.haste());
        if self.conns.get(&id).is_some_and(|c| c.round > Tick(soon)) {
            self.set_round(id, now, SOON);
        }
    }

    /// Until when an answer that is overdue may take because we have not read the connection
    /// lately: it is read again since a moment, and this is looked at only when it would be judged.
    fn unread_until(&self, id: ConnId, now: Tick) -> Option<Tick> {
        let read = self.conns.get(&id)?.read_through;
        let again = self.read_again.filter(|again| Some(*again) != read)?;
        let until = Tick(again.0.saturating_add(self.config.request_timeout));
        (until > now).then_some(until)
    }

    /// It is read from now on, and was not.
    pub(super) fn give_time(&mut self, id: ConnId, now: Tick) {
        if self.conns.get(&id).is_some_and(|c| c.overdue.is_some()) {
            let until = now.0.saturating_add(self.config.request_timeout);
            self.set_overdue(id, Some(Tick(until)));
        }
    }

    /// An answer is overdue. Its heights are asked elsewhere; the peer is dropped, unless we are to
    /// blame or there is no other.
    pub(super) fn debt_due(&mut self, id: ConnId, now: Tick, out: &mut Vec<Effect<B>>) {
        let timeout = self.config.request_timeout;
        if self.conns.get(&id).is_none_or(|c| c.owed.is_empty()) {
            return;
        }
        if !self.judges(now) {
            let until = self.grace.0.max(now.0.saturating_add(timeout));
            self.set_overdue(id, Some(Tick(until)));
            return;
        }
        if !self.reading.reads(id) {
            // It is we who do not read.
            self.set_overdue(id, Some(Tick(now.0.saturating_add(timeout))));
            return;
        }
        if self.others_usable(id) {
            self.drop_conn(id, Fault::Timeout, now, out);
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
            self.heard = now;
        }
    }

    /// Nothing comes from a connection, not even its status. One that owes blocks is judged by
    /// these, one without a first status by the rounds in which it was asked. When nobody else was
    /// heard meanwhile either, it is rather we who are cut off, or it is the only peer: it gets as
    /// much time as rounds for a first status.
    pub(super) fn silent(&mut self, id: ConnId, micros: u64, now: Tick, out: &mut Vec<Effect<B>>) {
        let others = self.heard.0 > now.0.saturating_sub(micros);
        let rounds = if others {
            1
        } else {
            self.config.status_rounds.max(1)
        };
        let patience = self
            .config
            .request_timeout
            .saturating_mul(u64::from(rounds));
        let Some(conn) = self.conns.get(&id) else {
            return;
        };
        let idle = conn.has_status && conn.owed.is_empty() && self.reading.reads(id);
        if idle && micros >= patience && self.judges(now) {
            self.drop_conn(id, Fault::Timeout, now, out);
        }
    }

    /// An answer that was given up has come all the same: its sender is at work, and its other
    /// answers may wait behind this one.
    pub(super) fn note_life(&mut self, id: ConnId, now: Tick) {
        let timeout = self.config.request_timeout;
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        conn.last = now;
        if !conn.owed.is_empty() {
            let until = now.0.saturating_add(timeout << conn.patience.min(4));
            self.set_overdue(id, Some(Tick(until)));
        }
    }

    /// Does another connection have the next height, too?
    fn others_usable(&self, not: ConnId) -> bool {
        let next = self.missing.first().copied().unwrap_or(self.next());
        self.claiming(next)
            .any(|(id, c)| id != not && c.has(next) && !c.discredited)
    }

    /// The only peer that has what we need: its requests are made anew, with more time each round.
    fn be_patient(&mut self, id: ConnId, out: &mut Vec<Effect<B>>) {
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        conn.patience = (conn.patience + 1).min(4);
        let owed: Vec<_> = conn.owed.iter().map(|(h, a)| (*h, *a)).collect();
        for (height, ask) in owed {
            self.let_go(ask, height, out);
        }
    }

    /// The lowest missing height is hedged after a delay taken from observed latency.
    pub(super) fn arm_hedge(&mut self, now: Tick) {
        let Some(height) = self.missing.first().copied() else {
            self.hedge = None;
            return;
        };
        let last = self.slot(height).and_then(|s| s.asks.last());
        let Some(ask) = last.and_then(|ask| self.asks.get(ask)) else {
            self.hedge = None;
            return;
        };
        let latency = self
            .conns
            .get(&ask.conn)
            .and_then(|c| c.latency())
            .unwrap_or(0);
        let delay = latency
            .saturating_mul(3)
            .clamp(self.config.hedge_floor, self.config.hedge_ceiling);
        let tried = self.hedge_tried.filter(|(_, h)| *h == height);
        let again = tried.map_or(0, |(at, _)| at.0.saturating_add(self.config.hedge_ceiling));
        let at = ask
            .at
            .0
            .max(self.last_progress.0)
            .saturating_add(delay)
            .max(again);
        self.hedge = Some((Tick(at.max(now.0.saturating_add(1))), height));
    }

    pub(super) fn hedge_now(&mut self, height: Height, now: Tick, out: &mut Vec<Effect<B>>) {
        let Some(slot) = self.slot(height).filter(|s| s.is_missing()) else {
            return;
        };
        let Some(oldest) = slot.asks.first().copied() else {
            return;
        };
        let hedged = slot.asks.len() > 1;
        let first = self.asks.get(&oldest).map(|a| a.conn);
        if hedged && !first.is_some_and(|id| self.is_mute(id, height)) {
            // Both are at work.
            self.hedge_tried = Some((now, height));
            return;
        }
        if !self.may_hold(height, u32::try_from(self.estimate).unwrap_or(u32::MAX)) {
            // There is no room for the copy: it would be let go, and asked for again and again.
            self.hedge_tried = Some((now, height));
            return;
        }
        // A peer that was asked in vain already is not asked again in turn: its answer is on the
        // way, or never comes.
        let able = |(id, c): &(ConnId, &super::Conn)| {
            Some(*id) != first
                && c.may_be_asked(height)
                && !slot.refused.contains(id)
                && !(hedged && c.late.contains_key(&height))
        };
        let chosen = if hedged {
            None
        } else {
            self.choose(height, first)
        };
        let hedger = chosen.or_else(|| {
            // Nobody has room: the head is worth one more than the limit.
            let able = self.claiming(height).filter(able);
            able.min_by_key(|(id, c)| (c.class(), c.score(self.estimate), *id))
                .map(|(id, _)| id)
        });
        match hedger {
            Some(id) => {
                if hedged {
                    self.let_go(oldest, height, out);
                }
                self.ask_one(id, height, now, out);
            }
            // Nobody to hedge with: look again later, not at once.
            None => self.hedge_tried = Some((now, height)),
        }
        if let Some(first) = first {
            self.hedge_the_rest(first, height, now, out);
        }
    }

    /// One peer delays the head once, not once for each height that it owes: of a peer that has
    /// said nothing since it was asked, the other heights are asked elsewhere, too, as far as
    /// others have room.
    fn hedge_the_rest(&mut self, of: ConnId, head: Height, now: Tick, out: &mut Vec<Effect<B>>) {
        if !self.is_mute(of, head) {
            return;
        }
        let Some(conn) = self.conns.get_mut(&of) else {
            return;
        };
        conn.struck = true;
        let rest: Vec<Height> = conn.owed.keys().copied().filter(|h| *h > head).collect();
        for height in rest {
            if self.ready.is_empty() || !self.admits(height) {
                return;
            }
            let single = self
                .slot(height)
                .is_some_and(|s| s.is_missing() && s.asks.len() == 1);
            if single && let Some(id) = self.choose(height, Some(of)) {
                self.ask_one(id, height, now, out);
            }
        }
        self.refresh(of);
    }

    /// Owes this height, and has said nothing since it was asked.
    fn is_mute(&self, id: ConnId, height: Height) -> bool {
        let conn = self.conns.get(&id);
        conn.is_some_and(|c| {
            let ask = c.owed.get(&height).and_then(|ask| self.asks.get(ask));
            ask.is_some_and(|ask| c.last <= ask.at)
        })
    }

    /// Gives up one open request of a height that somebody else is asked for instead.
    fn let_go(&mut self, ask: AskId, height: Height, out: &mut Vec<Effect<B>>) {
        if self.give_up_ask(ask, height) {
            out.push(Effect::Cancel { ask });
        }
    }
}
