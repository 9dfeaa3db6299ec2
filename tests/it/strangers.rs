//! Strangers are free of charge: floods, idle crowds and drips, against what an honest newcomer
//! gets beside them (`docs/bounds.md`).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use blocksync::app::KvStore;
use blocksync::ids::{Height, PeerId};
use blocksync::link::Link;
use blocksync::p2p::drive::{Carrier, drive};
use blocksync::p2p::node_info::NodeInfo;
use blocksync::p2p::packet::{PING, PONG};
use blocksync::p2p::stream::{StreamReader, StreamWriter};
use blocksync::p2p::upgrade::{Deadlines, Terms, upgrade};
use blocksync::p2p::{Config, NodeKey, Reason, plain};
use blocksync::pool::Outcome;
use blocksync::service::Handle;
use blocksync::wire::codec::{Codec, Frame, head};
use blocksync::wire::{Limits, Message};
use blocksync_testkit::chain::TestChain;
use blocksync_testkit::peers::{Behaviour, scripted};
use blocksync_testkit::recorded::{Recorded, config, fresh};
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncWriteExt, DuplexStream, duplex, split};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::codec::Framed;

use tracing::level_filters::LevelFilter;

use crate::logged;
use crate::node::Node;

/// Everything here must end within this time.
const PATIENCE: Duration = Duration::from_secs(60);

/// A node that has a chain and serves it, at a plain address and at CometBFT's.
async fn start(chain: &Arc<Recorded>, change: impl FnOnce(&mut Config)) -> Node {
    let (service, _) = fresh(chain, config(1)).await;
    let honest = scripted(chain, 1, Behaviour::Honest, Duration::ZERO);
    service.add_peer(honest).await.unwrap();
    caught_up(&service).await;
    Node::start(service, &chain.genesis.chain_id, |network| {
        network.listen = ["plain://127.0.0.1:0", "comet://127.0.0.1:0"]
            .map(|at| at.parse().unwrap())
            .to_vec();
        change(network);
    })
    .await
}

/// The node's plain address, or the other.
fn address(node: &Node, plain: bool) -> SocketAddr {
    let mut all = node.switch.listening().iter();
    all.find(|at| at.plain == plain).unwrap().address
}

async fn caught_up(service: &Handle<KvStore>) {
    let there = service.outcome(|o| matches!(o, Outcome::CaughtUp { .. }));
    timeout(PATIENCE, there).await.unwrap().unwrap();
}

/// A newcomer that asks for one block after the other; gives how long the middle one of them took.
async fn median_latency(at: SocketAddr, blocks: u64) -> Duration {
    let stream = TcpStream::connect(at).await.unwrap();
    let mut peer = Framed::new(stream, Codec::new(Limits::default()));
    let mut took = Vec::new();
    for n in 0..15 {
        let height = Height::new(1 + n % blocks);
        let begun = Instant::now();
        let request = Message::BlockRequest { height, count: 0 }.encode();
        peer.send((0, request)).await.unwrap();
        loop {
            let frame = timeout(PATIENCE, peer.next()).await.unwrap().unwrap();
            let Frame::Message(_, message) = frame.unwrap() else {
                continue;
            };
            if let Ok(Message::Block(_)) = Message::decode(&message) {
                break;
            }
        }
        took.push(begun.elapsed());
    }
    took.sort();
    took[took.len() / 2]
}

/// Writes the same bytes until the other side has had enough.
async fn flood_plain(at: SocketAddr, frame: Vec<u8>) {
    let mut stream = TcpStream::connect(at).await.unwrap();
    let bytes = frame.repeat((1 << 18) / frame.len());
    while stream.write_all(&bytes).await.is_ok() {}
}

/// The same inside a SecretConnection, in the packets of CometBFT.
async fn flood_packets(at: SocketAddr, chain_id: String, seed: u8, packet: Vec<u8>) {
    let key = NodeKey::from_seed([seed; 32]);
    let ours = NodeInfo::new(key.id(), &chain_id, "flood", "tcp://127.0.0.1:1", &[0x40]);
    let terms = Terms {
        key: &key,
        ours: &ours,
        dialled: None,
        allow_v1: true,
        deadlines: Deadlines::default(),
    };
    let (reader, writer) = TcpStream::connect(at).await.unwrap().into_split();
    let up = upgrade(reader, writer, &terms, |_| Ok(())).await.unwrap();
    let mut writer = up.writer;
    let bytes = packet.repeat((1 << 17) / packet.len());
    loop {
        writer.put(&bytes).unwrap();
        if writer.flush().await.is_err() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_of_control_frames_are_closed_and_starve_nobody() {
    let made = TestChain::builder(1).heights(20).txs(1, 1000).build();
    let chain = Recorded::of(&made);
    let node = start(&chain, |_| {}).await;
    let (plain, comet) = (address(&node, true), address(&node, false));
    let quiet = median_latency(plain, 18).await;
    let empty_piece = vec![0x06, 0x1a, 0x04, 0x08, 0x40, 0x1a, 0x00];
    let kinds: [(&str, Option<Vec<u8>>); 4] = [
        ("signs of life", None),
        ("pings", Some(PING.to_vec())),
        ("pongs", Some(PONG.to_vec())),
        ("empty pieces", Some(empty_piece)),
    ];
    let mut closed = 0;
    for (name, packet) in kinds {
        let begun = Instant::now();
        // As many as there are threads.
        let floods: Vec<JoinHandle<()>> = (0..2u8)
            .map(|n| match packet.clone() {
                None => tokio::spawn(flood_plain(plain, vec![0])),
                Some(packet) => {
                    let chain_id = chain.genesis.chain_id.clone();
                    let seed = 50 + closed as u8 + n;
                    tokio::spawn(flood_packets(comet, chain_id, seed, packet))
                }
            })
            .collect();
        let beside = median_latency(plain, 18).await;
        for flood in floods {
            timeout(PATIENCE, flood).await.unwrap().unwrap();
        }
        let took = begun.elapsed();
        println!("{name}: a block in {beside:?}, {quiet:?} without; closed after {took:?}");
        assert!(
            beside <= 10 * quiet + Duration::from_millis(100),
            "{name}: {beside:?}"
        );
        assert!(took <= Duration::from_secs(10), "{name}: {took:?}");
        closed += 2;
        // The sender sees its connection end a moment before the ending is counted.
        let floods = || node.switch.counters().of(Reason::Flood);
        let limit = Instant::now() + PATIENCE;
        while floods() < closed && Instant::now() < limit {
            sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(floods(), closed, "{name}");
    }
    node.stop().await;
}

#[tokio::test]
async fn a_newcomer_is_served_while_strangers_sit_in_every_seat() {
    let made = TestChain::builder(1).heights(20).txs(1, 1000).build();
    let chain = Recorded::of(&made);
    let node = start(&chain, |c| c.max_inbound = 8).await;
    let mut idle = Vec::new();
    for _ in 0..8 {
        idle.push(TcpStream::connect(address(&node, true)).await.unwrap());
    }
    while node.switch.peers().len() < 8 {
        sleep(Duration::from_millis(10)).await;
    }
    let begun = Instant::now();
    let at = address(&node, true);
    loop {
        let served = timeout(Duration::from_secs(3), asks_once(at)).await;
        if served == Ok(true) {
            break;
        }
        sleep(Duration::from_millis(500)).await;
        assert!(
            begun.elapsed() < Duration::from_secs(30),
            "nobody makes room"
        );
    }
    println!("served after {:?}", begun.elapsed());
    assert!(node.switch.counters().of(Reason::MadeRoom) >= 1);
    assert!(node.switch.peers().len() <= 8);
    assert_eq!(
        node.service.status().borrow().dropped,
        [],
        "nobody is to blame"
    );
    node.stop().await;
}

/// Asks for one block; `false` when there is no seat.
async fn asks_once(at: SocketAddr) -> bool {
    let Ok(stream) = TcpStream::connect(at).await else {
        return false;
    };
    let mut peer = Framed::new(stream, Codec::new(Limits::default()));
    let height = Height::new(3);
    let request = Message::BlockRequest { height, count: 0 }.encode();
    if peer.send((0, request)).await.is_err() {
        return false;
    }
    while let Some(Ok(frame)) = peer.next().await {
        let Frame::Message(_, message) = frame else {
            continue;
        };
        if let Ok(Message::Block(_)) = Message::decode(&message) {
            return true;
        }
    }
    false
}

/// A peer that announces a huge block for whatever it is asked, sends a few megabytes of it and
/// then drips.
async fn drips(tip: Height, mut wire: DuplexStream) {
    let status = Message::Status {
        height: tip,
        base: Height::new(1),
        max_range: 64,
    };
    let status = status.encode();
    let mut first = [&head(status.len(), None)[..], &status].concat();
    let announced = 66_900_000;
    first.extend_from_slice(&head(announced, None));
    first.push(0x1a);
    first.extend(vec![0x7f; 4_400_000]);
    if wire.write_all(&first).await.is_err() {
        return;
    }
    loop {
        sleep(Duration::from_secs(1)).await;
        if wire.write_all(&[0x7f; 12_000]).await.is_err() {
            return;
        }
    }
}

/// Real transports over a pipe, with one budget for all, as a switch has it.
fn carried(carrier: &Carrier, peer: PeerId, stream: DuplexStream) -> Link {
    let (link, end) = Link::pair(peer, "carried");
    let (reader, writer) = split(stream);
    let (reader, writer) = (StreamReader::new(reader), StreamWriter::new(writer));
    tokio::spawn(drive(reader, writer, carrier.clone(), end, None));
    link
}

/// The honest peer of the crowd: a scripted one behind a transport of its own.
fn honest(chain: &Arc<Recorded>, n: u8, wire: DuplexStream) {
    let mut served = scripted(chain, n, Behaviour::Honest, Duration::from_millis(5));
    let mut far = carried(&plain::carrier(), served.peer, wire);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                said = served.inbox.recv() => match said {
                    Some(blocksync::link::Inbound::Message(m)) => far.outbox.send(m).await.unwrap(),
                    _ => return,
                },
                heard = far.inbox.recv() => match heard {
                    Some(blocksync::link::Inbound::Message(m)) => {
                        served.outbox.send(m).await.unwrap();
                    }
                    Some(_) => {}
                    None => return,
                },
            }
        }
    });
}

async fn syncs_beside(chain: &Arc<Recorded>, liars: u8) -> Duration {
    let (service, _) = fresh(chain, config(1)).await;
    let carrier = plain::carrier();
    let begun = Instant::now();
    for n in 0..liars {
        let (here, there) = duplex(1 << 20);
        let liar = PeerId([100 + n; 20]);
        service
            .add_peer(carried(&carrier, liar, here))
            .await
            .unwrap();
        tokio::spawn(drips(chain.tip(), there));
    }
    let (here, there) = duplex(1 << 16);
    honest(chain, 2, there);
    let peer = PeerId([7; 20]);
    service
        .add_peer(carried(&carrier, peer, here))
        .await
        .unwrap();
    let tip = chain.tip().prev();
    let mut status = service.status();
    let done = status.wait_for(|s| s.applied >= tip);
    // The guard that `wait_for` returns borrows the status: the service waits while it lives.
    let is_done = timeout(Duration::from_secs(600), done).await.is_ok();
    assert!(is_done, "{liars} liars: {:?}", service.status().borrow());
    let took = begun.elapsed();
    let dropped = service.status().borrow().dropped.clone();
    assert!(dropped.iter().all(|d| d.peer != peer), "{dropped:?}");
    service.stop().await;
    took
}

#[tokio::test(start_paused = true)]
async fn drips_that_announce_much_hold_up_no_sync_of_large_blocks() {
    let made = TestChain::builder(1).heights(12).txs(1, 2_000_000).build();
    let chain = Recorded::of(&made);
    let alone = syncs_beside(&chain, 0).await;
    for liars in [2, 20] {
        let beside = syncs_beside(&chain, liars).await;
        println!("{liars} liars: {beside:?}, {alone:?} without");
        assert!(
            beside <= 3 * alone + Duration::from_secs(30),
            "{liars}: {beside:?}"
        );
    }
}

/// Over `plain://` nothing but what the nodes say tells two chains from each other.
#[tokio::test]
async fn another_chain_is_refused_by_name_before_anything_is_asked_or_served() {
    let ours = Recorded::of(&TestChain::builder(1).heights(20).build());
    let named = TestChain::builder(1).heights(30).chain_id("another-chain");
    let theirs = Recorded::of(&named.build());
    let twin = Recorded::of(&TestChain::builder(2).heights(30).build());
    assert_eq!(
        twin.genesis.chain_id, ours.genesis.chain_id,
        "another genesis, the same name"
    );
    for other in [theirs, twin] {
        let node = start(&ours, |_| {}).await;
        let stranger = start(&other, |c| c.listen.clear()).await;
        let before = node.service.status().borrow().applied;
        stranger
            .switch
            .add_peer(format!("plain://{}", address(&node, true)).parse().unwrap());
        let begun = Instant::now();
        while node.switch.counters().of(Reason::Local)
            + stranger.switch.counters().of(Reason::Local)
            == 0
        {
            sleep(Duration::from_millis(20)).await;
            assert!(begun.elapsed() < PATIENCE, "they stay connected");
        }
        for one in [&node, &stranger] {
            let status = one.service.status().borrow().clone();
            assert_eq!(status.dropped, [], "nobody is to blame");
            let well = matches!(status.outcome, Outcome::CaughtUp { .. } | Outcome::Syncing);
            assert!(
                well,
                "and nothing contradicts anything: {:?}",
                status.outcome
            );
        }
        assert_eq!(node.service.status().borrow().applied, before);
        node.stop().await;
        stranger.stop().await;
    }
}

/// Bytes that are none of these would be a fault of the test.
#[test]
fn the_empty_piece_is_one() {
    let packet: Bytes = vec![0x06, 0x1a, 0x04, 0x08, 0x40, 0x1a, 0x00].into();
    let parsed = blocksync::p2p::packet::parse(&packet).unwrap().unwrap();
    assert_eq!(parsed.0, packet.len());
}

/// Strangers who say a word that is none, and hang up.
async fn storm(node: &Node, strangers: usize) {
    for n in 0..strangers {
        let mut stranger = TcpStream::connect(address(node, n % 3 > 0)).await.unwrap();
        // A frame of our own framing whose message is none; as a handshake it is none either.
        stranger.write_all(b"\x04none").await.unwrap();
        sleep(Duration::from_millis(2)).await;
    }
}

/// Each of them would have four lines: connected to the transport and to the service, dropped, and
/// ended.
#[tokio::test]
async fn the_log_of_a_storm_of_strangers_stays_short() {
    const STRANGERS: usize = 300;
    let chain = Recorded::of(&TestChain::builder(31).heights(3).build());
    let node = start(&chain, |_| {}).await;
    logged::listen(LevelFilter::INFO);
    let begun = Instant::now();
    storm(&node, STRANGERS).await;
    let ended = || node.switch.counters().reasons().values().sum::<u64>();
    timeout(PATIENCE, async {
        while ended() < STRANGERS as u64 {
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .unwrap();
    // Of transport and service each: 60 at once, and one in two seconds.
    let most = 2 * (60 + usize::try_from(begun.elapsed().as_secs() / 2).unwrap() + 2);
    let lines = logged::text().lines().count();
    println!("{STRANGERS} strangers: {lines} lines, allowed {most}");
    assert!((60..=most).contains(&lines), "{}", logged::text());
    let friend = start(&chain, |network| network.key = NodeKey::from_seed([2; 32])).await;
    let (id, at) = (friend.switch.id(), address(&friend, false));
    // They take all the room that there may be again.
    storm(&node, 30).await;
    node.switch.add_peer(format!("{id}@{at}").parse().unwrap());
    let told = || {
        let log = logged::text();
        let of_friend =
            |line: &&str| line.contains("peer connected") && line.contains(&id.to_string());
        log.lines().filter(of_friend).count()
    };
    timeout(PATIENCE, async {
        while told() == 0 {
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("of a configured peer there is a line all the same");
    sleep(Duration::from_secs(3)).await;
    drop(TcpStream::connect(address(&node, true)).await.unwrap());
    sleep(Duration::from_millis(500)).await;
    let log = logged::take();
    assert!(
        log.contains("left_out="),
        "it is said that there were more: {log}"
    );
}
