//! What an application must do.

pub mod conformance;
