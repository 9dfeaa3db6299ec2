//! Peers that are refused for what they did, and how long that is remembered.

use std::collections::{BTreeMap, BTreeSet};

use super::config::PoolConfig;
use super::io::Tick;
use blocksync_types::fault::Penalty;
use blocksync_types::ids::{ConnId, PeerId, Source};

/// Record of a peer that is refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
struct Record {
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

/// Records of refused peers. Bounded by `PoolConfig::max_records`: the one that expires first gives
/// way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Bans {
    records: BTreeMap<PeerId, Record>,
    expiries: BTreeSet<(Tick, PeerId)>,
}

impl Bans {
    /// Until when a peer is refused, if it is.
    pub(crate) fn refused_until(&self, peer: PeerId, now: Tick) -> Option<Tick> {
        self.records
            .get(&peer)
            .map(|r| r.until)
            .filter(|until| *until > now)
    }

    /// Whether a peer has failed since it last delivered.
    pub(crate) fn is_struck(&self, peer: PeerId) -> bool {
        self.records.get(&peer).is_some_and(|r| r.strikes > 0)
    }

    /// Whether everything that came over this connection is paid for by a ban.
    pub(crate) fn is_paid(&self, from: Source) -> bool {
        let paid = self.records.get(&from.peer).and_then(|r| r.paid);
        paid.is_some_and(|paid| from.conn <= paid)
    }

    /// Notes why a peer was dropped. Returns until when the peer is refused for it.
    pub(crate) fn punish(
        &mut self,
        peer: PeerId,
        conn: ConnId,
        penalty: Penalty,
        now: Tick,
        config: &PoolConfig,
    ) -> Option<Tick> {
        let mut record = self.records.get(&peer).cloned().unwrap_or_default();
        if now >= record.forget {
            (record.bans, record.strikes) = (0, 0);
        }
        let doubled =
            |time: u64, times: u32, most: u64| time.saturating_mul(1 << times.min(20)).min(most);
        let time = match penalty {
            Penalty::Close => return None,
            Penalty::BackOff => {
                record.strikes += 1;
                doubled(config.back_off, record.strikes - 1, config.back_off_max)
            }
            Penalty::Ban => {
                record.bans += 1;
                record.paid = record.paid.max(Some(conn));
                doubled(config.ban, record.bans - 1, config.ban_max)
            }
        };
        let until = Tick(now.0.saturating_add(time));
        record.until = until;
        // Remembered for longer than it is refused, so that a second time costs more than the
        // first.
        record.forget = Tick(until.0.saturating_add(config.ban_max));
        self.remember(peer, record, config.max_records as usize);
        Some(until)
    }

    /// A block came from this peer: earlier strikes are forgiven.
    pub(crate) fn forgive(&mut self, peer: PeerId) {
        if let Some(record) = self.records.get_mut(&peer) {
            record.strikes = 0;
        }
    }

    fn remember(&mut self, peer: PeerId, record: Record, most: usize) {
        let forget = record.forget;
        self.expiries.insert((forget, peer));
        // Where both are one this would take out what was just put in.
        if let Some(old) = self.records.insert(peer, record)
            && old.forget != forget
        {
            self.expiries.remove(&(old.forget, peer));
        }
        // The next to be forgotten goes: it would not have stayed for long.
        while self.records.len() > most {
            let Some((_, first)) = self.expiries.pop_first() else {
                break;
            };
            self.records.remove(&first);
        }
    }

    /// Panics when an invariant is broken. `most` is the bound on records.
    pub(crate) fn check(&self, most: u32) {
        let expiries = self.records.iter().map(|(peer, r)| (r.forget, *peer));
        let expiries: BTreeSet<_> = expiries.collect();
        assert_eq!(expiries, self.expiries, "bans and their expiries");
        assert!(self.records.len() <= most as usize, "the bound on bans");
    }
}
