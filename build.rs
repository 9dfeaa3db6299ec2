//! Compiles `proto/` with prost; `protox` parses it in process, so no `protoc` is needed.

use std::io::Result;

const FILES: [&str; 6] = [
    "proto/tendermint/version/types.proto",
    "proto/tendermint/crypto/types.proto",
    "proto/tendermint/types/types.proto",
    "proto/tendermint/blocksync/types.proto",
    "proto/tendermint/p2p/types.proto",
    "proto/tendermint/abci/types.proto",
];

fn main() -> Result<()> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"]).map_err(std::io::Error::other)?;
    prost_build::Config::new()
        .bytes(["."])
        .include_file("protos.rs")
        .compile_fds(descriptors)
}
