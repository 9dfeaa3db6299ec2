//! What the application is given for a block and what it answers (`comet-protocol.md` 6.3, 7.2, 7.4).

use bytes::Bytes;

use super::commit::BlockIdFlag;
use super::key::PublicKey;
use super::time::Time;
use crate::ids::{Address, Hash, Height};

/// The commit of the block before, for the application: every validator of that height, in set order, absent ones included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommitInfo {
    /// The round of the last commit.
    pub round: i32,
    /// Address, power, and what the validator did.
    pub votes: Vec<(Address, i64, BlockIdFlag)>,
}

/// One offender, for the application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misbehavior {
    /// 1 duplicate vote, 2 light-client attack.
    pub kind: i32,
    /// Who.
    pub address: Address,
    /// Its power then.
    pub power: i64,
    /// When, as a height.
    pub height: Height,
    /// When.
    pub time: Time,
    /// The set's power then.
    pub total_voting_power: i64,
}

/// `FinalizeBlock`'s request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FinalizeBlock {
    /// Transactions in order.
    pub txs: Vec<Bytes>,
    /// The commit of the block before.
    pub decided_last_commit: CommitInfo,
    /// Offenders, in block order.
    pub misbehavior: Vec<Misbehavior>,
    /// The block's hash.
    pub hash: Hash,
    /// Its height.
    pub height: Height,
    /// Its time.
    pub time: Time,
    /// From its header.
    pub next_validators_hash: Option<Hash>,
    /// From its header.
    pub proposer_address: Address,
}

/// What of a transaction's result enters `last_results_hash`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TxResult {
    /// 0 is success.
    pub code: u32,
    /// The result.
    pub data: Bytes,
    /// Gas asked for.
    pub gas_wanted: i64,
    /// Gas used.
    pub gas_used: i64,
}

/// A validator's new power; 0 removes it. The key is checked when the update is applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidatorUpdate {
    /// The key; an unsupported or malformed one is named in the error when the update is applied.
    pub key: UpdateKey,
    /// New power.
    pub power: i64,
}

/// A key as an application gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpdateKey {
    /// Of a type that we know and of its length.
    Known(PublicKey),
    /// Of a type that we know but of another length: type name and length.
    WrongLength(&'static str, usize),
    /// Of a type that we cannot verify: its name.
    Unsupported(String),
}

/// A change of consensus params: groups that are present replace the whole group (`comet-protocol.md` 6.3).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ParamsUpdate {
    /// max_bytes, max_gas.
    pub block: Option<(i64, i64)>,
    /// max_age_num_blocks, max_age_duration in nanoseconds, max_bytes.
    pub evidence: Option<(i64, i64, i64)>,
    /// Names as bytes.
    pub pub_key_types: Option<Vec<Bytes>>,
    /// app.
    pub version_app: Option<u64>,
    /// vote_extensions_enable_height.
    pub vote_extensions_enable_height: Option<i64>,
}

/// `FinalizeBlock`'s response, without what block sync does not use (events, logs).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FinalizeResponse {
    /// One for each transaction.
    pub tx_results: Vec<TxResult>,
    /// Changes to the validator set, in force two heights up.
    pub validator_updates: Vec<ValidatorUpdate>,
    /// Changes to the params, in force from the next height; `Some` of nothing still sets the application's version.
    pub param_updates: Option<ParamsUpdate>,
    /// The application's hash after the block.
    pub app_hash: Bytes,
}
