//! Invariants that concern more than one owner. Each owner checks its own.

use std::collections::BTreeMap;

use super::Pool;
use super::asking::admits;
use super::io::{AskId, Reading};
use super::slot::{Slot, Stage};

impl<B: Clone> Pool<B> {
    /// Panics when an invariant is broken. Tests call it after every step; large simulations sample
    /// it.
    ///
    /// # Panics
    /// When an invariant is broken, which is a bug in the pool.
    pub fn check(&self) {
        self.window.check(self.config.window.max(2));
        self.peers.check();
        self.budget.check();
        self.bans.check(self.config.max_records);
        self.claim_proofs.check(|id| self.peers.contains(id));
        self.tip.check(self.peers.len());
        let owing = self.peers.iter().map(|(id, peer)| (id, peer.is_in_debt()));
        self.deadlines.check(owing);
        let verifying = self.window.heights();
        self.prover
            .check(verifying.filter_map(|(height, slot)| match slot.stage() {
                Stage::Verifying(run, _) => Some((height, *run)),
                _ => None,
            }));
        self.check_asks();
        if self.tip.fatal().is_none() {
            self.check_work();
            self.check_reach();
            let waits = *self.budget.reading() != Reading::All && !self.moves_unread();
            assert!(!waits, "nobody is read who may have what is waited for");
        }
    }

    /// Requests, what the connections owe, and the slots say the same.
    fn check_asks(&self) {
        let mut open: BTreeMap<AskId, u32> = BTreeMap::new();
        for (id, peer) in self.peers.iter() {
            for (height, ask) in peer.owed() {
                *open.entry(*ask).or_default() += 1;
                assert_eq!(
                    self.requests.get(*ask).map(|a| a.conn()),
                    Some(id),
                    "{height}: owed by another connection"
                );
                assert!(
                    self.window.asks(*height).contains(ask),
                    "{height}: owed, but not in its slot"
                );
            }
        }
        self.requests.check(&open);
        for (height, slot) in self.window.heights() {
            for ask in slot.asks() {
                let peer = self
                    .requests
                    .get(*ask)
                    .and_then(|a| self.peers.get(a.conn()));
                assert_eq!(
                    peer.and_then(|p| p.ask_for(height)),
                    Some(*ask),
                    "{height}: asked, but not owed"
                );
            }
        }
    }

    /// Nothing that may be closed is held because of a claim that has ended.
    fn check_reach(&self) {
        let (reach, last) = (self.reach(), self.window.end().prev());
        if self.peers.highest_claim() <= reach || last <= reach || self.tip.is_paused() {
            return;
        }
        let closes = self.window.slot(last).is_some_and(Slot::may_close);
        assert!(
            !closes,
            "{last}: open above {reach} for claims that have ended"
        );
    }

    /// No wanted height is left that somebody with room could serve within the budget.
    fn check_work(&self) {
        for (height, slot) in self.window.heights() {
            if !slot.is_idle() || !admits(&self.window, &self.peers, &self.budget, height) {
                continue;
            }
            let idle = self.peers.iter().find(|(id, peer)| {
                peer.room() > 0 && peer.may_be_asked(height) && !slot.refuses(*id)
            });
            let idle = idle.map(|(id, _)| id);
            // The budget is blocked by a lower height first: those above wait for it.
            assert!(
                idle.is_none() || self.budget.is_blocked(),
                "{height} could be asked of {idle:?}"
            );
        }
    }
}
