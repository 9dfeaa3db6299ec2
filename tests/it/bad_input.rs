//! Bad input: its sender is named in the log with the reason, the connection is closed, it is
//! counted, and we do not come back at once. One row for each kind, over real sockets, with the
//! whole service behind them.

use std::pin::Pin;
use std::time::Duration;

use blocksync::fault::{CloseReason, Fault};
use blocksync::ids::PeerId;
use blocksync::p2p::node_info::NodeInfo;
use blocksync::p2p::packet::{Piece, put_packet};
use blocksync::p2p::secret::{agree, ephemeral_public};
use blocksync::p2p::stream::{StreamReader, StreamWriter, delimited};
use blocksync::p2p::upgrade::{Deadlines, Terms, Upgraded, upgrade};
use blocksync::p2p::{Config, NodeKey, Reason};
use blocksync::wire::proto::crypto::{PublicKey, public_key};
use blocksync::wire::proto::p2p::AuthSigMessage;
use blocksync_testkit::recorded::{Recorded, config, fresh};
use bytes::Bytes;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout};
use tracing::level_filters::LevelFilter;

use crate::logged;
use crate::node::Node;

const LEAST: Duration = Duration::from_millis(300);
const PATIENCE: Duration = Duration::from_secs(10);

/// A node that dials again soon, and waits for nobody long.
async fn start(chain: &Recorded, change: impl FnOnce(&mut Config)) -> Node {
    let (service, _) = fresh(chain, config(1)).await;
    Node::start(service, &chain.genesis.chain_id, |network| {
        network.redial_least = LEAST;
        network.redial_most = Duration::from_secs(60);
        network.deadlines.secret = Duration::from_millis(500);
        change(network);
    })
    .await
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(
            begun.elapsed() < PATIENCE,
            "{what}; the log:\n{}",
            logged::text()
        );
        sleep(Duration::from_millis(5)).await;
    }
}

/// A peer that does something wrong with a connection.
struct Hostile {
    stream: TcpStream,
    chain_id: String,
    key: NodeKey,
}

type Peer = Upgraded<OwnedReadHalf, OwnedWriteHalf>;

impl Hostile {
    fn info(&self) -> NodeInfo {
        let address = "tcp://127.0.0.1:1";
        NodeInfo::new(
            self.key.id(),
            &self.chain_id,
            "hostile",
            address,
            &[0x40, 0],
        )
    }

    /// Both handshakes, with a NodeInfo of choice; `None` when the other side hangs up on it.
    async fn upgraded(self, change: impl FnOnce(&mut NodeInfo)) -> Option<Peer> {
        let mut ours = self.info();
        change(&mut ours);
        let terms = Terms {
            key: &self.key,
            ours: &ours,
            dialled: None,
            allow_v1: true,
            deadlines: Deadlines::default(),
        };
        let (reader, writer) = self.stream.into_split();
        upgrade(reader, writer, &terms, |_| Ok(())).await.ok()
    }

    /// Says this behind both handshakes, and waits for the end.
    async fn says(self, bytes: &[u8]) {
        self.says_as(|_| {}, bytes).await;
    }

    async fn says_as(self, change: impl FnOnce(&mut NodeInfo), bytes: &[u8]) {
        let mut peer = self.upgraded(change).await.expect("a peer that is welcome");
        peer.writer.put(bytes).unwrap();
        peer.writer.flush().await.unwrap();
        hung_up(&mut peer).await;
    }

    /// In the clear up to the keys, and sealed from there on.
    async fn keys_agreed(
        self,
    ) -> (
        StreamReader<OwnedReadHalf>,
        StreamWriter<OwnedWriteHalf>,
        [u8; 32],
    ) {
        let (reader, writer) = self.stream.into_split();
        let (mut reader, mut writer) = (StreamReader::new(reader), StreamWriter::new(writer));
        let secret = [3; 32];
        let ours = delimited(&ephemeral_public(secret).to_vec());
        writer.put(&ours).unwrap();
        writer.flush().await.unwrap();
        let theirs = reader.read_delimited(1024).await.unwrap();
        let theirs: Vec<u8> = Message::decode(&theirs[..]).unwrap();
        let agreement = agree(secret, theirs.try_into().unwrap()).unwrap();
        reader.set_opener(agreement.opener).unwrap();
        writer.set_sealer(agreement.sealer);
        (reader, writer, agreement.challenge)
    }
}

/// Waits until the other side has hung up.
async fn hung_up(peer: &mut Peer) {
    let ends = async { while peer.reader.fill(usize::MAX).await.is_ok() {} };
    timeout(PATIENCE, ends)
        .await
        .expect("the connection is closed");
}

/// One kind of bad input.
struct Row {
    name: &'static str,
    reason: Reason,
    /// Words in the log's line beside the peer.
    says: &'static str,
    /// The service has seen the peer, and its status says why it is gone.
    dropped: Option<fn(&CloseReason) -> bool>,
    does: Deed,
}

macro_rules! does {
    (|$hostile:ident| $body:expr) => {
        |$hostile| {
            Box::pin(async move {
                $body;
            })
        }
    };
}

fn transport(reason: &CloseReason) -> bool {
    matches!(reason.fault(), Some(Fault::Transport(_)))
}

type Deed = fn(Hostile) -> Pin<Box<dyn Future<Output = ()> + Send>>;

/// A row of a peer that never becomes one.
fn row(name: &'static str, reason: Reason, says: &'static str, does: Deed) -> Row {
    Row {
        name,
        reason,
        says,
        dropped: None,
        does,
    }
}

/// A row of a peer that breaks the transport's rules.
fn breach(name: &'static str, says: &'static str, does: Deed) -> Row {
    Row {
        dropped: Some(transport),
        ..row(name, Reason::Protocol, says, does)
    }
}

/// NodeInfo that is refused.
fn wrong_infos() -> Vec<Row> {
    vec![
        row(
            "another network",
            Reason::NodeInfo,
            "chain \"other\", where",
            does!(|h| h.upgraded(|i| i.wire.network = "other".into()).await),
        ),
        row(
            "another block protocol",
            Reason::NodeInfo,
            "block protocol 10, where 11 is needed",
            does!(|h| {
                h.upgraded(|i| i.wire.protocol_version.as_mut().unwrap().block = 10)
                    .await
            }),
        ),
        row(
            "a v1.0 node",
            Reason::Version1,
            "is of the v1.0 line",
            does!(|h| {
                h.upgraded(|i| i.wire.protocol_version.as_mut().unwrap().p2p = 9)
                    .await
            }),
        ),
        row(
            "another id than the one dialled",
            Reason::WrongId,
            "answered where",
            does!(|h| {
                let key = NodeKey::from_seed([77; 32]);
                Hostile { key, ..h }.upgraded(|_| {}).await
            }),
        ),
        row(
            "an id in its NodeInfo that it has not proven",
            Reason::NodeInfo,
            "but has proven",
            does!(|h| h
                .upgraded(|i| i.wire.default_node_id = "00".repeat(20).into())
                .await),
        ),
    ]
}

/// Input that ends before the NodeInfo.
fn wrong_handshakes() -> Vec<Row> {
    vec![
        row(
            "a bad signature",
            Reason::Secret,
            "bad signature of the challenge",
            does!(|h| bad_signature(h).await),
        ),
        row(
            "a key exchange of another length",
            Reason::Secret,
            "ephemeral key of 2 bytes",
            does!(|h| in_the_clear(h, &[4, 0x0a, 2, 1, 2]).await),
        ),
        row(
            "something else than a handshake",
            Reason::Secret,
            "handshake message",
            does!(|h| in_the_clear(h, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff").await),
        ),
        row(
            "silence",
            Reason::HandshakeTimeout,
            "not done after",
            does!(|h| in_the_clear(h, b"").await),
        ),
    ]
}

/// Input that the transport cuts off.
fn breaches() -> Vec<Row> {
    vec![
        breach(
            "an oversize packet",
            "1035 bytes, where 1034 is the limit",
            does!(|h| h.says(&[0x8b, 0x08]).await),
        ),
        breach(
            "an undecodable packet",
            "undecodable",
            does!(|h| h.says(&[3, 0xff, 0xff, 0xff]).await),
        ),
        breach(
            "an unknown channel",
            "unknown channel 0x41",
            does!(|h| h.says(&[9, 0x1a, 7, 8, 0x41, 0x10, 1, 0x1a, 1, 0x78]).await),
        ),
        breach(
            "a message without end",
            "where 60000 is the limit",
            does!(|h| endless(h).await),
        ),
        breach(
            "an oversize frame",
            "frame: message of 2097151 bytes",
            does!(|h| h
                .says_as(|i| i.length_prefixed = true, &[0xff, 0xff, 0x7f, 0x40])
                .await),
        ),
        breach(
            "a frame of an unknown channel",
            "unknown channel 0x41",
            does!(|h| h.says_as(|i| i.length_prefixed = true, &[2, 0x41, 1]).await),
        ),
        breach(
            "a message of peer exchange that nobody asked for",
            "peer exchange",
            does!(|h| {
                let addresses = [8, 0x1a, 6, 0x10, 1, 0x1a, 2, 0x12, 0];
                h.says(&addresses.repeat(2)).await
            }),
        ),
        Row {
            reason: Reason::Secret,
            ..breach(
                "a sealed frame that was altered",
                "does not open",
                does!(|h| altered_frame(h).await),
            )
        },
    ]
}

/// Input without a fault for the transport.
fn later() -> Vec<Row> {
    vec![
        Row {
            reason: Reason::Disconnected,
            dropped: None, // a hang-up is nobody's fault
            ..breach(
                "a packet that is cut off",
                "the peer hung up",
                does!(|h| cut_packet(h).await),
            )
        },
        Row {
            reason: Reason::Local, // the transport has no fault to find: it is the service that hangs up
            dropped: Some(|reason| matches!(reason.fault(), Some(Fault::Malformed(_)))),
            ..breach(
                "a message that does not decode",
                "malformed message",
                does!(|h| h.says(&[9, 0x1a, 7, 8, 0x40, 0x10, 1, 0x1a, 1, 0xff]).await),
            )
        },
        Row {
            reason: Reason::Local,
            dropped: Some(|reason| reason.fault() == Some(&Fault::BadRange)),
            ..breach(
                "a status that cannot be",
                "impossible range",
                does!(|h| {
                    // height 3, base 9
                    let status = [0x2a, 4, 8, 3, 0x10, 9];
                    let head = [0x0e, 0x1a, 0x0c, 8, 0x40, 0x10, 1, 0x1a, 6];
                    h.says(&[&head[..], &status].concat()).await
                }),
            )
        },
    ]
}

async fn in_the_clear(mut hostile: Hostile, bytes: &[u8]) {
    hostile.stream.write_all(bytes).await.unwrap();
    let mut rest = Vec::new();
    let _ = timeout(PATIENCE, hostile.stream.read_to_end(&mut rest))
        .await
        .expect("the connection is closed");
}

async fn bad_signature(hostile: Hostile) {
    let public = hostile.key.public().to_vec().into();
    let (mut reader, mut writer, _challenge) = hostile.keys_agreed().await;
    let message = AuthSigMessage {
        pub_key: Some(PublicKey {
            sum: Some(public_key::Sum::Ed25519(public)),
        }),
        sig: vec![7; 64].into(),
    };
    writer.put(&delimited(&message)).unwrap();
    writer.flush().await.unwrap();
    let ends = async { while reader.fill(usize::MAX).await.is_ok() {} };
    timeout(PATIENCE, ends)
        .await
        .expect("the connection is closed");
}

async fn endless(hostile: Hostile) {
    let mut peer = hostile.upgraded(|_| {}).await.unwrap();
    for _ in 0..60 {
        let piece = Piece {
            channel: 0x40,
            data: Bytes::from_static(&[0x1a; 1024]),
            first: false,
            last: false,
            total: 0,
        };
        put_packet(&piece, &mut peer.writer).unwrap();
    }
    peer.writer.flush().await.unwrap();
    hung_up(&mut peer).await;
}

async fn altered_frame(hostile: Hostile) {
    let mut peer = hostile.upgraded(|_| {}).await.unwrap();
    // sealed with another key: as good as altered
    let other = agree([5; 32], ephemeral_public([6; 32])).unwrap();
    peer.writer.set_sealer(other.sealer);
    peer.writer.put(&[2, 0x0a, 0]).unwrap();
    peer.writer.flush().await.unwrap();
    hung_up(&mut peer).await;
}

async fn cut_packet(hostile: Hostile) {
    let mut peer = hostile.upgraded(|_| {}).await.unwrap();
    peer.writer.put(&[9, 0x1a, 7, 8, 0x40]).unwrap();
    peer.writer.flush().await.unwrap();
    // and goes
}

/// Runs a row: we dial a peer that does it.
async fn run(row: &Row, chain: &Recorded) {
    logged::listen(LevelFilter::INFO);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let id = NodeKey::from_seed([9; 32]).id();
    let node = start(chain, |c| {
        c.peers = vec![format!("{id}@{at}").parse().unwrap()];
        c.pex = true;
        c.max_message = 60_000;
    })
    .await;
    let (stream, _) = listener.accept().await.unwrap();
    let hostile = Hostile {
        stream,
        chain_id: chain.genesis.chain_id.clone(),
        key: NodeKey::from_seed([9; 32]),
    };
    (row.does)(hostile).await; // it is closed, unless it goes itself

    until("counted", || node.switch.counters().of(row.reason) == 1).await;
    let (by_id, by_address) = (id.to_string(), at.to_string());
    until("told", || {
        let named = |line: &str| line.contains(&by_id) || line.contains(&by_address);
        let text = logged::text();
        let mut lines = text.lines();
        lines.any(|l| l.contains(row.says) && named(l))
    })
    .await;
    if let Some(is_it) = row.dropped {
        let dropped = || node.service.status().borrow().clone().dropped;
        until("in the status", || {
            dropped().iter().any(|d| d.peer == id && is_it(&d.reason))
        })
        .await;
    }
    let again = timeout(LEAST / 2, listener.accept()).await;
    assert!(again.is_err(), "we came back at once");
    assert_eq!(node.switch.counters().reasons().values().sum::<u64>(), 1);
    assert!(node.switch.peers().is_empty());
    node.stop().await;
    let counted = format!("ended: {} 1", row.reason.label());
    assert!(logged::text().contains(&counted), "{}", logged::text());
}

#[tokio::test]
async fn who_does_not_pass_the_handshakes() {
    let chain = Recorded::load("one");
    for row in wrong_infos().into_iter().chain(wrong_handshakes()) {
        println!("{}", row.name);
        run(&row, &chain).await;
    }
}

#[tokio::test]
async fn who_is_cut_off_later() {
    let chain = Recorded::load("one");
    for row in breaches().into_iter().chain(later()) {
        println!("{}", row.name);
        run(&row, &chain).await;
    }
}

/// The same peer comes to us by itself, and comes back at once.
#[tokio::test]
async fn who_broke_the_rules_and_comes_back_is_refused_for_a_while() {
    let chain = Recorded::load("one");
    let node = start(&chain, |c| {
        c.listen = vec!["comet://127.0.0.1:0".parse().unwrap()];
        c.breach_back_off = Duration::from_millis(600);
    })
    .await;
    let at = node.switch.listening()[0].address;
    let visit = || async {
        Hostile {
            stream: TcpStream::connect(at).await.unwrap(),
            chain_id: chain.genesis.chain_id.clone(),
            key: NodeKey::from_seed([9; 32]),
        }
    };
    visit().await.says(&[3, 0xff, 0xff, 0xff]).await;
    let begun = Instant::now();
    assert!(visit().await.upgraded(|_| {}).await.is_none());
    let refused = || node.switch.counters().of(Reason::NotAllowed);
    until("counted", || refused() == 1).await;
    while visit().await.upgraded(|_| {}).await.is_none() {
        assert!(begun.elapsed() < PATIENCE);
        sleep(Duration::from_millis(20)).await;
    }
    assert!(begun.elapsed() >= Duration::from_millis(500));
    let who: Vec<PeerId> = node
        .service
        .status()
        .borrow()
        .clone()
        .dropped
        .iter()
        .map(|d| d.peer)
        .collect();
    assert_eq!(who, [NodeKey::from_seed([9; 32]).id()]);
    node.stop().await;
}
