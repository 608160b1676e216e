//! What classifiers learn from: decisions with their measured effects, out of journals and out of `rudder replay --json`. Owns the
//! label.
//!
//! **The label.** A decision's *gain* is the paper's `z(change of the hit rate) - z(change of rows fetched again) - z(change of the
//! fetch time)`, from the window before it to the window after it, z-scored over the samples of the task. Rows fetched again are
//! counted as all rows over the network per remote row, those that the tool itself brought included; the fetch time is the share
//! of remote rows that a trainer waited for, which a replay knows as well as a daemon does. A gain above 0 *helped*. The
//! label of a sample is yes, *acting was worth it*, if an action helped or if holding did not: where actions were drawn evenly
//! (`explore:SEED`), its probability exceeds one half exactly where acting helps more often than holding does (class variable
//! transformation of uplift modelling, Jaskowski and Jaroszewicz 2012).

use super::features::{Features, features, may_grow, may_replace};
use super::models::all_finite;
use super::{ClassifierError, Task};
use crate::agent::controller::{Past, View};
use crate::agent::journal::{Decision, FORMAT};
use crate::agent::pilot::HISTORY;
use crate::agent::snapshot::Snapshot;
use crate::tools::{Evict, Grow, ToolCall};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// Largest file of decisions that is read.
pub const BYTES_MAX: u64 = 512 << 20;

/// One decision where there was a choice, and what it did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// The choice.
    pub task: Task,
    /// What was seen.
    pub features: Features,
    /// Whether the action was taken.
    pub acted: bool,
    /// How far: the fraction that was replaced, the factor of growth; 0 where it was not taken.
    pub amount: f64,
    /// Change of the hit rate.
    pub hit_rate_change: f64,
    /// Change of the rows over the network per remote row.
    pub network_change: f64,
    /// Change of the share of remote rows that a trainer waited for.
    pub wait_change: f64,
    /// When the decision was made, on the clock of its source.
    pub begin: f64,
    /// When the window after it was over.
    pub end: f64,
}

/// Samples of one origin, which are never split between fitting and testing but by time.
#[derive(Debug, Clone, PartialEq)]
pub struct Source {
    /// The trace, or the folder of the journals: sources of the same name are one.
    pub name: String,
    /// In the order in which they were recorded.
    pub samples: Vec<Sample>,
}

/// Makes gains of changes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gain {
    /// Mean and standard deviation of the change of the hit rate.
    pub hit_rate: (f64, f64),
    /// Mean and standard deviation of the change of the network share.
    pub network: (f64, f64),
    /// Mean and standard deviation of the change of the share waited for.
    pub wait: (f64, f64),
}

/// Smallest standard deviation that counts as one.
const DEVIATION_MIN: f64 = 1e-12;

/// Mean and standard deviation; the latter 1 where all are alike.
#[must_use]
pub fn moments(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let count = values.clone().count().max(1) as f64;
    let mean = values.clone().sum::<f64>() / count;
    let deviation = (values.map(|value| (value - mean).powi(2)).sum::<f64>() / count).sqrt();
    (mean, if deviation > DEVIATION_MIN { deviation } else { 1.0 })
}

impl Gain {
    /// That of these samples.
    #[must_use]
    pub fn of(samples: &[Sample]) -> Self {
        Self {
            hit_rate: moments(samples.iter().map(|sample| sample.hit_rate_change)),
            network: moments(samples.iter().map(|sample| sample.network_change)),
            wait: moments(samples.iter().map(|sample| sample.wait_change)),
        }
    }

    /// That these are moments of changes, which were measured.
    pub(super) fn check(&self) -> Result<(), String> {
        let Self { hit_rate, network, wait } = self;
        for (name, (mean, deviation)) in [("hit_rate", hit_rate), ("network", network), ("wait", wait)] {
            all_finite(name, &[*mean, *deviation], 2)?;
            if *deviation <= DEVIATION_MIN {
                return Err(format!("{name}: a deviation of {deviation}"));
            }
        }
        Ok(())
    }

    /// Whether what was done helped.
    #[must_use]
    pub fn helped(&self, sample: &Sample) -> bool {
        let z = |value: f64, (mean, deviation): (f64, f64)| (value - mean) / deviation;
        let costs = z(sample.network_change, self.network) + z(sample.wait_change, self.wait);
        z(sample.hit_rate_change, self.hit_rate) - costs > 0.0
    }

    /// The label: whether acting was worth it.
    #[must_use]
    pub fn label(&self, sample: &Sample) -> bool {
        self.helped(sample) == sample.acted
    }
}

/// The samples that one decision gives, made after the window of `view` and before that of `after`, at `times`: none where there
/// was no choice or a window without remote rows, two where there were two choices and it held.
#[must_use]
pub fn of_decision(view: View<'_>, call: &ToolCall, after: &Snapshot, times: (f64, f64)) -> Vec<Sample> {
    let now = view.now;
    let (Some(hit_rate), Some(hit_rate_after)) = (now.hit_rate, after.hit_rate) else { return Vec::new() };
    let sample = |task, acted, amount| Sample {
        task,
        features: features(view),
        acted,
        amount,
        hit_rate_change: hit_rate_after - hit_rate,
        network_change: after.network_share() - now.network_share(),
        wait_change: after.stall_share - now.stall_share,
        begin: times.0,
        end: times.1,
    };
    let (may_grow, may_replace) = (may_grow(view.now), may_replace(view));
    let mut samples = Vec::new();
    match call {
        ToolCall::Evict(Evict { fraction, forget: false, .. }) if may_replace => {
            samples.push(sample(Task::Replace, true, *fraction));
        }
        ToolCall::Grow(Grow { factor: Some(factor), .. }) if may_grow && *factor > 1.0 => {
            samples.push(sample(Task::Grow, true, *factor));
        }
        ToolCall::Hold(_) => {
            samples.extend(may_replace.then(|| sample(Task::Replace, false, 0.0)));
            samples.extend(may_grow.then(|| sample(Task::Grow, false, 0.0)));
        }
        _ => {}
    }
    let finite = |sample: &Sample| sample.hit_rate_change + sample.network_change + sample.wait_change;
    samples.retain(|sample| finite(sample).is_finite());
    samples
}

/// The samples of decisions in the order in which they were made, of each table by itself. What the guard refused or the daemon
/// failed to do was no choice, and the last decision before a gap has no window after it.
#[must_use]
pub fn of_decisions(decisions: &[Decision]) -> Vec<Sample> {
    let mut tables: BTreeMap<(Option<u16>, Option<&str>), Vec<&Decision>> = BTreeMap::new();
    for decision in decisions {
        tables.entry((decision.node, decision.table.as_deref())).or_default().push(decision);
    }
    tables.values().flat_map(|decisions| of_table(decisions)).collect()
}

fn of_table(decisions: &[&Decision]) -> Vec<Sample> {
    let mut samples = Vec::new();
    let mut past: Vec<Past> = Vec::new();
    for (at, decision) in decisions.iter().enumerate() {
        let next = decisions.get(at + 1).copied().filter(|next| follows(decision, next));
        let view = View { now: &decision.snapshot, past: &past };
        if let Some(next) = next.filter(|_| decision.was_done()) {
            let times = (decision.time_ms as f64, next.time_ms as f64);
            samples.extend(of_decision(view, &decision.call, &next.snapshot, times));
        }
        if past.len() >= HISTORY {
            past.remove(0);
        }
        past.push(Past {
            effect: decision.effect,
            ..Past::new(decision.snapshot, decision.call.clone(), decision.expected)
        });
        if next.is_none() {
            past.clear();
        }
    }
    samples
}

/// Whether `next` was decided one window after `decision`, by the same daemon.
fn follows(decision: &Decision, next: &Decision) -> bool {
    next.number > decision.number && next.snapshot.window == decision.snapshot.window + 1
}

/// What `rudder replay --controller ... --json` prints, as far as it matters here; with several capacities a list of such.
#[derive(Deserialize)]
struct Replay {
    trace: String,
    results: Vec<Run>,
}

#[derive(Deserialize)]
struct Run {
    decisions: Vec<Decision>,
}

/// The samples of a file: a journal, one decision a line, or the result of a replay under controllers.
///
/// Journals of one folder are one source: those of a run's nodes, and the parts into which a journal was rotated.
///
/// # Errors
/// [`ClassifierError`] that names file and line.
pub fn read(path: &Path) -> Result<Source, ClassifierError> {
    let text = read_bounded(path, BYTES_MAX, "journals rotate: give several files")?;
    let first = text.lines().next().unwrap_or_default().trim();
    if matches!(first, "{" | "[") || first.contains("\"results\"") {
        let one = || serde_json::from_str::<Replay>(&text).map(|replay| vec![replay]);
        let replays = if first.starts_with('[') { serde_json::from_str(&text) } else { one() };
        let replays = replays.map_err(|error| ClassifierError::Journal {
            path: path.to_owned(),
            line: error.line(),
            problem: format!("no result of a replay with --controller: {error}"),
        })?;
        let name = replays.first().map(|replay| of_trace(&replay.trace)).unwrap_or_default();
        let runs = replays.iter().flat_map(|replay| &replay.results);
        return Ok(Source { name, samples: runs.flat_map(|run| of_decisions(&run.decisions)).collect() });
    }
    let mut decisions = Vec::new();
    for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        decisions.push(decision(line).map_err(|problem| ClassifierError::Journal {
            path: path.to_owned(),
            line: at + 1,
            problem,
        })?);
    }
    let whole = path.canonicalize().map_err(|source| ClassifierError::Read { path: path.to_owned(), source })?;
    let folder = whole.parent().unwrap_or(&whole);
    Ok(Source { name: format!("journals in {}", folder.display()), samples: of_decisions(&decisions) })
}

/// The source of what was replayed of the trace in a folder of this name.
#[must_use]
pub fn of_trace(name: &str) -> String {
    format!("trace {name}")
}

fn decision(line: &str) -> Result<Decision, String> {
    let decision: Decision = serde_json::from_str(line).map_err(|error| format!("no decision: {error}"))?;
    if decision.format == FORMAT {
        Ok(decision)
    } else {
        Err(format!("a decision of format {}, this build reads format {FORMAT}", decision.format))
    }
}

/// The text of a file that is not larger than `most` bytes.
///
/// # Errors
/// [`ClassifierError::TooLarge`] before anything is read, or [`ClassifierError::Read`].
pub(super) fn read_bounded(path: &Path, most: u64, advice: &'static str) -> Result<String, ClassifierError> {
    use std::io::Read as _;
    let failed = |source| ClassifierError::Read { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(failed)?;
    let bytes = file.metadata().map_err(failed)?.len();
    let too_large = |bytes| ClassifierError::TooLarge { path: path.to_owned(), bytes, most, advice };
    if bytes > most {
        return Err(too_large(bytes));
    }
    // What has no size beforehand, or grows meanwhile, is bounded too.
    let mut text = String::new();
    file.take(most + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > most { Err(too_large(text.len() as u64)) } else { Ok(text) }
}
