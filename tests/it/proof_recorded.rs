//! The judge and the evidence check on chains that CometBFT has made: every block is proven, nobody
//! is accused, and all evidence holds.

use std::collections::HashSet;
use std::sync::Arc;

use blocksync::app::{App, InitChain};
use blocksync::chain::evidence_check::{EvidenceContext, LookupError, check_evidence};
use blocksync::chain::proof::{Base, Case, KnownSets, Policy, judge};
use blocksync::chain::signatures::Inline;
use blocksync::chain::verify::verify_extended_commit;
use blocksync::chain::{
    ChainState, Commit, Evidence, ExtendedCommit, Fetched, FinalizeBlock, Header, RuleSchedule,
    Rules, ValidatorSet,
};
use blocksync::ids::{Hash, Height};
use blocksync::wire::{Limits, decode};
use blocksync_testkit::app::ParamsKvStore;
use blocksync_testkit::recorded::{Recorded, clock, wrap};
use rand::SeedableRng;
use rand::rngs::StdRng;

/// A recorded chain, executed: its blocks, and the states before each and after the last.
struct Executed {
    blocks: Vec<Fetched>,
    states: Vec<ChainState>,
    initial: Height,
}

impl Executed {
    async fn load(name: &'static str) -> Self {
        let chain = Recorded::load(name);
        let genesis = &chain.genesis;
        let mut app = ParamsKvStore::default();
        let info = app.info().await.unwrap();
        let state = ChainState::from_genesis(genesis, clock()).unwrap();
        let state = state.with_app_info(info.app_version);
        let request = InitChain::of(&state, genesis.app_state.clone(), &Rules::COMET_038);
        let answer = app.init_chain(request).await.unwrap();
        let params = answer.params.as_ref();
        let mut states = vec![
            state
                .with_init_chain(
                    params,
                    &answer.validators,
                    &answer.app_hash,
                    &Rules::COMET_038,
                )
                .unwrap(),
        ];
        let mut blocks = Vec::new();
        for (response, expected) in chain.responses.iter().zip(&chain.expected) {
            let fetched = decode::fetched(&wrap(response), &Limits::default()).unwrap();
            let state = states.last().unwrap();
            let last = state.last_validators.as_deref();
            let request =
                FinalizeBlock::from_block(&fetched.block, fetched.id, last, chain.initial).unwrap();
            let answer = app.finalize_block(request).await.unwrap();
            let after = state
                .advance(&fetched.block, fetched.id, &answer, &Rules::COMET_040)
                .unwrap();
            assert_after(&after, expected);
            states.push(after);
            app.commit().await.unwrap();
            app.take_writes();
            blocks.push(fetched);
        }
        Executed {
            blocks,
            states,
            initial: chain.initial,
        }
    }

    fn place(&self, height: Height) -> Option<usize> {
        let place = usize::try_from(height.above(self.initial)).unwrap();
        (height >= self.initial && place < self.blocks.len()).then_some(place)
    }
}

/// The hashes after a block are those that CometBFT recorded.
fn assert_after(state: &ChainState, expected: &serde_json::Value) {
    let found = [
        ("block_hash", state.last_block_id.hash.unwrap().to_string()),
        ("app_hash_after", hex::encode(&state.app_hash)),
        (
            "last_results_hash_after",
            state.last_results_hash.to_string(),
        ),
        (
            "next_validators_hash_after",
            state.next_validators.hash().to_string(),
        ),
    ];
    for (name, found) in found {
        assert_eq!(
            found,
            expected[name].as_str().unwrap(),
            "{name}: {}",
            state.last_height
        );
    }
}

/// Lookups after some blocks; the evidence that they hold.
struct Known<'a>(&'a Executed, HashSet<Hash>);

impl EvidenceContext for Known<'_> {
    fn set_at(&self, height: Height) -> Result<Option<Arc<ValidatorSet>>, LookupError> {
        Ok(self
            .0
            .place(height)
            .map(|at| Arc::clone(&self.0.states[at].validators)))
    }

    fn header_at(&self, height: Height) -> Result<Option<Header>, LookupError> {
        Ok(self
            .0
            .place(height)
            .map(|at| self.0.blocks[at].block.header.clone()))
    }

    fn commit_at(&self, height: Height) -> Result<Option<Commit>, LookupError> {
        let above = self.0.place(height.next());
        Ok(above.map(|at| self.0.blocks[at].block.last_commit.clone()))
    }

    fn committed(&self, identity: &Hash) -> Result<bool, LookupError> {
        Ok(self.1.contains(identity))
    }
}

/// Checks all evidence, and that none of it may come again; counts votes and attacks.
async fn evidence_of(name: &'static str) -> (usize, usize) {
    let (chain, rules) = (Executed::load(name).await, &Rules::COMET_040);
    let mut known = Known(&chain, HashSet::new());
    let (mut votes, mut attacks, mut rng) = (0, 0, StdRng::seed_from_u64(3));
    for (state, fetched) in chain.states.iter().zip(&chain.blocks) {
        check_evidence(state, &fetched.block, rules, &known, &mut rng).unwrap();
        for item in &fetched.block.evidence {
            match item {
                Evidence::DuplicateVote(_) => votes += 1,
                Evidence::LightClientAttack(_) => attacks += 1,
            }
            known.1.insert(item.identity());
            check_evidence(state, &fetched.block, rules, &known, &mut rng).unwrap_err();
        }
    }
    (votes, attacks)
}

#[tokio::test]
async fn all_evidence_of_cometbfts_chains_holds() {
    for name in ["full-038", "full-040", "eth", "mldsa", "mixed"] {
        let (votes, attacks) = evidence_of(name).await;
        assert!(votes > 0 && attacks > 0, "{name}: {votes} and {attacks}");
    }
}

/// Proves a chain as the pool would, applying a proven block only when nothing can be judged
/// before; gives the number of runs.
fn prove(chain: &Executed, policy: Policy) -> usize {
    let (count, cpu) = (chain.blocks.len(), Inline::new([5; 32]));
    // The last block has no carrier.
    let (mut applied, mut proven, mut end, mut runs) = (0, 0, count - 1, 0);
    while proven < count - 1 {
        let state = &chain.states[applied];
        let base = match proven.checked_sub(1) {
            Some(below) if proven > applied => Base::at(&chain.blocks[below]),
            _ => Base::of(state),
        };
        let run: Vec<&Fetched> = chain.blocks[proven..end].iter().collect();
        let (known, carrier) = (
            KnownSets::of(state, &RuleSchedule::default()),
            Some(&chain.blocks[end]),
        );
        let case = Case {
            known: &known,
            base,
            run: &run,
            carrier,
        };
        let judgement = judge(policy, &case, &cpu);
        assert_eq!(judgement.guilty, []);
        assert_eq!((judgement.unfit, judgement.fork), (None, None));
        runs += 1;
        if let Some((height, id)) = judgement.certified {
            let at = chain.place(height).unwrap();
            assert_eq!(id, chain.blocks[at].id);
            assert!(at >= proven);
            (proven, end) = (at + 1, count - 1);
            continue;
        }
        let shorter = judgement.shorten.unwrap();
        match chain.place(shorter).map(|at| at + 1) {
            Some(shorter) if shorter > proven => end = shorter,
            _ => {
                assert!(applied < proven);
                (applied, end) = (proven, count - 1);
            }
        }
    }
    runs
}

#[tokio::test]
async fn all_of_cometbfts_chains_are_proven() {
    for name in [
        "one", "four", "full-038", "full-040", "churn", "eth", "mldsa", "mixed",
    ] {
        let chain = Executed::load(name).await;
        let (anchored, every) = (
            prove(&chain, Policy::Anchored),
            prove(&chain, Policy::EveryCommit),
        );
        println!(
            "{name}: {} blocks, {anchored} and {every} runs",
            chain.blocks.len()
        );
        assert!(anchored <= chain.blocks.len(), "{name}: {anchored}");
    }
}

#[tokio::test]
async fn vote_extensions_by_keys_of_every_type_hold() {
    for name in ["eth", "mldsa", "mixed"] {
        let chain = Executed::load(name).await;
        let (mut held, mut rng) = (0, StdRng::seed_from_u64(4));
        for (state, fetched) in chain.states.iter().zip(&chain.blocks) {
            let enabled = state.params.vote_extensions_enabled(fetched.height());
            assert_eq!(fetched.ext_commit.is_some(), enabled, "{name}");
            let Some(commit) = &fetched.ext_commit else {
                continue;
            };
            let mut verify = |commit: &ExtendedCommit| {
                let (set, height) = (&state.validators, fetched.height());
                let chain = &state.chain_id;
                let rules = &Rules::COMET_040;
                verify_extended_commit(rules, chain, set, &fetched.id, height, commit, &mut rng)
            };
            verify(commit).unwrap();
            held += 1;
            let mut altered = commit.clone();
            let signed = (altered.signatures.iter_mut())
                .find(|entry| !entry.extension_signature.is_empty())
                .unwrap();
            let mut signature = signed.extension_signature.to_vec();
            signature[20] ^= 1;
            signed.extension_signature = signature.into();
            verify(&altered).unwrap_err();
        }
        assert!(held > 5, "{name}: {held}");
    }
}
