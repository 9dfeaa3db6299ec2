//! From flags to a running service.

use std::sync::Arc;

use blocksync::app::AnyApp;
use blocksync::chain::Genesis;
use blocksync::ids::Height;
use blocksync::p2p;
use blocksync::pool::PoolConfig;
use blocksync::service::{BlockSync, Config, Handle};
use blocksync::store::Store;
use tokio_util::sync::CancellationToken;

use crate::args::{Chain, Network};
use crate::failure::Failure;
use crate::home::Home;

/// The service over a home's store.
pub(crate) type Service = Handle<AnyApp>;

/// What the flags say of the chain.
pub(crate) fn service_config(chain: &Chain, until: Option<Height>) -> Config {
    let pool = PoolConfig {
        until,
        ..PoolConfig::default()
    };
    Config {
        rules: chain.rules.clone(),
        policy: chain.proof.into(),
        pool,
        retain_blocks: chain.retain_blocks,
        trust: chain.trust,
        ..Config::default()
    }
    .memory(chain.memory)
}

/// Starts the service. It may have to wait for the application, or to execute what is stored: `stop` ends that.
///
/// # Errors
/// When application, store and genesis do not fit together, or it was stopped.
pub(crate) async fn start(
    store: Arc<dyn Store>,
    app: &str,
    genesis: Genesis,
    config: Config,
    stop: &CancellationToken,
) -> Result<Service, Failure> {
    let app: AnyApp = app
        .parse()
        .map_err(|e: blocksync::app::UnknownApp| Failure::usage(e.to_string()))?;
    let service = BlockSync::builder(store, app, genesis).config(config);
    tokio::select! {
        biased;
        () = stop.cancelled() => Err(Failure::failed("stopped before it had begun")),
        service = service.spawn() => Ok(service?),
    }
}

/// What the flags say of the network.
///
/// # Errors
/// When the node's key cannot be read or made.
pub(crate) fn switch_config(
    network: &Network,
    home: &Home,
    chain_id: &str,
) -> Result<p2p::Config, Failure> {
    let mut config = p2p::Config::new(home.node_key()?, chain_id);
    config.listen.clone_from(&network.listen);
    config.seeds.clone_from(&network.seed);
    config.allow.clone_from(&network.allow);
    config.allow_private = network.allow_private;
    config.max_inbound = network.max_peers;
    config.send_rate = network.send_rate;
    config.recv_rate = network.recv_rate;
    config.length_prefixed = !network.classic;
    config.address_book = Some(home.address_book());
    Ok(config)
}
