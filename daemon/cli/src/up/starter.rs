//! The process that starts the daemons of a place, watches them, and ends them: `rudder up` itself, or, for `--detach`
//! and `--shared`, the same program in a session of its own. Owns their life from the first to the last. It must never
//! leave one behind, however it ends.

use std::time::Duration;

use rudder_stage::place::{Lock, NodeState, Phase, Place, State};
use rudder_stage::{Cluster, Plan, Stage, StageError, certify, find_daemon};

use super::UpArgs;
use super::meet::{Meeting, meet};
use super::plan::{CERTIFICATES, Target};
use crate::{CliError, style};

/// How often the daemons are looked at.
const WATCH: Duration = Duration::from_millis(50);
/// What a daemon gets beyond its drain before it is killed.
const GRACE: Duration = Duration::from_secs(5);

/// Who the daemons are kept for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// This process, at a terminal or under a supervisor.
    Foreground,
    /// Whoever comes, until `rudder down`.
    Detached,
    /// The processes that use the place; the end of the last is theirs.
    Shared,
}

/// Longest time from the request to end until all daemons have ended.
pub(super) fn end_limit(target: &Target) -> Duration {
    Duration::from_millis(target.drain_ms()) + GRACE
}

/// Starts the daemons, tells `ready` when all serve, and ends them when it is time: by a signal, or with the last user.
///
/// # Errors
/// What kept a daemon from its start, or ended it.
pub(super) fn serve(
    args: &UpArgs,
    target: &Target,
    mode: Mode,
    _taken: &Lock,
    ready: &dyn Fn(&State) -> Result<(), CliError>,
) -> Result<(), CliError> {
    // A daemon that runs without a terminal belongs to no session that could end.
    if mode != Mode::Foreground {
        rustix::process::setsid().map_err(|error| CliError::context("cannot begin a session", error))?;
    }
    let place = &target.place;
    place.prepare()?;
    place.clear()?;
    let mut stage = Stage::in_folder(&place.folder(), style::say)?;
    let mut state = State {
        dataset: target.dataset.clone(),
        fingerprint: target.fingerprint.clone(),
        pid: std::process::id(),
        shared: mode == Mode::Shared,
        phase: Phase::Starting,
        reason: String::new(),
        nodes: Vec::new(),
    };
    place.note(&state)?;
    let outcome = live(args, target, mode, &stage, &mut state, ready);
    if let (Err(error), true) = (&outcome, mode != Mode::Foreground) {
        // Who asks later finds why, and the logs; nothing of it is secret.
        let _ = std::fs::remove_dir_all(place.folder().join(CERTIFICATES));
        (state.phase, state.reason) = (Phase::Failed, error.to_string());
        place.note(&state)?;
        stage.keep_folder();
    }
    outcome
}

/// From the start of the daemons to their end.
fn live(
    args: &UpArgs,
    target: &Target,
    mode: Mode,
    stage: &Stage,
    state: &mut State,
    ready: &dyn Fn(&State) -> Result<(), CliError>,
) -> Result<(), CliError> {
    let place = &target.place;
    let plans = plans(args, target, stage)?;
    let logs: Vec<_> = plans.iter().map(Plan::log).collect();
    let cluster = Cluster::launch(stage, &find_daemon()?, plans, Duration::from_secs(args.wait_s))?;
    state.phase = Phase::Ready;
    let nodes = cluster.daemons.iter().zip(logs).map(|(daemon, log)| NodeState {
        node: daemon.node,
        socket: daemon.socket.clone(),
        admin: daemon.door.admin.to_string(),
        pid: stage.pid(&daemon.door.name).unwrap_or_default(),
        log,
    });
    state.nodes = nodes.collect();
    place.note(state)?;
    let told = ready(state).and_then(|()| watch(stage, place, mode).map_err(CliError::from));
    state.phase = Phase::Ending;
    place.note(state)?;
    let stopped = cluster.stop_within(end_limit(target));
    // Until here, nobody could come to use what is about to end.
    drop(told?);
    Ok(stopped?)
}

/// The daemons to start; where the nodes of a job must meet first, once they have met.
fn plans(args: &UpArgs, target: &Target, stage: &Stage) -> Result<Vec<Plan>, CliError> {
    let mut met = None;
    if let Some((at, peers)) = target.meeting(args) {
        let node = target.nodes_here().first().copied().unwrap_or_default();
        let meeting = Meeting { node, nodes: target.parts, at, peers: &peers, fingerprint: &target.fingerprint };
        met = Some(meet(&meeting, Duration::from_secs(args.wait_s), &|| stage.told())?);
    }
    if target.spot.member.is_none() && target.parts > 1 {
        certify(&target.place.folder().join(CERTIFICATES), target.parts)?;
    }
    target.plans(args, met)
}

/// Waits until it is time to end. Answers the lock that keeps new users out, where the last has gone.
fn watch(stage: &Stage, place: &Place, mode: Mode) -> Result<Option<Lock>, StageError> {
    loop {
        if stage.told() {
            return Ok(None);
        }
        stage.check_running()?;
        if mode == Mode::Shared
            && let Some(closed) = place.close_to_users()?
        {
            return Ok(Some(closed));
        }
        std::thread::sleep(WATCH);
    }
}
