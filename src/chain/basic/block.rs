//! The stateless checks of a whole block (`protocol.md` 5.9).

use super::BasicError;
use super::error::Unequal;
use crate::chain::block::{Block, data_hash, evidence_hash};
use crate::ids::Height;

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
    /// which [`crate::chain::validate::validate_block`] sees to.
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
