//! A block, its header and what identifies it (`comet-protocol.md` 5.1–5.4, 5.9).

use bytes::Bytes;

use super::commit::{Commit, ExtendedCommit};
use super::evidence::Evidence;
use super::time::Time;
use crate::ids::{Address, BlockId, Hash, Height};

/// A block's header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Block protocol version; 11.
    pub version_block: u64,
    /// The application's version.
    pub version_app: u64,
    /// At most 50 bytes; Go does not check that they are UTF-8.
    pub chain_id: Bytes,
    /// The height, 1 or more.
    pub height: Height,
    /// The block's time.
    pub time: Time,
    /// The block before; zero in the first block.
    pub last_block_id: BlockId,
    /// Root over the signatures of the last commit. For all hashes here: absent is an empty byte string on the wire.
    pub last_commit_hash: Option<Hash>,
    /// Root over the transactions' hashes.
    pub data_hash: Option<Hash>,
    /// The set that signs this height.
    pub validators_hash: Option<Hash>,
    /// The set that signs the next height.
    pub next_validators_hash: Option<Hash>,
    /// Hash of the consensus params.
    pub consensus_hash: Option<Hash>,
    /// The application's hash after the block before; of any length.
    pub app_hash: Bytes,
    /// Root over the results of the block before.
    pub last_results_hash: Option<Hash>,
    /// Root over the evidence.
    pub evidence_hash: Option<Hash>,
    /// Who proposed it.
    pub proposer_address: Address,
}

/// A block that has passed the stateless checks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The header.
    pub header: Header,
    /// The transactions, in order.
    pub txs: Vec<Bytes>,
    /// Evidence of misbehaviour.
    pub evidence: Vec<Evidence>,
    /// The commit for the block before; empty in the first block.
    pub last_commit: Commit,
}

/// A block as it came: decoded, with its id computed from the very bytes that came, which are what is stored and served.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// The decoded block.
    pub block: Block,
    /// Header hash, and part set of `raw`.
    pub id: BlockId,
    /// The encoded `tendermint.types.Block`.
    pub raw: Bytes,
    /// The extended commit that came with it, not yet judged.
    pub ext_commit: Option<ExtendedCommit>,
    /// The encoded `tendermint.types.ExtendedCommit` that came with it.
    pub ext_raw: Option<Bytes>,
    /// The commit for this very block, which our own servers and exports send with the last one; not yet judged.
    pub seen_commit: Option<Commit>,
    /// Whether `raw` is in the canonical encoding. One that is not can be used only when its part set is the certified one.
    pub canonical: bool,
}

impl Fetched {
    /// The block's height.
    #[must_use]
    pub fn height(&self) -> Height {
        self.block.header.height
    }
}
