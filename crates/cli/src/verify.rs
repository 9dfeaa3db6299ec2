//! `blocksync verify`: proves the whole store again.
//!
//! For every height: the record's checksum; the block's bytes against its id; its hashes against its body; the link to the block
//! before; the validator set against the hash in the header before, which the set before has signed; every signature of the
//! commit under that set; the extended commit where there is one. At the end the chain state against the last block.

use std::time::{Duration, Instant};

use blocksync::chain::{Fetched, Genesis, ValidatorSet, verify};
use blocksync::ids::{BlockId, Hash, Height};
use blocksync::store::{BlockRecord, Store, StoreError};
use blocksync::wire::message::BlockResponse;
use blocksync::wire::{Limits, decode};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rayon::prelude::*;

use crate::args::Verify;
use crate::failure::{Exit, Failure};
use crate::home::Home;
use crate::progress::say;

/// Blocks that are proven at once, on all cores, …
const BLOCKS: u32 = 256;
/// … and their bytes.
const BYTES: usize = 64 << 20;
/// Between two lines of progress.
const EVERY: Duration = Duration::from_secs(3);

/// Proves the store.
///
/// # Errors
/// The first height that is wrong: exit status 1 when its record is damaged or missing, 4 when it is readable and not the chain.
pub(crate) fn run(args: &Verify) -> Result<Exit, Failure> {
    let home = Home::at(&args.home.home);
    let (genesis, store) = (home.genesis()?, home.open_to_read()?);
    let span = store.span()?;
    let (first, last) = (span.base, span.applied);
    if first == Height::ZERO || last < first {
        return Err(Failure::failed("the store holds no block yet"));
    }
    say(&root(&store, &genesis, first)?);
    let since = Instant::now();
    let mut said = since;
    let mut before = None;
    let mut next = first;
    while next <= last {
        let batch = load(&store, next, last)?;
        let proven = prove(&genesis, &batch)?;
        chained(&genesis, before.as_ref(), &proven)?;
        next = proven.last().map_or(next, |b| b.fetched.height().next());
        before = proven.into_iter().next_back();
        if said.elapsed() >= EVERY {
            said = Instant::now();
            let rate = next.above(first) as f64 / since.elapsed().as_secs_f64();
            say(&format!(
                "proven to height {} of {last}, {rate:.0} blocks/s",
                next.prev()
            ));
        }
    }
    if let Some(top) = &before {
        same_state(&store, top)?;
    }
    println!(
        "blocks {first} to {last} of chain {}: every block, commit and validator set is proven ({:.1} s)",
        genesis.chain_id,
        since.elapsed().as_secs_f64()
    );
    Ok(Exit::Reached)
}

/// What the proof stands on.
fn root(store: &dyn Store, genesis: &Genesis, first: Height) -> Result<String, Failure> {
    if first > genesis.initial_height {
        return Ok(format!(
            "blocks below {first} are pruned: the validator set of {first} is taken from the store"
        ));
    }
    let named = ValidatorSet::new(genesis.validators.clone()).ok();
    let used = set(store, first)?;
    Ok(match named {
        Some(named) if !named.is_empty() && named.hash() == used.hash() => {
            format!("from the genesis of chain {}", genesis.chain_id)
        }
        _ => format!("the validator set of {first} is the application's, not the genesis'"),
    })
}

/// Everything that is needed to prove one height.
struct Stored {
    record: BlockRecord,
    set: std::sync::Arc<ValidatorSet>,
    commit: bytes::Bytes,
}

/// A height whose own proof holds.
struct Proven {
    fetched: Fetched,
    set: Hash,
}

fn load(store: &dyn Store, from: Height, last: Height) -> Result<Vec<Stored>, Failure> {
    let count = u32::try_from(last.above(from) + 1)
        .unwrap_or(BLOCKS)
        .min(BLOCKS);
    let records = store.blocks(from, count, BYTES)?;
    if records.is_empty() {
        return Err(Failure::failed(format!(
            "block {from} is missing in the store"
        )));
    }
    let one = |record: BlockRecord| {
        let height = record.height;
        let commit = store.commit_for(height)?;
        let commit = commit.ok_or_else(|| {
            Failure::failed(format!(
                "the commit for block {height} is missing in the store"
            ))
        })?;
        Ok(Stored {
            set: set(store, height)?,
            record,
            commit,
        })
    };
    records.into_iter().map(one).collect()
}

fn set(store: &dyn Store, height: Height) -> Result<std::sync::Arc<ValidatorSet>, Failure> {
    store.validators(height)?.ok_or_else(|| {
        Failure::failed(format!(
            "the validator set of height {height} is missing in the store"
        ))
    })
}

/// What each height proves by itself; the lowest failure counts.
fn prove(genesis: &Genesis, batch: &[Stored]) -> Result<Vec<Proven>, Failure> {
    let all: Vec<_> = batch
        .par_iter()
        .map(|stored| prove_one(genesis, stored))
        .collect();
    all.into_iter().collect()
}

fn prove_one(genesis: &Genesis, stored: &Stored) -> Result<Proven, Failure> {
    let Stored {
        record,
        set,
        commit,
    } = stored;
    let height = record.height;
    let corrupt =
        |why: String| Failure::from(StoreError::Corrupt(format!("block {height}: {why}")));
    let wrong = |why: String| Failure::contradiction(format!("block {height}: {why}"));
    let response = BlockResponse {
        block: record.raw.clone(),
        ext_commit: record.ext_raw.clone(),
        seen_commit: None,
    };
    let fetched = decode::fetched(&response.encode(), &Limits::default())
        .map_err(|e| corrupt(e.to_string()))?;
    same("height", &height, &fetched.height()).map_err(wrong)?;
    same("id", &record.id, &fetched.id).map_err(wrong)?;
    let block = &fetched.block;
    block.check_body().map_err(|e| wrong(e.to_string()))?;
    let chain_id = genesis.chain_id.as_bytes();
    same(
        "chain",
        &genesis.chain_id,
        &String::from_utf8_lossy(&block.header.chain_id).into_owned(),
    )
    .map_err(wrong)?;
    let named = block.header.validators_hash.unwrap_or(Hash([0; 32]));
    same("validator set", &named, &set.hash()).map_err(wrong)?;
    let commit =
        decode::commit_from_bytes(commit).map_err(|e| corrupt(format!("its commit: {e}")))?;
    // Randomness of a batch: any will do, as nobody has prepared this store for it.
    let mut rng: StdRng = rand::make_rng();
    verify::verify_commit(chain_id, set, &fetched.id, height, &commit, &mut rng)
        .map_err(|e| wrong(e.to_string()))?;
    if let Some(extended) = &fetched.ext_commit {
        let mut rng = StdRng::from_rng(&mut rng);
        verify::verify_extended_commit(chain_id, set, &fetched.id, height, extended, &mut rng)
            .map_err(|e| wrong(format!("its extended commit: {e}")))?;
    }
    Ok(Proven {
        set: set.hash(),
        fetched,
    })
}

/// Each block names the one before, and the set that the one before has named.
fn chained(genesis: &Genesis, before: Option<&Proven>, batch: &[Proven]) -> Result<(), Failure> {
    let mut parent = before;
    for block in batch {
        let header = &block.fetched.block.header;
        let wrong = |why: String| Failure::contradiction(format!("block {}: {why}", header.height));
        match parent {
            Some(parent) => {
                same("predecessor", &parent.fetched.id, &header.last_block_id).map_err(wrong)?;
                let named = parent.fetched.block.header.next_validators_hash;
                same("validator set", &named.unwrap_or(Hash([0; 32])), &block.set)
                    .map_err(wrong)?;
            }
            None if header.height == genesis.initial_height => {
                same("predecessor", &BlockId::ZERO, &header.last_block_id).map_err(wrong)?;
            }
            None => {}
        }
        parent = Some(block);
    }
    Ok(())
}

/// The chain state is the one after the last block.
fn same_state(store: &dyn Store, top: &Proven) -> Result<(), Failure> {
    let Some(state) = store.state()? else {
        return Err(Failure::failed("the chain state is missing in the store"));
    };
    let header = &top.fetched.block.header;
    if state.last_height > header.height {
        return Ok(()); // another process has gone on meanwhile
    }
    let wrong =
        |why: String| Failure::contradiction(format!("state after block {}: {why}", header.height));
    same("last block", &top.fetched.id, &state.last_block_id).map_err(wrong)?;
    let named = header.next_validators_hash.unwrap_or(Hash([0; 32]));
    same("validator set", &named, &state.validators.hash()).map_err(wrong)
}

fn same<T: PartialEq + std::fmt::Display>(
    what: &str,
    expected: &T,
    found: &T,
) -> Result<(), String> {
    if expected == found {
        Ok(())
    } else {
        Err(format!("{what}: expected {expected}, found {found}"))
    }
}
