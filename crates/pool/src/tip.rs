//! Facts about the whole from which the outcome follows.

use super::io::{Outcome, Tick};

/// Since when everything but open claims says that we have caught up. On a live chain each block
/// interrupts it for a moment: only a longer interruption ends it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
struct Evidence {
    since: Option<Tick>,
    lost: Option<Tick>,
}

impl Evidence {
    /// Whether an interruption has lasted for `patience`.
    fn is_over(&self, now: Tick, patience: u64) -> bool {
        let lost = self.lost;
        lost.is_some_and(|lost| now.0 >= lost.0.saturating_add(patience))
    }

    /// Notes whether it is complete now. Says whether an interruption has ended it, so that doubts
    /// are void.
    fn note(&mut self, complete: bool, now: Tick, patience: u64) -> bool {
        if complete {
            self.lost = None;
            self.since.get_or_insert(now);
            return false;
        }
        if self.since.is_none() {
            return false;
        }
        self.lost.get_or_insert(now);
        let ended = self.is_over(now, patience);
        if ended {
            *self = Evidence::default();
        }
        ended
    }
}

/// When peers came and left, when something last moved, and the last outcome.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Tip {
    /// When the first peer came, or came after nobody had been there for a while.
    first_up: Option<Tick>,
    /// Since when nobody is there.
    empty_since: Option<Tick>,
    last_progress: Tick,
    /// Since when nobody has what is needed.
    unusable_since: Option<Tick>,
    /// Since when everything but open claims says that we have caught up.
    evidence: Evidence,
    /// Nothing is asked for, nor said: see `Input::Pause`.
    paused: bool,
    /// The outcome that ends everything.
    fatal: Option<Outcome>,
    last_outcome: Option<Outcome>,
}

impl Tip {
    /// Nobody has come and nothing has moved before now.
    pub(crate) fn new(now: Tick) -> Self {
        Tip {
            first_up: None,
            empty_since: None,
            last_progress: now,
            unusable_since: Some(now),
            evidence: Evidence::default(),
            paused: false,
            fatal: None,
            last_outcome: None,
        }
    }

    /// When the first peer came, or came after nobody had been there for a while.
    pub(crate) fn first_up(&self) -> Option<Tick> {
        self.first_up
    }

    /// A peer came. Says whether the wait for the statuses of others begins anew: with the first
    /// peer, and after nobody was there for `settle`.
    pub(crate) fn peer_came(&mut self, now: Tick, settle: u64) -> bool {
        let alone = self.empty_since.take();
        let long = alone.is_some_and(|t| now.0 >= t.0.saturating_add(settle));
        let anew = self.first_up.is_none() || long;
        if anew {
            self.first_up = Some(now);
        }
        anew
    }

    /// The last peer is gone.
    pub(crate) fn all_left(&mut self, now: Tick) {
        self.empty_since = Some(now);
    }

    /// When something last moved.
    pub(crate) fn last_progress(&self) -> Tick {
        self.last_progress
    }

    /// Something moved.
    pub(crate) fn progress(&mut self, now: Tick) {
        self.last_progress = now;
    }

    /// Nobody has what is needed. Says since when.
    pub(crate) fn set_unusable(&mut self, now: Tick) -> Tick {
        *self.unusable_since.get_or_insert(now)
    }

    /// Somebody has what is needed, or nothing is.
    pub(crate) fn set_usable(&mut self) {
        self.unusable_since = None;
    }

    /// Since when everything but open claims says that we have caught up.
    pub(crate) fn complete_since(&self) -> Option<Tick> {
        self.evidence.since
    }

    /// Whether what said so was interrupted for `patience`, which is about to be noted.
    pub(crate) fn is_evidence_over(&self, now: Tick, patience: u64) -> bool {
        self.evidence.is_over(now, patience)
    }

    /// Notes whether everything but open claims says so. Says whether an interruption of
    /// `patience` has ended the evidence, so that doubts are void.
    pub(crate) fn note_evidence(&mut self, complete: bool, now: Tick, patience: u64) -> bool {
        self.evidence.note(complete, now, patience)
    }

    /// Whether nothing is asked for, nor said.
    pub(crate) fn is_paused(&self) -> bool {
        self.paused
    }

    /// Somebody else writes from now on.
    pub(crate) fn pause(&mut self) {
        self.paused = true;
    }

    /// Block sync begins again: the evidence is gathered anew, and the next outcome is news.
    pub(crate) fn resume(&mut self, now: Tick) {
        self.paused = false;
        self.evidence = Evidence::default();
        // The time for which somebody else had the store is no stall.
        self.last_progress = now;
        self.last_outcome = None;
    }

    /// The outcome that ends everything, if there is one.
    pub(crate) fn fatal(&self) -> Option<&Outcome> {
        self.fatal.as_ref()
    }

    /// Ends everything. The first outcome of this kind stands.
    pub(crate) fn fail(&mut self, outcome: Outcome) {
        self.fatal.get_or_insert(outcome);
    }

    /// Whether the last outcome was that we have caught up.
    pub(crate) fn said_caught_up(&self) -> bool {
        matches!(self.last_outcome, Some(Outcome::CaughtUp { .. }))
    }

    /// Notes an outcome. Says whether it is news.
    pub(crate) fn announce(&mut self, outcome: &Outcome) -> bool {
        let news = self.last_outcome.as_ref() != Some(outcome);
        if news {
            self.last_outcome = Some(outcome.clone());
        }
        news
    }

    /// Panics when an invariant is broken. `peers` is the number of connections.
    pub(crate) fn check(&self, peers: usize) {
        assert!(
            peers == 0 || (self.first_up.is_some() && self.empty_since.is_none()),
            "peers are there, though nobody came or all have left"
        );
        assert!(
            self.evidence.lost.is_none() || self.evidence.since.is_some(),
            "evidence was lost that never was"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evidence_survives_an_interruption_shorter_than_patience() {
        let mut tip = Tip::new(Tick(0));
        assert!(!tip.note_evidence(false, Tick(1), 10), "there was none");
        assert!(!tip.note_evidence(true, Tick(5), 10));
        assert!(!tip.note_evidence(false, Tick(6), 10));
        assert!(!tip.note_evidence(false, Tick(15), 10));
        assert_eq!(tip.complete_since(), Some(Tick(5)));
        // The next interruption has its own time.
        assert!(!tip.note_evidence(true, Tick(15), 10));
        assert!(!tip.note_evidence(false, Tick(16), 10));
        assert!(!tip.note_evidence(false, Tick(25), 10));
        tip.check(0);
        assert!(tip.note_evidence(false, Tick(26), 10));
        assert_eq!(tip.complete_since(), None);
        assert!(!tip.note_evidence(true, Tick(27), 10));
        assert_eq!(tip.complete_since(), Some(Tick(27)));
    }

    #[test]
    fn the_wait_for_others_begins_anew_after_nobody_was_there_for_long() {
        let mut tip = Tip::new(Tick(0));
        assert!(tip.peer_came(Tick(1), 10));
        assert!(!tip.peer_came(Tick(2), 10));
        tip.all_left(Tick(3));
        assert!(!tip.peer_came(Tick(12), 10));
        assert_eq!(tip.first_up(), Some(Tick(1)));
        tip.all_left(Tick(13));
        assert!(tip.peer_came(Tick(23), 10));
        assert_eq!(tip.first_up(), Some(Tick(23)));
        tip.check(1);
    }

    #[test]
    fn an_outcome_is_news_once_and_the_first_that_ends_everything_stands() {
        let mut tip = Tip::new(Tick(0));
        let caught_up = Outcome::CaughtUp {
            height: blocksync_types::ids::Height::new(1),
        };
        assert!(tip.announce(&caught_up) && !tip.announce(&caught_up));
        assert!(tip.said_caught_up());
        tip.pause();
        assert!(tip.is_paused());
        tip.resume(Tick(7));
        assert!(!tip.is_paused() && !tip.said_caught_up());
        assert_eq!(tip.last_progress(), Tick(7));
        assert!(tip.announce(&caught_up), "news again");
        tip.fail(Outcome::Stopped);
        tip.fail(Outcome::NoUsablePeers);
        assert_eq!(tip.fatal(), Some(&Outcome::Stopped));
        assert_eq!(tip.set_unusable(Tick(8)), Tick(0), "since the start");
        tip.set_usable();
        assert_eq!(tip.set_unusable(Tick(9)), Tick(9));
    }
}
