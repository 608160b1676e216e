//! `rudder trace record`: writes what the trainers of a running daemon ask for as a trace that `rudder replay` reads.
//! Owns the loop that empties the daemon's recorder; the daemon decides what is recorded and how much may wait.

use super::{CliError, http, style};
use indicatif::{ProgressBar, ProgressStyle};
use rudder_core::cache::TABLE_ROWS_MAX;
use rudder_daemon::recording::{Recorded, TraceAnswer, TraceCall};
use rudder_dataset::{Dataset, Part, Verify};
use rudder_lab::replay::Trace;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Pause between two requests for what was recorded.
const PAUSE: Duration = Duration::from_millis(200);

/// Arguments of `rudder trace`.
#[derive(Debug, clap::Args)]
pub struct TraceArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Records what the trainers of a running daemon ask for
    Record(RecordArgs),
}

#[derive(Debug, clap::Args)]
struct RecordArgs {
    /// Folder for the trace
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Address of the daemon's HTTP interface (its `admin.listen`)
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:7401")]
    admin: String,
    /// File with the bearer token, where the daemon has an `admin.token_file`
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Table to record; the first by default
    #[arg(long, value_name = "NAME")]
    table: Option<String>,
    /// Stop after this many fetches
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    minibatches: u64,
    /// Stop after this time and keep what was recorded
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    seconds: u64,
    /// Fetches of all trainers in one epoch; what the trainers report by default
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    minibatches_per_epoch: Option<u64>,
    /// Leave out the epoch that was running at the start
    #[arg(long)]
    whole_epochs: bool,
    /// Folder of the dataset, to also write the edges into this node's partition (degree.npy)
    #[arg(long, value_name = "DIR")]
    dataset: Option<PathBuf>,
    /// Print what was recorded as JSON
    #[arg(long)]
    json: bool,
}

/// What was taken from the daemon so far.
#[derive(Default)]
struct Taken {
    last: TraceAnswer,
    minibatches: Vec<Vec<u64>>,
    /// The epoch that was running at the start, while it is left out.
    skipped_epoch: Option<u32>,
}

impl Taken {
    fn add(&mut self, mut answer: TraceAnswer, whole_epochs: bool) {
        for Recorded { epoch, progress, ids } in std::mem::take(&mut answer.minibatches) {
            if whole_epochs && self.minibatches.is_empty() {
                let begun =
                    *self.skipped_epoch.get_or_insert(if progress == 0.0 { epoch.wrapping_sub(1) } else { epoch });
                if begun == epoch {
                    continue;
                }
            }
            self.minibatches.push(ids);
        }
        self.last = answer;
    }
}

/// Runs the subcommand.
///
/// # Errors
/// If the daemon cannot be reached or refuses, nothing was recorded, or the trace cannot be written.
pub fn run(args: &TraceArgs) -> Result<(), CliError> {
    let What::Record(args) = &args.what;
    let table = match &args.table {
        Some(table) => table.clone(),
        None => first_table(args)?,
    };
    let taken = record(args, &table)?;
    if taken.minibatches.is_empty() {
        return Err(CliError::message(format!("no fetch of table `{table}` was seen: is a trainer running?")));
    }
    let trace = trace_of(args, &table, &taken)?;
    trace.write(&args.out)?;
    let summary = json!({
        "out": args.out, "table": table, "minibatches": trace.minibatches(), "requests": trace.requests(),
        "distinct": trace.distinct(), "minibatches_per_epoch": trace.meta.minibatches_per_epoch, "dropped": taken.last.dropped,
    });
    if args.json {
        style::print_json(&summary)
    } else {
        let (minibatches, requests, dropped) = (trace.minibatches(), trace.requests(), taken.last.dropped);
        let out = args.out.display();
        style::print(&format!("{out}: {minibatches} minibatches, {requests} requests; {dropped} fetches dropped\n"))
    }
}

fn call(args: &RecordArgs, call: &TraceCall) -> Result<TraceAnswer, CliError> {
    let body = serde_json::to_value(call)?;
    let answer = http::ask(&args.admin, args.token_file.as_deref(), "/v1/trace", Some(&body))?;
    serde_json::from_str(&answer).map_err(|error| CliError::context("the daemon's answer is not a recording", error))
}

fn first_table(args: &RecordArgs) -> Result<String, CliError> {
    let status: Value = serde_json::from_str(&http::ask(&args.admin, args.token_file.as_deref(), "/v1/status", None)?)?;
    let name = status.pointer("/tables/0/name").and_then(Value::as_str);
    name.map(str::to_owned).ok_or_else(|| CliError::message("the daemon names no table yet: is it still starting?"))
}

/// Empties the recorder until the trace is long enough, the time is over or the daemon is gone.
fn record(args: &RecordArgs, table: &str) -> Result<Taken, CliError> {
    let table = || table.to_owned();
    call(args, &TraceCall::Start { table: table() })?;
    let bar = ProgressBar::new(args.minibatches);
    if let Ok(style) = ProgressStyle::with_template("{wide_bar} {pos}/{len} minibatches") {
        bar.set_style(style);
    }
    let end = Instant::now() + Duration::from_secs(args.seconds);
    let mut taken = Taken::default();
    while (taken.minibatches.len() as u64) < args.minibatches && Instant::now() < end {
        match call(args, &TraceCall::Take { table: table() }) {
            Ok(answer) if answer.minibatches.is_empty() => {
                taken.add(answer, args.whole_epochs);
                std::thread::sleep(PAUSE);
            }
            Ok(answer) => taken.add(answer, args.whole_epochs),
            // What was recorded until then is worth keeping.
            Err(error) if !taken.minibatches.is_empty() => {
                bar.finish_and_clear();
                style::warn(&format!("the recording ends early: {error}"));
                taken.minibatches.truncate(usize::try_from(args.minibatches).unwrap_or(usize::MAX));
                return Ok(taken);
            }
            Err(error) => return Err(error),
        }
        bar.set_position(taken.minibatches.len() as u64);
    }
    bar.finish_and_clear();
    call(args, &TraceCall::Stop { table: table() })?;
    taken.minibatches.truncate(usize::try_from(args.minibatches).unwrap_or(usize::MAX));
    Ok(taken)
}

fn trace_of(args: &RecordArgs, table: &str, taken: &Taken) -> Result<Trace, CliError> {
    let reported = u64::from(taken.last.steps_per_epoch) * taken.last.trainers.max(1) as u64;
    let per_epoch = match (args.minibatches_per_epoch, reported) {
        (Some(given), _) => given,
        (None, 0) => {
            style::warn(
                "no trainer reports its progress: the trace is taken as one epoch; say --minibatches-per-epoch",
            );
            taken.minibatches.len() as u64
        }
        (None, reported) => reported,
    };
    let degree = match &args.dataset {
        None => Vec::new(),
        Some(dir) => {
            let dataset = Dataset::open(dir, Part(taken.last.node), Verify::Shape, &|_, _| ())?;
            let found = dataset.table(table).map(|table| dataset.remote_degrees(table)).transpose()?.flatten();
            found.ok_or_else(|| CliError::message(format!("{} holds no graph for table `{table}`", dir.display())))?
        }
    };
    let extra = Map::from_iter([("table".to_owned(), json!(table)), ("node".to_owned(), json!(taken.last.node))]);
    let (universe, minibatches) = numbered(taken.last.universe, &taken.minibatches)?;
    Ok(Trace::new(universe, per_epoch, &minibatches, degree, extra)?)
}

/// The minibatches as a trace holds them, in 32 bits, and the number of ids that there are. The ids of a table that is
/// too large for that are numbered in the order of their first appearance: a replay asks only which are the same.
fn numbered(universe: u64, minibatches: &[Vec<u64>]) -> Result<(u64, Vec<Vec<u32>>), CliError> {
    let beyond =
        |_| CliError::message("more distinct rows were asked for than a trace can number: record fewer minibatches");
    if universe <= TABLE_ROWS_MAX {
        let narrow = |ids: &Vec<u64>| ids.iter().map(|&id| u32::try_from(id)).collect::<Result<_, _>>();
        return Ok((universe, minibatches.iter().map(narrow).collect::<Result<_, _>>().map_err(beyond)?));
    }
    let mut numbers: HashMap<u64, u32> = HashMap::new();
    let mut traced = Vec::with_capacity(minibatches.len());
    for ids in minibatches {
        let mut of_ids = Vec::with_capacity(ids.len());
        for &id in ids {
            let next = u32::try_from(numbers.len()).map_err(beyond)?;
            of_ids.push(*numbers.entry(id).or_insert(next));
        }
        traced.push(of_ids);
    }
    style::warn(&format!(
        "the table has {universe} rows, too many for the ids of a trace: the {} rows asked for are numbered in the order of \
         their first appearance",
        numbers.len()
    ));
    Ok((numbers.len() as u64, traced))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_beyond_32_bits_are_numbered_by_their_appearance() {
        let minibatches = [vec![1 << 40, 7], vec![7, 5_000_000_000, 1 << 40]];
        let (universe, traced) = numbered(1 << 41, &minibatches).unwrap();
        assert_eq!((universe, traced), (3, vec![vec![0, 1], vec![1, 2, 0]]));
        let (universe, traced) = numbered(10, &[vec![7, 9]]).unwrap();
        assert_eq!((universe, traced), (10, vec![vec![7, 9]]));
    }

    fn answer(minibatches: &[(u32, f32, u64)]) -> TraceAnswer {
        let recorded = |&(epoch, progress, id)| Recorded { epoch, progress, ids: vec![id] };
        TraceAnswer { minibatches: minibatches.iter().map(recorded).collect(), ..TraceAnswer::default() }
    }

    #[test]
    fn a_part_of_an_epoch_is_left_out_when_whole_ones_are_asked_for() {
        let seen = [(3, 0.5, 1), (3, 0.9, 2), (4, 0.0, 3), (4, 0.5, 4)];
        let taken = |whole, seen: &[(u32, f32, u64)]| {
            let mut taken = Taken::default();
            seen.iter().for_each(|one| taken.add(answer(&[*one]), whole));
            taken.minibatches.concat()
        };
        assert_eq!(taken(false, &seen), [1, 2, 3, 4]);
        assert_eq!(taken(true, &seen), [3, 4]);
        assert_eq!(taken(true, &seen[2..]), [3, 4], "an epoch seen from its start is whole");
        assert!(taken(true, &seen[..2]).is_empty());
    }
}
