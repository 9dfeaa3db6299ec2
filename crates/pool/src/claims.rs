//! Which claims above us count (`design.md` 12). Silence disproves nothing and a word proves
//! nothing: a claim is *open* until its bound has passed, *delivering* while bytes come at the
//! floor rate from the connection that makes it, and *doubted* after that.
//!
//! The bound runs from the moment at which everything else says that we have caught up. A claim
//! made before that moment postpones "caught up" by `claim_patience` at most, or by
//! `delivery_patience` while its peer delivers; each block of the peer that is proven begins that
//! time anew. One made after that moment postpones nothing until a block of the peer is proven
//! beyond what others claim.
//!
//! A claim that is doubted has *ended*: above what others claim nothing but the two lowest heights
//! is asked for because of it, so that it can still be proven, and what came because of it goes. It
//! begins anew, for `claim_patience`, with each block of its peer that is proven.

use super::Pool;
use super::io::{Effect, Tick};
use super::peer::Peer;
use blocksync_types::ids::{ConnId, Height, PeerId};

/// Doubted claims that are named.
const NAMED: usize = 16;

/// Why a claim does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
pub(super) enum Doubt {
    /// It was made when everything else said that we have caught up.
    Late,
    /// Nothing that proves it came within its bound.
    Expired,
}

/// A connection's claim, since when it stands, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Claim {
    /// When it first claimed more than we have; a reconnect or a higher claim renews nothing.
    made: Tick,
    /// When a block of it was last proven.
    proven: Option<Tick>,
    /// It delivers until then, by the bytes that have come at the floor rate.
    delivers_until: Tick,
    doubt: Option<Doubt>,
    /// Nothing above the two lowest heights is held because of it.
    ended: bool,
    /// When a proof of it was last asked for, what it claimed then, and what we had.
    asked_proof: Option<(Tick, (Height, Height))>,
}

impl Claim {
    pub(crate) fn new(now: Tick) -> Self {
        Claim {
            made: now,
            proven: None,
            delivers_until: now,
            doubt: None,
            ended: false,
            asked_proof: None,
        }
    }

    /// Whether it does not count.
    pub(crate) fn is_doubted(&self) -> bool {
        self.doubt.is_some()
    }

    /// Whether nothing above the two lowest heights is held because of it.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Bytes came: they earn the time that they would take at the floor rate, and no more than
    /// `most` from now.
    pub(crate) fn earn(&mut self, bytes: u32, floor: u64, most: u64, now: Tick) {
        let time = u64::from(bytes).saturating_mul(1_000_000) / floor.max(1);
        let from = self.delivers_until.0.max(now.0);
        let until = from.saturating_add(time).min(now.0.saturating_add(most));
        self.delivers_until = self.delivers_until.max(Tick(until));
    }

    /// A new status claims `height` instead of `before`. `above` is what may be claimed without
    /// being above us.
    pub(crate) fn restate(&mut self, before: Height, height: Height, above: Height, now: Tick) {
        if before <= above {
            self.made = now;
        }
        if height <= above {
            self.set_doubt(None);
        }
    }

    /// A block that its peer gave is proven: it has its time anew. One that was doubted only for
    /// being late counts again when that block `leads`, which is to be as high as all others claim.
    fn credit(&mut self, leads: bool, now: Tick) {
        self.proven = Some(now);
        self.ended = false;
        if leads && self.doubt == Some(Doubt::Late) {
            self.doubt = None;
        }
    }

    /// Whether a proof may be asked for: not the same twice, and not since `again`. `what` is its
    /// height and ours.
    pub(super) fn may_be_proven(&self, what: (Height, Height), again: Tick) -> bool {
        let before = self.asked_proof;
        before.is_none_or(|(at, asked)| at <= again && asked != what)
    }

    /// A proof is asked for.
    pub(super) fn ask_proof(&mut self, what: (Height, Height), now: Tick) {
        self.asked_proof = Some((now, what));
    }

    /// Its peer has shown that there is more than we have: it counts.
    pub(super) fn vindicate(&mut self) {
        self.set_doubt(None);
    }

    fn set_doubt(&mut self, doubt: Option<Doubt>) {
        self.doubt = doubt;
        self.ended = doubt.is_some();
    }

    /// Whether it is doubted, and no block of its peer was proven since this time.
    fn is_stale(&self, since: Tick) -> bool {
        self.doubt.is_some() && self.proven.is_none_or(|proven| proven <= since)
    }

    /// Nothing above the two lowest heights is held because of it any more.
    pub(crate) fn end(&mut self) {
        self.ended = true;
    }
}

impl<B: Clone> Pool<B> {
    /// A block that this connection gave is proven, or its commit has proven one.
    pub(super) fn credit_claim(&mut self, id: ConnId, height: Height, now: Tick) {
        let leads = height >= self.best_claim();
        self.peers
            .update_claim(id, |claim| claim.credit(leads, now));
    }

    /// The best claim that counts.
    pub(super) fn best_claim(&self) -> Height {
        let best = self.peers.best_claim();
        best.map_or(Height::ZERO, |(height, _)| height)
    }

    /// Whether a claim above `height` is open or delivering. Those whose time has passed are
    /// doubted from now on, so that each is looked at once. `complete` says that everything else is
    /// there for "caught up".
    pub(super) fn claims_are_open(&mut self, complete: bool, above: Height, now: Tick) -> bool {
        let patience = self.config.claim_patience;
        if self.tip.note_evidence(complete, now, patience) {
            self.void_doubts();
        }
        // A doubted claim does not count, so each turn has another best one.
        while let Some((height, id)) = self.peers.best_claim() {
            if height <= above {
                return false;
            }
            match self.doubt_of(id, now) {
                None => return true,
                doubt => self.peers.update_claim(id, |claim| claim.set_doubt(doubt)),
            }
        }
        false
    }

    /// The claim that a status has just made may be the best one, and late: then nothing is asked
    /// for because of it.
    pub(super) fn doubt_at_once(&mut self, id: ConnId, now: Tick, out: &mut Vec<Effect<B>>) {
        let best = self.peers.best_claim();
        let leads = best.is_some_and(|(height, of)| of == id && height > self.window.next());
        let patience = self.config.claim_patience;
        let is_over = self.tip.is_evidence_over(now, patience);
        let rests = self.tip.is_paused() || self.tip.fatal().is_some();
        if leads && !is_over && !rests {
            let doubt = self.doubt_of(id, now);
            self.peers.update_claim(id, |claim| claim.set_doubt(doubt));
            self.close_unclaimed(now, out);
        }
    }

    /// Doubted claims that have begun anew end when nothing more of them was proven for a while.
    /// Those below one that stands open nothing, and are let be.
    pub(super) fn end_doubted(&mut self, now: Tick) {
        let Some(since) = now.0.checked_sub(self.config.claim_patience) else {
            return;
        };
        let is_stale = |peer: &Peer| peer.claim().is_stale(Tick(since));
        while let Some((_, id)) = self.peers.best_standing_claim()
            && self.peers.get(id).is_some_and(is_stale)
        {
            self.peers.update_claim(id, Claim::end);
        }
    }

    /// How far the window may reach: to the highest claim that has not ended. One that has may
    /// still be proven, by the two lowest heights.
    pub(super) fn reach(&self) -> Height {
        let [_, second] = self.window.lowest_two();
        let all = self.peers.highest_claim();
        let standing = self.peers.best_standing_claim();
        let standing = standing.map_or(Height::ZERO, |(height, _)| height);
        standing.max(all.min(second))
    }

    /// Closes the heights above the reach of the window: nobody whose claim stands has them. Their
    /// copies go, and requests for them are given up. Without doubts there is nothing to do:
    /// heights that nobody claims any more stay, since they may come again.
    pub(super) fn close_unclaimed(&mut self, now: Tick, out: &mut Vec<Effect<B>>) {
        let reach = self.reach();
        if self.peers.highest_claim() <= reach || self.window.end() <= reach.next() {
            return;
        }
        let before = self.window.end();
        for (height, ask) in self.window.shrink(reach) {
            self.asking().let_go(ask, height, out);
        }
        if self.window.end() < before {
            // There is room again for lower heights.
            self.asking().assign(now, out);
            self.govern_reading(now, out);
            let last_progress = self.tip.last_progress();
            self.asking().arm_hedge(last_progress, now);
        }
    }

    /// Whether the claim of a connection is past its time, were it above us.
    pub(super) fn doubt_of(&self, id: ConnId, now: Tick) -> Option<Doubt> {
        let (claim, since) = (self.peers.get(id)?.claim(), self.tip.complete_since()?);
        if claim.doubt.is_some() {
            return claim.doubt;
        }
        // Nobody is late before the settle time is over: those who came first do not decide alone.
        let first = self.tip.first_up().unwrap_or(now);
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
        let doubted: Vec<ConnId> = self.peers.doubted().map(|(_, id)| id).collect();
        for id in doubted {
            self.peers.update_claim(id, |claim| claim.set_doubt(None));
        }
    }

    /// Peers that claim heights above ours and did not deliver within their time, those that claim
    /// most, and what they claim.
    #[must_use]
    pub fn doubted_claims(&self) -> Vec<(PeerId, Height)> {
        let above = self.window.next();
        let higher = self.peers.doubted().take_while(|(h, _)| *h > above);
        let named = higher.filter_map(|(h, id)| Some((self.peers.get(id)?.id(), h)));
        named.take(NAMED).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::io::Input;
    use super::*;
    use crate::tests::feed_at;

    #[test]
    fn bytes_earn_their_time_at_the_floor_rate_and_no_more_than_the_most() {
        let mut claim = Claim::new(Tick(10));
        // 3 bytes at 1 000 a second take 3 000 us.
        claim.earn(3, 1_000, 10_000, Tick(10));
        assert_eq!(claim.delivers_until, Tick(3_010));
        claim.earn(3, 1_000, 10_000, Tick(10));
        assert_eq!(claim.delivers_until, Tick(6_010));
        claim.earn(300, 1_000, 10_000, Tick(10));
        assert_eq!(claim.delivers_until, Tick(10_010));
        // Less than was earned before takes nothing back.
        claim.earn(3, 1_000, 10, Tick(20));
        assert_eq!(claim.delivers_until, Tick(10_010));
        // After a pause the time counts from now.
        claim.earn(3, 1_000, 10_000, Tick(50_000));
        assert_eq!(claim.delivers_until, Tick(53_000));
        claim.earn(1, 0, u64::MAX, Tick(50_000));
        assert_eq!(
            claim.delivers_until,
            Tick(1_053_000),
            "a rate of 0 is one of 1"
        );
    }

    #[test]
    fn a_claim_is_as_old_as_the_first_word_of_more_than_we_have() {
        let [four, five, six, seven] = [4, 5, 6, 7].map(Height::new);
        let mut claim = Claim::new(Tick(0));
        claim.restate(Height::ZERO, six, five, Tick(1));
        assert_eq!(claim.made, Tick(1));
        claim.set_doubt(Some(Doubt::Expired));
        claim.restate(six, seven, five, Tick(2));
        assert_eq!(claim.made, Tick(1), "a higher one renews nothing");
        assert!(claim.is_doubted());
        claim.restate(seven, five, five, Tick(3));
        assert!(!claim.is_doubted(), "it is not above us any more");
        claim.restate(five, six, five, Tick(4));
        assert_eq!(claim.made, Tick(4), "what we have is not above us");
        claim.restate(four, six, five, Tick(5));
        assert_eq!(claim.made, Tick(5));
    }

    #[test]
    fn a_proven_block_ends_the_doubt_of_one_that_was_only_late_and_leads() {
        let cases = [
            (Doubt::Late, true, false),
            (Doubt::Late, false, true),
            (Doubt::Expired, true, true),
        ];
        for (doubt, leads, stays) in cases {
            let mut claim = Claim::new(Tick(0));
            claim.set_doubt(Some(doubt));
            claim.credit(leads, Tick(7));
            assert_eq!((claim.is_doubted(), claim.proven), (stays, Some(Tick(7))));
            claim.vindicate();
            assert!(!claim.is_doubted());
        }
    }

    #[test]
    fn a_proof_is_asked_for_anew_after_a_while_and_where_it_is_another() {
        let [a, b] = [1, 2].map(|h| (Height::new(100), Height::new(h)));
        let mut claim = Claim::new(Tick(0));
        assert!(claim.may_be_proven(a, Tick(0)));
        claim.ask_proof(a, Tick(5));
        assert!(!claim.may_be_proven(b, Tick(4)));
        assert!(claim.may_be_proven(b, Tick(5)));
        assert!(!claim.may_be_proven(a, Tick(5)), "the same says the same");
    }

    /// A pool with connections that claim these heights.
    fn claiming(heights: &[u64]) -> crate::tests::TestPool {
        let config = crate::PoolConfig::default();
        let mut pool = Pool::new(config, Height::ZERO, Height::new(1), Tick(0));
        for (n, height) in (0..).zip(heights) {
            let (conn, peer) = (ConnId(n), PeerId([1 + n as u8; 20]));
            feed_at(&mut pool, 0, Input::Up { conn, peer });
            let status = Input::Status {
                conn,
                base: Height::new(1),
                height: Height::new(*height),
                max_range: 1,
            };
            feed_at(&mut pool, 0, status);
        }
        pool
    }

    #[test]
    fn one_that_was_late_leads_with_a_block_as_high_as_what_others_claim() {
        let mut pool = claiming(&[10, 20]);
        let late = ConnId(1);
        pool.peers
            .update_claim(late, |claim| claim.set_doubt(Some(Doubt::Late)));
        assert_eq!(pool.best_claim(), Height::new(10));
        for (height, stays) in [(9, true), (10, false)] {
            pool.credit_claim(late, Height::new(height), Tick(1));
            let doubted = pool.doubted_claims().len();
            assert_eq!(doubted == 1, stays, "with block {height}");
        }
    }

    #[test]
    fn a_doubt_is_void_when_the_evidence_was_lost_for_as_long_as_a_claim_is_borne() {
        let mut pool = claiming(&[10]);
        let (above, patience) = (Height::new(1), pool.config.claim_patience);
        let settled = pool.config.settle;
        assert!(pool.claims_are_open(true, above, Tick(settled)));
        let doubted = settled + patience;
        assert!(!pool.claims_are_open(true, above, Tick(doubted)));
        assert_eq!(pool.doubted_claims().len(), 1);
        let lost = doubted + 1;
        for (now, kept) in [
            (lost, true),
            (lost + patience - 1, true),
            (lost + patience, false),
        ] {
            assert_eq!(
                pool.claims_are_open(false, above, Tick(now)),
                !kept,
                "{now}"
            );
            assert_eq!(pool.doubted_claims().len() == 1, kept, "{now}");
        }
    }
}
