//! Any bytes as an encoded block or commit: the canonical scan against the encoder. `cargo +nightly
//! fuzz run canonical`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| blocksync::wire::fuzzing::canonical(data));
