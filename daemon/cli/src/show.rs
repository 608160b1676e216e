//! `rudder show`: what a dataset holds, read from its manifest alone. Owns the words for it. It must never open a
//! shard: a dataset can be looked at on a machine that has none of its rows.

use std::fmt::Write as _;
use std::path::PathBuf;

use rudder_dataset::{BookManifest, Origin, Source, TableManifest, VertexType};
use serde_json::json;

use super::{CliError, grouped, row_words, style};

/// Most parts whose ranges are listed.
const RANGES_MAX: usize = 8;

/// Arguments of `rudder show`.
#[derive(Debug, clap::Args)]
pub struct ShowArgs {
    /// The dataset's folder, or `distdgl:GRAPH.json` for a DistDGL partition
    #[arg(value_name = "DATASET")]
    dataset: PathBuf,
    /// Print as JSON: the manifest, the folder that its paths begin in, and the fingerprint
    #[arg(long)]
    json: bool,
}

/// Reads and prints.
///
/// # Errors
/// There is no dataset, or its manifest makes no sense; the message names the file.
pub fn run(args: &ShowArgs) -> Result<(), CliError> {
    let source = Source::read(&args.dataset, None)?;
    let fingerprint = format!("{:016x}", source.manifest.fingerprint());
    if args.json {
        let origin = match source.origin {
            Origin::Folder => "folder",
            Origin::DistDgl => "distdgl",
        };
        return style::print_json_line(&json!({
            "dir": source.dir, "described_by": source.described_by, "origin": origin, "fingerprint": fingerprint,
            "manifest": source.manifest,
        }));
    }
    let manifest = &source.manifest;
    let mut text = format!(
        "dataset {} in {}: {} parts, fingerprint {fingerprint}\n",
        manifest.name,
        source.dir.display(),
        manifest.parts
    );
    for vertex_type in &manifest.vertex_types {
        let _ = writeln!(text, "  {}", type_words(vertex_type));
    }
    for table in &manifest.tables {
        let _ = writeln!(text, "  {}", table_words(table)?);
    }
    if let Some(graph) = &manifest.graph {
        let kept = if graph.indptr.is_some() { "" } else { ", not kept" };
        let (edges, cut) = (grouped(graph.edges), grouped(graph.edge_cut));
        let _ = writeln!(
            text,
            "  graph of {}: {edges} edges, {cut} cut, by {}{kept}",
            graph.vertex_type, graph.partitioner
        );
    }
    style::print(&text)
}

fn type_words(vertex_type: &VertexType) -> String {
    let kind = if vertex_type.name.matches(':').count() == 2 { "edge type" } else { "vertex type" };
    let owners = match &vertex_type.book {
        BookManifest::Map { .. } => "a map says who owns which".to_owned(),
        BookManifest::Ranges { starts } if starts.len() > RANGES_MAX + 1 => "each part owns a range".to_owned(),
        BookManifest::Ranges { starts } => {
            let ranges: Vec<String> = starts.windows(2).map(|ends| format!("{}..{}", ends[0], ends[1])).collect();
            format!("parts own {}", ranges.join(", "))
        }
    };
    let renumbered = if vertex_type.is_renumbered() { "; renumbered" } else { "" };
    let named = if vertex_type.names.is_some() { "; with names" } else { "" };
    format!("{kind} {}: {} ids; {owners}{renumbered}{named}", vertex_type.name, grouped(vertex_type.rows))
}

fn table_words(table: &TableManifest) -> Result<String, CliError> {
    let form = table.form()?;
    let classes = table.classes.as_ref().map(|classes| format!(", {} classes", classes.len())).unwrap_or_default();
    let (rows, row) = (grouped(table.rows), row_words(form.shape(), form.dtype().name()));
    Ok(format!("table {} of {}: {rows} rows of {row}{classes}", table.name, table.vertex_type))
}
