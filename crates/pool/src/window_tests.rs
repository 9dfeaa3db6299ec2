//! Tests of the heights of the window and of their copies, by the doors of their owners.

use super::io::{Candidate, Meta, Tick};
use super::prover::{Prover, Run};
use super::slot::{Slot, Stage};
use super::tests::id;
use super::window::Window;
use blocksync_types::ids::{BlockId, ConnId, Height, PeerId, Source};

fn height(n: u64) -> Height {
    Height::new(n)
}

fn source(conn: u64) -> Source {
    Source {
        peer: PeerId([1; 20]),
        conn: ConnId(conn),
    }
}

/// The true block of a height, as this connection gave it.
fn copy(n: u64, conn: u64) -> Candidate<()> {
    let meta = Meta {
        height: height(n),
        id: id(n),
        parent: if n == 1 { BlockId::ZERO } else { id(n - 1) },
        bytes: 100,
        has_own_commit: false,
    };
    let (from, block) = (source(conn), ());
    Candidate { meta, from, block }
}

/// A window from 1 up, of that many heights, of which the first `held` are held.
fn window(heights: u32, held: u64) -> Window<()> {
    let mut window = Window::new(Height::ZERO, height(1));
    window.grow(height(1 << 40), heights);
    for n in 1..=held {
        window.update(height(n), |slot| slot.hold(copy(n, n)));
    }
    window.check(heights);
    window
}

/// Proves the first heights.
fn prove(window: &mut Window<()>, last: u64) {
    for n in 1..=last {
        window.update(height(n), |slot| slot.certify(id(n)));
        let moved = window.advance().map(|(meta, from)| (meta.height, from));
        assert_eq!(moved, Some((height(n), ConnId(n))));
    }
}

fn run(from: u64, to: u64) -> Run {
    let (from, to) = (height(from), height(to));
    let mut prover = Prover::default();
    prover
        .begin((from, to), (to.next(), source(1)), Height::ZERO, Tick(0))
        .clone()
}

fn letters(window: &Window<()>) -> String {
    window.heights().map(|(_, slot)| slot.letter()).collect()
}

#[test]
fn a_window_never_opens_below_the_chains_first_height() {
    let mut window = Window::<()>::new(Height::ZERO, height(100));
    assert_eq!((window.applied(), window.next()), (height(99), height(100)));
    assert_eq!(
        (window.frontier(), window.end()),
        (height(100), height(100))
    );
    window.grow(height(101), 10);
    assert_eq!(
        (window.end(), letters(&window).as_str()),
        (height(102), "..")
    );
    window.grow(height(500), 10);
    assert_eq!(window.end(), height(110), "no more than its bound");
    assert_eq!(window.lowest_two(), [height(100), height(101)]);
    assert!(window.is_lowest_two(height(101)) && !window.is_lowest_two(height(102)));
    assert!(window.slot(height(99)).is_none() && window.slot(height(110)).is_none());
    assert_eq!(window.clear(), []);
    window.restart(height(3));
    assert_eq!(window.next(), height(100));
    window.restart(height(200));
    assert_eq!((window.next(), window.proven()), (height(201), height(200)));
}

#[test]
fn sums_and_sets_follow_the_slots() {
    let mut window = window(6, 3);
    assert_eq!((window.held_bytes(), window.applying()), (300, 0));
    assert_eq!(
        (window.needed(), window.first_wanted()),
        (height(4), Some(height(4)))
    );
    assert!(window.is_missing(height(4)) && !window.is_missing(height(3)));
    assert!(!window.is_missing(height(7)), "outside");
    window.set_unservable(height(4));
    window.set_unservable(height(6));
    window.set_unservable(height(3));
    assert_eq!(window.first_wanted(), Some(height(5)));
    assert_eq!(window.first_unservable(), Some(height(4)));
    assert!(
        window
            .unservable(height(1), height(6))
            .eq([4, 6].map(height))
    );
    assert!(window.unservable(height(5), height(5)).eq([]));
    window.set_wanted(height(4));
    window.set_wanted(height(3));
    assert_eq!(window.first_wanted(), Some(height(4)));
    window.check(6);
    prove(&mut window, 2);
    let jobs = window.begin_applying(height(1));
    assert_eq!((jobs.len(), window.applying()), (1, 1));
    let jobs = window.begin_applying(height(2));
    assert_eq!((jobs[0].meta.height, window.applying()), (height(2), 2));
    assert_eq!(window.begin_applying(height(2)).len(), 0, "it has them");
    assert_eq!(letters(&window), "aah...");
    window.check(6);
    assert_eq!(window.pop_applied(), []);
    assert_eq!((window.applied(), window.proven()), (height(1), height(2)));
    assert_eq!((window.held_bytes(), window.applying()), (200, 1));
    window.unprove();
    assert_eq!((window.proven(), window.proven_id()), (height(1), None));
    assert_eq!(letters(&window), "hh...");
    assert_eq!(window.applying(), 0);
    window.check(6);
}

#[test]
fn what_consensus_applied_is_proven_by_that() {
    let mut window = window(3, 1);
    window.update(height(2), |slot| slot.open_ask(super::AskId(7)));
    assert_eq!(window.pop_applied(), []);
    assert_eq!(
        (window.proven(), window.proven_id()),
        (height(1), Some(id(1)))
    );
    assert_eq!(window.pop_applied(), [super::AskId(7)], "still open");
    assert_eq!((window.proven(), window.proven_id()), (height(2), None));
    window.check(3);
    window.update(height(3), |slot| slot.open_ask(super::AskId(8)));
    assert_eq!(window.clear(), [(height(3), super::AskId(8))]);
    assert_eq!((window.held_bytes(), window.end()), (0, height(3)));
}

#[test]
fn a_run_takes_and_gives_back_those_of_its_heights_that_are_there() {
    let mut window = window(4, 3);
    window.begin_verifying(&run(1, 2));
    assert_eq!(letters(&window), "vvh.");
    window.pop_applied();
    window.end_verifying(&run(1, 2));
    assert_eq!(letters(&window), "hh.");
    window.begin_verifying(&run(3, 9));
    assert_eq!(letters(&window), "hv.", "only those that are held");
    window.end_verifying(&run(1, 1));
    assert_eq!(letters(&window), "hv.");
    window.end_verifying(&run(3, 3));
    assert_eq!(letters(&window), "hh.");
}

#[test]
fn the_frontier_moves_only_to_the_certified_copy_that_names_the_one_below() {
    let mut window = window(3, 2);
    assert!(window.advance().is_none(), "nothing is certified");
    prove(&mut window, 1);
    let mut other = copy(2, 9);
    other.meta.parent = id(77);
    other.meta.id = id(78);
    window.update(height(2), |slot| {
        slot.hold(other);
        slot.certify(id(78));
    });
    assert!(window.advance().is_none(), "it names another one");
    window.update(height(2), |slot| slot.certify(id(2)));
    assert!(window.advance().is_some());
    assert_eq!(window.copies(height(2)).len(), 1, "the other one is let go");
    assert_eq!(
        (window.proven(), window.proven_id()),
        (height(2), Some(id(2)))
    );
}

#[test]
fn a_copy_with_its_own_commit_takes_the_place_of_the_same_without() {
    let mut slot = Slot::new();
    slot.hold(copy(1, 1));
    let mut with_commit = copy(1, 2);
    with_commit.meta.has_own_commit = true;
    slot.hold(with_commit);
    let suppliers: Vec<ConnId> = slot.copies().iter().map(|c| c.from.conn).collect();
    assert_eq!((suppliers, slot.bytes()), (vec![ConnId(2)], 100));
    let mut other = copy(1, 3);
    other.meta.id = id(9);
    slot.hold(other);
    assert_eq!((slot.copies().len(), slot.bytes()), (2, 200));
    assert_eq!(slot.remove_copies(|c| c.from.conn == ConnId(3)).len(), 1);
    assert_eq!(slot.certified(), None);
    slot.certify(id(1));
    assert_eq!(slot.certified(), Some(id(1)));
    assert!(slot.prove(None).is_some() && slot.is_proven());
    slot.hold(copy(1, 4));
    assert_eq!(slot.copies().len(), 1, "a proven one needs no other");
    assert_eq!(slot.remove_copies(|_| true).len(), 0, "and stays");
    let mut jobs = Vec::new();
    slot.begin_applying(&mut jobs);
    slot.begin_applying(&mut jobs);
    assert_eq!((jobs.len(), slot.letter()), (1, 'a'));
    slot.unprove();
    assert!(matches!(slot.stage(), Stage::Held(_)) && !slot.is_applying());
}

#[test]
fn a_slot_remembers_whose_copies_were_of_no_use() {
    let mut slot = Slot::<()>::new();
    assert!(!slot.refuses_any());
    for conn in [1, 1, 2].into_iter().chain(3..30) {
        slot.refuse(ConnId(conn));
    }
    assert!(slot.refuses_any());
    let refused = [1, 2, 16, 17, 0].map(|conn| slot.refuses(ConnId(conn)));
    assert_eq!(refused, [true, true, true, false, false]);
    slot.hold(copy(1, 1));
    assert_eq!(slot.set_unfit(id(1), "first".into()).len(), 1);
    assert_eq!(slot.letter(), '.');
    slot.hold(copy(1, 1));
    assert_eq!(slot.set_unfit(id(9), "other".into()).len(), 0);
    assert_eq!(slot.unfit(), Some(&(id(1), "first".into())));
    assert!(!slot.is_not_canonical());
    slot.set_not_canonical();
    assert!(slot.is_not_canonical());
    slot.remove_copies(|_| true);
    slot.open_ask(super::AskId(4));
    assert_eq!(
        (slot.letter(), slot.is_idle(), slot.is_missing()),
        ('?', false, true)
    );
    slot.close_ask(super::AskId(5));
    assert_eq!(slot.asks(), [super::AskId(4)]);
    slot.close_ask(super::AskId(4));
    assert!(slot.is_idle());
}

#[test]
fn a_connection_is_refused_for_the_height_of_its_copy_alone() {
    let mut window = window(3, 0);
    let conn = ConnId(7);
    window.update(height(2), |slot| slot.refuse(conn));
    let refuses = |n: u64, conn: ConnId| window.refuses(height(n), conn);
    assert!(refuses(2, conn));
    assert!(!refuses(2, ConnId(8)) && !refuses(1, conn) && !refuses(9, conn));
}

#[test]
fn a_window_closes_from_its_end_down_to_what_is_proven_or_about_to_be() {
    let asks = |asks: Vec<(Height, super::AskId)>| -> Vec<(u64, u64)> {
        asks.into_iter().map(|(h, ask)| (h.get(), ask.0)).collect()
    };
    let mut window = window(9, 6);
    window.update(height(7), |slot| slot.open_ask(super::AskId(4)));
    window.set_unservable(height(8));
    assert_eq!(asks(window.shrink(height(9))), []);
    assert_eq!(letters(&window), "hhhhhh?..");
    assert_eq!(asks(window.shrink(height(5))), [(7, 4)]);
    assert_eq!(
        (letters(&window).as_str(), window.held_bytes()),
        ("hhhhh", 500)
    );
    assert_eq!(
        (window.first_missing(), window.first_unservable()),
        (None, None)
    );
    window.check(9);
    // One with the verifier, one whose id is certified, one that is proven.
    window.begin_verifying(&run(4, 4));
    window.shrink(height(1));
    assert_eq!(letters(&window), "hhhv");
    window.end_verifying(&run(4, 4));
    window.update(height(3), |slot| slot.certify(id(3)));
    window.shrink(height(1));
    assert_eq!(letters(&window), "hhh");
    let mut window = self::window(4, 4);
    prove(&mut window, 2);
    window.shrink(height(1));
    assert_eq!(letters(&window), "pp");
    window.check(4);
}
