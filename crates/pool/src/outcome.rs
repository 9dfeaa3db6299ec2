//! The outcome of the whole. "Caught up" needs positive evidence, and no claim above us that is
//! open: `claims` has which are.

use super::Pool;
use super::io::{Effect, Outcome, Stall, Tick};
use super::peers::TRIES;
use super::slot::{Slot, Stage};
use blocksync_types::ids::{ConnId, Height};

impl<B: Clone> Pool<B> {
    /// Claims whose base we have reached count from now on.
    pub(super) fn count_those_below_us(&mut self) {
        let next = self.window.next();
        while let Some((base, id)) = self.peers.lowest_above_us()
            && base <= next
        {
            self.peers
                .update(id, self.budget.estimate(), |peer| peer.locate(next));
        }
    }

    /// The height to which there are blocks: what is proven, by blocks or by the proof of a claim.
    /// While nothing above us is, what half of the peers with blocks say at least, so that a few
    /// that lie cannot move it.
    #[must_use]
    pub fn target(&self) -> Height {
        let (proven, shown) = (self.window.proven(), self.claim_proofs.height());
        if shown > proven {
            return shown;
        }
        proven.max(self.peers.claimed_by_half())
    }

    /// Says how the whole stands, when that has changed.
    pub(super) fn say(&mut self, now: Tick, out: &mut Vec<Effect<B>>) {
        let outcome = self.outcome(now);
        if self.tip.fatal().is_none() {
            self.close_unclaimed(now, out);
        }
        if self.tip.announce(&outcome) {
            if self.tip.said_caught_up() {
                self.let_go_unclaimed();
                // There is room again, or the lowest heights were among them.
                self.govern_reading(now, out);
            }
            out.push(Effect::Outcome(outcome));
        }
    }

    /// We have caught up: copies that are not proven, of heights that nobody says he has any more,
    /// were made up, or come again.
    fn let_go_unclaimed(&mut self) {
        let mut height = self.peers.highest_claim().next().max(self.window.next());
        while height < self.window.end() {
            self.window
                .update(height, |slot| slot.remove_copies(|_| true));
            height = height.next();
        }
    }

    fn outcome(&mut self, now: Tick) -> Outcome {
        if let Some(fatal) = self.tip.fatal() {
            return fatal.clone();
        }
        let height = self.window.applied();
        if self.config.until.is_some_and(|until| height >= until) {
            return Outcome::ReachedTarget { height };
        }
        if self.caught_up(now) {
            self.tip.set_usable();
            return Outcome::CaughtUp {
                height: self.caught_up_height(),
            };
        }
        let usable = self.busy() || self.somebody_has_the_next();
        if usable {
            self.tip.set_usable();
        } else if now.0
            >= self
                .tip
                .set_unusable(now)
                .0
                .saturating_add(self.config.no_peers)
        {
            return match self.why_stalled(now) {
                // Everybody who has the block was asked, and gave the same.
                why @ (Stall::NotCanonical(..) | Stall::StrangersDiffer(_)) => {
                    Outcome::Stalled { why }
                }
                _ => Outcome::NoUsablePeers,
            };
        }
        let still = now.0.saturating_sub(self.tip.last_progress().0);
        // While we are the bottleneck nothing can move, and nobody is to blame for it.
        let proves = self.prover.under_way(now).is_some_and(|(.., hangs)| !hangs);
        let applies = self.window.applying() > 0;
        let waits_for_us = self.deadlines.has_backpressure() || applies || proves;
        if usable && still >= self.config.no_progress && !waits_for_us {
            return Outcome::Stalled {
                why: self.why_stalled(now),
            };
        }
        Outcome::Syncing
    }

    /// Before the first block of a chain that begins above 1 the applied height is 0.
    fn caught_up_height(&self) -> Height {
        let applied = self.window.applied();
        if applied < self.window.initial() {
            Height::ZERO
        } else {
            applied
        }
    }

    fn busy(&self) -> bool {
        self.prover.is_busy() || self.window.applying() > 0 || self.peers.owed() > 0
    }

    fn somebody_has_the_next(&self) -> bool {
        let needed = self.window.needed();
        self.peers
            .claiming(needed)
            .any(|(id, peer)| peer.has(needed) && !self.window.refuses(needed, id))
    }

    fn why_stalled(&self, now: Tick) -> Stall {
        // Strangers cannot end a sync: their contradiction of genesis is told, not believed.
        if self.window.applied() < self.window.initial()
            && self.peers.only_strangers_are_unfit()
            && let Some(what) = self.contradicted_by_all()
        {
            return Stall::StrangersDiffer(what);
        }
        if let Some((from, to, _)) = self.prover.under_way(now) {
            return Stall::Proving(from, to);
        }
        let frontier = self.window.frontier();
        let slot = self.window.slot(frontier);
        if let Some(certified) = slot.and_then(Slot::certified)
            && slot.is_some_and(Slot::is_not_canonical)
        {
            return Stall::NotCanonical(frontier, certified);
        }
        let above = frontier.next();
        let is_held = |height| self.window.slot(height).is_some_and(|s| !s.is_missing());
        // The copy above holds the commit: without it none at the frontier can be judged.
        match (is_held(frontier), is_held(above)) {
            (true, true) => Stall::Unproven(frontier),
            (true, false) => Stall::NoBlock(above),
            (false, _) => Stall::NoBlock(frontier),
        }
    }

    /// Everything says so, and no claim above us is open.
    fn caught_up(&mut self, now: Tick) -> bool {
        let above = self.window.next();
        let complete = self.stands_at_the_top(now);
        let open = self.claims_are_open(complete, above, now);
        complete && !open && !self.tip_may_prove_itself(above, now)
    }

    /// We stand where we are, and no proof of a claim shows more.
    fn stands_at_the_top(&self, now: Tick) -> bool {
        self.stands(now) && !self.more_is_proven()
    }

    /// Enough statuses; somebody is where we are; and nothing that is under way could take us
    /// further.
    pub(super) fn stands(&self, now: Tick) -> bool {
        let Some(first) = self.tip.first_up() else {
            return false;
        };
        let since = now.0.saturating_sub(first.0);
        // A connected peer without a status may have more, and so may a configured peer that is
        // being dialled: the first to come do not decide alone. An empty network is not believed at
        // once.
        let enough = self.peers.have_all_told() && self.peers.statuses() >= self.config.statuses;
        let anything = self.peers.highest_claim() > Height::ZERO;
        let settled = since >= self.config.settle || (enough && anything);
        // A peer below us says nothing of what is above us.
        let (own, above) = (self.caught_up_height(), self.window.next());
        let confirmed = self.peers.is_claimed(own, above);
        settled
            && confirmed
            && self.window.proven() == self.window.applied()
            && !self.prover.is_busy()
            && self.window.applying() == 0
            && (since >= self.config.claim_patience || !self.peers.awaits_configured())
    }

    /// Our servers send the commit for their highest block beside it: such a block is worth waiting
    /// for.
    fn tip_may_prove_itself(&self, height: Height, now: Tick) -> bool {
        let Some(slot) = self.window.slot(height) else {
            return false;
        };
        let has = |id: ConnId| {
            let peer = self.peers.get(id);
            peer.is_some_and(|p| !p.is_discredited() && p.has(height))
                && !slot.refuses(id)
                && self.doubt_of(id, now).is_none()
        };
        match slot.stage() {
            Stage::Wanted => self.peers.ranged_at(height).take(TRIES).any(has),
            Stage::Held(copies) => copies.iter().any(|c| c.meta.has_own_commit),
            _ => true,
        }
    }
}
