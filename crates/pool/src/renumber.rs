//! New names for requests and runs, so that two pools that differ in nothing else are equal. For
//! model checkers: without it the number of states has no end.

use std::collections::BTreeMap;

use super::Pool;
use super::io::{AskId, RunId};
use super::slot::Stage;

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
    /// are not open any more may be given out again: whoever calls this has to forget or rename his
    /// own.
    pub fn renumber(&mut self) -> Renumbered {
        let asks: BTreeMap<AskId, AskId> = self
            .asks
            .keys()
            .zip(0..)
            .map(|(old, n)| (*old, AskId(n)))
            .collect();
        let runs = self
            .run
            .iter()
            .map(|r| r.id)
            .chain(self.examining.keys().copied());
        let mut runs: Vec<RunId> = runs.collect();
        runs.sort_unstable();
        let runs: BTreeMap<RunId, RunId> = runs
            .into_iter()
            .zip(0..)
            .map(|(old, n)| (old, RunId(n)))
            .collect();
        (self.next_ask, self.next_run) = (asks.len() as u64, runs.len() as u64);
        self.asks = std::mem::take(&mut self.asks)
            .into_iter()
            .map(|(old, ask)| (asks[&old], ask))
            .collect();
        for conn in self.conns.values_mut() {
            conn.owed.values_mut().for_each(|ask| *ask = asks[ask]);
        }
        self.examining = std::mem::take(&mut self.examining)
            .into_iter()
            .map(|(old, copy)| (runs[&old], copy))
            .collect();
        if let Some(run) = &mut self.run {
            run.id = runs[&run.id];
        }
        for slot in &mut self.slots {
            slot.asks.iter_mut().for_each(|ask| *ask = asks[ask]);
            if let Stage::Verifying(run, _) = &mut slot.stage {
                *run = runs[run];
            }
        }
        Renumbered { asks, runs }
    }
}
