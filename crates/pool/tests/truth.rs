//! The outcome of the whole (`design.md` 12) in worlds that grow, with peers that are slow, late,
//! fresh or lie about the tip. Each that was seen once with a released program has its test here,
//! with two variations.

#[path = "truth/claims.rs"]
mod claims;
mod world;

use std::collections::BTreeSet;

use blocksync_pool::{Input, Outcome};
use blocksync_types::ids::{ConnId, Height, PeerId};
use world::{MS, OTHER_GENESIS, PeerSpec, Rng, Role, SECOND, Scenario, World, block_id, peer_id};

fn fresh() -> PeerSpec {
    PeerSpec::new(Role::Fresh)
}

/// An honest server at this many bytes a second.
fn server(bandwidth: u64) -> PeerSpec {
    PeerSpec {
        bandwidth,
        tells_progress: true,
        ..PeerSpec::new(Role::Honest)
    }
}

fn world(tip: u64, block_bytes: u32, peers: Vec<PeerSpec>) -> World {
    World::new(Scenario {
        block_bytes,
        limit: 7200 * SECOND,
        check_every: 16,
        ..Scenario::new(5, tip, peers)
    })
}

/// Runs until it is said that we have caught up, which must not be before the tip.
fn says_it_at_the_tip(world: World) -> World {
    says_it_within(0, world)
}

/// The same, but that it may be said this far below the tip.
fn says_it_within(slack: u64, mut world: World) -> World {
    let said = world.run_until(World::caught_up);
    let at = (world.applied(), world.scenario.tip);
    assert!(said, "never caught up: {at:?} {:?}", world.report.outcome);
    // While we are behind, peers are asked for their status every ten seconds: they may have more
    // by then.
    // Once we have stood at the top of a chain that grows, what it has grown since is a late claim,
    // which postpones nothing: some blocks more.
    let interval = world.scenario.config.status_interval;
    let unheard = interval
        .checked_div(world.scenario.grows)
        .map_or(0, |n| n * 3 / 2 + 1)
        .max(slack);
    let early = |(height, tip): &&(u64, u64)| height + 2 + unheard < *tip;
    let early: Vec<_> = world.report.caught_up.iter().filter(early).collect();
    assert!(early.is_empty(), "caught up below the tip: {early:?}");
    world
}

#[test]
fn servers_that_take_their_time_for_the_first_answer() {
    for (servers, first, tip) in [
        (3, 6 * SECOND, 300),
        (2, 9 * SECOND, 50),
        (1, 8 * SECOND, 1000),
    ] {
        let mut peers = vec![server(20_000_000); servers];
        for peer in &mut peers {
            peer.stops = (0, first);
        }
        peers.push(fresh());
        says_it_at_the_tip(world(tip, 19_000, peers));
    }
}

#[test]
fn the_only_server_stops_for_seconds_in_mid_sync() {
    for (from, stop) in [(3, 6), (5, 8), (1, 9)] {
        let mut slow = server(1_000_000);
        slow.stops = (from * SECOND, (from + stop) * SECOND);
        says_it_at_the_tip(world(1000, 19_000, vec![slow, fresh()]));
    }
}

#[test]
fn large_blocks_over_a_slow_link() {
    for (bytes, rate) in [
        (2_000_000, 150_000),
        (500_000, 50_000),
        (10_000_000, 400_000),
    ] {
        says_it_at_the_tip(world(8, bytes, vec![server(rate), fresh()]));
    }
}

#[test]
fn the_server_is_still_in_its_handshake() {
    for (fresh_peers, late, told) in [
        (3, 1200 * MS, false),
        (3, 8 * SECOND, true),
        (10, 4 * SECOND, true),
    ] {
        let mut peers = vec![fresh(); fresh_peers];
        peers.push(server(20_000_000));
        peers[fresh_peers].comes_at = late;
        let mut world = world(300, 19_000, peers);
        if told {
            let configured = BTreeSet::from([peer_id(fresh_peers)]);
            expect(&mut world, configured.clone());
        }
        says_it_at_the_tip(world);
    }
}

/// These are configured, and may come.
fn expect(world: &mut World, peers: BTreeSet<PeerId>) {
    let coming = peers.clone();
    world.feed(Input::Expected { peers, coming });
}

fn other_genesis() -> PeerSpec {
    PeerSpec::new(Role::OtherGenesis)
}

/// A configured peer with another genesis is there at once, and the other one comes late: nothing
/// final is said before it has come.
#[test]
fn a_contradiction_of_genesis_waits_for_every_configured_peer() {
    for (late, wrong) in [(1200 * MS, 1), (8 * SECOND, 1), (20 * SECOND, 3)] {
        let mut peers = vec![other_genesis(); wrong];
        peers.push(server(20_000_000));
        peers[wrong].comes_at = late;
        let mut world = world(300, 19_000, peers);
        expect(&mut world, (0..=wrong).map(peer_id).collect());
        says_it_at_the_tip(world);
    }
}

/// Strangers alone end nothing, however many say the same: it is a stall that names both hashes.
#[test]
fn strangers_with_another_genesis_are_a_stall() {
    for strangers in [1, 5] {
        let mut world = world(300, 19_000, vec![other_genesis(); strangers]);
        let peers = BTreeSet::from([peer_id(99)]);
        expect(&mut world, peers.clone());
        // The configured peer fails to come.
        let coming = BTreeSet::new();
        world.feed(Input::Expected { peers, coming });
        let end = world.now + 120 * SECOND;
        let ended = |w: &World| w.now >= end || final_word(w).is_some();
        world.run_until(ended);
        assert_eq!(final_word(&world), None);
        let Some(Outcome::Stalled { why }) = &world.report.outcome else {
            panic!("{:?}", world.report.outcome)
        };
        let (said, id) = (why.to_string(), |tag| block_id(1, tag).to_string());
        assert!(
            said.contains(&id(0)) && said.contains(&id(OTHER_GENESIS)),
            "{said}"
        );
    }
}

/// The only configured peer has given its word.
#[test]
fn the_configured_peer_with_another_genesis_ends_the_sync() {
    for strangers in [0, 4] {
        let mut world = world(300, 19_000, vec![other_genesis(); strangers + 1]);
        expect(&mut world, BTreeSet::from([peer_id(strangers)]));
        assert!(world.run_until(|w| final_word(w).is_some()));
        assert!(world.now <= 5 * SECOND, "{}", world.now);
    }
}

fn final_word(world: &World) -> Option<&String> {
    match &world.report.outcome {
        Some(Outcome::Contradiction { what, .. }) => Some(what),
        _ => None,
    }
}

/// Nobody is left who is where we are: what a peer below us says is no evidence.
#[test]
fn the_only_server_is_gone_in_mid_sync() {
    for (at, fresh_peers) in [(236, 1), (317, 3), (900, 10)] {
        let mut peers = vec![fresh(); fresh_peers];
        peers.push(server(1_000_000));
        let mut world = world(1000, 19_000, peers);
        assert!(world.run_until(|w| w.applied() >= at));
        let gone = world.pool.peers().find(|p| p.peer == peer_id(fresh_peers));
        let conn = gone.expect("the server is connected").conn;
        world.feed(Input::Down { conn });
        let end = world.now + 120 * SECOND;
        world.run_until(|w| w.now >= end);
        assert_eq!(world.report.caught_up, [], "at {at}");
        assert!(!world.caught_up());
    }
}

#[test]
fn a_liar_serves_blocks_of_its_own_above_the_tip() {
    for (claim, liars) in [(400, 1), (3, 2), (100_000, 8)] {
        let mut peers = vec![PeerSpec::new(Role::Forges(300 + claim)); liars];
        peers.extend(vec![server(20_000_000); 3]);
        let mut world = says_it_at_the_tip(world(300, 19_000, peers));
        assert!(world.now <= 20 * SECOND, "{}", world.now);
        // Their copies are gone, and are not fetched again.
        let (bytes, end) = (world.report.downloaded_bytes, world.now + 60 * SECOND);
        world.run_until(|w| w.now >= end);
        let held = world.pool.buffered_bytes();
        assert!(
            held <= 4 * 19_000,
            "{held} bytes of blocks that nobody needs"
        );
        let more = world.report.downloaded_bytes - bytes;
        assert!(more <= 40 * 19_000, "{more} bytes more");
    }
}

/// The only server is silent until its claim has ended. When it is back it is asked for all that it
/// has, and each block comes twice at most.
#[test]
fn a_server_whose_claim_has_ended_comes_back() {
    for (tip, lags_at, stop) in [(60, 20, 40), (45, 1, 25)] {
        let mut slow = server(200_000);
        let from = 200 * MS;
        slow.stops = (from, from + stop * SECOND);
        let lags = PeerSpec::new(Role::ClaimsAndServes(lags_at));
        let mut world = world(tip, 19_000, vec![slow, lags, fresh()]);
        let back = from + stop * SECOND;
        assert!(world.run_until(|w| w.applied() + 1 >= tip));
        let early = world.report.caught_up.iter().any(|(h, _)| *h < tip - 1);
        assert!(early, "it was doubted: {:?}", world.report.caught_up);
        let whole = tip * 19_000 * SECOND / 200_000;
        let took = world.now - back;
        assert!(took <= 2 * whole, "{took} us for {whole} us of blocks");
        let most = 2 * tip * 19_000;
        assert!(world.report.downloaded_bytes <= most, "{:?}", world.report);
        let dropped = &world.report.dropped;
        assert!(dropped.iter().all(|(_, _, banned)| !banned), "{dropped:?}");
    }
}

/// Every new block renews nothing, and neither does a new identity.
#[test]
fn liars_that_reconnect_on_a_live_chain() {
    for (interval, liars, back) in [(2 * SECOND, 2, 4), (500 * MS, 100, 1), (10 * SECOND, 5, 3)] {
        let mut live = world(100, 19_000, vec![server(20_000_000); 3]);
        live.scenario.grows = interval;
        let mut live = World::new(live.scenario);
        let (mut next, mut conns) = (1 << 40, Vec::new());
        while !live.caught_up() {
            assert!(live.now < 20 * SECOND, "withheld for {} us", live.now);
            for conn in conns.drain(..) {
                live.feed(Input::Down { conn });
            }
            for _ in 0..liars {
                let (conn, peer) = (ConnId(next), peer_id(1 << 20 | next as usize));
                next += 1;
                live.feed(Input::Up { conn, peer });
                let (base, height) = (Height::new(1), Height::new(live.scenario.tip + 1000));
                let max_range = 1;
                live.feed(Input::Status {
                    conn,
                    base,
                    height,
                    max_range,
                });
                conns.push(conn);
            }
            let until = live.now + back * SECOND;
            live.run_until(|w| w.now >= until || w.caught_up());
        }
        let named = live.pool.doubted_claims();
        assert!(!named.is_empty(), "who claims more is named");
    }
}

/// It earns time by the bytes that it sends, but not more than that of a claim that delivers.
#[test]
fn a_liar_that_drips_what_it_was_asked_for() {
    for (rate, claim) in [(14_000, 1), (14_000, 400), (100_000, 2)] {
        let mut dripping = server(rate);
        dripping.role = Role::Forges(300 + 1 + claim);
        let mut peers = vec![server(20_000_000); 3];
        peers.push(dripping);
        let mut world = world(300, 60_000_000, peers);
        world.scenario.tip = 300;
        let mut world = World::new(Scenario {
            block_bytes: 60_000,
            ..world.scenario
        });
        assert!(world.run_until(|w| w.applied() + 1 >= 300));
        // From here on whatever comes is large.
        world.scenario.block_bytes = 60_000_000;
        let begin = world.now;
        assert!(world.run_until(|w| w.caught_up() || w.now > begin + 200 * SECOND));
        assert!(
            world.now <= begin + 80 * SECOND,
            "withheld for {} us",
            world.now - begin
        );
    }
}

#[test]
fn a_fresh_network_is_caught_up_at_once() {
    for (peers, liars) in [(4, 0), (4, 2), (1, 0)] {
        let mut all = vec![fresh(); peers];
        all.extend(vec![PeerSpec::new(Role::Claims(1000)); liars]);
        let mut world = world(0, 19_000, all);
        assert!(
            world.run_until(World::caught_up),
            "{:?}",
            world.report.outcome
        );
        assert!(world.now <= 20 * SECOND, "{}", world.now);
    }
}

/// A chain that stands or grows, servers that are slow or late with their first answer, fresh
/// peers, and liars about the tip: never said too early, and always said.
fn any_world(seed: u64) {
    let mut rng = Rng::new(seed, 9);
    let tip = 20 + rng.below(400);
    let bytes = [1_000, 19_000, 400_000, 2_000_000, 10_000_000][rng.below(5) as usize];
    let tip = if bytes > 1_000_000 {
        8 + rng.below(8)
    } else {
        tip
    };
    let mut peers = Vec::new();
    for _ in 0..1 + rng.below(3) {
        // Some blocks may come before the two lowest: all take less than a claim that delivers may.
        let mut peer = server((u64::from(bytes) / 6).max(50_000) << rng.below(6));
        peer.latency = 1 + rng.below(300 * MS);
        if rng.chance(300) {
            peer.stops = (0, rng.below(8 * SECOND));
        }
        peers.push(peer);
    }
    for _ in 0..rng.below(4) {
        let mut peer = fresh();
        peer.comes_at = rng.below(2) * rng.below(10 * SECOND);
        peers.push(peer);
    }
    for _ in 0..rng.below(3) {
        let claim = tip + 2 + rng.below(2000);
        let forges = rng.chance(500);
        peers.push(PeerSpec::new(if forges {
            Role::Forges(claim)
        } else {
            Role::Claims(claim)
        }));
    }
    let mut scenario = Scenario {
        block_bytes: bytes,
        limit: 7200 * SECOND,
        check_every: 64,
        ..Scenario::new(seed, tip, peers)
    };
    if bytes < 100_000 && rng.chance(400) {
        scenario.grows = 500 * MS + rng.below(10 * SECOND);
    }
    let world = says_it_at_the_tip(World::new(scenario));
    let dropped = world.honest_bans();
    assert!(dropped.is_empty(), "{dropped:?}");
    let bound = !matches!(world.report.outcome, Some(Outcome::Stalled { .. }));
    assert!(bound, "{:?}", world.report.outcome);
}

fn any_worlds(seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let why = std::panic::catch_unwind(|| any_world(seed)).err();
        if let Some(why) = why {
            eprintln!("seed {seed}");
            std::panic::resume_unwind(why);
        }
    }
}

/// Three that were there first, two of them liars, made everybody else late.
#[test]
fn world_329_the_first_do_not_decide_who_is_late() {
    any_world(329);
}

#[test]
fn three_hundred_worlds() {
    any_worlds(0..300);
}

/// Complete, and off by default: 10^4 worlds take a minute or more. `three_hundred_worlds` runs the
/// first of them.
///
/// `cargo test --release -p blocksync-pool --test truth ten_thousand -- --ignored`
#[test]
#[ignore = "takes minutes: run it by name after a change of the pool"]
fn ten_thousand_worlds() {
    any_worlds(0..10_000);
}

/// A tool and no check: it prints one world. A failing world names this command.
///
/// `SEED=1 cargo test -p blocksync-pool --test truth replay_world -- --ignored --nocapture`
#[test]
#[ignore = "a tool that needs a seed: it runs the world of SEED"]
fn replay_world() {
    let seed = std::env::var("SEED").ok().and_then(|s| s.parse().ok());
    any_world(seed.expect("SEED=number"));
}
