//! The applications that a person can name.

use bytes::Bytes;

#[cfg(feature = "abci")]
use super::AbciClient;
use super::{App, AppError, AppInfo, InitChain, InitChainResponse, KvStore, Noop};
use crate::chain::RuleSchedule;
use crate::chain::execution::{FinalizeBlock, FinalizeResponse};
use crate::ids::Height;
use crate::store::Store;

/// One of the applications of this crate, chosen by name (`design.md` 9).
#[derive(Debug)]
#[non_exhaustive]
pub enum AnyApp {
    /// `kvstore`: CometBFT's example.
    KvStore(KvStore),
    /// `noop`: no state, an empty app hash.
    Noop(Noop),
    /// `tcp://HOST:PORT`, `unix://PATH`, `grpc://HOST:PORT`: one behind a socket or gRPC.
    #[cfg(feature = "abci")]
    Abci(AbciClient),
}

/// The forms of an address.
const ADDRESSES: &str = if cfg!(feature = "grpc") {
    "tcp://HOST:PORT, unix://PATH or grpc://HOST:PORT"
} else {
    "tcp://HOST:PORT or unix://PATH"
};

/// A name that is no application.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UnknownApp {
    /// An address of another form.
    #[error("the application {0:?}: an address is {ADDRESSES}")]
    Address(String),
    /// Anything else.
    #[error("no application is called {0:?}; there are kvstore, noop and {ADDRESSES}")]
    Name(String),
}

impl std::str::FromStr for AnyApp {
    type Err = UnknownApp;

    fn from_str(name: &str) -> Result<Self, UnknownApp> {
        match name {
            "kvstore" => Ok(AnyApp::KvStore(KvStore::new())),
            "noop" => Ok(AnyApp::Noop(Noop::new())),
            // Any scheme is taken for an address, so that a mistyped one gets the list of forms.
            #[cfg(feature = "abci")]
            address if address.contains("://") => AbciClient::new(address)
                .map(AnyApp::Abci)
                .ok_or_else(|| UnknownApp::Address(address.to_owned())),
            _ => Err(UnknownApp::Name(name.to_owned())),
        }
    }
}

impl AnyApp {
    /// The same, with responses that carry events where the application makes them only on request.
    #[must_use]
    pub fn with_events(self) -> Self {
        match self {
            AnyApp::KvStore(app) => AnyApp::KvStore(app.with_events()),
            other => other,
        }
    }
}

/// The same call on the application that it is.
macro_rules! each {
    ($any:expr, $app:ident => $call:expr) => {
        match $any {
            AnyApp::KvStore($app) => $call,
            AnyApp::Noop($app) => $call,
            #[cfg(feature = "abci")]
            AnyApp::Abci($app) => $call,
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

    fn follow_rules(&mut self, rules: &RuleSchedule, next: Height) {
        each!(self, app => app.follow_rules(rules, next));
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

    async fn announce_block(&mut self, block: &FinalizeBlock) -> Result<(), AppError> {
        each!(self, app => app.announce_block(block).await)
    }

    fn reconnect(&mut self) -> bool {
        each!(self, app => app.reconnect())
    }

    async fn ping(&mut self) -> Result<(), AppError> {
        each!(self, app => app.ping().await)
    }

    async fn finalize_block(&mut self, block: FinalizeBlock) -> Result<FinalizeResponse, AppError> {
        each!(self, app => app.finalize_block(block).await)
    }

    async fn commit(&mut self) -> Result<Height, AppError> {
        each!(self, app => app.commit().await)
    }

    fn committed_hash(&mut self) -> Option<Bytes> {
        each!(self, app => app.committed_hash())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert!(matches!("kvstore".parse(), Ok(AnyApp::KvStore(_))));
        assert!(matches!("noop".parse(), Ok(AnyApp::Noop(_))));
        for address in ["tcp://127.0.0.1:26658", "unix:///tmp/app.sock"] {
            assert!(matches!(address.parse(), Ok(AnyApp::Abci(_))), "{address}");
        }
        let grpc = "grpc://localhost:26658".parse();
        assert_eq!(
            matches!(grpc, Ok(AnyApp::Abci(_))),
            cfg!(feature = "grpc"),
            "{grpc:?}"
        );
        for bad in [
            "tcp://nowhere",
            "unix://",
            "http://localhost:1",
            "grpc://nowhere",
            "grpc://a:1/path",
            "grpc://you@a:1 ",
        ] {
            let said = bad.parse::<AnyApp>().unwrap_err();
            assert_eq!(said, UnknownApp::Address(bad.to_owned()));
        }
        let said = "KVStore".parse::<AnyApp>().unwrap_err().to_string();
        assert!(
            said.starts_with("no application is called \"KVStore\""),
            "{said}"
        );
    }
}
