//! Who is connected: one connection per id, so many inbound, so many half-open (`faults.md` N08, P28, P35).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::addrbook::is_routable;
use super::upgrade::UpgradeError;
use crate::ids::PeerId;

/// Two nodes of ours that dial each other at once keep the same one of the two connections; later, the first one stays.
const SIMULTANEOUS: Duration = Duration::from_secs(5);

/// A handshake costs us some 200 µs of computing: one routed address gets so many in [`KNOCKS_IN`] (`faults.md` P29).
const KNOCKS: u32 = 20;
const KNOCKS_IN: Duration = Duration::from_secs(10);
/// Addresses whose knocks are counted, at most.
const MAX_KNOCKERS: usize = 4096;

/// Limits on connections.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Peers that came to us.
    pub inbound: usize,
    /// Of these, from one address that the internet routes: identities cost nothing, addresses do (`faults.md` P36).
    pub per_address: usize,
    /// Connections in a handshake that came to us.
    pub half_open: usize,
}

/// A connected peer, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerSummary {
    /// Who.
    pub id: PeerId,
    /// Where.
    pub address: String,
    /// We dialled it.
    pub dialled: bool,
    /// Its software.
    pub version: String,
    /// Its moniker.
    pub moniker: String,
    /// How long it is there.
    pub age: Duration,
}

/// What is known of a peer that asks for a seat.
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
}

#[derive(Debug)]
struct Entry {
    serial: u64,
    candidate: Candidate,
    since: Instant,
    hangup: CancellationToken,
    ended: CancellationToken,
}

#[derive(Debug, Default)]
struct Table {
    serial: u64,
    peers: HashMap<PeerId, Entry>,
    half_open: HashMap<IpAddr, usize>,
    knocks: HashMap<IpAddr, (Instant, u32)>,
    banned: HashMap<PeerId, Instant>,
}

/// The table of connections. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Registry {
    us: PeerId,
    limits: Limits,
    table: Arc<Mutex<Table>>,
}

impl Registry {
    pub(super) fn new(us: PeerId, limits: Limits) -> Self {
        Registry {
            us,
            limits,
            table: Arc::default(),
        }
    }

    /// Nothing that holds the lock can panic half-way through a change.
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Room for a connection that has come in, before a byte of it is read. One address gets a quarter of what there is.
    pub(super) fn knock(&self, from: IpAddr) -> Result<HalfOpen, UpgradeError> {
        let mut table = self.table();
        if table.inbound() >= self.limits.inbound {
            return Err(UpgradeError::Full("as many inbound peers as may be"));
        }
        if is_routable(from) && table.inbound_from(from) >= self.limits.per_address {
            return Err(UpgradeError::Full(
                "as many inbound peers from one address as may be",
            ));
        }
        if is_routable(from) && !table.may_knock(from, Instant::now()) {
            return Err(UpgradeError::Full("too many handshakes from one address"));
        }
        if table.half_open.values().sum::<usize>() >= self.limits.half_open {
            return Err(UpgradeError::Full(
                "as many half-open connections as may be",
            ));
        }
        let count = table.half_open.entry(from).or_default();
        if *count >= (self.limits.half_open / 4).max(4) {
            return Err(UpgradeError::Full(
                "as many half-open connections from one address as may be",
            ));
        }
        *count += 1;
        Ok(HalfOpen {
            registry: self.clone(),
            from,
        })
    }

    /// A seat for a peer that has passed its handshakes, and the token that ends its connection. When the new connection takes the
    /// place of another one, waits for that to end.
    pub(super) async fn seat(
        &self,
        candidate: Candidate,
        hangup: CancellationToken,
    ) -> Result<Seat, UpgradeError> {
        let (seat, before) = self.take_seat(candidate, hangup)?;
        if let Some(before) = before {
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
        if let Some(entry) = table.peers.get(&id) {
            if !self.replaces(entry, &candidate) {
                return Err(UpgradeError::Duplicate(id));
            }
            entry.hangup.cancel();
            before = Some(entry.ended.clone());
        } else if !candidate.dialled && table.inbound() >= self.limits.inbound {
            return Err(UpgradeError::Full("as many inbound peers as may be"));
        }
        table.serial += 1;
        let entry = Entry {
            serial: table.serial,
            candidate,
            since: Instant::now(),
            hangup,
            ended: CancellationToken::new(),
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

    /// Both have just dialled each other: the connection that the smaller id has dialled stays, and the other side decides the same.
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

    /// Who is connected, in no order.
    pub(super) fn peers(&self) -> Vec<PeerSummary> {
        let summary = |e: &Entry| PeerSummary {
            id: e.candidate.id,
            address: e.candidate.address.clone(),
            dialled: e.candidate.dialled,
            version: e.candidate.version.clone(),
            moniker: e.candidate.moniker.clone(),
            age: e.since.elapsed(),
        };
        self.table().peers.values().map(summary).collect()
    }

    /// Refuses an id for a while, not shorter than it is refused already, and ends its connection.
    pub(super) fn ban(&self, id: PeerId, period: Duration) {
        let mut table = self.table();
        let now = Instant::now();
        table.banned.retain(|_, until| *until > now);
        let until = table.banned.entry(id).or_insert(now);
        *until = (now + period).max(*until);
        if let Some(entry) = table.peers.get(&id) {
            entry.hangup.cancel();
        }
    }

    /// Until when an id is banned.
    pub(super) fn banned(&self, id: PeerId) -> Option<Instant> {
        let until = self.table().banned.get(&id).copied();
        until.filter(|until| *until > Instant::now())
    }
}

impl Table {
    fn inbound(&self) -> usize {
        self.peers.values().filter(|e| !e.candidate.dialled).count()
    }

    /// Counts a knock. When too many addresses knock at once to be counted, those beyond are not.
    fn may_knock(&mut self, from: IpAddr, now: Instant) -> bool {
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

    fn inbound_from(&self, ip: IpAddr) -> usize {
        let same = |e: &&Entry| e.candidate.from == Some(ip);
        self.peers.values().filter(same).count()
    }
}

/// A connection in its handshake; given back when dropped.
#[derive(Debug)]
pub(super) struct HalfOpen {
    registry: Registry,
    from: IpAddr,
}

impl Drop for HalfOpen {
    fn drop(&mut self) {
        let mut table = self.registry.table();
        if let Some(count) = table.half_open.get_mut(&self.from) {
            *count -= 1;
            if *count == 0 {
                table.half_open.remove(&self.from);
            }
        }
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

impl Drop for Seat {
    fn drop(&mut self) {
        let mut table = self.registry.table();
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
mod tests {
    use super::*;

    fn registry(us: u8) -> Registry {
        let limits = Limits {
            inbound: 2,
            per_address: 1,
            half_open: 16,
        };
        Registry::new(PeerId([us; 20]), limits)
    }

    fn candidate(id: u8, dialled: bool) -> Candidate {
        Candidate {
            id: PeerId([id; 20]),
            address: String::new(),
            from: (!dialled).then_some(IpAddr::from([id, id, id, id])),
            dialled,
            version: String::new(),
            moniker: String::new(),
            breaks_ties: true,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn both_sides_keep_the_same_one_of_two_simultaneous_connections() {
        let (low, high) = (registry(1), registry(2));
        let token = CancellationToken::new;
        // the connection that 1 dialled came second at both
        let (theirs, ours) = (token(), token());
        let first = low.seat(candidate(2, false), theirs.clone()).await.unwrap();
        let first_at_high = high.seat(candidate(1, true), ours.clone()).await.unwrap();
        let second = low.seat(candidate(2, true), token());
        let second_at_high = high.seat(candidate(1, false), token());
        let (second, second_at_high) = tokio::join!(second, second_at_high);
        assert!(second.is_ok() && second_at_high.is_ok());
        assert!(theirs.is_cancelled() && ours.is_cancelled());
        drop((first, first_at_high));
        assert!(
            low.connected(PeerId([2; 20])).is_some() && high.connected(PeerId([1; 20])).is_some()
        );
        // the one that 2 dials comes too late, and so does everything after the first seconds
        assert!(low.seat(candidate(2, false), token()).await.is_err());
        assert!(high.seat(candidate(1, true), token()).await.is_err());
        let old = high.seat(candidate(9, false), token()).await.unwrap();
        tokio::time::sleep(SIMULTANEOUS).await;
        assert!(high.seat(candidate(9, true), token()).await.is_err());
        drop(old);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_breaks_no_ties_keeps_its_first_connection() {
        let low = registry(1);
        let stranger = |dialled| Candidate {
            breaks_ties: false,
            ..candidate(2, dialled)
        };
        let seat = low
            .seat(stranger(false), CancellationToken::new())
            .await
            .unwrap();
        let second = low.seat(stranger(true), CancellationToken::new()).await;
        assert!(matches!(second, Err(UpgradeError::Duplicate(_))));
        drop(seat);
        assert!(
            low.seat(stranger(true), CancellationToken::new())
                .await
                .is_ok()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn limits_hold_and_places_come_back() {
        let registry = registry(1);
        let (here, there) = (IpAddr::from([1, 1, 1, 1]), IpAddr::from([2, 2, 2, 2]));
        let knocks: Vec<_> = (0..4).map(|_| registry.knock(here).unwrap()).collect();
        assert!(registry.knock(here).is_err());
        assert!(registry.knock(there).is_ok());
        drop(knocks);
        assert!(registry.knock(here).is_ok());
        assert!(registry.table().half_open.is_empty());

        let token = CancellationToken::new;
        let a = registry.seat(candidate(2, false), token()).await.unwrap();
        let _b = registry.seat(candidate(3, false), token()).await.unwrap();
        assert!(matches!(
            registry.seat(candidate(4, false), token()).await,
            Err(UpgradeError::Full(_))
        ));
        assert!(registry.knock(there).is_err());
        let _c = registry.seat(candidate(4, true), token()).await.unwrap();
        assert_eq!(registry.peers().len(), 3);
        drop(a);
        assert!(registry.knock([9, 9, 9, 9].into()).is_ok());
        let crowded = registry.knock([3, 3, 3, 3].into()).map(drop);
        assert!(matches!(crowded, Err(UpgradeError::Full(why)) if why.contains("one address")));
    }

    #[tokio::test(start_paused = true)]
    async fn flapping_is_cheap() {
        let registry = registry(1);
        let knock = |from: [u8; 4]| registry.knock(from.into()).map(drop).is_ok();
        for _ in 0..1000 {
            assert!(knock([127, 0, 0, 1]), "only routed addresses are counted");
        }
        assert_eq!((0..1000).filter(|_| knock([8, 8, 8, 8])).count(), 20);
        assert!(knock([8, 8, 4, 4]));
        tokio::time::sleep(KNOCKS_IN).await;
        assert!(knock([8, 8, 8, 8]));
        for n in 0..10_000u32 {
            knock((0x0900_0000 + n).to_be_bytes());
        }
        assert!(registry.table().knocks.len() <= MAX_KNOCKERS);
    }

    #[tokio::test(start_paused = true)]
    async fn a_ban_ends_the_connection_and_then_itself() {
        let registry = registry(1);
        let token = CancellationToken::new();
        let _seat = registry
            .seat(candidate(2, true), token.clone())
            .await
            .unwrap();
        registry.ban(PeerId([2; 20]), Duration::from_secs(60));
        assert!(token.is_cancelled() && registry.banned(PeerId([2; 20])).is_some());
        tokio::time::sleep(Duration::from_secs(61)).await;
        assert_eq!(registry.banned(PeerId([2; 20])), None);
    }
}
