//! `rudder replay`: how cache policies would have done on a recorded trace, beside the optimum. Owns the arguments, the
//! order of the runs and what is printed; the replay itself is [`rudder_lab::replay`]'s.

mod control;
mod plot;
mod report;

use super::{CliError, not_negative, style};
use clap::error::ErrorKind;
use control::Contest;
pub(crate) use control::exploring;
use indicatif::{ProgressBar, ProgressStyle};
use report::{Optimum, Outcome};
use rudder_agent::spec::ControllerSpec;
use rudder_core::cache::PolicySpec;
use rudder_core::lookahead;
use rudder_core::optimum::optimum;
use rudder_daemon::config::{CacheConfig, Policy};
use rudder_lab::replay::{ReplaySpec, Trace, replay};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Points of a curve over time for traces of less than [`EPOCHS_MIN`] epochs.
const POINTS: usize = 32;

/// Epochs from which a curve over time has one point per epoch.
const EPOCHS_MIN: usize = 4;

/// Arguments of `rudder replay`.
#[derive(Debug, clap::Args)]
pub struct ReplayArgs {
    /// Folder of the trace (meta.json, offsets.npy, ids.npy and optionally degree.npy)
    #[arg(value_name = "TRACE")]
    trace: PathBuf,
    /// Cache sizes: a share of the distinct ids of the trace (below 1), or a number of rows
    #[arg(long, value_name = "CAPACITY", value_delimiter = ',', default_values_t = [TraceCapacity::Share(0.15)])]
    capacity: Vec<TraceCapacity>,
    /// Policies, or `all`
    #[arg(long, value_name = "POLICY", value_delimiter = ',', default_values_t = [Choice::All])]
    policy: Vec<Choice>,
    /// Minibatches known ahead; 0 for none, `4x` for 4·C/R (C rows cached, R rows of a mean minibatch), `auto` for the
    /// multiple of C/R that a daemon asks for
    #[arg(long, value_name = "MINIBATCHES", value_delimiter = ',', default_values_t = [Ahead::Minibatches(0)])]
    lookahead: Vec<Ahead>,
    /// The prior of `static` and `epoch`, before the first minibatch: `degree` (degree.npy of the trace), `presample`
    /// (how often each id occurs in the first epoch) or `none`
    #[arg(long, value_name = "PRIOR", default_value = "degree", value_parser = ["degree", "presample", "none"])]
    prior: String,
    /// Minibatches staged before they are asked for, with a lookahead
    #[arg(long, value_name = "MINIBATCHES", default_value_t = lookahead::Settings::default().depth)]
    depth: u32,
    /// Rows staged per minibatch at most, as a share of a mean minibatch
    #[arg(long, value_name = "SHARE", default_value_t = lookahead::Settings::default().budget)]
    budget: f64,
    /// Minibatches between two replacements of `periodic`, and two decisions of `rudder`
    #[arg(long, value_name = "MINIBATCHES", default_value_t = CacheConfig::default().period,
          value_parser = clap::value_parser!(u32).range(1..))]
    period: u32,
    /// Seed of the policies' randomness
    #[arg(long, value_name = "SEED", default_value_t = CacheConfig::default().seed)]
    seed: u64,
    /// Run the agent's decision loop over the trace: `rules`, `llm`, `classifier:FILE`, `schedule:N`, `off`, or
    /// `explore:SEED` (random decisions, to train classifiers on)
    #[arg(long, value_name = "CONTROLLER", value_delimiter = ',')]
    controller: Vec<ControllerSpec>,
    /// Step by which a classifier learns from each of its decisions (lr and mlp only); 0 to stay as it was trained
    #[arg(long, value_name = "RATE", default_value_t = 0.0, value_parser = not_negative)]
    classifier_learning_rate: f64,
    /// Minibatches per decision, with a controller
    #[arg(long, value_name = "MINIBATCHES", default_value_t = 10)]
    window: usize,
    /// Size to which a controller may grow the cache, in the forms of --capacity
    #[arg(long, value_name = "CAPACITY", default_value_t = TraceCapacity::Share(0.25))]
    ceiling: TraceCapacity,
    /// Rows that owners change per minibatch, with a controller
    #[arg(long, value_name = "ROWS", default_value_t = 0.0, value_parser = not_negative)]
    updates: f64,
    #[command(flatten)]
    llm: control::LlmArgs,
    /// Write hit rates of policies over capacity and over time to this file, as SVG
    #[arg(long, value_name = "FILE", conflicts_with = "controller")]
    plot: Option<PathBuf>,
    /// Print the result as JSON: one object, or with several capacities a list with one object for each
    #[arg(long)]
    json: bool,
}

/// Size of a replayed cache.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum TraceCapacity {
    Share(f64),
    Rows(usize),
}

impl TraceCapacity {
    pub(crate) fn rows(self, distinct: u64) -> usize {
        match self {
            TraceCapacity::Share(share) => (share * distinct as f64).round() as usize,
            TraceCapacity::Rows(rows) => rows,
        }
    }
}

impl FromStr for TraceCapacity {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text.parse::<usize>(), text.parse::<f64>()) {
            (Ok(rows), _) if rows > 0 => Ok(Self::Rows(rows)),
            (Err(_), Ok(share)) if share > 0.0 && share < 1.0 => Ok(Self::Share(share)),
            _ => Err(format!(
                "`{text}` is not a capacity: write a share above 0 and below 1 (0.15) or a number of rows (4900)"
            )),
        }
    }
}

impl std::fmt::Display for TraceCapacity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            TraceCapacity::Share(share) => write!(f, "{share}"),
            TraceCapacity::Rows(rows) => write!(f, "{rows}"),
        }
    }
}

/// Minibatches known ahead.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Ahead {
    Minibatches(usize),
    /// A multiple of those that fit into the cache.
    Caches(f64),
}

impl Ahead {
    fn minibatches(self, trace: &Trace, capacity_rows: usize) -> usize {
        match self {
            Ahead::Minibatches(minibatches) => minibatches,
            Ahead::Caches(factor) => {
                let mean_rows = trace.requests() as f64 / trace.minibatches().max(1) as f64;
                (factor * capacity_rows as f64 / mean_rows.max(1.0)).ceil() as usize
            }
        }
    }
}

impl FromStr for Ahead {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self::Caches(lookahead::Settings::default().horizon_factor));
        }
        let factor = text.strip_suffix('x').map(str::parse::<f64>);
        match (text.parse(), factor) {
            (Ok(minibatches), _) => Ok(Self::Minibatches(minibatches)),
            (_, Some(Ok(factor))) if factor > 0.0 && factor.is_finite() => Ok(Self::Caches(factor)),
            _ => Err(format!(
                "`{text}` is not a lookahead: write a number of minibatches, a multiple of C/R (4x) or auto"
            )),
        }
    }
}

impl std::fmt::Display for Ahead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Ahead::Minibatches(minibatches) => write!(f, "{minibatches}"),
            Ahead::Caches(factor) => write!(f, "{factor}x"),
        }
    }
}

/// One policy, or all of them.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Choice {
    All,
    One(Policy),
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "all" { Ok(Self::All) } else { text.parse().map(Self::One).map_err(|error| error + " or all") }
    }
}

impl std::fmt::Display for Choice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Choice::All => f.write_str("all"),
            Choice::One(policy) => policy.fmt(f),
        }
    }
}

/// One thing to run: the optimum or a policy, at a capacity.
#[derive(Debug, Clone, Copy)]
struct Job {
    capacity_rows: usize,
    policy: Option<(PolicySpec, usize)>,
}

impl ReplayArgs {
    /// The policies, each once, in the order of the documentation if `all` is among them.
    fn policies(&self) -> Vec<Policy> {
        let mut chosen: Vec<Policy> = Vec::new();
        for choice in &self.policy {
            match choice {
                Choice::All => chosen.extend(Policy::ALL),
                Choice::One(policy) => chosen.push(*policy),
            }
        }
        let mut seen = Vec::new();
        chosen.retain(|policy| {
            !seen.contains(policy) && {
                seen.push(*policy);
                true
            }
        });
        chosen
    }

    fn spec(&self, policy: PolicySpec, lookahead: usize, capacity_rows: usize) -> ReplaySpec {
        let ahead = lookahead::Settings {
            depth: self.depth,
            budget: self.budget,
            rows_max: usize::MAX,
            ..lookahead::Settings::default()
        };
        ReplaySpec { policy, capacity_rows, seed: self.seed, lookahead, ahead }
    }

    fn prior(&self, trace: &Trace) -> Vec<(u32, f32)> {
        match self.prior.as_str() {
            "degree" => trace.degree.clone(),
            "presample" => trace.frequencies(usize::try_from(trace.meta.minibatches_per_epoch).unwrap_or(usize::MAX)),
            _ => Vec::new(),
        }
    }

    /// The policies that can run; `static` cannot without a prior.
    fn specs(&self, has_prior: bool) -> Result<Vec<PolicySpec>, CliError> {
        let settings = CacheConfig { period: self.period, ..CacheConfig::default() }.policy_settings();
        let mut specs: Vec<PolicySpec> = self.policies().into_iter().map(|policy| policy.with(settings)).collect();
        if !has_prior {
            if self.policy.contains(&Choice::One(Policy::Static)) {
                let text = "policy static has nothing to choose by: the trace has no degree.npy; use --prior presample";
                return Err(CliError::message(text));
            }
            specs.retain(|spec| !spec.needs_prior());
        }
        Ok(specs)
    }
}

/// Replays the trace and prints how each policy did.
///
/// # Errors
/// If the trace cannot be read, a replay cannot be run, or the picture cannot be written.
pub fn run(args: &ReplayArgs) -> Result<(), CliError> {
    if !(args.budget >= 0.0 && args.budget.is_finite()) {
        clap::Error::raw(ErrorKind::ValueValidation, "--budget must be 0 or more\n").exit();
    }
    let trace = Trace::read(&args.trace)?;
    let prior = args.prior(&trace);
    let specs = args.specs(!prior.is_empty())?;
    let distinct = trace.distinct();
    let mut capacities: Vec<usize> = args.capacity.iter().map(|capacity| capacity.rows(distinct)).collect();
    capacities.sort_unstable();
    capacities.dedup();
    let runs = |rows| {
        let lookaheads = args.lookahead.iter().map(|ahead| ahead.minibatches(&trace, rows)).collect::<Vec<_>>();
        specs.iter().flat_map(move |&spec| lookaheads.clone().into_iter().map(move |ahead| Some((spec, ahead))))
    };
    let jobs: Vec<Job> = capacities
        .iter()
        .flat_map(|&rows| {
            std::iter::once(None).chain(runs(rows)).map(move |policy| Job { capacity_rows: rows, policy })
        })
        .collect();
    if !args.controller.is_empty() {
        return run_controllers(args, &trace, &prior, &jobs);
    }
    let done = run_all(args, &trace, &prior, &jobs)?;
    let name = args.trace.file_name().unwrap_or(args.trace.as_os_str()).to_string_lossy().into_owned();
    let comparisons = report::collect(&trace, &name, distinct, &jobs, done);
    if let Some(file) = &args.plot {
        std::fs::write(file, plot::draw(&comparisons))
            .map_err(|error| CliError::context(format!("cannot write {}", file.display()), error))?;
    }
    if args.json {
        match &comparisons[..] {
            [only] => style::print_json(only),
            several => style::print_json(&several),
        }
    } else {
        comparisons.iter().try_for_each(|comparison| style::print(&format!("{}\n", comparison.table())))
    }
}

/// The optimum of each capacity, then one run for each controller, policy and lookahead at it.
fn run_controllers(args: &ReplayArgs, trace: &Trace, prior: &[(u32, f32)], jobs: &[Job]) -> Result<(), CliError> {
    let course = control::Course { args, trace, prior, distinct: trace.distinct() };
    let name = args.trace.file_name().unwrap_or(args.trace.as_os_str()).to_string_lossy().into_owned();
    let (universe, requests) = (trace.meta.universe, trace.requests());
    let mut contests: Vec<Contest> = Vec::new();
    for Job { capacity_rows, policy } in jobs.iter().copied() {
        let Some((policy, lookahead)) = policy else {
            let begin = Instant::now();
            let opt =
                Optimum::new(&optimum(trace.accesses(), capacity_rows, &mut |_| ()), span(trace), begin.elapsed());
            let trace = name.clone();
            contests.push(Contest { trace, universe, capacity_rows, requests, results: Vec::new(), opt });
            continue;
        };
        for controller in &args.controller {
            let steered = course.steer(controller, args.spec(policy, lookahead, capacity_rows))?;
            // The optimum came first among the jobs of this capacity.
            if let Some(contest) = contests.last_mut() {
                contest.results.push(steered);
            }
        }
    }
    if args.json {
        match &contests[..] {
            [only] => style::print_json(only),
            several => style::print_json(&several),
        }
    } else {
        let told = |contest: &Contest| {
            let best = 100.0 * contest.opt.hit_rate;
            let table = control::table(&contest.results, requests);
            format!("{} rows at the start; the optimum hits {best:.2} %\n{table}\n", contest.capacity_rows)
        };
        contests.iter().try_for_each(|contest| style::print(&told(contest)))
    }
}

/// What came of one job.
enum Done {
    Optimum(Optimum),
    Policy(Outcome),
}

/// Runs all jobs on one thread per core; their order does not change the results.
fn run_all(args: &ReplayArgs, trace: &Trace, prior: &[(u32, f32)], jobs: &[Job]) -> Result<Vec<Done>, CliError> {
    let bar = ProgressBar::new(jobs.len() as u64 * trace.minibatches() as u64);
    if let Ok(style) = ProgressStyle::with_template("{wide_bar} {percent}% {msg}") {
        bar.set_style(style);
    }
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<(usize, Result<Done, CliError>)>> = Mutex::default();
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(jobs.len());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some((at, job)) =
                    Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|at| Some((at, jobs.get(at)?)))
                {
                    let result = run_one(args, trace, prior, *job, &bar);
                    done.lock().unwrap_or_else(PoisonError::into_inner).push((at, result));
                }
            });
        }
    });
    bar.finish_and_clear();
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|&(at, _)| at);
    done.into_iter().map(|(_, result)| result).collect()
}

fn run_one(
    args: &ReplayArgs,
    trace: &Trace,
    prior: &[(u32, f32)],
    job: Job,
    bar: &ProgressBar,
) -> Result<Done, CliError> {
    let begin = Instant::now();
    let mut tick = |_| bar.inc(1);
    let span = span(trace);
    let Some((policy, lookahead)) = job.policy else {
        bar.set_message(format!("opt, {} rows", job.capacity_rows));
        return Ok(Done::Optimum(Optimum::new(
            &optimum(trace.accesses(), job.capacity_rows, &mut tick),
            span,
            begin.elapsed(),
        )));
    };
    bar.set_message(format!("{}, {} rows", policy.name(), job.capacity_rows));
    let spec = args.spec(policy, lookahead, job.capacity_rows);
    let replayed = replay(trace, spec, prior, &mut tick)?;
    Ok(Done::Policy(Outcome::new(policy.name(), lookahead, &replayed, span, begin.elapsed())))
}

/// Minibatches per point of a curve over time.
fn span(trace: &Trace) -> usize {
    let per_epoch = usize::try_from(trace.meta.minibatches_per_epoch).unwrap_or(usize::MAX);
    if trace.minibatches() / per_epoch >= EPOCHS_MIN { per_epoch } else { trace.minibatches().div_ceil(POINTS).max(1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capacities_are_shares_or_rows() {
        assert_eq!("0.15".parse(), Ok(TraceCapacity::Share(0.15)));
        assert_eq!("4900".parse(), Ok(TraceCapacity::Rows(4900)));
        assert_eq!(TraceCapacity::Share(0.5).rows(25_063), 12_532);
        for wrong in ["0", "1.5", "-1", "NaN", "lots", "0.0"] {
            assert!(wrong.parse::<TraceCapacity>().unwrap_err().contains(wrong), "{wrong}");
        }
    }

    #[test]
    fn lookaheads_are_minibatches_or_multiples_of_the_cache() {
        assert_eq!("16".parse(), Ok(Ahead::Minibatches(16)));
        assert_eq!(("4x".parse(), "auto".parse()), (Ok(Ahead::Caches(4.0)), Ok(Ahead::Caches(4.0))));
        let minibatches = [vec![1, 2, 3], vec![4]];
        let trace = Trace::new(10, 1, &minibatches, Vec::new(), serde_json::Map::new()).unwrap();
        assert_eq!(Ahead::Caches(4.0).minibatches(&trace, 5), 10, "R is 2");
        for wrong in ["-1", "0x", "x", "soon", "infx"] {
            assert!(wrong.parse::<Ahead>().unwrap_err().contains(wrong), "{wrong}");
        }
    }

    #[test]
    fn policies_are_taken_once_each() {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            args: ReplayArgs,
        }
        let parse = |line: &[&str]| <Line as clap::Parser>::try_parse_from([&["replay", "t"], line].concat());
        assert_eq!(parse(&[]).unwrap().args.policies(), Policy::ALL);
        let some = parse(&["--policy", "epoch,lru,epoch"]).unwrap().args;
        assert_eq!(some.policies(), [Policy::Epoch, Policy::Lru]);
        assert!(some.specs(false).is_ok());
        assert!(
            parse(&["--policy", "static"]).unwrap().args.specs(false).unwrap_err().to_string().contains("presample")
        );
        assert_eq!(parse(&[]).unwrap().args.specs(false).unwrap().len(), Policy::ALL.len() - 1);
        assert!(parse(&["--policy", "fifo"]).is_err());
    }
}
