//! A service that only serves, until a state to sync from has arrived: the start of a node whose
//! state sync brings that state while it runs.

use std::fmt;
use std::sync::Arc;

use tokio::sync::watch;

use super::startup::{self, OnReplay, StartError};
use super::status::SyncStart;
use super::writer::Writer;
use super::{BlockSync, Handle, Shared, Stopped};
use crate::app::App;

/// The store's only writer and the application, while a service only serves.
#[non_exhaustive]
pub struct Waiting<A> {
    /// The only writer. State sync brings its state through it: in one batch the state, the commit
    /// for the state's height (`Batch::seen_commit`), and a built-in application's writes. Blocks
    /// that are written are served at once.
    pub writer: Writer,
    /// The application. The service has asked it nothing.
    pub app: A,
    on_replay: OnReplay,
}

/// Why block sync does not begin.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotBegun {
    /// The service has stopped.
    #[error(transparent)]
    Stopped(#[from] Stopped),
    /// It was begun before, or the writer is another service's.
    #[error("the writer given is not that of a service which waits for a state")]
    NotWaiting,
    /// The state, the store and the application do not fit together.
    #[error(transparent)]
    Start(#[from] StartError),
}

/// Block sync has not begun, and the service serves on.
pub struct BeginError<A> {
    /// The reason.
    pub why: NotBegun,
    /// Everything that was given.
    pub back: Box<Waiting<A>>,
}

impl<A> fmt::Debug for BeginError<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BeginError")
            .field("why", &self.why)
            .finish_non_exhaustive()
    }
}

impl<A> fmt::Display for BeginError<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.why.fmt(f)
    }
}

impl<A> std::error::Error for BeginError<A> {}

impl<A: App> BlockSync<A> {
    /// Starts the tasks on the current tokio runtime, but not block sync: peers are served the
    /// blocks that the store has and gets, their statuses are heard, and nothing is asked of the
    /// application or downloaded until `Handle::begin`.
    ///
    /// Nodes of CometBFT are not told our height meanwhile, as while we are behind, unless
    /// `ServeConfig::while_behind` says so.
    ///
    /// # Errors
    /// When the store is another chain's or has a writer already; nothing is running then.
    pub fn spawn_serving(self) -> Result<(Handle<A>, Waiting<A>), StartError> {
        let offload = self.config.offload()?;
        let committed = watch::Sender::new(());
        let writer = Writer::claim(&self.store, committed.clone()).ok_or(StartError::Claimed)?;
        // Without asking the application: it may not be there before state
        // sync has brought its state.
        let stored = startup::stored_state(&*self.store, &self.genesis, &self.config)?;
        let state = match stored {
            Some(state) => state,
            None => startup::genesis_state(&self.genesis, &self.config)?,
        };
        let state = Arc::new(state);
        let of = (Arc::new(self.genesis), Arc::new(self.config));
        let shared = Shared::new(of, offload, &state, committed);
        #[cfg(feature = "record")]
        let shared = shared.recorded()?;
        let handle = shared.start(&state, None, self.store);
        let waiting = Waiting {
            writer,
            app: self.app,
            on_replay: self.on_replay,
        };
        Ok((handle, waiting))
    }
}

impl<A: App> Handle<A> {
    /// Begins block sync from the state that the store has by now, as a start does: a store without
    /// a state begins at genesis, and blocks that are stored above the state, or that the
    /// application lacks, are executed first.
    ///
    /// Cancel safety: cancelled before it returns, what was given is lost; what was executed is
    /// durable.
    ///
    /// # Errors
    /// When the state is of another chain or of another block than the one stored, when it and the
    /// application do not stand at one height or differ in its hash, or when the service has begun
    /// before. Everything comes back in the error, and peers are served on.
    pub async fn begin(&mut self, own: Waiting<A>) -> Result<(), BeginError<A>> {
        let fail = |why, writer, app, on_replay| {
            let back = Box::new(Waiting {
                writer,
                app,
                on_replay,
            });
            Err(BeginError { why, back })
        };
        let Waiting {
            mut writer,
            mut app,
            on_replay,
        } = own;
        // By the channel that the writer tells: a writer of another service would leave ours deaf.
        if self.executor.is_some() || !writer.tells(&self.shared.committed) {
            return fail(NotBegun::NotWaiting, writer, app, on_replay);
        }
        let (genesis, config) = (self.shared.genesis.clone(), self.shared.config.clone());
        let prepared =
            startup::prepare_patiently(&mut app, &mut writer, &genesis, &config, &on_replay);
        let state = match prepared.await {
            Ok(state) => state,
            Err(why) => return fail(why.into(), writer, app, on_replay),
        };
        let (mut executor, executed) = self.shared.executor(app, writer, state);
        if let Err(why) = executor.replay(&on_replay).await {
            return fail(why.into(), executor.writer, executor.app, on_replay);
        }
        let requests = self.requests.clone();
        let Ok(way) = requests.reserve().await else {
            return fail(Stopped.into(), executor.writer, executor.app, on_replay);
        };
        way.send(self.launch((executor, executed), SyncStart::Start));
        Ok(())
    }
}
