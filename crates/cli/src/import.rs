//! `blocksync import`: a file of blocks is a peer like any other.

use std::path::Path;
use std::time::Duration;

use blocksync::blockfile::{BlockFile, Flaw};
use blocksync::ids::{Hash, Height};
use blocksync::store::Store;
use blocksync::wire;
use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use crate::args::Import;
use crate::auto;
use crate::comet_home;
use crate::console::say;
use crate::failure::{Exit, Failure};
use crate::home::Home;
use crate::node::{self, Service};
use crate::run::{self, End, Goal, Patience};
use crate::signals;

/// The only peer does not come back: once it is gone nothing is waited for.
const PATIENCE: Duration = Duration::from_millis(500);

/// Proves, executes and stores a file's blocks.
///
/// # Errors
/// Where the file is flawed; or whatever kept us from its end.
pub(crate) async fn run(mut args: Import) -> Result<Exit, Failure> {
    if let Some(dir) = &args.comet_home {
        return comet_home::import(&args, dir).await;
    }
    let path = args.file.as_deref().expect("clap asks for it");
    let stop = signals::stop_token()?;
    let tip_commit = args.tip_commit.as_deref().map(read_commit).transpose()?;
    // Before the home is touched: a file that is cut off makes no home.
    let file = BlockFile::open(path, tip_commit.clone()).map_err(flawed)?;
    let home = Home::at(&args.home.home);
    auto::ask(&mut args.chain, &stop).await?;
    let opened = home.open(args.chain.genesis.as_deref(), &args.chain.rules)?;
    let (first, last, provable) = (file.first(), file.last(), file.provable());
    let mut config = node::service_config(&args.chain, opened.rules, Some(provable))?;
    config.app_state = Some(opened.app_state);
    // One peer, which is there from the start or never.
    config.pool.statuses = 1;
    config.pool.no_peers = 0;
    config.pool.prove_claims_above = u32::MAX; // a file may be damaged at its end
    let initial = opened.genesis.initial_height;
    let store = opened.store;
    let app = node::application(&args.chain)?;
    let service = node::start(store.clone(), app, opened.genesis, config, &stop).await?;
    let applied = service.status().borrow().applied;
    if let Err(failure) = is_of_use(&file, initial, store.span()?.base, applied) {
        run::within_grace(service.stop()).await;
        return Err(failure);
    }
    let (mut end, flaw) = feed(&service, file, args.chain.trust, &stop).await;
    run::within_grace(service.stop()).await;
    // From the store, since blocks under way may have become durable after the last status.
    let applied = store.span()?.applied;
    if let Err(failure) = &end.result
        && failure.exit == Exit::NoPeers
    {
        let what = flaw.map_or_else(
            || refused(path, tip_commit, applied, &end),
            |flaw| flaw.to_string(),
        );
        end.result = Err(Failure::failed(format!(
            "{what}. Everything up to height {applied} is proven and kept"
        )));
    }
    if end.result.is_ok() {
        end.outcome = "caught_up";
        end.caught_up = true;
        let said = if end.status.blocks() == 0 {
            format!("nothing is new, the home is at height {applied}")
        } else {
            format!("proven up to {applied}")
        };
        say(&format!(
            "{}: blocks {first} to {last}; {said}",
            path.display()
        ));
        if provable < last {
            say(&format!(
                "block {last} is not taken: the commit that proves it is not in the file; give it with --tip-commit FILE"
            ));
        }
    }
    end.report(args.json, &*store)
}

/// Refuses a file of which nothing can be added to what is there.
fn is_of_use(
    file: &BlockFile,
    initial: Height,
    base: Height,
    applied: Height,
) -> Result<(), Failure> {
    let (name, first, last) = (file.name(), file.first(), file.last());
    // Nothing is applied before the initial height.
    let next = applied.next().max(initial);
    let why = if last < initial {
        format!("the chain begins at height {initial}: is it a file of this chain?")
    // Pruned blocks are not filled up again: blocks are only added at the top.
    } else if base > Height::ZERO && last < base {
        format!("the home holds blocks {base} to {applied}, and nothing is added below its first")
    } else if first > next {
        format!(
            "the home needs block {next} next (it has everything up to {applied}): import what is between first"
        )
    } else {
        return Ok(());
    };
    Err(Failure::failed(format!(
        "{name}: it holds blocks {first} to {last}; {why}. Nothing was imported"
    )))
}

/// Connects the file and waits until it has given everything, or the service has had enough of it.
/// Gives the flaw that ended the link, if one did.
pub(crate) async fn feed(
    service: &Service,
    file: BlockFile,
    trust: Option<(Height, Hash)>,
    stop: &CancellationToken,
) -> (End, Option<Flaw>) {
    let goal = Goal {
        first: file.first(),
        until: Some(file.provable()),
        halt: None,
        caught_up: true,
        trust,
        patience: Patience::WhileAlone(PATIENCE),
    };
    let (link, answering) = file.connect();
    let hangup = link.hangup.clone();
    // The service has just been started: it cannot have stopped.
    let _ = service.add_peer(link).await;
    let end = run::drive(service, goal, stop).await;
    // Ends the task that answers, whose result is the flaw.
    hangup.cancel();
    (end, answering.await.ok().flatten())
}

fn read_commit(path: &Path) -> Result<Bytes, Failure> {
    let failed = |why: String| Failure::failed(format!("--tip-commit {}: {why}", path.display()));
    let bytes = std::fs::read(path).map_err(|e| failed(e.to_string()))?;
    wire::decode::commit_from_bytes(&bytes)
        .map_err(|e| failed(format!("it is no encoded tendermint.types.Commit: {e}")))?;
    Ok(bytes.into())
}

fn flawed(flaw: Flaw) -> Failure {
    Failure::failed(format!("{flaw}. Nothing was imported"))
}

/// The service has refused the file: what it holds against it, and where in the file that is.
fn refused(path: &Path, tip_commit: Option<Bytes>, applied: Height, end: &End) -> String {
    let dropped = end.status.dropped.last();
    let why = dropped.map_or_else(
        || match &end.result {
            Err(failure) => failure.message.clone(),
            Ok(()) => String::new(),
        },
        |d| d.reason.to_string(),
    );
    let place = match BlockFile::open(path, tip_commit) {
        Err(flaw) => flaw.to_string(),
        // From the last applied block on, whose link to the next one may be the broken one.
        Ok(mut file) => match file.examine(applied) {
            Some(flaw) => flaw.to_string(),
            None => {
                let next = applied.next().max(file.first()).min(file.last());
                let offset = file.offset(next).unwrap_or_default();
                format!(
                    "{}: block {next} at byte offset {offset}: refused",
                    path.display()
                )
            }
        },
    };
    format!("{place}. {why}")
}
