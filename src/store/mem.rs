//! The store in memory: the same records and the same logic as on disk, for tests, in particular
//! under tokio's paused clock, which runs ahead of foreign threads.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use bytes::Bytes;

use super::tables::{Log, Pair, Place, ReadTables, Table, WriteTables};
use super::{Batch, BlockRecord, Span, Store, StoreError, hashes, logic, results, write};
use crate::chain::{ChainState, ConsensusParams, Header, ValidatorSet};
use crate::ids::{BlockId, Hash, Height};

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

/// The tables, and the bodies of each log by place.
#[derive(Clone, Debug, Default)]
struct Tables {
    maps: [Map; Table::ALL.len()],
    bodies: [BTreeMap<Place, Bytes>; Log::COUNT],
}

/// A store in memory. A batch is there whole or not at all, as on disk; it is durable as long as
/// the value lives.
#[derive(Debug, Default)]
pub struct MemStore {
    tables: RwLock<Tables>,
}

impl MemStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An independent store with the same content: what a crash at this moment would leave behind.
    #[must_use]
    pub fn fork(&self) -> Self {
        MemStore {
            tables: RwLock::new(self.read().clone()),
        }
    }

    /// A panic elsewhere cannot leave the tables half-written: a transaction that is dropped puts
    /// them back.
    fn read(&self) -> RwLockReadGuard<'_, Tables> {
        self.tables.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tables {
    fn below(&self, table: Table, key: &[u8]) -> Option<Pair<'_>> {
        let range = (Bound::Unbounded, Bound::Included(key));
        let mut found = self.maps[table as usize].range::<[u8], _>(range);
        found.next_back().map(|(k, v)| (&k[..], &v[..]))
    }

    fn from<'a>(&'a self, table: Table, key: &[u8]) -> impl Iterator<Item = Pair<'a>> {
        let range = (Bound::Included(key), Bound::Unbounded);
        let found = self.maps[table as usize].range::<[u8], _>(range);
        found.map(|(k, v)| (&k[..], &v[..]))
    }
}

impl ReadTables for Tables {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<&[u8]>, StoreError> {
        Ok(self.maps[table as usize].get(key).map(Vec::as_slice))
    }

    fn at_or_below(&self, table: Table, key: &[u8]) -> Result<Option<Pair<'_>>, StoreError> {
        Ok(self.below(table, key))
    }

    fn at_or_above(&self, table: Table, key: &[u8]) -> Result<Option<Pair<'_>>, StoreError> {
        Ok(self.from(table, key).next())
    }

    fn scan(&self, table: Table, prefix: &[u8]) -> Result<Vec<Pair<'_>>, StoreError> {
        let from = self.from(table, prefix);
        Ok(from
            .take_while(|(key, _)| key.starts_with(prefix))
            .collect())
    }

    fn body(&self, log: Log, place: Place, len: usize) -> Result<Bytes, StoreError> {
        let body = self.bodies[log as usize]
            .get(&place)
            .filter(|body| body.len() == len);
        body.cloned()
            .ok_or_else(|| StoreError::Corrupt("its body is missing".to_owned()))
    }
}

/// A transaction. It writes in place, while nobody can read, and puts everything back when it is
/// dropped before its end.
struct Transaction<'a> {
    tables: &'a mut Tables,
    /// Values before each write.
    undo: Vec<(Table, Vec<u8>, Option<Vec<u8>>)>,
    appended: Vec<(Log, Place)>,
    keep_from: [Option<Place>; Log::COUNT],
}

impl Transaction<'_> {
    fn commit(mut self) {
        // Emptied, so that dropping the transaction puts nothing back.
        self.undo.clear();
        self.appended.clear();
        for (bodies, keep) in self.tables.bodies.iter_mut().zip(self.keep_from) {
            // Only now: an undone transaction must find the bodies where they were.
            if let Some(keep) = keep {
                *bodies = bodies.split_off(&keep);
            }
        }
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        // Backwards: of several writes to a key the first one noted the value from before the
        // transaction.
        for (table, key, before) in self.undo.drain(..).rev() {
            let map = &mut self.tables.maps[table as usize];
            match before {
                Some(value) => map.insert(key, value),
                None => map.remove(&key),
            };
        }
        for (log, place) in self.appended.drain(..) {
            self.tables.bodies[log as usize].remove(&place);
        }
    }
}

impl ReadTables for Transaction<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<&[u8]>, StoreError> {
        self.tables.get(table, key)
    }

    fn at_or_below(&self, table: Table, key: &[u8]) -> Result<Option<Pair<'_>>, StoreError> {
        self.tables.at_or_below(table, key)
    }

    fn at_or_above(&self, table: Table, key: &[u8]) -> Result<Option<Pair<'_>>, StoreError> {
        self.tables.at_or_above(table, key)
    }

    fn scan(&self, table: Table, prefix: &[u8]) -> Result<Vec<Pair<'_>>, StoreError> {
        self.tables.scan(table, prefix)
    }

    fn body(&self, log: Log, place: Place, len: usize) -> Result<Bytes, StoreError> {
        self.tables.body(log, place, len)
    }
}

impl WriteTables for Transaction<'_> {
    /// All of them stay in the tables.
    const INLINE: usize = usize::MAX;

    fn put(&mut self, table: Table, key: &[u8], pieces: &[&[u8]]) -> Result<(), StoreError> {
        let before = self.tables.maps[table as usize].insert(key.to_vec(), pieces.concat());
        self.undo.push((table, key.to_vec(), before));
        Ok(())
    }

    fn delete(&mut self, table: Table, key: &[u8]) -> Result<(), StoreError> {
        if let Some(before) = self.tables.maps[table as usize].remove(key) {
            self.undo.push((table, key.to_vec(), Some(before)));
        }
        Ok(())
    }

    fn append_body(&mut self, log: Log, pieces: [&Bytes; 2]) -> Result<Place, StoreError> {
        let bodies = &mut self.tables.bodies[log as usize];
        let last = bodies.last_key_value();
        // One byte between them: none adjoins the next, since each is a value of its own.
        let place = last.map_or(Place::default(), |(at, body)| at.after(body.len() + 1));
        // Copied: what came may be a small part of a large buffer.
        let body = [&pieces[0][..], &pieces[1][..]].concat();
        bodies.insert(place, body.into());
        self.appended.push((log, place));
        Ok(place)
    }

    fn read_log(&self, _place: Place, _most: usize) -> Result<Bytes, StoreError> {
        // No value lies in a log here, since all are inline, so there is nothing to reclaim.
        Ok(Bytes::new())
    }

    fn keep_bodies_from(&mut self, log: Log, place: Place) {
        self.keep_from[log as usize] = Some(place);
    }
}

impl Store for MemStore {
    fn span(&self) -> Result<Span, StoreError> {
        logic::span(&*self.read())
    }

    fn block(&self, height: Height) -> Result<Option<BlockRecord>, StoreError> {
        logic::block(&*self.read(), height)
    }

    fn blocks(
        &self,
        from: Height,
        count: u32,
        max_bytes: usize,
    ) -> Result<Vec<BlockRecord>, StoreError> {
        logic::blocks(&*self.read(), from, count, max_bytes)
    }

    fn header(&self, height: Height) -> Result<Option<(Header, BlockId)>, StoreError> {
        logic::header(&*self.read(), height)
    }

    fn commit_for(&self, height: Height) -> Result<Option<Bytes>, StoreError> {
        logic::commit_for(&*self.read(), height)
    }

    fn seen_commit(&self, height: Height) -> Result<Option<Bytes>, StoreError> {
        logic::seen_commit(&*self.read(), height)
    }

    fn state(&self) -> Result<Option<ChainState>, StoreError> {
        logic::state(&*self.read())
    }

    fn validators(&self, height: Height) -> Result<Option<Arc<ValidatorSet>>, StoreError> {
        logic::validators(&*self.read(), height)
    }

    fn recorded_validators(
        &self,
        height: Height,
    ) -> Result<Option<(Height, Arc<ValidatorSet>)>, StoreError> {
        logic::recorded_validators(&*self.read(), height)
    }

    fn params(&self, height: Height) -> Result<Option<ConsensusParams>, StoreError> {
        logic::params(&*self.read(), height)
    }

    fn results(&self) -> Result<Option<(Height, Bytes)>, StoreError> {
        logic::results(&*self.read())
    }

    fn results_at(&self, height: Height) -> Result<Option<Bytes>, StoreError> {
        results::get(&*self.read(), height)
    }

    fn height_of(&self, hash: &Hash) -> Result<Option<Height>, StoreError> {
        hashes::height_of(&*self.read(), hash)
    }

    fn has_evidence(&self, identity: &Hash) -> Result<bool, StoreError> {
        logic::has_evidence(&*self.read(), identity)
    }

    fn app_get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        logic::app_get(&*self.read(), key)
    }

    fn app_scan(&self, prefix: &[u8]) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        logic::app_scan(&*self.read(), prefix)
    }

    fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        let mut transaction = Transaction {
            tables: &mut tables,
            undo: Vec::new(),
            appended: Vec::new(),
            keep_from: [None; Log::COUNT],
        };
        // An error drops the transaction, which undoes what was written so far.
        write::apply(&mut transaction, &batch)?;
        transaction.commit();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_the_contract() {
        super::super::conformance::run(MemStore::new);
    }
}
