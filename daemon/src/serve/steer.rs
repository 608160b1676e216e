//! Tools that a trainer calls, as far as versions need them: `refresh`, and rows brought in by request. It owns no state.

use super::engine::{Engine, Reason};
use super::error::RequestError;
use crate::cache::Fill;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

impl Engine {
    /// Calls a tool, given and answered as JSON.
    pub(super) async fn tool(self: &Arc<Self>, call: &str) -> Result<String, RequestError> {
        let wrong = |what: String| RequestError::Senseless(format!("tool call {call}: {what}"));
        let call: Value = serde_json::from_str(call).map_err(|error| wrong(error.to_string()))?;
        match call["tool"].as_str() {
            Some("refresh") => {
                let age = call.get("max_age_s").map_or(Some(0.0), Value::as_f64);
                let age = age.and_then(|age| Duration::try_from_secs_f64(age).ok());
                let age = age.ok_or_else(|| wrong("max_age_s is no number of seconds".to_owned()))?;
                let mut answers = Vec::new();
                for (at, table) in self.dataset.tables().iter().enumerate() {
                    if call.get("table").is_none_or(|name| name == &table.name) {
                        let mut answer = json!(self.refresh(at, age).await);
                        answer["table"] = json!(table.name);
                        answers.push(answer);
                    }
                }
                Ok(json!({ "tool": "refresh", "tables": answers }).to_string())
            }
            other => Err(wrong(format!("there is no tool {other:?}"))),
        }
    }

    /// Brings rows into the cache, as far as it has room.
    pub(super) async fn warm(self: &Arc<Self>, table: usize, ids: Vec<u64>) -> Result<String, RequestError> {
        let state = &self.tables[table];
        let absent = self.remote_ids(table, &ids)?.into_iter().filter(|&id| !state.cache.contains(id)).collect();
        let absent = state.flights.absent(absent);
        let claim = self.order(table, &self.with_owners(table, &absent), Reason::Policy);
        for flight in &claim.flights {
            let _ = flight.landing().await;
        }
        let filled = state.cache.fill(&absent, |i| claim.fresh_row(i), Fill::Warm);
        state.flights.retire(&claim);
        Ok(json!({ "tool": "warm", "absent_rows": absent.len(), "filled_rows": filled }).to_string())
    }
}
