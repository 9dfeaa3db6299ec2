//! Switches against each other and against hostile strangers, over loopback.

use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::node_info::NodeInfo;
use super::upgrade::{Deadlines, Terms, upgrade};
use super::{Config, ListenAddr, NodeKey, PeerAddr, Reason, Switch};
use crate::link::{Inbound, Link};

struct Node {
    switch: Switch,
    come: mpsc::Receiver<Link>,
    stop: CancellationToken,
}

impl Node {
    async fn start(seed: u8, change: impl FnOnce(&mut Config)) -> Node {
        let mut config = Config::new(NodeKey::from_seed([seed; 32]), "chain");
        config.listen = vec!["comet://127.0.0.1:0".parse().unwrap()];
        config.redial_least = Duration::from_millis(20);
        config.redial_most = Duration::from_millis(200);
        change(&mut config);
        let (links, come) = mpsc::channel(100);
        let stop = CancellationToken::new();
        let switch = Switch::start(config, links, stop.clone()).await.unwrap();
        Node { switch, come, stop }
    }

    fn at(&self) -> ListenAddr {
        self.switch.listening()[0]
    }

    fn peer(&self) -> PeerAddr {
        let ListenAddr { plain, address } = self.at();
        let text = if plain {
            format!("plain://{address}")
        } else {
            format!("{}@{address}", self.switch.id())
        };
        text.parse().unwrap()
    }

    async fn link(&mut self) -> Link {
        let come = timeout(Duration::from_secs(10), self.come.recv()).await;
        come.expect("a link within 10 s").unwrap()
    }

    async fn counted(&self, reason: Reason, n: u64) {
        until(&format!("{reason:?} {n}"), || {
            self.switch.counters().of(reason) >= n
        })
        .await;
    }

    async fn stop(self) {
        self.stop.cancel();
        timeout(Duration::from_secs(2), self.switch.stopped())
            .await
            .expect("stops within 2 s");
    }
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(10), "{what}");
        sleep(Duration::from_millis(5)).await;
    }
}

async fn message(link: &mut Link) -> Bytes {
    match timeout(Duration::from_secs(10), link.inbox.recv())
        .await
        .unwrap()
    {
        Some(Inbound::Message(m)) => m,
        other => panic!("{other:?}"),
    }
}

/// A message of several packets each way.
async fn talk(a: &mut Link, b: &mut Link) {
    for n in [5, 100_000] {
        a.outbox.send(vec![1; n].into()).await.unwrap();
        b.outbox.send(vec![2; n].into()).await.unwrap();
    }
    for n in [5, 100_000] {
        while message(b).await.len() != n {}
        while message(a).await.len() != n {}
    }
}

#[tokio::test]
async fn framing_is_what_both_can_and_plain_needs_none() {
    for (seed, ours, theirs) in [(1, true, true), (3, true, false), (5, false, true)] {
        let mut server = Node::start(seed, |c| c.length_prefixed = theirs).await;
        let peer = server.peer();
        let mut client = Node::start(seed + 1, |c| {
            c.length_prefixed = ours;
            c.peers.push(peer);
        })
        .await;
        let (mut a, mut b) = (client.link().await, server.link().await);
        assert_eq!((a.peer, b.peer), (server.switch.id(), client.switch.id()));
        talk(&mut a, &mut b).await;
        client.stop().await;
        server.stop().await;
    }
    let mut server = Node::start(1, |c| {
        c.listen = vec!["plain://127.0.0.1:0".parse().unwrap()]
    })
    .await;
    let peer = server.peer();
    let mut client = Node::start(2, |c| c.peers.push(peer.clone())).await;
    let (mut a, mut b) = (client.link().await, server.link().await);
    assert_eq!(a.peer, peer.id());
    talk(&mut a, &mut b).await;
    client.stop().await;
    server.stop().await;
}

#[tokio::test]
async fn a_lost_peer_is_dialled_again_and_a_ban_holds() {
    let mut server = Node::start(1, |_| {}).await;
    let peer = server.peer();
    let mut client = Node::start(2, |c| c.peers.push(peer)).await;
    for _ in 0..3 {
        server.link().await.hangup.cancel();
        drop(client.link().await);
    }
    let link = server.link().await;
    server
        .switch
        .ban(client.switch.id(), Duration::from_millis(500));
    timeout(Duration::from_secs(1), link.hangup.cancelled())
        .await
        .unwrap();
    let start = Instant::now();
    server.link().await;
    assert!(start.elapsed() >= Duration::from_millis(400));
    assert!(server.switch.counters().of(Reason::NotAllowed) > 0);
    client.stop().await;
    server.stop().await;
}

#[tokio::test]
async fn n09_wrong_nodes_are_named_and_refused() {
    let server = Node::start(1, |c| c.allow = vec![NodeKey::from_seed([2; 32]).id()]).await;
    let (peer, ListenAddr { address, .. }) = (server.peer(), server.at());
    let stranger = Node::start(3, |c| c.peers.push(peer.clone())).await;
    server.counted(Reason::NotAllowed, 1).await;
    let other_chain = Node::start(2, |c| {
        c.chain_id = "other".to_owned();
        c.peers.push(peer);
    })
    .await;
    server.counted(Reason::NodeInfo, 1).await;
    let wrong: PeerAddr = format!("{}@{address}", stranger.switch.id())
        .parse()
        .unwrap();
    let mistaken = Node::start(2, |c| c.peers.push(wrong)).await;
    mistaken.counted(Reason::WrongId, 1).await;
    for node in [stranger, other_chain, mistaken, server] {
        node.stop().await;
    }
}

/// Handshakes by hand with a NodeInfo of choice.
async fn visit(
    to: &Node,
    seed: u8,
    change: impl FnOnce(&mut NodeInfo),
) -> Result<(), super::upgrade::UpgradeError> {
    let key = NodeKey::from_seed([seed; 32]);
    let mut ours = NodeInfo::new(key.id(), "chain", "visitor", "tcp://0.0.0.0:0", &[0x40]);
    change(&mut ours);
    let terms = Terms {
        key: &key,
        ours: &ours,
        dialled: None,
        allow_v1: true,
        deadlines: Deadlines::default(),
    };
    let stream = TcpStream::connect(to.at().address).await.unwrap();
    let (r, w) = stream.into_split();
    let mut up = upgrade(r, w, &terms, |_| Ok(())).await?;
    let _ = up.reader.fill(usize::MAX).await; // until it hangs up
    Ok(())
}

#[tokio::test]
async fn v1_nodes_and_ourselves_are_refused() {
    let server = Node::start(1, |_| {}).await;
    visit(&server, 2, |info| {
        info.wire.protocol_version.as_mut().unwrap().p2p = 9
    })
    .await
    .unwrap();
    server.counted(Reason::Version1, 1).await;
    let _ = visit(&server, 1, |_| {}).await;
    server.counted(Reason::Ourselves, 1).await;
    let _ = visit(&server, 2, |info| {
        info.wire.default_node_id = "00".repeat(20).into()
    })
    .await;
    server.counted(Reason::NodeInfo, 1).await;
    server.stop().await;
}

/// Refused before there is a link, which is where block sync begins to know of a peer. A NodeInfo
/// names the chain and the protocols; another genesis under the same name shows in the first block,
/// and nobody is to blame for it.
#[tokio::test]
async fn n09_another_chain_or_protocol_is_refused_at_the_handshake() {
    let mut server = Node::start(1, |_| {}).await;
    let wrong: [fn(&mut NodeInfo); 3] = [
        |info| info.wire.network = "other".into(),
        |info| info.wire.protocol_version.as_mut().unwrap().block += 1,
        |info| info.wire.protocol_version.as_mut().unwrap().p2p = 9,
    ];
    for (seed, change) in (2..).zip(wrong) {
        // Whichever of the two refuses first: nobody stays.
        let visit = timeout(Duration::from_secs(10), visit(&server, seed, change));
        assert!(visit.await.is_ok(), "the stranger {seed} is connected");
    }
    server.counted(Reason::NodeInfo, 2).await;
    server.counted(Reason::Version1, 1).await;
    let peer = server.peer();
    let mut fits = Node::start(9, |c| c.peers.push(peer)).await;
    let (_ours, first) = (fits.link().await, server.link().await);
    let strangers = usize::from(first.peer != fits.switch.id()) + server.come.len();
    println!("N09: measured {strangers} links of strangers allowed 0");
    assert_eq!(strangers, 0, "a link of one that was to be refused");
    fits.stop().await;
    server.stop().await;
}

#[tokio::test]
async fn one_connection_an_id() {
    let mut server = Node::start(1, |_| {}).await;
    let peer = server.peer();
    let mut client = Node::start(2, |c| c.peers.push(peer.clone())).await;
    let (mut a, mut b) = (client.link().await, server.link().await);
    let twin = Node::start(2, |c| c.peers.push(peer)).await;
    server.counted(Reason::Duplicate, 1).await;
    talk(&mut a, &mut b).await;
    assert_eq!(server.switch.peers().len(), 1);
    for node in [twin, client, server] {
        node.stop().await;
    }
}

#[tokio::test]
async fn nodes_that_dial_each_other_at_once_end_up_with_one_connection() {
    for round in 0..10 {
        let mut a = Node::start(2 * round + 1, |_| {}).await;
        let mut b = Node::start(2 * round + 2, |_| {}).await;
        a.switch.add_peer(b.peer());
        b.switch.add_peer(a.peer());
        // the last link that either has is the one that lives
        sleep(Duration::from_millis(300)).await;
        let (mut at_a, mut at_b) = (a.link().await, b.link().await);
        while let Ok(newer) = a.come.try_recv() {
            at_a = newer;
        }
        while let Ok(newer) = b.come.try_recv() {
            at_b = newer;
        }
        talk(&mut at_a, &mut at_b).await;
        assert_eq!((a.switch.peers().len(), b.switch.peers().len()), (1, 1));
        a.stop().await;
        b.stop().await;
    }
}

#[tokio::test]
async fn half_open_connections_are_few_and_short() {
    let server = Node::start(1, |c| {
        c.max_half_open = 16;
        c.deadlines.secret = Duration::from_millis(300);
    })
    .await;
    let ListenAddr { address, .. } = server.at();
    let mut silent = Vec::new();
    for _ in 0..12 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    server.counted(Reason::Full, 8).await; // four from one address
    server.counted(Reason::HandshakeTimeout, 4).await;
    for stream in &mut silent {
        // all that anybody was sent is an ephemeral key
        let mut got = Vec::new();
        let _ = timeout(Duration::from_secs(1), stream.read_to_end(&mut got))
            .await
            .unwrap();
        assert!(got.len() <= 35);
    }
    // garbage
    for bytes in [
        &[0xff; 100][..],
        &[0x22, 0x0a, 0x20],
        &b"GET / HTTP/1.1\r\n\r\n"[..],
    ] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut got = Vec::new();
        let _ = timeout(Duration::from_secs(1), stream.read_to_end(&mut got))
            .await
            .unwrap();
    }
    let peer = server.peer();
    let mut client = Node::start(2, |c| c.peers.push(peer)).await;
    client.link().await;
    client.stop().await;
    server.stop().await;
}

#[tokio::test]
async fn inbound_peers_are_limited() {
    let mut server = Node::start(1, |c| c.max_inbound = 2).await;
    let peer = server.peer();
    let mut clients = Vec::new();
    for seed in 2..6 {
        let peer = peer.clone();
        clients.push(Node::start(seed, |c| c.peers.push(peer)).await);
    }
    let _links = (server.link().await, server.link().await);
    server.counted(Reason::Full, 3).await;
    assert_eq!(server.switch.peers().len(), 2);
    for node in clients {
        node.stop().await;
    }
    server.stop().await;
}

#[tokio::test]
async fn a_storm_of_reconnects_leaves_nothing_behind() {
    let server = Node::start(1, |_| {}).await;
    for _ in 0..300 {
        drop(TcpStream::connect(server.at().address).await.unwrap());
    }
    let peer = server.peer();
    let flapping: Vec<_> = (2..12)
        .map(|seed| {
            let peer = peer.clone();
            tokio::spawn(async move {
                for _ in 0..5 {
                    let peer = peer.clone();
                    let mut node = Node::start(seed, |c| c.peers.push(peer)).await;
                    let _ = timeout(Duration::from_millis(500), node.come.recv()).await;
                    node.stop().await;
                }
            })
        })
        .collect();
    let mut server = server;
    let drain = async {
        loop {
            drop(server.come.recv().await);
        }
    };
    tokio::select! {
        () = drain => {}
        _ = futures::future::join_all(flapping) => {}
    }
    until("all gone", || server.switch.peers().is_empty()).await;
    let peer = server.peer();
    let mut client = Node::start(50, |c| c.peers.push(peer)).await;
    let (mut a, mut b) = (client.link().await, server.link().await);
    talk(&mut a, &mut b).await;
    client.stop().await;
    server.stop().await;
}

#[tokio::test]
async fn a_name_that_nobody_answers_at_is_counted_and_stops_at_once() {
    let free = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let peer: PeerAddr = format!("{}@{free}", NodeKey::generate().id())
        .parse()
        .unwrap();
    let node = Node::start(1, |c| c.peers.push(peer)).await;
    node.counted(Reason::Dial, 2).await;
    node.stop().await;
}

#[tokio::test]
async fn a_seed_makes_nodes_known_to_each_other() {
    for framed in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let book = dir.path().join("addrbook.json");
        let pex = |c: &mut Config| {
            c.pex = true;
            c.allow_private = true;
            c.length_prefixed = framed;
        };
        let mut seed = Node::start(1, pex).await;
        let at = seed.peer();
        let mut server = Node::start(2, |c| {
            pex(c);
            c.peers.push(at.clone());
        })
        .await;
        let _at_seed = seed.link().await;
        let _to_seed = server.link().await;
        let mut client = Node::start(3, |c| {
            pex(c);
            c.seeds.push(at);
            c.address_book = Some(book.clone());
        })
        .await;
        let (first, mut second) = (client.link().await, client.link().await);
        assert_eq!(
            (first.peer, second.peer),
            (seed.switch.id(), server.switch.id())
        );
        talk(&mut second, &mut server.link().await).await;
        let ids: Vec<_> = [&seed, &server].map(|n| n.switch.id().to_string()).into();
        for node in [client, server, seed] {
            node.stop().await;
        }
        let saved = std::fs::read_to_string(&book).unwrap();
        assert!(ids.iter().all(|id| saved.contains(id)), "{saved}");
    }
}

#[tokio::test]
async fn a_peer_that_breaks_the_rules_of_exchange_is_dropped() {
    let server = Node::start(1, |c| c.pex = true).await;
    let key = NodeKey::from_seed([2; 32]);
    let ours = NodeInfo::new(
        key.id(),
        "chain",
        "visitor",
        "tcp://0.0.0.0:0",
        &[0x40, 0x00],
    );
    let terms = Terms {
        key: &key,
        ours: &ours,
        dialled: None,
        allow_v1: true,
        deadlines: Deadlines::default(),
    };
    let stream = TcpStream::connect(server.at().address).await.unwrap();
    let (r, w) = stream.into_split();
    let mut up = upgrade(r, w, &terms, |_| Ok(())).await.unwrap();
    // addresses that nobody asked for, on channel 0
    up.writer
        .put(&[8, 0x1a, 6, 0x10, 1, 0x1a, 2, 0x12, 0])
        .unwrap();
    up.writer.flush().await.unwrap();
    server.counted(Reason::Protocol, 1).await;
    server.stop().await;
}
