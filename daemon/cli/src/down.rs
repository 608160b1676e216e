//! `rudder down`: ends what `rudder up` started. Owns the order of that: the starter is asked, and ends its daemons;
//! what does not end is killed, and what a dead starter left is removed. It must never signal a process that does not
//! hold the lock of its place.

use std::time::{Duration, Instant};

use rudder_stage::place::{Phase, Place, State};
use rustix::process::{Pid, Signal, kill_process};

use super::{CliError, style};

/// Arguments of `rudder down`.
#[derive(Debug, clap::Args)]
pub struct DownArgs {
    /// The dataset, as it was given to `rudder up`; may be left out where only one runs
    #[arg(value_name = "DATASET", conflicts_with = "all")]
    dataset: Option<String>,
    /// End the daemons of all datasets that this user has started
    #[arg(long)]
    all: bool,
    /// Seconds until what has not ended is killed
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(0..=86_400))]
    wait_s: u64,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// How often a place is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// How long the end of a killed starter is waited for.
const KILLED: Duration = Duration::from_secs(5);

/// How daemons ended.
#[derive(Clone, Copy, serde::Serialize)]
#[serde(rename_all = "lowercase")]
enum End {
    /// They drained.
    Drained,
    /// They did not end in time.
    Killed,
    /// Their starter was gone already.
    Cleared,
}

/// Ends the daemons.
///
/// # Errors
/// Nothing runs that was named, or something cannot be ended.
pub fn run(args: &DownArgs) -> Result<(), CliError> {
    let places = chosen(args, &Place::all())?;
    let mut ended = Vec::new();
    for (place, state) in places {
        let how = end(&place, &state, Duration::from_secs(args.wait_s))?;
        if !args.json {
            let words = match how {
                End::Drained => "stopped",
                End::Killed => "killed, for it did not end in time",
                End::Cleared => "had ended already; what it left is removed",
            };
            style::print(&format!("{}: {words}\n", state.dataset))?;
        }
        ended.push(serde_json::json!({"dataset": state.dataset, "pid": state.pid, "end": how}));
    }
    if args.json { style::print_json_line(&serde_json::json!({ "ended": ended })) } else { Ok(()) }
}

/// The places that were meant.
fn chosen(args: &DownArgs, places: &[Place]) -> Result<Vec<(Place, State)>, CliError> {
    let found: Vec<(Place, State)> = places.iter().filter_map(|place| Some((place.clone(), place.state()?))).collect();
    if args.all {
        return Ok(found);
    }
    let listed = || {
        let mut names: Vec<String> = found.iter().map(|(_, state)| state.dataset.clone()).collect();
        names.dedup();
        if names.is_empty() { "nothing runs".to_owned() } else { format!("there is {}", names.join(", ")) }
    };
    let Some(wanted) = &args.dataset else {
        return match found.len() {
            1 => Ok(found),
            0 => Err(CliError::message("nothing runs that `rudder up` has started")),
            _ => Err(CliError::message(format!("name a dataset, or pass --all: {}", listed()))),
        };
    };
    let whole = std::fs::canonicalize(wanted).map(|path| path.display().to_string()).unwrap_or_default();
    let is_it = |state: &State| {
        let same_kind = state.dataset.split_once(':').zip(wanted.split_once(':')).is_some_and(|(ours, theirs)| {
            ours.0 == theirs.0 && std::fs::canonicalize(theirs.1).is_ok_and(|path| path.as_os_str() == ours.1)
        });
        state.dataset == *wanted || state.dataset == whole || same_kind
    };
    let meant: Vec<(Place, State)> = found.iter().filter(|(_, state)| is_it(state)).cloned().collect();
    match meant.is_empty() {
        true => {
            Err(CliError::message(format!("no daemons of {wanted} run that `rudder up` has started; {}", listed())))
        }
        false => Ok(meant),
    }
}

/// Ends what runs in a place, and removes the place.
fn end(place: &Place, state: &State, limit: Duration) -> Result<End, CliError> {
    let how = if place.is_taken() { stop(place, state, limit)? } else { End::Cleared };
    if let Some(_taken) = place.take()? {
        place.remove()?;
        // The file goes with the lock, where nobody uses the place any more.
        drop(place.close_to_users()?);
    }
    match (how, place.state()) {
        // Whoever ended it in disorder says why to those who started it.
        (End::Drained, Some(State { phase: Phase::Failed, reason, .. })) => Err(CliError::message(reason)),
        _ => Ok(how),
    }
}

/// Asks the starter, and kills it where it does not end: its daemons end with it.
fn stop(place: &Place, state: &State, limit: Duration) -> Result<End, CliError> {
    let pid = i32::try_from(state.pid).ok().and_then(Pid::from_raw);
    let pid =
        pid.ok_or_else(|| CliError::message(format!("the state in {} names no process", place.folder().display())))?;
    // Fails only if it has just ended.
    let _ = kill_process(pid, Signal::TERM);
    if waited(place, limit) {
        return Ok(End::Drained);
    }
    let _ = kill_process(pid, Signal::KILL);
    if waited(place, KILLED) {
        return Ok(End::Killed);
    }
    Err(CliError::message(format!("process {}, which keeps the daemons of {}, does not end", state.pid, state.dataset)))
}

/// Whether nobody holds the place any more, after at most `limit`.
fn waited(place: &Place, limit: Duration) -> bool {
    let end = Instant::now() + limit;
    while place.is_taken() {
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(LOOK);
    }
    true
}
