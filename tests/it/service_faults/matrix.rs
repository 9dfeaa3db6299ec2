//! Rows P01 to P30 and (f) with the whole service: one honest peer and one or three of a kind,
//! under both policies.

use std::sync::Arc;
use std::time::Duration;

use blocksync::fault::Penalty;
use blocksync::ids::Height;
use blocksync::service::Offload;
use blocksync::wire::Message;
use blocksync_testkit::chain::TestChain;

use crate::service_faults::peers::Script;
use crate::service_faults::proof::forged;
use crate::service_faults::{HEDGE, made, policies, report, run};
use blocksync_testkit::made::{Disk, Outside};
use blocksync_testkit::recorded::{Recorded, id};

const BLOCKS: usize = 120;

/// A role, and the faults for which it may be dropped; none means that it must not be banned.
type Entry = (Script, &'static [&'static str]);

fn roles(made: &TestChain, chain: &Arc<Recorded>) -> Vec<Entry> {
    let other = Recorded::of(&crate::service_faults::made(77, BLOCKS));
    let tip = BLOCKS as u64;
    let impostor = TestChain::builder(78)
        .heights(BLOCKS)
        .txs(2, 100)
        .extensions_from(4);
    let impostor = Recorded::of(&impostor.chain_id("test-chain-b").build());
    let forging = made.clone();
    let forged = Script::altering("forged commit", chain, move |height, honest| {
        Some(
            forged(&forging, height, |commit| {
                let last = commit.signatures.len() - 1;
                commit.signatures[last].signature = commit.signatures[0].signature.clone();
            })
            .unwrap_or(honest),
        )
    });
    vec![
        (Script::silent(chain), &[]),
        (Script::drips(chain), &[]),
        (Script::wrong_body(chain), &["bad_block", "malformed"]),
        (Script::other_height(chain), &["unasked"]),
        (
            Script::other_chain("other validators", &other),
            &["bad_block", "bad_commit"],
        ),
        (
            Script::other_chain("other chain", &impostor),
            &["bad_block", "bad_commit", "malformed"],
        ),
        (forged, &["bad_block", "bad_commit"]),
        (Script::without_extensions(chain), &["bad_extended_commit"]),
        (Script::bad_extensions(chain), &["bad_extended_commit"]),
        (Script::no_blocks(chain), &[]),
        (Script::unasked(chain), &["unasked"]),
        (Script::garbage(chain), &["malformed"]),
        (Script::late(chain, Duration::from_millis(500)), &[]),
        (Script::late(chain, Duration::from_secs(20)), &[]),
        (Script::claims(chain, 1 << 62), &[]),
        (Script::claims_and_serves(chain, 1 << 62), &[]),
        (Script::flaps(chain, Duration::from_millis(50)), &[]),
        (
            flood(chain, "statuses", vec![status(tip), Message::StatusRequest]),
            &[],
        ),
        (
            flood(chain, "requests", (1..=tip).map(request).collect()),
            &[],
        ),
        // A peer that says "no block" and then sends it has answered twice.
        (
            flood(chain, "no block", (1..=tip).map(no_block).collect()),
            &["unasked"],
        ),
        (Script::mute(chain), &[]),
        (Script::pruned(chain, BLOCKS as u64 / 2), &[]),
        (Script::says("says the first height", chain, 1, 1), &[]),
        (Script::says("says that it is empty", chain, 0, 0), &[]),
        (Script::says("says the tip alone", chain, tip, tip), &[]),
        (
            Script::says("inflated base", chain, tip + 100, 1 << 62),
            &[],
        ),
        (
            Script::says("base above height", chain, 9, 3),
            &["bad_range", "malformed"],
        ),
    ]
}

fn flood(chain: &Arc<Recorded>, name: &'static str, with: Vec<Message>) -> Script {
    Script::floods(name, chain, with)
}

fn status(tip: u64) -> Message {
    Message::Status {
        height: Height::new(tip),
        base: Height::new(1),
        max_range: 1,
    }
}

fn request(height: u64) -> Message {
    Message::BlockRequest {
        height: Height::new(height),
        count: 0,
    }
}

fn no_block(height: u64) -> Message {
    Message::NoBlock {
        height: Height::new(height),
    }
}

#[tokio::test(start_paused = true)]
async fn every_role_under_both_policies() {
    let made = made(1, BLOCKS);
    let chain = Recorded::of(&made);
    let last = chain.tip().prev();
    for hostile in [1, 3] {
        for config in policies(hostile) {
            let policy = config.policy;
            let honest = Script::honest(&chain);
            let all_honest = vec![honest.clone(); hostile as usize + 1];
            let t0 = run(&chain, config.clone(), &all_honest).await;
            assert_eq!(t0.faults(), []);
            t0.holds(&made, last);
            for (script, faults) in roles(&made, &chain) {
                let row = format!("{}, {hostile} against one honest, {policy:?}", script.name);
                let claims_less = script.claims_less(last);
                let mut scripts = vec![script; hostile as usize];
                scripts.push(honest.clone());
                let run = run(&chain, config.clone(), &scripts).await;
                run.holds(&made, last);
                if hostile < 3 || !claims_less {
                    assert_eq!(run.early, None, "{row}: caught up below the tip");
                }
                report(&row, run.took, t0.took * 3 / 2 + HEDGE * hostile as u32);
                let honest = id(hostile as u8 + 1);
                for dropped in &run.status.dropped {
                    assert_ne!(dropped.peer, honest, "{row}: {dropped:?}");
                    let banned = dropped.reason.penalty() == Penalty::Ban;
                    assert!(
                        !banned || faults.contains(&dropped.reason.name()),
                        "{row}: {dropped:?}"
                    );
                }
                if !faults.is_empty() {
                    assert!(!run.faults().is_empty(), "{row}: nobody was convicted");
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn every_role_with_an_external_application() {
    let made = made(1, BLOCKS);
    let chain = Recorded::of(&made);
    let last = chain.tip().prev();
    for config in policies(5) {
        let policy = config.policy;
        for (script, _) in roles(&made, &chain) {
            let row = format!("{}, external, {policy:?}", script.name);
            let disk = Arc::new(Disk::default());
            let scripts = [script, Script::honest(&chain)];
            let app = Outside::new(&disk);
            let run = crate::service_faults::run_with(&chain, config.clone(), &scripts, app).await;
            run.holds(&made, last);
            let honest = run.status.dropped.iter().find(|d| d.peer == id(2));
            assert_eq!(honest, None, "{row}");
            let all: Vec<Height> = (1..=last.get()).map(Height::new).collect();
            assert_eq!(disk.finalized(), all, "{row}: each block once, in order");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_role_at_once_on_real_threads() {
    // Real time, the service's own threads: the order of things is another in each run. Nothing is
    // measured.
    let made = made(1, BLOCKS);
    let chain = Recorded::of(&made);
    for mut config in policies(6) {
        config.offload = Some(Offload::threads(2).unwrap());
        let honest = Script::honest(&chain);
        let mut scripts = vec![honest.clone(), honest.clone(), honest];
        let mut allowed = vec![&[][..]; 3];
        for (script, faults) in roles(&made, &chain) {
            scripts.push(script);
            allowed.push(faults);
        }
        let run = run(&chain, config, &scripts).await;
        run.holds(&made, chain.tip().prev());
        for (peer, fault) in run.faults() {
            let n = usize::from(peer.0[0]) - 1;
            // A flood of small messages is beyond what the connection may send, and closes it.
            let closes = ["timeout", "no_status", "transport"];
            let may = allowed[n].contains(&fault) || closes.contains(&fault);
            assert!(n > 2 && may, "{}: {fault}", scripts[n].name);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn f07_no_early_exit_by_three_who_come_first() {
    let made = made(1, BLOCKS);
    let chain = Recorded::of(&made);
    for config in policies(7) {
        let low = Script::says("says the first height", &chain, 1, 1);
        let scripts = [low.clone(), low.clone(), low, Script::honest(&chain)];
        let run = run(&chain, config, &scripts).await;
        assert_eq!(run.early, None, "caught up below the tip");
    }
}
