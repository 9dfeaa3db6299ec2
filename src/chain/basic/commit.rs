//! The stateless checks of headers and commits (`protocol.md` 5.8, 5.9).

use super::{BLOCK_PROTOCOL, BasicError, MAX_CHAIN_ID, MAX_EXTENSION, MAX_EXTENSION_SIGNATURE};
use crate::chain::commit::{BlockIdFlag, Commit, CommitSig, ExtendedCommit, ExtendedCommitSig};
use crate::chain::header::Header;
use crate::chain::time::Time;
use crate::ids::{Address, BlockId, Height};

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
        // Negative heights do not get here: decoding refuses them.
        if self.height == Height::ZERO {
            return Err(BasicError::ZeroHeight);
        }
        Ok(())
    }
}

impl CommitSig {
    /// Checks the entry by itself; `height` and `index` are for the message. An entry without a
    /// time may be of either form: [`crate::chain::verify`] knows the rules.
    fn check_basic(&self, height: Height, index: usize) -> Result<(), BasicError> {
        if self.flag != BlockIdFlag::Absent {
            if self.timestamp != Time::ZERO && self.flag.is_aggregated() {
                return Err(BasicError::TimedAggregate { height, index });
            }
            if self.timestamp != Time::ZERO && self.signature.is_empty() {
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
    // The commit of height 0 is the first block's, which is empty.
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
    /// in CometBFT: see [`crate::chain::verify::check_extensions`].
    fn check_basic(&self, height: Height, index: usize) -> Result<(), BasicError> {
        self.sig.check_basic(height, index)?;
        let (extension, signature) = (self.extension.len(), self.extension_signature.len());
        if self.sig.flag != BlockIdFlag::Commit {
            // That it must have neither is for `check_extensions` to say: CometBFT asks no more
            // here.
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
