//! The listener as clients see it, over real sockets.

mod boards;
mod client;
mod golden;
mod limits;
mod metrics;
mod pages;
mod peers;
mod rust_client;
mod subscribe;
