//! Runs the tests once for each mutant that they reach.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::Named;

/// Tests that take longer wait until the others have had their turn at every mutant.
const QUICK: Duration = Duration::from_millis(400);

/// Least time that a test has, and how many times its own it has. One that needs more is hung.
const LEAST_LIMIT: Duration = Duration::from_secs(10);
const LIMIT: u32 = 10;

/// Most memory that a test may map, in KiB: an endless loop may allocate.
const MEMORY: u32 = 6_000_000;

/// Tests with this in their name only say that something has changed: they come last, so that a
/// mutant that no other test catches is known by them.
const CHANGE: &str = "digest";

/// Mutants that are tested at a time.
const WORKERS: usize = 2;

/// One test, and what is known of it.
pub struct Test {
    exe: PathBuf,
    /// Where cargo would run it.
    dir: PathBuf,
    name: String,
    takes: Duration,
    reaches: BTreeSet<u32>,
    /// How often it ran against a mutant, and caught it.
    ran: AtomicUsize,
    caught: AtomicUsize,
}

/// The end of a test.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Passed,
    Failed,
    Hung,
}

impl Test {
    fn run(&self, variable: &str, value: &str, limit: Duration) -> End {
        // A shell, because a limit on memory can only be set from within.
        // Files that are mapped, as a store is, do not count.
        let script = format!("ulimit -d {MEMORY}; exec \"$0\" \"$@\"");
        let mut child = Command::new("sh")
            .process_group(0)
            .args(["-c", &script])
            .arg(&self.exe)
            .args([&self.name, "--exact", "--test-threads=1", "-q"])
            .current_dir(&self.dir)
            .env("CARGO_MANIFEST_DIR", &self.dir)
            .env("PROPTEST_RNG_SEED", "1")
            .env("PROPTEST_MAX_SHRINK_ITERS", "0")
            .env(variable, value)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the test starts");
        let start = Instant::now();
        loop {
            if let Some(status) = child.try_wait().expect("the test is a child") {
                if status.success() {
                    return End::Passed;
                }
                end_group(child.id());
                return End::Failed;
            }
            if start.elapsed() > limit {
                end_group(child.id());
                let _ = child.wait();
                return End::Hung;
            }
            std::thread::sleep((start.elapsed() / 8).clamp(MILLI, 50 * MILLI));
        }
    }

    /// Runs it without a mutant, to see how long it takes and which mutants it reaches. One that
    /// takes longer than the limit is left out.
    fn learn(&mut self, note: &Path, limit: Duration) {
        let _ = std::fs::remove_file(note);
        let start = Instant::now();
        let end = self.run("MUTANTS_REACHED", &note.display().to_string(), limit);
        self.takes = start.elapsed();
        if end == End::Failed {
            println!("left out: {} fails without a mutant", self.name);
            return;
        }
        if end == End::Hung {
            println!("left out: {} takes longer than {limit:?}", self.name);
            return;
        }
        let reached = std::fs::read_to_string(note).unwrap_or_default();
        self.reaches = reached.lines().filter_map(|id| id.parse().ok()).collect();
    }

    fn is_quick(&self) -> bool {
        self.takes <= QUICK && !self.name.contains(CHANGE)
    }

    /// How much it is worth to run it first: how likely it catches a mutant, by its time.
    fn worth(&self) -> f64 {
        let count = |of: &AtomicUsize| of.load(Ordering::Relaxed) as f64;
        (count(&self.caught) + 1.0) / (count(&self.ran) + 2.0) / (self.takes.as_secs_f64() + 0.005)
    }
}

/// Ends all processes that a test has started. The group has the number of its first process.
fn end_group(group: u32) {
    let mut kill = Command::new("kill");
    let kill = kill.args(["-KILL", "--", &format!("-{group}")]);
    // Mostly they are gone already.
    let _ = kill.stderr(Stdio::null()).status();
}

const MILLI: Duration = Duration::from_millis(1);

/// Builds the tests and runs each once. Those that take longer than the limit are left out.
pub fn learn(tree: &Path, cargo: &[String], limit: Duration) -> Vec<Test> {
    let mut command = crate::cargo(tree, "test");
    let output = command
        .args(["--no-run", "--message-format=json"])
        .args(cargo);
    let output = output
        .stderr(Stdio::inherit())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "the tests do not compile");
    let wanted = std::env::var("MUTANTS_TARGETS").ok();
    let mut tests = Vec::new();
    for message in String::from_utf8_lossy(&output.stdout).lines() {
        let message: Value = serde_json::from_str(message).unwrap_or_default();
        let is_test = message["profile"]["test"] == true;
        let name = message["target"]["name"].as_str().unwrap_or_default();
        let is_test = is_test
            && wanted
                .as_ref()
                .is_none_or(|w| w.split(',').any(|w| w == name));
        if let (Some(exe), true) = (message["executable"].as_str(), is_test) {
            let manifest = Path::new(message["manifest_path"].as_str().unwrap_or_default());
            let dir = manifest.parent().expect("a package's directory");
            tests.extend(tests_of(Path::new(exe), dir));
        }
    }
    let queue = Mutex::new(tests.iter_mut());
    std::thread::scope(|scope| {
        for worker in 0..WORKERS {
            let (queue, note) = (&queue, tree.join(format!("reached-{worker}")));
            scope.spawn(move || {
                loop {
                    let Some(test) = queue.lock().expect("no panic").next() else {
                        return;
                    };
                    test.learn(&note, limit);
                }
            });
        }
    });
    tests.retain(|test| !test.reaches.is_empty());
    tests
}

/// The tests of a binary that are not ignored.
fn tests_of(exe: &Path, dir: &Path) -> Vec<Test> {
    let list = |more: &[&str]| {
        let command = Command::new(exe)
            .args(["--list", "--format", "terse"])
            .args(more)
            .output();
        let names = String::from_utf8(command.expect("a list").stdout).expect("names");
        let names = names.lines().filter_map(|line| line.strip_suffix(": test"));
        names.map(str::to_owned).collect::<BTreeSet<_>>()
    };
    let names = &list(&[]) - &list(&["--ignored"]);
    let test = |name| Test {
        exe: exe.to_owned(),
        dir: dir.to_owned(),
        name,
        takes: Duration::ZERO,
        reaches: BTreeSet::new(),
        ran: AtomicUsize::new(0),
        caught: AtomicUsize::new(0),
    };
    names.into_iter().map(test).collect()
}

/// The verdicts so far: by the mutant's name, the verdict and the test that it is from.
pub type Verdicts = BTreeMap<String, (String, String)>;

/// Reads verdicts: the last one of a mutant counts.
pub fn read(path: &Path) -> Verdicts {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines = text.lines().filter_map(|line| {
        let mut parts = line.split('\t').map(str::to_owned);
        let (verdict, test) = (parts.next()?, parts.next()?);
        Some((parts.nth(1)?, (verdict, test)))
    });
    lines.collect()
}

/// Tests all mutants that have no verdict yet, and adds the verdicts to the file.
pub fn run(mutants: &[Named], tests: &[Test], verdicts: &Path) {
    let file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(verdicts);
    let file = Mutex::new(file.expect("the file of verdicts"));
    for quick in [true, false] {
        let before = read(verdicts);
        let open = |m: &&Named| {
            let verdict = before.get(&m.name).map(|(verdict, _)| verdict.as_str());
            verdict.is_none() || (!quick && verdict == Some("pending"))
        };
        let queue = Mutex::new(mutants.iter().filter(open));
        let next = || queue.lock().expect("no panic").next();
        std::thread::scope(|scope| {
            for _ in 0..WORKERS {
                scope.spawn(|| {
                    while let Some(mutant) = next() {
                        let line = judge(mutant, tests, quick);
                        file.lock()
                            .expect("no panic")
                            .write_all(line.as_bytes())
                            .expect("a line");
                    }
                });
            }
        });
    }
}

/// Runs the tests that reach a mutant until one of them catches it.
fn judge(mutant: &Named, tests: &[Test], quick: bool) -> String {
    let reach = tests.iter().filter(|t| t.reaches.contains(&mutant.id));
    let is_reached = reach.clone().next().is_some();
    let mut these: Vec<&Test> = reach.filter(|t| t.is_quick() == quick).collect();
    let last = |test: &Test| test.name.contains(CHANGE);
    these.sort_by(|a, b| (last(a).cmp(&last(b))).then(b.worth().total_cmp(&a.worth())));
    let start = Instant::now();
    let (mut verdict, mut by) = ("survived", "");
    if is_reached && quick {
        verdict = "pending";
    } else if !is_reached {
        verdict = "unreached";
    }
    for test in these {
        test.ran.fetch_add(1, Ordering::Relaxed);
        let limit = LEAST_LIMIT.max(test.takes * LIMIT);
        let run = || test.run("MUTANT", &mutant.id.to_string(), limit);
        let mut end = run();
        // Once more: tests with real sockets and times may fail on a loaded machine.
        if end == End::Failed && run() == End::Passed {
            println!("{} failed only once: {}", test.name, mutant.name);
            end = End::Passed;
        }
        if end != End::Passed {
            test.caught.fetch_add(1, Ordering::Relaxed);
            verdict = if end == End::Hung { "hung" } else { "caught" };
            by = &test.name;
            break;
        }
    }
    let mut line = String::new();
    let time = start.elapsed().as_secs_f64();
    let _ = writeln!(line, "{verdict}\t{by}\t{time:.1}\t{}", mutant.name);
    line
}

/// One line for each test: its time, how many mutants it reaches.
pub fn describe(tests: &[Test]) {
    for test in tests {
        let (takes, reaches) = (test.takes.as_secs_f64(), test.reaches.len());
        println!("{takes:7.2} s {reaches:5} mutants {}", test.name);
    }
}
