//! What `rudder top` knows: of each daemon the last two readings and a history of its hit rate, and the view that
//! follows from them. Pure: readings and times come in, a view goes out. It must never ask a daemon or draw anything.

use crate::scrape::{Scrape, between, quantile};
use rudder_agent::journal::Decision;
use serde::Serialize;
use serde_json::Value;
use std::collections::VecDeque;

/// Points of history that are kept.
pub(super) const HISTORY: usize = 240;

/// What a daemon said at one moment.
#[derive(Debug, Clone, Default)]
pub(super) struct Reading {
    /// Seconds on the clock of this program.
    pub(super) at: f64,
    pub(super) scrape: Scrape,
    pub(super) status: Value,
    /// The last decisions, oldest first.
    pub(super) decisions: Vec<Decision>,
}

/// One daemon that is watched.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) url: String,
    before: Option<Reading>,
    now: Option<Reading>,
    /// Since when there is no answer, and why.
    gone: Option<(f64, String)>,
    hit_rates: VecDeque<f64>,
}

/// Whether a daemon answers.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "lowercase", tag = "state")]
pub(super) enum State {
    /// Nothing was heard yet.
    Waiting,
    /// It answers.
    Up,
    /// It answers, and takes no new work.
    Draining,
    /// It does not answer.
    Gone {
        /// For so long.
        seconds: f64,
        /// What was tried and what came of it.
        why: String,
    },
}

/// Rows per second that trainers got, by where they came from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(super) struct Rows {
    pub(super) local: f64,
    pub(super) cache: f64,
    pub(super) staged: f64,
    pub(super) peer: f64,
}

impl Rows {
    pub(super) fn remote(self) -> f64 {
        self.cache + self.staged + self.peer
    }
}

/// A cache: one table's, or all together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(super) struct Cache {
    pub(super) rows: f64,
    pub(super) capacity_rows: f64,
    pub(super) ceiling_rows: f64,
    pub(super) bytes: f64,
}

/// Memory in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(super) struct Memory {
    pub(super) resident: f64,
    pub(super) used: f64,
    /// 0 where no limit is known.
    pub(super) limit: f64,
}

/// A peer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Peer {
    pub(super) node: String,
    pub(super) address: String,
    pub(super) up: bool,
    pub(super) p50_seconds: Option<f64>,
    pub(super) p99_seconds: Option<f64>,
    pub(super) received_bytes_per_second: f64,
    pub(super) sent_bytes_per_second: f64,
    /// Why the last dial failed.
    pub(super) error: Option<String>,
}

/// A decision of the agent in short.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Decided {
    pub(super) number: u64,
    pub(super) tool: String,
    pub(super) outcome: String,
    pub(super) reason: String,
    /// Hit rate before and after.
    pub(super) hit_rate: Option<(f64, f64)>,
}

/// All that is shown of one daemon. Rates are over the last interval.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct View {
    pub(super) url: String,
    #[serde(flatten)]
    pub(super) state: State,
    /// `node 0 of 2`, once it is known.
    pub(super) node: Option<(u64, u64)>,
    pub(super) dataset: String,
    pub(super) uptime_seconds: f64,
    pub(super) tables: Vec<String>,
    /// The table that the numbers are of; all together where none is named.
    pub(super) table: Option<String>,
    pub(super) hit_rate: Option<f64>,
    pub(super) hit_rates: Vec<f64>,
    pub(super) trainers: u64,
    pub(super) epochs: f64,
    pub(super) fetches_per_second: f64,
    /// Seconds that trainers waited for rows, per second and reporting trainer.
    pub(super) stall_share: f64,
    pub(super) failed_fetches: f64,
    pub(super) p50_seconds: Option<f64>,
    pub(super) p99_seconds: Option<f64>,
    pub(super) rows: Rows,
    pub(super) network_rows_per_second: f64,
    pub(super) cache: Cache,
    pub(super) memory: Memory,
    pub(super) peers: Vec<Peer>,
    pub(super) controller: String,
    pub(super) decisions: Vec<Decided>,
}

impl Watched {
    pub(super) fn new(url: String) -> Self {
        Self { url, before: None, now: None, gone: None, hit_rates: VecDeque::new() }
    }

    /// Takes what was heard, or why nothing was, at `at`.
    pub(super) fn record(&mut self, at: f64, heard: Result<Reading, String>) {
        match heard {
            Err(why) => {
                let since = self.gone.as_ref().map_or(at, |(since, _)| *since);
                self.gone = Some((since, why));
            }
            Ok(reading) => {
                let started = |reading: &Reading| reading.scrape.sum("process_start_time_seconds", &[]);
                // A new process starts its counters at zero: the old ones are not comparable.
                let same = self.now.as_ref().is_some_and(|now| started(now) == started(&reading));
                self.before = self.now.take().filter(|_| same);
                self.now = Some(reading);
                self.gone = None;
                if let Some(rate) = self.rates(None).and_then(|rates| rates.hit_rate()) {
                    if self.hit_rates.len() == HISTORY {
                        self.hit_rates.pop_front();
                    }
                    self.hit_rates.push_back(rate);
                }
            }
        }
    }

    /// Names of the tables, as far as is known.
    pub(super) fn tables(&self) -> Vec<String> {
        let Some(now) = &self.now else { return Vec::new() };
        now.scrape.values("rudder_cache_capacity_rows", "table").into_iter().map(str::to_owned).collect()
    }

    fn rates<'a>(&'a self, table: Option<&'a str>) -> Option<Rates<'a>> {
        let now = self.now.as_ref()?;
        Some(Rates { before: self.before.as_ref(), now, table })
    }

    /// What is to be seen at `at`, of one table or of all.
    pub(super) fn view(&self, at: f64, table: Option<&str>) -> View {
        let tables = self.tables();
        let table = table.filter(|name| tables.iter().any(|known| known == name));
        let empty = Reading::default();
        let rates = self.rates(table).unwrap_or(Rates { before: None, now: &empty, table: None });
        let now = rates.now;
        let gauge = |name: &str| now.scrape.sum(name, &[]).unwrap_or_default();
        let of_table = |name: &str| rates.total(now, name, &[]);
        let text = |pointer: &str| now.status.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let whole = |pointer: &str| now.status.pointer(pointer).and_then(Value::as_u64);
        let trainers = gauge("rudder_trainers_reporting");
        View {
            url: self.url.clone(),
            state: self.state(at),
            node: whole("/node").zip(whole("/parts")),
            dataset: text("/dataset"),
            uptime_seconds: now.status.pointer("/uptime_seconds").and_then(Value::as_f64).unwrap_or_default(),
            table: table.map(str::to_owned),
            tables,
            hit_rate: rates.hit_rate(),
            hit_rates: self.hit_rates.iter().copied().collect(),
            trainers: whole("/trainers_reporting").unwrap_or_default(),
            epochs: gauge("rudder_epochs"),
            fetches_per_second: rates.observed("rudder_fetch_seconds"),
            stall_share: rates.per_second("rudder_stall_seconds_total", &[]) / trainers.max(1.0),
            failed_fetches: of_table("rudder_failed_fetches_total"),
            p50_seconds: rates.quantile("rudder_fetch_seconds", &[], 0.5),
            p99_seconds: rates.quantile("rudder_fetch_seconds", &[], 0.99),
            rows: rates.rows(),
            network_rows_per_second: rates.of_table("rudder_network_rows_total", &[]),
            cache: Cache {
                rows: of_table("rudder_cache_rows"),
                capacity_rows: of_table("rudder_cache_capacity_rows"),
                ceiling_rows: of_table("rudder_cache_ceiling_rows"),
                bytes: of_table("rudder_cache_bytes"),
            },
            memory: Memory {
                resident: gauge("process_resident_memory_bytes"),
                used: gauge("rudder_memory_used_bytes"),
                limit: gauge("rudder_memory_limit_bytes"),
            },
            peers: rates.peers(),
            controller: text("/agent/controller"),
            decisions: now.decisions.iter().rev().map(decided).collect(),
        }
    }

    fn state(&self, at: f64) -> State {
        let draining = |now: &Reading| now.status.pointer("/draining").and_then(Value::as_bool) == Some(true);
        match (&self.gone, &self.now) {
            (Some((since, why)), _) => State::Gone { seconds: (at - since).max(0.0), why: why.clone() },
            (None, None) => State::Waiting,
            (None, Some(now)) if draining(now) => State::Draining,
            (None, Some(_)) => State::Up,
        }
    }
}

/// Two readings, or one, in which case every rate is 0.
#[derive(Clone, Copy)]
struct Rates<'a> {
    before: Option<&'a Reading>,
    now: &'a Reading,
    table: Option<&'a str>,
}

impl Rates<'_> {
    fn total(&self, reading: &Reading, name: &str, with: &[(&str, &str)]) -> f64 {
        let mut with = with.to_vec();
        with.extend(self.table.map(|table| ("table", table)));
        reading.scrape.sum(name, &with).unwrap_or_default()
    }

    /// Growth per second of a counter that has the label `table`.
    fn of_table(&self, name: &str, with: &[(&str, &str)]) -> f64 {
        let Some(before) = self.before else { return 0.0 };
        let grown = self.total(self.now, name, with) - self.total(before, name, with);
        grown.max(0.0) / (self.now.at - before.at).max(1e-3)
    }

    /// Growth per second of a counter that has not.
    fn per_second(&self, name: &str, with: &[(&str, &str)]) -> f64 {
        Rates { table: None, ..*self }.of_table(name, with)
    }

    /// Samples per second of a histogram.
    fn observed(&self, name: &str) -> f64 {
        let Some(before) = self.before else { return 0.0 };
        let all = between(&before.scrape.histogram(name, &[]), &self.now.scrape.histogram(name, &[]));
        all.last().map_or(0.0, |(_, count)| count / (self.now.at - before.at).max(1e-3))
    }

    fn rows(&self) -> Rows {
        let of = |source| self.of_table("rudder_fetch_rows_total", &[("source", source)]);
        Rows { local: of("local"), cache: of("cache"), staged: of("staged"), peer: of("peer") }
    }

    fn hit_rate(&self) -> Option<f64> {
        let rows = self.rows();
        (rows.remote() > 0.0).then(|| rows.cache / rows.remote())
    }

    fn quantile(&self, name: &str, with: &[(&str, &str)], q: f64) -> Option<f64> {
        let before = self.before?.scrape.histogram(name, with);
        quantile(&between(&before, &self.now.scrape.histogram(name, with)), q)
    }

    fn peers(&self) -> Vec<Peer> {
        let listed = self.now.status.pointer("/peers").and_then(Value::as_array);
        let text = |peer: &Value, field: &str| peer[field].as_str().map(str::to_owned);
        let peer = |peer: &Value| {
            let node = peer["node"].as_u64().unwrap_or_default().to_string();
            let with = [("peer", node.as_str())];
            let bytes = |direction| {
                self.per_second("rudder_peer_bytes_total", &[("peer", node.as_str()), ("direction", direction)])
            };
            Peer {
                address: text(peer, "address").unwrap_or_default(),
                up: self.now.scrape.sum("rudder_peer_up", &with) == Some(1.0),
                p50_seconds: self.quantile("rudder_peer_request_seconds", &with, 0.5),
                p99_seconds: self.quantile("rudder_peer_request_seconds", &with, 0.99),
                received_bytes_per_second: bytes("received"),
                sent_bytes_per_second: bytes("sent"),
                error: text(peer, "last_error"),
                node,
            }
        };
        listed.into_iter().flatten().map(peer).collect()
    }
}

fn decided(decision: &Decision) -> Decided {
    Decided {
        number: decision.number,
        tool: crate::decisions::arguments(&decision.call),
        outcome: decision.outcome.clone(),
        reason: decision.note.clone().unwrap_or_else(|| decision.reason.clone()),
        hit_rate: decision.effect.map(|effect| effect.hit_rate),
    }
}
