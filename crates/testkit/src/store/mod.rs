//! Conformance of stores, and a store that fails on command.

pub mod conformance;
pub mod faulty;
