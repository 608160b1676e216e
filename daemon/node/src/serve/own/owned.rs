//! The rows that this node owns, as they are now: the read-only shard, over it what was updated, and a version for each
//! updated row and for each block of rows, so that few have to be looked at. It owns the node's clock of updates and
//! decides what a repetition is. It must never let a row be seen in part, nor say that updates are known which are not
//! visible yet. A reader may see some rows of an update before the others. What was updated lives as long as this
//! process.

use hashbrown::HashMap;
use parking_lot::Mutex;
use rudder_core::cache::{Overlay, OverlayReader, Zeros};
use rudder_dataset::{Dataset, LocalRow, Part, Shard, Table};
use rudder_peers::{BLOCK_ROWS, Changes, SourceError, Stamp};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// The rows of this node.
#[derive(Debug)]
pub struct Owned {
    dataset: Arc<Dataset>,
    incarnation: u64,
    /// Updates that are applied and visible whole.
    clock: AtomicU64,
    tables: Vec<OwnedTable>,
    bytes_max: u64,
    /// Updates come one at a time.
    writing: Mutex<Writing>,
}

/// What was updated of one table.
#[derive(Debug)]
pub(crate) struct OwnedTable {
    overlay: Overlay,
    /// Clock of the last update of each block.
    versions: Zeros<AtomicU64>,
    /// Clock of the last update of each row, from the first update on. Zeroed lazily by the kernel.
    row_versions: OnceLock<Zeros<AtomicU64>>,
    /// Clock of the last update of any.
    changed: AtomicU64,
    updates: AtomicU64,
    rows: AtomicU64,
}

#[derive(Debug, Default)]
struct Writing {
    /// The last update applied for each peer and table.
    seen: HashMap<(Part, u16), Stamp>,
}

/// A visit to the rows of one table. Rows found are valid until it is dropped; hold it for one chunk of a gather.
pub(crate) struct OwnedRows<'a> {
    shard: &'a Shard,
    updates: Option<OverlayReader<'a>>,
}

/// What was updated of one table, in numbers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OwnedCounts {
    /// Update calls applied.
    pub(crate) updates: u64,
    /// Rows in them.
    pub(crate) rows: u64,
    /// Rows held beside the shard.
    pub(crate) held_rows: u64,
    /// Their bytes.
    pub(crate) held_bytes: u64,
}

/// No address space for updated rows.
#[derive(Debug, thiserror::Error)]
#[error("no address space for updated rows of table `{table}` ({cause}): lower dataset.updates_bytes_max")]
pub struct OwnedError {
    table: String,
    cause: io::Error,
}

impl Owned {
    /// The shards of `dataset`, nothing updated; `bytes_max` for what will be.
    ///
    /// # Errors
    /// [`OwnedError`].
    pub fn new(dataset: Arc<Dataset>, bytes_max: u64) -> Result<Arc<Self>, OwnedError> {
        let owned = |table: &Table| {
            let rows = table.shard.rows();
            let rows_max = usize::try_from(bytes_max / (table.row_bytes as u64).max(1)).unwrap_or(usize::MAX);
            let no_room = |cause| OwnedError { table: table.name.clone(), cause };
            Ok(OwnedTable {
                overlay: Overlay::new(rows as usize, table.row_bytes, rows_max).map_err(no_room)?,
                versions: Zeros::new(rows.div_ceil(BLOCK_ROWS) as usize).map_err(no_room)?,
                row_versions: OnceLock::new(),
                changed: AtomicU64::new(0),
                updates: AtomicU64::new(0),
                rows: AtomicU64::new(0),
            })
        };
        Ok(Arc::new(Self {
            tables: dataset.tables().iter().map(owned).collect::<Result<_, _>>()?,
            dataset,
            // Never 0, so that it differs from that of a source without updates.
            incarnation: fastrand::u64(1..),
            clock: AtomicU64::new(0),
            bytes_max,
            writing: Mutex::default(),
        }))
    }

    /// The dataset whose rows they are.
    pub(crate) fn dataset(&self) -> &Arc<Dataset> {
        &self.dataset
    }

    /// Where the versions stand: what is read from now on holds every update up to here.
    pub(crate) fn stamp(&self) -> Stamp {
        Stamp { incarnation: self.incarnation, clock: self.clock.load(Ordering::Acquire) }
    }

    /// What was updated of table number `table`.
    pub(crate) fn table(&self, table: usize) -> &OwnedTable {
        &self.tables[table]
    }

    /// Enters as a reader of table number `table`.
    pub(crate) fn read(&self, table: usize) -> OwnedRows<'_> {
        self.tables[table].read(&self.dataset.tables()[table].shard)
    }

    /// Which rows of a table were updated after `since`.
    pub(crate) fn changes(&self, table: usize, since: Stamp) -> Changes {
        // Before the versions are looked at: an update that comes meanwhile is in this answer or in the next.
        let now = self.stamp();
        let OwnedTable { versions, row_versions, changed, .. } = &self.tables[table];
        if since.incarnation != now.incarnation || since.clock > now.clock {
            return Changes::everything(now);
        }
        let newer = |version: &AtomicU64| version.load(Ordering::Relaxed) > since.clock;
        let Some(row_versions) = row_versions.get().filter(|_| newer(changed)) else { return Changes::nothing(now) };
        let mask = |block: usize| {
            let first = block * BLOCK_ROWS as usize;
            let rows = row_versions[first..].iter().take(BLOCK_ROWS as usize);
            rows.enumerate().fold(0, |mask, (at, version)| mask | u64::from(newer(version)) << at)
        };
        let blocks = versions.iter().enumerate().filter(|(_, version)| newer(version));
        Changes::of_blocks(now, row_versions.len() as u64, blocks.map(|(block, _)| (block, mask(block))))
    }

    /// Applies an update of another node, unless it was applied already.
    pub(crate) fn update_of_peer(
        &self,
        peer: Part,
        writer: Stamp,
        table: usize,
        ids: &[u64],
        rows: &[u8],
    ) -> Result<Stamp, SourceError> {
        let locals = self.locals(table, ids)?;
        let mut writing = self.writing.lock();
        let seen = writing.seen.get(&(peer, table as u16)).filter(|seen| seen.incarnation == writer.incarnation);
        match seen {
            Some(seen) if seen.clock == writer.clock => return Ok(self.stamp()),
            Some(seen) if seen.clock > writer.clock => return Err(SourceError::Overtaken),
            _ => {}
        }
        let now = self.apply(table, &locals, rows)?;
        writing.seen.insert((peer, table as u16), writer);
        Ok(now)
    }

    /// Applies an update of this node's own trainers.
    pub(crate) fn update(&self, table: usize, ids: &[u64], rows: &[u8]) -> Result<Stamp, SourceError> {
        let locals = self.locals(table, ids)?;
        let _writing = self.writing.lock();
        self.apply(table, &locals, rows)
    }

    /// The row of the shard of each id, as the plain numbers that the overlay knows.
    fn locals(&self, table: usize, ids: &[u64]) -> Result<Vec<u64>, SourceError> {
        let (table, node) = (&self.dataset.tables()[table], self.dataset.node());
        let local = |&id: &u64| match table.book.locate(id) {
            None => Err(SourceError::OutOfRange { id, rows: table.rows }),
            Some(location) if location.part != node => Err(SourceError::NotOwned { id }),
            Some(location) => Ok(location.row.0),
        };
        ids.iter().map(local).collect()
    }

    /// Called by one at a time.
    fn apply(&self, table: usize, locals: &[u64], rows: &[u8]) -> Result<Stamp, SourceError> {
        let (state, row_bytes) = (&self.tables[table], self.dataset.tables()[table].row_bytes);
        if rows.len() != locals.len() * row_bytes {
            let problem = format!("{} bytes of rows came for {} ids of {row_bytes} each", rows.len(), locals.len());
            return Err(SourceError::Failed(problem));
        }
        let newcomers = state.overlay.newcomers(locals.iter().copied());
        let stride = state.overlay.stride_bytes().max(1) as u64;
        let others: u64 = self.tables.iter().map(OwnedTable::overlay_bytes).sum::<u64>() - state.overlay_bytes();
        let rows_max = self.bytes_max.saturating_sub(others) / stride;
        let after = (state.overlay.rows() + newcomers) as u64;
        if after > rows_max {
            return Err(SourceError::UpdatesFull { rows: after, rows_max });
        }
        let row = |at: usize| &rows[at * row_bytes..(at + 1) * row_bytes];
        let full = |full: rudder_core::cache::OverlayFull| SourceError::UpdatesFull {
            rows: full.rows as u64,
            rows_max: full.rows_max as u64,
        };
        let row_versions = state.row_versions(self.dataset.tables()[table].shard.rows())?;
        state.overlay.update(locals, row).map_err(full)?;
        let clock = self.clock.load(Ordering::Relaxed) + 1;
        for &local in locals {
            let of_block = state.versions.get((local / BLOCK_ROWS) as usize);
            for version in row_versions.get(local as usize).into_iter().chain(of_block) {
                version.store(clock, Ordering::Relaxed);
            }
        }
        state.changed.store(clock, Ordering::Relaxed);
        state.updates.fetch_add(1, Ordering::Relaxed);
        state.rows.fetch_add(locals.len() as u64, Ordering::Relaxed);
        // Last: who sees this clock sees the rows and their versions.
        self.clock.store(clock, Ordering::Release);
        Ok(Stamp { incarnation: self.incarnation, clock })
    }
}

impl OwnedTable {
    /// Enters as a reader; `shard` is that of the same table.
    #[inline]
    pub(crate) fn read<'a>(&'a self, shard: &'a Shard) -> OwnedRows<'a> {
        OwnedRows { shard, updates: self.overlay.read() }
    }

    /// The versions of this table's `rows` rows, made at the first update.
    fn row_versions(&self, rows: u64) -> Result<&[AtomicU64], SourceError> {
        if let Some(versions) = self.row_versions.get() {
            return Ok(versions);
        }
        let no_room = |cause| SourceError::Failed(format!("no address space for the versions of {rows} rows: {cause}"));
        let versions = Zeros::new(rows as usize).map_err(no_room)?;
        Ok(self.row_versions.get_or_init(|| versions))
    }

    fn overlay_bytes(&self) -> u64 {
        (self.overlay.rows() * self.overlay.stride_bytes()) as u64
    }

    /// What was updated.
    pub(crate) fn counts(&self) -> OwnedCounts {
        OwnedCounts {
            updates: self.updates.load(Ordering::Relaxed),
            rows: self.rows.load(Ordering::Relaxed),
            held_rows: self.overlay.rows() as u64,
            held_bytes: self.overlay_bytes(),
        }
    }
}

impl OwnedRows<'_> {
    /// The row with this number in the shard, as it is now; `None` when there is no such row.
    #[inline]
    pub(crate) fn row(&self, row: LocalRow) -> Option<&[u8]> {
        match self.updates.as_ref().and_then(|updates| updates.get(row.0)) {
            Some(updated) => Some(updated),
            None => self.shard.row(row),
        }
    }

    /// Whether [`OwnedRows::prefetch`] does anything.
    #[inline]
    pub(crate) fn is_updated(&self) -> bool {
        self.updates.is_some()
    }

    /// Asks the processor for what tells whether `row` was updated.
    #[inline]
    pub(crate) fn prefetch(&self, row: LocalRow) {
        if let Some(updates) = &self.updates {
            updates.prefetch(row.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rudder_client::DType;
    use rudder_dataset::Verify;
    use rudder_import::{BookSpec, DatasetWriter, Existing};

    const WIDTH: usize = 4;

    /// Two tables of 300 rows for each of two nodes, of which node 1 is opened.
    fn owned(bytes_max: u64) -> (tempfile::TempDir, Arc<Owned>) {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let mut writer = DatasetWriter::create(&data, "test", 2, Existing::Refuse).unwrap();
        writer.add_book("_N", BookSpec::Ranges(&[0, 300, 600])).unwrap();
        for name in ["a", "b"] {
            let mut table = writer.add_table(name, "_N", DType::U8, &[WIDTH as u32]).unwrap();
            for part in Part::all(2) {
                table.write_rows(part, &[part.0 as u8; 300 * WIDTH]).unwrap();
            }
            writer.close_table(table).unwrap();
        }
        writer.finish().unwrap();
        let dataset = Dataset::open(&data, Part(1), Verify::Full, &|_, _| {}).unwrap();
        (dir, Owned::new(Arc::new(dataset), bytes_max).unwrap())
    }

    fn changed(owned: &Owned, table: usize, since: Stamp) -> Vec<u64> {
        let changes = owned.changes(table, since);
        (0..300).filter(|&row| changes.holds(row)).collect()
    }

    #[test]
    fn an_update_is_seen_and_told_row_by_row() {
        let (_dir, owned) = owned(1 << 20);
        let begin = owned.stamp();
        assert!(owned.changes(0, begin).is_empty());
        let now = owned.update(0, &[300, 599], &[7; 8]).unwrap();
        assert_eq!((now.clock, owned.stamp()), (begin.clock + 1, now));
        let rows = owned.read(0);
        let read = |row| rows.row(LocalRow(row)).unwrap();
        assert_eq!([read(0), read(1), read(299)], [&[7; 4], &[1; 4], &[7; 4]]);
        assert_eq!(rows.row(LocalRow(300)), None);
        drop(rows);
        assert_eq!(owned.read(1).row(LocalRow(0)).unwrap(), [1; 4]);
        assert_eq!(changed(&owned, 0, begin), [0, 299]);
        assert!(owned.changes(0, now).is_empty() && owned.changes(1, begin).is_empty());
        let later = owned.update(0, &[300 + 64], &[8; 4]).unwrap();
        assert_eq!((changed(&owned, 0, now), changed(&owned, 0, begin)), (vec![64], vec![0, 64, 299]));
        assert_eq!(owned.changes(0, now).now, later);
        // Of another process, or of its future: anything may have changed.
        assert!(owned.changes(0, Stamp { incarnation: begin.incarnation ^ 1, clock: 1 }).all);
        assert!(owned.changes(1, Stamp { clock: 3, ..begin }).all);
    }

    #[test]
    fn a_repetition_changes_nothing_and_one_that_was_overtaken_is_refused() {
        let (_dir, owned) = owned(1 << 20);
        let write = |writer: (u64, u64), value: u8| {
            let writer = Stamp { incarnation: writer.0, clock: writer.1 };
            owned.update_of_peer(Part(0), writer, 0, &[300], &[value; WIDTH]).map(|now| now.clock)
        };
        assert_eq!(write((9, 5), 1), Ok(1));
        assert_eq!(write((9, 6), 2), Ok(2));
        assert_eq!(write((9, 6), 3), Ok(2));
        assert_eq!(write((9, 5), 4), Err(SourceError::Overtaken));
        assert_eq!(owned.read(0).row(LocalRow(0)).unwrap(), [2; WIDTH]);
        // The writer was restarted; another peer and another table have numbers of their own.
        assert_eq!(write((8, 1), 5), Ok(3));
        let writer = Stamp { incarnation: 9, clock: 1 };
        assert_eq!(owned.update_of_peer(Part(2), writer, 0, &[301], &[6; WIDTH]).map(|now| now.clock), Ok(4));
        assert_eq!(owned.update_of_peer(Part(0), writer, 1, &[301], &[6; WIDTH]).map(|now| now.clock), Ok(5));
    }

    /// Update number `clock` writes the row of block `clock % 5`, and nothing else: the low byte is the clock.
    #[test]
    fn who_sees_the_clock_sees_the_rows_and_is_told_of_them() {
        let (_dir, owned) = owned(1 << 20);
        let block_of = |clock: u64| clock % 5;
        let begin = owned.stamp();
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for clock in 1..200_000u64 {
                    let row = (clock as u32).to_le_bytes();
                    assert_eq!(owned.update(0, &[300 + block_of(clock) * 64], &row).unwrap().clock, clock);
                }
            });
            let mut since = begin;
            while !writer.is_finished() {
                let changes = owned.changes(0, since);
                for clock in (since.clock + 1..=changes.now.clock).rev().take(5) {
                    assert!(changes.holds(block_of(clock) * 64), "update {clock} is not told after {since:?}");
                    let rows = owned.read(0);
                    let row = rows.row(LocalRow(block_of(clock) * 64)).unwrap();
                    let seen = u64::from(u32::from_le_bytes(row.try_into().unwrap()));
                    assert!(seen >= clock && block_of(seen) == block_of(clock), "{seen} after {clock}");
                }
                since = changes.now;
            }
        });
    }

    #[test]
    fn what_cannot_be_updated_is_named_and_changes_nothing() {
        let (_dir, owned) = owned(10 * WIDTH as u64);
        let before = owned.stamp();
        assert_eq!(owned.update(0, &[300, 299], &[0; 8]), Err(SourceError::NotOwned { id: 299 }));
        assert_eq!(owned.update(0, &[600], &[0; 4]), Err(SourceError::OutOfRange { id: 600, rows: 600 }));
        assert!(matches!(owned.update(0, &[300], &[0; 5]), Err(SourceError::Failed(_))));
        assert_eq!(owned.stamp(), before);
        // Ten rows over both tables.
        owned.update(0, &[300, 301, 302, 303, 304, 305], &[1; 24]).unwrap();
        owned.update(1, &[300, 301, 302, 303], &[2; 16]).unwrap();
        let full = owned.update(1, &[300, 304], &[3; 8]).unwrap_err();
        assert_eq!(full, SourceError::UpdatesFull { rows: 5, rows_max: 4 });
        assert_eq!(owned.read(1).row(LocalRow(0)).unwrap(), [2; 4]);
        owned.update(1, &[300, 301, 302, 303], &[4; 16]).unwrap();
        assert_eq!(owned.read(1).row(LocalRow(3)).unwrap(), [4; 4]);
        let counts = owned.table(1).counts();
        assert_eq!((counts.updates, counts.rows, counts.held_rows, counts.held_bytes), (2, 8, 4, 16));
    }
}
