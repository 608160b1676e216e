//! What a look at a node or a daemon found: one line per matter, how bad it is, and what to do. Owns the words of the
//! three verdicts and how they are printed; it must never find anything itself.

use super::style::{Tone, paint};
use serde::Serialize;
use std::fmt::Write as _;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Severity {
    /// As it should be.
    Ok,
    /// It works, but not as well as it could, or not for long.
    Warning,
    /// It does not work.
    Problem,
}

impl Severity {
    fn word(self) -> (&'static str, Tone) {
        match self {
            Severity::Ok => ("ok", Tone::Good),
            Severity::Warning => ("warning", Tone::Warn),
            Severity::Problem => ("PROBLEM", Tone::Bad),
        }
    }
}

/// One matter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// What was looked at.
    pub(super) check: String,
    pub(super) verdict: Severity,
    /// What was found.
    pub(super) found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) mend: Option<String>,
}

impl Finding {
    pub(super) fn ok(check: impl Into<String>, found: impl Into<String>) -> Self {
        Self { check: check.into(), verdict: Severity::Ok, found: found.into(), mend: None }
    }

    pub(super) fn warning(check: impl Into<String>, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { check: check.into(), verdict: Severity::Warning, found: found.into(), mend: Some(mend.into()) }
    }

    pub(super) fn problem(check: impl Into<String>, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { check: check.into(), verdict: Severity::Problem, found: found.into(), mend: Some(mend.into()) }
    }
}

/// The worst verdict.
pub(super) fn worst(findings: &[Finding]) -> Severity {
    findings.iter().map(|finding| finding.verdict).max().unwrap_or(Severity::Ok)
}

/// A line for each, and one with what to do.
pub(super) fn listed(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.check.chars().count()).max().unwrap_or(0);
    let mut out = String::new();
    for Finding { check, verdict, found, mend } in findings {
        let (word, tone) = verdict.word();
        let word = paint(tone, &format!("{word:<8}"));
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(out, "{word} {check:<width$}  {found}");
        if let Some(mend) = mend {
            let _ = writeln!(out, "{:width$}  {}", "", paint(Tone::Strong, &format!("-> {mend}")), width = 9 + width);
        }
    }
    out
}

/// How many of each there are, in words.
pub(super) fn counted(findings: &[Finding]) -> String {
    let number = |verdict| findings.iter().filter(|finding| finding.verdict == verdict).count() as u64;
    let (problems, warnings) = (number(Severity::Problem), number(Severity::Warning));
    let text = match (problems, warnings) {
        (0, 0) => return paint(Tone::Good, "nothing is wrong"),
        (0, _) => super::style::plural(warnings, "warning"),
        (_, 0) => super::style::plural(problems, "problem"),
        _ => format!("{}, {}", super::style::plural(problems, "problem"), super::style::plural(warnings, "warning")),
    };
    paint(if problems > 0 { Tone::Bad } else { Tone::Warn }, &text)
}

#[cfg(test)]
mod tests {
    use super::super::style::plain;
    use super::*;

    #[test]
    fn a_finding_says_what_to_do() {
        let findings = [
            Finding::ok("memory", "3 GiB left"),
            Finding::warning("thp", "never", "echo madvise"),
            Finding::problem("peer 1", "no answer", "start it"),
        ];
        let text = plain(&listed(&findings));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "ok       memory  3 GiB left");
        assert_eq!(lines[1..3], ["warning  thp     never", "                 -> echo madvise"]);
        assert_eq!(lines[3], "PROBLEM  peer 1  no answer");
        assert_eq!(plain(&counted(&findings)), "1 problem, 1 warning");
        assert_eq!(worst(&findings), Severity::Problem);
        assert_eq!((plain(&counted(&findings[..1])), worst(&[])), ("nothing is wrong".to_owned(), Severity::Ok));
    }
}
