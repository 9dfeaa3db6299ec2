//! The scheduler: a pure state machine that decides what is asked of whom, what is proven, what is
//! applied, and who is to blame.
//!
//! The same code runs in production, in the model checker, in the simulator and in the fuzzer: no
//! clock, no randomness, no I/O, no hash order. Same inputs, same effects.
//!
//! # Life of a height
//! `Wanted` → asked (one request, perhaps a hedge) → `Held` (one or two unequal copies) →
//! `Verifying` → `Verified` → `Applying` → gone. It moves right, or back to `Held` or `Wanted` by a
//! verdict. `slot` has the record, `choose` the requests, `prove` the runs and verdicts, `blame`
//! what follows for a peer, `timers` what time does, `outcome` what is said of the whole, `check`
//! what must always hold.
//!
//! # Cost
//! An input costs O(log n) amortised, n the connections and the heights of the window; only `Stop`
//! and `Resume`, once each, cost O(n). What might cost more, and why it does not:
//! * What concerns every connection is said once: `Effect::Read` names the few that are read over
//!   the byte budget, the tip changes what the times of status rounds mean (`timers`), and who was
//!   not read gets more time when its answer would be judged.
//! * No search looks at more than `choose::TRIES` connections in one order, and none at the heights
//!   that a connection lacks beyond `MAX_LACKS`.
//! * Timers are worked off in turns of a bounded number; each was armed by an input or by its own
//!   last turn.
//! * A height is opened, proven and applied once, but for what a convicted supplier undoes. It is
//!   parked once for each time that it was opened or given back, and brought back once for each
//!   unit of room that a connection gains; a connection that leaves takes what it owed along, and
//!   each of these was an ask.
//! * That nobody's first block fits our genesis is looked for among those who claim it and have not
//!   given one.
//!
//! `benches/pool.rs` measures it from 50 to 10 000 connections.
//!
//! # Terms
//! *frontier*: the lowest height not proven. *carrier*: the copy one height above a run, whose last
//! commit proves it. *owed*: asked of a connection and not answered. *late*: owed once, given up,
//! and still no fault when it comes.

mod blame;
mod check;
mod choose;
mod claims;
mod config;
mod conn;
mod io;
mod outcome;
mod prove;
mod renumber;
mod slot;
mod timers;
mod view;
mod window;

#[cfg(test)]
mod crowd_tests;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

pub use config::PoolConfig;
pub use io::*;
pub use renumber::Renumbered;
pub use view::PeerView;

use blame::Record;
use blocksync_types::fault::Fault;
use blocksync_types::ids::{BlockId, ConnId, Height, PeerId, Source};
use claims::Evidence;
use conn::{Conn, Place};
use slot::{MAX_COPIES, Slot, Stage};
use timers::Timer;

/// An open request: heights `from` up, of which some may have been answered.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Ask {
    conn: ConnId,
    at: Tick,
    /// Heights of it that are still owed.
    open: u32,
    from: Height,
    count: u32,
}

/// A run with the verifier.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Run {
    id: RunId,
    from: Height,
    to: Height,
    /// Supplier of the commit, and the height of the copy that holds it.
    carrier: (Height, Source),
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pool<B> {
    config: PoolConfig,
    initial: Height,
    /// Applied and durable.
    applied: Height,
    /// Applied, or proven and linked to it.
    proven: Height,
    /// The id at `proven`; unknown right after start.
    proven_id: Option<BlockId>,
    /// From `next()` up.
    slots: VecDeque<Slot<B>>,
    /// Missing heights that may be asked of somebody with room.
    wanted: BTreeSet<Height>,
    /// Missing heights that nobody with room has.
    parked: BTreeSet<Height>,
    /// Heights without a copy, asked or not.
    missing: BTreeSet<Height>,
    conns: BTreeMap<ConnId, Conn>,
    by_peer: BTreeMap<PeerId, ConnId>,
    /// Connections with room, best first.
    ready: BTreeSet<(Place, ConnId)>,
    /// Those of them that lack nothing of what they claim, and whose base is not above us, by their
    /// claim.
    roomy: BTreeSet<(Height, ConnId)>,
    /// Connections that may have something for parked heights.
    gained: BTreeSet<ConnId>,
    asks: BTreeMap<AskId, Ask>,
    next_ask: u64,
    next_run: u64,
    run: Option<Run>,
    /// Examinations under way, with the copy's height and supplier.
    examining: BTreeMap<RunId, (Height, Source)>,
    /// The verifier wants runs to end here or below, until something is certified.
    run_limit: Option<Height>,
    /// The verifier cannot judge before more is applied.
    await_applied: bool,
    applying: u32,
    held_bytes: u64,
    partial_bytes: u64,
    /// Heights owed by all connections.
    owed: u64,
    /// Smoothed size of a block, leaning to the larger.
    estimate: u64,
    over_budget: bool,
    /// Which connections are read.
    reading: Reading,
    /// When all were read again after a time over the budget.
    read_again: Option<Tick>,
    budget_blocked: bool,
    timers: BTreeSet<(Tick, Timer)>,
    /// When each connection is asked for its status, were we behind.
    rounds: BTreeSet<(Tick, ConnId)>,
    /// The hedge timer's height and time.
    hedge: Option<(Tick, Height)>,
    /// When somebody was last looked for in vain to hedge a height with.
    hedge_tried: Option<(Tick, Height)>,
    records: BTreeMap<PeerId, Record>,
    expiries: BTreeSet<(Tick, PeerId)>,
    /// Claims that count, of connections whose base is not above us.
    counted: BTreeSet<(Height, ConnId)>,
    /// Claims that are doubted.
    doubted: BTreeSet<(Height, ConnId)>,
    /// Since when everything but open claims says that we have caught up.
    evidence: Evidence,
    /// Configured peers that are being dialled or in their handshake.
    expected: u32,
    /// The configured peers, once they were told; strangers are all others.
    configured: Option<BTreeSet<PeerId>>,
    /// Claims of the peers, taken at their word.
    faces: BTreeMap<Height, u32>,
    /// Claims with a base above us: they count once we are there.
    above_us: BTreeSet<(Height, ConnId)>,
    /// Connections whose base is not above us, by their claim, nodes of ours apart.
    tall: BTreeSet<(Height, bool, ConnId)>,
    statuses: u32,
    /// When the first peer came, or came after nobody had been there for a while.
    first_up: Option<Tick>,
    /// Since when nobody is there.
    empty_since: Option<Tick>,
    last_progress: Tick,
    unusable_since: Option<Tick>,
    last_now: Tick,
    /// When anything last came from anybody.
    heard: Tick,
    /// No peer is judged before this.
    grace: Tick,
    backpressure: bool,
    /// Nothing is asked for, nor said: see `Input::Pause`.
    paused: bool,
    fatal: Option<Outcome>,
    said: Option<Outcome>,
}

impl<B: Clone> Pool<B> {
    /// A pool above this applied height of a chain whose first block has height `initial`.
    #[must_use]
    pub fn new(config: PoolConfig, applied: Height, initial: Height, now: Tick) -> Self {
        let estimate = u64::from(config.first_estimate_bytes);
        let applied = applied.max(initial.prev());
        let mut pool = Pool {
            config,
            initial,
            applied,
            proven: applied,
            proven_id: None,
            slots: VecDeque::new(),
            wanted: BTreeSet::new(),
            parked: BTreeSet::new(),
            missing: BTreeSet::new(),
            conns: BTreeMap::new(),
            by_peer: BTreeMap::new(),
            ready: BTreeSet::new(),
            roomy: BTreeSet::new(),
            gained: BTreeSet::new(),
            asks: BTreeMap::new(),
            next_ask: 0,
            next_run: 0,
            run: None,
            examining: BTreeMap::new(),
            run_limit: None,
            await_applied: false,
            applying: 0,
            held_bytes: 0,
            partial_bytes: 0,
            owed: 0,
            estimate,
            over_budget: false,
            reading: Reading::All,
            read_again: None,
            budget_blocked: false,
            timers: BTreeSet::new(),
            rounds: BTreeSet::new(),
            hedge: None,
            hedge_tried: None,
            records: BTreeMap::new(),
            expiries: BTreeSet::new(),
            counted: BTreeSet::new(),
            doubted: BTreeSet::new(),
            evidence: Evidence::default(),
            expected: 0,
            configured: None,
            faces: BTreeMap::new(),
            above_us: BTreeSet::new(),
            tall: BTreeSet::new(),
            statuses: 0,
            first_up: None,
            empty_since: None,
            last_progress: now,
            unusable_since: Some(now),
            last_now: now,
            heard: now,
            grace: now,
            backpressure: false,
            paused: false,
            fatal: None,
            said: None,
        };
        pool.arm_progress(now);
        pool
    }

    /// Takes an input and appends what is to be done. Never returns while a wanted height could be
    /// asked of an eligible peer within budget.
    pub fn handle(&mut self, input: Input<B>, now: Tick, out: &mut Vec<Effect<B>>) {
        let now = self.observe(now);
        if matches!(self.fatal, Some(Outcome::Stopped)) {
            return;
        }
        self.take(input, now, out);
        self.settle_all(now, out);
    }

    fn take(&mut self, input: Input<B>, now: Tick, out: &mut Vec<Effect<B>>) {
        self.listen(&input, now);
        match input {
            Input::Up { conn, peer } => self.up(conn, peer, now, out),
            Input::Down { conn } => self.release(conn),
            Input::Status {
                conn,
                base,
                height,
                max_range,
            } => {
                self.status(conn, base, height, max_range, now, out);
            }
            Input::Receiving { conn, bytes } => self.receiving(conn, bytes, now),
            Input::Unread { conn } => self.unread(conn, now),
            Input::Silent { conn, micros } => self.silent(conn, micros, now, out),
            Input::Block { conn, meta, block } => self.block(conn, meta, block, now, out),
            Input::NoBlock { conn, height } => self.no_block(conn, height, now),
            Input::Malformed { conn, fault } => self.drop_conn(conn, fault, now, out),
            Input::SendFailed { ask } => self.send_failed(ask, now),
            Input::Verdict { run, verdict } => self.verdict(run, verdict, now, out),
            Input::Examined { run, guilty } => self.examined(run, guilty, now, out),
            Input::Applied { through } => self.applied_through(through, now),
            Input::Rejected {
                height,
                from,
                fault,
            } => self.rejected(height, from, fault, now, out),
            Input::Expected { pending, peers } => {
                (self.expected, self.configured) = (pending, Some(peers));
            }
            Input::LocalFault(fault) => self.fail(Outcome::LocalFault(fault)),
            Input::Backpressure { on } => self.set_backpressure(on, now),
            Input::Pause => {
                self.clear(out);
                self.paused = true;
            }
            Input::Resume { applied } => self.resume(applied, now, out),
            Input::Overdue { conn } => self.debt_due(conn, now, out),
            Input::Hedge => {
                if let Some((_, height)) = self.hedge.take() {
                    self.hedge_now(height, now, out);
                }
            }
            Input::Tick => {}
            Input::Stop => self.stop(out),
        }
    }

    /// Everything that may follow from any input, in the order in which one makes room for the
    /// next.
    fn settle_all(&mut self, now: Tick, out: &mut Vec<Effect<B>>) {
        self.expire(now, out);
        if self.paused && self.fatal.is_none() {
            return;
        }
        if self.fatal.is_none() {
            self.prove(out);
            self.apply(out);
            self.grow();
            self.assign(now, out);
            self.govern_reading(now, out);
            self.arm_hedge(now);
        }
        if self.applied < self.initial
            && self.has_heard_all(now)
            && !self.only_strangers_are_unfit()
            && let Some(what) = self.contradicted_by_all()
        {
            self.fail(Outcome::Contradiction { what, fork: None });
        }
        self.say(now, out);
    }

    /// The lowest height that is not applied.
    fn next(&self) -> Height {
        self.applied.next().max(self.initial)
    }

    fn slot_mut(&mut self, height: Height) -> Option<&mut Slot<B>> {
        let next = self.next();
        if height < next {
            return None;
        }
        self.slots
            .get_mut(usize::try_from(height.above(next)).ok()?)
    }

    fn slot(&self, height: Height) -> Option<&Slot<B>> {
        let next = self.next();
        if height < next {
            return None;
        }
        self.slots.get(usize::try_from(height.above(next)).ok()?)
    }

    /// The height right above the window.
    fn end(&self) -> Height {
        self.next().plus(self.slots.len() as u64)
    }

    fn fail(&mut self, outcome: Outcome) {
        if self.fatal.is_none() {
            self.fatal = Some(outcome);
        }
    }

    fn up(&mut self, id: ConnId, peer: PeerId, now: Tick, out: &mut Vec<Effect<B>>) {
        if let Some(until) = self.refused_until(peer, now) {
            let fault = Fault::Disconnected("the peer is refused for what it did before".into());
            out.push(Effect::Drop {
                conn: id,
                peer,
                fault,
                ban_until: Some(until),
            });
            return;
        }
        if let Some(old) = self.by_peer.get(&peer).copied() {
            self.release(old);
            let fault =
                Fault::Disconnected("replaced by a newer connection of the same peer".into());
            out.push(Effect::Drop {
                conn: old,
                peer,
                fault,
                ban_until: None,
            });
        }
        if self.conns.len() >= self.config.max_peers as usize {
            out.push(Effect::Drop {
                conn: id,
                peer,
                fault: Fault::TooMany,
                ban_until: None,
            });
            return;
        }
        let mut conn = Conn::new(peer, now, &self.config);
        conn.struck = self.records.get(&peer).is_some_and(Record::is_struck);
        self.conns.insert(id, conn);
        self.set_round(id, now, self.config.status_interval);
        self.by_peer.insert(peer, id);
        let alone = self.empty_since.take();
        let long = alone.is_some_and(|t| now.0 >= t.0.saturating_add(self.config.settle));
        if self.first_up.is_none() || long {
            self.first_up = Some(now);
            let settled = Tick(now.0.saturating_add(self.config.settle));
            self.timers.insert((settled, Timer::Settled));
        }
        out.push(Effect::AskStatus { conn: id });
    }

    /// Forgets a connection and what it owed; what it gave stays.
    fn release(&mut self, id: ConnId) {
        self.uncount(id);
        self.set_place(id, None);
        let Some(conn) = self.conns.remove(&id) else {
            return;
        };
        if self.by_peer.get(&conn.peer) == Some(&id) {
            self.by_peer.remove(&conn.peer);
        }
        self.statuses -= u32::from(conn.has_status);
        self.partial_bytes -= u64::from(conn.partial);
        self.rounds.remove(&(conn.round, id));
        self.gained.remove(&id);
        if let Some(overdue) = conn.overdue {
            self.timers.remove(&(overdue, Timer::Debt(id)));
        }
        for (height, ask) in conn.owed {
            self.owed -= 1;
            self.close_ask(ask, height);
        }
        if self.conns.is_empty() {
            self.empty_since = Some(self.last_now);
        }
    }

    /// An open request of one height has ended, however it did.
    fn close_ask(&mut self, ask: AskId, height: Height) {
        if let Some(open) = self.asks.get_mut(&ask) {
            open.open -= 1;
            if open.open == 0 {
                self.asks.remove(&ask);
            }
        }
        if let Some(slot) = self.slot_mut(height) {
            slot.asks.retain(|a| *a != ask);
        }
        self.note_missing(height);
    }

    /// Puts a height where it belongs among missing, wanted and parked.
    fn note_missing(&mut self, height: Height) {
        let (missing, wanted) = match self.slot(height) {
            Some(slot) => (slot.is_missing(), slot.is_missing() && slot.asks.is_empty()),
            None => (false, false),
        };
        if missing {
            self.missing.insert(height);
        } else {
            self.missing.remove(&height);
        }
        if wanted {
            if !self.parked.contains(&height) {
                self.wanted.insert(height);
            }
        } else {
            self.wanted.remove(&height);
            self.parked.remove(&height);
        }
    }

    fn status(
        &mut self,
        id: ConnId,
        base: Height,
        height: Height,
        max_range: u32,
        now: Tick,
        out: &mut Vec<Effect<B>>,
    ) {
        if base > height {
            self.drop_conn(id, Fault::BadRange, now, out);
            return;
        }
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        if !conn.has_status {
            self.statuses += 1;
        }
        self.restate_claim(id, height, now);
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        conn.has_status = true;
        conn.mute_rounds = 0;
        (conn.base, conn.height) = (base, height);
        conn.max_range = max_range.max(1);
        conn.lacks.clear();
        self.gained.insert(id);
        self.count(id);
        self.refresh(id);
    }

    fn block(&mut self, id: ConnId, meta: Meta, block: B, now: Tick, out: &mut Vec<Effect<B>>) {
        let share = self.fair_share(meta.bytes);
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        let from = Source {
            peer: conn.peer,
            conn: id,
        };
        self.partial_bytes -= u64::from(std::mem::take(&mut conn.partial));
        if let Some(ask) = conn.owed.get(&meta.height).copied() {
            let asked = self.asks.get(&ask).map_or(now, |a| a.at);
            conn.learn(meta.bytes, asked, now, self.config.hedge_ceiling, share);
            self.answered(id, meta.height, ask, now);
        } else if conn.take_late(meta.height) {
            self.note_life(id, now);
        } else {
            self.drop_conn(id, Fault::Unasked, now, out);
            return;
        }
        // Up at once and down slowly: what is asked for at too low an estimate comes on top of the
        // budget.
        let bytes = u64::from(meta.bytes);
        let smooth = (self.estimate * 7 + bytes.max(self.estimate / 2)) / 8;
        self.estimate = smooth.max(bytes).max(256);
        self.credit(id, meta.height, now);
        self.hold(Candidate { meta, from, block }, now, out);
        self.refresh(id);
    }

    /// An answer to an open request came.
    fn answered(&mut self, id: ConnId, height: Height, ask: AskId, now: Tick) {
        let timeout = self.config.request_timeout;
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        conn.owed.remove(&height);
        conn.patience = 0;
        let overdue = (!conn.owed.is_empty()).then(|| Tick(now.0.saturating_add(timeout)));
        self.owed -= 1;
        self.set_overdue(id, overdue);
        self.close_ask(ask, height);
    }

    /// Puts a copy into its slot, or judges it when the height is proven already.
    fn hold(&mut self, copy: Candidate<B>, now: Tick, out: &mut Vec<Effect<B>>) {
        let height = copy.meta.height;
        let Some(slot) = self.slot(height) else {
            return;
        };
        if let Some(certified) = slot.certified {
            if copy.meta.id != certified {
                self.judge_rival(copy, certified, now, out);
                return;
            }
            if slot.is_proven() || !slot.is_missing() {
                return;
            }
        } else if slot.copies().len() >= MAX_COPIES
            || slot.copies().iter().any(|c| {
                c.meta.id == copy.meta.id && c.meta.has_own_commit >= copy.meta.has_own_commit
            })
            || slot
                .unfit
                .as_ref()
                .is_some_and(|(id, _)| *id == copy.meta.id)
        {
            // As good as one that is held, or no room: nothing is lost, a height is asked for again
            // when its copies prove wrong.
            self.note_refused(height, &copy);
            return;
        }
        if !self.may_hold(height, copy.meta.bytes) {
            return;
        }
        self.held_bytes += u64::from(copy.meta.bytes);
        let Some(slot) = self.slot_mut(height) else {
            return;
        };
        // One with its own commit is worth more than the same block without.
        let poorer = slot.remove_copies(|c| c.meta.id == copy.meta.id);
        match &mut slot.stage {
            Stage::Wanted => slot.stage = Stage::Held(vec![copy]),
            Stage::Held(copies) | Stage::Verifying(_, copies) => copies.push(copy),
            Stage::Verified(_) | Stage::Applying(_) => {
                self.held_bytes -= u64::from(copy.meta.bytes)
            }
        }
        self.held_bytes -= poorer.iter().map(|c| u64::from(c.meta.bytes)).sum::<u64>();
        self.await_applied &= self.proven > self.applied;
        self.note_missing(height);
        self.cancel_rest(height, out);
        self.advance(now);
        if height == self.proven.next() {
            self.last_progress = now;
        }
    }

    /// A connection that owes one of the two lowest heights is read over budget, and may send
    /// others first: these are let go and asked for again. So the bound holds whatever comes: the
    /// budget, and one copy each of the two lowest heights.
    pub(crate) fn may_hold(&self, height: Height, bytes: u32) -> bool {
        let within = self.held_bytes.saturating_add(u64::from(bytes)) <= self.config.budget_bytes;
        within || (height <= self.next().next() && self.slot(height).is_some_and(Slot::is_missing))
    }

    /// A copy that does not fit our genesis says the same from everybody: who gave it is not asked
    /// again.
    fn note_refused(&mut self, height: Height, copy: &Candidate<B>) {
        if self.slot(height).is_some_and(|s| s.unfit.is_some()) {
            self.note_unfit(height, copy.from.conn);
        }
    }

    /// A copy has come: other open requests for the height are given up; their answers are no
    /// fault.
    fn cancel_rest(&mut self, height: Height, out: &mut Vec<Effect<B>>) {
        let Some(slot) = self.slot(height) else {
            return;
        };
        for ask in slot.asks.clone() {
            let Some(open) = self.asks.get(&ask) else {
                continue;
            };
            let (id, whole) = (open.conn, open.open == 1);
            if let Some(conn) = self.conns.get_mut(&id) {
                conn.give_up(height);
                self.owed -= 1;
                let idle = conn.owed.is_empty();
                if idle {
                    self.set_overdue(id, None);
                }
            }
            self.close_ask(ask, height);
            self.refresh(id);
            if whole {
                out.push(Effect::Cancel { ask });
            }
        }
    }

    fn no_block(&mut self, id: ConnId, height: Height, now: Tick) {
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        let Some(ask) = conn.owed.get(&height).copied() else {
            conn.take_late(height);
            self.refresh(id);
            return;
        };
        conn.lacks.insert(height);
        conn.last = now;
        self.answered(id, height, ask, now);
        self.discredit(id, height);
        self.refresh(id);
        self.hasten_status(id, now);
    }

    fn send_failed(&mut self, ask: AskId, now: Tick) {
        let Some(open) = self.asks.get(&ask).cloned() else {
            return;
        };
        // Nothing left, so no answer can come; and nothing of it is held against the peer.
        for n in 0..u64::from(open.count) {
            let height = open.from.plus(n);
            if let Some(conn) = self.conns.get_mut(&open.conn)
                && conn.owed.get(&height) == Some(&ask)
            {
                conn.owed.remove(&height);
                conn.lacks.insert(height);
                self.owed -= 1;
                self.close_ask(ask, height);
            }
        }
        if self
            .conns
            .get(&open.conn)
            .is_some_and(|c| c.owed.is_empty())
        {
            self.set_overdue(open.conn, None);
        }
        self.refresh(open.conn);
        self.hasten_status(open.conn, now);
    }

    fn applied_through(&mut self, through: Height, now: Tick) {
        while self.next() <= through {
            let (height, slot) = (self.next(), self.slots.pop_front());
            self.applied = height;
            let Some(slot) = slot else { continue };
            self.applying -= u32::from(matches!(slot.stage, Stage::Applying(_)));
            self.held_bytes -= bytes_of(&slot);
            if height >= self.proven {
                (self.proven, self.proven_id) = (height, slot.copies().first().map(|c| c.meta.id));
            }
            self.drop_asks_of(slot, height);
        }
        self.proven = self.proven.max(self.applied);
        self.last_progress = now;
        self.await_applied = false;
        self.count_those_below_us();
    }

    /// A slot that leaves the window takes its open requests with it.
    fn drop_asks_of(&mut self, slot: Slot<B>, height: Height) {
        for set in [&mut self.wanted, &mut self.parked, &mut self.missing] {
            set.remove(&height);
        }
        for ask in slot.asks {
            self.give_up_ask(ask, height);
        }
    }

    /// Gives up one height of a request; its answer is no fault. Says whether nothing of the
    /// request is open any more.
    fn give_up_ask(&mut self, ask: AskId, height: Height) -> bool {
        let Some(open) = self.asks.get(&ask) else {
            return false;
        };
        let (id, whole) = (open.conn, open.open == 1);
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.give_up(height);
            self.owed -= 1;
            if conn.owed.is_empty() {
                self.set_overdue(id, None);
            }
        }
        self.close_ask(ask, height);
        self.refresh(id);
        whole
    }

    /// Consensus has had the store: everything held is stale, the peers stay.
    fn resume(&mut self, applied: Height, now: Tick, out: &mut Vec<Effect<B>>) {
        self.clear(out);
        self.paused = false;
        self.applied = applied.max(self.initial.prev());
        (self.proven, self.proven_id) = (self.applied, None);
        self.evidence = Evidence::default();
        self.last_progress = now;
        self.count_those_below_us();
        self.said = None;
    }

    fn stop(&mut self, out: &mut Vec<Effect<B>>) {
        self.clear(out);
        for id in self.conns.keys().copied().collect::<Vec<_>>() {
            let peer = self.conns[&id].peer;
            self.release(id);
            out.push(Effect::Drop {
                conn: id,
                peer,
                fault: Fault::Stopping,
                ban_until: None,
            });
        }
        self.timers.clear();
        self.rounds.clear();
        self.hedge = None;
        if self.fatal.is_none() {
            self.fatal = Some(Outcome::Stopped);
        }
    }

    fn clear(&mut self, out: &mut Vec<Effect<B>>) {
        let first = self.next();
        for (n, slot) in std::mem::take(&mut self.slots).into_iter().enumerate() {
            self.held_bytes -= bytes_of(&slot);
            out.extend(slot.asks.iter().map(|ask| Effect::Cancel { ask: *ask }));
            self.drop_asks_of(slot, first.plus(n as u64));
        }
        self.applying = 0;
        self.run = None;
        self.run_limit = None;
        self.await_applied = false;
        self.examining.clear();
    }
}

fn bytes_of<B>(slot: &Slot<B>) -> u64 {
    slot.copies().iter().map(|c| u64::from(c.meta.bytes)).sum()
}
