//! Messages over gRPC: the service `tendermint.abci.ABCI` of CometBFT 0.38 to 0.40.
//!
//! The messages are those of the socket, without the envelope and without flushes. The connection
//! is one of HTTP/2, made once: a client that mends it by itself (as tonic's `Channel` does) would
//! tell an application to commit that has restarted since it executed the block. A call that finds
//! it gone is a lost connection, after which Info is compared again.

use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http::uri::{PathAndQuery, Uri};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Code, Status};
use tower_service::Service;

use super::frames::{Answer, Ended, MAX_MESSAGE};
use crate::wire::proto::abci::{request, response};

/// Bytes of an answer that may be under way: those of a big block come in one go.
const WINDOW: u32 = 4 << 20;

/// A connection. The task that drives it ends with it.
pub(super) struct Channel {
    sender: Sender,
    origin: Uri,
    /// Whether an answer has come: before that it may be no gRPC server at all.
    answered: bool,
    _driver: AbortOnDropHandle<()>,
}

/// hyper's half of the connection, as a service.
#[derive(Clone)]
struct Sender(SendRequest<Body>);

impl Service<Request<Body>> for Sender {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = hyper::Result<Response<Incoming>>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

/// Where the requests go, as HTTP names it; `None` for what is no HOST:PORT.
pub(super) fn origin(place: &str) -> Option<Uri> {
    let origin: Uri = format!("http://{place}").parse().ok()?;
    (origin.authority()?.as_str() == place && origin.port_u16().is_some()).then_some(origin)
}

impl Channel {
    /// A connection over this stream.
    pub(super) async fn over(socket: TcpStream, origin: Uri) -> std::io::Result<Self> {
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            // HTTP/2's 64 KiB would cost a round trip for each 64 KiB of a large answer.
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .handshake(TokioIo::new(socket))
            .await
            .map_err(std::io::Error::other)?;
        let driver = tokio::spawn(async move {
            // Its calls tell of its end.
            let _ = connection.await;
        });
        Ok(Channel {
            sender: Sender(sender),
            origin,
            answered: false,
            _driver: AbortOnDropHandle::new(driver),
        })
    }

    /// One request and its answer.
    pub(super) async fn call(&mut self, value: request::Value) -> Result<Answer, Ended> {
        macro_rules! methods {
            ($($name:ident),*) => {
                match value {
                    $(request::Value::$name(request) => {
                        // The methods carry the names of the variants, as in CometBFT's
                        // service (`protocol.md` 7.1).
                        let path = concat!("/tendermint.abci.ABCI/", stringify!($name));
                        let (answer, payload) = self.unary(path, request).await?;
                        (response::Value::$name(answer), payload)
                    })*
                    _ => return Err(Ended::lost("no call of ABCI 2.0")),
                }
            };
        }
        let (value, payload) = methods!(
            Echo,
            Info,
            InitChain,
            ProcessProposal,
            FinalizeBlock,
            Commit
        );
        Ok(Answer {
            results: Vec::new(),
            value,
            payload: Some(payload),
        })
    }

    /// A method's answer, decoded and as it came.
    async fn unary<Q, R>(&mut self, path: &'static str, request: Q) -> Result<(R, Bytes), Ended>
    where
        Q: Message + 'static,
        R: Message + Default,
    {
        // Made anew for each call, over the one connection: it holds nothing but two limits.
        let mut grpc = Grpc::with_origin(self.sender.clone(), self.origin.clone())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        let ready = grpc.ready().await;
        ready.map_err(|gone| self.lost(&gone))?;
        let path = PathAndQuery::from_static(path);
        let request = tonic::Request::new(request);
        match grpc.unary(request, path, Raw(PhantomData)).await {
            Ok(answer) => {
                self.answered = true;
                // Undecoded, because stored results are served as the application wrote them.
                let payload: Bytes = answer.into_inner();
                let answer = R::decode(payload.clone()).map_err(Ended::lost)?;
                Ok((answer, payload))
            }
            Err(status) => Err(self.failed(&status)),
        }
    }

    /// The application's own error, or the connection's.
    fn failed(&mut self, status: &Status) -> Ended {
        let gone = matches!(
            status.code(),
            Code::Unavailable | Code::Cancelled | Code::DeadlineExceeded
        );
        // tonic gives its own transport errors a source; a status that came over the wire has none.
        if gone || std::error::Error::source(status).is_some() {
            return self.lost(status);
        }
        self.answered = true;
        let said = status.message();
        let error = match status.code() {
            // In the words of the socket's servers, by which the caller tells
            // another version of ABCI.
            Code::Unimplemented => format!("an unknown request there ({said})"),
            _ => said.to_owned(),
        };
        Ended::Exception {
            // A gRPC call ends with its answer, so the connection stays in step.
            error: error.into(),
            flushed: true,
        }
    }

    /// A lost connection, with all that it was caused by: the outermost words alone say nothing.
    fn lost(&self, error: &dyn std::error::Error) -> Ended {
        let mut words = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let cause_words = cause.to_string();
            if !words.contains(&cause_words) {
                words = format!("{words}: {cause_words}");
            }
            source = cause.source();
        }
        if !self.answered {
            words += "; is it a gRPC port? ABCI over a socket is named tcp://HOST:PORT";
        }
        Ended::Lost(words)
    }
}

/// Messages out by prost, and in as they came.
struct Raw<Q>(PhantomData<Q>);

impl<Q: Message + 'static> Codec for Raw<Q> {
    type Encode = Q;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Raw(PhantomData)
    }

    fn decoder(&mut self) -> Self {
        Raw(PhantomData)
    }
}

impl<Q: Message> Encoder for Raw<Q> {
    type Item = Q;
    type Error = Status;

    fn encode(&mut self, item: Q, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        item.encode(out)
            .map_err(|why| Status::internal(why.to_string()))
    }
}

impl<Q> Decoder for Raw<Q> {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}
