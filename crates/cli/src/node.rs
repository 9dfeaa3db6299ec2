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

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use blocksync::chain::Rules;
    use blocksync::chain::proof::Policy;
    use blocksync::ids::Hash;
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command, Sync};

    const ID: &str = "7b9c39309622bda1f8cd2bade5725e8f09948a1a";

    /// `sync` with these flags, in pairs or alone.
    pub(crate) fn sync_with(flags: &[&str]) -> Sync {
        let line = ["blocksync", "sync", "--home", "x"];
        let parsed = Cli::try_parse_from(line.iter().chain(flags)).unwrap();
        match parsed.command {
            Command::Sync(sync) => *sync,
            other => panic!("another command: {other:?}"),
        }
    }

    #[test]
    fn every_flag_of_the_chain_is_passed_on() {
        let hash = "ab".repeat(32);
        let trust = format!("7:{hash}");
        let args = sync_with(&[
            "--memory",
            "80000000",
            "--proof",
            "every-commit",
            "--retain-blocks",
            "11",
            "--retain-results",
            "12",
            "--trust",
            &trust,
            "--threads",
            "3",
            "--app-retry",
            "13s",
        ]);
        let until = Some(Height::new(14));
        let rules = RuleSchedule::from(Rules::COMET_100);
        let config = service_config(&args.chain, rules.clone(), until).unwrap();
        assert_eq!(config.pool.budget_bytes, 30_000_000);
        assert_eq!(config.policy, Policy::EveryCommit);
        assert_eq!(config.retain_blocks, 11);
        assert_eq!(config.retain_results, "12".parse().unwrap());
        let trusted = Hash::from_hex(&hash).unwrap();
        assert_eq!(config.trust, Some((Height::new(7), trusted)));
        let threads = format!("{:?}", config.offload.unwrap());
        assert!(threads.contains("num_threads: 3"), "{threads}");
        assert_eq!(config.app_retry, Duration::from_secs(13));
        assert_eq!(config.pool.until, until);
        assert_eq!(config.rules, rules);
        // Without the flag it is the other policy.
        let config = service_config(&sync_with(&[]).chain, rules, None).unwrap();
        assert_eq!((config.policy, config.trust), (Policy::Anchored, None));
    }

    #[test]
    fn every_flag_of_serving_is_passed_on() {
        let args = sync_with(&[
            "--serve-queue",
            "21",
            "--serve-memory",
            "22",
            "--advertise-time",
            "23s",
        ]);
        let config = serve_config(&args.network);
        assert_eq!((config.queue, config.bytes_in_flight), (21, 22));
        assert_eq!(config.advertise_time, Duration::from_secs(23));
    }

    #[test]
    fn every_flag_of_the_network_is_passed_on() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path());
        let ids: Vec<_> = (1..=3).map(|n| format!("{n:040x}")).collect();
        let (peer, seed) = (format!("{ID}@peer:1"), format!("{ID}@seed:2"));
        let args = sync_with(&[
            "--peer",
            &peer,
            "--seed",
            &seed,
            "--listen",
            "comet://127.0.0.1:3,plain://127.0.0.1:4",
            "--moniker",
            "lighthouse",
            "--external",
            "host:5",
            "--allow",
            &ids[0],
            "--private-peer",
            &ids[1],
            "--unconditional-peer",
            &ids[2],
            "--allow-private",
            "--max-peers",
            "31",
            "--send-rate",
            "32",
            "--recv-rate",
            "33",
            "--partial-memory",
            "34",
            "--classic",
            "--address-book",
            "book",
            "--pex=false",
        ]);
        let config = switch_config(&args.network, &args.peer, &home, "chain").unwrap();
        assert_eq!(config.key.id(), home.node_key().unwrap().id());
        assert_eq!(config.chain_id, "chain");
        assert_eq!(config.moniker, "lighthouse");
        assert_eq!(config.external.as_deref(), Some("host:5"));
        assert_eq!(config.listen, all(&args.network.listen));
        assert_eq!(config.listen.len(), 2);
        assert_eq!(config.peers, [peer.parse().unwrap()]);
        assert_eq!(config.seeds, [seed.parse().unwrap()]);
        let id = |n: usize| PeerId::from_hex(&ids[n]).unwrap();
        assert_eq!(config.allow, [id(0)]);
        assert_eq!(config.private, [id(1)]);
        assert_eq!(config.unconditional, [id(2)]);
        assert!(config.allow_private && !config.length_prefixed && !config.pex);
        assert_eq!(config.max_inbound, 31);
        assert_eq!((config.send_rate, config.recv_rate), (32, 33));
        assert_eq!(config.partial_bytes, 34);
        assert_eq!(config.address_book, Some(home.address_book()));
        assert_eq!(config.more_books, [std::path::PathBuf::from("book")]);
    }

    #[test]
    fn peer_exchange_runs_where_it_is_needed() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path());
        let (peer, seed) = (format!("{ID}@peer:1"), format!("{ID}@seed:2"));
        let book = || {
            let book = format!(
                r#"{{"key":"00","addrs":[{{"addr":{{"id":"{ID}","ip":"8.8.8.8","port":1}},
                "src":{{"id":"{ID}","ip":"8.8.8.8","port":1}},"buckets":[1],"attempts":0,
                "bucket_type":1,"last_attempt":"2025-03-01T10:00:00Z"}}]}}"#
            );
            std::fs::write(home.address_book(), book).unwrap();
        };
        let of = |flags: &[&str]| {
            let args = sync_with(flags);
            let config = switch_config(&args.network, &args.peer, &home, "chain").unwrap();
            let company = has_company(&args.network, &args.peer, &home);
            (config.pex, config.length_prefixed, company)
        };
        // Exchange, prefixed frames, and whether there is anybody to sync from.
        assert_eq!(of(&[]), (false, true, false));
        assert_eq!(of(&["--peer", &peer]), (false, true, true));
        assert_eq!(of(&["--seed", &seed]), (true, true, true));
        assert_eq!(of(&["--peer", &peer, "--seed", &seed]), (true, true, true));
        assert_eq!(of(&["--peer", &peer, "--pex"]), (true, true, true));
        let listen = ["--listen", "plain://127.0.0.1:0"];
        assert_eq!(of(&listen), (false, true, true));
        book();
        assert_eq!(of(&[]), (true, true, true));
        assert_eq!(of(&["--peer", &peer]), (false, true, true));
        assert_eq!(of(&["--pex=false"]), (false, true, false));
    }

    /// Events cost, and can only be read where results are kept.
    #[test]
    fn the_built_in_application_makes_events_where_results_are_kept() {
        let made = |flags: &[&str]| {
            let app = application(&sync_with(flags).chain).unwrap();
            format!("{app:?}")
        };
        let plain: AnyApp = "kvstore".parse().unwrap();
        assert_eq!(made(&[]), format!("{plain:?}"));
        let with_events = format!("{:?}", plain.with_events());
        assert_eq!(made(&["--retain-results", "all"]), with_events);
        assert_eq!(made(&["--retain-results", "9"]), with_events);
        assert_ne!(made(&[]), with_events);
    }

    #[test]
    fn nodes_of_v1_are_taken_where_its_rules_come() {
        let of = |rules: &str| are_of_v1(&RuleSchedule::parse(rules).unwrap());
        assert!(!of("comet-0.38") && !of("1:comet-0.34,9:comet-0.37"));
        assert!(of("comet-1.0") && of("1:comet-0.38,9:comet-1.0"));
    }
}
