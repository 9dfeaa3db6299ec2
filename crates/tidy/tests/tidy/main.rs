//! The rules that hold the tree together, as an ordinary test: who may import whom, what pure
//! modules must not touch, how long files and functions may be, and that every numbered fault has a
//! test. A failure names the file, the line and the rule.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

mod english;
mod reader;
mod rings;

use reader::{functions, imports, names, root, sources, tests};

/// The rooms of the crate, lowest first. A module may import from the rows above its own, and from
/// itself.
const LAYERS: [&[&str]; 5] = [
    &["ids", "fault", "varint"],
    &["chain", "pool"],
    &["wire", "link", "sparing"],
    &["store", "app"],
    &["service", "p2p", "blockfile"],
];
/// Imports within one row: who, from whom. An embedded application's writes travel in a store's
/// batch.
const SAME_ROW: [(&str, &str); 1] = [("app", "store")];
/// Every directory with sources of ours.
const ALL: [&str; 17] = [
    "src",
    "tests",
    "benches",
    "crates/types/src",
    "crates/pool/src",
    "crates/pool/tests",
    "crates/pool/benches",
    "crates/testkit/src",
    "crates/comet-home/src",
    "crates/http/src",
    "crates/http/tests",
    "crates/cli/src",
    "crates/cli/tests",
    "crates/it/src",
    "crates/tidy/src",
    "crates/tidy/tests",
    "examples",
];

/// Words that the pure modules must not name, and why.
const IMPURE: [(&str, &str); 13] = [
    ("tokio", "pure modules know no runtime"),
    ("futures", "pure modules know no runtime"),
    ("async fn", "pure modules know no runtime"),
    ("Instant", "pure modules read no clock: time is an argument"),
    (
        "SystemTime",
        "pure modules read no clock: time is an argument",
    ),
    ("HashMap", "iteration in hash order differs from run to run"),
    ("HashSet", "iteration in hash order differs from run to run"),
    ("RandomState", "its order differs from run to run"),
    ("std::fs", "pure modules do no I/O"),
    ("std::io", "pure modules do no I/O"),
    ("std::net", "pure modules do no I/O"),
    ("std::thread", "pure modules start nothing"),
    ("std::env", "pure modules do no I/O"),
];
/// Sources of randomness. `chain` may name the traits of generators, which callers pass in; `pool`
/// not even these.
const RANDOM: [&str; 7] = [
    "rand::rng(",
    "thread_rng",
    "make_rng",
    "OsRng",
    "SysRng",
    "from_os_rng",
    "rand::random",
];

const MAX_FILE: usize = 800;
const MAX_FUNCTION: usize = 70;

/// Marks of unfinished code, which no file may have. An ignored test needs a reason: the bare
/// attribute is one of them.
const UNFINISHED: [&str; 4] = ["todo!", "unimplemented!", "dbg!", "#[ignore]"];

#[test]
fn modules_import_only_from_layers_below() {
    let mut wrong = String::new();
    for file in sources("src") {
        let Some(module) = module_of(&file.path) else {
            continue;
        };
        let Some(own) = layer(&module) else {
            let _ = writeln!(
                wrong,
                "{}: module `{module}` has no layer: add it to LAYERS in crates/tidy/tests/tidy/main.rs and to design.md 3",
                file.show()
            );
            continue;
        };
        for (line, name) in imports(&file.production) {
            let allowed = name == module
                || SAME_ROW.contains(&(module.as_str(), name.as_str()))
                || layer(&name).is_some_and(|l| l < own);
            if layer(&name).is_some() && !allowed {
                let _ = writeln!(
                    wrong,
                    "{}:{line}: `{module}` imports from `{name}`, which is not below it",
                    file.show()
                );
            }
        }
    }
    assert!(wrong.is_empty(), "layers (design.md 3):\n{wrong}");
}

#[test]
fn pure_modules_touch_no_clock_no_runtime_no_hash_order() {
    let mut wrong = String::new();
    for room in ["src/chain", "crates/pool/src"] {
        for file in sources(room) {
            for (number, line) in file.production.lines().enumerate() {
                let random = RANDOM.iter().map(|word| (*word, "randomness is passed in"));
                let all = (room == "crates/pool/src")
                    .then_some(("rand::", "the pool knows no randomness"));
                for (word, why) in IMPURE.iter().copied().chain(random).chain(all) {
                    if names(line, word) {
                        let _ = writeln!(wrong, "{}:{}: `{word}`: {why}", file.show(), number + 1);
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "pure modules (design.md 3, 4):\n{wrong}");
}

#[test]
fn files_and_functions_are_short() {
    let mut wrong = String::new();
    for file in ALL.iter().flat_map(|dir| sources(dir)) {
        let lines = file.text.lines().count();
        if lines > MAX_FILE {
            let _ = writeln!(
                wrong,
                "{}: {lines} lines, at most {MAX_FILE}: more than one idea?",
                file.show()
            );
        }
        for (line, name, length) in functions(&file.code) {
            if length > MAX_FUNCTION {
                let _ = writeln!(
                    wrong,
                    "{}:{line}: fn {name} has {length} lines, at most {MAX_FUNCTION}",
                    file.show()
                );
            }
        }
    }
    assert!(wrong.is_empty(), "sizes:\n{wrong}");
}

#[test]
fn nothing_is_left_unfinished_or_switched_off() {
    let mut wrong = String::new();
    for file in ALL.iter().flat_map(|dir| sources(dir)) {
        for (number, line) in file.code.lines().enumerate() {
            for word in UNFINISHED.iter().filter(|word| names(line, word)) {
                let _ = writeln!(wrong, "{}:{}: `{word}`", file.show(), number + 1);
            }
        }
    }
    assert!(wrong.is_empty(), "unfinished:\n{wrong}");
}

#[test]
fn the_readme_shows_the_example_that_is_compiled() {
    let read = |file: &str| fs::read_to_string(root().join(file)).unwrap();
    let example = read("examples/library.rs");
    assert!(
        read("README.md").contains(&example),
        "README.md must hold the text of examples/library.rs as it is"
    );
}

/// The numbers of `faults.md`, and how many there are of each: rows of the matrix (b), regressions
/// (e), sightings (f).
const NUMBERED: [(char, usize); 5] = [('p', 36), ('l', 18), ('n', 9), ('r', 60), ('f', 12)];

#[test]
fn every_number_of_faults_md_has_a_test() {
    let mut found = BTreeSet::new();
    for file in ALL.iter().flat_map(|dir| sources(dir)) {
        for name in tests(&file.code) {
            found.extend(name.split('_').map(str::to_owned));
        }
    }
    // Those that have none stand in a list of the regressions' documentation, with the reason.
    let regressions = fs::read_to_string(root().join("tests/regressions.rs")).unwrap();
    let listed = |line: &str| {
        line.strip_prefix("//! * ")?
            .split_once(": ")?
            .0
            .parse()
            .ok()
    };
    let without: BTreeSet<usize> = regressions.lines().filter_map(listed).collect();
    assert!(!without.is_empty(), "the list is not where it was");
    let mut wrong = String::new();
    for (kind, most) in NUMBERED {
        for number in 1..=most {
            let tested = found.contains(&format!("{kind}{number:02}"));
            let listed = kind == 'r' && without.contains(&number);
            match (tested, listed) {
                (false, false) => {
                    let _ = writeln!(wrong, "{kind}{number:02}: no test has it in its name");
                }
                (true, true) => {
                    let _ = writeln!(wrong, "{kind}{number:02}: tested, and listed as not");
                }
                _ => {}
            }
        }
    }
    assert!(wrong.is_empty(), "faults.md:\n{wrong}");
}

/// Every `file.md section` that a comment names, in any of the sources, is a section of a file in
/// `docs/`.
#[test]
fn references_to_documents_resolve() {
    let mut wrong = String::new();
    let mut seen = 0;
    let mut documents = BTreeMap::new();
    for entry in fs::read_dir(root().join("docs")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        documents.insert(name, fs::read_to_string(&path).unwrap());
    }
    for file in ALL.iter().flat_map(|dir| sources(dir)) {
        if file.path.starts_with(root().join("crates/tidy")) {
            continue; // its tests name files that are none
        }
        for (line, name, sections) in references(&file.text) {
            if NOT_OF_DOCS.contains(&name.as_str()) {
                continue;
            }
            let Some(document) = documents.get(&name) else {
                let _ = writeln!(wrong, "{}:{line}: there is no docs/{name}", file.show());
                continue;
            };
            for section in sections {
                seen += 1;
                if !has_section(document, &section) {
                    let _ = writeln!(
                        wrong,
                        "{}:{line}: docs/{name} has no section {section}",
                        file.show()
                    );
                }
            }
        }
    }
    assert!(wrong.is_empty(), "references:\n{wrong}");
    assert!(seen > 100, "the reader of references finds {seen} only");
}

/// Markdown files that lie elsewhere.
const NOT_OF_DOCS: [&str; 3] = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md"];

/// Names of markdown files in a text, with their lines and the sections that follow them.
fn references(text: &str) -> Vec<(usize, String, Vec<String>)> {
    let part = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let mut found = Vec::new();
    for (at, _) in text.match_indices(".md") {
        let stem: String = text[..at].chars().rev().take_while(|c| part(*c)).collect();
        let stem: String = stem.chars().rev().collect();
        let rest = &text[at + 3..];
        if stem.is_empty() || rest.starts_with(part) {
            continue;
        }
        let line = text[..at].matches('\n').count() + 1;
        // A reference may go on behind the comment marks of the next line.
        let words = rest
            .trim_start_matches('`')
            .split_whitespace()
            .filter(|word| !word.starts_with("//"));
        let mut sections = Vec::new();
        for word in words {
            let bare = word.trim_end_matches([',', '.', ';', ':']);
            let bare = if bare.starts_with('(') {
                bare
            } else {
                bare.trim_end_matches([')', '.', ';'])
            };
            let is_section = bare.starts_with(|c: char| c.is_ascii_digit())
                || (bare.len() == 3 && bare.starts_with('(') && bare.ends_with(')'))
                || (bare.len() > 1
                    && bare.starts_with(|c: char| c.is_ascii_uppercase())
                    && bare[1..].chars().all(|c| c.is_ascii_digit() || c == '.'));
            if is_section {
                sections.extend(bare.split('–').map(str::to_owned));
            }
            if !is_section || !word.ends_with(',') {
                break;
            }
        }
        found.push((line, format!("{stem}.md"), sections));
    }
    found
}

/// Whether a document has a heading with this number, or, for `P12` and `A.10`, names it.
fn has_section(document: &str, section: &str) -> bool {
    if section.starts_with(|c: char| c.is_ascii_uppercase()) {
        return document.lines().any(|line| names(line, section));
    }
    document.lines().any(|line| {
        let heading = line.trim_start_matches('#');
        heading.len() < line.len()
            && heading
                .split_whitespace()
                .next()
                .is_some_and(|first| first.trim_end_matches('.') == section)
    })
}

/// The top-level module that a file belongs to; `None` for the crate roots, which may name
/// everything.
fn module_of(path: &Path) -> Option<String> {
    let inside = path.strip_prefix(root().join("src")).ok()?;
    let first = inside.iter().next()?.to_str()?;
    let name = first.trim_end_matches(".rs");
    (!["lib", "main"].contains(&name)).then(|| name.to_owned())
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|row| row.contains(&module))
}

#[test]
fn the_reader_of_references_sees_what_it_should() {
    let cited = "/// (`docs.md` 5.1, 5.9,\n    /// A.10). `other.md`, (b)\n// more.md (f).";
    let cited: Vec<_> = references(cited)
        .into_iter()
        .map(|(l, n, s)| (l, n, s.join(" ")))
        .collect();
    assert_eq!(
        cited,
        [
            (1, "docs.md".to_owned(), "5.1 5.9 A.10".to_owned()),
            (2, "other.md".to_owned(), String::new()),
            (3, "more.md".to_owned(), "(f)".to_owned())
        ]
    );
    assert!(has_section("### 5.10 X\nP12 text", "5.10") && !has_section("### 5.10 X", "5.1"));
    assert!(has_section("P12 text", "P12") && !has_section("P123", "P12"));
}
