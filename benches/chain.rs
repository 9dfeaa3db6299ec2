//! Work for each block under any proof: the checks against the state, the transition, the block
//! time, and the hashes of a block of 19 KB with 100 validators.

use std::hint::black_box;

use blocksync::chain::block::part_set;
use blocksync::chain::median::median_time;
use blocksync::chain::validate::{LastCommit, validate_block};
use blocksync::chain::{
    Block, ChainState, FinalizeBlock, FinalizeResponse, Rules, TxResult, ValidatorUpdate,
    execution::UpdateKey,
};
use blocksync::ids::BlockId;
use blocksync_testkit::chaingen::{Generator, Options};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// Blocks below the one that is measured.
const BELOW: usize = 3;

/// A block in the middle of a chain and the state before it.
struct Step {
    state: ChainState,
    block: Block,
    id: BlockId,
    raw: Vec<u8>,
    response: FinalizeResponse,
}

impl Step {
    fn make() -> Self {
        let mut generator = Generator::new(Options::default()).expect("options that fit");
        for _ in 0..BELOW {
            generator.make().expect("a block");
        }
        let state = generator.state().clone();
        let made = generator.make().expect("a block");
        let response = FinalizeResponse {
            tx_results: vec![TxResult::default(); made.block.txs.len()],
            app_hash: generator.state().app_hash.clone(),
            ..FinalizeResponse::default()
        };
        Step {
            state,
            id: made.id,
            raw: made.raw.to_vec(),
            block: made.block,
            response,
        }
    }
}

fn step(c: &mut Criterion) {
    let step = Step::make();
    let Step {
        state,
        block,
        id,
        raw,
        response,
    } = &step;
    let rules = Rules::COMET_038;
    let mut group = c.benchmark_group("chain");
    group.bench_function("validate_block", |b| {
        b.iter(|| {
            validate_block(
                state,
                black_box(block),
                &rules,
                LastCommit::AlreadyVerified,
                None,
            )
        });
    });
    group.bench_function("advance", |b| {
        b.iter(|| {
            state
                .advance(black_box(block), *id, response, &rules)
                .map(|s| s.last_height)
        });
    });
    let mut changed = response.clone();
    changed.validator_updates = vec![ValidatorUpdate {
        key: UpdateKey::Known(state.validators.get(0).expect("a validator").key.clone()),
        power: 11,
    }];
    group.bench_function("advance_with_an_update", |b| {
        b.iter(|| {
            state
                .advance(black_box(block), *id, &changed, &rules)
                .map(|s| s.last_height)
        });
    });
    let last = state
        .last_validators
        .as_deref()
        .expect("not the first block");
    group.bench_function("median", |b| {
        b.iter(|| median_time(black_box(&block.last_commit), last, &rules));
    });
    group.bench_function("finalize_request", |b| {
        b.iter(|| {
            FinalizeBlock::from_block(black_box(block), *id, Some(last), state.initial_height)
        });
    });
    group.bench_function("header_hash", |b| {
        b.iter(|| black_box(&block.header).hash())
    });
    group.bench_function("commit_hash", |b| {
        b.iter(|| black_box(&block.last_commit).hash())
    });
    group.throughput(Throughput::Bytes(raw.len() as u64));
    group.bench_function("part_set", |b| b.iter(|| part_set(black_box(raw))));
    group.finish();
}

criterion_group!(benches, step);
criterion_main!(benches);
