//! The binary as a person uses it: real processes, over TCP, on recorded chains.

mod comet_home;
mod files;
mod http;
mod load;
mod operator;
mod process;
mod recorder;
mod settings;

use std::io::Write;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use blocksync::ids::Height;
use blocksync::wire::Message;
use process::{Place, Said, chain, import, reaches, recorded, run, serve, start, status};

const CHAIN: &str = "full-038";
const FIRST: u64 = 7;
const LAST: u64 = 246;
/// Slow enough that a sync can be interrupted, fast enough not to wait for.
const SLOWLY: [&str; 2] = ["--send-rate", "150KB"];

/// A sync to the last height, with a report.
fn sync(home: &str, peers: &[&str], more: &[&str]) -> process::Running {
    let (genesis, until, peers) = (
        chain(CHAIN, "genesis.json"),
        LAST.to_string(),
        peers.join(","),
    );
    let mut line = vec![
        "sync",
        "--home",
        home,
        "--genesis",
        &genesis,
        "--peer",
        &peers,
        "--json",
    ];
    if !more.contains(&"--no-goal") {
        line.extend(["--until", &until]);
    }
    line.extend(more.iter().filter(|flag| **flag != "--no-goal"));
    start(&line)
}

/// It has what CometBFT recorded of the last height.
#[track_caller]
fn has_everything(home: &str) {
    let (found, expected) = (status(home).unwrap(), recorded(CHAIN, None));
    assert_eq!(found["height"], LAST);
    assert_eq!(found["block_hash"], expected["block_hash"]);
    assert_eq!(found["app_hash"], expected["app_hash_after"]);
    assert_eq!(
        found["last_results_hash"],
        expected["last_results_hash_after"]
    );
    assert_eq!(
        found["next_validators_hash"],
        expected["next_validators_hash_after"]
    );
}

#[test]
fn a_file_is_imported_served_and_synced_while_a_server_dies() {
    let place = Place::new();
    let source = place.imported("source", CHAIN);
    has_everything(&source);
    let (a, at_a) = serve(&source, &SLOWLY);
    let (_b, at_b) = serve(&source, &SLOWLY);
    let (_c, at_c) = serve(&source, &SLOWLY);
    let home = place.at("node");
    let node = sync(&home, &[&at_a, &at_b, &at_c], &[]);
    reaches(&home, FIRST + 20);
    a.signal("KILL");
    let said = node.wait().ended(0);
    let report = said.json();
    assert_eq!(report["outcome"], "reached_target");
    assert_eq!(report["height"], LAST);
    assert_eq!(report["blocks"], LAST - FIRST + 1);
    assert_eq!(report["app_hash"], recorded(CHAIN, None)["app_hash_after"]);
    assert!(report["seconds"].as_f64().unwrap() > 0.0);
    assert!(report["blocks_per_second"].as_f64().unwrap() > 0.0);
    assert!(report["peak_memory_bytes"].as_u64().unwrap() > 1 << 20);
    assert!(report["peers_dropped"].is_array());
    assert!(report["bottleneck"].is_string());
    for stage in ["decode", "prove", "execute", "store"] {
        let found = &report["stages"][stage];
        let blocks = found["blocks"].as_u64().unwrap();
        assert!(blocks >= LAST - FIRST, "{stage}: {found}");
        assert!(found["busy_seconds"].as_f64().unwrap() > 0.0, "{stage}");
    }
    has_everything(&home);
    run(&["verify", "--home", &home]).ended(0);
}

#[test]
fn nodes_find_each_other_over_cometbfts_p2p() {
    let place = Place::new();
    let source = place.imported("source", CHAIN);
    let comet = process::comet_address;
    let (_server, first) = process::serve_comet(&source, &[]);
    // Its neighbour syncs from it and serves meanwhile; a third node knows the neighbour only, by
    // CometBFT's framing.
    let (middle, genesis) = (place.at("middle"), chain(CHAIN, "genesis.json"));
    let listen = ["--listen", "comet://127.0.0.1:0"];
    let line = [
        "sync",
        "--home",
        &middle,
        "--genesis",
        &genesis,
        "--peer",
        &first,
    ];
    let mut neighbour = start(&[&line[..], &listen].concat());
    let second = comet(&mut neighbour);
    let home = place.at("node");
    let report = sync(&home, &[&second], &["--classic"])
        .wait()
        .ended(0)
        .json();
    assert_eq!(report["peers_dropped"].as_array().map(Vec::len), Some(0));
    has_everything(&home);
    let named = status(&source).unwrap()["node_id"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(first.starts_with(&named), "{first} {named}");
    // A peer that is not the one that was dialled is refused.
    let stranger = first.replace(
        &named[..4],
        if named.starts_with("0000") {
            "1111"
        } else {
            "0000"
        },
    );
    let other = place.at("other");
    let said = sync(&other, &[&stranger], &["--patience", "1s"])
        .wait()
        .ended(3);
    assert!(said.err.contains(&named), "{}", said.err);
}

#[test]
fn a_killed_node_continues_where_it_was() {
    let place = Place::new();
    let source = place.imported("source", CHAIN);
    let home = place.at("node");
    let (_slow, at) = serve(&source, &SLOWLY);
    let node = sync(&home, &[&at], &[]);
    let before = reaches(&home, FIRST + 20)["height"].as_u64().unwrap();
    node.signal("KILL");
    assert_eq!(node.wait().code, -1);
    let after_kill = status(&home).unwrap()["height"].as_u64().unwrap();
    assert!(
        after_kill >= before && after_kill < LAST,
        "{before} {after_kill}"
    );
    let (_fast, at) = serve(&source, &[]);
    let report = sync(&home, &[&at], &[]).wait().ended(0).json();
    assert_eq!(report["blocks"], LAST - after_kill);
    has_everything(&home);
    run(&["verify", "--home", &home]).ended(0);
}

#[test]
fn ctrl_c_stops_cleanly_and_the_next_start_continues() {
    let place = Place::new();
    let source = place.imported("source", CHAIN);
    let home = place.at("node");
    let (slow, at) = serve(&source, &SLOWLY);
    let node = sync(&home, &[&at], &["--no-goal"]);
    reaches(&home, FIRST + 20);
    node.signal("INT");
    let report = node.wait().ended(0).json();
    assert_eq!(report["outcome"], "stopped");
    assert_eq!(status(&home).unwrap()["height"], report["height"]);
    // With a goal that was not reached it is a failure, which says that nothing is lost.
    let node = sync(&home, &[&at], &[]);
    reaches(&home, report["height"].as_u64().unwrap() + 10);
    node.signal("TERM");
    let said = node.wait().ended(1);
    assert!(said.error().contains("continues from here"), "{}", said.err);
    slow.signal("TERM");
    slow.wait().ended(0);
    let (_fast, at) = serve(&source, &[]);
    sync(&home, &[&at], &["--exit-when-caught-up"])
        .wait()
        .ended(0);
    has_everything(&home);
}

#[test]
fn waiting_for_an_application_ends_with_ctrl_c() {
    let place = Place::new();
    let home = place.at("home");
    let (genesis, nobody) = (chain(CHAIN, "genesis.json"), "tcp://127.0.0.1:1");
    let line = [
        "sync",
        "--home",
        &home,
        "--genesis",
        &genesis,
        "--app",
        nobody,
        "--peer",
        "plain://127.0.0.1:1",
    ];
    let mut node = start(&line);
    // The genesis is kept last, right before the application is called.
    process::appears(&mut node, &place.path("home").join("genesis.json"));
    node.signal("INT");
    let said = node.wait().ended(1);
    assert!(
        said.err.contains("stopp") || said.err.contains(nobody),
        "{}",
        said.err
    );
}

#[test]
fn only_one_process_writes_to_a_home() {
    let place = Place::new();
    let source = place.imported("source", CHAIN);
    let mut first = start(&["sync", "--home", &source, "--listen", "plain://127.0.0.1:0"]);
    first.says("listening at");
    let file = chain(CHAIN, "blocks.bin");
    let said = import(&source, CHAIN, &file, &[]).ended(1);
    assert!(
        said.error().contains(&source) && said.error().contains("in use"),
        "{}",
        said.err
    );
    // Reading goes on beside it.
    assert_eq!(status(&source).unwrap()["height"], LAST);
    run(&["export", "--home", &source, &place.at("beside.bin")]).ended(0);
    first.signal("INT");
    first.wait().ended(0);
    import(&source, CHAIN, &file, &[]).ended(0);
}

#[test]
fn a_bad_genesis_is_refused_and_leaves_nothing() {
    let place = Place::new();
    let good = std::fs::read_to_string(chain(CHAIN, "genesis.json")).unwrap();
    let refuse = |text: &str, named: &str| {
        let (home, file) = (place.path("none"), place.path("genesis.json"));
        std::fs::write(&file, text).unwrap();
        let (file, at) = (file.display().to_string(), home.display().to_string());
        let said = run(&[
            "import",
            "--home",
            &at,
            "--genesis",
            &file,
            &chain(CHAIN, "blocks.bin"),
        ]);
        let said = said.ended(1);
        assert!(
            said.error().contains("genesis.json") && said.error().contains(named),
            "{}",
            said.err
        );
        assert!(!home.exists());
    };
    refuse(&good[..good.len() / 2], "");
    refuse(
        &good.replace("\"initial_height\": \"7\"", "\"initial_height\": \"-7\""),
        "initial_height",
    );
    refuse(
        &good.replace("tendermint/PubKeyEd25519", "tendermint/PubKeySr25519"),
        "sr25519",
    );
}

#[test]
fn a_home_of_another_chain_is_refused() {
    let place = Place::new();
    let home = place.imported("home", "one");
    let said = import(&home, CHAIN, &chain(CHAIN, "blocks.bin"), &[]).ended(1);
    assert!(
        said.error().contains("chain one") && said.error().contains(CHAIN),
        "{}",
        said.err
    );
    // A peer that serves another chain: nothing of it is taken.
    let source = place.imported("source", CHAIN);
    let (_server, at) = serve(&source, &[]);
    let other = place.at("other");
    let genesis = chain("four", "genesis.json");
    let line = [
        "sync",
        "--home",
        &other,
        "--genesis",
        &genesis,
        "--peer",
        &at,
        "--until",
        "9",
        "--patience",
        "2s",
    ];
    let said = run(&line);
    assert!([3, 4].contains(&said.code), "{}\n{}", said.code, said.err);
    assert_eq!(status(&other).unwrap()["height"], 0);
}

#[test]
fn the_wrong_rules_stop_at_the_first_block_that_differs() {
    for (name, wrong, right) in [
        ("full-038", "comet-0.40", "comet-0.38"),
        ("full-040", "comet-0.38", "comet-0.40"),
    ] {
        let place = Place::new();
        let home = place.at("home");
        let file = chain(name, "blocks.bin");
        let said = import(&home, name, &file, &["--rules", wrong, "--json"]).ended(4);
        let height = said.json()["height"].as_u64().unwrap();
        assert!(height < LAST);
        let error = said.error();
        assert!(
            error.contains(&format!("{}", height + 1))
                && error.contains(wrong)
                && error.contains("--rules"),
            "{error}"
        );
        // The same home goes on under the right ones.
        import(&home, name, &file, &["--rules", right]).ended(0);
        let expected = recorded(name, None);
        assert_eq!(
            status(&home).unwrap()["app_hash"],
            expected["app_hash_after"]
        );
    }
}

#[test]
fn a_file_reaches_as_far_as_its_commits_prove() {
    let place = Place::new();
    let (home, file, genesis) = (
        place.at("home"),
        chain(CHAIN, "blocks.bin"),
        chain(CHAIN, "genesis.json"),
    );
    let said = run(&[
        "import",
        "--home",
        &home,
        "--genesis",
        &genesis,
        "--json",
        &file,
    ])
    .ended(0);
    assert_eq!(said.json()["height"], LAST - 1);
    assert!(
        said.err.contains("--tip-commit") && said.err.contains(&LAST.to_string()),
        "{}",
        said.err
    );
    let said = import(&home, CHAIN, &file, &["--json"]).ended(0);
    assert_eq!(
        (
            said.json()["height"].as_u64(),
            said.json()["blocks"].as_u64()
        ),
        (Some(LAST), Some(1))
    );
    // Everything is there already.
    let said = import(&home, CHAIN, &file, &["--json"]).ended(0);
    assert_eq!(said.json()["blocks"], 0);
    has_everything(&home);
}

/// Where the record of a height begins in a file of blocks, and where it ends.
fn record(file: &[u8], height: u64) -> (usize, usize) {
    let mut at = 0;
    for h in FIRST.. {
        let mut rest = &file[at..];
        let length = prost::decode_length_delimiter(&mut rest).unwrap();
        let end = file.len() - rest.len() + length;
        if h == height {
            return (at, end);
        }
        at = end;
    }
    unreachable!()
}

/// Imports these bytes into a fresh home, which must refuse them; gives the height that it kept.
fn refused(place: &Place, name: &str, bytes: &[u8]) -> (Said, u64) {
    let (home, file) = (place.at(name), place.path(&format!("{name}.bin")));
    std::fs::write(&file, bytes).unwrap();
    let said = import(&home, CHAIN, &file.display().to_string(), &[]).ended(1);
    let height = status(&home).map_or(0, |s| s["height"].as_u64().unwrap());
    (said, height)
}

/// The error names this height and this place.
#[track_caller]
fn names(said: &Said, height: u64, offset: usize) {
    let error = said.error();
    assert!(error.contains(&format!("block {height} ")), "{error}");
    assert!(error.contains(&format!("byte offset {offset}:")), "{error}");
}

#[test]
fn an_altered_file_is_refused_with_the_place() {
    let place = Place::new();
    let good = std::fs::read(chain(CHAIN, "blocks.bin")).unwrap();
    let (at, end) = record(&good, 100);

    // A transaction of block 100.
    let mut altered = good.clone();
    let sign = good[at..end].iter().position(|b| *b == b'=').unwrap();
    altered[at + sign + 1] ^= 1;
    let (said, height) = refused(&place, "altered", &altered);
    names(&said, 100, at);
    assert!(height < 100, "{height}");

    // A signature in the extended commit beside it.
    let mut forged = good.clone();
    forged[end - 3] ^= 1;
    let (said, height) = refused(&place, "forged", &forged);
    names(&said, 100, at);
    assert!(height < 100, "{height}");

    // The commit of another chain's last block.
    let (home, file) = (place.at("tip"), chain(CHAIN, "blocks.bin"));
    let (genesis, other) = (
        chain(CHAIN, "genesis.json"),
        chain("full-040", "tip_commit.bin"),
    );
    let line = [
        "import",
        "--home",
        &home,
        "--genesis",
        &genesis,
        "--tip-commit",
        &other,
        "--json",
        &file,
    ];
    let said = run(&line).ended(1);
    names(&said, LAST, record(&good, LAST).0);
    assert_eq!(said.json()["height"], LAST - 1);
}

#[test]
fn a_file_that_is_not_whole_is_refused_with_the_place() {
    let place = Place::new();
    let good = std::fs::read(chain(CHAIN, "blocks.bin")).unwrap();
    let (at, end) = record(&good, 100);

    let (said, height) = refused(&place, "truncated", &good[..end - 3]);
    let error = said.error();
    assert!(
        error.contains("cut off") && error.contains(&format!("byte offset {at}:")),
        "{error}"
    );
    assert_eq!(height, 0);

    let gap = [&good[..at], &good[end..]].concat();
    let (said, height) = refused(&place, "gap", &gap);
    names(&said, 100, at);
    assert!(height < 100, "{height}");

    let (said, height) = refused(
        &place,
        "garbage",
        b"this is no file of blocks, it is a sentence",
    );
    assert!(said.error().contains("byte offset 0:"), "{}", said.err);
    assert_eq!(height, 0);
    let (said, _) = refused(&place, "empty", b"");
    assert!(said.error().contains("empty"), "{}", said.err);
}

#[test]
fn a_peer_that_sends_garbage_is_left_and_named() {
    let place = Place::new();
    let garbage = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = format!("plain://{}", garbage.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut stream in garbage.incoming().map_while(Result::ok) {
            let _ = stream.write_all(&[0xff; 4096]);
        }
    });
    let home = place.at("alone");
    let said = sync(&home, &[&at], &["--patience", "1s"]).wait().ended(3);
    assert!(said.error().contains("no peer"), "{}", said.err);
    assert_eq!(said.json()["height"], 0);
    assert!(
        said.err.contains(at.trim_start_matches("plain://")),
        "{}",
        said.err
    );
    // Beside an honest one it changes nothing.
    let source = place.imported("source", CHAIN);
    let (_server, honest) = serve(&source, &[]);
    let home = place.at("both");
    sync(&home, &[&at, &honest], &[]).wait().ended(0);
    has_everything(&home);
}

/// A peer that claims blocks up to 1000 and gives none, for some time.
fn claims_a_thousand(time: Duration) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = format!("plain://{}", listener.local_addr().unwrap());
    let status = Message::Status {
        base: Height::new(FIRST),
        height: Height::new(1000),
        max_range: 1,
    };
    let status = status.encode();
    let frame = [&[u8::try_from(status.len()).unwrap()], &status[..]].concat();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        drop(listener);
        let end = Instant::now() + time;
        while Instant::now() < end && stream.write_all(&frame).is_ok() {
            std::thread::sleep(Duration::from_millis(200));
        }
    });
    at
}

/// Nobody else has more; that one says so is neither believed nor ignored.
#[test]
fn a_claim_that_is_not_made_good_is_waited_for_and_named() {
    let place = Place::new();
    let source = place.imported("source", CHAIN);
    let (_server, honest) = serve(&source, &[]);
    // Half of the patience for the claim, after two seconds in which others may come.
    let goal = ["--no-goal", "--exit-when-caught-up", "--patience", "6s"];
    let liar = claims_a_thousand(Duration::from_secs(60));
    let home = place.at("stays");
    let said = sync(&home, &[&honest, &liar], &goal).wait().ended(3);
    assert!(said.error().contains("claims 1000"), "{}", said.err);
    let report = said.json();
    assert_eq!(report["outcome"], "caught_up");
    assert_eq!(report["claims_doubted"][0]["height"], 1000);
    has_everything(&home);
    // Once it has gone nothing is open any more.
    let liar = claims_a_thousand(Duration::from_secs(2));
    let home = place.at("goes");
    let said = sync(&home, &[&honest, &liar], &goal).wait().ended(0);
    assert_eq!(
        said.json()["claims_doubted"].as_array().map(Vec::len),
        Some(0)
    );
    has_everything(&home);
}

#[test]
fn what_is_unknown_is_named_with_status_2() {
    let place = Place::new();
    let home = place.at("home");
    let refuse = |more: &[&str], named: &[&str]| {
        let mut line = vec!["sync", "--home", &home, "--peer", "plain://127.0.0.1:1"];
        line.extend(more);
        let said = run(&line).ended(2);
        assert!(
            named.iter().all(|n| said.err.contains(n)),
            "{named:?}: {}",
            said.err
        );
    };
    refuse(&["--rules", "comet-0.99"], &["comet-0.99", "--rules"]);
    refuse(&["--app", "postgres"], &["postgres", "kvstore", "noop"]);
    refuse(
        &["--app", "http://127.0.0.1:26658"],
        &["http://127.0.0.1:26658", "tcp://HOST:PORT"],
    );
    refuse(&["--peer", "quic://h:1"], &["quic"]);
    refuse(&["--bogus"], &["--bogus"]);
    refuse(&[], &["--genesis"]);
    assert!(!place.path("home").exists());
    let said = run(&["sync", "--home", &home]).ended(2);
    assert!(said.error().contains("--peer"), "{}", said.err);
    std::fs::create_dir(place.path("home")).unwrap();
    std::fs::write(place.path("home").join("config.toml"), "untill = 5\n").unwrap();
    let said = run(&["sync", "--home", &home]).ended(2);
    assert!(
        said.error().contains("config.toml") && said.error().contains("untill"),
        "{}",
        said.err
    );
}

#[test]
fn flags_may_stand_in_the_homes_config() {
    let place = Place::new();
    let source = place.imported("source", CHAIN);
    let (_server, at) = serve(&source, &[]);
    let home = place.at("home");
    std::fs::create_dir(place.path("home")).unwrap();
    let genesis = chain(CHAIN, "genesis.json");
    let text = format!(
        "peer = [{at:?}]\ngenesis = {genesis:?}\nuntil = 20\njson = true\nproof = \"every-commit\"\n"
    );
    std::fs::write(place.path("home").join("config.toml"), text).unwrap();
    let report = run(&["sync", "--home", &home]).ended(0).json();
    assert_eq!(
        (report["outcome"].as_str(), report["height"].as_u64()),
        (Some("reached_target"), Some(20))
    );
    // The command line wins, and the genesis is kept.
    let report = run(&["sync", "--home", &home, "--until", "30"])
        .ended(0)
        .json();
    assert_eq!(report["height"], 30);
    assert_eq!(
        recorded(CHAIN, Some(30))["app_hash_after"],
        report["app_hash"]
    );
}

#[test]
fn an_export_is_imported_again_without_losing_a_block() {
    let place = Place::new();
    let source = place.imported("source", CHAIN);
    let (file, again, part) = (
        place.at("file.bin"),
        place.at("again.bin"),
        place.at("part.bin"),
    );
    run(&["export", "--home", &source, &file]).ended(0);
    let (copy, genesis) = (place.at("copy"), chain(CHAIN, "genesis.json"));
    run(&["import", "--home", &copy, "--genesis", &genesis, &file]).ended(0);
    has_everything(&copy);
    run(&["export", "--home", &copy, &again]).ended(0);
    assert!(std::fs::read(&file).unwrap() == std::fs::read(&again).unwrap());
    // A part of it, up to a height whose commit the block above carries.
    run(&["export", "--home", &source, "--to", "100", &part]).ended(0);
    let half = place.at("half");
    let said = run(&[
        "import",
        "--home",
        &half,
        "--genesis",
        &genesis,
        "--json",
        &part,
    ])
    .ended(0);
    assert_eq!(said.json()["height"], 100);
    assert_eq!(
        said.json()["app_hash"],
        recorded(CHAIN, Some(100))["app_hash_after"]
    );
    run(&["export", "--home", &source, "--from", "150", &part]).ended(0);
    let said = run(&["import", "--home", &half, &part]).ended(1);
    assert!(
        said.error().contains("150") && said.error().contains("101"),
        "{}",
        said.err
    );
    let said = run(&["export", "--home", &source, "--to", "9999", &part]).ended(1);
    assert!(
        said.error().contains("9999") && said.error().contains("246"),
        "{}",
        said.err
    );
}

#[test]
fn verify_finds_a_block_that_has_changed_on_disk() {
    let place = Place::new();
    let home = place.imported("home", CHAIN);
    let said = run(&["verify", "--home", &home]).ended(0);
    assert!(said.out.contains("blocks 7 to 246"), "{}", said.out);
    // The first transaction of block 100.
    let file = std::fs::read(chain(CHAIN, "blocks.bin")).unwrap();
    let (at, end) = record(&file, 100);
    let sign = at + file[at..end].iter().position(|b| *b == b'=').unwrap();
    let needle = &file[sign - 4..sign + 12];
    let data = place.path("home").join("data/blocks/0000000000.log");
    let mut bytes = std::fs::read(&data).unwrap();
    let at = bytes.windows(16).position(|w| w == needle);
    bytes[at.expect("it is in the file") + 8] ^= 1;
    std::fs::write(&data, bytes).unwrap();
    let said = run(&["verify", "--home", &home]).ended(1);
    assert!(
        said.error().contains("100") && said.error().contains("corrupt"),
        "{}",
        said.err
    );
}

#[test]
fn the_demonstration_ends_well() {
    let said = run(&["demo"]).ended(0);
    for part in ["liar", "240 block hashes: all equal", "CometBFT"] {
        assert!(said.out.contains(part), "{part}: {}", said.out);
    }
    assert!(!said.out.contains("an honest server"), "{}", said.out);
}

/// An example that cargo has built beside this test.
fn example(name: &str) -> std::path::PathBuf {
    let here = std::env::current_exe().unwrap();
    let built = here.ancestors().nth(2).unwrap();
    let file = built.join("examples").join(name);
    if !file.exists() {
        // `cargo test --test cli` builds no examples.
        let cargo = std::process::Command::new(env!("CARGO"))
            .args([
                "build",
                "--quiet",
                "--package",
                "blocksync",
                "--example",
                name,
            ])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status();
        assert!(cargo.unwrap().success());
    }
    file
}

#[test]
fn the_readmes_example_runs() {
    let place = Place::new();
    let source = place.imported("source", CHAIN);
    let (_server, at) = serve(&source, &[]);
    let line = [&chain(CHAIN, "genesis.json"), &at];
    let ended = std::process::Command::new(example("library"))
        .args(line)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ended.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(ended.status.success(), "{said}{complaint}");
    assert!(
        said.contains("caught up at height 246, app hash f00f000000000000"),
        "{said}"
    );
    assert!(said.contains("consensus begins at height 247"), "{said}");
}
