//! The life of a daemon, from the first answer of its HTTP interface to the end of its drain:
//! starting, serving, draining, gone. It owns the order and the deadlines; it must never know what the service does, which
//! comes in as [`Service`], nor read signals or files by itself: orders come in through a channel, the configuration by [`Controls`].

mod systemd;
#[cfg(test)]
mod tests;

use crate::{
    admin::{Admin, AdminError, AdminState, Metrics},
    config::{Config, ConfigError},
    recording::{TraceAnswer, TraceCall, TraceError},
};
use prometheus::{IntGauge, core::Collector};
use rudder_agent::{
    journal::Decision,
    tools::{ToolAnswer, ToolCall, ToolError},
};
use rudder_telemetry::logging::{LevelError, Logging};
use sd_notify::NotifyState;
use serde_json::{Value, json};
use std::{
    error::Error,
    io,
    sync::{Arc, PoisonError, RwLock},
    thread,
    time::Duration,
};
use tokio::{
    runtime::Runtime,
    sync::{mpsc, oneshot},
};

/// Threads that answer blocking questions of the HTTP interface (status, metrics).
const ASKING_THREADS_MAX: usize = 8;
/// How long the threads that serve fetches may take up no work before `/healthz` says so; below the time that probes wait.
const ALIVE_WITHIN: Duration = Duration::from_secs(4);
/// How long the HTTP interface may take to end after the service is gone.
const ADMIN_DRAIN: Duration = Duration::from_secs(1);
/// How much longer than its deadline a drain may take before it counts as stuck.
const DRAIN_GRACE: Duration = Duration::from_secs(2);

/// What is started, watched and stopped: the node.
pub trait Service: Send + Sync + 'static {
    /// The answer of `/v1/status` while the service runs and drains.
    fn status(&self) -> Value;

    /// Whether fetches are served now.
    fn ready(&self) -> bool;

    /// Records accesses, or hands out what was recorded.
    ///
    /// # Errors
    /// [`TraceError`] naming the table.
    fn trace(&self, call: &TraceCall) -> Result<TraceAnswer, TraceError>;

    /// Carries out a tool call; may block for as long as `cache.tool_wait_ms` says.
    ///
    /// # Errors
    /// [`ToolError`] naming the argument or table.
    fn tool(&self, call: ToolCall) -> Result<ToolAnswer, ToolError>;

    /// The last `limit` decisions of the agent, oldest first.
    fn decisions(&self, limit: usize) -> Vec<Decision>;

    /// The metrics of all its modules.
    fn collectors(&self) -> Vec<Box<dyn Collector>>;

    /// Whether the threads that serve fetches take up work `within` this time.
    fn alive(&self, within: Duration) -> bool;

    /// Takes no new work, lets work in progress end, and returns after `deadline` at the latest.
    fn shutdown(&self, deadline: Duration);
}

/// What a running daemon is told from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Drain; a second one stops at once.
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

/// Where the daemon is in its life.
enum Phase<S> {
    Starting,
    Serving(Arc<S>),
    Draining(Arc<S>),
}

/// The daemon as its HTTP interface sees it.
struct Daemon<S> {
    phase: RwLock<Phase<S>>,
    logging: Logging,
    ready: IntGauge,
}

impl<S: Service> Daemon<S> {
    fn enter(&self, phase: Phase<S>) {
        self.ready.set(i64::from(matches!(phase, Phase::Serving(_))));
        *self.phase.write().unwrap_or_else(PoisonError::into_inner) = phase;
    }

    /// The service, if it is there, and why it is not ready, if its phase says so. Holds the lock no longer than this call.
    fn look(&self) -> (Option<Arc<S>>, Option<&'static str>) {
        match &*self.phase.read().unwrap_or_else(PoisonError::into_inner) {
            Phase::Starting => (None, Some("starting: the dataset is being opened and checked")),
            Phase::Serving(service) => (Some(service.clone()), None),
            Phase::Draining(service) => (Some(service.clone()), Some("draining: the daemon is stopping")),
        }
    }
}

impl<S: Service> AdminState for Daemon<S> {
    fn status(&self) -> Value {
        match self.look() {
            (Some(service), _) => service.status(),
            (None, reason) => json!({"ready": false, "reason": reason}),
        }
    }

    fn ready(&self) -> Result<(), String> {
        match self.look() {
            (_, Some(reason)) => Err(reason.to_owned()),
            (Some(service), None) if !service.ready() => Err(String::from("the node does not serve fetches yet")),
            _ => Ok(()),
        }
    }

    fn alive(&self) -> bool {
        match self.look() {
            (Some(service), None) => service.alive(ALIVE_WITHIN),
            _ => true,
        }
    }

    fn trace(&self, call: &TraceCall) -> Result<TraceAnswer, TraceError> {
        match self.look() {
            (Some(service), _) => service.trace(call),
            (None, reason) => Err(TraceError::NotServing(reason.unwrap_or("starting").to_owned())),
        }
    }

    fn decisions(&self, limit: usize) -> Vec<Decision> {
        self.look().0.map(|service| service.decisions(limit)).unwrap_or_default()
    }

    fn log_level(&self) -> String {
        self.logging.level()
    }

    fn set_log_level(&self, level: &str) -> Result<(), LevelError> {
        self.logging.set_level(level)
    }

    fn tool(&self, call: ToolCall) -> Result<ToolAnswer, ToolError> {
        match self.look() {
            (Some(service), _) => service.tool(call),
            (None, reason) => {
                Err(ToolError::NotServing { tool: call.tool(), why: reason.unwrap_or("starting").to_owned() })
            }
        }
    }
}

/// Runs a daemon until it is told to stop: answers HTTP first, then starts the service by `start` on a thread of its own,
/// then serves until `orders` yields a stop, then drains. A stop during the start ends it at once, since nothing is served yet.
///
/// # Errors
/// If it cannot start, or ends without a complete drain. The process should exit soon after: what was cut may still run.
pub fn run<S: Service, E: Into<Box<dyn Error + Send + Sync>> + Send + 'static>(
    config: Config,
    controls: Controls,
    orders: impl FnOnce() -> io::Result<mpsc::Receiver<Order>>,
    start: impl FnOnce(Config) -> Result<S, E> + Send + 'static,
) -> Result<(), LifecycleError> {
    let runtime = runtime().map_err(LifecycleError::Threads)?;
    let ended = runtime.block_on(live(config, controls, orders, start));
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

async fn live<S: Service, E: Into<Box<dyn Error + Send + Sync>> + Send + 'static>(
    config: Config,
    controls: Controls,
    orders: impl FnOnce() -> io::Result<mpsc::Receiver<Order>>,
    start: impl FnOnce(Config) -> Result<S, E> + Send + 'static,
) -> Result<(), LifecycleError> {
    let mut orders = orders().map_err(LifecycleError::Threads)?;
    let deadline = Duration::from_millis(config.node.drain_ms);
    let metrics = Metrics::new()?;
    let gauge = |name: &str, help: &str| IntGauge::new(name, help).map_err(AdminError::from);
    let ready = gauge("rudder_ready", "1 while fetches are served, else 0.")?;
    let node = gauge("rudder_node_index", "The partition that this daemon owns.")?;
    node.set(config.node.index.into());
    metrics.register([Box::new(ready.clone()) as Box<dyn Collector>, Box::new(node)])?;
    let daemon = Arc::new(Daemon { phase: RwLock::new(Phase::Starting), logging: controls.logging.clone(), ready });
    let admin = Admin::start(&config.admin, daemon.clone(), metrics.clone()).await?;

    let in_effect = config.clone();
    let node_index = config.node.index;
    systemd::tell(&[NotifyState::Status("starting: opening the dataset")]);
    let started = on_thread("rudder-start", move || start(config))?;
    let service = tokio::select! {
        started = started => started.map_err(|_| LifecycleError::StartPanicked)?,
        () = told_to_stop(&mut orders, &controls, &in_effect, false) => {
            tracing::info!("stopped while starting");
            return Ok(());
        }
    };
    let service = Arc::new(service.map_err(|error| LifecycleError::Start(error.into()))?);
    metrics.register(service.collectors())?;
    daemon.enter(Phase::Serving(service.clone()));
    systemd::tell(&[NotifyState::Ready, NotifyState::Status(&format!("serving node {node_index}"))]);
    let watchdog = tokio::spawn(systemd::keep_alive(service.clone()));
    tracing::info!("ready");

    told_to_stop(&mut orders, &controls, &in_effect, true).await;
    tracing::info!(deadline_ms = deadline.as_millis(), "draining; a second signal stops at once");
    daemon.enter(Phase::Draining(service.clone()));
    systemd::tell(&[NotifyState::Stopping, NotifyState::Status("draining")]);
    let drained = on_thread("rudder-drain", move || service.shutdown(deadline))?;
    tokio::select! {
        _ = drained => {}
        () = told_to_stop(&mut orders, &controls, &in_effect, false) => return Err(LifecycleError::Forced),
        () = tokio::time::sleep(deadline + DRAIN_GRACE) => return Err(LifecycleError::Stuck),
    }
    watchdog.abort();
    admin.shutdown(ADMIN_DRAIN).await;
    tracing::info!("drained");
    Ok(())
}

/// Carries orders out until one is to stop; while fetches are served, the service manager follows.
async fn told_to_stop(orders: &mut mpsc::Receiver<Order>, controls: &Controls, in_effect: &Config, serving: bool) {
    while let Some(Order::Reload) = orders.recv().await {
        if serving {
            systemd::tell_reloading();
        }
        reload(controls, in_effect);
        if serving {
            systemd::tell(&[NotifyState::Ready]);
        }
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
