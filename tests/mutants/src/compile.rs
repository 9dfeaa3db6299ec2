//! Puts all mutants into a tree, and takes those out again that do not compile.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::place::{Mutant, place};
use crate::text::{arms_after, mutants_at};

/// The compiler's code for a `match` that lacks an arm.
const NOT_EXHAUSTIVE: &str = "E0004";

/// Names each mutant that was left out, with the reason.
pub type LeftOut = BTreeMap<u32, &'static str>;

/// Rewrites the sources below `tree` by those below `root` until they compile.
pub fn rewrite(root: &Path, tree: &Path, mutants: &[Mutant], cargo: &[String]) -> LeftOut {
    // Those that an earlier run of the same list has found.
    let known = tree.join("unviable.tsv");
    let text = std::fs::read_to_string(&known).unwrap_or_default();
    let names: BTreeSet<&str> = text.lines().collect();
    let of_name = mutants.iter().filter(|m| names.contains(&*m.name));
    let mut unviable: BTreeSet<u32> = of_name.map(|m| m.id).collect();
    loop {
        let (files, mut left_out) = write(root, tree, mutants, &unviable);
        let more = errors(tree, &files, cargo);
        if more.is_empty() {
            left_out.extend(unviable.iter().map(|id| (*id, "does not compile")));
            return left_out;
        }
        println!("{} mutants do not compile", more.len() + unviable.len());
        unviable.extend(more);
        let names = mutants.iter().filter(|m| unviable.contains(&m.id));
        let lines: String = names.map(|m| format!("{}\n", m.name)).collect();
        std::fs::write(&known, lines).expect("the tree is there");
    }
}

/// Writes the sources with all mutants but those. Returns the files' texts.
fn write(
    root: &Path,
    tree: &Path,
    mutants: &[Mutant],
    without: &BTreeSet<u32>,
) -> (BTreeMap<String, String>, LeftOut) {
    let mut by_file: BTreeMap<&str, Vec<&Mutant>> = BTreeMap::new();
    for mutant in mutants.iter().filter(|m| !without.contains(&m.id)) {
        by_file.entry(&mutant.file).or_default().push(mutant);
    }
    let sources: BTreeSet<&str> = mutants.iter().filter_map(|m| source_dir(&m.file)).collect();
    for source in sources {
        by_file.entry(source_root(root, source)).or_default();
        let switch = tree.join(source).join("mutant.rs");
        std::fs::write(switch, include_str!("switch.rs")).expect("the tree is there");
    }
    let (mut texts, mut left_out) = (BTreeMap::new(), LeftOut::new());
    for (file, mutants) in by_file {
        let original = std::fs::read_to_string(root.join(file)).expect("a source of the list");
        let placed = place(&original, &mutants);
        left_out.extend(placed.left_out);
        let mut text = placed.text;
        if source_dir(file).is_some_and(|source| source_root(root, source) == file) {
            text += "\npub mod mutant;\n";
        }
        std::fs::write(tree.join(file), &text).expect("the tree is there");
        texts.insert(file.to_owned(), text);
    }
    (texts, left_out)
}

/// The `src` directory that a source lies in.
fn source_dir(file: &str) -> Option<&str> {
    let at = match file.starts_with("src/") {
        true => 0,
        false => file.find("/src/")? + 1,
    };
    Some(&file[..at + "src".len()])
}

/// The root of the crate in this directory.
fn source_root(root: &Path, source: &str) -> &'static str {
    let library = format!("{source}/lib.rs");
    match root.join(&library).exists() {
        true => Box::leak(library.into_boxed_str()),
        false => Box::leak(format!("{source}/main.rs").into_boxed_str()),
    }
}

/// The mutants that the compiler's errors lead to.
fn errors(tree: &Path, files: &BTreeMap<String, String>, cargo: &[String]) -> BTreeSet<u32> {
    let mut command = crate::cargo(tree, "check");
    // All libraries and programs, unless the options name targets.
    let named = |arg: &String| arg == "--lib" || arg == "--bins" || arg == "--test";
    if !cargo.iter().any(named) {
        command.args(["--lib", "--bins"]);
    }
    let output = command.args(cargo).arg("--message-format=json");
    let output = output.stderr(Stdio::null()).output().expect("cargo runs");
    let mut groups = Vec::new();
    let mut unexplained = Vec::new();
    for message in String::from_utf8_lossy(&output.stdout).lines() {
        let message: Value = serde_json::from_str(message).unwrap_or_default();
        let message = &message["message"];
        if message["level"] != "error" {
            continue;
        }
        let spans = message["spans"].as_array().cloned().unwrap_or_default();
        let (primary, others): (Vec<_>, Vec<_>) =
            spans.iter().partition(|span| span["is_primary"] == true);
        let mut ids: Vec<u32> = primary.iter().flat_map(|s| of_span(s, files)).collect();
        if ids.is_empty() {
            ids = others.iter().flat_map(|s| of_span(s, files)).collect();
        }
        if message["code"]["code"] == NOT_EXHAUSTIVE {
            ids = primary
                .iter()
                .flat_map(|s| arms_of_span(s, files))
                .collect();
        }
        if ids.is_empty() && !spans.is_empty() {
            unexplained.push(message["rendered"].as_str().unwrap_or_default().to_owned());
        }
        groups.push(ids);
    }
    // An error that lies in what several share may be the fault of one that has an error of its
    // own.
    let single = |ids: &&Vec<u32>| ids.len() == 1;
    let mut found: BTreeSet<u32> = groups.iter().filter(single).flatten().copied().collect();
    if found.is_empty() {
        found.extend(groups.into_iter().flatten());
    }
    if found.is_empty() && !output.status.success() {
        panic!("the tree does not compile: {}", unexplained.join("\n"));
    }
    found
}

fn of_span(span: &Value, files: &BTreeMap<String, String>) -> Vec<u32> {
    let offset = |of: &str| span[of].as_u64().unwrap_or_default() as usize;
    let name = span["file_name"].as_str().unwrap_or_default();
    let Some(text) = files.get(name) else {
        return Vec::new();
    };
    mutants_at(text, offset("byte_start")..offset("byte_end"))
}

fn arms_of_span(span: &Value, files: &BTreeMap<String, String>) -> Vec<u32> {
    let end = span["byte_end"].as_u64().unwrap_or_default() as usize;
    let name = span["file_name"].as_str().unwrap_or_default();
    let text = files.get(name);
    text.map_or(Vec::new(), |text| arms_after(text, end))
}

/// A tree of the files that Git knows at `root`, as they are now.
pub fn copy(root: &Path, tree: &Path) {
    let mut list = Command::new("git");
    list.current_dir(root)
        .args(["ls-files", "-z", "-co", "--exclude-standard"]);
    let list = list.output().expect("git runs");
    let list = String::from_utf8(list.stdout).expect("names of files are UTF-8");
    assert!(!list.is_empty(), "git knows no files at {}", root.display());
    for file in list.split('\0').filter(|file| !file.is_empty()) {
        let (from, to) = (root.join(file), tree.join(file));
        // A file may be deleted and still be known.
        let Ok(text) = std::fs::read(&from) else {
            continue;
        };
        // Cargo compiles by times: what is the same is not written again.
        if std::fs::read(&to).is_ok_and(|there| there == text) {
            continue;
        }
        let parent = to.parent().expect("below the tree");
        std::fs::create_dir_all(parent).expect("a directory in the tree");
        std::fs::write(&to, text).expect("a file in the tree");
    }
}
