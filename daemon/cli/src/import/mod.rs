//! `rudder import`: makes datasets from what users have. Owns the arguments, the progress bar and the summary; what is
//! read and written is [`rudder_import`]'s.

mod arguments;
mod distdgl;
mod signals;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::PathBuf;

use indicatif::{ProgressBar, ProgressStyle};
use rudder_client::DType;

use self::arguments::{BookArg, LayoutArg, TableArg};
use super::{CliError, row_words, style};
use rudder_import::{
    ArrayTable, BookChoice, EdgesImport, Existing, ImportSummary, NpyImport, OgbImport, Progress, Stage, VertexSource,
    import_edges, import_npy, import_ogb, npy_folder, safetensors_tables,
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
    /// Splits tensors of .safetensors files (one row per vertex) over the parts; ids stay as they are
    Safetensors(SafetensorsArgs),
    /// Partitions a graph with METIS and renumbers its vertices so that each part owns one range of ids
    Edges(EdgesArgs),
    /// Partitions a data set of the Open Graph Benchmark as it was downloaded
    Ogb(OgbArgs),
    /// Takes a DistDGL partition as it is: links to its feature files, or copies their rows
    Distdgl(distdgl::DistDglArgs),
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
    /// Vertex type of the tables that do not name one; the names of its tables begin with it
    #[arg(long, value_name = "TYPE", default_value = DEFAULT_VERTEX_TYPE)]
    vertex_type: String,
    /// Replace the dataset in the output folder; a folder that holds any other file is never touched
    #[arg(long)]
    force: bool,
    /// Store numbers that an element type does not hold as infinite, 0 or rounded, and say how many there were. Without
    /// it they are errors
    #[arg(long)]
    lossy: bool,
    /// Print a summary as JSON, and no progress
    #[arg(long)]
    json: bool,
}

/// Who owns which id, where METIS does not decide.
#[derive(Debug, clap::Args)]
struct BookArgs {
    /// Who owns which id: `ranges` (even, contiguous) or `map:FILE`, a .npy with the owner of each id. For another
    /// vertex type than --vertex-type put `TYPE=` before it. Repeatable
    #[arg(long = "book", value_name = "[TYPE=]ranges|map:FILE")]
    books: Vec<BookArg>,
}

/// Arguments of `rudder import npy`.
#[derive(Debug, clap::Args)]
struct NpyArgs {
    /// A folder: each .npy file in it becomes a table of that name
    #[arg(value_name = "DIR", required_unless_present = "tables")]
    dir: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
    /// A table from a .npy file with one row per id, or from an array of a .npz or .safetensors file (FILE:ARRAY).
    /// Rows keep their shape and type; DTYPE (f32, f16, bf16, f64, i64, i32, i16, i8, u8, u16, u32, u64, bool) stores
    /// numbers as another type, and says that 2-byte integers are bf16. With a TYPE the table is called TYPE.NAME.
    /// Repeatable
    #[arg(long = "table", value_name = "NAME[@TYPE]=FILE[:DTYPE]")]
    tables: Vec<TableArg>,
    #[command(flatten)]
    books: BookArgs,
}

/// Arguments of `rudder import safetensors`.
#[derive(Debug, clap::Args)]
struct SafetensorsArgs {
    /// Files: each tensor becomes a table of its name. For other names use `rudder import npy --table
    /// NAME=FILE.safetensors:TENSOR`
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
    /// Element type of all tables [default: that of each tensor]
    #[arg(long, value_name = "DTYPE")]
    dtype: Option<DType>,
    #[command(flatten)]
    books: BookArgs,
}

/// How a graph is split.
#[derive(Debug, clap::Args)]
struct SplitArgs {
    /// Keep the ids of vertices, and write who owns which. It costs less where trainers ask by original ids, which are
    /// then looked up once in place of twice; it costs more where they work on the renumbered graph: each daemon holds
    /// 4 bytes per vertex, and each id is looked up
    #[arg(long)]
    keep_ids: bool,
    /// Seed of the partitioner
    #[arg(long, default_value_t = 1)]
    seed: i32,
}

/// Arguments of `rudder import edges`.
#[derive(Debug, clap::Args)]
struct EdgesArgs {
    #[command(flatten)]
    output: OutputArgs,
    /// Edge list: text with two vertices per line (integers or names, separated by tab, semicolon, comma or white
    /// space; `#` begins a comment; gzip is unpacked), or a .npy of integers, [m,2] or [2,m]; `-` is standard input.
    /// Edges are taken as undirected; duplicates and loops are dropped
    #[arg(value_name = "EDGES")]
    edges: PathBuf,
    /// Columns of a text that hold the two ends; needed where there are more than two
    #[arg(long, value_name = "A,B", value_parser = arguments::columns)]
    columns: Option<(usize, usize)>,
    /// How an array of edges lies; needed where its shape is [2,2]
    #[arg(long, value_name = "LAYOUT")]
    edge_layout: Option<LayoutArg>,
    /// How many vertices there are (ids are 0 to N - 1), or a file with the names of all vertices in the order of the
    /// rows of tables: text with one per line, or a .npy of integers
    #[arg(long, value_name = "N|FILE", value_parser = arguments::vertices)]
    vertices: Option<VertexSource>,
    /// Labels for a table `label`: text with one label per line in the order of ids, or a vertex and its label.
    /// Integers stay, names become classes; an empty or missing (NaN) label is -1. If the vertices here are names and
    /// those of the edges integers, lines are in the order of ids
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
    /// Read labels as names of classes even if they look like integers
    #[arg(long)]
    classes: bool,
    /// A table from a .npy file with one row per vertex, or from an array of a .npz or .safetensors file (FILE:ARRAY).
    /// Rows keep their shape and type; DTYPE (f32, f16, bf16, f64, i64, i32, i16, i8, u8, u16, u32, u64, bool) stores
    /// numbers as another type. Repeatable
    #[arg(long = "table", value_name = "NAME=FILE[:DTYPE]")]
    tables: Vec<TableArg>,
    /// Read vertices as names even if they look like integers (for sparse ids)
    #[arg(long)]
    names: bool,
    #[command(flatten)]
    split: SplitArgs,
}

/// Arguments of `rudder import ogb`.
#[derive(Debug, clap::Args)]
struct OgbArgs {
    /// Folder of the download: it holds `raw` (CSV or binary), or `processed` (MAG240M: its papers). Tables are `feat`,
    /// `label`, others per vertex, and masks of the split
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
    /// Element type of the features [default: their own]
    #[arg(long, value_name = "DTYPE")]
    dtype: Option<DType>,
    /// Who owns which id: `ranges` (even, contiguous) or `map:FILE`, a .npy with the owner of each id. Edges are not
    /// read then, and ids stay as they are. For graphs that are too large for METIS
    #[arg(long, value_name = "ranges|map:FILE")]
    book: Option<BookArg>,
    #[command(flatten)]
    split: SplitArgs,
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
    signals::watch()?;
    let (output, summary) = match &args.source {
        Source::Npy(npy) => (&npy.output, run_npy(npy)?),
        Source::Safetensors(safetensors) => (&safetensors.output, run_safetensors(safetensors)?),
        Source::Edges(edges) => (&edges.output, run_edges(edges)?),
        Source::Ogb(ogb) => (&ogb.output, run_ogb(ogb)?),
        Source::Distdgl(partition) => return distdgl::run(partition),
    };
    if output.json { style::print_json_line(&summary) } else { style::print(&describe(&summary)) }
}

fn run_npy(args: &NpyArgs) -> Result<ImportSummary, CliError> {
    let default_type = &args.output.vertex_type;
    let mut tables = match &args.dir {
        Some(dir) => npy_folder(dir, default_type)?,
        None => Vec::new(),
    };
    for table in &mut tables {
        table.lossy = args.output.lossy;
    }
    tables.extend(args.tables.iter().map(|table| table.table(default_type, args.output.lossy)));
    run_arrays(&args.output, tables, &args.books)
}

fn run_safetensors(args: &SafetensorsArgs) -> Result<ImportSummary, CliError> {
    let mut tables = Vec::new();
    for file in &args.files {
        tables.extend(safetensors_tables(file, &args.output.vertex_type)?);
    }
    for table in &mut tables {
        (table.dtype, table.lossy) = (args.dtype, args.output.lossy);
    }
    run_arrays(&args.output, tables, &args.books)
}

fn run_arrays(output: &OutputArgs, tables: Vec<ArrayTable>, books: &BookArgs) -> Result<ImportSummary, CliError> {
    let mut chosen = BTreeMap::new();
    for book in &books.books {
        let vertex_type = book.vertex_type.as_ref().unwrap_or(&output.vertex_type).clone();
        if chosen.insert(vertex_type.clone(), book.choice.clone()).is_some() {
            return Err(CliError::message(format!("--book is given twice for vertex type `{vertex_type}`")));
        }
    }
    let import = NpyImport {
        name: output.name()?,
        out: output.out.clone(),
        parts: output.parts,
        tables,
        books: chosen,
        existing: output.existing(),
    };
    Ok(with_progress(output.json, |progress| import_npy(&import, progress))?)
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
        seed: args.split.seed,
        edges: args.edges.clone(),
        columns: args.columns,
        layout: args.edge_layout.map(Into::into),
        labels: args.labels.clone(),
        classes: args.classes,
        vertices: args.vertices.clone(),
        tables: args.tables.iter().map(|table| table.table(vertex_type, args.output.lossy)).collect(),
        vertex_type: vertex_type.clone(),
        force_names: args.names,
        keep_ids: args.split.keep_ids,
        existing: args.output.existing(),
    };
    Ok(with_progress(args.output.json, |progress| import_edges(&import, progress))?)
}

fn run_ogb(args: &OgbArgs) -> Result<ImportSummary, CliError> {
    let book: Option<BookChoice> = match &args.book {
        Some(BookArg { vertex_type: Some(_), .. }) => {
            return Err(CliError::message("--book TYPE=: this data set has one vertex type (--vertex-type)"));
        }
        Some(book) => Some(book.choice.clone()),
        None => None,
    };
    let import = OgbImport {
        name: args.output.name()?,
        out: args.output.out.clone(),
        parts: args.output.parts,
        seed: args.split.seed,
        dir: args.dir.clone(),
        dtype: args.dtype,
        lossy: args.output.lossy,
        vertex_type: args.output.vertex_type.clone(),
        keep_ids: args.split.keep_ids,
        book,
        existing: args.output.existing(),
    };
    Ok(with_progress(args.output.json, |progress| import_ogb(&import, progress))?)
}

/// Runs `work` with a progress bar on standard error, when that is a terminal and nobody wants JSON.
fn with_progress<T>(json: bool, work: impl FnOnce(&Progress<'_>) -> T) -> T {
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
    // What comes through a pipe has no length.
    let is_counted = stage != Stage::Partition && total > 0;
    let verb = match stage {
        Stage::Read => "reading",
        Stage::Write => "writing",
        Stage::Partition => "partitioning",
    };
    let (template, bar) = match (is_counted, stage) {
        (true, _) => ("{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}", ProgressBar::new(total)),
        (false, Stage::Partition) => ("{msg} {spinner} {elapsed}", ProgressBar::new_spinner()),
        (false, _) => ("{msg} {spinner} {bytes} {elapsed}", ProgressBar::new_spinner()),
    };
    // The templates are constants: a mistake in one falls back to the plain style.
    let bar = bar.with_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_message(verb);
    if !is_counted {
        bar.enable_steady_tick(std::time::Duration::from_millis(100));
    }
    bar
}

fn describe(summary: &ImportSummary) -> String {
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
        let lost = table.lost.map(|lost| {
            format!(", {} became infinite, {} became 0, {} were rounded", lost.infinite, lost.zero, lost.rounded)
        });
        lines.push(format!(
            "  table {} ({}): {} rows of {}{classes}{}",
            table.name,
            table.vertex_type,
            table.rows,
            row_words(&table.shape, table.dtype.name()),
            lost.unwrap_or_default()
        ));
    }
    lines.extend(summary.notes.iter().map(|note| format!("  note: {note}")));
    lines.join("\n") + "\n"
}
