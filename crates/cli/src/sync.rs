//! `blocksync sync`.

use blocksync::p2p::Switch;
use blocksync::service::{Event, Peers};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc};
use tokio_util::sync::CancellationToken;

use crate::args::Sync;
use crate::failure::{Exit, Failure};
use crate::home::Home;
use crate::node;
use crate::progress::say;
use crate::run::{self, Goal};
use crate::signals;

/// Links that wait for the service.
const LINKS: usize = 16;

/// Syncs until the goal, a failure or a signal.
///
/// # Errors
/// Whatever kept us from the goal.
pub(crate) async fn run(args: Sync) -> Result<Exit, Failure> {
    if args.peer.is_empty() && args.network.seed.is_empty() && args.network.listen.is_empty() {
        return Err(Failure::usage(
            "nobody to sync from: give --peer ID@HOST:PORT or plain://HOST:PORT, --seed, or --listen",
        ));
    }
    let stop = signals::stop_token()?;
    let home = Home::at(&args.home.home);
    let opened = home.open(args.chain.genesis.as_deref())?;
    let chain_id = opened.genesis.chain_id.clone();
    let first = opened.genesis.initial_height;
    let mut network = node::switch_config(&args.network, &home, &chain_id)?;
    network.peers.clone_from(&args.peer);
    let mut config = node::service_config(&args.chain, args.until);
    config.evidence_dir = Some(home.evidence());
    let patience = u64::try_from(args.patience.as_micros()).unwrap_or(u64::MAX);
    config.pool.no_peers = config.pool.no_peers.min(patience);
    let store = opened.store;
    let service = node::start(
        store.clone(),
        &args.chain.app,
        opened.genesis,
        config,
        &stop,
    )
    .await?;

    let off = CancellationToken::new();
    let (links, come) = mpsc::channel(LINKS);
    let switch = match Switch::start(network, links, off.clone()).await {
        Ok(switch) => switch,
        Err(e) => {
            service.stop().await;
            return Err(Failure::failed(e.to_string()));
        }
    };
    say(&format!(
        "chain {chain_id}, at height {}",
        service.status().borrow().applied
    ));
    announce(&switch);
    tokio::spawn(introduce(come, service.peers()));
    tokio::spawn(pass_on_bans(service.events(), switch.clone()));
    let goal = Goal {
        first,
        until: args.until,
        caught_up: args.exit_when_caught_up,
        patience: args.patience,
    };
    let end = run::drive(&service, goal, &stop).await;
    off.cancel();
    service.stop().await;
    switch.stopped().await;
    end.report(args.json, &*store)
}

/// Says where we listen: with port 0 only the system knows.
pub(crate) fn announce(switch: &Switch) {
    for at in switch.listening() {
        say(&format!("listening at {at}, node id {}", switch.id()));
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

/// Whom the service has banned, the switch does not dial or accept.
pub(crate) async fn pass_on_bans(mut events: broadcast::Receiver<Event>, switch: Switch) {
    loop {
        match events.recv().await {
            Ok(Event::PeerDropped(dropped)) => {
                if let Some(period) = dropped.ban {
                    switch.ban(dropped.peer, period);
                }
            }
            Ok(_) | Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return,
        }
    }
}
