//! A stream of packets, of any bytes: `cargo +nightly fuzz run packet`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| blocksync::p2p::fuzzing::packets(data));
