//! Evidence of misbehaviour in a block (`comet-protocol.md` 5.1, 5.9, 5.11).

use bytes::Bytes;

use super::block::Header;
use super::commit::{Commit, Signature};
use super::key::PublicKey;
use super::time::Time;
use crate::ids::{Address, BlockId, Height};

/// A signed vote, as evidence holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vote {
    /// 1 prevote, 2 precommit.
    pub kind: i32,
    /// Height voted on.
    pub height: Height,
    /// Round.
    pub round: i32,
    /// What was voted for; zero is nil.
    pub block_id: BlockId,
    /// When.
    pub timestamp: Time,
    /// Who.
    pub address: Address,
    /// Index in the set; not looked at when evidence is verified.
    pub index: i32,
    /// The signature.
    pub signature: Signature,
    /// Vote extension.
    pub extension: Bytes,
    /// Signature over the extension.
    pub extension_signature: Bytes,
}

/// One validator signed two votes of one height, round and type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DuplicateVoteEvidence {
    /// The vote with the lower key (block hash, then part-set header bytes).
    pub vote_a: Vote,
    /// The other.
    pub vote_b: Vote,
    /// Of the set at that height.
    pub total_voting_power: i64,
    /// Of the offender.
    pub validator_power: i64,
    /// Time of the block of that height.
    pub timestamp: Time,
}

/// A validator as evidence and light blocks carry it; its address need not be its key's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawValidator {
    /// As written.
    pub address: Bytes,
    /// The key; `None` where the oneof is unset or of another kind, which fails the stateless check.
    pub key: Option<PublicKey>,
    /// Power.
    pub power: i64,
    /// Proposer priority.
    pub priority: i64,
}

/// A header, its commit and its set, as a light client got them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LightBlock {
    /// The header.
    pub header: Header,
    /// Its commit.
    pub commit: Commit,
    /// Its set, in the order given.
    pub validators: Vec<RawValidator>,
    /// The proposer field of the set.
    pub proposer: RawValidator,
    /// As written (Go writes 0).
    pub total_voting_power: i64,
}

/// A light client was shown a conflicting header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LightClientAttackEvidence {
    /// What it was shown.
    pub conflicting_block: Box<LightBlock>,
    /// The last height on which both agree.
    pub common_height: Height,
    /// Who is to blame.
    pub byzantine_validators: Vec<RawValidator>,
    /// Of the common set.
    pub total_voting_power: i64,
    /// Time of the block of the common height.
    pub timestamp: Time,
}

/// An item of a block's evidence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// Two votes.
    DuplicateVote(Box<DuplicateVoteEvidence>),
    /// A forged light block.
    LightClientAttack(Box<LightClientAttackEvidence>),
}
