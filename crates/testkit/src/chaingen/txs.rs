//! Transactions of a block: pairs for the kvstore, and changes of the validator set.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use super::keys::Keys;
use super::options::Options;
use super::rng::Chance;
use blocksync::chain::{PublicKey, ValidatorSet};

/// The longest value in a big block.
const BIG_VALUE: usize = 20_000;
/// The powers that churn gives are from 1 to this.
const CHURN_POWER: u64 = 30;
/// The power of each member of a set that has been replaced as a whole.
const TURNOVER_POWER: i64 = 10;

/// Makes transactions, each key once in the chain.
pub(super) struct Txs {
    made: u64,
    /// The next key that may join.
    joiner: usize,
}

impl Txs {
    pub(super) fn new(options: &Options) -> Self {
        Txs {
            made: 0,
            joiner: options.validators,
        }
    }

    /// The transactions of the block `step` blocks above the first. `next` is the set that changes
    /// apply to.
    pub(super) fn of_block(
        &mut self,
        options: &Options,
        step: u64,
        next: &ValidatorSet,
        keys: &Keys,
        chance: &mut Chance,
    ) -> Vec<Bytes> {
        let count = if options.vary {
            chance.index(2 * options.txs + 1)
        } else {
            options.txs
        };
        let mut txs: Vec<Bytes> = (0..count)
            .map(|_| self.pair(options.tx_size, chance))
            .collect();
        if is_last_of(step, options.big_every) {
            let mut left = options.big_bytes;
            while left > 0 {
                let size = left.min(BIG_VALUE);
                txs.push(self.pair(size, chance));
                left -= size;
            }
        }
        if is_last_of(step, options.turnover_every) {
            txs.extend(turnover(next, keys));
        } else if is_last_of(step, options.churn_every) {
            txs.push(self.churn(options, next, keys, chance));
        }
        txs
    }

    fn pair(&mut self, size: usize, chance: &mut Chance) -> Bytes {
        let mut tx = format!("k{}=", self.made).into_bytes();
        tx.reserve_exact(size);
        chance.hex(size, &mut tx);
        self.made += 1;
        tx.into()
    }

    /// One validator joins, leaves or changes its power.
    fn churn(
        &mut self,
        options: &Options,
        next: &ValidatorSet,
        keys: &Keys,
        chance: &mut Chance,
    ) -> Bytes {
        let kind = chance.below(3);
        let power = 1 + chance.below(CHURN_POWER).cast_signed();
        let member = next.get(chance.index(next.len())).map(|v| v.key.clone());
        match (kind, member) {
            (0, Some(key)) if next.len() > options.validators / 2 + 1 => return update(&key, 0),
            (1, Some(key)) => return update(&key, power),
            _ => {}
        }
        for _ in 0..keys.len() {
            let key = keys.public(self.joiner % keys.len());
            self.joiner += 1;
            if next.by_address(&key.address()).is_none() {
                return update(key, power);
            }
        }
        Bytes::from_static(b"full=1")
    }
}

/// Every member leaves, every other key joins.
fn turnover(next: &ValidatorSet, keys: &Keys) -> Vec<Bytes> {
    (0..keys.len())
        .map(|i| {
            let key = keys.public(i);
            let member = next.by_address(&key.address()).is_some();
            update(key, if member { 0 } else { TURNOVER_POWER })
        })
        .collect()
}

/// A kvstore transaction that sets a validator's power.
fn update(key: &PublicKey, power: i64) -> Bytes {
    let text = STANDARD.encode(key.as_bytes());
    format!("val={}!{text}!{power}", key.type_name()).into()
}

/// Whether the block `step` blocks above the first is the last of a round of `every`.
fn is_last_of(step: u64, every: u64) -> bool {
    every > 0 && step % every == every - 1
}
