//! Rates: a peer with a limit is not slow, it is limited.

use std::time::Duration;

use tokio::time::Instant;

/// A token bucket of a tenth of a second, as CometBFT's flow control samples. Debt is paid by
/// waiting.
#[derive(Debug)]
pub(crate) struct Pace {
    /// Bytes a second; 0 is no limit.
    rate: u64,
    /// When everything spent so far is paid for; in the past while there is credit.
    paid_at: Instant,
}

impl Pace {
    /// `rate` bytes a second; 0 is no limit.
    #[must_use]
    pub(crate) fn new(rate: u64) -> Self {
        Pace {
            rate,
            paid_at: Instant::now(),
        }
    }

    /// Bytes that should be moved at once, at most.
    #[must_use]
    pub(crate) fn step(&self) -> usize {
        match self.rate {
            0 => usize::MAX,
            rate => usize::try_from(rate / 10).unwrap_or(usize::MAX).max(1),
        }
    }

    /// Counts bytes that were moved, and gives the time until when to wait before more are.
    pub(crate) fn spend(&mut self, bytes: usize) -> Option<Instant> {
        if self.rate == 0 {
            return None;
        }
        let now = Instant::now();
        let credit = Duration::from_millis(100);
        let base = self.paid_at.max(now.checked_sub(credit).unwrap_or(now));
        let micros = (bytes as u64).saturating_mul(1_000_000) / self.rate;
        // `Instant` panics beyond its range: the debt is at most an hour.
        self.paid_at = base + Duration::from_micros(micros.min(3_600_000_000));
        (self.paid_at > now).then_some(self.paid_at)
    }
}

/// Waits until then.
pub(super) async fn wait(until: Option<Instant>) {
    if let Some(until) = until {
        tokio::time::sleep_until(until).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_rate_holds_over_a_second_and_credit_is_short() {
        let mut pace = Pace::new(1000);
        tokio::time::sleep(Duration::from_secs(60)).await;
        let start = Instant::now();
        let mut moved = 0;
        while start.elapsed() < Duration::from_secs(10) {
            let step = pace.step();
            wait(pace.spend(step)).await;
            moved += step;
        }
        assert!((10_000..=10_200).contains(&moved), "{moved}");
        assert_eq!(Pace::new(0).spend(1 << 40), None);
    }
}
