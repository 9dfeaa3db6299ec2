//! CometBFT's example application of 0.34 and 0.37.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use blocksync::app::{App, AppError, AppInfo, InitChain, InitChainResponse};
use blocksync::chain::execution::UpdateKey;
use blocksync::chain::{FinalizeBlock, FinalizeResponse, PublicKey, TxResult, ValidatorUpdate};
use blocksync::ids::{Address, Height};
use blocksync::store::Store;
use bytes::Bytes;

const VALIDATOR_PREFIX: &[u8] = b"val:";
const DUPLICATE_VOTE: i32 = 1;
/// A transaction that is malformed.
const CODE_ENCODING: u32 = 1;
/// The removal of a validator that is not there.
const CODE_UNAUTHORIZED: u32 = 3;

/// The persistent `kvstore` of 0.34 and 0.37, as far as a chain sees it, in memory: a transaction
/// `val:KEY!POWER` changes a validator and is not counted, any other one is.
#[derive(Debug, Default)]
pub struct PersistentKvStore {
    size: i64,
    height: Height,
    validators: BTreeMap<Address, PublicKey>,
}

impl PersistentKvStore {
    /// Go's `updateValidator`: the transaction's code.
    fn update(&mut self, update: ValidatorUpdate, updates: &mut Vec<ValidatorUpdate>) -> u32 {
        let UpdateKey::Known(key) = &update.key else {
            panic!("Go panics as well: {:?}", update.key);
        };
        if update.power != 0 {
            self.validators.insert(key.address(), key.clone());
        } else if self.validators.remove(&key.address()).is_none() {
            return CODE_UNAUTHORIZED;
        }
        updates.push(update);
        0
    }
}

/// The change that the rest of a validator's transaction names.
fn parse(text: &[u8]) -> Option<ValidatorUpdate> {
    let (key, power) = std::str::from_utf8(text).ok()?.split_once('!')?;
    Some(ValidatorUpdate {
        key: UpdateKey::new(PublicKey::ED25519, STANDARD.decode(key).ok()?.into()),
        power: power.parse().ok()?,
    })
}

/// A buffer of 8 bytes that begins with the count as Go's signed varint.
fn app_hash(size: i64) -> Bytes {
    let (mut out, mut rest) = (Vec::new(), (size << 1) as u64);
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
    out.resize(8, 0);
    out.into()
}

impl App for PersistentKvStore {
    fn embedded(&self) -> bool {
        true
    }

    fn load(&mut self, _store: &dyn Store) -> Result<(), AppError> {
        Ok(())
    }

    fn take_writes(&mut self) -> Vec<(Bytes, Option<Bytes>)> {
        Vec::new()
    }

    async fn info(&mut self) -> Result<AppInfo, AppError> {
        Ok(AppInfo {
            data: Bytes::new(),
            version: Bytes::from_static(b"0.17.0"),
            app_version: 1,
            last_height: self.height,
            last_app_hash: if self.height == Height::ZERO {
                Bytes::new()
            } else {
                app_hash(self.size)
            },
        })
    }

    async fn init_chain(&mut self, request: InitChain) -> Result<InitChainResponse, AppError> {
        let members = request.validators.iter();
        self.validators = members.map(|v| (v.address, v.key.clone())).collect();
        Ok(InitChainResponse::default())
    }

    async fn finalize_block(&mut self, block: FinalizeBlock) -> Result<FinalizeResponse, AppError> {
        let mut updates = Vec::new();
        for offender in &block.misbehavior {
            let key = self.validators.get(&offender.address).cloned();
            if let Some(key) = key.filter(|_| offender.kind == DUPLICATE_VOTE) {
                let (key, power) = (UpdateKey::Known(key), offender.power - 1);
                self.update(ValidatorUpdate { key, power }, &mut updates);
            }
        }
        let mut tx_results = Vec::with_capacity(block.txs.len());
        for tx in block.txs.iter() {
            let code = match tx.strip_prefix(VALIDATOR_PREFIX).map(parse) {
                None => {
                    self.size += 1;
                    0
                }
                Some(None) => CODE_ENCODING,
                Some(Some(update)) => self.update(update, &mut updates),
            };
            tx_results.push(TxResult {
                code,
                ..TxResult::default()
            });
        }
        self.height = block.height;
        Ok(FinalizeResponse {
            tx_results,
            validator_updates: updates,
            app_hash: app_hash(self.size),
            ..FinalizeResponse::default()
        })
    }

    async fn commit(&mut self) -> Result<Height, AppError> {
        Ok(Height::ZERO)
    }
}
