//! BLS12-381 with keys in G1 and signatures in G2 (`versions.md` 1.4).

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// Bytes in a key: both coordinates of a point of G1.
pub(super) const KEY_LEN: usize = 96;
/// Bytes in a compressed key.
pub(super) const COMPRESSED: usize = 48;

/// A key: a point of the subgroup, and not infinity. Shared between the sets that it is in, in its
/// decoded form.
#[derive(Clone)]
pub struct BlsKey(Arc<Inner>);

struct Inner {
    bytes: [u8; KEY_LEN],
    #[cfg(feature = "bls")]
    point: blst::min_pk::PublicKey,
}

impl BlsKey {
    /// Its bytes, uncompressed.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; KEY_LEN] {
        &self.0.bytes
    }
}

#[cfg(feature = "bls")]
pub(in crate::chain) use linked::{Item, holds};
#[cfg(not(feature = "bls"))]
pub(in crate::chain) use missing::{Item, holds};

/// Without the feature there is no such key, and no signature of one.
#[cfg(not(feature = "bls"))]
mod missing {
    use std::convert::Infallible;
    use std::marker::PhantomData;

    use super::BlsKey;

    impl BlsKey {
        pub(in crate::chain::key) fn new(_bytes: &[u8]) -> Option<Self> {
            None
        }

        pub(in crate::chain) fn sum(_keys: &[&BlsKey]) -> Option<Self> {
            None
        }

        pub(in crate::chain::key) fn verify(&self, _msg: &[u8], _sig: &[u8]) -> bool {
            false
        }
    }

    pub(in crate::chain) struct Item<'a>(Infallible, PhantomData<&'a BlsKey>);

    impl<'a> Item<'a> {
        pub(in crate::chain) fn new(_key: &'a BlsKey, _msg: &'a [u8], _sig: &[u8]) -> Option<Self> {
            None
        }

        pub(in crate::chain) fn holds(&self) -> bool {
            match self.0 {}
        }
    }

    pub(in crate::chain) fn holds<'a, R: ?Sized>(
        mut items: impl Iterator<Item = &'a Item<'a>>,
        _rng: &mut R,
    ) -> bool {
        items.next().is_none()
    }
}

#[cfg(feature = "bls")]
mod linked {
    use std::sync::Arc;

    use blst::min_pk::{AggregatePublicKey, PublicKey, Signature};
    use blst::{BLST_ERROR, Pairing, blst_p1_affine, blst_p2_affine};
    use rand::{CryptoRng, RngExt};

    use super::{BlsKey, COMPRESSED, Inner};

    /// The domain of hashing to the curve: basic signatures, without proof of possession.
    const DST: &[u8] = b"BLS_SIG_BLS12381G2_XMD:SHA-256_SSWU_RO_NUL_";
    /// Bits of the random number by which a signature of a batch is multiplied.
    const SCALAR_BITS: usize = 128;

    impl BlsKey {
        /// A key of 96 bytes, or of 48 compressed ones. Go reads only the first 48 bytes where they
        /// say that they are compressed, and writes the key uncompressed from then on.
        pub(in crate::chain::key) fn new(bytes: &[u8]) -> Option<Self> {
            let compressed = bytes.first()? & 0x80 != 0;
            let bytes = if compressed {
                bytes.get(..COMPRESSED)?
            } else {
                bytes
            };
            let point = PublicKey::deserialize(bytes).ok()?;
            // Decoding only asks for a point of the curve; a key is one of the subgroup, and not
            // infinity.
            point.validate().ok()?;
            Some(BlsKey(Arc::new(Inner {
                bytes: point.serialize(),
                point,
            })))
        }

        /// The key under which a sum of signatures over one message is judged: the sum of its
        /// makers' keys. `None` for none. Infinity, which keys that cancel out give, verifies
        /// nothing.
        pub(in crate::chain) fn sum(keys: &[&BlsKey]) -> Option<Self> {
            let points: Vec<&PublicKey> = keys.iter().map(|key| &key.0.point).collect();
            // Each was validated when it was decoded.
            let sum = AggregatePublicKey::aggregate(&points, false).ok()?;
            let point = sum.to_public_key();
            Some(BlsKey(Arc::new(Inner {
                bytes: point.serialize(),
                point,
            })))
        }

        pub(in crate::chain::key) fn verify(&self, msg: &[u8], sig: &[u8]) -> bool {
            // A signature that is no point is as bad as one that does not fit.
            Item::new(self, msg, sig).is_some_and(|item| item.holds())
        }
    }

    /// A signature in the form that a batch takes.
    pub(in crate::chain) struct Item<'a> {
        key: &'a BlsKey,
        msg: &'a [u8],
        sig: Signature,
    }

    impl<'a> Item<'a> {
        /// `None` for what is no point of the subgroup, or infinity, which is bad under any key.
        pub(in crate::chain) fn new(key: &'a BlsKey, msg: &'a [u8], sig: &[u8]) -> Option<Self> {
            let sig = Signature::uncompress(sig).ok()?;
            sig.validate(true).ok()?;
            Some(Item { key, msg, sig })
        }

        /// Whether it is good, judged alone.
        pub(in crate::chain) fn holds(&self) -> bool {
            let mut pairing = Pairing::new(true, DST);
            let (key, sig) = self.points();
            // Neither is validated here: both were when they were decoded.
            let added = pairing.aggregate(key, false, sig, false, self.msg, &[]);
            pairing.commit();
            added == BLST_ERROR::BLST_SUCCESS && pairing.finalverify(None)
        }

        fn points(&self) -> (&blst_p1_affine, &blst_p2_affine) {
            ((&self.key.0.point).into(), (&self.sig).into())
        }
    }

    /// Whether all of them are good: one product of pairings, each signature and key multiplied by
    /// a number that its maker cannot foresee, so that bad ones do not cancel out but for a chance
    /// of 2^-128.
    pub(in crate::chain) fn holds<'a, R: CryptoRng + ?Sized>(
        items: impl Iterator<Item = &'a Item<'a>>,
        rng: &mut R,
    ) -> bool {
        let mut pairing = Pairing::new(true, DST);
        for item in items {
            // Half the length of the group's order is enough for the odds, and
            // halves the multiplications.
            let mut scalar: [u8; SCALAR_BITS / 8] = rng.random();
            scalar[0] |= 1; // never zero
            let (key, sig) = item.points();
            let added = pairing.mul_n_aggregate(
                key,
                false,
                sig,
                false,
                &scalar,
                SCALAR_BITS,
                item.msg,
                &[],
            );
            if added != BLST_ERROR::BLST_SUCCESS {
                return false;
            }
        }
        pairing.commit();
        pairing.finalverify(None)
    }
}

impl PartialEq for BlsKey {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.as_bytes() == other.as_bytes()
    }
}

impl Eq for BlsKey {}

impl Hash for BlsKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

impl PartialOrd for BlsKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for BlsKey {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}
