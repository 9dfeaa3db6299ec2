//! Flags, their environment variables, and `config.toml`: each does what it says.

use std::io::ErrorKind;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::process::{
    HANG, Place, chain, comet_address, recorded, run, run_with, serve, serve_comet, start,
    start_with, status,
};
use crate::{CHAIN, LAST, sync};

#[test]
fn an_environment_variable_stands_for_each_flag() {
    let place = Place::new();
    let source = place.imported("source", CHAIN);
    let (_server, at) = serve(&source, &[]);
    let home = place.at("home");
    let genesis = chain(CHAIN, "genesis.json");
    let environment = [
        ("BLOCKSYNC_HOME", home.as_str()),
        ("BLOCKSYNC_GENESIS", &genesis),
        ("BLOCKSYNC_PEER", &at),
        ("BLOCKSYNC_UNTIL", "20"),
        ("BLOCKSYNC_JSON", "true"),
    ];
    let report = run_with(&environment, &["sync"]).ended(0).json();
    assert_eq!(report["height"], 20);
    // The command line counts before it, and it counts before the file.
    std::fs::write(place.path("home").join("config.toml"), "until = 40\n").unwrap();
    let report = run_with(&environment, &["sync", "--until", "30"])
        .ended(0)
        .json();
    assert_eq!(report["height"], 30);
    assert_eq!(
        run_with(&environment, &["sync"]).ended(0).json()["height"],
        30
    );
    let shown = run_with(
        &environment[3..4],
        &["config", "show", "--home", &home, "--json"],
    )
    .ended(0)
    .json();
    assert_eq!(shown["until"]["value"], "20");
    assert_eq!(shown["until"]["source"], "BLOCKSYNC_UNTIL");
    let shown = run(&["config", "show", "--home", &home, "--json"])
        .ended(0)
        .json();
    assert_eq!(shown["until"]["value"], "40");
    assert!(
        shown["until"]["source"]
            .as_str()
            .unwrap()
            .ends_with("config.toml")
    );
    assert_eq!(shown["patience"]["source"], "default");
    let said = run_with(&[("BLOCKSYNC_UNTIL", "soon")], &["sync", "--home", &home]).ended(2);
    assert!(said.err.contains("soon"), "{}", said.err);
}

#[test]
fn a_home_is_made_checked_and_shown_before_it_is_used() {
    let place = Place::new();
    let (home, genesis) = (place.at("home"), chain(CHAIN, "genesis.json"));
    run(&["config", "check", "--home", &home]).ended(1);
    run(&["show-node-id", "--home", &home]).ended(1);
    assert!(!place.path("home").exists());
    let id = run(&["init", "--home", &home, "--genesis", &genesis])
        .ended(0)
        .out
        .trim()
        .to_owned();
    assert_eq!(id.len(), 40);
    assert_eq!(
        run(&["show-node-id", "--home", &home]).ended(0).out.trim(),
        id
    );
    assert_eq!(status(&home).unwrap()["node_id"], id.as_str());
    let said = run(&["config", "check", "--home", &home]).ended(0);
    assert!(
        said.out.contains(CHAIN) && said.out.contains(&id),
        "{}",
        said.out
    );
    let config = place.path("home").join("config.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    assert!(text.contains("# patience = \"60s\""), "{text}");
    // It is not written over, and what is wrong in it is named.
    std::fs::write(&config, "patience = \"soon\"\n").unwrap();
    run(&["init", "--home", &home]).ended(0);
    let said = run(&["config", "check", "--home", &home]).ended(2);
    assert!(
        said.error().contains("soon") && said.error().contains("config.toml"),
        "{}",
        said.err
    );
    std::fs::write(&config, "untill = 5\n").unwrap();
    let said = run(&["config", "check", "--home", &home]).ended(2);
    assert!(said.error().contains("untill"), "{}", said.err);
}

#[test]
fn completions_and_manual_pages_name_every_command() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let said = run(&["completions", shell]).ended(0);
        assert!(said.out.contains("exit-when-caught-up"), "{shell}");
    }
    let dir = place.at("man");
    run(&["man", &dir]).ended(0);
    for page in ["blocksync", "blocksync-sync", "blocksync-config-show"] {
        let text = std::fs::read_to_string(place.path("man").join(format!("{page}.1"))).unwrap();
        assert!(text.starts_with(".ie"), "{page}: {}", &text[..40]);
        assert!(text.contains(&page.replace('-', "\\-")), "{page}");
    }
    let page = std::fs::read_to_string(place.path("man").join("blocksync-sync.1")).unwrap();
    assert!(page.contains("retain\\-blocks"), "{page}");
}

#[test]
fn peers_are_taken_as_networks_publish_them() {
    let place = Place::new();
    let source = place.imported("source", CHAIN);
    let (_a, at_a) = serve(&source, &[]);
    let (_b, at_b) = serve_comet(&source, &[]);
    let home = place.at("home");
    let published = format!("tcp://{at_b},\n {at_a} ,,\n");
    let report = sync(&home, &[&published], &[]).wait().ended(0).json();
    assert_eq!(report["peers"].as_array().unwrap().len(), 2);
}

/// CometBFT's address book with one node in it.
fn comet_book(address: &str) -> String {
    let (id, at) = address.split_once('@').unwrap();
    let (ip, port) = at.split_once(':').unwrap();
    let node = format!("{{\"id\": \"{id}\", \"ip\": \"{ip}\", \"port\": {port}}}");
    format!(
        "{{\"key\": \"a3b1c95a2b0f0a51a32bbd25\", \"addrs\": [{{\"addr\": {node}, \"src\": {node}, \"buckets\": [1], \
         \"attempts\": 0, \"bucket_type\": 1, \"last_attempt\": \"2025-03-01T10:00:00Z\"}}]}}"
    )
}

#[test]
fn an_address_book_is_somebody_to_sync_from() {
    let place = Place::new();
    let source = place.imported("source", CHAIN);
    let (_server, at) = serve_comet(&source, &["--pex", "--allow-private"]);
    let book = comet_book(&at);
    let home = place.at("home");
    std::fs::create_dir(place.path("home")).unwrap();
    let said = sync(&home, &[], &["--allow-private"]).wait().ended(2);
    assert!(said.error().contains("--address-book"), "{}", said.err);
    // In the home, where CometBFT's own lies in its home.
    std::fs::write(place.path("home").join("addrbook.json"), &book).unwrap();
    sync(&home, &[], &["--allow-private"]).wait().ended(0);
    // Elsewhere: it is only read.
    let (elsewhere, other) = (place.path("elsewhere.json"), place.at("other"));
    std::fs::write(&elsewhere, &book).unwrap();
    let file = elsewhere.display().to_string();
    sync(&other, &[], &["--allow-private", "--address-book", &file])
        .wait()
        .ended(0);
    assert_eq!(std::fs::read_to_string(&elsewhere).unwrap(), book);
    // A broken one is replaced, with a warning, and harms nothing.
    let broken = place.path("other").join("addrbook.json");
    std::fs::write(&broken, "{").unwrap();
    let said = sync(&other, &[], &["--allow-private", "--address-book", &file])
        .wait()
        .ended(0);
    assert!(said.err.contains("it is replaced"), "{}", said.err);
}

#[test]
fn retain_blocks_prunes() {
    let place = Place::new();
    let source = place.imported("source", CHAIN);
    let (_server, at) = serve(&source, &[]);
    let home = place.at("home");
    sync(&home, &[&at], &["--retain-blocks", "30"])
        .wait()
        .ended(0);
    let found = status(&home).unwrap();
    assert_eq!(
        (found["base"].as_u64(), found["height"].as_u64()),
        (Some(LAST - 29), Some(LAST))
    );
}

#[test]
fn the_policy_of_proof_is_passed_on() {
    let place = Place::new();
    let source = place.imported("source", CHAIN);
    let (_server, at) = serve(&source, &[]);
    let signatures = |name: &str, policy: &str| {
        let report = sync(&place.at(name), &[&at], &["--proof", policy])
            .wait()
            .ended(0)
            .json();
        report["stages"]["prove"]["signatures"].as_u64().unwrap()
    };
    let (anchored, every) = (signatures("a", "anchored"), signatures("b", "every-commit"));
    assert!(every > 2 * anchored, "{anchored} {every}");
}

#[test]
fn only_those_who_are_allowed_may_connect() {
    let place = Place::new();
    let source = place.imported("source", CHAIN);
    let (friend, genesis) = (place.at("friend"), chain(CHAIN, "genesis.json"));
    let id = run(&["init", "--home", &friend, "--genesis", &genesis])
        .ended(0)
        .out
        .trim()
        .to_owned();
    let (_server, at) = serve_comet(&source, &["--allow", &id]);
    let stranger = place.at("stranger");
    sync(&stranger, &[&at], &["--patience", "2s"])
        .wait()
        .ended(3);
    sync(&friend, &[&at], &[]).wait().ended(0);
}

#[test]
fn no_more_peers_than_may_connect() {
    let place = Place::new();
    let source = place.imported("source", CHAIN);
    let (_server, at) = serve(&source, &["--max-peers", "1"]);
    let (first, second) = (place.at("first"), place.at("second"));
    let mut one = sync(&first, &[&at], &["--no-goal"]);
    one.says("peer connected");
    let said = sync(&second, &[&at], &["--patience", "2s"]).wait();
    assert_eq!(said.code, 3, "{}", said.err);
    one.signal("INT");
    one.wait().ended(0);
    sync(&second, &[&at], &[]).wait().ended(0);
}

#[test]
fn an_unconditional_peer_has_a_seat_when_all_are_taken() {
    let place = Place::new();
    let source = place.imported("source", CHAIN);
    let (friend, genesis) = (place.at("friend"), chain(CHAIN, "genesis.json"));
    let init = run(&["init", "--home", &friend, "--genesis", &genesis]).ended(0);
    let seats = ["--max-peers", "1", "--unconditional-peer", init.out.trim()];
    let (_server, at) = serve_comet(&source, &seats);
    let mut first = sync(&place.at("first"), &[&at], &["--no-goal"]);
    first.says("peer connected");
    sync(&place.at("second"), &[&at], &["--patience", "2s"])
        .wait()
        .ended(3);
    sync(&friend, &[&at], &[]).wait().ended(0);
}

#[test]
fn rates_are_kept() {
    let place = Place::new();
    let source = place.imported("source", CHAIN);
    let bytes = std::fs::metadata(chain(CHAIN, "blocks.bin")).unwrap().len();
    let rate = bytes / 3;
    let (_server, at) = serve(&source, &[]);
    let home = place.at("home");
    let begun = Instant::now();
    sync(&home, &[&at], &["--recv-rate", &rate.to_string()])
        .wait()
        .ended(0);
    // A second's worth may come at once.
    assert!(
        begun.elapsed() > Duration::from_millis(1500),
        "{:?}",
        begun.elapsed()
    );
    let report: Value = recorded(CHAIN, None);
    assert_eq!(status(&home).unwrap()["app_hash"], report["app_hash_after"]);
}

#[test]
fn a_name_an_address_and_private_peers_are_told_as_they_are_set() {
    let place = Place::new();
    let source = place.imported("source", CHAIN);
    let named = [
        "--allow-private",
        "--pex",
        "--moniker",
        "lighthouse",
        "--external",
        "127.0.0.1:4242",
        "--log",
        "debug",
    ];
    let (_server, at) = serve_comet(&source, &named);
    let home = place.at("home");
    let environment = [("BLOCKSYNC_LOG", "debug")];
    let genesis = chain(CHAIN, "genesis.json");
    let line = [
        "sync",
        "--home",
        &home,
        "--genesis",
        &genesis,
        "--peer",
        &at,
        "--until",
        "20",
        "--pex",
    ];
    let said = start_with(&environment, &line).wait().ended(0);
    assert!(said.err.contains("lighthouse"), "{}", said.err);
}

#[test]
fn serve_stays_connected_to_its_peers() {
    let place = Place::new();
    let source = place.imported("source", CHAIN);
    // The one that syncs only listens: the one that serves dials it.
    let (home, genesis) = (place.at("home"), chain(CHAIN, "genesis.json"));
    let line = [
        "sync",
        "--home",
        &home,
        "--genesis",
        &genesis,
        "--listen",
        "comet://127.0.0.1:0",
        "--until",
        "246",
    ];
    let mut node = start(&line);
    let at = comet_address(&mut node);
    let mut server = start(&["serve", "--home", &source, "--peer", &at]);
    node.wait().ended(0);
    server.says("peer connected");
}

/// A sync to an application that listens and never answers: the number of connections that it
/// opens, and the first bytes that come over them.
fn opens(home: &str, flags: &[&str]) -> (usize, Vec<u8>) {
    let app = TcpListener::bind("127.0.0.1:0").unwrap();
    app.set_nonblocking(true).unwrap();
    let name = format!("tcp://{}", app.local_addr().unwrap());
    let nobody = "plain://127.0.0.1:1";
    let _node = sync(home, &[nobody], &[&["--app", &name], flags].concat());
    let (begun, mut streams) = (Instant::now(), Vec::new());
    let accept = |streams: &mut Vec<_>| loop {
        match app.accept() {
            Ok((stream, _)) => streams.push(stream),
            Err(e) if e.kind() == ErrorKind::WouldBlock => return,
            Err(e) => panic!("{e}"),
        }
    };
    loop {
        accept(&mut streams);
        for stream in &streams {
            stream.set_nonblocking(true).unwrap();
            let mut bytes = [0; 256];
            if let Ok(length @ 1..) = stream.peek(&mut bytes) {
                // A call comes when all are open.
                accept(&mut streams);
                return (streams.len(), bytes[..length].to_vec());
            }
        }
        assert!(begun.elapsed() < HANG, "nothing comes");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn an_application_is_spoken_to_as_it_is_set() {
    let place = Place::new();
    let cases: [(&[&str], usize, &str); 4] = [
        (&[], 1, "0.38.25"),
        (&["--app-connections", "4"], 4, "0.38.25"),
        (&["--abci", "0.34"], 1, "0.34.35"),
        (&["--rules", "comet-0.37"], 1, "0.37.16"),
    ];
    for (n, (flags, connections, version)) in cases.into_iter().enumerate() {
        let (count, bytes) = opens(&place.at(&format!("node{n}")), flags);
        assert_eq!(count, connections, "{flags:?}");
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.contains(version), "{flags:?}: {text:?}");
    }
}
