//! State of the running service for the page, the metrics and the health checks: the status, and
//! what follows from how it changes.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use blocksync::ids::Height;
use blocksync::pool::Outcome;
use blocksync::service::{Phase, Snapshot, Stage, Stages, Status};
use serde::Serialize;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::node::Node;

/// Over how long rates are measured.
const WINDOW: Duration = Duration::from_secs(60);
/// Between two looks.
const EVERY: Duration = Duration::from_secs(1);
/// Age up to which the page's state is shown again: however many ask, the scheduler is asked no
/// more often than that.
const FRESH: Duration = Duration::from_millis(100);
/// Time after which a reactor that does not answer is taken to hang.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// Cells of the window that are shown.
const CELLS: usize = 1024;
/// Peers and dropped peers that are shown.
const ROWS: usize = 256;

/// The version of the JSON.
const VERSION: u32 = 1;

/// One look at the service.
#[derive(Clone, Debug)]
struct Sample {
    at: Instant,
    applied: Height,
    target: Height,
    stages: Stages,
}

/// A peer, as it is shown.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct PeerRow {
    pub(crate) id: String,
    pub(crate) address: String,
    pub(crate) base: u64,
    pub(crate) height: u64,
    pub(crate) owes: usize,
    pub(crate) bytes_per_second: Option<u64>,
    pub(crate) latency_ms: Option<f64>,
    /// Verdict on its claim, one of `VERDICTS`.
    pub(crate) claim: &'static str,
}

/// A peer that was dropped, and why.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct DroppedRow {
    pub(crate) id: String,
    pub(crate) address: String,
    pub(crate) fault: String,
    pub(crate) banned_seconds: Option<u64>,
}

/// A stage over the last minute.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct StageRow {
    pub(crate) name: &'static str,
    pub(crate) blocks: u64,
    pub(crate) busy_percent: f64,
    pub(crate) waits_for_work_percent: f64,
    pub(crate) waits_for_room_percent: f64,
}

/// Everything that the page shows; `/status.json` is this.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Shown {
    /// The scheduler did not answer in `PATIENCE`.
    #[serde(skip)]
    pub(crate) hangs: bool,
    pub(crate) version: u32,
    pub(crate) program: &'static str,
    pub(crate) chain_id: String,
    pub(crate) node_id: String,
    pub(crate) phase: &'static str,
    pub(crate) outcome: &'static str,
    pub(crate) outcome_text: String,
    pub(crate) waiting: Option<String>,
    pub(crate) base: u64,
    pub(crate) started_at: u64,
    pub(crate) applied: u64,
    pub(crate) proven: u64,
    pub(crate) target: u64,
    pub(crate) blocks_per_second: f64,
    pub(crate) eta_seconds: Option<u64>,
    pub(crate) bottleneck: &'static str,
    pub(crate) buffered_bytes: u64,
    pub(crate) budget_bytes: u64,
    pub(crate) window_first: u64,
    pub(crate) window: String,
    pub(crate) window_more: usize,
    pub(crate) peers: Vec<PeerRow>,
    pub(crate) dropped: Vec<DroppedRow>,
    pub(crate) stages: Vec<StageRow>,
}

/// Samples of the last minute, and the page's latest state.
#[derive(Debug)]
pub(crate) struct Watch {
    node: Arc<Node>,
    samples: Mutex<VecDeque<Sample>>,
    shown: watch::Sender<Arc<Shown>>,
    seen: Mutex<Option<Arc<Seen>>>,
    latest: Mutex<Option<(Instant, Arc<Shown>)>>,
    /// Taken by the one who makes `latest` anew.
    looking: Semaphore,
}

/// The scheduler's last answer, for metrics: a scrape waits for nobody.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) at: SystemTime,
    pub(crate) snapshot: Snapshot,
}

/// Speed, as the samples have it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pace {
    /// Blocks a second.
    pub(crate) rate: f64,
    /// Seconds to the target; infinite when we do not gain, and `None` at the target.
    pub(crate) eta: Option<f64>,
}

/// All names of outcomes.
pub(crate) const OUTCOMES: [&str; 8] = [
    "syncing",
    "caught_up",
    "no_usable_peers",
    "stalled",
    "reached_target",
    "contradiction",
    "local_fault",
    "stopped",
];

fn outcome_text(status: &Status) -> String {
    match &status.outcome {
        Outcome::Syncing => "Syncing".to_owned(),
        Outcome::CaughtUp { .. } => "Caught up".to_owned(),
        Outcome::NoUsablePeers if status.peers == 0 => "No peer is connected".to_owned(),
        Outcome::NoUsablePeers => "No peer has the next block".to_owned(),
        Outcome::Stalled { why } => format!("Stalled: {why}"),
        Outcome::ReachedTarget { .. } => "Reached the height asked for".to_owned(),
        Outcome::Contradiction { what, .. } => format!("The chain contradicts us: {what}"),
        Outcome::LocalFault(fault) => format!("Stopped by a fault of our own: {fault}"),
        Outcome::Stopped => "Stopped".to_owned(),
        // Outcomes of later versions: the enum may grow.
        other => other.name().to_owned(),
    }
}

/// A word for a phase.
pub(crate) fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Serving => "serving",
        Phase::Syncing => "syncing",
        Phase::Following => "following",
        Phase::HandedOver => "handed_over",
        Phase::Failed => "failed",
        Phase::Stopped => "stopped",
        #[allow(unreachable_patterns)] // phases of later versions
        _ => "other",
    }
}

/// All of `phase_name` that have a gauge.
pub(crate) const PHASES: [&str; 6] = [
    "serving",
    "syncing",
    "following",
    "handed_over",
    "failed",
    "stopped",
];

impl Watch {
    pub(crate) fn new(node: Arc<Node>) -> Arc<Self> {
        Arc::new(Watch {
            node,
            samples: Mutex::default(),
            shown: watch::Sender::default(),
            seen: Mutex::default(),
            latest: Mutex::default(),
            looking: Semaphore::new(1),
        })
    }

    /// Looks every second until `stop`.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut tick = tokio::time::interval(EVERY);
        // After a pause of the machine one look is enough, not one for each second missed.
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                _ = tick.tick() => {}
            }
            self.sample();
            self.ask().await;
            // Nobody watches most of the time, and then no page's state is made.
            if self.shown.receiver_count() > 0 {
                let now = self.look().await;
                self.shown.send_if_modified(|shown| {
                    let news = **shown != *now;
                    *shown = now;
                    news
                });
            }
        }
    }

    /// Asks the scheduler. One that hangs leaves its last answer where it is, with its time.
    async fn ask(&self) {
        let Some(view) = &self.node.view else { return };
        // Bounded by the interval, so that a hanging scheduler does not stop the samples.
        if let Ok(Ok(snapshot)) = tokio::time::timeout(EVERY, view.snapshot()).await {
            let at = SystemTime::now();
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            *seen = Some(Arc::new(Seen { at, snapshot }));
        }
    }

    /// The scheduler's last answer.
    pub(crate) fn seen(&self) -> Option<Arc<Seen>> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.clone()
    }

    /// The page's state, from now on.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<Shown>> {
        self.shown.subscribe()
    }

    /// How many look.
    pub(crate) fn listeners(&self) -> usize {
        self.shown.receiver_count()
    }

    fn sample(&self) {
        let Some(view) = &self.node.view else { return };
        let stages = view.meters().read();
        let (applied, target) = {
            // In a block of its own: the borrow locks the status and must end before the next lock.
            let status = view.status();
            let status = status.borrow();
            (status.applied, status.target)
        };
        let sample = Sample {
            at: stages.at,
            applied,
            target,
            stages,
        };
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        while samples
            .front()
            .is_some_and(|first| sample.at - first.at > WINDOW)
        {
            samples.pop_front();
        }
        samples.push_back(sample);
    }

    fn ends(&self) -> Option<(Sample, Sample)> {
        let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        Some((samples.front()?.clone(), samples.back()?.clone()))
    }

    /// How fast we are, and when we arrive where the chain will be then.
    pub(crate) fn pace(&self) -> Pace {
        let Some((first, last)) = self.ends() else {
            return Pace::default();
        };
        let seconds = (last.at - first.at).as_secs_f64();
        if seconds <= 0.0 {
            return Pace::default();
        }
        let rate = last.applied.above(first.applied) as f64 / seconds;
        let growth = last.target.above(first.target) as f64 / seconds;
        let left = last.target.above(last.applied);
        // The target of the first seconds comes all at once: that is no growth.
        let growth = if first.target <= first.applied {
            0.0
        } else {
            growth
        };
        // One block behind is normal at the tip: a block is proven by the commit in the next one.
        let eta = (left > 1).then(|| {
            if rate > growth {
                left as f64 / (rate - growth)
            } else {
                f64::INFINITY
            }
        });
        Pace { rate, eta }
    }

    /// The stage that the others waited for; `download` when none was at work for half of the time.
    pub(crate) fn bottleneck(&self) -> &'static str {
        let stage = self
            .ends()
            .and_then(|(first, last)| last.stages.bottleneck(&first.stages));
        stage.map_or("download", Stage::name)
    }

    /// Everything that the page shows, a moment old at most.
    pub(crate) async fn look(&self) -> Arc<Shown> {
        if let Some(shown) = self.fresh() {
            return shown;
        }
        // Nobody closes it.
        let _turn = self.looking.acquire().await.ok();
        // Another one may have looked while we waited.
        if let Some(shown) = self.fresh() {
            return shown;
        }
        let shown = Arc::new(self.look_anew().await);
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        *latest = Some((Instant::now(), shown.clone()));
        shown
    }

    fn fresh(&self) -> Option<Arc<Shown>> {
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, shown) = latest.as_ref()?;
        (at.elapsed() < FRESH).then(|| shown.clone())
    }

    async fn look_anew(&self) -> Shown {
        let node = &self.node;
        let mut shown = Shown {
            version: VERSION,
            program: concat!("blocksync ", env!("CARGO_PKG_VERSION")),
            chain_id: node.genesis.chain_id.clone(),
            node_id: node.identity.id.to_string(),
            phase: "serving",
            outcome: "serving",
            outcome_text: "Serving".to_owned(),
            ..Shown::default()
        };
        let store = node.store.clone();
        // Without a service this is all there is; with one the status below says more.
        let span = tokio::task::spawn_blocking(move || store.span()).await;
        if let Ok(Ok(span)) = span {
            shown.base = span.base.get();
            shown.applied = span.applied.get();
        }
        let Some(view) = &node.view else {
            return shown;
        };
        let status = view.status().borrow().clone();
        self.status(&mut shown, &status);
        match tokio::time::timeout(PATIENCE, view.snapshot()).await {
            Ok(Ok(snapshot)) => window(&mut shown, &snapshot),
            Ok(Err(stopped)) => shown.waiting = Some(stopped.to_string()),
            // The figures that need no answer are shown all the same.
            Err(_) => {
                shown.hangs = true;
                shown.waiting = Some("the scheduler does not answer".to_owned());
            }
        }
        shown
    }

    fn status(&self, shown: &mut Shown, status: &Status) {
        let pace = self.pace();
        shown.phase = phase_name(status.phase);
        shown.outcome = status.outcome.name();
        shown.outcome_text = outcome_text(status);
        shown.waiting.clone_from(&status.waiting);
        shown.started_at = status.started_at.get();
        shown.applied = status.applied.get();
        shown.target = status.target.get();
        shown.blocks_per_second = (pace.rate * 10.0).round() / 10.0;
        shown.eta_seconds = pace.eta.filter(|eta| eta.is_finite()).map(|eta| eta as u64);
        shown.bottleneck = self.bottleneck();
        let dropped = status.dropped.iter().rev().take(ROWS);
        shown.dropped = dropped
            .map(|dropped| DroppedRow {
                id: dropped.peer.to_string(),
                address: dropped.address.clone(),
                fault: dropped.reason.to_string(),
                banned_seconds: dropped.ban.map(|ban| ban.as_secs()),
            })
            .collect();
        let Some((first, last)) = self.ends() else {
            return;
        };
        // Two samples may be of the same moment at the start.
        let wall = (last.at - first.at).as_secs_f64().max(0.001);
        let done = last.stages.since(&first.stages);
        let percent = |time: Duration| (time.as_secs_f64() / wall * 1000.0).round() / 10.0;
        shown.stages = Stage::ALL
            .map(|stage| {
                let times = done.of(stage);
                StageRow {
                    name: stage.name(),
                    blocks: times.blocks,
                    busy_percent: percent(times.busy),
                    waits_for_work_percent: percent(times.waits_for_work),
                    waits_for_room_percent: percent(times.waits_for_room),
                }
            })
            .to_vec();
    }
}

/// All verdicts on a peer's claim.
pub(crate) const VERDICTS: [&str; 3] = ["at or below us", "proven", "not proven yet"];

/// The verdict on a peer's claim, one of `VERDICTS`.
pub(crate) fn verdict(claim: Height, applied: Height, proven: Height) -> &'static str {
    if claim <= applied {
        VERDICTS[0]
    } else if claim <= proven {
        VERDICTS[1]
    } else {
        VERDICTS[2]
    }
}

fn window(shown: &mut Shown, snapshot: &Snapshot) {
    shown.proven = snapshot.proven.get();
    shown.buffered_bytes = snapshot.buffered_bytes;
    shown.budget_bytes = snapshot.budget_bytes;
    shown.window_first = snapshot.first.get();
    // The page shows a bounded part, however large the window is configured.
    shown.window = snapshot.window.chars().take(CELLS).collect();
    shown.window_more = snapshot.window.len().saturating_sub(CELLS);
    let peers = snapshot.peers.iter().take(ROWS);
    shown.peers = peers
        .map(|peer| PeerRow {
            id: peer.peer.to_string(),
            address: peer.address.clone(),
            base: peer.base.get(),
            height: peer.height.get(),
            owes: peer.owed,
            bytes_per_second: peer.rate,
            latency_ms: peer.latency.map(|us| us as f64 / 1000.0),
            claim: verdict(peer.height, Height::new(shown.applied), snapshot.proven),
        })
        .collect();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_judged_by_what_is_applied_and_proven() {
        let of = |claim| verdict(Height::new(claim), Height::new(5), Height::new(9));
        assert_eq!(
            [4, 5, 6, 9, 10].map(of),
            [0, 0, 1, 1, 2].map(|n| VERDICTS[n])
        );
    }
}
