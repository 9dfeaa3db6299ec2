//! A chain of blocks for tests: every field filled, linked by their ids, but signed by nobody.

use std::sync::Arc;

use bytes::Bytes;

use blocksync::chain::{
    Block, BlockIdFlag, ChainState, Commit, CommitSig, ConsensusParams, Header, PublicKey,
    Signature, Time, Validator, ValidatorSet, merkle,
};
use blocksync::ids::{BlockId, Hash, Height};
use blocksync::store::BlockRecord;

/// The chain's id.
pub const CHAIN: &[u8] = b"sample-chain";

/// Shorthand.
#[must_use]
pub fn h(height: u64) -> Height {
    Height::new(height)
}

/// A set of `n` members, another one for another `salt`.
///
/// # Panics
/// When `n` is above 255.
#[must_use]
pub fn set(n: u8, salt: u8) -> Arc<ValidatorSet> {
    let members = (0..n).map(|i| {
        let mut key = [salt; 32];
        key[0] = i;
        Validator::new(PublicKey::Ed25519(key), 10 + i64::from(i))
    });
    Arc::new(ValidatorSet::new(members.collect()).expect("small powers, keys that differ"))
}

/// The id of the block of a height, which is not that of any bytes.
#[must_use]
pub fn id(height: u64) -> BlockId {
    let hash = |what: &str| merkle::sha256(format!("{what} {height}").as_bytes());
    BlockId::new(hash("block"), 1, hash("parts"))
}

/// The commit for a height; the empty one for 0.
#[must_use]
pub fn commit(height: u64) -> Commit {
    if height == 0 {
        return Commit::default();
    }
    let entry = |(index, v): (usize, &Validator)| CommitSig {
        flag: BlockIdFlag::Commit,
        address: v.address,
        timestamp: time(height),
        signature: Signature::new(&[u8::try_from(index % 256).expect("below 256"); 64])
            .expect("64 bytes"),
    };
    Commit {
        height: h(height),
        round: 0,
        block_id: id(height),
        signatures: set(4, 1).iter().enumerate().map(entry).collect(),
    }
}

/// The time of a height.
#[must_use]
pub fn time(height: u64) -> Time {
    let seconds = 1_767_225_600 + i64::try_from(height).expect("a small height");
    Time::new(seconds, 5).expect("this century")
}

/// The header of a height.
#[must_use]
pub fn header(height: u64, initial: u64) -> Header {
    let hash = |what: &str| Some(merkle::sha256(format!("{what} {height}").as_bytes()));
    let first = height == initial;
    Header {
        version_block: 11,
        version_app: 1,
        chain_id: Bytes::from_static(CHAIN),
        height: h(height),
        time: time(height),
        last_block_id: if first { BlockId::ZERO } else { id(height - 1) },
        last_commit_hash: hash("last commit"),
        data_hash: hash("data"),
        validators_hash: Some(set(4, 1).hash()),
        next_validators_hash: Some(set(4, 1).hash()),
        consensus_hash: hash("params"),
        app_hash: Bytes::from_static(&[0; 8]),
        last_results_hash: hash("results"),
        evidence_hash: hash("evidence"),
        proposer_address: set(4, 1).get(0).expect("four members").address,
    }
}

/// The block of a height, with a transaction of `bytes` bytes.
#[must_use]
pub fn block(height: u64, initial: u64, bytes: usize) -> BlockRecord {
    let last = if height == initial { 0 } else { height - 1 };
    let mut tx = format!("k{height}=").into_bytes();
    tx.resize(bytes.max(tx.len()), b'v');
    let block = Block {
        header: header(height, initial),
        txs: [tx].into_iter().collect(),
        evidence: Vec::new(),
        last_commit: commit(last),
    };
    let mut raw = Vec::new();
    block.encode(&mut raw);
    BlockRecord {
        height: h(height),
        id: id(height),
        raw: raw.into(),
        ext_raw: None,
    }
}

/// The blocks of a range of heights, 200 bytes of transactions each.
#[must_use]
pub fn blocks(initial: u64, heights: std::ops::RangeInclusive<u64>) -> Vec<BlockRecord> {
    heights.map(|height| block(height, initial, 200)).collect()
}

/// The state after a height, or before the first; the same set of four all along.
#[must_use]
pub fn state(last: u64, initial: u64) -> ChainState {
    let rounds = |n: u64| {
        let times = u32::try_from(n).expect("a small height");
        Arc::new(set(4, 1).increment(times))
    };
    let step = if last == 0 { 0 } else { last + 1 - initial };
    ChainState {
        chain_id: Bytes::from_static(CHAIN),
        initial_height: h(initial),
        last_height: h(last),
        last_block_id: if last == 0 { BlockId::ZERO } else { id(last) },
        last_block_time: time(last),
        last_validators: (last > 0).then(|| rounds(step)),
        validators: rounds(step + 1),
        next_validators: rounds(step + 2),
        last_height_validators_changed: h(initial),
        params: ConsensusParams {
            authority: Bytes::from_static(b"cosmos1authority"),
            ..ConsensusParams::default()
        },
        last_height_params_changed: h(initial),
        version_app: 1,
        last_results_hash: Hash([3; 32]),
        app_hash: Bytes::copy_from_slice(&last.to_be_bytes()),
    }
}

/// A commit, encoded.
#[must_use]
pub fn commit_bytes(height: u64) -> Bytes {
    let mut out = Vec::new();
    commit(height).encode(&mut out);
    out.into()
}
