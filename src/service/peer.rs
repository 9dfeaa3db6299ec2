//! The task of one peer: judges what comes before decoding it, decodes and hashes it, and hands it to the reactor; hands
//! requests to the transport; passes the peer's own requests to its server.
//!
//! The task knows which heights this connection owes us, so that nothing is decoded that nobody asked for. That
//! knowledge can only refuse, and forgets on the answer, never on a timeout: a late honest answer is no fault.
//!
//! Back-pressure: the reactor's mailbox is bounded; while it is full this task waits, the link's inbox fills, and the
//! transport leaves its socket unread.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};
use tokio::time::{Duration, Instant, sleep_until, timeout_at};
use tracing::{debug, trace};

use super::offload::Offload;
use super::server::{Lane, Request, Server};
use super::stages::{Meters, Stage};
use crate::chain::Fetched;
use crate::fault::Fault;
use crate::ids::{ConnId, Height};
use crate::link::{Inbound, Link};
use crate::pool::{AskId, Input, Meta, Reading};
use crate::wire::message::Kind;
use crate::wire::{Limits, Message, decode, guard};

/// A block is decoded and hashed in the peer's own task up to this size, and on the CPU pool above.
const INLINE_DECODE: usize = 128 << 10;

/// What decoding takes is measured on one block of so many.
const SAMPLE: u32 = 16;

/// Most heights that a connection may owe before further answers are refused. The pool stops asking long before.
const MAX_OWED: usize = 1 << 16;

/// A message under way may be so long, in bytes, on a connection that owes us nothing.
pub const UNASKED_BYTES: u32 = 64 << 10;

/// How long what a peer sent before its transport ended is waited for.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// What the reactor tells a peer's task. The mailbox is bounded by the asks that the pool allows a peer, and some.
#[derive(Debug)]
pub(super) enum Command {
    /// Ask for heights.
    Ask {
        /// The pool's name for it.
        ask: AskId,
        /// First height.
        from: Height,
        /// How many.
        count: u32,
        /// Whether the peer answers ranges: one request for all of them.
        ranged: bool,
    },
    /// Ask for the peer's status.
    AskStatus,
    /// Our range has changed: tell the peer.
    Advertise,
}

/// What a peer's task needs.
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
    /// What decoding takes is noted here.
    pub meters: Meters,
    /// Blocks that have come.
    pub decoded: u32,
    /// How long the answer to our request for the peer's status may take before the reactor is told that nothing comes.
    pub patience: Duration,
}

/// Ends the task; `Ok` when the connection is simply over.
type Flow = Result<(), Fault>;

fn ended() -> Fault {
    Fault::Disconnected("the transport ended".into())
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
        let lane = self.server.lane();
        let serving = tokio::spawn(self.server.clone().serve(
            lane.clone(),
            waiting,
            self.link.outbox.clone(),
            hangup.clone(),
        ));
        let end = tokio::select! {
            biased;
            () = hangup.cancelled() => Ok(()),
            end = self.exchange(&lane, requests) => end,
        };
        hangup.cancel();
        if let Err(fault) = end {
            debug!(peer = %self.link.peer, address = %self.link.address, %fault, "connection ends");
            let _ = inputs.send(Input::Malformed { conn, fault }).await;
        }
        let _ = serving.await;
        let _ = inputs.send(Input::Down { conn }).await;
    }

    /// Order of the arms: commands first, so that a request leaves before more is read; they are few and bounded, so that the
    /// inbox is never starved. What goes out waits in `Outgoing` and never holds up reading: two nodes that serve each
    /// other would wait for each other otherwise. Over the byte budget one message of an unread peer waits here, the others in the link;
    /// whoever has sent nothing is not woken.
    ///
    /// Silence comes last: it is none while something waits in the inbox, or here.
    async fn exchange(&mut self, lane: &Lane, requests: mpsc::Sender<Request>) -> Flow {
        let mut owed = Owed::default();
        let mut silence = Silence::new(self.patience);
        let mut out = Outgoing {
            status: true,
            ..Outgoing::default()
        };
        // What came while the connection is not read.
        let mut unread: Option<Option<Inbound>> = None;
        let outbox = self.link.outbox.clone();
        loop {
            tokio::select! {
                biased;
                command = self.commands.recv() => match command {
                    None => return Ok(()),
                    Some(Command::AskStatus) => out.asks = true,
                    Some(Command::Advertise) => out.status = true,
                    Some(Command::Ask { ask, from, count, ranged }) => {
                        trace!(peer = %self.link.peer, ?ask, %from, count, "ask");
                        ask_for(&mut owed, &mut out, from, count, ranged);
                    }
                },
                permit = outbox.reserve(), if !out.is_empty() => match permit {
                    Err(_) => {
                        if let Some(inbound) = unread {
                            self.inbound(&mut owed, &mut out, &requests, inbound).await?;
                        }
                        return self.drain(owed, out, &requests).await;
                    }
                    Ok(permit) => permit.send(out.pop(&self.server, &mut silence)),
                },
                inbound = self.link.inbox.recv(), if unread.is_none() => {
                    silence.broken();
                    if self.reading.borrow().reads(self.conn) {
                        self.inbound(&mut owed, &mut out, &requests, inbound).await?;
                    } else {
                        unread = Some(inbound);
                    }
                }
                () = read(&mut self.reading, self.conn), if unread.is_some() => {
                    let inbound = unread.take().flatten();
                    self.inbound(&mut owed, &mut out, &requests, inbound).await?;
                }
                () = silence.lasts(), if unread.is_none() => {
                    let sent = outbox.capacity() == outbox.max_capacity();
                    if let Some(lasted) = silence.judge(lane.taken().filter(|_| sent)) {
                        let micros = u64::try_from(lasted.as_micros()).unwrap_or(u64::MAX);
                        self.tell(Input::Silent { conn: self.conn, micros }).await;
                    }
                }
            }
        }
    }

    /// The transport takes nothing more, but what the peer sent before it went is still there: honest answers, most likely.
    async fn drain(
        &mut self,
        mut owed: Owed,
        mut out: Outgoing,
        requests: &mpsc::Sender<Request>,
    ) -> Flow {
        let until = Instant::now() + LAST_WORDS;
        loop {
            let Ok(inbound) = timeout_at(until, self.link.inbox.recv()).await else {
                return Err(ended());
            };
            self.inbound(&mut owed, &mut out, requests, inbound).await?;
        }
    }

    async fn inbound(
        &mut self,
        owed: &mut Owed,
        out: &mut Outgoing,
        requests: &mpsc::Sender<Request>,
        inbound: Option<Inbound>,
    ) -> Flow {
        match inbound {
            None => Err(ended()),
            Some(Inbound::Closed(why)) => Err(Fault::Disconnected(why)),
            Some(Inbound::Broken(why)) => Err(Fault::Transport(why)),
            // Nothing but a block is so long: it need not be complete to be refused, and must not be, or whoever
            // connects makes us hold 100 MB.
            Some(Inbound::Progress(bytes)) if owed.is_empty() && bytes >= UNASKED_BYTES => {
                Err(Fault::Unasked)
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
            Some(Inbound::Message(message)) => self.message(owed, out, requests, message).await,
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
        requests: &mpsc::Sender<Request>,
        message: Bytes,
    ) -> Flow {
        let peeked = guard::admit(&message, &self.limits).map_err(Fault::from)?;
        if peeked.kind == Kind::Block {
            let height = peeked.height.unwrap_or(Height::ZERO);
            if !owed.take(height) {
                return Err(Fault::Unasked);
            }
            return self.block(message).await;
        }
        let conn = self.conn;
        match Message::decode_small(&message).map_err(Fault::from)? {
            Message::StatusRequest => out.status = true,
            Message::Status {
                base,
                height,
                max_range,
            } => {
                self.tell(Input::Status {
                    conn,
                    base,
                    height,
                    max_range,
                })
                .await;
            }
            Message::NoBlock { height } => {
                // Only an answer to something asked means anything; a flood of others changes nothing.
                if owed.take(height) {
                    self.tell(Input::NoBlock { conn, height }).await;
                }
            }
            Message::BlockRequest { height, count } => {
                if requests
                    .try_send(Request {
                        from: height,
                        count,
                    })
                    .is_err()
                {
                    // More than the queue holds: the peer asks elsewhere, and costs us one small answer.
                    out.push_if_room(Message::NoBlock { height }.encode());
                }
            }
            Message::Block(_) => {} // not small: `decode_small` refuses it
        }
        Ok(())
    }

    async fn block(&mut self, message: Bytes) -> Flow {
        let (limits, length) = (self.limits, message.len());
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
    let decoded = size_of::<Fetched>()
        + size_of_val(&*fetched.block.last_commit.signatures)
        + size_of_val(&*fetched.block.txs)
        + fetched
            .ext_commit
            .as_ref()
            .map_or(0, |c| size_of_val(&*c.signatures));
    fetched.raw.len() + ext + decoded
}

/// What the pool may know of a block.
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

/// What waits for room in the link's outbox. Bounded: requests by the pool's asks, the rest by `ROOM`.
#[derive(Debug, Default)]
struct Outgoing {
    queue: VecDeque<Bytes>,
    /// Our status is due; however often it was asked for, it goes out once, as it is then.
    status: bool,
    /// The peer is to be asked for its status.
    asks: bool,
}

/// Answers of ours that may wait; a peer that does not read loses further ones.
const ROOM: usize = 1024;

impl Outgoing {
    fn is_empty(&self) -> bool {
        self.queue.is_empty() && !self.status && !self.asks
    }

    fn push(&mut self, message: Bytes) {
        self.queue.push_back(message);
    }

    fn push_if_room(&mut self, message: Bytes) {
        if self.queue.len() < ROOM {
            self.push(message);
        }
    }

    fn pop(&mut self, server: &Server, silence: &mut Silence) -> Bytes {
        if std::mem::take(&mut self.status) {
            return server.status();
        }
        if std::mem::take(&mut self.asks) {
            silence.begins();
            return Message::StatusRequest.encode();
        }
        self.queue
            .pop_front()
            .expect("asked only when there is something")
    }
}

fn ask_for(owed: &mut Owed, out: &mut Outgoing, from: Height, count: u32, ranged: bool) {
    let heights = (0..u64::from(count)).map(|n| from.plus(n));
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

/// How long nothing at all has come from a peer that owes us its status: from when our request left until anything comes. It knows what
/// only looks like silence; what it means is the pool's to say.
#[derive(Debug)]
struct Silence {
    patience: Duration,
    /// Nothing while no status is owed.
    since: Option<Instant>,
    /// When it is looked at.
    due: Instant,
}

/// Who looks later than this has slept itself: what came meanwhile may not have been read.
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

    /// How long it has lasted, if that is long enough to be told. The peer answers when it has taken what we sent before, which it has at
    /// `taken`; while that is on its way (`None`) there is no silence.
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

/// Heights asked of this connection and not answered, with how often each was asked.
#[derive(Debug, Default)]
struct Owed(HashMap<Height, u32>);

impl Owed {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn add(&mut self, height: Height) {
        if self.0.len() < MAX_OWED {
            *self.0.entry(height).or_default() += 1;
        }
    }

    /// One answer to anything that was asked; `false` when it was not.
    fn take(&mut self, height: Height) -> bool {
        let Some(times) = self.0.get_mut(&height) else {
            return false;
        };
        *times -= 1;
        if *times == 0 {
            self.0.remove(&height);
        }
        true
    }
}

#[cfg(test)]
#[path = "peer_tests.rs"]
mod tests;
