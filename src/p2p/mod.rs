//! Transports.

pub mod frame;
pub mod gate;
pub mod key;
pub mod node_info;
pub mod pace;
pub mod packet;
pub mod secret;
pub mod stream;
#[cfg(test)]
pub(crate) mod vectors;
