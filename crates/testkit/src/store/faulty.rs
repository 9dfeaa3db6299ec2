//! A store that fails on purpose, for tests of what is built on one: the n-th commit finds no space
//! or a broken disk, or the process is "killed" there, with that transaction lost or kept.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use blocksync::chain::{ChainState, ConsensusParams, Header, ValidatorSet};
use blocksync::ids::{BlockId, Hash, Height};
use blocksync::store::{Batch, BlockRecord, Span, Store, StoreError};

/// A failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accident {
    /// No space is left; nothing is written. So it stays for every later commit.
    NoSpace,
    /// The disk fails; nothing is written. So it stays for every later commit.
    Io,
    /// Killed before the transaction was durable. Nothing works any more until `restart`.
    KilledBefore,
    /// Killed after the transaction was durable but before anybody was told. Nothing works any more
    /// until `restart`.
    KilledAfter,
}

/// Wraps a store; without a plan it passes everything through and counts.
#[derive(Debug)]
pub struct FaultyStore<S> {
    inner: Arc<S>,
    /// At which commit, counted from 1 over the wrapper's life, what happens.
    plan: Mutex<Option<(u64, Accident)>>,
    commits: AtomicU64,
    dead: AtomicBool,
    ahead: Mutex<Ahead>,
}

/// Blocks that were given ahead of their time, as a store takes them.
#[derive(Debug, Default)]
struct Ahead {
    next: VecDeque<BlockRecord>,
    used: u64,
}

impl Ahead {
    fn note(&mut self, batch: &Batch) {
        for block in &batch.blocks {
            match self.next.pop_front() {
                Some(expected) if expected == *block => self.used += 1,
                _ => self.next.clear(),
            }
        }
        if self.next.is_empty() {
            self.next.extend(batch.ahead.iter().cloned());
        }
    }
}

impl<S: Store> FaultyStore<S> {
    /// A wrapper without a plan.
    #[must_use]
    pub fn new(inner: Arc<S>) -> Self {
        FaultyStore {
            inner,
            plan: Mutex::new(None),
            commits: AtomicU64::new(0),
            dead: AtomicBool::new(false),
            ahead: Mutex::default(),
        }
    }

    /// The same, with an accident at the `nth` commit from now on, counted from 1.
    #[must_use]
    pub fn with_plan(inner: Arc<S>, nth: u64, accident: Accident) -> Self {
        let store = Self::new(inner);
        store.plan(nth, accident);
        store
    }

    /// An accident at the `nth` commit from now on, counted from 1.
    pub fn plan(&self, nth: u64, accident: Accident) {
        let at = self.commits() + nth;
        *self.plan.lock().unwrap_or_else(PoisonError::into_inner) = Some((at, accident));
    }

    /// Commits that were tried so far, the failed ones too.
    #[must_use]
    pub fn commits(&self) -> u64 {
        self.commits.load(Ordering::Acquire)
    }

    /// Blocks that had been given ahead of the batch that brought them.
    #[must_use]
    pub fn given_ahead(&self) -> u64 {
        self.ahead
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .used
    }

    /// Whether the "process" has been killed.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }

    /// The store as a new process finds it, without a plan.
    #[must_use]
    pub fn restart(&self) -> Self {
        Self::new(self.inner.clone())
    }

    /// The store beneath.
    #[must_use]
    pub fn inner(&self) -> &Arc<S> {
        &self.inner
    }

    fn alive(&self) -> Result<&S, StoreError> {
        if self.is_dead() {
            return Err(killed());
        }
        Ok(&self.inner)
    }

    /// Outcome of the commit that is being tried.
    fn due(&self) -> Option<Accident> {
        let nth = self.commits.fetch_add(1, Ordering::AcqRel) + 1;
        let plan = *self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, accident) = plan?;
        // A full or broken disk does not mend itself; a kill happens once, and `dead` remembers it.
        let lasts = matches!(accident, Accident::NoSpace | Accident::Io);
        (nth == at || (lasts && nth > at)).then_some(accident)
    }
}

fn killed() -> StoreError {
    StoreError::Failed {
        doing: "using the store".to_owned(),
        why: "the process was killed".to_owned(),
    }
}

impl<S: Store> Store for FaultyStore<S> {
    fn span(&self) -> Result<Span, StoreError> {
        self.alive()?.span()
    }

    fn block(&self, height: Height) -> Result<Option<BlockRecord>, StoreError> {
        self.alive()?.block(height)
    }

    fn blocks(
        &self,
        from: Height,
        count: u32,
        max_bytes: usize,
    ) -> Result<Vec<BlockRecord>, StoreError> {
        self.alive()?.blocks(from, count, max_bytes)
    }

    fn header(&self, height: Height) -> Result<Option<(Header, BlockId)>, StoreError> {
        self.alive()?.header(height)
    }

    fn commit_for(&self, height: Height) -> Result<Option<Bytes>, StoreError> {
        self.alive()?.commit_for(height)
    }

    fn seen_commit(&self, height: Height) -> Result<Option<Bytes>, StoreError> {
        self.alive()?.seen_commit(height)
    }

    fn state(&self) -> Result<Option<ChainState>, StoreError> {
        self.alive()?.state()
    }

    fn validators(&self, height: Height) -> Result<Option<Arc<ValidatorSet>>, StoreError> {
        self.alive()?.validators(height)
    }

    fn recorded_validators(
        &self,
        height: Height,
    ) -> Result<Option<(Height, Arc<ValidatorSet>)>, StoreError> {
        self.alive()?.recorded_validators(height)
    }

    fn params(&self, height: Height) -> Result<Option<ConsensusParams>, StoreError> {
        self.alive()?.params(height)
    }

    fn results(&self) -> Result<Option<(Height, Bytes)>, StoreError> {
        self.alive()?.results()
    }

    fn results_at(&self, height: Height) -> Result<Option<Bytes>, StoreError> {
        self.alive()?.results_at(height)
    }

    fn height_of(&self, hash: &Hash) -> Result<Option<Height>, StoreError> {
        self.alive()?.height_of(hash)
    }

    fn has_evidence(&self, identity: &Hash) -> Result<bool, StoreError> {
        self.alive()?.has_evidence(identity)
    }

    fn app_get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.alive()?.app_get(key)
    }

    fn app_scan(&self, prefix: &[u8]) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        self.alive()?.app_scan(prefix)
    }

    fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        let inner = self.alive()?;
        self.ahead
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .note(&batch);
        match self.due() {
            None => inner.commit(batch),
            Some(Accident::NoSpace) => Err(StoreError::Full {
                doing: "committing a batch".to_owned(),
                why: "No space left on device (os error 28)".to_owned(),
            }),
            Some(Accident::Io) => Err(StoreError::Failed {
                doing: "committing a batch".to_owned(),
                why: "Input/output error (os error 5)".to_owned(),
            }),
            Some(Accident::KilledBefore) => {
                self.dead.store(true, Ordering::Release);
                Err(killed())
            }
            Some(Accident::KilledAfter) => {
                let kept = inner.commit(batch);
                self.dead.store(true, Ordering::Release);
                kept.and(Err(killed()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance::{self, sample};
    use blocksync::store::MemStore;

    fn step(height: u64) -> Batch {
        Batch {
            blocks: sample::blocks(1, height..=height),
            ..Batch::default()
        }
    }

    #[test]
    fn without_a_plan_it_is_the_store_beneath() {
        conformance::run(|| FaultyStore::new(Arc::new(MemStore::new())));
    }

    #[test]
    fn the_planned_commit_fails_and_leaves_what_was_said() {
        for (accident, stored, dead) in [
            (Accident::NoSpace, 1, false),
            (Accident::Io, 1, false),
            (Accident::KilledBefore, 1, true),
            (Accident::KilledAfter, 2, true),
        ] {
            let store = FaultyStore::with_plan(Arc::new(MemStore::new()), 2, accident);
            store.commit(step(1)).unwrap();
            let error = store.commit(step(2)).unwrap_err();
            assert_eq!(
                matches!(error, StoreError::Full { .. }),
                accident == Accident::NoSpace
            );
            assert_eq!(store.is_dead(), dead, "{accident:?}");
            assert_eq!(store.span().is_err(), dead, "{accident:?}");
            store.commit(step(2)).unwrap_err();
            let again = store.restart();
            assert_eq!(again.span().unwrap().stored, sample::h(stored));
            again.commit(step(stored + 1)).unwrap();
        }
    }
}
