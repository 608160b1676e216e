//! One fetch: what is asked, and what was answered. It owns no work.

use crate::serve::books::desk::{Account, mark_of};
use crate::serve::fetch::timeline::Timeline;
use crate::serve::notices::Notices;
use crate::serve::own::out::Out;
use crate::serve::table::flights::Claim;
use rudder_client::RowSources;
use rudder_core::lookahead::{Named, TrainerId};
use std::sync::Arc;

/// One fetch, checked against the limits; its rows go to `out`.
#[derive(Debug)]
pub(crate) struct Job {
    /// Who asks.
    pub(crate) trainer: TrainerId,
    /// On which connection, for logs.
    pub(crate) connection: u64,
    /// The trainer's number for it, which peers and logs get.
    pub(crate) request: u64,
    /// Where its time goes.
    pub(crate) timeline: Timeline,
    /// Number of the table.
    pub(crate) table: usize,
    /// The ids, read once; jobs of one call may share them.
    pub(crate) ids: Arc<Vec<u64>>,
    /// Where the rows go.
    pub(crate) out: Out,
    /// The announced batch that it is, by the trainer's word.
    pub(crate) batch: Option<u64>,
    /// Whether the cache learns from it.
    pub(crate) learn: bool,
    /// Where to say what nobody waits for.
    pub(crate) notices: Arc<Notices>,
}

impl Job {
    /// By what it is known as an announced batch.
    pub(crate) fn named(&self) -> Named {
        self.batch.map_or_else(|| Named::Ids(mark_of(&self.ids)), Named::Batch)
    }
}

/// A fetch that was answered, with what is still owed to the cache.
#[must_use]
#[derive(Debug)]
pub(crate) struct Answered {
    /// Where the rows came from.
    pub(crate) sources: RowSources,
    pub(crate) account: Account,
}

impl Answered {
    /// The requests that brought its rows.
    pub(crate) fn claim(&self) -> &Claim {
        &self.account.claim
    }
}
