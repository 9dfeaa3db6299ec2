//! The wire protocol: the block-sync messages, their framing, and the conversion from bytes to
//! `chain`'s types.
//!
//! Foreign bytes pass three gates, each cheaper than the next: `codec` bounds a message before its
//! bytes are buffered, `guard` looks at the message's outline before anything is decoded, and
//! `decode` parses it, without copying transactions, by the rules of CometBFT's decoder.
//! `canonical` tells whether bytes are the encoding that CometBFT would produce; only such bytes
//! can be served to it.
//!
//! Reading order: `message`, `guard`, `decode`; `reader` and `parse` are what they are made of.

mod advertisement;
mod cancel;
#[doc(hidden)]
pub mod canonical;
#[doc(hidden)]
pub mod codec;
#[doc(hidden)]
pub mod convert;
#[doc(hidden)]
pub mod decode;
mod error;
mod evidence;
#[doc(hidden)]
pub mod fuzzing;
#[doc(hidden)]
pub mod guard;
mod identity;
pub mod message;
mod parse;
mod reader;
#[cfg(test)]
mod tests;

#[doc(inline)]
pub use advertisement::{
    Advertisement, AdvertisementRequest, Audience, Claim, MAX_ADVERTISEMENT, Nonce, Signer, node_id,
};
#[doc(inline)]
pub use cancel::Cancel;
#[doc(inline)]
pub use error::{Problem, WireError};
#[doc(inline)]
pub use identity::ChainIdentity;
#[doc(inline)]
pub use message::{BlockResponse, Message};

/// The protobuf messages, generated from `proto/`.
#[doc(hidden)]
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod proto {
    include!(concat!(env!("OUT_DIR"), "/protos.rs"));
    pub use self::tendermint::*;
}

/// The most signatures that a commit or extended commit may hold (CometBFT's `MaxVotesCount`;
/// `protocol.md` 4.5).
pub const MAX_SIGNATURES: usize = 10_000;
/// The largest block message that CometBFT takes: a block of 100 MiB and its framing (`protocol.md`
/// 4.6, 5.10).
pub const MAX_BLOCK_MESSAGE: usize = 104_857_605;
/// The largest message that carries no block. CometBFT's have at most 24 bytes; the rest is room
/// for optional fields.
pub const MAX_SMALL_MESSAGE: usize = 1024;
/// The largest status: one with an advertisement that was asked for.
pub const MAX_STATUS_MESSAGE: usize = MAX_SMALL_MESSAGE + MAX_ADVERTISEMENT;

/// Limits on a message, checked before memory is spent on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Largest message that carries a block, in bytes.
    pub block_message: usize,
    /// Largest message of any other kind but a status, in bytes.
    pub small_message: usize,
    /// Largest status, in bytes. One above `small_message` is taken where a proof was asked for.
    pub status_message: usize,
    /// Most signatures in the last commit, and in the extended commit, of one message.
    pub signatures: usize,
    /// Bytes of memory that decoded lists (transactions, signatures, evidence, validators) may take
    /// for any message; a longer one may take four times its length. A block of a million empty
    /// transactions stays below.
    pub decoded_floor: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            block_message: MAX_BLOCK_MESSAGE,
            small_message: MAX_SMALL_MESSAGE,
            status_message: MAX_STATUS_MESSAGE,
            signatures: MAX_SIGNATURES,
            decoded_floor: 32 << 20,
        }
    }
}
