//! Evidence of a fork: two full certificates of one height, for different blocks. More than a third
//! of the validators' power has signed both, which only the certificates themselves can show to
//! others: they are on disk before the service says that it stops.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::chain::Commit;
use crate::pool::Fork;

/// Writes the evidence as `fork-HEIGHT.json` and makes it durable: the height, both ids, and both
/// commits as hexadecimal protobuf. A commit that is not at hand is null: its block was then proven
/// by one above it.
pub(super) fn write(
    dir: &Path,
    chain_id: &[u8],
    fork: &Fork,
    commits: [Option<&Commit>; 2],
) -> io::Result<PathBuf> {
    let encoded = commits.map(|commit| {
        commit.map(|commit| {
            let mut bytes = Vec::new();
            commit.encode(&mut bytes);
            hex::encode(bytes)
        })
    });
    let evidence = serde_json::json!({
        "chain_id": String::from_utf8_lossy(chain_id),
        "height": fork.height.get(),
        "block_ids": fork.ids.map(|id| id.to_string()),
        "commits": encoded,
    });
    fs::create_dir_all(dir)?;
    let path = dir.join(format!("fork-{}.json", fork.height));
    let mut file = File::create(&path)?;
    writeln!(file, "{evidence:#}")?;
    file.sync_all()?;
    // Without its directory the name may be gone after a power loss, and the evidence with it.
    File::open(dir)?.sync_all()?;
    Ok(path)
}
