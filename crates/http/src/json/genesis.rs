//! The genesis document, as CometBFT writes it again.

use blocksync::chain::{Genesis, Time};

use super::{Dialect, Json, chain, compact};

/// The document: `file` is what `genesis` was read from, since names of validators are nowhere
/// else.
pub fn genesis(json: &mut Json, genesis: &Genesis, file: &[u8], dialect: Dialect) {
    let names = names(file);
    json.raw("{\"genesis_time\":")
        .time(genesis.genesis_time.unwrap_or(Time::ZERO));
    json.raw(",\"chain_id\":")
        .string(genesis.chain_id.as_bytes());
    json.raw(",\"initial_height\":")
        .long(genesis.initial_height);
    json.raw(",\"consensus_params\":");
    chain::consensus_params(json, &genesis.params, dialect);
    // Go leaves the list out when it is empty, and the application's state as well (`omitempty`).
    if !genesis.validators.is_empty() {
        json.raw(",\"validators\":");
        let members = genesis.validators.iter().enumerate();
        json.list(members, |json, (index, validator)| {
            json.raw("{\"address\":").hex(&validator.address.0);
            json.raw(",\"pub_key\":");
            chain::public_key(json, &validator.key);
            json.raw(",\"power\":").long(validator.power);
            // By place: CometBFT keeps the file's order in the document.
            let name = names.get(index).map_or("", String::as_str);
            json.raw(",\"name\":").string(name.as_bytes()).raw("}");
        });
    }
    json.raw(",\"app_hash\":").hex(&genesis.app_hash);
    if !genesis.app_state.is_empty() {
        json.raw(",\"app_state\":");
        compact(json, &genesis.app_state);
    }
    json.raw("}");
}

fn names(file: &[u8]) -> Vec<String> {
    #[derive(serde::Deserialize)]
    struct Named {
        #[serde(default)]
        name: Option<String>,
    }
    #[derive(serde::Deserialize)]
    struct Names {
        #[serde(default)]
        validators: Option<Vec<Named>>,
    }
    // A file that does not read has been refused before.
    let read: Option<Names> = serde_json::from_slice(file).ok();
    let list = read.and_then(|names| names.validators).unwrap_or_default();
    list.into_iter()
        .map(|named| named.name.unwrap_or_default())
        .collect()
}
