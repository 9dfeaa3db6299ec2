//! Results and the HTTP listener of the binary, as an operator uses them.

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::Value;

use crate::process::{Place, chain, import, run, start};

/// The body of a GET.
fn get(url: &str, path: &str) -> String {
    let address = url.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{path}: {answer}");
    body.to_owned()
}

#[test]
fn results_are_kept_shown_exported_and_served() {
    let place = Place::new();
    let home = place.at("home");
    let (name, file) = ("full-038", chain("full-038", "blocks.bin"));
    import(&home, name, &file, &["--retain-results", "100"]).ended(0);

    let shown = run(&["block", "--home", &home, "240", "--json"])
        .ended(0)
        .json();
    assert_eq!(shown["block"]["header"]["height"], "240");
    assert_eq!(shown["results"]["height"], "240");
    let summary = run(&["block", "--home", &home, "30"]).ended(0).out;
    assert!(summary.contains("height                30\n"), "{summary}");
    assert!(
        summary.contains("results               not kept"),
        "{summary}"
    );
    let missing = run(&["block", "--home", &home, "999"]).ended(1);
    assert!(
        missing.error().contains("the store holds 7 to 246"),
        "{}",
        missing.err
    );

    let lines = place.path("blocks.ndjson");
    let to = lines.display().to_string();
    run(&["export", "--home", &home, "--json", "--from", "140", &to]).ended(0);
    let lines = std::fs::read_to_string(lines).unwrap();
    let lines: Vec<Value> = lines
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(lines.len(), 107);
    let kept = lines
        .iter()
        .filter(|line| line["results"].is_object())
        .count();
    assert_eq!(kept, 100, "those of the last 100 blocks");

    let mut server = start(&["serve", "--home", &home, "--http", "0"]);
    let url = server.says("http://127.0.0.1:");
    let at = url.find("http://").unwrap();
    let url = url[at..].split_whitespace().next().unwrap().to_owned();
    let status: Value = serde_json::from_str(&get(&url, "/status")).unwrap();
    assert_eq!(status["result"]["sync_info"]["latest_block_height"], "246");
    let results: Value = serde_json::from_str(&get(&url, "/block_results?height=240")).unwrap();
    assert_eq!(results["result"], shown["results"]);
    assert!(get(&url, "/metrics").contains("blocksync_applied_height{chain_id=\"full-038\"} 246"));
    assert!(get(&url, "/").contains("<h1 id=\"outcome\""));
    server.signal("TERM");
    server.wait().ended(0);
}
