//! Carries out tool calls on the running caches: changes capacities within what configuration and memory allow, and brings in
//! rows that nobody waits for, behind demand. It owns the bounds of such calls. It must never touch the fetch path: a call
//! works beside it, and what it brings in goes through the same flights and the same admission as any other row.

use super::engine::{Engine, Reason};
use super::refresh::RefreshAnswer;
use crate::memory::MemoryReading;
use hashbrown::HashSet;
use rudder_agent::tools::{
    Brought, Done, Evict, Evicted, Grow, Grown, Refresh, Refreshed, ToolAnswer, ToolCall, ToolError, Warm, Warmed,
};
use rudder_core::cache::{Fill, TableCache};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// Rows that one call has on their way at once.
const BRING_ROWS: usize = 65_536;

/// Share of its configured capacity below which memory pressure does not shrink a cache: little would be won by it.
const FLOOR_SHARE: f64 = 0.05;

/// How full memory was when it was last looked at, and what followed.
#[derive(Debug, Default)]
pub(super) struct Pressure {
    pub(super) limit_bytes: AtomicU64,
    pub(super) used_bytes: AtomicU64,
    /// Times that caches were shrunk because memory ran short.
    pub(super) shrinks: AtomicU64,
}

impl Pressure {
    fn note(&self, reading: MemoryReading) {
        self.limit_bytes.store(reading.limit_bytes, Ordering::Relaxed);
        self.used_bytes.store(reading.used_bytes, Ordering::Relaxed);
    }

    fn reading(&self) -> Option<MemoryReading> {
        let limit_bytes = self.limit_bytes.load(Ordering::Relaxed);
        (limit_bytes > 0).then(|| MemoryReading { limit_bytes, used_bytes: self.used_bytes.load(Ordering::Relaxed) })
    }
}

/// Bytes that all caches together may hold under `reading`, of which they hold `held` now, so that no more than `share` of
/// the limit is used.
fn room_bytes(reading: MemoryReading, share: f64, held: u64) -> u64 {
    let others = reading.used_bytes.saturating_sub(held);
    ((reading.limit_bytes as f64 * share) as u64).saturating_sub(others)
}

impl Engine {
    /// Carries out a tool call.
    ///
    /// # Errors
    /// [`ToolError`] naming the argument or table.
    pub async fn tool(self: &Arc<Self>, call: ToolCall) -> Result<ToolAnswer, ToolError> {
        if self.is_draining() {
            return Err(ToolError::NotServing { tool: call.tool(), why: "the daemon is draining".to_owned() });
        }
        let tables = self.tables_of(&call)?;
        let tool = call.tool().to_owned();
        let done = self.carry_out(&call, tables).await?;
        // The agent of an idle daemon holds in every window: that is no news.
        if !matches!(call, ToolCall::Hold(_)) {
            tracing::info!(tool, answer = %serde_json::to_string(&done).unwrap_or_default(), "tool called");
        }
        Ok(ToolAnswer { tool, tables: done })
    }

    async fn carry_out(self: &Arc<Self>, call: &ToolCall, tables: Vec<usize>) -> Result<Vec<Done>, ToolError> {
        // One for all tables: who calls knows of one wait.
        let end = Instant::now() + Duration::from_millis(self.steer.tool_wait_ms);
        let mut done = Vec::with_capacity(tables.len());
        match call {
            ToolCall::Hold(_) => self.tables.iter().for_each(|table| table.cache.hold()),
            ToolCall::Refresh(refresh) => done = self.refresh_tables(tables, refresh).await,
            ToolCall::Grow(grow) => {
                for table in tables {
                    done.push(Done::Grow(self.grow(table, grow, end).await));
                }
            }
            ToolCall::Evict(evict) => {
                for table in tables {
                    done.push(Done::Evict(self.turn_over(table, evict, end).await));
                }
            }
            ToolCall::Warm(warm) => {
                for table in tables {
                    done.push(Done::Warm(self.warm(table, warm, end).await?));
                }
            }
        }
        Ok(done)
    }

    fn name(&self, table: usize) -> String {
        self.dataset.tables()[table].name.clone()
    }

    /// The cached tables that `call` is about; staged rows are refreshed, too, where nothing is cached.
    fn tables_of(&self, call: &ToolCall) -> Result<Vec<usize>, ToolError> {
        let is_held = |at: usize| matches!(call, ToolCall::Refresh(_)) || self.tables[at].cache.spec().ceiling_rows > 0;
        let cached: Vec<usize> = (0..self.tables.len()).filter(|&at| is_held(at)).collect();
        let tables = match call.table() {
            None => cached.clone(),
            Some(name) => cached.iter().copied().filter(|&at| self.dataset.tables()[at].name == name).collect(),
        };
        let known = || match cached.iter().map(|&at| self.name(at)).collect::<Vec<_>>().join(", ") {
            none if none.is_empty() => "none (cache.policy is none)".to_owned(),
            some => some,
        };
        if let (true, Some(name)) = (tables.is_empty(), call.table()) {
            return Err(ToolError::UnknownTable { tool: call.tool(), table: name.to_owned(), known: known() });
        }
        if let ToolCall::Grow(Grow { rows: Some(_), table: None, .. }) = call
            && tables.len() > 1
        {
            let problem = format!("`rows` without `table`, but several are cached: {}", known());
            return Err(ToolError::Argument { tool: call.tool(), problem });
        }
        Ok(tables)
    }

    async fn grow(self: &Arc<Self>, table: usize, grow: &Grow, end: Instant) -> Grown {
        let cache = &self.tables[table].cache;
        let now = cache.capacity_rows() as u64;
        let wished = match (grow.rows, grow.factor) {
            (Some(rows), _) => rows,
            (None, factor) => (now as f64 * factor.unwrap_or(1.0)).round() as u64,
        };
        let (ceiling, by_memory) = self.ceiling(table);
        // Memory that ran short since keeps a cache from growing; giving some back is the business of `relieve`.
        let ceiling = if by_memory { ceiling.max(now) } else { ceiling };
        let limited_by = (wished > ceiling).then(|| if by_memory { "memory" } else { "ceiling" }.to_owned());
        let engine = Arc::clone(self);
        let target = wished.min(ceiling) as usize;
        let resized = blocking(move || {
            let cache = &engine.tables[table].cache;
            let resized = cache.resize(target);
            let free = cache.capacity_rows().saturating_sub(cache.used_rows() as usize);
            (resized, if resized.after_rows > resized.before_rows { cache.worth_bringing(free, 0) } else { Vec::new() })
        });
        let (resized, bring_in) = resized.await;
        let brought = self.bring_in_for_tool(table, bring_in, (Reason::Tool, Fill::Tool), end).await;
        Grown {
            table: self.name(table),
            before_rows: resized.before_rows as u64,
            after_rows: resized.after_rows as u64,
            ceiling_rows: ceiling,
            limited_by,
            dropped_rows: resized.dropped_rows as u64,
            brought,
        }
    }

    /// Most rows that the cache of `table` may be given now, and whether it is memory that says so.
    pub(super) fn ceiling(&self, table: usize) -> (u64, bool) {
        let cache = &self.tables[table].cache;
        let ceiling = cache.spec().ceiling_rows as u64;
        let Some(reading) = self.pressure.reading() else { return (ceiling, false) };
        let held: u64 = self.tables.iter().map(|table| table.cache.row_bytes_held()).sum();
        let promised = |cache: &TableCache| (cache.capacity_rows() * cache.slot_bytes()) as u64;
        let others: u64 = self.tables.iter().map(|table| promised(&table.cache)).sum::<u64>() - promised(cache);
        let room = room_bytes(reading, self.steer.memory_share, held).saturating_sub(others);
        let rows = room / (cache.slot_bytes() as u64).max(1);
        if rows < ceiling { (rows, true) } else { (ceiling, false) }
    }

    async fn turn_over(self: &Arc<Self>, table: usize, evict: &Evict, end: Instant) -> Evicted {
        let engine = Arc::clone(self);
        let Evict { fraction, forget, .. } = *evict;
        let plan = blocking(move || {
            let cache = &engine.tables[table].cache;
            if forget {
                cache.forget();
            }
            let residents = cache.used_rows() as usize;
            let turnover = (residents as f64 * fraction).ceil() as usize;
            let free = cache.capacity_rows().saturating_sub(residents);
            (residents, turnover, cache.worth_bringing(free, turnover))
        });
        let (residents, turnover, bring_in) = plan.await;
        let evicted = &self.tables[table].cache.stats().evicted_rows;
        let before = evicted.load(Ordering::Relaxed);
        let brought = self.bring_in_for_tool(table, bring_in, (Reason::Tool, Fill::Tool), end).await;
        Evicted {
            table: self.name(table),
            resident_rows: residents as u64,
            turnover_rows_max: turnover as u64,
            evicted_rows: (evicted.load(Ordering::Relaxed) - before).min(brought.filled_rows),
            forgot: forget,
            brought,
        }
    }

    async fn warm(self: &Arc<Self>, table: usize, warm: &Warm, end: Instant) -> Result<Warmed, ToolError> {
        let (of, node) = (&self.dataset.tables()[table], self.dataset.node());
        let mut seen = HashSet::with_capacity(warm.ids.len());
        for &id in &warm.ids {
            let Some(location) = of.book.locate(id) else {
                let problem = format!("id {id} is out of range: table `{}` has ids below {}", of.name, of.rows);
                return Err(ToolError::Argument { tool: "warm", problem });
            };
            if location.part != node {
                seen.insert(id as u32);
            }
        }
        let cache = &self.tables[table].cache;
        let remote = seen.len() as u64;
        let mut absent: Vec<u32> = seen.into_iter().filter(|&id| !cache.contains(id)).collect();
        absent.sort_unstable();
        let cached_rows = remote - absent.len() as u64;
        let brought = self.bring_in_for_tool(table, absent, (Reason::Warm, Fill::Warm), end).await;
        Ok(Warmed { table: of.name.clone(), remote_rows: remote, cached_rows, brought })
    }

    /// Refreshes tables at the same time: peers bound each of these waits, and an owner that does not answer costs one.
    async fn refresh_tables(self: &Arc<Self>, tables: Vec<usize>, refresh: &Refresh) -> Vec<Done> {
        let begin = |table| {
            let (engine, refresh) = (Arc::clone(self), refresh.clone());
            self.network.spawn(async move { Done::Refresh(engine.refresh_tool(table, &refresh).await) })
        };
        let begun: Vec<_> = tables.into_iter().map(begin).collect();
        let mut done = Vec::with_capacity(begun.len());
        for refresh in begun {
            match refresh.await {
                Ok(refreshed) => done.push(refreshed),
                Err(ended) if ended.is_panic() => std::panic::resume_unwind(ended.into_panic()),
                // The daemon ends, and nobody hears the answer.
                Err(_) => {}
            }
        }
        done
    }

    async fn refresh_tool(self: &Arc<Self>, table: usize, refresh: &Refresh) -> Refreshed {
        // What is too long for a duration is as good as for ever.
        let max_age = Duration::try_from_secs_f64(refresh.max_age_s.unwrap_or(0.0)).unwrap_or(Duration::MAX);
        let RefreshAnswer { checked_rows, changed_rows, repulled_rows, unreachable } =
            self.refresh(table, max_age).await;
        Refreshed { table: self.name(table), checked_rows, changed_rows, repulled_rows, unreachable }
    }

    /// Brings rows in for a tool call, waiting for them until `end`.
    async fn bring_in_for_tool(
        self: &Arc<Self>,
        table: usize,
        ids: Vec<u32>,
        (reason, fill): (Reason, Fill),
        end: Instant,
    ) -> Brought {
        let mut brought =
            Brought { asked_rows: ids.len() as u64, pending_rows: ids.len() as u64, ..Brought::default() };
        let (pieces, mut done) = tokio::sync::mpsc::unbounded_channel();
        let engine = Arc::clone(self);
        // A task of its own: what was begun is brought to its end, whether or not somebody still waits.
        self.network.spawn(async move {
            for piece in ids.chunks(BRING_ROWS) {
                let filled = engine.bring_in(table, piece.to_vec(), reason, fill).await;
                let _ = pieces.send((piece.len() as u64, filled as u64));
            }
        });
        while let Ok(Some((rows, filled))) = tokio::time::timeout_at(end, done.recv()).await {
            brought.pending_rows -= rows;
            brought.filled_rows += filled;
            brought.refused_rows += rows - filled;
        }
        brought
    }

    /// Takes note of how full memory is at the start, and lowers capacities that do not fit into it.
    pub fn fit(&self, reading: MemoryReading) {
        self.pressure.note(reading);
        for (at, table) in self.tables.iter().enumerate() {
            let (ceiling, by_memory) = self.ceiling(at);
            let configured_rows = table.cache.capacity_rows();
            if by_memory && ceiling < configured_rows as u64 {
                table.cache.resize(ceiling as usize);
                tracing::warn!(
                    table = self.name(at),
                    configured_rows,
                    capacity_rows = ceiling,
                    limit_bytes = reading.limit_bytes,
                    used_bytes = reading.used_bytes,
                    "the configured cache does not fit into the memory limit: lower cache.capacity or raise the limit"
                );
            }
        }
    }

    /// Takes note of how full memory is, and gives some back if it runs short. Answers the bytes of rows that were let go.
    pub fn relieve(&self, reading: MemoryReading) -> u64 {
        self.pressure.note(reading);
        if reading.used_bytes as f64 <= reading.limit_bytes as f64 * self.steer.pressure_share {
            return 0;
        }
        let held: u64 = self.tables.iter().map(|table| table.cache.row_bytes_held()).sum();
        let room = room_bytes(reading, self.steer.memory_share, held);
        let keep = room as f64 / held.max(1) as f64;
        let mut given_back = 0;
        for (at, table) in self.tables.iter().enumerate() {
            let cache = &table.cache;
            let floor = (cache.spec().capacity_rows as f64 * FLOOR_SHARE) as usize;
            let target = ((cache.used_rows() as f64 * keep) as usize).max(floor);
            if keep >= 1.0 || target >= cache.used_rows() as usize {
                continue;
            }
            let resized = cache.resize(target);
            given_back += (resized.dropped_rows * cache.slot_bytes()) as u64;
            tracing::warn!(
                table = self.name(at),
                before_rows = resized.before_rows,
                after_rows = resized.after_rows,
                limit_bytes = reading.limit_bytes,
                used_bytes = reading.used_bytes,
                "memory runs short: the cache was shrunk; `rudder tool grow` enlarges it again"
            );
        }
        if given_back > 0 {
            self.pressure.shrinks.fetch_add(1, Ordering::Relaxed);
        }
        given_back
    }
}

/// Runs what may take a while away from the threads that serve.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_what_the_others_leave_of_the_share() {
        let reading = MemoryReading { limit_bytes: 1000, used_bytes: 700 };
        assert_eq!(room_bytes(reading, 0.9, 300), 500, "the others use 400 of 900");
        assert_eq!(room_bytes(reading, 0.3, 300), 0);
    }
}
