//! The rows themselves: one mapping of anonymous memory, cut into slots of one row each. It owns the bytes and must
//! never let a slot be written while a reader may hold it: [`super::TableCache`] alone calls it, under the rules of
//! [`super::readers`]. With [`super::prefetch`] and [`super::zeros`] it is the only place in the cache that holds
//! `unsafe` code.
#![allow(unsafe_code)]

use super::slots::Slot;
use memmap2::{Advice, MmapOptions, MmapRaw};
use std::io;

/// Rows up to this size are packed without padding; larger ones start at multiples of it.
const ROW_ALIGN_BYTES: usize = 16;

/// Memory for a number of rows of equal size.
#[derive(Debug)]
pub(super) struct Slab {
    memory: Option<MmapRaw>,
    slots: usize,
    row_bytes: usize,
    stride_bytes: usize,
}

impl Slab {
    /// Address space for `slots` rows of `row_bytes`; memory is taken when a slot is first written, and given back by
    /// [`Slab::give_back`].
    ///
    /// # Errors
    /// What the kernel says when there is no room.
    pub(super) fn new(slots: usize, row_bytes: usize) -> io::Result<Self> {
        let stride_bytes =
            if row_bytes <= ROW_ALIGN_BYTES { row_bytes } else { row_bytes.next_multiple_of(ROW_ALIGN_BYTES) };
        let bytes = slots.checked_mul(stride_bytes).ok_or_else(|| {
            io::Error::other(format!("{slots} rows of {row_bytes} bytes are beyond an address space"))
        })?;
        let memory = (bytes > 0)
            .then(|| -> io::Result<MmapRaw> {
                let map = MmapOptions::new().len(bytes).no_reserve_swap().map_anon()?;
                // Fewer page-table walks in random gathers; a kernel without huge pages may refuse, which is fine.
                let _ = map.advise(Advice::HugePage);
                Ok(MmapRaw::from(map))
            })
            .transpose()?;
        Ok(Self { memory, slots, row_bytes, stride_bytes })
    }

    /// Bytes that one cached row takes.
    #[must_use]
    pub(super) fn stride_bytes(&self) -> usize {
        self.stride_bytes
    }

    fn at(&self, slot: Slot) -> Option<*mut u8> {
        assert!(slot.index() < self.slots, "slot {slot} of {}", self.slots);
        let memory = self.memory.as_ref()?;
        // SAFETY: the slot is inside the mapping, as just checked.
        Some(unsafe { memory.as_mut_ptr().add(slot.index() * self.stride_bytes) })
    }

    /// The row in `slot`.
    ///
    /// # Safety
    /// The slot was found in the index by a reader that has entered and not left while the slice lives.
    #[inline]
    pub(super) unsafe fn row(&self, slot: Slot) -> &[u8] {
        self.at(slot).map_or(&[], |start| {
            // SAFETY: in bounds and initialised (anonymous memory is zero); the writer overwrites a slot only after it
            // was taken out of the index and all readers that entered before have left.
            unsafe { std::slice::from_raw_parts(start, self.row_bytes) }
        })
    }

    /// Writes `row` into `slot`.
    ///
    /// # Safety
    /// The caller holds the writer lock, the slot is in no index entry, and all readers that entered while it was have
    /// left.
    ///
    /// # Panics
    /// If `row` has not the size of a row.
    pub(super) unsafe fn write(&self, slot: Slot, row: &[u8]) {
        assert_eq!(row.len(), self.row_bytes, "size of a row");
        if let Some(start) = self.at(slot) {
            // SAFETY: in bounds; nobody else reads or writes the slot, as the caller promises.
            unsafe { std::ptr::copy_nonoverlapping(row.as_ptr(), start, row.len()) }
        }
    }
}

impl Slab {
    /// Gives the memory of all slots from `slot` up to `end` back to the kernel; they read as zero until written again.
    ///
    /// # Safety
    /// As for [`Slab::write`], for each of those slots.
    unsafe fn give_back(&self, slot: Slot, end: Slot) -> io::Result<()> {
        let Some(memory) = &self.memory else { return Ok(()) };
        let page = rustix::param::page_size();
        let first = (slot.index() * self.stride_bytes).next_multiple_of(page);
        let last = (end.index() * self.stride_bytes).min(memory.len());
        if first >= last {
            return Ok(());
        }
        // SAFETY: within the mapping, and nobody holds a row of these slots, as the caller promises.
        unsafe { memory.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, first, last - first) }
    }
}

/// The row of `id`'s slot, for a reader that is inside; kept here with the other unsafe code.
#[inline]
pub(super) fn read<'a>(
    slab: &'a Slab,
    index: &super::index::Index,
    _inside: &'a super::readers::Inside<'_>,
    id: u64,
) -> Option<&'a [u8]> {
    let slot = index.slot_of(id)?;
    // SAFETY: found in the index just now by a reader that stays inside for as long as the slice lives.
    Some(unsafe { slab.row(slot) })
}

/// The row of a slot that a reader that is inside has just found published.
#[inline]
pub(super) fn read_found<'a>(
    slab: &'a Slab,
    found: Option<Slot>,
    _inside: &'a super::readers::Inside<'_>,
) -> Option<&'a [u8]> {
    // SAFETY: found among published slots by a reader that stays inside for as long as the slice lives.
    found.map(|slot| unsafe { slab.row(slot) })
}

/// Writes rows into slots that were taken out of the index; waits out the readers first.
pub(super) fn overwrite<'a>(
    slab: &Slab,
    readers: &super::readers::Readers,
    rows: impl Iterator<Item = (Slot, &'a [u8])>,
) {
    readers.wait_out();
    for (slot, row) in rows {
        // SAFETY: called by `TableCache` under its writer lock with slots that are in no index entry; every reader
        // that could have found them has left.
        unsafe { slab.write(slot, row) }
    }
}

/// Copies rows to slots that are in no index entry; waits out their readers first. Rows stay readable where they were.
pub(super) fn relocate(slab: &Slab, readers: &super::readers::Readers, moves: &[(Slot, Slot)]) {
    readers.wait_out();
    for &(from, to) in moves {
        // SAFETY: called by `TableCache` under its writer lock: `from` is not written meanwhile, `to` is in no index
        // entry and every reader that could have found it has left.
        unsafe { slab.write(to, slab.row(from)) }
    }
}

/// Gives back the memory of slots that are in no index entry; waits out their readers first.
///
/// # Errors
/// What the kernel says.
pub(super) fn give_back(slab: &Slab, readers: &super::readers::Readers, slot: Slot, end: Slot) -> io::Result<()> {
    readers.wait_out();
    // SAFETY: called by `TableCache` with slots that are in no index entry and that nobody occupies meanwhile; every
    // reader that could have found them has left.
    unsafe { slab.give_back(slot, end) }
}
