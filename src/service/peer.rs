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
use tokio::sync::mpsc;
use tracing::{debug, trace};

use super::offload::Offload;
use super::server::{Request, Server};
use crate::chain::Fetched;
use crate::fault::Fault;
use crate::ids::{ConnId, Height};
use crate::link::{Inbound, Link};
use crate::pool::{AskId, Input, Meta};
use crate::wire::message::Kind;
use crate::wire::{Limits, Message, decode, guard};

/// A block is decoded and hashed in the peer's own task up to this size, and on the CPU pool above.
const INLINE_DECODE: usize = 128 << 10;

/// Most heights that a connection may owe before further answers are refused. The pool stops asking long before.
const MAX_OWED: usize = 1 << 16;

/// What the reactor tells a peer's task. The mailbox is bounded by the asks that the pool allows a peer, and some.
#[derive(Debug)]
pub enum Command {
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
    /// Leave the link unread, or read it again.
    Read {
        /// Whether to leave it unread.
        paused: bool,
    },
    /// Our range has changed: tell the peer.
    Advertise,
}

/// What a peer's task needs.
pub struct PeerTask {
    /// This connection.
    pub conn: ConnId,
    /// Its link.
    pub link: Link,
    /// From the reactor.
    pub commands: mpsc::Receiver<Command>,
    /// To the reactor.
    pub inputs: mpsc::Sender<Input<Arc<Fetched>>>,
    /// Answers the peer's requests.
    pub server: Server,
    /// Sizes.
    pub limits: Limits,
    /// For large blocks.
    pub offload: Offload,
}

/// Ends the task; `Ok` when the connection is simply over.
type Flow = Result<(), Fault>;

impl PeerTask {
    /// Runs until the link ends or is hung up, then says `Down`.
    ///
    /// Cancel safety: not to be cancelled but by `link.hangup`.
    pub async fn run(mut self) {
        let hangup = self.link.hangup.clone();
        let conn = self.conn;
        let inputs = self.inputs.clone();
        let (requests, waiting) = mpsc::channel(self.server.queue_len());
        let serving = tokio::spawn(self.server.clone().serve(
            waiting,
            self.link.outbox.clone(),
            hangup.clone(),
        ));
        let end = tokio::select! {
            biased;
            () = hangup.cancelled() => Ok(()),
            end = self.exchange(requests) => end,
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
    /// other would wait for each other otherwise.
    async fn exchange(&mut self, requests: mpsc::Sender<Request>) -> Flow {
        let mut owed = Owed::default();
        let mut out = Outgoing {
            status: true,
            ..Outgoing::default()
        };
        let mut paused = false;
        let outbox = self.link.outbox.clone();
        loop {
            tokio::select! {
                biased;
                command = self.commands.recv() => match command {
                    None => return Ok(()),
                    Some(Command::Read { paused: p }) => paused = p,
                    Some(Command::AskStatus) => out.push(Message::StatusRequest.encode()),
                    Some(Command::Advertise) => out.status = true,
                    Some(Command::Ask { ask, from, count, ranged }) => {
                        trace!(peer = %self.link.peer, ?ask, %from, count, "ask");
                        ask_for(&mut owed, &mut out, from, count, ranged);
                    }
                },
                permit = outbox.reserve(), if !out.is_empty() => match permit {
                    Err(_) => return Err(Fault::Disconnected("the transport ended".into())),
                    Ok(permit) => permit.send(out.pop(&self.server)),
                },
                inbound = self.link.inbox.recv(), if !paused => match inbound {
                    None => return Err(Fault::Disconnected("the transport ended".into())),
                    Some(Inbound::Closed(why)) => return Err(Fault::Disconnected(why)),
                    Some(Inbound::Progress(bytes)) => self.tell(Input::Receiving { conn: self.conn, bytes }).await,
                    Some(Inbound::Message(message)) => {
                        self.message(&mut owed, &mut out, &requests, message).await?;
                    }
                },
            }
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
        let peeked =
            guard::admit(&message, &self.limits).map_err(|e| Fault::Malformed(e.to_string()))?;
        if peeked.kind == Kind::Block {
            let height = peeked.height.unwrap_or(Height::ZERO);
            if !owed.take(height) {
                return Err(Fault::Unasked);
            }
            return self.block(message).await;
        }
        let conn = self.conn;
        match Message::decode_small(&message).map_err(|e| Fault::Malformed(e.to_string()))? {
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
        let limits = self.limits;
        let decoded = if message.len() <= INLINE_DECODE {
            decode::fetched(&message, &limits)
        } else {
            self.offload
                .cpu(move || decode::fetched(&message, &limits))
                .await
        };
        let fetched = decoded.map_err(|e| Fault::Malformed(e.to_string()))?;
        let meta = meta(&fetched);
        self.tell(Input::Block {
            conn: self.conn,
            meta,
            block: Arc::new(fetched),
        })
        .await;
        Ok(())
    }
}

/// What the pool may know of a block.
#[must_use]
pub fn meta(fetched: &Fetched) -> Meta {
    let bytes = fetched.raw.len() + fetched.ext_raw.as_ref().map_or(0, Bytes::len);
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
}

/// Answers of ours that may wait; a peer that does not read loses further ones.
const ROOM: usize = 1024;

impl Outgoing {
    fn is_empty(&self) -> bool {
        self.queue.is_empty() && !self.status
    }

    fn push(&mut self, message: Bytes) {
        self.queue.push_back(message);
    }

    fn push_if_room(&mut self, message: Bytes) {
        if self.queue.len() < ROOM {
            self.push(message);
        }
    }

    fn pop(&mut self, server: &Server) -> Bytes {
        if std::mem::take(&mut self.status) {
            return server.status();
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

/// Heights asked of this connection and not answered, with how often each was asked.
#[derive(Debug, Default)]
struct Owed(HashMap<Height, u32>);

impl Owed {
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
mod tests {
    use super::*;

    #[test]
    fn one_answer_for_each_ask_however_late() {
        let mut owed = Owed::default();
        let h = Height::new(7);
        assert!(!owed.take(h));
        owed.add(h);
        owed.add(h);
        assert!(owed.take(h) && owed.take(h) && !owed.take(h));
    }
}
