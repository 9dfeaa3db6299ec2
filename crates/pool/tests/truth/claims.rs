//! Claims that are proven (`design.md` 12, rule 4).

use super::*;
use blocksync_pool::{Effect, Meta, Pool, PoolConfig, Tick};
use world::{GOOD, Lie};

/// An honest node that stands at this height, and comes no further.
fn stands_at(height: u64) -> PeerSpec {
    PeerSpec::new(Role::ClaimsAndServes(height))
}

/// Nobody says that we have caught up with one that stands still, while a server that has shown
/// what it has takes its time: within the window and far beyond it, at its first block and later.
#[test]
fn a_server_that_has_proven_its_claim_may_stop_for_longer_than_claims_are_borne() {
    for (tip, window, lags_at, stops) in [
        (1000, 2048, 300, (2, 40)),
        (5000, 128, 40, (1, 25)),
        (400, 2048, 1, (1, 90)),
    ] {
        let mut slow = server(3_000_000);
        slow.stops = (stops.0 * SECOND, stops.1 * SECOND);
        let mut world = world(tip, 19_000, vec![slow, stands_at(lags_at), fresh()]);
        world.scenario.config.window = window;
        let world = says_it_at_the_tip(World::new(world.scenario));
        assert!(world.now > stops.1 * SECOND, "it stopped in mid-sync");
        assert!(world.report.seen["claim_proven"] > 0);
        let drops = &world.report.dropped;
        assert!(drops.iter().all(|(_, _, banned)| !banned), "{drops:?}");
    }
}

/// A proof is true whoever hands it on: one that serves nothing but its highest block.
#[test]
fn a_height_that_anybody_proves_is_not_forgotten() {
    for (tip, late) in [(1000, 30), (300, 90)] {
        let mut server = server(20_000_000);
        server.comes_at = late * SECOND;
        let relay = PeerSpec::new(Role::ServesOnly(tip));
        let world = world(tip, 19_000, vec![relay, stands_at(100), server]);
        let world = says_it_at_the_tip(world);
        assert!(world.now > late * SECOND);
    }
}

/// Claims that are not proven, whatever comes instead, postpone nothing for long.
#[test]
fn claims_without_a_proof_are_not_counted_in_the_end() {
    let liars = [
        Role::Claims(5000),
        Role::Forges(5000),
        Role::ServesOnly(5000),
        Role::NoBlocks,
        Role::Liar(Lie::Commit),
    ];
    for liar in liars {
        let peers = vec![PeerSpec::new(liar), server(20_000_000), server(20_000_000)];
        let world = says_it_at_the_tip(world(300, 19_000, peers));
        assert!(world.now <= 30 * SECOND, "{}", world.now);
        assert!(world.pool.target() <= Height::new(300));
    }
}

/// With keys of validators that are long gone anything can be proven to those who begin with these:
/// it is worth nothing once we know others.
#[test]
fn a_proof_by_keys_that_have_gone_is_judged_again() {
    let stranger = ConnId(1 << 40);
    for (applied, is_believed) in [(0, false), (100, false), (299, true)] {
        let mut world = world(300, 19_000, vec![server(20_000_000); 2]);
        let mut told = false;
        let end = 300 * SECOND;
        while world.now < end && !(told && world.caught_up()) {
            if !told && world.applied() >= applied {
                told = true;
                let (proven, applied) = (Some(Height::new(1 << 40)), Height::new(applied));
                let conn = stranger;
                world.feed(Input::ClaimJudged {
                    conn,
                    proven,
                    applied,
                });
            }
            let next = world.now + SECOND / 100;
            world.run_until(|w| w.now >= next || (!told && w.applied() >= applied));
        }
        assert_eq!(world.caught_up(), !is_believed, "told at {applied}");
        assert!(is_believed || world.now <= 20 * SECOND, "{}", world.now);
    }
}

fn feed(
    pool: &mut Pool<world::Body>,
    input: Input<world::Body>,
    at: u64,
) -> Vec<Effect<world::Body>> {
    let mut out = Vec::new();
    pool.handle(input, Tick(at), &mut out);
    pool.check();
    out
}

fn status(conn: ConnId, height: u64) -> Input<world::Body> {
    let (base, height) = (Height::new(1), Height::new(height));
    Input::Status {
        conn,
        base,
        height,
        max_range: 1,
    }
}

fn copy(conn: ConnId, height: u64) -> Input<world::Body> {
    let meta = Meta {
        height: Height::new(height),
        id: block_id(height, 0),
        parent: block_id(height - 1, 0),
        bytes: 1000,
        has_own_commit: false,
    };
    let block = GOOD;
    Input::Block { conn, meta, block }
}

/// The heights that a connection is asked for.
fn asked(out: &[Effect<world::Body>], of: ConnId) -> Vec<u64> {
    let heights = out.iter().filter_map(|effect| match effect {
        Effect::Ask { conn, from, .. } if *conn == of => Some(from.get()),
        _ => None,
    });
    heights.collect()
}

fn proves(out: &[Effect<world::Body>]) -> bool {
    out.iter().any(|e| matches!(e, Effect::ProveClaim { .. }))
}

fn drops(out: &[Effect<world::Body>]) -> bool {
    out.iter().any(|e| matches!(e, Effect::Drop { .. }))
}

const FAR: u64 = 1_000_000;

/// A pool with two connections, of which the first claims much.
fn two() -> Pool<world::Body> {
    let config = PoolConfig::default();
    let mut pool = Pool::new(config, Height::ZERO, Height::new(1), Tick(0));
    for n in 0..2 {
        let (conn, peer) = (ConnId(n), peer_id(usize::try_from(n).unwrap()));
        feed(&mut pool, Input::Up { conn, peer }, 0);
    }
    pool
}

/// First of all the highest block, once, beside what the window wants; not the next claimant's, nor
/// the same one's at once.
#[test]
fn one_claimant_is_asked_at_a_time_and_not_often() {
    let (mut pool, first, second) = (two(), ConnId(0), ConnId(1));
    let out = feed(&mut pool, status(first, FAR), 0);
    assert_eq!(asked(&out, first)[..2], [FAR, 1]);
    let out = feed(&mut pool, status(second, FAR), 1000);
    assert!(!asked(&out, second).contains(&FAR));
    let out = feed(&mut pool, status(first, FAR + 1), 2 * SECOND);
    assert!(!asked(&out, first).contains(&(FAR + 1)), "too often");
    let applied = Height::ZERO;
    let proven = Some(Height::new(FAR - 2));
    assert!(proves(&feed(&mut pool, copy(first, FAR), 3 * SECOND)));
    let judged = Input::ClaimJudged {
        conn: first,
        proven,
        applied,
    };
    feed(&mut pool, judged, 3 * SECOND);
    assert_eq!(pool.target(), Height::new(FAR - 2));
    for at in 4..400 {
        let out = feed(&mut pool, status(second, FAR), at * SECOND);
        assert!(!asked(&out, second).contains(&FAR), "nothing new");
    }
}

/// No answer, a late one and "no block" are no fault, and move nothing that is shared.
#[test]
fn a_claimant_that_cannot_prove_it_is_no_liar() {
    let first = ConnId(0);
    let begin = || {
        let mut pool = two();
        feed(&mut pool, status(ConnId(1), 10), 0);
        feed(&mut pool, status(first, FAR), 0);
        pool
    };
    let mut pool = begin();
    let height = Height::new(FAR);
    let conn = first;
    let out = feed(&mut pool, Input::NoBlock { conn, height }, SECOND);
    assert!(!drops(&out));
    // Given up by us; then it comes all the same.
    let mut pool = begin();
    for at in 1..25 {
        let out = feed(&mut pool, status(ConnId(1), 10), at * SECOND);
        let gone = out
            .iter()
            .find(|e| matches!(e, Effect::Drop { conn, .. } if *conn == first));
        assert!(gone.is_none() || at >= 5, "dropped at {at}: {gone:?}");
        if at == 4 {
            let out = feed(&mut pool, copy(first, FAR), at * SECOND);
            assert!(proves(&out) && !drops(&out));
            let judged = Input::ClaimJudged {
                conn,
                proven: None,
                applied: Height::ZERO,
            };
            assert!(!drops(&feed(&mut pool, judged, at * SECOND)));
            assert!(
                pool.target() <= Height::new(10),
                "two claims, and none is proven"
            );
        }
    }
}

/// An answer that comes after we have given it up is no fault, and one that nobody asked for is.
#[test]
fn a_proof_that_comes_late_is_no_fault() {
    let mut config = PoolConfig::default();
    config.request_timeout = 100 * SECOND;
    let mut pool = Pool::new(config, Height::ZERO, Height::new(1), Tick(0));
    let conn = ConnId(0);
    let peer = peer_id(0);
    feed(&mut pool, Input::Up { conn, peer }, 0);
    feed(&mut pool, status(conn, FAR), 0);
    let out = feed(&mut pool, Input::Tick, 401 * SECOND);
    let gone = out.iter().any(|e| matches!(e, Effect::Cancel { .. }));
    assert!(gone, "given up: {out:?}");
    let out = feed(&mut pool, copy(conn, FAR), 402 * SECOND);
    assert!(!drops(&out) && !proves(&out), "{out:?}");
    let out = feed(&mut pool, copy(conn, FAR), 403 * SECOND);
    assert!(drops(&out), "one answer to each request");
}

/// The window may come to a height that was asked for as a proof: one answer does for both, and the
/// second is no fault either. A third is.
#[test]
fn the_window_may_want_what_was_asked_for_as_a_proof() {
    let mut config = PoolConfig::default();
    (config.window, config.prove_claims_above) = (2, 1);
    let mut pool = Pool::new(config, Height::ZERO, Height::new(1), Tick(0));
    let (conn, peer) = (ConnId(0), peer_id(0));
    feed(&mut pool, Input::Up { conn, peer }, 0);
    let out = feed(&mut pool, status(conn, 5), 0);
    assert_eq!(asked(&out, conn)[0], 5);
    let through = Height::new(4);
    let out = feed(&mut pool, Input::Applied { through }, 1);
    assert_eq!(asked(&out, conn), [5]);
    for (at, is_fault) in [(2, false), (3, false), (4, true)] {
        let out = feed(&mut pool, copy(conn, 5), at);
        assert_eq!(drops(&out), is_fault, "answer at {at}: {out:?}");
    }
}

/// Servers that stop in mid-sync for longer than claims are borne, beside nodes that stand where we
/// come to stand, fresh ones, and liars about the tip: never said too early, and always said.
fn any_proven_world(seed: u64) {
    let mut rng = Rng::new(seed, 10);
    let tip = 300 + rng.below(900);
    let mut peers = Vec::new();
    for _ in 0..1 + rng.below(3) {
        let mut peer = server(600_000 << rng.below(3));
        peer.latency = 1 + rng.below(100 * MS);
        let from = (5 + rng.below(5)) * SECOND;
        peer.stops = (from, from + rng.below(90 * SECOND));
        peers.push(peer);
    }
    for _ in 0..1 + rng.below(3) {
        peers.push(stands_at(1 + rng.below(tip)));
    }
    for _ in 0..rng.below(3) {
        let claim = tip + 2 + rng.below(2000);
        peers.push(PeerSpec::new(match rng.below(4) {
            0 => Role::Forges(claim),
            1 => Role::ServesOnly(claim),
            2 => Role::ServesOnly(1 + rng.below(tip)),
            _ => Role::Claims(claim),
        }));
    }
    peers.extend(vec![fresh(); rng.below(2) as usize]);
    let mut scenario = Scenario {
        limit: 7200 * SECOND,
        check_every: 64,
        ..Scenario::new(seed, tip, peers)
    };
    scenario.config.window = [32, 128, 2048][rng.below(3) as usize];
    if rng.chance(300) {
        scenario.grows = 2 * SECOND + rng.below(10 * SECOND);
    }
    // Blocks that are made while a server stands still are near: nobody is asked to prove these.
    let near = match scenario.grows {
        0 => 8,
        _ => u64::from(scenario.config.prove_claims_above),
    };
    let world = says_it_within(near, World::new(scenario));
    assert!(world.now < 300 * SECOND, "{}", world.now);
    let banned = world.report.dropped.iter().filter(|(_, _, banned)| *banned);
    let forges = |n: usize| matches!(world.scenario.peers[n].role, Role::Forges(_));
    let honest =
        |id: &PeerId| (0..world.scenario.peers.len()).any(|n| peer_id(n) == *id && !forges(n));
    let banned: Vec<_> = banned.filter(|(id, ..)| honest(id)).collect();
    assert!(banned.is_empty(), "{banned:?}");
}

fn any_proven_worlds(seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let why = std::panic::catch_unwind(|| any_proven_world(seed)).err();
        if let Some(why) = why {
            eprintln!("proven world {seed}");
            std::panic::resume_unwind(why);
        }
    }
}

#[test]
fn fifty_worlds_with_proofs() {
    any_proven_worlds(0..50);
}

/// Complete, and off by default: 5000 worlds take minutes. `fifty_worlds_with_proofs` runs the
/// first of them.
///
/// `cargo test --release -p blocksync-pool --test truth five_thousand -- --ignored`
#[test]
#[ignore = "takes minutes: run it by name after a change of the pool"]
fn five_thousand_worlds_with_proofs() {
    any_proven_worlds(0..5000);
}
