//! CometBFT's example application, and transactions that change consensus params.

use blocksync::app::{App, AppError, AppInfo, InitChain, InitChainResponse, KvStore};
use blocksync::chain::execution::ParamsUpdate;
use blocksync::chain::{FinalizeBlock, FinalizeResponse};
use blocksync::ids::Height;
use blocksync::store::Store;
use bytes::Bytes;

/// The application of the recorded chains of many key types: `kvstore`, where the transactions
/// `param=pub_key_types!A,B`, `param=block!MAX_BYTES!MAX_GAS`, `param=extensions!HEIGHT`,
/// `param=pbts!HEIGHT` and `param=app!VERSION` change the params too, each its own group.
#[derive(Debug, Default)]
pub struct ParamsKvStore(KvStore);

impl App for ParamsKvStore {
    fn embedded(&self) -> bool {
        self.0.embedded()
    }

    fn load(&mut self, store: &dyn Store) -> Result<(), AppError> {
        self.0.load(store)
    }

    fn take_writes(&mut self) -> Vec<(Bytes, Option<Bytes>)> {
        self.0.take_writes()
    }

    async fn info(&mut self) -> Result<AppInfo, AppError> {
        self.0.info().await
    }

    async fn init_chain(&mut self, request: InitChain) -> Result<InitChainResponse, AppError> {
        self.0.init_chain(request).await
    }

    async fn finalize_block(&mut self, block: FinalizeBlock) -> Result<FinalizeResponse, AppError> {
        let updates: Vec<Bytes> = block.txs.iter().filter_map(update_in).collect();
        let mut response = self.0.finalize_block(block).await?;
        for update in updates {
            let params = response.param_updates.get_or_insert_default();
            apply(params, &update).ok_or_else(|| {
                let why = format!("param={}", String::from_utf8_lossy(&update));
                AppError::Refused("FinalizeBlock", why)
            })?;
            response.encoded = None;
        }
        Ok(response)
    }

    async fn commit(&mut self) -> Result<Height, AppError> {
        self.0.commit().await
    }
}

/// The change that a transaction asks for.
fn update_in(tx: &Bytes) -> Option<Bytes> {
    tx.strip_prefix(b"param=")
        .map(|change| tx.slice_ref(change))
}

/// Puts a change into its group; `None` when it is none.
fn apply(params: &mut ParamsUpdate, change: &[u8]) -> Option<()> {
    let text = std::str::from_utf8(change).ok()?;
    match text.split('!').collect::<Vec<_>>()[..] {
        ["pub_key_types", types] => {
            let names = types.split(',').map(|name| name.to_owned().into());
            params.pub_key_types = Some(names.collect());
        }
        ["block", bytes, gas] => params.block = Some((bytes.parse().ok()?, gas.parse().ok()?)),
        ["extensions", height] => {
            params.vote_extensions_enable_height = Some(height.parse().ok()?);
        }
        ["pbts", height] => params.pbts_enable_height = Some(height.parse().ok()?),
        ["app", version] => params.version_app = Some(version.parse().ok()?),
        _ => return None,
    }
    Some(())
}
