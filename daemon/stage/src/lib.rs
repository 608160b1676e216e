//! Real daemons on this machine: what `rudder up`, `rudder demo`, `rudder bench` and tests start, and take down again.
//! It owns child processes with their logs ([`Stage`]), certificates and configurations of a cluster ([`Cluster`]), the
//! folders of daemons that others may find ([`place`]), shaped links in network namespaces ([`link`]) and the questions
//! over HTTP ([`Door`]).
//!
//! **It must never** leave anything behind: what was started or made is taken down on success, on errors, on panics and
//! on signals, by the same code. It talks to a daemon only as any operator can: TOML, signals, HTTP.

mod cluster;
mod door;
mod error;
pub mod link;
pub mod place;
mod role;
mod say;
mod speed;
mod stage;
mod undo;

pub use cluster::{
    Cluster, Daemon, Plan, ScrapedCounters, Site, certify, certify_node, check_socket_path, daemon_name, find_daemon,
    free_addresses, share_a_machine,
};
pub use door::Door;
pub use error::StageError;
pub use role::{DaemonRole, Role, assume_role};
pub use say::{Say, Saying};
pub use speed::LinkSpeed;
pub use stage::Stage;
