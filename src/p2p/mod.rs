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
//! From the wire upwards: `seal` (key agreement, sealed frames) → `stream` (two buffered
//! halves) → `secret` (the handshake) → `packet` or `frame` (messages on `channels`) →
//! `drive` (the two tasks of a connection) → `host` (a connection from its socket to its end) →
//! `finder` (more peers, from `addrbook` and `pex`) → `switch`. Beside them `upgrade` does
//! the handshakes with `node_info`, and `registry` gives the seats. No module uses one that
//! stands after it.
//!
//!
//! # What a stranger can cost
//!
//! Nothing is allocated that was only announced, and everything that waits is bounded:
//!
//! * a connection before its id is proven: 8 KiB and [`Deadlines::secret`]; a
//!   bounded number at once ([`Config::max_half_open`]), a quarter of them from one address, 20 in
//!   ten seconds from one routed address;
//! * a peer: [`Config::max_inbound`] of them, few from one routed address, one connection an id,
//!   only the ids of [`Config::allow`] if there are any;
//! * what came and was not taken by the service: 64 messages or 4 MiB a peer (`gate`), then the
//!   socket is left unread;
//! * unfinished messages: [`Config::max_message`] each, [`Config::partial_bytes`] and one message
//!   over all connections (`budget`);
//! * what is to be sent: 64 messages a peer; one that takes no byte for a minute is closed
//!   ([`Timers`]);
//! * addresses of peer exchange: a bounded book in buckets by source (`addrbook`).
//!
//! # What bad input gets
//!
//! Another network or protocol, a bad signature, another id than the one dialled, a packet or frame
//! that is none or too long, an unknown channel: the log has the peer and the reason, the
//! connection is closed, [`Counters`] has one more of its [`Reason`]. We dial again after a while
//! that doubles; if somebody has to change something first, after the longest. A peer that broke
//! the rules on an established connection is named to the service
//! ([`Inbound::Broken`](crate::link::Inbound::Broken)) and refused for [`Config::breach_back_off`],
//! or as long as the service says ([`Switch::ban`]).

#[doc(hidden)]
pub mod addr;
#[doc(hidden)]
pub mod addrbook;
mod addrbook_file;
mod backoff;
mod budget;
mod channels;
mod config;
mod contacts;
mod counters;
#[doc(hidden)]
pub mod drive;
#[cfg(test)]
mod drive_tests;
mod finder;
mod frame;
#[doc(hidden)]
pub mod fuzzing;
#[doc(hidden)]
mod host;
#[cfg(test)]
mod hostile_tests;
mod key;
#[doc(hidden)]
pub mod node_info;
mod pace;
#[doc(hidden)]
pub mod packet;
mod pex;
mod place;
pub mod plain;
mod registry;
mod seal;
#[doc(hidden)]
pub mod secret;
#[doc(hidden)]
pub mod stream;
mod switch;
#[cfg(test)]
mod switch_tests;
#[doc(hidden)]
pub mod upgrade;
mod usage;
#[cfg(test)]
pub(crate) mod vectors;

#[doc(inline)]
pub use addr::{ListenAddr, PeerAddr};
#[doc(inline)]
pub use config::Config;
pub use contacts::{Contact, ContactState};
#[doc(inline)]
pub use counters::{Counters, Reason};
#[doc(inline)]
pub use drive::Timers;
#[doc(inline)]
pub use key::NodeKey;
#[doc(inline)]
pub use registry::PeerSummary;
#[doc(inline)]
pub use switch::Switch;
#[doc(inline)]
pub use upgrade::Deadlines;
#[doc(inline)]
pub use usage::Usage;
