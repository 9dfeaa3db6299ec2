//! Against messages and a session recorded from CometBFT, and against a server that, like Go's,
//! answers nothing before a flush.

use std::sync::Arc;

use bytes::BytesMut;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;

use super::frames::{fill, only_field};
use super::*;
use crate::app::{KvStore, Noop, conformance};
use crate::chain::execution::{CommitInfo, UpdateKey};
use crate::chain::testing::{group, hex, name, text};
use crate::chain::{BlockIdFlag, ConsensusParams, Misbehavior, Rules, Time, Validator, merkle};
use crate::ids::Address;

const V038: AbciVersion = AbciVersion::V038;

/// A listener, and a client of it.
async fn pair() -> (TcpListener, AbciClient) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("tcp://{}", listener.local_addr().unwrap());
    (listener, AbciClient::new(&address).unwrap())
}

fn find<'a>(group_name: &str, case: &str) -> &'a Value {
    let mut cases = group(group_name).iter();
    cases.find(|c| name(c) == case).unwrap()
}

fn recorded(case: &str) -> Vec<u8> {
    hex(&find("abci_messages", case)["bytes"])
}

/// A flush, answered.
const FLUSHED: &[u8] = &[2, 0x1a, 0];

/// Serves one connection from a script: what must come, and what is answered.
async fn script(listener: TcpListener, steps: Vec<(Vec<u8>, Vec<u8>)>) {
    let (mut socket, _) = listener.accept().await.unwrap();
    for (expected, answer) in steps {
        let mut found = vec![0; expected.len()];
        socket.read_exact(&mut found).await.unwrap();
        assert_eq!(hex::encode(found), hex::encode(expected));
        // In pieces, as a network may deliver them.
        for piece in answer.chunks(3) {
            // The client hangs up as soon as it knows that this is no answer.
            if socket.write_all(piece).await.is_err() {
                return;
            }
            tokio::task::yield_now().await;
        }
    }
}

/// The session's `FinalizeBlock`, out of what was sent.
fn session_block(sent: &[u8]) -> FinalizeBlock {
    let request = abci::Request::decode_length_delimited(sent).unwrap();
    let Some(request::Value::FinalizeBlock(f)) = request.value else {
        panic!("a FinalizeBlock");
    };
    block_of(f)
}

#[tokio::test]
async fn a_recorded_session_with_a_go_server() {
    let step = |case: &str| {
        let case = find("abci_session", case);
        (hex(&case["sent"]), hex(&case["received"]))
    };
    let (info, none) = step("info without flush: nothing comes");
    assert!(none.is_empty());
    let (flush, answer) = step("flush: both responses come");
    let (commit, committed) = step("commit");
    let steps = vec![
        ([info, flush].concat(), answer),
        (commit.clone(), committed.clone()),
        (commit, committed),
    ];
    let (listener, mut app) = pair().await;
    let server = tokio::spawn(script(listener, steps));
    let info = app.info().await.unwrap();
    assert_eq!(&info.data[..], b"{\"size\":0}");
    assert_eq!((info.app_version, info.last_height), (1, Height::ZERO));
    assert_eq!(info.last_app_hash, [0; 8][..]);
    for _ in 0..2 {
        assert_eq!(app.commit().await.unwrap(), Height::ZERO);
    }
    server.await.unwrap();
}

#[tokio::test]
async fn a_recorded_block() {
    let case = find("abci_session", "finalize_block");
    let (sent, received) = (hex(&case["sent"]), hex(&case["received"]));
    let block = session_block(&sent);
    let (listener, mut app) = pair().await;
    let server = tokio::spawn(script(listener, vec![(sent, received)]));
    let found = app.finalize_block(block).await.unwrap();
    server.await.unwrap();
    assert_eq!(found.tx_results.len(), 2);
    assert_eq!(found.app_hash[..], [4, 0, 0, 0, 0, 0, 0, 0]);
}

/// The block of a recorded request, as the chain has it.
fn block_of(sent: abci::RequestFinalizeBlock) -> FinalizeBlock {
    let votes = sent.decided_last_commit.unwrap();
    let time = |t: Option<_>| convert::time_from_proto(t.as_ref()).unwrap();
    let address = |bytes: &Bytes| Address::from_slice(bytes).unwrap();
    let vote = |v: &abci::VoteInfo| {
        let member = v.validator.as_ref().unwrap();
        let flag = match v.block_id_flag {
            1 => BlockIdFlag::Absent,
            2 => BlockIdFlag::Commit,
            3 => BlockIdFlag::Nil,
            other => panic!("flag {other}"),
        };
        (address(&member.address), member.power, flag)
    };
    let misbehavior = |m: abci::Misbehavior| {
        let offender = m.validator.unwrap();
        Misbehavior {
            kind: m.r#type,
            address: address(&offender.address),
            power: offender.power,
            height: Height::from_wire(m.height).unwrap(),
            time: time(m.time),
            total_voting_power: m.total_voting_power,
        }
    };
    FinalizeBlock {
        txs: sent.txs,
        decided_last_commit: CommitInfo {
            round: votes.round,
            votes: votes.votes.iter().map(vote).collect(),
        },
        misbehavior: sent.misbehavior.into_iter().map(misbehavior).collect(),
        hash: crate::ids::Hash::from_slice(&sent.hash).unwrap(),
        height: Height::from_wire(sent.height).unwrap(),
        time: time(sent.time),
        next_validators_hash: crate::ids::Hash::from_slice(&sent.next_validators_hash),
        proposer_address: address(&sent.proposer_address),
        header: None,
        syncing_to: Height::ZERO,
    }
}

#[tokio::test]
async fn votes_and_misbehavior_go_over_the_socket_as_go_sends_them() {
    let sent = recorded("finalize_block");
    let request = abci::Request::decode_length_delimited(&sent[..]).unwrap();
    let Some(request::Value::FinalizeBlock(request)) = request.value else {
        panic!("a FinalizeBlock");
    };
    let block = block_of(request);
    assert!(!block.decided_last_commit.votes.is_empty() && !block.misbehavior.is_empty());
    let answer = abci::Response {
        value: Some(response::Value::FinalizeBlock(Default::default())),
    };
    let answer = [answer.encode_length_delimited_to_vec(), FLUSHED.to_vec()].concat();
    let request = [sent.clone(), recorded("flush")].concat();
    // The proposal is the same under another number, and its two bytes of tag become two others.
    let proposal = {
        let mut proposal = sent;
        let tag = proposal.windows(2).position(|w| w == [0xa2, 0x01]).unwrap();
        proposal[tag] = 0x8a;
        [proposal, recorded("flush")].concat()
    };
    let refused = [recorded("exception"), FLUSHED.to_vec()].concat();
    let (listener, mut app) = pair().await;
    let steps = vec![
        (proposal.clone(), refused),
        (request.clone(), answer.clone()),
        (request, answer),
    ];
    let server = tokio::spawn(script(listener, steps));
    // An application that does not know the call is fine, and its connection is used on.
    app.announce_block(&block).await.unwrap();
    for _ in 0..2 {
        app.finalize_block(block.clone()).await.unwrap();
    }
    server.await.unwrap();
}

/// An application of ABCI 2.0 is told apart by a call about a height that no chain has.
#[tokio::test]
async fn the_call_that_asks_for_the_version_is_of_no_height() {
    let (listener, client) = pair().await;
    let server = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let (mut buffer, mut asked) = (BytesMut::new(), None);
        while let Some(request) = next_request(&mut socket, &mut buffer).await {
            let value = match request {
                request::Value::Flush(_) => response::Value::Flush(abci::ResponseFlush {}),
                request::Value::Info(_) => response::Value::Info(Default::default()),
                request::Value::VerifyVoteExtension(about) => {
                    asked = Some(about);
                    response::Value::VerifyVoteExtension(Default::default())
                }
                other => panic!("{other:?}"),
            };
            let response = abci::Response { value: Some(value) };
            let bytes = response.encode_length_delimited_to_vec();
            socket.write_all(&bytes).await.unwrap();
        }
        asked
    });
    let spoken = client.versions().await.unwrap();
    assert_eq!(spoken.versions, [V038, AbciVersion::V100]);
    let asked = server.await.unwrap().expect("it was asked");
    assert_eq!((asked.height, asked.hash.len()), (-1, 0));
}

#[tokio::test]
async fn who_else_listens_is_named() {
    let http = b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec();
    // The first frame of every gRPC server: SETTINGS.
    let grpc = vec![0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0x40, 0];
    for (answer, named) in [(http, "RPC port"), (grpc, "gRPC port")] {
        let (listener, mut app) = pair().await;
        let server = tokio::spawn(script(listener, vec![(commit_and_flush(), answer)]));
        let said = app.commit().await.unwrap_err().to_string();
        assert!(
            said.contains(named) && said.contains(&app.address),
            "{said}"
        );
        server.await.unwrap();
    }
}

#[tokio::test]
async fn a_new_connection_mends_a_broken_one() {
    let (listener, mut app) = pair().await;
    let server = tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        drop(socket);
        script(
            listener,
            vec![(commit_and_flush(), vec![2, 0x62, 0, 2, 0x1a, 0])],
        )
        .await;
    });
    let lost = app.commit().await.unwrap_err();
    assert!(lost.is_lost(), "{lost}");
    assert!(
        app.commit().await.unwrap_err().is_lost(),
        "it stays so by itself"
    );
    assert!(app.reconnect());
    app.commit().await.unwrap();
    server.await.unwrap();
}

#[tokio::test]
async fn requests_are_the_bytes_that_go_writes() {
    let time = Time::new(1_704_164_645, 6).unwrap();
    let empty = FinalizeBlock {
        txs: Vec::new(),
        decided_last_commit: CommitInfo::default(),
        misbehavior: Vec::new(),
        hash: merkle::empty_root(),
        height: Height::ZERO,
        time: Time::ZERO,
        next_validators_hash: None,
        proposer_address: Address([0; 20]),
        header: None,
        syncing_to: Height::ZERO,
    };
    let request = abci::Request {
        value: Some(request::Value::FinalizeBlock(abci::RequestFinalizeBlock {
            hash: Bytes::new(),
            proposer_address: Bytes::new(),
            ..requests::finalize_block(V038, empty)
        })),
    };
    let found = request.encode_length_delimited_to_vec();
    assert_eq!(found, recorded("finalize_block, empty"));

    // The recorded ones, decoded and built anew from the chain's types.
    let recorded_init = recorded("init_chain");
    let sent = abci::Request::decode_length_delimited(&recorded_init[..]).unwrap();
    let Some(request::Value::InitChain(sent)) = sent.value else {
        panic!("an InitChain");
    };
    let validators = sent.validators.iter().map(convert::update_from_proto);
    let validators = validators.map(|update| match update.key {
        UpdateKey::Known(key) => Validator::new(key, update.power),
        other => panic!("{other:?}"),
    });
    let init = InitChain {
        time,
        chain_id: sent.chain_id,
        params: ConsensusParams {
            pub_key_types: vec!["ed25519".into()],
            ..convert::params_from_proto(&sent.consensus_params.unwrap()).unwrap()
        },
        validators: validators.collect(),
        app_state: sent.app_state_bytes,
        initial_height: Height::from_wire(sent.initial_height).unwrap(),
        rules: Rules::COMET_038,
    };
    let request = abci::Request {
        value: Some(request::Value::InitChain(requests::init_chain(
            V038,
            init.clone(),
        ))),
    };
    assert_eq!(
        hex::encode(request.encode_length_delimited_to_vec()),
        hex::encode(recorded_init)
    );
    init_chain_names_the_authority_where_the_rules_do(init);
}

/// From 0.39 on the group is sent even when it is empty: the Cosmos SDK keeps the params as it gets
/// them.
fn init_chain_names_the_authority_where_the_rules_do(mut init: InitChain) {
    let params = |init: &InitChain| {
        let sent = requests::init_chain(V038, init.clone());
        hex::encode(sent.consensus_params.unwrap().encode_to_vec())
    };
    let before = params(&init);
    for rules in [Rules::COMET_039, Rules::COMET_040] {
        init.rules = rules;
        assert_eq!(params(&init), format!("{before}3200"));
    }
    init.params.authority = Bytes::from_static(b"ab");
    assert_eq!(params(&init), format!("{before}32040a026162"));
    init.rules = Rules::COMET_038;
    assert_eq!(params(&init), before);
}

#[tokio::test]
async fn a_retain_height_is_read() {
    let mut cases = group("abci_messages").iter();
    let response = cases.find(|c| name(c) == "commit" && text(&c["direction"]) == "response");
    let answer = [hex(&response.unwrap()["bytes"]), FLUSHED.to_vec()].concat();
    let (listener, mut app) = pair().await;
    let server = tokio::spawn(script(listener, vec![(commit_and_flush(), answer)]));
    assert_eq!(app.commit().await.unwrap(), Height::new(3));
    server.await.unwrap();
}

/// Frames that a call of `commit` sends.
fn commit_and_flush() -> Vec<u8> {
    [recorded("commit"), recorded("flush")].concat()
}

#[tokio::test]
async fn whatever_goes_wrong_ends_the_connection() {
    let exception = recorded("exception");
    let cases: [(&str, Vec<u8>, &str); 6] = [
        (
            "an exception",
            exception,
            "the application refused Commit: boom",
        ),
        (
            "another kind",
            [FLUSHED, FLUSHED].concat(),
            "Commit was answered by Flush",
        ),
        (
            "no flush",
            [vec![2, 0x62, 0], vec![2, 0x62, 0]].concat(),
            "the flush was answered by Commit",
        ),
        (
            "a huge length",
            vec![0xff, 0xff, 0xff, 0xff, 0x7f],
            "longer than 2147483647",
        ),
        ("an unknown kind", vec![3, 0x6a, 1, 0], "Commit: "),
        ("an end", vec![2], "closed the connection"),
    ];
    for (what, answer, expected) in cases {
        let (listener, mut app) = pair().await;
        let server = tokio::spawn(script(listener, vec![(commit_and_flush(), answer)]));
        let said = app.commit().await.unwrap_err().to_string();
        assert!(said.contains(expected), "{what}: {said}");
        let again = app.commit().await.unwrap_err().to_string();
        assert!(again.contains(&app.address), "{what}: {again}");
        server.await.unwrap();
    }
}

#[tokio::test]
async fn a_call_that_is_given_up_ends_the_connection() {
    let (listener, mut app) = pair().await;
    let (tell, told) = tokio::sync::oneshot::channel();
    let server = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut request = [0; 6];
        socket.read_exact(&mut request).await.unwrap();
        socket.write_all(&[2, 0x62, 0, 2, 0x1a, 0]).await.unwrap();
        socket.read_exact(&mut request).await.unwrap();
        tell.send(socket).unwrap();
    });
    app.commit().await.unwrap();
    tokio::select! {
        _ = app.commit() => panic!("nobody answers"),
        _ = told => {}
    }
    server.await.unwrap();
    let said = app.commit().await.unwrap_err().to_string();
    assert!(said.contains("given up half-way"), "{said}");
}

#[tokio::test]
async fn nobody_listens() {
    let (listener, app) = pair().await;
    drop(listener);
    let mut app = app.connect_for(Duration::ZERO);
    let said = app.info().await.unwrap_err().to_string();
    assert!(said.contains("nobody answers"), "{said}");
}

/// The client's next request; `None` when it has hung up.
async fn next_request(socket: &mut TcpStream, buffer: &mut BytesMut) -> Option<request::Value> {
    let length = loop {
        match Framing::Plain.take_length(buffer).unwrap() {
            Some(length) => break length,
            None => fill(socket, buffer).await.ok()?,
        };
    };
    while buffer.len() < length {
        fill(socket, buffer).await.unwrap();
    }
    let request = abci::Request::decode(buffer.split_to(length).freeze()).unwrap();
    request.value
}

/// Answers as Go's socket server does: into a buffer that only a flush empties.
async fn serve<A: App>(mut socket: TcpStream, app: Arc<Mutex<A>>) {
    let (mut buffer, mut pending) = (BytesMut::new(), Vec::new());
    while let Some(request) = next_request(&mut socket, &mut buffer).await {
        let (value, flush) = answer(&mut *app.lock().await, request).await;
        let response = abci::Response { value: Some(value) };
        response.encode_length_delimited(&mut pending).unwrap();
        if flush {
            socket.write_all(&pending).await.unwrap();
            pending.clear();
        }
    }
}

async fn answer(app: &mut impl App, value: request::Value) -> (response::Value, bool) {
    let answer = match value {
        request::Value::Flush(_) => {
            return (response::Value::Flush(abci::ResponseFlush {}), true);
        }
        request::Value::Info(_) => {
            let info = app.info().await.unwrap();
            response::Value::Info(abci::ResponseInfo {
                data: info.data,
                version: info.version,
                app_version: info.app_version,
                last_block_height: info.last_height.to_wire(),
                last_block_app_hash: info.last_app_hash,
            })
        }
        request::Value::InitChain(r) => {
            let keys = r.validators.iter().map(convert::update_from_proto);
            let validators = keys.map(|update| match update.key {
                UpdateKey::Known(key) => Validator::new(key, update.power),
                other => panic!("{other:?}"),
            });
            let request = InitChain {
                time: convert::time_from_proto(r.time.as_ref()).unwrap(),
                chain_id: r.chain_id,
                params: convert::params_from_proto(&r.consensus_params.unwrap()).unwrap(),
                validators: validators.collect(),
                app_state: r.app_state_bytes,
                initial_height: Height::from_wire(r.initial_height).unwrap(),
                rules: Rules::COMET_038,
            };
            let response = app.init_chain(request).await.unwrap();
            response::Value::InitChain(abci::ResponseInitChain {
                app_hash: response.app_hash,
                ..abci::ResponseInitChain::default()
            })
        }
        request::Value::FinalizeBlock(r) => {
            let request = FinalizeBlock {
                txs: r.txs,
                decided_last_commit: CommitInfo::default(),
                misbehavior: Vec::new(),
                hash: crate::ids::Hash::from_slice(&r.hash).unwrap(),
                height: Height::from_wire(r.height).unwrap(),
                time: convert::time_from_proto(r.time.as_ref()).unwrap(),
                next_validators_hash: crate::ids::Hash::from_slice(&r.next_validators_hash),
                proposer_address: Address::from_slice(&r.proposer_address).unwrap(),
                header: None,
                syncing_to: Height::ZERO,
            };
            let response = app.finalize_block(request).await.unwrap();
            let bytes = convert::finalize_response_to_bytes(&response);
            response::Value::FinalizeBlock(abci::ResponseFinalizeBlock::decode(bytes).unwrap())
        }
        request::Value::ProcessProposal(_) => {
            response::Value::ProcessProposal(abci::ResponseProcessProposal { status: 1 })
        }
        request::Value::Commit(_) => response::Value::Commit(abci::ResponseCommit {
            data: Bytes::new(),
            retain_height: app.commit().await.unwrap().to_wire(),
        }),
        other => panic!("{other:?}"),
    };
    (answer, false)
}

/// Each application made gets a server of its own.
fn served<A: App>(make: impl Fn() -> A) -> AbciClient {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = format!("tcp://{}", listener.local_addr().unwrap());
    let app = Arc::new(Mutex::new(make()));
    let listener = TcpListener::from_std(listener).unwrap();
    tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        serve(socket, app).await;
    });
    AbciClient::new(&address).unwrap()
}

#[tokio::test]
async fn a_response_is_kept_as_it_came() {
    let (listener, mut client) = pair().await;
    // A log and an event, and a field that no version of ABCI has.
    let response: &[u8] = &[
        0x0a, 0x02, 0x0a, 0x00, 0x12, 0x03, 0x1a, 0x01, b'l', 0xaa, 0x06, 0x01, 7,
    ];
    let mut message = vec![0xaa, 0x01, response.len() as u8];
    message.extend_from_slice(response);
    let answer = [&[message.len() as u8], &message[..], FLUSHED].concat();
    let serving = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut request = [0; 1];
        socket.read_exact(&mut request).await.unwrap();
        socket.write_all(&answer).await.unwrap();
        socket
    });
    let found = client.finalize_block(empty_block(1)).await.unwrap();
    assert_eq!(found.encoded.as_deref(), Some(response));
    assert_eq!(&convert::finalize_response_to_bytes(&found)[..], response);
    assert_eq!(found.tx_results.len(), 1);
    drop(serving.await);
    assert_eq!(
        only_field(Bytes::from_static(&[0x0a, 1, 7])),
        Some(Bytes::from_static(&[7]))
    );
    for bad in [&[0x0a, 1, 7, 0x12, 0][..], &[0x0a, 2, 7], &[0x08, 1], &[]] {
        assert_eq!(only_field(Bytes::from_static(bad)), None, "{bad:?}");
    }
}

/// An empty block.
fn empty_block(height: u64) -> FinalizeBlock {
    FinalizeBlock {
        txs: Vec::new(),
        decided_last_commit: CommitInfo::default(),
        misbehavior: Vec::new(),
        hash: merkle::sha256(b"block"),
        height: Height::new(height),
        time: Time::ZERO,
        next_validators_hash: None,
        proposer_address: Address([0; 20]),
        header: None,
        syncing_to: Height::ZERO,
    }
}

#[tokio::test]
async fn passes_the_contract_over_a_socket() {
    let txs = |height: u64| -> Vec<Bytes> {
        let one = |n| Bytes::from(format!("k{height}-{n}={}", "v".repeat(50_000)));
        (0..height % 4).map(one).collect()
    };
    conformance::run(|| served(KvStore::new), txs).await;
    conformance::run(|| served(Noop::new), txs).await;
}

/// An application may answer each transaction at once, and read no further before its answer is
/// taken: to write everything first would stand still for ever.
#[tokio::test]
async fn transactions_are_pipelined_and_their_answers_taken_meanwhile() {
    const TXS: usize = 400;
    let big = Bytes::from(vec![7; 64 << 10]);
    let (listener, client) = pair().await;
    let mut client = client.speaking(AbciVersion::V037);
    let result = abci::ExecTxResult {
        data: big.clone(),
        ..Default::default()
    };
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut buffer = BytesMut::new();
        while let Some(request) = next_request(&mut socket, &mut buffer).await {
            let value = match request {
                request::Value::BeginBlock(_) => response::Value::BeginBlock(Default::default()),
                request::Value::DeliverTx(_) => response::Value::DeliverTx(result.clone()),
                request::Value::EndBlock(_) => response::Value::EndBlock(Default::default()),
                request::Value::Flush(_) => response::Value::Flush(abci::ResponseFlush {}),
                other => panic!("{other:?}"),
            };
            let answer = abci::Response { value: Some(value) };
            let answer = answer.encode_length_delimited_to_vec();
            socket.write_all(&answer).await.unwrap();
        }
    });
    let block = FinalizeBlock {
        txs: vec![big; TXS],
        header: Some(Box::new(
            crate::chain::testing::empty_block(Height::new(1), Time::ZERO).header,
        )),
        ..empty_block(1)
    };
    let done = tokio::time::timeout(Duration::from_secs(60), client.finalize_block(block));
    let found = done.await.expect("no standstill").unwrap();
    assert_eq!(found.tx_results.len(), TXS);
    assert!(found.app_hash_is_late && found.app_hash.is_empty());
}

#[test]
fn lengths_of_0_34_are_doubled() {
    let take = |framing: Framing, bytes: &[u8]| {
        let mut buffer = BytesMut::from(bytes);
        framing.take_length(&mut buffer)
    };
    assert_eq!(take(Framing::Plain, &[4]), Ok(Some(4)));
    assert_eq!(take(Framing::Zigzag, &[4]), Ok(Some(2)));
    assert!(take(Framing::Zigzag, &[5]).is_err(), "a negative length");
    let longest = [0xfe, 0xff, 0xff, 0xff, 0x0f];
    assert_eq!(
        take(Framing::Zigzag, &longest),
        Ok(Some(i32::MAX as usize)),
        "the longest"
    );
    assert!(take(Framing::Plain, &longest).is_err());
    assert_eq!(take(Framing::Zigzag, &longest[..3]), Ok(None));
}
