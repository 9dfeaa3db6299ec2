//! `--http`: the listener for people, monitors and clients of the RPC.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use blocksync::chain::{Genesis, RuleSchedule};
use blocksync::p2p::{NodeKey, Reason, Switch};
use blocksync::service::{ServeCounters, View};
use blocksync::store::Store;
use blocksync_http::{Http, Identity, MessageBytes, NetworkPeer, Node, Options, Transport};

use crate::args;
use crate::console::say;
use crate::failure::Failure;
use crate::home::Home;

/// The parts of a node that the listener shows.
pub(crate) struct Shown<'a> {
    /// The home.
    pub(crate) home: &'a Home,
    /// Its store.
    pub(crate) store: Arc<dyn Store>,
    /// Name for people.
    pub(crate) moniker: &'a str,
    /// Which rules hold from which height.
    pub(crate) rules: RuleSchedule,
    /// Responses are kept.
    pub(crate) keeps_results: bool,
    /// The service, if one runs.
    pub(crate) view: Option<View>,
    /// The network.
    pub(crate) switch: &'a Switch,
    /// Counters of what peers are given.
    pub(crate) serving: Arc<ServeCounters>,
}

/// Reads an address: `IP:PORT`, or a port on loopback.
///
/// # Errors
/// A text that is neither.
pub(crate) fn parse_address(text: &str) -> Result<SocketAddr, String> {
    let digits = text.strip_prefix(':').unwrap_or(text);
    if let Ok(port) = digits.parse::<u16>() {
        return Ok(SocketAddr::from(([127, 0, 0, 1], port)));
    }
    text.parse()
        .map_err(|_| format!("{text:?} is no address: IP:PORT is needed, or a port of loopback"))
}

/// Starts the listener, where one is wanted. It lives as long as what is returned.
///
/// # Errors
/// When the address cannot be listened at.
pub(crate) fn start(args: &args::Http, shown: Shown<'_>) -> Result<Option<Http>, Failure> {
    let Some(at) = args.http else {
        return Ok(None);
    };
    let file = shown.home.genesis_json()?;
    let read = Genesis::read(&file, &shown.rules);
    let genesis = read.map_err(|e| Failure::failed(e.to_string()))?;
    let key = shown.home.node_key()?;
    let switch = shown.switch.clone();
    let counted = switch.clone();
    let node = Node {
        store: shown.store,
        genesis,
        genesis_file: file,
        rules: shown.rules,
        identity: identity(&key, shown.moniker, &switch),
        keeps_results: shown.keeps_results,
        view: shown.view,
        network: Box::new(move || peers(&switch)),
        transport: Box::new(move || transport(&counted)),
        serving: shown.serving,
        store_dir: Some(shown.home.data()),
    };
    let options = Options {
        namespace: args.http_namespace.clone(),
        ready_lag: args.ready_lag,
        hosts: args.http_host.clone(),
        ..Options::default()
    };
    let http = Http::start(at, node, options).map_err(|e| Failure::failed(e.to_string()))?;
    say(&format!("http://{}", http.address()));
    Ok(Some(http))
}

fn identity(key: &NodeKey, moniker: &str, switch: &Switch) -> Identity {
    let listening: Vec<String> = switch
        .listening()
        .iter()
        .map(|at| at.address.to_string())
        .collect();
    Identity {
        id: key.id(),
        public_key: key.public(),
        moniker: moniker.to_owned(),
        listen_addr: listening
            .first()
            .map_or_else(String::new, |at| format!("tcp://{at}")),
        listening,
        // The listener puts it in once it knows its port.
        rpc_address: String::new(),
    }
}

fn peers(switch: &Switch) -> Vec<NetworkPeer> {
    let summaries = switch.peers().into_iter();
    summaries
        .map(|peer| NetworkPeer {
            id: peer.id,
            address: peer.address,
            moniker: peer.moniker,
            version: peer.version,
            dialled: peer.dialled,
            age: peer.age,
            received: peer.received,
            sent: peer.sent,
        })
        .collect()
}

fn transport(switch: &Switch) -> Transport {
    let counters = switch.counters();
    let ended = Reason::ALL.into_iter();
    Transport {
        dialled: counters.dialed.load(Relaxed),
        accepted: counters.accepted.load(Relaxed),
        received: counters.bytes_received.load(Relaxed),
        sent: counters.bytes_sent.load(Relaxed),
        ended: ended.map(|r| (r.label(), counters.of(r))).collect(),
        messages: counters
            .message_bytes()
            .map(|(name, received, sent)| MessageBytes {
                name,
                received,
                sent,
            })
            .collect(),
    }
}
