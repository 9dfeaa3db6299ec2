//! Lies about blocks and commits: rows P12 to P19. Liars lie in three of ten answers. The world
//! itself sees to it that nothing but the chain's own blocks, in order, reaches the executor.

use super::*;

/// Liars among nine: each of them is banned, once, for just this; nobody else is dropped for any
/// cause; what has come is not asked for again.
fn liars(name: &str, lies: &[Lie], fault: &str) -> World {
    let world = lying(name, lies);
    let mut bans = bans(&world);
    bans.sort_unstable();
    let expected: Vec<(usize, &str)> = (0..lies.len()).map(|n| (n, fault)).collect();
    println!(
        "{name}: measured {} bans allowed {}",
        bans.len(),
        lies.len()
    );
    assert_eq!(bans, expected, "{name}");
    world
}

fn lying(name: &str, lies: &[Lie]) -> World {
    let roles: Vec<Role> = lies.iter().map(|l| Role::Liar(*l)).collect();
    let hostile = lies.len() as u64;
    let mut lying = scenario(9, &roles);
    if lies.contains(&Lie::Commit) {
        lying.config.run = 1; // inside a longer run no commit is looked at, so none can be held against its supplier
    }
    let world = row(name, lying, |t0| seen(t0, hostile));
    for (peer, reason, _) in &world.report.dropped {
        let liar = (0..lies.len()).any(|n| peer_id(n) == *peer);
        assert!(liar, "{name}: 0 collateral drops: {reason:?}");
    }
    world
}

fn nothing_twice(name: &str, world: &World) {
    let again = world.report.asked_again;
    println!("{name}: measured {again} heights asked again allowed 0");
    assert_eq!(again, 0, "{name}");
}

#[test]
fn p12_wrong_body() {
    nothing_twice("P12", &liars("P12", &[Lie::Body; 3], "bad_block"));
}

#[test]
fn p13_block_of_another_height() {
    nothing_twice("P13", &liars("P13", &[Lie::Height; 3], "unasked"));
}

#[test]
fn p14_block_of_another_chain() {
    nothing_twice("P14", &liars("P14", &[Lie::Header; 3], "bad_block"));
}

#[test]
fn p15_forged_commit() {
    // The block below the carrier stays: it is not downloaded again.
    nothing_twice("P15", &liars("P15", &[Lie::Commit; 3], "bad_commit"));
}

#[test]
fn p17_extended_commit() {
    nothing_twice(
        "P17",
        &liars("P17", &[Lie::Extension; 3], "bad_extended_commit"),
    );
}

#[test]
fn p18_colluding_pair() {
    for lies in [
        [Lie::Parent, Lie::Header],
        [Lie::Header, Lie::Header],
        [Lie::Commit, Lie::Parent],
    ] {
        let name = format!("P18, {lies:?}");
        let world = lying(&name, &lies);
        let mut banned: Vec<usize> = bans(&world).into_iter().map(|(n, _)| n).collect();
        banned.sort_unstable();
        println!("{name}: measured {banned:?} banned allowed [0, 1]");
        assert_eq!(banned, [0, 1], "{name}: the liars, each once");
    }
}

#[test]
fn p19_equivocation() {
    liars("P19", &[Lie::Header], "bad_block");
}
