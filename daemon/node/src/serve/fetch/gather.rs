//! The gather: copies rows of this node's shard and of the cache to where the trainer asked for them, in one pass, and
//! lists what is missing. It owns the hottest loop of the daemon and must never allocate per row, wait, or hold a
//! cached row beyond one chunk.

use crate::serve::own::out::Out;
use crate::serve::own::owned::OwnedTable;
use hashbrown::HashMap;
use rudder_core::cache::{TableCache, prefetch};
use rudder_dataset::{Part, Table, WantedRow};

/// Ids looked up together before their rows are copied; also how long a reader stays inside the cache.
pub(crate) const CHUNK_ROWS: usize = 512;

/// How many index words ahead are asked for.
const INDEX_AHEAD: usize = 16;

/// How many rows ahead are asked for.
const ROWS_AHEAD: usize = 8;

/// A row that neither the shard nor the cache has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Miss {
    /// Position in the fetch.
    pub(crate) at: u32,
    /// Its id.
    pub(crate) id: u64,
    /// Its owner.
    pub(crate) part: Part,
}

/// What a gather found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Rows of the node's own shard.
    pub(crate) local: u64,
    /// Ids found in the cache.
    pub(crate) hits: Vec<u64>,
    /// Rows that a peer must be asked for.
    pub(crate) misses: Vec<Miss>,
    /// Rows of the node's own shard that are not mapped.
    pub(crate) unmapped: Vec<WantedRow>,
}

/// An id that the table does not have, with its position in the fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OutOfRange {
    pub(crate) at: usize,
    pub(crate) id: u64,
}

/// Where a gather finds rows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sources<'a> {
    pub(crate) table: &'a Table,
    /// This node.
    pub(crate) node: Part,
    pub(crate) owned: &'a OwnedTable,
    pub(crate) cache: &'a TableCache,
}

/// A run of ids of a fetch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run<'a> {
    /// Position of the first in the fetch.
    pub(crate) first: usize,
    pub(crate) ids: &'a [u64],
}

/// Gathers the rows of a run into `out`.
pub(crate) fn gather(sources: Sources<'_>, run: Run<'_>, out: &Out, found: &mut Found) -> Result<(), OutOfRange> {
    for (chunk, ids) in (0..).zip(run.ids.chunks(CHUNK_ROWS)) {
        gather_chunk(sources, Run { first: run.first + chunk * CHUNK_ROWS, ids }, out, found)?;
    }
    Ok(())
}

fn gather_chunk(from: Sources<'_>, run: Run<'_>, out: &Out, found: &mut Found) -> Result<(), OutOfRange> {
    let Sources { table, node, cache, .. } = from;
    let Run { first, ids } = run;
    let (reader, owned) = (cache.read(), from.owned.read(&table.shard));
    let mut sources: [&[u8]; CHUNK_ROWS] = [&[]; CHUNK_ROWS];
    for (i, &id) in ids.iter().enumerate() {
        if let Some(&ahead) = ids.get(i + INDEX_AHEAD) {
            cache.prefetch(ahead);
            if owned.is_updated()
                && let Some(location) = table.book.locate(ahead)
                && location.part == node
            {
                owned.prefetch(location.row);
            }
        }
        let refused = OutOfRange { at: first + i, id };
        let location = table.book.locate(id).ok_or(refused)?;
        if location.part == node {
            match owned.row(location.row) {
                Some(row) => sources[i] = row,
                None if location.row.0 >= table.shard.rows() => return Err(refused),
                None => found.unmapped.push(WantedRow { row: location.row, at: (first + i) as u32 }),
            }
            found.local += 1;
        } else if let Some(row) = reader.get(id) {
            sources[i] = row;
            found.hits.push(id);
        } else {
            found.misses.push(Miss { at: (first + i) as u32, id, part: location.part });
        }
    }
    copy_rows(&sources[..ids.len()], first, table.row_bytes, out);
    Ok(())
}

/// Copies each row to its place, asking for rows ahead of their turn; an empty source is a miss and is left out.
fn copy_rows(sources: &[&[u8]], first: usize, row_bytes: usize, out: &Out) {
    sources.iter().take(ROWS_AHEAD).for_each(|row| prefetch::row(row));
    for (i, source) in sources.iter().enumerate() {
        if let Some(ahead) = sources.get(i + ROWS_AHEAD) {
            prefetch::row(ahead);
        }
        if !source.is_empty() {
            out.write((first + i) * row_bytes, source);
        }
    }
}

/// The distinct rows of `misses`, as id and owner in the order of their first appearance, and for each miss its place
/// among them.
pub(crate) fn unique(misses: &[Miss]) -> (Vec<(u64, Part)>, Vec<u32>) {
    let mut places: HashMap<u64, u32> = HashMap::with_capacity(misses.len());
    let mut rows = Vec::with_capacity(misses.len());
    let seats = misses
        .iter()
        .map(|miss| {
            *places.entry(miss.id).or_insert_with(|| {
                rows.push((miss.id, miss.part));
                (rows.len() - 1) as u32
            })
        })
        .collect();
    (rows, seats)
}

/// The yardstick of `rudder bench fetch`: the same copies with the same prefetching inside one process, from an array
/// of rows into a reused buffer.
pub fn gather_in_process(rows: &[u8], row_bytes: usize, ids: &[u64], out: &mut [u8]) {
    let at = |id: u64| &rows[id as usize * row_bytes..][..row_bytes];
    ids.iter().take(ROWS_AHEAD).for_each(|&id| prefetch::row(at(id)));
    for ((i, &id), target) in ids.iter().enumerate().zip(out.chunks_exact_mut(row_bytes)) {
        if let Some(&ahead) = ids.get(i + ROWS_AHEAD) {
            prefetch::row(at(ahead));
        }
        target.copy_from_slice(at(id));
    }
}
