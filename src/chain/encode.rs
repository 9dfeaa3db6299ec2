//! Canonical protobuf, exactly as Go writes it (`protocol.md` 0.2, 5.1): ascending fields, zero
//! scalars left out, non-nullable sub-messages always there.
//!
//! Every function named after a message appends that message's body: no tag, no length.

use super::block::{Block, Header};
use super::commit::{BlockIdFlag, Commit, CommitSig, ExtendedCommit, ExtendedCommitSig};
use super::evidence::{
    DuplicateVoteEvidence, Evidence, LightBlock, LightClientAttackEvidence, RawValidator, Vote,
};
use super::key::PublicKey;
use super::time::Time;
use crate::ids::{BlockId, Hash, PartSetHeader};

const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const BYTES: u32 = 2;

use crate::varint;
pub use crate::varint::{len as uvarint_len, put as uvarint};

/// A signed number as a plain varint: a negative one takes 10 bytes.
#[allow(clippy::cast_sign_loss)] // two's complement is what protobuf asks for
const fn wire(value: i64) -> u64 {
    value as u64
}

fn tag(field: u32, kind: u32, out: &mut Vec<u8>) {
    uvarint(u64::from(field << 3 | kind), out);
}

/// A varint field of an unsigned number, left out when zero.
pub fn uint(field: u32, value: u64, out: &mut Vec<u8>) {
    if value != 0 {
        tag(field, VARINT, out);
        uvarint(value, out);
    }
}

/// A varint field of a signed number or enum, left out when zero.
pub fn int(field: u32, value: i64, out: &mut Vec<u8>) {
    uint(field, wire(value), out);
}

/// An `sfixed64` field, left out when zero.
pub fn sfixed64(field: u32, value: i64, out: &mut Vec<u8>) {
    if value != 0 {
        tag(field, FIXED64, out);
        out.extend_from_slice(&value.to_le_bytes());
    }
}

/// A string or bytes field, left out when empty.
pub fn bytes(field: u32, value: &[u8], out: &mut Vec<u8>) {
    if !value.is_empty() {
        element(field, value, out);
    }
}

/// An element of a repeated bytes field, or any member that is always written.
pub fn element(field: u32, value: &[u8], out: &mut Vec<u8>) {
    tag(field, BYTES, out);
    uvarint(value.len() as u64, out);
    out.extend_from_slice(value);
}

/// How many bytes `element` writes for `len` bytes in a field below 16.
#[must_use]
pub fn element_len(len: usize) -> usize {
    1 + uvarint_len(len as u64) + len
}

/// A hash field, left out when absent.
fn hash(field: u32, value: Option<&Hash>, out: &mut Vec<u8>) {
    if let Some(hash) = value {
        element(field, &hash.0, out);
    }
}

/// A sub-message, written even when empty.
pub fn message(field: u32, out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    tag(field, BYTES, out);
    delimited(out, body);
}

/// Writes `body` behind its length. One byte is kept for the length, which fits most messages; a
/// longer one is moved.
pub fn delimited(out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.push(0);
    body(out);
    let len = out.len() - start - 1;
    let extra = uvarint_len(len as u64) - 1;
    if extra == 0 {
        out[start] = len as u8; // below 128
        return;
    }
    out.extend_from_slice(&[0; varint::MAX][..extra]);
    out.copy_within(start + 1..start + 1 + len, start + 1 + extra);
    let mut value = len as u64;
    for byte in &mut out[start..=start + extra] {
        *byte = value as u8 | 0x80;
        value >>= 7;
    }
    out[start + extra] &= 0x7f;
}

/// `google.protobuf.Timestamp`.
pub fn timestamp(time: Time, out: &mut Vec<u8>) {
    int(1, time.seconds, out);
    int(2, i64::from(time.nanos), out);
}

/// `PartSetHeader`.
pub fn part_set_header(parts: &PartSetHeader, out: &mut Vec<u8>) {
    uint(1, u64::from(parts.total), out);
    hash(2, parts.hash.as_ref(), out);
}

/// `BlockID`.
pub fn block_id(id: &BlockId, out: &mut Vec<u8>) {
    hash(1, id.hash.as_ref(), out);
    message(2, out, |out| part_set_header(&id.parts, out));
}

/// `version.Consensus`.
pub fn version(block: u64, app: u64, out: &mut Vec<u8>) {
    uint(1, block, out);
    uint(2, app, out);
}

/// `Header`.
pub fn header(h: &Header, out: &mut Vec<u8>) {
    message(1, out, |out| version(h.version_block, h.version_app, out));
    bytes(2, &h.chain_id, out);
    int(3, h.height.to_wire(), out);
    message(4, out, |out| timestamp(h.time, out));
    message(5, out, |out| block_id(&h.last_block_id, out));
    hash(6, h.last_commit_hash.as_ref(), out);
    hash(7, h.data_hash.as_ref(), out);
    hash(8, h.validators_hash.as_ref(), out);
    hash(9, h.next_validators_hash.as_ref(), out);
    hash(10, h.consensus_hash.as_ref(), out);
    bytes(11, &h.app_hash, out);
    hash(12, h.last_results_hash.as_ref(), out);
    hash(13, h.evidence_hash.as_ref(), out);
    bytes(14, &h.proposer_address.0, out);
}

/// The address of a commit's entry: none when absent.
fn signer(sig: &CommitSig) -> &[u8] {
    match sig.flag {
        BlockIdFlag::Absent => &[],
        BlockIdFlag::Commit | BlockIdFlag::Nil => &sig.address.0,
    }
}

/// `CommitSig`.
pub fn commit_sig(sig: &CommitSig, out: &mut Vec<u8>) {
    int(1, sig.flag as i64, out);
    bytes(2, signer(sig), out);
    message(3, out, |out| timestamp(sig.timestamp, out));
    bytes(4, sig.signature.as_slice(), out);
}

/// `Commit`.
pub fn commit(c: &Commit, out: &mut Vec<u8>) {
    int(1, c.height.to_wire(), out);
    int(2, i64::from(c.round), out);
    message(3, out, |out| block_id(&c.block_id, out));
    for sig in &c.signatures {
        message(4, out, |out| commit_sig(sig, out));
    }
}

/// `ExtendedCommitSig`: a `CommitSig` with two more fields.
pub fn extended_commit_sig(s: &ExtendedCommitSig, out: &mut Vec<u8>) {
    commit_sig(&s.sig, out);
    bytes(5, &s.extension, out);
    bytes(6, &s.extension_signature, out);
}

/// `ExtendedCommit`.
pub fn extended_commit(c: &ExtendedCommit, out: &mut Vec<u8>) {
    int(1, c.height.to_wire(), out);
    int(2, i64::from(c.round), out);
    message(3, out, |out| block_id(&c.block_id, out));
    for sig in &c.signatures {
        message(4, out, |out| extended_commit_sig(sig, out));
    }
}

/// `Vote`.
pub fn vote(v: &Vote, out: &mut Vec<u8>) {
    int(1, i64::from(v.kind), out);
    int(2, v.height.to_wire(), out);
    int(3, i64::from(v.round), out);
    message(4, out, |out| block_id(&v.block_id, out));
    message(5, out, |out| timestamp(v.timestamp, out));
    bytes(6, &v.address.0, out);
    int(7, i64::from(v.index), out);
    bytes(8, v.signature.as_slice(), out);
    bytes(9, &v.extension, out);
    bytes(10, &v.extension_signature, out);
}

/// `DuplicateVoteEvidence`.
pub fn duplicate_vote(e: &DuplicateVoteEvidence, out: &mut Vec<u8>) {
    message(1, out, |out| vote(&e.vote_a, out));
    message(2, out, |out| vote(&e.vote_b, out));
    int(3, e.total_voting_power, out);
    int(4, e.validator_power, out);
    message(5, out, |out| timestamp(e.timestamp, out));
}

/// `PublicKey`, a oneof; nothing when unset.
pub fn public_key(key: Option<&PublicKey>, out: &mut Vec<u8>) {
    if let Some(key) = key {
        element(key.key_type() as u32, key.as_bytes(), out);
    }
}

/// `SimpleValidator`, the leaf of a validator set's hash.
pub fn simple_validator(key: &PublicKey, power: i64, out: &mut Vec<u8>) {
    message(1, out, |out| public_key(Some(key), out));
    int(2, power, out);
}

/// `Validator`.
pub fn raw_validator(v: &RawValidator, out: &mut Vec<u8>) {
    bytes(1, &v.address, out);
    message(2, out, |out| public_key(v.key.as_ref(), out));
    int(3, v.power, out);
    int(4, v.priority, out);
}

/// `LightBlock`. The set's total power is left out, as Go does whatever it had read.
pub fn light_block(b: &LightBlock, out: &mut Vec<u8>) {
    message(1, out, |out| {
        message(1, out, |out| header(&b.header, out));
        message(2, out, |out| commit(&b.commit, out));
    });
    message(2, out, |out| {
        for v in &b.validators {
            message(1, out, |out| raw_validator(v, out));
        }
        message(2, out, |out| raw_validator(&b.proposer, out));
    });
}

/// `LightClientAttackEvidence`.
pub fn light_client_attack(e: &LightClientAttackEvidence, out: &mut Vec<u8>) {
    message(1, out, |out| light_block(&e.conflicting_block, out));
    int(2, e.common_height.to_wire(), out);
    for v in &e.byzantine_validators {
        message(3, out, |out| raw_validator(v, out));
    }
    int(4, e.total_voting_power, out);
    message(5, out, |out| timestamp(e.timestamp, out));
}

/// `Evidence`, the oneof.
pub fn evidence(e: &Evidence, out: &mut Vec<u8>) {
    match e {
        Evidence::DuplicateVote(e) => message(1, out, |out| duplicate_vote(e, out)),
        Evidence::LightClientAttack(e) => message(2, out, |out| light_client_attack(e, out)),
    }
}

/// `EvidenceList`.
pub fn evidence_list(list: &[Evidence], out: &mut Vec<u8>) {
    for e in list {
        message(1, out, |out| evidence(e, out));
    }
}

/// How many bytes `evidence_list` writes: what `evidence.max_bytes` limits (`protocol.md` 5.10).
#[must_use]
pub fn evidence_list_size(list: &[Evidence]) -> usize {
    if list.is_empty() {
        return 0;
    }
    let mut out = Vec::new();
    evidence_list(list, &mut out);
    out.len()
}

/// `Block`. The last commit is always written, also the empty one of the first block.
pub fn block(b: &Block, out: &mut Vec<u8>) {
    let txs = b.txs.encoded();
    out.reserve(txs.len() + 512 + 128 * b.last_commit.signatures.len());
    message(1, out, |out| header(&b.header, out));
    tag(2, BYTES, out);
    uvarint(txs.len() as u64, out);
    out.extend_from_slice(txs);
    message(3, out, |out| evidence_list(&b.evidence, out));
    message(4, out, |out| commit(&b.last_commit, out));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Address;

    #[test]
    fn varints_are_minimal() {
        for value in [
            0,
            1,
            127,
            128,
            16_383,
            16_384,
            u64::from(u32::MAX),
            u64::MAX,
        ] {
            let mut out = Vec::new();
            uvarint(value, &mut out);
            assert_eq!(out.len(), uvarint_len(value), "{value}");
            let back = out
                .iter()
                .rev()
                .fold(0, |n, b| n << 7 | u64::from(b & 0x7f));
            assert_eq!(back, value);
        }
        for shift in 0..64 {
            for value in [(1_u64 << shift) - 1, 1 << shift] {
                let mut out = Vec::new();
                uvarint(value, &mut out);
                assert_eq!(out.len(), uvarint_len(value), "{value}");
            }
        }
    }

    /// A body of any length stands behind its own, however many bytes that takes, and what came
    /// before is left alone.
    #[test]
    fn lengths_of_any_width_are_put_in_front() {
        for len in [0, 1, 127, 128, 129, 16_383, 16_384, 2_097_151, 2_097_152] {
            let body: Vec<u8> = (0..len).map(|i: u32| i as u8).collect();
            let mut out = vec![0xff];
            delimited(&mut out, |out| out.extend_from_slice(&body));
            let mut expected = vec![0xff];
            uvarint(u64::from(len), &mut expected);
            expected.extend_from_slice(&body);
            assert!(out == expected, "{len}");
        }
    }

    #[test]
    fn fixed_encodings_of_the_appendix() {
        let commit = Commit {
            signatures: vec![CommitSig {
                flag: BlockIdFlag::Absent,
                address: Address([0; 20]),
                timestamp: Time::ZERO,
                signature: crate::chain::commit::Signature::EMPTY,
            }],
            ..Commit::default()
        };
        let mut out = Vec::new();
        super::commit(&commit, &mut out);
        assert_eq!(
            hex::encode(out),
            "1a021200220f08011a0b088092b8c398feffffff01"
        );
        let mut out = Vec::new();
        int(2, -1, &mut out);
        assert_eq!(hex::encode(out), "10ffffffffffffffffff01");
    }

    #[test]
    fn the_first_block_ends_with_an_empty_commit() {
        let block = crate::chain::testing::empty_block(crate::ids::Height::new(1), Time::ZERO);
        let mut out = Vec::new();
        super::block(&block, &mut out);
        assert!(out.ends_with(&[0x12, 0, 0x1a, 0, 0x22, 4, 0x1a, 2, 0x12, 0]));
    }
}
