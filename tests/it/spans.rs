//! Spans of the log: one of the service, with its chain, and one of each connection in it.

use std::time::Duration;

use blocksync_testkit::peers::{Behaviour, scripted};
use blocksync_testkit::recorded::{Recorded, config, fresh, id};
use tracing::level_filters::LevelFilter;

use crate::advertised::caught_up;
use crate::logged;

#[tokio::test(start_paused = true)]
async fn each_line_says_of_which_chain_and_connection_it_is() {
    logged::listen(LevelFilter::TRACE);
    let chain = Recorded::load("four");
    let (mut handle, _store) = fresh(&chain, config(1)).await;
    let delay = Duration::from_millis(5);
    for (n, peer) in [(1, Behaviour::Honest), (2, Behaviour::Garbage)] {
        handle
            .add_peer(scripted(&chain, n, peer, delay))
            .await
            .unwrap();
    }
    caught_up(&handle).await;
    // The way back brings a new executor.
    let own = handle.hand_over().await.unwrap();
    handle.resume(own).await.unwrap();
    caught_up(&handle).await;
    handle.stop().await;
    let log = logged::take();
    let service = format!("blocksync{{chain={}}}", chain.genesis.chain_id);
    let of_tasks = ["reactor", "peer", "executor", "verifier"];
    let mut lines = 0;
    for line in log.lines() {
        let of_task = |task| line.contains(&format!(": blocksync::service::{task}: "));
        if of_tasks.into_iter().any(of_task) {
            assert_eq!(line.matches(&service).count(), 1, "{line}");
            lines += 1;
        }
    }
    assert!(lines > 100, "{lines}");
    for (conn, n, address) in [(0, 1, "Honest"), (1, 2, "Garbage")] {
        let peer = id(n);
        let span = format!(
            "{service}:connection{{conn=#{conn} peer={peer} address={address}}}: blocksync::service::peer: "
        );
        let of_peer = |line: &&str| line.contains(": blocksync::service::peer: ");
        let own = |line: &&str| line.contains(&format!("peer={peer} ")) && of_peer(line);
        let mut told = log.lines().filter(own).peekable();
        assert!(told.peek().is_some(), "nothing is told of {address}");
        for line in told {
            assert!(line.contains(&span), "{line}");
        }
    }
}
