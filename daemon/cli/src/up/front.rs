//! The way of one process to the daemons: finds those that run, starts those that do not, waits until they are ready,
//! and for `--shared` uses them until its own end. It must never wait without a limit for what is to start or to end.

use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rudder_stage::StageError;
use rudder_stage::place::{Lock, Phase, State};
use rustix::event::{PollFd, PollFlags, poll};

use super::plan::Target;
use super::starter::{self, Mode};
use super::{UpArgs, tell};
use crate::{CliError, style};

/// How often a place is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// How often a user looks whether its starter is gone, or its own parent.
const TICK: Duration = Duration::from_millis(100);
/// Looks that find other users before this one is sure that it is not the last.
const OTHERS_SEEN: u32 = 3;

/// How long a process waits.
struct Limit {
    end: Instant,
    /// A signal asked for the end.
    stop: Arc<AtomicBool>,
}

impl Limit {
    /// As long as was said, and only until a signal comes, where `signals` are to be noted instead of ending the
    /// process.
    fn new(args: &UpArgs, signals: bool) -> Result<Self, CliError> {
        let stop = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT, signal_hook::consts::SIGHUP] {
            if signals {
                signal_hook::flag::register(signal, Arc::clone(&stop))?;
            }
        }
        Ok(Self { end: Instant::now() + Duration::from_secs(args.wait_s), stop })
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    fn over(&self) -> bool {
        Instant::now() > self.end
    }
}

/// `rudder up` as a person or a launcher calls it.
pub(super) fn up(args: &UpArgs, target: &Target) -> Result<(), CliError> {
    // What this process starts for others must not stay half-started when it is interrupted.
    let limit = Limit::new(args, args.detach)?;
    if target.spot.local_rank > 0 {
        let state = wait(target, &limit, &mut Patience::ForStarter)?;
        return tell(args, target, &state, true);
    }
    loop {
        if let Some(taken) = target.place.take()? {
            if args.detach {
                drop(taken);
                let (state, already) = start_detached(args, target, Mode::Detached, &limit)?;
                return tell(args, target, &state, already);
            }
            let ready = |state: &State| {
                tell(args, target, state, false)?;
                style::note("ready; SIGINT (Ctrl-C) or SIGTERM ends it");
                Ok(())
            };
            return starter::serve(args, target, Mode::Foreground, &taken, &ready);
        }
        match wait(target, &limit, &mut Patience::WhileTaken) {
            Ok(state) => {
                let ends = if state.shared { ", and it ends with the processes that share it" } else { "" };
                style::note(&format!("it runs already; its settings stay as they are{ends}"));
                return tell(args, target, &state, true);
            }
            // It ended while it was waited for: then it can be started here.
            Err(_) if !target.place.is_taken() && !limit.over() && !limit.stopped() => {}
            Err(error) => return Err(error),
        }
    }
}

/// `rudder up --shared`: uses the daemons, which live as long as anybody does.
pub(super) fn share(args: &UpArgs, target: &Target) -> Result<(), CliError> {
    let parent = rustix::process::getppid();
    let limit = Limit::new(args, true)?;
    let using = use_it(target, &limit)?;
    let (state, already) = match start_detached(args, target, Mode::Shared, &limit) {
        Ok(started) => started,
        Err(error) => {
            drop(using);
            tidy(target);
            return Err(error);
        }
    };
    tell(args, target, &state, already)?;
    let mut open = true;
    while open && !limit.stopped() && rustix::process::getppid() == parent {
        if !target.place.is_taken() {
            drop(using);
            let reason = failed(target);
            tidy(target);
            return Err(reason.unwrap_or_else(|| CliError::message("the daemons were stopped from outside")));
        }
        open = is_input_open();
    }
    drop(using);
    wait_for_end(target)
}

/// Whether standard input is still open, after a moment of waiting. What is written to it is read and forgotten.
fn is_input_open() -> bool {
    let input = std::io::stdin();
    let mut wanted = [PollFd::from_borrowed_fd(input.as_fd(), PollFlags::IN)];
    let tick = rustix::event::Timespec { tv_sec: 0, tv_nsec: TICK.subsec_nanos().into() };
    match poll(&mut wanted, Some(&tick)) {
        Ok(0) | Err(_) => true,
        Ok(_) => !matches!(rustix::io::read(input.as_fd(), &mut [0; 256]), Ok(0)),
    }
}

/// Notes that this process uses the place, once those who are leaving it have gone.
fn use_it(target: &Target, limit: &Limit) -> Result<Lock, CliError> {
    loop {
        if let Some(using) = target.place.use_it()? {
            return Ok(using);
        }
        if limit.over() || limit.stopped() {
            return Err(CliError::message("the daemons of this dataset are being stopped, and do not end"));
        }
    }
}

/// Waits until the daemons have ended, if this process was their last user.
fn wait_for_end(target: &Target) -> Result<(), CliError> {
    let end = Instant::now() + starter::end_limit(target) + Duration::from_secs(5);
    let mut others = 0;
    while target.place.is_taken() && others < OTHERS_SEEN {
        if Instant::now() > end {
            return Err(CliError::message("the daemons do not end; `rudder down` ends them"));
        }
        let ready = target.place.ready().is_some();
        // In use although this process has left: by others, or closed by the starter, which then says that it ends.
        others = if ready && target.place.close_to_users()?.is_none() { others + 1 } else { 0 };
        std::thread::sleep(LOOK);
    }
    let reason = failed(target);
    if !target.place.is_taken() {
        tidy(target);
    }
    reason.map_or(Ok(()), Err)
}

/// Why the daemons of a place ended that should not have.
fn failed(target: &Target) -> Option<CliError> {
    let state = target.place.state().filter(|state| state.phase == Phase::Failed && !target.place.is_taken())?;
    Some(CliError::message(state.reason))
}

/// Removes what is left of a place that nobody keeps or uses. What cannot be removed, the next start or `rudder down`
/// removes.
fn tidy(target: &Target) {
    if let Ok(Some(_taken)) = target.place.take()
        && let Ok(Some(_closed)) = target.place.close_to_users()
    {
        let _ = target.place.remove();
    }
}

/// Finds the daemons, or has a process of its own start them; answers whether they were there.
fn start_detached(args: &UpArgs, target: &Target, mode: Mode, limit: &Limit) -> Result<(State, bool), CliError> {
    if target.place.is_taken() {
        match wait(target, limit, &mut Patience::WhileTaken) {
            Ok(state) => return Ok((state, true)),
            Err(error) if target.place.is_taken() => return Err(error),
            // It ended while it was waited for.
            Err(_) => {}
        }
    }
    target.place.prepare()?;
    let log = target.place.log();
    let create = || std::fs::File::create(&log).map_err(StageError::file("create", &log));
    let mut command = Command::new(std::env::current_exe()?);
    command.args(words(args, target, mode)).stdin(Stdio::null()).stdout(create()?).stderr(create()?);
    let child =
        command.spawn().map_err(|error| CliError::context("cannot start the process that keeps the daemons", error))?;
    let mut patience = Patience::ForChild(child, log);
    let state = wait(target, limit, &mut patience);
    if let (Err(_), Patience::ForChild(child, _)) = (&state, &mut patience) {
        give_up(target, child);
    }
    Ok((state?, false))
}

/// Ends a starter that was waited for in vain, and what it has started.
fn give_up(target: &Target, child: &mut Child) {
    let end = Instant::now() + starter::end_limit(target);
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
        // Fails only if it has ended by itself.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
    while matches!(child.try_wait(), Ok(None)) && Instant::now() < end {
        std::thread::sleep(LOOK);
    }
    let _ = child.kill();
    let _ = child.wait();
    tidy(target);
}

/// The process that starts the daemons for others; quiet where another has begun to.
pub(super) fn start_for_others(args: &UpArgs, target: &Target, mode: Mode) -> Result<(), CliError> {
    match target.place.take()? {
        Some(taken) => starter::serve(args, target, mode, &taken, &|_| Ok(())),
        None => Ok(()),
    }
}

/// The same command line for the process that starts the daemons.
fn words(args: &UpArgs, target: &Target, mode: Mode) -> Vec<std::ffi::OsString> {
    let mut words: Vec<std::ffi::OsString> = vec!["up".into(), (&target.dataset).into(), "--starter".into()];
    words.push(if mode == Mode::Shared { "shared" } else { "detached" }.into());
    let texts = [
        ("--capacity", args.capacity.clone()),
        ("--policy", args.policy.clone()),
        ("--node", args.node.map(|node| node.to_string())),
        ("--nodes", args.nodes.clone()),
        ("--world", args.world.map(|world| world.to_string())),
        ("--rendezvous", args.rendezvous.clone()),
        ("--service", args.service.clone()),
        ("--port", Some(args.port.to_string())),
        ("--wait-s", Some(args.wait_s.to_string())),
    ];
    let mut push = |flag: &str, value: &std::ffi::OsStr| {
        let mut word = std::ffi::OsString::from(format!("{flag}="));
        word.push(value);
        words.push(word);
    };
    texts
        .iter()
        .filter_map(|(flag, text)| Some((flag, text.as_ref()?)))
        .for_each(|(flag, text)| push(flag, text.as_ref()));
    args.set.iter().for_each(|setting| push("--set", setting.as_ref()));
    let paths = [("--config", &args.config), ("--certs", &args.certs)];
    for (flag, path) in paths.iter().filter_map(|(flag, path)| Some((flag, path.as_ref()?))) {
        push(flag, path.as_os_str());
    }
    words
}

/// What is waited for.
enum Patience {
    /// Whoever is to start the daemons may not have begun.
    ForStarter,
    /// Somebody has begun; its end is the end of the waiting.
    WhileTaken,
    /// This process has begun it: its end, and its log.
    ForChild(Child, std::path::PathBuf),
}

/// Waits until the daemons are ready.
fn wait(target: &Target, limit: &Limit, patience: &mut Patience) -> Result<State, CliError> {
    loop {
        let taken = target.place.is_taken();
        if let Some(state) = target.place.ready() {
            return same(target, state);
        }
        match patience {
            Patience::ForStarter => {}
            Patience::WhileTaken if taken => {}
            Patience::WhileTaken => return Err(CliError::message("the daemons have ended")),
            Patience::ForChild(child, log) => {
                let ended = child.try_wait()?;
                // One that found another at work ends with success; that other is then waited for.
                if ended.is_some_and(|status| !status.success()) || ended.is_some() && !target.place.is_taken() {
                    let text = std::fs::read_to_string(log).unwrap_or_default();
                    let said = text.trim().trim_start_matches("rudder: ").to_owned();
                    let said = if said.is_empty() { "the daemons could not be started".to_owned() } else { said };
                    return Err(failed(target).unwrap_or_else(|| CliError::message(said)));
                }
            }
        }
        if limit.stopped() {
            return Err(CliError::message("interrupted before the daemons were ready"));
        }
        if limit.over() {
            let phase = target.place.state().map_or("nobody has started them", |state| match state.phase {
                Phase::Starting => "they are being started",
                _ => "they are being stopped",
            });
            return Err(CliError::message(format!("the daemons of {} are not ready: {phase}", target.dataset)));
        }
        std::thread::sleep(LOOK);
    }
}

/// Refuses daemons that serve an older content of the dataset.
fn same(target: &Target, state: State) -> Result<State, CliError> {
    if state.fingerprint == target.fingerprint {
        return Ok(state);
    }
    Err(CliError::message(format!(
        "{} was changed since its daemons were started: end them by `rudder down {0}`, and start them again",
        target.dataset
    )))
}
