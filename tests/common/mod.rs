//! What the tests of the whole service share: recorded chains, and peers that serve them honestly or not.
#![allow(dead_code)] // each test target uses its own part

pub(crate) mod made;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use blocksync::app::KvStore;
use blocksync::chain::{Genesis, Time};
use blocksync::ids::{Height, PeerId};
use blocksync::link::{Inbound, Link, LinkEnd};
use blocksync::pool::PoolConfig;
use blocksync::service::{BlockSync, Config, Handle, Offload};
use blocksync::store::MemStore;
use blocksync::store::Store;
use blocksync::wire::message::Kind;
use blocksync::wire::{self, Message};
use bytes::{Buf, Bytes};

/// A recorded chain of `tests/chains`.
pub(crate) struct Recorded {
    pub name: &'static str,
    pub genesis: Genesis,
    /// Whole `BlockResponse` bodies, by height from the initial one.
    pub responses: Vec<Bytes>,
    pub initial: Height,
    /// Lines of `expected.jsonl`.
    pub expected: Vec<serde_json::Value>,
    pub tip_commit: Bytes,
}

pub(crate) fn chain_dir(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/chains")
        .join(name)
}

impl Recorded {
    pub(crate) fn load(name: &'static str) -> Arc<Self> {
        let dir = chain_dir(name);
        let read = |file: &str| std::fs::read(dir.join(file)).expect(file);
        let genesis = Genesis::parse(&read("genesis.json")).unwrap();
        let lines = String::from_utf8(read("expected.jsonl")).unwrap();
        let expected = lines
            .lines()
            .map(|l| serde_json::from_str(l).unwrap())
            .collect();
        let initial = genesis.initial_height;
        let responses = split(Bytes::from(read("blocks.bin")));
        Arc::new(Recorded {
            name,
            genesis,
            responses,
            initial,
            expected,
            tip_commit: read("tip_commit.bin").into(),
        })
    }

    pub(crate) fn tip(&self) -> Height {
        self.initial.plus(self.responses.len() as u64 - 1)
    }

    pub(crate) fn response(&self, height: Height) -> Option<&Bytes> {
        if height < self.initial {
            return None;
        }
        self.responses.get(height.above(self.initial) as usize)
    }

    /// A whole `Message` with this height's block, with the seen commit beside the last one when asked for.
    pub(crate) fn message(&self, height: Height, with_tip_commit: bool) -> Option<Bytes> {
        let body = self.response(height)?;
        let mut body = body.to_vec();
        if with_tip_commit && height == self.tip() {
            body.push(15 << 3 | 2);
            put_varint(&mut body, self.tip_commit.len() as u64);
            body.extend_from_slice(&self.tip_commit);
        }
        Some(wrap(&body))
    }

    pub(crate) fn app_hash_after(&self, height: Height) -> String {
        self.expected[height.above(self.initial) as usize]["app_hash_after"]
            .as_str()
            .unwrap()
            .to_owned()
    }
}

/// `Message{block_response}` around a `BlockResponse` body.
pub(crate) fn wrap(body: &[u8]) -> Bytes {
    let mut message = vec![3 << 3 | 2];
    put_varint(&mut message, body.len() as u64);
    message.extend_from_slice(body);
    message.into()
}

pub(crate) fn put_varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// Cuts a file of delimited messages.
pub(crate) fn split(mut file: Bytes) -> Vec<Bytes> {
    let mut messages = Vec::new();
    while file.has_remaining() {
        let (mut len, mut shift) = (0usize, 0);
        loop {
            let byte = file.get_u8();
            len |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                break;
            }
        }
        messages.push(file.split_to(len));
    }
    messages
}

/// How a scripted peer behaves.
#[derive(Clone, Debug)]
pub(crate) enum Behaviour {
    /// Serves everything it has.
    Honest,
    /// Serves this many blocks, half of the next one's bytes, and is gone.
    DiesAfter(usize),
    /// Says what it has and never answers.
    Silent,
    /// Never says anything.
    Mute,
    /// Alters a byte of a transaction in the block of this height.
    LiesInTransaction(u64),
    /// Alters a signature of the last commit carried by the block of this height.
    LiesInSignature(u64),
    /// Answers this height and those above with a block from far above.
    LiesInHeight(u64),
    /// Makes the last commit of the block of this height name another round.
    LiesInCommit(u64),
    /// Claims this height and serves what it has.
    Claims(u64),
    /// Claims this height and never answers.
    ClaimsOnly(u64),
    /// Answers "no block" to everything.
    NoBlocks,
    /// Answers each request only after this time.
    Slow(Duration),
    /// Sends bytes that are no message.
    Garbage,
    /// Sends a block that nobody asked for.
    Unasked,
    /// Leaves out every extended commit.
    NoExtensions,
    /// Alters every extended commit.
    BadExtensions,
}

/// A peer's id for tests.
pub(crate) fn id(n: u8) -> PeerId {
    PeerId([n; 20])
}

/// Links a scripted peer to a service. The delay is that of one way over the link.
pub(crate) fn scripted(
    chain: &Arc<Recorded>,
    n: u8,
    behaviour: Behaviour,
    delay: Duration,
) -> Link {
    let (link, end) = Link::pair(id(n), format!("{behaviour:?}"));
    tokio::spawn(serve(chain.clone(), end, behaviour, delay));
    link
}

async fn serve(chain: Arc<Recorded>, mut end: LinkEnd, behaviour: Behaviour, delay: Duration) {
    if matches!(behaviour, Behaviour::Mute) {
        end.hangup.cancelled().await;
        return;
    }
    let claim = match behaviour {
        Behaviour::Claims(h) | Behaviour::ClaimsOnly(h) => Height::new(h),
        _ => chain.tip(),
    };
    let status = Message::Status {
        height: claim,
        base: chain.initial,
        max_range: 1,
    }
    .encode();
    if send(&end, status.clone()).await.is_err() {
        return;
    }
    if matches!(behaviour, Behaviour::Garbage) {
        let _ = send(&end, Bytes::from_static(b"\xff\xff\xff\xff garbage")).await;
    }
    if matches!(behaviour, Behaviour::Unasked) {
        let _ = send(&end, chain.message(chain.initial.plus(100), false).unwrap()).await;
    }
    let mut served = 0;
    loop {
        let request = tokio::select! {
            biased;
            () = end.hangup.cancelled() => return,
            request = end.outbox.recv() => request,
        };
        let Some(request) = request else { return };
        if wire::guard::peek(&request).map(|p| p.kind).ok() == Some(Kind::Block) {
            continue;
        }
        match Message::decode_small(&request) {
            Ok(Message::StatusRequest) if send(&end, status.clone()).await.is_err() => return,
            Ok(Message::BlockRequest { height, .. }) => {
                tokio::time::sleep(delay).await;
                if let Behaviour::Slow(by) = behaviour {
                    tokio::time::sleep(by).await;
                }
                if let Behaviour::DiesAfter(n) = behaviour
                    && served == n
                {
                    let _ = end.inbox.send(Inbound::Progress(512)).await;
                    let _ = end
                        .inbox
                        .send(Inbound::Closed("connection reset".into()))
                        .await;
                    return;
                }
                let Some(answer) = answer(&chain, &behaviour, height) else {
                    continue;
                };
                served += 1;
                if send(&end, answer).await.is_err() {
                    return;
                }
            }
            _ => {}
        }
    }
}

fn answer(chain: &Recorded, behaviour: &Behaviour, height: Height) -> Option<Bytes> {
    let honest = chain.message(height, false);
    let body = || chain.response(height).map(|b| b.to_vec());
    let lie = |h: u64| height == Height::new(h);
    match behaviour {
        Behaviour::Silent | Behaviour::Mute | Behaviour::ClaimsOnly(_) => None,
        Behaviour::NoBlocks => Some(Message::NoBlock { height }.encode()),
        Behaviour::LiesInTransaction(h) if lie(*h) => body().map(|b| wrap(&alter::transaction(&b))),
        Behaviour::LiesInSignature(h) if lie(*h) => body().map(|b| wrap(&alter::signature(&b))),
        Behaviour::LiesInCommit(h) if lie(*h) => body().map(|b| wrap(&alter::round(&b))),
        Behaviour::LiesInHeight(h) if height.get() >= *h => chain.message(height.plus(150), false),
        Behaviour::NoExtensions => body().map(|b| wrap(&alter::without_extensions(&b))),
        Behaviour::BadExtensions => body().map(|b| wrap(&alter::extension(&b))),
        _ => honest.or_else(|| Some(Message::NoBlock { height }.encode())),
    }
}

/// Changes to an encoded `BlockResponse` that keep it a well-formed message.
pub(crate) mod alter {
    use blocksync::wire::proto::blocksync::BlockResponse;
    use bytes::Bytes;
    use prost::Message;

    fn change(body: &[u8], with: impl FnOnce(&mut BlockResponse)) -> Vec<u8> {
        let mut response = BlockResponse::decode(body).unwrap();
        with(&mut response);
        response.encode_to_vec()
    }

    fn flip(bytes: &Bytes) -> Bytes {
        let mut bytes = bytes.to_vec();
        if let Some(last) = bytes.last_mut() {
            *last ^= 1;
        }
        bytes.into()
    }

    pub(crate) fn transaction(body: &[u8]) -> Vec<u8> {
        change(body, |r| {
            let block = r.block.as_mut().unwrap();
            let data = block.data.as_mut().unwrap();
            match data.txs.first_mut() {
                Some(tx) => *tx = flip(tx),
                None => data.txs.push(Bytes::from_static(b"forged=1")),
            }
        })
    }

    /// The signature's header hash is mended, so that only verification of the signature finds it.
    pub(crate) fn signature(body: &[u8]) -> Vec<u8> {
        change(body, |r| {
            let commit = r.block.as_mut().unwrap().last_commit.as_mut().unwrap();
            let sig = commit
                .signatures
                .iter_mut()
                .find(|s| !s.signature.is_empty())
                .unwrap();
            sig.signature = flip(&sig.signature);
        })
    }

    pub(crate) fn round(body: &[u8]) -> Vec<u8> {
        change(body, |r| {
            r.block
                .as_mut()
                .unwrap()
                .last_commit
                .as_mut()
                .unwrap()
                .round += 1;
        })
    }

    pub(crate) fn without_extensions(body: &[u8]) -> Vec<u8> {
        change(body, |r| r.ext_commit = None)
    }

    pub(crate) fn extension(body: &[u8]) -> Vec<u8> {
        change(body, |r| {
            if let Some(ext) = r.ext_commit.as_mut() {
                for sig in &mut ext.extended_signatures {
                    if !sig.extension_signature.is_empty() {
                        sig.extension_signature = flip(&sig.extension_signature);
                    }
                }
            }
        })
    }
}

async fn send(end: &LinkEnd, message: Bytes) -> Result<(), ()> {
    tokio::select! {
        biased;
        () = end.hangup.cancelled() => Err(()),
        sent = end.inbox.send(Inbound::Message(message)) => sent.map_err(|_| ()),
    }
}

/// A clock later than every recorded chain.
pub(crate) fn clock() -> Time {
    Time::new(1_800_000_000, 0).unwrap()
}

/// A configuration for paused time: everything inline, a fixed seed.
pub(crate) fn config(seed: u64) -> Config {
    Config {
        clock,
        offload: Some(Offload::inline()),
        seed: Some(seed),
        pool: PoolConfig::default(),
        ..Config::default()
    }
}

/// A service over an empty store in memory.
pub(crate) async fn fresh(chain: &Recorded, config: Config) -> (Handle<KvStore>, Arc<dyn Store>) {
    let store: Arc<dyn Store> = Arc::new(MemStore::new());
    let sync =
        BlockSync::builder(store.clone(), KvStore::default(), chain.genesis.clone()).config(config);
    (sync.spawn().await.unwrap(), store)
}
