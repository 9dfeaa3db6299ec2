//! The figures in Prometheus' formats: CometBFT's names where the meaning is the same, ours beside
//! them (`docs/metrics.md`).
//!
//! All labels have fixed sets of values: how many series there are does not depend on peers or
//! chains.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use blocksync::pool::Outcome;
use blocksync::service::{
    APP_CALL_BOUNDS, Figures, Meters, Phase, Stage, StageTimes, Stages, Status, Timings,
};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::rpc::Rpc;
use crate::watch::{OUTCOMES, PHASES, Watch, phase_name};

/// A series: its labels and its value.
type Series = (Vec<(&'static str, &'static str)>, f64);

/// A metric with its series.
enum Family {
    Gauge(&'static str, String, Vec<Series>),
    /// Its name gets `_total`.
    Counter(&'static str, String, Vec<Series>),
    /// Calls into the application, by method.
    Calls(&'static str, &'static str, Vec<(&'static str, Calls)>),
}

/// How calls of one method took.
struct Calls {
    cumulative: [u64; APP_CALL_BOUNDS.len() + 1],
    seconds: f64,
}

impl Calls {
    fn of(timings: &Timings) -> Self {
        Calls {
            cumulative: timings.cumulative(),
            seconds: timings.total().as_secs_f64(),
        }
    }
}

fn one(value: f64) -> Vec<Series> {
    vec![(Vec::new(), value)]
}

/// A set of gauges of which one stands at 1.
fn state(label: &'static str, values: &[&'static str], now: &str) -> Vec<Series> {
    let each = values.iter();
    each.map(|value| {
        let is_now = if *value == now { 1.0 } else { 0.0 };
        (vec![(label, *value)], is_now)
    })
    .collect()
}

/// A count, as far as a float takes it.
fn count(of: &AtomicU64) -> f64 {
    of.load(Relaxed) as f64
}

fn seconds(nanos: &AtomicI64) -> f64 {
    nanos.load(Relaxed) as f64 / 1e9
}

/// Figures of applied blocks, under CometBFT's names.
fn of_blocks(all: &mut Vec<Family>, f: &Figures) {
    let (bytes, txs) = (count(&f.bytes), count(&f.txs));
    let (last_bytes, last_txs) = (count(&f.last_bytes), count(&f.last_txs));
    let last = "of the last block";
    for (name, what, value) in [
        ("blocksync_num_txs", "Transactions", last_txs),
        ("blocksync_block_size_bytes", "Bytes", last_bytes),
        ("consensus_num_txs", "Transactions", last_txs),
        ("consensus_block_size_bytes", "Bytes", last_bytes),
    ] {
        all.push(Family::Gauge(name, format!("{what} {last}"), one(value)));
    }
    let since = "since the start";
    for (name, what, value) in [
        ("blocksync_total_txs", "Transactions applied", txs),
        ("consensus_total_txs", "Transactions applied", txs),
        (
            "consensus_chain_size_bytes",
            "Bytes of blocks applied",
            bytes,
        ),
        (
            "state_validator_set_updates",
            "Updates of the validator set",
            count(&f.set_updates),
        ),
        (
            "state_consensus_param_updates",
            "Updates of the params",
            count(&f.param_updates),
        ),
    ] {
        all.push(Family::Gauge(name, format!("{what} {since}"), one(value)));
    }
    for (name, power_name, what, share) in [
        (
            "consensus_validators",
            "consensus_validators_power",
            "in force",
            &f.validators,
        ),
        (
            "consensus_missing_validators",
            "consensus_missing_validators_power",
            "absent from the last commit",
            &f.missing,
        ),
        (
            "consensus_byzantine_validators",
            "consensus_byzantine_validators_power",
            "with evidence in the last block",
            &f.byzantine,
        ),
    ] {
        let power = share.power.load(Relaxed) as f64;
        let members = one(count(&share.members));
        all.push(Family::Gauge(name, format!("Validators {what}"), members));
        all.push(Family::Gauge(
            power_name,
            format!("Voting power {what}"),
            one(power),
        ));
    }
    all.push(of_calls(f));
}

/// Times of calls into the application.
fn of_calls(f: &Figures) -> Family {
    Family::Calls(
        "abci_connection_method_timing_seconds",
        "Time of calls into the application",
        vec![
            ("finalize_block", Calls::of(&f.finalize_block)),
            ("commit", Calls::of(&f.commit)),
        ],
    )
}

/// All figures of one node.
#[derive(Clone)]
pub(crate) struct Metrics {
    rpc: Arc<Rpc>,
    watch: Arc<Watch>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// The figures under one prefix.
#[derive(Debug)]
struct Prefixed {
    metrics: Metrics,
    families: fn(&Metrics) -> Vec<Family>,
    end: f64,
}

impl Metrics {
    pub(crate) fn new(rpc: Arc<Rpc>, watch: Arc<Watch>) -> Self {
        Metrics { rpc, watch }
    }

    /// The whole exposition, in OpenMetrics or in Prometheus' text format. Blocks: it reads the
    /// store.
    pub(crate) fn expose(&self, namespace: &str, open_metrics: bool) -> Result<String, fmt::Error> {
        let chain = self.rpc.node.genesis.chain_id.clone();
        let labels = [("chain_id".into(), chain.into())];
        let mut registry = Registry::with_labels(labels.into_iter());
        let end = if open_metrics {
            f64::MAX
        } else {
            f64::INFINITY
        };
        let part = |families| {
            let metrics = self.clone();
            Box::new(Prefixed {
                metrics,
                families,
                end,
            })
        };
        let comet = registry.sub_registry_with_prefix(namespace);
        comet.register_collector(part(Metrics::comet));
        let ours = registry.sub_registry_with_prefix("blocksync");
        ours.register_collector(part(Metrics::ours));
        registry.register_collector(part(|_| process()));
        let mut out = String::new();
        if open_metrics {
            prometheus_client::encoding::text::encode(&mut out, &registry)?;
        } else {
            prometheus_client::encoding::prometheus_text::encode(&mut out, &registry)?;
        }
        Ok(out)
    }

    /// Under CometBFT's names. Its counters that do not end in `_total` are gauges here: the format
    /// would add the ending.
    fn comet(&self) -> Vec<Family> {
        let node = &self.rpc.node;
        let applied = node.store.span().map_or(0, |span| span.applied.get()) as f64;
        let syncing = f64::from(u8::from(node.is_syncing()));
        let transport = (node.transport)();
        let sum = |value: u64| vec![(vec![("peer_id", "other"), ("chID", "0x40")], value as f64)];
        let mut all = vec![
            gauge("consensus_height", "Height that comes next", applied + 1.0),
            gauge(
                "consensus_latest_block_height",
                "Last height applied",
                applied,
            ),
            gauge(
                "blocksync_latest_block_height",
                "Last height applied",
                applied,
            ),
            gauge("blocksync_syncing", "1 while the node is behind", syncing),
            gauge("p2p_peers", "Connected peers", node.peers().len() as f64),
            counters(
                "p2p_peer_receive_bytes",
                "Bytes received from all peers",
                sum(transport.received),
            ),
            counters(
                "p2p_peer_send_bytes",
                "Bytes sent to all peers",
                sum(transport.sent),
            ),
        ];
        if let Some(view) = &node.view {
            of_blocks(&mut all, view.meters().figures());
        }
        all
    }

    /// Under our own names.
    fn ours(&self) -> Vec<Family> {
        let node = &self.rpc.node;
        let span = node.store.span().unwrap_or_default();
        let version = vec![(vec![("version", env!("CARGO_PKG_VERSION"))], 1.0)];
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
                "Always 1; the version is in the label",
                version,
            ),
        ];
        self.outside(&mut all);
        if let Some(view) = &node.view {
            let status = view.status().borrow().clone();
            self.service(&mut all, &status);
            of_service(&mut all, view.meters());
        }
        all
    }

    /// The transport and the RPC.
    fn outside(&self, all: &mut Vec<Family>) {
        let transport = (self.rpc.node.transport)();
        let ended = transport.ended.iter();
        let ended = ended.map(|(reason, n)| (vec![("reason", *reason)], *n as f64));
        let calls = self
            .rpc
            .tally
            .read()
            .flat_map(|(method, [failed, succeeded])| {
                let series = |result, value: u64| {
                    (vec![("method", method), ("result", result)], value as f64)
                };
                [series("failed", failed), series("succeeded", succeeded)]
            });
        let wire = [("in", transport.received), ("out", transport.sent)];
        let wire = wire.map(|(way, bytes)| (vec![("direction", way)], bytes as f64));
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
        ]);
    }

    fn service(&self, all: &mut Vec<Family>, status: &Status) {
        let pace = self.watch.pace();
        let outcome = status.outcome.name();
        let stalled = f64::from(u8::from(
            matches!(status.outcome, Outcome::Stalled { .. }) || status.waiting.is_some(),
        ));
        let phase = phase_name(status.phase);
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

fn gauge(name: &'static str, help: &str, value: f64) -> Family {
    gauges(name, help, one(value))
}

fn gauges(name: &'static str, help: &str, series: Vec<Series>) -> Family {
    Family::Gauge(name, help.to_owned(), series)
}

fn counter(name: &'static str, help: &str, value: f64) -> Family {
    counters(name, help, one(value))
}

fn counters(name: &'static str, help: &str, series: Vec<Series>) -> Family {
    Family::Counter(name, help.to_owned(), series)
}

/// One series for each stage.
fn by_stage(stages: &Stages, of: impl Fn(StageTimes) -> f64) -> Vec<Series> {
    let each = Stage::ALL.into_iter();
    each.map(|stage| (vec![("stage", stage.name())], of(stages.of(stage))))
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
                vec![("stage", stage.name()), ("for", why)],
                time.as_secs_f64(),
            )
        })
    });
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
}

/// The process, under the names that every exporter uses. Empty where `/proc` is not there.
fn process() -> Vec<Family> {
    let read = |file: &str| std::fs::read_to_string(format!("/proc/self/{file}")).ok();
    let mut all = Vec::new();
    let page = rustix::param::page_size() as f64;
    if let Some(pages) = read("statm").and_then(|s| s.split(' ').nth(1)?.parse::<f64>().ok()) {
        all.push(gauge(
            "process_resident_memory_bytes",
            "Resident memory",
            pages * page,
        ));
    }
    let stat = read("stat").unwrap_or_default();
    // The name in parentheses may hold spaces.
    let fields: Vec<f64> = stat
        .rsplit_once(')')
        .map_or("", |(_, rest)| rest)
        .split_whitespace()
        .skip(1)
        .map(|field| field.parse().unwrap_or(0.0))
        .collect();
    let ticks = rustix::param::clock_ticks_per_second() as f64;
    if let (Some(user), Some(system)) = (fields.get(10), fields.get(11)) {
        let cpu = (user + system) / ticks;
        all.push(counter("process_cpu_seconds", "CPU time", cpu));
    }
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        all.push(gauge(
            "process_open_fds",
            "Open file descriptors",
            open.count() as f64,
        ));
    }
    all
}

impl Collector for Prefixed {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        for family in (self.families)(&self.metrics) {
            match family {
                Family::Gauge(name, help, series) => {
                    let metric = encoder.encode_descriptor(name, &help, None, MetricType::Gauge)?;
                    each(metric, &series, |metric, value| {
                        ConstGauge::new(value).encode(metric)
                    })?;
                }
                Family::Counter(name, help, series) => {
                    let metric =
                        encoder.encode_descriptor(name, &help, None, MetricType::Counter)?;
                    each(metric, &series, |metric, value| {
                        ConstCounter::new(value).encode(metric)
                    })?;
                }
                Family::Calls(name, help, methods) => {
                    let mut metric =
                        encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
                    for (method, calls) in methods {
                        let labels = [("method", method), ("type", "sync")];
                        histogram(metric.encode_family(&labels)?, &calls, self.end)?;
                    }
                }
            }
        }
        Ok(())
    }
}

fn each(
    mut metric: MetricEncoder,
    series: &[Series],
    encode: impl Fn(MetricEncoder, f64) -> Result<(), fmt::Error>,
) -> Result<(), fmt::Error> {
    if let [(labels, value)] = series
        && labels.is_empty()
    {
        return encode(metric, *value);
    }
    for (labels, value) in series {
        encode(metric.encode_family(&labels.as_slice())?, *value)?;
    }
    Ok(())
}

/// The last bucket is at the number that the format takes for the end.
fn histogram(mut metric: MetricEncoder, calls: &Calls, end: f64) -> Result<(), fmt::Error> {
    let mut before = 0;
    let bounds = APP_CALL_BOUNDS.iter().copied().chain([end]);
    let buckets: Vec<(f64, u64)> = bounds
        .zip(calls.cumulative)
        .map(|(bound, sum)| {
            let own = sum - before;
            before = sum;
            (bound, own)
        })
        .collect();
    metric.encode_histogram::<NoLabelSet>(calls.seconds, before, &buckets, None)
}
