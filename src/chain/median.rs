//! Block time: the median of a commit's timestamps, weighted by voting power (`comet-protocol.md` 5.10).

use super::commit::{BlockIdFlag, Commit, CommitSig};
use super::rules::Rules;
use super::time::Time;
use super::validators::ValidatorSet;
use crate::ids::{Address, Height};

/// A commit's entry by a stranger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "commit for height {height}: {address} at index {index} is not in that height's validator set"
)]
pub struct UnknownSigner {
    /// The commit's height.
    pub height: Height,
    /// The entry's index.
    pub index: usize,
    /// The entry's address.
    pub address: Address,
}

/// The time that the block above `commit` must have. `set` is the one that signed the commit. Year 1 when no entry counts.
///
/// # Errors
/// When an entry that counts names an address that is not in the set.
pub fn median_time(
    commit: &Commit,
    set: &ValidatorSet,
    rules: &Rules,
) -> Result<Time, UnknownSigner> {
    let counts = |sig: &CommitSig| match sig.flag {
        BlockIdFlag::Absent => false,
        BlockIdFlag::Commit => true,
        BlockIdFlag::Nil => rules.nil_votes_count_in_time,
    };
    let mut times = Vec::with_capacity(commit.signatures.len());
    let mut total = 0_i128;
    for (index, sig) in commit.signatures.iter().enumerate() {
        if !counts(sig) {
            continue;
        }
        let power = power_of(set, index, &sig.address).ok_or(UnknownSigner {
            height: commit.height,
            index,
            address: sig.address,
        })?;
        total += i128::from(power);
        times.push((sig.timestamp, power));
    }
    times.sort_unstable_by_key(|(time, _)| *time);
    let mut left = total / 2;
    for (time, power) in times {
        let power = i128::from(power);
        if left <= power {
            return Ok(time);
        }
        left -= power;
    }
    Ok(Time::ZERO)
}

/// An address's power, looked for at its own index first: a commit's entries stand in set order.
fn power_of(set: &ValidatorSet, index: usize, address: &Address) -> Option<i64> {
    match set.get(index) {
        Some(v) if v.address == *address => Some(v.power),
        _ => set.by_address(address).map(|(_, v)| v.power),
    }
}
