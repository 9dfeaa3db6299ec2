//! One connection as the pool sees it: what it claims, what it owes, how well it delivers.

use std::collections::{BTreeMap, BTreeSet};

use super::claims::Claim;
use super::config::PoolConfig;
use super::io::{AskId, Tick};
use super::window::RequestWindow;
use blocksync_types::ids::{Height, PeerId};

/// Heights that were asked, given up, and may still be answered; beyond this the oldest are
/// forgotten.
pub(super) const MAX_LATE: usize = 4096;

/// Heights that a connection may lack of its range, or twice what it may owe, before it is asked
/// for no more until its next status. A search passes over no more heights that it lacks than that.
const MAX_LACKS: usize = 64;

/// A rate before any was measured: optimistic, so that a fresh peer is tried early.
const FRESH_RATE: u64 = 1 << 30;

/// Heights asked of a connection whose rate is not known: only from answers that follow each other
/// is a rate told from a latency.
const FRESH_PACE: usize = 2;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Conn {
    pub(super) peer: PeerId,
    pub(super) base: Height,
    pub(super) height: Height,
    pub(super) max_range: u32,
    pub(super) has_status: bool,
    /// Rounds of asking for a status without one.
    pub(super) mute_rounds: u32,
    /// Open requests by height.
    pub(super) owed: BTreeMap<Height, AskId>,
    /// Given up, but an answer is still no fault: how many may come.
    pub(super) late: BTreeMap<Height, u32>,
    /// How much it has been given up lately: fewer heights are asked of it. Forgiven by an answer,
    /// and half of it by time.
    pub(super) debt: u32,
    /// Heights that it said it does not have, until its next status.
    pub(super) lacks: BTreeSet<Height>,
    /// The highest height that it served.
    pub(super) served: Height,
    /// It said that it does not have what it claims, above everything proven.
    pub(super) discredited: bool,
    /// What it claims above us.
    pub(super) claim: Claim,
    /// This block of it, the chain's first, does not fit our genesis: it has nothing for that
    /// height.
    pub(super) unfit: Option<Height>,
    /// The height it claims, as counted for "nobody is above us".
    pub(super) face: Option<Height>,
    /// Its base, while that is above us.
    pub(super) above_us: Option<Height>,
    /// Its claim, once its base is not above us, and whether it is a node of ours.
    pub(super) tall: Option<(Height, bool)>,
    /// Bytes of the message that is on its way.
    pub(super) partial: u32,
    /// It was read all through the time over the budget that ended then.
    pub(super) read_through: Option<Tick>,
    /// When its debt is overdue; set while it owes something.
    pub(super) overdue: Option<Tick>,
    /// How often the last usable peer was given more time.
    pub(super) patience: u32,
    /// When its next round of asking for a status comes, were we behind.
    pub(super) round: Tick,
    /// When it last began to owe, or last delivered.
    pub(super) last: Tick,
    /// Heights that it would deliver within the horizon at its measured rate: more would only wait
    /// with it.
    pace: usize,
    /// Heights that may be asked of it for all that its answers have shown.
    window: RequestWindow,
    /// Bytes a second, smoothed.
    rate: Option<u64>,
    /// Microseconds from an ask of an idle connection to its answer, smoothed.
    latency: Option<u64>,
    /// Timed out before, and has delivered nothing since.
    pub(super) struck: bool,
    /// Its place in the set of connections with room.
    pub(super) place: Option<Place>,
    /// Its claim, among those that have room and whatever they claim.
    pub(super) roomy: Option<Height>,
}

/// How far a connection is relied on: for the lowest heights the one that has shown what it can do
/// comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Class {
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
pub(super) type Place = (Class, u64);

impl Conn {
    pub(super) fn new(peer: PeerId, now: Tick, config: &PoolConfig) -> Self {
        Conn {
            peer,
            base: Height::ZERO,
            height: Height::ZERO,
            max_range: 1,
            has_status: false,
            mute_rounds: 0,
            owed: BTreeMap::new(),
            late: BTreeMap::new(),
            debt: 0,
            lacks: BTreeSet::new(),
            served: Height::ZERO,
            discredited: false,
            claim: Claim::new(now),
            unfit: None,
            face: None,
            above_us: None,
            tall: None,
            partial: 0,
            read_through: None,
            overdue: None,
            patience: 0,
            pace: FRESH_PACE,
            window: RequestWindow::new(config.asks_per_peer as usize),
            round: Tick(now.0.saturating_add(config.status_interval)),
            last: now,
            rate: None,
            latency: None,
            struck: false,
            place: None,
            roomy: None,
        }
    }

    pub(super) fn class(&self) -> Class {
        match (self.struck || self.patience > 0, self.rate) {
            _ if self.above_us.is_some() => Class::Later,
            _ if !self.is_whole() => Class::Lacking,
            (true, _) => Class::Struck,
            (false, None) => Class::Fresh,
            (false, Some(_)) => Class::Proven,
        }
    }

    /// Nodes of ours answer ranges, and send the commit for their highest block beside it.
    pub(super) fn is_own_kind(&self) -> bool {
        self.max_range > 1
    }

    /// Lacks nothing of what it claims, as far as we know.
    pub(super) fn is_whole(&self) -> bool {
        self.lacks.is_empty() && self.unfit.is_none()
    }

    fn most(&self, config: &PoolConfig) -> usize {
        if self.is_own_kind() {
            config.asks_per_ranged_peer as usize
        } else {
            self.window.size()
        }
    }

    fn limit(&self, config: &PoolConfig) -> usize {
        self.most(config).min(self.pace).max(1)
    }

    /// Heights that it may be asked now: none while it owes too much, late answers included, and
    /// none while it lacks enough that it has to tell its range anew.
    pub(super) fn room(&self, config: &PoolConfig) -> usize {
        if !self.has_status || self.lacks.len() >= MAX_LACKS.max(2 * self.most(config)) {
            return 0;
        }
        let limit = self.limit(config);
        let free = limit
            .saturating_sub(self.owed.len())
            .min((2 * limit).saturating_sub(self.owed.len() + self.debt as usize));
        // A peer that answers ranges is asked for ranges: it waits until a whole one fits.
        if free < self.range(config).min(limit) && !self.owed.is_empty() {
            0
        } else {
            free
        }
    }

    /// Heights in one request.
    pub(super) fn range(&self, config: &PoolConfig) -> usize {
        (self.max_range.max(1) as usize).min(self.limit(config).div_ceil(2))
    }

    pub(super) fn has(&self, height: Height) -> bool {
        self.has_status
            && self.base <= height
            && height <= self.height
            && self.unfit != Some(height)
            && !self.lacks.contains(&height)
    }

    /// May this height be asked of it?
    pub(super) fn may_be_asked(&self, height: Height) -> bool {
        self.has(height) && !self.owed.contains_key(&height)
    }

    /// When it would have delivered one more block: the lower, the sooner it is asked.
    pub(super) fn score(&self, estimate: u64) -> u64 {
        let bytes = estimate.saturating_mul(self.owed.len() as u64 + 1);
        let transfer = bytes.saturating_mul(1_000_000) / self.rate.unwrap_or(FRESH_RATE).max(1);
        transfer.saturating_add(self.latency.unwrap_or(0))
    }

    pub(super) fn latency(&self) -> Option<u64> {
        self.latency
    }

    pub(super) fn rate(&self) -> Option<u64> {
        self.rate
    }

    /// Takes an answer to something that was given up; `false` when there is nothing of the kind.
    pub(super) fn take_late(&mut self, height: Height) -> bool {
        let Some(times) = self.late.get_mut(&height) else {
            return false;
        };
        *times -= 1;
        if *times == 0 {
            self.late.remove(&height);
        }
        self.debt = self.debt.saturating_sub(1);
        true
    }

    /// Learns from an answer to an open request. Small answers say something of latency, not of
    /// bandwidth.
    ///
    /// A slow link is asked for no more than it can bring within `horizon` (µs) beyond its latency,
    /// or the window would wait for what lies in its queue.
    ///
    /// `share` is the most heights that any connection may owe now.
    pub(super) fn learn(&mut self, bytes: u32, asked: Tick, now: Tick, horizon: u64, share: usize) {
        self.window.answer(self.owed.len(), asked, now, share);
        let since = now.0.saturating_sub(self.last.0.max(asked.0)).max(1);
        let smooth = |old: Option<u64>, new: u64| {
            old.map_or(new, |old| (old.saturating_mul(7).saturating_add(new)) / 8)
        };
        let rate = u64::from(bytes).saturating_mul(1_000_000) / since;
        self.rate = Some(smooth(self.rate, rate.max(1)));
        if self.last <= asked {
            self.latency = Some(smooth(self.latency, now.0.saturating_sub(asked.0)));
        }
        let rate = self.rate.unwrap_or(FRESH_RATE);
        let time = horizon.saturating_add(self.latency.unwrap_or(0));
        let heights = rate.saturating_mul(time) / 1_000_000 / u64::from(bytes.max(1));
        self.pace = usize::try_from(heights)
            .unwrap_or(usize::MAX)
            .saturating_add(1)
            .max(FRESH_PACE);
        self.last = now;
        self.debt = 0;
    }

    /// Forgets an open request; its answer, if it comes all the same, is no fault.
    pub(super) fn give_up(&mut self, height: Height) {
        if self.owed.remove(&height).is_some() {
            if self.late.len() >= MAX_LATE {
                self.late.pop_first();
            }
            *self.late.entry(height).or_default() += 1;
            self.debt = self.debt.saturating_add(1);
        }
    }
}
