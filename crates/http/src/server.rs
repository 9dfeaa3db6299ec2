//! The listener: connections are counted, and a client that sends or reads too slowly is dropped.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// Bounds on the resources of strangers.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Limits {
    /// Connections in all; more wait in the system's queue.
    pub connections: usize,
    /// Connections of one address; more are closed at once. Loopback is not limited.
    pub per_address: usize,
    /// Time for the head of a request.
    pub head: Duration,
    /// Time for the body of a request.
    pub body: Duration,
    /// Time without progress of a write.
    pub stall: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 900,
            per_address: 32,
            head: Duration::from_secs(10),
            body: Duration::from_secs(10),
            stall: Duration::from_secs(10),
        }
    }
}

/// How many connections each address has.
#[derive(Debug, Default)]
struct Seats(Mutex<HashMap<IpAddr, usize>>);

/// One connection's seat.
struct Seat {
    seats: Arc<Seats>,
    address: IpAddr,
}

impl Seats {
    fn take(self: &Arc<Self>, address: IpAddr, most: usize) -> Option<Seat> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.entry(address).or_default();
        // A proxy on this machine connects from one address for all of its clients.
        if *count >= most && !address.is_loopback() {
            return None;
        }
        *count += 1;
        Some(Seat {
            seats: self.clone(),
            address,
        })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.address) {
            *count -= 1;
            // Addresses that are gone leave nothing: there are as many
            // entries as connections at most.
            if *count == 0 {
                taken.remove(&self.address);
            }
        }
    }
}

/// Accepts and serves until `stop` is cancelled; then connections are dropped.
pub(crate) async fn run(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    stop: CancellationToken,
) {
    // The permit is taken before a connection is accepted, so the others
    // wait in the system's queue.
    let room = Arc::new(Semaphore::new(limits.connections));
    let seats = Arc::new(Seats::default());
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            accepted = accept(&listener, &room) => accepted,
        };
        let (stream, from, permit) = match accepted {
            Ok(accepted) => accepted,
            // Mostly too many open files, which passes; without the pause
            // this would spin until then.
            Err(why) => {
                warn!(%why, "http: a connection cannot be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        // An IPv4 address within IPv6 is the same client as the address itself.
        let Some(seat) = seats.take(from.ip().to_canonical(), limits.per_address) else {
            debug!(%from, "http: this address has too many connections");
            continue;
        };
        let (router, stop) = (router.clone(), stop.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = serve(stream, router, limits) => {}
            }
            drop((seat, permit));
        });
    }
}

async fn accept(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
) -> io::Result<(TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit)> {
    let permit = room.clone().acquire_owned().await;
    let permit = permit.map_err(io::Error::other)?;
    let (stream, from) = listener.accept().await?;
    Ok((stream, from, permit))
}

async fn serve(stream: TcpStream, router: Router, limits: Limits) {
    // Without it answers wait; with an error the next write fails as well.
    let _ = stream.set_nodelay(true);
    let paced = Paced {
        stream,
        stall: limits.stall,
        since: None,
    };
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        // A client that sends its head byte by byte holds a place no longer than this.
        .header_read_timeout(limits.head)
        .max_buf_size(64 << 10)
        .serve_connection(TokioIo::new(paced), TowerToHyperService::new(router))
        // For `/websocket`.
        .with_upgrades()
        .await;
    if let Err(why) = served {
        debug!(%why, "http: a connection ended");
    }
}

/// A connection whose writes must get on.
struct Paced {
    stream: TcpStream,
    stall: Duration,
    /// A write has been waiting, until then at most.
    since: Option<Pin<Box<Sleep>>>,
}

impl Paced {
    fn pace<T>(&mut self, cx: &mut Context<'_>, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            self.since = None;
            return poll;
        }
        // From the first write that had to wait; any progress ends the wait above.
        let deadline = Instant::now() + self.stall;
        let timer = self
            .since
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if timer.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Poll::Pending
    }
}

impl AsyncRead for Paced {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Paced {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.pace(cx, poll)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.stream).poll_flush(cx);
        self.pace(cx, poll)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Not paced: a shutdown only sends what the kernel has taken already.
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
