//! LMDB's file, looked at before it is mapped: a page that is named and not there ends the process
//! with a signal instead of an error.
//!
//! Only what LMDB itself takes on trust is checked: the two meta pages, the tree of free pages, the
//! list of tables and the pages at their roots, and, when the file is shorter than the meta page
//! says, whether a page that is in use lies beyond its end. Shorter alone is no damage: the last
//! pages may be free ones that were never written.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Bytes before a page's content.
const HEADER: usize = 16;
/// Bytes of a meta page that say something.
const META: usize = HEADER + 136;
const MAGIC: u32 = 0xBEEF_C0DE;
/// Kinds of pages.
const BRANCH: u16 = 0x01;
const LEAF: u16 = 0x02;
const OVERFLOW: u16 = 0x04;
/// Kinds of entries in a leaf.
const BIG: u16 = 0x01;
const SUBTREE: u16 = 0x02;
/// Bytes before an entry's key.
const NODE: usize = 8;
/// Flags of the two trees that every file has: of free pages, whose keys are numbers, and of
/// tables.
const FREE_FLAGS: u16 = 0x08;
const MAIN_FLAGS: u16 = 0;
/// The root of an empty tree.
const NONE: u64 = u64::MAX;
/// A tree that is higher is none: 32 levels of two entries are more than a file can hold.
const MAX_DEPTH: u16 = 32;

/// Says what is wrong with a file, in words; `None` when nothing is, or the file is empty or not
/// there.
///
/// # Errors
/// When it cannot be read.
pub(super) fn damage(path: &Path) -> io::Result<Option<String>> {
    if usize::BITS != 64 {
        return Ok(None); // the layout is another one
    }
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let bytes = file.metadata()?.len();
    // A new file: LMDB writes its meta pages when it opens it.
    if bytes == 0 {
        return Ok(None);
    }
    Ok(Pages {
        file,
        bytes,
        size: 0,
        last: 0,
    }
    .damage()
    .err())
}

struct Pages {
    file: File,
    bytes: u64,
    /// Bytes of a page.
    size: u64,
    /// The last page that is in use, or was.
    last: u64,
}

/// A tree's description.
#[derive(Clone, Copy)]
struct Tree {
    flags: u16,
    depth: u16,
    root: u64,
}

impl Tree {
    fn read(bytes: &[u8]) -> Self {
        Tree {
            flags: u16_at(bytes, 4),
            depth: u16_at(bytes, 6),
            root: u64_at(bytes, 40),
        }
    }
}

/// Which entries a tree's leaves may have, and what of them is looked at.
#[derive(Clone, Copy)]
enum Look {
    FreePages,
    Tables,
    Everything,
}

/// An entry of a page.
struct Node<'a> {
    low: u16,
    high: u16,
    flags: u16,
    key_length: u16,
    /// Bytes of the value, of which `data` has what fits into the page.
    length: u32,
    data: &'a [u8],
}

impl<'a> Node<'a> {
    fn all(page: &'a [u8]) -> impl Iterator<Item = Node<'a>> {
        let entries = usize::from(u16_at(page, 12)).saturating_sub(HEADER) / 2;
        (0..entries).map(|n| Node::at(page, usize::from(u16_at(page, HEADER + 2 * n))))
    }

    fn at(page: &'a [u8], at: usize) -> Self {
        let (low, high) = (u16_at(page, at), u16_at(page, at + 2));
        let key_length = u16_at(page, at + 6);
        let data = page.get(at + NODE + usize::from(key_length)..);
        Node {
            low,
            high,
            flags: u16_at(page, at + 4),
            key_length,
            length: u32::from(low) | u32::from(high) << 16,
            data: data.unwrap_or_default(),
        }
    }

    /// The page below an entry of a branch.
    fn below(&self) -> u64 {
        u64::from(self.low) | u64::from(self.high) << 16 | u64::from(self.flags) << 32
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    // Native byte order, as LMDB writes it; beyond the page zeros, so that damage cannot panic.
    bytes
        .get(at..at + 2)
        .map_or(0, |b| u16::from_ne_bytes([b[0], b[1]]))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let wide = bytes.get(at..at + 4).and_then(|b| b.try_into().ok());
    wide.map_or(0, u32::from_ne_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let wide = bytes.get(at..at + 8).and_then(|b| b.try_into().ok());
    wide.map_or(0, u64::from_ne_bytes)
}

impl Pages {
    fn damage(mut self) -> Result<(), String> {
        let first = self.meta(0, 0)?;
        // Checked first: all offsets below are multiples of it.
        self.size = u64::from(u32_at(&first, HEADER + 24));
        if !self.size.is_power_of_two() || !(512..=65536).contains(&self.size) {
            return Err(format!(
                "its first page names {} as the size of a page",
                self.size
            ));
        }
        // LMDB writes its two meta pages in turn; the one with the higher transaction number holds.
        let second = self.meta(1, self.size)?;
        let other = u64::from(u32_at(&second, HEADER + 24));
        if other != self.size {
            return Err(format!(
                "its meta pages name {} and {other} as the size of a page",
                self.size
            ));
        }
        let number = |meta: &[u8]| u64_at(meta, HEADER + 128);
        let meta = if number(&second) > number(&first) {
            second
        } else {
            first
        };
        self.last = u64_at(&meta, HEADER + 120);
        // The size of the map in pages. A last page outside of it would be read outside of the map.
        let most = u64_at(&meta, HEADER + 16) / self.size;
        if self.last < 1 || self.last >= most {
            return Err(format!(
                "it names {} as its last page, and {most} as the most",
                self.last
            ));
        }
        let (free, main) = (
            Tree::read(&meta[HEADER + 24..]),
            Tree::read(&meta[HEADER + 72..]),
        );
        if (free.flags, main.flags) != (FREE_FLAGS, MAIN_FLAGS) {
            return Err("a meta page has flags that this program never sets".to_owned());
        }
        let whole = self
            .last
            .checked_add(1)
            .and_then(|pages| pages.checked_mul(self.size));
        let is_short = whole.is_none_or(|whole| self.bytes < whole);
        for tree in [free, main] {
            self.root(tree)?;
        }
        self.walk(free, Look::FreePages)?;
        self.walk(main, Look::Tables)?;
        // A full walk reads the whole file. It is needed only where pages at the end are missing:
        // they may all be free.
        if is_short {
            self.walk(main, Look::Everything)?;
        }
        Ok(())
    }

    fn meta(&self, n: usize, offset: u64) -> Result<Vec<u8>, String> {
        let mut page = vec![0; META];
        let read = self.file.read_exact_at(&mut page, offset);
        read.map_err(|_| format!("it ends within meta page {n}, after {} bytes", self.bytes))?;
        if u32_at(&page, HEADER) != MAGIC {
            return Err(format!("meta page {n} is none"));
        }
        Ok(page)
    }

    fn page(&self, number: u64) -> Result<Vec<u8>, String> {
        let missing = || {
            let expected = self.last.saturating_add(1).saturating_mul(self.size);
            format!(
                "page {number} is in use and is not there: the file has {} bytes, up to {expected} are expected",
                self.bytes
            )
        };
        // Pages 0 and 1 are the meta pages, which no tree names.
        if number < 2 || number > self.last {
            return Err(format!("page {number} is named, of {}", self.last));
        }
        let offset = number.checked_mul(self.size).ok_or_else(missing)?;
        let mut page = vec![0; usize::try_from(self.size).map_err(|e| e.to_string())?];
        self.file
            .read_exact_at(&mut page, offset)
            .map_err(|_| missing())?;
        // Each page carries its number: a page of zeros, or one that moved, is noticed here.
        if u64_at(&page, 0) != number {
            return Err(format!(
                "page {number} says that it is page {}",
                u64_at(&page, 0)
            ));
        }
        Ok(page)
    }

    /// The page at the root is one of a tree.
    fn root(&self, tree: Tree) -> Result<(), String> {
        if tree.root == NONE {
            return Ok(());
        }
        let kind = u16_at(&self.page(tree.root)?, 10);
        if tree.depth > MAX_DEPTH || kind & (BRANCH | LEAF) == 0 || kind & OVERFLOW != 0 {
            return Err(format!(
                "page {} is at the root of a tree and is none of it",
                tree.root
            ));
        }
        Ok(())
    }

    /// Every page of a tree is there, and every entry is of the kind that belongs there.
    fn walk(&self, tree: Tree, look: Look) -> Result<(), String> {
        // A stack of its own: a damaged tree may be far deeper than ours can be.
        let mut todo = vec![(tree.root, tree.depth.min(MAX_DEPTH))];
        let mut pages = 0;
        while let Some((number, depth)) = todo.pop() {
            if number == NONE {
                continue;
            }
            pages += 1;
            // The bound also ends a walk through a damaged tree that leads back into itself.
            if pages > self.last {
                return Err("its trees have more pages than the file: some are shared".to_owned());
            }
            let page = self.page(number)?;
            let is_branch = u16_at(&page, 10) & BRANCH != 0;
            if is_branch && depth == 0 {
                return Err(format!("page {number} is deeper than its tree"));
            }
            for node in Node::all(&page) {
                if is_branch {
                    todo.push((node.below(), depth - 1));
                } else {
                    self.entry(number, &node, look, &mut todo)?;
                }
            }
        }
        Ok(())
    }

    /// One entry of a leaf; the trees below it that are to be looked at are added to `todo`.
    fn entry(
        &self,
        number: u64,
        node: &Node<'_>,
        look: Look,
        todo: &mut Vec<(u64, u16)>,
    ) -> Result<(), String> {
        match look {
            Look::FreePages => self.free_pages(number, node),
            Look::Tables => {
                if node.flags & SUBTREE == 0 {
                    return Err(format!("page {number} lists something that is no table"));
                }
                self.root(Tree::read(node.data))
            }
            Look::Everything => {
                if node.flags & BIG != 0 {
                    self.overflow(u64_at(node.data, 0))?;
                } else if node.flags & SUBTREE != 0 {
                    let table = Tree::read(node.data);
                    todo.push((table.root, table.depth.min(MAX_DEPTH)));
                }
                Ok(())
            }
        }
    }

    /// A transaction's free pages: its number, and a list that says how long it is. LMDB copies as
    /// many numbers as the list says.
    fn free_pages(&self, number: u64, node: &Node<'_>) -> Result<(), String> {
        const NUMBER: u64 = size_of::<u64>() as u64;
        let long;
        let list = if node.flags & BIG == 0 {
            node.data
        } else {
            self.overflow(u64_at(node.data, 0))?;
            long = self.page(u64_at(node.data, 0))?;
            long.get(HEADER..).unwrap_or_default()
        };
        let says = u64_at(list, 0)
            .checked_add(1)
            .and_then(|n| n.checked_mul(NUMBER));
        let fits = says.is_some_and(|bytes| bytes <= u64::from(node.length));
        if node.key_length != 8 || !fits {
            return Err(format!("page {number} holds no list of free pages"));
        }
        Ok(())
    }

    /// Every page of a long value is there.
    fn overflow(&self, first: u64) -> Result<(), String> {
        let count = u32_at(&self.page(first)?, 12);
        let last = first.saturating_add(u64::from(count)).saturating_sub(1);
        if last > first {
            let offset = last.saturating_mul(self.size);
            // The last one is enough: pages of a long value lie one behind the other.
            if offset.saturating_add(self.size) > self.bytes {
                return Err(format!(
                    "page {last} is in use and is not there: the file has {} bytes",
                    self.bytes
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tempfile::TempDir;

    use super::*;
    use crate::store::{Batch, LmdbOptions, LmdbStore, Store, StoreError};

    const OPTIONS: LmdbOptions = LmdbOptions { map_size: 64 << 20 };
    const KEYS: u32 = 900;

    /// A store of some hundred pages, in trees of several levels, with pages that were freed.
    fn filled() -> (TempDir, Vec<u8>) {
        let dir = TempDir::new().unwrap();
        let store = LmdbStore::open(dir.path(), &OPTIONS).unwrap();
        for round in 0..3u32 {
            for from in (0..KEYS).step_by(300) {
                let write = |n: u32| {
                    (
                        Bytes::from(n.to_be_bytes().to_vec()),
                        Some(Bytes::from(vec![round as u8; 200])),
                    )
                };
                let app = (from..from + 300).map(write).collect();
                store
                    .commit(Batch {
                        app,
                        ..Batch::default()
                    })
                    .unwrap();
            }
        }
        drop(store);
        let bytes = std::fs::read(dir.path().join("data.mdb")).unwrap();
        (dir, bytes)
    }

    /// Opens it, reads everything, writes once: what fails must fail with words.
    fn used(dir: &Path) -> Result<usize, StoreError> {
        let found = LmdbStore::open_read_only(dir)?.app_scan(b"")?.len();
        let store = LmdbStore::open(dir, &OPTIONS)?;
        let app = vec![(Bytes::from_static(b"more"), Some(Bytes::from_static(b"x")))];
        store.commit(Batch {
            app,
            ..Batch::default()
        })?;
        Ok(found)
    }

    #[test]
    fn a_file_cut_short_is_an_error_and_no_signal() {
        let (dir, whole) = filled();
        let file = dir.path().join("data.mdb");
        assert_eq!(damage(&file).unwrap(), None);
        assert_eq!(used(dir.path()).unwrap(), KEYS as usize);
        let (mut refused, mut usable) = (0, 0);
        for length in (1..whole.len()).rev().step_by(1777) {
            std::fs::write(&file, &whole[..length]).unwrap();
            match used(dir.path()) {
                // The last pages were free.
                Ok(found) => {
                    assert_eq!(found, KEYS as usize, "{length} of {}", whole.len());
                    usable += 1;
                }
                Err(StoreError::Corrupt(why)) => {
                    assert!(why.contains("data.mdb"), "{why}");
                    refused += 1;
                }
                Err(other) => panic!("{length}: {other}"),
            }
        }
        assert!(refused > usable, "{refused} {usable}");
    }

    #[test]
    fn a_root_that_is_another_trees_is_seen() {
        let (dir, whole) = filled();
        let file = dir.path().join("data.mdb");
        let page = usize::try_from(u32_at(&whole, HEADER + 24)).unwrap();
        let (free, main) = (HEADER + 24 + 40, HEADER + 72 + 40);
        for (to, from, says) in [(free, main, "list of free pages"), (main, free, "no table")] {
            let mut bytes = whole.clone();
            for meta in [0, page] {
                bytes.copy_within(meta + from..meta + from + 8, meta + to);
            }
            std::fs::write(&file, &bytes).unwrap();
            let why = damage(&file).unwrap().expect("it is seen");
            assert!(why.contains(says), "{why}");
        }
    }

    #[test]
    fn a_flipped_bit_in_a_meta_page_is_no_signal() {
        let (dir, whole) = filled();
        let file = dir.path().join("data.mdb");
        let mut refused = 0;
        let page = usize::try_from(u32_at(&whole, HEADER + 24)).unwrap();
        for at in (0..META).chain(page..page + META) {
            for bit in [0, 3, 7] {
                let mut bytes = whole.clone();
                bytes[at] ^= 1 << bit;
                std::fs::write(&file, &bytes).unwrap();
                // Some of it harms nothing, or takes the state before the last commit.
                refused += usize::from(used(dir.path()).is_err());
            }
        }
        assert!(refused > 100, "{refused}");
    }
}
