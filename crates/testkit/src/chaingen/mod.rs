//! Makes chains for benches and tests: real keys, real signatures, the block time, proposers,
//! hashes and encoding that CometBFT expects; its nodes accept them (`interop/cmd/checkchain` holds
//! a generated chain against CometBFT's own code).
//!
//! A chain is made block by block from what it already has, in bounded memory; signing is spread
//! over all cores.

use std::io;

use bytes::Bytes;
use futures::executor::block_on;
use rayon::{ThreadPool, ThreadPoolBuilder};

use blocksync::app::{App, AppError, AppInfo, InitChain, InitChainResponse, KvStore, Noop};
use blocksync::chain::basic::BLOCK_PROTOCOL;
use blocksync::chain::block::{data_hash, evidence_hash, part_set};
use blocksync::chain::execution::RequestError;
use blocksync::chain::median::{UnknownSigner, median_time};
use blocksync::chain::state::StateError;
use blocksync::chain::{
    Block, ChainState, Commit, ExtendedCommit, FinalizeBlock, FinalizeResponse, Genesis, Header,
    Rules, Time, Validator,
};
use blocksync::ids::{BlockId, Height};

use crate::app::PersistentKvStore;

mod files;
mod keys;
mod options;
mod rng;
mod txs;
mod votes;

pub use files::{Summary, genesis_json, write};
pub use options::{AppKind, Options};

use keys::Keys;
use rng::Chance;
use txs::Txs;
use votes::Ballot;

/// 2026-01-01T00:00:00Z.
const GENESIS_TIME: Time = Time {
    seconds: 1_767_225_600,
    nanos: 0,
};
/// Powers of `spread_power` are from 1 to this.
const SPREAD: u64 = 1000;
/// The power of each validator otherwise.
const POWER: i64 = 10;

/// Why no chain could be made.
#[derive(Debug, thiserror::Error)]
pub enum ChaingenError {
    /// Options that contradict each other.
    #[error("{0}")]
    Options(String),
    /// The application failed.
    #[error(transparent)]
    App(#[from] AppError),
    /// The chain's state would not follow.
    #[error(transparent)]
    State(#[from] StateError),
    /// A commit of ours does not fit its set.
    #[error(transparent)]
    Signer(#[from] UnknownSigner),
    /// A block of ours cannot be executed.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// No threads to sign with.
    #[error("threads: {0}")]
    Threads(#[from] rayon::ThreadPoolBuildError),
    /// A file could not be written.
    #[error("{0}: {1}")]
    File(String, #[source] io::Error),
}

/// A block, and the votes that decided it.
#[derive(Clone, Debug)]
pub struct Made {
    /// The block.
    pub block: Block,
    /// Its id.
    pub id: BlockId,
    /// Its canonical encoding.
    pub raw: Bytes,
    /// The votes, with extensions where they are enabled.
    pub commit: ExtendedCommit,
    /// Whether extensions are enabled at its height.
    pub extensions: bool,
}

/// The application that makes the hashes. All answer at once: no executor is needed.
enum Application {
    Kvstore(KvStore),
    Kvstore034(PersistentKvStore),
    Noop(Noop),
}

/// Makes a chain, block by block.
pub struct Generator {
    options: Options,
    chance: Chance,
    keys: Keys,
    genesis: Genesis,
    state: ChainState,
    app: Application,
    txs: Txs,
    /// The commit for the last block; empty before the first.
    last_commit: Commit,
    threads: ThreadPool,
}

impl Generator {
    /// Before the first block.
    ///
    /// # Errors
    /// When the options contradict each other.
    pub fn new(options: Options) -> Result<Self, ChaingenError> {
        options.check()?;
        let mut chance = Chance::new(options.seed);
        let keys = Keys::new(options.key_type, options.seed, options.key_count());
        let genesis = genesis(&options, &keys, &mut chance);
        let (app, state) = Application::start(
            options.app,
            &genesis,
            options.rules.at(genesis.initial_height),
        )?;
        Ok(Generator {
            chance,
            keys,
            state,
            app,
            txs: Txs::new(&options),
            last_commit: Commit::default(),
            threads: ThreadPoolBuilder::new()
                .num_threads(options.threads)
                .build()?,
            genesis,
            options,
        })
    }

    /// The chain's genesis.
    #[must_use]
    pub fn genesis(&self) -> &Genesis {
        &self.genesis
    }

    /// The state after the last block that was made.
    #[must_use]
    pub fn state(&self) -> &ChainState {
        &self.state
    }

    /// Makes the next block, decides and executes it. There is always another one: `heights` is
    /// `write`'s to heed.
    ///
    /// # Errors
    /// When the application fails; anything else would be an error of the generator.
    pub fn make(&mut self) -> Result<Made, ChaingenError> {
        let height = self.state.next_height();
        let round = if self.chance.per_mille(self.options.late_rounds) {
            1 + i32::try_from(self.chance.below(3)).unwrap_or(0)
        } else {
            0
        };
        let block = self.propose(height, round)?;
        let mut raw = Vec::new();
        block.encode(&mut raw);
        let id = BlockId {
            hash: block.header.hash(),
            parts: part_set(&raw),
        };
        let ballot = Ballot {
            chain_id: &self.state.chain_id,
            height,
            round,
            id,
            time: block.header.time,
            extensions: self.state.params.vote_extensions_enabled(height),
        };
        let mut commit = ballot.votes(&self.state.validators, &self.options, &mut self.chance);
        ballot.sign(&mut commit, &self.keys, &self.threads);
        let extensions = ballot.extensions;
        let request = FinalizeBlock::from_block(
            &block,
            id,
            self.state.last_validators.as_deref(),
            self.state.initial_height,
        )?;
        let response = self.app.execute(request)?;
        self.state = self
            .state
            .advance(&block, id, &response, self.options.rules.at(height))?;
        self.last_commit = commit.to_commit();
        Ok(Made {
            block,
            id,
            raw: raw.into(),
            commit,
            extensions,
        })
    }

    /// The block that the round's proposer proposes.
    fn propose(&mut self, height: Height, round: i32) -> Result<Block, ChaingenError> {
        let step = height.above(self.state.initial_height);
        let txs = self.txs.of_block(
            &self.options,
            step,
            &self.state.next_validators,
            &self.keys,
            &mut self.chance,
        );
        let state = &self.state;
        // `make` puts the next one here once this block is decided.
        let last_commit = std::mem::take(&mut self.last_commit);
        let time = match &state.last_validators {
            Some(set) => median_time(&last_commit, set, self.options.rules.at(height))?,
            None => state.last_block_time,
        };
        // Each round without a decision passes the proposal on to the next validator.
        let rotated = state
            .validators
            .increment(u32::try_from(round).unwrap_or(0));
        let proposer = rotated.proposer().map(|v| v.address);
        let header = Header {
            version_block: BLOCK_PROTOCOL,
            version_app: state.version_app,
            chain_id: state.chain_id.clone(),
            height,
            time,
            last_block_id: state.last_block_id,
            last_commit_hash: Some(last_commit.hash()),
            data_hash: Some(data_hash(&txs)),
            validators_hash: Some(state.validators.hash()),
            next_validators_hash: Some(state.next_validators.hash()),
            consensus_hash: Some(state.params.hash()),
            app_hash: state.app_hash.clone(),
            last_results_hash: Some(state.last_results_hash),
            evidence_hash: Some(evidence_hash(&[])),
            proposer_address: proposer.ok_or(StateError::NoValidators)?,
        };
        Ok(Block {
            header,
            txs: txs.into(),
            evidence: Vec::new(),
            last_commit,
        })
    }
}

impl Application {
    /// The application after `InitChain`, and the state before the first block.
    fn start(
        kind: AppKind,
        genesis: &Genesis,
        rules: &Rules,
    ) -> Result<(Self, ChainState), ChaingenError> {
        let mut app = match kind {
            AppKind::Kvstore => Application::Kvstore(KvStore::new()),
            AppKind::Kvstore034 => Application::Kvstore034(PersistentKvStore::default()),
            AppKind::Noop => Application::Noop(Noop::new()),
        };
        let state = ChainState::from_genesis(genesis, GENESIS_TIME)?;
        let request = InitChain::of(&state, genesis.app_state.clone(), rules);
        fn greet<A: App>(
            app: &mut A,
            request: InitChain,
        ) -> Result<(AppInfo, InitChainResponse), AppError> {
            Ok((block_on(app.info())?, block_on(app.init_chain(request))?))
        }
        let (info, init) = match &mut app {
            Application::Kvstore(app) => greet(app, request)?,
            Application::Kvstore034(app) => greet(app, request)?,
            Application::Noop(app) => greet(app, request)?,
        };
        let state = state.with_app_info(info.app_version).with_init_chain(
            init.params.as_ref(),
            &init.validators,
            &init.app_hash,
            rules,
        )?;
        Ok((app, state))
    }

    /// Executes and commits a block; what it would write is dropped.
    fn execute(&mut self, request: FinalizeBlock) -> Result<FinalizeResponse, AppError> {
        fn run<A: App>(app: &mut A, request: FinalizeBlock) -> Result<FinalizeResponse, AppError> {
            let response = block_on(app.finalize_block(request))?;
            block_on(app.commit())?;
            // There is no store for them, and kept they would grow with the chain.
            drop(app.take_writes());
            Ok(response)
        }
        match self {
            Application::Kvstore(app) => run(app, request),
            Application::Kvstore034(app) => run(app, request),
            Application::Noop(app) => run(app, request),
        }
    }
}

fn genesis(options: &Options, keys: &Keys, chance: &mut Chance) -> Genesis {
    let validators = (0..options.validators).map(|i| {
        let power = if options.spread_power {
            1 + chance.below(SPREAD).cast_signed()
        } else {
            POWER
        };
        Validator::new(keys.public(i).clone(), power)
    });
    Genesis {
        genesis_time: Some(GENESIS_TIME),
        chain_id: options.chain_id.clone(),
        initial_height: Height::new(options.initial_height),
        params: options.params(),
        validators: validators.collect(),
        app_hash: Bytes::new(),
        app_state: Bytes::new(),
    }
}

#[cfg(test)]
mod tests;
