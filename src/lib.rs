//! Block sync for chains of the Tendermint/CometBFT family.
#![deny(unsafe_code)]

pub mod app;
pub mod chain;
#[doc(hidden)]
pub mod chaingen;
pub mod fault;
pub mod ids;
pub mod link;
pub mod p2p;
pub mod pool;
pub mod service;
pub mod store;
pub mod wire;
