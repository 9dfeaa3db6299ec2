//! One commit for a whole run.

use super::{Judge, Judgement};
use crate::chain::block::Fetched;
use crate::chain::commit::Commit;
use crate::chain::signatures::SignatureBatch;
use crate::chain::verify::{Light, Share, first_bad, push_trusting};
use crate::ids::{BlockId, Height};

impl Judge<'_> {
    /// Judges the commit for the run's last block.
    pub(super) fn anchored(&self) -> Judgement {
        let index = self.case.run.len() - 1;
        let top = self.case.run[index];
        let Some((commit, _)) = self.commit_for(index) else {
            return self.undecided(top);
        };
        // Only right above the base a certified header names the set.
        let named = self.named_by_base().filter(|_| index == 0);
        let Some((set, basis)) = self.set_for(top, named, commit) else {
            return self.by_foreign_set(top, commit);
        };
        match self.full(set, top.height(), commit) {
            Ok(()) => Judgement {
                certified: Some((top.height(), commit.block_id)), // (2), and by (4) everything below
                fork: self.fork_at_top(set, commit),
                fully_verified: vec![top.height()],
                ..Judgement::default()
            },
            Err(error) => match self.convict(index, basis, &error) {
                Some(guilty) => Judgement {
                    guilty: vec![guilty],
                    ..Judgement::default()
                },
                None => self.undecided(top),
            },
        }
    }

    /// Judges it by the power of `V(A+1)` in it, whatever set signs that height: (5).
    fn by_foreign_set(&self, top: &Fetched, commit: &Commit) -> Judgement {
        let below = top.height().prev();
        let news = below > self.case.base.height;
        if news && let Some(id) = self.parent_by_foreign_set(top, commit) {
            return Judgement {
                certified: Some((below, id)),
                ..Judgement::default()
            };
        }
        self.undecided(top)
    }

    /// The id of the block before `top`, when (5) proves it.
    fn parent_by_foreign_set(&self, top: &Fetched, commit: &Commit) -> Option<BlockId> {
        // Without the header that the signers have seen we do not know which block before they have
        // decided.
        if commit.height != top.height() || commit.block_id.hash != top.id.hash {
            return None;
        }
        let (known, mut batch) = (self.case.known, SignatureBatch::new());
        let rules = known.rules.of_commit(top.height());
        let pushed = push_trusting(
            (rules, Light::Enough),
            &known.chain_id,
            &known.next,
            commit,
            Share::TWO_THIRDS,
            &mut batch,
        );
        let (_, range) = pushed.ok()?;
        first_bad(commit, &batch, &range, &self.cpu.check(&batch)).ok()?;
        Some(top.block.header.last_block_id)
    }

    /// Nothing is proven and nobody convicted: a shorter run may do better.
    ///
    /// Half way to the base, or the highest block that claims a set we know if that is higher: a
    /// run of `n` blocks is decided in about 2·log2(n) steps, however many of its blocks are
    /// forged. Of `A+1` and `A+2` both are tried.
    fn undecided(&self, top: &Fetched) -> Judgement {
        let (base, top, known) = (self.case.base.height, top.height(), self.case.known);
        let claims = |block: &&&Fetched| {
            block.height() < top && known.by_hash(block.header().validators_hash).is_some()
        };
        // Only while the top itself claims none: else its claim has just failed, and others may be
        // as false.
        let misled = known
            .by_hash(
                self.case.run[self.case.run.len() - 1]
                    .block
                    .header
                    .validators_hash,
            )
            .is_some();
        let claimed = self.case.run.iter().rev().find(claims);
        let claimed = claimed.filter(|_| !misled).map_or(base, |b| b.height());
        let half = base.plus(top.above(base) / 2);
        let decidable = known.applied.plus(2).min(top.prev());
        let end = half.max(claimed).max(decidable).max(base);
        self.shortened(Height::min(end, top.prev()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Base, Case, KnownSets, Policy, judge};
    use crate::chain::RuleSchedule;
    use crate::chain::commit::{BlockIdFlag, Signature};
    use crate::chain::signatures::Inline;
    use crate::chain::testkit::{TestChain, nowhere};
    use crate::ids::Height;

    /// Two certificates of the last height are a fork, and nothing else beside the block is.
    #[test]
    fn the_commit_beside_the_last_block_is_a_fork_only_if_it_decides_another() {
        let chain = TestChain::builder(1).heights(4).build();
        let (at, elsewhere) = (Height::new(3), nowhere("else"));
        let other = chain.sign(at, 0, elsewhere, |_| BlockIdFlag::Commit);
        let mut unsigned = other.clone();
        unsigned.signatures[1].signature = Signature::EMPTY;
        let its_own = chain.at(at).commit.clone();
        let carrier = &chain.at(at.next()).fetched;
        for policy in [Policy::Anchored, Policy::EveryCommit] {
            for (beside, forks) in [(&its_own, false), (&unsigned, false), (&other, true)] {
                let mut top = chain.at(at).fetched.clone();
                top.seen_commit = Some(beside.clone());
                let (id, state) = (top.id, chain.state_after(at.prev()));
                let case = Case {
                    known: &KnownSets::of(state, &RuleSchedule::default()),
                    base: Base::of(state),
                    run: &[&top],
                    carrier: Some(carrier),
                };
                let judgement = judge(policy, &case, &Inline::new([7; 32]));
                assert_eq!(judgement.certified, Some((at, id)));
                let fork = forks.then_some((at, [id, elsewhere]));
                assert_eq!(judgement.fork, fork, "{policy:?}");
            }
        }
    }
}
