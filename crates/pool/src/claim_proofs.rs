//! Proofs of claims (`design.md` 12): the highest block of a peer that claims much more than we
//! have is asked for early. Its last commit, judged by a set that we know, shows that the chain has
//! been decided up to some height, whoever gave it.
//!
//! That height is a fact, and one for all: while it is above us we have not caught up. It counts
//! for the applied height at which it was judged: keys of a set that has gone prove nothing to
//! those who have seen it go. So the copy is kept, and judged again where we come to stand.
//!
//! A claim that cannot be proven is nobody's fault: no answer, no block and a set that we do not
//! know leave everything as it was. A proof that came by another road (an advertisement) is the
//! same input, `Input::ClaimJudged`.

use std::collections::BTreeMap;

use super::Pool;
use super::asking::has_room;
use super::claims::Claim;
use super::io::{AskId, Candidate, Effect, Tick};
use super::peers::TRIES;
use blocksync_types::ids::{ConnId, Height};

/// Peers that are asked for a proof at a time, and copies with the verifier at a time.
const MAX_OPEN: usize = 8;

/// Times the usual time for an answer after which a proof that was asked for is not waited for.
const PATIENCE: u64 = 4;

/// A connection is asked for a proof no more often than this.
const INTERVAL: u64 = 60_000_000;

/// A claim that is not this far above what is proven says nothing new.
const NEWS: u64 = 8;

/// Time before a second connection is asked for a proof: mostly the first one gives it.
const PAUSE: u64 = 1_000_000;

/// A block that was asked for as the proof of a claim.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
struct Asked {
    ask: AskId,
    height: Height,
    at: Tick,
}

/// The highest height that a proof of a claim has shown.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(
    feature = "record",
    serde(bound(serialize = "", deserialize = "B: Default"))
)]
struct Proven<B> {
    height: Height,
    /// The applied height whose sets judged it.
    applied: Height,
    /// Its connection.
    from: ConnId,
    /// The copy, to be judged again; with the verifier while that is under way.
    copy: Option<Candidate<B>>,
}

/// Proofs of claims: those asked for, those with the verifier, and the highest that holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(
    feature = "record",
    serde(bound(serialize = "", deserialize = "B: Default"))
)]
pub(crate) struct ClaimProofs<B> {
    asked: BTreeMap<ConnId, Asked>,
    /// When somebody was last asked.
    last: Option<Tick>,
    /// Copies with the verifier, by their suppliers.
    judging: BTreeMap<ConnId, Candidate<B>>,
    proven: Option<Proven<B>>,
}

impl<B> Default for ClaimProofs<B> {
    fn default() -> Self {
        ClaimProofs {
            asked: BTreeMap::new(),
            last: None,
            judging: BTreeMap::new(),
            proven: None,
        }
    }
}

impl<B> ClaimProofs<B> {
    /// The highest height that a claim was proven for, whatever state judged it.
    pub(crate) fn height(&self) -> Height {
        let proven = self.proven.as_ref();
        proven.map_or(Height::ZERO, |proven| proven.height)
    }

    /// Bytes of all copies here.
    fn bytes(&self) -> u64 {
        let kept = self.proven.iter().filter_map(|p| p.copy.as_ref());
        let copies = self.judging.values().chain(kept);
        copies.map(|copy| u64::from(copy.meta.bytes)).sum()
    }

    /// Whether one more may be asked now.
    fn has_room(&self, now: Tick) -> bool {
        let pause = self.last.map_or(0, |last| last.0.saturating_add(PAUSE));
        self.asked.len() < MAX_OPEN && now.0 >= pause
    }

    /// Takes an answer, if this block was asked for as a proof. Says whether it was.
    pub(crate) fn answer(&mut self, id: ConnId, height: Height) -> bool {
        let asked = self.asked.get(&id);
        asked.is_some_and(|a| a.height == height) && self.asked.remove(&id).is_some()
    }

    /// A request that has not left is not open any more.
    pub(crate) fn unask(&mut self, ask: AskId) {
        self.asked.retain(|_, asked| asked.ask != ask);
    }

    /// Forgets a connection that is gone. Its copies stay: a proof needs no supplier.
    pub(crate) fn forget(&mut self, id: ConnId) {
        self.asked.remove(&id);
    }

    /// Requests that are given up: those older than this, or all. Returns connection, height and
    /// request.
    fn give_up(&mut self, before: Option<Tick>) -> Vec<(ConnId, Height, AskId)> {
        let old = |asked: &Asked| before.is_none_or(|before| asked.at <= before);
        let gone = self.asked.iter().filter(|(_, asked)| old(asked));
        let gone: Vec<_> = gone.map(|(id, a)| (*id, a.height, a.ask)).collect();
        self.asked.retain(|_, asked| !old(asked));
        gone
    }

    /// A judgement has come. A height takes the place of a lower one, and of one that an older
    /// state judged.
    fn settle(&mut self, id: ConnId, judged: Option<(Height, Height)>) {
        let copy = self.judging.remove(&id);
        let Some((height, applied)) = judged else {
            // The proof that was judged anew proves nothing any more.
            self.proven.take_if(|p| p.from == id && p.copy.is_none());
            return;
        };
        let is_better = |p: &Proven<B>| (p.applied, p.height) > (applied, height);
        if !self.proven.as_ref().is_some_and(is_better) {
            self.proven = Some(Proven {
                height,
                applied,
                from: id,
                copy,
            });
        }
    }

    /// Whether what is proven is being judged again.
    fn is_judged_again(&self) -> bool {
        let proven = self.proven.as_ref().filter(|p| p.copy.is_none());
        proven.is_some_and(|p| self.judging.contains_key(&p.from))
    }

    /// Open requests.
    pub(crate) fn asks(&self) -> impl Iterator<Item = AskId> {
        self.asked.values().map(|asked| asked.ask)
    }

    /// Gives open requests their new names.
    pub(crate) fn rename(&mut self, names: &BTreeMap<AskId, AskId>) {
        for asked in self.asked.values_mut() {
            asked.ask = names[&asked.ask];
        }
    }

    /// Panics when an invariant is broken. `is_there` tells whether a connection is.
    pub(crate) fn check(&self, is_there: impl Fn(ConnId) -> bool) {
        assert!(self.asked.len() <= MAX_OPEN, "proofs asked for");
        assert!(self.judging.len() <= MAX_OPEN, "proofs with the verifier");
        assert!(
            self.asked.keys().all(|id| is_there(*id)),
            "a proof is waited for from a connection that is gone"
        );
    }
}

impl<B: Clone> Pool<B> {
    /// Asks one of those for a proof whose claim would show something new: the lowest such claim
    /// first, since lies about the tip lie above it.
    pub(super) fn ask_claimants(&mut self, now: Tick, out: &mut Vec<Effect<B>>) {
        self.give_up_proofs(now, out);
        if !self.claim_proofs.has_room(now) {
            return;
        }
        let claimants = self.peers.with_claim_from(self.provable());
        for id in claimants.take(TRIES).collect::<Vec<_>>() {
            if self.ask_for_proof(id, now, out) {
                return;
            }
        }
    }

    /// Asks a connection for its highest block, where that would show something new. That is a
    /// request beside those of the window, and says nothing of how well its peer delivers. Says
    /// whether it was asked.
    pub(super) fn ask_for_proof(
        &mut self,
        id: ConnId,
        now: Tick,
        out: &mut Vec<Effect<B>>,
    ) -> bool {
        let Some((height, ranged)) = self.claim_to_prove(id, now) else {
            return false;
        };
        // Named, but not opened: it is no slot's request, and the peer owes no height by it.
        let ask = self.requests.name();
        out.push(Effect::Ask {
            ask,
            conn: id,
            from: height,
            count: 1,
            ranged,
        });
        let proofs = &mut self.claim_proofs;
        let at = now;
        proofs.asked.insert(id, Asked { ask, height, at });
        proofs.last = Some(now);
        let applied = self.window.applied();
        self.peers
            .update_claim(id, |claim| claim.ask_proof((height, applied), now));
        true
    }

    /// The lowest claim that is worth a proof: what is near comes soon enough, and is proven as it
    /// comes.
    fn provable(&self) -> Height {
        let near = u64::from(self.config.prove_claims_above);
        let far = self.window.next().plus(near.saturating_add(1));
        let proven = self.claim_proofs.proven.as_ref();
        proven.map_or(far, |proven| far.max(proven.height.plus(NEWS)))
    }

    /// The height that a connection is asked for as a proof, and whether it answers ranges.
    fn claim_to_prove(&self, id: ConnId, now: Tick) -> Option<(Height, bool)> {
        let peer = self.peers.get(id)?;
        let (height, applied) = (peer.height(), self.window.applied());
        let is_far = height >= self.provable();
        let again = now.0.saturating_sub(INTERVAL);
        let is_due = peer.claim().may_be_proven((height, applied), Tick(again));
        let proofs = &self.claim_proofs;
        let is_free = proofs.has_room(now)
            && !proofs.asked.contains_key(&id)
            && peer.ask_for(height).is_none();
        // The proofs on their way are not among the heights that the peers owe.
        let open = proofs.asked.len() as u64;
        let fits = has_room(&self.window, &self.peers, &self.budget, Height::ZERO, open);
        let sound = self.tip.fatal().is_none() && !self.tip.is_paused();
        (is_far && is_due && is_free && fits && sound).then(|| (height, peer.answers_ranges()))
    }

    /// Proofs that have been waited for long enough: an answer that comes all the same is no fault.
    fn give_up_proofs(&mut self, now: Tick, out: &mut Vec<Effect<B>>) {
        let patience = self.config.request_timeout.saturating_mul(PATIENCE);
        if let Some(before) = now.0.checked_sub(patience) {
            self.abandon_proofs(Some(Tick(before)), out);
        }
    }

    fn abandon_proofs(&mut self, before: Option<Tick>, out: &mut Vec<Effect<B>>) {
        for (id, height, ask) in self.claim_proofs.give_up(before) {
            self.peers
                .update(id, self.budget.estimate(), |p| p.abandon(height));
            out.push(Effect::Cancel { ask });
        }
    }

    /// Forgets all proofs: somebody else has the store.
    pub(super) fn clear_proofs(&mut self, out: &mut Vec<Effect<B>>) {
        self.abandon_proofs(None, out);
        self.claim_proofs = ClaimProofs::default();
        self.set_aside();
    }

    /// The block that was asked for as a proof goes to the verifier, if there is room for it.
    pub(super) fn prove_claim(&mut self, copy: Candidate<B>, out: &mut Vec<Effect<B>>) {
        let judging = &self.claim_proofs.judging;
        let is_free = judging.len() < MAX_OPEN && !judging.contains_key(&copy.from.conn);
        let held = self.window.held_bytes();
        if is_free && self.budget.may_hold(held, u64::from(copy.meta.bytes)) {
            self.hand_in(copy, out);
        }
    }

    fn hand_in(&mut self, copy: Candidate<B>, out: &mut Vec<Effect<B>>) {
        let judging = &mut self.claim_proofs.judging;
        judging.insert(copy.from.conn, copy.clone());
        self.set_aside();
        out.push(Effect::ProveClaim { copy });
    }

    /// A proof of this connection's claim was judged, by the sets known at `applied`.
    pub(super) fn claim_judged(
        &mut self,
        id: ConnId,
        proven: Option<Height>,
        applied: Height,
        now: Tick,
        out: &mut Vec<Effect<B>>,
    ) {
        let judged = proven.map(|height| (height, applied));
        self.claim_proofs.settle(id, judged);
        self.set_aside();
        if proven > Some(self.window.next()) {
            self.peers.update_claim(id, Claim::vindicate);
        } else if proven.is_none() {
            // It said nothing: somebody else may, and need not wait for it.
            self.claim_proofs.last = None;
            self.ask_claimants(now, out);
        }
    }

    /// The copies here are charged to the byte budget.
    fn set_aside(&mut self) {
        self.budget.set_aside(self.claim_proofs.bytes());
    }

    /// Where nothing else keeps us from saying that we have caught up, a proof above us that an
    /// older state judged is judged again. One that cannot be, or is not above us, is let go.
    pub(super) fn judge_proof_again(&mut self, now: Tick, out: &mut Vec<Effect<B>>) {
        let (applied, next) = (self.window.applied(), self.window.next());
        let Some(proven) = &self.claim_proofs.proven else {
            return;
        };
        let is_above = proven.height > next;
        let holds = proven.applied >= applied || !self.stands(now);
        if is_above && (holds || self.claim_proofs.is_judged_again()) {
            return;
        }
        let proven = self.claim_proofs.proven.as_mut();
        match proven.and_then(|p| p.copy.take()).filter(|_| is_above) {
            Some(copy) => self.hand_in(copy, out),
            None => {
                self.claim_proofs.proven = None;
                self.set_aside();
            }
        }
    }

    /// Whether a claim is proven that is above us by more than one.
    pub(super) fn more_is_proven(&self) -> bool {
        self.claim_proofs.height() > self.window.next()
    }
}
