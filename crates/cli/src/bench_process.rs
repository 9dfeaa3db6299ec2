//! Child processes of a bench: started, watched through `/proc`, and always ended.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::failure::Failure;

/// How long a child may take to say what is awaited.
const PATIENCE: Duration = Duration::from_secs(60);
/// The kernel's unit of CPU time, which has been 1/100 s on every Linux for people.
const TICKS: f64 = 100.0;
/// Lines of a child's output that are shown when it fails.
const SHOWN: usize = 12;

/// CPU time, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Cpu {
    /// In the program.
    pub user: f64,
    /// In the kernel, on its behalf.
    pub system: f64,
}

impl Cpu {
    /// CPU time spent since `before`.
    pub(crate) fn since(self, before: Cpu) -> Cpu {
        Cpu {
            user: self.user - before.user,
            system: self.system - before.system,
        }
    }

    /// Both.
    pub(crate) fn total(self) -> f64 {
        self.user + self.system
    }

    /// Of all children of this process that have ended.
    pub(crate) fn of_ended_children() -> Cpu {
        fs::read_to_string("/proc/self/stat")
            .ok()
            // Fields 16 and 17 of `proc(5)`, cutime and cstime.
            .and_then(|stat| cpu_fields(&stat, 15))
            .unwrap_or_default()
    }
}

/// Two fields of `/proc/PID/stat` that are CPU time; `at` is the number of the first, counted from
/// 0.
fn cpu_fields(stat: &str, at: usize) -> Option<Cpu> {
    // The second field is the program's name in parentheses, and may hold anything.
    let rest = &stat[stat.rfind(')')? + 1..];
    let mut fields = rest.split_whitespace().skip(at - 2);
    let mut ticks = || fields.next()?.parse::<f64>().ok();
    Some(Cpu {
        user: ticks()? / TICKS,
        system: ticks()? / TICKS,
    })
}

/// A process of ours, killed when it is dropped.
pub(crate) struct Child {
    process: std::process::Child,
    lines: mpsc::Receiver<String>,
    seen: Vec<String>,
    name: String,
}

impl Child {
    /// Starts this very program with these arguments, paths last.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn ours<A: AsRef<OsStr>>(args: &[A], paths: &[&Path]) -> Result<Child, Failure> {
        let program = std::env::current_exe()
            .map_err(|e| Failure::failed(format!("cannot find this program: {e}")))?;
        Child::start(Command::new(program).args(args).args(paths))
    }

    /// Starts a command; its output and its errors are read line by line.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn start(command: &mut Command) -> Result<Child, Failure> {
        let name = command.get_program().to_string_lossy().into_owned();
        let mut process = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| Failure::failed(format!("cannot start {name}: {e}")))?;
        let (to, lines) = mpsc::channel();
        if let Some(out) = process.stdout.take() {
            read_lines(out, to.clone());
        }
        if let Some(err) = process.stderr.take() {
            read_lines(err, to);
        }
        Ok(Child {
            process,
            lines,
            seen: Vec::new(),
            name,
        })
    }

    /// The process' id.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// CPU time so far.
    pub(crate) fn cpu(&self) -> Cpu {
        fs::read_to_string(format!("/proc/{}/stat", self.id()))
            .ok()
            // Fields 14 and 15 of `proc(5)`, utime and stime, over all threads.
            .and_then(|stat| cpu_fields(&stat, 13))
            .unwrap_or_default()
    }

    /// Anonymous and shared memory now, in bytes; mapped files are the kernel's.
    pub(crate) fn memory(&self) -> u64 {
        fs::read_to_string(format!("/proc/{}/status", self.id()))
            .ok()
            .and_then(|status| crate::report::resident(&status))
            .unwrap_or(0)
    }

    /// The next line that it writes, if one comes in time; `None` when it has closed its output or
    /// the time is over.
    pub(crate) fn next_line(&mut self, wait: Duration) -> Option<String> {
        let line = self.lines.recv_timeout(wait).ok()?;
        // Only the newest lines are shown with a failure.
        if self.seen.len() == SHOWN {
            self.seen.remove(0);
        }
        self.seen.push(line.clone());
        Some(line)
    }

    /// Waits for a line that holds `mark`; returns what follows it.
    ///
    /// # Errors
    /// When none comes.
    pub(crate) fn line_after(&mut self, mark: &str) -> Result<String, Failure> {
        let end = Instant::now() + PATIENCE;
        while let Some(line) = self.next_line(end.saturating_duration_since(Instant::now())) {
            if let Some((_, rest)) = line.split_once(mark) {
                return Ok(rest.trim().to_owned());
            }
        }
        Err(self.failed(&format!("did not write {mark:?}")))
    }

    /// Waits for its end; returns the lines that it wrote.
    ///
    /// # Errors
    /// When it fails.
    pub(crate) fn finish(mut self) -> Result<Vec<String>, Failure> {
        let mut all = Vec::new();
        // The channel closes when both outputs do.
        while let Ok(line) = self.lines.recv() {
            all.push(line);
        }
        self.seen
            .extend(all.iter().rev().take(SHOWN).rev().cloned());
        let status = self.process.wait();
        match status {
            Ok(status) if status.success() => Ok(all),
            Ok(status) => Err(self.failed(&ended(status))),
            Err(e) => Err(self.failed(&e.to_string())),
        }
    }

    /// A failure that shows what it wrote last.
    pub(crate) fn failed(&self, why: &str) -> Failure {
        let lines = self.seen.join("\n  ");
        Failure::failed(format!("{} {why}; its last lines:\n  {lines}", self.name))
    }
}

fn ended(status: ExitStatus) -> String {
    status.code().map_or_else(
        || "was killed".to_owned(),
        |code| format!("ended with status {code}"),
    )
}

fn read_lines(from: impl Read + Send + 'static, to: mpsc::Sender<String>) {
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines() {
            // Read on when nobody listens: a full pipe would stop the child.
            let Ok(line) = line else { return };
            let _ = to.send(line);
        }
    });
}

impl Drop for Child {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to kill.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_cpu_time_behind_a_strange_name() {
        let stat = "17 (a b) c) S 1 2 3 4 5 6 7 8 9 10 250 50 400 100 20";
        assert_eq!(
            cpu_fields(stat, 13),
            Some(Cpu {
                user: 2.5,
                system: 0.5
            })
        );
        assert_eq!(
            cpu_fields(stat, 15),
            Some(Cpu {
                user: 4.0,
                system: 1.0
            })
        );
        assert_eq!(cpu_fields("17", 13), None);
    }

    #[test]
    fn a_child_is_heard_and_its_end_is_seen() {
        let mut child =
            Child::start(Command::new("sh").args(["-c", "echo port 7; sleep 9"])).unwrap();
        assert_eq!(child.line_after("port ").unwrap(), "7");
        let fails = Child::start(Command::new("sh").args(["-c", "echo why >&2; exit 3"])).unwrap();
        let failure = fails.finish().unwrap_err();
        assert!(failure.message.contains("status 3") && failure.message.contains("why"));
    }
}
