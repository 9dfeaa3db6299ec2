//! `plain://`: length-prefixed messages over TCP or whatever a runtime hands us (`design.md` 8). No
//! authentication: for trusted links, tests, and streams that have been authenticated by others.

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinHandle;

pub use super::addr::{accepted_id, dialed_id};
use super::budget::Budget;
use super::counters::Counters;
use super::drive::{Carrier, ConnError, Framing, MAX_MESSAGE, Timers, blocksync_channel, drive};
use super::stream::{StreamReader, StreamWriter};
use crate::ids::PeerId;
use crate::link::{Link, LinkEnd};

/// Plain framing with the protocol's largest message, no rate limits, counters of its own, and the
/// memory for unfinished messages that all such streams of the process share.
#[must_use]
pub fn carrier() -> Carrier {
    Carrier {
        framing: Framing::Frames { marked: false },
        channels: vec![blocksync_channel(MAX_MESSAGE)],
        send_rate: 0,
        recv_rate: 0,
        timers: Timers::default(),
        counters: Arc::new(Counters::default()),
        budget: Budget::of_process(),
        usage: Arc::default(),
    }
}

/// A link over a stream that speaks length-prefixed messages: both of its halves run in tasks of
/// their own. The handle gives the reason of the end; the link's token ends it.
///
/// Must be called within a tokio runtime.
pub fn link<S>(stream: S, peer: PeerId, address: impl Into<String>) -> (Link, JoinHandle<ConnError>)
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (mut link, end) = Link::pair(peer, address);
    link.extended = true;
    let (reader, writer) = tokio::io::split(stream);
    (link, tokio::spawn(run(reader, writer, carrier(), end)))
}

/// Drives two halves of a stream until the connection ends.
///
/// Cancel safety: dropping the future ends the connection.
pub async fn run<R, W>(reader: R, writer: W, carrier: Carrier, end: LinkEnd) -> ConnError
where
    R: AsyncRead + Unpin + Send + 'static,
    W: AsyncWrite + Unpin + Send + 'static,
{
    let (reader, writer) = (StreamReader::new(reader), StreamWriter::new(writer));
    drive(reader, writer, carrier, end, None).await
}
