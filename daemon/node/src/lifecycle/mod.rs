//! The life of a daemon, from the first answer of its HTTP interface to the end of its drain: starting, serving,
//! draining, gone. It owns the order and the deadlines; it must never know what the service does, which comes in as
//! [`Daemon`], nor read signals or files by itself: signals come in through a channel, the configuration by
//! [`Controls`].

mod systemd;
#[cfg(test)]
mod tests;

use crate::{
    admin::{Admin, AdminError, Metrics},
    config::{Config, ConfigError},
    daemon::{Daemon, Life, Phase},
};
use prometheus::{IntGauge, core::Collector};
use rudder_telemetry::logging::Logging;
use sd_notify::NotifyState;
use std::{
    error::Error,
    io,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};
use systemd::Beat;
use tokio::{
    runtime::Runtime,
    sync::{mpsc, oneshot},
};

/// Threads that wait for locks on behalf of the HTTP interface (status, decisions, metrics).
const ASKING_THREADS_MAX: usize = 8;
/// How long the HTTP interface may take to end after the service is gone.
const ADMIN_DRAIN: Duration = Duration::from_secs(1);
/// How much longer than its deadline a drain may take before it counts as stuck.
const DRAIN_GRACE: Duration = Duration::from_secs(2);

/// Time after an instruction to stop from which another one hurries the drain. What sends two at once means one:
/// `timeout` and service managers signal a process and then its group.
const HURRY_AFTER: Duration = Duration::from_secs(1);

/// An instruction to a running daemon from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Drain; one more stops at once, unless it comes within a second.
    Stop,
    /// Read the configuration again.
    Reload,
}

/// What an operator can change while the daemon runs.
pub struct Controls {
    /// The log.
    pub logging: Logging,
    /// Reads the configuration again, from where it came from at the start.
    pub read: Box<dyn Fn() -> Result<Config, ConfigError> + Send>,
}

/// Why a daemon ended other than by a complete drain.
#[derive(Debug, thiserror::Error)]
pub enum LifecycleError {
    /// No threads or no event loop from the kernel.
    #[error("cannot start threads")]
    Threads(#[source] io::Error),
    /// The HTTP interface could not start.
    #[error("cannot start the admin interface")]
    Admin(#[from] AdminError),
    /// The service could not start.
    #[error("cannot start the node")]
    Start(#[source] Box<dyn Error + Send + Sync>),
    /// The service panicked while starting.
    #[error("the node panicked while starting; the log has the place")]
    StartPanicked,
    /// A second request to stop came during the drain.
    #[error("stopped at once by a second signal while requests were in progress")]
    Forced,
    /// The drain did not end.
    #[error("the drain did not end {} ms after its deadline (node.drain_ms)", DRAIN_GRACE.as_millis())]
    Stuck,
}

/// Runs a daemon until it is told to stop: answers HTTP first, then starts the service by `start` on a thread of its
/// own, then serves until `signals` yields a stop, then drains. A stop during the start ends it at once, since nothing
/// is served yet.
///
/// # Errors
/// If it cannot start, or ends without a complete drain. The process should exit soon after: what was cut may still
/// run.
pub fn run<D: Daemon, E: Into<Box<dyn Error + Send + Sync>> + Send + 'static>(
    config: Config,
    controls: Controls,
    signals: impl FnOnce() -> io::Result<mpsc::Receiver<Signal>>,
    start: impl FnOnce(Config) -> Result<D, E> + Send + 'static,
) -> Result<(), LifecycleError> {
    let runtime = runtime().map_err(LifecycleError::Threads)?;
    let ended = runtime.block_on(live(config, controls, signals, start));
    // A question that hangs must not keep the process.
    runtime.shutdown_background();
    ended
}

fn runtime() -> io::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(ASKING_THREADS_MAX)
        .thread_name("rudder-admin")
        .enable_all()
        .build()
}

async fn live<D: Daemon, E: Into<Box<dyn Error + Send + Sync>> + Send + 'static>(
    config: Config,
    controls: Controls,
    signals: impl FnOnce() -> io::Result<mpsc::Receiver<Signal>>,
    start: impl FnOnce(Config) -> Result<D, E> + Send + 'static,
) -> Result<(), LifecycleError> {
    let mut signals = signals().map_err(LifecycleError::Threads)?;
    let deadline = Duration::from_millis(config.node.drain_ms);
    let metrics = Metrics::new()?;
    let gauge = |name: &str, help: &str| IntGauge::new(name, help).map_err(AdminError::from);
    let ready = gauge("rudder_ready", "1 while fetches are served, else 0.")?;
    let index = gauge("rudder_node_index", "The partition that this daemon owns.")?;
    index.set(config.node.index().into());
    metrics.register([Box::new(ready.clone()) as Box<dyn Collector>, Box::new(index)])?;
    let life = Arc::new(Life::new(ready));
    let admin = Admin::start(&config.admin, life.clone(), controls.logging.clone(), metrics.clone()).await?;

    let in_effect = config.clone();
    let node_index = config.node.index();
    systemd::tell(&[NotifyState::Status("starting: opening the dataset")]);
    let started = on_thread("rudder-start", move || start(config))?;
    let node = tokio::select! {
        started = started => started.map_err(|_| LifecycleError::StartPanicked)?,
        () = until_stopped(&mut signals, &controls, &in_effect, false) => {
            tracing::info!("stopped while starting");
            return Ok(());
        }
    };
    let node: Arc<dyn Daemon> = Arc::new(node.map_err(|error| LifecycleError::Start(error.into()))?);
    metrics.register(node.collectors())?;
    life.enter(Phase::Serving(node.clone()));
    systemd::tell(&[NotifyState::Ready, NotifyState::Status(&format!("serving node {node_index}"))]);
    let beat = Beat::start(node.clone()).map_err(LifecycleError::Threads)?;
    tracing::info!("ready");

    until_stopped(&mut signals, &controls, &in_effect, true).await;
    let begun = Instant::now();
    let (deadline_ms, hurry_after_ms) = (deadline.as_millis(), HURRY_AFTER.as_millis());
    tracing::info!(deadline_ms, hurry_after_ms, "draining; a second signal after hurry_after_ms stops at once");
    life.enter(Phase::Draining(node.clone()));
    systemd::tell(&[NotifyState::Stopping, NotifyState::Status("draining")]);
    let drained = on_thread("rudder-drain", move || node.shutdown(deadline))?;
    tokio::select! {
        _ = drained => {}
        () = until_hurried(&mut signals, &controls, &in_effect, begun) => return Err(LifecycleError::Forced),
        () = tokio::time::sleep(deadline + DRAIN_GRACE) => return Err(LifecycleError::Stuck),
    }
    drop(beat);
    admin.shutdown(ADMIN_DRAIN).await;
    tracing::info!("drained");
    Ok(())
}

/// Obeys signals until one says stop; while fetches are served, the service manager follows.
async fn until_stopped(signals: &mut mpsc::Receiver<Signal>, controls: &Controls, in_effect: &Config, serving: bool) {
    while let Some(Signal::Reload) = signals.recv().await {
        if serving {
            systemd::tell_reloading();
        }
        reload(controls, in_effect);
        if serving {
            systemd::tell(&[NotifyState::Ready]);
        }
    }
}

/// Obeys signals until one says stop that is not a part of the one obeyed at `begun`.
async fn until_hurried(signals: &mut mpsc::Receiver<Signal>, controls: &Controls, in_effect: &Config, begun: Instant) {
    loop {
        until_stopped(signals, controls, in_effect, false).await;
        if begun.elapsed() >= HURRY_AFTER || signals.is_closed() {
            return;
        }
        let after_ms = begun.elapsed().as_millis();
        tracing::info!(after_ms, "one more signal to stop, too soon to mean more than the first: the drain goes on");
    }
}

/// Reads the configuration again and takes over what can change while the daemon runs: `log.level`.
fn reload(controls: &Controls, in_effect: &Config) {
    let read = match (controls.read)() {
        Ok(read) => read,
        Err(error) => {
            tracing::error!(error = %error, "the configuration was not reloaded");
            return;
        }
    };
    if read.log.level != controls.logging.level()
        && let Err(error) = controls.logging.set_level(&read.log.level)
    {
        tracing::error!(%error, "log.level was not changed");
    }
    let waiting: Vec<String> = in_effect.differences(&read).into_iter().filter(|key| key != "log.level").collect();
    if waiting.is_empty() {
        tracing::info!("the configuration was reloaded");
    } else {
        tracing::warn!(keys = waiting.join(", "), "the configuration was reloaded; these keys need a restart");
    }
}

/// Runs `work`, which blocks, on a thread of its own; the receiver fails if it panics.
fn on_thread<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<oneshot::Receiver<T>, LifecycleError> {
    let (done, result) = oneshot::channel();
    let body = move || {
        // The receiver is gone when nobody waits any more: then there is nobody to tell.
        let _ = done.send(work());
    };
    thread::Builder::new().name(name.to_owned()).spawn(body).map_err(LifecycleError::Threads)?;
    Ok(result)
}
