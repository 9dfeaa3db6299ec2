//! The rules that hold the tree together, as an ordinary test: who may import whom, what pure
//! modules must not touch, how long files and functions may be, and that every numbered fault has a
//! test. A failure names the file, the line and the rule.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// The rooms of the crate, lowest first. A module may import from the rows above its own, and from
/// itself.
const LAYERS: [&[&str]; 5] = [
    &["ids", "fault", "varint"],
    &["chain", "pool"],
    &["wire", "link"],
    &["store", "app"],
    &["service", "p2p"],
];
/// Imports within one row: who, from whom. An embedded application's writes travel in a store's
/// batch.
const SAME_ROW: [(&str, &str); 1] = [("app", "store")];
/// Every directory with sources of ours.
const ALL: [&str; 14] = [
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
                "{}: module `{module}` has no layer: add it to LAYERS in tests/tidy.rs and to design.md 3",
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
    let own = root().join(file!());
    for file in ALL.iter().flat_map(|dir| sources(dir)) {
        if file.path == own {
            continue;
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

/// The names of a file's test functions.
fn tests(code: &str) -> Vec<&str> {
    let mut names = Vec::new();
    for mark in ["#[test]", "#[tokio::test"] {
        for (at, _) in code.match_indices(mark) {
            let rest = &code[at..];
            let name = rest
                .split_once("fn ")
                .and_then(|(_, n)| n.split('(').next());
            names.extend(name);
        }
    }
    names
}

/// One source file in three forms; line numbers are the same in all.
struct Source {
    path: PathBuf,
    text: String,
    /// Comments, strings and character literals blanked out.
    code: String,
    /// `code` without items under `#[cfg(test)]`.
    production: String,
}

impl Source {
    fn show(&self) -> String {
        self.path
            .strip_prefix(root())
            .unwrap_or(&self.path)
            .display()
            .to_string()
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources(under: &str) -> Vec<Source> {
    let mut found = Vec::new();
    let mut dirs = vec![root().join(under)];
    while let Some(dir) = dirs.pop() {
        let entries = fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
        for entry in entries {
            let path = entry.unwrap().path();
            if path.is_dir() {
                if path.file_name().is_none_or(|name| name != "target") {
                    dirs.push(path);
                }
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let code = blank(&text);
                let production = if is_test_file(&path) {
                    String::new()
                } else {
                    without_tests(&code)
                };
                found.push(Source {
                    path,
                    text,
                    code,
                    production,
                });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// A file that is a test module as a whole: its parent has it under `#[cfg(test)] mod …;`.
fn is_test_file(path: &Path) -> bool {
    let Some(stem) = path.file_stem().and_then(|s| s.to_str()) else {
        return false;
    };
    let Some(dir) = path.parent() else {
        return false;
    };
    if dir.file_name().is_some_and(|n| n == "tests") {
        return true;
    }
    let beside = dir.with_extension("rs");
    [dir.join("mod.rs"), dir.join("lib.rs"), beside]
        .iter()
        .filter(|parent| parent.as_path() != path)
        .filter_map(|parent| fs::read_to_string(parent).ok())
        .any(|parent| {
            let code = blank(&parent);
            let declared = ["mod ", "pub mod ", "pub(crate) mod ", "pub(super) mod "]
                .iter()
                .any(|form| names(&code, &format!("{form}{stem};")));
            declared && !names(&without_tests(&code), &format!("mod {stem};"))
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

/// Top-level modules that are named by `crate::x`, `crate::{x, y::z}` and the same of `blocksync`,
/// with their lines.
fn imports(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for root in ["crate::", "blocksync::"] {
        for (at, _) in code.match_indices(root) {
            let bare = code[..at]
                .chars()
                .next_back()
                .is_none_or(|c| !(c.is_alphanumeric() || c == '_' || c == ':' || c == '$'));
            if !bare {
                continue;
            }
            let line = code[..at].matches('\n').count() + 1;
            for name in heads(&code[at + root.len()..]) {
                found.push((line, name));
            }
        }
    }
    found
}

/// The first identifiers of a path or of a braced group of paths.
fn heads(rest: &str) -> Vec<String> {
    let ident = |text: &str| -> String {
        text.trim_start()
            .chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect()
    };
    if !rest.trim_start().starts_with('{') {
        return vec![ident(rest)];
    }
    let (mut depth, mut names) = (0, Vec::new());
    for (at, c) in rest.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 1 && (c == '{' || c == ',') {
            names.push(ident(&rest[at + 1..]));
        }
        if depth == 0 && c == '}' {
            break;
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

/// Whether a line names a word: not as a part of a longer identifier.
fn names(line: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        let starts = !word.starts_with(part) || before.is_none_or(|c| !part(c));
        let ends = !word.ends_with(part) || after.is_none_or(|c| !part(c));
        starts && ends
    })
}

/// Every function with a body: line, name, lines from `fn` to the closing brace.
fn functions(code: &str) -> Vec<(usize, String, usize)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let name: String = code[at + 3..]
            .chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect();
        if name.is_empty() {
            continue; // a function pointer's type
        }
        if let Some(end) = body_end(&code[at..]) {
            let line = code[..at].matches('\n').count() + 1;
            let length = code[at..at + end].matches('\n').count() + 1;
            found.push((line, name, length));
        }
    }
    found
}

/// The offset right behind an item's braces; `None` when the item ends with a semicolon.
fn body_end(code: &str) -> Option<usize> {
    let (mut braces, mut others) = (0usize, 0usize);
    for (at, c) in code.char_indices() {
        match c {
            '{' => braces += 1,
            '}' => {
                braces = braces.checked_sub(1)?;
                if braces == 0 && others == 0 {
                    return Some(at + 1);
                }
            }
            '(' | '[' => others += 1,
            ')' | ']' => others = others.checked_sub(1)?,
            ';' if braces == 0 && others == 0 => return None,
            _ => {}
        }
    }
    None
}

/// Blanks every item that stands under `#[cfg(test)]`.
fn without_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut out = code.to_owned();
    while let Some(at) = out.find(MARK) {
        let rest = &out[at + MARK.len()..];
        let semicolon = rest.find(';').map(|n| n + 1);
        let length = body_end(rest).or(semicolon).unwrap_or(rest.len());
        let end = at + MARK.len() + length;
        let blanked: String = out[at..end]
            .chars()
            .map(|c| if c == '\n' { '\n' } else { ' ' })
            .collect();
        out.replace_range(at..end, &blanked);
    }
    out
}

/// Blanks comments, strings and character literals; every line stays.
fn blank(text: &str) -> String {
    let bytes: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = literal_end(&bytes, at);
        if end == at {
            out.push(bytes[at]);
            at += 1;
        } else {
            out.extend(
                bytes[at..end]
                    .iter()
                    .map(|c| if *c == '\n' { '\n' } else { ' ' }),
            );
            at = end;
        }
    }
    out
}

/// Where the comment or literal that begins at `at` ends; `at` itself when none begins there.
fn literal_end(text: &[char], at: usize) -> usize {
    let starts = |at: usize, with: &str| {
        with.chars()
            .enumerate()
            .all(|(n, c)| text.get(at + n) == Some(&c))
    };
    let find = |from: usize, what: &str| (from..text.len()).find(|n| starts(*n, what));
    let word_before = at > 0 && (text[at - 1].is_alphanumeric() || text[at - 1] == '_');
    if starts(at, "//") {
        return find(at, "\n").unwrap_or(text.len());
    }
    if starts(at, "/*") {
        return find(at + 2, "*/").map_or(text.len(), |n| n + 2);
    }
    if !word_before && (text[at] == 'r' || starts(at, "br")) {
        let quote = at + if text[at] == 'b' { 2 } else { 1 };
        let hashes = (quote..text.len()).take_while(|n| text[*n] == '#').count();
        if text.get(quote + hashes) == Some(&'"') {
            let close = format!("\"{}", "#".repeat(hashes));
            return find(quote + hashes + 1, &close).map_or(text.len(), |n| n + close.len());
        }
    }
    match text[at] {
        '"' => quoted(text, at, '"'),
        // A lifetime has no closing quote right behind one character.
        '\'' if text.get(at + 1) == Some(&'\\') || text.get(at + 2) == Some(&'\'') => {
            quoted(text, at, '\'')
        }
        _ => at,
    }
}

fn quoted(text: &[char], at: usize, quote: char) -> usize {
    let mut n = at + 1;
    while n < text.len() {
        match text[n] {
            '\\' => n += 2,
            c if c == quote => return n + 1,
            _ => n += 1,
        }
    }
    text.len()
}

#[test]
fn the_reader_of_sources_sees_what_it_should() {
    let text = "use crate::{ids::A, pool};\nfn a(x: [u8; 2]) {\n  let s = \"} // fn b() {\"; let c = '{';\n}\n#[cfg(test)]\nmod tests {\n use crate::service::X;\n}\n// crate::cli\nfn c<'a>() -> &'a str { r#\"\"crate::app\"# }\n";
    let code = blank(text);
    let production = without_tests(&code);
    let seen: Vec<String> = imports(&production)
        .into_iter()
        .map(|(_, name)| name)
        .collect();
    assert_eq!(seen, ["ids", "pool"]);
    assert_eq!(
        functions(&code),
        [(2, "a".to_owned(), 3), (10, "c".to_owned(), 1)]
    );
    assert_eq!(code.lines().count(), text.lines().count());
    let marked = "#[test]\nfn p01_a() {}\n#[tokio::test(start_paused = true)]\n#[ignore = \"\"]\nasync fn b() {}\nfn c() {}";
    assert_eq!(tests(marked), ["p01_a", "b"]);
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
    assert!(names("use std::time;", "std::time") && !names("std::timer", "std::time"));
}
