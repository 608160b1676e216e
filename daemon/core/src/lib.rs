//! The deciding half of Rudder: what a node's cache keeps, and what is fetched ahead of need.
//!
//! - [`cache`] holds rows and decides who is replaced; [`cache::policy`] has the policies.
//! - [`lookahead`] knows what trainers have announced, and what their next batches need.
//! - [`progress`] makes one clock of the reports of all trainers.
//! - [`optimum`] is the bound that no policy beats.
//!
//! **It must never** do I/O, read a clock or draw randomness of its own: time, seeds and events come in as arguments,
//! so that a daemon, a replay of a trace and a simulation take the same decisions.
//!
//! # A policy along a trace
//!
//! A trace is a list of minibatches of row ids. Without rows in hand (`row_bytes: 0`) a cache still decides who stays:
//!
//! ```
//! use rudder_core::cache::{CacheSpec, PolicySpec, TableCache};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let trace: [&[u64]; 4] = [&[1, 2, 3], &[1, 4], &[1, 2], &[1, 5]];
//! let (capacity_rows, policy) = (2, PolicySpec::Lfu);
//! let (ceiling_rows, tracked_rows_max, row_bytes) = (capacity_rows, 0, 0);
//! let spec = CacheSpec { table_rows: 10, row_bytes, capacity_rows, ceiling_rows, tracked_rows_max, policy, seed: 1 };
//! let cache = TableCache::new(spec)?;
//! let (mut hits, mut requests) = (0, 0);
//! for ids in trace {
//!     let (hit, missed): (Vec<u64>, Vec<u64>) = ids.iter().partition(|&&id| cache.contains(id));
//!     hits += hit.len();
//!     requests += ids.len();
//!     cache.record(&hit, &missed, |_| Some(&[]), None);
//! }
//! assert_eq!(cache.used_rows(), 2);
//! println!("{hits} of {requests} requests were hits");
//! # assert!(hits >= 2, "row 1 is asked for most");
//! # Ok(())
//! # }
//! ```
//!
//! `examples/policy_along_a_trace.rs` compares policies with the [`optimum`].

pub mod cache;
pub mod lookahead;
pub mod optimum;
pub mod progress;
