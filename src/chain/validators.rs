//! Validator sets, their updates and proposer priority (`protocol.md` 5.6).

use std::cmp::Reverse;
use std::sync::Arc;

use super::encode;
use super::key::PublicKey;
use super::merkle::{self, Tree};
use crate::ids::{Address, Hash};

/// The largest total power of a set: (2^63−1)/8.
pub const MAX_TOTAL_POWER: i64 = i64::MAX / 8;

/// Priorities are kept within this many times the total power of each other.
const PRIORITY_WINDOW: i64 = 2;

/// A member of a set.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Validator {
    /// Derived from the key.
    pub address: Address,
    /// The key.
    pub key: PublicKey,
    /// Voting power, 1 or more.
    pub power: i64,
}

impl Validator {
    /// A member with this key, its address derived.
    #[must_use]
    pub fn new(key: PublicKey, power: i64) -> Self {
        Validator {
            address: key.address(),
            key,
            power,
        }
    }
}

/// Why a list of validators, or of changes, is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SetError {
    /// One address twice.
    #[error("validator {0} appears twice")]
    Duplicate(Address),
    /// Below 0, or 0 where a member is meant.
    #[error("validator {address}: power {power}, expected 1 or more")]
    PowerTooSmall {
        /// The validator's address.
        address: Address,
        /// The given value.
        power: i64,
    },
    /// Above what a whole set may have.
    #[error("validator {address}: power {power} is above the limit of {MAX_TOTAL_POWER}")]
    PowerTooLarge {
        /// The validator's address.
        address: Address,
        /// The given value.
        power: i64,
    },
    /// Nobody would be left.
    #[error("the changes leave no validator")]
    Empty,
    /// A removal of a validator that is not in the set.
    #[error("validator {0} is to be removed but is not in the set")]
    NotThere(Address),
    /// Above the limit after the changes.
    #[error("total power {0} is above the limit of {MAX_TOTAL_POWER}")]
    TotalTooLarge(i128),
    /// Members and priorities that do not pair up.
    #[error("{members} validators with {priorities} priorities")]
    Unpaired {
        /// Number of members.
        members: usize,
        /// Number of priorities.
        priorities: usize,
    },
}

/// A validator set in canonical order, with proposer priorities. Members are shared: a copy with
/// other priorities costs 8 bytes a validator.
#[derive(Clone, Debug)]
pub struct ValidatorSet {
    members: Arc<Members>,
    priorities: Vec<i64>,
    proposer: Option<usize>,
}

/// The part of a set that stays the same while no validator update comes.
#[derive(Debug)]
struct Members {
    list: Vec<Validator>,
    /// Indices into `list`, ordered by address.
    by_address: Vec<u32>,
    total_power: i64,
    hash: Hash,
}

impl Members {
    fn new(list: Vec<Validator>) -> Result<Self, SetError> {
        // In 128 bits, since the powers of a stored list may add up to anything.
        let total: i128 = list.iter().map(|v| i128::from(v.power)).sum();
        let total_power = i64::try_from(total)
            .ok()
            .filter(|t| *t <= MAX_TOTAL_POWER)
            .ok_or(SetError::TotalTooLarge(total))?;
        let mut by_address: Vec<u32> = (0..).take(list.len()).collect();
        // Stable, so that of equal addresses the first is found.
        by_address.sort_by_key(|&i| list[i as usize].address);
        let hash = members_hash(&list);
        Ok(Members {
            list,
            by_address,
            total_power,
            hash,
        })
    }

    fn find(&self, address: &Address) -> Option<usize> {
        let address_at = |i: u32| self.list[i as usize].address;
        let at = self
            .by_address
            // The index holds positions instead of addresses: four bytes a
            // member instead of twenty.
            .partition_point(|&i| address_at(i) < *address);
        let index = *self.by_address.get(at)?;
        (address_at(index) == *address).then_some(index as usize)
    }
}

/// Appends the message `SimpleValidator`, the leaf of a set's hash.
pub fn encode_simple(key: &PublicKey, power: i64, out: &mut Vec<u8>) {
    encode::message(1, out, |out| key.encode(out));
    encode::int(2, power, out);
}

/// Root over the members' keys and powers, in the order given (`protocol.md` 5.3).
fn members_hash(list: &[Validator]) -> Hash {
    let mut tree = Tree::new();
    let mut leaf = Vec::with_capacity(64);
    for v in list {
        leaf.clear();
        // The prefix that tells a leaf from an inner node.
        leaf.push(0);
        encode_simple(&v.key, v.power, &mut leaf);
        tree.push(merkle::prefixed_leaf_hash(&leaf));
    }
    tree.root()
}

impl ValidatorSet {
    /// A set built as CometBFT builds one: canonical order, fresh priorities, incremented once. No
    /// validators make an empty set.
    ///
    /// # Errors
    /// When an address comes twice, a power is not 1 or more, or a power or the total is above the
    /// limit.
    pub fn new(validators: Vec<Validator>) -> Result<Self, SetError> {
        let none = ValidatorSet {
            members: Arc::new(Members::new(Vec::new())?),
            priorities: Vec::new(),
            proposer: None,
        };
        if let Some(v) = validators.iter().find(|v| v.power < 1) {
            return Err(SetError::PowerTooSmall {
                address: v.address,
                power: v.power,
            });
        }
        // A first set is an update of the empty one: CometBFT checks and orders both alike.
        let set = none.with_changes(validators)?;
        Ok(if set.is_empty() {
            set
        } else {
            set.increment(1)
        })
    }

    /// A set as it was stored: members in the order given, which is kept, with their priorities.
    /// The hash is that of this order, canonical or not. The proposer is the member of the highest
    /// priority, as in CometBFT where none was stored; see `with_proposer`.
    ///
    /// # Errors
    /// When there are not as many priorities as members, a power is negative, or the total is above
    /// the limit.
    pub fn from_stored(validators: Vec<Validator>, priorities: Vec<i64>) -> Result<Self, SetError> {
        if validators.len() != priorities.len() {
            return Err(SetError::Unpaired {
                members: validators.len(),
                priorities: priorities.len(),
            });
        }
        if let Some(v) = validators.iter().find(|v| v.power < 0) {
            return Err(SetError::PowerTooSmall {
                address: v.address,
                power: v.power,
            });
        }
        Ok(ValidatorSet {
            members: Arc::new(Members::new(validators)?),
            priorities,
            proposer: None,
        })
    }

    /// The same set with the member at `index` as its proposer; unchanged when there is no such
    /// member.
    #[must_use]
    pub fn with_proposer(mut self, index: usize) -> Self {
        if index < self.len() {
            self.proposer = Some(index);
        }
        self
    }

    /// Number of members.
    #[must_use]
    pub fn len(&self) -> usize {
        self.members.list.len()
    }

    /// Whether there is no member.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.list.is_empty()
    }

    /// The member at an index.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&Validator> {
        self.members.list.get(index)
    }

    /// The members in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Validator> {
        self.members.list.iter()
    }

    /// A member and its index.
    #[must_use]
    pub fn by_address(&self, address: &Address) -> Option<(usize, &Validator)> {
        let index = self.members.find(address)?;
        Some((index, &self.members.list[index]))
    }

    /// The sum of all powers, at most `MAX_TOTAL_POWER`.
    #[must_use]
    pub fn total_power(&self) -> i64 {
        self.members.total_power
    }

    /// Root over keys and powers, as headers name it (`protocol.md` 5.3). Computed when the members
    /// last changed.
    #[must_use]
    pub fn hash(&self) -> Hash {
        self.members.hash
    }

    /// The proposer priorities, in the members' order.
    #[must_use]
    pub fn priorities(&self) -> &[i64] {
        &self.priorities
    }

    /// Proposer of round 0; `None` in an empty set. After an update and before the increment that
    /// follows it, the proposer of before as far as it is still there.
    #[must_use]
    pub fn proposer(&self) -> Option<&Validator> {
        // A set that was stored without its proposer: CometBFT computes it from the priorities.
        let index = self.proposer.or_else(|| self.highest_priority())?;
        self.get(index)
    }

    /// Whether both have the same members in the same order, whatever the priorities.
    #[must_use]
    pub fn same_members(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.members, &other.members) || self.members.list == other.members.list
    }

    /// The set `times` rounds of proposing later. An empty set, and 0 times, change nothing.
    #[must_use]
    pub fn increment(&self, times: u32) -> Self {
        let mut next = self.clone();
        if self.is_empty() || times == 0 {
            return next;
        }
        // Once, whatever `times` is: CometBFT centres before the first round alone.
        next.centre();
        for _ in 0..times {
            next.increment_once();
        }
        next
    }

    /// Gives each member its power's worth and takes the total from the one that is then the
    /// highest, which is the proposer.
    fn increment_once(&mut self) {
        for (priority, v) in self.priorities.iter_mut().zip(&self.members.list) {
            // Go clips at the ends of 64 bits, too.
            *priority = priority.saturating_add(v.power);
        }
        self.proposer = self.highest_priority();
        if let Some(index) = self.proposer {
            let priority = &mut self.priorities[index];
            *priority = priority.saturating_sub(self.members.total_power);
        }
    }

    /// The index of the highest priority, of equal ones that of the lowest address.
    fn highest_priority(&self) -> Option<usize> {
        // Half of the members tie, in most sets. The first bytes nearly always tell two addresses
        // apart, without a call.
        let address = |i: usize| {
            let address = self.members.list[i].address;
            let first = *address.0.first_chunk::<8>().expect("it has 20 bytes");
            (u64::from_be_bytes(first), address)
        };
        let mut each = self.priorities.iter().enumerate();
        let mut best = each.next()?;
        for (i, priority) in each {
            if priority > best.1 || (priority == best.1 && address(i) < address(best.0)) {
                best = (i, priority);
            }
        }
        Some(best.0)
    }

    /// Scales the priorities down when they lie too far apart, then moves their average to 0.
    fn centre(&mut self) {
        let (mut low, mut high, mut sum) = (i64::MAX, i64::MIN, 0_i128);
        for &priority in &self.priorities {
            low = low.min(priority);
            high = high.max(priority);
            sum += i128::from(priority);
        }
        let window = i128::from(PRIORITY_WINDOW) * i128::from(self.members.total_power);
        let spread = i128::from(high) - i128::from(low);
        if window > 0 && spread > window {
            // At least 2, and at most 2^64, where nothing is left but zeros.
            let ratio = (spread + window - 1) / window;
            sum = 0;
            for priority in &mut self.priorities {
                *priority = i64::try_from(i128::from(*priority) / ratio).unwrap_or(0);
                sum += i128::from(*priority);
            }
        }
        // Rounded down, also below zero, as Go's big integers divide.
        let average = sum.div_euclid(self.priorities.len().max(1) as i128);
        // The average of i64s is one.
        let average = i64::try_from(average).unwrap_or(0);
        if average != 0 {
            for priority in &mut self.priorities {
                *priority = priority.saturating_sub(average);
            }
        }
    }

    /// The set with these powers set, 0 removing a member; no increment. The proposer stays if it
    /// is still a member.
    ///
    /// # Errors
    /// When a key comes twice, a power is negative or above the limit, a removed validator is not
    /// there, nobody would be left, or the total would pass the limit while the changes are applied
    /// in ascending order, removals first.
    pub fn update(&self, changes: &[(PublicKey, i64)]) -> Result<Self, SetError> {
        let changes = changes
            .iter()
            .map(|(key, power)| Validator::new(key.clone(), *power));
        self.with_changes(changes.collect())
    }

    fn with_changes(&self, mut changes: Vec<Validator>) -> Result<Self, SetError> {
        if changes.is_empty() {
            return Ok(self.clone());
        }
        check_changes(&mut changes)?;
        let total_before_removals = self.check_totals(&changes)?;
        let (list, priorities) = self.merge(&changes, total_before_removals);
        // By address: the member's index may be another after the change.
        let proposer = self.proposer.map(|index| self.members.list[index].address);
        let mut set = ValidatorSet {
            members: Arc::new(Members::new(list)?),
            priorities,
            proposer: None,
        };
        // New members start far below the others; this brings the average back to 0.
        set.centre();
        set.proposer = proposer.and_then(|address| set.members.find(&address));
        Ok(set)
    }

    /// Checks that changes fit the set; returns the total power after all of them but the removals,
    /// below twice the limit.
    fn check_totals(&self, changes: &[Validator]) -> Result<i64, SetError> {
        let old = |v: &Validator| self.by_address(&v.address).map(|(_, old)| old.power);
        let (removals, updates): (Vec<&Validator>, Vec<&Validator>) =
            changes.iter().partition(|v| v.power == 0);
        let added = updates.iter().any(|v| old(v).is_none());
        // Every removal must name a member, as is checked next, so equal numbers mean that all go.
        if !added && removals.len() == self.len() {
            return Err(SetError::Empty);
        }
        let mut removed = 0_i128;
        for v in removals {
            removed += i128::from(old(v).ok_or(SetError::NotThere(v.address))?);
        }
        // Lowered powers make room for raised ones, whatever order they were given in.
        let mut deltas: Vec<i128> = updates
            .iter()
            .map(|v| i128::from(v.power) - i128::from(old(v).unwrap_or(0)))
            .collect();
        deltas.sort_unstable();
        let mut total = i128::from(self.total_power()) - removed;
        for delta in deltas {
            total += delta;
            if total > i128::from(MAX_TOTAL_POWER) {
                return Err(SetError::TotalTooLarge(total));
            }
        }
        // A new member's priority is reckoned from the power before the removals.
        i64::try_from(total + removed).map_err(|_| SetError::TotalTooLarge(total + removed))
    }

    /// The members and priorities after checked changes, in canonical order.
    fn merge(&self, changes: &[Validator], total: i64) -> (Vec<Validator>, Vec<i64>) {
        let change = |address: &Address| {
            let at = changes.binary_search_by_key(address, |v| v.address).ok()?;
            Some(&changes[at])
        };
        let mut merged: Vec<(Validator, i64)> = self
            .iter()
            .zip(&self.priorities)
            .map(|(v, priority)| (change(&v.address).unwrap_or(v).clone(), *priority))
            .filter(|(v, _)| v.power > 0)
            .collect();
        // A new member starts below all others, so that leaving and coming back is no way to
        // propose more often.
        let start = -(total + (total >> 3));
        let new = changes
            .iter()
            .filter(|v| v.power > 0 && self.by_address(&v.address).is_none());
        merged.extend(new.map(|v| (v.clone(), start)));
        // The canonical order: the highest power first, then the lowest address.
        merged.sort_by_key(|(v, _)| (Reverse(v.power), v.address));
        merged.into_iter().unzip()
    }
}

/// Sorts changes by address and checks each for itself.
fn check_changes(changes: &mut [Validator]) -> Result<(), SetError> {
    // By address: then duplicates are neighbours, and `merge` can search.
    changes.sort_by_key(|v| v.address);
    for v in &*changes {
        let (address, power) = (v.address, v.power);
        if power < 0 {
            return Err(SetError::PowerTooSmall { address, power });
        }
        if power > MAX_TOTAL_POWER {
            return Err(SetError::PowerTooLarge { address, power });
        }
    }
    match changes.windows(2).find(|w| w[0].address == w[1].address) {
        Some(pair) => Err(SetError::Duplicate(pair[0].address)),
        None => Ok(()),
    }
}

/// Equal members in the same order, and equal priorities.
impl PartialEq for ValidatorSet {
    fn eq(&self, other: &Self) -> bool {
        self.same_members(other) && self.priorities == other.priorities
    }
}

impl Eq for ValidatorSet {}

impl<'a> IntoIterator for &'a ValidatorSet {
    type Item = &'a Validator;
    type IntoIter = std::slice::Iter<'a, Validator>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::chain::testing::{group, hash, hex, int, key, list, name, ok, size, text};

    #[test]
    fn sets_and_hashes_are_gos() {
        for case in group("validator_sets") {
            let expected = list(&case["validators"]);
            let mut given: Vec<Validator> = expected
                .iter()
                .map(|v| Validator::new(key(&v["pub_key"]), int(&v["power"])))
                .collect();
            given.reverse();
            let set = ValidatorSet::new(given).unwrap();
            assert_eq!(Some(set.hash()), hash(&case["hash"]), "{}", name(case));
            assert_eq!(set.len(), expected.len());
            for ((v, priority), e) in set.iter().zip(set.priorities()).zip(expected) {
                assert_eq!(v.address.to_string(), text(&e["address"]));
                assert_eq!(
                    (v.power, *priority),
                    (int(&e["power"]), int(&e["priority"]))
                );
            }
            for (v, leaf) in set.iter().zip(list(&case["leaves"])) {
                let mut out = Vec::new();
                encode_simple(&v.key, v.power, &mut out);
                assert_eq!(out, hex(leaf));
            }
        }
    }

    /// A set as the vectors of priorities have it: [index of the key, power, priority], and the
    /// proposer.
    fn shown(set: &ValidatorSet, keys: &[PublicKey]) -> Vec<(usize, i64, i64)> {
        let index = |k: &PublicKey| keys.iter().position(|key| key == k).unwrap();
        let each = set.iter().zip(set.priorities());
        each.map(|(v, p)| (index(&v.key), v.power, *p)).collect()
    }

    fn expected(value: &Value) -> Vec<(usize, i64, i64)> {
        let one = |v: &Value| (size(&v[0]), int(&v[1]), int(&v[2]));
        list(value).iter().map(one).collect()
    }

    fn initial(case: &Value, keys: &[PublicKey]) -> ValidatorSet {
        let given = list(&case["initial"]);
        let member = |v: &Value| Validator::new(keys[size(&v[0])].clone(), int(&v[1]));
        if case.get("built").is_some() {
            return ValidatorSet::new(given.iter().map(member).collect()).unwrap();
        }
        let mut stored: Vec<(Validator, i64)> =
            given.iter().map(|v| (member(v), int(&v[2]))).collect();
        stored.sort_by_key(|(v, _)| (Reverse(v.power), v.address));
        let (members, priorities) = stored.into_iter().unzip();
        ValidatorSet::from_stored(members, priorities).unwrap()
    }

    #[test]
    fn proposer_priorities_are_gos() {
        let (first, cases) = group("proposer_priority").split_first().unwrap();
        let keys: Vec<PublicKey> = list(&first["keys"]).iter().map(key).collect();
        let proposer = |set: &ValidatorSet| {
            let k = &set.proposer().unwrap().key;
            keys.iter().position(|key| key == k).unwrap()
        };
        for case in cases {
            let mut set = initial(case, &keys);
            if let Some(built) = case.get("built") {
                assert_eq!(shown(&set, &keys), expected(&built["validators"]));
                assert_eq!(proposer(&set), size(&built["proposer"]));
            }
            for (i, step) in list(&case["steps"]).iter().enumerate() {
                let at = format!("{}, step {i}", name(case));
                let next = match step.get("update") {
                    Some(update) => {
                        let change = |v: &Value| (keys[size(&v[0])].clone(), int(&v[1]));
                        set.update(&list(update).iter().map(change).collect::<Vec<_>>())
                    }
                    None => Ok(set.increment(u32::try_from(int(&step["increment"])).unwrap())),
                };
                assert_eq!(next.is_ok(), ok(step), "{at}: {next:?}");
                let Ok(next) = next else { continue };
                set = next;
                if let Some(validators) = step.get("validators") {
                    assert_eq!(shown(&set, &keys), expected(validators), "{at}");
                    assert_eq!(set.total_power(), int(&step["total"]), "{at}");
                }
                if let Some(p) = step.get("proposer") {
                    assert_eq!(proposer(&set), size(p), "{at}");
                }
            }
        }
    }

    fn set(powers: &[i64]) -> ValidatorSet {
        let member = |(i, power): (usize, &i64)| {
            Validator::new(PublicKey::Ed25519([i as u8 + 1; 32]), *power)
        };
        ValidatorSet::new(powers.iter().enumerate().map(member).collect()).unwrap()
    }

    #[test]
    fn members_are_shared_until_they_change() {
        let first = set(&[3, 2, 1]);
        let next = first.increment(1);
        assert!(Arc::ptr_eq(&first.members, &next.members));
        assert!(first.same_members(&next) && first != next);
        let same = ValidatorSet::from_stored(first.iter().cloned().collect(), vec![0; 3]);
        assert!(first.same_members(&same.unwrap()));
        let changed = first.update(&[(PublicKey::Ed25519([1; 32]), 4)]).unwrap();
        assert!(!first.same_members(&changed));
        assert_ne!(first.hash(), changed.hash());
    }

    #[test]
    fn members_are_found_by_address() {
        let set = set(&[5, 5, 5, 9, 1, 7]);
        for (index, v) in set.iter().enumerate() {
            assert_eq!(set.by_address(&v.address), Some((index, v)));
            assert_eq!(set.get(index), Some(v));
        }
        assert_eq!(set.by_address(&Address([0; 20])), None);
        assert_eq!(set.get(6), None);
    }

    #[test]
    fn refused_lists_say_why() {
        let member = |power| Validator::new(PublicKey::Ed25519([1; 32]), power);
        let address = member(1).address;
        assert_eq!(
            ValidatorSet::new(vec![member(1), member(1)]),
            Err(SetError::Duplicate(address))
        );
        assert_eq!(
            ValidatorSet::new(vec![member(0)]),
            Err(SetError::PowerTooSmall { address, power: 0 })
        );
        let power = MAX_TOTAL_POWER + 1;
        assert_eq!(
            ValidatorSet::new(vec![member(power)]),
            Err(SetError::PowerTooLarge { address, power })
        );
        assert_eq!(
            ValidatorSet::from_stored(vec![member(1)], Vec::new()),
            Err(SetError::Unpaired {
                members: 1,
                priorities: 0
            })
        );
        assert_eq!(
            set(&[1]).update(&[(PublicKey::Ed25519([9; 32]), 0)]),
            Err(SetError::Empty)
        );
        assert!(ValidatorSet::new(Vec::new()).unwrap().is_empty());
    }

    /// A set that no chain can reach, but that may be stored.
    #[test]
    fn extreme_priorities_do_not_overflow() {
        let members: Vec<Validator> = set(&[1, 1]).iter().cloned().collect();
        for priorities in [
            vec![i64::MIN, i64::MAX],
            vec![i64::MAX; 2],
            vec![i64::MIN; 2],
        ] {
            let set = ValidatorSet::from_stored(members.clone(), priorities).unwrap();
            let next = set.increment(3);
            assert!(next.priorities().iter().all(|p| p.abs() <= 4), "{next:?}");
        }
    }

    #[test]
    fn the_hash_of_the_appendix() {
        let member = |byte, power| Validator::new(PublicKey::Ed25519([byte; 32]), power);
        let set = ValidatorSet::new(vec![member(11, 10), member(10, 30)]).unwrap();
        assert_eq!(
            set.hash().to_string(),
            "14a78b78ac19f3fb806e5901127abd10ce567fdb2b3cd44e50e595c68a4b75a6"
        );
    }
}
