//! A block, its header and what identifies it (`comet-protocol.md` 5.1–5.4, 5.9).

use bytes::Bytes;

use super::commit::{Commit, ExtendedCommit};
use super::encode;
use super::evidence::Evidence;
use super::merkle::{self, Tree};
use super::time::Time;
use crate::ids::{Address, BlockId, Hash, Height, PartSetHeader};

/// Bytes in each part of a block but the last (`comet-protocol.md` 5.4).
pub const PART_SIZE: usize = 65_536;

/// A block's header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Block protocol version; 11.
    pub version_block: u64,
    /// The application's version.
    pub version_app: u64,
    /// At most 50 bytes; Go does not check that they are UTF-8.
    pub chain_id: Bytes,
    /// The height, 1 or more.
    pub height: Height,
    /// The block's time.
    pub time: Time,
    /// The block before; zero in the first block.
    pub last_block_id: BlockId,
    /// Root over the signatures of the last commit. For all hashes here: absent is an empty byte string on the wire.
    pub last_commit_hash: Option<Hash>,
    /// Root over the transactions' hashes.
    pub data_hash: Option<Hash>,
    /// The set that signs this height.
    pub validators_hash: Option<Hash>,
    /// The set that signs the next height.
    pub next_validators_hash: Option<Hash>,
    /// Hash of the consensus params.
    pub consensus_hash: Option<Hash>,
    /// The application's hash after the block before; of any length.
    pub app_hash: Bytes,
    /// Root over the results of the block before.
    pub last_results_hash: Option<Hash>,
    /// Root over the evidence.
    pub evidence_hash: Option<Hash>,
    /// Who proposed it.
    pub proposer_address: Address,
}

/// A block that has passed the stateless checks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The header.
    pub header: Header,
    /// The transactions, in order.
    pub txs: Vec<Bytes>,
    /// Evidence of misbehaviour.
    pub evidence: Vec<Evidence>,
    /// The commit for the block before; empty in the first block.
    pub last_commit: Commit,
}

/// A block as it came: decoded, with its id computed from the very bytes that came, which are what is stored and served.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// The decoded block.
    pub block: Block,
    /// Header hash, and part set of `raw`.
    pub id: BlockId,
    /// The encoded `tendermint.types.Block`.
    pub raw: Bytes,
    /// The extended commit that came with it, not yet judged.
    pub ext_commit: Option<ExtendedCommit>,
    /// The encoded `tendermint.types.ExtendedCommit` that came with it.
    pub ext_raw: Option<Bytes>,
    /// The commit for this very block, which our own servers and exports send with the last one; not yet judged.
    pub seen_commit: Option<Commit>,
    /// Whether `raw` is in the canonical encoding. One that is not can be used only when its part set is the certified one.
    pub canonical: bool,
}

impl Fetched {
    /// The block's height.
    #[must_use]
    pub fn height(&self) -> Height {
        self.block.header.height
    }
}

impl Header {
    /// The header's hash, which is the block's: a root over its 14 fields (`comet-protocol.md` 5.2). `None` without a
    /// validators' hash.
    #[must_use]
    pub fn hash(&self) -> Option<Hash> {
        self.validators_hash?;
        let mut tree = Tree::new();
        let mut leaf = Vec::with_capacity(256);
        let mut push = |body: &dyn Fn(&mut Vec<u8>)| {
            leaf.clear();
            leaf.push(0);
            body(&mut leaf);
            tree.push(merkle::prefixed_leaf_hash(&leaf));
        };
        // Single values are hashed as the wrapper messages of protobuf, which are a field 1 each.
        push(&|out| encode::version(self.version_block, self.version_app, out));
        push(&|out| encode::bytes(1, &self.chain_id, out));
        push(&|out| encode::int(1, self.height.to_wire(), out));
        push(&|out| encode::timestamp(self.time, out));
        push(&|out| encode::block_id(&self.last_block_id, out));
        let mut push_bytes = |value: &[u8]| push(&|out| encode::bytes(1, value, out));
        push_bytes(or_empty(&self.last_commit_hash));
        push_bytes(or_empty(&self.data_hash));
        push_bytes(or_empty(&self.validators_hash));
        push_bytes(or_empty(&self.next_validators_hash));
        push_bytes(or_empty(&self.consensus_hash));
        push_bytes(&self.app_hash);
        push_bytes(or_empty(&self.last_results_hash));
        push_bytes(or_empty(&self.evidence_hash));
        push_bytes(&self.proposer_address.0);
        Some(tree.root())
    }
}

fn or_empty(hash: &Option<Hash>) -> &[u8] {
    hash.as_ref().map_or(&[], AsRef::as_ref)
}

/// The part set of a serialised block (`comet-protocol.md` 5.4): of the very bytes given.
///
/// # Panics
/// Never in practice: a block of 256 TiB would be needed.
#[must_use]
pub fn part_set(raw: &[u8]) -> PartSetHeader {
    let total = raw.len().div_ceil(PART_SIZE);
    PartSetHeader {
        total: u32::try_from(total).expect("a block below 256 TiB"),
        hash: Some(merkle::root(raw.chunks(PART_SIZE))),
    }
}

/// Root over the hashes of the transactions (`comet-protocol.md` 5.3).
#[must_use]
pub fn data_hash(txs: &[Bytes]) -> Hash {
    merkle::root(txs.iter().map(|tx| merkle::sha256(tx)))
}

/// Root over the evidence (`comet-protocol.md` 5.3).
#[must_use]
pub fn evidence_hash(list: &[Evidence]) -> Hash {
    merkle::root(list.iter().map(Evidence::leaf))
}
