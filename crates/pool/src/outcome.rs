//! What is said of the whole. "Caught up" needs positive evidence, and no claim above us that is
//! open: `claims` has which are.

use std::collections::BTreeMap;

use super::Pool;
use super::choose::TRIES;
use super::conn::Conn;
use super::io::{Effect, Outcome, Stall, Tick};
use super::slot::Stage;
use blocksync_types::ids::{ConnId, Height, PeerId};

fn add(set: &mut BTreeMap<Height, u32>, height: Height) {
    *set.entry(height).or_default() += 1;
}

fn remove(set: &mut BTreeMap<Height, u32>, height: Height) {
    if let Some(n) = set.get_mut(&height) {
        *n -= 1;
        if *n == 0 {
            set.remove(&height);
        }
    }
}

impl<B: Clone> Pool<B> {
    /// Takes a connection's claim into account as it stands now.
    pub(super) fn count(&mut self, id: ConnId) {
        self.uncount(id);
        let next = self.next();
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        if !conn.has_status {
            return;
        }
        conn.face = Some(conn.height);
        add(&mut self.faces, conn.height);
        if conn.base > next {
            conn.above_us = Some(conn.base);
            self.above_us.insert((conn.base, id));
            return;
        }
        if conn.unfit != Some(next) {
            let own_kind = conn.is_own_kind();
            conn.tall = Some((conn.height, own_kind));
            self.tall.insert((conn.height, own_kind, id));
        }
        self.count_claim(id);
    }

    pub(super) fn uncount(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        if let Some(face) = conn.face.take() {
            remove(&mut self.faces, face);
        }
        if let Some(base) = conn.above_us.take() {
            self.above_us.remove(&(base, id));
        }
        if let Some((height, own_kind)) = conn.tall.take() {
            self.tall.remove(&(height, own_kind, id));
        }
        self.uncount_claim(id);
    }

    /// Connections that may have a height from `next` up: of those with room, then of all, by their
    /// claims; then the lowest bases above us. No more than `TRIES` of each; one may come twice,
    /// and may turn out not to have it.
    pub(super) fn claiming(&self, height: Height) -> impl Iterator<Item = (ConnId, &Conn)> {
        let roomy = self.roomy.range((height, ConnId(0))..);
        let roomy = roomy.map(|(_, id)| *id);
        let tall = self.tall.range((height, false, ConnId(0))..).rev();
        let tall = tall.map(|(_, _, id)| *id);
        let later = self.above_us.range(..=(height, ConnId(u64::MAX)));
        let later = later.map(|(_, id)| *id);
        let ids = roomy.take(TRIES).chain(tall.take(TRIES));
        ids.chain(later.take(TRIES))
            .filter_map(|id| Some((id, self.conns.get(&id)?)))
    }

    /// Claims whose base we have reached count from now on.
    pub(super) fn count_those_below_us(&mut self) {
        while let Some((base, id)) = self.above_us.first().copied() {
            if base > self.next() {
                break;
            }
            self.count(id);
            self.refresh(id);
        }
    }

    /// A block came from this connection.
    pub(super) fn credit(&mut self, id: ConnId, height: Height, now: Tick) {
        let patience = self.config.claim_patience;
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        conn.claim.earn(u32::MAX, 1, patience, now);
        let news = height > conn.served;
        conn.served = conn.served.max(height);
        let (peer, struck) = (conn.peer, std::mem::take(&mut conn.struck));
        if conn.discredited && news {
            conn.discredited = false;
            self.count_claim(id);
        }
        if struck {
            self.forgive(peer);
        }
    }

    /// A connection says that it does not have a height above everything proven, which it claims:
    /// its claim counts no more until it serves something new.
    pub(super) fn discredit(&mut self, id: ConnId, height: Height) {
        let known = self.proven.next();
        if let Some(conn) = self.conns.get_mut(&id)
            && height > known
            && !conn.discredited
        {
            conn.discredited = true;
            self.count_claim(id);
        }
    }

    /// The best claim that counts, or what is proven if that is higher. Peers share nothing but
    /// what is proven: this is for people to see.
    #[must_use]
    pub fn target(&self) -> Height {
        self.best_claim().max(self.proven)
    }

    pub(super) fn said_caught_up(&self) -> bool {
        matches!(self.said, Some(Outcome::CaughtUp { .. }))
    }

    /// Says how the whole stands, when that has changed.
    pub(super) fn say(&mut self, now: Tick, out: &mut Vec<Effect<B>>) {
        let outcome = self.outcome(now);
        if self.said.as_ref() != Some(&outcome) {
            self.said = Some(outcome.clone());
            out.push(Effect::Outcome(outcome));
        }
    }

    fn outcome(&mut self, now: Tick) -> Outcome {
        if let Some(fatal) = &self.fatal {
            return fatal.clone();
        }
        if self.config.until.is_some_and(|until| self.applied >= until) {
            return Outcome::ReachedTarget {
                height: self.applied,
            };
        }
        if self.caught_up(now) {
            self.unusable_since = None;
            return Outcome::CaughtUp {
                height: self.caught_up_height(),
            };
        }
        let usable = self.busy() || self.somebody_has_the_next();
        if usable {
            self.unusable_since = None;
        } else if now.0
            >= self
                .unusable_since
                .get_or_insert(now)
                .0
                .saturating_add(self.config.no_peers)
        {
            return match self.why_stalled() {
                // Everybody who has the block was asked, and gave the same.
                why @ (Stall::NotCanonical(..) | Stall::StrangersDiffer(_)) => {
                    Outcome::Stalled { why }
                }
                _ => Outcome::NoUsablePeers,
            };
        }
        let still = now.0.saturating_sub(self.last_progress.0);
        if usable && still >= self.config.no_progress && !self.backpressure && self.applying == 0 {
            return Outcome::Stalled {
                why: self.why_stalled(),
            };
        }
        Outcome::Syncing
    }

    /// Before the first block of a chain that begins above 1 the applied height is 0.
    fn caught_up_height(&self) -> Height {
        if self.applied < self.initial {
            Height::ZERO
        } else {
            self.applied
        }
    }

    fn busy(&self) -> bool {
        self.run.is_some() || self.applying > 0 || self.owed > 0
    }

    fn somebody_has_the_next(&self) -> bool {
        let needed = self.missing.first().copied().unwrap_or(self.next());
        let slot = self.slot(needed);
        self.claiming(needed)
            .any(|(id, c)| c.has(needed) && slot.is_none_or(|s| !s.refused.contains(&id)))
    }

    fn why_stalled(&self) -> Stall {
        if self.applied < self.initial
            && self.only_strangers_are_unfit()
            && let Some(what) = self.contradicted_by_all()
        {
            return Stall::StrangersDiffer(what);
        }
        let frontier = self.proven.next();
        match self.slot(frontier) {
            Some(slot) if slot.not_canonical && slot.certified.is_some() => {
                Stall::NotCanonical(frontier, slot.certified.unwrap_or_default())
            }
            Some(slot)
                if !slot.is_missing()
                    && self.slot(frontier.next()).is_some_and(|s| !s.is_missing()) =>
            {
                Stall::Unproven(frontier)
            }
            Some(slot) if !slot.is_missing() => Stall::NoBlock(frontier.next()),
            _ => Stall::NoBlock(frontier),
        }
    }

    /// Everything says so, and no claim above us is open.
    fn caught_up(&mut self, now: Tick) -> bool {
        let above = self.applied.next();
        let complete = self.stands_at_the_top(now);
        let open = self.claims_are_open(complete, above, now);
        complete && !open && !self.tip_may_prove_itself(above, now)
    }

    /// Enough statuses; somebody is where we are; and nothing that is under way could take us
    /// further.
    fn stands_at_the_top(&self, now: Tick) -> bool {
        let Some(first) = self.first_up else {
            return false;
        };
        let since = now.0.saturating_sub(first.0);
        // Whoever is connected and has not told yet may have more, and so may a configured peer
        // that is on its way: those who came first do not decide alone. That nobody has anything is
        // not believed at once.
        let all_told = self.statuses as usize == self.conns.len();
        let anything = self.faces.keys().next_back() > Some(&Height::ZERO);
        let settled = since >= self.config.settle
            || (all_told && anything && self.statuses >= self.config.statuses);
        let nobody_comes = !self.awaits_configured_peers() || since >= self.config.claim_patience;
        // A peer below us says nothing of what is above us.
        let (own, above) = (self.caught_up_height(), self.applied.next());
        let confirmed = self.faces.range(own..=above).next().is_some();
        settled
            && nobody_comes
            && confirmed
            && self.proven == self.applied
            && self.run.is_none()
            && self.applying == 0
    }

    /// A configured peer is on its way, or has not told its status yet.
    fn awaits_configured_peers(&self) -> bool {
        let silent = |peer: &PeerId| {
            let conn = self.by_peer.get(peer).and_then(|id| self.conns.get(id));
            conn.is_some_and(|c| !c.has_status)
        };
        self.expected > 0 || self.configured.iter().flatten().any(silent)
    }

    /// Nodes of ours send the commit for their highest block beside it: such a block is worth
    /// waiting for.
    fn tip_may_prove_itself(&self, height: Height, now: Tick) -> bool {
        let Some(slot) = self.slot(height) else {
            return false;
        };
        let has = |id: &ConnId| {
            let conn = self.conns.get(id);
            conn.is_some_and(|c| !c.discredited && c.has(height))
                && !slot.refused.contains(id)
                && self.doubt_of(*id, now).is_none()
        };
        let own_kind = (height, true, ConnId(0))..=(height, true, ConnId(u64::MAX));
        let mut own_kind = self.tall.range(own_kind).take(TRIES);
        match &slot.stage {
            Stage::Wanted => own_kind.any(|(_, _, id)| has(id)),
            Stage::Held(copies) => copies.iter().any(|c| c.meta.has_own_commit),
            _ => true,
        }
    }
}
