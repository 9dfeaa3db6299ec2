//! `blocksync verify`: proves the whole store again.
//!
//! For every height: the record's checksum; the block's bytes against its id; its hashes against
//! its body; the link to the block before; the validator set against the hash in the header before,
//! which the set before has signed; every signature of the commit under that set; the extended
//! commit where there is one. At the end the chain state against the last block.

use std::time::{Duration, Instant};

use blocksync::chain::{Fetched, Genesis, RuleSchedule, ValidatorSet, verify};
use blocksync::ids::{BlockId, Hash, Height};
use blocksync::store::{BlockRecord, LmdbStore, Store, StoreError};
use blocksync::wire::message::BlockResponse;
use blocksync::wire::{Limits, decode};
use bytes::Bytes;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rayon::prelude::*;

use crate::args::Verify;
use crate::console::say;
use crate::failure::{Exit, Failure};
use crate::home::Home;
use crate::progress;
use crate::repair;
use crate::values::all;

/// Blocks that are proven at once, on all cores, …
const BLOCKS: u32 = 256;
/// … and their bytes.
const BYTES: usize = 64 << 20;
/// Between two lines of progress.
const EVERY: Duration = Duration::from_secs(3);

/// Heights that an error names; each is said when it is found.
const NAMED: usize = 20;

/// Proves the store.
///
/// # Errors
/// Every damaged height, with its reason. The exit status is 4 when a readable block is not the
/// chain's, else 1.
pub(crate) fn run(args: &Verify) -> Result<Exit, Failure> {
    if args.repair && all(&args.peer).is_empty() {
        return Err(Failure::usage(
            "--repair needs somebody who has the blocks: give --peer",
        ));
    }
    let home = Home::at(&args.home.home);
    let (genesis, store) = (home.genesis()?, home.open_to_read()?);
    let span = store.span()?;
    let (first, last) = (span.base, span.applied);
    if first == Height::ZERO || last < first {
        return Err(Failure::failed("the store holds no block yet"));
    }
    let chain = (&genesis, &args.rules);
    say(&root(&store, &genesis, first)?);
    let since = Instant::now();
    let mut damages = pass(&store, chain, first, last)?;
    if args.repair && !damages.is_empty() {
        // The repair opens it for writing, and a process may have a store open only once.
        drop(store);
        repair::run(&home, &genesis, &all(&args.peer), &damages)?;
        let store = home.open_to_read()?;
        let mut left = Vec::new();
        for damage in &damages {
            // With its neighbours, whose links to it could not be judged before.
            let (from, to) = (
                damage.height.prev().max(first),
                damage.height.next().min(last),
            );
            left.extend(pass(&store, chain, from, to)?);
        }
        damages = left;
    }
    if let Some(failure) = summary(&damages) {
        return Err(failure);
    }
    outln!(
        "blocks {first} to {last} of chain {}: every block, commit and validator set is proven ({:.1} s)",
        genesis.chain_id,
        since.elapsed().as_secs_f64()
    );
    Ok(Exit::Reached)
}

/// Damage at one height.
pub(crate) struct Damage {
    /// The height.
    pub height: Height,
    /// The error, which the program ends with.
    pub failure: Failure,
}

/// One failure for all of them.
fn summary(damages: &[Damage]) -> Option<Failure> {
    let first = damages.first()?;
    let worst = damages
        .iter()
        .map(|d| d.failure.exit)
        .max_by_key(|exit| *exit as u8)?;
    let mut heights: Vec<_> = damages.iter().map(|d| d.height).collect();
    heights.dedup();
    let named: Vec<_> = heights
        .iter()
        .take(NAMED)
        .map(ToString::to_string)
        .collect();
    let more = heights.len().saturating_sub(NAMED);
    let more = if more > 0 {
        format!(" and {more} more")
    } else {
        String::new()
    };
    let message = if heights.len() == 1 {
        first.failure.message.clone()
    } else {
        format!(
            "{} heights are damaged: {}{more}. The first: {}",
            heights.len(),
            named.join(", "),
            first.failure.message
        )
    };
    Some(Failure {
        exit: worst,
        message: format!(
            "{message}. `blocksync verify --repair --peer ADDR` fetches damaged blocks again"
        ),
    })
}

/// Proves some heights, and gives everything that is wrong with them.
fn pass(
    store: &LmdbStore,
    chain: (&Genesis, &RuleSchedule),
    first: Height,
    last: Height,
) -> Result<Vec<Damage>, Failure> {
    let since = Instant::now();
    let mut said = since;
    let mut damages = Vec::new();
    let mut before: Option<Proven> = None;
    let mut next = first;
    while next <= last {
        let judged = match load(store, next, last)? {
            Ok(batch) => prove(store, chain, &batch),
            // One height at a time past the damage, since nobody knows how far it reaches.
            Err(failure) => vec![(next, Err(failure))],
        };
        for (height, judged) in judged {
            next = height.next();
            let linked = judged.and_then(|block| {
                chained(chain.0, before.as_ref(), &block)?;
                Ok(block)
            });
            // Nothing is held against a damaged block, so the links begin anew above it.
            before = match linked {
                Ok(block) => Some(block),
                Err(failure) => {
                    say(&failure.message);
                    damages.push(Damage { height, failure });
                    None
                }
            };
        }
        if said.elapsed() >= EVERY {
            said = Instant::now();
            let rate = next.above(first) as f64 / since.elapsed().as_secs_f64();
            let left = Duration::from_secs_f64(last.above(next.prev()) as f64 / rate.max(1e-3));
            say(&format!(
                "proven to height {} of {last}, {rate:.0} blocks/s, {} left, {} damaged",
                next.prev(),
                progress::time(left),
                damages.len()
            ));
        }
    }
    // Only where the last block is whole: the state is held against it.
    if let Some(top) = &before
        && let Err(failure) = same_state(store, top)
    {
        damages.push(Damage {
            height: last,
            failure,
        });
    }
    Ok(damages)
}

/// Basis of the proof.
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

/// A height whose own proof holds.
struct Proven {
    fetched: Fetched,
    set: Hash,
}

/// The blocks of some heights; what is wrong with the first, when that cannot be read.
fn load(
    store: &LmdbStore,
    from: Height,
    last: Height,
) -> Result<Result<Vec<BlockRecord>, Failure>, Failure> {
    let count = u32::try_from(last.above(from) + 1)
        .unwrap_or(BLOCKS)
        .min(BLOCKS);
    match store.blocks(from, count, BYTES) {
        Ok(records) if records.is_empty() => Ok(Err(Failure::failed(format!(
            "block {from} is missing in the store"
        )))),
        Ok(records) => Ok(Ok(records)),
        // Damage is a finding. Any other error is the disk's, and ends the pass.
        Err(error @ StoreError::Corrupt(_)) => Ok(Err(error.into())),
        Err(error) => Err(error.into()),
    }
}

fn set(store: &dyn Store, height: Height) -> Result<std::sync::Arc<ValidatorSet>, Failure> {
    store.validators(height)?.ok_or_else(|| {
        Failure::failed(format!(
            "the validator set of height {height} is missing in the store"
        ))
    })
}

/// The commit for a height. `None` when the block above, which carries it, is damaged itself: that
/// is said of that one.
fn commit(store: &dyn Store, height: Height) -> Result<Option<Bytes>, Failure> {
    match store.commit_for(height) {
        Ok(Some(commit)) => Ok(Some(commit)),
        Ok(None) => Err(Failure::failed(format!(
            "the commit for block {height} is missing in the store"
        ))),
        // The commit is read out of the block above, which has a finding of its own.
        Err(StoreError::Corrupt(_)) if store.block(height.next()).is_err() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Proves each height by itself, on all cores.
fn prove(
    store: &LmdbStore,
    chain: (&Genesis, &RuleSchedule),
    batch: &[BlockRecord],
) -> Vec<(Height, Result<Proven, Failure>)> {
    let one = |record: &BlockRecord| (record.height, prove_one(store, chain, record));
    batch.par_iter().map(one).collect()
}

fn prove_one(
    store: &LmdbStore,
    (genesis, rules): (&Genesis, &RuleSchedule),
    record: &BlockRecord,
) -> Result<Proven, Failure> {
    let height = record.height;
    let set = set(store, height)?;
    let corrupt =
        |why: String| Failure::from(StoreError::Corrupt(format!("block {height}: {why}")));
    let wrong = |why: String| Failure::contradiction(format!("block {height}: {why}"));
    // By the decoder of what peers send, with all its checks.
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
    // Randomness of a batch: any will do, as nobody has prepared this store for it.
    let mut rng: StdRng = rand::make_rng();
    if let Some(commit) = commit(store, height)? {
        let commit =
            decode::commit_from_bytes(&commit).map_err(|e| corrupt(format!("its commit: {e}")))?;
        let (rules, id) = (rules.of_commit(height), &fetched.id);
        verify::verify_commit(rules, chain_id, &set, id, height, &commit, &mut rng)
            .map_err(|e| wrong(format!("{e} (by the rules of {rules})")))?;
    }
    if let Some(extended) = &fetched.ext_commit {
        let mut rng = StdRng::from_rng(&mut rng);
        let (rules, id) = (rules.at(height), &fetched.id);
        verify::verify_extended_commit(rules, chain_id, &set, id, height, extended, &mut rng)
            .map_err(|e| wrong(format!("its extended commit: {e}")))?;
    }
    Ok(Proven {
        set: set.hash(),
        fetched,
    })
}

/// The block names the one before, and has the set that the one before has named. Without one
/// before, which is damaged or pruned, nothing can be told.
fn chained(genesis: &Genesis, before: Option<&Proven>, block: &Proven) -> Result<(), Failure> {
    let header = &block.fetched.block.header;
    let wrong = |why: String| Failure::contradiction(format!("block {}: {why}", header.height));
    match before {
        Some(parent) => {
            same("predecessor", &parent.fetched.id, &header.last_block_id).map_err(wrong)?;
            let named = parent.fetched.block.header.next_validators_hash;
            same("validator set", &named.unwrap_or(Hash([0; 32])), &block.set).map_err(wrong)
        }
        None if header.height == genesis.initial_height => {
            same("predecessor", &BlockId::ZERO, &header.last_block_id).map_err(wrong)
        }
        None => Ok(()),
    }
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
