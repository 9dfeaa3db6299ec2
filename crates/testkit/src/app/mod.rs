//! Requirements on an application, and applications for tests.

pub mod conformance;
mod params;

pub use params::ParamsKvStore;
