//! Penalties of peers: dropped connections, bans that double, and how long they are remembered.

use super::Pool;
use super::io::{Candidate, Effect, Tick};
use blocksync_types::fault::{Fault, Penalty, Proof};
use blocksync_types::ids::{BlockId, ConnId, Height, PeerId, Source};

/// Record of a peer that is refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Record {
    /// Bans so far.
    bans: u32,
    /// The newest connection that a ban was for: what came over it, or over an older one, is paid
    /// for.
    paid: Option<ConnId>,
    /// Timeouts and breaches of the transport's rules since it last delivered.
    strikes: u32,
    /// Refused until then.
    until: Tick,
    /// Earlier faults count until then; later than `until`, so that a second ban is longer than the
    /// first.
    forget: Tick,
}

impl Record {
    pub(super) fn is_struck(&self) -> bool {
        self.strikes > 0
    }
}

impl<B: Clone> Pool<B> {
    /// Until when a peer is refused, if it is.
    pub(super) fn refused_until(&self, peer: PeerId, now: Tick) -> Option<Tick> {
        self.records
            .get(&peer)
            .map(|r| r.until)
            .filter(|until| *until > now)
    }

    /// Closes a connection for a fault; what the peer gave stays.
    pub(super) fn drop_conn(
        &mut self,
        id: ConnId,
        fault: Fault,
        now: Tick,
        out: &mut Vec<Effect<B>>,
    ) {
        let Some(peer) = self.conns.get(&id).map(|c| c.peer) else {
            return;
        };
        self.release(id);
        let ban_until = self.punish(peer, id, &fault, now);
        out.push(Effect::Drop {
            conn: id,
            peer,
            fault,
            ban_until,
        });
    }

    /// Punishes the supplier of a copy that is proven wrong, whether or not the connection is still
    /// the same. Whatever it gave up to the end of a connection costs one ban: the copies that are
    /// found out after it are paid for.
    pub(super) fn convict(
        &mut self,
        from: Source,
        fault: Fault,
        now: Tick,
        out: &mut Vec<Effect<B>>,
    ) {
        let paid = self.records.get(&from.peer).and_then(|r| r.paid);
        if paid.is_some_and(|paid| from.conn <= paid) {
            return;
        }
        match self.by_peer.get(&from.peer).copied() {
            Some(id) => self.drop_conn(id, fault, now, out),
            None => {
                self.punish(from.peer, from.conn, &fault, now);
            }
        }
    }

    fn punish(&mut self, peer: PeerId, conn: ConnId, fault: &Fault, now: Tick) -> Option<Tick> {
        let mut record = self.records.get(&peer).cloned().unwrap_or_default();
        if now >= record.forget {
            (record.bans, record.strikes) = (0, 0);
        }
        let doubled =
            |time: u64, times: u32, most: u64| time.saturating_mul(1 << times.min(20)).min(most);
        let time = match fault.penalty() {
            Penalty::Close => return None,
            Penalty::BackOff => {
                record.strikes += 1;
                let before = record.strikes - 1;
                doubled(self.config.back_off, before, self.config.back_off_max)
            }
            Penalty::Ban => {
                record.bans += 1;
                record.paid = record.paid.max(Some(conn));
                doubled(self.config.ban, record.bans - 1, self.config.ban_max)
            }
        };
        let until = Tick(now.0.saturating_add(time));
        record.until = until;
        // Remembered for longer than it is refused, so that a second time costs more than the
        // first.
        record.forget = Tick(until.0.saturating_add(self.config.ban_max));
        self.remember(peer, record);
        Some(until)
    }

    /// A block came from this peer: earlier strikes are forgiven.
    pub(super) fn forgive(&mut self, peer: PeerId) {
        if let Some(record) = self.records.get_mut(&peer) {
            record.strikes = 0;
        }
    }

    fn remember(&mut self, peer: PeerId, record: Record) {
        self.expiries.insert((record.forget, peer));
        if let Some(old) = self.records.insert(peer, record.clone())
            && old.forget != record.forget
        {
            self.expiries.remove(&(old.forget, peer));
        }
        while self.records.len() > self.config.max_records as usize {
            let Some((_, first)) = self.expiries.pop_first() else {
                break;
            };
            self.records.remove(&first);
        }
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
        let height = copy.meta.height;
        if let Some(slot) = self.slot_mut(height) {
            slot.refuse(copy.from.conn);
        }
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
        if let Some(slot) = self.slot_mut(height) {
            slot.refuse(from.conn);
            let gone = slot.remove_copies(|c| c.from == from);
            self.held_bytes -= gone.iter().map(|c| u64::from(c.meta.bytes)).sum::<u64>();
            self.note_missing(height);
        }
        self.convict(from, fault, now, out);
    }
}
