//! `blocksync sync`.

use std::sync::Arc;

use blocksync::blockfile::BlockFile;
use blocksync::chain::RuleSchedule;
use blocksync::ids::Height;
use blocksync::p2p::Switch;
use blocksync::pool::PoolConfig;
use blocksync::service::{Config, Peers, Recording, RetainResults};
use blocksync::store::Store;
use blocksync_http::Http;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::args::Sync;
use crate::auto;
use crate::console::say;
use crate::failure::{Exit, Failure};
use crate::home::Home;
use crate::http;
use crate::node;
use crate::notify;
use crate::progress;
use crate::run::{self, Goal, Patience};
use crate::signals;

/// Links that wait for the service.
const LINKS: usize = 16;

/// Syncs until the goal, a failure or a signal.
///
/// # Errors
/// The obstacle on the way to the goal.
pub(crate) async fn run(mut args: Sync) -> Result<Exit, Failure> {
    let stop = signals::stop_token()?;
    let home = Home::at(&args.home.home);
    home.refuse_foreign()?;
    let files = files(&args, &home)?;
    auto::ask(&mut args.chain, &stop).await?;
    let opened = home.open(args.chain.genesis.as_deref(), &args.chain.rules)?;
    let chain_id = opened.genesis.chain_id.clone();
    let goal = goal(&args, opened.genesis.initial_height);
    let mut network = node::switch_config(&args.network, &args.peer, &home, &chain_id)?;
    network.allow_v1 = node::are_of_v1(&opened.rules);
    let mut config = service_config(&args, &home, opened.rules.clone(), goal.last())?;
    config.app_state = Some(opened.app_state);
    let store = opened.store;
    let app = node::application(&args.chain)?;
    let service = node::start(store.clone(), app, opened.genesis, config, &stop).await?;

    let off = CancellationToken::new();
    let (links, come) = mpsc::channel(LINKS);
    let switch = match Switch::start(network, links, off.clone()).await {
        Ok(switch) => switch,
        Err(e) => {
            run::within_grace(service.stop()).await;
            return Err(Failure::failed(e.to_string()));
        }
    };
    say(&format!(
        "chain {chain_id}, at height {}",
        service.status().borrow().applied
    ));
    announce(&switch);
    tokio::spawn(introduce(come, service.peers()));
    for file in files {
        tokio::spawn(answer_from(file, service.peers()));
    }
    let http = match listen(&args, &home, &service, &switch, store.clone(), opened.rules) {
        Ok(http) => http,
        Err(failure) => {
            off.cancel();
            run::within_grace(service.stop()).await;
            return Err(failure);
        }
    };
    notify::ready();
    tokio::spawn(notify::keep_telling(service.status(), progress::brief));
    let end = run::drive(&service, goal, &stop).await;
    notify::stopping();
    drop(http);
    let end = end.with_contacts(switch.contacts());
    off.cancel();
    run::within_grace(async {
        service.stop().await;
        switch.stopped().await;
    })
    .await;
    end.report(args.json, &*store)
}

/// The end that the flags ask for, on a chain that begins at `first`.
fn goal(args: &Sync, first: Height) -> Goal {
    Goal {
        first,
        until: args.until,
        halt: args.halt_height,
        caught_up: args.exit_when_caught_up,
        trust: args.chain.trust,
        patience: Patience::SinceBlock(args.patience),
    }
}

/// Service configuration from the flags, for a chain of these rules that ends at `last`.
fn service_config(
    args: &Sync,
    home: &Home,
    rules: RuleSchedule,
    last: Option<Height>,
) -> Result<Config, Failure> {
    let mut config = node::service_config(&args.chain, rules, last)?;
    config.serve = node::serve_config(&args.network);
    config.node_key = Some(home.node_key()?.signer());
    config.evidence_dir = Some(home.evidence());
    config.serve.while_behind = args.serve_while_behind;
    config.record = recording(args);
    schedule(args, &mut config.pool);
    Ok(config)
}

/// Obstacles are known, and named, before the goal is given up.
fn schedule(args: &Sync, config: &mut PoolConfig) {
    if !args.blocks.is_empty() {
        config.prove_claims_above = u32::MAX; // a file may be damaged at its end
    }
    // Half, so that it is said that no peer is there, and a claim is doubted and named, before
    // patience ends.
    let half = u64::try_from(args.patience.as_micros() / 2).unwrap_or(u64::MAX);
    config.no_peers = config.no_peers.min(half);
    config.claim_patience = config.claim_patience.min(half);
}

/// Where the flight recorder writes.
fn recording(args: &Sync) -> Option<Recording> {
    let mut recording = args.record.clone().map(Recording::new)?;
    recording.bytes = args.record_size;
    Some(recording)
}

/// Opens the files to sync from; refuses to begin where there is nobody to sync from at all.
fn files(args: &Sync, home: &Home) -> Result<Vec<BlockFile>, Failure> {
    if args.blocks.is_empty() && !node::has_company(&args.network, &args.peer, home) {
        return Err(Failure::usage(
            "nobody to sync from: give --peer ID@HOST:PORT or plain://HOST:PORT, --seed, --address-book, --listen, or --blocks FILE",
        ));
    }
    let files = args.blocks.iter().map(|path| BlockFile::open(path, None));
    let files = files.collect::<Result<_, _>>();
    files.map_err(|flaw| Failure::failed(flaw.to_string()))
}

/// Starts the listener of `--http`.
fn listen(
    args: &Sync,
    home: &Home,
    service: &node::Service,
    switch: &Switch,
    store: Arc<dyn Store>,
    rules: RuleSchedule,
) -> Result<Option<Http>, Failure> {
    let shown = http::Shown {
        home,
        store,
        moniker: &args.network.moniker,
        rules,
        keeps_results: args.chain.retain_results != RetainResults::None,
        view: Some(service.view()),
        switch,
        serving: service.view().serving().clone(),
    };
    http::start(&args.http, shown)
}

/// Says where we listen: with port 0 only the system knows.
pub(crate) fn announce(switch: &Switch) {
    for at in switch.listening() {
        say(&format!("listening at {at}, node id {}", switch.id()));
    }
}

/// Makes a file a peer of the service. It does not come back once its link has ended.
async fn answer_from(file: BlockFile, service: Peers) {
    let (link, answering) = file.connect();
    // An error means that the service has stopped: nobody needs the file then.
    if service.add(link).await.is_ok()
        && let Ok(Some(flaw)) = answering.await
    {
        warn!("{flaw}; the file is not used any more");
    }
}

/// Gives every peer's link to the service.
pub(crate) async fn introduce(mut come: mpsc::Receiver<blocksync::link::Link>, service: Peers) {
    while let Some(link) = come.recv().await {
        if service.add(link).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use blocksync::ids::Hash;

    use super::*;
    use crate::node::tests::sync_with;

    #[test]
    fn every_flag_of_the_goal_is_passed_on() {
        let first = Height::new(5);
        let none = goal(&sync_with(&[]), first);
        assert_eq!((none.first, none.last(), none.halt), (first, None, None));
        assert_eq!((none.caught_up, none.trust), (false, None));
        assert!(matches!(none.patience, Patience::SinceBlock(t) if t == Duration::from_secs(60)));
        let trust = format!("9:{}", "cd".repeat(32));
        let args = sync_with(&[
            "--until",
            "30",
            "--halt-height",
            "20",
            "--exit-when-caught-up",
            "--trust",
            &trust,
            "--patience",
            "7s",
        ]);
        let goal = goal(&args, first);
        let heights = (goal.until, goal.halt, goal.last());
        let height = |h| Some(Height::new(h));
        assert_eq!(heights, (height(30), height(20), height(20)));
        assert!(goal.caught_up);
        assert_eq!(goal.trust, Some((Height::new(9), Hash([0xcd; 32]))));
        assert!(matches!(goal.patience, Patience::SinceBlock(t) if t == Duration::from_secs(7)));
    }

    #[test]
    fn every_flag_of_the_service_is_passed_on() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path());
        let of = |flags: &[&str]| {
            let until = Some(Height::new(8));
            service_config(&sync_with(flags), &home, RuleSchedule::default(), until).unwrap()
        };
        let (plain, scheduled) = (of(&[]), PoolConfig::default());
        assert_eq!(plain.pool.until, Some(Height::new(8)));
        assert_eq!(plain.evidence_dir, Some(home.evidence()));
        let key = home.node_key().unwrap();
        assert_eq!(plain.node_key.unwrap().id(), key.id());
        assert!(!plain.serve.while_behind && plain.record.is_none());
        assert_eq!(plain.pool.prove_claims_above, scheduled.prove_claims_above);
        // Half of 60 s is longer than the scheduler waits by itself.
        assert_eq!(plain.pool.claim_patience, scheduled.claim_patience);
        assert_eq!(plain.pool.no_peers, scheduled.no_peers);

        let all = of(&[
            "--serve-while-behind",
            "--serve-queue",
            "9",
            "--record",
            "flight",
            "--record-size",
            "1000",
            "--retain-blocks",
            "11",
            "--patience",
            "2s",
            "--blocks",
            "file",
        ]);
        assert!(all.serve.while_behind);
        assert_eq!((all.serve.queue, all.retain_blocks), (9, 11));
        let record = all.record.unwrap();
        assert_eq!((&*record.file, record.bytes), (Path::new("flight"), 1000));
        assert_eq!(all.pool.no_peers, 1_000_000);
        assert_eq!(all.pool.claim_patience, 1_000_000);
        assert_eq!(all.pool.prove_claims_above, u32::MAX);
    }
}
