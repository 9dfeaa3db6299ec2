use std::fs;
use std::path::Path;

use blocksync::varint;

use super::*;

fn numbered(n: u32) -> (Vec<u8>, Vec<u8>) {
    (
        format!("k{n:06}").into_bytes(),
        vec![n as u8; (n % 5000) as usize],
    )
}

fn make(dir: &Path, count: u32) {
    let mut builder = Builder::create(dir).unwrap();
    let (mut low, mut high) = (builder.run(), builder.run());
    for n in 0..count {
        let (key, value) = numbered(n);
        builder.put(&mut low, &key, &value).unwrap();
        builder
            .put(&mut high, &[b"z", &key[..]].concat(), b"")
            .unwrap();
    }
    builder.end(&mut low).unwrap();
    builder.end(&mut high).unwrap();
    builder.finish().unwrap();
}

#[test]
fn what_is_written_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let db = dir.path().join("db");
    make(&db, 9000);
    let mut database = Database::open(&db).unwrap();
    for n in [0, 1, 15, 16, 17, 4999, 5000, 8999] {
        let (key, value) = numbered(n);
        assert_eq!(database.get(&key).unwrap().unwrap(), value, "{n}");
    }
    for none in [&b"a"[..], b"k", b"k0000005", b"k009000", b"zz"] {
        assert_eq!(database.get(none).unwrap(), None);
    }
    let found = database.scan(b"k0001").unwrap();
    assert_eq!(found.len(), 100);
    assert!(
        found.iter().eq((100..200)
            .map(numbered)
            .map(|(k, v)| (k, v.into()))
            .collect::<std::collections::BTreeMap<_, Bytes>>()
            .iter())
    );
    assert_eq!(database.scan(b"zk00001").unwrap().len(), 10);
}

use bytes::Bytes;

/// Every byte of a database is covered by a checksum, or does not matter.
#[test]
fn a_flipped_bit_is_an_error_or_harmless() {
    let dir = tempfile::tempdir().unwrap();
    let db = dir.path().join("db");
    make(&db, 300);
    let read_all = || -> Result<bool, DbError> {
        let mut database = Database::open(&db)?;
        for n in 0..300 {
            let (key, value) = numbered(n);
            if database.get(&key)?.is_none_or(|found| found != value) {
                return Ok(false);
            }
        }
        Ok(database.scan(b"zk")?.len() == 300)
    };
    assert!(read_all().unwrap());
    let mut refused = 0;
    for entry in fs::read_dir(&db).unwrap() {
        let path = entry.unwrap().path();
        let whole = fs::read(&path).unwrap();
        for at in (0..whole.len()).step_by(whole.len() / 97 + 1) {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            fs::write(&path, &bytes).unwrap();
            match read_all() {
                Ok(right) => assert!(right, "{} at {at}: another value", path.display()),
                Err(_) => refused += 1,
            }
        }
        fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        assert!(read_all().is_err(), "{} cut in half", path.display());
        fs::write(&path, whole).unwrap();
    }
    assert!(refused > 100, "{refused}");
}

#[test]
fn a_log_is_read_up_to_where_it_was_cut() {
    let records: Vec<Vec<u8>> = [0, 1, 100, 32 << 10, 70_000, 7]
        .map(|n| vec![n as u8; n])
        .into();
    let bytes = log::write(records.iter().map(Vec::as_slice));
    let all = log::read(&bytes).unwrap();
    assert!(all.whole == records && !all.cut);
    for cut in [bytes.len() - 1, bytes.len() - 40, 50_000, 8, 3, 0] {
        let found = log::read(&bytes[..cut]).unwrap().whole;
        assert!(
            found.len() < records.len() && found[..] == records[..found.len()],
            "{cut}"
        );
    }
    let mut wrong = bytes;
    wrong[40_000] ^= 1;
    assert!(log::read(&wrong).unwrap_err().contains("checksum"));
}

/// Entries in goleveldb's log count before those in tables, and a deletion hides what lies below.
#[test]
fn the_newest_entry_counts() {
    let dir = tempfile::tempdir().unwrap();
    let db = dir.path().join("db");
    make(&db, 20);
    let mut batch = Vec::new();
    batch.extend_from_slice(&1000u64.to_le_bytes());
    batch.extend_from_slice(&3u32.to_le_bytes());
    for (kind, key, value) in [(1, 3, Some(b"new")), (0, 4, None), (1, 25, Some(b"add"))] {
        batch.push(kind);
        varint::put(7, &mut batch);
        batch.extend_from_slice(&numbered(key).0);
        if let Some(value) = value {
            varint::put(3, &mut batch);
            batch.extend_from_slice(value);
        }
    }
    fs::write(db.join("000099.log"), log::write([&batch[..]])).unwrap();
    let mut database = Database::open(&db).unwrap();
    let mut get = |n| database.get(&numbered(n).0).unwrap();
    assert_eq!(get(3).unwrap(), "new");
    assert_eq!(get(4), None);
    assert_eq!(get(5).unwrap(), numbered(5).1);
    assert_eq!(get(25).unwrap(), "add");
    assert_eq!(database.scan(b"k").unwrap().len(), 20);
    assert!(!db.join("LOCK").exists(), "reading leaves nothing behind");
}

#[test]
fn a_database_that_is_open_elsewhere_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let db = dir.path().join("db");
    make(&db, 2);
    fs::write(db.join("LOCK"), b"").unwrap();
    let first = Database::open(&db).unwrap();
    let said = Database::open(&db).err().unwrap();
    assert!(matches!(said, DbError::InUse(_)), "{said}");
    drop(first);
    Database::open(&db).unwrap();
}
