//! Memory that is used again: rows on their way in, blocks on their way out. Fresh large allocations cost a page fault
//! for every 4 KiB, more than the copy itself. Owns the pool and its limit; it must never hand the same memory to two.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use parking_lot::Mutex;

/// Buffers kept at once at most, whatever their size.
const BUFFERS_MAX: usize = 256;

/// A bounded pool of byte buffers.
#[derive(Debug)]
pub(crate) struct BufferPool {
    bytes_max: usize,
    free: Mutex<Free>,
}

#[derive(Debug, Default)]
struct Free {
    buffers: Vec<Vec<u8>>,
    bytes: usize,
}

impl BufferPool {
    pub(crate) fn new(bytes_max: usize) -> Arc<Self> {
        Arc::new(Self { bytes_max, free: Mutex::default() })
    }

    /// A buffer of `len` bytes of unspecified content: the smallest kept one that fits, unless it is far too large.
    pub(crate) fn take(self: &Arc<Self>, len: usize) -> Buffer {
        let room = len.checked_next_power_of_two().unwrap_or(len).max(4096);
        let kept = {
            let mut free = self.free.lock();
            let fits = |bytes: &Vec<u8>| (len..=room.saturating_mul(4)).contains(&bytes.len());
            let best = free.buffers.iter().enumerate().filter(|(_, b)| fits(b)).min_by_key(|(_, b)| b.len());
            let kept = best.map(|(at, _)| at).map(|at| free.buffers.swap_remove(at));
            free.bytes -= kept.as_ref().map_or(0, Vec::len);
            kept
        };
        let bytes = kept.unwrap_or_else(|| vec![0; room]);
        Buffer { bytes, len, pool: Arc::clone(self) }
    }

    fn give_back(&self, bytes: Vec<u8>) {
        let mut free = self.free.lock();
        if free.bytes + bytes.len() <= self.bytes_max && free.buffers.len() < BUFFERS_MAX {
            free.bytes += bytes.len();
            free.buffers.push(bytes);
        }
    }

    /// Bytes kept for reuse now.
    pub(crate) fn kept_bytes(&self) -> usize {
        self.free.lock().bytes
    }
}

/// A buffer on loan; returns to its pool when dropped.
#[derive(Debug)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    len: usize,
    pool: Arc<BufferPool>,
}

impl Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.pool.give_back(std::mem::take(&mut self.bytes));
    }
}

/// Rows of one fetch in the order of its ids, in pooled memory that goes back when this is dropped.
#[derive(Debug)]
pub struct RowBatch {
    buffer: Buffer,
    row_bytes: usize,
    rows: usize,
}

impl RowBatch {
    pub(crate) fn new(buffer: Buffer, row_bytes: usize, rows: usize) -> Self {
        Self { buffer, row_bytes, rows }
    }

    /// Rows that no peer sent, for tests of what holds rows.
    #[must_use]
    pub fn of_bytes(bytes: &[u8], row_bytes: usize) -> Self {
        let (rows, mut buffer) = (bytes.len() / row_bytes, BufferPool::new(0).take(bytes.len()));
        buffer.copy_from_slice(bytes);
        Self::new(buffer, row_bytes, rows)
    }

    /// Number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether there are no rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Bytes of one row.
    #[must_use]
    pub fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    /// Row `i` of the ids asked for.
    ///
    /// # Panics
    /// When `i` is not below [`Self::len`].
    #[must_use]
    pub fn row(&self, i: usize) -> &[u8] {
        &self.buffer[i * self.row_bytes..(i + 1) * self.row_bytes]
    }

    /// All rows, one after the other.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.buffer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_used_again_up_to_the_limit() {
        let pool = BufferPool::new(64 << 10);
        let first = pool.take(30_000);
        let address = first.as_ptr();
        drop(first);
        assert_eq!(pool.kept_bytes(), 32_768);
        let again = pool.take(20_000);
        assert_eq!((again.as_ptr(), again.len()), (address, 20_000));
        let others = [pool.take(30_000), pool.take(30_000)];
        drop(others);
        drop(again);
        assert_eq!(pool.kept_bytes(), 64 << 10);
        // A small request does not sit on a large buffer.
        assert_eq!(pool.take(10).len(), 10);
        assert_eq!(pool.kept_bytes(), 64 << 10);
    }
}
