//! The log: to standard error, around the progress line. Its filter can be changed while the
//! program runs.

use std::ffi::OsString;
use std::io::{self, Write};
use std::sync::OnceLock;

use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::prelude::*;
use tracing_subscriber::{EnvFilter, Registry, reload};

use crate::args::{Cli, Command, LogFormat};
use crate::console;
use crate::failure::Failure;
use crate::parse;

/// The filter of most commands.
const USUAL: &str = "warn,blocksync=info";

static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Starts the log as the flags say.
///
/// # Errors
/// When the filter is none.
pub(crate) fn start(cli: &Cli) -> Result<(), Failure> {
    console::speak_json(cli.log_format == LogFormat::Json);
    console::catch_panics();
    let usual = match cli.command {
        Command::Demo => "error", // it tells its story itself
        _ => USUAL,
    };
    let wanted = cli.log.as_deref().unwrap_or(usual);
    let (filter, handle) = reload::Layer::new(filter(wanted)?);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(Beside)
        .with_target(false);
    let log = tracing_subscriber::registry().with(filter);
    let done = match cli.log_format {
        LogFormat::Text => log
            .with(lines.compact().with_ansi(console::is_watched()))
            .try_init(),
        LogFormat::Json => log.with(lines.json().flatten_event(true)).try_init(),
    };
    done.map_err(|e| Failure::failed(format!("cannot start the log: {e}")))?;
    let _ = FILTER.set(handle); // it is started once
    Ok(())
}

/// Reads the filter again, and says what it is now. A filter that cannot be used changes nothing.
pub(crate) fn reload(line: Vec<OsString>) {
    let changed = parse::log_filter(line).and_then(|wanted| {
        let wanted = wanted.unwrap_or_else(|| USUAL.to_owned());
        let filter = filter(&wanted)?;
        let handle = FILTER
            .get()
            .ok_or_else(|| Failure::failed("there is no log"))?;
        let replaced = handle.reload(filter);
        replaced.map_err(|e| Failure::failed(e.to_string()))?;
        Ok(wanted)
    });
    match changed {
        Ok(wanted) => console::say(&format!("the log's filter is now {wanted}")),
        Err(failure) => console::say(&format!(
            "the log's filter stays as it is: {}",
            failure.message
        )),
    }
}

fn filter(wanted: &str) -> Result<EnvFilter, Failure> {
    EnvFilter::try_new(wanted).map_err(|e| Failure::usage(format!("--log {wanted:?}: {e}")))
}

/// Writes each line above the progress line.
struct Beside;

impl<'a> MakeWriter<'a> for Beside {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line(Vec::new())
    }
}

/// One line, written when it is whole.
struct Line(Vec<u8>);

impl Write for Line {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        // The formatter writes in pieces, between which the progress line would be drawn.
        self.0.extend_from_slice(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        console::raw(String::from_utf8_lossy(&self.0).trim_end());
    }
}
