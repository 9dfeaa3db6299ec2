//! Headers, commits, blocks, evidence, sets and params.

use blocksync::chain::evidence::{
    DuplicateVoteEvidence, Evidence, LightBlock, LightClientAttackEvidence, RawValidator, Vote,
};
use blocksync::chain::{
    Block, BlockIdFlag, Commit, CommitSig, ConsensusParams, Header, PublicKey, Time, Validator,
};
use blocksync::ids::{Address, BlockId, Hash, PartSetHeader};

use super::{Dialect, Json};

/// Go's zero time: the timestamp of an absent vote.
const YEAR_ONE: Time = Time {
    seconds: -62_135_596_800,
    nanos: 0,
};

fn hash(json: &mut Json, hash: Option<&Hash>) {
    json.hex(hash.map_or(&[], |hash| &hash.0[..]));
}

fn parts(json: &mut Json, parts: &PartSetHeader) {
    json.raw("{\"total\":")
        .number(parts.total)
        .raw(",\"hash\":");
    hash(json, parts.hash.as_ref());
    json.raw("}");
}

/// A block id.
pub fn block_id(json: &mut Json, id: &BlockId) {
    json.raw("{\"hash\":");
    hash(json, id.hash.as_ref());
    json.raw(",\"parts\":");
    parts(json, &id.parts);
    json.raw("}");
}

/// A header.
pub fn header(json: &mut Json, header: &Header) {
    json.raw("{\"version\":{\"block\":")
        .long(header.version_block);
    // Go leaves out nothing but the zero application version.
    if header.version_app != 0 {
        json.raw(",\"app\":").long(header.version_app);
    }
    json.raw("},\"chain_id\":").string(&header.chain_id);
    json.raw(",\"height\":").long(header.height);
    json.raw(",\"time\":").time(header.time);
    json.raw(",\"last_block_id\":");
    block_id(json, &header.last_block_id);
    for (name, value) in [
        ("last_commit_hash", &header.last_commit_hash),
        ("data_hash", &header.data_hash),
        ("validators_hash", &header.validators_hash),
        ("next_validators_hash", &header.next_validators_hash),
        ("consensus_hash", &header.consensus_hash),
    ] {
        json.raw(",\"").raw(name).raw("\":");
        hash(json, value.as_ref());
    }
    json.raw(",\"app_hash\":").hex(&header.app_hash);
    json.raw(",\"last_results_hash\":");
    hash(json, header.last_results_hash.as_ref());
    json.raw(",\"evidence_hash\":");
    hash(json, header.evidence_hash.as_ref());
    json.raw(",\"proposer_address\":")
        .hex(&header.proposer_address.0)
        .raw("}");
}

fn commit_sig(json: &mut Json, sig: &CommitSig) {
    let absent = sig.flag == BlockIdFlag::Absent;
    json.raw("{\"block_id_flag\":").number(sig.flag as i32);
    json.raw(",\"validator_address\":");
    // Decoding stands zeros in for the absent address; CometBFT shows an empty one.
    json.hex(if absent { &[] } else { &sig.address.0[..] });
    json.raw(",\"timestamp\":");
    json.time(if absent { YEAR_ONE } else { sig.timestamp });
    json.raw(",\"signature\":")
        .base64(sig.signature.as_slice())
        .raw("}");
}

/// A commit.
pub fn commit(json: &mut Json, commit: &Commit) {
    json.raw("{\"height\":").long(commit.height);
    json.raw(",\"round\":").number(commit.round);
    json.raw(",\"block_id\":");
    block_id(json, &commit.block_id);
    json.raw(",\"signatures\":")
        .list(&commit.signatures, commit_sig);
    json.raw("}");
}

/// A block.
pub fn block(json: &mut Json, block: &Block) {
    json.raw("{\"header\":");
    header(json, &block.header);
    json.raw(",\"data\":{\"txs\":").txs(&block.txs);
    json.raw("},\"evidence\":{\"evidence\":")
        .list(&block.evidence, evidence);
    json.raw("},\"last_commit\":");
    commit(json, &block.last_commit);
    json.raw("}");
}

/// A block's entry in the answer of `blockchain`: `size` is that of the encoded block.
pub fn block_meta(json: &mut Json, id: &BlockId, size: usize, of: &Block) {
    json.raw("{\"block_id\":");
    block_id(json, id);
    json.raw(",\"block_size\":").long(size);
    json.raw(",\"header\":");
    header(json, &of.header);
    json.raw(",\"num_txs\":").long(of.txs.len()).raw("}");
}

fn evidence(json: &mut Json, evidence: &Evidence) {
    match evidence {
        Evidence::DuplicateVote(evidence) => duplicate_vote(json, evidence),
        Evidence::LightClientAttack(evidence) => light_client_attack(json, evidence),
    }
}

fn duplicate_vote(json: &mut Json, evidence: &DuplicateVoteEvidence) {
    json.raw("{\"type\":\"tendermint/DuplicateVoteEvidence\",\"value\":{\"vote_a\":");
    vote(json, &evidence.vote_a);
    json.raw(",\"vote_b\":");
    vote(json, &evidence.vote_b);
    // Capital letters, since Go's struct has no JSON names here (`rpc.md` 2).
    json.raw(",\"TotalVotingPower\":")
        .long(evidence.total_voting_power);
    json.raw(",\"ValidatorPower\":")
        .long(evidence.validator_power);
    json.raw(",\"Timestamp\":")
        .time(evidence.timestamp)
        .raw("}}");
}

fn vote(json: &mut Json, vote: &Vote) {
    json.raw("{\"type\":").number(vote.kind);
    json.raw(",\"height\":").long(vote.height);
    json.raw(",\"round\":").number(vote.round);
    json.raw(",\"block_id\":");
    block_id(json, &vote.block_id);
    json.raw(",\"timestamp\":").time(vote.timestamp);
    json.raw(",\"validator_address\":").hex(&vote.address.0);
    json.raw(",\"validator_index\":").number(vote.index);
    json.raw(",\"signature\":")
        .base64(vote.signature.as_slice());
    json.raw(",\"extension\":").base64(&vote.extension);
    json.raw(",\"extension_signature\":")
        .base64(&vote.extension_signature)
        .raw("}");
}

fn light_client_attack(json: &mut Json, evidence: &LightClientAttackEvidence) {
    json.raw("{\"type\":\"tendermint/LightClientAttackEvidence\",\"value\":{\"ConflictingBlock\":");
    light_block(json, &evidence.conflicting_block);
    json.raw(",\"CommonHeight\":").long(evidence.common_height);
    json.raw(",\"ByzantineValidators\":")
        .list_or_null(evidence.byzantine_validators.iter(), raw_validator);
    json.raw(",\"TotalVotingPower\":")
        .long(evidence.total_voting_power);
    json.raw(",\"Timestamp\":")
        .time(evidence.timestamp)
        .raw("}}");
}

fn light_block(json: &mut Json, block: &LightBlock) {
    json.raw("{\"signed_header\":{\"header\":");
    header(json, &block.header);
    json.raw(",\"commit\":");
    commit(json, &block.commit);
    json.raw("},\"validator_set\":{\"validators\":")
        .list(&block.validators, raw_validator);
    json.raw(",\"proposer\":");
    raw_validator(json, &block.proposer);
    json.raw("}}");
}

fn raw_validator(json: &mut Json, validator: &RawValidator) {
    let key = validator.key.as_ref();
    one_validator(
        json,
        &validator.address,
        key,
        validator.power,
        validator.priority,
    );
}

/// A key with its type's name.
pub fn public_key(json: &mut Json, key: &PublicKey) {
    json.raw("{\"type\":\"").raw(key.key_type().json_name());
    json.raw("\",\"value\":").base64(key.as_bytes()).raw("}");
}

fn one_validator(
    json: &mut Json,
    address: &[u8],
    key: Option<&PublicKey>,
    power: i64,
    priority: i64,
) {
    json.raw("{\"address\":").hex(address).raw(",\"pub_key\":");
    match key {
        Some(key) => public_key(json, key),
        None => {
            json.raw("null");
        }
    }
    json.raw(",\"voting_power\":").long(power);
    json.raw(",\"proposer_priority\":").long(priority).raw("}");
}

/// Members of a set with their priorities.
pub fn validators<'a>(
    json: &mut Json,
    members: impl IntoIterator<Item = (&'a Validator, &'a i64)>,
) {
    json.list(members, |json, (member, priority)| {
        let Address(address) = &member.address;
        one_validator(json, address, Some(&member.key), member.power, *priority);
    });
}

/// Consensus params.
pub fn consensus_params(json: &mut Json, params: &ConsensusParams, dialect: Dialect) {
    json.raw("{\"block\":{\"max_bytes\":")
        .long(params.block_max_bytes);
    json.raw(",\"max_gas\":").long(params.block_max_gas);
    json.raw("},\"evidence\":{\"max_age_num_blocks\":")
        .long(params.evidence_max_age_num_blocks);
    json.raw(",\"max_age_duration\":")
        .long(params.evidence_max_age_duration);
    json.raw(",\"max_bytes\":").long(params.evidence_max_bytes);
    json.raw("},\"validator\":{\"pub_key_types\":")
        .list(&params.pub_key_types, |json, name| {
            json.string(name.as_bytes());
        });
    json.raw("},\"version\":{\"app\":").long(params.version_app);
    json.raw("},\"abci\":{\"vote_extensions_enable_height\":")
        .long(params.vote_extensions_enable_height)
        .raw("}");
    // Written even when empty, as 0.40 does.
    if dialect == Dialect::V040 {
        json.raw(",\"authority\":{\"authority\":")
            .string(&params.authority)
            .raw("}");
    }
    json.raw("}");
}
