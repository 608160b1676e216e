//! Client of `rudderd`, and the types that both sides share.
//!
//! [`Client`] connects to the daemon of this node and fetches feature rows into memory that both have mapped: a fetch
//! sends a few dozen bytes over the socket, and the daemon gathers the rows once, into the memory where the caller
//! reads them. [`Loader`] announces batches ahead and reports progress. [`wire`] defines what goes over the socket;
//! [`arena`] owns the shared memory and is the only part with `unsafe` code. `examples/fetch.rs` is a whole program.
//!
//! ```no_run
//! use rudder_client::{Client, ConnectOptions};
//! let client = Client::connect(ConnectOptions::default())?;
//! let rows = client.fetch("feat", &[3, 1, 4, 1, 5])?;
//! let values: &[f32] = rows.as_slice()?;
//! # Ok::<(), rudder_client::ClientError>(())
//! ```

mod ahead;
pub mod arena;
mod client;
mod course;
mod dtype;
mod error;
mod fetch;
mod given;
mod ids;
mod loader;
mod lock;
mod nearest;
mod numbers;
mod rows;
mod session;
mod steer;
#[cfg(test)]
mod tests;
pub mod wire;

pub use arena::{ArenaHooks, MemoryError};
pub use client::{Client, ConnectOptions, STANDARD_SOCKET};
pub use dtype::{DType, UnknownDType};
pub use error::{ClientError, LostCause, ProtocolError};
pub use fetch::{FetchOptions, Pending, PendingParts};
pub use given::{Ids, Part};
pub use loader::{Horizon, Loader};
pub use nearest::{listed, nearest};
pub use rows::Rows;
pub use wire::{ErrorCode, IdSpace, Notice, RowSources, TableInfo};
