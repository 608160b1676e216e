//! What can go wrong for a client. A message says what failed and what to do next. What caused it is the error's
//! `source`; a program that shows an error prints both.

use crate::arena::MemoryError;
use crate::wire::ErrorCode;
use crate::wire::codec::CodecError;
use crate::wire::frame::FrameError;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// An error of the client, or one that the daemon reports.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// No daemon answers on the socket.
    #[error(
        "cannot connect to rudderd on {socket}; is it running, and is this its socket? (set RUDDER_SOCKET or pass the path)"
    )]
    Connect {
        /// The path that was tried.
        socket: PathBuf,
        /// What the kernel said.
        #[source]
        cause: io::Error,
    },
    /// The connection broke; the next call connects again.
    #[error("the connection to rudderd was lost; the next call connects again")]
    Lost(#[source] LostCause),
    /// The daemon did not answer in time.
    #[error("rudderd did not answer within {timeout_ms} ms; look at its log, or raise the client's timeout")]
    Timeout {
        /// The limit that ran out.
        timeout_ms: u64,
    },
    /// [`crate::ConnectOptions::interrupted`] answered `true`; the call is given up.
    #[error("the wait for rudderd was interrupted")]
    Interrupted,
    /// The dataset has no such table.
    #[error("no table `{name}`; the daemon serves {known}")]
    UnknownTable {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: String,
    },
    /// A number that is no id.
    #[error("ids[{at}] is {id}: ids are numbers of rows and never negative")]
    NegativeId {
        /// Its place among the ids.
        at: usize,
        /// The number.
        id: i64,
    },
    /// A call after [`Client::close`](crate::Client::close), or one that was in flight then.
    #[error("the client is closed; make a new one")]
    Closed,
    /// A name that means two vertex types.
    #[error(
        "`{name}` is a table of vertex type `{vertex_type}` and also a vertex type: name another table of the type you mean"
    )]
    Ambiguous {
        /// The name asked for.
        name: String,
        /// The type of the table of that name.
        vertex_type: String,
    },
    /// The daemon refused or failed.
    #[error("{message}")]
    Daemon {
        /// What kind of failure.
        code: ErrorCode,
        /// The daemon's message.
        message: String,
    },
    /// There is no shared memory for the call.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// Rows were asked for as a type of another size.
    #[error("rows of {row_bytes} bytes ({table}) cannot be read as elements of {element_bytes} bytes")]
    Shape {
        /// Table and its type.
        table: String,
        /// Bytes of a row.
        row_bytes: usize,
        /// Bytes of the element asked for.
        element_bytes: usize,
    },
    /// New rows that are not as long as the ids say.
    #[error("{bytes} bytes of rows came for {ids} ids; table `{table}` has {row_bytes} bytes a row")]
    RowBytes {
        /// The table.
        table: String,
        /// Number of ids.
        ids: usize,
        /// Bytes of a row.
        row_bytes: usize,
        /// Bytes that came.
        bytes: usize,
    },
    /// The daemon after a reconnection serves another dataset than before, or another than the options want.
    #[error("rudderd serves another dataset than this client knew: make a new client to see its tables and ids")]
    TablesChanged,
    /// The daemon sent something that this client does not understand, or the other way round.
    #[error("this client and rudderd do not understand each other; do both have the same version?")]
    Protocol(#[source] ProtocolError),
}

/// How a connection ended. Several calls may end with it, so that it can be cloned.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum LostCause {
    /// The daemon closed the connection, for instance because it stopped.
    #[error("rudderd closed it")]
    Closed,
    /// The socket failed.
    #[error("the socket failed")]
    Io(#[source] Arc<io::Error>),
    /// The bytes that came are no message.
    #[error("rudderd sent what is no message")]
    Message(#[from] CodecError),
    /// The bytes that came are no frame.
    #[error("rudderd sent what is no frame")]
    Frame(#[from] FrameError),
    /// An answer to a call that was never made, or that had its answer.
    #[error("rudderd answered call {id}, which was not open")]
    NotOpen {
        /// The number of the call.
        id: u64,
    },
    /// The call was sent by the parent of this process.
    #[error("the call was sent by process {pid}, before a fork")]
    Forked {
        /// The process that sent it.
        pid: u32,
    },
}

/// What one side said that the other does not understand.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// The two sides speak different versions.
    #[error("rudderd speaks version {theirs} of the local protocol, this client {ours}")]
    Version {
        /// The client's.
        ours: u16,
        /// The daemon's.
        theirs: u16,
    },
    /// The daemon refused the client's version.
    #[error("{0}")]
    Refused(String),
    /// An answer that does not belong to the call.
    #[error("an answer of the wrong kind: {reply}")]
    Reply {
        /// What came, as text.
        reply: String,
    },
    /// Rows of another length than asked for.
    #[error("{came} bytes of rows came where {due} were due")]
    RowBytes {
        /// Bytes that came.
        came: usize,
        /// Bytes asked for.
        due: usize,
    },
    /// A tool's answer that cannot be read.
    #[error("an answer that is no JSON")]
    Json(#[source] Arc<serde_json::Error>),
    /// The call cannot be written.
    #[error("the call cannot be written")]
    Call(#[source] CodecError),
}

impl ClientError {
    /// The error of a call that the daemon refused.
    pub(crate) fn refused(code: ErrorCode, message: String) -> Self {
        match code {
            ErrorCode::Version => ClientError::Protocol(ProtocolError::Refused(message)),
            ErrorCode::DatasetChanged => ClientError::TablesChanged,
            _ => ClientError::Daemon { code, message },
        }
    }

    /// The daemon's code, where the error is the daemon's.
    #[must_use]
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            ClientError::Daemon { code, .. } => Some(*code),
            _ => None,
        }
    }
}
