//! Real processes of the binary: started, watched, killed.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use blocksync::varint;
use serde_json::Value;

/// Time after which a test hangs. Nothing is measured by it.
pub(crate) const HANG: Duration = Duration::from_secs(120);

/// A recorded chain's file in the repository.
pub(crate) fn chain(name: &str, file: &str) -> String {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/chains");
    dir.join(name).join(file).display().to_string()
}

/// The records of a chain's file of blocks, each with its length before it.
pub(crate) fn records(name: &str) -> Vec<Vec<u8>> {
    let bytes = std::fs::read(chain(name, "blocks.bin")).unwrap();
    let (mut records, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let varint::Read::Value(length, head) = varint::read(&bytes[at..]) else {
            panic!("{name}: no length at {at}");
        };
        let end = at + head + length as usize;
        records.push(bytes[at..end].to_vec());
        at = end;
    }
    records
}

/// CometBFT's record of the last height of a chain, or of a given one.
pub(crate) fn recorded(name: &str, height: Option<u64>) -> Value {
    let text = std::fs::read_to_string(chain(name, "expected.jsonl")).unwrap();
    let mut lines = text
        .lines()
        .map(|l| serde_json::from_str::<Value>(l).unwrap());
    match height {
        Some(height) => lines.find(|l| l["height"] == height).unwrap(),
        None => lines.next_back().unwrap(),
    }
}

/// How a process ended, and what it said.
pub(crate) struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Said {
    /// The last line that begins with `error: `.
    pub(crate) fn error(&self) -> &str {
        let mut lines = self.err.lines().rev();
        lines
            .find_map(|l| l.strip_prefix("error: "))
            .unwrap_or_else(|| panic!("no error line (status {}) in:\n{}", self.code, self.err))
    }

    /// Fails unless it ended with this status.
    #[track_caller]
    pub(crate) fn ended(self, code: i32) -> Self {
        assert_eq!(
            self.code, code,
            "standard output:\n{}\nstandard error:\n{}",
            self.out, self.err
        );
        self
    }

    /// The one line of JSON on standard output.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.out.lines().count(), 1, "{}", self.out);
        serde_json::from_str(&self.out).unwrap()
    }
}

/// A running process; killed when it goes out of scope.
pub(crate) struct Running {
    child: Child,
    out: Option<JoinHandle<String>>,
    err: Arc<Mutex<String>>,
    reading: Option<JoinHandle<()>>,
}

/// Starts the binary.
pub(crate) fn start(line: &[&str]) -> Running {
    start_with(&[], line)
}

/// Starts the binary with variables in its environment.
pub(crate) fn start_with(environment: &[(&str, &str)], line: &[&str]) -> Running {
    let mut child = Command::new(env!("CARGO_BIN_EXE_blocksync"))
        .args(line)
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let stderr = BufReader::new(child.stderr.take().unwrap());
    let out = std::thread::spawn(move || {
        let mut text = String::new();
        stdout.read_to_string(&mut text).unwrap();
        text
    });
    let err = Arc::new(Mutex::new(String::new()));
    let shared = err.clone();
    let reading = std::thread::spawn(move || {
        for line in stderr.lines().map_while(Result::ok) {
            let mut text = shared.lock().unwrap();
            text.push_str(&line);
            text.push('\n');
        }
    });
    Running {
        child,
        out: Some(out),
        err,
        reading: Some(reading),
    }
}

/// Runs the binary to its end.
pub(crate) fn run(line: &[&str]) -> Said {
    start(line).wait()
}

/// Runs the binary to its end, with variables in its environment.
pub(crate) fn run_with(environment: &[(&str, &str)], line: &[&str]) -> Said {
    start_with(environment, line).wait()
}

/// `ID@IP:PORT` of a process that listens at a port that the system chose.
pub(crate) fn comet_address(server: &mut Running) -> String {
    let said = server.says(", node id ");
    let words: Vec<_> = said
        .split_whitespace()
        .map(|w| w.trim_end_matches(','))
        .collect();
    let at = words.iter().find_map(|w| w.strip_prefix("comet://"));
    format!("{}@{}", words.last().unwrap(), at.unwrap())
}

impl Running {
    /// Waits for its end.
    pub(crate) fn wait(mut self) -> Said {
        let status = self.end();
        let out = self.out.take().unwrap().join().unwrap();
        self.reading.take().unwrap().join().unwrap();
        let err = self.err.lock().unwrap().clone();
        Said {
            code: status.code().unwrap_or(-1),
            out,
            err,
        }
    }

    fn end(&mut self) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(
                begun.elapsed() < HANG,
                "it hangs; it said:\n{}",
                self.err.lock().unwrap()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Sends it a signal: `INT`, `TERM`, `KILL`.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill")
            .args([&format!("-{name}"), &pid])
            .status();
        assert!(sent.unwrap().success());
    }

    /// Waits for a line on standard error that contains `what`, and gives it.
    pub(crate) fn says(&mut self, what: &str) -> String {
        let begun = Instant::now();
        loop {
            let found = self
                .err
                .lock()
                .unwrap()
                .lines()
                .find(|l| l.contains(what))
                .map(str::to_owned);
            if let Some(line) = found {
                return line;
            }
            let ended = self.child.try_wait().unwrap();
            if ended.is_some() || begun.elapsed() > HANG {
                let err = self.err.lock().unwrap().clone();
                panic!("{what:?} was never said ({ended:?}); it said:\n{err}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A place for one test's homes.
pub(crate) struct Place(tempfile::TempDir);

impl Place {
    pub(crate) fn new() -> Self {
        Place(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn at(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// A home that holds the whole of a recorded chain.
    pub(crate) fn imported(&self, home: &str, name: &str) -> String {
        let home = self.at(home);
        import(&home, name, &chain(name, "blocks.bin"), &[]).ended(0);
        home
    }
}

/// Imports a file into a home, with a recorded chain's genesis and tip commit.
pub(crate) fn import(home: &str, name: &str, file: &str, more: &[&str]) -> Said {
    let (genesis, commit) = (chain(name, "genesis.json"), chain(name, "tip_commit.bin"));
    let rules = if name.ends_with("040") {
        "comet-0.40"
    } else {
        "comet-0.38"
    };
    let mut line = vec![
        "import",
        "--home",
        home,
        "--genesis",
        &genesis,
        "--tip-commit",
        &commit,
    ];
    if !more.contains(&"--rules") {
        line.extend(["--rules", rules]);
    }
    line.extend(more);
    line.push(file);
    run(&line)
}

/// A server of a home on a port that the system chose, and its address.
pub(crate) fn serve(home: &str, more: &[&str]) -> (Running, String) {
    let mut line = vec!["serve", "--home", home, "--listen", "plain://127.0.0.1:0"];
    line.extend(more);
    let mut server = start(&line);
    let said = server.says("listening at plain://127.0.0.1:");
    let address = said
        .split_whitespace()
        .find(|w| w.starts_with("plain://"))
        .unwrap();
    let address = address.trim_end_matches(',').to_owned();
    (server, address)
}

/// A server of a home that CometBFT's nodes can dial, and its `ID@IP:PORT`.
pub(crate) fn serve_comet(home: &str, more: &[&str]) -> (Running, String) {
    let mut line = vec!["serve", "--home", home, "--listen", "comet://127.0.0.1:0"];
    line.extend(more);
    let mut server = start(&line);
    let address = comet_address(&mut server);
    (server, address)
}

/// `blocksync status --json`; `None` while there is no store.
pub(crate) fn status(home: &str) -> Option<Value> {
    let said = run(&["status", "--home", home, "--json"]);
    (said.code == 0).then(|| said.json())
}

/// Waits until a home has applied a height.
pub(crate) fn reaches(home: &str, height: u64) -> Value {
    let begun = Instant::now();
    loop {
        if let Some(status) = status(home)
            && status["height"].as_u64().is_some_and(|h| h >= height)
        {
            return status;
        }
        assert!(
            begun.elapsed() < HANG,
            "{home} does not reach {height}: {:?}",
            status(home)
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until a file is there.
pub(crate) fn appears_at(file: &Path) {
    let begun = Instant::now();
    while !file.exists() {
        assert!(begun.elapsed() < HANG, "{} does not appear", file.display());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until a file is there, made by a process that runs.
pub(crate) fn appears(process: &mut Running, file: &Path) {
    let begun = Instant::now();
    while !file.exists() {
        let ended = process.child.try_wait().unwrap();
        assert!(
            ended.is_none() && begun.elapsed() < HANG,
            "{} does not appear",
            file.display()
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}
