//! The twelve of `faults.md` (f): what hostile peers did to real nodes, each with the figure that
//! it must keep.

use super::*;

/// Demands of all rows of (f): under 512 MiB, as the pool accounts for it (`service_faults`
/// measures the process), and no honest peer is dropped.
const MEMORY: u64 = 512 << 20;

fn kept(name: &str, scenario: Scenario, allowed: impl Fn(u64) -> u64) -> World {
    let world = row(name, scenario, allowed);
    let bytes = world.report.peak_bytes;
    println!("{name}: measured {bytes} bytes allowed {MEMORY} bytes");
    assert!(bytes <= MEMORY, "{name}");
    for (peer, reason, _) in &world.report.dropped {
        let honest = (0..world.scenario.peers.len())
            .any(|n| peer_id(n) == *peer && world.scenario.peers[n].role == Role::Honest);
        assert!(!honest, "{name}: an honest peer is dropped: {reason:?}");
    }
    world
}

#[test]
fn f01_the_supplier_leaves_before_its_block_is_applied() {
    kept("f01", scenario(4, &[Role::Flaps(60 * MS)]), |t0| {
        seen(t0, 1)
    });
}

#[test]
fn f02_the_second_copy_of_a_hedged_block_is_no_fault() {
    let mut slow = scenario(4, &[]);
    slow.peers[0].latency = 800 * MS;
    let world = kept("f02", slow, |t0| seen(t0, 1));
    assert!(
        world.report.dropped.is_empty(),
        "{:?}",
        world.report.dropped
    );
}

#[test]
fn f03_no_debt_leaks() {
    let mut slow = scenario(4, &[]);
    slow.peers[0].bandwidth = 40_000;
    let world = kept("f03", slow, |t0| seen(t0, 1));
    assert!(
        world.report.dropped.is_empty(),
        "the slower honest peer is kept: {:?}",
        world.report.dropped
    );
}

#[test]
fn f04_no_stall_after_a_ban() {
    let world = kept("f04", scenario(4, &[Role::Liar(Lie::Header)]), |t0| {
        seen(t0, 1)
    });
    assert_eq!(bans(&world).len(), 1);
}

#[test]
fn f05_one_liar_and_one_honest() {
    for lie in [Lie::Body, Lie::Header, Lie::Commit, Lie::Parent] {
        let world = kept("f05", scenario(2, &[Role::Liar(lie)]), |t0| seen(t0, 1));
        assert!(bans(&world).iter().all(|(n, _)| *n == 0));
    }
    kept(
        "f05, three liars",
        scenario(4, &vec![Role::Liar(Lie::Body); 3]),
        |t0| seen(t0, 3),
    );
}

#[test]
fn f06_undecodable_is_banned() {
    let mut world = half_way();
    let conn = world.pool.peers().next().unwrap().conn;
    let out = effects(
        &mut world,
        Input::Malformed {
            conn,
            fault: Fault::Malformed("garbage".into()),
        },
    );
    let until = out.iter().find_map(|e| {
        if let Effect::Drop {
            ban_until, peer, ..
        } = e
        {
            ban_until.map(|t| (t, *peer))
        } else {
            None
        }
    });
    let (Tick(until), peer) = until.expect("dropped and banned");
    assert!(until >= world.now + 60 * SECOND);
    let again = effects(
        &mut world,
        Input::Up {
            conn: ConnId(1 << 41),
            peer,
        },
    );
    assert!(
        matches!(again[..], [Effect::Drop { .. }]),
        "refused when it is back at once"
    );
}

#[test]
fn f07_no_early_exit() {
    for (base, height) in [(1, 1), (TIP, TIP), (0, 0)] {
        let mut world = World::new(scenario(4, &[]));
        let (conn, peer) = stranger(0);
        world.feed(Input::Up { conn, peer });
        world.feed(status(conn, base, height));
        world.run_until(World::caught_up);
        assert!(world.applied() + 1 >= TIP, "left at {}", world.applied());
    }
}

#[test]
fn f08_a_claim_of_two_to_the_62() {
    kept("f08", scenario(4, &[Role::Claims(1 << 62)]), |t0| {
        t0 + 2 * T_REQ + SECOND
    });
    kept(
        "f08, serving",
        scenario(4, &[Role::ClaimsAndServes(1 << 62)]),
        |t0| t0 + 2 * T_REQ + SECOND,
    );
}

#[test]
fn f09_three_silent_one_honest() {
    kept("f09, silent", scenario(4, &vec![Role::Silent; 3]), |t0| {
        seen(t0, 3)
    });
    kept(
        "f09, late",
        scenario(4, &vec![Role::Late(20 * SECOND); 3]),
        |t0| seen(t0, 3),
    );
}

#[test]
fn f10_memory() {
    let mut small = scenario(20, &[]);
    (small.config.budget_bytes, small.block_bytes) = (4 << 20, 1 << 20);
    let world = finish("f10", World::new(small));
    println!(
        "f10: {} bytes held at most, allowed {}",
        world.report.peak_bytes,
        (4 << 20) + 2 * (1 << 20)
    );
}

#[test]
fn f11_late_answers_are_no_fault() {
    let mut late = scenario(4, &[Role::Late(500 * MS), Role::NoBlocks]);
    late.tip = 30;
    let world = kept("f11", late, |t0| seen(t0, 2));
    assert!(
        world.report.dropped.is_empty(),
        "{:?}",
        world.report.dropped
    );
}

#[test]
fn f12_extended_commits() {
    let world = kept("f12", scenario(4, &[Role::Liar(Lie::Extension)]), |t0| {
        seen(t0, 1)
    });
    assert!(
        bans(&world)
            .iter()
            .all(|(n, f)| *n == 0 && *f == "bad_extended_commit")
    );
}
