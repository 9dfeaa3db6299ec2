//! Commits: precommits of one height and round for one block (`comet-protocol.md` 5.1, 5.5).

use std::fmt;

use bytes::Bytes;

use super::encode;
use super::merkle::{self, Tree};
use super::time::Time;
use crate::ids::{Address, BlockId, Hash, Height};

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

/// The type that a precommit's sign bytes name.
pub const PRECOMMIT: i32 = 2;

/// What all signatures of a commit sign, made once: only flag and timestamp differ between them (`comet-protocol.md` 5.5).
#[derive(Clone, Debug)]
pub struct SignBytes {
    /// Type, height and round.
    head: Vec<u8>,
    /// The block id's field; empty for the zero id.
    block_id: Vec<u8>,
    /// The chain id's field.
    tail: Vec<u8>,
}

impl SignBytes {
    /// For votes of this type, height and round.
    #[must_use]
    pub fn new(kind: i32, height: Height, round: i32, id: &BlockId, chain_id: &[u8]) -> Self {
        let mut head = Vec::with_capacity(20);
        encode::int(1, i64::from(kind), &mut head);
        encode::sfixed64(2, height.to_wire(), &mut head);
        encode::sfixed64(3, i64::from(round), &mut head);
        let mut block_id = Vec::new();
        if !id.is_zero() {
            encode::message(4, &mut block_id, |out| encode::block_id(id, out));
        }
        let mut tail = Vec::with_capacity(chain_id.len() + 2);
        encode::bytes(6, chain_id, &mut tail);
        SignBytes {
            head,
            block_id,
            tail,
        }
    }

    /// Appends what `sig` signs. An entry for nil, and an absent one, names no block.
    pub fn write(&self, sig: &CommitSig, out: &mut Vec<u8>) {
        self.write_vote(sig.flag == BlockIdFlag::Commit, sig.timestamp, out);
    }

    /// Appends a vote's sign bytes, with or without the block's id.
    pub(super) fn write_vote(&self, for_block: bool, timestamp: Time, out: &mut Vec<u8>) {
        let block_id: &[u8] = if for_block { &self.block_id } else { &[] };
        encode::delimited(out, |out| {
            out.extend_from_slice(&self.head);
            out.extend_from_slice(block_id);
            encode::message(5, out, |out| encode::timestamp(timestamp, out));
            out.extend_from_slice(&self.tail);
        });
    }
}

impl Commit {
    /// Root over the entries, all of them; height, round and block id are not covered (`comet-protocol.md` 5.3).
    #[must_use]
    pub fn hash(&self) -> Hash {
        let mut tree = Tree::new();
        let mut leaf = Vec::with_capacity(128);
        for sig in &self.signatures {
            leaf.clear();
            leaf.push(0);
            encode::commit_sig(sig, &mut leaf);
            tree.push(merkle::prefixed_leaf_hash(&leaf));
        }
        tree.root()
    }

    /// What the commit's entries sign on this chain.
    #[must_use]
    pub fn signing(&self, chain_id: &[u8]) -> SignBytes {
        SignBytes::new(PRECOMMIT, self.height, self.round, &self.block_id, chain_id)
    }

    /// What the entry at `index` signs, length prefix included (`comet-protocol.md` 5.5).
    ///
    /// # Panics
    /// When there is no such entry.
    #[must_use]
    pub fn sign_bytes(&self, chain_id: &[u8], index: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(192);
        self.signing(chain_id)
            .write(&self.signatures[index], &mut out);
        out
    }
}

impl ExtendedCommit {
    /// The commit without the extensions.
    #[must_use]
    pub fn to_commit(&self) -> Commit {
        Commit {
            height: self.height,
            round: self.round,
            block_id: self.block_id,
            signatures: self.signatures.iter().map(|s| s.sig).collect(),
        }
    }

    /// What the extension signature at `index` signs, length prefix included (`comet-protocol.md` 5.5).
    ///
    /// # Panics
    /// When there is no such entry.
    #[must_use]
    pub fn extension_sign_bytes(&self, chain_id: &[u8], index: usize) -> Vec<u8> {
        let extension = &self.signatures[index].extension;
        extension_sign_bytes(chain_id, self.height, self.round, extension)
    }
}

/// The encoded, length-prefixed `CanonicalVoteExtension`.
fn extension_sign_bytes(chain_id: &[u8], height: Height, round: i32, extension: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(extension.len() + chain_id.len() + 32);
    encode::delimited(&mut out, |out| {
        encode::bytes(1, extension, out);
        encode::sfixed64(2, height.to_wire(), out);
        encode::sfixed64(3, i64::from(round), out);
        encode::bytes(4, chain_id, out);
    });
    out
}
