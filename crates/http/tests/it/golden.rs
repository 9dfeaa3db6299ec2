//! Every recorded answer of a stock node is ours, byte for byte.

use std::io::Read as _;

use blocksync_http::Http;
use blocksync_testkit::peers::Behaviour;
use serde_json::Value;

use crate::client::{Synced, ask, start};

fn cases(file: &str) -> Vec<Value> {
    let path = format!(
        "{}/tests/golden/{file}.jsonl.gz",
        env!("CARGO_MANIFEST_DIR")
    );
    let mut text = String::new();
    let mut packed = flate2::read::GzDecoder::new(std::fs::File::open(path).unwrap());
    packed.read_to_string(&mut text).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// These name the node or ask its application, are HTML for people, or panic in the stock node.
const OURS: [&str; 8] = [
    "status",
    "status_syncing",
    "net_info",
    "abci_info",
    "abci_query",
    "empty_post",
    "options_cors",
    "params_missing_panics",
];

/// Asks what the case asks, and tells how the answer differs.
async fn difference(http: &Http, case: &Value) -> Option<String> {
    let text = |name: &str| case[name].as_str().unwrap_or_default();
    let body = match &case["body_repeat"] {
        Value::Array(repeat) => {
            let times = repeat[1].as_u64().unwrap();
            repeat[0].as_str().unwrap().repeat(times as usize)
        }
        _ => text("body").to_owned(),
    };
    let kind = match text("name") {
        "post_form" => "Content-Type: application/x-www-form-urlencoded\r\n",
        "post_text_plain" => "Content-Type: text/plain\r\n",
        _ => "Content-Type: application/json\r\n",
    };
    let answer = ask(http, text("method"), text("path"), kind, body.as_bytes()).await;
    let name = text("name");
    if u64::from(answer.status) != case["status"].as_u64().unwrap() {
        return Some(format!(
            "{name}: status {}, {}",
            answer.status,
            answer.text()
        ));
    }
    if answer.text() != text("answer") {
        let at = answer.text().bytes().zip(text("answer").bytes());
        let at = at.take_while(|(a, b)| a == b).count();
        let near = |text: &str| {
            text.get(at.saturating_sub(40)..)
                .map(|t| t.chars().take(120).collect::<String>())
        };
        return Some(format!(
            "{name}: at byte {at}\n  ours   {:?}\n  theirs {:?}",
            near(answer.text()),
            near(text("answer"))
        ));
    }
    for header in ["content-type", "cache-control"] {
        let expected = case["headers"][header].as_str();
        // Ours tells caches to keep no error.
        let found = answer.header(header).filter(|value| *value != "no-store");
        if found != expected {
            return Some(format!(
                "{name}: {header} is {found:?}, expected {expected:?}"
            ));
        }
    }
    (answer.header("x-server-time").is_none()).then(|| format!("{name}: no server time"))
}

async fn compare(file: &str, synced: &Synced) {
    let (settled, syncing) = (synced.serve(), synced.serve_live());
    let mut differences = Vec::new();
    let mut compared = 0;
    for case in cases(file) {
        let name = case["name"].as_str().unwrap();
        if OURS.contains(&name) {
            continue;
        }
        let http = if name.contains("syncing") {
            &syncing
        } else {
            &settled
        };
        differences.extend(difference(http, &case).await);
        compared += 1;
    }
    assert!(
        differences.is_empty(),
        "{} of {compared}:\n{}",
        differences.len(),
        differences.join("\n")
    );
    assert!(compared >= 7, "only {compared} cases");
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_those_of_comet_038() {
    let synced = Synced::new("full-038", "comet-0.38", 245, &[Behaviour::Honest]).await;
    compare("full-038", &synced).await;
    for (http, syncing) in [(synced.serve(), false), (synced.serve_live(), true)] {
        let name = if syncing { "status_syncing" } else { "status" };
        let recorded = cases("full-038");
        let recorded = recorded.iter().find(|case| case["name"] == name).unwrap();
        let expected: Value = serde_json::from_str(recorded["answer"].as_str().unwrap()).unwrap();
        let found = ask(&http, "GET", "/status", "", b"").await.json();
        let (found, expected) = (&found["result"], &expected["result"]);
        assert_eq!(found["sync_info"], expected["sync_info"]);
        for part in ["node_info", "validator_info"] {
            let names = |value: &Value| {
                value[part]
                    .as_object()
                    .unwrap()
                    .keys()
                    .cloned()
                    .collect::<Vec<_>>()
            };
            assert_eq!(names(found), names(expected));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_those_of_comet_040() {
    let synced = Synced::new("full-040", "comet-0.40", 245, &[Behaviour::Honest]).await;
    compare("full-040", &synced).await;
}

/// Proposer priorities of every height are those of a state that went through every height.
#[tokio::test(flavor = "multi_thread")]
async fn priorities_of_every_height_follow_from_the_recorded_sets() {
    let synced = Synced::new("churn", "comet-0.38", 799, &[Behaviour::Honest]).await;
    let http = synced.serve();
    let state = blocksync::store::Store::state(&*synced.store)
        .unwrap()
        .unwrap();
    let last = state.last_height.get();
    for (height, set) in [
        (last, state.last_validators.as_ref().unwrap()),
        (last + 1, &state.validators),
    ] {
        let path = format!("/validators?height={height}&per_page=100");
        let found = ask(&http, "GET", &path, "", b"").await.json();
        let found = found["result"]["validators"].as_array().unwrap().clone();
        let found = found
            .iter()
            .map(|v| v["proposer_priority"].as_str().unwrap().to_owned());
        let expected = set.priorities().iter().map(ToString::to_string);
        assert!(found.eq(expected), "priorities of height {height}");
    }
}

/// cosmjs refuses a node whose address or name is empty.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_does_not_listen_has_an_address_and_a_name() {
    let synced = Synced::new("one", "comet-0.38", 20, &[Behaviour::Honest]).await;
    let mut node = synced.node(None);
    node.identity.listen_addr.clear();
    node.identity.moniker.clear();
    let answer = ask(&start(node), "GET", "/status", "", b"").await.json();
    let info = &answer["result"]["node_info"];
    assert_eq!(info["listen_addr"], "tcp://0.0.0.0:0");
    assert_eq!(info["moniker"], "blocksync");
}
