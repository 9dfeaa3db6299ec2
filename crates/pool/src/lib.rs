//! The scheduler: a pure state machine that decides what is asked of whom, what is proven, what is
//! applied, and who is to blame.
//!
//! The same code runs in production, in the model checker, in the simulator and in the fuzzer: no
//! clock, no randomness, no I/O, no hash order. Same inputs, same effects.
//!
//! # Life of a height
//! `Wanted` → asked (one request, perhaps a hedge) → `Held` (one or two unequal copies) →
//! `Verifying` → `Verified` → `Applying` → gone. It moves right, or back to `Held` or `Wanted` by a
//! verdict.
//!
//! # Owners
//! The state lies with owners, each in a file of its own with private fields and a `check` of its
//! own: `window` (and `slot`), `peers` (and `peer`, `claims`, `request_window`), `requests`,
//! `budget`, `prover`, `claim_proofs`, `bans`, `deadlines`, `tip`. Rules that concern more than
//! one are methods of the pool: `answers` takes what comes from peers, `asking` makes requests and
//! hedges them, `prove` has runs and verdicts, `blame` what follows for a peer, `timers` what time
//! does, `reading` which sockets are read, `outcome` what is said of the whole, `check` what must
//! always hold.
//!
//! # Cost
//! An input costs O(log n) amortised, n the connections and the heights of the window; only `Stop`
//! and `Resume`, once each, cost O(n). These might cost more, and do not:
//! * A change for every connection is said once: `Effect::Read` names the few that are read over
//!   the byte budget, the tip changes what the times of status polls mean (`timers`), and who was
//!   not read gets more time when its answer would be judged.
//! * No search looks at more than `peers::TRIES` connections in one order, and none at the heights
//!   that a connection lacks beyond `MAX_LACKS`.
//! * Timers are worked off in turns of a bounded number; each was armed by an input or by its own
//!   last turn.
//! * A height is opened, proven and applied once, but for what a convicted supplier undoes, and for
//!   what a claim that ends closes: that takes the time for which a claim is borne. It is
//!   unservable once for each time that it was opened or given back, and brought back once for each
//!   unit of room that a connection gains; a connection that leaves takes what it owed along, and
//!   each of these was an ask.
//! * That nobody's first block fits our genesis is looked for among those who claim it and have not
//!   given one.
//!
//! `benches/pool.rs` measures it from 50 to 10 000 connections.
//!
//! # Terms
//! *frontier*: the lowest height not proven. *carrier*: the copy one height above a run, whose last
//! commit proves it. *owed*: asked of a connection and not answered. *abandoned*: owed once, given
//! up, and still no fault when it comes. *unservable*: wanted, but nobody with room has it.

mod answers;
mod asking;
mod bans;
mod blame;
mod budget;
mod check;
mod claim_proofs;
mod claims;
mod config;
mod deadlines;
mod io;
mod outcome;
mod peer;
mod peers;
mod prove;
mod prover;
mod reading;
#[cfg(feature = "record")]
pub mod record;
mod renumber;
mod request_window;
mod requests;
mod slot;
mod timers;
mod tip;
mod view;
mod window;

#[cfg(test)]
mod asking_tests;
#[cfg(test)]
mod check_tests;
#[cfg(test)]
mod claim_tests;
#[cfg(test)]
mod crowd_tests;
#[cfg(test)]
mod doubt_tests;
#[cfg(test)]
mod outcome_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod window_tests;

pub use config::PoolConfig;
pub use io::*;
pub use renumber::Renumbered;
pub use view::PeerView;

use bans::Bans;
use blocksync_types::fault::CloseReason;
use blocksync_types::ids::{ConnId, Height};
use budget::Budget;
use claim_proofs::ClaimProofs;
use deadlines::Deadlines;
use peers::Peers;
use prover::Prover;
use requests::Requests;
use tip::Tip;
use window::Window;

/// The scheduler: see the crate.
///
/// Each field owns its part of the state, and nobody else writes that. Rules that concern more than
/// one owner are methods of the pool.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(
    feature = "record",
    serde(bound(serialize = "", deserialize = "B: Default"))
)]
pub struct Pool<B> {
    config: PoolConfig,
    /// The heights from the lowest unapplied one up, and their copies.
    window: Window<B>,
    /// The connections: their claims, what they owe, how well they deliver.
    peers: Peers,
    /// Open requests.
    requests: Requests,
    /// The byte budget, and which sockets are read.
    budget: Budget,
    /// Work under way with the verifier.
    prover: Prover,
    /// Proofs of claims far above us.
    claim_proofs: ClaimProofs<B>,
    /// Peers that are refused.
    bans: Bans,
    /// The clock, and what is due when.
    deadlines: Deadlines,
    /// Facts about the whole from which the outcome follows.
    tip: Tip,
}

impl<B: Clone> Pool<B> {
    /// A pool above this applied height of a chain whose first block has height `initial`.
    #[must_use]
    pub fn new(config: PoolConfig, applied: Height, initial: Height, now: Tick) -> Self {
        Pool {
            window: Window::new(applied, initial),
            peers: Peers::default(),
            requests: Requests::default(),
            budget: Budget::new(&config),
            prover: Prover::default(),
            claim_proofs: ClaimProofs::default(),
            bans: Bans::default(),
            deadlines: Deadlines::new(now),
            tip: Tip::new(now),
            config,
        }
    }

    /// Takes an input and appends what is to be done. Never returns while a wanted height could be
    /// asked of an eligible peer within budget.
    pub fn handle(&mut self, input: Input<B>, now: Tick, out: &mut Vec<Effect<B>>) {
        let now = self.observe(now);
        if matches!(self.tip.fatal(), Some(Outcome::Stopped)) {
            return;
        }
        self.dispatch(input, now, out);
        self.make_progress(now, out);
        // Here and not where the deadline is asked for: inputs alone decide what the pool is.
        self.deadlines.settle_first();
    }

    fn dispatch(&mut self, input: Input<B>, now: Tick, out: &mut Vec<Effect<B>>) {
        // First, whatever the input turns out to be: somebody was heard, so it is not we who are
        // cut off.
        self.listen(&input, now);
        match input {
            Input::Up { conn, peer } => self.up(conn, peer, now, out),
            Input::Down { conn } => {
                self.release(conn);
            }
            Input::Status {
                conn,
                base,
                height,
                max_range,
            } => {
                self.status(conn, (base, height), max_range, now, out);
            }
            Input::Receiving { conn, bytes } => self.receiving(conn, bytes, now),
            Input::Unread { conn } => self.unread(conn, now),
            Input::Silent { conn, micros } => self.silent(conn, micros, now, out),
            Input::Block { conn, meta, block } => self.block(conn, meta, block, now, out),
            Input::NoBlock { conn, height } => self.no_block(conn, height, now),
            Input::Malformed { conn, fault } => self.drop_conn(conn, fault, now, out),
            Input::HungUp { conn, reason } => self.drop_conn(conn, reason, now, out),
            Input::SendFailed { ask } => self.send_failed(ask, now),
            Input::Verdict { run, verdict } => self.verdict(run, verdict, now, out),
            Input::Examined { run, guilty } => self.examined(run, guilty, now, out),
            Input::ClaimJudged {
                conn,
                proven,
                applied,
            } => self.claim_judged(conn, proven, applied, now, out),
            Input::Applied { through } => self.applied_through(through, now),
            Input::Rejected {
                height,
                from,
                fault,
            } => self.rejected(height, from, fault, now, out),
            Input::Expected { peers, coming } => self.peers.expect(peers, coming),
            Input::LocalFault(fault) => self.tip.fail(Outcome::LocalFault(fault)),
            Input::Backpressure { on } => self.set_backpressure(on, now),
            Input::Pause => {
                self.clear(out);
                self.tip.pause();
            }
            Input::Resume { applied } => self.resume(applied, now, out),
            Input::Overdue { conn } => self.debt_due(conn, now, out),
            Input::Hedge => {
                if let Some(height) = self.deadlines.take_hedge() {
                    self.asking().hedge(height, now, out);
                }
            }
            // The time was taken note of above, and all that is due comes with `make_progress`.
            Input::Tick => {}
            Input::Stop => self.stop(out),
        }
    }

    /// Everything that may follow from any input, in the order in which one makes room for the
    /// next.
    fn make_progress(&mut self, now: Tick, out: &mut Vec<Effect<B>>) {
        // While paused, too: statuses are still asked for, so that the claims are known at
        // `Resume`.
        self.expire(now, out);
        if self.tip.fatal().is_none() {
            if self.tip.is_paused() {
                return;
            }
            // Proven blocks can be applied; applied ones make room in the window and the budget for
            // the next requests.
            self.prove(now, out);
            self.apply(out);
            self.grow();
            self.asking().assign(now, out);
            self.govern_reading(now, out);
            let last_progress = self.tip.last_progress();
            self.asking().arm_hedge(last_progress, now);
        }
        // Only genesis vouches for the first block: a copy that does not fit convicts nobody, and
        // when nobody has another one we are the ones who differ (`design.md` 5).
        if self.window.applied() < self.window.initial()
            && self.has_settled(now)
            && !self.peers.only_strangers_are_unfit()
            && let Some(what) = self.contradicted_by_all()
        {
            self.tip.fail(Outcome::Contradiction { what, fork: None });
        }
        self.judge_proof_again(now, out);
        self.say(now, out);
    }

    /// Opens the window up to its size, the best claim that has not ended, and the height above
    /// `until`, which holds its commit.
    fn grow(&mut self) {
        let reach = self.reach();
        let until = self.config.until;
        let top = until.map_or(reach, |until| reach.min(until.next()));
        // A window of one height would never move: the commit for a block lies in the next one.
        self.window.grow(top, self.config.window.max(2));
    }

    /// The executor has applied everything up to this height.
    fn applied_through(&mut self, through: Height, now: Tick) {
        while self.window.next() <= through {
            let height = self.window.next();
            // A slot that leaves the window takes its open requests with it.
            for ask in self.window.pop_applied() {
                self.asking().give_up(ask, height);
            }
        }
        self.tip.progress(now);
        // The validator sets of newer heights are known now: a run that could not be judged may be.
        self.prover.wake();
        self.count_those_below_us();
    }

    /// Consensus has had the store: everything held is stale, the peers stay.
    fn resume(&mut self, applied: Height, now: Tick, out: &mut Vec<Effect<B>>) {
        self.clear(out);
        self.window.restart(applied);
        self.tip.resume(now);
        self.count_those_below_us();
    }

    /// Releases everything. Nothing is due or asked any more.
    fn stop(&mut self, out: &mut Vec<Effect<B>>) {
        self.clear(out);
        let all: Vec<ConnId> = self.peers.iter().map(|(id, _)| id).collect();
        for conn in all {
            let Some(peer) = self.release(conn) else {
                continue;
            };
            out.push(Effect::Drop {
                conn,
                peer,
                reason: CloseReason::Stopping,
                ban_until: None,
            });
        }
        self.deadlines.clear();
        self.tip.fail(Outcome::Stopped);
    }

    /// Empties the window and forgets what is under way.
    fn clear(&mut self, out: &mut Vec<Effect<B>>) {
        for (height, ask) in self.window.clear() {
            self.asking().let_go(ask, height, out);
        }
        self.clear_proofs(out);
        self.prover.clear();
    }
}
