//! `blocksync init`, `show-node-id` and `config`: what can be done with a home before anything
//! runs.

use serde_json::{Map, Value, json};

use crate::args::{self, Init, OfHome, ShowConfig};
use crate::config;
use crate::console::say;
use crate::failure::{Exit, Failure};
use crate::home::{Home, write_atomically};

/// Makes a home: genesis, store, key, and a `config.toml` if there is none. Existing files
/// stay.
///
/// # Errors
/// When the genesis is missing or bad, or the disk does not let us.
pub(crate) fn run(args: &Init) -> Result<Exit, Failure> {
    let home = Home::at(&args.home.home);
    // Without rules: an application need not be there yet to tell them.
    let opened = home.open_with(args.genesis.as_deref(), None)?;
    let file = home.config_file();
    if !file.exists() {
        let text = config::template(&args::command(), "sync");
        write_atomically(&file, text.as_bytes())?;
    }
    say(&format!(
        "chain {}, from height {}; the settings are in {}",
        opened.genesis.chain_id,
        opened.genesis.initial_height,
        file.display()
    ));
    outln!("{}", home.node_key()?.id());
    Ok(Exit::Reached)
}

/// Prints the node id, and makes the key if the home has none.
///
/// # Errors
/// When there is no home, or its key cannot be read or made.
pub(crate) fn show_node_id(args: &OfHome) -> Result<Exit, Failure> {
    let home = Home::at(&args.home.home);
    home.must_exist()?;
    outln!("{}", home.node_key()?.id());
    Ok(Exit::Reached)
}

/// Reads the files of a home that a person edits.
///
/// # Errors
/// The first thing that is wrong.
pub(crate) fn check(args: &OfHome) -> Result<Exit, Failure> {
    let home = Home::at(&args.home.home);
    home.must_exist()?;
    let file = home.config_file();
    let keys = config::check(&file, &args::command()).map_err(Failure::usage)?;
    let genesis = home.genesis()?;
    // Checking makes nothing, not even a key.
    let node = home.node_key_if_any()?;
    outln!("{}: {keys} keys, all understood", file.display());
    outln!("genesis.json: chain {}", genesis.chain_id);
    match node {
        Some(key) => outln!("node_key.json: node {}", key.id()),
        None => outln!("node_key.json: none yet, it is made when it is needed"),
    }
    Ok(Exit::Reached)
}

/// Prints each flag with its value and where that came from.
///
/// # Errors
/// When the file is wrong, or there is no such command.
pub(crate) fn show(args: &ShowConfig) -> Result<Exit, Failure> {
    let file = Home::at(&args.home.home).config_file();
    let all = config::settings(&file, &args::command(), &args.of).map_err(Failure::usage)?;
    if args.json {
        let object: Map<String, Value> = all
            .into_iter()
            .map(|s| (s.flag, json!({"value": s.value, "source": s.source})))
            .collect();
        outln!("{}", Value::Object(object));
        return Ok(Exit::Reached);
    }
    for setting in all {
        let value = setting.value.as_deref().unwrap_or("-");
        outln!("{:22} {value:30} {}", setting.flag, setting.source);
    }
    Ok(Exit::Reached)
}
