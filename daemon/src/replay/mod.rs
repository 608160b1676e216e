//! Replays recorded accesses against the cache's own code, with no network and no clock: how good a policy is, exactly and
//! repeatably, beside the optimum. It owns traces ([`Trace`]), the drive ([`replay()`]) and OPT ([`optimum()`]). It must never
//! decide anything that the cache decides in a running daemon.

mod control;
mod drive;
mod opt;
mod trace;

#[cfg(test)]
mod tests;

pub use control::{ControlSpec, Controlled};
pub use drive::{ReplayError, ReplaySpec, Replayed, replay, replay_under};
pub use opt::optimum;
pub use trace::{FORMAT_VERSION, Trace, TraceError, TraceMeta};

/// Hits and requests, in all and minibatch by minibatch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TraceTotals {
    /// Requests that the cache held.
    pub hits: u64,
    /// All requests.
    pub requests: u64,
    /// Hits and requests up to the end of each minibatch.
    over_time: Vec<(u64, u64)>,
}

impl TraceTotals {
    fn count(&mut self, hit: bool) {
        self.add(u64::from(hit), u64::from(!hit));
    }

    fn add(&mut self, hits: u64, misses: u64) {
        self.hits += hits;
        self.requests += hits + misses;
    }

    fn end_minibatch(&mut self) {
        self.over_time.push((self.hits, self.requests));
    }

    /// Share of the requests that were hits; 0 for an empty trace.
    #[must_use]
    pub fn hit_rate(&self) -> f64 {
        share((self.hits, self.requests))
    }

    /// The hit rate within each span of `minibatches` minibatches; the last one may be shorter.
    #[must_use]
    pub fn hit_rates(&self, minibatches: usize) -> Vec<f64> {
        let mut before = (0, 0);
        let ends = self.over_time.chunks(minibatches.max(1)).filter_map(<[_]>::last);
        ends.map(|&(hits, requests)| {
            let rate = share((hits - before.0, requests - before.1));
            before = (hits, requests);
            rate
        })
        .collect()
    }
}

fn share((hits, requests): (u64, u64)) -> f64 {
    if requests == 0 { 0.0 } else { hits as f64 / requests as f64 }
}
