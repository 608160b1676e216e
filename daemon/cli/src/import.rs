//! `rudder import`: makes datasets from arrays and edge lists. Owns the arguments, the progress bar and the summary;
//! what is read and written is [`rudder_import`]'s.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::str::FromStr;

use indicatif::{ProgressBar, ProgressStyle};
use rudder_client::DType;

use super::import_distdgl::DistDglArgs;
use super::{CliError, style};
use rudder_import::Existing;
use rudder_import::{
    ArrayTable, BookChoice, EdgesImport, ImportSummary, NpyImport, Progress, Stage, import_edges, import_npy,
};

/// Vertex type of a graph that has only one, as DistDGL calls it.
const DEFAULT_VERTEX_TYPE: &str = "_N";

/// Arguments of `rudder import`.
#[derive(Debug, clap::Args)]
pub struct ImportArgs {
    #[command(subcommand)]
    source: Source,
}

#[derive(Debug, clap::Subcommand)]
enum Source {
    /// Splits NumPy arrays (one row per vertex) over the parts; ids stay as they are
    Npy(NpyArgs),
    /// Partitions a graph with METIS and renumbers its vertices so that each part owns one range of ids
    Edges(EdgesArgs),
    /// Takes a DistDGL partition as it is: links to its feature files, or copies their rows
    Distdgl(DistDglArgs),
}

#[derive(Debug, clap::Args)]
struct OutputArgs {
    /// Folder to write the dataset to; it appears when the dataset is complete
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Number of parts, one per node
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    parts: u16,
    /// Name of the dataset [default: the name of the output folder]
    #[arg(long)]
    name: Option<String>,
    /// Vertex type of the tables that do not name one
    #[arg(long, value_name = "TYPE", default_value = DEFAULT_VERTEX_TYPE)]
    vertex_type: String,
    /// Replace the dataset in the output folder; a folder that holds anything else is never touched
    #[arg(long)]
    force: bool,
    /// Print a summary as JSON, and no progress
    #[arg(long)]
    json: bool,
}

/// Arguments of `rudder import npy`.
#[derive(Debug, clap::Args)]
struct NpyArgs {
    #[command(flatten)]
    output: OutputArgs,
    /// A table from a .npy file with one row per id. DTYPE (f32, f16, bf16, f64, i64, u8) converts floats to another
    /// precision and integers to i64, and says that 2-byte integers are bf16. Repeatable
    #[arg(long = "table", value_name = "NAME[@TYPE]=FILE[:DTYPE]", required = true)]
    tables: Vec<TableArg>,
    /// Who owns which id: `ranges` (even, contiguous) or `map:FILE`, a .npy with the owner of each id. For another
    /// vertex type than --vertex-type put `TYPE=` before it. Repeatable
    #[arg(long = "book", value_name = "[TYPE=]ranges|map:FILE")]
    books: Vec<BookArg>,
}

/// Arguments of `rudder import edges`.
#[derive(Debug, clap::Args)]
struct EdgesArgs {
    #[command(flatten)]
    output: OutputArgs,
    /// Edge list: text with two vertices per line (integers or names, separated by white space, comma or semicolon; `#`
    /// begins a comment; .gz is unpacked), or a .npy of integers, [m,2] or [2,m]. Edges are taken as undirected;
    /// duplicates and loops are dropped
    #[arg(value_name = "EDGES")]
    edges: PathBuf,
    /// Labels for a table `label`: text with one label per line in the order of ids, or vertex and label separated by a
    /// tab or comma. Integers stay, names become classes; an empty label is -1. If the vertices here are names and
    /// those of the edges integers, lines are in the order of ids
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
    /// A table from a .npy file with one row per vertex. DTYPE (f32, f16, bf16, f64, i64, u8) converts. Repeatable
    #[arg(long = "table", value_name = "NAME=FILE[:DTYPE]")]
    tables: Vec<TableArg>,
    /// Read the vertices of a text edge list as names even if they look like integers (for sparse ids)
    #[arg(long)]
    names: bool,
    /// Seed of the partitioner
    #[arg(long, default_value_t = 1)]
    seed: i32,
}

/// `NAME[@TYPE]=FILE[:DTYPE]`
#[derive(Clone, Debug, PartialEq, Eq)]
struct TableArg {
    name: String,
    vertex_type: Option<String>,
    path: PathBuf,
    dtype: Option<DType>,
}

impl FromStr for TableArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("`{text}`: expected NAME[@TYPE]=FILE[:DTYPE], such as feat=feat.npy or feat=feat.npy:f16");
        let (name, file) =
            text.split_once('=').filter(|(name, file)| !name.is_empty() && !file.is_empty()).ok_or_else(wrong)?;
        let (name, vertex_type) = match name.split_once('@') {
            Some((name, vertex_type)) => (name, Some(vertex_type.to_owned())),
            None => (name, None),
        };
        // A colon may be part of a file's name: only after `.npy` does it begin a type.
        let (path, dtype) = match file.rsplit_once(".npy:") {
            Some((stem, dtype)) => {
                (format!("{stem}.npy"), Some(DType::from_str(dtype).map_err(|error| error.to_string())?))
            }
            None => (file.to_owned(), None),
        };
        Ok(Self { name: name.to_owned(), vertex_type, path: path.into(), dtype })
    }
}

impl TableArg {
    fn table(&self, default_type: &str) -> ArrayTable {
        ArrayTable {
            name: self.name.clone(),
            vertex_type: self.vertex_type.clone().unwrap_or_else(|| default_type.to_owned()),
            path: self.path.clone(),
            dtype: self.dtype,
        }
    }
}

/// `[TYPE=]ranges|map:FILE`
#[derive(Clone, Debug, PartialEq, Eq)]
struct BookArg {
    vertex_type: Option<String>,
    choice: BookChoice,
}

impl FromStr for BookArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // The type comes before `=`, unless that sign is in the file's name.
        let (vertex_type, choice) = match text.split_once('=') {
            Some((vertex_type, choice)) if !vertex_type.starts_with("map:") => (Some(vertex_type.to_owned()), choice),
            _ => (None, text),
        };
        let choice = match choice.split_once(':') {
            None if choice == "ranges" => BookChoice::Ranges,
            Some(("map", file)) if !file.is_empty() => BookChoice::Map(file.into()),
            _ => {
                return Err(format!(
                    "`{text}`: expected `ranges` or `map:FILE`, with `TYPE=` before it for another type"
                ));
            }
        };
        Ok(Self { vertex_type, choice })
    }
}

impl OutputArgs {
    fn name(&self) -> Result<String, CliError> {
        let folder = || self.out.file_name().map(|name| name.to_string_lossy().into_owned());
        self.name.clone().or_else(folder).ok_or_else(|| CliError::message("--out names no folder: give it a name"))
    }

    fn existing(&self) -> Existing {
        if self.force { Existing::Replace } else { Existing::Refuse }
    }
}

/// Imports and prints what was made.
///
/// # Errors
/// Input that makes no dataset, named with its file; an output folder that may not be written.
pub fn run(args: &ImportArgs) -> Result<(), CliError> {
    let (output, summary) = match &args.source {
        Source::Npy(npy) => (&npy.output, run_npy(npy)?),
        Source::Edges(edges) => (&edges.output, run_edges(edges)?),
        Source::Distdgl(distdgl) => return super::import_distdgl::run(distdgl),
    };
    if output.json { style::print_json_line(&summary) } else { style::print(&describe(&summary)) }
}

fn run_npy(args: &NpyArgs) -> Result<ImportSummary, CliError> {
    let default_type = &args.output.vertex_type;
    let mut books = BTreeMap::new();
    for book in &args.books {
        let vertex_type = book.vertex_type.as_ref().unwrap_or(default_type).clone();
        if books.insert(vertex_type.clone(), book.choice.clone()).is_some() {
            return Err(CliError::message(format!("--book is given twice for vertex type `{vertex_type}`")));
        }
    }
    let import = NpyImport {
        name: args.output.name()?,
        out: args.output.out.clone(),
        parts: args.output.parts,
        tables: args.tables.iter().map(|table| table.table(default_type)).collect(),
        books,
        existing: args.output.existing(),
    };
    Ok(with_progress(args.output.json, |progress| import_npy(&import, progress))?)
}

fn run_edges(args: &EdgesArgs) -> Result<ImportSummary, CliError> {
    let vertex_type = &args.output.vertex_type;
    if let Some(table) = args.tables.iter().find(|table| table.vertex_type.is_some()) {
        let name = &table.name;
        return Err(CliError::message(format!(
            "--table {name}@TYPE: an edge list has one vertex type (--vertex-type)"
        )));
    }
    let import = EdgesImport {
        name: args.output.name()?,
        out: args.output.out.clone(),
        parts: args.output.parts,
        seed: args.seed,
        edges: args.edges.clone(),
        labels: args.labels.clone(),
        tables: args.tables.iter().map(|table| table.table(vertex_type)).collect(),
        vertex_type: vertex_type.clone(),
        force_names: args.names,
        existing: args.output.existing(),
    };
    Ok(with_progress(args.output.json, |progress| import_edges(&import, progress))?)
}

/// Runs `work` with a progress bar on standard error, when that is a terminal and nobody wants JSON.
pub(super) fn with_progress<T>(json: bool, work: impl FnOnce(&Progress<'_>) -> T) -> T {
    if json || !std::io::stderr().is_terminal() {
        return work(&|_, _, _| ());
    }
    let current: RefCell<Option<(Stage, u64, ProgressBar)>> = RefCell::new(None);
    let result = work(&|stage, done, total| {
        let mut current = current.borrow_mut();
        let is_same = matches!(&*current, Some((shown, of, _)) if *shown == stage && *of == total);
        if !is_same {
            if let Some((_, _, bar)) = current.take() {
                bar.finish_and_clear();
            }
            *current = Some((stage, total, new_bar(stage, total)));
        }
        if let Some((_, _, bar)) = &*current {
            bar.set_position(done);
        }
    });
    if let Some((_, _, bar)) = current.into_inner() {
        bar.finish_and_clear();
    }
    result
}

fn new_bar(stage: Stage, total: u64) -> ProgressBar {
    let (verb, bar) = match stage {
        Stage::Read => ("reading", ProgressBar::new(total)),
        Stage::Write => ("writing", ProgressBar::new(total)),
        Stage::Partition => ("partitioning", ProgressBar::new_spinner()),
    };
    let template = match stage {
        Stage::Partition => "{msg} {spinner} {elapsed}",
        _ => "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
    };
    // The templates are constants: a mistake in one falls back to the plain style.
    let bar = bar.with_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_message(verb);
    if stage == Stage::Partition {
        bar.enable_steady_tick(std::time::Duration::from_millis(100));
    }
    bar
}

pub(super) fn describe(summary: &ImportSummary) -> String {
    let mut lines = vec![format!(
        "dataset {} in {}: {} parts, fingerprint {}",
        summary.dataset,
        summary.path.display(),
        summary.parts,
        summary.fingerprint
    )];
    if let Some(graph) = &summary.graph {
        lines.push(format!(
            "  graph: {} vertices, {} edges, {} cut ({:.1} %), largest part {:.3} of the mean",
            graph.vertices,
            graph.edges,
            graph.edge_cut,
            100.0 * graph.edge_cut as f64 / graph.edges.max(1) as f64,
            graph.balance
        ));
    }
    for table in &summary.tables {
        let classes = table.classes.map(|classes| format!(", {classes} classes")).unwrap_or_default();
        lines.push(format!(
            "  table {} ({}): {} rows of {} x {}{classes}",
            table.name, table.vertex_type, table.rows, table.width, table.dtype
        ));
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_arguments() {
        let parse = |text: &str| TableArg::from_str(text);
        let expected = |vertex_type: Option<&str>, path: &str, dtype| TableArg {
            name: "feat".into(),
            vertex_type: vertex_type.map(str::to_owned),
            path: path.into(),
            dtype,
        };
        assert_eq!(parse("feat=a.npy"), Ok(expected(None, "a.npy", None)));
        assert_eq!(parse("feat=a.npy:bf16"), Ok(expected(None, "a.npy", Some(DType::Bf16))));
        assert_eq!(parse("feat@paper=a=b:c.npy"), Ok(expected(Some("paper"), "a=b:c.npy", None)));
        assert!(parse("feat=a.npy:f8").unwrap_err().contains("`f8`"));
        assert!(parse("a.npy").unwrap_err().contains("NAME[@TYPE]=FILE"));
    }

    #[test]
    fn book_arguments() {
        let parse = |text: &str| BookArg::from_str(text);
        assert_eq!(parse("ranges"), Ok(BookArg { vertex_type: None, choice: BookChoice::Ranges }));
        let map = BookChoice::Map("o=1.npy".into());
        assert_eq!(parse("map:o=1.npy"), Ok(BookArg { vertex_type: None, choice: map.clone() }));
        assert_eq!(parse("paper=map:o=1.npy"), Ok(BookArg { vertex_type: Some("paper".into()), choice: map }));
        assert!(parse("hash").is_err() && parse("map:").is_err());
    }
}
