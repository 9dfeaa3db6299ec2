//! Recorded chains, and the configuration under which tests of the whole service sync them.

use std::path::PathBuf;
use std::sync::Arc;

use blocksync::app::{App, KvStore};
use blocksync::chain::{Genesis, RuleSchedule, Rules, Time};
use blocksync::ids::{Height, PeerId};
use blocksync::service::{BlockSync, Config, Handle, Offload};
use blocksync::store::MemStore;
use blocksync::store::Store;
use blocksync::varint;
use bytes::{Buf, Bytes};

/// A recorded chain of `tests/chains`.
pub struct Recorded {
    /// Name of its directory.
    pub name: &'static str,
    /// The genesis that its node started with.
    pub genesis: Genesis,
    /// Whole `BlockResponse` bodies, by height from the initial one.
    pub responses: Vec<Bytes>,
    /// Height of the first block.
    pub initial: Height,
    /// Lines of `expected.jsonl`.
    pub expected: Vec<serde_json::Value>,
    /// Encoded commit for the last block.
    pub tip_commit: Bytes,
}

/// Directory of a recorded chain in the repository.
pub fn chain_dir(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/chains")
        .join(name)
}

impl Recorded {
    /// Reads a recorded chain of the repository, by the rules of CometBFT 0.40, which know all keys
    /// of its age.
    pub fn load(name: &'static str) -> Arc<Self> {
        Self::load_by(name, &Rules::COMET_040.into())
    }

    /// Reads a recorded chain by these rules.
    pub fn load_by(name: &'static str, rules: &RuleSchedule) -> Arc<Self> {
        let dir = chain_dir(name);
        let read = |file: &str| std::fs::read(dir.join(file)).expect(file);
        let genesis = Genesis::read(&read("genesis.json").into(), rules).unwrap();
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

    /// Height of the last block.
    pub fn tip(&self) -> Height {
        self.initial.plus(self.responses.len() as u64 - 1)
    }

    /// The encoded `BlockResponse` of a height.
    pub fn response(&self, height: Height) -> Option<&Bytes> {
        if height < self.initial {
            return None;
        }
        self.responses.get(height.above(self.initial) as usize)
    }

    /// A whole `Message` with this height's block, with the seen commit beside the last one when
    /// asked for.
    pub fn message(&self, height: Height, with_tip_commit: bool) -> Option<Bytes> {
        let body = self.response(height)?;
        let mut body = body.to_vec();
        if with_tip_commit && height == self.tip() {
            body.push(15 << 3 | 2);
            varint::put(self.tip_commit.len() as u64, &mut body);
            body.extend_from_slice(&self.tip_commit);
        }
        Some(wrap(&body))
    }

    /// The app hash after a height, in hexadecimal, as CometBFT recorded it.
    pub fn app_hash_after(&self, height: Height) -> String {
        self.expected[height.above(self.initial) as usize]["app_hash_after"]
            .as_str()
            .unwrap()
            .to_owned()
    }
}

/// `Message{block_response}` around a `BlockResponse` body.
pub fn wrap(body: &[u8]) -> Bytes {
    let mut message = vec![3 << 3 | 2];
    varint::put(body.len() as u64, &mut message);
    message.extend_from_slice(body);
    message.into()
}

/// Cuts a file of delimited messages.
pub fn split(mut file: Bytes) -> Vec<Bytes> {
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

/// A peer's id for tests.
pub fn id(n: u8) -> PeerId {
    PeerId([n; 20])
}

/// A clock later than every recorded chain.
pub fn clock() -> Time {
    Time::new(1_800_000_000, 0).unwrap()
}

/// A configuration for paused time: everything inline, a fixed seed.
pub fn config(seed: u64) -> Config {
    let mut config = Config::default();
    config.clock = clock;
    config.offload = Some(Offload::inline());
    config.seed = Some(seed);
    config
}

/// A service over an empty store in memory.
pub async fn fresh(chain: &Recorded, config: Config) -> (Handle<KvStore>, Arc<dyn Store>) {
    fresh_with(chain, KvStore::default(), config).await
}

/// The same with another application.
pub async fn fresh_with<A: App>(
    chain: &Recorded,
    app: A,
    config: Config,
) -> (Handle<A>, Arc<dyn Store>) {
    let store: Arc<dyn Store> = Arc::new(MemStore::new());
    let sync = BlockSync::builder(store.clone(), app, chain.genesis.clone()).config(config);
    (sync.spawn().await.unwrap(), store)
}
