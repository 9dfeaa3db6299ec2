//! `genesis.json`, read exactly as CometBFT reads it (`comet-protocol.md` 6.1).

use bytes::Bytes;

use super::params::ConsensusParams;
use super::time::Time;
use super::validators::Validator;
use crate::ids::Height;

/// A genesis document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Genesis {
    /// Absent, null or year 1 in the file is the reader's clock (CometBFT does the same): `None`.
    pub genesis_time: Option<Time>,
    /// 1 to 50 bytes.
    pub chain_id: String,
    /// 1 or more.
    pub initial_height: Height,
    /// Given or default.
    pub params: ConsensusParams,
    /// In the file's order; may be empty when the application names them.
    pub validators: Vec<Validator>,
    /// The application's hash before the first block.
    pub app_hash: Bytes,
    /// Raw JSON, byte for byte; empty when absent or null.
    pub app_state: Bytes,
}
