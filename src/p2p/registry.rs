//! Connected peers: one connection per id, seats and half-open places shared by networks
//! (`faults.md` N08, P28, P35).
//!
//! Identities cost nothing and addresses little. So a seat is taken and kept by use: when all are
//! taken, the least useful peer makes room for a newcomer, and a half-open place is given up to the
//! newcomer of a network that has fewer of them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::place::{host, is_routable, network};
use super::upgrade::UpgradeError;
use super::usage::Usage;
use crate::ids::PeerId;
use crate::link::Bans;

/// Two nodes of ours that dial each other at once keep the same one of the two connections; later,
/// the first one stays.
const SIMULTANEOUS: Duration = Duration::from_secs(5);

/// Handshakes of one routed host in [`KNOCKS_IN`]: each costs us some 200 µs of computing
/// (`faults.md` P29).
const KNOCKS: u32 = 20;
const KNOCKS_IN: Duration = Duration::from_secs(10);
/// Hosts whose knocks are counted, at most.
const MAX_KNOCKERS: usize = 4096;
/// A peer that has moved no block for this long is idle, and makes room when there is none.
pub(super) const IDLE: Duration = Duration::from_secs(5);
/// A handshake may be given up to a newcomer of another network after this time.
const HALF_OPEN_LEAST: Duration = Duration::from_millis(500);

const FULL: UpgradeError = UpgradeError::Full("as many inbound peers as may be");
const CROWDED: UpgradeError =
    UpgradeError::Full("as many inbound peers from one address as may be");

/// Limits on connections.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    /// Peers that came to us, those that are configured not counted.
    pub inbound: usize,
    /// Of these, from one host that the internet routes: identities cost nothing, addresses do
    /// (`faults.md` P36).
    pub per_address: usize,
    /// Connections in a handshake that came to us.
    pub half_open: usize,
    /// Peers that are configured: there is always room for them.
    pub configured: HashSet<PeerId>,
}

/// A connected peer, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerSummary {
    /// The peer's id.
    pub id: PeerId,
    /// Its address.
    pub address: String,
    /// We dialled it.
    pub dialled: bool,
    /// Its software.
    pub version: String,
    /// Its moniker.
    pub moniker: String,
    /// How long it is there.
    pub age: Duration,
    /// Bytes of block-sync messages that came from it over this connection.
    pub received: u64,
    /// Bytes of block-sync messages that went to it over this connection.
    pub sent: u64,
}

/// Facts about a peer that asks for a seat.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub id: PeerId,
    pub address: String,
    /// Where the connection comes from, if it is not we who made it.
    pub from: Option<IpAddr>,
    pub dialled: bool,
    pub version: String,
    pub moniker: String,
    /// It keeps the same one of two simultaneous connections as we do.
    pub breaks_ties: bool,
    /// Measure of the connection's use.
    pub usage: Arc<Usage>,
}

#[derive(Debug)]
struct Entry {
    serial: u64,
    candidate: Candidate,
    since: Instant,
    hangup: CancellationToken,
    ended: CancellationToken,
    /// It has been hung up to make room, and is no longer counted.
    makes_room: bool,
}

#[derive(Debug, Default)]
struct Table {
    serial: u64,
    peers: HashMap<PeerId, Entry>,
    /// Connections in a handshake, the oldest first.
    half_open: BTreeMap<u64, Handshake>,
    knocks: HashMap<IpAddr, (Instant, u32)>,
}

#[derive(Debug)]
struct Handshake {
    from: IpAddr,
    since: Instant,
    given_up: CancellationToken,
}

/// The table of connections. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Registry {
    us: PeerId,
    limits: Arc<Limits>,
    table: Arc<Mutex<Table>>,
    bans: Bans,
}

impl Registry {
    pub(super) fn new(us: PeerId, limits: Limits) -> Self {
        Registry {
            us,
            limits: Arc::new(limits),
            table: Arc::default(),
            bans: Bans::default(),
        }
    }

    /// The table of bans, to be shared with the service, which judges the peers.
    pub(super) fn bans(&self) -> &Bans {
        &self.bans
    }

    /// Nothing that holds the lock can panic half-way through a change.
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Room for a connection that has come in, before a byte of it is read. One host gets a quarter
    /// of what there is; when all of it is taken, the network with the most handshakes gives up its
    /// oldest.
    pub(super) fn knock(&self, from: IpAddr) -> Result<HalfOpen, UpgradeError> {
        let mut table = self.table();
        let (now, limits) = (Instant::now(), &self.limits);
        // A configured peer is known by its id only, so the door stays open while one is missing.
        if limits
            .configured
            .iter()
            .all(|id| table.peers.contains_key(id))
        {
            table.has_seat(from, limits)?;
        }
        if is_routable(from) && !table.may_knock(host(from), now) {
            return Err(UpgradeError::Full("too many handshakes from one address"));
        }
        table.has_half_open_place(from, limits.half_open, now)?;
        table.serial += 1;
        let (serial, given_up) = (table.serial, CancellationToken::new());
        let handshake = Handshake {
            from,
            since: now,
            given_up: given_up.clone(),
        };
        table.half_open.insert(serial, handshake);
        Ok(HalfOpen {
            registry: self.clone(),
            serial,
            given_up,
        })
    }

    /// A seat for a peer that has passed its handshakes, and the token that ends its connection.
    /// When the new connection takes the place of another one, waits for that to end.
    pub(super) async fn seat(
        &self,
        candidate: Candidate,
        hangup: CancellationToken,
    ) -> Result<Seat, UpgradeError> {
        let (seat, before) = self.take_seat(candidate, hangup)?;
        if let Some(before) = before {
            // It has been told to hang up; if it hangs instead, its successor goes ahead.
            let _ = tokio::time::timeout(Duration::from_secs(1), before.cancelled()).await;
        }
        Ok(seat)
    }

    fn take_seat(
        &self,
        candidate: Candidate,
        hangup: CancellationToken,
    ) -> Result<(Seat, Option<CancellationToken>), UpgradeError> {
        let mut table = self.table();
        let id = candidate.id;
        let mut before = None;
        if self.bans.until(id).is_some() {
            // Its key was proven before it was banned.
            return Err(UpgradeError::NotAllowed(id, "banned for now"));
        }
        // Seats are counted anew: since this one knocked, others have passed their handshakes.
        if let Some(entry) = table.peers.get(&id) {
            if !self.replaces(entry, &candidate) {
                return Err(UpgradeError::Duplicate(id));
            }
            entry.hangup.cancel();
            before = Some(entry.ended.clone());
        } else if let Some(from) = candidate.from
            && !self.limits.configured.contains(&id)
            && let Some(least_useful) = table.has_seat(from, &self.limits)?
            && let Some(entry) = table.peers.get_mut(&least_useful)
        {
            entry.makes_room = true;
            entry.hangup.cancel();
        }
        table.serial += 1;
        let entry = Entry {
            serial: table.serial,
            candidate,
            since: Instant::now(),
            hangup,
            ended: CancellationToken::new(),
            makes_room: false,
        };
        let seat = Seat {
            registry: self.clone(),
            id,
            serial: entry.serial,
            _ended: entry.ended.clone().drop_guard(),
        };
        table.peers.insert(id, entry);
        Ok((seat, before))
    }

    /// Both have just dialled each other: the connection that the smaller id has dialled stays, and
    /// the other side decides the same.
    fn replaces(&self, there: &Entry, new: &Candidate) -> bool {
        let ours_is_smaller = self.us < new.id;
        new.breaks_ties
            && there.candidate.breaks_ties
            && there.candidate.dialled != new.dialled
            && new.dialled == ours_is_smaller
            && there.since.elapsed() < SIMULTANEOUS
    }

    /// The token that is cancelled when the connection of this id ends; `None` when there is none.
    pub(super) fn connected(&self, id: PeerId) -> Option<CancellationToken> {
        self.table().peers.get(&id).map(|e| e.ended.clone())
    }

    /// The connected peers, in no order.
    pub(super) fn peers(&self) -> Vec<PeerSummary> {
        let summary = |e: &Entry| {
            let (received, sent) = e.candidate.usage.bytes();
            PeerSummary {
                id: e.candidate.id,
                address: e.candidate.address.clone(),
                dialled: e.candidate.dialled,
                version: e.candidate.version.clone(),
                moniker: e.candidate.moniker.clone(),
                age: e.since.elapsed(),
                received,
                sent,
            }
        };
        self.table().peers.values().map(summary).collect()
    }

    /// Refuses an id for a while, not shorter than it is refused already, and ends its connection.
    pub(super) fn ban(&self, id: PeerId, period: Duration) {
        self.bans.ban(id, period);
        if let Some(entry) = self.table().peers.get(&id) {
            entry.hangup.cancel();
        }
    }

    /// Until when an id is banned.
    pub(super) fn banned(&self, id: PeerId) -> Option<Instant> {
        self.bans.until(id)
    }
}

impl Table {
    /// Peers that came to us and count against the limit.
    fn inbound<'a>(&'a self, limits: &'a Limits) -> impl Iterator<Item = (&'a Entry, IpAddr)> {
        let counts = |e: &&Entry| !e.makes_room && !limits.configured.contains(&e.candidate.id);
        let entries = self.peers.values().filter(counts);
        entries.filter_map(|e| Some((e, e.candidate.from?)))
    }

    /// Whether there is a seat for somebody from this address, and the peer that has to leave it
    /// first, if any.
    fn has_seat(&self, from: IpAddr, limits: &Limits) -> Result<Option<PeerId>, UpgradeError> {
        let of_host = self
            .inbound(limits)
            .filter(|(_, ip)| host(*ip) == host(from));
        if is_routable(from) && of_host.count() >= limits.per_address {
            return Err(CROWDED);
        }
        if self.inbound(limits).count() < limits.inbound {
            return Ok(None);
        }
        self.least_useful(from, limits).map(Some).ok_or(FULL)
    }

    /// The peer that makes room for a newcomer: idle, of those that never gave us a block before
    /// the others, of the most crowded network, the youngest. A network that is ahead of the
    /// newcomer's by two seats gives way at once, the others after [`IDLE`].
    fn least_useful(&self, newcomer: IpAddr, limits: &Limits) -> Option<PeerId> {
        let mut crowds: HashMap<IpAddr, usize> = HashMap::new();
        for (_, ip) in self.inbound(limits) {
            *crowds.entry(network(ip)).or_default() += 1;
        }
        let crowd = |ip: IpAddr| crowds.get(&network(ip)).copied().unwrap_or(0);
        let gives_way = |e: &Entry, ip: IpAddr| {
            let usage = &e.candidate.usage;
            usage.idle() >= IDLE || (!usage.has_moved() && crowd(ip) >= crowd(newcomer) + 2)
        };
        let least = self
            .inbound(limits)
            .filter(|(e, ip)| gives_way(e, *ip))
            .max_by_key(|(e, ip)| {
                let gave = e.candidate.usage.gave();
                (!gave, crowd(*ip), e.since, e.serial)
            });
        least.map(|(e, _)| e.candidate.id)
    }

    /// Makes sure that one more connection may be in its handshake.
    fn has_half_open_place(
        &mut self,
        from: IpAddr,
        most: usize,
        now: Instant,
    ) -> Result<(), UpgradeError> {
        let of_host = self
            .half_open
            .values()
            .filter(|h| host(h.from) == host(from));
        // At least four, where a quarter of a small limit would be none.
        if of_host.count() >= (most / 4).max(4) {
            return Err(UpgradeError::Full(
                "as many half-open connections from one address as may be",
            ));
        }
        if self.half_open.len() < most {
            return Ok(());
        }
        let mut crowds: HashMap<IpAddr, usize> = HashMap::new();
        for handshake in self.half_open.values() {
            *crowds.entry(network(handshake.from)).or_default() += 1;
        }
        // Someone has to go: the oldest handshake of the most crowded network. A newcomer of that
        // network itself replaces one only after it had its time.
        let ours = crowds.get(&network(from)).copied().unwrap_or(0);
        let most_crowded = crowds.values().copied().max().unwrap_or(0);
        let gives_up = |h: &Handshake| {
            let crowd = crowds.get(&network(h.from)).copied().unwrap_or(0);
            crowd == most_crowded && (crowd > ours || now - h.since >= HALF_OPEN_LEAST)
        };
        let oldest = self.half_open.iter().find(|(_, h)| gives_up(h));
        let Some(serial) = oldest.map(|(serial, _)| *serial) else {
            return Err(UpgradeError::Full(
                "as many half-open connections as may be",
            ));
        };
        if let Some(handshake) = self.half_open.remove(&serial) {
            handshake.given_up.cancel();
        }
        Ok(())
    }

    /// Counts a knock. When too many addresses knock at once to be counted, those beyond are not.
    fn may_knock(&mut self, from: IpAddr, now: Instant) -> bool {
        // Only then: it looks at every entry.
        if self.knocks.len() >= MAX_KNOCKERS {
            self.knocks.retain(|_, (since, _)| now - *since < KNOCKS_IN);
        }
        if self.knocks.len() >= MAX_KNOCKERS && !self.knocks.contains_key(&from) {
            return true;
        }
        let (since, count) = self.knocks.entry(from).or_insert((now, 0));
        if now - *since >= KNOCKS_IN {
            (*since, *count) = (now, 0);
        }
        *count = count.saturating_add(1);
        *count <= KNOCKS
    }
}

/// A connection in its handshake; its place is given back when it is dropped.
#[derive(Debug)]
pub(super) struct HalfOpen {
    registry: Registry,
    serial: u64,
    /// Cancelled when the place goes to another newcomer.
    pub(super) given_up: CancellationToken,
}

impl Drop for HalfOpen {
    fn drop(&mut self) {
        self.registry.table().half_open.remove(&self.serial);
    }
}

/// A peer's place in the table; given back when dropped.
#[derive(Debug)]
pub(super) struct Seat {
    registry: Registry,
    id: PeerId,
    serial: u64,
    _ended: tokio_util::sync::DropGuard,
}

impl Seat {
    /// Whether the peer was hung up to make room for another.
    pub(super) fn makes_room(&self) -> bool {
        let table = self.registry.table();
        let entry = table.peers.get(&self.id);
        entry.is_some_and(|e| e.serial == self.serial && e.makes_room)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut table = self.registry.table();
        // A newer connection of the same id may sit here by now.
        if table
            .peers
            .get(&self.id)
            .is_some_and(|e| e.serial == self.serial)
        {
            table.peers.remove(&self.id);
        }
    }
}

#[cfg(test)]
#[path = "registry_tests.rs"]
mod tests;
