//! The application: the trait that users implement, and the built-in ones.

use std::future::Future;

use bytes::Bytes;

use crate::chain::execution::{FinalizeBlock, FinalizeResponse, ParamsUpdate, ValidatorUpdate};
use crate::chain::{
    AbciVersion, ChainState, ConsensusParams, RuleSchedule, Rules, Time, Validator,
};
use crate::ids::Height;
use crate::store::{Store, StoreError};

#[cfg(feature = "abci")]
mod abci;
mod any;
#[cfg(test)]
#[path = "../../crates/testkit/src/app/conformance.rs"]
pub mod conformance;
mod kvstore;
mod kvstore_events;
mod noop;

#[cfg(feature = "abci")]
pub use abci::{AbciClient, Connections, Spoken};
pub use any::{AnyApp, UnknownApp};
pub use kvstore::{KvStore, QueryResponse};
pub use noop::Noop;

/// Why an application could not answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AppError {
    /// The connection to it failed, or it answered what makes no sense.
    #[error("the application at {0}: {1}")]
    Connection(String, String),
    /// It answered with an error.
    #[error("the application refused {0}: {1}")]
    Refused(&'static str, String),
    /// It is of another stretch of the chain: its ABCI is not that of the block.
    #[error(
        "the application at {address} speaks another ABCI, {found}, where the rules {rules} of block {height} need that of {wanted} \
         (if it is the right application, name the rules of its heights with --rules)"
    )]
    OtherVersion {
        /// Where it listens.
        address: String,
        /// The ABCI that it speaks, as far as that is known, and what tells.
        found: String,
        /// The ABCI that the block needs.
        wanted: AbciVersion,
        /// The block's rules.
        rules: &'static str,
        /// The block.
        height: Height,
    },
    /// Its own state could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl AppError {
    /// Whether it may be gone for a while only: a new connection may mend it.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        matches!(self, AppError::Connection(..))
    }

    /// Why the application will not execute this block however often it is asked, when that is what
    /// it says: an upgrade is due, or it was told to halt here. These are the words of the Cosmos
    /// SDK, the only place where it is said. An application of another version of ABCI cannot.
    #[must_use]
    pub fn refuses_height(&self) -> Option<String> {
        match self {
            AppError::OtherVersion { .. } => Some(self.to_string()),
            AppError::Refused(_, why) => {
                // Go errors reach us as text alone: ABCI's exception has no
                // code to tell an upgrade by.
                let upgrade = why.contains("UPGRADE \"") && why.contains("\" NEEDED");
                let halt = why.contains("halt per configuration");
                (upgrade || halt).then(|| why.clone())
            }
            _ => None,
        }
    }
}

/// The application's answer to Info (`protocol.md` 7.2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AppInfo {
    /// Free text.
    pub data: Bytes,
    /// Free text.
    pub version: Bytes,
    /// Goes into the headers.
    pub app_version: u64,
    /// The last height that it committed; 0 before InitChain.
    pub last_height: Height,
    /// Its hash after that height.
    pub last_app_hash: Bytes,
}

/// `InitChain`'s request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitChain {
    /// The genesis time.
    pub time: Time,
    /// The chain.
    pub chain_id: Bytes,
    /// The genesis params.
    pub params: ConsensusParams,
    /// The genesis validators in canonical set order.
    pub validators: Vec<Validator>,
    /// Raw JSON from the genesis.
    pub app_state: Bytes,
    /// The height of the first block.
    pub initial_height: Height,
    /// The rules of the first block: they decide which groups of the params CometBFT sends.
    pub rules: Rules,
}

impl InitChain {
    /// The request for a chain whose state is that of its genesis.
    #[must_use]
    pub fn of(state: &ChainState, app_state: Bytes, rules: &Rules) -> Self {
        InitChain {
            time: state.last_block_time,
            chain_id: state.chain_id.clone(),
            params: state.params.clone(),
            validators: state.validators.iter().cloned().collect(),
            app_state,
            initial_height: state.initial_height,
            rules: *rules,
        }
    }
}

/// `InitChain`'s response (`protocol.md` 6.2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InitChainResponse {
    /// Params that replace the genesis'.
    pub params: Option<ParamsUpdate>,
    /// Validators that replace the genesis', when not empty.
    pub validators: Vec<ValidatorUpdate>,
    /// Replaces the genesis' app hash when not empty.
    pub app_hash: Bytes,
}

/// An application, driven by one task, one call at a time.
///
/// An *external* application keeps its own durable state: it is told of each block once and commits
/// it itself. An *embedded* one hands its writes over with `take_writes`; they go into the node's
/// database in the same transaction as the chain state, so its `info` after a restart agrees with
/// the chain state.
///
/// Implementations must pass `blocksync_testkit::app::conformance`.
pub trait App: Send + 'static {
    /// Whether its state lives in the node's database.
    fn embedded(&self) -> bool {
        false
    }

    /// Reads an embedded application's state back from the node's database; called once, before
    /// anything else.
    ///
    /// # Errors
    /// When the store fails or holds what the application did not write.
    fn load(&mut self, store: &dyn Store) -> Result<(), AppError> {
        let _ = store;
        Ok(())
    }

    /// Tells of the chain's rules and of its next height; called once, after `load`. Applications
    /// behind a socket go by them.
    fn follow_rules(&mut self, rules: &RuleSchedule, next: Height) {
        let _ = (rules, next);
    }

    /// An embedded application's writes since the last call.
    fn take_writes(&mut self) -> Vec<(Bytes, Option<Bytes>)> {
        Vec::new()
    }

    /// Info: the application's version, height and app hash.
    fn info(&mut self) -> impl Future<Output = Result<AppInfo, AppError>> + Send;

    /// Called before the first block, with the genesis.
    fn init_chain(
        &mut self,
        request: InitChain,
    ) -> impl Future<Output = Result<InitChainResponse, AppError>> + Send;

    /// Tells of the block that `finalize_block` will be given next, as consensus does
    /// (`ProcessProposal`); what it answers changes nothing. An application that outlives its
    /// connections may hold the effects of a block that was executed and never committed; those
    /// should be gone after this call. Where they are not, the block's app hash tells before it is
    /// committed, and the application has to be restarted. The call is made before the first block
    /// of each connection, above the chain's initial height: `InitChain` does the same below.
    ///
    /// # Errors
    /// Only a lost connection: an application that does not know the call is fine.
    fn announce_block(
        &mut self,
        block: &FinalizeBlock,
    ) -> impl Future<Output = Result<(), AppError>> + Send {
        let _ = block;
        std::future::ready(Ok(()))
    }

    /// Forgets a connection that has failed, so that the next call makes a new one. `false` when
    /// there is none to make: then a failure is final.
    fn reconnect(&mut self) -> bool {
        false
    }

    /// Finds out whether it is still there; called while there is nothing to execute.
    ///
    /// # Errors
    /// When it is not.
    fn ping(&mut self) -> impl Future<Output = Result<(), AppError>> + Send {
        std::future::ready(Ok(()))
    }

    /// Executes a block.
    fn finalize_block(
        &mut self,
        block: FinalizeBlock,
    ) -> impl Future<Output = Result<FinalizeResponse, AppError>> + Send;

    /// Makes the last finalized block's effects durable (an embedded application: ready for
    /// `take_writes`). Returns the height below which it needs no blocks any more; 0 asks for
    /// nothing.
    fn commit(&mut self) -> impl Future<Output = Result<Height, AppError>> + Send;

    /// The application's hash after the last `commit`, where only that gives it
    /// (`FinalizeResponse::app_hash_is_late`).
    fn committed_hash(&mut self) -> Option<Bytes> {
        None
    }
}
