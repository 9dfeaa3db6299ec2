//! One HTTP listener for a node of blocksync: metrics for Prometheus, health checks, a status page,
//! and CometBFT's RPC as far as it only reads. Nothing can be changed through it.
//!
//! [`Node`] says what is shown; [`Http::start`] serves it on threads of its own, with the lowest
//! priority, so that a flood of requests costs a sync nothing but what it would leave idle.
//! [`json`] writes blocks and results for other uses.
#![deny(unsafe_code)]

mod health;
pub mod json;
mod metrics;
mod node;
mod page;
mod rpc;
mod server;
mod site;
mod watch;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

pub use node::{Identity, MessageBytes, NetworkPeer, Node, PeersFn, Transport, TransportFn};
pub use server::Limits;

use metrics::Metrics;
use rpc::Rpc;
use site::Site;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};
use watch::Watch;

/// Threads that serve, beside those that read the store.
const WORKERS: usize = 2;
/// Threads that read the store.
const READERS: usize = 8;
/// The lowest priority that a process can have.
const NICE: i32 = 19;

/// How the listener behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// Before CometBFT's names: `cometbft`, or `tendermint` for older boards.
    pub namespace: String,
    /// The last block's age from which `/readyz` fails; zero does not look at it.
    pub ready_lag: Duration,
    /// Names under which the status page may be asked for, beside addresses and `localhost`.
    pub hosts: Vec<String>,
    /// Peers whose bytes are metrics of their own; the others' are summed.
    pub peer_series: usize,
    /// Bounds on what strangers use.
    pub limits: Limits,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            namespace: "cometbft".to_owned(),
            ready_lag: Duration::from_secs(60),
            hosts: Vec::new(),
            peer_series: 32,
            limits: Limits::default(),
        }
    }
}

/// A running listener. Dropping it stops it.
#[derive(Debug)]
pub struct Http {
    address: SocketAddr,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Http {
    /// Listens at an address and serves on threads of its own until it is dropped.
    ///
    /// # Errors
    /// When the address cannot be listened at, or the threads cannot be started.
    pub fn start(at: SocketAddr, mut node: Node, options: Options) -> io::Result<Self> {
        // Bound before any thread starts, so that an address in use is an error of the call.
        let listener = std::net::TcpListener::bind(at)
            .map_err(|why| io::Error::new(why.kind(), format!("listen at http://{at}: {why}")))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        // Only now is the port known, where 0 was asked for.
        if node.identity.rpc_address.is_empty() {
            node.identity.rpc_address = format!("tcp://{address}");
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(WORKERS)
            // Reads take turns anyway; the bound keeps scrapes and pages from
            // making threads without end.
            .max_blocking_threads(READERS)
            .thread_name("http")
            .on_thread_start(step_back)
            .enable_all()
            .build()?;
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let run = move || {
            runtime.block_on(async move {
                // Done here: a listener belongs to the runtime in which it is made.
                match TcpListener::from_std(listener) {
                    Ok(listener) => serve(listener, node, options, stopped).await,
                    Err(why) => debug!(%why, "http: no listener"),
                }
            });
            // A read that hangs on the disk must not keep the program from ending.
            runtime.shutdown_timeout(Duration::from_secs(1));
        };
        let thread = std::thread::Builder::new()
            .name("http".to_owned())
            .spawn(run)?;
        info!("http at http://{address}");
        Ok(Http {
            address,
            stop,
            thread: Some(thread),
        })
    }

    /// Where it listens, with the port that the system chose.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Http {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            // It has said what there was to say if it panicked.
            let _ = thread.join();
        }
    }
}

/// On Linux a thread has a priority of its own: this one works when nobody else wants to.
fn step_back() {
    // `None` is the calling thread: the runtime calls this on each of its own.
    #[cfg(target_os = "linux")]
    if let Err(why) = rustix::process::setpriority_process(None, NICE) {
        debug!(%why, "http: its threads have the priority of all others");
    }
}

/// Serves a node on the current runtime until `stop` is cancelled: for programs that share theirs.
pub async fn serve(listener: TcpListener, node: Node, options: Options, stop: CancellationToken) {
    let node = Arc::new(node);
    let (rpc, watch) = (Rpc::new(node.clone()), Watch::new(node));
    let looking = tokio::spawn(watch.clone().run(stop.clone()));
    // One budget each, so that websockets cannot keep Prometheus out.
    let [scrapes, pages, sockets] = Site::permits();
    let site = Site {
        metrics: Metrics::new(rpc.clone(), watch.clone(), options.peer_series),
        rpc,
        watch,
        namespace: options.namespace,
        ready_lag: options.ready_lag,
        hosts: options.hosts,
        limits: options.limits,
        stop: stop.clone(),
        scrapes,
        pages,
        sockets,
    };
    server::run(listener, site.router(), options.limits, stop).await;
    // It ends by the same token.
    let _ = looking.await;
}
