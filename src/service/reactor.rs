//! The reactor: feeds the pool and performs its effects. It awaits only in its `select`; performing
//! an effect never waits. An effect that cannot be handed over comes back to the pool as an input.

mod advertise;
mod connections;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::batches::record_of;
use super::config::{AfterCaughtUp, Config};
use super::executor::{ExecEvent, Job, ReceivedBlock};
use super::offload::Offload;
use super::peer::Command;
use super::server::{Served, Server};
use super::snapshot::{PeerSnapshot, Snapshot};
use super::stages::Meters;
use super::status::{Event, Phase, Status, SyncSpan, SyncStart};
use super::told::Told;
use super::trust::Trust;
use super::verifier::Task as VerifierTask;
use crate::chain::{ChainState, Fetched};
use crate::ids::{ConnId, Height, PeerId};
use crate::link::{Bans, Configured, Link};
use crate::pool::{AskId, Effect, Input, LocalFault, Outcome, Pool, Reading, Tick};
use crate::sparing::Sparingly;
use crate::store::{BlockRecord, Store};
use crate::wire::Cancel;

/// Inputs of peers that are taken in one turn; the others get theirs in the next.
const TURN: usize = 256;

/// Commands that wait for one peer's task. More than a peer's asks, so that a refusal means a task
/// that is stuck.
const COMMANDS: usize = 4096;

/// Requests that can be taken back: more than the pool has open.
const ASKS: usize = 1 << 14;

type PoolInput = Input<Arc<Fetched>>;
type PoolEffect = Effect<Arc<Fetched>>;

/// The executor's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Not there yet: a state is waited for, and written to the store by its bringer.
    Awaited,
    /// At work here.
    Here,
    /// On its way out: it finishes what it has, and still reports.
    Leaving,
    /// Handed out: the store is written by its new owner.
    Out,
    /// Gone without being taken: it has panicked.
    Lost,
}

impl Place {
    /// Consensus has it, or is about to.
    fn is_taken(self) -> bool {
        matches!(self, Place::Leaving | Place::Out)
    }

    /// Others write to the store, or are about to.
    fn is_elsewhere(self) -> bool {
        self.is_taken() || self == Place::Awaited
    }

    /// Reports of it may come.
    fn reports(self) -> bool {
        matches!(self, Place::Here | Place::Leaving)
    }
}

/// Requests of the service's user to the reactor.
pub(super) enum Request {
    /// A peer's connection.
    AddPeer(Link),
    /// A snapshot of the work now.
    Snapshot(oneshot::Sender<Snapshot>),
    /// The executor has been taken out (hand-over): nothing is applied until `Resume`.
    Detach(oneshot::Sender<()>),
    /// Consensus gave the writer back; a new executor stands behind `jobs`.
    Resume {
        /// To the new executor.
        jobs: mpsc::Sender<Job>,
        /// From it.
        events: mpsc::Receiver<ExecEvent>,
        /// Consensus' last state.
        state: Arc<ChainState>,
        /// The store's word on the block that must be on the chain.
        trust: Option<Trust>,
        /// The reason for which it begins.
        why: SyncStart,
    },
}

/// Everything the reactor is wired to.
pub(super) struct Wiring {
    pub(super) config: Arc<Config>,
    pub(super) offload: Offload,
    pub(super) meters: Meters,
    pub(super) server: Server,
    pub(super) served: watch::Sender<Served>,
    pub(super) status: watch::Sender<Status>,
    pub(super) events: Told<Event>,
    pub(super) requests: mpsc::Receiver<Request>,
    pub(super) verifier: mpsc::Sender<VerifierTask>,
    pub(super) verdicts: mpsc::Receiver<PoolInput>,
    pub(super) jobs: mpsc::Sender<Job>,
    pub(super) executed: mpsc::Receiver<ExecEvent>,
    pub(super) store: Arc<dyn Store>,
    pub(super) committed: watch::Receiver<()>,
    pub(super) stop: CancellationToken,
    #[cfg(feature = "record")]
    pub(super) recorder: Option<super::recorder::Recorder>,
}

struct Conn {
    peer: PeerId,
    address: String,
    commands: mpsc::Sender<Command>,
    hangup: CancellationToken,
    /// Height that it says it has.
    claim: Height,
}

pub(super) struct Reactor {
    pool: Pool<Arc<Fetched>>,
    wiring: Wiring,
    /// In order, so that the same run tells them the same things in the same order.
    conns: BTreeMap<ConnId, Conn>,
    /// Connections that are over, and where they were, `DEPARTED` at most: a copy that came over
    /// one of them may still be proven wrong.
    departed: VecDeque<(ConnId, String)>,
    peers: JoinSet<()>,
    /// Which peers are read, for all their tasks.
    reading: watch::Sender<Reading>,
    /// The tables of bans of the transports that have given us links. A peer that has hung up is
    /// banned there, too.
    tables: Vec<Bans>,
    /// The configured peers of the first transport that has a list of them.
    configured: Option<watch::Receiver<Configured>>,
    /// Log lines about other peers.
    lines: Sparingly,
    /// The latest requests, ascending, for those that are taken back.
    asks: VecDeque<(AskId, ConnId, Cancel)>,
    /// Blocks that the executor has, ascending: once applied they are kept for peers that want them
    /// soon after.
    applying: VecDeque<BlockRecord>,
    next_conn: u64,
    started: Instant,
    inputs: mpsc::Sender<PoolInput>,
    inbox: mpsc::Receiver<PoolInput>,
    todo: VecDeque<PoolInput>,
    executor: Place,
    /// The first block that goes into a store that is empty.
    first: Height,
    stale: bool,
    /// Consensus has the writer: when it committed last, or was last said to be behind.
    committed_at: Instant,
    /// When consensus was last said to be behind a height that a peer has proven.
    proven_at: Option<Instant>,
    /// When peers were last told of a change, and whether there is one that they have not been told
    /// of.
    told: (Instant, bool),
    /// Nobody produces blocks without us.
    indispensable: bool,
    /// The sync under way.
    sync: SyncSpan,
}

/// Shortest time after which consensus that commits nothing is looked into.
const LEAST_TRIGGER: Duration = Duration::from_secs(1);

/// Connections that are over whose addresses are remembered.
const DEPARTED: usize = 256;

/// Whether our own validator has a third of the power that signs the next block, or more.
fn is_indispensable(config: &Config, state: &ChainState) -> bool {
    let set = &state.validators;
    let ours = config.local_validator.and_then(|own| set.by_address(&own));
    ours.is_some_and(|(_, v)| i128::from(v.power) * 3 >= i128::from(set.total_power()))
}

/// Waits until the configured peers change. Where they cannot any more, they stay as they were.
async fn changed(configured: &mut Option<watch::Receiver<Configured>>) {
    if let Some(receiver) = configured
        && receiver.changed().await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

impl Reactor {
    pub(super) fn new(wiring: Wiring, state: &ChainState, executor: Place) -> Self {
        let (applied, initial) = (state.last_height, state.initial_height);
        let pool = Pool::new(wiring.config.pool.clone(), applied, initial, Tick(0));
        let indispensable = is_indispensable(&wiring.config, state);
        let (inputs, inbox) = mpsc::channel(TURN * 2);
        Reactor {
            pool,
            wiring,
            conns: BTreeMap::new(),
            departed: VecDeque::new(),
            peers: JoinSet::new(),
            reading: watch::Sender::default(),
            tables: Vec::new(),
            configured: None,
            lines: Sparingly::default(),
            asks: VecDeque::new(),
            applying: VecDeque::new(),
            next_conn: 0,
            started: Instant::now(),
            inputs,
            inbox,
            todo: VecDeque::new(),
            executor,
            first: state.next_height(),
            stale: true,
            committed_at: Instant::now(),
            proven_at: None,
            told: (Instant::now(), false),
            indispensable,
            sync: SyncSpan::new(applied),
        }
    }

    /// Runs until stopped, then hangs up and joins every peer's task.
    ///
    /// Order of the arms: stop; then what frees room (verdicts, applied blocks) before what fills
    /// it (peers); requests of the user before peers, since a flood of blocks must not keep a new
    /// peer or a hand-over waiting. A peer's turn is bounded by `TURN`, and each turn ends with all
    /// effects performed.
    pub(super) async fn run(mut self) {
        let stop = self.wiring.stop.clone();
        let mut turn = Vec::with_capacity(TURN);
        let trigger = self.wiring.config.trigger_timeout.max(LEAST_TRIGGER);
        let advertise_time = self.wiring.config.serve.every();
        self.begin();
        loop {
            let deadline = self.deadline();
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(verdict) = self.wiring.verdicts.recv() => self.feed(verdict),
                event = self.wiring.executed.recv(), if self.executor.reports() => self.executed(event),
                Ok(()) = self.wiring.committed.changed() => self.committed(),
                () = tokio::time::sleep_until(self.told.0 + advertise_time), if self.told.1 => self.tell_all(),
                () = tokio::time::sleep_until(self.committed_at + trigger), if self.executor.is_taken() => self.look_behind(),
                () = changed(&mut self.configured) => self.expect(),
                Some(request) = self.wiring.requests.recv() => self.request(request),
                _ = self.inbox.recv_many(&mut turn, TURN) => {
                    for input in turn.drain(..) {
                        self.feed(input);
                    }
                }
                () = tokio::time::sleep_until(deadline) => self.feed(Input::Tick),
                Some(_) = self.peers.join_next(), if !self.peers.is_empty() => {}
            }
            self.publish();
        }
        self.feed(Input::Stop);
        self.publish();
        // Hung up first, so that nobody waits in turn for a peer that does not read.
        for conn in self.conns.values() {
            conn.hangup.cancel();
        }
        // Peers' tasks end by saying `Down`; with the inbox closed they need not wait for room.
        self.inbox.close();
        while self.peers.join_next().await.is_some() {}
        #[cfg(feature = "record")]
        if let Some(recorder) = self.wiring.recorder.take() {
            recorder.end().await;
        }
    }

    fn begin(&mut self) {
        self.watch_forks();
        if self.executor == Place::Awaited {
            let nothing = self.wiring.status.borrow().applied == Height::ZERO;
            self.wiring.server.set_stateless(nothing);
            // Peers are heard, so that their claims are known when a state arrives.
            return self.feed(Input::Pause);
        }
        self.tell(self.sync.started(SyncStart::Start));
        self.feed(Input::Tick);
    }

    fn now(&self) -> Tick {
        Tick(u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    fn deadline(&mut self) -> Instant {
        // A sleep needs an end. An hour is longer than any deadline, and a needless tick does no
        // harm.
        let far = self.started.elapsed() + Duration::from_secs(3600);
        let due = self
            .pool
            .next_deadline()
            .map_or(far, |Tick(t)| Duration::from_micros(t).min(far));
        self.started + due
    }

    /// Gives the pool an input, and performs what it wants, until nothing comes back.
    fn feed(&mut self, input: PoolInput) {
        self.todo.push_back(input);
        let mut effects = Vec::new();
        while let Some(input) = self.todo.pop_front() {
            self.stale = true;
            if let Input::Status { conn, height, .. } = &input
                && let Some(c) = self.conns.get_mut(conn)
            {
                c.claim = *height;
            }
            if let Input::ClaimJudged {
                proven: Some(height),
                ..
            } = &input
            {
                self.note_proven(*height);
            }
            // The connection is forgotten after the pool's effects: its last ones still name it.
            let gone = if let Input::Down { conn } = &input {
                Some(*conn)
            } else {
                None
            };
            self.hand_to_pool(input, &mut effects);
            for effect in effects.drain(..) {
                self.perform(effect);
            }
            if let Some(conn) = gone {
                self.forget(conn);
            }
        }
    }

    /// Gives the pool one input, before the eyes of the recorder.
    fn hand_to_pool(&mut self, input: PoolInput, effects: &mut Vec<PoolEffect>) {
        let (now, proven) = (self.now(), self.pool.proven());
        let is_verdict = matches!(input, Input::Verdict { .. });
        #[cfg(feature = "record")]
        if let Some(recorder) = &mut self.wiring.recorder {
            recorder.input(&self.pool, &input, now);
        }
        self.pool.handle(input, now, effects);
        #[cfg(feature = "record")]
        if let Some(recorder) = &mut self.wiring.recorder {
            recorder.effects(effects, now);
        }
        let to = self.pool.proven();
        if is_verdict && to > proven {
            let from = proven.next();
            self.tell(Event::BlocksProven { from, to });
        }
    }

    fn perform(&mut self, effect: PoolEffect) {
        match effect {
            Effect::Ask {
                ask,
                conn,
                from,
                count,
                ranged,
            } => {
                // The oldest can no longer be taken back; its answer is then simply received.
                if self.asks.len() >= ASKS {
                    self.asks.pop_front();
                }
                self.asks.push_back((ask, conn, Cancel { from, count }));
                if !self.order(
                    conn,
                    Command::Ask {
                        ask,
                        from,
                        count,
                        ranged,
                    },
                ) {
                    // Its task is slow or gone. The pool asks another one; this is nobody's fault.
                    self.todo.push_back(Input::SendFailed { ask });
                }
            }
            Effect::Cancel { ask } => self.cancel(ask),
            Effect::AskStatus { conn } => {
                self.order(conn, Command::AskStatus);
            }
            Effect::Read(reading) => {
                self.reading.send_replace(reading);
            }
            Effect::Verify {
                run,
                blocks,
                carrier,
            } => {
                self.verify(VerifierTask::Run {
                    run,
                    blocks,
                    carrier,
                });
            }
            Effect::Examine {
                run,
                copy,
                certified,
            } => self.verify(VerifierTask::Examine {
                run,
                copy,
                certified,
            }),
            Effect::ProveClaim { copy } => self.verify(VerifierTask::Claim { copy }),
            Effect::Apply { blocks, carrier } => {
                let records = blocks.iter().map(|b| record_of(&b.block));
                self.applying.extend(records);
                self.apply(blocks, carrier);
            }
            Effect::Drop {
                conn,
                peer,
                reason,
                ban_until,
            } => self.drop_peer(conn, peer, reason, ban_until),
            Effect::Outcome(outcome) => self.outcome(outcome),
        }
    }

    /// Takes a request back. One that is too old to be known is not: its answer, when it comes, is
    /// no fault.
    fn cancel(&mut self, ask: AskId) {
        // The pool numbers its asks in ascending order, and they are pushed in that order.
        if let Ok(at) = self.asks.binary_search_by_key(&ask, |(ask, ..)| *ask) {
            let (_, conn, cancel) = self.asks[at];
            self.order(conn, Command::Cancel(cancel));
        }
    }

    /// Tells those who listen of an event.
    fn tell(&self, event: Event) {
        match &event {
            // The whole state would fill the log.
            Event::Applied { state } => debug!(height = %state.last_height, "applied"),
            event => debug!(?event, "event"),
        }
        self.wiring.events.send(event);
    }

    fn order(&self, conn: ConnId, command: Command) -> bool {
        self.conns
            .get(&conn)
            .is_some_and(|c| c.commands.try_send(command).is_ok())
    }

    fn verify(&mut self, task: VerifierTask) {
        // The pool hands out no more than the verifier's inbox holds; a closed one means that we
        // are stopping.
        if self.wiring.verifier.try_send(task).is_err() && !self.wiring.stop.is_cancelled() {
            warn!("the verifier is gone: stopping");
            self.wiring.stop.cancel();
        }
    }

    fn apply(&mut self, blocks: Vec<ReceivedBlock>, carrier: Option<ReceivedBlock>) {
        // Blocks on their way to an executor that has been taken out are dropped; the pool begins
        // anew with `Resume`.
        let job = Job {
            blocks,
            carrier,
            target: self.pool.target(),
        };
        if !self.executor.is_elsewhere() && self.wiring.jobs.try_send(job).is_err() {
            debug!("the executor takes no more blocks");
        }
    }

    fn executed(&mut self, event: Option<ExecEvent>) {
        let Some(event) = event else {
            let taken = self.executor.is_taken();
            self.executor = if taken { Place::Out } else { Place::Lost };
            if !taken {
                // An executor that stops by itself says why and keeps its sender: this one was torn
                // down.
                let why =
                    "the executor, or the application inside it, has panicked; the log says where";
                self.feed(Input::LocalFault(LocalFault::App(why.into())));
            }
            return;
        };
        match event {
            ExecEvent::Applied { state, pruned_to } => {
                let through = state.last_height;
                let done = self.applying.partition_point(|r| r.height <= through);
                // Applied means durable: only now may others be served these.
                for record in self.applying.drain(..done) {
                    self.wiring.server.remember(record);
                }
                self.serve(&state, pruned_to);
                self.indispensable = is_indispensable(&self.wiring.config, &state);
                self.wiring.status.send_modify(|s| s.set_state(&state));
                self.tell(Event::Applied { state });
                self.feed(Input::Applied { through });
            }
            ExecEvent::Rejected {
                height,
                from,
                fault,
            } => {
                self.applying.clear();
                self.feed(Input::Rejected {
                    height,
                    from,
                    fault,
                });
            }
            ExecEvent::Fault(fault) => self.feed(Input::LocalFault(fault)),
            ExecEvent::Pruned(below) => {
                let rises = self.wiring.served.send_if_modified(|s| {
                    let rises = s.base != Height::ZERO && s.base < below;
                    if rises {
                        s.base = below;
                    }
                    rises
                });
                if rises {
                    self.tell(Event::Pruned { below });
                }
            }
            ExecEvent::Waiting(why) => {
                warn!(%why, "waiting");
                self.wiring.status.send_modify(|s| s.waiting = Some(why));
            }
            ExecEvent::Calling(what) => {
                debug!(?what, "calling the application");
                self.wiring.status.send_modify(|s| s.waiting = what);
            }
        }
    }

    fn request(&mut self, request: Request) {
        match request {
            Request::AddPeer(link) => self.add_peer(link),
            Request::Snapshot(told) => {
                let _ = told.send(self.snapshot());
            }
            Request::Detach(done) => {
                self.executor = match self.executor {
                    Place::Here | Place::Leaving => Place::Leaving,
                    Place::Lost | Place::Out | Place::Awaited => Place::Out,
                };
                self.committed_at = Instant::now();
                // Before the executor leaves, so that nothing more is handed to it.
                self.feed(Input::Pause);
                self.wiring
                    .status
                    .send_modify(|s| s.phase = Phase::HandedOver);
                // Dropping the sender lets the executor finish what it has and come out.
                let (jobs, _) = mpsc::channel(1);
                self.wiring.jobs = jobs;
                let _ = done.send(());
            }
            Request::Resume {
                jobs,
                events,
                state,
                trust,
                why,
            } => {
                // Consensus may have written other blocks than those kept in memory for peers.
                self.wiring.server.forget();
                self.wiring.server.set_stateless(false);
                // Jobs that the old executor did not take come again from the pool.
                self.applying.clear();
                self.wiring.jobs = jobs;
                self.wiring.executed = events;
                self.executor = Place::Here;
                if self.wiring.served.borrow().base == Height::ZERO {
                    self.first = state.next_height();
                }
                self.serve(&state, None);
                self.indispensable = is_indispensable(&self.wiring.config, &state);
                self.wiring.status.send_modify(|s| {
                    match why {
                        SyncStart::Start => s.begin_at(&state),
                        _ => s.set_state(&state),
                    }
                    s.phase = Phase::Syncing;
                });
                self.sync = SyncSpan::new(state.last_height);
                self.tell(self.sync.started(why));
                self.feed(Input::Resume {
                    applied: state.last_height,
                });
                if let Some(Trust::Differs(why)) = trust {
                    self.feed(Input::LocalFault(LocalFault::Diverged(why)));
                }
            }
        }
    }

    fn snapshot(&self) -> Snapshot {
        let window = || self.pool.window();
        let peers = self.pool.peers().map(|view| PeerSnapshot {
            peer: view.peer,
            address: self
                .conns
                .get(&view.conn)
                .map_or_else(String::new, |conn| conn.address.clone()),
            base: view.base,
            height: view.height,
            owed: view.owed,
            rate: view.rate,
            latency: view.latency,
        });
        Snapshot {
            first: window().next().map_or(Height::ZERO, |(height, _)| height),
            window: window().map(|(_, letter)| letter).collect(),
            proven: self.pool.proven(),
            owed: self.pool.owed(),
            buffered_bytes: self.pool.buffered_bytes(),
            budget_bytes: self.wiring.config.pool.budget_bytes,
            peers: peers.collect(),
        }
    }

    /// Tells the pool of the configured peers as they stand now.
    fn expect(&mut self) {
        let Some(configured) = &mut self.configured else {
            return;
        };
        let Configured { peers, coming } = configured.borrow_and_update().clone();
        self.feed(Input::Expected { peers, coming });
    }

    fn outcome(&mut self, mut outcome: Outcome) {
        let waiting = matches!(
            outcome,
            Outcome::Syncing | Outcome::NoUsablePeers | Outcome::Stalled { .. }
        );
        // A chain whose every commit needs our own key cannot be ahead of us.
        if self.indispensable && waiting {
            let height = self.wiring.status.borrow().applied;
            outcome = Outcome::CaughtUp { height };
        }
        let behind = matches!(outcome, Outcome::Syncing | Outcome::Stalled { .. });
        self.wiring.server.set_behind(behind);
        let caught_up = matches!(outcome, Outcome::CaughtUp { .. });
        self.wiring.meters.figures().set_following(caught_up);
        let hand_over = self.wiring.config.after == AfterCaughtUp::HandOver;
        // Together: a caller that waits for "caught up" without doubts must not
        // see one before the other.
        let doubted = self.pool.doubted_claims();
        self.wiring.status.send_modify(|s| {
            s.doubted = doubted;
            s.phase = match &outcome {
                Outcome::CaughtUp { .. } if hand_over => Phase::HandedOver,
                Outcome::CaughtUp { .. } => Phase::Following,
                Outcome::Stopped => Phase::Stopped,
                Outcome::LocalFault(_) | Outcome::Contradiction { .. } => Phase::Failed,
                _ => Phase::Syncing,
            };
            s.outcome = outcome.clone();
        });
        self.set_behind(!caught_up);
        let applied = self.wiring.status.borrow().applied;
        for event in self.sync.follow(&outcome, applied) {
            self.tell(event);
        }
        self.tell(Event::Outcome(outcome));
    }

    /// Brings the status watch up to date, once a turn and only when something has changed. The
    /// bytes that are buffered change with every block: they are there for who looks, and wake
    /// nobody.
    fn publish(&mut self) {
        if !std::mem::take(&mut self.stale) {
            return;
        }
        let (pool, peers) = (&self.pool, self.conns.len());
        self.wiring.status.send_if_modified(|s| {
            let target = pool.target();
            let doubted = pool.doubted_claims();
            let notable = (s.target, s.peers) != (target, peers) || s.doubted != doubted;
            s.target = target;
            s.doubted = doubted;
            s.peers = peers;
            s.buffered_bytes = pool.buffered_bytes();
            notable
        });
    }
}

#[cfg(test)]
mod tests;
