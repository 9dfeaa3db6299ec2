//! Block time: the median of a commit's timestamps, weighted by voting power (`protocol.md` 5.10).

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

/// The time that the block above `commit` must have. `set` is the one that signed the commit. Year
/// 1 when no entry counts.
///
/// # Errors
/// When an entry that counts names an address that is not in the set, unless the rules skip such
/// entries.
pub fn median_time(
    commit: &Commit,
    set: &ValidatorSet,
    rules: &Rules,
) -> Result<Time, UnknownSigner> {
    let counts = |sig: &CommitSig| match sig.flag {
        BlockIdFlag::Absent => false,
        flag if flag.is_for_block() => true,
        // Since v0.40 they do not (`protocol.md` 5.10).
        _ => rules.nil_votes_count_in_time,
    };
    let mut times = Vec::with_capacity(commit.signatures.len());
    // Powers of a commit's entries: without the address check one member may
    // stand in it many times.
    let mut total = 0_i128;
    for (index, sig) in commit.signatures.iter().enumerate() {
        if !counts(sig) {
            continue;
        }
        let power = match power_of(set, index, &sig.address) {
            Some(power) => power,
            None if rules.strangers_are_skipped_in_time => continue,
            None => {
                return Err(UnknownSigner {
                    height: commit.height,
                    index,
                    address: sig.address,
                });
            }
        };
        total += i128::from(power);
        times.push((sig.timestamp, power));
    }
    // Rounded down, and reached by `≤`: both decide which of two times it is (`protocol.md` 5.10).
    Ok(weighted_median(&mut times, total / 2))
}

/// The time at which the power of the times up to it first reaches `left`. Halves the list instead
/// of sorting it: this runs for every block.
fn weighted_median(mut times: &mut [(Time, i64)], mut left: i128) -> Time {
    while times.len() > 1 {
        let middle = times.len() / 2;
        times.select_nth_unstable_by_key(middle, |(time, _)| *time);
        let (below, rest) = times.split_at_mut(middle);
        let power: i128 = below.iter().map(|(_, power)| i128::from(*power)).sum();
        times = if left <= power {
            below
        } else {
            left -= power;
            rest
        };
    }
    times.first().map_or(Time::ZERO, |(time, _)| *time)
}

/// An address's power, looked for at its own index first: a commit's entries stand in set order.
fn power_of(set: &ValidatorSet, index: usize, address: &Address) -> Option<i64> {
    match set.get(index) {
        Some(v) if v.address == *address => Some(v.power),
        // By address all the same: rules that do not check it weigh an entry by whom it names.
        _ => set.by_address(address).map(|(_, v)| v.power),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::commit::Signature;
    use crate::chain::key::PublicKey;
    use crate::chain::testing::{group, hex, int, list, name, ok, time};
    use crate::chain::validators::Validator;

    #[test]
    fn block_times_are_gos() {
        for case in group("median_time") {
            let address = |v: &serde_json::Value| Address::from_slice(&hex(&v["address"]));
            let members: Vec<Validator> = list(&case["validators"])
                .iter()
                .map(|v| Validator {
                    address: address(v).unwrap(),
                    key: PublicKey::Ed25519([0; 32]),
                    power: int(&v["power"]),
                })
                .collect();
            let priorities = vec![0; members.len()];
            let set = ValidatorSet::from_stored(members, priorities).unwrap();
            let entry = |sig: &serde_json::Value| CommitSig {
                flag: match int(&sig["flag"]) {
                    1 => BlockIdFlag::Absent,
                    2 => BlockIdFlag::Commit,
                    _ => BlockIdFlag::Nil,
                },
                address: address(sig).unwrap_or(Address([0; 20])),
                timestamp: time(&sig["time"]),
                signature: Signature::EMPTY,
            };
            let commit = Commit {
                signatures: list(&case["signatures"]).iter().map(entry).collect(),
                ..Commit::default()
            };
            for (rules, expected) in [
                (Rules::COMET_038, &case["v038"]),
                (Rules::COMET_040, &case["v040"]),
            ] {
                let found = median_time(&commit, &set, &rules);
                assert_eq!(found.is_ok(), ok(expected), "{} {rules}", name(case));
                if let Ok(found) = found {
                    assert_eq!(found, time(&expected["time"]), "{} {rules}", name(case));
                }
            }
        }
    }
}
