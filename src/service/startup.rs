//! Start-up: brings store, chain state and application to one height before anything is asked of
//! anybody (`protocol.md` 6.2, 7.3). Repeating it after a kill in its middle does no harm.

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::{Duration, Instant};
use tracing::{info, warn};

use super::checks::Refusal;
use super::config::Config;
use super::executor::Executor;
use super::external::{MOST_LOSSES, RETRY_EVERY, committed_contradiction, contradiction};
use super::trust::Trust;
use super::writer::Writer;
use crate::app::{App, AppError, AppInfo, InitChain};
use crate::chain::execution::results_hash;
use crate::chain::{ChainState, Fetched, FinalizeBlock, Genesis};
use crate::ids::Height;
use crate::pool::LocalFault;
use crate::store::{Batch, Store, StoreError};
use crate::wire;

/// Why the service could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
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
        /// The value in the genesis.
        expected: String,
        /// The value in the home.
        found: String,
    },
    /// Store, state and application do not fit together.
    #[error("{0}")]
    Inconsistent(String),
    /// A stored block contradicts the state when it is executed again.
    #[error("the certified chain contradicts our own state: {0}")]
    Diverged(String),
    /// The application does not execute this height: an upgrade is due, or it was told to halt.
    #[error("{}", LocalFault::Halted { height: *height, why: why.clone() })]
    Halted {
        /// The height that it refuses.
        height: Height,
        /// The application's words.
        why: String,
    },
    /// Another service of this process writes to the store, or consensus does that it has handed
    /// over to.
    #[error("the store has a writer already: one service at a time may write to it")]
    Claimed,
    /// The CPU pool could not be started.
    #[error(transparent)]
    Offload(#[from] super::offload::OffloadError),
    /// The file of the flight recorder cannot be written.
    #[error("the recording {}: {error}", file.display())]
    Record {
        /// The file.
        file: std::path::PathBuf,
        /// The system's words.
        error: std::io::Error,
    },
}

/// Hears of stored blocks that are executed on the application: height, and the last of them.
pub type OnReplay = Arc<dyn Fn(Height, Height) + Send + Sync>;

/// As `prepare`, once more whenever an application that has answered is lost, for as long as
/// `Config::app_retry` each time.
pub(super) async fn prepare_patiently<A: App>(
    app: &mut A,
    writer: &mut Writer,
    genesis: &Genesis,
    config: &Config,
    told: &OnReplay,
) -> Result<Arc<ChainState>, StartError> {
    app.load(&**writer.store())?;
    let state = writer.store().state()?;
    let next = state.map_or(genesis.initial_height, |state| state.next_height());
    // Before the first call: the version of ABCI that it is made in goes by the next height.
    app.follow_rules(&config.rules, next);
    let info = app.info().await;
    // An application of another version may tell by this already.
    let mut info = info.map_err(|error| failed_at(next, error))?;
    let mut patience = Patience::new(config);
    let mut losses = 0;
    loop {
        let lost = match prepare(app, writer, genesis, config, &info, told).await {
            Err(StartError::App(error)) if error.is_lost() => error,
            other => return other,
        };
        // An application that gets on may be lost often: each start of it takes it further.
        let (why, at) = (lost.to_string(), info.last_height);
        info = patience.info(app, lost).await?;
        losses = if info.last_height == at {
            losses + 1
        } else {
            0
        };
        if losses >= MOST_LOSSES {
            return Err(lost_each_time(&why, losses));
        }
    }
}

/// The words for an application that answers `Info` and is lost at the same call each time.
fn lost_each_time(why: &str, losses: u32) -> StartError {
    StartError::Inconsistent(format!(
        "{why}, each of the {losses} times that it was tried; its log may say why. An application that was running before may hold an \
         unfinished block of an earlier connection. Restart the application, then start again"
    ))
}

/// How long a lost application is waited for.
struct Patience {
    most: Duration,
    until: Option<Instant>,
}

impl Patience {
    fn new(config: &Config) -> Self {
        let most = config.app_retry;
        Patience { most, until: None }
    }

    /// Where the application is, once it answers again. The time runs from the first loss.
    async fn info<A: App>(&mut self, app: &mut A, lost: AppError) -> Result<AppInfo, StartError> {
        let until = *self.until.get_or_insert(Instant::now() + self.most);
        let mut lost = lost;
        loop {
            // One patience for the whole start: an application that dies again and again ends it
            // too.
            if Instant::now() >= until || !app.reconnect() {
                return Err(lost.into());
            }
            warn!("{lost}; trying again");
            tokio::time::sleep(RETRY_EVERY).await;
            match app.info().await {
                Err(error) if error.is_lost() => lost = error,
                other => return Ok(other?),
            }
        }
    }
}

/// The state to go on from; durable, and agreed with the application. Stored blocks above it are
/// left to `replay`.
async fn prepare<A: App>(
    app: &mut A,
    writer: &mut Writer,
    genesis: &Genesis,
    config: &Config,
    info: &AppInfo,
    told: &OnReplay,
) -> Result<Arc<ChainState>, StartError> {
    let state = match stored_state(&**writer.store(), genesis, config)? {
        Some(state) => {
            // An external application that was killed before its first commit has forgotten
            // InitChain.
            let forgotten = !app.embedded() && info.last_height == Height::ZERO;
            if forgotten && state.last_height == Height::ZERO {
                from_genesis(app, writer, genesis, config, info).await?
            } else {
                state
            }
        }
        // To begin at genesis would execute blocks twice on an application that has them.
        None if !app.embedded() && info.last_height > Height::ZERO => {
            return Err(ahead_of_nothing(info.last_height));
        }
        None => from_genesis(app, writer, genesis, config, info).await?,
    };
    if app.embedded() && info.last_height != state.last_height {
        return Err(StartError::Inconsistent(format!(
            "the built-in application is at height {}, the chain state at {}: the home is damaged, or was made with another --app",
            info.last_height, state.last_height
        )));
    }
    if !app.embedded() {
        let told = |done, of| told(done, of);
        let catch_up = CatchUp {
            writer,
            genesis,
            config,
            state: &state,
            told: &told,
        };
        catch_up.run(app, info, false).await?;
    }
    Ok(Arc::new(state))
}

/// The store's state: of this chain and of the stored blocks, with the trusted block below it.
pub(super) fn stored_state(
    store: &dyn Store,
    genesis: &Genesis,
    config: &Config,
) -> Result<Option<ChainState>, StartError> {
    let state = store.state()?;
    // Chain id and first height: a state holds no more of its genesis.
    let state = state.map(|s| same_chain(s, genesis)).transpose()?;
    if let Some(state) = &state
        && let Some((_, id)) = store.header(state.last_height)?
        && id != state.last_block_id
    {
        return Err(StartError::Inconsistent(format!(
            "the chain state is that after block {} at height {}, but the block stored there is {id}: the home is damaged, or its state \
             is another chain's of the same name",
            state.last_block_id, state.last_height
        )));
    }
    trusted(store, config)?;
    Ok(state)
}

/// A home of another chain than the trusted one is not used at all.
fn trusted(store: &dyn Store, config: &Config) -> Result<(), StartError> {
    match config
        .trust
        .map(|trust| Trust::of(store, trust))
        .transpose()?
    {
        Some(Trust::Differs(why)) => Err(StartError::Diverged(why)),
        // Pruned away before it could be compared. To refuse would make the home useless; the
        // operator is told.
        Some(Trust::Unknown(why)) => {
            warn!("{why}");
            Ok(())
        }
        Some(Trust::Holds | Trust::NotReached(_)) | None => Ok(()),
    }
}

fn ahead_of_nothing(app_at: Height) -> StartError {
    StartError::Inconsistent(format!(
        "the application is at height {app_at}, but this home is empty: it has no state of that height. Use the --home that filled the \
         application, or reset the application, so that both begin at genesis"
    ))
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

/// The genesis' state, before the application has said what it makes of it.
pub(super) fn genesis_state(genesis: &Genesis, config: &Config) -> Result<ChainState, StartError> {
    // A genesis without a time begins now, as in CometBFT (`protocol.md` 6.1).
    let state = ChainState::from_genesis(genesis, (config.clock)());
    state.map_err(|e| StartError::Genesis(e.to_string()))
}

async fn from_genesis<A: App>(
    app: &mut A,
    writer: &mut Writer,
    genesis: &Genesis,
    config: &Config,
    info: &AppInfo,
) -> Result<ChainState, StartError> {
    let bad = |e: crate::chain::state::StateError| StartError::Genesis(e.to_string());
    let mut state = genesis_state(genesis, config)?.with_app_info(info.app_version);
    if info.last_height == Height::ZERO {
        // An application with blocks has had `InitChain` (`protocol.md` 7.3).
        let request = init_chain(genesis, &state, config).await?;
        let answer = app.init_chain(request).await;
        let answer = answer.map_err(|error| failed_at(genesis.initial_height, error))?;
        let (params, validators) = (answer.params.as_ref(), &answer.validators);
        let rules = config.rules.at(genesis.initial_height);
        state = state
            .with_init_chain(params, validators, &answer.app_hash, rules)
            .map_err(bad)?;
    }
    // Only now: a genesis may leave the validators to the application (`protocol.md` 6.2).
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
    // Durable before the first block, with a built-in application's own genesis state.
    writer.commit(batch)?;
    Ok(state)
}

async fn init_chain(
    genesis: &Genesis,
    state: &ChainState,
    config: &Config,
) -> Result<InitChain, StartError> {
    let rules = config.rules.at(genesis.initial_height);
    let app_state = match &config.app_state {
        None => genesis.app_state.clone(),
        Some(source) => source.read().await.map_err(|e| {
            StartError::Genesis(format!("the application's state cannot be read: {e}"))
        })?,
    };
    Ok(InitChain::of(state, app_state, rules))
}

/// Brings an external application up to the chain state's height, without changing the state:
/// executes on it what it has lost.
pub(super) struct CatchUp<'a> {
    pub(super) writer: &'a Writer,
    pub(super) genesis: &'a Genesis,
    pub(super) config: &'a Config,
    pub(super) state: &'a ChainState,
    pub(super) told: &'a (dyn Fn(Height, Height) + Send + Sync),
}

impl CatchUp<'_> {
    /// `again`: the application may have forgotten `InitChain`, which had been called.
    ///
    /// # Errors
    /// When it is ahead, when blocks that it needs are gone, or when it computes something else
    /// than the chain has.
    pub(super) async fn run<A: App>(
        &self,
        app: &mut A,
        info: &AppInfo,
        again: bool,
    ) -> Result<(), StartError> {
        let (app_at, state_at) = (info.last_height, self.state.last_height);
        // A kill between the application's commit and ours leaves it one height ahead; the kept
        // response then stands for executing that height.
        let ahead_by_one = app_at == self.state.next_height() && self.holds_results(app_at)?;
        if app_at > state_at && !ahead_by_one {
            return Err(StartError::Inconsistent(format!(
                "the application is at height {app_at}, the chain state only at {state_at}: reset the application, or restore the home \
                 that belongs to it"
            )));
        }
        let initial = self.state.initial_height;
        let first = app_at.next().max(initial);
        // Blocks are needed only if there are any to be executed.
        let base = self.writer.store().span()?.base;
        if first <= state_at && base == Height::ZERO {
            return Err(StartError::Inconsistent(format!(
                "the application is at height {app_at}, the chain state at {state_at}, and no blocks are stored, as after a state sync: \
                 restore the application as it was at height {state_at}"
            )));
        }
        if first <= state_at && first < base {
            return Err(StartError::Inconsistent(format!(
                "the application is at height {app_at}, but blocks below {base} have been pruned: restore a later copy of the application"
            )));
        }
        if app_at == Height::ZERO && (state_at > Height::ZERO || again) {
            let initial = ChainState::from_genesis(self.genesis, self.state.last_block_time)
                .map_err(|e| StartError::Genesis(e.to_string()))?;
            // The answer is in our state already, and is not applied again (`protocol.md` 7.3).
            let request = init_chain(self.genesis, &initial, self.config).await?;
            let height = request.initial_height;
            let answer = app.init_chain(request).await;
            answer.map_err(|error| failed_at(height, error))?;
        }
        if first > state_at {
            return self.agrees(info, ahead_by_one);
        }
        info!(
            "executing the stored blocks {first} to {state_at} on the application, which is at {app_at}"
        );
        let mut hash = info.last_app_hash.clone();
        let mut height = first;
        while height <= state_at {
            let block = stored(self.writer, height)?;
            // Each header holds the hash after the block before it, so replay is checked at every
            // step.
            if !hash.is_empty() && hash != block.block.header.app_hash {
                let (before, expected) = (height.prev(), &block.block.header.app_hash);
                return Err(StartError::Diverged(app_hash_differs(
                    before, expected, &hash,
                )));
            }
            hash = self.execute(app, &block, height == first).await?;
            (self.told)(height, state_at);
            height = height.next();
        }
        Ok(())
    }

    /// Results of a height are stored, with which the state can follow an application that has
    /// committed it.
    fn holds_results(&self, of: Height) -> Result<bool, StoreError> {
        let results = self.writer.store().results()?;
        // The last response only: an application that is further ahead has
        // nothing here to follow it by.
        Ok(results.is_some_and(|(height, _)| height == of))
    }

    /// Nothing is to be executed: the application's hash must be the state's.
    fn agrees(&self, info: &AppInfo, ahead_by_one: bool) -> Result<(), StartError> {
        let (at, expected) = (self.state.last_height, &self.state.app_hash);
        // One ahead its hash is that of the block above; before the first
        // block it has none to compare.
        if ahead_by_one || at == Height::ZERO || info.last_app_hash == *expected {
            return Ok(());
        }
        Err(StartError::Diverged(app_hash_differs(
            at,
            expected,
            &info.last_app_hash,
        )))
    }

    /// One block; what it gives is held against the chain before the application commits it.
    async fn execute<A: App>(
        &self,
        app: &mut A,
        block: &Fetched,
        first: bool,
    ) -> Result<Bytes, StartError> {
        let (height, state) = (block.height(), self.state);
        // The first block's last commit is empty: no set has signed it.
        let last = if height > state.initial_height {
            self.writer.store().validators(height.prev())?
        } else {
            None
        };
        let initial = state.initial_height;
        let request = FinalizeBlock::from_block(&block.block, block.id, last.as_deref(), initial);
        let mut request = request.map_err(|e| StartError::Diverged(e.to_string()))?;
        request.syncing_to = state.last_height;
        // The application may hold an unfinished block of an earlier connection. At the initial
        // height `InitChain` does away with it.
        let announced = first && height > initial;
        if announced {
            let told = app.announce_block(&request).await;
            told.map_err(|error| failed_at(height, error))?;
        }
        let response = app.finalize_block(request).await;
        let response = response.map_err(|error| failed_at(height, error))?;
        // The block above has not come yet at the last height: its state knows what it will have to
        // say.
        let (app_hash, results) = if height == state.last_height {
            (state.app_hash.clone(), Some(state.last_results_hash))
        } else {
            let above = stored(self.writer, height.next())?.block.header;
            (above.app_hash, above.last_results_hash)
        };
        let found = results_hash(&response.tx_results);
        let hash_differs = !response.app_hash_is_late && response.app_hash != app_hash;
        if hash_differs || Some(found) != results {
            let mut why = app_hash_differs(height, &app_hash, &response.app_hash);
            if !hash_differs {
                why = format!("the results of block {height} are others than the chain has");
            }
            return Err(match contradiction(height, &why, announced) {
                Ok(why) => StartError::Diverged(why),
                Err(why) => StartError::Inconsistent(why),
            });
        }
        app.commit().await?;
        // Before ABCI 2.0 the hash comes only with `Commit`: a wrong one is found too late to keep
        // the application from it.
        let late = app.committed_hash().filter(|_| response.app_hash_is_late);
        let hash = late.unwrap_or(response.app_hash);
        if hash == app_hash {
            return Ok(hash);
        }
        let why = app_hash_differs(height, &app_hash, &hash);
        Err(StartError::Diverged(committed_contradiction(
            &why, announced,
        )))
    }
}

/// The application's failure over a block: one that says that it does not execute this height has a
/// word of its own.
fn failed_at(height: Height, error: AppError) -> StartError {
    match error.refuses_height() {
        Some(why) => StartError::Halted { height, why },
        None => error.into(),
    }
}

/// The words for an application that is at a height with another hash than the chain has for it.
pub(super) fn app_hash_differs(height: Height, expected: &[u8], found: &[u8]) -> String {
    format!(
        "the application's hash after height {height} is {}, the chain has {}",
        hex::encode(found),
        hex::encode(expected)
    )
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
    /// Executes the certified blocks that are stored above the state, revalidating each; the first
    /// may be committed in the application already, then the state follows from what was stored for
    /// that.
    pub(super) async fn replay(&mut self, told: &OnReplay) -> Result<(), StartError> {
        let top = self.writer.store().span()?.stored;
        if self.state.last_height >= top {
            return Ok(());
        }
        let info = self.app.info().await?;
        let until = self.config.pool.until;
        // A height that the user set as the last is not passed even by
        // blocks that are here already.
        let last = until.map_or(top, |until| until.min(top));
        while self.state.last_height < last {
            let height = self.state.next_height();
            let block = stored(&self.writer, height)?;
            let replayed = if self.app.embedded() {
                self.replay_one(&block).await
            } else {
                let above = (height < top).then(|| stored(&self.writer, height.next()));
                let above = above.transpose()?.map(Arc::new);
                // The application is at most one block ahead: it committed and we were
                // killed before our write.
                let committed = (info.last_height == height).then_some(&info.last_app_hash);
                self.replay_external(&block, above, committed).await
            };
            match replayed {
                // It is executed when it has been downloaded again, with proof of what comes of it.
                Err(Refusal::Unproven) => break,
                Err(refusal) => return Err(start_error(refusal, height)),
                Ok(()) => told(height, top),
            }
        }
        let flushed = self.flush_refusing().await;
        flushed.map_err(|refusal| start_error(refusal, top))
    }

    /// A built-in application's writes go with the state that they belong to.
    async fn replay_one(&mut self, block: &Fetched) -> Result<(), Refusal> {
        self.check_stored(block)?;
        let (after, ..) = self.execute(block).await?;
        let writes = self.app.take_writes();
        self.record_state(block, after);
        self.write_state(writes).await
    }
}

/// The executor's words for what cannot go on, as start-up's.
fn start_error(refusal: Refusal, height: Height) -> StartError {
    match refusal {
        Refusal::Ours(LocalFault::Halted { height, why }) => StartError::Halted { height, why },
        Refusal::Ours(LocalFault::Diverged(why)) => StartError::Diverged(why),
        Refusal::Ours(fault) => StartError::Inconsistent(fault.to_string()),
        Refusal::Copy { fault, .. } => {
            StartError::Diverged(format!("stored block {height}: {fault}"))
        }
        Refusal::Stopped | Refusal::Unproven => {
            StartError::Inconsistent("stopped while stored blocks were executed".into())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::service::AppStateSource;

    #[tokio::test]
    async fn the_applications_state_comes_from_its_source() {
        let genesis = r#"{"chain_id":"c","app_state":{"in":"the file"}}"#;
        let genesis = Genesis::parse(genesis.as_bytes()).unwrap();
        let state = ChainState::from_genesis(&genesis, crate::chain::Time::ZERO).unwrap();
        let mut config = Config::default();
        let request = init_chain(&genesis, &state, &config).await.unwrap();
        assert_eq!(request.app_state, r#"{"in":"the file"}"#);

        config.app_state = Some(AppStateSource::new(|| Ok("elsewhere".into())));
        let request = init_chain(&genesis, &state, &config).await.unwrap();
        assert_eq!(request.app_state, "elsewhere");

        let gone = || {
            Err(io::Error::new(
                io::ErrorKind::NotFound,
                "genesis.json is gone",
            ))
        };
        config.app_state = Some(AppStateSource::new(gone));
        let error = init_chain(&genesis, &state, &config).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "genesis: the application's state cannot be read: genesis.json is gone"
        );
    }
}
