//! The executor: the only writer of chain state. Takes proven blocks in order, holds each header against the state, executes
//! it, and makes it durable.
//!
//! # Order of writes, and what a kill leaves behind
//! *Embedded application* (its state lives in our database): blocks, chain state and the application's writes of a whole
//! batch go in one transaction. A kill leaves the batch whole or not at all.
//!
//! *External application*: for each height H (1) everything that H's copy and its commit can be refused for is judged, since it needs the state
//! after H−1; (2) in one transaction the block H, the state after H−1, the response to `FinalizeBlock(H)` and, for a job's last block, the commit
//! for it; (3) the application commits H; (4) the state after the job's last height. A kill before (2) leaves nothing of H; one between (2) and
//! (3) repeats `FinalizeBlock(H)`, whose effects were never durable; one between (3) and the next (2) finds the application one height ahead and
//! takes H's stored response (`startup`).
//!
//! While one batch is being written the next is being executed; `Applied` is said only of what is durable.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::checks::{self, Refusal};
use super::config::{AppliedBlock, Config};
use super::observe::Results;
use super::offload::Offload;
use super::stages::{Meters, Stage};
use crate::app::App;
use crate::chain::{ChainState, Fetched, FinalizeBlock, ValidatorSet};
use crate::fault::Fault;
use crate::ids::{BlockId, Height, Source};
use crate::pool::{Candidate, LocalFault};
use crate::store::{Batch, BlockRecord, SET_CHECKPOINT, Store, StoreError};
use crate::wire;

/// A copy of a block as the service moves it about.
pub(super) type ReceivedBlock = Candidate<Arc<Fetched>>;

/// Proven blocks to apply, and the copy that holds the commit for the last of them (or it came with its own).
#[derive(Debug)]
pub(super) struct Job {
    /// Ascending.
    pub blocks: Vec<ReceivedBlock>,
    /// One height above.
    pub carrier: Option<ReceivedBlock>,
}

/// What the executor says.
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
        /// Why.
        fault: Fault,
    },
    /// We cannot go on.
    Fault(LocalFault),
    /// Waiting, and for what: a block that is ahead of our clock.
    Waiting(String),
}

/// Blocks whose extended commits are judged together.
const AHEAD: usize = 32;

/// The store's only writer: whoever owns it may write chain state.
pub struct Writer(Arc<dyn Store>);

impl Writer {
    /// The writer of this store. The service makes one for each store and hands it on; nobody else may.
    #[must_use]
    pub(super) fn new(store: Arc<dyn Store>) -> Self {
        Writer(store)
    }

    /// The store, for reading.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.0
    }

    /// Writes a batch and makes it durable. Blocks.
    ///
    /// # Errors
    /// As `Store::commit`.
    pub fn commit(&mut self, batch: Batch) -> Result<(), StoreError> {
        self.0.commit(batch)
    }
}

/// A write under way.
struct Underway {
    state: Arc<ChainState>,
    observed: Vec<AppliedBlock>,
    pruned_to: Option<Height>,
    writing: Pin<Box<dyn Future<Output = Result<(), StoreError>> + Send>>,
}

/// A write that has ended.
struct Written {
    state: Arc<ChainState>,
    observed: Vec<AppliedBlock>,
    pruned_to: Option<Height>,
    result: Result<(), StoreError>,
}

/// See the module.
pub(super) struct Executor<A> {
    pub(super) app: A,
    pub(super) writer: Writer,
    /// After the last block executed; may be ahead of what is durable.
    pub(super) state: Arc<ChainState>,
    pub(super) config: Arc<Config>,
    offload: Offload,
    rng: StdRng,
    batch: Batch,
    batch_bytes: usize,
    results: Results,
    committing: Option<Underway>,
    /// Time in which a job stood still for a write.
    waited_in_job: Duration,
    /// Time in which a job let others at the worker.
    yielded_in_job: Duration,
    events: mpsc::Sender<ExecEvent>,
    latest: watch::Sender<Arc<ChainState>>,
    meters: Meters,
    pub(super) stop: CancellationToken,
}

/// The executor's ways out: where it reports, and what stops it.
pub(super) struct Outlets {
    /// Reports.
    pub events: mpsc::Sender<ExecEvent>,
    /// The state after the last block executed, for the verifier.
    pub latest: watch::Sender<Arc<ChainState>>,
    /// What executing and storing takes is noted here.
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
        config: Arc<Config>,
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
        Executor {
            app,
            writer,
            state,
            config,
            offload,
            rng,
            batch,
            batch_bytes: 0,
            results,
            committing,
            waited_in_job: Duration::ZERO,
            yielded_in_job: Duration::ZERO,
            events,
            latest,
            meters,
            stop,
        }
    }

    /// Applies jobs until it is stopped or cannot go on, then writes what it has executed. Gives itself back for the hand-over.
    ///
    /// Order of the arms: a finished write first, since it frees the batch and tells the pool; jobs only while the batch has room.
    pub(super) async fn run(mut self, mut jobs: mpsc::Receiver<Job>) -> Self {
        let stop = self.stop.clone();
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
                job = jobs.recv(), if room => {
                    let Some(job) = job else { break };
                    self.waited(room, idle.elapsed());
                    if !self.job(job).await { return self; }
                }
            }
            if self.committing.is_none() && !self.is_clean() && (self.full() || jobs.is_empty()) {
                self.start_commit();
            }
        }
        self.flush().await;
        self
    }

    /// The executor did nothing for so long: for want of a job, or of room in the batch.
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
        // After a refusal the pool hands everything in again: jobs that were already under way do not fit any more.
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
        self.meters.busy(Stage::Execute, job.blocks.len(), busy);
        match applied {
            Ok(()) => true,
            Err(Refusal::Stopped) => self.flush_part_of(&job).await,
            Err(Refusal::Copy {
                height,
                from,
                fault,
            }) => {
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
                // What was executed before is sound and becomes durable.
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
            if n % AHEAD == 0 {
                self.judge_ahead(&job.blocks[n..]).await;
            }
            self.check(copy).await?;
            let seen = if last {
                Some(self.seen_commit(copy, job.carrier.as_ref()).await?)
            } else {
                None
            };
            let (state, retain) = self.execute(copy).await?;
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

    /// An embedded application's batch may be written only where a job ends: a seen commit belongs to it. Large jobs are kept
    /// small by the pool.
    async fn make_room(&mut self, job_ends: bool) -> Result<(), Refusal> {
        if self.committing.is_some() && !self.write_under_way().await {
            return Err(Refusal::Stopped);
        }
        if job_ends {
            self.start_commit();
        }
        Ok(())
    }

    async fn apply_externally(&mut self, job: &Job) -> Result<(), Refusal> {
        let Some(last) = job.blocks.last() else {
            return Ok(());
        };
        for (n, copy) in job.blocks.iter().enumerate() {
            if self.stop.is_cancelled() {
                return Err(Refusal::Stopped);
            }
            if n % AHEAD == 0 {
                self.judge_ahead(&job.blocks[n..]).await;
            }
            self.check(copy).await?;
            let mut arrived = Batch {
                blocks: vec![record_of(&copy.block)],
                ..Batch::default()
            };
            let is_last = copy.meta.height == last.meta.height;
            if is_last {
                let commit = self.seen_commit(copy, job.carrier.as_ref()).await?;
                arrived.seen_commit = Some((copy.meta.height, commit));
            }
            let (state, retain, response) = self.execute_external(&copy.block, arrived).await?;
            self.record_state(&copy.block, state);
            self.results.observe(&copy.block, &response);
            if is_last {
                self.prune(retain)?;
            }
        }
        self.flush_refusing().await
    }

    /// One block into an external application, with the write before its commit that recovery relies on. `arrived` is what is not stored yet of
    /// the block itself.
    pub(super) async fn execute_external(
        &mut self,
        block: &Fetched,
        arrived: Batch,
    ) -> Result<(ChainState, Height, Bytes), Refusal> {
        let request = self.request(block)?;
        let response = self
            .app
            .finalize_block(request)
            .await
            .map_err(checks::app_failed)?;
        let after = self
            .state
            .advance(&block.block, block.id, &response)
            .map_err(checks::bad_response)?;
        let response = wire::convert::finalize_response_to_bytes(&response);
        let kept = self.results.kept(block.height(), &response);
        let before = Batch {
            state: self.batch.state.take(),
            validators: std::mem::take(&mut self.batch.validators),
            params: std::mem::take(&mut self.batch.params),
            evidence: std::mem::take(&mut self.batch.evidence),
            results: Some((block.height(), response.clone())),
            kept_results: kept.into_iter().collect(),
            ..arrived
        };
        self.write(before).await?;
        let retain = self.app.commit().await.map_err(checks::app_failed)?;
        Ok((after, retain, response))
    }

    fn request(&self, block: &Fetched) -> Result<FinalizeBlock, Refusal> {
        let last = self.state.last_validators.as_deref();
        FinalizeBlock::from_block(&block.block, block.id, last, self.state.initial_height)
            .map_err(|e| Refusal::Ours(LocalFault::Diverged(e.to_string())))
    }

    /// Everything that must hold before a proven copy is executed.
    async fn check(&mut self, copy: &ReceivedBlock) -> Result<(), Refusal> {
        checks::trusted(&self.config, &copy.block)?;
        self.check_extended_commit(copy).await?;
        if !copy.block.evidence().is_empty() {
            // The checks read the store: everything up to here has to be in it, with a commit for its last block.
            self.close_batch(copy).await?;
            self.flush_refusing().await?;
            let (store, state, block) = (
                self.writer.store().clone(),
                self.state.clone(),
                copy.block.clone(),
            );
            let seed: checks::Seed = self.rng.random();
            self.offload
                .cpu(move || checks::evidence(&*store, &state, &block.block, seed))
                .await?;
        }
        loop {
            let now = (self.config.clock)();
            match checks::against_state(&self.state, &copy.block, &self.config, now) {
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

    /// Every height's extended commit is to be judged: those of the next few blocks are, on all cores at once.
    async fn judge_ahead(&mut self, copies: &[ReceivedBlock]) {
        let blocks: Vec<_> = copies
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
        let judge = move || checks::extended_commits_ahead(&offload, &state, blocks, seed, &meters);
        self.offload.cpu(judge).await;
    }

    async fn check_extended_commit(&mut self, copy: &ReceivedBlock) -> Result<(), Refusal> {
        let wanted = self.state.params.vote_extensions_enabled(copy.meta.height);
        let settled = match &copy.block.ext_commit {
            None => !wanted,
            Some(_) => wanted && checks::is_judged_ahead(&self.state, &copy.block),
        };
        if settled {
            return Ok(());
        }
        let (state, block) = (self.state.clone(), copy.block.clone());
        let (meters, seed) = (self.meters.clone(), self.rng.random());
        let judged = self
            .offload
            .cpu(move || checks::extended_commit(&state, &block, wanted, seed, &meters))
            .await;
        judged.map_err(|fault| Refusal::Copy {
            height: copy.meta.height,
            from: copy.from,
            fault,
        })
    }

    /// The fully verified commit for `copy`, encoded, from the carrier's last commit or from what came with the copy.
    async fn seen_commit(
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

    /// Before a write in the middle of a job: the commit for the last executed block is the last commit of `next`.
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

    async fn execute(&mut self, copy: &ReceivedBlock) -> Result<(ChainState, Height), Refusal> {
        let request = self.request(&copy.block)?;
        let response = self
            .app
            .finalize_block(request)
            .await
            .map_err(checks::app_failed)?;
        let state = self
            .state
            .advance(&copy.block.block, copy.meta.id, &response)
            .map_err(checks::bad_response)?;
        if self.results.are_wanted() {
            let response = wire::convert::finalize_response_to_bytes(&response);
            let kept = self.results.kept(copy.meta.height, &response);
            self.batch_bytes += kept.as_ref().map_or(0, |(_, bytes)| bytes.len());
            self.batch.kept_results.extend(kept);
            self.results.observe(&copy.block, &response);
        }
        let retain = self.app.commit().await.map_err(checks::app_failed)?;
        Ok((state, retain))
    }

    fn record(&mut self, copy: &ReceivedBlock, state: ChainState) {
        self.batch.blocks.push(record_of(&copy.block));
        self.batch_bytes += copy.block.raw.len();
        self.record_state(&copy.block, state);
    }

    pub(super) fn record_state(&mut self, block: &Fetched, state: ChainState) {
        let above = block.height().plus(2);
        let is_new = state.last_height_validators_changed == above;
        if is_new || above.get().is_multiple_of(SET_CHECKPOINT) {
            self.batch
                .validators
                .push((above, state.next_validators.clone()));
        }
        if state.params != self.state.params {
            self.batch
                .params
                .push((block.height().next(), state.params.clone()));
        }
        for item in &block.block.evidence {
            self.batch.evidence.push((item.identity(), item.height()));
        }
        self.state = Arc::new(state);
        self.batch.state = Some(self.state.clone());
        self.latest.send_replace(self.state.clone());
    }

    /// What the application no longer needs and we are not told to keep.
    fn prune(&mut self, app_retain: Height) -> Result<(), Refusal> {
        let last = self.state.last_height;
        self.batch.prune_results = self.results.retained_from(last);
        let ours = match self.config.retain_blocks {
            0 => Height::ZERO,
            keep => Height::new((last.get() + 1).saturating_sub(keep)),
        };
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

    fn take_batch(&mut self) -> Batch {
        self.batch_bytes = 0;
        std::mem::take(&mut self.batch)
    }

    fn start_commit(&mut self) {
        let batch = self.take_batch();
        let state = self.state.clone();
        let pruned_to = batch.prune.map(|(retain, _)| retain);
        let observed = self.results.take_observed();
        let writing = Box::pin(self.writing(batch));
        self.committing = Some(Underway {
            state,
            observed,
            pruned_to,
            writing,
        });
    }

    /// Reports a finished write. `false` when it failed: nothing is tried again.
    async fn committed(
        &mut self,
        Written {
            state,
            observed,
            pruned_to,
            result,
        }: Written,
    ) -> bool {
        match result {
            Ok(()) => {
                let heard = self.say(ExecEvent::Applied { state, pruned_to }).await;
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
    async fn write_under_way(&mut self) -> bool {
        let began = Instant::now();
        let done = poll_commit(&mut self.committing).await;
        self.waited_in_job += began.elapsed();
        self.committed(done).await
    }

    /// The same in the middle of a job. The block above the last one executed is certified, too, so it has the commit for it that consensus
    /// would start from; were that not so, nothing but this commit would be missing until the next block.
    async fn flush_part_of(&mut self, job: &Job) -> bool {
        let next = self.state.next_height();
        if let Some(copy) = job.blocks.iter().find(|c| c.meta.height == next) {
            let _ = self.close_batch(copy).await;
        }
        self.flush().await
    }

    async fn flush_refusing(&mut self) -> Result<(), Refusal> {
        if self.flush().await {
            Ok(())
        } else {
            Err(Refusal::Stopped)
        }
    }

    async fn write(&mut self, batch: Batch) -> Result<(), Refusal> {
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
        let commit = move || meters.work(Stage::Store, blocks, || store.commit(batch));
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

    /// What a stored block above the state must pass before it is executed: it is certified, so only our own state is in question.
    pub(super) fn check_stored(&self, block: &Fetched) -> Result<(), Refusal> {
        checks::trusted(&self.config, block)?;
        let now = (self.config.clock)();
        match checks::against_state(&self.state, block, &self.config, now) {
            Ok(()) | Err(checks::Against::AheadOfClock(_)) => Ok(()),
            Err(checks::Against::Diverged(why)) => Err(Refusal::Ours(LocalFault::Diverged(why))),
        }
    }

    async fn say(&mut self, event: ExecEvent) -> bool {
        self.events.send(event).await.is_ok()
    }
}

/// The result of the write under way; pending for ever when there is none. Cancel safe: the write stays where it is.
async fn poll_commit(committing: &mut Option<Underway>) -> Written {
    let Some(underway) = committing else {
        return std::future::pending().await;
    };
    let result = underway.writing.as_mut().await;
    let (state, pruned_to) = (underway.state.clone(), underway.pruned_to);
    let observed = std::mem::take(&mut underway.observed);
    *committing = None;
    Written {
        state,
        observed,
        pruned_to,
        result,
    }
}

/// A proven copy as it is stored: the bytes that came.
pub(super) fn record_of(block: &Fetched) -> BlockRecord {
    BlockRecord {
        height: block.height(),
        id: block.id,
        raw: block.raw.clone(),
        ext_raw: block.ext_raw.clone(),
    }
}
