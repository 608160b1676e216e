//! What this node gives to its peers: rows of its own shard, and nothing else.

use crate::cache::prefetch;
use crate::dataset::Dataset;
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

    fn row(&self, table: u16, id: u64) -> Result<&[u8], SourceError> {
        let table_index = usize::from(table);
        let table = self.dataset.tables().get(table_index).ok_or(SourceError::UnknownTable { table })?;
        let location = table.book.locate(id).ok_or(SourceError::OutOfRange { id, rows: table.rows })?;
        if location.part != self.dataset.node() {
            return Err(SourceError::NotOwned { id });
        }
        table.shard.row(location.row).ok_or(SourceError::NotOwned { id })
    }
}

impl RowSource for ShardSource {
    fn row_bytes(&self, table: u16) -> Option<usize> {
        self.dataset.tables().get(usize::from(table)).map(|table| table.row_bytes)
    }

    fn copy_rows(&self, table: u16, ids: &[u64], out: &mut [u8]) -> Result<(), SourceError> {
        let row_bytes = self.row_bytes(table).ok_or(SourceError::UnknownTable { table })?;
        for (i, (&id, target)) in ids.iter().zip(out.chunks_exact_mut(row_bytes)).enumerate() {
            if let Some(&ahead) = ids.get(i + ROWS_AHEAD)
                && let Ok(row) = self.row(table, ahead)
            {
                prefetch::row(row);
            }
            target.copy_from_slice(self.row(table, id)?);
        }
        Ok(())
    }
}
