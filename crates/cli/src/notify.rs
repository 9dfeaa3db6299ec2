//! Reports to systemd, when it has started us: that we are ready, how we stand, and that we are
//! alive.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::sync::watch;

/// Between two lines of status.
const EVERY: Duration = Duration::from_secs(5);

/// Ready: what was asked for is running.
pub(crate) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// On the way out.
pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Nobody listens when we were started by hand, and a systemd that is gone is no reason to stop.
fn tell(states: &[NotifyState<'_>]) {
    let _ = sd_notify::notify(states);
}

/// Tells how we stand every few seconds, and that we are alive as often as the unit asks for, for
/// as long as the status is there.
///
/// The runtime's threads run this: when all of them hang, the watchdog is not fed.
pub(crate) async fn keep_telling<T>(status: watch::Receiver<T>, line: impl Fn(&T) -> String) {
    let asked = sd_notify::watchdog_enabled();
    // A third of the period, so that one late tick does not make systemd kill us.
    let pulse = asked.map_or(EVERY, |period| (period / 3).min(EVERY));
    let mut tick = tokio::time::interval(pulse.max(Duration::from_millis(100)));
    loop {
        tick.tick().await;
        if status.has_changed().is_err() {
            return; // whoever wrote it is gone
        }
        let line = line(&status.borrow());
        let mut states = vec![NotifyState::Status(&line)];
        if asked.is_some() {
            states.push(NotifyState::Watchdog);
        }
        tell(&states);
    }
}
