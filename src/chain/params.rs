//! Consensus parameters (`comet-protocol.md` 5.1, 6.1, 6.3).

/// The parameters in force for a height.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsensusParams {
    /// Largest block in bytes; −1 is the protocol's largest.
    pub block_max_bytes: i64,
    /// Gas in a block; −1 is no limit.
    pub block_max_gas: i64,
    /// Evidence older than this many blocks, and than the duration, is expired.
    pub evidence_max_age_num_blocks: i64,
    /// Nanoseconds.
    pub evidence_max_age_duration: i64,
    /// Largest evidence list in a block, in bytes.
    pub evidence_max_bytes: i64,
    /// Names of the key types that a new validator may have.
    pub pub_key_types: Vec<String>,
    /// The application's version.
    pub version_app: u64,
    /// From this height on precommits carry vote extensions; 0 is never.
    pub vote_extensions_enable_height: i64,
}
