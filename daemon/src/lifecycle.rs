//! The life of a daemon, from the first answer of its HTTP interface to the end of its drain:
//! starting, serving, draining, gone. It owns the order and the deadlines; it must never know what the service does, which
//! comes in as [`Service`], nor read signals by itself: requests to stop come in through a channel.

use crate::{
    admin::{Admin, AdminError, AdminState, Metrics},
    agent::journal::Decision,
    config::Config,
    recording::{TraceAnswer, TraceCall, TraceError},
    tools::{ToolAnswer, ToolCall, ToolError},
};
use prometheus::core::Collector;
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

    /// Takes no new work, lets work in progress end, and returns after `deadline` at the latest.
    fn shutdown(&self, deadline: Duration);
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
}

impl<S: Service> Daemon<S> {
    fn enter(&self, phase: Phase<S>) {
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

    fn trace(&self, call: &TraceCall) -> Result<TraceAnswer, TraceError> {
        match self.look() {
            (Some(service), _) => service.trace(call),
            (None, reason) => Err(TraceError::NotServing(reason.unwrap_or("starting").to_owned())),
        }
    }

    fn decisions(&self, limit: usize) -> Vec<Decision> {
        self.look().0.map(|service| service.decisions(limit)).unwrap_or_default()
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
/// then serves until `stop` yields, then drains. A stop during the start ends it at once, since nothing is served yet.
///
/// # Errors
/// If it cannot start, or ends without a complete drain. The process should exit soon after: what was cut may still run.
pub fn run<S: Service, E: Into<Box<dyn Error + Send + Sync>> + Send + 'static>(
    config: Config,
    stop: impl FnOnce() -> io::Result<mpsc::Receiver<()>>,
    start: impl FnOnce(Config) -> Result<S, E> + Send + 'static,
) -> Result<(), LifecycleError> {
    let runtime = runtime().map_err(LifecycleError::Threads)?;
    let ended = runtime.block_on(live(config, stop, start));
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
    stop: impl FnOnce() -> io::Result<mpsc::Receiver<()>>,
    start: impl FnOnce(Config) -> Result<S, E> + Send + 'static,
) -> Result<(), LifecycleError> {
    let mut stop = stop().map_err(LifecycleError::Threads)?;
    let deadline = Duration::from_millis(config.node.drain_ms);
    let metrics = Metrics::new()?;
    let daemon = Arc::new(Daemon { phase: RwLock::new(Phase::Starting) });
    let admin = Admin::start(&config.admin, daemon.clone(), metrics.clone()).await?;

    let started = on_thread("rudder-start", move || start(config))?;
    let service = tokio::select! {
        started = started => started.map_err(|_| LifecycleError::StartPanicked)?,
        _ = stop.recv() => {
            tracing::info!("stopped while starting");
            return Ok(());
        }
    };
    let service = Arc::new(service.map_err(|error| LifecycleError::Start(error.into()))?);
    metrics.register(service.collectors())?;
    daemon.enter(Phase::Serving(service.clone()));
    tell_systemd(NotifyState::Ready);
    tracing::info!("ready");

    stop.recv().await;
    tracing::info!(deadline_ms = deadline.as_millis(), "draining; a second signal stops at once");
    daemon.enter(Phase::Draining(service.clone()));
    tell_systemd(NotifyState::Stopping);
    let drained = on_thread("rudder-drain", move || service.shutdown(deadline))?;
    tokio::select! {
        _ = drained => {}
        _ = stop.recv() => return Err(LifecycleError::Forced),
        () = tokio::time::sleep(deadline + DRAIN_GRACE) => return Err(LifecycleError::Stuck),
    }
    admin.shutdown(ADMIN_DRAIN).await;
    tracing::info!("drained");
    Ok(())
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

/// Does nothing where systemd does not watch (no `NOTIFY_SOCKET`).
fn tell_systemd(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(false, &[state]) {
        tracing::warn!(%error, "systemd cannot be notified");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        net::{SocketAddr, TcpListener},
        sync::atomic::{AtomicBool, Ordering},
        time::Instant,
    };

    /// A service that drains as long as it is told to.
    struct Pretend {
        drain: Duration,
        drained: Arc<AtomicBool>,
    }

    impl Service for Pretend {
        fn status(&self) -> Value {
            json!({"node": 3})
        }
        fn ready(&self) -> bool {
            true
        }
        fn trace(&self, call: &TraceCall) -> Result<TraceAnswer, TraceError> {
            Err(TraceError::NotRecording { table: call.table().to_owned() })
        }
        fn decisions(&self, _limit: usize) -> Vec<Decision> {
            Vec::new()
        }
        fn tool(&self, call: ToolCall) -> Result<ToolAnswer, ToolError> {
            Ok(ToolAnswer { tool: call.tool().to_owned(), tables: Vec::new() })
        }
        fn collectors(&self) -> Vec<Box<dyn Collector>> {
            vec![Box::new(prometheus::IntGauge::new("rudder_pretend", "For this test").unwrap())]
        }
        fn shutdown(&self, deadline: Duration) {
            thread::sleep(self.drain.min(deadline));
            self.drained.store(true, Ordering::SeqCst);
        }
    }

    /// A daemon on a thread, with the sender that stops it.
    struct Running {
        address: SocketAddr,
        stop: mpsc::Sender<()>,
        drained: Arc<AtomicBool>,
        thread: thread::JoinHandle<Result<(), LifecycleError>>,
    }

    fn spawn(start_delay: Duration, drain: Duration, drain_ms: u64) -> Running {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut config = Config::default();
        config.admin.listen = address;
        config.node.drain_ms = drain_ms;
        let (stop, stopped) = mpsc::channel(4);
        let drained = Arc::new(AtomicBool::new(false));
        let service = Pretend { drain, drained: drained.clone() };
        let start = move |_: Config| {
            thread::sleep(start_delay);
            Ok::<_, io::Error>(service)
        };
        let thread = thread::spawn(move || run(config, || Ok(stopped), start));
        Running { address, stop, drained, thread }
    }

    /// Status code and body of a path; nothing while nobody listens.
    fn ask(address: SocketAddr, path: &str) -> Option<(u16, String)> {
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let mut response = agent.get(format!("http://{address}{path}")).call().ok()?;
        Some((response.status().as_u16(), response.body_mut().read_to_string().ok()?))
    }

    fn wait_for(address: SocketAddr, path: &str, status: u16, text: &str) {
        let begun = Instant::now();
        while !ask(address, path).is_some_and(|(code, body)| code == status && body.contains(text)) {
            assert!(begun.elapsed() < Duration::from_secs(20), "{path} never said {status} {text}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_life_is_starting_serving_draining_gone() {
        let running = spawn(Duration::from_secs(3), Duration::from_secs(3), 10_000);
        wait_for(running.address, "/readyz", 503, "starting");
        wait_for(running.address, "/v1/status", 200, "starting");
        wait_for(running.address, "/readyz", 200, "ready");
        wait_for(running.address, "/v1/status", 200, "\"node\":3");
        wait_for(running.address, "/metrics", 200, "rudder_pretend");
        running.stop.blocking_send(()).unwrap();
        wait_for(running.address, "/readyz", 503, "draining");
        running.thread.join().unwrap().unwrap();
        assert!(running.drained.load(Ordering::SeqCst));
        assert!(ask(running.address, "/healthz").is_none());
    }

    #[test]
    fn a_second_stop_ends_the_drain_at_once() {
        let running = spawn(Duration::ZERO, Duration::from_secs(60), 60_000);
        wait_for(running.address, "/readyz", 200, "ready");
        running.stop.blocking_send(()).unwrap();
        wait_for(running.address, "/readyz", 503, "draining");
        running.stop.blocking_send(()).unwrap();
        assert!(matches!(running.thread.join().unwrap(), Err(LifecycleError::Forced)));
        assert!(!running.drained.load(Ordering::SeqCst));
    }

    #[test]
    fn the_drain_has_a_deadline() {
        let running = spawn(Duration::ZERO, Duration::from_secs(60), 100);
        wait_for(running.address, "/readyz", 200, "ready");
        let begun = Instant::now();
        running.stop.blocking_send(()).unwrap();
        running.thread.join().unwrap().unwrap();
        assert!(begun.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn a_stop_while_starting_ends_without_a_drain() {
        let running = spawn(Duration::from_secs(60), Duration::ZERO, 10_000);
        wait_for(running.address, "/readyz", 503, "starting");
        running.stop.blocking_send(()).unwrap();
        running.thread.join().unwrap().unwrap();
        assert!(!running.drained.load(Ordering::SeqCst));
    }

    #[test]
    fn a_failed_start_keeps_its_cause() {
        let mut config = Config::default();
        config.admin.listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let (_stop, stopped) = mpsc::channel(1);
        let start = |_: Config| Err::<Pretend, _>(io::Error::other("the manifest is torn"));
        let error = run(config, || Ok(stopped), start).unwrap_err();
        assert_eq!(crate::cli::error_chain(&error), "cannot start the node: the manifest is torn");
    }
}
