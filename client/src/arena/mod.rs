//! Shared memory of a client: arenas (sealed memfds that both sides map) and the leases that fetches take in them. It
//! owns who may use which run of bytes, and which arenas the daemon must still be told to drop. It must never give out
//! a run that the daemon may still write: a lease goes back only when it is dropped, and a session keeps the lease of
//! an unanswered call until its connection is gone.

mod hooks;
mod mapping;

pub use hooks::ArenaHooks;
pub(crate) use hooks::Watched;
use mapping::page_bytes;
pub use mapping::{AdoptError, Mapping};

use crate::lock::lock;
use crate::wire::{ARENA_ALIGN_BYTES, Place};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

/// Bytes of the first arena; later ones double.
const FIRST_ARENA_BYTES: usize = 16 << 20;

/// The arenas of one connection.
#[derive(Debug)]
pub(crate) struct Pool {
    state: Mutex<PoolState>,
    /// Whoever wants to know of arenas.
    hooks: Option<Arc<dyn ArenaHooks>>,
    /// The process that made it. A fork has a copy that nobody leases from, with a lock that may never open.
    pid: u32,
}

/// How many bytes the arenas of a connection may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ArenaLimit {
    bytes_max: u64,
    key: &'static str,
}

impl ArenaLimit {
    /// The client's own limit.
    pub(crate) fn of_client(bytes_max: u64) -> Self {
        Self { bytes_max, key: "arena_bytes_max of this client" }
    }

    /// The lower of this limit and the daemon's.
    pub(crate) fn with_daemon(self, bytes_max: u64) -> Self {
        let daemon = Self { bytes_max, key: "local.arena_bytes_max of rudderd" };
        if bytes_max < self.bytes_max { daemon } else { self }
    }
}

#[derive(Debug)]
struct PoolState {
    limit: ArenaLimit,
    arenas: Vec<Arena>,
    next_number: u32,
    /// Arenas that are gone here and that the daemon may still hold.
    drops_due: Vec<u32>,
}

#[derive(Debug)]
struct Arena {
    number: u32,
    mapping: Arc<Watched>,
    /// Free runs as (offset, length), by offset, never adjacent.
    free: Vec<(usize, usize)>,
    /// Bytes from the start whose pages this process has taken: whole pages, or all.
    taken: usize,
}

/// A run of bytes that its holder alone may use. Dropping it gives the run back.
#[derive(Debug)]
pub(crate) struct Lease {
    pool: Arc<Pool>,
    /// `None` only while the lease is dropped.
    mapping: Option<Arc<Watched>>,
    number: u32,
    offset: usize,
    len: usize,
}

/// A new arena. Before a lease in it is used, the daemon must drop [`Pool::drop_due`] and then register this one.
#[derive(Debug)]
pub(crate) struct Growth {
    /// The client's number for the arena.
    pub(crate) arena: u32,
    /// Its memory.
    pub(crate) mapping: Arc<Watched>,
}

/// There is no shared memory for a call.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// The arenas may not grow as far as the call needs.
    #[error(
        "{wanted} bytes of shared memory are needed beside {held} in use; the limit {key} is {limit}: drop rows that are no longer \
         needed, or raise it"
    )]
    Limit {
        /// Bytes of the call.
        wanted: u64,
        /// Bytes of the arenas in use.
        held: u64,
        /// Bytes allowed.
        limit: u64,
        /// Name of the limit, and the side that sets it.
        key: &'static str,
    },
    /// The rows have more bytes than an address space.
    #[error("{rows} rows are more than memory can hold")]
    TooLarge {
        /// Rows of the call.
        rows: u64,
    },
    /// No memfd could be made.
    #[error("there is no shared memory of {bytes} bytes")]
    Io {
        /// Bytes of the arena.
        bytes: usize,
        /// What the kernel said.
        #[source]
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

    /// What must be taken of memory before the first `end` bytes are lent; it counts as taken from now on. A lease
    /// begins at the lowest free byte that has room, so that nothing is taken long before it is used.
    fn take_up_to(&mut self, end: usize) -> Range<usize> {
        let end = end.next_multiple_of(page_bytes()).min(self.mapping.bytes());
        let fresh = self.taken..end;
        self.taken = self.taken.max(end);
        fresh
    }

    fn idle(&self) -> bool {
        self.free == [(0, self.mapping.bytes())]
    }
}

impl Pool {
    pub(crate) fn new(limit: ArenaLimit, hooks: Option<Arc<dyn ArenaHooks>>) -> Arc<Self> {
        let state = PoolState { limit, arenas: Vec::new(), next_number: 0, drops_due: Vec::new() };
        Arc::new(Self { state: Mutex::new(state), hooks, pid: std::process::id() })
    }

    fn lock(&self) -> MutexGuard<'_, PoolState> {
        lock(&self.state)
    }

    /// The daemon accepts arenas of `bytes_max` bytes at most.
    pub(crate) fn limit_by_daemon(&self, bytes_max: u64) {
        let mut state = self.lock();
        state.limit = state.limit.with_daemon(bytes_max);
    }

    /// Leases `bytes`, in a new arena if no old one has room. A refusal changes nothing.
    pub(crate) fn lease(self: &Arc<Self>, bytes: usize) -> Result<(Lease, Option<Growth>), MemoryError> {
        let len = bytes.max(1).next_multiple_of(ARENA_ALIGN_BYTES as usize);
        let mut state = self.lock();
        if let Some((number, mapping, offset, fresh)) = state.take(len) {
            drop(state);
            // Charged to this process, though the daemon writes the rows: who holds rows pays for their memory.
            mapping.take_pages(fresh);
            return Ok((Lease { pool: Arc::clone(self), mapping: Some(mapping), number, offset, len }, None));
        }
        let bytes = state.size_of_next(len)?;
        let mapping = Mapping::create(bytes).map_err(|cause| MemoryError::Io { bytes, cause })?;
        let (growth, fresh, outgrown) = state.grow(Arc::new(Watched::new(mapping, self.hooks.clone())), len);
        drop(state);
        // Hooks are called without a lock: they may wait for a thread that wants it.
        drop(outgrown);
        growth.mapping.announce();
        let (number, mapping) = (growth.arena, Arc::clone(&growth.mapping));
        mapping.take_pages(fresh);
        Ok((Lease { pool: Arc::clone(self), mapping: Some(mapping), number, offset: 0, len }, Some(growth)))
    }

    /// Forgets an arena that the daemon refused.
    pub(crate) fn discard(&self, number: u32) {
        let gone = self.lock().remove(|arena| arena.number == number);
        drop(gone);
    }

    /// Forgets an arena that the daemon may have taken; it will be told to drop it.
    pub(crate) fn abandon(&self, number: u32) {
        let mut state = self.lock();
        let gone = state.remove(|arena| arena.number == number);
        state.drops_due.push(number);
        drop(state);
        drop(gone);
    }

    /// An arena that the daemon must be told to drop. Call [`Pool::drop_sent`] after that.
    pub(crate) fn drop_due(&self) -> Option<u32> {
        self.lock().drops_due.last().copied()
    }

    /// The daemon was told to drop arena `number`.
    pub(crate) fn drop_sent(&self, number: u32) {
        self.lock().drops_due.retain(|&due| due != number);
    }
}

impl PoolState {
    /// Takes `len` bytes of the first arena that has them. Answers its number, where they begin, and the bytes whose
    /// pages are to be taken first.
    fn take(&mut self, len: usize) -> Option<(u32, Arc<Watched>, usize, Range<usize>)> {
        self.arenas.iter_mut().find_map(|arena| {
            let offset = arena.take(len)?;
            let fresh = arena.take_up_to(offset + len);
            Some((arena.number, Arc::clone(&arena.mapping), offset, fresh))
        })
    }

    /// Bytes of arenas that hold a lease. The others go when a new arena is made.
    fn held(&self) -> u64 {
        self.arenas.iter().filter(|arena| !arena.idle()).map(|arena| arena.mapping.bytes() as u64).sum()
    }

    /// Bytes of the arena to make for a lease of `len`: twice the largest, as far as the limit leaves room.
    fn size_of_next(&self, len: usize) -> Result<usize, MemoryError> {
        let room = usize::try_from(self.limit.bytes_max.saturating_sub(self.held())).unwrap_or(usize::MAX);
        if len > room {
            return Err(self.over_limit(len));
        }
        let largest = self.arenas.iter().map(|arena| arena.mapping.bytes()).max().unwrap_or(0);
        let wished = len.next_multiple_of(page_bytes()).max(FIRST_ARENA_BYTES).max(largest.saturating_mul(2));
        Ok(wished.min(room))
    }

    fn over_limit(&self, len: usize) -> MemoryError {
        let ArenaLimit { bytes_max, key } = self.limit;
        MemoryError::Limit { wanted: len as u64, held: self.held(), limit: bytes_max, key }
    }

    /// Takes out the arenas that `is_gone` picks.
    fn remove(&mut self, is_gone: impl Fn(&Arena) -> bool) -> Vec<Arena> {
        let (gone, kept) = std::mem::take(&mut self.arenas).into_iter().partition(is_gone);
        self.arenas = kept;
        gone
    }

    /// Adds an arena whose first `len` bytes are leased. Answers it with the bytes whose pages are to be taken first,
    /// and the arenas that lay idle, which were too small: they are to be dropped.
    fn grow(&mut self, mapping: Arc<Watched>, len: usize) -> (Growth, Range<usize>, Vec<Arena>) {
        let outgrown = self.remove(Arena::idle);
        self.drops_due.extend(outgrown.iter().map(|arena| arena.number));
        let arena = self.next_number;
        self.next_number = arena.wrapping_add(1);
        let rest = mapping.bytes() - len;
        let free = if rest > 0 { vec![(len, rest)] } else { Vec::new() };
        let mut added = Arena { number: arena, mapping: Arc::clone(&mapping), free, taken: 0 };
        let fresh = added.take_up_to(len);
        self.arenas.push(added);
        (Growth { arena, mapping }, fresh, outgrown)
    }
}

impl Lease {
    /// The place `at` bytes from the lease's start.
    pub(crate) fn place(&self, at: usize) -> Place {
        Place::Arena { arena: self.number, offset: (self.offset + at) as u64 }
    }

    /// Copies `source` in at `at` bytes from the lease's start.
    pub(crate) fn write(&self, at: usize, source: &[u8]) {
        assert!(at + source.len() <= self.len, "write outside the lease");
        if let Some(mapping) = &self.mapping {
            mapping.write(self.offset + at, source);
        }
    }

    /// The first `len` bytes.
    pub(crate) fn bytes(&self, len: usize) -> &[u8] {
        assert!(len <= self.len, "read outside the lease");
        self.mapping.as_deref().map_or(&[], |mapping| mapping::lease_bytes(mapping, self.offset, len))
    }

    /// The first `len` bytes, writable.
    pub(crate) fn bytes_mut(&mut self, len: usize) -> &mut [u8] {
        assert!(len <= self.len, "write outside the lease");
        self.mapping.as_deref().map_or(&mut [], |mapping| mapping::lease_bytes_mut(mapping, self.offset, len))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.pool.pid != std::process::id() {
            return;
        }
        let mapping = self.mapping.take();
        let mut state = self.pool.lock();
        if let Some(arena) = state.arenas.iter_mut().find(|arena| arena.number == self.number) {
            arena.give(self.offset, self.len);
            // While the arena is the pool's this is not its end. After the lock it might be: another thread may take
            // the idle arena out, and its hooks would be called here, under the locks of whoever drops this.
            drop(mapping);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pool(bytes_max: u64) -> Arc<Pool> {
        Pool::new(ArenaLimit::of_client(bytes_max), None)
    }

    /// Tells the daemon, and answers of what.
    fn tell(pool: &Pool) -> Vec<u32> {
        std::iter::from_fn(|| pool.drop_due().inspect(|&number| pool.drop_sent(number))).collect()
    }

    #[test]
    fn a_freed_run_is_used_again_and_an_outgrown_arena_goes() {
        let pool = pool(1 << 30);
        let (lease, growth) = pool.lease(1000).unwrap();
        assert_eq!(growth.unwrap().arena, 0);
        let offset = lease.offset;
        drop(lease);
        let (lease, growth) = pool.lease(900).unwrap();
        assert!(growth.is_none());
        assert_eq!(lease.offset, offset);
        drop(lease);
        let (_big, growth) = pool.lease(FIRST_ARENA_BYTES + 1).unwrap();
        assert_eq!(growth.unwrap().arena, 1);
        assert_eq!(tell(&pool), [0]);
    }

    /// Bytes of all arenas that are in memory.
    fn resident(pool: &Pool) -> u64 {
        let blocks = |arena: &Arena| rustix::fs::fstat(arena.mapping.fd()).unwrap().st_blocks as u64;
        pool.lock().arenas.iter().map(|arena| blocks(arena) * 512).sum()
    }

    /// What a lease lends is in memory before anybody writes: the kernel charges the trainer and not the daemon.
    #[test]
    fn a_leased_page_is_taken_once_and_no_page_before_it_is_leased() {
        let pool = pool(1 << 30);
        let page = page_bytes() as u64;
        let (first, _) = pool.lease(10 * page_bytes()).unwrap();
        assert_eq!(resident(&pool), 10 * page);
        let (second, _) = pool.lease(page_bytes() / 2).unwrap();
        let (third, _) = pool.lease(page_bytes() / 4).unwrap();
        assert_eq!(resident(&pool), 11 * page);
        drop(first);
        let (again, _) = pool.lease(10 * page_bytes()).unwrap();
        assert_eq!((again.offset, resident(&pool)), (0, 11 * page), "taken before");
        drop((second, third, again));
        let (all, growth) = pool.lease(FIRST_ARENA_BYTES).unwrap();
        assert!(growth.is_none());
        assert_eq!(resident(&pool), FIRST_ARENA_BYTES as u64);
        drop(all);
        let (_big, _) = pool.lease(2 * FIRST_ARENA_BYTES + 1).unwrap();
        assert_eq!(resident(&pool), 2 * FIRST_ARENA_BYTES as u64 + page, "the old arena is dropped");
    }

    #[test]
    fn the_limit_names_itself() {
        let own = pool(1 << 20);
        own.limit_by_daemon(1 << 30);
        let error = own.lease(2 << 20).unwrap_err().to_string();
        assert!(error.contains("arena_bytes_max of this client is 1048576"), "{error}");
        let daemons = pool(1 << 30);
        daemons.limit_by_daemon(1 << 20);
        let error = daemons.lease(2 << 20).unwrap_err().to_string();
        assert!(error.contains("local.arena_bytes_max of rudderd is 1048576"), "{error}");
    }

    #[test]
    fn a_refused_lease_drops_no_arena_without_telling() {
        let pool = pool(20 << 20);
        drop(pool.lease(1000).unwrap());
        for _ in 0..5 {
            pool.lease(30 << 20).unwrap_err();
        }
        let held: Vec<u32> = pool.lock().arenas.iter().map(|arena| arena.number).collect();
        assert_eq!((held, tell(&pool)), (vec![0], vec![]), "arenas here, and those to tell of");
    }

    #[test]
    fn doubling_stays_below_the_daemons_limit() {
        let pool = pool(64 << 30);
        pool.limit_by_daemon(64 << 20);
        let _small = pool.lease(FIRST_ARENA_BYTES).unwrap();
        drop(pool.lease(20 << 20).unwrap());
        let (_lease, growth) = pool.lease(40 << 20).unwrap();
        assert_eq!(growth.unwrap().mapping.bytes(), 48 << 20);
    }

    proptest! {
        /// Model check: leases never overlap, and when all are gone each arena is one free run again.
        #[test]
        fn leases_never_overlap(steps in proptest::collection::vec((any::<bool>(), 1usize..200_000), 1..80)) {
            let pool = pool(1 << 30);
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
