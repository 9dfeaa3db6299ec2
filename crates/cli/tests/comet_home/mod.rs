//! `export --comet-home` and `import --comet-home`, as an operator runs them.

use std::fs;

use crate::process::{Place, chain, run, serve, start, status};

const CHAIN: &str = "full-038";

/// A stock home that has not run: what `init` makes, as far as we look at it.
fn fresh(place: &Place, name: &str) -> String {
    let config = place.path(name).join("config");
    fs::create_dir_all(&config).unwrap();
    fs::create_dir_all(place.path(name).join("data")).unwrap();
    fs::write(
        config.join("config.toml"),
        "db_backend = \"goleveldb\"\ndb_dir = \"data\"\n",
    )
    .unwrap();
    fs::copy(chain(CHAIN, "genesis.json"), config.join("genesis.json")).unwrap();
    place.at(name)
}

#[test]
fn a_home_goes_into_a_stock_node_and_comes_back() {
    let place = Place::new();
    let (ours, comet, back) = (
        place.imported("ours", CHAIN),
        fresh(&place, "comet"),
        place.at("back"),
    );
    let said = run(&["export", "--home", &ours, "--comet-home", &comet]).ended(0);
    assert!(
        said.err.contains("priv_validator_state.json"),
        "{}",
        said.err
    );
    let said = run(&["export", "--home", &ours, "--comet-home", &comet]).ended(1);
    assert!(said.error().contains("there already"), "{}", said.err);

    let said = run(&["import", "--home", &back, "--comet-home", &comet, "--json"]).ended(0);
    let (of, found) = (status(&ours).unwrap(), status(&back).unwrap());
    for name in ["base", "height", "block_hash", "app_hash"] {
        assert_eq!(of[name], found[name], "{name}");
    }
    assert_eq!(said.json()["height"], of["height"]);
    run(&["verify", "--home", &back]).ended(0);
    let said = run(&["import", "--home", &back, "--comet-home", &comet]).ended(1);
    assert!(said.error().contains("another --home"), "{}", said.err);

    // The blocks that come back are those that went.
    let (one, two) = (place.at("one.bin"), place.at("two.bin"));
    run(&["export", "--home", &ours, &one]).ended(0);
    run(&["export", "--home", &back, &two]).ended(0);
    assert!(fs::read(&one).unwrap() == fs::read(&two).unwrap());
}

#[test]
fn the_last_blocks_alone_are_taken_where_that_is_asked() {
    let place = Place::new();
    let (ours, comet) = (place.imported("ours", CHAIN), fresh(&place, "comet"));
    run(&[
        "export",
        "--home",
        &ours,
        "--comet-home",
        &comet,
        "--from",
        "200",
    ])
    .ended(0);
    let back = place.at("back");
    run(&[
        "import",
        "--home",
        &back,
        "--comet-home",
        &comet,
        "--retain-blocks",
        "5",
    ])
    .ended(0);
    let (of, found) = (status(&ours).unwrap(), status(&back).unwrap());
    let height = of["height"].as_u64().unwrap();
    assert_eq!(found["height"].as_u64(), Some(height));
    assert_eq!(found["base"].as_u64(), Some(height - 4));
    // A trusted hash is held against the block.
    let trust = format!("{}:{}", height - 1, "0".repeat(64));
    let other = place.at("other");
    let said = run(&[
        "import",
        "--home",
        &other,
        "--comet-home",
        &comet,
        "--trust",
        &trust,
    ])
    .ended(4);
    assert!(said.error().contains("trusted"), "{}", said.err);
    assert!(!place.path("other").join("data").exists());
}

#[test]
fn what_cannot_be_exported_or_imported_is_named() {
    let place = Place::new();
    let (ours, comet) = (place.imported("ours", CHAIN), fresh(&place, "comet"));
    let missing = place.at("missing");
    let said = run(&["export", "--home", &ours, "--comet-home", &missing]).ended(1);
    assert!(said.error().contains("init"), "{}", said.err);
    let said = run(&["import", "--home", &missing, "--comet-home", &comet]).ended(1);
    assert!(
        said.error().contains("state.db") || said.error().contains("blockstore.db"),
        "{}",
        said.err
    );
    let config = place.path("comet").join("config/config.toml");
    fs::write(&config, "db_backend = \"rocksdb\"\n").unwrap();
    let said = run(&["export", "--home", &ours, "--comet-home", &comet]).ended(1);
    assert!(said.error().contains("rocksdb"), "{}", said.err);
    fs::remove_file(config).unwrap();
    // Another process writes to our home.
    let peer = serve(&place.imported("peer", CHAIN), &[]);
    let line = ["sync", "--home", &ours, "--peer", &peer.1];
    let mut running = start(&line);
    running.says("chain ");
    let said = run(&["export", "--home", &ours, "--comet-home", &comet]).ended(1);
    assert!(!said.error().is_empty(), "{}", said.err);
    running.signal("INT");
    running.wait().ended(0);
    run(&["export", "--home", &ours, "--comet-home", &comet]).ended(0);
}
