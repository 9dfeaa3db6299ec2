//! The turns of peers at reading from the store: a few reads at a time, and of the peers that wait
//! the one that has had the least of the disk's time. However much a peer asks for, alone or in one
//! request, it gets no more than every other peer that wants some, and the others wait for one read
//! of its at most.
//!
//! This is start-time fair queueing: what a peer has had only counts against those who wanted
//! something at the same time. Reads that need no disk do not queue: the task of a peer whose turns
//! come more often than the others' yields to those that are ready.
//!
//! A thread that has read for one peer reads for the next: the runtime's workers are busy sending,
//! and a hand-over to one of them and back costs about as much as a read.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use tokio::task::yield_now;
use tokio::time::{Duration, sleep};

use super::offload::Offload;

/// A read counts for no longer: a disk that stands still is nobody's doing.
const LONGEST: Duration = Duration::from_millis(250);
/// Bytes that count as a microsecond more, as copying them takes.
const COPIED: usize = 1 << 10;
/// Reads at a time, at most, and no more than there are cores: more gain nothing, compete with the
/// threads that send, and make a disk that turns slower.
const MOST_PLACES: usize = 8;
/// Turns that each of the others has, in the mean, before a peer gets blocks that it has had.
const TURNS_OF_OTHERS: u64 = 2;
/// The mean of rounds is kept in these parts of a turn.
const ROUND_UNIT: u64 = 16;
/// A round counts for this many usual ones at most.
const LONGEST_ROUND: u64 = 4;
/// Time in which nobody else has a turn when there is something left.
const MOMENT: Duration = Duration::from_millis(1);

/// Shared by all peers.
#[derive(Clone)]
pub(super) struct Turns {
    state: Arc<Mutex<State>>,
    offload: Offload,
}

#[derive(Default)]
struct State {
    /// Reads under way.
    reading: usize,
    /// Part of the disk's time, in percent, that is kept free by a rest after each read. Then they
    /// follow one another.
    rest: u32,
    /// Share that the peer whose turn it is, or was last, had before: a newcomer begins here, and
    /// has saved nothing up.
    clock: u64,
    /// Reads that wait: first those of blocks that the peer has not had, then by what it has had of
    /// the disk (in microseconds), then in order. At most one for each connection, and one for each
    /// that has gone since.
    waiting: BTreeMap<(bool, u64, u64), Box<dyn Read>>,
    came: u64,
    /// Peers that have asked for something.
    clients: usize,
    /// Turns of peers that asked for blocks which they had not had.
    fresh: u64,
}

/// Share that one peer has had.
pub(super) struct Account {
    turns: Turns,
    had: u64,
    counted: bool,
    /// Turns of others, as far as they have been let pass.
    passed: u64,
    /// Number of the turn that it had last, of all peers' turns.
    last: u64,
    /// Turns of all peers from one of its own to the next: a mean of the last few, in parts of
    /// `ROUND_UNIT`. When all have as many it is the number of peers.
    round: u64,
}

/// Something to be read for a peer.
trait Read: Send {
    /// Whether the peer is still there.
    fn is_wanted(&self) -> bool;

    /// Reads it; the function that is returned tells the peer, with the time that it took.
    fn run(self: Box<Self>) -> Box<dyn FnOnce(Duration) + Send>;
}

struct Wanted<W, T> {
    work: W,
    to: oneshot::Sender<(T, Duration)>,
}

impl<T: Send + 'static, W: FnOnce() -> T + Send> Read for Wanted<W, T> {
    fn is_wanted(&self) -> bool {
        !self.to.is_closed()
    }

    fn run(self: Box<Self>) -> Box<dyn FnOnce(Duration) + Send> {
        let Wanted { work, to } = *self;
        let done = work();
        Box::new(move |took| {
            // It may have hung up meanwhile.
            let _ = to.send((done, took));
        })
    }
}

impl State {
    /// Whether the first that waits may read, beside all but `own` of the reads under way: blocks
    /// that a peer has had before are read when nothing else is.
    fn may_begin(&self, own: usize) -> bool {
        let first = self.waiting.first_key_value();
        first.is_some_and(|((again, ..), _)| !again || self.reading == own)
    }
}

impl Turns {
    /// Reads where `offload` says.
    pub(super) fn new(offload: Offload) -> Self {
        let state = Arc::default();
        Turns { state, offload }
    }

    /// Keeps a part of the disk's time free, in percent, from the next read on; 0 keeps none.
    pub(super) fn keep_free(&self, percent: u32) {
        self.lock().rest = percent.min(95);
        self.fill();
    }

    /// For a peer that has had nothing yet.
    pub(super) fn account(&self) -> Account {
        Account {
            turns: self.clone(),
            had: 0,
            counted: false,
            passed: 0,
            last: 0,
            round: 0,
        }
    }

    /// Peers that share the disk: those who have asked for something and are still there.
    pub(super) fn clients(&self) -> usize {
        self.lock().clients
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics half-way, so that what it guards is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads that may be under way at a time.
    fn places(&self, state: &State) -> usize {
        match self.offload.has_threads() {
            true if state.rest == 0 => self.offload.width().min(MOST_PLACES),
            _ => 1,
        }
    }

    /// Begins to read in each place that is free, as long as somebody waits.
    fn fill(&self) {
        loop {
            let mut state = self.lock();
            if state.reading >= self.places(&state) || !state.may_begin(0) {
                return;
            }
            state.reading += 1;
            drop(state);
            tokio::spawn(Place::of(self.clone()).work());
        }
    }

    /// The next read, of the peer that has had the least, and the rest after it; those who have
    /// hung up are passed over. When there is none the place has been given up.
    fn next(&self) -> Option<(Box<dyn Read>, u32)> {
        let mut state = self.lock();
        while state.reading <= self.places(&state)
            && state.may_begin(1)
            && let Some(((_, had, _), read)) = state.waiting.pop_first()
        {
            if read.is_wanted() {
                state.clock = state.clock.max(had);
                return Some((read, state.rest));
            }
        }
        state.reading -= 1;
        None
    }

    /// Reads for one peer after the other on this thread. Gives `false` when the place has been
    /// given up, and `true` when there is to be a rest first.
    fn read_on(&self, mut read: Box<dyn Read>) -> bool {
        loop {
            let begun = std::time::Instant::now();
            let tell = read.run();
            tell(begun.elapsed());
            if self.lock().rest > 0 {
                return true;
            }
            let Some((next, _)) = self.next() else {
                return false;
            };
            read = next;
        }
    }
}

/// The right to read, until it is given up.
struct Place {
    /// Nothing when it has been given up.
    of: Option<Turns>,
    /// A read is under way in it.
    reads: bool,
}

impl Place {
    fn of(turns: Turns) -> Self {
        Place {
            of: Some(turns),
            reads: false,
        }
    }

    /// Reads until nobody waits any more, or there are fewer places.
    async fn work(mut self) {
        let Some(turns) = self.of.clone() else { return };
        while let Some((read, rest)) = turns.next() {
            self.reads = true;
            if turns.offload.has_threads() && rest == 0 {
                let here = turns.clone();
                if !turns.offload.io(move || here.read_on(read)).await {
                    break;
                }
            } else {
                let (tell, took) = turns.offload.timed_io(move || read.run()).await;
                tell(took);
                self.reads = false;
                if rest > 0 {
                    sleep(took.min(LONGEST) * rest / (100 - rest)).await;
                }
            }
        }
        self.of = None; // given up already
    }
}

impl Drop for Place {
    /// A read has panicked, or the runtime ends.
    fn drop(&mut self) {
        if let Some(turns) = self.of.take() {
            turns.lock().reading -= 1;
            // Those who wait are not to wait for the next request. A runtime that ends takes no
            // more tasks: each is dropped at once, and must not begin another.
            if self.reads && std::thread::panicking() {
                turns.fill();
            }
        }
    }
}

impl Account {
    /// Reads for this peer from the disk when it is its turn, after
    /// [`lets_others_pass`](Self::lets_others_pass). `work` gives what it has read, and its bytes.
    /// A peer that asks `again` for blocks that it has had takes what the others leave.
    ///
    /// Cancel safety: cancel safe; the turn goes to the next.
    pub(super) async fn read<T: Send + 'static>(
        &mut self,
        again: bool,
        work: impl FnOnce() -> (T, usize) + Send + 'static,
    ) -> T {
        let (to, done) = oneshot::channel();
        {
            let mut state = self.turns.lock();
            // Time in which nothing was wanted saves nothing up.
            self.had = self.had.max(state.clock);
            state.came += 1;
            let place = (again, self.had, state.came);
            state.waiting.insert(place, Box::new(Wanted { work, to }));
        }
        self.turns.fill();
        let ((value, bytes), took) = done.await.expect("a read is passed over when nobody waits");
        self.charge(bytes, took);
        value
    }

    /// Begins a turn at what is in memory or on disk. A peer that is ahead of the others lets those
    /// have theirs first that are ready. A peer that asks `again` for blocks that it has had waits
    /// until each of the others has had two in the mean, or nobody has had one for a moment.
    ///
    /// Cancel safety: cancel safe.
    pub(super) async fn lets_others_pass(&mut self, again: bool) {
        let (others, is_ahead) = self.begins(again);
        // A worker whose own tasks have all let others pass takes over some of another worker's.
        // Without that the peers of two workers are served at different speeds. Where nobody is
        // ahead, tasks stay where their connections' memory is at hand.
        if others > 0 && (again || is_ahead) {
            yield_now().await;
        }
        if !again {
            return;
        }
        let mut fresh = self.turns.lock().fresh;
        while fresh != self.passed && fresh - self.passed < others * TURNS_OF_OTHERS {
            sleep(MOMENT).await;
            yield_now().await; // to those who have become ready at the same time
            let now = self.turns.lock().fresh;
            if now == fresh {
                break;
            }
            fresh = now;
        }
        self.passed = fresh;
    }

    /// Counts the peer among those who share what there is, and its turn. Gives the number of the
    /// others, and whether its turns come more often than theirs.
    fn begins(&mut self, again: bool) -> (u64, bool) {
        let mut state = self.turns.lock();
        state.clients += usize::from(!std::mem::replace(&mut self.counted, true));
        if !again {
            state.fresh += 1;
            self.passed += 1; // its own are no reason to wait
        }
        let (fresh, clients) = (state.fresh, state.clients as u64);
        drop(state);
        // A peer that has wanted nothing for long has saved nothing up.
        let since = (fresh - self.last).min(clients * LONGEST_ROUND);
        self.last = fresh;
        self.round = (self.round * 7 + since * ROUND_UNIT) / 8;
        (clients - 1, self.round < clients * ROUND_UNIT * 9 / 10)
    }

    /// Counts what was read in a turn, and how long that took.
    fn charge(&mut self, bytes: usize, took: Duration) {
        let micros = took.min(LONGEST).as_micros() as u64 + (bytes / COPIED) as u64;
        self.had = self.had.saturating_add(micros.max(1));
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.turns.lock().clients -= usize::from(self.counted);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use std::sync::mpsc;

    use futures::FutureExt as _;

    use super::*;

    type Had = Arc<Mutex<Duration>>;

    /// A disk on which the read that begins last says how long it takes.
    #[derive(Clone)]
    struct Disk {
        turns: Turns,
        takes: Had,
    }

    impl Disk {
        fn new() -> Self {
            let takes = Had::default();
            let disk = takes.clone();
            let offload = Offload::simulated(move || sleep(*disk.lock().unwrap()).boxed());
            let turns = Turns::new(offload);
            Disk { turns, takes }
        }

        /// Reads as often as it is let, and counts what it has had.
        async fn reads(self, length: Duration, again: bool, had: Had) {
            let mut account = self.turns.account();
            loop {
                let takes = self.takes.clone();
                let read = move || {
                    *takes.lock().unwrap() = length;
                    ((), 0)
                };
                account.lets_others_pass(again).await;
                account.read(again, read).await;
                *had.lock().unwrap() += length;
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn long_reads_get_no_more_than_short_ones() {
        let disk = Disk::new();
        let had: [Had; 4] = Default::default();
        let reading: Vec<_> = [80, 5, 5, 10]
            .into_iter()
            .zip(&had)
            .map(|(ms, had)| {
                let disk = disk.clone();
                disk.reads(Duration::from_millis(ms), false, had.clone())
            })
            .map(tokio::spawn)
            .collect();
        sleep(Duration::from_secs(10)).await;
        for had in &had {
            let had = had.lock().unwrap().as_millis();
            assert!(had.abs_diff(2500) <= 80, "{had} ms of 2500");
        }
        assert_eq!(disk.turns.clients(), 4);
        reading.iter().for_each(tokio::task::JoinHandle::abort);
        for reading in reading {
            assert!(reading.await.unwrap_err().is_cancelled());
        }
        // Those who left while they waited, or in their turn, keep nobody waiting.
        assert_eq!(disk.turns.clients(), 0);
        let begun = tokio::time::Instant::now();
        *disk.takes.lock().unwrap() = Duration::ZERO;
        disk.turns.account().read(false, || ((), 0)).await;
        assert!(begun.elapsed() <= Duration::from_millis(80));
        sleep(Duration::from_millis(1)).await;
        assert_eq!(disk.turns.lock().reading, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_again_takes_what_others_leave() {
        let disk = Disk::new();
        let [first, again]: [Had; 2] = Default::default();
        let length = Duration::from_millis(10);
        let greedy = tokio::spawn(disk.clone().reads(length, true, again.clone()));
        sleep(Duration::from_secs(1)).await;
        let alone = std::mem::take(&mut *again.lock().unwrap());
        assert!(alone > length * 90, "{alone:?}: nobody else wants anything");
        // Two others, so that one always waits.
        let others = [0, 1].map(|_| {
            let reads = disk.clone().reads(length, false, first.clone());
            tokio::spawn(reads)
        });
        sleep(Duration::from_secs(1)).await;
        let (first, again) = (*first.lock().unwrap(), *again.lock().unwrap());
        assert!(
            first >= length * 98 && again <= length * 2,
            "{first:?} and {again:?}"
        );
        greedy.abort();
        others.iter().for_each(tokio::task::JoinHandle::abort);
    }

    /// Has turns at what needs no disk, with this time between two, and counts them.
    fn has_turns(
        turns: &Turns,
        again: bool,
        between: Duration,
        had: Arc<AtomicUsize>,
    ) -> tokio::task::JoinHandle<()> {
        let mut account = turns.account();
        account.begins(true); // so that all know of each other
        tokio::spawn(async move {
            loop {
                account.lets_others_pass(again).await;
                had.fetch_add(1, SeqCst);
                sleep(between).await;
            }
        })
    }

    #[tokio::test(start_paused = true)]
    async fn who_needs_no_disk_and_waits_for_nothing_is_not_far_ahead_of_others() {
        let turns = Disk::new().turns;
        let had: [Arc<AtomicUsize>; 4] = Default::default();
        let tasks = had.each_ref().map(|had| {
            let (mut account, had) = (turns.account(), had.clone());
            account.begins(true); // so that all know of each other
            (account, had)
        });
        let mut tasks = tasks.into_iter();
        let (mut account, count) = tasks.next().unwrap();
        let greedy = tokio::spawn(async move {
            for _ in 0..10_000 {
                account.lets_others_pass(false).await;
                count.fetch_add(1, SeqCst);
            }
        });
        let others: Vec<_> = tasks
            .map(|(mut account, count)| {
                tokio::spawn(async move {
                    loop {
                        account.lets_others_pass(false).await;
                        count.fetch_add(1, SeqCst);
                        yield_now().await;
                    }
                })
            })
            .collect();
        for _ in 0..1000 {
            yield_now().await;
        }
        let [greedily, others_had @ ..] = had.each_ref().map(|had| had.load(SeqCst));
        for had in others_had {
            assert!(had >= 300 && greedily <= 2 * had, "{greedily} and {had}");
        }
        greedy.abort();
        others.iter().for_each(tokio::task::JoinHandle::abort);
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_again_has_half_as_many_turns_as_others_where_no_disk_is_needed() {
        let turns = Disk::new().turns;
        let [first, again]: [Arc<AtomicUsize>; 2] = Default::default();
        let others = [0, 1, 2, 3].map(|_| has_turns(&turns, false, MOMENT, first.clone()));
        let repeats = has_turns(&turns, true, MOMENT, again.clone());
        sleep(MOMENT * 200).await;
        let (first, again) = (first.load(SeqCst), again.load(SeqCst));
        let each = first / others.len();
        assert!(each >= 90, "{first}: nobody waits for it");
        assert!((each / 2).abs_diff(again) <= 3, "{again} and {each}");
        others.iter().for_each(tokio::task::JoinHandle::abort);
        repeats.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_again_waits_for_nobody_who_wants_nothing() {
        let turns = Disk::new().turns;
        let [mut idle, mut account] = [turns.account(), turns.account()];
        idle.lets_others_pass(false).await;
        account.lets_others_pass(false).await;
        let begun = tokio::time::Instant::now();
        for n in 0..100 {
            account.lets_others_pass(n % 2 == 0).await;
        }
        assert!(
            begun.elapsed() <= MOMENT * 2,
            "its own turns are none of others"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_later_has_saved_nothing_up() {
        let disk = Disk::new();
        let [early, late]: [Had; 2] = Default::default();
        let length = Duration::from_millis(10);
        // Two, so that one always waits.
        let first = [0, 1].map(|_| {
            let reads = disk.clone().reads(length, false, early.clone());
            tokio::spawn(reads)
        });
        sleep(Duration::from_secs(1)).await;
        let before = std::mem::take(&mut *early.lock().unwrap());
        assert!(before > length * 90);
        let second = tokio::spawn(disk.clone().reads(length, false, late.clone()));
        sleep(Duration::from_secs(1)).await;
        let (early, late) = (*early.lock().unwrap() / 2, *late.lock().unwrap());
        assert!(early.abs_diff(late) <= length * 2, "{early:?} and {late:?}");
        first.iter().for_each(tokio::task::JoinHandle::abort);
        second.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_read_for_a_peer_that_has_gone() {
        let disk = Disk::new();
        let had = Had::default();
        let length = Duration::from_millis(10);
        let reading = tokio::spawn(disk.clone().reads(length, false, had));
        sleep(length / 2).await;
        let read = Arc::new(AtomicUsize::new(0));
        let (mut gone, count) = (disk.turns.account(), read.clone());
        let waits = gone.read(false, move || (count.fetch_add(1, SeqCst), 0));
        assert!(waits.now_or_never().is_none());
        sleep(Duration::from_secs(1)).await;
        assert_eq!(read.load(SeqCst), 0);
        reading.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_of_the_disks_time_stays_free() {
        let (disk, had) = (Disk::new(), Had::default());
        let length = Duration::from_millis(10);
        let reading = tokio::spawn(disk.clone().reads(length, false, had.clone()));
        for (percent, expected) in [(75, 25), (0, 100), (50, 50), (1000, 5)] {
            disk.turns.keep_free(percent);
            sleep(Duration::from_secs(1)).await;
            *had.lock().unwrap() = Duration::ZERO;
            sleep(Duration::from_secs(10)).await;
            let had = had.lock().unwrap().as_millis() / 100;
            assert!(had.abs_diff(expected) <= 1, "{had} %, {percent} % kept");
        }
        reading.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_read_that_panics_keeps_nobody_waiting() {
        let disk = Disk::new();
        let (mut first, mut second) = (disk.turns.account(), disk.turns.account());
        // Both ask before the place that reads has its turn.
        let panics = || -> ((), usize) { panic!("a store that panics") };
        let panics = std::panic::AssertUnwindSafe(first.read(false, panics)).catch_unwind();
        let waits = tokio::time::timeout(Duration::from_secs(1), second.read(false, || (7, 0)));
        let (panicked, read) = tokio::join!(panics, waits);
        assert!(panicked.is_err());
        assert_eq!(read, Ok(7));
        tokio::task::yield_now().await;
        assert_eq!(disk.turns.lock().reading, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_disk_that_stands_still_for_one_peer_is_not_counted_against_it() {
        let mut account = Disk::new().turns.account();
        account.charge(0, Duration::from_secs(60));
        assert_eq!(account.had, 250_000);
        account.charge(10 << 10, Duration::ZERO);
        assert_eq!(account.had, 250_010);
        account.charge(0, Duration::ZERO);
        assert_eq!(account.had, 250_011);
    }

    /// Reads on threads that go on when they are let.
    struct Gated {
        under_way: Arc<AtomicUsize>,
        gate: Arc<Mutex<mpsc::Receiver<()>>>,
    }

    impl Gated {
        fn new() -> (Self, mpsc::Sender<()>) {
            let (go, gate) = mpsc::channel();
            let gated = Gated {
                under_way: Arc::default(),
                gate: Arc::new(Mutex::new(gate)),
            };
            (gated, go)
        }

        fn begin(&self, turns: &Turns, again: bool) -> tokio::task::JoinHandle<()> {
            let (under_way, gate) = (self.under_way.clone(), self.gate.clone());
            let mut account = turns.account();
            tokio::spawn(async move {
                let read = move || {
                    under_way.fetch_add(1, SeqCst);
                    gate.lock().unwrap().recv().unwrap();
                    under_way.fetch_sub(1, SeqCst);
                    ((), 0)
                };
                account.read(again, read).await;
            })
        }

        /// Waits until this number of reads are under way, and then a while longer.
        async fn are(&self, number: usize) {
            for settled in [false, true] {
                while self.under_way.load(SeqCst) != number {
                    assert!(!settled, "{}", self.under_way.load(SeqCst));
                    sleep(Duration::from_millis(1)).await;
                }
                sleep(Duration::from_millis(50)).await;
            }
        }
    }

    #[tokio::test]
    async fn a_few_reads_are_under_way_and_one_while_a_part_is_kept_free() {
        let turns = Turns::new(Offload::threads(2).unwrap());
        let (gated, go) = Gated::new();
        let reads: Vec<_> = (0..7).map(|_| gated.begin(&turns, false)).collect();
        gated.are(2).await;
        go.send(()).unwrap();
        gated.are(2).await; // the next has begun
        turns.keep_free(1);
        go.send(()).unwrap();
        gated.are(1).await;
        go.send(()).unwrap();
        gated.are(1).await;
        turns.keep_free(0);
        gated.are(2).await;
        for _ in 0..4 {
            go.send(()).unwrap();
        }
        for read in reads {
            read.await.unwrap();
        }
        while turns.lock().reading > 0 {
            sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test]
    async fn blocks_that_were_given_before_are_read_when_nothing_else_is() {
        let turns = Turns::new(Offload::threads(2).unwrap());
        let (gated, go) = Gated::new();
        let first = gated.begin(&turns, false);
        gated.are(1).await;
        let again = gated.begin(&turns, true);
        gated.are(1).await; // there is a place, and it has to wait
        let second = gated.begin(&turns, false);
        gated.are(2).await;
        go.send(()).unwrap();
        gated.are(1).await;
        go.send(()).unwrap();
        gated.are(1).await; // now it is read
        first.await.unwrap();
        second.await.unwrap();
        assert!(!again.is_finished());
        go.send(()).unwrap();
        again.await.unwrap();
    }
}
