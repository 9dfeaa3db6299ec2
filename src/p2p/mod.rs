//! Transports.

pub mod addr;
pub mod counters;
pub mod drive;
pub mod frame;
pub mod gate;
pub mod key;
pub mod node_info;
pub mod pace;
pub mod packet;
pub mod plain;
mod registry;
pub mod secret;
pub mod stream;
pub mod upgrade;
#[cfg(test)]
pub(crate) mod vectors;
