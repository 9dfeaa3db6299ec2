//! The chain state between two blocks, and its transition by a block (`protocol.md` 6.2, 6.3).

use std::sync::Arc;

use bytes::Bytes;

use super::block::Block;
use super::execution::{FinalizeResponse, ParamsUpdate, UpdateKey, ValidatorUpdate, results_hash};
use super::genesis::Genesis;
use super::key::{KeyError, PublicKey};
use super::merkle;
use super::params::{ConsensusParams, ParamsError};
use super::rules::Rules;
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
    /// The height at which `next_validators` changed last (CometBFT's
    /// `LastHeightValidatorsChanged`).
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

/// Why there is no next state. All but `Height` are an application's or a genesis' fault and halt
/// the node: no block is to blame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// The block is not the next one.
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
        /// The validator's key.
        key: UpdateKey,
        /// The given value.
        power: i64,
    },
    /// The updates cannot be applied to the set.
    #[error("height {height}: validator updates: {why}")]
    Updates {
        /// The block's height.
        height: Height,
        /// The error.
        why: SetError,
    },
    /// The params cannot be applied.
    #[error("height {height}: consensus params: {why}")]
    Params {
        /// The block's height.
        height: Height,
        /// The error.
        why: ParamsError,
    },
    /// The number of results is not that of the transactions.
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
    /// The state before the first block (`protocol.md` 6.2). `now` is taken for the genesis time
    /// where genesis has none. The sets are empty when genesis names no validators: then
    /// `InitChain` must.
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
            // The set of the second height is that of the first, one round of proposing later.
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

    /// The state with the version that the application stated in `Info`, before the first block
    /// (`protocol.md` 7.3).
    #[must_use]
    pub fn with_app_info(&self, app_version: u64) -> Self {
        ChainState {
            version_app: app_version,
            ..self.clone()
        }
    }

    /// The state with what the application returned from `InitChain` (`protocol.md` 6.2):
    /// validators and an app hash where it gave any, the params' groups that it gave. With any
    /// params at all, even none of the groups, the params' version of the application is the one in
    /// force. As in CometBFT, neither limits nor key types of the params are checked here. The
    /// rules are those of the first block.
    ///
    /// # Errors
    /// When there are still no validators, or those given have unusable keys or make no set.
    pub fn with_init_chain(
        &self,
        params: Option<&ParamsUpdate>,
        validators: &[ValidatorUpdate],
        app_hash: &[u8],
        rules: &Rules,
    ) -> Result<Self, StateError> {
        let mut next = self.clone();
        if !validators.is_empty() {
            let members = validators.iter().map(|update| {
                let key = usable_key(&update.key, self.last_height, rules)?;
                Ok(Validator::new(key, update.power))
            });
            let members = members.collect::<Result<Vec<_>, StateError>>()?;
            let set = ValidatorSet::new(members).map_err(StateError::InitChain)?;
            // One increment more than the first set, as CometBFT stores it (`protocol.md` 5.6).
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
        // An empty hash leaves the genesis' own in place (`protocol.md` 6.2).
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

    /// The set that signs a height, of those that are known: the last block's, the next one's, and
    /// that of the one after.
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

    /// The state after `block`, whose execution returned `response` (`protocol.md` 6.3). The block
    /// must have been held against this state before. Updates returned here sign two heights up;
    /// params hold from the next height. The rules are those of the block's height.
    ///
    /// # Errors
    /// When the block is not the next one, or the response breaks a rule: results that do not match
    /// the transactions, keys of a type not allowed or not supported, powers or changes that make
    /// no set, params out of range.
    pub fn advance(
        &self,
        block: &Block,
        id: BlockId,
        response: &FinalizeResponse,
        rules: &Rules,
    ) -> Result<Self, StateError> {
        let height = block.header.height;
        // A block of another height is refused below, by its height.
        if height == self.next_height() && response.tx_results.len() != block.txs.len() {
            return Err(StateError::Results {
                height,
                expected: block.txs.len(),
                found: response.tx_results.len(),
            });
        }
        let (updates, params) = (&response.validator_updates, response.param_updates.as_ref());
        let results = results_hash(&response.tx_results);
        let app_hash = response.app_hash.clone();
        self.advanced(block, id, (updates, params), (results, app_hash), rules)
    }

    /// The state after `block` if its execution changes neither validators nor params and gives
    /// these results, their root and the application's hash, as the header above it names them: so
    /// a restart finds the state without the response. Whether the application names params all the
    /// same is taken to be as it was with the block before.
    ///
    /// # Errors
    /// When the block is not the next one.
    pub fn advance_unchanged(
        &self,
        block: &Block,
        id: BlockId,
        results: (Hash, Bytes),
        rules: &Rules,
    ) -> Result<Self, StateError> {
        // Naming params, even unchanged ones, moves the height at which they last changed.
        let named = self.last_height_params_changed == self.next_height();
        let params = named.then(ParamsUpdate::default);
        self.advanced(block, id, (&[], params.as_ref()), results, rules)
    }

    /// Whether `after`, made of `response` by `advance`, is what `advance_unchanged` makes of these
    /// results.
    #[must_use]
    pub fn advances_unchanged(
        &self,
        response: &FinalizeResponse,
        after: &Self,
        (results_hash, app_hash): (Hash, &[u8]),
    ) -> bool {
        let named = self.last_height_params_changed == self.next_height();
        let version_app = if named {
            self.params.version_app
        } else {
            self.version_app
        };
        response.validator_updates.is_empty()
            && response.param_updates.is_some() == named
            && (after.last_results_hash, &after.app_hash[..]) == (results_hash, app_hash)
            && (&after.params, after.version_app) == (&self.params, version_app)
    }

    fn advanced(
        &self,
        block: &Block,
        id: BlockId,
        (updates, param_updates): (&[ValidatorUpdate], Option<&ParamsUpdate>),
        (last_results_hash, app_hash): (Hash, Bytes),
        rules: &Rules,
    ) -> Result<Self, StateError> {
        let height = block.header.height;
        if height != self.next_height() {
            return Err(StateError::Height {
                expected: self.next_height(),
                found: height,
            });
        }
        let next_validators = self.updated_validators(updates, height, rules)?;
        let mut params = self.params.clone();
        let mut version_app = self.version_app;
        let mut last_height_params_changed = self.last_height_params_changed;
        if let Some(update) = param_updates {
            params = (params.update(update, height, &rules.params))
                .map_err(|why| StateError::Params { height, why })?;
            // Even where the update has no version group, as in CometBFT (`protocol.md` 6.3).
            version_app = params.version_app;
            // Params hold from the next block on.
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
                // Updates of a block sign two heights above it.
                height.plus(2)
            },
            params,
            last_height_params_changed,
            version_app,
            last_results_hash,
            app_hash,
        })
    }

    /// The set two heights up: the next one with the updates applied, then incremented.
    fn updated_validators(
        &self,
        updates: &[ValidatorUpdate],
        height: Height,
        rules: &Rules,
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
            let key = usable_key(key, height, rules)?;
            // A validator that leaves signs nothing any more; only some versions ask for its type.
            let needs_type = power > 0 || rules.removals_need_allowed_type;
            if needs_type && !self.params.allows_key_type(key.type_name()) {
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
        // Each block is one round of proposing, by the new total (`protocol.md` 5.6).
        Ok(changed.increment(1))
    }
}

/// The key of an update, if it can be used at all.
fn usable_key(key: &UpdateKey, height: Height, rules: &Rules) -> Result<PublicKey, StateError> {
    let why = match key {
        UpdateKey::Known(key) => return Ok(key.clone()),
        UpdateKey::Invalid(kind, bytes) if rules.params.keys_may_be_compressed => {
            match PublicKey::maybe_compressed(*kind, bytes) {
                Ok(key) => return Ok(key),
                Err(why) => why,
            }
        }
        UpdateKey::Invalid(kind, bytes) => match PublicKey::new(*kind, bytes) {
            Ok(key) => return Ok(key), // kept by a build that lacked the type
            Err(why) => why,
        },
        UpdateKey::Unsupported(name) => KeyError::unknown_type(name),
    };
    Err(StateError::UpdateKey {
        height,
        why: why.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::execution::TxResult;
    use crate::chain::testing::{
        empty_block, group, hash, hex, int, list, name, ok, params, params_update, text,
        validator_update, validators,
    };

    const ID: BlockId = BlockId::new(Hash([1; 32]), 1, Hash([2; 32]));

    const RULES: &Rules = &Rules::COMET_038;

    fn member(byte: u8, power: i64) -> Validator {
        Validator::new(PublicKey::Ed25519([byte; 32]), power)
    }

    /// The state of a chain of two validators whose last block was at `height`.
    fn after(height: u64) -> ChainState {
        let genesis = Genesis {
            genesis_time: Some(Time::ZERO),
            chain_id: "test".into(),
            initial_height: Height::new(height),
            params: ConsensusParams::default(),
            validators: vec![member(1, 10), member(2, 20)],
            app_hash: Bytes::new(),
            app_state: Bytes::new(),
        };
        let first = ChainState::from_genesis(&genesis, Time::ZERO).unwrap();
        let block = empty_block(Height::new(height), Time::ZERO);
        first
            .advance(&block, ID, &FinalizeResponse::default(), RULES)
            .unwrap()
    }

    fn next_block(state: &ChainState) -> Block {
        empty_block(
            state.next_height(),
            Time {
                seconds: 9,
                nanos: 9,
            },
        )
    }

    #[test]
    fn validator_updates_are_gos() {
        for case in group("validator_updates") {
            let members = validators(&case["next_validators"]);
            let priorities = list(&case["next_priorities"]).iter().map(int).collect();
            let mut state = after(10);
            let next = ValidatorSet::from_stored(members, priorities).unwrap();
            state.next_validators = Arc::new(next);
            let types = list(&case["pub_key_types"]).iter();
            state.params.pub_key_types = types.map(|t| text(t).to_owned()).collect();
            let updates = list(&case["updates"]).iter();
            let response = FinalizeResponse {
                validator_updates: updates
                    .map(|u| validator_update(&hex(&u["proto"])))
                    .collect(),
                ..FinalizeResponse::default()
            };
            let found = state.advance(&next_block(&state), ID, &response, RULES);
            assert_eq!(found.is_ok(), ok(case), "{}: {found:?}", name(case));
            let Ok(found) = found else { continue };
            let set = &found.next_validators;
            let each = set.iter().zip(set.priorities());
            let each = each.map(|(v, p)| (v.address.to_string(), v.power, *p));
            let one = |v: &serde_json::Value| (text(&v[0]).to_owned(), int(&v[1]), int(&v[2]));
            assert!(
                each.eq(list(&case["result"]).iter().map(one)),
                "{}: {set:?}",
                name(case)
            );
            assert_eq!(Some(set.hash()), hash(&case["result_hash"]));
            let proposer = set.proposer().unwrap().address.to_string();
            assert_eq!(proposer, text(&case["result_proposer"]), "{}", name(case));
        }
    }

    #[test]
    fn param_updates_are_gos() {
        for case in group("params_update") {
            let mut state = after(int(&case["height"]) as u64 - 1);
            state.params = params(&case["params"]);
            state.version_app = case["version_app_before"].as_u64().unwrap();
            let update = case["update_proto"].as_str();
            let response = FinalizeResponse {
                param_updates: update.map(|u| params_update(&hex::decode(u).unwrap())),
                ..FinalizeResponse::default()
            };
            let found = state.advance(&next_block(&state), ID, &response, RULES);
            assert_eq!(found.is_ok(), ok(case), "{}: {found:?}", name(case));
            let Ok(found) = found else { continue };
            assert_eq!(found.params, params(&case["result"]));
            let version = case["version_app_after"].as_u64();
            assert_eq!(Some(found.version_app), version, "{}", name(case));
            let changed = if update.is_some() { 11 } else { 9 };
            assert_eq!(found.last_height_params_changed, Height::new(changed));
        }
    }

    #[test]
    fn sets_move_down_as_blocks_are_applied() {
        let state = after(10);
        let response = FinalizeResponse {
            tx_results: vec![TxResult::default()],
            validator_updates: vec![ValidatorUpdate {
                key: UpdateKey::Known(member(3, 1).key),
                power: 5,
            }],
            app_hash: Bytes::from_static(b"after 11"),
            ..FinalizeResponse::default()
        };
        let mut block = next_block(&state);
        block.txs.extend([b"tx"]);
        let next = state.advance(&block, ID, &response, RULES).unwrap();
        assert_eq!(next.last_height, Height::new(11));
        assert_eq!(
            (next.last_block_id, next.last_block_time),
            (ID, block.header.time)
        );
        assert_eq!(next.app_hash, "after 11");
        assert_eq!(next.last_results_hash, results_hash(&response.tx_results));
        assert_eq!(next.last_height_validators_changed, Height::new(13));
        // The change signs two heights up, not before.
        let len = |height| next.set_for(Height::new(height)).map(|set| set.len());
        assert_eq!(
            [10, 11, 12, 13, 14].map(len),
            [None, Some(2), Some(2), Some(3), None]
        );
        assert!(Arc::ptr_eq(&next.validators, &state.next_validators));
        assert!(Arc::ptr_eq(
            next.last_validators.as_ref().unwrap(),
            &state.validators
        ));
        let third = next
            .advance(&next_block(&next), ID, &FinalizeResponse::default(), RULES)
            .unwrap();
        assert_eq!(third.last_height_validators_changed, Height::new(13));
        assert!(third.next_validators.same_members(&next.next_validators));
        assert_eq!(
            third.next_validators.priorities(),
            next.next_validators.increment(1).priorities()
        );
    }

    #[test]
    fn a_response_that_does_not_fit_is_refused() {
        let state = after(10);
        let mut block = next_block(&state);
        block.txs.extend([b""]);
        let error = |block: &Block, response: &FinalizeResponse| {
            let refused = state.advance(block, ID, response, RULES);
            refused.unwrap_err().to_string()
        };
        let none = FinalizeResponse::default();
        assert_eq!(
            error(&block, &none),
            "height 11: the application returned 0 results for 1 transactions"
        );
        let early = empty_block(Height::new(10), Time::ZERO);
        assert_eq!(error(&early, &none), "block at height 10, expected 11");
        let update = |key, power| FinalizeResponse {
            validator_updates: vec![ValidatorUpdate { key, power }],
            ..FinalizeResponse::default()
        };
        block.txs = Default::default();
        assert_eq!(
            error(
                &block,
                &update(UpdateKey::Unsupported("bls12381".into()), 1)
            ),
            "height 11: validator update: unsupported key type bls12381"
        );
        assert_eq!(
            error(
                &block,
                &update(UpdateKey::new("ed25519", vec![7; 31].into()), 0)
            ),
            "height 11: validator update: ed25519 key of 31 bytes, expected 32"
        );
        let secp = UpdateKey::Known(PublicKey::Secp256k1([2; 33]));
        assert!(error(&block, &update(secp, 1)).contains("secp256k1 is not allowed"));
        // A member whose type the params have dropped: 1.0 does not let it go.
        let mut dropped = state.clone();
        dropped.params.pub_key_types = vec![PublicKey::SECP256K1.to_owned()];
        let removal = update(UpdateKey::Known(member(1, 1).key), 0);
        dropped.advance(&block, ID, &removal, RULES).unwrap();
        let kept = dropped.advance(&block, ID, &removal, &Rules::COMET_100);
        assert!(
            kept.unwrap_err()
                .to_string()
                .contains("ed25519 is not allowed")
        );
    }

    #[test]
    fn init_chain_replaces_what_it_names() {
        let genesis = Genesis {
            genesis_time: None,
            chain_id: "test".into(),
            initial_height: Height::new(5),
            params: ConsensusParams::default(),
            validators: Vec::new(),
            app_hash: Bytes::from_static(b"genesis"),
            app_state: Bytes::new(),
        };
        let state = ChainState::from_genesis(&genesis, Time::ZERO).unwrap();
        assert!(state.validators.is_empty());
        let state = state.with_app_info(7);
        assert_eq!(
            state.with_init_chain(None, &[], b"", RULES).unwrap_err(),
            StateError::NoValidators
        );
        let update = |power| ValidatorUpdate {
            key: UpdateKey::Known(member(4, 1).key),
            power,
        };
        let kept = state
            .with_init_chain(None, &[update(3)], b"", RULES)
            .unwrap();
        assert_eq!((kept.version_app, &kept.app_hash[..]), (7, &b"genesis"[..]));
        assert_eq!(kept.set_for(Height::new(5)).unwrap().total_power(), 3);
        assert_eq!(kept.set_for(Height::new(6)).unwrap().total_power(), 3);
        assert_eq!(
            (kept.set_for(Height::new(4)), kept.set_for(Height::new(0))),
            (None, None)
        );
        // Any params at all, and the version is theirs.
        let params = ParamsUpdate {
            block: Some((1, 2)),
            ..ParamsUpdate::default()
        };
        let changed = state
            .with_init_chain(Some(&params), &[update(3)], b"app", RULES)
            .unwrap();
        assert_eq!(
            (changed.version_app, &changed.app_hash[..]),
            (0, &b"app"[..])
        );
        assert_eq!(
            (changed.params.block_max_bytes, changed.params.block_max_gas),
            (1, 2)
        );
        assert!(
            state
                .with_init_chain(None, &[update(0)], b"", RULES)
                .is_err()
        );
        assert!(
            state
                .with_init_chain(None, &[update(3), update(3)], b"", RULES)
                .is_err()
        );
    }
}
