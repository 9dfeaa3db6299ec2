//! The pool as seen from outside: for status, metrics and tests. Nothing here is read back.

use super::Pool;
use blocksync_types::ids::{ConnId, Height, PeerId};

/// One connection, as the status page shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerView {
    /// The connection.
    pub conn: ConnId,
    /// The peer.
    pub peer: PeerId,
    /// Its lowest height.
    pub base: Height,
    /// Its highest height, as it says.
    pub height: Height,
    /// Heights that it owes us.
    pub owed: usize,
    /// Bytes a second that it delivers while it owes us something; `None` before the first answer.
    pub rate: Option<u64>,
    /// Microseconds to the first answer.
    pub latency: Option<u64>,
}

impl<B: Clone> Pool<B> {
    /// The last applied height; the one below the chain's first before that.
    #[must_use]
    pub fn applied(&self) -> Height {
        self.window.applied()
    }

    /// The last height proven.
    #[must_use]
    pub fn proven(&self) -> Height {
        self.window.proven()
    }

    /// Bytes of blocks held, partial messages and proofs of claims included.
    #[must_use]
    pub fn buffered_bytes(&self) -> u64 {
        self.window
            .held_bytes()
            .saturating_add(self.peers.partial_bytes())
            .saturating_add(self.budget.aside())
    }

    /// Heights asked for and not answered.
    #[must_use]
    pub fn owed(&self) -> u64 {
        self.peers.owed()
    }

    /// Heights with the executor.
    #[must_use]
    pub fn applying(&self) -> u32 {
        self.window.applying()
    }

    /// Whether a run is with the verifier.
    #[must_use]
    pub fn is_verifying(&self) -> bool {
        self.prover.is_busy()
    }

    /// One letter for each height of the window: `.` wanted, `?` asked, `h` held, `v` with the
    /// verifier, `p` proven, `a` with the executor.
    pub fn window(&self) -> impl Iterator<Item = (Height, char)> + '_ {
        let heights = self.window.heights();
        heights.map(|(height, slot)| (height, slot.letter()))
    }

    /// The connections.
    pub fn peers(&self) -> impl Iterator<Item = PeerView> + '_ {
        self.peers.iter().map(|(conn, peer)| PeerView {
            conn,
            peer: peer.id(),
            base: peer.base(),
            height: peer.height(),
            owed: peer.owed().len(),
            rate: peer.rate(),
            latency: peer.latency(),
        })
    }
}
