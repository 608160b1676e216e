//! `rudder decisions`: the agent's journal, read like a story: what was seen, who decided what and why, what the guard
//! said, and what came of it. From a running daemon, or from journal files. It owns the words and what is left out.

use super::style::{self, Tone, paint, percent, plural};
use super::{CliError, grouped, http, journal};
use rudder_agent::journal::Decision;
use rudder_agent::tools::{Brought, Done};
use std::fmt::Write as _;
use std::path::PathBuf;

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
    /// Show only the last N decisions
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: usize,
    /// Leave out decisions to hold that nobody objected to
    #[arg(long)]
    actions: bool,
    /// Show every decision to hold; otherwise several in a row are one line
    #[arg(long)]
    each: bool,
    /// Print the decisions as JSON
    #[arg(long)]
    json: bool,
}

/// Decisions that a daemon is asked for where only some of them are shown: more than it keeps (`agent.decisions_max`,
/// 1,000 by default), unless somebody raised that beyond the length of an answer.
const KEPT_MAX: usize = 20_000;

/// Prints the last decisions.
///
/// # Errors
/// If the daemon cannot be reached, or a journal cannot be read; the message names file and line.
pub fn run(args: &DecisionsArgs) -> Result<(), CliError> {
    let all: Vec<Decision> = if args.journals.is_empty() {
        let limit = if args.actions { KEPT_MAX.max(args.limit) } else { args.limit };
        let path = format!("/v1/decisions?limit={limit}");
        let text = http::ask(&args.admin, args.token_file.as_deref(), &path, None)?;
        serde_json::from_str(&text).map_err(|error| CliError::context("the daemon's answer is not JSON", error))?
    } else {
        args.journals.iter().map(|journal| journal::read(journal)).collect::<Result<Vec<_>, _>>()?.concat()
    };
    let there = all.len();
    let chosen = last(all, args);
    if args.json { style::print_json(&chosen) } else { style::print(&shown(&chosen, there, args)) }
}

/// The decisions to show: filtered before the limit applies, so that quiet ones do not use it up.
fn last(mut all: Vec<Decision>, args: &DecisionsArgs) -> Vec<Decision> {
    if args.actions {
        all.retain(|decision| !(decision.call.tool() == "hold" && decision.outcome == "done"));
    }
    all.split_off(all.len().saturating_sub(args.limit))
}

/// What is printed of `chosen`, out of `there` decisions.
fn shown(chosen: &[Decision], there: usize, args: &DecisionsArgs) -> String {
    match (chosen, there) {
        ([], 0) if args.journals.is_empty() => {
            "no decisions yet: a window of the training must end first, and agent.controller must not be off\n"
                .to_owned()
        }
        ([], 0) => "no decisions: a window of the training must end first\n".to_owned(),
        ([], _) if args.limit > 0 => {
            format!("{}, none of which did anything\n", plural(there as u64, "decision"))
        }
        _ => listing(chosen, there, args.each),
    }
}

/// The decisions for people: a headline with their number, then each; several quiet ones in a row share a line.
fn listing(decisions: &[Decision], there: usize, each: bool) -> String {
    let mut out = format!("{}\n\n", headline(decisions, there));
    let mut rest = decisions;
    while let Some(first) = rest.first() {
        let quiet = rest.iter().take_while(|decision| !each && is_quiet(decision)).count();
        // Writing to a String cannot fail, here and below.
        if quiet > 1 {
            let _ = writeln!(out, "{}", held(&rest[..quiet]));
            rest = &rest[quiet..];
        } else {
            let _ = writeln!(out, "{}", story(first));
            rest = &rest[1..];
        }
    }
    out
}

/// Nothing was done, and nobody objected.
fn is_quiet(decision: &Decision) -> bool {
    decision.call.tool() == "hold" && decision.outcome == "done" && decision.fallback.is_none()
}

fn headline(decisions: &[Decision], there: usize) -> String {
    let count = |is: &dyn Fn(&Decision) -> bool| decisions.iter().filter(|decision| is(decision)).count() as u64;
    let all = plural(there as u64, "decision");
    let mut parts =
        vec![if decisions.len() < there { format!("{} of {all}", grouped(decisions.len() as u64)) } else { all }];
    for tool in ["grow", "evict", "refresh", "warm", "hold"] {
        match count(&|decision| decision.call.tool() == tool && decision.outcome != "refused") {
            0 => {}
            number => parts.push(format!("{number} {tool}")),
        }
    }
    for (outcome, tone) in [("refused", Tone::Warn), ("clamped", Tone::Warn), ("failed", Tone::Bad)] {
        match count(&|decision| decision.outcome == outcome) {
            0 => {}
            number => parts.push(paint(tone, &format!("{number} {outcome}"))),
        }
    }
    match count(&|decision| decision.fallback.is_some()) {
        0 => {}
        number => parts.push(paint(Tone::Warn, &format!("{number} by the rules for want of an answer"))),
    }
    let judged = count(&|decision| decision.came_true().is_some());
    let right = count(&|decision| decision.came_true() == Some(true));
    if judged > 0 {
        parts.push(format!("{right} of {judged} came out as expected"));
    }
    parts.join(", ")
}

/// Several quiet decisions in a row.
fn held(quiet: &[Decision]) -> String {
    let (first, last) = (&quiet[0], &quiet[quiet.len() - 1]);
    let rates = quiet.iter().filter_map(|decision| decision.snapshot.hit_rate);
    let (low, high) = rates.fold((f64::INFINITY, 0.0f64), |(low, high), rate| (low.min(rate), high.max(rate)));
    let rates =
        if low.is_finite() { format!("; hit rate {} to {}", percent(low), percent(high)) } else { String::new() };
    let until = match utc(last.time_ms) {
        Some(when) => format!(" until {when}"),
        None => String::new(),
    };
    let (from, to, times) = (first.number, last.number, quiet.len());
    let text = format!("#{from} to #{to}  held {times} times{until}{rates}; the last: {}", last.reason);
    paint(Tone::Faint, &text)
}

/// One decision in a few lines.
pub(super) fn story(decision: &Decision) -> String {
    let Decision { number, snapshot, reason, outcome, call, .. } = decision;
    let tone = match outcome.as_str() {
        "done" => Tone::Strong,
        "failed" => Tone::Bad,
        _ => Tone::Warn,
    };
    let what = format!("{}, {outcome}", arguments(call));
    let when = utc(decision.time_ms).map_or_else(String::new, |when| format!("{when}, "));
    let (window, epochs) = (snapshot.window, snapshot.epochs);
    let mut text = format!("#{number}  {}  ({when}window {window}, {epochs:.2} epochs)\n", paint(tone, &what));
    let mut say = |what: &str, words: &str| _ = writeln!(text, "    {what:9} {words}");
    let who = format!("{} in {:.1} ms", decision.decided_by, decision.latency_ms);
    if matches!(outcome.as_str(), "done" | "failed") {
        say("why", &format!("{reason} ({who})"));
    } else {
        say("proposed", &format!("{} ({who}): {reason}", arguments(&decision.proposed)));
    }
    if let Some(fallback) = &decision.fallback {
        say("fallback", &format!("{} had no answer ({fallback})", decision.controller));
    }
    if let Some(note) = &decision.note {
        say(outcome, note);
    }
    for done in decision.answer.iter().flat_map(|answer| &answer.tables) {
        say("did", &deed(done));
    }
    if let Some(effect) = decision.effect {
        let percent = |(before, after): (f64, f64)| format!("{:.1} % to {:.1} %", 100.0 * before, 100.0 * after);
        let expected = decision.expected.name();
        let verdict = match decision.came_true() {
            Some(true) => format!("; as expected ({expected})"),
            Some(false) => format!("; not as expected ({expected})"),
            None => String::new(),
        };
        say(
            "effect",
            &format!(
                "hit rate {}, network {} of remote rows{verdict}",
                percent(effect.hit_rate),
                percent(effect.network_share)
            ),
        );
    }
    say("saw", &snapshot.in_words());
    text
}

/// A time in milliseconds since 1970 in words, as in `2026-11-29 02:18:48Z`; nothing for the clock of a replay, which
/// begins at 0.
fn utc(time_ms: u64) -> Option<String> {
    let seconds = time_ms / 1000;
    let days = seconds / 86_400;
    if days < 365 {
        return None;
    }
    // Civil from days, with years that begin in March so that a leap day is their last (Hinnant, chrono-compatible
    // algorithms).
    let day = days + 719_468;
    let (era, of_era) = (day / 146_097, day % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let (year, day) = (era * 400 + year_of_era + u64::from(month <= 2), of_year - (153 * from_march + 2) / 5 + 1);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    Some(format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}Z"))
}

/// What a tool did to a table, in words.
pub(super) fn deed(done: &Done) -> String {
    let brought = |brought: &Brought| {
        let Brought { asked_rows, filled_rows, pending_rows, .. } = *brought;
        let pending =
            if pending_rows > 0 { format!(", {} on their way", grouped(pending_rows)) } else { String::new() };
        format!("brought in {} of {} rows{pending}", grouped(filled_rows), grouped(asked_rows))
    };
    match done {
        Done::Grow(done) => {
            let limited = done.limited_by.as_ref().map_or_else(String::new, |by| format!(", limited by {by}"));
            let dropped =
                if done.dropped_rows > 0 { format!("; dropped {}", grouped(done.dropped_rows)) } else { String::new() };
            let (before, after) = (grouped(done.before_rows), grouped(done.after_rows));
            let ceiling = grouped(done.ceiling_rows);
            let brought = brought(&done.brought);
            format!("{}: {before} to {after} rows (ceiling {ceiling}{limited}); {brought}{dropped}", done.table)
        }
        Done::Evict(done) => {
            let forgot = if done.forgot { "; history forgotten" } else { "" };
            let (evicted, resident) = (grouped(done.evicted_rows), grouped(done.resident_rows));
            format!("{}: turned over {evicted} of {resident} rows; {}{forgot}", done.table, brought(&done.brought))
        }
        Done::Refresh(done) => {
            let (checked, changed) = (grouped(done.checked_rows), grouped(done.changed_rows));
            let unreachable = match done.unreachable.as_slice() {
                [] => String::new(),
                nodes => {
                    format!("; could not ask node {}", nodes.iter().map(u16::to_string).collect::<Vec<_>>().join(", "))
                }
            };
            let repulled = grouped(done.repulled_rows);
            format!("{}: checked {checked} rows, {changed} changed, {repulled} pulled again{unreachable}", done.table)
        }
        Done::Warm(done) => {
            let (cached, remote) = (grouped(done.cached_rows), grouped(done.remote_rows));
            format!("{}: {cached} of {remote} remote rows were cached; {}", done.table, brought(&done.brought))
        }
    }
}

/// A call with its arguments, as a person would say it.
pub(super) fn arguments(call: &rudder_agent::tools::ToolCall) -> String {
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
    use rudder_agent::controller::{Effect, Impact};
    use rudder_agent::journal::FORMAT;
    use rudder_agent::snapshot::Snapshot;
    use rudder_agent::tools::{Grow, ToolCall};

    fn decision(number: u64) -> Decision {
        let call = ToolCall::Grow(Grow { factor: Some(1.5), ..Grow::default() });
        Decision {
            format: FORMAT,
            number,
            time_ms: 5,
            node: None,
            table: None,
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
        let story = style::plain(&story(&decision(3)));
        for words in [
            "#3  grow factor=1.500, clamped  (window 7, 0.00 epochs)",
            "llm had no answer (late",
            "proposed  grow factor=1.500 (rules in 500.0 ms): short of slots",
            "300 rows became 200",
            "hit rate 50.0 % to 60.0 %",
            "as expected (up)",
        ] {
            assert!(story.contains(words), "{story}\nshould say: {words}");
        }
    }

    #[test]
    fn quiet_decisions_in_a_row_are_one_line() {
        let hold = |number| Decision {
            call: ToolCall::Hold(rudder_agent::tools::Hold {}),
            proposed: ToolCall::Hold(rudder_agent::tools::Hold {}),
            outcome: "done".to_owned(),
            note: None,
            fallback: None,
            reason: "steady".to_owned(),
            effect: None,
            ..decision(number)
        };
        let all = [decision(1), hold(2), hold(3), hold(4), decision(5), hold(6)];
        let text = style::plain(&listing(&all, 6, false));
        assert!(text.starts_with("6 decisions, 2 grow, 4 hold, 2 clamped, 2 by the rules"), "{text}");
        assert!(text.contains("2 of 2 came out as expected"), "{text}");
        assert!(text.contains("#2 to #4  held 3 times; hit rate 50 % to 50 %; the last: steady"), "{text}");
        assert!(text.contains("#6  hold, done"), "one alone is listed: {text}");
        assert!(!text.contains("#3  "), "{text}");
        assert!(style::plain(&listing(&all, 6, true)).contains("#3  hold, done"));
    }

    #[test]
    fn what_a_tool_did_is_said_in_words() {
        let brought = Brought { asked_rows: 1662, filled_rows: 1649, refused_rows: 3, pending_rows: 10 };
        let grown = rudder_agent::tools::Grown {
            table: "feat".to_owned(),
            before_rows: 3264,
            after_rows: 6528,
            ceiling_rows: 6528,
            limited_by: Some("ceiling".to_owned()),
            dropped_rows: 0,
            brought,
        };
        assert_eq!(
            deed(&Done::Grow(grown)),
            "feat: 3,264 to 6,528 rows (ceiling 6,528, limited by ceiling); brought in 1,649 of 1,662 rows, 10 on their way"
        );
        let refreshed = rudder_agent::tools::Refreshed {
            table: "feat".to_owned(),
            checked_rows: 9,
            changed_rows: 2,
            repulled_rows: 2,
            unreachable: vec![1, 3],
        };
        assert!(deed(&Done::Refresh(refreshed)).ends_with("could not ask node 1, 3"));
    }

    #[test]
    fn a_filter_comes_before_the_limit_and_says_what_it_left_out() {
        let hold = |number| Decision {
            call: ToolCall::Hold(rudder_agent::tools::Hold {}),
            outcome: "done".to_owned(),
            fallback: None,
            ..decision(number)
        };
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            args: DecisionsArgs,
        }
        let args = |line: &str| <Line as clap::Parser>::parse_from(line.split(' ')).args;
        let all = || vec![decision(1), decision(2), hold(3), hold(4)];
        let numbers = |line| last(all(), &args(line)).iter().map(|decision| decision.number).collect::<Vec<_>>();
        assert_eq!(numbers("decisions --limit 1 --actions"), [2]);
        assert_eq!(numbers("decisions --limit 3"), [2, 3, 4]);
        let actions = args("decisions --actions");
        let acted = style::plain(&shown(&last(all(), &actions), 4, &actions));
        assert!(acted.starts_with("2 of 4 decisions, 2 grow, 2 clamped"), "{acted}");
        assert_eq!(shown(&[], 2, &actions), "2 decisions, none of which did anything\n");
        assert!(shown(&[], 0, &actions).starts_with("no decisions yet"));
    }

    #[test]
    fn moments_are_told_in_utc() {
        assert_eq!(utc(1_795_918_728_013).unwrap(), "2026-11-29 02:18:48Z");
        assert_eq!(utc(951_782_399_000).unwrap(), "2000-02-28 23:59:59Z");
        assert_eq!(utc(951_868_799_000).unwrap(), "2000-02-29 23:59:59Z");
        assert_eq!(utc(1_709_251_200_000).unwrap(), "2024-03-01 00:00:00Z");
        assert_eq!(utc(5), None);
        let story = style::plain(&story(&Decision { time_ms: 1_795_918_728_013, ..decision(3) }));
        assert!(story.contains("(2026-11-29 02:18:48Z, window 7"), "{story}");
    }
}
