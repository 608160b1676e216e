//! From what the readers of graphs found to a dataset: counts of vertices are settled, rows find their vertices, and
//! the summary says what was assumed. Shared by edge lists and OGB. It must never read a file.

use std::path::{Path, PathBuf};

use rudder_client::DType;

use crate::array::ArrayFile;
use crate::build::{GraphDataset, GraphSummary, TableSource, write_graph_dataset};
use crate::target::Existing;
use crate::{ImportSummary, Progress, Stage};
use rudder_dataset::manifest::Manifest;
use rudder_dataset::{CsrGraph, DatasetError, RowForm, table_name};

/// Name of the table of labels.
pub(super) const LABEL_TABLE: &str = "label";

/// How a graph is to be written.
#[derive(Clone, Debug)]
pub(super) struct Target<'a> {
    pub(super) name: &'a str,
    pub(super) out: &'a Path,
    pub(super) parts: u16,
    pub(super) seed: i32,
    pub(super) vertex_type: &'a str,
    pub(super) keep_ids: bool,
    pub(super) existing: Existing,
}

/// A graph that was read, with its tables by original id.
pub(super) struct GraphInput<'a> {
    /// The file of the edges, for messages.
    pub(super) path: PathBuf,
    pub(super) edges: Vec<(u32, u32)>,
    pub(super) vertices: u64,
    pub(super) names: Option<&'a [String]>,
    /// Names of the tables behind `arrays`.
    pub(super) tables: Vec<String>,
    pub(super) arrays: Vec<ArrayFile>,
    pub(super) columns: Vec<Column>,
    pub(super) notes: Vec<String>,
}

/// A table of one integer per vertex that is in memory.
pub(super) struct Column {
    pub(super) name: String,
    pub(super) values: Vec<i64>,
    pub(super) classes: Option<Vec<String>>,
}

/// Partitions and writes.
pub(super) fn write_graph(
    target: &Target<'_>,
    input: GraphInput<'_>,
    progress: &Progress<'_>,
) -> Result<ImportSummary, DatasetError> {
    let mut tables: Vec<TableSource<'_>> = Vec::new();
    for (name, array) in input.tables.iter().zip(&input.arrays) {
        tables.push(TableSource {
            name: table_name(target.vertex_type, name),
            form: array.form().clone(),
            classes: None,
            fill: Box::new(|id, row| array.fill(id, row)),
        });
    }
    let one_integer = RowForm::new(DType::I64, &[]).map_err(|error| DatasetError::Input(error.to_string()))?;
    for column in &input.columns {
        tables.push(TableSource {
            name: table_name(target.vertex_type, &column.name),
            form: one_integer.clone(),
            classes: column.classes.clone(),
            fill: Box::new(|id, row| {
                row.copy_from_slice(&column.values[id as usize].to_le_bytes());
                Ok(())
            }),
        });
    }
    let graph = CsrGraph::from_edges(input.vertices, &input.edges)
        .map_err(|error| DatasetError::Input(format!("{}: {error}", input.path.display())))?;
    let mut notes = input.notes;
    notes.extend(edge_notes(&input.path, &input.edges, &graph));
    drop(input.edges);
    let dataset = GraphDataset {
        name: target.name.to_owned(),
        vertex_type: target.vertex_type.to_owned(),
        graph: &graph,
        names: input.names,
        tables,
        parts: target.parts,
        seed: target.seed,
        keep_ids: target.keep_ids,
    };
    progress(Stage::Partition, 0, 0);
    let write = |done, total| progress(Stage::Write, done, total);
    let written = write_graph_dataset(target.out, &dataset, target.existing, &write)?;
    drop(dataset);
    notes.push(ids_note(target, &written));
    let mut summary = ImportSummary::new(target.out, &Manifest::load(target.out)?, Some(written));
    summary.set_losses(&input.arrays);
    summary.notes = notes;
    Ok(summary)
}

/// What became of ids.
fn ids_note(target: &Target<'_>, written: &GraphSummary) -> String {
    let vertex_type = target.vertex_type;
    if written.renumbered {
        format!(
            "vertices of `{vertex_type}` were renumbered, so that each part owns one range: a vertex's dataset id is not \
             its original id; trainers ask by original ids, unless they connect with ids=\"dataset\" (--keep-ids keeps \
             ids)"
        )
    } else {
        format!("ids of `{vertex_type}` were kept: original ids and dataset ids are the same")
    }
}

/// What became of edges.
fn edge_notes(path: &Path, edges: &[(u32, u32)], graph: &CsrGraph) -> Vec<String> {
    let path = path.display();
    let mut notes = Vec::new();
    let loops = edges.iter().filter(|(a, b)| a == b).count() as u64;
    let duplicates = edges.len() as u64 - loops - graph.edges();
    if loops + duplicates > 0 {
        notes.push(format!(
            "{path}: edges are undirected: of {} edges, {duplicates} that are there twice or in both directions were \
             dropped, and {loops} from a vertex to itself",
            edges.len()
        ));
    }
    let isolated = graph.xadj().windows(2).filter(|ends| ends[0] == ends[1]).count();
    if isolated > 0 {
        notes.push(format!("{path}: {isolated} of {} vertices have no edge", graph.vertices()));
    }
    notes
}
