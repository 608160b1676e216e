//! `rudderd`, the sidecar of a compute node. [`config`] is all that it can be told, [`serve`] the fetch path for the
//! trainers of the node, [`daemon`] what can be asked of it, [`admin`] what operators see, [`node`] puts dataset,
//! cache, peers, sessions and agent together, [`lifecycle`] starts and drains it.
//!
//! **It must never** link what only an operator's program needs: terminal, plots, partitioning, training.

pub mod admin;
pub mod arguments;
pub mod config;
pub mod daemon;
pub mod lifecycle;
pub mod memory;
pub mod node;
pub mod recording;
pub mod serve;
