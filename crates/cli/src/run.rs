//! Drives a running service to its goal: watches its status, shows progress, and says how it ended.

use std::time::{Duration, Instant};

use blocksync::ids::{Hash, Height, PeerId};
use blocksync::p2p::Contact;
use blocksync::pool::{LocalFault, Outcome};
use blocksync::service::{Stages, Status, Trust};
use blocksync::store::Store;
use tokio_util::sync::CancellationToken;

use crate::console::say;
use crate::failure::{Exit, Failure};
use crate::node::Service;
use crate::progress::{self, Progress};
use crate::report::{Memory, Report};

/// How long tasks may take to end. The durable part is whole then; a task that hangs is left
/// behind.
const GRACE: Duration = Duration::from_secs(1);
/// Peers whose last failure is named in an error.
const NAMED: usize = 5;

/// When the work is done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Goal {
    /// The chain's first height.
    pub first: Height,
    /// After this height.
    pub until: Option<Height>,
    /// Above this height nothing is executed; not a goal, but an end.
    pub halt: Option<Height>,
    /// When nobody has more, nor says so.
    pub caught_up: bool,
    /// The block that must be on the chain.
    pub trust: Option<(Height, Hash)>,
    /// With a goal: when it is given up.
    pub patience: Patience,
}

/// When a goal is given up.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Patience {
    /// After this time without a new block, whatever else happens.
    SinceBlock(Duration),
    /// After this time in which there is nobody to give the next block.
    WhileAlone(Duration),
}

/// How it ended.
pub(crate) struct End {
    /// The last status.
    pub status: Status,
    /// The outcome's name in the report.
    pub outcome: &'static str,
    /// It ended because everything that peers have is applied.
    pub caught_up: bool,
    /// `Ok` when the goal was reached.
    pub result: Result<(), Failure>,
    /// How long it took.
    took: Duration,
    /// How long until the last block was applied: what comes after is making sure that nobody has
    /// more.
    syncing: Duration,
    /// Work of the stages from the start to the last block.
    stages: (Stages, Stages),
    memory: Memory,
    trust: Option<(Height, Hash)>,
    contacts: Vec<Contact>,
}

impl Goal {
    /// The height at which the pool stops.
    pub(crate) fn last(&self) -> Option<Height> {
        self.until.into_iter().chain(self.halt).min()
    }

    fn is_set(&self) -> bool {
        self.until.is_some() || self.caught_up
    }

    /// The outcome's name in the report.
    fn name(&self, outcome: &Outcome) -> &'static str {
        match outcome {
            // The pool stops at the lower of the two heights. Where the goal lies higher it was the
            // other.
            Outcome::ReachedTarget { .. } if self.until > self.last() || self.until.is_none() => {
                "halted"
            }
            outcome => outcome.name(),
        }
    }

    /// Whether this status reaches it.
    fn reached(&self, status: &Status) -> bool {
        match status.outcome {
            Outcome::ReachedTarget { .. } => true,
            // Doubted claims may be true, so they are waited out before the goal
            // counts (`design.md` 12).
            Outcome::CaughtUp { .. } => self.caught_up && status.doubted.is_empty(),
            _ => false,
        }
    }
}

impl End {
    /// Adds how the configured peers stand; an error that is about peers names their last failures.
    pub(crate) fn with_contacts(mut self, mut contacts: Vec<Contact>) -> Self {
        for contact in &mut contacts {
            let id = contact.peer.id();
            // Where the service has hung up, its reason says more than the transport's error that
            // followed.
            let dropped = self.status.dropped.iter().rev().find(|d| d.peer == id);
            if let Some(dropped) =
                dropped.filter(|d| d.ban.is_some() || contact.last_error.is_none())
            {
                contact.last_error = Some(dropped.reason.to_string());
            }
        }
        if let Err(failure) = &mut self.result
            && failure.exit == Exit::NoPeers
        {
            let named = contacts
                .iter()
                .filter_map(|c| Some((c, c.last_error.as_ref()?)));
            for (contact, why) in named.take(NAMED) {
                failure
                    .message
                    .push_str(&format!("; {}: {why}", contact.peer));
            }
        }
        self.contacts = contacts;
        self
    }

    /// The line of JSON, if it is wanted, and the exit status. Call it when the service has
    /// stopped: what it had under way is in the store then.
    pub(crate) fn report(mut self, json: bool, store: &dyn Store) -> Result<Exit, Failure> {
        let durable = store.state()?;
        let trust = self.judge_trust(store)?;
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
            report
                .with_stages(&self.stages.0, &self.stages.1)
                .with_peers(&self.contacts)
                .with_trust(trust)
                .print();
        }
        self.result.map(|()| Exit::Reached)
    }

    /// Says what can be told of the block that must be on the chain. To have caught up below it is
    /// no success: a short forged chain would pass.
    fn judge_trust(&mut self, store: &dyn Store) -> Result<Option<&'static str>, Failure> {
        let Some((height, hash)) = self.trust else {
            return Ok(None);
        };
        Ok(Some(match Trust::of(store, (height, hash))? {
            Trust::Holds => "holds",
            Trust::Differs(why) => {
                self.result = Err(Failure::contradiction(why));
                "differs"
            }
            Trust::NotReached(why) if self.result.is_ok() && self.caught_up => {
                self.result = Err(Failure {
                    exit: Exit::NoPeers,
                    message: format!("{why}, and no peer has more"),
                });
                "not_reached"
            }
            Trust::NotReached(why) => {
                say(&why);
                "not_reached"
            }
            Trust::Unknown(why) => {
                say(&why);
                "unknown"
            }
        }))
    }
}

/// Lets tasks end, for a moment. A task that hangs in an application or a disk is left behind:
/// the durable part is whole, and the next start continues from it.
pub(crate) async fn within_grace(ending: impl Future<Output = ()>) {
    if tokio::time::timeout(GRACE, ending).await.is_err() {
        say(
            "not waiting any longer for the application, the disk or the network; the next start continues from what is durable",
        );
    }
}

/// Waits for the goal, a failure, the end of our patience, or `stop`. The service runs on.
pub(crate) async fn drive(service: &Service, goal: Goal, stop: &CancellationToken) -> End {
    let (since, memory) = (Instant::now(), Memory::watch());
    let mut watch = service.status();
    let meters = service.meters();
    let start = meters.read();
    let mut shown = Progress::new();
    let mut patience = Waiting::new(goal);
    let mut tick = tokio::time::interval(progress::REFRESH);
    let mut last = (Height::ZERO, Duration::ZERO, start);
    let mut caught_up = false;
    let (outcome, result) = loop {
        let alive = tokio::select! {
            biased;
            () = stop.cancelled() => break interrupted(goal),
            // An error means that the service has dropped its end.
            changed = watch.changed() => changed.is_ok(),
            _ = tick.tick() => true,
        };
        let status = watch.borrow_and_update().clone();
        if status.applied != last.0 {
            // The rate in the report is that until here; waiting for more blocks is not part of it.
            last = (status.applied, since.elapsed(), meters.read());
        }
        if goal.reached(&status) {
            caught_up = matches!(status.outcome, Outcome::CaughtUp { .. });
            break (goal.name(&status.outcome), Ok(()));
        }
        if let Some(failure) = fatal(&status.outcome) {
            break (status.outcome.name(), Err(failure));
        }
        // Only now: the last status may have said why.
        if !alive {
            let ended = Failure::failed("the service has ended by itself");
            break ("stopped", Err(ended));
        }
        if let Some(failure) = patience.over(&status) {
            break (status.outcome.name(), Err(failure));
        }
        let target = goal
            .until
            .map_or(status.target, |u| u.min(status.target.max(status.applied)));
        shown.show(&status, target.get(), meters.read());
    };
    // The last status may be newer than the one that ended the loop.
    shown.end();
    let status = service.status().borrow().clone();
    End {
        status,
        outcome,
        caught_up,
        result,
        took: since.elapsed(),
        syncing: last.1,
        stages: (start, last.2),
        memory,
        trust: goal.trust,
        contacts: Vec::new(),
    }
}

/// Asked to stop: that is an end like any other for a node that follows its chain, not for one that
/// had a goal.
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

/// An outcome that no waiting mends.
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
        Outcome::LocalFault(fault @ LocalFault::Halted { .. }) => {
            Some(Failure::halted(fault.to_string()))
        }
        Outcome::LocalFault(fault) => Some(Failure::failed(fault.to_string())),
        _ => None,
    }
}

/// Watches that something moves.
struct Waiting {
    goal: Goal,
    moved: Instant,
    applied: Option<Height>,
    /// When it was first and last said that we have caught up but for claims that are doubted. New
    /// blocks end that no more than the waiting for them does.
    doubts: Option<(Instant, Instant)>,
}

/// Time without doubts after which they are others when they come back.
const DOUBTS_END: Duration = Duration::from_secs(10);

impl Waiting {
    fn new(goal: Goal) -> Self {
        Waiting {
            goal,
            moved: Instant::now(),
            applied: None,
            doubts: None,
        }
    }

    /// Why the goal is given up, when it is.
    fn over(&mut self, status: &Status) -> Option<Failure> {
        let alone = self.why_alone(status);
        let (patience, renewed) = match self.goal.patience {
            Patience::SinceBlock(time) => (time, false),
            Patience::WhileAlone(time) => (time, alone.is_none()),
        };
        if renewed || self.applied != Some(status.applied) {
            self.applied = Some(status.applied);
            self.moved = Instant::now();
        }
        self.note_doubts(status);
        let doubts = self
            .doubts
            .map_or(Duration::ZERO, |(first, last)| last - first);
        // New blocks of a live chain renew the one wait, but not that for doubts to be resolved.
        let waited = self.moved.elapsed().max(doubts);
        if !self.goal.is_set() || waited < patience {
            return None;
        }
        let why = alone
            .or_else(|| status.waiting.clone())
            .unwrap_or_else(|| match status.peers {
                // The scheduler says so within a second, which may be later than this.
                0 => "no peer is connected".to_owned(),
                _ => format!("block {} is not there", self.next(status)),
            });
        let last = status.dropped.last().map_or_else(String::new, |d| {
            format!(
                "; the last one dropped was {} at {}: {}",
                d.peer, d.address, d.reason
            )
        });
        Some(Failure {
            exit: Exit::NoPeers,
            message: format!(
                "stopped at height {}: {why}, for {}{last}",
                status.applied,
                progress::time(waited)
            ),
        })
    }

    /// Only a goal that doubts keep us from is waited for.
    fn note_doubts(&mut self, status: &Status) {
        let now = Instant::now();
        let doubts = matches!(status.outcome, Outcome::CaughtUp { .. })
            && self.goal.caught_up
            && !status.doubted.is_empty();
        match &mut self.doubts {
            Some((_, last)) if doubts => *last = now,
            None if doubts => self.doubts = Some((now, now)),
            Some((_, last)) if last.elapsed() > DOUBTS_END => self.doubts = None,
            _ => {}
        }
    }

    fn next(&self, status: &Status) -> Height {
        status.applied.next().max(self.goal.first)
    }

    /// Why nobody gives the next block.
    fn why_alone(&self, status: &Status) -> Option<String> {
        match &status.outcome {
            Outcome::NoUsablePeers if status.peers == 0 => Some("no peer is connected".to_owned()),
            Outcome::NoUsablePeers => Some(format!("no peer has block {}", self.next(status))),
            Outcome::Stalled { why } => Some(why.to_string()),
            // Without a goal that catching up reaches, this is as good as waiting for blocks that
            // may never be made.
            Outcome::CaughtUp { .. } if status.doubted.is_empty() => {
                Some(format!("no peer has more than height {}", status.applied))
            }
            Outcome::CaughtUp { .. } => Some(doubted(&status.doubted)),
            _ => None,
        }
    }
}

/// The peers that say that they have more, and do not deliver it.
fn doubted(claims: &[(PeerId, Height)]) -> String {
    let named = claims.iter().take(NAMED);
    let named: Vec<String> = named
        .map(|(peer, height)| format!("{peer} claims {height}"))
        .collect();
    let more = claims.len().saturating_sub(NAMED);
    let more = if more > 0 {
        format!(" (and {more} more)")
    } else {
        String::new()
    };
    format!(
        "peers claim blocks that they do not deliver, and nobody else has more: {}{more}",
        named.join(", ")
    )
}
