//! The flight recorder in real processes: a sync, and a sync that stands still, done again.

use crate::process::{Place, Said, run, serve};
use crate::{CHAIN, FIRST, LAST, SLOWLY, reaches, sync};

/// The line of a replay that says how it ended.
fn last_words(said: &Said) -> &str {
    let line = said.out.lines().find(|line| line.starts_with("at the end"));
    line.unwrap_or_else(|| panic!("{}", said.out))
}

#[test]
fn a_recorded_sync_is_replayed_and_a_damaged_recording_is_named() {
    let place = Place::new();
    let source = place.imported("source", CHAIN);
    let (home, flight) = (place.at("node"), place.at("flight"));
    let (_server, at) = serve(&source, &[]);
    sync(&home, &[&at], &["--record", &flight]).wait().ended(0);
    let said = run(&["replay", &flight]).ended(0);
    let words = last_words(&said);
    assert!(words.contains(&format!("applied {LAST}")), "{words}");
    let said = run(&["replay", &flight, "--effects", "--check-every", "1"]).ended(0);
    let block = format!("<- block {FIRST} of ");
    assert!(said.out.contains(&block), "{}", said.out);

    // Its last chunk is not whole, as after a kill: the rest is replayed.
    let mut bytes = std::fs::read(&flight).unwrap();
    std::fs::write(&flight, &bytes[..bytes.len() - 1]).unwrap();
    let said = run(&["replay", &flight]);
    assert!(said.err.contains("ends within a chunk"), "{}", said.err);

    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&flight, &bytes).unwrap();
    let said = run(&["replay", &flight]).ended(1);
    assert!(said.error().contains("damaged"), "{}", said.err);
    std::fs::write(&flight, b"something else").unwrap();
    let said = run(&["replay", &flight]).ended(1);
    assert!(said.error().contains("is no recording"), "{}", said.err);
}

#[test]
fn a_node_that_stands_still_is_replayed_to_the_same_outcome() {
    let place = Place::new();
    let source = place.imported("source", CHAIN);
    let (home, flight) = (place.at("node"), place.at("flight"));
    let (server, at) = serve(&source, &SLOWLY);
    let node = sync(&home, &[&at], &["--record", &flight, "--patience", "3s"]);
    reaches(&home, FIRST + 20);
    server.signal("KILL");
    let report = node.wait().ended(3).json();
    let said = run(&["replay", &flight]).ended(0);
    let outcome = format!("outcome {}", report["outcome"].as_str().unwrap());
    assert!(said.out.contains(&outcome), "{outcome}: {}", said.out);
    let applied = format!("applied {}", report["height"]);
    assert!(last_words(&said).contains(&applied), "{}", said.out);
}
