//! The log of one test's thread. One subscriber serves the whole process: a thread's own would be
//! told of call sites according to what the others have seen first.

use std::cell::RefCell;
use std::io::{self, Write};
use std::sync::Once;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::dynamic_filter_fn;
use tracing_subscriber::layer::SubscriberExt;

thread_local! {
    /// Log of this thread, while a test listens. All of a service on a current-thread runtime runs
    /// on its test's thread.
    static LOGGED: RefCell<Option<(LevelFilter, Vec<u8>)>> = const { RefCell::new(None) };
}

struct Sink;

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LOGGED.with_borrow_mut(|log| {
            if let Some((_, log)) = log {
                log.extend_from_slice(bytes);
            }
        });
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Begins to listen to this thread, with an empty log.
pub(crate) fn listen(level: LevelFilter) {
    static SUBSCRIBED: Once = Once::new();
    SUBSCRIBED.call_once(|| {
        let listening = dynamic_filter_fn(|metadata, _| {
            LOGGED.with_borrow(|log| {
                log.as_ref()
                    .is_some_and(|(most, _)| metadata.level() <= most)
            })
        });
        let layer = tracing_subscriber::fmt::layer()
            .with_ansi(false)
            .without_time()
            .with_writer(|| Sink)
            .with_filter(listening);
        tracing::subscriber::set_global_default(tracing_subscriber::registry().with(layer))
            .expect("no other test sets one");
    });
    LOGGED.set(Some((level, Vec::new())));
}

/// The log so far.
pub(crate) fn text() -> String {
    LOGGED.with_borrow(|log| {
        let bytes = log.as_ref().map_or(&[][..], |(_, bytes)| bytes);
        String::from_utf8_lossy(bytes).into_owned()
    })
}

/// Ends listening, and gives the log.
pub(crate) fn take() -> String {
    let text = text();
    LOGGED.set(None);
    text
}
