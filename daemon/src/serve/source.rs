//! What this node gives to its peers: rows of its own shard, and nothing else.

use super::blocks;
use crate::cache::prefetch;
use crate::dataset::{Dataset, WantedRow};
use crate::peers::{RowSource, SourceError};
use std::sync::Arc;

/// Rows asked for ahead of their turn.
const ROWS_AHEAD: usize = 8;

/// The shard of a node as its peers see it.
#[derive(Debug)]
pub struct ShardSource {
    dataset: Arc<Dataset>,
}

impl ShardSource {
    /// The shard of `dataset`'s node.
    #[must_use]
    pub fn new(dataset: Arc<Dataset>) -> Self {
        Self { dataset }
    }

    /// A row of this node: its bytes, or, when it is not mapped, its place in the shard.
    fn row(&self, table: u16, id: u64) -> Result<Result<&[u8], u64>, SourceError> {
        let table_index = usize::from(table);
        let table = self.dataset.tables().get(table_index).ok_or(SourceError::UnknownTable { table })?;
        let location = table.book.locate(id).ok_or(SourceError::OutOfRange { id, rows: table.rows })?;
        if location.part != self.dataset.node() || location.row >= table.shard.rows() {
            return Err(SourceError::NotOwned { id });
        }
        Ok(table.shard.row(location.row).ok_or(location.row))
    }

    /// Copies rows that are not mapped, by place in `out`.
    fn copy_unmapped(&self, table: u16, rows: Vec<WantedRow>, out: &mut [u8]) -> Result<(), SourceError> {
        let Some(table) = self.dataset.tables().get(usize::from(table)) else { return Ok(()) };
        let Some(blocks) = table.shard.blocks() else { return Ok(()) };
        let copied = blocks::copy_rows(blocks, rows, table.row_bytes, out);
        copied.map_err(|error| SourceError::Storage(error.to_string()))
    }
}

impl RowSource for ShardSource {
    fn row_bytes(&self, table: u16) -> Option<usize> {
        self.dataset.tables().get(usize::from(table)).map(|table| table.row_bytes)
    }

    fn copy_rows(&self, table: u16, ids: &[u64], out: &mut [u8]) -> Result<(), SourceError> {
        let row_bytes = self.row_bytes(table).ok_or(SourceError::UnknownTable { table })?;
        let mut unmapped = Vec::new();
        for (i, (&id, target)) in ids.iter().zip(out.chunks_exact_mut(row_bytes)).enumerate() {
            if let Some(&ahead) = ids.get(i + ROWS_AHEAD)
                && let Ok(Ok(row)) = self.row(table, ahead)
            {
                prefetch::row(row);
            }
            match self.row(table, id)? {
                Ok(row) => target.copy_from_slice(row),
                Err(row) => unmapped.push(WantedRow { row, at: i as u32 }),
            }
        }
        if unmapped.is_empty() { Ok(()) } else { self.copy_unmapped(table, unmapped, out) }
    }
}
