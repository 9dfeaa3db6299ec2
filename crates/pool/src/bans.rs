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

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: PeerId = PeerId([1; 20]);

    fn config() -> PoolConfig {
        PoolConfig {
            back_off: 10,
            back_off_max: 35,
            ban: 100,
            ban_max: 350,
            ..PoolConfig::default()
        }
    }

    /// The time for which a peer is refused that fails again as soon as it may come back.
    fn times(bans: &mut Bans, now: &mut u64, penalty: Penalty, n: usize) -> Vec<u64> {
        let punish = |_| {
            let until = bans.punish(PEER, ConnId(1), penalty, Tick(*now), &config());
            let until = until.expect("it is refused").0;
            bans.check(10);
            until - std::mem::replace(now, until)
        };
        (0..n).map(punish).collect()
    }

    #[test]
    fn each_time_is_twice_as_long_up_to_the_longest() {
        let (mut bans, mut now) = (Bans::default(), 5);
        let off = times(&mut bans, &mut now, Penalty::BackOff, 4);
        assert_eq!(off, [10, 20, 35, 35]);
        assert_eq!(
            times(&mut bans, &mut now, Penalty::Ban, 4),
            [100, 200, 350, 350]
        );
        // A block forgives what was no lie.
        assert!(bans.is_struck(PEER));
        bans.forgive(PEER);
        assert!(!bans.is_struck(PEER));
        assert_eq!(times(&mut bans, &mut now, Penalty::BackOff, 1), [10]);
        assert_eq!(times(&mut bans, &mut now, Penalty::Ban, 1), [350]);
        let close = bans.punish(PEER, ConnId(1), Penalty::Close, Tick(now), &config());
        assert_eq!(close, None);
    }

    #[test]
    fn a_ban_is_remembered_for_longer_than_it_lasts() {
        for (after, time) in [(349, 200), (350, 100)] {
            let (mut bans, mut now) = (Bans::default(), 0);
            times(&mut bans, &mut now, Penalty::Ban, 1);
            assert_eq!(bans.refused_until(PEER, Tick(now - 1)), Some(Tick(now)));
            assert_eq!(bans.refused_until(PEER, Tick(now)), None);
            now += after;
            let again = times(&mut bans, &mut now, Penalty::Ban, 1);
            assert_eq!(again, [time], "{after} after the first one's end");
        }
    }

    #[test]
    fn a_ban_pays_for_its_connection_and_the_older_ones() {
        let mut bans = Bans::default();
        let source = |conn| Source {
            peer: PEER,
            conn: ConnId(conn),
        };
        bans.punish(PEER, ConnId(5), Penalty::BackOff, Tick(0), &config());
        assert!(!bans.is_paid(source(5)), "a back-off pays for no lie");
        for conn in [5, 3] {
            bans.punish(PEER, ConnId(conn), Penalty::Ban, Tick(0), &config());
            let paid = [4, 5, 6].map(|conn| bans.is_paid(source(conn)));
            assert_eq!(paid, [true, true, false]);
        }
    }

    #[test]
    fn the_record_that_is_forgotten_first_gives_way() {
        let mut bans = Bans::default();
        let config = PoolConfig {
            max_records: 2,
            ..config()
        };
        for (n, penalty) in [(1, Penalty::Ban), (2, Penalty::BackOff), (3, Penalty::Ban)] {
            bans.punish(PeerId([n; 20]), ConnId(1), penalty, Tick(0), &config);
            bans.check(2);
        }
        let refused = [1, 2, 3].map(|n| bans.refused_until(PeerId([n; 20]), Tick(0)).is_some());
        assert_eq!(refused, [true, false, true]);
        assert!(!bans.is_struck(PeerId([1; 20])), "a ban is no strike");
    }
}
