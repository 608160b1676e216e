//! `rudder import ogb`: a folder of the Open Graph Benchmark as it was downloaded, in CSV, in binary, or as MAG240M
//! lies. Owns where its files are and what they are called. It must never take one file for another: what is missing or
//! of another number of rows is an error.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufWriter, IntoInnerError, Write as _};
use std::path::{Path, PathBuf};

use rudder_client::DType;

use crate::array::{ArrayFile, PieceBuffers, Wanted, open_array};
use crate::edge_list::{EdgeLayout, EdgeList, EdgeOptions, collect_array, read_edges_with};
use crate::graph::{GraphInput, LABEL_TABLE, Target, write_graph};
use crate::input::{Input, Scratch};
use crate::npy::{BookChoice, NpyImport, write_arrays};
use crate::ogb_text::{read_list, read_matrix};
use crate::source::{ArraySource, Npz, open_source};
use crate::target::{Existing, check_target};
use crate::vertices::RowCount;
use crate::{ArrayTable, ImportSummary, Progress, Stage, check_rows};
use rudder_dataset::npy::{NpyType, Shape};
use rudder_dataset::{DatasetError, table_name};

/// Name of the table of features.
const FEATURE_TABLE: &str = "feat";

/// Rows that are looked at together.
const PIECE_ROWS: u64 = 1 << 16;

/// Files of a split, and the tables that they become.
const SPLITS: [(&str, &str); 3] = [("train", "train_mask"), ("valid", "val_mask"), ("test", "test_mask")];

/// What to import.
#[derive(Clone, Debug)]
pub struct OgbImport {
    /// Name of the dataset.
    pub name: String,
    /// Folder to write.
    pub out: PathBuf,
    /// Number of parts.
    pub parts: u16,
    /// Seed of the partitioner.
    pub seed: i32,
    /// The folder of the download, which holds `raw`, or `processed` for MAG240M.
    pub dir: PathBuf,
    /// Element type of the features; their own when not given.
    pub dtype: Option<DType>,
    /// Whether features that the element type does not hold may become infinite or 0.
    pub lossy: bool,
    /// Name of the vertex type.
    pub vertex_type: String,
    /// Whether vertices keep their ids.
    pub keep_ids: bool,
    /// Who owns which id: then edges are not read, and ids are kept. Without it, METIS decides.
    pub book: Option<BookChoice>,
    /// What may become of a folder that is there already.
    pub existing: Existing,
}

/// How the files lie, and where.
enum Layout {
    Csv(PathBuf),
    Binary(PathBuf),
    /// The folder of the papers, and the array of their citations.
    Mag(PathBuf, Option<PathBuf>),
}

/// What was found.
struct Found {
    /// Vertices, and who says so.
    rows: RowCount,
    tables: Vec<(String, ArrayFile)>,
    notes: Vec<String>,
}

/// Reads, partitions, relabels and writes.
///
/// # Errors
/// [`DatasetError`] naming the file at fault. The output folder is then as it was.
pub fn import_ogb(import: &OgbImport, progress: &Progress<'_>) -> Result<ImportSummary, DatasetError> {
    check_target(&import.out, import.existing)?;
    let scratch = Scratch::beside(&import.out);
    let read = |done, total| progress(Stage::Read, done, total);
    let reader = Reader { import, scratch: &scratch, progress: &read };
    let layout = find(&import.dir)?;
    let mut found = match &layout {
        Layout::Csv(raw) => reader.csv(raw)?,
        Layout::Binary(raw) => reader.binary(raw)?,
        Layout::Mag(paper, _) => reader.mag(paper)?,
    };
    reader.add_masks(&layout, &mut found)?;
    for (_, array) in &found.tables {
        check_rows(array.name(), array.rows(), found.rows.rows, &found.rows.by)?;
    }
    let Some(book) = &import.book else {
        let (path, edges) = reader.edges(&layout, &found.rows)?;
        return write_with_edges(import, (path, edges), found, progress);
    };
    let (tables, arrays): (Vec<ArrayTable>, Vec<ArrayFile>) = found
        .tables
        .into_iter()
        .map(|(name, array)| {
            let source = ArraySource::file(array.name());
            let vertex_type = import.vertex_type.clone();
            let (name, dtype) = (table_name(&vertex_type, &name), Some(array.form().dtype()));
            (ArrayTable { name, vertex_type, source, dtype, lossy: import.lossy }, array)
        })
        .unzip();
    let arrays_import = NpyImport {
        name: import.name.clone(),
        out: import.out.clone(),
        parts: import.parts,
        tables,
        books: BTreeMap::from([(import.vertex_type.clone(), book.clone())]),
        existing: import.existing,
    };
    let mut summary = write_arrays(&arrays_import, &arrays, &scratch, progress)?;
    summary.notes.extend(found.notes);
    summary.notes.push("edges were not read: --book says who owns which id".into());
    Ok(summary)
}

fn write_with_edges(
    import: &OgbImport,
    (path, edges): (PathBuf, EdgeList),
    found: Found,
    progress: &Progress<'_>,
) -> Result<ImportSummary, DatasetError> {
    let mut notes = edges.notes;
    notes.extend(found.notes);
    let (tables, arrays) = found.tables.into_iter().unzip();
    let (vertices, names, columns) = (found.rows.rows, None, Vec::new());
    let input = GraphInput { path, edges: edges.edges, vertices, names, tables, arrays, columns, notes };
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

/// `name` in `dir`, packed or not.
fn file(dir: &Path, name: &str) -> Option<PathBuf> {
    [format!("{name}.gz"), name.to_owned()].into_iter().map(|name| dir.join(name)).find(|path| path.is_file())
}

fn find(dir: &Path) -> Result<Layout, DatasetError> {
    for raw in [dir.join("raw"), dir.to_owned()] {
        if file(&raw, "edge.csv").is_some() {
            return Ok(Layout::Csv(raw));
        }
        if raw.join("data.npz").is_file() {
            return Ok(Layout::Binary(raw));
        }
        if file(&raw, "nodetype-has-feat.csv").is_some() || file(&raw, "triplet-type-list.csv").is_some() {
            return Err(DatasetError::Input(format!(
                "{}: a graph of several vertex types: save the features of each type as .npy, and import them with \
                 `rudder import npy --table NAME@TYPE=FILE`",
                raw.display()
            )));
        }
    }
    for above in [dir.join("processed"), dir.to_owned()] {
        for paper in [above.join("paper"), above.clone()] {
            if paper.join("node_feat.npy").is_file() {
                let edges = [above.join("paper___cites___paper").join("edge_index.npy"), paper.join("edge_index.npy")];
                return Ok(Layout::Mag(paper, edges.into_iter().find(|path| path.is_file())));
            }
        }
    }
    Err(DatasetError::Input(format!(
        "{}: no data set of OGB: looked for raw/edge.csv.gz, raw/data.npz and processed/paper/node_feat.npy",
        dir.display()
    )))
}

struct Reader<'a> {
    import: &'a OgbImport,
    scratch: &'a Scratch,
    progress: &'a dyn Fn(u64, u64),
}

impl Reader<'_> {
    fn features(&self) -> Wanted {
        Wanted { dtype: self.import.dtype, lossy: self.import.lossy }
    }

    fn csv(&self, raw: &Path) -> Result<Found, DatasetError> {
        let path = file(raw, "num-node-list.csv");
        let path = path.ok_or_else(|| missing(raw, "num-node-list.csv.gz"))?;
        let rows = one_graph(&path.display().to_string(), &read_list(&path, self.progress)?)?;
        let mut found = Found { rows, tables: Vec::new(), notes: Vec::new() };
        if let Some(path) = file(raw, "node-feat.csv") {
            let array = read_matrix(&path, self.features(), self.scratch, self.progress)?;
            found.tables.push((FEATURE_TABLE.into(), array));
        }
        if let Some(path) = file(raw, "node-label.csv") {
            let labels = read_matrix(&path, Wanted::default(), self.scratch, self.progress)?;
            self.add_labels(labels, &mut found)?;
        }
        for (name, path) in node_files(raw)? {
            let array = read_matrix(&path, Wanted::default(), self.scratch, self.progress)?;
            found.tables.push((name, array));
        }
        if file(raw, "edge-feat.csv").is_some() {
            found.notes.push("edge-feat.csv.gz was not read: tables here have a row per vertex".into());
        }
        Ok(found)
    }

    fn binary(&self, raw: &Path) -> Result<Found, DatasetError> {
        let path = raw.join("data.npz");
        let mut data = Npz::open(Input::open(&path)?, self.scratch)?;
        let counts = data.array("num_nodes_list", Wanted { dtype: Some(DType::I64), lossy: false }, self.scratch)?;
        let rows = one_graph(counts.name(), &counts.read_ids(0, counts.rows().min(PIECE_ROWS))?)?;
        let mut found = Found { rows, tables: Vec::new(), notes: Vec::new() };
        for name in data.names() {
            match name.as_str() {
                "node_feat" => {
                    found.tables.push((FEATURE_TABLE.into(), data.array(&name, self.features(), self.scratch)?));
                }
                "num_nodes_list" | "num_edges_list" | "edge_index" => {}
                other if other.starts_with("node_") => {
                    let array = data.array(&name, Wanted::default(), self.scratch)?;
                    found.tables.push((short(other), array));
                }
                other => found.notes.push(format!("`{other}` was not read: tables here have a row per vertex")),
            }
        }
        let path = raw.join("node-label.npz");
        if path.is_file() {
            let mut labels = Npz::open(Input::open(&path)?, self.scratch)?;
            let name = labels.choose(None)?;
            let labels = labels.array(&name, Wanted::default(), self.scratch)?;
            self.add_labels(labels, &mut found)?;
        }
        Ok(found)
    }

    fn mag(&self, paper: &Path) -> Result<Found, DatasetError> {
        let open = |name: &str, wanted| open_source(&ArraySource::file(paper.join(name)), wanted, self.scratch);
        let features = open("node_feat.npy", self.features())?;
        let rows = RowCount { rows: features.rows(), by: features.name().to_owned() };
        let mut found = Found { rows, tables: vec![(FEATURE_TABLE.into(), features)], notes: Vec::new() };
        if paper.join("node_label.npy").is_file() {
            self.add_labels(open("node_label.npy", Wanted::default())?, &mut found)?;
        }
        if paper.join("node_year.npy").is_file() {
            found.tables.push(("year".into(), open("node_year.npy", Wanted::default())?));
        }
        Ok(found)
    }

    /// Labels become integers where they are: what is not a number is unlabelled (-1).
    fn add_labels(&self, labels: ArrayFile, found: &mut Found) -> Result<(), DatasetError> {
        if labels.form().width() == 1 && matches!(labels.form().dtype(), DType::F16 | DType::F32 | DType::F64) {
            let double = labels.stored_as(DType::F64)?;
            if let Some((file, missing)) = self.integers(&double)? {
                let name = labels.name().to_owned();
                let shape = Shape([vec![labels.rows()], labels.form().sizes()].concat());
                let array = ArrayFile::raw(name, file, shape, NpyType::I64, Wanted::default())?;
                found.tables.push((LABEL_TABLE.into(), array));
                found.notes.push(format!(
                    "{}: {missing} of {} vertices have no label (-1)",
                    labels.name(),
                    labels.rows()
                ));
                return Ok(());
            }
        }
        found.tables.push((LABEL_TABLE.into(), labels));
        Ok(())
    }

    /// A file of the integers that the floats are, and how many are not a number; `None` when one has a fraction.
    fn integers(&self, floats: &ArrayFile) -> Result<Option<(fs::File, u64)>, DatasetError> {
        let failed = || DatasetError::io(Path::new(floats.name()), "copy to a temporary file");
        let mut out = BufWriter::new(self.scratch.file()?);
        let mut buffers = PieceBuffers::default();
        let (mut first, mut missing) = (0, 0);
        while first < floats.rows() {
            let count = (floats.rows() - first).min(PIECE_ROWS);
            for word in floats.read_rows(first, count as usize, &mut buffers)?.as_chunks().0 {
                let label = f64::from_le_bytes(*word);
                missing += u64::from(label.is_nan());
                if label.fract() != 0.0 && !label.is_nan() || label.is_infinite() {
                    return Ok(None);
                }
                let label = if label.is_nan() { crate::labels::UNLABELLED } else { label as i64 };
                out.write_all(&label.to_le_bytes()).map_err(failed())?;
            }
            first += count;
        }
        let file = out.into_inner().map_err(IntoInnerError::into_error).map_err(failed())?;
        Ok(Some((file, missing)))
    }

    /// A table for each list of vertices of the split: true for those on it.
    fn add_masks(&self, layout: &Layout, found: &mut Found) -> Result<(), DatasetError> {
        let dir = &self.import.dir;
        let splits = [dir.join("split"), dir.join("../split")].into_iter().find(|path| path.is_dir());
        let Some(splits) = splits else {
            if matches!(layout, Layout::Mag(..)) {
                found.notes.push("split_dict.pt was not read: it is a pickle".into());
            }
            return Ok(());
        };
        let unreadable = || DatasetError::io(&splits, "read the folder");
        let mut schemes = Vec::new();
        for entry in fs::read_dir(&splits).map_err(unreadable())? {
            let path = entry.map_err(unreadable())?.path();
            if path.is_dir() {
                schemes.push(path);
            }
        }
        let [scheme] = schemes.as_slice() else {
            found.notes.push(format!("{}: {} splits, none was read", splits.display(), schemes.len()));
            return Ok(());
        };
        for (name, table) in SPLITS {
            let Some(path) = file(scheme, &format!("{name}.csv")) else { continue };
            let mut mask = vec![0u8; found.rows.rows as usize];
            for (at, id) in read_list(&path, self.progress)?.into_iter().enumerate() {
                let slot = usize::try_from(id).ok().and_then(|id| mask.get_mut(id));
                *slot.ok_or_else(|| {
                    let (path, by, rows) = (path.display(), &found.rows.by, found.rows.rows);
                    DatasetError::Input(format!("{path}: entry {at}: vertex {id}, but {by} says {rows} vertices"))
                })? = 1;
            }
            let copied = self.scratch.copy(&path, mask.as_slice())?;
            let shape = Shape(vec![found.rows.rows]);
            let array = ArrayFile::raw(path.display().to_string(), copied, shape, NpyType::Bool, Wanted::default())?;
            found.tables.push((table.into(), array));
        }
        Ok(())
    }

    fn edges(&self, layout: &Layout, rows: &RowCount) -> Result<(PathBuf, EdgeList), DatasetError> {
        let options =
            EdgeOptions { rows: Some(rows.clone()), layout: Some(EdgeLayout::Rows), ..EdgeOptions::default() };
        match layout {
            Layout::Csv(raw) => {
                let path = file(raw, "edge.csv").ok_or_else(|| missing(raw, "edge.csv.gz"))?;
                let edges = read_edges_with(&path, options, self.scratch, self.progress)?;
                Ok((path, edges))
            }
            Layout::Binary(raw) => {
                let path = raw.join("data.npz");
                let mut data = Npz::open(Input::open(&path)?, self.scratch)?;
                let (name, file, header) = data.open_array("edge_index", self.scratch)?;
                Ok((path, collect_array(&name, file, &header, options)?))
            }
            Layout::Mag(paper, None) => Err(DatasetError::Input(format!(
                "{}: no citations beside it (paper___cites___paper/edge_index.npy): without edges, say who owns which id \
                 (--book ranges)",
                paper.display()
            ))),
            Layout::Mag(_, Some(path)) => {
                let (file, header) = open_array(Input::open(path)?, self.scratch)?;
                Ok((path.clone(), collect_array(&path.display().to_string(), file, &header, options)?))
            }
        }
    }
}

fn missing(dir: &Path, name: &str) -> DatasetError {
    DatasetError::Input(format!("{}: no {name}: the download is not complete", dir.display()))
}

fn one_graph(name: &str, counts: &[u64]) -> Result<RowCount, DatasetError> {
    match counts {
        [rows] => Ok(RowCount { rows: *rows, by: name.to_owned() }),
        counts => Err(DatasetError::Input(format!(
            "{name}: {} graphs: only data sets of one graph have vertices to be asked for by id",
            counts.len()
        ))),
    }
}

/// `node_year` is the table `year`.
fn short(name: &str) -> String {
    name.strip_prefix("node_").unwrap_or(name).to_owned()
}

/// Further numbers per vertex, such as `node_year.csv.gz`: names of tables, and files.
fn node_files(raw: &Path) -> Result<Vec<(String, PathBuf)>, DatasetError> {
    let unreadable = || DatasetError::io(raw, "read the folder");
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(raw).map_err(unreadable())? {
        let path = entry.map_err(unreadable())?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let stem = name.strip_suffix(".gz").unwrap_or(&name).strip_suffix(".csv");
        if let Some(stem) = stem.filter(|stem| stem.starts_with("node_")) {
            files.insert(short(stem), path);
        }
    }
    Ok(files.into_iter().collect())
}
