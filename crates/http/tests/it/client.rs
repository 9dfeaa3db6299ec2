//! A node that is served, and a client that writes its requests byte for byte.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use blocksync::app::KvStore;
use blocksync::chain::{Genesis, RuleSchedule};
use blocksync::ids::{Height, PeerId};
use blocksync::p2p::{Counters, Reason};
use blocksync::pool::Outcome;
use blocksync::service::{BlockSync, Handle, RetainResults, View};
use blocksync::store::{MemStore, Store};
use blocksync_http::{Http, Identity, MessageBytes, NetworkPeer, Node, Options, Transport};
use blocksync_testkit::peers::{Behaviour, scripted};
use blocksync_testkit::recorded::{Recorded, chain_dir, config};
use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A recorded chain, synced up to a height, and the service that did it.
pub(crate) struct Synced {
    pub(crate) chain: Arc<Recorded>,
    pub(crate) store: Arc<MemStore>,
    pub(crate) handle: Handle<KvStore>,
    rules: RuleSchedule,
}

impl Synced {
    /// Syncs `chain` to `until` from peers that behave like this.
    pub(crate) async fn new(
        chain: &'static str,
        rules: &str,
        until: u64,
        peers: &[Behaviour],
    ) -> Self {
        let chain = Recorded::load(chain);
        let store = Arc::new(MemStore::new());
        let rules = RuleSchedule::parse(rules).unwrap();
        let mut config = config(7);
        config.retain_results = RetainResults::All;
        config.rules = rules.clone();
        config.pool.until = Some(Height::new(until));
        let app = KvStore::new().with_events();
        let sync = BlockSync::builder(store.clone(), app, chain.genesis.clone());
        let handle = sync.config(config).spawn().await.unwrap();
        for (n, behaviour) in (1..).zip(peers) {
            let link = scripted(&chain, n, behaviour.clone(), Duration::ZERO);
            handle.add_peer(link).await.unwrap();
        }
        let done = handle.outcome(|o| matches!(o, Outcome::ReachedTarget { .. }));
        let done = tokio::time::timeout(Duration::from_secs(60), done).await;
        done.expect("in time").unwrap();
        Synced {
            chain,
            store,
            handle,
            rules,
        }
    }

    pub(crate) fn node(&self, view: Option<View>) -> Node {
        let file = std::fs::read(chain_dir(self.chain.name).join("genesis.json")).unwrap();
        let store: Arc<dyn Store> = self.store.clone();
        Node {
            store,
            genesis: Genesis::parse(&file).unwrap(),
            genesis_file: file.into(),
            rules: self.rules.clone(),
            identity: Identity {
                id: PeerId([7; 20]),
                public_key: [7; 32],
                moniker: "tested".to_owned(),
                listen_addr: "tcp://127.0.0.1:26656".to_owned(),
                listening: vec!["127.0.0.1:26656".to_owned()],
                rpc_address: String::new(),
            },
            keeps_results: true,
            view,
            network: Box::new(|| {
                vec![NetworkPeer {
                    id: PeerId([9; 20]),
                    address: "127.0.0.1:5".to_owned(),
                    moniker: "<img src=x onerror=alert(1)>".to_owned(),
                    version: "0.38.25".to_owned(),
                    dialled: true,
                    age: Duration::from_secs(5),
                    received: 0,
                    sent: 0,
                }]
            }),
            transport: Box::new(transport),
            serving: self.handle.view().serving().clone(),
            store_dir: Some(chain_dir(self.chain.name)),
        }
    }

    /// Waits until the listener has asked the scheduler once.
    pub(crate) async fn until_seen(&self, http: &Http) {
        for _ in 0..100 {
            let answer = get(http, "/metrics").await;
            if answer
                .text()
                .contains("blocksync_scheduler_timestamp_seconds{")
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the scheduler was not asked within 5 s");
    }

    /// Serves the store alone, as a node that is in consensus.
    pub(crate) fn serve(&self) -> Http {
        start(self.node(None))
    }

    /// Serves the service, too.
    pub(crate) fn serve_live(&self) -> Http {
        start(self.node(Some(self.handle.view())))
    }
}

/// A transport that has done nothing, with every series that one has.
pub(crate) fn transport() -> Transport {
    let messages = Counters::default();
    let messages = messages.message_bytes();
    Transport {
        ended: Reason::ALL.map(|reason| (reason.label(), 0)).to_vec(),
        messages: messages
            .map(|(name, received, sent)| MessageBytes {
                name,
                received,
                sent,
            })
            .collect(),
        ..Transport::default()
    }
}

pub(crate) fn start(node: Node) -> Http {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    Http::start(any, node, Options::default()).unwrap()
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// One request on a connection of its own.
pub(crate) async fn ask(
    http: &Http,
    method: &str,
    path: &str,
    headers: &str,
    body: &[u8],
) -> Answer {
    let mut stream = TcpStream::connect(http.address()).await.unwrap();
    let length = if body.is_empty() && method != "POST" {
        String::new()
    } else {
        format!("Content-Length: {}\r\n", body.len())
    };
    let host = http.address();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{length}{headers}\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // A body that is too long is refused before its end.
    let _ = stream.write_all(body).await;
    let mut answer = Vec::new();
    let reading = stream.read_to_end(&mut answer);
    let read = tokio::time::timeout(Duration::from_secs(30), reading).await;
    let _ = read.expect("an answer in time");
    parse(&answer)
}

fn parse(answer: &[u8]) -> Answer {
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n");
    let end = end.unwrap_or_else(|| panic!("no answer: {answer:?}"));
    let head = String::from_utf8(answer[..end].to_vec()).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let chunked = head
        .to_ascii_lowercase()
        .contains("transfer-encoding: chunked");
    assert!(!chunked, "every answer has a length: {head}");
    Answer {
        status,
        head,
        body: Bytes::copy_from_slice(&answer[end + 4..]),
    }
}

pub(crate) async fn get(http: &Http, path: &str) -> Answer {
    ask(http, "GET", path, "", b"").await
}

pub(crate) async fn post(http: &Http, body: &str) -> Answer {
    ask(http, "POST", "/", "", body.as_bytes()).await
}
