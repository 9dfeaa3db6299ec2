//! Work and waiting of each pipeline stage, so that the bottleneck is measured and not guessed.
//!
//! A stage that always works while the others wait for it is the bottleneck; when all wait for
//! work, the download is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::time::Instant;

use super::figures::Figures;

/// CPU time of the current thread from here on.
struct ThreadTime(Duration);

impl ThreadTime {
    fn now() -> Self {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        // Neither part of a CPU time is ever negative.
        ThreadTime(Duration::new(
            time.tv_sec.unsigned_abs(),
            u32::try_from(time.tv_nsec).unwrap_or_default(),
        ))
    }

    fn elapsed(&self) -> Duration {
        ThreadTime::now().0.saturating_sub(self.0)
    }
}

/// A stage of the pipeline, in the order in which a block passes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stage {
    /// Messages are decoded and hashed, in the tasks of the peers.
    Decode,
    /// Runs are proven.
    Prove,
    /// Blocks are held against the state and executed.
    Execute,
    /// Batches are written and made durable.
    Store,
}

impl Stage {
    /// All of them.
    pub const ALL: [Stage; 4] = [Stage::Decode, Stage::Prove, Stage::Execute, Stage::Store];

    /// Its name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Stage::Decode => "decode",
            Stage::Prove => "prove",
            Stage::Execute => "execute",
            Stage::Store => "store",
        }
    }
}

#[derive(Debug, Default)]
struct Meter {
    blocks: AtomicU64,
    pieces: AtomicU64,
    signatures: AtomicU64,
    busy: AtomicU64,
    cpu: AtomicU64,
    work: AtomicU64,
    room: AtomicU64,
}

/// Work of a stage since the start of the service. Times are sums over all tasks of the stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StageTimes {
    /// Blocks that have passed it.
    pub blocks: u64,
    /// Pieces of work in which they came: runs of `Prove`, jobs of `Execute`, batches of `Store`.
    pub pieces: u64,
    /// Signatures of commits that were checked, good or bad.
    pub signatures: u64,
    /// Time at work, waiting for the disk or an external application included.
    pub busy: Duration,
    /// CPU time at work, where it is measured: not of `Execute`, which may change threads.
    pub cpu: Duration,
    /// Time in which it had nothing to do. Not of `Decode`: a quiet peer is no stage that waits.
    pub waits_for_work: Duration,
    /// Time in which the next stage took nothing.
    pub waits_for_room: Duration,
}

impl StageTimes {
    fn since(self, before: StageTimes) -> StageTimes {
        StageTimes {
            blocks: self.blocks.saturating_sub(before.blocks),
            pieces: self.pieces.saturating_sub(before.pieces),
            signatures: self.signatures.saturating_sub(before.signatures),
            busy: self.busy.saturating_sub(before.busy),
            cpu: self.cpu.saturating_sub(before.cpu),
            waits_for_work: self.waits_for_work.saturating_sub(before.waits_for_work),
            waits_for_room: self.waits_for_room.saturating_sub(before.waits_for_room),
        }
    }
}

/// All stages at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stages {
    /// When, on the service's clock.
    pub at: Instant,
    times: [StageTimes; 4],
}

impl Stages {
    /// Times of one stage.
    #[must_use]
    pub fn of(&self, stage: Stage) -> StageTimes {
        self.times[stage as usize]
    }

    /// Work done between two times.
    #[must_use]
    pub fn since(&self, before: &Stages) -> Stages {
        let mut times = self.times;
        for (now, then) in times.iter_mut().zip(before.times) {
            *now = now.since(then);
        }
        Stages { at: self.at, times }
    }

    /// The stage that the others waited for in the time since `before`: the one that was at work
    /// for most of it. `None` when none was at work for half of it: what holds us up is the
    /// download.
    #[must_use]
    pub fn bottleneck(&self, before: &Stages) -> Option<Stage> {
        let wall = self.at.saturating_duration_since(before.at);
        let done = self.since(before);
        let busiest = Stage::ALL.into_iter().max_by_key(|s| done.of(*s).busy)?;
        // A stage that runs on several threads sums up more than the wall clock;
        // the busiest still counts.
        (done.of(busiest).busy * 2 >= wall && !wall.is_zero()).then_some(busiest)
    }
}

/// Where the stages note what they do. Cheap to clone; all clones are one.
#[derive(Clone, Debug, Default)]
pub struct Meters(Arc<[Meter; 4]>, Arc<Figures>);

fn add(to: &AtomicU64, time: Duration) {
    to.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Relaxed);
}

impl Meters {
    /// Figures of applied blocks.
    #[must_use]
    pub fn figures(&self) -> &Figures {
        &self.1
    }

    /// As it stands now.
    #[must_use]
    pub fn read(&self) -> Stages {
        let time = |of: &AtomicU64| Duration::from_nanos(of.load(Relaxed));
        let times = Stage::ALL.map(|stage| {
            let meter = &self.0[stage as usize];
            StageTimes {
                blocks: meter.blocks.load(Relaxed),
                pieces: meter.pieces.load(Relaxed),
                signatures: meter.signatures.load(Relaxed),
                busy: time(&meter.busy),
                cpu: time(&meter.cpu),
                waits_for_work: time(&meter.work),
                waits_for_room: time(&meter.room),
            }
        });
        // After the counters: work that was counted must lie within the time that it is divided by.
        let at = Instant::now();
        Stages { at, times }
    }

    /// Does the work of a number of blocks, on the thread that calls.
    pub(super) fn work<T>(&self, stage: Stage, blocks: usize, work: impl FnOnce() -> T) -> T {
        let (wall, cpu) = (Instant::now(), ThreadTime::now());
        let done = work();
        let meter = &self.0[stage as usize];
        add(&meter.cpu, cpu.elapsed());
        self.busy(stage, blocks, wall.elapsed());
        done
    }

    /// Counts a block of a stage whose blocks are measured only now and then: reading the clocks
    /// costs as much as a part of the work.
    pub(super) fn unmeasured(&self, stage: Stage) {
        self.0[stage as usize].blocks.fetch_add(1, Relaxed);
    }

    /// Does the work of one block, which stands for `of` blocks of which the others are
    /// `unmeasured`.
    pub(super) fn sample<T>(&self, stage: Stage, of: u32, work: impl FnOnce() -> T) -> T {
        let (wall, cpu) = (Instant::now(), ThreadTime::now());
        let done = work();
        let meter = &self.0[stage as usize];
        add(&meter.cpu, cpu.elapsed() * of);
        self.busy(stage, 1, wall.elapsed() * of);
        done
    }

    /// Does a part of a stage's work on another thread: its CPU time counts, and its time is
    /// counted by the thread that waits for it.
    pub(super) fn share<T>(&self, stage: Stage, work: impl FnOnce() -> T) -> T {
        let cpu = ThreadTime::now();
        let done = work();
        add(&self.0[stage as usize].cpu, cpu.elapsed());
        done
    }

    /// Adds time spent at work on a number of blocks.
    pub(super) fn busy(&self, stage: Stage, blocks: usize, time: Duration) {
        let meter = &self.0[stage as usize];
        meter.blocks.fetch_add(blocks as u64, Relaxed);
        meter.pieces.fetch_add(1, Relaxed);
        add(&meter.busy, time);
    }

    /// Adds time that was spent on work that is not finished.
    pub(super) fn at_work(&self, stage: Stage, time: Duration) {
        add(&self.0[stage as usize].busy, time);
    }

    /// Adds checked signatures.
    pub(super) fn signatures(&self, stage: Stage, count: usize) {
        let signatures = &self.0[stage as usize].signatures;
        signatures.fetch_add(count as u64, Relaxed);
    }

    /// Adds time that was spent without anything to do.
    pub(super) fn waited_for_work(&self, stage: Stage, time: Duration) {
        add(&self.0[stage as usize].work, time);
    }

    /// Adds time that was spent until the next stage took the work.
    pub(super) fn waited_for_room(&self, stage: Stage, time: Duration) {
        add(&self.0[stage as usize].room, time);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_busiest_stage_is_the_bottleneck_and_without_one_the_download() {
        let meters = Meters::default();
        let start = meters.read();
        assert_eq!(start.bottleneck(&start), None, "nothing has happened");
        tokio::time::advance(Duration::from_secs(10)).await;
        meters.busy(Stage::Prove, 100, Duration::from_secs(3));
        meters.busy(Stage::Store, 90, Duration::from_secs(4));
        let early = meters.read();
        assert_eq!(early.bottleneck(&start), None);
        tokio::time::advance(Duration::from_secs(10)).await;
        meters.busy(Stage::Store, 100, Duration::from_secs(9));
        meters.waited_for_room(Stage::Execute, Duration::from_secs(8));
        meters.waited_for_work(Stage::Prove, Duration::from_secs(7));
        let late = meters.read();
        assert_eq!(late.bottleneck(&early), Some(Stage::Store));
        let done = late.since(&early);
        assert_eq!(done.of(Stage::Store).blocks, 100);
        assert_eq!(done.of(Stage::Execute).waits_for_room.as_secs(), 8);
        assert_eq!(done.of(Stage::Prove).waits_for_work.as_secs(), 7);
        assert_eq!(done.of(Stage::Prove).busy, Duration::ZERO);
    }

    #[test]
    fn work_counts_what_it_took() {
        let meters = Meters::default();
        let sum = meters.work(Stage::Decode, 1, || {
            (0..3_000_000u64).fold(0, |a, b| a ^ b.wrapping_mul(a | 1))
        });
        let times = meters.read().of(Stage::Decode);
        assert!(
            times.blocks == 1 && times.cpu > Duration::ZERO,
            "{sum} {times:?}"
        );
        let once = meters.read().of(Stage::Decode);
        meters.unmeasured(Stage::Decode);
        meters.sample(Stage::Decode, 1000, || {
            let start = ThreadTime::now();
            while start.elapsed() < Duration::from_micros(50) {}
        });
        let done = meters.read().of(Stage::Decode);
        assert_eq!(done.blocks, once.blocks + 2);
        assert!(done.cpu >= once.cpu + Duration::from_millis(50));
        assert!(done.busy >= once.busy + Duration::from_millis(50));
        meters.share(Stage::Decode, || ());
        assert_eq!(meters.read().of(Stage::Decode).blocks, done.blocks);
    }
}
