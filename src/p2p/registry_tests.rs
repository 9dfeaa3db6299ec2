//! Limits, evictions and bans of the table of connections.

use super::*;

fn registry(us: u8) -> Registry {
    let limits = Limits {
        inbound: 2,
        per_address: 1,
        half_open: 16,
        configured: HashSet::new(),
    };
    Registry::new(PeerId([us; 20]), limits)
}

fn candidate(id: u8, dialled: bool) -> Candidate {
    Candidate {
        id: PeerId([id; 20]),
        address: String::new(),
        from: (!dialled).then_some(IpAddr::from([id, id, id, id])),
        dialled,
        version: String::new(),
        moniker: String::new(),
        breaks_ties: true,
        usage: Arc::default(),
    }
}

#[tokio::test(start_paused = true)]
async fn both_sides_keep_the_same_one_of_two_simultaneous_connections() {
    let (low, high) = (registry(1), registry(2));
    let token = CancellationToken::new;
    // the connection that 1 dialled came second at both
    let (theirs, ours) = (token(), token());
    let first = low.seat(candidate(2, false), theirs.clone()).await.unwrap();
    let first_at_high = high.seat(candidate(1, true), ours.clone()).await.unwrap();
    let second = low.seat(candidate(2, true), token());
    let second_at_high = high.seat(candidate(1, false), token());
    let (second, second_at_high) = tokio::join!(second, second_at_high);
    assert!(second.is_ok() && second_at_high.is_ok());
    assert!(theirs.is_cancelled() && ours.is_cancelled());
    drop((first, first_at_high));
    assert!(low.connected(PeerId([2; 20])).is_some() && high.connected(PeerId([1; 20])).is_some());
    // the one that 2 dials comes too late, and so does everything after the first seconds
    assert!(low.seat(candidate(2, false), token()).await.is_err());
    assert!(high.seat(candidate(1, true), token()).await.is_err());
    let old = high.seat(candidate(9, false), token()).await.unwrap();
    tokio::time::sleep(SIMULTANEOUS).await;
    assert!(high.seat(candidate(9, true), token()).await.is_err());
    drop(old);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_breaks_no_ties_keeps_its_first_connection() {
    let low = registry(1);
    let stranger = |dialled| Candidate {
        breaks_ties: false,
        ..candidate(2, dialled)
    };
    let seat = low
        .seat(stranger(false), CancellationToken::new())
        .await
        .unwrap();
    let second = low.seat(stranger(true), CancellationToken::new()).await;
    assert!(matches!(second, Err(UpgradeError::Duplicate(_))));
    drop(seat);
    assert!(
        low.seat(stranger(true), CancellationToken::new())
            .await
            .is_ok()
    );
}

#[tokio::test(start_paused = true)]
async fn limits_hold_and_places_come_back() {
    let registry = registry(1);
    let (here, there) = (IpAddr::from([1, 1, 1, 1]), IpAddr::from([2, 2, 2, 2]));
    let knocks: Vec<_> = (0..4).map(|_| registry.knock(here).unwrap()).collect();
    assert!(registry.knock(here).is_err());
    assert!(registry.knock(there).is_ok());
    drop(knocks);
    assert!(registry.knock(here).is_ok());
    assert_eq!(registry.table().half_open.len(), 0);

    let token = CancellationToken::new;
    let a = registry.seat(candidate(2, false), token()).await.unwrap();
    let _b = registry.seat(candidate(3, false), token()).await.unwrap();
    assert!(matches!(
        registry.seat(candidate(4, false), token()).await,
        Err(UpgradeError::Full(_))
    ));
    assert!(registry.knock(there).is_err());
    let _c = registry.seat(candidate(4, true), token()).await.unwrap();
    assert_eq!(registry.peers().len(), 3);
    drop(a);
    assert!(registry.knock([9, 9, 9, 9].into()).is_ok());
    let crowded = registry.knock([3, 3, 3, 3].into()).map(drop);
    assert!(matches!(crowded, Err(UpgradeError::Full(why)) if why.contains("one address")));
}

#[tokio::test(start_paused = true)]
async fn flapping_is_cheap() {
    let registry = registry(1);
    let knock = |from: [u8; 4]| registry.knock(from.into()).map(drop).is_ok();
    for _ in 0..1000 {
        assert!(knock([127, 0, 0, 1]), "only routed addresses are counted");
    }
    assert_eq!((0..1000).filter(|_| knock([8, 8, 8, 8])).count(), 20);
    assert!(knock([8, 8, 4, 4]));
    tokio::time::sleep(KNOCKS_IN).await;
    assert!(knock([8, 8, 8, 8]));
    for n in 0..10_000u32 {
        knock((0x0900_0000 + n).to_be_bytes());
    }
    assert!(registry.table().knocks.len() <= MAX_KNOCKERS);
}

#[tokio::test(start_paused = true)]
async fn a_ban_ends_the_connection_and_then_itself() {
    let registry = registry(1);
    let token = CancellationToken::new();
    let _seat = registry
        .seat(candidate(2, true), token.clone())
        .await
        .unwrap();
    registry.ban(PeerId([2; 20]), Duration::from_secs(60));
    assert!(token.is_cancelled() && registry.banned(PeerId([2; 20])).is_some());
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert_eq!(registry.banned(PeerId([2; 20])), None);
}

fn from(id: u8, ip: &str) -> Candidate {
    Candidate {
        from: Some(ip.parse().unwrap()),
        ..candidate(id, false)
    }
}

fn roomy(inbound: usize, per_address: usize) -> Registry {
    let limits = Limits {
        inbound,
        per_address,
        half_open: 16,
        configured: HashSet::from([PeerId([99; 20])]),
    };
    Registry::new(PeerId([1; 20]), limits)
}

#[tokio::test(start_paused = true)]
async fn the_idle_make_room_for_newcomers_and_the_busy_do_not() {
    let registry = roomy(3, 4);
    let token = CancellationToken::new;
    let (busy, old, young) = (
        from(2, "10.0.0.2"),
        from(3, "10.0.0.3"),
        from(4, "10.0.0.4"),
    );
    let usage = busy.usage.clone();
    let (busy_ends, old_ends, young_ends) = (token(), token(), token());
    let busy = registry.seat(busy, busy_ends.clone()).await.unwrap();
    let old = registry.seat(old, old_ends.clone()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(10)).await;
    let young = registry.seat(young, young_ends.clone()).await.unwrap();
    let newcomer = || registry.seat(from(5, "10.0.0.5"), token());
    assert!(newcomer().await.is_err(), "nobody is idle yet");
    tokio::time::sleep(IDLE).await;
    usage.block(false);
    let newcomer = newcomer().await.unwrap();
    assert!(young_ends.is_cancelled() && young.makes_room());
    assert!(!old_ends.is_cancelled() && !busy_ends.is_cancelled());
    // the seat of the one that leaves is not given away twice
    let next = registry.seat(from(6, "10.0.0.6"), token()).await;
    assert!(next.is_ok() && old_ends.is_cancelled());
    tokio::time::sleep(IDLE).await;
    usage.block(true);
    assert!(registry.seat(from(7, "10.0.0.7"), token()).await.is_ok());
    assert!(!busy_ends.is_cancelled());
    drop((busy, old, young, newcomer));
}

#[tokio::test(start_paused = true)]
async fn a_crowded_network_gives_way_and_a_configured_peer_always_has_room() {
    let registry = roomy(4, 4);
    let token = CancellationToken::new;
    let mut seats = Vec::new();
    for n in 0..4 {
        let stranger = from(10 + n, &format!("8.8.{n}.1"));
        seats.push(registry.seat(stranger, token()).await.unwrap());
    }
    // of their own network nobody gets in before they are idle
    assert!(registry.seat(from(20, "8.8.9.9"), token()).await.is_err());
    let other = registry.seat(from(21, "9.9.9.9"), token()).await;
    assert!(other.is_ok() && seats[3].makes_room());
    let known = registry.seat(from(99, "8.8.0.1"), token()).await;
    assert!(known.is_ok());
    assert_eq!(seats.iter().filter(|s| s.makes_room()).count(), 1);
}

#[tokio::test(start_paused = true)]
async fn one_host_has_few_seats_also_when_all_its_connections_came_at_once() {
    let registry = roomy(40, 4);
    let token = CancellationToken::new;
    for net in ["2a00:1:2:3", "::ffff:8.8.8.8"] {
        let knocks: Vec<_> = (0..4)
            .map(|_| registry.knock([8, 8, 8, 8].into()).unwrap())
            .collect();
        let mut seats = Vec::new();
        for n in 0..16u8 {
            let ip = if net.contains('.') {
                net.to_owned()
            } else {
                format!("{net}::{n}")
            };
            seats.extend(registry.seat(from(100 + n, &ip), token()).await.ok());
        }
        assert_eq!(seats.len(), 4, "{net}");
        drop(knocks);
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_is_banned_after_its_proof_gets_no_seat() {
    let registry = roomy(4, 4);
    let token = CancellationToken::new();
    let first = registry.seat(candidate(2, false), token.clone()).await;
    // the service writes into the table that the link carries
    registry
        .bans()
        .ban(PeerId([2; 20]), Duration::from_secs(60));
    drop(first);
    let second = registry.seat(candidate(2, false), token).await;
    assert!(matches!(second, Err(UpgradeError::NotAllowed(..))));
    tokio::time::sleep(Duration::from_secs(61)).await;
    let third = registry.seat(candidate(2, false), CancellationToken::new());
    assert!(third.await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn half_open_places_go_to_networks_that_have_few() {
    let registry = roomy(40, 4);
    let knock = |ip: [u8; 4]| registry.knock(ip.into());
    // four networks with four handshakes each: all places are taken, and whoever comes from
    // elsewhere gets one
    let mut crowd: Vec<_> = (0..16u8)
        .map(|n| knock([20 + n / 4, 1, n, 1]).unwrap())
        .collect();
    let honest = knock([9, 9, 9, 9]).unwrap();
    assert!(
        crowd[0].given_up.is_cancelled(),
        "the oldest of the most crowded"
    );
    let again = knock([20, 1, 200, 1]).unwrap();
    assert!(!honest.given_up.is_cancelled());
    assert_eq!(
        crowd.iter().filter(|h| h.given_up.is_cancelled()).count(),
        2
    );
    crowd.push(again);
    for n in 0..100u8 {
        tokio::time::sleep(HALF_OPEN_LEAST).await;
        crowd.extend(knock([20 + n % 4, 1, n, 7]));
    }
    assert!(
        !honest.given_up.is_cancelled(),
        "its network is the least crowded"
    );
    assert!(registry.table().half_open.len() <= 16);
    drop((crowd, honest));
    assert_eq!(registry.table().half_open.len(), 0);
}
