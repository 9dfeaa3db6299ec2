//! `sync --blocks`: files of blocks beside the peers.

use std::path::Path;

use crate::process::{Place, Running, Said, chain, records, run, serve};

const CHAIN: &str = "four";

/// `sync` from files and peers until it is caught up.
fn sync(home: &str, files: &[&Path], peers: &[&str]) -> Said {
    let genesis = chain(CHAIN, "genesis.json");
    let mut line = vec!["sync", "--home", home, "--genesis", &genesis, "--json"];
    line.extend(["--exit-when-caught-up", "--patience", "3s"]);
    for file in files {
        line.extend(["--blocks", file.to_str().unwrap()]);
    }
    for peer in peers {
        line.extend(["--peer", peer]);
    }
    run(&line)
}

fn server(place: &Place) -> (Running, String) {
    serve(&place.imported("server", CHAIN), &[])
}

#[test]
fn files_alone_are_somebody_to_sync_from() {
    let place = Place::new();
    let (lower, upper) = (place.path("lower.bin"), place.path("upper.bin"));
    let records = records(CHAIN);
    std::fs::write(&lower, records[..80].concat()).unwrap();
    std::fs::write(&upper, records[60..150].concat()).unwrap();
    // Without a commit for the last block only those below it are proven.
    let first = sync(&place.at("first"), &[&lower], &[]).ended(0).json();
    assert_eq!(first["height"], 79);
    let both = sync(&place.at("both"), &[&lower, &upper], &[]);
    let both = both.ended(0).json();
    assert_eq!(both["height"], 149);
    assert_eq!(both["peers_dropped"].as_array().unwrap().len(), 0);
}

#[test]
fn a_file_helps_and_a_peer_has_the_rest() {
    let place = Place::new();
    // The peer has pruned the first half, and the file lacks the last third: neither is enough.
    let (home, genesis) = (place.at("server"), chain(CHAIN, "genesis.json"));
    let (tip, blocks) = (chain(CHAIN, "tip_commit.bin"), chain(CHAIN, "blocks.bin"));
    let mut import = vec!["import", "--home", &home, "--genesis", &genesis];
    import.extend(["--tip-commit", &tip, "--retain-blocks", "150", &blocks]);
    run(&import).ended(0);
    let (_server, at) = serve(&home, &[]);
    let file = place.path("blocks.bin");
    std::fs::write(&file, records(CHAIN)[..200].concat()).unwrap();
    let said = sync(&place.at("node"), &[&file], &[&at]).ended(0).json();
    assert_eq!(said["height"], 300);
    assert_eq!(said["peers_dropped"].as_array().unwrap().len(), 0);
}

/// A file that lies is dropped like a peer that does, and one that is flawed is named with the
/// place. The blocks before it are kept, and others give the rest.
#[test]
fn a_damaged_file_is_named_and_a_peer_goes_on() {
    let place = Place::new();
    let (_server, at) = server(&place);
    let file = place.path("blocks.bin");
    let mut altered = records(CHAIN)[..200].to_vec();
    let middle = altered[99].len() / 2;
    altered[99][middle] ^= 1;
    let mut gap = records(CHAIN)[..200].to_vec();
    gap.remove(99);
    for (name, blocks, why) in [
        ("altered", altered, "block 100: data_hash"),
        (
            "gap",
            gap,
            "it holds block 101; heights must follow each other",
        ),
    ] {
        std::fs::write(&file, blocks.concat()).unwrap();
        let home = place.at(name);
        let said = sync(&home, &[&file], &[]).ended(3);
        assert!(said.err.contains(why), "{name}: {}", said.err);
        assert!(said.err.contains("blocks.bin"), "{name}: {}", said.err);
        let height = said.json()["height"].as_u64().unwrap();
        assert!((90..100).contains(&height), "{name}: {height}");
        let said = sync(&home, &[&file], &[&at]).ended(0);
        assert_eq!(said.json()["height"], 300, "{name}");
    }

    // A file that is cut off says so before anything begins.
    let mut cut = records(CHAIN)[..200].concat();
    cut.pop();
    std::fs::write(&file, cut).unwrap();
    let said = sync(&place.at("cut"), &[&file], &[&at]).ended(1);
    assert!(said.error().contains("the file is cut off"), "{}", said.err);
    assert!(!place.path("cut").exists());
}
