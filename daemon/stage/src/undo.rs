//! Owns how network namespaces and interfaces are taken down, and the commands for that. Must never take down what it
//! was not told to.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::StageError;
use crate::say::{Say, Saying};

/// How to take down one thing that was made.
pub(crate) enum Undo {
    /// A named namespace, and with it the pair of interfaces whose one end lies in it.
    Namespace(String),
    /// An interface.
    Interface(String),
}

impl Undo {
    /// Takes it down; says so where that fails although it is there.
    pub(crate) fn run(self, say: Say) {
        let (exists, args) = match &self {
            Self::Namespace(name) => (namespace_path(name).exists(), ["netns", "del", name]),
            Self::Interface(name) => (Path::new("/sys/class/net").join(name).exists(), ["link", "del", name]),
        };
        if exists && let Err(error) = ip(&args) {
            say(Saying::Warning, &error.to_string());
        }
    }
}

/// Runs `ip`.
pub(crate) fn ip(args: &[&str]) -> Result<(), StageError> {
    command("ip", args.iter().copied())
}

/// Runs a program, which must succeed.
pub(crate) fn command<'a>(program: &str, args: impl Iterator<Item = &'a str>) -> Result<(), StageError> {
    let args: Vec<&str> = args.collect();
    let fail = |reason: String| StageError::Link { command: format!("{program} {}", args.join(" ")), reason };
    let output = Command::new(program).args(&args).output().map_err(|error| fail(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(fail(if said.is_empty() { output.status.to_string() } else { said }))
}

/// The file that names a namespace.
pub(crate) fn namespace_path(name: &str) -> PathBuf {
    Path::new("/run/netns").join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_command_says_what_was_tried_and_what_to_do() {
        let error = ip(&["link", "del", "rd-no-such"]).unwrap_err().to_string();
        assert!(error.contains("ip link del rd-no-such") && error.contains("leave --link out"), "{error}");
    }
}
