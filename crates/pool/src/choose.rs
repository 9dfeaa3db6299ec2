//! Which height is asked of whom: the window, the byte budget, and the choice of a peer.
//!
//! Missing heights are either *wanted* (to be tried) or *parked* (nobody with room has them). A
//! connection that gains room or range takes what it can from the parked ones back to wanted, so
//! nothing is looked at twice without a reason.

use std::collections::{BTreeMap, BTreeSet};

use super::conn::{Class, Place};
use super::io::{AskId, Effect, Reading, Tick};
use super::slot::Slot;
use super::{Ask, Pool};
use blocksync_types::ids::{ConnId, Height};

/// Connections looked at in one order, in any search. By claim it is complete but for those that
/// lack something of what they claim, which come last until they tell their range anew: then, or
/// when they gain room, a parked height is brought back.
pub(super) const TRIES: usize = 64;

/// Fresh connections looked at for a trial.
const FRESH_TRIES: usize = 8;

impl<B: Clone> Pool<B> {
    /// Opens the window up to its size, the best claim, and the height above `until`, which holds
    /// its commit.
    pub(super) fn grow(&mut self) {
        let claims = self
            .faces
            .keys()
            .next_back()
            .copied()
            .unwrap_or(Height::ZERO);
        let top = self
            .config
            .until
            .map_or(claims, |until| claims.min(until.next()));
        let room = u64::from(self.config.window.max(2));
        let end = self.next().plus(room);
        while self.end() <= top && self.end() < end {
            let height = self.end();
            self.slots.push_back(Slot::new());
            self.note_missing(height);
        }
    }

    /// Puts the connection into the set of those with room, at its present score, or takes it out.
    pub(super) fn refresh(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get(&id) else {
            return;
        };
        let had = conn.place.is_some();
        let place =
            (conn.room(&self.config) > 0).then(|| (conn.class(), conn.score(self.estimate)));
        self.set_place(id, place);
        if place.is_some() && !had {
            self.gained.insert(id);
        }
    }

    pub(super) fn set_place(&mut self, id: ConnId, place: Option<Place>) {
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        let roomy = place
            .filter(|(class, _)| *class < Class::Lacking)
            .map(|_| conn.height);
        if conn.roomy != roomy {
            if let Some(old) = std::mem::replace(&mut conn.roomy, roomy) {
                self.roomy.remove(&(old, id));
            }
            self.roomy.extend(roomy.map(|height| (height, id)));
        }
        if let Some(old) = std::mem::replace(&mut conn.place, place) {
            self.ready.remove(&(old, id));
        }
        if let Some(place) = place {
            self.ready.insert((place, id));
        }
    }

    /// Brings back parked heights that this connection has, as many as it has room for, and notes
    /// who. Says whether there were any.
    fn unpark(&mut self, id: ConnId, back: &mut BTreeMap<Height, ConnId>) -> bool {
        let Some(conn) = self.conns.get(&id).filter(|c| c.base <= c.height) else {
            return false;
        };
        let room = conn.room(&self.config);
        let found: Vec<Height> = self
            .parked
            .range(conn.base..=conn.height)
            .filter(|h| self.fits(id, **h))
            .take(room)
            .copied()
            .collect();
        for height in &found {
            self.parked.remove(height);
            self.wanted.insert(*height);
            back.insert(*height, id);
        }
        !found.is_empty()
    }

    /// Asks for wanted heights, the lowest first, while somebody has room and the budget admits it.
    ///
    /// A height is parked once for each time that it was opened, given back or brought back, and
    /// brought back once for each unit of room that a connection has gained.
    pub(super) fn assign(&mut self, now: Tick, out: &mut Vec<Effect<B>>) {
        loop {
            let mut back = BTreeMap::new();
            if !self.has_budget() {
                // Only the two lowest are admitted. Who has gained is remembered until there is
                // budget for more.
                while let Some(height) = self.parked.first().copied()
                    && height <= self.next().next()
                {
                    self.parked.remove(&height);
                    self.wanted.insert(height);
                }
                self.assign_wanted(&back, now, out);
                return;
            }
            // The parked ones come first: they are lower than what the window has opened since.
            let mut gained = std::mem::take(&mut self.gained);
            gained.retain(|id| self.unpark(*id, &mut back));
            self.gained = gained;
            self.assign_wanted(&back, now, out);
            if self.gained.is_empty() || self.ready.is_empty() || self.parked.is_empty() {
                self.gained.clear();
                return;
            }
        }
    }

    /// `back` names for some heights a connection that had them, and room, a moment ago.
    fn assign_wanted(
        &mut self,
        back: &BTreeMap<Height, ConnId>,
        now: Tick,
        out: &mut Vec<Effect<B>>,
    ) {
        self.budget_blocked = false;
        while let Some(height) = self.wanted.first().copied() {
            if self.ready.is_empty() {
                return;
            }
            if !self.admits(height) {
                self.budget_blocked = true;
                return;
            }
            let still = |id: &ConnId| {
                let placed = self.conns.get(id).is_some_and(|c| c.place.is_some());
                placed && self.fits(*id, height)
            };
            let chosen = self.choose(height, None);
            match chosen.or_else(|| back.get(&height).copied().filter(still)) {
                Some(id) => self.ask(id, height, now, out),
                None => {
                    self.wanted.remove(&height);
                    self.parked.insert(height);
                }
            }
        }
    }

    /// The one predicate that admits an ask: what is held, on its way and expected must fit. The
    /// two lowest unapplied heights are always admitted: the lowest cannot be proven without its
    /// successor.
    pub(super) fn admits(&self, height: Height) -> bool {
        height <= self.next().next() || self.has_budget()
    }

    /// Whether one more block fits beside what is held, on its way and expected.
    fn has_budget(&self) -> bool {
        self.committed_bytes().saturating_add(self.estimate) <= self.config.budget_bytes
    }

    /// The most heights that one connection may owe us: half the window shared by all, a quarter of
    /// the byte budget in blocks of this size, and what a CometBFT node queues without losing an
    /// answer. Never below what its own pool asks of others.
    pub(super) fn fair_share(&self, bytes: u32) -> usize {
        let connections = self.conns.len().max(1) as u64;
        let heights = u64::from(self.config.window) / 2 / connections;
        let blocks = self.config.budget_bytes / 4 / u64::from(bytes.max(1));
        let most = u64::from(self.config.asks_per_peer_max);
        let least = u64::from(self.config.asks_per_peer);
        usize::try_from(heights.min(blocks).min(most).max(least)).unwrap_or(usize::MAX)
    }

    /// May this height be asked of it, and has it given no copy of it that cannot be used?
    fn fits(&self, id: ConnId, height: Height) -> bool {
        let conn = self.conns.get(&id);
        conn.is_some_and(|c| c.may_be_asked(height))
            && self.slot(height).is_some_and(|s| !s.refused.contains(&id))
    }

    pub(super) fn committed_bytes(&self) -> u64 {
        (self.held_bytes.saturating_add(self.partial_bytes))
            .saturating_add(self.owed.saturating_mul(self.estimate))
    }

    /// The connection that would deliver first, of those with room that have the height. Not one
    /// whose copy of it was refused.
    ///
    /// A fresh connection is tried early, one block at a time, but not with the two lowest heights,
    /// on which everything waits. Where many with room claim too little, those that claim enough
    /// are found by their claim; those whose base is above us, last, by their base.
    pub(super) fn choose(&self, height: Height, not: Option<ConnId>) -> Option<ConnId> {
        let fits = |id: &ConnId| Some(*id) != not && self.fits(*id, height);
        let fresh = self
            .ready
            .range(((Class::Fresh, 0), ConnId(0))..((Class::Struck, 0), ConnId(0)));
        let idle = |id: &ConnId| self.conns.get(id).is_some_and(|c| c.owed.is_empty());
        let trial = (height > self.next().next() && not.is_none())
            .then(|| {
                fresh
                    .take(FRESH_TRIES)
                    .map(|(_, id)| *id)
                    .find(|id| idle(id) && fits(id))
            })
            .flatten();
        let place = |id: &ConnId| self.conns.get(id).and_then(|c| c.place);
        trial
            .or_else(|| {
                let best = self.ready.range(..((Class::Lacking, 0), ConnId(0)));
                best.take(TRIES).map(|(_, id)| *id).find(fits)
            })
            .or_else(|| {
                let claim = self.roomy.range((height, ConnId(0))..);
                let able = claim.take(TRIES).map(|(_, id)| *id).filter(fits);
                able.min_by_key(|id| (place(id), *id))
            })
            .or_else(|| {
                let lacking = ((Class::Lacking, 0), ConnId(0))..((Class::Later, 0), ConnId(0));
                let lacking = self.ready.range(lacking).take(TRIES);
                lacking.map(|(_, id)| *id).find(fits)
            })
            .or_else(|| {
                let later = self.above_us.range(..=(height, ConnId(u64::MAX)));
                let able = later.take(TRIES).map(|(_, id)| *id).filter(fits);
                let able = able.filter_map(|id| Some((place(&id)?, id)));
                able.min().map(|(_, id)| id)
            })
    }

    /// Asks for this height alone: a hedge.
    pub(super) fn ask_one(
        &mut self,
        id: ConnId,
        height: Height,
        now: Tick,
        out: &mut Vec<Effect<B>>,
    ) {
        self.ask_heights(id, height, 1, now, out);
    }

    /// Asks for `height`, and for the wanted ones right above it when the peer answers ranges.
    pub(super) fn ask(&mut self, id: ConnId, height: Height, now: Tick, out: &mut Vec<Effect<B>>) {
        let Some(conn) = self.conns.get(&id) else {
            return;
        };
        let most = conn.range(&self.config).min(conn.room(&self.config)).max(1) as u64;
        let mut count = 1;
        while count < most && self.extends(id, height.plus(count), count) {
            count += 1;
        }
        self.ask_heights(id, height, count, now, out);
    }

    fn ask_heights(
        &mut self,
        id: ConnId,
        height: Height,
        count: u64,
        now: Tick,
        out: &mut Vec<Effect<B>>,
    ) {
        let ask = AskId(self.next_ask);
        self.next_ask += 1;
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        self.asks.insert(
            ask,
            Ask {
                conn: id,
                at: now,
                open: count,
                from: height,
                count,
            },
        );
        for n in 0..u64::from(count) {
            self.owe(id, height.plus(n), ask, now);
        }
        self.refresh(id);
        out.push(Effect::Ask {
            ask,
            conn: id,
            from: height,
            count,
        });
    }

    fn extends(&self, id: ConnId, height: Height, already: u64) -> bool {
        let extra = self.estimate.saturating_mul(already);
        let fits = self
            .committed_bytes()
            .saturating_add(self.estimate)
            .saturating_add(extra)
            <= self.config.budget_bytes;
        (fits || height <= self.next().next())
            && (self.wanted.contains(&height) || self.parked.contains(&height))
            && self.conns.get(&id).is_some_and(|c| c.may_be_asked(height))
            && self.slot(height).is_some_and(|s| s.refused.is_empty())
    }

    fn owe(&mut self, id: ConnId, height: Height, ask: AskId, now: Tick) {
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        let timeout = self
            .config
            .request_timeout
            .saturating_mul(1 << conn.patience.min(4));
        if conn.owed.is_empty() {
            self.set_overdue(id, Some(Tick(now.0.saturating_add(timeout))));
        }
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.owed.insert(height, ask);
        }
        self.owed += 1;
        if let Some(slot) = self.slot_mut(height) {
            slot.asks.push(ask);
        }
        self.note_missing(height);
    }

    /// Over budget every socket is left unread but those that owe the two lowest heights; well
    /// below it all are read again. Between two crossings an eighth of the budget has come or gone.
    /// Where nobody owes what is waited for all are read, too: who has it may be full, or has to
    /// tell so first.
    pub(super) fn govern_reading(&mut self, now: Tick, out: &mut Vec<Effect<B>>) {
        let (budget, bytes) = (
            self.config.budget_bytes,
            self.held_bytes.saturating_add(self.partial_bytes),
        );
        let before = self.over_budget;
        self.over_budget = bytes > budget || (before && bytes > budget / 8 * 7);
        if !before && !self.over_budget {
            return;
        }
        let reading = if self.over_budget && self.moves_unread() {
            Reading::Only(self.owing_the_two_lowest())
        } else {
            Reading::All
        };
        if reading == self.reading {
            return;
        }
        match (
            std::mem::replace(&mut self.reading, reading.clone()),
            &reading,
        ) {
            (Reading::Only(before), Reading::Only(these)) => {
                for id in these.iter().filter(|id| !before.contains(id)) {
                    self.give_time(*id, now);
                }
            }
            (Reading::Only(before), Reading::All) => {
                self.read_again = Some(now);
                for id in before {
                    if let Some(conn) = self.conns.get_mut(&id) {
                        conn.read_through = self.read_again;
                    }
                }
            }
            (Reading::All, _) => {}
        }
        out.push(Effect::Read(reading));
    }

    /// Whether the lowest height is proven, or it and the one that proves it are held or on their
    /// way.
    pub(super) fn moves_unread(&self) -> bool {
        let (lowest, above) = (self.slot(self.next()), self.slot(self.next().next()));
        let comes = |s: &Slot<B>| !s.is_missing() || !s.asks.is_empty();
        lowest.is_some_and(Slot::is_proven)
            || (lowest.is_some_and(comes) && above.is_some_and(comes))
    }

    fn owing_the_two_lowest(&self) -> Vec<ConnId> {
        let lowest = [self.next(), self.next().next()];
        let asks = lowest
            .iter()
            .filter_map(|h| self.slot(*h))
            .flat_map(|s| &s.asks);
        let conns = asks.filter_map(|a| self.asks.get(a)).map(|a| a.conn);
        conns.collect::<BTreeSet<_>>().into_iter().collect()
    }
}
