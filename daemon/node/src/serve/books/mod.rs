//! The bookkeeping of the tables: what a fetch owes to the cache once its trainer has been answered, where the training
//! is, and what trainers have announced. Each table has one queue ([`desk`]) and one thread that works it off
//! ([`bookkeeper`]). It owns the order of that work, and must never make a trainer wait for it.

pub(crate) mod announcements;
pub(crate) mod batches;
pub(crate) mod bookkeeper;
pub(crate) mod desk;
pub(crate) mod distinct;
pub(crate) mod supply;
