//! Commits of 100 validators: one batch a commit, one batch over eight heights (whose keys repeat),
//! and one signature at a time, which is what a failed batch comes down to.

use std::hint::black_box;
use std::sync::Arc;

use blocksync::chain::signatures::SignatureBatch;
use blocksync::chain::verify::{check_commit, push_signatures, verify_commit};
use blocksync::chain::{Commit, PublicKey, Rules, Signature, ValidatorSet};
use blocksync::ids::BlockId;
use blocksync_testkit::chaingen::{Generator, Options};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rand::SeedableRng;
use rand::rngs::StdRng;

/// Validators.
const VALIDATORS: usize = 100;
/// Heights in the large batch.
const HEIGHTS: usize = 8;

const RULES: &Rules = &Rules::COMET_038;

/// A chain of a few heights, its commits and the set that signed them all.
struct Signed {
    chain_id: Vec<u8>,
    set: Arc<ValidatorSet>,
    commits: Vec<(BlockId, Commit)>,
}

impl Signed {
    fn make() -> Self {
        let options = Options {
            validators: VALIDATORS,
            txs: 1,
            ..Options::default()
        };
        let chain_id = options.chain_id.clone().into_bytes();
        let mut generator = Generator::new(options).expect("options that fit");
        let set = generator.state().validators.clone();
        let commits = (0..HEIGHTS).map(|_| {
            let made = generator.make().expect("a block");
            (made.id, made.commit.to_commit())
        });
        Signed {
            chain_id,
            set,
            commits: commits.collect(),
        }
    }

    fn batch(&self, heights: usize) -> SignatureBatch {
        let mut batch = SignatureBatch::new();
        for (id, commit) in &self.commits[..heights] {
            check_commit(RULES, &self.set, id, commit.height, commit).expect("a full commit");
            push_signatures(RULES, &self.chain_id, &self.set, commit, &mut batch);
        }
        batch
    }
}

fn commits(c: &mut Criterion) {
    let signed = Signed::make();
    let mut rng = StdRng::seed_from_u64(1);
    let mut group = c.benchmark_group("verify");
    group.throughput(Throughput::Elements(VALIDATORS as u64));
    let (id, commit) = &signed.commits[0];
    group.bench_function("commit_of_100", |b| {
        b.iter(|| {
            let (chain, set) = (&signed.chain_id, &signed.set);
            let commit = black_box(commit);
            verify_commit(RULES, chain, set, id, commit.height, commit, &mut rng)
        });
    });
    group.bench_function("sign_bytes_of_100", |b| {
        b.iter(|| {
            let mut batch = SignatureBatch::new();
            let (chain, set) = (&signed.chain_id, &signed.set);
            push_signatures(RULES, chain, set, black_box(commit), &mut batch);
            batch.len()
        });
    });
    group.bench_function("one_by_one", |b| {
        let messages: Vec<Vec<u8>> = (0..VALIDATORS)
            .map(|i| commit.sign_bytes(&signed.chain_id, i))
            .collect();
        b.iter(|| {
            let entries = signed.set.iter().zip(&commit.signatures).zip(&messages);
            entries
                .filter(|((v, sig), message)| v.key.verify(message, sig.signature.as_slice()))
                .count()
        });
    });
    group.throughput(Throughput::Elements((HEIGHTS * VALIDATORS) as u64));
    group.bench_function("batch_over_8_heights", |b| {
        b.iter(|| signed.batch(black_box(HEIGHTS)).verify(&mut rng).is_ok());
    });
    group.finish();
}

/// Signatures in a batch of one type.
const BATCH: usize = 100;

/// Each type of key that this build can verify, alone and in a batch of the same signature many
/// times.
fn key_types(c: &mut Criterion) {
    let vectors = include_str!("../tests/data/vectors-keys.json");
    let vectors: serde_json::Value = serde_json::from_str(vectors).expect("JSON");
    let cases = vectors["groups"]["keys"]["cases"].as_array();
    let mut rng = StdRng::seed_from_u64(2);
    let mut group = c.benchmark_group("key");
    for case in cases.expect("cases") {
        let text = |name: &str| case[name].as_str().expect("a text");
        let bytes = |name: &str| hex::decode(text(name)).expect("hexadecimal");
        let name = text("key_type");
        let Ok(key) = PublicKey::from_type_bytes(name, &bytes("pub")) else {
            continue; // not in this build
        };
        let (message, signature) = (bytes("msg"), bytes("sig"));
        group.throughput(Throughput::Elements(1));
        group.bench_function(format!("{name}_alone"), |b| {
            b.iter(|| assert!(key.verify(black_box(&message), &signature)));
        });
        let mut batch = SignatureBatch::new();
        for index in 0..BATCH {
            let signature = Signature::new(&signature).expect("a signature's length");
            batch.push(key.clone(), signature, index, |out| {
                out.extend_from_slice(&message);
            });
        }
        group.throughput(Throughput::Elements(BATCH as u64));
        group.bench_function(format!("{name}_batch_of_{BATCH}"), |b| {
            b.iter(|| assert!(black_box(&batch).verify(&mut rng).is_ok()));
        });
    }
    group.finish();
}

criterion_group!(benches, commits, key_types);
criterion_main!(benches);
