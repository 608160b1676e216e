//! Replays one trace against several policies and against the optimum. It owns nothing but the trace that it makes, and
//! must never need a daemon.
//!
//!     cargo run --release -p rudder-lab --example replay_a_trace [FOLDER OF A TRACE]

use rudder_core::cache::PolicySpec;
use rudder_core::lookahead::Settings;
use rudder_core::optimum::optimum;
use rudder_lab::replay::{ReplaySpec, Trace, replay};
use std::error::Error;
use std::io::Write as _;
use std::path::Path;

/// Minibatches that a trainer announces ahead, in the runs with a lookahead.
const AHEAD: usize = 8;

/// 400 minibatches of 40 rows out of 2,000. Low ids are asked for more often than high ones.
fn made_up() -> Result<Trace, Box<dyn Error>> {
    let mut random = fastrand::Rng::with_seed(7);
    let mut minibatch = |_| {
        let mut ids: Vec<u32> = (0..40).map(|_| (2000.0 * random.f64().powi(3)) as u32).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    };
    let minibatches: Vec<Vec<u32>> = (0..400).map(&mut minibatch).collect();
    Ok(Trace::new(2000, 50, &minibatches, Vec::new(), serde_json::Map::new())?)
}

fn main() -> Result<(), Box<dyn Error>> {
    compare(&match std::env::args_os().nth(1) {
        Some(folder) => Trace::read(Path::new(&folder))?,
        None => made_up()?,
    })
}

fn compare(trace: &Trace) -> Result<(), Box<dyn Error>> {
    let capacity_rows = (trace.distinct() as usize * 15).div_ceil(100);
    let mut out = std::io::stdout().lock();
    writeln!(out, "{} rows cached of {} that are asked for", capacity_rows, trace.distinct())?;

    let ahead = Settings {
        depth: 2,
        horizon: 0,
        horizon_factor: 4.0,
        horizon_max: 4096,
        budget: 0.75,
        rows_max: 64_000_000,
        expire_ms: 60_000,
    };
    for (policy, lookahead) in [
        (PolicySpec::Lru, 0),
        (PolicySpec::S3Fifo, 0),
        (PolicySpec::Epoch { sample: 16 }, 0),
        (PolicySpec::Epoch { sample: 16 }, AHEAD),
    ] {
        let spec = ReplaySpec { policy, capacity_rows, seed: 1, lookahead, ahead };
        // The prior of `static` and `epoch`, before the first minibatch: edges into this partition, if the trace has
        // them.
        let done = replay(trace, spec, &trace.degree, &mut |_| ())?;
        writeln!(
            out,
            "{:8} {lookahead} minibatches ahead: {:5.1} % hits, {} rows waited for, {} rows over the network",
            policy.name(),
            100.0 * done.totals.hit_rate(),
            done.stall_rows,
            done.network_rows
        )?;
    }
    let best = optimum(trace.accesses(), capacity_rows, &mut |_| ());
    writeln!(out, "optimum: {:.1} % hits", 100.0 * best.hit_rate())?;
    Ok(())
}

#[test]
fn the_example_runs() {
    compare(&made_up().unwrap()).unwrap();
}
