//! Which sockets are read: all of them, but while more is held than the byte budget.

use std::collections::BTreeSet;

use super::Pool;
use super::io::{Effect, Reading, Tick};
use super::slot::Slot;
use blocksync_types::ids::ConnId;

impl<B: Clone> Pool<B> {
    /// Over budget every socket is left unread but those that owe the two lowest heights; well
    /// below it all are read again. Between two crossings an eighth of the budget has come or gone.
    /// If nobody owes the blocks that are waited for, all are read, too: a peer that has them may
    /// have no room for a request, or has yet to send its status.
    pub(super) fn govern_reading(&mut self, now: Tick, out: &mut Vec<Effect<B>>) {
        if !self.budget.weigh(self.buffered_bytes()) {
            return;
        }
        let reading = if self.budget.is_over() && self.moves_unread() {
            Reading::Only(self.owing_the_two_lowest())
        } else {
            Reading::All
        };
        let Some(before) = self.budget.set_reading(reading.clone(), now) else {
            return;
        };
        match (before, &reading) {
            (Reading::Only(before), Reading::Only(these)) => {
                for id in these.iter().filter(|id| !before.contains(id)) {
                    self.give_time(*id, now);
                }
            }
            (Reading::Only(before), Reading::All) => {
                // All others get more time when their answers would be judged.
                for id in before.into_iter().filter(|id| self.peers.contains(*id)) {
                    self.budget.note_read_through(id);
                }
            }
            // Answers that are overdue meanwhile are not judged: `debt_due` sees who is not read.
            (Reading::All, _) => {}
        }
        out.push(Effect::Read(reading));
    }

    /// Whether the lowest height is proven, or it and the one that proves it are held or on their
    /// way.
    pub(super) fn moves_unread(&self) -> bool {
        let [lowest, above] = self.window.lowest_two().map(|h| self.window.slot(h));
        let comes = |s: &Slot<B>| !s.is_idle();
        lowest.is_some_and(Slot::is_proven)
            || (lowest.is_some_and(comes) && above.is_some_and(comes))
    }

    fn owing_the_two_lowest(&self) -> Vec<ConnId> {
        let lowest = self.window.lowest_two();
        let asks = lowest.iter().flat_map(|height| self.window.asks(*height));
        let conns = asks.filter_map(|ask| self.requests.get(*ask));
        let conns: BTreeSet<ConnId> = conns.map(|ask| ask.conn()).collect();
        conns.into_iter().collect()
    }
}
