//! A header with precommits for its block: shows a node that may be far below that a height has
//! been decided (`serving.md` 7).
//!
//! The precommits are matched by address, as the anchored policy does, so that sender and receiver
//! need not agree on a validator set. A proof is never a reason to apply anything.

use super::commit::{BlockIdFlag, Commit};
use super::header::Header;
use super::proof::{KnownSets, has_signed};
use super::signatures::SignatureCheck;
use super::time::Time;
use super::validators::ValidatorSet;
use super::verify::{CommitError, Share};
use crate::ids::{Address, Height};

/// Seconds for which a third of an old set's power attests anything: later its members may have
/// left, and nothing would be lost to them by signing another chain. The trust period that
/// CometBFT's light client has by default.
const TRUST_PERIOD: i64 = 7 * 24 * 3600;

/// A header and precommits for its block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeightProof {
    /// The header of the highest height that is claimed.
    pub header: Header,
    /// Precommits for that block and no others, those with the most power first.
    pub commit: Commit,
}

/// How much a proof shows to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Standing {
    /// The chain has been decided up to this height.
    Proven(Height),
    /// More than a third of a set that we know says that the chain has been decided up to this
    /// height: so does at least one of its honest members.
    Attested(Height),
    /// Nothing above what we have, or nothing at all: the validators may have changed.
    Nothing,
    /// Nothing yet: the header's time is ahead of our clock.
    AheadOfClock,
}

/// A proof that no honest node sends.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HeightProofError {
    /// The parts do not belong together.
    #[error("{0}")]
    Form(&'static str),
    /// A member of a known set has not signed as it says, or is there twice.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

/// Clock and tolerance by which a header's time is judged.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// The time now.
    pub now: Time,
    /// Seconds by which a header may be ahead of it.
    pub tolerance: i64,
}

impl HeightProof {
    /// Makes a proof of the block's commit, where `set` has signed that height. `None` where one
    /// signature stands for several votes: they cannot be told apart.
    #[must_use]
    pub fn new(header: Header, mut commit: Commit, set: &ValidatorSet) -> Option<Self> {
        if commit.is_aggregated() {
            return None;
        }
        commit
            .signatures
            .retain(|sig| sig.flag == BlockIdFlag::Commit);
        let power = |address: &Address| set.by_address(address).map_or(0, |(_, seat)| seat.power);
        commit
            .signatures
            .sort_by_key(|sig| std::cmp::Reverse(power(&sig.address)));
        Some(HeightProof { header, commit })
    }

    /// Finds out how much the proof shows to a node that knows these sets.
    ///
    /// # Errors
    /// When no honest node sends it: its parts do not belong together, or a member of a set that we
    /// know has not signed what it says. Entries of others cannot be judged, and count for nothing.
    pub fn judge(
        &self,
        known: &KnownSets,
        clock: Clock,
        cpu: &dyn SignatureCheck,
    ) -> Result<Standing, HeightProofError> {
        self.check_form(known)?;
        let height = self.commit.height;
        // Before any signature: they are the work that a sender could make us do for nothing.
        if height <= known.applied {
            return Ok(Standing::Nothing);
        }
        if self.header.time.seconds > clock.now.seconds.saturating_add(clock.tolerance) {
            return Ok(Standing::AheadOfClock);
        }
        let fresh = self.header.time.seconds > clock.now.seconds.saturating_sub(TRUST_PERIOD);
        let mut best = Standing::Nothing;
        let signed = |set, share| has_signed((set, share), &self.commit, known, cpu);
        for set in known.coming() {
            let found = if signed(set, Share::TWO_THIRDS)? {
                // A height's own set decides it; another one's power proves the block below
                // (`design.md` 5).
                let own = self.header.validators_hash == Some(set.hash());
                Standing::Proven(if own { height } else { height.prev() })
            } else if fresh && signed(set, Share::ONE_THIRD)? {
                Standing::Attested(height.prev())
            } else {
                Standing::Nothing
            };
            if found.weight() > best.weight() {
                best = found;
            }
        }
        Ok(best)
    }

    fn check_form(&self, known: &KnownSets) -> Result<(), HeightProofError> {
        let (header, commit) = (&self.header, &self.commit);
        let wrong = if header.chain_id != known.chain_id {
            "the header is of another chain"
        } else if header.height != commit.height {
            "header and precommits are of two heights"
        } else if !commit.block_id.is_complete() || header.hash() != commit.block_id.hash {
            "the precommits are for another block than the header's"
        } else if commit.round < 0 {
            "the round is negative"
        } else if commit
            .signatures
            .iter()
            .any(|sig| sig.flag != BlockIdFlag::Commit)
        {
            "a vote is not for the block"
        } else {
            let mut signers: Vec<_> = commit.signatures.iter().map(|sig| sig.address).collect();
            signers.sort_unstable();
            if signers.windows(2).all(|pair| pair[0] != pair[1]) {
                return Ok(());
            }
            "a validator is there twice"
        };
        Err(HeightProofError::Form(wrong))
    }
}

impl Standing {
    /// Higher where more is shown.
    fn weight(self) -> (u8, Height) {
        match self {
            Standing::Proven(height) => (2, height),
            Standing::Attested(height) => (1, height),
            Standing::Nothing | Standing::AheadOfClock => (0, Height::ZERO),
        }
    }
}
