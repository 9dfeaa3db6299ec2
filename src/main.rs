//! The `blocksync` binary.
fn main() {}
