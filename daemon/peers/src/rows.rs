//! Rows from the asking side: cuts a fetch into requests and puts their rows together. Owns the buffer until it is
//! whole; it must never hand out rows of a request that failed.

use std::sync::Arc;
use std::time::Instant;

use super::ask::{AskError, all};
use super::link::Link;
use super::wire::{Expected, Purpose, Request, RequestId, RowsRequest, frame};
use super::{Failure, PeerError, Peers, RowBatch};

/// Rows of one owner.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The owner of all of them.
    pub part: u16,
    /// Number of the table.
    pub table: u16,
    /// Bytes of one of its rows.
    pub row_bytes: usize,
    /// The rows, in any order; duplicates allowed.
    pub ids: &'a [u64],
}

impl Peers {
    /// The rows of `ids`, all owned by `part`, in their order; duplicates allowed. Fetches longer than
    /// `request_rows_max` are split. One request is repeated once when its connection is lost.
    ///
    /// # Errors
    /// Within `request_timeout_ms` in every case, naming the peer and the number of rows.
    pub async fn fetch(
        &self,
        part: u16,
        table: u16,
        row_bytes: usize,
        ids: &[u64],
        purpose: impl Into<Purpose>,
    ) -> Result<RowBatch, PeerError> {
        self.fetch_noting(Wanted { part, table, row_bytes, ids }, purpose.into(), &|_| ()).await
    }

    /// As [`Peers::fetch`]; `sending(n)` is called before the owner can learn that any of the first `n` rows is wanted,
    /// so that what the answer holds of the others is newer than the call.
    ///
    /// # Errors
    /// As [`Peers::fetch`].
    pub async fn fetch_noting(
        &self,
        wanted: Wanted<'_>,
        purpose: Purpose,
        sending: &(dyn Fn(usize) + Send + Sync),
    ) -> Result<RowBatch, PeerError> {
        let begin = Instant::now();
        let outcome = self.fetch_timed(wanted, purpose, sending).await;
        match &outcome {
            Ok(batch) => self.shared.stats.received(wanted.part, batch.len(), batch.bytes().len()),
            Err(_) => self.shared.stats.fetch_failed(wanted.part),
        }
        if let Some(handles) = self.shared.stats.peer(wanted.part) {
            handles.seconds.observe(begin.elapsed().as_secs_f64());
        }
        outcome
    }

    async fn fetch_timed(
        &self,
        Wanted { part, table, row_bytes, ids }: Wanted<'_>,
        purpose: Purpose,
        sending: &(dyn Fn(usize) + Send + Sync),
    ) -> Result<RowBatch, PeerError> {
        let shared = &self.shared;
        let rows = ids.len();
        let link = shared.links.get(&part).ok_or(PeerError::UnknownPeer { peer: part, rows })?;
        let bytes = rows.checked_mul(row_bytes).filter(|bytes| *bytes <= isize::MAX as usize);
        let (Some(bytes), Ok(wire_row_bytes)) = (bytes, u32::try_from(row_bytes)) else {
            return Err(PeerError::TooLarge { rows, row_bytes });
        };
        let mut buffer = shared.receive_pool.take(bytes);
        let Purpose { class, request: RequestId(request) } = purpose;
        let template = RowsRequest { table, row_bytes: wire_row_bytes, count: 0, class, request };
        let rows_max = shared.config.request_rows_max;
        let pieces = ids.chunks(rows_max).zip(pieces_mut(&mut buffer, rows_max * row_bytes));
        // Collected: inside a stream, the compiler does not see that the closure's futures may go to other threads.
        let requests: Vec<_> = pieces
            .enumerate()
            .map(|(piece, (ids, out))| {
                let end = piece * rows_max + ids.len();
                self.request_rows(link, template, ids, out, move || sending(end))
            })
            .collect();
        let all = all(requests, shared.config.requests_in_flight);
        self.within(link, (table, rows), all).await.map(|()| RowBatch::new(buffer, row_bytes, rows))
    }

    /// One request for rows.
    async fn request_rows(
        &self,
        link: &Arc<Link>,
        template: RowsRequest,
        ids: &[u64],
        out: &mut [u8],
        sending: impl Fn() + Send + Sync,
    ) -> Result<(), Failure> {
        let request = RowsRequest { count: ids.len() as u32, ..template };
        let mut message = frame(&Request::Rows(request)).map_err(AskError::from)?;
        message.reserve(ids.len() * 8);
        ids.iter().for_each(|id| message.extend_from_slice(&id.to_le_bytes()));
        let expected = Expected::Rows { count: request.count, row_bytes: request.row_bytes as usize };
        self.request(link, message.into(), request.class, expected, out, &sending).await.map(|_| ())
    }
}

/// `buffer` in pieces of `bytes`, as often as there are ids; pieces of no bytes for rows of no bytes.
fn pieces_mut(buffer: &mut [u8], bytes: usize) -> impl Iterator<Item = &mut [u8]> {
    let mut rest = buffer;
    std::iter::from_fn(move || {
        let at = bytes.min(rest.len());
        let (piece, next) = std::mem::take(&mut rest).split_at_mut(at);
        rest = next;
        Some(piece)
    })
}
