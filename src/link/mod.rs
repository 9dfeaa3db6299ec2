//! `Link`: what any transport gives us for one peer.

#[doc(hidden)]
pub mod gate;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::ids::PeerId;

/// A report of a transport on a peer's connection.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Inbound {
    /// A whole `tendermint.blocksync.Message`.
    Message(Bytes),
    /// The number of bytes that have come of the next message: a long block on a slow link is
    /// progress, not silence.
    Progress(u32),
    /// The peer's bytes are left unread for now. That is our own doing and not the peer's silence.
    Unread,
    /// The transport ends; this is why. Nothing follows.
    Closed(String),
    /// The peer broke the transport's rules, in this way, and the transport ends for it. Nothing
    /// follows.
    Broken(String),
}

/// One peer's connection, whatever carries it: two bounded channels of whole messages and a token
/// to hang up.
///
/// The transport side reads from its socket only while `inbox` has room, which is how back-pressure
/// reaches the peer, and bounds a message's length before it is allocated. When `hangup` is
/// cancelled by either side, both stop.
#[derive(Debug)]
pub struct Link {
    /// The peer's id.
    pub peer: PeerId,
    /// Where it comes from, for people to read: `127.0.0.1:26656`, `file blocks.bin`.
    pub address: String,
    /// Whether a node of CometBFT is at the other end, or one that speaks like one. Such a node
    /// goes over to consensus, for good, at the height that its peers state, so it is not told ours
    /// while we are behind.
    pub comet: bool,
    /// Reports and messages from the peer.
    pub inbox: mpsc::Receiver<Inbound>,
    /// Messages to the peer: whole ones, encoded.
    pub outbox: mpsc::Sender<Bytes>,
    /// Cancelled to end the connection.
    pub hangup: CancellationToken,
    /// The peers that the transport behind this link refuses. The service writes its bans there
    /// before it hangs up. `None` for a stream that belongs to no transport.
    pub bans: Option<Bans>,
    /// The configured peers of the transport behind this link, as they come and fail to. `None`
    /// for a transport without such a list.
    pub configured: Option<watch::Receiver<Configured>>,
    /// The peer has proven to hold the key that its id is the hash of.
    pub authenticated: bool,
    /// The other end is a node of ours, or one that skips what it does not know: it is told more
    /// than CometBFT is.
    pub extended: bool,
}

/// The transport's half of a `Link`.
#[derive(Debug)]
pub struct LinkEnd {
    /// To the service.
    pub inbox: mpsc::Sender<Inbound>,
    /// From the service.
    pub outbox: mpsc::Receiver<Bytes>,
    /// Cancelled to end the connection.
    pub hangup: CancellationToken,
}

/// Messages that wait in either direction of a link before the sender has to.
pub const LINK_CAPACITY: usize = 64;

impl Link {
    /// A link to a blocksync node and the transport's half of it.
    #[must_use]
    pub fn pair(peer: PeerId, address: impl Into<String>) -> (Link, LinkEnd) {
        let (to_service, inbox) = mpsc::channel(LINK_CAPACITY);
        let (outbox, from_service) = mpsc::channel(LINK_CAPACITY);
        let hangup = CancellationToken::new();
        let link = Link {
            peer,
            address: address.into(),
            comet: false,
            inbox,
            outbox,
            hangup: hangup.clone(),
            bans: None,
            configured: None,
            authenticated: false,
            extended: false,
        };
        (
            link,
            LinkEnd {
                inbox: to_service,
                outbox: from_service,
                hangup,
            },
        )
    }
}

/// The configured peers of a transport. Nothing final is said before those that may come have
/// spoken, and strangers alone end no sync from genesis.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Configured {
    /// All configured peers.
    pub peers: BTreeSet<PeerId>,
    /// Those that are there, are being dialled or in their handshake, or were not tried yet.
    pub coming: BTreeSet<PeerId>,
}

impl Configured {
    /// Returns the configured peers, of which these may come.
    #[must_use]
    pub fn new(peers: BTreeSet<PeerId>, coming: BTreeSet<PeerId>) -> Self {
        Configured { peers, coming }
    }
}

/// Peers that are refused for a while: one table for a transport, which reads it at its door, and
/// for the service, which judges what the peers send. Cheap to clone.
///
/// At most [`Bans::MAX`] peers are in it; the one whose ban ends first gives way.
#[derive(Clone, Debug, Default)]
pub struct Bans(Arc<Mutex<BTreeMap<PeerId, Instant>>>);

impl Bans {
    /// Number of peers that are remembered at most.
    pub const MAX: usize = 10_000;

    /// Locks the table. A poisoned lock is taken all the same: no holder can panic half-way through
    /// a change.
    fn table(&self) -> MutexGuard<'_, BTreeMap<PeerId, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses a peer for `period`, and never for less time than it is refused already.
    pub fn ban(&self, peer: PeerId, period: Duration) {
        let now = Instant::now();
        let mut table = self.table();
        // Ended bans are dropped only when room is needed: `until` ignores them meanwhile.
        if table.len() >= Self::MAX && !table.contains_key(&peer) {
            table.retain(|_, until| *until > now);
        }
        if table.len() >= Self::MAX
            && !table.contains_key(&peer)
            // The ban that is nearest its end protects least.
            && let Some(first) = table.iter().min_by_key(|(_, until)| **until).map(|b| *b.0)
        {
            table.remove(&first);
        }
        let until = table.entry(peer).or_insert(now);
        *until = (now + period).max(*until);
    }

    /// Returns the end of a peer's ban, if it is banned now.
    #[must_use]
    pub fn until(&self, peer: PeerId) -> Option<Instant> {
        let until = self.table().get(&peer).copied();
        until.filter(|until| *until > Instant::now())
    }

    /// Tells whether both are the same table.
    #[must_use]
    pub fn is(&self, other: &Bans) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Tells whether nobody else holds the table any more.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }
}

/// Number of things without content that a peer may send: a burst, and a rate a second. An honest
/// peer sends a few a minute, so that the burst is what may wait in buffers after an hour in which
/// we did not read.
#[derive(Debug)]
pub struct Allowance {
    burst: u32,
    a_second: u32,
    left: u32,
    filled_at: Instant,
}

impl Allowance {
    /// Returns a full one.
    #[must_use]
    pub fn new(burst: u32, a_second: u32) -> Self {
        Allowance {
            burst,
            a_second,
            left: burst,
            filled_at: Instant::now(),
        }
    }

    /// Takes one; `false` when there are none left.
    #[must_use]
    pub fn take(&mut self) -> bool {
        // The clock is read only when the allowance is used up, which an honest peer's rarely is.
        if self.left == 0 {
            let now = Instant::now();
            let millis = u64::try_from((now - self.filled_at).as_millis()).unwrap_or(u64::MAX);
            let earned = millis.saturating_mul(u64::from(self.a_second)) / 1000;
            // `filled_at` stays, so the time waited so far counts at the next try.
            if earned == 0 {
                return false;
            }
            self.left = u32::try_from(earned).unwrap_or(u32::MAX).min(self.burst);
            self.filled_at = now;
        }
        self.left -= 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_allowance_is_a_burst_and_then_a_rate() {
        let mut allowance = Allowance::new(256, 8);
        let mut burst = |n: usize| (0..n).filter(|_| allowance.take()).count();
        assert_eq!(burst(10_000), 256);
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(burst(100), 16);
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert_eq!(burst(10_000), 256, "nobody saves up more than a burst");
    }

    fn peer(n: usize) -> PeerId {
        let mut id = [0; 20];
        id[..8].copy_from_slice(&n.to_be_bytes());
        PeerId(id)
    }

    #[tokio::test(start_paused = true)]
    async fn bans_end_are_never_shortened_and_are_bounded() {
        let bans = Bans::default();
        bans.ban(peer(1), Duration::from_secs(60));
        bans.ban(peer(1), Duration::from_secs(1));
        tokio::time::sleep(Duration::from_secs(59)).await;
        assert!(bans.until(peer(1)).is_some() && bans.until(peer(2)).is_none());
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(bans.until(peer(1)), None);
        bans.ban(peer(0), Duration::from_secs(9));
        for n in 1..=Bans::MAX {
            bans.ban(peer(n), Duration::from_secs(60));
        }
        assert_eq!(bans.table().len(), Bans::MAX);
        assert_eq!(bans.until(peer(0)), None, "its ban ended first");
    }
}
