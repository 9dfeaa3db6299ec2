//! State of the service at one moment, for people to look at: peers, window, budget and queues.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};

use super::server::ServeCounters;
use super::stages::Meters;
use super::status::Status;
use super::{Stopped, reactor};
use crate::ids::{Height, PeerId};

/// One peer's connection.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerSnapshot {
    /// Id of the peer.
    pub peer: PeerId,
    /// The peer's address.
    pub address: String,
    /// Its lowest height.
    pub base: Height,
    /// Its highest height, as it says.
    pub height: Height,
    /// Heights that it owes us.
    pub owed: usize,
    /// Bytes a second that it delivers while it owes us something; `None` before the first answer.
    pub rate: Option<u64>,
    /// Microseconds to the first answer; `None` before it.
    pub latency: Option<u64>,
}

/// The service at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Snapshot {
    /// Height of the window's first cell.
    pub first: Height,
    /// One letter for each height of the window: `.` wanted, `?` asked, `h` held, `v` with the
    /// verifier, `p` proven, `a` with the executor.
    pub window: String,
    /// The last height that is proven.
    pub proven: Height,
    /// Heights that are asked for and not answered.
    pub owed: u64,
    /// Bytes of blocks held, partial messages included.
    pub buffered_bytes: u64,
    /// Bytes of blocks that may be held.
    pub budget_bytes: u64,
    /// Connected peers.
    pub peers: Vec<PeerSnapshot>,
}

/// Looks at a running service. Cheap to clone, and not a reason for the service to live.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct View {
    pub(super) status: watch::Receiver<Status>,
    pub(super) meters: Meters,
    pub(super) requests: mpsc::Sender<reactor::Request>,
    pub(super) serving: Arc<ServeCounters>,
}

impl View {
    /// The status, always the latest.
    ///
    /// Let go of a borrowed value at once: the service waits to write the next one while it lives.
    /// Clone it where it is needed across an `await`.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Meters of the stages, and figures of applied blocks.
    #[must_use]
    pub fn meters(&self) -> &Meters {
        &self.meters
    }

    /// Counters of what peers were given.
    #[must_use]
    pub fn serving(&self) -> &Arc<ServeCounters> {
        &self.serving
    }

    /// State of the service now. It is the reactor that answers: one that hangs does not.
    ///
    /// # Errors
    /// When the service has stopped.
    pub async fn snapshot(&self) -> Result<Snapshot, Stopped> {
        let (tell, told) = oneshot::channel();
        let request = reactor::Request::Snapshot(tell);
        self.requests.send(request).await.map_err(|_| Stopped)?;
        told.await.map_err(|_| Stopped)
    }
}
