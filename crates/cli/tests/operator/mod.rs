//! The program's words when something is wrong, and how it ends.

use std::io::Read;
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use blocksync::chain::AbciVersion;
use blocksync_testkit::app::PersistentKvStore;
use blocksync_testkit::app::socket::listen;
use serde_json::Value;

use crate::process::{
    self, Place, chain, import, recorded, run, serve, serve_comet, start, status,
};
use crate::{CHAIN, FIRST, LAST, sync};

/// The report's entry for a configured peer.
fn peer<'a>(report: &'a Value, address: &str) -> &'a Value {
    let peers = report["peers"].as_array().unwrap();
    let found = peers.iter().find(|p| p["address"] == *address);
    found.unwrap_or_else(|| panic!("{address} is not in {report}"))
}

#[test]
fn the_last_failure_of_each_configured_peer_is_named() {
    let place = Place::new();
    let source = place.imported("source", CHAIN);
    let (_server, right) = serve_comet(&source, &[]);
    let (id, at) = right.split_once('@').unwrap();
    let wrong = format!("{}@{at}", "0123456789".repeat(4));
    let nobody = "plain://127.0.0.1:1";
    let home = place.at("node");
    let said = sync(&home, &[&wrong, nobody], &["--patience", "1s"])
        .wait()
        .ended(3);
    // The id that is there instead, and the refused connection: both in the error, and in the
    // report.
    assert!(
        said.error().contains(id) && said.error().contains("refused"),
        "{}",
        said.err
    );
    let report = said.json();
    assert!(
        peer(&report, &wrong)["last_error"]
            .as_str()
            .unwrap()
            .contains(id)
    );
    assert!(
        peer(&report, nobody)["last_error"]
            .as_str()
            .unwrap()
            .contains("refused")
    );
    assert!(["waiting", "dialling"].contains(&peer(&report, nobody)["state"].as_str().unwrap()));

    // Another chain's node.
    let other = place.at("other");
    let genesis = chain("four", "genesis.json");
    let said = run(&[
        "sync",
        "--home",
        &other,
        "--genesis",
        &genesis,
        "--peer",
        &right,
        "--until",
        "9",
        "--patience",
        "1s",
        "--json",
    ])
    .ended(3);
    assert!(said.error().contains(CHAIN), "{}", said.err);
    assert!(
        peer(&said.json(), &right)["last_error"]
            .as_str()
            .unwrap()
            .contains(CHAIN)
    );

    // The right one.
    let report = sync(&home, &[&right], &[]).wait().ended(0).json();
    assert_eq!(peer(&report, &right)["state"], "connected");
}

#[test]
fn an_application_that_is_not_there_is_waited_for_aloud() {
    let place = Place::new();
    let (home, genesis) = (place.at("home"), chain(CHAIN, "genesis.json"));
    let line = [
        "sync",
        "--home",
        &home,
        "--genesis",
        &genesis,
        "--app",
        "tcp://127.0.0.1:1",
        "--app-wait",
        "6s",
        "--peer",
        "plain://127.0.0.1:1",
    ];
    let begun = Instant::now();
    let mut node = start(&line);
    node.says("waiting for the application at tcp://127.0.0.1:1");
    assert!(
        begun.elapsed() < Duration::from_secs(4),
        "{:?}",
        begun.elapsed()
    );
    let said = node.wait().ended(1);
    assert!(
        (6..30).contains(&begun.elapsed().as_secs()),
        "{:?}",
        begun.elapsed()
    );
    assert!(said.error().contains("nobody answers"), "{}", said.err);
    let lines = said
        .err
        .lines()
        .filter(|l| l.contains("waiting for the application"));
    assert_eq!(lines.count(), 2, "{}", said.err);
}

#[test]
fn with_a_json_log_every_line_is_json() {
    let place = Place::new();
    let source = place.imported("source", CHAIN);
    let (_server, at) = serve(&source, &[]);
    let home = place.at("home");
    let every_line = |text: &str| {
        let lines: Vec<Value> = text
            .lines()
            .map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}")))
            .collect();
        assert!(!lines.is_empty());
        for line in &lines {
            let has = |key: &str| line[key].is_string();
            assert!(has("timestamp") && has("level") && has("message"), "{line}");
        }
        lines
    };
    let json = ["--log-format", "json"];
    let said = sync(&home, &[&at], &json).wait().ended(0);
    every_line(&said.err);
    // Also where it ends badly, and before the log is there.
    let nobody = ["--log-format", "json", "--patience", "1s", "--until", "300"];
    let said = sync(
        &home,
        &["plain://127.0.0.1:1"],
        &[&nobody[..], &["--no-goal"]].concat(),
    )
    .wait()
    .ended(3);
    assert_eq!(every_line(&said.err).last().unwrap()["level"], "ERROR");
    let said = run(&["sync", "--home", &home, "--bogus", "--log-format=json"]).ended(2);
    let said = every_line(&said.err);
    assert!(
        said[0]["message"].as_str().unwrap().contains("--bogus"),
        "{said:?}"
    );
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let place = Place::new();
    let source = place.imported("source", CHAIN);
    for line in [
        &["status", "--home", &source][..],
        &["man"],
        &["completions", "bash"],
    ] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_blocksync"))
            .args(line)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let mut said = String::new();
        child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut said)
            .unwrap();
        assert_eq!(
            (child.wait().unwrap().code(), said.as_str()),
            (Some(0), ""),
            "{line:?}"
        );
    }
}

#[test]
fn sighup_reads_the_logs_filter_again() {
    let place = Place::new();
    let source = place.imported("source", CHAIN);
    let config = place.path("source").join("config.toml");
    std::fs::write(&config, "log = \"error\"\n").unwrap();
    let (mut server, at) = serve(&source, &[]);
    std::fs::write(&config, "log = \"info\"\n").unwrap();
    server.signal("HUP");
    server.says("the log's filter is now info");
    let home = place.at("node");
    sync(&home, &[&at], &[]).wait().ended(0);
    server.says("peer connected");
    // A filter that is none changes nothing, and neither ends the process.
    std::fs::write(&config, "log = \"=/=\"\n").unwrap();
    server.signal("HUP");
    server.says("the log's filter stays as it is");
    server.signal("TERM");
    server.wait().ended(0);
}

#[test]
fn a_hanging_application_ends_neither_patience_nor_a_signal() {
    let place = Place::new();
    let source = place.imported("source", CHAIN);
    let (_server, at) = serve(&source, &[]);
    // It takes every call and answers none.
    let app = TcpListener::bind("127.0.0.1:0").unwrap();
    let name = format!("tcp://{}", app.local_addr().unwrap());
    std::thread::spawn(move || {
        let mut held = Vec::new();
        for stream in app.incoming().map_while(Result::ok) {
            held.push(stream);
        }
    });
    let home = place.at("node");
    let node = sync(&home, &[&at], &["--app", &name]);
    process::appears_at(&place.path("node").join("genesis.json"));
    std::thread::sleep(Duration::from_millis(500));
    let begun = Instant::now();
    node.signal("INT");
    node.wait().ended(1);
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
}

#[test]
fn progress_says_only_what_is_known() {
    let place = Place::new();
    let (home, genesis) = (place.at("home"), chain(CHAIN, "genesis.json"));
    let line = [
        "sync",
        "--home",
        &home,
        "--genesis",
        &genesis,
        "--peer",
        "plain://127.0.0.1:1",
    ];
    let mut node = start(&line);
    let said = node.says(", 0 blocks/s");
    assert!(said.contains("no peers yet"), "{said}");
    assert!(
        !said.contains(" of ") && !said.contains("bottleneck"),
        "{said}"
    );
    node.signal("INT");
    node.wait().ended(0);
}

#[test]
fn the_home_of_a_cometbft_node_is_left_alone() {
    let place = Place::new();
    let home = place.path("comet");
    std::fs::create_dir_all(home.join("config")).unwrap();
    std::fs::create_dir_all(home.join("data/blockstore.db")).unwrap();
    std::fs::copy(
        chain(CHAIN, "genesis.json"),
        home.join("config/genesis.json"),
    )
    .unwrap();
    let at = home.display().to_string();
    let files = || {
        let mut all = Vec::new();
        let mut todo = vec![home.clone()];
        while let Some(dir) = todo.pop() {
            for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
                all.push(entry.path());
                if entry.path().is_dir() {
                    todo.push(entry.path());
                }
            }
        }
        all.sort();
        all
    };
    let before = files();
    let (genesis, file) = (chain(CHAIN, "genesis.json"), chain(CHAIN, "blocks.bin"));
    for line in [
        &[
            "sync",
            "--home",
            &at,
            "--genesis",
            &genesis,
            "--peer",
            "plain://127.0.0.1:1",
        ][..],
        &["import", "--home", &at, "--genesis", &genesis, &file],
        &["serve", "--home", &at, "--listen", "plain://127.0.0.1:0"],
        &["init", "--home", &at, "--genesis", &genesis],
        &["status", "--home", &at],
        &["show-node-id", "--home", &at],
    ] {
        let said = run(line);
        assert_eq!(said.code, 2, "{line:?}: {}", said.err);
        assert!(
            said.error().contains("home of a CometBFT node")
                && said.error().contains("config/genesis.json"),
            "{line:?}: {}",
            said.err
        );
    }
    assert_eq!(files(), before);
}

/// A block's hash as CometBFT recorded it, and one that is not it.
fn trust(height: u64) -> (String, String) {
    let hash = recorded(CHAIN, Some(height))["block_hash"]
        .as_str()
        .unwrap()
        .to_owned();
    let other = format!("{:0>64}", "1");
    (format!("{height}:{hash}"), format!("{height}:{other}"))
}

#[test]
fn trust_holds_for_what_is_stored_already() {
    let place = Place::new();
    let source = place.imported("source", CHAIN);
    let (_server, at) = serve(&source, &[]);
    let home = place.at("node");
    sync(&home, &[&at], &["--until", "100", "--no-goal"])
        .wait()
        .ended(0);
    let (right, wrong) = trust(50);
    let goal = ["--no-goal", "--until", "120"];
    let said = sync(&home, &[&at], &[&goal[..], &["--trust", &wrong]].concat())
        .wait()
        .ended(4);
    assert!(
        said.error().contains("block 50") && said.error().contains("--trust"),
        "{}",
        said.err
    );
    assert_eq!(status(&home).unwrap()["height"], 100);
    let report = sync(&home, &[&at], &[&goal[..], &["--trust", &right]].concat())
        .wait()
        .ended(0)
        .json();
    assert_eq!(
        (report["height"].as_u64(), report["trust"].as_str()),
        (Some(120), Some("holds"))
    );
    // In an import too: of blocks that are there, and of blocks that come.
    let file = chain(CHAIN, "blocks.bin");
    import(&home, CHAIN, &file, &["--trust", &wrong]).ended(4);
    let (right, wrong) = trust(200);
    let said = import(&home, CHAIN, &file, &["--trust", &wrong]).ended(4);
    assert!(said.error().contains("block 200"), "{}", said.err);
    assert_eq!(status(&home).unwrap()["height"], 199);
    let report = import(&home, CHAIN, &file, &["--trust", &right, "--json"])
        .ended(0)
        .json();
    assert_eq!(
        (report["height"].as_u64(), report["trust"].as_str()),
        (Some(LAST), Some("holds"))
    );
}

#[test]
fn a_chain_that_ends_below_the_trusted_height_is_no_success() {
    let place = Place::new();
    let source = place.imported("source", CHAIN);
    let (_server, at) = serve(&source, &[]);
    let home = place.at("node");
    let beyond = format!("300:{:0>64}", "1");
    let more = ["--no-goal", "--exit-when-caught-up", "--trust", &beyond];
    let said = sync(&home, &[&at], &more).wait().ended(3);
    assert!(
        said.error().contains("300") && said.error().contains("--trust"),
        "{}",
        said.err
    );
    assert_eq!(
        (
            said.json()["height"].as_u64(),
            said.json()["trust"].as_str()
        ),
        (Some(LAST), Some("not_reached"))
    );
    let imported = place.at("imported");
    import(
        &imported,
        CHAIN,
        &chain(CHAIN, "blocks.bin"),
        &["--trust", &beyond],
    )
    .ended(3);
    // Where it cannot be told at all, that is said: the height is below the chain's first.
    let below = format!("{}:{:0>64}", FIRST - 1, "1");
    let said = sync(&home, &[&at], &["--trust", &below]).wait().ended(0);
    assert_eq!(said.json()["trust"], "unknown");
    assert!(said.err.contains("below the chain's first"), "{}", said.err);
}

#[test]
fn halt_height_is_a_clean_end_and_holds_after_a_restart() {
    let place = Place::new();
    let source = place.imported("source", CHAIN);
    let (_server, at) = serve(&source, &[]);
    let home = place.at("node");
    for _ in 0..2 {
        let report = sync(&home, &[&at], &["--no-goal", "--halt-height", "60"])
            .wait()
            .ended(0)
            .json();
        assert_eq!(
            (report["outcome"].as_str(), report["height"].as_u64()),
            (Some("halted"), Some(60))
        );
    }
    let report = sync(&home, &[&at], &["--halt-height", "60"])
        .wait()
        .ended(0)
        .json();
    assert_eq!(
        (report["outcome"].as_str(), report["height"].as_u64()),
        (Some("halted"), Some(60))
    );
}

#[test]
fn an_import_of_which_nothing_can_be_added_says_so() {
    let place = Place::new();
    let source = place.imported("source", CHAIN);
    let (part, beginning) = (place.at("part.bin"), place.at("beginning.bin"));
    run(&["export", "--home", &source, "--to", "20", &beginning]).ended(0);
    run(&[
        "export", "--home", &source, "--from", "100", "--to", "120", &part,
    ])
    .ended(0);
    // Pruned: the home begins above the file.
    let (_server, at) = serve(&source, &[]);
    let home = place.at("pruned");
    sync(&home, &[&at], &["--retain-blocks", "20"])
        .wait()
        .ended(0);
    let found = status(&home).unwrap();
    assert_eq!(found["base"].as_u64(), Some(LAST - 19), "{found}");
    let said = run(&["import", "--home", &home, "--json", &beginning]).ended(1);
    assert!(
        said.error().contains("7 to 20") && said.error().contains("227 to 246"),
        "{}",
        said.err
    );
    assert_eq!(said.out, "");
    // Below the initial height: a genesis that begins later.
    let text = std::fs::read_to_string(chain(CHAIN, "genesis.json")).unwrap();
    let later = place.path("later.json");
    std::fs::write(
        &later,
        text.replace("\"initial_height\": \"7\"", "\"initial_height\": \"500\""),
    )
    .unwrap();
    let (later, fresh) = (later.display().to_string(), place.at("fresh"));
    let said = run(&["import", "--home", &fresh, "--genesis", &later, &part]).ended(1);
    assert!(
        said.error().contains("100 to 120") && said.error().contains("500"),
        "{}",
        said.err
    );
}

/// Flips one bit of some blocks on disk.
fn damage(home: &std::path::Path, heights: &[u64]) {
    let file = std::fs::read(chain(CHAIN, "blocks.bin")).unwrap();
    let data = home.join("data/blocks/0000000000.log");
    let mut bytes = std::fs::read(&data).unwrap();
    for height in heights {
        let (at, _) = crate::record(&file, *height);
        // Of its header; later blocks may hold it again, as evidence.
        let needle = &file[at + 40..][..64];
        let at = bytes
            .windows(64)
            .position(|w| w == needle)
            .expect("it is in the file");
        bytes[at + 8] ^= 1;
    }
    std::fs::write(&data, bytes).unwrap();
}

#[test]
fn every_damaged_block_is_reported_and_repaired_from_a_peer() {
    let place = Place::new();
    let source = place.imported("source", CHAIN);
    let home = place.imported("home", CHAIN);
    let log = place.path("home").join("data/blocks/0000000000.log");
    let whole = std::fs::read(&log).unwrap();
    damage(&place.path("home"), &[101, 104, 150]);
    let said = run(&["verify", "--home", &home]).ended(1);
    assert!(
        said.error()
            .contains("3 heights are damaged: 101, 104, 150."),
        "{}",
        said.err
    );
    // A peer that has the same damage is of no help, and nothing is written.
    let twin = place.imported("twin", CHAIN);
    damage(&place.path("twin"), &[101, 104, 150]);
    let (_twin, no_help) = serve(&twin, &[]);
    let repair = ["verify", "--home", &home, "--repair", "--peer"];
    run(&[&repair[..], &[no_help.as_str()]].concat()).ended(1);
    let (_server, at) = serve(&source, &[]);
    let said = run(&[&repair[..], &[at.as_str()]].concat()).ended(0);
    for height in [101, 104, 150] {
        assert!(
            said.err.contains(&format!("block {height} is repaired")),
            "{}",
            said.err
        );
    }
    run(&["verify", "--home", &home]).ended(0);
    assert!(std::fs::read(&log).unwrap() == whole);
    run(&["verify", "--home", &home, "--repair"]).ended(2);
}

#[test]
fn a_state_is_taken_back_and_its_blocks_are_executed_again() {
    let place = Place::new();
    // An application without a state, as one outside that was taken back too.
    let (made, home, other) = (place.at("made"), place.at("home"), place.at("other"));
    let words = |line: &str| run(&line.split_whitespace().collect::<Vec<_>>());
    words(&format!(
        "bench --make {made} --heights 40 --validators 4 --app noop"
    ))
    .ended(0);
    let import = |home: &str, file: &str| {
        let line = format!("import --home {home} --genesis {made}/genesis.json --app noop {file}");
        words(&line).ended(0)
    };
    let file = format!("{made}/blocks.bin");
    import(&home, &file);
    let before = status(&home).unwrap();
    words(&format!("rollback --home {home} --blocks 2")).ended(0);
    let after = status(&home).unwrap();
    // As one that has never been higher.
    let shorter = place.at("shorter.bin");
    words(&format!("export --home {home} --to 37 {shorter}")).ended(0);
    import(&other, &shorter);
    let mut never_higher = status(&other).unwrap();
    never_higher["node_id"] = after["node_id"].clone();
    assert_eq!(after, never_higher);
    import(&home, &file);
    assert_eq!(status(&home).unwrap(), before);
    run(&["verify", "--home", &home]).ended(0);
}

#[test]
fn a_built_in_applications_state_is_not_taken_back() {
    let place = Place::new();
    let home = place.imported("home", CHAIN);
    let said = run(&["rollback", "--home", &home]).ended(1);
    assert!(
        said.error().contains("built-in application"),
        "{}",
        said.err
    );
    assert_eq!(status(&home).unwrap()["height"], LAST);
}

#[test]
fn a_store_is_made_smaller_and_taken_away() {
    let place = Place::new();
    let home = place.imported("home", CHAIN);
    let (server, _at) = serve(&home, &[]);
    for line in [
        &["compact", "--home", &home][..],
        &["reset", "--home", &home, "--yes"],
    ] {
        let said = run(line).ended(1);
        assert!(said.error().contains("in use"), "{}", said.err);
    }
    server.signal("TERM");
    server.wait().ended(0);
    let said = run(&["compact", "--home", &home]).ended(0);
    let numbers = said
        .out
        .split_whitespace()
        .filter_map(|w| w.parse::<u64>().ok());
    let numbers: Vec<_> = numbers.collect();
    assert!(numbers[0] < numbers[1], "{}", said.out);
    run(&["verify", "--home", &home]).ended(0);
    let id = run(&["show-node-id", "--home", &home]).ended(0).out;
    run(&["reset", "--home", &home]).ended(2);
    assert_eq!(status(&home).unwrap()["height"], LAST);
    run(&["reset", "--home", &home, "--yes"]).ended(0);
    assert!(!place.path("home").join("data").exists());
    import(&home, CHAIN, &chain(CHAIN, "blocks.bin"), &[]).ended(0);
    assert_eq!(run(&["show-node-id", "--home", &home]).ended(0).out, id);
}

#[test]
fn systemd_is_told_what_it_asks_for() {
    let place = Place::new();
    let source = place.imported("source", CHAIN);
    let socket = place.path("notify");
    let manager = std::os::unix::net::UnixDatagram::bind(&socket).unwrap();
    manager
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let socket = socket.display().to_string();
    let environment = [
        ("NOTIFY_SOCKET", socket.as_str()),
        ("WATCHDOG_USEC", "900000"),
    ];
    let line = [
        "serve",
        "--home",
        &source,
        "--listen",
        "plain://127.0.0.1:0",
    ];
    let server = process::start_with(&environment, &line);
    let wanted = [
        "READY=1",
        "STATUS=serving blocks 7 to 246",
        "WATCHDOG=1",
        "STOPPING=1",
    ];
    let mut heard = String::new();
    for (n, word) in wanted.iter().enumerate() {
        if n == 3 {
            server.signal("TERM");
        }
        while !heard.contains(word) {
            let mut buffer = [0; 4096];
            let length = manager
                .recv(&mut buffer)
                .unwrap_or_else(|e| panic!("{word}: {e}; {heard}"));
            heard.push_str(&String::from_utf8_lossy(&buffer[..length]));
        }
    }
    server.wait().ended(0);
}

/// The chain's rules change from 0.34 to 0.37 half-way. The application of 0.34 is not given the
/// block of the change; a supervisor sees status 5, starts the next one, and runs us again.
#[test]
fn a_change_of_abci_waits_for_the_other_application() {
    let place = Place::new();
    let home = place.at("node");
    let (genesis, tip) = (
        chain("v034", "genesis.json"),
        chain("v034", "tip_commit.bin"),
    );
    let blocks = chain("v034", "blocks.bin");
    // Its processes are over when the runtime is.
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let kvstore = Arc::new(tokio::sync::Mutex::new(PersistentKvStore::default()));
    let import = |version: AbciVersion, more: &[&str]| {
        let app = runtime.block_on(listen(version, kvstore.clone()));
        let mut line = vec![
            "import",
            "--home",
            &home,
            "--genesis",
            &genesis,
            "--app",
            &app,
        ];
        line.extend([
            "--rules",
            "1:comet-0.34,70:comet-0.37",
            "--tip-commit",
            &tip,
        ]);
        line.extend(more);
        line.push(&blocks);
        run(&line)
    };
    for _ in 0..2 {
        let said = import(AbciVersion::V034, &[]).ended(5);
        let words = "Start the application for height 70 and run again";
        assert!(said.error().contains(words), "{}", said.err);
        assert_eq!(status(&home).unwrap()["height"], 69);
    }
    // A version that is set is not looked for: this one does not understand it.
    let said = import(AbciVersion::V034, &["--abci", "0.37", "--app-retry", "0s"]).ended(1);
    assert!(
        said.error().contains("closed the connection"),
        "{}",
        said.err
    );
    import(AbciVersion::V037, &[]).ended(0);
    let (found, expected) = (status(&home).unwrap(), recorded("v034", None));
    assert_eq!(found["height"], expected["height"]);
    assert_eq!(found["app_hash"], expected["app_hash_after"]);
}

/// The genesis of 0.37 fits later versions too: an application that has executed nothing tells, and
/// what was found is kept for the time when it has.
#[test]
fn rules_are_found_by_what_the_application_speaks() {
    let place = Place::new();
    let home = place.at("node");
    let (genesis, tip) = (
        chain("v037", "genesis.json"),
        chain("v037", "tip_commit.bin"),
    );
    let blocks = chain("v037", "blocks.bin");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let kvstore = Arc::new(tokio::sync::Mutex::new(PersistentKvStore::default()));
    let import = |app: &str| {
        run(&[
            "import",
            "--home",
            &home,
            "--genesis",
            &genesis,
            "--app",
            app,
            "--rules",
            "auto",
            "--tip-commit",
            &tip,
            &blocks,
        ])
    };
    let speaking = |version| runtime.block_on(listen(version, kvstore.clone()));
    let asks = |app: &str, parts: &[&str]| {
        let said = import(app).ended(2);
        for part in parts {
            assert!(said.error().contains(part), "{} lacks {part}", said.err);
        }
    };
    let fits = "fits several versions: comet-0.37, comet-0.38";
    asks("kvstore", &[fits, "--rules comet-0.37"]);
    let untold = "speaks the ABCI of 0.38 or 1.0, which its answers do not tell apart";
    let left = "that leaves comet-0.38, comet-0.39, comet-0.40, comet-1.0";
    asks(&speaking(AbciVersion::V038), &[fits, untold, left]);
    assert!(!std::path::Path::new(&home).exists());
    let app = speaking(AbciVersion::V037);
    for _ in 0..2 {
        import(&app).ended(0);
    }
    let (found, expected) = (status(&home).unwrap(), recorded("v037", None));
    assert_eq!(found["height"], expected["height"]);
    assert_eq!(found["app_hash"], expected["app_hash_after"]);
    let next = expected["height"].as_u64().unwrap() + 1;
    let then = format!("--rules 1:comet-0.37,{next}:comet-0.38");
    asks(&speaking(AbciVersion::V100), &["follow comet-0.37", &then]);
}
