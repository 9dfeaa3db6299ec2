//! The responses of CometBFT's kvstore with the events that it makes up, two for each transaction.

use bytes::Bytes;
use prost::Message as _;

use crate::chain::execution::FinalizeResponse;
use crate::wire::convert;
use crate::wire::proto::abci::{Event, EventAttribute, ExecTxResult, ResponseFinalizeBlock};

fn attribute(key: &'static str, value: Bytes, index: bool) -> EventAttribute {
    EventAttribute {
        key: Bytes::from_static(key.as_bytes()),
        value,
        index,
    }
}

fn event(creator: &'static str, key: Bytes) -> Event {
    let works = Bytes::from_static(b"index is working");
    Event {
        r#type: Bytes::from_static(b"app"),
        attributes: vec![
            attribute("creator", Bytes::from_static(creator.as_bytes()), true),
            attribute("key", key, true),
            attribute("index_key", works.clone(), true),
            attribute("noindex_key", works, false),
        ],
    }
}

/// Go splits at each `=`: what is no pair is key and value at once.
fn events(tx: &Bytes) -> Vec<Event> {
    let at = tx.iter().position(|b| *b == b'=');
    let pair = at.map(|at| (tx.slice(..at), tx.slice(at + 1..)));
    let pair = pair.filter(|(_, value)| !value.contains(&b'='));
    let (key, value) = pair.unwrap_or_else(|| (tx.clone(), tx.clone()));
    vec![event("Cosmoshi Netowoko", key), event("Cosmoshi", value)]
}

/// The response of a block with these transactions, encoded as Go does it.
pub(super) fn encode(response: &FinalizeResponse, txs: &[Bytes]) -> Bytes {
    let result = |tx: &Bytes| ExecTxResult {
        events: events(tx),
        ..ExecTxResult::default()
    };
    let updates = response.validator_updates.iter();
    // The whole response, since stored results are served as they were
    // encoded; hashes ignore events.
    let message = ResponseFinalizeBlock {
        events: Vec::new(),
        tx_results: txs.iter().map(result).collect(),
        validator_updates: updates.map(convert::update_to_proto).collect(),
        consensus_param_updates: None,
        app_hash: response.app_hash.clone(),
    };
    message.encode_to_vec().into()
}
