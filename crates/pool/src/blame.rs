//! Penalties of peers: which connection is dropped, and for which copy.

use super::Pool;
use super::io::{Candidate, Effect, Tick};
use super::peer::Peer;
use blocksync_types::fault::{CloseReason, Fault, Proof};
use blocksync_types::ids::{BlockId, ConnId, Height, PeerId, Source};

impl<B: Clone> Pool<B> {
    /// Closes a connection; what the peer gave stays.
    pub(super) fn drop_conn(
        &mut self,
        id: ConnId,
        reason: impl Into<CloseReason>,
        now: Tick,
        out: &mut Vec<Effect<B>>,
    ) {
        if let Some(peer) = self.peers.get(id).map(Peer::id) {
            self.close(id, peer, reason.into(), now, out);
        }
    }

    fn close(
        &mut self,
        conn: ConnId,
        peer: PeerId,
        reason: CloseReason,
        now: Tick,
        out: &mut Vec<Effect<B>>,
    ) {
        self.release(conn);
        let ban_until = self
            .bans
            .punish(peer, conn, reason.penalty(), now, &self.config);
        out.push(Effect::Drop {
            conn,
            peer,
            reason,
            ban_until,
        });
    }

    /// Punishes the supplier of a copy that is proven wrong, whether or not the connection is still
    /// the same. All copies up to the end of a connection cost one ban: those found out later are
    /// already penalised.
    pub(super) fn convict(
        &mut self,
        from: Source,
        fault: Fault,
        now: Tick,
        out: &mut Vec<Effect<B>>,
    ) {
        if self.bans.is_paid(from) {
            return;
        }
        // A peer that hung up before its verdict is named and refused as if it were here: the
        // effect then bears the connection that is over.
        let conn = self.peers.conn_of(from.peer).unwrap_or(from.conn);
        self.close(conn, from.peer, fault.into(), now, out);
    }

    /// Judges a copy of a height whose id is certified: another header hash is proof; the same
    /// header hash with another part set has to be looked into.
    pub(super) fn judge_rival(
        &mut self,
        copy: Candidate<B>,
        certified: BlockId,
        now: Tick,
        out: &mut Vec<Effect<B>>,
    ) {
        // Its supplier is not asked for this height again, whatever a look into the copy finds.
        let height = copy.meta.height;
        self.window
            .update(height, |slot| slot.refuse(copy.from.conn));
        if copy.meta.id.hash == certified.hash {
            self.examine(copy, certified, out);
            return;
        }
        let proof = Proof(format!(
            "block {height}: certified {certified}, found {}",
            copy.meta.id
        ));
        self.convict(copy.from, Fault::BadBlock(proof), now, out);
    }

    /// A copy is the fault of its supplier alone; it is taken out wherever it stands.
    pub(super) fn convict_copy(
        &mut self,
        height: Height,
        from: Source,
        fault: Fault,
        now: Tick,
        out: &mut Vec<Effect<B>>,
    ) {
        self.window.update(height, |slot| {
            slot.refuse(from.conn);
            slot.remove_copies(|c| c.from == from);
        });
        self.convict(from, fault, now, out);
    }
}
