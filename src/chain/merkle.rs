//! Merkle trees in the manner of RFC 6962 (`protocol.md` 0.3): a leaf is hashed behind a 0x00, an
//! inner node behind a 0x01, and a list is split at the largest power of two below its length.
//!
//! A root is built from left to right like a binary counter: `stack` holds the roots of the
//! complete subtrees of what was pushed so far, the largest first, one for each bit set in the
//! count. Nothing is allocated.

use sha2::{Digest, Sha256};

use crate::ids::Hash;

/// The most aunts that a proof may have.
pub const MAX_AUNTS: usize = 100;

/// A plain SHA-256 digest.
#[must_use]
pub fn sha256(bytes: &[u8]) -> Hash {
    Hash(Sha256::digest(bytes).into())
}

/// The root over no leaves: SHA-256 of nothing.
#[must_use]
pub fn empty_root() -> Hash {
    sha256(&[])
}

/// The hash of a leaf.
#[must_use]
pub fn leaf_hash(leaf: &[u8]) -> Hash {
    let mut hasher = Sha256::new();
    hasher.update([0]);
    hasher.update(leaf);
    Hash(hasher.finalize().into())
}

/// The hash of a leaf that already stands behind its 0x00 in `prefixed`.
pub(super) fn prefixed_leaf_hash(prefixed: &[u8]) -> Hash {
    debug_assert_eq!(prefixed.first(), Some(&0));
    sha256(prefixed)
}

fn inner_hash(left: &Hash, right: &Hash) -> Hash {
    let mut both = [1; 65];
    both[1..33].copy_from_slice(&left.0);
    both[33..].copy_from_slice(&right.0);
    sha256(&both)
}

/// A root in the making.
pub(super) struct Tree {
    stack: [Hash; usize::BITS as usize],
    depth: usize,
    count: usize,
}

impl Tree {
    pub(super) fn new() -> Self {
        Tree {
            stack: [Hash([0; 32]); usize::BITS as usize],
            depth: 0,
            count: 0,
        }
    }

    /// Adds a leaf by its hash.
    pub(super) fn push(&mut self, leaf: Hash) {
        let mut node = leaf;
        // Each bit that the increment carries over closes a subtree.
        for _ in 0..self.count.trailing_ones() {
            self.depth -= 1;
            node = inner_hash(&self.stack[self.depth], &node);
        }
        // Within the array: `depth` is the number of bits set in the count.
        self.stack[self.depth] = node;
        self.depth += 1;
        self.count += 1;
    }

    /// The root over all leaves so far.
    pub(super) fn root(&self) -> Hash {
        let mut subtrees = self.stack[..self.depth].iter().rev();
        let Some(&last) = subtrees.next() else {
            return empty_root();
        };
        // Each subtree is the left sibling of everything behind it.
        subtrees.fold(last, |right, left| inner_hash(left, &right))
    }
}

/// The root over a list of byte strings.
pub fn root<I: IntoIterator<Item = T>, T: AsRef<[u8]>>(leaves: I) -> Hash {
    let mut tree = Tree::new();
    for leaf in leaves {
        tree.push(leaf_hash(leaf.as_ref()));
    }
    tree.root()
}

/// The root over leaves whose hashes are known.
#[must_use]
pub fn root_of(leaf_hashes: &[Hash]) -> Hash {
    let mut tree = Tree::new();
    for &leaf in leaf_hashes {
        tree.push(leaf);
    }
    tree.root()
}

/// Proof that a leaf stands at an index of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// Number of leaves.
    pub total: usize,
    /// The leaf's index.
    pub index: usize,
    /// The leaf's hash.
    pub leaf_hash: Hash,
    /// The siblings on the way up, the leaf's own first.
    pub aunts: Vec<Hash>,
}

impl Proof {
    /// The proof for the leaf at `index` of leaves with these hashes; `None` when there is no such
    /// leaf.
    #[must_use]
    pub fn new(leaf_hashes: &[Hash], index: usize) -> Option<Proof> {
        let leaf_hash = *leaf_hashes.get(index)?;
        let mut aunts = Vec::new();
        let (mut part, mut at) = (leaf_hashes, index);
        while part.len() > 1 {
            let (left, right) = part.split_at(split(part.len()));
            if at < left.len() {
                aunts.push(root_of(right));
                part = left;
            } else {
                aunts.push(root_of(left));
                at -= left.len();
                part = right;
            }
        }
        aunts.reverse();
        Some(Proof {
            total: leaf_hashes.len(),
            index,
            leaf_hash,
            aunts,
        })
    }

    /// Whether `leaf` stands at the index in the list with this root.
    #[must_use]
    pub fn verify(&self, root: &Hash, leaf: &[u8]) -> bool {
        self.leaf_hash == leaf_hash(leaf) && self.root() == Some(*root)
    }

    /// The root that leaf hash and aunts make; `None` when there are too many aunts or not as many
    /// as the index asks for.
    #[must_use]
    pub fn root(&self) -> Option<Hash> {
        if self.index >= self.total || self.aunts.len() > MAX_AUNTS {
            return None;
        }
        // Which side the leaf is on, from the root down.
        let mut turns = Vec::with_capacity(self.aunts.len());
        let (mut total, mut at) = (self.total, self.index);
        while total > 1 {
            let left = split(total);
            let goes_left = at < left;
            turns.push(goes_left);
            if goes_left {
                total = left;
            } else {
                at -= left;
                total -= left;
            }
        }
        // With more or fewer aunts the same root would stand for another place in the list.
        if turns.len() != self.aunts.len() {
            return None;
        }
        let climb = turns.iter().rev().zip(&self.aunts);
        Some(climb.fold(self.leaf_hash, |node, (goes_left, aunt)| {
            if *goes_left {
                inner_hash(&node, aunt)
            } else {
                inner_hash(aunt, &node)
            }
        }))
    }
}

/// The largest power of two strictly below `len`, which is 2 or more.
fn split(len: usize) -> usize {
    len.next_power_of_two() / 2
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::chain::testing::{group, hash, hex, list, size};

    fn leaves(case: &serde_json::Value) -> Vec<Vec<u8>> {
        list(&case["items"]).iter().map(hex).collect()
    }

    #[test]
    fn roots_and_proofs_are_gos() {
        for case in group("merkle") {
            let items = leaves(case);
            let hashes: Vec<Hash> = items.iter().map(|l| leaf_hash(l)).collect();
            let expected = hash(&case["root"]).unwrap();
            assert_eq!(root(&items), expected);
            assert_eq!(root_of(&hashes), expected);
            let Some(given) = case.get("proof") else {
                continue;
            };
            let proof = Proof::new(&hashes, size(&given["index"])).unwrap();
            let aunts: Option<Vec<Hash>> = list(&given["aunts"]).iter().map(hash).collect();
            assert_eq!(proof.total, size(&given["total"]));
            assert_eq!(Some(proof.leaf_hash), hash(&given["leaf_hash"]));
            assert_eq!(Some(&proof.aunts), aunts.as_ref());
            assert!(proof.verify(&expected, &items[proof.index]));
        }
    }

    #[test]
    fn roots_of_the_appendix() {
        let root_hex = |leaves: &[&[u8]]| root(leaves).to_string();
        assert_eq!(
            root_hex(&[&[1, 2, 3], &[4, 5, 6]]),
            "82e6cfce00453804379b53962939eaa7906b39904be0813fcadd31b100773c4b"
        );
        assert_eq!(
            root_hex(&[&[1, 2], &[3, 4], &[5, 6], &[7, 8], &[9, 10]]),
            "f326493eceab4f2d9ffbc78c59432a0a005d6ea98392045c74df5d14a113be18"
        );
    }

    /// The definition, word for word.
    fn by_definition(leaves: &[Vec<u8>]) -> Hash {
        match leaves {
            [] => sha256(&[]),
            [leaf] => leaf_hash(leaf),
            _ => {
                let half = (1..leaves.len()).rev().find(|k| k.is_power_of_two());
                let (left, right) = leaves.split_at(half.unwrap());
                inner_hash(&by_definition(left), &by_definition(right))
            }
        }
    }

    proptest! {
        #[test]
        fn every_size_agrees_with_the_definition(leaves in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..4), 0..130)) {
            prop_assert_eq!(root(&leaves), by_definition(&leaves));
        }

        #[test]
        fn a_proof_proves_its_leaf_alone(count in 1_usize..70, at in any::<prop::sample::Index>(), turn in 0_usize..4) {
            let leaves: Vec<[u8; 1]> = (0..count).map(|i| [i as u8]).collect();
            let hashes: Vec<Hash> = leaves.iter().map(|l| leaf_hash(l)).collect();
            let whole = root_of(&hashes);
            let index = at.index(count);
            let mut proof = Proof::new(&hashes, index).unwrap();
            prop_assert!(proof.verify(&whole, &leaves[index]));
            prop_assert!(!proof.verify(&whole, &[255]));
            match turn {
                0 => proof.index += 1,
                1 => proof.total = proof.index,
                2 => proof.aunts.push(whole),
                _ => proof.leaf_hash = whole,
            }
            prop_assert!(!proof.verify(&whole, &leaves[index]) || (turn == 3 && count == 1));
        }
    }

    #[test]
    fn no_proof_of_a_leaf_that_is_not_there() {
        assert_eq!(Proof::new(&[], 0), None);
        assert_eq!(Proof::new(&[leaf_hash(&[])], 1), None);
    }
}
