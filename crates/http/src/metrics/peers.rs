//! Bytes of peers, each in series of its own as long as there are not too many.
//!
//! A peer that comes takes a free pair of series, and they begin at zero; one that has been gone
//! for a while gives them back. All that no series of its own counts stands under `other`. So no
//! counter ever falls, and the sum is that of all peers that ever were.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use blocksync::ids::PeerId;
use tokio::time::Instant;

use super::{Family, Labels, counters};
use crate::node::{NetworkPeer, Transport};

/// Time for which the series of a peer that is gone stay: longer than between two scrapes.
const LINGER: Duration = Duration::from_secs(300);

/// Bytes in and out.
type Bytes = [u64; 2];

/// The series of peers.
#[derive(Debug)]
pub(super) struct PeerBytes {
    most: usize,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    seats: BTreeMap<PeerId, Seat>,
    other: Bytes,
}

#[derive(Debug)]
struct Seat {
    /// Values of the peer's series.
    shown: Bytes,
    /// Count of its connection when we last looked.
    last: Bytes,
    seen: Instant,
}

impl PeerBytes {
    /// Series of their own for this number of peers at most.
    pub(super) fn new(most: usize) -> Self {
        PeerBytes {
            most,
            table: Mutex::default(),
        }
    }

    pub(super) fn families(&self, peers: &[NetworkPeer], transport: &Transport) -> [Family; 2] {
        let all = transport.messages.iter().fold([0, 0], |sum, message| {
            [sum[0] + message.received, sum[1] + message.sent]
        });
        let rows = self.look(peers, all, Instant::now());
        let series = |way: usize| {
            let each = rows.iter().map(|(peer, bytes)| {
                let id = peer.map_or_else(|| "other".into(), |peer| peer.to_string().into());
                let labels: Labels = vec![("peer_id", id), ("chID", "0x40".into())];
                (labels, bytes[way] as f64)
            });
            each.collect()
        };
        [
            counters(
                "p2p_peer_receive_bytes",
                "Bytes of messages from a peer",
                series(0),
            ),
            counters(
                "p2p_peer_send_bytes",
                "Bytes of messages to a peer",
                series(1),
            ),
        ]
    }

    /// The bytes of each peer that has series of its own, and last those of all others; `all` is
    /// everything that was ever counted.
    fn look(
        &self,
        peers: &[NetworkPeer],
        all: Bytes,
        now: Instant,
    ) -> Vec<(Option<PeerId>, Bytes)> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let Table { seats, other } = &mut *table;
        let mut newcomers: Vec<&NetworkPeer> = Vec::new();
        for peer in peers {
            match seats.get_mut(&peer.id) {
                Some(seat) => seat.count([peer.received, peer.sent], now),
                None => newcomers.push(peer),
            }
        }
        // After the counting: a peer that is connected was seen just now.
        seats.retain(|_, seat| now.duration_since(seat.seen) <= LINGER);
        // The busiest get the free places: they are whom an operator looks for.
        newcomers.sort_by_key(|peer| std::cmp::Reverse(peer.received + peer.sent));
        let free = self.most.saturating_sub(seats.len());
        for peer in newcomers.into_iter().take(free) {
            let seat = Seat {
                shown: [0, 0],
                // Counted under `other` so far, and stays there: its own series begin at zero.
                last: [peer.received, peer.sent],
                seen: now,
            };
            seats.insert(peer.id, seat);
        }
        for way in [0, 1] {
            let shown = seats.values().map(|seat| seat.shown[way]).sum();
            // A peer's counters are read a moment before the sum; `max` keeps the
            // difference from falling.
            other[way] = other[way].max(all[way].saturating_sub(shown));
        }
        let rows = seats.iter().map(|(peer, seat)| (Some(*peer), seat.shown));
        rows.chain([(None, *other)]).collect()
    }
}

impl Seat {
    /// A connection that has counted less than the last one did is a new one.
    fn count(&mut self, bytes: Bytes, now: Instant) {
        for way in [0, 1] {
            let before = if bytes[way] < self.last[way] {
                0
            } else {
                self.last[way]
            };
            self.shown[way] += bytes[way] - before;
        }
        (self.last, self.seen) = (bytes, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The peers are asked after the transport, so theirs may be more than all.
    #[test]
    fn the_rest_does_not_fall_when_a_peer_has_more_than_all() {
        let table = PeerBytes::new(1);
        let peer = |received| NetworkPeer {
            id: PeerId([1; 20]),
            address: String::new(),
            moniker: String::new(),
            version: String::new(),
            dialled: true,
            age: Duration::ZERO,
            received,
            sent: 0,
        };
        let id = Some(PeerId([1; 20]));
        let now = Instant::now();
        let look = |received| table.look(&[peer(received)], [150, 0], now);
        assert_eq!(look(100), [(id, [0, 0]), (None, [150, 0])]);
        assert_eq!(look(160), [(id, [60, 0]), (None, [150, 0])]);
    }
}
