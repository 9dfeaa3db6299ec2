//! One connection at work: a task that reads, a task that writes, and a [`LinkEnd`] between them
//! and the service.
//!
//! The reader reads only while the link has room, so back-pressure reaches the peer; while it waits
//! it still shows signs of life, as a peer that hears nothing for long enough hangs up. Its pings
//! are answered by the writer between two batches, at most one pong for all that came. Neither
//! waits for the other.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, mpsc};
use tokio::task::yield_now;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::budget::{Budget, Share};
pub use super::channels::*;
use super::counters::{Counters, Reason};
use super::frame::{self, put_frame};
use super::pace::{Pace, wait};
use super::packet::{
    Channel, Outgoing, PAYLOAD, PING, PONG, Packet, PacketError, Piece, Reassembly, parse,
    put_packet,
};
use super::secret::SecretError;
use super::stream::{StreamReader, StreamWriter};
use super::usage::Usage;
use crate::link::gate::{Gate, Gone};
use crate::link::{Allowance, Inbound, LinkEnd};
use crate::wire::codec::{Codec, Frame, FrameError};
use crate::wire::guard;

/// A message's progress is told at most once in this number of bytes, …
const PROGRESS: usize = 64 * 1024;
/// … or once in this time: a slow message is a sign of life, too.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);
/// Messages of a channel that wait inside the writer; the others wait in the link.
const AHEAD: usize = 4;
/// Time to read what a peer sent before it went.
const LAST_WORDS: Duration = Duration::from_secs(10);
/// Interval in which a fifth of the bytes sent is forgotten, as in Go.
const DECAY: Duration = Duration::from_secs(2);
/// Interval in which the service hears that a peer has to wait for memory, which is not the peer's
/// fault.
const UNREAD_EVERY: Duration = Duration::from_secs(1);
/// Bytes in one charge of the budget, so that it is not locked for each packet.
const CHARGED: usize = 64 * 1024;
/// Frames that are handled before the runtime gets its thread back.
const STEP: usize = 64;
/// Frames without content that may come at once, and a second in the long run.
const CONTROL: u32 = 1024;
const CONTROL_RATE: u32 = 8;
/// A piece that does not end its message and is shorter is a crumb: CometBFT fills its packets.
const CRUMB: usize = 16;
/// Quiet time after which a sign of life is answered with one.
const QUIET: Duration = Duration::from_secs(10);

/// Patience with a live connection.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Timers {
    /// Time without a byte before we ask for a sign of life. Go: 60 s.
    pub ping_after: Duration,
    /// Time to wait for it. Go: 45 s.
    pub pong_within: Duration,
    /// Time in which a peer that reads takes at least one byte, if there is one for it.
    pub stall: Duration,
    /// Interval of our signs of life while the service takes nothing, and we cannot see the peer's
    /// pings.
    pub alive_every: Duration,
}

impl Default for Timers {
    fn default() -> Self {
        Timers {
            ping_after: Duration::from_secs(60),
            pong_within: Duration::from_secs(45),
            stall: Duration::from_secs(60),
            alive_every: Duration::from_secs(15),
        }
    }
}

/// Settings of a connection.
#[derive(Clone, Debug)]
pub struct Carrier {
    /// How messages are laid on the stream.
    pub framing: Framing,
    /// Channels that may be used, the block-sync one first.
    pub channels: Vec<Channel>,
    /// Bytes a second out; 0 is no limit.
    pub send_rate: u64,
    /// Bytes a second in; 0 is no limit.
    pub recv_rate: u64,
    /// Patience.
    pub timers: Timers,
    /// Where bytes and messages are counted.
    pub counters: Arc<Counters>,
    /// Budget of the unfinished messages of all connections.
    pub budget: Arc<Budget>,
    /// Where blocks that come and go are noted.
    pub usage: Arc<Usage>,
}

/// A conversation on the PEX channel. It ends the connection when the peer breaks the rules, and
/// says how.
pub type Talk = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// Messages of the PEX channel, and who speaks it. Those that nobody takes are dropped.
pub struct Side {
    /// From the peer.
    pub inbox: mpsc::Sender<Bytes>,
    /// To the peer.
    pub outbox: mpsc::Receiver<Bytes>,
    /// The conversation over these messages.
    pub talk: Talk,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnError {
    /// The stream: an error, the end, or a frame that does not open.
    #[error(transparent)]
    Stream(#[from] SecretError),
    /// Packets that break the protocol.
    #[error(transparent)]
    Packet(#[from] PacketError),
    /// Frames that break the protocol.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// Messages of peer exchange that break its rules.
    #[error("peer exchange: {0}")]
    Pex(String),
    /// It held memory for too long or filled it too slowly, and others wait.
    #[error("its message comes too slowly, while others wait for the memory that it holds")]
    Memory,
    /// More frames without content than a peer may send.
    #[error(
        "more than {CONTROL} pings, signs of life and empty pieces, and {CONTROL_RATE} a second"
    )]
    Flood,
    /// No sign of life.
    #[error("silent for {0:?}, a ping included")]
    Silent(Duration),
    /// The peer does not read.
    #[error("the peer has not read a byte for {0:?}")]
    Stalled(Duration),
    /// We hung up.
    #[error("hung up by this node")]
    Local,
}

impl ConnError {
    /// For the counters.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            ConnError::Stream(SecretError::Io(_)) => Reason::Disconnected,
            ConnError::Stream(_) => Reason::Secret,
            ConnError::Packet(_) | ConnError::Frame(_) | ConnError::Pex(_) => Reason::Protocol,
            ConnError::Memory => Reason::Memory,
            ConnError::Flood => Reason::Flood,
            ConnError::Silent(_) => Reason::Silent,
            ConnError::Stalled(_) => Reason::Stalled,
            ConnError::Local => Reason::Local,
        }
    }

    /// It is the peer's doing, whatever the network does: it may not come back at once.
    #[must_use]
    pub fn is_breach(&self) -> bool {
        matches!(
            self.reason(),
            Reason::Secret | Reason::Protocol | Reason::Memory | Reason::Flood
        )
    }
}

/// Drives a connection until it ends, and says why. The link's last message is `Closed` or
/// `Broken`, with the same reason.
///
/// The link's token is only listened to, never cancelled here: what a peer sent before it went is
/// still in the inbox, and a token would overtake it. Messages in the outbox when the token is
/// cancelled, or the link dropped, are not sent.
///
/// Cancel safety: dropping the future ends the connection, without a last message.
pub async fn drive<R, W>(
    reader: StreamReader<R>,
    writer: StreamWriter<W>,
    carrier: Carrier,
    end: LinkEnd,
    side: Option<Side>,
) -> ConnError
where
    R: AsyncRead + Unpin + Send + 'static,
    W: AsyncWrite + Unpin + Send + 'static,
{
    let signals = Arc::new(Signals::default());
    let (side_in, side_out, talk) = match side {
        Some(side) => (Some(side.inbox), Some(side.outbox), Some(side.talk)),
        None => (None, None, None),
    };
    let mut writing = AbortOnDropHandle::new(tokio::spawn(
        Writer {
            stream: writer,
            framing: carrier.framing,
            out: Outgoing::new(&carrier.channels),
            decayed: Instant::now(),
            blocks: Some(end.outbox),
            side: side_out,
            signals: signals.clone(),
            pace: Pace::new(carrier.send_rate),
            stall: carrier.timers.stall,
            counters: carrier.counters.clone(),
            usage: carrier.usage.clone(),
        }
        .run(),
    ));
    let mut reading = Reader {
        stream: reader,
        parser: Parser::new(&carrier),
        gate: Gate::new(end.inbox),
        share: carrier.budget.share(),
        side: side_in,
        signals,
        pace: Pace::new(carrier.recv_rate),
        timers: carrier.timers,
        hangup: end.hangup,
        told: 0,
        told_at: Instant::now(),
        asked: false,
        lively: carrier.framing == Framing::Packets,
        counters: carrier.counters,
        usage: carrier.usage,
        allowance: Allowance::new(CONTROL, CONTROL_RATE),
    };
    let why = tokio::select! {
        why = both(&mut reading, &mut writing) => why,
        // A talk that ends well leaves the connection as it is: block sync goes on without it.
        why = breach(talk) => ConnError::Pex(why),
    };
    // The writer is aborted before the last message is sent: that may wait for room in the inbox,
    // and nothing is written for a connection that has ended.
    drop(writing);
    let last = if why.is_breach() {
        Inbound::Broken(why.to_string())
    } else {
        Inbound::Closed(why.to_string())
    };
    reading.gate.close(last).await;
    why
}

/// The error of a talk; one that ends well, or does not take place, never breaks a rule.
async fn breach(talk: Option<Talk>) -> String {
    if let Some(talk) = talk
        && let Err(why) = talk.await
    {
        return why;
    }
    std::future::pending().await
}

/// Both halves until one ends. A socket that takes nothing any more may still hold what the peer
/// sent before it went.
async fn both<R>(reading: &mut Reader<R>, writing: &mut AbortOnDropHandle<ConnError>) -> ConnError
where
    R: AsyncRead + Unpin,
{
    let read = reading.run();
    tokio::pin!(read);
    let why = tokio::select! {
        why = &mut read => return why,
        why = writing => why.unwrap_or(ConnError::Local),
    };
    // A reset on writing is no reason to lose what lies in the receive buffer: a block may be in
    // it.
    if why.reason() == Reason::Disconnected {
        let _ = timeout(LAST_WORDS, read).await;
    }
    why
}

/// From the reader to the writer.
#[derive(Debug, Default)]
struct Signals {
    wanted: AtomicU8,
    wake: Notify,
}

const WANT_PING: u8 = 1;
const WANT_PONG: u8 = 2;
/// A sign of life, but only if we have been quiet.
const WANT_ECHO: u8 = 4;

impl Signals {
    fn raise(&self, what: u8) {
        self.wanted.fetch_or(what, Relaxed);
        // Where nobody waits yet the permit is kept, so a wish between `take` and `notified` is not
        // lost.
        self.wake.notify_one();
    }

    fn take(&self) -> u8 {
        self.wanted.swap(0, Relaxed)
    }
}

enum Event {
    Ping,
    Pong,
    Alive,
    /// Next to nothing of a message.
    Crumb,
    Message(u8, Bytes),
}

enum Parser {
    Packets(Reassembly),
    Frames(Codec),
}

impl Parser {
    fn new(carrier: &Carrier) -> Self {
        match carrier.framing {
            Framing::Packets => Parser::Packets(Reassembly::new(&carrier.channels)),
            Framing::Frames { marked } => Parser::Frames(frame::reader(&carrier.channels, marked)),
        }
    }

    /// Takes something off the window; nothing when more is needed first.
    fn take(&mut self, window: &[u8]) -> Result<(usize, Option<Event>), ConnError> {
        match self {
            Parser::Frames(frames) => {
                let (n, frame) = frames.take(window)?;
                let event = frame.map(|f| match f {
                    Frame::Alive => Event::Alive,
                    Frame::Message(channel, message) => Event::Message(channel, message),
                });
                Ok((n, event))
            }
            Parser::Packets(reassembly) => match parse(window)? {
                None => Ok((0, None)),
                Some((n, Packet::Ping)) => Ok((n, Some(Event::Ping))),
                Some((n, Packet::Pong)) => Ok((n, Some(Event::Pong))),
                Some((
                    n,
                    Packet::Piece {
                        channel,
                        last,
                        data,
                    },
                )) => {
                    let message = reassembly.add(channel, last, &data)?;
                    let event = match message {
                        Some((channel, m)) => Some(Event::Message(channel, m)),
                        // Pieces of a few bytes cost a decryption each and bring next to nothing:
                        // they are counted like control frames.
                        None if data.len() < CRUMB => Some(Event::Crumb),
                        None => None,
                    };
                    Ok((n, event))
                }
            },
        }
    }

    /// Memory that unfinished messages hold.
    fn held(&self) -> usize {
        match self {
            Parser::Packets(reassembly) => reassembly.held(),
            Parser::Frames(frames) => frames.held(),
        }
    }

    fn partial(&self, channel: u8) -> usize {
        match self {
            Parser::Packets(reassembly) => reassembly.partial(channel),
            Parser::Frames(frames) => frames.partial(channel),
        }
    }
}

struct Reader<R> {
    stream: StreamReader<R>,
    parser: Parser,
    gate: Gate,
    share: Share,
    side: Option<mpsc::Sender<Bytes>>,
    signals: Arc<Signals>,
    pace: Pace,
    timers: Timers,
    hangup: CancellationToken,
    /// Bytes of the message under way that were last told.
    told: usize,
    /// When progress was last told.
    told_at: Instant,
    /// We have asked for a sign of life.
    asked: bool,
    /// The peer is known to answer, so that its silence means something. In frames a peer need not.
    lively: bool,
    counters: Arc<Counters>,
    usage: Arc<Usage>,
    /// Frames without content that may still come.
    allowance: Allowance,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    async fn run(&mut self) -> ConnError {
        loop {
            if let Err(why) = self.step().await {
                return why;
            }
        }
    }

    async fn step(&mut self) -> Result<(), ConnError> {
        // Nothing is read while the service has no room: the kernel's buffer fills, and TCP holds
        // the peer back.
        self.admitted().await?;
        self.read().await?;
        // Neither parsing nor a control frame waits for anything: without the yields a peer that
        // sends nothing else would keep the thread for itself.
        let mut frames = 0usize;
        loop {
            let (n, event) = self.parser.take(self.stream.window())?;
            self.stream.consume(n);
            match event {
                None if n == 0 => break,
                None => {}
                Some(event) => self.handle(event).await?,
            }
            frames += 1;
            if frames.is_multiple_of(STEP) {
                yield_now().await;
            }
        }
        yield_now().await;
        self.tell_progress();
        self.afford().await
    }

    /// Waits until there is memory for what the unfinished messages hold. Reading up to there
    /// takes at most a buffer too much.
    async fn afford(&mut self) -> Result<(), ConnError> {
        // Rounded up, so that the lock on the budget is taken once a step and not once a packet.
        let held = self.parser.held().next_multiple_of(CHARGED);
        if self.share.is_enough(held) {
            return Ok(());
        }
        let hold = self.share.hold(held);
        tokio::pin!(hold);
        let mut waited = tokio::time::interval(UNREAD_EVERY);
        let begun = Instant::now();
        loop {
            tokio::select! {
                biased;
                () = &mut hold => return Ok(()),
                () = self.hangup.cancelled() => return Err(ConnError::Local),
                () = self.gate.gone() => return Err(ConnError::Local),
                // The service is told that we do not read, so that the peer is not blamed for our
                // silence, and the peer hears a pong, so that it does not take us for dead.
                at = waited.tick() => {
                    self.gate.unread();
                    if at - begun >= self.timers.alive_every {
                        self.signals.raise(WANT_PONG);
                    }
                }
            }
        }
    }

    async fn handle(&mut self, event: Event) -> Result<(), ConnError> {
        match event {
            Event::Ping => {
                self.allow()?;
                self.signals.raise(WANT_PONG);
            }
            Event::Pong | Event::Crumb => self.allow()?,
            Event::Alive => {
                self.allow()?;
                self.lively = true;
                self.signals.raise(WANT_ECHO);
            }
            Event::Message(BLOCKSYNC, message) => {
                // The next message begins: progress is counted anew.
                self.told = 0;
                if is_block(&message) {
                    self.usage.block(true);
                }
                self.counters.message(true, &message);
                self.usage.message(true, message.len());
                // One read may bring several messages: each waits for room of its own.
                self.admitted().await?;
                self.gate
                    .send(message)
                    .await
                    .map_err(|Gone| ConnError::Local)?;
            }
            Event::Message(_, message) => {
                // Peer exchange never holds blocks back: a message that finds its queue full is
                // dropped, and counted as one without use.
                let taken = self.side.as_ref().map(|side| side.try_send(message));
                if !matches!(taken, Some(Ok(()))) {
                    self.allow()?; // nobody takes it: it is dropped
                }
            }
        }
        Ok(())
    }

    /// Counts a frame without content.
    fn allow(&mut self) -> Result<(), ConnError> {
        if self.allowance.take() {
            Ok(())
        } else {
            Err(ConnError::Flood)
        }
    }

    /// Waits until the link has room.
    async fn admitted(&mut self) -> Result<(), ConnError> {
        loop {
            tokio::select! {
                biased;
                () = self.hangup.cancelled() => return Err(ConnError::Local),
                opened = self.gate.opened() => return opened.map_err(|Gone| ConnError::Local),
                // The peer's pings lie unread meanwhile. One of these pongs falls into the 45 s for
                // which CometBFT waits after a ping (`protocol.md` 3.4).
                () = tokio::time::sleep(self.timers.alive_every) => self.signals.raise(WANT_PONG),
            }
        }
    }

    /// Reads once, or asks for a sign of life, or gives up.
    async fn read(&mut self) -> Result<(), ConnError> {
        let Timers {
            ping_after,
            pong_within,
            ..
        } = self.timers;
        // Silence alone proves nothing: a ping is sent first, and its answer is waited for.
        let patience = if self.asked { pong_within } else { ping_after };
        let filled = tokio::select! {
            biased;
            () = self.hangup.cancelled() => return Err(ConnError::Local),
            () = self.gate.gone() => return Err(ConnError::Local),
            () = self.share.evicted() => return Err(ConnError::Memory),
            filled = timeout(patience, self.stream.fill(self.pace.step())) => filled,
        };
        let Ok(filled) = filled else {
            // A peer in frames need not answer. Until it has once, its silence means nothing.
            if self.asked && self.lively {
                return Err(ConnError::Silent(ping_after + pong_within));
            }
            self.asked = true;
            self.signals.raise(WANT_PING);
            return Ok(());
        };
        let n = filled?;
        self.asked = false;
        Counters::add(&self.counters.bytes_received, n);
        let until = self.pace.spend(n);
        tokio::select! {
            biased;
            () = wait(until) => Ok(()),
            () = self.hangup.cancelled() => Err(ConnError::Local),
        }
    }

    fn tell_progress(&mut self) {
        let partial = self.parser.partial(BLOCKSYNC);
        let due = partial > self.told && self.told_at.elapsed() >= PROGRESS_EVERY;
        if due || partial >= self.told + PROGRESS {
            (self.told, self.told_at) = (partial, Instant::now());
            self.gate.progress(partial);
        }
    }
}

struct Writer<W> {
    stream: StreamWriter<W>,
    framing: Framing,
    out: Outgoing,
    decayed: Instant,
    blocks: Option<mpsc::Receiver<Bytes>>,
    side: Option<mpsc::Receiver<Bytes>>,
    signals: Arc<Signals>,
    pace: Pace,
    stall: Duration,
    counters: Arc<Counters>,
    usage: Arc<Usage>,
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    async fn run(mut self) -> ConnError {
        let mut sent_at = Instant::now();
        loop {
            let wanted = self.something().await;
            if let Err(why) = self.answer(wanted, sent_at).await {
                return why;
            }
            if let Err(why) = self.pump().await {
                return why;
            }
            sent_at = Instant::now();
        }
    }

    /// Waits until there is something to send; gives the signs of life that are wanted.
    async fn something(&mut self) -> u8 {
        loop {
            let wanted = self.signals.take();
            self.top_up();
            if wanted != 0 || !self.out.is_empty() {
                return wanted;
            }
            tokio::select! {
                message = next(&mut self.blocks) => self.push(BLOCKSYNC, message),
                message = next(&mut self.side) => self.push(PEX, message),
                () = self.signals.wake.notified() => {}
            }
        }
    }

    fn push(&mut self, channel: u8, message: Option<Bytes>) {
        match message {
            Some(message) => {
                if channel == BLOCKSYNC {
                    self.counters.message(false, &message);
                    self.usage.message(false, message.len());
                    if is_block(&message) {
                        self.usage.block(false);
                    }
                }
                self.out.push(channel, message);
            }
            None if channel == BLOCKSYNC => self.blocks = None,
            None => self.side = None,
        }
    }

    /// Takes what waits in the link, without waiting for it.
    fn top_up(&mut self) {
        while self.out.waiting(BLOCKSYNC) < AHEAD {
            let Some(Ok(message)) = self.blocks.as_mut().map(mpsc::Receiver::try_recv) else {
                break;
            };
            self.push(BLOCKSYNC, Some(message));
        }
        while self.out.waiting(PEX) < AHEAD {
            let Some(Ok(message)) = self.side.as_mut().map(mpsc::Receiver::try_recv) else {
                break;
            };
            self.push(PEX, Some(message));
        }
    }

    async fn answer(&mut self, wanted: u8, sent_at: Instant) -> Result<(), ConnError> {
        match self.framing {
            Framing::Packets => {
                if wanted & WANT_PONG != 0 {
                    self.stream.put(&PONG)?;
                }
                if wanted & WANT_PING != 0 {
                    self.stream.put(&PING)?;
                }
            }
            Framing::Frames { .. } => {
                // Frames know no pong: the same sign asks and answers. Without the quiet time two
                // sides would echo each other for ever.
                let echo = wanted & WANT_ECHO != 0 && sent_at.elapsed() >= QUIET;
                if wanted & (WANT_PING | WANT_PONG) != 0 || echo {
                    self.stream.put(&[0])?;
                }
            }
        }
        if self.stream.waiting() > 0 {
            self.send().await
        } else {
            Ok(())
        }
    }

    /// Sends until nothing waits any more.
    async fn pump(&mut self) -> Result<(), ConnError> {
        loop {
            if self.decayed.elapsed() >= DECAY {
                self.decayed = Instant::now();
                self.out.decay();
            }
            while self.stream.has_room() {
                self.top_up();
                let payload = match self.framing {
                    Framing::Packets => PAYLOAD,
                    Framing::Frames { .. } => usize::MAX,
                };
                let Some(piece) = self.out.next(payload) else {
                    break;
                };
                self.put(piece).await?;
            }
            if self.stream.waiting() == 0 {
                return Ok(());
            }
            self.send().await?;
            let wanted = self.signals.take();
            // Something has just been sent, so an echo is not needed.
            self.answer(wanted, Instant::now()).await?;
        }
    }

    async fn put(&mut self, piece: Piece) -> Result<(), ConnError> {
        match self.framing {
            Framing::Packets => put_packet(&piece, &mut self.stream)?,
            Framing::Frames { marked } => {
                // a long message in steps, so that the buffer stays as it is
                let mut rest = piece.data.clone();
                let mut first = true;
                while first || !rest.is_empty() {
                    let data = rest.split_to(rest.len().min(StreamWriter::<W>::BATCH));
                    let piece = Piece {
                        data,
                        first,
                        ..piece
                    };
                    put_frame(piece, marked, &mut self.stream)?;
                    first = false;
                    if !rest.is_empty() {
                        self.send().await?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Sends everything that was put, at the rate that is allowed.
    async fn send(&mut self) -> Result<(), ConnError> {
        self.stream.finish()?;
        let stalled = ConnError::Stalled(self.stall);
        while self.stream.waiting() > 0 {
            let step = self.stream.write_some(self.pace.step());
            // The time is that of one write: a peer that takes a byte in it is slow, and not
            // stalled.
            let Ok(sent) = timeout(self.stall, step).await else {
                return Err(stalled);
            };
            let n = sent?;
            Counters::add(&self.counters.bytes_sent, n);
            wait(self.pace.spend(n)).await;
        }
        match timeout(self.stall, self.stream.flush()).await {
            Ok(flushed) => Ok(flushed?),
            Err(_) => Err(stalled),
        }
    }
}

/// Whether a block-sync message carries a block: its first byte tells (`wire::guard::limit_of`).
fn is_block(message: &[u8]) -> bool {
    message.first().copied().is_some_and(guard::is_block)
}

/// The next message; forever nothing from a channel that is not there.
async fn next(from: &mut Option<mpsc::Receiver<Bytes>>) -> Option<Bytes> {
    match from {
        Some(from) => from.recv().await,
        None => std::future::pending().await,
    }
}
