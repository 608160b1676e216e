//! Real daemons on this machine: what `rudder demo`, `rudder bench` and tests start, and take down again. It owns child
//! processes with their logs ([`Stage`]), certificates and configurations of a cluster ([`Cluster`]), shaped links in
//! network namespaces ([`link`]) and the questions over HTTP ([`Door`]).
//!
//! **It must never** leave anything behind: what was started or made is taken down on success, on errors, on panics and
//! on signals, by the same code. It talks to a daemon only as any operator can: TOML, signals, HTTP.

mod cluster;
mod door;
mod error;
pub mod link;
mod role;
mod say;
mod speed;
mod stage;
mod undo;

pub use cluster::{Cluster, Daemon, ScrapedCounters, Site, certify, check_socket_path, find_daemon};
pub use door::Door;
pub use error::StageError;
pub use role::{DaemonRole, Role, assume_role};
pub use say::{Say, Saying};
pub use speed::LinkSpeed;
pub use stage::Stage;
