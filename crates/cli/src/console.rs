//! Standard error and standard output, as people and machines read them.
//!
//! Everything that goes to standard error goes through `say`, `complain` or the log's writer, so
//! that nothing tears the progress line, and so that each line is a JSON object when the log's
//! format is JSON.

use std::io::{ErrorKind, IsTerminal, Write as _};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget};
use serde_json::json;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

static JSON: AtomicBool = AtomicBool::new(false);

/// Prints a line of output, as `println!` does, but without a panic when nobody reads it any more.
macro_rules! outln {
    ($($part:tt)*) => {
        $crate::console::print(&format!($($part)*))
    };
}

/// Makes every line on standard error a JSON object from now on.
pub(crate) fn speak_json(on: bool) {
    JSON.store(on, Ordering::Relaxed);
}

/// Whether every line on standard error is a JSON object.
pub(crate) fn is_json() -> bool {
    JSON.load(Ordering::Relaxed)
}

fn lines() -> &'static MultiProgress {
    static LINES: OnceLock<MultiProgress> = OnceLock::new();
    LINES.get_or_init(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr()))
}

/// Whether a person watches standard error.
pub(crate) fn is_watched() -> bool {
    !is_json() && std::io::stderr().is_terminal()
}

/// A progress line, if a person watches.
pub(crate) fn progress_line() -> Option<ProgressBar> {
    is_watched().then(|| lines().add(ProgressBar::new(0)))
}

/// Writes a line to standard error, above the progress line.
pub(crate) fn say(line: &str) {
    told("INFO", line);
}

/// Writes a line that begins with `error: ` to standard error.
pub(crate) fn complain(message: &str) {
    if is_json() {
        told("ERROR", message);
    } else {
        raw(&format!("error: {message}"));
    }
}

fn told(level: &str, line: &str) {
    if !is_json() {
        return raw(line);
    }
    let mut timestamp = String::new();
    // Writing to a string cannot fail.
    let _ = SystemTime.format_time(&mut Writer::new(&mut timestamp));
    let object = json!({"timestamp": timestamp, "level": level, "message": line});
    raw(&object.to_string());
}

/// Writes a line to standard error as it is.
pub(crate) fn raw(line: &str) {
    lines().suspend(|| {
        // Nobody is left to be told when standard error is gone.
        let _ = writeln!(std::io::stderr().lock(), "{line}");
    });
}

/// Writes a line to standard output. When nobody reads it any more that is no failure; a full disk
/// is one.
pub(crate) fn print(line: &str) {
    let mut out = std::io::stdout().lock();
    let written = writeln!(out, "{line}").and_then(|()| out.flush());
    if let Err(e) = written
        && e.kind() != ErrorKind::BrokenPipe
    {
        complain(&format!("standard output: {e}"));
        // A reader of this output must not take a part of it for the whole.
        std::process::exit(1);
    }
}

/// Makes a panic one line like any other, where lines are JSON.
pub(crate) fn catch_panics() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if is_json() {
            // A panic of several lines would break a reader that takes each line for an object.
            told("ERROR", &panic.to_string().replace('\n', " "));
        } else {
            usual(panic);
        }
    }));
}
