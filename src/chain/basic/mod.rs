//! The checks of a block that need no state: what `ValidateBasic` is in CometBFT (`protocol.md`
//! 5.8, 5.9).
//!
//! Lengths of hashes and addresses, flags and negative heights are not looked at here: the types
//! cannot hold wrong ones, the conversion from the wire refuses them.

mod block;
mod commit;
mod error;
mod evidence;

pub(super) use error::show;
pub use error::{BasicError, EvidenceBasicError, Unequal};

/// The block protocol version of all supported versions of CometBFT.
pub const BLOCK_PROTOCOL: u64 = 11;
/// Longest chain id in bytes.
pub const MAX_CHAIN_ID: usize = 50;
/// Largest vote extension in bytes, 1 MiB.
pub const MAX_EXTENSION: usize = 1 << 20;
/// Longest signature over a vote extension in bytes.
pub const MAX_EXTENSION_SIGNATURE: usize = super::commit::MAX_SIGNATURE;
