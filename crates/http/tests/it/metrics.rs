//! The exposition is what Prometheus reads, and has what boards ask for.

use std::collections::{BTreeMap, BTreeSet};

use blocksync_testkit::peers::Behaviour;

use crate::client::{Synced, ask, get};

/// One series: name, labels, value.
type Series = (String, BTreeMap<String, String>, f64);

/// Reads the text format 0.0.4, and refuses what Prometheus would.
fn parse(text: &str) -> (BTreeMap<String, String>, Vec<Series>) {
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

/// Metrics of CometBFT that we say something else with, or nothing (`docs/metrics.md`, section 4).
fn is_exposed(name: &str) -> bool {
    ![
        "mempool",
        "rounds",
        "round_",
        "step_",
        "proposal",
        "late_votes",
        "quorum",
        "full_prevote",
        "duplicate_vote",
        "duplicate_block_part",
        "block_parts",
        "block_gossip",
        "vote_extension",
        "precommit",
        "validator_power",
        "validator_last_signed",
        "validator_missed",
        "num_txs\"",
        "message_",
        "pending_send",
        "peer_num_txs",
        "p2p_num_txs",
        "block_interval",
        "statesync",
        "block_processing_time",
        "process_",
        "state_store",
        "block_store",
        "committed_height",
        "prevote",
        "complete_proposal",
    ]
    .iter()
    .any(|part| name.contains(part))
}

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
    let missing: Vec<&str> = recorded
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .map(|line| line.split(' ').next().unwrap())
        .filter(|name| is_exposed(name) && !types.contains_key(*name))
        .collect();
    assert_eq!(missing, Vec::<&str>::new());
    let value = |name: &str| {
        let found = series.iter().find(|(n, _, _)| n == name);
        found.unwrap_or_else(|| panic!("no {name}")).2
    };
    assert_eq!(value("blocksync_applied_height"), 100.0);
    assert_eq!(value("cometbft_consensus_height"), 101.0);
    assert_eq!(value("blocksync_blocks_applied_total"), 94.0);
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
    assert!(series.len() <= 400, "{} series", series.len());
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

/// Every metric that our board and our alerts name is there, and the files are what their readers
/// read.
#[tokio::test(flavor = "multi_thread")]
async fn our_board_and_alerts_name_metrics_that_exist() {
    let synced = Synced::new("one", "comet-0.38", 20, &[Behaviour::Honest]).await;
    let http = synced.serve_live();
    let (types, _) = parse(get(&http, "/metrics").await.text());
    let dir = format!("{}/../../contrib", env!("CARGO_MANIFEST_DIR"));
    let board = std::fs::read_to_string(format!("{dir}/grafana.json")).unwrap();
    let board: serde_json::Value = serde_json::from_str(&board).unwrap();
    let alerts = std::fs::read_to_string(format!("{dir}/alerts.yml")).unwrap();
    let panels = board["panels"].as_array().unwrap().iter();
    let queries = panels.flat_map(|panel| panel["targets"].as_array().unwrap());
    let mut expressions: Vec<String> = queries
        .map(|query| query["expr"].as_str().unwrap().to_owned())
        .collect();
    expressions.extend(
        alerts
            .lines()
            .filter_map(|line| line.trim().strip_prefix("expr: "))
            .map(ToOwned::to_owned),
    );
    assert!(expressions.len() >= 15, "{expressions:?}");
    // Only while a node is behind.
    let sometimes = ["blocksync_eta_seconds"];
    for expression in &expressions {
        assert_balanced(expression);
        let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        for name in
            words.filter(|word| word.starts_with("blocksync_") || word.starts_with("process_"))
        {
            assert!(
                types.contains_key(name) || sometimes.contains(&name),
                "{name} of {expression}"
            );
        }
    }
}

fn assert_balanced(expression: &str) {
    let mut open = Vec::new();
    for c in expression.chars() {
        match c {
            '(' | '{' | '[' => open.push(c),
            ')' => assert_eq!(open.pop(), Some('('), "{expression}"),
            '}' => assert_eq!(open.pop(), Some('{'), "{expression}"),
            ']' => assert_eq!(open.pop(), Some('['), "{expression}"),
            _ => {}
        }
    }
    assert!(open.is_empty(), "{expression}");
}
