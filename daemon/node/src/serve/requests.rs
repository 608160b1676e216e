//! Asks the peers for rows that are not here. It owns the tasks that do so: each lands its flight, or the flight has
//! failed. It must never decide which rows are wanted, nor put them into a cache.

use crate::serve::base::Base;
use crate::serve::table::flight::Landing;
use crate::serve::table::flights::Claim;
use crate::serve::table::reason::Reason;
use rudder_dataset::Part;
use rudder_peers::{Class, RequestId, Wanted};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What a request to peers is for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Purpose {
    pub(crate) reason: Reason,
    /// The trainer's request, where one waits.
    pub(crate) request: RequestId,
}

impl From<Reason> for Purpose {
    fn from(reason: Reason) -> Self {
        Self { reason, request: RequestId::NONE }
    }
}

/// Claims `rows` (id and owner, each id once) and asks the peers for those that nobody has asked for, or not lately
/// enough.
pub(crate) fn request_rows(base: &Arc<Base>, table: usize, rows: &[(u64, Part)], purpose: Purpose) -> Claim {
    let state = &base.tables[table];
    let claim = state.flights.claim(rows.iter().copied(), state.joining(purpose.reason));
    for flight in claim.to_ask() {
        // A task of its own: if the trainer that asked is killed, others may still wait for these rows.
        base.network.spawn(ask_peer(Arc::clone(base), table, Landing::of(flight), purpose));
    }
    claim
}

async fn ask_peer(base: Arc<Base>, table: usize, landing: Landing, purpose: Purpose) {
    let Purpose { reason, request } = purpose;
    let class = if reason == Reason::Demand { Class::Demand } else { Class::Bulk };
    let (flight, row_bytes) = (landing.flight(), base.table(table).row_bytes);
    let wanted = Wanted { part: flight.peer().0, table: table as u16, row_bytes, ids: flight.ids() };
    let answer = base.peers.fetch_noting(wanted, (class, request).into(), &|rows| flight.note_sent(rows)).await;
    if answer.is_ok() {
        base.tables[table].stats.crossed(reason).fetch_add(flight.ids().len() as u64, Ordering::Relaxed);
    }
    landing.land(answer);
}

/// Waits until all flights of `claim` have ended. Failures are logged; the claim then has no such rows.
pub(crate) async fn wait_for(claim: &Claim, reason: Reason) {
    for flight in claim.flights() {
        if let Err(error) = flight.ended().await {
            tracing::warn!(
                error = rudder_telemetry::error_chain(error),
                rows = flight.ids().len(),
                reason = reason.name(),
                "rows could not be brought in"
            );
        }
    }
}
