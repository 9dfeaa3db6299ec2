//! Cost of proof and fairness: PF4 and PF5 of `faults.md` (a).

use std::sync::Arc;
use std::time::Duration;

use blocksync::chain::proof::Policy;
use blocksync::ids::Height;
use blocksync::service::Stage;
use blocksync_testkit::chain::TestChain;

use crate::service_faults::peers::{Answer, Script};
use crate::service_faults::proof::forged;
use crate::service_faults::{Run, run};
use blocksync_testkit::recorded::{Recorded, config};

const BLOCKS: usize = 120;
/// Validators, all of whom sign.
const V: u64 = 5;

fn plain(seed: u64) -> TestChain {
    let chain = TestChain::builder(seed).heights(BLOCKS).txs(2, 100);
    chain.powers(&[10; V as usize]).build()
}

/// Two that tell the truth, and one each that forges commits, alters bodies, or serves another
/// chain of other validators.
fn with_liars(made: &TestChain, chain: &Arc<Recorded>) -> Vec<Script> {
    let forging = made.clone();
    let forger = Script::altering("forged commit", chain, move |height, honest| {
        let spoil = |commit: &mut blocksync::chain::Commit| {
            commit.signatures[4].signature = commit.signatures[0].signature.clone();
        };
        Some(forged(&forging, height, spoil).unwrap_or(honest))
    });
    vec![
        forger,
        Script::honest(chain),
        Script::wrong_body(chain),
        Script::honest(chain),
        Script::other_chain("other validators", &Recorded::of(&plain(77))),
    ]
}

/// Signatures checked by all stages, and how many the figure of PF4 allows.
fn checked(row: &str, run: &Run, allowed: u64) -> u64 {
    let stages = Stage::ALL.map(|stage| run.stages.of(stage).signatures);
    let measured = stages.iter().sum();
    println!("{row}: measured {measured} signatures allowed {allowed}");
    assert!(measured <= allowed, "{row}: {stages:?}");
    measured
}

#[tokio::test(start_paused = true)]
async fn pf4_each_commit_is_verified_once() {
    let made = plain(1);
    let chain = Recorded::of(&made);
    let last = chain.tip().prev();
    let mut config = config(1);
    config.policy = Policy::EveryCommit;
    let scripts = with_liars(&made, &chain);
    for (row, scripts) in [
        ("PF4, all honest", vec![Script::honest(&chain); 5]),
        ("PF4, three of five lie", scripts),
    ] {
        let lies = scripts.iter().any(|s| s.name != "honest");
        let run = run(&chain, config.clone(), &scripts).await;
        run.holds(&made, last);
        let bans = run.faults().len() as u64;
        assert_eq!(bans > 0, lies, "{row}: {:?}", run.faults());
        // And a commit that proves a claim, mostly of the first who is asked.
        let proofs = 2;
        let measured = checked(row, &run, V * (last.get() + bans + proofs));
        assert!(
            measured >= V * last.get(),
            "{row}: a commit was not verified"
        );
    }
}

/// Everything but the first block is there before it comes, so that runs are long.
fn first_comes_late(chain: &Arc<Recorded>) -> Script {
    let served = chain.clone();
    Script::new("first late", chain, move |height| {
        match served.message(height, false) {
            Some(message) if height == Height::new(1) => {
                Answer::Late(Duration::from_secs(1), message)
            }
            Some(message) => Answer::Message(message),
            None => Answer::Nothing,
        }
    })
}

#[tokio::test(start_paused = true)]
async fn pf4_anchored_verifies_one_commit_a_run_and_what_is_stored() {
    let made = plain(2);
    let chain = Recorded::of(&made);
    let last = chain.tip().prev();
    let scripts = vec![first_comes_late(&chain); 6];
    let run = run(&chain, config(2), &scripts).await;
    run.holds(&made, last);
    let (proven, stored) = (run.stages.of(Stage::Prove), run.stages.of(Stage::Store));
    assert!(2 * proven.pieces < last.get(), "runs are short: {proven:?}");
    let measured = checked("PF4, anchored", &run, V * (proven.pieces + stored.pieces));
    assert!(measured >= V, "no commit was verified");
}

/// Empty blocks weigh a few hundred bytes: a peer that takes a second or two for each answer brings
/// far less a second than any floor for bytes would ask, and others are there that would do
/// instead.
#[tokio::test(start_paused = true)]
async fn pf5_empty_blocks_are_not_slowness() {
    let made = TestChain::builder(3).heights(BLOCKS).txs(0, 0);
    let made = made.powers(&[10]).build();
    let chain = Recorded::of(&made);
    // All are slow, or a fast one would have given everything before the others have answered once.
    let scripts = [1, 1, 2, 4].map(|s| Script::late(&chain, Duration::from_secs(s)));
    let run = run(&chain, config(3), &scripts).await;
    run.holds(&made, chain.tip().prev());
    let dropped = run.status.dropped.iter();
    let dropped: Vec<_> = dropped.map(|d| &d.reason).collect();
    println!(
        "PF5, empty blocks: measured {} dropped allowed 0",
        dropped.len()
    );
    assert!(dropped.is_empty(), "{dropped:?}");
}
