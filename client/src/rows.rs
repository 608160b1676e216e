//! Rows of a fetch that was answered. It owns their memory, and must never show it as elements of another size.

use crate::ClientError;
use crate::arena::Lease;
use crate::client::Known;
use crate::wire::{RowSources, TableInfo};
use std::sync::Arc;

/// Rows in the order of the ids asked for, in shared memory that belongs to this value until it is dropped.
#[derive(Debug)]
pub struct Rows {
    pub(crate) memory: Memory,
    pub(crate) known: Arc<Known>,
    pub(crate) table: usize,
    pub(crate) count: usize,
    pub(crate) sources: RowSources,
}

#[derive(Debug)]
pub(crate) enum Memory {
    Shared(Lease),
    /// Words, so that every element type is aligned.
    Owned(Vec<u64>),
}

impl Rows {
    /// The table that they belong to.
    #[must_use]
    pub fn table(&self) -> &TableInfo {
        &self.known.tables[self.table]
    }

    /// Number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether no ids were asked for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes of one row.
    #[must_use]
    pub fn row_bytes(&self) -> usize {
        self.table().row_bytes()
    }

    /// Where the rows came from.
    #[must_use]
    pub fn sources(&self) -> RowSources {
        self.sources
    }

    /// All rows, one after the other.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        let len = self.count * self.row_bytes();
        match &self.memory {
            Memory::Shared(lease) => lease.bytes(len),
            Memory::Owned(words) => &bytemuck::cast_slice(words)[..len],
        }
    }

    /// All rows, writable: the memory belongs to this value alone.
    #[must_use]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let len = self.count * self.row_bytes();
        match &mut self.memory {
            Memory::Shared(lease) => lease.bytes_mut(len),
            Memory::Owned(words) => &mut bytemuck::cast_slice_mut(words)[..len],
        }
    }

    /// Row `i`.
    ///
    /// # Panics
    /// If `i` is not below [`Rows::len`].
    #[must_use]
    pub fn row(&self, i: usize) -> &[u8] {
        let bytes = self.row_bytes();
        &self.bytes()[i * bytes..(i + 1) * bytes]
    }

    /// All rows as elements, `len() * width` of them.
    ///
    /// # Errors
    /// [`ClientError::Shape`] if `T` has another size than the table's elements.
    pub fn as_slice<T: bytemuck::Pod>(&self) -> Result<&[T], ClientError> {
        let table = self.table();
        let mismatch = || ClientError::Shape {
            table: format!("table `{}` of {}", table.name, table.dtype),
            row_bytes: table.row_bytes(),
            element_bytes: size_of::<T>(),
        };
        if size_of::<T>() != table.dtype.size() {
            return Err(mismatch());
        }
        bytemuck::try_cast_slice(self.bytes()).map_err(|_| mismatch())
    }
}
