//! Owns how children are started: a role is a JSON file in the run folder, and the child is this same program with
//! `demo --role FILE`. Every child asks the kernel to be killed when its starter dies without a chance to clean up.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Signal, set_parent_process_death_signal};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::StageError;
use crate::link;

/// What a child is to do: become `rudderd`, or some work `W`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role<W> {
    /// Become `rudderd`.
    Daemon(DaemonRole),
    /// Work.
    Worker(W),
}

/// Which `rudderd` to become.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DaemonRole {
    /// The program.
    pub program: PathBuf,
    /// Its configuration file.
    pub config: PathBuf,
    /// Network namespace to run in.
    pub namespace: Option<PathBuf>,
}

impl<W: Serialize> Role<W> {
    /// Writes the role to `file` and gives the command that plays it.
    ///
    /// # Errors
    /// The file cannot be written, or this program's own path is not known.
    pub fn command(&self, file: &Path) -> Result<Command, StageError> {
        let text = serde_json::to_vec(self).map_err(StageError::prepare("write a role"))?;
        std::fs::write(file, text).map_err(StageError::file("write", file))?;
        let mut command =
            Command::new(std::env::current_exe().map_err(StageError::prepare("find this program's file"))?);
        command.args(["demo", "--role"]).arg(file);
        Ok(command)
    }
}

/// Reads the role in `file` and ties this process to its starter. As `rudderd` it does not return; else it answers the
/// work.
///
/// # Errors
/// The role cannot be read, or `rudderd` cannot be started.
pub fn assume_role<W: DeserializeOwned>(file: &Path) -> Result<W, StageError> {
    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(StageError::prepare("tie this process to its starter"))?;
    let text = std::fs::read(file).map_err(StageError::file("read the role", file))?;
    match serde_json::from_slice(&text).map_err(StageError::prepare("understand the role (it is the stage's own)"))? {
        Role::Worker(work) => Ok(work),
        Role::Daemon(role) => {
            if let Some(namespace) = &role.namespace {
                link::enter(namespace)?;
            }
            // The request to be killed with the starter outlives exec.
            let source = Command::new(&role.program).arg("--config").arg(&role.config).exec();
            Err(StageError::Spawn { name: role.program.display().to_string(), source })
        }
    }
}
