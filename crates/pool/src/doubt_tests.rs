//! Tests of claims that have ended: what came because of them goes, what stays, and how they begin
//! anew.

use super::tests::{TestPool, block_of, feed_at, id};
use super::*;
use blocksync_types::ids::{BlockId, PeerId};

const SECOND: u64 = 1_000_000;
const QUARTER: usize = SECOND as usize / 4;

/// It stands where we are.
const STANDS: ConnId = ConnId(0);
/// Its claim ends.
const CLAIMS: ConnId = ConnId(1);
/// A third one, with a claim of its own.
const OTHER: ConnId = ConnId(2);

fn up(pool: &mut TestPool, conn: ConnId, height: u64, now: u64) -> Vec<Effect<()>> {
    let peer = PeerId([1 + conn.0 as u8; 20]);
    let mut out = feed_at(pool, now, Input::Up { conn, peer });
    out.extend(told(pool, conn, height, now));
    out
}

fn told(pool: &mut TestPool, conn: ConnId, height: u64, now: u64) -> Vec<Effect<()>> {
    let status = Input::Status {
        conn,
        base: Height::new(1),
        height: Height::new(height),
        max_range: 1,
    };
    feed_at(pool, now, status)
}

/// A block of this height in a chain of its own, which nothing links to ours.
fn made_up(conn: ConnId, height: u64) -> Input<()> {
    let other = |height: u64| id(1 << 32 | height);
    let Input::Block {
        mut meta, block, ..
    } = block_of(conn, height, 100)
    else {
        unreachable!("it is a block");
    };
    (meta.id, meta.parent) = (other(height), other(height - 1));
    Input::Block { conn, meta, block }
}

/// The requests with their times, the outcomes, and the connections that were dropped.
#[derive(Default)]
struct Log {
    asked: Vec<(u64, ConnId, u64)>,
    said: Vec<Outcome>,
    dropped: Vec<ConnId>,
}

impl Log {
    /// The heights that a connection was asked for from a time on.
    fn asked_of(&self, of: ConnId, from: u64) -> Vec<u64> {
        let asked = self.asked.iter();
        let these = asked.filter(|(at, conn, _)| *conn == of && *at >= from);
        these.map(|(.., height)| *height).collect()
    }
}

/// Runs a pool at 5 to a time, a quarter of a second a step. `answer` gives the answer to each
/// request at once, or none; the verifier and the executor say yes to every true block.
fn run(
    pool: &mut TestPool,
    mut out: Vec<Effect<()>>,
    (from, to): (u64, u64),
    answer: impl Fn(ConnId, u64) -> Option<Input<()>>,
) -> Log {
    let mut log = Log::default();
    for now in (from..=to).step_by(QUARTER) {
        out.extend(feed_at(pool, now, Input::Tick));
        while !out.is_empty() {
            let mut inputs = Vec::new();
            for effect in std::mem::take(&mut out) {
                match effect {
                    Effect::Ask {
                        conn, from, count, ..
                    } => {
                        for height in from.get()..from.get() + u64::from(count) {
                            log.asked.push((now, conn, height));
                            assert!(log.asked.len() < 500, "it goes on for ever");
                            inputs.extend(answer(conn, height));
                        }
                    }
                    Effect::Verify { run, blocks, .. } => inputs.push(yes(run, &blocks)),
                    Effect::Apply { blocks, .. } => inputs.extend(blocks.last().map(|last| {
                        let through = last.meta.height;
                        Input::Applied { through }
                    })),
                    Effect::Outcome(outcome) => log.said.push(outcome),
                    Effect::Drop { conn, .. } => log.dropped.push(conn),
                    _ => {}
                }
            }
            for input in inputs {
                out.extend(feed_at(pool, now, input));
            }
        }
    }
    log
}

fn yes(run: RunId, blocks: &[Candidate<()>]) -> Input<()> {
    let last = blocks.last().map(|copy| copy.meta);
    let certified: Option<(Height, BlockId)> = last.map(|meta| (meta.height, meta.id));
    let verdict = Verdict {
        certified,
        ..Verdict::default()
    };
    Input::Verdict { run, verdict }
}

/// A pool at 5 with somebody who is there, too.
fn at_five(config: PoolConfig) -> TestPool {
    let mut pool = TestPool::new(config, Height::new(5), Height::new(1), Tick(0));
    up(&mut pool, STANDS, 5, 0);
    pool
}

/// Nobody is dropped for what he owes, and we come to stand after the settle time.
fn patient() -> PoolConfig {
    PoolConfig {
        statuses: 9,
        request_timeout: 1000 * SECOND,
        ..PoolConfig::default()
    }
}

/// When a claim that was there before we came to stand, and of which nothing comes, has ended.
fn ended() -> u64 {
    let config = PoolConfig::default();
    config.settle + config.claim_patience
}

/// The heights of which copies are held.
fn held(pool: &TestPool) -> Vec<u64> {
    let held = pool.window().filter(|(_, letter)| *letter == 'h');
    held.map(|(height, _)| height.get()).collect()
}

fn caught_up(height: u64) -> Outcome {
    let height = Height::new(height);
    Outcome::CaughtUp { height }
}

/// Serves heights from 7 up, so that nothing is judged: made up by one, true by another.
fn from_seven(conn: ConnId, height: u64) -> Option<Input<()>> {
    let made = if conn == CLAIMS {
        made_up(conn, height)
    } else {
        block_of(conn, height, 100)
    };
    (height >= 7).then_some(made)
}

#[test]
fn copies_go_and_requests_are_given_up_when_the_claim_ends() {
    let mut pool = at_five(patient());
    let out = up(&mut pool, CLAIMS, 30, 0);
    let log = run(&mut pool, out, (0, ended() - 1), |conn, height| {
        from_seven(conn, height).filter(|_| height <= 20)
    });
    assert_eq!(log.said, []);
    assert_eq!(held(&pool), (7..=20).collect::<Vec<_>>());
    assert_eq!(pool.buffered_bytes(), 1400);
    let log = run(&mut pool, Vec::new(), (ended(), 10 * ended()), from_seven);
    assert_eq!(log.said, [caught_up(5)]);
    // One of the two lowest heights waits for the other, and is judged then.
    assert_eq!((held(&pool), pool.buffered_bytes()), (vec![7], 100));
    assert_eq!(
        log.asked_of(CLAIMS, 0),
        Vec::<u64>::new(),
        "nor are they asked for again"
    );
    assert_eq!(pool.owed(), 1, "6, by which it may be proven");
    assert_eq!(log.dropped, [], "it is slow, perhaps, and no liar");
    // An answer that was given up is no fault, and is not held.
    feed_at(&mut pool, 10 * ended(), made_up(CLAIMS, 21));
    assert!(pool.peers.contains(CLAIMS) && held(&pool) == [7]);
}

#[test]
fn copies_stay_that_a_claim_covers_which_stands() {
    let mut pool = at_five(patient());
    let mut out = up(&mut pool, CLAIMS, 30, 0);
    out.extend(up(&mut pool, OTHER, 20, 0));
    run(&mut pool, out, (0, ended() - 1), |conn, height| {
        from_seven(conn, height).filter(|_| conn == CLAIMS)
    });
    let before = held(&pool);
    assert!(before.contains(&7) && before.contains(&30), "{before:?}");
    // Bytes come from one of them at the floor rate.
    let bytes = 10 * PoolConfig::default().floor_rate as u32;
    let conn = OTHER;
    feed_at(&mut pool, ended() - 1, Input::Receiving { conn, bytes });
    let log = run(
        &mut pool,
        Vec::new(),
        (ended(), ended() + SECOND),
        |_, _| None,
    );
    assert_eq!(log.said, [], "a claim is open");
    assert_eq!(pool.doubted_claims().len(), 1);
    let covered: Vec<u64> = before.into_iter().filter(|height| *height <= 20).collect();
    assert_eq!(held(&pool), covered);
    // In the end that one is doubted, too.
    let log = run(&mut pool, Vec::new(), (2 * ended(), 3 * ended()), |_, _| {
        None
    });
    assert_eq!((log.said, held(&pool)), (vec![caught_up(5)], vec![7]));
}

/// It was slow, and comes back: two blocks show that, and then it is asked for everything that it
/// claims. When it is silent again its claim ends again, and that is all.
#[test]
fn a_claim_begins_anew_with_a_block_that_is_proven() {
    let mut pool = at_five(patient());
    let out = up(&mut pool, CLAIMS, 60, 0);
    run(&mut pool, out, (0, ended()), |_, _| None);
    assert_eq!(pool.owed(), 2);
    let (back, patience) = (2 * ended(), PoolConfig::default().claim_patience);
    for height in 6..=7 {
        feed_at(&mut pool, back, block_of(CLAIMS, height, 100));
    }
    let Some((from, to, _)) = pool.prover.under_way(Tick(back)) else {
        panic!("6 is with the verifier");
    };
    assert_eq!((from, to), (Height::new(6), Height::new(6)));
    let verdict = Verdict {
        certified: Some((to, id(6))),
        ..Verdict::default()
    };
    let judged = Input::Verdict {
        run: RunId(0),
        verdict,
    };
    let out = feed_at(&mut pool, back, judged);
    // True blocks from 9 up: 8 is missing, so nothing more is proven.
    let answer = |conn, height: u64| (height >= 9).then(|| block_of(conn, height, 100));
    // Somebody stands there, too: so doubts are not void.
    told(&mut pool, STANDS, 6, back);
    let log = run(&mut pool, out, (back, back + patience - 1), answer);
    let mut asked = log.asked_of(CLAIMS, back);
    asked.sort_unstable();
    assert_eq!(asked, (8..=60).collect::<Vec<_>>(), "each once");
    assert!(held(&pool).contains(&60));
    let log = run(
        &mut pool,
        Vec::new(),
        (back + patience, 9 * ended()),
        answer,
    );
    assert_eq!(
        log.asked_of(CLAIMS, 0),
        Vec::<u64>::new(),
        "it does not go on for ever"
    );
    assert!(
        held(&pool).iter().all(|height| *height <= 8),
        "{:?}",
        held(&pool)
    );
}

/// Everything said that we had caught up when it came.
#[test]
fn one_that_comes_late_is_asked_for_two_blocks_and_then_for_all() {
    let mut pool = at_five(patient());
    let log = run(&mut pool, Vec::new(), (0, ended()), |_, _| None);
    assert_eq!(log.said, [caught_up(5)]);
    let out = up(&mut pool, CLAIMS, 40, ended());
    let log = run(&mut pool, out, (ended(), 2 * ended()), |_, _| None);
    assert_eq!(log.asked_of(CLAIMS, 0), [6, 7]);
    let out = [6, 7].map(|height| feed_at(&mut pool, 2 * ended(), block_of(CLAIMS, height, 100)));
    let log = run(
        &mut pool,
        out.into_iter().flatten().collect(),
        (2 * ended(), 2 * ended()),
        |conn, height| Some(block_of(conn, height, 100)),
    );
    assert_eq!(log.asked_of(CLAIMS, 0).len(), 33, "8 to 40, each once");
    assert_eq!(pool.applied(), Height::new(39));
    assert_eq!(pool.doubted_claims(), []);
}

#[test]
fn a_late_claim_below_one_that_stands_is_asked_for_what_that_covers() {
    let mut pool = at_five(patient());
    up(&mut pool, OTHER, 30, 0);
    run(&mut pool, Vec::new(), (0, ended() - 2 * SECOND), |_, _| {
        None
    });
    // It is late, and claims less than what is open: the window reaches as far as before.
    let now = ended() - SECOND;
    let out = up(&mut pool, CLAIMS, 20, now);
    let log = run(&mut pool, out, (now, now), |_, _| None);
    assert!(
        log.asked_of(CLAIMS, 0)
            .iter()
            .all(|height| (6..=20).contains(height))
    );
    assert_eq!(pool.window.end(), Height::new(31));
    assert_eq!(pool.doubted_claims(), [], "not before it is the highest");
    let log = run(&mut pool, Vec::new(), (ended(), ended()), |_, _| None);
    assert_eq!(log.said, [caught_up(5)]);
    assert_eq!(pool.window.end(), Height::new(8));
}

/// The one whose claim ends has room again for what another one could not give.
#[test]
fn room_that_is_free_again_is_used_at_once() {
    let config = PoolConfig {
        asks_per_peer: 2,
        asks_per_peer_max: 2,
        ..patient()
    };
    let mut pool = at_five(config);
    let mut out = up(&mut pool, OTHER, 20, 0);
    out.extend(up(&mut pool, CLAIMS, 30, 0));
    run(&mut pool, out, (0, SECOND), |conn, height| {
        from_seven(conn, height).filter(|_| conn == CLAIMS && height <= 20)
    });
    let (conn, height) = (OTHER, Height::new(7));
    feed_at(&mut pool, SECOND, Input::NoBlock { conn, height });
    assert_eq!(held(&pool).first(), Some(&8));
    assert_eq!(pool.owed(), 4, "6 twice, 21 and 22");
    let log = run(&mut pool, Vec::new(), (2 * SECOND, ended()), |_, _| None);
    assert_eq!(log.asked_of(CLAIMS, ended()), [7]);
    assert_eq!(log.asked_of(CLAIMS, 0).len(), 1, "and not before");
}

/// The next height is no more than we have, and what comes while somebody else has the store, or
/// after we have not stood for a while, is not late.
#[test]
fn one_that_is_not_late_is_asked_for_everything() {
    let (config, height) = (patient(), 5);
    let patience = config.claim_patience;
    let mut pool = at_five(config.clone());
    run(&mut pool, Vec::new(), (0, ended()), |_, _| None);
    up(&mut pool, OTHER, 6, ended());
    assert_eq!(pool.peers.doubted().count(), 0);
    feed_at(&mut pool, ended(), Input::Pause);
    up(&mut pool, CLAIMS, 40, ended());
    let applied = Height::new(height);
    feed_at(&mut pool, ended(), Input::Resume { applied });
    assert_eq!(pool.peers.doubted().count(), 0);
    assert_eq!(pool.window.end(), Height::new(41));
    let mut pool = at_five(config);
    run(&mut pool, Vec::new(), (0, ended()), |_, _| None);
    up(&mut pool, OTHER, 3, ended());
    // Nobody is where we are any more.
    told(&mut pool, STANDS, 3, ended());
    told(&mut pool, OTHER, 40, ended() + patience);
    assert_eq!(pool.peers.doubted().count(), 0);
    assert_eq!(pool.window.end(), Height::new(41));
}

/// It delivers well, but nothing of it was proven, and it claims more when we have caught up: no
/// request is made that is given up by the same input.
#[test]
fn nothing_is_asked_for_in_vain_because_of_a_late_claim() {
    let mut pool = at_five(patient());
    let out = up(&mut pool, OTHER, 30, 0);
    run(&mut pool, out, (0, 0), from_seven);
    told(&mut pool, OTHER, 5, SECOND);
    let log = run(&mut pool, Vec::new(), (SECOND, ended()), |_, _| None);
    assert_eq!((log.said, held(&pool)), (vec![caught_up(5)], vec![]));
    let out = told(&mut pool, OTHER, 60, ended());
    let asks = |e: &&Effect<()>| matches!(e, Effect::Ask { from, .. } if from.get() > 7);
    assert_eq!(out.iter().find(asks), None);
    assert!(!out.iter().any(|e| matches!(e, Effect::Cancel { .. })));
    assert_eq!(pool.doubted_claims().len(), 1);
}

/// How far claims lie above the next height that are asked for no proof.
const NEAR: [u64; 3] = [2, 30, 64];

/// A claim that is near is open for as long as any other one, and named when it is doubted.
#[test]
fn a_near_claim_of_which_nothing_comes_postpones_it_for_as_long_as_a_far_one() {
    let far = u64::from(PoolConfig::default().prove_claims_above) + 1;
    for above in NEAR.into_iter().chain([far]) {
        let mut pool = at_five(patient());
        let out = up(&mut pool, CLAIMS, 6 + above, 0);
        let log = run(&mut pool, out, (0, ended() - 1), |_, _| None);
        assert_eq!(log.said, [], "{above} above");
        let proofs = log.asked_of(CLAIMS, 0).contains(&(6 + above));
        assert_eq!(proofs, above == far, "{above} above");
        let log = run(&mut pool, Vec::new(), (ended(), ended()), |_, _| None);
        assert_eq!(log.said, [caught_up(5)], "{above} above");
        let named = (PeerId([2; 20]), Height::new(6 + above));
        assert_eq!(pool.doubted_claims(), [named]);
    }
}

/// It is proven by its blocks as they come, be it with pauses: each gives it its time anew.
#[test]
fn a_near_claim_is_proven_by_its_blocks_before_it_is_doubted() {
    let pause = 9 * SECOND;
    for above in NEAR {
        let mut pool = at_five(patient());
        let mut out = up(&mut pool, CLAIMS, 6 + above, 0);
        let mut now = 0;
        for height in 6..=6 + above {
            let log = run(&mut pool, out, (now, now + pause), |_, _| None);
            assert_eq!(log.said, [], "{above} above, before block {height}");
            now += pause;
            out = feed_at(&mut pool, now, block_of(CLAIMS, height, 100));
        }
        let log = run(&mut pool, out, (now, now + SECOND), |_, _| None);
        assert_eq!(log.said, [caught_up(5 + above)], "{above} above");
        assert_eq!(pool.doubted_claims(), []);
    }
}

/// Bytes of its first block come at the floor rate, for as long as that is borne.
#[test]
fn a_near_claim_is_open_while_its_blocks_are_on_their_way() {
    let config = PoolConfig::default();
    let most = config.settle + config.delivery_patience;
    for above in NEAR {
        let mut pool = at_five(patient());
        let mut out = up(&mut pool, CLAIMS, 6 + above, 0);
        let mut said = Vec::new();
        for second in 0..most / SECOND + 2 {
            let now = second * SECOND;
            let (conn, bytes) = (CLAIMS, (second * config.floor_rate) as u32);
            out.extend(feed_at(&mut pool, now, Input::Receiving { conn, bytes }));
            let log = run(&mut pool, std::mem::take(&mut out), (now, now), |_, _| None);
            // That nothing is applied meanwhile is a stall, and is said.
            let said_now = log.said.into_iter().filter(|o| *o == caught_up(5));
            said.extend(said_now.map(|outcome| (now, outcome)));
        }
        assert_eq!(said, [(most, caught_up(5))], "{above} above");
    }
}
