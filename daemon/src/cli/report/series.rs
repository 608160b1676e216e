//! The numbers of a run over time, per node: from the agent's journals, or asked of Prometheus. Owns what is plotted and where it
//! comes from; it must never draw.

use crate::agent::journal::Decision;
use crate::cli::decisions::{self, arguments, deed};
use crate::cli::{CliError, http};
use serde_json::Value;
use std::path::Path;

/// What is plotted. The journal's numbers are of windows; those of Prometheus are over [`RATE_WINDOW`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Measure {
    HitRate,
    NetworkRows,
    StallShare,
    CachedRows,
    CapacityRows,
    CeilingRows,
    MemoryShare,
}

/// A value at each of some times, in seconds since 1970; a gap is where nothing is known.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Series {
    pub(super) points: Vec<(f64, Option<f64>)>,
}

/// A decision as the report tells it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Told {
    pub(super) node: String,
    pub(super) number: u64,
    pub(super) at: f64,
    pub(super) tool: &'static str,
    pub(super) call: String,
    pub(super) outcome: String,
    pub(super) by: String,
    pub(super) reason: String,
    pub(super) did: String,
    pub(super) expected: &'static str,
    pub(super) hit_rate: Option<(f64, f64)>,
    pub(super) network_share: Option<(f64, f64)>,
    pub(super) as_expected: Option<bool>,
}

/// One node of a run.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct NodeRun {
    pub(super) name: String,
    pub(super) series: Vec<(Measure, Series)>,
    pub(super) decisions: Vec<Told>,
    /// Rows asked of other nodes and rows that crossed the network, where the journal says.
    pub(super) remote_rows: f64,
    pub(super) network_rows: f64,
}

impl Measure {
    pub(super) const ALL: [Measure; 7] = [
        Measure::HitRate,
        Measure::NetworkRows,
        Measure::StallShare,
        Measure::CachedRows,
        Measure::CapacityRows,
        Measure::CeilingRows,
        Measure::MemoryShare,
    ];

    /// Of a window of the journal.
    fn of(self, decision: &Decision) -> Option<f64> {
        let seen = &decision.snapshot;
        match self {
            Measure::HitRate => seen.hit_rate,
            Measure::NetworkRows => (seen.seconds > 0.0).then(|| seen.network_rows as f64 / seen.seconds),
            Measure::StallShare => Some(seen.stall_share),
            Measure::CachedRows => Some(seen.cached_rows as f64),
            Measure::CapacityRows => Some(seen.capacity_rows as f64),
            Measure::CeilingRows => Some(seen.ceiling_rows as f64),
            Measure::MemoryShare => (seen.memory_share > 0.0).then_some(seen.memory_share),
        }
    }

    /// The same asked of Prometheus, by instance.
    pub(super) fn query(self, selector: &str) -> String {
        let rate = |metric: &str, labels: &str| {
            let joined =
                [labels, selector].iter().filter(|part| !part.is_empty()).copied().collect::<Vec<_>>().join(",");
            format!("sum by (instance) (rate({metric}{{{joined}}}[{RATE_WINDOW}]))")
        };
        let gauge = |metric: &str| format!("sum by (instance) ({metric}{{{selector}}})");
        let remote = rate("rudder_fetch_rows_total", "source=~\"cache|staged|peer\"");
        match self {
            Measure::HitRate => format!("{} / {remote}", rate("rudder_fetch_rows_total", "source=\"cache\"")),
            Measure::NetworkRows => rate("rudder_network_rows_total", ""),
            Measure::StallShare => format!("{} / {remote}", rate("rudder_fetch_rows_total", "source=\"peer\"")),
            Measure::CachedRows => gauge("rudder_cache_rows"),
            Measure::CapacityRows => gauge("rudder_cache_capacity_rows"),
            Measure::CeilingRows => gauge("rudder_cache_ceiling_rows"),
            Measure::MemoryShare => {
                format!("{} / ({} > 0)", gauge("rudder_memory_used_bytes"), gauge("rudder_memory_limit_bytes"))
            }
        }
    }
}

/// Over which Prometheus takes rates.
pub(super) const RATE_WINDOW: &str = "1m";

/// The node that a journal is of, by its file: `node0.jsonl`, and its older parts `node0.jsonl.1`.
fn node_of(path: &Path) -> (String, u32) {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let (stem, part) = match name.rsplit_once('.') {
        Some((stem, number)) if number.parse::<u32>().is_ok() => (stem.to_owned(), number.parse().unwrap_or_default()),
        _ => (name, 0),
    };
    (stem.strip_suffix(".jsonl").map_or(stem.clone(), str::to_owned), part)
}

/// Reads journals; files of one node, oldest first, are one run.
///
/// # Errors
/// A journal cannot be read.
pub(super) fn of_journals(paths: &[std::path::PathBuf]) -> Result<Vec<NodeRun>, CliError> {
    let mut parts: Vec<(String, u32, &Path)> = paths
        .iter()
        .map(|path| {
            let (node, part) = node_of(path);
            (node, part, path.as_path())
        })
        .collect();
    // The higher the number of a rotated file, the older it is.
    parts.sort_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)));
    let mut nodes: Vec<(String, Vec<Decision>)> = Vec::new();
    for (node, _, path) in parts {
        let read = decisions::read(path)?;
        match nodes.last_mut().filter(|(name, _)| *name == node) {
            Some((_, all)) => all.extend(read),
            None => nodes.push((node, read)),
        }
    }
    Ok(nodes.into_iter().map(|(name, decisions)| of_decisions(name, &decisions)).collect())
}

fn of_decisions(name: String, decisions: &[Decision]) -> NodeRun {
    let series = |measure: Measure| {
        let mut points = Vec::with_capacity(decisions.len());
        let mut last = 0;
        for decision in decisions {
            // Numbers that go back are another daemon's: its line does not go on from the one before.
            if decision.number <= last
                && let Some((at, _)) = points.last().copied()
            {
                points.push((at, None));
            }
            last = decision.number;
            points.push((decision.time_ms as f64 / 1e3, measure.of(decision)));
        }
        (measure, Series { points })
    };
    let sum = |of: fn(&Decision) -> u64| decisions.iter().map(of).sum::<u64>() as f64;
    NodeRun {
        series: Measure::ALL.into_iter().map(series).collect(),
        decisions: decisions.iter().map(|decision| told(&name, decision)).collect(),
        remote_rows: sum(|decision| decision.snapshot.remote_rows),
        network_rows: sum(|decision| decision.snapshot.network_rows),
        name,
    }
}

fn told(node: &str, decision: &Decision) -> Told {
    let did = decision.answer.iter().flat_map(|answer| &answer.tables).map(deed).collect::<Vec<_>>().join("; ");
    let mut reason = decision.reason.clone();
    if let Some(fallback) = &decision.fallback {
        reason = format!("{} had no answer ({fallback}); {reason}", decision.controller);
    }
    if let Some(note) = &decision.note {
        reason = format!("{reason}; {note}");
    }
    Told {
        node: node.to_owned(),
        number: decision.number,
        at: decision.time_ms as f64 / 1e3,
        tool: decision.call.tool(),
        call: arguments(&decision.call),
        outcome: decision.outcome.clone(),
        by: decision.decided_by.clone(),
        reason,
        did,
        expected: decision.expected.name(),
        hit_rate: decision.effect.map(|effect| effect.hit_rate),
        network_share: decision.effect.map(|effect| effect.network_share),
        as_expected: decision.effect.map(|effect| effect.as_expected),
    }
}

/// Where and what to ask of Prometheus.
#[derive(Debug, Clone)]
pub(super) struct Range {
    pub(super) url: String,
    /// Labels that samples must have, as in `job="rudderd"`; may be empty.
    pub(super) selector: String,
    pub(super) start: f64,
    pub(super) end: f64,
    pub(super) step: f64,
}

/// Asks Prometheus for every measure.
///
/// # Errors
/// It cannot be reached, refuses, or has no samples of any daemon in that time.
pub(super) fn of_prometheus(range: &Range) -> Result<Vec<NodeRun>, CliError> {
    let mut nodes: Vec<NodeRun> = Vec::new();
    for measure in Measure::ALL {
        let Range { url, selector, start, end, step } = range;
        let query = encoded(&measure.query(selector));
        let path = format!("/api/v1/query_range?query={query}&start={start}&end={end}&step={step}");
        let answer: Value = serde_json::from_str(&http::ask(url, None, &path, None)?)
            .map_err(|error| CliError::context(format!("{url} answers no JSON: is it Prometheus?"), error))?;
        for (instance, series) in matrix(&answer).map_err(|problem| CliError::message(format!("{url}: {problem}")))? {
            let at = nodes.iter().position(|node| node.name == instance).unwrap_or_else(|| {
                nodes.push(NodeRun { name: instance.clone(), ..NodeRun::default() });
                nodes.len() - 1
            });
            nodes[at].series.push((measure, series.with_gaps(2.5 * step)));
        }
    }
    if nodes.is_empty() {
        let text = format!("{} has no sample of a rudderd in that time: see --start, --end and --selector", range.url);
        return Err(CliError::message(text));
    }
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(nodes)
}

/// The series of an answer of `query_range`, by instance.
fn matrix(answer: &Value) -> Result<Vec<(String, Series)>, String> {
    if answer["status"] != "success" {
        return Err(answer["error"].as_str().unwrap_or("an answer without status `success`").to_owned());
    }
    let result = answer.pointer("/data/result").and_then(Value::as_array).ok_or("an answer without data.result")?;
    let point = |sample: &Value| {
        let value = sample.get(1)?.as_str()?.parse::<f64>().ok()?;
        Some((sample.get(0)?.as_f64()?, Some(value).filter(|value| value.is_finite())))
    };
    let series = |one: &Value| {
        let instance = one.pointer("/metric/instance").and_then(Value::as_str).unwrap_or("rudderd").to_owned();
        let points = one["values"].as_array().into_iter().flatten().filter_map(point).collect();
        (instance, Series { points })
    };
    Ok(result.iter().map(series).collect())
}

impl Series {
    /// With a gap wherever two points are further apart than `most` seconds: Prometheus leaves out what it does not know.
    fn with_gaps(self, most: f64) -> Self {
        let mut points: Vec<(f64, Option<f64>)> = Vec::with_capacity(self.points.len());
        for point in self.points {
            if let Some((before, Some(_))) = points.last().copied()
                && point.0 - before > most
            {
                points.push((before, None));
            }
            points.push(point);
        }
        Self { points }
    }
}

/// `text` as part of a URL's query.
fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(byte as char),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rotated_journals_are_one_node_oldest_first() {
        assert_eq!(node_of(Path::new("/j/epoch-0-node1.jsonl")), ("epoch-0-node1".to_owned(), 0));
        assert_eq!(node_of(Path::new("decisions.jsonl.12")), ("decisions".to_owned(), 12));
        assert_eq!(node_of(Path::new("journal")), ("journal".to_owned(), 0));
    }

    #[test]
    fn answers_of_prometheus_are_read_by_instance() {
        let answer = json!({"status": "success", "data": {"resultType": "matrix", "result": [
            {"metric": {"instance": "a:7401"}, "values": [[1.0, "0.5"], [2.0, "NaN"], [9.0, "0.7"], [10.0, "0.8"]]},
            {"metric": {}, "values": []},
        ]}});
        let found = matrix(&answer).unwrap();
        assert_eq!(found[0].0, "a:7401");
        assert_eq!(found[0].1.points, [(1.0, Some(0.5)), (2.0, None), (9.0, Some(0.7)), (10.0, Some(0.8))]);
        assert_eq!(found[1].0, "rudderd");
        let gaps = Series { points: vec![(1.0, Some(1.0)), (9.0, Some(2.0))] }.with_gaps(2.5);
        assert_eq!(gaps.points, [(1.0, Some(1.0)), (1.0, None), (9.0, Some(2.0))]);
        let refused = json!({"status": "error", "error": "parse error at char 3"});
        assert_eq!(matrix(&refused).unwrap_err(), "parse error at char 3");
        assert!(matrix(&json!({"status": "success"})).is_err());
    }

    #[test]
    fn queries_carry_the_selector() {
        let query = Measure::HitRate.query("job=\"gnn\"");
        assert!(query.contains("rudder_fetch_rows_total{source=\"cache\",job=\"gnn\"}[1m]"), "{query}");
        assert_eq!(Measure::CachedRows.query(""), "sum by (instance) (rudder_cache_rows{})");
        assert_eq!(encoded("a=\"b|c\" "), "a%3D%22b%7Cc%22%20");
    }
}
