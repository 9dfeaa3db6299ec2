//! The types of validators' keys: their names, numbers and lengths (`versions.md` 1.1).

/// A type of key. The numbers are the fields of `tendermint.crypto.PublicKey`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
#[non_exhaustive]
pub enum KeyType {
    /// Ed25519.
    Ed25519 = 1,
    /// secp256k1 as Cosmos has it: ECDSA over SHA-256.
    Secp256k1 = 2,
    /// BLS12-381, keys in G1 and signatures in G2.
    Bls12381 = 3,
    /// ML-DSA-65 of FIPS 204.
    MlDsa65 = 4,
    /// secp256k1 as Ethereum has it: recoverable signatures over Keccak-256.
    Secp256k1Eth = 5,
}

impl KeyType {
    /// All that can stand in a validator set.
    pub const ALL: [KeyType; 5] = [
        KeyType::Ed25519,
        KeyType::Secp256k1,
        KeyType::Bls12381,
        KeyType::MlDsa65,
        KeyType::Secp256k1Eth,
    ];

    /// The type's name in consensus params.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            KeyType::Ed25519 => "ed25519",
            KeyType::Secp256k1 => "secp256k1",
            KeyType::Bls12381 => "bls12_381",
            KeyType::MlDsa65 => "ml_dsa_65",
            KeyType::Secp256k1Eth => "secp256k1eth",
        }
    }

    /// The type's name in genesis.
    #[must_use]
    pub const fn json_name(self) -> &'static str {
        match self {
            KeyType::Ed25519 => "tendermint/PubKeyEd25519",
            KeyType::Secp256k1 => "tendermint/PubKeySecp256k1",
            KeyType::Bls12381 => "cometbft/PubKeyBls12_381",
            KeyType::MlDsa65 => "cometbft/PubKeyMlDsa65",
            KeyType::Secp256k1Eth => "tendermint/PubKeySecp256k1eth",
        }
    }

    /// Number of bytes in a key.
    #[must_use]
    pub const fn key_len(self) -> usize {
        match self {
            KeyType::Ed25519 => 32,
            KeyType::Secp256k1 | KeyType::Secp256k1Eth => 33,
            KeyType::Bls12381 => 96,
            KeyType::MlDsa65 => 1952,
        }
    }

    /// Number of bytes in a signature.
    #[must_use]
    pub const fn signature_len(self) -> usize {
        match self {
            KeyType::Ed25519 | KeyType::Secp256k1 => 64,
            KeyType::Bls12381 => 96,
            KeyType::MlDsa65 => 3309,
            KeyType::Secp256k1Eth => 65,
        }
    }

    /// The feature of this crate without which keys of the type are refused, if this build lacks
    /// it.
    #[must_use]
    pub const fn missing_feature(self) -> Option<&'static str> {
        let (feature, built) = match self {
            KeyType::Ed25519 => return None,
            KeyType::Secp256k1 | KeyType::Secp256k1Eth => {
                ("secp256k1", cfg!(feature = "secp256k1"))
            }
            KeyType::Bls12381 => ("bls", cfg!(feature = "bls")),
            KeyType::MlDsa65 => ("mldsa", cfg!(feature = "mldsa")),
        };
        if built { None } else { Some(feature) }
    }

    /// The type of this name in consensus params.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The type of this name in genesis.
    #[must_use]
    pub fn from_json_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.json_name() == name)
    }

    /// The type of this field of `PublicKey`.
    #[must_use]
    pub fn from_field(field: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == field)
    }
}
