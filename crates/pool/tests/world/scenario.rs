//! One world's chain, peers and knobs.

use blocksync_pool::PoolConfig;

use super::{MS, PeerSpec, SECOND};

#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub seed: u64,
    pub config: PoolConfig,
    pub tip: u64,
    pub initial: u64,
    pub block_bytes: u32,
    pub peers: Vec<PeerSpec>,
    /// Heights above the applied one whose sets the verifier knows.
    pub known_sets: u64,
    pub verify_time: u64,
    pub apply_time: u64,
    pub limit: u64,
    pub check_every: u64,
    /// Bytes a second that our own link takes from all peers together.
    pub downlink: u64,
    /// Microseconds in which the chain grows by a block; 0 for never.
    pub grows: u64,
}

impl Scenario {
    pub(crate) fn new(seed: u64, tip: u64, peers: Vec<PeerSpec>) -> Self {
        Scenario {
            seed,
            config: PoolConfig::default(),
            tip,
            initial: 1,
            block_bytes: 19_000,
            peers,
            known_sets: 1_000_000,
            verify_time: MS,
            apply_time: 2 * MS,
            limit: 600 * SECOND,
            check_every: 1,
            downlink: u64::MAX,
            grows: 0,
        }
    }
}
