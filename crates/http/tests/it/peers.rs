//! However many peers come and go, there are as many series as before, and no counter falls.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use blocksync::ids::PeerId;
use blocksync_http::NetworkPeer;
use blocksync_testkit::peers::Behaviour;

use crate::client::{Synced, get, start, transport};
use crate::metrics::{Series, parse};

/// Peers that are connected at a time.
const PEERS: u64 = 1000;

/// The number of one of the peers of a round; every tenth of each round stays for the next.
fn peer(round: u64, n: u64) -> NetworkPeer {
    let number = if n.is_multiple_of(10) {
        n
    } else {
        round * PEERS + n
    };
    let mut id = [0; 20];
    id[..8].copy_from_slice(&number.to_be_bytes());
    // A peer that stays counts on, and in the third round begins anew on another connection.
    let rounds = if n.is_multiple_of(10) && round < 2 {
        round + 1
    } else {
        1
    };
    NetworkPeer {
        id: PeerId(id),
        address: format!("10.0.0.1:{n}"),
        moniker: format!("\"}} {number}\n"),
        version: number.to_string(),
        dialled: false,
        age: Duration::from_secs(round),
        received: 100 * n * rounds,
        sent: 10 * n * rounds,
    }
}

fn by_name(series: Vec<Series>, name: &str) -> BTreeMap<BTreeMap<String, String>, f64> {
    let named = series.into_iter().filter(|(found, _, _)| found == name);
    named.map(|(_, labels, value)| (labels, value)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_peers_make_no_more_series_and_no_counter_falls() {
    let synced = Synced::new("one", "comet-0.38", 20, &[Behaviour::Honest]).await;
    let round = Arc::new(AtomicU64::new(0));
    let mut node = synced.node(Some(synced.handle.view()));
    let now = round.clone();
    node.network = Box::new(move || {
        let round = now.load(Relaxed);
        (0..PEERS).map(|n| peer(round, n)).collect()
    });
    let now = round.clone();
    node.transport = Box::new(move || {
        let rounds = now.load(Relaxed) + 1;
        let all: u64 = (0..PEERS).sum();
        let mut transport = transport();
        transport.messages[0].received = 100 * all * rounds;
        transport.messages[0].sent = 10 * all * rounds;
        transport
    });
    let http = start(node);
    synced.until_seen(&http).await;
    let mut before = BTreeMap::new();
    for n in 0..4 {
        round.store(n, Relaxed);
        let answer = get(&http, "/metrics").await;
        let (_, series) = parse(answer.text());
        assert!(series.len() <= 400, "{} series", series.len());
        let bytes = by_name(series, "cometbft_p2p_peer_receive_bytes_total");
        assert_eq!(bytes.len(), 33, "32 peers, and all others");
        let sum: f64 = bytes.values().sum();
        let all: u64 = (0..PEERS).sum();
        assert_eq!(sum, (100 * all * (n + 1)) as f64, "the sum is that of all");
        for (labels, value) in &bytes {
            let then = before.get(labels).copied().unwrap_or_default();
            assert!(*value >= then, "{labels:?} fell from {then} to {value}");
        }
        let others = bytes.keys().filter(|l| l["peer_id"] == "other");
        assert_eq!(others.count(), 1);
        before = bytes;
    }
    let grew = before.values().filter(|value| **value > 0.0).count();
    assert!(
        grew > 1,
        "peers that stayed have bytes of their own: {before:?}"
    );
}
