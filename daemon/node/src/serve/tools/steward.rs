//! Carries out tool calls on the running caches: changes capacities within what configuration and memory allow, and
//! brings in rows that nobody waits for, behind demand. It owns the bounds of such calls. It must never touch the fetch
//! path: a call works beside it, and what it brings in goes through the same flights and the same admission as any
//! other row.

use crate::serve::base::{Base, blocking};
use crate::serve::books::desk::Desk;
use crate::serve::books::supply::bring_in;
use crate::serve::table::reason::Reason;
use crate::serve::tools::memory::Memory;
use crate::serve::versions::refresh::{RefreshAnswer, Refresher};
use hashbrown::HashSet;
use rudder_agent::tools::{
    Brought, Done, Evict, Evicted, Grow, Grown, IdsAre, Refresh, Refreshed, ToolAnswer, ToolCall, ToolError, Warm,
    Warmed,
};
use rudder_core::cache::Fill;
use rudder_dataset::IdError;
use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;

/// Rows that one call has on their way at once.
const BRING_ROWS: usize = 65_536;

/// Carries out tool calls.
#[derive(Debug, Clone)]
pub(crate) struct Steward {
    base: Arc<Base>,
    desks: Arc<[Arc<Desk>]>,
    refresher: Refresher,
    memory: Arc<Memory>,
    /// Longest wait of a call for rows that it brings in.
    wait: Duration,
}

/// Rows that a tool call wants here.
struct Wanted {
    ids: Vec<u64>,
    reason: Reason,
    fill: Fill,
}

impl Steward {
    pub(crate) fn new(
        base: &Arc<Base>,
        desks: &[Arc<Desk>],
        refresher: &Refresher,
        memory: &Arc<Memory>,
        wait: Duration,
    ) -> Self {
        let (base, memory) = (Arc::clone(base), Arc::clone(memory));
        Self { base, desks: desks.into(), refresher: refresher.clone(), memory, wait }
    }

    /// Carries out a tool call. Waits for rows and owners for the time that the configuration allows, and never blocks.
    pub(crate) async fn call(&self, call: ToolCall) -> Result<ToolAnswer, ToolError> {
        let tables = self.tables_of(&call)?;
        let tool = call.tool().to_owned();
        let done = self.carry_out(&call, tables).await?;
        // The agent of an idle daemon holds in every window: that is no news.
        if !matches!(call, ToolCall::Hold(_)) {
            tracing::info!(tool, answer = %serde_json::to_string(&done).unwrap_or_default(), "tool called");
        }
        Ok(ToolAnswer { tool, tables: done })
    }

    async fn carry_out(&self, call: &ToolCall, tables: Vec<usize>) -> Result<Vec<Done>, ToolError> {
        // One for all tables: who calls knows of one wait.
        let end = Instant::now() + self.wait;
        let mut done = Vec::with_capacity(tables.len());
        match call {
            ToolCall::Hold(_) => {
                let base = Arc::clone(&self.base);
                blocking(move || base.tables.iter().for_each(|table| table.cache.hold())).await;
            }
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
        self.base.name(table).to_owned()
    }

    /// The cached tables that `call` is about; staged rows are refreshed, too, where nothing is cached.
    fn tables_of(&self, call: &ToolCall) -> Result<Vec<usize>, ToolError> {
        let is_held =
            |at: usize| matches!(call, ToolCall::Refresh(_)) || self.base.tables[at].cache.spec().ceiling_rows > 0;
        let cached: Vec<usize> = (0..self.base.tables.len()).filter(|&at| is_held(at)).collect();
        let tables = match call.table() {
            None => cached.clone(),
            Some(name) => cached.iter().copied().filter(|&at| self.base.name(at) == name).collect(),
        };
        let known = |asked: &str| match cached.as_slice() {
            [] => "none (cache.policy is none)".to_owned(),
            some => rudder_client::listed(asked, some.iter().map(|&at| self.base.name(at))),
        };
        if let (true, Some(name)) = (tables.is_empty(), call.table()) {
            return Err(ToolError::UnknownTable { tool: call.tool(), table: name.to_owned(), known: known(name) });
        }
        if let ToolCall::Grow(Grow { rows: Some(_), table: None, .. }) = call
            && tables.len() > 1
        {
            let problem = format!("`rows` without `table`, but several are cached: {}", known(""));
            return Err(ToolError::Argument { tool: call.tool(), problem });
        }
        Ok(tables)
    }

    async fn grow(&self, table: usize, grow: &Grow, end: Instant) -> Grown {
        let cache = &self.base.tables[table].cache;
        let now = cache.capacity_rows() as u64;
        let wished = match (grow.rows, grow.factor) {
            (Some(rows), _) => rows,
            (None, factor) => (now as f64 * factor.unwrap_or(1.0)).round() as u64,
        };
        let (ceiling, by_memory) = self.memory.ceiling(table);
        // Memory that ran short since keeps a cache from growing; giving some back is the business of `relieve`.
        let ceiling = if by_memory { ceiling.max(now) } else { ceiling };
        let limited_by = (wished > ceiling).then(|| if by_memory { "memory" } else { "ceiling" }.to_owned());
        let base = Arc::clone(&self.base);
        let target = wished.min(ceiling) as usize;
        let resized = blocking(move || {
            let cache = &base.tables[table].cache;
            let resized = cache.resize(target);
            let free = cache.capacity_rows().saturating_sub(cache.used_rows() as usize);
            (resized, if resized.after_rows > resized.before_rows { cache.worth_bringing(free, 0) } else { Vec::new() })
        });
        let (resized, bring_in) = resized.await;
        let brought = self.bring_in(table, Wanted { ids: bring_in, reason: Reason::Tool, fill: Fill::Tool }, end).await;
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

    async fn turn_over(&self, table: usize, evict: &Evict, end: Instant) -> Evicted {
        let base = Arc::clone(&self.base);
        let Evict { fraction, forget, .. } = *evict;
        let plan = blocking(move || {
            let cache = &base.tables[table].cache;
            if forget {
                cache.forget();
            }
            let residents = cache.used_rows() as usize;
            let turnover = (residents as f64 * fraction).ceil() as usize;
            let free = cache.capacity_rows().saturating_sub(residents);
            (residents, turnover, cache.worth_bringing(free, turnover))
        });
        let (residents, turnover, bring_in) = plan.await;
        let evicted = &self.base.tables[table].cache.stats().evicted_rows;
        let before = evicted.load(Ordering::Relaxed);
        let brought = self.bring_in(table, Wanted { ids: bring_in, reason: Reason::Tool, fill: Fill::Tool }, end).await;
        Evicted {
            table: self.name(table),
            resident_rows: residents as u64,
            turnover_rows_max: turnover as u64,
            evicted_rows: (evicted.load(Ordering::Relaxed) - before).min(brought.filled_rows),
            forgot: forget,
            brought,
        }
    }

    async fn warm(&self, table: usize, warm: &Warm, end: Instant) -> Result<Warmed, ToolError> {
        let (of, node) = (self.base.table(table), self.base.dataset.node());
        let mut ids = Cow::Borrowed(&warm.ids);
        if warm.ids_are.unwrap_or_default() == IdsAre::Original && of.ids.is_some() {
            let problem = |error: IdError| (error.to_string(), matches!(error, IdError::Unknown { .. }));
            self.base.to_dataset(table, ids.to_mut()).await.map_err(|error| match problem(error) {
                (problem, true) => ToolError::Argument { tool: "warm", problem },
                (problem, false) => ToolError::Files { tool: "warm", problem },
            })?;
        }
        let mut seen = HashSet::with_capacity(ids.len());
        for &id in ids.iter() {
            let Some(location) = of.book.locate(id) else {
                let problem = format!("id {id} is out of range: table `{}` has ids below {}", of.name, of.rows);
                return Err(ToolError::Argument { tool: "warm", problem });
            };
            if location.part != node {
                seen.insert(id);
            }
        }
        let cache = &self.base.tables[table].cache;
        let remote = seen.len() as u64;
        let mut absent: Vec<u64> = seen.into_iter().filter(|&id| !cache.contains(id)).collect();
        absent.sort_unstable();
        let cached_rows = remote - absent.len() as u64;
        let brought = self.bring_in(table, Wanted { ids: absent, reason: Reason::Warm, fill: Fill::Warm }, end).await;
        Ok(Warmed { table: of.name.clone(), remote_rows: remote, cached_rows, brought })
    }

    /// Refreshes tables at the same time: peers bound each of these waits, and an owner that does not answer costs one.
    async fn refresh_tables(&self, tables: Vec<usize>, refresh: &Refresh) -> Vec<Done> {
        let begin = |table| {
            let (this, refresh) = (self.clone(), refresh.clone());
            self.base.network.spawn(async move { Done::Refresh(this.refresh_tool(table, &refresh).await) })
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

    async fn refresh_tool(&self, table: usize, refresh: &Refresh) -> Refreshed {
        // What is too long for a duration is as good as for ever.
        let max_age = Duration::try_from_secs_f64(refresh.max_age_s.unwrap_or(0.0)).unwrap_or(Duration::MAX);
        let RefreshAnswer { checked_rows, changed_rows, repulled_rows, unreachable } =
            self.refresher.refresh(table, max_age).await;
        let unreachable = unreachable.into_iter().map(|part| part.0).collect();
        Refreshed { table: self.name(table), checked_rows, changed_rows, repulled_rows, unreachable }
    }

    /// Brings rows in, waiting for them until `end`.
    async fn bring_in(&self, table: usize, wanted: Wanted, end: Instant) -> Brought {
        let Wanted { ids, reason, fill } = wanted;
        let mut brought =
            Brought { asked_rows: ids.len() as u64, pending_rows: ids.len() as u64, ..Brought::default() };
        let (pieces, mut done) = tokio::sync::mpsc::unbounded_channel();
        let (base, desk) = (Arc::clone(&self.base), Arc::clone(&self.desks[table]));
        // A task of its own: what was begun is brought to its end, whether or not somebody still waits.
        self.base.network.spawn(async move {
            for piece in ids.chunks(BRING_ROWS) {
                let filled = bring_in(&base, &desk, table, piece.to_vec(), reason, fill).await;
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
}
