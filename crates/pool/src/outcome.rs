//! What is said of the whole. "Caught up" cannot be forged: a claim above us counts only while somebody serves towards it, and no
//! claim of one who never served anything holds us up for longer than `claim_patience`.

use std::collections::BTreeMap;

use super::Pool;
use super::choose::TRIES;
use super::conn::Conn;
use super::io::{Effect, Outcome, Stall, Tick};
use super::slot::Stage;
use blocksync_types::ids::{ConnId, Height};

const BACKED: usize = 0;
const UNBACKED: usize = 1;

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
        if !conn.discredited {
            let backed = conn.served > Height::ZERO;
            conn.counted = Some((backed, conn.height));
            add(
                &mut self.claims[if backed { BACKED } else { UNBACKED }],
                conn.height,
            );
        }
    }

    pub(super) fn uncount(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        if let Some(face) = conn.face.take() {
            remove(&mut self.faces, face);
        }
        if let Some((backed, height)) = conn.counted.take() {
            remove(
                &mut self.claims[if backed { BACKED } else { UNBACKED }],
                height,
            );
        }
        if let Some(base) = conn.above_us.take() {
            self.above_us.remove(&(base, id));
        }
        if let Some((height, own_kind)) = conn.tall.take() {
            self.tall.remove(&(height, own_kind, id));
        }
    }

    /// Connections that may have a height from `next` up: of those with room, then of all, by their claims; then the lowest bases above us. No
    /// more than `TRIES` of each; one may come twice, and may turn out not to have it.
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

    /// A block came from this connection: its claim is backed.
    pub(super) fn credit(&mut self, id: ConnId, height: Height, now: Tick) {
        if height > self.served {
            self.served = height;
            self.last_progress = now;
        }
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        let first = conn.served == Height::ZERO;
        let news = height > conn.served;
        conn.served = conn.served.max(height);
        let (peer, struck) = (conn.peer, std::mem::take(&mut conn.struck));
        if struck {
            self.forgive(peer);
        }
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        if first || (conn.discredited && news) {
            conn.discredited = false;
            self.count(id);
        }
    }

    /// A connection failed to give a height that nobody has ever served: its claim counts no more until it serves something new.
    pub(super) fn discredit(&mut self, id: ConnId, height: Height) {
        let served = self.served;
        if let Some(conn) = self.conns.get_mut(&id)
            && height > served
            && !conn.discredited
        {
            conn.discredited = true;
            self.count(id);
        }
    }

    /// The best credible claim, or what is proven if that is higher.
    #[must_use]
    pub fn target(&self) -> Height {
        let best =
            |set: &BTreeMap<Height, u32>| set.keys().next_back().copied().unwrap_or(Height::ZERO);
        let unbacked = if self.patient_with_claims(self.last_now) {
            best(&self.claims[UNBACKED])
        } else {
            Height::ZERO
        };
        best(&self.claims[BACKED]).max(unbacked).max(self.proven)
    }

    fn patient_with_claims(&self, now: Tick) -> bool {
        now.0
            < self
                .last_progress
                .0
                .saturating_add(self.config.claim_patience)
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
                why @ Stall::NotCanonical(..) => Outcome::Stalled { why },
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

    /// Enough statuses; somebody confirms our height at its word; nobody credible is more than one above us; and nothing that is
    /// under way could take us further.
    fn caught_up(&self, now: Tick) -> bool {
        let Some(first) = self.first_up else {
            return false;
        };
        // Whoever is connected and has not told yet may have more: those who came first do not decide alone.
        let all_told = self.statuses as usize == self.conns.len();
        let settled = now.0 >= first.0.saturating_add(self.config.settle)
            || (all_told && self.statuses >= self.config.statuses);
        let above = self.applied.next();
        let confirmed = self.faces.keys().next().is_some_and(|face| *face <= above);
        self.statuses > 0
            && settled
            && confirmed
            && self.proven == self.applied
            && self.run.is_none()
            && self.applying == 0
            && self.target() <= above
            && !self.tip_may_prove_itself(above)
    }

    /// Our own kind sends the commit for its highest block beside it: such a block is worth waiting for.
    fn tip_may_prove_itself(&self, height: Height) -> bool {
        let Some(slot) = self.slot(height) else {
            return false;
        };
        let has = |id: &ConnId| {
            let conn = self.conns.get(id);
            conn.is_some_and(|c| !c.discredited && c.has(height)) && !slot.refused.contains(id)
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
