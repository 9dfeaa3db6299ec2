//! Reads sources without a parser: comments and strings blanked out, tests left out, functions and
//! paths found.

use std::fs;
use std::path::{Path, PathBuf};

/// The names of a file's test functions.
pub(crate) fn tests(code: &str) -> Vec<&str> {
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
pub(crate) struct Source {
    pub path: PathBuf,
    pub text: String,
    /// Comments, strings and character literals blanked out.
    pub code: String,
    /// `code` without items under `#[cfg(test)]`.
    pub production: String,
}

impl Source {
    pub(crate) fn show(&self) -> String {
        self.path
            .strip_prefix(root())
            .unwrap_or(&self.path)
            .display()
            .to_string()
    }
}

pub(crate) fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

pub(crate) fn sources(under: &str) -> Vec<Source> {
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

/// Top-level modules that are named by `crate::x`, `crate::{x, y::z}` and the same of `blocksync`,
/// with their lines.
pub(crate) fn imports(code: &str) -> Vec<(usize, String)> {
    let all = ["crate::", "blocksync::"].map(|root| paths(code, root));
    let first = |(line, path): (usize, Vec<String>)| Some((line, path.into_iter().next()?));
    all.into_iter().flatten().filter_map(first).collect()
}

/// Paths that follow a prefix, with their lines: `a::{b, c::d}` is `[a, b]` and `[a, c, d]`.
pub(crate) fn paths(code: &str, prefix: &str) -> Vec<(usize, Vec<String>)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices(prefix) {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
            continue;
        }
        let line = code[..at].matches('\n').count() + 1;
        let mut all = Vec::new();
        unfold(&code[at + prefix.len()..], &mut Vec::new(), &mut all);
        found.extend(all.into_iter().map(|path| (line, path)));
    }
    found
}

/// Reads one path or group of paths into `all`; returns what follows it.
fn unfold<'a>(code: &'a str, above: &mut Vec<String>, all: &mut Vec<Vec<String>>) -> &'a str {
    let mut rest = code.trim_start();
    if let Some(mut group) = rest.strip_prefix('{') {
        loop {
            group = unfold(group, above, all).trim_start();
            match group.chars().next() {
                Some(',') => group = &group[1..],
                Some(_) => return &group[1..],
                None => return group,
            }
        }
    }
    let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_'));
    let (name, after) = rest.split_at(end.unwrap_or(rest.len()));
    if let Some(after) = rest.strip_prefix('*') {
        all.push(above.clone());
        return after;
    }
    if name.is_empty() {
        return rest;
    }
    above.push(name.to_owned());
    rest = match after.strip_prefix("::") {
        Some(inner) => unfold(inner, above, all),
        None => {
            all.push(above.clone());
            // `a as b` is named by `a`.
            let alias = after.strip_prefix(" as ").unwrap_or(after);
            alias.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_')
        }
    };
    above.pop();
    rest
}

/// Whether a line names a word: not as a part of a longer identifier.
pub(crate) fn names(line: &str, word: &str) -> bool {
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
pub(crate) fn functions(code: &str) -> Vec<(usize, String, usize)> {
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
    let group = "use super::{a::{self, B}, c::D as E};\nuse super::super::f;\nlet x = super::g::h(super::i::*);";
    let group: Vec<_> = paths(group, "super::")
        .into_iter()
        .map(|(line, path)| (line, path.join("::")))
        .collect();
    let seen = [
        (1, "a::self"),
        (1, "a::B"),
        (1, "c::D"),
        (2, "super::f"),
        (3, "g::h"),
        (3, "i"),
    ];
    assert_eq!(group, seen.map(|(line, path)| (line, path.to_owned())));
    assert!(names("use std::time;", "std::time") && !names("std::timer", "std::time"));
}
