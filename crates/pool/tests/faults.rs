//! The fault matrix of `faults.md` (b) and (f), one test for each row that concerns the pool, on
//! the event heap. Each is measured in virtual time against a run of the same seed without faults,
//! `T0`, and prints what it measured and what is allowed: `cargo test --test faults --
//! --nocapture`.

#[path = "faults/goodput.rs"]
mod goodput;
#[path = "faults/lies.rs"]
mod lies;
#[path = "faults/network.rs"]
mod network;
#[path = "faults/seen.rs"]
mod seen;
mod world;

use blocksync_pool::{Effect, Input, Outcome, PoolConfig, Tick};
use blocksync_types::fault::{CloseReason, Fault};
use blocksync_types::ids::{ConnId, Height};
use world::{Lie, MS, PeerSpec, Role, SECOND, Scenario, World, peer_id};

const TIP: u64 = 600;
const T_REQ: u64 = 5 * SECOND;
const T_HEDGE: u64 = 2 * SECOND;
const T_STATUS: u64 = 10 * SECOND;

/// `n` peers, honest but for the first `roles`.
fn peers(n: usize, roles: &[Role]) -> Vec<PeerSpec> {
    (0..n)
        .map(|i| PeerSpec::new(roles.get(i).cloned().unwrap_or(Role::Honest)))
        .collect()
}

fn scenario(n: usize, roles: &[Role]) -> Scenario {
    Scenario {
        check_every: 16,
        limit: 3600 * SECOND,
        ..Scenario::new(7, TIP, peers(n, roles))
    }
}

/// Runs until caught up at the tip; demands what holds in every row: no honest ban, the byte bound,
/// `check()`.
fn finish(row: &str, mut world: World) -> World {
    let tip = world.scenario.tip;
    let done = world.run_until(|w| w.caught_up() && w.applied() + 1 >= tip);
    assert!(
        done,
        "{row}: stuck at {} of {tip}: {:?}",
        world.applied(),
        world.report.outcome
    );
    assert!(
        world.honest_bans().is_empty(),
        "{row}: {:?}",
        world.honest_bans()
    );
    let bound = world.scenario.config.budget_bytes + 2 * u64::from(world.scenario.block_bytes);
    assert!(world.report.peak_bytes <= bound, "{row}: memory");
    world.pool.check();
    world
}

/// The time without faults, of as many peers of the same seed.
fn fault_free(like: &Scenario) -> u64 {
    let mut plain = like.clone();
    plain.peers.iter_mut().for_each(|p| p.role = Role::Honest);
    finish("T0", World::new(plain)).report.finished_at
}

/// Measures a row; `allowed` is given `T0`.
fn row(name: &str, scenario: Scenario, allowed: impl Fn(u64) -> u64) -> World {
    let t0 = fault_free(&scenario);
    let world = finish(name, World::new(scenario));
    report(name, world.report.finished_at, allowed(t0), t0);
    world
}

fn report(name: &str, measured: u64, allowed: u64, t0: u64) {
    println!(
        "{name}: measured {} ms, allowed {} ms (T0 {} ms)",
        measured / MS,
        allowed / MS,
        t0 / MS
    );
    assert!(
        measured <= allowed,
        "{name}: {measured} us, allowed {allowed} us"
    );
}

/// The figure of (f): 1.5 times the fault-free time and one hedge delay for each hostile peer.
fn seen(t0: u64, hostile: u64) -> u64 {
    t0 * 3 / 2 + hostile * T_HEDGE
}

fn bans(world: &World) -> Vec<(usize, &'static str)> {
    let index = |p| {
        (0..world.scenario.peers.len())
            .find(|n| peer_id(*n) == p)
            .unwrap_or(usize::MAX)
    };
    let banned = world.report.dropped.iter().filter(|(_, _, banned)| *banned);
    banned.map(|(p, f, _)| (index(*p), f.name())).collect()
}

/// A connection that the world does not drive: what it says is fed by hand.
fn stranger(n: u64) -> (ConnId, blocksync_types::ids::PeerId) {
    (
        ConnId(1 << 40 | n),
        peer_id(100_000 + usize::try_from(n % 2).unwrap()),
    )
}

fn status(conn: ConnId, base: u64, height: u64) -> Input<world::Body> {
    Input::Status {
        conn,
        base: Height::new(base),
        height: Height::new(height),
        max_range: 1,
    }
}

/// Effects of the pool for one input, given straight.
fn effects(world: &mut World, input: Input<world::Body>) -> Vec<Effect<world::Body>> {
    let mut out = Vec::new();
    world.pool.handle(input, Tick(world.now), &mut out);
    world.pool.check();
    out
}

/// In the middle of a sync by nine honest peers.
fn half_way() -> World {
    let mut world = World::new(scenario(9, &[]));
    assert!(world.run_until(|w| w.applied() > TIP / 2));
    world
}

#[test]
fn p01_silent_after_status() {
    let roles = vec![Role::Silent; 3];
    let world = row("P01", scenario(9, &roles), |t0| t0 + 3 * T_REQ);
    assert!(bans(&world).is_empty(), "silence is not proof");
}

#[test]
fn p02_silent_from_connect() {
    let roles = vec![Role::Mute; 3];
    let world = row("P02", scenario(9, &roles), |t0| t0 * 11 / 10 + T_HEDGE);
    assert!(
        (0..3).all(|n| !world.report.asked_of.contains_key(&n)),
        "0 requests to those without a status"
    );
}

#[test]
fn p03_slow_drip() {
    row("P03", scenario(9, &vec![Role::Drips; 3]), |t0| {
        t0 * 115 / 100 + T_HEDGE
    });
}

#[test]
fn p04_r44_drips_at_chain_rate() {
    row(
        "P04",
        scenario(9, &vec![Role::Late(T_REQ - 100 * MS); 3]),
        |t0| t0 * 13 / 10 + 6 * T_REQ,
    );
}

#[test]
fn p05_claims_too_high() {
    for claim in [TIP + 1, TIP + 50, i64::MAX as u64] {
        // From the moment at which everything else says that we have caught up, and looked at each
        // second.
        row("P05", scenario(9, &[Role::Claims(claim)]), |t0| {
            t0 + 2 * T_REQ + SECOND
        });
    }
}

#[test]
fn p06_alternating_liars() {
    let plain = scenario(9, &[]);
    let t0 = fault_free(&plain);
    let mut world = World::new(plain);
    let allowed = t0 + 4 * T_REQ;
    let mut n = 0;
    loop {
        let (conn, peer) = stranger(n);
        world.feed(Input::Up { conn, peer });
        world.feed(status(conn, 1, 1 << 62));
        let until = (n + 1) * 100 * MS;
        let mut timed = world;
        let done = timed.run_until(|w| (w.caught_up() && w.applied() + 1 >= TIP) || w.now >= until);
        world = timed;
        world.feed(Input::Down { conn });
        n += 1;
        if (done && world.caught_up() && world.applied() + 1 >= TIP) || world.now > allowed {
            break;
        }
        world.now = world.now.max(until);
    }
    report("P06", world.now, allowed, t0);
    assert!(world.honest_bans().is_empty());
}

#[test]
fn p07_inflated_base() {
    let plain = scenario(9, &[]);
    let t0 = fault_free(&plain);
    let mut world = World::new(plain);
    let (conn, peer) = stranger(0);
    world.feed(Input::Up { conn, peer });
    world.feed(status(conn, TIP + 100, 1 << 62));
    assert!(
        world.pool.target() <= Height::new(TIP),
        "the target is not touched"
    );
    let world = finish("P07", world);
    report("P07", world.report.finished_at, t0 * 11 / 10, t0);
}

#[test]
fn p08_base_above_height() {
    let mut world = half_way();
    let (conn, peer) = stranger(0);
    effects(&mut world, Input::Up { conn, peer });
    let out = effects(&mut world, status(conn, 9, 3));
    let dropped = out.iter().filter(|e| matches!(e, Effect::Drop { conn: c, reason: CloseReason::Fault(Fault::BadRange), ban_until: Some(_), .. } if *c == conn));
    assert_eq!(dropped.count(), 1, "one event, and banned");
    let (conn, peer) = stranger(1);
    effects(&mut world, Input::Up { conn, peer });
    let out = effects(&mut world, status(conn, 0, 0));
    assert!(
        !out.iter().any(|e| matches!(e, Effect::Drop { .. })),
        "an empty node is no liar"
    );
}

#[test]
fn p09_height_decreases() {
    let mut world = half_way();
    let (conn, peer) = stranger(0);
    effects(&mut world, Input::Up { conn, peer });
    effects(&mut world, status(conn, 1, TIP + 11));
    let target = Height::new(TIP);
    assert_eq!(world.pool.target(), target, "one claim among ten");
    let out = effects(&mut world, status(conn, 1, TIP + 10));
    assert_eq!(world.pool.target(), target);
    assert!(!out.iter().any(|e| matches!(e, Effect::Drop { .. })));
}

#[test]
fn p10_base_rises() {
    let world = row("P10", scenario(9, &vec![Role::Prunes(TIP / 2); 3]), |t0| {
        t0 * 13 / 10 + T_HEDGE
    });
    assert!(
        world.report.dropped.is_empty(),
        "{:?}",
        world.report.dropped
    );
}

#[test]
fn p11_claims_too_low() {
    let plain = scenario(9, &[]);
    let mut world = World::new(plain);
    let (conn, peer) = stranger(0);
    world.feed(Input::Up { conn, peer });
    world.feed(status(conn, 0, 0));
    let early = world.run_until(|w| w.caught_up() && w.applied() + 1 < TIP);
    assert!(
        !early || world.applied() + 1 >= TIP,
        "never a success below the best correct claim"
    );
}

#[test]
fn p21_unasked_blocks() {
    let world = row("P21", scenario(9, &vec![Role::Unasked; 3]), |t0| {
        seen(t0, 3)
    });
    assert!(bans(&world).iter().all(|(n, f)| *n < 3 && *f == "unasked"));
    assert_eq!(bans(&world).len(), 3);
}

#[test]
fn p22_late_answers() {
    let world = row(
        "P22",
        scenario(9, &vec![Role::Late(120 * SECOND); 2]),
        |t0| t0 + 2 * T_REQ,
    );
    assert!(bans(&world).is_empty());
    // And after the end: each answer is free.
    let mut world = world;
    world.run_until(|w| w.now > 300 * SECOND);
    assert!(bans(&world).is_empty(), "{:?}", bans(&world));
}

#[test]
fn p23_no_block_for_everything() {
    let world = row("P23", scenario(9, &vec![Role::NoBlocks; 3]), |t0| {
        seen(t0, 3)
    });
    assert!(
        world.report.dropped.is_empty(),
        "{:?}",
        world.report.dropped
    );
}

#[test]
fn p24_no_block_for_never_requested_heights() {
    let mut world = half_way();
    let conn = world.pool.peers().next().unwrap().conn;
    let before = world.pool.clone();
    effects(
        &mut world,
        Input::NoBlock {
            conn,
            height: Height::new(1 << 50),
        },
    );
    assert_eq!(before.owed(), world.pool.owed());
    assert!(before.peers().eq(world.pool.peers()), "no change");
}

#[test]
fn p29_a_hundred_flappers() {
    let mut flapping = scenario(109, &vec![Role::Flaps(50 * MS); 100]);
    flapping.check_every = 256;
    let world = row("P29", flapping, |t0| t0 * 3 / 2 + T_HEDGE);
    assert!(world.pool.peers().count() <= 109, "no ids leak");
}

#[test]
fn p30_the_only_source_flaps() {
    let flapping = scenario(1, &[Role::Flaps(500 * MS)]);
    let t0 = fault_free(&flapping);
    let world = finish("P30", World::new(flapping));
    let reconnects = 20 * SECOND;
    report("P30", world.report.finished_at, t0 * 3 + reconnects, t0);
}

#[test]
fn p31_eclipse() {
    let mut eclipsed = scenario(4, &[Role::Silent, Role::Silent, Role::Silent, Role::Silent]);
    let heal = 90 * SECOND;
    eclipsed.peers[0].heals_at = heal;
    let mut world = World::new(eclipsed);
    let said = |w: &World| {
        matches!(
            w.report.outcome,
            Some(Outcome::Stalled { .. } | Outcome::NoUsablePeers)
        )
    };
    assert!(world.run_until(said), "never says that nothing moves");
    let config = PoolConfig::default();
    report(
        "P31 exit",
        world.now,
        config.no_progress + config.no_peers + T_REQ,
        0,
    );
    assert!(world.run_until(|w| w.applied() > 0));
    report(
        "P31 recovery",
        world.now - heal,
        T_STATUS + config.back_off_max + SECOND,
        0,
    );
    finish("P31", world);
}

#[test]
fn p32_one_honest() {
    use Role::{Claims, Drips, Honest, Liar, Mute, NoBlocks, Silent, Unasked};
    let roles = [
        Silent,
        Silent,
        Liar(Lie::Header),
        Liar(Lie::Body),
        Claims(1 << 62),
        Drips,
        NoBlocks,
        Unasked,
        Honest,
        Mute,
    ];
    let one = scenario(1, &[]);
    let t0 = fault_free(&one);
    let world = finish("P32", World::new(scenario(10, &roles)));
    report("P32", world.report.finished_at, t0 + 12 * T_REQ, t0);
}

#[test]
fn p35_ten_thousand_peers() {
    // Their memory is counted in `wire_memory`.
    let mut many = scenario(10_000, &[]);
    many.check_every = 50_000;
    let world = row("P35", many, |t0| t0);
    assert!(world.report.dropped.is_empty());
    let (inputs, asked) = (world.report.inputs, world.report.asked);
    println!("P35: {inputs} inputs, {asked} asks for {TIP} heights");
    // No height is asked for more often than once and a hedge, however many could be asked.
    assert!(asked <= 2 * TIP);
}

#[test]
fn p36_sybil_rotation() {
    // A new id after every ban: each may hold up the head for one hedge delay.
    let plain = scenario(9, &[]);
    let t0 = fault_free(&plain);
    let mut world = World::new(plain);
    for n in 0..50 {
        let conn = ConnId(1 << 40 | n);
        world.feed(Input::Up {
            conn,
            peer: peer_id(200_000 + n as usize),
        });
        world.feed(status(conn, 1, TIP));
        let until = (n + 1) * 20 * MS;
        world.run_until(|w| w.now >= until || w.caught_up());
        world.feed(Input::Malformed {
            conn,
            fault: Fault::Malformed("garbage".into()),
        });
    }
    let world = finish("P36", world);
    report("P36", world.report.finished_at, t0 * 12 / 10 + T_HEDGE, t0);
}

#[test]
fn l07_slow_disk() {
    let mut slow = scenario(9, &[]);
    slow.apply_time = SECOND;
    slow.config.budget_bytes = 1 << 20;
    let world = finish("L07", World::new(slow));
    assert!(
        world.report.dropped.is_empty(),
        "{:?}",
        world.report.dropped
    );
    println!(
        "L07: {} bytes held at most, 0 dropped",
        world.report.peak_bytes
    );
}

#[test]
fn l10_a_long_execution() {
    let mut slow = scenario(9, &[]);
    slow.apply_time = 60 * SECOND;
    (slow.tip, slow.limit) = (60, 100_000 * SECOND);
    slow.config.applying = 200;
    let world = finish("L10", World::new(slow));
    assert!(
        world.report.dropped.is_empty(),
        "{:?}",
        world.report.dropped
    );
    println!(
        "L10: 60 s in the executor, 0 dropped, caught up at {}",
        world.applied()
    );
}

#[test]
fn l13_suspend_and_resume() {
    let mut world = half_way();
    world.scenario.limit += 7200 * SECOND;
    world.now += 3600 * SECOND;
    world.feed(Input::Tick);
    let world = finish("L13", world);
    assert!(bans(&world).is_empty());
    assert!(
        world.report.dropped.len() <= 9,
        "one spurious drop for each peer at most"
    );
    println!(
        "L13: {} dropped after a leap of an hour",
        world.report.dropped.len()
    );
}

#[test]
fn l16_a_send_that_fails() {
    let mut world = World::new(scenario(1, &[]));
    let (a, peer) = stranger(0);
    effects(&mut world, Input::Up { conn: a, peer });
    let (b, peer) = stranger(1);
    effects(&mut world, Input::Up { conn: b, peer });
    effects(&mut world, status(b, 1, 2));
    let out = effects(&mut world, status(a, 1, 2));
    assert!(out.is_empty(), "both are asked of b");
    let ask = blocksync_pool::AskId(0);
    let out = effects(&mut world, Input::SendFailed { ask });
    let again = out
        .iter()
        .any(|e| matches!(e, Effect::Ask { conn, from, .. } if *conn == a && from.get() == 1));
    assert!(
        again,
        "the height goes to another peer in the same step: {out:?}"
    );
}

#[test]
fn l18_initial_height_and_changing_sets() {
    let mut late = scenario(9, &[]);
    (late.initial, late.known_sets) = (500, 2);
    finish("L18", World::new(late));
}
