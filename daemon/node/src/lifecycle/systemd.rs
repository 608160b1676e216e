//! What the daemon tells a service manager: ready, reloading, stopping, alive. It owns the protocol of sd_notify(3) and
//! the rhythm of the watchdog, which has a thread of its own so that no request can delay it. It must never tell more
//! than the daemon's own answer. Where nobody watches, nothing is sent.

use crate::daemon::Daemon;
use sd_notify::NotifyState;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Beats in the watchdog's time.
const BEATS_PER_WATCHDOG: u32 = 3;

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

/// The thread that tells the service manager's watchdog that the daemon is alive. Dropping it ends the thread.
#[must_use]
pub(super) struct Beat {
    /// Dropping it wakes the thread.
    stop: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Beat {
    /// Beats from now on for as long as `daemon` is alive. Without a watchdog there is no thread.
    pub(super) fn start(daemon: Arc<dyn Daemon>) -> io::Result<Self> {
        let mut watchdog_us = 0;
        if !sd_notify::watchdog_enabled(false, &mut watchdog_us) || watchdog_us == 0 {
            return Ok(Self { stop: None, thread: None });
        }
        let rhythm = Duration::from_micros(watchdog_us) / BEATS_PER_WATCHDOG;
        let (stop, stopped) = sync_channel(1);
        let beat = move || keep_alive(&*daemon, rhythm, &stopped);
        let thread = thread::Builder::new().name("rudder-watchdog".to_owned()).spawn(beat)?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Beat {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn keep_alive(daemon: &dyn Daemon, rhythm: Duration, stopped: &Receiver<()>) {
    loop {
        if daemon.alive(rhythm) {
            tell(&[NotifyState::Watchdog]);
        } else {
            let within_ms = rhythm.as_millis();
            tracing::error!(within_ms, "the threads that serve fetches do not answer: the watchdog is not told");
        }
        if stopped.recv_timeout(rhythm) != Err(RecvTimeoutError::Timeout) {
            return;
        }
    }
}
