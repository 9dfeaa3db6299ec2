//! The figures in Prometheus' formats: CometBFT's names where the meaning is the same, ours beside
//! them (`docs/metrics.md`).
//!
//! Labels have fixed sets of values, but for the peers' ids, of which there are never more than a
//! setting says: how many series there are does not depend on peers or chains.

mod comet;
mod ours;
mod peers;
mod process;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use blocksync::service::Histogram;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::rpc::Rpc;
use crate::watch::Watch;
use peers::PeerBytes;

/// Labels of a series.
type Labels = Vec<(&'static str, Cow<'static, str>)>;
/// A series: its labels and its value.
type Series = (Labels, f64);

/// A metric with its series.
struct Family {
    name: &'static str,
    help: String,
    values: Values,
}

enum Values {
    Gauges(Vec<Series>),
    /// The name gets `_total`.
    Counters(Vec<Series>),
    Histograms(Vec<(Labels, Distribution)>),
}

/// A histogram as it stands.
struct Distribution {
    /// Upper bounds with the counts between them; above the last one comes `over`.
    buckets: Vec<(f64, u64)>,
    over: u64,
    sum: f64,
}

impl Distribution {
    fn of(histogram: &Histogram) -> Self {
        Self::scaled(histogram, 1.0)
    }

    /// In units of which the histogram's has this many.
    fn scaled(histogram: &Histogram, by: f64) -> Self {
        let mut counts = histogram.counts();
        // The histogram's last count is of everything above its bounds.
        let over = counts.pop().unwrap_or_default();
        let bounds = histogram.bounds().iter().map(|bound| bound * by);
        Distribution {
            buckets: bounds.zip(counts).collect(),
            over,
            sum: histogram.sum() * by,
        }
    }
}

fn label(name: &'static str, value: impl Into<Cow<'static, str>>) -> Labels {
    vec![(name, value.into())]
}

fn family(name: &'static str, help: &str, values: Values) -> Family {
    Family {
        name,
        help: help.to_owned(),
        values,
    }
}

fn gauge(name: &'static str, help: &str, value: f64) -> Family {
    gauges(name, help, vec![(Vec::new(), value)])
}

fn gauges(name: &'static str, help: &str, series: Vec<Series>) -> Family {
    family(name, help, Values::Gauges(series))
}

fn counter(name: &'static str, help: &str, value: f64) -> Family {
    counters(name, help, vec![(Vec::new(), value)])
}

fn counters(name: &'static str, help: &str, series: Vec<Series>) -> Family {
    family(name, help, Values::Counters(series))
}

fn histogram(name: &'static str, help: &str, of: &Histogram) -> Family {
    let one = vec![(Vec::new(), Distribution::of(of))];
    family(name, help, Values::Histograms(one))
}

/// A count, as far as a float takes it.
fn count(of: &AtomicU64) -> f64 {
    of.load(Relaxed) as f64
}

/// All figures of one node.
#[derive(Clone)]
pub(crate) struct Metrics {
    rpc: Arc<Rpc>,
    watch: Arc<Watch>,
    peers: Arc<PeerBytes>,
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
    pub(crate) fn new(rpc: Arc<Rpc>, watch: Arc<Watch>, peer_series: usize) -> Self {
        Metrics {
            rpc,
            watch,
            peers: Arc::new(PeerBytes::new(peer_series)),
        }
    }

    /// The whole exposition, in OpenMetrics or in Prometheus' text format. Blocks: it reads the
    /// store.
    pub(crate) fn expose(&self, namespace: &str, open_metrics: bool) -> Result<String, fmt::Error> {
        let chain = self.rpc.node.genesis.chain_id.clone();
        let labels = [("chain_id".into(), chain.into())];
        let mut registry = Registry::with_labels(labels.into_iter());
        // The client library writes this bound as `+Inf`, by another number
        // in each of its encoders.
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
        // Without a prefix: dashboards know these names as they are.
        registry.register_collector(part(|_| process::families()));
        let mut out = String::new();
        if open_metrics {
            prometheus_client::encoding::text::encode(&mut out, &registry)?;
        } else {
            prometheus_client::encoding::prometheus_text::encode(&mut out, &registry)?;
        }
        Ok(out)
    }
}

impl Collector for Prefixed {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        for Family { name, help, values } in (self.families)(&self.metrics) {
            let kind = match values {
                Values::Gauges(_) => MetricType::Gauge,
                Values::Counters(_) => MetricType::Counter,
                Values::Histograms(_) => MetricType::Histogram,
            };
            let metric = encoder.encode_descriptor(name, &help, None, kind)?;
            match values {
                Values::Gauges(series) => each(metric, &series, |metric, value| {
                    ConstGauge::new(*value).encode(metric)
                })?,
                Values::Counters(series) => each(metric, &series, |metric, value| {
                    ConstCounter::new(*value).encode(metric)
                })?,
                Values::Histograms(series) => each(metric, &series, |metric, distribution| {
                    encode_histogram(metric, distribution, self.end)
                })?,
            }
        }
        Ok(())
    }
}

fn each<T>(
    mut metric: MetricEncoder,
    series: &[(Labels, T)],
    encode: impl Fn(MetricEncoder, &T) -> Result<(), fmt::Error>,
) -> Result<(), fmt::Error> {
    // A metric without labels must not open a family of its own.
    if let [(labels, value)] = series
        && labels.is_empty()
    {
        return encode(metric, value);
    }
    for (labels, value) in series {
        let labels: Vec<(&str, &str)> = labels.iter().map(|(k, v)| (*k, v.as_ref())).collect();
        encode(metric.encode_family(&labels.as_slice())?, value)?;
    }
    Ok(())
}

/// The last bucket is at the number that the format takes for the end.
fn encode_histogram(
    mut metric: MetricEncoder,
    of: &Distribution,
    end: f64,
) -> Result<(), fmt::Error> {
    let mut buckets = of.buckets.clone();
    buckets.push((end, of.over));
    let all = buckets.iter().map(|(_, count)| count).sum();
    metric.encode_histogram::<NoLabelSet>(of.sum, all, &buckets, None)
}
