//! Updates of this node's trainers: each row goes to its owner, and the copy held here follows once the owner has it.
//! It owns the order of that, by which a trainer reads what it wrote as soon as the call has returned. It must never
//! leave a row cached of which it does not know whether the owner has applied it.

use crate::serve::base::{Base, blocking};
use crate::serve::error::{RequestError, UpdateFault};
use crate::serve::table::freshness::VersionCounts;
use hashbrown::HashMap;
use rudder_client::arena::Mapping;
use rudder_dataset::Part;
use rudder_peers::{Rewrite, Stamp, UpdateFailed};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// New rows of a trainer.
#[derive(Debug)]
pub(crate) struct NewRows {
    /// Number of the table.
    pub(crate) table: usize,
    /// The ids, read once.
    pub(crate) ids: Vec<u64>,
    /// Where their rows lie, in the order of the ids.
    pub(crate) rows: RowsIn,
}

/// Where a trainer's rows lie.
#[derive(Debug)]
pub(crate) enum RowsIn {
    /// In the trainer's shared memory, from this offset.
    Arena(Arc<Mapping>, usize),
    /// Behind the request, from this offset of what came.
    Inline(Vec<u8>, usize),
}

impl RowsIn {
    fn read(&self, offset: usize, out: &mut [u8]) {
        match self {
            Self::Arena(mapping, start) => mapping.read(start + offset, out),
            Self::Inline(bytes, start) => out.copy_from_slice(&bytes[start + offset..][..out.len()]),
        }
    }
}

/// The rows for one owner, in this process's own memory.
struct Share {
    ids: Vec<u64>,
    rows: Vec<u8>,
}

/// Why an owner has not applied all of its share.
struct Unapplied {
    applied: usize,
    fault: UpdateFault,
}

/// Writes rows of this node's trainers through to their owners.
#[derive(Debug, Clone)]
pub(crate) struct Updater {
    base: Arc<Base>,
}

impl Updater {
    pub(crate) fn new(base: &Arc<Base>) -> Self {
        Self { base: Arc::clone(base) }
    }

    /// Writes rows through to their owners; of an id that appears twice, the last row stays. When it returns, every
    /// fetch of this node gets the new rows. Answers the number of rows.
    pub(crate) async fn update(&self, new: NewRows) -> Result<u64, RequestError> {
        let table = new.table;
        let counts = &self.base.tables[table].versions.counts;
        let positions = self.positions(table, &new.ids)?;
        // One at a time, so that owners get them in the order of their numbers, and memory holds the rows of one.
        let _turn = self.base.tables[table].versions.writing.lock().await;
        let outcome = self.write(&new, positions).await;
        match &outcome {
            Ok(rows) => {
                counts.updates.fetch_add(1, Ordering::Relaxed);
                counts.update_rows.fetch_add(*rows, Ordering::Relaxed);
            }
            Err(_) => VersionCounts::add(&counts.failed_updates, 1),
        }
        outcome
    }

    /// Positions of the rows to write by their owner: the last of each id.
    fn positions(&self, table: usize, ids: &[u64]) -> Result<BTreeMap<Part, Vec<usize>>, RequestError> {
        let table = self.base.table(table);
        let last: HashMap<u64, usize> = ids.iter().enumerate().map(|(at, &id)| (id, at)).collect();
        let mut owners: BTreeMap<Part, Vec<usize>> = BTreeMap::new();
        for (at, &id) in ids.iter().enumerate() {
            let location = table.book.locate(id).ok_or_else(|| RequestError::out_of_range(table, at, id))?;
            if last.get(&id) == Some(&at) {
                owners.entry(location.part).or_default().push(at);
            }
        }
        Ok(owners)
    }

    async fn write(&self, new: &NewRows, mut owners: BTreeMap<Part, Vec<usize>>) -> Result<u64, RequestError> {
        let (table, all) = (new.table, owners.values().map(Vec::len).sum::<usize>());
        let failed = |applied: usize, fault| RequestError::Update {
            table: self.base.name(table).to_owned(),
            rows: all - applied,
            applied,
            fault,
        };
        let mut applied = 0;
        // First: what can be refused here is refused before anything went out.
        if let Some(positions) = owners.remove(&self.base.dataset.node()) {
            applied += positions.len();
            let (share, owned) = (self.share(new, &positions), Arc::clone(&self.base.owned));
            let written = tokio::task::spawn_blocking(move || owned.update(table, &share.ids, &share.rows)).await;
            let written = written.map_err(|_| RequestError::Internal("an update ended early"))?;
            written.map_err(|error| failed(0, UpdateFault::Own(error)))?;
        }
        let mut writes = Vec::new();
        for (part, positions) in owners {
            let (share, this) = (self.share(new, &positions), self.clone());
            // A task of its own: what was sent is followed to its end, whoever asked.
            writes.push(self.base.network.spawn(async move {
                let rows = share.ids.len();
                this.write_to(table, part, share).await.map(|()| rows)
            }));
        }
        let mut fault = None;
        for write in writes {
            match write.await.map_err(|_| RequestError::Internal("an update ended early"))? {
                Ok(rows) => applied += rows,
                Err(unapplied) => {
                    applied += unapplied.applied;
                    fault.get_or_insert(unapplied.fault);
                }
            }
        }
        fault.map_or(Ok(all as u64), |fault| Err(failed(applied, fault)))
    }

    /// Copies the rows of an owner out of the trainer's memory, each once.
    fn share(&self, new: &NewRows, positions: &[usize]) -> Share {
        let row_bytes = self.base.table(new.table).row_bytes;
        let mut rows = vec![0; positions.len() * row_bytes];
        for (&at, row) in positions.iter().zip(rows.chunks_exact_mut(row_bytes.max(1))) {
            new.rows.read(at * row_bytes, row);
        }
        Share { ids: positions.iter().map(|&at| new.ids[at]).collect(), rows }
    }

    /// Has another node apply its share, then follows with what is held here.
    async fn write_to(&self, table: usize, part: Part, share: Share) -> Result<(), Unapplied> {
        let (state, row_bytes) = (&self.base.tables[table], self.base.table(table).row_bytes);
        let ids = share.ids.clone();
        // From before the owner has them: should it change them once more, and a refresh learn of that first, the rows
        // written here do not overwrite what the refresh has brought.
        let written = state.held().intend(part, &ids);
        let clock = state.versions.take_numbers(ids.len());
        let writer = Stamp { incarnation: self.base.owned.stamp().incarnation, clock };
        let rewrite = Rewrite { table: table as u16, row_bytes, ids: &share.ids, rows: &share.rows, writer };
        let outcome = self.base.peers.update(part.0, rewrite).await;
        let (base, is_applied) = (Arc::clone(&self.base), outcome.is_ok());
        let follow = move || {
            let row = |i: usize| is_applied.then(|| &share.rows[i * row_bytes..(i + 1) * row_bytes]);
            base.tables[table].held().follow(&ids, &written, row);
        };
        blocking(follow).await;
        outcome
            .map_err(|UpdateFailed { applied, cause }| Unapplied { applied, fault: UpdateFault::Peer(Arc::new(cause)) })
    }
}
