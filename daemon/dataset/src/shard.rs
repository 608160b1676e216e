//! The rows of one table that one part owns, memory-mapped or read by blocks. Owns the way to them and the bounds of
//! the rows. It must never be given a file whose length was not checked against its header, nor assume that rows are
//! aligned.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;
use rudder_client::DType;

use super::blocks::{BlockCache, BlockShard, Layout};
use super::error::DatasetError;
use super::manifest::{Place, ShardManifest, TableManifest, resolve};
use super::map::{ReadOrder, map_piece};
use super::npy::{NpyHeader, Shape};
use super::part::LocalRow;

/// Rows of a shard, row-major, little endian, without padding.
#[derive(Debug)]
pub struct Shard {
    way: Way,
    rows: u64,
    row_bytes: usize,
    path: PathBuf,
}

/// How the rows are had.
#[derive(Debug)]
enum Way {
    Mapped(Mmap),
    Blocks(BlockShard),
}

impl Shard {
    /// The bytes of a row; `None` when the shard has no such row, or is read by [`Shard::blocks`]. Not aligned.
    #[inline]
    #[must_use]
    pub fn row(&self, row: LocalRow) -> Option<&[u8]> {
        if row.0 >= self.rows {
            return None;
        }
        let start = row.0 as usize * self.row_bytes;
        self.bytes()?.get(start..start + self.row_bytes)
    }

    /// All rows, `rows() * row_bytes` bytes; `None` when the shard is not mapped.
    #[inline]
    #[must_use]
    pub fn bytes(&self) -> Option<&[u8]> {
        match &self.way {
            Way::Mapped(map) => Some(map),
            Way::Blocks(_) => None,
        }
    }

    /// The way to the rows when the shard is not mapped.
    #[must_use]
    pub fn blocks(&self) -> Option<&BlockShard> {
        match &self.way {
            Way::Mapped(_) => None,
            Way::Blocks(blocks) => Some(blocks),
        }
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

    /// Opens the shard of `table` that `manifest` describes, checking header and length. With `blocks` (a cache, and
    /// the table's number) it is read by blocks, else mapped.
    pub fn open(
        dir: &Path,
        table: &TableManifest,
        manifest: &ShardManifest,
        blocks: Option<(&Arc<BlockCache>, u16)>,
    ) -> Result<Self, DatasetError> {
        let path = resolve(dir, &manifest.file);
        let (file, data_offset) = match manifest.file.place() {
            Place::Whole => open_whole(&path, table, manifest)?,
            Place::Piece(offset) => (open_piece(&path, offset, manifest.file.bytes)?, offset),
            Place::Elsewhere => return Err(DatasetError::FileMissing { path }),
        };
        let row_bytes = table.width as usize * table.dtype.size();
        let rows = manifest.rows;
        let way = match blocks {
            None => {
                let map = map_piece(&file, ReadOrder::Random, data_offset, rows * row_bytes as u64);
                Way::Mapped(map.map_err(DatasetError::io(&path, "map"))?)
            }
            Some((cache, table)) => {
                let layout = Layout { table, path: &path, data_offset, rows, row_bytes };
                Way::Blocks(BlockShard::open(cache, &layout, file)?)
            }
        };
        Ok(Self { way, rows, row_bytes, path })
    }
}

/// Opens the `.npy` file of a shard, and says where its first row begins.
fn open_whole(path: &Path, table: &TableManifest, shard: &ShardManifest) -> Result<(File, u64), DatasetError> {
    let (file, header) = open_listed_npy(path)?;
    if !header.element.is_same_bytes(table.dtype) {
        return Err(wrong_dtype(path, &header, table.dtype));
    }
    let is_row = match &table.shape {
        Some(shape) => header.row_shape().iter().copied().eq(shape.iter().copied().map(u64::from)),
        // From before shapes were kept.
        None => header.width() == u64::from(table.width),
    };
    if header.rows() != shard.rows || !is_row {
        let row = table.shape.clone().unwrap_or_else(|| vec![table.width]);
        return Err(DatasetError::ShapeMismatch {
            path: path.to_owned(),
            found: header.shape,
            expected: Shape(std::iter::once(shard.rows).chain(row.into_iter().map(u64::from)).collect()),
        });
    }
    let found = file.metadata().map_err(DatasetError::io(path, "read the length"))?.len();
    if found != shard.file.bytes {
        return Err(DatasetError::SizeMismatch { path: path.to_owned(), found, expected: shard.file.bytes });
    }
    Ok((file, header.data_offset))
}

/// Opens a file that holds a piece, and checks that it reaches to the piece's end.
fn open_piece(path: &Path, offset: u64, bytes: u64) -> Result<File, DatasetError> {
    let file = open_listed(path)?;
    let found = file.metadata().map_err(DatasetError::io(path, "read the length"))?.len();
    let expected = offset.saturating_add(bytes);
    if found < expected {
        return Err(DatasetError::PieceTruncated { path: path.to_owned(), found, offset, bytes });
    }
    Ok(file)
}

fn wrong_dtype(path: &Path, header: &NpyHeader, expected: DType) -> DatasetError {
    DatasetError::WrongDType { path: path.to_owned(), found: header.element, expected: expected.to_string() }
}

/// Opens a `.npy` file and checks that it is as long as its header promises, no shorter and no longer.
pub fn open_npy(path: &Path) -> Result<(File, NpyHeader), DatasetError> {
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
pub fn open_listed_npy(path: &Path) -> Result<(File, NpyHeader), DatasetError> {
    open_npy(path).map_err(listed)
}

/// Opens a file that the manifest names.
pub(crate) fn open_listed(path: &Path) -> Result<File, DatasetError> {
    File::open(path).map_err(DatasetError::io(path, "open")).map_err(listed)
}

/// What the absence of a file means where the manifest names it.
fn listed(error: DatasetError) -> DatasetError {
    match error {
        DatasetError::Io { path, source, .. } if source.kind() == io::ErrorKind::NotFound => {
            DatasetError::FileMissing { path }
        }
        other => other,
    }
}
