//! Heights, hashes, peers and faults: the words that every layer of blocksync shares.
//!
//! Embedders use them as `blocksync::ids` and `blocksync::fault`.

pub mod fault;
pub mod ids;
