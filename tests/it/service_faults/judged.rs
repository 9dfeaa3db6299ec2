//! The hard cases of judgement (`design.md` 5) with real keys and the whole service: who is to
//! blame, and when nobody is.

use std::time::Duration;

use blocksync::app::{App, AppError, AppInfo, InitChain, InitChainResponse};
use blocksync::chain::block::part_set;
use blocksync::chain::execution::UpdateKey;
use blocksync::chain::{
    BlockIdFlag, Fetched, FinalizeBlock, FinalizeResponse, Rules, ValidatorUpdate,
};
use blocksync::ids::{BlockId, Height};
use blocksync::pool::{LocalFault, Outcome, Stall};
use blocksync::service::Stage;
use blocksync::store::Store;
use blocksync_testkit::chain::TestChain;

use crate::service_faults::peers::{Log, Script};
use crate::service_faults::{GUARD, KvStore, fails, made, peers, policies, run, start};
use blocksync_testkit::made::{body, commit};
use blocksync_testkit::recorded::{Recorded, id};

/// The kvstore, but that it changes a validator's power at a height at which the chain's did not:
/// our own set two heights up is wrong.
struct WrongSet(KvStore, Height);

impl App for WrongSet {
    fn embedded(&self) -> bool {
        true
    }

    fn load(&mut self, store: &dyn Store) -> Result<(), AppError> {
        self.0.load(store)
    }

    fn take_writes(&mut self) -> Vec<(bytes::Bytes, Option<bytes::Bytes>)> {
        self.0.take_writes()
    }

    async fn info(&mut self) -> Result<AppInfo, AppError> {
        self.0.info().await
    }

    async fn init_chain(&mut self, request: InitChain) -> Result<InitChainResponse, AppError> {
        self.0.init_chain(request).await
    }

    async fn finalize_block(&mut self, block: FinalizeBlock) -> Result<FinalizeResponse, AppError> {
        let here = block.height == self.1;
        let mut answer = self.0.finalize_block(block).await?;
        if here {
            let key = made(1, 1).genesis.validators[2].key.clone();
            answer.validator_updates.push(ValidatorUpdate {
                key: UpdateKey::Known(key),
                power: 500,
            });
        }
        Ok(answer)
    }

    async fn commit(&mut self) -> Result<Height, AppError> {
        self.0.commit().await
    }
}

#[tokio::test(start_paused = true)]
async fn our_own_state_is_wrong_two_heights_up() {
    let made = made(1, 40);
    let chain = Recorded::of(&made);
    for config in policies(1) {
        let policy = config.policy;
        let app = WrongSet(KvStore::new(), Height::new(12));
        let (handle, store) = start(&chain, config, app).await;
        let log = Log::new();
        (1..=3).for_each(|n| peers::keep(&handle, n, Script::honest(&chain), &log));
        let status = fails(&handle).await;
        let said = match &status.outcome {
            Outcome::LocalFault(LocalFault::Diverged(why)) => why,
            Outcome::Contradiction { what, .. } => what,
            other => panic!("{policy:?}: {other:?}"),
        };
        assert!(said.contains("next_validators"), "{policy:?}: {said}");
        assert_eq!(status.dropped, [], "{policy:?}: nobody is banned");
        handle.stop().await;
        assert!(store.span().unwrap().applied <= Height::new(12));
    }
}

#[tokio::test(start_paused = true)]
async fn one_block_by_two_rounds_and_signers_is_no_fork() {
    let made = made(1, 40);
    let at = Height::new(15);
    let mut short = made.up_to(at);
    // The commit that this node has seen: the same block, decided anew in round 3, without the last
    // validator.
    let id = short.at(at).fetched.id;
    let last = short.set_of(at).len() - 1;
    let seen = short.sign(at, 3, id, |n| {
        if n == last {
            BlockIdFlag::Absent
        } else {
            BlockIdFlag::Commit
        }
    });
    short.blocks.last_mut().unwrap().commit = seen.clone();
    let (a, b) = (Recorded::of(&short), Recorded::of(&made));
    assert_eq!(a.tip_commit, commit(&seen));
    for config in policies(2) {
        let (handle, _store) = start(&a, config, KvStore::new()).await;
        let log = Log::new();
        peers::keep(&handle, 1, Script::own_kind(&a), &log);
        let mut watch = handle.status();
        let first = watch.wait_for(|s| s.applied == at);
        tokio::time::timeout(GUARD, first).await.unwrap().unwrap();
        peers::keep(&handle, 2, Script::honest(&b), &log);
        let all = watch.wait_for(|s| s.applied == b.tip().prev());
        tokio::time::timeout(GUARD, all).await.unwrap().unwrap();
        assert_eq!(handle.status().borrow().dropped, []);
        handle.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_header_that_names_another_heights_set_convicts_its_liar_alone() {
    // The set changes every other height. The liar's headers name the set of two heights before,
    // which is known; the honest carrier's commit is by another set, and fails under that one.
    let mut builder = TestChain::builder(9)
        .powers(&[10; 5])
        .heights(60)
        .txs(1, 50);
    for height in (3..58).step_by(2) {
        let power = 10 + i64::try_from(height).unwrap();
        builder = builder.change(height, height as usize % 5, power);
    }
    let made = builder.build();
    let chain = Recorded::of(&made);
    let forging = made.clone();
    let liar = Script::altering("another height's set", &chain, move |height, honest| {
        if height < Height::new(6) {
            return Some(honest);
        }
        let mut block = forging.at(height).fetched.block.clone();
        let before = forging.set_of(height.prev().prev());
        block.header.validators_hash = Some(before.hash());
        Some(body(&blocksync_testkit::chain::fetched(block)))
    });
    for config in policies(3) {
        for honest in [1, 2] {
            let row = format!("{:?}, {honest} honest", config.policy);
            let mut scripts = vec![Script::honest(&chain); honest];
            scripts.insert(0, liar.clone());
            let run = run(&chain, config.clone(), &scripts).await;
            run.holds(&made, chain.tip().prev());
            let faults = run.faults();
            assert!(
                matches!(faults[..], [(who, "bad_block" | "bad_commit")] if who == id(1)),
                "{row}: {faults:?}"
            );
        }
    }
}

/// The copy of a peer that has left is judged as if it were here: the peer is named with the proof,
/// and refused by all transports.
#[tokio::test(start_paused = true)]
async fn a_liar_that_hangs_up_before_its_verdict_is_named_and_banned() {
    let made = made(1, 20);
    let chain = Recorded::of(&made);
    for config in policies(1) {
        let policy = config.policy;
        let (handle, store) = start(&chain, config, KvStore::new()).await;
        let log = Log::new();
        let liar = Script::wrong_first(&chain).leaving(Duration::from_millis(500));
        peers::keep(&handle, 1, liar, &log);
        // It has given its block when the next comes, which proves it wrong a second later.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let honest = Script::late(&chain, Duration::from_secs(1));
        peers::keep(&handle, 2, honest, &log);
        let mut watch = handle.status();
        let all = watch.wait_for(|s| s.applied == chain.tip().prev());
        let done = tokio::time::timeout(GUARD, all).await.is_ok();
        let status = handle.status().borrow().clone();
        assert!(done, "{policy:?}: {status:?}");
        let [dropped] = &status.dropped[..] else {
            panic!("{policy:?}: {:?}", status.dropped);
        };
        assert_eq!(dropped.peer, id(1), "{policy:?}");
        assert_eq!(dropped.reason.name(), "bad_block", "{policy:?}");
        assert_eq!(dropped.address, "wrong first block", "{policy:?}");
        assert!(dropped.ban.is_some(), "{policy:?}");
        handle.stop().await;
        assert_eq!(store.span().unwrap().applied, chain.tip().prev());
    }
}

/// A chain whose validators have decided block `at` in an encoding that is not canonical; and the
/// same with that block as servers that encode anew give it.
fn not_canonical(at: Height, blocks: usize) -> [TestChain; 2] {
    let mut chain = TestChain::builder(11)
        .heights(at.get() as usize)
        .txs(1, 50)
        .build();
    let before = chain.state_after(at.prev()).clone();
    let block = chain.blocks.last().unwrap().clone();
    let canonical = block.fetched.clone();
    let mut raw = canonical.raw.to_vec();
    raw.extend_from_slice(&[0x78, 0x01]); // field 15, which no block has
    let id = BlockId {
        hash: canonical.id.hash,
        parts: part_set(&raw),
    };
    let commit = chain.sign(at, 0, id, |_| BlockIdFlag::Commit);
    let state = before
        .advance(&canonical.block, id, &block.response, &Rules::COMET_038)
        .unwrap();
    *chain.blocks.last_mut().unwrap() = blocksync_testkit::chain::TestBlock {
        fetched: Fetched {
            id,
            raw: raw.into(),
            canonical: false,
            ..canonical.clone()
        },
        commit,
        state,
        response: block.response,
    };
    chain.grow(blocks - at.get() as usize);
    let mut encoded_anew = chain.clone();
    encoded_anew.blocks[at.get() as usize - 1].fetched = canonical;
    [chain, encoded_anew]
}

/// Three peers that encode anew, for a minute; gives what was said then, and goes on with one that
/// has the decided bytes.
async fn encoded_anew(at: Height, config: blocksync::service::Config) -> Outcome {
    let policy = config.policy;
    let [made, anew] = not_canonical(at, 30);
    let (chain, anew) = (Recorded::of(&made), Recorded::of(&anew));
    let (handle, store) = start(&chain, config, KvStore::new()).await;
    let log = Log::new();
    for n in 1..=3 {
        peers::keep(&handle, n, Script::honest(&anew), &log);
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    let status = handle.status().borrow().clone();
    assert_eq!(status.applied, at.prev(), "{policy:?}");
    assert_eq!(status.dropped, [], "{policy:?}: nobody is to blame");
    // A peer that has the decided bytes lets us go on.
    peers::keep(&handle, 4, Script::honest(&chain), &log);
    let last = chain.tip().prev();
    let mut watch = handle.status();
    let all = watch.wait_for(|s| s.applied == last);
    let done = tokio::time::timeout(Duration::from_secs(60), all)
        .await
        .is_ok();
    let after = handle.status().borrow().clone();
    assert!(done, "{policy:?}: {after:?}");
    assert_eq!(after.dropped, [], "{policy:?}");
    handle.stop().await;
    let stored = store.block(at).unwrap().unwrap();
    assert_eq!(stored.raw, made.at(at).fetched.raw);
    status.outcome
}

#[tokio::test(start_paused = true)]
async fn a_committed_encoding_that_is_not_canonical() {
    for config in policies(4) {
        let said = encoded_anew(Height::new(12), config).await;
        assert!(
            matches!(said, Outcome::Stalled { .. } | Outcome::NoUsablePeers),
            "{said:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_committed_encoding_that_is_not_canonical_is_named() {
    let at = Height::new(12);
    for config in policies(4) {
        let said = encoded_anew(at, config).await;
        let named =
            matches!(&said, Outcome::Stalled { why: Stall::NotCanonical(h, _) } if *h == at);
        assert!(named, "{said:?}");
    }
}

/// A liar that adds an unknown field to each block: header, content and commit are those of the
/// chain. An honest server has the certified bytes or their canonical encoding, so one copy
/// convicts it, and costs no more signatures than another lie.
#[tokio::test(start_paused = true)]
async fn a_copy_that_is_neither_canonical_nor_certified_convicts() {
    let made = made(5, 120);
    let chain = Recorded::of(&made);
    let validators = made.genesis.validators.len() as u64;
    for config in policies(5) {
        for (first, honest) in [(1, 1), (1, 3), (60, 2)] {
            let row = format!("{:?}, from {first}, {honest} honest", config.policy);
            let served = made.clone();
            let liar = Script::altering("padded", &chain, move |height, body_as_it_is| {
                if height < Height::new(first) {
                    return Some(body_as_it_is);
                }
                let mut copy = served.at(height).fetched.clone();
                let mut raw = copy.raw.to_vec();
                raw.extend_from_slice(&[0x78, 0x01]); // field 15, which no block has
                copy.raw = raw.into();
                Some(body(&copy))
            });
            let mut scripts = vec![Script::honest(&chain); honest];
            scripts.insert(0, liar);
            let run = run(&chain, config.clone(), &scripts).await;
            run.holds(&made, chain.tip().prev());
            let faults = run.faults();
            assert!(
                matches!(faults[..], [(who, "bad_block")] if who == id(1)),
                "{row}: {faults:?}"
            );
            let checked = Stage::ALL.map(|stage| run.stages.of(stage).signatures);
            let checked: u64 = checked.iter().sum();
            let most = 3 * validators * chain.tip().get();
            assert!(
                checked <= most,
                "{row}: {checked} signatures, {most} allowed"
            );
        }
    }
}
