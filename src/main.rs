//! The `blocksync` binary: `cli` is what a person sees, `config` is `config.toml`.
#![deny(unsafe_code)]

mod cli;
mod config;

/// Blocks come and go by the thousand a second: giving their memory back to the system each time costs more than executing them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    cli::main()
}
