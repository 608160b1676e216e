//! Owns how the demo's children are started: a role is a JSON file in the run folder, and the child is this same program with
//! `demo --role FILE`. Every child asks the kernel to be killed when the demo dies without a chance to clean up.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Signal, set_parent_process_death_signal};
use serde::{Deserialize, Serialize};

use super::error::DemoError;
use super::link;
use super::trainer::{self, TrainerRole};

/// What a child is to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Role {
    /// Become `rudderd`.
    Daemon(DaemonRole),
    /// Train.
    Trainer(TrainerRole),
}

/// Which `rudderd` to become.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct DaemonRole {
    pub(super) program: PathBuf,
    pub(super) config: PathBuf,
    /// Network namespace to run in.
    pub(super) namespace: Option<PathBuf>,
}

impl Role {
    /// Writes the role to `file` and gives the command that plays it.
    ///
    /// # Errors
    /// The file cannot be written, or this program's own path is not known.
    pub(super) fn command(&self, file: &Path) -> Result<Command, DemoError> {
        let text = serde_json::to_vec(self).map_err(DemoError::prepare("write a role"))?;
        std::fs::write(file, text).map_err(DemoError::file("write", file))?;
        let mut command =
            Command::new(std::env::current_exe().map_err(DemoError::prepare("find this program's file"))?);
        command.args(["demo", "--role"]).arg(file);
        Ok(command)
    }
}

/// Plays the role in `file`. As `rudderd` it does not return.
///
/// # Errors
/// The role cannot be read, or fails.
pub(super) fn play(file: &Path) -> Result<(), DemoError> {
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(DemoError::prepare("tie this process to the demo"))?;
    let text = std::fs::read(file).map_err(DemoError::file("read the role", file))?;
    match serde_json::from_slice(&text).map_err(DemoError::prepare("understand the role (it is the demo's own)"))? {
        Role::Trainer(role) => trainer::play(&role),
        Role::Daemon(role) => {
            if let Some(namespace) = &role.namespace {
                link::enter(namespace)?;
            }
            // The request to be killed with the demo outlives exec.
            let source = Command::new(&role.program).arg("--config").arg(&role.config).exec();
            Err(DemoError::Spawn { name: role.program.display().to_string(), source })
        }
    }
}
