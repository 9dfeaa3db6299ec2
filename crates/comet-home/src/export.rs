//! From our store into a stock node's home.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use blocksync::chain::{ChainState, ConsensusParams, RuleSchedule, Rules, ValidatorSet};
use blocksync::ids::{Hash, Height};
use blocksync::store::{BlockRecord, LmdbStore, SET_CHECKPOINT, Store, StoreError};
use blocksync::wire::{convert, decode};

use crate::leveldb::{Builder, DbError, Run, sync_dir};
use crate::records::{self, BlockParts, BlockStoreState, Int64Value, key};
use crate::{CometHome, HomeError, OnProgress, Progress};

/// The databases, in the order in which they get their names: a node that finds only the first ones
/// refuses to start, and changes nothing.
const DATABASES: [&str; 3] = ["evidence", "state", "blockstore"];
/// A file that is there while databases get their names.
const RENAMING: &str = "blocksync-export";
/// Blocks between two words of progress.
const STEP: u64 = 64;

/// The part that is exported, and how.
pub struct Export<'a> {
    /// The first height; `None` for the lowest one that is stored.
    pub from: Option<Height>,
    /// The rules that the chain goes by: they say which CometBFT the records are for.
    pub rules: &'a RuleSchedule,
}

/// The result of an export.
#[derive(Clone, Copy, Debug)]
pub struct Exported {
    /// The first height.
    pub base: Height,
    /// The last one, which is the state's.
    pub height: Height,
    /// Bytes of the databases.
    pub bytes: u64,
    /// The height of the application in the home, where it can be read.
    pub application: Option<i64>,
}

/// Writes `blockstore.db`, `state.db` and `evidence.db` of a store that nobody writes to. They are
/// written under other names, made durable and renamed; until then the home is as it was. Nothing
/// else of the home is touched.
///
/// # Errors
/// When the home is in use, has such databases already, or holds an application that is ahead; when
/// the store is empty, or a disk fails.
pub fn export(
    store: &LmdbStore,
    home: &CometHome,
    what: &Export<'_>,
    progress: OnProgress<'_>,
) -> Result<Exported, HomeError> {
    fs::create_dir_all(home.data()).map_err(DbError::io(home.data()))?;
    // First, since an export that was ended between two names has left databases that are whole.
    finish_renaming(home)?;
    for name in DATABASES {
        let there = home.database(name);
        if there.exists() {
            return Err(HomeError::Unfit(format!(
                "{} is there already: export into a fresh home, or move blockstore.db, state.db, evidence.db, tx_index.db and cs.wal of {} away first",
                there.display(),
                home.data().display()
            )));
        }
    }
    // The three are not there, but a node that is just starting, or its
    // application, may have others open.
    home.check_unused()?;
    let plan = Plan::new(store, what)?;
    let height = plan.state.last_height;
    // A lower application is no obstacle: the node gives it the blocks in between.
    let application = home.application_height()?;
    if application.is_some_and(|at| at > height.to_wire()) {
        return Err(HomeError::Unfit(format!(
            "the application in {} is at height {}, the state only at {height}: sync on to that height first, or restore an earlier copy of the application",
            home.data().display(),
            application.unwrap_or_default(),
        )));
    }
    for name in DATABASES {
        let left = new_name(home, name);
        if left.exists() {
            // An export that was ended in its middle.
            fs::remove_dir_all(&left).map_err(DbError::io(&left))?;
        }
    }
    let mut writer = Writer::create(home, &plan)?;
    writer.heights(progress)?;
    let bytes = writer.finish()? + evidence(store, home, &plan)?;
    rename(home)?;
    Ok(Exported {
        base: plan.base,
        height,
        bytes,
        application,
    })
}

fn new_name(home: &CometHome, name: &str) -> PathBuf {
    home.database(name).with_extension("db.new")
}

/// Gives the databases their names. A whole database that has not got its name when the power fails
/// gets it by the next export.
fn rename(home: &CometHome) -> Result<(), HomeError> {
    // With the marker the names are given whatever happens: a node never finds some of the
    // databases alone.
    let marker = home.data().join(RENAMING);
    let written = File::create(&marker).and_then(|file| file.sync_all());
    written.map_err(DbError::io(&marker))?;
    sync_dir(home.data())?;
    finish_renaming(home)
}

fn finish_renaming(home: &CometHome) -> Result<(), HomeError> {
    let marker = home.data().join(RENAMING);
    if !marker.exists() {
        return Ok(());
    }
    for name in DATABASES {
        let (from, to) = (new_name(home, name), home.database(name));
        // Those that are gone have got their name already, before the power failed.
        if from.exists() {
            fs::rename(&from, &to).map_err(DbError::io(&from))?;
        }
    }
    // The names are durable before the marker goes: without it nobody would finish them.
    sync_dir(home.data())?;
    fs::remove_file(&marker).map_err(DbError::io(&marker))?;
    Ok(sync_dir(home.data())?)
}

/// Everything that is known before the first block is written.
struct Plan<'a> {
    store: &'a LmdbStore,
    state: ChainState,
    base: Height,
    rules: Rules,
    /// Sets at multiples of `SET_CHECKPOINT`, with the priorities of that height, and the heights
    /// from which they are in force.
    checkpoints: BTreeMap<Height, (Height, ValidatorSet)>,
}

impl<'a> Plan<'a> {
    fn new(store: &'a LmdbStore, what: &Export<'_>) -> Result<Self, HomeError> {
        let span = store.span()?;
        let state = store
            .state()?
            // A state at genesis, or one below the blocks that are kept, has
            // no block to go on from.
            .filter(|_| span.base != Height::ZERO && span.applied >= span.base);
        let state = state
            .ok_or_else(|| HomeError::Unfit("the store holds no executed block yet".into()))?;
        let base = what.from.unwrap_or(span.base);
        if base < span.base || base > state.last_height {
            return Err(HomeError::Unfit(format!(
                "export from height {base}: the store holds {} to {}",
                span.base, state.last_height
            )));
        }
        // The rules of the next height: the version of CometBFT that will go on from here.
        let rules = *what.rules.at(state.last_height.next());
        let mut plan = Plan {
            store,
            base,
            rules,
            checkpoints: BTreeMap::new(),
            state,
        };
        plan.make_checkpoints()?;
        Ok(plan)
    }

    /// The height up to which validator sets are known.
    fn top(&self) -> Height {
        self.state.last_height.plus(2)
    }

    /// The height that a set's record names: that from which it is in force, or the base when it is
    /// older.
    fn since(&self, height: Height) -> Result<Height, HomeError> {
        let recorded = self
            .store
            .validators_in_force_since(height)?
            .unwrap_or(self.base);
        let checkpoint = self.checkpoints.get(&recorded);
        let since = checkpoint.map_or(recorded, |(since, _)| *since);
        // A reader looks at the height that is named, which a partial export must therefore hold.
        Ok(since.max(self.base))
    }

    /// Where CometBFT's next record will look for a set.
    fn validators_changed(&self) -> Height {
        self.state.last_height_validators_changed.max(self.base)
    }

    /// The set of a height: that of the state where it has one, with its priorities, else the
    /// recorded one.
    fn set(&self, height: Height) -> Result<Arc<ValidatorSet>, HomeError> {
        // Only the state's three sets have the exact priorities with which a node must go on.
        if let Some(set) = self.state.set_for(height) {
            return Ok(Arc::clone(set));
        }
        if let Some((_, set)) = self.checkpoints.get(&height) {
            return Ok(Arc::new(set.clone()));
        }
        self.recorded(height)
    }

    /// Finds the sets of checkpoints. Where our own store has none, each height up to it moves the
    /// priorities on by one round.
    fn make_checkpoints(&mut self) -> Result<(), HomeError> {
        // From the last height up the state's own sets are written, checkpoints among them.
        let last = self.state.last_height.prev();
        let mut next = Height::new(self.base.get().next_multiple_of(SET_CHECKPOINT));
        while next <= last {
            let recorded = self
                .store
                .validators_in_force_since(next)?
                .unwrap_or(self.base);
            let since = self.since_of_checkpoint(next, recorded)?;
            let before = Height::new(next.get() - SET_CHECKPOINT);
            let (from, mut set) = match self.checkpoints.get(&before) {
                // From one checkpoint to the next: a set that is long in force is not walked
                // from its start each time.
                Some((_, set)) if recorded <= before => (before, set.clone()),
                _ => (recorded, (*self.recorded(recorded)?).clone()),
            };
            for _ in 0..next.above(from) {
                set = set.increment(1);
            }
            self.checkpoints.insert(next, (since, set));
            next = next.plus(SET_CHECKPOINT);
        }
        Ok(())
    }

    /// A set that is recorded at a checkpoint may be in force since before.
    fn since_of_checkpoint(&self, at: Height, recorded: Height) -> Result<Height, HomeError> {
        if recorded != at || at == self.base {
            return self.since(at);
        }
        let (before, now) = (self.recorded(at.prev())?, self.recorded(at)?);
        // Same members and powers: the record was made for the checkpoint, and not for a change.
        if before.hash() == now.hash() {
            return self.since(at.prev());
        }
        Ok(at)
    }

    fn recorded(&self, height: Height) -> Result<Arc<ValidatorSet>, HomeError> {
        let set = self.store.validators(height)?;
        Ok(set.ok_or_else(|| missing("validator set", height))?)
    }
}

fn missing(what: &str, height: Height) -> StoreError {
    StoreError::Corrupt(format!("the {what} of height {height} is missing"))
}

/// The block store and the state, which go over the heights together.
struct Writer<'a> {
    plan: &'a Plan<'a>,
    blocks: Builder,
    states: Builder,
    metas: Run,
    parts: Run,
    commits: Run,
    seen: Run,
    extended: Run,
    params: Run,
    responses: Run,
    sets: Run,
    hashes: Hashes,
    /// Params that were encoded last, and the height from which they are in force.
    last_params: Option<(Option<Height>, Vec<u8>)>,
}

impl<'a> Writer<'a> {
    fn create(home: &CometHome, plan: &'a Plan<'a>) -> Result<Self, HomeError> {
        let dir = new_name(home, "blockstore");
        let blocks = Builder::create(&dir)?;
        let states = Builder::create(&new_name(home, "state"))?;
        Ok(Writer {
            plan,
            metas: blocks.run(),
            parts: blocks.run(),
            commits: blocks.run(),
            seen: blocks.run(),
            extended: blocks.run(),
            params: states.run(),
            responses: states.run(),
            sets: states.run(),
            hashes: Hashes::create(&dir)?,
            last_params: None,
            blocks,
            states,
        })
    }

    /// Writes what has a height: once over all heights for the records whose keys end with it, once
    /// for the parts, whose keys go on.
    fn heights(&mut self, progress: OnProgress<'_>) -> Result<(), HomeError> {
        let (base, last, top) = (self.plan.base, self.plan.state.last_height, self.plan.top());
        let total = last.above(base) + 1;
        let mut read = 0;
        let mut step = || {
            // Each block is read twice.
            read += 1;
            let done = read / 2;
            if read % STEP == 0 && !progress(Progress { done, total }) {
                return Err(HomeError::Stopped);
            }
            Ok(())
        };
        // The commit for the block before the base lies under its height, which may be 0.
        // Keys end with decimal digits, and a table takes its keys in their order.
        for height in InDecimalOrder::new(base.prev(), top, Order::ShortFirst) {
            if height < base {
                self.last_commit(height)?;
                continue;
            }
            if height <= last {
                self.block(height)?;
                step()?;
            }
            // Params are needed one height above the last block, sets two (`comet-home.md`).
            if height <= last.next() {
                self.params(height)?;
            }
            self.set(height)?;
        }
        for height in InDecimalOrder::new(base, last, Order::ShortLast) {
            self.parts(height)?;
            step()?;
        }
        Ok(())
    }

    fn block(&mut self, height: Height) -> Result<(), HomeError> {
        let store = self.plan.store;
        let block = store
            .block(height)?
            .ok_or_else(|| missing("block", height))?;
        let commit = store
            .commit_for(height)?
            .ok_or_else(|| missing("commit", height))?;
        let BlockRecord {
            id, raw, ext_raw, ..
        } = block;
        let parts = BlockParts::of(&raw)
            .ok_or_else(|| StoreError::Corrupt(format!("block {height}: it cannot be read")))?;
        let meta = records::block_meta(&id, &parts);
        self.blocks
            .put(&mut self.metas, &key::meta(height), &meta)?;
        // Any commit with more than 2/3 will do; only the last one is read by consensus.
        self.blocks
            .put(&mut self.seen, &key::seen_commit(height), &commit)?;
        // It lies in the block above, which the last one does not have yet.
        if height < self.plan.state.last_height {
            self.blocks
                .put(&mut self.commits, &key::commit(height), &commit)?;
        }
        if let Some(extended) = ext_raw {
            let key = key::extended_commit(height);
            self.blocks.put(&mut self.extended, &key, &extended)?;
        }
        let hash = id
            .hash
            .ok_or_else(|| missing("hash of the block", height))?;
        if let Some(response) = store.results_at(height)? {
            // `/block_results` shows it.
            let key = key::response(height);
            self.states.put(&mut self.responses, &key, &response)?;
        }
        self.hashes.put(&hash, height)
    }

    fn parts(&mut self, height: Height) -> Result<(), HomeError> {
        let block = self.plan.store.block(height)?;
        let block = block.ok_or_else(|| missing("block", height))?;
        // In the order of the indices' digits.
        let parts: BTreeMap<Vec<u8>, Vec<u8>> = (0u32..)
            .zip(records::parts(&block.raw))
            .map(|(index, part)| (key::part(height, index), part))
            .collect();
        for (key, part) in parts {
            self.blocks.put(&mut self.parts, &key, &part)?;
        }
        Ok(())
    }

    /// The commit that the first block carries, for the height below it.
    fn last_commit(&mut self, height: Height) -> Result<(), HomeError> {
        let first = self.plan.store.block(self.plan.base)?;
        let first = first.ok_or_else(|| missing("block", self.plan.base))?;
        // Of the initial block it is the empty commit, which a node stores
        // under the height below, too.
        let carried = decode::last_commit_of_block(&first.raw)
            .map_err(|e| StoreError::Corrupt(format!("block {}: {e}", self.plan.base)))?;
        Ok(self
            .blocks
            .put(&mut self.commits, &key::commit(height), &carried)?)
    }

    fn set(&mut self, height: Height) -> Result<(), HomeError> {
        let plan = self.plan;
        let since = plan.since(height)?;
        // Where a reader looks for a set (`comet-home.md`), and from the last height up, where the
        // node goes on with the exact priorities.
        let whole = since == height
            || height >= plan.state.last_height
            || height == plan.validators_changed()
            || height.get().is_multiple_of(SET_CHECKPOINT);
        let set = whole.then(|| plan.set(height)).transpose()?;
        let info = records::validators_info(set.as_deref(), since);
        Ok(self
            .states
            .put(&mut self.sets, &key::validators(height), &info)?)
    }

    fn params(&mut self, height: Height) -> Result<(), HomeError> {
        let since = self.plan.store.params_in_force_since(height)?;
        if self
            .last_params
            .as_ref()
            .is_none_or(|(of, _)| of.is_none() || *of != since)
        {
            let params = self.plan.store.params(height)?;
            let params: ConsensusParams = params.ok_or_else(|| missing("params", height))?;
            self.last_params = Some((
                since,
                convert::params_to_bytes(&params, &self.plan.rules).to_vec(),
            ));
        }
        let bytes = self
            .last_params
            .as_ref()
            .map_or(&[][..], |(_, bytes)| bytes);
        // In full at each height, as a node of a Cosmos SDK chain has them.
        let info = records::params_info(bytes, height);
        Ok(self
            .states
            .put(&mut self.params, &key::params(height), &info)?)
    }

    fn finish(mut self) -> Result<u64, HomeError> {
        for run in [
            &mut self.metas,
            &mut self.parts,
            &mut self.commits,
            &mut self.seen,
            &mut self.extended,
        ] {
            self.blocks.end(run)?;
        }
        // Only now are all hashes known; the other runs got theirs in order.
        self.hashes.write(&mut self.blocks)?;
        let span = BlockStoreState {
            base: self.plan.base.to_wire(),
            height: self.plan.state.last_height.to_wire(),
        };
        // The store's own record comes last: without it a node finds an empty store, not half of
        // one.
        let mut last = self.blocks.run();
        self.blocks.put(
            &mut last,
            key::BLOCK_STORE,
            &prost::Message::encode_to_vec(&span),
        )?;
        self.blocks.end(&mut last)?;
        self.states.end(&mut self.responses)?;
        self.states.end(&mut self.params)?;
        self.states.end(&mut self.sets)?;
        let state = &self.plan.state;
        let params = convert::params_to_bytes(&state.params, &self.plan.rules);
        let changed = self.plan.validators_changed();
        let version = self.plan.rules.name.trim_start_matches("comet-");
        // A node shows this text and compares it with nothing.
        let software = format!("{version}.0");
        let state = records::state(state, changed, &software, &params);
        let mut last = self.states.run();
        self.states.put(&mut last, key::STATE, &state)?;
        self.states.end(&mut last)?;
        let bytes = self.blocks.bytes() + self.states.bytes();
        // From here on each directory is a database, but under a name that no node looks for.
        self.blocks.finish()?;
        self.states.finish()?;
        Ok(bytes)
    }
}

/// Writes the evidence that was committed and has not expired.
fn evidence(store: &LmdbStore, home: &CometHome, plan: &Plan<'_>) -> Result<u64, HomeError> {
    /// Records that are read at once.
    const PAGE: usize = 1024;
    let mut builder = Builder::create(&new_name(home, "evidence"))?;
    let mut run = builder.run();
    let age = u64::try_from(plan.state.params.evidence_max_age_num_blocks).unwrap_or(0);
    // Expired evidence cannot be committed again, so a node need not know it.
    let oldest = plan.state.last_height.get().saturating_sub(age);
    let mut after = (Height::new(oldest), Hash([0; 32]));
    loop {
        let page = store.committed_evidence(after, PAGE)?;
        for &(height, identity) in &page {
            let value = Int64Value {
                value: height.to_wire(),
            };
            let value = prost::Message::encode_to_vec(&value);
            builder.put(&mut run, &key::evidence(height, &identity), &value)?;
        }
        match page.last() {
            // A short page is the last one.
            Some(last) if page.len() == PAGE => after = *last,
            _ => break,
        }
    }
    builder.end(&mut run)?;
    let bytes = builder.bytes();
    builder.finish()?;
    Ok(bytes)
}

/// The hashes of all blocks, put in order on the disk: they come in no order, and there may be
/// many.
struct Hashes {
    dir: PathBuf,
    buckets: Vec<BufWriter<File>>,
}

/// Bytes of a hash and a height.
const HASH_RECORD: usize = 32 + 8;

impl Hashes {
    const BUCKETS: usize = 256;

    fn create(dir: &Path) -> Result<Self, HomeError> {
        let buckets = (0..Self::BUCKETS).map(|n| {
            let path = Self::path(dir, n);
            let file = File::create_new(&path).map_err(DbError::io(&path))?;
            Ok::<_, HomeError>(BufWriter::new(file))
        });
        Ok(Hashes {
            dir: dir.to_owned(),
            buckets: buckets.collect::<Result<_, _>>()?,
        })
    }

    fn path(dir: &Path, bucket: usize) -> PathBuf {
        dir.join(format!("hashes-{bucket:02x}.tmp"))
    }

    fn put(&mut self, hash: &Hash, height: Height) -> Result<(), HomeError> {
        let bucket = usize::from(hash.0[0]);
        let mut record = [0; HASH_RECORD];
        record[..32].copy_from_slice(&hash.0);
        // Hashes are unique, so the height never decides the order.
        record[32..].copy_from_slice(&height.get().to_be_bytes());
        let written = self.buckets[bucket].write_all(&record);
        Ok(written.map_err(DbError::io(&Self::path(&self.dir, bucket)))?)
    }

    /// Writes them in order, and removes the files: each holds one 256th of all.
    fn write(self, builder: &mut Builder) -> Result<(), HomeError> {
        let mut run = builder.run();
        for (number, bucket) in self.buckets.into_iter().enumerate() {
            let path = Self::path(&self.dir, number);
            bucket
                .into_inner()
                .map_err(|e| DbError::io(&path)(e.into_error()))?;
            let mut file = BufReader::new(File::open(&path).map_err(DbError::io(&path))?);
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).map_err(DbError::io(&path))?;
            let mut records: Vec<&[u8]> = bytes.chunks_exact(HASH_RECORD).collect();
            // A table's keys ascend. Buckets are in order already, so one at a time is sorted in
            // memory.
            records.sort_unstable();
            for record in records {
                let (hash, height) = record.split_at(32);
                let hash = Hash::from_slice(hash).expect("32 bytes");
                let height = u64::from_be_bytes(height.try_into().expect("8 bytes"));
                builder.put(
                    &mut run,
                    &key::by_hash(&hash),
                    height.to_string().as_bytes(),
                )?;
            }
            // At once, so that the directory has nothing in it but a database in the end.
            fs::remove_file(&path).map_err(DbError::io(&path))?;
        }
        Ok(builder.end(&mut run)?)
    }
}

/// Heights in the order of their decimal digits.
struct InDecimalOrder {
    first: u64,
    last: u64,
    next: Option<u64>,
    order: Order,
}

/// Where a height stands among those that begin with its digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    /// Before them, as in keys that end with the height: 1, 10, 11, 2.
    ShortFirst,
    /// Behind them, as in keys in which a colon follows, which comes after the digits: 10, 11, 1,
    /// 2.
    ShortLast,
}

impl InDecimalOrder {
    fn new(first: Height, last: Height, order: Order) -> Self {
        let mut heights = InDecimalOrder {
            first: first.get(),
            last: last.get(),
            next: None,
            order,
        };
        heights.next = if first == Height::ZERO {
            Some(0)
        } else {
            heights.after(0)
        };
        heights
    }

    /// The next one of all from 0 to `last`.
    fn after(&self, n: u64) -> Option<u64> {
        let reachable = |n: &u64| *n <= self.last;
        if n == 0 {
            return Some(1).filter(reachable).map(|n| self.down(n));
        }
        match self.order {
            Order::ShortFirst => {
                if let Some(longer) = n.checked_mul(10).filter(reachable) {
                    return Some(longer);
                }
                let mut n = n;
                // 19 is followed by 2: up to the first digit that can be
                // raised without passing `last`.
                while n % 10 == 9 || n == self.last {
                    n /= 10;
                }
                (n > 0).then_some(n + 1)
            }
            Order::ShortLast if n % 10 < 9 && n < self.last => Some(self.down(n + 1)),
            Order::ShortLast => Some(n / 10).filter(|n| *n > 0),
        }
    }

    /// The first of those that begin with these digits.
    fn down(&self, mut n: u64) -> u64 {
        while let Some(longer) = n
            .checked_mul(10)
            .filter(|longer| self.order == Order::ShortLast && *longer <= self.last)
        {
            n = longer;
        }
        n
    }
}

impl Iterator for InDecimalOrder {
    type Item = Height;

    fn next(&mut self) -> Option<Height> {
        loop {
            let n = self.next?;
            self.next = self.after(n);
            if n >= self.first {
                return Some(Height::new(n));
            }
        }
    }
}

#[cfg(test)]
mod order_tests {
    use super::*;

    #[test]
    fn heights_come_in_the_order_of_their_digits() {
        for (first, last) in [
            (0, 0),
            (0, 1),
            (1, 9),
            (0, 10),
            (0, 1234),
            (7, 7),
            (99, 101),
            (950, 12_345),
            (10_000, 10_100),
        ] {
            for order in [Order::ShortFirst, Order::ShortLast] {
                let found: Vec<u64> =
                    InDecimalOrder::new(Height::new(first), Height::new(last), order)
                        .map(Height::get)
                        .collect();
                let end = if order == Order::ShortLast { ":" } else { "" };
                let mut expected: Vec<u64> = (first..=last).collect();
                expected.sort_by_key(|n| format!("{n}{end}"));
                assert_eq!(found, expected, "{first} to {last}, {order:?}");
            }
        }
    }
}
