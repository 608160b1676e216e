//! `rudder up` in tests: a folder with a dataset and a place of its own for what is started, the process with the line
//! that it prints, and the questions whether anything of it is left. A failure of this scaffolding panics.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc)] // the helpers of tests are tests

use crate::process::{LIFE_LIMIT, operator_program};
use crate::{wait_until, write_dataset};
use rudder_client::{Client, ConnectOptions};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

/// Variables of launchers begin so; no test gets those of its own surroundings.
const LAUNCHERS: [&str; 5] = ["RUDDER_", "SLURM", "OMPI_", "PMI", "KUBERNETES"];

/// A dataset, and a folder for what `rudder up` keeps, both of one test.
#[derive(Debug)]
pub struct Site {
    folder: tempfile::TempDir,
}

/// `rudder up` as it runs; killed when dropped, and its daemons with it.
#[derive(Debug)]
pub struct Running {
    /// The process.
    pub child: Child,
    out: BufReader<ChildStdout>,
}

impl Running {
    /// The line of JSON that it prints when the daemons are ready.
    pub fn ready(&mut self) -> Value {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line}{}", self.words()))
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        send(u64::from(self.child.id()), signal);
    }

    /// What it says on standard error, to its end.
    pub fn words(&mut self) -> String {
        let mut text = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        text
    }

    /// Its exit status.
    pub fn status(&mut self) -> Option<i32> {
        assert!(wait_until(LIFE_LIMIT, || self.child.try_wait().unwrap().is_some()), "it does not end");
        self.child.wait().unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a signal to the process of this number.
pub fn send(pid: u64, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), signal).unwrap();
}

/// The processes of the daemons.
#[must_use]
pub fn pids(ready: &Value) -> Vec<u64> {
    ready["nodes"].as_array().unwrap().iter().map(|node| node["pid"].as_u64().unwrap()).collect()
}

/// Panics if a process of these is still there after a while.
pub fn assert_gone(pids: &[u64]) {
    // One that nobody has waited for yet has ended, too. Its state follows its name, in parentheses (proc(5)).
    let is_there = |pid: u64| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
    };
    assert!(wait_until(LIFE_LIMIT, || !pids.iter().any(|&pid| is_there(pid))), "daemons were left behind");
}

/// The socket of the first daemon.
#[must_use]
pub fn socket(ready: &Value) -> PathBuf {
    PathBuf::from(ready["socket"].as_str().unwrap())
}

/// A client of the daemon at `socket`.
#[must_use]
pub fn client(socket: &Path) -> Client {
    Client::connect(ConnectOptions::at(socket)).unwrap()
}

/// Output as text.
#[must_use]
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A port that is free, and that the kernel gives to nobody who asks for any.
#[must_use]
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let low = 20_000 + (std::process::id() % 6_000) as u16 * 2;
    loop {
        let port = low + NEXT.fetch_add(2, Ordering::Relaxed);
        if UdpSocket::bind(("0.0.0.0", port)).is_ok() && TcpListener::bind(("0.0.0.0", port)).is_ok() {
            return port;
        }
    }
}

impl Site {
    /// A dataset of 100 rows in `parts` parts, called `data`.
    #[must_use]
    pub fn new(parts: u16) -> Self {
        let folder = tempfile::tempdir().unwrap();
        write_dataset(&folder.path().join("data"), 100, parts).unwrap();
        fs::create_dir(folder.path().join("run")).unwrap();
        Self { folder }
    }

    /// A file of the site.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `rudder` with these words, and no variable of a launcher but these.
    pub fn command(&self, words: &[&str], variables: &[(&str, &str)]) -> Command {
        let mut command = Command::new(operator_program().unwrap());
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            if LAUNCHERS.iter().any(|prefix| name.starts_with(prefix)) {
                command.env_remove(name);
            }
        }
        command.args(words).current_dir(self.folder.path()).env("XDG_RUNTIME_DIR", self.path("run"));
        command.envs(variables.iter().copied()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs `rudder` to its end.
    pub fn run(&self, words: &[&str]) -> Output {
        self.command(words, &[]).output().unwrap()
    }

    /// Starts `rudder`, with an input that stays open.
    pub fn start(&self, words: &[&str], variables: &[(&str, &str)]) -> Running {
        let mut child = self.command(words, variables).stdin(Stdio::piped()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Running { child, out }
    }

    /// What is left of all that ran.
    #[must_use]
    pub fn left(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path("run/rudder")).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    /// Certificates of the nodes of a job, in `certs`.
    pub fn certify(&self, nodes: &str) {
        let output = self.run(&["certs", "init", "--out", "certs", "--json"]);
        assert!(output.status.success(), "{output:?}");
        let output = self.run(&["certs", "issue", "--authority", "certs", "--nodes", nodes, "--json"]);
        assert!(output.status.success(), "{output:?}");
    }
}
