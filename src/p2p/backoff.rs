//! How long to wait before the next attempt.

use std::time::Duration;

/// Doubling from `least` to `most`, each with up to half as much again at random, so that many
/// nodes do not come back as one.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    least: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    /// From `least` to `most`.
    #[must_use]
    pub(crate) fn new(least: Duration, most: Duration) -> Self {
        Backoff {
            least,
            most: most.max(least),
            next: least,
        }
    }

    /// Notes how long a connection has stood. One that stood long enough begins a new series.
    pub(crate) fn stood(&mut self, period: Duration) {
        if period >= self.least.saturating_mul(20) {
            self.next = self.least;
        }
    }

    /// The wait after one more failure, or after the longest if the failure `lasts` until somebody
    /// changes something.
    pub(crate) fn failed(&mut self, lasts: bool) -> Duration {
        let wait = if lasts { self.most } else { self.next };
        self.next = wait.saturating_mul(2).min(self.most);
        wait.mul_f64(1.0 + rand::random_range(0.0..0.5))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_limit_and_begin_anew() {
        let second = Duration::from_secs(1);
        let mut backoff = Backoff::new(second, 30 * second);
        for expected in [1, 2, 4, 8, 16, 30, 30] {
            let wait = backoff.failed(false);
            assert!(
                wait >= expected * second && wait < expected * second * 3 / 2,
                "{wait:?}"
            );
        }
        backoff.stood(second);
        assert!(backoff.failed(false) >= 30 * second);
        backoff.stood(20 * second);
        assert!(backoff.failed(false) < 2 * second);
        assert!(backoff.failed(true) >= 30 * second);
    }
}
