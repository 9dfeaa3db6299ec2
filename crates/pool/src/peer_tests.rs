//! Tests of one connection: what it may be asked, and what its answers teach.

use super::*;

const SECOND: u64 = 1_000_000;

fn height(n: u64) -> Height {
    Height::new(n)
}

/// A CometBFT peer, or one that answers ranges, with blocks 1 to 1000.
fn peer(max_range: u32) -> Peer {
    let config = PoolConfig {
        asks_per_peer: 20,
        asks_per_ranged_peer: 100,
        ..PoolConfig::default()
    };
    let mut peer = Peer::new(PeerId([1; 20]), false, Tick(0), &config);
    peer.restate((height(1), height(1000)), max_range, height(1), Tick(0));
    peer
}

/// It answers a block that it was asked for, out of a large share.
fn answer(peer: &mut Peer, n: u64, bytes: u32, asked: u64, now: u64) {
    peer.owe(height(n), AskId(n));
    let answer = Answer {
        height: height(n),
        bytes,
        asked: Tick(asked),
        horizon: 2 * SECOND,
        share: 1000,
    };
    peer.answer(answer, Tick(now));
}

#[test]
fn the_first_answer_of_an_idle_connection_tells_its_latency_and_its_rate() {
    let mut peer = peer(1);
    answer(&mut peer, 1, 1000, 0, SECOND / 2);
    assert_eq!(
        (peer.rate(), peer.latency()),
        (Some(2000), Some(SECOND / 2))
    );
    // Asked before the last answer: it waited behind that, and says nothing of latency.
    answer(&mut peer, 2, 1000, SECOND / 4, SECOND);
    assert_eq!(
        (peer.rate(), peer.latency()),
        (Some(2000), Some(SECOND / 2))
    );
    // Asked after it: an eighth of what it shows is taken over.
    answer(&mut peer, 3, 2000, SECOND, SECOND + SECOND / 10);
    assert_eq!(peer.rate(), Some((2000 * 7 + 20_000) / 8));
    assert_eq!(peer.latency(), Some((500_000 * 7 + 100_000) / 8));
    assert_eq!(peer.last(), Tick(SECOND + SECOND / 10));
    // An empty block in no time is no rate of nothing, and no division by nothing.
    let now = 2 * SECOND;
    let mut other = self::peer(1);
    answer(&mut other, 1, 0, now, now);
    assert_eq!(other.rate(), Some(1));
}

#[test]
fn no_more_is_asked_than_a_link_brings_within_the_horizon() {
    // 1000 bytes in half a second: 2000 a second, so 5 blocks in 2.5 s, and one more.
    let mut slow = peer(1);
    assert_eq!(slow.room(), FRESH_PACE);
    answer(&mut slow, 1, 1000, 0, SECOND / 2);
    assert_eq!(slow.room(), 6);
    let mut slower = peer(1);
    answer(&mut slower, 1, 1000, 0, 60 * SECOND);
    assert_eq!(slower.room(), FRESH_PACE);
    let mut fast = peer(1);
    answer(&mut fast, 1, 1000, 0, 10);
    assert_eq!(fast.room(), 20, "the window of a CometBFT peer");
    let mut ranged = peer(8);
    answer(&mut ranged, 1, 1000, 0, 10);
    assert_eq!(ranged.room(), 100, "that of a node of ours");
}

#[test]
fn a_range_is_asked_for_when_a_whole_one_fits() {
    let mut peer = peer(8);
    answer(&mut peer, 1, 1000, 0, 10);
    assert_eq!(peer.heights_in_one_request(), 8);
    for n in 2..=93 {
        peer.owe(height(n), AskId(n));
    }
    assert_eq!((peer.room(), peer.heights_in_one_request()), (8, 8));
    peer.owe(height(94), AskId(94));
    assert_eq!(peer.room(), 0, "7 more would be no whole range");
    // At most half of what it may owe.
    let mut few = self::peer(1000);
    answer(&mut few, 1, 1000, 0, SECOND / 2);
    assert_eq!((few.room(), few.heights_in_one_request()), (6, 3));
    assert!(few.answers_ranges() && self::peer(2).answers_ranges());
    assert!(!self::peer(1).answers_ranges() && !self::peer(0).answers_ranges());
}

#[test]
fn given_up_heights_leave_less_room_until_they_are_answered_or_forgiven() {
    let mut peer = peer(1);
    answer(&mut peer, 1, 1000, 0, SECOND / 2);
    for n in 2..=9 {
        peer.owe(height(n), AskId(n));
        peer.give_up(height(n));
    }
    peer.give_up(height(77));
    assert_eq!(peer.debt, 8, "only what it owed");
    assert_eq!(peer.room(), 4, "twice its limit of 6, less 8");
    assert!(peer.answer_late(height(2)) && !peer.answer_late(height(2)));
    assert_eq!(peer.room(), 5);
    peer.forgive_half();
    assert_eq!((peer.debt, peer.room()), (3, 6));
    // A height that was given up twice may come twice.
    peer.abandon(height(3));
    assert!(peer.answer_late(height(3)) && peer.has_abandoned(height(3)));
    assert!(peer.answer_late(height(3)) && !peer.has_abandoned(height(3)));
    answer(&mut peer, 20, 1000, SECOND, 2 * SECOND);
    assert_eq!(peer.debt, 0);
}

#[test]
fn what_was_abandoned_longest_ago_by_height_is_forgotten_first() {
    let mut peer = peer(1);
    for n in 1..=MAX_ABANDONED as u64 + 1 {
        peer.abandon(height(n));
    }
    let known = [1, 2, MAX_ABANDONED as u64 + 1].map(|n| peer.has_abandoned(height(n)));
    assert_eq!(known, [false, true, true]);
}

#[test]
fn a_connection_that_lacks_much_is_asked_for_nothing_until_its_next_status() {
    let mut peer = peer(1);
    for n in 1..MAX_LACKS as u64 {
        peer.lack(height(n), height(500), Tick(n));
    }
    assert!(peer.room() > 0);
    assert_eq!(peer.class(), Class::Lacking);
    assert!(
        !peer.is_discredited(),
        "below what is known it may have pruned"
    );
    peer.lack(height(MAX_LACKS as u64), height(500), Tick(1));
    assert_eq!(peer.room(), 0);
    assert!(!peer.has(height(1)) && peer.has(height(100)));
    peer.restate((height(1), height(1000)), 1, height(1), Tick(2));
    assert!(peer.room() > 0 && peer.has(height(1)));
    // One that may owe more may lack twice that.
    let mut ranged = self::peer(8);
    for n in 1..200 {
        ranged.lack(height(n), height(500), Tick(n));
    }
    assert!(ranged.room() > 0);
    ranged.lack(height(200), height(500), Tick(1));
    assert_eq!(ranged.room(), 0);
}

#[test]
fn no_block_above_all_that_is_known_discredits_until_something_new_is_served() {
    let mut peer = peer(1);
    assert_eq!(peer.counted_claim(), Some(height(1000)));
    peer.lack(height(10), height(10), Tick(0));
    assert!(!peer.is_discredited());
    peer.lack(height(11), height(10), Tick(0));
    assert!(peer.is_discredited());
    assert_eq!(peer.counted_claim(), None);
    peer.strike();
    assert!(peer.credit(height(5), 10, Tick(0)), "it had failed before");
    assert!(!peer.credit(height(5), 10, Tick(0)));
    assert!(!peer.is_discredited());
    peer.lack(height(11), height(10), Tick(0));
    peer.credit(height(5), 10, Tick(0));
    assert!(peer.is_discredited(), "that is nothing new");
    peer.credit(height(6), 10, Tick(0));
    assert_eq!(peer.counted_claim(), Some(height(1000)));
}

#[test]
fn the_class_says_how_far_a_connection_is_relied_on() {
    let mut fresh = peer(1);
    assert_eq!(fresh.class(), Class::Fresh);
    answer(&mut fresh, 1, 1000, 0, 10);
    assert_eq!(fresh.class(), Class::Proven);
    fresh.be_patient();
    assert_eq!(fresh.class(), Class::Struck);
    answer(&mut fresh, 2, 1000, 10, 20);
    assert_eq!(
        fresh.class(),
        Class::Proven,
        "an answer ends the patience with it"
    );
    fresh.strike();
    assert_eq!(fresh.class(), Class::Struck);
    fresh.set_unfit(height(1), height(1));
    assert_eq!((fresh.class(), fresh.near_claim()), (Class::Lacking, None));
    fresh.locate(height(2));
    assert!(fresh.near_claim().is_some(), "the first block is past");
    let mut later = peer(1);
    later.restate((height(5), height(9)), 1, height(4), Tick(0));
    assert_eq!(later.class(), Class::Later);
    assert_eq!(
        (later.base_above_us(), later.counted_claim()),
        (Some(height(5)), None)
    );
    later.locate(height(5));
    assert_eq!(
        (later.base_above_us(), later.counted_claim()),
        (None, Some(height(9)))
    );
    assert_eq!(later.near_claim(), Some((height(9), false)));
    // Its range ends on both sides.
    assert_eq!(
        [4, 5, 9, 10].map(|n| later.has(height(n))),
        [false, true, true, false]
    );
    later.owe(height(5), AskId(0));
    assert!(later.has(height(5)) && !later.may_be_asked(height(5)));
}

#[test]
fn the_score_is_the_time_at_which_one_more_block_would_be_there() {
    let mut peer = peer(1);
    let fresh = peer.score(1 << 30);
    assert_eq!(fresh, SECOND, "a fresh peer is taken for a fast one");
    answer(&mut peer, 1, 1000, 0, SECOND / 2);
    // 2000 bytes a second, half a second of latency.
    assert_eq!(peer.score(4000), 2 * SECOND + SECOND / 2);
    peer.owe(height(2), AskId(2));
    assert_eq!(peer.score(4000), 4 * SECOND + SECOND / 2);
}

#[test]
fn blocks_that_it_owes_are_taken_to_be_as_large_as_those_that_it_gave() {
    let mut peer = peer(1);
    answer(&mut peer, 1, 1000, 0, 10);
    peer.note_size(1000, 5000);
    assert_eq!(peer.room(), 5);
    assert_eq!(peer.surplus(400), 0, "it owes nothing");
    for n in 2..=4 {
        peer.owe(height(n), AskId(n));
    }
    assert_eq!(peer.surplus(400), 3 * 600);
    assert_eq!(peer.surplus(1001), 0);
    // A block and its successor at least.
    peer.note_size(6000, 5000);
    assert_eq!(peer.room(), 0);
    peer.settle(height(2));
    peer.settle(height(3));
    assert_eq!(peer.room(), 1);
}

#[test]
fn the_last_usable_peer_has_twice_the_time_each_round() {
    let mut peer = peer(1);
    let times: Vec<u64> = (0..7)
        .map(|_| {
            let time = peer.time_to_answer(10);
            peer.be_patient();
            time
        })
        .collect();
    assert_eq!(times, [10, 20, 40, 80, 160, 160, 160]);
}

#[test]
fn it_is_in_debt_while_it_owes_or_has_answered_nothing_of_what_was_given_up() {
    let mut peer = peer(1);
    assert!(!peer.owes() && !peer.is_in_debt());
    peer.abandon(height(3));
    assert!(!peer.is_in_debt(), "a proof beside the window is no debt");
    peer.owe(height(1), AskId(1));
    assert!(peer.owes() && peer.is_in_debt());
    assert_eq!(peer.ask_for(height(1)), Some(AskId(1)));
    peer.give_up(height(1));
    assert!(!peer.owes() && peer.is_in_debt());
    peer.answer_late(height(1));
    assert!(
        !peer.is_in_debt(),
        "something else was given up, but it is alive"
    );
}

#[test]
fn a_request_that_has_not_left_is_no_debt_and_is_not_made_again_at_once() {
    let mut peer = peer(1);
    peer.owe(height(1), AskId(1));
    assert!(!peer.unask(height(1), AskId(2)), "another one");
    assert!(!peer.unask(height(2), AskId(1)));
    assert!(peer.is_in_debt());
    assert!(peer.unask(height(1), AskId(1)));
    assert!(!peer.is_in_debt() && !peer.may_be_asked(height(1)));
    peer.abandon(height(3));
    assert!(!peer.is_in_debt());
    let mut other = self::peer(1);
    for n in [4, 5] {
        other.owe(height(n), AskId(n));
    }
    other.unask(height(4), AskId(4));
    other.give_up(height(5));
    assert!(other.is_in_debt());
    // With something else to answer it stays in debt.
    for n in [4, 5] {
        peer.owe(height(n), AskId(n));
    }
    peer.unask(height(4), AskId(4));
    peer.give_up(height(5));
    assert!(peer.is_in_debt());
}

#[test]
fn quiet_is_who_has_sent_nothing_for_that_long() {
    let mut peer = peer(1);
    assert_eq!(peer.receive(100, Tick(5)), 100);
    assert_eq!(peer.receive(130, Tick(7)), 30);
    assert_eq!((peer.receive(20, Tick(10)), peer.partial()), (0, 20));
    assert!(!peer.is_quiet(10, Tick(19)) && peer.is_quiet(10, Tick(20)));
    assert_eq!([peer.miss_poll(), peer.miss_poll()], [1, 2]);
    peer.restate((height(1), height(9)), 1, height(1), Tick(0));
    assert_eq!(peer.miss_poll(), 1, "counted anew after a status");
}
