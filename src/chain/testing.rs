//! For tests: the vectors that CometBFT's own code made (`tests/data/vectors.json`), and protobuf
//! read into the chain's types without the checks of the wire.

use std::sync::OnceLock;

use bytes::Bytes;
use prost::Message;
use serde_json::Value;

use super::block::Block;
use super::commit::{BlockIdFlag, Commit, CommitSig, ExtendedCommit, ExtendedCommitSig, Signature};
use super::evidence::{
    DuplicateVoteEvidence, Evidence, LightBlock, LightClientAttackEvidence, RawValidator,
    ValidatorForm, Vote,
};
use super::execution::{ParamsUpdate, UpdateKey, ValidatorUpdate};
use super::header::Header;
use super::key::PublicKey;
use super::params::ConsensusParams;
use super::time::Time;
use super::validators::Validator;
use crate::ids::{Address, BlockId, Hash, Height, PartSetHeader};
use crate::wire::proto::types as pb;

/// The cases of a group.
pub(crate) fn group(name: &str) -> &'static [Value] {
    static ALL: OnceLock<Value> = OnceLock::new();
    let read = || serde_json::from_str(include_str!("../../tests/data/vectors.json")).unwrap();
    let cases = ALL.get_or_init(read)[name]["cases"].as_array().unwrap();
    assert!(!cases.is_empty());
    cases
}

/// A case's name, for messages.
pub(crate) fn name(case: &Value) -> &str {
    case["name"].as_str().unwrap_or("unnamed")
}

/// A case's verdict.
pub(crate) fn ok(case: &Value) -> bool {
    case["ok"].as_bool().unwrap()
}

/// A text.
pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

/// A number.
pub(crate) fn int(value: &Value) -> i64 {
    value.as_i64().unwrap()
}

/// An index or size.
pub(crate) fn size(value: &Value) -> usize {
    usize::try_from(int(value)).unwrap()
}

/// A byte string.
pub(crate) fn hex(value: &Value) -> Vec<u8> {
    hex::decode(text(value)).unwrap()
}

/// A hash; absent when empty.
pub(crate) fn hash(value: &Value) -> Option<Hash> {
    Hash::from_slice(&hex(value))
}

/// A list's items.
pub(crate) fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

/// A time.
pub(crate) fn time(value: &Value) -> Time {
    Time::new(int(&value["s"]), i32::try_from(int(&value["n"])).unwrap()).unwrap()
}

/// A block id.
pub(crate) fn block_id(value: &Value) -> BlockId {
    BlockId {
        hash: hash(&value["hash"]),
        parts: PartSetHeader {
            total: u32::try_from(int(&value["total"])).unwrap(),
            hash: hash(&value["parts_hash"]),
        },
    }
}

/// A byte string cut into pieces.
pub(crate) fn segments(value: &Value) -> Vec<u8> {
    let piece = |piece: &Value| match piece.get("hex") {
        Some(bytes) => hex(bytes),
        None => vec![hex(&piece["fill"])[0]; size(&piece["len"])],
    };
    list(value).iter().flat_map(piece).collect()
}

/// A public key of 32 or 33 bytes.
pub(crate) fn key(value: &Value) -> PublicKey {
    let bytes = hex(value);
    let name = if bytes.len() == 32 {
        "ed25519"
    } else {
        "secp256k1"
    };
    PublicKey::from_type_bytes(name, &bytes).unwrap()
}

/// A list of [public key, power].
pub(crate) fn validators(value: &Value) -> Vec<Validator> {
    let one = |v: &Value| Validator::new(key(&v[0]), int(&v[1]));
    list(value).iter().map(one).collect()
}

/// Consensus params, as the vectors spell them.
pub(crate) fn params(value: &Value) -> ConsensusParams {
    ConsensusParams {
        block_max_bytes: int(&value["block_max_bytes"]),
        block_max_gas: int(&value["block_max_gas"]),
        evidence_max_age_num_blocks: int(&value["evidence_max_age_num_blocks"]),
        evidence_max_age_duration: int(&value["evidence_max_age_duration"]),
        evidence_max_bytes: int(&value["evidence_max_bytes"]),
        pub_key_types: value["pub_key_types"]
            .as_array()
            .map_or(&[][..], Vec::as_slice)
            .iter()
            .map(|t| text(t).to_owned())
            .collect(),
        version_app: value["version_app"].as_u64().unwrap(),
        vote_extensions_enable_height: int(&value["vote_extensions_enable_height"]),
        ..ConsensusParams::default()
    }
}

/// A `ConsensusParams` message as an update.
pub(crate) fn params_update(proto: &[u8]) -> ParamsUpdate {
    let params = pb::ConsensusParams::decode(proto).unwrap();
    let groups = super::rules::ParamsGroups::Authority;
    crate::wire::convert::params_update_from_proto(&params, groups).unwrap()
}

/// An ABCI `ValidatorUpdate` message.
pub(crate) fn validator_update(proto: &[u8]) -> ValidatorUpdate {
    let update = crate::wire::proto::abci::ValidatorUpdate::decode(proto).unwrap();
    crate::wire::convert::update_from_proto(&update)
}

/// A block with nothing in it at a height and time.
pub(crate) fn empty_block(height: Height, time: Time) -> Block {
    Block {
        header: Header {
            version_block: 11,
            version_app: 0,
            chain_id: Bytes::from_static(b"test"),
            height,
            time,
            last_block_id: BlockId::ZERO,
            last_commit_hash: None,
            data_hash: None,
            validators_hash: None,
            next_validators_hash: None,
            consensus_hash: None,
            app_hash: Bytes::new(),
            last_results_hash: None,
            evidence_hash: None,
            proposer_address: Address([0; 20]),
        },
        txs: Default::default(),
        evidence: Vec::new(),
        last_commit: Commit::default(),
    }
}

fn opt_hash(bytes: &Bytes) -> Option<Option<Hash>> {
    if bytes.is_empty() {
        return Some(None);
    }
    Hash::from_slice(bytes).map(Some)
}

fn to_time(t: Option<pb::Timestamp>) -> Option<Time> {
    t.map_or(Some(Time::ZERO), |t| Time::new(t.seconds, t.nanos))
}

fn to_block_id(id: Option<pb::BlockId>) -> Option<BlockId> {
    let id = id.unwrap_or_default();
    let parts = id.part_set_header.unwrap_or_default();
    Some(BlockId {
        hash: opt_hash(&id.hash)?,
        parts: PartSetHeader {
            total: parts.total,
            hash: opt_hash(&parts.hash)?,
        },
    })
}

/// A header; `None` when our type cannot hold it. So for all below.
pub(crate) fn header(proto: &[u8]) -> Option<Header> {
    to_header(pb::Header::decode(proto).unwrap())
}

fn to_header(h: pb::Header) -> Option<Header> {
    let version = h.version.unwrap_or_default();
    Some(Header {
        version_block: version.block,
        version_app: version.app,
        chain_id: h.chain_id,
        height: Height::from_wire(h.height)?,
        time: to_time(h.time)?,
        last_block_id: to_block_id(h.last_block_id)?,
        last_commit_hash: opt_hash(&h.last_commit_hash)?,
        data_hash: opt_hash(&h.data_hash)?,
        validators_hash: opt_hash(&h.validators_hash)?,
        next_validators_hash: opt_hash(&h.next_validators_hash)?,
        consensus_hash: opt_hash(&h.consensus_hash)?,
        app_hash: h.app_hash,
        last_results_hash: opt_hash(&h.last_results_hash)?,
        evidence_hash: opt_hash(&h.evidence_hash)?,
        proposer_address: Address::from_slice(&h.proposer_address)?,
    })
}

/// A commit.
pub(crate) fn commit(proto: &[u8]) -> Option<Commit> {
    to_commit(pb::Commit::decode(proto).unwrap())
}

fn to_commit(c: pb::Commit) -> Option<Commit> {
    Some(Commit {
        height: Height::from_wire(c.height)?,
        round: c.round,
        block_id: to_block_id(c.block_id)?,
        signatures: c
            .signatures
            .into_iter()
            .map(to_sig)
            .collect::<Option<_>>()?,
    })
}

/// A commit's entry.
pub(crate) fn commit_sig(proto: &[u8]) -> Option<CommitSig> {
    to_sig(pb::CommitSig::decode(proto).unwrap())
}

fn to_sig(s: pb::CommitSig) -> Option<CommitSig> {
    let flag = match s.block_id_flag {
        1 => BlockIdFlag::Absent,
        2 => BlockIdFlag::Commit,
        3 => BlockIdFlag::Nil,
        _ => return None,
    };
    let address = match flag {
        BlockIdFlag::Absent if s.validator_address.is_empty() => Address([0; 20]),
        _ => Address::from_slice(&s.validator_address)?,
    };
    Some(CommitSig {
        flag,
        address,
        timestamp: to_time(s.timestamp)?,
        signature: Signature::new(&s.signature)?,
    })
}

/// An extended commit.
pub(crate) fn extended_commit(proto: &[u8]) -> Option<ExtendedCommit> {
    let c = pb::ExtendedCommit::decode(proto).unwrap();
    let to_extended = |s: pb::ExtendedCommitSig| {
        Some(ExtendedCommitSig {
            sig: to_sig(pb::CommitSig {
                block_id_flag: s.block_id_flag,
                validator_address: s.validator_address,
                timestamp: s.timestamp,
                signature: s.signature,
            })?,
            extension: s.extension,
            extension_signature: s.extension_signature,
        })
    };
    Some(ExtendedCommit {
        height: Height::from_wire(c.height)?,
        round: c.round,
        block_id: to_block_id(c.block_id)?,
        signatures: (c.extended_signatures.into_iter())
            .map(to_extended)
            .collect::<Option<_>>()?,
    })
}

/// An evidence list.
pub(crate) fn evidence_list(proto: &[u8]) -> Option<Vec<Evidence>> {
    to_evidence_list(pb::EvidenceList::decode(proto).unwrap())
}

fn to_evidence_list(list: pb::EvidenceList) -> Option<Vec<Evidence>> {
    list.evidence.into_iter().map(to_evidence).collect()
}

fn to_evidence(e: pb::Evidence) -> Option<Evidence> {
    Some(match e.sum? {
        pb::evidence::Sum::DuplicateVoteEvidence(e) => {
            Evidence::DuplicateVote(Box::new(DuplicateVoteEvidence {
                vote_a: to_vote(e.vote_a?)?,
                vote_b: to_vote(e.vote_b?)?,
                total_voting_power: e.total_voting_power,
                validator_power: e.validator_power,
                timestamp: to_time(e.timestamp)?,
            }))
        }
        pb::evidence::Sum::LightClientAttackEvidence(e) => {
            Evidence::LightClientAttack(Box::new(LightClientAttackEvidence {
                conflicting_block: Box::new(to_light_block(e.conflicting_block?)?),
                common_height: Height::from_wire(e.common_height)?,
                byzantine_validators: e.byzantine_validators.into_iter().map(to_raw).collect(),
                total_voting_power: e.total_voting_power,
                timestamp: to_time(e.timestamp)?,
            }))
        }
    })
}

fn to_vote(v: pb::Vote) -> Option<Vote> {
    Some(Vote {
        kind: v.r#type,
        height: Height::from_wire(v.height)?,
        round: v.round,
        block_id: to_block_id(v.block_id)?,
        timestamp: to_time(v.timestamp)?,
        address: Address::from_slice(&v.validator_address)?,
        index: v.validator_index,
        signature: Signature::new(&v.signature)?,
        extension: v.extension,
        extension_signature: v.extension_signature,
    })
}

fn to_light_block(b: pb::LightBlock) -> Option<LightBlock> {
    let (signed, set) = (b.signed_header?, b.validator_set?);
    Some(LightBlock {
        header: to_header(signed.header?)?,
        commit: to_commit(signed.commit?)?,
        validators: set.validators.into_iter().map(to_raw).collect(),
        proposer: to_raw(set.proposer?),
    })
}

fn to_raw(v: pb::Validator) -> RawValidator {
    let key = match crate::wire::convert::update_key_from_proto(v.pub_key.as_ref()) {
        UpdateKey::Known(key) => Some(key),
        _ => None,
    };
    RawValidator {
        address: v.address,
        key,
        power: v.voting_power,
        priority: v.proposer_priority,
        form: ValidatorForm::Key,
    }
}

/// A block.
pub(crate) fn block(proto: &[u8]) -> Option<Block> {
    let b = pb::Block::decode(proto).unwrap();
    Some(Block {
        header: to_header(b.header?)?,
        txs: b.data?.txs.into(),
        evidence: to_evidence_list(b.evidence?)?,
        last_commit: to_commit(b.last_commit?)?,
    })
}
