//! An application that is served over the four connections of CometBFT, and by nothing less.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use blocksync::app::{
    AbciClient, App, AppError, AppInfo, Connections, InitChain, InitChainResponse,
};
use blocksync::chain::{AbciVersion, FinalizeBlock, FinalizeResponse};
use blocksync::ids::Height;
use blocksync::service::BlockSync;
use blocksync::store::MemStore;
use blocksync_testkit::app::socket::Served;
use blocksync_testkit::baseapp::Living;
use blocksync_testkit::chain::TestChain;
use blocksync_testkit::peers::{Behaviour, scripted};
use blocksync_testkit::recorded::{Recorded, config};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

const GUARD: Duration = Duration::from_secs(60);

/// A connection's number, in the order of its opening, and a call that came over it.
type Calls = Arc<Mutex<Vec<(usize, &'static str)>>>;

/// The application as one of its connections has it.
struct Line {
    number: usize,
    app: Living,
    calls: Calls,
}

impl Line {
    fn note(&self, call: &'static str) {
        self.calls.lock().unwrap().push((self.number, call));
    }
}

impl App for Line {
    async fn info(&mut self) -> Result<AppInfo, AppError> {
        self.note("Info");
        self.app.info().await
    }

    async fn init_chain(&mut self, request: InitChain) -> Result<InitChainResponse, AppError> {
        self.note("InitChain");
        self.app.init_chain(request).await
    }

    async fn finalize_block(&mut self, block: FinalizeBlock) -> Result<FinalizeResponse, AppError> {
        self.note("FinalizeBlock");
        self.app.finalize_block(block).await
    }

    async fn commit(&mut self) -> Result<Height, AppError> {
        self.note("Commit");
        self.app.commit().await
    }
}

/// Serves each four connections, once all are there, until the next four come: then the
/// application has been restarted. Gives the address.
async fn listen(app: &Living, calls: &Calls, lives: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("tcp://{}", listener.local_addr().unwrap());
    let (app, calls) = (app.clone(), calls.clone());
    tokio::spawn(async move {
        for life in 1..=lives {
            let mut sockets = Vec::new();
            for _ in 0..4 {
                sockets.push(listener.accept().await.unwrap().0);
            }
            let lines = sockets.into_iter().enumerate().map(|(number, socket)| {
                let (app, calls) = (app.clone(), calls.clone());
                let line = Line { number, app, calls };
                let line = Arc::new(tokio::sync::Mutex::new(line));
                let served = Served::new(AbciVersion::V038, line).serve(socket);
                AbortOnDropHandle::new(tokio::spawn(served))
            });
            let lines: Vec<_> = lines.collect();
            let half_way = || app.commits().len() >= 10;
            while life == lives || !half_way() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            drop(lines);
            app.restart();
        }
    });
    address
}

#[tokio::test]
async fn an_application_that_waits_for_four_connections_is_synced_into() {
    let (app, calls) = (Living::new(true), Calls::default());
    let address = listen(&app, &calls, 2).await;
    let chain = Recorded::of(&TestChain::builder(72).heights(300).txs(1, 20).build());
    let last = chain.tip().prev();
    let client = AbciClient::new(&address).unwrap();
    let client = client.connections(Connections::Four);
    let mut config = config(3);
    config.pool.until = Some(last);
    let service = BlockSync::builder(Arc::new(MemStore::new()), client, chain.genesis.clone());
    let handle = service.config(config).spawn().await.unwrap();
    let peer = scripted(&chain, 1, Behaviour::Honest, Duration::ZERO);
    handle.add_peer(peer).await.unwrap();
    let mut status = handle.status();
    // Not the guard that it gives: the service could not write the status while it lives.
    let done = tokio::time::timeout(GUARD, status.wait_for(|s| s.applied == last))
        .await
        .is_ok();
    assert!(done, "{:?}", handle.status().borrow());
    let app_hash = hex::encode(&handle.status().borrow().app_hash);
    assert_eq!(app_hash, chain.app_hash_after(last));
    handle.stop().await;
    let all: Vec<Height> = (1..=last.get()).map(Height::new).collect();
    assert_eq!(app.commits(), all, "each block takes effect once");

    let calls = calls.lock().unwrap();
    let asked = calls.iter().filter(|(_, call)| *call == "Info").count();
    assert!(asked >= 2, "once a life: {asked}");
    for (number, call) in calls.iter() {
        let wanted = if *call == "Info" { 0 } else { 3 };
        assert_eq!(*number, wanted, "{call}");
    }
}

/// One connection is not enough for it: that is what the setting is for.
#[tokio::test]
async fn one_connection_is_the_default() {
    let (app, calls) = (Living::new(true), Calls::default());
    let address = listen(&app, &calls, 1).await;
    let mut client = AbciClient::new(&address).unwrap();
    let silent = tokio::time::timeout(Duration::from_millis(300), client.info()).await;
    assert!(silent.is_err(), "{silent:?}");

    let address = listen(&app, &calls, 1).await;
    let client = AbciClient::new(&address).unwrap();
    let mut client = client.connections(Connections::Four);
    tokio::time::timeout(GUARD, client.info())
        .await
        .expect("an answer in time")
        .unwrap();
    client.ping().await.unwrap();
}
