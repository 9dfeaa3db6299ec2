//! An application behind gRPC: `tonic`'s half of a server, over hyper, with the service of CometBFT
//! 0.38.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use blocksync::app::{AbciClient, App, AppError, AppInfo, InitChain, InitChainResponse, Spoken};
use blocksync::chain::execution::TxResult;
use blocksync::chain::{AbciVersion, FinalizeBlock, FinalizeResponse, Rules};
use blocksync::ids::{Address, Hash, Height};
use blocksync::pool::{LocalFault, Outcome};
use blocksync::service::{StartError, Status as SyncStatus};
use blocksync::store::{MemStore, Store};
use blocksync::wire::proto::abci::{self, request, response};
use blocksync_testkit::app::socket::{self, Served};
use blocksync_testkit::baseapp::Living;
use blocksync_testkit::chain::TestChain;
use blocksync_testkit::peers::Behaviour;
use blocksync_testkit::recorded::{Recorded, clock, config};
use bytes::Bytes;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use prost::Message;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::server::Grpc;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use crate::abci_versions::sync_over;

/// Answers and requests longer than gRPC's usual 4 MiB.
const LONGEST: usize = 64 << 20;

/// A server and its application.
#[derive(Clone)]
struct Server<A> {
    app: Arc<Mutex<A>>,
    /// The block that it says no to.
    refuses: i64,
    /// The block after whose execution the process ends, once, and is started again.
    dies: Arc<AtomicI64>,
    /// Called when it does.
    restart: fn(&A),
    /// The process of this connection has ended; and its connection, a moment later.
    dead: CancellationToken,
    connection: CancellationToken,
}

impl<A: App + Clone> Server<A> {
    fn new(app: A) -> Self {
        Server {
            app: Arc::new(Mutex::new(app)),
            refuses: 0,
            dies: Arc::default(),
            restart: |_| {},
            dead: CancellationToken::new(),
            connection: CancellationToken::new(),
        }
    }

    /// Listens. Gives the place, HOST:PORT.
    async fn serve(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let place = listener.local_addr().unwrap().to_string();
        let server = self.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(server.clone().connection(socket));
            }
        });
        place
    }

    async fn connection(mut self, socket: TcpStream) {
        socket.set_nodelay(true).unwrap();
        (self.dead, self.connection) = (CancellationToken::new(), CancellationToken::new());
        let ended = self.connection.clone();
        let calls = tower::service_fn(move |request| {
            let server = self.clone();
            async move { Ok::<_, Infallible>(server.call(request).await) }
        });
        let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(socket), TowerToHyperService::new(calls));
        tokio::select! {
            biased;
            () = ended.cancelled() => {}
            _ = connection => {}
        }
    }

    fn call(
        self,
        request: http::Request<Incoming>,
    ) -> Pin<Box<dyn Future<Output = http::Response<Body>> + Send>> {
        let path = request.uri().path().to_owned();
        macro_rules! methods {
            ($($name:ident),*) => {
                match path.strip_prefix("/tendermint.abci.ABCI/") {
                    $(Some(stringify!($name)) => {
                        let ask = request::Value::$name;
                        Box::pin(self.unary(request, ask, |answer| match answer {
                            response::Value::$name(answer) => answer,
                            other => panic!("{other:?}"),
                        }))
                    })*
                    other => panic!("we do not call {path}, {other:?}"),
                }
            };
        }
        methods!(
            Echo,
            Info,
            InitChain,
            ProcessProposal,
            FinalizeBlock,
            Commit
        )
    }

    /// One method of the service.
    async fn unary<Q, R>(
        self,
        request: http::Request<Incoming>,
        ask: fn(Q) -> request::Value,
        answer: fn(response::Value) -> R,
    ) -> http::Response<Body>
    where
        Q: prost::Message + Default + 'static,
        R: prost::Message + Default + 'static,
    {
        let method = tower::service_fn(move |request: Request<Q>| {
            let server = self.clone();
            async move {
                let found = server.answer(ask(request.into_inner())).await?;
                Ok(Response::new(answer(found)))
            }
        });
        let mut grpc = Grpc::new(ProstCodec::<R, Q>::default()).max_decoding_message_size(LONGEST);
        grpc.unary(method, request).await
    }

    async fn answer(&self, asked: request::Value) -> Result<response::Value, Status> {
        if self.dead.is_cancelled() {
            std::future::pending::<()>().await;
        }
        let height = match &asked {
            request::Value::FinalizeBlock(block) => block.height,
            request::Value::ProcessProposal(block) if block.height == self.refuses => {
                return Err(Status::unimplemented("unknown method ProcessProposal"));
            }
            _ => 0,
        };
        if height != 0 && height == self.refuses {
            let why = format!("UPGRADE \"v2\" NEEDED at height: {height}: ");
            return Err(Status::unknown(why));
        }
        let mut served = Served::new(AbciVersion::V038, self.app.clone());
        let answer = served.answers(asked).await.remove(0);
        let dies = height != 0
            && self
                .dies
                .compare_exchange(height, 0, Ordering::SeqCst, Ordering::SeqCst)
                .is_ok();
        if dies {
            self.dead.cancel();
            (self.restart)(&*self.app.lock().await);
            // The answer is on its way before the connection ends.
            let connection = self.connection.clone();
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(100)).await;
                connection.cancel();
            });
        }
        Ok(answer)
    }
}

/// Syncs a made chain to the block below its tip, or until it cannot go on.
async fn sync(
    chain: &Arc<Recorded>,
    store: &Arc<MemStore>,
    rules: Rules,
    address: &str,
) -> Result<SyncStatus, StartError> {
    let mut config = config(3);
    config.rules = rules.into();
    config.pool.until = Some(chain.tip().prev());
    sync_over(address, config, (chain, Behaviour::Honest), store).await
}

fn made() -> Arc<Recorded> {
    Recorded::of(&TestChain::builder(71).heights(30).txs(3, 50).build())
}

fn heights(to: u64) -> Vec<Height> {
    (1..=to).map(Height::new).collect()
}

fn block(height: u64, txs: Vec<Bytes>) -> FinalizeBlock {
    FinalizeBlock {
        txs,
        decided_last_commit: Default::default(),
        misbehavior: Vec::new(),
        hash: Hash([1; 32]),
        height: Height::new(height),
        time: clock(),
        next_validators_hash: None,
        proposer_address: Address([2; 20]),
        header: None,
        syncing_to: Height::new(height),
    }
}

#[tokio::test]
async fn a_chain_is_executed_over_grpc() {
    let (app, chain) = (Living::new(true), made());
    let place = Server::new(app.clone()).serve().await;
    let (store, address) = (Arc::new(MemStore::new()), format!("grpc://{place}"));
    let asked = AbciClient::new(&address).unwrap().versions().await.unwrap();
    let (versions, height) = (vec![AbciVersion::V038], Height::ZERO);
    assert_eq!(asked, Spoken { versions, height });
    let status = sync(&chain, &store, Rules::COMET_038, &address).await;
    let status = status.unwrap();
    assert_eq!(status.applied, Height::new(29), "{status:?}");
    let hash = chain.app_hash_after(status.applied);
    assert_eq!(hex::encode(&status.app_hash), hash);
    assert_eq!(app.commits(), heights(29));
}

/// A client that mends its connection by itself would have it commit what it does not hold.
#[tokio::test]
async fn an_application_that_restarts_before_it_commits_is_given_the_block_again() {
    let (app, chain) = (Living::new(true), made());
    let mut server = Server::new(app.clone());
    server.restart = Living::restart;
    server.dies = Arc::new(AtomicI64::new(12));
    let place = server.serve().await;
    let store = Arc::new(MemStore::new());
    let status = sync(&chain, &store, Rules::COMET_038, &format!("grpc://{place}")).await;
    let status = status.unwrap();
    assert_eq!(status.applied, Height::new(29), "{status:?}");
    assert_eq!(server.dies.load(Ordering::SeqCst), 0, "it has died");
    let hash = chain.app_hash_after(status.applied);
    assert_eq!(hex::encode(&status.app_hash), hash);
    assert_eq!(app.commits(), heights(29), "each block takes effect once");
}

#[tokio::test]
async fn an_upgrade_is_a_refusal_over_grpc_too() {
    let (app, chain) = (Living::new(true), made());
    let mut server = Server::new(app.clone());
    server.refuses = 7;
    let place = server.serve().await;
    let store = Arc::new(MemStore::new());
    let address = format!("grpc://{place}");
    let ended = sync(&chain, &store, Rules::COMET_038, &address).await;
    let outcome = ended.unwrap().outcome;
    let Outcome::LocalFault(LocalFault::Halted { height, why }) = &outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(*height, Height::new(7));
    assert!(why.contains("UPGRADE \"v2\" NEEDED"), "{why}");
    assert_eq!(store.span().unwrap().applied, Height::new(6));
    assert_eq!(app.commits(), heights(6));

    // An application that does not know of proposals is fine, and a refusal ends no connection.
    let mut client = AbciClient::new(&address).unwrap();
    client.announce_block(&block(7, Vec::new())).await.unwrap();
    let refused = client.finalize_block(block(7, Vec::new())).await;
    let refused = refused.unwrap_err();
    assert!(refused.refuses_height().is_some(), "{refused}");
    client.ping().await.unwrap();
}

/// Answers each transaction with as many bytes.
#[derive(Clone)]
struct Loud;

impl App for Loud {
    async fn info(&mut self) -> Result<AppInfo, AppError> {
        Ok(AppInfo::default())
    }

    async fn init_chain(&mut self, _: InitChain) -> Result<InitChainResponse, AppError> {
        Ok(InitChainResponse::default())
    }

    async fn finalize_block(&mut self, block: FinalizeBlock) -> Result<FinalizeResponse, AppError> {
        let result = |data| TxResult {
            data,
            ..Default::default()
        };
        Ok(FinalizeResponse {
            tx_results: block.txs.into_iter().map(result).collect(),
            ..Default::default()
        })
    }

    async fn commit(&mut self) -> Result<Height, AppError> {
        Ok(Height::ZERO)
    }
}

#[tokio::test]
async fn big_blocks_and_big_answers_pass() {
    let place = Server::new(Loud).serve().await;
    let mut client = AbciClient::new(&format!("grpc://{place}")).unwrap();
    let txs = vec![Bytes::from(vec![7; 1 << 20]); 9];
    let answer = client.finalize_block(block(1, txs.clone())).await.unwrap();
    let found = answer.tx_results.into_iter().map(|result| result.data);
    assert!(found.eq(txs));
    // As it came: what the store keeps.
    let kept = abci::ResponseFinalizeBlock::decode(answer.encoded.unwrap()).unwrap();
    assert_eq!(kept.tx_results.len(), 9);
}

#[tokio::test]
async fn other_versions_over_grpc_are_said_not_to_be_spoken() {
    let (app, chain) = (Living::new(true), made());
    let place = Server::new(app.clone()).serve().await;
    let store = Arc::new(MemStore::new());
    let address = format!("grpc://{place}");
    for rules in [Rules::COMET_034, Rules::COMET_037, Rules::COMET_100] {
        let ended = sync(&chain, &store, rules, &address).await;
        let Err(StartError::Halted { why, .. }) = &ended else {
            panic!("{ended:?}");
        };
        for part in [&address, "over gRPC no other is spoken", rules.name] {
            assert!(why.contains(part), "{why} lacks {part}");
        }
    }
    assert!(app.commits().is_empty());

    // A server that has another service only.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let place = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let calls = tower::service_fn(|_: http::Request<Incoming>| async {
                let none = Status::unimplemented("unknown service tendermint.abci.ABCI");
                Ok::<_, Infallible>(none.into_http::<Body>())
            });
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let calls = TowerToHyperService::new(calls);
            let connection = server.serve_connection(TokioIo::new(socket), calls);
            tokio::spawn(connection);
        }
    });
    let address = format!("grpc://{place}");
    let ended = sync(&chain, &store, Rules::COMET_038, &address).await;
    let Err(StartError::Halted { height, why }) = &ended else {
        panic!("{ended:?}");
    };
    assert_eq!(*height, Height::new(1));
    assert!(why.contains("unknown service"), "{why}");
}

#[tokio::test]
async fn the_wrong_kind_of_port_is_named_both_ways() {
    let grpc = Server::new(Living::new(true)).serve().await;
    let mut client = AbciClient::new(&format!("tcp://{grpc}")).unwrap();
    let said = client.info().await.unwrap_err().to_string();
    assert!(said.contains("name it as grpc://HOST:PORT"), "{said}");

    let app = Arc::new(Mutex::new(Living::new(true)));
    let socket = socket::listen(AbciVersion::V038, app).await;
    let address = socket.replace("tcp://", "grpc://");
    let mut client = AbciClient::new(&address).unwrap();
    let lost = client.info().await.unwrap_err();
    let said = lost.to_string();
    assert!(lost.is_lost(), "{said}");
    assert!(said.contains("is it a gRPC port?"), "{said}");

    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("grpc://{}", nobody.local_addr().unwrap());
    drop(nobody);
    let client = AbciClient::new(&address).unwrap();
    let lost = client.connect_for(Duration::ZERO).info().await.unwrap_err();
    assert!(lost.is_lost() && lost.to_string().contains(&address));
}
