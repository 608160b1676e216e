//! Where samples come from: journals of decisions, and what `rudder replay --json` printed. It must never mix two
//! tables, nor take a decision before a gap for one with a known effect.

use rudder_agent::classifier::ClassifierError;
use rudder_agent::classifier::file::read_bounded;
use rudder_agent::classifier::samples::{Sample, of_decision};
use rudder_agent::controller::{Past, View};
use rudder_agent::journal::{Decision, FORMAT};
use rudder_agent::pilot::HISTORY;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

/// Largest file of decisions that is read.
pub const BYTES_MAX: u64 = 512 << 20;

/// Samples of one origin, which are never split between fitting and testing but by time.
#[derive(Debug, Clone, PartialEq)]
pub struct Source {
    /// The trace, or the folder of the journals: sources of the same name are one.
    pub name: String,
    /// In the order in which they were recorded.
    pub samples: Vec<Sample>,
}

/// The samples of decisions in the order in which they were made, of each table by itself. What the guard refused or
/// the daemon failed to do was no choice, and the last decision before a gap has no window after it.
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

/// What `rudder replay --controller ... --json` prints, as far as it matters here; with several capacities a list of
/// such.
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
