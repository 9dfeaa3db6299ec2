//! The transport's counters: everything that goes wrong has a reason, and every reason a number.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Why a connection was not made, or ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(usize)]
#[non_exhaustive]
pub enum Reason {
    /// Nobody answered, or the name does not resolve.
    Dial,
    /// A handshake took too long.
    HandshakeTimeout,
    /// The SecretConnection failed, in the handshake or later: a frame that does not open, a bad
    /// signature.
    Secret,
    /// The id is not the one that was dialled.
    WrongId,
    /// Another chain, another protocol, a NodeInfo that breaks the rules.
    NodeInfo,
    /// A v1.0 node, which is not allowed.
    Version1,
    /// We dialled ourselves.
    Ourselves,
    /// The id is not on the list of those allowed, or is banned.
    NotAllowed,
    /// The id is connected already.
    Duplicate,
    /// There are as many inbound peers or half-open connections as may be.
    Full,
    /// Packets, frames or PEX messages that break the protocol.
    Protocol,
    /// It has kept others from the memory for unfinished messages for too long.
    Memory,
    /// More control frames than a peer may send: pings, signs of life, empty pieces, peer exchange
    /// that nobody takes.
    Flood,
    /// It was idle when all seats were taken, and made room for another.
    MadeRoom,
    /// No sign of life.
    Silent,
    /// The peer does not read.
    Stalled,
    /// The peer hung up, or the network did.
    Disconnected,
    /// We hung up.
    Local,
}

impl Reason {
    /// All of them.
    pub const ALL: [Reason; 18] = [
        Reason::Dial,
        Reason::HandshakeTimeout,
        Reason::Secret,
        Reason::WrongId,
        Reason::NodeInfo,
        Reason::Version1,
        Reason::Ourselves,
        Reason::NotAllowed,
        Reason::Duplicate,
        Reason::Full,
        Reason::Protocol,
        Reason::Memory,
        Reason::Flood,
        Reason::MadeRoom,
        Reason::Silent,
        Reason::Stalled,
        Reason::Disconnected,
        Reason::Local,
    ];

    /// A word for a metric's label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Reason::Dial => "dial",
            Reason::HandshakeTimeout => "handshake_timeout",
            Reason::Secret => "secret_connection",
            Reason::WrongId => "wrong_id",
            Reason::NodeInfo => "node_info",
            Reason::Version1 => "version_1",
            Reason::Ourselves => "ourselves",
            Reason::NotAllowed => "not_allowed",
            Reason::Duplicate => "duplicate",
            Reason::Full => "full",
            Reason::Protocol => "protocol",
            Reason::Memory => "memory",
            Reason::Flood => "flood",
            Reason::MadeRoom => "made_room",
            Reason::Silent => "silent",
            Reason::Stalled => "stalled",
            Reason::Disconnected => "disconnected",
            Reason::Local => "local",
        }
    }
}

/// Counters of one switch, all since its start. They only rise.
#[derive(Debug, Default)]
pub struct Counters {
    /// Connections we tried to make.
    pub dialed: AtomicU64,
    /// Connections that came in.
    pub accepted: AtomicU64,
    /// Links handed to the service.
    pub established: AtomicU64,
    /// Bytes off the wire, handshakes left out.
    pub bytes_received: AtomicU64,
    /// Bytes onto the wire, handshakes left out.
    pub bytes_sent: AtomicU64,
    /// Block-sync messages in.
    pub messages_received: AtomicU64,
    /// Block-sync messages out.
    pub messages_sent: AtomicU64,
    /// Bytes of block-sync messages in and out, by `MESSAGES`.
    by_type: [[AtomicU64; MESSAGES.len()]; 2],
    ended: [AtomicU64; Reason::ALL.len()],
}

/// CometBFT's names of the block-sync messages, by the number of their field; messages of other
/// fields, and empty ones, are counted as the first.
const MESSAGES: [&str; 6] = [
    "blocksync_Other",
    "blocksync_BlockRequest",
    "blocksync_NoBlockResponse",
    "blocksync_BlockResponse",
    "blocksync_StatusRequest",
    "blocksync_StatusResponse",
];

impl Counters {
    /// One more connection that was not made, or ended, for this reason.
    pub fn ended(&self, reason: Reason) {
        // In bounds: the variants are numbered from 0, and `ALL` has each of them.
        self.ended[reason as usize].fetch_add(1, Relaxed);
    }

    /// Connections that were not made, or ended, for this reason.
    #[must_use]
    pub fn of(&self, reason: Reason) -> u64 {
        self.ended[reason as usize].load(Relaxed)
    }

    /// Every reason's label with its number.
    #[must_use]
    pub fn reasons(&self) -> BTreeMap<&'static str, u64> {
        Reason::ALL
            .iter()
            .map(|r| (r.label(), self.of(*r)))
            .collect()
    }

    /// For people, in one line: what was counted, and every reason that there was.
    #[must_use]
    pub fn summary(&self) -> String {
        let reasons = self.reasons().into_iter().filter(|(_, n)| *n > 0);
        let reasons: Vec<_> = reasons.map(|(why, n)| format!("{why} {n}")).collect();
        format!(
            "{} dialled, {} came, {} established; ended: {}",
            self.dialed.load(Relaxed),
            self.accepted.load(Relaxed),
            self.established.load(Relaxed),
            if reasons.is_empty() {
                "none".to_owned()
            } else {
                reasons.join(", ")
            }
        )
    }

    /// Counts a block-sync message that came or went.
    pub(super) fn message(&self, came: bool, message: &[u8]) {
        let messages = if came {
            &self.messages_received
        } else {
            &self.messages_sent
        };
        messages.fetch_add(1, Relaxed);
        // Not decoded for this: the first byte is the tag of the one field, its number above the
        // three bits of the wire type.
        let field = message.first().map_or(0, |tag| usize::from(tag >> 3));
        let row = &self.by_type[usize::from(!came)];
        row.get(field)
            .unwrap_or(&row[0])
            .fetch_add(message.len() as u64, Relaxed);
    }

    /// Bytes of block-sync messages in and out, by CometBFT's name of their type.
    pub fn message_bytes(&self) -> impl Iterator<Item = (&'static str, u64, u64)> {
        let [came, went] = &self.by_type;
        let rows = came.iter().zip(went);
        MESSAGES
            .into_iter()
            .zip(rows)
            .map(|(name, (came, went))| (name, came.load(Relaxed), went.load(Relaxed)))
    }

    pub(super) fn add(to: &AtomicU64, n: usize) {
        to.fetch_add(n as u64, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_number_and_label() {
        let counters = Counters::default();
        for reason in Reason::ALL {
            counters.ended(reason);
        }
        let reasons = counters.reasons();
        assert_eq!(reasons.len(), Reason::ALL.len());
        assert!(reasons.values().all(|n| *n == 1));
    }

    #[test]
    fn messages_are_counted_by_their_type() {
        let counters = Counters::default();
        counters.message(true, &[0x1a, 0, 0]);
        counters.message(true, &[0x1a]);
        counters.message(false, &[0x0a, 0]);
        counters.message(false, &[0xfa, 0x01]);
        counters.message(false, &[]);
        let rows: Vec<_> = counters.message_bytes().filter(|r| r.1 + r.2 > 0).collect();
        assert_eq!(
            rows,
            [
                ("blocksync_Other", 0, 2),
                ("blocksync_BlockRequest", 0, 2),
                ("blocksync_BlockResponse", 4, 0)
            ]
        );
        assert_eq!(counters.messages_received.load(Relaxed), 2);
        assert_eq!(counters.messages_sent.load(Relaxed), 3);
    }

    #[test]
    fn the_summary_names_what_there_was() {
        let counters = Counters::default();
        assert!(counters.summary().ends_with("ended: none"));
        counters.accepted.store(3, Relaxed);
        counters.ended(Reason::Version1);
        counters.ended(Reason::Full);
        counters.ended(Reason::Full);
        let expected = "0 dialled, 3 came, 0 established; ended: full 2, version_1 1";
        assert_eq!(counters.summary(), expected);
    }
}
