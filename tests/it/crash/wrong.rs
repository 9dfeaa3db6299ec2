//! An application that computes something else than the chain has: it is stopped before it commits
//! anything.

use std::sync::Arc;
use std::time::Duration;

use blocksync::app::{App, AppError, AppInfo, InitChain, InitChainResponse};
use blocksync::chain::execution::UpdateKey;
use blocksync::chain::{FinalizeBlock, FinalizeResponse, PublicKey, ValidatorUpdate};
use blocksync::pool::{LocalFault, Outcome};
use blocksync::store::{MemStore, Store};
use bytes::Bytes;
use prost::Message;

use super::{Case, Height};
use blocksync_testkit::baseapp::Living;
use blocksync_testkit::recorded::Recorded;

/// Alters an answer.
type Bug = fn(&mut FinalizeResponse);

/// Answers wrongly for one height.
struct Wrong {
    app: Living,
    height: Height,
    bug: Bug,
}

impl App for Wrong {
    async fn info(&mut self) -> Result<AppInfo, AppError> {
        self.app.info().await
    }

    async fn init_chain(&mut self, request: InitChain) -> Result<InitChainResponse, AppError> {
        self.app.init_chain(request).await
    }

    async fn finalize_block(&mut self, block: FinalizeBlock) -> Result<FinalizeResponse, AppError> {
        let wrong = block.height == self.height;
        let mut response = self.app.finalize_block(block).await?;
        if wrong {
            (self.bug)(&mut response);
        }
        Ok(response)
    }

    async fn commit(&mut self) -> Result<Height, AppError> {
        self.app.commit().await
    }
}

const BUGS: [(&str, Bug); 4] = [
    ("app_hash", |r| r.app_hash = Bytes::from_static(b"another")),
    ("last_results_hash", |r| r.tx_results[0].code = 1),
    ("next_validators_hash", |r| {
        let key = PublicKey::from_type_bytes(PublicKey::ED25519, &[9; 32]).unwrap();
        let key = UpdateKey::Known(key);
        r.validator_updates.push(ValidatorUpdate { key, power: 3 });
    }),
    ("consensus_hash", |r| {
        let update = r.param_updates.get_or_insert_default();
        update.block = Some((1 << 20, 5));
    }),
];

#[tokio::test(start_paused = true)]
async fn l09_a_wrong_answer_is_found_before_it_is_committed() {
    let case = Case::new(31, 24);
    for (names, bug) in BUGS {
        for height in [2, 9, 20] {
            let what = format!("{names}, height {height}");
            let (app, store) = (Living::new(true), Arc::new(MemStore::new()));
            let wrong = Wrong {
                app: app.clone(),
                height: Height::new(height),
                bug,
            };
            let status = case.run(1, false, store.clone(), wrong).await.unwrap();
            let Outcome::LocalFault(LocalFault::Diverged(why)) = &status.outcome else {
                panic!("{what}: {:?}", status.outcome);
            };
            let next = format!("block {}:", height + 1);
            for part in [names, &next, "nothing of block", "committed"] {
                assert!(why.contains(part), "{what}: {why} lacks {part}");
            }
            let before = Height::new(height - 1);
            assert_eq!(app.commits().last(), Some(&before), "{what}");
            assert_eq!(store.span().unwrap().applied, before, "{what}");
            assert_eq!(status.dropped, [], "{what}");
            // The right binary goes on from there.
            app.restart();
            case.completes(&what, 2, store, app).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn l09_and_again_after_a_restart() {
    let case = Case::new(32, 20);
    let (app, store) = (Living::new(true), Arc::new(MemStore::new()));
    for life in 0..3 {
        let wrong = Wrong {
            app: app.clone(),
            height: Height::new(10),
            bug: BUGS[0].1,
        };
        let ended = case.run(life, false, store.clone(), wrong).await;
        let said = format!("{ended:?}");
        assert!(said.contains("app_hash"), "life {life}: {said}");
        assert_eq!(app.commits().last(), Some(&Height::new(9)), "life {life}");
    }
    app.restart();
    case.completes("the right binary", 9, store, app).await;
}

/// The chain with another app hash in the header of its last block, whose commit for the one before
/// is right.
pub(super) fn with_a_forged_tip(case: &Case) -> Arc<Recorded> {
    let mut chain = Recorded::of(&case.made);
    let forged = {
        let body = chain.responses.last().unwrap();
        let mut response =
            blocksync::wire::proto::blocksync::BlockResponse::decode(&body[..]).unwrap();
        let header = response.block.as_mut().unwrap().header.as_mut().unwrap();
        header.app_hash = Bytes::from_static(b"nobody has this");
        response.encode_to_vec()
    };
    let all = &mut Arc::get_mut(&mut chain).unwrap().responses;
    *all.last_mut().unwrap() = forged.into();
    chain
}

#[tokio::test(start_paused = true)]
async fn l09_a_block_above_that_is_not_proven_accuses_nobody() {
    // The commit in it is right, its header is not: what it says of the last height is a lie that
    // only the next block uncovers.
    let mut case = Case::new(33, 20);
    case.chain = with_a_forged_tip(&case);
    let expected = &case.made.state_after(case.last()).app_hash;
    // A hash that comes late is held against that header only when it is proven.
    for app in [Living::new(true), Living::with_late_hash()] {
        let store = Arc::new(MemStore::new());
        let begun = tokio::time::Instant::now();
        let status = case.run(1, false, store, app.clone()).await.unwrap();
        assert!(
            matches!(status.outcome, Outcome::ReachedTarget { .. }),
            "{:?}",
            status.outcome
        );
        assert_eq!(app.commits().last(), Some(&case.last()));
        assert_eq!(status.app_hash, expected);
        let took = begun.elapsed();
        println!("L09, a forged tip: {took:?}");
        assert!(took < Duration::from_secs(20), "{took:?}");
    }
}
