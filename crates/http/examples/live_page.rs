//! A status page that lives: a service syncs a recorded chain from a slow peer, after it has caught
//! a liar. `contrib/page/check.sh` looks at it with a browser.
//!
//! `cargo run -p blocksync-http --example live_page` prints the page's address. A line on standard
//! input adds a fast peer, with which the sync comes to its end; the end of the input ends it all.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use blocksync::app::KvStore;
use blocksync::chain::Genesis;
use blocksync::ids::PeerId;
use blocksync::pool::Outcome;
use blocksync::service::{BlockSync, View};
use blocksync::store::{MemStore, Store};
use blocksync_http::{Http, Identity, Node, Options, Transport};
use blocksync_testkit::peers::{Behaviour, scripted};
use blocksync_testkit::recorded::{Recorded, chain_dir, config};
use tokio::sync::mpsc;

const CHAIN: &str = "full-038";
/// Time that the slow peer takes for a block.
const SLOWLY: Duration = Duration::from_millis(100);
/// Name of an address that would run a script on a page which did not escape it.
const EVIL: &str = "<img src=x onerror=alert(1)>";

type Failure = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let chain = Recorded::load(CHAIN);
    let store = Arc::new(MemStore::new());
    let mut config = config(7);
    config.pool.until = Some(chain.tip().prev());
    let sync = BlockSync::builder(store.clone(), KvStore::new(), chain.genesis.clone());
    let handle = sync.config(config).spawn().await?;
    let http = listener(store, handle.view())?;

    let height = chain.initial.get() + 2;
    let mut liar = scripted(
        &chain,
        1,
        Behaviour::LiesInTransaction(height),
        Duration::ZERO,
    );
    liar.address = EVIL.to_owned();
    handle.add_peer(liar).await?;
    let mut status = handle.status();
    status.wait_for(|s| !s.dropped.is_empty()).await?;
    let mut slow = scripted(&chain, 2, Behaviour::Slow(SLOWLY), Duration::ZERO);
    slow.address = EVIL.to_owned();
    handle.add_peer(slow).await?;
    println!("http://{}/", http.address());

    let mut input = input_lines();
    if input.recv().await.is_some() {
        let fast = scripted(&chain, 3, Behaviour::Honest, Duration::ZERO);
        handle.add_peer(fast).await?;
        let done = handle.outcome(|o| matches!(o, Outcome::ReachedTarget { .. }));
        done.await?;
        while input.recv().await.is_some() {}
    }
    handle.stop().await;
    Ok(())
}

/// Lines of standard input, until it ends.
fn input_lines() -> mpsc::Receiver<String> {
    let (to, lines) = mpsc::channel(1);
    std::thread::spawn(move || {
        let mut read = std::io::stdin().lines().map_while(Result::ok);
        // Without a receiver the program is at its end.
        read.try_for_each(|line| to.blocking_send(line))
    });
    lines
}

fn listener(store: Arc<dyn Store>, view: View) -> Result<Http, Failure> {
    let file = std::fs::read(chain_dir(CHAIN).join("genesis.json"))?;
    let node = Node {
        store,
        genesis: Genesis::parse(&file)?,
        genesis_file: file.into(),
        rules: config(7).rules,
        identity: Identity {
            id: PeerId([7; 20]),
            public_key: [7; 32],
            moniker: "shown".to_owned(),
            listen_addr: String::new(),
            listening: Vec::new(),
            rpc_address: String::new(),
        },
        keeps_results: false,
        serving: view.serving().clone(),
        view: Some(view),
        network: Box::new(Vec::new),
        transport: Box::new(Transport::default),
        store_dir: None,
    };
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    Ok(Http::start(any, node, Options::default())?)
}
