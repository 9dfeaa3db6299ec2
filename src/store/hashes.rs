//! Heights by the hash of their block. Hashes come in no order, and a tree over all of them would
//! have every batch touch as many pages as it brings blocks; so the index is one small tree after
//! another, each over `SPAN` heights, and a look-up asks one tree after another.

use super::StoreError;
use super::logic::{self, read};
use super::records::{Fields, malformed};
use super::tables::{ReadTables, Table, WriteTables};
use super::write::put_one;
use crate::ids::{Hash, Height};

/// Heights of one tree, as a power of two.
const SPAN: u32 = 16;
/// Bytes of the hash in a key; the block itself tells whether the rest fits.
const HASH_HEAD: usize = 16;

fn key(tree: u64, hash: &Hash) -> [u8; 8 + HASH_HEAD] {
    let mut key = [0; 8 + HASH_HEAD];
    key[..8].copy_from_slice(&tree.to_be_bytes());
    key[8..].copy_from_slice(&hash.0[..HASH_HEAD]);
    key
}

fn tree_of(height: Height) -> u64 {
    height.get() >> SPAN
}

/// Notes a stored block's hash.
pub(super) fn note(
    t: &mut impl WriteTables,
    height: Height,
    hash: &Hash,
) -> Result<(), StoreError> {
    let key = key(tree_of(height), hash);
    put_one(t, Table::ByHash, &key, &height.get().to_le_bytes())
}

/// Forgets a block that goes.
pub(super) fn forget(
    t: &mut impl WriteTables,
    height: Height,
    hash: &Hash,
) -> Result<(), StoreError> {
    t.delete(Table::ByHash, &key(tree_of(height), hash))
}

/// The height of the stored block with this hash.
pub(super) fn height_of(t: &impl ReadTables, hash: &Hash) -> Result<Option<Height>, StoreError> {
    let span = logic::span(t)?;
    if span.base == Height::ZERO {
        return Ok(None);
    }
    // From the newest down: recent blocks are asked for most.
    for tree in (tree_of(span.base)..=tree_of(span.stored)).rev() {
        let key = key(tree, hash);
        let Some(body) = read(t, Table::ByHash, &key)? else {
            continue;
        };
        let mut f = Fields::of(body);
        let height = f.height();
        let height = height
            .and_then(|height| f.end(height))
            .ok_or_else(|| malformed(Table::ByHash, &key))?;
        let entry = logic::entry(t, height)?;
        // A key holds half of the hash. The rest is compared with the block's own record.
        if entry.is_some_and(|entry| entry.id.hash == Some(*hash)) {
            return Ok(Some(height));
        }
    }
    Ok(None)
}
