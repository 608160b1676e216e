//! `rudder import distdgl`: its arguments and what it prints. What is read and written is [`rudder_import`]'s.

use std::path::PathBuf;

use super::{CliError, describe, style, with_progress};
use rudder_import::{
    DistDglImport, DistDglStrip, DistDglSummary, Existing, StripSummary, import_distdgl, strip_distdgl,
};

/// Arguments of `rudder import distdgl`.
#[derive(Debug, clap::Args)]
pub(super) struct DistDglArgs {
    /// The JSON file that dgl.distributed.partition_graph wrote; the feature files of all parts must be on this machine
    #[arg(value_name = "GRAPH.json")]
    graph: PathBuf,
    /// Folder to write to; it appears when it is complete
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Write no dataset, but the partition for DistDGL's servers without the features that Rudder serves. Features of
    /// one number per row (labels, masks) stay. The partition itself is left as it is: serve it with Rudder. Of parts
    /// whose files are on other machines nothing is written
    #[arg(long, conflicts_with_all = ["name", "force"])]
    strip: bool,
    /// With --strip: the features that stay, by the names of their tables, in place of those of one number per row
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', requires = "strip")]
    keep: Option<Vec<String>>,
    /// Copy the rows into the dataset. Without it, the dataset links to the partition's files, which must stay. With
    /// --strip: copy graph.dgl and other files without features, too
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
    if args.strip {
        return run_strip(args);
    }
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

fn run_strip(args: &DistDglArgs) -> Result<(), CliError> {
    let strip =
        DistDglStrip { graph: args.graph.clone(), out: args.out.clone(), keep: args.keep.clone(), copy: args.copy };
    let summary = with_progress(args.json, |progress| strip_distdgl(&strip, progress))?;
    if args.json { style::print_json_line(&summary) } else { style::print(&strip_words(&summary, args)) }
}

fn strip_words(summary: &StripSummary, args: &DistDglArgs) -> String {
    let StripSummary { graph, parts, kept, removed, bytes_before, bytes_after, other_files } = summary;
    let list = |names: &[String]| if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
    let parts: Vec<String> = parts.iter().map(u16::to_string).collect();
    let are = if args.copy { "copied" } else { "links to the partition's, which must stay" };
    format!(
        "partition for DistDGL's servers: {}, parts {}\n  only Rudder serves: {}\n  DistDGL's servers hold: {}\n  \
         feature files: {bytes_after} bytes, before {bytes_before}; {other_files} other files are {are}\n  \
         Rudder serves: distdgl:{}\n",
        graph.display(),
        parts.join(", "),
        list(removed),
        list(kept),
        args.graph.display(),
    )
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
