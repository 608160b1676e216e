//! Reads the agent's journal files, for every subcommand that does. A crash or a full disk may have torn a line
//! anywhere in a file that was written on later, so that one bad line must not cost the others: it is skipped, and
//! named on standard error. Owns that rule; what a decision is belongs to [`rudder_agent::journal`].

use super::{CliError, style};
use rudder_agent::journal::{Decision, FORMAT};
use std::path::Path;

/// Bad lines that are named; beyond, their number says enough.
const NAMED_MAX: usize = 3;

/// The lines of a file.
#[derive(Debug, Default)]
struct Lines {
    decisions: Vec<Decision>,
    /// Numbers, from 1, of those that hold no decision, with what is wrong.
    bad: Vec<(usize, String)>,
}

/// The decisions of a journal file. Warns on standard error of lines that hold none.
///
/// # Errors
/// It cannot be read, or has lines and not one of them is a decision; the message names file and line.
pub(super) fn read(path: &Path) -> Result<Vec<Decision>, CliError> {
    let bytes =
        std::fs::read(path).map_err(|error| CliError::context(format!("cannot read {}", path.display()), error))?;
    let lines = parse(&bytes);
    match (lines.bad.first(), lines.decisions.is_empty()) {
        (Some((line, problem)), true) => Err(CliError::message(format!("{}:{line}: {problem}", path.display()))),
        _ => {
            complaints(path, &lines).iter().for_each(|text| style::warn(text));
            Ok(lines.decisions)
        }
    }
}

/// Line by line, of bytes: what a crash leaves behind may be no text.
fn parse(bytes: &[u8]) -> Lines {
    let mut lines = Lines::default();
    for (at, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        if line.trim_ascii().is_empty() {
            continue;
        }
        match decision(line) {
            Ok(decision) => lines.decisions.push(decision),
            Err(problem) => lines.bad.push((at + 1, problem)),
        }
    }
    lines
}

fn decision(line: &[u8]) -> Result<Decision, String> {
    let decision: Decision = serde_json::from_slice(line).map_err(|error| format!("no decision: {error}"))?;
    match decision.format {
        FORMAT => Ok(decision),
        other => Err(format!("a decision of format {other}; this program reads format {FORMAT}")),
    }
}

/// What is to be said of the bad lines.
fn complaints(path: &Path, lines: &Lines) -> Vec<String> {
    let path = path.display();
    let named = |(line, problem): &(usize, String)| format!("{path}:{line} is skipped: {problem}");
    let mut said: Vec<String> = lines.bad.iter().take(NAMED_MAX).map(named).collect();
    if lines.bad.len() > NAMED_MAX {
        let all = lines.bad.len() + lines.decisions.len();
        said.push(format!("{path}: {} of {all} lines are skipped in all", lines.bad.len()));
    }
    said
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use rudder_agent::controller::Impact;
    use rudder_agent::snapshot::Snapshot;
    use rudder_agent::tools::{Hold, ToolCall};

    /// A line of a journal.
    pub(crate) fn line(number: u64) -> String {
        let decision = Decision {
            format: FORMAT,
            number,
            time_ms: number,
            node: None,
            table: None,
            controller: "rules".to_owned(),
            decided_by: "rules".to_owned(),
            snapshot: Snapshot { window: number, hit_rate: Some(0.5), ..Snapshot::default() },
            proposed: ToolCall::Hold(Hold {}),
            reason: "steady".to_owned(),
            expected: Impact::Same,
            outcome: "done".to_owned(),
            note: None,
            fallback: None,
            call: ToolCall::Hold(Hold {}),
            answer: None,
            latency_ms: 0.5,
            effect: None,
        };
        serde_json::to_string(&decision).unwrap()
    }

    #[test]
    fn a_torn_line_costs_no_other() {
        // Torn by a full disk and written on by the next daemon; zeros where a crash lost a block; cut short at the
        // end.
        let (one, torn) = (line(1), line(2));
        let mut bytes = format!("{one}\n{}{}\n\n", &torn[..60], line(3)).into_bytes();
        bytes.extend([0, 0xff, b'\n']);
        bytes.extend(format!("{}\n{}", line(4), &torn[..40]).into_bytes());
        let lines = parse(&bytes);
        assert_eq!(lines.decisions.iter().map(|decision| decision.number).collect::<Vec<_>>(), [1, 4]);
        assert_eq!(lines.bad.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [2, 4, 6]);
        let said = complaints(Path::new("j"), &lines);
        assert!(said.len() == 3 && said[0].starts_with("j:2 is skipped: no decision: "), "{said:?}");
        let many = parse("x\n".repeat(9).as_bytes());
        assert_eq!(complaints(Path::new("j"), &many)[3], "j: 9 of 9 lines are skipped in all");
    }

    #[test]
    fn a_file_without_any_decision_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        std::fs::write(&path, "nonsense\n").unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("journal:1: no decision"));
        std::fs::write(&path, line(1).replace("\"format\":1", "\"format\":9")).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("format 9"));
        std::fs::write(&path, "").unwrap();
        assert_eq!(read(&path).unwrap(), []);
        assert!(read(&dir.path().join("absent")).unwrap_err().to_string().contains("cannot read"));
    }
}
