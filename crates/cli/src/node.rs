//! From flags to a running service.

use std::sync::Arc;

use blocksync::app::{AnyApp, UnknownApp};
use blocksync::chain::rules::ParamsGroups;
use blocksync::chain::{Genesis, RuleSchedule};
use blocksync::ids::{Height, PeerId};
use blocksync::p2p::addrbook::AddrBook;
use blocksync::p2p::{self, PeerAddr};
use blocksync::service::{BlockSync, Config, Handle, Offload, RetainResults, ServeConfig};
use blocksync::store::Store;
use tokio_util::sync::CancellationToken;

use crate::args::{Chain, Machine, Network};
use crate::failure::Failure;
use crate::home::Home;
use crate::progress;
use crate::values::{List, NodeId, all};

/// The service over a home's store.
pub(crate) type Service = Handle<AnyApp>;

/// Service configuration from the flags, for a chain of these rules.
///
/// # Errors
/// When the threads cannot be started.
pub(crate) fn service_config(
    chain: &Chain,
    rules: RuleSchedule,
    until: Option<Height>,
) -> Result<Config, Failure> {
    let mut config = Config::default().memory(chain.memory);
    config.rules = rules;
    config.policy = chain.proof.into();
    config.pool.until = until;
    config.retain_blocks = chain.retain_blocks;
    config.retain_results = chain.retain_results;
    config.trust = chain.trust;
    config.offload = Some(offload(chain.machine)?);
    config.app_retry = chain.app_retry;
    Ok(config)
}

/// The threads that compute.
///
/// # Errors
/// When they cannot be started.
pub(crate) fn offload(machine: Machine) -> Result<Offload, Failure> {
    Offload::threads(machine.threads.into()).map_err(|e| Failure::failed(e.to_string()))
}

/// Serving, as the flags say.
pub(crate) fn serve_config(network: &Network) -> ServeConfig {
    let mut config = ServeConfig::default();
    config.queue = network.serve_queue;
    config.advertise_time = network.advertise_time;
    // On 32-bit machines more than the address space is no bound; the largest number stands for it.
    config.bytes_in_flight = usize::try_from(network.serve_memory).unwrap_or(usize::MAX);
    config
}

/// The application, which is connected to when it is first called.
///
/// # Errors
/// When there is none of this name.
pub(crate) fn application(chain: &Chain) -> Result<AnyApp, Failure> {
    let app: AnyApp = chain
        .app
        .parse()
        .map_err(|e: UnknownApp| Failure::usage(e.to_string()))?;
    Ok(match app {
        AnyApp::Abci(client) => {
            let client = client
                .connect_for(chain.app_wait)
                .connections(chain.app_connections);
            AnyApp::Abci(match chain.abci.0 {
                Some(version) => client.speaking(version),
                // The rules of each height then say which version is spoken.
                None => client,
            })
        }
        // Nobody could read events where results are not kept.
        built_in if chain.retain_results == RetainResults::None => built_in,
        built_in => built_in.with_events(),
    })
}

/// Starts the service. It may have to wait for the application, or to execute what is stored:
/// `stop` ends that.
///
/// # Errors
/// When application, store and genesis do not fit together, or it was stopped.
pub(crate) async fn start(
    store: Arc<dyn Store>,
    app: AnyApp,
    genesis: Genesis,
    config: Config,
    stop: &CancellationToken,
) -> Result<Service, Failure> {
    let service = BlockSync::builder(store, app, genesis)
        .config(config)
        .on_replay(progress::replayed());
    tokio::select! {
        // A signal wins over a start that is ready in the same moment.
        biased;
        () = stop.cancelled() => Err(Failure::failed("stopped before it had begun")),
        service = service.spawn() => Ok(service?),
    }
}

/// Whether CometBFT 1.0 is among the versions of a chain: then its nodes are taken too.
pub(crate) fn are_of_v1(rules: &RuleSchedule) -> bool {
    rules
        .iter()
        .any(|rules| rules.params.groups == ParamsGroups::Features)
}

/// Network configuration from the flags.
///
/// # Errors
/// When the node's key cannot be read or made.
pub(crate) fn switch_config(
    network: &Network,
    peers: &[List<PeerAddr>],
    home: &Home,
    chain_id: &str,
) -> Result<p2p::Config, Failure> {
    let ids = |lists: &[List<NodeId>]| all(lists).iter().map(|id| id.0).collect::<Vec<_>>();
    let mut config = p2p::Config::new(home.node_key()?, chain_id);
    config.moniker.clone_from(&network.moniker);
    config.listen = all(&network.listen);
    config.external.clone_from(&network.external);
    config.peers = all(peers);
    config.seeds = all(&network.seed);
    config.allow = ids(&network.allow);
    config.allow_private = network.allow_private;
    config.private = ids(&network.private_peer);
    config.unconditional = ids(&network.unconditional_peer);
    config.max_inbound = network.max_peers;
    config.send_rate = network.send_rate;
    config.recv_rate = network.recv_rate;
    config.partial_bytes = usize::try_from(network.partial_memory).unwrap_or(usize::MAX);
    config.length_prefixed = !network.classic;
    config.address_book = Some(home.address_book());
    config.more_books.clone_from(&network.address_book);
    // Unless asked for, exchange runs only with seeds, or where address books are all there is.
    let named = !config.peers.is_empty() || !config.seeds.is_empty();
    config.pex = network
        .pex
        .unwrap_or_else(|| !config.seeds.is_empty() || (!named && knows_somebody(network, home)));
    Ok(config)
}

/// Whether there is anybody to sync from: named, in an address book, or to come.
pub(crate) fn has_company(network: &Network, peers: &[List<PeerAddr>], home: &Home) -> bool {
    let named = !all(peers).is_empty() || !all(&network.seed).is_empty();
    let read = network.pex != Some(false);
    named || !all(&network.listen).is_empty() || (read && knows_somebody(network, home))
}

/// Whether an address book names a node.
fn knows_somebody(network: &Network, home: &Home) -> bool {
    let own = home.address_book();
    // A book leaves our own id out, which makes no difference here.
    let nobody = PeerId([0; 20]);
    // The switch says what is wrong with a book that cannot be read.
    std::iter::once(&own)
        .chain(&network.address_book)
        .filter_map(|file| AddrBook::load(file, nobody, network.allow_private).ok())
        .any(|book| !book.is_empty())
}
