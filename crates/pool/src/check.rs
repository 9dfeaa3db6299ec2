//! Invariants, computed afresh from the slots and connections.

use std::collections::{BTreeMap, BTreeSet};

use super::Pool;
use super::io::Reading;
use super::slot::{MAX_COPIES, Stage};
use blocksync_types::ids::{ConnId, Height};

impl<B: Clone> Pool<B> {
    /// Panics when an invariant is broken. Tests call it after every step; large simulations sample
    /// it.
    ///
    /// # Panics
    /// When an invariant is broken, which is a bug in the pool.
    pub fn check(&self) {
        self.check_slots();
        self.check_asks();
        self.check_sets();
        self.check_order();
        self.check_claims();
        if self.fatal.is_none() {
            self.check_work();
            let waits = self.reading != Reading::All && !self.moves_unread();
            assert!(!waits, "nobody is read who may have what is waited for");
        }
    }

    fn heights(&self) -> impl Iterator<Item = (Height, &super::Slot<B>)> {
        let first = self.next();
        self.slots
            .iter()
            .enumerate()
            .map(move |(n, slot)| (first.plus(n as u64), slot))
    }

    fn check_slots(&self) {
        let (mut held, mut applying) = (0u64, 0u32);
        for (height, slot) in self.heights() {
            assert!(
                slot.copies().len() <= MAX_COPIES,
                "{height}: more copies than may stand side by side"
            );
            assert!(
                slot.asks.len() <= 2,
                "{height}: more than a first request and a hedge"
            );
            assert!(
                slot.asks.is_empty() || slot.is_missing(),
                "{height}: asked for, though a copy is held"
            );
            if let Stage::Held(copies) | Stage::Verifying(_, copies) = &slot.stage {
                assert!(!copies.is_empty(), "{height}: held without a copy");
            }
            if let Stage::Verifying(run, _) = &slot.stage {
                assert_eq!(
                    Some(*run),
                    self.run.as_ref().map(|r| r.id),
                    "{height}: with a run that is over"
                );
            }
            for copy in slot.copies() {
                assert_eq!(copy.meta.height, height, "a copy in another height's slot");
                held += u64::from(copy.meta.bytes);
            }
            applying += u32::from(matches!(slot.stage, Stage::Applying(_)));
        }
        assert_eq!(held, self.held_bytes, "bytes held");
        assert_eq!(applying, self.applying, "heights with the executor");
        let partial: u64 = self.conns.values().map(|c| u64::from(c.partial)).sum();
        assert_eq!(partial, self.partial_bytes, "bytes of partial messages");
        assert!(
            self.slots.len() <= self.config.window.max(2) as usize,
            "the window's bound"
        );
    }

    fn check_asks(&self) {
        let mut open: BTreeMap<_, u32> = BTreeMap::new();
        let mut owed = 0;
        for (id, conn) in &self.conns {
            for (height, ask) in &conn.owed {
                *open.entry(*ask).or_default() += 1;
                owed += 1;
                assert_eq!(
                    self.asks.get(ask).map(|a| a.conn),
                    Some(*id),
                    "{height}: owed by another connection"
                );
                let slot = self
                    .slot(*height)
                    .expect("an open request outside the window");
                assert!(
                    slot.asks.contains(ask),
                    "{height}: owed, but not in its slot"
                );
            }
            assert_eq!(
                conn.overdue.is_some(),
                !conn.owed.is_empty(),
                "a deadline exactly while something is owed"
            );
        }
        assert_eq!(owed, self.owed, "heights owed");
        assert_eq!(
            open.len(),
            self.asks.len(),
            "requests without anything owed"
        );
        for (ask, n) in open {
            assert_eq!(self.asks[&ask].open, n, "open heights of a request");
        }
        for (height, slot) in self.heights() {
            for ask in &slot.asks {
                let conn = self
                    .conns
                    .get(&self.asks[ask].conn)
                    .expect("asked of a connection that is gone");
                assert_eq!(
                    conn.owed.get(&height),
                    Some(ask),
                    "{height}: asked, but not owed"
                );
            }
        }
    }

    fn check_sets(&self) {
        for (height, slot) in self.heights() {
            assert_eq!(
                self.missing.contains(&height),
                slot.is_missing(),
                "{height}: among the missing"
            );
            let idle = slot.is_missing() && slot.asks.is_empty();
            let (wanted, parked) = (self.wanted.contains(&height), self.parked.contains(&height));
            assert!(!(wanted && parked), "{height}: both wanted and parked");
            assert_eq!(
                wanted || parked,
                idle,
                "{height}: wanted or parked exactly while nobody is asked"
            );
        }
        let inside = |h: &Height| self.slot(*h).is_some();
        assert!(
            self.missing
                .iter()
                .chain(&self.wanted)
                .chain(&self.parked)
                .all(inside),
            "outside the window"
        );
        for (id, conn) in &self.conns {
            assert_eq!(
                conn.place.is_some(),
                conn.room(&self.config) > 0,
                "{id}: among those with room"
            );
            assert_eq!(
                conn.place.is_some_and(|p| self.ready.contains(&(p, *id))),
                conn.place.is_some()
            );
        }
        assert_eq!(
            self.ready.len(),
            self.conns.values().filter(|c| c.place.is_some()).count()
        );
        let roomy = |(id, c): (&ConnId, &super::Conn)| {
            let whole = c.place.is_some() && c.above_us.is_none() && c.is_whole();
            whole.then_some((c.height, *id))
        };
        let roomy: BTreeSet<_> = self.conns.iter().filter_map(roomy).collect();
        assert_eq!(roomy, self.roomy, "those with room, by claim");
        let rounds: BTreeSet<_> = self.conns.iter().map(|(id, c)| (c.round, *id)).collect();
        assert_eq!(rounds, self.rounds, "status rounds");
        assert!(
            self.gained.iter().all(|id| self.conns.contains_key(id)),
            "gone, but said to have gained"
        );
        assert_eq!(
            self.records.len(),
            self.expiries.len(),
            "bans and their expiries"
        );
        assert!(
            self.records.len() <= self.config.max_records as usize,
            "the bound on bans"
        );
        assert!(
            self.by_peer.len() == self.conns.len(),
            "one connection for each peer"
        );
    }

    /// Applying, then proven, then the rest.
    fn check_order(&self) {
        let mut last = 0;
        for (height, slot) in self.heights() {
            let rank = match slot.stage {
                Stage::Applying(_) => 0,
                Stage::Verified(_) => 1,
                _ => 2,
            };
            assert!(rank >= last, "{height}: stages out of order");
            last = rank;
            assert_eq!(
                slot.is_proven(),
                height <= self.proven,
                "{height}: the frontier is at {}",
                self.proven
            );
        }
        assert!(self.proven >= self.applied);
    }

    fn check_claims(&self) {
        let counted = self
            .conns
            .iter()
            .filter_map(|(id, c)| Some((c.claim.counted()?, *id)));
        assert_eq!(counted.collect::<BTreeSet<_>>(), self.counted, "claims");
        let doubted = self
            .conns
            .iter()
            .filter_map(|(id, c)| Some((c.claim.listed()?, *id)));
        assert_eq!(
            doubted.collect::<BTreeSet<_>>(),
            self.doubted,
            "doubted claims"
        );
        let mut faces: BTreeMap<Height, u32> = BTreeMap::new();
        for conn in self.conns.values() {
            if let Some(face) = conn.face {
                *faces.entry(face).or_default() += 1;
            }
        }
        for conn in self.conns.values() {
            let counts = conn.has_status && conn.above_us.is_none() && conn.unfit.is_none();
            let counts = counts && !conn.discredited && !conn.claim.is_doubted();
            assert_eq!(
                conn.claim.counted(),
                counts.then_some(conn.height),
                "a claim that counts"
            );
        }
        assert_eq!(faces, self.faces, "claims at their word");
        let conns = || self.conns.iter();
        let tall = conns().filter_map(|(id, c)| c.tall.map(|(h, own)| (h, own, *id)));
        assert_eq!(tall.collect::<BTreeSet<_>>(), self.tall, "claims by height");
        let above_us = conns().filter_map(|(id, c)| c.above_us.map(|h| (h, *id)));
        assert_eq!(
            above_us.collect::<BTreeSet<_>>(),
            self.above_us,
            "bases above us"
        );
        for conn in self.conns.values().filter(|c| c.has_status) {
            assert!(
                conn.tall.is_some() != conn.above_us.is_some() || conn.unfit.is_some(),
                "either at hand or above us"
            );
        }
        let statuses = self.conns.values().filter(|c| c.has_status).count();
        assert_eq!(statuses, self.statuses as usize, "statuses");
    }

    /// No wanted height is left that somebody with room could serve within the budget.
    fn check_work(&self) {
        for (height, slot) in self.heights() {
            let idle = slot.is_missing() && slot.asks.is_empty();
            if !idle || !self.admits(height) {
                continue;
            }
            let idle = |(id, c): &(&ConnId, &super::Conn)| {
                c.room(&self.config) > 0 && c.may_be_asked(height) && !slot.refused.contains(id)
            };
            let idle = self.conns.iter().find(idle).map(|(id, _)| *id);
            // The budget is blocked by a lower height first: those above wait for it.
            assert!(
                idle.is_none() || self.budget_blocked,
                "{height} could be asked of {idle:?}"
            );
        }
    }
}
