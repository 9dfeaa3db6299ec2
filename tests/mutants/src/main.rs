//! Mutation tests with all mutants in one build: see README.md.

mod compile;
mod more;
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
    let mut unless_set = |name: &str, value: &str| {
        if std::env::var_os(name).is_none() {
            cargo.env(name, value);
        }
    };
    // The mutants make many warnings, and the rules of the source are not for them.
    unless_set("RUSTFLAGS", "--cap-lints=allow");
    unless_set("CARGO_PROFILE_DEV_DEBUG", "0");
    unless_set("CARGO_INCREMENTAL", "0");
    unless_set("CARGO_PROFILE_DEV_OPT_LEVEL", "2");
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

/// A number of the environment.
fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().expect("a number"))
}

/// A random sample of this size, which the seed decides. It begins with any smaller one.
fn sample(mut mutants: Vec<Named>, size: usize, mut seed: u64) -> Vec<Named> {
    // SplitMix64.
    let mut random = || {
        seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    for at in 0..size.min(mutants.len()) {
        let of = mutants.len() - at;
        mutants.swap(at, at + (random() % of as u64) as usize);
    }
    mutants.truncate(size);
    mutants
}

/// Prints the numbers of these mutants, and which were not caught.
fn report(verdicts: &Path, mutants: &[Named]) {
    let mut verdicts = run::read(verdicts);
    verdicts.retain(|name, _| mutants.iter().any(|m| m.name == *name));
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
    if let [first, root, files @ ..] = &args[..]
        && first == "list"
    {
        println!("{}", more::list(Path::new(root), files));
        return;
    }
    let [list, root, tree, cargo @ ..] = &args[..] else {
        eprintln!("usage: blocksync-mutants LIST.json ROOT TREE -p PACKAGE [OPTIONS OF CARGO]");
        eprintln!("       blocksync-mutants list ROOT FILE...");
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
    let mut viable: Vec<Named> = viable.collect();
    println!("{} mutants compile", viable.len());
    if let Some(size) = number("MUTANTS_SAMPLE") {
        let seed = number("MUTANTS_SEED").unwrap_or_default();
        viable = sample(viable, size as usize, seed);
        println!("{} of them, seed {seed}", viable.len());
    }
    let limit = Duration::from_secs(number("MUTANTS_LONGEST").unwrap_or(600));
    let tests = run::learn(&tree, cargo, limit);
    run::describe(&tests);
    let verdicts = tree.join("verdicts.tsv");
    run::run(&viable, &tests, &verdicts);
    report(&verdicts, &viable);
}
