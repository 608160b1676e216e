//! What a service manager is told: ready, reloading, stopping, alive. It owns the protocol of sd_notify(3) and the rhythm of the
//! watchdog; it must never tell more than what was asked of the service. Where nobody watches, nothing is sent.

use super::Service;
use sd_notify::NotifyState;
use std::sync::Arc;
use std::time::Duration;

/// Shares of the watchdog's time in which the service is asked once.
const ASKS_PER_WATCHDOG: u32 = 3;

/// Does nothing where systemd does not watch (no `NOTIFY_SOCKET`).
pub(super) fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(false, states) {
        tracing::warn!(%error, "systemd cannot be notified");
    }
}

/// Says that the configuration is being read again; [`NotifyState::Ready`] ends that.
pub(super) fn tell_reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "the monotonic clock cannot be read"),
    }
}

/// Keeps the service manager's watchdog content for as long as `service` answers; for ever, or at once where none watches.
pub(super) async fn keep_alive<S: Service>(service: Arc<S>) {
    let mut watchdog_us = 0;
    if !sd_notify::watchdog_enabled(false, &mut watchdog_us) || watchdog_us == 0 {
        return;
    }
    let rhythm = Duration::from_micros(watchdog_us) / ASKS_PER_WATCHDOG;
    let mut beat = tokio::time::interval(rhythm);
    loop {
        beat.tick().await;
        let asked = Arc::clone(&service);
        let answer = tokio::task::spawn_blocking(move || asked.alive(rhythm)).await;
        if answer.unwrap_or(false) {
            tell(&[NotifyState::Watchdog]);
        } else {
            let within_ms = rhythm.as_millis();
            tracing::error!(within_ms, "the threads that serve fetches do not answer: the watchdog is not told");
        }
    }
}
