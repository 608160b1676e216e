//! `rudder import npy`: arrays with one row per id, split over the parts. It must never relabel: ids stay what they
//! are.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::array::{ArrayFile, PieceBuffers, read_integers};
use crate::writer::{BookSpec, DatasetWriter, Existing};
use crate::{ArrayTable, ImportSummary, Progress, Stage, check_rows};
use rudder_dataset::DatasetError;
use rudder_dataset::PartitionBook;

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
    let mut arrays = Vec::with_capacity(import.tables.len());
    for table in &import.tables {
        arrays.push(ArrayFile::open(&table.path, table.dtype)?);
    }
    let mut writer = DatasetWriter::create(&import.out, &import.name, import.parts, import.existing)?;
    add_books(&mut writer, import, &arrays)?;
    let total = arrays.iter().map(|array| array.rows() * array.row_bytes() as u64).sum();
    let mut done = 0;
    progress(Stage::Write, 0, total);
    for (table, array) in import.tables.iter().zip(&arrays) {
        let mut rows = writer.add_table(&table.name, &table.vertex_type, array.dtype(), array.width())?;
        let piece_rows = (PIECE_BYTES / array.row_bytes()).max(1);
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
    Ok(ImportSummary::new(&import.out, &manifest, None))
}

/// Adds the book of each vertex type that a table names, and checks that the tables of a type have the same rows.
fn add_books(writer: &mut DatasetWriter, import: &NpyImport, arrays: &[ArrayFile]) -> Result<(), DatasetError> {
    let mut firsts: Vec<(&str, &ArrayFile)> = Vec::new();
    for (table, array) in import.tables.iter().zip(arrays) {
        match firsts.iter().find(|(vertex_type, _)| *vertex_type == table.vertex_type) {
            Some((_, first)) => {
                check_rows(array.path(), array.rows(), first.rows(), &first.path().display().to_string())?;
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
                let owners = read_integers(path, 1)?;
                check_rows(path, owners.len() as u64, array.rows(), &array.path().display().to_string())?;
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
