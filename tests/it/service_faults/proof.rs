//! Lies about blocks and commits, told with and without the validators' keys: P12 to P20.

use std::sync::Arc;
use std::time::Duration;

use blocksync::chain::{BlockIdFlag, Commit, Fetched, Rules};
use blocksync::ids::Height;
use blocksync::pool::Outcome;
use blocksync::store::Store;
use blocksync_testkit::chain::{BlockSpec, TestChain};
use bytes::Bytes;

use crate::service_faults::peers::{Log, Script};
use crate::service_faults::{
    HEDGE, KvStore, fails, made, peers, policies, report, run, run_of_one, start,
};
use blocksync_testkit::made::{Disk, Outside, body, record};
use blocksync_testkit::recorded::{Recorded, id};

/// The block of a height with another last commit, its hashes mended; nothing for the first, which
/// carries none.
pub(crate) fn forged(
    made: &TestChain,
    height: Height,
    with: impl FnOnce(&mut Commit),
) -> Option<Bytes> {
    if height <= made.genesis.initial_height {
        return None;
    }
    let honest = &made.at(height).fetched;
    let mut block = honest.block.clone();
    with(&mut block.last_commit);
    let forged = Fetched {
        ext_raw: honest.ext_raw.clone(),
        ..blocksync_testkit::chain::fetched(blocksync_testkit::chain::resealed(block))
    };
    Some(body(&forged))
}

/// One that lies in every block's last commit, and an honest one: only the liar is convicted, once,
/// and the chain is whole.
async fn forgers(row: &str, lie: impl Fn(&TestChain, &mut Commit) + Send + Sync + Copy + 'static) {
    let made = made(1, 40);
    let chain = Recorded::of(&made);
    let last = chain.tip().prev();
    for config in policies(1).map(run_of_one) {
        let policy = config.policy;
        let honest = Script::honest(&chain);
        let t0 = run(&chain, config.clone(), &[honest.clone(), honest.clone()]).await;
        let forging = made.clone();
        let liar = Script::altering("forger", &chain, move |height, honest| {
            let forged = forged(&forging, height, |commit| lie(&forging, commit));
            Some(forged.unwrap_or(honest))
        });
        let run = run(&chain, config, &[liar, honest]).await;
        run.holds(&made, last);
        let faults = run.faults();
        assert!(
            matches!(faults[..], [(who, "bad_commit" | "bad_block" | "malformed")] if who == id(1)),
            "{row}, {policy:?}: one ban, of the liar: {faults:?}"
        );
        stored_commits_are_good(&made, &*run.store, last);
        report(
            &format!("{row}, {policy:?}"),
            run.took,
            t0.took * 3 / 2 + HEDGE,
        );
    }
}

/// The commit that is kept for the last block is the one that its validators made.
fn stored_commits_are_good(made: &TestChain, store: &dyn Store, last: Height) {
    let kept = store.commit_for(last).unwrap().expect("the last commit");
    let kept = blocksync::wire::decode::commit_from_bytes(&kept).unwrap();
    assert_eq!(kept, made.at(last).commit);
}

#[tokio::test(start_paused = true)]
async fn p15_a_signature_that_fails() {
    forgers("P15, bad signature", |_, commit| {
        let n = commit.signatures.len();
        commit.signatures.swap(0, n - 1);
        commit.signatures[0].signature = commit.signatures[n - 1].signature.clone();
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn p15_too_little_power() {
    forgers("P15, two thirds at most", |_, commit| {
        let keep = commit.signatures.len() / 2;
        for sig in &mut commit.signatures[keep..] {
            *sig = blocksync_testkit::chain::ABSENT;
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn p15_one_signer_many_times() {
    forgers("P15, duplicated signer", |_, commit| {
        let first = commit
            .signatures
            .iter()
            .find(|s| s.flag == BlockIdFlag::Commit);
        let first = first.unwrap().clone();
        commit.signatures.fill(first);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn p15_r15_another_address() {
    forgers("P15, wrong address", |_, commit| {
        let signed = |s: &&mut blocksync::chain::CommitSig| s.flag == BlockIdFlag::Commit;
        let first = commit.signatures.iter_mut().find(signed).unwrap();
        first.address.0[0] ^= 1;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn p15_another_round() {
    forgers("P15, doctored round", |_, commit| commit.round += 1).await;
}

#[tokio::test(start_paused = true)]
async fn p15_another_block_id() {
    forgers("P15, doctored BlockID", |_, commit| {
        commit.block_id = blocksync_testkit::chain::nowhere("else");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn p16_r15_bad_signature_after_the_threshold() {
    // Five validators of power 10: the first four are more than two thirds. The last signature is
    // another's.
    forgers("P16", |_, commit| {
        let last = commit.signatures.len() - 1;
        let signature = commit.signatures[0].signature.clone();
        commit.signatures[last].signature = signature;
        commit.signatures[last].flag = BlockIdFlag::Commit;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn p14_the_sets_own_keys_on_another_chain() {
    // The same keys, the same heights, another chain's name: every signature is good, for something
    // else.
    let made = made(1, 40);
    let chain = Recorded::of(&made);
    let other = TestChain::builder(1)
        .powers(&[10; 5])
        .heights(40)
        .chain_id("another-chain")
        .build();
    let liar = Script::other_chain("other chain's name", &Recorded::of(&other));
    for config in policies(1) {
        let run = run(&chain, config, &[liar.clone(), Script::honest(&chain)]).await;
        run.holds(&made, chain.tip().prev());
        let faults = run.faults();
        assert!(
            faults.len() == 1 && faults[0].0 == id(1),
            "0 collateral bans: {faults:?}"
        );
    }
}

/// Two chains by the same validators, alike below `fork`: each height from there on has two full
/// certificates.
fn two_chains(fork: u64, blocks: usize) -> [TestChain; 2] {
    let whole = TestChain::builder(5).heights(blocks).txs(1, 50).build();
    let mut other = whole.up_to(Height::new(fork - 1));
    while other.height() < whole.height() {
        other.push(&BlockSpec {
            txs: vec![format!("other{}=1", other.height()).into()],
            ..BlockSpec::default()
        });
    }
    [whole, other]
}

/// Runs until the service cannot go on; gives its status then, and the directory of evidence.
async fn forked(
    chain: &Arc<Recorded>,
    config: blocksync::service::Config,
    first: &[Script],
    then: &[Script],
) -> (blocksync::service::Status, tempfile::TempDir) {
    let evidence = tempfile::tempdir().unwrap();
    let mut config = config;
    config.evidence_dir = Some(evidence.path().to_owned());
    let (handle, store) = start(chain, config, KvStore::new()).await;
    let log = Log::new();
    let mut n = 0;
    for scripts in [first, then] {
        for script in scripts {
            n += 1;
            peers::keep(&handle, n, script.clone(), &log);
        }
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
    let status = fails(&handle).await;
    handle.stop().await;
    let span = store.span().unwrap();
    assert_eq!(span.stored, span.applied, "nothing else is there");
    (status, evidence)
}

#[tokio::test(start_paused = true)]
async fn p20_two_full_certificates() {
    // The last block of one chain is applied, by its own commit; then somebody has more blocks,
    // upon another one.
    let [one, two] = two_chains(15, 40);
    let fork = Height::new(15);
    let (a, b) = (Recorded::of(&one.up_to(fork)), Recorded::of(&two));
    for config in policies(1) {
        let policy = config.policy;
        let (first, then) = (Script::own_kind(&a), Script::honest(&b));
        let (status, evidence) = forked(&a, config, &[first], &[then]).await;
        let Outcome::Contradiction { fork: Some(f), .. } = &status.outcome else {
            panic!("{policy:?}: {:?}", status.outcome);
        };
        let ids = [&one, &two].map(|c| c.at(fork).fetched.id);
        assert_eq!((f.height, f.ids), (fork, ids));
        assert_eq!(status.dropped, [], "{policy:?}: nobody is banned");
        assert_eq!(status.applied, fork, "nothing above the fork is applied");
        let file = evidence.path().join(format!("fork-{fork}.json"));
        the_evidence_convicts(&file, &one, fork, f.ids);
    }
}

#[tokio::test(start_paused = true)]
async fn p20_two_whole_chains() {
    let [one, two] = two_chains(15, 40);
    let (a, b) = (Recorded::of(&one), Recorded::of(&two));
    for config in policies(1).map(run_of_one) {
        let all = [&a, &b, &a, &b].map(Script::honest);
        let (status, evidence) = forked(&a, config, &all, &[]).await;
        let Outcome::Contradiction { fork: Some(f), .. } = &status.outcome else {
            panic!("{:?}", status.outcome);
        };
        let file = evidence.path().join(format!("fork-{}.json", f.height));
        the_evidence_convicts(&file, &one, f.height, f.ids);
    }
}

/// The file holds two commits of the height that pass the full check, one for each block.
fn the_evidence_convicts(
    file: &std::path::Path,
    made: &TestChain,
    height: Height,
    ids: [blocksync::ids::BlockId; 2],
) {
    let text = std::fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let evidence: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(evidence["height"], height.get());
    assert_eq!(evidence["chain_id"], "test-chain");
    for (n, id) in ids.into_iter().enumerate() {
        let bytes = hex::decode(evidence["commits"][n].as_str().unwrap()).unwrap();
        let commit = blocksync::wire::decode::commit_from_bytes(&bytes).unwrap();
        assert_eq!(commit.block_id, id);
        let set = made.set_of(height);
        let mut rng = rand::rng();
        blocksync::chain::verify::verify_commit(
            &Rules::COMET_038,
            &made.initial.chain_id,
            set,
            &id,
            height,
            &commit,
            &mut rng,
        )
        .unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn p17_r15_extended_commits() {
    let made = made(1, 40);
    let chain = Recorded::of(&made);
    let forging = made.clone();
    let extra = Script::altering("extra extended commit", &chain, move |height, honest| {
        // Below height 4 none is due; this one is signed by all, and as good as those above.
        if height >= Height::new(4) {
            return Some(honest);
        }
        let block = forging.at(height);
        let extended = forging
            .keys
            .extend(&forging.initial.chain_id, &block.commit);
        let mut raw = Vec::new();
        extended.encode(&mut raw);
        let fetched = Fetched {
            ext_raw: Some(raw.into()),
            ..block.fetched.clone()
        };
        Some(body(&fetched))
    });
    let kinds = [
        Script::without_extensions(&chain),
        Script::bad_extensions(&chain),
        extra,
    ];
    for liar in kinds {
        for config in policies(3) {
            let row = format!("P17, {}, {:?}", liar.name, config.policy);
            let honest = Script::honest(&chain);
            let t0 = run(&chain, config.clone(), &[honest.clone(), honest.clone()]).await;
            let run = run(&chain, config, &[liar.clone(), honest]).await;
            run.holds(&made, chain.tip().prev());
            assert_eq!(run.faults(), [(id(1), "bad_extended_commit")], "{row}");
            report(&row, run.took, t0.took * 3 / 2 + HEDGE);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn p12_p13_wrong_bodies_and_heights() {
    let made = made(1, 40);
    let chain = Recorded::of(&made);
    for (liar, fault) in [
        (Script::wrong_body(&chain), "bad_block"),
        (Script::other_height(&chain), "unasked"),
    ] {
        for config in policies(4) {
            let row = format!("{}, {:?}", liar.name, config.policy);
            let run = run(&chain, config, &[liar.clone(), Script::honest(&chain)]).await;
            run.holds(&made, chain.tip().prev());
            assert_eq!(run.faults(), [(id(1), fault)], "{row}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_banned_peer_that_keeps_coming_back_is_listed_once() {
    let chain = Recorded::of(&made(1, 40));
    let (handle, _store) = start(&chain, crate::service_faults::config(6), KvStore::new()).await;
    let log = Log::new();
    peers::keep(&handle, 1, Script::wrong_body(&chain), &log);
    peers::keep(&handle, 2, Script::honest(&chain), &log);
    tokio::time::sleep(Duration::from_secs(50)).await;
    let dropped = handle.status().borrow().dropped.clone();
    assert!(
        matches!(&dropped[..], [one] if one.peer == id(1) && one.ban.is_some()),
        "{} entries",
        dropped.len()
    );
    handle.stop().await;
}

#[tokio::test(start_paused = true)]
async fn p19_one_block_to_the_first_and_another_to_the_second() {
    // Each height's answers alternate between the chain's block and one of its own.
    let made = made(1, 40);
    let chain = Recorded::of(&made);
    let asked = Arc::new(std::sync::Mutex::new(std::collections::BTreeMap::new()));
    let forging = made.clone();
    let two_faced = Script::altering("equivocator", &chain, move |height, honest| {
        let mut asked = asked.lock().unwrap();
        let times: &mut u32 = asked.entry(height).or_default();
        *times += 1;
        if (*times + height.get() as u32).is_multiple_of(2) {
            return Some(honest);
        }
        let mut block = forging.at(height).fetched.block.clone();
        block.txs.extend(["mine=1"]);
        let mine = Fetched {
            ext_raw: forging.at(height).fetched.ext_raw.clone(),
            ..blocksync_testkit::chain::fetched(blocksync_testkit::chain::resealed(block))
        };
        Some(body(&mine))
    });
    for config in policies(5) {
        let honest = Script::late(&chain, Duration::from_millis(50));
        let run = run(&chain, config, &[two_faced.clone(), honest]).await;
        run.holds(&made, chain.tip().prev());
        let faults = run.faults();
        assert!(
            faults.len() <= 1 && faults.iter().all(|(who, _)| *who == id(1)),
            "at most one ban: {faults:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn p17_extended_commits_with_an_external_application() {
    // Its blocks are durable before any of them is executed: what only execution can judge must not
    // be among them.
    let made = made(1, 40);
    let chain = Recorded::of(&made);
    for liar in [
        Script::without_extensions(&chain),
        Script::bad_extensions(&chain),
    ] {
        for config in policies(3) {
            let row = format!("P17, external, {}, {:?}", liar.name, config.policy);
            let disk = Arc::new(Disk::default());
            let (handle, store) = start(&chain, config, Outside::new(&disk)).await;
            let log = Log::new();
            peers::keep(&handle, 1, liar.clone(), &log);
            peers::keep(&handle, 2, Script::honest(&chain), &log);
            let mut watch = handle.status();
            let last = chain.tip().prev();
            let done = watch.wait_for(|s| s.applied == last);
            let done = tokio::time::timeout(crate::service_faults::GUARD, done)
                .await
                .is_ok();
            let status = handle.status().borrow().clone();
            assert!(done, "{row}: {:?}", status.outcome);
            handle.stop().await;
            let dropped: Vec<_> = status.dropped.iter().map(|d| d.peer).collect();
            assert!(
                dropped.contains(&id(1)) && !dropped.contains(&id(2)),
                "{row}"
            );
            for height in 1..=last.get() {
                let stored = store.block(Height::new(height)).unwrap().unwrap();
                let expected = record(&made.at(Height::new(height)).fetched);
                assert!(stored == expected, "{row}: block {height}");
            }
        }
    }
}
