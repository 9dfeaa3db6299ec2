//! Requests, as each version of ABCI has them (`versions.md` 3).
//!
//! One schema is for all versions: no field number means two things among those used here, and a
//! field that a version does not have is left out.

use bytes::Bytes;

use super::frames::Framing;
use crate::app::{AppError, InitChain};
use crate::chain::execution::{FinalizeBlock, UpdateKey};
use crate::chain::{AbciVersion, BlockIdFlag, Misbehavior, ValidatorUpdate};
use crate::ids::Address;
use crate::wire::convert;
use crate::wire::proto::abci;

/// The block protocol of all versions.
const BLOCK_VERSION: u64 = 11;

/// The framing of a version.
pub(super) fn framing(version: AbciVersion) -> Framing {
    match version {
        AbciVersion::V034 => Framing::Zigzag,
        _ => Framing::Plain,
    }
}

/// `Info`: the release whose behaviour this follows, and its protocol versions.
pub(super) fn info(version: AbciVersion) -> abci::RequestInfo {
    let (release, p2p_version, abci_version): (&[u8], u64, &[u8]) = match version {
        // 0.34's Info has no field for the version of ABCI (`versions.md` 3.1).
        AbciVersion::V034 => (b"0.34.35", 8, b""),
        AbciVersion::V037 => (b"0.37.16", 8, b"1.0.0"), // so v0.37.18 calls itself
        AbciVersion::V038 => (b"0.38.25", 8, b"2.0.0"),
        AbciVersion::V100 => (b"1.0.1", 9, b"2.1.0"),
    };
    abci::RequestInfo {
        version: Bytes::from_static(release),
        block_version: BLOCK_VERSION,
        p2p_version,
        abci_version: Bytes::from_static(abci_version),
    }
}

/// `InitChain`. The groups of the params are those of the rules.
pub(super) fn init_chain(version: AbciVersion, request: InitChain) -> abci::RequestInitChain {
    let updates = request.validators.into_iter().map(|validator| {
        let (key, power) = (UpdateKey::Known(validator.key), validator.power);
        let update = ValidatorUpdate { key, power };
        match version {
            // 1.0 moved the key to other fields and reserved the old one (`versions.md` 1.8).
            AbciVersion::V100 => convert::named_update_to_proto(&update),
            _ => convert::update_to_proto(&update),
        }
    });
    abci::RequestInitChain {
        time: Some(convert::time_to_proto(request.time)),
        chain_id: request.chain_id,
        consensus_params: Some(convert::params_to_proto(&request.params, &request.rules)),
        validators: updates.collect(),
        app_state_bytes: request.app_state,
        initial_height: request.initial_height.to_wire(),
    }
}

/// Whether updates are in the form of this version. Another form is another version's.
pub(super) fn are_of(version: AbciVersion, updates: &[abci::ValidatorUpdate]) -> bool {
    updates.iter().all(|update| match version {
        // An update without a key passes either way: it is refused when it is
        // applied, with the height.
        AbciVersion::V100 => update.pub_key.is_none(),
        _ => update.pub_key_type.is_empty(),
    })
}

/// `BeginBlock`, for versions that have no `FinalizeBlock`.
pub(super) fn begin_block(block: &FinalizeBlock) -> Result<abci::RequestBeginBlock, AppError> {
    // Blocks that we execute carry it; a caller that fills in the request itself may leave it out.
    let Some(header) = &block.header else {
        let why = "the block's header is not at hand".to_owned();
        return Err(AppError::Refused("BeginBlock", why));
    };
    let mut encoded = Vec::with_capacity(512);
    header.encode(&mut encoded);
    let commit = &block.decided_last_commit;
    let votes = commit.votes.iter().map(|(address, power, flag)| {
        let validator = validator(address, *power);
        abci::VoteInfo {
            validator,
            // A vote for nil counts as signed.
            signed_last_block: *flag != BlockIdFlag::Absent,
            // 0.34 and 0.37 have no such field; zero is left out of the encoding.
            block_id_flag: 0,
        }
    });
    Ok(abci::RequestBeginBlock {
        hash: Bytes::copy_from_slice(&block.hash.0),
        header: encoded.into(),
        last_commit_info: Some(abci::CommitInfo {
            round: commit.round,
            votes: votes.collect(),
        }),
        byzantine_validators: block.misbehavior.iter().map(misbehavior).collect(),
    })
}

/// `FinalizeBlock`.
pub(super) fn finalize_block(
    version: AbciVersion,
    block: FinalizeBlock,
) -> abci::RequestFinalizeBlock {
    let commit = block.decided_last_commit;
    let votes = commit.votes.iter().map(|(address, power, flag)| {
        let validator = validator(address, *power);
        abci::VoteInfo {
            validator,
            // 0.38 put the flag in the place of the older field, which stays at its default.
            signed_last_block: false,
            block_id_flag: *flag as i32,
        }
    });
    abci::RequestFinalizeBlock {
        txs: block.txs,
        decided_last_commit: Some(abci::CommitInfo {
            round: commit.round,
            votes: votes.collect(),
        }),
        misbehavior: block.misbehavior.iter().map(misbehavior).collect(),
        hash: Bytes::copy_from_slice(&block.hash.0),
        height: block.height.to_wire(),
        time: Some(convert::time_to_proto(block.time)),
        next_validators_hash: block
            .next_validators_hash
            .map_or_else(Bytes::new, |hash| Bytes::copy_from_slice(&hash.0)),
        proposer_address: address_bytes(&block.proposer_address),
        // A block at the tip names its own height: the application is not catching up then.
        syncing_to_height: match version {
            AbciVersion::V100 => block.syncing_to.max(block.height).to_wire(),
            _ => 0,
        },
    }
}

/// The same block as a proposal: the fields have the same meaning, and the same numbers.
pub(super) fn proposal(version: AbciVersion, block: FinalizeBlock) -> abci::RequestProcessProposal {
    let block = finalize_block(version, block);
    abci::RequestProcessProposal {
        txs: block.txs,
        proposed_last_commit: block.decided_last_commit,
        misbehavior: block.misbehavior,
        hash: block.hash,
        height: block.height,
        time: block.time,
        next_validators_hash: block.next_validators_hash,
        proposer_address: block.proposer_address,
    }
}

/// `VerifyVoteExtension` of no height and no validator.
pub(super) fn no_extension() -> abci::RequestVerifyVoteExtension {
    abci::RequestVerifyVoteExtension {
        height: -1,
        ..Default::default()
    }
}

fn address_bytes(address: &Address) -> Bytes {
    Bytes::copy_from_slice(&address.0)
}

fn validator(address: &Address, power: i64) -> Option<abci::Validator> {
    Some(abci::Validator {
        address: address_bytes(address),
        power,
    })
}

fn misbehavior(m: &Misbehavior) -> abci::Misbehavior {
    abci::Misbehavior {
        r#type: m.kind,
        validator: validator(&m.address, m.power),
        height: m.height.to_wire(),
        time: Some(convert::time_to_proto(m.time)),
        total_voting_power: m.total_voting_power,
    }
}
