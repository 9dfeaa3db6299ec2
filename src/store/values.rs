//! A built-in application's values. A short one lies in the database beside its key. A longer one
//! lies in files of its own, and the database holds where: a page of LMDB is copied for every value
//! that changes in it, and the pages of a batch of long values are several times the values.
//!
//! # Reclaiming
//! A value that is replaced or deleted stays in its file. `Extent` counts what lies in the files
//! and what of it is still named; when less than half is, each batch also moves the oldest values
//! that are still named to the end, twice as many bytes as it writes itself, and files that are
//! behind go. So the files take at most twice what is named and `SLACK`, and no batch is long. A
//! record in a file that cannot be read ends the moving: it may stand before values that are named.

use bytes::Bytes;

use super::StoreError;
use super::logic::{self, name};
use super::records::{Fields, SEAL, checksum, malformed, put_place};
use super::tables::{ALIGN, Log, Place, ReadTables, Table, WriteTables};
use super::write::{put, put_one};

/// Bytes of replaced values that are never worth moving others for.
const SLACK: u64 = if cfg!(test) { 64 << 10 } else { 64 << 20 };
/// Bytes that a batch looks at, at least, when there is something to reclaim.
const STEP: u64 = 1 << 20;
/// A value in the database itself.
const HERE: u8 = 0;
/// A value in a file.
const THERE: u8 = 1;
/// Bytes of a record's head in a file before its key: table, length of the key, length of the
/// value, checksum of the head.
const HEAD: usize = 1 + 4 + 4 + SEAL;

/// Where a longer value lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stored {
    place: Place,
    len: u32,
    seal: [u8; SEAL],
}

impl Stored {
    fn encode(&self) -> Vec<u8> {
        let mut out = vec![THERE];
        put_place(&mut out, self.place);
        out.extend_from_slice(&self.len.to_le_bytes());
        out.extend_from_slice(&self.seal);
        out
    }

    /// Where a value lies; `None` for one that is here.
    fn read(table: Table, key: &[u8], stored: &[u8]) -> Result<Option<Self>, StoreError> {
        let mut f = Fields::of(stored);
        let there = match f.byte() {
            Some(HERE) => return Ok(None),
            Some(THERE) => (|| {
                Some(Stored {
                    place: f.place()?,
                    len: f.u32()?,
                    seal: f.array()?,
                })
            })(),
            _ => None,
        };
        let there = there.and_then(|there| f.end(there));
        there.map(Some).ok_or_else(|| malformed(table, key))
    }

    fn load(&self, t: &impl ReadTables, table: Table, key: &[u8]) -> Result<Bytes, StoreError> {
        let damaged = |why: &str| StoreError::Corrupt(format!("{}: {why}", table.describe(key)));
        let value = match t.body(Log::Values, self.place, self.len as usize) {
            Err(StoreError::Corrupt(why)) => return Err(damaged(&why)),
            value => value?,
        };
        if checksum(table, key, &[&value]) == self.seal {
            Ok(value)
        } else {
            Err(damaged("its value does not have its checksum"))
        }
    }
}

/// The value that a key's record in the database stands for.
pub(super) fn load(
    t: &impl ReadTables,
    table: Table,
    key: &[u8],
    stored: &[u8],
) -> Result<Bytes, StoreError> {
    match Stored::read(table, key, stored)? {
        None => Ok(Bytes::copy_from_slice(&stored[1..])),
        Some(there) => there.load(t, table, key),
    }
}

/// Totals of the files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Extent {
    /// Nothing before it is named.
    pub(super) tail: Place,
    /// The end of the last record.
    pub(super) head: Place,
    /// Bytes of records between the two.
    size: u64,
    /// Bytes of the records that are named.
    live: u64,
}

impl Extent {
    /// Of the last transaction.
    pub(super) fn read(t: &impl ReadTables) -> Result<Self, StoreError> {
        let Some(body) = logic::read(t, Table::Meta, name::VALUES)? else {
            return Ok(Extent::default());
        };
        let mut f = Fields::of(body);
        let mut fields = || {
            Some(Extent {
                tail: f.place()?,
                head: f.place()?,
                size: f.u64()?,
                live: f.u64()?,
            })
        };
        let extent = fields().and_then(|extent| f.end(extent));
        extent.ok_or_else(|| malformed(Table::Meta, name::VALUES))
    }

    fn write(&self, t: &mut impl WriteTables) -> Result<(), StoreError> {
        let mut body = Vec::with_capacity(40);
        // Written by every batch, also one that only deletes: `live` has changed.
        for place in [self.tail, self.head] {
            put_place(&mut body, place);
        }
        body.extend_from_slice(&self.size.to_le_bytes());
        body.extend_from_slice(&self.live.to_le_bytes());
        put_one(t, Table::Meta, name::VALUES, &body)
    }

    fn is_mostly_dead(&self) -> bool {
        self.size > self.live.saturating_mul(2).saturating_add(SLACK)
    }
}

/// Head of a value in its file, so that its key is found again.
struct Head<'a> {
    table: Table,
    key: &'a [u8],
    len: u32,
}

impl<'a> Head<'a> {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEAD + self.key.len());
        out.push(self.table as u8); // never 0: that is a pad
        let key = u32::try_from(self.key.len()).expect("a key that the database takes");
        out.extend_from_slice(&key.to_le_bytes());
        out.extend_from_slice(&self.len.to_le_bytes());
        let seal = checksum(self.table, self.key, &[&out]);
        out.extend_from_slice(&seal);
        out.extend_from_slice(self.key);
        out
    }

    fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut f = Fields::of(bytes);
        let table = match f.byte()? {
            n if n == Table::App as u8 => Table::App,
            n if n == Table::AppLong as u8 => Table::AppLong,
            _ => return None,
        };
        let (key, len) = (f.u32()?, f.u32()?);
        let seal: [u8; SEAL] = f.array()?;
        let key = f.rest().get(..key as usize)?;
        // The head alone: reclaiming steps from record to record by lengths that it can trust.
        let sound = checksum(table, key, &[&bytes[..HEAD - SEAL]]) == seal;
        sound.then_some(Head { table, key, len })
    }

    /// Bytes of the record.
    fn whole(&self) -> usize {
        HEAD + self.key.len() + self.len as usize
    }
}

/// One batch's writes.
pub(super) struct ValueLog {
    extent: Extent,
    /// Where the batch before ended: what lies behind may not be in the file yet.
    durable: Place,
    appended: u64,
}

impl ValueLog {
    pub(super) fn begin(t: &impl ReadTables) -> Result<Self, StoreError> {
        let extent = Extent::read(t)?;
        Ok(ValueLog {
            extent,
            durable: extent.head,
            appended: 0,
        })
    }

    /// Writes or deletes a value. `before` is what stands before it in its record in the database.
    pub(super) fn write<T: WriteTables>(
        &mut self,
        t: &mut T,
        table: Table,
        key: &[u8],
        before: &[u8],
        value: Option<&Bytes>,
    ) -> Result<(), StoreError> {
        // The value that it replaces stays in its file, and is not named any more.
        if let Some(body) = logic::read(t, table, key)?
            && let Some(old) = Stored::read(table, key, body.get(before.len()..).unwrap_or(&[]))?
        {
            let len = old.len;
            let dead = Head { table, key, len }.whole();
            // Saturating, since a total that is off by damage must not stop the node; it
            // only misjudges when to move.
            self.extent.live = self.extent.live.saturating_sub(dead as u64);
        }
        match value {
            None => t.delete(table, key),
            Some(value) if value.len() <= T::INLINE => put(t, table, key, [before, &[HERE], value]),
            Some(value) => {
                let seal = checksum(table, key, &[value]);
                let (stored, whole) = self.append(t, table, key, value, seal)?;
                self.extent.live += whole;
                self.appended += whole;
                put(t, table, key, [before, &stored.encode(), &[]])
            }
        }
    }

    /// Appends a record; returns where its value lies and how long the record is.
    fn append(
        &mut self,
        t: &mut impl WriteTables,
        table: Table,
        key: &[u8],
        value: &Bytes,
        seal: [u8; SEAL],
    ) -> Result<(Stored, u64), StoreError> {
        let len = u32::try_from(value.len()).map_err(|_| StoreError::Failed {
            doing: format!("writing {}", table.describe(key)),
            why: format!("its value has {} bytes", value.len()),
        })?;
        let head = Head { table, key, len };
        let whole = head.whole();
        let bytes = Bytes::from(head.encode());
        // Head and value in one piece, so that the record is never split between two files.
        let start = t.append_body(Log::Values, [&bytes, value])?;
        self.extent.head = start.after(whole);
        self.extent.size += whole as u64;
        let place = start.after(bytes.len());
        Ok((Stored { place, len, seal }, whole as u64))
    }

    /// Ends the batch: moves old values when that is worth it.
    pub(super) fn end(mut self, t: &mut impl WriteTables) -> Result<(), StoreError> {
        let before = self.extent.tail.segment;
        match self.reclaim(t) {
            // The error names the record; reading that one's value reports it.
            Ok(()) | Err(StoreError::Corrupt(_)) => {}
            Err(why) => return Err(why),
        }
        // Whole files only: within one, space is not given back.
        if self.extent.tail.segment > before {
            t.keep_bodies_from(Log::Values, self.extent.tail);
        }
        self.extent.write(t)
    }

    fn reclaim(&mut self, t: &mut impl WriteTables) -> Result<(), StoreError> {
        let mut left = STEP.max(2 * self.appended);
        // Never into what this batch appends: those records may not be in the file yet.
        while left > 0 && self.extent.tail < self.durable && self.extent.is_mostly_dead() {
            left = left.saturating_sub(self.reclaim_one(t)?.max(1));
        }
        Ok(())
    }

    /// Passes over the oldest record; returns its length.
    fn reclaim_one(&mut self, t: &mut impl WriteTables) -> Result<u64, StoreError> {
        let at = self.extent.tail;
        let bytes = t.read_log(at, HEAD + logic::MAX_STORED_KEY)?;
        let align = ALIGN as u64;
        match bytes.first() {
            // The end of a file: the next record is at the beginning of the one after it.
            None => {
                self.extent.tail = Place {
                    segment: at.segment + 1,
                    offset: 0,
                };
                return Ok(0);
            }
            // Zeros up to the next block of the disk: the padding of a write that ended here.
            Some(0) if !at.offset.is_multiple_of(align) => {
                self.extent.tail.offset = at.offset.next_multiple_of(align);
                return Ok(0);
            }
            Some(_) => {}
        }
        let head = Head::read(&bytes).ok_or_else(|| {
            StoreError::Corrupt(format!("the values' file {} at {}", at.segment, at.offset))
        })?;
        let (whole, place) = (head.whole(), at.after(HEAD + head.key.len()));
        let (table, key) = (head.table, head.key);
        if let Some(body) = logic::read(t, table, key)? {
            let before = if table == Table::AppLong {
                logic::long_prefix(key, body)?.to_vec()
            } else {
                Vec::new()
            };
            // By place: a key that was written again names another record, and this one is dead.
            let named = Stored::read(table, key, &body[before.len()..])?;
            // Still in use: the value moves to the front. Any other record was overwritten since.
            if let Some(old) = named.filter(|stored| stored.place == place) {
                let value = old.load(t, table, key)?;
                // The checksum does not cover the place, so it holds there too.
                let (stored, _) = self.append(t, table, key, &value, old.seal)?;
                put(t, table, key, [&before, &stored.encode(), &[]])?;
            }
        }
        self.extent.tail = at.after(whole);
        self.extent.size = self.extent.size.saturating_sub(whole as u64);
        Ok(whole as u64)
    }
}

#[cfg(test)]
#[path = "values_tests.rs"]
mod tests;
