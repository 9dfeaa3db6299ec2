//! The node that is shown: its store, who it is, and what it does at the moment.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use blocksync::chain::{Genesis, RuleSchedule, Rules};
use blocksync::ids::{Height, PeerId};
use blocksync::service::{Phase, ServeCounters, View};
use blocksync::store::Store;
use bytes::Bytes;

use crate::json::{Dialect, Json};

/// Identity of the node.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Its id in the network.
    pub id: PeerId,
    /// The ed25519 key that the id comes from.
    pub public_key: [u8; 32],
    /// Free text for people.
    pub moniker: String,
    /// Where peers reach it: `tcp://HOST:PORT`.
    pub listen_addr: String,
    /// Where it listens for peers; empty when it does not.
    pub listening: Vec<String>,
    /// Where this RPC is: `tcp://HOST:PORT`.
    pub rpc_address: String,
}

/// A peer of the network, as `net_info` tells of it.
#[derive(Clone, Debug)]
pub struct NetworkPeer {
    /// Its id.
    pub id: PeerId,
    /// Where it is: `HOST:PORT`.
    pub address: String,
    /// Its moniker.
    pub moniker: String,
    /// Its software.
    pub version: String,
    /// We dialled it.
    pub dialled: bool,
    /// How long it has been connected.
    pub age: Duration,
    /// Bytes of block-sync messages that came from it over this connection.
    pub received: u64,
    /// Bytes of block-sync messages that went to it over this connection.
    pub sent: u64,
}

/// Tells who is connected now.
pub type PeersFn = Box<dyn Fn() -> Vec<NetworkPeer> + Send + Sync>;

/// Counters of the transport since its start.
#[derive(Clone, Debug, Default)]
pub struct Transport {
    /// Connections that we tried to make.
    pub dialled: u64,
    /// Connections that came in.
    pub accepted: u64,
    /// Bytes off the wire.
    pub received: u64,
    /// Bytes onto the wire.
    pub sent: u64,
    /// Connections that ended, by reason.
    pub ended: Vec<(&'static str, u64)>,
    /// Bytes of block-sync messages, by type.
    pub messages: Vec<MessageBytes>,
}

/// Bytes of messages of one type.
#[derive(Clone, Copy, Debug, Default)]
pub struct MessageBytes {
    /// CometBFT's name of the type: `blocksync_BlockResponse`.
    pub name: &'static str,
    /// Bytes that came.
    pub received: u64,
    /// Bytes that went.
    pub sent: u64,
}

/// Tells what the transport has counted.
pub type TransportFn = Box<dyn Fn() -> Transport + Send + Sync>;

/// Everything that is answered from. It only reads.
pub struct Node {
    /// Blocks, state and sets.
    pub store: Arc<dyn Store>,
    /// The chain's genesis.
    pub genesis: Genesis,
    /// The file that it was read from.
    pub genesis_file: Bytes,
    /// Which protocol version's rules hold from which height.
    pub rules: RuleSchedule,
    /// Identity of the node.
    pub identity: Identity,
    /// Responses of the application are kept.
    pub keeps_results: bool,
    /// The service that syncs; `None` where nothing but the store is served.
    pub view: Option<View>,
    /// Tells the connected peers.
    pub network: PeersFn,
    /// Tells the transport's counters.
    pub transport: TransportFn,
    /// Counters of what peers were given: `View::serving` or `Server::counters`.
    pub serving: Arc<ServeCounters>,
    /// Directory of the store on disk, whose size is told.
    pub store_dir: Option<PathBuf>,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node")
            .field("chain_id", &self.genesis.chain_id)
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

impl Node {
    /// Whether it is behind: what CometBFT calls `catching_up`.
    #[must_use]
    pub fn is_syncing(&self) -> bool {
        let phase = self.view.as_ref().map(|view| view.status().borrow().phase);
        phase.is_some_and(|phase| !matches!(phase, Phase::Following | Phase::HandedOver))
    }

    /// Peers that are connected now.
    #[must_use]
    pub fn peers(&self) -> Vec<NetworkPeer> {
        (self.network)()
    }

    pub(crate) fn dialect(&self, height: Height) -> Dialect {
        // 0.40 shows an authority in params; earlier versions are shown in
        // 0.38's form (`rpc.md` 7).
        if *self.rules.at(height) == Rules::COMET_040 {
            Dialect::V040
        } else {
            Dialect::V038
        }
    }
}

impl NetworkPeer {
    /// As CometBFT writes a peer; its rate meters are not ours, and stand at zero.
    pub(crate) fn write(&self, node: &Node, json: &mut Json) {
        // The last colon: an IPv6 address has others, within brackets.
        let host = self.address.rsplit_once(':').map_or("", |(host, _)| host);
        let host = host.trim_matches(['[', ']']);
        // Fixed protocol versions, as clients want the fields and nobody compares them.
        json.raw("{\"node_info\":{\"protocol_version\":{\"p2p\":\"8\",\"block\":\"11\",\"app\":\"0\"},\"id\":\"");
        json.raw(&self.id.to_string()).raw("\",\"listen_addr\":");
        json.string(format!("tcp://{}", self.address).as_bytes());
        json.raw(",\"network\":")
            .string(node.genesis.chain_id.as_bytes());
        json.raw(",\"version\":").string(self.version.as_bytes());
        json.raw(",\"channels\":\"40\",\"moniker\":")
            .string(self.moniker.as_bytes());
        json.raw(",\"other\":{\"tx_index\":\"off\",\"rpc_address\":\"\"}},\"is_outbound\":");
        json.boolean(self.dialled);
        let age = self.age.as_nanos();
        json.raw(",\"connection_status\":{\"Duration\":").long(age);
        for monitor in ["SendMonitor", "RecvMonitor"] {
            json.raw(",\"").raw(monitor);
            // Go's flow monitor, whose fields clients parse.
            json.raw("\":{\"Start\":\"0001-01-01T00:00:00Z\",\"Bytes\":\"0\",\"Samples\":\"0\",\"InstRate\":\"0\",\"CurRate\":\"0\",\"AvgRate\":\"0\",\"PeakRate\":\"0\",\"BytesRem\":\"0\",\"Duration\":");
            json.long(age);
            json.raw(",\"Idle\":\"0\",\"TimeRem\":\"0\",\"Progress\":0,\"Active\":true}");
        }
        json.raw(",\"Channels\":[]},\"remote_ip\":")
            .string(host.as_bytes())
            .raw("}");
    }
}
