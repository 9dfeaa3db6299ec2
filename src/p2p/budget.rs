//! Budget of the unfinished messages of all connections together.
//!
//! A channel's capacity bounds one connection, but a block may have 100 MiB and there are fifty
//! connections. So what a connection holds beyond [`FREE`] is taken from a budget that all share;
//! while there is none, its socket is left unread and the peer's own buffers fill. That alone could
//! end with everybody waiting for everybody, each with half a message. Hence the *lease*: the
//! connection that has waited longest may go on without the budget, one at a time, as far as its
//! channel goes. At most the budget and one message are held, and somebody can always finish.
//!
//! A connection that has the lease while others wait has [`LEASE`] to finish; after that it is
//! closed. And while somebody has waited for [`PATIENCE`], those that hold memory are measured: the
//! slowest is closed, if less than [`FLOOR`] bytes a second come from it. So a drip that announces
//! much keeps nobody waiting, and an honest slow peer is at worst delayed. A connection that waits
//! is not read, and so not slow.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// Bytes that every connection may hold without asking: as much as its read buffer.
pub(crate) const FREE: usize = 256 * 1024;
/// The budget of all connections of a switch, 64 MiB, unless it is set.
pub(crate) const DEFAULT: usize = 64 << 20;
/// How long the lease may be kept from others that wait. Generous: 100 MiB at less than a megabyte
/// a second.
pub(crate) const LEASE: Duration = Duration::from_secs(120);
/// How long somebody waits before the slowest holder is closed, and then again each second.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes a second from which on a holder is not closed for being slow.
pub(crate) const FLOOR: u64 = 32 << 10;

/// One budget, shared by the connections that were given a [`Share`] of it.
#[derive(Debug)]
pub struct Budget {
    total: usize,
    table: Mutex<Table>,
    /// Something was given back, or the first in the queue has gone.
    changed: Notify,
}

#[derive(Debug, Default)]
struct Table {
    shares: u64,
    used: usize,
    lease: Option<Lease>,
    /// The connections that wait, the longest first.
    queue: VecDeque<u64>,
    /// Those who hold something.
    holders: BTreeMap<u64, Holder>,
}

/// How fast a connection fills what it holds.
#[derive(Debug)]
struct Holder {
    evict: CancellationToken,
    bytes: usize,
    /// It waits for more, and is not read.
    waits: bool,
    /// Where the measurement began.
    since: Instant,
    from: usize,
    /// Bytes a second in the measurement before.
    rate: Option<u64>,
}

impl Holder {
    fn measured(&self, now: Instant) -> Option<u64> {
        let millis = u64::try_from((now - self.since).as_millis()).unwrap_or(u64::MAX);
        // Too short to be fair: TCP delivers in bursts. The measurement before stands.
        if now - self.since < PATIENCE {
            return self.rate;
        }
        let came = self.bytes.saturating_sub(self.from) as u64;
        Some(came.saturating_mul(1000) / millis.max(1))
    }

    fn holds(&mut self, bytes: usize, now: Instant) {
        self.bytes = bytes;
        // While it waited nothing was read from it: that time measures us.
        if std::mem::take(&mut self.waits) {
            (self.since, self.from, self.rate) = (now, bytes, None);
        } else if now - self.since >= PATIENCE {
            self.rate = self.measured(now);
            (self.since, self.from) = (now, bytes);
        }
    }
}

impl Table {
    /// Notes what a connection holds; nothing ends the measurement.
    fn note(&mut self, id: u64, bytes: usize, evict: &CancellationToken) {
        if bytes == 0 {
            self.holders.remove(&id);
            return;
        }
        let now = Instant::now();
        let holder = self.holders.entry(id).or_insert_with(|| Holder {
            evict: evict.clone(),
            bytes,
            waits: false,
            since: now,
            from: bytes,
            rate: None,
        });
        holder.holds(bytes, now);
    }

    /// Closes the slowest of those that hold something and are read, if it is slow.
    fn evict_the_slowest(&mut self, now: Instant) {
        let read = self.holders.values().filter(|h| !h.waits);
        let measured = read.filter_map(|h| Some((h.measured(now)?, h)));
        let slow = measured.filter(|(rate, h)| *rate < FLOOR && !h.evict.is_cancelled());
        if let Some((_, slowest)) = slow.min_by_key(|(rate, _)| *rate) {
            slowest.evict.cancel();
        }
    }
}

#[derive(Debug)]
struct Lease {
    evict: CancellationToken,
    /// Since somebody waits for it.
    contested: Option<Instant>,
}

impl Budget {
    /// A budget in bytes.
    #[must_use]
    pub fn new(total: usize) -> Arc<Self> {
        Arc::new(Budget {
            total,
            table: Mutex::default(),
            changed: Notify::new(),
        })
    }

    /// The one of all streams that a runtime hands us, which belong to no switch.
    #[must_use]
    pub fn of_process() -> Arc<Self> {
        static ALL: LazyLock<Arc<Budget>> = LazyLock::new(|| Budget::new(DEFAULT));
        ALL.clone()
    }

    /// A connection's share, empty at first.
    #[must_use]
    pub fn share(self: &Arc<Self>) -> Share {
        let mut table = self.table();
        table.shares += 1;
        Share {
            id: table.shares,
            held: 0,
            leased: false,
            evict: CancellationToken::new(),
            budget: self.clone(),
        }
    }

    /// Bytes that are held now; those of the lease are not among them.
    #[must_use]
    pub fn used(&self) -> usize {
        self.table().used
    }

    /// Nothing that holds the lock can panic half-way through a change.
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Share of one connection in a budget; given back when dropped.
#[derive(Debug)]
pub struct Share {
    id: u64,
    held: usize,
    leased: bool,
    evict: CancellationToken,
    budget: Arc<Budget>,
}

/// Bytes that count beyond the free part.
fn beyond_free(bytes: usize) -> usize {
    if bytes > FREE { bytes } else { 0 }
}

impl Share {
    /// Nothing has to be asked for or given back.
    #[must_use]
    pub fn is_enough(&self, bytes: usize) -> bool {
        beyond_free(bytes) == self.held
    }

    /// Sets the bytes that the connection's unfinished messages hold: waits until they may, if they
    /// are more than before.
    ///
    /// Cancel safety: cancel safe, but the place in the queue is kept and holds up those behind:
    /// ask again, or drop the share.
    pub async fn hold(&mut self, bytes: usize) {
        let bytes = beyond_free(bytes);
        if bytes < self.held {
            self.give_back(bytes);
        }
        if bytes == self.held {
            return;
        }
        let budget = self.budget.clone();
        let begun = Instant::now();
        let (mut impatient, mut again) = (begun + PATIENCE, begun);
        loop {
            let changed = budget.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable(); // before we look, or a change in between would be missed
            let Some(contested) = self.may_hold(bytes) else {
                return;
            };
            tokio::select! {
                () = changed => {}
                () = sleep_until((contested + LEASE).max(again)) => {
                    // It takes a moment to go.
                    again = Instant::now() + Duration::from_secs(1);
                    self.evict_the_leaseholder(contested);
                }
                () = sleep_until(impatient) => {
                    let now = Instant::now();
                    impatient = now + Duration::from_secs(1);
                    budget.table().evict_the_slowest(now);
                }
            }
        }
    }

    /// A message has ended, and with it the lease.
    fn give_back(&mut self, bytes: usize) {
        let mut table = self.budget.table();
        // Bytes under the lease are not in `used`.
        if std::mem::take(&mut self.leased) {
            (table.lease, self.held) = (None, 0);
        } else {
            table.used -= self.held - bytes;
            self.held = bytes;
        }
        table.note(self.id, self.held, &self.evict);
        drop(table);
        self.budget.changed.notify_waiters();
    }

    /// Takes what is wanted, or gives the moment since when the lease is waited for.
    fn may_hold(&mut self, bytes: usize) -> Option<Instant> {
        let mut table = self.budget.table();
        if self.leased {
            self.held = bytes;
            table.note(self.id, bytes, &self.evict);
            return None;
        }
        // Nobody overtakes the queue, or small wants would starve a large one.
        let first = *table.queue.front().unwrap_or(&self.id) == self.id;
        let fits = table.used - self.held + bytes <= self.budget.total;
        if first && fits {
            table.used += bytes - self.held;
        } else if first && table.lease.is_none() {
            table.used -= self.held;
            self.leased = true;
            table.lease = Some(Lease {
                evict: self.evict.clone(),
                contested: None,
            });
        } else {
            if !table.queue.contains(&self.id) {
                table.queue.push_back(self.id);
            }
            if let Some(holder) = table.holders.get_mut(&self.id) {
                holder.waits = true;
            }
            let now = Instant::now();
            // without a lease, whoever is first takes it as soon as it looks
            return Some(
                table
                    .lease
                    .as_mut()
                    .map_or(now, |lease| *lease.contested.get_or_insert(now)),
            );
        }
        self.held = bytes;
        table.note(self.id, bytes, &self.evict);
        table.queue.retain(|id| *id != self.id);
        drop(table);
        self.budget.changed.notify_waiters(); // the next in the queue is the first now
        None
    }

    /// Ends the connection that has had the lease for too long, if it is still the same one.
    fn evict_the_leaseholder(&self, contested: Instant) {
        let table = self.budget.table();
        if let Some(lease) = &table.lease
            && lease.contested == Some(contested)
        {
            lease.evict.cancel();
        }
    }

    /// Waits until this connection has kept others from the lease for too long. Close it then.
    ///
    /// Cancel safety: cancel safe.
    pub async fn evicted(&self) {
        self.evict.cancelled().await;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut table = self.budget.table();
        if self.leased {
            table.lease = None;
        } else {
            table.used -= self.held;
        }
        table.holders.remove(&self.id);
        table.queue.retain(|id| *id != self.id);
        drop(table);
        self.budget.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    const PART: usize = 400_000;

    async fn takes_at_once(share: &mut Share, bytes: usize) -> bool {
        timeout(Duration::from_millis(1), share.hold(bytes))
            .await
            .is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_small_is_free_and_what_is_given_back_is_there_again() {
        let budget = Budget::new(PART);
        let (mut a, mut b) = (budget.share(), budget.share());
        a.hold(FREE).await;
        assert_eq!(budget.used(), 0);
        a.hold(PART).await;
        b.hold(FREE).await;
        assert_eq!(budget.used(), PART);
        a.hold(0).await;
        b.hold(PART).await;
        assert_eq!(budget.used(), PART);
        drop(b);
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn one_goes_on_beyond_the_budget_and_the_others_wait_their_turn() {
        let budget = Budget::new(2 * PART);
        let mut shares: Vec<_> = (0..4).map(|_| budget.share()).collect();
        assert!(takes_at_once(&mut shares[0], PART).await);
        assert!(takes_at_once(&mut shares[1], PART).await);
        assert!(takes_at_once(&mut shares[2], PART).await, "the lease");
        assert!(takes_at_once(&mut shares[2], 100 * PART).await);
        assert!(!takes_at_once(&mut shares[3], PART).await);
        assert!(!takes_at_once(&mut shares[0], PART + 1).await);
        assert!(budget.used() <= 2 * PART);
        // the lease is free, and whoever waited longest has it
        shares[2].hold(0).await;
        assert!(!takes_at_once(&mut shares[0], PART + 1).await);
        assert!(takes_at_once(&mut shares[3], PART).await);
        // room in the budget, too: 1 has given back
        shares[1].hold(0).await;
        assert!(takes_at_once(&mut shares[0], PART + 1).await);
    }

    #[tokio::test(start_paused = true)]
    async fn the_slowest_holder_gives_way_to_who_waits() {
        let second = Duration::from_secs(1);
        let budget = Budget::new(3 * PART);
        let (mut drip, mut lease, mut honest) = (budget.share(), budget.share(), budget.share());
        drip.hold(3 * PART).await;
        lease.hold(PART).await;
        let waiting = tokio::spawn(async move {
            let begun = Instant::now();
            honest.hold(PART).await;
            begun.elapsed()
        });
        let evicted = drip.evict.clone();
        for n in 1.. {
            tokio::time::sleep(second).await;
            lease.hold(PART + n * 50_000).await;
            if evicted.is_cancelled() {
                break;
            }
        }
        drop(drip); // as its connection does
        assert!(waiting.await.unwrap() <= 2 * PATIENCE);
        assert!(!lease.evict.is_cancelled(), "50 KB/s is slow, and honest");
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_others_wait_for_ends() {
        let budget = Budget::new(PART);
        let (mut holder, mut drip, mut honest) = (budget.share(), budget.share(), budget.share());
        holder.hold(PART).await;
        drip.hold(PART).await;
        // nobody minds as long as nobody waits
        assert!(timeout(10 * LEASE, drip.evicted()).await.is_err());
        let begun = Instant::now();
        let waiting = tokio::spawn(async move {
            honest.hold(10 * PART).await;
            begun.elapsed()
        });
        let evicted = drip.evict.clone();
        for n in 1.. {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if evicted.is_cancelled() {
                break;
            }
            drip.hold(PART + n * 50_000).await; // not slow, but without end
        }
        assert!(begun.elapsed() >= LEASE);
        drop(drip); // as its connection does
        let waited = waiting.await.unwrap();
        assert!(waited <= LEASE + Duration::from_secs(2), "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_leaves_the_queue_holds_nobody_up() {
        let budget = Budget::new(PART);
        let (mut a, mut b, mut c) = (budget.share(), budget.share(), budget.share());
        a.hold(2 * PART).await; // the lease
        b.hold(PART).await;
        let mut gone = budget.share();
        assert!(!takes_at_once(&mut gone, PART).await);
        assert!(!takes_at_once(&mut c, PART).await);
        drop(gone);
        b.hold(0).await;
        assert!(takes_at_once(&mut c, PART).await);
    }
}
