//! What this node gives to its peers: the rows that it owns, what was updated of them, and updates.

use crate::serve::own::blocks;
use crate::serve::own::owned::{Owned, OwnedRows};
use rudder_core::cache::prefetch;
use rudder_dataset::{LocalRow, Part, Table, WantedRow};
use rudder_peers::{Changes, RowSource, SourceError, Stamp};
use std::sync::Arc;

/// Rows asked for ahead of their turn.
const ROWS_AHEAD: usize = 8;

/// The rows of a node as its peers see them.
#[derive(Debug)]
pub struct ShardSource {
    owned: Arc<Owned>,
}

impl ShardSource {
    /// The rows of a node.
    #[must_use]
    pub fn new(owned: Arc<Owned>) -> Self {
        Self { owned }
    }

    fn table(&self, table: u16) -> Result<&Table, SourceError> {
        self.owned.dataset().tables().get(usize::from(table)).ok_or(SourceError::UnknownTable { table })
    }

    /// A row of this node: its bytes, or, when it is neither updated nor mapped, its place in the shard.
    fn row<'a>(
        &self,
        table: &Table,
        rows: &'a OwnedRows<'_>,
        id: u64,
    ) -> Result<Result<&'a [u8], LocalRow>, SourceError> {
        let location = table.book.locate(id).ok_or(SourceError::OutOfRange { id, rows: table.rows })?;
        if location.part != self.owned.dataset().node() || location.row.0 >= table.shard.rows() {
            return Err(SourceError::NotOwned { id });
        }
        Ok(rows.row(location.row).ok_or(location.row))
    }
}

impl RowSource for ShardSource {
    fn row_bytes(&self, table: u16) -> Option<usize> {
        self.table(table).ok().map(|table| table.row_bytes)
    }

    fn copy_rows(&self, number: u16, ids: &[u64], out: &mut [u8]) -> Result<(), SourceError> {
        let table = self.table(number)?;
        let rows = self.owned.read(usize::from(number));
        let mut unmapped = Vec::new();
        for (i, (&id, target)) in ids.iter().zip(out.chunks_exact_mut(table.row_bytes)).enumerate() {
            if let Some(&ahead) = ids.get(i + ROWS_AHEAD)
                && let Ok(Ok(row)) = self.row(table, &rows, ahead)
            {
                prefetch::row(row);
            }
            match self.row(table, &rows, id)? {
                Ok(row) => target.copy_from_slice(row),
                Err(row) => unmapped.push(WantedRow { row, at: i as u32 }),
            }
        }
        // Readers of updated rows must not be held while a disk is read.
        drop(rows);
        let Some(blocks) = table.shard.blocks().filter(|_| !unmapped.is_empty()) else { return Ok(()) };
        let copied = blocks::copy_rows(blocks, unmapped, table.row_bytes, out);
        copied.map_err(|error| SourceError::Storage(error.to_string()))
    }

    fn stamp(&self) -> Stamp {
        self.owned.stamp()
    }

    fn changes(&self, table: u16, since: Stamp) -> Result<Changes, SourceError> {
        self.table(table)?;
        Ok(self.owned.changes(usize::from(table), since))
    }

    fn update(&self, peer: u16, writer: Stamp, table: u16, ids: &[u64], rows: &[u8]) -> Result<Stamp, SourceError> {
        self.table(table)?;
        self.owned.update_of_peer(Part(peer), writer, usize::from(table), ids, rows)
    }
}
