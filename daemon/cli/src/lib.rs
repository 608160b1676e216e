//! The operator's program `rudder`: one file per subcommand, registered here. Owns the rules they share: results on
//! standard output (as JSON with `--json`), errors with their causes on standard error and exit status 1, wrong usage
//! exit status 2. It must never reach into a running daemon other than over its socket or its HTTP interface.

pub mod bench;
pub mod bench_fetch;
pub mod bench_peer;
pub mod certs;
pub mod decisions;
pub mod demo;
pub mod doctor;
pub mod down;
mod finding;
pub mod get;
mod health;
mod http;
pub mod import;
pub mod init;
mod journal;
pub mod log;
pub mod manual;
pub mod replay;
pub mod report;
mod scrape;
pub mod show;
pub mod status;
mod style;
mod svg;
mod teach;
pub mod tool;
pub mod top;
pub mod trace;
pub mod train;
pub mod up;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use std::{error::Error, fmt, process::ExitCode};

/// Why a subcommand failed: any error, printed with its chain of causes.
pub struct CliError(Box<dyn Error + Send + Sync>);

impl CliError {
    /// An error that is only a message.
    pub fn message(text: impl Into<String>) -> Self {
        Self(text.into().into())
    }

    /// Says what was being done when `cause` happened: printed as `context: cause`.
    pub fn context(context: impl Into<String>, cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(Box::new(Context { text: context.into(), cause: cause.into() }))
    }
}

impl<E: Into<Box<dyn Error + Send + Sync>>> From<E> for CliError {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&rudder_telemetry::error_chain(self.0.as_ref()))
    }
}

impl fmt::Debug for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[derive(Debug)]
struct Context {
    text: String,
    cause: Box<dyn Error + Send + Sync>,
}

impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Error for Context {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(self.cause.as_ref())
    }
}

/// A number for people, with commas by thousands.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// The rows of a table in words: `f32`, `128 f32`, `2 x 3 f32`.
pub(crate) fn row_words(shape: &[u32], dtype: &str) -> String {
    let sizes: Vec<String> = shape.iter().map(u32::to_string).collect();
    if sizes.is_empty() { dtype.to_owned() } else { format!("{} {dtype}", sizes.join(" x ")) }
}

/// Works with datasets, certificates and running `rudderd` daemons.
#[derive(Debug, Parser)]
#[command(name = "rudder", version, propagate_version = true, styles = style::CLAP)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Starts the daemons that this machine needs, and ends them
    Up(Box<up::UpArgs>),
    /// Ends what `rudder up` started
    Down(down::DownArgs),
    /// Prints rows
    Get(get::GetArgs),
    /// Makes a configuration of rudderd with every key explained
    Init(init::InitArgs),
    /// Makes a dataset from arrays or from a graph
    Import(import::ImportArgs),
    /// Shows what a dataset holds: types, tables, who owns which ids
    Show(show::ShowArgs),
    /// Runs a benchmark beside its yardstick
    Bench(bench::BenchArgs),
    /// Makes the cluster's certificate authority and the certificates of its nodes
    Certs(certs::CertsArgs),
    /// Trains a real GNN on a real graph through real daemons, and compares cache policies
    Demo(demo::DemoArgs),
    /// Replays a recorded trace against cache policies and the optimum
    Replay(replay::ReplayArgs),
    /// Records traces of a running daemon
    Trace(trace::TraceArgs),
    /// Trains a classifier controller from journals and replays
    Train(train::TrainArgs),
    /// Shows what a running daemon is doing
    Status(status::StatusArgs),
    /// Shows what the agent decided, why, and what came of it
    Decisions(decisions::DecisionsArgs),
    /// Shows live what running daemons are doing
    Top(top::TopArgs),
    /// Checks this node, and says how to mend what it finds
    Doctor(doctor::DoctorArgs),
    /// Makes one HTML page with plots of a run: its numbers, and what the agent decided
    Report(report::ReportArgs),
    /// Steers the caches of a running daemon: the same tools that an agent calls
    Tool(tool::ToolArgs),
    /// Prints a completion script for a shell
    Completions(manual::CompletionsArgs),
    /// Writes the manual pages
    Man(manual::ManArgs),
    /// Shows or changes what a running daemon logs
    Log(log::LogArgs),
}

impl Command {
    fn run(&self) -> Result<(), CliError> {
        match self {
            Command::Up(args) => up::run(args),
            Command::Down(args) => down::run(args),
            Command::Get(args) => get::run(args),
            Command::Init(args) => init::run(args),
            Command::Import(args) => import::run(args),
            Command::Show(args) => show::run(args),
            Command::Bench(args) => bench::run(args),
            Command::Certs(args) => certs::run(args),
            Command::Demo(args) => demo::run(args),
            Command::Replay(args) => replay::run(args),
            Command::Trace(args) => trace::run(args),
            Command::Train(args) => train::run(args),
            Command::Status(args) => status::run(args),
            Command::Decisions(args) => decisions::run(args),
            Command::Top(args) => top::run(args),
            Command::Doctor(args) => doctor::run(args),
            Command::Report(args) => report::run(args),
            Command::Tool(args) => tool::run(args),
            Command::Completions(args) => manual::completions(args),
            Command::Man(args) => manual::man(args),
            Command::Log(args) => log::run(args),
        }
    }
}

/// The whole command line.
fn command() -> clap::Command {
    teach::taught(Arguments::command())
}

/// Runs the subcommand that the process was called with and says how it ended.
pub fn main() -> ExitCode {
    let arguments = match Arguments::from_arg_matches(&command().get_matches()) {
        Ok(arguments) => arguments,
        Err(error) => error.format(&mut command()).exit(),
    };
    match arguments.command.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            style::complain(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

/// Reads a number of 0 or more.
fn not_negative(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number: &f64| number.is_finite() && *number >= 0.0);
    number.ok_or_else(|| format!("`{text}` is not a number of 0 or more"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn every_subcommand_offers_json() {
        fn check(command: &clap::Command) {
            let leaf = command.get_subcommands().next().is_none();
            assert!(
                !leaf || command.get_arguments().any(|argument| argument.get_id() == "json"),
                "{}",
                command.get_name()
            );
            command.get_subcommands().for_each(check);
        }
        check(&Arguments::command());
    }

    #[test]
    fn an_error_says_its_causes_once() {
        let cause = std::io::Error::other("disk gone");
        let error = CliError::context("cannot read x", CliError::context("opening", cause).0);
        assert_eq!(error.to_string(), "cannot read x: opening: disk gone");
        assert_eq!(
            CliError::context("failed: disk gone", std::io::Error::other("disk gone")).to_string(),
            "failed: disk gone"
        );
    }
}
