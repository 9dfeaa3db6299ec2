//! `BlockSync`: the service that a node runtime spawns.
//!
//! ```text
//!  Link ─► peer task ─► reactor (pool) ─► verifier ─► reactor ─► executor ─► store, app
//!             └──────► server ◄─ store
//! ```
//!
//! Tasks: one reactor, one verifier, one executor, and for each peer one task and its server. All
//! queues between them are bounded. `Handle::stop` ends them all and waits; dropping the last
//! `Handle` stops them too.

mod advertising;
mod batches;
mod checks;
mod config;
mod early;
mod executor;
mod expectation;
mod external;
mod figures;
mod fork;
mod lane;
mod life;
mod observe;
mod offload;
mod peer;
mod reactor;
#[cfg(feature = "record")]
mod recorder;
mod remembered;
mod requests;
mod server;
mod snapshot;
mod stages;
mod startup;
mod status;
mod told;
mod trust;
mod turns;
mod verifier;
mod waiting;
mod writer;

use std::sync::Arc;

use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span, info_span};

pub use advertising::{Advertiser, Advertising, UNASKED_SIGNED, UNASKED_SIGNED_RATE};
pub use config::{
    AfterCaughtUp, AppStateSource, AppliedBlock, Config, GroupCommit, RetainResults,
    SHORTEST_ADVERTISE_TIME, ServeConfig, system_clock,
};
pub use figures::{Figures, Histogram, Histograms, Share};
pub use lane::Lane;
pub use life::{HandOver, HandOverError, Ingest, LastCommit, ProvenBlock, ResumeError, Unfit};
pub use offload::{Offload, OffloadError};
pub use peer::{SMALL_MESSAGES, SMALL_MESSAGES_RATE, UNASKED_BYTES};
#[cfg(feature = "record")]
pub use recorder::{NoRecording, Recording, RecordingFile, RecordingHead};
pub use requests::{ServeEvent, Shown, Throttle};
pub use server::{Heard, Request, ServeCounters, Served, Server};
pub use snapshot::{PeerSnapshot, Snapshot, View};
pub use stages::{Meters, Stage, StageTimes, Stages};
pub use startup::{OnReplay, StartError};
pub use status::{Dropped, Event, MAX_DROPPED, Phase, Status, SyncStart};
pub use told::Timed;
pub use trust::Trust;
pub use waiting::{BeginError, NotBegun, Waiting};
pub use writer::Writer;

use crate::app::App;
use crate::chain::{ChainState, Fetched, Genesis};
use crate::ids::Height;
use crate::link::Link;
use crate::pool::{Input, Outcome};
use crate::store::Store;
use crate::wire::ChainIdentity;
use executor::{Executor, Outlets};
use reactor::{Place, Reactor, Wiring};
use told::Told;
use verifier::Verifier;

/// Jobs that may wait for the executor; the pool's own bound on blocks under way is reached first.
const JOBS: usize = 4096;

/// Block sync, before it is started.
pub struct BlockSync<A> {
    store: Arc<dyn Store>,
    app: A,
    genesis: Genesis,
    config: Config,
    on_replay: OnReplay,
}

impl<A: App> BlockSync<A> {
    /// Block sync over this store and application, for the chain of this genesis.
    #[must_use]
    pub fn builder(store: Arc<dyn Store>, app: A, genesis: Genesis) -> Self {
        BlockSync {
            store,
            app,
            genesis,
            config: Config::default(),
            on_replay: Arc::new(|_, _| ()),
        }
    }

    /// Tells of each stored block that `spawn` executes on the application before it returns: its
    /// height, and the last one's.
    #[must_use]
    pub fn on_replay(mut self, told: impl Fn(Height, Height) + Send + Sync + 'static) -> Self {
        self.on_replay = Arc::new(told);
        self
    }

    /// Replaces the whole configuration.
    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Brings store and application to one height, then starts the tasks on the current tokio
    /// runtime.
    ///
    /// Cancel safety: dropped before it returns, nothing runs on; what start-up has replayed is
    /// durable.
    ///
    /// # Errors
    /// When store, application and genesis do not fit together; nothing is running then.
    pub async fn spawn(self) -> Result<Handle<A>, StartError> {
        let (mut app, on_replay, store) = (self.app, self.on_replay, self.store);
        let offload = self.config.offload()?;
        let committed = watch::Sender::new(());
        // The claim comes before anything is read: another writer could move the state.
        let mut writer = Writer::claim(&store, committed.clone()).ok_or(StartError::Claimed)?;
        let (genesis, config) = (Arc::new(self.genesis), Arc::new(self.config));
        let state =
            startup::prepare_patiently(&mut app, &mut writer, &genesis, &config, &on_replay)
                .await?;
        let shared = Shared::new((genesis, config), offload, &state, committed);
        let (mut executor, executed) = shared.executor(app, writer, state);
        // Before any peer is served: blocks stored above the state are not
        // advertised until executed.
        executor.replay(&on_replay).await?;
        #[cfg(feature = "record")]
        let shared = shared.recorded()?;
        let state = executor.state.clone();
        Ok(shared.start(&state, Some((executor, executed)), store))
    }
}

/// State that outlives one executor.
struct Shared {
    genesis: Arc<Genesis>,
    config: Arc<Config>,
    offload: Offload,
    latest: watch::Sender<Arc<ChainState>>,
    meters: Meters,
    /// The store was written by its writer, not by the executor.
    committed: watch::Sender<()>,
    stop: CancellationToken,
    /// The chain that peers are told of.
    chain: ChainIdentity,
    /// The span of all tasks; connections have spans of their own below it.
    span: Span,
    #[cfg(feature = "record")]
    recorder: Option<recorder::Recorder>,
}

impl Shared {
    fn new(
        (genesis, config): (Arc<Genesis>, Arc<Config>),
        offload: Offload,
        state: &Arc<ChainState>,
        committed: watch::Sender<()>,
    ) -> Self {
        Shared {
            chain: ChainIdentity::of(&genesis),
            committed,
            span: info_span!("blocksync", chain = %genesis.chain_id),
            genesis,
            config,
            offload,
            latest: watch::Sender::new(state.clone()),
            meters: Meters::default(),
            stop: CancellationToken::new(),
            #[cfg(feature = "record")]
            recorder: None,
        }
    }

    /// Begins a recording where one is wanted.
    #[cfg(feature = "record")]
    fn recorded(mut self) -> Result<Self, StartError> {
        if let Some(recording) = &self.config.record {
            let recorder = recorder::Recorder::start(recording, &self.genesis.chain_id);
            self.recorder = Some(recorder.map_err(|error| StartError::Record {
                file: recording.file.clone(),
                error,
            })?);
        }
        Ok(self)
    }

    /// The store's word on the block that must be on the chain.
    fn trust(&self, store: &dyn Store) -> Option<Trust> {
        Trust::told(store, self.config.trust)
    }

    fn executor<A: App>(
        &self,
        app: A,
        writer: Writer,
        state: Arc<ChainState>,
    ) -> (Executor<A>, mpsc::Receiver<executor::ExecEvent>) {
        let (events, executed) = mpsc::channel(JOBS);
        let outlets = Outlets {
            events,
            latest: self.latest.clone(),
            meters: self.meters.clone(),
            // A child: the hand-over ends the executor alone, `stop` everything.
            stop: self.stop.child_token(),
        };
        self.latest.send_replace(state.clone());
        let executor = Executor::new(
            app,
            writer,
            state,
            (self.genesis.clone(), self.config.clone()),
            self.offload.clone(),
            outlets,
        );
        (executor, executed)
    }

    fn verifier(
        &self,
        verdicts: mpsc::Sender<Input<Arc<Fetched>>>,
        store: Arc<dyn Store>,
    ) -> Verifier {
        let seed = self.config.seed;
        Verifier {
            policy: self.config.policy,
            rules: self.config.rules.clone(),
            latest: self.latest.subscribe(),
            verdicts,
            offload: self.offload.clone(),
            meters: self.meters.clone(),
            rng: seed.map_or_else(rand::make_rng, StdRng::seed_from_u64),
            proven: None,
            certificate: None,
            store,
            evidence_dir: self.config.evidence_dir.clone(),
        }
    }

    /// Heights that are served at the start.
    fn served(&self, store: &dyn Store, state: &ChainState) -> Served {
        // A store that cannot be read serves nothing; whatever reads it next says why.
        let base = store.span().map(|s| s.base).unwrap_or_default();
        // A state without blocks, as state sync leaves it: there is nothing to serve yet.
        let height = if base == Height::ZERO {
            Height::ZERO
        } else {
            state.last_height
        };
        Served {
            base,
            height,
            behind: !self.config.serve.while_behind,
        }
    }

    /// Signs and judges statuses, where the node has a key.
    fn advertiser(&self) -> Option<Advertiser> {
        let key = self.config.node_key.clone()?;
        Some(Advertiser::new(key, self.chain.clone(), &self.config))
    }

    /// Answers peers from this store.
    fn server(&self, store: Arc<dyn Store>, served: watch::Receiver<Served>) -> Server {
        let (serve, offload) = (self.config.serve, self.offload.clone());
        Server::new(store, served, serve, offload)
            .on(self.chain.clone())
            .signing(self.advertiser())
            .timed(self.config.clock)
    }

    /// Starts the tasks; without an executor the service only serves.
    fn start<A: App>(
        #[cfg_attr(not(feature = "record"), allow(unused_mut))] // the recorder is taken out
        mut self,
        state: &ChainState,
        executor: Option<(Executor<A>, mpsc::Receiver<executor::ExecEvent>)>,
        store: Arc<dyn Store>,
    ) -> Handle<A> {
        let (place, phase) = match &executor {
            Some(_) => (Place::Here, Phase::Syncing),
            None => (Place::Awaited, Phase::Serving),
        };
        let status = watch::Sender::new(Status::new(state, phase));
        let events = Told::new(self.config.clock);
        let (served, serving) = watch::channel(self.served(&*store, state));
        let (requests, inbox) = mpsc::channel(64);
        let (tasks, to_verify) = mpsc::channel(64);
        let (verdicts, judged) = mpsc::channel(64);
        let (jobs, to_execute) = mpsc::channel(JOBS);
        let (executor, executed) = executor.unzip();
        let halt = executor.as_ref().map(|executor| executor.stop.clone());
        let server = self.server(store.clone(), serving);
        let counters = server.counters().clone();
        let serve_events = server.told().clone();
        let wiring = Wiring {
            config: self.config.clone(),
            offload: self.offload.clone(),
            meters: self.meters.clone(),
            server,
            served,
            status: status.clone(),
            events: events.clone(),
            requests: inbox,
            verifier: tasks,
            verdicts: judged,
            jobs,
            executed: executed.unwrap_or_else(|| mpsc::channel(1).1),
            store: store.clone(),
            committed: self.committed.subscribe(),
            stop: self.stop.clone(),
            #[cfg(feature = "record")]
            recorder: self.recorder.take(),
        };
        let verifier = self.verifier(verdicts, store);
        let reactor = Reactor::new(wiring, state, place);
        let span = self.span.clone();
        let tasks = vec![
            tokio::spawn(reactor.run().instrument(span.clone())),
            tokio::spawn(
                verifier
                    .run(to_verify, self.stop.clone())
                    .instrument(span.clone()),
            ),
        ];
        let run = |executor: Executor<A>| executor.run(to_execute).instrument(span);
        let executor = executor.map(|executor| tokio::spawn(run(executor)));
        let guard = self.stop.clone().drop_guard();
        Handle {
            shared: self,
            status: status.subscribe(),
            events,
            requests,
            serving: counters,
            serve_events,
            tasks,
            executor,
            halt: halt.unwrap_or_default(),
            _guard: guard,
        }
    }
}

/// A running service. Dropping it stops the service without waiting; `stop` waits.
pub struct Handle<A> {
    shared: Shared,
    status: watch::Receiver<Status>,
    events: Told<Event>,
    requests: mpsc::Sender<reactor::Request>,
    serving: Arc<ServeCounters>,
    serve_events: Told<ServeEvent>,
    tasks: Vec<JoinHandle<()>>,
    executor: Option<JoinHandle<Executor<A>>>,
    /// Ends the executor alone.
    halt: CancellationToken,
    _guard: tokio_util::sync::DropGuard,
}

/// Adds peers to a running service; cheap to clone, and not a reason for the service to live.
#[derive(Clone)]
pub struct Peers(mpsc::Sender<reactor::Request>);

/// The service has stopped.
#[derive(Debug, thiserror::Error)]
#[error("block sync has stopped")]
pub struct Stopped;

impl Peers {
    /// Gives the service a peer's connection.
    ///
    /// # Errors
    /// When the service has stopped.
    pub async fn add(&self, link: Link) -> Result<(), Stopped> {
        self.0
            .send(reactor::Request::AddPeer(link))
            .await
            .map_err(|_| Stopped)
    }
}

impl<A: App> Handle<A> {
    /// To add peers with.
    #[must_use]
    pub fn peers(&self) -> Peers {
        Peers(self.requests.clone())
    }

    /// Gives the service a peer's connection.
    ///
    /// # Errors
    /// When the service has stopped.
    pub async fn add_peer(&self, link: Link) -> Result<(), Stopped> {
        self.peers().add(link).await
    }

    /// The status, always the latest.
    ///
    /// Let go of a borrowed value at once: the service waits to write the next one while it lives.
    /// Clone it where it is needed across an `await`.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Work and waiting of the stages.
    #[must_use]
    pub fn meters(&self) -> Meters {
        self.shared.meters.clone()
    }

    /// To look at it with.
    #[must_use]
    pub fn view(&self) -> View {
        View {
            status: self.status.clone(),
            meters: self.shared.meters.clone(),
            requests: self.requests.clone(),
            serving: self.serving.clone(),
        }
    }

    /// The state of its work now: peers, window, budget.
    ///
    /// # Errors
    /// When the service has stopped.
    pub async fn snapshot(&self) -> Result<Snapshot, Stopped> {
        self.view().snapshot().await
    }

    /// Events from now on.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<Timed<Event>> {
        self.events.subscribe()
    }

    /// Events of the server, from now on. They are a stream of their own: requests come by the
    /// thousand, and push nothing out of `events`.
    #[must_use]
    pub fn serve_events(&self) -> broadcast::Receiver<Timed<ServeEvent>> {
        self.serve_events.subscribe()
    }

    /// Waits until the pool's outcome is one that `wanted` accepts, and gives the status then.
    /// Cancel safe.
    ///
    /// # Errors
    /// When the service stops before.
    pub async fn outcome(&self, wanted: impl Fn(&Outcome) -> bool) -> Result<Status, Stopped> {
        let mut status = self.status.clone();
        let found = status
            .wait_for(|s| wanted(&s.outcome))
            .await
            .map_err(|_| Stopped)?;
        Ok(found.clone())
    }

    /// Says that the store has grown, or was pruned, by other hands than its writer's: what it
    /// holds is served from now on.
    pub fn applied(&self) {
        self.shared.committed.send_replace(());
    }

    /// Stops and joins every task: what is executed is made durable, nothing is written afterwards.
    /// Harmless when it has stopped already. A call into the application that is running is
    /// awaited.
    pub async fn stop(mut self) {
        self.shared.stop.cancel();
        for task in self.tasks.drain(..) {
            let _ = task.await;
        }
        // Last, since it still writes what it has executed.
        if let Some(executor) = self.executor.take() {
            let _ = executor.await;
        }
    }
}
