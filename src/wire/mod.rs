//! What goes over the wire.

/// The protobuf messages, generated from `proto/`.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod proto {
    include!(concat!(env!("OUT_DIR"), "/protos.rs"));
    pub use self::tendermint::*;
}
