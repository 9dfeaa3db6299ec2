//! Runs for the verifier, its verdicts, and what goes to the executor.
//!
//! A run is the longest sequence of held copies, linked by parent ids, right above the frontier;
//! its last copy but one is proven by the last. Where the two copies at the frontier do not link,
//! the upper one's commit is judged all the same: it certifies another id (then the lower copy is
//! wrong) or fails (then the upper one is).

use super::io::{Candidate, Effect, Outcome, RunId, Unfit, Verdict};
use super::peers::TRIES;
use super::prover::Run;
use super::slot::Slot;
use super::{Pool, Tick};
use blocksync_types::fault::{Fault, Proof};
use blocksync_types::ids::{BlockId, ConnId, Height, Source};

/// Blocks to prove, and the copy that holds the commit for the last of them, unless that came with
/// its own.
type Carried<B> = (Vec<Candidate<B>>, Option<Candidate<B>>);

/// While the executor has as many blocks as this, shorter runs wait to become longer.
const WORTH_A_RUN: u64 = 512;

impl<B: Clone> Pool<B> {
    /// Hands a run to the verifier when none is under way and there is something to prove.
    pub(super) fn prove(&mut self, now: Tick, out: &mut Vec<Effect<B>>) {
        if !self.prover.is_ready() {
            return;
        }
        let proven = self.window.proven();
        let lowest_missing = self.window.first_missing().unwrap_or(self.window.end());
        let worth = WORTH_A_RUN.min(u64::from(self.config.run));
        let applying = u64::from(self.window.applying());
        if lowest_missing.above(proven.next()) < worth && applying >= worth {
            // The executor has work, and says when it is done: a longer run costs no more.
            return;
        }
        let limit = self.prover.limit().map_or(usize::MAX, |l| {
            usize::try_from(l.above(proven)).unwrap_or(usize::MAX)
        });
        let most = self.prover.pace().min(u64::from(self.config.run)).max(1);
        let limit = limit
            .min(usize::try_from(most).unwrap_or(usize::MAX))
            .max(1);
        // One copy more than the run has blocks: the last one carries the commit.
        let run = match self.unlinked() {
            Some(copy) => Some((vec![copy], None)),
            None => self.split(self.linked_path(limit + 1), limit),
        };
        let Some((blocks, carrier)) = run else {
            return;
        };
        let (Some(first), Some(last)) = (blocks.first(), blocks.last()) else {
            return;
        };
        let (from, to) = (first.meta.height, last.meta.height);
        let holder = carrier.as_ref().unwrap_or(last);
        let carried = (holder.meta.height, holder.from);
        let applied = self.window.applied();
        let run = self.prover.begin((from, to), carried, applied, now);
        self.window.begin_verifying(run);
        out.push(Effect::Verify {
            run: run.id(),
            blocks,
            carrier,
        });
    }

    /// A copy at the frontier that names another predecessor than the one proven. The verifier
    /// tells whether it is wrong, or the network has forked.
    fn unlinked(&self) -> Option<Candidate<B>> {
        let proven = self.window.proven_id()?;
        self.window
            .copies(self.window.frontier())
            .iter()
            .find(|c| c.meta.parent != proven)
            .cloned()
    }

    /// The copies from the frontier up, each the parent of the next; `most` at most.
    fn linked_path(&self, most: usize) -> Vec<Candidate<B>> {
        let mut path: Vec<Candidate<B>> = Vec::new();
        let mut height = self.window.frontier();
        let mut parent = self.window.proven_id();
        while path.len() < most {
            let copies = self.window.copies(height);
            let above = self.window.copies(height.next());
            let links = |c: &&Candidate<B>| parent.is_none_or(|p| c.meta.parent == p);
            // Of two copies that link, the one on which the next height builds.
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
        // Nothing links to the only copy. The commit of the one above it tells which of them is
        // wrong.
        let above = self.window.copies(path[0].meta.height.next());
        let carrier = above.first()?.clone();
        Some((path, Some(carrier)))
    }

    /// The commit beside a block is used only where no block above it is held.
    fn may_use_own_commit(&self, height: Height) -> bool {
        self.window.copies(height.next()).is_empty()
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
        let current = self.prover.end(run, now);
        if let Some(run) = &current {
            self.window.end_verifying(run);
        }
        let says_nothing = certified.is_none()
            && shorten.is_none()
            && guilty.is_empty()
            && unfit.is_none()
            && fork.is_none();
        // Whether or not the run is still the current one: the supplier travels with the copy, so
        // the blame cannot fall on the peer that has the height now (`faults.md` S6).
        for (from, height, fault) in guilty {
            self.convict_copy(height, from, fault, now, out);
        }
        if let Some(fork) = fork {
            let [a, b] = fork.ids;
            let what = format!("two certificates for height {}: {a} and {b}", fork.height);
            self.tip.fail(Outcome::Contradiction {
                what,
                fork: Some(fork),
            });
            return;
        }
        // A proof stays, whichever run asked for it; the rest speaks of a run that is over.
        if let Some((height, id)) = certified {
            self.prover.lift_limit();
            self.certify(height, id, now, out);
        }
        let Some(run) = current else { return };
        if says_nothing {
            self.discard_carrier(&run);
        }
        let at_frontier = run.from() == self.window.frontier();
        if let Some(limit) = shorten.filter(|_| at_frontier) {
            self.shorten(&run, limit);
        }
        if let Some(unfit) = unfit {
            self.unfit(unfit);
        }
    }

    /// Nobody can be judged yet: the verifier wants a run that ends at `limit` or below.
    fn shorten(&mut self, run: &Run, limit: Height) {
        if limit > self.window.proven() && !run.is_single() {
            self.prover.set_limit(limit.min(run.to().prev()));
        } else if self.window.applied() > run.applied() {
            // More sets are known than when the run was handed in: it is handed in again. Its
            // copies are not to blame for what was not known then.
        } else if self.window.proven() > self.window.applied() {
            // Not even one block can be judged before more is applied.
            self.prover.await_applied();
        } else {
            self.discard_carrier(run);
        }
    }

    /// The copies prove nothing, and convict nobody: others are needed. A long run is tried again
    /// as its first block alone.
    fn discard_carrier(&mut self, run: &Run) {
        if !run.is_single() {
            self.prover.set_limit(run.from());
            return;
        }
        let (height, from) = run.carrier();
        self.window.update(height, |slot| {
            slot.refuse(from.conn);
            slot.remove_copies(|c| c.from == from);
        });
    }

    /// `id` is proven for `height`, and below it whatever the copies with the proven ids name as
    /// their parents.
    fn certify(&mut self, height: Height, id: BlockId, now: Tick, out: &mut Vec<Effect<B>>) {
        let (mut height, mut id) = (height, id);
        while height > self.window.proven() {
            let certified = self.window.update(height, |slot| {
                if slot.is_proven() {
                    return None;
                }
                slot.certify(id);
                let parent = slot.copies().iter().find(|c| c.meta.id == id);
                let parent = parent.map(|c| c.meta.parent);
                Some((parent, slot.remove_copies(|c| c.meta.id != id)))
            });
            let Some((parent, rivals)) = certified.flatten() else {
                break;
            };
            for rival in rivals {
                self.judge_rival(rival, id, now, out);
            }
            // Without a copy of that id its parent is not known, nor anything further below.
            let Some(parent) = parent else { break };
            (height, id) = (height.prev(), parent);
        }
        self.advance(now);
    }

    /// Moves the frontier over heights whose certified copies are held.
    pub(super) fn advance(&mut self, now: Tick) {
        while let Some((meta, supplier)) = self.window.advance() {
            let height = meta.height;
            // Only a proven size moves the estimate that all share.
            self.budget.learn(meta.bytes);
            self.tip.progress(now);
            let carrier = self.window.copies(height.next()).first();
            let carrier = carrier.map(|c| c.from.conn);
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
        let run = self.prover.examine(copy.meta.height, copy.from);
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
        let Some((height, from)) = self.prover.examined(run) else {
            return;
        };
        match guilty {
            Some(proof) => self.convict(from, Fault::BadBlock(proof), now, out),
            None => {
                self.window.update(height, Slot::set_not_canonical);
            }
        }
    }

    /// The first block does not fit our genesis: either side may be wrong, so its supplier is not
    /// blamed, and we go on until all peers say the same.
    fn unfit(&mut self, unfit: Unfit) {
        let height = self.window.initial();
        let Unfit { id, what } = unfit;
        let gone = self.window.update(height, |slot| slot.set_unfit(id, what));
        for copy in gone.iter().flatten() {
            self.note_unfit(height, copy.from.conn);
        }
    }

    /// This connection's block of that height does not fit our genesis: it is not asked for it
    /// again, and not counted among those who have it.
    pub(super) fn note_unfit(&mut self, height: Height, id: ConnId) {
        let next = self.window.next();
        self.peers.update(id, self.budget.estimate(), |peer| {
            peer.set_unfit(height, next);
        });
    }

    /// Everybody who has the first block gave one that does not fit our genesis. With more than
    /// `TRIES` who claim it and do not have it that is not said, and need not be: there is no
    /// usable peer then.
    pub(super) fn contradicted_by_all(&self) -> Option<String> {
        let initial = self.window.initial();
        let slot = self.window.slot(initial)?;
        let (id, what) = slot.unfit()?;
        let others = self.peers.with_claim_from(initial);
        let has = |id: ConnId| self.peers.get(id).is_some_and(|p| p.has(initial));
        let all = slot.is_idle()
            && self.peers.have_all_told()
            && !others.clone().take(TRIES).any(has)
            && others.clone().nth(TRIES).is_none();
        all.then(|| {
            format!(
                "genesis or application differs: every peer asked gives block {initial} as {id}; {what}"
            )
        })
    }

    /// Nothing final in haste: those who come a little later may say something else, and so may
    /// each configured peer until it has failed to come.
    pub(super) fn has_settled(&self, now: Tick) -> bool {
        let settled = |first: Tick| now.0 >= first.0.saturating_add(self.config.settle);
        self.tip.first_up().is_some_and(settled) && !self.peers.awaits_configured()
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
        // No further than what was proven: each of these is proven anew, and the supplier pays for
        // it.
        self.window.unprove();
        self.convict_copy(height, from, fault, now, out);
        self.prover.wake();
        self.advance(now);
    }

    /// Hands proven blocks to the executor, up to the highest for which a commit is at hand.
    pub(super) fn apply(&mut self, out: &mut Vec<Effect<B>>) {
        while let Some((last, carrier)) = self.next_job() {
            let blocks = self.window.begin_applying(last);
            if blocks.is_empty() {
                return;
            }
            out.push(Effect::Apply { blocks, carrier });
        }
    }

    /// The last height of the next job, and the copy that carries the commit for it.
    fn next_job(&self) -> Option<(Height, Option<Candidate<B>>)> {
        let (applying, proven) = (self.window.applying(), self.window.proven());
        let first = self.window.next().plus(u64::from(applying));
        let room = u64::from(self.config.applying.saturating_sub(applying));
        let until = self.config.until;
        let most = until.map_or(proven, |until| proven.min(until));
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
            bytes += self.window.slot(height).map_or(0, Slot::bytes);
            if bytes >= self.config.job_bytes {
                break;
            }
            height = height.next();
        }
        height
    }

    /// The copy one height above a proven block that names it as its parent.
    fn carrier_of(&self, height: Height) -> Option<Candidate<B>> {
        let id = self.window.copies(height).first()?.meta.id;
        self.window
            .copies(height.next())
            .iter()
            .find(|c| c.meta.parent == id)
            .cloned()
    }

    fn proven_with_own_commit(&self, height: Height) -> bool {
        self.window
            .slot(height)
            .is_some_and(|s| s.is_proven() && s.copies().iter().any(|c| c.meta.has_own_commit))
    }
}
