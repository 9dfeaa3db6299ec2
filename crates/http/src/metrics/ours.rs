//! Figures under our own names.

use std::borrow::Cow;
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::time::UNIX_EPOCH;

use blocksync::pool::{Outcome, Stall};
use blocksync::service::{Meters, Phase, ServeCounters, Stage, StageTimes, Stages, Status};

use super::{Family, Metrics, Series, count, counter, counters, gauge, gauges, histogram, label};
use crate::watch::{OUTCOMES, PHASES, Seen, VERDICTS, phase_name, verdict};

/// A set of gauges of which one stands at 1.
fn state(name: &'static str, values: &[&'static str], now: &str) -> Vec<Series> {
    // All of them, with 0 for the others: a series that vanishes breaks alerts.
    let each = values.iter();
    each.map(|value| {
        let is_now = if *value == now { 1.0 } else { 0.0 };
        (label(name, *value), is_now)
    })
    .collect()
}

/// All of `wait`.
const WAITS: [&str; 7] = [
    "none",
    "no_block",
    "unproven",
    "not_canonical",
    "strangers_differ",
    "execution",
    "other",
];

/// A word for what is waited for.
fn wait(status: &Status) -> &'static str {
    match &status.outcome {
        Outcome::Stalled { why } => match why {
            Stall::NoBlock(_) => "no_block",
            Stall::Unproven(_) => "unproven",
            Stall::NotCanonical(..) => "not_canonical",
            Stall::StrangersDiffer(_) => "strangers_differ",
            _ => "other",
        },
        // A call into the application, or the disk.
        _ if status.waiting.is_some() => "execution",
        _ => "none",
    }
}

fn seconds(nanos: &AtomicI64) -> f64 {
    nanos.load(Relaxed) as f64 / 1e9
}

impl Metrics {
    /// Under our own names.
    pub(super) fn ours(&self) -> Vec<Family> {
        let node = &self.rpc.node;
        // A store that cannot be read shows as zeros; `/readyz` says why.
        let span = node.store.span().unwrap_or_default();
        let mut build = label("version", env!("CARGO_PKG_VERSION"));
        // The packages' scripts set it: the crate does not run git.
        build.extend(option_env!("BLOCKSYNC_COMMIT").map(|commit| ("commit", commit.into())));
        let listeners = self.watch.listeners() as f64;
        let mut all = vec![
            gauge(
                "stored_height",
                "Last height stored",
                span.stored.get() as f64,
            ),
            gauge(
                "applied_height",
                "Last height applied and durable",
                span.applied.get() as f64,
            ),
            gauge(
                "base_height",
                "Lowest height stored",
                span.base.get() as f64,
            ),
            gauge("page_listeners", "Status pages that are open", listeners),
            gauges(
                "build_info",
                "Always 1; version and commit are in the labels",
                vec![(build, 1.0)],
            ),
        ];
        self.outside(&mut all);
        if let Some(view) = &node.view {
            // Cloned, so that all figures are of one moment and nothing is locked meanwhile.
            let status = view.status().borrow().clone();
            self.service(&mut all, &status);
            of_service(&mut all, view.meters());
            if let Some(seen) = self.watch.seen() {
                of_scheduler(&mut all, &seen, &status);
            }
        }
        all
    }

    /// The transport and the RPC.
    fn outside(&self, all: &mut Vec<Family>) {
        let transport = (self.rpc.node.transport)();
        let ended = transport.ended.iter();
        let ended = ended.map(|(reason, n)| (label("reason", *reason), *n as f64));
        let calls = self
            .rpc
            .tally
            .read()
            .flat_map(|(method, [failed, succeeded])| {
                let series = |result: &'static str, value: u64| {
                    let labels = vec![("method", method.into()), ("result", result.into())];
                    (labels, value as f64)
                };
                [series("failed", failed), series("succeeded", succeeded)]
            });
        let wire = [("in", transport.received), ("out", transport.sent)];
        let wire = wire.map(|(way, bytes)| (label("direction", way), bytes as f64));
        all.extend([
            counter(
                "dials",
                "Connections that we tried to make",
                transport.dialled as f64,
            ),
            counter(
                "accepted",
                "Connections that came in",
                transport.accepted as f64,
            ),
            counters("wire_bytes", "Bytes on the wire", wire.to_vec()),
            counters(
                "connections_ended",
                "Connections that failed or ended",
                ended.collect(),
            ),
            counters("rpc_requests", "Calls of the RPC", calls.collect()),
            histogram(
                "rpc_seconds",
                "Time of calls of the RPC",
                &self.rpc.tally.seconds,
            ),
        ]);
        of_serving(all, &self.rpc.node.serving);
        if let Some(dir) = &self.rpc.node.store_dir {
            of_disk(all, dir);
        }
    }

    fn service(&self, all: &mut Vec<Family>, status: &Status) {
        let pace = self.watch.pace();
        let outcome = status.outcome.name();
        let stalled = f64::from(u8::from(
            matches!(status.outcome, Outcome::Stalled { .. }) || status.waiting.is_some(),
        ));
        let phase = phase_name(status.phase);
        // "download" is no stage: it stands for all of them waiting for blocks.
        let stages = ["download", "decode", "prove", "execute", "store"];
        let bottleneck = state("stage", &stages, self.watch.bottleneck());
        all.extend([
            gauge(
                "target_height",
                "Best credible claim of a peer",
                status.target.get() as f64,
            ),
            gauge("peers", "Connected peers", status.peers as f64),
            gauge(
                "peers_dropped",
                "Dropped peers in the status",
                status.dropped.len() as f64,
            ),
            gauge(
                "buffered_bytes",
                "Bytes of blocks in memory",
                status.buffered_bytes as f64,
            ),
            gauge("stalled", "1 while nothing can move", stalled),
            gauges(
                "outcome",
                "State of the whole",
                state("outcome", &OUTCOMES, outcome),
            ),
            gauges(
                "phase",
                "Phase of the service",
                state("phase", &PHASES, phase),
            ),
            gauges("bottleneck", "Stage that the others waited for", bottleneck),
            gauges(
                "waiting",
                "Reason for which nothing moves",
                state("why", &WAITS, wait(status)),
            ),
            gauge(
                "blocks_per_second",
                "Blocks applied a second, over a minute",
                pace.rate,
            ),
        ]);
        // At the tip there is nothing to estimate.
        if let Some(eta) = pace.eta.filter(|_| status.phase == Phase::Syncing) {
            let help = "Time until the target is reached; infinite when we do not gain";
            all.push(gauge("eta_seconds", help, eta));
        }
    }
}

/// One series for each stage.
fn by_stage(stages: &Stages, of: impl Fn(StageTimes) -> f64) -> Vec<Series> {
    let each = Stage::ALL.into_iter();
    each.map(|stage| (label("stage", stage.name()), of(stages.of(stage))))
        .collect()
}

/// The stages, and the blocks that were applied.
fn of_service(all: &mut Vec<Family>, meters: &Meters) {
    let (f, stages) = (meters.figures(), meters.read());
    let waits = Stage::ALL.into_iter().flat_map(|stage| {
        let times = stages.of(stage);
        [
            ("work", times.waits_for_work),
            ("room", times.waits_for_room),
        ]
        .map(|(why, time)| {
            (
                vec![("stage", stage.name().into()), ("for", Cow::from(why))],
                time.as_secs_f64(),
            )
        })
    });
    // Commits are checked in more than one stage.
    let signatures: u64 = Stage::ALL
        .into_iter()
        .map(|s| stages.of(s).signatures)
        .sum();
    let (block_time, progress) = (seconds(&f.last_block_time), seconds(&f.last_progress));
    let blocks = by_stage(&stages, |times| times.blocks as f64);
    let busy = by_stage(&stages, |times| times.busy.as_secs_f64());
    let cpu = by_stage(&stages, |times| times.cpu.as_secs_f64());
    all.extend([
        gauge(
            "last_block_timestamp_seconds",
            "Time in the last block's header",
            block_time,
        ),
        gauge(
            "last_progress_timestamp_seconds",
            "Time of the last progress",
            progress,
        ),
        counter("blocks_applied", "Blocks applied", count(&f.blocks)),
        counter(
            "block_bytes_applied",
            "Bytes of blocks applied",
            count(&f.bytes),
        ),
        counter("txs_applied", "Transactions applied", count(&f.txs)),
        counter(
            "signatures",
            "Signatures of commits that were checked",
            signatures as f64,
        ),
        counters("stage_blocks", "Blocks that passed a stage", blocks),
        counters("stage_busy_seconds", "Time at work", busy),
        counters("stage_cpu_seconds", "CPU time at work", cpu),
        counters("stage_wait_seconds", "Time without work", waits.collect()),
    ]);
    let faults = f.faults();
    let faults = faults.map(|(fault, n)| (label("fault", fault), n as f64));
    let h = &f.histograms;
    all.extend([
        counters(
            "faults",
            "Peers dropped for a fault of theirs",
            faults.collect(),
        ),
        histogram("prove_seconds", "Time to prove a run", &h.prove),
        histogram("run_blocks", "Blocks in a run", &h.run_blocks),
        histogram(
            "store_commit_seconds",
            "Time to make a batch durable",
            &h.store_commit,
        ),
    ]);
}

/// The scheduler's last answer.
fn of_scheduler(all: &mut Vec<Family>, seen: &Seen, status: &Status) {
    let Seen { at, snapshot } = seen;
    let cells = WINDOW.map(|(letter, state)| {
        let cells = snapshot.window.bytes().filter(|cell| *cell == letter);
        (label("state", state), cells.count() as f64)
    });
    let verdicts = VERDICTS.map(|of| {
        let peers = snapshot.peers.iter();
        let peers = peers.filter(|p| verdict(p.height, status.applied, snapshot.proven) == of);
        (label("claim", of), peers.count() as f64)
    });
    let claims = || snapshot.peers.iter().map(|peer| peer.height);
    let best = claims().max().unwrap_or_default();
    let ahead = claims().filter(|claim| *claim > status.applied).count();
    let at = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    all.extend([
        gauge(
            "scheduler_timestamp_seconds",
            "Time of the scheduler's last answer",
            at.as_secs_f64(),
        ),
        gauge(
            "proven_height",
            "Last height proven",
            snapshot.proven.get() as f64,
        ),
        gauge(
            "best_claim_height",
            "Highest claim of a connected peer, true or not",
            best.get() as f64,
        ),
        gauge(
            "peers_ahead",
            "Connected peers that claim a block above the applied height",
            ahead as f64,
        ),
        gauges(
            "peer_claims",
            "Connected peers by the verdict on their claim",
            verdicts.to_vec(),
        ),
        gauge(
            "budget_bytes",
            "Bytes of blocks that memory may hold",
            snapshot.budget_bytes as f64,
        ),
        gauge(
            "asked_heights",
            "Heights that peers owe us",
            snapshot.owed as f64,
        ),
        gauges(
            "window_heights",
            "Heights of the window by their state",
            cells.to_vec(),
        ),
    ]);
}

/// Letters of `Snapshot::window`, and their words.
const WINDOW: [(u8, &str); 6] = [
    (b'.', "wanted"),
    (b'?', "asked"),
    (b'h', "held"),
    (b'v', "verifying"),
    (b'p', "verified"),
    (b'a', "applying"),
];

/// Blocks that peers were given.
fn of_serving(all: &mut Vec<Family>, serving: &ServeCounters) {
    for (name, help, of) in [
        (
            "serve_requests",
            "Requests answered or refused",
            &serving.requests,
        ),
        ("serve_blocks", "Blocks sent", &serving.blocks),
        ("serve_bytes", "Bytes of blocks sent", &serving.bytes),
        (
            "serve_blocks_from_memory",
            "Blocks sent that came from memory",
            &serving.from_memory,
        ),
        (
            "serve_no_blocks",
            "Heights answered with no block",
            &serving.no_blocks,
        ),
        (
            "serve_repeats",
            "Blocks sent to a peer that had been given them a few times before",
            &serving.repeats,
        ),
    ] {
        all.push(counter(name, help, count(of)));
    }
}

/// Bytes that the store takes, and that are free beside it. Nothing where they cannot be read.
fn of_disk(all: &mut Vec<Family>, dir: &Path) {
    let parts = [
        ("blocks", dir.join("blocks")),
        ("values", dir.join("values")),
        ("database", dir.to_owned()),
    ];
    let sizes = parts.into_iter().filter_map(|(what, dir)| {
        let files = std::fs::read_dir(dir).ok()?;
        let files = files.filter_map(|entry| entry.ok()?.metadata().ok());
        let bytes: u64 = files.filter(|m| m.is_file()).map(|m| m.len()).sum();
        Some((label("what", what), bytes as f64))
    });
    all.push(gauges("store_bytes", "Bytes of the store", sizes.collect()));
    if let Ok(system) = rustix::fs::statvfs(dir) {
        let free = system.f_bavail as f64 * system.f_frsize as f64;
        let help = "Bytes free on the store's file system";
        all.push(gauge("disk_free_bytes", help, free));
    }
}
