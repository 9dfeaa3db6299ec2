//! Any operations on the pool, `check()` after each: `cargo +nightly fuzz run pool_ops`.
#![no_main]

mod pool_ops_body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| pool_ops_body::run(data));
