//! Serving is shared: among the greedy alike, and with peers that ask for the same again and again
//! last.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use blocksync::ids::Height;
use blocksync::service::{Offload, Request, ServeConfig, Server};
use blocksync::wire::Message;
use blocksync_testkit::chain::TestChain;
use blocksync_testkit::made::filled;
use futures::FutureExt;
use tokio::time::{sleep, timeout};

use super::serving::{Client, client, server_with};

/// Clients that want as much as they can get.
const CLIENTS: u64 = 64;
/// Heights that each of them goes through, its own.
const EACH: u64 = 20;

/// A server over blocks of 10 KB whose disk takes a millisecond for each read.
fn slow_server(heights: u64, config: ServeConfig) -> Server {
    let made = TestChain::builder(1);
    let made = made.heights(heights as usize).txs(1, 10_000).build();
    let offload = Offload::simulated(move || sleep(Duration::from_millis(1)).boxed());
    server_with(Arc::new(filled(&made)), 1, heights, config, offload)
}

/// Asks without end, in ranges or one by one, and counts the bytes of what comes.
async fn greedy(mut client: Client, who: u64, count: u32, got: Arc<AtomicU64>) {
    let first = who * EACH;
    let mut at = 0;
    loop {
        let from = Height::new(first + 1 + at % EACH);
        let request = Request { from, count };
        if client.requests.try_send(request).is_ok() {
            at += u64::from(count.max(1));
            continue;
        }
        let Some(answer) = client.answers.recv().await else {
            return;
        };
        if answer.len() > 1000 {
            got.fetch_add(answer.len() as u64, Relaxed);
        }
    }
}

/// Jain's index: 1 when all have the same, 1/n when one has everything.
fn fairness(had: &[f64]) -> f64 {
    let (sum, squares) = had.iter().fold((0.0, 0.0), |(s, q), x| (s + x, q + x * x));
    sum * sum / (had.len() as f64 * squares)
}

#[tokio::test(start_paused = true)]
async fn sixty_four_greedy_clients_have_the_same() {
    let mut config = ServeConfig::default();
    config.queue = 64;
    let server = slow_server(CLIENTS * EACH, config);
    let got: Vec<Arc<AtomicU64>> = (0..CLIENTS).map(|_| Arc::default()).collect();
    let mut tasks = Vec::new();
    for (who, got) in (0..CLIENTS).zip(&got) {
        // Every other one asks in ranges, which would give it more if requests were counted.
        let count = if who % 2 == 0 { 0 } else { 5 };
        let client = client(&server, 64);
        tasks.push(tokio::spawn(greedy(client, who, count, got.clone())));
    }
    sleep(Duration::from_secs(2)).await; // all are there
    got.iter().for_each(|n| n.store(0, Relaxed));
    sleep(Duration::from_secs(30)).await;
    let had: Vec<f64> = got.iter().map(|n| n.load(Relaxed) as f64).collect();
    tasks.iter().for_each(tokio::task::JoinHandle::abort);
    let index = fairness(&had);
    println!("fairness among {CLIENTS} greedy clients: {index:.3}");
    assert!(had.iter().all(|n| *n > 0.0), "{had:?}");
    assert!(index >= 0.95, "{index} {had:?}");
}

#[tokio::test(start_paused = true)]
async fn whoever_asks_for_one_block_again_and_again_is_served_last() {
    let server = slow_server(400, ServeConfig::default());
    let (again, got_again) = (client(&server, 64), Arc::new(AtomicU64::new(0)));
    let count = got_again.clone();
    let repeating = tokio::spawn(async move {
        let Client {
            requests,
            mut answers,
            ..
        } = again;
        loop {
            let from = Height::new(1);
            while requests.try_send(Request { from, count: 0 }).is_ok() {}
            let answer = answers.recv().await.unwrap();
            assert!(matches!(Message::decode(&answer), Ok(Message::Block(_))));
            count.fetch_add(1, Relaxed);
        }
    });
    sleep(Duration::from_secs(1)).await;
    assert!(got_again.load(Relaxed) > 100, "nobody else wants anything");
    assert!(server.counters().repeats.load(Relaxed) > 100);

    // Two that take each block once: there is always one of them that waits.
    let others = [1, 201].map(|first| {
        let mut client = client(&server, 64);
        tokio::spawn(async move {
            let begun = tokio::time::Instant::now();
            for n in 0..200 {
                let from = Height::new(first + n);
                client
                    .requests
                    .send(Request { from, count: 0 })
                    .await
                    .unwrap();
            }
            for _ in 0..200 {
                assert!(client.answers.recv().await.unwrap().len() > 1000);
            }
            begun.elapsed()
        })
    });
    let before = got_again.load(Relaxed);
    for other in others {
        let took = other.await.unwrap();
        // 400 reads of a millisecond, and a read that was under way.
        assert!(took <= Duration::from_millis(450), "{took:?}");
    }
    let meanwhile = got_again.load(Relaxed) - before;
    assert!(
        meanwhile <= 70,
        "{meanwhile}: what had been read before, and little more"
    );
    repeating.abort();
}

#[tokio::test(start_paused = true)]
async fn a_range_is_cut_by_bytes_and_what_is_left_is_answered() {
    let mut config = ServeConfig::default();
    config.max_range_bytes = 35_000;
    let server = slow_server(20, config);
    let mut client = client(&server, 64);
    let from = Height::new(1);
    client
        .requests
        .send(Request { from, count: 10 })
        .await
        .unwrap();
    let mut heard = Vec::new();
    for _ in 0..11 {
        let answer = timeout(Duration::from_secs(10), client.answers.recv()).await;
        let answer = answer
            .expect("each height is answered, then the status")
            .unwrap();
        heard.push(Message::decode(&answer).unwrap());
    }
    let blocks = heard.iter().take_while(|m| matches!(m, Message::Block(_)));
    let blocks = blocks.count();
    assert!(
        (4..10).contains(&blocks),
        "{blocks}: no more than fits, and what one read brought"
    );
    for (n, message) in heard[blocks..10].iter().enumerate() {
        let height = from.plus((blocks + n) as u64);
        assert_eq!(*message, Message::NoBlock { height });
    }
    assert!(
        matches!(heard[10], Message::Status { .. }),
        "the rest is there all the same"
    );
}
