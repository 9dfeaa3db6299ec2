//! Integration tests of the library in one binary, by topic: `cargo test --test it crash::`.
//!
//! Tests that need a process of their own (an allocator that counts) stand beside this directory.

mod abci_four;
mod abci_grpc;
mod abci_socket;
mod abci_versions;
mod advertised;
mod bad_input;
mod claims;
mod crash;
mod golden;
mod life;
mod limited;
mod logged;
mod node;
mod node_runtime;
mod p2p_interop_rs;
mod proof_recorded;
mod recorded_chains;
mod recorder;
mod results;
mod service_faults;
mod service_sim;
mod spans;
mod stock;
mod strangers;
mod turmoil;
mod versions;
mod waiting;
