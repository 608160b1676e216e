//! Rows that are brought in although no trainer waits for them: asked of their owners behind demand, then offered to
//! the cache by its bookkeeper. It must never touch a cache itself.

use crate::serve::base::Base;
use crate::serve::books::desk::{Desk, Entry, Offer};
use crate::serve::requests::{request_rows, wait_for};
use crate::serve::table::reason::Reason;
use rudder_core::cache::Fill;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Fetches absent rows that no trainer waits for, each of `wanted` once, and offers them to the cache. Answers how many
/// took a slot.
pub(crate) async fn bring_in(
    base: &Arc<Base>,
    desk: &Desk,
    table: usize,
    wanted: Vec<u64>,
    reason: Reason,
    fill: Fill,
) -> usize {
    let rows = base.with_owners(table, &base.tables[table].flights.absent(&wanted));
    let claim = request_rows(base, table, &rows, reason.into());
    wait_for(&claim, reason).await;
    let ids = rows.iter().map(|&(id, _)| id).collect();
    let (filled, answer) = oneshot::channel();
    desk.put(Entry::Offer(Offer { ids, claim, fill, filled })).await;
    // Without an answer the bookkeeper has ended: nothing was filled.
    answer.await.unwrap_or_default()
}
