//! Blocks that can be read again without waiting for the disk: what the database says of them is
//! kept here, and their bytes are taken where the kernel has them in memory.
//!
//! A server that answers a crowd reads the same part of a chain for many. To hand each such read
//! to a thread that may wait costs more than the read.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{PoisonError, RwLock};

use crate::ids::Height;
use crate::store::records::BlockEntry;
use crate::store::segments::Segments;
use crate::store::tables::ReadTables;
use crate::store::{Gaps, Spaced, SpacedBlock, logic};

/// Entries that are kept: about 8 MiB.
const MOST_ENTRIES: usize = if cfg!(test) { 16 } else { 1 << 16 };
/// Entries that one look at the database adds.
const MOST_AT_ONCE: u32 = if cfg!(test) { 12 } else { 256 };
/// Bytes that are read at once, since the caller has other things to do: half a millisecond's
/// copying at most.
const MOST_BYTES: usize = 1 << 20;
/// Blocks that are read at once: each has two parts, and the kernel takes 1024.
const MOST_BLOCKS: usize = if cfg!(test) { 14 } else { 512 };

/// Entries of blocks that were read lately.
#[derive(Debug, Default)]
pub(super) struct Lately {
    /// Somebody has asked for blocks in memory. A store that nobody is served from keeps nothing.
    wanted: AtomicBool,
    known: RwLock<Known>,
}

/// Entries of one state of the database.
#[derive(Debug, Default)]
struct Known {
    /// Number of the transaction that made that state.
    transaction: usize,
    /// At most `MOST_ENTRIES`.
    entries: BTreeMap<Height, BlockEntry>,
}

impl Lately {
    pub(super) fn is_wanted(&self) -> bool {
        self.wanted.load(Relaxed)
    }

    /// Keeps what the database says of these heights.
    pub(super) fn note(&self, t: &impl ReadTables, transaction: usize, from: Height, count: u32) {
        if self.has(transaction, from, count) {
            return;
        }
        let mut read = Vec::new();
        let mut height = from;
        // Damage is told where the blocks themselves are read.
        while read.len() < count.min(MOST_AT_ONCE) as usize
            && let Ok(Some(entry)) = logic::entry(t, height)
        {
            read.push((height, entry));
            height = height.next();
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.transaction != transaction || known.entries.len() + read.len() > MOST_ENTRIES {
            known.entries.clear();
            known.transaction = transaction;
        }
        known.entries.extend(read);
    }

    /// Whether these heights are known, by the first and the last of them: a range that is read
    /// piece by piece is looked up once.
    fn has(&self, transaction: usize, from: Height, count: u32) -> bool {
        let last = from.plus(u64::from(count.clamp(1, MOST_AT_ONCE)) - 1);
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let is_known = |height| known.entries.contains_key(height);
        known.transaction == transaction && is_known(&from) && is_known(&last)
    }

    /// Blocks from `from` up whose bodies adjoin, if the database is still in the state of this
    /// transaction and the kernel has them all in memory.
    pub(super) fn blocks(
        &self,
        files: &Segments,
        transaction: usize,
        (from, count, max_bytes): (Height, u32, usize),
        gaps: Gaps,
    ) -> Option<Spaced> {
        self.wanted.store(true, Relaxed);
        let run = {
            let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
            if known.transaction != transaction {
                return None;
            }
            let entry = |height| Ok(known.entries.get(&height).copied());
            let count = (count as usize).min(MOST_BLOCKS);
            // The last block of a run may go beyond what was asked for.
            logic::run(entry, from, count, max_bytes.min(MOST_BYTES / 2)).ok()?
        };
        let bytes: usize = run.iter().map(BlockEntry::len).sum();
        if bytes > MOST_BYTES {
            return None;
        }
        let lengths = run.iter().map(BlockEntry::part_lens);
        let mut read = Spaced::with_room(from, lengths, gaps, |len| files.buffer(len));
        files.read_from_memory(run.first()?.place, &mut read.parts_mut())?;
        let whole = |(entry, at): (&BlockEntry, &SpacedBlock)| {
            let (block, ext_commit) = read.parts(at);
            entry.is_sealed(at.height, &[block, ext_commit.unwrap_or_default()])
        };
        run.iter().zip(read.blocks()).all(whole).then_some(read)
    }
}
