//! An external application behind a socket or gRPC, by ABCI (`protocol.md` 7, `versions.md` 3).
//!
//! One call at a time, over one connection unless four are wanted ([`Connections`]): answers come
//! in the order of the requests and carry no number, so a call that fails or is given up half-way
//! leaves a connection on which nothing can be told apart any more. It is not used again;
//! `reconnect` makes a new one.
//!
//! # Versions
//! The chain's rules say which version of ABCI a height is for. An answer to Info tells 0.34 from
//! the others, by its framing; nothing in it tells those from each other. So the first block of a
//! connection is given in its own version, and an application that does not know the call, or whose
//! updates have another form, is of another one. The version that was found holds until the
//! connection ends: a block that needs another is refused ([`AppError::OtherVersion`]).

use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use tracing::warn;

pub use self::link::Connections;

use self::frames::{Answer, Calls, Ended, Framing, kind};
use self::link::{Link, Place};
use super::{App, AppError, AppInfo, InitChain, InitChainResponse};
use crate::chain::{AbciVersion, FinalizeBlock, FinalizeResponse, RuleSchedule};
use crate::ids::Height;
use crate::wire::WireError;
use crate::wire::convert;
use crate::wire::proto::abci::{self, request, response};

mod frames;
#[cfg(feature = "grpc")]
mod grpc;
mod link;
mod requests;

/// How long the first call waits for the application to listen; node and application are often
/// started together.
const CONNECT_FOR: Duration = Duration::from_secs(30);
/// Between two lines that say that it is waited for.
const TELL_EVERY: Duration = Duration::from_secs(5);
/// Between two attempts.
const CONNECT_EVERY: Duration = Duration::from_millis(500);

/// The words for another version over gRPC.
const ONLY_OVER_GRPC: &str = "that of 0.38: over gRPC no other is spoken (behind a socket, tcp://HOST:PORT, every version is)";

enum Connection {
    /// None yet: the first call makes it.
    None,
    Open(Link),
    /// Why it cannot be used.
    Broken(String),
}

/// The versions of ABCI that an application may speak, for a client that does
/// not know the chain's rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spoken {
    /// The versions that it may speak: several, ascending, where its answers do not tell.
    pub versions: Vec<AbciVersion>,
    /// The last height that it committed; 0 before InitChain.
    pub height: Height,
}

/// Whether an error says that the call is not known: Go's words, in every version.
fn is_unknown(why: &str) -> bool {
    why.to_lowercase().contains("unknown request")
}

/// An application at the other end of a socket. It is connected to by the first call.
pub struct AbciClient {
    address: String,
    place: Place,
    connections: Connections,
    connect_for: Duration,
    connection: Connection,
    /// The chain's, by which a height has its version.
    rules: RuleSchedule,
    /// The next height, as far as it is known.
    next: Height,
    /// The version of all heights, when it is given.
    given: Option<AbciVersion>,
    /// The framing of the application's answers, once one has come.
    framing: Option<Framing>,
    /// The version in which this connection's blocks have been.
    spoken: Option<AbciVersion>,
    /// The application's hash, which the last `Commit` gave.
    committed_hash: Option<Bytes>,
}

impl std::fmt::Debug for AbciClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AbciClient")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl AbciClient {
    /// A client of `tcp://HOST:PORT`, `unix://PATH` or, with the feature `grpc`,
    /// `grpc://HOST:PORT`; `None` for any other address.
    #[must_use]
    pub fn new(address: &str) -> Option<Self> {
        Some(AbciClient {
            address: address.to_owned(),
            place: Place::parse(address)?,
            connections: Connections::default(),
            connect_for: CONNECT_FOR,
            connection: Connection::None,
            rules: RuleSchedule::default(),
            next: Height::ZERO,
            given: None,
            framing: None,
            spoken: None,
            committed_hash: None,
        })
    }

    /// The same, giving up sooner or later when nobody listens.
    #[must_use]
    pub fn connect_for(mut self, time: Duration) -> Self {
        self.connect_for = time;
        self
    }

    /// The same, over this number of connections; gRPC needs one in any case.
    #[must_use]
    pub fn connections(mut self, connections: Connections) -> Self {
        self.connections = connections;
        self
    }

    /// The same, speaking this version at every height, whatever the chain's rules.
    #[must_use]
    pub fn speaking(mut self, version: AbciVersion) -> Self {
        self.given = Some(version);
        self
    }

    /// Finds out which versions the application may speak, for a client that does not know the
    /// chain's rules. Nothing that it is asked changes it. The connection is of no use afterwards.
    ///
    /// # Errors
    /// When nobody answers, or what answers is no application.
    pub async fn versions(mut self) -> Result<Spoken, AppError> {
        use AbciVersion::{V034, V037, V038, V100};
        let height = self.info().await?.last_height;
        let versions = match (self.given, self.framing) {
            (Some(given), _) => vec![given],
            // Only 0.34 doubles its lengths, so an answer in that framing settles it.
            (None, Some(Framing::Zigzag)) => vec![V034],
            (None, _) if self.place.is_grpc() => vec![V038],
            (None, _) => {
                // No chain has such a height: an application that knows the call refuses it, or
                // says that extensions are off, and does nothing.
                let request = request::Value::VerifyVoteExtension(requests::no_extension());
                match self.call("VerifyVoteExtension", request).await {
                    Err(AppError::Refused(_, why)) if is_unknown(&why) => vec![V037],
                    Ok(_) | Err(AppError::Refused(..)) => vec![V038, V100],
                    // It hangs up on it: that tells nothing.
                    Err(_) => vec![V037, V038, V100],
                }
            }
        };
        Ok(Spoken { versions, height })
    }

    fn failed(&self, why: impl Into<String>) -> AppError {
        AppError::Connection(self.address.clone(), why.into())
    }

    async fn connect(&self) -> Result<Link, AppError> {
        let start = tokio::time::Instant::now();
        let mut told: Option<tokio::time::Instant> = None;
        loop {
            match self.place.connect(self.connections).await {
                Ok(link) => return Ok(link),
                Err(why) if start.elapsed() >= self.connect_for => {
                    return Err(self.failed(format!("nobody answers: {why}")));
                }
                Err(why) => {
                    // The first failure is told at once, so that a wrong address shows
                    // before the wait is over.
                    if told.is_none_or(|at| at.elapsed() >= TELL_EVERY) {
                        told = Some(tokio::time::Instant::now());
                        let left = self.connect_for.saturating_sub(start.elapsed()).as_secs();
                        warn!(
                            "waiting for the application at {}, up to {left} s more: {why}",
                            self.address
                        );
                    }
                    tokio::time::sleep(CONNECT_EVERY).await;
                }
            }
        }
    }

    /// One request and its answer.
    async fn call(
        &mut self,
        name: &'static str,
        value: request::Value,
    ) -> Result<Answer, AppError> {
        self.calls(name, Calls::one(value)).await
    }

    /// Requests and their answers.
    async fn calls(&mut self, name: &'static str, calls: Calls) -> Result<Answer, AppError> {
        if matches!(self.connection, Connection::None) {
            self.connection = Connection::Open(self.connect().await?);
        }
        let framing = self.framing();
        let mut link = self.take(name)?;
        match link.exchange(framing, calls).await {
            Err(Ended::Exception { error, flushed }) => {
                let why = String::from_utf8_lossy(&error).into_owned();
                // After the answer to the flush the stream is in step again; without it nobody can
                // tell where the next answer begins.
                self.connection = if flushed {
                    Connection::Open(link)
                } else {
                    Connection::Broken(format!("it refused {name}: {why}"))
                };
                Err(AppError::Refused(name, why))
            }
            Ok(answer) => {
                self.connection = Connection::Open(link);
                // An answer was understood, so the guess is a fact for the rest of this connection.
                self.framing = Some(framing);
                Ok(answer)
            }
            Err(Ended::Lost(why)) => {
                let why = format!("{name}: {why}");
                self.connection = Connection::Broken(why.clone());
                Err(self.failed(why))
            }
        }
    }

    /// Takes the open connection out: if the call is given up, it is not put back.
    fn take(&mut self, name: &'static str) -> Result<Link, AppError> {
        let given_up = Connection::Broken(format!("an earlier {name} was given up half-way"));
        let why = match std::mem::replace(&mut self.connection, given_up) {
            Connection::Open(link) => return Ok(link),
            Connection::Broken(why) => why,
            Connection::None => "it is not connected".to_owned(),
        };
        self.connection = Connection::Broken(why.clone());
        Err(self.failed(why))
    }

    /// An answer of another kind than the question's: nothing that follows can be trusted.
    fn unexpected<T>(
        &mut self,
        name: &'static str,
        found: &response::Value,
    ) -> Result<T, AppError> {
        let why = format!("{name} was answered by {}", kind(found));
        self.connection = Connection::Broken(why.clone());
        Err(self.failed(why))
    }

    fn malformed(&self, name: &'static str) -> impl FnOnce(WireError) -> AppError {
        let address = self.address.clone();
        move |why| AppError::Connection(address, format!("the answer to {name}: {why}"))
    }

    /// The version that a height needs.
    fn version_at(&self, height: Height) -> AbciVersion {
        self.given.unwrap_or(self.rules.at(height).abci)
    }

    /// The framing of this connection, or the one to try first. gRPC has none.
    fn framing(&self) -> Framing {
        if self.place.is_grpc() {
            return Framing::Plain;
        }
        let by_rules = || requests::framing(self.version_at(self.next));
        self.framing.unwrap_or_else(by_rules)
    }

    /// The version for a height, if the application is not of another one.
    fn agree(&mut self, height: Height) -> Result<AbciVersion, AppError> {
        let wanted = self.version_at(height);
        if self.place.is_grpc() && wanted != AbciVersion::V038 {
            return Err(self.other_version(height, ONLY_OVER_GRPC.to_owned()));
        }
        // 0.34 and the others differ in framing: a wrong length would be waited for without end.
        let framed = self.framing.is_none_or(|f| f == requests::framing(wanted));
        if !framed || self.spoken.is_some_and(|spoken| spoken != wanted) {
            let found = match (self.spoken, self.framing) {
                (Some(spoken), _) => format!("that of {spoken}: it was given blocks in it"),
                (None, Some(Framing::Zigzag)) => {
                    "that of 0.34: the lengths before its answers are doubled".to_owned()
                }
                (None, _) => {
                    "that of 0.37 or later: the lengths before its answers are plain".to_owned()
                }
            };
            return Err(self.other_version(height, found));
        }
        self.next = height;
        // A guess until the block is answered; `block_failed` and `check_form` take it back.
        self.spoken = Some(wanted);
        Ok(wanted)
    }

    fn other_version(&self, height: Height, found: String) -> AppError {
        AppError::OtherVersion {
            address: self.address.clone(),
            found,
            wanted: self.version_at(height),
            rules: self.rules.at(height).name,
            height,
        }
    }

    /// A failure over a block: an application that does not know the call is of another version.
    fn block_failed(&mut self, height: Height, error: AppError) -> AppError {
        match &error {
            // A version that was given by hand is obeyed: then the refusal stands
            // as the application put it.
            AppError::Refused(call, why) if self.given.is_none() && is_unknown(why) => {
                self.spoken = None;
                let others = match self.version_at(height) {
                    wanted if wanted.has_finalize_block() => "of 0.37",
                    _ => "of 0.38 or later",
                };
                self.other_version(height, format!("that {others}: it does not know {call}"))
            }
            _ => error,
        }
    }

    /// Refuses updates that another version writes.
    fn check_form(
        &mut self,
        height: Height,
        updates: &[abci::ValidatorUpdate],
    ) -> Result<(), AppError> {
        let wanted = self.version_at(height);
        if self.given.is_some() || requests::are_of(wanted, updates) {
            return Ok(());
        }
        self.spoken = None;
        let found = match wanted {
            AbciVersion::V100 => "that of 0.38: its validator updates have the older form of a key",
            _ => "that of 1.0: its validator updates name the type of a key",
        };
        Err(self.other_version(height, found.to_owned()))
    }

    /// Tells of an application that takes the connection and answers nothing.
    fn silent(&self) -> impl Future<Output = std::convert::Infallible> + use<> {
        let address = self.address.clone();
        let hint = match self.connections {
            Connections::One if !self.place.is_grpc() => {
                "; one that waits for the four connections of CometBFT is given them by --app-connections 4"
            }
            _ => "",
        };
        async move {
            loop {
                tokio::time::sleep(TELL_EVERY).await;
                warn!("the application at {address} does not answer Info{hint}");
            }
        }
    }

    /// Info in one framing. One that is only tried is followed by as many flushes as it takes to
    /// make the frame whole for a server that takes the doubled length for the length: it finds no
    /// request there and hangs up, where it would wait for more.
    async fn info_in(&mut self, framing: Framing) -> Result<abci::ResponseInfo, AppError> {
        // `calls` reads the framing from here. A guess that failed is taken back below.
        let known = self.framing.replace(framing).is_some();
        let version = match (self.version_at(self.next), framing) {
            (version, _) if requests::framing(version) == framing => version,
            (_, Framing::Zigzag) => AbciVersion::V034,
            (_, Framing::Plain) => AbciVersion::V037,
        };
        let request = requests::info(version);
        let flushes = match framing {
            // A flush is three bytes. The doubled length makes a plain server wait
            // for as many bytes again.
            Framing::Zigzag if !known => request.encoded_len().div_ceil(3) + 1,
            _ => 1,
        };
        let calls = Calls {
            txs: Vec::new(),
            last: request::Value::Info(request),
            flushes,
        };
        let silent = self.silent();
        let answer = tokio::select! {
            // The answer first: a warning must not be due at the very moment when it has come.
            biased;
            answer = self.calls("Info", calls) => answer,
            never = silent => match never {},
        };
        match answer {
            Ok(Answer {
                value: response::Value::Info(info),
                ..
            }) => Ok(info),
            Ok(other) => self.unexpected("Info", &other.value),
            Err(error) => {
                self.framing = known.then_some(framing);
                Err(error)
            }
        }
    }

    /// A failure over Info: the service of 0.38 may not be there, but that of another version.
    fn info_failed(&self, error: AppError) -> AppError {
        match &error {
            AppError::Refused(_, why) if is_unknown(why) => {
                let found = format!("not that of 0.38, the only one over gRPC: {why}");
                self.other_version(self.next.max(Height::new(1)), found)
            }
            _ => error,
        }
    }

    /// Info in the framing of this connection. When there is none yet, and the one that the rules
    /// name is not understood, in the other one.
    async fn find_info(&mut self) -> Result<abci::ResponseInfo, AppError> {
        let (first, is_open) = (self.framing(), self.framing.is_none());
        if self.place.is_grpc() {
            let info = self.info_in(first).await;
            return info.map_err(|error| self.info_failed(error));
        }
        let error = match self.info_in(first).await {
            Err(error) if is_open && self.given.is_none() && error.is_lost() => error,
            other => return other,
        };
        if !matches!(self.connection, Connection::Broken(_)) {
            return Err(error); // nobody listens
        }
        // Something listens there, as the first try showed; the second need not wait for it.
        let patience = std::mem::take(&mut self.connect_for);
        self.connection = Connection::None;
        let second = self.info_in(first.other()).await;
        self.connect_for = patience;
        second.map_err(|_| {
            // The first error is the one to report: it is about the framing that the rules name.
            self.connection = Connection::Broken(error.to_string());
            error
        })
    }

    /// A block before ABCI 2.0: `BeginBlock`, `DeliverTx` for each transaction, `EndBlock`. The
    /// answers are put together as the one that `FinalizeBlock` gives; the application's hash is
    /// not among them.
    async fn block_in_pieces(
        &mut self,
        block: FinalizeBlock,
    ) -> Result<(abci::ResponseFinalizeBlock, Option<Bytes>), AppError> {
        let height = block.height.to_wire();
        let begin = request::Value::BeginBlock(requests::begin_block(&block)?);
        // On its own: CometBFT waits for this answer before it sends
        // transactions (`versions.md` 3.1).
        let begun = match self.call("BeginBlock", begin).await?.value {
            response::Value::BeginBlock(begun) => begun,
            other => return self.unexpected("BeginBlock", &other),
        };
        let calls = Calls {
            txs: block.txs,
            last: request::Value::EndBlock(abci::RequestEndBlock { height }),
            flushes: 1,
        };
        let answer = self.calls("EndBlock", calls).await?;
        let end = match answer.value {
            response::Value::EndBlock(end) => end,
            other => return self.unexpected("EndBlock", &other),
        };
        let response = abci::ResponseFinalizeBlock {
            // Begin before end, the order of 0.38, which has both in one list.
            events: [begun.events, end.events].concat(),
            tx_results: answer.results,
            validator_updates: end.validator_updates,
            consensus_param_updates: end.consensus_param_updates,
            app_hash: Bytes::new(),
        };
        Ok((response, None))
    }

    /// A block since ABCI 2.0, and its answer as it came.
    async fn whole_block(
        &mut self,
        version: AbciVersion,
        block: FinalizeBlock,
    ) -> Result<(abci::ResponseFinalizeBlock, Option<Bytes>), AppError> {
        let request = request::Value::FinalizeBlock(requests::finalize_block(version, block));
        let answer = self.call("FinalizeBlock", request).await?;
        match answer.value {
            response::Value::FinalizeBlock(response) => Ok((response, answer.payload)),
            other => self.unexpected("FinalizeBlock", &other),
        }
    }
}

impl App for AbciClient {
    fn follow_rules(&mut self, rules: &RuleSchedule, next: Height) {
        self.rules = rules.clone();
        self.next = next;
    }

    async fn info(&mut self) -> Result<AppInfo, AppError> {
        let info = self.find_info().await?;
        let height = info.last_block_height;
        Ok(AppInfo {
            data: info.data,
            version: info.version,
            app_version: info.app_version,
            last_height: Height::from_wire(height)
                .ok_or_else(|| self.failed(format!("Info names the height {height}")))?,
            last_app_hash: info.last_block_app_hash,
        })
    }

    async fn init_chain(&mut self, request: InitChain) -> Result<InitChainResponse, AppError> {
        let height = request.initial_height;
        let version = self.agree(height)?;
        let groups = request.rules.params.groups;
        let request = request::Value::InitChain(requests::init_chain(version, request));
        let response = match self.call("InitChain", request).await?.value {
            response::Value::InitChain(response) => response,
            other => return self.unexpected("InitChain", &other),
        };
        self.check_form(height, &response.validators)?;
        let params = response.consensus_params.as_ref();
        let params = params.map(|p| convert::params_update_from_proto(p, groups));
        let params = params.transpose();
        let updates = response.validators.iter().map(convert::update_from_proto);
        Ok(InitChainResponse {
            params: params.map_err(self.malformed("InitChain"))?,
            validators: updates.collect(),
            app_hash: response.app_hash,
        })
    }

    async fn announce_block(&mut self, block: &FinalizeBlock) -> Result<(), AppError> {
        let version = self.agree(block.height)?;
        if !version.has_finalize_block() {
            // No call of theirs takes an unfinished block back.
            return Ok(());
        }
        // The Cosmos SDK, whatever it answers, drops a block whose execution failed half-way (one
        // that was executed completely it keeps), and with optimistic execution begins to execute
        // what it is given: so it must be given exactly what `FinalizeBlock` will be.
        let proposal = requests::proposal(version, block.clone());
        let request = request::Value::ProcessProposal(proposal);
        match self.call("ProcessProposal", request).await {
            Ok(Answer {
                value: response::Value::ProcessProposal(_),
                ..
            })
            | Err(AppError::Refused(..)) => Ok(()),
            Ok(other) => self.unexpected("ProcessProposal", &other.value),
            Err(lost) => Err(lost),
        }
    }

    fn reconnect(&mut self) -> bool {
        self.connection = Connection::None;
        // Another application may answer.
        (self.framing, self.spoken) = (None, None);
        // The caller of this has a patience of its own.
        self.connect_for = Duration::ZERO;
        true
    }

    async fn ping(&mut self) -> Result<(), AppError> {
        let said = Bytes::from_static(b"blocksync");
        let request = request::Value::Echo(abci::RequestEcho {
            message: said.clone(),
        });
        match self.call("Echo", request).await?.value {
            response::Value::Echo(echo) if echo.message == said => Ok(()),
            other => self.unexpected("Echo", &other),
        }
    }

    async fn finalize_block(&mut self, block: FinalizeBlock) -> Result<FinalizeResponse, AppError> {
        let height = block.height;
        let version = self.agree(height)?;
        // That of the last block must not be taken for this one's if `commit` fails.
        self.committed_hash = None;
        let answer = if version.has_finalize_block() {
            self.whole_block(version, block).await
        } else {
            self.block_in_pieces(block).await
        };
        let (response, encoded) = answer.map_err(|error| self.block_failed(height, error))?;
        self.check_form(height, &response.validator_updates)?;
        let encoded = encoded.unwrap_or_else(|| response.encode_to_vec().into());
        // The rules of the height, even when the version of ABCI was given by hand.
        let groups = self.rules.at(height).params.groups;
        let response = convert::finalize_response_from_proto(response, groups);
        let response = response.map_err(self.malformed("FinalizeBlock"))?;
        Ok(FinalizeResponse {
            app_hash_is_late: !version.has_finalize_block(),
            encoded: Some(encoded),
            ..response
        })
    }

    async fn commit(&mut self) -> Result<Height, AppError> {
        // From ABCI 2.0 on `FinalizeBlock` gives the hash, and this field is reserved.
        let late = self.spoken.is_some_and(|v| !v.has_finalize_block());
        let request = request::Value::Commit(abci::RequestCommit {});
        match self.call("Commit", request).await?.value {
            response::Value::Commit(response) => {
                self.committed_hash = late.then_some(response.data);
                // Only a positive height asks for anything.
                Ok(Height::from_wire(response.retain_height).unwrap_or_default())
            }
            other => self.unexpected("Commit", &other),
        }
    }

    fn committed_hash(&mut self) -> Option<Bytes> {
        self.committed_hash.take()
    }
}

#[cfg(test)]
mod tests;
