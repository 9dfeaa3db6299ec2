//! The wire against CometBFT's vectors, against chains that CometBFT made, and against itself.

mod advertised;
mod chains;
mod framing;
mod mutate;
mod random;
mod stored;
mod vectors;

use bytes::Bytes;
use prost::Message as _;

use super::Limits;
use super::decode::fetched;
use super::error::WireError;
use super::message::BlockResponse;
use super::proto::types;
use crate::chain::{Block, Fetched};

/// A block's encoding.
fn encoded(block: &Block) -> Vec<u8> {
    let mut out = Vec::new();
    block.encode(&mut out);
    out
}

/// A block as a peer sends it, fetched.
fn fetch(raw: &[u8]) -> Result<Fetched, WireError> {
    let response = BlockResponse {
        block: Bytes::copy_from_slice(raw),
        ..BlockResponse::default()
    };
    fetched(&response.encode(), &Limits::default())
}

/// Decodes and encodes with prost, adding the sub-messages that Go holds by value: CometBFT's
/// encoding, by another way than ours. `None` when it does not decode.
fn by_prost(raw: &[u8]) -> Option<Vec<u8>> {
    let mut block = types::Block::decode(raw).ok()?;
    fill_header(block.header.get_or_insert_default());
    block.data.get_or_insert_default();
    for item in &mut block.evidence.get_or_insert_default().evidence {
        fill_evidence(item);
    }
    if let Some(commit) = &mut block.last_commit {
        fill_commit(commit);
    }
    Some(block.encode_to_vec())
}

fn fill_time(time: &mut Option<types::Timestamp>) {
    time.get_or_insert(types::Timestamp {
        seconds: -62_135_596_800,
        nanos: 0,
    });
}

fn fill_block_id(id: &mut Option<types::BlockId>) {
    let id = id.get_or_insert_default();
    id.part_set_header.get_or_insert_default();
}

fn fill_header(header: &mut types::Header) {
    header.version.get_or_insert_default();
    fill_time(&mut header.time);
    fill_block_id(&mut header.last_block_id);
}

fn fill_commit(commit: &mut types::Commit) {
    fill_block_id(&mut commit.block_id);
    for sig in &mut commit.signatures {
        fill_time(&mut sig.timestamp);
    }
}

fn fill_key(validator: &mut types::Validator) {
    validator.pub_key.get_or_insert_default();
}

fn fill_evidence(item: &mut types::Evidence) {
    use types::evidence::Sum;
    match &mut item.sum {
        Some(Sum::DuplicateVoteEvidence(evidence)) => {
            let votes = [&mut evidence.vote_a, &mut evidence.vote_b];
            for vote in votes.into_iter().flatten() {
                fill_block_id(&mut vote.block_id);
                fill_time(&mut vote.timestamp);
            }
            fill_time(&mut evidence.timestamp);
        }
        Some(Sum::LightClientAttackEvidence(evidence)) => {
            if let Some(block) = &mut evidence.conflicting_block {
                if let Some(signed) = &mut block.signed_header {
                    signed.header.iter_mut().for_each(fill_header);
                    signed.commit.iter_mut().for_each(fill_commit);
                }
                if let Some(set) = &mut block.validator_set {
                    set.total_voting_power = 0;
                    let members = set.validators.iter_mut().chain(&mut set.proposer);
                    members.for_each(fill_key);
                }
            }
            evidence.byzantine_validators.iter_mut().for_each(fill_key);
            fill_time(&mut evidence.timestamp);
        }
        None => {}
    }
}
