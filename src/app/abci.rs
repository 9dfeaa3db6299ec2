//! An external application behind a socket, by ABCI 2.0 (`protocol.md` 7.1, 7.2).
//!
//! One connection, one call at a time: answers come in the order of the requests and carry no
//! number, so a call that fails or is given up half-way leaves a connection on which nothing can be
//! told apart any more. It is not used again; `reconnect` makes a new one.

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;
use tracing::warn;

use super::{App, AppError, AppInfo, InitChain, InitChainResponse};
use crate::chain::{BlockIdFlag, ValidatorUpdate};
use crate::chain::{FinalizeBlock, FinalizeResponse, Misbehavior};
use crate::ids::{Address, Height};
use crate::wire::WireError;
use crate::wire::codec::read_length;
use crate::wire::convert;
use crate::wire::proto::abci::{self, request, response};

/// Our version in Info: the release whose behaviour this follows, and its protocol versions.
const VERSION: &[u8] = b"0.38.25";
const BLOCK_VERSION: u64 = 11;
const P2P_VERSION: u64 = 8;
const ABCI_VERSION: &[u8] = b"2.0.0";
/// The longest message that CometBFT takes.
const MAX_MESSAGE: usize = i32::MAX as usize;
/// How long the first call waits for the application to listen; node and application are often
/// started together.
const CONNECT_FOR: Duration = Duration::from_secs(30);
/// Between two lines that say that it is waited for.
const TELL_EVERY: Duration = Duration::from_secs(5);
/// How long the answer to a flush is waited for after an exception.
const FLUSH_FOR: Duration = Duration::from_secs(2);
/// Between two attempts.
const CONNECT_EVERY: Duration = Duration::from_millis(500);

/// A stream to the application.
trait Socket: AsyncRead + AsyncWrite + Unpin + Send + Sync {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + Sync> Socket for T {}

/// Where an application listens.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// `tcp://HOST:PORT`
    Tcp(String),
    /// `unix://PATH`
    #[cfg(unix)]
    Unix(std::path::PathBuf),
}

enum Connection {
    /// Before the first call.
    None,
    Open {
        socket: Box<dyn Socket>,
        /// Bytes received and not read yet.
        buffer: BytesMut,
    },
    /// Why it cannot be used.
    Broken(String),
}

/// An application at the other end of a socket. It is connected to by the first call.
pub struct AbciClient {
    address: String,
    place: Place,
    connect_for: Duration,
    connection: Connection,
}

impl std::fmt::Debug for AbciClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AbciClient")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl AbciClient {
    /// A client of `tcp://HOST:PORT` or `unix://PATH`; `None` for any other address.
    #[must_use]
    pub fn new(address: &str) -> Option<Self> {
        let place = match address.split_once("://")? {
            ("tcp", place) if place.contains(':') => Place::Tcp(place.to_owned()),
            #[cfg(unix)]
            ("unix", path) if !path.is_empty() => Place::Unix(path.into()),
            _ => return None,
        };
        Some(AbciClient {
            address: address.to_owned(),
            place,
            connect_for: CONNECT_FOR,
            connection: Connection::None,
        })
    }

    /// The same, giving up sooner or later when nobody listens.
    #[must_use]
    pub fn connect_for(mut self, time: Duration) -> Self {
        self.connect_for = time;
        self
    }

    fn failed(&self, why: impl Into<String>) -> AppError {
        AppError::Connection(self.address.clone(), why.into())
    }

    async fn connect_once(&self) -> std::io::Result<Box<dyn Socket>> {
        Ok(match &self.place {
            Place::Tcp(place) => {
                let socket = TcpStream::connect(place).await?;
                socket.set_nodelay(true)?;
                Box::new(socket)
            }
            #[cfg(unix)]
            Place::Unix(path) => Box::new(UnixStream::connect(path).await?),
        })
    }

    async fn connect(&self) -> Result<Box<dyn Socket>, AppError> {
        let start = tokio::time::Instant::now();
        let mut told: Option<tokio::time::Instant> = None;
        loop {
            match self.connect_once().await {
                Ok(socket) => return Ok(socket),
                Err(why) if start.elapsed() >= self.connect_for => {
                    return Err(self.failed(format!("nobody answers: {why}")));
                }
                Err(why) => {
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
        if matches!(self.connection, Connection::None) {
            self.connection = Connection::Open {
                socket: self.connect().await?,
                buffer: BytesMut::new(),
            };
        }
        let (mut socket, mut buffer) = self.take(name)?;
        match exchange(&mut *socket, &mut buffer, value).await {
            Ok(Exchanged::Exception { error, flushed }) => {
                let why = String::from_utf8_lossy(&error).into_owned();
                self.connection = if flushed {
                    Connection::Open { socket, buffer }
                } else {
                    Connection::Broken(format!("it refused {name}: {why}"))
                };
                Err(AppError::Refused(name, why))
            }
            Ok(Exchanged::Answer(answer)) => {
                self.connection = Connection::Open { socket, buffer };
                Ok(answer)
            }
            Err(why) => {
                let why = format!("{name}: {why}");
                self.connection = Connection::Broken(why.clone());
                Err(self.failed(why))
            }
        }
    }

    /// Takes the open connection out: if the call is given up, it is not put back.
    fn take(&mut self, name: &'static str) -> Result<(Box<dyn Socket>, BytesMut), AppError> {
        let given_up = Connection::Broken(format!("an earlier {name} was given up half-way"));
        let why = match std::mem::replace(&mut self.connection, given_up) {
            Connection::Open { socket, buffer } => return Ok((socket, buffer)),
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
}

/// An answer, decoded and as it came.
struct Answer {
    value: response::Value,
    message: Bytes,
}

/// The payload of a message that has one field, as a `Response` does; `None` when it has more.
fn only_field(mut message: Bytes) -> Option<Bytes> {
    use prost::encoding::{WireType, decode_key, decode_varint};
    let (_, WireType::LengthDelimited) = decode_key(&mut message).ok()? else {
        return None;
    };
    let length = decode_varint(&mut message).ok()?;
    (length == message.len() as u64).then_some(message)
}

/// Answer to a request.
#[allow(clippy::large_enum_variant)] // one at a time, and taken apart at once
enum Exchanged {
    Answer(Answer),
    /// An error; `flushed` when the connection can be used on.
    Exception {
        error: Bytes,
        flushed: bool,
    },
}

/// Writes a request and the flush without which a Go server answers nothing, and reads both
/// answers.
async fn exchange(
    socket: &mut dyn Socket,
    buffer: &mut BytesMut,
    value: request::Value,
) -> Result<Exchanged, String> {
    let mut out = Vec::new();
    for value in [value, request::Value::Flush(abci::RequestFlush {})] {
        let request = abci::Request { value: Some(value) };
        let encoded = request.encode_length_delimited(&mut out);
        encoded.expect("a vector grows as needed");
    }
    let io = |why: std::io::Error| why.to_string();
    socket.write_all(&out).await.map_err(io)?;
    socket.flush().await.map_err(io)?;
    drop(out);
    let answer = read_message(socket, buffer).await?;
    if let response::Value::Exception(exception) = answer.value {
        let error = exception.error;
        // Some servers go on after an exception, and answer the flush; others hang up.
        let flush = tokio::time::timeout(FLUSH_FOR, read_message(socket, buffer)).await;
        let flushed = flush.is_ok_and(|flush| {
            flush.is_ok_and(|flush| matches!(flush.value, response::Value::Flush(_)))
        });
        return Ok(Exchanged::Exception { error, flushed });
    }
    match read_message(socket, buffer).await?.value {
        response::Value::Flush(_) => Ok(Exchanged::Answer(answer)),
        response::Value::Exception(exception) => Ok(Exchanged::Exception {
            error: exception.error,
            flushed: false,
        }),
        other => Err(format!("the flush was answered by {}", kind(&other))),
    }
}

/// A message with its length before it. Memory grows with the bytes that come, not with the length
/// that is claimed.
async fn read_message(socket: &mut dyn Socket, buffer: &mut BytesMut) -> Result<Answer, String> {
    let length = loop {
        if let Some(other) = other_protocol(buffer) {
            return Err(other.to_owned());
        }
        // An answer of no length is none: four bytes tell what it is instead.
        let undecided = buffer.first() == Some(&0) && buffer.len() < 4;
        if !undecided && let Some(length) = take_length(buffer)? {
            break length;
        }
        fill(socket, buffer).await?;
    };
    while buffer.len() < length {
        fill(socket, buffer).await?;
    }
    let message = buffer.split_to(length).freeze();
    let response = abci::Response::decode(message.clone()).map_err(|why| why.to_string())?;
    let value = response
        .value
        .ok_or_else(|| "an answer of an unknown kind".to_owned())?;
    Ok(Answer { value, message })
}

/// Another kind of server at the port that was named, told by its first bytes. None of them can
/// begin an answer to what we send.
fn other_protocol(bytes: &[u8]) -> Option<&'static str> {
    // The length of an ABCI answer, or the tag behind it, would have to be zero.
    let http2 = |b: &[u8]| b.starts_with(&[0, 0]) && b.get(3) == Some(&4);
    if bytes.starts_with(b"HTTP/1.") {
        return Some(
            "an HTTP server answers there: perhaps the RPC port of a node; the port of the application's ABCI is wanted",
        );
    }
    if http2(bytes) {
        return Some(
            "it speaks HTTP/2, a gRPC port: ABCI over a socket is wanted (the application's --transport=socket)",
        );
    }
    None
}

async fn fill(socket: &mut dyn Socket, buffer: &mut BytesMut) -> Result<(), String> {
    buffer.reserve(64 << 10);
    match socket.read_buf(buffer).await {
        Ok(0) => Err(
            "it closed the connection (an application that panics does, and a gRPC port: ABCI over a socket is wanted)"
                .to_owned(),
        ),
        Ok(_) => Ok(()),
        Err(why) => Err(why.to_string()),
    }
}

/// Takes the length of an answer off the buffer, when it is there whole.
fn take_length(buffer: &mut BytesMut) -> Result<Option<usize>, String> {
    match read_length(buffer, MAX_MESSAGE) {
        Ok(Some((prefix, length))) => {
            buffer.advance(prefix);
            Ok(Some(length))
        }
        // The longest length that is taken has five bytes.
        Ok(None) if buffer.len() < 5 => Ok(None),
        Ok(None) | Err(_) => Err(format!(
            "an answer longer than {MAX_MESSAGE} bytes; is it ABCI 2.0 that it speaks?"
        )),
    }
}

fn kind(value: &response::Value) -> &'static str {
    match value {
        response::Value::Exception(_) => "an exception",
        response::Value::Echo(_) => "Echo",
        response::Value::Flush(_) => "Flush",
        response::Value::Info(_) => "Info",
        response::Value::InitChain(_) => "InitChain",
        response::Value::Query(_) => "Query",
        response::Value::Commit(_) => "Commit",
        response::Value::ProcessProposal(_) => "ProcessProposal",
        response::Value::FinalizeBlock(_) => "FinalizeBlock",
    }
}

fn address_bytes(address: &Address) -> Bytes {
    Bytes::copy_from_slice(&address.0)
}

fn validator(address: &Address, power: i64) -> Option<abci::Validator> {
    Some(abci::Validator {
        address: address_bytes(address),
        power,
    })
}

fn misbehavior(m: &Misbehavior) -> abci::Misbehavior {
    abci::Misbehavior {
        r#type: m.kind,
        validator: validator(&m.address, m.power),
        height: m.height.to_wire(),
        time: Some(convert::time_to_proto(m.time)),
        total_voting_power: m.total_voting_power,
    }
}

fn init_chain_request(request: InitChain) -> abci::RequestInitChain {
    let updates = request.validators.iter().map(|v| {
        convert::update_to_proto(&ValidatorUpdate {
            key: crate::chain::execution::UpdateKey::Known(v.key.clone()),
            power: v.power,
        })
    });
    abci::RequestInitChain {
        time: Some(convert::time_to_proto(request.time)),
        chain_id: request.chain_id,
        consensus_params: Some(convert::params_to_proto(&request.params, &request.rules)),
        validators: updates.collect(),
        app_state_bytes: request.app_state,
        initial_height: request.initial_height.to_wire(),
    }
}

/// The same block as a proposal: the fields have the same meaning, and the same numbers.
fn proposal(block: FinalizeBlock) -> abci::RequestProcessProposal {
    let block = finalize_request(block);
    abci::RequestProcessProposal {
        txs: block.txs,
        proposed_last_commit: block.decided_last_commit,
        misbehavior: block.misbehavior,
        hash: block.hash,
        height: block.height,
        time: block.time,
        next_validators_hash: block.next_validators_hash,
        proposer_address: block.proposer_address,
    }
}

fn finalize_request(block: FinalizeBlock) -> abci::RequestFinalizeBlock {
    let vote = |(address, power, flag): &(Address, i64, BlockIdFlag)| abci::VoteInfo {
        validator: validator(address, *power),
        block_id_flag: *flag as i32,
    };
    let commit = block.decided_last_commit;
    abci::RequestFinalizeBlock {
        txs: block.txs,
        decided_last_commit: Some(abci::CommitInfo {
            round: commit.round,
            votes: commit.votes.iter().map(vote).collect(),
        }),
        misbehavior: block.misbehavior.iter().map(misbehavior).collect(),
        hash: Bytes::copy_from_slice(&block.hash.0),
        height: block.height.to_wire(),
        time: Some(convert::time_to_proto(block.time)),
        next_validators_hash: block
            .next_validators_hash
            .map_or_else(Bytes::new, |hash| Bytes::copy_from_slice(&hash.0)),
        proposer_address: address_bytes(&block.proposer_address),
    }
}

impl App for AbciClient {
    async fn info(&mut self) -> Result<AppInfo, AppError> {
        let request = abci::RequestInfo {
            version: Bytes::from_static(VERSION),
            block_version: BLOCK_VERSION,
            p2p_version: P2P_VERSION,
            abci_version: Bytes::from_static(ABCI_VERSION),
        };
        let info = match self
            .call("Info", request::Value::Info(request))
            .await?
            .value
        {
            response::Value::Info(info) => info,
            other => return self.unexpected("Info", &other),
        };
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
        let groups = request.rules.params.groups;
        let request = request::Value::InitChain(init_chain_request(request));
        let response = match self.call("InitChain", request).await?.value {
            response::Value::InitChain(response) => response,
            other => return self.unexpected("InitChain", &other),
        };
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
        // `BaseApp.ProcessProposal` of the Cosmos SDK sets the state of `FinalizeBlock` anew,
        // whatever it answers, and with optimistic execution begins to execute what it is given: so
        // it must be given exactly what `FinalizeBlock` will be.
        let request = request::Value::ProcessProposal(proposal(block.clone()));
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
        let request = request::Value::FinalizeBlock(finalize_request(block));
        let answer = self.call("FinalizeBlock", request).await?;
        let response = match answer.value {
            response::Value::FinalizeBlock(response) => response,
            other => return self.unexpected("FinalizeBlock", &other),
        };
        let encoded = only_field(answer.message);
        let response = convert::finalize_response_from_proto(response);
        let response = response.map_err(self.malformed("FinalizeBlock"))?;
        Ok(FinalizeResponse {
            encoded,
            ..response
        })
    }

    async fn commit(&mut self) -> Result<Height, AppError> {
        let request = request::Value::Commit(abci::RequestCommit {});
        match self.call("Commit", request).await?.value {
            // Only a positive height asks for anything.
            response::Value::Commit(response) => {
                Ok(Height::from_wire(response.retain_height).unwrap_or_default())
            }
            other => self.unexpected("Commit", &other),
        }
    }
}

#[cfg(test)]
#[path = "abci_tests.rs"]
mod tests;
