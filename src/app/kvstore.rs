//! CometBFT's example `kvstore`, compatible to the byte (`protocol.md` A.10), with its state in the
//! node's database.
//!
//! In memory it keeps a size, a height and the validators' keys; pairs go straight from a block's
//! bytes into the batch. A pair is stored under its own key: a pair's key has no `=`, and every
//! other record's key begins with one, so they cannot meet.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;

use super::kvstore_events as events;
use super::{App, AppError, AppInfo, InitChain, InitChainResponse};
use crate::chain::execution::{FinalizeBlock, FinalizeResponse, UpdateKey, ValidatorUpdate};
use crate::chain::key::KeyType;
use crate::chain::{PublicKey, TxResult};
use crate::ids::{Address, Height};
use crate::store::{Store, StoreError};

/// Prefix of a transaction that changes a validator.
const VALIDATOR_PREFIX: &[u8] = b"val=";
/// Size and height, 8 bytes each, big-endian.
const STATE_KEY: &[u8] = b"=kvstore/state";
/// Before a validator's address; the value is the key, tagged.
const VALIDATOR_KEY: &[u8] = b"=kvstore/validator/";
/// The ABCI version that `Info` reports.
const ABCI_VERSION: &[u8] = b"2.0.0";
/// `CheckTx`'s code for a transaction that it refuses.
const CODE_INVALID_TX: u32 = 2;
/// A duplicate vote in `Misbehavior`.
const DUPLICATE_VOTE: i32 = 1;

/// Go's standard base64: padded, and tolerant of bits behind the end. It also skips line breaks.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
);

/// One entry of `take_writes`.
type Write = (Bytes, Option<Bytes>);

/// Changes of a finalized block, made when it is committed.
#[derive(Debug, Default)]
struct Staged {
    size: i64,
    height: Height,
    pairs: Vec<(Bytes, Bytes)>,
    updates: Vec<ValidatorUpdate>,
    /// The first transaction that is neither a pair nor a validator's: Go panics on it in Commit.
    unreadable: Option<(usize, Bytes)>,
}

/// Answer of `query`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryResponse {
    /// `exists` or `does not exist`.
    pub log: &'static str,
    /// The key asked for.
    pub key: Bytes,
    /// Its value; empty when it does not exist.
    pub value: Bytes,
    /// The application's height.
    pub height: Height,
}

/// The application.
#[derive(Debug, Default)]
pub struct KvStore {
    /// Transactions executed so far.
    size: i64,
    height: Height,
    validators: BTreeMap<Address, PublicKey>,
    retain_blocks: u64,
    /// Whether responses carry events, as CometBFT's do.
    events: bool,
    staged: Option<Staged>,
    writes: Vec<Write>,
    /// Whether size and height have changed since the last `take_writes`.
    dirty: bool,
}

impl KvStore {
    /// An application that has executed no block.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// One that asks in `commit` for all but the last `blocks` to be pruned; 0 asks for nothing.
    #[must_use]
    pub fn with_retain_blocks(blocks: u64) -> Self {
        KvStore {
            retain_blocks: blocks,
            ..Self::default()
        }
    }

    /// The same, with the events of CometBFT's kvstore in its responses. Nothing that a chain
    /// commits to depends on them.
    #[must_use]
    pub fn with_events(mut self) -> Self {
        self.events = true;
        self
    }

    /// Go's `Query` of a key, over what is in the store and what has not been taken yet.
    ///
    /// # Errors
    /// When the store fails.
    pub fn query(&self, store: &dyn Store, key: &[u8]) -> Result<QueryResponse, AppError> {
        // The newest write wins, and all of them are newer than what the store holds.
        let pending = self.writes.iter().rev().find(|(k, _)| k == key);
        let value = match pending {
            Some((_, value)) => value.clone(),
            None => store.app_get(key)?,
        };
        Ok(QueryResponse {
            log: if value.is_some() {
                "exists"
            } else {
                "does not exist"
            },
            key: Bytes::copy_from_slice(key),
            value: value.unwrap_or_default(),
            height: self.height,
        })
    }

    /// Go's `CheckTx`: 0, or 2 for a transaction that it keeps out of the mempool. It is not the
    /// rule for blocks: `FinalizeBlock` takes some that this refuses, and fails on some that it
    /// lets pass.
    #[must_use]
    pub fn check_tx(tx: &[u8]) -> u32 {
        let count = |c: u8| tx.iter().filter(|b| **b == c).count();
        let ok = if tx.starts_with(VALIDATOR_PREFIX) {
            parse_validator_tx(tx).is_ok()
        } else {
            let inside = |c: u8| tx.first() != Some(&c) && tx.last() != Some(&c);
            match (count(b':'), count(b'=')) {
                // Go's mempool takes `k:v` too; its PrepareProposal rewrites it to `k=v`.
                (1, 0) => inside(b':'),
                (0, 1) => inside(b'='),
                _ => false,
            }
        };
        if ok { 0 } else { CODE_INVALID_TX }
    }

    /// Go's `updateValidator`.
    fn update_validator(&mut self, update: &ValidatorUpdate) -> Result<(), String> {
        let key = match &update.key {
            UpdateKey::Known(key) => key,
            // Go's `updateValidator` panics on a key that does not decode.
            UpdateKey::Invalid(kind, bytes) => {
                let name = kind.name();
                return Err(format!(
                    "a validator's {name} key: 0x{}",
                    hex::encode(bytes)
                ));
            }
            UpdateKey::Unsupported(kind) => {
                return Err(format!("a validator's key is of the unknown type {kind}"));
            }
        };
        let address = key.address();
        let stored = [VALIDATOR_KEY, &address.0].concat();
        if update.power == 0 {
            self.validators.remove(&address);
            self.writes.push((stored.into(), None));
        // A change of power alone writes nothing: only the key is kept, for punishing by address.
        } else if self.validators.insert(address, key.clone()).as_ref() != Some(key) {
            self.writes.push((stored.into(), Some(key_record(key))));
        }
        Ok(())
    }

    /// Go's punishment of a duplicate vote: one unit of power less.
    fn punish(&self, block: &FinalizeBlock) -> Result<Vec<ValidatorUpdate>, AppError> {
        let offenders = block
            .misbehavior
            .iter()
            .filter(|m| m.kind == DUPLICATE_VOTE);
        offenders
            .map(|offender| {
                let key = self.validators.get(&offender.address).ok_or_else(|| {
                    refused(
                        "FinalizeBlock",
                        block.height,
                        &format!("wanted to punish {} but cannot find it", offender.address),
                    )
                })?;
                Ok(ValidatorUpdate {
                    key: UpdateKey::Known(key.clone()),
                    // The power that the evidence recorded, not today's: so does Go's
                    // kvstore (`protocol.md` A.10).
                    power: offender.power - 1,
                })
            })
            .collect()
    }
}

impl App for KvStore {
    fn embedded(&self) -> bool {
        true
    }

    fn load(&mut self, store: &dyn Store) -> Result<(), AppError> {
        // There are validators from InitChain on, size and height from the first block on.
        for (name, record) in store.app_scan(VALIDATOR_KEY)? {
            let key = read_key_record(&record).ok_or_else(|| {
                StoreError::Corrupt(format!(
                    "the kvstore's record {} is no validator key",
                    hex::encode(&name)
                ))
            })?;
            self.validators.insert(key.address(), key);
        }
        let Some(state) = store.app_get(STATE_KEY)? else {
            return Ok(());
        };
        let (size, height) = state
            .split_first_chunk::<8>()
            .and_then(|(size, rest)| Some((size, <&[u8; 8]>::try_from(rest).ok()?)))
            .ok_or_else(|| {
                StoreError::Corrupt(format!(
                    "the state of the kvstore has {} bytes, not 16",
                    state.len()
                ))
            })?;
        self.size = i64::from_be_bytes(*size);
        self.height = Height::new(u64::from_be_bytes(*height));
        Ok(())
    }

    fn take_writes(&mut self) -> Vec<Write> {
        let mut writes = std::mem::take(&mut self.writes);
        // Once per batch and not once per block: only the last size and
        // height matter after a restart.
        if std::mem::take(&mut self.dirty) {
            let mut state = [0; 16];
            state[..8].copy_from_slice(&self.size.to_be_bytes());
            state[8..].copy_from_slice(&self.height.get().to_be_bytes());
            writes.push((
                Bytes::from_static(STATE_KEY),
                Some(Bytes::copy_from_slice(&state)),
            ));
        }
        writes
    }

    async fn info(&mut self) -> Result<AppInfo, AppError> {
        Ok(AppInfo {
            data: format!("{{\"size\":{}}}", self.size).into(),
            version: Bytes::from_static(ABCI_VERSION),
            // Go's kvstore reports this number, and headers carry it: another one would be refused.
            app_version: 1,
            last_height: self.height,
            last_app_hash: app_hash(self.size),
        })
    }

    async fn init_chain(&mut self, request: InitChain) -> Result<InitChainResponse, AppError> {
        for validator in &request.validators {
            let update = ValidatorUpdate {
                key: UpdateKey::Known(validator.key.clone()),
                power: validator.power,
            };
            self.update_validator(&update)
                .map_err(|why| AppError::Refused("InitChain", why))?;
        }
        Ok(InitChainResponse {
            app_hash: app_hash(self.size),
            ..InitChainResponse::default()
        })
    }

    async fn finalize_block(&mut self, block: FinalizeBlock) -> Result<FinalizeResponse, AppError> {
        // Nothing of `self` changes before `commit`: a block that is finalized
        // twice must answer the same.
        let mut staged = Staged {
            size: self.size,
            height: block.height,
            pairs: Vec::with_capacity(block.txs.len()),
            updates: self.punish(&block)?,
            unreadable: None,
        };
        for (index, tx) in block.txs.iter().enumerate() {
            staged.size += 1;
            if tx.starts_with(VALIDATOR_PREFIX) {
                let update = parse_validator_tx(tx).map_err(|why| {
                    refused("FinalizeBlock", block.height, &format!("tx {index}: {why}"))
                })?;
                staged.updates.push(update);
            } else if let Some(pair) = parse_pair(tx) {
                staged.pairs.push(pair);
            // Go finalizes such a block and panics in Commit. So the answer is
            // given, and `commit` refuses.
            } else if staged.unreadable.is_none() {
                staged.unreadable = Some((index, tx.clone()));
            }
        }
        let mut response = FinalizeResponse {
            // Code 0 and no data: each result is an empty leaf of the results
            // hash (`protocol.md` 5.3).
            tx_results: vec![TxResult::default(); block.txs.len()],
            validator_updates: staged.updates.clone(),
            app_hash: app_hash(staged.size),
            ..FinalizeResponse::default()
        };
        if self.events {
            response.encoded = Some(events::encode(&response, &block.txs));
        }
        self.staged = Some(staged);
        Ok(response)
    }

    async fn commit(&mut self) -> Result<Height, AppError> {
        // Taken even if it is refused below: a failed block must be finalized
        // anew, not committed again.
        let Some(staged) = self.staged.take() else {
            return Err(AppError::Refused("Commit", "no block is finalized".into()));
        };
        if let Some((index, tx)) = staged.unreadable {
            let start = String::from_utf8_lossy(&tx[..tx.len().min(40)]).into_owned();
            let why = format!("tx {index} is neither key=value nor a validator update: {start:?}");
            return Err(refused("Commit", staged.height, &why));
        }
        for update in &staged.updates {
            self.update_validator(update)
                .map_err(|why| refused("Commit", staged.height, &why))?;
        }
        let pairs = staged.pairs.into_iter();
        self.writes.extend(pairs.map(|(k, v)| (k, Some(v))));
        self.size = staged.size;
        self.height = staged.height;
        self.dirty = true;
        let height = self.height.get();
        // Height 0 asks for nothing, and a chain shorter than that has nothing to prune.
        if self.retain_blocks == 0 || height < self.retain_blocks {
            return Ok(Height::ZERO);
        }
        Ok(Height::new(height - self.retain_blocks + 1))
    }
}

/// A refusal that names the height.
fn refused(call: &'static str, height: Height, why: &str) -> AppError {
    AppError::Refused(call, format!("height {height}: {why}"))
}

/// An 8-byte buffer that begins with the zig-zag varint of the number of transactions so far.
fn app_hash(size: i64) -> Bytes {
    // Go's `binary.PutVarint`, and not protobuf's varint: signed, so the count is doubled.
    let mut zigzag = (size << 1).cast_unsigned() ^ (size >> 63).cast_unsigned();
    let mut hash = [0; 8];
    // Seven bits a byte: counts below 2^55 fit the eight bytes, after that Go itself panics.
    for byte in &mut hash {
        let low = u8::try_from(zigzag & 0x7f).expect("seven bits");
        zigzag >>= 7;
        *byte = low | if zigzag > 0 { 0x80 } else { 0 };
        if zigzag == 0 {
            break;
        }
    }
    Bytes::copy_from_slice(&hash)
}

/// Key and value of `key=value` with exactly one `=`, as slices of the transaction.
fn parse_pair(tx: &Bytes) -> Option<(Bytes, Bytes)> {
    let at = tx.iter().position(|b| *b == b'=')?;
    let value = tx.slice(at + 1..);
    (!value.contains(&b'=')).then(|| (tx.slice(..at), value))
}

/// A transaction `val=TYPE!KEY!POWER`, where Go panics on anything else that begins with `val=`.
fn parse_validator_tx(tx: &[u8]) -> Result<ValidatorUpdate, String> {
    let text = &tx[VALIDATOR_PREFIX.len()..];
    let parts: Vec<&[u8]> = text.split(|b| *b == b'!').collect();
    let [kind, key, power] = parts[..] else {
        return Err(format!(
            "expected 'pubkeytype!pubkey!power', got {} parts",
            parts.len()
        ));
    };
    // Go's decoder skips line breaks.
    let key: Vec<u8> = key
        .iter()
        .copied()
        .filter(|b| !matches!(b, b'\r' | b'\n'))
        .collect();
    let key = BASE64
        .decode(key)
        .map_err(|why| format!("the public key is invalid base64: {why}"))?;
    let power = std::str::from_utf8(power)
        .ok()
        .and_then(|text| text.parse::<i64>().ok())
        .ok_or_else(|| {
            format!(
                "the power {:?} is no integer",
                String::from_utf8_lossy(power)
            )
        })?;
    // Checked here as in Go; later it would be refused as an update, with another message.
    if power < 0 {
        return Err(format!("the power cannot be less than 0, got {power}"));
    }
    let kind = String::from_utf8_lossy(kind);
    // Go reads an empty type as ed25519.
    let named = if kind.is_empty() {
        PublicKey::ED25519
    } else {
        &*kind
    };
    let key = UpdateKey::new(named, key.into());
    Ok(ValidatorUpdate { key, power })
}

/// A key as it is stored: a byte for its type, and its bytes.
fn key_record(key: &PublicKey) -> Bytes {
    [&[key.key_type() as u8], key.as_bytes()].concat().into()
}

/// The reverse of `key_record`.
fn read_key_record(record: &[u8]) -> Option<PublicKey> {
    let (kind, key) = record.split_first()?;
    PublicKey::new(KeyType::from_field(*kind)?, key).ok()
}

#[cfg(test)]
#[path = "kvstore_tests.rs"]
mod tests;
