//! The log: to standard error, around the progress line.

use std::io::{self, Write};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::args::{Cli, Command, LogFormat};
use crate::failure::Failure;
use crate::progress;

/// Starts the log as the flags say.
///
/// # Errors
/// When the filter is none.
pub(crate) fn start(cli: &Cli) -> Result<(), Failure> {
    let usual = match cli.command {
        Command::Demo => "error", // it tells its story itself
        _ => "warn,blocksync=info",
    };
    let wanted = cli.log.as_deref().unwrap_or(usual);
    let filter =
        EnvFilter::try_new(wanted).map_err(|e| Failure::usage(format!("--log {wanted:?}: {e}")))?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(Beside)
        .with_target(false);
    let done = match cli.log_format {
        LogFormat::Text => log.compact().with_ansi(progress::is_terminal()).try_init(),
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    };
    done.map_err(|e| Failure::failed(format!("cannot start the log: {e}")))
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
        self.0.extend_from_slice(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        progress::say(String::from_utf8_lossy(&self.0).trim_end());
    }
}
