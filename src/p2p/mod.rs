//! The transport: everything between a socket and a [`Link`](crate::link::Link).
//!
//! For the binary, [`Switch`] is all there is to know:
//!
//! ```no_run
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! use blocksync::p2p::{Config, NodeKey, PeerAddr, Switch};
//! # let (stop, home) = (tokio_util::sync::CancellationToken::new(), std::path::Path::new("."));
//! let key = NodeKey::load_or_create(&home.join("node_key.json"))?;
//! let mut config = Config::new(key, "my-chain");
//! config.listen.push("comet://0.0.0.0:26656".parse()?);
//! config.peers = PeerAddr::parse_list("7b9c39309622bda1f8cd2bade5725e8f09948a1a@10.0.0.7:26656,plain://localhost:9000")?;
//! let (links, mut come) = tokio::sync::mpsc::channel(16);
//! let switch = Switch::start(config, links, stop.clone()).await?;
//! while let Some(link) = come.recv().await { /* give it to the service */ }
//! # stop.cancel();
//! switch.stopped().await;
//! # Ok(()) }
//! ```
//!
//! A runtime that has streams of its own makes links of them with [`plain::link`].
//!
//! From the wire upwards: [`stream`] (two buffered halves, sealed by [`secret`] or not) → [`packet`] or [`frame`] (messages on
//! channels) → [`drive`] (the two tasks of a connection) → [`switch`]. Beside them [`upgrade`] does the handshakes with
//! [`node_info`].

pub mod addr;
pub mod addrbook;
pub mod backoff;
pub mod budget;
pub mod config;
pub mod counters;
pub mod drive;
#[cfg(test)]
mod drive_tests;
pub mod frame;
#[doc(hidden)]
pub mod fuzzing;
pub mod gate;
#[cfg(test)]
mod hostile_tests;
pub mod key;
pub mod node_info;
pub mod pace;
pub mod packet;
pub mod pex;
pub mod plain;
mod registry;
pub mod secret;
pub mod stream;
pub mod switch;
#[cfg(test)]
mod switch_tests;
pub mod upgrade;
#[cfg(test)]
pub(crate) mod vectors;

pub use addr::{ListenAddr, PeerAddr};
pub use config::Config;
pub use counters::{Counters, Reason};
pub use key::NodeKey;
pub use registry::PeerSummary;
pub use switch::Switch;
