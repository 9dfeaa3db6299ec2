//! Options of the chain to make. They are also the flags of `blocksync bench --make`.

use blocksync::chain::key::KeyType;
use blocksync::chain::{ConsensusParams, RuleSchedule};
use blocksync::ids::Height;

use super::ChaingenError;

/// Bytes of a block beyond its transactions and commit, generously.
const BLOCK_OVERHEAD: usize = 1 << 20;

fn key_type(name: &str) -> Result<KeyType, String> {
    let names = || KeyType::ALL.map(KeyType::name).join(", ");
    KeyType::from_name(name).ok_or_else(|| format!("expected one of {}", names()))
}

/// The application that a chain is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum AppKind {
    /// CometBFT's example `kvstore`.
    Kvstore,
    /// CometBFT's persistent `kvstore` of 0.34 and 0.37
    #[value(name = "kvstore-0.34")]
    Kvstore034,
    /// No state, an empty app hash.
    Noop,
}

/// Options of the chain to make. The same options give the same bytes.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The chain's name, 1 to 50 bytes
    #[arg(long, default_value = "bench")]
    pub chain_id: String,
    /// Keys, times, transactions and votes come from it
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Blocks to make
    #[arg(long, default_value_t = 3000)]
    pub heights: u64,
    /// Height of the first block
    #[arg(long, default_value_t = 1)]
    pub initial_height: u64,
    /// Validators at genesis
    #[arg(long, default_value_t = 100)]
    pub validators: usize,
    /// Validator keys in all, for churn [default: twice the validators]
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    pub keys: usize,
    /// Type of the validators' keys, as params name it; the rules must have it
    #[arg(long, default_value = "ed25519", value_parser = key_type)]
    pub key_type: KeyType,
    /// Powers from 1 to 1000, instead of 10 for each validator
    #[arg(long)]
    pub spread_power: bool,
    /// Transactions in a block
    #[arg(long, default_value_t = 10)]
    pub txs: usize,
    /// Bytes in a transaction's value
    #[arg(long, default_value_t = 800)]
    pub tx_size: usize,
    /// From none to twice as many transactions in a block, instead of always the same number
    #[arg(long)]
    pub vary: bool,
    /// Interval between big blocks, in blocks; 0 is never
    #[arg(long, default_value_t = 0)]
    pub big_every: u64,
    /// Bytes of transactions in a big block
    #[arg(long, default_value_t = 200_000)]
    pub big_bytes: usize,
    /// Per mille of validators that are absent from a commit
    #[arg(long, default_value_t = 0)]
    pub absent: u64,
    /// Per mille of validators that vote nil
    #[arg(long, default_value_t = 0)]
    pub nil: u64,
    /// Per mille of heights that are decided in a round after 0
    #[arg(long, default_value_t = 0)]
    pub late_rounds: u64,
    /// Interval in blocks between changes of one validator, which joins, leaves or changes its
    /// power; 0 is never
    #[arg(long, default_value_t = 0)]
    pub churn_every: u64,
    /// Interval in blocks between replacements of the whole set by other keys; 0 is never
    #[arg(long, default_value_t = 0)]
    pub turnover_every: u64,
    /// Precommits carry vote extensions from this height on; 0 is never
    #[arg(long, default_value_t = 0)]
    pub extensions_from: u64,
    /// Bytes in a vote extension; every third validator's is empty
    #[arg(long, default_value_t = 16)]
    pub extension_size: usize,
    /// The application whose hashes the headers name
    #[arg(long, value_enum, default_value_t = AppKind::Kvstore)]
    pub app: AppKind,
    /// The protocol's rules: `comet-0.38`, `comet-0.40`, or a list of HEIGHT:RULES
    #[arg(long, default_value = "comet-0.38", value_parser = RuleSchedule::parse)]
    pub rules: RuleSchedule,
    /// Threads that sign [default: one a core]
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    pub threads: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            chain_id: "bench".to_owned(),
            seed: 1,
            heights: 3000,
            initial_height: 1,
            validators: 100,
            keys: 0,
            key_type: KeyType::Ed25519,
            spread_power: false,
            txs: 10,
            tx_size: 800,
            vary: false,
            big_every: 0,
            big_bytes: 200_000,
            absent: 0,
            nil: 0,
            late_rounds: 0,
            churn_every: 0,
            turnover_every: 0,
            extensions_from: 0,
            extension_size: 16,
            app: AppKind::Kvstore,
            rules: RuleSchedule::default(),
            threads: 0,
        }
    }
}

impl Options {
    /// Validator keys in all.
    pub(super) fn key_count(&self) -> usize {
        if self.keys == 0 {
            2 * self.validators
        } else {
            self.keys
        }
    }

    /// The params of the chain's genesis: CometBFT's defaults, with room for the largest block
    /// asked for.
    pub(super) fn params(&self) -> ConsensusParams {
        let mut params = ConsensusParams::default();
        let txs = 2 * self.txs * (self.tx_size + 32) + self.big_bytes;
        if txs + BLOCK_OVERHEAD > usize::try_from(params.block_max_bytes).unwrap_or(usize::MAX) {
            params.block_max_bytes = blocksync::chain::params::MAX_BLOCK_BYTES;
        }
        params.pub_key_types = vec![self.key_type.name().to_owned()];
        params.vote_extensions_enable_height = Height::new(self.extensions_from).to_wire();
        params
    }

    /// Refuses what no chain can be made of.
    pub(super) fn check(&self) -> Result<(), ChaingenError> {
        let refuse = |why: &str| Err(ChaingenError::Options(why.to_owned()));
        if self.chain_id.is_empty() || self.chain_id.len() > 50 {
            return refuse("--chain-id must have 1 to 50 bytes");
        }
        if self.validators == 0 || self.key_count() < self.validators {
            return refuse("--validators must be 1 or more, and --keys no fewer");
        }
        if let Some(feature) = self.key_type.missing_feature() {
            return refuse(&format!("--key-type: build with the feature `{feature}`"));
        }
        let initial = self.rules.at(Height::new(self.initial_height));
        if !initial.params.key_types.contains(&self.key_type) {
            return refuse("--key-type: name --rules that have it");
        }
        if self.initial_height == 0 {
            return refuse("--initial-height must be 1 or more");
        }
        let changes = self.churn_every > 0 || self.turnover_every > 0;
        if changes && self.app != AppKind::Kvstore {
            return refuse("--churn-every and --turnover-every need --app kvstore");
        }
        if self.turnover_every > 0
            && (self.churn_every > 0 || self.key_count() != 2 * self.validators)
        {
            return refuse(
                "--turnover-every needs twice as many keys as validators and no --churn-every",
            );
        }
        Ok(())
    }
}
