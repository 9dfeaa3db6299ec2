//! The verifier: proves runs of blocks on the CPU pool, against the sets that the executor's state knows.

use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::executor::Copy;
use super::offload::Offload;
use crate::chain::proof::{self, Judgement, KnownSets, Policy, Who};
use crate::chain::{ChainState, Fetched};
use crate::ids::{BlockId, Height, Source};
use crate::pool::{Input, RunId, Unfit, Verdict};

/// Something to prove.
#[derive(Debug)]
pub enum Task {
    /// A run, and the copy that holds the commit for its last block.
    Run {
        /// The pool's name for it.
        run: RunId,
        /// The blocks, ascending.
        blocks: Vec<Copy>,
        /// One height above.
        carrier: Option<Copy>,
    },
    /// A copy with the certified header hash but another part set.
    Examine {
        /// The pool's name for it.
        run: RunId,
        /// The copy.
        copy: Copy,
        /// The certified id.
        certified: BlockId,
    },
}

/// See the module.
pub struct Verifier {
    /// How blocks are proven.
    pub policy: Policy,
    /// The state after the last block executed.
    pub latest: watch::Receiver<Arc<ChainState>>,
    /// To the reactor.
    pub verdicts: mpsc::Sender<Input<Arc<Fetched>>>,
    /// The CPU pool.
    pub offload: Offload,
    /// Randomness of batch verification.
    pub rng: StdRng,
}

impl Verifier {
    /// Works until stopped.
    pub async fn run(mut self, mut tasks: mpsc::Receiver<Task>, stop: CancellationToken) {
        loop {
            let task = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                task = tasks.recv() => task,
            };
            let Some(task) = task else { return };
            let answer = self.answer(task).await;
            if self.verdicts.send(answer).await.is_err() {
                return;
            }
        }
    }

    async fn answer(&mut self, task: Task) -> Input<Arc<Fetched>> {
        let state = self.latest.borrow().clone();
        let (policy, offload, seed) = (self.policy, self.offload.clone(), self.rng.random());
        let work = move || match task {
            Task::Run {
                run,
                blocks,
                carrier,
            } => {
                let verdict = prove(policy, &state, &blocks, carrier.as_ref(), &offload, seed);
                Input::Verdict { run, verdict }
            }
            Task::Examine {
                run,
                copy,
                certified,
            } => {
                let known = KnownSets::of(&state);
                let mut rng = StdRng::seed_from_u64(seed);
                Input::Examined {
                    run,
                    guilty: proof::examine(&known, &copy.block, certified, &mut rng),
                }
            }
        };
        self.offload.cpu(work).await
    }
}

fn prove(
    policy: Policy,
    state: &ChainState,
    blocks: &[Copy],
    carrier: Option<&Copy>,
    offload: &Offload,
    seed: u64,
) -> Verdict {
    let run: Vec<&Fetched> = blocks.iter().map(|c| &*c.block).collect();
    let known = KnownSets::of(state);
    let mut rng = StdRng::seed_from_u64(seed);
    let judgement = proof::judge(
        policy,
        &known,
        &run,
        carrier.map(|c| &*c.block),
        offload,
        &mut rng,
    );
    verdict(judgement, blocks, carrier)
}

/// The judgement, with the names of those who supplied the copies.
fn verdict(judgement: Judgement, blocks: &[Copy], carrier: Option<&Copy>) -> Verdict {
    let source = |who: &Who| -> Option<(Source, Height)> {
        let copy = match who {
            Who::Carrier => carrier.or(blocks.last()),
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
        fork: judgement.fork,
    }
}
