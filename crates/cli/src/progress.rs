//! The progress that a person sees while blocks come: one line that changes on a terminal, a line
//! every few seconds elsewhere.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use blocksync::ids::Height;
use blocksync::pool::Outcome;
use blocksync::service::{Stage, Stages, Status};
use indicatif::{ProgressBar, ProgressStyle};

use crate::console::{progress_line, say};

/// Over how long the rate is measured.
const WINDOW: Duration = Duration::from_secs(10);
/// Between two lines where there is no terminal.
const EVERY: Duration = Duration::from_secs(5);
/// Between two looks at the status.
pub(crate) const REFRESH: Duration = Duration::from_millis(200);

/// Says how far the application has come with the blocks that are in the store already: the first
/// one at once, then every few seconds.
pub(crate) fn replayed() -> impl Fn(Height, Height) + Send + Sync {
    let said = Mutex::new(None::<Instant>);
    move |done, of| {
        let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
        // The last one is always said: it tells that the start goes on.
        if done < of && said.is_some_and(|at| at.elapsed() < EVERY) {
            return;
        }
        *said = Some(Instant::now());
        say(&format!(
            "executing stored blocks on the application: height {done} of {of}"
        ));
    }
}

/// Shows how far the sync is.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    samples: VecDeque<(Instant, u64, Stages)>,
    said: Instant,
}

impl Progress {
    /// Shows nothing yet.
    pub(crate) fn new() -> Self {
        let bar = progress_line().map(|bar| {
            let style = ProgressStyle::with_template("{bar:24} {msg}");
            bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        Progress {
            bar,
            samples: VecDeque::new(),
            said: Instant::now(),
        }
    }

    /// Shows the status; call it every `REFRESH`.
    pub(crate) fn show(&mut self, status: &Status, target: u64, stages: Stages) {
        let now = Instant::now();
        let applied = status.applied.get();
        self.samples.push_back((now, applied, stages));
        while self
            .samples
            .front()
            .is_some_and(|(at, ..)| now - *at > WINDOW)
        {
            self.samples.pop_front();
        }
        if self.bar.is_none() && now - self.said < EVERY {
            return;
        }
        let text = line(status, target, self.rate(), self.bottleneck());
        match &self.bar {
            Some(bar) => {
                let from = status.started_at.get();
                // From where this run began: a bar that starts nearly full would tell nothing.
                bar.set_length(target.saturating_sub(from));
                bar.set_position(applied.saturating_sub(from));
                bar.set_message(text);
            }
            None => {
                self.said = now;
                say(&text);
            }
        }
    }

    /// Takes the line away.
    pub(crate) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    /// The stage that the others waited for over the window.
    fn bottleneck(&self) -> Option<Stage> {
        let (first, last) = (self.samples.front()?, self.samples.back()?);
        last.2.bottleneck(&first.2)
    }

    /// Blocks a second over the window.
    fn rate(&self) -> f64 {
        match (self.samples.front(), self.samples.back()) {
            (Some((t0, h0, _)), Some((t1, h1, _))) if *t1 > *t0 => {
                h1.saturating_sub(*h0) as f64 / (*t1 - *t0).as_secs_f64()
            }
            _ => 0.0,
        }
    }
}

/// How we stand, in one line for the service manager.
pub(crate) fn brief(status: &Status) -> String {
    let target = status.target.get();
    format!(
        "height {} of {target}, {} peers, {}",
        status.applied,
        status.peers,
        waits_for(status, target, None)
    )
}

/// The line: where we are, how fast, how long, whom by, and what it waits for.
fn line(status: &Status, target: u64, rate: f64, bottleneck: Option<Stage>) -> String {
    let (applied, from) = (status.applied.get(), status.started_at.get());
    let mut line = format!("height {applied}");
    // Before the first block of a chain that begins above 1, 0 is applied, and we stand right below
    // its first height.
    let is_behind = target > applied.max(from);
    if is_behind {
        let share = applied.saturating_sub(from) as f64 / target.saturating_sub(from).max(1) as f64;
        let _ = write!(line, " of {target} ({:.1} %)", share * 100.0);
    }
    let _ = write!(line, ", {rate:.0} blocks/s");
    if is_behind && rate > 0.0 {
        let left = Duration::from_secs_f64((target - applied) as f64 / rate);
        let _ = write!(line, ", {} left", time(left));
    }
    let _ = write!(line, ", {} peers", status.peers);
    let _ = write!(line, ", {}", waits_for(status, target, bottleneck));
    line
}

/// The stage that is the bottleneck; when nothing moves, why.
fn waits_for(status: &Status, target: u64, bottleneck: Option<Stage>) -> String {
    // An application or a disk that is waited for explains more than any outcome.
    if let Some(why) = &status.waiting {
        return why.clone();
    }
    match &status.outcome {
        Outcome::Syncing | Outcome::NoUsablePeers if status.peers == 0 => "no peers yet".to_owned(),
        Outcome::NoUsablePeers => "no peer has the next block".to_owned(),
        Outcome::Stalled { why } => format!("stalled: {why}"),
        Outcome::CaughtUp { .. } => "caught up".to_owned(),
        _ if status.applied.max(status.started_at).get() >= target => {
            "waiting for new blocks".to_owned()
        }
        _ => format!("bottleneck: {}", bottleneck_name(bottleneck)),
    }
}

/// Name of the bottleneck; no stage is one when all wait for blocks.
pub(crate) fn bottleneck_name(stage: Option<Stage>) -> &'static str {
    stage.map_or("download", Stage::name)
}

/// A duration for people: `45s`, `3m 20s`, `2h 05m`.
pub(crate) fn time(duration: Duration) -> String {
    match duration.as_secs() {
        s @ 0..60 => format!("{s}s"),
        s @ 60..3600 => format!("{}m {:02}s", s / 60, s % 60),
        s => format!("{}h {:02}m", s / 3600, s / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_short() {
        assert_eq!(time(Duration::from_secs(45)), "45s");
        assert_eq!(time(Duration::from_secs(200)), "3m 20s");
        assert_eq!(time(Duration::from_secs(7500)), "2h 05m");
    }
}
