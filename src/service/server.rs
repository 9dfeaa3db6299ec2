//! Answers other nodes' requests from the store. It never passes through the reactor, so a slow
//! disk delays no scheduling, and one slow reader delays nobody else.
//!
//! Fairness: peers have turns (`turns`), each of some bytes. The disk is read in these turns, so
//! that no peer gets more of it than any other that wants some. Where no disk is needed, a task
//! that is ahead of the others lets them have theirs first. A connection's share of the upload is
//! the transport's affair, and its way is its own (`Lane`).
//!
//! A peer that asks for the same blocks again and again is noticed (`Given`), counted and served
//! from what the others leave. While we are behind ourselves, a part of the disk's time is kept for
//! our own sync. Blocks that were just synced come from memory (`Recent`): nodes that sync side by
//! side ask for the same heights. So do those that the kernel still has in memory
//! (`Store::blocks_in_memory`), which are read where they are sent, into the messages themselves.
//!
//! Bounds: heights that wait per peer by `ServeConfig::queue`; bytes on their way to all peers by
//! `ServeConfig::bytes_in_flight`, held from before they are read until the transport has let go of
//! them, and those to one peer by two turns and two blocks, or a share of that if it is less. Peers
//! that do not read can use up the whole; so for a peer with nothing on its way there is always one
//! read, which comes on top for each connection: its part of `READ_BYTES`, and at most one block
//! more. A peer that does not read holds up nobody but itself.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, mpsc, watch};
use tokio::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::advertising::Advertiser;
use super::config::ServeConfig;
use super::lane::Lane;
use super::offload::Offload;
use super::remembered::{Given, Recent, weight};
use super::requests::{ServeEvent, Throttle};
use super::told::{Timed, Told};
use super::turns::{Account, Turns};
use crate::chain::Time;
use crate::ids::{Height, PeerId};
use crate::store::{BlockRecord, Buffer, Spaced, SpacedBlock, Store};
use crate::wire::{BlockResponse, ChainIdentity, Message, WireError};

/// A peer's request for heights.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// First height.
    pub from: Height,
    /// Number of heights; 0 is CometBFT's request for one.
    pub count: u32,
}

/// Range of heights that is advertised and served: applied blocks only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// Lowest height; 0 when there is none.
    pub base: Height,
    /// Highest height.
    pub height: Height,
    /// Whether peers have more than this, as far as we know, so that nodes of CometBFT are not told
    /// of it.
    pub behind: bool,
}

impl Served {
    fn has(&self, height: Height) -> bool {
        self.base <= height && height <= self.height && self.height > Height::ZERO
    }
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
    recent: Arc<Mutex<Recent>>,
    counters: Arc<ServeCounters>,
    told: Told<ServeEvent>,
    /// We are behind: our own sync needs the disk, too.
    behind: Arc<AtomicBool>,
    /// A state is waited for: no validator set is known that could judge a proof.
    stateless: Arc<AtomicBool>,
    /// The chain that is served, told to and asked of those who can say theirs.
    chain: Option<Arc<ChainIdentity>>,
    /// Signs statuses for those who want them signed.
    advertiser: Option<Arc<Advertiser>>,
}

/// Counters of everything served since the start, to all peers together.
#[derive(Debug, Default)]
pub struct ServeCounters {
    /// Requests that were answered or refused.
    pub requests: AtomicU64,
    /// Blocks sent.
    pub blocks: AtomicU64,
    /// Bytes of these.
    pub bytes: AtomicU64,
    /// Blocks that came from memory.
    pub from_memory: AtomicU64,
    /// Heights answered "no block".
    pub no_blocks: AtomicU64,
    /// Blocks sent to a peer that had been given them a few times before.
    pub repeats: AtomicU64,
}

/// A peer's word on its chain.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Heard {
    /// Nothing: it is no node of ours, an old one, or the message is of another kind.
    Nothing,
    /// It is on ours.
    Ours,
    /// It is on another, in these words.
    Another(String),
}

/// Bytes that hold their share of the server's budget until the transport lets go of them.
struct Charged {
    bytes: Box<dyn Buffer>,
    _room: Room,
}

/// Messages, one after another in one buffer, and where each ends: they are written together, and
/// what each would cost alone (memory, its part of the budget) is paid once.
struct Answers {
    bytes: Box<dyn Buffer>,
    ends: Vec<(Height, usize)>,
}

/// Room for what is read for one peer.
struct Room {
    own: OwnedSemaphorePermit,
    /// Nothing when the peer had nothing on its way.
    shared: Option<OwnedSemaphorePermit>,
}

/// Where the answers to one peer go.
struct Way<'a> {
    outbox: &'a mpsc::Sender<Bytes>,
    lane: &'a Lane,
    account: Account,
    /// The longest answer so far: a read may go beyond what it was to bring by as much.
    longest: usize,
    given: Given,
    /// Requests taken out of the queue.
    taken: u64,
    sent: Sent,
}

/// Answers to one request.
#[derive(Clone, Copy, Debug, Default)]
struct Sent {
    blocks: u64,
    bytes: u64,
    no_blocks: u64,
}

/// One peer may hold this part of the bytes in flight.
const PEERS_PART: usize = 4;

/// Bytes read from the store in one go, all peers together: each gets its part of it in its turn,
/// but `LEAST_READ`. A newcomer waits for as much of another's at most.
const READ_BYTES: usize = 512 << 10;
const LEAST_READ: usize = 64 << 10;

/// Requests for one block each that are answered together.
const MOST_SINGLES: u64 = 64;

impl AsRef<[u8]> for Charged {
    fn as_ref(&self) -> &[u8] {
        (*self.bytes).as_ref()
    }
}

impl Room {
    /// Gives back what these bytes do not need of it. They may be more than was foreseen.
    fn shrink(&mut self, bytes: usize) {
        for room in [Some(&mut self.own), self.shared.as_mut()]
            .into_iter()
            .flatten()
        {
            drop(room.split(room.num_permits().saturating_sub(bytes)));
        }
    }
}

impl Answers {
    fn none() -> Self {
        Answers {
            bytes: Box::<Vec<u8>>::default(),
            ends: Vec::new(),
        }
    }

    /// Makes messages of blocks where they lie, by writing what stands between them.
    fn around(blocks: Spaced) -> Self {
        let (mut bytes, blocks) = blocks.into_parts();
        let message = |at: SpacedBlock| {
            let (block, ext_commit) = (at.block.len(), at.ext_commit.map(|ext| ext.len()));
            let message = &mut (*bytes).as_mut()[at.all.clone()];
            BlockResponse::fill_gaps(message, block, ext_commit);
            (at.height, at.all.end)
        };
        let ends = blocks.into_iter().map(message).collect();
        Answers { bytes, ends }
    }

    /// The messages, which hold `room` together until the transport has let go of all.
    fn charged(self, mut room: Room) -> impl Iterator<Item = (Height, Bytes)> {
        room.shrink(self.ends.last().map_or(0, |(_, end)| *end));
        let bytes = Bytes::from_owner(Charged {
            bytes: self.bytes,
            _room: room,
        });
        let mut begin = 0;
        self.ends.into_iter().map(move |(height, end)| {
            let message = bytes.slice(begin..end);
            begin = end;
            (height, message)
        })
    }
}

/// Counts the requests that wait and go on where `first` ends, itself included, each for one block:
/// a node of CometBFT asks for nothing else, and a read for each would cost it a turn for each.
/// Gives the request that came after them, too.
fn singles(first: Request, waiting: &mut mpsc::Receiver<Request>) -> (u64, Option<Request>) {
    let mut count = 1;
    // Heights above the highest number there is are none.
    let exists = |n: u64| first.from.plus(n).above(first.from) == n;
    while count < MOST_SINGLES && exists(count + 1) {
        match waiting.try_recv() {
            Ok(next) if next.count == 0 && next.from == first.from.plus(count) => count += 1,
            Ok(other) => return (count, Some(other)),
            Err(_) => break,
        }
    }
    (count, None)
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
            turns: Turns::new(offload.clone()),
            offload,
            recent: Arc::default(),
            counters: Arc::default(),
            told: Told::default(),
            behind: Arc::default(),
            stateless: Arc::default(),
            chain: None,
            advertiser: None,
        }
    }

    /// Names the chain that is served. Peers on another one are refused by name.
    #[must_use]
    pub fn on(mut self, chain: ChainIdentity) -> Self {
        self.chain = Some(Arc::new(chain));
        self
    }

    /// Signs statuses for peers that want them signed; `None` signs none.
    #[must_use]
    pub fn signing(mut self, advertiser: Option<Advertiser>) -> Self {
        self.advertiser = advertiser.map(Arc::new);
        self
    }

    /// Takes the time of events from this clock, before anybody listens to them.
    #[must_use]
    pub fn timed(mut self, clock: fn() -> Time) -> Self {
        self.told = Told::new(clock);
        self
    }

    pub(super) fn advertiser(&self) -> Option<&Arc<Advertiser>> {
        self.advertiser.as_ref()
    }

    /// The highest height that is served, and whether we are behind ourselves.
    pub(super) fn progress(&self) -> (Height, bool) {
        (self.served.borrow().height, self.behind.load(Relaxed))
    }

    /// The store, and where it is read.
    pub(super) fn reads(&self) -> (Arc<dyn Store>, Offload) {
        (self.store.clone(), self.offload.clone())
    }

    /// A message to a peer: beside a status, or a request for one, stands our chain if the peer is
    /// `extended`, and an advertisement or the wish for one.
    #[must_use]
    pub fn say(&self, message: &Message, extended: bool, signed: Option<&[u8]>) -> Bytes {
        match self.chain.as_ref().filter(|_| extended) {
            Some(chain) => chain.and_signed_beside(message, signed),
            None => message.encode(),
        }
    }

    /// Hears which chain a peer is on, from a message that says so.
    ///
    /// # Errors
    /// When what it says cannot be read.
    pub fn hear_chain(&self, message: &[u8]) -> Result<Heard, WireError> {
        let (Some(ours), Some(theirs)) = (&self.chain, ChainIdentity::read(message)?) else {
            return Ok(Heard::Nothing);
        };
        if theirs == **ours {
            return Ok(Heard::Ours);
        }
        let why = format!("it is on chain {theirs}, and we are on {ours}");
        Ok(Heard::Another(why))
    }

    /// The heights served, as they change, and the shortest time between two statuses that tell of
    /// them unasked.
    #[must_use]
    pub fn news(&self) -> (watch::Receiver<Served>, Duration) {
        (self.served.clone(), self.config.every())
    }

    /// Counters of everything served so far.
    #[must_use]
    pub fn counters(&self) -> &Arc<ServeCounters> {
        &self.counters
    }

    /// Events of the server, from now on.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<Timed<ServeEvent>> {
        self.told.subscribe()
    }

    pub(super) fn told(&self) -> &Told<ServeEvent> {
        &self.told
    }

    /// Says whether we are behind ourselves: then our own sync keeps its part of the disk's time.
    pub(super) fn set_behind(&self, behind: bool) {
        self.behind.store(behind, Relaxed);
        self.turns
            .keep_free(if behind { self.config.own_share } else { 0 });
    }

    /// Says whether a state is waited for, so that nobody is asked for a proof.
    pub(super) fn set_stateless(&self, stateless: bool) {
        self.stateless.store(stateless, Relaxed);
    }

    pub(super) fn is_stateless(&self) -> bool {
        self.stateless.load(Relaxed)
    }

    /// Keeps a block that was just applied, for peers that want it soon after.
    pub(super) fn remember(&self, record: BlockRecord) {
        self.recent().insert(record, self.config.recent_bytes);
    }

    /// Forgets what was kept.
    pub(super) fn forget(&self) {
        *self.recent() = Recent::default();
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        // Nothing in there panics half-way, so that what it guards is whole.
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a peer's request into its queue.
    ///
    /// # Errors
    /// When the queue is full: the number of heights that are to be answered "no block" at once.
    pub fn take(
        &self,
        peer: PeerId,
        request: Request,
        queue: &mpsc::Sender<Request>,
    ) -> Result<(), u64> {
        let (from, count) = (request.from, self.heights(request));
        self.told
            .tell(|| ServeEvent::RequestReceived { peer, from, count });
        queue.try_send(request).map_err(|_| {
            self.counters.requests.fetch_add(1, Relaxed);
            self.counters.no_blocks.fetch_add(count, Relaxed);
            self.tell_throttled(peer, (from, count), Throttle::QueueFull);
            count
        })
    }

    fn tell_throttled(&self, peer: PeerId, (from, count): (Height, u64), why: Throttle) {
        self.told.tell(|| ServeEvent::RequestThrottled {
            peer,
            from,
            count,
            why,
        });
    }

    /// Heights that a request is answered for: as many as both want.
    fn heights(&self, request: Request) -> u64 {
        u64::from(request.count.clamp(1, self.config.max_range.max(1)))
    }

    /// Requests that may wait for one peer.
    #[must_use]
    pub fn queue_len(&self) -> usize {
        self.config.queue.max(1)
    }

    /// Whether nodes of CometBFT are not told our status for now.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.served.borrow().behind
    }

    /// Our `StatusResponse`.
    #[must_use]
    pub fn status(&self) -> Message {
        let served = *self.served.borrow();
        Message::Status {
            height: served.height,
            base: served.base,
            max_range: self.config.max_range,
        }
    }

    /// The way to one peer, with nothing on it.
    #[must_use]
    pub fn lane(&self, peer: PeerId) -> Arc<Lane> {
        let share = (self.budget() / PEERS_PART).clamp(1, u32::MAX as usize);
        Arc::new(Lane::new(peer, share))
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
            given: Given::default(),
            taken: 0,
            sent: Sent::default(),
        };
        let work = async {
            let mut next = None;
            loop {
                let request = match next.take() {
                    Some(request) => request,
                    None => match requests.recv().await {
                        Some(request) => request,
                        None => return,
                    },
                };
                way.taken += 1;
                // Single requests in a row are read from the disk in one go. Not where some were
                // taken back: their heights would have to be told apart.
                let answered = if request.count == 0 && lane.nothing_taken_back() {
                    let (count, after) = singles(request, &mut requests);
                    way.taken += count - 1;
                    next = after;
                    self.answer_singles(request.from, count, &mut way).await
                } else {
                    self.answer(request, &mut way).await
                };
                if answered.is_err() {
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

    /// Requests for one block each, of consecutive heights: they are read together, and no limit of
    /// a range applies.
    async fn answer_singles(&self, from: Height, count: u64, way: &mut Way<'_>) -> Result<(), ()> {
        self.counters.requests.fetch_add(count, Relaxed);
        self.answer_heights(from..from.plus(count), usize::MAX, false, way)
            .await
    }

    /// An error means that the transport is gone.
    async fn answer(&self, request: Request, way: &mut Way<'_>) -> Result<(), ()> {
        self.counters.requests.fetch_add(1, Relaxed);
        let heights = request.from..request.from.plus(self.heights(request));
        let left = self.config.max_range_bytes.max(1);
        self.answer_heights(heights, left, request.count > 0, way)
            .await
    }

    /// Sends these heights' blocks, `left` bytes at most, and "no block" for each that is not sent,
    /// and tells of it.
    async fn answer_heights(
        &self,
        heights: Range<Height>,
        left: usize,
        own_kind: bool,
        way: &mut Way<'_>,
    ) -> Result<(), ()> {
        let (from, count) = (heights.start, heights.end.above(heights.start).max(1));
        let (peer, begun) = (way.lane.peer, Instant::now());
        if way.given.is_again(from) {
            self.tell_throttled(peer, (from, count), Throttle::AskedAgain);
        }
        way.sent = Sent::default();
        let done = self.send_heights(heights, left, own_kind, way).await;
        let Sent {
            blocks,
            bytes,
            no_blocks,
        } = way.sent;
        self.told.tell(|| ServeEvent::ResponseSent {
            peer,
            from,
            count,
            blocks,
            bytes,
            no_blocks,
            took: begun.elapsed(),
        });
        done
    }

    async fn send_heights(
        &self,
        Range {
            start: mut next,
            end,
        }: Range<Height>,
        mut left: usize,
        own_kind: bool,
        way: &mut Way<'_>,
    ) -> Result<(), ()> {
        if next == end {
            // The highest number there is: nothing lies above it, and no block has it.
            return self.no_blocks(next, 1, way).await;
        }
        while next < end && left > 0 && self.has(next) {
            let stop = way.lane.wanted_until(way.taken, next, end);
            if stop == next {
                self.no_blocks(next, 1, way).await?;
                next = next.next();
                continue;
            }
            let room = self.room(way, stop.above(next), left).await;
            let answers = self.read(next..stop, left, own_kind, way).await;
            let Some((_, bytes)) = answers.ends.last() else {
                break;
            };
            self.count_sent(answers.ends.len() as u64, *bytes as u64, way);
            for (height, message) in answers.charged(room) {
                next = height.next();
                self.note(height, way);
                let bytes = message.len();
                left = left.saturating_sub(bytes);
                way.longest = way.longest.max(bytes);
                way.outbox.send(message).await.map_err(|_| ())?;
                way.lane.sent(bytes);
            }
        }
        // Not there, pruned, in the future, or corrupt: "no block" for each height that is left.
        let cut = left == 0 && self.has(next) && next < end;
        self.no_blocks(next, end.above(next), way).await?;
        if cut {
            // The range was too heavy, not empty: our status says that the rest is there.
            let status = self.status().encode();
            way.outbox.send(status).await.map_err(|_| ())?;
        }
        Ok(())
    }

    fn count_sent(&self, blocks: u64, bytes: u64, way: &mut Way<'_>) {
        self.counters.blocks.fetch_add(blocks, Relaxed);
        self.counters.bytes.fetch_add(bytes, Relaxed);
        way.sent.blocks += blocks;
        way.sent.bytes += bytes;
    }

    async fn no_blocks(&self, from: Height, count: u64, way: &mut Way<'_>) -> Result<(), ()> {
        self.counters.no_blocks.fetch_add(count, Relaxed);
        way.sent.no_blocks += count;
        for n in 0..count {
            let height = from.plus(n);
            let none = Message::NoBlock { height };
            way.outbox.send(none.encode()).await.map_err(|_| ())?;
        }
        Ok(())
    }

    /// Notes what a peer is given, and says so when it is the same again and again.
    fn note(&self, height: Height, way: &mut Way<'_>) {
        if !way.given.note(height) {
            return;
        }
        self.counters.repeats.fetch_add(1, Relaxed);
        let repeats = way.given.repeats;
        // At the hundredth, the thousandth, …: never many lines.
        if repeats >= 100 && 10u64.pow(repeats.ilog10()) == repeats {
            let peer = way.lane.peer;
            warn!(%peer, %height, repeats, "a peer asks for the same blocks again and again: it is served last");
        }
    }

    fn has(&self, height: Height) -> bool {
        self.served.borrow().has(height)
    }

    /// Bytes that one peer is read for in its turn: the more there are, the less, so that a turn
    /// comes round as soon.
    fn quantum(&self) -> usize {
        (READ_BYTES / self.turns.clients().max(1)).max(LEAST_READ)
    }

    /// Waits until this number of heights, `left` bytes at most and one block more, may be read for
    /// the peer: there is room in the shared budget, or it has nothing on its way.
    async fn room(&self, way: &Way<'_>, heights: u64, left: usize) -> Room {
        const OPEN: &str = "the semaphore is never closed";
        let Lane { share, free, .. } = way.lane;
        let permits = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let heights = usize::try_from(heights).unwrap_or(usize::MAX);
        let all = match way.longest {
            0 => usize::MAX, // nobody knows yet
            longest => longest.saturating_mul(heights),
        };
        let turn = self.quantum().min(left);
        let wanted = (turn + way.longest).min(all).min(*share);
        // The peer's own share first: one that does not read waits here, and holds nothing that
        // others want. One turn may still be on its way, so that the transport has something to
        // send while the next is read. More would lie there until it has left the caches, and cost
        // several times as much to send.
        let ahead = self.quantum() + way.longest;
        let unused = (share - wanted).saturating_sub(ahead);
        let own = free.clone().acquire_many_owned(permits(wanted + unused));
        let mut own = own.await.expect(OPEN);
        drop(own.split(unused));
        let shared = tokio::select! {
            biased;
            shared = self.bytes.clone().acquire_many_owned(permits(wanted)) => Some(shared.expect(OPEN)),
            rest = free.acquire_many(permits(share - wanted)) => {
                drop(rest.expect(OPEN));
                None
            }
        };
        Room { own, shared }
    }

    /// Reads consecutive blocks in the peer's turn: as many as that allows, of `left` bytes
    /// together, and at least one. Gives the messages that bring them.
    async fn read(
        &self,
        Range { start: from, end }: Range<Height>,
        left: usize,
        own_kind: bool,
        way: &mut Way<'_>,
    ) -> Answers {
        let again = way.given.is_again(from);
        way.account.lets_others_pass(again).await;
        let most = self.quantum().min(left);
        let tip = self.served.borrow().height;
        let end = end.min(tip.next());
        // Nodes of ours get the highest block with the commit for itself, so that no block is lost
        // at the tip.
        let (store, with_seen) = (self.store.clone(), own_kind.then_some(tip));
        let kept = self.recent().run(from, end, most);
        // Memory needs no turn: only the disk is shared out.
        if let Some(last) = kept.last().map(|record| record.height) {
            let n = kept.len() as u64;
            self.counters.from_memory.fetch_add(n, Relaxed);
            let encode = move || messages(&*store, kept, with_seen);
            return match with_seen == Some(last) {
                true => self.offload.io(encode).await,
                false => encode(),
            };
        }
        let count = u32::try_from(end.above(from)).unwrap_or(u32::MAX);
        // The kernel's memory needs none, either. The highest block's own commit is looked up in
        // the database, which may wait.
        if !self.behind.load(Relaxed)
            && (with_seen.is_none() || end <= tip)
            && let Some(blocks) = store.blocks_in_memory(from, count, most, BlockResponse::gaps)
        {
            return Answers::around(blocks);
        }
        let served = self.served.clone();
        let read = move || {
            // The height may have been pruned while the turn was waited for.
            if !served.borrow().has(from) {
                return (Answers::none(), 0);
            }
            let records = store.blocks(from, count, most).unwrap_or_else(|error| {
                warn!(height = %from, %error, "a stored block cannot be served");
                Vec::new()
            });
            let weight = records.iter().map(weight).sum();
            (messages(&*store, records, with_seen), weight)
        };
        way.account.read(again, read).await
    }
}

/// The messages that bring these blocks; the one of this height, if any, with its seen commit.
fn messages(store: &dyn Store, records: Vec<BlockRecord>, with_seen: Option<Height>) -> Answers {
    let response = |record: BlockRecord| {
        let seen = with_seen.filter(|height| *height == record.height);
        let response = BlockResponse {
            block: record.raw,
            ext_commit: record.ext_raw,
            // A store that cannot be read is noticed elsewhere.
            seen_commit: seen.and_then(|height| store.seen_commit(height).unwrap_or_default()),
        };
        (record.height, response)
    };
    let responses: Vec<_> = records.into_iter().map(response).collect();
    let lengths = responses.iter().map(|(_, response)| response.encoded_len());
    let mut bytes = Vec::with_capacity(lengths.sum());
    let message = |(height, response): (_, BlockResponse)| {
        response.encode_to(&mut bytes);
        (height, bytes.len())
    };
    let ends = responses.into_iter().map(message).collect();
    Answers {
        bytes: Box::new(bytes),
        ends,
    }
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
