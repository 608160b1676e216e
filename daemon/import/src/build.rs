//! From a graph and its per-vertex arrays to a dataset on disk: partition, relabel, write. The flow of `rudder import
//! edges` and of `rudder demo`; it must never parse a foreign file.

use std::fmt;
use std::path::Path;
use std::thread;

use serde::Serialize;

use crate::partition::{PartitionError, balance, edge_cut, partition};
use crate::relabel::Relabelling;
use crate::target::Existing;
use crate::writer::{BookSpec, DatasetWriter};
use rudder_dataset::{CsrGraph, DatasetError, RowForm};

/// Rows are generated in pieces of about this many bytes per thread.
const PIECE_BYTES: usize = 1 << 20;

/// Writes the row of an original vertex id into the slice, which has exactly the bytes of a row. Called from several
/// threads, in any order. An error ends the writing.
pub type FillRow<'a> = dyn Fn(u64, &mut [u8]) -> Result<(), DatasetError> + Sync + 'a;

/// A table to be written.
pub struct TableSource<'a> {
    /// Name of the table.
    pub name: String,
    /// What a row is.
    pub form: RowForm,
    /// Names of the classes, for labels.
    pub classes: Option<Vec<String>>,
    /// The rows, by original id.
    pub fill: Box<FillRow<'a>>,
}

impl fmt::Debug for TableSource<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TableSource({}: {:?})", self.name, self.form)
    }
}

/// A graph with its tables, under original ids 0 to vertices - 1.
#[derive(Debug)]
pub struct GraphDataset<'a> {
    /// Name of the dataset.
    pub name: String,
    /// Name of the only vertex type.
    pub vertex_type: String,
    /// The graph.
    pub graph: &'a CsrGraph,
    /// The source's name of each vertex, where it has names. Names that are all integers are its original ids.
    pub names: Option<&'a [String]>,
    /// The tables.
    pub tables: Vec<TableSource<'a>>,
    /// Parts to split the graph into.
    pub parts: u16,
    /// Seed of the partitioner.
    pub seed: i32,
    /// Whether vertices keep their ids, and a map says who owns which, in place of new ids that are ranges.
    pub keep_ids: bool,
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GraphSummary {
    /// Vertices of the graph.
    pub vertices: u64,
    /// Undirected edges.
    pub edges: u64,
    /// Parts.
    pub partitions: u16,
    /// Edges between parts.
    pub edge_cut: u64,
    /// Vertices of the largest part over the mean.
    pub balance: f64,
    /// Whether vertices have new ids.
    pub renumbered: bool,
    /// First id of each part, and the number of vertices; nothing when a map says who owns which id.
    pub starts: Vec<u64>,
}

/// Partitions the graph, relabels it so that each part owns one range of ids (or keeps ids, and writes the owner of
/// each), and writes tables, graph, names and the map to the original ids to the folder `dir`. `progress` gets (bytes
/// of rows written, bytes to write).
///
/// # Errors
/// [`DatasetError`]: the graph cannot be split, `dir` may not be written, or writing failed.
pub fn write_graph_dataset(
    dir: &Path,
    dataset: &GraphDataset<'_>,
    existing: Existing,
    progress: &dyn Fn(u64, u64),
) -> Result<GraphSummary, DatasetError> {
    let split = |error: PartitionError| DatasetError::Input(format!("dataset `{}`: {error}", dataset.name));
    let mut writer = DatasetWriter::create(dir, &dataset.name, dataset.parts, existing)?;
    let assignment = partition(dataset.graph, dataset.parts, dataset.seed).map_err(split)?;
    let cut = edge_cut(dataset.graph, &assignment);
    // A single part owns one range in any case.
    let relabelling = if dataset.keep_ids {
        None
    } else {
        Some(Relabelling::new(&assignment, dataset.parts).map_err(|error| split(error.into()))?)
    };
    let vertex_type = dataset.vertex_type.as_str();
    let partitioner = format!("metis k-way, seed {}", dataset.seed);
    // The place of each vertex in names and tables, in the order of dataset ids.
    let (order, starts): (Vec<u64>, Vec<u64>) = match &relabelling {
        Some(relabelling) => {
            writer.add_book(vertex_type, BookSpec::Ranges(relabelling.starts()))?;
            let order: Vec<u64> = relabelling.old_of_new().iter().map(|&old| u64::from(old)).collect();
            let graph = relabelling.graph(dataset.graph).map_err(|error| split(error.into()))?;
            writer.set_graph(vertex_type, &graph, cut, &partitioner)?;
            (order, relabelling.starts().to_vec())
        }
        None => {
            let ranges = [0, dataset.graph.vertices()];
            let spec =
                if dataset.parts == 1 { BookSpec::Ranges(&ranges) } else { BookSpec::Map { owner: &assignment } };
            writer.add_book(vertex_type, spec)?;
            writer.set_graph(vertex_type, dataset.graph, cut, &partitioner)?;
            ((0..dataset.graph.vertices()).collect(), Vec::new())
        }
    };
    let numbers = dataset.names.and_then(numbers);
    let renumbered = match (&numbers, dataset.names) {
        (Some(numbers), _) => {
            let original: Vec<u64> = order.iter().map(|&at| numbers[at as usize]).collect();
            writer.set_original_ids(vertex_type, &original)?;
            !original.iter().copied().eq(0..original.len() as u64)
        }
        (None, names) => {
            if relabelling.is_some() {
                writer.set_original_ids(vertex_type, &order)?;
            }
            if let Some(names) = names {
                writer.set_names(vertex_type, names.iter().map(String::as_str))?;
            }
            !order.is_sorted()
        }
    };
    let bytes = |table: &TableSource<'_>| (order.len() * table.form.row_bytes()) as u64;
    let total = dataset.tables.iter().map(bytes).sum();
    let mut done = 0;
    for table in &dataset.tables {
        write_table(&mut writer, vertex_type, table, &order, &mut |bytes| {
            done += bytes;
            progress(done, total);
        })?;
    }
    writer.finish()?;
    Ok(GraphSummary {
        vertices: dataset.graph.vertices(),
        edges: dataset.graph.edges(),
        partitions: dataset.parts,
        edge_cut: cut,
        balance: balance(&assignment, dataset.parts),
        renumbered,
        starts,
    })
}

/// The names as numbers, if each is an integer as it is usually written: such names can be asked for as ids.
fn numbers(names: &[String]) -> Option<Vec<u64>> {
    let number = |name: &String| name.parse::<u64>().ok().filter(|number| number.to_string() == *name);
    names.iter().map(number).collect()
}

fn write_table(
    writer: &mut DatasetWriter,
    vertex_type: &str,
    table: &TableSource<'_>,
    original: &[u64],
    progress: &mut dyn FnMut(u64),
) -> Result<(), DatasetError> {
    let mut rows = writer.add_table_of(&table.name, vertex_type, table.form.clone())?;
    let row_bytes = rows.row_bytes();
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let piece_rows = (PIECE_BYTES / row_bytes).max(1);
    let mut buffer = vec![0; (piece_rows * threads).min(original.len()) * row_bytes];
    for ids in original.chunks(piece_rows * threads) {
        let filled = &mut buffer[..ids.len() * row_bytes];
        let mut results: Vec<Result<(), DatasetError>> = Vec::new();
        results.resize_with(ids.len().div_ceil(piece_rows), || Ok(()));
        thread::scope(|scope| {
            let pieces = ids.chunks(piece_rows).zip(filled.chunks_mut(piece_rows * row_bytes));
            for ((ids, piece), result) in pieces.zip(&mut results) {
                scope.spawn(move || {
                    *result = ids.iter().zip(piece.chunks_exact_mut(row_bytes)).try_for_each(|(&id, row)| {
                        row.fill(0);
                        (table.fill)(id, row)
                    });
                });
            }
        });
        results.into_iter().collect::<Result<(), _>>()?;
        rows.append(filled)?;
        progress(filled.len() as u64);
    }
    writer.close_table(rows)?;
    if let Some(classes) = &table.classes {
        writer.set_classes(&table.name, classes.clone())?;
    }
    Ok(())
}
