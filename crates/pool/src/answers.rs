//! Input from peers: connections, statuses, blocks and their absence.

use super::Pool;
use super::io::{AskId, Candidate, Effect, Meta, Tick};
use super::peer::{Answer, Peer};
use super::slot::{MAX_COPIES, Slot};
use blocksync_types::fault::{CloseReason, Fault};
use blocksync_types::ids::{ConnId, Height, PeerId, Source};

/// The kind of an answer, by the request that it belongs to.
enum Kind {
    /// The request is open.
    Owed(AskId),
    /// It was asked for beside the window, as the proof of a claim.
    Claim,
    /// The request was given up; its answer is no fault.
    Late,
    /// There was no request.
    Unasked,
}

impl<B: Clone> Pool<B> {
    pub(super) fn up(&mut self, id: ConnId, peer: PeerId, now: Tick, out: &mut Vec<Effect<B>>) {
        let drop = |conn, reason, ban_until| Effect::Drop {
            conn,
            peer,
            reason,
            ban_until,
        };
        if let Some(until) = self.bans.refused_until(peer, now) {
            let reason = CloseReason::Refused { until: until.0 };
            out.push(drop(id, reason, Some(until)));
            return;
        }
        // The newer connection wins: of a peer that restarted the old one may look alive for
        // minutes.
        if let Some(old) = self.peers.conn_of(peer) {
            self.release(old);
            out.push(drop(old, CloseReason::Replaced, None));
        }
        // Counted without the connection that was just replaced: a peer that reconnects takes its
        // own place again.
        if self.peers.len() >= self.config.max_peers as usize {
            out.push(drop(id, CloseReason::TooMany, None));
            return;
        }
        // A new connection wipes out no strike: a mute peer that comes back would otherwise be
        // asked for the lowest heights again.
        let struck = self.bans.is_struck(peer);
        let new = Peer::new(peer, struck, now, &self.config);
        self.peers.add(id, new, self.budget.estimate());
        self.poll_after(id, now, self.config.status_interval);
        // The first of all peers starts the settle time, in which nothing final is said.
        if self.tip.peer_came(now, self.config.settle) {
            let settled = Tick(now.0.saturating_add(self.config.settle));
            self.deadlines.arm_settled(settled);
        }
        out.push(Effect::AskStatus { conn: id });
    }

    /// Forgets a connection and what it owed; what it gave stays. Returns whose it was.
    pub(super) fn release(&mut self, id: ConnId) -> Option<PeerId> {
        let peer = self.peers.remove(id)?;
        self.deadlines.forget(id);
        self.budget.forget(id);
        self.claim_proofs.forget(id);
        for (height, ask) in peer.owed() {
            self.asking().close(*ask, *height);
        }
        if self.peers.is_empty() {
            self.tip.all_left(self.deadlines.now());
        }
        Some(peer.id())
    }

    pub(super) fn status(
        &mut self,
        id: ConnId,
        (base, height): (Height, Height),
        max_range: u32,
        now: Tick,
        out: &mut Vec<Effect<B>>,
    ) {
        // An empty store says 0 and 0, so nothing honest is inverted (`faults.md` P08).
        if base > height {
            self.drop_conn(id, Fault::BadRange, now, out);
            return;
        }
        let next = self.window.next();
        let told = self.peers.update(id, self.budget.estimate(), |peer| {
            peer.restate((base, height), max_range, next, now);
        });
        if told.is_some() {
            // Whether or not it has gained room, it may have what it had not before.
            self.peers.note_gained(id);
            self.doubt_at_once(id, now, out);
            self.ask_for_proof(id, now, out);
        }
    }

    pub(super) fn block(
        &mut self,
        id: ConnId,
        meta: Meta,
        block: B,
        now: Tick,
        out: &mut Vec<Effect<B>>,
    ) {
        // Dropped by us: inputs that were on their way then still arrive.
        let Some(peer) = self.peers.get(id) else {
            return;
        };
        let from = Source {
            peer: peer.id(),
            conn: id,
        };
        let (owed, late) = (peer.ask_for(meta.height), peer.has_abandoned(meta.height));
        let proves = self.take_proof(id, meta.height, owed);
        let kind = match owed {
            Some(ask) => Kind::Owed(ask),
            None if proves => Kind::Claim,
            // Given up by us, not by the peer: the block is as good as any.
            None if late => Kind::Late,
            None => Kind::Unasked,
        };
        if matches!(kind, Kind::Unasked) {
            self.drop_conn(id, Fault::Unasked, now, out);
            return;
        }
        let in_debt = self.take_answer(id, &meta, &kind, now);
        if let Kind::Owed(ask) = kind {
            self.answered(id, meta.height, ask, in_debt, now);
        } else if in_debt {
            self.wait_longer(id, now);
        } else {
            self.deadlines.set_overdue(id, None);
        }
        let copy = Candidate { meta, from, block };
        if proves {
            self.prove_claim(copy.clone(), out);
        }
        self.hold(copy, now, out);
    }

    /// Whether this answer is one to a request for the proof of a claim. Where the window has asked
    /// for the same height meanwhile one answer does for both, and the other one is no fault.
    fn take_proof(&mut self, id: ConnId, height: Height, owed: Option<AskId>) -> bool {
        let proves = self.claim_proofs.answer(id, height);
        if proves && owed.is_some() {
            self.peers
                .update(id, self.budget.estimate(), |peer| peer.abandon(height));
        }
        proves
    }

    /// Notes an answer with its sender, and what it shows of him. Says whether he is still in
    /// debt.
    fn take_answer(&mut self, id: ConnId, meta: &Meta, kind: &Kind, now: Tick) -> bool {
        let height = meta.height;
        let asked = match kind {
            Kind::Owed(ask) => self.requests.get(*ask).map_or(now, |a| a.at()),
            _ => now,
        };
        let answer = Answer {
            height,
            bytes: meta.bytes,
            asked,
            horizon: self.config.hedge_ceiling,
            share: self.fair_share(meta.bytes),
        };
        let patience = self.config.claim_patience;
        let unproven = self.budget.unproven();
        let taken = self.peers.update(id, self.budget.estimate(), |peer| {
            // The message is whole: none of it counts as partial any more.
            peer.receive(0, now);
            // Its next blocks may be as large. A copy that proves a claim is far from those.
            if !matches!(kind, Kind::Claim) {
                peer.note_size(meta.bytes, unproven);
            }
            match kind {
                Kind::Owed(_) => peer.answer(answer, now),
                // Nothing is learned from it of how well the peer delivers: the one that is asked
                // first would get ahead of the others.
                Kind::Claim => {
                    peer.note_life(now);
                    return (None, peer.is_in_debt());
                }
                _ => {
                    peer.answer_late(height);
                    peer.note_life(now);
                }
            }
            // A delivered height is proof of life only up to that height.
            let had_failed = peer.credit(height, patience, now);
            (had_failed.then(|| peer.id()), peer.is_in_debt())
        });
        let (had_failed, in_debt) = taken.unwrap_or_default();
        if let Some(peer) = had_failed {
            self.bans.forgive(peer);
        }
        in_debt
    }

    /// An answer that was given up has come all the same: its sender is at work, and its other
    /// answers may wait behind this one.
    fn wait_longer(&mut self, id: ConnId, now: Tick) {
        if let Some(peer) = self.peers.get(id) {
            let time = peer.time_to_answer(self.config.request_timeout);
            let until = Tick(now.0.saturating_add(time));
            self.deadlines.set_overdue(id, Some(until));
        }
    }

    /// An answer to an open request came, and its sender knows of it. `in_debt` says whether he has
    /// something else to answer.
    fn answered(&mut self, id: ConnId, height: Height, ask: AskId, in_debt: bool, now: Tick) {
        let later = Tick(now.0.saturating_add(self.config.request_timeout));
        self.deadlines.set_overdue(id, in_debt.then_some(later));
        self.asking().close(ask, height);
    }

    /// The most heights that one connection may owe us: half the window shared by all, a quarter of
    /// the byte budget in blocks of this size, and what a CometBFT node queues without losing an
    /// answer. Never below what its own pool asks of others.
    pub(super) fn fair_share(&self, bytes: u32) -> usize {
        let connections = self.peers.len().max(1) as u64;
        let heights = u64::from(self.config.window) / 2 / connections;
        let blocks = self.config.budget_bytes / 4 / u64::from(bytes.max(1));
        let most = u64::from(self.config.asks_per_peer_max);
        let least = u64::from(self.config.asks_per_peer);
        usize::try_from(heights.min(blocks).min(most).max(least)).unwrap_or(usize::MAX)
    }

    /// Puts a copy into its slot, or judges it when the height is proven already.
    fn hold(&mut self, copy: Candidate<B>, now: Tick, out: &mut Vec<Effect<B>>) {
        let height = copy.meta.height;
        // Applied by now, or from before the window was emptied.
        let Some(slot) = self.window.slot(height) else {
            return;
        };
        if let Some(certified) = slot.certified() {
            if copy.meta.id != certified {
                self.judge_rival(copy, certified, now, out);
                return;
            }
            if slot.is_proven() || !slot.is_missing() {
                return;
            }
        } else if is_of_no_use(slot, &copy) {
            // A copy that does not fit our genesis is the same from any peer: its supplier
            // is not asked again. Otherwise nothing is lost: a height is asked for again
            // when its copies prove wrong.
            if slot.unfit().is_some() {
                self.note_unfit(height, copy.from.conn);
            }
            return;
        }
        if !self.may_hold(height, copy.meta.bytes) {
            return;
        }
        self.window.update(height, |slot| slot.hold(copy));
        if self.window.proven() == self.window.applied() {
            self.prover.wake();
        }
        self.cancel_rest(height, out);
        self.advance(now);
        // A copy further up is no progress: it would hide that the frontier stands still.
        if height == self.window.frontier() {
            self.tip.progress(now);
        }
    }

    /// A connection that owes one of the two lowest heights is read over budget, and may send
    /// others first: these are let go and asked for again. So the bound holds whatever comes: the
    /// budget, and one copy each of the two lowest heights.
    fn may_hold(&self, height: Height, bytes: u32) -> bool {
        let held = self.window.held_bytes();
        self.budget.may_hold(held, u64::from(bytes))
            || (self.window.is_lowest_two(height) && self.window.is_missing(height))
    }

    /// A copy has come: other open requests for the height are given up; their answers are no
    /// fault.
    fn cancel_rest(&mut self, height: Height, out: &mut Vec<Effect<B>>) {
        for ask in self.window.asks(height).to_vec() {
            self.asking().let_go(ask, height, out);
        }
    }

    pub(super) fn no_block(&mut self, id: ConnId, height: Height, now: Tick) {
        let Some(peer) = self.peers.get(id) else {
            return;
        };
        let (known, ask) = (self.window.frontier(), peer.ask_for(height));
        let proves = self.take_proof(id, height, ask);
        // A claim that cannot be proven leaves everything as it was (`claim_proofs`).
        if ask.is_none() && proves {
            return;
        }
        let in_debt = self.peers.update(id, self.budget.estimate(), |peer| {
            match ask {
                Some(_) => peer.lack(height, known, now),
                None => {
                    peer.answer_late(height);
                }
            }
            peer.is_in_debt()
        });
        if let Some(ask) = ask {
            self.answered(id, height, ask, in_debt == Some(true), now);
            self.hasten_status(id, now);
        } else if in_debt != Some(true) {
            self.deadlines.set_overdue(id, None);
        }
    }

    /// Nothing of a request has left, so no answer can come; and nothing of it is held against the
    /// peer.
    pub(super) fn send_failed(&mut self, ask: AskId, now: Tick) {
        let Some(open) = self.requests.get(ask).cloned() else {
            // Proofs of claims are named like requests, but are not among them.
            self.claim_proofs.unask(ask);
            return;
        };
        let id = open.conn();
        let failed = self.peers.update(id, self.budget.estimate(), |peer| {
            let failed = open.heights().filter(|height| peer.unask(*height, ask));
            (failed.collect::<Vec<_>>(), peer.is_in_debt())
        });
        let Some((failed, in_debt)) = failed else {
            return;
        };
        for height in failed {
            self.asking().close(ask, height);
        }
        if !in_debt {
            self.deadlines.set_overdue(id, None);
        }
        self.hasten_status(id, now);
    }
}

/// Whether a copy is as good as one that is held, or there is no room for it in its slot, or it is
/// known not to fit our genesis.
fn is_of_no_use<B>(slot: &Slot<B>, copy: &Candidate<B>) -> bool {
    let as_good = |held: &Candidate<B>| {
        held.meta.id == copy.meta.id && held.meta.has_own_commit >= copy.meta.has_own_commit
    };
    slot.copies().len() >= MAX_COPIES
        || slot.copies().iter().any(as_good)
        || slot.unfit().is_some_and(|(id, _)| *id == copy.meta.id)
}
