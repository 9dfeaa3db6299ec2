//! CometBFT's RPC, as far as it only reads (`docs/rpc.md`): by POST, batch, URI and websocket,
//! byte-equal to a stock node's answers.

mod args;
mod calls;
mod methods;
mod post;
pub(crate) mod websocket;

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Instant;

use blocksync::service::Histogram;
use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::json::{Dialect, Json, Pieces};
use crate::node::Node;
use calls::Calls;
use methods::Method;

pub(crate) use methods::METHODS;

/// Reads that run at a time, for all clients: a sync must not wait for the disk.
const READS: usize = 2;
/// Bytes of answers on their way to all clients.
const IN_FLIGHT: usize = 64 << 20;
/// Bytes of answers in one batch; calls beyond are refused.
const BATCH_BYTES: usize = 64 << 20;
/// Calls in a batch.
pub(crate) const MAX_BATCH: usize = 10;

/// How calls ended, by method and whether they succeeded.
#[derive(Debug)]
pub(crate) struct Tally {
    /// One for each method, and one for all names that are none.
    calls: Vec<[AtomicU64; 2]>,
    /// Time of calls, in seconds.
    pub(crate) seconds: Histogram,
}

/// Upper bounds of the time of a call, in seconds.
const CALL: [f64; 9] = [0.0005, 0.001, 0.002, 0.004, 0.016, 0.064, 0.25, 1.0, 4.0];

impl Tally {
    fn count(&self, method: Option<usize>, succeeded: bool) {
        let row = &self.calls[method.unwrap_or(METHODS.len())];
        row[usize::from(succeeded)].fetch_add(1, Relaxed);
    }

    /// Method, and calls that failed and succeeded.
    pub(crate) fn read(&self) -> impl Iterator<Item = (&'static str, [u64; 2])> {
        let names = METHODS.iter().map(|m| m.name).chain(["other"]);
        let rows = self.calls.iter();
        names.zip(rows.map(|row| [row[0].load(Relaxed), row[1].load(Relaxed)]))
    }
}

/// An error of the protocol.
#[derive(Clone, Debug)]
pub(crate) struct RpcError {
    code: i32,
    message: &'static str,
    data: Option<String>,
}

impl RpcError {
    pub(crate) fn parse(why: &str) -> Self {
        RpcError {
            code: -32700,
            message: "Parse error. Invalid JSON",
            data: Some(format!("error unmarshaling request: {why}")),
        }
    }

    pub(crate) fn invalid_request(why: impl Into<String>) -> Self {
        RpcError {
            code: -32600,
            message: "Invalid Request",
            data: Some(why.into()),
        }
    }

    pub(crate) fn no_method() -> Self {
        RpcError {
            code: -32601,
            message: "Method not found",
            data: None,
        }
    }

    fn invalid_params(how: &str, why: &str) -> Self {
        RpcError {
            code: -32602,
            message: "Invalid params",
            data: Some(format!("error converting {how} params to arguments: {why}")),
        }
    }

    pub(crate) fn internal(why: impl Into<String>) -> Self {
        RpcError {
            code: -32603,
            message: "Internal error",
            data: Some(why.into()),
        }
    }

    /// The whole answer; `id` is JSON already.
    pub(crate) fn answer(&self, id: Option<&str>) -> Json {
        let mut json = Json::new();
        json.raw("{\"jsonrpc\":\"2.0\"");
        if let Some(id) = id {
            json.raw(",\"id\":").raw(id);
        }
        json.raw(",\"error\":{\"code\":").number(self.code);
        json.raw(",\"message\":\"").raw(self.message).raw("\"");
        if let Some(data) = &self.data {
            json.raw(",\"data\":").string(data.as_bytes());
        }
        json.raw("}}");
        json
    }
}

/// An answer as it goes into HTTP.
#[derive(Debug)]
pub(crate) struct Reply {
    /// The HTTP status.
    pub(crate) status: u16,
    /// Nothing for notifications alone.
    pub(crate) body: Json,
    /// May be kept for a day.
    pub(crate) cacheable: bool,
    /// No answer in it is an error.
    pub(crate) succeeded: bool,
}

/// The RPC over one node.
#[derive(Debug)]
pub(crate) struct Rpc {
    pub(crate) node: Arc<Node>,
    calls: Calls,
    reads: Semaphore,
    flight: Arc<Semaphore>,
    pub(crate) tally: Tally,
}

impl Rpc {
    pub(crate) fn new(node: Arc<Node>) -> Arc<Self> {
        let calls = std::iter::repeat_with(<[AtomicU64; 2]>::default);
        Arc::new(Rpc {
            node,
            calls: Calls::default(),
            reads: Semaphore::new(READS),
            flight: Arc::new(Semaphore::new(IN_FLIGHT)),
            tally: Tally {
                calls: calls.take(METHODS.len() + 1).collect(),
                seconds: Histogram::new(&CALL),
            },
        })
    }

    /// Runs what reads the store on a blocking thread, in its turn.
    pub(crate) async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Rpc) -> T + Send + 'static,
    ) -> Option<T> {
        // Taken before the blocking thread, so that waiting calls cost a task and not a thread.
        let _turn = self.reads.acquire().await.ok()?;
        let rpc = self.clone();
        tokio::task::spawn_blocking(move || work(&rpc)).await.ok()
    }

    /// Holds an answer's share of what may be on its way, until the last byte is written. Blocks
    /// that are larger than all of it go alone.
    pub(crate) async fn charged(&self, body: Json) -> Charged {
        // By what it keeps in memory, which for a block is less than its text.
        let share = u32::try_from(body.held().min(IN_FLIGHT)).unwrap_or(u32::MAX);
        Charged {
            left: body.len() as u64,
            // Nobody closes it.
            _share: self.flight.clone().acquire_many_owned(share).await.ok(),
            pieces: body.into_pieces(),
        }
    }

    /// One call with its arguments: the answer without its envelope, and whether it may be cached.
    fn call(&self, method: &Method, args: &[args::Arg]) -> Result<(Json, bool), RpcError> {
        let (began, mut json) = (Instant::now(), Json::new());
        let done = (method.run)(self, &mut json, args);
        self.tally.seconds.note_time(began.elapsed());
        done.map_err(RpcError::internal)?;
        Ok((json, method.is_cacheable(args)))
    }

    /// One call by URI.
    pub(crate) fn by_uri(&self, name: &str, query: &str, form: &str) -> Option<Reply> {
        let Some((index, method)) = methods::find(name) else {
            // A call that exists over websockets alone is answered; any other name is a plain 404.
            return methods::is_websocket(name).then(|| {
                self.tally.count(None, false);
                error_reply(404, &RpcError::no_method(), Some("-1"))
            });
        };
        let args = args::from_uri(method.params, query, form)
            .map_err(|why| RpcError::invalid_params("http", &why));
        let result = args.and_then(|args| self.call(method, &args));
        self.tally.count(Some(index), result.is_ok());
        Some(match result {
            Ok((json, cacheable)) => Reply {
                status: 200,
                // Calls by URI have no id; CometBFT answers them with -1.
                body: success("-1", json),
                cacheable,
                succeeded: true,
            },
            Err(error) => error_reply(500, &error, Some("-1")),
        })
    }

    fn whole_ids(&self) -> bool {
        let first = self.node.genesis.initial_height;
        self.node.dialect(first) == Dialect::V040
    }
}

/// An answer on its way. Its pieces are written when the connection takes them.
#[derive(Debug)]
pub(crate) struct Charged {
    pieces: Pieces,
    /// Bytes that are not taken yet.
    left: u64,
    _share: Option<OwnedSemaphorePermit>,
}

impl Body for Charged {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        // Encoded only now, when the connection has taken the one before.
        let piece = self.pieces.next();
        self.left -= piece.as_ref().map_or(0, |piece| piece.len() as u64);
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

pub(crate) fn error_reply(status: u16, error: &RpcError, id: Option<&str>) -> Reply {
    Reply {
        status,
        body: error.answer(id),
        cacheable: false,
        succeeded: false,
    }
}

fn success(id: &str, result: Json) -> Json {
    let mut json = Json::new();
    json.raw("{\"jsonrpc\":\"2.0\",\"id\":").raw(id);
    json.raw(",\"result\":").append(result).raw("}");
    json
}
