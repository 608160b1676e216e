//! What a request of a trainer can fail with, and the words and the code that the trainer gets.

use crate::serve::table::flight::FlightError;
use rudder_agent::tools::ToolError;
use rudder_client::{DType, ErrorCode, arena::AdoptError};
use rudder_core::lookahead::AnnounceError;
use rudder_dataset::{IdError, NameError, ReadError, Table};
use rudder_peers::{PeerError, RemoteError, SourceError};
use rudder_telemetry::error_chain;
use std::sync::Arc;

/// Why a request was refused or failed.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum RequestError {
    #[error(
        "this daemon speaks version {ours} of the local protocol, the client version {theirs}: install the same version on both sides"
    )]
    Version { ours: u16, theirs: u16 },
    #[error(
        "this daemon serves the dataset with fingerprint {ours:016x}, the client knew {known:016x}: make a new client"
    )]
    DatasetChanged { ours: u64, known: u64 },
    #[error(
        "user {uid} may not connect: it is neither the daemon's user nor in local.allowed_uids (local.allowed_by = \"mode\" leaves it to the permissions of the socket)"
    )]
    Forbidden { uid: u32 },
    #[error("{0}")]
    Protocol(String),
    #[error(
        "no table with number {number}: the dataset has {tables} tables, numbered from 0; connect again to see them"
    )]
    UnknownTable { number: u16, tables: usize },
    #[error("id {id} (position {at} of the fetch) is out of range: table `{table}` has {}{}", ids_of(*rows), hint(*.named))]
    IdOutOfRange { table: String, id: u64, at: usize, rows: u64, named: bool },
    #[error("id {id} (position {at} of the fetch): no vertex of table `{table}` has that original id")]
    UnknownId { table: String, id: u64, at: usize },
    #[error("{0}: see to the file, or connect with dataset ids")]
    Ids(IdError),
    #[error(transparent)]
    Names(NameError),
    #[error("no vertex of type `{vertex_type}` is called {name:?} (position {at})")]
    UnknownName { vertex_type: String, name: String, at: usize },
    #[error("vertices of type `{vertex_type}` have no names: ask for them by their ids")]
    Unnamed { vertex_type: String },
    #[error("table `{table}` has rows of {dtype} × {width}; the request expects {asked_dtype} × {asked_width}")]
    Shape { table: String, dtype: DType, width: u32, asked_dtype: DType, asked_width: u32 },
    #[error("{0}")]
    Arena(Arc<AdoptError>),
    #[error("{0}")]
    Place(String),
    /// Well-formed, but at odds with itself: the connection goes on.
    #[error("{0}")]
    Senseless(String),
    #[error(
        "{what} is over the limit {key} = {limit} of this daemon: stay below it, or raise it in the daemon's configuration"
    )]
    Limit { what: String, key: &'static str, limit: u64 },
    #[error(
        "no announced batch of number {number} with these tables and counts is known: it was not announced, used before, or \
         forgotten; ask with the ids"
    )]
    UnknownBatch { number: u64 },
    #[error("announcement refused: {0} (lookahead.rows_max)")]
    Announce(AnnounceError),
    #[error("{rows} rows of table `{table}` could not be fetched: {}", error_chain(cause))]
    Peer { table: String, rows: usize, cause: FlightError },
    #[error("{rows} rows of table `{table}` could not be read from this node's shard: {cause}")]
    Shard { table: String, rows: usize, cause: Arc<ReadError> },
    #[error("{rows} rows of an update of table `{table}` were not applied, {applied} were: {fault}")]
    Update { table: String, rows: usize, applied: usize, fault: UpdateFault },
    #[error(transparent)]
    Tool(#[from] ToolError),
    #[error("this daemon is draining: it is about to stop and takes no new fetches; fetch again when it is back")]
    Draining,
    #[error("a defect of the daemon, see its log: {0}")]
    Internal(&'static str),
}

/// The ids of a table of `rows` rows, in words.
fn ids_of(rows: u64) -> String {
    match rows {
        0 => "no rows".to_owned(),
        1 => "one row, with id 0".to_owned(),
        rows => format!("ids 0 to {}", rows - 1),
    }
}

/// Why rows of an update were not applied.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum UpdateFault {
    /// By this node.
    #[error("this node: {0}")]
    Own(SourceError),
    /// By their owner.
    #[error("{}", error_chain(.0))]
    Peer(Arc<PeerError>),
}

impl UpdateFault {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Own(SourceError::UpdatesFull { .. }) => ErrorCode::Limit,
            Self::Own(_) => ErrorCode::Internal,
            Self::Peer(cause) => peer_code(cause),
        }
    }
}

/// What else to try where vertices have names.
fn hint(named: bool) -> &'static str {
    if named { "; its vertices have names: ask for their ids by name" } else { "" }
}

/// The code for what a peer did.
fn peer_code(cause: &PeerError) -> ErrorCode {
    match cause {
        PeerError::ShuttingDown { .. } => ErrorCode::Draining,
        PeerError::Remote { error: RemoteError::UpdatesFull { .. }, .. } => ErrorCode::Limit,
        cause if cause.is_transient() => ErrorCode::PeerUnavailable,
        _ => ErrorCode::PeerFailed,
    }
}

impl RequestError {
    /// Id `id`, at position `at` of the request, is not an id of `table`.
    pub(crate) fn out_of_range(table: &Table, at: usize, id: u64) -> Self {
        let (name, rows, named) = (table.name.clone(), table.rows, table.names.is_some());
        Self::IdOutOfRange { table: name, id, at, rows, named }
    }

    /// Ids of vertices of `table` cannot be translated.
    pub(crate) fn of_ids(table: &Table, error: IdError) -> Self {
        match error {
            IdError::Unknown { at, id, is_dense: true } => Self::out_of_range(table, at, id),
            IdError::Unknown { at, id, is_dense: false } => Self::UnknownId { table: table.name.clone(), id, at },
            file @ IdError::File { .. } => Self::Ids(file),
        }
    }

    /// Names of vertices of `table` cannot be looked up.
    pub(crate) fn of_names(table: &Table, error: NameError) -> Self {
        match error {
            NameError::Unknown { at, id } => Self::out_of_range(table, at, id),
            file @ NameError::File { .. } => Self::Names(file),
        }
    }

    /// Whether the connection cannot go on after it.
    pub(crate) fn closes(&self) -> bool {
        matches!(self, Self::Version { .. } | Self::DatasetChanged { .. } | Self::Protocol(_))
    }

    /// The code for programs.
    pub(crate) fn code(&self) -> ErrorCode {
        match self {
            Self::Version { .. } => ErrorCode::Version,
            Self::DatasetChanged { .. } => ErrorCode::DatasetChanged,
            Self::Forbidden { .. } => ErrorCode::Forbidden,
            Self::Protocol(_) => ErrorCode::Protocol,
            Self::Senseless(_) => ErrorCode::Argument,
            Self::UnknownTable { .. } => ErrorCode::UnknownTable,
            Self::IdOutOfRange { .. } | Self::UnknownId { .. } => ErrorCode::IdOutOfRange,
            Self::UnknownName { .. } | Self::Unnamed { .. } => ErrorCode::UnknownName,
            Self::Shape { .. } => ErrorCode::Shape,
            Self::Arena(_) | Self::Place(_) => ErrorCode::Arena,
            Self::Limit { .. } | Self::Announce(_) => ErrorCode::Limit,
            Self::UnknownBatch { .. } => ErrorCode::UnknownBatch,
            Self::Peer { cause: FlightError::Peer(cause), .. } => peer_code(cause),
            Self::Peer { cause: FlightError::Ended { .. }, .. } => ErrorCode::Internal,
            Self::Update { fault, .. } => fault.code(),
            Self::Tool(ToolError::UnknownTable { .. }) => ErrorCode::UnknownTable,
            Self::Tool(ToolError::Busy { .. }) => ErrorCode::Limit,
            Self::Tool(ToolError::NotServing { .. }) => ErrorCode::Draining,
            Self::Tool(ToolError::Unreadable(_) | ToolError::Argument { .. }) => ErrorCode::Argument,
            Self::Tool(ToolError::Files { .. }) | Self::Ids(_) | Self::Names(_) | Self::Shard { .. } => {
                ErrorCode::Storage
            }
            Self::Draining => ErrorCode::Draining,
            Self::Internal(_) => ErrorCode::Internal,
        }
    }
}

/// Why the local socket cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A metric cannot be made.
    #[error("a metric of the local socket cannot be made")]
    Metric(#[from] prometheus::Error),
    /// Another process listens there.
    #[error("local.socket {path}: another process is listening there; stop it, or give this daemon another path")]
    InUse {
        /// The path.
        path: std::path::PathBuf,
    },
    /// Something that is no socket lies there.
    #[error("local.socket {path}: there is a file that is no socket; remove it, or give another path")]
    NotASocket {
        /// The path.
        path: std::path::PathBuf,
    },
    /// The socket cannot be made.
    #[error("local.socket {path}: {doing}: {cause}")]
    Io {
        /// The path.
        path: std::path::PathBuf,
        /// What was attempted.
        doing: &'static str,
        /// What the kernel said.
        cause: std::io::Error,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_of_one_row_has_no_range_of_ids() {
        let said =
            |rows| RequestError::IdOutOfRange { table: "x".to_owned(), id: 7, at: 2, rows, named: false }.to_string();
        assert_eq!(said(0), "id 7 (position 2 of the fetch) is out of range: table `x` has no rows");
        assert_eq!(said(1), "id 7 (position 2 of the fetch) is out of range: table `x` has one row, with id 0");
        assert_eq!(
            said(5_000_000_000),
            "id 7 (position 2 of the fetch) is out of range: table `x` has ids 0 to 4999999999"
        );
    }
}
