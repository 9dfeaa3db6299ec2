//! Messages on the socket: their frames, and an exchange of requests and answers.

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::chain::encode;
use crate::wire::codec::read_length;
use crate::wire::proto::abci::{self, request, response};

/// The longest message that CometBFT takes.
pub(super) const MAX_MESSAGE: usize = i32::MAX as usize;
/// How long the answer to a flush is waited for after an exception.
const FLUSH_FOR: Duration = Duration::from_secs(2);
/// Transactions are written in pieces of about this size.
const PIECE: usize = 64 << 10;

/// A stream to the application.
pub(super) trait Socket: AsyncRead + AsyncWrite + Unpin + Send + Sync {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + Sync> Socket for T {}

/// The number before a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// Its length.
    Plain,
    /// Its length as a signed number, which protobuf writes doubled: 0.34.
    Zigzag,
}

impl Framing {
    pub(super) fn other(self) -> Self {
        match self {
            Framing::Plain => Framing::Zigzag,
            Framing::Zigzag => Framing::Plain,
        }
    }

    fn shift(self) -> u32 {
        u32::from(self == Framing::Zigzag)
    }

    /// Appends a request behind its length.
    pub(super) fn write(self, value: request::Value, out: &mut Vec<u8>) {
        let request = abci::Request { value: Some(value) };
        let length = request.encoded_len() as u64;
        // Zig-zag of a length, which is never negative, is the length doubled.
        encode::uvarint(length << self.shift(), out);
        request.encode(out).expect("a vector grows as needed");
    }

    /// Takes the length of an answer off the buffer, when it is there whole.
    pub(super) fn take_length(self, buffer: &mut BytesMut) -> Result<Option<usize>, String> {
        let doubled = self.shift();
        match read_length(buffer, MAX_MESSAGE << doubled) {
            // An odd number is a negative one in zig-zag: no length, so the
            // framing is not this one.
            Ok(Some((_, length))) if doubled == 1 && length % 2 == 1 => {
                Err("an answer of negative length".to_owned())
            }
            Ok(Some((prefix, length))) => {
                buffer.advance(prefix);
                Ok(Some(length >> doubled))
            }
            // The longest length that is taken has five bytes.
            Ok(None) if buffer.len() < 5 => Ok(None),
            Ok(None) | Err(_) => Err(format!(
                "an answer longer than {MAX_MESSAGE} bytes; is it ABCI that it speaks?"
            )),
        }
    }
}

/// Requests that are sent one after another: `DeliverTx` for each transaction, then the last one.
pub(super) struct Calls {
    pub txs: Vec<Bytes>,
    pub last: request::Value,
    /// Number of flushes behind them: a Go server answers nothing before one.
    pub flushes: usize,
}

impl Calls {
    /// One request.
    pub(super) fn one(last: request::Value) -> Self {
        Calls {
            txs: Vec::new(),
            last,
            flushes: 1,
        }
    }
}

/// The answers.
pub(super) struct Answer {
    /// Those to the transactions.
    pub results: Vec<abci::ExecTxResult>,
    /// The last one, decoded and, where its envelope is as expected, as it came.
    pub value: response::Value,
    pub payload: Option<Bytes>,
}

/// Why there are none.
pub(super) enum Ended {
    /// An error of the application; `flushed` when the connection can be used on.
    Exception { error: Bytes, flushed: bool },
    /// The connection is of no use any more.
    Lost(String),
}

impl Ended {
    pub(super) fn lost(why: impl ToString) -> Self {
        Ended::Lost(why.to_string())
    }
}

/// Sends all requests without waiting for an answer, as Go does, since a Go server answers only
/// when it is flushed; and reads the answers meanwhile, since a server that writes them at once
/// must not get stuck.
pub(super) async fn exchange(
    socket: &mut dyn Socket,
    buffer: &mut BytesMut,
    framing: Framing,
    calls: Calls,
) -> Result<Answer, Ended> {
    let (mut from, mut to) = tokio::io::split(socket);
    let (txs, flushes) = (calls.txs.len(), calls.flushes);
    let write = async {
        let mut out = Vec::new();
        for tx in calls.txs {
            framing.write(
                request::Value::DeliverTx(abci::RequestDeliverTx { tx }),
                &mut out,
            );
            // Pieces, so that a block of 100 MB is not held a second time as requests.
            if out.len() >= PIECE {
                to.write_all(&out).await.map_err(Ended::lost)?;
                out.clear();
            }
        }
        framing.write(calls.last, &mut out);
        for _ in 0..flushes {
            framing.write(request::Value::Flush(abci::RequestFlush {}), &mut out);
        }
        to.write_all(&out).await.map_err(Ended::lost)?;
        to.flush().await.map_err(Ended::lost)
    };
    let read = read_answers(&mut from, buffer, framing, txs, flushes);
    // An early answer of "exception" ends the writing as well: nobody reads the rest.
    let ((), answer) = tokio::try_join!(write, read)?;
    Ok(answer)
}

async fn read_answers(
    socket: &mut (impl AsyncRead + Unpin),
    buffer: &mut BytesMut,
    framing: Framing,
    txs: usize,
    flushes: usize,
) -> Result<Answer, Ended> {
    let mut results = Vec::with_capacity(txs);
    for _ in 0..txs {
        let (value, _) = read_message(socket, buffer, framing).await?;
        match value {
            response::Value::DeliverTx(result) => results.push(result),
            response::Value::Exception(exception) => {
                // The rest of the transactions' answers may or may not follow, so
                // the stream is out of step.
                let (error, flushed) = (exception.error, false);
                return Err(Ended::Exception { error, flushed });
            }
            other => {
                let why = format!("DeliverTx was answered by {}", kind(&other));
                return Err(Ended::Lost(why));
            }
        }
    }
    let (value, message) = read_message(socket, buffer, framing).await?;
    if let response::Value::Exception(exception) = value {
        let error = exception.error;
        // Some servers go on after an exception, and answer the flush; others hang up.
        let rest = read_flushes(socket, buffer, framing, flushes);
        let flushed = tokio::time::timeout(FLUSH_FOR, rest)
            .await
            .is_ok_and(|flushed| flushed.is_ok());
        return Err(Ended::Exception { error, flushed });
    }
    read_flushes(socket, buffer, framing, flushes).await?;
    Ok(Answer {
        results,
        value,
        payload: only_field(message),
    })
}

async fn read_flushes(
    socket: &mut (impl AsyncRead + Unpin),
    buffer: &mut BytesMut,
    framing: Framing,
    flushes: usize,
) -> Result<(), Ended> {
    for _ in 0..flushes {
        match read_message(socket, buffer, framing).await?.0 {
            response::Value::Flush(_) => {}
            response::Value::Exception(exception) => {
                let (error, flushed) = (exception.error, false);
                return Err(Ended::Exception { error, flushed });
            }
            other => {
                let why = format!("the flush was answered by {}", kind(&other));
                return Err(Ended::Lost(why));
            }
        }
    }
    Ok(())
}

/// A message with its length before it, decoded and as it came. Memory grows with the bytes that
/// come, not with the length that is claimed.
async fn read_message(
    socket: &mut (impl AsyncRead + Unpin),
    buffer: &mut BytesMut,
    framing: Framing,
) -> Result<(response::Value, Bytes), Ended> {
    let length = loop {
        // Before the length: an HTTP server's first bytes would read as a length and be waited for.
        if let Some(other) = other_protocol(buffer) {
            return Err(Ended::lost(other));
        }
        // An answer of no length is none: four bytes tell what it is instead.
        let undecided = buffer.first() == Some(&0) && buffer.len() < 4;
        if !undecided && let Some(length) = framing.take_length(buffer).map_err(Ended::Lost)? {
            break length;
        }
        fill(socket, buffer).await.map_err(Ended::Lost)?;
    };
    while buffer.len() < length {
        fill(socket, buffer).await.map_err(Ended::Lost)?;
    }
    let message = buffer.split_to(length).freeze();
    // The bytes stay beside the decoded value: stored results are served as
    // the application wrote them.
    let response = abci::Response::decode(message.clone()).map_err(Ended::lost)?;
    let value = response
        .value
        .ok_or_else(|| Ended::lost("an answer of an unknown kind"))?;
    Ok((value, message))
}

/// The words for a gRPC port behind `tcp://`.
const GRPC_PORT: &str = if cfg!(feature = "grpc") {
    "it speaks HTTP/2, a gRPC port: name it as grpc://HOST:PORT, or use ABCI over a socket (the application's --transport=socket)"
} else {
    "it speaks HTTP/2, a gRPC port: ABCI over a socket is wanted (the application's --transport=socket)"
};

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
        return Some(GRPC_PORT);
    }
    None
}

pub(super) async fn fill(
    socket: &mut (impl AsyncRead + Unpin),
    buffer: &mut BytesMut,
) -> Result<(), String> {
    // A read takes no more than the room there is, and a buffer may have none left.
    buffer.reserve(64 << 10);
    match socket.read_buf(buffer).await {
        // A Go application that panics closes the socket without a word (`protocol.md` 7.1).
        Ok(0) => Err(
            "it closed the connection (an application that panics does, and a gRPC port: ABCI over a socket is wanted)"
                .to_owned(),
        ),
        Ok(_) => Ok(()),
        Err(why) => Err(why.to_string()),
    }
}

/// The payload of a message that has one field, as a `Response` does; `None` when it has more.
pub(super) fn only_field(mut message: Bytes) -> Option<Bytes> {
    use prost::encoding::{WireType, decode_key, decode_varint};
    let (_, WireType::LengthDelimited) = decode_key(&mut message).ok()? else {
        return None;
    };
    let length = decode_varint(&mut message).ok()?;
    // Bytes behind the field would be lost with the envelope, so such an answer is encoded anew.
    (length == message.len() as u64).then_some(message)
}

/// The name of an answer's kind.
pub(super) fn kind(value: &response::Value) -> &'static str {
    match value {
        response::Value::Exception(_) => "an exception",
        response::Value::Echo(_) => "Echo",
        response::Value::Flush(_) => "Flush",
        response::Value::Info(_) => "Info",
        response::Value::InitChain(_) => "InitChain",
        response::Value::Query(_) => "Query",
        response::Value::BeginBlock(_) => "BeginBlock",
        response::Value::DeliverTx(_) => "DeliverTx",
        response::Value::EndBlock(_) => "EndBlock",
        response::Value::Commit(_) => "Commit",
        response::Value::ProcessProposal(_) => "ProcessProposal",
        response::Value::VerifyVoteExtension(_) => "VerifyVoteExtension",
        response::Value::FinalizeBlock(_) => "FinalizeBlock",
    }
}
