//! What a node knows between two blocks, and how a block changes it (`comet-protocol.md` 6.2, 6.3).

use std::sync::Arc;

use bytes::Bytes;

use super::block::Block;
use super::execution::{FinalizeResponse, ParamsUpdate, UpdateKey, ValidatorUpdate, results_hash};
use super::genesis::Genesis;
use super::key::PublicKey;
use super::merkle;
use super::params::{ConsensusParams, ParamsError};
use super::time::Time;
use super::validators::{SetError, Validator, ValidatorSet};
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

/// Why there is no next state. All but `Height` are an application's or a genesis' fault and halt the node: no block is to
/// blame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// Not the next block.
    #[error("block at height {found}, expected {expected}")]
    Height {
        /// The next height.
        expected: Height,
        /// The block's.
        found: Height,
    },
    /// The genesis' validators make no set.
    #[error("validators of genesis: {0}")]
    Genesis(#[source] SetError),
    /// `InitChain`'s validators make no set.
    #[error("validators that the application returned from InitChain: {0}")]
    InitChain(#[source] SetError),
    /// Neither genesis nor `InitChain` name a validator.
    #[error("genesis has no validators and the application returned none from InitChain")]
    NoValidators,
    /// An update's key cannot be used. `height` is 0 for `InitChain`.
    #[error("height {height}: validator update: {why}")]
    UpdateKey {
        /// The block's height.
        height: Height,
        /// Names the key type.
        why: String,
    },
    /// An update's power is negative.
    #[error("height {height}: validator update: power {power} of {key:?}, expected 0 or more")]
    UpdatePower {
        /// The block's height.
        height: Height,
        /// Whose.
        key: UpdateKey,
        /// What was given.
        power: i64,
    },
    /// The updates cannot be applied to the set.
    #[error("height {height}: validator updates: {why}")]
    Updates {
        /// The block's height.
        height: Height,
        /// What is wrong.
        why: SetError,
    },
    /// The params cannot be applied.
    #[error("height {height}: consensus params: {why}")]
    Params {
        /// The block's height.
        height: Height,
        /// What is wrong.
        why: ParamsError,
    },
    /// Not one result for each transaction.
    #[error(
        "height {height}: the application returned {found} results for {expected} transactions"
    )]
    Results {
        /// The block's height.
        height: Height,
        /// Transactions in the block.
        expected: usize,
        /// Results returned.
        found: usize,
    },
}

impl ChainState {
    /// The state before the first block (`comet-protocol.md` 6.2). `now` is taken for the genesis time where genesis has none.
    /// The sets are empty when genesis names no validators: then `InitChain` must.
    ///
    /// # Errors
    /// When the validators make no set: one twice, a power below 1, or powers above the limit.
    pub fn from_genesis(genesis: &Genesis, now: Time) -> Result<Self, StateError> {
        let set = ValidatorSet::new(genesis.validators.clone()).map_err(StateError::Genesis)?;
        Ok(ChainState {
            chain_id: Bytes::copy_from_slice(genesis.chain_id.as_bytes()),
            initial_height: genesis.initial_height,
            last_height: Height::ZERO,
            last_block_id: BlockId::ZERO,
            last_block_time: genesis.genesis_time.unwrap_or(now),
            last_validators: None,
            next_validators: Arc::new(set.increment(1)),
            validators: Arc::new(set),
            last_height_validators_changed: genesis.initial_height,
            params: genesis.params.clone(),
            last_height_params_changed: genesis.initial_height,
            version_app: 0,
            last_results_hash: merkle::empty_root(),
            app_hash: genesis.app_hash.clone(),
        })
    }

    /// The state with the version that the application stated in `Info`, before the first block (`comet-protocol.md` 7.3).
    #[must_use]
    pub fn with_app_info(&self, app_version: u64) -> Self {
        ChainState {
            version_app: app_version,
            ..self.clone()
        }
    }

    /// The state with what the application returned from `InitChain` (`comet-protocol.md` 6.2): validators and an app hash where
    /// it gave any, the params' groups that it gave. With any params at all, even none of the groups, the params' version of the
    /// application is the one in force. As in CometBFT, neither limits nor key types of the params are checked here.
    ///
    /// # Errors
    /// When there are still no validators, or those given have unusable keys or make no set.
    pub fn with_init_chain(
        &self,
        params: Option<&ParamsUpdate>,
        validators: &[ValidatorUpdate],
        app_hash: &[u8],
    ) -> Result<Self, StateError> {
        let mut next = self.clone();
        if !validators.is_empty() {
            let members = validators.iter().map(|update| {
                let key = usable_key(&update.key, self.last_height)?;
                Ok(Validator::new(key, update.power))
            });
            let members = members.collect::<Result<Vec<_>, StateError>>()?;
            let set = ValidatorSet::new(members).map_err(StateError::InitChain)?;
            next.next_validators = Arc::new(set.increment(1));
            next.validators = Arc::new(set);
        }
        if next.validators.is_empty() {
            return Err(StateError::NoValidators);
        }
        if let Some(update) = params {
            next.params = self.params.replaced(update);
            next.version_app = next.params.version_app;
        }
        if !app_hash.is_empty() {
            next.app_hash = Bytes::copy_from_slice(app_hash);
        }
        next.last_results_hash = merkle::empty_root();
        Ok(next)
    }

    /// The height of the next block: the initial one, or the one above the last.
    #[must_use]
    pub fn next_height(&self) -> Height {
        if self.last_height == Height::ZERO {
            self.initial_height
        } else {
            self.last_height.next()
        }
    }

    /// The set that signs a height, of those that are known: the last block's, the next one's, and that of the one after.
    #[must_use]
    pub fn set_for(&self, height: Height) -> Option<&Arc<ValidatorSet>> {
        let next = self.next_height();
        if height == next {
            Some(&self.validators)
        } else if height == next.next() {
            Some(&self.next_validators)
        } else if height == self.last_height && height != Height::ZERO {
            self.last_validators.as_ref()
        } else {
            None
        }
    }

    /// The state after `block`, whose execution returned `response` (`comet-protocol.md` 6.3). The block must have been held
    /// against this state before. Updates returned here sign two heights up; params hold from the next height.
    ///
    /// # Errors
    /// When the block is not the next one, or the response breaks a rule: results that do not match the transactions, keys of a
    /// type not allowed or not supported, powers or changes that make no set, params out of range.
    pub fn advance(
        &self,
        block: &Block,
        id: BlockId,
        response: &FinalizeResponse,
    ) -> Result<Self, StateError> {
        let height = block.header.height;
        if height != self.next_height() {
            return Err(StateError::Height {
                expected: self.next_height(),
                found: height,
            });
        }
        if response.tx_results.len() != block.txs.len() {
            return Err(StateError::Results {
                height,
                expected: block.txs.len(),
                found: response.tx_results.len(),
            });
        }
        let updates = &response.validator_updates;
        let next_validators = self.updated_validators(updates, height)?;
        let mut params = self.params.clone();
        let mut version_app = self.version_app;
        let mut last_height_params_changed = self.last_height_params_changed;
        if let Some(update) = &response.param_updates {
            params = (params.update(update, height))
                .map_err(|why| StateError::Params { height, why })?;
            version_app = params.version_app;
            last_height_params_changed = height.next();
        }
        Ok(ChainState {
            chain_id: self.chain_id.clone(),
            initial_height: self.initial_height,
            last_height: height,
            last_block_id: id,
            last_block_time: block.header.time,
            last_validators: Some(Arc::clone(&self.validators)),
            validators: Arc::clone(&self.next_validators),
            next_validators: Arc::new(next_validators),
            last_height_validators_changed: if updates.is_empty() {
                self.last_height_validators_changed
            } else {
                height.plus(2)
            },
            params,
            last_height_params_changed,
            version_app,
            last_results_hash: results_hash(&response.tx_results),
            app_hash: response.app_hash.clone(),
        })
    }

    /// The set two heights up: the next one with the updates applied, then incremented.
    fn updated_validators(
        &self,
        updates: &[ValidatorUpdate],
        height: Height,
    ) -> Result<ValidatorSet, StateError> {
        if updates.is_empty() {
            return Ok(self.next_validators.increment(1));
        }
        let checked = updates.iter().map(|update| {
            let (key, power) = (&update.key, update.power);
            if power < 0 {
                let key = key.clone();
                return Err(StateError::UpdatePower { height, key, power });
            }
            let key = usable_key(key, height)?;
            // A removal may be of any type: what was allowed once must not stay for ever.
            if power > 0 && !self.params.allows_key_type(key.type_name()) {
                let why = format!(
                    "key type {} is not allowed by the params, which name {}",
                    key.type_name(),
                    self.params.pub_key_types.join(", ")
                );
                return Err(StateError::UpdateKey { height, why });
            }
            Ok((key, power))
        });
        let changes = checked.collect::<Result<Vec<_>, StateError>>()?;
        let changed = self.next_validators.update(&changes);
        let changed = changed.map_err(|why| StateError::Updates { height, why })?;
        Ok(changed.increment(1))
    }
}

/// The key of an update, if it can be used at all.
fn usable_key(key: &UpdateKey, height: Height) -> Result<PublicKey, StateError> {
    let why = match key {
        UpdateKey::Known(key) => return Ok(*key),
        UpdateKey::WrongLength(name, len) => format!("{name} key of {len} bytes"),
        UpdateKey::Unsupported(name) => format!("unsupported key type {name}"),
    };
    Err(StateError::UpdateKey { height, why })
}
