//! Merkle trees in the manner of RFC 6962 (`comet-protocol.md` 0.3): a leaf is hashed behind a 0x00, an inner node behind
//! a 0x01, and a list is split at the largest power of two below its length.
//!
//! A root is built from left to right like a binary counter: `stack` holds the roots of the complete subtrees of what was
//! pushed so far, the largest first, one for each bit set in the count. Nothing is allocated.

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
    /// The proof for the leaf at `index` of leaves with these hashes; `None` when there is no such leaf.
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

    /// The root that leaf hash and aunts make; `None` when there are too many aunts or not as many as the index asks for.
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
