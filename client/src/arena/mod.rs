//! Shared memory of a client: arenas (sealed memfds that both sides map) and the leases that fetches take in them. It
//! owns who may use which run of bytes. It must never give out a run that the daemon may still write: a lease goes back
//! only when it is dropped, and a session keeps the lease of an unanswered call until its connection is gone.

mod mapping;

pub use mapping::{AdoptError, Mapping};

use crate::wire::ARENA_ALIGN_BYTES;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes of the first arena; later ones double.
const FIRST_ARENA_BYTES: usize = 16 << 20;

/// The arenas of one connection.
#[derive(Debug)]
pub(crate) struct Pool {
    state: Mutex<PoolState>,
    bytes_max: u64,
    /// The process whose pool it is: a fork has a copy that nobody leases from, with a lock that may be held for ever.
    pid: u32,
}

#[derive(Debug)]
struct PoolState {
    arenas: Vec<Arena>,
    next_number: u32,
}

#[derive(Debug)]
struct Arena {
    number: u32,
    mapping: Arc<Mapping>,
    /// Free runs as (offset, length), by offset, never adjacent.
    free: Vec<(usize, usize)>,
}

/// A run of bytes that its holder alone may use. Dropping it gives the run back.
#[derive(Debug)]
pub(crate) struct Lease {
    pool: Arc<Pool>,
    mapping: Arc<Mapping>,
    number: u32,
    offset: usize,
    len: usize,
}

/// What the daemon must be told before a new lease can be used.
#[derive(Debug)]
pub(crate) struct Growth {
    /// The new arena.
    pub(crate) added: (u32, Arc<Mapping>),
    /// Arenas that were too small and lay idle: gone.
    pub(crate) dropped: Vec<u32>,
}

/// The arenas may not grow as far as a fetch would need.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LeaseError {
    /// Over the client's own limit.
    #[error(
        "{wanted} bytes of shared memory are needed beside {held} in use; the limit arena_bytes_max is {limit}: drop rows \
         that are no longer needed, or raise it"
    )]
    Limit {
        /// Bytes of the fetch.
        wanted: u64,
        /// Bytes of arenas that exist.
        held: u64,
        /// The limit.
        limit: u64,
    },
    /// No memfd could be made.
    #[error("no shared memory of {bytes} bytes: {cause}")]
    Io {
        /// Bytes of the arena.
        bytes: usize,
        /// What the kernel said.
        cause: io::Error,
    },
}

impl Arena {
    fn take(&mut self, len: usize) -> Option<usize> {
        let at = self.free.iter().position(|&(_, free)| free >= len)?;
        let (offset, free) = self.free[at];
        if free == len {
            self.free.remove(at);
        } else {
            self.free[at] = (offset + len, free - len);
        }
        Some(offset)
    }

    fn give(&mut self, offset: usize, len: usize) {
        let at = self.free.partition_point(|&(start, _)| start < offset);
        self.free.insert(at, (offset, len));
        if at + 1 < self.free.len() && self.free[at].0 + self.free[at].1 == self.free[at + 1].0 {
            self.free[at].1 += self.free[at + 1].1;
            self.free.remove(at + 1);
        }
        if at > 0 && self.free[at - 1].0 + self.free[at - 1].1 == self.free[at].0 {
            self.free[at - 1].1 += self.free[at].1;
            self.free.remove(at);
        }
    }

    fn idle(&self) -> bool {
        self.free == [(0, self.mapping.bytes())]
    }
}

impl Pool {
    pub(crate) fn new(bytes_max: u64) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(PoolState { arenas: Vec::new(), next_number: 0 }),
            bytes_max,
            pid: std::process::id(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, PoolState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leases `bytes`, in a new arena if no old one has room.
    pub(crate) fn lease(self: &Arc<Self>, bytes: usize) -> Result<(Lease, Option<Growth>), LeaseError> {
        let len = bytes.max(1).next_multiple_of(ARENA_ALIGN_BYTES as usize);
        let mut state = self.lock();
        for arena in &mut state.arenas {
            if let Some(offset) = arena.take(len) {
                let mapping = Arc::clone(&arena.mapping);
                return Ok((Lease { pool: Arc::clone(self), mapping, number: arena.number, offset, len }, None));
            }
        }
        let mut dropped = Vec::new();
        let mut largest = 0;
        state.arenas.retain(|arena| {
            largest = largest.max(arena.mapping.bytes());
            let idle = arena.idle();
            if idle {
                dropped.push(arena.number);
            }
            !idle
        });
        let held: u64 = state.arenas.iter().map(|arena| arena.mapping.bytes() as u64).sum();
        let room = usize::try_from(self.bytes_max.saturating_sub(held)).unwrap_or(usize::MAX);
        if len > room {
            return Err(LeaseError::Limit { wanted: len as u64, held, limit: self.bytes_max });
        }
        let size = len.next_multiple_of(4096).max(FIRST_ARENA_BYTES).max(largest.saturating_mul(2)).min(room.max(len));
        let mapping = Arc::new(Mapping::create(size).map_err(|cause| LeaseError::Io { bytes: size, cause })?);
        let number = state.next_number;
        state.next_number = number.wrapping_add(1);
        let mut arena = Arena { number, mapping: Arc::clone(&mapping), free: vec![(0, size)] };
        let offset = arena.take(len).unwrap_or(0);
        state.arenas.push(arena);
        let growth = Growth { added: (number, Arc::clone(&mapping)), dropped };
        Ok((Lease { pool: Arc::clone(self), mapping, number, offset, len }, Some(growth)))
    }
}

impl Pool {
    /// Forgets an arena that the daemon did not take.
    pub(crate) fn discard(&self, number: u32) {
        self.lock().arenas.retain(|arena| arena.number != number);
    }
}

impl Lease {
    /// The client's number for the arena.
    pub(crate) fn arena(&self) -> u32 {
        self.number
    }

    /// Bytes from the arena's start.
    pub(crate) fn offset(&self) -> usize {
        self.offset
    }

    /// Copies `source` in at `at` bytes from the lease's start.
    pub(crate) fn write(&self, at: usize, source: &[u8]) {
        assert!(at + source.len() <= self.len, "write outside the lease");
        self.mapping.write(self.offset + at, source);
    }

    /// The first `len` bytes.
    pub(crate) fn bytes(&self, len: usize) -> &[u8] {
        assert!(len <= self.len, "read outside the lease");
        mapping::lease_bytes(&self.mapping, self.offset, len)
    }

    /// The first `len` bytes, writable.
    pub(crate) fn bytes_mut(&mut self, len: usize) -> &mut [u8] {
        assert!(len <= self.len, "write outside the lease");
        mapping::lease_bytes_mut(&self.mapping, self.offset, len)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.pool.pid != std::process::id() {
            return;
        }
        let mut state = self.pool.lock();
        if let Some(arena) = state.arenas.iter_mut().find(|arena| arena.number == self.number) {
            arena.give(self.offset, self.len);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_freed_run_is_used_again_and_an_outgrown_arena_goes() {
        let pool = Pool::new(1 << 30);
        let (lease, growth) = pool.lease(1000).unwrap();
        assert_eq!(growth.unwrap().added.0, 0);
        let offset = lease.offset();
        drop(lease);
        let (lease, growth) = pool.lease(900).unwrap();
        assert!(growth.is_none());
        assert_eq!(lease.offset(), offset);
        drop(lease);
        let (_big, growth) = pool.lease(FIRST_ARENA_BYTES + 1).unwrap();
        assert_eq!(growth.unwrap().dropped, [0]);
    }

    #[test]
    fn the_limit_names_itself() {
        let pool = Pool::new(1 << 20);
        let error = pool.lease(2 << 20).unwrap_err();
        assert!(error.to_string().contains("arena_bytes_max"), "{error}");
    }

    proptest! {
        /// Model check: leases never overlap, and when all are gone each arena is one free run again.
        #[test]
        fn leases_never_overlap(steps in proptest::collection::vec((any::<bool>(), 1usize..200_000), 1..80)) {
            let pool = Pool::new(1 << 30);
            let mut held: Vec<Lease> = Vec::new();
            for (take, n) in steps {
                if take || held.is_empty() {
                    let (lease, _) = pool.lease(n).unwrap();
                    for other in held.iter().filter(|other| other.number == lease.number) {
                        prop_assert!(lease.offset + lease.len <= other.offset || other.offset + other.len <= lease.offset);
                    }
                    held.push(lease);
                } else {
                    held.swap_remove(n % held.len());
                }
            }
            held.clear();
            prop_assert!(pool.lock().arenas.iter().all(Arena::idle));
        }
    }
}
