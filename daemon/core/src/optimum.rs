//! The optimum to hold policies against: Belady's algorithm with bypass, minibatch by minibatch. It owns the one
//! number that no policy can beat and must never share code with the policies it judges.
//!
//! (Belady, "A study of replacement algorithms for a virtual-storage computer", IBM Systems Journal 5(2), 1966; rows
//! are of one size and a fetched row need not be kept, so keeping those with the nearest next use is optimal.)

use std::collections::BinaryHeap;

/// Accesses in their order, minibatch by minibatch.
#[derive(Debug, Clone, Copy)]
pub struct Accesses<'a> {
    /// Ids are below this.
    pub universe: u64,
    /// Minibatch `m` is `ids[offsets[m]..offsets[m + 1]]`; one more than there are minibatches, ascending, the last
    /// one is the number of ids.
    pub offsets: &'a [u64],
    /// The ids of all minibatches, each id once per minibatch.
    pub ids: &'a [u32],
}

impl<'a> Accesses<'a> {
    /// Number of minibatches.
    #[must_use]
    pub fn minibatches(self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    /// The ids of minibatch `m`; empty when there is no such minibatch.
    #[must_use]
    pub fn minibatch(self, m: usize) -> &'a [u32] {
        match (self.offsets.get(m), self.offsets.get(m + 1)) {
            (Some(&start), Some(&end)) => self.ids.get(start as usize..end as usize).unwrap_or_default(),
            _ => &[],
        }
    }
}

/// Hits and requests, in all and minibatch by minibatch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HitTotals {
    /// Requests that the cache held.
    pub hits: u64,
    /// All requests.
    pub requests: u64,
    /// Hits and requests up to the end of each minibatch.
    over_time: Vec<(u64, u64)>,
}

impl HitTotals {
    /// Counts requests of the running minibatch.
    pub fn add(&mut self, hits: u64, misses: u64) {
        self.hits += hits;
        self.requests += hits + misses;
    }

    /// Ends the running minibatch.
    pub fn end_minibatch(&mut self) {
        self.over_time.push((self.hits, self.requests));
    }

    /// Share of the requests that were hits; 0 where there were no requests.
    #[must_use]
    pub fn hit_rate(&self) -> f64 {
        share(self.hits, self.requests)
    }

    /// The hit rate within each span of `minibatches` minibatches; the last one may be shorter.
    #[must_use]
    pub fn hit_rates(&self, minibatches: usize) -> Vec<f64> {
        let mut before = (0, 0);
        let ends = self.over_time.chunks(minibatches.max(1)).filter_map(<[_]>::last);
        ends.map(|&(hits, requests)| {
            let rate = share(hits - before.0, requests - before.1);
            before = (hits, requests);
            rate
        })
        .collect()
    }
}

fn share(hits: u64, requests: u64) -> f64 {
    if requests == 0 { 0.0 } else { hits as f64 / requests as f64 }
}

/// "Never again" as a next use.
const NEVER: u32 = u32::MAX;

/// The hits of the best possible choice of residents: after each minibatch, of the cached and the just fetched rows
/// those with the nearest next use are kept. The cache starts empty. `progress` gets the number of minibatches done.
#[must_use]
pub fn optimum(trace: Accesses<'_>, capacity_rows: usize, progress: &mut dyn FnMut(usize)) -> HitTotals {
    let next_uses = next_uses(trace);
    // Next use by id of what is kept; NEVER for what is not.
    let mut kept = vec![NEVER; trace.universe as usize];
    let mut kept_rows = 0usize;
    // Next use and id, the furthest on top; an entry that is not `kept`'s any more is passed over.
    let mut furthest: BinaryHeap<(u32, u32)> = BinaryHeap::new();
    let mut totals = HitTotals::default();
    let mut next_uses = next_uses.into_iter();
    for m in 0..trace.minibatches() {
        for &id in trace.minibatch(m) {
            let next_use = next_uses.next().unwrap_or(NEVER);
            let before = std::mem::replace(&mut kept[id as usize], next_use);
            let hit = before != NEVER;
            totals.add(u64::from(hit), u64::from(!hit));
            kept_rows -= usize::from(before != NEVER);
            if next_use != NEVER {
                kept_rows += 1;
                furthest.push((next_use, id));
            }
        }
        while kept_rows > capacity_rows {
            let Some((next_use, id)) = furthest.pop() else { break };
            if kept[id as usize] == next_use {
                kept[id as usize] = NEVER;
                kept_rows -= 1;
            }
        }
        if furthest.len() > 4 * kept_rows + 1024 {
            furthest.retain(|&(next_use, id)| kept[id as usize] == next_use);
        }
        totals.end_minibatch();
        progress(m + 1);
    }
    totals
}

/// For each request the minibatch in which its id is asked for next.
fn next_uses(trace: Accesses<'_>) -> Vec<u32> {
    let mut next = vec![NEVER; trace.universe as usize];
    let mut uses = vec![NEVER; trace.ids.len()];
    let mut at = uses.len();
    for m in (0..trace.minibatches()).rev() {
        for &id in trace.minibatch(m).iter().rev() {
            at -= 1;
            uses[at] = std::mem::replace(&mut next[id as usize], m as u32);
        }
    }
    uses
}
