//! The `blocksync` binary: `cli` is what a person sees, `config` is `config.toml`.
#![deny(unsafe_code)]

mod cli;
mod config;

fn main() -> std::process::ExitCode {
    cli::main()
}
