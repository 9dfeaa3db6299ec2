//! A block, its header and what identifies it (`protocol.md` 5.1–5.4, 5.9).

use std::sync::OnceLock;

use bytes::Bytes;

use super::commit::{Commit, ExtendedCommit};
use super::encode;
use super::evidence::Evidence;
use super::merkle::{self, Tree};
use super::time::Time;
use super::txs::Txs;
use crate::ids::{Address, BlockId, Hash, Height, PartSetHeader};

/// Bytes in each part of a block but the last (`protocol.md` 5.4).
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
    /// Root over the signatures of the last commit. For all hashes here: absent is an empty byte
    /// string on the wire.
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
    /// Address of the proposer.
    pub proposer_address: Address,
}

/// A block that has passed the stateless checks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The header.
    pub header: Header,
    /// The transactions, in order.
    pub txs: Txs,
    /// Evidence of misbehaviour.
    pub evidence: Vec<Evidence>,
    /// The commit for the block before; empty in the first block.
    pub last_commit: Commit,
}

/// A block as it came: decoded, with its id computed from the very bytes that came, which are what
/// is stored and served.
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
    /// The commit for this very block, which our own servers and exports send with the last one;
    /// not yet judged.
    pub seen_commit: Option<Commit>,
    /// Which of the commits that it carries have been fully verified.
    pub checked: CommitChecks,
    /// Whether `raw` is in the canonical encoding. One that is not can be used only when its part
    /// set is the certified one.
    pub canonical: bool,
}

/// The hash of the validator set under which a carried commit has passed the full check, once it
/// has: each signature is verified once in its life.
#[derive(Clone, Debug, Default)]
pub struct CommitChecks {
    /// Of the last commit.
    pub last_commit: OnceLock<Hash>,
    /// Of the commit for the block itself.
    pub seen_commit: OnceLock<Hash>,
    /// Of the extended commit for the block itself, its extensions included.
    pub ext_commit: OnceLock<Hash>,
}

impl Fetched {
    /// The block's header.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.block.header
    }

    /// The commit for the block before, which this one carries.
    #[must_use]
    pub fn last_commit(&self) -> &Commit {
        &self.block.last_commit
    }

    /// The evidence that this block carries.
    #[must_use]
    pub fn evidence(&self) -> &[Evidence] {
        &self.block.evidence
    }

    /// The block's height.
    #[must_use]
    pub fn height(&self) -> Height {
        self.block.header.height
    }
}

impl Header {
    /// The header's hash, which is the block's: a root over its 14 fields (`protocol.md` 5.2).
    /// `None` without a validators' hash.
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

/// The part set of a serialised block (`protocol.md` 5.4): of the very bytes given.
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

/// Root over the hashes of the transactions (`protocol.md` 5.3).
#[must_use]
pub fn data_hash<T: AsRef<[u8]>>(txs: impl IntoIterator<Item = T>) -> Hash {
    merkle::root(txs.into_iter().map(|tx| merkle::sha256(tx.as_ref())))
}

/// Root over the evidence (`protocol.md` 5.3).
#[must_use]
pub fn evidence_hash(list: &[Evidence]) -> Hash {
    merkle::root(list.iter().map(Evidence::leaf))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::testing::{
        block, group, hash, header, hex, list, name, ok, segments, size, text,
    };

    #[test]
    fn header_hashes_and_encodings_are_gos() {
        let mut skipped = Vec::new();
        for case in group("headers") {
            let proto = hex(&case["proto"]);
            let Some(header) = header(&proto) else {
                skipped.push(name(case));
                continue;
            };
            assert_eq!(header.hash(), hash(&case["hash"]), "{}", name(case));
            let mut out = Vec::new();
            encode::header(&header, &mut out);
            assert_eq!(hex::encode(out), hex::encode(proto), "{}", name(case));
        }
        // Our type holds no such header.
        assert_eq!(
            skipped,
            [
                "only validators_hash",
                "empty header: no hash",
                "height negative",
                "no proposer",
                "data_hash of 31 bytes"
            ]
        );
    }

    #[test]
    fn part_sets_are_gos() {
        for case in group("part_sets") {
            assert_eq!(text(&case["rule"]), "byte i is i / 65536");
            let bytes: Vec<u8> = (0..size(&case["len"])).map(|i| (i >> 16) as u8).collect();
            let parts = part_set(&bytes);
            assert_eq!(parts.total as usize, size(&case["total"]));
            assert_eq!(parts.hash, hash(&case["root"]));
        }
    }

    #[test]
    fn data_hashes_are_gos() {
        for case in group("data") {
            let txs: Vec<Bytes> = list(&case["txs"]).iter().map(|tx| hex(tx).into()).collect();
            assert_eq!(Some(data_hash(&txs)), hash(&case["data_hash"]));
        }
    }

    #[test]
    fn whole_blocks_are_gos() {
        for case in group("blocks").iter().filter(|case| ok(case)) {
            let raw = segments(&case["segments"]);
            let block = block(&raw).unwrap();
            let mut out = Vec::new();
            encode::block(&block, &mut out);
            assert!(out == raw, "{}", name(case));
            if case.get("hash").is_none() {
                continue; // given for its verdict alone
            }
            assert_eq!(block.header.hash(), hash(&case["hash"]));
            let parts = part_set(&raw);
            assert_eq!(parts.total as usize, size(&case["parts_total"]));
            assert_eq!(parts.hash, hash(&case["parts_hash"]));
            assert_eq!(Some(data_hash(&block.txs)), hash(&case["data_hash"]));
            assert_eq!(
                Some(evidence_hash(&block.evidence)),
                hash(&case["evidence_hash"])
            );
            assert_eq!(
                Some(block.last_commit.hash()),
                hash(&case["last_commit_hash"])
            );
            assert_eq!(
                encode::evidence_list_size(&block.evidence),
                size(&case["evidence_size"])
            );
        }
    }

    #[test]
    fn the_multi_part_block_of_the_appendix() {
        // Its header names no proposer, which our type cannot hold: the bytes are put together
        // here.
        let header = hex::decode("0a02080b1803220b088092b8c398feffffff012a021200").unwrap();
        let mut raw = Vec::new();
        encode::element(1, &header, &mut raw);
        encode::message(2, &mut raw, |out| {
            encode::element(1, &[0xab; 200_000], out);
        });
        raw.extend_from_slice(&[0x1a, 0, 0x22, 4, 0x1a, 2, 0x12, 0]);
        assert_eq!(raw.len(), 200_041);
        let parts = part_set(&raw);
        assert_eq!(parts.total, 4);
        assert_eq!(
            parts.hash.unwrap().to_string(),
            "fe875382765a11b76dacbe4e137c3fbded0d742b2cee2292289eeb65f3359613"
        );
    }
}
