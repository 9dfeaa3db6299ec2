//! The switch: listens, dials, and hands the service a [`Link`] for each peer that has passed.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use super::addr::{ListenAddr, PeerAddr};
use super::backoff::Backoff;
use super::budget::Budget;
use super::channels::{BLOCKSYNC, PEX};
use super::config::Config;
use super::contacts::{Contact, ContactState, Contacts};
use super::counters::Counters;
use super::finder;
use super::host::Shared;
use super::node_info::NodeInfo;
use super::pex::Exchange;
use super::registry::{Limits, PeerSummary, Registry};
use super::upgrade::UpgradeError;
use crate::ids::PeerId;
use crate::link::Link;
use crate::sparing::Sparingly;

/// A running switch. Dropping it stops nothing: cancel the token it was started with.
#[derive(Clone, Debug)]
pub struct Switch {
    shared: Arc<Shared>,
}

impl Switch {
    /// Binds all listeners, then starts to accept and to dial. Links go to `links`; while nobody
    /// takes them, no further peer is brought in. Cancelling `stop` ends every connection and every
    /// task.
    ///
    /// Cancel safety: cancel safe; nothing runs before it returns.
    ///
    /// # Errors
    /// When an address cannot be listened at.
    pub async fn start(
        config: Config,
        links: mpsc::Sender<Link>,
        stop: CancellationToken,
    ) -> io::Result<Switch> {
        let mut listeners = Vec::new();
        // All are bound before the first task runs, so that an error leaves nothing behind.
        for at in &config.listen {
            let bound = TcpListener::bind(at.address).await;
            let listener =
                bound.map_err(|e| io::Error::new(e.kind(), format!("listen at {at}: {e}")))?;
            let address = listener.local_addr()?;
            listeners.push((listener, ListenAddr { address, ..*at }));
        }
        let listening: Vec<_> = listeners.iter().map(|(_, at)| *at).collect();
        let shared = Arc::new(Shared {
            ours: our_info(&config, &listening),
            registry: Registry::new(
                config.key.id(),
                Limits {
                    inbound: config.max_inbound,
                    per_address: config.max_inbound_per_address,
                    half_open: config.max_half_open,
                    configured: (config.peers.iter().map(PeerAddr::id))
                        .chain(config.unconditional.iter().copied())
                        .collect(),
                },
            ),
            counters: Arc::default(),
            budget: Budget::new(config.partial_bytes),
            links,
            stop,
            tasks: TaskTracker::new(),
            exchange: config.speaks_pex().then(|| Exchange::new(&config)),
            dialling: Mutex::default(),
            lines: Sparingly::default(),
            listening,
            contacts: Contacts::new(&config.unconditional),
            config,
        });
        for (listener, at) in listeners {
            info!(node = %shared.config.key.id(), "listening at {at}");
            if at.plain {
                warn!("{at} does not authenticate its peers: for trusted links and tests");
            }
            shared
                .tasks
                .spawn(accept(shared.clone(), listener, at.plain));
        }
        if let Some(exchange) = shared.exchange.clone() {
            shared.tasks.spawn(finder::manage(shared.clone(), exchange));
        }
        let switch = Switch { shared };
        // Last, when all else stands: a peer may answer at once.
        for peer in switch.shared.config.peers.clone() {
            switch.add_peer(peer);
        }
        Ok(switch)
    }

    /// Our id.
    #[must_use]
    pub fn id(&self) -> PeerId {
        self.shared.config.key.id()
    }

    /// Where we listen, with the ports that the system chose.
    #[must_use]
    pub fn listening(&self) -> &[ListenAddr] {
        &self.shared.listening
    }

    /// The counters.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// The connected peers.
    #[must_use]
    pub fn peers(&self) -> Vec<PeerSummary> {
        self.shared.registry.peers()
    }

    /// How the connections to the configured peers stand.
    #[must_use]
    pub fn contacts(&self) -> Vec<Contact> {
        self.shared.contacts.read()
    }

    /// Dials a peer from now on, and again whenever its connection has ended.
    pub fn add_peer(&self, peer: PeerAddr) {
        let shared = self.shared.clone();
        shared.contacts.add(&peer);
        self.shared.tasks.spawn(keep_connected(shared, peer));
    }

    /// Ends a peer's connection and refuses the id, in both directions, for a while. The service
    /// does so by itself, over [`Link::bans`].
    pub fn ban(&self, peer: PeerId, period: Duration) {
        info!(%peer, "banned for {period:?}");
        self.shared.registry.ban(peer, period);
    }

    /// Waits until everything has ended, within two seconds after the token was cancelled, and
    /// tells what was counted.
    ///
    /// Cancel safety: cancel safe.
    pub async fn stopped(&self) {
        self.shared.stop.cancelled().await;
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
        info!("connections: {}", self.shared.counters.summary());
    }
}

fn our_info(config: &Config, listening: &[ListenAddr]) -> NodeInfo {
    // A plain port is no use to a node of CometBFT, which would be told it.
    let heard = listening
        .iter()
        .find(|at| !at.plain)
        .map(|at| at.address.to_string());
    // CometBFT refuses a NodeInfo without an address (`protocol.md` 2.2). The last one is nobody's.
    let address = config
        .external
        .clone()
        .or(heard)
        .unwrap_or("0.0.0.0:0".to_owned());
    let address = format!("tcp://{address}");
    let channels: &[u8] = if config.speaks_pex() {
        &[BLOCKSYNC, PEX]
    } else {
        &[BLOCKSYNC]
    };
    let info = |moniker| {
        NodeInfo::new(
            config.key.id(),
            &config.chain_id,
            moniker,
            &address,
            channels,
        )
    };
    let mut ours = info(&config.moniker);
    if ours.validate().is_err() {
        warn!(
            moniker = config.moniker,
            address, "peers would refuse this moniker or address"
        );
        ours = info("blocksync");
    }
    ours.length_prefixed = config.length_prefixed;
    ours
}

/// Takes what comes to a listener until the switch stops.
async fn accept(shared: Arc<Shared>, listener: TcpListener, plain: bool) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = shared.stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, from)) => admit(&shared, stream, from, plain),
            Err(e) => {
                warn!("accept: {e}"); // out of file descriptors, most likely
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

fn admit(shared: &Arc<Shared>, stream: TcpStream, from: SocketAddr, plain: bool) {
    Counters::add(&shared.counters.accepted, 1);
    // Refused before anything is read or allocated for it: this is all that a flood of connections
    // costs.
    let half_open = match shared.registry.knock(from.ip().to_canonical()) {
        Ok(half_open) => half_open,
        Err(e) => {
            shared.counters.ended(e.reason());
            debug!(%from, "refused: {e}");
            return;
        }
    };
    let task = shared.clone();
    let given_up = half_open.given_up.clone();
    shared.tasks.spawn(async move {
        let stop = task.stop.clone();
        let outcome = tokio::select! {
            biased;
            outcome = task.receive(stream, from, plain, half_open) => outcome,
            // Connections end by themselves at a stop, with a word to the service; what hangs is
            // cut off after a while.
            () = until_late(&stop) => Ok(()),
            () = given_up.cancelled() => Err(UpgradeError::Full("given up for a newcomer")),
        };
        if let Err(e) = outcome {
            task.failed(&from.to_string(), false, &e);
        }
    });
}

/// A moment after the stop: what has not ended by itself then is dropped.
async fn until_late(stop: &CancellationToken) {
    stop.cancelled().await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
}

/// Dials a peer for as long as the switch runs.
async fn keep_connected(shared: Arc<Shared>, peer: PeerAddr) {
    if let PeerAddr::Plain { .. } = peer {
        warn!("{peer} is not authenticated: for trusted links and tests");
    }
    let mut backoff = Backoff::new(shared.config.redial_least, shared.config.redial_most);
    let stop = shared.stop.clone();
    let work = async {
        loop {
            tokio::select! {
                () = shared.until_free(peer.id()) => {}
                () = shared.stop.cancelled() => return,
            }
            shared.contacts.set(peer.id(), ContactState::Dialling);
            let lasts = match shared.dial(&peer, None).await {
                Ok(stood) => {
                    backoff.stood(stood);
                    false
                }
                Err(e) => {
                    shared.failed(&peer.to_string(), true, &e);
                    shared.contacts.failed(peer.id(), &e.to_string());
                    e.is_lasting()
                }
            };
            // After a connection that stood, too: a peer that lets us in and hangs up would be
            // dialled without a pause (`faults.md` (f)).
            let wait = backoff.failed(lasts);
            debug!(%peer, "next attempt in {wait:?}");
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = shared.stop.cancelled() => return,
            }
        }
    };
    tokio::select! {
        biased;
        () = work => {}
        () = until_late(&stop) => {}
    }
}
