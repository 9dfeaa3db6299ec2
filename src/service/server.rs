//! Answers other nodes' requests from the store. A side door: it never passes through the reactor, so a slow disk delays no
//! scheduling, and one slow reader delays nobody else.
//!
//! Bounds: heights that wait per peer by `ServeConfig::queue`; bytes on their way to all peers by
//! `ServeConfig::bytes_in_flight`, held by each answer until the transport has let go of it, and those to one peer by a share of that. Peers that do
//! not read can use up the whole; so a peer with nothing on its way gets an answer of up to `AT_ONCE` bytes whatever the others hold.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::config::ServeConfig;
use super::offload::Offload;
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
    offload: Offload,
}

/// Bytes that hold their share of the server's budget until the transport lets go of them.
struct Charged {
    bytes: Bytes,
    _own: OwnedSemaphorePermit,
    _shared: Option<OwnedSemaphorePermit>,
}

/// Where the answers to one peer go.
struct Way<'a> {
    outbox: &'a mpsc::Sender<Bytes>,
    /// The peer's share of the bytes in flight.
    share: usize,
    free: Arc<Semaphore>,
}

/// One peer may hold this part of the bytes in flight.
const PEERS_PART: usize = 4;
/// An answer that is no larger does not wait for other peers when its own has nothing on its way.
const AT_ONCE: usize = 1 << 20;

impl AsRef<[u8]> for Charged {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Bytes read from the store in one go; what they become on the wire is charged to the budget first.
const READ_BYTES: usize = 1 << 20;

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

    /// Answers one peer's requests in order until the peer hangs up.
    pub async fn serve(
        self,
        mut requests: mpsc::Receiver<Request>,
        outbox: mpsc::Sender<Bytes>,
        hangup: CancellationToken,
    ) {
        let share = (self.budget() / PEERS_PART).max(1);
        let way = Way {
            outbox: &outbox,
            share,
            free: Arc::new(Semaphore::new(share)),
        };
        let work = async {
            while let Some(request) = requests.recv().await {
                if self.answer(request, &way).await.is_err() {
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
    async fn answer(&self, request: Request, way: &Way<'_>) -> Result<(), ()> {
        let outbox = way.outbox;
        let count = u64::from(request.count.clamp(1, self.config.max_range.max(1)));
        let mut next = request.from;
        let end = request.from.plus(count);
        if next == end {
            // The highest number there is: nothing lies above it, and no block has it.
            let none = Message::NoBlock { height: next };
            return outbox.send(none.encode()).await.map_err(|_| ());
        }
        while next < end {
            let records = self.read(next, end).await;
            if records.is_empty() {
                // Not there, pruned, in the future, or corrupt: "no block" for each height that is left.
                while next < end {
                    outbox
                        .send(Message::NoBlock { height: next }.encode())
                        .await
                        .map_err(|_| ())?;
                    next = next.next();
                }
                return Ok(());
            }
            for record in records {
                next = record.height.next();
                let message = self.encode(&record, request.count > 0).await;
                outbox
                    .send(self.charge(message, way).await)
                    .await
                    .map_err(|_| ())?;
            }
        }
        Ok(())
    }

    async fn read(&self, from: Height, end: Height) -> Vec<BlockRecord> {
        let served = *self.served.borrow();
        if from < served.base || from > served.height || served.height == Height::ZERO {
            return Vec::new();
        }
        let count = end.above(from).min(served.height.next().above(from));
        let store = self.store.clone();
        let read = move || store.blocks(from, u32::try_from(count).unwrap_or(u32::MAX), READ_BYTES);
        self.offload.io(read).await.unwrap_or_else(|error| {
            warn!(height = %from, %error, "a stored block cannot be served");
            Vec::new()
        })
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

    async fn charge(&self, message: Bytes, way: &Way<'_>) -> Bytes {
        let permits = |most: usize| u32::try_from(message.len().min(most)).unwrap_or(u32::MAX);
        let idle = way.free.available_permits() == way.share;
        let own = way
            .free
            .clone()
            .acquire_many_owned(permits(way.share))
            .await;
        let Ok(own) = own else {
            return message; // the semaphore is never closed
        };
        let shared = if idle && message.len() <= AT_ONCE {
            None
        } else {
            let all = permits(self.budget());
            self.bytes.clone().acquire_many_owned(all).await.ok()
        };
        Bytes::from_owner(Charged {
            bytes: message,
            _own: own,
            _shared: shared,
        })
    }
}
