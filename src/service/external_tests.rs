//! The executor and start-up, driven directly, most of it beside an application of its own state
//! that does at each call what the test says.

use std::sync::Mutex;

use futures::FutureExt as _;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::app::{InitChain, InitChainResponse, KvStore};
use crate::chain::testkit::{BlockSpec, TestChain, fetched, nowhere, resealed};
use crate::chain::{Evidence, FinalizeBlock, Rules, Time};
use crate::ids::{ConnId, Hash, PeerId, Source};
use crate::pool::Candidate;
use crate::service::config::{Config, GroupCommit};
use crate::service::executor::Outlets;
use crate::service::offload::Offload;
use crate::service::peer::meta;
use crate::service::writer::Writer;
use crate::store::{MemStore, Store};

pub(crate) fn h(height: u64) -> Height {
    Height::new(height)
}

/// A time after every chain.
fn later() -> Time {
    Time::new(1_800_000_000, 0).unwrap()
}

pub(crate) fn settings() -> Config {
    Config {
        clock: later,
        seed: Some(1),
        ..Config::default()
    }
}

/// An application that keeps its state in memory.
pub(crate) struct Scripted {
    pub(crate) app: KvStore,
    /// Its calls in words.
    calls: Arc<Mutex<Vec<String>>>,
    /// Done before a call.
    script: Script,
    /// Done to an answer.
    alter: fn(Height, &mut FinalizeResponse),
}

pub(crate) type Script = Box<dyn FnMut(&mut KvStore, &str) -> Result<(), AppError> + Send>;

impl Scripted {
    pub(crate) fn new(
        script: impl FnMut(&mut KvStore, &str) -> Result<(), AppError> + Send + 'static,
    ) -> Self {
        Scripted {
            app: KvStore::new(),
            calls: Arc::default(),
            script: Box::new(script),
            alter: |_, _| (),
        }
    }

    /// One that does as it is told, and has executed the chain up to a height.
    pub(crate) async fn at(chain: &TestChain, height: u64) -> Self {
        let mut app = KvStore::new();
        if height > 0 {
            let request = InitChain::of(&chain.initial, Bytes::new(), &Rules::COMET_038);
            app.init_chain(request).await.unwrap();
        }
        for made in chain.blocks.iter().take(height as usize) {
            let Fetched { block, id, .. } = &made.fetched;
            let before = chain.state_after(block.header.height.prev());
            let last = before.last_validators.as_deref();
            let request = FinalizeBlock::from_block(block, *id, last, before.initial_height);
            app.finalize_block(request.unwrap()).await.unwrap();
            app.commit().await.unwrap();
        }
        Scripted {
            app,
            ..Self::new(|_, _| Ok(()))
        }
    }

    fn call(&mut self, words: String) -> Result<(), AppError> {
        self.calls.lock().unwrap().push(words.clone());
        (self.script)(&mut self.app, &words)
    }

    pub(crate) fn calls(&self) -> Vec<String> {
        self.calls.lock().unwrap().clone()
    }
}

impl App for Scripted {
    async fn info(&mut self) -> Result<AppInfo, AppError> {
        self.call("info".into())?;
        self.app.info().await
    }

    async fn init_chain(&mut self, request: InitChain) -> Result<InitChainResponse, AppError> {
        self.call("init".into())?;
        self.app.init_chain(request).await
    }

    async fn announce_block(&mut self, block: &FinalizeBlock) -> Result<(), AppError> {
        self.call(format!("announce {}", block.height))
    }

    fn reconnect(&mut self) -> bool {
        true
    }

    async fn ping(&mut self) -> Result<(), AppError> {
        self.call("ping".into())
    }

    async fn finalize_block(&mut self, block: FinalizeBlock) -> Result<FinalizeResponse, AppError> {
        let height = block.height;
        self.call(format!("execute {height}"))?;
        let mut response = self.app.finalize_block(block).await?;
        (self.alter)(height, &mut response);
        Ok(response)
    }

    async fn commit(&mut self) -> Result<Height, AppError> {
        self.call("commit".into())?;
        self.app.commit().await
    }
}

pub(crate) fn lost() -> AppError {
    AppError::Connection("test://app".into(), "it hung up".into())
}

fn refused() -> AppError {
    AppError::Refused("the call", "not today".into())
}

/// A store that has applied a chain up to a height.
pub(crate) fn home(chain: &TestChain, height: u64) -> Arc<dyn Store> {
    let store = MemStore::new();
    let state = |state: &ChainState| Some(Arc::new(state.clone()));
    let genesis = Batch {
        state: state(&chain.initial),
        ..Batch::default()
    };
    store.commit(genesis).unwrap();
    for block in chain.blocks.iter().take(height as usize) {
        let batch = Batch {
            blocks: vec![record_of(&block.fetched)],
            state: state(&block.state),
            ..Batch::default()
        };
        store.commit(batch).unwrap();
    }
    Arc::new(store)
}

/// Start-up of this application over this store.
async fn start<A: App>(
    app: &mut A,
    store: &Arc<dyn Store>,
    chain: &TestChain,
    config: &Config,
) -> Result<(Arc<ChainState>, Writer), StartError> {
    let mut writer = Writer::claim(store, watch::Sender::new(())).unwrap();
    let told: startup::OnReplay = Arc::new(|_, _| ());
    let genesis = &chain.genesis;
    let state = startup::prepare_patiently(app, &mut writer, genesis, config, &told).await?;
    Ok((state, writer))
}

/// An executor that begins at genesis, and what it will tell of.
async fn executor<A: App>(
    app: A,
    chain: &TestChain,
    config: Config,
    offload: Offload,
) -> (Executor<A>, mpsc::Receiver<ExecEvent>) {
    executor_over(app, Arc::new(MemStore::new()), chain, config, offload).await
}

/// One that begins at the state of a store.
pub(crate) async fn executor_over<A: App>(
    mut app: A,
    store: Arc<dyn Store>,
    chain: &TestChain,
    config: Config,
    offload: Offload,
) -> (Executor<A>, mpsc::Receiver<ExecEvent>) {
    let (state, writer) = start(&mut app, &store, chain, &config).await.unwrap();
    let (events, told) = mpsc::channel(1024);
    let outlets = Outlets {
        events,
        latest: watch::Sender::new(state.clone()),
        meters: Meters::default(),
        stop: CancellationToken::new(),
    };
    let shared = (Arc::new(chain.genesis.clone()), Arc::new(config));
    let executor = Executor::new(app, writer, state, shared, offload, outlets);
    (executor, told)
}

pub(crate) fn copy(block: &Fetched) -> ReceivedBlock {
    let (peer, conn) = (PeerId([1; 20]), ConnId(1));
    Candidate {
        meta: meta(block),
        from: Source { peer, conn },
        block: Arc::new(block.clone()),
    }
}

pub(crate) fn copies(chain: &TestChain, from: u64, to: u64) -> Vec<ReceivedBlock> {
    (from..=to)
        .map(|height| copy(&chain.at(h(height)).fetched))
        .collect()
}

/// The blocks of these heights, with the next one for its commit.
pub(crate) fn job(chain: &TestChain, from: u64, to: u64) -> Job {
    Job {
        blocks: copies(chain, from, to),
        carrier: copies(chain, to + 1, to + 1).pop(),
        target: h(to + 1),
    }
}

/// Lets an executor work on these jobs for this time. Gives it back, and what it told.
pub(crate) async fn work<A: App>(
    (executor, mut events): (Executor<A>, mpsc::Receiver<ExecEvent>),
    jobs: Vec<Job>,
    time: Duration,
) -> (Executor<A>, Vec<String>) {
    let (queue, waiting) = mpsc::channel(64);
    for job in jobs {
        queue.try_send(job).unwrap();
    }
    let stop = executor.stop.clone();
    let running = tokio::spawn(executor.run(waiting));
    sleep(time).await;
    stop.cancel();
    let executor = running.await.unwrap();
    let mut words = Vec::new();
    while let Ok(event) = events.try_recv() {
        match event {
            ExecEvent::Applied { state, .. } => {
                words.push(format!("applied {}", state.last_height));
            }
            ExecEvent::Rejected { height, .. } => words.push(format!("rejected {height}")),
            ExecEvent::Fault(fault) => words.push(format!("fault: {fault}")),
            ExecEvent::Pruned(_) | ExecEvent::Waiting(_) | ExecEvent::Calling(_) => {}
        }
    }
    (executor, words)
}

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn an_application_is_looked_after_while_nothing_is_to_do() {
    let chain = TestChain::builder(1).heights(3).build();
    let app = Scripted::new(|_, _| Ok(()));
    let idle = executor(app, &chain, settings(), Offload::inline()).await;
    let (idle, told) = work(idle, vec![], MINUTE + Duration::from_secs(5)).await;
    let pings = idle.app.calls().iter().filter(|c| *c == "ping").count();
    assert_eq!((pings, told), (6, vec![]));
    let waited = idle.meters.read().of(Stage::Execute).waits_for_work;
    assert_eq!(waited.as_secs(), 60, "that is counted");

    let app = Scripted::new(|_, call| match call {
        "ping" => Err(lost()),
        _ => Ok(()),
    });
    let calls = app.calls.clone();
    let mut dying = executor(app, &chain, settings(), Offload::inline()).await;
    dying.0.app.script = Box::new(|_, _| Err(lost()));
    let (_, told) = work(dying, vec![], 2 * MINUTE).await;
    assert!(told[0].contains("tried for 60 s"), "{told:?}");
    assert_eq!(
        calls
            .lock()
            .unwrap()
            .iter()
            .filter(|c| *c == "ping")
            .count(),
        1
    );
}

/// The built-in application, which notes when it executes.
struct Noting {
    app: KvStore,
    begun: Instant,
    at: Arc<Mutex<Vec<u64>>>,
}

impl App for Noting {
    fn embedded(&self) -> bool {
        true
    }

    fn load(&mut self, store: &dyn Store) -> Result<(), AppError> {
        self.app.load(store)
    }

    fn take_writes(&mut self) -> Vec<(Bytes, Option<Bytes>)> {
        self.app.take_writes()
    }

    async fn info(&mut self) -> Result<AppInfo, AppError> {
        self.app.info().await
    }

    async fn init_chain(&mut self, request: InitChain) -> Result<InitChainResponse, AppError> {
        self.app.init_chain(request).await
    }

    async fn finalize_block(&mut self, block: FinalizeBlock) -> Result<FinalizeResponse, AppError> {
        self.at.lock().unwrap().push(self.begun.elapsed().as_secs());
        self.app.finalize_block(block).await
    }

    async fn commit(&mut self) -> Result<Height, AppError> {
        self.app.commit().await
    }
}

/// While a batch is being written the next is executed, and no more than that; the time for which
/// a job stands still is counted once.
#[tokio::test(start_paused = true)]
async fn a_full_batch_waits_for_the_one_before() {
    let chain = TestChain::builder(2).heights(10).build();
    let at = Arc::default();
    let app = Noting {
        app: KvStore::new(),
        begun: Instant::now(),
        at: Arc::clone(&at),
    };
    let mut config = settings();
    config.group_commit = GroupCommit::new(1, usize::MAX);
    // Each write takes a second.
    let offload = Offload::simulated(|| sleep(Duration::from_secs(1)).boxed());
    let busy = executor(app, &chain, config, offload).await;
    let jobs = [(1, 3), (4, 6), (7, 9)].map(|(from, to)| job(&chain, from, to));
    let (busy, told) = work(busy, jobs.into(), MINUTE).await;
    assert_eq!(told, ["applied 3", "applied 6", "applied 9"]);
    assert_eq!(*at.lock().unwrap(), [0, 0, 0, 0, 1, 1, 1, 2, 2]);
    let waited = busy.meters.read().of(Stage::Execute).waits_for_room;
    assert_eq!(waited.as_secs(), 2);
}

#[tokio::test]
async fn extended_commits_of_several_blocks_are_judged_ahead() {
    let chain = TestChain::builder(3).extensions_from(2).heights(5).build();
    let app = KvStore::new();
    let (mut executor, _events) = executor(app, &chain, settings(), Offload::inline()).await;
    let judged = |copies: &[ReceivedBlock]| -> Vec<bool> {
        let state = &chain.initial;
        let marks = copies
            .iter()
            .map(|c| checks::is_judged_ahead(state, &c.block));
        marks.collect()
    };
    let all = copies(&chain, 2, 4);
    executor.judge_ahead(&all[..1], 0).await;
    executor.judge_ahead(&all, 1).await;
    assert_eq!(
        judged(&all),
        [false; 3],
        "one alone, and those that had their turn"
    );
    executor.judge_ahead(&all[..2], 0).await;
    assert_eq!(judged(&all), [true, true, false]);
    let mut all = copies(&chain, 2, 4);
    let mut forged = chain.at(h(3)).fetched.clone();
    let entries = &mut forged.ext_commit.as_mut().unwrap().signatures;
    entries[0].extension = "forged".into();
    all[1] = copy(&forged);
    executor.judge_ahead(&all, 0).await;
    assert_eq!(judged(&all), [true, false, true]);
}

/// Evidence of other power than the set had, in the fifth block.
pub(crate) fn with_bad_evidence() -> TestChain {
    let mut chain = TestChain::builder(4).heights(4).build();
    let mut evidence = chain.duplicate_vote(h(3), "twice");
    if let Evidence::DuplicateVote(item) = &mut evidence {
        item.total_voting_power += 1;
    }
    chain.push(&BlockSpec {
        evidence: vec![evidence],
        ..BlockSpec::default()
    });
    chain.grow(1);
    chain
}

/// Consensus would start from that commit.
#[tokio::test(start_paused = true)]
async fn a_batch_that_ends_within_a_job_has_the_commit_for_its_last_block() {
    let chain = with_bad_evidence();
    let app = KvStore::new();
    let before = executor(app, &chain, settings(), Offload::inline()).await;
    let (after, told) = work(before, vec![job(&chain, 1, 5)], MINUTE).await;
    assert_eq!(told[0], "applied 4");
    assert!(
        told[1].starts_with("fault") && told[1].contains("total power"),
        "{told:?}"
    );
    let mut expected = Vec::new();
    chain.at(h(4)).commit.encode(&mut expected);
    let store = after.writer.store();
    assert_eq!(store.commit_for(h(4)).unwrap(), Some(expected.into()));
    assert_eq!(store.span().unwrap().stored, h(4));

    // A certified block that names another parent: our own state is in doubt, not the commit in it.
    let mut other = chain.at(h(5)).fetched.block.clone();
    other.header.last_block_id = nowhere("else");
    other.last_commit.block_id = nowhere("else");
    let mut given = job(&chain, 1, 4);
    given.blocks.push(copy(&fetched(resealed(other))));
    let before = executor(KvStore::new(), &chain, settings(), Offload::inline()).await;
    let (after, told) = work(before, vec![given], MINUTE).await;
    assert_eq!(told[0], "applied 4");
    assert!(told[1].starts_with("fault"), "{told:?}");
    assert_eq!(after.writer.store().commit_for(h(4)).unwrap(), None);
}

/// The pool takes back what it was not told of: so it is told first of what was applied.
#[tokio::test(start_paused = true)]
async fn what_stands_before_a_bad_copy_is_applied_before_it_is_rejected() {
    let chain = TestChain::builder(5).extensions_from(2).heights(5).build();
    let mut given = job(&chain, 1, 4);
    let mut without = chain.at(h(3)).fetched.clone();
    (without.ext_commit, without.ext_raw) = (None, None);
    given.blocks[2] = copy(&without);
    let before = executor(KvStore::new(), &chain, settings(), Offload::inline()).await;
    let (after, told) = work(before, vec![given], MINUTE).await;
    assert_eq!(told, ["applied 2", "rejected 3"]);
    let mut expected = Vec::new();
    chain.at(h(2)).commit.encode(&mut expected);
    let kept = after.writer.store().commit_for(h(2)).unwrap();
    assert_eq!(kept, Some(expected.into()));
}

#[tokio::test]
async fn of_two_retain_heights_the_lower_one_wins() {
    let chain = TestChain::builder(6).heights(40).build();
    for (ours, its, expected) in [
        (10, 35, 31),
        (10, 20, 20),
        (10, 0, 31),
        (0, 20, 20),
        (0, 40, 40),
        (40, 0, 1),
        (1, 0, 40),
        // Nothing is asked for, all are kept, or the height is not there yet.
        (0, 0, 0),
        (41, 0, 0),
        (0, 41, 0),
    ] {
        let mut config = settings();
        config.retain_blocks = ours;
        let (mut executor, _events) =
            executor(KvStore::new(), &chain, config, Offload::inline()).await;
        executor.follow(Arc::new(chain.state().clone()));
        executor.prune(h(its)).unwrap();
        let found = executor.take_batch().prune.map(|(retain, _)| retain);
        let expected = (expected > 0).then_some(h(expected));
        assert_eq!(
            found, expected,
            "we keep {ours}, the application wants {its}"
        );
    }
}

#[tokio::test]
async fn params_are_recorded_where_they_change() {
    let chain = TestChain::builder(14).heights(4).build();
    let (mut executor, _events) =
        executor(KvStore::new(), &chain, settings(), Offload::inline()).await;
    for made in &chain.blocks {
        let mut state = made.state.clone();
        if state.last_height >= h(2) {
            state.params.block_max_bytes = 1 << 20;
        }
        executor.record_state(&made.fetched, state);
    }
    let changes = executor.take_batch().params.into_iter();
    let changes: Vec<_> = changes.map(|(at, p)| (at, p.block_max_bytes)).collect();
    assert_eq!(changes, [(h(3), 1 << 20)]);
}

#[test]
fn only_so_many_bytes_become_durable_ahead() {
    let builder = TestChain::builder(7).txs(1, AHEAD_BYTES / 3).heights(6);
    let blocks = copies(&builder.build(), 1, 6);
    let (_queue, waiting) = mpsc::channel(1);
    let mut jobs = Jobs::new(waiting);
    let mut ahead = |at: usize| -> Vec<u64> {
        let records = jobs.ahead(&blocks[at..]);
        records.iter().map(|record| record.height.get()).collect()
    };
    assert_eq!(ahead(0), [2, 3]);
    assert_eq!(
        (ahead(1), ahead(2)),
        (vec![], vec![]),
        "they are there already"
    );
    assert_eq!(ahead(3), [5, 6]);
}

#[tokio::test(start_paused = true)]
async fn an_application_that_is_lost_again_while_it_catches_up_is_waited_for() {
    let chain = TestChain::builder(8).heights(8).build();
    for hangs_up in [true, false] {
        let mut losses = 0;
        let app = Scripted::new(move |app, call| match (losses, call) {
            // It comes back empty, …
            (0, "execute 6") => {
                (losses, *app) = (1, KvStore::new());
                Err(lost())
            }
            // … and something comes between when it is given the first blocks again.
            (1, "execute 3") => {
                losses = 2;
                Err(if hangs_up { lost() } else { refused() })
            }
            _ => Ok(()),
        });
        let before = executor(app, &chain, settings(), Offload::inline()).await;
        let jobs = vec![job(&chain, 1, 7)];
        let (after, told) = work(before, jobs, Duration::from_secs(20)).await;
        let last = told.last().unwrap();
        if hangs_up {
            assert_eq!(last, "applied 7");
            assert_eq!(after.state.app_hash, chain.state_after(h(7)).app_hash);
        } else {
            assert!(
                last.starts_with("fault") && last.contains("not today"),
                "{last}"
            );
        }
    }
}

/// The block above says something else than the application, and nobody proves it. It is the
/// application's own word that holds then, and one that has another after its commit has diverged.
#[tokio::test(start_paused = true)]
async fn an_answer_that_nothing_proven_contradicts_is_held_against_the_commit() {
    let chain = TestChain::builder(15).heights(5).build();
    for lost_at_commit in [false, true] {
        let mut commits = 0;
        let mut app = Scripted::new(move |app, call| {
            commits += u32::from(call == "commit");
            if lost_at_commit && call == "commit" && commits == 4 {
                app.commit().now_or_never().unwrap().unwrap();
                return Err(lost());
            }
            Ok(())
        });
        app.alter = |height, response| {
            if height == h(4) {
                response.app_hash = "its word".into();
            }
        };
        let before = executor(app, &chain, settings(), Offload::inline()).await;
        let (after, told) = work(before, vec![job(&chain, 1, 4)], MINUTE).await;
        let last = told.last().unwrap();
        if lost_at_commit {
            assert!(last.starts_with("fault"), "{last}");
            assert!(last.contains("hash after height 4"), "{last}");
        } else {
            assert_eq!(
                (&**last, &after.state.app_hash[..]),
                ("applied 4", &b"its word"[..])
            );
        }
    }
}

/// Start-up over an empty home with an application that fails at these calls, counted from 0: its
/// end in words, the calls, and the seconds that it took.
async fn failing(fails: fn(usize, &str) -> Option<AppError>) -> (String, Vec<String>, u64) {
    let chain = TestChain::builder(9).heights(1).build();
    let mut n = 0;
    let mut app = Scripted::new(move |_, call| {
        n += 1;
        fails(n - 1, call).map_or(Ok(()), Err)
    });
    let (begun, store) = (Instant::now(), Arc::new(MemStore::new()) as Arc<dyn Store>);
    let end = match start(&mut app, &store, &chain, &settings()).await {
        Ok((state, _)) => format!("at {}", state.last_height),
        Err(why) => why.to_string(),
    };
    (end, app.calls(), begun.elapsed().as_secs())
}

#[tokio::test(start_paused = true)]
async fn an_application_that_is_lost_at_the_start_is_waited_for() {
    let (end, calls, took) = failing(|n, _| (1..4).contains(&n).then(lost)).await;
    assert_eq!((&*end, took), ("at 0", 1));
    assert_eq!(calls, ["info", "init", "info", "info", "info", "init"]);

    // One that answers is not waited for.
    let (end, calls, took) = failing(|n, _| match n {
        0 => None,
        1 => Some(lost()),
        _ => Some(refused()),
    })
    .await;
    assert!(end.contains("not today") && took == 0, "{end}");
    assert_eq!(calls, ["info", "init", "info"]);

    let (end, calls, took) = failing(|_, call| (call == "init").then(lost)).await;
    assert!(end.contains("each of the 3 times") && took == 1, "{end}");
    assert_eq!(calls.iter().filter(|c| *c == "init").count(), 3);

    let (end, _, took) = failing(|n, _| (n > 0).then(lost)).await;
    assert!(end.contains("it hung up") && took == 60, "{end}");
}

#[tokio::test]
async fn a_home_of_another_chain_than_the_trusted_one_is_not_opened() {
    let chain = TestChain::builder(10).heights(5).build();
    let other = TestChain::builder(11).heights(5).build();
    let opened = |of: &TestChain, height: u64| {
        let mut config = settings();
        let hash = of.at(h(3)).fetched.id.hash;
        config.trust = Some((h(height), hash.unwrap_or(Hash([0; 32]))));
        startup::stored_state(&*home(&chain, 5), &chain.genesis, &config)
    };
    assert!(opened(&chain, 3).is_ok());
    assert!(opened(&other, 9).is_ok(), "it may still be");
    let why = opened(&other, 3).unwrap_err();
    assert!(
        matches!(&why, StartError::Diverged(why) if why.contains("--trust")),
        "{why}"
    );
}

#[tokio::test]
async fn an_application_is_given_again_what_it_lost() {
    let chain = TestChain::builder(12).heights(9).build();
    for at in [0, 3, 7, 8] {
        let mut app = Scripted::at(&chain, at).await;
        let (store, config) = (home(&chain, 8), settings());
        let (state, _) = start(&mut app, &store, &chain, &config).await.unwrap();
        assert_eq!(state.last_height, h(8));
        let mut expected = vec!["info".to_owned()];
        match at {
            0 => expected.push("init".into()),
            8 => {}
            // It may hold an unfinished block of an earlier connection.
            _ => expected.push(format!("announce {}", at + 1)),
        }
        for height in at + 1..=8 {
            expected.extend([format!("execute {height}"), "commit".into()]);
        }
        assert_eq!(app.calls(), expected);
        assert_eq!(app.info().await.unwrap().last_app_hash, state.app_hash);
    }
    // Without its results there is nothing to follow one by that is ahead.
    for ahead in [1, 2] {
        let mut app = Scripted::at(&chain, 6 + ahead).await;
        let why = start(&mut app, &home(&chain, 6), &chain, &settings()).await;
        let why = why.map(|_| ()).unwrap_err().to_string();
        assert!(why.contains("the chain state only at 6"), "{why}");
        assert_eq!(app.calls(), ["info"]);
    }
}

/// Its hash is held against the next block before that is given to it.
#[tokio::test]
async fn an_application_of_another_past_is_given_nothing() {
    let chain = TestChain::builder(16).heights(9).build();
    let other = TestChain::builder(17).txs(2, 9).heights(9).build();
    let mut app = Scripted::at(&other, 3).await;
    let ended = start(&mut app, &home(&chain, 8), &chain, &settings()).await;
    let why = ended.map(|_| ()).unwrap_err().to_string();
    assert!(why.contains("hash after height 3"), "{why}");
    assert_eq!(app.calls(), ["info"]);
}

/// Stored blocks above the state: each is held against the one above before it is committed.
#[tokio::test]
async fn a_wrong_answer_to_a_stored_block_is_not_committed() {
    let chain = TestChain::builder(18).heights(9).build();
    let mut app = Scripted::at(&chain, 6).await;
    app.alter = |height, response| {
        if height == h(7) {
            response.app_hash = "another".into();
        }
    };
    let calls = app.calls.clone();
    let (store, config) = (home(&chain, 6), settings());
    let above = [7, 8].map(|height| record_of(&chain.at(h(height)).fetched));
    let batch = Batch {
        blocks: above.into(),
        ..Batch::default()
    };
    store.commit(batch).unwrap();
    let (mut executor, _events) =
        executor_over(app, store, &chain, config, Offload::inline()).await;
    let told: startup::OnReplay = Arc::new(|_, _| ());
    let why = executor.replay(&told).await.unwrap_err().to_string();
    let calls = calls.lock().unwrap();
    assert_eq!(calls.last().unwrap(), "execute 7", "{why}");
    assert!(
        why.contains("Nothing of block 7 has been committed"),
        "{why}"
    );
}

/// A wrong answer at 6, and at the last height.
#[tokio::test]
async fn a_wrong_answer_of_one_that_catches_up_is_not_committed() {
    type Alter = fn(Height, &mut FinalizeResponse);
    let chain = TestChain::builder(13).heights(9).build();
    let cases: [(u64, &str, Alter); 4] = [
        (6, "hash after height 6", |height, response| {
            if height == h(6) {
                response.app_hash = "another".into();
            }
        }),
        (6, "the results of block 6", |height, response| {
            if height == h(6) {
                response.tx_results[0].code = 1;
            }
        }),
        (8, "hash after height 8", |height, response| {
            if height == h(8) {
                response.app_hash = "another".into();
            }
        }),
        (8, "the results of block 8", |height, response| {
            if height == h(8) {
                response.tx_results[0].code = 1;
            }
        }),
    ];
    for (at, words, alter) in cases {
        let mut app = Scripted::at(&chain, 3).await;
        app.alter = alter;
        let ended = start(&mut app, &home(&chain, 8), &chain, &settings()).await;
        let why = match ended.map(|_| ()) {
            Err(StartError::Diverged(why)) => why,
            other => panic!("{words}: {other:?}"),
        };
        let nothing = format!("nothing of block {at} has been committed");
        assert!(why.contains(words) && why.contains(&nothing), "{why}");
        assert_eq!(app.calls().last(), Some(&format!("execute {at}")));
        let committed = app.app.info().await.unwrap().last_height;
        assert_eq!(committed, h(at - 1));
    }
}
