//! Whether a block is the one that our state expects next: `ValidateBlock` of CometBFT
//! (`protocol.md` 5.10), but for evidence, which is in [`super::evidence_check`], and the stateless
//! checks, which are in [`super::basic`].
//!
//! A *certified* block that fails here contradicts our own state: a wrong binary or a corrupt
//! store, never a peer's fault (`design.md` 5). These errors reach the operator, so each names the
//! height, what was expected and what was found.

use core::time::Duration;

use bytes::Bytes;
use rand::CryptoRng;

use super::basic::{BLOCK_PROTOCOL, Unequal, show};
use super::block::Block;
use super::commit::Commit;
use super::evidence;
use super::header::Header;
use super::median::{UnknownSigner, median_time};
use super::rules::{ParamsGroups, Rules};
use super::state::ChainState;
use super::time::Time;
use super::verify::{CommitError, check_commit, verify_commit};
use crate::ids::{Address, Hash, Height};

/// The difference between a block and the one that our state expects.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Mismatch {
    /// The block protocol.
    #[error("block {height}: block protocol {found}, expected {expected}")]
    BlockProtocol {
        /// The block's height.
        height: Height,
        /// The block protocol of all versions.
        expected: u64,
        /// The header's.
        found: u64,
    },
    /// The application's version.
    #[error("block {height}: application version {found}, our state has {expected}")]
    AppVersion {
        /// The block's height.
        height: Height,
        /// Our state's.
        expected: u64,
        /// The header's.
        found: u64,
    },
    /// The chain.
    #[error(
        "block {height}: chain id {}, our state has {}",
        text(found),
        text(expected)
    )]
    ChainId {
        /// The block's height.
        height: Height,
        /// Our state's.
        expected: Bytes,
        /// The header's.
        found: Bytes,
    },
    /// The height is not the next one.
    #[error("block {found}: our state expects height {expected}")]
    Height {
        /// The next height.
        expected: Height,
        /// The header's.
        found: Height,
    },
    /// The block before.
    #[error("block {height}: last_block_id {ids}, which our state has")]
    LastBlockId {
        /// The block's height.
        height: Height,
        /// Our state's, and the header's.
        ids: Box<Unequal>,
    },
    /// The application's hash after the block before.
    #[error(
        "block {height}: app_hash {}, our application computed {} after block {}",
        hex::encode(found), hex::encode(expected), height.prev()
    )]
    AppHash {
        /// The block's height.
        height: Height,
        /// Our application's.
        expected: Bytes,
        /// The header's.
        found: Bytes,
    },
    /// The hash of the consensus params.
    #[error(
        "block {height}: consensus_hash {}, our params have {expected}",
        show(found)
    )]
    ConsensusHash {
        /// The block's height.
        height: Height,
        /// Hash of our params.
        expected: Hash,
        /// The header's.
        found: Option<Hash>,
    },
    /// The root over the results of the block before.
    #[error(
        "block {height}: last_results_hash {}, our results have {expected}",
        show(found)
    )]
    LastResultsHash {
        /// The block's height.
        height: Height,
        /// Hash of our results.
        expected: Hash,
        /// The header's.
        found: Option<Hash>,
    },
    /// The set of this height.
    #[error(
        "block {height}: validators_hash {}, our set has {expected}",
        show(found)
    )]
    ValidatorsHash {
        /// The block's height.
        height: Height,
        /// Hash of our validator set.
        expected: Hash,
        /// The header's.
        found: Option<Hash>,
    },
    /// The set of the next height.
    #[error(
        "block {height}: next_validators_hash {}, our next set has {expected}",
        show(found)
    )]
    NextValidatorsHash {
        /// The block's height.
        height: Height,
        /// Hash of our next validator set.
        expected: Hash,
        /// The header's.
        found: Option<Hash>,
    },
    /// The first block has signatures of a block before.
    #[error(
        "block {height}: the first block has a last commit with {found} signatures, expected none"
    )]
    InitialCommit {
        /// The block's height.
        height: Height,
        /// Number of signatures.
        found: usize,
    },
    /// The commit for the block before does not decide it under the set that we know for that
    /// height.
    #[error("block {height}: last commit, by the rules of {rules}: {error}")]
    LastCommit {
        /// The block's height.
        height: Height,
        /// The name of the rules in force.
        rules: &'static str,
        /// The reason.
        error: CommitError,
    },
    /// Our state has a last block but not the set that signed it.
    #[error("block {height}: our state lacks the validator set of block {}", height.prev())]
    NoLastValidators {
        /// The block's height.
        height: Height,
    },
    /// The proposer is not a validator of this height.
    #[error("block {height}: proposer {found}, expected one of our validators")]
    Proposer {
        /// The block's height.
        height: Height,
        /// The header's.
        found: Address,
    },
    /// The time of the first block is not genesis' time.
    #[error(
        "block {height}: time {found}, expected the genesis time {expected}{} by the rules of {rules}",
        if *or_later { " or later" } else { "" }
    )]
    GenesisTime {
        /// The block's height.
        height: Height,
        /// The name of the rules in force.
        rules: &'static str,
        /// Whether they let it be later.
        or_later: bool,
        /// The genesis time.
        expected: Time,
        /// The header's.
        found: Time,
    },
    /// The time is not after that of the block before.
    #[error(
        "block {height}: time {found}, expected later than {last}, the time of the block before"
    )]
    TimeNotAfter {
        /// The block's height.
        height: Height,
        /// The time of the block before.
        last: Time,
        /// The header's.
        found: Time,
    },
    /// The time is not the weighted median of the last commit, which versions of CometBFT compute
    /// differently.
    #[error(
        "block {height}: time {found}, expected {expected}, the median of its last commit by the rules of {rules} \
         ({}); if the chain runs another version at this height, name it with --rules",
        if *nil_votes_count { "votes for nil count" } else { "votes for nil do not count" }
    )]
    BlockTime {
        /// The block's height.
        height: Height,
        /// The median.
        expected: Time,
        /// The header's.
        found: Time,
        /// The name of the rules in force.
        rules: &'static str,
        /// Whether votes for nil count in the block time under these rules.
        nil_votes_count: bool,
    },
    /// The time is not the proposer's, where that of every block must be.
    #[error(
        "block {height}: by the rules of {rules} every block's time is its proposer's, but the params \
         have pbts_enable_height {from}"
    )]
    NotProposersTime {
        /// The block's height.
        height: Height,
        /// The name of the rules in force.
        rules: &'static str,
        /// The height of the params.
        from: i64,
    },
    /// The median cannot be computed.
    #[error("block {height}: block time, by the rules of {rules}: {error}")]
    MedianSigner {
        /// The block's height.
        height: Height,
        /// The name of the rules in force.
        rules: &'static str,
        /// The reason.
        error: UnknownSigner,
    },
    /// The evidence takes more bytes than our params allow.
    #[error("block {height}: evidence of {found} bytes, our params allow {expected}")]
    EvidenceSize {
        /// The block's height.
        height: Height,
        /// `evidence.max_bytes`.
        expected: i64,
        /// Bytes of the encoded list.
        found: usize,
    },
    /// The time is too far ahead of our clock: our clock is wrong, or the chain's. Not a
    /// contradiction: wait.
    #[error(
        "block {height}: time {found} is more than {tolerance:?} ahead of our clock, {now}; is the clock right?"
    )]
    AheadOfClock {
        /// The block's height.
        height: Height,
        /// The header's.
        found: Time,
        /// Our clock.
        now: Time,
        /// How far ahead a block may be.
        tolerance: Duration,
    },
}

/// A chain id for a message.
fn text(bytes: &Bytes) -> String {
    format!("{:?}", String::from_utf8_lossy(bytes))
}

/// Checks of a block's last commit that remain.
pub enum LastCommit<'a> {
    /// All of it: with this randomness for the signatures.
    Verify(&'a mut dyn CryptoRng),
    /// Everything but the signatures: either somebody has checked these, or the block is certified
    /// and its signers have.
    AlreadyVerified,
}

/// Holds a block against the state after the block before (`protocol.md` 5.10). The stateless
/// checks ([`Block::check_basic`], or [`Block::check_structure`] for a certified block) come
/// before, evidence ([`super::evidence_check::check_evidence`]) after.
///
/// `rules` are those of the block's height. `clock` is our time and how far ahead of it a block may
/// be; `None` for a block that is replayed. It is looked at last: waiting does not help a block
/// that fails anything else.
///
/// # Errors
/// The first difference.
pub fn validate_block(
    state: &ChainState,
    block: &Block,
    rules: &Rules,
    last_commit: LastCommit<'_>,
    clock: Option<(Time, Duration)>,
) -> Result<(), Mismatch> {
    let header = &block.header;
    check_chain(state, header)?;
    check_hashes(state, header)?;
    if rules.params.pbts_is_required && !state.params.pbts_enabled(header.height) {
        return Err(Mismatch::NotProposersTime {
            height: header.height,
            rules: rules.name,
            from: state.params.pbts_enable_height,
        });
    }
    // The first block has no block before it that could have been signed.
    if header.height == state.initial_height {
        check_initial(state, block, rules)?;
    } else {
        check_last_commit(state, header, &block.last_commit, last_commit, rules)?;
    }
    if state
        .validators
        .by_address(&header.proposer_address)
        .is_none()
    {
        return Err(Mismatch::Proposer {
            height: header.height,
            found: header.proposer_address,
        });
    }
    if header.height != state.initial_height {
        check_time(state, header, &block.last_commit, rules)?;
    }
    check_evidence_size(state, block)?;
    // The clock is last: waiting mends nothing but that.
    let clock = clock.filter(|_| rules.clock_is_checked);
    clock.map_or(Ok(()), |(now, tolerance)| {
        check_clock(header, now, tolerance)
    })
}

/// Versions, chain, height and the block before.
fn check_chain(state: &ChainState, header: &Header) -> Result<(), Mismatch> {
    // In CometBFT's order (`protocol.md` 5.10), as are the checks that follow.
    let height = header.height;
    if header.version_block != BLOCK_PROTOCOL {
        return Err(Mismatch::BlockProtocol {
            height,
            expected: BLOCK_PROTOCOL,
            found: header.version_block,
        });
    }
    if header.version_app != state.version_app {
        return Err(Mismatch::AppVersion {
            height,
            expected: state.version_app,
            found: header.version_app,
        });
    }
    if header.chain_id != state.chain_id {
        return Err(Mismatch::ChainId {
            height,
            expected: state.chain_id.clone(),
            found: header.chain_id.clone(),
        });
    }
    if height != state.next_height() {
        return Err(Mismatch::Height {
            expected: state.next_height(),
            found: height,
        });
    }
    if header.last_block_id != state.last_block_id {
        return Err(Mismatch::LastBlockId {
            height,
            ids: Unequal::new(state.last_block_id, header.last_block_id),
        });
    }
    Ok(())
}

/// Holds the state after a block against the certified header above it: whether execution gave what
/// the chain has.
///
/// # Errors
/// The first difference.
pub fn check_executed(after: &ChainState, above: &Header) -> Result<(), Mismatch> {
    check_hashes(after, above)?;
    if above.version_app != after.version_app {
        return Err(Mismatch::AppVersion {
            height: above.height,
            expected: after.version_app,
            found: above.version_app,
        });
    }
    Ok(())
}

/// Compares the header's hashes with those that execution of the blocks below gave.
fn check_hashes(state: &ChainState, header: &Header) -> Result<(), Mismatch> {
    let height = header.height;
    if header.app_hash != state.app_hash {
        return Err(Mismatch::AppHash {
            height,
            expected: state.app_hash.clone(),
            found: header.app_hash.clone(),
        });
    }
    let (expected, found) = (state.params.hash(), header.consensus_hash);
    if found != Some(expected) {
        return Err(Mismatch::ConsensusHash {
            height,
            expected,
            found,
        });
    }
    // Absent is wrong too: even the root over no results is a hash.
    let (expected, found) = (state.last_results_hash, header.last_results_hash);
    if found != Some(expected) {
        return Err(Mismatch::LastResultsHash {
            height,
            expected,
            found,
        });
    }
    let (expected, found) = (state.validators.hash(), header.validators_hash);
    if found != Some(expected) {
        return Err(Mismatch::ValidatorsHash {
            height,
            expected,
            found,
        });
    }
    let (expected, found) = (state.next_validators.hash(), header.next_validators_hash);
    if found != Some(expected) {
        return Err(Mismatch::NextValidatorsHash {
            height,
            expected,
            found,
        });
    }
    Ok(())
}

/// Checks the first block: nobody has signed the one before, and its time is genesis', or later
/// where the rules allow it.
fn check_initial(state: &ChainState, block: &Block, rules: &Rules) -> Result<(), Mismatch> {
    let height = block.header.height;
    let found = block.last_commit.signatures.len();
    if found != 0 {
        return Err(Mismatch::InitialCommit { height, found });
    }
    let (expected, found) = (state.last_block_time, block.header.time);
    let or_later = rules.first_block_may_be_late;
    if found != expected && !(or_later && found > expected) {
        return Err(Mismatch::GenesisTime {
            height,
            rules: rules.name,
            or_later,
            expected,
            found,
        });
    }
    Ok(())
}

fn check_last_commit(
    state: &ChainState,
    header: &Header,
    commit: &Commit,
    last_commit: LastCommit<'_>,
    rules: &Rules,
) -> Result<(), Mismatch> {
    let height = header.height;
    let Some(set) = &state.last_validators else {
        return Err(Mismatch::NoLastValidators { height });
    };
    let (id, below) = (&state.last_block_id, height.prev());
    // Without the signatures, too, all that execution relies on is checked: it pairs entries and
    // validators by index.
    let verdict = match last_commit {
        LastCommit::Verify(rng) => {
            verify_commit(rules, &state.chain_id, set, id, below, commit, rng)
        }
        LastCommit::AlreadyVerified => check_commit(rules, set, id, below, commit),
    };
    verdict.map(|_| ()).map_err(|error| Mismatch::LastCommit {
        height,
        rules: rules.name,
        error,
    })
}

fn check_time(
    state: &ChainState,
    header: &Header,
    commit: &Commit,
    rules: &Rules,
) -> Result<(), Mismatch> {
    let (height, found) = (header.height, header.time);
    let Some(set) = &state.last_validators else {
        return Err(Mismatch::NoLastValidators { height });
    };
    if found <= state.last_block_time {
        return Err(Mismatch::TimeNotAfter {
            height,
            last: state.last_block_time,
            found,
        });
    }
    let knows_pbts = rules.params.groups == ParamsGroups::Features;
    // Then it is the proposer's time, which only those can judge who saw the proposal come.
    if knows_pbts && state.params.pbts_enabled(height) {
        return Ok(());
    }
    let expected = median_time(commit, set, rules).map_err(|error| Mismatch::MedianSigner {
        height,
        rules: rules.name,
        error,
    })?;
    if found != expected {
        return Err(Mismatch::BlockTime {
            height,
            expected,
            found,
            rules: rules.name,
            nil_votes_count: rules.nil_votes_count_in_time,
        });
    }
    Ok(())
}

fn check_evidence_size(state: &ChainState, block: &Block) -> Result<(), Mismatch> {
    let expected = state.params.evidence_max_bytes;
    let found = evidence::list_size(&block.evidence);
    // By the encoded list's bytes; CometBFT does not limit the number of items.
    if i64::try_from(found).is_ok_and(|found| found <= expected) {
        return Ok(());
    }
    Err(Mismatch::EvidenceSize {
        height: block.header.height,
        expected,
        found,
    })
}

fn check_clock(header: &Header, now: Time, tolerance: Duration) -> Result<(), Mismatch> {
    let ahead = header.time.since(now);
    // It must be earlier than clock and tolerance together (`protocol.md` 5.10).
    if u128::try_from(ahead).is_ok_and(|ahead| ahead >= tolerance.as_nanos()) {
        return Err(Mismatch::AheadOfClock {
            height: header.height,
            found: header.time,
            now,
            tolerance,
        });
    }
    Ok(())
}
