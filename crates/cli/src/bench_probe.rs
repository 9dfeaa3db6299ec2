//! The machine's limit for the same bytes: what it takes merely to receive them over loopback from
//! another process, to hash them once, and to append them to a file that is synced every 64 MiB.
//! One thread does all three in turn: a pipeline over several cores would have to pay for its
//! hand-overs, and on two cores the sender has the other one.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::time::Instant;

use sha2::{Digest, Sha256};

use crate::bench_process::Child;
use crate::failure::Failure;

/// Bytes that are received, hashed and appended at a time.
const CHUNK: usize = 256 << 10;
/// Appended bytes after which the file is synced.
const SYNC_EVERY: u64 = 64 << 20;
/// Word that the sending process writes before its port.
const PORT: &str = "sending at port ";

/// Work done with the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// Nothing.
    Receive,
    /// They are hashed.
    Hash,
    /// They are hashed and appended to a file.
    Append,
}

/// Bytes a second of each stage.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Limit {
    /// Receive only.
    pub receive: f64,
    /// And hash.
    pub hash: f64,
    /// And append.
    pub append: f64,
}

impl Limit {
    /// The better of two runs, stage by stage.
    pub(crate) fn best(self, other: Limit) -> Limit {
        Limit {
            receive: self.receive.max(other.receive),
            hash: self.hash.max(other.hash),
            append: self.append.max(other.append),
        }
    }
}

/// Measures all stages over the bytes of `file`, which another process sends. Appended blocks go to
/// a file in `work`.
///
/// # Errors
/// When the file cannot be read or written, or the sender fails.
pub(crate) fn measure(file: &Path, work: &Path) -> Result<Limit, Failure> {
    let mut sender = Child::ours(&["bench", "--probe-send"], &[file])?;
    let port = sender.line_after(PORT)?;
    let port: u16 = port
        .parse()
        .map_err(|_| Failure::failed(format!("the probe's sender is at no port: {port:?}")))?;
    let stage = |stage| {
        receive(port, stage, work).map_err(|e| Failure::failed(format!("the limit probe: {e}")))
    };
    Ok(Limit {
        // Each stage receives everything anew, so each figure includes what
        // the stages before it cost.
        receive: stage(Stage::Receive)?,
        hash: stage(Stage::Hash)?,
        append: stage(Stage::Append)?,
    })
}

/// Receives everything once; returns bytes a second.
fn receive(port: u16, stage: Stage, work: &Path) -> io::Result<f64> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    let path = work.join("probe.bin");
    let mut file = match stage {
        Stage::Append => Some(File::create(&path)?),
        Stage::Receive | Stage::Hash => None,
    };
    let mut chunk = vec![0; CHUNK];
    let mut digest = Sha256::new();
    let (mut total, mut unsynced) = (0_u64, 0_u64);
    let start = Instant::now();
    loop {
        let filled = fill(&mut stream, &mut chunk)?;
        if filled == 0 {
            break;
        }
        let bytes = &chunk[..filled];
        total += filled as u64;
        if stage >= Stage::Hash {
            digest.update(bytes);
        }
        if let Some(file) = &mut file {
            file.write_all(bytes)?;
            unsynced += filled as u64;
            if unsynced >= SYNC_EVERY {
                file.sync_data()?;
                unsynced = 0;
            }
        }
    }
    // The rest as well: our store has every block durable when a sync ends.
    if let Some(file) = &mut file {
        file.sync_data()?;
    }
    // Keeps the compiler from leaving out a hash that nobody looks at.
    std::hint::black_box(digest.finalize());
    let seconds = start.elapsed().as_secs_f64();
    // Outside of the time that was measured.
    if file.is_some() {
        fs::remove_file(&path)?;
    }
    Ok(total as f64 / seconds.max(1e-9))
}

/// Reads until the chunk is full or the stream ends.
fn fill(stream: &mut TcpStream, chunk: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < chunk.len() {
        match stream.read(&mut chunk[filled..])? {
            0 => break,
            n => filled += n,
        }
    }
    Ok(filled)
}

/// The sending process: gives the whole file to each client, one after another, until it is killed.
/// The file is read into memory beforehand, so that only sending is measured.
///
/// # Errors
/// When the file cannot be read.
pub(crate) fn send(file: &Path) -> Result<(), Failure> {
    let failed = |e: io::Error| Failure::failed(format!("{}: {e}", file.display()));
    let bytes = fs::read(file).map_err(failed)?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed)?;
    let port = listener.local_addr().map_err(failed)?.port();
    // Standard error, where the parent waits for this line.
    crate::console::raw(&format!("{PORT}{port}"));
    for stream in listener.incoming() {
        // A receiver that hangs up is its own affair.
        let _ = stream.and_then(|mut stream| stream.write_all(&bytes));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stage_receives_all_bytes() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let sender = std::thread::spawn(move || {
            for stream in listener.incoming().take(3) {
                stream.unwrap().write_all(&vec![7; 3 * CHUNK + 5]).unwrap();
            }
        });
        let work = tempfile::tempdir().unwrap();
        for stage in [Stage::Receive, Stage::Hash, Stage::Append] {
            assert!(receive(port, stage, work.path()).unwrap() > 0.0);
        }
        sender.join().unwrap();
        assert_eq!(fs::read_dir(work.path()).unwrap().count(), 0);
    }

    #[test]
    fn the_best_is_taken_stage_by_stage() {
        let (a, b) = (
            Limit {
                receive: 1.0,
                hash: 5.0,
                append: 2.0,
            },
            Limit {
                receive: 2.0,
                hash: 4.0,
                append: 2.5,
            },
        );
        let best = a.best(b);
        assert_eq!((best.receive, best.hash, best.append), (2.0, 5.0, 2.5));
    }
}
