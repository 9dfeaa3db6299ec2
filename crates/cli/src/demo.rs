//! `blocksync demo`: the whole of it, on a chain that is part of the program.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use blocksync::app::{AnyApp, KvStore};
use blocksync::blockfile::BlockFile;
use blocksync::chain::Genesis;
use blocksync::ids::Height;
use blocksync::p2p::{self, ListenAddr, NodeKey, PeerAddr, Switch};
use blocksync::service::{Config, Status};
use blocksync::store::{LmdbStore, Store};
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::assets::{BLOCKS, EXPECTED, GENESIS, TIP_COMMIT};
use crate::demo_servers;
use crate::failure::{Exit, Failure};
use crate::home::Home;
use crate::import;
use crate::node::{self, Service};
use crate::run::{self, Goal, Patience};
use crate::signals;
use crate::sync;

/// Buffered bytes of blocks, in this small world.
const BUDGET: u64 = 64 << 20;
/// How long nothing may move.
const PATIENCE: Duration = Duration::from_secs(20);
/// The honest servers.
const HONEST: usize = 3;

/// CometBFT's record of a height.
#[derive(Deserialize)]
struct Recorded {
    height: u64,
    block_hash: String,
    app_hash_after: String,
}

/// Shows it.
///
/// # Errors
/// When anything is not as CometBFT recorded it.
pub(crate) async fn run() -> Result<Exit, Failure> {
    let stop = signals::stop_token()?;
    let genesis = Genesis::parse(&GENESIS).map_err(|e| Failure::failed(e.to_string()))?;
    let recorded = recorded()?;
    introduce(&genesis, &recorded);
    let place = Place::new()?;

    outln!("\n1. A first node takes the chain from a file, proves every block and executes it.");
    let first = place.home("first")?;
    let (store, status, seconds) = import_all(&first, &place, &stop).await?;
    outln!("   Height {} after {seconds:.2} s.", status.applied);

    outln!(
        "\n2. {HONEST} servers answer from its store over TCP. A fourth one lies: it alters a transaction in every block."
    );
    let off = CancellationToken::new();
    let servers = Servers::start(store, &genesis.chain_id, &off).await?;
    for (at, honest) in &servers.addresses {
        outln!("   {at}  {}", if *honest { "honest" } else { "liar" });
    }

    outln!("\n3. A fresh node, which knows nothing but the genesis, syncs from all four.");
    let second = place.home("second")?;
    let (store, status, seconds) = sync_from(&second, &servers, &stop).await?;
    tell(&status, &servers, seconds);

    outln!("\n4. What it has, against what CometBFT recorded when it made this chain:");
    let result = compare(&*store, &status, &recorded);
    // The servers go even when the comparison fails; its result is looked at after that.
    off.cancel();
    result?;
    outln!(
        "\nThe hashes agree. Next: sync a chain of your own, `blocksync sync --help` shows how."
    );
    Ok(Exit::Reached)
}

fn recorded() -> Result<Vec<Recorded>, Failure> {
    let lines = EXPECTED.lines().map(serde_json::from_str);
    let all: Result<Vec<Recorded>, _> = lines.collect();
    all.map_err(|e| Failure::failed(format!("expected.jsonl: {e}")))
}

fn introduce(genesis: &Genesis, recorded: &[Recorded]) {
    let (first, last) = (recorded.first(), recorded.last());
    let height = |r: Option<&Recorded>| r.map_or(0, |r| r.height);
    outln!(
        "The chain {:?}, recorded from CometBFT 0.38: {} blocks, heights {} to {}, {:.1} MB.\n\
         {} validators at first; others join, leave and change power. There are absent votes and votes for nil, rounds above 0,\n\
         evidence of double signing and of a light-client attack, vote extensions from height 60, and blocks of several parts.",
        genesis.chain_id,
        recorded.len(),
        height(first),
        height(last),
        BLOCKS.len() as f64 / 1e6,
        genesis.validators.len(),
    );
}

/// A temporary directory; gone at the end.
struct Place(PathBuf);

impl Place {
    fn new() -> Result<Self, Failure> {
        let dir = std::env::temp_dir().join(format!("blocksync-demo-{}", std::process::id()));
        let place = Place(dir);
        let written = std::fs::create_dir_all(&place.0)
            .and_then(|()| std::fs::write(place.genesis(), &*GENESIS))
            .and_then(|()| std::fs::write(place.blocks(), &*BLOCKS));
        written.map_err(|e| Failure::failed(format!("{}: {e}", place.0.display())))?;
        Ok(place)
    }

    fn genesis(&self) -> PathBuf {
        self.0.join("genesis.json")
    }

    fn blocks(&self) -> PathBuf {
        self.0.join("blocks.bin")
    }

    fn home(&self, name: &str) -> Result<crate::home::Opened, Failure> {
        Home::at(&self.0.join(name)).open_with(Some(&self.genesis()), None)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Remains lie in the system's temporary directory.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn config() -> Config {
    let mut config = Config::default();
    config.pool.budget_bytes = BUDGET;
    // Four peers are all that there will ever be.
    config.pool.statuses = 1;
    config
}

async fn import_all(
    home: &crate::home::Opened,
    place: &Place,
    stop: &CancellationToken,
) -> Result<(Arc<LmdbStore>, Status, f64), Failure> {
    let file = BlockFile::open(&place.blocks(), Some(TIP_COMMIT.clone().into()));
    let file = file.map_err(|flaw| Failure::failed(flaw.to_string()))?;
    let mut config = config();
    config.pool.until = Some(file.provable());
    let since = Instant::now();
    let service = start(home, config, stop).await?;
    let (end, _) = import::feed(&service, file, None, stop).await;
    service.stop().await;
    end.result?;
    Ok((
        home.store.clone(),
        end.status,
        since.elapsed().as_secs_f64(),
    ))
}

async fn start(
    home: &crate::home::Opened,
    mut config: Config,
    stop: &CancellationToken,
) -> Result<Service, Failure> {
    config.app_state = Some(home.app_state.clone());
    node::start(
        home.store.clone(),
        // The chain was recorded with CometBFT's kvstore, whose application
        // hash is compared at the end.
        AnyApp::KvStore(KvStore::new()),
        home.genesis.clone(),
        config,
        stop,
    )
    .await
}

/// The servers that the fresh node is told of.
struct Servers {
    addresses: Vec<(PeerAddr, bool)>,
    chain_id: String,
}

impl Servers {
    async fn start(
        store: Arc<dyn Store>,
        chain_id: &str,
        off: &CancellationToken,
    ) -> Result<Self, Failure> {
        let mut addresses = Vec::new();
        // The liar comes first, so that it is asked before the others have given everything.
        for n in 0..=HONEST {
            let honest = n > 0;
            let mut config = p2p::Config::new(NodeKey::generate(), chain_id);
            config.listen = vec![ListenAddr {
                plain: true,
                address: ([127, 0, 0, 1], 0).into(),
            }];
            let (links, come) = mpsc::channel(4);
            let switch = Switch::start(config, links, off.clone()).await;
            let switch = switch.map_err(|e| Failure::failed(e.to_string()))?;
            for at in switch.listening() {
                let (host, port) = (at.address.ip().to_string(), at.address.port());
                addresses.push((PeerAddr::Plain { host, port }, honest));
            }
            demo_servers::start(store.clone(), come, honest)?;
        }
        Ok(Servers {
            addresses,
            chain_id: chain_id.to_owned(),
        })
    }

    fn is_liar(&self, peer: blocksync::ids::PeerId) -> bool {
        self.addresses
            .iter()
            .any(|(at, honest)| !honest && at.id() == peer)
    }
}

async fn sync_from(
    home: &crate::home::Opened,
    servers: &Servers,
    stop: &CancellationToken,
) -> Result<(Arc<LmdbStore>, Status, f64), Failure> {
    let mut config = config();
    // Small shares, so that all four are asked although the chain is short.
    config.pool.asks_per_ranged_peer = 8;
    config.pool.until = recorded()?.last().map(|r| Height::new(r.height));
    let until = config.pool.until;
    let since = Instant::now();
    let service = start(home, config, stop).await?;
    let off = CancellationToken::new();
    let (links, come) = mpsc::channel(4);
    let mut network = p2p::Config::new(NodeKey::generate(), &servers.chain_id);
    network.peers = servers.addresses.iter().map(|(at, _)| at.clone()).collect();
    let switch = Switch::start(network, links, off.clone()).await;
    let switch = switch.map_err(|e| Failure::failed(e.to_string()))?;
    tokio::spawn(sync::introduce(come, service.peers()));
    let goal = Goal {
        first: home.genesis.initial_height,
        until,
        halt: None,
        caught_up: false,
        trust: None,
        patience: Patience::SinceBlock(PATIENCE),
    };
    let end = run::drive(&service, goal, stop).await;
    off.cancel();
    service.stop().await;
    switch.stopped().await;
    end.result?;
    Ok((
        home.store.clone(),
        end.status,
        since.elapsed().as_secs_f64(),
    ))
}

fn tell(status: &Status, servers: &Servers, seconds: f64) {
    for dropped in &status.dropped {
        let who = if servers.is_liar(dropped.peer) {
            "the liar"
        } else {
            "an honest server"
        };
        outln!("   Dropped {} ({who}): {}", dropped.address, dropped.reason);
    }
    if !status.dropped.iter().any(|d| servers.is_liar(d.peer)) {
        outln!("   The liar's blocks were not needed this time: others were faster.");
    }
    outln!(
        "   Height {} after {seconds:.2} s: {} blocks, {:.0} a second, every one proven, executed and stored.",
        status.applied,
        status.blocks(),
        status.blocks() as f64 / seconds
    );
}

/// Every block hash, and the application's hash after the last block.
fn compare(store: &dyn Store, status: &Status, recorded: &[Recorded]) -> Result<(), Failure> {
    let mut equal = 0;
    // The header's hash binds the whole block, so equal hashes are equal blocks.
    for line in recorded {
        let height = Height::new(line.height);
        let found = store.block(height)?.and_then(|b| b.id.hash);
        let found = found.map_or_else(|| "none".to_owned(), |h| h.to_string());
        if found != line.block_hash {
            return Err(differs(
                &format!("block {height}"),
                &line.block_hash,
                &found,
            ));
        }
        equal += 1;
    }
    outln!("   {equal} block hashes: all equal");
    let Some(last) = recorded.last() else {
        return Ok(());
    };
    let found = hex::encode(&status.app_hash);
    outln!("   application hash after {}:", last.height);
    outln!("      ours      {found}");
    outln!("      CometBFT  {}", last.app_hash_after);
    if found != last.app_hash_after {
        return Err(differs("the application", &last.app_hash_after, &found));
    }
    Ok(())
}

fn differs(what: &str, expected: &str, found: &str) -> Failure {
    Failure::contradiction(format!(
        "{what}: CometBFT recorded the hash {expected}, found {found}"
    ))
}
