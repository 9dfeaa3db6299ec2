//! The checks of evidence that need no state (`protocol.md` 5.9, last item).

use super::EvidenceBasicError;
use crate::chain::commit::MAX_SIGNATURE;
use crate::chain::encode;
use crate::chain::evidence::{
    DuplicateVoteEvidence, Evidence, LightBlock, LightClientAttackEvidence, RawValidator, Vote,
};
use crate::chain::merkle;
use crate::chain::validators::{self, MAX_TOTAL_POWER};
use crate::ids::{BlockId, Hash, Height};

/// The vote type of prevotes.
const PREVOTE: i32 = 1;
/// The vote type of precommits.
const PRECOMMIT: i32 = 2;

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
    // A nil vote names no block at all; anything between is malformed.
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
    // In 128 bits: powers that are only stated may add up to anything.
    let mut power = 0_i128;
    let mut leaves = Vec::with_capacity(b.validators.len());
    for (index, validator) in b.validators.iter().enumerate() {
        let key = check_validator(validator).map_err(|what| EvidenceBasicError::Validator {
            who: format!("conflicting block: validator {index}"),
            what,
        })?;
        power += i128::from(validator.power);
        let mut leaf = Vec::new();
        validators::encode_simple(key, validator.power, &mut leaf);
        leaves.push(leaf);
    }
    if power > i128::from(MAX_TOTAL_POWER) {
        return Err(EvidenceBasicError::SetPower { found: power });
    }
    check_validator(&b.proposer).map_err(|what| EvidenceBasicError::Validator {
        who: "conflicting block: proposer".to_owned(),
        what,
    })?;
    // Go's own validity check of a set; the proposer matters for nothing else here.
    if !b.validators.iter().any(|v| v.address == b.proposer.address) {
        return Err(EvidenceBasicError::Proposer {
            found: hex::encode(&b.proposer.address),
        });
    }
    Ok(merkle::root(&leaves))
}

/// Checks a validator of a light block; its key, or what is wrong.
fn check_validator(v: &RawValidator) -> Result<&crate::chain::key::PublicKey, String> {
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
