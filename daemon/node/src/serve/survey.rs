//! Looks at what no counter says of the tables: cold residents, hotter absent rows, and cached rows that their owners
//! have changed. That looks at every id that is hot at all and asks every owner, so it is done once per window of the
//! agent and must never be done by a scrape.

use crate::serve::base::Base;
use crate::serve::versions::changes::count_outdated_rows;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Longest wait for an owner to say what it has changed.
const ASK_MAX: Duration = Duration::from_secs(1);

/// Sets the gauges of all tables.
pub(crate) async fn survey(base: &Arc<Base>) {
    // Asked all at once, so that owners that do not answer cost one wait together, and nobody else's answer.
    let counting: Vec<_> = (0..base.tables.len()).map(|at| count_outdated_rows(base, at, ASK_MAX)).collect();
    for (at, outdated) in counting.into_iter().enumerate() {
        let weighing = Arc::clone(base);
        let weighed = tokio::task::spawn_blocking(move || weighing.tables[at].cache.weigh()).await;
        let gauges = &base.tables[at].gauges;
        if let Ok(weighed) = weighed {
            gauges.note(weighed);
        }
        gauges.outdated_rows.store(outdated.await, Ordering::Relaxed);
    }
}
