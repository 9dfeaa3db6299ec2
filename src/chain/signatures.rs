//! Checking many signatures at once.
//!
//! The verdict on every single signature is exactly the one of [`PublicKey::verify`]: ZIP-215 is the acceptance rule under
//! which batch and single verification of ed25519 agree (`protocol.md` 5.7). A batch accepts a bad signature with a
//! probability of 2^-128 over the randomness of the caller, which a signer must not be able to foresee.

use std::ops::Range;

use ed25519_zebra::batch;
use rand::CryptoRng;

use super::commit::Signature;
use super::key::PublicKey;

/// Below this many signatures a failed batch is searched one by one.
const SINGLES: usize = 8;

/// Signatures, possibly of many commits, with keys and signed bytes, waiting to be checked.
#[derive(Clone, Debug, Default)]
pub struct SignatureBatch {
    entries: Vec<Entry>,
    /// The signed bytes of all entries, one after another.
    signed: Vec<u8>,
}

#[derive(Clone, Debug)]
struct Entry {
    key: PublicKey,
    signature: Signature,
    /// Where the signed bytes end; they begin where those of the entry before end.
    end: usize,
    /// The caller's: which entry of its commit.
    index: usize,
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

    /// Adds a signature. `index` is what [`SignatureBatch::index`] gives back for it; `write` appends the signed bytes.
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

    /// Cuts the batch into `parts` ranges of nearly equal size, none empty, to be given to [`SignatureBatch::verify_range`]
    /// on as many threads.
    #[must_use]
    pub fn split(&self, parts: usize) -> Vec<Range<usize>> {
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
        let mut items = Vec::with_capacity(range.len());
        for item in range {
            match self.batchable(item) {
                Some(prepared) => items.push((item, prepared)),
                None if self.verify_one(item) => {}
                None => bad.push(item),
            }
        }
        if !holds(&items, rng) {
            search(&items, rng, &mut bad);
        }
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
        entry
            .key
            .verify(self.signed(item), entry.signature.as_slice())
    }

    /// The item in the form that a batch takes; `None` for keys that cannot be batched and signatures of another length.
    fn batchable(&self, item: usize) -> Option<batch::Item> {
        let entry = &self.entries[item];
        let PublicKey::Ed25519(key) = entry.key else {
            return None;
        };
        let signature = ed25519_zebra::Signature::try_from(entry.signature.as_slice()).ok()?;
        Some((key.into(), signature, self.signed(item)).into())
    }
}

/// Items of a batch with their places in it.
type Items = [(usize, batch::Item)];

/// Whether all of them are good. Keys that occur again share one term of the equation.
fn holds<R: CryptoRng + ?Sized>(items: &Items, rng: &mut R) -> bool {
    if let [(_, only)] = items {
        return only.clone().verify_single().is_ok();
    }
    let mut verifier = batch::Verifier::new();
    for (_, item) in items {
        verifier.queue(item.clone());
    }
    items.is_empty() || verifier.verify(rng).is_ok()
}

/// Finds the bad ones among items that do not hold together.
///
/// Halving finds a few bad ones quickly. Where both halves are bad it gives up and tries one by one, so that somebody who
/// sends nothing but garbage costs at most twice what checking singly would.
fn search<R: CryptoRng + ?Sized>(mut items: &Items, rng: &mut R, bad: &mut Vec<usize>) {
    while items.len() > SINGLES {
        let (left, right) = items.split_at(items.len() / 2);
        items = if holds(left, rng) {
            right
        } else if holds(right, rng) {
            left
        } else {
            break;
        };
    }
    let failed = items
        .iter()
        .filter(|(_, item)| item.clone().verify_single().is_err());
    bad.extend(failed.map(|(place, _)| *place));
}

/// Where signatures are checked: the service spreads a batch over its CPU pool, tests check in place.
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
