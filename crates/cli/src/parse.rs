//! Reads the command line, the environment and the home's `config.toml` into one description of
//! what to do.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;

use clap::parser::ValueSource;
use clap::{ArgMatches, FromArgMatches};

use crate::args::{self, Cli};
use crate::config;
use crate::console;
use crate::failure::{Exit, Failure};

/// The command, or the exit status when that is said already: help, or a mistake.
pub(crate) fn parse(line: Vec<OsString>) -> Result<Cli, ExitCode> {
    // A mistake in the line is said in the format that the line asks for.
    console::speak_json(wants_json(&line));
    let matches = args::command()
        .try_get_matches_from(&line)
        .map_err(|e| say(&e))?;
    let cli = Cli::from_arg_matches(&matches).map_err(|e| say(&e))?;
    with_config(line, &matches, cli).map_err(Failure::show)
}

/// The filter of the log as it is set now: the file may have changed since the start.
pub(crate) fn log_filter(line: Vec<OsString>) -> Result<Option<String>, Failure> {
    let matches = args::command()
        .try_get_matches_from(&line)
        .map_err(|e| Failure::usage(first_line(&e)))?;
    let cli = Cli::from_arg_matches(&matches).map_err(|e| Failure::usage(first_line(&e)))?;
    Ok(with_config(line, &matches, cli)?.log)
}

fn wants_json(line: &[OsString]) -> bool {
    // Looked for by hand: clap cannot tell the format before it has accepted the whole line.
    let flag = |a: &OsString| a == "--log-format=json";
    let pair = |w: &[OsString]| w[0] == "--log-format" && w[1] == "json";
    let variable = args::variable("log-format").and_then(std::env::var_os);
    line.iter().any(flag)
        || line.windows(2).any(pair)
        || variable.as_deref() == Some(OsStr::new("json"))
}

fn with_config(mut line: Vec<OsString>, matches: &ArgMatches, cli: Cli) -> Result<Cli, Failure> {
    // Commands without a home have no file.
    let Some(home) = cli.command.home() else {
        return Ok(cli);
    };
    let Some((name, given)) = matches.subcommand() else {
        return Ok(cli);
    };
    let file = home.join("config.toml");
    let is_given = |id: &str| {
        let source = given.value_source(id);
        matches!(
            source,
            Some(ValueSource::CommandLine | ValueSource::EnvVariable)
        )
    };
    let more =
        config::arguments(&file, &args::command(), name, is_given).map_err(Failure::usage)?;
    // Nothing to add, so the line need not be parsed a second time.
    if more.is_empty() {
        return Ok(cli);
    }
    // Right behind the subcommand: a positional argument, or `--`, may stand at the end.
    let at = line
        .iter()
        .position(|a| a == name)
        .map_or(line.len(), |n| n + 1);
    line.splice(at..at, more);
    matches_of(&line, &file).and_then(|matches| {
        Cli::from_arg_matches(&matches).map_err(|e| Failure::usage(first_line(&e)))
    })
}

/// A line with what a file adds to it; a mistake in it is the file's.
fn matches_of(line: &[OsString], file: &Path) -> Result<ArgMatches, Failure> {
    let parsed = args::command().try_get_matches_from(line);
    parsed.map_err(|e| Failure::usage(format!("{}: {}", file.display(), first_line(&e))))
}

/// clap's own output: help goes to standard output with status 0, mistakes to standard error with
/// status 2.
fn say(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        console::print(error.render().to_string().trim_end());
        return Exit::Reached.into();
    }
    if console::is_json() {
        return Failure::usage(first_line(error)).show();
    }
    let _ = error.print();
    Exit::Usage.into()
}

/// The complaint without the usage that clap adds below it.
pub(crate) fn first_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    line.trim_start_matches("error: ").to_owned()
}
