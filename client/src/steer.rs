//! Calls that change what the daemon holds: updates of rows, rows brought in ahead, tools. It owns the JSON of tool
//! calls and must never answer before the daemon has done what was asked.

use crate::ClientError;
use crate::client::{Client, unexpected};
use crate::error::ProtocolError;
use crate::fetch::Carrier;
use crate::given::Ids;
use crate::session::Session;
use crate::wire::{PartIds, Reply, Request, RowsCall, TableInfo};
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
    pub fn update<'a>(&self, table: &str, ids: impl Into<Ids<'a>>, rows: &[u8]) -> Result<u64, ClientError> {
        let (info, ids) = (self.table(table)?, ids.into());
        if ids.len().checked_mul(info.row_bytes()) != Some(rows.len()) {
            let (table, row_bytes) = (table.to_owned(), info.row_bytes());
            return Err(ClientError::RowBytes { table, ids: ids.len(), row_bytes, bytes: rows.len() });
        }
        match self.on_session(|session| self.update_on(session, info, ids, rows))? {
            Reply::Updated { rows } => Ok(rows),
            other => Err(unexpected(&other)),
        }
    }

    fn update_on(
        &self,
        session: &Arc<Session>,
        info: &TableInfo,
        ids: Ids<'_>,
        rows: &[u8],
    ) -> Result<Reply, ClientError> {
        let mut sender = session.sender();
        let mut carrier = Carrier::new(&mut sender, self.options().inline);
        let ids = PartIds::Given(carrier.ids(info, ids)?);
        let rows = carrier.bytes(rows)?;
        let Carrier { payload, leases, .. } = carrier;
        let TableInfo { id: table, dtype, width, .. } = *info;
        let request = Request::Update(RowsCall { table, dtype, width, ids, rows });
        let id = sender.send(request, &payload, None, leases)?;
        drop(sender);
        Ok(session.wait(id)?.reply)
    }

    /// Brings the rows of `ids` into the cache, up to its capacity. Answers what was done.
    ///
    /// # Errors
    /// What the daemon refuses (unknown table, id out of range) or the connection suffers.
    pub fn warm<'a>(&self, table: &str, ids: impl Into<Ids<'a>>) -> Result<Value, ClientError> {
        let (info, ids) = (self.table(table)?, ids.into());
        parsed(&answer_of_tool(self.on_session(|session| self.warm_on(session, info, ids))?)?)
    }

    fn warm_on(&self, session: &Arc<Session>, info: &TableInfo, ids: Ids<'_>) -> Result<Reply, ClientError> {
        let mut sender = session.sender();
        let mut carrier = Carrier::new(&mut sender, self.options().inline);
        let ids = carrier.ids(info, ids)?;
        let Carrier { payload, leases, .. } = carrier;
        let id = sender.send(Request::Warm { table: info.id, ids }, &payload, None, leases)?;
        drop(sender);
        Ok(session.wait(id)?.reply)
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
