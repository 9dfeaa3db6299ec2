//! The flight recorder: a run of the whole service is recorded and done again.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use blocksync::app::KvStore;
use blocksync::ids::Height;
use blocksync::pool::Outcome;
use blocksync::pool::record::{Replay, Step};
use blocksync::service::{BlockSync, Config, Recording, RecordingFile, StartError};
use blocksync::store::MemStore;
use blocksync_testkit::peers::{Behaviour, scripted};
use blocksync_testkit::recorded::{Recorded, config, fresh};
use tokio::time::timeout;

const GUARD: Duration = Duration::from_secs(600);

/// Configuration that records to this file.
fn recording(file: &Path, bytes: u64) -> Config {
    let mut recording = Recording::new(file);
    recording.bytes = bytes;
    let mut config = config(1);
    config.record = Some(recording);
    config
}

/// Results of a replay.
struct Ended {
    outcome: Option<Outcome>,
    applied: Height,
    inputs: u64,
    /// Whole pools that the replay had arrived at.
    met: u64,
}

/// Replays a recording; every digest and every pool in it has to be met.
fn replayed(file: &Path) -> Ended {
    let recorded = RecordingFile::read(file).unwrap();
    let mut replay = Replay::new(&[]);
    let (mut inputs, mut met, mut digests) = (0, 0, 0);
    for entries in recorded.entries() {
        replay.go_on(entries);
        while let Some(step) = replay.step().unwrap() {
            match step {
                Step::Pool { same, .. } => {
                    assert_ne!(same, Some(false));
                    met += u64::from(same.is_some());
                }
                Step::Input { .. } => inputs += 1,
                Step::Digest { recorded, replayed } => {
                    assert_eq!(recorded, replayed);
                    digests += 1;
                }
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(digests > 0);
    let pool = replay.pool().unwrap();
    pool.check();
    Ended {
        outcome: replay.outcome().cloned(),
        applied: pool.applied(),
        inputs,
        met,
    }
}

/// Returns when the first part of the recording is gone. The clock of the test jumps, and the
/// thread that writes has none: it is given real time between the jumps.
async fn has_turned(file: &Path) {
    for _ in 0..1000 {
        let heads = RecordingFile::read(file);
        if heads.is_ok_and(|read| read.heads().all(|head| head.part > 0)) {
            return;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("the ring never turned");
}

#[tokio::test(start_paused = true)]
async fn a_sync_is_replayed_from_a_ring_that_has_turned() {
    let chain = Recorded::load("full-038");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("flight");
    let (handle, _store) = fresh(&chain, recording(&file, 20_000)).await;
    for n in 1..=3 {
        let delay = Duration::from_millis(200);
        let peer = scripted(&chain, n, Behaviour::Honest, delay);
        handle.add_peer(peer).await.unwrap();
    }
    let caught_up = handle.outcome(|o| matches!(o, Outcome::CaughtUp { .. }));
    let status = timeout(GUARD, caught_up).await.unwrap().unwrap();
    has_turned(&file).await;
    handle.stop().await;
    let read = RecordingFile::read(&file).unwrap();
    let parts: Vec<u64> = read.heads().map(|head| head.part).collect();
    assert!(
        parts[0] > 0 && parts == [parts[0], parts[0] + 1],
        "{parts:?}"
    );
    assert!(
        read.heads()
            .all(|head| head.chain_id == chain.genesis.chain_id)
    );
    for entries in read.entries() {
        // Half, a chunk, and the whole pool of three peers.
        assert!(
            entries.len() < 10_000 + (64 << 10) + 40_000,
            "{}",
            entries.len()
        );
    }
    let ended = replayed(&file);
    assert_eq!(ended.applied, status.applied);
    assert_eq!(ended.outcome, Some(Outcome::Stopped));
    assert_eq!(ended.met, 1, "the older part ends where the newer begins");
}

#[tokio::test(start_paused = true)]
async fn a_stall_is_replayed_to_the_same_stall() {
    let chain = Recorded::load("full-038");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("flight");
    let (handle, _store) = fresh(&chain, recording(&file, 64 << 20)).await;
    for (n, behaviour) in [(1, Behaviour::Claims(500)), (2, Behaviour::Claims(500))] {
        let peer = scripted(&chain, n, behaviour, Duration::from_millis(20));
        handle.add_peer(peer).await.unwrap();
    }
    let stands = |o: &Outcome| matches!(o, Outcome::Stalled { .. } | Outcome::NoUsablePeers);
    let status = timeout(GUARD, handle.outcome(stands))
        .await
        .unwrap()
        .unwrap();
    assert!(status.applied > Height::new(200), "{}", status.applied);
    // Killed, and not stopped: what has not been flushed is missing, and that is the last second.
    tokio::time::sleep(Duration::from_secs(15)).await;
    let ended = replayed(&file);
    assert_eq!(ended.outcome, Some(status.outcome));
    assert_eq!(ended.applied, status.applied);
    assert!(ended.inputs > 250, "{}", ended.inputs);
    handle.stop().await;
    assert_eq!(replayed(&file).outcome, Some(Outcome::Stopped));
}

/// A recording of an earlier run stays beside the new one, and is not taken for its older part.
#[tokio::test(start_paused = true)]
async fn a_restart_keeps_the_recording_of_the_run_before() {
    let chain = Recorded::load("full-038");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("flight");
    for _ in 0..2 {
        let (handle, _store) = fresh(&chain, recording(&file, 64 << 20)).await;
        handle.stop().await;
    }
    let (old, new) = (dir.path().join("flight.old"), RecordingFile::read(&file));
    assert_eq!(new.unwrap().heads().count(), 1);
    for file in [file, old] {
        assert_eq!(replayed(&file).outcome, Some(Outcome::Stopped));
    }
}

#[tokio::test]
async fn a_recording_that_cannot_be_written_is_refused_at_the_start() {
    let chain = Recorded::load("full-038");
    let dir = tempfile::tempdir().unwrap();
    let config = recording(&dir.path().join("nowhere/flight"), 1 << 20);
    let store = Arc::new(MemStore::new());
    let sync = BlockSync::builder(store, KvStore::new(), chain.genesis.clone());
    let refused = sync.config(config).spawn().await.err();
    assert!(
        matches!(refused, Some(StartError::Record { .. })),
        "{refused:?}"
    );
    assert!(RecordingFile::read(&dir.path().join("none")).is_err());
}
