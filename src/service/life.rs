//! Life beside consensus: the hand-over and the way back, and the other way round, where a running
//! consensus takes what we prove.
//!
//! The store's only writer is in one place at a time: in the executor, in a [`HandOver`], or in an
//! [`Ingest`]. Consensus signs only with a `HandOver` in its hands, so a validator cannot sign
//! while blocks are synced, and the compiler sees to it.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tracing::Instrument as _;

use super::checks::Refusal;
use super::executor::{ExecEvent, Executor, ReceivedBlock};
use super::external::Jobs;
use super::status::SyncStart;
use super::trust::Trust;
use super::writer::Writer;
use super::{Handle, JOBS, Stopped, reactor};
use crate::app::App;
use crate::chain::{ChainState, Fetched};
use crate::ids::Height;
use crate::pool::LocalFault;
use crate::store::{Store, StoreError};

/// The commit for a chain's last block, as consensus needs it for the next one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LastCommit {
    /// None: the chain has no block yet.
    None,
    /// An encoded commit, fully verified.
    Commit(Bytes),
    /// An encoded extended commit, fully verified: vote extensions are enabled at this height.
    Extended(Bytes),
}

/// The store's only writer on its way to consensus and back. While it is out nothing here writes.
pub struct HandOver<A> {
    /// The only writer. Blocks committed through it are served at once.
    pub writer: Writer,
    /// The application.
    pub app: A,
    /// The exact state after the last applied block.
    pub state: Arc<ChainState>,
    /// The commit for that block.
    pub last_commit: LastCommit,
    /// Whether any block was synced: then consensus skips its log replay.
    pub blocks_synced: bool,
    /// State of the block of `Config::trust` in the store, when there is one.
    pub trust: Option<Trust>,
}

/// Why there is no hand-over.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandOverError {
    /// The service has stopped.
    #[error(transparent)]
    Stopped(#[from] Stopped),
    /// The writer is out already.
    #[error("the store's writer has been handed over already")]
    AlreadyOut,
    /// Consensus could not go on from there: it needs the last block's commit. The service goes on;
    /// one more block brings one.
    #[error(
        "block {0}: no commit, or no extended commit where vote extensions are enabled, is stored for it: consensus cannot go on from there"
    )]
    NoCommit(Height),
    /// The store failed.
    #[error("the store: {0}")]
    Store(#[from] StoreError),
}

/// Why the writer was not taken back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Unfit {
    /// The service has stopped.
    #[error(transparent)]
    Stopped(#[from] Stopped),
    /// The writer has not been handed over.
    #[error("the service has a writer already")]
    NotOut,
    /// The state is not that of the store.
    #[error(
        "the state given is that of height {given}, the store's is that of height {stored}, or they differ in block or app hash"
    )]
    Stale {
        /// Height of the state given.
        given: Height,
        /// Height of the store's state.
        stored: Height,
    },
    /// The application is elsewhere.
    #[error("the application is at height {app}, the state at {state}, or their app hashes differ")]
    App {
        /// Height that the application reports.
        app: Height,
        /// Height of the state.
        state: Height,
    },
    /// The application or the store could not be asked.
    #[error("{0}")]
    Failed(String),
    /// The writer is another service's.
    #[error(
        "the writer given is that of another service, or of a store that this one does not have"
    )]
    OtherService,
}

/// The writer was not taken back; it is in here.
pub struct ResumeError<A> {
    /// The reason.
    pub why: Unfit,
    /// Everything that was given.
    pub back: Box<HandOver<A>>,
}

impl<A> fmt::Debug for ResumeError<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResumeError")
            .field("why", &self.why)
            .finish_non_exhaustive()
    }
}

impl<A> fmt::Display for ResumeError<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.why.fmt(f)
    }
}

impl<A> std::error::Error for ResumeError<A> {}

/// The commit with which consensus goes on from this state.
fn last_commit(store: &dyn Store, state: &ChainState) -> Result<LastCommit, HandOverError> {
    let height = state.last_height;
    if height == Height::ZERO {
        return Ok(LastCommit::None);
    }
    let params = store.params(height)?;
    // By the params of that height: consensus needs extensions exactly where they were enabled.
    let extended = params.is_some_and(|p| p.vote_extensions_enabled(height));
    let found = if extended {
        let block = store.block(height)?;
        block.and_then(|b| b.ext_raw).map(LastCommit::Extended)
    } else {
        store.commit_for(height)?.map(LastCommit::Commit)
    };
    found.ok_or(HandOverError::NoCommit(height))
}

/// Whether store, state and application stand at one height, and agree on it.
async fn fits<A: App>(back: &mut HandOver<A>) -> Result<(), Unfit> {
    let state = &back.state;
    let stored = back.writer.store().state();
    let stored = stored.map_err(|e| Unfit::Failed(e.to_string()))?;
    // Block and app hash as well as the height: another store could stand at the same one.
    let same = stored.as_ref().is_some_and(|stored| {
        (stored.last_height, stored.last_block_id) == (state.last_height, state.last_block_id)
            && stored.app_hash == state.app_hash
    });
    if !same {
        return Err(Unfit::Stale {
            given: state.last_height,
            stored: stored.map_or(Height::ZERO, |s| s.last_height),
        });
    }
    let info = back
        .app
        .info()
        .await
        .map_err(|e| Unfit::Failed(e.to_string()))?;
    let begun = state.last_height > Height::ZERO;
    // Before the first block the application has no hash that it must agree on.
    let differs = begun && info.last_app_hash != state.app_hash;
    if info.last_height != state.last_height || differs {
        return Err(Unfit::App {
            app: info.last_height,
            state: state.last_height,
        });
    }
    Ok(())
}

impl<A: App> Handle<A> {
    /// Takes the store's only writer out of the service, with everything that is applied made
    /// durable. Peers are served on, also with what is committed through the writer; nothing is
    /// downloaded until `resume`.
    ///
    /// Cancel safety: cancel safe; called again it goes on where it was.
    ///
    /// # Errors
    /// When the service has stopped, the writer is out already, or consensus could not go on from
    /// where we are.
    pub async fn hand_over(&mut self) -> Result<HandOver<A>, HandOverError> {
        let Some(running) = self.executor.as_mut() else {
            return Err(HandOverError::AlreadyOut);
        };
        let requests = self.requests.clone();
        let (done, detached) = oneshot::channel();
        let detach = reactor::Request::Detach(done);
        requests.send(detach).await.map_err(|_| Stopped)?;
        detached.await.map_err(|_| Stopped)?;
        // Should consensus not be able to go on, the way back needs no waiting.
        let way_back = requests.reserve().await.map_err(|_| Stopped)?;
        // It may have much to do yet, or be waiting for the clock.
        self.halt.cancel();
        let executor = running.await.map_err(|_| Stopped)?;
        // Only after it has come out: a call that is cancelled before finds it here again.
        self.executor = None;
        let blocks_synced = executor.state.last_height > self.status.borrow().started_at;
        let Executor {
            app, writer, state, ..
        } = executor;
        match last_commit(&**writer.store(), &state) {
            Ok(last_commit) => Ok(HandOver {
                trust: self.shared.trust(&**writer.store()),
                writer,
                app,
                state,
                last_commit,
                blocks_synced,
            }),
            Err(why) => {
                way_back.send(self.restart(writer, app, state));
                Err(why)
            }
        }
    }

    /// A new executor over what came back, and how to tell the reactor of it.
    fn restart(&mut self, writer: Writer, app: A, state: Arc<ChainState>) -> reactor::Request {
        let executor = self.shared.executor(app, writer, state);
        self.launch(executor, SyncStart::Resumed)
    }

    /// Starts an executor, and gives the word of it to the reactor.
    pub(super) fn launch(
        &mut self,
        (executor, events): (Executor<A>, mpsc::Receiver<ExecEvent>),
        why: SyncStart,
    ) -> reactor::Request {
        // Others may have gone beyond the trusted height.
        let trust = self.shared.trust(&**executor.writer.store());
        let state = executor.state.clone();
        self.halt = executor.stop.clone();
        let (jobs, to_execute) = mpsc::channel(JOBS);
        self.executor = Some(tokio::spawn(
            executor
                .run(to_execute)
                .instrument(self.shared.span.clone()),
        ));
        reactor::Request::Resume {
            jobs,
            events,
            state,
            trust,
            why,
        }
    }

    /// Whether what is given back is this service's, and fits together.
    async fn may_take(&self, back: &mut HandOver<A>) -> Result<(), Unfit> {
        if self.executor.is_some() {
            return Err(Unfit::NotOut);
        }
        if !back.writer.tells(&self.shared.committed) {
            return Err(Unfit::OtherService);
        }
        fits(back).await
    }

    /// Goes back into block sync with consensus' last state, without a restart.
    ///
    /// Cancel safety: cancelled before it returns, what was given is lost.
    ///
    /// # Errors
    /// When the service has stopped, or store, state and application do not stand at one height.
    /// Everything comes back in the error.
    pub async fn resume(&mut self, mut back: HandOver<A>) -> Result<(), ResumeError<A>> {
        let requests = self.requests.clone();
        let why = match self.may_take(&mut back).await {
            Err(why) => why,
            Ok(()) => match requests.reserve().await {
                Ok(way_back) => {
                    way_back.send(self.restart(back.writer, back.app, back.state));
                    return Ok(());
                }
                Err(_) => Unfit::Stopped(Stopped),
            },
        };
        let back = Box::new(back);
        Err(ResumeError { why, back })
    }

    /// Lets a running consensus, which has been handed over to, take proven blocks one after
    /// another and execute them itself.
    ///
    /// # Errors
    /// As `resume`.
    pub async fn ingest(&mut self, mut back: HandOver<A>) -> Result<Ingest<A>, ResumeError<A>> {
        let requests = self.requests.clone();
        let why = match self.may_take(&mut back).await {
            Err(why) => why,
            // The place in the queue comes first: with it nothing below can fail, and the caller
            // loses neither writer nor application.
            Ok(()) => match requests.clone().reserve_owned().await {
                Ok(way) => {
                    let started_at = back.state.last_height;
                    let state = back.state.clone();
                    let trust = self.shared.trust(&**back.writer.store());
                    let (mut executor, events) =
                        self.shared.executor(back.app, back.writer, state.clone());
                    let (jobs, to_execute) = mpsc::channel(JOBS);
                    executor.jobs = Jobs::new(to_execute);
                    way.send(reactor::Request::Resume {
                        jobs,
                        events,
                        state,
                        trust,
                        why: SyncStart::Resumed,
                    });
                    return Ok(Ingest {
                        executor,
                        requests: requests.clone(),
                        started_at,
                        waiting: VecDeque::new(),
                        carrier: None,
                    });
                }
                Err(_) => Unfit::Stopped(Stopped),
            },
        };
        let back = Box::new(back);
        Err(ResumeError { why, back })
    }
}

/// A proven block for consensus to execute.
#[derive(Clone, Debug)]
pub struct ProvenBlock {
    /// The block, held against the state and evidence already.
    pub block: Arc<Fetched>,
    /// The encoded commit for it, fully verified.
    pub commit: Bytes,
}

/// Proven blocks on their way into a running consensus, which executes and stores them. The value
/// with which it may sign is not there until `finish` gives it back.
pub struct Ingest<A> {
    executor: Executor<A>,
    requests: mpsc::Sender<reactor::Request>,
    started_at: Height,
    /// Of the job under way. The first is the one that was given last, until it is applied.
    waiting: VecDeque<ReceivedBlock>,
    carrier: Option<ReceivedBlock>,
}

impl<A: App> Ingest<A> {
    /// The application.
    pub fn app(&mut self) -> &mut A {
        &mut self.executor.app
    }

    /// The store's only writer.
    pub fn writer(&mut self) -> &mut Writer {
        &mut self.executor.writer
    }

    /// The state after the last applied block.
    #[must_use]
    pub fn state(&self) -> &Arc<ChainState> {
        &self.executor.state
    }

    /// The next proven block: again the same until `applied` is called. `None` when the service has
    /// stopped or cannot go on.
    ///
    /// Cancel safety: cancel safe.
    pub async fn next(&mut self) -> Option<ProvenBlock> {
        loop {
            if self.waiting.is_empty() {
                let job = self.executor.jobs.recv().await?;
                let next = self.executor.state.next_height();
                // A job that was sent before a rejection may repeat heights or skip some; the pool
                // sends the right one again.
                let due = job.blocks.first().is_some_and(|b| b.meta.height == next);
                if due {
                    self.waiting = job.blocks.into();
                    self.carrier = job.carrier;
                }
                continue;
            }
            match self.judge().await {
                Ok(proven) => return Some(proven),
                Err(Refusal::Copy {
                    height,
                    from,
                    fault,
                }) => {
                    // The pool takes back what follows the rejected copy, too, and sends it anew.
                    self.waiting.clear();
                    let rejected = ExecEvent::Rejected {
                        height,
                        from,
                        fault,
                    };
                    self.executor.say(rejected).await;
                }
                Err(Refusal::Ours(fault)) => {
                    self.executor.say(ExecEvent::Fault(fault)).await;
                    return None;
                }
                Err(Refusal::Stopped | Refusal::Unproven) => return None,
            }
        }
    }

    /// Holds the first block that waits against the state, and gives the commit for it.
    async fn judge(&mut self) -> Result<ProvenBlock, Refusal> {
        let (Some(copy), above) = (self.waiting.front().cloned(), self.waiting.get(1).cloned())
        else {
            return Err(Refusal::Stopped);
        };
        self.executor.check(&copy).await?;
        let carrier = above.or_else(|| self.carrier.clone());
        let commit = self.executor.seen_commit(&copy, carrier.as_ref()).await?;
        let block = copy.block;
        Ok(ProvenBlock { block, commit })
    }

    /// The block given last is executed and stored, and this is the state after it.
    ///
    /// # Errors
    /// When the state is not that of the block, or not that of the store.
    pub async fn applied(&mut self, state: Arc<ChainState>) -> Result<(), Unfit> {
        let stored = self.executor.writer.store().state();
        let stored = stored.map_err(|e| Unfit::Failed(e.to_string()))?;
        let given = self.waiting.front().map(|copy| copy.meta.id);
        let stored_id = stored.as_ref().map(|s| s.last_block_id);
        if given != Some(state.last_block_id) || stored_id != given {
            return Err(Unfit::Stale {
                given: state.last_height,
                stored: stored.map_or(Height::ZERO, |s| s.last_height),
            });
        }
        self.waiting.pop_front();
        // Consensus has written it, so it is durable before the pool hears of it.
        self.executor.follow(state.clone());
        let pruned_to = None;
        self.executor
            .say(ExecEvent::Applied { state, pruned_to })
            .await;
        Ok(())
    }

    /// Consensus cannot execute the block given last: nobody's fault but ours, and the end of the
    /// service.
    pub async fn refused(&mut self, why: String) {
        self.waiting.clear();
        self.executor
            .say(ExecEvent::Fault(LocalFault::App(why)))
            .await;
    }

    /// Ends it: nothing more is downloaded, and consensus has everything back.
    ///
    /// # Errors
    /// When the service has stopped, or consensus could not sign from there for want of a commit.
    pub async fn finish(self) -> Result<HandOver<A>, HandOverError> {
        let (done, detached) = oneshot::channel();
        let detach = reactor::Request::Detach(done);
        self.requests.send(detach).await.map_err(|_| Stopped)?;
        detached.await.map_err(|_| Stopped)?;
        let Executor {
            app,
            writer,
            state,
            config,
            ..
        } = self.executor;
        let last_commit = last_commit(&**writer.store(), &state)?;
        let blocks_synced = state.last_height > self.started_at;
        Ok(HandOver {
            trust: Trust::told(&**writer.store(), config.trust),
            writer,
            app,
            state,
            last_commit,
            blocks_synced,
        })
    }
}
