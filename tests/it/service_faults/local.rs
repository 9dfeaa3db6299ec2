//! Faults of our own: the application, the state, the clock. Nobody else pays for them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use blocksync::app::{App, AppError, AppInfo, InitChain, InitChainResponse};
use blocksync::chain::{FinalizeBlock, FinalizeResponse, Time};
use blocksync::ids::Height;
use blocksync::link::{Inbound, Link};
use blocksync::pool::{LocalFault, Outcome};
use blocksync::service::{BlockSync, Config, Phase};
use blocksync::store::{Batch, MemStore, Store};
use blocksync::wire::Message;

use crate::service_faults::peers::{Log, Script};
use crate::service_faults::{GUARD, KvStore, fails, made, peers, policies};
use blocksync_testkit::made::{Disk, Outside, execute};
use blocksync_testkit::recorded::{Recorded, clock, config, id};

/// How an application goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trip {
    Refuses,
    Panics,
    /// Answers with another app hash than the chain has.
    Diverges,
}

/// The kvstore, until a height.
struct Tripping {
    app: KvStore,
    at: Height,
    trip: Trip,
    embedded: bool,
    /// The height came more than once.
    tried: Arc<AtomicBool>,
}

impl Tripping {
    fn new(at: u64, trip: Trip) -> Self {
        Tripping {
            app: KvStore::new(),
            at: Height::new(at),
            trip,
            embedded: true,
            tried: Arc::default(),
        }
    }
}

impl App for Tripping {
    fn embedded(&self) -> bool {
        self.embedded
    }

    fn load(&mut self, store: &dyn Store) -> Result<(), AppError> {
        self.app.load(store)
    }

    fn take_writes(&mut self) -> Vec<(bytes::Bytes, Option<bytes::Bytes>)> {
        self.app.take_writes()
    }

    async fn info(&mut self) -> Result<AppInfo, AppError> {
        self.app.info().await
    }

    async fn init_chain(&mut self, request: InitChain) -> Result<InitChainResponse, AppError> {
        self.app.init_chain(request).await
    }

    async fn finalize_block(&mut self, block: FinalizeBlock) -> Result<FinalizeResponse, AppError> {
        let here = block.height == self.at;
        let mut answer = self.app.finalize_block(block).await?;
        if !here {
            return Ok(answer);
        }
        assert!(
            !self.tried.swap(true, Ordering::Relaxed),
            "a failure is not tried again"
        );
        match self.trip {
            Trip::Refuses => Err(AppError::Refused("FinalizeBlock", "out of ideas".into())),
            Trip::Panics => panic!("the application panics at height {}", self.at),
            Trip::Diverges => {
                answer.app_hash = vec![0xee; 8].into();
                Ok(answer)
            }
        }
    }

    async fn commit(&mut self) -> Result<Height, AppError> {
        self.app.commit().await
    }
}

async fn l08(trip: Trip, says: &str) {
    let made = made(1, 40);
    let chain = Recorded::of(&made);
    for config in policies(8) {
        let store = Arc::new(MemStore::new());
        let sync = BlockSync::builder(
            store.clone(),
            Tripping::new(17, trip),
            chain.genesis.clone(),
        );
        let handle = sync.config(config.clone()).spawn().await.unwrap();
        peers::keep(&handle, 1, Script::honest(&chain), &Log::new());
        let status = fails(&handle).await;
        let Outcome::LocalFault(LocalFault::App(why)) = &status.outcome else {
            panic!("{trip:?}: {:?}", status.outcome);
        };
        assert!(why.contains(says), "{why}");
        assert_eq!(status.phase, Phase::Failed);
        assert_eq!(status.dropped, [], "nobody is to blame");
        handle.stop().await;
        let span = store.span().unwrap();
        assert!(span.applied < Height::new(17), "{span:?}");
        // The next start tries the same height again.
        let sync = BlockSync::builder(store.clone(), KvStore::new(), chain.genesis.clone());
        let handle = sync.config(config).spawn().await.unwrap();
        assert_eq!(handle.status().borrow().applied, span.applied);
        peers::keep(&handle, 1, Script::honest(&chain), &Log::new());
        let mut watch = handle.status();
        let last = chain.tip().prev();
        let done = watch.wait_for(|s| s.applied == last);
        tokio::time::timeout(GUARD, done).await.unwrap().unwrap();
        handle.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn l08_the_application_refuses() {
    l08(Trip::Refuses, "out of ideas").await;
}

#[tokio::test(start_paused = true)]
async fn l08_the_application_panics() {
    l08(Trip::Panics, "panicked").await;
}

async fn l09(config: Config, embedded: bool) {
    let chain = Recorded::of(&made(1, 40));
    let app = Tripping {
        embedded,
        ..Tripping::new(17, Trip::Diverges)
    };
    let (handle, store) = crate::service_faults::start(&chain, config, app).await;
    for n in 1..=3 {
        peers::keep(&handle, n, Script::honest(&chain), &Log::new());
    }
    let status = fails(&handle).await;
    let Outcome::LocalFault(LocalFault::Diverged(why)) = &status.outcome else {
        panic!("{:?}", status.outcome);
    };
    let right = chain.app_hash_after(Height::new(17));
    for part in ["18", &"ee".repeat(8), &right] {
        let (why, part) = (why.to_lowercase(), part.to_lowercase());
        assert!(why.contains(&part), "{why} does not name {part}");
    }
    assert_eq!(status.dropped, [], "0 bans");
    handle.stop().await;
    let span = store.span().unwrap();
    // 18 is certified and at hand, so that an external application's answer to 17 is compared with
    // it before it commits. An embedded one's state lies in the same batch as the block.
    let applied = Height::new(if embedded { 17 } else { 16 });
    assert_eq!((span.stored, span.applied), (Height::new(17), applied));
    println!("L09: 0 bans; says: {why}");
}

#[tokio::test(start_paused = true)]
async fn l09_r14_app_hash_mismatch_and_the_block_that_tells_is_not_stored() {
    for config in policies(9) {
        for embedded in [true, false] {
            l09(config.clone(), embedded).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_block_that_the_operator_does_not_trust_is_not_applied() {
    let made = made(1, 40);
    let chain = Recorded::of(&made);
    let (at, last) = (Height::new(17), chain.tip().prev());
    let right = made.at(at).fetched.id.hash.unwrap();
    let wrong = made.at(at.next()).fetched.id.hash.unwrap();
    for config in policies(17) {
        for hash in [right, wrong] {
            let trust = Some((at, hash));
            let mut config = config.clone();
            config.trust = trust;
            let (handle, store) =
                crate::service_faults::start(&chain, config, KvStore::new()).await;
            peers::keep(&handle, 1, Script::honest(&chain), &Log::new());
            let ended =
                |o: &Outcome| matches!(o, Outcome::CaughtUp { .. } | Outcome::LocalFault(_));
            let status = tokio::time::timeout(GUARD, handle.outcome(ended)).await;
            let status = status.unwrap().unwrap();
            handle.stop().await;
            assert_eq!(status.dropped, [], "nobody is to blame");
            let stored = store.span().unwrap().stored;
            if hash == right {
                assert_eq!(stored, last);
                continue;
            }
            assert_eq!(stored, at.prev());
            let Outcome::LocalFault(LocalFault::Diverged(why)) = &status.outcome else {
                panic!("{:?}", status.outcome);
            };
            assert!(why.contains("--trust") && why.contains("17"), "{why}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn l04_after_state_sync() {
    // State sync leaves an application and a chain state at a height, and no block.
    let made = made(1, 40);
    let chain = Recorded::of(&made);
    let at = Height::new(20);
    let (disk, store) = (Arc::new(Disk::default()), Arc::new(MemStore::new()));
    let snapshot = Arc::new(Disk::default());
    execute(&mut Outside::new(&snapshot), &made, at);
    disk.become_a_copy_of(&snapshot);
    let state = Arc::new(made.state_after(at).clone());
    let batch = Batch {
        state: Some(state),
        ..Batch::default()
    };
    store.commit(batch).unwrap();
    let sync = BlockSync::builder(store.clone(), Outside::new(&disk), chain.genesis.clone());
    let handle = sync.config(config(4)).spawn().await.unwrap();
    peers::keep(&handle, 1, Script::honest(&chain), &Log::new());
    let mut watch = handle.status();
    let last = chain.tip().prev();
    let done = watch.wait_for(|s| s.applied == last);
    tokio::time::timeout(GUARD, done).await.unwrap().unwrap();
    let span = store.span().unwrap();
    assert_eq!((span.base, span.applied), (at.next(), last));
    // It tells others the heights that it has.
    let (link, mut end) = Link::pair(id(9), "asking");
    handle.add_peer(link).await.unwrap();
    let told = end.outbox.recv().await.unwrap();
    let told = Message::decode_small(&told).unwrap();
    let has =
        matches!(told, Message::Status { base, height, .. } if base == at.next() && height == last);
    assert!(has, "{told:?}");
    drop(end);
    handle.stop().await;
    assert_eq!(disk.finalized(), heights(at.next(), last));
    println!("L04: booted at {at}, applied {} to {last}", at.next());
}

fn heights(from: Height, to: Height) -> Vec<Height> {
    (from.get()..=to.get()).map(Height::new).collect()
}

thread_local! {
    /// Seconds by which the clock of `behind` is wrong. Each test has a thread of its own.
    static WRONG_BY: std::cell::Cell<i64> = const { std::cell::Cell::new(0) };
}

fn behind() -> Time {
    let right = clock();
    Time::new(right.seconds - WRONG_BY.get(), right.nanos).unwrap()
}

#[tokio::test(start_paused = true)]
async fn l12_a_clock_that_is_behind_the_chain_is_waited_for() {
    let made = made(1, 30);
    let chain = Recorded::of(&made);
    // As if it were the chain's tenth block's time, but for the tolerance.
    let tenth = made.at(Height::new(10)).fetched.block.header.time;
    let mut config = config(12);
    config.clock = behind;
    config.clock_tolerance = Duration::ZERO;
    WRONG_BY.set(clock().seconds - tenth.seconds - 1);
    let (handle, _store) = crate::service_faults::start(&chain, config, KvStore::new()).await;
    peers::keep(&handle, 1, Script::honest(&chain), &Log::new());
    let mut watch = handle.status();
    let waits = watch.wait_for(|s| s.waiting.is_some());
    tokio::time::timeout(GUARD, waits).await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let status = handle.status().borrow().clone();
    assert!(status.waiting.is_some());
    assert!(
        !matches!(status.outcome, Outcome::CaughtUp { .. }),
        "{:?}",
        status.outcome
    );
    assert_eq!(status.dropped, [], "an hour of waiting is nobody's fault");
    WRONG_BY.set(0);
    let last = chain.tip().prev();
    let done = watch.wait_for(|s| s.applied == last);
    tokio::time::timeout(GUARD, done).await.unwrap().unwrap();
    assert_eq!(handle.status().borrow().dropped, []);
    handle.stop().await;
    println!("L12: waited an hour for the clock, 0 dropped");
}

#[tokio::test(start_paused = true)]
async fn l12_the_writer_is_handed_over_while_the_clock_is_waited_for() {
    let made = made(1, 30);
    let chain = Recorded::of(&made);
    let mut config = config(12);
    config.clock = || Time::new(1, 0).unwrap();
    config.clock_tolerance = Duration::ZERO;
    let (mut handle, store) = crate::service_faults::start(&chain, config, KvStore::new()).await;
    peers::keep(&handle, 1, Script::honest(&chain), &Log::new());
    let mut watch = handle.status();
    let waits = watch.wait_for(|s| s.waiting.is_some());
    tokio::time::timeout(GUARD, waits).await.unwrap().unwrap();
    let begun = tokio::time::Instant::now();
    let out = tokio::time::timeout(GUARD, handle.hand_over()).await;
    let out = out.expect("handed over").unwrap();
    crate::service_faults::report("L12, hand-over", begun.elapsed(), Duration::from_secs(2));
    assert_eq!(out.state.last_height, store.span().unwrap().applied);
    handle.resume(out).await.unwrap();
    handle.stop().await;
}

#[tokio::test(start_paused = true)]
async fn l11_a_block_that_rots_on_disk_is_neither_served_nor_built_upon() {
    let made = made(1, 12);
    let chain = Recorded::of(&made);
    let dir = tempfile::tempdir().unwrap();
    let options = blocksync::store::LmdbOptions::with_map_size(64 << 20);
    let open = || blocksync::store::LmdbStore::open(dir.path(), &options);
    {
        let store = Arc::new(open().unwrap());
        let sync = BlockSync::builder(store, KvStore::new(), chain.genesis.clone());
        let handle = sync.config(config(11)).spawn().await.unwrap();
        peers::keep(&handle, 1, Script::honest(&chain), &Log::new());
        let mut watch = handle.status();
        let last = chain.tip().prev();
        watch.wait_for(|s| s.applied == last).await.unwrap();
        handle.stop().await;
    }
    let file = dir.path().join("blocks/0000000000.log");
    let sound = std::fs::read(&file).unwrap();
    let raw = made.at(Height::new(5)).fetched.raw.clone();
    let at = sound.windows(raw.len()).position(|w| w == &raw[..]);
    let at = at.expect("the bytes that came are in the file");
    let mut detected = 0;
    let tried = raw.len() / 7 + 1;
    for offset in (0..raw.len()).step_by(7) {
        let mut rotten = sound.clone();
        rotten[at + offset] ^= 1 << (offset % 8);
        std::fs::write(&file, &rotten).unwrap();
        let store = Arc::new(open().unwrap());
        assert!(store.block(Height::new(5)).is_err());
        let sync = BlockSync::builder(store, KvStore::new(), chain.genesis.clone());
        let handle = sync.config(config(11)).spawn().await.unwrap();
        let (link, mut end) = Link::pair(id(9), "asking");
        handle.add_peer(link).await.unwrap();
        for height in [4, 5, 6] {
            let height = Height::new(height);
            let request = Message::BlockRequest { height, count: 0 }.encode();
            end.inbox.send(Inbound::Message(request)).await.unwrap();
            let answer = loop {
                match Message::decode(&end.outbox.recv().await.unwrap()).unwrap() {
                    Message::Status { .. } | Message::StatusRequest => {}
                    answer => break answer,
                }
            };
            match (height.get(), answer) {
                (5, Message::NoBlock { .. }) => detected += 1,
                (4 | 6, Message::Block(_)) => {}
                (_, other) => panic!("{height}, offset {offset}: {other:?}"),
            }
        }
        drop(end);
        handle.stop().await;
    }
    println!("L11: measured {detected} of {tried} flipped bits detected, allowed {tried}");
    assert_eq!(detected, tried);
}
