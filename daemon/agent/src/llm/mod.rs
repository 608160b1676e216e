//! The controller that asks a language model behind an OpenAI-compatible endpoint. `settings` is how it is configured,
//! `prompt` what the model sees, `schema` what it may answer, `answer` how strictly that is read, `endpoint` the wire,
//! `probe` what a model must show before it is asked.
//!
//! **It must never** wait longer than its deadline, believe a response beyond its bounds, or put text from outside
//! before the model. It proposes; whether that is done is the guard's matter, and where it has no answer the rules
//! stand in.

mod answer;
mod ask;
mod endpoint;
mod probe;
mod prompt;
mod schema;
mod settings;
#[cfg(test)]
mod tests;

pub use probe::{CanaryProbe, Fitness, ModeProbe, Probe};
pub use schema::Mode;
pub use settings::{LlmError, LlmSettings};

use super::controller::{Controller, ControllerError, Proposal, View};
use ask::{Asker, Unanswered};
use endpoint::Fault;
use parking_lot::{Condvar, Mutex, MutexGuard};
use serde::Serialize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};

/// Invalid answers in a row after which the model is probed again: it may have been exchanged.
const INVALID_MAX: u32 = 5;

/// Milliseconds until an endpoint that could not be reached is probed again, at first; doubled each time.
const UNREACHED_MS: u64 = 1_000;

/// Where the model stands.
#[derive(Debug, Clone)]
enum Standing {
    Probing,
    Healthy(Mode),
    Degraded { why: String, mode: Option<Mode>, again: Instant },
    Unreachable { why: String, again: Instant },
}

/// What the controller, its probe and those who look at its state share.
struct LlmState {
    settings: LlmSettings,
    state: Mutex<State>,
    probed: Condvar,
    stop: AtomicBool,
}

struct State {
    standing: Standing,
    probe: Option<Probe>,
    /// Probes in a row that did not reach the endpoint.
    unreached: u32,
}

impl LlmState {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Takes in what a probe found.
    fn adopt_probe(&self, probe: Probe) {
        let mut state = self.state();
        let after = |ms: u64| Instant::now() + Duration::from_millis(ms.min(self.settings.reprobe_ms));
        let standing = match (&probe.verdict, probe.mode) {
            (Fitness::Healthy, Some(mode)) => Standing::Healthy(mode),
            (Fitness::Unreachable(why), _) => {
                let soonest = after(UNREACHED_MS << state.unreached.min(16));
                // What the endpoint asks for is bounded where it is read.
                let again = probe.quiet.map_or(soonest, |quiet| soonest.max(Instant::now() + quiet));
                Standing::Unreachable { why: why.clone(), again }
            }
            (Fitness::Degraded(why), mode) => Standing::Degraded { why: why.clone(), mode, again: after(u64::MAX) },
            (Fitness::Healthy, None) => {
                Standing::Degraded { why: "no mode".to_owned(), mode: None, again: after(u64::MAX) }
            }
        };
        let reached = !matches!(standing, Standing::Unreachable { .. });
        state.unreached = if reached { 0 } else { state.unreached + 1 };
        self.tell(&probe);
        state.standing = standing;
        state.probe = Some(probe);
        self.probed.notify_all();
    }

    fn tell(&self, probe: &Probe) {
        let (model, mode, apt, took_ms) = (&self.settings.model, probe.mode, probe.apt, probe.took_ms);
        match &probe.verdict {
            Fitness::Healthy => tracing::info!(model, ?mode, apt, took_ms, "language model probed: it is asked"),
            Fitness::Degraded(why) | Fitness::Unreachable(why) => {
                let verdict = probe.verdict.name();
                tracing::warn!(
                    model,
                    ?mode,
                    apt,
                    took_ms,
                    verdict,
                    "language model probed: rules stand in; `agent.llm` of /v1/status says why"
                );
                // It may quote what came, and logs travel further than a status does.
                tracing::debug!(model, verdict, why, "what the probe found");
            }
        }
    }
}

/// What is to be seen of the controller from outside.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LlmStatus {
    /// Where it asks.
    pub base_url: String,
    /// Whom.
    pub model: String,
    /// `probing`, `healthy`, `degraded` or `unreachable`.
    pub state: &'static str,
    /// What the last probe found.
    pub probe: Option<Probe>,
}

/// Looks at a controller from any thread.
#[derive(Clone)]
pub struct LlmWatch(Arc<LlmState>);

impl LlmWatch {
    /// The controller now.
    #[must_use]
    pub fn status(&self) -> LlmStatus {
        let state = self.0.state();
        LlmStatus {
            base_url: self.0.settings.base_url.clone(),
            model: self.0.settings.model.clone(),
            state: match state.standing {
                Standing::Probing => "probing",
                Standing::Healthy(_) => "healthy",
                Standing::Degraded { .. } => "degraded",
                Standing::Unreachable { .. } => "unreachable",
            },
            probe: state.probe.clone(),
        }
    }

    /// Waits until the probe under way is over, if there is one, but no longer than `most`.
    #[must_use]
    pub fn probed(&self, most: Duration) -> LlmStatus {
        let probing = |state: &mut State| matches!(state.standing, Standing::Probing);
        self.0.probed.wait_while_for(&mut self.0.state(), probing, most);
        self.status()
    }
}

/// The controller. Its thread may block; it must not be one of an asynchronous runtime.
pub struct Llm {
    shared: Arc<LlmState>,
    asker: Asker,
    /// Taken in `drop` only.
    runtime: Option<Runtime>,
    /// Until when the endpoint wants to be left alone.
    quiet: Option<(Instant, String)>,
    invalid: u32,
}

fn runtime() -> Result<Runtime, LlmError> {
    Builder::new_current_thread().enable_all().build().map_err(|error| LlmError::Client(error.to_string()))
}

impl Llm {
    /// The controller of these settings. Its probe begins at once, on a thread of its own; until it is over, `propose`
    /// answers [`ControllerError::Degraded`].
    ///
    /// # Errors
    /// [`LlmError`] for settings that cannot be used. An endpoint that is down is not an error: it is probed again
    /// later.
    pub fn new(settings: LlmSettings) -> Result<Self, LlmError> {
        let asker = Asker::new(&settings)?;
        let state = State { standing: Standing::Probing, probe: None, unreached: 0 };
        let (state, probed, stop) = (Mutex::new(state), Condvar::new(), AtomicBool::new(false));
        let shared = Arc::new(LlmState { settings, state, probed, stop });
        let llm = Self { shared, asker, runtime: Some(runtime()?), quiet: None, invalid: 0 };
        llm.start_probe()?;
        Ok(llm)
    }

    /// Looks at it from elsewhere.
    #[must_use]
    pub fn watch(&self) -> LlmWatch {
        LlmWatch(Arc::clone(&self.shared))
    }

    fn start_probe(&self) -> Result<(), LlmError> {
        let shared = Arc::clone(&self.shared);
        // Connections belong to the runtime that made them: the probe has its own of both.
        let (asker, runtime) = (Asker::new(&shared.settings)?, runtime()?);
        self.shared.state().standing = Standing::Probing;
        let run = move || {
            let stopped = || shared.stop.load(Ordering::Relaxed);
            shared.adopt_probe(runtime.block_on(probe::probe(&asker, &stopped)));
        };
        let thread = std::thread::Builder::new().name("llm-probe".to_owned()).spawn(run);
        thread.map(drop).map_err(|error| LlmError::Client(error.to_string()))
    }

    /// Probes again; where that cannot even be begun, it is tried again at the next decision.
    fn probe_again(&self) {
        if let Err(error) = self.start_probe() {
            let (why, again) = (error.to_string(), Instant::now() + Duration::from_millis(UNREACHED_MS));
            self.shared.state().standing = Standing::Unreachable { why, again };
        }
    }

    /// The mode to ask in, or why the model is not asked now.
    fn mode(&mut self) -> Result<Mode, ControllerError> {
        let now = Instant::now();
        let mut standing = self.shared.state().standing.clone();
        let settings = &self.shared.settings;
        let due = match &standing {
            Standing::Degraded { mode: Some(_), .. } if settings.ask_degraded => false,
            Standing::Degraded { again, .. } | Standing::Unreachable { again, .. } => now >= *again,
            Standing::Probing | Standing::Healthy(_) => false,
        };
        if due {
            self.probe_again();
        }
        if self.shared.settings.waits_for_probe {
            let most = Duration::from_millis(self.shared.settings.probe_timeout_ms) * probe::QUESTIONS_MAX;
            let _ = self.watch().probed(most);
            standing = self.shared.state().standing.clone();
        }
        match standing {
            Standing::Healthy(mode) => match &self.quiet {
                Some((until, why)) if *until > now => Err(ControllerError::Unreachable(why.clone())),
                _ => Ok(mode),
            },
            Standing::Probing => Err(ControllerError::Degraded("its probe is not over yet".to_owned())),
            Standing::Degraded { mode: Some(mode), .. } if self.shared.settings.ask_degraded => Ok(mode),
            Standing::Degraded { why, .. } => Err(ControllerError::Degraded(why)),
            Standing::Unreachable { why, .. } => Err(ControllerError::Unreachable(why)),
        }
    }

    /// What became of a question, in the words of controllers.
    fn failed(&mut self, unanswered: Unanswered) -> ControllerError {
        match unanswered {
            Unanswered::Fault(Fault::Late(ms)) => ControllerError::Late(ms),
            Unanswered::Fault(Fault::Garbage(why)) | Unanswered::Invalid(why) => {
                self.invalid += 1;
                if self.invalid >= INVALID_MAX && !self.shared.settings.ask_degraded {
                    self.invalid = 0;
                    self.probe_again();
                }
                ControllerError::Invalid(why)
            }
            Unanswered::Fault(fault) => {
                self.quiet = fault.quiet().map(|(wait, why)| (Instant::now() + wait, why));
                ControllerError::Unreachable(fault.to_string())
            }
        }
    }
}

impl Controller for Llm {
    fn name(&self) -> &'static str {
        "llm"
    }

    fn propose(&mut self, view: View<'_>) -> Result<Proposal, ControllerError> {
        let mode = self.mode()?;
        let timeout_ms = self.shared.settings.timeout_ms;
        let Some(runtime) = &self.runtime else {
            return Err(ControllerError::Unreachable("it is being dropped".to_owned()));
        };
        match runtime.block_on(self.asker.ask(view, mode, timeout_ms)) {
            Ok(proposal) => {
                self.invalid = 0;
                Ok(proposal)
            }
            Err(unanswered) => Err(self.failed(unanswered)),
        }
    }
}

impl Drop for Llm {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(runtime) = self.runtime.take() {
            // Waits for nothing, and may be done on a thread of a runtime.
            runtime.shutdown_background();
        }
    }
}
