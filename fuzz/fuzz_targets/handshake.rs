//! A handshake with a stranger, of any bytes: `cargo +nightly fuzz run handshake`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| blocksync::p2p::fuzzing::handshake(data));
