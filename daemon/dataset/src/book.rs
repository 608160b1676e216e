//! The partition book of a vertex type: which part owns an id, and in which row of its shard. Asked for every id of
//! every fetch, so it is plain memory without locks. It must never touch a file or a shard.

use super::part::{LocalRow, Part};

/// Where a row lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Location {
    /// The part, and so the node, that owns the row.
    pub part: Part,
    /// Row inside the owner's shard of any table of the vertex type.
    pub row: LocalRow,
}

impl Location {
    #[inline]
    fn new(part: u16, row: u64) -> Self {
        Self { part: Part(part), row: LocalRow(row) }
    }
}

/// Maps ids, 0 to `rows() - 1`, one to one to (part, row).
#[derive(Clone, Debug)]
pub struct PartitionBook {
    /// First row number of each part in the sense of ranges: sums of what the parts own. Parts + 1 numbers.
    starts: Vec<u64>,
    index: Index,
}

#[derive(Clone, Debug)]
enum Index {
    Ranges,
    /// Part and row of each id in one word, so that a lookup costs one cache miss: `part << row_bits | row`. Four bytes
    /// do up to billions of vertices (16 parts of 268 million rows).
    Map32 {
        cells: Vec<u32>,
        row_bits: u32,
    },
    Map64 {
        cells: Vec<u64>,
        row_bits: u32,
    },
}

/// Why numbers are no partition book.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BookError {
    /// Starts go down, do not begin at 0, or there are fewer than two or more than 65,536.
    #[error("`starts` must be parts + 1 ascending numbers from 0")]
    NotAscending,
    /// An owner is not below the number of parts.
    #[error("id {id} is owned by part {owner}, but there are {parts} parts")]
    OwnerOutOfRange {
        /// The id.
        id: u64,
        /// Its claimed owner.
        owner: u64,
        /// Number of parts.
        parts: u16,
    },
    /// The given rows are not one to one.
    #[error("id {id} claims row {row} of part {part}, which {why}")]
    RowsNotBijective {
        /// The id.
        id: u64,
        /// Its claimed row.
        row: u64,
        /// Its owner.
        part: Part,
        /// Rows that the owner has.
        owned: u64,
        /// What is wrong with the row.
        why: &'static str,
    },
}

impl PartitionBook {
    /// Part `i` owns `starts[i]..starts[i + 1]`.
    ///
    /// # Errors
    /// [`BookError::NotAscending`].
    pub fn ranges(starts: Vec<u64>) -> Result<Self, BookError> {
        if starts.len() < 2 || starts.len() > usize::from(u16::MAX) + 1 || starts[0] != 0 || !starts.is_sorted() {
            return Err(BookError::NotAscending);
        }
        Ok(Self { starts, index: Index::Ranges })
    }

    /// Even ranges: the first parts own one row more where `rows` does not divide.
    #[must_use]
    pub fn even_ranges(rows: u64, parts: u16) -> Self {
        let parts = u64::from(parts.max(1));
        let (share, rest) = (rows / parts, rows % parts);
        let starts = (0..=parts).map(|part| part * share + part.min(rest)).collect();
        Self { starts, index: Index::Ranges }
    }

    /// Id `i` is owned by part `owners[i]`; rows of a shard are in the order of ids unless `rows` says the row of each
    /// id. Both are plain numbers as a file has them, which are checked here.
    ///
    /// # Errors
    /// [`BookError`] when an owner is no part, or `rows` is not one to one.
    pub fn map(
        parts: u16,
        owners: impl Iterator<Item = u16> + Clone,
        rows: Option<&mut dyn Iterator<Item = u64>>,
    ) -> Result<Self, BookError> {
        let mut counts = vec![0u64; usize::from(parts)];
        for (id, owner) in (0u64..).zip(owners.clone()) {
            let count = counts.get_mut(usize::from(owner));
            *count.ok_or(BookError::OwnerOutOfRange { id, owner: u64::from(owner), parts })? += 1;
        }
        let mut starts = vec![0u64];
        starts.extend(counts.iter().scan(0, |sum, count| {
            *sum += count;
            Some(*sum)
        }));
        let row_bits = u64::BITS - counts.iter().max().map_or(0, |&most| most.saturating_sub(1)).leading_zeros();
        let part_bits = u16::BITS - parts.saturating_sub(1).leading_zeros();
        let cells = Cells { counts: &counts, starts: &starts };
        let index = match row_bits + part_bits {
            0..=31 => Index::Map32 {
                cells: cells.collect(owners, rows, |p, row| (p as u32) << row_bits | row as u32)?,
                row_bits,
            },
            _ => Index::Map64 { cells: cells.collect(owners, rows, |p, row| p << row_bits | row)?, row_bits },
        };
        Ok(Self { starts, index })
    }

    /// Part and row of `id`; `None` when the id is out of range.
    #[inline]
    #[must_use]
    pub fn locate(&self, id: u64) -> Option<Location> {
        match &self.index {
            Index::Ranges => self.locate_in_ranges(id),
            Index::Map32 { cells, row_bits } => {
                let cell = *cells.get(usize::try_from(id).ok()?)?;
                Some(Location::new((cell >> row_bits) as u16, u64::from(cell & ((1 << row_bits) - 1))))
            }
            Index::Map64 { cells, row_bits } => {
                let cell = *cells.get(usize::try_from(id).ok()?)?;
                Some(Location::new((cell >> row_bits) as u16, cell & ((1 << row_bits) - 1)))
            }
        }
    }

    #[inline]
    fn locate_in_ranges(&self, id: u64) -> Option<Location> {
        if id >= self.rows() {
            return None;
        }
        // The part is the number of ends that are not above the id; empty parts are stepped over. The standard
        // library's search has no branch that could be mispredicted and was measured to beat counting from 2 to 16
        // parts.
        let part = self.starts[1..].partition_point(|&end| end <= id);
        Some(Location::new(part as u16, id - self.starts[part]))
    }

    /// Ids of the vertex type.
    #[inline]
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.starts[self.starts.len() - 1]
    }

    /// Number of parts.
    #[must_use]
    pub fn parts(&self) -> u16 {
        (self.starts.len() - 1) as u16
    }

    /// Ids that `part` owns; 0 when there is no such part.
    #[must_use]
    pub fn owned(&self, part: Part) -> u64 {
        match (self.starts.get(part.index()), self.starts.get(part.index() + 1)) {
            (Some(start), Some(end)) => end - start,
            _ => 0,
        }
    }

    /// The starts of a book of ranges; `None` for a map.
    #[must_use]
    pub fn as_ranges(&self) -> Option<&[u64]> {
        matches!(self.index, Index::Ranges).then_some(self.starts.as_slice())
    }

    /// Bytes of memory that the book holds.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        let cells = match &self.index {
            Index::Ranges => 0,
            Index::Map32 { cells, .. } => size_of_val(cells.as_slice()),
            Index::Map64 { cells, .. } => size_of_val(cells.as_slice()),
        };
        (cells + size_of_val(self.starts.as_slice())) as u64
    }
}

/// Builds the cells of a map and checks that rows are one to one.
struct Cells<'a> {
    counts: &'a [u64],
    starts: &'a [u64],
}

impl Cells<'_> {
    fn collect<C>(
        &self,
        owners: impl Iterator<Item = u16>,
        rows: Option<&mut dyn Iterator<Item = u64>>,
        pack: impl Fn(u64, u64) -> C,
    ) -> Result<Vec<C>, BookError> {
        let Some(rows) = rows else {
            let mut next = vec![0u64; self.counts.len()];
            return Ok(owners
                .map(|part| {
                    let row = &mut next[usize::from(part)];
                    *row += 1;
                    pack(u64::from(part), *row - 1)
                })
                .collect());
        };
        let mut taken = vec![0u64; (self.starts[self.starts.len() - 1] as usize).div_ceil(64)];
        (0u64..)
            .zip(owners.zip(rows))
            .map(|(id, (part, row))| {
                let owned = self.counts[usize::from(part)];
                let refuse = |why| BookError::RowsNotBijective { id, row, part: Part(part), owned, why };
                if row >= owned {
                    return Err(refuse("is outside the shard"));
                }
                let bit = self.starts[usize::from(part)] + row;
                let (word, mask) = (&mut taken[(bit / 64) as usize], 1u64 << (bit % 64));
                if *word & mask != 0 {
                    return Err(refuse("another id has already"));
                }
                *word |= mask;
                Ok(pack(u64::from(part), row))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn assert_bijection(book: &PartitionBook) {
        let mut seen = HashSet::new();
        for id in 0..book.rows() {
            let at = book.locate(id).unwrap();
            assert!(at.part < Part(book.parts()) && at.row < LocalRow(book.owned(at.part)), "{id} -> {at:?}");
            assert!(seen.insert(at), "{at:?} twice");
        }
        assert_eq!(book.locate(book.rows()), None);
        assert_eq!(book.locate(u64::MAX), None);
        assert_eq!(Part::all(book.parts()).map(|part| book.owned(part)).sum::<u64>(), book.rows());
        assert_eq!(book.owned(Part(book.parts())), 0);
    }

    proptest! {
        #[test]
        fn ranges_are_a_bijection_in_order(counts in proptest::collection::vec(0u64..20, 1..40)) {
            let mut starts = vec![0];
            for count in &counts { starts.push(starts[starts.len() - 1] + count); }
            let book = PartitionBook::ranges(starts.clone()).unwrap();
            assert_bijection(&book);
            for id in 0..book.rows() {
                let at = book.locate(id).unwrap();
                prop_assert_eq!(starts[at.part.index()] + at.row.0, id);
            }
        }

        #[test]
        fn maps_are_a_bijection_and_keep_the_owner(parts in 1u16..300, seeds in proptest::collection::vec(any::<u16>(), 0..400)) {
            let owners: Vec<u16> = seeds.iter().map(|seed| seed % parts).collect();
            let book = PartitionBook::map(parts, owners.iter().copied(), None).unwrap();
            prop_assert_eq!(book.parts(), parts);
            assert_bijection(&book);
            let mut next = vec![0; usize::from(parts)];
            for (id, &owner) in owners.iter().enumerate() {
                prop_assert_eq!(book.locate(id as u64), Some(Location::new(owner, next[usize::from(owner)])));
                next[usize::from(owner)] += 1;
            }
        }

        #[test]
        fn wide_cells_answer_as_narrow_ones(parts in 1u16..9, seeds in proptest::collection::vec(any::<u16>(), 1..200)) {
            let owners: Vec<u16> = seeds.iter().map(|seed| seed % parts).collect();
            let narrow = PartitionBook::map(parts, owners.iter().copied(), None).unwrap();
            let cells = owners.iter().enumerate().map(|(id, &part)| u64::from(part) << 40 | narrow.locate(id as u64).unwrap().row.0);
            let wide = PartitionBook { starts: narrow.starts.clone(), index: Index::Map64 { cells: cells.collect(), row_bits: 40 } };
            for id in 0..=owners.len() as u64 { prop_assert_eq!(wide.locate(id), narrow.locate(id)); }
        }

        #[test]
        fn even_ranges_differ_by_one(rows in 0u64..1000, parts in 1u16..40) {
            let book = PartitionBook::even_ranges(rows, parts);
            assert_bijection(&book);
            let owned: Vec<u64> = Part::all(parts).map(|part| book.owned(part)).collect();
            prop_assert!(owned.iter().max().unwrap() - owned.iter().min().unwrap() <= 1);
            prop_assert_eq!(book.rows(), rows);
        }
    }

    #[test]
    fn given_rows_are_used_and_checked() {
        let owners = [1u16, 0, 1, 1];
        let build = |rows: [u64; 4]| PartitionBook::map(2, owners.iter().copied(), Some(&mut rows.into_iter()));
        let book = build([2, 0, 0, 1]).unwrap();
        assert_eq!(book.locate(0), Some(Location::new(1, 2)));
        assert_bijection(&book);
        assert!(matches!(build([2, 0, 0, 2]), Err(BookError::RowsNotBijective { id: 3, row: 2, .. })));
        assert!(matches!(build([3, 0, 0, 1]), Err(BookError::RowsNotBijective { id: 0, owned: 3, .. })));
    }

    #[test]
    fn bad_books_are_refused() {
        for starts in [vec![], vec![0], vec![1, 2], vec![0, 5, 4]] {
            assert_eq!(PartitionBook::ranges(starts).unwrap_err(), BookError::NotAscending);
        }
        let error = PartitionBook::map(2, [0u16, 2].into_iter(), None).unwrap_err();
        assert_eq!(error, BookError::OwnerOutOfRange { id: 1, owner: 2, parts: 2 });
    }
}
