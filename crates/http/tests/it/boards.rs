//! Our board, our alert rules and the documentation name metrics that exist.

use std::collections::BTreeSet;

use blocksync_testkit::peers::Behaviour;
use promql::{LabelMatch, LabelMatchOp, Node, ParserOptions, Vector, parse};

use crate::client::{Synced, get};
use crate::metrics::{Series, parse as parse_metrics};

/// Labels that Prometheus or the board's variables fill in.
const FROM_OUTSIDE: [&str; 3] = ["chain_id", "instance", "job"];
/// Absent while a node is not behind.
const SOMETIMES: &str = "blocksync_eta_seconds";
/// Prometheus' own.
const UP: &str = "up";

/// Collects the selectors of an expression.
fn collect(node: Node, found: &mut Vec<Vec<LabelMatch>>) {
    match node {
        Node::Vector(Vector { labels, .. }) => found.push(labels),
        Node::Operator { args, .. } | Node::Function { args, .. } => {
            args.into_iter().for_each(|arg| collect(arg, found));
        }
        Node::Negation(node) => collect(*node, found),
        Node::Scalar(_) | Node::String(_) => {}
    }
}

fn selectors(expression: &str) -> Vec<Vec<LabelMatch>> {
    let parsed = parse(expression.as_bytes(), &ParserOptions::default());
    let parsed = parsed.unwrap_or_else(|why| panic!("{expression}: {why:?}"));
    let mut found = Vec::new();
    collect(parsed, &mut found);
    assert!(!found.is_empty(), "{expression}");
    found
}

/// Whether a series has the name and the fixed labels that a selector asks for.
fn is_answered(selector: &[LabelMatch], series: &[Series]) -> bool {
    let text = |m: &LabelMatch| String::from_utf8(m.value.clone()).unwrap();
    let (names, labels): (Vec<_>, Vec<_>) = selector.iter().partition(|m| m.name == "__name__");
    let name = names.first().map(|m| text(m)).unwrap_or_default();
    let wanted = || {
        labels
            .iter()
            .filter(|m| !FROM_OUTSIDE.contains(&m.name.as_str()))
    };
    [SOMETIMES, UP].contains(&name.as_str())
        || series.iter().any(|(found, labels, _)| {
            *found == name
                && wanted().all(|m| {
                    assert_eq!(m.op, LabelMatchOp::Eq, "{m:?}");
                    labels.get(&m.name) == Some(&text(m))
                })
        })
}

fn contrib(file: &str) -> String {
    let path = format!("{}/../../contrib/{file}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(path).unwrap()
}

/// The expressions of the board's panels.
fn of_board() -> Vec<String> {
    let board: serde_json::Value = serde_json::from_str(&contrib("grafana.json")).unwrap();
    let panels = board["panels"].as_array().unwrap().iter();
    let queries = panels.flat_map(|panel| panel["targets"].as_array().unwrap());
    let expressions = queries.map(|query| query["expr"].as_str().unwrap().to_owned());
    expressions.collect()
}

/// The expressions of the alert rules, each of which is whole: a name, a severity, a summary.
fn of_alerts() -> Vec<String> {
    let alerts: serde_yaml_ng::Value = serde_yaml_ng::from_str(&contrib("alerts.yml")).unwrap();
    let groups = alerts["groups"].as_sequence().unwrap();
    let rules: Vec<_> = groups
        .iter()
        .flat_map(|group| group["rules"].as_sequence().unwrap())
        .collect();
    let names: BTreeSet<_> = rules.iter().map(|r| r["alert"].as_str().unwrap()).collect();
    assert_eq!(names.len(), rules.len(), "a name is there twice: {names:?}");
    for rule in &rules {
        let severity = rule["labels"]["severity"].as_str().unwrap();
        assert!(["page", "warn"].contains(&severity), "{rule:?}");
        let summary = rule["annotations"]["summary"].as_str().unwrap();
        assert!(summary.contains("{{ $labels.instance }}"), "{rule:?}");
    }
    let expressions = rules.iter().map(|r| r["expr"].as_str().unwrap().to_owned());
    expressions.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn our_board_and_alerts_name_metrics_that_exist() {
    let synced = Synced::new("one", "comet-0.38", 20, &[Behaviour::Honest]).await;
    let http = synced.serve_live();
    synced.until_seen(&http).await;
    let (_, series) = parse_metrics(get(&http, "/metrics").await.text());
    let (board, alerts) = (of_board(), of_alerts());
    assert!(board.len() >= 15 && alerts.len() >= 7);
    for expression in board.iter().chain(&alerts) {
        for selector in selectors(expression) {
            assert!(
                is_answered(&selector, &series),
                "{selector:?} of {expression}"
            );
        }
    }
    // The test would see a name or a value of a label that is not there.
    for wrong in [
        "blocksync_appliedheight",
        "blocksync_phase{phase=\"asleep\"}",
    ] {
        assert!(!is_answered(&selectors(wrong)[0], &series), "{wrong}");
    }
}

/// The table of our own names in the documentation, and what is exposed, are the same.
#[tokio::test(flavor = "multi_thread")]
async fn the_documentation_lists_what_is_exposed() {
    let synced = Synced::new("one", "comet-0.38", 20, &[Behaviour::Honest]).await;
    let http = synced.serve_live();
    synced.until_seen(&http).await;
    let (types, _) = parse_metrics(get(&http, "/metrics").await.text());
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/metrics.md");
    let text = std::fs::read_to_string(path).unwrap();
    let (_, rest) = text.split_once("## 5. ").unwrap();
    let (section, _) = rest.split_once("\n## ").unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| "));
    let rows = rows.filter(|row| !row.starts_with("name |"));
    let names = rows.flat_map(|row| row.split(" | ").next().unwrap().split(", "));
    let documented: BTreeSet<String> = names.map(|name| format!("blocksync_{name}")).collect();
    let exposed = types
        .into_keys()
        .filter(|name| name.starts_with("blocksync_"));
    let mut exposed: BTreeSet<String> = exposed.collect();
    exposed.insert(SOMETIMES.to_owned());
    assert_eq!(documented, exposed);
}
