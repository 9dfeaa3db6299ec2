//! The manifest: which tables make a database, as a log of changes.

use std::collections::BTreeMap;

use blocksync::varint;

use super::{COMPARATOR, Cursor, put_slice};

const COMPARER: u64 = 1;
const LOG_NUMBER: u64 = 2;
const NEXT_FILE: u64 = 3;
const LAST_SEQUENCE: u64 = 4;
const COMPACT_POINTER: u64 = 5;
const DELETED_TABLE: u64 = 6;
const NEW_TABLE: u64 = 7;
const PREVIOUS_LOG: u64 = 9;

/// A table that is part of the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TableMeta {
    pub(super) level: u32,
    pub(super) number: u64,
    pub(super) size: u64,
    /// The first and the last key, with their suffixes.
    pub(super) smallest: Vec<u8>,
    pub(super) largest: Vec<u8>,
}

/// The content of a manifest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Manifest {
    /// Logs of a lower number are in tables already, but `previous_log`.
    pub(super) log_number: u64,
    pub(super) previous_log: u64,
    pub(super) next_file: u64,
    pub(super) last_sequence: u64,
    /// By number.
    pub(super) tables: BTreeMap<u64, TableMeta>,
}

impl Manifest {
    /// The one change that makes this database out of none.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        varint::put(COMPARER, &mut out);
        put_slice(&mut out, COMPARATOR);
        for (tag, value) in [
            (LOG_NUMBER, self.log_number),
            (NEXT_FILE, self.next_file),
            (LAST_SEQUENCE, self.last_sequence),
        ] {
            varint::put(tag, &mut out);
            varint::put(value, &mut out);
        }
        for table in self.tables.values() {
            // The order in which goleveldb itself writes; it reads any.
            for number in [NEW_TABLE, table.level.into(), table.number, table.size] {
                varint::put(number, &mut out);
            }
            put_slice(&mut out, &table.smallest);
            put_slice(&mut out, &table.largest);
        }
        out
    }

    /// Applies a change.
    ///
    /// # Errors
    /// When it cannot be read, or the database has another order of keys.
    pub(super) fn apply(&mut self, change: &[u8]) -> Result<(), String> {
        let mut c = Cursor(change);
        while !c.is_empty() {
            self.apply_field(&mut c)?;
        }
        Ok(())
    }

    fn apply_field(&mut self, c: &mut Cursor<'_>) -> Result<(), String> {
        let cut = || "a change is cut off".to_owned();
        match c.varint().ok_or_else(cut)? {
            COMPARER => {
                let name = c.slice().ok_or_else(cut)?;
                if name != COMPARATOR {
                    let name = String::from_utf8_lossy(name);
                    return Err(format!("its keys are ordered by {name}"));
                }
            }
            LOG_NUMBER => self.log_number = c.varint().ok_or_else(cut)?,
            PREVIOUS_LOG => self.previous_log = c.varint().ok_or_else(cut)?,
            NEXT_FILE => self.next_file = c.varint().ok_or_else(cut)?,
            LAST_SEQUENCE => self.last_sequence = c.varint().ok_or_else(cut)?,
            // Where the next compaction begins, of use only to a writer.
            COMPACT_POINTER => {
                c.varint().ok_or_else(cut)?;
                c.slice().ok_or_else(cut)?;
            }
            DELETED_TABLE => {
                // The level. A table's number is unique among all levels, so it is not needed.
                c.varint().ok_or_else(cut)?;
                let number = c.varint().ok_or_else(cut)?;
                self.tables.remove(&number);
            }
            NEW_TABLE => {
                let table = (|| {
                    Some(TableMeta {
                        level: u32::try_from(c.varint()?).ok()?,
                        number: c.varint()?,
                        size: c.varint()?,
                        smallest: c.slice()?.to_vec(),
                        largest: c.slice()?.to_vec(),
                    })
                })();
                let table = table.ok_or_else(cut)?;
                self.tables.insert(table.number, table);
            }
            // Skipping is impossible: an unknown field's length is not known either.
            tag => return Err(format!("a change has a field {tag}, which is not known")),
        }
        Ok(())
    }
}
