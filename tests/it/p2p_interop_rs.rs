//! The `tendermint-p2p` crate as a peer: an implementation that is none of ours, in both roles,
//! over TCP.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use blocksync::link::{Inbound, Link};
use blocksync::p2p::node_info::NodeInfo;
use blocksync::p2p::{Config, ListenAddr, NodeKey, PeerAddr, Reason, Switch};
use tendermint_p2p::secret_connection::{DATA_MAX_SIZE, PublicKey, SecretConnection, Version};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

const CHAIN: &str = "interop";
const SEED: [u8; 32] = [7; 32];

/// The other implementation's end of a connection, with a read buffer that it does not panic at: of
/// a whole chunk, always.
struct Other {
    connection: SecretConnection<TcpStream>,
    buffered: Vec<u8>,
}

impl Other {
    fn new(stream: TcpStream) -> Self {
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        let connection = SecretConnection::new(stream, SEED.into(), Version::V0_34).unwrap();
        Other {
            connection,
            buffered: Vec::new(),
        }
    }

    fn read(&mut self, n: usize) -> Vec<u8> {
        while self.buffered.len() < n {
            let mut chunk = [0; DATA_MAX_SIZE];
            let got = self.connection.read(&mut chunk).unwrap();
            self.buffered.extend_from_slice(&chunk[..got]);
        }
        self.buffered.drain(..n).collect()
    }

    fn read_delimited(&mut self) -> Vec<u8> {
        let (mut length, mut shift) = (0, 0);
        loop {
            let byte = self.read(1)[0];
            length |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                return self.read(length);
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(DATA_MAX_SIZE) {
            self.connection.write_all(chunk).unwrap();
        }
        self.connection.flush().unwrap();
    }

    fn exchange_info(&mut self, chain: &str) -> NodeInfo {
        let id = NodeKey::from_seed(SEED).id();
        let info = NodeInfo::new(id, chain, "other", "tcp://127.0.0.1:1", &[0x40, 0x30]).encode();
        self.write(&prost_delimited(&info));
        NodeInfo::decode(&self.read_delimited()).unwrap()
    }

    /// Two messages in, one of several packets; the same out; a ping in between.
    fn talk(&mut self) {
        self.write(&[9, 0x1a, 7, 8, 0x40, 0x10, 1, 0x1a, 1, 0x2a]);
        self.write(&[2, 0x0a, 0]);
        let first = packet(0x40, false, &[5; 1024]);
        let last = packet(0x40, true, &[5; 176]);
        self.write(&[first, last].concat());
        let mut message = Vec::new();
        let mut pongs = 0;
        loop {
            match &self.read_delimited()[..] {
                [0x12, 0] => pongs += 1,
                // field 3, its length; channel; end mark; data and its length
                [0x1a, _, _, 8, 0x40, 0x1a, _, _, data @ ..] => message.extend_from_slice(data),
                [0x1a, _, _, 8, 0x40, 0x10, 1, 0x1a, _, _, data @ ..] => {
                    message.extend_from_slice(data);
                    break;
                }
                other => panic!("{}", hex::encode(other)),
            }
        }
        assert_eq!(pongs, 1);
        assert_eq!(message, [9; 3000]);
    }
}

fn varint(value: usize) -> Vec<u8> {
    let mut out = Vec::new();
    blocksync::varint::put(value as u64, &mut out);
    out
}

fn prost_delimited(body: &[u8]) -> Vec<u8> {
    [varint(body.len()), body.to_vec()].concat()
}

fn packet(channel: u8, last: bool, data: &[u8]) -> Vec<u8> {
    let mut body = vec![8, channel];
    if last {
        body.extend([0x10, 1]);
    }
    body.push(0x1a);
    body.extend(prost_delimited(data));
    prost_delimited(&[vec![0x1a], prost_delimited(&body)].concat())
}

fn config() -> Config {
    let mut config = Config::new(NodeKey::from_seed([1; 32]), CHAIN);
    config.redial_least = Duration::from_millis(50);
    config
}

async fn switch(config: Config) -> (Switch, mpsc::Receiver<Link>, CancellationToken) {
    let (links, come) = mpsc::channel(4);
    let stop = CancellationToken::new();
    (
        Switch::start(config, links, stop.clone()).await.unwrap(),
        come,
        stop,
    )
}

/// Our half of [`Other::talk`].
async fn talk(link: &mut Link) {
    assert_eq!(link.peer, NodeKey::from_seed(SEED).id());
    for expected in [vec![0x2a], vec![5; 1200]] {
        match link.inbox.recv().await.unwrap() {
            Inbound::Message(m) => assert_eq!(m, expected),
            other => panic!("{other:?}"),
        }
    }
    link.outbox.send(vec![9; 3000].into()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn it_dials_us() {
    let mut config = config();
    config.listen.push("comet://127.0.0.1:0".parse().unwrap());
    let (switch, mut come, stop) = switch(config).await;
    let ListenAddr { address, .. } = switch.listening()[0];
    let us = switch.id();
    let other = tokio::task::spawn_blocking(move || {
        let mut other = Other::new(TcpStream::connect(address).unwrap());
        let PublicKey::Ed25519(_) = other.connection.remote_pubkey();
        assert_eq!(
            other.connection.remote_pubkey().peer_id().to_string(),
            us.to_string()
        );
        let info = other.exchange_info(CHAIN);
        assert_eq!(info.wire.default_node_id, us.to_string());
        other.talk();
    });
    let mut link = come.recv().await.unwrap();
    talk(&mut link).await;
    other.await.unwrap();
    stop.cancel();
    tokio::time::timeout(Duration::from_secs(2), switch.stopped())
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn we_dial_it() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let other = tokio::task::spawn_blocking(move || {
        let mut other = Other::new(listener.accept().unwrap().0);
        other.exchange_info(CHAIN);
        other.talk();
    });
    let mut config = config();
    let id = NodeKey::from_seed(SEED).id();
    config
        .peers
        .push(format!("{id}@{address}").parse().unwrap());
    let (switch, mut come, stop) = switch(config).await;
    let mut link = come.recv().await.unwrap();
    talk(&mut link).await;
    other.await.unwrap();
    stop.cancel();
    switch.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_chain_and_another_id_are_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut other = Other::new(stream.unwrap());
            let exchange = std::panic::AssertUnwindSafe(|| other.exchange_info("another"));
            let _ = std::panic::catch_unwind(exchange); // a wrong id is hung up on before
        }
    });
    for (id, reason) in [
        (NodeKey::from_seed(SEED).id(), Reason::NodeInfo),
        (NodeKey::from_seed([8; 32]).id(), Reason::WrongId),
    ] {
        let mut config = config();
        let peer: PeerAddr = format!("{id}@{address}").parse().unwrap();
        config.peers.push(peer);
        let (switch, mut come, stop) = switch(config).await;
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        while switch.counters().of(reason) == 0 {
            assert!(
                tokio::time::Instant::now() < deadline,
                "{:?}",
                switch.counters().reasons()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(come.try_recv().is_err());
        stop.cancel();
        switch.stopped().await;
    }
}
