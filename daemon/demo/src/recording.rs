//! Owns the recording of a run's accesses (`--trace`): empties the recorders of all daemons while the trainers train,
//! and writes what they held as traces that `rudder replay` reads. Must never write a trace from which a minibatch is
//! missing.

use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use crate::error::DemoError;
use crate::prepare::TABLE;
use rudder_daemon::recording::{TraceAnswer, TraceCall};
use rudder_dataset::{Dataset, Part, Verify};
use rudder_lab::replay::Trace;
use rudder_stage::Door;

/// Pause between two looks at what was recorded: a daemon holds what many steps ask for.
const PAUSE: Duration = Duration::from_millis(500);
/// Longest wait for the last accesses: a daemon accounts for a fetch after it was answered.
const LAST_MAX: Duration = Duration::from_secs(10);
/// Pause between two looks meanwhile.
const LAST_POLL: Duration = Duration::from_millis(10);

/// What one daemon's trainers asked for.
pub(crate) struct Accesses {
    universe: u64,
    minibatches: Vec<Vec<u32>>,
}

/// A recording of all daemons of a run, under way.
pub(crate) struct Recording {
    /// Takes the fetches of each daemon that there must be, once that is known.
    due: Sender<Vec<u64>>,
    thread: JoinHandle<Result<Vec<Accesses>, DemoError>>,
}

impl Recording {
    /// Begins to record at each of `doors`.
    ///
    /// # Errors
    /// A daemon refuses.
    pub(crate) fn start(doors: Vec<Door>) -> Result<Self, DemoError> {
        for door in &doors {
            call(door, &TraceCall::Start { table: TABLE.to_owned() })?;
        }
        let (due, told) = channel();
        Ok(Self { due, thread: std::thread::spawn(move || record(&doors, &told)) })
    }

    /// Ends the recording when the daemons have recorded `due` fetches each.
    ///
    /// # Errors
    /// A daemon does not answer, or has not recorded them.
    pub(crate) fn finish(self, due: Vec<u64>) -> Result<Vec<Accesses>, DemoError> {
        // The thread listens unless it has failed, and then its error is answered.
        let _ = self.due.send(due);
        let panicked = |_| DemoError::prepare("record accesses")("the recording panicked");
        self.thread.join().map_err(panicked)?
    }
}

fn call(door: &Door, call: &TraceCall) -> Result<TraceAnswer, DemoError> {
    let body = serde_json::to_value(call).map_err(DemoError::prepare("ask for a recording"))?;
    let text = door.demand("/v1/trace", Some(&body))?;
    serde_json::from_str(&text).map_err(|error| door.fault(format!("its answer is not a recording: {error}")).into())
}

/// Empties the recorders until the number of due fetches is known and all of them have come.
fn record(doors: &[Door], told: &Receiver<Vec<u64>>) -> Result<Vec<Accesses>, DemoError> {
    let mut taken: Vec<Accesses> = doors.iter().map(|_| Accesses { universe: 0, minibatches: Vec::new() }).collect();
    let due = loop {
        match told.recv_timeout(PAUSE) {
            Ok(due) => break due,
            Err(RecvTimeoutError::Timeout) => {
                for (door, taken) in doors.iter().zip(&mut taken) {
                    drain(door, taken)?;
                }
            }
            // The run has failed, and says why.
            Err(RecvTimeoutError::Disconnected) => return Ok(taken),
        }
    };
    let deadline = Instant::now() + LAST_MAX;
    for ((door, taken), due) in doors.iter().zip(&mut taken).zip(due) {
        loop {
            drain(door, taken)?;
            let recorded = taken.minibatches.len() as u64;
            if recorded == due {
                break;
            }
            if recorded > due || Instant::now() > deadline {
                return Err(door.fault(format!("it recorded {recorded} fetches, and its trainers made {due}")).into());
            }
            std::thread::sleep(LAST_POLL);
        }
        call(door, &TraceCall::Stop { table: TABLE.to_owned() })?;
    }
    Ok(taken)
}

/// Takes all that waits at `door`.
fn drain(door: &Door, taken: &mut Accesses) -> Result<(), DemoError> {
    loop {
        let answer = call(door, &TraceCall::Take { table: TABLE.to_owned() })?;
        if answer.dropped > 0 {
            return Err(door.fault(format!("{} fetches were not recorded: too much waited", answer.dropped)).into());
        }
        taken.universe = answer.universe;
        if answer.minibatches.is_empty() {
            return Ok(());
        }
        // The ids of a demo fit: its graphs number vertices in 32 bits.
        let narrow = |ids: Vec<u64>| ids.into_iter().map(|id| id as u32).collect();
        taken.minibatches.extend(answer.minibatches.into_iter().map(|minibatch| narrow(minibatch.ids)));
    }
}

/// Writes the accesses of each node, which took `epochs` epochs, into a folder of its own below `dir`: `node0` and so
/// on. `about` goes into each `meta.json`.
///
/// # Errors
/// The dataset cannot be read, or a trace not written.
pub(crate) fn write(
    dir: &Path,
    dataset: &Path,
    accesses: &[Accesses],
    epochs: u32,
    about: &Map<String, Value>,
) -> Result<(), DemoError> {
    for (node, accesses) in (0_u16..).zip(accesses) {
        let unread = || DemoError::prepare("read the dataset back");
        let own = Dataset::open(dataset, Part(node), Verify::Shape, &|_, _| ()).map_err(unread())?;
        let degrees = own.table(TABLE).map(|table| own.remote_degrees(table)).transpose().map_err(unread())?.flatten();
        let per_epoch = (accesses.minibatches.len() as u64 / u64::from(epochs.max(1))).max(1);
        let mut extra = about.clone();
        extra.extend([("table".to_owned(), json!(TABLE)), ("node".to_owned(), json!(node))]);
        let degrees = degrees.unwrap_or_default();
        let failed = || DemoError::prepare("write a trace");
        let trace = Trace::new(accesses.universe, per_epoch, &accesses.minibatches, degrees, extra).map_err(failed())?;
        trace.write(&dir.join(format!("node{node}"))).map_err(failed())?;
    }
    Ok(())
}
