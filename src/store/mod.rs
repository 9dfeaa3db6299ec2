//! The store: blocks as the bytes that came and were proven, chain state, and a built-in
//! application's state. One transaction of one database moves them together: what is long (blocks,
//! an application's longer values) lies in files beside the database (`segments`), is durable
//! before the transaction, and is there only when the transaction names it.
//!
//! # What a crash leaves behind
//! Every `Store::commit` is one durable transaction: after a kill it is there whole or not at all.
//! Stored height ≥ applied height at every instant; the blocks between are certified, start-up
//! revalidates and executes them, and nobody is served from them before.

use std::sync::Arc;

use bytes::Bytes;

use crate::chain::{ChainState, ConsensusParams, Header, ValidatorSet};
use crate::ids::{BlockId, Hash, Height};

#[cfg(test)]
#[path = "../../crates/testkit/src/store/conformance/mod.rs"]
pub mod conformance;
#[cfg(test)]
#[path = "../../crates/testkit/src/store/faulty.rs"]
pub mod faulty;
mod hashes;
#[cfg(feature = "lmdb")]
mod history;
#[cfg(feature = "lmdb")]
mod lmdb;
#[cfg(feature = "lmdb")]
mod lmdb_pages;
mod lock;
mod logic;
mod mem;
mod records;
mod results;
mod scan;
#[cfg(feature = "lmdb")]
mod segments;
mod spaced;
mod tables;
mod values;
mod write;

#[cfg(feature = "lmdb")]
pub use lmdb::{ChainMark, LmdbOptions, LmdbStore};
pub use lock::WriterLock;
pub use mem::MemStore;
#[cfg(all(test, feature = "lmdb"))]
pub(crate) use segments::reads_from_memory;
pub use spaced::{Buffer, Gaps, Spaced, SpacedBlock};
pub use write::PRUNE_STEP;

/// Why the store could not do what it was told.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The database or the disk failed. Only the next start tells whether the batch in hand is
    /// stored, as a sync that fails may have reached the disk. Nothing is tried again.
    #[error("{doing}: {why}")]
    Failed {
        /// The failed operation, with its height where it has one.
        doing: String,
        /// The database's words.
        why: String,
    },
    /// No space left, on the disk or in the map.
    #[error("{doing}: no space left: {why}")]
    Full {
        /// The failed operation.
        doing: String,
        /// The database's words.
        why: String,
    },
    /// A record fails its checksum or does not decode.
    #[error("corrupt record: {0}")]
    Corrupt(String),
    /// Another process has the store open for writing.
    #[error("{0}")]
    Locked(String),
    /// The store was written by another version of this program, or belongs to another chain.
    #[error("{0}")]
    Foreign(String),
}

/// One stored block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockRecord {
    /// Its height.
    pub height: Height,
    /// Its proven id.
    pub id: BlockId,
    /// The encoded `tendermint.types.Block`.
    pub raw: Bytes,
    /// The encoded `tendermint.types.ExtendedCommit`, judged, where extensions are enabled.
    pub ext_raw: Option<Bytes>,
}

/// Heights that the store holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// The lowest height whose block is there; 0 when none is.
    pub base: Height,
    /// The highest height whose block is there.
    pub stored: Height,
    /// The height of the chain state; only blocks up to it are advertised and served.
    pub applied: Height,
}

/// A key of a built-in application and its new value; `None` deletes it.
pub type AppWrite = (Bytes, Option<Bytes>);

/// Changes for one durable transaction. Everything is optional.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Blocks, ascending, the first right above what is stored (or any, into an empty store).
    pub blocks: Vec<BlockRecord>,
    /// Blocks that the next batches will bring, in this order: a hint, of which the store shows
    /// nothing. Where each batch brings one block, it lets the bytes of several become durable at
    /// once. Nothing is lost when other blocks come.
    pub ahead: Vec<BlockRecord>,
    /// The fully verified commit for a height, encoded: the one that consensus starts from.
    pub seen_commit: Option<(Height, Bytes)>,
    /// The chain state, which makes its height the applied one. The sets and params it names are
    /// recorded for their heights.
    pub state: Option<Arc<ChainState>>,
    /// Sets that were in force at heights between the last state written and `state`, when updates
    /// came or a checkpoint is due (`SET_CHECKPOINT`): height and set.
    pub validators: Vec<(Height, Arc<ValidatorSet>)>,
    /// Params that came into force at heights between the last state written and `state`: height
    /// and params.
    pub params: Vec<(Height, ConsensusParams)>,
    /// `FinalizeBlock`'s response of a height, encoded, for recovery: written before an application
    /// is told to commit it.
    pub results: Option<(Height, Bytes)>,
    /// Responses to `FinalizeBlock` to keep, encoded, by height.
    pub kept_results: Vec<(Height, Bytes)>,
    /// Identities of committed evidence and the heights of the evidence, so that none is committed
    /// twice.
    pub evidence: Vec<(Hash, Height)>,
    /// A built-in application's writes; of several to one key the last counts.
    pub app: Vec<AppWrite>,
    /// Drop blocks below this height, but keep headers, commits and sets from the second height on
    /// (evidence age). The last applied block always stays. One commit drops at most `PRUNE_STEP`
    /// heights, or twice as many as it brings blocks, so that no transaction is long: say it with
    /// every batch, and the base follows.
    pub prune: Option<(Height, Height)>,
    /// Drop kept responses below this height, as many at a time as `prune` drops blocks. Those of
    /// pruned blocks go with them.
    pub prune_results: Option<Height>,
}

/// Heights between two records of a validator set that does not change: the proposer priorities of
/// any height are then not far from recorded ones. It is CometBFT's number, since priorities depend
/// on it.
pub const SET_CHECKPOINT: u64 = 100_000;

/// A durable store of one chain. All calls but `blocks_in_memory` block; call them from blocking
/// threads.
///
/// Implementations must pass `blocksync_testkit::store::conformance`.
pub trait Store: Send + Sync + 'static {
    /// Range of stored heights.
    ///
    /// # Errors
    /// When the database fails; so for all methods.
    fn span(&self) -> Result<Span, StoreError>;

    /// A block; `None` when it is not there.
    ///
    /// # Errors
    /// `Corrupt` when its checksum does not match.
    fn block(&self, height: Height) -> Result<Option<BlockRecord>, StoreError>;

    /// Consecutive blocks from `from` up: at most `count` of them, and no further one once
    /// `max_bytes` are reached (the first is always read). Stops before a height that is missing or
    /// corrupt.
    ///
    /// # Errors
    /// When the first is corrupt, or the database fails.
    fn blocks(
        &self,
        from: Height,
        count: u32,
        max_bytes: usize,
    ) -> Result<Vec<BlockRecord>, StoreError>;

    /// The same blocks, or the first of them, with room before their parts, if they can be had
    /// without waiting for a disk; `None` when that cannot be told. The one method that async tasks
    /// may call.
    fn blocks_in_memory(
        &self,
        _from: Height,
        _count: u32,
        _max_bytes: usize,
        _gaps: Gaps,
    ) -> Option<Spaced> {
        None
    }

    /// The header and id of a height, also of a pruned block within evidence age.
    ///
    /// # Errors
    /// As for all.
    fn header(&self, height: Height) -> Result<Option<(Header, BlockId)>, StoreError>;

    /// The encoded commit for a height: from the block above, or the seen commit.
    ///
    /// # Errors
    /// As for all.
    fn commit_for(&self, height: Height) -> Result<Option<Bytes>, StoreError>;

    /// The seen commit of exactly this height, when it is the one kept.
    ///
    /// # Errors
    /// As for all.
    fn seen_commit(&self, height: Height) -> Result<Option<Bytes>, StoreError>;

    /// The chain state; `None` before the genesis state was written.
    ///
    /// # Errors
    /// As for all.
    fn state(&self) -> Result<Option<ChainState>, StoreError>;

    /// The set that signed, or will sign, a height, up to two above the applied one. Its members
    /// are those of the height; its proposer priorities are those of the height at which it came
    /// into force (`state` has the exact ones).
    ///
    /// # Errors
    /// As for all.
    fn validators(&self, height: Height) -> Result<Option<Arc<ValidatorSet>>, StoreError>;

    /// The record behind `validators`: the height at which the set was recorded, and the set with
    /// the priorities of that height. The priorities of the height asked for follow by one call of
    /// `ValidatorSet::increment`, as in CometBFT.
    ///
    /// # Errors
    /// As for all.
    fn recorded_validators(
        &self,
        height: Height,
    ) -> Result<Option<(Height, Arc<ValidatorSet>)>, StoreError>;

    /// The params in force for a height, up to one above the applied one.
    ///
    /// # Errors
    /// As for all.
    fn params(&self, height: Height) -> Result<Option<ConsensusParams>, StoreError>;

    /// The encoded `FinalizeBlock` response last written, with its height.
    ///
    /// # Errors
    /// As for all.
    fn results(&self) -> Result<Option<(Height, Bytes)>, StoreError>;

    /// The encoded `FinalizeBlock` response that is kept for a height.
    ///
    /// # Errors
    /// As for all.
    fn results_at(&self, height: Height) -> Result<Option<Bytes>, StoreError>;

    /// The height of the stored block whose header has this hash.
    ///
    /// # Errors
    /// As for all.
    fn height_of(&self, hash: &Hash) -> Result<Option<Height>, StoreError>;

    /// Whether evidence of this identity has been committed.
    ///
    /// # Errors
    /// As for all.
    fn has_evidence(&self, identity: &Hash) -> Result<bool, StoreError>;

    /// A value of the built-in application.
    ///
    /// # Errors
    /// As for all.
    fn app_get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError>;

    /// All of the built-in application's pairs whose key begins with `prefix`, ascending.
    ///
    /// # Errors
    /// As for all.
    fn app_scan(&self, prefix: &[u8]) -> Result<Vec<(Bytes, Bytes)>, StoreError>;

    /// Writes a batch as one transaction and makes it durable before it returns.
    ///
    /// # Errors
    /// When it fails nothing of the batch is there. A failure to write or to sync is final: the
    /// caller stops.
    fn commit(&self, batch: Batch) -> Result<(), StoreError>;
}

/// A shared store is a store.
impl<S: Store + ?Sized> Store for Arc<S> {
    fn span(&self) -> Result<Span, StoreError> {
        (**self).span()
    }

    fn block(&self, height: Height) -> Result<Option<BlockRecord>, StoreError> {
        (**self).block(height)
    }

    fn blocks(
        &self,
        from: Height,
        count: u32,
        max_bytes: usize,
    ) -> Result<Vec<BlockRecord>, StoreError> {
        (**self).blocks(from, count, max_bytes)
    }

    fn blocks_in_memory(
        &self,
        from: Height,
        count: u32,
        max_bytes: usize,
        gaps: Gaps,
    ) -> Option<Spaced> {
        (**self).blocks_in_memory(from, count, max_bytes, gaps)
    }

    fn header(&self, height: Height) -> Result<Option<(Header, BlockId)>, StoreError> {
        (**self).header(height)
    }

    fn commit_for(&self, height: Height) -> Result<Option<Bytes>, StoreError> {
        (**self).commit_for(height)
    }

    fn seen_commit(&self, height: Height) -> Result<Option<Bytes>, StoreError> {
        (**self).seen_commit(height)
    }

    fn state(&self) -> Result<Option<ChainState>, StoreError> {
        (**self).state()
    }

    fn validators(&self, height: Height) -> Result<Option<Arc<ValidatorSet>>, StoreError> {
        (**self).validators(height)
    }

    fn recorded_validators(
        &self,
        height: Height,
    ) -> Result<Option<(Height, Arc<ValidatorSet>)>, StoreError> {
        (**self).recorded_validators(height)
    }

    fn params(&self, height: Height) -> Result<Option<ConsensusParams>, StoreError> {
        (**self).params(height)
    }

    fn results(&self) -> Result<Option<(Height, Bytes)>, StoreError> {
        (**self).results()
    }

    fn results_at(&self, height: Height) -> Result<Option<Bytes>, StoreError> {
        (**self).results_at(height)
    }

    fn height_of(&self, hash: &Hash) -> Result<Option<Height>, StoreError> {
        (**self).height_of(hash)
    }

    fn has_evidence(&self, identity: &Hash) -> Result<bool, StoreError> {
        (**self).has_evidence(identity)
    }

    fn app_get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        (**self).app_get(key)
    }

    fn app_scan(&self, prefix: &[u8]) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        (**self).app_scan(prefix)
    }

    fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        (**self).commit(batch)
    }
}
