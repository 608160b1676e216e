//! `rudder decisions`: the agent's journal, read like a story: what was seen, who decided what and why, what the guard said, and
//! what came of it. From a running daemon, or from journal files. It owns the words.

#![allow(clippy::print_stdout)]

use super::{CliError, http};
use crate::agent::journal::{Decision, FORMAT};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Arguments of `rudder decisions`.
#[derive(Debug, clap::Args)]
pub struct DecisionsArgs {
    /// Journal files, oldest first; without any, a running daemon is asked
    #[arg(value_name = "JOURNAL")]
    journals: Vec<PathBuf>,
    /// Address of the daemon's HTTP interface (its `admin.listen`)
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:7401")]
    admin: String,
    /// File with the bearer token, where the daemon has an `admin.token_file`
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The last so many decisions
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: usize,
    /// Leave out decisions to hold that nobody objected to
    #[arg(long)]
    actions: bool,
    /// Print the decisions as JSON
    #[arg(long)]
    json: bool,
}

/// Prints the last decisions.
///
/// # Errors
/// If the daemon cannot be reached, or a journal cannot be read; the message names file and line.
pub fn run(args: &DecisionsArgs) -> Result<(), CliError> {
    let mut decisions = if args.journals.is_empty() {
        let path = format!("/v1/decisions?limit={}", args.limit);
        let text = http::ask(&args.admin, args.token_file.as_deref(), &path, None)?;
        serde_json::from_str(&text).map_err(|error| CliError::context("the daemon's answer is not JSON", error))?
    } else {
        let mut all: Vec<Decision> = Vec::new();
        for journal in &args.journals {
            all.extend(read(journal)?);
        }
        all
    };
    if args.actions {
        decisions.retain(|decision| decision.call.tool() != "hold" || decision.outcome != "done");
    }
    let skip = decisions.len().saturating_sub(args.limit);
    let last = &decisions[skip..];
    if args.json {
        println!("{}", serde_json::to_string_pretty(last)?);
    } else if last.is_empty() {
        println!("no decisions yet");
    } else {
        last.iter().for_each(|decision| println!("{}", story(decision)));
    }
    Ok(())
}

/// The decisions of a journal file. A last line that was cut short, by a crash or a full disk, is left out.
fn read(path: &Path) -> Result<Vec<Decision>, CliError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| CliError::context(format!("cannot read {}", path.display()), error))?;
    let lines: Vec<&str> = text.lines().collect();
    let mut decisions = Vec::with_capacity(lines.len());
    for (at, line) in lines.iter().enumerate() {
        match serde_json::from_str::<Decision>(line) {
            Ok(decision) if decision.format == FORMAT => decisions.push(decision),
            Ok(decision) => {
                let (found, place) = (decision.format, format!("{}:{}", path.display(), at + 1));
                let text = format!("{place}: a journal of format {found}; this program reads format {FORMAT}");
                return Err(CliError::message(text));
            }
            Err(_) if at + 1 == lines.len() && !text.ends_with('\n') => {}
            Err(error) => return Err(CliError::context(format!("{}:{}", path.display(), at + 1), error)),
        }
    }
    Ok(decisions)
}

/// One decision in a few lines.
fn story(decision: &Decision) -> String {
    let Decision { number, snapshot, reason, outcome, call, .. } = decision;
    let mut text = format!("#{number}  window {}, {:.2} epochs\n", snapshot.window, snapshot.epochs);
    // Writing to a String cannot fail, here and below.
    let mut say = |what: &str, words: &str| _ = writeln!(text, "    {what:9} {words}");
    say("saw", &snapshot.in_words());
    if let Some(fallback) = &decision.fallback {
        say("fallback", &format!("{} had no answer ({fallback})", decision.controller));
    }
    let who = format!("{} in {:.1} ms", decision.decided_by, decision.latency_ms);
    say("decided", &format!("{} ({who}): {reason}", arguments(&decision.proposed)));
    if let Some(note) = &decision.note {
        say(outcome, note);
    }
    if call.tool() != "hold" {
        let answer = decision.answer.as_ref().map(|answer| serde_json::to_string(&answer.tables).unwrap_or_default());
        say("did", &format!("{} {}", arguments(call), answer.unwrap_or_default()));
    }
    if let Some(effect) = decision.effect {
        let percent = |(before, after): (f64, f64)| format!("{:.1}% to {:.1}%", 100.0 * before, 100.0 * after);
        let verdict = if effect.as_expected { "as expected" } else { "not as expected" };
        let expected = decision.expected.name();
        say(
            "effect",
            &format!(
                "hit rate {}, network {} of remote rows; {verdict} ({expected})",
                percent(effect.hit_rate),
                percent(effect.network_share)
            ),
        );
    }
    text.truncate(text.trim_end().len());
    text
}

/// A call with its arguments, as a person would say it.
fn arguments(call: &crate::tools::ToolCall) -> String {
    let fields = serde_json::to_value(call).unwrap_or_default();
    let of = |(name, value): (&String, &serde_json::Value)| match value {
        serde_json::Value::Null => None,
        _ if name == "tool" => None,
        value if value.is_f64() => Some(format!("{name}={:.3}", value.as_f64().unwrap_or_default())),
        value => Some(format!("{name}={value}")),
    };
    let words: Vec<String> = fields.as_object().into_iter().flatten().filter_map(of).collect();
    std::iter::once(call.tool().to_owned()).chain(words).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::controller::{Effect, Impact};
    use crate::agent::snapshot::Snapshot;
    use crate::tools::{Grow, ToolCall};

    fn decision(number: u64) -> Decision {
        let call = ToolCall::Grow(Grow { factor: Some(1.5), ..Grow::default() });
        Decision {
            format: FORMAT,
            number,
            time_ms: 5,
            controller: "llm".to_owned(),
            decided_by: "rules".to_owned(),
            snapshot: Snapshot { window: 7, hit_rate: Some(0.5), ..Snapshot::default() },
            proposed: call.clone(),
            reason: "short of slots".to_owned(),
            expected: Impact::Up,
            outcome: "clamped".to_owned(),
            note: Some("300 rows became 200".to_owned()),
            fallback: Some("late: no answer within 500 ms".to_owned()),
            call,
            answer: None,
            latency_ms: 500.0,
            effect: Some(Effect { hit_rate: (0.5, 0.6), network_share: (0.5, 0.4), as_expected: true }),
        }
    }

    #[test]
    fn a_story_says_who_why_and_what_came_of_it() {
        let story = story(&decision(3));
        for words in [
            "#3  window 7",
            "llm had no answer (late",
            "grow factor=1.500 (rules in 500.0 ms): short of slots",
            "300 rows became 200",
            "hit rate 50.0% to 60.0%",
            "as expected (up)",
        ] {
            assert!(story.contains(words), "{story}\nshould say: {words}");
        }
    }

    #[test]
    fn a_journal_is_read_up_to_a_line_that_was_cut_short() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let line = serde_json::to_string(&decision(1)).unwrap();
        std::fs::write(&path, format!("{line}\n{line}\n{}", &line[..40])).unwrap();
        assert_eq!(read(&path).unwrap().len(), 2);
        std::fs::write(&path, format!("{line}\nnonsense\n")).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains(":2"));
        std::fs::write(&path, line.replace("\"format\":1", "\"format\":9")).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("format 9"));
    }
}
