//! `blocksync status`: what the store holds.

use blocksync::ids::{Hash, Height};
use blocksync::store::Store;
use serde_json::{Map, Value, json};

use super::args::Status;
use super::failure::{Exit, Failure};
use super::home::Home;

/// Prints it.
///
/// # Errors
/// When there is no store, or it is damaged.
pub fn run(args: &Status) -> Result<Exit, Failure> {
    let home = Home::at(&args.home.home);
    let fields = fields(&home)?;
    if args.json {
        println!("{}", Value::Object(fields));
    } else {
        let widest = fields.keys().map(String::len).max().unwrap_or(0);
        for (name, value) in &fields {
            println!("{name:widest$}  {}", plain(value));
        }
    }
    Ok(Exit::Reached)
}

fn fields(home: &Home) -> Result<Map<String, Value>, Failure> {
    let store = home.open_to_read()?;
    let (span, state) = (store.span()?, store.state()?);
    let key = home.node_key_if_any()?;
    let hash = |hash: Option<Hash>| hash.map_or(Value::Null, |h| json!(h.to_string()));
    let of = |get: &dyn Fn(&blocksync::chain::ChainState) -> Value| {
        state.as_ref().map_or(Value::Null, get)
    };
    let height = state.as_ref().map_or(Height::ZERO, |s| s.last_height);
    let begun = height > Height::ZERO;
    let all = [
        (
            "chain_id",
            of(&|s| json!(String::from_utf8_lossy(&s.chain_id))),
        ),
        (
            "node_id",
            key.map_or(Value::Null, |k| json!(k.id().to_string())),
        ),
        ("base", json!(span.base.get())),
        ("height", json!(height.get())),
        ("block_hash", of(&|s| hash(s.last_block_id.hash))),
        ("app_hash", of(&|s| json!(hex::encode(&s.app_hash)))),
        (
            "last_results_hash",
            of(&|s| {
                if begun {
                    hash(Some(s.last_results_hash))
                } else {
                    Value::Null
                }
            }),
        ),
        ("validators_hash", of(&|s| hash(Some(s.validators.hash())))),
        (
            "next_validators_hash",
            of(&|s| hash(Some(s.next_validators.hash()))),
        ),
    ];
    Ok(all
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect())
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
