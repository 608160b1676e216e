//! What a node does for its trainers: the local socket, the connections on it, and the engine behind them. From the
//! lowest storey to the highest: what this node owns (`own`), the state of each table (`table`), what all stand on
//! (`base`), requests to peers, bookkeeping (`books`), the fetch path (`fetch`), versions, tools, the `engine` that
//! puts them together, and what looks at it or talks to trainers. A file imports lower ones only;
//! `tests/tests/house.rs` has the list.
//!
//! **It must never** wait without a limit, do bookkeeping while a trainer waits, or answer a fetch of which one row is
//! not the owner's.

mod base;
mod books;
mod engine;
mod error;
mod fetch;
mod metrics;
mod notices;
mod own;
mod requests;
mod server;
mod session;
mod settings;
mod status;
mod survey;
mod table;
mod tools;
mod trainers;
mod versions;

pub use engine::{Engine, EngineError, EngineParts};
pub use error::ServeError;
pub use fetch::gather::gather_in_process;
pub use metrics::collectors;
pub use own::owned::{Owned, OwnedError};
pub use own::source::ShardSource;
pub use server::LocalServer;
pub use session::checks::StatusText;
pub use settings::{AllowedBy, LocalConfig, SteerSettings};
pub use status::{
    EngineStatus, FetchedRows, LookaheadStatus, MemoryStatus, NetworkRows, TableStatus, VersionsStatus, engine_status,
};
