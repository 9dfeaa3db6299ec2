//! The executor: the only writer of chain state. Takes proven blocks in order, holds each header
//! against the state, executes it, and makes it durable.
//!
//! # Order of writes, and what a kill leaves behind
//! *Embedded application* (its state lives in our database): blocks, chain state and the
//! application's writes of a whole batch go in one transaction. A kill leaves the batch whole or
//! not at all. While one batch is being written the next is being executed; `Applied` is said only
//! of what is durable.
//!
//! *External application*: see `external`.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::batches::{add_state, record_of};
use super::checks::{self, Refusal};
use super::config::{AppliedBlock, Config};
use super::external::Jobs;
use super::observe::Results;
use super::offload::Offload;
use super::stages::{Meters, Stage};
use super::writer::Writer;
use crate::app::App;
use crate::chain::{ChainState, Fetched, FinalizeBlock, Genesis, ValidatorSet};
use crate::fault::Fault;
use crate::ids::{BlockId, Height, Source};
use crate::pool::{Candidate, LocalFault};
use crate::store::{Batch, Store, StoreError};
use crate::wire;

/// A copy of a block as the service moves it about.
pub(super) type ReceivedBlock = Candidate<Arc<Fetched>>;

/// Proven blocks to apply, and the copy that holds the commit for the last of them (or it came with
/// its own).
#[derive(Debug)]
pub(super) struct Job {
    /// Ascending.
    pub blocks: Vec<ReceivedBlock>,
    /// One height above.
    pub carrier: Option<ReceivedBlock>,
    /// The best claim of a peer.
    pub target: Height,
}

/// Reports of the executor.
#[derive(Debug)]
pub(super) enum ExecEvent {
    /// Durable up to this state.
    Applied {
        /// The state.
        state: Arc<ChainState>,
        /// Blocks below this height are gone; `None` when nothing was pruned.
        pruned_to: Option<Height>,
    },
    /// A copy is bad, by its supplier's fault alone; what stood before it is applied.
    Rejected {
        /// The copy's height.
        height: Height,
        /// Its supplier.
        from: Source,
        /// The fault.
        fault: Fault,
    },
    /// We cannot go on.
    Fault(LocalFault),
    /// Blocks below this height are gone.
    Pruned(Height),
    /// Waiting, and for what: a block that is ahead of our clock.
    Waiting(String),
    /// A call into the application, or a loss of it, that takes long; `None` when it is over.
    Calling(Option<String>),
}

/// Blocks whose extended commits are judged together.
const AHEAD: usize = 32;
/// An application that is not called for this time is asked whether it is still there.
const LOOK_AFTER: Duration = Duration::from_secs(10);

/// A write under way.
pub(super) struct Underway {
    /// State that is applied when it is done; `None` when that has been said.
    applies: Option<Arc<ChainState>>,
    observed: Vec<AppliedBlock>,
    pruned_to: Option<Height>,
    writing: Pin<Box<dyn Future<Output = Result<(), StoreError>> + Send>>,
}

/// A write that has ended.
struct Written {
    applies: Option<Arc<ChainState>>,
    observed: Vec<AppliedBlock>,
    pruned_to: Option<Height>,
    result: Result<(), StoreError>,
}

/// A block that the application has executed and is told to commit.
pub(super) struct Executed {
    pub(super) after: ChainState,
    /// Whether the state's hash is proven, or the application's own word. Otherwise it is what the
    /// block above claims, or nothing, until the application has committed.
    pub(super) hash_is_settled: bool,
    /// Its response, encoded, when anybody wants it.
    pub(super) response: Bytes,
}

/// See the module.
pub(super) struct Executor<A> {
    pub(super) app: A,
    pub(super) writer: Writer,
    /// After the last block executed; may be ahead of what is durable.
    pub(super) state: Arc<ChainState>,
    pub(super) genesis: Arc<Genesis>,
    pub(super) config: Arc<Config>,
    offload: Offload,
    rng: StdRng,
    batch: Batch,
    batch_bytes: usize,
    pub(super) results: Results,
    pub(super) committing: Option<Underway>,
    pub(super) jobs: Jobs,
    /// The highest block in the store.
    pub(super) stored: Height,
    /// The application may hold an unfinished block: it was running before we came.
    pub(super) unsure: bool,
    /// Block that the application is being told to commit.
    pub(super) executing: Option<Executed>,
    /// How often the connection was lost over the block that is being executed.
    pub(super) losses: u32,
    /// Time in which a job stood still for a write.
    waited_in_job: Duration,
    /// Time in which a job did nothing of its own: it let others at the worker, or waited for a
    /// lost application.
    pub(super) yielded_in_job: Duration,
    pub(super) events: mpsc::Sender<ExecEvent>,
    latest: watch::Sender<Arc<ChainState>>,
    pub(super) meters: Meters,
    pub(super) stop: CancellationToken,
}

/// The executor's ways out: where it reports, and what stops it.
pub(super) struct Outlets {
    /// Reports.
    pub events: mpsc::Sender<ExecEvent>,
    /// The state after the last block executed, for the verifier.
    pub latest: watch::Sender<Arc<ChainState>>,
    /// Times of executing and storing are noted here.
    pub meters: Meters,
    /// Ends the run.
    pub stop: CancellationToken,
}

impl<A: App> Executor<A> {
    /// An executor that goes on from `state`, which is durable.
    pub(super) fn new(
        app: A,
        writer: Writer,
        state: Arc<ChainState>,
        (genesis, config): (Arc<Genesis>, Arc<Config>),
        offload: Offload,
        outlets: Outlets,
    ) -> Self {
        let rng = config
            .seed
            .map_or_else(rand::make_rng, StdRng::seed_from_u64);
        let Outlets {
            events,
            latest,
            meters,
            stop,
        } = outlets;
        let (batch, committing) = (Batch::default(), None);
        let results = Results::new(&config);
        // A store that cannot be read fails again, and by name, with the first write.
        let stored = writer.store().span().map_or(Height::ZERO, |s| s.stored);
        Executor {
            app,
            writer,
            state,
            genesis,
            config,
            offload,
            rng,
            batch,
            batch_bytes: 0,
            results,
            committing,
            jobs: Jobs::default(),
            stored,
            unsure: true,
            executing: None,
            losses: 0,
            waited_in_job: Duration::ZERO,
            yielded_in_job: Duration::ZERO,
            events,
            latest,
            meters,
            stop,
        }
    }

    /// Applies jobs until it is stopped or cannot go on, then writes what it has executed. Gives
    /// itself back for the hand-over.
    ///
    /// Order of the arms: a finished write first, since it frees the batch and tells the pool; jobs
    /// only while the batch has room.
    pub(super) async fn run(mut self, jobs: mpsc::Receiver<Job>) -> Self {
        let stop = self.stop.clone();
        self.jobs = Jobs::new(jobs);
        let external = !self.app.embedded();
        loop {
            let room = !self.full();
            let committing = self.committing.is_some();
            let idle = Instant::now();
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                done = poll_commit(&mut self.committing), if committing => {
                    self.waited(room, idle.elapsed());
                    if !self.committed(done).await { return self; }
                }
                job = self.jobs.recv(), if room => {
                    let Some(job) = job else { break };
                    self.waited(room, idle.elapsed());
                    if !self.job(job).await { return self; }
                }
                // Only while nothing else is to do: an application that executes shows by that that
                // it is there.
                () = tokio::time::sleep(LOOK_AFTER), if external && !committing => {
                    self.waited(room, idle.elapsed());
                    if !self.look_after().await { return self; }
                }
            }
            // One write at a time, and only of a full batch or when nothing waits: the longer the
            // queue, the larger the transactions, and the fewer the syncs of the disk.
            let idle = self.full() || self.jobs.is_empty();
            if self.committing.is_none() && !self.is_clean() && idle {
                self.start_commit();
            }
        }
        self.flush().await;
        self
    }

    /// Adds time in which the executor did nothing: for want of a job, or of room in the batch.
    fn waited(&self, room: bool, time: Duration) {
        if room {
            self.meters.waited_for_work(Stage::Execute, time);
        } else {
            self.meters.waited_for_room(Stage::Execute, time);
        }
    }

    fn full(&self) -> bool {
        self.batch.blocks.len() >= self.config.group_commit.blocks
            || self.batch_bytes >= self.config.group_commit.bytes
    }

    fn is_clean(&self) -> bool {
        self.batch.state.is_none()
    }

    /// Applies a job's blocks. `false` ends the run: we cannot go on.
    async fn job(&mut self, job: Job) -> bool {
        // After a refusal the pool hands everything in again: jobs that were already under way do
        // not fit any more.
        if job
            .blocks
            .first()
            .is_none_or(|b| b.meta.height != self.state.next_height())
        {
            return true;
        }
        let (began, waited) = (Instant::now(), self.waited_in_job);
        let applied = self.apply(&job).await;
        let waited = self.waited_in_job - waited;
        let idle = waited + std::mem::take(&mut self.yielded_in_job);
        let busy = began.elapsed().saturating_sub(idle);
        self.meters.waited_for_room(Stage::Execute, waited);
        // An external application's blocks and calls are counted as they are made.
        let (blocks, busy) = if self.app.embedded() {
            (job.blocks.len(), busy)
        } else {
            (0, Duration::ZERO)
        };
        self.meters.busy(Stage::Execute, blocks, busy);
        match applied {
            Ok(()) => true,
            // No fault of a copy: the executed part becomes durable, and the rest is downloaded
            // again.
            Err(Refusal::Stopped | Refusal::Unproven) => self.flush_part_of(&job).await,
            Err(Refusal::Copy {
                height,
                from,
                fault,
            }) => {
                // First the blocks before it: the pool takes back what it was not told of.
                self.flush_part_of(&job).await
                    && self
                        .say(ExecEvent::Rejected {
                            height,
                            from,
                            fault,
                        })
                        .await
            }
            Err(Refusal::Ours(fault)) => {
                // The blocks executed before are sound and become durable.
                self.flush_part_of(&job).await;
                self.say(ExecEvent::Fault(fault)).await;
                false
            }
        }
    }

    async fn apply(&mut self, job: &Job) -> Result<(), Refusal> {
        if !self.app.embedded() {
            return self.apply_externally(job).await;
        }
        for (n, copy) in job.blocks.iter().enumerate() {
            if self.stop.is_cancelled() {
                return Err(Refusal::Stopped);
            }
            let last = n + 1 == job.blocks.len();
            // Extended commits are judged on all cores before it is their blocks' turn; `check`
            // then finds them verified.
            self.judge_ahead(&job.blocks, n).await;
            self.check(copy).await?;
            let seen = if last {
                Some(self.seen_commit(copy, job.carrier.as_ref()).await?)
            } else {
                None
            };
            // From here on nothing may refuse this block: the application has seen it.
            let (state, retain, response) = self.execute(&copy.block).await?;
            self.results.observe(&copy.block, &response);
            self.batch.app.append(&mut self.app.take_writes());
            self.record(copy, state);
            if let Some(commit) = seen {
                self.batch.seen_commit = Some((copy.meta.height, commit));
                self.prune(retain)?;
            }
            if self.full() {
                self.make_room(last).await?;
            }
            if n % 16 == 15 {
                let began = Instant::now();
                tokio::task::yield_now().await; // executing is work: let others at the worker
                self.yielded_in_job += began.elapsed();
            }
        }
        Ok(())
    }

    /// An embedded application's batch may be written only where a job ends: a seen commit belongs
    /// to it. Large jobs are kept small by the pool.
    async fn make_room(&mut self, job_ends: bool) -> Result<(), Refusal> {
        if self.committing.is_some() && !self.write_under_way().await {
            return Err(Refusal::Stopped);
        }
        if job_ends {
            self.start_commit();
        }
        Ok(())
    }

    pub(super) fn request(&self, block: &Fetched) -> Result<FinalizeBlock, Refusal> {
        let last = self.state.last_validators.as_deref();
        FinalizeBlock::from_block(&block.block, block.id, last, self.state.initial_height)
            .map_err(|e| Refusal::Ours(LocalFault::Diverged(e.to_string())))
    }

    /// Everything that must hold before a proven copy is executed.
    pub(super) async fn check(&mut self, copy: &ReceivedBlock) -> Result<(), Refusal> {
        checks::trusted(&self.config, &copy.block)?;
        self.check_extended_commit(copy).await?;
        if !copy.block.evidence().is_empty() {
            // The checks read the store: everything up to here has to be in it, with a commit for
            // its last block.
            self.close_batch(copy).await?;
            self.flush_refusing().await?;
            let (store, state, block) = (
                self.writer.store().clone(),
                self.state.clone(),
                copy.block.clone(),
            );
            let seed: checks::Seed = self.rng.random();
            let rules = *self.config.rules.at(copy.meta.height);
            self.offload
                .cpu(move || checks::evidence(&*store, &state, &block.block, &rules, seed))
                .await?;
        }
        loop {
            let now = (self.config.clock)();
            match checks::against_state(&self.state, &copy.block, &self.config, now) {
                // Our clock is wrong, or the chain's: waiting may mend it, and nobody is to blame
                // (`design.md` 5).
                Err(checks::Against::AheadOfClock(why)) => {
                    self.say(ExecEvent::Waiting(why)).await;
                    tokio::select! {
                        biased;
                        () = self.stop.cancelled() => return Err(Refusal::Stopped),
                        () = tokio::time::sleep(Duration::from_secs(1)) => {}
                    }
                }
                Err(checks::Against::Diverged(why)) => {
                    return Err(Refusal::Ours(LocalFault::Diverged(why)));
                }
                Ok(()) => return Ok(()),
            }
        }
    }

    /// Every height's extended commit is to be judged: those of the next few blocks, from the n-th
    /// on, are, on all cores at once.
    pub(super) async fn judge_ahead(&mut self, copies: &[ReceivedBlock], n: usize) {
        if !n.is_multiple_of(AHEAD) {
            return;
        }
        let blocks: Vec<_> = copies[n..]
            .iter()
            .take(AHEAD)
            .map(|c| c.block.clone())
            .filter(|b| b.ext_commit.is_some())
            .collect();
        if blocks.len() < 2 {
            return;
        }
        let (offload, state) = (self.offload.clone(), self.state.clone());
        let (meters, seed) = (self.meters.clone(), self.rng.random());
        let rules = self.config.rules.clone();
        let judge = move || {
            checks::extended_commits_ahead(&offload, (&state, &rules), blocks, seed, &meters);
        };
        self.offload.cpu(judge).await;
    }

    async fn check_extended_commit(&mut self, copy: &ReceivedBlock) -> Result<(), Refusal> {
        if checks::extended_commit_is_settled(&self.state, &copy.block) {
            return Ok(());
        }
        let wanted = self.state.params.vote_extensions_enabled(copy.meta.height);
        let (state, block) = (self.state.clone(), copy.block.clone());
        let (meters, seed) = (self.meters.clone(), self.rng.random());
        let rules = *self.config.rules.at(copy.meta.height);
        let judged = self
            .offload
            .cpu(move || {
                let needed = (wanted, &rules);
                checks::extended_commit(&state, &block, needed, seed, &meters)
            })
            .await;
        judged.map_err(|fault| Refusal::Copy {
            height: copy.meta.height,
            from: copy.from,
            fault,
        })
    }

    /// The fully verified commit for `copy`, encoded, from the carrier's last commit or from what
    /// came with the copy.
    pub(super) async fn seen_commit(
        &mut self,
        copy: &ReceivedBlock,
        carrier: Option<&ReceivedBlock>,
    ) -> Result<Bytes, Refusal> {
        let carrier = carrier.filter(|c| c.meta.parent == copy.meta.id);
        let holder = carrier.unwrap_or(copy).clone();
        let set = self.state.validators.clone();
        self.full_commit(
            set,
            copy.meta.id,
            copy.meta.height,
            holder,
            carrier.is_none(),
        )
        .await
    }

    /// Before a write in the middle of a job: the commit for the last executed block is the last
    /// commit of `next`.
    async fn close_batch(&mut self, next: &ReceivedBlock) -> Result<(), Refusal> {
        let (id, height) = (self.state.last_block_id, self.state.last_height);
        let Some(set) = self.state.last_validators.clone() else {
            return Ok(());
        };
        if !self.is_clean() && next.meta.parent == id {
            let commit = self
                .full_commit(set, id, height, next.clone(), false)
                .await?;
            self.batch.seen_commit = Some((height, commit));
        }
        Ok(())
    }

    async fn full_commit(
        &mut self,
        set: Arc<ValidatorSet>,
        id: BlockId,
        height: Height,
        holder: ReceivedBlock,
        own: bool,
    ) -> Result<Bytes, Refusal> {
        let (chain_id, seed) = (self.state.chain_id.clone(), self.rng.random());
        let (from, at) = (holder.from, holder.meta.height);
        let meters = self.meters.clone();
        let wanted = checks::Wanted {
            chain_id,
            set,
            id,
            height,
            rules: *self.config.rules.of_commit(height),
        };
        let judged = self
            .offload
            .cpu(move || checks::commit_for(&wanted, &holder.block, own, seed, &meters))
            .await;
        judged.map_err(|fault| Refusal::Copy {
            height: at,
            from,
            fault,
        })
    }

    /// One block into an embedded application. Gives the response, too, encoded, when anybody wants
    /// it.
    pub(super) async fn execute(
        &mut self,
        block: &Fetched,
    ) -> Result<(ChainState, Height, Bytes), Refusal> {
        let request = self.request(block)?;
        let began = Instant::now();
        let response = self.app.finalize_block(request).await;
        let figures = self.meters.figures();
        figures.called("FinalizeBlock", began.elapsed());
        // The time of a call that failed counts, too: it may be the slow one.
        let response = response.map_err(checks::app_failed)?;
        let state = self
            .state
            .advance(
                &block.block,
                block.id,
                &response,
                self.config.rules.at(block.height()),
            )
            .map_err(checks::bad_response)?;
        let mut encoded = Bytes::new();
        if self.results.are_wanted() {
            encoded = wire::convert::finalize_response_to_bytes(&response);
            let kept = self.results.kept(block.height(), &encoded);
            self.batch_bytes += kept.as_ref().map_or(0, |(_, bytes)| bytes.len());
            self.batch.kept_results.extend(kept);
        }
        let began = Instant::now();
        let retain = self.app.commit().await.map_err(checks::app_failed)?;
        self.meters.figures().called("Commit", began.elapsed());
        Ok((state, retain, encoded))
    }

    fn record(&mut self, copy: &ReceivedBlock, state: ChainState) {
        self.batch.blocks.push(record_of(&copy.block));
        self.batch_bytes += copy.block.raw.len();
        self.record_state(&copy.block, state);
    }

    pub(super) fn record_state(&mut self, block: &Fetched, state: ChainState) {
        let state = Arc::new(state);
        self.add_to_batch(block, &state);
        self.applied(block, state);
    }

    /// The state after a block, which is not ours yet, goes with the next write.
    pub(super) fn add_to_batch(&mut self, block: &Fetched, state: &Arc<ChainState>) {
        add_state(&mut self.batch, block, &self.state, state);
    }

    /// The state after a block is ours, and written or to be written.
    pub(super) fn applied(&mut self, block: &Fetched, state: Arc<ChainState>) {
        self.meters.figures().applied(block, &self.state, &state);
        self.follow(state);
    }

    /// This is the state from now on.
    pub(super) fn follow(&mut self, state: Arc<ChainState>) {
        self.state = state;
        self.latest.send_replace(self.state.clone());
    }

    /// Prunes blocks that the application no longer needs and that we are not told to keep.
    pub(super) fn prune(&mut self, app_retain: Height) -> Result<(), Refusal> {
        let last = self.state.last_height;
        self.batch.prune_results = self.results.retained_from(last);
        let ours = match self.config.retain_blocks {
            0 => Height::ZERO,
            keep => Height::new((last.get() + 1).saturating_sub(keep)),
        };
        // 0 asks for nothing; of two wishes the one that keeps more holds.
        let retain = match (app_retain, ours) {
            (Height::ZERO, other) | (other, Height::ZERO) => other,
            (a, b) => a.min(b),
        };
        if retain > Height::ZERO && retain <= last {
            let light = checks::evidence_horizon(&**self.writer.store(), &self.state)
                .map_err(checks::store_failed)?;
            self.batch.prune = Some((retain, light));
        }
        Ok(())
    }

    pub(super) fn take_batch(&mut self) -> Batch {
        self.batch_bytes = 0;
        std::mem::take(&mut self.batch)
    }

    fn start_commit(&mut self) {
        let batch = self.take_batch();
        let applies = self.app.embedded().then(|| self.state.clone());
        self.start_write(batch, applies);
    }

    /// Starts a write; no other may be under way.
    pub(super) fn start_write(&mut self, batch: Batch, applies: Option<Arc<ChainState>>) {
        let pruned_to = batch.prune.map(|(retain, _)| retain);
        let observed = self.results.take_observed();
        let writing = Box::pin(self.writing(batch));
        self.committing = Some(Underway {
            applies,
            observed,
            pruned_to,
            writing,
        });
    }

    /// Reports a finished write. `false` when it failed: nothing is tried again.
    async fn committed(
        &mut self,
        Written {
            applies,
            observed,
            pruned_to,
            result,
        }: Written,
    ) -> bool {
        match result {
            Ok(()) => {
                let heard = match (applies, pruned_to) {
                    (Some(state), pruned_to) => {
                        self.say(ExecEvent::Applied { state, pruned_to }).await
                    }
                    (None, Some(below)) => self.say(ExecEvent::Pruned(below)).await,
                    (None, None) => true,
                };
                self.results.hand_over(observed, &self.stop).await;
                heard
            }
            Err(error) => {
                let after = format!("after height {}: {error}", self.state.last_height);
                self.say(ExecEvent::Fault(LocalFault::Store(after))).await;
                false
            }
        }
    }

    /// Waits for the write under way and writes what is left. `false` when that failed.
    async fn flush(&mut self) -> bool {
        if self.committing.is_some() && !self.write_under_way().await {
            return false;
        }
        if self.is_clean() {
            return true;
        }
        self.start_commit();
        self.write_under_way().await
    }

    /// Waits for the write under way. `false` when it failed.
    pub(super) async fn write_under_way(&mut self) -> bool {
        let began = Instant::now();
        let done = poll_commit(&mut self.committing).await;
        self.waited_in_job += began.elapsed();
        self.committed(done).await
    }

    /// The same in the middle of a job. The block above the last one executed is certified, too, so
    /// it has the commit for it that consensus would start from; were that not so, nothing but this
    /// commit would be missing until the next block.
    async fn flush_part_of(&mut self, job: &Job) -> bool {
        let next = self.state.next_height();
        if let Some(copy) = job.blocks.iter().find(|c| c.meta.height == next) {
            let _ = self.close_batch(copy).await;
        }
        self.flush().await
    }

    pub(super) async fn flush_refusing(&mut self) -> Result<(), Refusal> {
        if self.flush().await {
            Ok(())
        } else {
            Err(Refusal::Stopped)
        }
    }

    pub(super) async fn write(&mut self, batch: Batch) -> Result<(), Refusal> {
        let began = Instant::now();
        let written = self.writing(batch).await;
        self.waited_in_job += began.elapsed();
        written.map_err(checks::store_failed)
    }

    /// Starts a write at once.
    fn writing(
        &self,
        batch: Batch,
    ) -> impl Future<Output = Result<(), StoreError>> + Send + use<A> {
        let (store, meters) = (self.writer.store().clone(), self.meters.clone());
        let blocks = batch.blocks.len();
        let commit = move || {
            let began = Instant::now();
            let done = meters.work(Stage::Store, blocks, || store.commit(batch));
            let histograms = &meters.figures().histograms;
            histograms.store_commit.note_time(began.elapsed());
            done
        };
        self.offload.io(commit)
    }

    /// Writes what has been executed and not been written, blocks aside: they are stored already.
    pub(super) async fn write_state(
        &mut self,
        app: Vec<(Bytes, Option<Bytes>)>,
    ) -> Result<(), Refusal> {
        self.batch.app.extend(app);
        let batch = self.take_batch();
        self.write(batch).await
    }

    /// Checks a stored block above the state before it is executed: it is certified, so only our
    /// own state is in question.
    pub(super) fn check_stored(&self, block: &Fetched) -> Result<(), Refusal> {
        checks::trusted(&self.config, block)?;
        let now = (self.config.clock)();
        match checks::against_state(&self.state, block, &self.config, now) {
            Ok(()) | Err(checks::Against::AheadOfClock(_)) => Ok(()),
            Err(checks::Against::Diverged(why)) => Err(Refusal::Ours(LocalFault::Diverged(why))),
        }
    }

    /// `false` when nobody listens any more. During start-up nobody does yet.
    pub(super) async fn say(&mut self, event: ExecEvent) -> bool {
        if !self.jobs.can_come() {
            return true;
        }
        self.events.send(event).await.is_ok()
    }
}

/// The result of the write under way; pending for ever when there is none. Cancel safe: the write
/// stays where it is.
async fn poll_commit(committing: &mut Option<Underway>) -> Written {
    let Some(underway) = committing else {
        return std::future::pending().await;
    };
    let result = underway.writing.as_mut().await;
    let (applies, pruned_to) = (underway.applies.take(), underway.pruned_to);
    let observed = std::mem::take(&mut underway.observed);
    *committing = None;
    Written {
        applies,
        observed,
        pruned_to,
        result,
    }
}
