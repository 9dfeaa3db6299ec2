//! Commits: precommits of one height and round for one block (`comet-protocol.md` 5.1, 5.5).

use std::fmt;

use bytes::Bytes;

use super::time::Time;
use crate::ids::{Address, BlockId, Height};

/// The longest signature that any supported key makes.
pub const MAX_SIGNATURE: usize = 64;

/// What a validator's entry in a commit says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum BlockIdFlag {
    /// No precommit was received.
    Absent = 1,
    /// A precommit for the block.
    Commit = 2,
    /// A precommit for nil.
    Nil = 3,
}

/// A signature of up to 64 bytes, held in place: a commit of a hundred is one allocation.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Signature {
    len: u8,
    bytes: [u8; MAX_SIGNATURE],
}

/// One validator's entry in a commit. An absent one has the zero address, the zero time and no signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CommitSig {
    /// What it says.
    pub flag: BlockIdFlag,
    /// Who signed; zero bytes when absent (an empty byte string on the wire).
    pub address: Address,
    /// When.
    pub timestamp: Time,
    /// Empty when absent.
    pub signature: Signature,
}

/// The precommits for one block.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Commit {
    /// The height that was decided; 0 in the empty commit of a chain's first block.
    pub height: Height,
    /// The round, 0 or more.
    pub round: i32,
    /// What was decided.
    pub block_id: BlockId,
    /// One entry for each validator, in set order.
    pub signatures: Vec<CommitSig>,
}

/// An entry of an extended commit: a commit's entry with the vote extension.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ExtendedCommitSig {
    /// The entry.
    pub sig: CommitSig,
    /// The vote extension, at most 1 MiB; may be empty.
    pub extension: Bytes,
    /// Signature over the extension.
    pub extension_signature: Bytes,
}

/// A commit with vote extensions. No hash covers it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ExtendedCommit {
    /// The height that was decided.
    pub height: Height,
    /// The round.
    pub round: i32,
    /// What was decided.
    pub block_id: BlockId,
    /// One entry for each validator, in set order.
    pub signatures: Vec<ExtendedCommitSig>,
}

impl Signature {
    /// No signature.
    pub const EMPTY: Signature = Signature {
        len: 0,
        bytes: [0; MAX_SIGNATURE],
    };

    /// A signature of up to 64 bytes; `None` when longer.
    #[must_use]
    pub fn new(from: &[u8]) -> Option<Self> {
        let mut bytes = [0; MAX_SIGNATURE];
        bytes.get_mut(..from.len())?.copy_from_slice(from);
        Some(Signature {
            len: u8::try_from(from.len()).ok()?,
            bytes,
        })
    }

    /// Its bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.as_slice()))
    }
}
