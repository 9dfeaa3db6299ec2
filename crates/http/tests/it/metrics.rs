//! The exposition is what Prometheus reads, and has what boards ask for.

use std::collections::{BTreeMap, BTreeSet};

use blocksync::ids::Height;
use blocksync::wire::decode;
use blocksync_testkit::peers::Behaviour;

use crate::client::{Synced, ask, get};

/// One series: name, labels, value.
pub(crate) type Series = (String, BTreeMap<String, String>, f64);

/// Reads the text format 0.0.4, and refuses what Prometheus would.
pub(crate) fn parse(text: &str) -> (BTreeMap<String, String>, Vec<Series>) {
    let (mut types, mut series) = (BTreeMap::new(), Vec::new());
    let mut seen = BTreeSet::new();
    for line in text.lines() {
        if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert!(
                types.insert(name.to_owned(), kind.to_owned()).is_none(),
                "{name} twice"
            );
            continue;
        }
        if line.starts_with("# HELP ") || line == "# EOF" {
            continue;
        }
        assert!(!line.starts_with('#') && !line.is_empty(), "{line:?}");
        let (name, labels, value) = sample(line);
        assert!(
            seen.insert(line.rsplit_once(' ').unwrap().0.to_owned()),
            "{line} twice"
        );
        let base = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|end| name.strip_suffix(end));
        let known = types.contains_key(&name) || base.is_some_and(|base| types.contains_key(base));
        assert!(known, "{name} has no type");
        series.push((name, labels, value));
    }
    (types, series)
}

fn sample(line: &str) -> Series {
    let end = line.find(['{', ' ']).unwrap();
    let name = &line[..end];
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    assert!(
        name.chars().all(legal) && !name.starts_with(|c: char| c.is_ascii_digit()),
        "{name}"
    );
    let mut labels = BTreeMap::new();
    let mut rest = &line[end..];
    if let Some(inside) = rest.strip_prefix('{') {
        let close = inside.rfind('}').unwrap();
        for pair in inside[..close].split("\",").filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once("=\"").unwrap();
            labels.insert(key.to_owned(), value.trim_end_matches('"').to_owned());
        }
        rest = &inside[close + 1..];
    }
    let value = match rest.trim() {
        "+Inf" | "inf" => f64::INFINITY,
        number => number.parse().unwrap_or_else(|_| panic!("{line}")),
    };
    (name.to_owned(), labels, value)
}

/// Parts of the names of CometBFT's metrics that are not exposed (`docs/metrics.md`, section 4),
/// and of a process' figures that we do not tell of.
const NOT_EXPOSED: [&str; 9] = [
    "_round_",
    "_rounds",
    "_step_",
    "_mempool_",
    "_pending_send_",
    "process_network_",
    "process_virtual_",
    "_votes",
    "_proposal",
];
/// A counter there and a gauge here: the format would add an ending to its name.
const OTHER_TYPE: &str = "cometbft_state_validator_set_updates";

#[tokio::test(flavor = "multi_thread")]
async fn the_text_parses_and_has_comets_names() {
    let synced = Synced::new("full-038", "comet-0.38", 100, &[Behaviour::Honest]).await;
    let http = synced.serve_live();
    let answer = get(&http, "/metrics").await;
    assert_eq!(
        answer.header("content-type"),
        Some("text/plain; version=0.0.4; charset=utf-8")
    );
    let (types, series) = parse(answer.text());
    let recorded = include_str!("../golden/metrics-v0.38.25.txt");
    for line in recorded.lines().filter_map(|l| l.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        if name != OTHER_TYPE && !NOT_EXPOSED.iter().any(|part| name.contains(part)) {
            assert_eq!(types.get(name).map(String::as_str), Some(kind), "{name}");
        }
    }
    assert!(types.contains_key(OTHER_TYPE));
    let value = |name: &str| {
        let found = series.iter().find(|(n, _, _)| n == name);
        found.unwrap_or_else(|| panic!("no {name}")).2
    };
    assert_eq!(value("blocksync_applied_height"), 100.0);
    assert_eq!(value("cometbft_consensus_height"), 101.0);
    assert_eq!(value("blocksync_blocks_applied_total"), 94.0);
    let record = blocksync::store::Store::block(&*synced.store, Height::new(100));
    let raw = record.unwrap().unwrap().raw;
    let txs = decode::block_from_bytes(&raw).unwrap().txs.len();
    for of in ["blocksync", "consensus"] {
        let last = |what: &str| value(&format!("cometbft_{of}_{what}"));
        assert_eq!(last("num_txs"), txs as f64);
        assert_eq!(last("block_size_bytes"), raw.len() as f64);
        assert!(last("total_txs") > last("num_txs"));
    }
    assert!(value("cometbft_consensus_chain_size_bytes") > raw.len() as f64);
    let state = blocksync::store::Store::state(&*synced.store);
    let validators = state.unwrap().unwrap().validators.len();
    assert_eq!(value("cometbft_consensus_validators"), validators as f64);
    assert!(value("blocksync_last_progress_timestamp_seconds") > 1.7e9);
    let chain = |labels: &BTreeMap<String, String>| labels.get("chain_id").cloned();
    let of_chain = |(_, labels, _): &Series| chain(labels).as_deref() == Some("full-038");
    assert!(series.iter().all(of_chain));
    let bucket = |le: &str| {
        let found = series.iter().find(|(name, labels, _)| {
            name == "cometbft_abci_connection_method_timing_seconds_bucket"
                && labels["method"] == "finalize_block"
                && labels["le"] == le
        });
        found.unwrap_or_else(|| panic!("no bucket {le}")).2
    };
    assert_eq!(bucket("+Inf"), 94.0);
    assert!(bucket("0.0001") <= bucket("25"));
    assert_eq!(value("cometbft_state_block_processing_time_count"), 94.0);
    // Nothing was applied while following: what was synced says nothing of the chain's pace.
    assert_eq!(
        value("cometbft_consensus_block_interval_seconds_count"),
        0.0
    );
    assert!(value("blocksync_store_commit_seconds_count") >= 1.0);
    assert!(value("blocksync_run_blocks_sum") >= 94.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn open_metrics_ends_as_it_must() {
    let synced = Synced::new("one", "comet-0.38", 20, &[Behaviour::Honest]).await;
    let http = synced.serve_live();
    let accept = "Accept: application/openmetrics-text; version=1.0.0\r\n";
    let answer = ask(&http, "GET", "/metrics", accept, b"").await;
    let kind = answer.header("content-type").unwrap();
    assert!(
        kind.starts_with("application/openmetrics-text; version=1.0.0"),
        "{kind}"
    );
    assert!(answer.text().ends_with("# EOF\n"));
    assert!(
        answer
            .text()
            .contains("blocksync_blocks_applied_total{chain_id=")
    );
}

/// The metrics and labels that the queries of Grafana's board 11036 name, without those of a
/// mempool, which we do not have.
#[tokio::test(flavor = "multi_thread")]
async fn the_popular_board_finds_its_metrics() {
    let synced = Synced::new("one", "comet-0.38", 20, &[Behaviour::Honest]).await;
    let http = synced.serve_live();
    let (_, series) = parse(get(&http, "/metrics").await.text());
    for name in [
        "consensus_height",
        "consensus_total_txs",
        "consensus_validators_power",
        "consensus_validators",
        "consensus_missing_validators",
        "consensus_byzantine_validators",
        "consensus_missing_validators_power",
        "consensus_byzantine_validators_power",
        "consensus_block_size_bytes",
        "consensus_num_txs",
        "p2p_peers",
        "p2p_peer_receive_bytes_total",
        "p2p_peer_send_bytes_total",
    ] {
        let found = series.iter().any(|(found, labels, _)| {
            *found == format!("cometbft_{name}") && labels.contains_key("chain_id")
        });
        assert!(found, "{name}");
    }
}

/// `docs/metrics.md` 5 names every metric of ours, and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn the_documents_table_is_what_is_exposed() {
    let synced = Synced::new("one", "comet-0.38", 20, &[Behaviour::Honest]).await;
    let http = synced.serve_live();
    synced.until_seen(&http).await;
    let (types, series) = parse(get(&http, "/metrics").await.text());
    let exposed = types
        .keys()
        .filter_map(|name| name.strip_prefix("blocksync_"));
    let exposed: BTreeSet<&str> = exposed.collect();
    let document = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/metrics.md");
    let document = std::fs::read_to_string(document).unwrap();
    let (_, section) = document.split_once("\n## 5. ").unwrap();
    let (section, _) = section.split_once("\n## 6. ").unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| "));
    let rows = rows.skip_while(|row| row.starts_with("name "));
    let named = rows.flat_map(|row| row.split_once(" |").unwrap().0.split(", "));
    let mut named: BTreeSet<&str> = named.collect();
    // There is nothing to estimate at the end of a sync.
    assert!(named.remove("eta_seconds"));
    assert_eq!(named, exposed);
    let claims = series
        .iter()
        .filter(|(name, ..)| name == "blocksync_peer_claims");
    let claims: f64 = claims.map(|(.., peers)| peers).sum();
    assert_eq!(claims, 1.0, "the one peer has one verdict");
}
