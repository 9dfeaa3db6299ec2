//! Any bytes as a whole block-sync message: `cargo +nightly fuzz run message`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| blocksync::wire::fuzzing::message(data));
