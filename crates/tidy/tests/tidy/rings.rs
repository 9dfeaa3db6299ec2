//! No modules of a room name each other in a ring.

use std::collections::{BTreeMap, BTreeSet};

use crate::reader::{paths, root, sources};

/// Rooms whose modules form no ring: each file can be read, and tested, after those that it names.
const NO_RINGS: [&str; 2] = ["chain", "p2p"];

#[test]
fn modules_of_a_room_form_no_ring() {
    for room in NO_RINGS {
        let uses = uses_within(room);
        assert!(uses.len() > 10, "src/{room}: {} modules only", uses.len());
        if let Some(ring) = ring(&uses) {
            panic!("src/{room}: the modules {} form a ring", ring.join(" → "));
        }
    }
}

/// The modules of a room, by the name of their file or directory, and the others that each names
/// outside of its tests.
fn uses_within(room: &str) -> BTreeMap<String, BTreeSet<String>> {
    let base = root().join("src").join(room);
    let mut uses: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    for file in sources(&format!("src/{room}")) {
        let inside = file.path.strip_prefix(&base).unwrap();
        let first = inside.iter().next().unwrap().to_str().unwrap();
        let module = first.trim_end_matches(".rs");
        if module == "mod" {
            // A re-exported item is named by its own name.
            for (_, path) in paths(&file.production, "pub use ") {
                if let [from, .., name] = path.as_slice() {
                    names.insert(name.clone(), from.clone());
                }
            }
            continue;
        }
        // `super` is the room in a file beside `mod.rs` and in a directory's own `mod.rs`.
        let depth = inside.iter().count() - usize::from(inside.ends_with("mod.rs"));
        let up = "super::".repeat(depth);
        let used = uses.entry(module.to_owned()).or_default();
        for prefix in [format!("crate::{room}::"), up] {
            let found = paths(&file.production, &prefix).into_iter();
            used.extend(
                found.filter_map(|(_, mut path)| (!path.is_empty()).then(|| path.remove(0))),
            );
        }
    }
    let modules: BTreeSet<String> = uses.keys().cloned().collect();
    for (module, used) in &mut uses {
        let resolve = |name: &String| match names.get(name) {
            Some(from) if !modules.contains(name) => from.clone(),
            _ => name.clone(),
        };
        *used = used.iter().map(resolve).collect();
        used.retain(|name| name != module && modules.contains(name));
    }
    uses
}

/// A ring of modules, its first one named again at the end.
fn ring(uses: &BTreeMap<String, BTreeSet<String>>) -> Option<Vec<String>> {
    let mut open = uses.clone();
    // A module that names none of the rest cannot be in a ring.
    loop {
        let left: BTreeSet<String> = open.keys().cloned().collect();
        open.values_mut()
            .for_each(|used| used.retain(|name| left.contains(name)));
        let before = open.len();
        open.retain(|_, used| !used.is_empty());
        if open.len() == before {
            break;
        }
    }
    let mut way = vec![open.keys().next()?.clone()];
    loop {
        let next = open[way.last()?].first()?.clone();
        if let Some(at) = way.iter().position(|name| *name == next) {
            way.push(next);
            return Some(way.split_off(at));
        }
        way.push(next);
    }
}

#[test]
fn a_ring_is_seen_and_named() {
    let uses = |of: &[(&str, &[&str])]| -> BTreeMap<String, BTreeSet<String>> {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        of.iter()
            .map(|(name, used)| ((*name).to_owned(), set(used)))
            .collect()
    };
    assert_eq!(
        ring(&uses(&[("a", &["b"]), ("b", &[]), ("c", &["a", "b"])])),
        None
    );
    let round = ring(&uses(&[("a", &["b"]), ("b", &["c"]), ("c", &["b"])]));
    assert_eq!(round.unwrap().join(" "), "b c b");
}
