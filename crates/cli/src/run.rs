//! Drives a running service to its goal: watches its status, shows progress, and says how it ended.

use std::time::{Duration, Instant};

use blocksync::ids::Height;
use blocksync::pool::{LocalFault, Outcome};
use blocksync::service::{Stages, Status};
use blocksync::store::Store;
use tokio_util::sync::CancellationToken;

use crate::failure::{Exit, Failure};
use crate::node::Service;
use crate::progress::{self, Progress, say};
use crate::report::{self, Memory, Report};

/// When the work is done.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Goal {
    /// The chain's first height.
    pub first: Height,
    /// After this height.
    pub until: Option<Height>,
    /// When nobody credible has more.
    pub caught_up: bool,
    /// With a goal: how long nothing may move before it is given up.
    pub patience: Duration,
}

/// How it ended.
pub(crate) struct End {
    /// The last status.
    pub status: Status,
    /// The outcome's name in the report.
    pub outcome: &'static str,
    /// `Ok` when the goal was reached.
    pub result: Result<(), Failure>,
    /// How long it took.
    took: Duration,
    /// How long until the last block was applied: what comes after is making sure that nobody has more.
    syncing: Duration,
    /// What the stages did from the start to the last block.
    stages: (Stages, Stages),
    memory: Memory,
}

impl Goal {
    fn is_set(&self) -> bool {
        self.until.is_some() || self.caught_up
    }

    /// Whether this status reaches it.
    fn reached(&self, status: &Status) -> bool {
        match status.outcome {
            Outcome::ReachedTarget { .. } => true,
            Outcome::CaughtUp { .. } => self.caught_up,
            _ => false,
        }
    }
}

impl End {
    /// The line of JSON, if it is wanted, and the exit status. Call it when the service has stopped: what it had under way is in
    /// the store then.
    pub(crate) fn report(self, json: bool, store: &dyn Store) -> Result<Exit, Failure> {
        let durable = store.state()?;
        let End {
            outcome, status, ..
        } = &self;
        let applied = durable.as_ref().map_or(status.applied, |s| s.last_height);
        say(&format!(
            "height {applied}: {} blocks in {:.1} s ({outcome})",
            applied.above(status.started_at),
            self.took.as_secs_f64()
        ));
        if json {
            let times = (self.took, self.syncing);
            let report = Report::new(outcome, status, durable.as_ref(), times, &self.memory);
            report.with_stages(&self.stages.0, &self.stages.1).print();
        }
        self.result.map(|()| Exit::Reached)
    }
}

/// Waits for the goal, a failure, the end of our patience, or `stop`. The service runs on.
pub(crate) async fn drive(service: &Service, goal: Goal, stop: &CancellationToken) -> End {
    let (since, memory) = (Instant::now(), Memory::watch());
    let mut watch = service.status();
    let meters = service.meters();
    let start = meters.read();
    let mut shown = Progress::new();
    let mut patience = Patience::new(goal);
    let mut tick = tokio::time::interval(progress::REFRESH);
    let mut last = (Height::ZERO, Duration::ZERO, start);
    let (outcome, result) = loop {
        let alive = tokio::select! {
            biased;
            () = stop.cancelled() => break interrupted(goal),
            changed = watch.changed() => changed.is_ok(),
            _ = tick.tick() => true,
        };
        let status = watch.borrow_and_update().clone();
        if status.applied != last.0 {
            last = (status.applied, since.elapsed(), meters.read());
        }
        if goal.reached(&status) {
            break (report::name(&status.outcome), Ok(()));
        }
        if let Some(failure) = fatal(&status.outcome) {
            break (report::name(&status.outcome), Err(failure));
        }
        if !alive {
            let ended = Failure::failed("the service has ended by itself");
            break ("stopped", Err(ended));
        }
        if let Some(failure) = patience.over(&status) {
            break (report::name(&status.outcome), Err(failure));
        }
        let target = goal
            .until
            .map_or(status.target, |u| u.min(status.target.max(status.applied)));
        shown.show(&status, target.get(), meters.read());
    };
    shown.end();
    let status = service.status().borrow().clone();
    End {
        status,
        outcome,
        result,
        took: since.elapsed(),
        syncing: last.1,
        stages: (start, last.2),
        memory,
    }
}

/// Asked to stop: that is an end like any other for a node that follows its chain, not for one that had a goal.
fn interrupted(goal: Goal) -> (&'static str, Result<(), Failure>) {
    let result = if goal.is_set() {
        Err(Failure::failed(
            "stopped before the goal was reached; the next start continues from here",
        ))
    } else {
        Ok(())
    };
    ("stopped", result)
}

/// What no waiting mends.
fn fatal(outcome: &Outcome) -> Option<Failure> {
    match outcome {
        Outcome::Contradiction { what, fork } => {
            let fork = fork.as_ref().map_or_else(String::new, |fork| {
                let [a, b] = fork.ids;
                format!(
                    "; height {} has two certificates, for {a} and for {b}",
                    fork.height
                )
            });
            Some(Failure::contradiction(format!(
                "{what}{fork}. No peer is to blame: check --genesis and --app"
            )))
        }
        Outcome::LocalFault(fault @ LocalFault::Diverged(_)) => {
            Some(Failure::contradiction(format!(
                "{fault}. No peer is to blame: check --rules and --app, or sync into a fresh --home"
            )))
        }
        Outcome::LocalFault(fault) => Some(Failure::failed(fault.to_string())),
        _ => None,
    }
}

/// Watches that something moves.
struct Patience {
    goal: Goal,
    moved: Instant,
    applied: Option<Height>,
}

impl Patience {
    fn new(goal: Goal) -> Self {
        Patience {
            goal,
            moved: Instant::now(),
            applied: None,
        }
    }

    /// Why the goal is given up, when it is.
    fn over(&mut self, status: &Status) -> Option<Failure> {
        let stuck = match &status.outcome {
            Outcome::NoUsablePeers if status.peers == 0 => Some("no peer is connected".to_owned()),
            Outcome::NoUsablePeers => {
                let next = status.applied.next().max(self.goal.first);
                Some(format!("no peer has block {next}"))
            }
            Outcome::Stalled { why } => Some(why.to_string()),
            // Without a goal that catching up reaches, this is as good as waiting for blocks that may never be made.
            Outcome::CaughtUp { .. } => {
                Some(format!("no peer has more than height {}", status.applied))
            }
            _ => None,
        };
        if stuck.is_none() || self.applied != Some(status.applied) {
            self.applied = Some(status.applied);
            self.moved = Instant::now();
        }
        let why = stuck?;
        if !self.goal.is_set() || self.moved.elapsed() < self.goal.patience {
            return None;
        }
        let last = status.dropped.last().map_or_else(String::new, |d| {
            format!(
                "; the last one dropped was {} at {}: {}",
                d.peer, d.address, d.fault
            )
        });
        Some(Failure {
            exit: Exit::NoPeers,
            message: format!(
                "stopped at height {}: {why}, for {}{last}",
                status.applied,
                progress::time(self.goal.patience)
            ),
        })
    }
}
