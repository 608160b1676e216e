//! Real `rudderd` processes: built from this tree, started, signalled, waited for within limits, and killed when a test
//! ends early.

use crate::{Cluster, Fault, wait_until};
use rudder_client::ConnectOptions;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

/// Longest wait for a daemon to serve, or to end.
pub const LIFE_LIMIT: Duration = Duration::from_secs(60);

/// The folder with the programs of this tree, built once per test program with the profile of the tests.
fn programs() -> Result<&'static Path, Fault> {
    static PROGRAMS: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    PROGRAMS.get_or_init(|| build().map_err(|fault| fault.to_string())).as_deref().map_err(|fault| fault.clone().into())
}

/// The daemon of this tree.
///
/// # Errors
/// What cargo says.
pub fn program() -> Result<PathBuf, Fault> {
    Ok(programs()?.join("rudderd"))
}

/// The operator's program of this tree.
///
/// # Errors
/// What cargo says.
pub fn operator_program() -> Result<PathBuf, Fault> {
    Ok(programs()?.join("rudder"))
}

fn build() -> Result<PathBuf, Fault> {
    // target/PROFILE/deps/this-test
    let test = std::env::current_exe()?;
    let folder = test.parent().and_then(Path::parent).ok_or("the test program lies in no target folder")?;
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--locked", "--bin", "rudderd", "--bin", "rudder"]);
    if folder.file_name().is_some_and(|name| name == "release") {
        cargo.arg("--release");
    }
    // The same packages as a plain `cargo build`, so that nothing is built twice with other features.
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("no workspace")?;
    let built = cargo.current_dir(root).output()?;
    match built.status.success() && folder.join("rudderd").is_file() {
        true => Ok(folder.to_owned()),
        false => Err(format!("no rudderd in {}: {}", folder.display(), String::from_utf8_lossy(&built.stderr)).into()),
    }
}

/// A command of the daemon that no variable of the environment configures.
///
/// # Errors
/// As [`program`].
pub fn command() -> Result<Command, Fault> {
    let mut command = Command::new(program()?);
    for (key, _) in std::env::vars_os().filter(|(key, _)| key.to_string_lossy().starts_with("RUDDER_")) {
        command.env_remove(key);
    }
    command.stdin(Stdio::null());
    Ok(command)
}

/// A daemon in a process of its own; killed when dropped.
#[derive(Debug)]
pub struct Rudderd {
    child: Child,
    log: PathBuf,
}

impl Rudderd {
    /// Starts node `index` of `cluster` and waits until it serves.
    ///
    /// # Errors
    /// It ended, with its words, or does not serve in time.
    pub fn start(cluster: &mut Cluster, index: usize) -> Result<Self, Fault> {
        let file = write_config(cluster, index)?;
        let log = file.with_extension("log");
        let child = command()?.arg("--config").arg(&file).stderr(File::create(&log)?).spawn()?;
        let mut daemon = Self { child, log };
        let socket = cluster.socket(index);
        let mut ended = None;
        let serves = wait_until(LIFE_LIMIT, || {
            ended = daemon.child.try_wait().ok().flatten();
            ended.is_some() || rudder_client::Client::connect(ConnectOptions::at(&socket)).is_ok()
        });
        match (serves, ended) {
            (true, None) => Ok(daemon),
            (_, ended) => Err(format!("rudderd does not serve ({ended:?}): {}", daemon.log()).into()),
        }
    }

    /// What it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its process number.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn signal(&self, signal: Signal) -> Result<(), Fault> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).ok_or("no process number")?;
        Ok(kill_process(pid, signal)?)
    }

    /// Stops it in its tracks (`SIGSTOP`); it goes on by `SIGCONT`.
    ///
    /// # Errors
    /// A thread of it still runs after [`LIFE_LIMIT`].
    pub fn stop(&self) -> Result<(), Fault> {
        self.signal(Signal::STOP)?;
        // The signal reaches the threads one after the other: one that runs may still answer a peer.
        match wait_until(LIFE_LIMIT, || self.is_stopped().unwrap_or(false)) {
            true => Ok(()),
            false => Err("rudderd does not stop".into()),
        }
    }

    fn is_stopped(&self) -> Result<bool, Fault> {
        for thread in std::fs::read_dir(format!("/proc/{}/task", self.pid()))? {
            let stat = std::fs::read_to_string(thread?.path().join("stat"))?;
            // The state follows the name, which stands in parentheses and may hold any (proc(5)).
            if !stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T')) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// `kill -9`, and waits for the end.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn kill(mut self) -> Result<(), Fault> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It does not end within [`LIFE_LIMIT`].
    pub fn ended(&mut self) -> Result<ExitStatus, Fault> {
        let mut status = None;
        wait_until(LIFE_LIMIT, || {
            status = self.child.try_wait().ok().flatten();
            status.is_some()
        });
        status.ok_or_else(|| format!("rudderd does not end: {}", self.log()).into())
    }

    /// Memory of clients that it has mapped, as lines of its memory map.
    #[must_use]
    pub fn mapped_arenas(&self) -> usize {
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", self.pid())).unwrap_or_default();
        maps.lines().filter(|line| line.contains("memfd:rudder-arena")).count()
    }
}

impl Drop for Rudderd {
    fn drop(&mut self) {
        // It may have ended, which is what both want.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Writes the configuration of node `index` as a file.
///
/// # Errors
/// What the disk says.
pub fn write_config(cluster: &mut Cluster, index: usize) -> Result<PathBuf, Fault> {
    let file = cluster.dir().join(format!("node-{index}.toml"));
    std::fs::write(&file, cluster.config(index).effective_toml()?)?;
    Ok(file)
}

/// Runs the daemon with `arguments`; it must end by itself.
///
/// # Errors
/// It serves, or hangs: killed after [`LIFE_LIMIT`].
pub fn run_to_end(arguments: &[&str]) -> Result<Output, Fault> {
    let mut child = command()?.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut ended = false;
    wait_until(LIFE_LIMIT, || {
        ended = matches!(child.try_wait(), Ok(Some(_)));
        ended
    });
    if !ended {
        child.kill()?;
    }
    let output = child.wait_with_output()?;
    if ended { Ok(output) } else { Err(format!("it did not end: {}", String::from_utf8_lossy(&output.stderr)).into()) }
}
