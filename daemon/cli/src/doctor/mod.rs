//! `rudder doctor`: looks at a node as the daemon would find it, and says of each finding how to mend it. Owns the
//! order of the checks and the exit status; the modules below decide what is good and what is bad. It must change
//! nothing.

mod certificates;
mod environment;
mod machine;
mod node;
mod peers;

use super::finding::{Finding, Severity, counted, listed, worst};
use super::{CliError, style};
use rudder_daemon::config::{Config, ConfigError, Layers};
use serde_json::json;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Where the package puts the configuration.
const CONFIG: &str = "/etc/rudder/rudderd.toml";
/// What the package's unit has systemd put into the daemon's environment: the number of the node, above all.
const ENVIRONMENT_FILE: &str = "/etc/default/rudder";

/// Arguments of `rudder doctor`.
#[derive(Debug, clap::Args)]
pub struct DoctorArgs {
    /// Configuration of the daemon; by default /etc/rudder/rudderd.toml, if it is there. Variables RUDDER_SECTION__KEY
    /// count, too
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Variables that systemd gives the daemon (`EnvironmentFile=` of its unit); those of this shell win. By default
    /// /etc/default/rudder, if it is there and the configuration is the default one
    #[arg(long, value_name = "FILE")]
    environment_file: Option<PathBuf>,
    /// Do not contact the other nodes
    #[arg(long)]
    offline: bool,
    /// Print the findings as JSON
    #[arg(long)]
    json: bool,
}

/// Checks the node.
///
/// # Errors
/// If there is a problem, after all findings were printed.
pub fn run(args: &DoctorArgs) -> Result<(), CliError> {
    let mut found = Vec::new();
    if let Some(config) = configuration(args, &mut found) {
        check(&config, args.offline, &mut found);
    }
    let uid = rustix::process::getuid().as_raw();
    if args.json {
        style::print_json(&json!({"worst": worst(&found), "uid": uid, "findings": found}))?;
    } else {
        style::print(&format!("{}{}, as user {uid} sees it\n", listed(&found), counted(&found)))?;
    }
    match found.iter().filter(|finding| finding.verdict == Severity::Problem).count() {
        0 => Ok(()),
        problems => Err(CliError::message(format!("{} to mend", style::plural(problems as u64, "problem")))),
    }
}

/// The configuration as the daemon would read it.
fn configuration(args: &DoctorArgs, found: &mut Vec<Finding>) -> Option<Config> {
    let there = |path: &str| Some(PathBuf::from(path)).filter(|path| path.exists());
    let path = args.config.clone().or_else(|| there(CONFIG));
    let packaged = path.as_deref() == Some(Path::new(CONFIG));
    let file = args.environment_file.clone().or_else(|| there(ENVIRONMENT_FILE).filter(|_| packaged));
    let file = file.and_then(|file| Some((variables_of(&file, found)?, file)));
    let of_shell =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.display().to_string())));
    let read = || -> Result<Config, (Option<&Path>, ConfigError)> {
        let mut layers = Layers::new();
        if let Some(path) = &path {
            layers = layers.file(path).map_err(|error| (None, error))?;
        }
        if let Some((variables, file)) = &file {
            layers = layers.environment(variables.clone()).map_err(|error| (Some(file.as_path()), error))?;
        }
        layers.environment(of_shell).and_then(Layers::finish).map_err(|error| (None, error))
    };
    match read() {
        Ok(config) => {
            let place = path.map_or_else(|| "the environment alone".to_owned(), |path| path.display().to_string());
            let more = file.map_or_else(String::new, |(_, file)| format!(" with {}", file.display()));
            found.push(Finding::ok("configuration", format!("{place}{more}: node {}", config.node.index())));
            Some(config)
        }
        Err((file, error)) => {
            found.push(unusable(path.as_deref(), file, &error));
            None
        }
    }
}

/// The variables of a file for systemd; nothing but a finding if it cannot be read.
fn variables_of(file: &Path, found: &mut Vec<Finding>) -> Option<Vec<(String, String)>> {
    let name = "environment";
    match std::fs::read_to_string(file) {
        Ok(text) => Some(environment::variables(&text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mend = "correct --environment-file, or leave it out";
            found.push(Finding::problem(name, format!("{}: {error}", file.display()), mend));
            None
        }
        Err(error) => {
            let said = format!(
                "{}: {error}; systemd gives it to the daemon, so what follows may be of another node",
                file.display()
            );
            found.push(Finding::warning(name, said, "run this as a user who may read it"));
            None
        }
    }
}

/// A configuration that the daemon would refuse; `file` is the one for systemd, where that is at fault.
fn unusable(path: Option<&Path>, file: Option<&Path>, error: &ConfigError) -> Finding {
    let text = rudder_telemetry::error_chain(error);
    match (path, file) {
        (_, Some(file)) => {
            let mend = format!("correct {}, then systemctl restart rudderd", file.display());
            Finding::problem("configuration", format!("{}: {text}", file.display()), mend)
        }
        (Some(path), None) => {
            let mend = format!("correct it; `rudderd --check --config {}` says when it can be used", path.display());
            Finding::problem("configuration", text, mend)
        }
        (None, None) => Finding::problem("configuration", text, "pass --config FILE"),
    }
}

fn check(config: &Config, offline: bool, found: &mut Vec<Finding>) {
    let pid = node::daemon_pid(&config.local.socket);
    let running = pid.is_some();
    let dataset = node::dataset(config, found);
    // The only node of a dataset talks to nobody.
    let alone = dataset.as_ref().is_some_and(|dataset| dataset.parts() == 1);
    found.extend(identity(config, alone));
    // Of a daemon of another user the kernel may not tell; then what holds here is the best guess.
    if let Some(process) = machine::Process::read(pid).or_else(|| machine::Process::read(None)) {
        found.extend(machine::limits(&process, config));
        if !alone {
            found.push(machine::buffers(machine::socket_limits(), &process, config));
        }
    }
    let pages = Path::new("/sys/kernel/mm/transparent_hugepage");
    let word = |name: &str| machine::chosen(&pages.join(name));
    found.push(machine::large_pages(word("enabled").as_deref(), word("shmem_enabled").as_deref()));
    let sizes = dataset.as_ref().map(|dataset| node::sizes(config, dataset)).unwrap_or_default();
    found.push(machine::memory(machine::memory_reading(config), config, &sizes, running));
    found.push(node::socket(&config.local.socket, running));
    found.push(node::admin(config));
    if running {
        found.push(node::as_trainer(&config.local.socket));
        found.extend(node::daemon(config));
    } else {
        found.extend(node::ports(config, alone));
        found.push(Finding::ok("daemon", "none runs on this node"));
    }
    if let Some(dataset) = dataset.filter(|_| !offline) {
        found.extend(peers::check_peers(config, &dataset));
    }
}

/// Whether this node can prove its identity, where it has peers.
fn identity(config: &Config, alone: bool) -> Vec<Finding> {
    if alone {
        return vec![Finding::ok("certificates", "none is needed: the dataset has one partition, and no peers")];
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    certificates::judge(&certificates::Files::read(&config.peers), &config.peers, config.node.index(), now)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(config: &Path, environment_file: Option<&Path>) -> DoctorArgs {
        let environment_file = environment_file.map(Path::to_owned);
        DoctorArgs { config: Some(config.to_owned()), environment_file, offline: true, json: false }
    }

    #[test]
    fn the_number_of_the_node_comes_from_the_file_that_systemd_reads() {
        let dir = tempfile::tempdir().unwrap();
        let (path, file) = (dir.path().join("rudderd.toml"), dir.path().join("rudder"));
        std::fs::write(&path, "[node]\nindex = 0\n[dataset]\npath = \"/d\"\n").unwrap();
        std::fs::write(&file, "# of node 2\nRUDDER_NODE__INDEX=2\nRUDDER_DATASET__PATH='/data/a b'\nHOME=/x\n")
            .unwrap();
        let mut found = Vec::new();
        let config = configuration(&args(&path, Some(&file)), &mut found).unwrap();
        assert_eq!((config.node.index(), config.dataset.path.as_path()), (2, Path::new("/data/a b")));
        assert!(found.len() == 1 && found[0].found.ends_with("rudder: node 2"), "{found:?}");
        found.clear();
        assert_eq!(configuration(&args(&path, None), &mut found).unwrap().node.index(), 0, "not for every file");
        std::fs::write(&file, "RUDDER_NODE__INDEX=two\n").unwrap();
        found.clear();
        assert!(configuration(&args(&path, Some(&file)), &mut found).is_none());
        let said = format!("{}: ", file.display());
        assert!(found[0].verdict == Severity::Problem && found[0].found.starts_with(&said), "{found:?}");
    }

    #[test]
    fn a_file_for_systemd_that_cannot_be_read_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rudderd.toml");
        std::fs::write(&path, "[node]\nindex = 0\n[dataset]\npath = \"/d\"\n").unwrap();
        // A folder, which nobody can read as a file: not even root, who runs these tests in places.
        for (file, verdict) in
            [(dir.path().join("absent"), Severity::Problem), (dir.path().to_owned(), Severity::Warning)]
        {
            let mut found = Vec::new();
            assert!(configuration(&args(&path, Some(&file)), &mut found).is_some());
            let told = found[0].found.contains(&file.display().to_string());
            assert!(found.len() == 2 && found[0].verdict == verdict && told, "{found:?}");
        }
    }

    #[test]
    fn a_configuration_that_cannot_be_used_is_one_problem_with_its_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rudderd.toml");
        std::fs::write(&path, "[node]\nindexx = 1\n").unwrap();
        let mut found = Vec::new();
        assert!(configuration(&args(&path, None), &mut found).is_none());
        assert!(found[0].verdict == Severity::Problem && found[0].found.contains("indexx"), "{found:?}");
        assert!(found[0].mend.as_ref().unwrap().contains("rudderd --check"), "{found:?}");
    }

    #[test]
    fn the_only_node_needs_no_certificate() {
        let mut config = Config::default();
        config.peers.authority = "/nonexistent/ca.pem".into();
        let alone = identity(&config, true);
        assert_eq!((alone.len(), worst(&alone)), (1, Severity::Ok));
        assert_eq!(worst(&identity(&config, false)), Severity::Problem);
    }

    #[test]
    fn a_node_without_anything_has_a_problem_of_each_kind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rudderd.toml");
        let nowhere = dir.path().join("nowhere");
        let text = format!(
            "[node]\nindex = 1\n[dataset]\npath = \"{0}\"\n[local]\nsocket = \"{0}/s\"\n[peers]\nauthority = \"{0}/ca\"\n\
             certificate = \"{0}/c\"\nkey = \"{0}/k\"\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n",
            nowhere.display()
        );
        std::fs::write(&path, text).unwrap();
        let mut found = Vec::new();
        let config = configuration(&args(&path, None), &mut found).unwrap();
        check(&config, false, &mut found);
        let problems: Vec<&str> = found
            .iter()
            .filter(|finding| finding.verdict == Severity::Problem)
            .map(|finding| finding.check.as_str())
            .collect();
        assert_eq!(problems, ["dataset", "authority", "certificate", "key", "socket"], "{found:?}");
        assert!(found.iter().all(|finding| finding.verdict == Severity::Ok || finding.mend.is_some()));
    }
}
