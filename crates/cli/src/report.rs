//! The line of JSON at the end, and the memory in it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use blocksync::chain::ChainState;
use blocksync::p2p::Contact;
use blocksync::service::{Stage, Stages, Status};
use serde::Serialize;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::progress::bottleneck_name;

/// How often memory is looked at.
const SAMPLE: Duration = Duration::from_millis(20);

/// `--json` (`design.md` 9).
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// How it ended.
    pub outcome: &'static str,
    /// The last applied height.
    pub height: u64,
    /// The application's hash after it, hexadecimal.
    pub app_hash: String,
    /// Blocks applied by this process.
    pub blocks: u64,
    /// Since the service was started.
    pub seconds: f64,
    /// Blocks a second until the last one was applied; `seconds` goes on to the end.
    pub blocks_per_second: f64,
    /// The sampled maximum of anonymous and shared memory.
    pub peak_memory_bytes: u64,
    /// Peers that claim more than we have and deliver nothing of it.
    pub claims_doubted: Vec<DoubtedClaim>,
    /// Whom we dropped.
    pub peers_dropped: Vec<DroppedPeer>,
    /// The peers that were configured, and how the connections to them stood.
    pub peers: Vec<PeerReport>,
    /// State of the block of --trust: holds, differs, not_reached or unknown; null without it.
    pub trust: Option<&'static str>,
    /// The stage that was at work for most of the time, or "download" when all of them waited for
    /// blocks.
    pub bottleneck: &'static str,
    /// Work of each stage until the last block was applied.
    pub stages: BTreeMap<&'static str, StageReport>,
}

/// One stage of the pipeline. Times are in seconds, summed over all tasks of the stage.
#[derive(Debug, Serialize)]
pub(crate) struct StageReport {
    /// Blocks that passed it.
    pub blocks: u64,
    /// Pieces of work in which they came: runs proven, jobs executed, batches stored.
    pub pieces: u64,
    /// Signatures of commits that were checked.
    pub signatures: u64,
    /// At work, waiting for the disk or an external application included.
    pub busy_seconds: f64,
    /// CPU time at work; not measured for "execute".
    pub cpu_seconds: f64,
    /// Nothing to do; not measured for "decode".
    pub waits_for_work_seconds: f64,
    /// The next stage took nothing.
    pub waits_for_room_seconds: f64,
}

/// A configured peer.
#[derive(Debug, Serialize)]
pub(crate) struct PeerReport {
    /// Its address, as the flag has it.
    pub address: String,
    /// dialling, connected, waiting or banned.
    pub state: &'static str,
    /// Why the last connection ended or did not come about.
    pub last_error: Option<String>,
}

/// A claim that is doubted.
#[derive(Debug, Serialize)]
pub(crate) struct DoubtedClaim {
    /// The peer's id.
    pub peer: String,
    /// The height that it claims.
    pub height: u64,
}

/// A dropped peer.
#[derive(Debug, Serialize)]
pub(crate) struct DroppedPeer {
    /// Its id.
    pub peer: String,
    /// The reason.
    pub why: String,
}

impl Report {
    /// The rate is that until the last block was applied; `seconds` is the whole time.
    ///
    /// Of how it ended: the last status, and the state that is durable now that the service has
    /// stopped.
    pub(crate) fn new(
        outcome: &'static str,
        status: &Status,
        durable: Option<&ChainState>,
        (took, syncing): (Duration, Duration),
        memory: &Memory,
    ) -> Self {
        let seconds = took.as_secs_f64();
        // The durable height, not that of the last status: a batch may have landed after it.
        let height = durable.map_or(status.applied, |s| s.last_height);
        let app_hash = durable.map_or(&status.app_hash, |s| &s.app_hash);
        let blocks = height.above(status.started_at);
        let dropped = status.dropped.iter().map(|d| DroppedPeer {
            peer: d.peer.to_string(),
            why: d.reason.to_string(),
        });
        let doubted = status.doubted.iter().map(|(peer, height)| DoubtedClaim {
            peer: peer.to_string(),
            height: height.get(),
        });
        Report {
            outcome,
            height: height.get(),
            app_hash: hex::encode(app_hash),
            blocks,
            // Milliseconds: more digits would be noise.
            seconds: (seconds * 1000.0).round() / 1000.0,
            blocks_per_second: (blocks as f64 / syncing.as_secs_f64().max(1e-3) * 10.0).round()
                / 10.0,
            peak_memory_bytes: memory.peak(),
            claims_doubted: doubted.collect(),
            peers_dropped: dropped.collect(),
            peers: Vec::new(),
            trust: None,
            bottleneck: bottleneck_name(None),
            stages: BTreeMap::new(),
        }
    }

    /// Adds what the stages did between two times.
    pub(crate) fn with_stages(mut self, start: &Stages, end: &Stages) -> Self {
        let done = end.since(start);
        let seconds = |time: Duration| (time.as_secs_f64() * 1e6).round() / 1e6;
        self.bottleneck = bottleneck_name(end.bottleneck(start));
        self.stages = Stage::ALL
            .into_iter()
            .map(|stage| {
                let times = done.of(stage);
                let report = StageReport {
                    blocks: times.blocks,
                    pieces: times.pieces,
                    signatures: times.signatures,
                    busy_seconds: seconds(times.busy),
                    cpu_seconds: seconds(times.cpu),
                    waits_for_work_seconds: seconds(times.waits_for_work),
                    waits_for_room_seconds: seconds(times.waits_for_room),
                };
                (stage.name(), report)
            })
            .collect();
        self
    }

    /// Adds how the configured peers stand.
    pub(crate) fn with_peers(mut self, contacts: &[Contact]) -> Self {
        let peer = |c: &Contact| PeerReport {
            address: c.peer.to_string(),
            state: c.state.name(),
            last_error: c.last_error.clone(),
        };
        self.peers = contacts.iter().map(peer).collect();
        self
    }

    /// Adds what can be told of the block of --trust.
    pub(crate) fn with_trust(mut self, trust: Option<&'static str>) -> Self {
        self.trust = trust;
        self
    }

    /// Writes the line to standard output.
    pub(crate) fn print(&self) {
        // Numbers and strings: they always serialise.
        outln!("{}", serde_json::to_string(self).unwrap_or_default());
    }
}

/// Watches the process' memory: what it has allocated, without the pages of mapped files, which are
/// the kernel's to keep or drop. The kernel keeps a maximum only of all together (VmHWM), so it is
/// sampled.
pub(crate) struct Memory {
    peak: Arc<AtomicU64>,
    _stop: DropGuard,
}

impl Memory {
    /// Starts to watch, until it is dropped.
    pub(crate) fn watch() -> Self {
        let peak = Arc::new(AtomicU64::new(now().unwrap_or(0)));
        let stop = CancellationToken::new();
        let (shared, stopped) = (peak.clone(), stop.clone());
        // A thread of its own: the workers may be busy just when memory is at its highest.
        std::thread::spawn(move || {
            while !stopped.is_cancelled() {
                shared.fetch_max(now().unwrap_or(0), Ordering::Relaxed);
                std::thread::sleep(SAMPLE);
            }
        });
        Memory {
            peak,
            _stop: stop.drop_guard(),
        }
    }

    /// The largest sample, in bytes; 0 where the system does not tell.
    pub(crate) fn peak(&self) -> u64 {
        // One more sample now: a short run may end before the first one.
        self.peak.fetch_max(now().unwrap_or(0), Ordering::Relaxed);
        self.peak.load(Ordering::Relaxed)
    }
}

fn now() -> Option<u64> {
    resident(&std::fs::read_to_string("/proc/self/status").ok()?)
}

/// RssAnon + RssShmem of `/proc/self/status`, in bytes.
pub(crate) fn resident(status: &str) -> Option<u64> {
    let field = |name: &str| -> Option<u64> {
        let line = status.lines().find_map(|l| l.strip_prefix(name))?;
        let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        // The kernel's kB are 1024 bytes.
        Some(kilobytes * 1024)
    };
    Some(field("RssAnon:")? + field("RssShmem:")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_writes() {
        let status = "VmHWM:\t  9000 kB\nRssAnon:\t    1024 kB\nRssFile:\t 5000 kB\nRssShmem:\t       4 kB\n";
        assert_eq!(resident(status), Some(1028 * 1024));
        assert_eq!(resident("VmRSS: 5 kB\n"), None);
        #[cfg(target_os = "linux")]
        assert!(now().is_some_and(|bytes| bytes > 0));
    }

    #[test]
    fn has_the_fields_that_scripts_read() {
        let report = Report {
            outcome: "caught_up",
            height: 9,
            app_hash: "02".into(),
            blocks: 3,
            seconds: 1.5,
            blocks_per_second: 2.0,
            peak_memory_bytes: 4,
            claims_doubted: vec![DoubtedClaim {
                peer: "q".into(),
                height: 12,
            }],
            peers_dropped: vec![DroppedPeer {
                peer: "p".into(),
                why: "w".into(),
            }],
            peers: vec![PeerReport {
                address: "plain://a:1".into(),
                state: "waiting",
                last_error: Some("e".into()),
            }],
            trust: Some("holds"),
            bottleneck: "store",
            stages: BTreeMap::new(),
        };
        let expected = r#"{"outcome":"caught_up","height":9,"app_hash":"02","blocks":3,"seconds":1.5,"blocks_per_second":2.0,"peak_memory_bytes":4,"claims_doubted":[{"peer":"q","height":12}],"peers_dropped":[{"peer":"p","why":"w"}],"peers":[{"address":"plain://a:1","state":"waiting","last_error":"e"}],"trust":"holds","bottleneck":"store","stages":{}}"#;
        assert_eq!(serde_json::to_string(&report).unwrap(), expected);
    }
}
