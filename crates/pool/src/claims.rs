//! Which claims above us count (`design.md` 12). Silence disproves nothing and a word proves
//! nothing: a claim is *open* until its bound has passed, *delivering* while bytes come at the
//! floor rate from the connection that makes it, and *doubted* after that.
//!
//! The bound runs from the moment at which everything else says that we have caught up. A claim
//! made before that moment postpones "caught up" by `claim_patience` at most, or by
//! `delivery_patience` while its peer delivers; each block of the peer that is proven begins that
//! time anew. One made after that moment postpones nothing until a block of the peer is proven
//! beyond what others claim.

use super::Pool;
use super::io::Tick;
use blocksync_types::ids::{ConnId, Height, PeerId};

/// Doubted claims that are named.
const NAMED: usize = 16;

/// Why a claim does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Doubt {
    /// It was made when everything else said that we have caught up.
    Late,
    /// Nothing that proves it came within its bound.
    Expired,
}

/// What a connection claims, and since when, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Claim {
    /// When it first claimed more than we have; a reconnect or a higher claim renews nothing.
    made: Tick,
    /// When a block of it was last proven.
    proven: Option<Tick>,
    /// It delivers until then, by the bytes that have come at the floor rate.
    delivers_until: Tick,
    doubt: Option<Doubt>,
    /// Its height, while it counts and can be asked for.
    counted: Option<Height>,
    /// Its height, while it is doubted.
    listed: Option<Height>,
}

impl Claim {
    pub(super) fn new(now: Tick) -> Self {
        Claim {
            made: now,
            proven: None,
            delivers_until: now,
            doubt: None,
            counted: None,
            listed: None,
        }
    }

    pub(super) fn counted(&self) -> Option<Height> {
        self.counted
    }

    pub(super) fn listed(&self) -> Option<Height> {
        self.listed
    }

    pub(super) fn is_doubted(&self) -> bool {
        self.doubt.is_some()
    }

    /// Bytes came: they earn the time that they would take at the floor rate, and no more than
    /// `most` from now.
    pub(super) fn earn(&mut self, bytes: u32, floor: u64, most: u64, now: Tick) {
        let time = u64::from(bytes).saturating_mul(1_000_000) / floor.max(1);
        let from = self.delivers_until.0.max(now.0);
        let until = from.saturating_add(time).min(now.0.saturating_add(most));
        self.delivers_until = self.delivers_until.max(Tick(until));
    }

    /// A new status. `above` is what may be claimed without being above us.
    fn restate(&mut self, before: Height, height: Height, above: Height, now: Tick) {
        if before <= above {
            self.made = now;
        }
        if height <= above {
            self.doubt = None;
        }
    }
}

/// Since when everything but open claims says that we have caught up. On a live chain each block
/// interrupts it for a moment: only a longer interruption ends it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Evidence {
    since: Option<Tick>,
    lost: Option<Tick>,
}

impl Evidence {
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
        let lost = *self.lost.get_or_insert(now);
        let ended = now.0 >= lost.0.saturating_add(patience);
        if ended {
            *self = Evidence::default();
        }
        ended
    }
}

impl<B: Clone> Pool<B> {
    /// Takes a new status into account for the claim; `count` follows.
    pub(super) fn restate_claim(&mut self, id: ConnId, height: Height, now: Tick) {
        let above = self.applied.next();
        if let Some(conn) = self.conns.get_mut(&id) {
            let before = if conn.has_status {
                conn.height
            } else {
                Height::ZERO
            };
            conn.claim.restate(before, height, above, now);
        }
    }

    /// Puts the claim among those that count, or takes it out.
    pub(super) fn count_claim(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        let counts = conn.has_status
            && conn.above_us.is_none()
            && conn.unfit.is_none()
            && !conn.discredited
            && conn.claim.doubt.is_none();
        let height = counts.then_some(conn.height);
        if let Some(old) = std::mem::replace(&mut conn.claim.counted, height) {
            self.counted.remove(&(old, id));
        }
        self.counted.extend(height.map(|height| (height, id)));
        let doubted = conn.has_status && conn.claim.doubt.is_some();
        let height = doubted.then_some(conn.height);
        if let Some(old) = std::mem::replace(&mut conn.claim.listed, height) {
            self.doubted.remove(&(old, id));
        }
        self.doubted.extend(height.map(|height| (height, id)));
    }

    pub(super) fn uncount_claim(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        if let Some(old) = conn.claim.counted.take() {
            self.counted.remove(&(old, id));
        }
        if let Some(old) = conn.claim.listed.take() {
            self.doubted.remove(&(old, id));
        }
    }

    /// A block that this connection gave is proven: its claim has its time anew. One that was
    /// doubted only for being late counts again when it has brought us as far as all others claim.
    pub(super) fn credit_claim(&mut self, id: ConnId, height: Height, now: Tick) {
        let others = self.best_claim();
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        conn.claim.proven = Some(now);
        if conn.claim.doubt == Some(Doubt::Late) && height >= others {
            conn.claim.doubt = None;
            self.count_claim(id);
        }
    }

    /// The best claim that counts.
    pub(super) fn best_claim(&self) -> Height {
        self.counted
            .last()
            .map_or(Height::ZERO, |(height, _)| *height)
    }

    /// Whether a claim above `height` is open or delivering. Those whose time has passed are
    /// doubted from now on, so that each is looked at once. `complete` says that everything else is
    /// there for "caught up".
    pub(super) fn claims_are_open(&mut self, complete: bool, above: Height, now: Tick) -> bool {
        let patience = self.config.claim_patience;
        if self.evidence.note(complete, now, patience) {
            self.void_doubts();
        }
        while let Some((height, id)) = self.counted.last().copied() {
            if height <= above {
                return false;
            }
            match self.doubt_of(id, now) {
                None => return true,
                Some(doubt) => {
                    if let Some(conn) = self.conns.get_mut(&id) {
                        conn.claim.doubt = Some(doubt);
                    }
                    self.count_claim(id);
                }
            }
        }
        false
    }

    /// Whether the claim of a connection is past its time, were it above us.
    pub(super) fn doubt_of(&self, id: ConnId, now: Tick) -> Option<Doubt> {
        let (claim, since) = (&self.conns.get(&id)?.claim, self.evidence.since?);
        if claim.doubt.is_some() {
            return claim.doubt;
        }
        // Nobody is late before the settle time is over: those who came first do not decide alone.
        let first = self.first_up.unwrap_or(now);
        let settled = Tick(first.0.saturating_add(self.config.settle));
        if claim.made > since.max(settled) && claim.proven.is_none() {
            return Some(Doubt::Late);
        }
        let from = claim.proven.map_or(since, |proven| proven.max(since)).0;
        let most = from.saturating_add(self.config.delivery_patience);
        let delivers = claim.delivers_until.0.min(most);
        let until = from
            .saturating_add(self.config.claim_patience)
            .max(delivers);
        (now.0 >= until).then_some(Doubt::Expired)
    }

    /// We are behind again: what was doubted at the tip has its time when we come to stand the next
    /// time.
    fn void_doubts(&mut self) {
        let doubted: Vec<ConnId> = self.doubted.iter().map(|(_, id)| *id).collect();
        for id in doubted {
            if let Some(conn) = self.conns.get_mut(&id) {
                conn.claim.doubt = None;
            }
            self.count_claim(id);
        }
    }

    /// Peers that claim heights above ours and did not deliver within their time, those that claim
    /// most, and what they claim.
    #[must_use]
    pub fn doubted_claims(&self) -> Vec<(PeerId, Height)> {
        let above = self.applied.next();
        let higher = self.doubted.iter().rev().take_while(|(h, _)| *h > above);
        let named = higher.filter_map(|(h, id)| Some((self.conns.get(id)?.peer, *h)));
        named.take(NAMED).collect()
    }
}
