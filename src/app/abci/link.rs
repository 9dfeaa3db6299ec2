//! The way to an application: where it listens, and the connections that are open to it.

use bytes::BytesMut;
use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;

use super::frames::{self, Answer, Calls, Ended, Framing, Socket};
#[cfg(feature = "grpc")]
use super::grpc;
use crate::wire::proto::abci::request;

/// Where an application listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// `tcp://HOST:PORT`
    Tcp(String),
    /// `unix://PATH`
    #[cfg(unix)]
    Unix(std::path::PathBuf),
    /// `grpc://HOST:PORT`
    #[cfg(feature = "grpc")]
    Grpc(http::Uri),
}

impl Place {
    pub(super) fn parse(address: &str) -> Option<Self> {
        Some(match address.split_once("://")? {
            ("tcp", place) if place.contains(':') => Place::Tcp(place.to_owned()),
            #[cfg(unix)]
            ("unix", path) if !path.is_empty() => Place::Unix(path.into()),
            #[cfg(feature = "grpc")]
            ("grpc", place) => Place::Grpc(grpc::origin(place)?),
            _ => return None,
        })
    }

    pub(super) fn is_grpc(&self) -> bool {
        #[cfg(feature = "grpc")]
        return matches!(self, Place::Grpc(_));
        #[cfg(not(feature = "grpc"))]
        return false;
    }

    /// Tries once.
    pub(super) async fn connect(&self, connections: Connections) -> std::io::Result<Link> {
        #[cfg(feature = "grpc")]
        if let Place::Grpc(origin) = self {
            let place = origin.authority().map_or("", |place| place.as_str());
            let channel = grpc::Channel::over(tcp(place).await?, origin.clone());
            return channel.await.map(Link::Grpc);
        }
        let beside = match connections {
            Connections::One => 0,
            Connections::Four => 3,
        };
        // The consensus connection comes last, as CometBFT opens them (`protocol.md` 7.1).
        let mut lines = Vec::with_capacity(beside);
        for _ in 0..beside {
            lines.push(self.line().await?);
        }
        Ok(Link::Socket {
            beside: lines,
            consensus: self.line().await?,
        })
    }

    async fn line(&self) -> std::io::Result<Line> {
        let socket: Box<dyn Socket> = match self {
            Place::Tcp(place) => Box::new(tcp(place).await?),
            #[cfg(unix)]
            Place::Unix(path) => Box::new(UnixStream::connect(path).await?),
            #[cfg(feature = "grpc")]
            Place::Grpc(_) => return Err(std::io::ErrorKind::Unsupported.into()),
        };
        let buffer = BytesMut::new();
        Ok(Line { socket, buffer })
    }
}

async fn tcp(place: &str) -> std::io::Result<TcpStream> {
    let socket = TcpStream::connect(place).await?;
    // Each call waits for its answer, so Nagle's algorithm would only delay the last segment.
    socket.set_nodelay(true)?;
    Ok(socket)
}

/// Connections to an application behind a socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Connections {
    /// One for all calls. All servers of the field take it, and there is one thing only that can be
    /// lost.
    #[default]
    One,
    /// One each for query, snapshot, mempool and consensus, opened in this order, as CometBFT does,
    /// for an application that waits for all four or tells them apart. Info and Echo go over the
    /// first, blocks over the last; nothing goes over the others.
    Four,
}

/// An open way.
pub(super) enum Link {
    Socket {
        /// For query, snapshot and mempool, where they are wanted.
        beside: Vec<Line>,
        consensus: Line,
    },
    #[cfg(feature = "grpc")]
    Grpc(grpc::Channel),
}

/// A connection over a socket.
pub(super) struct Line {
    socket: Box<dyn Socket>,
    /// Bytes received and not read yet.
    buffer: BytesMut,
}

impl Link {
    pub(super) async fn exchange(
        &mut self,
        framing: Framing,
        calls: Calls,
    ) -> Result<Answer, Ended> {
        match self {
            Link::Socket { beside, consensus } => {
                let of_query = matches!(
                    calls.last,
                    request::Value::Info(_) | request::Value::Echo(_)
                );
                let line = match beside.first_mut() {
                    // An application that tells the four apart may refuse Info on
                    // the consensus connection.
                    Some(query) if of_query => query,
                    _ => consensus,
                };
                frames::exchange(&mut *line.socket, &mut line.buffer, framing, calls).await
            }
            #[cfg(feature = "grpc")]
            Link::Grpc(channel) => channel.call(calls.last).await,
        }
    }
}
