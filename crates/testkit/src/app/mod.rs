//! Requirements on an application, and applications for tests.

pub mod conformance;
mod params;
mod persistent;
pub mod socket;

pub use params::ParamsKvStore;
pub use persistent::PersistentKvStore;
