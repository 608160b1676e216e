//! The rows of other nodes that this node holds, when they change: those in the cache and those between their owner and
//! the cache. It owns the order in which marks are set and rows are listed and overwritten, on which it depends that no
//! old row stays behind. It knows neither peers nor stamps.

use crate::serve::table::flight::Flight;
use crate::serve::table::flights::Flights;
use rudder_core::cache::TableCache;
use rudder_dataset::Part;
use std::cell::RefCell;
use std::sync::Arc;

/// Rows overwritten under one hold of the cache's writer lock.
const RENEW_ROWS: usize = 2_048;

/// The rows of one table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Held<'a> {
    pub(crate) cache: &'a TableCache,
    pub(crate) flights: &'a Arc<Flights>,
}

impl Held<'_> {
    /// The owner of the rows that `changed` picks has changed them: none that was asked for before this call will be
    /// placed in the cache after it. Answers those that are in it.
    ///
    /// The marks come first: a row that is placed before them is in the list, one that comes after them is not placed.
    pub(crate) fn outdate(&self, changed: impl Fn(u64) -> bool + Copy) -> Vec<u64> {
        self.flights.outdate(changed);
        self.cache.residents(changed)
    }

    /// Rows that are about to be written at their owner. Hold what is answered until [`Held::follow`].
    pub(crate) fn intend(&self, owner: Part, ids: &[u64]) -> Arc<Flight> {
        let written = Flight::of_rows(owner, ids);
        self.flights.watch(&written);
        written
    }

    /// The owner has applied what was [intended](Held::intend) for `ids`; `row(i)` is the new row of `ids[i]`, or
    /// nothing where it is not known. The cached ones become the new rows, unless the owner was found to have changed
    /// them again since; then they are thrown out.
    pub(crate) fn follow<'r>(&self, ids: &[u64], written: &Arc<Flight>, row: impl Fn(usize) -> Option<&'r [u8]>) {
        self.flights.outdate_ids(ids, Some(written));
        self.renew(ids, |i| if written.is_outdated(i as u32) { None } else { row(i) });
    }

    /// Overwrites the cached ones of `ids`, and throws out those of which `row` has no row that may be kept. Answers
    /// how many were overwritten.
    pub(crate) fn renew<'r>(&self, ids: &[u64], row: impl Fn(usize) -> Option<&'r [u8]>) -> usize {
        let mut renewed = 0;
        for (piece, ids) in ids.chunks(RENEW_ROWS).enumerate() {
            let unknown = RefCell::new(Vec::new());
            renewed += self.cache.renew(ids, |i| {
                row(piece * RENEW_ROWS + i).or_else(|| {
                    unknown.borrow_mut().push(ids[i]);
                    None
                })
            });
            self.cache.discard(&unknown.into_inner());
        }
        renewed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::table::flight::{Joining, Landing};
    use crate::serve::table::flights::Claim;
    use rudder_core::cache::{CacheSpec, PolicySpec};
    use rudder_peers::RowBatch;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    use std::time::{Duration, Instant};

    const ROWS: usize = 24;

    /// An owner without a network: rows are their versions.
    struct Owner(Vec<AtomicU64>);

    impl Owner {
        fn read(&self, id: u64) -> [u8; 8] {
            self.0[id as usize].load(Ordering::SeqCst).to_le_bytes()
        }

        fn answer(&self, claim: &Claim) {
            for flight in claim.to_ask() {
                let bytes: Vec<u8> = flight.ids().iter().flat_map(|&id| self.read(id)).collect();
                Landing::of(flight).land(Ok(RowBatch::of_bytes(&bytes, 8)));
            }
        }

        fn change(&self, id: u64, version: u64) {
            self.0[id as usize].fetch_max(version, Ordering::SeqCst);
        }
    }

    fn fetch(held: Held<'_>, owner: &Owner, random: &mut fastrand::Rng) {
        let mut missed: Vec<u64> = (0..ROWS as u64).filter(|&id| random.bool() && !held.cache.contains(id)).collect();
        random.shuffle(&mut missed);
        let claim = held.flights.claim(missed.iter().map(|&id| (id, Part(1))), Joining::Always);
        owner.answer(&claim);
        if random.u8(..4) == 0 {
            std::thread::yield_now();
        }
        while claim.flights().iter().any(|flight| !flight.has_ended()) {
            std::thread::yield_now();
        }
        held.cache.record(&[], &missed, |i| claim.fresh_row(i), None);
    }

    /// What `refresh.rs` does, the owner being asked at once.
    fn refresh(held: Held<'_>, owner: &Owner) {
        let stale = held.outdate(|_| true);
        let claim = held.flights.claim(stale.iter().map(|&id| (id, Part(1))), Joining::Always);
        owner.answer(&claim);
        while claim.flights().iter().any(|flight| !flight.has_ended()) {
            std::thread::yield_now();
        }
        held.renew(&stale, |i| claim.fresh_row(i));
    }

    /// Panics if a cached row is older than `floor`.
    fn check(held: Held<'_>, floor: &dyn Fn(u64) -> u64, what: &str) {
        for id in 0..ROWS as u64 {
            let (floor, reader) = (floor(id), held.cache.read());
            if let Some(row) = reader.get(id) {
                let version = u64::from_le_bytes(row.try_into().unwrap());
                assert!(version >= floor, "row {id} has version {version} after {what} of {floor}");
            }
        }
    }

    /// Fetches beside refreshes and updates, as fast as threads go.
    #[test]
    fn no_old_row_stays_behind() {
        let spec = CacheSpec {
            table_rows: ROWS as u64,
            row_bytes: 8,
            capacity_rows: ROWS / 3,
            ceiling_rows: ROWS / 3,
            tracked_rows_max: 0,
            policy: PolicySpec::Lru,
            seed: 1,
        };
        let (cache, flights) = (TableCache::new(spec).unwrap(), Arc::new(Flights::default()));
        let held = Held { cache: &cache, flights: &flights };
        let owner = Owner((0..ROWS).map(|_| AtomicU64::new(0)).collect());
        let (next, stop, rounds) = (AtomicU64::new(1), AtomicBool::new(false), AtomicU64::new(0));
        let begin = Instant::now();
        std::thread::scope(|scope| {
            for seed in 0..2 {
                let (owner, stop) = (&owner, &stop);
                scope.spawn(move || {
                    let mut random = fastrand::Rng::with_seed(seed);
                    while !stop.load(Ordering::Relaxed) {
                        fetch(held, owner, &mut random);
                    }
                });
            }
            // A trainer of this node writes even rows and reads what it wrote; others change them, too, but never back.
            scope.spawn(|| {
                let mut random = fastrand::Rng::with_seed(7);
                while !stop.load(Ordering::Relaxed) {
                    let ids: Vec<u64> = (0..ROWS as u64 / 2).map(|i| i * 2).filter(|_| random.bool()).collect();
                    let written = held.intend(Part(1), &ids);
                    let version = next.fetch_add(1, Ordering::SeqCst);
                    ids.iter().for_each(|&id| owner.change(id, version));
                    if random.bool() {
                        std::thread::yield_now();
                    }
                    let row = version.to_le_bytes();
                    held.follow(&ids, &written, |_| Some(&row));
                    check(held, &|id| if ids.contains(&id) { version } else { 0 }, "an update");
                }
            });
            scope.spawn(|| {
                let mut random = fastrand::Rng::with_seed(8);
                while begin.elapsed() < Duration::from_millis(1_500) {
                    let version = next.fetch_add(1, Ordering::SeqCst);
                    (0..ROWS as u64).filter(|_| random.bool()).for_each(|id| owner.change(id, version));
                    let floors: Vec<u64> = owner.0.iter().map(|row| row.load(Ordering::SeqCst)).collect();
                    refresh(held, &owner);
                    for _ in 0..3 {
                        check(held, &|id| floors[id as usize], "a refresh");
                        std::thread::yield_now();
                    }
                    rounds.fetch_add(1, Ordering::Relaxed);
                }
                stop.store(true, Ordering::Relaxed);
            });
        });
        assert!(rounds.load(Ordering::Relaxed) > 50);
    }
}
