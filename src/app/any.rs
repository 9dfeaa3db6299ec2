//! The applications that a person can name.

use bytes::Bytes;

use super::{App, AppError, AppInfo, InitChain, InitChainResponse, KvStore, Noop};
use crate::chain::execution::{FinalizeBlock, FinalizeResponse};
use crate::ids::Height;
use crate::store::Store;

/// One of the applications of this crate, chosen by name (`design.md` 9).
#[derive(Debug)]
pub enum AnyApp {
    /// `kvstore`: CometBFT's example.
    KvStore(KvStore),
    /// `noop`: no state, an empty app hash.
    Noop(Noop),
}

/// A name that is no application of this version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnknownApp {
    /// An ABCI address.
    #[error("the application {0}: ABCI over a socket is not in this version; use kvstore or noop")]
    Socket(String),
    /// Anything else.
    #[error("no application is called {0:?}; there are kvstore and noop")]
    Name(String),
}

impl std::str::FromStr for AnyApp {
    type Err = UnknownApp;

    fn from_str(name: &str) -> Result<Self, UnknownApp> {
        match name {
            "kvstore" => Ok(AnyApp::KvStore(KvStore::new())),
            "noop" => Ok(AnyApp::Noop(Noop::new())),
            _ if name.contains("://") => Err(UnknownApp::Socket(name.to_owned())),
            _ => Err(UnknownApp::Name(name.to_owned())),
        }
    }
}

/// The same call on whichever it is.
macro_rules! each {
    ($any:expr, $app:ident => $call:expr) => {
        match $any {
            AnyApp::KvStore($app) => $call,
            AnyApp::Noop($app) => $call,
        }
    };
}

impl App for AnyApp {
    fn embedded(&self) -> bool {
        each!(self, app => app.embedded())
    }

    fn load(&mut self, store: &dyn Store) -> Result<(), AppError> {
        each!(self, app => app.load(store))
    }

    fn take_writes(&mut self) -> Vec<(Bytes, Option<Bytes>)> {
        each!(self, app => app.take_writes())
    }

    async fn info(&mut self) -> Result<AppInfo, AppError> {
        each!(self, app => app.info().await)
    }

    async fn init_chain(&mut self, request: InitChain) -> Result<InitChainResponse, AppError> {
        each!(self, app => app.init_chain(request).await)
    }

    async fn finalize_block(&mut self, block: FinalizeBlock) -> Result<FinalizeResponse, AppError> {
        each!(self, app => app.finalize_block(block).await)
    }

    async fn commit(&mut self) -> Result<Height, AppError> {
        each!(self, app => app.commit().await)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert!(matches!("kvstore".parse(), Ok(AnyApp::KvStore(_))));
        assert!(matches!("noop".parse(), Ok(AnyApp::Noop(_))));
        for socket in ["tcp://127.0.0.1:26658", "unix:///tmp/app.sock"] {
            let said = socket.parse::<AnyApp>().unwrap_err().to_string();
            assert!(said.contains(socket) && said.contains("not in this version"));
        }
        let said = "KVStore".parse::<AnyApp>().unwrap_err().to_string();
        assert_eq!(
            said,
            "no application is called \"KVStore\"; there are kvstore and noop"
        );
    }
}
