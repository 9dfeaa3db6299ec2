//! A stock node that syncs from ours while ours is behind itself. Such a node goes over to
//! consensus at the height that its peers state, and stays there: it must not hear one below.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use blocksync::app::KvStore;
use blocksync::ids::Height;
use blocksync::link::{Inbound, Link};
use blocksync::pool::Outcome;
use blocksync::service::{BlockSync, Config, SHORTEST_ADVERTISE_TIME};
use blocksync::store::MemStore;
use blocksync::wire::Message;
use blocksync_testkit::chain::TestChain;
use blocksync_testkit::peers::{Behaviour, scripted};
use blocksync_testkit::recorded::{self, Recorded, id};

const GUARD: Duration = Duration::from_secs(60);
/// Heights of the chain.
const TIP: u64 = 120;

/// Heights that a peer was told.
type Heard = Arc<Mutex<Vec<Height>>>;

/// A peer that has nothing, asks for our status again and again, and notes what it is told.
fn listener(n: u8, comet: bool) -> (Link, Heard) {
    let (mut link, mut end) = Link::pair(id(n), format!("listener {n}"));
    link.comet = comet;
    let heard = Heard::default();
    let notes = heard.clone();
    tokio::spawn(async move {
        let nothing = Message::Status {
            height: Height::ZERO,
            base: Height::ZERO,
            max_range: 1,
        };
        if end
            .inbox
            .send(Inbound::Message(nothing.encode()))
            .await
            .is_err()
        {
            return;
        }
        let mut ask = tokio::time::interval(Duration::from_millis(20));
        loop {
            let said = tokio::select! {
                () = end.hangup.cancelled() => return,
                said = end.outbox.recv() => said,
                _ = ask.tick() => {
                    let asks = Message::StatusRequest.encode();
                    if end.inbox.send(Inbound::Message(asks)).await.is_err() {
                        return;
                    }
                    continue;
                }
            };
            let Some(said) = said else { return };
            if let Ok(Message::Status { height, .. }) = Message::decode(&said) {
                notes.lock().unwrap().push(height);
            }
        }
    });
    (link, heard)
}

/// Heights that a node of CometBFT and one of ours are told while ours syncs to the tip.
async fn told(while_behind: bool) -> (Vec<Height>, Vec<Height>) {
    let chain = Recorded::of(
        &TestChain::builder(73)
            .heights(TIP as usize)
            .txs(1, 20)
            .build(),
    );
    let mut config = Config::default();
    config.clock = recorded::clock;
    config.serve.while_behind = while_behind;
    config.serve.advertise_time = SHORTEST_ADVERTISE_TIME;
    // Blocks come one by one, so that there is a way to be told of.
    config.pool.window = 4;
    let (store, app) = (Arc::new(MemStore::new()), KvStore::new());
    let service = BlockSync::builder(store, app, chain.genesis.clone());
    let handle = service.config(config).spawn().await.unwrap();
    let (stock, of_stock) = listener(1, true);
    let (own, of_own) = listener(2, false);
    handle.add_peer(stock).await.unwrap();
    handle.add_peer(own).await.unwrap();
    let slow = Behaviour::Slow(Duration::from_millis(5));
    let peer = scripted(&chain, 3, slow, Duration::ZERO);
    handle.add_peer(peer).await.unwrap();
    let mut status = handle.status();
    let up = |s: &blocksync::service::Status| matches!(s.outcome, Outcome::CaughtUp { .. });
    let done = tokio::time::timeout(GUARD, status.wait_for(up))
        .await
        .is_ok();
    assert!(done, "{:?}", handle.status().borrow());
    // Both are told of the last height in the end.
    let last = handle.status().borrow().applied;
    assert_eq!(last, chain.tip().prev());
    let heard = async {
        for heard in [&of_stock, &of_own] {
            while heard.lock().unwrap().last() != Some(&last) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    };
    let heard = tokio::time::timeout(GUARD, heard).await;
    let (stock, own) = (
        of_stock.lock().unwrap().clone(),
        of_own.lock().unwrap().clone(),
    );
    assert!(heard.is_ok(), "the stock node {stock:?}, ours {own:?}");
    handle.stop().await;
    (stock, own)
}

fn rising(heights: &[Height]) -> usize {
    assert!(heights.is_sorted(), "{heights:?}");
    let mut heights = heights.to_vec();
    heights.dedup();
    heights.len()
}

#[tokio::test]
async fn a_stock_node_hears_no_height_below_the_best_one() {
    let (stock, own) = told(false).await;
    let last = Height::new(TIP - 1);
    assert!(stock.iter().all(|height| *height == last), "{stock:?}");
    // One of ours, which knows better, follows all the way.
    assert!(rising(&own) > 5, "{own:?}");
}

#[tokio::test]
async fn it_follows_all_the_way_where_that_is_wanted() {
    let (stock, own) = told(true).await;
    for heard in [stock, own] {
        assert!(rising(&heard) > 5, "{heard:?}");
    }
}
