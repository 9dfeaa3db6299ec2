//! A peer's messages of peer exchange, of any bytes: `cargo +nightly fuzz run pex`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| blocksync::p2p::fuzzing::peer_exchange(data));
