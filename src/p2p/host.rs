//! Hosts a connection from its raw stream to its end: handshakes, a seat, a link for the service.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpStream, lookup_host};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::addr::{ListenAddr, PeerAddr, accepted_id};
use super::budget::Budget;
use super::channels::{Framing, blocksync_channel, pex_channel};
use super::config::Config;
use super::contacts::{ContactState, Contacts};
use super::counters::{Counters, Reason};
use super::drive::{Carrier, ConnError, Side, drive};
use super::node_info::NodeInfo;
use super::pex::{Acquaintance, Exchange};
use super::registry::{Candidate, HalfOpen, Registry};
use super::stream::{StreamReader, StreamWriter};
use super::upgrade::{Terms, UpgradeError, upgrade};
use super::usage::Usage;
use crate::ids::PeerId;
use crate::link::Link;
use crate::sparing::{Sparingly, info_if};

/// A name's addresses that are tried, at most.
const MAX_ADDRESSES: usize = 4;

/// State that all connections of a switch share.
#[derive(Debug)]
pub(super) struct Shared {
    pub config: Config,
    pub ours: NodeInfo,
    pub registry: Registry,
    pub counters: Arc<Counters>,
    /// Budget of the unfinished messages of all connections.
    pub budget: Arc<Budget>,
    pub links: mpsc::Sender<Link>,
    pub stop: CancellationToken,
    pub tasks: TaskTracker,
    /// Peer exchange, when it is on.
    pub exchange: Option<Arc<Exchange>>,
    /// Ids that are being dialled from the book, and how often.
    pub dialling: Mutex<HashMap<PeerId, usize>>,
    pub lines: Sparingly,
    pub listening: Vec<ListenAddr>,
    pub contacts: Contacts,
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
    /// It has proven its id.
    authenticated: bool,
    framing: Framing,
    /// For peer exchange, when both speak it.
    acquaintance: Option<Acquaintance>,
    /// Until it has its seat.
    ticket: Option<Ticket>,
    reader: StreamReader<OwnedReadHalf>,
    writer: StreamWriter<OwnedWriteHalf>,
}

/// A peer over a plain link, which proves nothing about it. Each gets an id of its own, so that
/// none can take another's seat.
fn plain_candidate(dialled: Option<PeerId>, address: String, from: Option<IpAddr>) -> Candidate {
    Candidate {
        id: dialled.unwrap_or_else(accepted_id),
        address,
        from,
        dialled: dialled.is_some(),
        version: String::new(),
        moniker: String::new(),
        breaks_ties: false,
        usage: Arc::default(),
    }
}

impl Shared {
    /// Takes a connection that has come in, and drives it to its end.
    pub(super) async fn receive(
        self: &Arc<Self>,
        stream: TcpStream,
        from: SocketAddr,
        plain: bool,
        half_open: HalfOpen,
    ) -> Result<(), UpgradeError> {
        let visitor = Visitor {
            stream,
            address: from.to_string(),
            dialled: None,
            plain,
            half_open: Some(half_open),
            ticket: None,
        };
        // How long it stood matters for dialling again only, which a peer that came does by itself.
        self.serve(visitor).await.map(drop)
    }

    /// Makes a connection and drives it to its end. Gives how long it stood. The ticket is given
    /// back when the handshake is over.
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
    pub(super) async fn until_free(&self, id: PeerId) {
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

    /// Counts and tells a connection that did not come about. Others than configured peers decide
    /// themselves how often they fail: of theirs the log takes as many as it has room for.
    pub(super) fn failed(&self, peer: &str, is_configured: bool, error: &UpgradeError) {
        self.counters.ended(error.reason());
        let room = is_configured || self.lines.may();
        info_if!(room, peer, "no connection: {error}");
    }

    /// From a raw connection to its end. Gives how long it stood.
    async fn serve(self: &Arc<Self>, visitor: Visitor) -> Result<Duration, UpgradeError> {
        let address = visitor.address.clone();
        let came = visitor.dialled.is_none();
        let guest = tokio::select! {
            guest = self.greet(visitor) => guest?,
            () = self.stop.cancelled() => return Ok(Duration::ZERO),
        };
        let begun = Instant::now();
        let id = guest.candidate.id;
        let (why, makes_room) = self.host(guest).await?;
        // To make room is no failure: the contact keeps its last error, and nobody is refused.
        if makes_room {
            self.counters.ended(Reason::MadeRoom);
            let room = !came || self.lines.may();
            info_if!(room, peer = %id, address, "connection ended: idle, and another wants its place");
            return Ok(begun.elapsed());
        }
        self.counters.ended(why.reason());
        if why.is_breach() {
            self.registry.ban(id, self.config.breach_back_off);
        }
        self.contacts
            .failed(id, &format!("connection ended: {why}"));
        let room = !came || self.lines.may();
        info_if!(room, peer = %id, address, "connection ended: {why}");
        Ok(begun.elapsed())
    }

    async fn greet(&self, visitor: Visitor) -> Result<Guest, UpgradeError> {
        let _half_open = visitor.half_open; // until the handshake is done
        // Requests are small, and each waits for an answer: Nagle's algorithm would hold them back.
        let _ = visitor.stream.set_nodelay(true);
        // It has none when the peer has hung up already, which the handshake is about to find.
        let remote = visitor.stream.peer_addr().ok();
        let from = remote
            .map(|r| r.ip().to_canonical())
            .filter(|_| visitor.dialled.is_none());
        let (reader, writer) = visitor.stream.into_split();
        if visitor.plain {
            let candidate = plain_candidate(visitor.dialled, visitor.address, from);
            return Ok(Guest {
                candidate,
                authenticated: false,
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
            // Where we dialled, the place is proven, whatever its NodeInfo says.
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
            // CometBFT keeps the connection that it registered first (`protocol.md` 2.5).
            breaks_ties: up.info.version().starts_with("blocksync-"),
            usage: Arc::default(),
        };
        Ok(Guest {
            candidate,
            authenticated: true,
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

    /// Gives a guest a seat and a link, and drives it to its end. Tells why it ended, and whether
    /// it made room for another.
    async fn host(self: &Arc<Self>, guest: Guest) -> Result<(ConnError, bool), UpgradeError> {
        let Guest {
            candidate,
            authenticated,
            framing,
            acquaintance,
            ticket,
            reader,
            writer,
        } = guest;
        let (mut link, end) = Link::pair(candidate.id, candidate.address.clone());
        link.bans = Some(self.registry.bans().clone());
        link.configured = Some(self.contacts.subscribe());
        link.authenticated = authenticated;
        link.extended = framing != Framing::Packets;
        link.comet = !link.extended;
        let hangup = end.hangup.clone();
        let usage = candidate.usage.clone();
        let room = candidate.dialled || self.lines.may();
        info_if!(
            room, peer = %candidate.id, address = candidate.address, dialled = candidate.dialled,
            version = candidate.version, moniker = candidate.moniker, ?framing, "connected"
        );
        let id = candidate.id;
        // The seat comes before the link: the service never sees two connections of one id.
        let seat = self.registry.seat(candidate, hangup.clone()).await?;
        // Seated, the id counts as connected and no longer as being dialled.
        drop(ticket);
        self.contacts.set(id, ContactState::Connected);
        tokio::select! {
            biased;
            () = self.stop.cancelled() => return Ok((ConnError::Local, false)),
            // The service takes links one at a time. While it is busy the connection waits here, in
            // its seat, and nothing of it is read.
            sent = self.links.send(link) => if sent.is_err() {
                return Ok((ConnError::Local, false));
            },
        }
        Counters::add(&self.counters.established, 1);
        let carrier = self.carrier(framing, acquaintance.is_some(), usage);
        let side = self.exchange_with(acquaintance);
        let driving = drive(reader, writer, carrier, end, side);
        tokio::pin!(driving);
        let why = tokio::select! {
            why = &mut driving => why,
            () = self.stop.cancelled() => {
                // Both tasks are left to end by themselves, so that the last message reaches the
                // service.
                hangup.cancel();
                driving.await
            }
        };
        Ok((why, seat.makes_room()))
    }

    /// The two channels of peer exchange, and what speaks on them.
    fn exchange_with(&self, who: Option<Acquaintance>) -> Option<Side> {
        let (who, exchange) = who.zip(self.exchange.clone())?;
        let (inbox, from) = mpsc::channel(8);
        let (to, outbox) = mpsc::channel(4);
        let talk = async move {
            let end = exchange.speak(who, from, to).await;
            end.map_err(|why| why.to_string())
        };
        Some(Side {
            inbox,
            outbox,
            talk: Box::pin(talk),
        })
    }

    fn carrier(&self, framing: Framing, pex: bool, usage: Arc<Usage>) -> Carrier {
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
            usage,
        }
    }
}

/// The port that a peer says it listens at, if it says so of the address that it comes from, or of
/// none.
fn listens(info: &NodeInfo, from: SocketAddr) -> Option<u16> {
    let (host, port) = info.net_address().ok()?;
    let ip: IpAddr = host.parse().ok()?;
    // A port at another address would make us dial a third party on a stranger's word.
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
    // Bounded: a name with a thousand addresses would keep the dialler busy for hours.
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
