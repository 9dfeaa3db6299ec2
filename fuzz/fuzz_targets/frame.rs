//! Any bytes as a stream of length-prefixed frames, cut anywhere, in files and on the wire: `cargo
//! +nightly fuzz run frame`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    blocksync::wire::fuzzing::frame(data);
    blocksync::p2p::fuzzing::frames(data);
});
