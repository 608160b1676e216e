//! Runs out of the agent's journals: which files are of one node, what that node is called, and what it decided.
//! Reading a file is [`crate::journal`]'s.

use super::series::{Measure, NodeRun, Series, Told};
use crate::decisions::{arguments, deed};
use crate::{CliError, journal};
use rudder_agent::journal::Decision;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A file of a journal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Part {
    /// Folder, as far as the system knows where it really is.
    folder: PathBuf,
    /// Name without endings: `node0` of `node0.jsonl`, and of its older parts `node0.jsonl.1`.
    stem: String,
    /// The higher the number of a rotated file, the older it is: reversed, so that the oldest comes first.
    age: std::cmp::Reverse<u32>,
    path: PathBuf,
}

impl Part {
    fn of(path: &Path) -> Self {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let rotated = name.rsplit_once('.').and_then(|(stem, number)| Some((stem.to_owned(), number.parse().ok()?)));
        let (name, age) = rotated.unwrap_or((name, 0));
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Self {
            folder: folder.canonicalize().unwrap_or_else(|_| folder.to_owned()),
            stem: name.strip_suffix(".jsonl").map_or(name.clone(), str::to_owned),
            age: std::cmp::Reverse(age),
            path: path.to_owned(),
        }
    }

    fn is_of(&self, other: &Self) -> bool {
        (&self.folder, &self.stem) == (&other.folder, &other.stem)
    }

    /// The stem with this many of the folders above it, as `host3/decisions`.
    fn name(&self, folders: usize) -> String {
        let mut names: Vec<String> =
            self.folder.iter().rev().take(folders).map(|name| name.to_string_lossy().into_owned()).collect();
        names.reverse();
        names.push(self.stem.clone());
        names.join("/")
    }
}

/// The files by node, oldest first, each node under a name that no other has: every daemon calls its journal alike, so
/// where those of several were brought together, the folders tell them apart.
fn nodes(paths: &[PathBuf]) -> Vec<(String, Vec<Part>)> {
    let mut parts: Vec<Part> = paths.iter().map(|path| Part::of(path)).collect();
    parts.sort();
    parts.dedup_by(|a, b| a.is_of(b) && a.age == b.age);
    let groups: Vec<Vec<Part>> = parts.chunk_by(Part::is_of).map(<[Part]>::to_vec).collect();
    let firsts: Vec<Part> = groups.iter().filter_map(|group| group.first().cloned()).collect();
    let name = |one: &Part| {
        let alone =
            |folders: &usize| firsts.iter().all(|other| other.is_of(one) || other.name(*folders) != one.name(*folders));
        one.name((0..=one.folder.iter().count()).find(alone).unwrap_or_default())
    };
    let mut named: Vec<(String, Vec<Part>)> = firsts.iter().map(name).zip(groups).collect();
    named.sort_by(|a, b| a.0.cmp(&b.0));
    named
}

/// Reads journals, of them the decisions within a time, if one is given.
///
/// # Errors
/// A journal cannot be read.
pub(super) fn of_journals(paths: &[PathBuf], within: Option<(f64, f64)>) -> Result<Vec<NodeRun>, CliError> {
    let is_within = |decision: &Decision| {
        within.is_none_or(|(start, end)| (start..=end).contains(&(decision.time_ms as f64 / 1e3)))
    };
    let mut runs = Vec::new();
    for (name, parts) in nodes(paths) {
        let mut decisions = Vec::new();
        for part in parts {
            decisions.extend(journal::read(&part.path)?.into_iter().filter(is_within));
        }
        runs.extend(of_node(&name, decisions));
    }
    Ok(runs)
}

/// The runs of a node's tables, each by itself; a node that names no table has one.
fn of_node(name: &str, decisions: Vec<Decision>) -> Vec<NodeRun> {
    let mut tables: BTreeMap<Option<String>, Vec<Decision>> = BTreeMap::new();
    for decision in decisions {
        tables.entry(decision.table.clone()).or_default().push(decision);
    }
    if tables.is_empty() {
        tables.insert(None, Vec::new());
    }
    let run = |(table, decisions): (Option<String>, Vec<Decision>)| {
        of_decisions(table.map_or_else(|| name.to_owned(), |table| format!("{name} {table}")), &decisions)
    };
    tables.into_iter().map(run).collect()
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
        decisions: decisions.iter().map(|decision| told_decision(&name, decision)).collect(),
        remote_rows: sum(|decision| decision.snapshot.remote_rows),
        network_rows: sum(|decision| decision.snapshot.network_rows),
        name,
    }
}

fn told_decision(node: &str, decision: &Decision) -> Told {
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
        as_expected: decision.came_true(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(paths: &[&str]) -> Vec<(String, Vec<String>)> {
        let paths: Vec<PathBuf> = paths.iter().map(PathBuf::from).collect();
        let text = |part: Part| part.path.to_string_lossy().into_owned();
        nodes(&paths).into_iter().map(|(name, parts)| (name, parts.into_iter().map(text).collect())).collect()
    }

    #[test]
    fn rotated_files_are_one_node_oldest_first() {
        let found = named(&["/j/n1.jsonl", "/j/n0.jsonl", "/j/n0.jsonl.1", "/j/n0.jsonl.12", "/j/n0.jsonl"]);
        assert_eq!(found[0].0, "n0");
        assert_eq!(found[0].1, ["/j/n0.jsonl.12", "/j/n0.jsonl.1", "/j/n0.jsonl"], "and none twice");
        assert_eq!((found[1].0.as_str(), found.len()), ("n1", 2));
        assert_eq!(named(&["journal"])[0].0, "journal");
    }

    #[test]
    fn files_of_the_same_name_are_told_apart_by_their_folders() {
        let found =
            named(&["/r/h1/j/decisions.jsonl", "/r/h0/j/decisions.jsonl", "/r/h0/j/decisions.jsonl.1", "/r/x.jsonl"]);
        let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["h0/j/decisions", "h1/j/decisions", "x"], "no more folders than are needed");
        assert_eq!(found[0].1, ["/r/h0/j/decisions.jsonl.1", "/r/h0/j/decisions.jsonl"]);
    }
}
