//! A limit on the log lines that strangers can make us write.

use std::sync::{Mutex, PoisonError};

use tokio::time::{Duration, Instant};
use tracing::info;

/// Lines that may follow one another at once.
const BURST: u32 = 60;
/// Time until one more may follow: a log of days stays small, whatever comes.
const PERIOD: Duration = Duration::from_secs(2);

/// Room for log lines about peers that came by themselves, all of them together.
///
/// A line without room goes to the debug level. With the next one that has room it is said how many
/// were left out.
#[derive(Debug, Default)]
pub(crate) struct Sparingly(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// When the lines so far would have been written one a period; none while there was none.
    paid_until: Option<Instant>,
    left_out: u64,
}

impl Sparingly {
    /// Whether there is room for another line.
    pub(crate) fn may(&self) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let paid_until = state.paid_until.map_or(now, |until| until.max(now));
        if paid_until + PERIOD > now + BURST * PERIOD {
            state.left_out += 1;
            return false;
        }
        let left_out = std::mem::take(&mut state.left_out);
        // The line that says so takes room, too.
        let lines = 1 + u32::from(left_out > 0);
        state.paid_until = Some(paid_until + lines * PERIOD);
        drop(state);
        if left_out > 0 {
            info!(
                left_out,
                "lines about peers that came by themselves are at debug level"
            );
        }
        true
    }
}

/// Writes a line at the info level where there is room for it, and at debug otherwise.
macro_rules! info_if {
    ($room:expr, $($line:tt)+) => {
        if $room {
            tracing::info!($($line)+);
        } else {
            tracing::debug!($($line)+);
        }
    };
}
pub(crate) use info_if;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_storm_of_lines_leaves_one_a_period() {
        let told = Sparingly::default();
        let storm = || (0..10_000).filter(|_| told.may()).count();
        assert_eq!(storm(), BURST as usize);
        tokio::time::advance(PERIOD / 2).await;
        assert_eq!(storm(), 0);
        // Two are paid for by then, of which one says how many were left out.
        tokio::time::advance(2 * PERIOD).await;
        assert_eq!(storm(), 1);
        tokio::time::advance(100 * BURST * PERIOD).await;
        assert_eq!(
            storm(),
            BURST as usize - 1,
            "no more is saved than the burst"
        );
    }
}
