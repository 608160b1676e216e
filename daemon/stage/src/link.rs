//! Owns the shaped links of `--link`: a network namespace per daemon, joined by a bridge, each end limited by a token
//! bucket. Must never touch an interface or namespace that it did not make, nor give the bridge an address: the host's
//! routes stay.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::error::StageError;
use crate::say::Say;
use crate::stage::Stage;
use crate::undo::{Undo, command, ip, namespace_path};

/// Prefix of the namespaces' names; the process number and the node follow.
const NAMESPACE: &str = "rudder-demo-";

/// Speed of a link in each direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkSpeed {
    /// 1 Gbit/s.
    Gbit1,
    /// 100 Mbit/s.
    Mbit100,
}

impl FromStr for LinkSpeed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "1gbit" => Ok(Self::Gbit1),
            "100mbit" => Ok(Self::Mbit100),
            _ => Err(format!("unknown link `{text}`: use `1gbit` or `100mbit`")),
        }
    }
}

impl LinkSpeed {
    /// For people.
    pub fn description(self) -> &'static str {
        match self {
            Self::Gbit1 => "over links of 1 Gbit/s",
            Self::Mbit100 => "over links of 100 Mbit/s",
        }
    }

    /// As `tc` writes it.
    fn rate(self) -> &'static str {
        match self {
            Self::Gbit1 => "1gbit",
            Self::Mbit100 => "100mbit",
        }
    }

    /// Bucket of 0.4 ms. A larger one would let every minibatch begin with a burst above the link's speed: with 70 kB
    /// at 100 Mbit/s, the 116 kB of a step crossed in less than half of their time.
    fn burst_bytes(self) -> &'static str {
        match self {
            Self::Gbit1 => "50000",
            Self::Mbit100 => "5000",
        }
    }
}

/// One daemon's end.
#[derive(Clone, Debug)]
pub struct Port {
    /// File that names the namespace.
    pub namespace: PathBuf,
    /// Address of the daemon in it.
    pub address: Ipv4Addr,
}

/// Makes a bridge and `nodes` (at most 200) namespaces on it, remembered on `stage`.
///
/// # Errors
/// [`StageError::Link`] where the machine does not allow it.
pub fn connect(stage: &Stage, nodes: u16, speed: LinkSpeed) -> Result<Vec<Port>, StageError> {
    let pid = std::process::id();
    sweep(stage.say());
    let bridge = bridge_name(pid);
    stage.link(Undo::Interface(bridge.clone()), || {
        ip(&["link", "add", &bridge, "type", "bridge"])?;
        ip(&["link", "set", &bridge, "up"])
    })?;
    (0..nodes).map(|node| attach(stage, node, &bridge, speed)).collect()
}

/// Takes down what a demo left that was killed before it could.
fn sweep(say: Say) {
    let entries = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
    for name in entries.filter_map(|entry| entry.file_name().into_string().ok()) {
        let Some((pid, _)) = name.strip_prefix(NAMESPACE).and_then(|rest| rest.split_once('-')) else { continue };
        if pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists() {
            Undo::Interface(bridge_name(pid)).run(say);
            Undo::Namespace(name.clone()).run(say);
        }
    }
}

/// Interface names hold 15 characters: `rd`, up to 7 of the process number, a letter, up to 3 of the node.
fn bridge_name(pid: impl std::fmt::Display) -> String {
    format!("rd{pid}b")
}

fn attach(stage: &Stage, node: u16, bridge: &str, speed: LinkSpeed) -> Result<Port, StageError> {
    let pid = std::process::id();
    let (namespace, outside) = (format!("{NAMESPACE}{pid}-{node}"), format!("rd{pid}n{node}"));
    let address = Ipv4Addr::new(10, 77, 0, node as u8 + 1);
    stage.link(Undo::Namespace(namespace.clone()), || ip(&["netns", "add", &namespace]))?;
    stage.link(Undo::Interface(outside.clone()), || {
        ip(&["link", "add", &outside, "type", "veth", "peer", "name", "eth0", "netns", &namespace])?;
        ip(&["link", "set", &outside, "master", bridge, "up"])?;
        ip(&["-n", &namespace, "address", "add", &format!("{address}/24"), "dev", "eth0"])?;
        ip(&["-n", &namespace, "link", "set", "eth0", "up"])?;
        ip(&["-n", &namespace, "link", "set", "lo", "up"])?;
        // What leaves the daemon, and what reaches it: a full-duplex link of that speed.
        shape(&["-n", &namespace], "eth0", speed)?;
        shape(&[], &outside, speed)
    })?;
    Ok(Port { namespace: namespace_path(&namespace), address })
}

fn shape(prefix: &[&str], device: &str, speed: LinkSpeed) -> Result<(), StageError> {
    let args = ["qdisc", "add", "dev", device, "root", "tbf", "rate", speed.rate(), "burst", speed.burst_bytes()];
    let queue = ["latency", "20ms"];
    command("tc", prefix.iter().chain(&args).chain(&queue).copied())
}

/// Moves the calling thread into a namespace.
///
/// # Errors
/// [`StageError::File`] where it is gone or may not be entered.
pub fn enter(namespace: &Path) -> Result<(), StageError> {
    use std::os::fd::AsFd;
    let file = std::fs::File::open(namespace).map_err(StageError::file("open the network namespace", namespace))?;
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
        .map_err(|error| StageError::file("enter the network namespace", namespace)(error.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speeds_are_parsed_and_refused() {
        assert_eq!("1gbit".parse(), Ok(LinkSpeed::Gbit1));
        assert_eq!("100mbit".parse(), Ok(LinkSpeed::Mbit100));
        assert!("10gbit".parse::<LinkSpeed>().unwrap_err().contains("10gbit"));
    }
}
