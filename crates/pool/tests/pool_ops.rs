//! Any operations on the pool, with `check()` after each: the same as the fuzz target `pool_ops`,
//! with proptest's own choice of bytes.

#[path = "../../../fuzz/fuzz_targets/pool_ops_body.rs"]
mod body;

use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn any_operations_keep_the_invariants(data in proptest::collection::vec(any::<u8>(), 0..1200)) {
        body::run(&data);
    }
}

/// Complete, and off by default: 200 000 cases take minutes. The property above runs 400 of them.
///
/// `cargo test --release -p blocksync-pool --test pool_ops -- --ignored`
#[test]
#[ignore = "takes minutes: run it by name after a change of the pool"]
fn very_many_operations() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for case in 0..200_000 {
        let mut data = Vec::with_capacity(1500);
        for _ in 0..1500 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            data.push((state >> 56) as u8);
        }
        if std::panic::catch_unwind(|| body::run(&data)).is_err() {
            panic!("case {case}: {data:?}");
        }
    }
    println!("cases: 200000");
}
