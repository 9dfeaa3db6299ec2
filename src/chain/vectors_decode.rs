//! For tests: the messages of `vectors.json` as chain types, decoded with the generated protobuf types alone. Refuses what
//! the types cannot hold (lengths, flags, negative heights); the rest is left to the checks under test.

use bytes::Bytes;
use prost::Message;
use serde_json::Value;

use super::block::{Block, Header};
use super::commit::{BlockIdFlag, Commit, CommitSig, ExtendedCommit, ExtendedCommitSig, Signature};
use super::evidence::{
    DuplicateVoteEvidence, Evidence, LightBlock, LightClientAttackEvidence, RawValidator, Vote,
};
use super::key::PublicKey;
use super::params::ConsensusParams;
use super::time::Time;
use super::validators::{Validator, ValidatorSet};
use crate::ids::{Address, BlockId, Hash, Height, PartSetHeader};
use crate::wire::proto::{crypto, types as pb};

type Decoded<T> = Result<T, String>;

/// A group of vectors: its cases.
pub fn group(name: &str) -> Vec<Value> {
    let all: Value = serde_json::from_str(include_str!("../../tests/data/vectors.json")).unwrap();
    all[name]["cases"].as_array().unwrap().clone()
}

pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

pub fn unhex(value: &Value) -> Bytes {
    hex::decode(text(value)).unwrap().into()
}

/// A byte string cut into segments.
pub fn joined(segments: &Value) -> Bytes {
    let mut out = Vec::new();
    for part in segments.as_array().unwrap() {
        if part["hex"].is_string() {
            out.extend(unhex(&part["hex"]));
        } else {
            let len = usize::try_from(part["len"].as_u64().unwrap()).unwrap();
            let fill = hex::decode(text(&part["fill"])).unwrap()[0];
            out.resize(out.len() + len, fill);
        }
    }
    out.into()
}

pub fn height(value: &Value) -> Height {
    Height::from_wire(value.as_i64().unwrap()).unwrap()
}

pub fn time(value: &Value) -> Time {
    let nanos = i32::try_from(value["n"].as_i64().unwrap()).unwrap();
    Time::new(value["s"].as_i64().unwrap(), nanos).unwrap()
}

pub fn block_id(value: &Value) -> BlockId {
    let hash = |name: &str| Hash::from_hex(text(&value[name]));
    BlockId {
        hash: hash("hash"),
        parts: PartSetHeader {
            total: u32::try_from(value["total"].as_u64().unwrap()).unwrap(),
            hash: hash("parts_hash"),
        },
    }
}

pub fn key(bytes: &[u8]) -> PublicKey {
    match bytes.len() {
        32 => PublicKey::Ed25519(bytes.try_into().unwrap()),
        _ => PublicKey::Secp256k1(bytes.try_into().unwrap()),
    }
}

/// A list of `[public key, power]`.
pub fn set(value: &Value) -> ValidatorSet {
    let list = value.as_array().unwrap().iter();
    let list = list.map(|v| Validator::new(key(&unhex(&v[0])), v[1].as_i64().unwrap()));
    ValidatorSet::new(list.collect()).unwrap()
}

fn parse<M: Message + Default>(bytes: &[u8]) -> Decoded<M> {
    M::decode(bytes).map_err(|e| e.to_string())
}

pub fn decode_block(bytes: &[u8]) -> Decoded<Block> {
    let b: pb::Block = parse(bytes)?;
    let evidence = b.evidence.unwrap_or_default().evidence;
    Ok(Block {
        header: header(b.header.unwrap_or_default())?,
        txs: b.data.unwrap_or_default().txs,
        evidence: evidence
            .into_iter()
            .map(evidence_item)
            .collect::<Decoded<_>>()?,
        last_commit: commit(b.last_commit.ok_or("no last commit")?)?,
    })
}

pub fn decode_header(bytes: &[u8]) -> Decoded<Header> {
    header(parse(bytes)?)
}

pub fn decode_commit(bytes: &[u8]) -> Decoded<Commit> {
    commit(parse(bytes)?)
}

pub fn decode_evidence(bytes: &[u8]) -> Decoded<Evidence> {
    evidence_item(parse(bytes)?)
}

pub fn decode_extended_commit(bytes: &[u8]) -> Decoded<ExtendedCommit> {
    let c: pb::ExtendedCommit = parse(bytes)?;
    let entry = |s: pb::ExtendedCommitSig| {
        Ok(ExtendedCommitSig {
            sig: commit_sig(&pb::CommitSig {
                block_id_flag: s.block_id_flag,
                validator_address: s.validator_address,
                timestamp: s.timestamp,
                signature: s.signature,
            })?,
            extension: s.extension,
            extension_signature: s.extension_signature,
        })
    };
    Ok(ExtendedCommit {
        height: wire_height(c.height)?,
        round: c.round,
        block_id: id(c.block_id)?,
        signatures: c
            .extended_signatures
            .into_iter()
            .map(entry)
            .collect::<Decoded<_>>()?,
    })
}

pub fn decode_params(bytes: &[u8]) -> ConsensusParams {
    let p: pb::ConsensusParams = parse(bytes).unwrap();
    let (block, evidence) = (p.block.unwrap(), p.evidence.unwrap());
    let age = evidence.max_age_duration.unwrap();
    let names = p.validator.unwrap().pub_key_types.into_iter();
    ConsensusParams {
        block_max_bytes: block.max_bytes,
        block_max_gas: block.max_gas,
        evidence_max_age_num_blocks: evidence.max_age_num_blocks,
        evidence_max_age_duration: age.seconds * 1_000_000_000 + i64::from(age.nanos),
        evidence_max_bytes: evidence.max_bytes,
        pub_key_types: names
            .map(|n| String::from_utf8(n.to_vec()).unwrap())
            .collect(),
        version_app: p.version.unwrap_or_default().app,
        vote_extensions_enable_height: p.abci.unwrap_or_default().vote_extensions_enable_height,
    }
}

fn wire_height(h: i64) -> Decoded<Height> {
    Height::from_wire(h).ok_or_else(|| format!("height {h}"))
}

fn timestamp(t: Option<pb::Timestamp>) -> Decoded<Time> {
    t.map_or(Ok(Time::ZERO), |t| {
        Time::new(t.seconds, t.nanos).ok_or_else(|| "time".to_owned())
    })
}

fn hash(bytes: &[u8]) -> Decoded<Option<Hash>> {
    if bytes.is_empty() {
        return Ok(None);
    }
    Hash::from_slice(bytes)
        .map(Some)
        .ok_or_else(|| "length of a hash".to_owned())
}

fn address(bytes: &[u8]) -> Decoded<Address> {
    Address::from_slice(bytes).ok_or_else(|| "length of an address".to_owned())
}

fn id(id: Option<pb::BlockId>) -> Decoded<BlockId> {
    let id = id.unwrap_or_default();
    let parts = id.part_set_header.unwrap_or_default();
    Ok(BlockId {
        hash: hash(&id.hash)?,
        parts: PartSetHeader {
            total: parts.total,
            hash: hash(&parts.hash)?,
        },
    })
}

fn header(h: pb::Header) -> Decoded<Header> {
    let version = h.version.unwrap_or_default();
    Ok(Header {
        version_block: version.block,
        version_app: version.app,
        chain_id: h.chain_id,
        height: wire_height(h.height)?,
        time: timestamp(h.time)?,
        last_block_id: id(h.last_block_id)?,
        last_commit_hash: hash(&h.last_commit_hash)?,
        data_hash: hash(&h.data_hash)?,
        validators_hash: hash(&h.validators_hash)?,
        next_validators_hash: hash(&h.next_validators_hash)?,
        consensus_hash: hash(&h.consensus_hash)?,
        app_hash: h.app_hash,
        last_results_hash: hash(&h.last_results_hash)?,
        evidence_hash: hash(&h.evidence_hash)?,
        proposer_address: address(&h.proposer_address)?,
    })
}

fn commit_sig(s: &pb::CommitSig) -> Decoded<CommitSig> {
    let flag = match s.block_id_flag {
        1 => BlockIdFlag::Absent,
        2 => BlockIdFlag::Commit,
        3 => BlockIdFlag::Nil,
        other => return Err(format!("flag {other}")),
    };
    Ok(CommitSig {
        flag,
        address: match flag {
            BlockIdFlag::Absent if s.validator_address.is_empty() => Address([0; 20]),
            BlockIdFlag::Absent => return Err("absent with an address".to_owned()),
            _ => address(&s.validator_address)?,
        },
        timestamp: timestamp(s.timestamp)?,
        signature: Signature::new(&s.signature).ok_or("length of a signature")?,
    })
}

fn commit(c: pb::Commit) -> Decoded<Commit> {
    Ok(Commit {
        height: wire_height(c.height)?,
        round: c.round,
        block_id: id(c.block_id)?,
        signatures: c
            .signatures
            .iter()
            .map(commit_sig)
            .collect::<Decoded<_>>()?,
    })
}

fn vote(v: Option<pb::Vote>) -> Decoded<Vote> {
    let v = v.ok_or("no vote")?;
    Ok(Vote {
        kind: v.r#type,
        height: wire_height(v.height)?,
        round: v.round,
        block_id: id(v.block_id)?,
        timestamp: timestamp(v.timestamp)?,
        address: address(&v.validator_address)?,
        index: v.validator_index,
        signature: Signature::new(&v.signature).ok_or("length of a signature")?,
        extension: v.extension,
        extension_signature: v.extension_signature,
    })
}

fn validator(v: pb::Validator) -> RawValidator {
    let key = match v.pub_key.unwrap_or_default().sum {
        Some(crypto::public_key::Sum::Ed25519(k)) => k[..].try_into().ok().map(PublicKey::Ed25519),
        Some(crypto::public_key::Sum::Secp256k1(k)) => {
            k[..].try_into().ok().map(PublicKey::Secp256k1)
        }
        _ => None,
    };
    RawValidator {
        address: v.address,
        key,
        power: v.voting_power,
        priority: v.proposer_priority,
    }
}

fn evidence_item(e: pb::Evidence) -> Decoded<Evidence> {
    match e.sum.ok_or("no evidence")? {
        pb::evidence::Sum::DuplicateVoteEvidence(e) => {
            Ok(Evidence::DuplicateVote(Box::new(DuplicateVoteEvidence {
                vote_a: vote(e.vote_a)?,
                vote_b: vote(e.vote_b)?,
                total_voting_power: e.total_voting_power,
                validator_power: e.validator_power,
                timestamp: timestamp(e.timestamp)?,
            })))
        }
        pb::evidence::Sum::LightClientAttackEvidence(e) => {
            let block = e.conflicting_block.ok_or("no conflicting block")?;
            let signed = block.signed_header.ok_or("no signed header")?;
            let set = block.validator_set.ok_or("no validator set")?;
            let light_block = LightBlock {
                header: header(signed.header.ok_or("no header")?)?,
                commit: commit(signed.commit.ok_or("no commit")?)?,
                validators: set.validators.into_iter().map(validator).collect(),
                proposer: validator(set.proposer.ok_or("no proposer")?),
                total_voting_power: set.total_voting_power,
            };
            Ok(Evidence::LightClientAttack(Box::new(
                LightClientAttackEvidence {
                    conflicting_block: Box::new(light_block),
                    common_height: wire_height(e.common_height)?,
                    byzantine_validators: e
                        .byzantine_validators
                        .into_iter()
                        .map(validator)
                        .collect(),
                    total_voting_power: e.total_voting_power,
                    timestamp: timestamp(e.timestamp)?,
                },
            )))
        }
    }
}
