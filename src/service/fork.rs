//! Evidence of a fork: two full certificates of one height, for different blocks. More than a third
//! of the validators' power has signed both, which only the certificates themselves can show to
//! others: they are on disk before the service says that it stops.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use tracing::{error, warn};

use super::offload::Offload;
use crate::chain::Commit;
use crate::chain::height_proof::HeightProof;
use crate::ids::Height;
use crate::pool::Fork;

/// Proven heights that later proofs are held against. A proof has 60 KiB at most.
const KEPT: usize = 16;

/// Proofs that have decided their own height, the latest of them, one for each height.
#[derive(Debug, Default)]
pub(super) struct Certificates(VecDeque<HeightProof>);

impl Certificates {
    /// Keeps a proof. Gives the one before it of the same height and set for another block.
    pub(super) fn keep(&mut self, proof: &HeightProof) -> Option<HeightProof> {
        let of_its_height = |kept: &&HeightProof| kept.header.height == proof.header.height;
        if let Some(before) = self.0.iter().find(of_its_height) {
            // A proof for the same block says nothing new, and takes no second place.
            return are_two(before, proof).then(|| before.clone());
        }
        if self.0.len() >= KEPT {
            self.0.pop_front();
        }
        self.0.push_back(proof.clone());
        None
    }

    /// Takes out those whose heights we have ourselves by now.
    pub(super) fn reached(&mut self, applied: Height) -> Vec<HeightProof> {
        let (below, above) = self.0.drain(..).partition(|p| p.header.height <= applied);
        self.0 = above;
        Vec::from(below)
    }
}

/// Whether two certificates of one height are for different blocks, under one validator set.
pub(super) fn are_two(one: &HeightProof, other: &HeightProof) -> bool {
    one.header.height == other.header.height
        && one.header.validators_hash == other.header.validators_hash
        && one.commit.block_id != other.commit.block_id
}

/// Writes the evidence, if it is wanted, and says in the log that the chain has forked.
pub(super) async fn report(
    offload: &Offload,
    dir: Option<PathBuf>,
    chain_id: &[u8],
    fork: &Fork,
    commits: [Option<Commit>; 2],
) {
    let (height, [a, b]) = (fork.height, fork.ids);
    let Some(dir) = dir else {
        error!(%height, %a, %b, "the chain has forked");
        return;
    };
    let (chain_id, fork) = (chain_id.to_vec(), fork.clone());
    let write = move || {
        write(
            &dir,
            &chain_id,
            &fork,
            commits.each_ref().map(Option::as_ref),
        )
    };
    match offload.io(write).await {
        Ok(file) => error!(%height, %a, %b, evidence = %file.display(), "the chain has forked"),
        Err(why) => {
            error!(%height, %a, %b, "the chain has forked");
            warn!(%height, %why, "evidence of a fork cannot be written");
        }
    }
}

/// Writes the evidence as `fork-HEIGHT.json` and makes it durable: the height, both ids, and both
/// commits as hexadecimal protobuf. A commit that is not at hand is null: its block was then proven
/// by one above it.
fn write(
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
