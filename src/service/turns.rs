//! The turns of peers at reading from the store: one peer at a time, and of those who wait the one
//! that has had the least of the disk's time. However much a peer asks for, alone or in one
//! request, it gets no more than every other peer that wants some, and the others wait for one read
//! of its at most.
//!
//! This is start-time fair queueing: what a peer has had only counts against those who wanted
//! something at the same time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use tokio::time::Duration;

/// A read counts for no longer: a disk that stands still is nobody's doing.
const LONGEST: Duration = Duration::from_millis(250);
/// Bytes that count as a microsecond more, as copying them takes.
const COPIED: usize = 1 << 10;

/// Shared by all peers.
#[derive(Clone, Default)]
pub(super) struct Turns(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// Somebody reads.
    taken: bool,
    /// Share that the peer whose turn it is, or was last, had before: a newcomer begins here, and
    /// has saved nothing up.
    clock: u64,
    /// Those who wait: first for blocks that they have not had, then by what they have had of the
    /// disk (in microseconds), then in order. At most one for each connection, and one for each
    /// that has gone since.
    waiting: BTreeMap<(bool, u64, u64), oneshot::Sender<Turn>>,
    came: u64,
    /// Peers that have asked for something.
    clients: usize,
}

/// Share that one peer has had.
pub(super) struct Account {
    turns: Turns,
    had: u64,
    counted: bool,
}

/// The right to read; the next peer's begins when it is dropped.
pub(super) struct Turn(Option<Turns>);

impl Turns {
    /// For a peer that has had nothing yet.
    pub(super) fn account(&self) -> Account {
        Account {
            turns: self.clone(),
            had: 0,
            counted: false,
        }
    }

    /// Peers that share the disk: those who have asked for something and are still there.
    pub(super) fn clients(&self) -> usize {
        self.lock().clients
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics half-way, so that what it guards is whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the turn that has ended to whoever has had the least; those who have hung up meanwhile
    /// are passed over.
    fn pass_on(&self) {
        loop {
            let mut state = self.lock();
            let Some(((_, had, _), next)) = state.waiting.pop_first() else {
                state.taken = false;
                return;
            };
            state.clock = state.clock.max(had);
            drop(state);
            match next.send(Turn(Some(self.clone()))) {
                Ok(()) => return,
                // Disarmed: dropped as it is, it would pass the turn on once more.
                Err(mut refused) => refused.0 = None,
            }
        }
    }
}

impl Account {
    /// Waits for this peer's turn. A peer that asks `again` for blocks that it has had
    /// takes what the others leave.
    ///
    /// Cancel safety: cancel safe; the turn goes to the next.
    pub(super) async fn turn(&mut self, again: bool) -> Turn {
        let turn = {
            let mut state = self.turns.lock();
            state.clients += usize::from(!std::mem::replace(&mut self.counted, true));
            // Time in which nothing was wanted saves nothing up.
            self.had = self.had.max(state.clock);
            if state.taken {
                let (to, turn) = oneshot::channel();
                state.came += 1;
                let place = (again, self.had, state.came);
                state.waiting.insert(place, to);
                turn
            } else {
                (state.taken, state.clock) = (true, self.had);
                return Turn(Some(self.turns.clone()));
            }
        };
        turn.await
            .expect("who waits is passed over only when it is gone")
    }

    /// Counts what was read in a turn, and how long that took.
    pub(super) fn charge(&mut self, bytes: usize, took: Duration) {
        let micros = took.min(LONGEST).as_micros() as u64 + (bytes / COPIED) as u64;
        self.had = self.had.saturating_add(micros.max(1));
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.turns.lock().clients -= usize::from(self.counted);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(turns) = self.0.take() {
            turns.pass_on();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    type Had = Arc<Mutex<Duration>>;

    /// Takes turns of this length for as long as it is let, and counts what it has had.
    async fn reads(turns: Turns, length: Duration, had: Had) {
        let mut account = turns.account();
        loop {
            let turn = account.turn(false).await;
            sleep(length).await;
            account.charge(0, length);
            *had.lock().unwrap() += length;
            drop(turn);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn long_reads_get_no_more_than_short_ones() {
        let turns = Turns::default();
        let had: [Had; 4] = Default::default();
        let reading: Vec<_> = [80, 5, 5, 10]
            .into_iter()
            .zip(&had)
            .map(|(ms, had)| reads(turns.clone(), Duration::from_millis(ms), had.clone()))
            .map(tokio::spawn)
            .collect();
        sleep(Duration::from_secs(10)).await;
        for had in &had {
            let had = had.lock().unwrap().as_millis();
            assert!(had.abs_diff(2500) <= 80, "{had} ms of 2500");
        }
        assert_eq!(turns.clients(), 4);
        reading.iter().for_each(tokio::task::JoinHandle::abort);
        for reading in reading {
            assert!(reading.await.unwrap_err().is_cancelled());
        }
        // Those who left while they waited, or in their turn, keep nobody waiting.
        assert_eq!(turns.clients(), 0);
        let turn = turns.account().turn(false).await;
        assert!(turns.lock().taken);
        drop(turn);
        assert!(!turns.lock().taken);
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_again_takes_what_others_leave() {
        let turns = Turns::default();
        let [first, again]: [Had; 2] = Default::default();
        let length = Duration::from_millis(10);
        let greedy = tokio::spawn({
            let (turns, had) = (turns.clone(), again.clone());
            async move {
                let mut account = turns.account();
                loop {
                    let turn = account.turn(true).await;
                    sleep(length).await;
                    account.charge(0, length);
                    *had.lock().unwrap() += length;
                    drop(turn);
                }
            }
        });
        sleep(Duration::from_secs(1)).await;
        let alone = std::mem::take(&mut *again.lock().unwrap());
        assert!(alone > length * 90, "{alone:?}: nobody else wants anything");
        // Two others, so that one always waits.
        let others = [0, 1].map(|_| tokio::spawn(reads(turns.clone(), length, first.clone())));
        sleep(Duration::from_secs(1)).await;
        let (first, again) = (*first.lock().unwrap(), *again.lock().unwrap());
        assert!(
            first >= length * 98 && again <= length * 2,
            "{first:?} and {again:?}"
        );
        greedy.abort();
        others.iter().for_each(tokio::task::JoinHandle::abort);
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_later_has_saved_nothing_up() {
        let turns = Turns::default();
        let [early, late]: [Had; 2] = Default::default();
        let length = Duration::from_millis(10);
        let first = tokio::spawn(reads(turns.clone(), length, early.clone()));
        sleep(Duration::from_secs(1)).await;
        let before = std::mem::take(&mut *early.lock().unwrap());
        assert!(before > length * 90);
        let second = tokio::spawn(reads(turns.clone(), length, late.clone()));
        sleep(Duration::from_secs(1)).await;
        let (early, late) = (*early.lock().unwrap(), *late.lock().unwrap());
        assert!(early.abs_diff(late) <= length * 2, "{early:?} and {late:?}");
        first.abort();
        second.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_disk_that_stands_still_for_one_peer_is_not_counted_against_it() {
        let mut account = Turns::default().account();
        account.charge(0, Duration::from_secs(60));
        assert_eq!(account.had, 250_000);
        account.charge(10 << 10, Duration::ZERO);
        assert_eq!(account.had, 250_010);
        account.charge(0, Duration::ZERO);
        assert_eq!(account.had, 250_011);
    }
}
