//! New names for requests and runs, so that two pools that differ in nothing else are equal. For
//! model checkers: without it the number of states has no end.

use std::collections::BTreeMap;

use super::Pool;
use super::io::{AskId, RunId};

/// New names by old ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Renumbered {
    /// Requests.
    pub asks: BTreeMap<AskId, AskId>,
    /// Runs and examinations.
    pub runs: BTreeMap<RunId, RunId>,
}

impl<B: Clone> Pool<B> {
    /// Renames all open requests and runs, in their order, from 0 up. Names that were given out and
    /// are not open any more may be given out again: the caller has to forget or rename its own.
    pub fn renumber(&mut self) -> Renumbered {
        let asks = self.requests.renumber(self.claim_proofs.asks());
        let runs = self.prover.renumber();
        self.claim_proofs.rename(&asks);
        self.peers.rename(&asks);
        self.window.rename(&asks, &runs);
        Renumbered { asks, runs }
    }
}
