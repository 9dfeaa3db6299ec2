//! From a stopped stock node's home into our store.

use std::sync::Arc;

use blocksync::chain::proof::Policy;
use blocksync::chain::{
    ChainState, Commit, ConsensusParams, Fetched, Header, RuleSchedule, ValidatorSet, verify,
};
use blocksync::ids::{BlockId, Hash, Height};
use blocksync::store::{Batch, BlockRecord, LmdbStore, SET_CHECKPOINT, Store};
use blocksync::wire::message::BlockResponse;
use blocksync::wire::{Limits, convert, decode};
use bytes::{Bytes, BytesMut};
use prost::Message;
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::leveldb::Database;
use crate::records::{
    BlockMeta, BlockStoreState, Info, LastResponse, Part, StoredBlockId, StoredState, key,
};
use crate::{CometHome, HomeError, OnProgress, Progress};

/// Blocks that are written in one transaction, …
const BLOCKS: usize = 256;
/// … and their bytes.
const BYTES: usize = 16 << 20;
/// Parts of the largest block that a chain can allow.
const MAX_PARTS: u32 = 1601;

/// The part that is imported, and how it is proven.
pub struct Import {
    /// Number of last blocks to take; 0 takes all that the home has.
    pub retain_blocks: u64,
    /// How commits are verified: one for each validator set and the last one, or all.
    pub policy: Policy,
    /// The protocol's rules by height.
    pub rules: RuleSchedule,
    /// The hash that a height's block must have.
    pub trust: Option<(Height, Hash)>,
    /// The set that the genesis names for the first block, where it names one.
    pub genesis_set: Option<ValidatorSet>,
}

/// The result of an import.
#[derive(Clone, Debug)]
pub struct Imported {
    /// The first block.
    pub base: Height,
    /// The last one.
    pub height: Height,
    /// Its id.
    pub id: BlockId,
    /// Whether the block above, which the home has, proves the application's hash and the next set
    /// too. If not, the first block that is synced does.
    pub ahead: bool,
    /// Whether the proof begins with the genesis' own validator set.
    pub from_genesis: bool,
    /// The height of the application in the home, where it can be read.
    pub application: Option<i64>,
}

/// The chain that a home holds.
#[derive(Clone, Debug)]
pub struct Chain {
    /// Its name.
    pub chain_id: Bytes,
    /// The height of its first block.
    pub initial_height: Height,
    /// The genesis that the node has kept, in CometBFT's JSON.
    pub genesis: Option<Bytes>,
}

/// A home's databases, open to be read.
struct Source {
    home: CometHome,
    blocks: Database,
    states: Database,
    span: BlockStoreState,
}

impl Source {
    fn open(home: &CometHome) -> Result<Self, HomeError> {
        home.check_unused()?;
        let mut blocks = home.read("blockstore")?;
        let states = home.read("state")?;
        let none = || {
            let dir = home.database("blockstore");
            HomeError::Unfit(format!("{}: it holds no block", dir.display()))
        };
        let span = blocks.get(key::BLOCK_STORE)?.ok_or_else(none)?;
        let mut span = BlockStoreState::decode(span).map_err(|_| none())?;
        // Homes of before 0.33 have no base.
        span.base = span.base.max(1);
        if span.height < span.base {
            return Err(none());
        }
        Ok(Source {
            home: home.clone(),
            blocks,
            states,
            span,
        })
    }

    fn wrong(&self, database: &str, height: Height, why: impl Into<String>) -> HomeError {
        HomeError::Wrong {
            path: self.home.database(database),
            height,
            why: why.into(),
        }
    }

    fn block_record(&mut self, what: &str, height: Height, key: &[u8]) -> Result<Bytes, HomeError> {
        let found = self.blocks.get(key)?;
        found.ok_or_else(|| self.wrong("blockstore", height, format!("its {what} is missing")))
    }

    fn state(&mut self) -> Result<ChainState, HomeError> {
        let bytes = self.states.get(key::STATE)?;
        let read = |bytes: Option<Bytes>| {
            let stored = StoredState::decode(bytes.ok_or("it holds no state")?);
            stored.map_err(|e| e.to_string())?.state()
        };
        read(bytes).map_err(|why| {
            let path = self.home.database("state");
            HomeError::Unfit(format!("{}: {why}", path.display()))
        })
    }

    /// A block out of its parts, with its extended commit where there is one.
    fn block(&mut self, height: Height) -> Result<Fetched, HomeError> {
        let meta = self.block_record("record", height, &key::meta(height))?;
        let id = BlockMeta::decode(meta).ok().and_then(|meta| {
            StoredBlockId::decode(meta.block_id)
                .ok()
                .and_then(|id| id.id())
        });
        let id = id.ok_or_else(|| self.wrong("blockstore", height, "its record cannot be read"))?;
        if id.parts.total == 0 || id.parts.total > MAX_PARTS {
            let why = format!("its record names {} parts", id.parts.total);
            return Err(self.wrong("blockstore", height, why));
        }
        // The bytes are held against the id below, so a forged count of parts costs one block at
        // most.
        let mut raw = BytesMut::new();
        for index in 0..id.parts.total {
            let part = self.block_record("part", height, &key::part(height, index))?;
            let part = Part::decode(part).ok().filter(|part| part.index == index);
            let part = part.ok_or_else(|| {
                self.wrong("blockstore", height, format!("part {index} cannot be read"))
            })?;
            raw.extend_from_slice(&part.bytes);
        }
        // As a peer would send it, so that it meets the same limits and checks.
        let response = BlockResponse {
            block: raw.freeze(),
            ext_commit: self.blocks.get(&key::extended_commit(height))?,
            seen_commit: None,
        };
        let fetched = decode::fetched(&response.encode(), &Limits::default())
            .map_err(|e| self.wrong("blockstore", height, e.to_string()))?;
        self.same("id", height, &id, &fetched.id)?;
        self.same("height", height, &height, &fetched.height())?;
        let body = fetched.block.check_body();
        body.map_err(|e| self.wrong("blockstore", height, e.to_string()))?;
        Ok(fetched)
    }

    /// The commit that this node has seen for a height.
    fn seen_commit(&mut self, height: Height) -> Result<Bytes, HomeError> {
        let key = key::seen_commit(height);
        if let Some(commit) = self.blocks.get(&key)? {
            return Ok(commit);
        }
        // With vote extensions only the extended commit is kept.
        let extended = self.block_record("seen commit", height, &key::extended_commit(height))?;
        let extended = decode::extended_commit_from_bytes(&extended)
            .map_err(|e| self.wrong("blockstore", height, format!("its extended commit: {e}")))?;
        let mut out = Vec::new();
        // Without the extensions it is the commit that they were sent with, signatures and all.
        extended.to_commit().encode(&mut out);
        Ok(out.into())
    }

    fn info(&mut self, what: &str, height: Height, key: &[u8]) -> Result<Info, HomeError> {
        let info = self.states.get(key)?.map(Info::decode);
        match info {
            Some(Ok(info)) => Ok(info),
            Some(Err(e)) => Err(self.wrong("state", height, format!("its {what}: {e}"))),
            None => Err(self.wrong("state", height, format!("its {what} is missing"))),
        }
    }

    /// Whether a set has come into force at this height, or has a record of its own because of it.
    fn has_own_set(&mut self, height: Height) -> Result<bool, HomeError> {
        let info = self.info("validator set", height, &key::validators(height))?;
        let begins = info.last_height_changed == height.to_wire();
        // A checkpoint's record has the priorities of its own height, which
        // later heights go on from.
        let recorded = begins || height.get().is_multiple_of(SET_CHECKPOINT);
        Ok(recorded && !info.value.is_empty())
    }

    /// The set of a height, with the priorities with which it is stored.
    fn set(&mut self, height: Height) -> Result<ValidatorSet, HomeError> {
        let mut info = self.info("validator set", height, &key::validators(height))?;
        // A record without a set says where the set changed; a checkpoint since then holds it, too.
        if info.value.is_empty() {
            let checkpoint = height.get() - height.get() % SET_CHECKPOINT;
            // A negative height is damage: 0 then finds no record and names
            // this height in the error.
            let changed = u64::try_from(info.last_height_changed).unwrap_or(0);
            let at = Height::new(checkpoint.max(changed));
            info = self.info("validator set", at, &key::validators(at))?;
        }
        convert::set_from_bytes(&info.value)
            .map_err(|e| self.wrong("state", height, format!("its validator set: {e}")))
    }

    fn params(&mut self, height: Height) -> Result<ConsensusParams, HomeError> {
        let what = "consensus params";
        let info = self.info(what, height, &key::params(height))?;
        // Unchanged ones are an empty message, or one of empty groups.
        if let Ok(params) = convert::params_from_bytes(&info.value)
            // No valid params have it at zero (`protocol.md` 6.1), so it tells an empty group.
            && params.block_max_bytes != 0
        {
            return Ok(params);
        }
        let changed = Height::from_wire(info.last_height_changed).unwrap_or(Height::ZERO);
        let info = self.info(what, changed, &key::params(changed))?;
        convert::params_from_bytes(&info.value)
            .map_err(|e| self.wrong("state", changed, format!("its {what}: {e}")))
    }

    fn same<T: PartialEq + std::fmt::Display>(
        &self,
        what: &str,
        height: Height,
        expected: &T,
        found: &T,
    ) -> Result<(), HomeError> {
        // Both are shown: the reader of the message decides which of the two records is wrong.
        if expected == found {
            return Ok(());
        }
        let why = format!("{what}: expected {expected}, found {found}");
        Err(self.wrong("blockstore", height, why))
    }
}

/// The chain that a home holds.
///
/// # Errors
/// When its databases are in use, damaged, of another backend, or hold no state.
pub fn chain_of(home: &CometHome) -> Result<Chain, HomeError> {
    let mut source = Source::open(home)?;
    let state = source.state()?;
    Ok(Chain {
        chain_id: state.chain_id,
        initial_height: state.initial_height,
        genesis: source.states.get(key::GENESIS)?,
    })
}

/// Fills an empty store, or goes on with one that an import has begun. Only a store that is whole
/// has a state.
///
/// For every block: the bytes of its parts against its id; its hashes against its body; the link to
/// the block before; its validator set against what the block before names; its params' hash; the
/// commits that the policy asks for. The state is held against the last block and, where the home
/// has it, the block above.
///
/// # Errors
/// When the home is in use, damaged, of another backend, or does not hold a chain: with the height,
/// what was expected and what was found.
pub fn import(
    home: &CometHome,
    store: &LmdbStore,
    what: &Import,
    progress: OnProgress<'_>,
) -> Result<Imported, HomeError> {
    let mut source = Source::open(home)?;
    let state = source.state()?;
    let (last, lowest) = (state.last_height, Height::new(source.span.base as u64)); // at least 1
    // The block store may be one ahead of the state, never behind: then blocks were lost.
    if last < lowest || last.to_wire() > source.span.height {
        return Err(source.wrong(
            "state",
            last,
            format!("the block store holds {lowest} to {}", source.span.height),
        ));
    }
    let base = match what.retain_blocks {
        0 => lowest,
        // Blocks that were pruned already cannot be had, whatever was asked for.
        n => Height::new(last.get().saturating_sub(n - 1)).max(lowest),
    };
    let mut proof = Proof::begin(&mut source, store, &state, what, base)?;
    let mut next = proof.next;
    let total = last.above(base) + 1;
    while next <= last {
        let batch = proof.batch(next, last)?;
        next = batch
            .blocks
            .last()
            .map_or(next, |block| block.height.next());
        // Each batch is durable by itself, and `Proof::begin` goes on behind it after a crash.
        store.commit(batch)?;
        // The last batch is not reported here: it becomes an import only with the state.
        let done = next.above(base);
        if next <= last && !progress(Progress { done, total }) {
            return Err(HomeError::Stopped);
        }
    }
    // The state goes in last: a store without one is known to be unfinished.
    let (batch, ahead) = proof.end(&state)?;
    let from_genesis = proof.from_genesis;
    store.commit(batch)?;
    Ok(Imported {
        base,
        height: last,
        id: state.last_block_id,
        ahead,
        from_genesis,
        application: home.application_height()?,
    })
}

/// A block below, as far as the next one is held against it.
struct Before {
    header: Header,
    id: BlockId,
}

/// The proof in progress.
struct Proof<'a> {
    source: &'a mut Source,
    what: &'a Import,
    chain_id: Bytes,
    initial: Height,
    next: Height,
    before: Option<Before>,
    set: Option<Arc<ValidatorSet>>,
    params: Option<ConsensusParams>,
    from_genesis: bool,
    rng: StdRng,
}

impl<'a> Proof<'a> {
    /// Begins at the base, or above what an import that was interrupted has stored.
    fn begin(
        source: &'a mut Source,
        store: &LmdbStore,
        state: &ChainState,
        what: &'a Import,
        base: Height,
    ) -> Result<Self, HomeError> {
        let span = store.span()?;
        // A store with a state belongs to a chain that runs; more blocks than
        // the home's are not from it.
        if store.state()?.is_some() || span.stored > state.last_height {
            return Err(HomeError::Unfit(format!(
                "the store holds blocks {} to {} already: import into a fresh home",
                span.base, span.stored
            )));
        }
        let resumed = span.stored != Height::ZERO;
        let before = if resumed {
            store.header(span.stored)?
        } else {
            None
        };
        let before = before.map(|(header, id)| Before { header, id });
        let next = if resumed { span.stored.next() } else { base };
        // The sets of the blocks below are recorded already.
        let set = if resumed {
            Some(Arc::new(source.set(span.stored)?))
        } else {
            None
        };
        let mut from_genesis = false;
        if let Some(named) = what.genesis_set.as_ref().filter(|set| !set.is_empty())
            && span.base.max(base) == state.initial_height
        {
            let used = source.set(state.initial_height)?;
            // Otherwise the proof rests on the set that the home itself
            // names, and the caller says so.
            from_genesis = named.hash() == used.hash();
        }
        Ok(Proof {
            chain_id: state.chain_id.clone(),
            initial: state.initial_height,
            next,
            before,
            set,
            params: None,
            from_genesis,
            rng: rand::make_rng(),
            source,
            what,
        })
    }

    /// The next blocks, proven, with the sets and params that come into force among them.
    fn batch(&mut self, from: Height, last: Height) -> Result<Batch, HomeError> {
        let mut batch = Batch::default();
        let (mut next, mut bytes) = (from, 0);
        // Bounded by number and by bytes: blocks may have some hundred bytes or 100 MB.
        while next <= last && batch.blocks.len() < BLOCKS && bytes < BYTES {
            let block = self.source.block(next)?;
            bytes += block.raw.len();
            self.block(&block, &mut batch)?;
            batch.blocks.push(BlockRecord {
                height: next,
                id: block.id,
                raw: block.raw,
                ext_raw: block.ext_raw,
            });
            next = next.next();
        }
        Ok(batch)
    }

    fn of_this_chain(&self, block: &Fetched) -> Result<(), HomeError> {
        let found = &block.block.header.chain_id;
        if *found == self.chain_id {
            return Ok(());
        }
        let why = format!(
            "it is of chain {}, the state of {}",
            String::from_utf8_lossy(found),
            String::from_utf8_lossy(&self.chain_id)
        );
        Err(self.source.wrong("blockstore", block.height(), why))
    }

    fn block(&mut self, block: &Fetched, batch: &mut Batch) -> Result<(), HomeError> {
        let (height, header) = (block.height(), &block.block.header);
        self.of_this_chain(block)?;
        if let Some((at, hash)) = self.what.trust
            && at == height
        {
            self.source.same(
                "trusted hash",
                height,
                &shown(Some(hash)),
                &shown(block.id.hash),
            )?;
        }
        let named = shown(header.validators_hash);
        if let Some(before) = &self.before {
            self.source
                .same("predecessor", height, &before.id, &header.last_block_id)?;
            let expected = shown(before.header.next_validators_hash);
            self.source
                .same("validator set", height, &expected, &named)?;
        // Above it, the first block taken has no predecessor here to be held against.
        } else if height == self.initial {
            self.source
                .same("predecessor", height, &BlockId::ZERO, &header.last_block_id)?;
        }
        let hash = header.validators_hash;
        let known = self
            .set
            .as_ref()
            .is_some_and(|set| Some(set.hash()) == hash);
        // A set with a record of its own is read even where it is known: its priorities may differ.
        if !known || self.source.has_own_set(height)? {
            let set = Arc::new(self.source.set(height)?);
            let found = shown(Some(set.hash()));
            self.source.same("validator set", height, &named, &found)?;
            batch.validators.push((height, Arc::clone(&set)));
            self.set = Some(set);
        }
        let params = self.source.params(height)?;
        let expected = shown(header.consensus_hash);
        self.source.same(
            "consensus params",
            height,
            &expected,
            &shown(Some(params.hash())),
        )?;
        // Kept where they change: our store looks for the record at or below a height.
        if self.params.as_ref() != Some(&params) {
            batch.params.push((height, params.clone()));
        }
        let extended = params.vote_extensions_enabled(height);
        self.params = Some(params);
        // So that it is known as committed, and a later block with the same is refused.
        for evidence in &block.block.evidence {
            batch
                .evidence
                .push((evidence.identity(), evidence.height()));
        }
        if extended && block.ext_commit.is_none() {
            return Err(self
                .source
                .wrong("blockstore", height, "its extended commit is missing"));
        }
        self.commits(block)?;
        self.before = Some(Before {
            header: header.clone(),
            id: block.id,
        });
        Ok(())
    }

    /// Verifies the commit for a block, when the policy asks for it: where the set changes above
    /// it, and everywhere with every-commit.
    fn commits(&mut self, block: &Fetched) -> Result<(), HomeError> {
        let (height, header) = (block.height(), &block.block.header);
        // Hashes tie every block to the last one. Where the set changes, the old one has to have
        // decided the block that names the new one.
        let turns = header.next_validators_hash != header.validators_hash;
        if !turns && self.what.policy == Policy::Anchored {
            return Ok(());
        }
        // The next block carries it; the last block's is the one that the node has seen, which
        // `end` verifies.
        if height.to_wire() >= self.source.span.height {
            return Ok(());
        }
        let commit = self
            .source
            .block_record("commit", height, &key::commit(height))?;
        self.verify(block.id, height, &commit)?;
        Ok(())
    }

    fn verify(&mut self, id: BlockId, height: Height, commit: &[u8]) -> Result<Commit, HomeError> {
        let wrong = |source: &Source, why: String| {
            source.wrong("blockstore", height, format!("its commit: {why}"))
        };
        let commit =
            decode::commit_from_bytes(commit).map_err(|e| wrong(self.source, e.to_string()))?;
        let set = self.set.clone().expect("set by the block");
        let mut rng = StdRng::from_rng(&mut self.rng);
        let rules = self.what.rules.of_commit(height);
        verify::verify_commit(rules, &self.chain_id, &set, &id, height, &commit, &mut rng)
            .map_err(|e| wrong(self.source, e.to_string()))?;
        Ok(commit)
    }

    /// Holds the state against the last block and what lies above it.
    fn end(&mut self, state: &ChainState) -> Result<(Batch, bool), HomeError> {
        let last = state.last_height;
        let before = self.before.take().ok_or_else(|| {
            self.source
                .wrong("blockstore", last, "the block is missing")
        })?;
        // Compared here as well: an import resumed behind its last batch has
        // checked no set in this run.
        let set = Arc::new(self.source.set(last)?);
        let named = shown(before.header.validators_hash);
        self.source
            .same("validator set", last, &named, &shown(Some(set.hash())))?;
        self.set = Some(set);
        self.state_fits(state, &before)?;
        let seen = self.source.seen_commit(last)?;
        self.verify(before.id, last, &seen)?;
        let mut batch = Batch {
            seen_commit: Some((last, seen)),
            state: Some(Arc::new(state.clone())),
            ..Batch::default()
        };
        if state.params.vote_extensions_enabled(last) {
            self.extended(before.id, last)?;
        }
        // Blocks below the base are not read, but their evidence may not have expired.
        if self.source.home.database("evidence").is_dir() {
            let mut evidence = self.source.home.read("evidence")?;
            for key in evidence.scan(key::COMMITTED)?.keys() {
                let Some((height, identity)) = key::read_evidence(key) else {
                    let why = format!("key {} cannot be read", hex::encode(key));
                    return Err(self.source.wrong("evidence", last, why));
                };
                batch.evidence.push((identity, height));
            }
        }
        let ahead = self.source.span.height > last.to_wire();
        if ahead {
            self.above(state, &before, &mut batch)?;
        }
        Ok((batch, ahead))
    }

    fn extended(&mut self, id: BlockId, last: Height) -> Result<(), HomeError> {
        let raw = self
            .source
            .block_record("extended commit", last, &key::extended_commit(last))?;
        let set = self.set.clone().expect("set by the caller");
        let mut rng = StdRng::from_rng(&mut self.rng);
        let extended = decode::extended_commit_from_bytes(&raw).map_err(|e| e.to_string());
        let verified = extended.and_then(|extended| {
            let (rules, chain_id) = (self.what.rules.at(last), &self.chain_id);
            verify::verify_extended_commit(rules, chain_id, &set, &id, last, &extended, &mut rng)
                .map_err(|e| e.to_string())
        });
        verified.map(|_| ()).map_err(|why| {
            self.source
                .wrong("blockstore", last, format!("its extended commit: {why}"))
        })
    }

    fn state_fits(&self, state: &ChainState, before: &Before) -> Result<(), HomeError> {
        let (last, header) = (state.last_height, &before.header);
        let source = &*self.source;
        // Nothing signs the state itself, so all that it says is held against the proven header.
        source.same("the state's block", last, &before.id, &state.last_block_id)?;
        let signed = state
            .last_validators
            .as_ref()
            .map_or(Hash([0; 32]), |set| set.hash());
        let expected = shown(header.validators_hash);
        source.same(
            "the state's last validators",
            last,
            &expected,
            &shown(Some(signed)),
        )?;
        let expected = shown(header.next_validators_hash);
        let found = shown(Some(state.validators.hash()));
        source.same("the state's validators", last, &expected, &found)?;
        if state.last_block_time != header.time {
            let why = "the state has another time than its block";
            return Err(source.wrong("state", last, why));
        }
        Ok(())
    }

    /// The block above the state is not executed yet, but says what executing the last one gave.
    /// Where the application has executed it all the same, its stored response is taken along.
    fn above(
        &mut self,
        state: &ChainState,
        before: &Before,
        batch: &mut Batch,
    ) -> Result<(), HomeError> {
        let height = state.last_height.next();
        let block = self.source.block(height)?;
        let header = &block.block.header;
        let source = &mut *self.source;
        source.same("predecessor", height, &before.id, &header.last_block_id)?;
        for (what, expected, found) in [
            (
                "validator set",
                header.validators_hash,
                state.validators.hash(),
            ),
            (
                "next validator set",
                header.next_validators_hash,
                state.next_validators.hash(),
            ),
            (
                "results of the block before",
                header.last_results_hash,
                state.last_results_hash,
            ),
            (
                "consensus params",
                header.consensus_hash,
                state.params.hash(),
            ),
        ] {
            let what = format!("{what} that the state names");
            source.same(&what, height, &shown(expected), &shown(Some(found)))?;
        }
        let (expected, found) = (hex::encode(&header.app_hash), hex::encode(&state.app_hash));
        source.same(
            "application hash that the state names",
            height,
            &expected,
            &found,
        )?;
        let response = source
            .states
            .get(key::LAST_RESPONSE)?
            .map(LastResponse::decode);
        if let Some(Ok(LastResponse {
            height: of,
            response: Some(response),
        })) = response
            && of == height.to_wire()
        {
            let rules = self.what.rules.at(height);
            let response = convert::finalize_response_from_proto(response, rules.params.groups)
                .map_err(|e| source.wrong("state", height, format!("its results: {e}")))?;
            self.set = Some(Arc::clone(&state.validators));
            let seen = self.source.seen_commit(height)?;
            self.verify(block.id, height, &seen)?;
            batch.results = Some((height, convert::finalize_response_to_bytes(&response)));
            batch.blocks.push(BlockRecord {
                height,
                id: block.id,
                raw: block.raw,
                ext_raw: block.ext_raw,
            });
            batch.seen_commit = Some((height, seen)); // the block above has the last one's commit
        }
        Ok(())
    }
}

/// A hash that may be absent, for messages.
fn shown(hash: Option<Hash>) -> String {
    hash.map_or_else(|| "none".to_owned(), |hash| hash.to_string())
}
