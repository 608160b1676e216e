//! Makes datasets: readers of what users have, the partitioner and the writer. [`import_npy`] splits arrays over parts,
//! [`import_edges`] partitions a graph first, [`import_distdgl`] takes what DistDGL partitioned, [`DatasetWriter`]
//! takes rows one by one.
//!
//! **It must never** print, hold a whole table in memory, or change a dataset that is complete: daemons map its shards.

mod array;
mod build;
mod columns;
mod convert;
#[cfg(test)]
mod dataset_tests;
mod distdgl;
mod edge_array;
mod edge_list;
mod edges;
mod graph;
#[cfg(test)]
mod graph_tests;
mod input;
mod label_join;
mod labels;
mod linked;
mod npy;
mod ogb;
#[cfg(test)]
mod ogb_tests;
mod ogb_text;
mod partition;
mod relabel;
mod sink;
mod source;
mod staging;
mod strip;
mod table_writer;
mod target;
#[cfg(test)]
mod tests;
mod text;
mod vertices;
mod writer;

use std::path::{Path, PathBuf};

use rudder_client::DType;
use serde::Serialize;

use rudder_dataset::{DatasetError, Manifest};

pub use build::{FillRow, GraphDataset, GraphSummary, TableSource, write_graph_dataset};
pub use distdgl::{DistDglImport, DistDglSummary, import_distdgl};
pub use edge_list::{EdgeLayout, EdgeList, EdgeOptions, read_edges};
pub use edges::{EdgesImport, import_edges};
pub use linked::TensorPiece;
pub use npy::{BookChoice, NpyImport, import_npy, npy_folder, safetensors_tables};
pub use ogb::{OgbImport, import_ogb};
pub use partition::{PartitionError, balance, edge_cut, partition};
pub use relabel::Relabelling;
pub use rudder_dataset::Part;
pub use source::ArraySource;
pub use staging::abandon;
pub use strip::{DistDglStrip, StripSummary, strip_distdgl};
pub use table_writer::TableWriter;
pub use target::Existing;
pub use vertices::{Names, RowCount, VertexSource};
pub use writer::{BookSpec, DatasetWriter};

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
    /// Where its rows are, one per id.
    pub source: ArraySource,
    /// Element type to store; the array's own when not given.
    pub dtype: Option<DType>,
    /// Whether numbers that the element type does not hold may become infinite, 0 or others. They are counted.
    pub lossy: bool,
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
    /// What was assumed, skipped and joined, in words.
    pub notes: Vec<String>,
}

/// Numbers of a table that its element type does not hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LossSummary {
    /// Finite numbers that became infinite.
    pub infinite: u64,
    /// Numbers that became 0.
    pub zero: u64,
    /// Integers that became another number.
    pub rounded: u64,
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
    /// Shape of a row; empty where a row is one number.
    pub shape: Vec<u32>,
    /// Rows.
    pub rows: u64,
    /// Number of named classes, for labels that were names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub classes: Option<usize>,
    /// What its element type did not hold, where that was allowed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost: Option<LossSummary>,
}

impl ImportSummary {
    fn new(path: &Path, manifest: &Manifest, graph: Option<GraphSummary>) -> Self {
        let tables = manifest.tables.iter().map(|table| TableSummary {
            name: table.name.clone(),
            vertex_type: table.vertex_type.clone(),
            dtype: table.dtype,
            width: table.width,
            shape: table.shape.clone().unwrap_or_else(|| vec![table.width]),
            rows: table.rows,
            classes: table.classes.as_ref().map(Vec::len),
            lost: None,
        });
        Self {
            dataset: manifest.name.clone(),
            path: path.to_owned(),
            parts: manifest.parts,
            fingerprint: format!("{:016x}", manifest.fingerprint()),
            tables: tables.collect(),
            graph,
            notes: Vec::new(),
        }
    }

    /// Adds what was lost of the arrays behind the first tables.
    fn set_losses(&mut self, arrays: &[array::ArrayFile]) {
        for (table, array) in self.tables.iter_mut().zip(arrays) {
            table.lost = array.losses();
        }
    }
}

/// Fails unless `found` rows are those that `expected_by` has.
fn check_rows(name: &str, found: u64, expected: u64, expected_by: &str) -> Result<(), DatasetError> {
    if found == expected {
        return Ok(());
    }
    Err(DatasetError::Input(format!("{name}: {found} rows, but {expected_by} has {expected}")))
}

/// Fails when standard input is to be read more than once.
fn check_once<'a>(paths: impl Iterator<Item = &'a Path>) -> Result<(), DatasetError> {
    if paths.filter(|path| *path == Path::new("-")).count() > 1 {
        return Err(DatasetError::Input("standard input (`-`) is named twice: it can be read only once".into()));
    }
    Ok(())
}
