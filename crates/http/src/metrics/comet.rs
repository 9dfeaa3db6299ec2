//! Figures under CometBFT's names.

use std::sync::atomic::Ordering::Relaxed;

use blocksync::service::{Figures, Histograms};

use super::{
    Distribution, Family, Labels, Metrics, Series, Values, count, counters, family, gauge,
    histogram, label,
};
use crate::node::{MessageBytes, Transport};

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
        all.push(gauge(name, &format!("{what} {last}"), value));
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
        all.push(gauge(name, &format!("{what} {since}"), value));
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
        // Voting power is below 2^60; a float is exact up to 2^53, which is what
        // dashboards get from CometBFT, too.
        let power = share.power.load(Relaxed) as f64;
        let members = count(&share.members);
        all.push(gauge(name, &format!("Validators {what}"), members));
        all.push(gauge(power_name, &format!("Voting power {what}"), power));
    }
    all.extend(distributions(&f.histograms));
}

/// Times, within CometBFT's bounds.
fn distributions(histograms: &Histograms) -> [Family; 3] {
    let call = |method: &'static str, times| {
        let labels: Labels = vec![("method", method.into()), ("type", "sync".into())];
        (labels, Distribution::of(times))
    };
    let calls = vec![
        call("finalize_block", &histograms.finalize_block),
        call("commit", &histograms.commit),
    ];
    // CometBFT's metric of this name is in milliseconds.
    let millis = Distribution::scaled(&histograms.block_processing, 1000.0);
    [
        family(
            "abci_connection_method_timing_seconds",
            "Time of calls into the application",
            Values::Histograms(calls),
        ),
        family(
            "state_block_processing_time",
            "Time of FinalizeBlock in milliseconds",
            Values::Histograms(vec![(Vec::new(), millis)]),
        ),
        histogram(
            "consensus_block_interval_seconds",
            "Time between blocks that were applied while following the chain",
            &histograms.block_interval,
        ),
    ]
}

impl Metrics {
    /// Under CometBFT's names. Its counters that do not end in `_total` are gauges here: the format
    /// would add the ending.
    pub(super) fn comet(&self) -> Vec<Family> {
        let node = &self.rpc.node;
        // A store that cannot be read shows as 0; `/readyz` says why.
        let applied = node.store.span().map_or(0, |span| span.applied.get()) as f64;
        let syncing = f64::from(u8::from(node.is_syncing()));
        // In this order, so that the sum over peers is not above that of all.
        let peers = node.peers();
        let transport = (node.transport)();
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
            gauge("p2p_peers", "Connected peers", peers.len() as f64),
        ];
        all.extend(self.peers.families(&peers, &transport));
        all.extend(by_type(&transport));
        if let Some(view) = &node.view {
            of_blocks(&mut all, view.meters().figures());
        }
        all
    }
}

/// Bytes of messages by their type.
fn by_type(transport: &Transport) -> [Family; 2] {
    let messages = transport.messages.iter();
    let rows = |of: fn(&MessageBytes) -> u64| -> Vec<Series> {
        let rows = messages.clone();
        rows.map(|m| (label("message_type", m.name), of(m) as f64))
            .collect()
    };
    [
        counters(
            "p2p_message_receive_bytes",
            "Bytes of messages received, by type",
            rows(|m| m.received),
        ),
        counters(
            "p2p_message_send_bytes",
            "Bytes of messages sent, by type",
            rows(|m| m.sent),
        ),
    ]
}
