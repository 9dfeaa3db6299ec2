//! `blocksync rollback`, `compact` and `reset`: what is done to a home while nothing else uses it.

use std::fs;

use blocksync::app::Noop;
use blocksync::ids::Height;
use blocksync::store::{LmdbOptions, LmdbStore, Store, WriterLock};

use crate::args::{OfHome, Reset, Rollback};
use crate::console::say;
use crate::failure::{Exit, Failure};
use crate::home::Home;

/// Takes the chain state back by some blocks.
///
/// # Errors
/// When the store has fewer blocks than are to be taken back, a built-in application's state is in
/// it, or the home is in use.
pub(crate) fn rollback(args: &Rollback) -> Result<Exit, Failure> {
    let home = Home::at(&args.home.home);
    home.must_exist()?;
    let store = home.open_again()?.store;
    let now = store.state()?.map_or(Height::ZERO, |s| s.last_height);
    let to = Height::new(now.get().saturating_sub(args.blocks));
    // The no-op application's only record is the height, so it alone can be
    // taken back with the state.
    let app = Noop::taken_back(&*store, to)?;
    let state = store.roll_back(to, app)?;
    outln!(
        "the state is that of height {to} again, app hash {}",
        hex::encode(&state.app_hash)
    );
    say(&format!(
        "blocks {} to {now} are kept, and executed again at the next start: the application must be at height {to} then, or one above",
        to.next()
    ));
    Ok(Exit::Reached)
}

/// Gives the disk back what the database does not use.
///
/// # Errors
/// When the home is in use, by readers too, or the disk has no room for the copy.
pub(crate) fn compact(args: &OfHome) -> Result<Exit, Failure> {
    let home = Home::at(&args.home.home);
    home.must_exist()?;
    home.must_be_alone()?;
    let (before, after) = LmdbStore::compact(&home.data(), &LmdbOptions::default())?;
    outln!("the database has {after} bytes, it had {before}");
    Ok(Exit::Reached)
}

/// Removes the chain from a home; its settings, genesis, key and address book stay.
///
/// # Errors
/// When it is not confirmed, or the home is in use.
pub(crate) fn reset(args: &Reset) -> Result<Exit, Failure> {
    let home = Home::at(&args.home.home);
    home.must_exist()?;
    let data = home.data();
    if !data.exists() {
        say(&format!(
            "{} is not there: nothing to remove",
            data.display()
        ));
        return Ok(Exit::Reached);
    }
    if !args.yes {
        return Err(Failure::usage(format!(
            "this removes {} with all blocks and the state; say --yes if that is what you want",
            data.display()
        )));
    }
    home.must_be_alone()?;
    // Held until the files are gone: a sync that starts now must not open them.
    let _lock = WriterLock::take(&data)?;
    fs::remove_dir_all(&data).map_err(|e| Failure::failed(format!("{}: {e}", data.display())))?;
    outln!("{} is removed", data.display());
    Ok(Exit::Reached)
}
