//! Whether the process lives, and whether traffic may be sent to it (`docs/metrics.md`, section 7).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use blocksync::service::Phase;

use crate::node::Node;
use crate::watch::{PATIENCE, Watch};

/// A check: its name, and why it failed.
pub(crate) type Check = (&'static str, Result<(), String>);

/// The reactor answers. It does not depend on peers, on disk space, or on being caught up. A
/// service that was stopped, or has failed, says so in /readyz: a restart would not help it.
pub(crate) async fn alive(watch: &Watch) -> Vec<Check> {
    let answered = if watch.look().await.hangs {
        Err(format!(
            "the scheduler did not answer within {} s",
            PATIENCE.as_secs()
        ))
    } else {
        Ok(())
    };
    vec![("scheduler", answered)]
}

/// Caught up, not behind the clock, and the store can be read.
pub(crate) async fn ready(node: &Node, lag: Duration) -> Vec<Check> {
    let store = node.store.clone();
    // A header and not just a span, which may come from cached pages when the disk has failed.
    let last = tokio::task::spawn_blocking(move || {
        let span = store.span()?;
        store.header(span.applied)
    });
    let last = match last.await {
        Ok(Ok(header)) => Ok(header.map(|(header, _)| header.time)),
        Ok(Err(why)) => Err(why.to_string()),
        Err(why) => Err(why.to_string()),
    };
    let mut checks = vec![("store", last.as_ref().map(|_| ()).map_err(Clone::clone))];
    // Without a service the store alone is served, which has nothing to catch up with.
    if let Some(view) = &node.view {
        let status = view.status();
        let status = status.borrow();
        let caught_up = match status.phase {
            Phase::Following | Phase::HandedOver => Ok(()),
            Phase::Serving => Err("it has no state to sync from yet".to_owned()),
            Phase::Failed => Err("it has failed and stopped".to_owned()),
            _ => Err(format!(
                "{} blocks behind",
                status.target.above(status.applied)
            )),
        };
        checks.push(("caught_up", caught_up));
    }
    if !lag.is_zero() {
        let age = last.ok().flatten().map(|time| {
            let now = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default();
            // By our clock: a chain that stands still is as old for a client as
            // one that we do not follow.
            i64::try_from(now.as_secs()).unwrap_or(i64::MAX) - time.seconds
        });
        let most = i64::try_from(lag.as_secs()).unwrap_or(i64::MAX);
        checks.push((
            "last_block",
            match age {
                None => Err("there is no block".to_owned()),
                Some(age) if age > most => Err(format!("it is {age} s old, more than {most} s")),
                Some(_) => Ok(()),
            },
        ));
    }
    checks
}
