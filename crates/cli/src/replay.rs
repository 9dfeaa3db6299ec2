//! `blocksync replay`: what a recorded node was given is given to the same scheduler again.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use blocksync::pool::record::{Replay, Step};
use blocksync::pool::{Candidate, Effect, Input, Outcome, Pool, Tick};
use blocksync::service::RecordingFile;
use clap::Args;

use crate::console::say;
use crate::failure::{Exit, Failure};

/// `blocksync replay`.
#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    /// The recording; its older part is looked for beside it, as FILE.old
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Print every input and effect, not only outcomes and dropped peers
    #[arg(long)]
    pub effects: bool,
    /// Number of inputs between two checks of the scheduler's invariants
    #[arg(long, value_name = "INPUTS", default_value_t = 64)]
    pub check_every: u64,
}

/// Replays a recording, and tells of it on standard output.
///
/// # Errors
/// When it cannot be read, an invariant is broken, or the replay is not what was recorded.
pub(crate) fn run(args: &ReplayArgs) -> Result<Exit, Failure> {
    let recorded =
        RecordingFile::read(&args.file).map_err(|why| Failure::failed(why.to_string()))?;
    for head in recorded.heads() {
        outln!(
            "part {} of the recording of chain {}, by version {}",
            head.part,
            head.chain_id,
            head.version
        );
    }
    if recorded.is_cut_off() {
        say("the recording ends within a chunk, as it does when the program was killed");
    }
    let mut told = Told {
        checks: args.check_every.max(1),
        ..Told::default()
    };
    let mut replay = Replay::new(&[]);
    for entries in recorded.entries() {
        // Parts follow each other: an older file ends where the next one begins.
        replay.go_on(entries);
        told.part(&mut replay, args.effects)?;
    }
    told.end(&args.file, &replay)
}

/// Sums of a replay.
#[derive(Default)]
struct Told {
    checks: u64,
    first: Option<Tick>,
    last: Tick,
    inputs: u64,
    lost: u64,
    /// Effects by name.
    effects: BTreeMap<&'static str, u64>,
    digests: u64,
    pools: u64,
    /// The first thing that was not as recorded.
    differs: Option<String>,
}

impl Told {
    fn part(&mut self, replay: &mut Replay<'_>, shows_effects: bool) -> Result<(), Failure> {
        loop {
            let step = match replay.step() {
                Ok(Some(step)) => step,
                Ok(None) => return Ok(()),
                Err(broken) => return Err(Failure::failed(broken.to_string())),
            };
            match step {
                Step::Pool { now, same } => {
                    self.first.get_or_insert(now);
                    self.pools += 1;
                    // Noted, not fatal: what the replay does from here on still shows the bug.
                    if same == Some(false) {
                        self.note(now, "the pool is not the recorded one");
                    }
                }
                Step::Input {
                    now,
                    input,
                    effects,
                } => {
                    self.last = now;
                    self.inputs += 1;
                    self.show(now, &input, &effects, shows_effects);
                    if self.inputs.is_multiple_of(self.checks) {
                        self.check(replay.pool())?;
                    }
                }
                Step::Digest { recorded, replayed } => {
                    self.digests += 1;
                    if recorded != replayed {
                        let why = format!("recorded {recorded:?}, replayed {replayed:?}");
                        self.note(self.last, &why);
                    }
                }
                Step::Lost(inputs) => {
                    self.lost += inputs;
                    outln!("{} {inputs} inputs were lost here", time(self.last));
                }
                _ => {}
            }
        }
    }

    fn note(&mut self, now: Tick, why: &str) {
        let told = || format!("at {} the replay differs: {why}", time(now).trim());
        self.differs.get_or_insert_with(told);
    }

    fn check(&self, pool: Option<&Pool<()>>) -> Result<(), Failure> {
        let Some(pool) = pool else { return Ok(()) };
        // `check` panics on a broken invariant; here that is the finding, to be
        // reported with its place.
        let checked = catch_unwind(AssertUnwindSafe(|| pool.check()));
        checked.map_err(|_| {
            Failure::failed(format!(
                "an invariant of the scheduler is broken after input {}, at {}: a bug, please report it with the recording",
                self.inputs,
                time(self.last).trim()
            ))
        })
    }

    fn show(&mut self, now: Tick, input: &Input<()>, effects: &[Effect<()>], all: bool) {
        if all {
            outln!("{} <- {}", time(now), input_line(input));
        }
        for effect in effects {
            *self.effects.entry(name(effect)).or_default() += 1;
            if all || matches!(effect, Effect::Outcome(_) | Effect::Drop { .. }) {
                outln!("{} -> {}", time(now), effect_line(effect));
            }
        }
    }

    /// The last words, and the exit status.
    fn end(self, file: &Path, replay: &Replay<'_>) -> Result<Exit, Failure> {
        self.check(replay.pool())?;
        // Inputs mean nothing without a pool to give them to.
        let Some((first, pool)) = self.first.zip(replay.pool()) else {
            let why = "the recording has no pool to begin with";
            return Err(Failure::failed(format!("{}: {why}", file.display())));
        };
        outln!(
            "{} inputs over {} s, {} lost; {} whole pools, {} digests",
            self.inputs,
            time(Tick(self.last.0 - first.0)).trim(),
            self.lost,
            self.pools,
            self.digests
        );
        let effects = self.effects.iter().map(|(name, n)| format!("{n} {name}"));
        outln!("effects: {}", effects.collect::<Vec<_>>().join(", "));
        let outcome = replay.outcome().map(Outcome::name);
        outln!(
            "at the end: {}, applied {}, proven {}, {} bytes held, {} peers",
            outcome.unwrap_or("no outcome was said"),
            pool.applied(),
            pool.proven(),
            pool.buffered_bytes(),
            pool.peers().count()
        );
        match self.differs {
            Some(why) => Err(Failure::failed(why)),
            None => {
                outln!("the replay is what was recorded, and every invariant holds");
                Ok(Exit::Reached)
            }
        }
    }
}

/// Seconds since the service started.
fn time(Tick(micros): Tick) -> String {
    format!("{:>6}.{:06}", micros / 1_000_000, micros % 1_000_000)
}

fn name(effect: &Effect<()>) -> &'static str {
    match effect {
        Effect::Ask { .. } => "asks",
        Effect::Cancel { .. } => "cancels",
        Effect::AskStatus { .. } => "status requests",
        Effect::Read(_) => "changes of who is read",
        Effect::Verify { .. } => "runs to prove",
        Effect::Examine { .. } => "copies to examine",
        Effect::Apply { .. } => "jobs to apply",
        Effect::Drop { .. } => "drops",
        Effect::Outcome(_) => "outcomes",
        Effect::ProveClaim { .. } => "claims to prove",
    }
}

fn heights(blocks: &[Candidate<()>]) -> String {
    match (blocks.first(), blocks.last()) {
        (Some(first), Some(last)) => format!("{} to {}", first.meta.height, last.meta.height),
        _ => "nothing".to_owned(),
    }
}

/// An input in one line: of a block its height, size and supplier.
fn input_line(input: &Input<()>) -> String {
    match input {
        Input::Block { conn, meta, .. } => {
            format!("block {} of {} bytes from {conn}", meta.height, meta.bytes)
        }
        Input::NoBlock { conn, height } => format!("no block {height} at {conn}"),
        other => format!("{other:?}"),
    }
}

/// An effect in one line: of a run its heights.
fn effect_line(effect: &Effect<()>) -> String {
    match effect {
        Effect::Ask {
            conn, from, count, ..
        } => format!("ask {conn} for {count} from {from}"),
        Effect::Verify { run, blocks, .. } => format!("prove {}, {run:?}", heights(blocks)),
        Effect::Apply { blocks, .. } => format!("apply {}", heights(blocks)),
        Effect::Drop {
            conn, peer, reason, ..
        } => format!("drop {peer}{conn}: {reason}"),
        Effect::Outcome(outcome) => format!("outcome {}: {outcome:?}", outcome.name()),
        other => format!("{other:?}"),
    }
}
