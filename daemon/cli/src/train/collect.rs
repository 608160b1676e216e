//! What `rudder train` learns from: journals and results of replays are read, traces are replayed under a controller that draws its
//! decisions. Owns how often and from where such a replay begins.

use crate::replay::{TraceCapacity, exploring};
use crate::{CliError, journal};
use rudder_agent::classifier::ClassifierError;
use rudder_agent::classifier::samples;
use rudder_agent::explore::Explore;
use rudder_core::cache::PolicySpec;
use rudder_core::lookahead;
use rudder_daemon::config::{CacheConfig, Policy};
use rudder_lab::classifier::sources::{self, Source, of_decisions, of_trace};
use rudder_lab::replay::{ControlSpec, ReplaySpec, Trace, replay_under};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// How traces are replayed to collect samples.
#[derive(Debug, clap::Args)]
pub(super) struct Collecting {
    /// Replays of each trace, each with another seed of its decisions
    #[arg(long, value_name = "REPLAYS", default_value_t = 48, value_parser = clap::value_parser!(u64).range(1..))]
    replays: u64,
    /// Minibatches per decision, in replays of traces
    #[arg(long, value_name = "MINIBATCHES", default_value_t = 10)]
    window: usize,
    /// Cache size that replays of traces begin with: a share of the distinct ids of the trace (below 1), or a number of rows
    #[arg(long, value_name = "CAPACITY", default_value_t = TraceCapacity::Share(0.05))]
    capacity: TraceCapacity,
    /// Cache size that they may grow to
    #[arg(long, value_name = "CAPACITY", default_value_t = TraceCapacity::Share(0.25))]
    ceiling: TraceCapacity,
    /// Rows that owners change per minibatch in replays of traces
    #[arg(long, value_name = "ROWS", default_value_t = 0.0, value_parser = crate::not_negative)]
    updates: f64,
}

impl Collecting {
    /// The samples of a trace's folder, a journal, or the result of `rudder replay --controller ... --json`.
    pub(super) fn samples(&self, path: &Path, seed: u64) -> Result<Source, CliError> {
        if !path.is_dir() {
            return file(path);
        }
        let trace = Trace::read(path)?;
        let whole = path.canonicalize()?;
        let name = of_trace(&whole.file_name().unwrap_or(whole.as_os_str()).to_string_lossy());
        let next = AtomicU64::new(0);
        let done: Mutex<Vec<(u64, Result<_, CliError>)>> = Mutex::default();
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while let Some(at) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|&at| at < self.replays) {
                        let explored = self.explore(&trace, seed.wrapping_add(at));
                        done.lock().unwrap_or_else(PoisonError::into_inner).push((at, explored));
                    }
                });
            }
        });
        let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
        done.sort_unstable_by_key(|&(at, _)| at);
        let each: Result<Vec<_>, CliError> = done.into_iter().map(|(_, explored)| explored).collect();
        Ok(Source { name, samples: each?.concat() })
    }

    /// One replay under decisions that are drawn with `seed`, by the daemon's own policy.
    fn explore(&self, trace: &Trace, seed: u64) -> Result<Vec<samples::Sample>, CliError> {
        let distinct = trace.distinct();
        let capacity_rows = self.capacity.rows(distinct);
        let policy: PolicySpec = Policy::Epoch.with(CacheConfig::default().policy_settings());
        let ahead = lookahead::Settings::default();
        let spec = ReplaySpec { policy, capacity_rows, seed, lookahead: 0, ahead };
        let control = ControlSpec {
            controller: Box::new(Explore { seed }),
            window: self.window,
            ceiling_rows: self.ceiling.rows(distinct).max(capacity_rows),
            updates: self.updates,
            guard: exploring(),
            // What is done near the end is learned from as well.
            epochs: None,
            seed,
        };
        let (_, controlled) = replay_under(trace, spec, &trace.degree, Some(control), &mut |_| ())?;
        Ok(of_decisions(&controlled.unwrap_or_default().decisions))
    }
}

/// The samples of a file. A journal with torn lines gives those of the others: a pair of decisions with a torn one between them is
/// no sample, since their numbers do not follow each other.
fn file(path: &Path) -> Result<Source, CliError> {
    let refused = match sources::read(path) {
        Ok(source) => return Ok(source),
        Err(error @ ClassifierError::TooLarge { .. }) => return Err(error.into()),
        Err(error) => error,
    };
    match journal::read(path) {
        Ok(decisions) if !decisions.is_empty() => {
            let whole = path.canonicalize()?;
            let folder = whole.parent().unwrap_or(&whole);
            // As `samples::read` names it: whole and torn journals of a folder are one source.
            Ok(Source { name: format!("journals in {}", folder.display()), samples: of_decisions(&decisions) })
        }
        _ => Err(refused.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::tests::line;

    #[test]
    fn torn_and_whole_journals_of_a_folder_are_one_source() {
        let dir = tempfile::tempdir().unwrap();
        let (whole, torn) = (dir.path().join("a"), dir.path().join("b"));
        std::fs::write(&whole, format!("{}\n{}\n", line(1), line(2))).unwrap();
        std::fs::write(&torn, format!("{}\n{}\n{}\n", line(1), &line(2)[..50], line(3))).unwrap();
        assert_eq!(file(&whole).unwrap().name, file(&torn).unwrap().name);
        assert!(file(&torn).unwrap().samples.is_empty(), "1 and 3 do not follow each other");
        std::fs::write(&torn, "nonsense\n").unwrap();
        let error = file(&torn).unwrap_err().to_string();
        assert!(error.contains("b, line 1") && error.contains("no decision"), "{error}");
    }
}
