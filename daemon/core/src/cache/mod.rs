//! The cache of remote rows: one slab per table, shared by all trainers of the node. It owns the rows, where they are
//! ([`index`]), how hot they are ([`heat`]), who leaves for whom ([`policy`]) and the promise that no reader sees a
//! torn or wrong row ([`readers`]).
//!
//! **It must never** do I/O, read a clock or draw randomness of its own: the daemon and a replay drive the same code
//! and get the same decisions. It depends on no other module of the daemon.

pub mod future;
pub mod heat;
pub mod index;
mod overlay;
pub mod policy;
pub mod prefetch;
pub mod readers;
mod slab;
mod slots;
mod steer;
mod table_cache;

#[cfg(test)]
mod steer_tests;
#[cfg(test)]
mod tests;

pub use future::{BatchKey, Step};
pub use overlay::{Overlay, OverlayFull, OverlayReader};
pub use policy::{Clock, PolicyName, PolicySettings, PolicySpec, Replacement, ScoreSettings, Trigger};
pub use slots::Slot;
pub use steer::{Resized, Survey, Weighed};
pub use table_cache::{CacheError, CacheSpec, CacheStats, Fill, Reader, TABLE_ROWS_MAX, TableCache};
