//! Results and the HTTP listener of the binary, as an operator uses them.

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::Value;

use crate::process::{Place, Running, chain, import, records, run, start};

/// The body of a GET.
fn get(url: &str, path: &str) -> String {
    let (status, body) = ask(url, path, url.trim_start_matches("http://"));
    assert_eq!(status, "200", "{path}: {body}");
    body
}

/// The status and the body of a GET that names this host.
fn ask(url: &str, path: &str, host: &str) -> (String, String) {
    let mut stream = TcpStream::connect(url.trim_start_matches("http://")).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap();
    (status.to_owned(), body.to_owned())
}

/// `serve --http` over a home, and the URL that it names.
fn serve(home: &str, more: &[&str]) -> (Running, String) {
    let line = [&["serve", "--home", home, "--http", "0"], more].concat();
    let mut server = start(&line);
    let said = server.says("http://127.0.0.1:");
    let at = said.find("http://").unwrap();
    let url = said[at..].split_whitespace().next().unwrap().to_owned();
    (server, url)
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

    let (server, url) = serve(&home, &[]);
    let status: Value = serde_json::from_str(&get(&url, "/status")).unwrap();
    assert_eq!(status["result"]["sync_info"]["latest_block_height"], "246");
    let results: Value = serde_json::from_str(&get(&url, "/block_results?height=240")).unwrap();
    assert_eq!(results["result"], shown["results"]);
    assert!(get(&url, "/metrics").contains("blocksync_applied_height{chain_id=\"full-038\"} 246"));
    assert!(get(&url, "/").contains("<h1 id=\"outcome\""));
    server.signal("TERM");
    server.wait().ended(0);
}

#[test]
fn the_listener_heeds_its_flags() {
    let place = Place::new();
    let home = place.imported("home", "full-038");
    let name = "board.example";
    let readiness = |url: &str| ask(url, "/readyz", "127.0.0.1").0;

    // The chain was recorded long ago.
    let (server, url) = serve(&home, &[]);
    assert_eq!(readiness(&url), "503");
    assert_eq!(ask(&url, "/", name).0, "421");
    assert!(get(&url, "/metrics").contains("\ncometbft_"));
    drop(server);

    let flags = [
        "--ready-lag",
        "0",
        "--http-host",
        name,
        "--http-namespace",
        "tendermint",
        "--moniker",
        "lighthouse",
        "--listen",
        "comet://127.0.0.1:0",
    ];
    let (_server, url) = serve(&home, &flags);
    assert_eq!(readiness(&url), "200");
    assert_eq!(ask(&url, "/", name).0, "200");
    let metrics = get(&url, "/metrics");
    assert!(metrics.contains("\ntendermint_") && !metrics.contains("\ncometbft_"));
    let status: Value = serde_json::from_str(&get(&url, "/status")).unwrap();
    let node = &status["result"]["node_info"];
    assert_eq!(node["moniker"], "lighthouse");
    let address = node["listen_addr"].as_str().unwrap();
    assert!(address.starts_with("tcp://127.0.0.1:"), "{address}");
    let own = crate::process::status(&home).unwrap();
    assert_eq!(node["id"], own["node_id"]);
}

/// The default rules refuse the keys of this chain: those that read its genesis are found.
#[test]
fn a_chain_of_other_keys_is_shown() {
    let place = Place::new();
    let (home, file) = (place.at("home"), place.path("blocks.bin"));
    std::fs::write(&file, records("eth")[..20].concat()).unwrap();
    let file = file.display().to_string();
    let (genesis, rules) = (chain("eth", "genesis.json"), "comet-0.40");
    let line = [
        "import",
        "--home",
        &home,
        "--genesis",
        &genesis,
        "--rules",
        rules,
        &file,
    ];
    run(&line).ended(0);
    for more in [&[][..], &["--rules", rules]] {
        let (server, url) = serve(&home, more);
        let genesis: Value = serde_json::from_str(&get(&url, "/genesis")).unwrap();
        let key = &genesis["result"]["genesis"]["validators"][0]["pub_key"]["type"];
        assert_eq!(key, "tendermint/PubKeySecp256k1eth", "{more:?}");
        server.signal("TERM");
        server.wait().ended(0);
    }
    let line = [
        "serve",
        "--home",
        &home,
        "--http",
        "0",
        "--rules",
        "comet-0.38",
    ];
    let refused = run(&line).ended(1);
    assert!(refused.error().contains("comet-0.38"), "{}", refused.err);
}
