//! CometBFT's own block sync of the same chain: one unmodified node from another, over loopback. No
//! Go tools are needed: the serving node's home is filled by syncing it from our own server, which
//! is a figure of its own.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::bench::{Bench, ChainFiles, Run, app, show};
use crate::bench_process::Child;
use crate::console::say;
use crate::failure::Failure;

/// How often a node is asked for its height.
const ASK: Duration = Duration::from_millis(20);
/// How long a node may stand still.
const PATIENCE: Duration = Duration::from_secs(60);
/// Settings with which two nodes of one host sync at full speed (5 MB/s is the default rate).
const SETTINGS: [(&str, &str); 5] = [
    ("allow_duplicate_ip", "true"),
    ("addr_book_strict", "false"),
    ("send_rate", "1000000000"),
    ("recv_rate", "1000000000"),
    ("indexer", "\"null\""),
];

/// A serving node, and what is needed to start others.
pub(crate) struct Comet {
    program: PathBuf,
    app: &'static str,
    server: Child,
    address: String,
    /// The run that filled the serving node, from our server.
    pub from_ours: Run,
}

impl Comet {
    /// Fills a node from our server and lets it serve.
    ///
    /// # Errors
    /// When a process fails.
    pub(crate) fn prepare(
        program: &Path,
        args: &Bench,
        chain: &ChainFiles,
        home: &Path,
        work: &Path,
    ) -> Result<Self, Failure> {
        let listen = [
            "serve",
            "--log",
            "warn",
            "--listen",
            "comet://127.0.0.1:0",
            "--home",
        ];
        let mut ours = Child::ours(&listen, &[home])?;
        let announced = ours.line_after("listening at comet://")?;
        let (host, id) = (announced.split_once(", node id "))
            .ok_or_else(|| Failure::failed(format!("the server listens at {announced:?}")))?;
        let filled = work.join("comet-server");
        init(program, &filled, chain)?;
        let stored = stored_app(app(args));
        let node = Node::start(program, &filled, stored, &format!("{id}@{host}"))?;
        let from_ours = node.watch(chain)?;
        // Stopped and started again without peers, so that it serves from its
        // store and syncs no more.
        node.stop()?;
        // Ends our server, which must not take CPU from the runs that are measured.
        drop(ours);
        say(&format!(
            "filled a CometBFT node from our server in {:.1} s",
            from_ours.seconds
        ));
        let Node {
            process, address, ..
        } = Node::start(program, &filled, stored, "")?;
        Ok(Comet {
            program: program.to_owned(),
            app: app(args),
            server: process,
            address,
            from_ours,
        })
    }

    /// Syncs the chain once, into a fresh node.
    ///
    /// # Errors
    /// When the node fails or stands still.
    pub(crate) fn sync(&self, chain: &ChainFiles, work: &Path) -> Result<Run, Failure> {
        let home = work.join("comet-client");
        init(&self.program, &home, chain)?;
        let before = self.server.cpu();
        let node = Node::start(&self.program, &home, self.app, &self.address)?;
        let mut run = node.watch(chain)?;
        run.servers = self.server.cpu().since(before);
        node.stop()?;
        fs::remove_dir_all(&home).map_err(|e| Failure::failed(format!("{}: {e}", show(&home))))?;
        Ok(run)
    }
}

/// The name of the application that keeps its state over a restart, where there is one.
fn stored_app(app: &'static str) -> &'static str {
    match app {
        "kvstore" => "persistent_kvstore",
        other => other,
    }
}

/// Makes a node's home for the chain.
fn init(program: &Path, home: &Path, chain: &ChainFiles) -> Result<(), Failure> {
    let mut command = Command::new(program);
    Child::start(command.arg("init").arg("--home").arg(home))?.finish()?;
    let write = || {
        fs::copy(chain.file("genesis.json"), home.join("config/genesis.json"))?;
        let file = home.join("config/config.toml");
        let config = fs::read_to_string(&file)?;
        fs::write(&file, with_settings(&config))
    };
    write().map_err(|e| Failure::failed(format!("{}: {e}", show(home))))
}

fn with_settings(config: &str) -> String {
    let mut out = String::with_capacity(config.len());
    for line in config.lines() {
        // By name alone: none of these settings occurs in two sections of the file.
        let name = line.split('=').next().unwrap_or_default().trim();
        match SETTINGS.iter().find(|(setting, _)| *setting == name) {
            Some((setting, value)) => out.push_str(&format!("{setting} = {value}\n")),
            None => {
                out.push_str(line);
                out.push('\n');
            }
        }
    }
    out
}

/// A running node.
struct Node {
    process: Child,
    /// `ID@HOST:PORT`.
    address: String,
    rpc: u16,
}

impl Node {
    fn start(program: &Path, home: &Path, app: &str, peers: &str) -> Result<Self, Failure> {
        let id = Command::new(program)
            .args(["show-node-id", "--home"])
            .arg(home)
            .output();
        let id = id.map_err(|e| Failure::failed(format!("{}: {e}", show(program))))?;
        let id = String::from_utf8_lossy(&id.stdout).trim().to_owned();
        let (p2p, rpc) = (free_port()?, free_port()?);
        let process = Child::start(
            Command::new(program)
                .args([
                    "node",
                    "--proxy_app",
                    app,
                    "--log_level",
                    "error",
                    "--p2p.pex=false",
                ])
                .args(["--p2p.laddr", &format!("tcp://127.0.0.1:{p2p}")])
                .args(["--rpc.laddr", &format!("tcp://127.0.0.1:{rpc}")])
                .args(["--p2p.persistent_peers", peers, "--home"])
                .arg(home),
        )?;
        let node = Node {
            process,
            address: format!("{id}@127.0.0.1:{p2p}"),
            rpc,
        };
        let end = Instant::now() + PATIENCE;
        while node.height().is_none() {
            if Instant::now() > end {
                return Err(node.process.failed("does not answer"));
            }
            std::thread::sleep(ASK);
        }
        Ok(node)
    }

    /// Ends it as a person would, so that its stores are whole.
    fn stop(self) -> Result<(), Failure> {
        let mut kill = Command::new("kill");
        let asked = kill.args(["-INT", &self.process.id().to_string()]).status();
        asked.map_err(|e| Failure::failed(format!("kill: {e}")))?;
        // How it ends after an interrupt is its own affair.
        let _ = self.process.finish();
        Ok(())
    }

    /// Its height, when it answers.
    fn height(&self) -> Option<u64> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.rpc)).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        // HTTP/1.0, so that the node closes the connection behind the answer.
        stream.write_all(b"GET /status HTTP/1.0\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (_, body) = answer.split_once("\r\n\r\n")?;
        let status: Value = serde_json::from_str(body).ok()?;
        status["result"]["sync_info"]["latest_block_height"]
            .as_str()?
            .parse()
            .ok()
    }

    /// Watches a sync from the first block in to the last but one: a node keeps the last for
    /// consensus.
    fn watch(&self, chain: &ChainFiles) -> Result<Run, Failure> {
        // The serving node may itself be one block short.
        let goal = chain.last.saturating_sub(2);
        let (mut first, mut last, mut moved) = (None, 0, Instant::now());
        let mut memory = 0;
        loop {
            let height = self.height().unwrap_or(0);
            memory = memory.max(self.process.memory());
            if height > last {
                (last, moved) = (height, Instant::now());
                // From its first block on: finding its peers is not what is compared.
                first.get_or_insert((height, moved));
            }
            // Looked at before the patience, since the last block may come in the same moment.
            if height >= goal {
                break;
            }
            if moved.elapsed() > PATIENCE {
                return Err(self
                    .process
                    .failed(&format!("stands still at height {last}")));
            }
            std::thread::sleep(ASK);
        }
        let (begun, since) = first.unwrap_or((last, moved));
        Ok(Run {
            blocks: last - begun,
            seconds: since.elapsed().as_secs_f64(),
            client: self.process.cpu(),
            servers: crate::bench_process::Cpu::default(),
            memory,
            stages: serde_json::Value::Null,
            bottleneck: String::new(),
        })
    }
}

/// A port that nobody listens at just now.
fn free_port() -> Result<u16, Failure> {
    // Free again once the listener is dropped. Another process could take it; then
    // the node fails to start.
    let at = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|l| l.local_addr());
    at.map(|at| at.port())
        .map_err(|e| Failure::failed(format!("no port: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_replace_lines_and_leave_the_rest() {
        let config = "# send_rate = 1\nsend_rate = 5120000\nmoniker = \"x\"\n";
        let expected = "# send_rate = 1\nsend_rate = 1000000000\nmoniker = \"x\"\n";
        assert_eq!(with_settings(config), expected);
    }
}
