//! Each id of a fetch once. It owns a bit for each row of a table, in place of a hash table per fetch, which took a
//! third of the time that the books of a fetch take. It must never keep a bit from one fetch to the next.

use hashbrown::HashSet;

/// Rows of a table up to which there are bits (16 MiB of them, taken as rows are met); a larger one has hash tables.
const BITS_ROWS_MAX: u64 = 1 << 27;

/// Finds what comes twice.
#[derive(Debug)]
pub(crate) struct Distinct {
    rows: u64,
    /// Made when first needed; all zero between two calls.
    bits: Vec<u64>,
}

impl Distinct {
    /// For a table of `rows` rows.
    pub(crate) fn new(rows: u64) -> Self {
        Self { rows, bits: Vec::new() }
    }

    /// Each of `ids`, which are rows of the table, once, in the order of their first appearance: a batch counts a row
    /// once, whether it was a hit or a miss.
    pub(crate) fn of(&mut self, mut ids: Vec<u64>) -> Vec<u64> {
        if self.rows > BITS_ROWS_MAX {
            let mut seen = HashSet::with_capacity(ids.len());
            ids.retain(|&id| seen.insert(id));
            return ids;
        }
        if self.bits.is_empty() {
            self.bits = vec![0; self.rows.div_ceil(64) as usize];
        }
        let bits = &mut self.bits;
        ids.retain(|&id| {
            let Some(word) = bits.get_mut(id as usize / 64) else { return false };
            let (before, bit) = (*word, 1 << (id % 64));
            *word |= bit;
            before & bit == 0
        });
        ids.iter().for_each(|&id| bits[id as usize / 64] = 0);
        ids
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_counts_once_per_batch_and_again_in_the_next() {
        for rows in [200, BITS_ROWS_MAX + 1] {
            let mut distinct = Distinct::new(rows);
            for _ in 0..2 {
                assert_eq!(distinct.of(vec![3, 1, 199, 3, 2, 199, 64, 1]), [3, 1, 199, 2, 64], "{rows}");
            }
        }
    }
}
