//! A switch's settings.

use std::path::PathBuf;
use std::time::Duration;

use super::addr::{ListenAddr, PeerAddr};
use super::budget;
use super::channels::MAX_MESSAGE;
use super::drive::Timers;
use super::key::NodeKey;
use super::upgrade::Deadlines;
use crate::ids::PeerId;

/// A switch's settings. Start from [`Config::new`] and change what is to differ.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// Our node key; its id is ours.
    pub key: NodeKey,
    /// The chain's id; peers of another one are refused.
    pub chain_id: String,
    /// A name for people; printable ASCII, or `blocksync` is sent in its place.
    pub moniker: String,
    /// Where to listen.
    pub listen: Vec<ListenAddr>,
    /// `HOST:PORT` that others are told, when it is not what we listen at.
    pub external: Option<String>,
    /// Peers to be connected to as long as we run.
    pub peers: Vec<PeerAddr>,
    /// Peers to ask for more peers.
    pub seeds: Vec<PeerAddr>,
    /// If not empty, the only ids that may connect. Peers and seeds named here are always allowed,
    /// and plain peers are never asked.
    pub allow: Vec<PeerId>,
    /// Ids that may connect although all seats are taken.
    pub unconditional: Vec<PeerId>,
    /// Ids that peer exchange does not pass on.
    pub private: Vec<PeerId>,
    /// v1.0 nodes may connect.
    pub allow_v1: bool,
    /// Peer exchange may name and use private, loopback and other addresses that are not routed.
    pub allow_private: bool,
    /// Speak length-prefixed frames with nodes that can.
    pub length_prefixed: bool,
    /// Take part in peer exchange. Seeds imply it.
    pub pex: bool,
    /// The file of the address book; `None` keeps it in memory.
    pub address_book: Option<PathBuf>,
    /// Books, ours or CometBFT's, whose addresses are added at the start; they are never written
    /// to.
    pub more_books: Vec<PathBuf>,
    /// Peers that may come to us. Go: 40.
    pub max_inbound: usize,
    /// Of these, from one routed address. Private and loopback addresses are not counted. Go: 1.
    pub max_inbound_per_address: usize,
    /// Peers that peer exchange dials, those named above not counted. Go: 10.
    pub max_outbound: usize,
    /// Incoming connections that may be in their handshake.
    pub max_half_open: usize,
    /// Bytes a second to each peer; 0 is no limit.
    pub send_rate: u64,
    /// Bytes a second from each peer; 0 is no limit.
    pub recv_rate: u64,
    /// The longest block-sync message that may come.
    pub max_message: usize,
    /// Bytes that the unfinished messages of all connections may hold together; one more message
    /// may go beyond (see `budget`).
    pub partial_bytes: usize,
    /// How long a peer that broke the transport's rules is refused.
    pub breach_back_off: Duration,
    /// Patience with handshakes.
    pub deadlines: Deadlines,
    /// Patience with live connections.
    pub timers: Timers,
    /// The first wait before a peer is dialled again, …
    pub redial_least: Duration,
    /// … and the longest.
    pub redial_most: Duration,
}

impl Config {
    /// No addresses yet, no rate limits, the other limits as CometBFT has them.
    #[must_use]
    pub fn new(key: NodeKey, chain_id: impl Into<String>) -> Self {
        Config {
            key,
            chain_id: chain_id.into(),
            moniker: "blocksync".to_owned(),
            listen: Vec::new(),
            external: None,
            peers: Vec::new(),
            seeds: Vec::new(),
            allow: Vec::new(),
            unconditional: Vec::new(),
            private: Vec::new(),
            allow_v1: false,
            allow_private: false,
            length_prefixed: true,
            pex: false,
            address_book: None,
            more_books: Vec::new(),
            max_inbound: 40,
            max_inbound_per_address: 4,
            max_outbound: 10,
            max_half_open: 64,
            send_rate: 0,
            recv_rate: 0,
            max_message: MAX_MESSAGE,
            partial_bytes: budget::DEFAULT,
            breach_back_off: Duration::from_secs(5),
            deadlines: Deadlines::default(),
            timers: Timers::default(),
            redial_least: Duration::from_millis(500),
            redial_most: Duration::from_secs(30),
        }
    }

    /// Peer exchange is on.
    #[must_use]
    pub fn speaks_pex(&self) -> bool {
        self.pex || !self.seeds.is_empty()
    }

    /// Whether the node may connect.
    #[must_use]
    pub fn allows(&self, id: PeerId) -> bool {
        let named = || self.peers.iter().chain(&self.seeds).any(|p| p.id() == id);
        self.allow.is_empty() || self.allow.contains(&id) || named()
    }
}
