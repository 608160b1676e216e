//! What can go wrong while the HTTP interface starts. Once it runs, errors are answers to their callers.

use std::{io, net::SocketAddr, path::PathBuf};

/// Why the HTTP interface cannot start.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The address is taken.
    #[error("{address} is in use (admin.listen): is another rudderd running? Stop it, or choose another port")]
    InUse {
        /// `admin.listen`.
        address: SocketAddr,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address} (admin.listen)")]
    Bind {
        /// `admin.listen`.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The token file cannot be read.
    #[error("cannot read the token file {} (admin.token_file)", path.display())]
    TokenUnreadable {
        /// `admin.token_file`.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The token file holds no usable token.
    #[error("{} (admin.token_file) {problem}", path.display())]
    TokenUnusable {
        /// `admin.token_file`.
        path: PathBuf,
        /// What is wrong with it and what to do.
        problem: &'static str,
    },
    /// Two collectors offer the same metric, or a name Prometheus does not allow.
    #[error("a metric cannot be registered or written")]
    Metric(#[from] prometheus::Error),
}
