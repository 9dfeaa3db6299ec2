//! One connection as the pool sees it: what it claims, what it owes, how well it delivers.

use std::collections::{BTreeMap, BTreeSet};

use super::budget::smoothed_size;
use super::claims::Claim;
use super::config::PoolConfig;
use super::io::{AskId, Tick};
use super::request_window::RequestWindow;
use blocksync_types::ids::{Height, PeerId};

/// Abandoned heights that are remembered of a connection; beyond this the oldest are forgotten.
const MAX_ABANDONED: usize = 4096;

/// Heights that a connection may lack of its range, or twice what it may owe, before it is asked
/// for no more until its next status. A search passes over no more heights that it lacks than that.
const MAX_LACKS: usize = 64;

/// A rate before any was measured: optimistic, so that a fresh peer is tried early.
const FRESH_RATE: u64 = 1 << 30;

/// Heights asked of a connection whose rate is not known: only from answers that follow each other
/// is a rate told from a latency.
const FRESH_PACE: usize = 2;

/// Most doublings of the time that the last usable peer has for an answer.
const MAX_PATIENCE: u32 = 4;

/// One connection. It changes only through `Peers`, which keeps the sets that follow from it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Peer {
    id: PeerId,
    base: Height,
    height: Height,
    max_range: u32,
    has_status: bool,
    /// Polls for a first status that were not answered.
    unanswered_polls: u32,
    /// Open requests by height.
    owed: BTreeMap<Height, AskId>,
    /// Asked and given up, but an answer is still no fault: how many may come.
    abandoned: BTreeMap<Height, u32>,
    /// How much it has been given up lately: fewer heights are asked of it. Forgiven by an answer,
    /// and half of it by time.
    debt: u32,
    /// Heights that it said it does not have, until its next status.
    lacks: BTreeSet<Height>,
    /// The highest height that it served.
    served: Height,
    /// It said that it does not have what it claims, above everything proven.
    discredited: bool,
    /// Its claim above us.
    claim: Claim,
    /// This block of it, the chain's first, does not fit our genesis: it has nothing for that
    /// height.
    unfit: Option<Height>,
    /// Where its range lies.
    reach: Reach,
    /// Bytes of the message that is on its way.
    partial: u32,
    /// How often it was given more time, as the last usable peer.
    patience: u32,
    /// When it last began to owe, or last delivered.
    last: Tick,
    /// When bytes of a block last came from it, or word that it has none.
    heard: Tick,
    /// It was asked for something and has answered nothing since.
    awaited: bool,
    /// Heights that it would deliver within the horizon at its measured rate: more would only wait
    /// with it.
    pace: usize,
    /// Heights that may be asked of it for all that its answers have shown.
    window: RequestWindow,
    /// The same, once it answers ranges.
    ranged_window: usize,
    /// Smoothed size of the blocks that it gave, leaning to the larger.
    block_bytes: u64,
    /// Blocks of that size that may be owed at a time.
    fitting: usize,
    /// Bytes a second, smoothed.
    rate: Option<u64>,
    /// Microseconds from an ask of an idle connection to its answer, smoothed.
    latency: Option<u64>,
    /// Timed out before, and has delivered nothing since.
    struck: bool,
}

/// Where the range that a connection claims lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
enum Reach {
    /// It has not told its status.
    Unknown,
    /// Its base is not above us.
    Near,
    /// The same, but what it gave for the height that is next does not fit our genesis.
    Unfit,
    /// Its base is above us.
    AboveUs,
}

/// How far a connection is relied on: for the lowest heights the one that has shown what it can do
/// comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
pub(crate) enum Class {
    /// Has delivered.
    Proven,
    /// Nothing is known of it yet.
    Fresh,
    /// Has failed, and not delivered since.
    Struck,
    /// Lacks something of what it claims.
    Lacking,
    /// Has nothing below a base that is above us.
    Later,
}

/// Where a connection stands among those with room: class, then the time at which it would deliver
/// one more block.
pub(crate) type Place = (Class, u64);

/// An answer to an open request, and what is learned from it.
#[derive(Clone, Copy)]
pub(crate) struct Answer {
    /// The height that was answered.
    pub(crate) height: Height,
    /// Bytes of the block.
    pub(crate) bytes: u32,
    /// When it was asked.
    pub(crate) asked: Tick,
    /// Time in which a connection should deliver everything that it owes, beyond its latency.
    pub(crate) horizon: u64,
    /// The most heights that any connection may owe now.
    pub(crate) share: usize,
}

impl Peer {
    /// A connection that has just come up.
    pub(crate) fn new(id: PeerId, struck: bool, now: Tick, config: &PoolConfig) -> Self {
        Peer {
            id,
            base: Height::ZERO,
            height: Height::ZERO,
            max_range: 1,
            has_status: false,
            unanswered_polls: 0,
            owed: BTreeMap::new(),
            abandoned: BTreeMap::new(),
            debt: 0,
            lacks: BTreeSet::new(),
            served: Height::ZERO,
            discredited: false,
            claim: Claim::new(now),
            unfit: None,
            reach: Reach::Unknown,
            partial: 0,
            patience: 0,
            last: now,
            heard: now,
            awaited: false,
            pace: FRESH_PACE,
            window: RequestWindow::new(config.asks_per_peer as usize),
            ranged_window: config.asks_per_ranged_peer as usize,
            block_bytes: 0,
            fitting: usize::MAX,
            rate: None,
            latency: None,
            struck,
        }
    }

    /// Returns the id of the peer at its other end.
    pub(crate) fn id(&self) -> PeerId {
        self.id
    }

    /// Its lowest height, as it says.
    pub(crate) fn base(&self) -> Height {
        self.base
    }

    /// Its highest height, as it says.
    pub(crate) fn height(&self) -> Height {
        self.height
    }

    /// Whether it has told its status.
    pub(crate) fn has_status(&self) -> bool {
        self.has_status
    }

    /// Whether it owes anything.
    pub(crate) fn owes(&self) -> bool {
        !self.owed.is_empty()
    }

    /// Whether it has to answer in time: it owes something, or all that it was asked was asked
    /// elsewhere meanwhile, and it has answered nothing at all.
    ///
    /// An honest node answers what others have answered, too. One whose connection is dead would
    /// otherwise be taken for an idle one.
    pub(crate) fn is_in_debt(&self) -> bool {
        self.owes() || (self.awaited && !self.abandoned.is_empty())
    }

    /// Whether nothing came from it for this long.
    pub(crate) fn is_quiet(&self, micros: u64, now: Tick) -> bool {
        now.0.saturating_sub(self.heard.0) >= micros
    }

    /// Open requests by height.
    pub(crate) fn owed(&self) -> &BTreeMap<Height, AskId> {
        &self.owed
    }

    /// The open request for a height.
    pub(crate) fn ask_for(&self, height: Height) -> Option<AskId> {
        self.owed.get(&height).copied()
    }

    /// Whether a height was asked of it and given up.
    pub(crate) fn has_abandoned(&self, height: Height) -> bool {
        self.abandoned.contains_key(&height)
    }

    /// Returns its claim above us.
    pub(crate) fn claim(&self) -> &Claim {
        &self.claim
    }

    /// Whether it said that it does not have what it claims, above everything proven.
    pub(crate) fn is_discredited(&self) -> bool {
        self.discredited
    }

    /// Whether its first block of the chain does not fit our genesis.
    pub(crate) fn is_unfit(&self) -> bool {
        self.unfit.is_some()
    }

    /// Bytes of the message that is on its way.
    pub(crate) fn partial(&self) -> u32 {
        self.partial
    }

    /// When it last began to owe, or last delivered.
    pub(crate) fn last(&self) -> Tick {
        self.last
    }

    /// Bytes a second, smoothed.
    pub(crate) fn rate(&self) -> Option<u64> {
        self.rate
    }

    /// Microseconds from an ask to its answer, smoothed.
    pub(crate) fn latency(&self) -> Option<u64> {
        self.latency
    }

    /// The time that it has for an answer, out of the usual time.
    pub(crate) fn time_to_answer(&self, usual: u64) -> u64 {
        usual.saturating_mul(1 << self.patience.min(MAX_PATIENCE))
    }

    /// How far it is relied on.
    pub(crate) fn class(&self) -> Class {
        match (self.struck || self.patience > 0, self.rate) {
            _ if self.reach == Reach::AboveUs => Class::Later,
            _ if !self.is_whole() => Class::Lacking,
            (true, _) => Class::Struck,
            (false, None) => Class::Fresh,
            (false, Some(_)) => Class::Proven,
        }
    }

    /// Whether it answers ranges, as our servers do. These send the commit for their highest block
    /// beside it.
    pub(crate) fn answers_ranges(&self) -> bool {
        self.max_range > 1
    }

    /// Whether it lacks nothing of what it claims, as far as we know.
    fn is_whole(&self) -> bool {
        self.lacks.is_empty() && self.unfit.is_none()
    }

    fn most(&self) -> usize {
        if self.answers_ranges() {
            self.ranged_window
        } else {
            self.window.size()
        }
    }

    fn limit(&self) -> usize {
        self.most().min(self.pace).min(self.fitting).max(1)
    }

    /// Heights that it may be asked now: none while it owes too much, late answers included, and
    /// none while it lacks enough that it has to tell its range anew.
    pub(crate) fn room(&self) -> usize {
        if !self.has_status || self.lacks.len() >= MAX_LACKS.max(2 * self.most()) {
            return 0;
        }
        let limit = self.limit();
        let free = limit
            .saturating_sub(self.owed.len())
            .min((2 * limit).saturating_sub(self.owed.len() + self.debt as usize));
        // A peer that answers ranges is asked for ranges: it waits until a whole one fits.
        if free < self.heights_in_one(limit) && !self.owed.is_empty() {
            0
        } else {
            free
        }
    }

    fn heights_in_one(&self, limit: usize) -> usize {
        // At most half of what it may owe: the next range is asked for while it answers this one.
        (self.max_range.max(1) as usize).min(limit.div_ceil(2))
    }

    /// Heights in one request that may be made now.
    pub(crate) fn heights_in_one_request(&self) -> usize {
        self.heights_in_one(self.limit()).min(self.room()).max(1)
    }

    /// Whether it says that it has this height, and nothing says otherwise.
    pub(crate) fn has(&self, height: Height) -> bool {
        self.has_status
            && self.base <= height
            && height <= self.height
            && self.unfit != Some(height)
            && !self.lacks.contains(&height)
    }

    /// Whether this height may be asked of it.
    pub(crate) fn may_be_asked(&self, height: Height) -> bool {
        self.has(height) && !self.owed.contains_key(&height)
    }

    /// When it would have delivered one more block: the lower, the sooner it is asked.
    pub(crate) fn score(&self, estimate: u64) -> u64 {
        let bytes = estimate.saturating_mul(self.owed.len() as u64 + 1);
        let transfer = bytes.saturating_mul(1_000_000) / self.rate.unwrap_or(FRESH_RATE).max(1);
        transfer.saturating_add(self.latency.unwrap_or(0))
    }

    /// Bytes by which the blocks that it owes are larger than the estimate says, if they are as
    /// those that it gave. Nobody has proven these, so they count for this connection alone.
    pub(crate) fn surplus(&self, estimate: u64) -> u64 {
        let more = self.block_bytes.saturating_sub(estimate);
        more.saturating_mul(self.owed.len() as u64)
    }

    /// Notes the size of a block that it gave. The blocks that it owes may be as large, and must
    /// fit into `budget` bytes: a block and its successor at least, or nothing would be proven.
    pub(crate) fn note_size(&mut self, bytes: u32, budget: u64) {
        self.block_bytes = smoothed_size(self.block_bytes, bytes);
        let fitting = budget / self.block_bytes.max(1);
        self.fitting = usize::try_from(fitting).unwrap_or(usize::MAX).max(2);
    }

    /// Its place among those with room.
    pub(crate) fn place(&self, estimate: u64) -> Option<Place> {
        (self.room() > 0).then(|| (self.class(), self.score(estimate)))
    }

    /// Its claim, taken at its word.
    pub(crate) fn claimed_height(&self) -> Option<Height> {
        self.has_status.then_some(self.height)
    }

    /// The same, while its claim has not ended.
    pub(crate) fn standing_claim(&self) -> Option<Height> {
        self.claimed_height().filter(|_| !self.claim.has_ended())
    }

    /// Its base, while that is above us.
    pub(crate) fn base_above_us(&self) -> Option<Height> {
        (self.reach == Reach::AboveUs).then_some(self.base)
    }

    /// Its claim, once its base is not above us, and whether it answers ranges.
    pub(crate) fn near_claim(&self) -> Option<(Height, bool)> {
        (self.reach == Reach::Near).then_some((self.height, self.answers_ranges()))
    }

    /// Its claim, while it counts and can be asked for.
    pub(crate) fn counted_claim(&self) -> Option<Height> {
        let counts = self.has_status
            && self.reach != Reach::AboveUs
            && self.unfit.is_none()
            && !self.discredited
            && !self.claim.is_doubted();
        counts.then_some(self.height)
    }

    /// Its claim, while it is doubted.
    pub(crate) fn doubted_claim(&self) -> Option<Height> {
        (self.has_status && self.claim.is_doubted()).then_some(self.height)
    }

    /// Takes a new status. `next` is the lowest height that is not applied.
    pub(crate) fn restate(
        &mut self,
        (base, height): (Height, Height),
        max_range: u32,
        next: Height,
        now: Tick,
    ) {
        let before = self.claimed_height().unwrap_or(Height::ZERO);
        self.claim.restate(before, height, next, now);
        self.has_status = true;
        self.unanswered_polls = 0;
        (self.base, self.height) = (base, height);
        self.max_range = max_range.max(1);
        self.lacks.clear();
        self.locate(next);
    }

    /// Looks where its range lies. `next` is the lowest height that is not applied.
    pub(crate) fn locate(&mut self, next: Height) {
        self.reach = match self.unfit {
            _ if !self.has_status => Reach::Unknown,
            _ if self.base > next => Reach::AboveUs,
            Some(unfit) if unfit == next => Reach::Unfit,
            _ => Reach::Near,
        };
    }

    /// Its claim, to be changed.
    pub(crate) fn claim_mut(&mut self) -> &mut Claim {
        &mut self.claim
    }

    /// Notes how much of a message has come. Returns how many bytes of it are new.
    pub(crate) fn receive(&mut self, bytes: u32, now: Tick) -> u32 {
        self.heard = now;
        let before = std::mem::replace(&mut self.partial, bytes);
        bytes.saturating_sub(before)
    }

    /// A height is asked of it.
    pub(crate) fn owe(&mut self, height: Height, ask: AskId) {
        self.owed.insert(height, ask);
        self.awaited = true;
    }

    /// Takes an answer to an open request, and learns from it. Small answers say something of
    /// latency, not of bandwidth.
    ///
    /// A slow link is asked for no more than it can bring within the horizon beyond its latency, or
    /// the window would wait for what lies in its queue.
    pub(crate) fn answer(&mut self, answer: Answer, now: Tick) {
        let Answer {
            height,
            bytes,
            asked,
            horizon,
            share,
        } = answer;
        self.window.answer(self.owed.len(), asked, now, share);
        // Not from the ask alone: its answers come one after another. Nor from the last answer
        // alone: then it may have had nothing to do.
        let since = now.0.saturating_sub(self.last.0.max(asked.0)).max(1);
        let smooth = |old: Option<u64>, new: u64| {
            old.map_or(new, |old| (old.saturating_mul(7).saturating_add(new)) / 8)
        };
        let rate = u64::from(bytes).saturating_mul(1_000_000) / since;
        let rate = smooth(self.rate, rate.max(1));
        self.rate = Some(rate);
        // Only an ask of an idle connection tells its latency: any other answer waited behind
        // those before it.
        if self.last <= asked {
            self.latency = Some(smooth(self.latency, now.0.saturating_sub(asked.0)));
        }
        let time = horizon.saturating_add(self.latency.unwrap_or(0));
        let heights = rate.saturating_mul(time) / 1_000_000 / u64::from(bytes.max(1));
        self.pace = usize::try_from(heights)
            .unwrap_or(usize::MAX)
            .saturating_add(1)
            .max(FRESH_PACE);
        self.last = now;
        self.debt = 0;
        self.settle(height);
    }

    /// A height is not owed any more, by an answer of whatever kind.
    fn settle(&mut self, height: Height) {
        self.owed.remove(&height);
        self.awaited = false;
        self.patience = 0;
    }

    /// Takes an answer to an abandoned request; `false` when there is nothing of the kind.
    pub(crate) fn answer_late(&mut self, height: Height) -> bool {
        let Some(times) = self.abandoned.get_mut(&height) else {
            return false;
        };
        self.awaited = false;
        *times -= 1;
        if *times == 0 {
            self.abandoned.remove(&height);
        }
        // It pays the debt that giving it up made. Otherwise a peer that has answered everything
        // could stay without room.
        self.debt = self.debt.saturating_sub(1);
        true
    }

    /// It is at work.
    pub(crate) fn note_life(&mut self, now: Tick) {
        self.last = now;
    }

    /// It says that it does not have a height that it owes. Where that is above everything
    /// `known`, its claim counts no more until it serves something new.
    pub(crate) fn lack(&mut self, height: Height, known: Height, now: Tick) {
        self.lacks.insert(height);
        (self.last, self.heard) = (now, now);
        self.settle(height);
        if height > known {
            self.discredited = true;
        }
    }

    /// A request did not reach it. Says whether it owed this height by it.
    pub(crate) fn unask(&mut self, height: Height, ask: AskId) -> bool {
        let owed = self.owed.get(&height) == Some(&ask);
        if owed {
            self.owed.remove(&height);
            // The queue of its connection is full. Were it free to be asked again, the pool, which
            // never leaves a height that could be asked for, would try at once and for ever.
            self.lacks.insert(height);
            // With nothing to answer it is not waited for: a proof given up later makes no debt.
            self.awaited &= self.owes() || !self.abandoned.is_empty();
        }
        owed
    }

    /// Forgets an open request; its answer, if it comes all the same, is no fault.
    pub(crate) fn give_up(&mut self, height: Height) {
        if self.owed.remove(&height).is_some() {
            self.abandon(height);
            self.debt = self.debt.saturating_add(1);
        }
    }

    /// A block that was asked for beside the window is not waited for any more; its answer, if it
    /// comes all the same, is no fault.
    pub(crate) fn abandon(&mut self, height: Height) {
        if self.abandoned.len() >= MAX_ABANDONED {
            self.abandoned.pop_first();
        }
        *self.abandoned.entry(height).or_default() += 1;
    }

    /// A block of this height came from it, and its claim delivers for `patience`. Says whether it
    /// had failed before.
    pub(crate) fn credit(&mut self, height: Height, patience: u64, now: Tick) -> bool {
        // A whole block earns all of that time, however small it is.
        self.claim.earn(u32::MAX, 1, patience, now);
        if height > self.served {
            self.served = height;
            self.discredited = false;
        }
        std::mem::take(&mut self.struck)
    }

    /// Its block of this height, the chain's first, does not fit our genesis.
    pub(crate) fn set_unfit(&mut self, height: Height, next: Height) {
        self.unfit = Some(height);
        self.locate(next);
    }

    /// It has failed.
    pub(crate) fn strike(&mut self) {
        self.struck = true;
    }

    /// It has more time for an answer, as the last usable peer.
    pub(crate) fn be_patient(&mut self) {
        self.patience = (self.patience + 1).min(MAX_PATIENCE);
        // Its requests are given up and made anew. Those abandoned must not leave it in a debt that
        // has no deadline.
        self.awaited = false;
    }

    /// Its status is asked for: half of its debt is forgiven.
    pub(crate) fn forgive_half(&mut self) {
        self.debt /= 2;
    }

    /// Its first status was asked for again. Returns how often that was so.
    pub(crate) fn miss_poll(&mut self) -> u32 {
        self.unanswered_polls += 1;
        self.unanswered_polls
    }

    /// Gives its open requests their new names.
    pub(crate) fn rename(&mut self, asks: &BTreeMap<AskId, AskId>) {
        self.owed.values_mut().for_each(|ask| *ask = asks[ask]);
    }
}

#[cfg(test)]
#[path = "peer_tests.rs"]
mod tests;
