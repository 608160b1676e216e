//! The life of a daemon with a service made for the test, over its real HTTP interface.

use super::*;
use crate::daemon::Answer;
use crate::recording::{TraceAnswer, TraceCall, TraceError};
use rudder_agent::journal::Decision;
use rudder_agent::tools::{ToolAnswer, ToolCall, ToolError};
use serde_json::{Value, json};
use std::{
    future::{pending, ready},
    net::{SocketAddr, TcpListener},
    os::unix::net::UnixDatagram,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

/// A node that drains as long as it is told to, and whose tool calls never end.
struct Pretend {
    drain: Duration,
    drained: Arc<AtomicBool>,
}

impl Daemon for Pretend {
    fn status(&self) -> Value {
        json!({"node": 3})
    }
    fn ready(&self) -> bool {
        true
    }
    fn trace(&self, call: TraceCall) -> Answer<Result<TraceAnswer, TraceError>> {
        Box::pin(ready(Err(TraceError::NotRecording { table: call.table().to_owned() })))
    }
    fn decisions(&self, _limit: usize) -> Vec<Decision> {
        Vec::new()
    }
    fn tool(&self, _call: ToolCall) -> Answer<Result<ToolAnswer, ToolError>> {
        Box::pin(pending())
    }
    fn alive(&self, _within: Duration) -> bool {
        true
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
    stop: mpsc::Sender<Signal>,
    drained: Arc<AtomicBool>,
    thread: thread::JoinHandle<Result<(), LifecycleError>>,
}

/// Nothing to read, no log of its own.
fn controls() -> Controls {
    Controls { logging: Logging::default(), read: Box::new(|| Ok(Config::default())) }
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
    let thread = thread::spawn(move || run(config, controls(), || Ok(stopped), start));
    Running { address, stop, drained, thread }
}

/// Status code and body of a path; nothing while nobody listens.
fn ask(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let limits = rudder_http::Limits { timeout: Duration::from_secs(60), answer_bytes_max: 1 << 20 };
    let answer = rudder_http::ask(&format!("http://{address}{path}"), None, None, limits).ok()?;
    Some((answer.status, answer.text))
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
    running.stop.blocking_send(Signal::Stop).unwrap();
    wait_for(running.address, "/readyz", 503, "draining");
    running.thread.join().unwrap().unwrap();
    assert!(running.drained.load(Ordering::SeqCst));
    assert!(ask(running.address, "/healthz").is_none());
}

#[test]
fn a_second_stop_ends_the_drain_at_once() {
    let running = spawn(Duration::ZERO, Duration::from_secs(60), 60_000);
    wait_for(running.address, "/readyz", 200, "ready");
    let begun = Instant::now();
    running.stop.blocking_send(Signal::Stop).unwrap();
    wait_for(running.address, "/readyz", 503, "draining");
    // Until one comes late enough.
    while !running.thread.is_finished() {
        assert!(begun.elapsed() < Duration::from_secs(30), "no signal ends the drain");
        let _ = running.stop.try_send(Signal::Stop);
        thread::sleep(Duration::from_millis(20));
    }
    assert!(begun.elapsed() >= HURRY_AFTER, "ended after {:?}", begun.elapsed());
    assert!(matches!(running.thread.join().unwrap(), Err(LifecycleError::Forced)));
    assert!(!running.drained.load(Ordering::SeqCst));
}

/// `timeout` signals a process and then its group: an idle daemon drains all the same.
#[test]
fn two_stops_at_once_are_one() {
    for drain_ms in [0, 200] {
        let running = spawn(Duration::ZERO, Duration::from_millis(drain_ms), 60_000);
        wait_for(running.address, "/readyz", 200, "ready");
        for _ in 0..3 {
            running.stop.blocking_send(Signal::Stop).unwrap();
        }
        running.thread.join().unwrap().unwrap();
        assert!(running.drained.load(Ordering::SeqCst));
    }
}

#[test]
fn the_drain_has_a_deadline() {
    let running = spawn(Duration::ZERO, Duration::from_secs(60), 100);
    wait_for(running.address, "/readyz", 200, "ready");
    let begun = Instant::now();
    running.stop.blocking_send(Signal::Stop).unwrap();
    running.thread.join().unwrap().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(30));
}

#[test]
fn a_stop_while_starting_ends_without_a_drain() {
    let running = spawn(Duration::from_secs(60), Duration::ZERO, 10_000);
    wait_for(running.address, "/readyz", 503, "starting");
    running.stop.blocking_send(Signal::Stop).unwrap();
    running.thread.join().unwrap().unwrap();
    assert!(!running.drained.load(Ordering::SeqCst));
}

#[test]
fn a_failed_start_keeps_its_cause() {
    let mut config = Config::default();
    config.admin.listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let (_stop, stopped) = mpsc::channel(1);
    let start = |_: Config| Err::<Pretend, _>(io::Error::other("the manifest is torn"));
    let error = run(config, controls(), || Ok(stopped), start).unwrap_err();
    assert_eq!(rudder_telemetry::error_chain(&error), "cannot start the node: the manifest is torn");
}

#[test]
fn a_signal_to_reload_is_no_stop() {
    let running = spawn(Duration::ZERO, Duration::ZERO, 10_000);
    wait_for(running.address, "/readyz", 200, "ready");
    running.stop.blocking_send(Signal::Reload).unwrap();
    thread::sleep(Duration::from_millis(50));
    wait_for(running.address, "/readyz", 200, "ready");
    running.stop.blocking_send(Signal::Stop).unwrap();
    running.thread.join().unwrap().unwrap();
}

/// Ends a process when the test ends.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the watched process says once its tool calls hang.
const HUNG: &str = "the tool calls hang";

/// Tool calls of the watched process: more than the interface has threads.
const HUNG_CALLS: usize = 20;

#[test]
fn the_watchdog_is_told_while_tool_calls_hang() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut watched = Command::new("sh");
    // As systemd does: the process learns that it is the one who is watched.
    watched.args(["-c", r#"WATCHDOG_PID=$$ exec "$@""#, "sh"]).arg(std::env::current_exe().unwrap());
    watched.args(["--exact", "lifecycle::tests::watched_with_hung_tool_calls", "--ignored"]);
    watched.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "600000");
    let _watched = Killed(watched.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    let listen = |said: &str| {
        let (mut heard, begun) = ([0; 512], Instant::now());
        while begun.elapsed() < Duration::from_secs(20) {
            let bytes = manager.recv(&mut heard).unwrap_or_default();
            if String::from_utf8_lossy(&heard[..bytes]).contains(said) {
                return true;
            }
        }
        false
    };
    assert!(listen(HUNG), "the watched process did not start");
    for beat in 1..=5 {
        assert!(listen("WATCHDOG=1"), "no beat {beat} while tool calls hang");
    }
}

/// A process of the test above.
#[test]
#[ignore = "waits to be killed; the_watchdog_is_told_while_tool_calls_hang starts it"]
fn watched_with_hung_tool_calls() {
    let running = spawn(Duration::ZERO, Duration::ZERO, 10_000);
    let address = running.address;
    wait_for(address, "/readyz", 200, "ready");
    for _ in 0..HUNG_CALLS {
        let limits = rudder_http::Limits { timeout: Duration::from_secs(60), answer_bytes_max: 1 << 20 };
        let url = format!("http://{address}/v1/tools/hold");
        thread::spawn(move || rudder_http::ask(&url, None, Some("{}".to_owned()), limits).map(drop));
    }
    thread::sleep(Duration::from_secs(1));
    systemd::tell(&[NotifyState::Status(HUNG)]);
    thread::sleep(Duration::from_secs(60));
}
