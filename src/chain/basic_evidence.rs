//! The checks of evidence that need no state (`protocol.md` 5.9, last item).

use super::basic::{BasicError, show};
use super::commit::MAX_SIGNATURE;
use super::encode;
use super::evidence::{
    DuplicateVoteEvidence, Evidence, LightBlock, LightClientAttackEvidence, RawValidator, Vote,
};
use super::merkle;
use super::validators::MAX_TOTAL_POWER;
use crate::ids::{BlockId, Hash, Height};

/// The vote type of prevotes.
const PREVOTE: i32 = 1;
/// The vote type of precommits.
const PRECOMMIT: i32 = 2;

/// Why an item of evidence is wrong in itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvidenceBasicError {
    /// A vote of a duplicate vote is malformed.
    #[error("vote {which}: {what}, found {found}")]
    Vote {
        /// `A` or `B`.
        which: char,
        /// The expected value.
        what: &'static str,
        /// The value found.
        found: String,
    },
    /// The votes are not in ascending order of what they are for, or are for the same.
    #[error("duplicate votes for {} and {}: expected the lower one first and no two equal", .0[0], .0[1])]
    VoteOrder(Box<[BlockId; 2]>),
    /// The total power of a light-client attack is not positive.
    #[error("light-client attack: total voting power {found}, expected 1 or more")]
    TotalPower {
        /// The value that it names.
        found: i64,
    },
    /// The common height is 0 or above the conflicting block's.
    #[error("light-client attack: common height {common}, expected 1 to {conflicting}")]
    CommonHeight {
        /// The value that it names.
        common: Height,
        /// The conflicting block's height.
        conflicting: Height,
    },
    /// The conflicting header or its commit is malformed.
    #[error("conflicting block: {0}")]
    Basic(Box<BasicError>),
    /// The conflicting commit is of another height than its header.
    #[error("conflicting block: its commit is for height {found}, expected {expected}")]
    CommitHeight {
        /// The header's.
        expected: Height,
        /// The commit's.
        found: Height,
    },
    /// The conflicting commit is for another header.
    #[error(
        "conflicting block: its commit is for block {}, its header is {}",
        show(found),
        show(expected)
    )]
    CommitBlock {
        /// The header's hash.
        expected: Option<Hash>,
        /// The commit's.
        found: Option<Hash>,
    },
    /// The conflicting set has no members.
    #[error("conflicting block: its validator set is empty")]
    EmptySet,
    /// A member of the conflicting set, its proposer, or one who is to blame is malformed.
    #[error("{who}: {what}")]
    Validator {
        /// Which.
        who: String,
        /// The error.
        what: String,
    },
    /// The proposer is not a member.
    #[error("conflicting block: proposer {found} is not in its validator set")]
    Proposer {
        /// Its address.
        found: String,
    },
    /// The conflicting set's power is above the limit.
    #[error("conflicting block: total voting power {found}, expected at most {MAX_TOTAL_POWER}")]
    SetPower {
        /// The sum.
        found: i128,
    },
    /// The conflicting header names another set.
    #[error(
        "conflicting block: validators_hash {}, its validator set has {found}",
        show(expected)
    )]
    ValidatorsHash {
        /// The hash in the header.
        expected: Option<Hash>,
        /// The hash of the set.
        found: Hash,
    },
}

impl Evidence {
    /// Checks the item by itself (`protocol.md` 5.9, last item).
    ///
    /// # Errors
    /// The first check that fails.
    pub fn check_basic(&self) -> Result<(), EvidenceBasicError> {
        match self {
            Evidence::DuplicateVote(e) => check_duplicate_vote(e),
            Evidence::LightClientAttack(e) => check_light_client_attack(e),
        }
    }
}

fn check_duplicate_vote(e: &DuplicateVoteEvidence) -> Result<(), EvidenceBasicError> {
    for (which, vote) in [('A', &e.vote_a), ('B', &e.vote_b)] {
        check_vote(vote).map_err(|(what, found)| EvidenceBasicError::Vote {
            which,
            what,
            found,
        })?;
    }
    // A vote for nil has the empty key, so it sorts first.
    let (a, b) = (e.vote_a.block_id, e.vote_b.block_id);
    if key(&a) >= key(&b) {
        return Err(EvidenceBasicError::VoteOrder(Box::new([a, b])));
    }
    Ok(())
}

/// Key by which two votes are ordered: block hash, then the bytes of the part-set header.
fn key(id: &BlockId) -> Vec<u8> {
    let mut key = id.hash.map_or_else(Vec::new, |h| h.0.to_vec());
    encode::part_set_header(&id.parts, &mut key);
    key
}

/// Checks a vote by itself; the error has what was expected and what was found.
fn check_vote(v: &Vote) -> Result<(), (&'static str, String)> {
    let fail = |what, found: &dyn ToString| Err((what, found.to_string()));
    if v.kind != PREVOTE && v.kind != PRECOMMIT {
        return fail("expected type 1 or 2", &v.kind);
    }
    if v.height == Height::ZERO {
        return fail("expected height 1 or more", &v.height);
    }
    if v.round < 0 {
        return fail("expected round 0 or more", &v.round);
    }
    if !v.block_id.is_zero() && !v.block_id.is_complete() {
        return fail("expected a complete block id or none", &v.block_id);
    }
    if v.index < 0 {
        return fail("expected index 0 or more", &v.index);
    }
    if v.signature.is_empty() {
        return fail("expected a signature", &"none");
    }
    let (extension, signature) = (v.extension.len(), v.extension_signature.len());
    if v.kind != PRECOMMIT || v.block_id.is_zero() {
        if extension + signature > 0 {
            return fail(
                "expected no extension on a vote other than a precommit for a block",
                &(extension + signature),
            );
        }
    } else if signature > MAX_SIGNATURE {
        return fail(
            "expected an extension signature of at most 3309 bytes",
            &signature,
        );
    } else if signature == 0 && extension > 0 {
        return fail("expected a signature over the extension", &"none");
    }
    Ok(())
}

fn check_light_client_attack(e: &LightClientAttackEvidence) -> Result<(), EvidenceBasicError> {
    let block = &*e.conflicting_block;
    if e.total_voting_power <= 0 {
        return Err(EvidenceBasicError::TotalPower {
            found: e.total_voting_power,
        });
    }
    if e.common_height == Height::ZERO || e.common_height > block.header.height {
        return Err(EvidenceBasicError::CommonHeight {
            common: e.common_height,
            conflicting: block.header.height,
        });
    }
    check_light_block(block)?;
    for (index, validator) in e.byzantine_validators.iter().enumerate() {
        // Only that the key can be decoded; the rest is compared with the computed list.
        if validator.key.is_none() {
            return Err(EvidenceBasicError::Validator {
                who: format!("byzantine validator {index}"),
                what: "no supported key".to_owned(),
            });
        }
    }
    Ok(())
}

/// Whether the parts of a light block fit each other.
fn check_light_block(b: &LightBlock) -> Result<(), EvidenceBasicError> {
    let basic = |e| EvidenceBasicError::Basic(Box::new(e));
    b.header.check_basic().map_err(basic)?;
    b.commit.check_basic().map_err(basic)?;
    if b.commit.height != b.header.height {
        return Err(EvidenceBasicError::CommitHeight {
            expected: b.header.height,
            found: b.commit.height,
        });
    }
    let hash = b.header.hash();
    if b.commit.block_id.hash != hash {
        return Err(EvidenceBasicError::CommitBlock {
            expected: hash,
            found: b.commit.block_id.hash,
        });
    }
    let found = check_set(b)?;
    if b.header.validators_hash != Some(found) {
        return Err(EvidenceBasicError::ValidatorsHash {
            expected: b.header.validators_hash,
            found,
        });
    }
    Ok(())
}

/// Checks a light block's set, whose order is the one given, and computes its hash.
fn check_set(b: &LightBlock) -> Result<Hash, EvidenceBasicError> {
    if b.validators.is_empty() {
        return Err(EvidenceBasicError::EmptySet);
    }
    let mut power = 0_i128;
    let mut leaves = Vec::with_capacity(b.validators.len());
    for (index, validator) in b.validators.iter().enumerate() {
        let key = check_validator(validator).map_err(|what| EvidenceBasicError::Validator {
            who: format!("conflicting block: validator {index}"),
            what,
        })?;
        power += i128::from(validator.power);
        let mut leaf = Vec::new();
        encode::simple_validator(key, validator.power, &mut leaf);
        leaves.push(leaf);
    }
    if power > i128::from(MAX_TOTAL_POWER) {
        return Err(EvidenceBasicError::SetPower { found: power });
    }
    check_validator(&b.proposer).map_err(|what| EvidenceBasicError::Validator {
        who: "conflicting block: proposer".to_owned(),
        what,
    })?;
    if !b.validators.iter().any(|v| v.address == b.proposer.address) {
        return Err(EvidenceBasicError::Proposer {
            found: hex::encode(&b.proposer.address),
        });
    }
    Ok(merkle::root(&leaves))
}

/// Checks a validator of a light block; its key, or what is wrong.
fn check_validator(v: &RawValidator) -> Result<&super::key::PublicKey, String> {
    let key = v.key.as_ref().ok_or("no supported key")?;
    if v.power < 0 {
        return Err(format!("voting power {}, expected 0 or more", v.power));
    }
    let address = key.address();
    if v.address != address.as_ref() {
        return Err(format!(
            "address {}, its key has {address}",
            hex::encode(&v.address)
        ));
    }
    Ok(key)
}
