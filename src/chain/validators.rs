//! Validator sets, their updates and proposer priority (`comet-protocol.md` 5.6).

use std::sync::Arc;

use super::key::PublicKey;
use crate::ids::{Address, Hash};

/// The largest total power of a set: (2^63−1)/8.
pub const MAX_TOTAL_POWER: i64 = i64::MAX / 8;

/// A member of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Validator {
    /// Derived from the key.
    pub address: Address,
    /// The key.
    pub key: PublicKey,
    /// Voting power, 1 or more.
    pub power: i64,
}

/// A validator set in canonical order, with proposer priorities. Members are shared: a copy with other priorities costs 8 bytes a validator.
#[derive(Clone, Debug)]
pub struct ValidatorSet {
    members: Arc<Members>,
    priorities: Vec<i64>,
    proposer: Option<usize>,
}

/// What does not change from height to height while no validator update comes.
#[derive(Debug)]
struct Members {
    list: Vec<Validator>,
    /// Indices into `list`, ordered by address.
    by_address: Vec<u32>,
    total_power: i64,
    hash: Hash,
}
