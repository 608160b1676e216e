//! `rudder import distdgl`: its arguments and what it prints. What is read and written is [`rudder_import`]'s.

use std::path::PathBuf;

use super::{CliError, describe, style, with_progress};
use rudder_import::{DistDglImport, DistDglSummary, Existing, import_distdgl};

/// Arguments of `rudder import distdgl`.
#[derive(Debug, clap::Args)]
pub(super) struct DistDglArgs {
    /// The JSON file that dgl.distributed.partition_graph wrote; the feature files of all parts must be on this machine
    #[arg(value_name = "GRAPH.json")]
    graph: PathBuf,
    /// Folder to write the dataset to; it appears when the dataset is complete
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Copy the rows into the dataset. Without it, the dataset links to the partition's files, which must stay
    #[arg(long)]
    copy: bool,
    /// Name of the dataset [default: the name of the graph]
    #[arg(long)]
    name: Option<String>,
    /// Replace the dataset in the output folder; a folder that holds anything else is never touched
    #[arg(long)]
    force: bool,
    /// Print a summary as JSON, and no progress
    #[arg(long)]
    json: bool,
}

/// Imports and prints what was made.
///
/// # Errors
/// A file that is no DistDGL partition, named; an output folder that may not be written.
pub(super) fn run(args: &DistDglArgs) -> Result<(), CliError> {
    let import = DistDglImport {
        graph: args.graph.clone(),
        out: args.out.clone(),
        name: args.name.clone(),
        copy: args.copy,
        existing: if args.force { Existing::Replace } else { Existing::Refuse },
    };
    let summary = with_progress(args.json, |progress| import_distdgl(&import, progress))?;
    if args.json { style::print_json_line(&summary) } else { style::print(&words(&summary)) }
}

fn words(summary: &DistDglSummary) -> String {
    let DistDglSummary { dataset, copied_bytes, linked_bytes, skipped } = summary;
    let mut text = describe(dataset);
    text += &match linked_bytes {
        0 => format!("  {copied_bytes} bytes copied\n"),
        linked => {
            format!("  0 bytes copied: {linked} bytes of rows stay in the partition's files, which must stay, too\n")
        }
    };
    text += "  ids are DistDGL's own: those that g.nodes[type].data[name][ids] takes\n";
    for feature in skipped {
        text += &format!("  not imported: {feature}\n");
    }
    text
}
