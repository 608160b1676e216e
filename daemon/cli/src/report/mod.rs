//! `rudder report`: a run as one HTML page with plots: what came out, how it went, what the agents decided and what
//! that did. Owns the arguments and the order of things; numbers come from `journals` and `prometheus`, the looks
//! from `page`.

mod chart;
mod journals;
mod page;
mod prometheus;
mod series;
#[cfg(test)]
mod tests;

use super::{CliError, style};
use page::Report;
use prometheus::{Prometheus, Range};
use serde_json::json;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

/// Points asked of Prometheus: a screen has no more.
const POINTS: f64 = 500.0;
/// Prometheus' rates need two scrapes at least, so finer steps show nothing new.
const STEP_SECONDS_MIN: f64 = 1.0;

/// Arguments of `rudder report`.
#[derive(Debug, clap::Args)]
pub struct ReportArgs {
    /// Journal of an agent (its `agent.journal`), with decisions and the numbers of each window; once for each node
    #[arg(long = "journal", value_name = "FILE", required_unless_present = "prometheus", num_args = 1..)]
    journals: Vec<PathBuf>,
    /// Take the plots from this Prometheus, as far as it kept them, and the decisions from the journals, if there are
    /// any
    #[arg(long, value_name = "URL", requires = "start")]
    prometheus: Option<String>,
    /// File with a bearer token for that Prometheus
    #[arg(long, value_name = "FILE", requires = "prometheus")]
    prometheus_token_file: Option<PathBuf>,
    /// Start, in seconds since 1970 or as a time ago such as 90m or 2h
    #[arg(long, value_name = "TIME", value_parser = moment, requires = "prometheus")]
    start: Option<Moment>,
    /// End, in the same forms; now by default
    #[arg(long, value_name = "TIME", value_parser = moment, requires = "prometheus")]
    end: Option<Moment>,
    /// Labels that samples must have, such as job="gnn"
    #[arg(long, value_name = "LABELS", default_value = "", requires = "prometheus")]
    selector: String,
    /// Heading of the page
    #[arg(long, value_name = "TEXT", default_value = "Rudder run")]
    title: String,
    /// File for the page
    #[arg(long, short, value_name = "FILE", default_value = "rudder-report.html")]
    out: PathBuf,
    /// Print the summary as JSON
    #[arg(long)]
    json: bool,
}

/// A point in time as a person writes it.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Moment {
    At(f64),
    Ago(f64),
}

impl Moment {
    fn seconds(self, now: f64) -> f64 {
        match self {
            Moment::At(at) => at,
            Moment::Ago(ago) => now - ago,
        }
    }
}

fn moment(text: &str) -> Result<Moment, String> {
    let units = [("s", 1.0), ("m", 60.0), ("h", 3600.0), ("d", 86_400.0)];
    let wrong = || format!("`{text}` is not a time: write seconds since 1970, or a time ago such as 90m, 2h or 1d");
    let ago = units.iter().find_map(|(unit, seconds)| Some((text.strip_suffix(unit)?, seconds)));
    let (digits, seconds) = ago.map_or((text, None), |(digits, seconds)| (digits, Some(*seconds)));
    let number: f64 =
        digits.parse().ok().filter(|number: &f64| number.is_finite() && *number >= 0.0).ok_or_else(wrong)?;
    Ok(seconds.map_or(Moment::At(number), |seconds| Moment::Ago(number * seconds)))
}

/// Writes the page.
///
/// # Errors
/// A journal cannot be read, Prometheus has nothing, or the page cannot be written.
pub fn run(args: &ReportArgs) -> Result<(), CliError> {
    let files = style::plural(args.journals.len() as u64, "journal");
    let report = match (&args.prometheus, args.start) {
        (Some(url), Some(start)) => {
            let prometheus = Prometheus { url, token: args.prometheus_token_file.as_deref(), selector: &args.selector };
            let range = range(start, args.end)?;
            let journals = journals::of_journals(&args.journals, Some((range.start, range.end)))?;
            let (mut nodes, window) = prometheus::ask(&prometheus, &range)?;
            let source = format!(
                "{} of Prometheus at {url}, rates over {}{}",
                style::plural(nodes.len() as u64, "daemon"),
                style::span(window),
                if journals.is_empty() { String::new() } else { format!("; decisions of {files} in that time") }
            );
            // Prometheus knows addresses and journals know files: decisions keep the name of theirs.
            nodes.extend(journals.into_iter().map(|node| series::NodeRun { series: Vec::new(), ..node }));
            Report { title: args.title.clone(), source, nodes }
        }
        _ => {
            let source = format!("From {files} of rudderd's agent; each point is a window of the training.");
            Report { title: args.title.clone(), source, nodes: journals::of_journals(&args.journals, None)? }
        }
    };
    if !report.nodes.iter().any(series::NodeRun::is_plotted) {
        return Err(CliError::message("the journals hold no decision: a window of the training must end first"));
    }
    std::fs::write(&args.out, report.html())
        .map_err(|error| CliError::context(format!("cannot write {}", args.out.display()), error))?;
    if args.json {
        return style::print_json(&json!({"out": args.out, "summary": report.summary()}));
    }
    style::print(&format!("{}: open it in a browser\n", args.out.display()))
}

fn range(start: Moment, end: Option<Moment>) -> Result<Range, CliError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let (start, end) = (start.seconds(now), end.map_or(now, |end| end.seconds(now)));
    if start >= end {
        return Err(CliError::message(format!("--start {start:.0} is not before --end {end:.0}")));
    }
    let step = ((end - start) / POINTS).max(STEP_SECONDS_MIN).round();
    Ok(Range { start, end, step })
}
