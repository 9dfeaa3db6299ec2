//! Block sync inside a program of your own: sync from peers, then let consensus take over.
//!
//! `cargo run --example library -- GENESIS PEER,…`

use std::sync::Arc;

use blocksync::app::KvStore;
use blocksync::chain::Genesis;
use blocksync::p2p::{Config, NodeKey, PeerAddr, Switch};
use blocksync::pool::Outcome;
use blocksync::service::BlockSync;
use blocksync::store::MemStore;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let (Some(genesis), Some(peers)) = (args.next(), args.next()) else {
        anyhow::bail!("usage: library GENESIS PEER,…");
    };
    let genesis = Genesis::parse(&std::fs::read(genesis)?)?;

    // Connections come from a switch, or from streams of your own with `p2p::plain::link`.
    let mut network = Config::new(NodeKey::generate(), &genesis.chain_id);
    network.peers = PeerAddr::parse_list(&peers)?;
    let (links, mut come) = mpsc::channel(16);
    let off = CancellationToken::new();
    let switch = Switch::start(network, links, off.clone()).await?;

    // Any `Store` and any `App` will do; `LmdbStore` is the store that survives.
    let store = Arc::new(MemStore::new());
    let service = BlockSync::builder(store, KvStore::new(), genesis);
    let mut service = service.spawn().await?;
    let peers = service.peers();
    tokio::spawn(async move {
        while let Some(link) = come.recv().await {
            if peers.add(link).await.is_err() {
                return;
            }
        }
    });

    let caught_up = |outcome: &Outcome| matches!(outcome, Outcome::CaughtUp { .. });
    let status = service.outcome(caught_up).await?;
    let app_hash = hex::encode(&status.app_hash);
    println!(
        "caught up at height {}, app hash {app_hash}",
        status.applied
    );

    // While consensus has the hand-over it owns the store's only writer; given back, block sync
    // goes on. Peers are served all the time.
    let hand_over = service.hand_over().await?;
    println!(
        "consensus begins at height {}",
        hand_over.state.next_height()
    );
    service.resume(hand_over).await?;

    service.stop().await;
    off.cancel();
    switch.stopped().await;
    Ok(())
}
