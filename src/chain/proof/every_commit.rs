//! Each height's commit, in full.

use std::ops::Range;

use super::{Basis, Judge, Judgement};
use crate::chain::commit::Commit;
use crate::chain::signatures::SignatureBatch;
use crate::chain::validators::ValidatorSet;
use crate::chain::verify::{CommitError, check_commit, first_bad, push_signatures};
use crate::ids::Hash;

/// Signatures of many heights are checked together, up to about this number: they cost 250 bytes
/// each.
const WINDOW: usize = 16_384;

/// A commit whose signatures are in the batch.
struct Pending<'a> {
    /// Of the run's block.
    index: usize,
    commit: &'a Commit,
    set: &'a ValidatorSet,
    basis: Basis,
    range: Range<usize>,
}

/// Why the walk goes no further.
enum Stop {
    /// The run ends, or the commit is for another block than the copy, so that the copies above are
    /// not on the chain.
    End,
    /// The set of this block is not known yet.
    Unknown(usize),
    /// The commit for this block fails.
    Failed(usize, Basis, CommitError),
}

impl<'a> Judge<'a> {
    /// Walks the run upward: each certified header names the set of the next height (3b).
    pub(super) fn every_commit(&self) -> Judgement {
        let mut judgement = Judgement::default();
        let (mut index, mut named) = (0, self.named_by_base());
        loop {
            let mut batch = SignatureBatch::new();
            let (pending, stop) = self.gather(index, &mut named, &mut batch);
            // Signatures of many heights are checked together, and then read height by height: the
            // first bad commit ends the walk.
            let bad = self.cpu.check(&batch);
            index += pending.len();
            for p in pending {
                if let Err(error) = first_bad(p.commit, &batch, &p.range, &bad) {
                    return self.failed(judgement, p.index, p.basis, &error);
                }
                let height = self.case.run[p.index].height();
                judgement.certified = Some((height, p.commit.block_id));
                judgement.fully_verified.push(height);
                if p.index + 1 == self.case.run.len() {
                    judgement.fork = self.fork_at_top(p.set, p.commit);
                }
            }
            match stop {
                None => {}
                Some(Stop::End) => return judgement,
                Some(Stop::Unknown(index)) => return self.waiting(judgement, index),
                Some(Stop::Failed(index, basis, error)) => {
                    return self.failed(judgement, index, basis, &error);
                }
            }
        }
    }

    /// Checks all but the signatures of commits from the block at `index` up, and collects these.
    /// The sets are right if all signatures below are good, which the caller finds out before it
    /// uses a verdict.
    fn gather(
        &self,
        from: usize,
        named: &mut Option<Hash>,
        batch: &mut SignatureBatch,
    ) -> (Vec<Pending<'a>>, Option<Stop>) {
        let mut pending = Vec::new();
        for index in from..self.case.run.len() {
            // The rest of the run follows once these signatures are judged.
            if batch.len() >= WINDOW {
                return (pending, None);
            }
            let copy = self.case.run[index];
            let Some((commit, _)) = self.commit_for(index) else {
                return (pending, Some(Stop::Unknown(index)));
            };
            let Some((set, basis)) = self.set_for(copy, *named, commit) else {
                return (pending, Some(Stop::Unknown(index)));
            };
            let (height, known) = (copy.height(), self.case.known);
            let rules = known.rules.of_commit(height);
            if let Err(error) = check_commit(rules, set, &commit.block_id, height, commit) {
                return (pending, Some(Stop::Failed(index, basis, error)));
            }
            let range = push_signatures(rules, &known.chain_id, set, commit, batch);
            pending.push(Pending {
                index,
                commit,
                set,
                basis,
                range,
            });
            // It decides another block than this copy, on which all above it build.
            if commit.block_id != copy.id {
                return (pending, Some(Stop::End));
            }
            // By (3b), provided that this commit's signatures are good.
            *named = copy.block.header.next_validators_hash;
        }
        (pending, Some(Stop::End))
    }

    /// A commit failed; everything below its block is certified.
    fn failed(
        &self,
        mut judgement: Judgement,
        index: usize,
        basis: Basis,
        error: &CommitError,
    ) -> Judgement {
        match self.convict(index, basis, error) {
            Some(guilty) => judgement.guilty.push(guilty),
            None if basis == Basis::Claimed => return self.waiting(judgement, index),
            None => {}
        }
        judgement
    }

    /// The block at `index` cannot be judged before more has been applied.
    fn waiting(&self, judgement: Judgement, index: usize) -> Judgement {
        // Progress was made: the next run begins above it, and is judged with what that certifies.
        if judgement.certified.is_some() {
            return judgement;
        }
        self.shortened(self.case.run[index].height().prev())
    }
}
