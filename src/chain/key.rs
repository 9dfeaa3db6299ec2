//! Validators' public keys and the rule by which a signature is accepted (`protocol.md` 0.4, 5.7).

use std::fmt;

use k256::ecdsa::signature::hazmat::PrehashVerifier;
use k256::elliptic_curve::ops::Reduce;
use ripemd::Ripemd160;
use sha2::{Digest, Sha256};

use crate::ids::Address;

/// Bytes in a signature of either type.
pub const SIGNATURE_LEN: usize = 64;

/// A validator's public key. Any 32 bytes may stand as an ed25519 key; whether they are a point shows when a signature is verified.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PublicKey {
    /// Ed25519, verified by the rules of ZIP-215.
    Ed25519([u8; 32]),
    /// secp256k1, compressed; high S is refused.
    Secp256k1([u8; 33]),
}

/// Why bytes are no key of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// A type that we cannot verify.
    #[error("unsupported key type {0}")]
    Unsupported(String),
    /// A type that we know, of another length.
    #[error("{type_name} key of {found} bytes, expected {expected}")]
    WrongLength {
        /// The type.
        type_name: &'static str,
        /// Its length in bytes.
        expected: usize,
        /// What was given.
        found: usize,
    },
}

impl PublicKey {
    /// The name of ed25519, in params and on the wire.
    pub const ED25519: &'static str = "ed25519";
    /// The name of secp256k1.
    pub const SECP256K1: &'static str = "secp256k1";

    /// A key of the type with this name.
    ///
    /// # Errors
    /// When the type is not known, or the length is not its own.
    pub fn from_type_bytes(type_name: &str, bytes: &[u8]) -> Result<Self, KeyError> {
        let wrong = |type_name, expected| KeyError::WrongLength {
            type_name,
            expected,
            found: bytes.len(),
        };
        match type_name {
            Self::ED25519 => bytes
                .try_into()
                .map(PublicKey::Ed25519)
                .map_err(|_| wrong(Self::ED25519, 32)),
            Self::SECP256K1 => bytes
                .try_into()
                .map(PublicKey::Secp256k1)
                .map_err(|_| wrong(Self::SECP256K1, 33)),
            other => Err(KeyError::Unsupported(other.to_owned())),
        }
    }

    /// The name of its type: `ed25519` or `secp256k1`.
    #[must_use]
    pub fn type_name(&self) -> &'static str {
        match self {
            PublicKey::Ed25519(_) => Self::ED25519,
            PublicKey::Secp256k1(_) => Self::SECP256K1,
        }
    }

    /// Its bytes, 32 or 33.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            PublicKey::Ed25519(key) => key,
            PublicKey::Secp256k1(key) => key,
        }
    }

    /// The address that it signs under.
    #[must_use]
    pub fn address(&self) -> Address {
        let digest: [u8; 32] = Sha256::digest(self.as_bytes()).into();
        let mut address = [0; 20];
        match self {
            PublicKey::Ed25519(_) => address.copy_from_slice(&digest[..20]),
            PublicKey::Secp256k1(_) => address.copy_from_slice(&Ripemd160::digest(digest)),
        }
        Address(address)
    }

    /// Whether `sig` is this key's signature over `msg`, exactly as the network judges it.
    #[must_use]
    pub fn verify(&self, msg: &[u8], sig: &[u8]) -> bool {
        match self {
            PublicKey::Ed25519(key) => verify_ed25519(*key, msg, sig),
            PublicKey::Secp256k1(key) => verify_secp256k1(key, msg, sig).is_some(),
        }
    }
}

fn verify_ed25519(key: [u8; 32], msg: &[u8], sig: &[u8]) -> bool {
    let Ok(sig) = ed25519_zebra::Signature::try_from(sig) else {
        return false;
    };
    ed25519_zebra::VerificationKey::try_from(key).is_ok_and(|key| key.verify(&sig, msg).is_ok())
}

fn verify_secp256k1(key: &[u8; 33], msg: &[u8], sig: &[u8]) -> Option<()> {
    // Compressed points only: SEC 1 libraries also know other tags of this length.
    if !matches!(key[0], 2 | 3) || sig.len() != SIGNATURE_LEN {
        return None;
    }
    let key = k256::ecdsa::VerifyingKey::from_sec1_bytes(key).ok()?;
    // Go reduces both numbers modulo the order instead of refusing larger ones.
    let number = |half: &[u8]| {
        let half: [u8; 32] = half.try_into().ok()?;
        Some(k256::Scalar::reduce(&k256::FieldBytes::from(half)))
    };
    let (r, s) = (number(&sig[..32])?, number(&sig[32..])?);
    let sig = k256::ecdsa::Signature::from_scalars(r.to_bytes(), s.to_bytes()).ok()?;
    if sig.normalize_s() != sig {
        return None; // S above half the order: another signature for the same message
    }
    key.verify_prehash(&Sha256::digest(msg), &sig).ok()
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PublicKey::Ed25519(k) => write!(f, "ed25519:{}", hex::encode(k)),
            PublicKey::Secp256k1(k) => write!(f, "secp256k1:{}", hex::encode(k)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::testing::{group, hex, key, name, ok, text};

    #[test]
    fn addresses_are_gos() {
        for case in group("keys") {
            let key = key(&case["pub_key"]);
            assert_eq!(key.address().to_string(), text(&case["address"]));
            assert_eq!(key.type_name(), text(&case["key_type"]));
            let mut out = Vec::new();
            crate::chain::encode::public_key(Some(&key), &mut out);
            assert_eq!(out, hex(&case["proto"]));
        }
    }

    #[test]
    fn signatures_are_judged_as_go_judges_them() {
        for case in group("signatures") {
            let bytes = hex(&case["pub_key"]);
            let key = PublicKey::from_type_bytes(text(&case["key_type"]), &bytes).unwrap();
            let verdict = key.verify(&hex(&case["message"]), &hex(&case["signature"]));
            assert_eq!(verdict, ok(case), "{}", name(case));
        }
    }

    #[test]
    fn other_keys_are_named() {
        let error = |name, len| {
            let err = PublicKey::from_type_bytes(name, &vec![1; len]).unwrap_err();
            err.to_string()
        };
        assert_eq!(error("bls12381", 48), "unsupported key type bls12381");
        assert_eq!(error("ed25519", 31), "ed25519 key of 31 bytes, expected 32");
        assert_eq!(
            error("secp256k1", 65),
            "secp256k1 key of 65 bytes, expected 33"
        );
    }

    /// Tags that SEC 1 libraries read at this length, but Go does not.
    #[test]
    fn only_compressed_points_verify() {
        let case = group("signatures").iter();
        let mut valid = case.filter(|c| text(&c["key_type"]) == "secp256k1" && ok(c));
        let case = valid.next().unwrap();
        let (message, sig) = (hex(&case["message"]), hex(&case["signature"]));
        let mut bytes: [u8; 33] = hex(&case["pub_key"]).try_into().unwrap();
        assert!(PublicKey::Secp256k1(bytes).verify(&message, &sig));
        for tag in [0, 1, 4, 5, 6, 7] {
            bytes[0] = tag;
            assert!(!PublicKey::Secp256k1(bytes).verify(&message, &sig));
        }
    }
}
