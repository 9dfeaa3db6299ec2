//! A chain goes into a home and comes back.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use blocksync::chain::proof::Policy;
use blocksync::chain::{RuleSchedule, Rules};
use blocksync::ids::Height;
use blocksync::store::{Batch, BlockRecord, LmdbOptions, LmdbStore, Store};
use blocksync_testkit::chain::{BlockSpec, TestChain};
use blocksync_testkit::made;
use bytes::Bytes;
use prost::Message;
use tempfile::TempDir;

use crate::leveldb::{Builder, Database};
use crate::records::{Info, Int64Value, StoredState, key};
use crate::*;

fn h(height: u64) -> Height {
    Height::new(height)
}

fn open(dir: &Path) -> LmdbStore {
    let options = LmdbOptions::with_map_size(256 << 20);
    LmdbStore::open(dir, &options).unwrap()
}

/// A chain with sets that change, blocks of several parts, and evidence.
fn chain() -> TestChain {
    let mut chain = TestChain::builder(9)
        .heights(24)
        .change(5, 1, 25)
        .change(11, 7, 12)
        .change(12, 0, 0)
        .txs(3, 200)
        .build();
    let evidence = vec![made::duplicate_vote(&chain, h(20))];
    let long = BlockSpec {
        txs: vec![Bytes::from(vec![b'x'; 800_000])],
        evidence,
        ..BlockSpec::default()
    };
    chain.push(&long);
    chain.grow(7);
    chain
}

fn fill(store: &LmdbStore, chain: &TestChain) {
    let state = Some(Arc::new(chain.initial.clone()));
    store
        .commit(Batch {
            state,
            ..Batch::default()
        })
        .unwrap();
    for block in &chain.blocks {
        let height = block.fetched.height();
        let evidence = &block.fetched.block.evidence;
        let batch = Batch {
            blocks: vec![made::record(&block.fetched)],
            seen_commit: Some((height, made::commit(&block.commit))),
            state: Some(Arc::new(block.state.clone())),
            evidence: evidence
                .iter()
                .map(|e| (e.identity(), e.height()))
                .collect(),
            ..Batch::default()
        };
        store.commit(batch).unwrap();
    }
}

/// Everything that a store says of a chain.
fn content(store: &LmdbStore) -> Vec<String> {
    let span = store.span().unwrap();
    let mut out = vec![format!("{span:?}"), format!("{:?}", store.state().unwrap())];
    let evidence = store.committed_evidence((h(0), blocksync::ids::Hash([0; 32])), 100);
    out.push(format!("{:?}", evidence.unwrap()));
    for height in span.base.get()..=span.applied.get() + 2 {
        let height = h(height);
        let BlockRecord {
            id, raw, ext_raw, ..
        } = match store.block(height).unwrap() {
            Some(block) => block,
            None => {
                out.push(format!(
                    "{:?} {:?}",
                    store.validators(height),
                    store.params(height)
                ));
                continue;
            }
        };
        out.push(format!(
            "{height} {id:?} {} {ext_raw:?} {:?} {:?} {:?} {:?}",
            hex::encode(raw),
            store.commit_for(height).unwrap(),
            store.validators(height).unwrap(),
            store.validators_in_force_since(height).unwrap(),
            store.params(height).unwrap(),
        ));
    }
    out
}

/// A temporary directory with a store and a fresh home.
struct World {
    dir: TempDir,
    store: LmdbStore,
    home: CometHome,
}

impl World {
    fn of(chain: &TestChain) -> World {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir.path().join("ours"));
        fill(&store, chain);
        fs::create_dir(dir.path().join("comet")).unwrap();
        let home = CometHome::open(&dir.path().join("comet")).unwrap();
        World { dir, store, home }
    }

    fn export_from(&self, from: Option<Height>) -> Result<Exported, HomeError> {
        let rules = &RuleSchedule::from(Rules::COMET_038);
        export(
            &self.store,
            &self.home,
            &Export { from, rules },
            &mut |_| true,
        )
    }

    fn import(&self, name: &str, policy: Policy) -> Result<(LmdbStore, Imported), HomeError> {
        let store = open(&self.dir.path().join(name));
        let imported = import(&self.home, &store, &what(policy), &mut |_| true)?;
        Ok((store, imported))
    }

    /// Writes a database anew, with what `change` makes of its pairs.
    fn rewrite(&self, name: &str, change: impl FnOnce(&mut BTreeMap<Vec<u8>, Bytes>)) {
        let dir = self.home.database(name);
        let mut pairs = Database::open(&dir).unwrap().scan(b"").unwrap();
        change(&mut pairs);
        fs::remove_dir_all(&dir).unwrap();
        make(&dir, &pairs);
    }

    fn pairs(&self, name: &str) -> BTreeMap<Vec<u8>, Bytes> {
        Database::open(&self.home.database(name))
            .unwrap()
            .scan(b"")
            .unwrap()
    }
}

fn make(dir: &Path, pairs: &BTreeMap<Vec<u8>, Bytes>) {
    let mut builder = Builder::create(dir).unwrap();
    let mut run = builder.run();
    for (key, value) in pairs {
        builder.put(&mut run, key, value).unwrap();
    }
    builder.end(&mut run).unwrap();
    builder.finish().unwrap();
}

fn what(policy: Policy) -> Import {
    Import {
        retain_blocks: 0,
        policy,
        rules: RuleSchedule::default(),
        trust: None,
        genesis_set: None,
    }
}

#[test]
fn what_is_exported_is_imported() {
    let with_extensions = TestChain::builder(3)
        .initial_height(7)
        .extensions_from(9)
        .heights(12)
        .build();
    for chain in [chain(), with_extensions] {
        let world = World::of(&chain);
        let exported = world.export_from(None).unwrap();
        assert_eq!(exported.base, chain.genesis.initial_height);
        assert_eq!(exported.height, chain.height());
        for policy in [Policy::Anchored, Policy::EveryCommit] {
            let (ours, imported) = world.import(&format!("{policy:?}"), policy).unwrap();
            assert_eq!(content(&ours), content(&world.store));
            assert!(!imported.ahead);
        }
    }
}

/// A pruned home, and the last block alone.
#[test]
fn a_part_is_exported_and_imported() {
    let chain = chain();
    for from in [chain.height().get(), 15, 12, 2] {
        let world = World::of(&chain);
        world.export_from(Some(h(from))).unwrap();
        let (ours, _) = world.import("back", Policy::EveryCommit).unwrap();
        let span = ours.span().unwrap();
        assert_eq!((span.base, span.applied), (h(from), chain.height()));
        let mut expected = chain.state().clone();
        // CometBFT would look for the set at a height below the base.
        expected.last_height_validators_changed =
            expected.last_height_validators_changed.max(h(from));
        assert_eq!(
            format!("{:?}", ours.state().unwrap().unwrap()),
            format!("{expected:?}")
        );
        for height in from..=chain.height().get() + 2 {
            let (found, of) = (
                ours.validators(h(height)).unwrap(),
                world.store.validators(h(height)),
            );
            assert_eq!(
                found.unwrap().hash(),
                of.unwrap().unwrap().hash(),
                "{height}"
            );
        }
    }
    let world = World::of(&chain);
    world.export_from(None).unwrap();
    let store = open(&world.dir.path().join("last"));
    let last = Import {
        retain_blocks: 1,
        ..what(Policy::Anchored)
    };
    import(&world.home, &store, &last, &mut |_| true).unwrap();
    assert_eq!(store.span().unwrap().base, chain.height());
}

/// Where CometBFT looks for a set there is one.
#[test]
fn every_validator_record_leads_to_a_set() {
    let chain = chain();
    for from in [1, 6, 20, chain.height().get()] {
        let world = World::of(&chain);
        world.export_from(Some(h(from))).unwrap();
        let states = world.pairs("state");
        let info = |height: u64| Info::decode(states[&key::validators(h(height))].clone()).unwrap();
        let state = StoredState::decode(states[key::STATE].clone())
            .unwrap()
            .state()
            .unwrap();
        let next = state.last_height_validators_changed.get();
        assert!(
            !info(next).value.is_empty(),
            "the record after these looks at {next}"
        );
        for height in from..=chain.height().get() + 2 {
            let at = info(height);
            if at.value.is_empty() {
                assert!(
                    !info(at.last_height_changed as u64).value.is_empty(),
                    "{height}"
                );
            }
        }
        let blocks = world.pairs("blockstore");
        assert!(blocks.contains_key(&key::commit(h(from - 1))));
        assert!(blocks.contains_key(&key::seen_commit(chain.height())));
    }
}

/// Nothing is there under its name before all of it is, and a next export does not mind what is
/// left.
#[test]
fn an_export_that_ends_in_its_middle_leaves_no_half_home() {
    let mut chain = chain();
    chain.grow(70);
    let world = World::of(&chain);
    let rules = &RuleSchedule::from(Rules::COMET_038);
    let what = Export { from: None, rules };
    let stopped = export(&world.store, &world.home, &what, &mut |_| false);
    assert!(matches!(stopped, Err(HomeError::Stopped)), "{stopped:?}");
    for name in ["blockstore", "state", "evidence"] {
        assert!(!world.home.database(name).exists(), "{name}");
    }
    world.export_from(None).unwrap();
    assert_eq!(fs::read_dir(world.home.data()).unwrap().count(), 3);
    // The power fails between two renames.
    let blocks = world.home.database("blockstore");
    fs::rename(&blocks, blocks.with_extension("db.new")).unwrap();
    fs::write(world.home.data().join("blocksync-export"), b"").unwrap();
    let said = world.export_from(None).unwrap_err().to_string();
    assert!(said.contains("there already"), "{said}");
    world.import("back", Policy::Anchored).unwrap();
}

#[test]
fn an_import_that_was_interrupted_goes_on() {
    let mut chain = chain();
    chain.grow(400);
    let world = World::of(&chain);
    world.export_from(None).unwrap();
    let store = open(&world.dir.path().join("back"));
    let stopped = import(&world.home, &store, &what(Policy::Anchored), &mut |_| false);
    assert!(matches!(stopped, Err(HomeError::Stopped)));
    let span = store.span().unwrap();
    assert!(
        span.stored < chain.height() && span.applied == Height::ZERO,
        "{span:?}"
    );
    import(&world.home, &store, &what(Policy::Anchored), &mut |_| true).unwrap();
    assert_eq!(content(&store), content(&world.store));
}

#[test]
fn unfit_homes_are_refused_and_named() {
    let chain = chain();
    let world = World::of(&chain);
    let config = world.dir.path().join("comet/config");
    fs::create_dir(&config).unwrap();
    fs::write(
        config.join("config.toml"),
        "db_backend = \"pebbledb\"\n[p2p]\nx = 1\n",
    )
    .unwrap();
    let said = CometHome::open(&world.dir.path().join("comet"))
        .unwrap_err()
        .to_string();
    assert!(
        said.contains("pebbledb") && said.contains("goleveldb"),
        "{said}"
    );
    let said = CometHome::open(&world.dir.path().join("none"))
        .unwrap_err()
        .to_string();
    assert!(said.contains("init"), "{said}");

    fs::create_dir_all(world.home.data()).unwrap();
    let application = world.home.database("application");
    let ahead = chain.height().get() as i64 + 1;
    let latest = Int64Value { value: ahead }.encode_to_vec();
    make(
        &application,
        &[(b"s/latest".to_vec(), latest.into())].into(),
    );
    let said = world.export_from(None).unwrap_err().to_string();
    assert!(said.contains(&format!("at height {ahead}")), "{said}");

    fs::write(application.join("LOCK"), b"").unwrap();
    let running = Database::open(&application).unwrap();
    let said = world.export_from(None).unwrap_err().to_string();
    assert!(said.contains("application.db is in use"), "{said}");
    drop(running);
    fs::remove_dir_all(&application).unwrap();
    world.export_from(None).unwrap();
    fs::write(
        world.home.database("blockstore").join("OPTIONS-000003"),
        b"",
    )
    .unwrap();
    let said = world
        .import("other", Policy::Anchored)
        .err()
        .unwrap()
        .to_string();
    assert!(said.contains("rocksdb"), "{said}");
}

/// A change of a database's pairs.
type Change = Box<dyn FnOnce(&mut BTreeMap<Vec<u8>, Bytes>)>;

/// Changes that make the databases lie: which database, a word of the error, the change.
fn changes(tip: Height) -> Vec<(&'static str, &'static str, Change)> {
    let flip = |bytes: &Bytes, at: usize| {
        let mut bytes = bytes.to_vec();
        let at = at % bytes.len();
        bytes[at] ^= 1;
        Bytes::from(bytes)
    };
    vec![
        (
            "blockstore",
            "part",
            Box::new(move |pairs| drop(pairs.remove(&key::part(h(25), 11)))),
        ),
        (
            "blockstore",
            "record",
            Box::new(move |pairs| drop(pairs.remove(&key::meta(h(3))))),
        ),
        (
            "blockstore",
            "height 13",
            Box::new(move |pairs| {
                let part = key::part(h(13), 0);
                let value = flip(&pairs[&part], 300);
                pairs.insert(part, value);
            }),
        ),
        (
            "blockstore",
            "commit",
            Box::new(move |pairs| {
                let seen = key::seen_commit(tip);
                let value = flip(&pairs[&seen], 100_000);
                pairs.insert(seen, value);
            }),
        ),
        (
            "blockstore",
            "commit",
            Box::new(move |pairs| drop(pairs.remove(&key::seen_commit(tip)))),
        ),
        (
            "state",
            "validator set",
            Box::new(move |pairs| {
                let other = pairs[&key::validators(h(1))].clone();
                pairs.insert(key::validators(h(7)), other);
            }),
        ),
        (
            "state",
            "missing",
            Box::new(move |pairs| drop(pairs.remove(&key::params(h(9))))),
        ),
        (
            "state",
            "no state",
            Box::new(move |pairs| drop(pairs.remove(key::STATE))),
        ),
    ]
}

/// An import from changed databases ends with an error that names the change, or with the same
/// chain.
#[test]
fn a_home_that_is_not_the_chain_is_refused() {
    let chain = chain();
    let tip = chain.height();
    for (n, (database, word, change)) in changes(tip).into_iter().enumerate() {
        let world = World::of(&chain);
        world.export_from(None).unwrap();
        world.rewrite(database, change);
        let name = format!("back-{n}");
        let said = world
            .import(&name, Policy::Anchored)
            .err()
            .map(|e| e.to_string());
        let said = said.unwrap_or_else(|| panic!("{n}: {database} {word}: imported all the same"));
        assert!(said.contains(word), "{n} {word}: {said}");
        let left = open(&world.dir.path().join(&name));
        assert!(
            left.state().unwrap().is_none(),
            "{n}: a state of a chain that is not proven"
        );
    }
}

/// Each bit of the state's record: refused, or without meaning, or for the next block to prove.
#[test]
fn a_state_with_a_flipped_bit_does_not_pass_for_another_chain() {
    let chain = TestChain::builder(4).heights(6).build();
    let world = World::of(&chain);
    world.export_from(None).unwrap();
    let states = world.pairs("state");
    let whole = states[key::STATE].clone();
    let mut refused = 0;
    for at in (0..whole.len()).step_by(5) {
        let mut bytes = whole.to_vec();
        bytes[at] ^= 1;
        world.rewrite("state", |pairs| {
            drop(pairs.insert(key::STATE.to_vec(), bytes.into()))
        });
        match world.import(&format!("s{at}"), Policy::Anchored) {
            Err(_) => refused += 1,
            Ok((store, _)) => {
                let (found, expected) = (store.state().unwrap().unwrap(), chain.state());
                assert_eq!(found.last_block_id, expected.last_block_id, "{at}");
                assert_eq!(found.last_height, expected.last_height, "{at}");
                assert_eq!(found.validators.hash(), expected.validators.hash(), "{at}");
            }
        }
        let _ = fs::remove_dir_all(world.dir.path().join(format!("s{at}")));
    }
    assert!(
        refused > whole.len() / 15,
        "{refused} of {}",
        whole.len() / 5
    );
}
