//! Answers other nodes' requests from the store. A side door: it never passes through the reactor, so a slow disk delays no
//! scheduling, and one slow reader delays nobody else.
//!
//! Fairness: the store is read in turns (`turns`), so that no peer gets more of the disk than any other that wants some; a connection's share of
//! the upload is the transport's affair, and its way is its own (`Lane`).
//!
//! Bounds: heights that wait per peer by `ServeConfig::queue`; bytes on their way to all peers by `ServeConfig::bytes_in_flight`, held from
//! before they are read until the transport has let go of them, and those to one peer by a share of that. Peers that do not read can use up
//! the whole; so for a peer with nothing on its way there is always one read, which comes on top for each connection: its part of
//! `READ_BYTES`, and at most one block more. A peer that does not read holds up nobody but itself.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::config::ServeConfig;
use super::offload::Offload;
use super::turns::{Account, Turns};
use crate::ids::Height;
use crate::store::{BlockRecord, Store};
use crate::wire::{BlockResponse, Message};

/// A peer's request for heights.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// First height.
    pub from: Height,
    /// How many; 0 is CometBFT's request for one.
    pub count: u32,
}

/// What is advertised and served: applied blocks only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// Lowest height; 0 when there is none.
    pub base: Height,
    /// Highest height.
    pub height: Height,
}

/// Shared by all peers' tasks.
#[derive(Clone)]
pub struct Server {
    store: Arc<dyn Store>,
    served: watch::Receiver<Served>,
    config: ServeConfig,
    bytes: Arc<Semaphore>,
    turns: Turns,
    offload: Offload,
}

/// Bytes that hold their share of the server's budget until the transport lets go of them.
struct Charged {
    bytes: Bytes,
    _room: Room,
}

/// Room for what is read for one peer.
struct Room {
    own: OwnedSemaphorePermit,
    /// Nothing when the peer had nothing on its way.
    shared: Option<OwnedSemaphorePermit>,
}

/// What is on its way to one peer.
pub struct Lane {
    /// The peer's share of the bytes in flight.
    share: usize,
    free: Arc<Semaphore>,
    /// When a slow peer would have taken all that was sent.
    taken: Mutex<Instant>,
}

/// Where the answers to one peer go.
struct Way<'a> {
    outbox: &'a mpsc::Sender<Bytes>,
    lane: &'a Lane,
    account: Account,
    /// The longest answer so far: a read may go beyond what it was to bring by as much.
    longest: usize,
}

/// One peer may hold this part of the bytes in flight.
const PEERS_PART: usize = 4;

/// Bytes read from the store in one go, all peers together: each gets its part of it in its turn, but `LEAST_READ`.
const READ_BYTES: usize = 1 << 20;
const LEAST_READ: usize = 64 << 10;

/// What the transport has let go of may lie in buffers on both sides for as long as a peer takes at so many bytes a second, …
const SLOW: u64 = 8 << 10;
/// … but not for longer: then the transport itself sees whether anything is taken.
const LONGEST: Duration = Duration::from_secs(60);

impl AsRef<[u8]> for Charged {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Room {
    /// The part of it that so many bytes hold: as much as there is, when they are more than was foreseen.
    fn part(&mut self, bytes: usize) -> Option<Room> {
        let part = |room: &mut OwnedSemaphorePermit| room.split(bytes.min(room.num_permits()));
        let shared = match &mut self.shared {
            Some(shared) => Some(part(shared)?),
            None => None,
        };
        Some(Room {
            own: part(&mut self.own)?,
            shared,
        })
    }
}

impl Lane {
    /// Nothing is on its way.
    fn is_empty(&self) -> bool {
        self.free.available_permits() == self.share
    }

    /// When the peer has certainly seen all that was sent to it, if it reads at all; `None` while the transport has not let go of it.
    #[must_use]
    pub fn taken(&self) -> Option<Instant> {
        let taken = *self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        self.is_empty().then_some(taken)
    }

    fn sent(&self, bytes: usize) {
        let now = Instant::now();
        let more = Duration::from_micros(bytes as u64 * 1_000_000 / SLOW);
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        *taken = ((*taken).max(now) + more).min(now + LONGEST);
    }
}

impl Server {
    /// A server over `store` that answers what `served` says is there.
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        served: watch::Receiver<Served>,
        config: ServeConfig,
        offload: Offload,
    ) -> Self {
        let permits = config.bytes_in_flight.min(Semaphore::MAX_PERMITS >> 1);
        Server {
            store,
            served,
            config,
            bytes: Arc::new(Semaphore::new(permits)),
            turns: Turns::default(),
            offload,
        }
    }

    /// Requests that may wait for one peer.
    #[must_use]
    pub fn queue_len(&self) -> usize {
        self.config.queue.max(1)
    }

    /// Our `StatusResponse`, encoded.
    #[must_use]
    pub fn status(&self) -> Bytes {
        let served = *self.served.borrow();
        Message::Status {
            height: served.height,
            base: served.base,
            max_range: self.config.max_range,
        }
        .encode()
    }

    /// The way to one peer, with nothing on it.
    #[must_use]
    pub fn lane(&self) -> Arc<Lane> {
        let share = (self.budget() / PEERS_PART).max(1);
        Arc::new(Lane {
            share,
            free: Arc::new(Semaphore::new(share)),
            taken: Mutex::new(Instant::now()),
        })
    }

    /// Answers one peer's requests in order, on its own lane, until the peer hangs up.
    pub async fn serve(
        self,
        lane: Arc<Lane>,
        mut requests: mpsc::Receiver<Request>,
        outbox: mpsc::Sender<Bytes>,
        hangup: CancellationToken,
    ) {
        let mut way = Way {
            outbox: &outbox,
            lane: &lane,
            account: self.turns.account(),
            longest: 0,
        };
        let work = async {
            while let Some(request) = requests.recv().await {
                if self.answer(request, &mut way).await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            biased;
            () = hangup.cancelled() => {}
            () = work => {}
        }
    }

    fn budget(&self) -> usize {
        self.config.bytes_in_flight.min(Semaphore::MAX_PERMITS >> 1)
    }

    /// An error means that the transport is gone.
    async fn answer(&self, request: Request, way: &mut Way<'_>) -> Result<(), ()> {
        let outbox = way.outbox;
        let count = u64::from(request.count.clamp(1, self.config.max_range.max(1)));
        let mut next = request.from;
        let end = request.from.plus(count);
        if next == end {
            // The highest number there is: nothing lies above it, and no block has it.
            let none = Message::NoBlock { height: next };
            return outbox.send(none.encode()).await.map_err(|_| ());
        }
        while next < end && self.has(next) {
            let mut room = self.room(way, end.above(next)).await;
            let records = self.read(next, end, way).await;
            if records.is_empty() {
                break;
            }
            for record in records {
                next = record.height.next();
                let message = self.encode(&record, request.count > 0).await;
                let bytes = message.len();
                way.longest = way.longest.max(bytes);
                let message = match room.part(bytes) {
                    Some(_room) => Bytes::from_owner(Charged {
                        bytes: message,
                        _room,
                    }),
                    None => message, // never: a part is no more than the whole
                };
                outbox.send(message).await.map_err(|_| ())?;
                way.lane.sent(bytes);
            }
        }
        // Not there, pruned, in the future, or corrupt: "no block" for each height that is left.
        while next < end {
            let none = Message::NoBlock { height: next };
            outbox.send(none.encode()).await.map_err(|_| ())?;
            next = next.next();
        }
        Ok(())
    }

    fn has(&self, height: Height) -> bool {
        let Served { base, height: tip } = *self.served.borrow();
        base <= height && height <= tip && tip > Height::ZERO
    }

    /// Bytes that one peer is read for in its turn: the more there are, the less, so that a turn comes round as soon.
    fn quantum(&self) -> usize {
        (READ_BYTES / self.turns.clients().max(1)).max(LEAST_READ)
    }

    /// Waits until so many heights may be read for this peer: there is room in what all share, or it has nothing on its way.
    async fn room(&self, way: &Way<'_>, heights: u64) -> Room {
        const OPEN: &str = "the semaphore is never closed";
        let Lane { share, free, .. } = way.lane;
        let permits = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let heights = usize::try_from(heights).unwrap_or(usize::MAX);
        let all = match way.longest {
            0 => usize::MAX, // nobody knows yet
            longest => longest.saturating_mul(heights),
        };
        let wanted = (self.quantum() + way.longest).min(all).min(*share);
        let own = free.clone().acquire_many_owned(permits(wanted)).await;
        let shared = tokio::select! {
            biased;
            shared = self.bytes.clone().acquire_many_owned(permits(wanted)) => Some(shared.expect(OPEN)),
            rest = free.acquire_many(permits(share - wanted)) => {
                drop(rest.expect(OPEN));
                None
            }
        };
        Room {
            own: own.expect(OPEN),
            shared,
        }
    }

    async fn read(&self, from: Height, end: Height, way: &mut Way<'_>) -> Vec<BlockRecord> {
        let _turn = way.account.turn().await;
        if !self.has(from) {
            return Vec::new();
        }
        let tip = self.served.borrow().height;
        let count = end.above(from).min(tip.next().above(from));
        let (store, most) = (self.store.clone(), self.quantum());
        let read = move || store.blocks(from, u32::try_from(count).unwrap_or(u32::MAX), most);
        let begun = Instant::now();
        let records = self.offload.io(read).await.unwrap_or_else(|error| {
            warn!(height = %from, %error, "a stored block cannot be served");
            Vec::new()
        });
        let bytes = |r: &BlockRecord| r.raw.len() + r.ext_raw.as_ref().map_or(0, Bytes::len);
        let bytes = records.iter().map(bytes).sum();
        way.account.charge(bytes, begun.elapsed());
        records
    }

    /// To our own kind, the highest block goes out with the commit for itself, so that no block is lost at the tip.
    async fn encode(&self, record: &BlockRecord, own_kind: bool) -> Bytes {
        let mut seen = None;
        if own_kind && record.height == self.served.borrow().height {
            let (store, height) = (self.store.clone(), record.height);
            seen = self
                .offload
                .io(move || store.seen_commit(height))
                .await
                .unwrap_or_default();
        }
        BlockResponse {
            block: record.raw.clone(),
            ext_commit: record.ext_raw.clone(),
            seen_commit: seen,
        }
        .encode()
    }
}
