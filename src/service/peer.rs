//! The task of one peer: judges what comes before decoding it, decodes and hashes it, and hands it
//! to the reactor; hands requests to the transport; passes the peer's own requests to its server.
//!
//! The task knows which heights this connection owes us, so that nothing is decoded that nobody
//! asked for. That knowledge can only refuse, and forgets on the answer, never on a timeout: a late
//! honest answer is no fault.
//!
//! Back-pressure: the reactor's mailbox is bounded; while it is full this task waits, the link's
//! inbox fills, and the transport leaves its socket unread.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};
use tokio::time::{Duration, Instant, sleep_until, timeout_at};
use tracing::{Instrument as _, debug, trace};

use super::advertising::{Advertising, Judged, fork_found};
use super::lane::Lane;
use super::offload::Offload;
use super::server::{Heard, Request, Server};
use super::stages::{Meters, Stage};
use crate::chain::Fetched;
use crate::fault::{CloseReason, Fault};
use crate::ids::{ConnId, Height};
use crate::link::{Allowance, Inbound, Link};
use crate::pool::{AskId, Input, Meta, Reading};
use crate::wire::message::Kind;
use crate::wire::{Cancel, Limits, MAX_STATUS_MESSAGE, Message, decode, guard};

/// A block is decoded and hashed in the peer's own task up to this size, and on the CPU pool above.
const INLINE_DECODE: usize = 128 << 10;

/// Decoding time is measured on one block in this number.
const SAMPLE: u32 = 16;

/// Most heights that a connection may owe before further answers are refused. The pool stops asking
/// long before.
const MAX_OWED: usize = 1 << 16;

/// Largest message under way, in bytes, on a connection that owes us nothing.
pub const UNASKED_BYTES: u32 = 64 << 10;
const _: () = assert!(
    MAX_STATUS_MESSAGE < UNASKED_BYTES as usize,
    "a status is never a block"
);

/// Statuses, requests for ours and answers that nobody asked for which may come at once …
pub const SMALL_MESSAGES: u32 = 1024;
/// … and a second in the long run.
pub const SMALL_MESSAGES_RATE: u32 = 64;

/// Requests that may be taken back at once, and a second in the long run: a peer that is stopped
/// takes back all that it has open.
const CANCELS: u32 = 8192;
const CANCELS_RATE: u32 = 512;

/// How long an answer that is not needed any more may go on arriving, when nothing else is owed.
const OVERSTAY: Duration = Duration::from_secs(60);

/// How long what a peer sent before its transport ended is waited for.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Orders from the reactor to a peer's task. The mailbox is bounded by the asks that the pool
/// allows a peer, and some.
#[derive(Debug)]
pub(super) enum Command {
    /// Ask for heights.
    Ask {
        /// The pool's name for it.
        ask: AskId,
        /// First height.
        from: Height,
        /// Number of heights.
        count: u32,
        /// Whether the peer answers ranges: one request for all of them.
        ranged: bool,
    },
    /// Ask for the peer's status.
    AskStatus,
    /// Our range has changed: tell the peer.
    Advertise,
    /// These heights are not needed any more; an answer that comes all the same is no fault.
    Cancel(Cancel),
}

/// The peer's requests on their way to the server.
struct Intake {
    requests: mpsc::Sender<Request>,
    lane: Arc<Lane>,
}

/// The task of one peer.
pub(super) struct PeerTask {
    /// This connection.
    pub conn: ConnId,
    /// Its link.
    pub link: Link,
    /// From the reactor.
    pub commands: mpsc::Receiver<Command>,
    /// Which connections are read.
    pub reading: watch::Receiver<Reading>,
    /// To the reactor.
    pub inputs: mpsc::Sender<Input<Arc<Fetched>>>,
    /// Answers the peer's requests.
    pub server: Server,
    /// Sizes.
    pub limits: Limits,
    /// For large blocks.
    pub offload: Offload,
    /// Decoding time is noted here.
    pub meters: Meters,
    /// Blocks that have come.
    pub decoded: u32,
    /// How long the answer to our request for the peer's status may take before the reactor is told
    /// that nothing comes.
    pub patience: Duration,
}

/// Ends the task; `Ok` when the connection is simply over.
type Flow = Result<(), CloseReason>;

fn ended() -> CloseReason {
    CloseReason::Remote("the transport ended".into())
}

impl PeerTask {
    /// Runs until the link ends or is hung up, then says `Down`.
    ///
    /// Cancel safety: not to be cancelled but by `link.hangup`.
    pub(super) async fn run(mut self) {
        let hangup = self.link.hangup.clone();
        let conn = self.conn;
        let inputs = self.inputs.clone();
        let (requests, waiting) = mpsc::channel(self.server.queue_len());
        let lane = self.server.lane(self.link.peer);
        let serving = self.server.clone().serve(
            lane.clone(),
            waiting,
            self.link.outbox.clone(),
            hangup.clone(),
        );
        let serving = tokio::spawn(serving.in_current_span());
        let intake = Intake { requests, lane };
        let end = tokio::select! {
            biased;
            () = hangup.cancelled() => Ok(()),
            end = self.exchange(&intake) => end,
        };
        // Hung up before the reactor is told: what it then decides cannot meet a connection that
        // still sends.
        hangup.cancel();
        if let Err(reason) = end {
            debug!(peer = %self.link.peer, address = %self.link.address, %reason, "connection ends");
            let input = match reason {
                CloseReason::Fault(fault) => Input::Malformed { conn, fault },
                reason => Input::HungUp { conn, reason },
            };
            // Awaited and not tried: a proof must not be lost because the reactor's inbox is full.
            let _ = inputs.send(input).await;
        }
        // Joined before `Down`, so that nothing of this connection runs after it.
        let _ = serving.await;
        let _ = inputs.send(Input::Down { conn }).await;
    }

    /// Order of the arms: commands first, so that a request leaves before more is read; they are
    /// few and bounded, so that the inbox is never starved. Outgoing messages wait in `Outgoing`
    /// and never hold up reading: two nodes that serve each other would wait for each other
    /// otherwise. Over the byte budget one message of an unread peer waits here, the others in the
    /// link; tasks of peers that have sent nothing are not woken.
    ///
    /// Silence comes last: it is none while something waits in the inbox, or here.
    async fn exchange(&mut self, intake: &Intake) -> Flow {
        let mut owed = Owed::default();
        let mut silence = Silence::new(self.patience);
        let mut out = Outgoing::new(Advertising::new(&self.link, &self.server));
        out.status = self.states_height();
        // A message that came while the connection is not read.
        let mut unread: Option<Option<Inbound>> = None;
        let outbox = self.link.outbox.clone();
        loop {
            tokio::select! {
                biased;
                command = self.commands.recv() => match command {
                    None => return Ok(()),
                    Some(Command::AskStatus) => out.asks = true,
                    Some(Command::Advertise) => out.status = self.states_height(),
                    Some(Command::Cancel(cancel)) => {
                        owed.give_up(cancel);
                        if out.cancels {
                            out.push(cancel.encode());
                        }
                    }
                    Some(Command::Ask { ask, from, count, ranged }) => {
                        trace!(peer = %self.link.peer, ?ask, %from, count, "ask");
                        ask_for(&mut owed, &mut out, from, count, ranged);
                    }
                },
                permit = outbox.reserve(), if !out.is_empty() => match permit {
                    // The transport takes nothing more, but what the peer sent before is still in
                    // the inbox, and may be a block or a breach.
                    Err(_) => {
                        if let Some(inbound) = unread {
                            self.inbound(&mut owed, &mut out, intake, inbound).await?;
                        }
                        return self.drain(owed, out, intake).await;
                    }
                    Ok(permit) => {
                        let message = out.pop(&self.server, self.link.extended, &mut silence);
                        permit.send(message);
                    }
                },
                inbound = self.link.inbox.recv(), if unread.is_none() && out.has_room() => {
                    silence.broken();
                    if self.reading.borrow().reads(self.conn) {
                        self.inbound(&mut owed, &mut out, intake, inbound).await?;
                    } else {
                        unread = Some(inbound);
                    }
                }
                () = read(&mut self.reading, self.conn), if unread.is_some() => {
                    let inbound = unread.take().flatten();
                    self.inbound(&mut owed, &mut out, intake, inbound).await?;
                }
                () = silence.lasts(), if unread.is_none() && out.has_room() => {
                    // While our own requests wait for the socket the peer cannot have answered
                    // them.
                    let sent = outbox.capacity() == outbox.max_capacity();
                    if let Some(lasted) = silence.judge(intake.lane.taken().filter(|_| sent)) {
                        let micros = u64::try_from(lasted.as_micros()).unwrap_or(u64::MAX);
                        self.tell(Input::Silent { conn: self.conn, micros }).await;
                    }
                }
            }
        }
    }

    /// The transport takes nothing more, but what the peer sent before it went is still there:
    /// honest answers, most likely.
    async fn drain(&mut self, mut owed: Owed, mut out: Outgoing, intake: &Intake) -> Flow {
        let until = Instant::now() + LAST_WORDS;
        loop {
            let Ok(inbound) = timeout_at(until, self.link.inbox.recv()).await else {
                return Err(ended());
            };
            self.inbound(&mut owed, &mut out, intake, inbound).await?;
        }
    }

    async fn inbound(
        &mut self,
        owed: &mut Owed,
        out: &mut Outgoing,
        intake: &Intake,
        inbound: Option<Inbound>,
    ) -> Flow {
        match inbound {
            None => Err(ended()),
            Some(Inbound::Closed(why)) => Err(CloseReason::Remote(why)),
            Some(Inbound::Broken(why)) => Err(Fault::Transport(why).into()),
            // Only a block is this long: it need not be complete to be refused, and must not be, or
            // a peer that connects makes us hold 100 MB.
            Some(Inbound::Progress(bytes)) if owed.is_empty() && bytes >= UNASKED_BYTES => {
                Err(Fault::Unasked.into())
            }
            // The rest of it is of no use to anybody, and holds memory.
            Some(Inbound::Progress(_)) if owed.overstays() => {
                let why = "its answer came too slowly, and others have given it meanwhile";
                Err(CloseReason::OfNoUse(why.into()))
            }
            Some(Inbound::Progress(bytes)) => {
                self.tell(Input::Receiving {
                    conn: self.conn,
                    bytes,
                })
                .await;
                Ok(())
            }
            Some(Inbound::Unread) => {
                self.tell(Input::Unread { conn: self.conn }).await;
                Ok(())
            }
            Some(Inbound::Message(message)) => self.message(owed, out, intake, message).await,
        }
    }

    /// Whether this peer is told our height now.
    fn states_height(&self) -> bool {
        !(self.link.comet && self.server.is_behind())
    }

    /// Tells of a proof that was judged.
    async fn judged(&self, judged: Judged) {
        let Judged {
            proven,
            applied,
            fork,
        } = judged;
        let conn = self.conn;
        self.tell(Input::ClaimJudged {
            conn,
            proven,
            applied,
        })
        .await;
        if let Some(fork) = fork {
            self.tell(fork_found(fork)).await;
        }
    }

    async fn tell(&self, input: Input<Arc<Fetched>>) {
        // The reactor is gone only when the service ends, which hangs this link up as well.
        let _ = self.inputs.send(input).await;
    }

    async fn message(
        &mut self,
        owed: &mut Owed,
        out: &mut Outgoing,
        intake: &Intake,
        message: Bytes,
    ) -> Flow {
        let peeked = guard::admit(&message, &self.limits).map_err(Fault::from)?;
        if peeked.kind == Kind::Block {
            let height = peeked.height.unwrap_or(Height::ZERO);
            // Looked up before the block is decoded: an unasked one costs no more than its outline.
            if !owed.take(height) {
                return Err(Fault::Unasked.into());
            }
            return self.block(message).await;
        }
        // Only a status may be longer, and only where it brings the proof that we have asked for.
        if message.len() > self.limits.small_message && !out.advertising.awaits_proof() {
            let why = format!("a message of {} bytes without a block", message.len());
            return Err(Fault::Malformed(why).into());
        }
        // Before anything is asked of it or served to it: a status comes first.
        match self.server.hear_chain(&message).map_err(Fault::from)? {
            Heard::Another(why) => return Err(CloseReason::OfNoUse(why)),
            Heard::Ours => out.cancels = true, // it knows what we do
            Heard::Nothing => {}
        }
        self.small_message(owed, out, intake, &message).await
    }

    /// A message that carries no block.
    async fn small_message(
        &mut self,
        owed: &mut Owed,
        out: &mut Outgoing,
        intake: &Intake,
        message: &[u8],
    ) -> Flow {
        let conn = self.conn;
        match Message::decode_small(message).map_err(Fault::from)? {
            Message::StatusRequest => match Cancel::read(message).map_err(Fault::from)? {
                Some(cancel) => {
                    out.allow_cancel()?;
                    intake.lane.cancel(cancel);
                }
                None => {
                    out.allow()?;
                    let heard = out.advertising.hear_request(&self.server, message).await;
                    heard.map_err(Fault::from)?;
                    out.status = self.states_height();
                }
            },
            Message::Status {
                base,
                height,
                max_range,
            } => {
                out.allow()?;
                self.tell(Input::Status {
                    conn,
                    base,
                    height,
                    max_range,
                })
                .await;
                let heights = (base, height);
                let hear = out.advertising.hear(&self.server, message, heights);
                if let Some(judged) = hear.await? {
                    self.judged(judged).await;
                }
            }
            Message::NoBlock { height } => {
                // Only an answer to something asked means anything.
                if owed.take(height) {
                    out.advertising.refused(&self.server, height);
                    self.tell(Input::NoBlock { conn, height }).await;
                } else {
                    out.allow()?;
                }
            }
            Message::BlockRequest { height, count } => {
                let request = Request {
                    from: height,
                    count,
                };
                match self.server.take(self.link.peer, request, &intake.requests) {
                    Ok(()) => intake.lane.asked(),
                    // More than the queue holds: each height gets its answer all the same, and the
                    // peer asks elsewhere.
                    Err(heights) => out.refuse(height, heights),
                }
            }
            Message::Block(_) => {} // not small: `decode_small` refuses it
        }
        Ok(())
    }

    async fn block(&mut self, message: Bytes) -> Flow {
        let (limits, length) = (self.limits, message.len());
        // A long block is decoded on the CPU pool, so that other tasks of this worker need not
        // wait. A short one is done before it could be handed over.
        let decoded = if length > INLINE_DECODE {
            let meters = self.meters.clone();
            let decode =
                move || meters.work(Stage::Decode, 1, || decode::fetched(&message, &limits));
            self.offload.cpu(decode).await
        } else if self.decoded.is_multiple_of(SAMPLE) {
            let decode = || decode::fetched(&message, &limits);
            self.meters.sample(Stage::Decode, SAMPLE, decode)
        } else {
            self.meters.unmeasured(Stage::Decode);
            decode::fetched(&message, &limits)
        };
        self.decoded = self.decoded.wrapping_add(1);
        let fetched = decoded.map_err(Fault::from)?;
        let meta = meta(&fetched);
        let input = Input::Block {
            conn: self.conn,
            meta,
            block: Arc::new(fetched),
        };
        // Tried first, so that only real waiting is counted as such.
        if let Err(TrySendError::Full(input)) = self.inputs.try_send(input) {
            let decoded = Instant::now();
            self.tell(input).await;
            self.meters
                .waited_for_room(Stage::Decode, decoded.elapsed());
        }
        Ok(())
    }
}

/// Waits until the connection is read, or the reactor is gone.
async fn read(reading: &mut watch::Receiver<Reading>, conn: ConnId) {
    let _ = reading.wait_for(|r| r.reads(conn)).await;
}

/// Bytes that a block holds while it waits: what came, and what was decoded beside it.
fn memory(fetched: &Fetched) -> usize {
    let ext = fetched.ext_raw.as_ref().map_or(0, Bytes::len);
    // Signatures are what decoding adds: transactions stay slices of the bytes that came.
    let decoded = size_of::<Fetched>()
        + size_of_val(&*fetched.block.last_commit.signatures)
        + fetched
            .ext_commit
            .as_ref()
            .map_or(0, |c| size_of_val(&*c.signatures));
    fetched.raw.len() + ext + decoded
}

/// The facts about a block that the pool may know.
#[must_use]
pub(super) fn meta(fetched: &Fetched) -> Meta {
    let bytes = memory(fetched);
    Meta {
        height: fetched.height(),
        id: fetched.id,
        parent: fetched.block.header.last_block_id,
        bytes: u32::try_from(bytes).unwrap_or(u32::MAX),
        has_own_commit: fetched.seen_commit.is_some(),
    }
}

/// Messages that wait for room in the link's outbox. Bounded: requests by the pool's asks, refusals
/// by `MAX_REFUSALS`.
#[derive(Debug)]
struct Outgoing {
    queue: VecDeque<Bytes>,
    /// Our status is due; however often it was asked for, it goes out once, as it is then.
    status: bool,
    /// The peer is to be asked for its status.
    asks: bool,
    /// Heights that the queue had no room for: first height and number.
    refused: VecDeque<(Height, u64)>,
    /// Messages that the peer may still send, of those that cost an answer or a word to the
    /// reactor.
    allowance: Allowance,
    /// Requests that it may still take back.
    takes_back: Allowance,
    /// The peer understands when we take something back.
    cancels: bool,
    /// Statuses that are signed.
    advertising: Advertising,
}

/// Runs of heights that wait to be answered "no block". Beyond, the peer is not read until it takes
/// some: a peer that asks for this and reads nothing is closed by the transport.
const MAX_REFUSALS: usize = 1024;

impl Outgoing {
    /// Begins with our status.
    fn new(advertising: Advertising) -> Self {
        Outgoing {
            advertising,
            queue: VecDeque::new(),
            status: true,
            asks: false,
            refused: VecDeque::new(),
            allowance: Allowance::new(SMALL_MESSAGES, SMALL_MESSAGES_RATE),
            takes_back: Allowance::new(CANCELS, CANCELS_RATE),
            cancels: false,
        }
    }

    fn is_empty(&self) -> bool {
        self.queue.is_empty() && !self.status && !self.asks && self.refused.is_empty()
    }

    /// Whether the peer is to be read.
    fn has_room(&self) -> bool {
        self.refused.len() < MAX_REFUSALS
    }

    fn push(&mut self, message: Bytes) {
        self.queue.push_back(message);
    }

    /// Answers these heights with "no block".
    fn refuse(&mut self, from: Height, count: u64) {
        match self.refused.back_mut() {
            // A run that goes on takes no more memory, however long it gets.
            Some((first, n)) if first.plus(*n) == from => *n += count,
            _ => self.refused.push_back((from, count)),
        }
    }

    /// Counts a message that means little.
    fn allow(&mut self) -> Flow {
        if self.allowance.take() {
            return Ok(());
        }
        Err(CloseReason::Fault(Fault::Transport(format!(
            "more than {SMALL_MESSAGES} statuses and answers to nothing, and {SMALL_MESSAGES_RATE} a second"
        ))))
    }

    /// Counts what the peer takes back.
    fn allow_cancel(&mut self) -> Flow {
        if self.takes_back.take() {
            return Ok(());
        }
        Err(CloseReason::Fault(Fault::Transport(format!(
            "more than {CANCELS} requests taken back, and {CANCELS_RATE} a second"
        ))))
    }

    fn pop(&mut self, server: &Server, extended: bool, silence: &mut Silence) -> Bytes {
        if std::mem::take(&mut self.status) {
            return self.advertising.status(server, extended);
        }
        // Silence is counted from when the request leaves, not from when it was due.
        if std::mem::take(&mut self.asks) {
            silence.begins();
            return self.advertising.request(server, extended);
        }
        if let Some(message) = self.queue.pop_front() {
            return message;
        }
        let run = self.refused.front_mut();
        let (height, left) = run.expect("asked only when there is something");
        let none = Message::NoBlock { height: *height };
        (*height, *left) = (height.next(), *left - 1);
        if *left == 0 {
            self.refused.pop_front();
        }
        none.encode()
    }
}

fn ask_for(owed: &mut Owed, out: &mut Outgoing, from: Height, count: u32, ranged: bool) {
    let heights = (0..u64::from(count)).map(|n| from.plus(n));
    // Noted before the request can leave, so that no answer finds it unknown.
    heights.clone().for_each(|h| owed.add(h));
    if ranged {
        out.push(
            Message::BlockRequest {
                height: from,
                count,
            }
            .encode(),
        );
    } else {
        heights.for_each(|height| out.push(Message::BlockRequest { height, count: 0 }.encode()));
    }
}

/// How long nothing at all has come from a peer that owes us its status: from when our request left
/// until anything comes. It knows what only looks like silence; what it means is the pool's to say.
#[derive(Debug)]
struct Silence {
    patience: Duration,
    /// Nothing while no status is owed.
    since: Option<Instant>,
    /// When it is looked at.
    due: Instant,
}

/// A task that looks later than this has slept itself: bytes may have come and not been read.
const OVERSLEPT: Duration = Duration::from_secs(1);

impl Silence {
    fn new(patience: Duration) -> Self {
        Silence {
            patience,
            since: None,
            due: Instant::now(),
        }
    }

    /// A request for the status leaves. An earlier one that has not been answered counts.
    fn begins(&mut self) {
        if self.since.is_none() {
            let now = Instant::now();
            (self.since, self.due) = (Some(now), now + self.patience);
        }
    }

    /// Something came, or we do not listen.
    fn broken(&mut self) {
        self.since = None;
    }

    /// Waits until it is to be looked at.
    ///
    /// Cancel safety: cancel safe.
    async fn lasts(&self) {
        match self.since {
            Some(_) => sleep_until(self.due).await,
            None => std::future::pending().await,
        }
    }

    /// How long it has lasted, if that is long enough to be told. The peer answers when it has
    /// taken what we sent before, which it has at `taken`; while that is on its way (`None`) there
    /// is no silence.
    fn judge(&mut self, taken: Option<Instant>) -> Option<Duration> {
        let now = Instant::now();
        let since = match taken {
            Some(taken) if now < self.due + OVERSLEPT => self.since?.max(taken),
            _ => now,
        };
        self.since = Some(since);
        let lasted = now.saturating_duration_since(since);
        let told = (lasted >= self.patience).then_some(lasted);
        let from = if told.is_some() { now } else { since };
        self.due = from + self.patience;
        told
    }
}

/// Heights asked of this connection and not answered.
#[derive(Debug, Default)]
struct Owed {
    heights: HashMap<Height, Debt>,
    /// Requests that are still wanted, all heights together.
    wanted: usize,
    /// Since when none is.
    idle: Option<Instant>,
}

/// How often a height was asked for, and how many of these requests are still wanted.
#[derive(Clone, Copy, Debug, Default)]
struct Debt {
    times: u32,
    wanted: u32,
}

impl Owed {
    fn is_empty(&self) -> bool {
        self.heights.is_empty()
    }

    fn add(&mut self, height: Height) {
        if self.heights.len() < MAX_OWED {
            let debt = self.heights.entry(height).or_default();
            debt.times += 1;
            debt.wanted += 1;
            self.wanted += 1;
        }
    }

    /// These heights are not needed any more. Their answers stay allowed.
    fn give_up(&mut self, cancel: Cancel) {
        for height in (0..u64::from(cancel.count)).map(|n| cancel.from.plus(n)) {
            self.unwant(height);
        }
    }

    fn unwant(&mut self, height: Height) {
        if let Some(debt) = self.heights.get_mut(&height)
            && debt.wanted > 0
        {
            debt.wanted -= 1;
            self.wanted -= 1;
            if self.wanted == 0 {
                self.idle = Some(Instant::now());
            }
        }
    }

    /// Nothing that is owed has been wanted for long.
    fn overstays(&self) -> bool {
        let idle = self.idle.filter(|_| self.wanted == 0 && !self.is_empty());
        idle.is_some_and(|since| since.elapsed() >= OVERSTAY)
    }

    /// One answer to anything that was asked; `false` when it was not.
    fn take(&mut self, height: Height) -> bool {
        let Some(debt) = self.heights.get_mut(&height) else {
            return false;
        };
        debt.times -= 1;
        // Of several requests for a height the unwanted ones are taken as answered first.
        let (last, wanted) = (debt.times == 0, debt.wanted > debt.times);
        if wanted {
            self.unwant(height);
        }
        if last {
            self.heights.remove(&height);
        }
        true
    }
}

#[cfg(test)]
#[path = "peer_tests.rs"]
mod tests;
