//! The agent in a running daemon: a thread that looks at the metrics once per window, asks the controller on a thread of its own,
//! waits for it no longer than it may, and has the decision carried out. It owns those two threads and the waits between them.
//! A controller that hangs keeps its own thread busy and nothing else: the fallback decides until it answers again.

use super::controller::{Controller, ControllerError, Past, Proposal, View};
use super::guard::GuardSettings;
use super::journal::{Decision, Journal, JournalSettings};
use super::metrics::AgentMetrics;
use super::pilot::{Asked, Pilot};
use super::rules::Rules;
use super::snapshot::{Counters, Observer, Snapshot};
use crate::tools::{ToolAnswer, ToolCall};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How often the end of a window of minibatches is looked for, and whether the agent is to stop while a controller thinks.
const LOOK: Duration = Duration::from_millis(100);

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
    /// Rows that the agent may let the caches grow to, all tables together.
    pub ceiling_rows: u64,
    /// Bounds of the guard.
    pub guard: GuardSettings,
    /// The record.
    pub journal: JournalSettings,
    /// Seed of the jitter.
    pub seed: u64,
}

/// What the agent works on.
pub struct Hands {
    /// Looks at the daemon.
    pub look: Box<dyn FnMut() -> Counters + Send>,
    /// Fetches answered so far; cheap.
    pub minibatches: Box<dyn FnMut() -> u64 + Send>,
    /// Carries a tool call out.
    pub act: Box<dyn FnMut(ToolCall) -> Result<ToolAnswer, String> + Send>,
}

/// A running agent.
#[derive(Debug)]
pub struct Agent {
    journal: Arc<Mutex<Journal>>,
    metrics: AgentMetrics,
    controller: &'static str,
    /// Dropping it ends the loop.
    stop: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

fn relock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
        let journal = Arc::new(Mutex::new(Journal::open(settings.journal.clone())));
        let metrics = AgentMetrics::new(controller.name())?;
        let name = controller.name();
        let asked = Asking::start(controller)?;
        let (stop, stopped) = sync_channel(1);
        let run = Loop {
            pilot: Pilot::new(Box::new(Rules), settings.guard),
            observer: Observer::new(settings.epochs),
            random: fastrand::Rng::with_seed(settings.seed),
            journal: Arc::clone(&journal),
            metrics: metrics.clone(),
            asked,
            hands,
            settings,
        };
        let thread = std::thread::Builder::new().name("rudder-agent".to_owned()).spawn(move || run.run(&stopped))?;
        Ok(Self { journal, metrics, controller: name, stop: Some(stop), thread: Some(thread) })
    }

    /// The last `limit` decisions, oldest first.
    #[must_use]
    pub fn decisions(&self, limit: usize) -> Vec<Decision> {
        relock(&self.journal).recent(limit)
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
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A question to the controller, with its number.
type Question = (u64, Snapshot, Vec<Past>);

/// An answer to the question of that number.
type Answer = (u64, Result<Proposal, ControllerError>);

/// The controller's own thread: one question at a time.
struct Asking {
    name: &'static str,
    questions: SyncSender<Question>,
    answers: Receiver<Answer>,
    number: u64,
    /// The question that has no answer yet.
    open: Option<u64>,
}

impl Asking {
    fn start(mut controller: Box<dyn Controller>) -> std::io::Result<Self> {
        let name = controller.name();
        let (questions, asked) = sync_channel::<Question>(1);
        let (answer, answers) = sync_channel::<Answer>(2);
        std::thread::Builder::new().name("rudder-decide".to_owned()).spawn(move || {
            while let Ok((number, now, past)) = asked.recv() {
                let proposal = controller.propose(View { now: &now, past: &past });
                if answer.send((number, proposal)).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { name, questions, answers, number: 0, open: None })
    }

    /// The controller's answer within `deadline`; `None` if the agent is to stop first.
    fn ask(&mut self, now: &Snapshot, past: &[Past], deadline: Duration, stopped: &Receiver<()>) -> Option<Asked> {
        let begin = Instant::now();
        let answer = self.answer(now, past, deadline, stopped)?;
        let latency_ms = begin.elapsed().as_secs_f64() * 1e3;
        Some(Asked { controller: self.name, answer, latency_ms })
    }

    fn answer(
        &mut self,
        now: &Snapshot,
        past: &[Past],
        deadline: Duration,
        stopped: &Receiver<()>,
    ) -> Option<Result<Proposal, ControllerError>> {
        let late = || ControllerError::Late(deadline.as_millis() as u64);
        // What came too late was decided for another state.
        while let Ok((number, _)) = self.answers.try_recv() {
            self.open = self.open.filter(|&open| open != number);
        }
        if self.open.is_some() {
            return Some(Err(late()));
        }
        self.number += 1;
        match self.questions.try_send((self.number, *now, past.to_vec())) {
            Ok(()) => self.open = Some(self.number),
            Err(TrySendError::Full(_)) => return Some(Err(late())),
            Err(TrySendError::Disconnected(_)) => return Some(Err(panicked())),
        }
        let end = Instant::now() + deadline;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let answer = match self.answers.recv_timeout(left.min(LOOK)) {
                Err(RecvTimeoutError::Timeout) if is_stopped(stopped) => return None,
                Err(RecvTimeoutError::Timeout) if left <= LOOK => return Some(Err(late())),
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => Err(panicked()),
                Ok((_, answer)) => answer,
            };
            self.open = None;
            return Some(answer);
        }
    }
}

fn panicked() -> ControllerError {
    ControllerError::Degraded("the controller panicked; see the log".to_owned())
}

fn is_stopped(stopped: &Receiver<()>) -> bool {
    !matches!(stopped.try_recv(), Err(TryRecvError::Empty))
}

struct Loop {
    settings: RunSettings,
    pilot: Pilot,
    observer: Observer,
    random: fastrand::Rng,
    journal: Arc<Mutex<Journal>>,
    metrics: AgentMetrics,
    asked: Asking,
    hands: Hands,
}

impl Loop {
    fn run(mut self, stopped: &Receiver<()>) {
        self.look();
        while self.wait(stopped) {
            if let Some(now) = self.look() {
                self.decide(&now, stopped);
            }
        }
        if let Some(open) = self.pilot.open() {
            relock(&self.journal).record(open.clone());
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

    fn look(&mut self) -> Option<Snapshot> {
        let mut now = (self.hands.look)();
        now.ceiling_rows = now.ceiling_rows.min(self.settings.ceiling_rows.max(now.capacity_rows));
        self.observer.observe(now)
    }

    fn decide(&mut self, now: &Snapshot, stopped: &Receiver<()>) {
        if let Some(complete) = self.pilot.close(now) {
            self.metrics.effect(&complete);
            let mut journal = relock(&self.journal);
            journal.record(complete);
            self.metrics.lost(journal.lost());
        }
        let Some(asked) = self.asked.ask(now, self.pilot.past(), self.settings.deadline, stopped) else { return };
        let time_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        let call = self.pilot.decide(now, asked, time_ms);
        let result = (self.hands.act)(call);
        self.pilot.carried_out(result);
        if let Some(open) = self.pilot.open() {
            self.metrics.decision(open);
            tracing::info!(
                number = open.number,
                tool = open.call.tool(),
                outcome = open.outcome,
                decided_by = open.decided_by,
                reason = open.reason,
                note = open.note,
                fallback = open.fallback,
                "agent decided"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::Hold;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// Answers after what is left of its naps, one nap per question.
    struct Sleepy(Vec<Duration>);

    impl Controller for Sleepy {
        fn name(&self) -> &'static str {
            "sleepy"
        }

        fn propose(&mut self, _view: View<'_>) -> Result<Proposal, ControllerError> {
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
            ceiling_rows: 1000,
            guard: GuardSettings { cooldown_windows: 1, veto_windows: 5, rows_min: 1, keeps_useful: true },
            journal: JournalSettings { path: None, bytes_max: 1 << 20, files_max: 1, decisions_max: 100 },
            seed: 1,
        }
    }

    fn hands(acted: &Arc<AtomicU64>) -> Hands {
        let acted = Arc::clone(acted);
        let mut minibatches = 0;
        Hands {
            look: Box::new(move || {
                minibatches += 10;
                Counters {
                    seconds: minibatches as f64,
                    minibatches,
                    remote_rows: minibatches * 10,
                    hit_rows: minibatches * 5,
                    network_rows: minibatches * 5,
                    capacity_rows: 100,
                    cached_rows: 100,
                    ceiling_rows: 100,
                    ..Counters::default()
                }
            }),
            minibatches: Box::new(|| 0),
            act: Box::new(move |call| {
                acted.fetch_add(1, Ordering::Relaxed);
                Ok(ToolAnswer { tool: call.tool().to_owned(), tables: Vec::new() })
            }),
        }
    }

    fn wait_for(agent: &Agent, decisions: usize) -> Vec<Decision> {
        let end = Instant::now() + Duration::from_secs(20);
        while agent.decisions(100).len() < decisions && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
        agent.decisions(100)
    }

    #[test]
    fn a_controller_that_hangs_is_stood_in_for_until_it_answers_again() {
        let acted = Arc::default();
        let naps = vec![Duration::from_millis(400)];
        let mut agent = Agent::start(settings(20, 60), Box::new(Sleepy(naps)), hands(&acted)).unwrap();
        let decisions = wait_for(&agent, 25);
        assert!(decisions.len() >= 25, "{}", decisions.len());
        assert_eq!(decisions[0].fallback.as_deref(), Some("late: no answer within 60 ms"));
        assert_eq!((decisions[0].decided_by.as_str(), decisions[0].controller.as_str()), ("rules", "sleepy"));
        let last = decisions.last().unwrap();
        assert_eq!(
            (last.fallback.as_deref(), last.decided_by.as_str(), last.reason.as_str()),
            (None, "sleepy", "awake")
        );
        assert!(matches!(last.call, ToolCall::Hold(Hold {})) && acted.load(Ordering::Relaxed) >= 25);
        let begin = Instant::now();
        agent.stop();
        assert!(begin.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn an_agent_ends_while_its_controller_thinks() {
        let acted = Arc::default();
        let naps = vec![Duration::from_secs(3600)];
        let mut agent = Agent::start(settings(5, 3_600_000), Box::new(Sleepy(naps)), hands(&acted)).unwrap();
        // Past the end of the first window, so that the question is open.
        std::thread::sleep(Duration::from_millis(100));
        let begin = Instant::now();
        agent.stop();
        assert!(begin.elapsed() < Duration::from_secs(60) && acted.load(Ordering::Relaxed) == 0);
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
        let decisions = wait_for(&agent, 3);
        assert!(decisions.len() >= 3);
        assert!(decisions.iter().all(|decision| decision.fallback.as_deref().unwrap().contains("panicked")));
    }
}
