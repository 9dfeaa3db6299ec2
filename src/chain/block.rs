//! A block and what identifies it (`protocol.md` 5.1–5.4, 5.9).

use std::sync::OnceLock;

use bytes::Bytes;

use super::commit::{Commit, ExtendedCommit};
use super::encode;
use super::evidence::{self, Evidence};
use super::header::Header;
use super::merkle;
use super::txs::Txs;
use crate::ids::{BlockId, Hash, Height, PartSetHeader};

/// Bytes in each part of a block but the last (`protocol.md` 5.4).
pub const PART_SIZE: usize = 65_536;

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
    /// Hash of the set that has verified the last commit.
    pub last_commit: OnceLock<Hash>,
    /// Hash of the set that has verified the commit for the block itself.
    pub seen_commit: OnceLock<Hash>,
    /// Hash of the set that has verified the extended commit for the block itself, extensions
    /// included.
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

impl Block {
    /// Appends the message `Block`. The last commit is always written, also the empty one of the
    /// first block.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let txs = self.txs.encoded();
        // About the whole: a header, and an entry of the usual keys' length for each signature.
        out.reserve(txs.len() + 512 + 128 * self.last_commit.signatures.len());
        encode::message(1, out, |out| self.header.encode(out));
        encode::element(2, txs, out);
        encode::message(3, out, |out| evidence::encode_list(&self.evidence, out));
        encode::message(4, out, |out| self.last_commit.encode(out));
    }
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
            header.encode(&mut out);
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
            block.encode(&mut out);
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
                evidence::list_size(&block.evidence),
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

    #[test]
    fn the_first_block_ends_with_an_empty_commit() {
        let block = crate::chain::testing::empty_block(Height::new(1), crate::chain::Time::ZERO);
        let mut out = Vec::new();
        block.encode(&mut out);
        assert!(out.ends_with(&[0x12, 0, 0x1a, 0, 0x22, 4, 0x1a, 2, 0x12, 0]));
    }
}
