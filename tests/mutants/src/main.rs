//! Mutation tests with all mutants in one build: see README.md.

mod compile;
mod place;
mod run;
mod text;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use place::Mutant;
use serde_json::Value;

/// A mutant that is compiled in.
pub struct Named {
    /// Its number in the switch.
    pub id: u32,
    /// Its name, as `cargo mutants` gives it.
    pub name: String,
}

/// A command of cargo in the tree.
fn cargo(tree: &Path, command: &str) -> Command {
    let mut cargo = Command::new("cargo");
    cargo.arg(command).current_dir(tree);
    cargo.env("CARGO_TARGET_DIR", tree.join("target"));
    // The mutants make many warnings, and the rules of the source are not for them.
    cargo.env("RUSTFLAGS", "--cap-lints=allow");
    cargo
        .env("CARGO_PROFILE_DEV_DEBUG", "0")
        .env("CARGO_INCREMENTAL", "0");
    cargo.env("CARGO_PROFILE_DEV_OPT_LEVEL", "2");
    cargo
}

/// Reads the list of `cargo mutants --list --json`.
fn read_list(path: &Path) -> Vec<Mutant> {
    let list = std::fs::read(path).expect("the list of mutants");
    let list: Vec<Value> = serde_json::from_slice(&list).expect("JSON of `cargo mutants`");
    let text = |of: &Value| of.as_str().unwrap_or_default().to_owned();
    let number = |of: &Value| of.as_u64().unwrap_or_default() as usize;
    let mutants = list.iter().zip(0..).map(|(mutant, id)| {
        let start = &mutant["span"]["start"];
        Mutant {
            id,
            file: text(&mutant["file"]),
            name: text(&mutant["name"]),
            genre: text(&mutant["genre"]),
            replacement: text(&mutant["replacement"]),
            start: (number(&start["line"]), number(&start["column"])),
        }
    });
    mutants.collect()
}

/// Prints the numbers, and what was not caught.
fn report(verdicts: &Path) {
    let verdicts = run::read(verdicts);
    let count = |of: &str| verdicts.values().filter(|(v, _)| v == of).count();
    let (caught, hung) = (count("caught"), count("hung"));
    let missed = count("survived") + count("unreached") + count("pending");
    let viable = caught + hung + missed;
    let part = 100.0 * (caught + hung) as f64 / viable.max(1) as f64;
    let caught = caught + hung;
    println!("{viable} viable, {caught} caught ({hung} hung), {missed} not: {part:.1} %");
    for (name, (verdict, _)) in &verdicts {
        if verdict != "caught" && verdict != "hung" {
            println!("{verdict}\t{name}");
        }
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [list, root, tree, cargo @ ..] = &args[..] else {
        eprintln!("usage: blocksync-mutants LIST.json ROOT TREE -p PACKAGE [OPTIONS OF CARGO]");
        std::process::exit(2);
    };
    let root = PathBuf::from(root);
    std::fs::create_dir_all(tree).expect("the tree can be made");
    let tree = std::fs::canonicalize(tree).expect("the tree was made");
    let mutants = read_list(Path::new(list));
    println!("{} mutants", mutants.len());
    compile::copy(&root, &tree);
    let left_out = compile::rewrite(&root, &tree, &mutants, cargo);
    for (id, why) in &left_out {
        println!("left out: {}: {why}", mutants[*id as usize].name);
    }
    let viable = mutants
        .into_iter()
        .filter(|m| !left_out.contains_key(&m.id));
    let viable = viable.map(|Mutant { id, name, .. }| Named { id, name });
    let viable: Vec<Named> = viable.collect();
    println!("{} mutants compile", viable.len());
    let limit =
        std::env::var("MUTANTS_LONGEST").map_or(600, |limit| limit.parse().expect("seconds"));
    let tests = run::learn(&tree, cargo, Duration::from_secs(limit));
    run::describe(&tests);
    let verdicts = tree.join("verdicts.tsv");
    run::run(&viable, &tests, &verdicts);
    report(&verdicts);
}
