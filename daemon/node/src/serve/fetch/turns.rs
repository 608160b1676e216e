//! A large gather cut into turns, which the threads that share it take as they find time: one that gets no processor
//! holds up nothing but its turn. It owns the cut and the order in which what was found is put together again. It must
//! never let a thread of the daemon go without a look at other work for much longer than [`LOOK_AFTER`].

use crate::serve::base::Base;
use crate::serve::error::RequestError;
use crate::serve::fetch::gather::{CHUNK_ROWS, Found, OutOfRange, Run, Sources, gather};
use crate::serve::fetch::job::Job;
use crate::serve::own::blocks::take_resident;
use rudder_dataset::WantedRow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Bytes of one turn: a quarter of a millisecond.
const TURN_BYTES: usize = 1 << 20;

/// How long a thread gathers before it looks at other work. Each look costs as much as fifty rows, and more where it
/// wakes another thread that takes the rest away.
const LOOK_AFTER: Duration = Duration::from_millis(1);

/// Bytes by which a row counts for more than it has: it has to be found.
const ROW_COST_BYTES: usize = 256;

/// Fewest turns that are worth a further thread: to wake it takes as long as a third of a turn.
const THREAD_TURNS_MIN: usize = 2;

/// How a gather is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cut {
    rows: usize,
    turn_rows: usize,
}

/// What one thread found.
#[derive(Debug, Default)]
struct Share {
    /// By number of the turn.
    turns: Vec<(usize, Found)>,
    /// Rows of the node's own shard that are not mapped, nor in a block in memory.
    unmapped: Vec<WantedRow>,
}

impl Cut {
    fn new(rows: usize, row_bytes: usize) -> Self {
        let turn_rows = (TURN_BYTES / (row_bytes + ROW_COST_BYTES)).next_multiple_of(CHUNK_ROWS).max(CHUNK_ROWS);
        Self { rows, turn_rows }
    }

    fn turns(&self) -> usize {
        self.rows.div_ceil(self.turn_rows)
    }

    /// Threads to share it, of `threads_max`.
    fn threads(&self, threads_max: usize) -> usize {
        threads_max.min(self.turns() / THREAD_TURNS_MIN).max(1)
    }
}

/// Copies what the shard and the cache hold of the rows of `job`, on up to `threads_max` threads of this runtime.
pub(crate) async fn gather_here(base: &Arc<Base>, job: &Arc<Job>, threads_max: usize) -> Result<Found, RequestError> {
    let cut = Cut::new(job.ids.len(), base.table(job.table).row_bytes);
    let next = Arc::new(AtomicUsize::new(0));
    let helpers: Vec<_> = (1..cut.threads(threads_max))
        .map(|_| {
            let (base, job, next) = (Arc::clone(base), Arc::clone(job), Arc::clone(&next));
            tokio::spawn(async move { take_turns(&base, &job, cut, &next).await })
        })
        .collect();
    if !helpers.is_empty() {
        // What a thread of the runtime spawns last is its own until it waits: no other thread would begin.
        tokio::task::yield_now().await;
    }
    let mut shares = vec![take_turns(base, job, cut, &next).await];
    // All have ended before anything is answered: none may write into memory that the client has back.
    for ended in futures_util::future::join_all(helpers).await {
        shares.push(ended.map_err(|_| RequestError::Internal("a gather ended early"))?);
    }
    put_together(shares).map_err(|refused| RequestError::out_of_range(base.table(job.table), refused.at, refused.id))
}

/// Gathers turn after turn until `next` says that all are taken.
async fn take_turns(base: &Base, job: &Job, cut: Cut, next: &AtomicUsize) -> Result<Share, OutOfRange> {
    let (table, owned) = (base.table(job.table), base.owned.table(job.table));
    let sources = Sources { table, node: base.dataset.node(), owned, cache: &base.tables[job.table].cache };
    let mut share = Share::default();
    let mut looked = Instant::now();
    loop {
        let turn = next.fetch_add(1, Ordering::Relaxed);
        if turn >= cut.turns() {
            break;
        }
        let first = turn * cut.turn_rows;
        let ids = &job.ids[first..(first + cut.turn_rows).min(cut.rows)];
        let mut found = Found::default();
        if let Err(refused) = gather(sources, Run { first, ids }, &job.out, &mut found) {
            // Turns before this one are taken: the first refusal of the fetch is among what their takers answer.
            next.store(cut.turns(), Ordering::Relaxed);
            return Err(refused);
        }
        share.unmapped.append(&mut found.unmapped);
        share.turns.push((turn, found));
        if next.load(Ordering::Relaxed) < cut.turns() && looked.elapsed() >= LOOK_AFTER {
            tokio::task::yield_now().await;
            looked = Instant::now();
        }
    }
    take_resident(table, &mut share.unmapped, &job.out).await;
    Ok(share)
}

/// What all threads found, in the order of the fetch; or its first refusal.
fn put_together(shares: Vec<Result<Share, OutOfRange>>) -> Result<Found, OutOfRange> {
    if let Some(refused) = shares.iter().filter_map(|share| share.as_ref().err()).min_by_key(|refused| refused.at) {
        return Err(*refused);
    }
    let (mut turns, mut whole) = (Vec::new(), Found::default());
    for mut share in shares.into_iter().flatten() {
        turns.append(&mut share.turns);
        whole.unmapped.append(&mut share.unmapped);
    }
    turns.sort_unstable_by_key(|&(turn, _)| turn);
    whole.hits.reserve_exact(turns.iter().map(|(_, found)| found.hits.len()).sum());
    whole.misses.reserve_exact(turns.iter().map(|(_, found)| found.misses.len()).sum());
    for (_, mut found) in turns {
        whole.local += found.local;
        whole.hits.append(&mut found.hits);
        whole.misses.append(&mut found.misses);
    }
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_is_a_number_of_chunks_whatever_the_rows_are_like() {
        for (row_bytes, turn_rows) in [(1, 4096), (512, 1536), (2408, 512), (1 << 20, 512)] {
            assert_eq!(
                Cut::new(100_000, row_bytes).turn_rows.div_ceil(CHUNK_ROWS) * CHUNK_ROWS,
                turn_rows,
                "{row_bytes}"
            );
        }
        assert_eq!(Cut::new(100_000, 512).turns(), 66);
    }

    #[test]
    fn small_gathers_are_not_shared() {
        let threads = |rows, threads_max| Cut::new(rows, 512).threads(threads_max);
        assert_eq!((threads(0, 4), threads(1, 4), threads(4000, 4)), (1, 1, 1));
        assert_eq!((threads(6200, 4), threads(100_000, 4), threads(100_000, 1)), (2, 4, 1));
    }

    #[test]
    fn shares_are_put_together_in_the_order_of_the_fetch() {
        let found = |id| Found { local: 1, hits: vec![id, id + 1], ..Found::default() };
        let share = |turns: &[usize]| Share {
            turns: turns.iter().map(|&turn| (turn, found(turn as u64 * 2))).collect(),
            unmapped: Vec::new(),
        };
        let whole = put_together(vec![Ok(share(&[0, 2])), Ok(share(&[1, 3]))]).unwrap();
        assert_eq!((whole.hits, whole.local), ((0..8).collect(), 4));
        let refused = |at| Err(OutOfRange { at, id: 9 });
        let outcome = put_together(vec![refused(70), Ok(share(&[1])), refused(30)]);
        assert_eq!(outcome.unwrap_err(), OutOfRange { at: 30, id: 9 });
    }
}
