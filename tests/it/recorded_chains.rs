//! The chains that CometBFT made, executed by our kvstore into our store on disk, in batches of
//! uneven size with a restart after each: application hash, results and sets of every height are
//! CometBFT's, and so is the state at the end.

use std::path::Path;
use std::sync::Arc;

use blocksync::app::{App, InitChain, KvStore};
use blocksync::chain::execution::FinalizeBlock;
use blocksync::chain::{ChainState, Evidence, Fetched, Genesis, Rules, Time, ValidatorSet};
use blocksync::ids::Height;
use blocksync::store::{Batch, BlockRecord, LmdbOptions, LmdbStore, Store};
use blocksync::wire::{Limits, decode};
use blocksync_testkit::recorded::chain_dir;
use bytes::{Buf, Bytes};
use futures::executor::block_on;
use serde_json::Value;

fn read(chain: &str, file: &str) -> Bytes {
    std::fs::read(chain_dir(chain).join(file)).unwrap().into()
}

fn blocks(chain: &str) -> Vec<Fetched> {
    let mut bytes = read(chain, "blocks.bin");
    let mut out = Vec::new();
    while bytes.has_remaining() {
        let length = prost::decode_length_delimiter(&mut bytes).unwrap();
        let response = bytes.split_to(length);
        out.push(decode::fetched_response(&response, &Limits::default()).unwrap());
    }
    out
}

fn open(dir: &Path) -> LmdbStore {
    let options = LmdbOptions::with_map_size(1 << 30);
    LmdbStore::open(dir, &options).unwrap()
}

/// The application and the state before the first block, written down.
fn begin(store: &LmdbStore, genesis: &Genesis) {
    let mut app = KvStore::new();
    app.load(store).unwrap();
    let info = block_on(app.info()).unwrap();
    let state = ChainState::from_genesis(genesis, Time::ZERO).unwrap();
    let state = state.with_app_info(info.app_version);
    let response = block_on(app.init_chain(InitChain::of(
        &state,
        genesis.app_state.clone(),
        &Rules::COMET_038,
    )));
    let response = response.unwrap();
    let state = state
        .with_init_chain(
            response.params.as_ref(),
            &response.validators,
            &response.app_hash,
            &Rules::COMET_038,
        )
        .unwrap();
    let batch = Batch {
        state: Some(Arc::new(state)),
        app: app.take_writes(),
        ..Batch::default()
    };
    store.commit(batch).unwrap();
}

/// A process that executes some blocks and ends.
fn run(store: &LmdbStore, blocks: &[Fetched], expected: &[Value]) {
    let mut app = KvStore::new();
    app.load(store).unwrap();
    let mut state = store.state().unwrap().unwrap();
    let info = block_on(app.info()).unwrap();
    assert_eq!(info.last_height, state.last_height);
    assert_eq!(info.last_app_hash, state.app_hash);
    let mut batch = Batch::default();
    for (fetched, expected) in blocks.iter().zip(expected) {
        let height = fetched.height();
        let set = state.last_validators.as_deref();
        let request =
            FinalizeBlock::from_block(&fetched.block, fetched.id, set, state.initial_height);
        let response = block_on(app.finalize_block(request.unwrap())).unwrap();
        block_on(app.commit()).unwrap();
        let before = state.next_validators.hash();
        state = state
            .advance(&fetched.block, fetched.id, &response, &Rules::COMET_038)
            .unwrap();
        let hash = |name: &str| expected[name].as_str().unwrap().to_owned();
        assert_eq!(
            hex::encode(&state.app_hash),
            hash("app_hash_after"),
            "{height}"
        );
        assert_eq!(
            state.last_results_hash.to_string(),
            hash("last_results_hash_after"),
            "{height}"
        );
        let next = state.next_validators.hash();
        assert_eq!(state.validators.hash().to_string(), before.to_string());
        if next != before {
            batch
                .validators
                .push((height.plus(2), state.next_validators.clone()));
        }
        let evidence = fetched.block.evidence.iter();
        batch
            .evidence
            .extend(evidence.map(|e| (e.identity(), e.height())));
        batch.blocks.push(BlockRecord {
            height,
            id: fetched.id,
            raw: fetched.raw.clone(),
            ext_raw: fetched.ext_raw.clone(),
        });
    }
    batch.state = Some(Arc::new(state));
    batch.app = app.take_writes();
    store.commit(batch).unwrap();
}

fn check_sets(store: &LmdbStore, fetched: &Fetched) {
    let (header, height) = (&fetched.block.header, fetched.height());
    let set = store.validators(height).unwrap().expect("known");
    assert_eq!(Some(set.hash()), header.validators_hash, "set of {height}");
    let next = store.validators(height.next()).unwrap().expect("known");
    assert_eq!(
        Some(next.hash()),
        header.next_validators_hash,
        "after {height}"
    );
    let params = store.params(height).unwrap().expect("known");
    assert_eq!(
        Some(params.hash()),
        header.consensus_hash,
        "params of {height}"
    );
    let (read, id) = store.header(height).unwrap().expect("stored");
    assert_eq!((&read, id), (header, fetched.id), "header {height}");
}

fn check_final(state: &ChainState, expected: &Value) {
    let set = |set: &ValidatorSet| -> Vec<(String, i64, i64)> {
        let members = set.iter().zip(set.priorities());
        let members = members.map(|(v, priority)| (v.address.to_string(), v.power, *priority));
        members.collect()
    };
    let wanted = |name: &str| -> Vec<(String, i64, i64)> {
        let members = expected[name].as_array().unwrap().iter();
        let number = |v: &Value, name: &str| v[name].as_i64().unwrap();
        let members = members.map(|v| {
            let address = v["address"].as_str().unwrap().to_owned();
            (address, number(v, "power"), number(v, "proposer_priority"))
        });
        members.collect()
    };
    assert_eq!(set(&state.validators), wanted("validators"));
    assert_eq!(set(&state.next_validators), wanted("next_validators"));
    let last = state.last_validators.as_ref().unwrap();
    assert_eq!(set(last), wanted("last_validators"));
    let proposer = state.validators.proposer().unwrap().address.to_string();
    assert_eq!(proposer, expected["next_proposer"].as_str().unwrap());
    let height = expected["last_block_height"].as_u64().unwrap();
    assert_eq!(state.last_height, Height::new(height));
    assert_eq!(
        state.last_height_validators_changed.get(),
        expected["last_height_validators_changed"].as_u64().unwrap()
    );
}

fn replay(chain: &str) {
    let dir = tempfile::tempdir().unwrap();
    let genesis = Genesis::parse(&read(chain, "genesis.json")).unwrap();
    let expected: Vec<Value> = String::from_utf8(read(chain, "expected.jsonl").to_vec())
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let blocks = blocks(chain);
    assert_eq!(blocks.len(), expected.len());
    begin(&open(dir.path()), &genesis);
    let (mut at, mut size) = (0, 1);
    while at < blocks.len() {
        let end = (at + size).min(blocks.len());
        run(&open(dir.path()), &blocks[at..end], &expected[at..end]);
        (at, size) = (end, size % 37 + 5);
    }
    let store = open(dir.path());
    let final_state: Value = serde_json::from_slice(&read(chain, "final_state.json")).unwrap();
    check_final(&store.state().unwrap().unwrap(), &final_state);
    for fetched in &blocks {
        check_sets(&store, fetched);
        let record = store.block(fetched.height()).unwrap().expect("stored");
        assert_eq!(
            (record.raw, record.ext_raw),
            (fetched.raw.clone(), fetched.ext_raw.clone())
        );
        for evidence in &fetched.block.evidence {
            assert!(store.has_evidence(&Evidence::identity(evidence)).unwrap());
        }
    }
}

#[test]
fn one_validator() {
    replay("one");
}

#[test]
fn four_validators() {
    replay("four");
}

#[test]
fn everything_in_one_chain() {
    replay("full-038");
}

#[test]
fn everything_in_one_chain_of_the_next_version() {
    replay("full-040");
}

#[test]
fn sets_that_change_all_the_time() {
    replay("churn");
}
