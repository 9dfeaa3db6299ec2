//! Writes of blocks that begin while the application still commits the block below.
//!
//! W(H+1) (`external`) holds the block H+1 and the state after H, which is known when the
//! application has executed H. It begins then, so that it has the time of two calls, `Commit` H and
//! `FinalizeBlock` H+1, before `Commit` H+1 needs it.
//!
//! A kill may leave the store one height ahead of the application then, where `Commit` H was not
//! reached. Start-up knows that from a loss of power, and executes H again. It begins early only
//! where nothing has to be waited for: what needs a look at the store, or a commit that nobody has
//! verified yet, has its turn after `Commit`.

use std::sync::Arc;

use super::checks;
use super::executor::{Executor, Job, ReceivedBlock};
use crate::app::App;
use crate::chain::{ChainState, Fetched};
use crate::ids::Height;
use crate::store::Batch;

/// A write that has begun before its turn.
pub(super) struct Early {
    /// Height of its block.
    pub(super) height: Height,
    /// State after the block below, which it makes durable.
    below: Arc<ChainState>,
}

impl<A: App> Executor<A> {
    /// Begins to write the n-th block of a job with the state after the block below it, which has
    /// been executed and is about to be committed, if nothing has to be waited for.
    pub(super) fn begin_early(&mut self, below: &Fetched, (job, n): (&Job, usize)) {
        // With the last of a job a commit is stored that is to be verified.
        let Some(copy) = job.blocks.get(n).filter(|_| n + 1 < job.blocks.len()) else {
            return;
        };
        // The block above is in the same job, and so proven: it settles the state's hash.
        let Some(after) = self.executing.as_ref().map(|e| Arc::new(e.after.clone())) else {
            return;
        };
        if self.stop.is_cancelled() || self.committing.is_some() || !self.is_judged(&after, copy) {
            return;
        }
        self.add_to_batch(below, &after);
        let above = self.above(job, n);
        let ahead = self.jobs.ahead(&job.blocks[n..]);
        let arrived = Batch {
            ahead,
            ..Batch::default()
        };
        self.begin_write(&copy.block, arrived, above.as_ref());
        self.jobs.early = Some(Early {
            height: copy.meta.height,
            below: after,
        });
    }

    /// Whether a copy is good on top of this state, as far as can be told at once.
    fn is_judged(&self, state: &ChainState, copy: &ReceivedBlock) -> bool {
        let block = &copy.block;
        let now = (self.config.clock)();
        block.evidence().is_empty()
            && checks::extended_commit_is_settled(state, block)
            && checks::trusted(&self.config, block).is_ok()
            && checks::against_state(state, block, &self.config, now).is_ok()
    }

    /// Whether the write of this block has begun, and the block been judged.
    pub(super) fn has_begun(&self, height: Height) -> bool {
        let early = self.jobs.early.as_ref();
        early.is_some_and(|early| early.height == height)
    }

    /// The write is not early any more, or is to come again.
    pub(super) fn forget_early(&mut self) {
        self.jobs.early = None;
    }

    /// The block below is not to be committed: its state is written nevertheless, and is ours from
    /// now on. The application is behind it.
    pub(super) fn keep_early(&mut self) {
        if let Some(Early { below, .. }) = self.jobs.early.take()
            && below.last_height > self.state.last_height
        {
            self.follow(below);
        }
    }
}

#[cfg(test)]
#[path = "early_tests.rs"]
mod tests;
