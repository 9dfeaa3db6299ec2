//! Longer values are found again, whatever is written over them, and their files do not grow
//! without end.

use std::collections::BTreeMap;
use std::path::Path;

use proptest::prelude::*;
use tempfile::TempDir;

use super::super::{Batch, LmdbOptions, LmdbStore, Store};
use super::*;

type Model = BTreeMap<Bytes, Bytes>;

fn open(dir: &Path) -> LmdbStore {
    LmdbStore::open(dir, &LmdbOptions { map_size: 64 << 20 }).unwrap()
}

fn write(store: &LmdbStore, writes: &[(Bytes, Option<Bytes>)], model: &mut Model) {
    for (key, value) in writes {
        match value {
            Some(value) => model.insert(key.clone(), value.clone()),
            None => model.remove(key),
        };
    }
    let app = writes.to_vec();
    let batch = Batch {
        app,
        ..Batch::default()
    };
    store.commit(batch).unwrap();
}

fn holds(store: &LmdbStore, model: &Model) {
    for (key, value) in model {
        assert_eq!(store.app_get(key).unwrap().as_ref(), Some(value));
    }
    let all: Model = store.app_scan(b"").unwrap().into_iter().collect();
    assert_eq!(&all, model);
}

/// Bytes in the files of values.
fn in_files(dir: &Path) -> u64 {
    let files = std::fs::read_dir(dir.join("values")).unwrap();
    files.map(|f| f.unwrap().metadata().unwrap().len()).sum()
}

/// Short, long, and of many lengths; some keys are too long for the database.
fn key(n: u16) -> Bytes {
    let len = if n.is_multiple_of(5) { 600 } else { 3 };
    Bytes::from(format!("{n:0len$}"))
}

fn value(n: u16, len: usize) -> Bytes {
    Bytes::from(vec![n.to_le_bytes()[0]; len])
}

#[test]
fn values_that_are_replaced_again_and_again_take_no_more_room() {
    let dir = TempDir::new().unwrap();
    let mut store = open(dir.path());
    let mut model = Model::new();
    let kept: Vec<_> = (0..40).map(|n| (key(n), Some(value(n, 2000)))).collect();
    write(&store, &kept, &mut model);
    let mut most = 0;
    for round in 0..400_u16 {
        let again = |n: u16| (key(100 + n), Some(value(round, 1500)));
        write(&store, &(0..20).map(again).collect::<Vec<_>>(), &mut model);
        most = most.max(in_files(dir.path()));
        if round % 97 == 0 {
            drop(store);
            store = open(dir.path());
        }
    }
    // 12 MB have been written; 80 and 30 KB are named.
    let live: u64 = model.iter().map(|(k, v)| (k.len() + v.len()) as u64).sum();
    let files = 2 * super::super::segments::SEGMENT; // one that is being emptied, one that is being filled
    assert!(most < 2 * live + SLACK + files, "{most} bytes for {live}");
    holds(&store, &model);
    drop(store);
    holds(&open(dir.path()), &model);
}

#[test]
fn a_record_that_cannot_be_read_ends_the_moving_and_loses_nothing() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    let mut model = Model::new();
    write(&store, &[(key(1), Some(value(1, 9000)))], &mut model);
    write(&store, &[(key(2), Some(value(2, 9000)))], &mut model);
    // The head of the second record.
    let file = dir.path().join("values/0000000000.log");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[12288 + 3] ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    for round in 0..300_u16 {
        write(&store, &[(key(3), Some(value(round, 9000)))], &mut model);
    }
    holds(&store, &model);
    assert!(in_files(dir.path()) > 2 << 20, "nothing behind it went");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn whatever_is_written_is_found(
        batches in proptest::collection::vec(
            proptest::collection::vec((0..40_u16, proptest::option::of(0..20_000_usize)), 1..30),
            1..30,
        ),
        reopen_every in 1..7_usize,
    ) {
        let dir = TempDir::new().unwrap();
        let mut store = open(dir.path());
        let mut model = Model::new();
        for (n, batch) in batches.iter().enumerate() {
            let writes: Vec<_> = batch
                .iter()
                .map(|(n, len)| (key(*n), len.map(|len| value(*n, len))))
                .collect();
            write(&store, &writes, &mut model);
            if n % reopen_every == 0 {
                drop(store);
                store = open(dir.path());
            }
        }
        holds(&store, &model);
        let named = Extent::read(&store.reader().unwrap()).unwrap();
        let long = model.iter().filter(|(_, v)| v.len() > 256);
        let expected: usize = long
            .map(|(k, v)| HEAD + v.len() + if logic::is_plain(k) { k.len() } else { logic::long_key(k).len() })
            .sum();
        prop_assert_eq!(named.live, expected as u64);
    }
}
