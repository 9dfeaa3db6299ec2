//! The switch: listens, dials, and hands the service a [`Link`] for each peer that has passed.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream, lookup_host};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use super::addr::{ListenAddr, PeerAddr};
use super::backoff::Backoff;
use super::budget::Budget;
use super::config::Config;
use super::contacts::{Contact, ContactState, Contacts};
use super::counters::Counters;
use super::drive::{
    BLOCKSYNC, Carrier, ConnError, Framing, PEX, Side, blocksync_channel, drive, pex_channel,
};
use super::node_info::NodeInfo;
use super::pex::{self, Acquaintance, Exchange};
use super::plain::accepted_id;
use super::registry::{Candidate, HalfOpen, Limits, PeerSummary, Registry};
use super::stream::{StreamReader, StreamWriter};
use super::upgrade::{Terms, UpgradeError, upgrade};
use crate::ids::PeerId;
use crate::link::Link;

/// A name's addresses that are tried, at most.
const MAX_ADDRESSES: usize = 4;

/// A running switch. Dropping it stops nothing: cancel the token it was started with.
#[derive(Clone, Debug)]
pub struct Switch {
    shared: Arc<Shared>,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub config: Config,
    pub ours: NodeInfo,
    pub registry: Registry,
    pub counters: Arc<Counters>,
    /// What unfinished messages of all connections may hold.
    budget: Arc<Budget>,
    links: mpsc::Sender<Link>,
    pub stop: CancellationToken,
    pub tasks: TaskTracker,
    /// Peer exchange, when it is on.
    pub exchange: Option<Arc<Exchange>>,
    /// Ids that are being dialled from the book, and how often.
    dialling: Mutex<HashMap<PeerId, usize>>,
    told: Sparingly,
    listening: Vec<ListenAddr>,
    contacts: Contacts,
}

impl Switch {
    /// Binds all listeners, then starts to accept and to dial. Links go to `links`; while nobody takes them, no further peer is
    /// brought in. Cancelling `stop` ends every connection and every task.
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
                },
            ),
            counters: Arc::default(),
            budget: Budget::new(config.partial_bytes),
            links,
            stop,
            tasks: TaskTracker::new(),
            exchange: config.speaks_pex().then(|| Exchange::new(&config)),
            dialling: Mutex::default(),
            told: Sparingly::default(),
            listening,
            contacts: Contacts::default(),
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
            shared.tasks.spawn(pex::manage(shared.clone(), exchange));
        }
        let switch = Switch { shared };
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

    /// What was counted.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// Who is connected now.
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

    /// Ends a peer's connection and refuses the id, in both directions, for a while.
    pub fn ban(&self, peer: PeerId, period: Duration) {
        info!(%peer, "banned for {period:?}");
        self.shared.registry.ban(peer, period);
    }

    /// Waits until everything has ended, within two seconds after the token was cancelled, and tells what was counted.
    ///
    /// Cancel safety: cancel safe.
    pub async fn stopped(&self) {
        self.shared.stop.cancelled().await;
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
        info!("connections: {}", self.shared.counters.summary());
    }
}

/// So many log lines a second and no more: strangers decide how often they fail.
#[derive(Debug, Default)]
struct Sparingly(Mutex<Option<(Instant, u32)>>);

impl Sparingly {
    const A_SECOND: u32 = 10;

    fn may(&self) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let fresh = state.filter(|(since, _)| now - *since < Duration::from_secs(1));
        let (since, n) = fresh.unwrap_or((now, 0));
        *state = Some((since, n.saturating_add(1)));
        n < Self::A_SECOND
    }
}

fn our_info(config: &Config, listening: &[ListenAddr]) -> NodeInfo {
    let heard = listening
        .iter()
        .find(|at| !at.plain)
        .map(|at| at.address.to_string());
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
    let half_open = match shared.registry.knock(from.ip().to_canonical()) {
        Ok(half_open) => half_open,
        Err(e) => {
            shared.counters.ended(e.reason());
            debug!(%from, "refused: {e}");
            return;
        }
    };
    let task = shared.clone();
    shared.tasks.spawn(async move {
        let visitor = Visitor {
            stream,
            address: from.to_string(),
            dialled: None,
            plain,
            half_open: Some(half_open),
            ticket: None,
        };
        let stop = task.stop.clone();
        tokio::select! {
            biased;
            outcome = task.serve(visitor) => match outcome {
                Ok(_) => {}
                Err(e) => task.failed(&from.to_string(), &e),
            },
            () = until_late(&stop) => {}
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
                    shared.failed(&peer.to_string(), &e);
                    shared.contacts.failed(peer.id(), &e.to_string());
                    e.is_lasting()
                }
            };
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

/// A connection without a peer yet.
struct Visitor {
    stream: TcpStream,
    address: String,
    /// Whom we dialled; `None` for one that came to us.
    dialled: Option<PeerId>,
    plain: bool,
    half_open: Option<HalfOpen>,
    ticket: Option<Ticket>,
}

/// An id that is being dialled from the book.
#[derive(Debug)]
pub(super) struct Ticket {
    shared: Arc<Shared>,
    id: PeerId,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut dialling = self
            .shared
            .dialling
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(n) = dialling.get_mut(&self.id) {
            *n -= 1;
            if *n == 0 {
                dialling.remove(&self.id);
            }
        }
    }
}

/// A peer that has passed and wants a seat.
struct Guest {
    candidate: Candidate,
    framing: Framing,
    /// For peer exchange, when both speak it.
    acquaintance: Option<Acquaintance>,
    /// Until it has its seat.
    ticket: Option<Ticket>,
    reader: StreamReader<OwnedReadHalf>,
    writer: StreamWriter<OwnedWriteHalf>,
}

impl Shared {
    /// Makes a connection and drives it to its end. Gives how long it stood. The ticket is given back when the handshake is over.
    pub(super) async fn dial(
        self: &Arc<Self>,
        peer: &PeerAddr,
        ticket: Option<Ticket>,
    ) -> Result<Duration, UpgradeError> {
        Counters::add(&self.counters.dialed, 1);
        let after = self.config.deadlines.dial;
        let stream = tokio::select! {
            stream = connect(peer, after) => stream?,
            () = self.stop.cancelled() => return Ok(Duration::ZERO),
        };
        let visitor = Visitor {
            stream,
            address: peer.host_port(),
            dialled: Some(peer.id()),
            plain: matches!(peer, PeerAddr::Plain { .. }),
            half_open: None,
            ticket,
        };
        self.serve(visitor).await
    }

    /// Notes that an id is being dialled.
    pub(super) fn ticket(self: &Arc<Self>, id: PeerId) -> Ticket {
        let mut dialling = self.dialling.lock().unwrap_or_else(PoisonError::into_inner);
        *dialling.entry(id).or_default() += 1;
        Ticket {
            shared: self.clone(),
            id,
        }
    }

    /// Ids that are being dialled from the book.
    pub(super) fn dialling(&self) -> Vec<PeerId> {
        let dialling = self.dialling.lock().unwrap_or_else(PoisonError::into_inner);
        dialling.keys().copied().collect()
    }

    /// Waits until an id is neither connected nor banned.
    async fn until_free(&self, id: PeerId) {
        loop {
            if let Some(ended) = self.registry.connected(id) {
                self.contacts.set(id, ContactState::Connected);
                ended.cancelled().await;
            } else if let Some(until) = self.registry.banned(id) {
                self.contacts.set(id, ContactState::Banned);
                tokio::time::sleep_until(until).await;
            } else {
                return;
            }
        }
    }

    /// Counts and tells a connection that did not come about; of a storm of them only the first of each second are told.
    pub(super) fn failed(&self, peer: &str, error: &UpgradeError) {
        self.counters.ended(error.reason());
        if self.told.may() {
            info!(peer, "no connection: {error}");
        } else {
            debug!(peer, "no connection: {error}");
        }
    }

    /// From a raw connection to its end. Gives how long it stood.
    async fn serve(self: &Arc<Self>, visitor: Visitor) -> Result<Duration, UpgradeError> {
        let address = visitor.address.clone();
        let guest = tokio::select! {
            guest = self.greet(visitor) => guest?,
            () = self.stop.cancelled() => return Ok(Duration::ZERO),
        };
        let begun = Instant::now();
        let id = guest.candidate.id;
        let why = self.host(guest).await?;
        self.counters.ended(why.reason());
        if why.is_breach() {
            self.registry.ban(id, self.config.breach_back_off);
        }
        self.contacts
            .failed(id, &format!("connection ended: {why}"));
        info!(peer = %id, address, "connection ended: {why}");
        Ok(begun.elapsed())
    }

    async fn greet(&self, visitor: Visitor) -> Result<Guest, UpgradeError> {
        let _half_open = visitor.half_open; // until the handshake is done
        let _ = visitor.stream.set_nodelay(true);
        let remote = visitor.stream.peer_addr().ok();
        let from = remote
            .map(|r| r.ip().to_canonical())
            .filter(|_| visitor.dialled.is_none());
        let (reader, writer) = visitor.stream.into_split();
        if visitor.plain {
            let candidate = Candidate {
                id: visitor.dialled.unwrap_or_else(accepted_id),
                address: visitor.address,
                from,
                dialled: visitor.dialled.is_some(),
                version: String::new(),
                moniker: String::new(),
                breaks_ties: false,
            };
            return Ok(Guest {
                candidate,
                framing: Framing::Frames { marked: false },
                acquaintance: None,
                ticket: None,
                reader: StreamReader::new(reader),
                writer: StreamWriter::new(writer),
            });
        }
        let terms = Terms {
            key: &self.config.key,
            ours: &self.ours,
            dialled: visitor.dialled,
            allow_v1: self.config.allow_v1,
            deadlines: self.config.deadlines,
        };
        let up = upgrade(reader, writer, &terms, |id| self.admissible(id)).await?;
        let dialled = visitor.dialled.is_some();
        let acquaintance = remote.filter(|_| up.pex).map(|remote| Acquaintance {
            id: up.id,
            ip: remote.ip().to_canonical(),
            listens: if dialled {
                Some(remote.port())
            } else {
                listens(&up.info, remote)
            },
            dialled,
        });
        let candidate = Candidate {
            id: up.id,
            address: visitor.address,
            from,
            dialled: visitor.dialled.is_some(),
            version: up.info.version(),
            moniker: up.info.moniker(),
            breaks_ties: up.info.version().starts_with("blocksync-"),
        };
        Ok(Guest {
            candidate,
            framing: up.framing,
            acquaintance,
            ticket: visitor.ticket,
            reader: up.reader,
            writer: up.writer,
        })
    }

    /// Whether an id may be a peer, asked as soon as it is proven.
    fn admissible(&self, id: PeerId) -> Result<(), UpgradeError> {
        if !self.config.allows(id) {
            return Err(UpgradeError::NotAllowed(id, "not on the list"));
        }
        if self.registry.banned(id).is_some() {
            return Err(UpgradeError::NotAllowed(id, "banned for now"));
        }
        Ok(())
    }

    /// Gives a guest a seat and a link, and drives it to its end.
    async fn host(self: &Arc<Self>, guest: Guest) -> Result<ConnError, UpgradeError> {
        let Guest {
            candidate,
            framing,
            acquaintance,
            ticket,
            reader,
            writer,
        } = guest;
        let (link, end) = Link::pair(candidate.id, candidate.address.clone());
        let hangup = end.hangup.clone();
        let _seat = self
            .registry
            .seat(candidate.clone(), hangup.clone())
            .await?;
        info!(
            peer = %candidate.id, address = candidate.address, dialled = candidate.dialled,
            version = candidate.version, moniker = candidate.moniker, ?framing, "connected"
        );
        drop(ticket);
        self.contacts.set(candidate.id, ContactState::Connected);
        tokio::select! {
            biased;
            () = self.stop.cancelled() => return Ok(ConnError::Local),
            sent = self.links.send(link) => if sent.is_err() {
                return Ok(ConnError::Local);
            },
        }
        Counters::add(&self.counters.established, 1);
        let carrier = self.carrier(framing, acquaintance.is_some());
        let side = self.exchange_with(acquaintance);
        let driving = drive(reader, writer, carrier, end, side);
        tokio::pin!(driving);
        tokio::select! {
            why = &mut driving => Ok(why),
            () = self.stop.cancelled() => {
                hangup.cancel();
                Ok(driving.await)
            }
        }
    }

    /// The two channels of peer exchange, and what speaks on them.
    fn exchange_with(&self, who: Option<Acquaintance>) -> Option<Side> {
        let (who, exchange) = who.zip(self.exchange.clone())?;
        let (inbox, from) = mpsc::channel(8);
        let (to, outbox) = mpsc::channel(4);
        let talk = Box::pin(async move { exchange.speak(who, from, to).await });
        Some(Side {
            inbox,
            outbox,
            talk,
        })
    }

    fn carrier(&self, framing: Framing, pex: bool) -> Carrier {
        let mut channels = vec![blocksync_channel(self.config.max_message)];
        if pex {
            channels.push(pex_channel());
        }
        Carrier {
            framing,
            channels,
            send_rate: self.config.send_rate,
            recv_rate: self.config.recv_rate,
            timers: self.config.timers,
            counters: self.counters.clone(),
            budget: self.budget.clone(),
        }
    }
}

/// The port that a peer says it listens at, if it says so of the address that it comes from, or of none.
fn listens(info: &NodeInfo, from: SocketAddr) -> Option<u16> {
    let (host, port) = info.net_address().ok()?;
    let ip: IpAddr = host.parse().ok()?;
    let same = ip.is_unspecified() || ip.to_canonical() == from.ip().to_canonical();
    (same && port != 0).then_some(port)
}

/// A TCP connection to the first of the host's addresses that answers, each within its time.
async fn connect(peer: &PeerAddr, after: Duration) -> Result<TcpStream, UpgradeError> {
    let late = || UpgradeError::Timeout {
        stage: "dial",
        after,
    };
    let host_port = peer.host_port();
    let found = timeout(5 * after, lookup_host(&host_port))
        .await
        .map_err(|_| late())?;
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in found.map_err(UpgradeError::Dial)?.take(MAX_ADDRESSES) {
        match timeout(after, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(e)) => last = e,
            Err(_) => {
                last = io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("no answer within {after:?}"),
                )
            }
        }
    }
    Err(UpgradeError::Dial(last))
}
