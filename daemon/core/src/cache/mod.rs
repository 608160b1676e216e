//! The cache of remote rows: one slab per table, shared by all trainers of the node. It owns the rows, where they are
//! ([`index`]), how hot they are ([`heat`]), who leaves for whom ([`policy`]) and the promise that no reader sees a
//! torn or wrong row ([`readers`]). Callers know rows by their ids of 64 bits. Inside, rows have numbers of 32 bits,
//! which are their ids in all but the largest tables ([`index`]).
//!
//! **It must never** do I/O, read a clock or draw randomness of its own: the daemon and a replay drive the same code
//! and get the same decisions. It depends on no other module of the daemon.

pub mod future;
pub mod heat;
pub mod index;
mod numbers;
mod overlay;
pub mod policy;
pub mod prefetch;
pub mod readers;
mod slab;
mod slots;
mod spec;
mod steer;
mod table_cache;
mod zeros;

#[cfg(test)]
mod steer_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod wide_tests;

pub use future::{BatchKey, Step};
pub use overlay::{Overlay, OverlayFull, OverlayReader};
pub use policy::{Clock, PolicyName, PolicySettings, PolicySpec, Replacement, ScoreSettings, Trigger};
pub use slots::Slot;
pub use spec::{CacheError, CacheSpec, CacheStats, Fill, TABLE_ROWS_MAX};
pub use steer::{Resized, Survey, Weighed};
pub use table_cache::{Reader, TableCache};
pub use zeros::Zeros;
