//! Rows that were updated, beside the read-only rows that they replace: an index from local row to slot, and a slab. It
//! owns the newest bytes of every row that was updated here, and the promise that a reader sees an old row or a new
//! one, never a mixture: an update writes into slots that no reader can hold, publishes them, and the slots that they
//! replace are written again only after every reader that might hold them has left ([`super::readers`]).
//!
//! Readers never wait. It does no I/O and knows neither clocks nor peers.

use super::prefetch;
use super::readers::{Inside, Readers};
use super::slab::{self, Slab};
use super::slots::Slot;
use super::zeros::Zeros;
use parking_lot::Mutex;
use std::io;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

/// Rows that one step of an update writes; the same number of slots is kept beyond the rows held, so that a full
/// overlay can still be updated.
const STEP_ROWS: usize = 512;

/// The updated rows of one table.
#[derive(Debug)]
pub struct Overlay {
    /// Slot and one of each local row, 0 where it was never updated. Zeroed lazily by the kernel.
    slots: Zeros<AtomicU32>,
    slab: Slab,
    readers: Readers,
    writer: Mutex<Writer>,
    held: AtomicUsize,
    rows_max: usize,
}

/// Slots that hold no row.
#[derive(Debug, Default)]
struct Writer {
    /// Slots from here on were never used.
    fresh: u32,
    free: Vec<Slot>,
    /// Replaced by the last step: readers may still hold them.
    left: Vec<Slot>,
}

/// A reader's visit. Rows found are valid until it is dropped; hold it for one chunk of a gather.
#[derive(Debug)]
pub struct OverlayReader<'a> {
    overlay: &'a Overlay,
    inside: Inside<'a>,
}

/// An update that would hold more rows than there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{rows} updated rows are more than the {rows_max} that may be held")]
pub struct OverlayFull {
    /// Rows that would be held.
    pub rows: usize,
    /// The limit.
    pub rows_max: usize,
}

impl Overlay {
    /// Room for at most `rows_max` updated rows out of `rows`, of `row_bytes` each; memory is taken as they are
    /// updated.
    ///
    /// # Errors
    /// What the kernel says when there is no address space.
    pub fn new(rows: usize, row_bytes: usize, rows_max: usize) -> io::Result<Self> {
        let rows_max = rows_max.min(rows).min((u32::MAX - 1) as usize - STEP_ROWS);
        let slots = if rows_max == 0 { 0 } else { rows_max + STEP_ROWS };
        Ok(Self {
            slots: Zeros::new(if rows_max == 0 { 0 } else { rows })?,
            slab: Slab::new(slots, row_bytes)?,
            readers: Readers::default(),
            writer: Mutex::default(),
            held: AtomicUsize::new(0),
            rows_max,
        })
    }

    /// Rows held now.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.held.load(Ordering::Acquire)
    }

    /// Bytes that one held row takes.
    #[must_use]
    pub fn stride_bytes(&self) -> usize {
        self.slab.stride_bytes()
    }

    /// Enters as a reader; `None` while no row was updated: then this is the whole cost.
    #[inline]
    pub fn read(&self) -> Option<OverlayReader<'_>> {
        (self.rows() > 0).then(|| OverlayReader { overlay: self, inside: self.readers.enter() })
    }

    /// How many of `rows` are not held yet; one that appears twice counts twice.
    pub fn newcomers(&self, rows: impl Iterator<Item = u64>) -> usize {
        rows.filter(|&row| self.slot(row).is_none()).count()
    }

    /// Replaces `rows`, all below the number of rows of the table: `row(i)` is the new row of `rows[i]`. Each becomes
    /// visible whole; of one that appears twice, the last stays. Nothing is replaced on an error.
    ///
    /// # Errors
    /// [`OverlayFull`].
    pub fn update<'r>(&self, rows: &[u64], row: impl Fn(usize) -> &'r [u8]) -> Result<(), OverlayFull> {
        let mut writer = self.writer.lock();
        let after = self.rows() + self.newcomers(rows.iter().copied());
        if after > self.rows_max {
            return Err(OverlayFull { rows: after, rows_max: self.rows_max });
        }
        for (step, rows) in rows.chunks(STEP_ROWS).enumerate() {
            self.step(&mut writer, rows, |i| row(step * STEP_ROWS + i));
        }
        Ok(())
    }

    fn step<'r>(&self, writer: &mut Writer, rows: &[u64], row: impl Fn(usize) -> &'r [u8]) {
        // Free from here on, because `overwrite` waits out the readers before it writes.
        let left = std::mem::take(&mut writer.left);
        writer.free.extend(left);
        let slots: Vec<Slot> = rows.iter().map(|_| writer.take()).collect();
        slab::overwrite(&self.slab, &self.readers, slots.iter().enumerate().map(|(i, &slot)| (slot, row(i))));
        for (&row, &slot) in rows.iter().zip(&slots) {
            let Some(word) = self.slots.get(row as usize) else {
                writer.left.push(slot);
                continue;
            };
            match word.swap(slot.0 + 1, Ordering::AcqRel).checked_sub(1) {
                Some(replaced) => writer.left.push(Slot(replaced)),
                None => {
                    self.held.fetch_add(1, Ordering::Release);
                }
            }
        }
    }

    #[inline]
    fn slot(&self, row: u64) -> Option<Slot> {
        self.slots.get(row as usize)?.load(Ordering::Acquire).checked_sub(1).map(Slot)
    }
}

impl Writer {
    fn take(&mut self) -> Slot {
        self.free.pop().unwrap_or_else(|| {
            self.fresh += 1;
            Slot(self.fresh - 1)
        })
    }
}

impl OverlayReader<'_> {
    /// The newest bytes of local row `row`, if it was updated.
    #[inline]
    #[must_use]
    pub fn get(&self, row: u64) -> Option<&[u8]> {
        slab::read_found(&self.overlay.slab, self.overlay.slot(row), &self.inside)
    }

    /// Asks the processor for the index word of `row`.
    #[inline]
    pub fn prefetch(&self, row: u64) {
        if let Some(word) = self.overlay.slots.get(row as usize) {
            prefetch::line(std::ptr::from_ref(word).cast());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, AtomicU64};

    const ROW_BYTES: usize = 1024;

    /// A row that says its number and version in every word.
    fn row_of(row: u64, version: u64) -> Vec<u8> {
        (0..ROW_BYTES as u64 / 8).flat_map(|_| (version << 20 | row).to_le_bytes()).collect()
    }

    /// The version of a row that must be whole and of its number.
    fn version_of(row: u64, bytes: &[u8]) -> u64 {
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        assert_eq!(bytes.len(), ROW_BYTES);
        for at in (0..ROW_BYTES).step_by(8) {
            assert_eq!(word(at), word(0), "row {row} is a mixture");
        }
        assert_eq!(word(0) & 0xf_ffff, row, "another row");
        word(0) >> 20
    }

    #[test]
    fn a_full_overlay_takes_new_versions_and_no_new_rows() {
        let overlay = Overlay::new(10_000, 16, 700).unwrap();
        assert!(overlay.read().is_none());
        let rows: Vec<u64> = (0..700).map(|i| i * 3).collect();
        for version in 0..20u8 {
            overlay.update(&rows, |_| &[[0; 16], [1; 16], [2; 16]][usize::from(version % 3)]).unwrap();
            let reader = overlay.read().unwrap();
            assert!(rows.iter().all(|&row| reader.get(row) == Some(&[version % 3; 16][..])));
            assert_eq!((reader.get(1), reader.get(10_000)), (None, None));
        }
        let refused = overlay.update(&[0, 1], |_| &[9; 16]).unwrap_err();
        assert_eq!(refused, OverlayFull { rows: 701, rows_max: 700 });
        assert_eq!(overlay.read().unwrap().get(0), Some(&[1; 16][..]), "a refused update changed a row");
        assert_eq!(overlay.rows(), 700);
        assert!(Overlay::new(10, 16, 0).unwrap().update(&[1], |_| &[0; 16]).is_err());
    }

    #[test]
    fn of_a_row_that_appears_twice_the_last_stays() {
        let overlay = Overlay::new(100, 1, 100).unwrap();
        overlay.update(&[5, 6, 5], |i| [&[1], &[2], &[3]][i]).unwrap();
        let reader = overlay.read().unwrap();
        assert_eq!((reader.get(5), reader.get(6)), (Some(&[3][..]), Some(&[2][..])));
        assert_eq!(overlay.rows(), 2);
    }

    #[test]
    fn readers_see_whole_rows_that_never_go_back_while_writers_replace_them() {
        const ROWS: u64 = 300;
        let overlay = Overlay::new(ROWS as usize, ROW_BYTES, ROWS as usize).unwrap();
        let done: Vec<AtomicU64> = (0..ROWS).map(|_| AtomicU64::new(0)).collect();
        let stop = AtomicBool::new(false);
        let rows: Vec<u64> = (0..ROWS).collect();
        let write = |version: u64| {
            let new: Vec<Vec<u8>> = rows.iter().map(|&row| row_of(row, version)).collect();
            overlay.update(&rows, |i| &new[i]).unwrap();
            done.iter().for_each(|done| done.store(version, Ordering::SeqCst));
        };
        write(1);
        let reads = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for seed in 0..3 {
                let (overlay, done, stop, reads) = (&overlay, &done, &stop, &reads);
                scope.spawn(move || {
                    let mut random = fastrand::Rng::with_seed(seed);
                    while !stop.load(Ordering::Relaxed) {
                        let row = random.u64(0..ROWS);
                        let floor = done[row as usize].load(Ordering::SeqCst);
                        let reader = overlay.read().unwrap();
                        let held = reader.get(row).unwrap();
                        let version = version_of(row, held);
                        assert!(version >= floor, "row {row}: version {version} after {floor}");
                        // Still the same bytes, however long the reader stays.
                        std::thread::yield_now();
                        assert_eq!(version_of(row, held), version);
                        reads.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            let mut version = 1;
            let begin = std::time::Instant::now();
            while begin.elapsed() < std::time::Duration::from_millis(400) || reads.load(Ordering::Relaxed) < 1_000 {
                version += 1;
                write(version);
            }
            stop.store(true, Ordering::Relaxed);
        });
    }
}
