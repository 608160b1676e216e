//! The file of a shard, cut into blocks of whole rows, and reads of it. It must never map the file, nor take what a
//! read brought for more than it is: a short read is an error that names file and offset.

use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::error::ReadError;

/// What blocks are read from: a file, or what a test puts in its place.
pub(super) trait ReadAt: Send + Sync {
    /// As [`FileExt::read_at`].
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize>;
}

impl ReadAt for File {
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, into, offset)
    }
}

/// Where a block lies in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) offset: u64,
    pub(super) bytes: usize,
}

/// What happened to a shard's blocks since the start.
#[derive(Debug, Default)]
pub(super) struct ReadCounts {
    /// Rows whose block was in memory.
    pub(super) resident_rows: AtomicU64,
    /// Rows whose block had to be waited for.
    pub(super) awaited_rows: AtomicU64,
    /// Blocks read.
    pub(super) reads: AtomicU64,
    /// Their bytes.
    pub(super) read_bytes: AtomicU64,
    /// Reads that failed.
    pub(super) read_errors: AtomicU64,
    /// Nanoseconds that callers waited.
    pub(super) wait_ns: AtomicU64,
}

/// An open shard.
pub(super) struct ShardFile {
    pub(super) table: u16,
    pub(super) path: PathBuf,
    pub(super) source: Box<dyn ReadAt>,
    /// Where the first row begins.
    pub(super) data_offset: u64,
    pub(super) rows: u64,
    pub(super) row_bytes: usize,
    pub(super) rows_per_block: u64,
    pub(super) counts: ReadCounts,
    /// Whether the last read failed: the log tells of changes only.
    is_failing: AtomicBool,
}

impl fmt::Debug for ShardFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShardFile").field("path", &self.path).field("rows", &self.rows).finish_non_exhaustive()
    }
}

/// What is to be known of a shard to read it by blocks.
pub(crate) struct Layout<'a> {
    /// Number of the table.
    pub(crate) table: u16,
    /// The shard's file.
    pub(crate) path: &'a Path,
    /// Where in the file the first row begins, in bytes.
    pub(crate) data_offset: u64,
    pub(crate) rows: u64,
    pub(crate) row_bytes: usize,
}

impl ShardFile {
    /// A shard in blocks. A block holds the whole rows that fit into `block_bytes`, at least one.
    pub(super) fn new(layout: &Layout<'_>, source: Box<dyn ReadAt>, block_bytes: usize) -> Self {
        let Layout { table, path, data_offset, rows, row_bytes } = *layout;
        Self {
            table,
            path: path.to_owned(),
            source,
            data_offset,
            rows,
            row_bytes,
            rows_per_block: (block_bytes / row_bytes.max(1)).max(1) as u64,
            counts: ReadCounts::default(),
            is_failing: AtomicBool::new(false),
        }
    }

    /// Where block `block` lies; the last one is as short as the rows that are left.
    pub(super) fn span(&self, block: u64) -> Span {
        let first = (block * self.rows_per_block).min(self.rows);
        let rows = self.rows_per_block.min(self.rows - first);
        Span { offset: self.data_offset + first * self.row_bytes as u64, bytes: rows as usize * self.row_bytes }
    }

    /// Reads block `block` into `into`, which is as long as its span.
    pub(super) fn read(&self, block: u64, into: &mut [u8]) -> Result<(), ReadError> {
        let outcome = self.read_span(self.span(block).offset, into);
        let counts = &self.counts;
        match &outcome {
            Ok(()) => {
                counts.reads.fetch_add(1, Ordering::Relaxed);
                counts.read_bytes.fetch_add(into.len() as u64, Ordering::Relaxed);
                if self.is_failing.swap(false, Ordering::Relaxed) {
                    tracing::info!(path = %self.path.display(), "the shard can be read again");
                }
            }
            Err(error) => {
                counts.read_errors.fetch_add(1, Ordering::Relaxed);
                if !self.is_failing.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%error, "a shard cannot be read; fetches of its rows fail");
                }
            }
        }
        outcome
    }

    fn read_span(&self, offset: u64, into: &mut [u8]) -> Result<(), ReadError> {
        let bytes = into.len();
        let mut done = 0;
        while done < bytes {
            match self.source.read_at(&mut into[done..], offset + done as u64) {
                Ok(0) => {
                    return Err(ReadError::Shrunk { path: self.path.clone(), offset, bytes, found: done });
                }
                Ok(read) => done += read,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(source) => return Err(ReadError::Io { path: self.path.clone(), offset, bytes, source }),
            }
        }
        Ok(())
    }
}
