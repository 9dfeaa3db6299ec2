//! The chain's rules: data types, their encodings and hashes, commit verification, and the state transition. Pure: no
//! tokio, no clock, no I/O; the randomness of batch verification is passed in.
//!
//! Reading order: `block`, `commit`, `validators` are what moves over the wire; `state` is what a node knows between two
//! blocks; `basic` checks a block by itself; `verify` judges a commit against a set; `validate` holds a block against the
//! state.

pub mod basic;
pub mod basic_evidence;
pub mod block;
pub mod commit;
pub mod encode;
pub mod evidence;
pub mod evidence_check;
pub mod execution;
pub mod genesis;
pub mod key;
pub mod median;
pub mod merkle;
#[cfg(test)]
mod oracle;
pub mod params;
pub mod proof;
pub mod rules;
pub mod signatures;
pub mod state;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
#[path = "../../crates/testkit/src/chain.rs"]
pub mod testkit;
pub mod time;
pub mod validate;
pub mod validators;
pub mod verify;

#[cfg(test)]
mod evidence_test;
#[cfg(test)]
mod signatures_test;
#[cfg(test)]
mod validate_test;
#[cfg(test)]
mod vectors_test;

pub use block::{Block, Fetched, Header};
pub use commit::{BlockIdFlag, Commit, CommitSig, ExtendedCommit, ExtendedCommitSig, Signature};
pub use evidence::{DuplicateVoteEvidence, Evidence, LightClientAttackEvidence, Vote};
pub use execution::{
    CommitInfo, FinalizeBlock, FinalizeResponse, Misbehavior, TxResult, ValidatorUpdate,
};
pub use genesis::Genesis;
pub use key::PublicKey;
pub use params::ConsensusParams;
pub use rules::{RuleSchedule, Rules};
pub use state::ChainState;
pub use time::Time;
pub use validators::{Validator, ValidatorSet};
