//! Commits that hold one signature for all votes for the block and one for all votes for nil, as
//! Berachain's fork writes them (`versions.md` 1.10).
//!
//! Signatures over one message add up to one that the sum of the keys verifies. So an aggregate is
//! one item of a batch, under one key. That holds as long as nobody chose a key to cancel out
//! others', which can only be prevented where validators are admitted, not by a verifier.

use super::commit::{BlockIdFlag, Commit, CommitSig, SignBytes, Signature, VoteForm};
use super::key::{BlsKey, PublicKey};
use super::signatures::SignatureBatch;
use super::time::Time;
use super::validators::ValidatorSet;

/// A signature of a commit, and the entries of those who made it together.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Aggregate {
    /// The first signer's entry, which holds the signature.
    first: usize,
    /// The others', ascending.
    others: Vec<usize>,
}

impl Aggregate {
    /// Indices of all signers' entries, ascending.
    pub(super) fn signers(&self) -> impl Iterator<Item = usize> {
        std::iter::once(self.first).chain(self.others.iter().copied())
    }

    /// The entry that holds the signature.
    pub(super) fn entry<'a>(&self, commit: &'a Commit) -> &'a CommitSig {
        &commit.signatures[self.first]
    }

    /// Adds the signature to the batch, under the sum of the keys that `key` gives for each
    /// signer's index. Where one of them has none of BLS12-381 it adds an item that is bad.
    pub(super) fn push<'a>(
        &self,
        commit: &Commit,
        key: impl Fn(usize) -> Option<&'a PublicKey>,
        signing: &SignBytes,
        batch: &mut SignatureBatch,
    ) {
        let sig = self.entry(commit);
        let (key, signature) = match self.sum(key) {
            Some(sum) => (sum, sig.signature.clone()),
            // A signature of no bytes is bad under every key.
            None => (PublicKey::Ed25519([0; 32]), Signature::EMPTY),
        };
        batch.push(key, signature, self.first, |out| signing.write(sig, out));
    }

    /// The sum of the signers' keys, if each has one of BLS12-381.
    pub(super) fn sum<'a>(
        &self,
        key: impl Fn(usize) -> Option<&'a PublicKey>,
    ) -> Option<PublicKey> {
        let bls = |index| match key(index)? {
            PublicKey::Bls12381(key) => Some(key),
            _ => None,
        };
        let keys: Vec<&BlsKey> = self.signers().map(bls).collect::<Option<_>>()?;
        BlsKey::sum(&keys).map(PublicKey::Bls12381)
    }
}

/// An entry that is not of the form that the rules have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Misformed {
    /// The entry.
    pub(super) index: usize,
    /// The fault.
    pub(super) what: &'static str,
}

/// Whether all entries are of the form that votes have under the rules. The stateless check, which
/// does not know the rules, takes both.
pub(super) fn check_form(form: VoteForm, commit: &Commit) -> Result<(), Misformed> {
    for (index, sig) in commit.signatures.iter().enumerate() {
        let what = match form {
            _ if sig.flag == BlockIdFlag::Absent => continue,
            VoteForm::Timed if sig.flag.is_aggregated() => {
                "the vote is part of an aggregated signature, which the rules do not have"
            }
            // With a time the stateless check has missed it already.
            VoteForm::Timed if sig.signature.is_empty() && sig.timestamp == Time::ZERO => {
                "expected a signature, found none"
            }
            VoteForm::Aggregated if sig.timestamp != Time::ZERO => {
                "the vote has a time, which votes do not have under the rules"
            }
            _ => continue,
        };
        return Err(Misformed { index, what });
    }
    Ok(())
}

/// The power of all votes for the block in a commit that has aggregates, when it is formed as it
/// must be. The commit's size is the set's.
pub(super) fn check(set: &ValidatorSet, commit: &Commit) -> Result<i64, Misformed> {
    let mut power = 0;
    for (index, (sig, seat)) in commit.signatures.iter().zip(set.iter()).enumerate() {
        if sig.flag == BlockIdFlag::Absent {
            continue;
        }
        // Aggregation is a property of BLS: signatures of other keys do not add up.
        if !matches!(seat.key, PublicKey::Bls12381(_)) {
            let what = "the commit is aggregated, but the key is not of bls12_381";
            return Err(Misformed { index, what });
        }
        if !sig.flag.is_aggregated() {
            let what = "a vote with a signature of its own in an aggregated commit";
            return Err(Misformed { index, what });
        }
        // Power is counted by the flag: entries 5 and 7 have no signature of their own to look at.
        if sig.flag.is_for_block() {
            power += seat.power;
        }
    }
    // For their errors alone: whether each part has a signature before it, and only one.
    of_block(commit)?;
    of_nil(commit)?;
    Ok(power)
}

/// The aggregate of the votes for the block.
pub(super) fn of_block(commit: &Commit) -> Result<Option<Aggregate>, Misformed> {
    let flags = [BlockIdFlag::AggCommit, BlockIdFlag::AggCommitAbsent];
    gather(commit, flags)
}

fn of_nil(commit: &Commit) -> Result<Option<Aggregate>, Misformed> {
    let flags = [BlockIdFlag::AggNil, BlockIdFlag::AggNilAbsent];
    gather(commit, flags)
}

/// Both aggregates of a commit that [`check`] has passed.
pub(super) fn all(commit: &Commit) -> impl Iterator<Item = Aggregate> {
    let both = [of_block(commit), of_nil(commit)];
    both.into_iter().filter_map(Result::ok).flatten()
}

/// The aggregate of the first flag's entry and those of the other's, all after it.
fn gather(
    commit: &Commit,
    [first, other]: [BlockIdFlag; 2],
) -> Result<Option<Aggregate>, Misformed> {
    let mut found: Option<Aggregate> = None;
    for (index, sig) in commit.signatures.iter().enumerate() {
        match &mut found {
            None if sig.flag == first => {
                let others = Vec::new();
                found = Some(Aggregate {
                    first: index,
                    others,
                });
            }
            Some(_) if sig.flag == first => {
                let what = "a second aggregated signature for the same votes";
                return Err(Misformed { index, what });
            }
            // Berachain asks for this order: the first signer holds the sum (`versions.md` 1.10).
            None if sig.flag == other => {
                let what = "part of an aggregated signature that no entry before it holds";
                return Err(Misformed { index, what });
            }
            Some(aggregate) if sig.flag == other => aggregate.others.push(index),
            _ => {}
        }
    }
    Ok(found)
}
