//! `rudder import edges`: an edge list with labels and arrays becomes a partitioned, relabelled dataset. It must never
//! lose which vertex was which, nor guess which row is whose.

use std::path::{Path, PathBuf};

use crate::array::ArrayFile;
use crate::edge_list::{EdgeLayout, EdgeList, EdgeOptions, read_edges_with};
use crate::graph::{Column, GraphInput, LABEL_TABLE, Target, write_graph};
use crate::input::Scratch;
use crate::label_join::{Joined, Vertices, join};
use crate::labels::LabelText;
use crate::npy::open_tables;
use crate::target::{Existing, check_target};
use crate::vertices::{Names, RowCount, VertexSource};
use crate::{ArrayTable, ImportSummary, Progress, Stage, check_once, check_rows};
use rudder_dataset::DatasetError;

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
    /// The edge list: see [`crate::read_edges`].
    pub edges: PathBuf,
    /// Columns of the two ends in a text, from 1.
    pub columns: Option<(usize, usize)>,
    /// How an array of edges lies.
    pub layout: Option<EdgeLayout>,
    /// Labels: text with one label per line, or with a vertex and its label.
    pub labels: Option<PathBuf>,
    /// Whether labels are names of classes even where they look like integers.
    pub classes: bool,
    /// How many vertices there are, or who they are.
    pub vertices: Option<VertexSource>,
    /// Arrays with one row per vertex. Their `vertex_type` is not used: there is only one.
    pub tables: Vec<ArrayTable>,
    /// Name of the vertex type.
    pub vertex_type: String,
    /// Whether vertices are names even where they look like integers.
    pub force_names: bool,
    /// Whether vertices keep their ids.
    pub keep_ids: bool,
    /// What may become of a folder that is there already.
    pub existing: Existing,
}

/// Reads, partitions, relabels and writes.
///
/// # Errors
/// [`DatasetError`] naming the file at fault. The output folder is then as it was.
pub fn import_edges(import: &EdgesImport, progress: &Progress<'_>) -> Result<ImportSummary, DatasetError> {
    check_target(&import.out, import.existing)?;
    let listed = match &import.vertices {
        Some(VertexSource::Names(path)) => Some(path.as_path()),
        _ => None,
    };
    let sources = import.tables.iter().map(|table| table.source.path.as_path());
    check_once(sources.chain([import.edges.as_path()]).chain(import.labels.as_deref()).chain(listed))?;
    let scratch = Scratch::beside(&import.out);
    let read = |done, total| progress(Stage::Read, done, total);
    let arrays = open_tables(&import.tables, &scratch)?;
    let names = listed.map(|path| Names::read(path, &scratch, &read)).transpose()?;
    let rows = count_rows(import, &arrays, names.as_ref())?;
    let options = EdgeOptions {
        force_names: import.force_names,
        vertices: names,
        columns: import.columns,
        layout: import.layout,
        rows: rows.clone(),
    };
    let mut edges = read_edges_with(&import.edges, options, &scratch, &read)?;
    let joined = match &import.labels {
        Some(path) => Some(join_labels(import, path, &mut edges, rows.as_ref(), &read)?),
        None => None,
    };
    let vertices = settle(&edges, rows.as_ref(), joined.as_ref())?;
    let mut notes = std::mem::take(&mut edges.notes);
    notes.extend(check_join(import, &edges, joined.as_ref())?);
    let mut columns = Vec::new();
    let mut label_names = None;
    if let Some(joined) = joined {
        notes.extend(joined.notes);
        label_names = joined.vertex_names;
        columns.push(Column { name: LABEL_TABLE.to_owned(), values: joined.values, classes: joined.classes });
    }
    let input = GraphInput {
        path: import.edges.clone(),
        edges: edges.edges,
        vertices,
        names: edges.names.as_ref().map(Names::list).or(label_names.as_deref()),
        tables: import.tables.iter().map(|table| table.name.clone()).collect(),
        arrays,
        columns,
        notes,
    };
    let target = Target {
        name: &import.name,
        out: &import.out,
        parts: import.parts,
        seed: import.seed,
        vertex_type: &import.vertex_type,
        keep_ids: import.keep_ids,
        existing: import.existing,
    };
    write_graph(&target, input, progress)
}

/// The number of vertices, where something other than edges and labels says it.
fn count_rows(
    import: &EdgesImport,
    arrays: &[ArrayFile],
    names: Option<&Names>,
) -> Result<Option<RowCount>, DatasetError> {
    let mut count = match (&import.vertices, names) {
        (Some(VertexSource::Count(rows)), _) => Some(RowCount { rows: *rows, by: format!("--vertices {rows}") }),
        (Some(VertexSource::Names(path)), Some(names)) => {
            Some(RowCount { rows: names.len(), by: path.display().to_string() })
        }
        _ => None,
    };
    for array in arrays {
        match &count {
            Some(RowCount { rows, by }) => check_rows(array.name(), array.rows(), *rows, by)?,
            None => count = Some(RowCount { rows: array.rows(), by: array.name().to_owned() }),
        }
    }
    Ok(count)
}

fn join_labels(
    import: &EdgesImport,
    path: &Path,
    edges: &mut EdgeList,
    rows: Option<&RowCount>,
    progress: &dyn Fn(u64, u64),
) -> Result<Joined, DatasetError> {
    let text = LabelText::read(path, edges.names.as_ref(), progress)?;
    let named = edges.vertices;
    let vertices = Vertices { names: edges.names.as_mut(), rows, named, edges: &mut edges.edges };
    let joined = join(text, vertices, import.classes)?;
    if let Some(names) = &edges.names {
        edges.vertices = names.len();
    }
    Ok(joined)
}

/// The number of vertices.
fn settle(edges: &EdgeList, rows: Option<&RowCount>, joined: Option<&Joined>) -> Result<u64, DatasetError> {
    let found = edges.vertices.max(joined.map_or(0, |joined| joined.values.len() as u64));
    match rows {
        Some(RowCount { rows, by }) if edges.names.is_some() && found != *rows => Err(DatasetError::Input(format!(
            "{by} has {rows} rows, but edges and labels name {found} vertices: list the names of all rows in their order \
             (--vertices FILE)"
        ))),
        Some(count) => Ok(count.rows),
        None => Ok(found),
    }
}

/// Says how rows of tables find their vertices; fails when nothing says so.
fn check_join(import: &EdgesImport, edges: &EdgeList, joined: Option<&Joined>) -> Result<Vec<String>, DatasetError> {
    let Some(table) = import.tables.first() else { return Ok(Vec::new()) };
    let Some(names) = &edges.names else {
        return Ok(vec!["rows of tables belong to the vertices 0, 1, ... in the order of original ids".into()]);
    };
    let order = match (names.source(), &import.labels, joined) {
        (Some(source), ..) => source,
        // The labels name all vertices, and their order is that of the original ids.
        (None, Some(labels), Some(joined)) if joined.names_all => labels,
        _ => {
            return Err(DatasetError::Input(format!(
                "{}: the vertices of {} have names, and nothing says which row belongs to which: list the names in the \
                 order of the rows (--vertices FILE)",
                table.source.path.display(),
                import.edges.display()
            )));
        }
    };
    Ok(vec![format!("rows of tables belong to the vertices in the order of {}", order.display())])
}
