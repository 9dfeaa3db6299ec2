//! The validators' keys, derived from the seed.

use std::collections::HashMap;

use ml_dsa::{ExpandedSigningKey, MlDsa65};

use blocksync::chain::PublicKey;
use blocksync::chain::key::KeyType;
use blocksync::chain::merkle::sha256;
use blocksync::ids::Address;

/// All keys that may ever validate.
pub(super) struct Keys {
    list: Vec<(Secret, PublicKey)>,
    by_address: HashMap<Address, usize>,
}

impl Keys {
    pub(super) fn new(kind: KeyType, seed: u64, count: usize) -> Self {
        let list: Vec<(Secret, PublicKey)> = (0..count)
            .map(|i| {
                let secret = sha256(format!("blocksync chaingen {seed} validator {i}").as_bytes());
                let key = Secret::new(kind, &secret.0);
                let public = PublicKey::new(kind, &key.public()).expect("a key of this build");
                (key, public)
            })
            .collect();
        let by_address = list
            .iter()
            .enumerate()
            .map(|(i, (_, key))| (key.address(), i));
        Keys {
            by_address: by_address.collect(),
            list,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    /// The public key at an index below `len`.
    pub(super) fn public(&self, index: usize) -> &PublicKey {
        &self.list[index].1
    }

    /// The secret key of a validator; all addresses of the chain are of keys that are here.
    pub(super) fn secret(&self, address: &Address) -> &Secret {
        &self.list[self.by_address[address]].0
    }
}

/// A secret key of any type that this build can verify.
pub(super) enum Secret {
    Ed25519(Box<ed25519_dalek::SigningKey>),
    Secp256k1(k256::ecdsa::SigningKey),
    Secp256k1Eth(k256::ecdsa::SigningKey),
    MlDsa65(Box<ExpandedSigningKey<MlDsa65>>),
    #[cfg(feature = "bls")]
    Bls12381(blst::min_pk::SecretKey),
}

/// The domain of signatures of BLS12-381.
#[cfg(feature = "bls")]
const DOMAIN: &[u8] = b"BLS_SIG_BLS12381G2_XMD:SHA-256_SSWU_RO_NUL_";

impl Secret {
    fn new(kind: KeyType, seed: &[u8; 32]) -> Self {
        let scalar = || k256::ecdsa::SigningKey::from_slice(seed).expect("below the order");
        match kind {
            KeyType::Secp256k1 => Secret::Secp256k1(scalar()),
            KeyType::Secp256k1Eth => Secret::Secp256k1Eth(scalar()),
            KeyType::MlDsa65 => {
                let key = ExpandedSigningKey::from_seed(&(*seed).into());
                Secret::MlDsa65(Box::new(key))
            }
            #[cfg(feature = "bls")]
            KeyType::Bls12381 => {
                let key = blst::min_pk::SecretKey::key_gen(seed, &[]);
                Secret::Bls12381(key.expect("32 bytes"))
            }
            // The options were checked: of the others this build has ed25519 alone.
            _ => Secret::Ed25519(Box::new(ed25519_dalek::SigningKey::from_bytes(seed))),
        }
    }

    fn public(&self) -> Vec<u8> {
        match self {
            Secret::Ed25519(key) => key.verifying_key().to_bytes().to_vec(),
            Secret::Secp256k1(key) | Secret::Secp256k1Eth(key) => {
                let point = key.verifying_key().to_sec1_point(true);
                point.as_bytes().to_vec()
            }
            Secret::MlDsa65(key) => key.verifying_key().encode().to_vec(),
            #[cfg(feature = "bls")]
            Secret::Bls12381(key) => key.sk_to_pk().serialize().to_vec(),
        }
    }

    /// The signature over a vote.
    pub(super) fn sign(&self, message: &[u8]) -> Vec<u8> {
        use ed25519_dalek::Signer;
        use sha3::Digest;
        match self {
            Secret::Ed25519(key) => key.sign(message).to_bytes().to_vec(),
            Secret::Secp256k1(key) => {
                let (signature, _) = key.sign_prehash_recoverable(&sha256(message).0);
                signature.to_bytes().to_vec()
            }
            Secret::Secp256k1Eth(key) => {
                let hash = sha3::Keccak256::digest(message);
                let (signature, recovery) = key.sign_prehash_recoverable(&hash);
                let mut bytes = signature.to_bytes().to_vec();
                bytes.push(recovery.to_byte());
                bytes
            }
            Secret::MlDsa65(key) => {
                let signature = key.sign_deterministic(message, &[]);
                signature.expect("no context").encode().to_vec()
            }
            #[cfg(feature = "bls")]
            Secret::Bls12381(key) => key.sign(message, DOMAIN, &[]).compress().to_vec(),
        }
    }
}
