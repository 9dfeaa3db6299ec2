//! Reads and writes the databases of a CometBFT node's home: what `blocksync` has synced, given to
//! a stock node, and back.
//!
//! [`export`] writes `blockstore.db`, `state.db` and `evidence.db` of a store; [`import`] makes a
//! store of them, everything proven that can be. Neither holds a database in memory.
#![deny(unsafe_code)]

mod export;
mod home;
mod import;
pub mod leveldb;
mod records;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use blocksync::ids::Height;
use blocksync::store::StoreError;

pub use export::{Export, Exported, export};
pub use home::CometHome;
pub use import::{Chain, Import, Imported, chain_of, import};
pub use leveldb::DbError;

/// Why a home could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// Our own store failed.
    #[error("the store: {0}")]
    Store(#[from] StoreError),
    /// A database of the home failed, is damaged or is in use.
    #[error("{0}")]
    Db(#[from] DbError),
    /// The home is not one that we can take.
    #[error("{0}")]
    Unfit(String),
    /// The home's content is not a chain.
    #[error("{path}, height {height}: {why}")]
    Wrong {
        /// The database.
        path: PathBuf,
        /// The height.
        height: Height,
        /// Expected and found.
        why: String,
    },
    /// The caller wanted no more.
    #[error("stopped")]
    Stopped,
}

/// How far it is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Blocks that are done.
    pub done: u64,
    /// All of them.
    pub total: u64,
}

/// Hears of progress, after every few blocks; `false` stops.
pub type OnProgress<'a> = &'a mut dyn FnMut(Progress) -> bool;
