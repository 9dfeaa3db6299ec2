//! What a node knows between two blocks, and how a block changes it (`comet-protocol.md` 6.2, 6.3).

use std::sync::Arc;

use bytes::Bytes;

use super::params::ConsensusParams;
use super::time::Time;
use super::validators::ValidatorSet;
use crate::ids::{BlockId, Hash, Height};

/// The chain's state after a block, or before the first.
#[derive(Clone, Debug)]
pub struct ChainState {
    /// The chain.
    pub chain_id: Bytes,
    /// The height of its first block.
    pub initial_height: Height,
    /// The last block's height; 0 before the first.
    pub last_height: Height,
    /// The last block's id; zero before the first.
    pub last_block_id: BlockId,
    /// The last block's time; the genesis time before the first.
    pub last_block_time: Time,
    /// The set that signed the last block; `None` before the first.
    pub last_validators: Option<Arc<ValidatorSet>>,
    /// The set of the next block, `last_height + 1`.
    pub validators: Arc<ValidatorSet>,
    /// The set of the one after.
    pub next_validators: Arc<ValidatorSet>,
    /// The height at which `next_validators` changed last (CometBFT's `LastHeightValidatorsChanged`).
    pub last_height_validators_changed: Height,
    /// In force for the next block.
    pub params: ConsensusParams,
    /// The height from which `params` are in force.
    pub last_height_params_changed: Height,
    /// The application's version that the next header must name.
    pub version_app: u64,
    /// Root over the last block's results.
    pub last_results_hash: Hash,
    /// The application's hash after the last block.
    pub app_hash: Bytes,
}
