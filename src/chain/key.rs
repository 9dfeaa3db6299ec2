//! Validators' public keys and the rule by which a signature is accepted (`protocol.md` 0.4, 5.7;
//! `versions.md` 1).

use std::fmt;

#[cfg(feature = "secp256k1")]
use ripemd::Ripemd160;
use sha2::{Digest, Sha256};

use super::encode;
use crate::ids::Address;

pub(super) mod bls;
mod ed25519;
mod kind;
mod mldsa;
#[cfg(feature = "secp256k1")]
mod secp256k1;

pub use bls::BlsKey;
pub use ed25519::Ed25519Rule;
pub use kind::KeyType;
pub use mldsa::MlDsaKey;

/// A validator's public key. Any 32 bytes may stand as an ed25519 key, and any 33 as a secp256k1
/// key of Cosmos' form; whether they are a point shows when a signature is verified. A copy of a
/// long one shares its bytes.
///
/// Make one by [`PublicKey::new`]: a type that this build cannot verify is refused there.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum PublicKey {
    /// Ed25519, verified by the rules of ZIP-215 or, in old versions, without the cofactor.
    Ed25519([u8; 32]),
    /// secp256k1, compressed; high S is refused.
    Secp256k1([u8; 33]),
    /// secp256k1 as Ethereum has it, a compressed point.
    Secp256k1Eth(EthKey),
    /// ML-DSA-65.
    MlDsa65(MlDsaKey),
    /// BLS12-381.
    Bls12381(BlsKey),
}

/// A compressed point of secp256k1.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EthKey([u8; 33]);

/// Why bytes are no key of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// A type that no validator can have.
    #[error("unsupported key type {0}")]
    Unsupported(String),
    /// A type whose keys no header can name.
    #[error(
        "key type sr25519 cannot be a validator's: no version of the PublicKey message has a field for it, so no header can name such a set"
    )]
    Sr25519,
    /// A type that this build leaves out.
    #[error(
        "key type {type_name}: this build cannot verify it; build blocksync with the feature `{feature}`"
    )]
    NotBuilt {
        /// The type.
        type_name: &'static str,
        /// The feature to build with.
        feature: &'static str,
    },
    /// A key of a known type, but not of that type's length.
    #[error("{type_name} key of {found} bytes, expected {expected}")]
    WrongLength {
        /// The type.
        type_name: &'static str,
        /// Length in bytes of keys of this type.
        expected: usize,
        /// Length of the given key.
        found: usize,
    },
    /// Bytes of the right length that are no point of the curve's group.
    #[error("{type_name} key {found}, expected a point of the curve")]
    NoPoint {
        /// The type.
        type_name: &'static str,
        /// The bytes.
        found: String,
    },
}

impl KeyError {
    /// The error for a type, named as in params or as in genesis, that is none of ours.
    #[must_use]
    pub fn unknown_type(name: &str) -> Self {
        match name {
            "sr25519" | "tendermint/PubKeySr25519" => KeyError::Sr25519,
            other => KeyError::Unsupported(other.to_owned()),
        }
    }
}

impl PublicKey {
    /// The name of ed25519, in params.
    pub const ED25519: &'static str = KeyType::Ed25519.name();
    /// The name of secp256k1.
    pub const SECP256K1: &'static str = KeyType::Secp256k1.name();

    /// Appends the message `PublicKey`, a oneof with one field for each type.
    pub fn encode(&self, out: &mut Vec<u8>) {
        encode::element(self.key_type() as u32, self.as_bytes(), out);
    }

    /// A key of this type.
    ///
    /// # Errors
    /// When this build cannot verify the type, the length is not its own, or the bytes are no point
    /// where they have to be one.
    pub fn new(kind: KeyType, bytes: &[u8]) -> Result<Self, KeyError> {
        let type_name = kind.name();
        // First: a build without the type must not call a good key a bad one.
        if let Some(feature) = kind.missing_feature() {
            return Err(KeyError::NotBuilt { type_name, feature });
        }
        let wrong = |_| KeyError::WrongLength {
            type_name,
            expected: kind.key_len(),
            found: bytes.len(),
        };
        let no_point = || KeyError::NoPoint {
            type_name,
            found: hex::encode(bytes),
        };
        match kind {
            KeyType::Ed25519 => bytes.try_into().map(PublicKey::Ed25519).map_err(wrong),
            KeyType::Secp256k1 => bytes.try_into().map(PublicKey::Secp256k1).map_err(wrong),
            KeyType::Secp256k1Eth => {
                let bytes = bytes.try_into().map_err(wrong)?;
                let key = EthKey::new(bytes).ok_or_else(no_point)?;
                Ok(PublicKey::Secp256k1Eth(key))
            }
            KeyType::MlDsa65 => {
                let bytes = bytes.try_into().map_err(wrong)?;
                Ok(PublicKey::MlDsa65(MlDsaKey::new(bytes)))
            }
            KeyType::Bls12381 => {
                let bytes: &[u8; bls::KEY_LEN] = bytes.try_into().map_err(wrong)?;
                let key = BlsKey::new(bytes).ok_or_else(no_point)?;
                Ok(PublicKey::Bls12381(key))
            }
        }
    }

    /// A key of this type, which may be in a shorter form where the type has one: a point of
    /// BLS12-381 in 48 bytes.
    ///
    /// # Errors
    /// As [`PublicKey::new`].
    pub fn maybe_compressed(kind: KeyType, bytes: &[u8]) -> Result<Self, KeyError> {
        if kind == KeyType::Bls12381 && bytes.len() == bls::COMPRESSED {
            let key = BlsKey::new(bytes).ok_or_else(|| KeyError::NoPoint {
                type_name: kind.name(),
                found: hex::encode(bytes),
            });
            return key.map(PublicKey::Bls12381);
        }
        Self::new(kind, bytes)
    }

    /// A key of the type with this name in params.
    ///
    /// # Errors
    /// When the type is not known, and as [`PublicKey::new`].
    pub fn from_type_bytes(type_name: &str, bytes: &[u8]) -> Result<Self, KeyError> {
        let kind = KeyType::from_name(type_name);
        Self::new(
            kind.ok_or_else(|| KeyError::unknown_type(type_name))?,
            bytes,
        )
    }

    /// Its type.
    #[must_use]
    pub fn key_type(&self) -> KeyType {
        match self {
            PublicKey::Ed25519(_) => KeyType::Ed25519,
            PublicKey::Secp256k1(_) => KeyType::Secp256k1,
            PublicKey::Secp256k1Eth(_) => KeyType::Secp256k1Eth,
            PublicKey::MlDsa65(_) => KeyType::MlDsa65,
            PublicKey::Bls12381(_) => KeyType::Bls12381,
        }
    }

    /// The name of its type in params.
    #[must_use]
    pub fn type_name(&self) -> &'static str {
        self.key_type().name()
    }

    /// Its bytes, as many as its type has.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            PublicKey::Ed25519(key) => key,
            PublicKey::Secp256k1(key) => key,
            PublicKey::Secp256k1Eth(EthKey(key)) => key,
            PublicKey::MlDsa65(key) => key.as_bytes(),
            PublicKey::Bls12381(key) => key.as_bytes(),
        }
    }

    /// The address that it signs under.
    #[must_use]
    pub fn address(&self) -> Address {
        // Ethereum's rule: the hash of the uncompressed point, and its last 20
        // bytes instead of the first.
        if let PublicKey::Secp256k1Eth(key) = self {
            return key.address();
        }
        let digest: [u8; 32] = Sha256::digest(self.as_bytes()).into();
        #[cfg(feature = "secp256k1")]
        if let PublicKey::Secp256k1(_) = self {
            return Address(Ripemd160::digest(digest).into());
        }
        // Of the others the first 20 bytes of the hash.
        let [address @ .., _, _, _, _, _, _, _, _, _, _, _, _] = digest;
        Address(address)
    }

    /// Whether `sig` is this key's signature over `msg`, exactly as the networks since 0.38 judge
    /// it.
    #[must_use]
    pub fn verify(&self, msg: &[u8], sig: &[u8]) -> bool {
        self.verify_by(Ed25519Rule::Zip215, msg, sig)
    }

    /// Whether `sig` is this key's signature over `msg`, where ed25519 goes by this rule.
    #[must_use]
    pub fn verify_by(&self, rule: Ed25519Rule, msg: &[u8], sig: &[u8]) -> bool {
        // Checked for all types at once: libraries differ in what they do with other lengths.
        if sig.len() != self.key_type().signature_len() {
            return false;
        }
        match self {
            PublicKey::Ed25519(key) => ed25519::verify(rule, key, msg, sig),
            PublicKey::MlDsa65(key) => key.verify(msg, sig),
            PublicKey::Bls12381(key) => key.verify(msg, sig),
            #[cfg(feature = "secp256k1")]
            PublicKey::Secp256k1(key) => secp256k1::verify(key, msg, sig).is_some(),
            #[cfg(feature = "secp256k1")]
            PublicKey::Secp256k1Eth(EthKey(key)) => secp256k1::verify_eth(key, msg, sig).is_some(),
            #[cfg(not(feature = "secp256k1"))]
            PublicKey::Secp256k1(_) | PublicKey::Secp256k1Eth(_) => false,
        }
    }
}

#[cfg(feature = "secp256k1")]
impl EthKey {
    fn new(bytes: &[u8; 33]) -> Option<Self> {
        secp256k1::is_point(bytes).then_some(EthKey(*bytes))
    }

    fn address(&self) -> Address {
        Address(secp256k1::eth_address(&self.0).expect("a key is a point"))
    }
}

/// Without the feature there is no such key.
#[cfg(not(feature = "secp256k1"))]
impl EthKey {
    fn new(_bytes: &[u8; 33]) -> Option<Self> {
        None
    }

    fn address(&self) -> Address {
        unreachable!("no such key can be made")
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.type_name(), hex::encode(self.as_bytes()))
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
            key.encode(&mut out);
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
        assert!(error("sr25519", 32).starts_with("key type sr25519 cannot be a validator's"));
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
