//! The `blocksync` program.
//!
//! `args` describes the command line; `home` is a directory on disk; `node` starts the service over it, and `run` drives it to
//! the goal, for `sync` and `import` alike. `blockfile` is a file of blocks that answers like a peer.

#![deny(unsafe_code)]

mod args;
mod assets;
mod bench;
mod bench_comet;
mod bench_link;
mod bench_probe;
mod bench_process;
mod blockfile;
mod config;
mod demo;
mod demo_servers;
mod export;
mod failure;
mod home;
mod import;
mod logging;
mod node;
mod progress;
mod report;
mod run;
mod serve;
mod signals;
mod status;
mod sync;
mod verify;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser};

use args::{Cli, Command};
use failure::{Exit, Failure};

/// Freed blocks stay with the process: returning their memory to the system each time costs more
/// than executing them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Reads the command line and the home's `config.toml`, does what they say, and gives the exit status.
fn main() -> ExitCode {
    let cli = match parse(std::env::args_os().collect()) {
        Ok(cli) => cli,
        Err(end) => return end,
    };
    if let Err(failure) = logging::start(&cli) {
        return failure.show();
    }
    match perform(cli.command) {
        Ok(exit) => exit.into(),
        Err(failure) => failure.show(),
    }
}

fn perform(command: Command) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::failed(format!("cannot start the runtime: {e}")))?;
    let result = match command {
        Command::Demo => runtime.block_on(demo::run()),
        Command::Sync(args) => runtime.block_on(sync::run(args)),
        Command::Serve(args) => runtime.block_on(serve::run(args)),
        Command::Import(args) => runtime.block_on(import::run(args)),
        Command::Export(args) => export::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Bench(args) => bench::run(&args),
    };
    // What still blocks is reading only: everything that writes has been joined.
    runtime.shutdown_background();
    result
}

/// The command line, with what `config.toml` adds to it.
fn parse(line: Vec<OsString>) -> Result<Cli, ExitCode> {
    let matches = match Cli::command().try_get_matches_from(&line) {
        Ok(matches) => matches,
        Err(e) => return Err(say(&e)),
    };
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(e) => return Err(say(&e)),
    };
    with_config(line, &matches, cli).map_err(Failure::show)
}

fn with_config(mut line: Vec<OsString>, matches: &ArgMatches, cli: Cli) -> Result<Cli, Failure> {
    let Some(home) = cli.command.home() else {
        return Ok(cli);
    };
    let Some((name, given)) = matches.subcommand() else {
        return Ok(cli);
    };
    let file = home.join("config.toml");
    let more = config::arguments(&file, &Cli::command(), name, given).map_err(Failure::usage)?;
    if more.is_empty() {
        return Ok(cli);
    }
    // Right behind the subcommand: a positional argument, or `--`, may stand at the end.
    let at = line
        .iter()
        .position(|a| a == name)
        .map_or(line.len(), |n| n + 1);
    line.splice(at..at, more);
    let parsed = Cli::try_parse_from(&line);
    parsed.map_err(|e| Failure::usage(format!("{}: {}", file.display(), first_line(&e))))
}

/// clap's own output: help goes to standard output with status 0, mistakes to standard error with status 2.
fn say(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    if error.use_stderr() {
        Exit::Usage.into()
    } else {
        Exit::Reached.into()
    }
}

fn first_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    line.trim_start_matches("error: ").to_owned()
}
