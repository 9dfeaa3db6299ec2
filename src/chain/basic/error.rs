//! The errors of a block, a commit, a header or an item of evidence in itself.

use std::fmt;

use super::{BLOCK_PROTOCOL, MAX_CHAIN_ID, MAX_EXTENSION, MAX_EXTENSION_SIGNATURE};
use crate::chain::validators::MAX_TOTAL_POWER;
use crate::ids::{Address, BlockId, Hash, Height};

/// Why a block, a commit or a header is wrong in itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BasicError {
    /// The header names another block protocol.
    #[error("header {height}: block protocol {found}, expected {BLOCK_PROTOCOL}")]
    BlockProtocol {
        /// The header's height.
        height: Height,
        /// The value that it names.
        found: u64,
    },
    /// The chain id is too long.
    #[error("header {height}: chain id of {found} bytes, expected at most {MAX_CHAIN_ID}")]
    ChainIdLength {
        /// The header's height.
        height: Height,
        /// Length of the chain id in bytes.
        found: usize,
    },
    /// The header's height is 0.
    #[error("header of height 0, expected 1 or more")]
    ZeroHeight,
    /// The commit's round is negative.
    #[error("commit for {height}: round {found}, expected 0 or more")]
    NegativeRound {
        /// The commit's height.
        height: Height,
        /// The commit's round.
        found: i32,
    },
    /// A commit of a height names no block.
    #[error("commit for {height}: expected a block id, found none")]
    CommitForNil {
        /// The commit's height.
        height: Height,
    },
    /// A commit of a height has no entries.
    #[error("commit for {height}: expected signatures, found none")]
    NoSignatures {
        /// The commit's height.
        height: Height,
    },
    /// An absent entry with an address, a time or a signature.
    #[error("commit for {height}, entry {index}: marked absent, but has {what}")]
    AbsentNotEmpty {
        /// The commit's height.
        height: Height,
        /// The entry.
        index: usize,
        /// The value that it has.
        what: &'static str,
    },
    /// An entry that is not absent, without a signature.
    #[error("commit for {height}, entry {index}: expected a signature of {address}, found none")]
    SignatureMissing {
        /// The commit's height.
        height: Height,
        /// The entry.
        index: usize,
        /// The validator whose signature it should be.
        address: Address,
    },
    /// A vote of an aggregate with a time, which no signature covers.
    #[error("commit for {height}, entry {index}: expected no time in an aggregated vote")]
    TimedAggregate {
        /// The commit's height.
        height: Height,
        /// The entry.
        index: usize,
    },
    /// A vote extension is too large.
    #[error(
        "extended commit for {height}, entry {index}: extension of {found} bytes, expected at most {MAX_EXTENSION}"
    )]
    ExtensionSize {
        /// The commit's height.
        height: Height,
        /// The entry.
        index: usize,
        /// Bytes.
        found: usize,
    },
    /// A signature over a vote extension is too long.
    #[error(
        "extended commit for {height}, entry {index}: extension signature of {found} bytes, expected at most {MAX_EXTENSION_SIGNATURE}"
    )]
    ExtensionSignatureSize {
        /// The commit's height.
        height: Height,
        /// The entry.
        index: usize,
        /// Bytes.
        found: usize,
    },
    /// An extension without a signature, on a vote that is not for the block.
    #[error("extended commit for {height}, entry {index}: extension without a signature")]
    ExtensionUnsigned {
        /// The commit's height.
        height: Height,
        /// The entry.
        index: usize,
    },
    /// `last_commit_hash` is not the root over the last commit.
    #[error(
        "block {height}: last_commit_hash: header has {}, its last commit has {found}",
        show(expected)
    )]
    LastCommitHash {
        /// The block's height.
        height: Height,
        /// The hash in the header.
        expected: Option<Hash>,
        /// The hash of the body.
        found: Hash,
    },
    /// `data_hash` is not the root over the transactions.
    #[error(
        "block {height}: data_hash: header has {}, its transactions have {found}",
        show(expected)
    )]
    DataHash {
        /// The block's height.
        height: Height,
        /// The hash in the header.
        expected: Option<Hash>,
        /// The hash of the body.
        found: Hash,
    },
    /// `evidence_hash` is not the root over the evidence.
    #[error(
        "block {height}: evidence_hash: header has {}, its evidence has {found}",
        show(expected)
    )]
    EvidenceHash {
        /// The block's height.
        height: Height,
        /// The hash in the header.
        expected: Option<Hash>,
        /// The hash of the body.
        found: Hash,
    },
    /// The last commit is not for the height below.
    #[error("block {height}: last commit is for height {found}, expected {}", height.prev())]
    LastCommitHeight {
        /// The block's height.
        height: Height,
        /// The commit's.
        found: Height,
    },
    /// Header and last commit name different blocks as the one before.
    #[error(
        "block {height}: last commit is for block {ids}, the one that the header names as the block before"
    )]
    LastCommitBlockId {
        /// The block's height.
        height: Height,
        /// The header's, and the commit's.
        ids: Box<Unequal>,
    },
    /// An item of evidence is wrong in itself.
    #[error("block {height}, evidence {index}: {error}")]
    Evidence {
        /// The block's height.
        height: Height,
        /// Index of the item in the block's evidence.
        index: usize,
        /// The reason.
        error: Box<EvidenceBasicError>,
    },
}

/// Two block ids that should be equal. Errors box it, for ids are large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unequal {
    /// The expected value.
    pub expected: BlockId,
    /// The value found.
    pub found: BlockId,
}

impl Unequal {
    pub(crate) fn new(expected: BlockId, found: BlockId) -> Box<Self> {
        Box::new(Unequal { expected, found })
    }
}

impl fmt::Display for Unequal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, expected {}", self.found, self.expected)
    }
}

/// A hash that may be absent, for a message.
pub(crate) fn show(hash: &Option<Hash>) -> String {
    hash.map_or_else(|| "none".to_owned(), |h| h.to_string())
}

/// Why an item of evidence is wrong in itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
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
        /// The member, by its role and place.
        who: String,
        /// The error.
        what: String,
    },
    /// The proposer is not a member.
    #[error("conflicting block: proposer {found} is not in its validator set")]
    Proposer {
        /// The proposer's address.
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
