//! The road of a block into an external application, which keeps its own durable state.
//!
//! # Order of writes, and what a kill leaves behind
//! For each height H:
//!
//! 1. Everything that H's copy and its commit can be refused for is judged: that needs the state
//!    after H−1.
//! 2. The write W(H) begins: the block H, the state after H−1, and what the header H+1 says that
//!    execution of H gives, when H+1 is in hand (the *expectation*). It begins while the
//!    application commits H−1, where H can be judged then (`early`), and with its execution
//!    otherwise. Meanwhile the application executes H.
//! 3. Its answer is held against the certified header H+1. A wrong binary, a damaged state, a block
//!    that was executed twice: all stop us here, with nothing committed. (Before ABCI 2.0 the hash
//!    is not among the answers. It comes with 5, and is held against the header then.)
//! 4. W(H) has become durable. When the state after H does not follow from the expectation alone
//!    (validators or params change, or H is the tip), a second write makes the answer itself
//!    durable.
//! 5. The application commits H, and `Applied` is said. The state after H goes with W(H+1), or is
//!    written when there is nothing to do.
//!
//! | a kill | leaves | the next start |
//! |---|---|---|
//! | before W(H) is durable | nothing of H, the application at H−1 | is given H anew |
//! | after W(H), before H−1 is committed | H stored, the state at H−1, the application at H−2, perhaps with an unfinished H−1 | announces H−1, executes it from the store, then H |
//! | between W(H) and 5 | H stored, the application at H−1, perhaps with an unfinished H | announces H, then executes it |
//! | after 5, before W(H+1) | the application at H, the state at H−1 | takes the stored answer, or follows the expectation; the hash is the one that Info names |
//!
//! An application that lives on while we are killed may have executed H completely. Some take that
//! back when H is announced; the Cosmos SDK does not (its `FinalizeBlock` writes into the stores
//! that `Commit` saves), and executes H on top of H. Step 3 sees it: the start ends and asks for a
//! restart of the application, with nothing committed.
//!
//! So one transaction a height covers a block and the state below it, and is waited for only when
//! it takes longer than a commit and an execution. The application is never more than one height
//! ahead of the state, and never ahead of what the state can be found from. A power loss may take
//! the application further back than us: then start-up executes the stored blocks again
//! (`startup`).
//!
//! # What a write waits for
//! Three syncs, one after the other, would be the file of the blocks' bytes, the pages of the
//! database, and its meta page. The first is the slowest, since the file grows, and it is the one
//! that need not be paid for each height: bytes may be durable long before anything names them. So
//! W(H) takes the bytes of the next blocks along (`Batch::ahead`), and the writes of those heights
//! sync the database alone. A kill leaves bytes without a name, which the next opening cuts off:
//! the table above stays as it is.
//!
//! The other two are not shared. A write for several heights would have to be durable before the
//! first of them is committed: it would hold blocks that cannot be judged yet, since H+1 is judged
//! against the state after H, and an application several heights ahead of the state after a kill.
//! The headers name all that such a start needs where neither validators nor params change, and
//! blocks could be judged by the state that they name. But start-up, a lost connection, the way
//! back from consensus, and import and export of homes all take "one height ahead" as the most
//! there can be, and each would have to learn to follow more. `benches/README.md` has what it
//! could bring: nothing beside an application of the Cosmos SDK, which commits and executes for
//! longer than a write takes.

use std::collections::VecDeque;
use std::iter;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::{Duration, Instant};

use super::batches::record_of;
use super::checks::{self, Refusal};
use super::early::Early;
use super::executor::{ExecEvent, Executed, Executor, Job, ReceivedBlock};
use super::expectation::{Expectation, Stored};
use super::remembered::weight;
use super::stages::{Meters, Stage};
use super::startup::{self, StartError};
use crate::app::{App, AppError, AppInfo};
use crate::chain::{ChainState, Fetched, FinalizeResponse, validate};
use crate::ids::Height;
use crate::pool::LocalFault;
use crate::store::{Batch, BlockRecord};
use crate::wire;

/// Most blocks whose bytes become durable along with those of the one that is due.
const AHEAD: usize = 64;
/// Most bytes of them: a block must not wait long for those of others.
const AHEAD_BYTES: usize = 4 << 20;
/// A call that takes longer is told of, and then each time it has taken as long again.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// How long a block waits for proof that the one above it, which says something else than the
/// application, is the right one.
const PROOF_FOR: Duration = Duration::from_secs(10);
/// Between two attempts to reach an application that is gone.
pub(super) const RETRY_EVERY: Duration = Duration::from_millis(500);
/// Number of lost connections over one block after which the application counts as refusing it.
pub(super) const MOST_LOSSES: u32 = 3;

/// The height above the one that is executed, as far as it is known.
pub(super) struct Above {
    expected: Expectation,
    /// The block itself; not when only what is expected was stored.
    block: Option<Arc<Fetched>>,
}

/// Jobs, in order; those that have come may be looked at before their time.
#[derive(Default)]
pub(super) struct Jobs {
    from: Option<mpsc::Receiver<Job>>,
    /// Taken from the channel. Bounded as the heights are that the pool lets the executor hold.
    next: VecDeque<Job>,
    /// The best claim of a peer when the last job was made: applications are told how far there is
    /// to go.
    target: Height,
    /// The highest block whose bytes were given to the store ahead of its time.
    ahead_to: Height,
    /// The write that has begun before the block below was committed.
    pub(super) early: Option<Early>,
}

impl Jobs {
    pub(super) fn new(from: mpsc::Receiver<Job>) -> Self {
        Jobs {
            from: Some(from),
            ..Jobs::default()
        }
    }

    /// The next job; `None` when there will be none. Cancel safe.
    pub(super) async fn recv(&mut self) -> Option<Job> {
        let job = match (self.next.pop_front(), &mut self.from) {
            (Some(job), _) => Some(job),
            (None, Some(jobs)) => jobs.recv().await,
            (None, None) => None,
        }?;
        self.target = job.target;
        Some(job)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.next.is_empty() && self.from.as_ref().is_none_or(mpsc::Receiver::is_empty)
    }

    /// Whether there may be more. During start-up nothing comes.
    pub(super) fn can_come(&self) -> bool {
        self.from.is_some()
    }

    /// All jobs that have come, left where they are.
    fn queued(&mut self) -> &VecDeque<Job> {
        if let Some(jobs) = &mut self.from {
            self.next.extend(iter::from_fn(|| jobs.try_recv().ok()));
        }
        &self.next
    }

    /// The blocks above the first of these whose bytes may become durable along with its own: none
    /// while some of those given before are left.
    pub(super) fn ahead(&mut self, blocks: &[ReceivedBlock]) -> Vec<BlockRecord> {
        let height = blocks[0].meta.height;
        if height <= self.ahead_to {
            return Vec::new();
        }
        let mut bytes = 0;
        let small = |record: &BlockRecord| {
            bytes += weight(record);
            bytes <= AHEAD_BYTES
        };
        let later = self.queued().iter().flat_map(|job| &job.blocks);
        let next = blocks[1..].iter().chain(later).take(AHEAD);
        let ahead: Vec<_> = next
            .map(|copy| record_of(&copy.block))
            .take_while(small)
            .collect();
        self.ahead_to = height.plus(ahead.len() as u64);
        ahead
    }

    /// The next job, left where it is, when it has come. Cancel safe.
    async fn look(&mut self) -> Option<&Job> {
        if self.next.is_empty() {
            self.next.push_back(self.from.as_mut()?.recv().await?);
        }
        self.next.front()
    }
}

/// Tells of a call into the application that takes long.
struct Watch {
    /// Nobody listens during start-up.
    events: Option<mpsc::Sender<ExecEvent>>,
    meters: Meters,
    call: &'static str,
    height: Height,
}

impl Watch {
    /// The call's result. Its time counts as work while it lasts.
    async fn over<T>(self, call: impl Future<Output = T>) -> T {
        let began = Instant::now();
        let mut counted = began;
        tokio::pin!(call);
        loop {
            let told = tokio::time::sleep_until(counted + TELL_EVERY);
            let done = tokio::select! {
                biased;
                done = &mut call => Some(done),
                () = told => None,
            };
            let now = Instant::now();
            self.meters.at_work(Stage::Execute, now - counted);
            counted = now;
            if let Some(done) = done {
                self.meters.figures().called(self.call, now - began);
                return done;
            }
            let (call, height, time) = (self.call, self.height, now - began);
            let words = format!(
                "waiting for the application: {call} {height}, for {} s",
                time.as_secs()
            );
            if let Some(events) = &self.events {
                // A reactor that is behind hears of it later.
                let _ = events.try_send(ExecEvent::Calling(Some(words)));
            }
        }
    }
}

/// A lost connection, or anything else that ends a block.
enum Failed {
    App(AppError),
    Refusal(Refusal),
}

impl From<Refusal> for Failed {
    fn from(refusal: Refusal) -> Self {
        Failed::Refusal(refusal)
    }
}

impl<A: App> Executor<A> {
    pub(super) async fn apply_externally(&mut self, job: &Job) -> Result<(), Refusal> {
        for (n, copy) in job.blocks.iter().enumerate() {
            let begun = self.has_begun(copy.meta.height);
            // A block whose write has begun is executed, too: whoever takes over finds the store no
            // further than its state.
            if self.stop.is_cancelled() && !begun {
                return Err(Refusal::Stopped);
            }
            self.judge_ahead(&job.blocks, n).await;
            if !begun {
                self.check(copy).await?;
            }
            let mut arrived = Batch::default();
            if n + 1 == job.blocks.len() {
                let commit = self.seen_commit(copy, job.carrier.as_ref()).await?;
                arrived.seen_commit = Some((copy.meta.height, commit));
            }
            let above = self.above(job, n);
            arrived.ahead = self.jobs.ahead(&job.blocks[n..]);
            let next = Some((job, n + 1));
            let executing = self.execute_external(&copy.block, arrived, above, next);
            let response = executing.await?;
            self.results.observe(&copy.block, &response);
        }
        Ok(())
    }

    /// The block above the n-th of a job: proven, when it is in this job or the next, otherwise the
    /// carrier of the commit.
    pub(super) fn above(&mut self, job: &Job, n: usize) -> Option<Above> {
        let id = job.blocks[n].meta.id;
        let next = self.jobs.queued().front();
        let next = next.and_then(|next| next.blocks.first());
        let proven = job.blocks.get(n + 1).or(next);
        let (copy, certified) = match proven.filter(|c| c.meta.parent == id) {
            Some(proven) => (proven, true),
            None => (job.carrier.as_ref().filter(|c| c.meta.parent == id)?, false),
        };
        Above::of(&copy.block, certified)
    }

    /// One block into the external application. `arrived` is what is not stored yet beside the
    /// block itself, `next` the block above it in its job, if it is in one. Gives the response,
    /// encoded, when anybody wants it.
    pub(super) async fn execute_external(
        &mut self,
        block: &Fetched,
        arrived: Batch,
        above: Option<Above>,
        next: Option<(&Job, usize)>,
    ) -> Result<Bytes, Refusal> {
        if !self.has_begun(block.height()) {
            // The state below may be on its way to the disk already: one write at a time.
            if self.committing.is_some() && !self.write_under_way().await {
                return Err(Refusal::Stopped);
            }
            self.begin_write(block, arrived, above.as_ref());
        }
        self.forget_early();
        self.losses = 0;
        let (executed, retain) = match self.insist(block, above.as_ref(), next).await {
            Ok(done) => done,
            Err(refusal) => {
                self.keep_early();
                return Err(refusal);
            }
        };
        let Executed {
            after, response, ..
        } = executed;
        self.unsure = false;
        // A write that began early has the state already.
        if self.jobs.early.is_some() {
            self.applied(block, Arc::new(after));
        } else {
            self.record_state(block, after);
        }
        self.prune(retain)?;
        self.meters.unmeasured(Stage::Execute);
        let state = self.state.clone();
        self.say(ExecEvent::Applied {
            state,
            pruned_to: None,
        })
        .await;
        Ok(response)
    }

    /// Executes and commits a block, again and again where the application is lost and comes back.
    async fn insist(
        &mut self,
        block: &Fetched,
        above: Option<&Above>,
        next: Option<(&Job, usize)>,
    ) -> Result<(Executed, Height), Refusal> {
        loop {
            match self.attempt(block, above, next).await {
                Ok(done) => return Ok(done),
                Err(Failed::Refusal(refusal)) => return Err(refusal),
                Err(Failed::App(error)) => {
                    if let Some(executed) = self.regain(error).await? {
                        return Ok((executed, Height::ZERO));
                    }
                    // This block's results may be written now, over what the write that began early
                    // has of the block above: it has to come again.
                    self.forget_early();
                }
            }
        }
    }

    /// W(H): starts to write a block with all that is pending of those below it.
    pub(super) fn begin_write(&mut self, block: &Fetched, arrived: Batch, above: Option<&Above>) {
        let mut batch = self.take_batch();
        // It is there when start-up executes it, and when we were taken out in its middle.
        if block.height() > self.stored {
            self.stored = block.height();
            batch.blocks.push(record_of(block));
        }
        batch.ahead = arrived.ahead;
        batch.seen_commit = arrived.seen_commit.or(batch.seen_commit);
        batch.results = above.map(|above| (block.height(), above.expected.encode()));
        self.start_write(batch, None);
    }

    /// Executes a block, holds what it gave against the chain, makes it recoverable, and lets the
    /// application commit it. May be repeated when the connection was lost.
    async fn attempt(
        &mut self,
        block: &Fetched,
        above: Option<&Above>,
        next: Option<(&Job, usize)>,
    ) -> Result<(Executed, Height), Failed> {
        let height = block.height();
        self.executing = None;
        let mut request = self.request(block)?;
        request.syncing_to = self.jobs.target.max(height);
        // The application may hold a block that was never committed. ProcessProposal takes it back
        // where an application can; at the initial height InitChain has done so.
        let announced = self.unsure && height > self.state.initial_height;
        if announced {
            let watch = self.watch("ProcessProposal", height);
            let announcing = self.app.announce_block(&request);
            watch.over(announcing).await.map_err(Failed::App)?;
        }
        let watch = self.watch("FinalizeBlock", height);
        let executing = self.app.finalize_block(request);
        let response = watch.over(executing).await.map_err(Failed::App)?;
        let mut after = self
            .state
            .advance(
                &block.block,
                block.id,
                &response,
                self.config.rules.at(height),
            )
            .map_err(checks::bad_response)?;
        let late = response.app_hash_is_late;
        // Before anything is written: a wrong result must leave store and application as they were.
        let hash_is_settled = self
            .hold_against(above, &mut after, late, announced)
            .await?;
        // Once the application commits, a restart finds it one block ahead and needs this record.
        let response = self.make_recoverable(&response, &after, above).await?;
        self.executing = Some(Executed {
            after,
            hash_is_settled,
            response,
        });
        if let Some(next) = next {
            self.begin_early(block, next);
        }
        let watch = self.watch("Commit", height);
        let retain = watch.over(self.app.commit()).await.map_err(Failed::App)?;
        let mut executed = self.executing.take().ok_or(Refusal::Stopped)?;
        if let Some(hash) = self.app.committed_hash().filter(|_| late) {
            let settled = executed.settle(&hash);
            settled.map_err(|why| diverged(committed_contradiction(&why, announced)))?;
        }
        Ok((executed, retain))
    }

    fn watch(&self, call: &'static str, height: Height) -> Watch {
        Watch {
            events: self.jobs.can_come().then(|| self.events.clone()),
            meters: self.meters.clone(),
            call,
            height,
        }
    }

    /// Holds what execution gave against the header above, before anything is committed. One that
    /// is not proven yet is waited for when it differs: it may be forged. A hash that comes late is
    /// taken from there. Gives whether the state's hash is settled.
    async fn hold_against(
        &mut self,
        above: Option<&Above>,
        after: &mut ChainState,
        late: bool,
        announced: bool,
    ) -> Result<bool, Refusal> {
        let Some(above) = above else {
            return Ok(!late);
        };
        let take_hash = |after: &mut ChainState, above: &Above| {
            if late {
                after.app_hash = above.expected.app_hash.clone();
            }
        };
        take_hash(after, above);
        let Some(mut why) = above.differs(after) else {
            return Ok(!late || above.expected.certified);
        };
        if !above.expected.certified {
            // Nothing more is on its way that could prove the block above.
            if !self.jobs.can_come() {
                return Err(Refusal::Unproven);
            }
            let Some(proven) = self.proven_above(after).await? else {
                return Ok(!late);
            };
            take_hash(after, &proven);
            match proven.differs(after) {
                Some(proven) => why = proven,
                None => return Ok(true),
            }
        }
        Err(contradicts(after.last_height, &why, announced))
    }

    /// The proven block above, when it comes in time.
    async fn proven_above(&mut self, after: &ChainState) -> Result<Option<Above>, Refusal> {
        let words = format!(
            "block {}: the application gives something else than block {} says, which is not proven yet: waiting for proof",
            after.last_height,
            after.next_height()
        );
        self.say(ExecEvent::Calling(Some(words))).await;
        let began = Instant::now();
        let (jobs, stop) = (&mut self.jobs, &self.stop);
        let found = tokio::select! {
            biased;
            () = stop.cancelled() => return Err(Refusal::Stopped),
            next = jobs.look() => next.and_then(|job| job.blocks.first()),
            () = tokio::time::sleep(PROOF_FOR) => None,
        };
        self.yielded_in_job += began.elapsed();
        let found = found.filter(|copy| copy.meta.parent == after.last_block_id);
        Ok(found.and_then(|copy| Above::of(&copy.block, true)))
    }

    /// Waits for W(H), and writes the response itself when a restart could not find the state
    /// without it, or when it is to be kept. Gives it encoded when anybody wants it.
    async fn make_recoverable(
        &mut self,
        response: &FinalizeResponse,
        after: &ChainState,
        above: Option<&Above>,
    ) -> Result<Bytes, Refusal> {
        if self.committing.is_some() && !self.write_under_way().await {
            return Err(Refusal::Stopped);
        }
        let follows = above.is_some_and(|a| a.expected.suffices(&self.state, response, after));
        if follows && !self.results.are_wanted() {
            return Ok(Bytes::new());
        }
        let height = after.last_height;
        let bytes = wire::convert::finalize_response_to_bytes(response);
        let kept = self.results.kept(height, &bytes);
        if !follows || kept.is_some() {
            self.write(Batch {
                results: Some((height, bytes.clone())),
                kept_results: kept.into_iter().collect(),
                ..Batch::default()
            })
            .await?;
        }
        Ok(bytes)
    }

    /// The application is lost, or refuses. Waits until it is back at our state's height, or has
    /// committed the block whose state that is then. In the middle of `Commit` both are possible.
    async fn regain(&mut self, error: AppError) -> Result<Option<Executed>, Refusal> {
        let height = self.state.next_height();
        self.unsure = true;
        if self.executing.is_none() {
            self.losses += 1;
        }
        if !error.is_lost() || !self.app.reconnect() || self.config.app_retry.is_zero() {
            return Err(checks::app_failed_at(height, &error));
        }
        if self.losses >= MOST_LOSSES {
            let why = format!(
                "{error}, each of the {} times that it was given this block; its log may say why",
                self.losses
            );
            return Err(Refusal::Ours(LocalFault::Halted { height, why }));
        }
        let began = Instant::now();
        let found = self.try_to_regain(error).await;
        self.yielded_in_job += began.elapsed();
        self.say(ExecEvent::Calling(None)).await;
        found
    }

    async fn try_to_regain(&mut self, error: AppError) -> Result<Option<Executed>, Refusal> {
        let (height, stop) = (self.state.next_height(), self.stop.clone());
        let (patience, until) = (
            self.config.app_retry,
            Instant::now() + self.config.app_retry,
        );
        let mut lost = error;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let why = format!(
                    "{lost}; tried for {} s at block {height}",
                    patience.as_secs()
                );
                return Err(Refusal::Ours(LocalFault::App(why)));
            }
            let words = format!("{lost}; trying again for {} s", left.as_secs());
            self.say(ExecEvent::Calling(Some(words))).await;
            let info = tokio::select! {
                biased;
                () = stop.cancelled() => return Err(Refusal::Stopped),
                info = tokio::time::timeout(left, self.app.info()) => info,
            };
            match info {
                Ok(Ok(info)) => match self.rejoin(&info).await {
                    Ok(committed) => return Ok(committed),
                    Err(Failed::App(error)) if error.is_lost() => lost = error,
                    Err(Failed::App(error)) => return Err(checks::app_failed_at(height, &error)),
                    Err(Failed::Refusal(refusal)) => return Err(refusal),
                },
                Ok(Err(error)) if error.is_lost() => lost = error,
                Ok(Err(error)) => return Err(checks::app_failed_at(height, &error)),
                Err(_) => {}
            }
            // A pause after each attempt; the first comes without one, since most applications are
            // back at once.
            self.app.reconnect();
            tokio::select! {
                biased;
                () = stop.cancelled() => return Err(Refusal::Stopped),
                () = tokio::time::sleep(RETRY_EVERY) => {}
            }
        }
    }

    /// Compares where the application is with where we are, and executes on it what it has lost.
    async fn rejoin(&mut self, info: &AppInfo) -> Result<Option<Executed>, Failed> {
        if let Some(mut executed) = self.executing.take()
            && info.last_height == executed.after.last_height
        {
            executed.settle(&info.last_app_hash).map_err(diverged)?;
            return Ok(Some(executed));
        }
        // Blocks that it has to be given again are read from the store.
        self.flush_refusing().await?;
        let (events, state) = (self.events.clone(), self.state.clone());
        let told = move |done: Height, of: Height| {
            let words = format!("executing stored blocks on the application again: {done} of {of}");
            let _ = events.try_send(ExecEvent::Calling(Some(words)));
        };
        let caught_up = startup::CatchUp {
            writer: &self.writer,
            genesis: &self.genesis,
            config: &self.config,
            state: &state,
            told: &told,
        };
        match caught_up.run(&mut self.app, info, true).await {
            Ok(()) => Ok(None),
            Err(StartError::App(error)) => Err(Failed::App(error)),
            Err(other) => Err(refused(other).into()),
        }
    }

    /// While there is nothing to do: whether the application is still there. `false` ends the run.
    pub(super) async fn look_after(&mut self) -> bool {
        let Err(error) = self.app.ping().await else {
            return true;
        };
        self.losses = 0;
        self.executing = None;
        match self.regain(error).await {
            Err(Refusal::Ours(fault)) => {
                self.say(ExecEvent::Fault(fault)).await;
                false
            }
            Ok(_) | Err(_) => true,
        }
    }

    /// Executes a block that is stored above the state. The application may have committed it
    /// already, with this hash: then the state follows from what was stored for that.
    pub(super) async fn replay_external(
        &mut self,
        block: &Fetched,
        above: Option<Arc<Fetched>>,
        committed: Option<&Bytes>,
    ) -> Result<(), Refusal> {
        self.check_stored(block)?;
        let results = self.writer.store().results();
        let results = results.map_err(checks::store_failed)?;
        let rules = self.config.rules.at(block.height());
        let groups = rules.params.groups;
        let stored = match results.filter(|(height, _)| *height == block.height()) {
            Some((_, bytes)) => Some(Stored::decode(&bytes, groups).map_err(|why| {
                Refusal::Ours(LocalFault::Store(format!("stored results: {why}")))
            })?),
            None => None,
        };
        if let Some(hash) = committed {
            let stored = stored.ok_or(Refusal::Stopped)?;
            let after = stored.advance(&self.state, block, rules);
            let mut executed = Executed {
                after: after.map_err(checks::bad_response)?,
                hash_is_settled: stored.is_certified(),
                response: Bytes::new(),
            };
            executed.settle(hash).map_err(diverged)?;
            self.record_state(block, executed.after);
            return Ok(());
        }
        let above = match (above, stored) {
            (Some(block), _) => Above::of(&block, true),
            // An answer that differs from the one before is not committed until there is proof of
            // which is right.
            (None, Some(stored)) => Some(Above {
                expected: stored.into_expectation(),
                block: None,
            }),
            (None, None) => None,
        };
        let executing = self.execute_external(block, Batch::default(), above, None);
        executing.await?;
        Ok(())
    }
}

impl Executed {
    /// Takes the hash that the application has after its commit.
    ///
    /// # Errors
    /// When another one was settled.
    fn settle(&mut self, hash: &Bytes) -> Result<(), String> {
        let after = &mut self.after;
        if self.hash_is_settled && after.app_hash != *hash {
            let (height, expected) = (after.last_height, &after.app_hash);
            return Err(startup::app_hash_differs(height, expected, hash));
        }
        after.app_hash = hash.clone();
        self.hash_is_settled = true;
        Ok(())
    }
}

impl Above {
    fn of(block: &Arc<Fetched>, certified: bool) -> Option<Self> {
        let header = &block.block.header;
        let expected = Expectation {
            certified,
            results_hash: header.last_results_hash?,
            app_hash: header.app_hash.clone(),
        };
        let block = Some(block.clone());
        Some(Above { expected, block })
    }

    /// In what the state after the height below differs from it.
    fn differs(&self, after: &ChainState) -> Option<String> {
        match &self.block {
            Some(block) => {
                let header = &block.block.header;
                let held = validate::check_executed(after, header);
                held.err().map(|why| why.to_string())
            }
            None => self.expected.differs(after),
        }
    }
}

/// Start-up's words for what cannot go on, as the executor's.
fn refused(why: StartError) -> Refusal {
    Refusal::Ours(match why {
        StartError::Diverged(why) => LocalFault::Diverged(why),
        StartError::Halted { height, why } => LocalFault::Halted { height, why },
        StartError::Store(why) => LocalFault::Store(why.to_string()),
        other => LocalFault::App(other.to_string()),
    })
}

/// The words for a block whose execution gave something else than the chain has.
pub(super) fn contradiction(height: Height, why: &str, announced: bool) -> Result<String, String> {
    if announced {
        return Err(format!(
            "{why}. Nothing of block {height} has been committed. It is the first block since we are connected to an application that was \
             running before: it may hold an unfinished block of an earlier connection. Restart the application, then start again; if it \
             is the same then, application and chain differ"
        ));
    }
    Ok(format!(
        "{why}; nothing of block {height} has been committed"
    ))
}

/// The same for a contradiction that shows only after the commit, as before ABCI 2.0.
pub(super) fn committed_contradiction(why: &str, announced: bool) -> String {
    let unfinished = if announced {
        ". It was the first block since we are connected to an application that was running before, which may have held an \
         unfinished block of an earlier connection"
    } else {
        ""
    };
    format!(
        "{why}; the application has committed the block{unfinished}. Restore a copy of the application of a lower height, or \
         reset it, then start again"
    )
}

fn diverged(why: String) -> Refusal {
    Refusal::Ours(LocalFault::Diverged(why))
}

fn contradicts(height: Height, why: &str, announced: bool) -> Refusal {
    Refusal::Ours(match contradiction(height, why, announced) {
        Ok(why) => LocalFault::Diverged(why),
        Err(why) => LocalFault::App(why),
    })
}

#[cfg(test)]
#[path = "external_tests.rs"]
pub(super) mod tests;
