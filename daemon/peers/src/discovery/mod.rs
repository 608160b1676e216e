//! `peers.discovery`: the address of each node, taken from what started the cluster instead of a list in the
//! configuration. Owns the kinds there are, their form, and how each becomes `host:port` by node index. It must never
//! resolve a name (dialling does) nor decide who a peer is (its certificate does).

mod file;
mod hosts;

pub use file::parse_addresses;
pub(crate) use file::{AddressFile, is_address};
pub use hosts::expand_hosts;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use rudder_settings::{Invalid, quoted};
use serde::{Deserialize, Serialize};

/// The key that all complaints name.
const KEY: &str = "peers.discovery";

/// What stands for the index of a node in a name.
const NODE: &str = "{node}";

/// Longest name of a host (RFC 1035).
const HOST_BYTES_MAX: usize = 253;

/// Variables that hold the hosts of a Slurm step and of its job, in the order in which they are asked.
const SLURM_VARIABLES: [&str; 2] = ["SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST"];

/// How the addresses of the other nodes are found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Discovery {
    /// They are listed in `peers.addresses`.
    #[default]
    Listed,
    /// By a name that holds the node's index.
    Dns {
        /// The name, with `{node}` in the place of the index.
        host: String,
        /// The UDP port; absent = the port of `peers.listen`.
        port: Option<u16>,
    },
    /// The hosts of the Slurm job, in their order.
    Slurm,
    /// A file with one `index address` per line, which is read again when it changes.
    File(PathBuf),
}

impl fmt::Display for Discovery {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listed => Ok(()),
            Self::Dns { host, port: None } => write!(out, "dns:{host}"),
            Self::Dns { host, port: Some(port) } => write!(out, "dns:{host}:{port}"),
            Self::Slurm => out.write_str("slurm"),
            Self::File(path) => write!(out, "file:{}", path.display()),
        }
    }
}

impl From<Discovery> for String {
    fn from(discovery: Discovery) -> Self {
        discovery.to_string()
    }
}

impl TryFrom<String> for Discovery {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl FromStr for Discovery {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self::Listed);
        }
        match text.split_once(':') {
            None if text == "slurm" => Ok(Self::Slurm),
            Some(("dns", name)) => dns(name),
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(PathBuf::from(path))),
            _ => Err(format!(
                "`{text}` is no discovery: write \"dns:NAME-{NODE}.SERVICE:PORT\", \"slurm\" or \"file:PATH\""
            )),
        }
    }
}

/// `NAME[:PORT]` of a headless service.
fn dns(name: &str) -> Result<Discovery, String> {
    let (host, port) = match name.rsplit_once(':') {
        None => (name, None),
        Some((host, port)) => match port.parse::<u16>() {
            Ok(port) if port > 0 => (host, Some(port)),
            _ => return Err(format!("`{port}` is no port: write a number from 1 to 65535")),
        },
    };
    if !host.contains(NODE) {
        return Err(format!(
            "`{host}` does not say which node is which: write {NODE} where the node's index stands, such as \
             \"dns:rudder-{NODE}.rudder:7400\" for the pods of the StatefulSet rudder behind the headless service rudder"
        ));
    }
    let plain = host.replace(NODE, "0");
    if plain.len() > HOST_BYTES_MAX || !plain.chars().all(hosts::in_a_name) {
        return Err(format!("`{host}` is no name of hosts: letters, digits, `-`, `_`, `.` and {NODE} may stand in it"));
    }
    Ok(Discovery::Dns { host: host.to_owned(), port })
}

impl Discovery {
    /// `host:port` by node index, for `parts` nodes whose peers listen on `port`. Nothing for [`Discovery::Listed`].
    /// `variable` is the environment.
    ///
    /// # Errors
    /// [`Invalid`] for a file that cannot be read, a process outside of a Slurm job, or a wrong number of hosts.
    pub fn addresses(
        &self,
        parts: u16,
        port: u16,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<BTreeMap<u16, String>, Invalid> {
        match self {
            Self::Listed => Ok(BTreeMap::new()),
            Self::Dns { host, port: own } => {
                let port = own.map_or_else(|| self.known(port), Ok)?;
                Ok((0..parts).map(|node| (node, format!("{}:{port}", host.replace(NODE, &node.to_string())))).collect())
            }
            Self::Slurm => {
                let (hosts, port) = (self.slurm(variable)?, self.known(port)?);
                if hosts.len() != usize::from(parts) {
                    let problem = format!("the job has {} nodes, and the dataset {parts} partitions", hosts.len());
                    return self.wrong(
                        &problem,
                        "run on as many nodes as the dataset has partitions, or import it again with --parts",
                    );
                }
                Ok((0..).zip(hosts).map(|(node, host)| (node, format!("{host}:{port}"))).collect())
            }
            Self::File(path) => {
                file::read(path).or_else(|problem| self.wrong(&problem, "write one `index host:port` per line"))
            }
        }
    }

    /// Checks what can be known without the dataset: a file is read, a job's list of hosts is expanded.
    ///
    /// # Errors
    /// As [`Discovery::addresses`].
    pub fn check(&self, variable: &dyn Fn(&str) -> Option<String>) -> Result<(), Invalid> {
        match self {
            Self::Listed | Self::Dns { .. } => Ok(()),
            Self::Slurm => self.slurm(variable).map(drop),
            Self::File(_) => self.addresses(0, 0, variable).map(drop),
        }
    }

    fn slurm(&self, variable: &dyn Fn(&str) -> Option<String>) -> Result<Vec<String>, Invalid> {
        let Some((name, list)) = SLURM_VARIABLES.iter().find_map(|name| Some((name, variable(name)?))) else {
            let problem = "SLURM_JOB_NODELIST is not set: this is no job of Slurm";
            return self.wrong(problem, "start it with srun, or choose another discovery");
        };
        expand_hosts(&list)
            .or_else(|problem| self.wrong(&format!("{name}: {problem}"), "Slurm sets it; leave it alone"))
    }

    /// The port where a discovery names none.
    fn known(&self, port: u16) -> Result<u16, Invalid> {
        if port > 0 {
            return Ok(port);
        }
        let problem = "peers.listen has port 0, a free one, which the other nodes do not know";
        self.wrong(problem, "give peers.listen the same port on all nodes")
    }

    fn wrong<T>(&self, problem: &str, remedy: &str) -> Result<T, Invalid> {
        Err(Invalid { key: KEY.to_owned(), value: quoted(self), problem: format!("{problem}; {remedy}") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nothing(_: &str) -> Option<String> {
        None
    }

    #[test]
    fn every_kind_reads_back_as_it_was_written() {
        for text in ["", "slurm", "dns:rudder-{node}.rudder", "dns:rudder-{node}.rudder.svc:7400", "file:/run/nodes"] {
            assert_eq!(text.parse::<Discovery>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_discovery_says_what_to_write() {
        for (text, words) in [
            ("slrum", "`slrum` is no discovery: write \"dns:NAME-{node}"),
            ("file:", "is no discovery"),
            ("dns:rudder", "`rudder` does not say which node is which: write {node}"),
            ("dns:rudder-{node}:http", "`http` is no port"),
            ("dns:rudder-{node}:0", "`0` is no port"),
            ("dns:rudder {node}", "is no name of hosts"),
            ("dns:{node}{nod}", "is no name of hosts"),
        ] {
            let error = text.parse::<Discovery>().unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn a_headless_service_gives_each_pod_its_name() {
        let dns: Discovery = "dns:rudder-{node}.rudder:7500".parse().unwrap();
        let found = dns.addresses(2, 7400, &nothing).unwrap();
        assert_eq!(found.into_values().collect::<Vec<_>>(), ["rudder-0.rudder:7500", "rudder-1.rudder:7500"]);
        let without: Discovery = "dns:rudder-{node}".parse().unwrap();
        assert_eq!(without.addresses(1, 7400, &nothing).unwrap()[&0], "rudder-0:7400");
        let error = without.addresses(1, 0, &nothing).unwrap_err().to_string();
        assert!(error.starts_with("peers.discovery = \"dns:rudder-{node}\": peers.listen has port 0"), "{error}");
    }

    #[test]
    fn a_job_of_slurm_gives_its_hosts_in_their_order() {
        let job = |name: &str| (name == "SLURM_JOB_NODELIST").then(|| "n[9-10],login".to_owned());
        let found = Discovery::Slurm.addresses(3, 7400, &job).unwrap();
        assert_eq!(found.into_values().collect::<Vec<_>>(), ["n9:7400", "n10:7400", "login:7400"]);
        let error = Discovery::Slurm.addresses(2, 7400, &job).unwrap_err().to_string();
        assert!(error.contains("the job has 3 nodes, and the dataset 2 partitions"), "{error}");
        let error = Discovery::Slurm.check(&nothing).unwrap_err().to_string();
        assert!(error.contains("SLURM_JOB_NODELIST is not set"), "{error}");
        // A step on some of the job's nodes counts these.
        let step = |name: &str| Some(if name == "SLURM_STEP_NODELIST" { "n9" } else { "n[9-10]" }.to_owned());
        assert_eq!(Discovery::Slurm.addresses(1, 7400, &step).unwrap()[&0], "n9:7400");
    }

    #[test]
    fn a_file_that_cannot_be_used_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nodes");
        let file = Discovery::File(path.clone());
        let error = file.check(&nothing).unwrap_err().to_string();
        assert!(error.contains("nodes: No such file"), "{error}");
        std::fs::write(&path, "0 a:7400\n1 b\n").unwrap();
        let error = file.check(&nothing).unwrap_err().to_string();
        assert!(error.contains("nodes:2: `b` is not host:port"), "{error}");
        std::fs::write(&path, "1 b:7400\n0 = \"a:7400\"\n").unwrap();
        assert_eq!(file.addresses(2, 0, &nothing).unwrap().into_values().collect::<Vec<_>>(), ["a:7400", "b:7400"]);
    }
}
