//! A NodeInfo, of any bytes: `cargo +nightly fuzz run node_info`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| blocksync::p2p::fuzzing::node_info(data));
