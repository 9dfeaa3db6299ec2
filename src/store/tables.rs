//! The database as the store's logic sees it: ordered tables of bytes, read and written in
//! transactions, and a place beside them for the blocks' own bytes. LMDB and files give them on
//! disk and `BTreeMap`s in memory, so both stores run the same logic on the same records.

use bytes::Bytes;

use super::StoreError;

/// Alignment of unbuffered writes, in memory and in the file: the largest logical block in use.
pub(super) const ALIGN: usize = 4096;
use crate::ids::Height;

/// The tables, in the order in which LMDB opens them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Table {
    /// Single records by name.
    Meta,
    /// Where blocks lie, by height.
    Blocks,
    /// Remains of pruned blocks within evidence age, by height.
    Light,
    /// Validator sets by the height from which they are in force.
    Sets,
    /// Consensus params by the height from which they are in force.
    Params,
    /// Heights of committed evidence by identity.
    Evidence,
    /// The same by height and identity, for pruning.
    EvidenceByHeight,
    /// A built-in application's pairs whose key the database can hold.
    App,
    /// Its other pairs, by the beginning of the key and the key's hash.
    AppLong,
    /// Where the application's responses lie, by height.
    Results,
    /// Heights of blocks by hash.
    ByHash,
}

impl Table {
    /// All of them, and their names in the database.
    pub(super) const ALL: [(Table, &'static str); 11] = [
        (Table::Meta, "meta"),
        (Table::Blocks, "blocks"),
        (Table::Light, "light"),
        (Table::Sets, "sets"),
        (Table::Params, "params"),
        (Table::Evidence, "evidence"),
        (Table::EvidenceByHeight, "evidence_by_height"),
        (Table::App, "app"),
        (Table::AppLong, "app_long"),
        (Table::Results, "results"),
        (Table::ByHash, "by_hash"),
    ];

    /// A record's name, for messages.
    pub(super) fn describe(self, key: &[u8]) -> String {
        let height = || {
            Height::new(u64::from_be_bytes(
                key.get(..8)
                    .and_then(|k| k.try_into().ok())
                    .unwrap_or_default(),
            ))
        };
        match self {
            Table::Meta => format!("record \"{}\"", String::from_utf8_lossy(key)),
            Table::Blocks => format!("block {}", height()),
            Table::Light => format!("header and commit of pruned block {}", height()),
            Table::Sets => format!("validator set in force from height {}", height()),
            Table::Params => format!("consensus params in force from height {}", height()),
            Table::Evidence => format!("evidence {}", hex::encode(key)),
            Table::EvidenceByHeight => format!("evidence of height {}", height()),
            Table::App | Table::AppLong => format!("application key {}", hex::encode(key)),
            Table::Results => format!("results of block {}", height()),
            Table::ByHash => format!(
                "height of hash {}",
                hex::encode(key.get(8..).unwrap_or(key))
            ),
        }
    }
}

/// The kinds of files beside the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Log {
    /// Blocks.
    Blocks,
    /// A built-in application's longer values.
    Values,
    /// Responses of applications.
    Results,
}

impl Log {
    /// How many kinds there are.
    pub(super) const COUNT: usize = 3;
}

/// Where a body lies. Bodies of a log are only appended: a later one lies at a greater place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// The file's number.
    pub(super) segment: u32,
    /// Bytes of the file before it.
    pub(super) offset: u64,
}

impl Place {
    /// Where a body of `len` bytes at this place ends.
    pub(super) fn after(self, len: usize) -> Self {
        Place {
            offset: self.offset.saturating_add(len as u64),
            ..self
        }
    }
}

/// A key and its value.
pub(super) type Pair<'a> = (&'a [u8], &'a [u8]);

/// One consistent view of all tables.
pub(super) trait ReadTables {
    /// A value.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<&[u8]>, StoreError>;

    /// The pair of the greatest key that is not above `key`.
    fn at_or_below(&self, table: Table, key: &[u8]) -> Result<Option<Pair<'_>>, StoreError>;

    /// The pair of the least key that is not below `key`.
    fn at_or_above(&self, table: Table, key: &[u8]) -> Result<Option<Pair<'_>>, StoreError>;

    /// All pairs whose key begins with `prefix`, ascending.
    fn scan(&self, table: Table, prefix: &[u8]) -> Result<Vec<Pair<'_>>, StoreError>;

    /// The bytes at a place; `Corrupt` when they are not there. Bodies that adjoin can be read as
    /// one.
    fn body(&self, log: Log, place: Place, len: usize) -> Result<Bytes, StoreError>;
}

/// A write transaction. It sees its own writes; dropped, it leaves nothing.
pub(super) trait WriteTables: ReadTables {
    /// A built-in application's values of more bytes go into the log.
    const INLINE: usize;

    /// Writes a value given in pieces, replacing what was there.
    fn put(&mut self, table: Table, key: &[u8], pieces: &[&[u8]]) -> Result<(), StoreError>;

    /// Deletes a key, whether it is there or not.
    fn delete(&mut self, table: Table, key: &[u8]) -> Result<(), StoreError>;

    /// Appends a body given in pieces.
    fn append_body(&mut self, log: Log, pieces: [&Bytes; 2]) -> Result<Place, StoreError>;

    /// Bodies that later transactions will append, in this order: a hint. Where it saves a sync,
    /// they are made durable along with this one's.
    fn append_ahead(&mut self, _log: Log, _bodies: &[[&Bytes; 2]]) -> Result<(), StoreError> {
        Ok(())
    }

    /// Bytes at a place of the log of values, at most the number given; none where its file ends.
    fn read_log(&self, place: Place, most: usize) -> Result<Bytes, StoreError>;

    /// Nothing names a body before this place any more, once the transaction is committed.
    fn keep_bodies_from(&mut self, log: Log, place: Place);
}
