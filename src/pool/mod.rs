//! The scheduler: a pure state machine.

mod io;

pub use io::*;
