//! `rudder import distdgl`: a DistDGL partition becomes a dataset with checksums, whose rows stay in the `.dgl` files
//! or are copied out of them. Ids are DistDGL's own, those that `g.nodes[type].data[name][ids]` takes. It must never
//! change the partition.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::linked::TensorPiece;
use crate::writer::{BookSpec, DatasetWriter};
use crate::{Existing, ImportSummary, Progress, Stage};
use rudder_dataset::{
    BookManifest, DatasetError, DistDgl, FileManifest, Manifest, Part, Place, RowForm, TableManifest, manifest::resolve,
};

/// Rows are copied in pieces of about this many bytes.
const PIECE_BYTES: u64 = 4 << 20;

/// What to import.
#[derive(Clone, Debug)]
pub struct DistDglImport {
    /// The JSON file of the partition.
    pub graph: PathBuf,
    /// Folder to write.
    pub out: PathBuf,
    /// Name of the dataset; the graph's own when not given.
    pub name: Option<String>,
    /// Whether rows are copied; else the dataset links to the files that hold them.
    pub copy: bool,
    /// What may become of a folder that is there already.
    pub existing: Existing,
}

/// What was made of a DistDGL partition.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DistDglSummary {
    /// The dataset.
    #[serde(flatten)]
    pub dataset: ImportSummary,
    /// Bytes of rows that were copied: 0 when the dataset links to the files.
    pub copied_bytes: u64,
    /// Bytes of rows that stay in the partition's files.
    pub linked_bytes: u64,
    /// Features that no table can hold, with the reason.
    pub skipped: Vec<String>,
}

/// Writes a dataset of a DistDGL partition. The files of all parts must be on this machine.
///
/// # Errors
/// [`DatasetError`] naming the file at fault. The output folder is then as it was.
pub fn import_distdgl(import: &DistDglImport, progress: &Progress<'_>) -> Result<DistDglSummary, DatasetError> {
    let DistDgl { manifest, skipped, .. } = DistDgl::read(&import.graph, None)?;
    let dir = import.graph.parent().unwrap_or_else(|| Path::new(""));
    let name = import.name.as_ref().unwrap_or(&manifest.name);
    let mut writer = DatasetWriter::create(&import.out, name, manifest.parts, import.existing)?;
    for vertex_type in &manifest.vertex_types {
        if let BookManifest::Ranges { starts } = &vertex_type.book {
            writer.add_book(&vertex_type.name, BookSpec::Ranges(starts))?;
        }
    }
    let total = bytes_of(&manifest);
    let stage = if import.copy { Stage::Write } else { Stage::Read };
    let done = std::cell::Cell::new(0);
    let advance = |bytes| {
        done.set(done.get() + bytes);
        progress(stage, done.get(), total);
    };
    progress(stage, 0, total);
    for table in &manifest.tables {
        let pieces: Vec<TensorPiece> =
            table.shards.iter().map(|shard| piece(dir, &shard.file)).collect::<Result<_, _>>()?;
        if import.copy {
            copy(&mut writer, table, &pieces, &advance)?;
        } else {
            writer.add_linked_table(&table.name, &table.vertex_type, &form_of(table)?, &pieces, &advance)?;
        }
    }
    let written = writer.finish()?;
    let (copied_bytes, linked_bytes) = if import.copy { (total, 0) } else { (0, total) };
    let dataset = ImportSummary::new(&import.out, &written, None);
    Ok(DistDglSummary { dataset, copied_bytes, linked_bytes, skipped })
}

fn form_of(table: &TableManifest) -> Result<RowForm, DatasetError> {
    table.form().map_err(|error| DatasetError::Input(format!("table `{}`: {error}", table.name)))
}

fn bytes_of(manifest: &Manifest) -> u64 {
    let bytes = |table: &TableManifest| table.rows * u64::from(table.width) * table.dtype.size() as u64;
    manifest.tables.iter().map(bytes).sum()
}

fn piece(dir: &Path, file: &FileManifest) -> Result<TensorPiece, DatasetError> {
    let path = resolve(dir, file);
    match file.place() {
        Place::Piece(offset) => Ok(TensorPiece { path, offset }),
        Place::Whole | Place::Elsewhere => Err(DatasetError::FileMissing { path }),
    }
}

fn copy(
    writer: &mut DatasetWriter,
    table: &TableManifest,
    pieces: &[TensorPiece],
    advance: &dyn Fn(u64),
) -> Result<(), DatasetError> {
    let mut rows = writer.add_table_of(&table.name, &table.vertex_type, form_of(table)?)?;
    let row_bytes = rows.row_bytes() as u64;
    let piece_rows = (PIECE_BYTES / row_bytes).max(1);
    let mut buffer = Vec::new();
    for ((part, shard), TensorPiece { path, offset }) in (0..).map(Part).zip(&table.shards).zip(pieces) {
        let file = File::open(path).map_err(DatasetError::io(path, "open"))?;
        let mut row = 0;
        while row < shard.rows {
            let count = piece_rows.min(shard.rows - row);
            buffer.resize((count * row_bytes) as usize, 0);
            file.read_exact_at(&mut buffer, offset + row * row_bytes).map_err(DatasetError::io(path, "read"))?;
            rows.write_rows(part, &buffer)?;
            advance(buffer.len() as u64);
            row += count;
        }
    }
    writer.close_table(rows)
}
