//! The contract of `Store` as a suite: implementors of the trait run it in an ordinary test.
//!
//! ```
//! use blocksync::store::MemStore;
//! use blocksync_testkit::store::conformance;
//!
//! conformance::run(MemStore::new);
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use blocksync::chain::{ChainState, ValidatorSet};
use blocksync::ids::{BlockId, Hash, Height};
use blocksync::store::{Batch, BlockRecord, Gaps, PRUNE_STEP, SpacedBlock, Span, Store};

/// Runs the whole suite; `make` gives a new, empty store each time.
///
/// # Panics
/// When the store breaks its contract, with what was expected and what was found.
pub fn run<S: Store>(make: impl Fn() -> S) {
    empty(&make());
    appends(&make());
    ranges(&make());
    refuses_gaps(&make());
    all_or_nothing(&make());
    commits(&make());
    states(&make());
    begins_above_a_synced_state(&make());
    sets_by_height(&make());
    takes_states_back(&make());
    keeps_the_last_results(&make());
    knows_evidence(&make());
    holds_application_pairs(&make());
    prunes(&make());
    prunes_in_steps(&make());
    kept::keeps_results(&make());
    kept::prunes_results_in_steps(&make());
    kept::finds_by_hash(&make());
    kept::records_sets_as_named(&make());
    reads_while_it_writes(&make());
}

mod kept;
pub mod sample;

use sample::h;

fn put(store: &impl Store, batch: Batch) {
    store.commit(batch).expect("a batch that keeps the rules");
}

/// Writes the genesis state, then blocks from `initial` up with the state of the last one.
fn fill(store: &impl Store, initial: u64, last: u64) {
    put(
        store,
        Batch {
            state: Some(Arc::new(sample::state(0, initial))),
            ..Batch::default()
        },
    );
    put(
        store,
        Batch {
            blocks: sample::blocks(initial, initial..=last),
            state: Some(Arc::new(sample::state(last, initial))),
            ..Batch::default()
        },
    );
}

fn empty(store: &impl Store) {
    let nothing = "an empty store holds nothing";
    assert_eq!(store.span().unwrap(), Span::default(), "{nothing}");
    assert!(store.state().unwrap().is_none(), "{nothing}");
    assert_eq!(store.results().unwrap(), None, "{nothing}");
    for height in [0, 1, 7, u64::MAX] {
        let height = h(height);
        assert_eq!(store.block(height).unwrap(), None, "{nothing}");
        assert_eq!(store.blocks(height, 9, 9).unwrap(), Vec::new(), "{nothing}");
        assert_eq!(store.header(height).unwrap(), None, "{nothing}");
        assert_eq!(store.commit_for(height).unwrap(), None, "{nothing}");
        assert_eq!(store.seen_commit(height).unwrap(), None, "{nothing}");
        assert!(store.validators(height).unwrap().is_none(), "{nothing}");
        assert!(store.params(height).unwrap().is_none(), "{nothing}");
    }
    assert!(!store.has_evidence(&Hash([1; 32])).unwrap(), "{nothing}");
    assert_eq!(store.app_get(b"a").unwrap(), None, "{nothing}");
    assert_eq!(store.app_scan(b"").unwrap(), Vec::new(), "{nothing}");
    put(store, Batch::default());
    assert_eq!(
        store.span().unwrap(),
        Span::default(),
        "an empty batch changes nothing"
    );
}

fn appends(store: &impl Store) {
    let mut blocks = sample::blocks(5, 5..=7);
    blocks[1].ext_raw = Some(Bytes::from_static(b"extended commit"));
    blocks[2].ext_raw = Some(Bytes::new());
    blocks.push(sample::block(8, 5, 700_000));
    blocks[3].id = BlockId::ZERO;
    put(
        store,
        Batch {
            blocks: blocks[..2].to_vec(),
            ..Batch::default()
        },
    );
    put(
        store,
        Batch {
            blocks: blocks[2..].to_vec(),
            ..Batch::default()
        },
    );
    let expected = Span {
        base: h(5),
        stored: h(8),
        applied: h(0),
    };
    assert_eq!(store.span().unwrap(), expected, "four blocks, none applied");
    for block in &blocks {
        let read = store.block(block.height).unwrap();
        assert_eq!(read.as_ref(), Some(block), "a block comes back as it was");
    }
    for height in 5..=8 {
        let (header, id) = store.header(h(height)).unwrap().expect("it is stored");
        assert_eq!(header, sample::header(height, 5), "header {height}");
        assert_eq!(id, blocks[usize::try_from(height - 5).unwrap()].id);
    }
    for (from, count) in [(5, 2), (5, 9), (6, 1), (7, 9), (8, 1)].repeat(2) {
        agrees(store, from, count, usize::MAX);
    }
    for absent in [4, 9] {
        assert_eq!(store.block(h(absent)).unwrap(), None, "block {absent}");
        assert_eq!(store.header(h(absent)).unwrap(), None, "header {absent}");
    }
}

fn ranges(store: &impl Store) {
    fill(store, 5, 14);
    let one = sample::block(6, 5, 200).raw.len();
    let cases: [(u64, u32, usize, std::ops::Range<u64>); 9] = [
        (5, 0, usize::MAX, 5..5),
        (5, 3, usize::MAX, 5..8),
        (5, u32::MAX, usize::MAX, 5..15),
        (13, 10, usize::MAX, 13..15),
        (6, 10, 0, 6..7),
        (6, 10, one, 6..7),
        (6, 10, one + 1, 6..8),
        (4, 10, usize::MAX, 4..4),
        (u64::MAX, u32::MAX, usize::MAX, 0..0),
    ];
    for (from, count, max_bytes, expected) in cases.clone() {
        let found = store.blocks(h(from), count, max_bytes).unwrap();
        let expected: Vec<BlockRecord> = expected.map(|at| sample::block(at, 5, 200)).collect();
        assert_eq!(found, expected, "{count} from {from}, {max_bytes} bytes");
    }
    for (from, count, max_bytes, _) in cases.iter().chain(&cases) {
        agrees(store, *from, *count, *max_bytes);
    }
}

/// Checks that blocks in memory, if there are any, are those of the store, or the first of them.
fn agrees(store: &impl Store, from: u64, count: u32, max_bytes: usize) {
    let here = in_memory(store, from, count, max_bytes);
    let all = store.blocks(h(from), count, max_bytes).unwrap();
    if let Some(here) = here {
        let all: Vec<_> = all.iter().map(body).collect();
        let is_first = !here.is_empty() && all.starts_with(&here);
        assert!(is_first, "{count} from {from}, {max_bytes} bytes: {here:?}");
    }
}

/// Height, block and extended commit.
pub type Body = (Height, Bytes, Option<Bytes>);

/// The body of a block that is compared.
#[must_use]
pub fn body(block: &BlockRecord) -> Body {
    (block.height, block.raw.clone(), block.ext_raw.clone())
}

/// Blocks that the store has in memory.
#[must_use]
pub fn in_memory(store: &impl Store, from: u64, count: u32, max_bytes: usize) -> Option<Vec<Body>> {
    let gaps: Gaps = |_, ext_commit| [7, ext_commit.map_or(0, |_| 3)];
    let blocks = store.blocks_in_memory(h(from), count, max_bytes, gaps)?;
    let body = |at: &SpacedBlock| {
        let (block, ext_commit) = blocks.parts(at);
        let ext_commit = ext_commit.map(Bytes::copy_from_slice);
        (at.height, Bytes::copy_from_slice(block), ext_commit)
    };
    Some(blocks.blocks().iter().map(body).collect())
}

fn refuses_gaps(store: &impl Store) {
    fill(store, 5, 9);
    let with = |heights: &[u64]| Batch {
        blocks: heights.iter().map(|at| sample::block(*at, 5, 10)).collect(),
        app: vec![(Bytes::from_static(b"k"), Some(Bytes::from_static(b"v")))],
        ..Batch::default()
    };
    for wrong in [&[11][..], &[9], &[4], &[10, 12], &[10, 10], &[11, 10]] {
        let before = store.span().unwrap();
        store
            .commit(with(wrong))
            .expect_err("a gap or a repetition");
        assert_eq!(store.span().unwrap(), before, "blocks {wrong:?} on 5 to 9");
        assert_eq!(store.block(h(10)).unwrap(), None, "blocks {wrong:?}");
        assert_eq!(store.app_get(b"k").unwrap(), None, "all or nothing");
    }
    put(store, with(&[10, 11]));
    assert_eq!(store.span().unwrap().stored, h(11));
}

fn all_or_nothing(store: &impl Store) {
    fill(store, 1, 4);
    let foreign = ChainState {
        chain_id: Bytes::from_static(b"another"),
        ..sample::state(5, 1)
    };
    let ahead = sample::state(6, 1);
    for (state, what) in [(foreign, "another chain's"), (ahead, "above the blocks")] {
        let refused = store.commit(Batch {
            blocks: sample::blocks(1, 5..=5),
            seen_commit: Some((h(5), sample::commit_bytes(5))),
            state: Some(Arc::new(state)),
            validators: vec![(h(6), sample::set(2, 9))],
            results: Some((h(5), Bytes::from_static(b"r"))),
            evidence: vec![(Hash([1; 32]), h(3))],
            app: vec![(Bytes::from_static(b"k"), Some(Bytes::from_static(b"v")))],
            prune: Some((h(3), h(3))),
            ..Batch::default()
        });
        assert!(refused.is_err(), "a state {what} is refused");
        let span = Span {
            base: h(1),
            stored: h(4),
            applied: h(4),
        };
        assert_eq!(store.span().unwrap(), span, "nothing of the batch is there");
        assert_eq!(store.seen_commit(h(5)).unwrap(), None);
        assert_eq!(store.results().unwrap(), None);
        assert!(!store.has_evidence(&Hash([1; 32])).unwrap());
        assert_eq!(store.app_get(b"k").unwrap(), None);
        assert!(store.block(h(1)).unwrap().is_some());
        let set = store.validators(h(6)).unwrap().expect("two above 4");
        assert_eq!(set.hash(), sample::set(4, 1).hash());
    }
}

fn commits(store: &impl Store) {
    fill(store, 5, 9);
    assert_eq!(
        store.commit_for(h(4)).unwrap(),
        None,
        "the first block's empty commit is for no height"
    );
    for height in 5..=8 {
        let found = store.commit_for(h(height)).unwrap();
        assert_eq!(found, Some(sample::commit_bytes(height)), "from above");
        assert_eq!(store.seen_commit(h(height)).unwrap(), None);
    }
    assert_eq!(store.commit_for(h(9)).unwrap(), None, "nothing carries it");
    let seen = Bytes::from_static(b"the seen commit of 9");
    put(
        store,
        Batch {
            seen_commit: Some((h(9), seen.clone())),
            ..Batch::default()
        },
    );
    assert_eq!(store.commit_for(h(9)).unwrap(), Some(seen.clone()));
    assert_eq!(store.seen_commit(h(9)).unwrap(), Some(seen));
    put(
        store,
        Batch {
            blocks: sample::blocks(5, 10..=10),
            seen_commit: Some((h(10), sample::commit_bytes(10))),
            ..Batch::default()
        },
    );
    assert_eq!(
        store.commit_for(h(9)).unwrap(),
        Some(sample::commit_bytes(9)),
        "from the block above, once there is one"
    );
    assert_eq!(store.seen_commit(h(9)).unwrap(), None, "one is kept");
    assert_eq!(
        store.seen_commit(h(10)).unwrap(),
        Some(sample::commit_bytes(10))
    );
}

fn assert_same_set(found: &ValidatorSet, expected: &ValidatorSet, what: &str) {
    assert!(found.same_members(expected), "members of {what}");
    assert_eq!(found.hash(), expected.hash(), "hash of {what}");
    assert_eq!(found.priorities(), expected.priorities(), "{what}");
    assert_eq!(found.proposer(), expected.proposer(), "{what}");
}

/// Checks that two states are the same, sets and their priorities included.
///
/// # Panics
/// When they are not.
pub fn assert_same_state(found: &ChainState, expected: &ChainState) {
    assert_same_set(&found.validators, &expected.validators, "the set");
    assert_same_set(
        &found.next_validators,
        &expected.next_validators,
        "the next set",
    );
    match (&found.last_validators, &expected.last_validators) {
        (None, None) => {}
        (Some(found), Some(expected)) => assert_same_set(found, expected, "the last set"),
        _ => panic!("the last set is there or not"),
    }
    let scalars = |s: &ChainState| {
        format!(
            "{:?}",
            (
                (&s.chain_id, s.initial_height, s.last_height),
                (s.last_block_id, s.last_block_time, s.version_app),
                (s.last_height_validators_changed, &s.params),
                (s.last_height_params_changed, s.last_results_hash),
                &s.app_hash,
            )
        )
    };
    assert_eq!(scalars(found), scalars(expected));
}

fn states(store: &impl Store) {
    let genesis = sample::state(0, 5);
    put(
        store,
        Batch {
            state: Some(Arc::new(genesis.clone())),
            ..Batch::default()
        },
    );
    assert_same_state(&store.state().unwrap().expect("written"), &genesis);
    assert_eq!(store.span().unwrap(), Span::default(), "no block yet");
    for (height, known) in [(4, false), (5, true), (6, true), (7, false)] {
        let found = store.validators(h(height)).unwrap().is_some();
        assert_eq!(found, known, "set of {height} before the first block, 5");
    }
    assert!(store.params(h(5)).unwrap().is_some());
    assert!(store.params(h(6)).unwrap().is_none());
    for last in [5, 6, 9] {
        let from = store.span().unwrap().stored.get().max(4) + 1;
        let mut state = sample::state(last, 5);
        state.params.block_max_gas = i64::try_from(last).unwrap();
        state.params.pub_key_types.push("secp256k1".into());
        state.last_height_params_changed = h(last + 1);
        put(
            store,
            Batch {
                blocks: sample::blocks(5, from..=last),
                state: Some(Arc::new(state.clone())),
                ..Batch::default()
            },
        );
        assert_same_state(&store.state().unwrap().expect("written"), &state);
        assert_eq!(store.span().unwrap().applied, h(last));
        let params = store.params(h(last + 1)).unwrap();
        assert_eq!(params, Some(state.params), "params from {}", last + 1);
        assert_eq!(store.params(h(last + 2)).unwrap(), None);
    }
    let old = store.params(h(5)).unwrap();
    assert_eq!(old, Some(genesis.params), "params of earlier heights stay");
}

fn begins_above_a_synced_state(store: &impl Store) {
    put(
        store,
        Batch {
            state: Some(Arc::new(sample::state(40, 5))),
            ..Batch::default()
        },
    );
    assert_eq!(store.span().unwrap().applied, h(40));
    let blocks = |heights| Batch {
        blocks: sample::blocks(5, heights),
        ..Batch::default()
    };
    store
        .commit(blocks(42..=42))
        .expect_err("41 is due above the state of 40");
    put(store, blocks(41..=43));
    let expected = Span {
        base: h(41),
        stored: h(43),
        applied: h(40),
    };
    assert_eq!(store.span().unwrap(), expected);
    for height in 40..=42 {
        assert!(store.validators(h(height)).unwrap().is_some());
    }
    assert!(store.validators(h(39)).unwrap().is_none());
}

fn sets_by_height(store: &impl Store) {
    let changes = [
        (5, sample::set(4, 1)),
        (9, sample::set(5, 2)),
        (10, sample::set(4, 1)),
        (14, sample::set(60, 3)),
    ];
    let at = |height: u64| {
        let change = changes.iter().rev().find(|(from, _)| *from <= height);
        change.expect("from 5 on").1.clone()
    };
    put(
        store,
        Batch {
            state: Some(Arc::new(sample::state(0, 5))),
            ..Batch::default()
        },
    );
    let state = ChainState {
        last_validators: Some(at(12)),
        validators: at(13),
        next_validators: at(14),
        last_height_validators_changed: h(14),
        ..sample::state(12, 5)
    };
    put(
        store,
        Batch {
            blocks: sample::blocks(5, 5..=12),
            validators: changes
                .iter()
                .map(|(at, set)| (h(*at), set.clone()))
                .collect(),
            state: Some(Arc::new(state.clone())),
            ..Batch::default()
        },
    );
    for height in 5..=14 {
        let found = store.validators(h(height)).unwrap().expect("known");
        assert!(found.same_members(&at(height)), "set of height {height}");
    }
    assert!(store.validators(h(15)).unwrap().is_none());
    assert_same_state(&store.state().unwrap().expect("written"), &state);
}

fn takes_states_back(store: &impl Store) {
    fill(store, 1, 20);
    let changed = ChainState {
        next_validators: sample::set(7, 7),
        ..sample::state(20, 1)
    };
    for state in [changed, sample::state(10, 1)] {
        put(
            store,
            Batch {
                state: Some(Arc::new(state)),
                ..Batch::default()
            },
        );
    }
    assert_eq!(store.span().unwrap().applied, h(10));
    assert!(store.validators(h(12)).unwrap().is_some());
    assert!(store.validators(h(13)).unwrap().is_none());
    fill_state(store, 20);
    let set = store.validators(h(22)).unwrap().expect("known again");
    assert_eq!(
        set.hash(),
        sample::set(4, 1).hash(),
        "of the second history"
    );
}

fn fill_state(store: &impl Store, last: u64) {
    put(
        store,
        Batch {
            state: Some(Arc::new(sample::state(last, 1))),
            ..Batch::default()
        },
    );
}

fn keeps_the_last_results(store: &impl Store) {
    for height in [1, 2] {
        let results = Bytes::copy_from_slice(&[7; 100][..height]);
        put(
            store,
            Batch {
                results: Some((h(height as u64), results.clone())),
                ..Batch::default()
            },
        );
        let expected = Some((h(height as u64), results));
        assert_eq!(store.results().unwrap(), expected);
    }
}

fn knows_evidence(store: &impl Store) {
    put(
        store,
        Batch {
            evidence: vec![(Hash([1; 32]), h(3)), (Hash([2; 32]), h(3))],
            ..Batch::default()
        },
    );
    assert!(store.has_evidence(&Hash([1; 32])).unwrap());
    assert!(store.has_evidence(&Hash([2; 32])).unwrap());
    assert!(!store.has_evidence(&Hash([3; 32])).unwrap());
}

fn holds_application_pairs(store: &impl Store) {
    let long = |end: &str| Bytes::from(format!("a{}{end}", "x".repeat(2000)));
    let keys = [
        Bytes::new(),
        Bytes::from_static(b"a"),
        Bytes::from_static(b"a\0"),
        Bytes::from_static(b"ab"),
        long(""),
        long("1"),
        long("2"),
        Bytes::from_static(b"b"),
        Bytes::from_static(b"\xff\xff"),
    ];
    let value = |i: usize| Bytes::from(format!("value {i}"));
    let pairs = keys.iter().enumerate();
    // In another order than the keys', and each written twice: the last one counts.
    let mut app: Vec<_> = pairs
        .clone()
        .map(|(i, k)| (k.clone(), Some(value(i + 1))))
        .collect();
    app.extend(
        pairs
            .clone()
            .rev()
            .map(|(i, k)| (k.clone(), Some(value(i)))),
    );
    app.push((Bytes::from_static(b"gone"), Some(value(0))));
    app.push((Bytes::from_static(b"gone"), None));
    app.push((Bytes::from_static(b"never"), None));
    put(
        store,
        Batch {
            app,
            ..Batch::default()
        },
    );
    let all: Vec<_> = pairs.map(|(i, k)| (k.clone(), value(i))).collect();
    for (key, value) in &all {
        assert_eq!(store.app_get(key).unwrap().as_ref(), Some(value));
    }
    assert_eq!(store.app_get(b"gone").unwrap(), None);
    assert_eq!(store.app_get(&long("3")).unwrap(), None);
    for prefix in [&b""[..], b"a", b"ab", b"c", b"\xff", &long("1"), b"ax"] {
        let expected: Vec<_> = all
            .iter()
            .filter(|(key, _)| key.starts_with(prefix))
            .cloned()
            .collect();
        let found = store.app_scan(prefix).unwrap();
        assert_eq!(found, expected, "prefix {}", hex::encode(prefix));
    }
    let deletes = keys.iter().map(|key| (key.clone(), None)).collect();
    put(
        store,
        Batch {
            app: deletes,
            ..Batch::default()
        },
    );
    assert_eq!(store.app_scan(b"").unwrap(), Vec::new(), "all deleted");
}

fn prune(store: &impl Store, retain: u64, keep: u64) -> Span {
    put(
        store,
        Batch {
            prune: Some((h(retain), h(keep))),
            ..Batch::default()
        },
    );
    store.span().unwrap()
}

fn prunes(store: &impl Store) {
    fill(store, 1, 20);
    put(
        store,
        Batch {
            blocks: sample::blocks(1, 21..=22),
            evidence: vec![(Hash([1; 32]), h(4)), (Hash([2; 32]), h(5))],
            ..Batch::default()
        },
    );
    let agree = || (1..=22).for_each(|from| agrees(store, from, 5, usize::MAX));
    agree();
    agree(); // now all has been read
    assert_eq!(prune(store, 10, 5).base, h(10));
    agree();
    assert_eq!(prune(store, 3, 3).base, h(10), "the base only rises");
    for height in 1..10 {
        assert_eq!(store.block(h(height)).unwrap(), None, "{height} is pruned");
        let light = (height >= 5).then(|| (sample::header(height, 1), sample::id(height)));
        assert_eq!(store.header(h(height)).unwrap(), light, "header {height}");
        let commit = (height >= 4).then(|| sample::commit_bytes(height));
        assert_eq!(store.commit_for(h(height)).unwrap(), commit, "{height}");
    }
    assert!(store.block(h(10)).unwrap().is_some());
    assert_eq!(store.blocks(h(9), 5, usize::MAX).unwrap(), Vec::new());
    assert!(!store.has_evidence(&Hash([1; 32])).unwrap(), "expired");
    assert!(store.has_evidence(&Hash([2; 32])).unwrap(), "within age");
    for height in [5, 10, 22] {
        assert!(store.validators(h(height)).unwrap().is_some(), "{height}");
    }
    let span = prune(store, 99, 99);
    let expected = Span {
        base: h(20),
        stored: h(22),
        applied: h(20),
    };
    assert_eq!(span, expected, "the last applied block stays");
    assert_eq!(store.header(h(19)).unwrap(), None, "nothing kept below 99");
    let state = store.state().unwrap().expect("still there");
    assert_same_state(&state, &sample::state(20, 1));
    assert!(store.validators(h(20)).unwrap().is_some());
}

fn prunes_in_steps(store: &impl Store) {
    let last = 2 * PRUNE_STEP + 10;
    fill(store, 1, last);
    let mut base = store.span().unwrap().base;
    let mut commits = 0;
    while base < h(last) {
        let next = prune(store, last, last).base;
        assert!(next > base, "every commit gets on");
        assert!(next.above(base) <= PRUNE_STEP, "by one step at most");
        base = next;
        commits += 1;
    }
    assert_eq!(commits, 3);
}

fn reads_while_it_writes(store: &impl Store) {
    const LAST: u64 = 60;
    fill(store, 1, 5);
    /// Lets the readers go, even when the writer panics.
    struct Done<'a>(&'a AtomicBool);
    impl Drop for Done<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Release);
        }
    }
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let end = Done(&done);
        for _ in 0..3 {
            scope.spawn(|| {
                let mut before = store.span().unwrap();
                while !done.load(Ordering::Acquire) {
                    let span = store.span().unwrap();
                    assert!(span.base >= before.base, "the base only rises");
                    assert!(span.applied >= before.applied && span.stored >= span.applied);
                    before = span;
                    for height in 1..=LAST + 1 {
                        if let Some(block) = store.block(h(height)).unwrap() {
                            assert_eq!(block, sample::block(height, 1, 200), "torn");
                        }
                        // A server reads so, and meanwhile it is pruned.
                        drop(store.blocks(h(height), 4, usize::MAX).unwrap());
                        let here = in_memory(store, height, 4, usize::MAX);
                        for found in here.into_iter().flatten() {
                            let block = sample::block(found.0.get(), 1, 200);
                            assert_eq!(found, body(&block), "torn");
                        }
                    }
                    let state = store.state().unwrap().expect("since the beginning");
                    assert_same_state(&state, &sample::state(state.last_height.get(), 1));
                }
            });
        }
        for height in 6..=LAST {
            put(
                store,
                Batch {
                    blocks: sample::blocks(1, height..=height),
                    state: Some(Arc::new(sample::state(height, 1))),
                    prune: Some((h(height - 4), h(height - 4))),
                    ..Batch::default()
                },
            );
        }
        drop(end);
    });
    assert_eq!(store.span().unwrap().base, h(LAST - 4));
}
