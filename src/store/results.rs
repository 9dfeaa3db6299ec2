//! Responses of the application by height: each lies in a log of its own, so that blocks and
//! results are pruned apart.

use bytes::Bytes;

use super::StoreError;
use super::logic::{self, read};
use super::records::{Fields, SEAL, checksum, height_key, malformed, put_place};
use super::tables::{Log, Place, ReadTables, Table, WriteTables};
use super::write::put_one;
use crate::ids::Height;

/// Where a response lies, how long it is, and its checksum.
struct Entry {
    place: Place,
    len: u32,
    seal: [u8; SEAL],
}

impl Entry {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(20);
        put_place(&mut out, self.place);
        out.extend_from_slice(&self.len.to_le_bytes());
        out.extend_from_slice(&self.seal);
        out
    }

    fn read(key: &[u8], body: &[u8]) -> Result<Self, StoreError> {
        let mut f = Fields::of(body);
        let mut fields = || {
            Some(Entry {
                place: f.place()?,
                len: f.u32()?,
                seal: f.array()?,
            })
        };
        let entry = fields();
        entry
            .and_then(|entry| f.end(entry))
            .ok_or_else(|| malformed(Table::Results, key))
    }

    fn end(&self) -> Place {
        self.place.after(self.len as usize)
    }
}

/// Keeps a height's response; one that was kept before is replaced.
pub(super) fn keep(
    t: &mut impl WriteTables,
    height: Height,
    response: &Bytes,
) -> Result<(), StoreError> {
    let key = height_key(height);
    let len = u32::try_from(response.len()).map_err(|_| StoreError::Failed {
        doing: format!("writing {}", Table::Results.describe(&key)),
        why: format!("it has {} bytes", response.len()),
    })?;
    // A log of its own, whose files go when results are pruned, whatever blocks are kept.
    let place = t.append_body(Log::Results, [response, &Bytes::new()])?;
    let seal = checksum(Table::Results, &key, &[response]);
    put_one(
        t,
        Table::Results,
        &key,
        &Entry { place, len, seal }.encode(),
    )
}

/// The response of a height; `None` when it is not kept.
pub(super) fn get(t: &impl ReadTables, height: Height) -> Result<Option<Bytes>, StoreError> {
    let key = height_key(height);
    let Some(body) = read(t, Table::Results, &key)? else {
        return Ok(None);
    };
    let entry = Entry::read(&key, body)?;
    let damaged =
        |why: &str| StoreError::Corrupt(format!("{}: {why}", Table::Results.describe(&key)));
    let response = match t.body(Log::Results, entry.place, entry.len as usize) {
        // The file knows the place only; the error is to name the height.
        Err(StoreError::Corrupt(why)) => return Err(damaged(&why)),
        response => response?,
    };
    if checksum(Table::Results, &key, &[&response]) != entry.seal {
        return Err(damaged("its bytes do not have its checksum"));
    }
    Ok(Some(response))
}

/// Where the first response that is kept begins, and where the last ends.
pub(super) fn extent(t: &impl ReadTables) -> Result<(Place, Place), StoreError> {
    // Keys are heights of eight bytes, big-endian, so these two bounds enclose all of them.
    let first = t.at_or_above(Table::Results, &[0])?;
    let last = t.at_or_below(Table::Results, &[0xff; 8])?;
    let entry = |pair| {
        let (key, body) = logic::unseal_pair(Table::Results, pair)?;
        Entry::read(key, body)
    };
    match (first, last) {
        (Some(first), Some(last)) => Ok((entry(first)?.place, entry(last)?.end())),
        _ => Ok(Default::default()),
    }
}

/// Lets go of the files before the first response that is kept, once those below have been dropped.
pub(super) fn release(t: &mut impl WriteTables) -> Result<(), StoreError> {
    // A damaged entry does not stop pruning; then its file waits for the next one's.
    if let Ok((first, end)) = extent(t)
        && end != Place::default()
    {
        t.keep_bodies_from(Log::Results, first);
    }
    Ok(())
}
