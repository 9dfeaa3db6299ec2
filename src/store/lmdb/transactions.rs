//! LMDB's transactions, and the files beside the database, as the store's logic sees them.

use std::io::Write as _;

use bytes::Bytes;
use heed::{RoTxn, RwTxn, WithoutTls};

use super::{Appenders, Databases, LOG_DIRS, Logs, MAX_INLINE, failed};
use crate::store::segments::Segments;
use crate::store::tables::{Log, Pair, Place, ReadTables, Table, WriteTables};
use crate::store::{StoreError, logic};

/// A read transaction.
pub(in crate::store) struct Reader<'a> {
    pub(super) transaction: RoTxn<'a, WithoutTls>,
    pub(super) databases: &'a Databases,
    pub(super) logs: &'a Logs,
}

/// A write transaction.
pub(super) struct Writer<'a> {
    pub(super) transaction: RwTxn<'a>,
    pub(super) databases: &'a Databases,
    pub(super) logs: &'a Logs,
    pub(super) appenders: &'a mut Appenders,
    /// Blocks that this transaction has appended, which may not be in the file yet.
    pub(super) appended: Vec<(Place, [Bytes; 2])>,
    pub(super) keep_from: [Option<Place>; LOG_DIRS.len()],
    /// The files could not be written.
    pub(super) bodies_failed: bool,
}

impl Reader<'_> {
    fn body_of(&self, log: Log, place: Place, len: usize) -> Result<Bytes, StoreError> {
        read_body(&self.logs[log as usize], place, len)
    }
}

impl Writer<'_> {
    /// The files could not be written.
    fn bodies_failed(&mut self, why: std::io::Error) -> StoreError {
        self.bodies_failed = true;
        failed("writing a batch")(why.into())
    }

    fn body_of(&self, log: Log, place: Place, len: usize) -> Result<Bytes, StoreError> {
        let found = self.appended.binary_search_by_key(&place, |(at, _)| *at);
        match (log, found) {
            (Log::Blocks, Ok(n)) => Ok(self.appended[n].1.concat().into()),
            _ => read_body(&self.logs[log as usize], place, len),
        }
    }
}

/// A body out of the files.
fn read_body(files: &Segments, place: Place, len: usize) -> Result<Bytes, StoreError> {
    use std::io::ErrorKind::{NotFound, UnexpectedEof};
    files.read(place, len).map_err(|why| {
        if matches!(why.kind(), NotFound | UnexpectedEof) {
            let offset = place.offset;
            return StoreError::Corrupt(format!(
                "its {len} bytes at {offset} are not there: {why}"
            ));
        }
        failed("reading")(why.into())
    })
}

macro_rules! read_tables {
    ($name:ident) => {
        impl ReadTables for $name<'_> {
            fn get(&self, table: Table, key: &[u8]) -> Result<Option<&[u8]>, StoreError> {
                self.databases[table as usize]
                    .get(&self.transaction, key)
                    .map_err(|why| reading(table, key, why))
            }

            fn at_or_below(
                &self,
                table: Table,
                key: &[u8],
            ) -> Result<Option<Pair<'_>>, StoreError> {
                self.databases[table as usize]
                    .get_lower_than_or_equal_to(&self.transaction, key)
                    .map_err(|why| reading(table, key, why))
            }

            fn at_or_above(
                &self,
                table: Table,
                key: &[u8],
            ) -> Result<Option<Pair<'_>>, StoreError> {
                self.databases[table as usize]
                    .get_greater_than_or_equal_to(&self.transaction, key)
                    .map_err(|why| reading(table, key, why))
            }

            fn scan(&self, table: Table, prefix: &[u8]) -> Result<Vec<Pair<'_>>, StoreError> {
                if prefix.len() > logic::MAX_PLAIN_KEY {
                    return Ok(Vec::new()); // no key is as long
                }
                let database = &self.databases[table as usize];
                // LMDB takes no empty key, heed no empty prefix.
                let pairs = if prefix.is_empty() {
                    database.iter(&self.transaction).and_then(Iterator::collect)
                } else {
                    let pairs = database.prefix_iter(&self.transaction, prefix);
                    pairs.and_then(Iterator::collect)
                };
                pairs.map_err(|why| reading(table, prefix, why))
            }

            fn body(&self, log: Log, place: Place, len: usize) -> Result<Bytes, StoreError> {
                self.body_of(log, place, len)
            }
        }
    };
}

read_tables!(Reader);
read_tables!(Writer);

fn reading(table: Table, key: &[u8], why: heed::Error) -> StoreError {
    failed(format!("reading {}", table.describe(key)))(why)
}

impl WriteTables for Writer<'_> {
    const INLINE: usize = MAX_INLINE;

    fn put(&mut self, table: Table, key: &[u8], pieces: &[&[u8]]) -> Result<(), StoreError> {
        let len = pieces.iter().map(|piece| piece.len()).sum();
        // Put together in LMDB's own page, and not in a buffer before.
        self.databases[table as usize]
            .put_reserved(&mut self.transaction, key, len, |space| {
                pieces.iter().try_for_each(|piece| space.write_all(piece))
            })
            .map_err(|why| failed(format!("writing {}", table.describe(key)))(why))
    }

    fn delete(&mut self, table: Table, key: &[u8]) -> Result<(), StoreError> {
        self.databases[table as usize]
            .delete(&mut self.transaction, key)
            .map(|_| ())
            .map_err(|why| failed(format!("deleting {}", table.describe(key)))(why))
    }

    fn append_body(&mut self, log: Log, pieces: [&Bytes; 2]) -> Result<Place, StoreError> {
        let appended = self.appenders[log as usize].append([pieces[0], pieces[1]]);
        let place = appended.map_err(|why| self.bodies_failed(why))?;
        if log == Log::Blocks {
            self.appended.push((place, pieces.map(Bytes::clone)));
        }
        Ok(place)
    }

    fn append_ahead(&mut self, log: Log, bodies: &[[&Bytes; 2]]) -> Result<(), StoreError> {
        let appended = self.appenders[log as usize].append_ahead(bodies);
        appended.map_err(|why| self.bodies_failed(why))
    }

    fn read_log(&self, place: Place, most: usize) -> Result<Bytes, StoreError> {
        self.logs[Log::Values as usize]
            .read_up_to(place, most)
            .map_err(|why| failed("reading an application's values")(why.into()))
    }

    fn keep_bodies_from(&mut self, log: Log, place: Place) {
        self.keep_from[log as usize] = Some(place);
    }
}
