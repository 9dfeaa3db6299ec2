//! Whether a block's evidence is what it claims to be (`protocol.md` 5.11). The stateless checks
//! come before ([`super::evidence::Evidence::check_basic`]).
//!
//! Lookups concern applied blocks: heights up to the state's last one, never a stored block above
//! it.

use std::sync::Arc;

use rand::CryptoRng;

use super::basic::show;
use super::block::Block;
use super::commit::{BlockIdFlag, Commit, VoteForm};
use super::evidence::{DuplicateVoteEvidence, Evidence, LightClientAttackEvidence, ValidatorForm};
use super::header::Header;
use super::params::ConsensusParams;
use super::rules::Rules;
use super::state::ChainState;
use super::time::Time;
use super::validators::{Validator, ValidatorSet};
use super::verify::{CommitError, Light, Seats, Share, light, verify_commit_light_trusting};
use crate::ids::{Address, Hash, Height};

/// Lookups of applied blocks, of heights up to the state's last one. `Ok(None)` is "we do not have
/// it"; an error is the store's.
pub trait EvidenceContext {
    /// The set that signed a height.
    ///
    /// # Errors
    /// When the store fails.
    fn set_at(&self, height: Height) -> Result<Option<Arc<ValidatorSet>>, LookupError>;
    /// The header of a height.
    ///
    /// # Errors
    /// When the store fails.
    fn header_at(&self, height: Height) -> Result<Option<Header>, LookupError>;
    /// A commit that decided a height. For the last one it is in the block under check itself, and
    /// need not be known here.
    ///
    /// # Errors
    /// When the store fails.
    fn commit_at(&self, height: Height) -> Result<Option<Commit>, LookupError>;
    /// Whether an applied block holds the item with this identity.
    ///
    /// # Errors
    /// When the store fails.
    fn committed(&self, identity: &Hash) -> Result<bool, LookupError>;
}

/// The store failed; its own words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct LookupError(pub String);

/// An item of a block's evidence does not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("block {height}, evidence {index}, by the rules of {rules}: {why}")]
pub struct EvidenceError {
    /// The block's height.
    pub height: Height,
    /// Index of the item in the block's evidence.
    pub index: usize,
    /// The name of the rules in force: versions of CometBFT judge evidence differently.
    pub rules: &'static str,
    /// The reason.
    pub why: Box<Refusal>,
}

/// Why an item of evidence does not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// An earlier block has it already.
    #[error("{0} was committed before")]
    Committed(Hash),
    /// The block has it twice.
    #[error("{identity} is at index {first} too")]
    Repeated {
        /// Identity of the item, by which duplicates are found.
        identity: Hash,
        /// Index of its first occurrence.
        first: usize,
    },
    /// We lack what is needed to judge it: no fault of the block.
    #[error("we do not have the {what} of height {height}")]
    Unknown {
        /// `header`, `commit` or `validator set`.
        what: &'static str,
        /// The height at which it would be needed.
        height: Height,
    },
    /// The store failed.
    #[error("cannot look up: {0}")]
    Lookup(#[from] LookupError),
    /// It states another time than the block of its height has.
    #[error("time {found}, expected {expected}, the time of block {height}")]
    Time {
        /// The height of the offence.
        height: Height,
        /// The block's time.
        expected: Time,
        /// The item's.
        found: Time,
    },
    /// It is too old.
    #[error(
        "of height {height} and time {time}: expired at height {last_height} and time {last_time}"
    )]
    Expired {
        /// The height of the offence.
        height: Height,
        /// The time of the offence.
        time: Time,
        /// The last block's height.
        last_height: Height,
        /// The last block's time.
        last_time: Time,
    },
    /// The offender is not in the set.
    #[error("{address} is not a validator of height {height}")]
    NotValidator {
        /// Address of the offender.
        address: Address,
        /// The height of the offence.
        height: Height,
    },
    /// The two votes are not of one height, round and type.
    #[error(
        "votes of height, round and type {}/{}/{} and {}/{}/{}, expected equal ones",
        .a.0, .a.1, .a.2, .b.0, .b.1, .b.2
    )]
    VotesDiffer {
        /// The first vote's.
        a: (Height, i32, i32),
        /// The second's.
        b: (Height, i32, i32),
    },
    /// The two votes are of different validators.
    #[error("votes of {a} and {b}, expected one validator's")]
    AddressesDiffer {
        /// The first vote's.
        a: Address,
        /// The second's.
        b: Address,
    },
    /// It states another power than the set has.
    #[error("{whose} power {found}, expected {expected}")]
    Power {
        /// `validator's` or `total`.
        whose: &'static str,
        /// The set's.
        expected: i64,
        /// The item's.
        found: i64,
    },
    /// A vote has a time, where votes have none.
    #[error("vote {0}: time {1}, expected none by the rules in force")]
    VoteTime(char, Time),
    /// A vote's signature is wrong.
    #[error("vote {0}: wrong signature")]
    VoteSignature(char),
    /// Too few of the common set have signed the conflicting block.
    #[error("conflicting commit, by the common set: {0}")]
    Trusting(CommitError),
    /// The conflicting commit does not decide the conflicting block.
    #[error("conflicting commit, by its own set: {0}")]
    Conflicting(CommitError),
    /// At the common height, the conflicting header differs in what follows from the chain below
    /// it.
    #[error("conflicting header of the common height {0} was not derived from the same chain")]
    NotDerived(Height),
    /// The conflicting header is our own.
    #[error("conflicting header is our own, {}", show(.0))]
    SameHeader(Option<Hash>),
    /// A header of the future is an attack only when its time is not after our last one's.
    #[error(
        "conflicting block of height {height} is of time {found}, expected at most {latest}, that of our last block"
    )]
    NotForward {
        /// The conflicting block's height.
        height: Height,
        /// The conflicting block's time.
        found: Time,
        /// Our last block's time.
        latest: Time,
    },
    /// Its validators are encoded in the form of other versions.
    #[error("validators written {found}, expected {expected}")]
    Form {
        /// The form of the rules in force.
        expected: ValidatorForm,
        /// The item's.
        found: ValidatorForm,
    },
    /// A signature is longer than the version can read.
    #[error(
        "conflicting commit, entry {index}: signature of {found} bytes, expected at most {expected}"
    )]
    SignatureLength {
        /// The entry.
        index: usize,
        /// The longest.
        expected: usize,
        /// The entry's.
        found: usize,
    },
    /// Nobody can be blamed: amnesia is never committed.
    #[error("nobody is to blame for it")]
    NobodyToBlame,
    /// The list of those to blame has another length.
    #[error("{found} validators to blame, expected {expected}")]
    BlameCount {
        /// Computed.
        expected: usize,
        /// The item's.
        found: usize,
    },
    /// The list of those to blame has somebody else, or with another power or key.
    #[error("validator to blame {index}: {found}, expected {expected}")]
    Blame {
        /// Index in the list of those to blame.
        index: usize,
        /// Address and power computed.
        expected: String,
        /// Address, the key's address and power in the item.
        found: String,
    },
}

/// Checks all evidence of a block against the state before it (`protocol.md` 5.11), by the rules of
/// the block's height.
///
/// # Errors
/// The first item that does not hold. [`Refusal::Unknown`] and [`Refusal::Lookup`] are ours, not
/// the block's.
pub fn check_evidence<R: CryptoRng + ?Sized>(
    state: &ChainState,
    block: &Block,
    rules: &Rules,
    known: &dyn EvidenceContext,
    rng: &mut R,
) -> Result<(), EvidenceError> {
    let mut seen: Vec<Hash> = Vec::with_capacity(block.evidence.len());
    for (index, item) in block.evidence.iter().enumerate() {
        check_item(state, item, rules, &mut seen, known, rng).map_err(|why| EvidenceError {
            height: block.header.height,
            index,
            rules: rules.name,
            why: Box::new(why),
        })?;
    }
    Ok(())
}

fn check_item<R: CryptoRng + ?Sized>(
    state: &ChainState,
    item: &Evidence,
    rules: &Rules,
    seen: &mut Vec<Hash>,
    known: &dyn EvidenceContext,
    rng: &mut R,
) -> Result<(), Refusal> {
    let identity = item.identity();
    // An offence that is committed twice would be punished twice.
    if known.committed(&identity)? {
        return Err(Refusal::Committed(identity));
    }
    if let Some(first) = seen.iter().position(|other| *other == identity) {
        return Err(Refusal::Repeated { identity, first });
    }
    seen.push(identity);
    let height = item.height();
    // A pruned header is our lack. The horizon of pruning keeps all that has not expired.
    let header = header_of(state, known, height)?.ok_or(unknown("header", height))?;
    if item.time() != header.time {
        return Err(Refusal::Time {
            height,
            expected: header.time,
            found: item.time(),
        });
    }
    if expired(
        &state.params,
        (state.last_height, state.last_block_time),
        (height, header.time),
    ) {
        return Err(Refusal::Expired {
            height,
            time: header.time,
            last_height: state.last_height,
            last_time: state.last_block_time,
        });
    }
    let set = known
        .set_at(height)?
        .ok_or(unknown("validator set", height))?;
    match item {
        Evidence::DuplicateVote(e) => verify_duplicate_vote(e, rules, &state.chain_id, &set),
        Evidence::LightClientAttack(e) => {
            check_encoding(e, rules)?;
            let trusted = trusted_for(state, e, header, known)?;
            verify_light_client_attack(e, rules, &state.chain_id, &set, &trusted, rng)
        }
    }
}

/// A version reads an attack that another one wrote as other bytes, or not at all: validators are
/// written differently, and signatures have their version's limit. (Signatures that are verified
/// have their key's length; those of votes for nil may not be.)
fn check_encoding(e: &LightClientAttackEvidence, rules: &Rules) -> Result<(), Refusal> {
    let block = &*e.conflicting_block;
    let written = block.validators.iter().chain(&e.byzantine_validators);
    let mut written = written.chain([&block.proposer]).map(|v| v.form);
    let expected = rules.validator_form;
    if let Some(found) = written.find(|found| *found != expected) {
        return Err(Refusal::Form { expected, found });
    }
    let mut lengths = block
        .commit
        .signatures
        .iter()
        .map(|s| s.signature.as_slice().len());
    let expected = rules.max_signature_len;
    match lengths.position(|length| length > expected) {
        None => Ok(()),
        Some(index) => Err(Refusal::SignatureLength {
            index,
            expected,
            found: block.commit.signatures[index].signature.as_slice().len(),
        }),
    }
}

fn unknown(what: &'static str, height: Height) -> Refusal {
    Refusal::Unknown { what, height }
}

/// A header that was applied: the store may hold certified blocks above.
fn header_of(
    state: &ChainState,
    known: &dyn EvidenceContext,
    height: Height,
) -> Result<Option<Header>, LookupError> {
    if height > state.last_height {
        return Ok(None);
    }
    known.header_at(height)
}

/// Whether evidence is too old: in time *and* in blocks, measured at the last block. Each side is a
/// height and its time.
#[must_use]
pub fn expired(params: &ConsensusParams, last: (Height, Time), offence: (Height, Time)) -> bool {
    // Go's difference of times saturates at 64 bits of nanoseconds.
    let age = last
        .1
        .since(offence.1)
        .clamp(i64::MIN.into(), i64::MAX.into());
    let blocks = last.0.to_wire() - offence.0.to_wire();
    // Both must be over, as in CometBFT: a halted chain does not let offenders off by time alone.
    age > i128::from(params.evidence_max_age_duration)
        && blocks > params.evidence_max_age_num_blocks
}

/// Whether one validator of `set`, that of the votes' height, signed both votes.
///
/// # Errors
/// The first check that fails.
pub fn verify_duplicate_vote(
    e: &DuplicateVoteEvidence,
    rules: &Rules,
    chain_id: &[u8],
    set: &ValidatorSet,
) -> Result<(), Refusal> {
    let (a, b) = (&e.vote_a, &e.vote_b);
    let Some((_, validator)) = set.by_address(&a.address) else {
        return Err(Refusal::NotValidator {
            address: a.address,
            height: a.height,
        });
    };
    let (of_a, of_b) = ((a.height, a.round, a.kind), (b.height, b.round, b.kind));
    if of_a != of_b {
        return Err(Refusal::VotesDiffer { a: of_a, b: of_b });
    }
    if a.address != b.address {
        return Err(Refusal::AddressesDiffer {
            a: a.address,
            b: b.address,
        });
    }
    // That they are for different blocks follows from their order, which the stateless check has
    // seen.
    check_power("validator's", validator.power, e.validator_power)?;
    check_power("total", set.total_power(), e.total_voting_power)?;
    for (name, vote) in [('A', a), ('B', b)] {
        if rules.votes == VoteForm::Aggregated && vote.timestamp != Time::ZERO {
            return Err(Refusal::VoteTime(name, vote.timestamp));
        }
        let signed = vote.sign_bytes(chain_id, rules.votes);
        // One by one and not in a batch: there are two of them, and evidence is rare.
        let signature = vote.signature.as_slice();
        if !validator.key.verify_by(rules.ed25519, &signed, signature) {
            return Err(Refusal::VoteSignature(name));
        }
    }
    Ok(())
}

fn check_power(whose: &'static str, expected: i64, found: i64) -> Result<(), Refusal> {
    if expected == found {
        return Ok(());
    }
    Err(Refusal::Power {
        whose,
        expected,
        found,
    })
}

/// The header that an attack is compared with: ours of the conflicting height, or our last one when
/// we are below it.
#[derive(Clone, Debug)]
pub struct Trusted {
    /// The header.
    pub header: Header,
    /// Its commit, where it is known. Only an equivocation needs it.
    pub commit: Option<Commit>,
}

/// Finds it. `common` is the header of the common height.
fn trusted_for(
    state: &ChainState,
    e: &LightClientAttackEvidence,
    common: Header,
    known: &dyn EvidenceContext,
) -> Result<Trusted, Refusal> {
    let conflicting = e.conflicting_block.header.height;
    let header = if conflicting == e.common_height {
        common
    } else {
        // One above ours is compared with our last block: its time must not be after that one's.
        let height = conflicting.min(state.last_height);
        known.header_at(height)?.ok_or(unknown("header", height))?
    };
    let commit = known.commit_at(header.height)?;
    Ok(Trusted { header, commit })
}

/// Whether a light client was shown a header that is not ours, signed by validators of ours.
/// `common` is the set of the common height.
///
/// # Errors
/// The first check that fails.
pub fn verify_light_client_attack<R: CryptoRng + ?Sized>(
    e: &LightClientAttackEvidence,
    rules: &Rules,
    chain_id: &[u8],
    common: &ValidatorSet,
    trusted: &Trusted,
    rng: &mut R,
) -> Result<(), Refusal> {
    let (block, ours) = (&*e.conflicting_block, &trusted.header);
    let commit = &block.commit;
    // At one height the common set is the conflicting header's own, unless that was made up.
    if e.common_height != block.header.height {
        verify_commit_light_trusting(rules, chain_id, common, commit, Share::ONE_THIRD, rng)
            .map_err(Refusal::Trusting)?;
    } else if is_lunatic(&block.header, ours) {
        return Err(Refusal::NotDerived(e.common_height));
    }
    let set = ConflictingSet::of(e)?;
    let (id, height) = (&commit.block_id, block.header.height);
    // Every entry for the block, and not just until two thirds: each of them may be blamed below.
    light(rules, chain_id, &set, id, (height, commit), Light::All, rng)
        .map_err(Refusal::Conflicting)?;
    // The application is told this power, and may reckon the punishment by it.
    check_power("total", common.total_power(), e.total_voting_power)?;
    if height > ours.height && block.header.time > ours.time {
        return Err(Refusal::NotForward {
            height,
            found: block.header.time,
            latest: ours.time,
        });
    }
    let hash = ours.hash();
    if block.header.hash() == hash {
        return Err(Refusal::SameHeader(hash));
    }
    check_blame(e, rules, &to_blame(e, rules, common, trusted, &set)?)
}

/// Whether the conflicting header differs in what every valid successor of the same chain has: then
/// it was made up.
fn is_lunatic(conflicting: &Header, ours: &Header) -> bool {
    conflicting.validators_hash != ours.validators_hash
        || conflicting.next_validators_hash != ours.next_validators_hash
        || conflicting.consensus_hash != ours.consensus_hash
        || conflicting.app_hash != ours.app_hash
        || conflicting.last_results_hash != ours.last_results_hash
}

/// The conflicting block's set, in the order in which it came: an invented set need not be in
/// canonical order.
struct ConflictingSet {
    list: Vec<Validator>,
    power: i64,
}

impl ConflictingSet {
    fn of(e: &LightClientAttackEvidence) -> Result<Self, Refusal> {
        let members = e.conflicting_block.validators.iter();
        let list: Vec<Validator> = members
            .filter_map(|v| {
                v.key.clone().map(|key| Validator {
                    address: key.address(),
                    key,
                    power: v.power,
                })
            })
            .collect();
        // The stateless check has seen keys, addresses and the sum; without it powers could be
        // anything.
        let power = list
            .iter()
            .try_fold(0_i64, |sum, v| sum.checked_add(v.power));
        let power = power.filter(|p| (0..=super::validators::MAX_TOTAL_POWER).contains(p));
        let power = power.ok_or(Refusal::Power {
            whose: "conflicting set's",
            expected: super::validators::MAX_TOTAL_POWER,
            found: i64::MAX,
        })?;
        Ok(ConflictingSet { list, power })
    }
}

impl Seats for ConflictingSet {
    fn seats(&self) -> usize {
        self.list.len()
    }

    fn seat(&self, index: usize) -> Option<&Validator> {
        self.list.get(index)
    }

    fn power(&self) -> i64 {
        self.power
    }
}

/// The guilty validators by power descending, then by address: for a made-up header those of the
/// common set who signed it, for an equivocation those who signed both headers in one round, with
/// those who voted for nil where the rules count them. For two rounds (amnesia) nobody.
fn to_blame(
    e: &LightClientAttackEvidence,
    rules: &Rules,
    common: &ValidatorSet,
    trusted: &Trusted,
    conflicting: &ConflictingSet,
) -> Result<Vec<Validator>, Refusal> {
    let theirs = &e.conflicting_block.commit;
    let for_block = |flag| flag == BlockIdFlag::Commit;
    let nil_counts = rules.nil_votes_count_in_attacks;
    let voted = |flag| for_block(flag) || (nil_counts && flag == BlockIdFlag::Nil);
    let mut blamed = Vec::new();
    if is_lunatic(&e.conflicting_block.header, &trusted.header) {
        for sig in theirs.signatures.iter().filter(|s| for_block(s.flag)) {
            // A signer outside of the common set is nobody whom this chain could punish.
            blamed.extend(common.by_address(&sig.address).map(|(_, v)| v.clone()));
        }
    } else {
        let height = trusted.header.height;
        let ours = trusted.commit.as_ref().ok_or(unknown("commit", height))?;
        if ours.round == theirs.round {
            // The sets are the same, so their indices are. Addresses are not, where the light check
            // does not look at them, and CometBFT goes by these.
            for (a, b) in theirs.signatures.iter().zip(&ours.signatures) {
                if voted(a.flag) && voted(b.flag) {
                    let mut members = conflicting.list.iter();
                    let named = members.find(|v| v.address == a.address);
                    let height = e.conflicting_block.header.height;
                    let named = named.ok_or(Refusal::NotValidator {
                        address: a.address,
                        height,
                    })?;
                    blamed.push(named.clone());
                }
            }
        }
    }
    blamed.sort_by_key(|v: &Validator| (std::cmp::Reverse(v.power), v.address));
    Ok(blamed)
}

/// Whether the item blames exactly those.
fn check_blame(
    e: &LightClientAttackEvidence,
    rules: &Rules,
    expected: &[Validator],
) -> Result<(), Refusal> {
    if expected.is_empty() {
        return Err(Refusal::NobodyToBlame);
    }
    let listed = &e.byzantine_validators;
    if listed.len() != expected.len() {
        return Err(Refusal::BlameCount {
            expected: expected.len(),
            found: listed.len(),
        });
    }
    for (index, (found, expected)) in listed.iter().zip(expected).enumerate() {
        // The application is told the key's address: a key of somebody else would punish the
        // innocent.
        let of_key = found.key.as_ref().map(|key| key.address());
        let same = found.address == expected.address.as_ref()
            && (of_key == Some(expected.address) || !rules.blamed_keys_are_checked)
            && found.power == expected.power;
        if !same {
            let of_key = of_key.map_or_else(|| "none".to_owned(), |a| a.to_string());
            return Err(Refusal::Blame {
                index,
                expected: format!("{} of power {}", expected.address, expected.power),
                found: format!(
                    "{} (its key: {of_key}) of power {}",
                    hex::encode(&found.address),
                    found.power
                ),
            });
        }
    }
    Ok(())
}
