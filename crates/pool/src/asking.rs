//! Which height is asked of whom: requests within the window and the byte budget.
//!
//! Missing heights that nobody is asked for are either *wanted* (to be tried) or *unservable*
//! (nobody with room has them). A connection that gains room or range takes what it can from the
//! unservable ones back to wanted, so nothing is looked at twice without a reason.

mod hedge;

use std::collections::BTreeMap;

use super::Pool;
use super::budget::Budget;
use super::config::PoolConfig;
use super::deadlines::Deadlines;
use super::io::{AskId, Effect, Tick};
use super::peer::Peer;
use super::peers::Peers;
use super::requests::Requests;
use super::window::Window;
use blocksync_types::ids::{ConnId, Height};

/// The owners that asking and hedging may touch. Runs, bans and the outcome are out of its reach.
pub(crate) struct Asking<'a, B> {
    config: &'a PoolConfig,
    window: &'a mut Window<B>,
    peers: &'a mut Peers,
    requests: &'a mut Requests,
    budget: &'a mut Budget,
    deadlines: &'a mut Deadlines,
}

/// The one predicate that admits an ask: what is held, on its way and expected must fit. The two
/// lowest unapplied heights are always admitted: the lowest cannot be proven without its successor.
/// Heights that less than half of the peers claim to have may fill no more than a part of the
/// budget: they may be made up, and the others need the rest.
pub(crate) fn admits<B>(
    window: &Window<B>,
    peers: &Peers,
    budget: &Budget,
    height: Height,
) -> bool {
    window.is_lowest_two(height) || has_room(window, peers, budget, height, 0)
}

/// Whether one more block fits, of this height, beside what is held, on its way, owed, and
/// `already` counted on.
pub(crate) fn has_room<B>(
    window: &Window<B>,
    peers: &Peers,
    budget: &Budget,
    height: Height,
    already: u64,
) -> bool {
    let bytes = window.held_bytes().saturating_add(peers.partial_bytes());
    let expected = peers.owed().saturating_add(already);
    let doubtful = height > peers.claimed_by_half();
    budget.has_room(bytes, expected, peers.surplus(), doubtful)
}

/// Whether this height may be asked of a connection, which has given no copy of it that cannot be
/// used.
fn fits<B>(window: &Window<B>, height: Height, id: ConnId, peer: &Peer) -> bool {
    peer.may_be_asked(height) && window.slot(height).is_some_and(|s| !s.refuses(id))
}

impl<B: Clone> Pool<B> {
    /// The owners that asking and hedging may touch.
    pub(super) fn asking(&mut self) -> Asking<'_, B> {
        Asking {
            config: &self.config,
            window: &mut self.window,
            peers: &mut self.peers,
            requests: &mut self.requests,
            budget: &mut self.budget,
            deadlines: &mut self.deadlines,
        }
    }
}

impl<B: Clone> Asking<'_, B> {
    /// Asks for wanted heights, the lowest first, while somebody has room and the budget admits it.
    ///
    /// A height is unservable once for each time that it was opened, given back or brought back,
    /// and brought back once for each unit of room that a connection has gained.
    pub(crate) fn assign(&mut self, now: Tick, out: &mut Vec<Effect<B>>) {
        loop {
            let mut back = BTreeMap::new();
            if !has_room(self.window, self.peers, self.budget, Height::ZERO, 0) {
                // Only the two lowest are admitted. Connections that gained room are
                // remembered until there is budget for more.
                while let Some(height) = self.window.first_unservable()
                    && self.window.is_lowest_two(height)
                {
                    self.window.set_wanted(height);
                }
                self.assign_wanted(&back, now, out);
                return;
            }
            // The unservable ones come first: they are lower than what the window has opened since.
            let window = &mut *self.window;
            self.peers
                .retain_gained(|id, peer| bring_back(window, id, peer, &mut back));
            self.assign_wanted(&back, now, out);
            // Heights that one connection brought back may have gone to a better one. Then it still
            // has room, and may bring back more.
            let may_go_on = self.peers.has_any_gained() && self.peers.is_any_ready();
            if !may_go_on || self.window.first_unservable().is_none() {
                self.peers.forget_gained();
                return;
            }
        }
    }

    /// `back` names for some heights a connection that had them, and room, a moment ago.
    fn assign_wanted(
        &mut self,
        back: &BTreeMap<Height, ConnId>,
        now: Tick,
        out: &mut Vec<Effect<B>>,
    ) {
        self.budget.set_blocked(false);
        while let Some(height) = self.window.first_wanted() {
            if !self.peers.is_any_ready() {
                return;
            }
            if !admits(self.window, self.peers, self.budget, height) {
                self.budget.set_blocked(true);
                return;
            }
            let chosen = self.choose(height, None);
            // `choose` gives up after `TRIES` connections in each order. The one for which this
            // height was brought back may be beyond these.
            match chosen.or_else(|| self.still_fits(*back.get(&height)?, height)) {
                Some(id) => self.ask_from(id, height, now, out),
                None => self.window.set_unservable(height),
            }
        }
    }

    fn still_fits(&self, id: ConnId, height: Height) -> Option<ConnId> {
        let peer = self.peers.get(id).filter(|_| self.peers.is_ready(id))?;
        fits(self.window, height, id, peer).then_some(id)
    }

    /// The connection that would deliver first, of those with room that have the height. Not one
    /// whose copy of it was refused.
    fn choose(&self, height: Height, not: Option<ConnId>) -> Option<ConnId> {
        // On the two lowest heights everything waits: these are no trial for anybody.
        let trial = not.is_none() && !self.window.is_lowest_two(height);
        self.peers.choose(height, trial, |id, peer| {
            Some(id) != not && fits(self.window, height, id, peer)
        })
    }

    /// Asks for `height`, and for the wanted ones right above it when the peer answers ranges.
    fn ask_from(&mut self, id: ConnId, height: Height, now: Tick, out: &mut Vec<Effect<B>>) {
        let Some(peer) = self.peers.get(id) else {
            return;
        };
        let most = peer.heights_in_one_request() as u64;
        let mut count = 1;
        while count < most && self.extends(peer, height.plus(count), count) {
            count += 1;
        }
        self.ask(id, height, count, now, out);
    }

    /// Whether a request of `already` heights may be for this one, too.
    fn extends(&self, peer: &Peer, height: Height, already: u64) -> bool {
        let admitted = has_room(self.window, self.peers, self.budget, height, already)
            || self.window.is_lowest_two(height);
        admitted
            && peer.may_be_asked(height)
            && self
                .window
                .slot(height)
                .is_some_and(|s| s.is_idle() && !s.refuses_any())
    }

    /// Asks for `count` heights from `from` up.
    fn ask(&mut self, id: ConnId, from: Height, count: u64, now: Tick, out: &mut Vec<Effect<B>>) {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let ask = self.requests.open(id, now, from, count);
        let heights = || (0..u64::from(count)).map(|n| from.plus(n));
        let peer = self.peers.get(id);
        let ranged = peer.is_some_and(Peer::answers_ranges);
        // A peer that owes already keeps its deadline: more asks must not give it more time.
        if let Some(peer) = peer.filter(|peer| !peer.is_in_debt()) {
            let time = peer.time_to_answer(self.config.request_timeout);
            let overdue = Tick(now.0.saturating_add(time));
            self.deadlines.set_overdue(id, Some(overdue));
        }
        self.peers.update(id, self.budget.estimate(), |peer| {
            heights().for_each(|height| peer.owe(height, ask));
        });
        for height in heights() {
            self.window.update(height, |slot| slot.open_ask(ask));
        }
        out.push(Effect::Ask {
            ask,
            conn: id,
            from,
            count,
            ranged,
        });
    }

    /// Gives up one open request of a height; its answer is no fault.
    pub(crate) fn let_go(&mut self, ask: AskId, height: Height, out: &mut Vec<Effect<B>>) {
        if self.give_up(ask, height) {
            out.push(Effect::Cancel { ask });
        }
    }

    /// Gives up one height of a request; its answer is no fault. Says whether nothing of the
    /// request is open any more.
    pub(crate) fn give_up(&mut self, ask: AskId, height: Height) -> bool {
        let Some(open) = self.requests.get(ask) else {
            return false;
        };
        let (id, whole) = (open.conn(), open.is_last());
        let in_debt = self.peers.update(id, self.budget.estimate(), |peer| {
            peer.give_up(height);
            peer.is_in_debt()
        });
        // A deadline without a debt would drop a peer that owes nothing.
        if in_debt == Some(false) {
            self.deadlines.set_overdue(id, None);
        }
        self.close(ask, height);
        whole
    }

    /// An open request of one height has ended, however it did.
    pub(crate) fn close(&mut self, ask: AskId, height: Height) {
        self.requests.close_one(ask);
        self.window.update(height, |slot| slot.close_ask(ask));
    }
}

/// Brings back unservable heights that this connection has, as many as it has room for, and notes
/// whose they are. Says whether there were any.
fn bring_back<B>(
    window: &mut Window<B>,
    id: ConnId,
    peer: &Peer,
    back: &mut BTreeMap<Height, ConnId>,
) -> bool {
    // `BTreeSet::range` panics where the range is inverted.
    if peer.base() > peer.height() {
        return false;
    }
    let found: Vec<Height> = window
        .unservable(peer.base(), peer.height())
        .filter(|height| fits(window, *height, id, peer))
        .take(peer.room())
        .collect();
    for height in &found {
        window.set_wanted(*height);
        back.insert(*height, id);
    }
    !found.is_empty()
}
