//! What can go wrong for a client.

use crate::wire::ErrorCode;
use std::io;
use std::path::PathBuf;

/// An error of the client, or one that the daemon reports.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// No daemon answers on the socket.
    #[error(
        "cannot connect to rudderd on {socket}: {cause}; is it running, and is this its socket? \
         (set RUDDER_SOCKET or pass the path)"
    )]
    Connect {
        /// The path that was tried.
        socket: PathBuf,
        /// What the kernel said.
        cause: io::Error,
    },
    /// The connection broke; the next call connects anew.
    #[error("the connection to rudderd was lost ({0}); the next call connects again")]
    Lost(String),
    /// The daemon did not answer in time.
    #[error("rudderd did not answer within {timeout_ms} ms; look at its log, or raise the client's timeout")]
    Timeout {
        /// The limit that ran out.
        timeout_ms: u64,
    },
    /// [`crate::ConnectOptions::interrupted`] said so; the call is given up.
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
    /// The daemon refused or failed.
    #[error("{message}")]
    Daemon {
        /// What kind of failure.
        code: ErrorCode,
        /// The daemon's words.
        message: String,
    },
    /// Shared memory could not be had.
    #[error("{0}")]
    Memory(String),
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
    /// The daemon after a reconnection serves other tables than before.
    #[error("rudderd was restarted with other tables than this client knew: connect anew to see them")]
    TablesChanged,
    /// The daemon said something this client does not understand.
    #[error("rudderd sent what this client does not understand ({0}); do both have the same version?")]
    Protocol(String),
}

impl ClientError {
    /// The error of a call that the daemon refused.
    pub(crate) fn refused(code: ErrorCode, message: String) -> Self {
        match code {
            ErrorCode::Version => ClientError::Protocol(message),
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
