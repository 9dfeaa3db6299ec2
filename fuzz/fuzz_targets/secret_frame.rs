//! A sealed stream, of any bytes: `cargo +nightly fuzz run secret_frame`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| blocksync::p2p::fuzzing::secret_frames(data));
