//! Responses that are kept, hashes that are found, and sets whose priorities can be told.

use std::sync::Arc;

use bytes::Bytes;

use super::sample::{self, h};
use super::{fill, prune, put};
use blocksync::ids::{BlockId, Hash};
use blocksync::store::{Batch, BlockRecord, PRUNE_STEP, Store};

fn response(height: u64) -> Bytes {
    let len = usize::try_from(height * 37 % 700).expect("small");
    format!("{height}:{}", "r".repeat(len)).into()
}

fn keep(store: &impl Store, heights: std::ops::RangeInclusive<u64>, prune_results: Option<u64>) {
    put(
        store,
        Batch {
            kept_results: heights
                .map(|height| (h(height), response(height)))
                .collect(),
            prune_results: prune_results.map(h),
            ..Batch::default()
        },
    );
}

fn assert_kept(store: &impl Store, from: u64, last: u64) {
    for height in 1..=last + 2 {
        let expected = (from..=last).contains(&height).then(|| response(height));
        assert_eq!(
            store.results_at(h(height)).unwrap(),
            expected,
            "results of height {height}"
        );
    }
}

/// Responses stay as they came until they are pruned, by themselves or with their blocks.
pub(super) fn keeps_results(store: &impl Store) {
    fill(store, 1, 30);
    keep(store, 1..=10, None);
    assert_kept(store, 1, 10);
    keep(store, 10..=20, None); // a height that is executed again
    assert_kept(store, 1, 20);
    keep(store, 21..=21, Some(8));
    assert_kept(store, 8, 21);
    prune(store, 15, 15);
    assert_kept(store, 15, 21);
    keep(store, 22..=22, Some(100));
    assert_kept(store, 100, 22);
    keep(store, 23..=25, None);
    assert_kept(store, 23, 25);
}

/// However many are to be dropped, one commit drops a step of them.
pub(super) fn prunes_results_in_steps(store: &impl Store) {
    let last = 2 * PRUNE_STEP + 5;
    keep(store, 1..=last, None);
    keep(store, last + 1..=last + 1, Some(last));
    assert_kept(store, PRUNE_STEP + 1, last + 1);
    for _ in 0..2 {
        keep(store, last + 1..=last + 1, Some(last));
    }
    assert_kept(store, last, last + 1);
}

/// Blocks are found by hash over many spans of the index, and not any more once they are pruned.
pub(super) fn finds_by_hash(store: &impl Store) {
    let hash = |height: u64| sample::id(height).hash.expect("a whole id");
    assert_eq!(store.height_of(&hash(1)).unwrap(), None, "an empty store");
    let first = (1 << 16) - 5;
    put(
        store,
        Batch {
            blocks: sample::blocks(first, first..=first + 10),
            state: Some(Arc::new(sample::state(first + 10, first))),
            ..Batch::default()
        },
    );
    for height in first..=first + 10 {
        assert_eq!(store.height_of(&hash(height)).unwrap(), Some(h(height)));
    }
    assert_eq!(store.height_of(&hash(first + 11)).unwrap(), None);
    let mut similar = hash(first);
    similar.0[31] ^= 1;
    assert_eq!(
        store.height_of(&similar).unwrap(),
        None,
        "all of a hash counts"
    );
    prune(store, first + 4, first + 4);
    assert_eq!(store.height_of(&hash(first + 3)).unwrap(), None, "pruned");
    assert_eq!(
        store.height_of(&hash(first + 4)).unwrap(),
        Some(h(first + 4))
    );
    let nameless = BlockRecord {
        id: BlockId::ZERO,
        ..sample::block(first + 11, first, 10)
    };
    put(
        store,
        Batch {
            blocks: vec![nameless],
            ..Batch::default()
        },
    );
    assert_eq!(store.height_of(&Hash([0; 32])).unwrap(), None);
}

/// A set that a batch names is recorded with its priorities also where its members are those of the
/// record before.
pub(super) fn records_sets_as_named(store: &impl Store) {
    fill(store, 1, 20);
    let (from, set) = store.recorded_validators(h(15)).unwrap().expect("known");
    assert_eq!(from, h(1));
    assert!(set.same_members(&sample::set(4, 1)));
    let checkpoint = Arc::new(sample::set(4, 1).increment(7));
    put(
        store,
        Batch {
            validators: vec![(h(12), checkpoint.clone())],
            ..Batch::default()
        },
    );
    let at = |height| store.recorded_validators(h(height)).unwrap();
    assert_eq!(at(11), Some((h(1), set)));
    assert_eq!(at(12), Some((h(12), checkpoint.clone())));
    assert_eq!(at(22), Some((h(12), checkpoint)));
    assert_eq!(at(23), None, "two above the applied height are known");
}
