//! Owns everything a run leaves behind on the machine: child processes, network namespaces, the run folder. Must never
//! let any of it outlive the demo: it is taken down on success, on errors, on panics and on signals, by the same code.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::error::{StageError, log_tail};
use crate::say::{Say, Saying};
use crate::undo::Undo;

/// Exit status after a signal: 128 + 2, as shells report an interrupted program.
const EXIT_INTERRUPTED: i32 = 130;
/// How often a child that was asked to end is looked at.
const POLL: Duration = Duration::from_millis(5);

/// How long the end of a child is waited for when something it was asked failed.
const CAUSE_MAX: Duration = Duration::from_millis(500);

/// A running child and where its log is.
struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

struct Props {
    say: Say,
    processes: Vec<Process>,
    links: Vec<Undo>,
    folder: Option<PathBuf>,
    /// Nothing may be added any more.
    closed: bool,
}

impl Props {
    /// Takes down everything. What cannot be taken down is said, for nobody else will know.
    fn clear(&mut self, keep_folder: bool) {
        self.closed = true;
        for process in &mut self.processes {
            // Fails only if it has ended by itself.
            let _ = process.child.kill();
        }
        for mut process in self.processes.drain(..) {
            let _ = process.child.wait();
        }
        for undo in self.links.drain(..).rev() {
            undo.run(self.say);
        }
        if let Some(folder) = self.folder.take() {
            if keep_folder {
                (self.say)(Saying::Note, &format!("kept the run folder: {}", folder.display()));
            } else if let Err(error) = std::fs::remove_dir_all(&folder) {
                (self.say)(Saying::Warning, &format!("cannot remove the run folder {}: {error}", folder.display()));
            }
        }
    }
}

/// The props of one run. Dropping it clears them.
pub struct Stage {
    props: Arc<Mutex<Props>>,
    keep_folder: bool,
    /// Whether a signal asked for the end, on a stage that ends in order.
    told: Arc<AtomicBool>,
}

impl Stage {
    /// Makes the run folder and begins to listen for SIGINT, SIGTERM and SIGHUP, which clear the stage and end the
    /// process.
    ///
    /// # Errors
    /// The folder cannot be made, or signals cannot be listened for.
    pub fn set(keep_folder: bool, say: Say) -> Result<(Self, PathBuf), StageError> {
        let temp = std::env::temp_dir();
        let folder = tempfile::Builder::new()
            .prefix("rudder-demo-")
            .tempdir()
            .map_err(StageError::file("make a run folder in", &temp))?
            .keep();
        Ok((Self::new(folder.clone(), keep_folder, Patience::None, say)?, folder))
    }

    /// A stage whose folder is there already, and goes with it. The first signal is noted only, so that the caller can
    /// end the daemons in order ([`Stage::told`]); the second clears the stage and ends the process.
    ///
    /// # Errors
    /// Signals cannot be listened for.
    pub fn in_folder(folder: &Path, say: Say) -> Result<Self, StageError> {
        Self::new(folder.to_owned(), false, Patience::OneSignal, say)
    }

    fn new(folder: PathBuf, keep_folder: bool, patience: Patience, say: Say) -> Result<Self, StageError> {
        let props = Props { say, processes: Vec::new(), links: Vec::new(), folder: Some(folder), closed: false };
        let stage = Self { props: Arc::new(Mutex::new(props)), keep_folder, told: Arc::default() };
        clear_on_signals(Arc::clone(&stage.props), Arc::clone(&stage.told), patience, keep_folder)
            .map_err(|source| StageError::Prepare { what: "listen for signals", source: source.into() })?;
        Ok(stage)
    }

    /// Whether a signal asked for the end.
    pub fn told(&self) -> bool {
        self.told.load(Ordering::Acquire)
    }

    /// Leaves the folder when the stage is cleared, with the logs in it.
    pub fn keep_folder(&mut self) {
        self.keep_folder = true;
    }

    /// How this stage speaks to the person at the terminal.
    pub(crate) fn say(&self) -> Say {
        self.props().say
    }

    fn props(&self) -> MutexGuard<'_, Props> {
        // A panic elsewhere is no reason to leave processes behind.
        self.props.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts `command` with its output going to `log`. The lock is held meanwhile: a signal comes before or after.
    ///
    /// # Errors
    /// The program cannot be started, or the stage is being cleared.
    pub fn spawn(&self, name: &str, command: &mut Command, log: &Path) -> Result<(), StageError> {
        let mut props = self.props();
        if props.closed {
            return Err(StageError::Interrupted);
        }
        let create = || File::create(log).map_err(StageError::file("create", log));
        // Its own process group: Ctrl-C reaches the demo alone, which then ends its children in order.
        let child = std::os::unix::process::CommandExt::process_group(command, 0)
            .stdin(Stdio::null())
            .stdout(create()?)
            .stderr(File::options().append(true).open(log).map_err(StageError::file("open", log))?)
            .spawn()
            .map_err(|source| StageError::Spawn { name: name.to_owned(), source })?;
        props.processes.push(Process { name: name.to_owned(), child, log: log.to_owned() });
        Ok(())
    }

    /// Runs `make` and remembers how to undo it, even if it fails half-way.
    ///
    /// # Errors
    /// Those of `make`, or the stage is being cleared.
    pub(crate) fn link(&self, undo: Undo, make: impl FnOnce() -> Result<(), StageError>) -> Result<(), StageError> {
        let mut props = self.props();
        if props.closed {
            return Err(StageError::Interrupted);
        }
        props.links.push(undo);
        make()
    }

    /// Whether no child has failed, and nobody asked for the end.
    ///
    /// # Errors
    /// [`StageError::Child`] for the first that ended with something else than success, with the end of its log.
    pub fn check(&self) -> Result<(), StageError> {
        if self.told() {
            return Err(StageError::Interrupted);
        }
        self.check_children(|status| status.success())
    }

    /// Whether all children still run: the end of one is a failure, whatever its status.
    ///
    /// # Errors
    /// [`StageError::Child`] for the first that ended, with the end of its log.
    pub fn check_running(&self) -> Result<(), StageError> {
        self.check_children(|_| false)
    }

    fn check_children(&self, may_end: impl Fn(ExitStatus) -> bool) -> Result<(), StageError> {
        let mut props = self.props();
        if props.closed {
            return Err(StageError::Interrupted);
        }
        for process in &mut props.processes {
            if let Ok(Some(status)) = process.child.try_wait()
                && !may_end(status)
            {
                return Err(ended(process, status));
            }
        }
        Ok(())
    }

    /// The process number of the child called `name`.
    pub fn pid(&self, name: &str) -> Option<u32> {
        self.props().processes.iter().find(|process| process.name == name).map(|process| process.child.id())
    }

    /// The child that died, if one does within half a second: a child that died is noticed by its broken connections
    /// before the kernel has reported its end.
    pub fn death(&self) -> Option<StageError> {
        let end = Instant::now() + CAUSE_MAX;
        loop {
            match self.check() {
                Err(cause) => return Some(cause),
                Ok(()) if Instant::now() > end => return None,
                Ok(()) => std::thread::sleep(POLL),
            }
        }
    }

    /// The end of the log of the child called `name`.
    pub fn log_tail(&self, name: &str) -> String {
        let props = self.props();
        props.processes.iter().find(|process| process.name == name).map_or_else(String::new, |p| log_tail(&p.log))
    }

    /// Waits for the children whose names begin with `prefix`, after asking them to end (SIGTERM) where `ask` says so.
    /// What still runs after `limit` is killed. They stay on the stage meanwhile, so that a signal still finds them.
    ///
    /// # Errors
    /// A child had to be killed, or ended with something else than success.
    pub fn end(&self, prefix: &str, ask: bool, limit: Duration) -> Result<(), StageError> {
        let deadline = Instant::now() + limit;
        if ask {
            self.props().processes.iter().filter(|process| process.name.starts_with(prefix)).for_each(terminate);
        }
        let mut outcome = Ok(());
        loop {
            let mut props = self.props();
            let late = Instant::now() > deadline;
            let mut remaining = 0;
            props.processes.retain_mut(|process| {
                if !process.name.starts_with(prefix) {
                    return true;
                }
                let Some(ending) = try_end(process, late) else {
                    remaining += 1;
                    return true;
                };
                if outcome.is_ok() {
                    outcome = ending;
                }
                false
            });
            drop(props);
            if remaining == 0 {
                return outcome;
            }
            std::thread::sleep(POLL);
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let keep_folder = self.keep_folder;
        self.props().clear(keep_folder);
    }
}

fn ended(process: &Process, status: ExitStatus) -> StageError {
    StageError::Child { name: process.name.clone(), status: status.to_string(), log: log_tail(&process.log) }
}

fn terminate(process: &Process) {
    if let Some(pid) = i32::try_from(process.child.id()).ok().and_then(Pid::from_raw) {
        // Fails only if it has ended by itself; its status tells.
        let _ = kill_process(pid, Signal::TERM);
    }
}

/// How `process` ended, if it has; `kill` makes it.
fn try_end(process: &mut Process, kill: bool) -> Option<Result<(), StageError>> {
    match process.child.try_wait() {
        Ok(Some(status)) if status.success() => Some(Ok(())),
        Ok(Some(status)) => Some(Err(ended(process, status))),
        Ok(None) if !kill => None,
        Ok(None) | Err(_) => {
            let _ = process.child.kill();
            let _ = process.child.wait();
            let status = "SIGKILL, because it did not end when it should".to_owned();
            Some(Err(StageError::Child { name: process.name.clone(), status, log: log_tail(&process.log) }))
        }
    }
}

/// What signals do before they clear the stage.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Patience {
    /// Nothing: the first clears it.
    None,
    /// The first is noted, for the caller to act on.
    OneSignal,
}

/// A thread that waits for a signal, clears the stage and ends the process.
fn clear_on_signals(
    props: Arc<Mutex<Props>>,
    told: Arc<AtomicBool>,
    patience: Patience,
    keep_folder: bool,
) -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let guard = runtime.enter();
    let (mut interrupt, mut terminate, mut hangup) =
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?);
    drop(guard);
    std::thread::Builder::new().name("stage-signals".to_owned()).spawn(move || {
        let mut next = || {
            runtime.block_on(async {
                tokio::select! {
                    _ = interrupt.recv() => "SIGINT",
                    _ = terminate.recv() => "SIGTERM",
                    _ = hangup.recv() => "SIGHUP",
                }
            })
        };
        let mut name = next();
        if patience == Patience::OneSignal {
            told.store(true, Ordering::Release);
            name = next();
        }
        let mut props = props.lock().unwrap_or_else(PoisonError::into_inner);
        props.clear(keep_folder);
        (props.say)(Saying::Error, &format!("the run was ended by {name}; its processes are stopped"));
        std::process::exit(EXIT_INTERRUPTED);
    })?;
    Ok(())
}
