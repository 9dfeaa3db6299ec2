//! Every recorded chain, executed block by block under the rules it was made with, against what
//! CometBFT recorded.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use blocksync::app::KvStore;
use blocksync::app::{App, InitChain};
use blocksync::chain::evidence_check::{EvidenceContext, LookupError, check_evidence};
use blocksync::chain::validate::{LastCommit, validate_block};
use blocksync::chain::{
    ChainState, Commit, Evidence, Fetched, FinalizeBlock, Genesis, Header, Rules, ValidatorSet,
    verify,
};
use blocksync::ids::{BlockId, Hash, Height, PartSetHeader};
use blocksync::wire::{self, Limits};
use blocksync_testkit::recorded::{Recorded, clock, wrap};
use rand::SeedableRng;
use rand::rngs::StdRng;

/// A fresh application's InitChain, taken into the genesis state.
async fn start<A: App>(app: &mut A, genesis: &Genesis, rules: &Rules) -> ChainState {
    let info = app.info().await.unwrap();
    let state = ChainState::from_genesis(genesis, clock())
        .unwrap()
        .with_app_info(info.app_version);
    let request = InitChain::of(&state, genesis.app_state.clone(), rules);
    let answer = app.init_chain(request).await.unwrap();
    state
        .with_init_chain(
            answer.params.as_ref(),
            &answer.validators,
            &answer.app_hash,
            rules,
        )
        .unwrap()
}

/// Lookups of the evidence checks: all that was executed.
#[derive(Default)]
struct Seen {
    headers: HashMap<Height, Header>,
    sets: HashMap<Height, Arc<ValidatorSet>>,
    commits: HashMap<Height, Commit>,
    evidence: HashSet<Hash>,
}

impl Seen {
    fn note(&mut self, state: &ChainState, fetched: &Fetched) {
        let (block, height) = (&fetched.block, fetched.height());
        self.headers.insert(height, block.header.clone());
        self.sets.insert(height, Arc::clone(&state.validators));
        let below = block.last_commit.height;
        self.commits.insert(below, block.last_commit.clone());
        self.evidence
            .extend(block.evidence.iter().map(Evidence::identity));
    }
}

impl EvidenceContext for Seen {
    fn set_at(&self, height: Height) -> Result<Option<Arc<ValidatorSet>>, LookupError> {
        Ok(self.sets.get(&height).cloned())
    }

    fn header_at(&self, height: Height) -> Result<Option<Header>, LookupError> {
        Ok(self.headers.get(&height).cloned())
    }

    fn commit_at(&self, height: Height) -> Result<Option<Commit>, LookupError> {
        Ok(self.commits.get(&height).cloned())
    }

    fn committed(&self, identity: &Hash) -> Result<bool, LookupError> {
        Ok(self.evidence.contains(identity))
    }
}

/// Executes up to the first block that is refused; gives the state and the refusal.
pub(crate) async fn execute<A: App + Default>(
    chain: &Recorded,
    rules: &Rules,
    check_expected: bool,
) -> (ChainState, Option<String>) {
    let mut app = A::default();
    let mut state = start(&mut app, &chain.genesis, rules).await;
    let mut evidence = Seen::default();
    let mut rng = StdRng::seed_from_u64(1);
    for (n, response) in chain.responses.iter().enumerate() {
        let fetched = wire::decode::fetched(&wrap(response), &Limits::default()).unwrap();
        let (block, height) = (&fetched.block, fetched.height());
        block.check_basic().unwrap();
        assert!(fetched.canonical, "height {height}");
        if let Err(e) = validate_block(&state, block, rules, LastCommit::Verify(&mut rng), None) {
            return (state, Some(e.to_string()));
        }
        if let Err(e) = check_evidence(&state, block, rules, &evidence, &mut rng) {
            return (state, Some(e.to_string()));
        }
        evidence.note(&state, &fetched);
        let wanted = state.params.vote_extensions_enabled(height);
        assert_eq!(fetched.ext_commit.is_some(), wanted, "{height}");
        if let Some(ext) = &fetched.ext_commit {
            let (chain_id, set) = (&state.chain_id, &state.validators);
            let (id, rng) = (&fetched.id, &mut rng);
            let verdict =
                verify::verify_extended_commit(rules, chain_id, set, id, height, ext, rng);
            if let Err(e) = verdict {
                return (state, Some(e.to_string()));
            }
        }
        let request = FinalizeBlock::from_block(
            block,
            fetched.id,
            state.last_validators.as_deref(),
            state.initial_height,
        )
        .unwrap();
        let response = app.finalize_block(request).await.unwrap();
        state = match state.advance(block, fetched.id, &response, rules) {
            Ok(after) => after,
            Err(e) => return (state, Some(e.to_string())),
        };
        app.commit().await.unwrap();
        app.take_writes();
        if check_expected {
            compare(
                &chain.expected[n],
                &state,
                fetched.id,
                height,
                fetched.raw.len(),
            );
        }
    }
    (state, None)
}

fn compare(
    line: &serde_json::Value,
    state: &ChainState,
    id: BlockId,
    height: Height,
    bytes: usize,
) {
    let text = |key: &str| line[key].as_str().unwrap().to_owned();
    let hash = |key: &str| Hash::from_hex(&text(key));
    let total = u32::try_from(line["parts_total"].as_u64().unwrap()).unwrap();
    let expected = BlockId {
        hash: hash("block_hash"),
        parts: PartSetHeader {
            total,
            hash: hash("parts_hash"),
        },
    };
    assert_eq!(line["height"].as_u64(), Some(height.get()));
    assert_eq!(id, expected, "block id of {height}");
    assert_eq!(
        line["block_bytes"].as_u64(),
        Some(bytes as u64),
        "size of {height}"
    );
    assert_eq!(
        hex::encode(&state.app_hash),
        text("app_hash_after"),
        "app hash after {height}"
    );
    assert_eq!(
        state.last_results_hash.to_string(),
        text("last_results_hash_after"),
        "results of {height}"
    );
    assert_eq!(
        state.next_validators.hash().to_string(),
        text("next_validators_hash_after"),
        "sets after {height}"
    );
}

fn compare_set(expected: &serde_json::Value, set: &ValidatorSet) {
    let expected = expected.as_array().unwrap();
    assert_eq!(expected.len(), set.len());
    for (n, (line, validator)) in expected.iter().zip(set.iter()).enumerate() {
        assert_eq!(
            line["address"].as_str(),
            Some(validator.address.to_string().as_str())
        );
        assert_eq!(
            line["pub_key"].as_str(),
            Some(hex::encode(validator.key.as_bytes()).as_str())
        );
        assert_eq!(line["power"].as_i64(), Some(validator.power));
        assert_eq!(
            line["proposer_priority"].as_i64(),
            Some(set.priorities()[n]),
            "priority of {}",
            validator.address
        );
    }
}

async fn matches_the_record(name: &'static str, rules: Rules) {
    matches_the_record_with::<KvStore>(name, rules).await;
}

/// The chain of another application.
pub(crate) async fn matches_the_record_with<A: App + Default>(name: &'static str, rules: Rules) {
    let chain = Recorded::load_by(name, &rules.into());
    let (state, refused) = execute::<A>(&chain, &rules, true).await;
    assert_eq!(refused, None, "{name}");
    let text = std::fs::read_to_string(
        blocksync_testkit::recorded::chain_dir(name).join("final_state.json"),
    )
    .unwrap();
    let end: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        end["last_block_height"].as_u64(),
        Some(state.last_height.get())
    );
    assert_eq!(
        end["last_block_time"].as_str(),
        Some(state.last_block_time.to_string().as_str())
    );
    assert_eq!(
        end["last_height_validators_changed"].as_u64(),
        Some(state.last_height_validators_changed.get())
    );
    compare_set(&end["validators"], &state.validators);
    compare_set(&end["next_validators"], &state.next_validators);
    compare_set(
        &end["last_validators"],
        state.last_validators.as_ref().unwrap(),
    );
    let proposer = state.validators.proposer().unwrap().address.to_string();
    assert_eq!(end["next_proposer"].as_str(), Some(proposer.as_str()));
    let tip = wire::decode::commit_from_bytes(&chain.tip_commit).unwrap();
    let (set, id) = (state.last_validators.as_ref().unwrap(), state.last_block_id);
    let mut rng = StdRng::seed_from_u64(2);
    let (chain_id, last) = (&state.chain_id, state.last_height);
    verify::verify_commit(&rules, chain_id, set, &id, last, &tip, &mut rng).unwrap();
    let mut encoded = Vec::new();
    tip.encode(&mut encoded);
    assert_eq!(encoded, chain.tip_commit);
}

#[tokio::test]
async fn one() {
    matches_the_record("one", Rules::COMET_038).await;
}

#[tokio::test]
async fn four() {
    matches_the_record("four", Rules::COMET_038).await;
}

#[tokio::test]
async fn four_is_valid_in_040_too() {
    matches_the_record("four", Rules::COMET_040).await;
}

#[tokio::test]
async fn full_038() {
    matches_the_record("full-038", Rules::COMET_038).await;
}

#[tokio::test]
async fn full_040() {
    matches_the_record("full-040", Rules::COMET_040).await;
}

#[tokio::test]
async fn churn() {
    matches_the_record("churn", Rules::COMET_038).await;
}

/// Under the other version's rules a chain with nil votes stops at the first block whose time they
/// change, and the refusal names the rules.
async fn stops_under(name: &'static str, wrong: Rules, right: Rules) {
    let chain: Arc<Recorded> = Recorded::load(name);
    let (state, refused) = execute::<KvStore>(&chain, &wrong, false).await;
    let refused = refused.expect("a refusal");
    let height = state.last_height.next();
    assert!(refused.contains(wrong.name), "{refused}");
    assert!(refused.contains(&height.to_string()), "{refused}");
    // It is this height and no other: the two medians are equal in all blocks before, and differ
    // here.
    let fetched =
        wire::decode::fetched(&wrap(chain.response(height).unwrap()), &Limits::default()).unwrap();
    let set = state.last_validators.as_ref().unwrap();
    let time = |rules: &Rules| {
        blocksync::chain::median::median_time(&fetched.block.last_commit, set, rules).unwrap()
    };
    assert_eq!(time(&right), fetched.block.header.time);
    assert_ne!(time(&wrong), fetched.block.header.time);
}

#[tokio::test]
async fn full_038_stops_under_the_rules_of_040() {
    stops_under("full-038", Rules::COMET_040, Rules::COMET_038).await;
}

#[tokio::test]
async fn full_040_stops_under_the_rules_of_038() {
    stops_under("full-040", Rules::COMET_038, Rules::COMET_040).await;
}
