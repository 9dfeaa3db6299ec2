//! The number of heights that a CometBFT peer is asked for at a time. It grows while more requests
//! bring more blocks, and shrinks again where they only make the peer slower.
//!
//! A stock node sends its answers in bursts, one every 100 ms: with a fixed number of requests that
//! number, not the link, decides the rate. Only the rate of whole rounds is compared, since inside
//! a burst every link looks fast.

use super::io::Tick;

/// Rounds at one size before a larger one is tried again. It doubles with each trial in vain.
const REST: u32 = 2;

/// A link that was idle for one such part of a round at a time is not full.
const IDLE: u64 = 8;

/// Most doublings of that rest.
const MAX_FAILURES: u32 = 5;

/// The rate in which rounds are measured: answers in this number of microseconds.
const SCALE: u64 = 1_000_000_000;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
pub(super) struct RequestWindow {
    size: usize,
    /// Where it began, and below which it does not fall.
    least: usize,
    /// When the round under way began; it ends with the first answer to a request that was made
    /// after that.
    round: Option<Tick>,
    answers: u64,
    /// When the last answer came, and the longest time between two in this round.
    last: Tick,
    gap: u64,
    /// The rate before the trial of a larger size that is under way.
    before: Option<u64>,
    /// The best rate at this size.
    steady: u64,
    /// Rounds since the last trial.
    rested: u32,
    failures: u32,
}

impl RequestWindow {
    pub(super) fn new(least: usize) -> Self {
        RequestWindow {
            size: least,
            least,
            round: None,
            answers: 0,
            last: Tick(0),
            gap: 0,
            before: None,
            steady: 0,
            rested: 0,
            failures: 0,
        }
    }

    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// An answer came to a request made at `asked`, while `owed` were open, itself included. The
    /// size never exceeds `share`.
    pub(super) fn answer(&mut self, owed: usize, asked: Tick, now: Tick, share: usize) {
        let share = share.max(self.least);
        self.size = self.size.min(share);
        let Some(begin) = self.round else {
            self.begin_round(now);
            return;
        };
        self.answers += 1;
        self.gap = self.gap.max(now.0.saturating_sub(self.last.0));
        self.last = now;
        if asked <= begin {
            return;
        }
        let took = now.0.saturating_sub(begin.0).max(1);
        let rate = self.answers.saturating_mul(SCALE) / took;
        // Where less was asked for than it may owe, the size has decided nothing.
        if owed * 4 >= self.size * 3 {
            self.end_round(rate, self.gap >= took / IDLE, share);
        } else {
            self.before = None;
        }
        self.begin_round(now);
    }

    fn begin_round(&mut self, now: Tick) {
        (self.round, self.answers) = (Some(now), 0);
        (self.last, self.gap) = (now, 0);
    }

    /// `idles` says that the link stood still for a part of the round: where it never does, more
    /// requests cannot bring more.
    fn end_round(&mut self, rate: u64, idles: bool, share: usize) {
        if let Some(before) = self.before.take() {
            // Twice the requests have to bring a quarter more, or they only wait in the peer's
            // queue.
            if rate >= before / 4 * 5 {
                self.failures = 0;
                self.steady = rate;
                self.try_larger(rate, share);
            } else {
                self.size = (self.size / 2).max(self.least);
                self.failures = (self.failures + 1).min(MAX_FAILURES);
                self.rested = 0;
            }
            return;
        }
        if rate < self.steady / 2 {
            // It has become slower: what is asked of it would only wait with it.
            self.size = (self.size / 2).max(self.least);
            (self.steady, self.rested) = (rate, 0);
            return;
        }
        self.steady = self.steady.max(rate);
        self.rested += 1;
        if idles && self.rested >= REST << self.failures {
            self.try_larger(rate, share);
        }
    }

    fn try_larger(&mut self, rate: u64, share: usize) {
        self.rested = 0;
        let larger = (self.size * 2).min(share);
        if larger > self.size {
            (self.size, self.before) = (larger, Some(rate));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs rounds against a peer that gives `rate(size)` answers a second, each round 100 ms long.
    fn rounds(window: &mut RequestWindow, now: &mut u64, n: usize, rate: impl Fn(usize) -> usize) {
        for _ in 0..n {
            let (begin, answers) = (*now, rate(window.size()) / 10);
            *now += 100_000;
            for answer in 0..answers.max(1) {
                // The last one was asked for after the round began.
                let late = answer + 1 == answers.max(1);
                let asked = Tick(if late { begin + 1 } else { begin });
                window.answer(window.size(), asked, Tick(*now), 512);
            }
        }
    }

    #[test]
    fn it_grows_while_more_brings_more_and_no_further() {
        let (mut window, mut now) = (RequestWindow::new(20), 0);
        rounds(&mut window, &mut now, 40, |size| size * 10);
        assert_eq!(window.size(), 512);
        let (mut window, mut now) = (RequestWindow::new(20), 0);
        for _ in 0..200 {
            rounds(&mut window, &mut now, 1, |size| (size * 10).min(600));
            assert!(
                window.size() <= 160,
                "a peer that gives no more than 60 in 100 ms"
            );
        }
        assert!(window.size() >= 40);
    }

    #[test]
    fn it_shrinks_when_the_peer_becomes_slower() {
        let (mut window, mut now) = (RequestWindow::new(20), 0);
        rounds(&mut window, &mut now, 40, |size| size * 10);
        rounds(&mut window, &mut now, 4, |_| 100);
        assert!(window.size() < 512, "{}", window.size());
    }

    #[test]
    fn its_share_bounds_it() {
        let mut window = RequestWindow::new(20);
        rounds(&mut window, &mut 0, 40, |size| size * 10);
        window.answer(1, Tick(0), Tick(u64::MAX), 30);
        assert_eq!(window.size(), 30);
    }

    /// A window of 20 that has rested for one round.
    fn after_a_round() -> RequestWindow {
        let mut window = RequestWindow::new(20);
        rounds(&mut window, &mut 0, 2, |_| 200);
        window
    }

    /// One round of 100 ms from `begin` on, with answers at these times after that.
    fn round(window: &mut RequestWindow, owed: usize, times: &[u64], share: usize) {
        let begin = window.round.expect("a round is under way").0;
        let (last, others) = times.split_last().expect("an answer");
        for time in others {
            window.answer(owed, Tick(begin), Tick(begin + time), share);
        }
        window.answer(owed, Tick(begin + 1), Tick(begin + last), share);
    }

    #[test]
    fn a_round_ends_with_an_answer_to_what_was_asked_after_it_began() {
        let mut window = RequestWindow::new(20);
        window.answer(1, Tick(0), Tick(1000), 512);
        window.answer(1, Tick(1000), Tick(2000), 512);
        assert_eq!((window.round, window.answers), (Some(Tick(1000)), 1));
        window.answer(1, Tick(1001), Tick(3000), 512);
        assert_eq!(
            (window.round, window.answers, window.gap),
            (Some(Tick(3000)), 0, 0)
        );
    }

    #[test]
    fn a_link_that_never_stands_still_is_full() {
        // 800 us, with a pause of an eighth of that, or less.
        for (times, size) in [([700, 800], 40), ([701, 800], 40), ([99, 800], 40)] {
            let mut window = after_a_round();
            for _ in 1..REST {
                round(&mut window, 20, &times, 512);
            }
            assert_eq!(window.size(), size, "{times:?}");
        }
        let steady: Vec<u64> = (1..=10).map(|n| n * 80).collect();
        let mut window = after_a_round();
        for _ in 0..4 * REST {
            round(&mut window, 20, &steady, 512);
        }
        assert_eq!(window.size(), 20);
    }

    #[test]
    fn the_size_decides_nothing_where_less_is_owed() {
        for (owed, size) in [(15, 40), (14, 20)] {
            let mut window = after_a_round();
            for _ in 1..REST {
                round(&mut window, owed, &[800], 512);
            }
            assert_eq!(window.size(), size, "{owed} owed");
        }
        // A trial that was under way has shown nothing either.
        let mut window = after_a_round();
        (1..REST).for_each(|_| round(&mut window, 20, &[800], 512));
        assert!(window.before.is_some());
        round(&mut window, 1, &[800], 512);
        assert_eq!((window.size(), window.before), (40, None));
    }

    #[test]
    fn a_trial_has_to_bring_a_quarter_more() {
        for (answers, size, failures) in [(5, 80, 0), (4, 20, 1)] {
            let mut window = after_a_round();
            (1..REST).for_each(|_| round(&mut window, 20, &[200, 400, 600, 800], 512));
            assert_eq!(window.size(), 40);
            let times: Vec<u64> = (0..answers).map(|n| 800 - n).rev().collect();
            round(&mut window, 40, &times, 512);
            assert_eq!((window.size(), window.failures), (size, failures));
        }
    }

    #[test]
    fn after_each_trial_in_vain_the_next_one_waits_twice_as_long() {
        let mut window = after_a_round();
        let mut waits = Vec::new();
        for _ in 0..8 {
            let mut wait = 0;
            while window.size() == 20 {
                round(&mut window, 20, &[400, 800], 512);
                wait += 1;
            }
            waits.push(wait);
            round(&mut window, 40, &[400, 800], 512);
        }
        // The first of these rounds has passed before.
        assert_eq!(waits, [REST - 1, 4, 8, 16, 32, 64, 64, 64]);
    }

    #[test]
    fn a_rate_below_half_of_the_best_halves_the_size() {
        let mut window = after_a_round();
        (1..REST).for_each(|_| round(&mut window, 20, &[200, 400, 600, 800], 512));
        let faster: Vec<u64> = (1..=8).map(|n| n * 100).collect();
        round(&mut window, 40, &faster, 40);
        assert_eq!(
            (window.size(), window.before),
            (40, None),
            "its share ends it"
        );
        round(&mut window, 40, &[200, 400, 600, 800], 40);
        assert_eq!(window.size(), 40, "half is not below half");
        round(&mut window, 40, &[200, 400, 800], 40);
        assert_eq!(window.size(), 20);
        assert_eq!((window.rested, window.steady), (0, 3 * SCALE / 800));
    }

    #[test]
    fn the_size_is_halved_and_not_put_back_to_the_least() {
        let mut window = after_a_round();
        (1..REST).for_each(|_| round(&mut window, 20, &[200, 400, 600, 800], 512));
        for (owed, answers) in [(40, 8), (80, 16)] {
            let times: Vec<u64> = (0..answers).map(|n| 800 - n).rev().collect();
            round(&mut window, owed, &times, 80);
        }
        assert_eq!((window.size(), window.before), (80, None));
        round(&mut window, 80, &[400, 800], 80);
        assert_eq!(window.size(), 40);
    }
}
