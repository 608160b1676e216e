//! Makes datasets: readers of what users have, the partitioner and the writer. [`import_npy`] splits arrays over parts,
//! [`import_edges`] partitions a graph first, [`import_distdgl`] takes what DistDGL partitioned, [`DatasetWriter`]
//! takes rows one by one.
//!
//! **It must never** print, hold a whole table in memory, or change a dataset that is complete: daemons map its shards.

mod array;
mod build;
mod convert;
#[cfg(test)]
mod dataset_tests;
mod distdgl;
mod edge_list;
mod edges;
mod labels;
mod linked;
mod npy;
mod partition;
mod relabel;
mod sink;
mod table_writer;
#[cfg(test)]
mod tests;
mod text;
mod writer;

use std::path::{Path, PathBuf};

use rudder_client::DType;
use serde::Serialize;

use rudder_dataset::{DatasetError, Manifest};

pub use build::{FillRow, GraphDataset, GraphSummary, TableSource, write_graph_dataset};
pub use distdgl::{DistDglImport, DistDglSummary, import_distdgl};
pub use edge_list::{EdgeList, read_edges};
pub use edges::{EdgesImport, import_edges};
pub use labels::{Labels, read_labels};
pub use linked::TensorPiece;
pub use npy::{BookChoice, NpyImport, import_npy};
pub use partition::{PartitionError, balance, edge_cut, partition};
pub use relabel::Relabelling;
pub use rudder_dataset::Part;
pub use table_writer::TableWriter;
pub use writer::{BookSpec, DatasetWriter, Existing};

/// What an import is doing, for progress bars.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Reading edges and labels; counted in bytes of the files.
    Read,
    /// METIS is at work; not counted.
    Partition,
    /// Writing rows; counted in bytes of the tables.
    Write,
}

/// Told (stage, done, in all).
pub type Progress<'a> = dyn Fn(Stage, u64, u64) + 'a;

/// An array that becomes a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArrayTable {
    /// Name of the table.
    pub name: String,
    /// Its vertex type.
    pub vertex_type: String,
    /// `.npy` file with one row per id.
    pub path: PathBuf,
    /// Element type to store; the file's own when not given.
    pub dtype: Option<DType>,
}

/// What was imported.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ImportSummary {
    /// Name of the dataset.
    pub dataset: String,
    /// Its folder.
    pub path: PathBuf,
    /// Number of parts.
    pub parts: u16,
    /// Fingerprint of its manifest, 16 hexadecimal digits.
    pub fingerprint: String,
    /// Its tables.
    pub tables: Vec<TableSummary>,
    /// The partitioned graph, when there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub graph: Option<GraphSummary>,
}

/// One table of an [`ImportSummary`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TableSummary {
    /// Name.
    pub name: String,
    /// Vertex type.
    pub vertex_type: String,
    /// Element type.
    pub dtype: DType,
    /// Elements of a row.
    pub width: u32,
    /// Rows.
    pub rows: u64,
    /// Number of named classes, for labels that were names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub classes: Option<usize>,
}

impl ImportSummary {
    fn new(path: &Path, manifest: &Manifest, graph: Option<GraphSummary>) -> Self {
        let tables = manifest.tables.iter().map(|table| TableSummary {
            name: table.name.clone(),
            vertex_type: table.vertex_type.clone(),
            dtype: table.dtype,
            width: table.width,
            rows: table.rows,
            classes: table.classes.as_ref().map(Vec::len),
        });
        Self {
            dataset: manifest.name.clone(),
            path: path.to_owned(),
            parts: manifest.parts,
            fingerprint: format!("{:016x}", manifest.fingerprint()),
            tables: tables.collect(),
            graph,
        }
    }
}

/// Fails unless `found` rows are those that `expected_by` has.
fn check_rows(path: &Path, found: u64, expected: u64, expected_by: &str) -> Result<(), DatasetError> {
    if found == expected {
        return Ok(());
    }
    Err(DatasetError::Input(format!("{}: {found} rows, but {expected_by} has {expected}", path.display())))
}
