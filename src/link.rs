//! `Link`: what any transport gives us for one peer.

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::ids::PeerId;

/// What a transport says of a peer's connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inbound {
    /// A whole `tendermint.blocksync.Message`.
    Message(Bytes),
    /// So many bytes of the next message have come so far: a long block on a slow link is progress, not silence.
    Progress(u32),
    /// What the peer sends is left unread for now, and that is our own doing: not the peer's silence.
    Unread,
    /// The transport ends; this is why. Nothing follows.
    Closed(String),
    /// The peer broke the transport's rules, in this way, and the transport ends for it. Nothing follows.
    Broken(String),
}

/// One peer's connection, whatever carries it: two bounded channels of whole messages and a token to hang up.
///
/// The transport side reads from its socket only while `inbox` has room, which is how back-pressure reaches the peer, and
/// bounds a message's length before it is allocated. When `hangup` is cancelled by either side, both stop.
#[derive(Debug)]
pub struct Link {
    /// Whose it is.
    pub peer: PeerId,
    /// Where it comes from, for people to read: `127.0.0.1:26656`, `file blocks.bin`.
    pub address: String,
    /// What comes.
    pub inbox: mpsc::Receiver<Inbound>,
    /// What goes: whole messages, encoded.
    pub outbox: mpsc::Sender<Bytes>,
    /// Cancelled to end the connection.
    pub hangup: CancellationToken,
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
    /// A link and the transport's half of it.
    #[must_use]
    pub fn pair(peer: PeerId, address: impl Into<String>) -> (Link, LinkEnd) {
        let (to_service, inbox) = mpsc::channel(LINK_CAPACITY);
        let (outbox, from_service) = mpsc::channel(LINK_CAPACITY);
        let hangup = CancellationToken::new();
        let link = Link {
            peer,
            address: address.into(),
            inbox,
            outbox,
            hangup: hangup.clone(),
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
