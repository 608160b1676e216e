//! Finds out what a model behind an endpoint can be trusted with, before it is: which mode of answering the endpoint
//! honours, and whether what the model chooses depends on what it is shown. It owns the canary states and the verdict.
//! It must never be lenient with a model that answers the same whatever it sees: rules are cheaper at that.

use super::super::controller::View;
use super::super::snapshot::Snapshot;
use super::ask::{Asker, Unanswered};
use super::endpoint::Fault;
use super::schema::Mode;
use serde::Serialize;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// A state in which a person would know what to do.
struct Canary {
    name: &'static str,
    seen: Snapshot,
    /// The tools that would be right.
    apt: &'static [&'static str],
}

/// Far apart from each other, so that a model that sees anything at all answers them differently.
fn canaries() -> [Canary; 5] {
    let steady = Snapshot {
        window: 20,
        seconds: 10.0,
        minibatches: 50,
        epochs: 2.0,
        run_progress: Some(0.4),
        hit_rate: Some(0.96),
        remote_rows: 200_000,
        network_rows: 8_000,
        stall_share: 0.01,
        capacity_rows: 50_000,
        cached_rows: 50_000,
        ceiling_rows: 50_000,
        peer_ms: 2.0,
        ..Snapshot::default()
    };
    let poor = Snapshot { hit_rate: Some(0.3), network_rows: 140_000, stall_share: 0.5, ..steady };
    let canary = |name, apt, seen| Canary { name, seen, apt };
    [
        canary("short of slots", &["grow"], Snapshot { ceiling_rows: 400_000, cold_share: 0.02, ..poor }),
        canary("steady", &["hold"], steady),
        canary(
            "shifted",
            &["evict"],
            Snapshot { shifted: true, hit_rate_trend: -0.2, cold_share: 0.7, hotter_absent_rows: 30_000, ..poor },
        ),
        canary("stale", &["refresh"], Snapshot { stale_rows: 40_000, staleness_seconds: 500.0, ..steady }),
        canary(
            "idle",
            &["hold"],
            Snapshot { hit_rate: None, remote_rows: 0, network_rows: 0, stall_share: 0.0, ..steady },
        ),
    ]
}

/// Canaries that are asked twice, for the same answer.
const REPEATED: usize = 2;

/// Most questions of a probe.
pub(super) const QUESTIONS_MAX: u32 = 3 * 5 + REPEATED as u32;

/// Failures in a row after which a mode is given up.
const GIVE_UP: usize = 2;

/// What was found of a mode.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModeProbe {
    /// The mode.
    pub mode: Mode,
    /// Canaries that were asked.
    pub asked: usize,
    /// Answers that were decisions.
    pub valid: usize,
    /// Why the first other was none.
    pub problem: Option<String>,
}

/// What a model answered to a canary.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CanaryProbe {
    /// The state.
    pub canary: &'static str,
    /// The tool that it chose.
    pub tool: Option<&'static str>,
    /// Whether that is what a person would have chosen.
    pub apt: bool,
    /// Milliseconds that it took.
    pub latency_ms: f64,
}

/// What becomes of the model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "verdict", content = "why")]
pub enum Fitness {
    /// It is asked.
    Healthy,
    /// It is not asked, for this reason.
    Degraded(String),
    /// It cannot be asked.
    Unreachable(String),
}

impl Fitness {
    /// In a word.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Fitness::Healthy => "healthy",
            Fitness::Degraded(_) => "degraded",
            Fitness::Unreachable(_) => "unreachable",
        }
    }
}

/// What a probe found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Probe {
    /// What becomes of the model.
    #[serde(flatten)]
    pub verdict: Fitness,
    /// The mode that it is asked in.
    pub mode: Option<Mode>,
    /// The modes that were tried, in order.
    pub modes: Vec<ModeProbe>,
    /// The canaries, as answered in `mode`.
    pub canaries: Vec<CanaryProbe>,
    /// Canaries that were answered as a person would have.
    pub apt: usize,
    /// Milliseconds that the probe took.
    pub took_ms: f64,
    /// How long the endpoint asked to be left alone, if that is what ended the probe.
    #[serde(skip)]
    pub(super) quiet: Option<Duration>,
}

/// Why asking further makes no sense in any mode.
struct Unreached {
    why: String,
    quiet: Option<Duration>,
}

impl From<Fault> for Unreached {
    fn from(fault: Fault) -> Self {
        match fault.quiet() {
            Some((quiet, why)) => Self { why, quiet: Some(quiet) },
            None => Self { why: fault.to_string(), quiet: None },
        }
    }
}

fn stopped_early() -> Unreached {
    Unreached { why: "the probe was stopped".to_owned(), quiet: None }
}

/// The answers of one mode.
struct Trial {
    found: ModeProbe,
    canaries: Vec<CanaryProbe>,
}

/// Probes: every mode until one gives valid answers only.
pub(super) async fn probe(asker: &Asker, stopped: &(dyn Fn() -> bool + Sync)) -> Probe {
    let begin = Instant::now();
    let mut trials: Vec<Trial> = Vec::new();
    let mut unreached = None;
    for mode in [Mode::Schema, Mode::Tools, Mode::Text] {
        match attempt(asker, mode, stopped).await {
            Err(why) => {
                unreached = Some(why);
                break;
            }
            Ok(trial) => trials.push(trial),
        }
        if trials.last().is_some_and(|trial| trial.found.valid == trial.found.asked) {
            break;
        }
    }
    let best = trials.iter().max_by(|a, b| {
        let share = |trial: &Trial| trial.found.valid as f64 / trial.found.asked.max(1) as f64;
        // Of equals the first: `max_by` takes the last, so that later modes count as less.
        share(a).total_cmp(&share(b)).then(std::cmp::Ordering::Greater)
    });
    let usable = best.filter(|trial| 2 * trial.found.valid > trial.found.asked);
    let mode = usable.map(|trial| trial.found.mode);
    let canaries = best.map(|trial| trial.canaries.clone()).unwrap_or_default();
    let judged = match (unreached, usable) {
        (Some(unreached), _) => Err(unreached),
        (None, None) => {
            let problem = trials.iter().find_map(|trial| trial.found.problem.clone()).unwrap_or_default();
            Ok(Fitness::Degraded(format!("it gives valid answers in no mode: {problem}")))
        }
        (None, Some(trial)) => judge(asker, trial, stopped).await,
    };
    let (verdict, quiet) = match judged {
        Ok(verdict) => (verdict, None),
        Err(Unreached { why, quiet }) => (Fitness::Unreachable(why), quiet),
    };
    let apt = canaries.iter().filter(|canary| canary.apt).count();
    let modes = trials.into_iter().map(|trial| trial.found).collect();
    Probe { verdict, mode, modes, canaries, apt, took_ms: begin.elapsed().as_secs_f64() * 1e3, quiet }
}

/// All canaries in one mode.
async fn attempt(asker: &Asker, mode: Mode, stopped: &(dyn Fn() -> bool + Sync)) -> Result<Trial, Unreached> {
    let mut found = ModeProbe { mode, asked: 0, valid: 0, problem: None };
    let mut answers = Vec::new();
    for canary in canaries() {
        if stopped() {
            return Err(stopped_early());
        }
        if found.asked == GIVE_UP && found.valid == 0 {
            break;
        }
        let begin = Instant::now();
        let answer = asker.ask(View { now: &canary.seen, past: &[] }, mode, asker.probe_timeout_ms()).await;
        let latency_ms = begin.elapsed().as_secs_f64() * 1e3;
        found.asked += 1;
        let problem = match answer {
            Ok(proposal) => {
                found.valid += 1;
                let tool = proposal.call.tool();
                let apt = canary.apt.contains(&tool);
                answers.push(CanaryProbe { canary: canary.name, tool: Some(tool), apt, latency_ms });
                continue;
            }
            // An endpoint that knows no `response_format` or `tools` says so with any of these.
            Err(Unanswered::Fault(Fault::Status { status: 400 | 404 | 415 | 422 | 500 | 501, said, .. })) => {
                format!("refused: {said}")
            }
            Err(Unanswered::Fault(fault @ (Fault::Late(_) | Fault::Lost(_) | Fault::Status { .. }))) => {
                return Err(fault.into());
            }
            Err(Unanswered::Fault(Fault::Garbage(why)) | Unanswered::Invalid(why)) => why,
        };
        found.problem.get_or_insert(problem);
        answers.push(CanaryProbe { canary: canary.name, tool: None, apt: false, latency_ms });
    }
    Ok(Trial { found, canaries: answers })
}

/// Whether what a model chooses depends on what it is shown, and on nothing else.
async fn judge(asker: &Asker, trial: &Trial, stopped: &(dyn Fn() -> bool + Sync)) -> Result<Fitness, Unreached> {
    let tools: BTreeSet<_> = trial.canaries.iter().filter_map(|canary| canary.tool).collect();
    if let (1, Some(only)) = (tools.len(), tools.first()) {
        return Ok(Fitness::Degraded(format!("it answers {only} whatever it is shown")));
    }
    for (canary, before) in canaries().iter().zip(&trial.canaries).take(REPEATED) {
        if stopped() {
            return Err(stopped_early());
        }
        let view = View { now: &canary.seen, past: &[] };
        match asker.ask(view, trial.found.mode, asker.probe_timeout_ms()).await {
            Err(Unanswered::Fault(fault @ (Fault::Late(_) | Fault::Lost(_) | Fault::Status { .. }))) => {
                return Err(fault.into());
            }
            Ok(proposal) => {
                let (now, tool) = (proposal.call.tool(), before.tool.unwrap_or("nothing valid"));
                if now != tool {
                    let name = canary.name;
                    return Ok(Fitness::Degraded(format!(
                        "shown the state `{name}` twice it answers {tool}, then {now}"
                    )));
                }
            }
            // Validity has been judged.
            Err(_) => {}
        }
    }
    Ok(Fitness::Healthy)
}
