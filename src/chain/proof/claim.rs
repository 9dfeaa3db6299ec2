//! How far a block far above us shows the chain to be decided.

use super::KnownSets;
use crate::chain::block::Fetched;
use crate::chain::commit::Commit;
use crate::chain::signatures::{SignatureBatch, SignatureCheck};
use crate::chain::validators::ValidatorSet;
use crate::chain::verify::{CommitError, Light, Share, first_bad, push_trusting};
use crate::ids::{Hash, Height};

/// The highest height that `block` shows to be decided, by the sets that our own state knows. The
/// block itself is not looked into, and is not proven by this.
///
/// More than two thirds of a known set must have signed one of its commits, matched by address.
/// That decides the height of the commit where the set is that height's own, by (3a), or by (3c)
/// for the commit beside the block; otherwise the height below it, by (5).
///
/// `None` where no known set has signed: the validators may have changed since, which is nobody's
/// fault.
#[must_use]
pub fn decided(block: &Fetched, known: &KnownSets, cpu: &dyn SignatureCheck) -> Option<Height> {
    if block.header().chain_id != known.chain_id {
        return None;
    }
    let beside = block.seen_commit.as_ref().and_then(|commit| {
        let is_its = commit.height == block.height() && commit.block_id.hash == block.id.hash;
        let named = block.header().validators_hash.filter(|_| is_its);
        shown(commit, named, known, cpu)
    });
    beside.or_else(|| shown(&block.block.last_commit, None, known, cpu))
}

/// The height that a commit shows to be decided. `named` is the hash of the set that the signed
/// header names as its own.
fn shown(
    commit: &Commit,
    named: Option<Hash>,
    known: &KnownSets,
    cpu: &dyn SignatureCheck,
) -> Option<Height> {
    if commit.height <= known.applied || !commit.block_id.is_complete() {
        return None;
    }
    let own = known
        .by_height(commit.height)
        .or_else(|| known.by_hash(named));
    // A wrong commit is nobody's fault here: it shows nothing.
    let signed = |set| has_signed((set, Share::TWO_THIRDS), commit, known, cpu) == Ok(true);
    if own.is_some_and(signed) {
        return Some(commit.height);
    }
    let foreign = known.coming().any(signed);
    foreign.then(|| commit.height.prev())
}

/// Whether more than this share of a set's power has signed a commit's block, matched by address.
///
/// # Errors
/// A member of the set is there twice, or has not signed what it says.
pub(crate) fn has_signed(
    (set, share): (&ValidatorSet, Share),
    commit: &Commit,
    known: &KnownSets,
    cpu: &dyn SignatureCheck,
) -> Result<bool, CommitError> {
    let rules = (known.rules.of_commit(commit.height), Light::Enough);
    let mut batch = SignatureBatch::new();
    match push_trusting(rules, &known.chain_id, set, commit, share, &mut batch) {
        Ok((_, range)) => first_bad(commit, &batch, &range, &cpu.check(&batch)).map(|()| true),
        Err(CommitError::Power { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::RuleSchedule;
    use crate::chain::commit::{BlockIdFlag, Signature};
    use crate::chain::signatures::Inline;
    use crate::chain::testkit::{TestChain, nowhere};
    use crate::ids::BlockId;

    fn h(height: u64) -> Height {
        Height::new(height)
    }

    /// The height that a block shows to be decided, to one who has applied `applied`.
    fn shows(chain: &TestChain, applied: u64, block: &Fetched) -> Option<u64> {
        let known = KnownSets::of(chain.state_after(h(applied)), &RuleSchedule::default());
        decided(block, &known, &Inline::new([7; 32])).map(Height::get)
    }

    /// 40 heights whose set changes for good at 20: of four validators with equal power two are
    /// replaced.
    fn changing() -> TestChain {
        TestChain::builder(3)
            .powers(&[10, 10, 10, 10])
            .change(20, 0, 0)
            .change(20, 1, 0)
            .change(20, 7, 10)
            .change(20, 8, 10)
            .heights(40)
            .build()
    }

    #[test]
    fn a_known_set_shows_one_less_than_it_signed_unless_the_height_is_its_own() {
        let chain = changing();
        let at = |height| &chain.at(h(height)).fetched;
        // The set of the first twenty heights and some, by address.
        assert_eq!(shows(&chain, 0, at(15)), Some(13));
        assert_eq!(shows(&chain, 0, at(3)), Some(2), "the set of height 2");
        assert_eq!(shows(&chain, 0, at(2)), Some(1));
        assert_eq!(shows(&chain, 0, at(40)), None, "others have signed");
        assert_eq!(shows(&chain, 25, at(40)), Some(38));
        assert_eq!(shows(&chain, 38, at(40)), Some(39));
        assert_eq!(shows(&chain, 39, at(40)), None, "nothing new");
    }

    /// The set of the height after the next is known, too: it may be the first of many.
    #[test]
    fn the_set_of_two_heights_above_shows_as_much_as_the_next_ones() {
        let chain = changing();
        let known = |applied| {
            let state = chain.state_after(h(applied));
            KnownSets::of(state, &RuleSchedule::default())
        };
        // The change of 20 signs from 22 on.
        for (applied, sets) in [(19, 1), (20, 2), (21, 1)] {
            assert_eq!(known(applied).coming().count(), sets, "{applied}");
        }
        let above = &chain.at(h(40)).fetched;
        assert_eq!(shows(&chain, 19, above), None);
        assert_eq!(shows(&chain, 20, above), Some(38));
    }

    #[test]
    fn the_commit_beside_a_block_shows_more() {
        let chain = changing();
        let own = |height| chain.at(h(height)).with_seen_commit();
        assert_eq!(shows(&chain, 25, &own(40)), Some(40), "it names its set");
        assert_eq!(shows(&chain, 0, &own(40)), None);
        let mut other = own(40);
        let commit = other.seen_commit.as_mut();
        commit.expect("its own").block_id = nowhere("another");
        assert_eq!(shows(&chain, 25, &other), Some(38), "as without");
    }

    /// A commit that is genuine, and not for the block that it stands beside, is judged for itself:
    /// the set that the block names says nothing about it.
    #[test]
    fn a_genuine_commit_beside_another_block_is_not_its_own() {
        let chain = changing();
        let beside = |commit: &Commit| {
            let mut block = chain.at(h(40)).fetched.clone();
            block.seen_commit = Some(commit.clone());
            shows(&chain, 25, &block)
        };
        assert_eq!(beside(&chain.at(h(40)).commit), Some(40));
        assert_eq!(beside(&chain.at(h(30)).commit), Some(29), "another height");
        let another = chain.sign(h(40), 0, nowhere("another"), |_| BlockIdFlag::Commit);
        assert_eq!(beside(&another), Some(39), "another block");
    }

    /// Votes for nil are signed by honest validators, too, and their bytes are those of a vote for
    /// a block without an id.
    #[test]
    fn votes_for_nil_decide_nothing() {
        let chain = changing();
        let nil = BlockId::ZERO;
        let whole = chain.at(h(40)).fetched.id;
        let mut half = whole;
        half.parts.hash = None;
        for (id, expected) in [(nil, Some(38)), (half, Some(38)), (whole, Some(40))] {
            let mut block = chain.at(h(40)).fetched.clone();
            block.seen_commit = Some(chain.sign(h(40), 0, id, |_| BlockIdFlag::Commit));
            assert_eq!(shows(&chain, 25, &block), expected, "{id}");
            block.block.last_commit = chain.sign(h(39), 0, id, |_| BlockIdFlag::Commit);
            block.seen_commit = None;
            let expected = (id == whole).then_some(38);
            assert_eq!(shows(&chain, 25, &block), expected, "{id}");
        }
    }

    #[test]
    fn forged_commits_show_nothing() {
        let chain = TestChain::builder(5)
            .powers(&[40, 30, 20, 10])
            .heights(9)
            .build();
        type Doctoring = fn(&mut Commit);
        let doctorings: [Doctoring; 6] = [
            |c| c.round += 1,
            |c| c.height = c.height.next(),
            |c| c.block_id = nowhere("doctored"),
            |c| c.signatures[0].signature = Signature::EMPTY,
            |c| c.signatures[0].flag = BlockIdFlag::Nil,
            |c| c.signatures[1] = c.signatures[0].clone(),
        ];
        for (n, doctor) in doctorings.into_iter().enumerate() {
            let mut block = chain.at(h(9)).fetched.clone();
            assert_eq!(shows(&chain, 1, &block), Some(7));
            doctor(&mut block.block.last_commit);
            assert_eq!(shows(&chain, 1, &block), None, "doctoring {n}");
        }
        let mut foreign = chain.at(h(9)).fetched.clone();
        foreign.block.header.chain_id = "another".into();
        assert_eq!(shows(&chain, 1, &foreign), None);
    }

    /// Exactly two thirds are not enough.
    #[test]
    fn more_than_two_thirds_are_needed() {
        for (absent, expected) in [(0, None), (3, Some(6))] {
            let chain = TestChain::builder(5)
                .powers(&[34, 33, 32, 1])
                .vote(7, absent, BlockIdFlag::Absent)
                .heights(8)
                .build();
            let block = &chain.at(h(8)).fetched;
            assert_eq!(shows(&chain, 1, block), expected, "without {absent}");
        }
    }
}
