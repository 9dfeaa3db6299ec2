//! What a store must do, and a store that fails on command.

pub mod conformance;
pub mod faulty;
