//! The judge: what a run of blocks and one commit prove, and against whom (`design.md` 5).
//!
//! The judge sees a *run* of consecutive blocks `H..=T`, each naming the one before it, on top of
//! the *base*, the last block proven so far; and a commit for `T`, carried by block `T+1` or come
//! with `T` itself. It names the highest block that these prove. It never compares copies: a commit
//! is judged as a certificate for the `BlockId` that it states itself, and comparing is left to the
//! holder of the copies. (No hash covers a commit's height, round and `BlockId`, so an honest block
//! may have come with a doctored commit, and a wrong block below an honest one.)
//!
//! # Why what is certified is the chain's
//!
//! Assumed: of each height's validators those with less than a third of the power are faulty, and
//! keys of the set that signs the next height are not for sale. Write `A` for the applied height
//! and `V(h)` for the set that signs `h`.
//!
//! 1. *A set is known by its hash.* `V(A+1)` and `V(A+2)` come from our own state. A hash covers
//!    keys and powers in order, so a header that names the hash of a set we have names that set.
//! 2. *A full certificate decides.* When more than two thirds of `V(T)` precommit `(T, id)` in one
//!    round, no other block is ever decided at `T`. So a commit that passes the full check under
//!    `V(T)` certifies the id that it states. The full check: one entry for each validator, each
//!    entry by the validator of its index, every present signature valid, those for nil too, and
//!    more than two thirds of the power for the block. (Where the rules do not look at an entry's
//!    address, the validator of its index has still signed it: its key is the one that is tried.)
//! 3. *Which set is `V(T)`.* (a) `V(A+1)` for `T = A+1`: block `A` named it and was checked against
//!    our state, or genesis names it. (b) A certified header `T−1` names `V(T)` as its
//!    `next_validators_hash`. (c) The header of `T` itself names, as its `validators_hash`, a set
//!    `S` that we know, and the commit states that header's hash. The header is not certified, so
//!    this alone is a mere claim; but when the commit then passes the full check under `S`, more
//!    than two thirds of `S` have signed that header. Up to here that is just as strong as what
//!    forging block `A+1` itself would take, so some of the signers are honest; an honest one signs
//!    only a block whose `validators_hash` is its own state's `V(T)`. So `S = V(T)`, and (2)
//!    applies.
//! 4. *Everything below is proven too.* An honest validator signs at `T` only after it has decided
//!    every block below. The id of `T` fixes its header, that names the id of `T−1`, and so on:
//!    copies with these ids are the chain's. The part-set root in an id binds every byte.
//! 5. *A foreign set's power proves one less.* When `V(T)` is unknown, entries for the block by
//!    members of `V(A+1)`, matched by address and each counted once, with valid signatures, may
//!    carry more than two thirds of `V(A+1)`'s power. Some of these signers are honest and have
//!    decided `T−1`, the block that the header of `T` names; the commit must state that header's
//!    hash. This certifies `T−1` and not `T`: in `V(T)` they may be a minority, and two blocks of
//!    `T` may each get them, in different rounds; but both name the same `T−1`.
//! 6. *Whom a failure convicts.* An honest peer hands on only commits that passed the full check
//!    under the set of their height. So a failed full check convicts its supplier when that set is
//!    known *for certain*: (3a) or (3b). A set by (3c) is a claim of a header that may be forged by
//!    somebody else, and (5) may fail for an honest commit: then nobody is convicted, and a shorter
//!    run is asked for. At the first height of all only genesis vouches for the set, and genesis
//!    may be the wrong file: there a failure convicts only a commit that states a header which fits
//!    genesis and so names the set itself. (Whoever vouches for such a header by a commit has been
//!    proven wrong, whatever genesis is.)
//!
//! `A+1` is always decidable, and then, by (3b), `A+2`. The result of
//! executing a certified block is not the judge's matter.

mod anchored;
mod claim;
mod every_commit;
mod examine;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use bytes::Bytes;

use super::block::Fetched;
use super::commit::Commit;
use super::rules::RuleSchedule;
use super::signatures::{SignatureBatch, SignatureCheck};
use super::state::ChainState;
use super::validate::{LastCommit, validate_block};
use super::validators::ValidatorSet;
use super::verify::{CommitError, check_commit, first_bad, push_signatures};
use crate::fault::{Fault, Proof};
use crate::ids::{BlockId, Hash, Height};

pub use claim::decided;
pub(crate) use claim::has_signed;
pub use examine::examine;

/// How much is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Policy {
    /// One commit for a whole run.
    Anchored,
    /// Each height's commit, in full, as CometBFT does since 0.38.22.
    EveryCommit,
}

/// Validator sets that our own state knows.
#[derive(Clone, Debug)]
pub struct KnownSets {
    /// The chain.
    pub chain_id: Bytes,
    /// The last applied height; the one below the initial height when nothing is applied.
    pub applied: Height,
    /// The set that signed `applied`. Only a fork at the applied height is recognised by it.
    pub last: Option<Arc<ValidatorSet>>,
    /// The set that signs `applied + 1`.
    pub next: Arc<ValidatorSet>,
    /// The set that signs `applied + 2`.
    pub after: Arc<ValidatorSet>,
    /// The state before the first block, while nothing is applied: what the first block must fit.
    pub first: Option<Arc<ChainState>>,
    /// The protocol's rules by height.
    pub rules: RuleSchedule,
}

impl KnownSets {
    /// The sets that this state knows, on a chain of these rules.
    #[must_use]
    pub fn of(state: &ChainState, rules: &RuleSchedule) -> Self {
        KnownSets {
            chain_id: state.chain_id.clone(),
            applied: state.next_height().prev(),
            last: state.last_validators.clone(),
            next: Arc::clone(&state.validators),
            after: Arc::clone(&state.next_validators),
            first: (state.last_height == Height::ZERO).then(|| Arc::new(state.clone())),
            rules: rules.clone(),
        }
    }

    /// The sets that sign the next two heights, which are mostly one.
    pub(crate) fn coming(&self) -> impl Iterator<Item = &ValidatorSet> {
        let distinct = 1 + usize::from(self.next.hash() != self.after.hash());
        let sets = [&self.next, &self.after].into_iter().take(distinct);
        sets.map(AsRef::as_ref)
    }

    /// The known set with this hash: (1).
    fn by_hash(&self, hash: Option<Hash>) -> Option<&ValidatorSet> {
        let hash = hash?;
        let mut sets = [&self.next, &self.after].into_iter();
        sets.find(|set| set.hash() == hash).map(AsRef::as_ref)
    }

    /// The set of a height, by our own state.
    fn by_height(&self, height: Height) -> Option<&ValidatorSet> {
        let above = height.above(self.applied);
        let set = match above {
            // `above` is 0 for all heights below, too.
            0 if height == self.applied => self.last.as_ref(),
            1 => Some(&self.next),
            2 => Some(&self.after),
            _ => None,
        };
        set.map(AsRef::as_ref)
    }
}

/// The proven block right below a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Base {
    /// Its height; the one below the initial height when nothing is proven.
    pub height: Height,
    /// Its id; zero when nothing is proven.
    pub id: BlockId,
    /// The set that its header names for the next height. `None` when the header is not at hand:
    /// then fewer commits can be judged, and fewer suppliers convicted. Not needed while `height`
    /// is the applied one.
    pub next_validators: Option<Hash>,
}

impl Base {
    /// The last applied block of a state.
    #[must_use]
    pub fn of(state: &ChainState) -> Self {
        Base {
            height: state.next_height().prev(),
            id: state.last_block_id,
            next_validators: Some(state.validators.hash()),
        }
    }

    /// A proven block.
    #[must_use]
    pub fn at(block: &Fetched) -> Self {
        Base {
            height: block.height(),
            id: block.id,
            next_validators: block.header().next_validators_hash,
        }
    }
}

/// The copy that is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Who {
    /// The block above the run.
    Carrier,
    /// The run's block at this index.
    Run(usize),
}

/// Result of judging a run by its commit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judgement {
    /// The highest height proven and its id; the copies of the run that are linked to it by parent
    /// ids are proven too.
    pub certified: Option<(Height, BlockId)>,
    /// Nobody can be judged yet: hand in a run that ends at this height or below. A height below
    /// the run's first means that nothing here can be judged before more blocks have been applied.
    /// When all fields are empty these copies prove nothing and others are needed.
    pub shorten: Option<Height>,
    /// Copies proven wrong.
    pub guilty: Vec<(Who, Fault)>,
    /// The first block of the chain does not fit our genesis state: its id, and in what. Nobody is
    /// convicted by it.
    pub unfit: Option<(BlockId, String)>,
    /// Two certificates of one height under its own set, for different blocks.
    pub fork: Option<(Height, [BlockId; 2])>,
    /// Heights whose commits, as they stand in the blocks above them in this run, in the carrier,
    /// or beside the last block, have passed the full check under the set of their height: nobody
    /// needs to check their signatures again.
    pub fully_verified: Vec<Height>,
}

/// A run to be judged.
#[derive(Clone, Copy, Debug)]
pub struct Case<'a> {
    /// Sets that our own state knows.
    pub known: &'a KnownSets,
    /// The proven block right below the run.
    pub base: Base,
    /// Blocks of consecutive heights, the first right above the base, each naming the one before it
    /// as its parent.
    pub run: &'a [&'a Fetched],
    /// The block above the run, that holds the commit; without it, the commit that came with the
    /// run's last block.
    pub carrier: Option<&'a Fetched>,
}

/// Judges a run. An empty one proves nothing.
#[must_use]
pub fn judge(policy: Policy, case: &Case<'_>, cpu: &dyn SignatureCheck) -> Judgement {
    let Some(first) = case.run.first() else {
        return Judgement::default();
    };
    let judge = Judge { case: *case, cpu };
    // Before any signature: genesis and the link to the base cost nothing to compare.
    if let Some(early) = judge.unfit(first).or_else(|| judge.unlinked(first)) {
        return early;
    }
    match policy {
        Policy::Anchored => judge.anchored(),
        Policy::EveryCommit => judge.every_commit(),
    }
}

/// Why a set may judge a commit; decides whom a failure convicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Basis {
    /// (3a), (3b): the set of the height for certain.
    Certain,
    /// (3a), by genesis alone.
    Genesis,
    /// (3c): the header that the commit states claims so.
    Claimed,
}

/// A case and the means to judge it.
struct Judge<'a> {
    case: Case<'a>,
    cpu: &'a dyn SignatureCheck,
}

impl<'a> Judge<'a> {
    /// The first block of all must fit what genesis and application gave (6). By `ValidateBlock`.
    fn unfit(&self, first: &Fetched) -> Option<Judgement> {
        let state = self.case.known.first.as_ref()?;
        if first.height() != state.initial_height {
            return None;
        }
        let rules = self.case.known.rules.at(first.height());
        let commit = LastCommit::AlreadyVerified;
        // Without a clock: a block that is ahead of ours still fits genesis.
        let mismatch = validate_block(state, &first.block, rules, commit, None).err()?;
        Some(Judgement {
            unfit: Some((first.id, mismatch.to_string())),
            ..Judgement::default()
        })
    }

    /// A block right above the base that names another one as its parent: either its last commit
    /// decides that other one, which is a fork, or the block is wrong, for by (4) the chain's block
    /// names the base.
    fn unlinked(&self, first: &Fetched) -> Option<Judgement> {
        let Base { height, id, .. } = self.case.base;
        let named = first.block.header.last_block_id;
        if named == id {
            return None;
        }
        let mut judgement = Judgement::default();
        let commit = &first.block.last_commit;
        let set = self.case.known.by_height(height);
        // A certificate for the base itself is no fork: then header and commit differ, which
        // convicts.
        if commit.block_id != id && set.is_some_and(|set| self.full(set, height, commit).is_ok()) {
            judgement.fork = Some((height, [id, commit.block_id]));
        } else {
            let proof = format!(
                "block {} names {named} as the block before, but {id} is proven for height {height}",
                first.height()
            );
            judgement.guilty = vec![(Who::Run(0), Fault::BadBlock(Proof(proof)))];
        }
        Some(judgement)
    }

    /// The commit for the run's block at `index`, and whose copy holds it: the block above it, the
    /// carrier, or the last block.
    fn commit_for(&self, index: usize) -> Option<(&'a Commit, Who)> {
        let Case { run, carrier, .. } = self.case;
        if let Some(above) = run.get(index + 1) {
            return Some((&above.block.last_commit, Who::Run(index + 1)));
        }
        match carrier {
            Some(carrier) => Some((&carrier.block.last_commit, Who::Carrier)),
            None => (run.get(index)?.seen_commit.as_ref()).map(|c| (c, Who::Run(index))),
        }
    }

    /// The set that the base's header names for the run's first height.
    fn named_by_base(&self) -> Option<Hash> {
        self.case.base.next_validators
    }

    /// The set that may judge `commit` as a certificate for the height of `copy`, by (3). `named`
    /// is what a certified header right below names for it.
    fn set_for(
        &self,
        copy: &Fetched,
        named: Option<Hash>,
        commit: &Commit,
    ) -> Option<(&'a ValidatorSet, Basis)> {
        let known = self.case.known;
        if copy.height() == known.applied.next() {
            let basis = if known.first.is_some() {
                Basis::Genesis
            } else {
                Basis::Certain
            };
            return Some((&known.next, basis));
        }
        if let Some(set) = known.by_hash(named) {
            return Some((set, Basis::Certain));
        }
        // (3c). A certified header that names a set we do not know leaves no room for another
        // claim.
        let claims = named.is_none() && commit.block_id.hash == copy.id.hash;
        let set = known.by_hash(copy.block.header.validators_hash)?;
        claims.then_some((set, Basis::Claimed))
    }

    /// The full check (2) of a commit as a certificate for the id that it states.
    fn full(&self, set: &ValidatorSet, height: Height, commit: &Commit) -> Result<(), CommitError> {
        let known = self.case.known;
        let rules = known.rules.of_commit(height);
        check_commit(rules, set, &commit.block_id, height, commit)?;
        let mut batch = SignatureBatch::new();
        let range = push_signatures(rules, &known.chain_id, set, commit, &mut batch);
        first_bad(commit, &batch, &range, &self.cpu.check(&batch))
    }

    /// Judges a failed full check of the commit for the run's block at `index` (6): a conviction,
    /// or nothing.
    fn convict(&self, index: usize, basis: Basis, error: &CommitError) -> Option<(Who, Fault)> {
        let (commit, who) = self.commit_for(index)?;
        let copy = self.case.run.get(index)?;
        let proven = match basis {
            Basis::Certain => true,
            Basis::Genesis => commit.block_id.hash == copy.id.hash,
            Basis::Claimed => false,
        };
        let rules = self.case.known.rules.of_commit(copy.height());
        let proof = || Proof(format!("{error} (by the rules of {rules})"));
        proven.then(|| (who, Fault::BadCommit(proof())))
    }

    /// Nobody is convicted; a run that ends at `end` may do better. Right above the applied block
    /// there is nothing to wait for: then only other copies can help, and nothing is said.
    fn shortened(&self, end: Height) -> Judgement {
        Judgement {
            shorten: (end > self.case.known.applied).then_some(end),
            ..Judgement::default()
        }
    }

    /// Two certificates for the last block's height under its set: the one that passed, and the one
    /// that came with the block.
    fn fork_at_top(&self, set: &ValidatorSet, passed: &Commit) -> Option<(Height, [BlockId; 2])> {
        let (top, _) = (self.case.run.last()?, self.case.carrier?);
        let other = top.seen_commit.as_ref()?;
        let forks =
            other.block_id != passed.block_id && self.full(set, top.height(), other).is_ok();
        forks.then_some((top.height(), [passed.block_id, other.block_id]))
    }
}
