//! The contract of `App` as a suite: implementors of the trait run it in an ordinary test.

use std::sync::Arc;

use bytes::Bytes;

use crate::store::conformance::sample;
use blocksync::app::{App, AppInfo, InitChain};
use blocksync::chain::execution::{CommitInfo, FinalizeBlock, FinalizeResponse};
use blocksync::chain::{ConsensusParams, Rules, merkle};
use blocksync::ids::Height;
use blocksync::store::{Batch, MemStore, Store};

/// The height of the first block in the suite: not 1, for an application must not count for itself.
const INITIAL: u64 = 5;
/// Blocks that the suite executes.
const BLOCKS: u64 = 6;

/// Runs the whole suite. `make` gives an application before its first block each time; `txs` gives
/// the transactions of a height, which the application must accept.
///
/// # Panics
/// When the application breaks its contract, with what was expected and what was found.
pub async fn run<A: App>(make: impl Fn() -> A, txs: impl Fn(u64) -> Vec<Bytes>) {
    let expected = executes(make(), &txs).await;
    assert_eq!(
        executes(make(), &txs).await,
        expected,
        "the same blocks give the same answers"
    );
    forgets_what_is_announced_anew(make(), &txs, &expected).await;
    if make().embedded() {
        survives_restarts(&make, &txs, &expected).await;
        loses_what_is_not_committed(&make, &txs, &expected).await;
        batches(&make, &txs, &expected).await;
    } else {
        assert_eq!(
            make().take_writes(),
            [],
            "an external one hands over nothing"
        );
    }
}

/// `InitChain`'s request of the suite: four validators.
fn init() -> InitChain {
    InitChain {
        time: sample::time(INITIAL),
        chain_id: Bytes::from_static(sample::CHAIN),
        params: ConsensusParams::default(),
        validators: sample::set(4, 1).iter().cloned().collect(),
        app_state: Bytes::new(),
        initial_height: Height::new(INITIAL),
        rules: Rules::COMET_038,
    }
}

fn request(height: u64, txs: Vec<Bytes>) -> FinalizeBlock {
    let set = sample::set(4, 1);
    FinalizeBlock {
        txs,
        decided_last_commit: CommitInfo::default(),
        misbehavior: Vec::new(),
        hash: merkle::sha256(&height.to_be_bytes()),
        height: Height::new(height),
        time: sample::time(height),
        next_validators_hash: Some(set.hash()),
        proposer_address: set.get(0).expect("four members").address,
        header: None,
        syncing_to: Height::ZERO,
    }
}

fn heights() -> impl Iterator<Item = u64> {
    INITIAL..INITIAL + BLOCKS
}

async fn start(app: &mut impl App) -> AppInfo {
    let info = app.info().await.expect("Info");
    assert_eq!(info.last_height, Height::ZERO, "before the first block");
    app.init_chain(init()).await.expect("InitChain");
    info
}

/// Executes one block and commits it.
async fn block(app: &mut impl App, height: u64, txs: Vec<Bytes>) -> FinalizeResponse {
    let count = txs.len();
    let response = app.finalize_block(request(height, txs)).await;
    let response = response.expect("a block of transactions that it accepts");
    assert_eq!(
        response.tx_results.len(),
        count,
        "height {height}: one result for each transaction"
    );
    let retain = app.commit().await.expect("Commit");
    assert!(
        retain <= Height::new(height),
        "height {height}: it asks for what is not there yet to be pruned ({retain})"
    );
    response
}

async fn agrees(app: &mut impl App, height: u64, expected: &FinalizeResponse) {
    let info = app.info().await.expect("Info");
    assert_eq!(info.last_height, Height::new(height), "Info's height");
    assert_eq!(
        info.last_app_hash, expected.app_hash,
        "Info's hash after height {height}"
    );
}

async fn executes(mut app: impl App, txs: &impl Fn(u64) -> Vec<Bytes>) -> Vec<FinalizeResponse> {
    start(&mut app).await;
    let mut out = Vec::new();
    for height in heights() {
        let response = block(&mut app, height, txs(height)).await;
        agrees(&mut app, height, &response).await;
        out.push(response);
    }
    out
}

/// A node that is killed between `finalize_block` and `commit` while the application lives on: the
/// block's effects must be gone once it is announced again.
async fn forgets_what_is_announced_anew(
    mut app: impl App,
    txs: &impl Fn(u64) -> Vec<Bytes>,
    expected: &[FinalizeResponse],
) {
    start(&mut app).await;
    block(&mut app, INITIAL, txs(INITIAL)).await;
    let next = INITIAL + 1;
    for _ in 0..2 {
        let executed = app.finalize_block(request(next, txs(next))).await;
        executed.expect("a block of transactions that it accepts");
        let announced = app.announce_block(&request(next, txs(next))).await;
        announced.expect("whatever it makes of it, it is still there");
    }
    agrees(&mut app, INITIAL, &expected[0]).await;
    let response = block(&mut app, next, txs(next)).await;
    assert_eq!(
        response, expected[1],
        "height {next}, executed before, not committed and announced anew: ProcessProposal must reset what FinalizeBlock did"
    );
    agrees(&mut app, next, &expected[1]).await;
}

fn save(app: &mut impl App, store: &MemStore) {
    let batch = Batch {
        app: app.take_writes(),
        ..Batch::default()
    };
    store.commit(batch).expect("in memory");
    assert_eq!(app.take_writes(), [], "everything has been taken");
}

fn reload<A: App>(make: &impl Fn() -> A, store: &MemStore) -> A {
    let mut app = make();
    app.load(store).expect("what it wrote itself");
    assert_eq!(app.take_writes(), [], "loading writes nothing");
    app
}

/// A restart after every block.
async fn survives_restarts<A: App>(
    make: &impl Fn() -> A,
    txs: &impl Fn(u64) -> Vec<Bytes>,
    expected: &[FinalizeResponse],
) {
    let store = MemStore::new();
    let mut app = reload(make, &store);
    start(&mut app).await;
    for (height, expected) in heights().zip(expected) {
        let response = block(&mut app, height, txs(height)).await;
        assert_eq!(response, *expected, "height {height}, after a restart");
        save(&mut app, &store);
        app = reload(make, &store);
        agrees(&mut app, height, expected).await;
    }
}

/// A crash between `finalize_block` and `commit`, and one after `commit` before the writes were
/// durable.
async fn loses_what_is_not_committed<A: App>(
    make: &impl Fn() -> A,
    txs: &impl Fn(u64) -> Vec<Bytes>,
    expected: &[FinalizeResponse],
) {
    let store = MemStore::new();
    let mut app = reload(make, &store);
    start(&mut app).await;
    block(&mut app, INITIAL, txs(INITIAL)).await;
    save(&mut app, &store);
    let next = INITIAL + 1;
    app.finalize_block(request(next, txs(next)))
        .await
        .expect("a block of transactions that it accepts");
    assert_eq!(app.take_writes(), [], "not committed yet");
    for _ in 0..2 {
        app = reload(make, &store);
        agrees(&mut app, INITIAL, &expected[0]).await;
        let response = block(&mut app, next, txs(next)).await;
        assert_eq!(response, expected[1], "executed once more");
    }
}

/// All blocks in one batch leave the same content as one batch for each.
async fn batches<A: App>(
    make: &impl Fn() -> A,
    txs: &impl Fn(u64) -> Vec<Bytes>,
    expected: &[FinalizeResponse],
) {
    let (one, each) = (MemStore::new(), Arc::new(MemStore::new()));
    let (mut first, mut second) = (make(), make());
    start(&mut first).await;
    start(&mut second).await;
    for height in heights() {
        block(&mut first, height, txs(height)).await;
        block(&mut second, height, txs(height)).await;
        save(&mut second, &each);
    }
    save(&mut first, &one);
    assert_eq!(
        one.app_scan(b"").expect("in memory"),
        each.app_scan(b"").expect("in memory"),
        "the same pairs, however they are batched"
    );
    let last = INITIAL + BLOCKS - 1;
    let mut app = reload(make, &one);
    agrees(&mut app, last, &expected[expected.len() - 1]).await;
}
