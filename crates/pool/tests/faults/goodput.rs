//! Cost of faults in throughput and bytes: PF1 to PF3 of `faults.md` (a), over 10 000 blocks; and
//! PF5, peers that must not pay.

use super::*;

const MANY: u64 = 10_000;
/// Bytes a second of each link: the links are the bottleneck.
const LINK: u64 = 1_000_000;

fn long(n: usize, roles: &[Role]) -> Scenario {
    let mut long = scenario(n, roles);
    (long.tip, long.check_every) = (MANY, 1 << 12);
    long.peers.iter_mut().for_each(|p| p.bandwidth = LINK);
    long
}

/// Runs it; when all but the last block, which no successor proves, was applied.
fn took(row: &str, scenario: Scenario) -> (u64, World) {
    let mut world = World::new(scenario);
    assert!(world.run_until(|w| w.applied() + 1 >= MANY), "{row}: stuck");
    assert!(world.honest_bans().is_empty(), "{row}");
    (world.now, world)
}

#[test]
fn pf1_without_faults_the_links_are_full() {
    let (time, world) = took("PF1", long(9, &[]));
    let ideal = (MANY - 1) * u64::from(world.scenario.block_bytes) * SECOND / (9 * LINK);
    report("PF1", time, ideal * 100 / 95, ideal);
}

/// A third lies, is silent or drips: 0.8 of what the honest two thirds give alone; and 0.95 once
/// three timeouts have passed.
#[test]
fn pf2_a_third_of_the_peers_faulty() {
    let mix = [Role::Silent, Role::Liar(Lie::Body), Role::Drips];
    let (honest, _) = took("PF2, honest alone", long(6, &[]));
    let (time, mut world) = took("PF2", long(9, &mix));
    report("PF2", time, honest * 100 / 80, honest);
    world = World::new(world.scenario.clone());
    assert!(world.run_until(|w| w.now >= 3 * T_REQ));
    let (since, had) = (world.now, world.applied());
    assert!(world.run_until(|w| w.applied() + 1 >= MANY));
    let rest = honest * (MANY - 1 - had) / (MANY - 1);
    report(
        "PF2, after three timeouts",
        world.now - since,
        rest * 100 / 95,
        rest,
    );
}

#[test]
fn pf3_little_is_downloaded_twice() {
    let mix = [Role::Silent, Role::Liar(Lie::Body), Role::Drips];
    for roles in [&[][..], &mix] {
        let (_, world) = took("PF3", long(9, roles));
        let needed = MANY * u64::from(world.scenario.block_bytes);
        let (found, allowed) = (world.report.downloaded_bytes, needed * 110 / 100);
        println!("PF3: measured {found} bytes, allowed {allowed}");
        assert!(found <= allowed, "{found} bytes for {needed}");
    }
}

/// Slow in bytes a second, far below what any floor would ask, because blocks are small and answers
/// take their time; and others would do instead.
#[test]
fn pf5_small_blocks_are_not_slowness() {
    let blocks = [(120, 1_000), (400, 1_000), (2_000, 4_000)];
    // Beside fast ones each is asked at least once; alone they do all of it.
    let worlds = blocks.into_iter().flat_map(|b| [(b, 6, 1), (b, 9, 20)]);
    for ((bytes, bandwidth), slow, least) in worlds {
        let mut small = scenario(9, &[]);
        small.block_bytes = bytes;
        if slow < 9 {
            small.tip = MANY; // or the fast ones have done it all before the slow have said what they have
        }
        for peer in &mut small.peers[..slow] {
            (peer.latency, peer.bandwidth) = (900 * MS, bandwidth);
        }
        let floor = small.config.floor_rate;
        assert!(bandwidth < floor, "none of these looks slow");
        let world = finish("PF5", World::new(small));
        let dropped = &world.report.dropped;
        println!(
            "PF5, blocks of {bytes} bytes, {slow} of 9 slow: measured {} dropped, allowed 0",
            dropped.len()
        );
        assert!(dropped.is_empty(), "{dropped:?}");
        let asked = (0..slow).map(|n| world.report.asked_of.get(&n).copied().unwrap_or(0));
        assert!(asked.min() >= Some(least), "the slow are asked, and judged");
    }
}

/// A stock node sends what it has every 100 ms: 20 heights at a time would be 200 blocks/s,
/// whatever the link.
#[test]
fn more_is_asked_of_a_peer_that_sends_in_bursts() {
    let mut bursts = scenario(1, &[]);
    (bursts.tip, bursts.block_bytes, bursts.check_every) = (20_000, 1_000, 1 << 12);
    (bursts.peers[0].flush, bursts.peers[0].bandwidth) = (100 * MS, 1_000_000_000);
    let world = finish("bursts", World::new(bursts));
    report("bursts of one peer", world.now, 10 * SECOND, 100 * SECOND);
    // But for the block that proved its claim, far beyond the window.
    assert!(world.report.asked_again <= 1);
}

/// Where the link is what limits, more requests bring nothing: what is owed stays what the link
/// brings within a moment.
#[test]
fn no_more_is_asked_of_a_peer_whose_link_is_full() {
    let mut narrow = scenario(2, &[]);
    (narrow.tip, narrow.block_bytes) = (400, 400_000);
    for peer in &mut narrow.peers {
        (peer.flush, peer.bandwidth) = (100 * MS, 5_000_000);
    }
    let mut world = World::new(narrow);
    let mut most = 0;
    while !world.run_until(|w| w.applied() + 1 >= 400 || w.now > 0) {}
    while world.applied() + 1 < 400 {
        let at = world.now;
        assert!(world.run_until(|w| w.now > at));
        most = most.max(world.pool.peers().map(|p| p.owed).max().unwrap_or(0));
    }
    println!("a full link: measured {most} heights owed, allowed 40");
    assert!(most <= 40, "{most} heights owed by one peer");
    assert!(
        world.report.dropped.is_empty(),
        "{:?}",
        world.report.dropped
    );
}
