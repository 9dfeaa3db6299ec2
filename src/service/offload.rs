//! Where work that must not hold up the async workers goes: CPU work to our own thread pool,
//! blocking store calls to tokio's blocking threads. Tests on paused time run both inline, since
//! tokio's paused clock runs ahead of foreign threads.

use std::sync::Arc;

use futures::future::{BoxFuture, Either};
use tokio::sync::oneshot;
use tokio::time::Duration;

/// The one way off the async workers. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Offload(Arc<Inner>);

enum Inner {
    Inline,
    /// Inline, and a store call ends when this does.
    Disk(Box<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>),
    Threads(rayon::ThreadPool),
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Inner::Inline => f.write_str("Inline"),
            Inner::Disk(_) => f.write_str("Disk"),
            Inner::Threads(pool) => f.debug_tuple("Threads").field(pool).finish(),
        }
    }
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

    /// Like `inline`, but a store call takes as long as `disk`, which is called right after it: for
    /// tests of a slow disk on paused time.
    #[must_use]
    pub fn simulated(disk: impl Fn() -> BoxFuture<'static, ()> + Send + Sync + 'static) -> Self {
        Offload(Arc::new(Inner::Disk(Box::new(disk))))
    }

    /// A pool of our own with this number of threads; 0 is one for each core.
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
            Inner::Inline | Inner::Disk(_) => work(),
            Inner::Threads(pool) => {
                let (tx, rx) = oneshot::channel();
                pool.spawn(move || {
                    // The receiver is gone when the caller was cancelled: nobody needs the result
                    // then.
                    let _ = tx.send(work());
                });
                rx.await.expect("work on the CPU pool panicked")
            }
        }
    }

    /// Starts a blocking store call at once, and gives its result. Dropping the future does not
    /// stop the call.
    ///
    /// # Panics
    /// When the call panics.
    pub fn io<T: Send + 'static, F: FnOnce() -> T + Send + 'static>(
        &self,
        call: F,
    ) -> impl Future<Output = T> + Send + use<T, F> {
        match &*self.0 {
            Inner::Inline => Either::Left(std::future::ready(call())),
            Inner::Disk(disk) => {
                // The call is made at once, as on a thread; only its result comes later.
                let (done, disk) = (call(), disk());
                Either::Right(Either::Left(async move {
                    disk.await;
                    done
                }))
            }
            Inner::Threads(_) => {
                let running = tokio::task::spawn_blocking(call);
                Either::Right(Either::Right(async move {
                    running.await.expect("a store call panicked")
                }))
            }
        }
    }

    /// `io`, and the time that the call itself took: waiting for a thread is not part of it.
    ///
    /// # Panics
    /// When the call panics.
    pub(super) async fn timed_io<T: Send + 'static>(
        &self,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> (T, Duration) {
        if let Inner::Threads(_) = &*self.0 {
            let timed = move || {
                let begun = std::time::Instant::now();
                (call(), begun.elapsed())
            };
            return self.io(timed).await;
        }
        let begun = tokio::time::Instant::now();
        (self.io(call).await, begun.elapsed())
    }

    /// Applies `work` to each item, on all threads of the pool when called from one of them, in
    /// order of the items.
    pub fn each<I: Send, T: Send>(
        &self,
        items: Vec<I>,
        work: impl Fn(I) -> T + Sync + Send,
    ) -> Vec<T> {
        use rayon::prelude::*;
        match &*self.0 {
            Inner::Inline | Inner::Disk(_) => items.into_iter().map(work).collect(),
            // Within our own pool, never rayon's global one, which belongs
            // to the program around us.
            Inner::Threads(pool) => pool.install(|| items.into_par_iter().map(work).collect()),
        }
    }

    /// Whether work runs on threads of its own, and not where it is called.
    pub(super) fn has_threads(&self) -> bool {
        matches!(&*self.0, Inner::Threads(_))
    }

    /// How many threads CPU work may spread over.
    #[must_use]
    pub fn width(&self) -> usize {
        match &*self.0 {
            Inner::Inline | Inner::Disk(_) => 1,
            Inner::Threads(pool) => pool.current_num_threads(),
        }
    }
}
