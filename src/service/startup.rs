//! Start-up: brings store, chain state and application to one height before anything is asked of anybody
//! (`protocol.md` 6.2, 7.3). Repeating it after a kill in its middle does no harm.

use std::sync::Arc;

use tracing::warn;

use crate::app::{App, AppError, AppInfo, InitChain};
use crate::chain::{ChainState, Fetched, FinalizeBlock, Genesis};
use crate::ids::Height;
use crate::store::{Batch, Span, Store, StoreError};
use crate::wire;

use super::checks::Refusal;
use super::config::Config;
use super::executor::{Executor, Writer};
use super::trust::Trust;

/// Why the service could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store failed.
    #[error("the store: {0}")]
    Store(#[from] StoreError),
    /// The application failed.
    #[error("{0}")]
    App(#[from] AppError),
    /// The genesis makes no state.
    #[error("genesis: {0}")]
    Genesis(String),
    /// The home belongs to another chain.
    #[error(
        "this home holds {found}, but the genesis is of {expected}: use another --home, or this chain's genesis"
    )]
    OtherChain {
        /// What the genesis says.
        expected: String,
        /// What the home holds.
        found: String,
    },
    /// Store, state and application do not fit together.
    #[error("{0}")]
    Inconsistent(String),
    /// A stored block contradicts the state when it is executed again.
    #[error("the certified chain contradicts our own state: {0}")]
    Diverged(String),
    /// The CPU pool could not be started.
    #[error(transparent)]
    Offload(#[from] super::offload::OffloadError),
}

/// The state to go on from; durable, and agreed with the application. Stored blocks above it are left to `replay`.
pub(super) async fn prepare<A: App>(
    app: &mut A,
    writer: &mut Writer,
    genesis: &Genesis,
    config: &Config,
) -> Result<Arc<ChainState>, StartError> {
    app.load(&**writer.store())?;
    let info = app.info().await?;
    let state = match writer.store().state()? {
        Some(state) => {
            let state = same_chain(state, genesis)?;
            // An external application that was killed before its first commit has forgotten InitChain.
            let forgotten = !app.embedded() && info.last_height == Height::ZERO;
            if forgotten && state.last_height == Height::ZERO {
                from_genesis(app, writer, genesis, config, &info).await?
            } else {
                state
            }
        }
        None => from_genesis(app, writer, genesis, config, &info).await?,
    };
    trusted(&**writer.store(), config)?;
    let span = writer.store().span()?;
    if app.embedded() && info.last_height != state.last_height {
        return Err(StartError::Inconsistent(format!(
            "the built-in application is at height {}, the chain state at {}: the home is damaged, or was made with another --app",
            info.last_height, state.last_height
        )));
    }
    if !app.embedded() {
        catch_up_application(app, writer, genesis, config, &state, &info, span).await?;
    }
    Ok(Arc::new(state))
}

/// A home of another chain than the trusted one is not used at all.
fn trusted(store: &dyn Store, config: &Config) -> Result<(), StartError> {
    match config
        .trust
        .map(|trust| Trust::of(store, trust))
        .transpose()?
    {
        Some(Trust::Differs(why)) => Err(StartError::Diverged(why)),
        Some(Trust::Unknown(why)) => {
            warn!("{why}");
            Ok(())
        }
        Some(Trust::Holds | Trust::NotReached(_)) | None => Ok(()),
    }
}

fn same_chain(state: ChainState, genesis: &Genesis) -> Result<ChainState, StartError> {
    let found = (
        String::from_utf8_lossy(&state.chain_id).into_owned(),
        state.initial_height,
    );
    let expected = (genesis.chain_id.clone(), genesis.initial_height);
    let show = |(chain, initial): &(String, Height)| format!("chain {chain} from height {initial}");
    if found == expected {
        Ok(state)
    } else {
        Err(StartError::OtherChain {
            expected: show(&expected),
            found: show(&found),
        })
    }
}

async fn from_genesis<A: App>(
    app: &mut A,
    writer: &mut Writer,
    genesis: &Genesis,
    config: &Config,
    info: &AppInfo,
) -> Result<ChainState, StartError> {
    let bad = |e: crate::chain::state::StateError| StartError::Genesis(e.to_string());
    let now = (config.clock)();
    let mut state = ChainState::from_genesis(genesis, now)
        .map_err(bad)?
        .with_app_info(info.app_version);
    if info.last_height == Height::ZERO {
        let answer = app.init_chain(init_chain(genesis, &state, config)).await?;
        state = state
            .with_init_chain(answer.params.as_ref(), &answer.validators, &answer.app_hash)
            .map_err(bad)?;
    }
    if state.validators.is_empty() {
        return Err(StartError::Genesis(
            "neither it nor the application names a validator".into(),
        ));
    }
    let batch = Batch {
        state: Some(Arc::new(state.clone())),
        app: app.take_writes(),
        ..Batch::default()
    };
    writer.commit(batch)?;
    Ok(state)
}

fn init_chain(genesis: &Genesis, state: &ChainState, config: &Config) -> InitChain {
    let rules = config.rules.at(genesis.initial_height);
    InitChain::of(state, genesis.app_state.clone(), rules)
}

/// Executes on an external application what it has lost, up to the chain state's height, without changing the state.
async fn catch_up_application<A: App>(
    app: &mut A,
    writer: &Writer,
    genesis: &Genesis,
    config: &Config,
    state: &ChainState,
    info: &AppInfo,
    span: Span,
) -> Result<(), StartError> {
    let (app_at, state_at) = (info.last_height, state.last_height);
    let ahead_by_one = app_at == state.next_height()
        && writer.store().results()?.is_some_and(|(h, _)| h == app_at);
    if app_at > state_at && !ahead_by_one {
        return Err(StartError::Inconsistent(format!(
            "the application is at height {app_at}, the chain state only at {state_at}: reset the application, or restore the home"
        )));
    }
    if app_at == Height::ZERO && state_at > Height::ZERO {
        let initial = ChainState::from_genesis(genesis, state.last_block_time)
            .map_err(|e| StartError::Genesis(e.to_string()))?;
        app.init_chain(init_chain(genesis, &initial, config))
            .await?;
    }
    let first = app_at.next().max(state.initial_height);
    if first <= state_at && first < span.base {
        return Err(StartError::Inconsistent(format!(
            "the application is at height {app_at}, but blocks below {} have been pruned: restore a later copy of the application",
            span.base
        )));
    }
    let mut height = first;
    let mut hash = info.last_app_hash.clone();
    while height <= state_at {
        let block = stored(writer, height)?;
        let before = height.prev();
        if !hash.is_empty() && hash != block.header().app_hash {
            return Err(app_hash_differs(before, &block.header().app_hash, &hash));
        }
        let last = if height > state.initial_height {
            writer.store().validators(before)?
        } else {
            None
        };
        let request = FinalizeBlock::from_block(
            &block.block,
            block.id,
            last.as_deref(),
            state.initial_height,
        )
        .map_err(|e| StartError::Diverged(e.to_string()))?;
        hash = app.finalize_block(request).await?.app_hash;
        app.commit().await?;
        height = height.next();
    }
    if !ahead_by_one && state_at > Height::ZERO && hash != state.app_hash {
        return Err(app_hash_differs(state_at, &state.app_hash, &hash));
    }
    Ok(())
}

fn app_hash_differs(height: Height, expected: &[u8], found: &[u8]) -> StartError {
    StartError::Diverged(format!(
        "the application's hash after height {height} is {}, the chain has {}",
        hex::encode(found),
        hex::encode(expected)
    ))
}

fn stored(writer: &Writer, height: Height) -> Result<Fetched, StartError> {
    let record = writer.store().block(height)?.ok_or_else(|| {
        StartError::Inconsistent(format!("block {height} is missing in the store"))
    })?;
    let corrupt =
        |e: wire::WireError| StartError::Store(StoreError::Corrupt(format!("block {height}: {e}")));
    wire::decode::stored_block(record.raw, record.ext_raw, record.id).map_err(corrupt)
}

impl<A: App> Executor<A> {
    /// Executes the certified blocks that are stored above the state, revalidating each; the first may be committed in the
    /// application already, then its stored response is taken.
    pub(super) async fn replay(&mut self) -> Result<(), StartError> {
        let info = self.app.info().await?;
        let until = self.config.pool.until;
        let last = |stored: Height| until.map_or(stored, |until| until.min(stored));
        while self.state.last_height < last(self.writer.store().span()?.stored) {
            let height = self.state.next_height();
            let block = stored(&self.writer, height)?;
            let committed = !self.app.embedded() && info.last_height == height;
            self.replay_one(&block, committed)
                .await
                .map_err(|refusal| match refusal {
                    Refusal::Ours(fault) => StartError::Diverged(fault.to_string()),
                    Refusal::Copy { fault, .. } => {
                        StartError::Diverged(format!("stored block {height}: {fault}"))
                    }
                    Refusal::Stopped => {
                        StartError::Inconsistent("stopped while stored blocks were executed".into())
                    }
                })?;
        }
        Ok(())
    }

    async fn replay_one(&mut self, block: &Fetched, committed: bool) -> Result<(), Refusal> {
        self.check_stored(block)?;
        let after = if committed {
            let results = self
                .writer
                .store()
                .results()
                .map_err(super::checks::store_failed)?;
            let (_, bytes) = results.ok_or(Refusal::Stopped)?;
            let response = wire::convert::finalize_response_from_bytes(&bytes).map_err(|e| {
                Refusal::Ours(crate::pool::LocalFault::Store(format!(
                    "stored results do not decode: {e}"
                )))
            })?;
            self.state
                .advance(&block.block, block.id, &response)
                .map_err(super::checks::bad_response)?
        } else {
            self.execute_external(block, Batch::default()).await?.0
        };
        // A built-in application's writes go with the state that they belong to.
        let writes = self.app.take_writes();
        self.record_state(block, after);
        self.write_state(writes).await
    }
}
