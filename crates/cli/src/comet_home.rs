//! `export --comet-home` and `import --comet-home`: a stock node's databases, written and read.

use std::time::{Duration, Instant};

use blocksync::chain::{Genesis, ValidatorSet};
use blocksync::ids::Height;
use blocksync::store::{Store, StoreError};
use blocksync_comet_home::{self as comet_home, CometHome, HomeError, Imported, Progress};
use tokio_util::sync::CancellationToken;

use crate::args::{Export, Import};
use crate::console::{self, say};
use crate::failure::{Exit, Failure};
use crate::home::Home;
use crate::signals;

/// Between two lines of progress.
const EVERY: Duration = Duration::from_secs(3);

impl From<HomeError> for Failure {
    fn from(error: HomeError) -> Self {
        match error {
            HomeError::Store(StoreError::Locked(why)) => Failure::failed(why),
            HomeError::Wrong { .. } => Failure::contradiction(error.to_string()),
            _ => Failure::failed(error.to_string()),
        }
    }
}

/// Writes what the store holds into a stock node's home.
///
/// # Errors
/// When either home is in use or unfit, or a disk fails; the stock node's home is then as it was.
pub(crate) async fn export(args: &Export, dir: &std::path::Path) -> Result<Exit, Failure> {
    let stop = signals::stop_token()?;
    let comet = CometHome::open(dir)?;
    // For writing, though nothing is written: the lock keeps a sync from moving on underneath.
    let store = Home::at(&args.home.home).open_again()?.store;
    let what = comet_home::Export {
        from: args.from,
        rules: &args.rules,
    };
    let since = Instant::now();
    let mut shown = Shown::new("written", stop);
    // Minutes of reading and writing on this thread; signals are heard on the others.
    let exported = tokio::task::block_in_place(|| {
        comet_home::export(&store, &comet, &what, &mut |progress| shown.on(progress))
    })?;
    let (data, height) = (comet.data().display(), exported.height);
    say(&format!(
        "{data}: blocks {} to {height} and the state after it, {} bytes, in {:.1} s",
        exported.base,
        exported.bytes,
        since.elapsed().as_secs_f64()
    ));
    say(&application(exported.application, height));
    let validator = comet.data().join("priv_validator_state.json");
    if !validator.exists() {
        say(&format!(
            "{} is not there: the node's own `init` makes one for a node that has never signed",
            validator.display()
        ));
    }
    say(&format!(
        "as a validator: stop the old node for good, and only then copy its config/priv_validator_key.json and its latest \
         data/priv_validator_state.json into this home. An older state file, or two nodes with one key, sign twice and are slashed. \
         Nothing was changed in {}",
        validator.display()
    ));
    if comet.data().join("cs.wal").exists() {
        say(&format!(
            "move {}/cs.wal away: it is of another state",
            data
        ));
    }
    Ok(Exit::Reached)
}

/// Says how a node whose state is at `height` starts with an application at this one.
fn application(found: Option<i64>, height: Height) -> String {
    match found {
        Some(at) if at == height.to_wire() => {
            format!(
                "the application of this home is at height {at} too: the node executes no block again"
            )
        }
        Some(at) => format!(
            "the application of this home is at height {at}: the node executes the blocks up to {height} from its own store at its start"
        ),
        None => format!(
            "put the application's data (data/application.db) of height {height} beside them: at a lower height the node executes \
             the blocks between again, at a higher one it refuses to start"
        ),
    }
}

/// Makes a home of a stopped stock node's.
///
/// # Errors
/// When the node runs, its databases are damaged, of another backend, or hold no chain; our home
/// has no store then, and what was proven is kept for the next try.
pub(crate) async fn import(args: &Import, dir: &std::path::Path) -> Result<Exit, Failure> {
    let stop = signals::stop_token()?;
    let comet = CometHome::open(dir)?;
    let chain = comet_home::chain_of(&comet)?;
    let home = Home::at(&args.home.home);
    let of_node = comet.genesis_file();
    let file = args
        .chain
        .genesis
        .clone()
        // The command line first, then the node's file, then the genesis in its database.
        .or_else(|| of_node.exists().then_some(of_node));
    let started =
        home.begin_import(file.as_deref(), chain.genesis.as_deref(), &args.chain.rules)?;
    let named = (
        started.genesis.chain_id.as_bytes(),
        started.genesis.initial_height,
    );
    // Before hours of proving, which would end in a state that does not fit the genesis.
    if named != (&chain.chain_id[..], chain.initial_height) {
        return Err(Failure::failed(format!(
            "{} holds chain {} from height {}, the genesis is of {} from height {}",
            comet.data().display(),
            String::from_utf8_lossy(&chain.chain_id),
            chain.initial_height,
            started.genesis.chain_id,
            started.genesis.initial_height
        )));
    }
    let what = comet_home::Import {
        retain_blocks: args.chain.retain_blocks,
        policy: args.chain.proof.into(),
        rules: started.rules.clone(),
        trust: args.chain.trust,
        genesis_set: genesis_set(&started.genesis),
    };
    let mut shown = Shown::new("proven", stop);
    let imported = tokio::task::block_in_place(|| {
        comet_home::import(&comet, &started.store, &what, &mut |progress| {
            shown.on(progress)
        })
    })?;
    // Read before the store gets its name, which closes it.
    let span = started.store.span()?;
    home.end_import(started)?;
    tell(&imported, &comet);
    if args.json {
        let report = serde_json::json!({
            "outcome": "imported",
            "height": span.applied.get(),
            "base": span.base.get(),
            "block_hash": imported.id.hash.map(|hash| hash.to_string()),
        });
        console::print(&report.to_string());
    }
    Ok(Exit::Reached)
}

fn genesis_set(genesis: &Genesis) -> Option<ValidatorSet> {
    ValidatorSet::new(genesis.validators.clone()).ok()
}

fn tell(imported: &Imported, comet: &CometHome) {
    let (base, height) = (imported.base, imported.height);
    say(&format!(
        "{}: blocks {base} to {height} and the state after it, proven{}",
        comet.data().display(),
        if imported.from_genesis {
            " from the genesis' own validators".to_owned()
        } else {
            format!(
                "; the validator set of {base} is the home's: --trust HEIGHT:HASH holds the chain against a hash that you know"
            )
        }
    ));
    if !imported.ahead {
        say(&format!(
            "the application's hash and the set of {} are proven by the next block, the first one that is synced",
            height.plus(2)
        ));
    }
    say(&match imported.application {
        Some(at) => format!(
            "the application in the home is at height {at}: sync with it, --app tcp://HOST:PORT"
        ),
        None => format!(
            "sync with the application of that home, at height {height}: --app tcp://HOST:PORT"
        ),
    });
}

/// Lines of progress, and the word to stop.
struct Shown {
    what: &'static str,
    stop: CancellationToken,
    since: Instant,
    said: Instant,
}

impl Shown {
    fn new(what: &'static str, stop: CancellationToken) -> Self {
        let now = Instant::now();
        Shown {
            what,
            stop,
            since: now,
            said: now,
        }
    }

    fn on(&mut self, progress: Progress) -> bool {
        if self.said.elapsed() >= EVERY {
            self.said = Instant::now();
            let rate = progress.done as f64 / self.since.elapsed().as_secs_f64();
            say(&format!(
                "{} {} of {} blocks, {rate:.0} blocks/s",
                self.what, progress.done, progress.total
            ));
        }
        // `false` ends the work: an import goes on from its last batch, an export begins anew.
        !self.stop.is_cancelled()
    }
}
