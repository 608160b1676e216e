//! Rows of this node's own shard that are not mapped: taken from blocks in memory at once, else waited for on a thread
//! that may wait. It must never read a file on a thread that serves others.

use crate::serve::own::out::Out;
use rudder_core::cache::prefetch;
use rudder_dataset::{BlockShard, ReadError, Table, WantedRow};
use std::sync::Arc;

/// Rows copied between two looks at other work of the same thread.
const TURN_ROWS: usize = 8192;

/// Puts the rows of `wanted` whose blocks are in memory into `out`, and leaves the others in `wanted`, in order.
pub(crate) async fn take_resident(table: &Table, wanted: &mut Vec<WantedRow>, out: &Out) {
    let Some(blocks) = table.shard.blocks() else { return };
    wanted.sort_unstable();
    let mut absent = Vec::new();
    for (turn, rows) in wanted.chunks(TURN_ROWS).enumerate() {
        if turn > 0 {
            tokio::task::yield_now().await;
        }
        blocks.take_resident(rows, &mut absent, prefetch::row, |at, row| out.write(at as usize * table.row_bytes, row));
    }
    *wanted = absent;
}

/// Copies the rows of `wanted`, whose numbers are places in `out`, from their blocks. Call it on a multi-threaded
/// runtime: if a block must be read from disk, the worker hands its other tasks to another thread (`block_in_place`)
/// and waits.
pub(crate) fn copy_rows(
    shard: &BlockShard,
    mut wanted: Vec<WantedRow>,
    row_bytes: usize,
    out: &mut [u8],
) -> Result<(), Arc<ReadError>> {
    wanted.sort_unstable();
    let mut put = |at: u32, row: &[u8]| out[at as usize * row_bytes..][..row_bytes].copy_from_slice(row);
    let mut absent = Vec::new();
    shard.take_resident(&wanted, &mut absent, prefetch::row, &mut put);
    if absent.is_empty() { Ok(()) } else { tokio::task::block_in_place(|| shard.read(&absent, &mut put)) }
}
