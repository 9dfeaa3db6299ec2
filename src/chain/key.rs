//! Validators' public keys and the rule by which a signature is accepted (`comet-protocol.md` 0.4, 5.7).

use std::fmt;

/// A validator's public key. Any 32 bytes may stand as an ed25519 key; whether they are a point shows when a signature is verified.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PublicKey {
    /// Ed25519, verified by the rules of ZIP-215.
    Ed25519([u8; 32]),
    /// secp256k1, compressed; high S is refused.
    Secp256k1([u8; 33]),
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PublicKey::Ed25519(k) => write!(f, "ed25519:{}", hex::encode(k)),
            PublicKey::Secp256k1(k) => write!(f, "secp256k1:{}", hex::encode(k)),
        }
    }
}
