//! The checks of a block that need no state: what `ValidateBasic` is in CometBFT (`protocol.md`
//! 5.8, 5.9).
//!
//! Lengths of hashes and addresses, flags and negative heights are not looked at here: the types
//! cannot hold wrong ones, the conversion from the wire refuses them. Evidence is in
//! [`super::basic_evidence`].

use std::fmt;

use super::basic_evidence::EvidenceBasicError;
use super::block::{Block, Header, data_hash, evidence_hash};
use super::commit::{BlockIdFlag, Commit, CommitSig, ExtendedCommit, ExtendedCommitSig};
use super::time::Time;
use crate::ids::{Address, BlockId, Hash, Height};

/// The block protocol version of all supported versions of CometBFT.
pub const BLOCK_PROTOCOL: u64 = 11;
/// Longest chain id in bytes.
pub const MAX_CHAIN_ID: usize = 50;
/// Largest vote extension in bytes, 1 MiB.
pub const MAX_EXTENSION: usize = 1 << 20;
/// Longest signature over a vote extension in bytes.
pub const MAX_EXTENSION_SIGNATURE: usize = super::commit::MAX_SIGNATURE;

/// Why a block, a commit or a header is wrong in itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
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
        /// Its length in bytes.
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
        /// Its round.
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
        /// Whose it should be.
        address: Address,
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
        /// Its place in the list.
        index: usize,
        /// Why.
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
    pub(super) fn new(expected: BlockId, found: BlockId) -> Box<Self> {
        Box::new(Unequal { expected, found })
    }
}

impl fmt::Display for Unequal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, expected {}", self.found, self.expected)
    }
}

/// A hash that may be absent, for a message.
pub(super) fn show(hash: &Option<Hash>) -> String {
    hash.map_or_else(|| "none".to_owned(), |h| h.to_string())
}

impl Header {
    /// Checks the header by itself (`protocol.md` 5.9, first item).
    ///
    /// # Errors
    /// The first check that fails.
    pub fn check_basic(&self) -> Result<(), BasicError> {
        if self.version_block != BLOCK_PROTOCOL {
            return Err(BasicError::BlockProtocol {
                height: self.height,
                found: self.version_block,
            });
        }
        if self.chain_id.len() > MAX_CHAIN_ID {
            return Err(BasicError::ChainIdLength {
                height: self.height,
                found: self.chain_id.len(),
            });
        }
        if self.height == Height::ZERO {
            return Err(BasicError::ZeroHeight);
        }
        Ok(())
    }
}

impl CommitSig {
    /// Checks the entry by itself; `height` and `index` are for the message.
    fn check_basic(&self, height: Height, index: usize) -> Result<(), BasicError> {
        if self.flag != BlockIdFlag::Absent {
            if self.signature.is_empty() {
                return Err(BasicError::SignatureMissing {
                    height,
                    index,
                    address: self.address,
                });
            }
            return Ok(());
        }
        let what = if self.address != Address([0; 20]) {
            "an address"
        } else if self.timestamp != Time::ZERO {
            "a time"
        } else if !self.signature.is_empty() {
            "a signature"
        } else {
            return Ok(());
        };
        Err(BasicError::AbsentNotEmpty {
            height,
            index,
            what,
        })
    }
}

/// Checks commits with and without extensions; `check` judges an entry. Entries of a commit of
/// height 0 are judged too: CometBFT does so while decoding.
fn check_commit<E>(
    height: Height,
    round: i32,
    id: &BlockId,
    entries: &[E],
    check: impl Fn(&E, Height, usize) -> Result<(), BasicError>,
) -> Result<(), BasicError> {
    if round < 0 {
        return Err(BasicError::NegativeRound {
            height,
            found: round,
        });
    }
    if height > Height::ZERO {
        if id.is_zero() {
            return Err(BasicError::CommitForNil { height });
        }
        if entries.is_empty() {
            return Err(BasicError::NoSignatures { height });
        }
    }
    let mut entries = entries.iter().enumerate();
    entries.try_for_each(|(index, entry)| check(entry, height, index))
}

impl Commit {
    /// Checks the commit by itself (`protocol.md` 5.9, second item).
    ///
    /// # Errors
    /// The first check that fails.
    pub fn check_basic(&self) -> Result<(), BasicError> {
        let (height, entries) = (self.height, &self.signatures);
        let entry = CommitSig::check_basic;
        check_commit(height, self.round, &self.block_id, entries, entry)
    }
}

impl ExtendedCommitSig {
    /// Checks the entry by itself. Whether an extension must or may be there is not asked here, as
    /// in CometBFT: see [`super::verify::check_extensions`].
    fn check_basic(&self, height: Height, index: usize) -> Result<(), BasicError> {
        self.sig.check_basic(height, index)?;
        let (extension, signature) = (self.extension.len(), self.extension_signature.len());
        if self.sig.flag != BlockIdFlag::Commit {
            if signature == 0 && extension != 0 {
                return Err(BasicError::ExtensionUnsigned { height, index });
            }
            return Ok(());
        }
        if extension > MAX_EXTENSION {
            return Err(BasicError::ExtensionSize {
                height,
                index,
                found: extension,
            });
        }
        if signature > MAX_EXTENSION_SIGNATURE {
            return Err(BasicError::ExtensionSignatureSize {
                height,
                index,
                found: signature,
            });
        }
        Ok(())
    }
}

impl ExtendedCommit {
    /// Checks the extended commit by itself: structure and sizes (`protocol.md` 5.8).
    ///
    /// # Errors
    /// The first check that fails.
    pub fn check_basic(&self) -> Result<(), BasicError> {
        let (height, entries) = (self.height, &self.signatures);
        let entry = ExtendedCommitSig::check_basic;
        check_commit(height, self.round, &self.block_id, entries, entry)
    }
}

impl Block {
    /// All stateless checks (`protocol.md` 5.9): [`Block::check_structure`], then
    /// [`Block::check_body`].
    ///
    /// # Errors
    /// The first check that fails.
    pub fn check_basic(&self) -> Result<(), BasicError> {
        self.check_structure()?;
        self.check_body()
    }

    /// All stateless checks but the recomputed hashes. For blocks in a certified run: their signers
    /// have checked those hashes, and the certified part set binds the bytes that came (`design.md`
    /// 5).
    ///
    /// # Errors
    /// The first check that fails.
    pub fn check_structure(&self) -> Result<(), BasicError> {
        self.header.check_basic()?;
        self.last_commit.check_basic()?;
        for (index, item) in self.evidence.iter().enumerate() {
            item.check_basic().map_err(|error| BasicError::Evidence {
                height: self.header.height,
                index,
                error: Box::new(error),
            })?;
        }
        Ok(())
    }

    /// Recomputes the hashes of last commit, transactions and evidence and compares them with the
    /// header's.
    ///
    /// # Errors
    /// The first that differs.
    pub fn check_body(&self) -> Result<(), BasicError> {
        let (header, height) = (&self.header, self.header.height);
        let found = self.last_commit.hash();
        if header.last_commit_hash != Some(found) {
            return Err(BasicError::LastCommitHash {
                height,
                expected: header.last_commit_hash,
                found,
            });
        }
        let found = data_hash(&self.txs);
        if header.data_hash != Some(found) {
            return Err(BasicError::DataHash {
                height,
                expected: header.data_hash,
                found,
            });
        }
        let found = evidence_hash(&self.evidence);
        if header.evidence_hash != Some(found) {
            return Err(BasicError::EvidenceHash {
                height,
                expected: header.evidence_hash,
                found,
            });
        }
        Ok(())
    }

    /// Whether header and last commit speak of the same block before (`design.md` 5, cheap refusals
    /// on arrival). No hash covers a commit's height and block id, so an honest header may come
    /// with a doctored commit; every honest validator has compared them, so no committed block
    /// fails this.
    ///
    /// An empty commit of height 0 says nothing and passes: only the first block may have one,
    /// which [`super::validate::validate_block`] sees to.
    ///
    /// # Errors
    /// The first that differs.
    pub fn check_links(&self) -> Result<(), BasicError> {
        let (height, commit) = (self.header.height, &self.last_commit);
        if commit.height == Height::ZERO && commit.signatures.is_empty() {
            return Ok(());
        }
        if commit.height != height.prev() {
            return Err(BasicError::LastCommitHeight {
                height,
                found: commit.height,
            });
        }
        if commit.block_id != self.header.last_block_id {
            return Err(BasicError::LastCommitBlockId {
                height,
                ids: Unequal::new(self.header.last_block_id, commit.block_id),
            });
        }
        Ok(())
    }
}
