//! `blocksync status`: what the store holds.

use blocksync::ids::{Hash, Height};
use blocksync::store::Store;
use serde::Serialize;

use crate::args::Status;
use crate::failure::{Exit, Failure};
use crate::home::Home;

/// The status, in the order in which it is shown. Hashes are of the state after `height`.
#[derive(Debug, Serialize)]
struct Shown {
    chain_id: Option<String>,
    node_id: Option<String>,
    base: u64,
    height: u64,
    block_hash: Option<String>,
    app_hash: Option<String>,
    last_results_hash: Option<String>,
    validators_hash: Option<String>,
    next_validators_hash: Option<String>,
}

/// Prints it.
///
/// # Errors
/// When there is no store, or it is damaged.
pub(crate) fn run(args: &Status) -> Result<Exit, Failure> {
    let shown = look(&Home::at(&args.home.home))?;
    if args.json {
        // Numbers and strings: they always serialise.
        outln!("{}", serde_json::to_string(&shown).unwrap_or_default());
    } else {
        print(&shown);
    }
    Ok(Exit::Reached)
}

fn look(home: &Home) -> Result<Shown, Failure> {
    let store = home.open_to_read()?;
    let (span, state) = (store.span()?, store.state()?);
    let node_id = home.node_key_if_any()?.map(|key| key.id().to_string());
    // Before the first block there is a state from genesis, but no block and no results.
    let begun = state.as_ref().filter(|s| s.last_height > Height::ZERO);
    let hash = |hash: &Hash| hash.to_string();
    Ok(Shown {
        chain_id: state
            .as_ref()
            .map(|s| String::from_utf8_lossy(&s.chain_id).into_owned()),
        node_id,
        base: span.base.get(),
        height: state.as_ref().map_or(0, |s| s.last_height.get()),
        block_hash: begun.and_then(|s| s.last_block_id.hash.as_ref().map(hash)),
        app_hash: state.as_ref().map(|s| hex::encode(&s.app_hash)),
        last_results_hash: begun.map(|s| hash(&s.last_results_hash)),
        validators_hash: state.as_ref().map(|s| hash(&s.validators.hash())),
        next_validators_hash: state.as_ref().map(|s| hash(&s.next_validators.hash())),
    })
}

fn print(shown: &Shown) {
    let number = |n: u64| Some(n.to_string());
    let lines = [
        ("chain_id", shown.chain_id.clone()),
        ("node_id", shown.node_id.clone()),
        ("base", number(shown.base)),
        ("height", number(shown.height)),
        ("block_hash", shown.block_hash.clone()),
        ("app_hash", shown.app_hash.clone()),
        ("last_results_hash", shown.last_results_hash.clone()),
        ("validators_hash", shown.validators_hash.clone()),
        ("next_validators_hash", shown.next_validators_hash.clone()),
    ];
    for (name, value) in lines {
        outln!("{name:20}  {}", value.as_deref().unwrap_or("-"));
    }
}
