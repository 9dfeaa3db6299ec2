//! Whether a commit decides a block under a validator set (`protocol.md` 5.7, 5.8).
//!
//! The full check has two phases, so that signatures of many commits can be checked together:
//! [`check_commit`] is everything but the signatures, [`push_signatures`] adds these to a batch,
//! and [`first_bad`] reads the batch's verdict.

use std::ops::Range;

use rand::CryptoRng;

use super::aggregate::{self, Misformed};
use super::basic::Unequal;
use super::commit::{BlockIdFlag, Commit, ExtendedCommit, Signature, VoteForm};
use super::rules::{ExtendedCommits, Rules};
use super::signatures::SignatureBatch;
use super::validators::{Validator, ValidatorSet};
use crate::ids::{Address, BlockId, Height};

/// Why a commit does not decide the block.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// One entry for each validator is needed.
    #[error(
        "commit for {height}: {found} entries, expected {expected}, the size of the validator set"
    )]
    Size {
        /// The height judged.
        height: Height,
        /// The set's size.
        expected: usize,
        /// The commit's.
        found: usize,
    },
    /// It is for another height.
    #[error("commit for height {found}, expected {expected}")]
    Height {
        /// The height judged.
        expected: Height,
        /// The commit's.
        found: Height,
    },
    /// It is for another block.
    #[error("commit for {height}: block id {ids}")]
    BlockId {
        /// The height judged.
        height: Height,
        /// The block judged, and the commit's.
        ids: Box<Unequal>,
    },
    /// It names no block, or not completely: precommits for nil would pass as precommits for the
    /// block.
    #[error("commit for {height}: block id {found}, expected a complete one")]
    Nil {
        /// The height judged.
        height: Height,
        /// The commit's.
        found: BlockId,
    },
    /// An entry is not by the validator of its place.
    #[error("commit for {height}, entry {index}: address {found}, expected {expected}")]
    Address {
        /// The height judged.
        height: Height,
        /// The entry.
        index: usize,
        /// The validator's at that index.
        expected: Address,
        /// The entry's.
        found: Address,
    },
    /// An entry is not of the form that the rules have.
    #[error("commit for {height}, entry {index}: {what}")]
    Form {
        /// The height judged.
        height: Height,
        /// The entry.
        index: usize,
        /// The fault.
        what: &'static str,
    },
    /// The signature that stands for several votes is wrong.
    #[error("commit for {height}, entry {index}: wrong aggregated signature")]
    Aggregate {
        /// The height judged.
        height: Height,
        /// The entry that holds it.
        index: usize,
    },
    /// One that an aggregated signature names is not in the set, so that its key is not known.
    #[error(
        "commit for {height}, entry {index}: {address} has part in an aggregated signature and is not in the set"
    )]
    Stranger {
        /// The commit's height.
        height: Height,
        /// The entry.
        index: usize,
        /// The entry's.
        address: Address,
    },
    /// A signature is wrong.
    #[error("commit for {height}, entry {index}: wrong signature of {address}")]
    Signature {
        /// The height judged.
        height: Height,
        /// The entry.
        index: usize,
        /// The validator whose it should be.
        address: Address,
    },
    /// Too little power has signed for the block.
    #[error(
        "commit for {height}: voting power {found} for the block, expected more than {needed} of {total}"
    )]
    Power {
        /// The height judged.
        height: Height,
        /// The set's total.
        total: i64,
        /// More than this is needed.
        needed: i64,
        /// The power that signed for the block.
        found: i64,
    },
    /// One validator has two entries.
    #[error("commit for {height}: {address} has entries {first} and {second}, expected one")]
    Twice {
        /// The height judged.
        height: Height,
        /// The signer that stands in it twice.
        address: Address,
        /// The first entry.
        first: usize,
        /// The second.
        second: usize,
    },
    /// A precommit for the block has no extension signature.
    #[error(
        "extended commit for {height}, entry {index}: expected an extension signature of {address}, found none"
    )]
    ExtensionMissing {
        /// The height judged.
        height: Height,
        /// The entry.
        index: usize,
        /// The validator whose it should be.
        address: Address,
    },
    /// An entry that is not for the block has an extension or a signature over one.
    #[error(
        "extended commit for {height}, entry {index}: expected no extension on a vote that is not for the block"
    )]
    ExtensionUnexpected {
        /// The height judged.
        height: Height,
        /// The entry.
        index: usize,
    },
    /// A signature over an extension is wrong.
    #[error("extended commit for {height}, entry {index}: wrong extension signature of {address}")]
    ExtensionSignature {
        /// The height judged.
        height: Height,
        /// The entry.
        index: usize,
        /// The validator whose it should be.
        address: Address,
    },
}

/// Voting power that has signed for a block, and the power needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tally {
    /// Power of the validators that signed for the block.
    pub power: i64,
    /// The power has to be greater than this.
    pub needed: i64,
    /// Power of the whole set.
    pub total: i64,
}

/// A share of a set's power, of which *more* is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// At most 7: the total of a set times this fits 64 bits.
    numerator: i64,
    denominator: i64,
}

impl Share {
    /// One third: at least one of those who signed is honest.
    pub const ONE_THIRD: Share = Share {
        numerator: 1,
        denominator: 3,
    };
    /// Two thirds: what decides a block.
    pub const TWO_THIRDS: Share = Share {
        numerator: 2,
        denominator: 3,
    };

    /// The power that must be exceeded, in integer arithmetic as CometBFT has it.
    fn of(self, total: i64) -> i64 {
        total * self.numerator / self.denominator
    }
}

/// Validators in the order of a commit's entries.
pub(super) trait Seats {
    /// Number of validators.
    fn seats(&self) -> usize;
    /// The one at an index.
    fn seat(&self, index: usize) -> Option<&Validator>;
    /// Their power; at most [`super::validators::MAX_TOTAL_POWER`].
    fn power(&self) -> i64;
}

impl Seats for ValidatorSet {
    fn seats(&self) -> usize {
        self.len()
    }

    fn seat(&self, index: usize) -> Option<&Validator> {
        self.get(index)
    }

    fn power(&self) -> i64 {
        self.total_power()
    }
}

/// The error for an entry of a commit for this height.
fn misformed(height: Height) -> impl Fn(Misformed) -> CommitError {
    move |Misformed { index, what }| CommitError::Form {
        height,
        index,
        what,
    }
}

/// Size, height, block id, and the form of the votes.
fn check_frame<S: Seats + ?Sized>(
    rules: &Rules,
    set: &S,
    block_id: &BlockId,
    height: Height,
    commit: &Commit,
) -> Result<(), CommitError> {
    // The size comes first: from here on an index into the commit is one into the set.
    if commit.signatures.len() != set.seats() {
        return Err(CommitError::Size {
            height,
            expected: set.seats(),
            found: commit.signatures.len(),
        });
    }
    if commit.height != height {
        return Err(CommitError::Height {
            expected: height,
            found: commit.height,
        });
    }
    if commit.block_id != *block_id {
        return Err(CommitError::BlockId {
            height,
            ids: Unequal::new(*block_id, commit.block_id),
        });
    }
    aggregate::check_form(rules.votes, commit).map_err(misformed(height))
}

/// The tally, when it is enough.
fn enough(height: Height, power: i64, total: i64, share: Share) -> Result<Tally, CommitError> {
    let needed = share.of(total);
    // Exactly the share is not enough, and the share is rounded down.
    if power <= needed {
        return Err(CommitError::Power {
            height,
            total,
            needed,
            found: power,
        });
    }
    Ok(Tally {
        power,
        needed,
        total,
    })
}

/// The entry's address must be the one of the validator at its index.
fn check_address(
    height: Height,
    index: usize,
    seat: &Validator,
    found: Address,
) -> Result<(), CommitError> {
    if seat.address == found {
        return Ok(());
    }
    Err(CommitError::Address {
        height,
        index,
        expected: seat.address,
        found,
    })
}

/// First phase of the full check: everything but the signatures. Size, height, block id, every
/// present entry's address where the rules look at it, and more than two thirds of the power for
/// the block. The rules are those of the block that holds the commit.
///
/// # Errors
/// The first check that fails.
pub fn check_commit(
    rules: &Rules,
    set: &ValidatorSet,
    block_id: &BlockId,
    height: Height,
    commit: &Commit,
) -> Result<Tally, CommitError> {
    check_frame(rules, set, block_id, height, commit)?;
    // A commit for nil decides nothing, however many have signed it.
    if !commit.block_id.is_complete() {
        return Err(CommitError::Nil {
            height,
            found: commit.block_id,
        });
    }
    if commit.is_aggregated() {
        let power = aggregate::check(set, commit).map_err(misformed(height))?;
        return enough(height, power, set.total_power(), Share::TWO_THIRDS);
    }
    let mut power = 0;
    for (index, (sig, seat)) in commit.signatures.iter().zip(set.iter()).enumerate() {
        if sig.flag == BlockIdFlag::Absent {
            continue;
        }
        if rules.addresses_are_checked {
            check_address(height, index, seat, sig.address)?;
        }
        // Votes for nil are verified with the others, but do not count towards the block.
        if sig.flag == BlockIdFlag::Commit {
            power += seat.power;
        }
    }
    enough(height, power, set.total_power(), Share::TWO_THIRDS)
}

/// Second phase of the full check: adds every signature that is present, those for nil and those
/// beyond two thirds too, to the batch. Returns their places in it. Entries without a validator at
/// their index are left out: [`check_commit`] comes first.
pub fn push_signatures(
    rules: &Rules,
    chain_id: &[u8],
    set: &ValidatorSet,
    commit: &Commit,
    batch: &mut SignatureBatch,
) -> Range<usize> {
    batch.set_ed25519_rule(rules.ed25519);
    let (start, signing) = (batch.len(), commit.signing(chain_id, rules.votes));
    if commit.is_aggregated() {
        for aggregate in aggregate::all(commit) {
            let key = |index| set.get(index).map(|seat| &seat.key);
            aggregate.push(commit, key, &signing, batch);
        }
        return start..batch.len();
    }
    for (index, (sig, seat)) in commit.signatures.iter().zip(set.iter()).enumerate() {
        if sig.flag != BlockIdFlag::Absent {
            batch.push(seat.key.clone(), sig.signature.clone(), index, |out| {
                signing.write(sig, out);
            });
        }
    }
    start..batch.len()
}

/// Applies a batch's verdict to the commit whose signatures are at `range`: returns the lowest of
/// the `bad` items (ascending) that is one of them.
///
/// # Errors
/// The first wrong signature.
pub fn first_bad(
    commit: &Commit,
    batch: &SignatureBatch,
    range: &Range<usize>,
    bad: &[usize],
) -> Result<(), CommitError> {
    // Commits share a batch, so the bad items of others lie below and above this one's.
    let next = bad.partition_point(|item| *item < range.start);
    match bad.get(next) {
        Some(item) if range.contains(item) => {
            let (height, index) = (commit.height, batch.index(*item));
            let sig = &commit.signatures[index];
            if sig.flag.is_aggregated() {
                // Of an aggregate nobody can say which of its makers signed wrongly.
                return Err(CommitError::Aggregate { height, index });
            }
            Err(CommitError::Signature {
                height,
                index,
                address: sig.address,
            })
        }
        _ => Ok(()),
    }
}

/// The full check (`protocol.md` 5.7): whether `commit` decides the block under its height's set,
/// with every present signature valid. The rules are those of the block that holds the commit.
///
/// # Errors
/// The first check that fails.
pub fn verify_commit<R: CryptoRng + ?Sized>(
    rules: &Rules,
    chain_id: &[u8],
    set: &ValidatorSet,
    block_id: &BlockId,
    height: Height,
    commit: &Commit,
    rng: &mut R,
) -> Result<Tally, CommitError> {
    let tally = check_commit(rules, set, block_id, height, commit)?;
    let mut batch = SignatureBatch::new();
    let range = push_signatures(rules, chain_id, set, commit, &mut batch);
    first_bad(
        commit,
        &batch,
        &range,
        &batch.verify_range(range.clone(), rng),
    )?;
    Ok(tally)
}

/// How far [`verify_commit_light`] reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Light {
    /// Until more than two thirds have signed for the block; what follows is not looked at.
    Enough,
    /// All entries for the block.
    All,
}

/// The light check (`protocol.md` 5.7): only entries for the block are looked at.
///
/// # Errors
/// The first check that fails.
pub fn verify_commit_light<R: CryptoRng + ?Sized>(
    rules: &Rules,
    chain_id: &[u8],
    set: &ValidatorSet,
    block_id: &BlockId,
    commit: (Height, &Commit),
    reading: Light,
    rng: &mut R,
) -> Result<Tally, CommitError> {
    light(rules, chain_id, set, block_id, commit, reading, rng)
}

/// [`verify_commit_light`] under any list of validators.
pub(super) fn light<S: Seats + ?Sized, R: CryptoRng + ?Sized>(
    rules: &Rules,
    chain_id: &[u8],
    set: &S,
    block_id: &BlockId,
    (height, commit): (Height, &Commit),
    reading: Light,
    rng: &mut R,
) -> Result<Tally, CommitError> {
    check_frame(rules, set, block_id, height, commit)?;
    let signing = commit.signing(chain_id, rules.votes);
    let mut batch = SignatureBatch::new();
    batch.set_ed25519_rule(rules.ed25519);
    // The total of an invented set is bounded before this, so doubling it cannot overflow.
    let (mut power, needed) = (0, Share::TWO_THIRDS.of(set.power()));
    let aggregate = aggregate::of_block(commit).map_err(misformed(height))?;
    if let Some(aggregate) = aggregate {
        let key = |index| set.seat(index).map(|seat| &seat.key);
        aggregate.push(commit, key, &signing, &mut batch);
        let seats = aggregate.signers().filter_map(|index| set.seat(index));
        power = seats.map(|seat| seat.power).sum();
    }
    for (index, sig) in commit.signatures.iter().enumerate() {
        let Some(seat) = set.seat(index) else { break };
        if commit.is_aggregated() || !counts(rules, sig.flag, reading) {
            continue;
        }
        if rules.light_addresses_are_checked {
            check_address(height, index, seat, sig.address)?;
        }
        batch.push(seat.key.clone(), sig.signature.clone(), index, |out| {
            signing.write(sig, out);
        });
        power += seat.power;
        // CometBFT stops here too: what follows may be wrong in a commit that it accepts.
        if reading == Light::Enough && power > needed {
            break;
        }
    }
    // Counted before the signatures are checked, as in CometBFT: a commit with too little power
    // costs none.
    let tally = enough(height, power, set.power(), Share::TWO_THIRDS)?;
    let all = 0..batch.len();
    first_bad(commit, &batch, &all, &batch.verify_range(all.clone(), rng))?;
    Ok(tally)
}

/// Whether a light check counts an entry: one for the block, and where all are read and the rules
/// say so one for nil.
fn counts(rules: &Rules, flag: BlockIdFlag, reading: Light) -> bool {
    match flag {
        BlockIdFlag::Commit => true,
        BlockIdFlag::Nil => reading == Light::All && rules.nil_votes_count_in_attacks,
        _ => false,
    }
}

/// First phase of the trusting check: entries that count by members of `set`, matched by address
/// and added to the batch. Entries for the block count, and by [`Light::All`] those for nil where
/// the rules say so. The others are skipped; their keys are not known. Returns the tally of
/// what was added, and its places in the batch.
///
/// # Errors
/// [`CommitError::Twice`] when a member has two entries, [`CommitError::Power`] when not more than
/// `share` of the set's power is among them.
pub fn push_trusting(
    (rules, reading): (&Rules, Light),
    chain_id: &[u8],
    set: &ValidatorSet,
    commit: &Commit,
    share: Share,
    batch: &mut SignatureBatch,
) -> Result<(Tally, Range<usize>), CommitError> {
    batch.set_ed25519_rule(rules.ed25519);
    let (start, signing) = (batch.len(), commit.signing(chain_id, rules.votes));
    let aggregate = match rules.votes {
        VoteForm::Aggregated => aggregate::of_block(commit).map_err(misformed(commit.height))?,
        VoteForm::Timed => None,
    };
    // By member and not by address: one lookup serves both.
    let mut seen = vec![None; set.len()];
    let mut power = 0;
    for (index, sig) in commit.signatures.iter().enumerate() {
        let summed = aggregate.is_some() && sig.flag.is_aggregated() && sig.flag.is_for_block();
        if !summed && (aggregate.is_some() || !counts(rules, sig.flag, reading)) {
            continue;
        }
        // Indices are those of another set, so members are found by address. A signer in none of
        // our sets cannot be verified, and counts for nothing.
        let Some((member, seat)) = set.by_address(&sig.address) else {
            if summed {
                return Err(CommitError::Stranger {
                    height: commit.height,
                    index,
                    address: sig.address,
                });
            }
            continue;
        };
        // One member must not be counted twice: it could then decide alone.
        if let Some(first) = seen[member].replace(index) {
            return Err(CommitError::Twice {
                height: commit.height,
                address: sig.address,
                first,
                second: index,
            });
        }
        power += seat.power;
        if !summed {
            batch.push(seat.key.clone(), sig.signature.clone(), index, |out| {
                signing.write(sig, out);
            });
        }
    }
    if let Some(aggregate) = aggregate {
        let member = |index: usize| set.by_address(&commit.signatures[index].address);
        let key = |index| member(index).map(|(_, seat)| &seat.key);
        aggregate.push(commit, key, &signing, batch);
    }
    let tally = enough(commit.height, power, set.total_power(), share)?;
    Ok((tally, start..batch.len()))
}

/// The trusting check (`protocol.md` 5.7, "AllSignatures"): whether more than `share` of a set that
/// need not be the height's own has signed for the block. Says nothing about height and block id
/// but what the commit states.
///
/// # Errors
/// The first check that fails.
pub fn verify_commit_light_trusting<R: CryptoRng + ?Sized>(
    rules: &Rules,
    chain_id: &[u8],
    set: &ValidatorSet,
    commit: &Commit,
    share: Share,
    rng: &mut R,
) -> Result<Tally, CommitError> {
    let mut batch = SignatureBatch::new();
    let rules = (rules, Light::All);
    let (tally, range) = push_trusting(rules, chain_id, set, commit, share, &mut batch)?;
    first_bad(
        commit,
        &batch,
        &range,
        &batch.verify_range(range.clone(), rng),
    )?;
    Ok(tally)
}

/// Whether extensions are where they must be and nowhere else, at a height where they are enabled
/// (`protocol.md` 5.8).
///
/// # Errors
/// The first entry that breaks the rule.
pub fn check_extensions(commit: &ExtendedCommit) -> Result<(), CommitError> {
    let height = commit.height;
    for (index, entry) in commit.signatures.iter().enumerate() {
        let for_block = entry.sig.flag == BlockIdFlag::Commit;
        if for_block && entry.extension_signature.is_empty() {
            return Err(CommitError::ExtensionMissing {
                height,
                index,
                address: entry.sig.address,
            });
        }
        // A nil vote has no extension: bytes there are covered by no signature.
        let bare = entry.extension.is_empty() && entry.extension_signature.is_empty();
        if !for_block && !bare {
            return Err(CommitError::ExtensionUnexpected { height, index });
        }
    }
    Ok(())
}

/// The check of an extended commit at a height where extensions are enabled (`protocol.md` 5.8):
/// the extensions are where they must be, the commit passes the full check, every extension
/// signature is valid. By rules that look at the shape alone, the first of these. The rules are
/// those of the block that it came with.
///
/// # Errors
/// The first check that fails.
pub fn verify_extended_commit<R: CryptoRng + ?Sized>(
    rules: &Rules,
    chain_id: &[u8],
    set: &ValidatorSet,
    block_id: &BlockId,
    height: Height,
    commit: &ExtendedCommit,
    rng: &mut R,
) -> Result<(), CommitError> {
    check_extensions(commit)?;
    if rules.extended_commits == ExtendedCommits::Shape {
        return Ok(());
    }
    let plain = commit.to_commit();
    check_commit(rules, set, block_id, height, &plain)?;
    let mut batch = SignatureBatch::new();
    let range = push_signatures(rules, chain_id, set, &plain, &mut batch);
    for (index, (entry, seat)) in commit.signatures.iter().zip(set.iter()).enumerate() {
        if entry.sig.flag != BlockIdFlag::Commit {
            continue;
        }
        // A signature of an impossible length is a wrong one: it never gets into the batch.
        let wrong = CommitError::ExtensionSignature {
            height,
            index,
            address: seat.address,
        };
        let signature = Signature::new(&entry.extension_signature).ok_or(wrong)?;
        batch.push(seat.key.clone(), signature, index, |out| {
            out.extend(commit.extension_sign_bytes(chain_id, index));
        });
    }
    let bad = batch.verify_range(0..batch.len(), rng);
    // Signatures over the votes come first in the batch, as in CometBFT: of two errors the same one
    // is named.
    first_bad(&plain, &batch, &range, &bad)?;
    match bad.first() {
        None => Ok(()),
        Some(item) => {
            let index = batch.index(*item);
            Err(CommitError::ExtensionSignature {
                height,
                index,
                address: plain.signatures[index].address,
            })
        }
    }
}
