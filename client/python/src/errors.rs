//! Errors of the client as exceptions of `rudder.errors`, which is where the classes are defined.

use crate::signals;
use pyo3::exceptions::{PyKeyboardInterrupt, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyType;
use rudder_client::{ClientError, ErrorCode};
use std::error::Error;

/// The exception for `error`, with its causes in the message.
#[allow(clippy::needless_pass_by_value, reason = "the error ends here; callers hand it over in `map_err`")]
pub(crate) fn to_python(py: Python<'_>, error: ClientError) -> PyErr {
    match error {
        ClientError::Interrupted => return signals::raised().unwrap_or_else(|| PyKeyboardInterrupt::new_err(())),
        ClientError::NegativeId { .. } => return PyValueError::new_err(error.to_string()),
        _ => {}
    }
    let class = py.import("rudder.errors").and_then(|module| module.getattr(class_name(&error)));
    match class.and_then(|class| Ok(class.cast_into::<PyType>()?)) {
        Ok(class) => PyErr::from_type(class, with_causes(&error)),
        Err(missing) => missing,
    }
}

/// An error and its causes in one line.
fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

fn class_name(error: &ClientError) -> &'static str {
    match error {
        ClientError::Connect { .. } => "ConnectError",
        ClientError::Lost(_) => "ConnectionLostError",
        ClientError::Closed => "ClosedError",
        ClientError::Timeout { .. } => "TimeoutError",
        ClientError::UnknownTable { .. } | ClientError::Ambiguous { .. } => "UnknownTableError",
        ClientError::Memory(_) => "SharedMemoryError",
        ClientError::Shape { .. } | ClientError::RowBytes { .. } => "ShapeError",
        ClientError::TablesChanged => "TablesChangedError",
        ClientError::Protocol(_) => "ProtocolError",
        ClientError::Daemon { code, .. } => match code {
            ErrorCode::Version | ErrorCode::Protocol => "ProtocolError",
            ErrorCode::Forbidden => "ForbiddenError",
            ErrorCode::UnknownTable => "UnknownTableError",
            ErrorCode::IdOutOfRange => "IdOutOfRangeError",
            ErrorCode::Shape => "ShapeError",
            ErrorCode::Arena => "SharedMemoryError",
            ErrorCode::Limit => "LimitError",
            ErrorCode::PeerUnavailable => "PeerUnavailableError",
            ErrorCode::PeerFailed => "PeerFailedError",
            ErrorCode::Draining => "DrainingError",
            ErrorCode::Internal => "InternalError",
            ErrorCode::Storage => "StorageError",
            ErrorCode::Argument => "ArgumentError",
            ErrorCode::DatasetChanged => "TablesChangedError",
            ErrorCode::UnknownName => "UnknownNameError",
            // The client asks again with the ids, and the other order is only a warning.
            ErrorCode::UnknownBatch | ErrorCode::OtherOrder => "InternalError",
        },
        _ => "RudderError",
    }
}
