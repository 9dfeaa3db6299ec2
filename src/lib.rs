//! Block sync for chains of the Tendermint/CometBFT family: a node that is behind downloads blocks
//! from many peers, proves each one, executes it in order, stores it, and hands over to consensus
//! when it has caught up. The same service answers other nodes.
//!
//! # The road of one block
//! ```text
//!         peer task (one per connection)             reactor (one)               executor (one)
//! socket ─► frame ─► guard ─► decode + hash ─► Input::Block ─► Pool ─► Effect::Verify(run)
//!                     │                             ▲           │           │
//!                     ▼                             │           │       verifier (CPU pool)
//!              refused before                       └── Input::Verdict ◄────┘
//!              it is decoded                                    └─► Effect::Apply ─► check against state
//!                                                                                     ─► app ─► store
//! ```
//! Serving bypasses the reactor: request ─► quota ─► store ─► the bytes that were proven.
//!
//! # The rooms, lowest first
//! A module imports from rows above its own only (`crates/tidy`).
//!
//! | module | what lives there |
//! |---|---|
//! | [`ids`], [`fault`] | heights, hashes, peers; what a peer can do wrong and what it costs |
//! | [`chain`] | the chain's rules: types, hashes, commits, evidence, state transition, proof. Pure |
//! | [`pool`] | the scheduler: a pure state machine that knows blocks only by height, id, parent and size |
//! | [`wire`], [`link`] | messages, codec, guard; what any transport gives us for one peer |
//! | [`store`], [`app`] | the two traits that users implement, and our own implementations |
//! | [`service`], [`p2p`], [`blockfile`] | `BlockSync` and its tasks; the transport; a file as a peer. They meet in [`link::Link`] only |
//!
//! Reading order: [`pool`], `service/reactor.rs`, then what you need.
//!
//! The documented items are the interface. Modules that are public and hidden are there for this
//! repository's program, tests and fuzzers, and change without notice.
//!
//! # Words
//! *height*: a block's number. *commit*: the precommits for one block, carried by the block above
//! it. *part set*: a block's bytes in parts of 64 KiB, with a Merkle root that, with the header's
//! hash, is its [`ids::BlockId`]. *run*: consecutive blocks proven by one commit. *carrier*: the
//! block above a run, which holds that commit. *certified*: proven by more than two thirds of the
//! voting power. *applied*: executed and durable. *outcome*: what is said of the whole,
//! [`pool::Outcome`].
//!
//! `examples/library.rs` embeds it in a program; `crates/cli` is the binary.
#![deny(unsafe_code)]

// Unit tests share the chain maker and the conformance suites of `crates/testkit` by their source.
#[cfg(test)]
extern crate self as blocksync;

pub mod app;
pub mod blockfile;
pub mod chain;
pub mod link;
#[cfg(feature = "p2p")]
pub mod p2p;
pub mod service;
mod sparing;
pub mod store;
#[doc(hidden)]
pub mod varint;
pub mod wire;

pub use blocksync_pool as pool;
pub use blocksync_types::{fault, ids};
