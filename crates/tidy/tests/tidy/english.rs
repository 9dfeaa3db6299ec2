//! The language of comments, documentation and messages: the field's words, short sentences with a
//! subject, lines that fit beside code.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use crate::ALL;
use crate::reader::{root, sources};

/// Phrases that readers stumble over, and what to write.
const PHRASES: [(&str, &str); 8] = [
    ("so many", "name the number: \"number of heights\""),
    ("So many", "name the number: \"number of heights\""),
    ("so much", "name the amount: \"bytes that …\""),
    ("So much", "name the amount: \"bytes that …\""),
    (
        "so long",
        "name the time: \"longest wait\", or \"as long as\"",
    ),
    (
        "So long",
        "name the time: \"longest wait\", or \"as long as\"",
    ),
    ("of our own kind", "\"a blocksync node\""),
    ("side door", "say what the path is"),
];
/// First words that leave a sentence of a comment without a subject.
const HEADLESS: [&str; 5] = ["What ", "Who ", "Whose ", "Whoever ", "Whatever "];
/// Words that are no documentation by themselves.
const ALONE: [&str; 6] = ["What.", "Who.", "Whose.", "When.", "Where.", "Why."];
/// Columns of a line of text.
const MAX_COLUMNS: usize = 100;

#[test]
fn comments_and_documents_are_in_plain_english() {
    let mut wrong = String::new();
    let own = root().join(file!());
    for file in ALL.iter().flat_map(|dir| sources(dir)) {
        if file.path != own {
            for (line, why) in flaws_of_source(&file.text) {
                let _ = writeln!(wrong, "{}:{line}: {why}", file.show());
            }
        }
    }
    for path in documents() {
        let text = fs::read_to_string(&path).unwrap();
        let name = path.strip_prefix(root()).unwrap().display();
        for (line, why) in flaws_of_document(&text) {
            let _ = writeln!(wrong, "{name}:{line}: {why}");
        }
    }
    assert!(wrong.is_empty(), "language (CONTRIBUTING.md):\n{wrong}");
}

/// The markdown files: at the top, in `docs`, and of each crate.
fn documents() -> Vec<PathBuf> {
    let dirs = ["", "docs", "benches", "interop", "fuzz", "tests", "proto"].map(str::to_owned);
    let crates = fs::read_dir(root().join("crates")).unwrap();
    let crates = crates.map(|entry| format!("crates/{}", entry.unwrap().file_name().display()));
    let mut found = Vec::new();
    for dir in dirs.into_iter().chain(crates) {
        for entry in fs::read_dir(root().join(&dir)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|e| e == "md") {
                found.push(path);
            }
        }
    }
    assert!(found.len() > 20, "{} documents only", found.len());
    found.sort();
    found
}

fn phrases(line: &str) -> impl Iterator<Item = String> {
    let found = PHRASES
        .iter()
        .filter(move |(phrase, _)| line.contains(phrase));
    found.map(|(phrase, instead)| format!("\"{phrase}\": {instead}"))
}

/// Flaws of a source file, with their lines. Code itself is `rustfmt`'s business.
fn flaws_of_source(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let (mut before, mut code) = (None, false);
    for (number, line) in (1..).zip(text.lines()) {
        found.extend(phrases(line).map(|why| (number, why)));
        let comment = comment(line);
        if let Some((kind, words)) = comment {
            code ^= words.starts_with("```");
            let columns = line.chars().count();
            let wide = code || words.starts_with('|') || !words.contains(' ');
            if columns > MAX_COLUMNS && !wide {
                found.push((number, format!("a comment of {columns} columns")));
            }
            // The line above belongs to the same comment unless it is of another kind.
            let above = before.filter(|(above, _)| *above == kind);
            let ends = |words: &str| words.is_empty() || words.ends_with(['.', ':', '!', '?']);
            if is_headless(words, above.is_none_or(|(_, words)| ends(words))) {
                found.push((
                    number,
                    format!("\"{words}\": begin with what the item is or does"),
                ));
            }
        }
        before = comment;
    }
    found
}

/// Whether a sentence that begins in a line has no subject. `begins` says that one begins at its
/// first word.
fn is_headless(words: &str, begins: bool) -> bool {
    let sentences = words.split_inclusive(". ").skip(usize::from(!begins));
    let headless = |sentence: &str| HEADLESS.iter().any(|head| sentence.starts_with(head));
    ALONE.contains(&words) || sentences.into_iter().any(headless)
}

/// The kind of a line that is a comment as a whole, and its words.
fn comment(line: &str) -> Option<(&'static str, &str)> {
    let line = line.trim_start();
    ["//!", "///", "//"].into_iter().find_map(|kind| {
        let words = line.strip_prefix(kind)?;
        Some((kind, words.trim_start()))
    })
}

/// Flaws of a markdown file. Tables, headings and code may be as wide as they must.
fn flaws_of_document(text: &str) -> Vec<(usize, String)> {
    let (mut found, mut code) = (Vec::new(), false);
    for (number, line) in (1..).zip(text.lines()) {
        if line.trim_start().starts_with("```") {
            code = !code;
        }
        if code {
            continue;
        }
        found.extend(phrases(line).map(|why| (number, why)));
        let columns = line.chars().count();
        let wide = line.starts_with('|') || line.starts_with('#');
        // A long address or hash cannot be broken.
        let breakable = line
            .trim_start()
            .trim_start_matches(['*', '-', ' '])
            .contains(' ');
        if columns > MAX_COLUMNS && !wide && breakable {
            found.push((number, format!("a line of {columns} columns")));
        }
    }
    found
}

#[test]
fn flaws_of_language_are_seen() {
    let long = "word ".repeat(21);
    let source = format!(
        "/// Whose it is.\nfn a() {{}} // so many\n    /// What it is,\n    /// What follows.\n\
         /// First.\n/// What of it.\n// {long}\n//! {}\nlet a = \"Who knows\";\n",
        "x".repeat(120)
    );
    let lines = |flaws: Vec<(usize, String)>| -> Vec<usize> {
        flaws.into_iter().map(|(line, _)| line).collect()
    };
    assert_eq!(lines(flaws_of_source(&source)), [1, 2, 3, 6, 7]);
    for wrong in ["Its place. Whoever is there stays.", "Who."] {
        assert_eq!(lines(flaws_of_source(&format!("    /// {wrong}"))), [1]);
    }
    let right = [
        "Names the peer,",
        "Who asked first. Tells whether it was heard.\n",
    ];
    let right = right.map(|line| format!("/// {line}")).join("\n");
    assert_eq!(lines(flaws_of_source(&right)), []);
    let document = format!("# {long}\n| {long} |\n```\nso many {long}\n```\n{long}\nSo long.\n");
    assert_eq!(lines(flaws_of_document(&document)), [6, 7]);
}
