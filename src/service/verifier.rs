//! The verifier: proves runs of blocks on the CPU pool, against the sets that the executor's state
//! knows.

use std::path::PathBuf;
use std::sync::Arc;

use rand::RngExt;
use rand::rngs::StdRng;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::checks;
use super::executor::ReceivedBlock;
use super::fork;
use super::offload::Offload;
use super::stages::{Meters, Stage};
use crate::chain::proof::{self, Base, Case, Judgement, KnownSets, Policy, Who};
use crate::chain::signatures::{SignatureBatch, SignatureCheck};
use crate::chain::{ChainState, Commit, Fetched, RuleSchedule};
use crate::ids::{BlockId, Height, Source};
use crate::pool::{Fork, Input, RunId, Unfit, Verdict};
use crate::store::Store;
use crate::wire::decode;

/// Something to prove.
#[derive(Debug)]
pub(super) enum Task {
    /// A run, and the copy that holds the commit for its last block.
    Run {
        /// The pool's name for it.
        run: RunId,
        /// The blocks, ascending.
        blocks: Vec<ReceivedBlock>,
        /// One height above.
        carrier: Option<ReceivedBlock>,
    },
    /// A copy with the certified header hash but another part set.
    Examine {
        /// The pool's name for it.
        run: RunId,
        /// The copy.
        copy: ReceivedBlock,
        /// The certified id.
        certified: BlockId,
    },
    /// A block far above us, whose commits may show that the chain goes on up there.
    Claim {
        /// The copy.
        copy: ReceivedBlock,
    },
}

/// See the module.
pub(super) struct Verifier {
    /// How blocks are proven.
    pub policy: Policy,
    /// The protocol's rules by height.
    pub rules: RuleSchedule,
    /// The state after the last block executed.
    pub latest: watch::Receiver<Arc<ChainState>>,
    /// To the reactor.
    pub verdicts: mpsc::Sender<Input<Arc<Fetched>>>,
    /// The CPU pool.
    pub offload: Offload,
    /// Proving time is noted here.
    pub meters: Meters,
    /// Randomness of batch verification.
    pub rng: StdRng,
    /// The last block proven here.
    pub proven: Option<Base>,
    /// The last commit that passed the full check, to hold against a second one for its height.
    pub certificate: Option<Commit>,
    /// Has the commits of blocks proven before.
    pub store: Arc<dyn Store>,
    /// Where evidence of a fork goes.
    pub evidence_dir: Option<PathBuf>,
}

/// Result of a run.
struct Proven {
    verdict: Verdict,
    /// The highest block proven.
    base: Option<Base>,
    /// The highest commit that passed the full check.
    certificate: Option<Commit>,
}

impl Verifier {
    /// Works until stopped.
    pub(super) async fn run(mut self, mut tasks: mpsc::Receiver<Task>, stop: CancellationToken) {
        loop {
            let idle = Instant::now();
            let task = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                task = tasks.recv() => task,
            };
            let Some(task) = task else { return };
            self.meters.waited_for_work(Stage::Prove, idle.elapsed());
            let began = Instant::now();
            // Only runs count as proven blocks: examinations and claims prove
            // nothing that is applied.
            let blocks = match &task {
                Task::Run { blocks, .. } => blocks.len(),
                Task::Examine { .. } | Task::Claim { .. } => 0,
            };
            let answer = self.answer(task).await;
            let took = began.elapsed();
            self.meters.busy(Stage::Prove, blocks, took);
            if blocks > 0 {
                self.meters.figures().proven(blocks, took);
            }
            if self.verdicts.send(answer).await.is_err() {
                return;
            }
        }
    }

    async fn answer(&mut self, task: Task) -> Input<Arc<Fetched>> {
        // The newest sets. That their state is durable already is not needed to judge by them.
        let state = self.latest.borrow().clone();
        let fan = Fan {
            offload: self.offload.clone(),
            meters: self.meters.clone(),
            seed: self.rng.random(),
        };
        match task {
            Task::Run {
                run,
                blocks,
                carrier,
            } => {
                let (policy, base) = (self.policy, self.base(&state, &blocks));
                // Evidence of a fork is found in the commits that these hold.
                let copies: Vec<_> = blocks.iter().chain(&carrier).cloned().collect();
                let chain_id = state.chain_id.clone();
                let known = KnownSets::of(&state, &self.rules);
                let work = move || prove(policy, &known, base, &blocks, carrier.as_ref(), &fan);
                let proven = self.offload.cpu(work).await;
                if let Some(fork) = proven.verdict.fork.clone() {
                    self.keep_evidence(fork, &chain_id, &copies).await;
                }
                // A run that proves nothing leaves the block below as it is: the next one begins
                // there, too.
                self.proven = proven.base.or(self.proven.take());
                self.certificate = proven.certificate.or(self.certificate.take());
                let verdict = proven.verdict;
                Input::Verdict { run, verdict }
            }
            Task::Examine {
                run,
                copy,
                certified,
            } => {
                let known = KnownSets::of(&state, &self.rules);
                let work = move || proof::examine(&copy.block, certified, &known);
                Input::Examined {
                    run,
                    guilty: self.offload.cpu(work).await,
                }
            }
            Task::Claim { copy } => {
                let known = KnownSets::of(&state, &self.rules);
                let (conn, applied) = (copy.from.conn, known.applied);
                let work = move || proof::decided(&copy.block, &known, &fan);
                let proven = self.offload.cpu(work).await;
                debug!(%conn, proven = proven.map(Height::get), %applied, "proof of a claim");
                Input::ClaimJudged {
                    conn,
                    proven,
                    applied,
                }
            }
        }
    }

    /// Writes both certificates to disk, as far as they are at hand.
    async fn keep_evidence(&self, fork: Fork, chain_id: &[u8], copies: &[ReceivedBlock]) {
        let (store, height) = (self.store.clone(), fork.height);
        let stored = self.offload.io(move || store.commit_for(height)).await;
        // A commit that cannot be read is written as missing: the other one
        // is evidence all the same.
        let stored = stored
            .ok()
            .flatten()
            .and_then(|bytes| decode::commit_from_bytes(&bytes).ok());
        let seen = copies.iter().filter_map(|c| c.block.seen_commit.as_ref());
        let carried = copies.iter().map(|c| c.block.last_commit());
        // One certificate is from an earlier run or in the store, the other came with these copies.
        let at_hand: Vec<Commit> = (self.certificate.iter().chain(&stored))
            .chain(seen)
            .chain(carried)
            .cloned()
            .collect();
        let commits = fork.ids.map(|id| {
            let mut found = at_hand.iter();
            let found = found.find(|c| c.height == fork.height && c.block_id == id);
            found.cloned()
        });
        let dir = self.evidence_dir.clone();
        fork::report(&self.offload, dir, chain_id, &fork, commits).await;
    }

    /// The proven block right below a run: the last one executed, or the last one proven here. The
    /// pool hands in only what follows one of them; were it another, its header is not at hand, and
    /// less can be judged.
    fn base(&self, state: &ChainState, blocks: &[ReceivedBlock]) -> Base {
        let Some(first) = blocks.first() else {
            return Base::of(state);
        };
        let below = first.meta.height.prev();
        let applied = Base::of(state);
        if applied.height == below {
            return applied;
        }
        match self.proven {
            Some(proven) if proven.height == below => proven,
            // Without its header the next set is unknown; the id is the one
            // that the run names itself.
            _ => Base {
                height: below,
                id: first.meta.parent,
                next_validators: None,
            },
        }
    }
}

/// Spreads a batch of signatures over the CPU pool.
struct Fan {
    offload: Offload,
    meters: Meters,
    seed: checks::Seed,
}

/// Fewer signatures than this are not worth another thread.
const WORTH_A_THREAD: usize = 64;

impl SignatureCheck for Fan {
    fn check(&self, batch: &SignatureBatch) -> Vec<usize> {
        let parts = self
            .offload
            .width()
            .min(batch.len() / WORTH_A_THREAD)
            .max(1);
        let step = batch.len().div_ceil(parts).max(1);
        // The step is rounded up, so that the last ranges may be empty.
        let ranges = (0..parts)
            .map(|n| n * step..((n + 1) * step).min(batch.len()))
            .collect();
        self.meters.signatures(Stage::Prove, batch.len());
        let bad = self.offload.each(ranges, |range: std::ops::Range<usize>| {
            // Threads draw from generators of their own: one that they share would make them wait.
            let mut rng = checks::rng(self.seed, range.start as u64);
            if range.is_empty() {
                Vec::new()
            } else {
                let verify = || batch.verify_range(range, &mut rng);
                self.meters.share(Stage::Prove, verify)
            }
        });
        bad.into_iter().flatten().collect()
    }
}

fn prove(
    policy: Policy,
    known: &KnownSets,
    base: Base,
    blocks: &[ReceivedBlock],
    carrier: Option<&ReceivedBlock>,
    fan: &Fan,
) -> Proven {
    let run: Vec<&Fetched> = blocks.iter().map(|c| &*c.block).collect();
    let case = Case {
        known,
        base,
        run: &run,
        carrier: carrier.map(|c| &*c.block),
    };
    let judgement = proof::judge(policy, &case, fan);
    // The executor finds these marks, and verifies no commit a second time (`faults.md` PF4).
    for height in &judgement.fully_verified {
        note_verified(*height, &run, case.carrier);
    }
    // The commit for a block is in the block above it; for the last one it came with the carrier,
    // or beside the block itself.
    let certificate = judgement.fully_verified.last().and_then(|height| {
        let commit = match run.iter().position(|b| b.height() == *height)? {
            at if at + 1 < run.len() => &run[at + 1].block.last_commit,
            at => match case.carrier {
                Some(carrier) => &carrier.block.last_commit,
                None => run[at].seen_commit.as_ref()?,
            },
        };
        Some(commit.clone())
    });
    let base = judgement.certified.and_then(|(height, id)| {
        run.iter()
            .find(|b| b.height() == height && b.id == id)
            .map(|b| Base::at(b))
    });
    Proven {
        verdict: verdict(judgement, blocks, carrier),
        base,
        certificate,
    }
}

/// Remembers, with the copy that holds it, that the commit for a height has passed the full check
/// under that height's set.
fn note_verified(height: Height, run: &[&Fetched], carrier: Option<&Fetched>) {
    let Some(at) = run.iter().position(|b| b.height() == height) else {
        return;
    };
    let Some(set) = run[at].block.header.validators_hash else {
        return;
    };
    // The copy that carries the commit is what the executor will hold in its hands.
    let slot = match run.get(at + 1).copied().or(carrier) {
        Some(holder) => &holder.checked.last_commit,
        None => &run[at].checked.seen_commit,
    };
    let _ = slot.set(set); // set already: by another run, to the same
}

/// The judgement, with the names of those who supplied the copies.
fn verdict(
    judgement: Judgement,
    blocks: &[ReceivedBlock],
    carrier: Option<&ReceivedBlock>,
) -> Verdict {
    let source = |who: &Who| -> Option<(Source, Height)> {
        let copy = match who {
            Who::Carrier => carrier,
            Who::Run(n) => blocks.get(*n),
        };
        copy.map(|c| (c.from, c.meta.height))
    };
    let guilty = judgement.guilty.into_iter();
    Verdict {
        certified: judgement.certified,
        shorten: judgement.shorten,
        guilty: guilty
            .filter_map(|(who, fault)| source(&who).map(|(from, height)| (from, height, fault)))
            .collect(),
        unfit: judgement.unfit.map(|(id, what)| Unfit { id, what }),
        fork: judgement.fork.map(|(height, ids)| Fork { height, ids }),
    }
}
