//! `rudder log`: what a running daemon logs, and changing it without a restart. The daemon forgets it when it stops.

use super::{CliError, http, style};
use serde_json::{Value, json};
use std::path::PathBuf;

/// Arguments of `rudder log`.
#[derive(Debug, clap::Args)]
pub struct LogArgs {
    /// A level (error, warn, info, debug, trace) or directives such as info,rudder_peers=debug; without it, prints the
    /// current one
    level: Option<String>,
    /// Address of the daemon's HTTP interface (its `admin.listen`)
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:7401")]
    admin: String,
    /// File with the bearer token, where the daemon has an `admin.token_file`
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Print the daemon's answer as JSON
    #[arg(long)]
    json: bool,
}

/// Reads or changes the level and prints what is in effect.
///
/// # Errors
/// If the daemon cannot be reached or refuses the level.
pub fn run(args: &LogArgs) -> Result<(), CliError> {
    let wish = args.level.as_ref().map(|level| json!({"level": level}));
    let text = http::ask(&args.admin, args.token_file.as_deref(), "/v1/log", wish.as_ref())?;
    if args.json {
        return style::print(&format!("{}\n", text.trim_end()));
    }
    let answer: Value =
        serde_json::from_str(&text).map_err(|error| CliError::context("the daemon's answer is not JSON", error))?;
    style::print(&format!("{}\n", answer["level"].as_str().unwrap_or_default()))
}
