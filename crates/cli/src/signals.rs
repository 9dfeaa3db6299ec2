//! Ctrl-C and SIGTERM: the first asks for a clean stop, the second ends the process at once. SIGHUP
//! reads the log's filter again.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::console::say;
use crate::failure::Failure;

/// The status of a process that was interrupted twice: what a shell gives to one that Ctrl-C ended.
const INTERRUPTED: i32 = 130;

/// A token that the first signal cancels. Call it once.
///
/// # Errors
/// When the system does not let us listen.
pub(crate) fn stop_token() -> Result<CancellationToken, Failure> {
    let listen =
        |kind| signal(kind).map_err(|e| Failure::failed(format!("cannot listen for signals: {e}")));
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    let stop = CancellationToken::new();
    let token = stop.clone();
    tokio::spawn(async move {
        either(&mut interrupt, &mut terminate).await;
        say("stopping; once more to end at once");
        token.cancel();
        either(&mut interrupt, &mut terminate).await;
        // Nothing is cleaned up: the store survives a kill, and this is asked
        // for when something hangs.
        std::process::exit(INTERRUPTED);
    });
    Ok(stop)
}

/// Reads the log's filter again whenever SIGHUP comes. Call it once, in a runtime.
///
/// # Errors
/// When the system does not let us listen.
pub(crate) fn reload_on_hangup() -> Result<(), Failure> {
    let mut hangup = signal(SignalKind::hangup())
        .map_err(|e| Failure::failed(format!("cannot listen for signals: {e}")))?;
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            crate::logging::reload(std::env::args_os().collect());
        }
    });
    Ok(())
}

async fn either(a: &mut Signal, b: &mut Signal) {
    tokio::select! {
        _ = a.recv() => {}
        _ = b.recv() => {}
    }
}
