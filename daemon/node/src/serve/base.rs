//! What every part of the engine stands on: the dataset, the rows of this node, the way to its peers, and the state of
//! each table. It owns no work and must never know of those who do it.

use crate::serve::error::RequestError;
use crate::serve::own::owned::Owned;
use crate::serve::table::TableState;
use rudder_dataset::{Dataset, IdError, Location, Part, Table};
use rudder_peers::Peers;
use std::sync::Arc;
use std::time::Instant;
use tokio::runtime::Handle;

/// What every part of the engine stands on.
#[derive(Debug)]
pub(crate) struct Base {
    pub(crate) dataset: Arc<Dataset>,
    pub(crate) owned: Arc<Owned>,
    pub(crate) peers: Arc<Peers>,
    /// The runtime that drives requests to peers.
    pub(crate) network: Handle,
    /// In the order of the dataset's tables.
    pub(crate) tables: Vec<TableState>,
    pub(crate) started: Instant,
}

impl Base {
    /// Table number `at` of the dataset.
    pub(crate) fn table(&self, at: usize) -> &Table {
        &self.dataset.tables()[at]
    }

    /// Its name.
    pub(crate) fn name(&self, at: usize) -> &str {
        &self.table(at).name
    }

    /// The parts that other nodes own.
    pub(crate) fn others(&self) -> impl Iterator<Item = Part> + use<> {
        let node = self.dataset.node();
        Part::all(self.dataset.parts()).filter(move |&part| part != node)
    }

    /// Owner of a cached `id`, and the row of its shard.
    pub(crate) fn locate(&self, table: usize, id: u32) -> Option<Location> {
        self.table(table).book.locate(u64::from(id))
    }

    /// Each id with its owner.
    pub(crate) fn with_owners(&self, table: usize, ids: &[u32]) -> Vec<(u32, Part)> {
        ids.iter().filter_map(|&id| self.locate(table, id).map(|location| (id, location.part))).collect()
    }

    /// The remote ids among `ids`, each once, in the order of their first appearance.
    pub(crate) fn remote_ids(&self, table: usize, ids: &[u64]) -> Result<Vec<u32>, RequestError> {
        let (table, node) = (self.table(table), self.dataset.node());
        let mut seen = hashbrown::HashSet::with_capacity(ids.len());
        let mut remote = Vec::with_capacity(ids.len());
        for (at, &id) in ids.iter().enumerate() {
            let location = table.book.locate(id).ok_or_else(|| RequestError::out_of_range(table, at, id))?;
            if location.part != node && seen.insert(id as u32) {
                remote.push(id as u32);
            }
        }
        Ok(remote)
    }

    /// Puts the dataset id in the place of each original id.
    pub(crate) async fn to_dataset(&self, table: usize, ids: &mut [u64]) -> Result<(), IdError> {
        let Some(of) = &self.table(table).ids else { return Ok(()) };
        if !of.is_ready() {
            let of = Arc::clone(of);
            blocking(move || of.prepare()).await?;
        }
        of.to_dataset(ids)
    }

    /// Milliseconds since the start.
    pub(crate) fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// Takes over what the connections to the owner of `part` know of its versions.
    pub(crate) fn note_first_connection(&self, table: usize, part: Part) {
        if let Some(met) = self.peers.met(part.0) {
            self.tables[table].versions.part(part).freshness().note_first_connection(met.first, met.since);
        }
    }

    /// As [`Base::note_first_connection`] for all owners.
    pub(crate) fn note_first_connections(&self, table: usize) {
        self.others().for_each(|part| self.note_first_connection(table, part));
    }
}

/// Runs what may wait for a cache's writer lock away from the threads that serve.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(ended) if ended.is_panic() => std::panic::resume_unwind(ended.into_panic()),
        // The runtime ends, and nobody hears the answer.
        Err(_) => std::future::pending().await,
    }
}
