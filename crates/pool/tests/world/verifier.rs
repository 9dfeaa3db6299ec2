//! The world's verifier, which knows the true chain.

use super::{Body, OTHER_GENESIS, World, block_id};
use blocksync_pool::{Candidate, Unfit, Verdict};
use blocksync_types::fault::{Fault, Proof};
use blocksync_types::ids::{BlockId, Height};

impl World {
    /// No run: one copy alone, which names another predecessor than the block proven.
    fn unlinked(&mut self, first: &Candidate<Body>, parent: BlockId) -> Verdict {
        // No copy here has its own commit: this one names another predecessor than the one
        // proven.
        assert_ne!(first.meta.parent, parent);
        *self.report.seen.entry("unlinked").or_default() += 1;
        let fault = Fault::BadBlock(Proof(format!("block {} is not linked", first.meta.height)));
        Verdict {
            guilty: vec![(first.from, first.meta.height, fault)],
            ..Verdict::default()
        }
    }

    /// The first block of a chain with another genesis fits no state of ours.
    fn unfit(&self, first: &Candidate<Body>) -> Option<Unfit> {
        let initial = self.scenario.initial;
        let id = block_id(initial, OTHER_GENESIS);
        let what = format!("expected {}", block_id(initial, 0));
        (first.meta.height.get() == initial && first.meta.id == id).then_some(Unfit { id, what })
    }

    /// How far a block shows the chain to be decided: to the height below that of its commit, where
    /// that is by a set that is known.
    pub(super) fn judge_claim(&mut self, copy: &Candidate<Body>) -> Option<Height> {
        let decided = copy.meta.height.get() - 1;
        let is_true = decided <= self.scenario.tip
            && copy.block.commit_good
            && copy.meta.parent == block_id(decided, 0);
        let known = decided <= self.executed + self.scenario.known_sets;
        let proven = (is_true && known).then(|| Height::new(decided - 1));
        let what = proven.map_or("claim_open", |_| "claim_proven");
        *self.report.seen.entry(what).or_default() += 1;
        proven
    }

    /// The true verifier: a commit is valid when its carrier says so and it states the true id.
    pub(super) fn judge(
        &mut self,
        blocks: &[Candidate<Body>],
        carrier: Option<&Candidate<Body>>,
    ) -> Verdict {
        let first = &blocks[0];
        let parent = if first.meta.height.get() == self.scenario.initial {
            BlockId::ZERO
        } else {
            block_id(first.meta.height.get() - 1, 0)
        };
        let Some(carrier) = carrier else {
            return self.unlinked(first, parent);
        };
        if let Some(unfit) = self.unfit(first) {
            return Verdict {
                unfit: Some(unfit),
                ..Verdict::default()
            };
        }
        let last = blocks.last().unwrap();
        for pair in blocks.windows(2) {
            assert_eq!(
                pair[1].meta.parent, pair[0].meta.id,
                "a run that does not link"
            );
        }
        let height = last.meta.height;
        let applied = Height::new(self.executed);
        let known = height.above(applied) <= 2 || height.above(applied) <= self.scenario.known_sets;
        let stated = carrier.meta.parent;
        if !known {
            *self.report.seen.entry("shorten").or_default() += 1;
            let shorten = Some(
                applied
                    .plus(self.scenario.known_sets.max(2))
                    .min(height.prev()),
            );
            return Verdict {
                shorten,
                ..Verdict::default()
            };
        }
        if carrier.block.commit_good && stated == block_id(height.get(), 0) {
            *self.report.seen.entry("certified").or_default() += 1;
            return Verdict {
                certified: Some((height, stated)),
                ..Verdict::default()
            };
        }
        if height.above(applied) <= 1 || (height.above(applied) == 2 && blocks.len() == 1) {
            *self.report.seen.entry("guilty").or_default() += 1;
            let fault = Fault::BadCommit(Proof(format!("commit for {height}")));
            let guilty = vec![(carrier.from, carrier.meta.height, fault)];
            return Verdict {
                guilty,
                ..Verdict::default()
            };
        }
        *self.report.seen.entry("undecided").or_default() += 1;
        Verdict {
            shorten: Some(height.prev()),
            ..Verdict::default()
        }
    }
}
