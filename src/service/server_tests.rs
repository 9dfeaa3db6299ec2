//! Blocks that are kept in memory, ours or the kernel's, and what is read ahead.

use super::*;
use crate::service::remembered::tests::record;
use crate::store::MemStore;
use crate::wire::{Cancel, decode};

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

#[tokio::test(start_paused = true)]
async fn blocks_asked_again_and_again_come_from_memory_when_others_have_had_theirs() {
    let (served, range) = watch::channel(Served::default());
    let store = Arc::new(MemStore::new()); // in which there is nothing
    let server = Server::new(store, range, ServeConfig::default(), Offload::inline());
    for height in 1..=100 {
        server.remember(record(height, 100));
    }
    served.send_replace(Served {
        base: Height::new(1),
        height: Height::new(100),
        behind: false,
    });
    // Asks for a block a millisecond after the last has come.
    let client = |peer, heights: fn(u64) -> u64| {
        let (requests, waiting) = mpsc::channel(8);
        let (out, mut answers) = mpsc::channel(8);
        let lane = server.lane(PeerId([peer; 20]));
        tokio::spawn(
            server
                .clone()
                .serve(lane, waiting, out, CancellationToken::new()),
        );
        async move {
            for n in 0..100 {
                let from = Height::new(heights(n));
                requests.send(Request { from, count: 1 }).await.unwrap();
                let answer = Message::decode(&answers.recv().await.unwrap()).unwrap();
                assert!(matches!(answer, Message::Block(_)), "{from}");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    };
    let begun = Instant::now();
    let took = async |client| {
        let () = client.await;
        begun.elapsed().as_millis()
    };
    let others = futures::future::join(took(client(1, |n| n + 1)), took(client(2, |n| n + 1)));
    let ((first, second), again) = tokio::join!(others, took(client(3, |_| 7)));
    assert_eq!((first, second), (100, 100), "nobody waits for the third");
    assert!(again >= 130, "{again}: of the others' time it has half");
}

/// A server of nothing with this configuration.
fn server(config: ServeConfig) -> Server {
    let (_, range) = watch::channel(Served::default());
    Server::new(Arc::new(MemStore::new()), range, config, Offload::inline())
}

#[test]
fn one_peer_gets_a_part_of_the_bytes_in_flight() {
    let share = |bytes_in_flight| {
        let server = server(ServeConfig {
            bytes_in_flight,
            ..ServeConfig::default()
        });
        server.lane(PeerId([1; 20])).share
    };
    assert_eq!(share(64 << 20), 16 << 20);
    assert_eq!(share(1003), 250);
    assert_eq!(share(3), 1, "never nothing");
    assert_eq!(share(usize::MAX), u32::MAX as usize, "acquired in one go");
}

#[tokio::test(start_paused = true)]
async fn the_more_peers_there_are_the_less_is_read_for_one_in_a_turn() {
    let server = server(ServeConfig::default());
    assert_eq!(server.quantum(), READ_BYTES);
    let mut accounts = Vec::new();
    for (clients, bytes) in [(1, READ_BYTES), (4, READ_BYTES / 4), (50, LEAST_READ)] {
        while accounts.len() < clients {
            let mut account = server.turns.account();
            account.lets_others_pass(false).await;
            accounts.push(account);
        }
        assert_eq!(server.quantum(), bytes, "{clients}");
    }
}

#[test]
fn a_range_without_blocks_has_none() {
    let range = |base, height| {
        let (base, height) = (Height::new(base), Height::new(height));
        Served {
            base,
            height,
            behind: false,
        }
    };
    assert!(!Served::default().has(Height::ZERO));
    for (height, expected) in [(2, false), (3, true), (5, true), (6, false)] {
        assert_eq!(range(3, 5).has(Height::new(height)), expected, "{height}");
    }
}

/// The transport takes this number of messages.
fn takes(answers: &mut mpsc::Receiver<Bytes>, number: usize) {
    for _ in 0..number {
        answers.try_recv().unwrap();
    }
}

/// Serves a peer whose transport takes nothing yet, and which asks for all blocks, of this size.
/// Gives its answers, and the number of them that are there after a while.
async fn read_ahead(blocks: u32, bytes: usize) -> (Arc<Lane>, mpsc::Receiver<Bytes>, usize) {
    let (served, range) = watch::channel(Served::default());
    let config = ServeConfig {
        recent_bytes: usize::MAX,
        max_range: blocks,
        max_range_bytes: usize::MAX,
        ..ServeConfig::default()
    };
    let store = Arc::new(MemStore::new());
    let server = Server::new(store, range, config, Offload::inline());
    for height in 1..=blocks {
        server.remember(record(height.into(), bytes));
    }
    let (base, height) = (Height::new(1), Height::new(blocks.into()));
    served.send_replace(Served {
        base,
        height,
        behind: false,
    });
    let (requests, waiting) = mpsc::channel(8);
    let (out, answers) = mpsc::channel(1000);
    let lane = server.lane(PeerId([1; 20]));
    let (from, count) = (base, blocks);
    requests.send(Request { from, count }).await.unwrap();
    let serving = server.serve(lane.clone(), waiting, out, CancellationToken::new());
    tokio::spawn(async move {
        let _served = served;
        let _requests = requests;
        serving.await;
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    let there = answers.len();
    (lane, answers, there)
}

#[tokio::test(start_paused = true)]
async fn two_turns_are_on_their_way_and_the_next_when_one_is_gone() {
    // Eight blocks are a turn of the only peer.
    let (lane, mut answers, there) = read_ahead(512, 64 << 10).await;
    assert_eq!(there, 16);
    // A part of a turn lets nothing go, the rest of it does.
    takes(&mut answers, 7);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(answers.len(), 9);
    takes(&mut answers, 1);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(answers.len(), 16);
    // And so on to the last: nothing is lost.
    for _ in 8..512 {
        assert!(answers.recv().await.unwrap().len() > 64 << 10);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(lane.free.available_permits(), lane.share);
}

#[tokio::test(start_paused = true)]
async fn of_blocks_longer_than_a_turn_one_is_read_while_another_is_sent() {
    // How long the first would be nobody knew, so that it holds less than it should.
    let (_lane, mut answers, there) = read_ahead(8, 3 << 20).await;
    assert_eq!(there, 3);
    for _ in 0..2 {
        let all_but_one = answers.len() - 1;
        takes(&mut answers, all_but_one);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(answers.len(), 2);
    }
}

#[test]
fn requests_that_go_on_are_answered_as_one() {
    let one = |height| (Height::new(height), 0);
    let run = |first: u64, waiting: &[(Height, u32)]| {
        let request = |(from, count)| Request { from, count };
        let (requests, mut queue) = mpsc::channel(waiting.len());
        for next in waiting {
            requests.try_send(request(*next)).unwrap();
        }
        let (count, other) = singles(request(one(first)), &mut queue);
        (count, other.map(|r| (r.from, r.count)), queue.len())
    };
    assert_eq!(run(5, &[one(6), one(7)]), (3, None, 0));
    // The same height again, a height left out, and a range that goes on: none is lost.
    for other in [one(6), one(9), (Height::new(7), 2)] {
        assert_eq!(run(5, &[one(6), other, one(8)]), (2, Some(other), 1));
    }
    // A hundred wait: as many are taken as one turn may.
    let hundred: Vec<_> = (6..106).map(one).collect();
    let left = hundred.len() + 1 - MOST_SINGLES as usize;
    assert_eq!(run(5, &hundred), (MOST_SINGLES, None, left));
    // Nothing comes after the highest height there is.
    let last = Height::MAX.get();
    assert_eq!(run(last, &[one(last)]), (1, None, 1));
}

/// A server over twenty blocks on a disk whose every read takes ten seconds.
#[cfg(feature = "lmdb")]
fn on_a_slow_disk(dir: &std::path::Path) -> (Server, watch::Sender<Served>) {
    use crate::store::conformance::sample;
    use crate::store::{Batch, LmdbOptions, LmdbStore};
    use futures::FutureExt as _;
    let store = LmdbStore::open(dir, &LmdbOptions::with_map_size(1 << 26)).unwrap();
    let batch = Batch {
        blocks: sample::blocks(1, 1..=20),
        state: Some(Arc::new(sample::state(20, 1))),
        ..Batch::default()
    };
    store.commit(batch).unwrap();
    let (base, height) = (Height::new(1), Height::new(20));
    let (served, range) = watch::channel(Served {
        base,
        height,
        behind: false,
    });
    let disk = || tokio::time::sleep(Duration::from_secs(10)).boxed();
    let offload = Offload::simulated(disk);
    let config = ServeConfig::default();
    (Server::new(Arc::new(store), range, config, offload), served)
}

#[cfg(feature = "lmdb")]
#[tokio::test(start_paused = true)]
async fn what_the_kernel_has_in_memory_waits_for_no_turn() {
    let dir = tempfile::tempdir().unwrap();
    if !crate::store::reads_from_memory(dir.path()) {
        return;
    }
    let (server, _served) = on_a_slow_disk(dir.path());
    let (requests, waiting) = mpsc::channel(8);
    let (out, mut answers) = mpsc::channel(64);
    let lane = server.lane(PeerId([1; 20]));
    let hangup = CancellationToken::new();
    tokio::spawn(server.clone().serve(lane, waiting, out, hangup.clone()));
    // The seconds that an answer takes.
    let mut ask = async |from, count: u32| {
        let (from, begun) = (Height::new(from), Instant::now());
        requests.send(Request { from, count }).await.unwrap();
        for n in 0..u64::from(count.max(1)) {
            let answer = Message::decode(&answers.recv().await.unwrap()).unwrap();
            let Message::Block(block) = answer else {
                panic!("{answer:?} for {from}");
            };
            let header = decode::header_of_block(&block.block).unwrap();
            assert_eq!(header.height, from.plus(n));
        }
        begun.elapsed().as_secs()
    };
    // Only what has been read from the disk is known to be in memory.
    assert_eq!(ask(1, 12).await, 10);
    assert_eq!(ask(1, 12).await, 0);
    assert_eq!(ask(2, 0).await, 0);
    assert_eq!(server.turns.clients(), 1, "it has its part of a turn");
    // Our own sync needs the disk.
    server.set_behind(true);
    assert_eq!(ask(5, 0).await, 10);
    server.set_behind(false);
    assert_eq!(ask(6, 0).await, 0);
    // Again and again: nobody else wants anything.
    assert_eq!(ask(2, 0).await, 0);
    // The highest block's own commit lies in the database.
    assert_eq!(ask(19, 2).await, 10);
    assert_eq!(ask(19, 2).await, 10);
    assert_eq!(ask(19, 1).await, 0);
    hangup.cancel();
}
