//! The agent in a running daemon: a thread that looks at the metrics once per window, asks the controller on a thread of its own,
//! waits for it no longer than it may, and has the decision carried out. It owns the windows, and which tables are looked at; the
//! controller's thread is `asking`'s.

use super::asking::Asking;
use super::controller::Controller;
use super::guard::GuardSettings;
use super::journal::{Decision, Journal, JournalSettings, Recent};
use super::metrics::AgentMetrics;
use super::pilot::{Occasion, Pilot};
use super::rules::Rules;
use super::snapshot::{Counters, Observer, Snapshot};
use crate::tools::{ToolAnswer, ToolCall};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How often the end of a window of minibatches is looked for, and whether the agent is to stop while a controller thinks.
pub(super) const LOOK: Duration = Duration::from_millis(100);

/// Share of its window that a controller may take before the next window begins after its answer: what was before is not of its doing.
const PROMPT: f64 = 0.01;

/// Longest wait at the end for a call that is being carried out, or for a disk that holds the journal up.
const STOP_WAIT: Duration = Duration::from_secs(5);

/// What bounds the agent.
#[derive(Debug, Clone)]
pub struct RunSettings {
    /// Length of a window.
    pub window: Duration,
    /// Fetches after which a window ends sooner; 0 for never.
    pub window_minibatches: u64,
    /// Share of the window by which its end is moved at random, so that the nodes of a cluster do not act at once.
    pub jitter: f64,
    /// Longest wait for the controller.
    pub deadline: Duration,
    /// Epochs of the run, where known.
    pub epochs: Option<u32>,
    /// The node, for the record.
    pub node: u16,
    /// Bounds of the guard.
    pub guard: GuardSettings,
    /// The record.
    pub journal: JournalSettings,
    /// Seed of the jitter.
    pub seed: u64,
}

/// What there is to see of one table, or of all where none is cached.
#[derive(Debug, Clone, PartialEq)]
pub struct Sight {
    /// The table; not named where there is no other.
    pub table: Option<String>,
    /// Its counters, with the ceiling that the agent has to keep.
    pub counters: Counters,
}

/// How closely to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// At all that is to be known; it costs something.
    Closely,
    /// At what is counted anyway.
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
    /// Starts the agent.
    ///
    /// # Errors
    /// When a metric or a thread cannot be made.
    pub fn start(
        settings: RunSettings,
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
            random: fastrand::Rng::with_seed(settings.seed),
            number: 0,
            journal,
            metrics: metrics.clone(),
            asked,
            hands,
            settings,
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

    /// Ends the loop and waits for it: for a call that is being carried out, but not for a controller that is being asked.
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
    settings: RunSettings,
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
        let end = Instant::now() + self.settings.window.mul_f64(spread.max(0.0));
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
            let pilot = Pilot::new(Box::new(Rules), self.settings.guard).on(self.settings.node, sight.table.clone());
            self.tables.push(Steered { pilot, observer: Observer::new(self.settings.epochs) });
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
        let Some(asked) = self.asked.ask(now, pilot.past(), self.settings.deadline, stopped) else { return false };
        if asked.latency_ms > PROMPT * 1e3 * self.settings.window.as_secs_f64() {
            self.begin_anew(at);
        }
        let time_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        self.number += 1;
        let Steered { pilot, .. } = &mut self.tables[at];
        let call = pilot.decide(now, asked, Occasion { number: self.number, time_ms });
        pilot.carried_out((self.hands.act)(call));
        if let Some(open) = pilot.open() {
            self.metrics.decision(open);
            tracing::info!(
                number = open.number,
                table = open.table,
                tool = open.call.tool(),
                outcome = open.outcome,
                decided_by = open.decided_by,
                reason = open.reason,
                note = open.note,
                fallback = open.fallback,
                "agent decided"
            );
        }
        true
    }

    /// Has the next window of a table begin now.
    fn begin_anew(&mut self, at: usize) {
        let sights = (self.hands.look)(Look::AtCounters);
        if let (Some(sight), Some(table)) = (sights.get(at), self.tables.get_mut(at)) {
            table.observer.rebase(sight.counters);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::controller::{ControllerError, Proposal, View};
    use super::*;
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

    fn settings(window_ms: u64, deadline_ms: u64) -> RunSettings {
        RunSettings {
            window: Duration::from_millis(window_ms),
            window_minibatches: 0,
            jitter: 0.1,
            deadline: Duration::from_millis(deadline_ms),
            epochs: None,
            node: 0,
            guard: GuardSettings { cooldown_windows: 1, veto_windows: 5, rows_min: 1, keeps_useful: true },
            journal: JournalSettings { path: None, bytes_max: 1 << 20, files_max: 1, decisions_max: 100 },
            seed: 1,
        }
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
        let mut agent = Agent::start(settings(20, 200), Box::new(sleepy), hands(&acted)).unwrap();
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
        let mut agent = Agent::start(settings(5, 3_600_000), Box::new(sleepy), hands(&acted)).unwrap();
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
        let mut agent = Agent::start(settings(5, 10_000), Box::new(Rules), hands).unwrap();
        let decisions = wait_for(&agent, |decisions| decisions.len() >= 4);
        agent.stop();
        let named: Vec<_> = decisions.iter().map(|decision| decision.table.as_deref().unwrap()).collect();
        assert_eq!(named[..4], ["feat", "embed", "feat", "embed"], "nobody asks for labels");
        assert_eq!(decisions[0].call.table(), Some("feat"), "it is full");
        assert_eq!(decisions[1].call.tool(), "hold", "it is filling");
        assert_eq!(decisions.iter().map(|decision| decision.number).collect::<Vec<_>>()[..4], [1, 2, 3, 4]);
        assert!(acted.lock().unwrap().iter().all(|call| call.tool() == "hold" || call.table() == Some("feat")));
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
        let agent = Agent::start(settings(5, 2000), Box::new(Broken), hands(&acted)).unwrap();
        let decisions = wait_for(&agent, |decisions| decisions.len() >= 3);
        assert!(decisions.len() >= 3);
        assert!(decisions.iter().all(|decision| decision.fallback.as_deref().unwrap().contains("panicked")));
    }
}
