//! Calls about several tables: which ids each part of the call is about, held against the limits, read once and
//! translated once. It owns the rule that what a call says of one part another part may share. It must never believe a
//! count before it was checked.

use crate::serve::books::batches::PartIds as Ids;
use crate::serve::error::RequestError;
use crate::serve::fetch::job::Job;
use crate::serve::fetch::timeline::Timeline;
use crate::serve::session::checks::Session;
use rudder_client::wire::{IdsPart, PartIds, Place, RowsCall};
use std::sync::Arc;

/// A fetch as it came.
pub(crate) struct FetchCall {
    pub(crate) parts: Vec<RowsCall>,
    pub(crate) batch: Option<u64>,
    pub(crate) learn: bool,
}

impl Session {
    /// Holds a fetch against its tables and the limits, reads its ids and finds the places of its rows: a job for each
    /// table.
    pub(crate) async fn jobs(
        &self,
        request: u64,
        call: &FetchCall,
        payload: &[u8],
    ) -> Result<Vec<Arc<Job>>, RequestError> {
        let FetchCall { parts, batch, learn } = call;
        for part in parts {
            self.table_of_shape(part)?;
        }
        let of_parts: Vec<IdsPart> = parts.iter().map(|part| IdsPart { table: part.table, ids: part.ids }).collect();
        let counts = self.counts(&of_parts)?;
        self.refuse_large_inline(parts, &counts)?;
        let (trainer, connection) = (self.trainer()?, self.peer.connection);
        let ids = match batch.filter(|_| of_parts.iter().any(|part| matches!(part.ids, PartIds::Announced(_)))) {
            Some(number) => {
                if of_parts.iter().any(|part| matches!(part.ids, PartIds::Given(_))) {
                    let problem = "ids of an announced batch, and others beside them";
                    return Err(RequestError::Senseless(problem.to_owned()));
                }
                Self::refuse_rest(payload)?;
                let tables = of_parts.iter().zip(&counts).map(|(part, &count)| (usize::from(part.table), count));
                let tables: Vec<(usize, usize)> = tables.collect();
                let known = self.local.engine.batches.take(trainer, number, &tables, *learn);
                known.ok_or(RequestError::UnknownBatch { number })?
            }
            None => self.ids_of(&of_parts, payload).await?,
        };
        let jobs = parts.iter().zip(ids).map(|(part, ids)| {
            let table = self.table(part.table)?;
            let out = self.place_rows(part.rows, ids.len(), table.row_bytes)?;
            let (timeline, notices) = (Timeline::start(), Arc::clone(self.replies.notices()));
            let (table, batch, learn) = (usize::from(table.id), *batch, *learn);
            Ok(Arc::new(Job { trainer, connection, request, timeline, table, ids, out, batch, learn, notices }))
        });
        jobs.collect()
    }

    /// The ids that an announcement is about, by table.
    pub(crate) async fn announced(&self, parts: &[IdsPart], payload: &[u8]) -> Result<Vec<(usize, Ids)>, RequestError> {
        self.counts(parts)?;
        let twice = |at: usize| parts[..at].iter().any(|earlier| earlier.table == parts[at].table);
        if parts.is_empty() || (0..parts.len()).any(twice) {
            let problem = "an announcement names one table or more, and each once";
            return Err(RequestError::Senseless(problem.to_owned()));
        }
        let ids = self.ids_of(parts, payload).await?;
        Ok(parts.iter().map(|part| usize::from(part.table)).zip(ids).collect())
    }

    /// The number of ids of each part.
    fn counts(&self, parts: &[IdsPart]) -> Result<Vec<usize>, RequestError> {
        let config = &self.local.config;
        if parts.len() > config.fetch_tables_max {
            let (what, limit) = (format!("a call about {} tables", parts.len()), config.fetch_tables_max as u64);
            return Err(RequestError::Limit { what, key: "local.fetch_tables_max", limit });
        }
        let mut counts: Vec<usize> = Vec::with_capacity(parts.len());
        for (at, part) in parts.iter().enumerate() {
            counts.push(match part.ids {
                PartIds::Given(run) => self.count(run.count)?,
                PartIds::Announced(count) => self.count(count)?,
                PartIds::Of(earlier) => {
                    let earlier = usize::from(earlier);
                    let known = counts.get(earlier).copied();
                    known.filter(|_| self.is_one_type(part, &parts[earlier])).ok_or_else(|| {
                        let problem = "which is no earlier one of the same vertex type";
                        RequestError::Senseless(format!("part {at} shares the ids of part {earlier}, {problem}"))
                    })?
                }
            });
        }
        self.count(counts.iter().map(|&count| count as u64).sum())?;
        Ok(counts)
    }

    /// Whether two parts are about tables of the same vertices.
    fn is_one_type(&self, one: &IdsPart, other: &IdsPart) -> bool {
        match (self.table(one.table), self.table(other.table)) {
            (Ok(one), Ok(other)) => one.vertex_type == other.vertex_type,
            _ => false,
        }
    }

    /// Dataset ids of each part, whose counts were checked.
    async fn ids_of(&self, parts: &[IdsPart], payload: &[u8]) -> Result<Vec<Ids>, RequestError> {
        let (mut all, mut left): (Vec<Ids>, &[u8]) = (Vec::with_capacity(parts.len()), payload);
        for part in parts {
            let table = usize::from(self.table(part.table)?.id);
            let ids = match part.ids {
                PartIds::Given(run) => {
                    let mut ids = self.read_run(&run, &mut left)?;
                    self.to_dataset(table, &mut ids).await?;
                    Arc::new(ids)
                }
                PartIds::Of(earlier) => Arc::clone(&all[usize::from(earlier)]),
                PartIds::Announced(_) => {
                    let what = "ids of an announced batch, in a call that names none or is one";
                    return Err(RequestError::Senseless(what.to_owned()));
                }
            };
            all.push(ids);
        }
        Self::refuse_rest(left)?;
        Ok(all)
    }

    /// Refuses what is too much for one reply.
    fn refuse_large_inline(&self, parts: &[RowsCall], counts: &[usize]) -> Result<(), RequestError> {
        let limit = self.local.config.inline_bytes_max;
        let mut bytes = 0usize;
        for (part, count) in parts.iter().zip(counts).filter(|(part, _)| part.rows == Place::Inline) {
            bytes = bytes.saturating_add(count.saturating_mul(self.table(part.table)?.row_bytes));
        }
        if bytes <= limit {
            return Ok(());
        }
        let what = format!("{bytes} bytes of rows without shared memory");
        Err(RequestError::Limit { what, key: "local.inline_bytes_max", limit: limit as u64 })
    }
}
