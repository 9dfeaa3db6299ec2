//! The listener as clients see it, over real sockets.

mod client;
mod golden;
mod limits;
mod metrics;
mod pages;
mod subscribe;
