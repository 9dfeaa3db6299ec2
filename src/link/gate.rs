//! The way into a link: bounded by messages, as every link is, and by bytes.

use std::collections::VecDeque;

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::link::Inbound;

/// Bytes that may wait in a link's inbox; a single message may be larger. The number of messages
/// alone would be no bound: 64 of them may have 100 MB each.
pub const INBOX_BYTES: usize = 4 << 20;

/// Sends to the service and knows how much waits there. The only sender of its channel.
#[derive(Debug)]
pub struct Gate {
    to: mpsc::Sender<Inbound>,
    /// Sizes of what was sent and may still wait, oldest first.
    sizes: VecDeque<usize>,
    bytes: usize,
}

/// The service has dropped its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone;

impl Gate {
    /// Around the only sender.
    #[must_use]
    pub fn new(to: mpsc::Sender<Inbound>) -> Self {
        Gate {
            to,
            sizes: VecDeque::new(),
            bytes: 0,
        }
    }

    /// There is room for a message now.
    pub fn is_open(&mut self) -> bool {
        let waiting = self.to.max_capacity() - self.to.capacity();
        // The channel is first in, first out, so what has left it is at the front.
        while self.sizes.len() > waiting {
            self.bytes -= self.sizes.pop_front().unwrap_or(0);
        }
        // An empty inbox takes a message of any size: it could never get in otherwise.
        waiting == 0 || (waiting < self.to.max_capacity() && self.bytes < INBOX_BYTES)
    }

    /// Waits until there is room for a message.
    ///
    /// Cancel safety: cancel safe.
    ///
    /// # Errors
    /// When the service has dropped its end.
    pub async fn opened(&mut self) -> Result<(), Gone> {
        while !self.is_open() {
            // The newest messages that may stay: the inbox is open again once the others are out.
            let mut sum = 0;
            let stay = self.sizes.iter().rev().take_while(|n| {
                sum += **n;
                sum < INBOX_BYTES
            });
            let stay = stay.count().min(self.to.max_capacity() - 1);
            // Reserving this many slots and giving them back is a way to wait until
            // at most `stay` are taken.
            let room = self.to.reserve_many(self.to.max_capacity() - stay).await;
            drop(room.map_err(|_| Gone)?);
        }
        // An open gate did not wait, so it has not noticed a service that has gone.
        if self.to.is_closed() {
            Err(Gone)
        } else {
            Ok(())
        }
    }

    /// Hands on a message, waiting for room.
    ///
    /// Cancel safety: not cancel safe; the message is lost.
    ///
    /// # Errors
    /// When the service has dropped its end.
    pub async fn send(&mut self, message: Bytes) -> Result<(), Gone> {
        self.opened().await?;
        self.bytes += message.len();
        self.sizes.push_back(message.len());
        self.to
            .send(Inbound::Message(message))
            .await
            .map_err(|_| Gone)
    }

    /// Reports how much of a message has arrived, if there is room; the next report covers a lost
    /// one.
    pub fn progress(&mut self, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        // Dropping a report loses nothing. Waiting here would stop the reading that it reports on.
        if self.is_open() && self.to.try_send(Inbound::Progress(bytes)).is_ok() {
            // Counted as a message without bytes: `sizes` must match the channel entry by entry.
            self.sizes.push_back(0);
        }
    }

    /// Reports that the peer is left unread for now, if there is room. Without room the service has
    /// messages to work on and judges nobody's silence.
    pub fn unread(&mut self) {
        if self.is_open() && self.to.try_send(Inbound::Unread).is_ok() {
            self.sizes.push_back(0);
        }
    }

    /// Waits until the service has dropped its end.
    ///
    /// Cancel safety: cancel safe.
    pub async fn gone(&self) {
        self.to.closed().await;
    }

    /// Sends the last report. It is lost if the service does not take it within a second.
    pub async fn close(self, last: Inbound) {
        let send = self.to.send(last);
        // The link ends in any case, and its end says that the peer has gone;
        // only the reason may be lost.
        let _ = tokio::time::timeout(std::time::Duration::from_secs(1), send).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn bytes_and_messages_are_bounded_and_room_comes_back() {
        let (to, mut from) = mpsc::channel(64);
        let mut gate = Gate::new(to);
        for _ in 0..3 {
            gate.send(vec![0; INBOX_BYTES / 2].into())
                .await
                .unwrap_or(());
            if !gate.is_open() {
                break;
            }
        }
        assert_eq!(from.len(), 2);
        assert!(!gate.is_open());
        let task = tokio::spawn(async move {
            gate.opened().await.unwrap();
            gate
        });
        from.recv().await.unwrap();
        let mut gate = task.await.unwrap();
        for _ in 0..63 {
            gate.progress(1);
        }
        assert!(!gate.is_open());
        drop(from);
        assert_eq!(gate.opened().await, Err(Gone));
    }

    #[tokio::test]
    async fn a_message_above_the_bound_passes_alone() {
        let (to, mut from) = mpsc::channel(64);
        let mut gate = Gate::new(to);
        gate.send(vec![0; 3 * INBOX_BYTES].into()).await.unwrap();
        assert!(!gate.is_open());
        from.recv().await.unwrap();
        assert!(gate.is_open());
    }
}
