//! Blocks that are kept in memory for peers that sync beside us.

use super::*;
use crate::ids::{BlockId, Hash, PartSetHeader};
use crate::store::MemStore;

fn record(height: u64, bytes: usize) -> BlockRecord {
    let hash = Some(Hash([1; 32]));
    BlockRecord {
        height: Height::new(height),
        id: BlockId {
            hash,
            parts: PartSetHeader { total: 1, hash },
        },
        raw: vec![7; bytes].into(),
        ext_raw: None,
    }
}

#[test]
fn the_newest_blocks_are_kept_and_no_more_bytes_than_may_be() {
    let mut recent = Recent::default();
    for height in 1..=100 {
        recent.insert(record(height, 1000), 10_000);
        assert!(recent.bytes <= 10_000);
    }
    let heights = |from, end, most| -> Vec<u64> {
        let run = recent.run(Height::new(from), Height::new(end), most);
        run.iter().map(|r| r.height.get()).collect()
    };
    assert_eq!(heights(91, 101, usize::MAX).len(), 10);
    assert_eq!(
        heights(90, 101, usize::MAX),
        [0; 0],
        "it is gone, and so is the run"
    );
    assert_eq!(heights(95, 98, usize::MAX), [95, 96, 97]);
    assert_eq!(heights(95, 101, 2500), [95, 96]);
    assert_eq!(heights(95, 101, 1), [95], "one at least");
    recent.insert(record(100, 500), 10_000);
    assert_eq!(recent.bytes, 9500, "one of a height");
}

#[tokio::test(start_paused = true)]
async fn a_block_that_was_just_applied_comes_from_memory() {
    let (served, range) = watch::channel(Served::default());
    let store = Arc::new(MemStore::new()); // in which there is nothing
    let server = Server::new(store, range, ServeConfig::default(), Offload::inline());
    server.remember(record(5, 100));
    let (requests, waiting) = mpsc::channel(8);
    let (out, mut answers) = mpsc::channel(8);
    let hangup = CancellationToken::new();
    let lane = server.lane(PeerId([1; 20]));
    tokio::spawn(server.clone().serve(lane, waiting, out, hangup.clone()));
    let (from, count) = (Height::new(5), 0);
    let mut ask = async || {
        requests.send(Request { from, count }).await.unwrap();
        Message::decode(&answers.recv().await.unwrap()).unwrap()
    };
    let none = Message::NoBlock { height: from };
    assert_eq!(ask().await, none, "it is not advertised yet");
    let (base, height) = (Height::new(1), from);
    served.send_replace(Served {
        base,
        height,
        behind: false,
    });
    assert!(matches!(ask().await, Message::Block(_)));
    assert_eq!(server.counters().from_memory.load(Relaxed), 1);
    server.forget();
    assert_eq!(ask().await, none);
    hangup.cancel();
}

#[test]
fn a_peer_is_given_a_block_a_few_times_and_then_it_is_a_repetition() {
    let mut given = Given::default();
    let height = Height::new(3);
    let times: Vec<bool> = (0..5).map(|_| given.note(height)).collect();
    assert_eq!(times, [false, false, false, true, true]);
    assert!(given.is_again(height) && !given.is_again(height.next()));
    for n in 10..10_000 {
        given.note(Height::new(n));
    }
    assert!(given.times.len() <= REMEMBERED && given.order.len() <= REMEMBERED);
    assert!(!given.is_again(height), "it is forgotten in time");
}

#[tokio::test(start_paused = true)]
async fn what_is_taken_back_is_not_read_and_is_answered() {
    let (served, range) = watch::channel(Served::default());
    let server = Server::new(
        Arc::new(MemStore::new()),
        range,
        ServeConfig::default(),
        Offload::inline(),
    );
    for height in 1..=10 {
        server.remember(record(height, 100));
    }
    let (base, height) = (Height::new(1), Height::new(10));
    served.send_replace(Served {
        base,
        height,
        behind: false,
    });
    let (requests, waiting) = mpsc::channel(8);
    let (out, mut answers) = mpsc::channel(64);
    let hangup = CancellationToken::new();
    let lane = server.lane(PeerId([1; 20]));
    let from = Height::new(1);
    let request = Request { from, count: 10 };
    for _ in 0..2 {
        requests.send(request).await.unwrap();
        lane.asked();
        // Only the first is taken back, and the heights 4 to 8 of it.
        if lane.asked.load(Relaxed) == 1 {
            let from = Height::new(4);
            lane.cancel(Cancel { from, count: 5 });
        }
    }
    tokio::spawn(server.clone().serve(lane, waiting, out, hangup.clone()));
    let mut blocks = Vec::new();
    for _ in 0..20 {
        let answer = Message::decode(&answers.recv().await.unwrap()).unwrap();
        blocks.push(matches!(answer, Message::Block(_)));
    }
    let first: Vec<usize> = (0..10).filter(|n| !blocks[*n]).collect();
    assert_eq!(first, [3, 4, 5, 6, 7]);
    assert!(blocks[10..].iter().all(|block| *block));
    hangup.cancel();
}
