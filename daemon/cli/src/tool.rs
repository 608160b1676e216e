//! `rudder tool`: calls the tools of a running daemon by hand, over its HTTP interface. It owns the arguments as a
//! person writes them; the daemon decides what a tool does and answers.

use super::{CliError, http, status::summary, style};
use rudder_agent::tools::{Evict, Grow, Hold, IdsAre, Refresh, ToolCall, Warm};
use serde_json::Value;
use std::path::PathBuf;

/// Arguments of `rudder tool`.
#[derive(Debug, clap::Args)]
pub struct ToolArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Args)]
struct Daemon {
    /// Address of the daemon's HTTP interface (its `admin.listen`)
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:7401")]
    admin: String,
    /// File with the bearer token, where the daemon has an `admin.token_file`
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Table; by default all that are cached
    #[arg(long, value_name = "NAME")]
    table: Option<String>,
    /// Print the daemon's answer as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Changes the capacity of a cache; new slots fill with the hottest absent rows
    Grow {
        /// Rows to hold from now on; fewer than now shrinks the cache
        #[arg(long, value_name = "N", required_unless_present = "factor")]
        rows: Option<u64>,
        /// Times the present capacity; below 1 shrinks the cache
        #[arg(long, value_name = "X", conflicts_with = "rows")]
        factor: Option<f64>,
        #[command(flatten)]
        daemon: Daemon,
    },
    /// Turns the coldest residents over in favour of hotter absent rows
    Evict {
        /// Largest share of the residents that may go
        #[arg(long, value_name = "SHARE")]
        fraction: f64,
        /// Drop what was learned first: the accesses have changed
        #[arg(long)]
        forget: bool,
        #[command(flatten)]
        daemon: Daemon,
    },
    /// Revalidates cached rows against their owners and pulls again what changed
    Refresh {
        /// Only rows that were not revalidated for so long
        #[arg(long, value_name = "SECONDS")]
        max_age_s: Option<f64>,
        #[command(flatten)]
        daemon: Daemon,
    },
    /// Brings rows in that will be asked for
    Warm {
        /// Ids of the table's rows
        #[arg(required = true, value_name = "ID")]
        ids: Vec<u64>,
        /// The ids are those that the import gave, not those of the source
        #[arg(long)]
        dataset_ids: bool,
        #[command(flatten)]
        daemon: Daemon,
    },
    /// Does nothing, or has the policy `rudder` keep its residents
    Hold {
        #[command(flatten)]
        daemon: Daemon,
    },
}

impl What {
    fn call(&self) -> Result<(ToolCall, &Daemon), CliError> {
        Ok(match self {
            What::Grow { rows, factor, daemon } => {
                (ToolCall::Grow(Grow { rows: *rows, factor: *factor, table: daemon.table.clone() }), daemon)
            }
            What::Evict { fraction, forget, daemon } => {
                let table = daemon.table.clone();
                (ToolCall::Evict(Evict { fraction: *fraction, forget: *forget, table }), daemon)
            }
            What::Refresh { max_age_s, daemon } => {
                (ToolCall::Refresh(Refresh { max_age_s: *max_age_s, table: daemon.table.clone() }), daemon)
            }
            What::Warm { ids, dataset_ids, daemon } => {
                let table = daemon.table.clone();
                let table = table.ok_or_else(|| CliError::message("warm: ids are of a table; name it by --table"))?;
                (
                    ToolCall::Warm(Warm { table, ids: ids.clone(), ids_are: dataset_ids.then_some(IdsAre::Dataset) }),
                    daemon,
                )
            }
            What::Hold { daemon } => (ToolCall::Hold(Hold {}), daemon),
        })
    }
}

/// Calls the tool and prints what it did.
///
/// # Errors
/// If the daemon cannot be reached or refuses.
pub fn run(args: &ToolArgs) -> Result<(), CliError> {
    let (call, daemon) = args.what.call()?;
    let mut arguments = serde_json::to_value(&call)?;
    if let Value::Object(fields) = &mut arguments {
        fields.remove("tool");
        fields.retain(|_, value| !value.is_null());
    }
    let path = format!("/v1/tools/{}", call.tool());
    let text = http::ask(&daemon.admin, daemon.token_file.as_deref(), &path, Some(&arguments))?;
    let answer: Value =
        serde_json::from_str(&text).map_err(|error| CliError::context("the daemon's answer is not JSON", error))?;
    if daemon.json { style::print_json(&answer) } else { style::print(&summary(&answer)) }
}
