//! Asks the owners of a table's rows what they have changed since they were last asked. It changes nothing: what is
//! held stays as it is.

use crate::serve::base::{Base, blocking};
use rudder_dataset::{Location, Part};
use rudder_peers::Changes;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// Asks the owners of a table's rows, all at once, and waits for each no longer than `most`. What it answers counts the
/// cached rows that are outdated by that. An owner that does not answer counts for nothing: nothing could be done about
/// its rows.
pub(crate) fn count_outdated_rows(base: &Arc<Base>, table: usize, most: Duration) -> impl Future<Output = u64> + use<> {
    let base = Arc::clone(base);
    let mut asked: JoinSet<Option<(Part, Changes)>> = JoinSet::new();
    for part in base.others() {
        base.note_first_connection(table, part);
        let Some(since) = base.tables[table].versions.part(part).freshness().synced() else { continue };
        let asking = Arc::clone(&base);
        let ask = async move {
            let rows = asking.table(table).book.owned(part);
            let changes = asking.peers.changes(part.0, table as u16, rows, since);
            Some((part, tokio::time::timeout(most, changes).await.ok()?.ok()?))
        };
        asked.spawn_on(ask, &base.network);
    }
    async move {
        let mut changed = Vec::new();
        while let Some(answer) = asked.join_next().await {
            changed.extend(answer.ok().flatten().filter(|(_, changes)| !changes.is_empty()));
        }
        if changed.is_empty() {
            return 0;
        }
        let count = move || {
            let is_outdated = |id| {
                let Some(Location { part, row }) = base.locate(table, id) else { return false };
                changed.iter().any(|(owner, changes)| *owner == part && changes.holds(row.0))
            };
            base.tables[table].cache.residents(is_outdated).len() as u64
        };
        blocking(count).await
    }
}
