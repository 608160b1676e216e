//! `rudder doctor`: looks at a node as the daemon would find it, and says of each finding how to mend it. Owns the order of the
//! checks and the exit status; what is good and what is bad is said by the modules below. It must change nothing.

mod certificates;
mod machine;
mod node;
mod peers;

use super::finding::{Finding, Verdict, counted, listed, worst};
use super::{CliError, style};
use crate::config::{Config, ConfigError, Layers};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Where the configuration is, unless it is said.
const CONFIG: &str = "/etc/rudder/rudderd.toml";

/// Arguments of `rudder doctor`.
#[derive(Debug, clap::Args)]
pub struct DoctorArgs {
    /// Configuration of the daemon; by default /etc/rudder/rudderd.toml, if it is there. Variables RUDDER_SECTION__KEY count, too
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Leave the other nodes alone
    #[arg(long)]
    offline: bool,
    /// Print the findings as JSON
    #[arg(long)]
    json: bool,
}

/// Checks the node.
///
/// # Errors
/// When there is a problem, after all findings were printed.
pub fn run(args: &DoctorArgs) -> Result<(), CliError> {
    let mut found = Vec::new();
    if let Some(config) = configuration(args.config.as_deref(), &mut found) {
        check(&config, args.offline, &mut found);
    }
    let uid = rustix::process::getuid().as_raw();
    if args.json {
        style::print_json(&json!({"worst": worst(&found), "uid": uid, "findings": found}))?;
    } else {
        style::print(&format!("{}{}, as user {uid} sees it\n", listed(&found), counted(&found)))?;
    }
    match found.iter().filter(|finding| finding.verdict == Verdict::Problem).count() {
        0 => Ok(()),
        problems => Err(CliError::message(format!("{} to mend", style::plural(problems as u64, "problem")))),
    }
}

/// The configuration as the daemon would read it.
fn configuration(path: Option<&Path>, found: &mut Vec<Finding>) -> Option<Config> {
    let path = path.map(Path::to_owned).or_else(|| Some(PathBuf::from(CONFIG)).filter(|path| path.exists()));
    let variables =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.display().to_string())));
    let read = || -> Result<Config, ConfigError> {
        let layers = Layers::new();
        let layers = match &path {
            Some(path) => layers.file(path)?,
            None => layers,
        };
        layers.environment(variables)?.finish()
    };
    match read() {
        Ok(config) => {
            let place = path.map_or_else(|| "the environment alone".to_owned(), |path| path.display().to_string());
            found.push(Finding::ok("configuration", format!("{place}: node {}", config.node.index)));
            Some(config)
        }
        Err(error) => {
            let text = super::error_chain(&error);
            let mend = match &path {
                Some(path) => {
                    format!("correct it; `rudderd --check --config {}` says when it can be used", path.display())
                }
                None => "pass --config FILE".to_owned(),
            };
            found.push(Finding::problem("configuration", text, mend));
            None
        }
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
        found.extend(peers::meet(config, &dataset));
    }
}

/// Whether this node can prove who it is, where anybody asks.
fn identity(config: &Config, alone: bool) -> Vec<Finding> {
    if alone {
        return vec![Finding::ok("certificates", "none is needed: the dataset has one partition, and no peers")];
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    certificates::judge(&certificates::Files::read(&config.peers), &config.peers, config.node.index, now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_that_cannot_be_used_is_one_problem_with_its_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rudderd.toml");
        std::fs::write(&path, "[node]\nindexx = 1\n").unwrap();
        let mut found = Vec::new();
        assert!(configuration(Some(&path), &mut found).is_none());
        assert!(found[0].verdict == Verdict::Problem && found[0].found.contains("indexx"), "{found:?}");
        assert!(found[0].mend.as_ref().unwrap().contains("rudderd --check"), "{found:?}");
    }

    #[test]
    fn the_only_node_needs_no_certificate() {
        let mut config = Config::default();
        config.peers.authority = "/nonexistent/ca.pem".into();
        let alone = identity(&config, true);
        assert_eq!((alone.len(), worst(&alone)), (1, Verdict::Ok));
        assert_eq!(worst(&identity(&config, false)), Verdict::Problem);
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
        let config = configuration(Some(&path), &mut found).unwrap();
        check(&config, false, &mut found);
        let problems: Vec<&str> = found
            .iter()
            .filter(|finding| finding.verdict == Verdict::Problem)
            .map(|finding| finding.check.as_str())
            .collect();
        assert_eq!(problems, ["dataset", "authority", "certificate", "key", "socket"], "{found:?}");
        assert!(found.iter().all(|finding| finding.verdict == Verdict::Ok || finding.mend.is_some()));
    }
}
