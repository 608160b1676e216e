//! `rudder import edges`: an edge list with labels and arrays becomes a partitioned, relabelled dataset. It must never
//! lose which vertex was which: original ids and names are kept.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use hashbrown::HashMap;
use rudder_client::DType;

use crate::array::ArrayFile;
use crate::build::{GraphDataset, TableSource, write_graph_dataset};
use crate::edge_list::{EdgeList, read_edges};
use crate::labels::{Labels, UNLABELLED, read_labels};
use crate::writer::{Existing, check_target};
use crate::{ArrayTable, ImportSummary, Progress, Stage, check_rows};
use rudder_dataset::CsrGraph;
use rudder_dataset::DatasetError;
use rudder_dataset::manifest::Manifest;

/// Name of the table of labels.
const LABEL_TABLE: &str = "label";

/// What to import.
#[derive(Clone, Debug)]
pub struct EdgesImport {
    /// Name of the dataset.
    pub name: String,
    /// Folder to write.
    pub out: PathBuf,
    /// Number of parts.
    pub parts: u16,
    /// Seed of the partitioner.
    pub seed: i32,
    /// The edge list: see [`read_edges`].
    pub edges: PathBuf,
    /// Labels: see [`read_labels`].
    pub labels: Option<PathBuf>,
    /// Arrays with one row per vertex. Their `vertex_type` is not used: there is only one.
    pub tables: Vec<ArrayTable>,
    /// Name of the vertex type.
    pub vertex_type: String,
    /// Whether vertices are names even where they look like integers.
    pub force_names: bool,
    /// What may become of a folder that is there already.
    pub existing: Existing,
}

/// Reads, partitions, relabels and writes.
///
/// # Errors
/// [`DatasetError`] naming the file at fault. The output folder is then as it was.
pub fn import_edges(import: &EdgesImport, progress: &Progress<'_>) -> Result<ImportSummary, DatasetError> {
    check_target(&import.out, import.existing)?;
    let read = |done, total| progress(Stage::Read, done, total);
    let labels = import.labels.as_deref().map(|path| read_labels(path, &read)).transpose()?;
    let names = labels.as_ref().and_then(|labels| vertex_names(labels, import.force_names)).unwrap_or_default();
    let edges = read_edges(&import.edges, names, import.force_names, &read)?;
    let mut arrays = Vec::with_capacity(import.tables.len());
    for table in &import.tables {
        arrays.push(ArrayFile::open(&table.path, table.dtype)?);
    }
    let vertices = count_vertices(import, &edges, labels.as_ref(), &arrays)?;
    let assigned = match (&labels, &import.labels) {
        (Some(labels), Some(path)) => Some(assign(labels, path, &edges, vertices)?),
        _ => None,
    };

    let mut tables: Vec<TableSource<'_>> = Vec::new();
    for (table, array) in import.tables.iter().zip(&arrays) {
        tables.push(TableSource {
            name: table.name.clone(),
            dtype: array.dtype(),
            width: array.width(),
            classes: None,
            fill: Box::new(|id, row| array.fill(id, row)),
        });
    }
    if let Some(assigned) = &assigned {
        tables.push(TableSource {
            name: LABEL_TABLE.to_owned(),
            dtype: DType::I64,
            width: 1,
            classes: labels.as_ref().and_then(|labels| labels.classes.clone()),
            fill: Box::new(|id, row| row.copy_from_slice(&assigned[id as usize].to_le_bytes())),
        });
    }
    let graph = CsrGraph::from_edges(vertices, &edges.edges)
        .map_err(|error| DatasetError::Input(format!("{}: {error}", import.edges.display())))?;
    // Names from the edge list hold those of the labels too.
    let names = edges.names.as_deref().or((!names.is_empty()).then_some(names));
    let dataset = GraphDataset {
        name: import.name.clone(),
        vertex_type: import.vertex_type.clone(),
        graph: &graph,
        names,
        tables,
        parts: import.parts,
        seed: import.seed,
    };
    progress(Stage::Partition, 0, 0);
    let write = |done, total| progress(Stage::Write, done, total);
    let summary = write_graph_dataset(&import.out, &dataset, import.existing, &write)?;
    Ok(ImportSummary::new(&import.out, &Manifest::load(&import.out)?, Some(summary)))
}

/// The first column of the labels where it names vertices: when it is not all integers, or names are wanted.
fn vertex_names(labels: &Labels, force_names: bool) -> Option<&[String]> {
    let keys = labels.keys.as_deref()?;
    (force_names || keys.iter().any(|key| key.parse::<u64>().is_err())).then_some(keys)
}

/// The number of vertices: the rows of the arrays and labels, or, without them, what the edges name.
fn count_vertices(
    import: &EdgesImport,
    edges: &EdgeList,
    labels: Option<&Labels>,
    arrays: &[ArrayFile],
) -> Result<u64, DatasetError> {
    let mut expected: Option<(u64, Cow<'_, Path>)> = None;
    if let (Some(labels), Some(path)) = (labels, &import.labels) {
        let is_one_per_vertex =
            edges.names.is_none() && (labels.keys.is_none() || vertex_names(labels, import.force_names).is_some());
        if is_one_per_vertex {
            expected = Some((labels.values.len() as u64, Cow::Borrowed(path)));
        }
    }
    if edges.names.is_some() {
        expected = Some((edges.vertices, Cow::Borrowed(&import.edges)));
    }
    for array in arrays {
        match &expected {
            Some((rows, by)) => check_rows(array.path(), array.rows(), *rows, &by.display().to_string())?,
            None => expected = Some((array.rows(), Cow::Borrowed(array.path()))),
        }
    }
    match expected {
        Some((rows, by)) if edges.vertices > rows => Err(DatasetError::Input(format!(
            "{}: an edge names vertex {}, but {} has only {rows} rows",
            import.edges.display(),
            edges.vertices - 1,
            by.display()
        ))),
        Some((rows, _)) => Ok(rows),
        None => Ok(edges.vertices.max(greatest_key(labels).map_or(0, |key| key + 1))),
    }
}

/// The greatest vertex id in the first column of labels.
fn greatest_key(labels: Option<&Labels>) -> Option<u64> {
    labels?.keys.as_ref()?.iter().filter_map(|key| key.parse().ok()).filter(|&key| key < u64::from(u32::MAX)).max()
}

/// The label of each vertex.
fn assign(labels: &Labels, path: &Path, edges: &EdgeList, vertices: u64) -> Result<Vec<i64>, DatasetError> {
    let wrong = |what: String| DatasetError::Input(format!("{}: {what}", path.display()));
    let Some(keys) = &labels.keys else {
        if edges.names.is_some() {
            return Err(wrong(
                "the vertices have names: each line needs the vertex, a tab or comma, and its label".into(),
            ));
        }
        check_rows(path, labels.values.len() as u64, vertices, "the graph")?;
        return Ok(labels.values.clone());
    };
    let by_name: Option<HashMap<&str, usize>> =
        edges.names.as_ref().map(|names| names.iter().map(String::as_str).zip(0..).collect());
    let is_line_per_vertex = by_name.is_none() && keys.iter().any(|key| key.parse::<u64>().is_err());
    let mut assigned = vec![UNLABELLED; vertices as usize];
    let mut is_taken = vec![false; vertices as usize];
    for (line, (key, &label)) in keys.iter().zip(&labels.values).enumerate() {
        let vertex = match &by_name {
            Some(by_name) => by_name.get(key.as_str()).copied(),
            None if is_line_per_vertex => Some(line),
            None => key.parse().ok(),
        };
        let Some(slot) = vertex.filter(|&vertex| vertex < assigned.len()) else {
            return Err(wrong(format!("the vertex `{key}` is not one of the {vertices} vertices")));
        };
        if std::mem::replace(&mut is_taken[slot], true) {
            return Err(wrong(format!("the vertex `{key}` is there twice")));
        }
        assigned[slot] = label;
    }
    Ok(assigned)
}
