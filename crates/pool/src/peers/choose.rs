//! The search for a connection that may be asked for a height.

use super::{Peers, TRIES};
use crate::peer::{Class, Peer, Place};
use blocksync_types::ids::{ConnId, Height};

/// Fresh connections looked at for a trial.
const FRESH_TRIES: usize = 8;

/// The lowest place of a class.
const fn first(class: Class) -> (Place, ConnId) {
    ((class, 0), ConnId(0))
}

impl Peers {
    /// Whether anybody has room.
    pub(crate) fn is_any_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Whether this connection has room.
    pub(crate) fn is_ready(&self, id: ConnId) -> bool {
        self.entries
            .get(&id)
            .is_some_and(|entry| entry.keys.place.is_some())
    }

    /// Whether anybody may have something for unservable heights.
    pub(crate) fn has_any_gained(&self) -> bool {
        !self.gained.is_empty()
    }

    /// A connection may have something for unservable heights.
    pub(crate) fn note_gained(&mut self, id: ConnId) {
        self.gained.insert(id);
    }

    /// Keeps those that may have something for unservable heights of which `keep` says so.
    pub(crate) fn retain_gained(&mut self, mut keep: impl FnMut(ConnId, &Peer) -> bool) {
        let entries = &self.entries;
        let mut still = |id: &ConnId| entries.get(id).is_some_and(|entry| keep(*id, &entry.peer));
        self.gained.retain(|id| still(id));
    }

    /// Nobody has anything more for unservable heights.
    pub(crate) fn forget_gained(&mut self) {
        self.gained.clear();
    }

    /// The connection that would deliver first, of those with room that `fits` admits for a height.
    ///
    /// With `trial`, a fresh connection is tried early, if it owes nothing. Where many with room
    /// claim too little, those that claim enough are found by their claim; those whose base is
    /// above us, last, by their base.
    pub(crate) fn choose(
        &self,
        height: Height,
        trial: bool,
        fits: impl Fn(ConnId, &Peer) -> bool,
    ) -> Option<ConnId> {
        let fits = |id: &ConnId| self.get(*id).is_some_and(|peer| fits(*id, peer));
        let place = |id: &ConnId| self.entries.get(id).and_then(|entry| entry.keys.place);
        let fresh = || {
            let idle = |id: &ConnId| self.get(*id).is_some_and(|peer| !peer.owes());
            let fresh = self.ready.range(first(Class::Fresh)..first(Class::Struck));
            let mut fresh = fresh.take(FRESH_TRIES).map(|(_, id)| *id);
            fresh.find(|id| idle(id) && fits(id))
        };
        let best = || {
            let best = self.ready.range(..first(Class::Lacking));
            best.take(TRIES).map(|(_, id)| *id).find(fits)
        };
        let claiming_enough = || {
            let claim = self.ready_by_claim.range((height, ConnId(0))..);
            let able = claim.take(TRIES).map(|(_, id)| *id).filter(fits);
            able.min_by_key(|id| (place(id), *id))
        };
        let lacking = || {
            let lacking = first(Class::Lacking)..first(Class::Later);
            let lacking = self.ready.range(lacking).take(TRIES);
            lacking.map(|(_, id)| *id).find(fits)
        };
        let above_us = || {
            let able = self.based_up_to(height).filter(fits);
            let able = able.filter_map(|id| Some((place(&id)?, id)));
            able.min().map(|(_, id)| id)
        };
        // From the cheapest search to the widest; each is bounded by its own number of tries.
        trial
            .then(fresh)
            .flatten()
            .or_else(best)
            .or_else(claiming_enough)
            .or_else(lacking)
            .or_else(above_us)
    }

    /// Connections whose base is above us and not above this height, `TRIES` at most.
    fn based_up_to(&self, height: Height) -> impl Iterator<Item = ConnId> {
        let later = self.above_us.range(..=(height, ConnId(u64::MAX)));
        later.take(TRIES).map(|(_, id)| *id)
    }

    /// Connections that may have a height from `next` up: of those with room, then of all, by their
    /// claims; then the lowest bases above us. No more than `TRIES` of each; one may come twice,
    /// and may turn out not to have it.
    pub(crate) fn claiming(&self, height: Height) -> impl Iterator<Item = (ConnId, &Peer)> {
        let ready = self.ready_by_claim.range((height, ConnId(0))..);
        let ready = ready.map(|(_, id)| *id).take(TRIES);
        // The highest claims first: these are the least likely to be at their end.
        let all = self.with_claim_from(height).rev().take(TRIES);
        let ids = ready.chain(all).chain(self.based_up_to(height));
        ids.filter_map(|id| Some((id, self.get(id)?)))
    }
}
