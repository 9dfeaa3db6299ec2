//! The contract on disk: reopening, locking, a full map, flipped bits.

use std::cell::RefCell;
use std::process::Command;

use tempfile::TempDir;

use super::*;
use crate::store::conformance::{self, in_memory, sample};
use crate::store::reads_from_memory;
use crate::store::tables::WriteTables as _;
use sample::h;

/// Small enough to fill, large enough for everything here.
const SMALL: LmdbOptions = LmdbOptions { map_size: 4 << 20 };
const LARGE: LmdbOptions = LmdbOptions { map_size: 1 << 30 };

/// A store, and the directory that it goes with.
fn temporary() -> (LmdbStore, TempDir) {
    let dir = TempDir::new().unwrap();
    (open(dir.path()), dir)
}

fn open(dir: &Path) -> LmdbStore {
    LmdbStore::open(dir, &LARGE).unwrap()
}

fn blocks(heights: std::ops::RangeInclusive<u64>) -> Batch {
    Batch {
        blocks: sample::blocks(1, heights),
        ..Batch::default()
    }
}

fn with_state(heights: std::ops::RangeInclusive<u64>) -> Batch {
    Batch {
        state: Some(Arc::new(sample::state(*heights.end(), 1))),
        ..blocks(heights)
    }
}

#[test]
fn passes_the_contract() {
    let dirs = RefCell::new(Vec::new());
    conformance::run(|| {
        let (store, dir) = temporary();
        dirs.borrow_mut().push(dir);
        store
    });
}

#[test]
fn everything_is_there_after_reopening() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    store
        .commit(Batch {
            state: Some(Arc::new(sample::state(0, 1))),
            ..Batch::default()
        })
        .unwrap();
    store
        .commit(Batch {
            seen_commit: Some((h(7), sample::commit_bytes(7))),
            results: Some((h(7), Bytes::from_static(b"results"))),
            evidence: vec![(Hash([9; 32]), h(3))],
            app: vec![(Bytes::from_static(b"k"), Some(Bytes::from_static(b"v")))],
            ..with_state(1..=7)
        })
        .unwrap();
    drop(store);
    let store = open(dir.path());
    let span = Span {
        base: h(1),
        stored: h(7),
        applied: h(7),
    };
    assert_eq!(store.span().unwrap(), span);
    assert_eq!(
        store.blocks(h(1), 9, usize::MAX).unwrap(),
        sample::blocks(1, 1..=7)
    );
    let state = store.state().unwrap().unwrap();
    let expected = sample::state(7, 1);
    assert_eq!(state.app_hash, expected.app_hash);
    assert_eq!(
        state.validators.priorities(),
        expected.validators.priorities()
    );
    assert_eq!(
        store.seen_commit(h(7)).unwrap(),
        Some(sample::commit_bytes(7))
    );
    assert_eq!(
        store.results().unwrap(),
        Some((h(7), Bytes::from_static(b"results")))
    );
    assert!(store.has_evidence(&Hash([9; 32])).unwrap());
    assert_eq!(store.app_get(b"k").unwrap(), Some(Bytes::from_static(b"v")));
    store.commit(with_state(8..=8)).unwrap();
}

#[test]
fn a_store_belongs_to_one_chain_and_one_version() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    let mark = ChainMark {
        chain_id: Bytes::from_static(b"a"),
        genesis: Hash([1; 32]),
    };
    assert_eq!(store.chain().unwrap(), None);
    store.claim(&mark).unwrap();
    store.claim(&mark).unwrap();
    assert_eq!(store.chain().unwrap(), Some(mark.clone()));
    let other = ChainMark {
        genesis: Hash([2; 32]),
        ..mark
    };
    assert!(matches!(store.claim(&other), Err(StoreError::Foreign(_))));
    store
        .write(|t| write::put_one(t, Table::Meta, name::SCHEMA, &7u32.to_le_bytes()))
        .unwrap();
    drop(store);
    for result in [
        LmdbStore::open(dir.path(), &LARGE),
        LmdbStore::open_read_only(dir.path()),
    ] {
        let said = result.unwrap_err().to_string();
        assert!(
            said.contains("version 7") && said.contains("version 3"),
            "{said}"
        );
    }
}

#[test]
fn one_process_writes_and_the_second_is_refused_by_name() {
    let home = TempDir::new().unwrap();
    let dir = home.path().join("data");
    let store = open(&dir);
    let said = LmdbStore::open(&dir, &LARGE).unwrap_err();
    assert!(matches!(said, StoreError::Locked(_)), "{said}");
    let said = said.to_string();
    assert!(said.contains(&std::process::id().to_string()), "{said}");
    assert!(
        said.starts_with(&home.path().display().to_string()),
        "{said}"
    );
    drop(store);
    open(&dir);
}

#[test]
fn there_must_be_a_store_to_read() {
    let dir = TempDir::new().unwrap();
    let said = LmdbStore::open_read_only(dir.path()).unwrap_err();
    assert!(said.to_string().contains("there is no store"), "{said}");
}

/// The variable that turns `reads_beside_a_writer` into its own child.
const CHILD: &str = "BLOCKSYNC_TEST_READ_ONLY";

#[test]
fn reads_beside_a_writer() {
    if let Ok(dir) = std::env::var(CHILD) {
        let store = LmdbStore::open_read_only(Path::new(&dir)).unwrap();
        assert_eq!(store.span().unwrap().stored, h(5));
        assert_eq!(store.block(h(3)).unwrap(), Some(sample::block(3, 1, 200)));
        let refused = store.commit(blocks(6..=6)).unwrap_err();
        assert!(refused.to_string().contains("opened for reading"));
        return;
    }
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    store.commit(blocks(1..=5)).unwrap();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "store::lmdb::tests::reads_beside_a_writer"])
        .env(CHILD, dir.path())
        .output()
        .unwrap();
    let out = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success() && out.contains("1 passed"), "{out}");
    store.commit(blocks(6..=6)).unwrap();
}

#[test]
fn a_full_map_is_no_space_and_leaves_the_store_as_it_was() {
    let dir = TempDir::new().unwrap();
    let store = LmdbStore::open(dir.path(), &SMALL).unwrap();
    let mut stored = 0;
    // Blocks' own bytes are not in the map: an application's values fill it.
    let pair = |n: u64, i: u64| {
        let key = Bytes::from(format!("{n}/{i}"));
        (key, Some(Bytes::from(vec![1; MAX_INLINE])))
    };
    let error = loop {
        let batch = Batch {
            app: (0..400).map(|i| pair(stored + 1, i)).collect(),
            ..blocks(stored + 1..=stored + 1)
        };
        match store.commit(batch) {
            Ok(()) => stored += 1,
            Err(error) => break error,
        }
        assert!(stored < 100, "4 MiB hold fewer than 100 blocks of 100 kB");
    };
    assert!(matches!(error, StoreError::Full { .. }), "{error}");
    let said = error.to_string();
    assert!(said.contains("application key"), "{said}");
    assert_eq!(store.span().unwrap().stored, h(stored));
    assert!(store.block(h(stored)).unwrap().is_some());
    assert_eq!(store.block(h(stored + 1)).unwrap(), None);
    drop(store);
    let store = open(dir.path());
    assert_eq!(store.span().unwrap().stored, h(stored));
    store.commit(blocks(stored + 1..=stored + 50)).unwrap();
}

/// The variables that turn `a_disk_that_is_full…` into its own child: where the store lies, and
/// which file grows too long.
const FULL_CHILD: &str = "BLOCKSYNC_TEST_FULL_DISK";
const FULL_FILE: &str = "BLOCKSYNC_TEST_FULL_FILE";

/// Batches of which, sooner or later, one makes the database too long for the disk, or a file of
/// blocks.
fn filling(file: &str, height: u64) -> Batch {
    let pair = |i: u64| {
        let key = Bytes::from(format!("{height}/{i}"));
        (key, Some(Bytes::from(vec![1; MAX_INLINE])))
    };
    let (bytes, pairs) = match file {
        DATA_FILE => (1_000, 400),
        _ => (if height <= 12 { 100_000 } else { 10_000_000 }, 1),
    };
    Batch {
        blocks: vec![sample::block(height, 1, bytes)],
        app: (0..pairs).map(pair).collect(),
        ..Batch::default()
    }
}

/// The kernel stands in for a full disk: it lets no file grow beyond some megabytes.
#[test]
fn a_disk_that_is_full_leaves_the_store_as_it_was() {
    if let Ok(dir) = std::env::var(FULL_CHILD) {
        let file = std::env::var(FULL_FILE).unwrap();
        let store = open(Path::new(&dir));
        let failed = (1..).find_map(|height| store.commit(filling(&file, height)).err());
        let said = failed.unwrap();
        let fits = matches!(said, StoreError::Full { .. } | StoreError::Failed { .. });
        assert!(fits, "{said}");
        let stored = store.span().unwrap().stored;
        let said = store.commit(filling(&file, stored.get() + 1)).unwrap_err();
        assert!(said.to_string().contains("an earlier write failed"));
        println!("stored={stored}");
        return;
    }
    for file in [DATA_FILE, "blocks"] {
        let dir = TempDir::new().unwrap();
        let child = Command::new("sh")
            .args(["-c", "trap '' XFSZ; ulimit -f 8000; exec \"$0\" \"$@\""])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture"])
            .arg("store::lmdb::tests::a_disk_that_is_full_leaves_the_store_as_it_was")
            .env(FULL_CHILD, dir.path())
            .env(FULL_FILE, file)
            .output()
            .unwrap();
        let out = String::from_utf8_lossy(&child.stdout);
        assert!(child.status.success(), "{file}: {out}");
        let stored = out
            .split("stored=")
            .nth(1)
            .expect("it says how far it came");
        let stored = stored.split_whitespace().next().unwrap().parse().unwrap();
        assert!(stored > 10, "several megabytes fit: {stored}");
        let store = open(dir.path());
        assert_eq!(store.span().unwrap().stored, h(stored));
        for height in 1..=stored {
            let expected = filling(file, height).blocks.pop();
            assert_eq!(store.block(h(height)).unwrap(), expected);
        }
        store.commit(filling(file, stored + 1)).unwrap();
    }
}

#[test]
fn pruned_space_is_used_again() {
    let dir = TempDir::new().unwrap();
    let store = LmdbStore::open(dir.path(), &SMALL).unwrap();
    for height in 1..=400 {
        let batch = Batch {
            blocks: vec![sample::block(height, 1, 50_000)],
            state: Some(Arc::new(sample::state(height, 1))),
            prune: Some((h(height.saturating_sub(10)), h(height.saturating_sub(20)))),
            ..Batch::default()
        };
        store.commit(batch).unwrap(); // 20 MB through 4 MiB
    }
    assert_eq!(store.span().unwrap().base, h(390));
    let files = std::fs::read_dir(dir.path().join("blocks")).unwrap();
    let sizes: Vec<u64> = files
        .map(|f| f.unwrap().metadata().unwrap().len())
        .collect();
    let all: u64 = sizes.iter().sum();
    assert!(all < 3 << 20, "11 blocks of 50 kB in {sizes:?}");
}

#[test]
fn a_set_costs_a_record_only_when_it_changes() {
    let (store, _dir) = temporary();
    let count = |table: Table| {
        let transaction = store.env.read_txn().unwrap();
        store.databases[table as usize].len(&transaction).unwrap()
    };
    store
        .commit(Batch {
            state: Some(Arc::new(sample::state(0, 1))),
            ..Batch::default()
        })
        .unwrap();
    for height in 1..=200 {
        store.commit(with_state(height..=height)).unwrap();
    }
    assert_eq!((count(Table::Sets), count(Table::Params)), (1, 1));
    let mut state = sample::state(200, 1);
    state.next_validators = sample::set(9, 9);
    store
        .commit(Batch {
            state: Some(Arc::new(state)),
            ..Batch::default()
        })
        .unwrap();
    assert_eq!((count(Table::Sets), count(Table::Params)), (2, 1));
}

/// Where a stored value lies in the data file.
fn find(data: &[u8], value: &[u8]) -> usize {
    let mut found = data.windows(value.len()).enumerate();
    found
        .find(|(_, window)| *window == value)
        .expect("it is in the file")
        .0
}

fn stored_value(store: &LmdbStore, table: Table, key: &[u8]) -> Vec<u8> {
    store
        .reader()
        .unwrap()
        .get(table, key)
        .unwrap()
        .unwrap()
        .to_vec()
}

/// Flips bits of a record in the database and reads it back through a fresh store each time.
fn flipped_bits_are_found(
    table: Table,
    key: &[u8],
    read: impl Fn(&LmdbStore) -> Result<(), StoreError>,
) {
    let find_value = |store: &LmdbStore| stored_value(store, table, key);
    flipped_bits_in_a_file(DATA_FILE, find_value, read);
}

/// The same for any file and bytes of it.
fn flipped_bits_in_a_file(
    file: &str,
    value: impl Fn(&LmdbStore) -> Vec<u8>,
    read: impl Fn(&LmdbStore) -> Result<(), StoreError>,
) {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    store.commit(with_state(1..=3)).unwrap();
    read(&store).unwrap();
    let value = value(&store);
    drop(store);
    let file = dir.path().join(file);
    let sound = std::fs::read(&file).unwrap();
    let at = find(&sound, &value);
    let mut data = sound.clone();
    for offset in 0..value.len() {
        let bit = 1 << (offset % 8);
        data[at + offset] ^= bit;
        std::fs::write(&file, &data).unwrap();
        data[at + offset] ^= bit;
        let found = LmdbStore::open(dir.path(), &LARGE).and_then(|store| read(&store));
        assert!(
            matches!(found, Err(StoreError::Corrupt(_))),
            "bit {} of byte {offset} of {}: {found:?}",
            offset % 8,
            value.len()
        );
    }
    std::fs::write(&file, &sound).unwrap();
    read(&open(dir.path())).unwrap();
}

/// The file of the first blocks.
const FIRST_BLOCKS: &str = "blocks/0000000000.log";

#[test]
fn a_flipped_bit_in_a_block_is_found() {
    let read = |store: &LmdbStore| {
        store.block(h(2)).map(|found| assert!(found.is_some()))?;
        // Blocks around it are still served, up to the damage.
        assert!(store.blocks(h(1), 3, usize::MAX).unwrap().len() == 3);
        Ok(())
    };
    flipped_bits_are_found(Table::Blocks, &records::height_key(h(2)), read);
    let raw = |store: &LmdbStore| store.block(h(2)).unwrap().unwrap().raw.to_vec();
    flipped_bits_in_a_file(FIRST_BLOCKS, raw, read);
}

#[test]
fn a_file_of_blocks_that_ends_early_or_is_gone_is_found() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    store.commit(blocks(1..=3)).unwrap();
    let file = dir.path().join(FIRST_BLOCKS);
    let sound = std::fs::read(&file).unwrap();
    let third = find(&sound, &sample::blocks(1, 3..=3)[0].raw);
    std::fs::write(&file, &sound[..third]).unwrap();
    assert_eq!(
        store.blocks(h(1), 9, usize::MAX).unwrap(),
        sample::blocks(1, 1..=2),
        "what lies below the damage is served"
    );
    let said = store.block(h(3)).unwrap_err().to_string();
    assert!(said.starts_with("corrupt record: block 3: "), "{said}");
    drop(store);
    let said = LmdbStore::open(dir.path(), &LARGE).unwrap_err().to_string();
    assert!(
        said.contains("block 3: its") && said.contains(FIRST_BLOCKS),
        "{said}"
    );
    assert_eq!(
        std::fs::read(&file).unwrap(),
        &sound[..third],
        "left as it was"
    );
    std::fs::remove_file(&file).unwrap();
    let said = LmdbStore::open(dir.path(), &LARGE).unwrap_err();
    assert!(matches!(said, StoreError::Corrupt(_)), "{said}");
}

#[test]
fn a_batch_that_is_refused_leaves_nothing_in_the_files() {
    let (store, dir) = temporary();
    store.commit(blocks(1..=2)).unwrap();
    let mut bad = blocks(3..=4);
    bad.blocks.extend(sample::blocks(1, 6..=6));
    let said = store.commit(bad).unwrap_err().to_string();
    assert!(said.contains("block 6 where 5 is due"), "{said}");
    store.commit(blocks(3..=3)).unwrap();
    drop(store);
    let found = open(dir.path()).blocks(h(1), 9, usize::MAX).unwrap();
    assert_eq!(found, sample::blocks(1, 1..=3));
}

#[test]
fn a_flipped_bit_in_the_state_or_the_span_is_found() {
    flipped_bits_are_found(Table::Meta, name::STATE, |store| store.state().map(|_| ()));
    flipped_bits_are_found(Table::Meta, name::SPAN, |store| store.span().map(|_| ()));
    flipped_bits_are_found(Table::Sets, &records::height_key(h(3)), |store| {
        store.validators(h(3)).map(|_| ())
    });
}

#[test]
fn a_flipped_bit_in_an_applications_longer_value_is_found() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    let long = Bytes::from(vec![7; MAX_INLINE + 1]);
    let pair = (Bytes::from_static(b"k"), Some(long.clone()));
    let app = vec![pair];
    store
        .commit(Batch {
            app,
            ..Batch::default()
        })
        .unwrap();
    assert_eq!(store.app_get(b"k").unwrap(), Some(long.clone()));
    let file = dir.path().join("values/0000000000.log");
    let mut data = std::fs::read(&file).unwrap();
    let at = find(&data, &long);
    data[at + 100] ^= 4;
    std::fs::write(&file, &data).unwrap();
    for said in [
        store.app_get(b"k").unwrap_err(),
        store.app_scan(b"").unwrap_err(),
    ] {
        let said = said.to_string();
        assert!(
            said.contains("corrupt record: application key 6b: its value does not"),
            "{said}"
        );
    }
}

#[test]
fn damage_ends_a_range_but_does_not_hide_what_is_below() {
    let (store, _dir) = temporary();
    store.commit(blocks(1..=5)).unwrap();
    let key = records::height_key(h(3));
    let mut value = stored_value(&store, Table::Blocks, &key);
    *value.last_mut().unwrap() ^= 1;
    store
        .write(|t| t.put(Table::Blocks, &key, &[&value]))
        .unwrap();
    let good = store.blocks(h(1), 9, usize::MAX).unwrap();
    assert_eq!(good, sample::blocks(1, 1..=2));
    for result in [
        store.block(h(3)).map(|_| ()),
        store.blocks(h(3), 1, 1).map(|_| ()),
        store.header(h(3)).map(|_| ()),
        store.commit_for(h(2)).map(|_| ()),
    ] {
        let said = result.unwrap_err().to_string();
        assert!(said.starts_with("corrupt record: block 3: "), "{said}");
    }
}

#[test]
fn a_missing_height_is_found() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    store.commit(blocks(1..=5)).unwrap();
    store
        .write(|t| t.delete(Table::Blocks, &records::height_key(h(3))))
        .unwrap();
    let said = store.block(h(3)).unwrap_err().to_string();
    assert!(said.contains("block 3: it is missing"), "{said}");
    drop(store);
    let said = LmdbStore::open(dir.path(), &LARGE).unwrap_err().to_string();
    assert!(said.contains("blocks 1 to 5, but has 4"), "{said}");
}

#[test]
fn after_a_failed_commit_nothing_is_written_any_more() {
    let (store, _dir) = temporary();
    store.commit(blocks(1..=1)).unwrap();
    store.failed.set("disk on fire".to_owned()).unwrap();
    let said = store.commit(blocks(2..=2)).unwrap_err().to_string();
    assert!(said.contains("disk on fire"), "{said}");
    assert!(store.block(h(1)).unwrap().is_some(), "reading goes on");
}

#[test]
fn blocks_ahead_of_their_time_are_not_there_before_it() {
    let (store, dir) = temporary();
    store.commit(with_state(1..=1)).unwrap();
    let ahead = |to| sample::blocks(1, 3..=to);
    store
        .commit(Batch {
            ahead: ahead(9),
            ..with_state(2..=2)
        })
        .unwrap();
    assert_eq!(store.span().unwrap().stored, h(2));
    assert_eq!(store.block(h(3)).unwrap(), None);
    store.commit(with_state(3..=3)).unwrap();
    store.commit(with_state(4..=4)).unwrap();
    // As after a kill: what has no name is cut off, and comes anew.
    drop(store);
    let store = open(dir.path());
    assert_eq!(store.span().unwrap().stored, h(4));
    store.commit(with_state(5..=9)).unwrap();
    let all = store.blocks(h(1), 20, usize::MAX).unwrap();
    assert_eq!(all, sample::blocks(1, 1..=9));
}

/// Takes a file's pages out of the kernel's memory; `false` where the file system keeps them.
#[cfg(target_os = "linux")]
fn evict(path: &Path) -> bool {
    use rustix::fs::{Advice, fadvise};
    use rustix::io::{ReadWriteFlags, preadv2};
    let file = File::open(path).unwrap();
    file.sync_all().unwrap();
    fadvise(&file, 0, None, Advice::DontNeed).unwrap();
    let mut byte = [0];
    let mut buffers = [std::io::IoSliceMut::new(&mut byte)];
    preadv2(&file, &mut buffers, 0, ReadWriteFlags::NOWAIT).is_err()
}

/// The bodies of sample blocks.
fn bodies(heights: std::ops::RangeInclusive<u64>) -> Option<Vec<conformance::Body>> {
    let blocks = sample::blocks(1, heights);
    Some(blocks.iter().map(conformance::body).collect())
}

#[test]
#[cfg(target_os = "linux")]
fn blocks_that_were_read_lately_are_read_again_without_waiting() {
    let (store, dir) = temporary();
    if !reads_from_memory(dir.path()) {
        return;
    }
    store.commit(with_state(1..=20)).unwrap();
    let here = |from, count| in_memory(&store, from, count, usize::MAX);
    assert_eq!(here(1, 5), None, "nobody has read them yet");
    let read = || store.blocks(h(1), 10, usize::MAX).unwrap();
    read();
    assert_eq!(here(1, 5), bodies(1..=5));
    assert_eq!(here(4, 90), bodies(4..=10), "and no more");
    assert_eq!(here(11, 1), None);
    let one = sample::blocks(1, 1..=1)[0].raw.len();
    let two = in_memory(&store, 1, 9, one + 1);
    assert_eq!(two, bodies(1..=2));
    // Another state of the database: what it says has to be read anew.
    store.commit(with_state(21..=21)).unwrap();
    assert_eq!(here(1, 5), None);
    read();
    assert!(here(1, 5).is_some());
    let file = dir.path().join("blocks/0000000000.log");
    if evict(&file) {
        assert_eq!(here(1, 5), None, "the disk would be waited for");
        read();
    }
    assert!(here(1, 5).is_some());
    // Damage is nothing to be served, and is told where it is read.
    let before = sample::blocks(1, 1..=2).into_iter();
    let place = Place {
        segment: 0,
        offset: before.map(|block| block.raw.len() as u64).sum(),
    };
    let blocks = &store.logs[Log::Blocks as usize];
    blocks.overwrite(place, &[0; 9]).unwrap();
    assert_eq!(here(1, 5), None);
    assert_eq!(here(1, 2), bodies(1..=2));
    assert!(store.blocks(h(3), 1, 1).is_err());
}

#[test]
fn long_blocks_are_read_alone_and_very_long_ones_are_not() {
    let (store, dir) = temporary();
    if !reads_from_memory(dir.path()) {
        return;
    }
    store
        .commit(Batch {
            blocks: vec![
                sample::block(1, 1, 600 << 10),
                sample::block(2, 1, 600 << 10),
                sample::block(3, 1, 2 << 20),
            ],
            ..Batch::default()
        })
        .unwrap();
    let here = |from| in_memory(&store, from, 9, usize::MAX);
    for _ in 0..2 {
        assert!(here(3).is_none());
        store.blocks(h(1), 9, usize::MAX).unwrap();
    }
    assert_eq!(here(1).map(|read| read.len()), Some(1));
    assert_eq!(here(3), None);
}

#[test]
fn entries_are_kept_up_to_a_number() {
    let (store, dir) = temporary();
    if !reads_from_memory(dir.path()) {
        return;
    }
    store.commit(with_state(1..=40)).unwrap();
    let is_here = |height| in_memory(&store, height, 1, usize::MAX).is_some();
    let read = |from, count| drop(store.blocks(h(from), count, usize::MAX).unwrap());
    read(1, 5);
    assert!(!is_here(1), "nobody had asked for blocks in memory");
    // In tests sixteen are kept, and twelve are added at once.
    read(1, 20);
    assert!(is_here(12) && !is_here(13));
    read(13, 4);
    assert!(is_here(1) && is_here(16));
    let all = in_memory(&store, 1, 16, usize::MAX);
    assert_eq!(all, bodies(1..=14), "as many as may be read at once");
    read(17, 1);
    assert!(
        !is_here(1) && !is_here(16) && is_here(17),
        "no room: all go"
    );
}
