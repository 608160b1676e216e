//! The agent in a running daemon: a thread that looks at the metrics once per window, asks the controller on a thread
//! of its own, waits for it no longer than it may, and has the decision carried out. It owns the windows, and which
//! tables are looked at; the controller's thread is `asking`'s.

use super::asking::{Asking, LOOK};
use super::controller::Controller;
use super::journal::{Decision, Journal, Recent};
use super::metrics::AgentMetrics;
use super::pilot::{Occasion, Pilot};
use super::rules::Rules;
use super::settings::AgentConfig;
use super::snapshot::{Counters, Observer, Snapshot};
use crate::tools::{ToolAnswer, ToolCall};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// If the controller takes longer than this share of the window, the next window starts at its answer, so that its
/// effect is not mixed with the time it took.
const PROMPT: f64 = 0.01;

/// Longest wait at the end for a call that is being carried out, or for a disk that holds the journal up.
const STOP_WAIT: Duration = Duration::from_secs(5);

/// What can be seen of one table, or of all tables together if none is cached.
#[derive(Debug, Clone, PartialEq)]
pub struct Sight {
    /// The table; `None` if only one is cached.
    pub table: Option<String>,
    /// Its counters, with the ceiling that the agent has to keep.
    pub counters: Counters,
}

/// How closely to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// At everything, including what costs time to find out.
    Closely,
    /// At the counters, which costs nothing.
    AtCounters,
}

/// What the agent works on.
pub struct Hands {
    /// Looks at the daemon: the same tables every time, in the same order.
    pub look: Box<dyn FnMut(Look) -> Vec<Sight> + Send>,
    /// Fetches answered so far; cheap.
    pub minibatches: Box<dyn FnMut() -> u64 + Send>,
    /// Carries a tool call out.
    pub act: Box<dyn FnMut(ToolCall) -> Result<ToolAnswer, String> + Send>,
}

/// A running agent.
#[derive(Debug)]
pub struct Agent {
    recent: Recent,
    metrics: AgentMetrics,
    controller: &'static str,
    /// Dropping it ends the loop.
    stop: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
    /// Disconnected when the loop has ended.
    ended: Receiver<()>,
}

impl Agent {
    /// Starts the agent of `node`. `seed` draws the jitter of its windows, so that the nodes of a cluster do not act at
    /// once.
    ///
    /// # Errors
    /// When a metric or a thread cannot be made.
    pub fn start(
        settings: AgentConfig,
        (node, seed): (u16, u64),
        controller: Box<dyn Controller>,
        hands: Hands,
    ) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let journal = Journal::open(settings.journal.clone());
        let recent = journal.recent().clone();
        let metrics = AgentMetrics::new(controller.name())?;
        let name = controller.name();
        let asked = Asking::start(controller)?;
        let (stop, stopped) = sync_channel(1);
        let (ending, ended) = sync_channel(1);
        let run = Loop {
            tables: Vec::new(),
            random: fastrand::Rng::with_seed(seed),
            number: 0,
            journal,
            metrics: metrics.clone(),
            asked,
            hands,
            settings,
            node,
        };
        let thread = std::thread::Builder::new().name("rudder-agent".to_owned()).spawn(move || {
            let _ending = ending;
            run.run(&stopped);
        })?;
        Ok(Self { recent, metrics, controller: name, stop: Some(stop), thread: Some(thread), ended })
    }

    /// The last `limit` decisions, oldest first.
    #[must_use]
    pub fn decisions(&self, limit: usize) -> Vec<Decision> {
        self.recent.last(limit)
    }

    /// Who decides.
    #[must_use]
    pub fn controller(&self) -> &'static str {
        self.controller
    }

    /// The agent's metrics.
    #[must_use]
    pub fn collectors(&self) -> Vec<Box<dyn prometheus::core::Collector>> {
        self.metrics.collectors()
    }

    /// Has the loop end, without waiting for it.
    pub fn end(&mut self) {
        self.stop = None;
    }

    /// Ends the loop and waits for it: for a call that is being carried out, but not for a controller that is being
    /// asked.
    pub fn stop(&mut self) {
        self.end();
        let Some(thread) = self.thread.take() else { return };
        match self.ended.recv_timeout(STOP_WAIT) {
            Err(RecvTimeoutError::Timeout) => {
                tracing::warn!(waited_ms = STOP_WAIT.as_millis() as u64, "the agent does not end and is left behind");
            }
            _ => _ = thread.join(),
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.stop();
    }
}

/// One table under control.
struct Steered {
    pilot: Pilot,
    observer: Observer,
}

struct Loop {
    settings: AgentConfig,
    node: u16,
    /// In the order of [`Hands::look`].
    tables: Vec<Steered>,
    random: fastrand::Rng,
    number: u64,
    journal: Journal,
    metrics: AgentMetrics,
    asked: Asking,
    hands: Hands,
}

impl Loop {
    fn run(mut self, stopped: &Receiver<()>) {
        self.look();
        while self.wait(stopped) {
            for (table, now) in self.look() {
                if !self.decide(table, &now, stopped) {
                    break;
                }
            }
        }
        for table in &self.tables {
            if let Some(open) = table.pilot.open() {
                self.journal.record(open.clone());
            }
        }
    }

    /// Waits for the end of the window; false if the agent is to stop.
    fn wait(&mut self, stopped: &Receiver<()>) -> bool {
        let spread = 1.0 + self.settings.jitter * (2.0 * self.random.f64() - 1.0);
        let end = Instant::now() + Duration::from_millis(self.settings.window_ms).mul_f64(spread.max(0.0));
        let first = (self.hands.minibatches)();
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let pause = if self.settings.window_minibatches > 0 { left.min(LOOK) } else { left };
            match stopped.recv_timeout(pause) {
                Err(RecvTimeoutError::Timeout) => {}
                _ => return false,
            }
            let enough = self.settings.window_minibatches > 0
                && (self.hands.minibatches)().saturating_sub(first) >= self.settings.window_minibatches;
            if enough || Instant::now() >= end {
                return true;
            }
        }
    }

    /// The windows that ended, of the tables that are in use; of the first one always.
    fn look(&mut self) -> Vec<(usize, Snapshot)> {
        let sights = (self.hands.look)(Look::Closely);
        for sight in sights.iter().skip(self.tables.len()) {
            let pilot = Pilot::new(Box::new(Rules), self.settings.guard).on(self.node, sight.table.clone());
            let epochs = Some(self.settings.epochs).filter(|&epochs| epochs > 0);
            self.tables.push(Steered { pilot, observer: Observer::new(epochs) });
        }
        let used = |counters: &Counters| counters.remote_rows + counters.cached_rows > 0;
        let first = sights.iter().position(|sight| used(&sight.counters)).unwrap_or(0);
        let mut windows = Vec::new();
        for (at, (sight, table)) in sights.iter().zip(&mut self.tables).enumerate() {
            let window = table.observer.observe(sight.counters);
            windows.extend(window.filter(|_| at == first || used(&sight.counters)).map(|window| (at, window)));
        }
        windows
    }

    /// Decides on one table; false if the agent is to stop.
    fn decide(&mut self, at: usize, now: &Snapshot, stopped: &Receiver<()>) -> bool {
        let Steered { pilot, .. } = &mut self.tables[at];
        if let Some(complete) = pilot.close(now) {
            self.metrics.effect(&complete);
            self.journal.record(complete);
            self.metrics.lost(self.journal.lost());
        }
        let deadline = Duration::from_millis(self.settings.deadline_ms);
        let Some(asked) = self.asked.ask(now, pilot.past(), deadline, stopped) else { return false };
        if asked.latency_ms > PROMPT * self.settings.window_ms as f64 {
            self.restart_window(at);
        }
        let time_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        self.number += 1;
        let Steered { pilot, .. } = &mut self.tables[at];
        let call = pilot.decide(now, asked, Occasion { number: self.number, time_ms });
        pilot.carried_out((self.hands.act)(call));
        if let Some(open) = pilot.open() {
            self.metrics.decision(open);
            log(open);
        }
        true
    }

    /// Lets the next window of a table begin now.
    fn restart_window(&mut self, at: usize) {
        let sights = (self.hands.look)(Look::AtCounters);
        if let (Some(sight), Some(table)) = (sights.get(at), self.tables.get_mut(at)) {
            table.observer.rebase(sight.counters);
        }
    }
}

/// Writes a decision to the log. One that holds is for debugging: an idle daemon takes one per window.
fn log(decision: &Decision) {
    let Decision { number, table, call, outcome, decided_by, reason, note, fallback, .. } = decision;
    let tool = call.tool();
    macro_rules! decided {
        ($level:ident) => {
            tracing::$level!(number, table, tool, outcome, decided_by, reason, note, fallback, "agent decided")
        };
    }
    match call {
        ToolCall::Hold(_) if outcome != "failed" => decided!(debug),
        _ => decided!(info),
    }
}

#[cfg(test)]
mod tests {
    use super::super::controller::{ControllerError, Proposal, View};
    use super::*;
    use crate::guard::GuardSettings;
    use crate::tools::Hold;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// Answers after what is left of its naps, one nap per question, which it counts when it is asked.
    struct Sleepy(Vec<Duration>, Arc<AtomicU64>);

    impl Controller for Sleepy {
        fn name(&self) -> &'static str {
            "sleepy"
        }

        fn propose(&mut self, _view: View<'_>) -> Result<Proposal, ControllerError> {
            self.1.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(self.0.pop().unwrap_or_default());
            Ok(Proposal::hold("awake"))
        }
    }

    fn settings(window_ms: u64, deadline_ms: u64) -> AgentConfig {
        let guard = GuardSettings { veto_windows: 5, rows_min: 1, ..GuardSettings::default() };
        AgentConfig { window_ms, deadline_ms, guard, ..AgentConfig::default() }
    }

    fn hands(acted: &Arc<AtomicU64>) -> Hands {
        let acted = Arc::clone(acted);
        let mut minibatches = 0;
        Hands {
            look: Box::new(move |_| {
                minibatches += 10;
                let counters = Counters {
                    seconds: minibatches as f64,
                    minibatches,
                    remote_rows: minibatches * 10,
                    hit_rows: minibatches * 5,
                    network_rows: minibatches * 5,
                    capacity_rows: 100,
                    cached_rows: 100,
                    ceiling_rows: 100,
                    ..Counters::default()
                };
                vec![Sight { table: None, counters }]
            }),
            minibatches: Box::new(|| 0),
            act: Box::new(move |call| {
                acted.fetch_add(1, Ordering::Relaxed);
                Ok(ToolAnswer { tool: call.tool().to_owned(), tables: Vec::new() })
            }),
        }
    }

    fn wait_for(agent: &Agent, done: impl Fn(&[Decision]) -> bool) -> Vec<Decision> {
        let end = Instant::now() + Duration::from_secs(60);
        while !done(&agent.decisions(100)) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
        agent.decisions(100)
    }

    #[test]
    fn a_controller_that_hangs_is_stood_in_for_until_it_answers_again() {
        let acted = Arc::default();
        let naps = vec![Duration::from_millis(600)];
        let sleepy = Sleepy(naps, Arc::default());
        let mut agent = Agent::start(settings(20, 200), (0, 1), Box::new(sleepy), hands(&acted)).unwrap();
        let decisions = wait_for(&agent, |decisions| decisions.iter().any(|decision| decision.decided_by == "sleepy"));
        assert_eq!(decisions[0].fallback.as_deref(), Some("late: no answer within 200 ms"));
        assert_eq!((decisions[0].decided_by.as_str(), decisions[0].controller.as_str()), ("rules", "sleepy"));
        let own = decisions.iter().find(|decision| decision.decided_by == "sleepy").unwrap();
        assert_eq!((own.fallback.as_deref(), own.reason.as_str()), (None, "awake"));
        assert!(matches!(own.call, ToolCall::Hold(Hold {})) && acted.load(Ordering::Relaxed) > 1);
        let begin = Instant::now();
        agent.stop();
        assert!(begin.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn an_agent_ends_while_its_controller_thinks() {
        let acted = Arc::default();
        let asked = Arc::default();
        let sleepy = Sleepy(vec![Duration::from_secs(3600)], Arc::clone(&asked));
        let mut agent = Agent::start(settings(5, 3_600_000), (0, 1), Box::new(sleepy), hands(&acted)).unwrap();
        while asked.load(Ordering::Relaxed) == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        let begin = Instant::now();
        agent.stop();
        assert!(begin.elapsed() < Duration::from_secs(60) && acted.load(Ordering::Relaxed) == 0);
    }

    #[test]
    fn tables_are_steered_each_by_itself_once_they_are_used() {
        let acted: Arc<std::sync::Mutex<Vec<ToolCall>>> = Arc::default();
        let calls = Arc::clone(&acted);
        let mut rows = 0;
        let table = |name: &str, remote_rows: u64, (cached_rows, ceiling_rows)| Sight {
            table: Some(name.to_owned()),
            counters: Counters {
                minibatches: remote_rows,
                remote_rows,
                network_rows: remote_rows,
                capacity_rows: 100,
                cached_rows,
                ceiling_rows,
                ..Counters::default()
            },
        };
        let hands = Hands {
            look: Box::new(move |_| {
                rows += 50;
                vec![table("label", 0, (0, 400)), table("feat", rows, (100, 400)), table("embed", rows, (40, 400))]
            }),
            minibatches: Box::new(|| 0),
            act: Box::new(move |call| {
                calls.lock().unwrap().push(call.clone());
                Ok(ToolAnswer { tool: call.tool().to_owned(), tables: Vec::new() })
            }),
        };
        let mut agent = Agent::start(settings(5, 10_000), (0, 1), Box::new(Rules), hands).unwrap();
        let decisions = wait_for(&agent, |decisions| decisions.len() >= 4);
        agent.stop();
        let named: Vec<_> = decisions.iter().map(|decision| decision.table.as_deref().unwrap()).collect();
        assert_eq!(named[..4], ["feat", "embed", "feat", "embed"], "nobody asks for labels");
        assert_eq!(decisions[0].call.table(), Some("feat"), "it is full");
        assert_eq!(decisions[1].call.tool(), "hold", "it is filling");
        assert_eq!(decisions.iter().map(|decision| decision.number).collect::<Vec<_>>()[..4], [1, 2, 3, 4]);
        assert!(acted.lock().unwrap().iter().all(|call| call.tool() == "hold" || call.table() == Some("feat")));
    }

    #[test]
    fn a_hold_is_not_written_to_the_log_at_info() {
        let text = Arc::new(parking_lot::Mutex::new(Vec::new()));
        let written = Arc::clone(&text);
        let writer = move || Sink(Arc::clone(&written));
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(writer).finish();
        let _installed = tracing::subscriber::set_default(subscriber);
        let mut pilot = Pilot::new(Box::new(Rules), settings(1, 1).guard).on(0, None);
        let seen = Snapshot::default();
        let mut decided = |number, call: ToolCall| {
            let proposal = Proposal { call, ..Proposal::hold("for the test") };
            let asked = super::super::pilot::Asked { controller: "test", answer: Ok(proposal), latency_ms: 0.0 };
            pilot.decide(&seen, asked, Occasion { number, time_ms: 0 });
            pilot.open().cloned().unwrap()
        };
        let hold = decided(1, ToolCall::Hold(Hold {}));
        log(&hold);
        assert_eq!(String::from_utf8_lossy(&text.lock()), "");
        log(&Decision { outcome: "failed".to_owned(), ..hold.clone() });
        log(&Decision { call: ToolCall::parse(r#"{"tool": "evict", "fraction": 0.5}"#).unwrap(), ..hold });
        let text = String::from_utf8_lossy(&text.lock()).into_owned();
        assert_eq!(text.matches("agent decided").count(), 2, "{text}");
        assert!(text.contains("tool=\"evict\"") && text.contains("INFO"), "{text}");
    }

    /// Keeps what is written.
    struct Sink(Arc<parking_lot::Mutex<Vec<u8>>>);

    impl std::io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    struct Broken;

    impl Controller for Broken {
        fn name(&self) -> &'static str {
            "broken"
        }

        fn propose(&mut self, _view: View<'_>) -> Result<Proposal, ControllerError> {
            panic!("on purpose");
        }
    }

    #[test]
    fn a_controller_that_panics_takes_nothing_with_it() {
        let acted = Arc::default();
        let agent = Agent::start(settings(5, 2000), (0, 1), Box::new(Broken), hands(&acted)).unwrap();
        let decisions = wait_for(&agent, |decisions| decisions.len() >= 3);
        assert!(decisions.len() >= 3);
        assert!(decisions.iter().all(|decision| decision.fallback.as_deref().unwrap().contains("panicked")));
    }
}
