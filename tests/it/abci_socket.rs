//! The whole service with an application of another implementation behind a real socket:
//! `tower-abci`'s server, whose requests are decoded by `tendermint-proto`. A tap between the two
//! takes down every byte that we send; what it has heard is held against the chain.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use blocksync::app::{AbciClient, App, InitChain, KvStore};
use blocksync::chain::execution::UpdateKey;
use blocksync::chain::{FinalizeBlock, Validator};
use blocksync::ids::Height;
use blocksync::service::{BlockSync, Config};
use blocksync::store::{Batch, MemStore, Store};
use blocksync::wire::{convert, decode, proto::abci as ours};
use blocksync_testkit::peers::{Behaviour, scripted};
use blocksync_testkit::recorded::{self as common, Recorded};
use bytes::Bytes;
use futures::executor::block_on;
use prost_0_13::Message;
use tendermint::v0_38::abci::{
    ConsensusRequest, ConsensusResponse, InfoRequest, InfoResponse, MempoolRequest,
    MempoolResponse, SnapshotRequest, SnapshotResponse, response,
};
use tendermint_proto::v0_38::abci as theirs;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixStream};
use tower_abci::BoxError;
use tower_abci::v038::Server;

/// The application: our kvstore, durable as an application of its own is.
#[derive(Clone)]
struct Kv(Arc<Mutex<(KvStore, MemStore)>>);

type Answer<T> = Pin<Box<dyn Future<Output = Result<T, BoxError>> + Send>>;

fn ready<T: Send + 'static>(answer: T) -> Answer<T> {
    Box::pin(std::future::ready(Ok(answer)))
}

/// From their types to ours, by the bytes.
fn ours<T: prost::Message + Default>(theirs: impl Message) -> T {
    T::decode(&theirs.encode_to_vec()[..]).unwrap()
}

fn block(request: ours::RequestFinalizeBlock) -> FinalizeBlock {
    let misbehavior = |m: ours::Misbehavior| blocksync::chain::Misbehavior {
        kind: m.r#type,
        address: blocksync::ids::Address::from_slice(&m.validator.clone().unwrap().address)
            .unwrap(),
        power: m.validator.unwrap().power,
        height: Height::from_wire(m.height).unwrap(),
        time: convert::time_from_proto(m.time.as_ref()).unwrap(),
        total_voting_power: m.total_voting_power,
    };
    FinalizeBlock {
        txs: request.txs,
        decided_last_commit: Default::default(),
        misbehavior: request.misbehavior.into_iter().map(misbehavior).collect(),
        hash: blocksync::ids::Hash::from_slice(&request.hash).unwrap(),
        height: Height::from_wire(request.height).unwrap(),
        time: convert::time_from_proto(request.time.as_ref()).unwrap(),
        next_validators_hash: blocksync::ids::Hash::from_slice(&request.next_validators_hash),
        proposer_address: blocksync::ids::Address::from_slice(&request.proposer_address).unwrap(),
        header: None,
        syncing_to: Height::ZERO,
    }
}

impl Kv {
    fn consensus(&self, request: ConsensusRequest) -> ConsensusResponse {
        let mut guard = self.0.lock().unwrap();
        let (app, disk) = &mut *guard;
        match request {
            ConsensusRequest::InitChain(request) => {
                let request: ours::RequestInitChain = ours(theirs::RequestInitChain::from(request));
                let keys = request.validators.iter().map(convert::update_from_proto);
                let validators = keys.map(|update| match update.key {
                    UpdateKey::Known(key) => Validator::new(key, update.power),
                    other => panic!("{other:?}"),
                });
                let request = InitChain {
                    time: convert::time_from_proto(request.time.as_ref()).unwrap(),
                    chain_id: request.chain_id,
                    params: convert::params_from_proto(&request.consensus_params.unwrap()).unwrap(),
                    validators: validators.collect(),
                    app_state: request.app_state_bytes,
                    initial_height: Height::from_wire(request.initial_height).unwrap(),
                    rules: *blocksync::chain::RuleSchedule::default().at(Height::new(1)),
                };
                let answer = block_on(app.init_chain(request)).unwrap();
                ConsensusResponse::InitChain(response::InitChain {
                    consensus_params: None,
                    validators: Vec::new(),
                    app_hash: answer.app_hash.to_vec().try_into().unwrap(),
                })
            }
            ConsensusRequest::ProcessProposal(_) => {
                ConsensusResponse::ProcessProposal(response::ProcessProposal::Accept)
            }
            ConsensusRequest::FinalizeBlock(request) => {
                let request = theirs::RequestFinalizeBlock::from(request);
                let answer = block_on(app.finalize_block(block(ours(request)))).unwrap();
                let bytes = convert::finalize_response_to_bytes(&answer);
                let answer = theirs::ResponseFinalizeBlock::decode(bytes).unwrap();
                ConsensusResponse::FinalizeBlock(answer.try_into().unwrap())
            }
            ConsensusRequest::Commit => {
                let retain = block_on(app.commit()).unwrap();
                let app = app.take_writes();
                disk.commit(Batch {
                    app,
                    ..Batch::default()
                })
                .unwrap();
                ConsensusResponse::Commit(response::Commit {
                    data: Bytes::new(),
                    retain_height: u32::try_from(retain.get()).unwrap().into(),
                })
            }
            other => panic!("we do not send {other:?}"),
        }
    }

    fn info(&self, request: InfoRequest) -> InfoResponse {
        match request {
            InfoRequest::Echo(echo) => InfoResponse::Echo(response::Echo {
                message: echo.message,
            }),
            InfoRequest::Info(_) => {
                let info = futures::executor::block_on(self.0.lock().unwrap().0.info()).unwrap();
                InfoResponse::Info(response::Info {
                    data: String::from_utf8(info.data.to_vec()).unwrap(),
                    version: String::new(),
                    app_version: info.app_version,
                    last_block_height: u32::try_from(info.last_height.get()).unwrap().into(),
                    last_block_app_hash: info.last_app_hash.to_vec().try_into().unwrap(),
                })
            }
            other => panic!("we do not send {other:?}"),
        }
    }
}

macro_rules! service {
    ($request:ty, $response:ty, $answer:expr) => {
        impl tower::Service<$request> for Kv {
            type Response = $response;
            type Error = BoxError;
            type Future = Answer<$response>;

            fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
                Poll::Ready(Ok(()))
            }

            fn call(&mut self, request: $request) -> Self::Future {
                let answer: fn(&Kv, $request) -> $response = $answer;
                ready(answer(self, request))
            }
        }
    };
}

service!(ConsensusRequest, ConsensusResponse, Kv::consensus);
service!(InfoRequest, InfoResponse, Kv::info);
service!(MempoolRequest, MempoolResponse, |_, r| panic!(
    "we do not send {r:?}"
));
service!(SnapshotRequest, SnapshotResponse, |_, r| panic!(
    "we do not send {r:?}"
));

/// Passes bytes on to the server, and keeps those of the client.
async fn tap(listener: TcpListener, server: PathBuf, heard: Arc<Mutex<Vec<u8>>>) {
    loop {
        let (client, _) = listener.accept().await.unwrap();
        client.set_nodelay(true).unwrap();
        let server = loop {
            match UnixStream::connect(&server).await {
                Ok(server) => break server,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        };
        let ((mut from, mut back), (mut answers, mut to)) =
            (client.into_split(), server.into_split());
        tokio::spawn(async move { tokio::io::copy(&mut answers, &mut back).await });
        let heard = heard.clone();
        tokio::spawn(async move {
            let mut buffer = vec![0; 64 << 10];
            while let Ok(n @ 1..) = from.read(&mut buffer).await {
                heard.lock().unwrap().extend_from_slice(&buffer[..n]);
                if to.write_all(&buffer[..n]).await.is_err() {
                    return;
                }
            }
        });
    }
}

/// Syncs a recorded chain into the application over the socket; everything that we said to it,
/// message by message.
async fn session(chain: &Arc<Recorded>) -> (Vec<Bytes>, Arc<MemStore>) {
    let kv = Kv(Arc::new(Mutex::new((KvStore::new(), MemStore::new()))));
    // Its server writes the answer and that to the flush in two pieces: over TCP the second waits
    // for Nagle, 40 ms each time.
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("app.sock");
    let server = Server::builder()
        .consensus(kv.clone())
        .info(kv.clone())
        .mempool(kv.clone())
        .snapshot(kv)
        .finish()
        .unwrap();
    tokio::spawn(server.listen_unix(path.clone()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("tcp://{}", listener.local_addr().unwrap());
    let heard = Arc::new(Mutex::new(Vec::new()));
    tokio::spawn(tap(listener, path, heard.clone()));

    let store = Arc::new(MemStore::new());
    let app = AbciClient::new(&address).unwrap();
    let last = chain.tip().prev();
    let mut config = Config::default();
    config.clock = common::clock;
    config.pool.until = Some(last);
    // Kept where the sync does not end: `blocksync replay` shows what the scheduler was given.
    let recording = tempfile::tempdir().unwrap().keep().join("recording");
    config.record = Some(blocksync::service::Recording::new(&recording));
    let service = BlockSync::builder(store.clone(), app, chain.genesis.clone());
    let handle = service.config(config).spawn().await.unwrap();
    let peer = scripted(chain, 1, Behaviour::Honest, Duration::ZERO);
    handle.add_peer(peer).await.unwrap();
    let mut status = handle.status();
    let done = status.wait_for(|s| s.applied == last);
    // Not the guard that it gives: the service could not write the status while it lives.
    let done = tokio::time::timeout(Duration::from_secs(120), done)
        .await
        .is_ok();
    if !done {
        let snapshot = tokio::time::timeout(Duration::from_secs(5), handle.snapshot()).await;
        let now = handle.status().borrow().clone();
        panic!("{recording:?} {now:?} {snapshot:?}");
    }
    let app_hash = hex::encode(&handle.status().borrow().app_hash);
    assert_eq!(app_hash, chain.app_hash_after(last));
    handle.stop().await;
    std::fs::remove_dir_all(recording.parent().unwrap()).unwrap();
    let heard = std::mem::take(&mut *heard.lock().unwrap());
    (common::split(heard.into()), store)
}

/// The message that CometBFT sends for a block (`protocol.md` 7.4), written by another encoder out
/// of the block's bytes.
fn expected(
    raw: &[u8],
    store: &MemStore,
    hash: &[u8],
    first: bool,
) -> theirs::RequestFinalizeBlock {
    use tendermint_proto::v0_38::types as pb;
    let block = pb::Block::decode(raw).unwrap();
    let header = block.header.unwrap();
    let height = u64::try_from(header.height).unwrap();
    let commit = block.last_commit.unwrap();
    let mut decided = theirs::CommitInfo::default();
    if !first {
        let set = store.validators(Height::new(height - 1)).unwrap().unwrap();
        let votes = set
            .iter()
            .zip(&commit.signatures)
            .map(|(v, sig)| theirs::VoteInfo {
                validator: Some(theirs::Validator {
                    address: v.address.0.to_vec().into(),
                    power: v.power,
                }),
                block_id_flag: sig.block_id_flag,
            });
        decided.votes = votes.collect();
        decided.round = commit.round;
    }
    let evidence = block.evidence.unwrap_or_default().evidence;
    theirs::RequestFinalizeBlock {
        txs: block
            .data
            .unwrap()
            .txs
            .into_iter()
            .map(Into::into)
            .collect(),
        decided_last_commit: Some(decided),
        misbehavior: evidence.into_iter().flat_map(offenders).collect(),
        hash: hash.to_vec().into(),
        height: header.height,
        time: header.time,
        next_validators_hash: header.next_validators_hash.into(),
        proposer_address: header.proposer_address.into(),
    }
}

fn offenders(evidence: tendermint_proto::v0_38::types::Evidence) -> Vec<theirs::Misbehavior> {
    use tendermint_proto::v0_38::types::evidence::Sum;
    let misbehavior = |kind, address: Vec<u8>, power, height, time, total| theirs::Misbehavior {
        r#type: kind,
        validator: Some(theirs::Validator {
            address: address.into(),
            power,
        }),
        height,
        time,
        total_voting_power: total,
    };
    match evidence.sum.unwrap() {
        Sum::DuplicateVoteEvidence(e) => {
            let vote = e.vote_a.unwrap();
            let (address, power) = (vote.validator_address, e.validator_power);
            vec![misbehavior(
                1,
                address,
                power,
                vote.height,
                e.timestamp,
                e.total_voting_power,
            )]
        }
        Sum::LightClientAttackEvidence(e) => {
            let (height, time, total) = (e.common_height, e.timestamp, e.total_voting_power);
            let each = e.byzantine_validators.into_iter();
            each.map(|v| misbehavior(2, v.address, v.voting_power, height, time, total))
                .collect()
        }
    }
}

#[tokio::test]
async fn a_whole_sync_over_a_socket_says_what_cometbft_says() {
    let (mut votes, mut offenders, mut flags) = (0, 0, BTreeMap::<i32, u64>::new());
    for name in ["full-038", "churn"] {
        let chain = Recorded::load(name);
        let (said, store) = session(&chain).await;
        let mut height = chain.initial;
        for message in &said {
            let request = theirs::Request::decode(message.clone()).unwrap();
            // Nothing of ours is unknown to them, and every field is written as they write it.
            assert_eq!(request.encode_to_vec(), message[..], "{name}: {request:?}");
            let Some(theirs::request::Value::FinalizeBlock(found)) = request.value else {
                continue;
            };
            let record = store.block(height).unwrap().unwrap();
            let hash = record.id.hash.unwrap();
            let expected = expected(&record.raw, &store, &hash.0, height == chain.initial);
            assert_eq!(found, expected, "{name}: block {height}");
            decode::stored_block(record.raw, record.ext_raw, record.id).unwrap();
            votes += found.decided_last_commit.as_ref().unwrap().votes.len();
            for vote in found.decided_last_commit.unwrap().votes {
                *flags.entry(vote.block_id_flag).or_default() += 1;
            }
            offenders += found.misbehavior.len();
            height = height.next();
        }
        assert_eq!(height, chain.tip(), "{name}: every block once");
        params_are_genesis(&said, &chain);
    }
    println!("{votes} votes by flag {flags:?}, {offenders} offenders");
    assert!(
        votes > 1000 && offenders > 0,
        "{votes} votes, {offenders} offenders"
    );
}

/// `InitChain` names the params and the validators of the genesis file.
fn params_are_genesis(said: &[Bytes], chain: &Recorded) {
    let init = said.iter().find_map(
        |m| match theirs::Request::decode(m.clone()).unwrap().value {
            Some(theirs::request::Value::InitChain(init)) => Some(init),
            _ => None,
        },
    );
    let init = init.expect("an InitChain");
    let text = std::fs::read(common::chain_dir(chain.name).join("genesis.json")).unwrap();
    let genesis: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let number = |v: &serde_json::Value| v.as_str().unwrap().parse::<i64>().unwrap();
    let (params, found) = (&genesis["consensus_params"], init.consensus_params.unwrap());
    let block = found.block.unwrap();
    assert_eq!(block.max_bytes, number(&params["block"]["max_bytes"]));
    assert_eq!(block.max_gas, number(&params["block"]["max_gas"]));
    let evidence = found.evidence.unwrap();
    let blocks = number(&params["evidence"]["max_age_num_blocks"]);
    assert_eq!(evidence.max_age_num_blocks, blocks);
    let age = evidence.max_age_duration.unwrap();
    let nanos = age.seconds * 1_000_000_000 + i64::from(age.nanos);
    assert_eq!(nanos, number(&params["evidence"]["max_age_duration"]));
    assert_eq!(evidence.max_bytes, number(&params["evidence"]["max_bytes"]));
    assert_eq!(init.chain_id, genesis["chain_id"].as_str().unwrap());
    let validators = genesis["validators"].as_array().unwrap();
    assert_eq!(init.validators.len(), validators.len());
    let powers = |mut all: Vec<i64>| {
        all.sort_unstable();
        all
    };
    let theirs = powers(init.validators.iter().map(|v| v.power).collect());
    assert_eq!(
        theirs,
        powers(validators.iter().map(|v| number(&v["power"])).collect())
    );
}
