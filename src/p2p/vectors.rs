//! The vectors that CometBFT's own code made, for the tests of this module.

use serde_json::Value;

/// The cases of one group.
pub(crate) fn group(name: &str) -> Vec<Value> {
    let text = include_str!("../../tests/data/vectors-p2p.json");
    let mut all: Value = serde_json::from_str(text).unwrap();
    match all[name]["cases"].take() {
        Value::Array(cases) => cases,
        other => panic!("no cases of {name}: {other}"),
    }
}

/// A field that holds hexadecimal.
pub(crate) fn hex_field(case: &Value, name: &str) -> Vec<u8> {
    hex::decode(
        case[name]
            .as_str()
            .unwrap_or_else(|| panic!("{name} in {case}")),
    )
    .unwrap()
}

/// Bytes written as a list of `{hex}` and `{fill, len}`.
pub(crate) fn segments(list: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    for part in list.as_array().unwrap() {
        if let Some(text) = part["hex"].as_str() {
            out.extend(hex::decode(text).unwrap());
        } else {
            let fill = hex::decode(part["fill"].as_str().unwrap()).unwrap()[0];
            let len = usize::try_from(part["len"].as_u64().unwrap()).unwrap();
            out.resize(out.len() + len, fill);
        }
    }
    out
}
