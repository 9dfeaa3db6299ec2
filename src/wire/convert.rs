//! Conversions between `chain`'s types and the generated protobuf messages: keys, validator sets,
//! params, and the application's answers. Blocks, commits and evidence do not pass here: see
//! `decode` and `chain::encode`.

use bytes::Bytes;
use prost::Message as _;

use super::error::{Problem, WireError};
use super::proto::{abci, crypto, types};
use crate::chain::execution::{ParamsUpdate, UpdateKey};
use crate::chain::key::KeyType;
use crate::chain::rules::ParamsGroups;
use crate::chain::{
    ConsensusParams, FinalizeResponse, PublicKey, Rules, Time, TxResult, Validator, ValidatorSet,
    ValidatorUpdate,
};

const NANOS: i64 = 1_000_000_000;

/// Reason for which a message cannot be converted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// The bytes are no message of this kind.
    #[error("{0}: {1}")]
    Protobuf(&'static str, prost::DecodeError),
    /// A field is missing or out of its range.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The members make no validator set.
    #[error("ValidatorSet: {0}")]
    Set(#[from] crate::chain::validators::SetError),
    /// Text that has to be UTF-8 is not.
    #[error("{0} is not UTF-8: {1}")]
    Text(&'static str, String),
}

fn missing(at: &'static str, what: &'static str) -> WireError {
    WireError::new(at, Problem::Missing(what))
}

/// A timestamp. (Go writes one also where it is the zero time, year 1.)
#[must_use]
pub fn time_to_proto(time: Time) -> types::Timestamp {
    types::Timestamp {
        seconds: time.seconds,
        nanos: time.nanos,
    }
}

/// A timestamp; an absent one is year 1 (`protocol.md` 0.2).
///
/// # Errors
/// Outside of years 1 to 9999, or nanoseconds outside of a second.
pub fn time_from_proto(time: Option<&types::Timestamp>) -> Result<Time, WireError> {
    let Some(time) = time else {
        return Ok(Time::ZERO);
    };
    Time::new(time.seconds, time.nanos).ok_or_else(|| {
        let expected = "within years 1 to 9999, with nanos 0 to 999999999";
        WireError::range("Timestamp", "seconds", expected, time.seconds)
    })
}

/// A duration in nanoseconds.
#[must_use]
pub fn duration_to_proto(nanos: i64) -> types::Duration {
    types::Duration {
        seconds: nanos / NANOS,
        nanos: (nanos % NANOS) as i32, // below a second
    }
}

/// A duration in nanoseconds; an absent one is zero.
///
/// # Errors
/// When seconds and nanoseconds are of unlike sign, or the sum exceeds 64 bits, which Go refuses
/// too.
pub fn duration_from_proto(duration: Option<&types::Duration>) -> Result<i64, WireError> {
    let Some(&types::Duration { seconds, nanos }) = duration else {
        return Ok(0);
    };
    let nanos = i64::from(nanos);
    let unlike = (seconds > 0 && nanos < 0) || (seconds < 0 && nanos > 0);
    let sum = seconds
        .checked_mul(NANOS)
        .and_then(|whole| whole.checked_add(nanos));
    match sum {
        Some(sum) if !unlike && nanos.abs() < NANOS => Ok(sum),
        _ => {
            let expected = "a duration of 64 bits of nanoseconds";
            Err(WireError::range("Duration", "seconds", expected, seconds))
        }
    }
}

/// A public key.
#[must_use]
pub fn key_to_proto(key: &PublicKey) -> crypto::PublicKey {
    key_message(key.key_type(), Bytes::copy_from_slice(key.as_bytes()))
}

fn key_message(kind: KeyType, bytes: Bytes) -> crypto::PublicKey {
    use crypto::public_key::Sum;
    let sum = match kind {
        KeyType::Ed25519 => Sum::Ed25519(bytes),
        KeyType::Secp256k1 => Sum::Secp256k1(bytes),
        KeyType::Bls12381 => Sum::Bls12381(bytes),
        KeyType::MlDsa65 => Sum::Mldsa65(bytes),
        KeyType::Secp256k1Eth => Sum::Secp256k1eth(bytes),
    };
    crypto::PublicKey { sum: Some(sum) }
}

/// A key as an application gives it, which may be one that we cannot use.
#[must_use]
pub fn update_key_from_proto(key: Option<&crypto::PublicKey>) -> UpdateKey {
    use crypto::public_key::Sum;
    let (kind, bytes) = match key.and_then(|key| key.sum.as_ref()) {
        Some(Sum::Ed25519(bytes)) => (KeyType::Ed25519, bytes),
        Some(Sum::Secp256k1(bytes)) => (KeyType::Secp256k1, bytes),
        Some(Sum::Bls12381(bytes)) => (KeyType::Bls12381, bytes),
        Some(Sum::Mldsa65(bytes)) => (KeyType::MlDsa65, bytes),
        Some(Sum::Secp256k1eth(bytes)) => (KeyType::Secp256k1Eth, bytes),
        // Kept, not refused: the error must name the height and the rule
        // when the update is applied.
        None => return UpdateKey::Unsupported("none".to_owned()),
    };
    UpdateKey::of_type(kind, bytes.clone())
}

/// The message of which `update_key_from_proto` makes this key. One of an unknown type is no member
/// of the oneof.
fn update_key_to_proto(key: &UpdateKey) -> crypto::PublicKey {
    match key {
        UpdateKey::Known(key) => key_to_proto(key),
        UpdateKey::Invalid(kind, bytes) => key_message(*kind, bytes.clone()),
        UpdateKey::Unsupported(_) => crypto::PublicKey { sum: None },
    }
}

/// A validator update, as in `InitChain`'s request and the application's responses.
#[must_use]
pub fn update_to_proto(update: &ValidatorUpdate) -> abci::ValidatorUpdate {
    abci::ValidatorUpdate {
        pub_key: Some(update_key_to_proto(&update.key)),
        power: update.power,
        ..Default::default()
    }
}

/// The same as 1.0 writes it: the key's bytes, and its type by the name that params have for it.
#[must_use]
pub fn named_update_to_proto(update: &ValidatorUpdate) -> abci::ValidatorUpdate {
    let (name, bytes) = match &update.key {
        UpdateKey::Known(key) => (key.type_name(), Bytes::copy_from_slice(key.as_bytes())),
        UpdateKey::Invalid(kind, bytes) => (kind.name(), bytes.clone()),
        UpdateKey::Unsupported(name) => (name.as_str(), Bytes::new()),
    };
    abci::ValidatorUpdate {
        pub_key: None,
        power: update.power,
        pub_key_bytes: bytes,
        pub_key_type: Bytes::copy_from_slice(name.as_bytes()),
    }
}

/// A validator update, in either form; its key is judged when it is applied.
#[must_use]
pub fn update_from_proto(update: &abci::ValidatorUpdate) -> ValidatorUpdate {
    let key = if update.pub_key.is_none() && !update.pub_key_type.is_empty() {
        // Bytes that are no UTF-8 name no key type: they become an unknown one,
        // refused when it is applied.
        let name = String::from_utf8_lossy(&update.pub_key_type);
        UpdateKey::new(&name, update.pub_key_bytes.clone())
    } else {
        update_key_from_proto(update.pub_key.as_ref())
    };
    ValidatorUpdate {
        key,
        power: update.power,
    }
}

/// Consensus params, all groups that these rules know.
#[must_use]
pub fn params_to_proto(params: &ConsensusParams, rules: &Rules) -> types::ConsensusParams {
    let groups = rules.params.groups;
    types::ConsensusParams {
        block: Some(types::BlockParams {
            max_bytes: params.block_max_bytes,
            max_gas: params.block_max_gas,
        }),
        evidence: Some(types::EvidenceParams {
            max_age_num_blocks: params.evidence_max_age_num_blocks,
            max_age_duration: Some(duration_to_proto(params.evidence_max_age_duration)),
            max_bytes: params.evidence_max_bytes,
        }),
        validator: Some(types::ValidatorParams {
            pub_key_types: params
                .pub_key_types
                .iter()
                .map(|name| Bytes::copy_from_slice(name.as_bytes()))
                .collect(),
        }),
        // 0.34 never sends this group; 0.37 and later send it even when zero (`versions.md` 3).
        version: (rules.params.version_is_sent).then_some(types::VersionParams {
            app: params.version_app,
        }),
        abci: matches!(groups, ParamsGroups::Abci | ParamsGroups::Authority).then_some(
            types::AbciParams {
                vote_extensions_enable_height: params.vote_extensions_enable_height,
            },
        ),
        // 0.40 writes the authority in InitChain even when it is empty, `32
        // 00` (`protocol.md` 5.1).
        authority_or_synchrony: match groups {
            ParamsGroups::Common | ParamsGroups::Abci => None,
            ParamsGroups::Authority => Some(authority_to_bytes(&params.authority)),
            ParamsGroups::Features => Some(synchrony_to_bytes(
                Some(params.synchrony_precision),
                Some(params.synchrony_message_delay),
            )),
        },
        feature: (groups == ParamsGroups::Features).then_some(types::FeatureParams {
            vote_extensions_enable_height: int64_value(Some(params.vote_extensions_enable_height)),
            pbts_enable_height: int64_value(Some(params.pbts_enable_height)),
        }),
    }
}

fn int64_value(value: Option<i64>) -> Option<types::Int64Value> {
    value.map(|value| types::Int64Value { value })
}

fn authority_to_bytes(authority: &Bytes) -> Bytes {
    let authority = authority.clone();
    types::AuthorityParams { authority }.encode_to_vec().into()
}

fn synchrony_to_bytes(precision: Option<i64>, message_delay: Option<i64>) -> Bytes {
    let group = types::SynchronyParams {
        precision: precision.map(duration_to_proto),
        message_delay: message_delay.map(duration_to_proto),
    };
    group.encode_to_vec().into()
}

/// Consensus params as a node stores them. All groups must be there but those that not all versions
/// have: vote extensions are from 0.38 on, the authority is 0.39's, and PBTS is 1.0's, told by the
/// group `feature`, which 1.0 always writes.
///
/// # Errors
/// A missing group, a duration out of range, or the name of a key type that is not UTF-8.
pub fn params_from_proto(params: &types::ConsensusParams) -> Result<ConsensusParams, ConvertError> {
    let at = "ConsensusParams";
    let update = params_update_from_proto(params, groups_of(params))?;
    let group = |name| missing(at, name);
    let (block_max_bytes, block_max_gas) = update.block.ok_or(group("block"))?;
    let (blocks, duration, bytes) = update.evidence.ok_or(group("evidence"))?;
    let names = update.pub_key_types.ok_or(group("validator"))?;
    let pub_key_types = names.iter().map(|name| {
        String::from_utf8(name.to_vec())
            .map_err(|_| ConvertError::Text("pub_key_types", hex::encode(name)))
    });
    Ok(ConsensusParams {
        block_max_bytes,
        block_max_gas,
        evidence_max_age_num_blocks: blocks,
        evidence_max_age_duration: duration,
        evidence_max_bytes: bytes,
        pub_key_types: pub_key_types.collect::<Result<_, _>>()?,
        version_app: update.version_app.ok_or(group("version"))?,
        // Absent means off, in all versions: zero is "never enabled".
        vote_extensions_enable_height: update.vote_extensions_enable_height.unwrap_or_default(),
        authority: update.authority.unwrap_or_default(),
        pbts_enable_height: update.pbts_enable_height.unwrap_or_default(),
        synchrony_precision: update.synchrony_precision.unwrap_or_default(),
        synchrony_message_delay: update.synchrony_message_delay.unwrap_or_default(),
    })
}

/// The groups of params that were written by a node, or by ourselves: see `params_from_proto`.
fn groups_of(params: &types::ConsensusParams) -> ParamsGroups {
    match params.feature {
        Some(_) => ParamsGroups::Features,
        // The widest of the others: 0.34 to 0.38 just have fewer of the same fields.
        None => ParamsGroups::Authority,
    }
}

/// An application's change of params: those groups that are there and that its version has.
///
/// # Errors
/// A duration out of range, or an authority or synchrony that is no message of its kind.
pub fn params_update_from_proto(
    params: &types::ConsensusParams,
    groups: ParamsGroups,
) -> Result<ParamsUpdate, WireError> {
    let evidence = match &params.evidence {
        Some(group) => Some((
            group.max_age_num_blocks,
            duration_from_proto(group.max_age_duration.as_ref())?,
            group.max_bytes,
        )),
        None => None,
    };
    let mut authority = None;
    let (mut synchrony, mut feature) = Default::default();
    match groups {
        // A node of these versions skips field 6 as unknown, so an application's
        // bytes there mean nothing.
        ParamsGroups::Common | ParamsGroups::Abci => {}
        ParamsGroups::Authority => {
            let group: Option<types::AuthorityParams> = group_six(params, "authority")?;
            // Field 6 is the authority in 0.39 and 0.40, and the group `synchrony` in 1.0.
            authority = group.map(|group| group.authority);
        }
        ParamsGroups::Features => {
            synchrony = group_six::<types::SynchronyParams>(params, "synchrony")?;
            feature = params.feature.as_ref();
        }
    }
    let synchrony = synchrony.unwrap_or_default();
    let nanos = |duration: Option<types::Duration>| match duration {
        Some(duration) => duration_from_proto(Some(&duration)).map(Some),
        None => Ok(None),
    };
    let abci = params
        .abci
        .as_ref()
        .map(|g| g.vote_extensions_enable_height);
    let height = |value: Option<&types::Int64Value>| value.map(|value| value.value);
    Ok(ParamsUpdate {
        block: params.block.as_ref().map(|g| (g.max_bytes, g.max_gas)),
        evidence,
        pub_key_types: params.validator.as_ref().map(|g| g.pub_key_types.clone()),
        version_app: params.version.as_ref().map(|g| g.app),
        vote_extensions_enable_height: match groups {
            // 0.34 and 0.37 have no vote extensions; 1.0 has their height in
            // `feature` and ignores `abci`.
            ParamsGroups::Common => None,
            ParamsGroups::Abci | ParamsGroups::Authority => abci,
            ParamsGroups::Features => {
                height(feature.and_then(|g| g.vote_extensions_enable_height.as_ref()))
            }
        },
        authority,
        pbts_enable_height: height(feature.and_then(|g| g.pbts_enable_height.as_ref())),
        synchrony_precision: nanos(synchrony.precision)?,
        synchrony_message_delay: nanos(synchrony.message_delay)?,
    })
}

/// Group 6, whose kind the version says.
fn group_six<M: prost::Message + Default>(
    params: &types::ConsensusParams,
    what: &'static str,
) -> Result<Option<M>, WireError> {
    let Some(bytes) = &params.authority_or_synchrony else {
        return Ok(None);
    };
    let decoded = M::decode(&bytes[..]);
    decoded
        .map(Some)
        .map_err(|_| missing("ConsensusParams", what))
}

/// The message of a change of params, for our own storage. It is read back by the rules that it was
/// made under, which this does not know: the height of vote extensions is written for both.
#[must_use]
pub fn params_update_to_proto(update: &ParamsUpdate) -> types::ConsensusParams {
    let (precision, delay) = (update.synchrony_precision, update.synchrony_message_delay);
    let has_features = [precision, delay, update.pbts_enable_height]
        .iter()
        .any(Option::is_some);
    let extensions = update.vote_extensions_enable_height;
    types::ConsensusParams {
        block: update
            .block
            .map(|(max_bytes, max_gas)| types::BlockParams { max_bytes, max_gas }),
        evidence: update
            .evidence
            .map(
                |(max_age_num_blocks, duration, max_bytes)| types::EvidenceParams {
                    max_age_num_blocks,
                    max_age_duration: Some(duration_to_proto(duration)),
                    max_bytes,
                },
            ),
        validator: update
            .pub_key_types
            .clone()
            .map(|pub_key_types| types::ValidatorParams { pub_key_types }),
        version: update.version_app.map(|app| types::VersionParams { app }),
        // The extensions' height stands in `feature` in 1.0 and here before it (`versions.md` 3.3).
        // A change of nothing else may be of either.
        abci: extensions
            .filter(|_| !has_features)
            .map(|height| types::AbciParams {
                vote_extensions_enable_height: height,
            }),
        authority_or_synchrony: match &update.authority {
            Some(authority) if !has_features => Some(authority_to_bytes(authority)),
            _ => has_features.then(|| synchrony_to_bytes(precision, delay)),
        },
        feature: (has_features || extensions.is_some()).then(|| types::FeatureParams {
            vote_extensions_enable_height: int64_value(extensions),
            pbts_enable_height: int64_value(update.pbts_enable_height),
        }),
    }
}

/// Encoded consensus params, as a node of these rules stores them.
#[must_use]
pub fn params_to_bytes(params: &ConsensusParams, rules: &Rules) -> Bytes {
    params_to_proto(params, rules).encode_to_vec().into()
}

/// Stored consensus params.
///
/// # Errors
/// As `params_from_proto`, or bytes that are none.
pub fn params_from_bytes(bytes: &[u8]) -> Result<ConsensusParams, ConvertError> {
    let at = "ConsensusParams";
    let params =
        types::ConsensusParams::decode(bytes).map_err(|e| ConvertError::Protobuf(at, e))?;
    params_from_proto(&params)
}

/// A validator set as CometBFT stores it: members in order with their priorities, and the proposer;
/// without the total power, which it leaves out too. An empty set is an empty message.
#[must_use]
pub fn set_to_proto(set: &ValidatorSet) -> types::ValidatorSet {
    let member = |validator: &Validator, priority: i64| types::Validator {
        address: Bytes::copy_from_slice(&validator.address.0),
        pub_key: Some(key_to_proto(&validator.key)),
        voting_power: validator.power,
        proposer_priority: priority,
    };
    let members = set.iter().zip(set.priorities());
    let proposer = set.proposer().map(|proposer| {
        // A set's proposer is a member of it, so the default is never taken.
        let index = set.by_address(&proposer.address).map_or(0, |found| found.0);
        member(proposer, set.priorities()[index])
    });
    types::ValidatorSet {
        validators: members.map(|(v, &priority)| member(v, priority)).collect(),
        proposer,
        total_voting_power: 0,
    }
}

/// A stored validator set: order, priorities and proposer as they stand there.
///
/// # Errors
/// Keys that we cannot use, addresses that are not their keys', a proposer that is no member, or
/// what makes no set.
pub fn set_from_proto(set: &types::ValidatorSet) -> Result<ValidatorSet, ConvertError> {
    let at = "ValidatorSet";
    let mut members = Vec::with_capacity(set.validators.len());
    let mut priorities = Vec::with_capacity(set.validators.len());
    for validator in &set.validators {
        let UpdateKey::Known(key) = update_key_from_proto(validator.pub_key.as_ref()) else {
            return Err(missing(at, "key of a type and length that we know").into());
        };
        let member = Validator::new(key, validator.voting_power);
        // A stored set of another address would count votes for the wrong validator.
        if member.address.0 != validator.address[..] {
            return Err(missing(at, "address that is its key's").into());
        }
        members.push(member);
        priorities.push(validator.proposer_priority);
    }
    // As stored, without rescaling: priorities must stay equal to Go's for the proposers to come.
    let restored = ValidatorSet::from_stored(members, priorities)?;
    let Some(proposer) = &set.proposer else {
        return Ok(restored);
    };
    let index = restored
        .iter()
        .position(|member| member.address.0 == proposer.address[..])
        .ok_or(missing(at, "proposer among its members"))?;
    Ok(restored.with_proposer(index))
}

/// An encoded validator set, for storage.
#[must_use]
pub fn set_to_bytes(set: &ValidatorSet) -> Bytes {
    set_to_proto(set).encode_to_vec().into()
}

/// A stored validator set.
///
/// # Errors
/// As `set_from_proto`, or bytes that are none.
pub fn set_from_bytes(bytes: &[u8]) -> Result<ValidatorSet, ConvertError> {
    let at = "ValidatorSet";
    let set = types::ValidatorSet::decode(bytes).map_err(|e| ConvertError::Protobuf(at, e))?;
    set_from_proto(&set)
}

/// `FinalizeBlock`'s response, as far as block sync uses it, by an application whose params have
/// these groups; `encoded` is left to the caller, which has the bytes.
///
/// # Errors
/// A duration out of range in the params.
pub fn finalize_response_from_proto(
    response: abci::ResponseFinalizeBlock,
    groups: ParamsGroups,
) -> Result<FinalizeResponse, WireError> {
    let results = response.tx_results.into_iter().map(|result| TxResult {
        code: result.code,
        data: result.data,
        gas_wanted: result.gas_wanted,
        gas_used: result.gas_used,
    });
    let updates = response.validator_updates.iter().map(update_from_proto);
    let params = response.consensus_param_updates.as_ref();
    Ok(FinalizeResponse {
        tx_results: results.collect(),
        validator_updates: updates.collect(),
        param_updates: params
            .map(|p| params_update_from_proto(p, groups))
            .transpose()?,
        app_hash: response.app_hash,
        // The caller sets it where `Commit` gives the hash: 0.34 and 0.37.
        app_hash_is_late: false,
        encoded: None,
    })
}

/// `FinalizeBlock`'s response, encoded for storage: as it came, where that is known.
#[must_use]
pub fn finalize_response_to_bytes(response: &FinalizeResponse) -> Bytes {
    // Encoding it anew would lose events and logs, which are served to indexers and never hashed.
    if let Some(encoded) = &response.encoded {
        return encoded.clone();
    }
    let results = response.tx_results.iter().map(|result| abci::ExecTxResult {
        code: result.code,
        data: result.data.clone(),
        gas_wanted: result.gas_wanted,
        gas_used: result.gas_used,
        ..Default::default()
    });
    let updates = response.validator_updates.iter().map(update_to_proto);
    let message = abci::ResponseFinalizeBlock {
        events: Vec::new(),
        tx_results: results.collect(),
        validator_updates: updates.collect(),
        consensus_param_updates: response.param_updates.as_ref().map(params_update_to_proto),
        app_hash: response.app_hash.clone(),
    };
    message.encode_to_vec().into()
}

/// A stored `FinalizeBlock` response.
///
/// # Errors
/// As `finalize_response_from_proto`, or bytes that are none.
pub fn finalize_response_from_bytes(
    bytes: &[u8],
    groups: ParamsGroups,
) -> Result<FinalizeResponse, ConvertError> {
    let at = "ResponseFinalizeBlock";
    let response =
        abci::ResponseFinalizeBlock::decode(bytes).map_err(|e| ConvertError::Protobuf(at, e))?;
    Ok(finalize_response_from_proto(response, groups)?)
}
