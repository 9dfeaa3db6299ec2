//! Finds peers: dials from the address book, and the seeds while the book has nothing to offer.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::info;

use super::addr::PeerAddr;
use super::addrbook::NetAddr;
use super::backoff::Backoff;
use super::host::Shared;
use super::pex::{Exchange, now};

/// Interval in which the manager looks around; it does so also when addresses have come.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Dials at the same time.
const MAX_DIALS: usize = 4;
/// Interval in which the book is written, if it has changed.
const SAVE_EVERY: Duration = Duration::from_secs(60);

/// Keeps as many peers as are wanted: dials from the book, and the seeds while the book has nothing
/// to offer.
pub(super) async fn manage(shared: Arc<Shared>, exchange: Arc<Exchange>) {
    let mut seeds: Vec<Seed> = shared.config.seeds.iter().map(Seed::new).collect();
    let mut saved = Instant::now();
    while !shared.stop.is_cancelled() {
        look_around(&shared, &exchange, &mut seeds);
        if saved.elapsed() >= SAVE_EVERY {
            saved = Instant::now();
            exchange.save().await;
        }
        tokio::select! {
            () = sleep(LOOK_EVERY) => {}
            () = exchange.news.notified() => {}
            () = shared.stop.cancelled() => {}
        }
    }
    exchange.save().await;
}

struct Seed {
    peer: PeerAddr,
    backoff: Backoff,
    next: Instant,
}

impl Seed {
    fn new(peer: &PeerAddr) -> Self {
        Seed {
            peer: peer.clone(),
            backoff: Backoff::new(Duration::from_secs(30), Duration::from_secs(600)),
            next: Instant::now(),
        }
    }
}

fn look_around(shared: &Arc<Shared>, exchange: &Arc<Exchange>, seeds: &mut [Seed]) {
    let named: HashSet<_> = shared.config.peers.iter().map(PeerAddr::id).collect();
    let connected = shared.registry.peers();
    let by_exchange = connected
        .iter()
        .filter(|p| p.dialled && !named.contains(&p.id))
        .count();
    let dialling = shared.dialling();
    let under_way = dialling.iter().filter(|id| !named.contains(id)).count();
    let wanted = shared
        .config
        .max_outbound
        .saturating_sub(by_exchange + under_way);

    let mut except: HashSet<_> = connected.iter().map(|p| p.id).collect();
    except.extend(dialling);
    // Configured peers have a task of their own that dials them.
    except.extend(named);
    let mut offered = false;
    for _ in 0..wanted.min(MAX_DIALS.saturating_sub(under_way)) {
        let Some(addr) = exchange.book().pick(&except, now()) else {
            break;
        };
        offered = true;
        // The registry hears of the dial only when its task runs, so it is left out here.
        except.insert(addr.id);
        exchange.book().tried(addr.id, now());
        spawn_dial(shared, addr.peer(), Some(addr));
    }
    // Seeds serve many nodes. They are asked only when the book has nobody left to try.
    if wanted == 0 || offered {
        return;
    }
    let due = |s: &&mut Seed| Instant::now() >= s.next && !except.contains(&s.peer.id());
    if let Some(seed) = seeds.iter_mut().find(due) {
        seed.next = Instant::now() + seed.backoff.failed(false);
        info!(seed = %seed.peer, "asking a seed for peers");
        spawn_dial(shared, seed.peer.clone(), NetAddr::from_peer(&seed.peer));
    }
}

fn spawn_dial(shared: &Arc<Shared>, peer: PeerAddr, place: Option<NetAddr>) {
    if shared.registry.banned(peer.id()).is_some() || !shared.config.allows(peer.id()) {
        return;
    }
    let task = shared.clone();
    // Before the task begins, so that the next look does not dial the same node.
    let ticket = shared.ticket(peer.id());
    shared.tasks.spawn(async move {
        if let Err(e) = task.dial(&peer, Some(ticket)).await {
            task.failed(&peer.to_string(), false, &e);
            if let Some((exchange, place)) = task.exchange.as_ref().zip(place) {
                exchange.book().failed(place, e.is_lasting());
            }
        }
    });
}
