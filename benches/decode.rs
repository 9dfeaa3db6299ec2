//! Cost of a block on arrival: guard, decode, canonical scan and hashes, for blocks with 100
//! signatures of 19 KB (transactions of 250 bytes) and 200 KB (of 1 kB).
//!
//! `cargo bench --bench decode`

use std::hint::black_box;
use std::time::Duration;

use blocksync::chain::block::part_set;
use blocksync::chain::{
    Block, BlockIdFlag, Commit, CommitSig, Header, Signature, Time, block, merkle,
};
use blocksync::ids::{Address, BlockId, Hash, Height};
use blocksync::wire::{BlockResponse, Limits, canonical, decode, guard};
use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// A block at height 1000 that passes the stateless checks; its signatures are none.
fn synthetic(txs: usize, tx_len: usize, validators: u8) -> Block {
    let time = Time::new(1_700_000_000, 123_456_789).expect("a time of this century");
    let hash = |byte| Hash([byte; 32]);
    let signatures = (0..validators).map(|i| CommitSig {
        flag: BlockIdFlag::Commit,
        address: Address([i; 20]),
        timestamp: time,
        signature: Signature::new(&[i; 64]).expect("64 bytes"),
    });
    let last_commit = Commit {
        height: Height::new(999),
        round: 0,
        block_id: BlockId::new(hash(1), 1, hash(2)),
        signatures: signatures.collect(),
    };
    let txs: Vec<Bytes> = (0..txs).map(|i| vec![i as u8; tx_len].into()).collect();
    Block {
        header: Header {
            version_block: 11,
            version_app: 1,
            chain_id: Bytes::from_static(b"bench-chain"),
            height: Height::new(1000),
            time,
            last_block_id: last_commit.block_id,
            last_commit_hash: Some(last_commit.hash()),
            data_hash: Some(block::data_hash(&txs)),
            validators_hash: Some(hash(3)),
            next_validators_hash: Some(hash(3)),
            consensus_hash: Some(hash(4)),
            app_hash: Bytes::from_static(&[0; 8]),
            last_results_hash: Some(hash(5)),
            evidence_hash: Some(merkle::empty_root()),
            proposer_address: Address([0; 20]),
        },
        txs: txs.into(),
        evidence: Vec::new(),
        last_commit,
    }
}

fn arrival(c: &mut Criterion) {
    for (name, txs, tx_len) in [("19KB", 31, 250), ("200KB", 186, 1000)] {
        let mut raw = Vec::new();
        synthetic(txs, tx_len, 100).encode(&mut raw);
        let raw = Bytes::from(raw);
        let response = BlockResponse {
            block: raw.clone(),
            ..BlockResponse::default()
        };
        let (message, limits) = (response.encode(), Limits::default());
        let fetched = decode::fetched(&message, &limits).expect("a valid block");
        assert!(fetched.canonical);
        fetched.block.check_body().expect("hashes of its own body");
        eprintln!("{name}: {} bytes", raw.len());

        let mut group = c.benchmark_group(name);
        group
            .throughput(Throughput::Bytes(raw.len() as u64))
            .sample_size(30)
            .warm_up_time(Duration::from_millis(500))
            .measurement_time(Duration::from_secs(2));
        group.bench_function("guard", |b| {
            b.iter(|| guard::admit(black_box(&message), &limits));
        });
        group.bench_function("canonical", |b| {
            b.iter(|| canonical::block(black_box(&raw)));
        });
        group.bench_function("decode", |b| {
            b.iter(|| decode::block_from_bytes(black_box(&raw)));
        });
        group.bench_function("header hash", |b| {
            b.iter(|| black_box(&fetched.block.header).hash());
        });
        group.bench_function("part set", |b| b.iter(|| part_set(black_box(&raw))));
        group.bench_function("arrival", |b| {
            b.iter(|| decode::fetched(black_box(&message), &limits));
        });
        group.bench_function("body hashes", |b| {
            b.iter(|| black_box(&fetched.block).check_body());
        });
        group.bench_function("serve", |b| b.iter(|| black_box(&response).encode()));
        group.finish();
    }
}

/// Cost of refusing: `faults.md` P21 (an unasked block is judged by its guard alone), P25 (at most
/// 20 µs), P26.
fn refusal(c: &mut Criterion) {
    let limits = Limits::default();
    let mut raw = Vec::new();
    synthetic(31, 250, 100).encode(&mut raw);
    let unasked = BlockResponse {
        block: raw.into(),
        ..BlockResponse::default()
    };
    // A block response whose block's last commit has a million empty signatures.
    let signatures = [0x22, 0].repeat(1_000_000);
    let million = nested(3, &nested(1, &nested(4, &signatures)));
    let noise: Vec<u8> = (0..65_536u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    let cases = [
        (
            "an unasked block of 19 KB, up to its height",
            unasked.encode(),
        ),
        ("64 KB of noise", noise.into()),
        ("a number without an end", vec![0xff; 64].into()),
        ("a million signatures", million.into()),
    ];
    let mut group = c.benchmark_group("refused");
    group
        .sample_size(30)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    for (name, message) in &cases {
        let taken = guard::admit(message, &limits).is_ok();
        assert_eq!(taken, *name == cases[0].0, "{name}");
        group.bench_function(*name, |b| {
            b.iter(|| guard::admit(black_box(message), &limits));
        });
    }
    group.finish();
}

/// A field of bytes.
fn nested(field: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![field << 3 | 2];
    blocksync::varint::put(body.len() as u64, &mut out);
    out.extend_from_slice(body);
    out
}

criterion_group!(benches, arrival, refusal);
criterion_main!(benches);
