//! `rudder import npy` and `safetensors`: arrays with one row per id, split over the parts. It must never relabel: ids
//! stay what they are.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::array::{ArrayFile, PieceBuffers, Wanted, read_integers};
use crate::input::{Input, Scratch};
use crate::source::{ArraySource, Safetensors, open_source};
use crate::target::{Existing, check_target};
use crate::writer::{BookSpec, DatasetWriter};
use crate::{ArrayTable, ImportSummary, Progress, Stage, check_once, check_rows};
use rudder_dataset::{DatasetError, PartitionBook, table_name};

/// Rows are read in pieces of about this many bytes.
const PIECE_BYTES: usize = 4 << 20;

/// How ids are spread over parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BookChoice {
    /// Even contiguous ranges.
    Ranges,
    /// `.npy` with the owner of each id.
    Map(PathBuf),
}

/// What to import.
#[derive(Clone, Debug)]
pub struct NpyImport {
    /// Name of the dataset.
    pub name: String,
    /// Folder to write.
    pub out: PathBuf,
    /// Number of parts.
    pub parts: u16,
    /// The arrays.
    pub tables: Vec<ArrayTable>,
    /// The book of each vertex type; even ranges for those that are not here.
    pub books: BTreeMap<String, BookChoice>,
    /// What may become of a folder that is there already.
    pub existing: Existing,
}

/// Writes the arrays as a dataset.
///
/// # Errors
/// [`DatasetError`] naming the file at fault. The output folder is then as it was.
pub fn import_npy(import: &NpyImport, progress: &Progress<'_>) -> Result<ImportSummary, DatasetError> {
    check_target(&import.out, import.existing)?;
    let maps = import.books.values().filter_map(|book| match book {
        BookChoice::Map(path) => Some(path.as_path()),
        BookChoice::Ranges => None,
    });
    check_once(import.tables.iter().map(|table| table.source.path.as_path()).chain(maps))?;
    let scratch = Scratch::beside(&import.out);
    let arrays = open_tables(&import.tables, &scratch)?;
    write_arrays(import, &arrays, &scratch, progress)
}

/// Opens the array of each table.
pub(super) fn open_tables(tables: &[ArrayTable], scratch: &Scratch) -> Result<Vec<ArrayFile>, DatasetError> {
    tables.iter().map(|table| open_source(&table.source, Wanted::of(table), scratch)).collect()
}

/// Writes arrays that are open; one for each table of `import`.
pub(super) fn write_arrays(
    import: &NpyImport,
    arrays: &[ArrayFile],
    scratch: &Scratch,
    progress: &Progress<'_>,
) -> Result<ImportSummary, DatasetError> {
    let mut writer = DatasetWriter::create(&import.out, &import.name, import.parts, import.existing)?;
    add_books(&mut writer, import, arrays, scratch)?;
    let total = arrays.iter().map(|array| array.rows() * array.form().row_bytes() as u64).sum();
    let mut done = 0;
    progress(Stage::Write, 0, total);
    for (table, array) in import.tables.iter().zip(arrays) {
        let mut rows = writer.add_table_of(&table.name, &table.vertex_type, array.form().clone())?;
        let piece_rows = (PIECE_BYTES / array.form().row_bytes()).max(1);
        let mut buffers = PieceBuffers::default();
        let mut first = 0;
        while first < array.rows() {
            let count = (array.rows() - first).min(piece_rows as u64);
            let piece = array.read_rows(first, count as usize, &mut buffers)?;
            rows.append(piece)?;
            done += piece.len() as u64;
            progress(Stage::Write, done, total);
            first += count;
        }
        writer.close_table(rows)?;
    }
    let manifest = writer.finish()?;
    let mut summary = ImportSummary::new(&import.out, &manifest, None);
    summary.set_losses(arrays);
    summary.notes.push("ids are those of the arrays' rows: original ids and dataset ids are the same".into());
    Ok(summary)
}

/// A table for each `.npy` file of a folder, named as the file, after its type.
///
/// # Errors
/// [`DatasetError`]: the folder cannot be read, or holds no such file.
pub fn npy_folder(dir: &Path, vertex_type: &str) -> Result<Vec<ArrayTable>, DatasetError> {
    let unreadable = || DatasetError::io(dir, "read the folder");
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(unreadable())? {
        let path = entry.map_err(unreadable())?.path();
        if path.extension().is_some_and(|extension| extension == "npy") && path.is_file() {
            paths.push(path);
        }
    }
    if paths.is_empty() {
        return Err(DatasetError::Input(format!("{}: no .npy file in this folder", dir.display())));
    }
    paths.sort();
    let tables = paths.into_iter().map(|path| ArrayTable {
        name: table_name(vertex_type, &path.file_stem().unwrap_or_default().to_string_lossy()),
        vertex_type: vertex_type.to_owned(),
        source: ArraySource::file(path),
        dtype: None,
        lossy: false,
    });
    Ok(tables.collect())
}

/// A table for each tensor of a `.safetensors` file, named as the tensor, after its type.
///
/// # Errors
/// [`DatasetError`]: the file cannot be read, or holds no tensor.
pub fn safetensors_tables(path: &Path, vertex_type: &str) -> Result<Vec<ArrayTable>, DatasetError> {
    let file = Safetensors::open(Input::open(path)?, &Scratch::beside(path))?;
    let tables: Vec<ArrayTable> = file
        .names()
        .into_iter()
        .map(|name| ArrayTable {
            name: table_name(vertex_type, &name),
            source: ArraySource { path: path.to_owned(), member: Some(name) },
            vertex_type: vertex_type.to_owned(),
            dtype: None,
            lossy: false,
        })
        .collect();
    if tables.is_empty() {
        return Err(DatasetError::Input(format!("{}: holds no tensor", path.display())));
    }
    Ok(tables)
}

/// Adds the book of each vertex type that a table names, and checks that the tables of a type have the same rows.
fn add_books(
    writer: &mut DatasetWriter,
    import: &NpyImport,
    arrays: &[ArrayFile],
    scratch: &Scratch,
) -> Result<(), DatasetError> {
    let mut firsts: Vec<(&str, &ArrayFile)> = Vec::new();
    for (table, array) in import.tables.iter().zip(arrays) {
        match firsts.iter().find(|(vertex_type, _)| *vertex_type == table.vertex_type) {
            Some((_, first)) => {
                check_rows(array.name(), array.rows(), first.rows(), first.name())?;
            }
            None => firsts.push((&table.vertex_type, array)),
        }
    }
    if let Some(unused) = import.books.keys().find(|name| firsts.iter().all(|(used, _)| used != name)) {
        return Err(DatasetError::Input(format!("a partition book for vertex type `{unused}`, which no table has")));
    }
    for (vertex_type, array) in firsts {
        match import.books.get(vertex_type).unwrap_or(&BookChoice::Ranges) {
            BookChoice::Ranges => {
                let book = PartitionBook::even_ranges(array.rows(), import.parts);
                let starts = book.as_ranges().unwrap_or_default();
                writer.add_book(vertex_type, BookSpec::Ranges(starts))?;
            }
            BookChoice::Map(path) => {
                let owners = read_integers(Input::open(path)?, scratch)?;
                check_rows(&path.display().to_string(), owners.len() as u64, array.rows(), array.name())?;
                let mut narrow = Vec::with_capacity(owners.len());
                for (id, owner) in (0u64..).zip(owners) {
                    let part = u16::try_from(owner).ok().filter(|&part| part < import.parts);
                    let (path, parts) = (path.clone(), import.parts);
                    narrow.push(part.ok_or(DatasetError::OwnerOutOfRange { path, id, owner, parts })?);
                }
                writer.add_book(vertex_type, BookSpec::Map { owner: &narrow })?;
            }
        }
    }
    Ok(())
}
