//! Checking many signatures at once.
//!
//! The verdict on every single signature is exactly the one of [`PublicKey::verify_by`]: ZIP-215 is
//! the acceptance rule under which batch and single verification of ed25519 agree (`protocol.md`
//! 5.7). A batch accepts a bad signature with a probability of 2^-128 over the randomness of the
//! caller, which a signer must not be able to foresee.
//!
//! Keys of a kind that can be batched, ed25519 by ZIP-215 and BLS12-381, are batched with their
//! kind, whatever stands between them. The others are checked one by one.

use std::ops::Range;

use ed25519_zebra::batch;
use rand::CryptoRng;

use super::commit::Signature;
use super::key::{Ed25519Rule, PublicKey, bls};

/// Below this many signatures a failed batch is searched one by one.
const SINGLES: usize = 8;

/// Signatures, possibly of many commits, with keys and signed bytes, waiting to be checked.
#[derive(Clone, Debug, Default)]
pub struct SignatureBatch {
    entries: Vec<Entry>,
    /// The signed bytes of all entries, one after another.
    signed: Vec<u8>,
    /// The rule of the signatures that are added from now on.
    ed25519: Ed25519Rule,
}

#[derive(Clone, Debug)]
struct Entry {
    key: PublicKey,
    signature: Signature,
    /// Where the signed bytes end; they begin where those of the entry before end.
    end: usize,
    /// The caller's: which entry of its commit.
    index: usize,
    ed25519: Ed25519Rule,
}

impl SignatureBatch {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many signatures it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Judges the ed25519 signatures that are added from now on by this rule; at first it is
    /// ZIP-215.
    pub fn set_ed25519_rule(&mut self, rule: Ed25519Rule) {
        self.ed25519 = rule;
    }

    /// Adds a signature. `index` is what [`SignatureBatch::index`] gives back for it; `write`
    /// appends the signed bytes.
    pub fn push(
        &mut self,
        key: PublicKey,
        signature: Signature,
        index: usize,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        write(&mut self.signed);
        self.entries.push(Entry {
            key,
            signature,
            end: self.signed.len(),
            index,
            ed25519: self.ed25519,
        });
    }

    /// The index that the item was pushed with: its entry in the commit that it comes from.
    ///
    /// # Panics
    /// When there is no such item.
    #[must_use]
    pub fn index(&self, item: usize) -> usize {
        self.entries[item].index
    }

    /// Cuts the batch into `parts` ranges of nearly equal size, none empty, to be given to
    /// [`SignatureBatch::verify_range`] on as many threads.
    #[must_use]
    pub fn split(&self, parts: usize) -> Vec<Range<usize>> {
        // Rounded up: the last range is the shorter one, and none is empty.
        let size = self.len().div_ceil(parts.max(1)).max(1);
        let starts = (0..self.len()).step_by(size);
        starts.map(|s| s..self.len().min(s + size)).collect()
    }

    /// Checks every signature.
    ///
    /// # Errors
    /// The items that are bad, ascending.
    pub fn verify<R: CryptoRng + ?Sized>(&self, rng: &mut R) -> Result<(), Vec<usize>> {
        let bad = self.verify_range(0..self.len(), rng);
        if bad.is_empty() { Ok(()) } else { Err(bad) }
    }

    /// Checks the signatures of a range and names the bad ones, ascending.
    ///
    /// # Panics
    /// When the range reaches beyond the batch.
    #[must_use]
    pub fn verify_range<R: CryptoRng + ?Sized>(
        &self,
        range: Range<usize>,
        rng: &mut R,
    ) -> Vec<usize> {
        let mut bad = Vec::new();
        let mut ed25519 = Vec::with_capacity(range.len());
        let mut bls = Vec::new();
        for item in range {
            match self.batchable(item) {
                Some(Batchable::Ed25519(prepared)) => ed25519.push((item, prepared)),
                Some(Batchable::Bls(prepared)) => bls.push((item, prepared)),
                None if self.verify_one(item) => {}
                None => bad.push(item),
            }
        }
        search(&ed25519, rng, &mut bad);
        search(&bls, rng, &mut bad);
        // The kinds were searched one after another.
        bad.sort_unstable();
        bad
    }

    fn signed(&self, item: usize) -> &[u8] {
        let start = item
            .checked_sub(1)
            .map_or(0, |before| self.entries[before].end);
        &self.signed[start..self.entries[item].end]
    }

    fn verify_one(&self, item: usize) -> bool {
        let entry = &self.entries[item];
        let (message, signature) = (self.signed(item), entry.signature.as_slice());
        entry.key.verify_by(entry.ed25519, message, signature)
    }

    /// The item in the form that a batch takes; `None` for keys that cannot be batched and
    /// signatures that are none of their type.
    fn batchable(&self, item: usize) -> Option<Batchable<'_>> {
        let entry = &self.entries[item];
        let signature = entry.signature.as_slice();
        match &entry.key {
            PublicKey::Ed25519(key) if entry.ed25519 == Ed25519Rule::Zip215 => {
                // A signature of another length is checked alone, where `verify_by` refuses it.
                let signature = ed25519_zebra::Signature::try_from(signature).ok()?;
                let item = ((*key).into(), signature, self.signed(item));
                Some(Batchable::Ed25519(item.into()))
            }
            PublicKey::Bls12381(key) => {
                let item = bls::Item::new(key, self.signed(item), signature)?;
                Some(Batchable::Bls(item))
            }
            _ => None,
        }
    }
}

/// A signature of a kind that can be batched.
enum Batchable<'a> {
    Ed25519(batch::Item),
    Bls(bls::Item<'a>),
}

/// A signature that can be checked alone or with others at once.
trait Batched: Sized {
    /// Whether it is good.
    fn holds(&self) -> bool;

    /// Whether all of at least two are good.
    fn all_hold<R: CryptoRng + ?Sized>(items: &[(usize, Self)], rng: &mut R) -> bool;
}

impl Batched for batch::Item {
    fn holds(&self) -> bool {
        self.clone().verify_single().is_ok()
    }

    /// Keys that occur again share one term of the equation.
    fn all_hold<R: CryptoRng + ?Sized>(items: &[(usize, Self)], rng: &mut R) -> bool {
        let mut verifier = batch::Verifier::new();
        for (_, item) in items {
            verifier.queue(item.clone());
        }
        verifier.verify(rng).is_ok()
    }
}

impl Batched for bls::Item<'_> {
    fn holds(&self) -> bool {
        self.holds()
    }

    fn all_hold<R: CryptoRng + ?Sized>(items: &[(usize, Self)], rng: &mut R) -> bool {
        bls::holds(items.iter().map(|(_, item)| item), rng)
    }
}

/// Whether all of them are good.
fn holds<T: Batched, R: CryptoRng + ?Sized>(items: &[(usize, T)], rng: &mut R) -> bool {
    match items {
        [] => true,
        [(_, only)] => only.holds(),
        more => T::all_hold(more, rng),
    }
}

/// Finds the bad ones among items with their places.
///
/// Halving finds a few bad ones quickly. Where both halves are bad it gives up and tries one by
/// one, so that somebody who sends nothing but garbage costs at most twice what checking singly
/// would.
fn search<T: Batched, R: CryptoRng + ?Sized>(
    mut items: &[(usize, T)],
    rng: &mut R,
    bad: &mut Vec<usize>,
) {
    if holds(items, rng) {
        return;
    }
    while items.len() > SINGLES {
        let (left, right) = items.split_at(items.len() / 2);
        // The whole has failed: where one half holds, a bad one is in the other.
        items = if holds(left, rng) {
            right
        } else if holds(right, rng) {
            left
        } else {
            break;
        };
    }
    // Each by itself: the verdict on a single signature is the one that counts.
    let failed = items.iter().filter(|(_, item)| !item.holds());
    bad.extend(failed.map(|(place, _)| *place));
}

/// Where signatures are checked: the service spreads a batch over its CPU pool, tests check in
/// place.
pub trait SignatureCheck {
    /// The items of the batch that are bad, ascending.
    fn check(&self, batch: &SignatureBatch) -> Vec<usize>;
}

/// Checks in the calling thread, with randomness from a seed.
#[derive(Debug)]
pub struct Inline(std::cell::RefCell<rand::rngs::StdRng>);

impl Inline {
    /// With this seed, which signers must not be able to foresee.
    #[must_use]
    pub fn new(seed: [u8; 32]) -> Self {
        use rand::SeedableRng;
        Inline(std::cell::RefCell::new(rand::rngs::StdRng::from_seed(seed)))
    }
}

impl SignatureCheck for Inline {
    fn check(&self, batch: &SignatureBatch) -> Vec<usize> {
        batch.verify_range(0..batch.len(), &mut *self.0.borrow_mut())
    }
}
