//! Responses of an application for a block.

use blocksync::ids::Height;
use blocksync::wire::proto::abci::{
    Event, EventAttribute, ExecTxResult, ResponseFinalizeBlock, ValidatorUpdate,
};
use blocksync::wire::proto::crypto::public_key::Sum;
use blocksync::wire::proto::types::ConsensusParams;
use bytes::Bytes;
use prost::Message as _;

use super::Json;

/// Stored bytes that are no response.
#[derive(Debug)]
pub struct NoResponse(prost::DecodeError);

impl std::fmt::Display for NoResponse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the response that is kept does not decode: {}", self.0)
    }
}

impl std::error::Error for NoResponse {}

/// The answer of `block_results`, out of an encoded `FinalizeBlock` response.
///
/// # Errors
/// When the bytes are no response.
pub fn block_results(json: &mut Json, height: Height, encoded: Bytes) -> Result<(), NoResponse> {
    let response = ResponseFinalizeBlock::decode(encoded).map_err(NoResponse)?;
    json.raw("{\"height\":").long(height);
    json.raw(",\"txs_results\":")
        // Go has nil slices here, so empty lists are `null` (`rpc.md` 4).
        .list_or_null(response.tx_results.iter(), tx_result);
    json.raw(",\"finalize_block_events\":")
        .list_or_null(response.events.iter(), event);
    json.raw(",\"validator_updates\":")
        .list_or_null(response.validator_updates.iter(), validator_update);
    end_of_response(json, &response);
    Ok(())
}

/// The response as events of new blocks carry it.
///
/// # Errors
/// When the bytes are no response.
pub fn finalize_response(json: &mut Json, encoded: Bytes) -> Result<(), NoResponse> {
    let response = ResponseFinalizeBlock::decode(encoded).map_err(NoResponse)?;
    json.raw("{\"events\":").list(response.events.iter(), event);
    json.raw(",\"tx_results\":")
        .list(response.tx_results.iter(), tx_result);
    json.raw(",\"validator_updates\":")
        .list(response.validator_updates.iter(), validator_update);
    end_of_response(json, &response);
    Ok(())
}

/// The members that end a response, however its lists are written.
fn end_of_response(json: &mut Json, response: &ResponseFinalizeBlock) {
    json.raw(",\"consensus_param_updates\":");
    param_updates(json, response.consensus_param_updates.as_ref());
    json.raw(",\"app_hash\":")
        .base64(&response.app_hash)
        .raw("}");
}

fn tx_result(json: &mut Json, result: &ExecTxResult) {
    json.raw("{\"code\":").number(result.code);
    json.raw(",\"data\":").base64(&result.data);
    json.raw(",\"log\":").string(&result.log);
    json.raw(",\"info\":").string(&result.info);
    json.raw(",\"gas_wanted\":").long(result.gas_wanted);
    json.raw(",\"gas_used\":").long(result.gas_used);
    json.raw(",\"events\":").list(&result.events, event);
    json.raw(",\"codespace\":")
        .string(&result.codespace)
        .raw("}");
}

fn event(json: &mut Json, event: &Event) {
    json.raw("{\"type\":").string(&event.r#type);
    json.raw(",\"attributes\":")
        .list_or_null(event.attributes.iter(), attribute)
        .raw("}");
}

fn attribute(json: &mut Json, attribute: &EventAttribute) {
    json.raw("{\"key\":").string(&attribute.key);
    json.raw(",\"value\":").string(&attribute.value);
    json.raw(",\"index\":").boolean(attribute.index).raw("}");
}

/// As Go writes a type that protobuf made: zero fields are left out.
fn validator_update(json: &mut Json, update: &ValidatorUpdate) {
    json.raw("{\"pub_key\":");
    let sum = update.pub_key.as_ref().and_then(|key| key.sum.as_ref());
    match sum {
        Some(Sum::Ed25519(key)) => sum_of(json, "Ed25519", "ed25519", key),
        Some(Sum::Secp256k1(key)) => sum_of(json, "Secp256K1", "secp256k1", key),
        Some(Sum::Bls12381(key)) => sum_of(json, "Bls12381", "bls12381", key),
        Some(Sum::Mldsa65(key)) => sum_of(json, "Mldsa65", "mldsa65", key),
        Some(Sum::Secp256k1eth(key)) => sum_of(json, "Secp256K1Eth", "secp256k1eth", key),
        None => {
            json.raw("{\"Sum\":null}");
        }
    }
    // A removal shows no power at all (`rpc.md` 2).
    if update.power != 0 {
        json.raw(",\"power\":").long(update.power);
    }
    json.raw("}");
}

fn sum_of(json: &mut Json, kind: &str, field: &str, key: &[u8]) {
    json.raw("{\"Sum\":{\"type\":\"tendermint.crypto.PublicKey_")
        .raw(kind)
        .raw("\",\"value\":{\"")
        .raw(field)
        .raw("\":")
        .base64(key)
        .raw("}}}");
}

fn param_updates(json: &mut Json, params: Option<&ConsensusParams>) {
    let Some(params) = params else {
        json.raw("null");
        return;
    };
    let mut groups: Vec<String> = Vec::new();
    // Zero members are left out, as Go does for a protobuf type; a group that is there stays.
    let numbers = |name: &str, fields: &[(&str, i128)]| {
        let fields: Vec<String> = fields
            .iter()
            .filter(|(_, value)| *value != 0)
            .map(|(name, value)| format!("\"{name}\":\"{value}\""))
            .collect();
        format!("\"{name}\":{{{}}}", fields.join(","))
    };
    if let Some(block) = &params.block {
        let fields = [
            ("max_bytes", i128::from(block.max_bytes)),
            ("max_gas", i128::from(block.max_gas)),
        ];
        groups.push(numbers("block", &fields));
    }
    if let Some(evidence) = &params.evidence {
        let age = evidence.max_age_duration.as_ref();
        let nanos = age.map_or(0, |age| {
            i128::from(age.seconds) * 1_000_000_000 + i128::from(age.nanos)
        });
        let blocks = i128::from(evidence.max_age_num_blocks);
        // gogoproto's JSON leaves zeros out, but not a zero duration: that is a message.
        let age_blocks = if blocks == 0 {
            String::new()
        } else {
            format!("\"max_age_num_blocks\":\"{blocks}\",")
        };
        let bytes = if evidence.max_bytes == 0 {
            String::new()
        } else {
            format!(",\"max_bytes\":\"{}\"", evidence.max_bytes)
        };
        groups.push(format!(
            "\"evidence\":{{{age_blocks}\"max_age_duration\":\"{nanos}\"{bytes}}}"
        ));
    }
    if let Some(validator) = &params.validator {
        let mut names = Json::new();
        if !validator.pub_key_types.is_empty() {
            names.raw("\"pub_key_types\":");
            names.list(&validator.pub_key_types, |json, name| {
                json.string(name);
            });
        }
        let names = String::from_utf8_lossy(&names.into_bytes()).into_owned();
        groups.push(format!("\"validator\":{{{names}}}"));
    }
    if let Some(version) = &params.version {
        groups.push(numbers("version", &[("app", i128::from(version.app))]));
    }
    if let Some(abci) = &params.abci {
        let height = i128::from(abci.vote_extensions_enable_height);
        groups.push(numbers(
            "abci",
            &[("vote_extensions_enable_height", height)],
        ));
    }
    json.raw("{").raw(&groups.join(",")).raw("}");
}
