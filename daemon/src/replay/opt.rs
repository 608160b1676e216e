//! The optimum to hold policies against: Belady's algorithm with bypass, minibatch by minibatch. It owns the one number that
//! no policy can beat and must never share code with the policies it judges.
//!
//! (Belady, "A study of replacement algorithms for a virtual-storage computer", IBM Systems Journal 5(2), 1966; rows are of
//! one size and a fetched row need not be kept, so keeping those with the nearest next use is optimal.)

use super::{Trace, TraceTotals};
use std::collections::BinaryHeap;

/// "Never again" as a next use.
const NEVER: u32 = u32::MAX;

/// The hits of the best possible choice of residents: after each minibatch, of the cached and the just fetched rows those
/// with the nearest next use are kept. The cache starts empty. `progress` gets the number of minibatches done.
#[must_use]
pub fn optimum(trace: &Trace, capacity_rows: usize, progress: &mut dyn FnMut(usize)) -> TraceTotals {
    let next_uses = next_uses(trace);
    // Next use by id of what is kept; NEVER for what is not.
    let mut kept = vec![NEVER; trace.meta.universe as usize];
    let mut kept_rows = 0usize;
    // Next use and id, the furthest on top; an entry that is not `kept`'s any more is passed over.
    let mut furthest: BinaryHeap<(u32, u32)> = BinaryHeap::new();
    let mut totals = TraceTotals::default();
    let mut next_uses = next_uses.into_iter();
    for m in 0..trace.minibatches() {
        for &id in trace.minibatch(m) {
            let next_use = next_uses.next().unwrap_or(NEVER);
            let before = std::mem::replace(&mut kept[id as usize], next_use);
            totals.count(before != NEVER);
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
fn next_uses(trace: &Trace) -> Vec<u32> {
    let mut next = vec![NEVER; trace.meta.universe as usize];
    let mut uses = vec![NEVER; trace.requests() as usize];
    let mut at = uses.len();
    for m in (0..trace.minibatches()).rev() {
        for &id in trace.minibatch(m).iter().rev() {
            at -= 1;
            uses[at] = std::mem::replace(&mut next[id as usize], m as u32);
        }
    }
    uses
}
