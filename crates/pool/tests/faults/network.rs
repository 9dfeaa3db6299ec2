//! Faults of the network: rows N of `faults.md` (b).

use super::*;

#[test]
fn n01_partition() {
    let mut cut = scenario(5, &vec![Role::Silent; 5]);
    let heal = 60 * SECOND;
    cut.peers.iter_mut().for_each(|p| p.heals_at = heal);
    let mut world = World::new(cut);
    assert!(world.run_until(|w| w.applied() > 0));
    report(
        "N01",
        world.now - heal,
        T_STATUS + PoolConfig::default().back_off_max + SECOND,
        0,
    );
    let world = finish("N01", world);
    assert!(bans(&world).is_empty());
}

#[test]
fn n02_one_way_partition() {
    row("N02", scenario(9, &[Role::Silent]), |t0| t0 + T_REQ);
}

#[test]
fn n03_resets() {
    row("N03", scenario(9, &vec![Role::Flaps(SECOND); 9]), |t0| {
        t0 * 3 + 2 * SECOND
    });
}

#[test]
fn n04_latency() {
    for latency in [MS, 100 * MS, 500 * MS, 1500 * MS] {
        let mut far = scenario(9, &[]);
        far.peers.iter_mut().for_each(|p| p.latency = latency);
        let world = finish("N04", World::new(far));
        assert!(
            world.report.dropped.is_empty(),
            "{latency}: {:?}",
            world.report.dropped
        );
        // 9 peers owe 20 heights each at most: CometBFT's limit allows no more in a round trip.
        let trips = TIP.div_ceil(180);
        let ideal = trips * 2 * latency + TIP * 19_000 * SECOND / (9 * 20_000_000);
        // Connecting, the first status, the last run's proof and execution; and a fresh
        // connection's first two heights.
        let ends = 100 * MS + 3 * latency;
        report(
            &format!("N04, {} ms", latency / MS),
            world.report.finished_at,
            ideal * 100 / 90 + ends,
            ideal,
        );
    }
}

#[test]
fn n05_asymmetric_bandwidth() {
    let mut uneven = scenario(9, &[]);
    uneven.peers.iter_mut().for_each(|p| p.bandwidth = 16_000);
    uneven.peers[0].bandwidth = 12_500_000;
    let world = finish("N05", World::new(uneven));
    let sum = 12_500_000 + 8 * 16_000;
    let ideal = TIP * 19_000 * SECOND / sum;
    // The slow ones are asked, too, and each may hold the head once until it is hedged.
    report(
        "N05",
        world.report.finished_at,
        ideal * 100 / 85 + 8 * T_HEDGE,
        ideal,
    );
    assert!(bans(&world).is_empty());
}

fn narrow(downlink: u64) {
    let mut narrow = scenario(9, &[]);
    narrow.downlink = downlink;
    let world = finish("N06", World::new(narrow));
    assert!(
        world.report.dropped.is_empty(),
        "all look slow, and none is: {:?}",
        world.report.dropped
    );
    let ideal = TIP * 19_000 * SECOND / downlink;
    report(
        &format!("N06, {downlink} bytes a second"),
        world.report.finished_at,
        ideal * 100 / 95 + SECOND,
        ideal,
    );
}

#[test]
fn n06_our_own_download_is_the_bottleneck() {
    narrow(1_000_000);
}

#[test]
fn n06_a_very_narrow_download() {
    narrow(100_000);
}

#[test]
fn n07_swizzle() {
    let mut clogged = scenario(9, &[]);
    for (n, peer) in clogged.peers.iter_mut().enumerate().take(8) {
        peer.role = if n % 2 == 0 {
            Role::Flaps((n as u64 + 1) * 200 * MS)
        } else {
            Role::Silent
        };
        peer.heals_at = (n as u64 + 1) * SECOND;
    }
    let mut world = World::new(clogged);
    assert!(world.run_until(|w| w.now > 120 * SECOND));
    assert!(world.applied() + 1 >= TIP && world.caught_up());
    assert_eq!(world.pool.peers().count(), 9, "nobody is lost for good");
}

#[test]
fn n08_two_connections_of_one_peer() {
    let mut world = half_way();
    let (a, peer) = stranger(0);
    let b = ConnId(1 << 41);
    effects(&mut world, Input::Up { conn: a, peer });
    let out = effects(&mut world, Input::Up { conn: b, peer });
    assert!(out.iter().any(
        |e| matches!(e, Effect::Drop { conn, reason: CloseReason::Replaced, .. } if *conn == a)
    ));
    assert_eq!(
        world
            .pool
            .peers()
            .filter(|p| p.peer == peer)
            .map(|p| p.conn)
            .collect::<Vec<_>>(),
        [b]
    );
}
