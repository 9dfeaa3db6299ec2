//! Questions of an export to a store, beyond `Store`: since when things are in force, and which
//! evidence was committed.

use super::StoreError;
use super::lmdb::LmdbStore;
use super::records::{self, height_key, key_height};
use super::tables::{ReadTables, Table};
use crate::ids::{Hash, Height};

impl LmdbStore {
    /// The height from which the set of a height has been in force, as far as it is recorded;
    /// `None` when no set is known for it.
    ///
    /// # Errors
    /// When the database fails.
    pub fn validators_in_force_since(&self, height: Height) -> Result<Option<Height>, StoreError> {
        self.since(Table::Sets, height)
    }

    /// The height from which the params of a height have been in force, as far as it is recorded;
    /// `None` when none are known.
    ///
    /// # Errors
    /// When the database fails.
    pub fn params_in_force_since(&self, height: Height) -> Result<Option<Height>, StoreError> {
        self.since(Table::Params, height)
    }

    fn since(&self, table: Table, height: Height) -> Result<Option<Height>, StoreError> {
        let t = self.reader()?;
        let Some((key, _)) = t.at_or_below(table, &height_key(height))? else {
            return Ok(None);
        };
        let since = key_height(key).ok_or_else(|| records::malformed(table, key))?;
        Ok(Some(since))
    }

    /// Committed evidence, by its height and identity: at most `count` of what comes after `after`.
    ///
    /// # Errors
    /// When the database fails.
    pub fn committed_evidence(
        &self,
        after: (Height, Hash),
        count: usize,
    ) -> Result<Vec<(Height, Hash)>, StoreError> {
        let t = self.reader()?;
        // The least key above `after`: keys are ordered by bytes, and a zero more comes next.
        let mut from = [&height_key(after.0)[..], &after.1.0, &[0]].concat();
        let mut out = Vec::new();
        while out.len() < count {
            let Some((key, _)) = t.at_or_above(Table::EvidenceByHeight, &from)? else {
                break;
            };
            let pair = key_height(key).zip(key.get(8..).and_then(Hash::from_slice));
            out.push(pair.ok_or_else(|| records::malformed(Table::EvidenceByHeight, key))?);
            from = [key, &[0]].concat();
        }
        Ok(out)
    }
}
