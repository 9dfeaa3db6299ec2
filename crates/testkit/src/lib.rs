//! Chains with real keys, scripted peers and faulty stores, for tests of blocksync and of what
//! embeds it.
#![deny(unsafe_code)]

pub mod app;
pub mod baseapp;
pub mod chain;
pub mod chaingen;
pub mod made;
pub mod peers;
pub mod recorded;
pub mod store;
