//! Where work that must not hold up the async workers goes: CPU work to our own thread pool, blocking store calls to
//! tokio's blocking threads. Tests on paused time run both inline, since tokio's paused clock runs ahead of foreign threads.

use std::sync::Arc;

use futures::future::Either;
use tokio::sync::oneshot;

/// The one way off the async workers. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Offload(Arc<Inner>);

#[derive(Debug)]
enum Inner {
    Inline,
    Threads(rayon::ThreadPool),
}

/// A thread pool could not be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot start {threads} threads for verification: {why}")]
pub struct OffloadError {
    threads: usize,
    why: String,
}

impl Offload {
    /// Everything runs where it is called: for tests on paused time.
    #[must_use]
    pub fn inline() -> Self {
        Offload(Arc::new(Inner::Inline))
    }

    /// A pool of our own with so many threads; 0 is one for each core.
    ///
    /// # Errors
    /// When the operating system gives no threads.
    pub fn threads(threads: usize) -> Result<Self, OffloadError> {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|n| format!("blocksync-cpu-{n}"))
            .build()
            .map(|pool| Offload(Arc::new(Inner::Threads(pool))))
            .map_err(|e| OffloadError {
                threads,
                why: e.to_string(),
            })
    }

    /// Runs CPU work. Dropping the future does not stop the work.
    ///
    /// # Panics
    /// When the work panics.
    pub async fn cpu<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        match &*self.0 {
            Inner::Inline => work(),
            Inner::Threads(pool) => {
                let (tx, rx) = oneshot::channel();
                pool.spawn(move || {
                    // The receiver is gone when the caller was cancelled: nobody needs the result then.
                    let _ = tx.send(work());
                });
                rx.await.expect("work on the CPU pool panicked")
            }
        }
    }

    /// Starts a blocking store call at once, and gives its result. Dropping the future does not stop the call.
    ///
    /// # Panics
    /// When the call panics.
    pub fn io<T: Send + 'static, F: FnOnce() -> T + Send + 'static>(
        &self,
        call: F,
    ) -> impl Future<Output = T> + Send + use<T, F> {
        match &*self.0 {
            Inner::Inline => Either::Left(std::future::ready(call())),
            Inner::Threads(_) => {
                let running = tokio::task::spawn_blocking(call);
                Either::Right(async move { running.await.expect("a store call panicked") })
            }
        }
    }

    /// Applies `work` to each item, on all threads of the pool when called from one of them, in order of the items.
    pub fn each<I: Send, T: Send>(
        &self,
        items: Vec<I>,
        work: impl Fn(I) -> T + Sync + Send,
    ) -> Vec<T> {
        use rayon::prelude::*;
        match &*self.0 {
            Inner::Inline => items.into_iter().map(work).collect(),
            Inner::Threads(pool) => pool.install(|| items.into_par_iter().map(work).collect()),
        }
    }

    /// How many threads CPU work may spread over.
    #[must_use]
    pub fn width(&self) -> usize {
        match &*self.0 {
            Inner::Inline => 1,
            Inner::Threads(pool) => pool.current_num_threads(),
        }
    }
}
