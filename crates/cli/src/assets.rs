//! The recorded chain that `blocksync demo` syncs, compressed into the program.

use std::io::Read as _;
use std::sync::LazyLock;

use flate2::read::GzDecoder;

/// CometBFT's genesis file.
pub(crate) static GENESIS: LazyLock<Vec<u8>> =
    LazyLock::new(|| unpack(include_bytes!("../assets/genesis.json.gz")));
/// The blocks, length-prefixed, from the initial height up.
pub(crate) static BLOCKS: LazyLock<Vec<u8>> =
    LazyLock::new(|| unpack(include_bytes!("../assets/blocks.bin.gz")));
/// The commit for the last block.
pub(crate) static TIP_COMMIT: LazyLock<Vec<u8>> =
    LazyLock::new(|| unpack(include_bytes!("../assets/tip_commit.bin.gz")));
/// One line of JSON for each height: the hashes that CometBFT computed.
pub(crate) static EXPECTED: LazyLock<String> = LazyLock::new(|| {
    String::from_utf8(unpack(include_bytes!("../assets/expected.jsonl.gz")))
        .expect("the recording is text")
});

fn unpack(packed: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    GzDecoder::new(packed)
        .read_to_end(&mut bytes)
        .expect("the program's own assets are whole");
    bytes
}
