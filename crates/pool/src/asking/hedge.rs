//! The hedge: the lowest missing height is asked of a second peer when the first one is slow.

use super::{Asking, admits};
use crate::io::{Effect, Tick};
use crate::peer::Peer;
use blocksync_types::ids::{ConnId, Height};

/// An observed latency is waited for this many times before a height is hedged.
const LATENCIES: u64 = 3;

impl<B: Clone> Asking<'_, B> {
    /// The lowest missing height is hedged after a delay taken from observed latency.
    pub(crate) fn arm_hedge(&mut self, last_progress: Tick, now: Tick) {
        let hedge = self.next_hedge(last_progress, now);
        self.deadlines.set_hedge(hedge);
    }

    fn next_hedge(&self, last_progress: Tick, now: Tick) -> Option<(Tick, Height)> {
        let height = self.window.first_missing()?;
        // Counted from the newest request: where the hedge is slow, too, a third peer is looked
        // for.
        let ask = self.requests.get(*self.window.asks(height).last()?)?;
        let peer = self.peers.get(ask.conn());
        let latency = peer.and_then(Peer::latency).unwrap_or(0);
        let delay = latency
            .saturating_mul(LATENCIES)
            .clamp(self.config.hedge_floor, self.config.hedge_ceiling);
        // Where nobody was found a moment ago, nobody is looked for at once.
        let tried = self.deadlines.hedge_tried(height);
        let again = tried.map_or(0, |at| at.0.saturating_add(self.config.hedge_ceiling));
        let at = ask
            .at()
            .0
            .max(last_progress.0)
            .saturating_add(delay)
            .max(again);
        Some((Tick(at.max(now.0.saturating_add(1))), height))
    }

    /// Asks a second peer for a height, if the first one still owes it.
    pub(crate) fn hedge(&mut self, height: Height, now: Tick, out: &mut Vec<Effect<B>>) {
        if !self.window.is_missing(height) {
            return;
        }
        let asks = self.window.asks(height);
        let Some(oldest) = asks.first().copied() else {
            return;
        };
        let hedged = asks.len() > 1;
        let first = self.requests.get(oldest).map(|ask| ask.conn());
        if hedged && !first.is_some_and(|id| self.is_mute(id, height, now)) {
            // Both are at work.
            self.deadlines.set_hedge_tried(now, height);
            return;
        }
        if !self.may_hold_one_more(height) {
            // There is no room for the copy: it would be let go, and asked for again and again.
            self.deadlines.set_hedge_tried(now, height);
            return;
        }
        match self.hedger(height, first, hedged) {
            Some(id) => {
                if hedged {
                    // No more than two requests are open for a height: the mute one gives way.
                    self.let_go(oldest, height, out);
                }
                self.ask(id, height, 1, now, out);
            }
            // Nobody to hedge with: look again later, not at once.
            None => self.deadlines.set_hedge_tried(now, height),
        }
        if let Some(first) = first {
            self.hedge_the_rest(first, height, now, out);
        }
    }

    fn may_hold_one_more(&self, height: Height) -> bool {
        let (held, bytes) = (self.window.held_bytes(), self.budget.estimate());
        let bytes = bytes.min(u64::from(u32::MAX));
        // A missing one of the two lowest is held whatever the budget says.
        self.budget.may_hold(held, bytes) || self.window.is_lowest_two(height)
    }

    /// The connection to hedge a height with that the first one owes. `hedged` says that another
    /// one was asked already.
    fn hedger(&self, height: Height, first: Option<ConnId>, hedged: bool) -> Option<ConnId> {
        let chosen = if hedged {
            None
        } else {
            self.choose(height, first)
        };
        // A peer that was asked in vain already is not asked again in turn: its answer is on the
        // way, or never comes.
        let able = |(id, peer): &(ConnId, &Peer)| {
            Some(*id) != first
                && peer.may_be_asked(height)
                && !self.window.refuses(height, *id)
                && !(hedged && peer.has_abandoned(height))
        };
        chosen.or_else(|| {
            // Nobody has room: the head is worth one more than the limit.
            let able = self.peers.claiming(height).filter(able);
            able.min_by_key(|(id, p)| (p.class(), p.score(self.budget.estimate()), *id))
                .map(|(id, _)| id)
        })
    }

    /// One peer delays the head once, not once for each height that it owes: of a peer that has
    /// said nothing since it was asked, the other heights are asked elsewhere, too, as far as
    /// others have room.
    fn hedge_the_rest(&mut self, of: ConnId, head: Height, now: Tick, out: &mut Vec<Effect<B>>) {
        if !self.is_mute(of, head, now) {
            return;
        }
        let rest = self.peers.update(of, self.budget.estimate(), |peer| {
            // Its place gets worse at once: the next of the lowest heights go to others first.
            peer.strike();
            let owed = peer.owed().range(head.next()..);
            owed.map(|(height, _)| *height).collect::<Vec<_>>()
        });
        for height in rest.into_iter().flatten() {
            let admitted = admits(self.window, self.peers, self.budget, height);
            if !self.peers.is_any_ready() || !admitted {
                return;
            }
            let slot = self.window.slot(height);
            let single = slot.is_some_and(|s| s.is_missing() && s.asks().len() == 1);
            if single && let Some(id) = self.choose(height, Some(of)) {
                self.ask(id, height, 1, now, out);
            }
        }
    }

    /// Whether a connection owes this height, and has answered nothing since it was asked, or
    /// nothing came from it lately.
    fn is_mute(&self, id: ConnId, height: Height, now: Tick) -> bool {
        let Some(peer) = self.peers.get(id) else {
            return false;
        };
        let ask = peer.ask_for(height).and_then(|ask| self.requests.get(ask));
        let is_quiet = peer.is_quiet(self.config.hedge_ceiling, now);
        ask.is_some_and(|ask| is_quiet || peer.last() <= ask.at())
    }
}
