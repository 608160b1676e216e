//! Versions between nodes, from the asking side: what an owner has updated, and updates of its rows. Owns the bitmap of
//! changed blocks and how an update is cut into requests; it must never send two requests of one update at once, because
//! an owner tells repetitions by their order.

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
    /// One bit for each block of [`BLOCK_ROWS`] rows of its shard, lowest first; none when no block changed.
    pub words: Vec<u64>,
}

impl Changes {
    /// Words of the bitmap for a part of `rows` rows.
    #[must_use]
    pub fn words_of(rows: u64) -> usize {
        rows.div_ceil(BLOCK_ROWS).div_ceil(u64::from(u64::BITS)) as usize
    }

    /// Whether nothing changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.all && self.words.iter().all(|&word| word == 0)
    }

    /// Whether row `row` of the owner's shard may have changed.
    #[inline]
    #[must_use]
    pub fn holds(&self, row: u64) -> bool {
        let block = row / BLOCK_ROWS;
        let word = self.words.get((block / u64::from(u64::BITS)) as usize);
        self.all || word.is_some_and(|word| word >> (block % u64::from(u64::BITS)) & 1 == 1)
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
    /// This process, and the first of as many unused numbers as there are ids.
    pub writer: Stamp,
}

/// An update that was not applied whole.
#[derive(Debug, thiserror::Error)]
#[error("{cause}")]
pub struct UpdateFailed {
    /// Ids, from the first, that certainly were applied.
    pub applied: usize,
    /// What went wrong with those that follow. Some of them may have been applied.
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
        let words = Changes::words_of(rows);
        let request = async {
            let message = frame(&Request::Changes(ChangesRequest { table, since })).map_err(AskError::from)?;
            let mut bytes = vec![0; words * WORD_BYTES];
            let expected = Expected::Changes { words: words as u32 };
            let answer = self.request(link, message.into(), Class::Demand, expected, &mut bytes).await?;
            bytes.truncate(answer.count() as usize * WORD_BYTES);
            let words = bytes.chunks_exact(WORD_BYTES);
            let words = words.map(|word| u64::from_le_bytes(word.try_into().unwrap_or_default())).collect();
            let now = answer.stamp().ok_or(AskError::Wire(WireError::Unexpected))?;
            Ok(Changes { now, all: answer.all(), words })
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
        self.request(link, message, Class::Demand, Expected::Updated, &mut []).await.map(|_| ())
    }
}
