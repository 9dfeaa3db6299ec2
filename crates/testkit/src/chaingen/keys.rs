//! The validators' keys, derived from the seed.

use std::collections::HashMap;

use ed25519_dalek::SigningKey;

use blocksync::chain::PublicKey;
use blocksync::chain::merkle::sha256;
use blocksync::ids::Address;

/// All keys that may ever validate.
pub(super) struct Keys {
    list: Vec<(SigningKey, PublicKey)>,
    by_address: HashMap<Address, usize>,
}

impl Keys {
    pub(super) fn new(seed: u64, count: usize) -> Self {
        let list: Vec<(SigningKey, PublicKey)> = (0..count)
            .map(|i| {
                let secret = sha256(format!("blocksync chaingen {seed} validator {i}").as_bytes());
                let key = SigningKey::from_bytes(&secret.0);
                let public = PublicKey::Ed25519(key.verifying_key().to_bytes());
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
    pub(super) fn secret(&self, address: &Address) -> &SigningKey {
        &self.list[self.by_address[address]].0
    }
}
