//! Blocks a second from CometBFT peers that flush in bursts: `cargo bench -p blocksync-pool --bench
//! window`. Time is virtual, so the figures are the same on every machine; verifying and applying
//! cost nothing that counts.
//!
//! Each row is run with a fixed number of 20 heights per peer, as in a stock node's own pool, and
//! with the window that grows. `asked twice` is the number of requests for blocks that had come
//! already.

#[path = "../tests/world/mod.rs"]
mod world;

use world::{MS, PeerSpec, Role, SECOND, Scenario, World};

/// One kind of peers and blocks.
struct Row {
    flush: u64,
    bandwidth: u64,
    bytes: u32,
    heights: u64,
}

fn run(row: &Row, peers: usize, most: u32) -> World {
    let mut spec = PeerSpec::new(Role::Honest);
    (spec.flush, spec.bandwidth, spec.latency) = (row.flush, row.bandwidth, 5 * MS);
    let mut scenario = Scenario::new(1, row.heights, vec![spec; peers]);
    scenario.block_bytes = row.bytes;
    scenario.config.asks_per_peer_max = most;
    (scenario.check_every, scenario.limit) = (1 << 20, 36_000 * SECOND);
    (scenario.verify_time, scenario.apply_time) = (MS / 10, MS / 10);
    let mut world = World::new(scenario);
    assert!(world.run_until(|w| w.applied() + 1 >= row.heights), "stuck");
    assert!(
        world.report.dropped.is_empty(),
        "{:?}",
        world.report.dropped
    );
    world
}

fn main() {
    let fast = 1_000_000_000;
    let link = 5_000_000;
    let rows = [
        (10 * MS, fast, 1_000, 40_000),
        (100 * MS, fast, 1_000, 20_000),
        (10 * MS, link, 19_000, 10_000),
        (100 * MS, link, 19_000, 10_000),
        (10 * MS, link, 4_500_000, 200),
        (100 * MS, link, 4_500_000, 200),
    ];
    println!("| flush | link | block | peers | 20 at a time | growing | asked twice |");
    println!("|---|---|---|---|---|---|---|");
    for (flush, bandwidth, bytes, heights) in rows {
        let row = Row {
            flush,
            bandwidth,
            bytes,
            heights,
        };
        for peers in [1, 2, 4, 8] {
            let rate = |w: &World| (heights - 1) as f64 * SECOND as f64 / w.now as f64;
            let (fixed, grown) = (run(&row, peers, 20), run(&row, peers, 512));
            println!(
                "| {} ms | {} MB/s | {} KB | {peers} | {:.1}/s | {:.1}/s | {} |",
                flush / MS,
                bandwidth / 1_000_000,
                bytes / 1000,
                rate(&fixed),
                rate(&grown),
                grown.report.asked_again,
            );
        }
    }
}
