//! Runs for the verifier, its verdicts, and what goes to the executor.
//!
//! A run is the longest sequence of held copies, linked by parent ids, right above the frontier;
//! its last copy but one is proven by the last. Where the two copies at the frontier do not link,
//! the upper one's commit is judged all the same: it certifies another id (then the lower copy is
//! wrong) or fails (then the upper one is).

use super::choose::TRIES;
use super::io::{Candidate, Effect, Outcome, RunId, Verdict};
use super::slot::{Slot, Stage};
use super::{Pool, Run, Tick};
use blocksync_types::fault::{Fault, Proof};
use blocksync_types::ids::{BlockId, ConnId, Height, PeerId, Source};

/// Blocks to prove, and the copy that holds the commit for the last of them, unless that came with
/// its own.
type Carried<B> = (Vec<Candidate<B>>, Option<Candidate<B>>);

/// While the executor has as many blocks as this, shorter runs wait to become longer.
const WORTH_A_RUN: u64 = 512;

impl<B: Clone> Pool<B> {
    /// Hands a run to the verifier when none is under way and there is something to prove.
    pub(super) fn prove(&mut self, out: &mut Vec<Effect<B>>) {
        if self.run.is_some() || self.await_applied {
            return;
        }
        let lowest_missing = self.missing.first().copied().unwrap_or(self.end());
        let worth = WORTH_A_RUN.min(u64::from(self.config.run));
        if lowest_missing.above(self.proven.next()) < worth && u64::from(self.applying) >= worth {
            // The executor has work, and says when it is done: a longer run costs no more.
            return;
        }
        let limit = self.run_limit.map_or(usize::MAX, |l| {
            usize::try_from(l.above(self.proven)).unwrap_or(usize::MAX)
        });
        let limit = limit.min(self.config.run as usize).max(1);
        let path = self.linked_path(limit + 1);
        let (blocks, carrier) = match self.unlinked() {
            Some(copy) => (vec![copy], None),
            None => match self.split(path, limit) {
                Some(run) => run,
                None => return,
            },
        };
        let (Some(first), Some(last)) = (blocks.first(), blocks.last()) else {
            return;
        };
        let holder = carrier.as_ref().unwrap_or(last);
        let carried = (holder.meta.height, holder.from);
        let run = Run {
            id: RunId(self.next_run),
            from: first.meta.height,
            to: last.meta.height,
            carrier: carried,
        };
        self.next_run += 1;
        let mut height = run.from;
        while height <= run.to {
            if let Some(slot) = self.slot_mut(height)
                && let Stage::Held(copies) = &mut slot.stage
            {
                slot.stage = Stage::Verifying(run.id, std::mem::take(copies));
            }
            height = height.next();
        }
        out.push(Effect::Verify {
            run: run.id,
            blocks,
            carrier,
        });
        self.run = Some(run);
    }

    /// A copy at the frontier that names another predecessor than the one proven. The verifier
    /// tells whether it is wrong, or the network has forked.
    fn unlinked(&self) -> Option<Candidate<B>> {
        let proven = self.proven_id?;
        self.slot(self.proven.next())?
            .copies()
            .iter()
            .find(|c| c.meta.parent != proven)
            .cloned()
    }

    /// The copies from the frontier up, each the parent of the next; `most` at most.
    fn linked_path(&self, most: usize) -> Vec<Candidate<B>> {
        let mut path: Vec<Candidate<B>> = Vec::new();
        let mut height = self.proven.next().max(self.initial);
        let mut parent = self.proven_id;
        while path.len() < most {
            let above = self.slot(height.next()).map_or(&[][..], Slot::copies);
            let copies = self.slot(height).map_or(&[][..], Slot::copies);
            let links = |c: &&Candidate<B>| parent.is_none_or(|p| c.meta.parent == p);
            let continued = |c: &&Candidate<B>| above.iter().any(|a| a.meta.parent == c.meta.id);
            let Some(copy) = copies
                .iter()
                .filter(links)
                .find(continued)
                .or_else(|| copies.iter().find(links))
            else {
                break;
            };
            parent = Some(copy.meta.id);
            path.push(copy.clone());
            height = height.next();
        }
        path
    }

    /// A run of `limit` blocks at most and its carrier, out of one more linked copy at most.
    fn split(&self, mut path: Vec<Candidate<B>>, limit: usize) -> Option<Carried<B>> {
        let end = path.last()?;
        if path.len() <= limit
            && end.meta.has_own_commit
            && self.may_use_own_commit(end.meta.height)
        {
            return Some((path, None));
        }
        if path.len() > 1 {
            let carrier = path.pop();
            return Some((path, carrier));
        }
        let above = self.slot(path[0].meta.height.next())?;
        let carrier = above.copies().first()?.clone();
        Some((path, Some(carrier)))
    }

    /// The commit beside a block is used only where no block above it is held.
    fn may_use_own_commit(&self, height: Height) -> bool {
        self.slot(height.next()).is_none_or(Slot::is_missing)
    }

    pub(super) fn verdict(
        &mut self,
        run: RunId,
        verdict: Verdict,
        now: Tick,
        out: &mut Vec<Effect<B>>,
    ) {
        let Verdict {
            certified,
            shorten,
            guilty,
            unfit,
            fork,
        } = verdict;
        let current = self.run.take_if(|r| r.id == run);
        if let Some(run) = &current {
            self.back_to_held(run);
        }
        let says_nothing = certified.is_none()
            && shorten.is_none()
            && guilty.is_empty()
            && unfit.is_none()
            && fork.is_none();
        for (from, height, fault) in guilty {
            self.convict_copy(height, from, fault, now, out);
        }
        if let Some(fork) = fork {
            let [a, b] = fork.ids;
            let what = format!("two certificates for height {}: {a} and {b}", fork.height);
            self.fail(Outcome::Contradiction {
                what,
                fork: Some(fork),
            });
            return;
        }
        // A proof stays, whichever run asked for it; the rest speaks of a run that is over.
        if let Some((height, id)) = certified {
            self.run_limit = None;
            self.certify(height, id, now, out);
        }
        let Some(run) = current else { return };
        if says_nothing {
            self.discard_carrier(&run);
        }
        if let Some(limit) = shorten.filter(|_| run.from == self.proven.next().max(self.initial)) {
            if limit > self.proven && run.to > run.from {
                self.run_limit = Some(limit.min(run.to.prev()));
            } else if self.proven > self.applied {
                // Not even one block can be judged before more is applied.
                (self.run_limit, self.await_applied) = (None, true);
            } else {
                self.discard_carrier(&run);
            }
        }
        if let Some(unfit) = unfit {
            self.unfit(unfit);
        }
    }

    /// The copies prove nothing, and convict nobody: others are needed. A long run is tried again
    /// as its first block alone.
    fn discard_carrier(&mut self, run: &Run) {
        if run.to > run.from {
            self.run_limit = Some(run.from);
            return;
        }
        let (height, from) = run.carrier;
        let Some(slot) = self.slot_mut(height) else {
            return;
        };
        slot.refuse(from.conn);
        let gone = slot.remove_copies(|c| c.from == from);
        self.held_bytes -= gone.iter().map(|c| u64::from(c.meta.bytes)).sum::<u64>();
        self.note_missing(height);
    }

    fn back_to_held(&mut self, run: &Run) {
        let mut height = run.from;
        while height <= run.to {
            if let Some(slot) = self.slot_mut(height)
                && let Stage::Verifying(_, copies) = &mut slot.stage
            {
                slot.stage = Stage::Held(std::mem::take(copies));
            }
            height = height.next();
        }
    }

    /// `id` is proven for `height`, and below it whatever the copies with the proven ids name as
    /// their parents.
    fn certify(&mut self, height: Height, id: BlockId, now: Tick, out: &mut Vec<Effect<B>>) {
        let (mut height, mut id) = (height, id);
        while height > self.proven {
            let Some(slot) = self.slot_mut(height) else {
                break;
            };
            if slot.is_proven() {
                break;
            }
            slot.certified = Some(id);
            let parent = slot
                .copies()
                .iter()
                .find(|c| c.meta.id == id)
                .map(|c| c.meta.parent);
            let rivals = slot.remove_copies(|c| c.meta.id != id);
            self.held_bytes -= rivals.iter().map(|c| u64::from(c.meta.bytes)).sum::<u64>();
            self.note_missing(height);
            for rival in rivals {
                self.judge_rival(rival, id, now, out);
            }
            let Some(parent) = parent else { break };
            (height, id) = (height.prev(), parent);
        }
        self.advance(now);
    }

    /// Moves the frontier over heights whose certified copies are held.
    pub(super) fn advance(&mut self, now: Tick) {
        loop {
            let height = self.proven.next().max(self.initial);
            let proven_id = self.proven_id;
            let Some(slot) = self.slot_mut(height) else {
                return;
            };
            let (Some(id), Stage::Held(copies)) = (slot.certified, &mut slot.stage) else {
                return;
            };
            // One that names another predecessor than the block proven is a fork, or the end of a
            // lie: the verifier tells.
            let follows = |c: &Candidate<B>| proven_id.is_none_or(|proven| c.meta.parent == proven);
            let Some(at) = copies.iter().position(|c| c.meta.id == id && follows(c)) else {
                return;
            };
            let copy = copies.swap_remove(at);
            let supplier = copy.from.conn;
            let rest: u64 = copies.iter().map(|c| u64::from(c.meta.bytes)).sum();
            slot.stage = Stage::Verified(copy);
            self.held_bytes -= rest;
            (self.proven, self.proven_id) = (height, Some(id));
            self.last_progress = now;
            let carried = self.slot(height.next()).map_or(&[][..], Slot::copies);
            let carrier = carried.first().map(|c| c.from.conn);
            for id in [Some(supplier), carrier].into_iter().flatten() {
                self.credit_claim(id, height, now);
            }
        }
    }

    /// Looks into a copy with the certified header hash but another part set.
    pub(super) fn examine(
        &mut self,
        copy: Candidate<B>,
        certified: BlockId,
        out: &mut Vec<Effect<B>>,
    ) {
        let run = RunId(self.next_run);
        self.next_run += 1;
        self.examining.insert(run, (copy.meta.height, copy.from));
        out.push(Effect::Examine {
            run,
            copy,
            certified,
        });
    }

    pub(super) fn examined(
        &mut self,
        run: RunId,
        guilty: Option<Proof>,
        now: Tick,
        out: &mut Vec<Effect<B>>,
    ) {
        let Some((height, from)) = self.examining.remove(&run) else {
            return;
        };
        match guilty {
            Some(proof) => self.convict(from, Fault::BadBlock(proof), now, out),
            None => {
                if let Some(slot) = self.slot_mut(height) {
                    slot.not_canonical = true;
                }
            }
        }
    }

    /// The first block does not fit our genesis: whoever gave it is believed as little as we are,
    /// until all say the same.
    fn unfit(&mut self, unfit: super::Unfit) {
        let height = self.initial;
        let Some(slot) = self.slot_mut(height) else {
            return;
        };
        let other = slot.unfit.as_ref().is_some_and(|(id, _)| *id != unfit.id);
        let gone = slot.remove_copies(|c| c.meta.id == unfit.id);
        if !other {
            slot.unfit = Some((unfit.id, unfit.what));
        }
        self.held_bytes -= gone.iter().map(|c| u64::from(c.meta.bytes)).sum::<u64>();
        self.note_missing(height);
        for copy in &gone {
            self.note_unfit(height, copy.from.conn);
        }
    }

    /// This connection's block of that height does not fit our genesis: it is not asked for it
    /// again, and not counted among those who have it.
    pub(super) fn note_unfit(&mut self, height: Height, id: ConnId) {
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.unfit = Some(height);
            self.count(id);
            self.refresh(id);
        }
    }

    /// Everybody who has the first block gave one that does not fit our genesis. With more than
    /// `TRIES` who claim it and do not have it that is not said, and need not be: there is no
    /// usable peer then.
    pub(super) fn contradicted_by_all(&self) -> Option<String> {
        let slot = self.slot(self.initial)?;
        let (id, what) = slot.unfit.as_ref()?;
        let others = self.tall.range((self.initial, false, ConnId(0))..);
        let others = || others.clone().map(|(_, _, id)| id);
        let has = |id: &ConnId| self.conns.get(id).is_some_and(|c| c.has(self.initial));
        let all = slot.is_missing()
            && slot.asks.is_empty()
            && self.statuses as usize == self.conns.len()
            && !others().take(TRIES).any(has)
            && others().nth(TRIES).is_none();
        all.then(|| {
            format!(
                "genesis or application differs: every peer asked gives block {} as {id}; {what}",
                self.initial
            )
        })
    }

    /// Nothing final in haste: those who are on their way may say something else.
    pub(super) fn has_heard_all(&self, now: Tick) -> bool {
        let patience = if self.expected == 0 {
            self.config.settle
        } else {
            self.config.claim_patience
        };
        let settled = |first: Tick| now.0 >= first.0.saturating_add(patience);
        self.first_up.is_some_and(settled)
    }

    /// Configured peers were told, and none of them gave a first block that does not fit our
    /// genesis.
    pub(super) fn only_strangers_are_unfit(&self) -> bool {
        let Some(configured) = &self.configured else {
            return false;
        };
        let unfit = |peer: &PeerId| {
            let conn = self.by_peer.get(peer).and_then(|id| self.conns.get(id));
            conn.is_some_and(|c| c.unfit.is_some())
        };
        !configured.iter().any(unfit)
    }

    /// The executor refuses a copy. Everything it still had goes back: it discards what was under
    /// way.
    pub(super) fn rejected(
        &mut self,
        height: Height,
        from: Source,
        fault: Fault,
        now: Tick,
        out: &mut Vec<Effect<B>>,
    ) {
        self.applying = 0;
        // No further than what was proven: each of these is proven anew, and the supplier pays for
        // it.
        for slot in self.slots.iter_mut().take_while(|s| s.is_proven()) {
            if let Stage::Applying(copy) | Stage::Verified(copy) =
                std::mem::replace(&mut slot.stage, Stage::Wanted)
            {
                slot.stage = Stage::Held(vec![copy]);
            }
        }
        (self.proven, self.proven_id) = (self.applied, None);
        self.convict_copy(height, from, fault, now, out);
        self.await_applied = false;
        self.advance(now);
    }

    /// Hands proven blocks to the executor, up to the highest for which a commit is at hand.
    pub(super) fn apply(&mut self, out: &mut Vec<Effect<B>>) {
        while let Some((last, carrier)) = self.next_job() {
            let mut height = self.next().plus(u64::from(self.applying));
            let mut blocks = Vec::new();
            while height <= last {
                let Some(slot) = self.slot_mut(height) else {
                    break;
                };
                if let Stage::Verified(copy) = &slot.stage {
                    let copy = copy.clone();
                    blocks.push(copy.clone());
                    slot.stage = Stage::Applying(copy);
                    self.applying += 1;
                }
                height = height.next();
            }
            if blocks.is_empty() {
                return;
            }
            out.push(Effect::Apply { blocks, carrier });
        }
    }

    /// The last height of the next job, and the copy that carries the commit for it.
    fn next_job(&self) -> Option<(Height, Option<Candidate<B>>)> {
        let first = self.next().plus(u64::from(self.applying));
        let room = u64::from(self.config.applying.saturating_sub(self.applying));
        let most = self
            .config
            .until
            .map_or(self.proven, |until| self.proven.min(until));
        if room == 0 || first > most {
            return None;
        }
        let mut last = self.end_of_job(first, most.min(first.plus(room - 1)));
        let mut carrier = self.carrier_of(last);
        if carrier.is_none() && !self.proven_with_own_commit(last) {
            // The block above the last has not come: the one below is carried by the last itself.
            last = last.prev();
            carrier = self.carrier_of(last);
        }
        let carried = carrier.is_some() || self.proven_with_own_commit(last);
        (last >= first && carried).then_some((last, carrier))
    }

    /// Where a job that begins at `first` has its bytes; `most` at the latest.
    fn end_of_job(&self, first: Height, most: Height) -> Height {
        let (mut height, mut bytes) = (first, 0);
        while height < most {
            let copies = self.slot(height).map_or(&[][..], Slot::copies);
            bytes += copies.iter().map(|c| u64::from(c.meta.bytes)).sum::<u64>();
            if bytes >= self.config.job_bytes {
                break;
            }
            height = height.next();
        }
        height
    }

    /// The copy one height above a proven block that names it as its parent.
    fn carrier_of(&self, height: Height) -> Option<Candidate<B>> {
        let id = self.slot(height)?.copies().first()?.meta.id;
        self.slot(height.next())?
            .copies()
            .iter()
            .find(|c| c.meta.parent == id)
            .cloned()
    }

    fn proven_with_own_commit(&self, height: Height) -> bool {
        self.slot(height)
            .is_some_and(|s| s.is_proven() && s.copies().iter().any(|c| c.meta.has_own_commit))
    }
}
