//! The `blocksync` program.
//!
//! `args` describes the command line; `home` is a directory on disk; `node` starts the service over
//! it, and `run` drives it to the goal, for `sync` and `import` alike.

#![deny(unsafe_code)]

#[macro_use]
mod console;

mod args;
mod assets;
mod auto;
mod bench;
mod bench_comet;
mod bench_link;
mod bench_probe;
mod bench_process;
mod block;
mod comet_home;
mod config;
mod demo;
mod demo_servers;
mod documents;
mod export;
mod failure;
mod home;
mod http;
mod import;
mod init;
mod logging;
mod maintain;
mod node;
mod notify;
mod outline;
mod parse;
mod progress;
mod repair;
mod replay;
mod report;
mod run;
mod serve;
mod signals;
mod status;
mod sync;
mod values;
mod verify;

use std::process::ExitCode;

use args::{Command, ConfigCommand};
use failure::{Exit, Failure};

/// Freed blocks stay with the process: returning their memory to the system each time costs more
/// than executing them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Reads the command line and the home's `config.toml`, does what they say, and gives the exit
/// status.
fn main() -> ExitCode {
    let cli = match parse::parse(std::env::args_os().collect()) {
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
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if let threads @ 1.. = command.threads() {
        builder.worker_threads(threads.into());
    }
    let runtime = builder
        .enable_all()
        .build()
        .map_err(|e| Failure::failed(format!("cannot start the runtime: {e}")))?;
    // The default action of SIGHUP would end a node whose log is to be changed.
    if command.is_long() {
        let _inside = runtime.enter();
        signals::reload_on_hangup()?;
    }
    let result = match command {
        Command::Demo => runtime.block_on(demo::run()),
        Command::Init(args) => init::run(&args),
        Command::Sync(args) => runtime.block_on(sync::run(*args)),
        Command::Serve(args) => runtime.block_on(serve::run(*args)),
        Command::Import(args) => runtime.block_on(import::run(args)),
        Command::Export(args) => match &args.comet_home {
            Some(dir) => runtime.block_on(comet_home::export(&args, dir)),
            None => export::run(&args),
        },
        Command::Block(args) => block::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Rollback(args) => maintain::rollback(&args),
        Command::Compact(args) => maintain::compact(&args),
        Command::Reset(args) => maintain::reset(&args),
        Command::ShowNodeId(args) => init::show_node_id(&args),
        Command::Config(ConfigCommand::Check(args)) => init::check(&args),
        Command::Config(ConfigCommand::Show(args)) => init::show(&args),
        Command::Replay(args) => replay::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Completions(args) => documents::completions(args.shell),
        Command::Man(args) => documents::man(args.dir.as_deref()),
    };
    // A task that still blocks reads, or hangs in an application or a disk: everything that writes
    // and can end has been joined.
    runtime.shutdown_background();
    result
}
