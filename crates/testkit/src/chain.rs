//! Makes valid chains with real keys, for tests and simulations: of this module, of the service, of
//! integration tests.
//!
//! The application is CometBFT's example `kvstore` in what a chain shows of it (`protocol.md`
//! A.10): `val=` transactions change validators, each result is empty, the application hash counts
//! transactions, a duplicate vote costs its author one unit of power. So the same chain can be
//! synced with the built-in `kvstore`.
//!
//! Everything follows from the seed and the calls made. Not part of the library's interface.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use ed25519_dalek::{Signer, SigningKey};

use blocksync::chain::Header;
use blocksync::chain::block::{Block, Fetched, data_hash, evidence_hash, part_set};
use blocksync::chain::commit::{
    BlockIdFlag, Commit, CommitSig, ExtendedCommit, ExtendedCommitSig, Signature, VoteForm,
};
use blocksync::chain::encode;
use blocksync::chain::evidence::{DuplicateVoteEvidence, Evidence, Vote};
use blocksync::chain::execution::{FinalizeResponse, TxResult, UpdateKey, ValidatorUpdate};
use blocksync::chain::genesis::Genesis;
use blocksync::chain::key::PublicKey;
use blocksync::chain::median::median_time;
use blocksync::chain::merkle;
use blocksync::chain::params::ConsensusParams;
use blocksync::chain::rules::Rules;
use blocksync::chain::state::ChainState;
use blocksync::chain::time::Time;
use blocksync::chain::validators::{Validator, ValidatorSet};
use blocksync::ids::{Address, BlockId, Hash, Height};

/// The kvstore's application version.
pub const APP_VERSION: u64 = 1;
/// When every chain begins, in seconds since 1970: 2024-01-02T03:04:05Z.
const GENESIS_SECONDS: i64 = 1_704_164_645;

/// Keys by which anything can be signed: number `i` is always the same for a seed.
#[derive(Clone, Debug)]
pub struct Keys {
    seed: u64,
    by_address: BTreeMap<Address, SigningKey>,
}

impl Keys {
    fn new(seed: u64) -> Self {
        Keys {
            seed,
            by_address: BTreeMap::new(),
        }
    }

    /// The public key with this number; from now on it can sign.
    pub fn key(&mut self, number: usize) -> PublicKey {
        // From the seed and the number alone, so that a chain is the same on every run and machine.
        let secret = merkle::sha256(format!("testkit {} {number}", self.seed).as_bytes());
        let key = SigningKey::from_bytes(&secret.0);
        let public = PublicKey::Ed25519(key.verifying_key().to_bytes());
        self.by_address.insert(public.address(), key);
        public
    }

    /// A signature by the owner of the address.
    ///
    /// # Panics
    /// When the key is not one of these.
    #[must_use]
    pub fn sign(&self, address: &Address, message: &[u8]) -> Signature {
        let signature = self.by_address[address].sign(message);
        Signature::new(&signature.to_bytes()).expect("64 bytes")
    }

    /// A commit for the block, entries in the order of the set: each says what `flag` says of its
    /// index. Timestamps are `time` and a millisecond more for each index.
    #[must_use]
    pub fn commit(
        &self,
        chain_id: &[u8],
        set: &ValidatorSet,
        (height, round, block_id): (Height, i32, BlockId),
        time: Time,
        flag: impl Fn(usize) -> BlockIdFlag,
    ) -> Commit {
        let mut commit = Commit {
            height,
            round,
            block_id,
            signatures: Vec::with_capacity(set.len()),
        };
        let signing = commit.signing(chain_id, VoteForm::Timed);
        for (index, validator) in set.iter().enumerate() {
            let mut sig = ABSENT;
            sig.flag = flag(index);
            if sig.flag != BlockIdFlag::Absent {
                sig.address = validator.address;
                sig.timestamp = later(time, i64::try_from(index).unwrap_or(0) * 1_000_000);
                let mut message = Vec::new();
                signing.write(&sig, &mut message);
                sig.signature = self.sign(&validator.address, &message);
            }
            commit.signatures.push(sig);
        }
        commit
    }

    /// The commit with vote extensions: each precommit for the block extends it with a few bytes of
    /// its own, every third with none.
    #[must_use]
    pub fn extend(&self, chain_id: &[u8], commit: &Commit) -> ExtendedCommit {
        let entry = |(index, sig): (usize, &CommitSig)| {
            let for_block = sig.flag == BlockIdFlag::Commit && index % 3 != 2;
            ExtendedCommitSig {
                sig: sig.clone(),
                extension: if for_block {
                    format!("extension {} {index}", commit.height).into()
                } else {
                    Bytes::new()
                },
                extension_signature: Bytes::new(),
            }
        };
        let mut extended = ExtendedCommit {
            height: commit.height,
            round: commit.round,
            block_id: commit.block_id,
            signatures: commit.signatures.iter().enumerate().map(entry).collect(),
        };
        // A second pass, since the sign bytes are read off the extended commit.
        for index in 0..extended.signatures.len() {
            let sig = extended.signatures[index].sig.clone();
            if sig.flag == BlockIdFlag::Commit {
                let message = extended.extension_sign_bytes(chain_id, index);
                let signature = self.sign(&sig.address, &message);
                extended.signatures[index].extension_signature =
                    Bytes::copy_from_slice(signature.as_slice());
            }
        }
        extended
    }

    /// A signed vote.
    #[must_use]
    pub fn vote(
        &self,
        chain_id: &[u8],
        address: Address,
        (kind, height, round): (i32, Height, i32),
        block_id: BlockId,
        timestamp: Time,
    ) -> Vote {
        let mut vote = Vote {
            kind,
            height,
            round,
            block_id,
            timestamp,
            address,
            index: 0,
            signature: Signature::EMPTY,
            extension: Bytes::new(),
            extension_signature: Bytes::new(),
        };
        vote.signature = self.sign(&address, &vote.sign_bytes(chain_id, VoteForm::Timed));
        vote
    }
}

/// An absent entry of a commit.
pub const ABSENT: CommitSig = CommitSig {
    flag: BlockIdFlag::Absent,
    address: Address([0; 20]),
    timestamp: Time::ZERO,
    signature: Signature::EMPTY,
};

/// `time` and a number of nanoseconds more.
fn later(time: Time, nanos: i64) -> Time {
    let total = time.as_nanos() + i128::from(nanos);
    let (seconds, nanos) = (
        total.div_euclid(1_000_000_000),
        total.rem_euclid(1_000_000_000),
    );
    let seconds = i64::try_from(seconds).expect("a time of our era");
    Time::new(seconds, i32::try_from(nanos).expect("below a second")).expect("a time of our era")
}

/// Contents of the next block, and the votes for it.
#[derive(Clone, Debug, Default)]
pub struct BlockSpec {
    /// Transactions before those that change validators.
    pub txs: Vec<Bytes>,
    /// Key numbers and their new power; in force two heights up.
    pub changes: Vec<(usize, i64)>,
    /// Evidence, not checked here.
    pub evidence: Vec<Evidence>,
    /// The round in which it is decided.
    pub round: i32,
    /// Behaviour of the validators at these indices; the others vote for the block.
    pub votes: Vec<(usize, BlockIdFlag)>,
}

/// One block of a test chain.
#[derive(Clone, Debug)]
pub struct TestBlock {
    /// As it would come from a peer, with its extended commit where extensions are enabled; without
    /// the seen commit.
    pub fetched: Fetched,
    /// The commit for it: the next block's last commit.
    pub commit: Commit,
    /// The application's answer for it.
    pub response: FinalizeResponse,
    /// The state after it.
    pub state: ChainState,
}

impl TestBlock {
    /// The block with its own commit, as our own servers send the last one.
    #[must_use]
    pub fn with_seen_commit(&self) -> Fetched {
        Fetched {
            seen_commit: Some(self.commit.clone()),
            ..self.fetched.clone()
        }
    }
}

/// A block as it would come from a peer: encoded canonically, with its id computed.
#[must_use]
pub fn fetched(block: Block) -> Fetched {
    let mut raw = Vec::new();
    block.encode(&mut raw);
    Fetched {
        id: BlockId {
            hash: block.header.hash(),
            parts: part_set(&raw),
        },
        block,
        raw: raw.into(),
        ext_commit: None,
        ext_raw: None,
        seen_commit: None,
        // No commit has been verified, as with a block off the wire.
        checked: blocksync::chain::block::CommitChecks::default(),
        canonical: true,
    }
}

/// A block whose body hashes are made to fit its body.
#[must_use]
pub fn resealed(mut block: Block) -> Block {
    block.header.last_commit_hash = Some(block.last_commit.hash());
    block.header.data_hash = Some(data_hash(&block.txs));
    block.header.evidence_hash = Some(evidence_hash(&block.evidence));
    block
}

/// A chain that is valid from its first block to its last.
#[derive(Clone, Debug)]
pub struct TestChain {
    /// Its genesis.
    pub genesis: Genesis,
    /// The state before the first block, after InitChain.
    pub initial: ChainState,
    /// Its blocks, ascending.
    pub blocks: Vec<TestBlock>,
    /// All keys that have ever been named.
    pub keys: Keys,
    rules: Rules,
    txs_total: u64,
}

impl TestChain {
    /// Begins with four validators of power 10, no blocks, and no extensions.
    #[must_use]
    pub fn builder(seed: u64) -> Builder {
        Builder {
            seed,
            powers: vec![10; 4],
            heights: 0,
            initial_height: Height::new(1),
            chain_id: "test-chain".to_owned(),
            extensions_from: 0,
            txs: (1, 0),
            changes: Vec::new(),
            votes: Vec::new(),
            rounds: Vec::new(),
            rules: Rules::COMET_038,
        }
    }

    /// The state after the last block.
    #[must_use]
    pub fn state(&self) -> &ChainState {
        self.blocks.last().map_or(&self.initial, |b| &b.state)
    }

    /// The last height; 0 without blocks.
    #[must_use]
    pub fn height(&self) -> Height {
        self.state().last_height
    }

    /// The block of a height.
    ///
    /// # Panics
    /// When the chain has none there.
    #[must_use]
    pub fn at(&self, height: Height) -> &TestBlock {
        let place = height.above(self.genesis.initial_height);
        &self.blocks[usize::try_from(place).expect("a place in memory")]
    }

    /// The state after a height; of a height below the first, the one before it.
    ///
    /// # Panics
    /// When the chain does not go so far.
    #[must_use]
    pub fn state_after(&self, height: Height) -> &ChainState {
        if height < self.genesis.initial_height {
            return &self.initial;
        }
        &self.at(height).state
    }

    /// The set that signs a height.
    ///
    /// # Panics
    /// When the chain does not go so far.
    #[must_use]
    pub fn set_of(&self, height: Height) -> &Arc<ValidatorSet> {
        &self.state_after(height.prev()).validators
    }

    /// The chain up to a height, to go on differently from there.
    #[must_use]
    pub fn up_to(&self, height: Height) -> TestChain {
        let mut fork = self.clone();
        fork.blocks.retain(|b| b.fetched.height() <= height);
        // The application's hash counts transactions, so the count goes back with the blocks.
        fork.txs_total = fork
            .blocks
            .iter()
            .map(|b| b.fetched.block.txs.len() as u64)
            .sum();
        fork
    }

    /// A commit by the set of its height.
    ///
    /// # Panics
    /// When the chain does not go so far.
    #[must_use]
    pub fn sign(
        &self,
        height: Height,
        round: i32,
        id: BlockId,
        flag: impl Fn(usize) -> BlockIdFlag,
    ) -> Commit {
        let time = later(
            self.state_after(height.prev()).last_block_time,
            1_500_000_000,
        );
        let set = self.set_of(height);
        self.keys
            .commit(&self.initial.chain_id, set, (height, round, id), time, flag)
    }

    /// Evidence that the validator at index 1 precommitted two blocks at a height: the chain's, and
    /// one that there is not, of this name.
    ///
    /// # Panics
    /// When the chain does not go so far, or has one validator.
    #[must_use]
    pub fn duplicate_vote(&self, height: Height, name: &str) -> Evidence {
        let set = self.set_of(height);
        let offender = set.get(1).expect("a second validator");
        let block = &self.at(height).fetched;
        let time = block.block.header.time;
        let vote = |id: BlockId| {
            let (chain_id, what) = (&self.initial.chain_id, (2, height, 0));
            self.keys.vote(chain_id, offender.address, what, id, time)
        };
        let mut ids = [nowhere(name), block.id];
        // CometBFT's evidence has the vote for the smaller id first.
        ids.sort();
        Evidence::DuplicateVote(Box::new(DuplicateVoteEvidence {
            vote_a: vote(ids[0]),
            vote_b: vote(ids[1]),
            total_voting_power: set.total_power(),
            validator_power: offender.power,
            timestamp: time,
        }))
    }

    /// The next block, unsigned.
    fn assemble(&mut self, spec: &BlockSpec) -> Block {
        let mut txs = spec.txs.clone();
        for (number, power) in &spec.changes {
            let key = self.keys.key(*number);
            let text = format!("val=ed25519!{}!{power}", BASE64.encode(key.as_bytes()));
            txs.push(text.into());
        }
        let (state, last) = (self.state(), self.blocks.last());
        let last_commit = last.map_or_else(Commit::default, |b| b.commit.clone());
        let time = state
            .last_validators
            .as_ref()
            // Nobody has voted before the first block, which takes its time from genesis.
            .map_or(state.last_block_time, |set| {
                median_time(&last_commit, set, &self.rules).expect("own signers")
            });
        let proposer = state.validators.proposer().expect("a set has a proposer");
        resealed(Block {
            header: Header {
                version_block: blocksync::chain::basic::BLOCK_PROTOCOL,
                version_app: state.version_app,
                chain_id: state.chain_id.clone(),
                height: state.next_height(),
                time,
                last_block_id: state.last_block_id,
                last_commit_hash: None,
                data_hash: None,
                validators_hash: Some(state.validators.hash()),
                next_validators_hash: Some(state.next_validators.hash()),
                consensus_hash: Some(state.params.hash()),
                app_hash: state.app_hash.clone(),
                last_results_hash: Some(state.last_results_hash),
                evidence_hash: None,
                proposer_address: proposer.address,
            },
            txs: txs.into(),
            evidence: spec.evidence.clone(),
            last_commit,
        })
    }

    /// The kvstore's answer.
    fn execute(&mut self, block: &Block) -> FinalizeResponse {
        let mut updates = Vec::new();
        for offence in block.evidence.iter().flat_map(Evidence::misbehavior) {
            // Only a double vote costs power, as in CometBFT's kvstore.
            if offence.kind == 1 {
                let set = &self.state().validators;
                let offender = set.by_address(&offence.address).map(|(_, v)| v.key.clone());
                let key = UpdateKey::Known(offender.expect("still a validator"));
                let power = offence.power - 1;
                updates.push(ValidatorUpdate { key, power });
            }
        }
        updates.extend(block.txs.iter().filter_map(|tx| update_in(&tx)));
        self.txs_total += block.txs.len() as u64;
        FinalizeResponse {
            tx_results: vec![TxResult::default(); block.txs.len()],
            validator_updates: updates,
            app_hash: app_hash(self.txs_total),
            ..FinalizeResponse::default()
        }
    }

    /// Adds a block.
    ///
    /// # Panics
    /// When its changes of validators make no set.
    pub fn push(&mut self, spec: &BlockSpec) -> &TestBlock {
        let block = self.assemble(spec);
        let response = self.execute(&block);
        let mut fetched = fetched(block);
        let (height, before) = (fetched.height(), self.state().clone());
        let state = before
            .advance(&fetched.block, fetched.id, &response, &self.rules)
            .expect("changes that make a set");
        let flag = |index: usize| {
            let special = spec.votes.iter().find(|(at, _)| *at == index);
            special.map_or(BlockIdFlag::Commit, |(_, flag)| *flag)
        };
        let commit = self.keys.commit(
            &before.chain_id,
            &before.validators,
            (height, spec.round, fetched.id),
            // After the block's own time, or the next block, which takes the
            // median, would not be later.
            later(fetched.block.header.time, 1_000_000_000),
            flag,
        );
        if before.params.vote_extensions_enabled(height) {
            let extended = self.keys.extend(&before.chain_id, &commit);
            let mut raw = Vec::new();
            extended.encode(&mut raw);
            fetched.ext_commit = Some(extended);
            fetched.ext_raw = Some(raw.into());
        }
        self.blocks.push(TestBlock {
            fetched,
            commit,
            response,
            state,
        });
        &self.blocks[self.blocks.len() - 1]
    }

    /// Adds blocks of one transaction each, voted for by everybody.
    pub fn grow(&mut self, heights: usize) {
        for _ in 0..heights {
            let height = self.state().next_height();
            self.push(&BlockSpec {
                txs: vec![format!("k{height}=v").into()],
                ..BlockSpec::default()
            });
        }
    }

    /// The genesis as a file.
    #[must_use]
    pub fn genesis_json(&self) -> String {
        let (g, p) = (&self.genesis, &self.genesis.params);
        let mut validators = String::new();
        for (index, v) in g.validators.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            let key = BASE64.encode(v.key.as_bytes());
            write!(
                validators,
                r#"{comma}{{"address":"{}","pub_key":{{"type":"tendermint/PubKeyEd25519","value":"{key}"}},"power":"{}","name":""}}"#,
                v.address, v.power
            )
            .expect("writing to a string");
        }
        format!(
            r#"{{"genesis_time":"{}","chain_id":"{}","initial_height":"{}","consensus_params":{{"block":{{"max_bytes":"{}","max_gas":"{}"}},"evidence":{{"max_age_num_blocks":"{}","max_age_duration":"{}","max_bytes":"{}"}},"validator":{{"pub_key_types":["ed25519"]}},"version":{{"app":"{}"}},"abci":{{"vote_extensions_enable_height":"{}"}}}},"validators":[{validators}],"app_hash":""}}"#,
            g.genesis_time.unwrap_or_default(),
            g.chain_id,
            g.initial_height,
            p.block_max_bytes,
            p.block_max_gas,
            p.evidence_max_age_num_blocks,
            p.evidence_max_age_duration,
            p.evidence_max_bytes,
            p.version_app,
            p.vote_extensions_enable_height,
        )
    }
}

/// The kvstore's hash after a number of transactions.
fn app_hash(txs: u64) -> Bytes {
    let mut hash = Vec::with_capacity(10);
    encode::uvarint(txs << 1, &mut hash); // zig-zag
    hash.resize(8, 0);
    hash.into()
}

/// The validator update that a transaction of the kvstore's asks for.
fn update_in(tx: &[u8]) -> Option<ValidatorUpdate> {
    let text = std::str::from_utf8(tx).ok()?.strip_prefix("val=")?;
    let mut fields = text.split('!');
    let (kind, key, power) = (fields.next()?, fields.next()?, fields.next()?);
    let key = PublicKey::from_type_bytes(kind, &BASE64.decode(key).ok()?).ok()?;
    Some(ValidatorUpdate {
        key: UpdateKey::Known(key),
        power: power.parse().ok()?,
    })
}

/// How a test chain is to be.
#[derive(Clone, Debug)]
pub struct Builder {
    seed: u64,
    powers: Vec<i64>,
    heights: usize,
    initial_height: Height,
    chain_id: String,
    extensions_from: i64,
    txs: (usize, usize),
    changes: Vec<(Height, usize, i64)>,
    votes: Vec<(Height, usize, BlockIdFlag)>,
    rounds: Vec<(Height, i32)>,
    rules: Rules,
}

impl Builder {
    /// Sets the number of validators, each of power 10.
    #[must_use]
    pub fn validators(self, count: usize) -> Self {
        self.powers(&vec![10; count])
    }

    /// Validators of these powers: key numbers 0, 1, ….
    #[must_use]
    pub fn powers(mut self, powers: &[i64]) -> Self {
        self.powers = powers.to_vec();
        self
    }

    /// Sets the number of blocks.
    #[must_use]
    pub fn heights(mut self, count: usize) -> Self {
        self.heights = count;
        self
    }

    /// The first height.
    #[must_use]
    pub fn initial_height(mut self, height: u64) -> Self {
        self.initial_height = Height::new(height);
        self
    }

    /// The chain's name.
    #[must_use]
    pub fn chain_id(mut self, name: &str) -> Self {
        name.clone_into(&mut self.chain_id);
        self
    }

    /// Vote extensions from this height on; 0 is never.
    #[must_use]
    pub fn extensions_from(mut self, height: u64) -> Self {
        self.extensions_from = Height::new(height).to_wire();
        self
    }

    /// Sets the number of transactions in each block, and their padded size in bytes.
    #[must_use]
    pub fn txs(mut self, count: usize, bytes: usize) -> Self {
        self.txs = (count, bytes);
        self
    }

    /// At this height the validator with this key number gets this power; 0 removes it. It signs
    /// with it two heights up.
    #[must_use]
    pub fn change(mut self, height: u64, number: usize, power: i64) -> Self {
        self.changes.push((Height::new(height), number, power));
        self
    }

    /// In the commit for this height the validator at this index of the set does this.
    #[must_use]
    pub fn vote(mut self, height: u64, index: usize, flag: BlockIdFlag) -> Self {
        self.votes.push((Height::new(height), index, flag));
        self
    }

    /// This height is decided in this round.
    #[must_use]
    pub fn round(mut self, height: u64, round: i32) -> Self {
        self.rounds.push((Height::new(height), round));
        self
    }

    /// The rules of block time.
    #[must_use]
    pub fn rules(mut self, rules: Rules) -> Self {
        self.rules = rules;
        self
    }

    fn genesis(&self, keys: &mut Keys) -> Genesis {
        let validators = self.powers.iter().enumerate();
        Genesis {
            genesis_time: Time::new(GENESIS_SECONDS, 6),
            chain_id: self.chain_id.clone(),
            initial_height: self.initial_height,
            params: ConsensusParams {
                vote_extensions_enable_height: self.extensions_from,
                ..ConsensusParams::default()
            },
            validators: validators
                .map(|(number, power)| Validator::new(keys.key(number), *power))
                .collect(),
            app_hash: Bytes::new(),
            app_state: Bytes::new(),
        }
    }

    fn spec(&self, height: Height) -> BlockSpec {
        let (count, bytes) = self.txs;
        let tx = |number: usize| {
            let mut tx = format!("k{height}-{number}=").into_bytes();
            tx.resize(tx.len().max(bytes), b'x');
            Bytes::from(tx)
        };
        let changes = self.changes.iter().filter(|(at, ..)| *at == height);
        let votes = self.votes.iter().filter(|(at, ..)| *at == height);
        let round = self.rounds.iter().find(|(at, _)| *at == height);
        BlockSpec {
            txs: (0..count).map(tx).collect(),
            changes: changes
                .map(|(_, number, power)| (*number, *power))
                .collect(),
            evidence: Vec::new(),
            round: round.map_or(0, |(_, round)| *round),
            votes: votes.map(|(_, index, flag)| (*index, *flag)).collect(),
        }
    }

    /// The chain.
    ///
    /// # Panics
    /// When validators or changes make no set.
    #[must_use]
    pub fn build(self) -> TestChain {
        let mut keys = Keys::new(self.seed);
        let genesis = self.genesis(&mut keys);
        let initial = ChainState::from_genesis(&genesis, Time::ZERO)
            .and_then(|s| {
                s.with_app_info(APP_VERSION).with_init_chain(
                    None,
                    &[],
                    &app_hash(0),
                    &Rules::COMET_038,
                )
            })
            .expect("validators that make a set");
        let mut chain = TestChain {
            genesis,
            initial,
            blocks: Vec::with_capacity(self.heights),
            keys,
            rules: self.rules,
            txs_total: 0,
        };
        for _ in 0..self.heights {
            let spec = self.spec(chain.state().next_height());
            chain.push(&spec);
        }
        chain
    }
}

/// A block id that no block has.
#[must_use]
pub fn nowhere(name: &str) -> BlockId {
    let hash = |of: &str| -> Hash { merkle::sha256(format!("{of} {name}").as_bytes()) };
    BlockId::new(hash("header"), 1, hash("parts"))
}
