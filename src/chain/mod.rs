//! The chain's rules: data types, their encodings and hashes, commit verification, and the state
//! transition. Pure: no tokio, no clock, no I/O; the randomness of batch verification is passed in.
//!
//! Reading order: `block`, `commit`, `validators` are what moves over the wire; `state` is what a
//! node knows between two blocks; `basic` checks a block by itself; `verify` judges a commit
//! against a set; `validate` holds a block against the state.

pub mod abci;
mod aggregate;
#[doc(hidden)]
pub mod basic;
pub mod block;
pub mod commit;
#[doc(hidden)]
pub mod encode;
pub mod evidence;
#[doc(hidden)]
pub mod evidence_check;
pub mod execution;
pub mod genesis;
pub mod header;
pub mod height_proof;
pub mod key;
#[doc(hidden)]
pub mod median;
#[doc(hidden)]
pub mod merkle;
#[cfg(test)]
mod oracle;
pub mod params;
pub mod proof;
pub mod rules;
#[doc(hidden)]
pub mod signatures;
pub mod state;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
#[path = "../../crates/testkit/src/chain.rs"]
pub mod testkit;
pub mod time;
mod txs;
#[doc(hidden)]
pub mod validate;
pub mod validators;
#[doc(hidden)]
pub mod verify;

#[cfg(test)]
mod bera_test;
#[cfg(test)]
mod evidence_test;
#[cfg(test)]
mod key_test;
#[cfg(test)]
mod signatures_test;
#[cfg(test)]
mod validate_test;
#[cfg(test)]
mod vectors_test;
#[cfg(test)]
mod versions_test;

#[doc(inline)]
pub use abci::AbciVersion;
#[doc(inline)]
pub use block::{Block, Fetched};
#[doc(inline)]
pub use commit::{
    BlockIdFlag, Commit, CommitSig, ExtendedCommit, ExtendedCommitSig, Signature, VoteForm,
};
#[doc(inline)]
pub use evidence::{DuplicateVoteEvidence, Evidence, LightClientAttackEvidence, Misbehavior, Vote};
#[doc(inline)]
pub use execution::{CommitInfo, FinalizeBlock, FinalizeResponse, TxResult, ValidatorUpdate};
#[doc(inline)]
pub use genesis::Genesis;
#[doc(inline)]
pub use header::Header;
#[doc(inline)]
pub use key::PublicKey;
#[doc(inline)]
pub use params::ConsensusParams;
#[doc(inline)]
pub use rules::{RuleSchedule, Rules};
#[doc(inline)]
pub use state::ChainState;
#[doc(inline)]
pub use time::Time;
#[doc(inline)]
pub use txs::Txs;
#[doc(inline)]
pub use validators::{Validator, ValidatorSet};
