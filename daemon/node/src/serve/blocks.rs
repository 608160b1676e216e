//! Rows of this node's own shard that are not mapped: taken from blocks in memory at once, else waited for on a thread that
//! may wait. It must never read a file on a thread that serves others, nor let a fetch end while rows are still being put
//! into its place.

use super::engine::{Engine, Job};
use super::error::RequestError;
use super::gather::Out;
use rudder_core::cache::prefetch;
use rudder_dataset::{BlockShard, ReadError, Table, WantedRow};
use std::sync::Arc;

/// Rows copied between two looks at other work of the same thread.
const TURN_ROWS: usize = 8192;

/// Puts the rows of `wanted` whose blocks are in memory into `out`, and leaves the others in `wanted`, in order.
pub(super) async fn take_resident(table: &Table, wanted: &mut Vec<WantedRow>, out: &Out) {
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

impl Engine {
    /// Waits for the rows of `wanted`, which are in order, and puts them into their places. It begins at once, whether it
    /// is polled or not, and must be waited for: until then it may write to the place of the fetch.
    pub(super) fn read_blocks(
        self: &Arc<Self>,
        job: &Arc<Job>,
        wanted: Vec<WantedRow>,
    ) -> impl Future<Output = Result<(), RequestError>> + use<> {
        let (engine, at) = (Arc::clone(self), job.table);
        let (rows, job) = (wanted.len(), Arc::clone(job));
        let reading = (rows > 0).then(|| {
            let engine = Arc::clone(&engine);
            tokio::task::spawn_blocking(move || {
                let Table { shard, row_bytes, .. } = &engine.dataset.tables()[at];
                match shard.blocks() {
                    Some(blocks) => blocks.read(&wanted, |at, row| job.out.write(at as usize * row_bytes, row)),
                    None => Ok(()),
                }
            })
        });
        async move {
            let Some(reading) = reading else { return Ok(()) };
            let outcome = reading.await.map_err(|_| RequestError::Internal("the reading of blocks ended early"))?;
            outcome.map_err(|cause| RequestError::Shard {
                table: engine.dataset.tables()[at].name.clone(),
                rows,
                cause,
            })
        }
    }
}

/// Copies the rows of `wanted`, whose numbers are places in `out`, from their blocks. Meant for a worker of a runtime with
/// several threads: what has to be waited for is, after the worker's other tasks have been given to another thread.
pub(super) fn copy_rows(
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
