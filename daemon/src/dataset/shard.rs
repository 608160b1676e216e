//! The rows of one table that one part owns, memory-mapped. Owns a read-only map and the bounds of its rows. It must never
//! be given a file whose length was not checked against its header, nor assume that rows are aligned.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use rudder_client::DType;

use super::error::DatasetError;
use super::manifest::{ShardManifest, TableManifest, resolve};
use super::map::{Access, map};
use super::npy::NpyHeader;

/// Rows of a shard, row-major, little endian, without padding.
#[derive(Debug)]
pub struct Shard {
    map: Mmap,
    data_offset: usize,
    rows: u64,
    row_bytes: usize,
    path: PathBuf,
}

impl Shard {
    /// The bytes of a row; `None` when the shard has no such row. Not aligned.
    #[inline]
    #[must_use]
    pub fn row(&self, row: u64) -> Option<&[u8]> {
        if row >= self.rows {
            return None;
        }
        let start = row as usize * self.row_bytes;
        self.bytes().get(start..start + self.row_bytes)
    }

    /// All rows: `rows() * row_bytes` bytes.
    #[inline]
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.map[self.data_offset..]
    }

    /// Number of rows.
    #[inline]
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Bytes of a row.
    #[inline]
    #[must_use]
    pub fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    /// The file behind the shard.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the shard of `table` that `manifest` describes, checking header and length.
    pub(crate) fn open(dir: &Path, table: &TableManifest, manifest: &ShardManifest) -> Result<Self, DatasetError> {
        let path = resolve(dir, &manifest.file);
        let (file, header) = open_listed_npy(&path)?;
        if !header.element.is_same_bytes(table.dtype) {
            return Err(wrong_dtype(&path, &header, table.dtype));
        }
        if header.rows() != manifest.rows || header.width() != u64::from(table.width) {
            return Err(DatasetError::ShapeMismatch {
                path,
                found: header.shape,
                expected_rows: manifest.rows,
                expected_width: u64::from(table.width),
            });
        }
        let found = file.metadata().map_err(DatasetError::io(&path, "read the length"))?.len();
        if found != manifest.file.bytes {
            return Err(DatasetError::SizeMismatch { path, found, expected: manifest.file.bytes });
        }
        let map = map(&file, Access::Random).map_err(DatasetError::io(&path, "map"))?;
        let row_bytes = table.width as usize * table.dtype.size();
        Ok(Self { map, data_offset: header.data_offset as usize, rows: manifest.rows, row_bytes, path })
    }
}

fn wrong_dtype(path: &Path, header: &NpyHeader, expected: DType) -> DatasetError {
    DatasetError::WrongDType { path: path.to_owned(), found: header.element, expected: expected.to_string() }
}

/// Opens a `.npy` file and checks that it is as long as its header promises, no shorter and no longer.
pub(crate) fn open_npy(path: &Path) -> Result<(File, NpyHeader), DatasetError> {
    let mut file = File::open(path).map_err(DatasetError::io(path, "open"))?;
    let header = NpyHeader::read(&mut file).map_err(DatasetError::npy(path))?;
    let expected = header.data_offset + header.data_bytes().map_err(DatasetError::npy(path))?;
    let found = file.metadata().map_err(DatasetError::io(path, "read the length"))?.len();
    if found < expected {
        return Err(DatasetError::Truncated { path: path.to_owned(), found, expected });
    }
    if found > expected {
        return Err(DatasetError::SizeMismatch { path: path.to_owned(), found, expected });
    }
    Ok((file, header))
}

/// [`open_npy`] of a file that the manifest names.
pub(crate) fn open_listed_npy(path: &Path) -> Result<(File, NpyHeader), DatasetError> {
    open_npy(path).map_err(|error| match error {
        DatasetError::Io { path, source, .. } if source.kind() == io::ErrorKind::NotFound => {
            DatasetError::FileMissing { path }
        }
        other => other,
    })
}
