//! Versions between nodes, from the asking side: what an owner has updated, and updates of its rows. Owns the bitmaps
//! of changed rows and how an update is cut into requests; it must never send two requests of one update at once,
//! because an owner tells repetitions by their order.

use bytes::Bytes;
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64;

use super::ask::AskError;
use super::link::{Link, Met};
use super::wire::{
    BLOCK_ROWS, ChangesRequest, Class, Expected, Request, Stamp, UpdateRequest, WORD_BYTES, WireError, frame,
};
use super::{Failure, PeerError, Peers};

/// What an owner has updated since a point in time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Where its versions stand: rows fetched from now on are as new.
    pub now: Stamp,
    /// Everything may have changed.
    pub all: bool,
    /// One bit for each block of [`BLOCK_ROWS`] rows of its shard, lowest first; no words when none changed. Then one
    /// word for each bit that is set: one bit for each row of that block.
    words: Vec<u64>,
    /// Words of the bitmap of blocks.
    blocks: usize,
    /// For each of these, where the words of its blocks begin.
    begins: Vec<u32>,
}

impl Changes {
    /// Nothing that was known has to hold.
    #[must_use]
    pub fn everything(now: Stamp) -> Self {
        Self { now, all: true, ..Self::default() }
    }

    /// Nothing changed.
    #[must_use]
    pub fn nothing(now: Stamp) -> Self {
        Self { now, ..Self::default() }
    }

    /// Of a part of `rows` rows: pairs of the number of a block and the bits of its rows, by ascending block.
    #[must_use]
    pub fn of_blocks(now: Stamp, rows: u64, changed: impl Iterator<Item = (usize, u64)>) -> Self {
        let bits = u64::BITS as usize;
        let mut words = vec![0; Self::words_of(rows)];
        for (block, mask) in changed.filter(|&(_, mask)| mask != 0) {
            if let Some(word) = words.get_mut(block / bits) {
                *word |= 1 << (block % bits);
                words.push(mask);
            }
        }
        let any = words.len() > Self::words_of(rows);
        Self::from_words(now, rows, if any { words } else { Vec::new() }).unwrap_or_else(|| Self::everything(now))
    }

    /// From the words of an answer; `None` if their number is not the one they announce.
    fn from_words(now: Stamp, rows: u64, words: Vec<u64>) -> Option<Self> {
        if words.is_empty() {
            return Some(Self::nothing(now));
        }
        let blocks = Self::words_of(rows);
        let mut begins = Vec::with_capacity(blocks);
        let mut begin = blocks;
        for word in words.get(..blocks)? {
            begins.push(u32::try_from(begin).ok()?);
            begin += word.count_ones() as usize;
        }
        (begin == words.len()).then_some(Self { now, all: false, words, blocks, begins })
    }

    /// Words of the bitmap of blocks for a part of `rows` rows.
    #[must_use]
    pub fn words_of(rows: u64) -> usize {
        rows.div_ceil(BLOCK_ROWS).div_ceil(u64::from(u64::BITS)) as usize
    }

    /// Most words of an answer about a part of `rows` rows.
    fn words_max(rows: u64) -> usize {
        Self::words_of(rows) * (1 + u64::BITS as usize)
    }

    /// The words of the answer.
    #[must_use]
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// Whether nothing changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.all && self.words.is_empty()
    }

    /// Whether row `row` of the owner's shard was changed.
    #[inline]
    #[must_use]
    pub fn holds(&self, row: u64) -> bool {
        let (block, bits) = (row / BLOCK_ROWS, u64::from(u64::BITS));
        let (at, bit) = ((block / bits) as usize, block % bits);
        if self.all || at >= self.blocks {
            return self.all;
        }
        let (word, begin) = (self.words[at], self.begins[at]);
        let below = (word & ((1 << bit) - 1)).count_ones();
        let rows = self.words.get((begin + below) as usize).copied().unwrap_or_default();
        word >> bit & 1 == 1 && rows >> (row % BLOCK_ROWS) & 1 == 1
    }
}

/// Rows to write: `rows` holds those of `ids`, one after the other.
#[derive(Debug, Clone, Copy)]
pub struct Rewrite<'a> {
    /// Index of the table.
    pub table: u16,
    /// Bytes of one row.
    pub row_bytes: usize,
    /// Global ids, all owned by the peer.
    pub ids: &'a [u64],
    /// Their new rows.
    pub rows: &'a [u8],
    /// This process, and the first of a run of unused numbers, one per id.
    pub writer: Stamp,
}

/// An update that was not applied whole.
#[derive(Debug, thiserror::Error)]
#[error("an update was not applied whole")]
pub struct UpdateFailed {
    /// Ids, from the first, that certainly were applied.
    pub applied: usize,
    /// What went wrong with those that follow. Some of them may have been applied.
    #[source]
    pub cause: PeerError,
}

impl Peers {
    /// Where the versions of `part` stood when it was connected to; `None` if it never was.
    #[must_use]
    pub fn met(&self, part: u16) -> Option<Met> {
        self.shared.links.get(&part)?.met()
    }

    /// Waits until a peer is found to be another process than it was.
    pub async fn renewed(&self) {
        self.shared.renewed.notified().await;
    }

    /// What `part` has updated of its `rows` rows of a table since `since`.
    ///
    /// # Errors
    /// Within `request_timeout_ms`, naming the peer.
    pub async fn changes(&self, part: u16, table: u16, rows: u64, since: Stamp) -> Result<Changes, PeerError> {
        let link = self.shared.links.get(&part).ok_or(PeerError::UnknownPeer { peer: part, rows: 0 })?;
        let expected_words = Changes::words_of(rows) as u32;
        let request = async {
            let message = frame(&Request::Changes(ChangesRequest { table, since })).map_err(AskError::from)?;
            // Untouched where few words come.
            let mut bytes = vec![0; Changes::words_max(rows) * WORD_BYTES];
            let expected = Expected::Changes { words: expected_words };
            let answer = self.request(link, message.into(), Class::Demand, expected, &mut bytes, &|| ()).await?;
            bytes.truncate(answer.count() as usize * WORD_BYTES);
            let words = bytes.chunks_exact(WORD_BYTES);
            let words = words.map(|word| u64::from_le_bytes(word.try_into().unwrap_or_default())).collect();
            let now = answer.stamp().ok_or(AskError::Wire(WireError::Unexpected))?;
            if answer.all() {
                return Ok(Changes::everything(now));
            }
            let announced = answer.count();
            let misfit = || AskError::Wire(WireError::BlockRows { announced, due: expected_words });
            Ok(Changes::from_words(now, rows, words).ok_or_else(misfit)?)
        };
        self.within(link, (table, 0), request).await
    }

    /// Has `part` replace rows that it owns. Longer updates than `request_rows_max` are split; each piece has
    /// `request_timeout_ms` and is applied whole or not at all.
    ///
    /// # Errors
    /// [`UpdateFailed`], which says how much was applied.
    pub async fn update(&self, part: u16, rewrite: Rewrite<'_>) -> Result<(), UpdateFailed> {
        let rows = rewrite.ids.len();
        let failed = |applied, cause| UpdateFailed { applied, cause };
        let Some(link) = self.shared.links.get(&part) else {
            return Err(failed(0, PeerError::UnknownPeer { peer: part, rows }));
        };
        let rows_max = self.shared.config.request_rows_max;
        for (piece, ids) in rewrite.ids.chunks(rows_max).enumerate() {
            let first = piece * rows_max;
            let bytes = first * rewrite.row_bytes..(first + ids.len()) * rewrite.row_bytes;
            let writer = Stamp { clock: rewrite.writer.clock + piece as u64, ..rewrite.writer };
            let rows = rewrite.rows.get(bytes).unwrap_or_default();
            let piece = Rewrite { ids, rows, writer, ..rewrite };
            let request = self.update_piece(link, piece);
            self.within(link, (rewrite.table, ids.len()), request).await.map_err(|cause| failed(first, cause))?;
        }
        Ok(())
    }

    async fn update_piece(&self, link: &Arc<Link>, piece: Rewrite<'_>) -> Result<(), Failure> {
        let Rewrite { table, row_bytes, ids, rows, writer } = piece;
        let head = |checksum| {
            let (row_bytes, count) = (row_bytes as u32, ids.len() as u32);
            frame(&Request::Update(UpdateRequest { table, row_bytes, count, writer, checksum })).map_err(AskError::from)
        };
        let head_bytes = head(u64::MAX)?.len();
        let mut message = Vec::with_capacity(head_bytes + ids.len() * 8 + rows.len());
        message.resize(head_bytes, 0);
        ids.iter().for_each(|id| message.extend_from_slice(&id.to_le_bytes()));
        message.extend_from_slice(rows);
        // The length of the head depends on the number in it, which depends on what follows the head.
        let head = head(xxh3_64(&message[head_bytes..]))?;
        let begin = head_bytes - head.len();
        message[begin..head_bytes].copy_from_slice(&head);
        let message = Bytes::from(message).slice(begin..);
        self.request(link, message, Class::Demand, Expected::Updated, &mut [], &|| ()).await.map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    proptest! {
        /// Whatever rows changed: these and no others are told, also after the way over the wire.
        #[test]
        fn what_changed_is_told_row_by_row(changed in prop::collection::btree_set(0u64..10_000, 0..60), rows in 1u64..10_000) {
            let changed: BTreeSet<u64> = changed.into_iter().filter(|&row| row < rows).collect();
            let mut blocks: BTreeMap<usize, u64> = BTreeMap::new();
            changed.iter().for_each(|row| *blocks.entry((row / BLOCK_ROWS) as usize).or_default() |= 1 << (row % BLOCK_ROWS));
            let told = Changes::of_blocks(Stamp::default(), rows, blocks.into_iter());
            prop_assert_eq!(told.is_empty(), changed.is_empty());
            prop_assert!(told.words().len() <= Changes::words_max(rows));
            let received = Changes::from_words(Stamp::default(), rows, told.words().to_vec()).unwrap();
            prop_assert_eq!(&received, &told);
            // One word more is no answer, whatever it holds.
            let more = [told.words(), &[7]].concat();
            prop_assert!(told.is_empty() || Changes::from_words(Stamp::default(), rows, more).is_none());
            let held: BTreeSet<u64> = (0..rows + 5_000).filter(|&row| received.holds(row)).collect();
            prop_assert_eq!(held, changed);
        }

        /// Words whose number is not the announced one are no answer, and no words make it panic.
        #[test]
        fn any_words_are_changes_or_none(words in prop::collection::vec(any::<u64>(), 0..40), rows in 1u64..100_000) {
            if let Some(changes) = Changes::from_words(Stamp::default(), rows, words) {
                let _ = (0..rows).filter(|&row| changes.holds(row)).count();
            }
        }
    }
}
