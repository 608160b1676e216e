//! Calls that change what the daemon holds: updates of rows, rows brought in ahead, tools. It owns the JSON of tool
//! calls and must never answer before the daemon has done what was asked.

use crate::client::{ALIGN_BYTES, Client, unexpected};
use crate::error::ProtocolError;
use crate::session::{Delivery, Session};
use crate::wire::{Place, Reply, Request, RowsCall, TableInfo};
use crate::{ClientError, DType};
use serde_json::{Map, Value, json};
use std::sync::Arc;

impl Client {
    /// Replaces the rows of `ids`, local and remote mixed, at their owners: `rows` holds them one after the other, in
    /// the order of the ids; of an id that appears twice, the last row stays. When this returns, the owners have the
    /// rows and every later fetch of this node gets them; other nodes follow within their own bound on staleness.
    /// Updates live as long as the owner's process. Answers the number of distinct rows.
    ///
    /// # Errors
    /// [`ClientError::RowBytes`] if `rows` has another length than the rows of the ids, and what the daemon refuses (id
    /// out of range, a peer that is gone, no room for updated rows) or the connection suffers. A part of the rows may
    /// then be written; the message gives the number that certainly is.
    pub fn update(&self, table: &str, ids: &[u64], rows: &[u8]) -> Result<u64, ClientError> {
        let info = &self.tables[self.table_index(table)?];
        let TableInfo { dtype, width, .. } = *info;
        if ids.len().checked_mul(info.row_bytes()) != Some(rows.len()) {
            let (table, row_bytes) = (table.to_owned(), info.row_bytes());
            return Err(ClientError::RowBytes { table, ids: ids.len(), row_bytes, bytes: rows.len() });
        }
        match self.on_session(|session| self.update_on(session, (info.id, dtype, width), ids, rows))? {
            Reply::Updated { rows } => Ok(rows),
            other => Err(unexpected(&other)),
        }
    }

    fn update_on(
        &self,
        session: &Arc<Session>,
        (table, dtype, width): (u16, DType, u32),
        ids: &[u64],
        rows: &[u8],
    ) -> Result<Reply, ClientError> {
        let (raw, count): (&[u8], u64) = (bytemuck::cast_slice(ids), ids.len() as u64);
        let request = |ids, rows| Request::Update(RowsCall { table, dtype, width, count, ids, rows });
        let mut sender = session.sender();
        let id = if self.options().inline {
            sender.send(request(Place::Inline, Place::Inline), &[raw, rows].concat(), None, None)?
        } else {
            let first = raw.len().next_multiple_of(ALIGN_BYTES);
            let lease = sender.lease(first + rows.len())?;
            lease.write(0, raw);
            lease.write(first, rows);
            let at = |offset: usize| Place::Arena { arena: lease.arena(), offset: (lease.offset() + offset) as u64 };
            let request = request(at(0), at(first));
            sender.send(request, &[], None, Some(lease))?
        };
        drop(sender);
        Ok(session.wait(id)?.reply)
    }

    /// Brings the rows of `ids` into the cache, up to its capacity. Answers what was done.
    ///
    /// # Errors
    /// What the daemon refuses (unknown table, id out of range) or the connection suffers.
    pub fn warm(&self, table: &str, ids: &[u64]) -> Result<Value, ClientError> {
        let table = self.tables[self.table_index(table)?].id;
        let request = |count, ids| Request::Warm { table, count, ids };
        parsed(&answer_of_tool(self.on_session(|session| self.send_ids(session, ids, request))?)?)
    }

    /// Calls a tool of the daemon: `call` is a JSON object whose `tool` names it, with its arguments beside it, such as
    /// `{"tool":"grow","factor":2.0}`. Answers what was done, as JSON.
    ///
    /// # Errors
    /// What the daemon refuses (no such tool, a wrong argument) or the connection suffers.
    pub fn tool(&self, call: &str) -> Result<String, ClientError> {
        answer_of_tool(self.on_session(|session| session.ask(Request::Tool { call: call.to_owned() }))?)
    }

    /// Changes the capacity of the cache, to `rows` or by `factor` (below 1 it shrinks); without a table, of all
    /// tables. Answers what was done.
    ///
    /// # Errors
    /// As [`Client::tool`].
    pub fn grow(&self, rows: Option<u64>, factor: Option<f64>, table: Option<&str>) -> Result<Value, ClientError> {
        self.call("grow", [("rows", json!(rows)), ("factor", json!(factor)), ("table", json!(table))])
    }

    /// Turns over at most the coldest `fraction` of the cached rows, each for an absent row that is hotter; with
    /// `forget`, what the policy has learned is dropped first.
    ///
    /// # Errors
    /// As [`Client::tool`].
    pub fn evict(&self, fraction: f64, forget: bool, table: Option<&str>) -> Result<Value, ClientError> {
        self.call("evict", [("fraction", json!(fraction)), ("forget", json!(forget)), ("table", json!(table))])
    }

    /// Brings cached rows up to date with their owners, except rows that were checked less than `max_age_s` seconds
    /// ago. A fetch that begins after it gets rows as new as their owners had when it was called.
    ///
    /// # Errors
    /// As [`Client::tool`].
    pub fn refresh(&self, max_age_s: Option<f64>, table: Option<&str>) -> Result<Value, ClientError> {
        self.call("refresh", [("max_age_s", json!(max_age_s)), ("table", json!(table))])
    }

    /// Changes nothing; the policy `rudder` keeps its residents until the next `evict`.
    ///
    /// # Errors
    /// As [`Client::tool`].
    pub fn hold(&self) -> Result<Value, ClientError> {
        self.call("hold", [])
    }

    /// Calls a tool; arguments that are null are left out.
    fn call<const N: usize>(&self, tool: &str, arguments: [(&str, Value); N]) -> Result<Value, ClientError> {
        let given = arguments.into_iter().filter(|(_, value)| !value.is_null());
        let mut call: Map<String, Value> = given.map(|(name, value)| (name.to_owned(), value)).collect();
        call.insert("tool".to_owned(), json!(tool));
        parsed(&self.tool(&Value::Object(call).to_string())?)
    }

    /// Sends a request about ids and waits for its reply.
    pub(crate) fn send_ids(
        &self,
        session: &Arc<Session>,
        ids: &[u64],
        request: impl Fn(u64, Place) -> Request,
    ) -> Result<Reply, ClientError> {
        Ok(self.ask_about(session, ids, request)?.reply)
    }

    /// As [`Client::send_ids`], with what came beside the reply.
    pub(crate) fn ask_about(
        &self,
        session: &Arc<Session>,
        ids: &[u64],
        request: impl Fn(u64, Place) -> Request,
    ) -> Result<Delivery, ClientError> {
        let (raw, count): (&[u8], u64) = (bytemuck::cast_slice(ids), ids.len() as u64);
        let mut sender = session.sender();
        let id = if self.options().inline {
            sender.send(request(count, Place::Inline), raw, None, None)?
        } else {
            let lease = sender.lease(raw.len())?;
            lease.write(0, raw);
            let place = Place::Arena { arena: lease.arena(), offset: lease.offset() as u64 };
            sender.send(request(count, place), &[], None, Some(lease))?
        };
        drop(sender);
        session.wait(id)
    }
}

fn answer_of_tool(reply: Reply) -> Result<String, ClientError> {
    match reply {
        Reply::Tool(json) => Ok(json),
        other => Err(unexpected(&other)),
    }
}

fn parsed(answer: &str) -> Result<Value, ClientError> {
    serde_json::from_str(answer).map_err(|error| ClientError::Protocol(ProtocolError::Json(Arc::new(error))))
}
