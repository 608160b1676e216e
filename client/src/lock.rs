//! The locks of this crate, in one place. They must work in a child that was forked while other threads held or awaited
//! locks.
//!
//! That is why they are `std`'s and not `parking_lot`'s. A lock of `std` is a word of memory: a fork's copy of an open
//! lock is an open lock. `parking_lot` keeps the threads that wait for any lock in one table of the process, and each
//! bucket of the table has a lock. A fork copies that table as it is, perhaps with a bucket held by a thread that the
//! child does not have, and a contended lock of the child would wait for it without end.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks `mutex`. A panic of another holder changes nothing here: every holder leaves the data valid at each step.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
