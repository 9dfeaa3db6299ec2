//! The environment that the model puts around the production pool: peers, a verifier and an
//! executor, all nondeterministic. Time stands still; the expiry of a faulty peer's deadline and of
//! the hedge delay are inputs. An open request is the message in flight: there is no network
//! besides.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher};

use crate::digest;
use blocksync_pool::{
    Candidate, Effect, Input, Meta, Outcome, Pool, PoolConfig, RunId, Tick, Verdict,
};
use blocksync_types::fault::{CloseReason, Fault, Overdue, Penalty, Proof};
use blocksync_types::ids::{BlockId, ConnId, Hash, Height, PeerId, Source};

thread_local! {
    /// All effects on this thread so far, in one number.
    pub(crate) static EFFECTS: Cell<u64> = const { Cell::new(0) };
}

fn record(effect: &Effect<Body>) {
    let mut hasher = DefaultHasher::new();
    EFFECTS.get().hash(&mut hasher);
    digest::hash(effect, &mut hasher);
    EFFECTS.set(hasher.finish());
}

/// Bytes of every block, which keeps the pool's estimate where it begins.
pub(crate) const BYTES: u32 = 256;

/// Truth about a copy; the pool cannot see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Body {
    pub commit_good: bool,
    pub ext_good: bool,
}

const GOOD: Body = Body {
    commit_good: true,
    ext_good: true,
};

/// Answer of a faulty peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Answer {
    Good,
    /// Another header over the true predecessor.
    Forged,
    /// Another header over a forged predecessor: a chain of its own.
    Linked,
    /// The true header, a commit that fails.
    BadCommit,
    /// The true block, an extended commit that fails.
    BadExtension,
    /// The true block of the height above.
    WrongHeight,
    NoBlock,
}

/// Mistake of the environment, to show that a property can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Mutation {
    None,
    /// The verifier takes any commit.
    CertifyForged,
    /// The verifier convicts both suppliers, as CometBFT does.
    BlameBoth,
    /// The verifier convicts whoever is connected and was asked last, not the supplier.
    BlameByLookup,
    /// The executor stores the carrier's commit unseen.
    TrustCarriers,
    /// A request that was sent is forgotten.
    LoseAsks,
    /// A height's refusal is hidden: a failed send is reported for an honest peer that is there.
    RefuseSends,
    /// Blocks weigh more than two maximal blocks above the budget.
    Heavy,
    /// Of what an honest peer tells the pool hears 1.
    MisheardTip,
    /// Honest answers are lost.
    LoseAnswers,
    /// The executor forgets to report.
    NeverApplied,
    /// Verdicts say nothing, for ever.
    NeverVerdict,
    /// Verdicts convict somebody who gave nothing.
    ConvictNobody,
    /// All peers come over connections of one number.
    OneNumber,
    /// A peer that leaves does so without a word to the pool.
    LeaveUnsaid,
    /// The pool does not hear what a proof of a claim has shown.
    LoseProofs,
}

#[derive(Clone, Debug)]
pub(crate) struct Bounds {
    pub honest: u64,
    pub faulty: u64,
    pub tip: u64,
    pub window: u32,
    pub cap: u32,
    /// Blocks in the byte budget.
    pub budget: u64,
    pub run: u32,
    /// Acts of faulty peers without a request: claims, leaving, coming back, unasked blocks.
    pub fuel: u8,
    /// How often an honest peer may lose its connection.
    pub flaps: u8,
    /// Heights above the applied one whose set the verifier knows.
    pub known_sets: u64,
    pub answers: &'static [Answer],
    /// Claims of faulty peers: base and height.
    pub claims: &'static [(u64, u64)],
    /// How often the chain grows by a block.
    pub grows: u8,
    /// How often an answer of an honest peer is overdue.
    pub slow: u8,
    /// Claims this far above us are to be proven.
    pub prove_above: u32,
    /// The time for which claims are borne is over at once.
    pub doubts: bool,
    pub mutation: Mutation,
}

/// Faults and sightings so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Ghosts {
    pub false_block: bool,
    pub honest_dropped: bool,
    pub wrong_blame: bool,
    pub bad_commit_stored: bool,
    pub early_finish: bool,
    pub finish_alone: bool,
    /// It was said that we have caught up below what a proof has shown.
    pub finish_below_proof: bool,
    pub broken: bool,
    pub finished: bool,
    pub hedged: bool,
    pub late_used: bool,
    pub seen: u16,
}

pub(crate) const SAW_BLOCK: u16 = 1;
pub(crate) const SAW_COMMIT: u16 = 2;
pub(crate) const SAW_EXTENSION: u16 = 4;
pub(crate) const SAW_UNASKED: u16 = 8;
pub(crate) const SAW_TIMEOUT: u16 = 16;
pub(crate) const SAW_EXAMINED: u16 = 32;
pub(crate) const SAW_SHORTEN: u16 = 64;
pub(crate) const SAW_PARTLY: u16 = 128;
pub(crate) const SAW_PROOF: u16 = 256;
pub(crate) const SAW_GROWTH: u16 = 512;
pub(crate) const SAW_SLOW: u16 = 1024;

type Copy = Candidate<Body>;

/// A run with the verifier.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Verifying {
    pub run: RunId,
    blocks: Vec<Copy>,
    carrier: Option<Copy>,
    /// Height that was executed when the run was handed in: the sets known then decide.
    executed: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct World {
    pub pool: Pool<Body>,
    /// Open connections and whose they are.
    pub conns: BTreeMap<ConnId, u64>,
    /// Requests that may still be answered, late ones included.
    pub open: BTreeMap<(ConnId, u64), u8>,
    pub verify: Option<Verifying>,
    pub exams: Vec<(RunId, Copy)>,
    /// Proofs of claims with the verifier.
    pub claims: Vec<Copy>,
    pub jobs: Vec<(Vec<Copy>, Option<Copy>)>,
    pub executed: u64,
    pub next_conn: u64,
    pub fuel: u8,
    pub flaps: u8,
    /// The next request cannot be sent.
    pub choked: bool,
    pub tip: u64,
    pub grows: u8,
    pub slow: u8,
    /// The highest height that a proof has shown.
    pub proven: u64,
    /// Connections that have told their status, and what an honest one has told.
    pub told: BTreeMap<ConnId, u64>,
    pub banned: BTreeSet<u64>,
    /// Faulty peers that gave a copy that is wrong.
    pub liars: BTreeSet<u64>,
    /// How often an honest connection was asked for a height that is not applied.
    pub asked: BTreeMap<(ConnId, u64), u8>,
    /// Verdicts since anything else happened.
    pub idle_verdicts: u8,
    pub ghosts: Ghosts,
}

pub(crate) fn block_id(height: u64, tag: u8) -> BlockId {
    let hash = |kind: u8| {
        let mut bytes = [0; 32];
        bytes[0] = height as u8;
        (bytes[1], bytes[2]) = (tag, kind);
        Hash(bytes)
    };
    if height == 0 {
        BlockId::ZERO
    } else {
        BlockId::new(hash(1), 1, hash(2))
    }
}

pub(crate) fn peer_id(peer: u64) -> PeerId {
    PeerId([peer as u8; 20])
}

impl World {
    pub(crate) fn new(bounds: &Bounds) -> Self {
        let mut config = PoolConfig::default();
        config.asks_per_peer = bounds.cap;
        config.window = bounds.window;
        config.budget_bytes = bounds.budget * u64::from(BYTES);
        config.first_estimate_bytes = BYTES;
        config.run = bounds.run;
        config.applying = 2;
        config.statuses = 2;
        config.prove_claims_above = bounds.prove_above;
        if bounds.doubts {
            (config.claim_patience, config.delivery_patience) = (0, 0);
        }
        if bounds.slow > 0 {
            // Time stands still: one that was late may come back at once.
            (config.back_off, config.back_off_max) = (0, 0);
        }
        let mut world = World {
            pool: Pool::new(config, Height::ZERO, Height::new(1), Tick(0)),
            conns: BTreeMap::new(),
            open: BTreeMap::new(),
            verify: None,
            exams: Vec::new(),
            claims: Vec::new(),
            jobs: Vec::new(),
            executed: 0,
            next_conn: 0,
            fuel: bounds.fuel,
            flaps: bounds.flaps,
            choked: false,
            tip: bounds.tip,
            grows: bounds.grows,
            slow: bounds.slow,
            proven: 0,
            told: BTreeMap::new(),
            banned: BTreeSet::new(),
            liars: BTreeSet::new(),
            asked: BTreeMap::new(),
            idle_verdicts: 0,
            ghosts: Ghosts::default(),
        };
        for peer in 0..bounds.honest + bounds.faulty {
            world.join(bounds, peer);
        }
        world
    }

    pub(crate) fn conn_of(&self, peer: u64) -> Option<ConnId> {
        self.conns
            .iter()
            .find(|(_, p)| **p == peer)
            .map(|(c, _)| *c)
    }

    pub(crate) fn join(&mut self, bounds: &Bounds, peer: u64) {
        let conn = ConnId(self.next_conn);
        if bounds.mutation != Mutation::OneNumber {
            self.next_conn += 1;
        }
        self.conns.insert(conn, peer);
        self.feed(
            bounds,
            Input::Up {
                conn,
                peer: peer_id(peer),
            },
        );
    }

    pub(crate) fn leave(&mut self, bounds: &Bounds, peer: u64) {
        if let Some(conn) = self.conn_of(peer) {
            self.close(conn);
            if bounds.mutation != Mutation::LeaveUnsaid {
                self.feed(bounds, Input::Down { conn });
            }
        }
    }

    fn close(&mut self, conn: ConnId) {
        self.conns.remove(&conn);
        self.told.remove(&conn);
        self.open.retain(|(c, _), _| *c != conn);
        self.asked.retain(|(c, _), _| *c != conn);
    }

    /// Gives the pool an input and performs what it wants. A broken invariant is remembered, not
    /// thrown.
    pub(crate) fn feed(&mut self, bounds: &Bounds, input: Input<Body>) {
        if !matches!(input, Input::Verdict { .. }) {
            self.idle_verdicts = 0;
        }
        let mut todo = vec![input];
        while let Some(input) = todo.pop() {
            let mut out = Vec::new();
            let pool = &mut self.pool;
            let sound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                pool.handle(input, Tick(0), &mut out);
                pool.check();
            }));
            self.ghosts.broken |= sound.is_err();
            for effect in out {
                record(&effect);
                if let Some(back) = self.perform(bounds, effect) {
                    todo.push(back);
                }
            }
        }
        let new = self.pool.renumber();
        if let Some(Verifying { run, .. }) = &mut self.verify {
            *run = new.runs.get(run).copied().unwrap_or(RunId(u64::MAX));
        }
        for (run, _) in &mut self.exams {
            *run = new.runs.get(run).copied().unwrap_or(RunId(u64::MAX));
        }
        let applied = self.executed;
        self.asked.retain(|(_, h), _| *h > applied);
    }

    fn perform(&mut self, bounds: &Bounds, effect: Effect<Body>) -> Option<Input<Body>> {
        match effect {
            Effect::Ask {
                ask, conn, from, ..
            } => {
                if bounds.mutation == Mutation::LeaveUnsaid && !self.conns.contains_key(&conn) {
                    return None;
                }
                let honest = self.conns.get(&conn).is_some_and(|p| *p < bounds.honest);
                let refused = bounds.mutation == Mutation::RefuseSends && honest;
                if std::mem::take(&mut self.choked) || refused {
                    if !refused {
                        self.told.remove(&conn);
                    }
                    return Some(Input::SendFailed { ask });
                }
                if bounds.mutation != Mutation::LoseAsks {
                    let times = self.open.entry((conn, from.get())).or_default();
                    *times = times.saturating_add(1);
                }
                if honest {
                    let times = self.asked.entry((conn, from.get())).or_default();
                    *times = times.saturating_add(1);
                }
            }
            Effect::Verify {
                run,
                blocks,
                carrier,
            } => {
                let executed = self.executed;
                self.verify = Some(Verifying {
                    run,
                    blocks,
                    carrier,
                    executed,
                });
            }
            Effect::Examine { run, copy, .. } => self.exams.push((run, copy)),
            Effect::ProveClaim { copy } => self.claims.push(copy),
            Effect::Apply { blocks, carrier } => self.jobs.push((blocks, carrier)),
            Effect::Drop {
                conn,
                peer,
                reason,
                ban_until,
            } => {
                self.dropped(
                    bounds,
                    conn,
                    u64::from(peer.0[0]),
                    &reason,
                    ban_until.is_some(),
                );
            }
            Effect::Outcome(Outcome::CaughtUp { .. }) => self.finish(bounds),
            _ => {}
        }
        None
    }

    fn finish(&mut self, bounds: &Bounds) {
        self.ghosts.finished = true;
        let above = self.executed + 1;
        let honest = |c: &ConnId| self.conns.get(c).is_some_and(|p| *p < bounds.honest);
        let early = |(c, told): (&ConnId, &u64)| *told > above && honest(c);
        self.ghosts.early_finish |= !bounds.doubts && self.told.iter().any(early);
        self.ghosts.finish_below_proof |= self.proven > above;
        self.ghosts.finish_alone |= self.told.is_empty();
    }

    fn dropped(
        &mut self,
        bounds: &Bounds,
        conn: ConnId,
        peer: u64,
        reason: &CloseReason,
        refused: bool,
    ) {
        self.close(conn);
        if refused {
            self.banned.insert(peer);
        }
        let late = matches!(reason, CloseReason::Overdue(_)) && bounds.slow > 0;
        self.ghosts.honest_dropped |= peer < bounds.honest && !late;
        let content = match reason.fault() {
            Some(Fault::BadBlock(_)) => SAW_BLOCK,
            Some(Fault::BadCommit(_)) => SAW_COMMIT,
            Some(Fault::BadExtendedCommit(_)) => SAW_EXTENSION,
            _ => 0,
        };
        self.ghosts.wrong_blame |=
            content > 0 && reason.penalty() == Penalty::Ban && !self.liars.contains(&peer);
        self.ghosts.seen |= content
            | match reason {
                CloseReason::Fault(Fault::Unasked) => SAW_UNASKED,
                CloseReason::Overdue(Overdue::Answer) => SAW_TIMEOUT,
                _ => 0,
            };
    }

    pub(crate) fn copy(
        &self,
        bounds: &Bounds,
        height: u64,
        answer: Answer,
    ) -> Option<(Meta, Body)> {
        let (mut id, mut parent, mut body, mut at) =
            (block_id(height, 0), block_id(height - 1, 0), GOOD, height);
        match answer {
            Answer::Good => {}
            Answer::Forged => id = block_id(height, 1),
            Answer::Linked => {
                (id, parent) = (block_id(height, 1), block_id(height - 1, 1));
                body.commit_good = false;
            }
            Answer::BadCommit => {
                id.parts.hash = Some(Hash([9; 32]));
                body.commit_good = false;
            }
            Answer::BadExtension => body.ext_good = false,
            Answer::WrongHeight => {
                (id, parent, at) = (block_id(height + 1, 0), block_id(height, 0), height + 1)
            }
            Answer::NoBlock => return None,
        }
        let bytes = if bounds.mutation == Mutation::Heavy {
            4 * BYTES
        } else {
            BYTES
        };
        Some((
            Meta {
                height: Height::new(at),
                id,
                parent,
                bytes,
                has_own_commit: false,
            },
            body,
        ))
    }

    /// An answer to an open request, on time or late.
    pub(crate) fn answer(&mut self, bounds: &Bounds, conn: ConnId, height: u64, answer: Answer) {
        // The block of another height answers the request for that one, if there is any.
        let key = (conn, height + u64::from(answer == Answer::WrongHeight));
        if let Some(times) = self.open.get_mut(&key) {
            *times -= 1;
            if *times == 0 {
                self.open.remove(&key);
            }
        }
        let peer = self.conns[&conn];
        if bounds.mutation == Mutation::LoseAnswers && peer < bounds.honest {
            return;
        }
        let letter = |w: &World| {
            w.pool
                .window()
                .find(|(h, _)| h.get() == height)
                .map(|(_, l)| l)
        };
        let before = letter(self);
        let owed = self
            .pool
            .peers()
            .find(|p| p.conn == conn)
            .map_or(0, |p| p.owed);
        self.give(bounds, conn, height, answer);
        let still = self
            .pool
            .peers()
            .find(|p| p.conn == conn)
            .map_or(0, |p| p.owed);
        self.ghosts.late_used |= before == Some('.') && letter(self) != Some('.') && still >= owed;
    }

    /// A block comes, asked for or not.
    pub(crate) fn give(&mut self, bounds: &Bounds, conn: ConnId, height: u64, answer: Answer) {
        let peer = self.conns[&conn];
        let input = match self.copy(bounds, height, answer) {
            Some((meta, block)) => {
                if matches!(
                    answer,
                    Answer::Forged | Answer::Linked | Answer::BadCommit | Answer::BadExtension
                ) {
                    self.liars.insert(peer);
                }
                Input::Block { conn, meta, block }
            }
            None => Input::NoBlock {
                conn,
                height: Height::new(height),
            },
        };
        self.feed(bounds, input);
    }

    /// Verdicts that the true verifier may give on the run under way.
    pub(crate) fn verdicts(&self, bounds: &Bounds) -> Vec<Verdict> {
        let Some(Verifying {
            blocks,
            carrier,
            executed,
            ..
        }) = &self.verify
        else {
            return Vec::new();
        };
        let (first, last) = (&blocks[0], &blocks[blocks.len() - 1]);
        let guilty = |copy: &Copy, fault: Fault| Verdict {
            guilty: vec![(copy.from, copy.meta.height, fault)],
            ..Verdict::default()
        };
        if bounds.mutation == Mutation::NeverVerdict {
            return vec![Verdict::default()];
        }
        if bounds.mutation == Mutation::ConvictNobody {
            let mut nobody = first.clone();
            (nobody.from.peer, nobody.meta.height) = (PeerId([99; 20]), Height::new(99));
            return vec![guilty(&nobody, Fault::BadBlock(Proof(String::new())))];
        }
        let Some(carrier) = carrier else {
            return vec![guilty(first, Fault::BadBlock(Proof(String::new())))];
        };
        let height = last.meta.height.get();
        let known = height - executed <= bounds.known_sets.max(2);
        let good = carrier.block.commit_good && carrier.meta.parent == block_id(height, 0);
        let shorten = |h: u64| Verdict {
            shorten: Some(Height::new(h)),
            ..Verdict::default()
        };
        let certified = |h: u64, id| Verdict {
            certified: Some((Height::new(h), id)),
            ..Verdict::default()
        };
        if !known {
            let limit = (executed + bounds.known_sets.max(2)).min(height - 1);
            let mut verdicts = vec![shorten(limit)];
            if good && blocks.len() > 1 {
                verdicts.push(certified(height - 1, block_id(height - 1, 0)));
            }
            return verdicts;
        }
        if good || bounds.mutation == Mutation::CertifyForged {
            return vec![certified(height, carrier.meta.parent)];
        }
        if blocks.len() > 1 && height > executed + 1 {
            return vec![shorten(height - 1)];
        }
        let mut verdict = guilty(carrier, Fault::BadCommit(Proof(String::new())));
        match bounds.mutation {
            Mutation::BlameBoth => verdict.guilty.push((
                last.from,
                last.meta.height,
                Fault::BadBlock(Proof(String::new())),
            )),
            Mutation::BlameByLookup => {
                if let Some((conn, peer)) = self.conns.iter().next() {
                    verdict.guilty[0].0 = Source {
                        peer: peer_id(*peer),
                        conn: *conn,
                    };
                }
            }
            _ => {}
        }
        vec![verdict]
    }

    /// Input to the pool when an honest peer tells its height.
    pub(crate) fn heard_tip(&self, bounds: &Bounds) -> u64 {
        if bounds.mutation == Mutation::MisheardTip {
            1
        } else {
            self.tip
        }
    }

    /// The true verifier judges a proof of a claim.
    pub(crate) fn judge_claim(&mut self, bounds: &Bounds, n: usize) {
        let copy = self.claims.remove(n);
        let decided = copy.meta.height.get() - 1;
        let known =
            decided <= self.tip && decided - self.executed.min(decided) <= bounds.known_sets;
        let good = copy.block.commit_good && copy.meta.parent == block_id(decided, 0);
        let proven = (good && known).then(|| decided - 1);
        if let Some(height) = proven {
            self.ghosts.seen |= SAW_PROOF;
            self.proven = self.proven.max(height);
        }
        let heard = proven.filter(|_| bounds.mutation != Mutation::LoseProofs);
        self.feed(
            bounds,
            Input::ClaimJudged {
                conn: copy.from.conn,
                proven: heard.map(Height::new),
                applied: Height::new(self.executed),
            },
        );
    }

    /// Executes the first `count` blocks of the oldest job.
    pub(crate) fn execute(&mut self, bounds: &Bounds, count: usize) {
        let (mut blocks, carrier) = self.jobs.remove(0);
        let rest = blocks.split_off(count);
        let ends = rest.is_empty();
        if blocks
            .first()
            .is_some_and(|b| b.meta.height.get() != self.executed + 1)
        {
            return; // discarded after a refusal
        }
        for (n, block) in blocks.iter().enumerate() {
            let height = block.meta.height.get();
            self.ghosts.false_block |=
                height != self.executed + 1 || block.meta.id != block_id(height, 0);
            if !block.block.ext_good {
                return self.refuse(
                    bounds,
                    block,
                    Fault::BadExtendedCommit(Proof(String::new())),
                );
            }
            if ends && n + 1 == blocks.len() {
                let Some(carrier) = carrier.as_ref().filter(|c| c.meta.parent == block.meta.id)
                else {
                    self.ghosts.bad_commit_stored = true;
                    continue;
                };
                if bounds.mutation != Mutation::TrustCarriers && !carrier.block.commit_good {
                    return self.refuse(bounds, carrier, Fault::BadCommit(Proof(String::new())));
                }
                self.ghosts.bad_commit_stored |= !carrier.block.commit_good;
            }
            self.executed += 1;
        }
        if !ends {
            self.jobs.insert(0, (rest, carrier));
        }
        if bounds.mutation != Mutation::NeverApplied {
            self.feed(
                bounds,
                Input::Applied {
                    through: Height::new(self.executed),
                },
            );
        }
    }

    fn refuse(&mut self, bounds: &Bounds, copy: &Copy, fault: Fault) {
        self.jobs.clear();
        if self.executed > 0 {
            self.feed(
                bounds,
                Input::Applied {
                    through: Height::new(self.executed),
                },
            );
        }
        self.feed(
            bounds,
            Input::Rejected {
                height: copy.meta.height,
                from: copy.from,
                fault,
            },
        );
    }
}
